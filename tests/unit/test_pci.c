/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/pci/pci.c src/dev/pci/msix.c src/core/bus.c src/base/err.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/pci/pci.h"

#define LOW      0xc0000000ull
#define LOW_SIZE MIB(64)
#define HIGH     GIB(4)

/* Two devices: slots 3 and 5, with a 64-bit BAR 0 of 16 KiB that remembers, and MSI-X of 4 vectors in BAR 2. */
struct fixture {
    struct bus pio, mmio;
    struct pci_bus bus;
    struct pci_device a, b;
    uint32_t reg[2];
    unsigned messages;
    uint64_t addr;
    uint32_t data;
    bool level[2];
    unsigned rises[2];
};

static int reg_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    assert_int_equal(size, 4);
    assert_true(off + size <= KIB(16));
    *val = *(uint32_t *)opaque + off;
    return 0;
}

static int reg_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    *(uint32_t *)opaque = (uint32_t)(val - off);
    return 0;
}

static const struct region_ops reg_ops = {reg_read, reg_write, 4, 4};

static void line_set(void *opaque, unsigned n, bool level)
{
    struct fixture *f = opaque;

    assert_int_not_equal(f->level[n], level);
    f->rises[n] += level;
    f->level[n] = level;
}

static const struct irq_line_ops line_ops = {line_set};

static void message(void *opaque, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;

    f->messages++;
    f->addr = addr;
    f->data = data;
}

static void add_device(struct fixture *f, struct pci_device *dev, unsigned slot, uint32_t *reg)
{
    const struct pci_ident ident = {.vendor = 0x1234,
                                    .device = (uint16_t)slot,
                                    .subsystem_vendor = 0xabcd,
                                    .subsystem = 0xef01,
                                    .revision = 7,
                                    .class = 0x123456,
                                    .intx = true};
    const uint8_t body[3] = {1, 2, 3};

    assert_int_equal(pci_device_init(dev, &f->bus, slot, &ident, NULL, NULL, NULL), 0);
    pci_add_bar(dev, 0, KIB(16), true, &reg_ops, reg);
    pci_add_capability(dev, PCI_CAP_VENDOR, body, sizeof(body));
    pci_msix_init(dev, 2, 4);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct pci_bus_config cfg = {
        .mmio = &f->mmio, .window = {{LOW, LOW_SIZE}, {HIGH, GIB(1)}}, .msi = message, .opaque = f};

    for (unsigned n = 0; n < PCI_LINKS; n++) {
        cfg.link[n] = (struct irq_line){&line_ops, f, n % 2};
        cfg.link_irq[n] = (uint8_t)(10 + n % 2);
    }
    assert_int_equal(pci_bus_init(&f->bus, &cfg, NULL), 0);
    assert_int_equal(bus_map(&f->pio, 0xcf8, 4, &pci_address_ops, &f->bus, "a", NULL), 0);
    assert_int_equal(bus_map(&f->pio, 0xcfc, 4, &pci_data_ops, &f->bus, "d", NULL), 0);
    add_device(f, &f->a, 3, &f->reg[0]);
    add_device(f, &f->b, 5, &f->reg[1]);
    pci_bus_reset(&f->bus);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pci_device_fini(&f->a);
    pci_device_fini(&f->b);
    pci_bus_fini(&f->bus);
    assert_int_equal(f->mmio.count, 0);
    assert_false(f->level[0] || f->level[1]);
    free(f);
    return 0;
}

static uint32_t in(struct fixture *f, unsigned slot, unsigned off, unsigned size)
{
    bus_write(&f->pio, 0xcf8, 4, 0x80000000u | slot << 11 | (off & ~3u));
    return (uint32_t)bus_read(&f->pio, 0xcfc + (off & 3), size);
}

static void out(struct fixture *f, unsigned slot, unsigned off, unsigned size, uint32_t val)
{
    bus_write(&f->pio, 0xcf8, 4, 0x80000000u | slot << 11 | (off & ~3u));
    bus_write(&f->pio, 0xcfc + (off & 3), size, val);
}

