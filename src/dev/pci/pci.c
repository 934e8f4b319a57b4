/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/pci/pci.h"

#include <errno.h>
#include <string.h>

#define BAR_MEMORY_64 0x4u
#define BAR_FLAGS     0xfu

#define ADDRESS_ENABLE   0x80000000u
#define ADDRESS_WRITABLE 0x80fffffcu

static uint32_t load(const uint8_t *p, unsigned size)
{
    uint32_t v = 0;

    for (unsigned i = 0; i < size; i++)
        v |= (uint32_t)p[i] << 8 * i;
    return v;
}

static void store(uint8_t *p, unsigned size, uint32_t v)
{
    for (unsigned i = 0; i < size; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t all_ones(unsigned size)
{
    return size >= 4 ? UINT32_MAX : (1u << 8 * size) - 1;
}

/* ---- Interrupt pins ---------------------------------------------------------------- */

/* Does another link to the same line have a device that asserts it? */
static bool line_asserted_locked(const struct pci_bus *bus, unsigned link)
{
    const struct irq_line *l = bus->cfg.link;
    bool level = false;

    for (unsigned i = 0; i < PCI_LINKS; i++)
        if (l[i].ops == l[link].ops && l[i].opaque == l[link].opaque && l[i].n == l[link].n)
            level |= bus->intx[i] != 0;
    return level;
}

static void pin_drive(struct pci_device *dev, bool level)
{
    struct pci_bus *bus = dev->bus;
    unsigned link = dev->slot % PCI_LINKS;
    uint32_t bit = 1u << dev->slot;
    bool before, after;

    pthread_mutex_lock(&bus->intx_lock);
    before = line_asserted_locked(bus, link);
    bus->intx[link] = level ? bus->intx[link] | bit : bus->intx[link] & ~bit;
    after = line_asserted_locked(bus, link);
    if (after != before)
        irq_set(bus->cfg.link[link], after);
    pthread_mutex_unlock(&bus->intx_lock);
}

static void intx_update_locked(struct pci_device *dev)
{
    bool off =
        load(dev->config + PCI_COMMAND, 2) & PCI_COMMAND_INTX_OFF || pci_msix_enabled_locked(dev);

    if (!dev->config[PCI_INT_PIN])
        return;
    if (dev->intx)
        dev->config[PCI_STATUS] |= PCI_STATUS_INTX;
    else
        dev->config[PCI_STATUS] &= ~PCI_STATUS_INTX;
    pin_drive(dev, dev->intx && !off);
}

void pci_intx_set(struct pci_device *dev, bool level)
{
    pthread_mutex_lock(&dev->lock);
    if (dev->intx != level) {
        dev->intx = level;
        intx_update_locked(dev);
    }
    pthread_mutex_unlock(&dev->lock);
}

/* ---- BARs --------------------------------------------------------------------------- */

static uint64_t bar_base(const struct pci_device *dev, unsigned n)
{
    const uint8_t *reg = dev->config + PCI_BAR0 + 4 * n;
    uint64_t base = load(reg, 4) & ~BAR_FLAGS;

    if (dev->bar[n].wide)
        base |= (uint64_t)load(reg + 4, 4) << 32;
    return base;
}

static void bar_place_locked(struct pci_device *dev, unsigned n, uint64_t base)
{
    uint8_t *reg = dev->config + PCI_BAR0 + 4 * n;

    store(reg, 4, (uint32_t)base | (load(reg, 4) & BAR_FLAGS));
    if (dev->bar[n].wide)
        store(reg + 4, 4, (uint32_t)(base >> 32));
}

/* Wholly inside a window? */
static bool bar_is_visible(const struct pci_device *dev, unsigned n)
{
    const struct pci_bus_config *cfg = &dev->bus->cfg;
    uint64_t base = dev->mapped[n].base, size = dev->bar[n].size;
    bool visible = false;

    for (unsigned i = 0; i < PCI_WINDOWS; i++)
        visible |= base >= cfg->window[i].base && size <= cfg->window[i].size &&
                   base - cfg->window[i].base <= cfg->window[i].size - size;
    return visible && dev->mapped[n].on;
}

static void bar_update_locked(struct pci_device *dev, unsigned n, bool on)
{
    uint64_t base = bar_base(dev, n);
    bool tell = dev->ops && dev->ops->bar_moved;

    if (dev->mapped[n].on == on && dev->mapped[n].base == base)
        return;
    if (tell && bar_is_visible(dev, n))
        dev->ops->bar_moved(dev->opaque, n, false, dev->mapped[n].base);
    pthread_rwlock_wrlock(&dev->bus->lock);
    dev->mapped[n].on = on;
    dev->mapped[n].base = base;
    pthread_rwlock_unlock(&dev->bus->lock);
    if (tell && bar_is_visible(dev, n))
        dev->ops->bar_moved(dev->opaque, n, true, base);
}

/* What the configuration says becomes what the windows answer. */
static void bars_update_locked(struct pci_device *dev)
{
    bool on = load(dev->config + PCI_COMMAND, 2) & PCI_COMMAND_MEMORY;

    for (unsigned n = 0; n < PCI_BARS; n++)
        if (dev->bar[n].size)
            bar_update_locked(dev, n, on);
}

void pci_add_bar(struct pci_device *dev, unsigned n, uint64_t size, bool wide,
                 const struct region_ops *ops, void *opaque)
{
    unsigned at = PCI_BAR0 + 4 * n;

    dev->bar[n] = (struct pci_bar){.size = size, .ops = ops, .opaque = opaque, .wide = wide};
    store(dev->writable + at, 4, (uint32_t) ~(size - 1));
    if (wide) {
        store(dev->writable + at + 4, 4, (uint32_t)(~(size - 1) >> 32));
        dev->config[at] |= BAR_MEMORY_64;
    }
}

uint64_t pci_bar_read(struct pci_device *dev, unsigned n, uint64_t off, unsigned size)
{
    const struct pci_bar *b = &dev->bar[n];
    const struct bus_region r = {.size = b->size, .ops = b->ops, .opaque = b->opaque};

    if (off > b->size || size > b->size - off)
        return size >= 8 ? UINT64_MAX : (1ull << 8 * size) - 1;
    return bus_region_read(&r, off, size);
}

void pci_bar_write(struct pci_device *dev, unsigned n, uint64_t off, unsigned size, uint64_t val)
{
    const struct pci_bar *b = &dev->bar[n];
    const struct bus_region r = {.size = b->size, .ops = b->ops, .opaque = b->opaque};

    if (off <= b->size && size <= b->size - off)
        bus_region_write(&r, off, size, val);
}

/*
 * Whose address is this? Devices stay for the machine's life, so what is found
 * can be used after the lock is gone: an access that meets a move of its BAR
 * goes either way, as on a bus.
 */
static struct pci_device *bar_find(struct pci_bus *bus, uint64_t addr, unsigned *n, uint64_t *off)
{
    struct pci_device *found = NULL;

    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned s = 0; s < PCI_SLOTS && !found; s++) {
        struct pci_device *dev = bus->slot[s];

        for (unsigned i = 0; dev && i < PCI_BARS; i++) {
            if (!dev->mapped[i].on || addr - dev->mapped[i].base >= dev->bar[i].size)
                continue;
            *n = i;
            *off = addr - dev->mapped[i].base;
            found = dev;
            break;
        }
    }
    pthread_rwlock_unlock(&bus->lock);
    return found;
}

static int window_read(struct pci_bus *bus, uint64_t addr, unsigned size, uint64_t *val)
{
    uint64_t off;
    unsigned n;
    struct pci_device *dev = bar_find(bus, addr, &n, &off);

    if (!dev)
        return -1;
    *val = pci_bar_read(dev, n, off, size);
    return 0;
}

static int window_write(struct pci_bus *bus, uint64_t addr, unsigned size, uint64_t val)
{
    uint64_t off;
    unsigned n;
    struct pci_device *dev = bar_find(bus, addr, &n, &off);

    if (!dev)
        return -1;
    pci_bar_write(dev, n, off, size, val);
    return 0;
}

static int window0_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pci_bus *bus = opaque;

    return window_read(bus, bus->cfg.window[0].base + off, size, val);
}

