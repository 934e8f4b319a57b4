/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/dev/pci/pci.c src/dev/pci/msix.c src/core/bus.c src/base/err.c */
/*
 * Configuration and memory accesses of any width anywhere, on two devices
 * that raise vectors and pins. A BAR's handler must see offsets inside its BAR
 * only, a message must be one that the table holds, and lines must alternate.
 */
#include <string.h>

#include "dev/pci/pci.h"
#include "fuzz_ops.h"

#define LOW      0xc0000000ull
#define CONFIG   0xfeb00000ull
#define HIGH     GIB(4)
#define BAR_SIZE KIB(16)
#define BIG_SIZE GIB(8)
#define VECTORS  70

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct box {
    struct bus pio, mmio;
    struct pci_bus bus;
    struct pci_device dev[2];
    bool level;
};

static int bar_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    fuzz_check(size >= 2 && size <= 4 && off <= *(uint64_t *)opaque - size);
    *val = off;
    return 0;
}

static int bar_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    fuzz_check(size >= 2 && size <= 4 && off <= *(uint64_t *)opaque - size);
    return 0;
}

static const struct region_ops bar_ops = {bar_read, bar_write, 2, 4};

static void line_set(void *opaque, unsigned n, bool level)
{
    struct box *b = opaque;

    fuzz_check(b->level != level);
    b->level = level;
}

static void message(void *opaque, uint64_t addr, uint32_t val)
{
    struct box *b = opaque;
    bool known = false;

    for (unsigned d = 0; d < 2; d++)
        for (unsigned n = 0; n < VECTORS; n++)
            known |= b->dev[d].msix.entry[n].addr == addr && b->dev[d].msix.entry[n].data == val;
    fuzz_check(known && addr % 4 == 0);
}

static void box_init(struct box *b)
{
    static const struct irq_line_ops line_ops = {line_set};
    static uint64_t sizes[2] = {BAR_SIZE, BIG_SIZE};
    const struct pci_ident ident = {.vendor = 1, .intx = true};
    struct pci_bus_config cfg = {.mmio = &b->mmio,
                                 .window = {{LOW, CONFIG - LOW}, {HIGH, GIB(32)}},
                                 .msi = message,
                                 .opaque = b};

    memset(b, 0, sizeof(*b));
    for (unsigned n = 0; n < PCI_LINKS; n++)
        cfg.link[n] = (struct irq_line){&line_ops, b, 0};
    fuzz_check(!pci_bus_init(&b->bus, &cfg, NULL));
    fuzz_check(!bus_map(&b->pio, 0xcf8, 4, &pci_address_ops, &b->bus, "a", NULL));
    fuzz_check(!bus_map(&b->pio, 0xcfc, 4, &pci_data_ops, &b->bus, "d", NULL));
    fuzz_check(!bus_map(&b->mmio, CONFIG, MIB(1), &pci_config_ops, &b->bus, "c", NULL));
    for (unsigned d = 0; d < 2; d++) {
        fuzz_check(!pci_device_init(&b->dev[d], &b->bus, d, &ident, NULL, NULL, NULL));
        pci_add_bar(&b->dev[d], 0, sizes[d], true, &bar_ops, &sizes[d]);
        pci_msix_init(&b->dev[d], 2, VECTORS);
    }
    pci_bus_reset(&b->bus);
}

static void step(struct box *b, const struct fuzz_op *op)
{
    struct pci_device *dev = &b->dev[op->addr & 1];
    unsigned size = fuzz_size(op->what);
    uint64_t at;

    if (op->what & 8) { /* configuration space in memory, mostly where there is something */
        at = CONFIG + ((uint64_t)(op->addr & 1) << 15) + (op->addr >> 1) + (op->val >> 24 << 12);
        bus_write(&b->mmio, op->addr & 0x80 ? at : at & 0xffffffff80ff, size, op->val & 0xffffff);
        bus_read(&b->mmio, at, size);
        return;
    }
    switch (op->what & 7) {
    case 0:
        bus_write(&b->pio, 0xcf8 + op->addr % 8, size, op->val);
        break;
    case 1:
        bus_read(&b->pio, 0xcf8 + op->addr % 8, size);
        break;
    case 2: /* a register that exists */
        bus_write(&b->pio, 0xcf8, 4, 0x80000000u | (op->addr & 1) << 11 | (op->addr & 0x7c));
        bus_write(&b->pio, 0xcfc, 4, op->val);
        break;
    case 3:
        bus_write(&b->mmio, LOW + ((uint64_t)op->addr << 22) + op->val, size, op->val);
        break;
    case 4: /* where a BAR is said to be */
        at = dev->mapped[op->addr & 2].base + (op->val >> 8) % (KIB(16) + 16) - 8;
        bus_write(&b->mmio, at, size, op->val);
        bus_read(&b->mmio, at, size);
        break;
    case 5:
        pci_msix_raise(dev, op->val % (VECTORS + 2));
        break;
    case 6:
        pci_intx_set(dev, op->val & 1);
        break;
    default:
        if (op->val % 32 == 0)
            pci_bus_reset(&b->bus);
        else
            pci_bar_read(dev, op->addr & 2, op->val, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct box b;
    struct fuzz_op op;

    box_init(&b);
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++)
        step(&b, &op);
    for (unsigned d = 0; d < 2; d++)
        pci_device_fini(&b.dev[d]);
    fuzz_check(!b.level);
    pci_bus_fini(&b.bus);
    fuzz_check(!b.mmio.count);
    return 0;
}