static unsigned find_capability(struct fixture *f, unsigned slot, uint8_t id)
{
    unsigned at = in(f, slot, PCI_CAP_LIST, 1);

    assert_true(in(f, slot, PCI_STATUS, 2) & PCI_STATUS_CAPS);
    while (at && in(f, slot, at, 1) != id)
        at = in(f, slot, at + 1, 1);
    return at;
}

static void mechanism_one(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in(f, 3, 0, 4), 0x00031234);
    assert_int_equal(in(f, 5, 2, 2), 5);
    assert_int_equal(in(f, 3, 1, 1), 0x12);
    assert_int_equal(in(f, 3, PCI_REVISION, 4), 0x12345607);
    assert_int_equal(in(f, 3, PCI_SUBSYSTEM, 4), 0xef01abcd);
    assert_int_equal(in(f, 3, PCI_INT_LINE, 2), 0x010b);
    assert_int_equal(in(f, 4, 0, 4), 0xffffffff);
    assert_int_equal(bus_read(&f->pio, 0xcf8, 4), 0x80002000);
    /* Off; another bus; another function. */
    bus_write(&f->pio, 0xcf8, 4, 0x00001800);
    assert_int_equal(bus_read(&f->pio, 0xcfc, 4), 0xffffffff);
    bus_write(&f->pio, 0xcf8, 4, 0x80011800);
    assert_int_equal(bus_read(&f->pio, 0xcfc, 4), 0xffffffff);
    bus_write(&f->pio, 0xcf8, 4, 0x80001900);
    assert_int_equal(bus_read(&f->pio, 0xcfc, 4), 0xffffffff);
    /* Not for smaller accesses. */
    bus_write(&f->pio, 0xcf8, 4, 0x80001800);
    bus_write(&f->pio, 0xcf8, 2, 0);
    bus_write(&f->pio, 0xcfb, 1, 0);
    assert_int_equal(bus_read(&f->pio, 0xcfc, 4), 0x00031234);
    /* Read-only. */
    out(f, 3, 0, 4, 0);
    out(f, 3, PCI_REVISION, 4, 0);
    assert_int_equal(in(f, 3, 0, 4), 0x00031234);
    assert_int_equal(in(f, 3, PCI_REVISION, 4), 0x12345607);
}

