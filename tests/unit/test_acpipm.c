/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/acpipm.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_pc.h"
#include "x86/acpipm.h"
#include "x86/chips.h"
#include "x86/platform.h"

#define EVT_STS PIO_PM1A_EVT
#define EVT_EN  (PIO_PM1A_EVT + 2)

static struct vm vm;
static struct vcpu vcpu;
static struct acpipm *pm;
static struct fake_line sci;

static void out(uint16_t port, unsigned size, uint32_t val)
{
    bus_write(&vm.pio, port, size, val);
}

static uint32_t in(uint16_t port, unsigned size)
{
    return (uint32_t)bus_read(&vm.pio, port, size);
}

static int setup(void **state)
{
    fake_vm_init(&vm, &vcpu, 1);
    memset(&sci, 0, sizeof(sci));
    assert_int_equal(acpipm_new(&pm, &vm, fake_irq(&sci), NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    acpipm_free(pm);
    return 0;
}

static void test_power_button(void **state)
{
    acpipm_power_button(pm);
    assert_int_equal(in(EVT_STS, 2), 0x100);
    assert_false(sci.level);
    out(EVT_EN, 2, 0x100);
    assert_true(sci.level);
    out(EVT_STS, 2, 0x001); /* other bits leave it */
    assert_true(sci.level);
    out(EVT_STS, 2, 0x100);
    assert_false(sci.level);
    assert_int_equal(in(EVT_STS, 4), 0x100 << 16);
}

static void test_generation(void **state)
{
    struct acpipm_state saved;

    acpipm_generation(pm);
    assert_int_equal(in(PIO_GPE0, 2), 1);
    assert_false(sci.level);
    out(PIO_GPE0 + 1, 1, 0xff); /* there is one event */
    assert_int_equal(in(PIO_GPE0, 2), 0x101);
    assert_true(sci.level);
    acpipm_save(pm, &saved);
    out(PIO_GPE0, 1, 0xfe); /* other bits leave it */
    assert_true(sci.level);
    out(PIO_GPE0, 1, 1);
    assert_false(sci.level);
    assert_int_equal(in(PIO_GPE0, 2), 0x100);
    out(PIO_GPE0, 2, 0x0001);
    assert_int_equal(in(PIO_GPE0, 2), 0);
    acpipm_load(pm, &saved);
    assert_true(sci.level);
    assert_int_equal(in(PIO_GPE0, 2), 0x101);
    acpipm_reset(pm);
    assert_false(sci.level);
    assert_int_equal(in(PIO_GPE0, 2), 0);
}

static void test_event_bytes(void **state)
{
    acpipm_power_button(pm);
    out(EVT_EN + 1, 1, 0x01);
    assert_int_equal(in(EVT_EN, 2), 0x100);
    assert_int_equal(in(EVT_STS + 1, 1), 0x01);
    out(EVT_STS + 1, 1, 0x01);
    assert_int_equal(in(EVT_STS, 2), 0);
    out(EVT_EN, 2, 0xffff);
    assert_int_equal(in(EVT_EN, 2), 0x721);
}

static void test_sci_enable_reads_one(void **state)
{
    assert_int_equal(in(PIO_PM1A_CNT, 2) & 1, 1);
    out(PIO_PM1A_CNT, 2, 0);
    assert_int_equal(in(PIO_PM1A_CNT, 2) & 1, 1);
    assert_int_equal(vm.requests, 0);
}

static void test_power_off(void **state)
{
    /* As ACPICA: first the type, then the type with SLP_EN. */
    out(PIO_PM1A_CNT, 2, ACPI_S5_SLP_TYP << 10 | 1);
    assert_int_equal(vm.requests, 0);
    out(PIO_PM1A_CNT, 2, ACPI_S5_SLP_TYP << 10 | 1 << 13 | 1);
    assert_int_equal(vm.requests, VM_REQ_POWEROFF);
    assert_int_equal(in(PIO_PM1A_CNT, 2) & 1 << 13, 0);
}

static void test_other_sleep(void **state)
{
    out(PIO_PM1A_CNT, 2, 1 << 10 | 1 << 13);
    assert_int_equal(vm.requests, 0);
}

static void test_timer(void **state)
{
    uint32_t start = in(PIO_PM_TMR, 4);

    fake_advance(&vm.clock, 1000000000);
    assert_int_equal(in(PIO_PM_TMR, 4) - start, 3579545);
    assert_int_equal(in(PIO_PM_TMR + 1, 1), in(PIO_PM_TMR, 4) >> 8 & 0xff);
    out(PIO_PM_TMR, 4, 0);
    assert_int_equal(in(PIO_PM_TMR, 4) - start, 3579545);
}

static void test_timer_overflow(void **state)
{
    uint64_t half_turn = (uint64_t)((1ull << 31) * 1e9 / 3579545) + 1;

    assert_null(vm.clock.armed); /* nothing to interrupt: no host timer */
    out(EVT_EN, 2, 1);
    assert_non_null(vm.clock.armed);
    fake_advance(&vm.clock, half_turn);
    assert_true(sci.level);
    assert_int_equal(in(EVT_STS, 2), 1);
    assert_null(vm.clock.armed);
    out(EVT_STS, 2, 1);
    assert_false(sci.level);
    assert_non_null(vm.clock.armed);
    /* Without the interrupt the status still shows. */
    out(EVT_EN, 2, 0);
    fake_advance(&vm.clock, half_turn);
    assert_int_equal(in(EVT_STS, 2), 1);
    assert_false(sci.level);
}

static void test_reset_register(void **state)
{
    out(PIO_RESET, 1, 0x02);
    assert_int_equal(vm.requests, 0);
    assert_int_equal(in(PIO_RESET, 1), 0x02);
    /* A search for PCI by its configuration address is no reset. */
    out(PIO_RESET - 1, 4, 0x80000400 | RESET_VALUE << 8);
    out(PIO_RESET, 2, 0x0606);
    out(PIO_RESET + 2, 1, RESET_VALUE);
    assert_int_equal(vm.requests, 0);
    assert_int_equal(in(PIO_RESET - 1, 4), 0xffffffff);
    assert_int_equal(in(PIO_RESET, 1), 0x02);
    out(PIO_RESET, 1, RESET_VALUE);
    assert_int_equal(vm.requests, VM_REQ_RESET);
}

static void test_keyboard_reset(void **state)
{
    assert_int_equal(in(PIO_PS2_STATUS, 1), 0xff);
    out(PIO_PS2_STATUS, 1, 0xd1);
    assert_int_equal(vm.requests, 0);
    out(PIO_PS2_STATUS, 1, 0xfe);
    assert_int_equal(vm.requests, VM_REQ_RESET);
}

static void test_reset(void **state)
{
    out(EVT_EN, 2, 0x101);
    acpipm_power_button(pm);
    assert_true(sci.level);
    acpipm_reset(pm);
    assert_false(sci.level);
    assert_int_equal(in(EVT_STS, 4), 0);
    assert_null(vm.clock.armed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_power_button, setup, teardown),
        cmocka_unit_test_setup_teardown(test_generation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_event_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sci_enable_reads_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_power_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_sleep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timer_overflow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset_register, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keyboard_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