static int window0_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_bus *bus = opaque;

    return window_write(bus, bus->cfg.window[0].base + off, size, val);
}

static int window1_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pci_bus *bus = opaque;

    return window_read(bus, bus->cfg.window[1].base + off, size, val);
}

static int window1_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_bus *bus = opaque;

    return window_write(bus, bus->cfg.window[1].base + off, size, val);
}

static const struct region_ops window_ops[PCI_WINDOWS] = {
    {window0_read, window0_write, 1, 8},
    {window1_read, window1_write, 1, 8},
};

/* ---- Configuration space -------------------------------------------------------------- */

static struct pci_device *device_at(const struct pci_bus *bus, unsigned slot)
{
    return slot < PCI_SLOTS ? bus->slot[slot] : NULL;
}

uint32_t pci_config_read(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size)
{
    struct pci_device *dev = device_at(bus, slot);
    uint32_t val;

    if (!dev)
        return all_ones(size);
    if (dev->ops && dev->ops->config_read && dev->ops->config_read(dev->opaque, off, size, &val))
        return val & all_ones(size);
    pthread_mutex_lock(&dev->lock);
    val = load(dev->config + off, size);
    pthread_mutex_unlock(&dev->lock);
    return val;
}

void pci_config_write(struct pci_bus *bus, unsigned slot, unsigned off, unsigned size, uint32_t val)
{
    struct pci_device *dev = device_at(bus, slot);

    if (!dev ||
        (dev->ops && dev->ops->config_write && dev->ops->config_write(dev->opaque, off, size, val)))
        return;
    pthread_mutex_lock(&dev->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = dev->writable[off + i];

        dev->config[off + i] = (uint8_t)((dev->config[off + i] & ~mask) | ((val >> 8 * i) & mask));
    }
    bars_update_locked(dev);
    intx_update_locked(dev);
    pci_msix_changed_locked(dev);
    pthread_mutex_unlock(&dev->lock);
    if (off < PCI_COMMAND + 2 && off + size > PCI_COMMAND && dev->ops && dev->ops->command_written)
        dev->ops->command_written(dev->opaque);
}

