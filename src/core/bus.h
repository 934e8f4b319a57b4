/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Address decoding for one space (port I/O or memory-mapped I/O): a sorted
 * table of regions. Regions are added while the machine is assembled, before
 * any vCPU runs; look-ups afterwards take no lock.
 */
#ifndef LODGE_CORE_BUS_H
#define LODGE_CORE_BUS_H

#include "base/err.h"
#include "base/types.h"

/*
 * Handlers run on a vCPU thread with no lock held; a device locks itself.
 * `off` is relative to the region, `size` is 1, 2, 4 or 8 and lies in
 * [min, max]: the bus splits larger accesses and widens smaller reads.
 * Return 0, or -1 when the device does not answer (reads then give all ones).
 */
struct region_ops {
    int (*read)(void *opaque, uint64_t off, unsigned size, uint64_t *val);
    int (*write)(void *opaque, uint64_t off, unsigned size, uint64_t val);
    uint8_t min, max;
};

#define BUS_MAX_REGIONS 64

struct bus_region {
    uint64_t base, size;
    const struct region_ops *ops;
    void *opaque;
    const char *name;
};

struct bus {
    struct bus_region regions[BUS_MAX_REGIONS];
    unsigned count;
};

/* Add a region. -EEXIST when it overlaps another, -ENOSPC when the table is full; the bus is unchanged then. */
int bus_map(struct bus *bus, uint64_t base, uint64_t size, const struct region_ops *ops,
            void *opaque, const char *name, struct err *err);

/* Remove every region whose handlers got `opaque`; while no vCPU runs. */
void bus_unmap(struct bus *bus, const void *opaque);

/* Access of `size` 1, 2, 4 or 8 bytes. An address nobody claims reads as all ones and swallows writes. */
uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size);
void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t val);

/* The same for one region, which need not be on a bus; [off, off+size) lies in it. For buses behind this one. */
uint64_t bus_region_read(const struct bus_region *r, uint64_t off, unsigned size);
void bus_region_write(const struct bus_region *r, uint64_t off, unsigned size, uint64_t val);

#endif
