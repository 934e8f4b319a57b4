/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/bus.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static uint64_t all_ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

/* Index of the first region that ends after `addr`, or count. */
static unsigned bus_lower_bound(const struct bus *bus, uint64_t addr)
{
    unsigned lo = 0, hi = bus->count;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        const struct bus_region *r = &bus->regions[mid];

        if (r->base + (r->size - 1) < addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int bus_map(struct bus *bus, uint64_t base, uint64_t size, const struct region_ops *ops,
            void *opaque, const char *name, struct err *err)
{
    unsigned at;

    if (size == 0 || base + (size - 1) < base || !ops || !ops->min || ops->min > ops->max ||
        ops->max > 8)
        return err_set(err, -EINVAL, "device '%s' asks for an impossible address range", name);
    at = bus_lower_bound(bus, base);
    if (at < bus->count && bus->regions[at].base <= base + (size - 1))
        return err_set(err, -EEXIST,
                       "device '%s' at 0x%" PRIx64 " (0x%" PRIx64
                       " bytes) overlaps '%s' at 0x%" PRIx64,
                       name, base, size, bus->regions[at].name, bus->regions[at].base);
    if (bus->count == BUS_MAX_REGIONS)
        return err_set(err, -ENOSPC, "no room for device '%s': all %d bus regions are in use", name,
                       BUS_MAX_REGIONS);

    memmove(&bus->regions[at + 1], &bus->regions[at], (bus->count - at) * sizeof(bus->regions[0]));
    bus->regions[at] = (struct bus_region){base, size, ops, opaque, name};
    bus->count++;
    return 0;
}

void bus_unmap(struct bus *bus, const void *opaque)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < bus->count; i++)
        if (bus->regions[i].opaque != opaque)
            bus->regions[kept++] = bus->regions[i];
    bus->count = kept;
}

enum bus_hit { BUS_NONE, BUS_WHOLE, BUS_PART };

/* Does [addr, addr+size) lie in one region (then *r), touch some, or none? */
static enum bus_hit bus_find(const struct bus *bus, uint64_t addr, unsigned size,
                             const struct bus_region **r)
{
    uint64_t last = addr + (size - 1);
    unsigned i = bus_lower_bound(bus, addr);

    if (last < addr)
        return BUS_PART;
    if (i == bus->count || bus->regions[i].base > last)
        return BUS_NONE;
    *r = &bus->regions[i];
    if ((*r)->base <= addr && last - (*r)->base < (*r)->size)
        return BUS_WHOLE;
    return BUS_PART;
}

uint64_t bus_region_read(const struct bus_region *r, uint64_t off, unsigned size)
{
    const struct region_ops *ops = r->ops;
    unsigned width = size, shift = 0;
    uint64_t val = 0;

    if (size < ops->min) {
        shift = off & (ops->min - 1u);
        width = ops->min;
    }
    if (size > ops->max || shift + size > width) {
        unsigned half = size / 2;

        return bus_region_read(r, off, half) | bus_region_read(r, off + half, half) << (8 * half);
    }
    if (!ops->read || ops->read(r->opaque, off - shift, width, &val) < 0)
        return all_ones(size);
    return (val >> (8 * shift)) & all_ones(size);
}

/* A write narrower than the device's registers would need a read with its side effects: it is dropped. */
void bus_region_write(const struct bus_region *r, uint64_t off, unsigned size, uint64_t val)
{
    const struct region_ops *ops = r->ops;

    if (size > ops->max) {
        unsigned half = size / 2;

        bus_region_write(r, off, half, val & all_ones(half));
        bus_region_write(r, off + half, half, val >> (8 * half));
        return;
    }
    if (size >= ops->min && ops->write)
        ops->write(r->opaque, off, size, val & all_ones(size));
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size)
{
    const struct bus_region *r = NULL;
    unsigned half = size / 2;

    switch (bus_find(bus, addr, size, &r)) {
    case BUS_WHOLE:
        return bus_region_read(r, addr - r->base, size);
    case BUS_PART:
        return bus_read(bus, addr, half) | bus_read(bus, addr + half, half) << (8 * half);
    default:
        return all_ones(size);
    }
}

void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t val)
{
    const struct bus_region *r = NULL;
    unsigned half = size / 2;

    switch (bus_find(bus, addr, size, &r)) {
    case BUS_WHOLE:
        bus_region_write(r, addr - r->base, size, val);
        break;
    case BUS_PART:
        bus_write(bus, addr, half, val & all_ones(half));
        bus_write(bus, addr + half, half, val >> (8 * half));
        break;
    default:
        break;
    }
}