bool pci_is_master(struct pci_device *dev)
{
    bool on;

    pthread_mutex_lock(&dev->lock);
    on = load(dev->config + PCI_COMMAND, 2) & PCI_COMMAND_MASTER;
    pthread_mutex_unlock(&dev->lock);
    return on;
}

static int address_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pci_bus *bus = opaque;

    if (off || size != 4)
        return -1;
    pthread_mutex_lock(&bus->address_lock);
    *val = bus->address;
    pthread_mutex_unlock(&bus->address_lock);
    return 0;
}

/* A doubleword or nothing: smaller accesses are for other devices (3.2.2.3.2). */
static int address_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_bus *bus = opaque;

    if (off || size != 4)
        return -1;
    pthread_mutex_lock(&bus->address_lock);
    bus->address = (uint32_t)val & ADDRESS_WRITABLE;
    pthread_mutex_unlock(&bus->address_lock);
    return 0;
}

/* The address of a data access, or false: mechanism off, another bus, another function. */
static bool data_address(struct pci_bus *bus, uint64_t off, unsigned size, unsigned *slot,
                         unsigned *reg)
{
    uint32_t a;

    pthread_mutex_lock(&bus->address_lock);
    a = bus->address;
    pthread_mutex_unlock(&bus->address_lock);
    *slot = a >> 11 & 0x1f;
    *reg = (a & 0xfc) + (unsigned)off;
    return a & ADDRESS_ENABLE && !(a & 0x00ffff00u & ~(0x1fu << 11)) && off + size <= 4;
}