/* Memory-mapped: the same, 4 KiB a function. */
static void config_space_in_memory(void **state)
{
    const uint64_t base = 0xf0000000, slot3 = base + (3 << 15);
    struct fixture *f = *state;

    assert_int_equal(bus_map(&f->mmio, base, MIB(1), &pci_config_ops, &f->bus, "config", NULL), 0);
    assert_int_equal(bus_read(&f->mmio, slot3, 4), 0x00031234);
    assert_int_equal(bus_read(&f->mmio, slot3 + 2, 2), 3);
    assert_int_equal(bus_read(&f->mmio, slot3 + 9, 1), 0x56);
    assert_int_equal(bus_read(&f->mmio, base + (5 << 15), 4), 0x00051234);
    assert_int_equal(bus_read(&f->mmio, base + (4 << 15), 4), 0xffffffff);
    assert_int_equal(bus_read(&f->mmio, slot3 + 0x1000, 4), 0xffffffff);
    assert_int_equal(bus_read(&f->mmio, slot3 + 0x100, 4), 0xffffffff);
    assert_int_equal(bus_read(&f->mmio, slot3 + 0xffc, 4), 0xffffffff);
    bus_write(&f->mmio, slot3 + PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    assert_int_equal(pci_config_read(&f->bus, 3, PCI_COMMAND, 2), PCI_COMMAND_MASTER);
    assert_true(pci_is_master(&f->a));
    assert_false(pci_is_master(&f->b));
    bus_write(&f->mmio, slot3 + 0x1000 + PCI_COMMAND, 2, 0);
    bus_write(&f->mmio, slot3 + 0x100 + PCI_COMMAND, 2, 0);
    assert_true(pci_is_master(&f->a));
    bus_write(&f->mmio, slot3 + PCI_INT_LINE, 1, 0x77);
    assert_int_equal(pci_config_read(&f->bus, 3, PCI_INT_LINE, 1), 0x77);
}

static void capabilities(void **state)
{
    struct fixture *f = *state;
    unsigned vendor = find_capability(f, 3, PCI_CAP_VENDOR), msix = find_capability(f, 3, 0x11);

    assert_int_equal(in(f, 3, vendor + 2, 1), 1);
    assert_int_equal(in(f, 3, vendor + 3, 1), 2);
    assert_int_equal(in(f, 3, msix + 2, 2), 3);
    assert_int_equal(in(f, 3, msix + 4, 4), 2);
    assert_int_equal(in(f, 3, msix + 8, 4), 0x802);
    assert_int_equal(find_capability(f, 3, 0x77), 0);
}

static uint64_t bar0(struct fixture *f, unsigned slot)
{
    return (in(f, slot, PCI_BAR0, 4) & ~0xfu) | (uint64_t)in(f, slot, PCI_BAR0 + 4, 4) << 32;
}

static void bars_are_sized_and_placed(void **state)
{
    struct fixture *f = *state;
    uint64_t a = bar0(f, 3), b = bar0(f, 5);
    uint32_t msix = in(f, 3, PCI_BAR0 + 8, 4);

    assert_true(a >= LOW && b >= LOW && a != b && a % KIB(16) == 0 && b % KIB(16) == 0);
    assert_int_equal(in(f, 3, PCI_BAR0, 4) & 0xf, 4);
    assert_int_equal(in(f, 3, PCI_COMMAND, 2), PCI_COMMAND_MEMORY);
    bus_write(&f->mmio, a, 4, 0x1111);
    bus_write(&f->mmio, b + 8, 4, 0x2222);
    assert_int_equal(f->reg[0], 0x1111);
    assert_int_equal(f->reg[1], 0x2222 - 8);
    out(f, 3, PCI_COMMAND, 2, 0);
    assert_int_equal(bus_read(&f->mmio, a, 4), 0xffffffff);
    out(f, 3, PCI_BAR0, 4, 0xffffffff);
    out(f, 3, PCI_BAR0 + 4, 4, 0xffffffff);
    out(f, 3, PCI_BAR0 + 8, 4, 0xffffffff);
    out(f, 3, PCI_BAR0 + 12, 4, 0xffffffff);
    assert_int_equal(in(f, 3, PCI_BAR0, 4), 0xffffc004);
    assert_int_equal(in(f, 3, PCI_BAR0 + 4, 4), 0xffffffff);
    assert_int_equal(in(f, 3, PCI_BAR0 + 8, 4), 0xfffff000);
    assert_int_equal(in(f, 3, PCI_BAR0 + 12, 4), 0);
    pci_bus_reset(&f->bus);
    assert_true(bar0(f, 3) == a && in(f, 3, PCI_BAR0 + 8, 4) == msix);
}

static void bars_move(void **state)
{
    struct fixture *f = *state;
    uint64_t old = bar0(f, 3), at = HIGH + MIB(512);

    f->reg[0] = 5;
    out(f, 3, PCI_BAR0, 4, (uint32_t)at);
    out(f, 3, PCI_BAR0 + 4, 4, (uint32_t)(at >> 32));
    assert_int_equal(bus_read(&f->mmio, old, 4), 0xffffffff);
    assert_int_equal(bus_read(&f->mmio, at + 0x3ffc, 4), 5 + 0x3ffc);
    assert_int_equal(bus_read(&f->mmio, at + 0x4000, 4), 0xffffffff);
    assert_int_equal(bus_read(&f->mmio, at - 4, 4), 0xffffffff);
    /* Halves in and out of it, and wider than its registers. */
    assert_true(bus_read(&f->mmio, at + 8, 8) == (5 + 8 + ((5 + 12ull) << 32)));
    bus_read(&f->mmio, at + 0x3ffc, 8);
    bus_write(&f->mmio, at + 0x3ffe, 4, 0);
    /* Outside the windows nobody answers. */
    out(f, 3, PCI_BAR0 + 4, 4, 0);
    assert_int_equal(bus_read(&f->mmio, (uint32_t)at, 4), 0xffffffff);
    /* Two at one address: one of them answers. */
    out(f, 3, PCI_BAR0, 4, (uint32_t)bar0(f, 5));
    assert_int_equal(bus_read(&f->mmio, bar0(f, 5), 4), 5);
}

static void msix_table(struct fixture *f, uint64_t *table, uint64_t *pending)
{
    *table = in(f, 3, PCI_BAR0 + 8, 4) & ~0xfu;
    *pending = *table + 0x800;
}

static void msix_masks_and_remembers(void **state)
{
    struct fixture *f = *state;
    unsigned cap = find_capability(f, 3, PCI_CAP_MSIX);
    uint64_t table, pending;

    msix_table(f, &table, &pending);
    assert_false(pci_msix_raise(&f->a, 1));
    assert_int_equal(bus_read(&f->mmio, table + 28, 4), 1);
    bus_write(&f->mmio, table + 16, 8, 0xfee01004);
    bus_write(&f->mmio, table + 24, 4, 0x41);
    out(f, 3, cap + 2, 2, 0x8000);
    /* No bus master, then masked by itself, then by the function. */
    assert_true(pci_msix_raise(&f->a, 1));
    out(f, 3, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(f->messages, 0);
    assert_true(bus_read(&f->mmio, pending, 8) == 2);
    out(f, 3, cap + 2, 2, 0xc000);
    bus_write(&f->mmio, table + 28, 4, 0);
    assert_int_equal(f->messages, 0);
    out(f, 3, cap + 2, 2, 0x8000);
    assert_int_equal(f->messages, 1);
    assert_true(f->addr == 0xfee01004 && f->data == 0x41);
    assert_true(bus_read(&f->mmio, pending, 8) == 0);
    assert_true(pci_msix_raise(&f->a, 1));
    assert_int_equal(f->messages, 2);
    /* Many while masked are one. */
    bus_write(&f->mmio, table + 28, 4, 1);
    pci_msix_raise(&f->a, 1);
    pci_msix_raise(&f->a, 1);
    bus_write(&f->mmio, table + 28, 4, 0xfffffffe);
    assert_int_equal(f->messages, 3);
    /* A vector that is not there. */
    assert_true(pci_msix_raise(&f->a, 4));
    assert_int_equal(f->messages, 3);
    bus_write(&f->mmio, table + 64, 4, 0x55);
    assert_int_equal(bus_read(&f->mmio, table + 64, 4), 0);
    pci_bus_reset(&f->bus);
    assert_false(pci_msix_raise(&f->a, 1));
    assert_int_equal(bus_read(&f->mmio, table + 16, 4), 0);
}

static void pins_share_a_line(void **state)
{
    struct fixture *f = *state;
    unsigned cap = find_capability(f, 3, PCI_CAP_MSIX);

    pci_intx_set(&f->a, true); /* links 3 and 1, one line */
    pci_intx_set(&f->b, true);
    assert_int_equal(f->rises[1], 1);
    assert_true(in(f, 3, PCI_STATUS, 2) & PCI_STATUS_INTX);
    pci_intx_set(&f->a, false);
    assert_true(f->level[1]);
    assert_false(in(f, 3, PCI_STATUS, 2) & PCI_STATUS_INTX);
    out(f, 5, PCI_COMMAND, 2, PCI_COMMAND_INTX_OFF);
    assert_false(f->level[1]);
    assert_true(in(f, 5, PCI_STATUS, 2) & PCI_STATUS_INTX);
    out(f, 5, PCI_COMMAND, 2, 0);
    assert_true(f->level[1]);
    pci_intx_set(&f->b, false);
    pci_intx_set(&f->a, true);
    out(f, 3, cap + 2, 2, 0x8000); /* MSI-X in its stead */
    assert_false(f->level[1]);
    assert_int_equal(f->rises[0], 0);
}

static bool special_read(void *opaque, unsigned off, unsigned size, uint32_t *val)
{
    *val = 0x12345678;
    return off == 0x80;
}

static bool special_write(void *opaque, unsigned off, unsigned size, uint32_t val)
{
    *(uint32_t *)opaque = val;
    return off == 0x80;
}

static void a_device_takes_accesses(void **state)
{
    static const struct pci_device_ops ops = {special_read, special_write};
    struct fixture *f = *state;
    const struct pci_ident ident = {.vendor = 1};
    struct pci_device c = {0}, d = {0};
    uint32_t got = 0;
    struct err err;

    assert_int_equal(pci_device_init(&c, &f->bus, 31, &ident, &ops, &got, NULL), 0);
    assert_int_equal(in(f, 31, 0x80, 2), 0x5678);
    assert_int_equal(in(f, 31, 0x84, 2), 0);
    out(f, 31, 0x80, 1, 0x99);
    assert_int_equal(got, 0x99);
    assert_int_equal(pci_device_init(&d, &f->bus, 31, &ident, &ops, &got, &err), -EBUSY);
    assert_int_equal(pci_device_init(&d, &f->bus, 32, &ident, &ops, &got, &err), -EBUSY);
    pci_intx_set(&c, true); /* has no pin */
    assert_int_equal(f->rises[1], 0);
    pci_device_fini(&c);
    pci_device_fini(&d);
    assert_int_equal(in(f, 31, 0, 4), 0xffffffff);
}

struct moves {
    unsigned ons, offs;
    uint64_t base;
};

static void bar_moved(void *opaque, unsigned n, bool on, uint64_t base)
{
    struct moves *m = opaque;

    assert_int_equal(n, 0);
    if (on) {
        assert_int_equal(m->ons, m->offs);
        m->ons++;
        m->base = base;
    } else {
        assert_true(m->base == base);
        m->offs++;
    }
}

/* On and off take turns, and only places in a window count. */
static void a_device_is_told_of_moves(void **state)
{
    static const struct pci_device_ops ops = {.bar_moved = bar_moved};
    struct fixture *f = *state;
    const struct pci_ident ident = {.vendor = 1};
    struct pci_device c = {0};
    struct moves m = {0};

    assert_int_equal(pci_device_init(&c, &f->bus, 31, &ident, &ops, &m, NULL), 0);
    pci_add_bar(&c, 0, KIB(16), true, &reg_ops, &f->reg[0]);
    pci_bus_reset(&f->bus);
    assert_int_equal(m.ons, 1);
    assert_true(m.base == bar0(f, 31));
    out(f, 31, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(m.ons + m.offs, 1);
    out(f, 31, PCI_BAR0, 4, LOW + LOW_SIZE - KIB(16));
    assert_int_equal(m.ons, 2);
    out(f, 31, PCI_BAR0, 4, LOW + LOW_SIZE);
    assert_int_equal(m.ons, 2);
    assert_int_equal(m.offs, 2);
    out(f, 31, PCI_BAR0 + 4, 4, 0xffffffff);
    out(f, 31, PCI_BAR0, 4, (uint32_t)HIGH);
    out(f, 31, PCI_BAR0 + 4, 4, HIGH >> 32);
    assert_true(m.ons == 3 && m.base == HIGH);
    out(f, 31, PCI_COMMAND, 2, 0);
    assert_int_equal(m.offs, 3);
    out(f, 31, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    pci_device_fini(&c);
    assert_true(m.ons == 4 && m.offs == 4);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(mechanism_one),
        CASE(config_space_in_memory),
        CASE(capabilities),
        CASE(bars_are_sized_and_placed),
        CASE(bars_move),
        CASE(msix_masks_and_remembers),
        CASE(pins_share_a_line),
        CASE(a_device_takes_accesses),
        CASE(a_device_is_told_of_moves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
