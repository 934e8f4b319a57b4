/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/pit.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_pc.h"
#include "x86/pit.h"
#include "x86/platform.h"

#define HZ 1193182ull

static struct vm vm;
static struct vcpu vcpu;
static struct pit *pit;
static struct fake_line irq0;

static void outb(uint16_t port, uint8_t val)
{
    bus_write(&vm.pio, port, 1, val);
}

static uint8_t inb(uint16_t port)
{
    return (uint8_t)bus_read(&vm.pio, port, 1);
}

static uint16_t in16(uint16_t port)
{
    uint8_t low = inb(port);

    return (uint16_t)(inb(port) << 8 | low);
}

static void load(unsigned ch, uint8_t control, uint16_t count)
{
    outb(0x43, control);
    outb((uint16_t)(0x40 + ch), (uint8_t)count);
    outb((uint16_t)(0x40 + ch), (uint8_t)(count >> 8));
}

static void ticks(uint64_t n)
{
    fake_advance(&vm.clock, (n * 1000000000 + HZ - 1) / HZ);
}

static bool out2(void)
{
    return inb(0x61) & 0x20;
}

static int setup(void **state)
{
    fake_vm_init(&vm, &vcpu, 1);
    memset(&irq0, 0, sizeof(irq0));
    assert_int_equal(pit_new(&pit, &vm, fake_irq(&irq0), NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    pit_free(pit);
    return 0;
}

static void test_quiet_after_reset(void **state)
{
    assert_null(vm.clock.armed);
    fake_advance(&vm.clock, 1000000000);
    assert_int_equal(irq0.rises, 0);
}

/* Linux's pit_set_periodic at HZ=250 */
static void test_periodic(void **state)
{
    load(0, 0x34, 4773);
    fake_advance(&vm.clock, 1000000000);
    assert_in_range(irq0.rises, 249, 250);
    load(0, 0x30, 0); /* pit_shutdown: mode 0, once after 65536 ticks */
    irq0.rises = 0;
    fake_advance(&vm.clock, 1000000000);
    assert_int_equal(irq0.rises, 1);
    assert_null(vm.clock.armed);
}

/* pit_next_event: mode 4, one strobe for each count written */
static void test_oneshot(void **state)
{
    outb(0x43, 0x38);
    for (unsigned i = 1; i <= 3; i++) {
        outb(0x40, 1000 & 0xff);
        outb(0x40, 1000 >> 8);
        ticks(900);
        assert_int_equal(irq0.rises, i - 1);
        ticks(102);
        assert_int_equal(irq0.rises, i);
        ticks(5000);
        assert_int_equal(irq0.rises, i);
    }
}

/* Linux's pit_calibrate_tsc: channel 2 in mode 0, gate and output at port 0x61 */
static void test_calibrate(void **state)
{
    outb(0x61, (inb(0x61) & ~0x02) | 0x01);
    load(2, 0xb0, 11932);
    assert_false(out2());
    ticks(11930);
    assert_false(out2());
    ticks(3);
    assert_true(out2());
    assert_null(vm.clock.armed); /* no timer for that */
}

/* quick_pit_calibrate: counting down from 0xffff, low and high byte in turn */
static void test_quick_calibrate(void **state)
{
    outb(0x61, 0x01);
    load(2, 0xb0, 0xffff);
    assert_int_equal(in16(0x42), 0xffff);
    ticks(0x100);
    assert_int_equal(in16(0x42) >> 8, 0xfe);
    ticks(0x2000);
    assert_int_equal(in16(0x42) >> 8, 0xde);
    ticks(0x10000); /* goes on through zero */
    assert_in_range(in16(0x42), 0xdef0, 0xdeff);
}

static void test_gate_pauses(void **state)
{
    uint16_t count;

    outb(0x61, 0x01);
    load(2, 0xb0, 1000);
    ticks(100);
    outb(0x61, 0x00);
    count = in16(0x42);
    assert_in_range(count, 899, 900);
    ticks(5000);
    assert_int_equal(in16(0x42), count);
    assert_false(out2());
    outb(0x61, 0x01);
    ticks(901);
    assert_true(out2());
}

static void test_gate_triggers(void **state)
{
    load(2, 0xb2, 500); /* mode 1 */
    assert_true(out2());
    ticks(1000);
    assert_true(out2());
    outb(0x61, 0x01);
    assert_false(out2());
    ticks(499);
    assert_false(out2());
    outb(0x61, 0x00);
    outb(0x61, 0x01); /* again from the start */
    ticks(400);
    assert_false(out2());
    ticks(101);
    assert_true(out2());
}

static void test_square_wave(void **state)
{
    outb(0x61, 0x01);
    load(2, 0xb6, 1000);
    assert_true(out2());
    ticks(501);
    assert_false(out2());
    ticks(500);
    assert_true(out2());
    ticks(100);
    assert_in_range(in16(0x42), 796, 800); /* counts by two */
    outb(0x61, 0x00);
    assert_true(out2()); /* gate low forces the output high */
}

static void test_rate_new_count(void **state)
{
    outb(0x61, 0x01);
    load(2, 0xb4, 1000);
    ticks(500);
    outb(0x42, 200);
    outb(0x42, 0);
    assert_in_range(in16(0x42), 499, 500); /* the running period ends first */
    outb(0x43, 0xe8);                      /* read back: status of channel 2 */
    assert_int_equal(inb(0x42), 0x80 | 0x40 | 0x34);
    ticks(510);
    assert_in_range(in16(0x42), 185, 195);
    outb(0x43, 0xe8);
    assert_int_equal(inb(0x42) & 0x40, 0);
}

static void test_latch(void **state)
{
    uint16_t first;

    load(0, 0x34, 60000);
    ticks(100);
    outb(0x43, 0x00);
    ticks(100);
    outb(0x43, 0x00); /* ignored until the first one is read */
    first = in16(0x40);
    assert_in_range(first, 59899, 59900);
    assert_in_range(in16(0x40), 59798, 59800);
}

static void test_read_back(void **state)
{
    load(0, 0x34, 1000);
    ticks(10);
    outb(0x43, 0xc2); /* status and count of channel 0 */
    ticks(10);
    assert_int_equal(inb(0x40), 0x80 | 0x34);
    assert_in_range(in16(0x40), 989, 990);
    assert_in_range(in16(0x40), 978, 980);
}

static void test_one_byte_access(void **state)
{
    outb(0x43, 0x14); /* channel 0, low byte, mode 2 */
    outb(0x40, 100);
    assert_int_equal(inb(0x40), 100);
    outb(0x43, 0x24); /* high byte */
    outb(0x40, 2);
    assert_int_equal(inb(0x40), 2);
    ticks(1);
    assert_int_equal(inb(0x40), 1);
}

static void test_bcd(void **state)
{
    load(0, 0x31, 0x1000);
    assert_int_equal(in16(0x40), 0x1000);
    ticks(1);
    assert_int_equal(in16(0x40), 0x0999);
    ticks(1000);
    assert_int_equal(in16(0x40), 0x9999);
}

/* A guest may not make the host run a timer every two microseconds. */
static void test_fast_guest(void **state)
{
    load(0, 0x34, 1);
    assert_in_range(fake_advance(&vm.clock, 100000000), 1, 2100);
    assert_true(irq0.rises > 1000);
}

static void test_port61(void **state)
{
    uint8_t first = inb(0x61);

    fake_advance(&vm.clock, 15085);
    assert_int_equal((inb(0x61) ^ first) & 0x10, 0x10); /* the refresh bit toggles */
    outb(0x61, 0xff);
    assert_int_equal(inb(0x61) & 0xcf, 0x03);
    assert_int_equal(inb(0x43), 0xff);
}

static void test_reset(void **state)
{
    load(0, 0x34, 1000);
    outb(0x61, 3);
    pit_reset(pit);
    assert_null(vm.clock.armed);
    assert_int_equal(inb(0x61) & 3, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_quiet_after_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_oneshot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_calibrate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quick_calibrate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gate_pauses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gate_triggers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_square_wave, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rate_new_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_latch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_byte_access, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bcd, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fast_guest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_port61, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