static int data_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    unsigned slot, reg;

    if (!data_address(opaque, off, size, &slot, &reg))
        return -1;
    *val = pci_config_read(opaque, slot, reg, size);
    return 0;
}

static int data_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    unsigned slot, reg;

    if (!data_address(opaque, off, size, &slot, &reg))
        return -1;
    pci_config_write(opaque, slot, reg, size, (uint32_t)val);
    return 0;
}

const struct region_ops pci_address_ops = {address_read, address_write, 1, 4};
const struct region_ops pci_data_ops = {data_read, data_write, 1, 4};

/* 4 KiB for each function, of which our devices have the first 256 bytes. */
static bool config_address(uint64_t off, unsigned size, unsigned *slot, unsigned *reg)
{
    *slot = off >> 15 & 0x1f;
    *reg = off & 0xfff;
    return !(off >> 12 & 7) && off < PCI_SLOTS << 15 && *reg < PCI_CONFIG_SIZE &&
           (*reg & 3) + size <= 4;
}

static int config_space_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    unsigned slot, reg;

    if (!config_address(off, size, &slot, &reg))
        return -1;
    *val = pci_config_read(opaque, slot, reg, size);
    return 0;
}

static int config_space_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    unsigned slot, reg;

    if (!config_address(off, size, &slot, &reg))
        return -1;
    pci_config_write(opaque, slot, reg, size, (uint32_t)val);
    return 0;
}

const struct region_ops pci_config_ops = {config_space_read, config_space_write, 1, 4};

unsigned pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, unsigned len)
{
    unsigned at = dev->free;

    dev->config[at] = id;
    memcpy(dev->config + at + 2, body, len);
    dev->config[dev->last_cap ? dev->last_cap + 1 : PCI_CAP_LIST] = (uint8_t)at;
    dev->config[PCI_STATUS] |= PCI_STATUS_CAPS;
    dev->last_cap = at;
    dev->free = (unsigned)ALIGN_UP(at + 2 + len, 4);
    return at;
}

/* ---- Devices ---------------------------------------------------------------------------- */

int pci_device_init(struct pci_device *dev, struct pci_bus *bus, unsigned slot,
                    const struct pci_ident *ident, const struct pci_device_ops *ops, void *opaque,
                    struct err *err)
{
    uint8_t *c = dev->config;

