/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/ioapic.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_pc.h"
#include "x86/ioapic.h"
#include "x86/lapic.h"
#include "x86/platform.h"

static struct vm vm;
static struct vcpu vcpu;
static struct ioapic *io;
static unsigned messages;
static uint64_t last_addr;
static uint32_t last_data;

void lapic_msi(struct vm *v, uint64_t addr, uint32_t data)
{
    assert_ptr_equal(v, &vm);
    messages++;
    last_addr = addr;
    last_data = data;
}

static uint32_t rd(uint8_t reg)
{
    bus_write(&vm.mmio, MMIO_IOAPIC, 4, reg);
    return (uint32_t)bus_read(&vm.mmio, MMIO_IOAPIC + 0x10, 4);
}

static void wr(uint8_t reg, uint32_t val)
{
    bus_write(&vm.mmio, MMIO_IOAPIC, 4, reg);
    bus_write(&vm.mmio, MMIO_IOAPIC + 0x10, 4, val);
}

/* As Linux's ioapic_write_entry: high word first. */
static void entry(unsigned pin, uint64_t val)
{
    wr((uint8_t)(0x11 + 2 * pin), (uint32_t)(val >> 32));
    wr((uint8_t)(0x10 + 2 * pin), (uint32_t)val);
}

static void line(unsigned pin, bool level)
{
    irq_set(ioapic_pin(io, pin), level);
}

static int setup(void **state)
{
    fake_vm_init(&vm, &vcpu, 1);
    messages = 0;
    assert_int_equal(ioapic_new(&io, &vm, NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    ioapic_free(io);
    return 0;
}

static void test_registers(void **state)
{
    assert_int_equal(rd(1), 0x00170020);
    assert_int_equal(rd(0), 0);
    wr(0, 0xff000000);
    assert_int_equal(rd(0), 0x0f000000);
    assert_int_equal(rd(2), 0x0f000000);
    wr(1, 0);
    assert_int_equal(rd(1), 0x00170020);
    for (uint8_t pin = 0; pin < IOAPIC_PINS; pin++) {
        assert_int_equal(rd((uint8_t)(0x10 + 2 * pin)), 0x10000);
        assert_int_equal(rd((uint8_t)(0x11 + 2 * pin)), 0);
    }
    wr(0x10, 0xffffffff);
    wr(0x11, 0xffffffff);
    assert_int_equal(rd(0x10), 0x0001afff); /* status and remote IRR are not the guest's */
    assert_int_equal(rd(0x11), 0xff000000);
    assert_int_equal(rd(0x10 + 2 * IOAPIC_PINS), 0);
    assert_int_equal(rd(0x0f), 0);
    wr(0x10 + 2 * IOAPIC_PINS, 1);
    wr(0xff, 1);
}

static void test_edge(void **state)
{
    entry(4, 2ull << 56 | 0x31);
    line(4, true);
    assert_int_equal(messages, 1);
    assert_int_equal(last_addr, 0xfee02000);
    assert_int_equal(last_data, 0x31);
    line(4, true);
    assert_int_equal(messages, 1);
    line(4, false);
    line(4, true);
    assert_int_equal(messages, 2);
    /* masked: lost */
    entry(4, 0x10031);
    line(4, false);
    line(4, true);
    entry(4, 0x31);
    assert_int_equal(messages, 2);
}

static void test_message_format(void **state)
{
    entry(5, 0x0full << 56 | 1 << 11 | 1 << 8 | 0x41);
    line(5, true);
    assert_int_equal(last_addr, 0xfee0f004);
    assert_int_equal(last_data, 0x141);
    entry(6, 4 << 8); /* NMI */
    line(6, true);
    assert_int_equal(last_data, 0x400);
    entry(7, 7 << 8 | 1 << 15); /* ExtINT is never a level */
    line(7, true);
    assert_int_equal(last_data, 0x700);
    assert_int_equal(rd(0x10 + 14) & 1 << 14, 0);
}

static void test_level(void **state)
{
    entry(9, 0x8061);
    line(9, true);
    assert_int_equal(messages, 1);
    assert_int_equal(last_data, 0xc061);
    assert_int_equal(rd(0x10 + 18), 0xc061);
    line(9, false);
    line(9, true);
    assert_int_equal(messages, 1); /* remote IRR holds it back */
    ioapic_eoi(io, 0x62);          /* somebody else's */
    assert_int_equal(messages, 1);
    ioapic_eoi(io, 0x61);
    assert_int_equal(messages, 2); /* still high: again */
    line(9, false);
    ioapic_eoi(io, 0x61);
    assert_int_equal(messages, 2);
    assert_int_equal(rd(0x10 + 18), 0x8061);
}

static void test_level_masked(void **state)
{
    entry(9, 0x18061);
    line(9, true);
    assert_int_equal(messages, 0);
    entry(9, 0x8061); /* unmasked while high */
    assert_int_equal(messages, 1);
    entry(9, 0x18061);
    ioapic_eoi(io, 0x61);
    assert_int_equal(messages, 1);
    entry(9, 0x8061);
    assert_int_equal(messages, 2);
}

static void test_switch_to_edge_clears_remote_irr(void **state)
{
    entry(9, 0x8061);
    line(9, true);
    line(9, false);
    wr(0x10 + 18, 0x10061);
    assert_int_equal(rd(0x10 + 18), 0x10061);
    wr(0x10 + 18, 0x8061);
    line(9, true);
    assert_int_equal(messages, 2);
}

static void test_eoi_register(void **state)
{
    entry(9, 0x8061);
    line(9, true);
    line(9, false);
    bus_write(&vm.mmio, MMIO_IOAPIC + 0x40, 4, 0x61);
    assert_int_equal(rd(0x10 + 18), 0x8061);
}

static void test_odd_accesses(void **state)
{
    bus_write(&vm.mmio, MMIO_IOAPIC, 1, 1);
    assert_int_equal(bus_read(&vm.mmio, MMIO_IOAPIC, 4), 1);
    assert_int_equal(bus_read(&vm.mmio, MMIO_IOAPIC + 0x12, 1), 0x17);
    assert_int_equal(bus_read(&vm.mmio, MMIO_IOAPIC + 0x10, 2), 0x20);
    bus_write(&vm.mmio, MMIO_IOAPIC, 4, 0x10);
    bus_write(&vm.mmio, MMIO_IOAPIC + 0x10, 2, 0);
    assert_int_equal(rd(0x10), 0x10000);
    assert_int_equal(bus_read(&vm.mmio, MMIO_IOAPIC + 0x800, 4), 0);
    assert_null(ioapic_pin(io, IOAPIC_PINS).ops);
}

static void test_reset(void **state)
{
    entry(9, 0x8061);
    line(9, true);
    ioapic_reset(io);
    assert_int_equal(rd(0x10 + 18), 0x10000);
    entry(9, 0x8061); /* the line is still high */
    assert_int_equal(messages, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_edge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_message_format, setup, teardown),
        cmocka_unit_test_setup_teardown(test_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_level_masked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_switch_to_edge_clears_remote_irr, setup, teardown),
        cmocka_unit_test_setup_teardown(test_eoi_register, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_accesses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