    if (slot >= PCI_SLOTS || bus->slot[slot])
        return err_set(err, -EBUSY, "PCI slot %u is not free", slot);
    memset(dev, 0, sizeof(*dev));
    dev->bus = bus;
    dev->slot = slot;
    dev->ops = ops;
    dev->opaque = opaque;
    dev->free = PCI_HEADER;
    pthread_mutex_init(&dev->lock, NULL);
    store(c, 2, ident->vendor);
    store(c + 2, 2, ident->device);
    c[PCI_REVISION] = ident->revision;
    store(c + PCI_REVISION + 1, 3, ident->class);
    store(c + PCI_SUBSYSTEM, 2, ident->subsystem_vendor);
    store(c + PCI_SUBSYSTEM + 2, 2, ident->subsystem);
    c[PCI_INT_PIN] = ident->intx;
    store(dev->writable + PCI_COMMAND, 2,
          PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
    dev->writable[PCI_INT_LINE] = ident->intx ? 0xff : 0;
    bus->slot[slot] = dev;
    return 0;
}

void pci_device_fini(struct pci_device *dev)
{
    if (!dev->bus)
        return;
    pci_intx_set(dev, false);
    pthread_mutex_lock(&dev->lock);
    for (unsigned n = 0; n < PCI_BARS; n++)
        if (dev->bar[n].size)
            bar_update_locked(dev, n, false);
    pthread_mutex_unlock(&dev->lock);
    dev->bus->slot[dev->slot] = NULL;
    pthread_mutex_destroy(&dev->lock);
    dev->bus = NULL;
}

static void device_reset(struct pci_device *dev, uint64_t *next, uint64_t end)
{
    pthread_mutex_lock(&dev->lock);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        dev->config[i] &= ~dev->writable[i];
    pci_msix_reset_locked(dev);
    if (dev->config[PCI_INT_PIN])
        dev->config[PCI_INT_LINE] = dev->bus->cfg.link_irq[dev->slot % PCI_LINKS];
    for (unsigned n = 0; n < PCI_BARS; n++) {
        uint64_t base = ALIGN_UP(*next, dev->bar[n].size ? dev->bar[n].size : 1);

        if (!dev->bar[n].size || dev->bar[n].size > end - base)
            continue;
        bar_place_locked(dev, n, base);
        *next = base + dev->bar[n].size;
        dev->config[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
    }
    bars_update_locked(dev);
    intx_update_locked(dev);
    pthread_mutex_unlock(&dev->lock);
}

void pci_bus_reset(struct pci_bus *bus)
{
    uint64_t next = bus->cfg.window[0].base, end = next + bus->cfg.window[0].size;

    bus->address = 0;
    for (unsigned s = 0; s < PCI_SLOTS; s++)
        if (bus->slot[s])
            device_reset(bus->slot[s], &next, end);
}

void pci_device_save(struct pci_device *dev, struct pci_state *s)
{
    memset(s, 0, sizeof(*s));
    pthread_mutex_lock(&dev->lock);
    memcpy(s->config, dev->config, sizeof(s->config));
    pci_msix_save_locked(dev, s);
    pthread_mutex_unlock(&dev->lock);
}

void pci_device_load(struct pci_device *dev, const struct pci_state *s)
{
    pthread_mutex_lock(&dev->lock);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        dev->config[i] =
            (uint8_t)((dev->config[i] & ~dev->writable[i]) | (s->config[i] & dev->writable[i]));
    pci_msix_load_locked(dev, s);
    bars_update_locked(dev);
    intx_update_locked(dev);
    pthread_mutex_unlock(&dev->lock);
    if (dev->ops && dev->ops->command_written)
        dev->ops->command_written(dev->opaque);
}

uint32_t pci_bus_save(struct pci_bus *bus)
{
    uint32_t address;

    pthread_mutex_lock(&bus->address_lock);
    address = bus->address;
    pthread_mutex_unlock(&bus->address_lock);
    return address;
}

void pci_bus_load(struct pci_bus *bus, uint32_t address)
{
    pthread_mutex_lock(&bus->address_lock);
    bus->address = address & ADDRESS_WRITABLE;
    pthread_mutex_unlock(&bus->address_lock);
}

int pci_bus_init(struct pci_bus *bus, const struct pci_bus_config *cfg, struct err *err)
{
    memset(bus, 0, sizeof(*bus));
    bus->cfg = *cfg;
    pthread_rwlock_init(&bus->lock, NULL);
    pthread_mutex_init(&bus->intx_lock, NULL);
    pthread_mutex_init(&bus->address_lock, NULL);
    for (unsigned i = 0; i < PCI_WINDOWS; i++) {
        int code = cfg->window[i].size
                       ? bus_map(cfg->mmio, cfg->window[i].base, cfg->window[i].size,
                                 &window_ops[i], bus, "pci", err)
                       : 0;

        if (code < 0) {
            pci_bus_fini(bus);
            return code;
        }
    }
    return 0;
}

void pci_bus_fini(struct pci_bus *bus)
{
    if (!bus->cfg.mmio)
        return;
    bus_unmap(bus->cfg.mmio, bus);
    pthread_rwlock_destroy(&bus->lock);
    pthread_mutex_destroy(&bus->intx_lock);
    pthread_mutex_destroy(&bus->address_lock);
    bus->cfg.mmio = NULL;
}
