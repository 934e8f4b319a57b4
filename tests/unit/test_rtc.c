/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/rtc.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "fake_pc.h"
#include "x86/platform.h"
#include "x86/rtc.h"

#define SECOND 1000000000ull
#define START  1000000000ll /* 2001-09-09 01:46:40, a Sunday, when guest time is 1 s */

static struct vm vm;
static struct vcpu vcpu;
static struct rtc *rtc;
static struct fake_line irq8;
static int64_t host_step; /* somebody set the host's clock */

/* The host's wall clock moves with the guest's. Comes before the C library's. */
int clock_gettime(clockid_t id, struct timespec *ts)
{
    int64_t ns = (int64_t)vm.clock.epoch_ns;

    ts->tv_sec = START + host_step + ns / (int64_t)SECOND - 1;
    ts->tv_nsec = ns % (int64_t)SECOND;
    return 0;
}

static uint8_t rd(uint8_t reg)
{
    bus_write(&vm.pio, PIO_RTC, 1, reg);
    return (uint8_t)bus_read(&vm.pio, PIO_RTC + 1, 1);
}

static void wr(uint8_t reg, uint8_t val)
{
    bus_write(&vm.pio, PIO_RTC, 1, reg | 0x80); /* NMI mask: no matter */
    bus_write(&vm.pio, PIO_RTC + 1, 1, val);
}

static void assert_time(unsigned hour, unsigned min, unsigned sec)
{
    assert_int_equal(rd(4), hour);
    assert_int_equal(rd(2), min);
    assert_int_equal(rd(0), sec);
}

static int setup(void **state)
{
    fake_vm_init(&vm, &vcpu, 1);
    memset(&irq8, 0, sizeof(irq8));
    host_step = 0;
    assert_int_equal(rtc_new(&rtc, &vm, fake_irq(&irq8), NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    rtc_free(rtc);
    return 0;
}

static void test_host_time(void **state)
{
    assert_time(0x01, 0x46, 0x40);
    assert_int_equal(rd(6), 1);
    assert_int_equal(rd(7), 0x09);
    assert_int_equal(rd(8), 0x09);
    assert_int_equal(rd(9), 0x01);
    assert_int_equal(rd(0x32), 0x20);
    assert_int_equal(rd(13), 0x80);
    assert_int_equal(rd(10), 0x26);
    assert_int_equal(rd(11), 0x02);
    assert_int_equal(bus_read(&vm.pio, PIO_RTC, 1), 0xff);
    fake_advance(&vm.clock, 20 * SECOND);
    assert_time(0x01, 0x47, 0x00);
    assert_null(vm.clock.armed); /* a clock nobody listens to needs no timer */
}

static void test_formats(void **state)
{
    wr(11, 0x06); /* binary */
    assert_time(1, 46, 40);
    assert_int_equal(rd(0x32), 20);
    fake_advance(&vm.clock, 12 * 3600 * SECOND);
    assert_time(13, 46, 40);
    wr(11, 0x04); /* 12 hours */
    assert_time(0x81, 46, 40);
    wr(11, 0x00);
    assert_time(0x81, 0x46, 0x40);
    fake_advance(&vm.clock, 11 * 3600 * SECOND);
    assert_int_equal(rd(4), 0x12); /* midnight */
    fake_advance(&vm.clock, 12 * 3600 * SECOND);
    assert_int_equal(rd(4), 0x92);
}

/* Linux's mc146818_set_time */
static void test_set(void **state)
{
    wr(11, rd(11) | 0x80);
    wr(10, rd(10) | 0x70);
    wr(9, 0x24);
    wr(8, 0x02);
    wr(7, 0x28);
    wr(4, 0x23);
    wr(2, 0x59);
    wr(0, 0x58);
    fake_advance(&vm.clock, 10 * SECOND); /* stopped */
    assert_time(0x23, 0x59, 0x58);
    wr(11, rd(11) & 0x7f);
    wr(10, 0x26);
    assert_time(0x23, 0x59, 0x58);
    fake_advance(&vm.clock, 2 * SECOND);
    assert_time(0, 0, 0);
    assert_int_equal(rd(7), 0x29);
    assert_int_equal(rd(8), 0x02);
    rtc_reset(rtc);
    assert_int_equal(rd(9), 0x24); /* on battery */
}

static void test_set_running(void **state)
{
    fake_advance(&vm.clock, SECOND / 2);
    wr(2, 0x10);
    assert_time(0x01, 0x10, 0x40);
    fake_advance(&vm.clock, SECOND / 2);
    assert_time(0x01, 0x10, 0x41);
}

static void test_nonsense_time(void **state)
{
    wr(11, 0x82);
    for (uint8_t reg = 0; reg < 10; reg++)
        wr(reg, 0xff);
    assert_int_equal(rd(0), 0xff);
    wr(11, 0x02);
    assert_time(0x01, 0x46, 0x40);
    wr(11, 0x86);
    wr(0x32, 255);
    wr(9, 255);
    wr(11, 0x06);
    assert_time(1, 46, 40);
    assert_int_equal(rd(0x32), 20);
}

static void test_uip(void **state)
{
    assert_int_equal(rd(10) & 0x80, 0);
    fake_advance(&vm.clock, SECOND - 100000);
    assert_int_equal(rd(10) & 0x80, 0x80);
    fake_advance(&vm.clock, 100000);
    assert_int_equal(rd(10) & 0x80, 0);
    fake_advance(&vm.clock, SECOND - 100000);
    wr(11, 0x82);
    assert_int_equal(rd(10) & 0x80, 0); /* SET stops updates */
}

static void test_update_interrupt(void **state)
{
    wr(11, 0x12);
    fake_advance(&vm.clock, SECOND - 1);
    assert_false(irq8.level);
    fake_advance(&vm.clock, 1);
    assert_true(irq8.level);
    assert_null(vm.clock.armed); /* until it is taken */
    fake_advance(&vm.clock, 5 * SECOND);
    assert_int_equal(irq8.rises, 1);
    assert_int_equal(rd(12), 0x80 | 0x10 | 0x40);
    assert_false(irq8.level);
    assert_int_equal(rd(12), 0);
    fake_advance(&vm.clock, SECOND);
    assert_int_equal(irq8.rises, 2);
}

static void test_update_flag_without_interrupt(void **state)
{
    rd(12);
    assert_int_equal(rd(12) & 0x10, 0);
    fake_advance(&vm.clock, SECOND);
    assert_int_equal(rd(12) & 0x90, 0x10);
    assert_int_equal(irq8.rises, 0);
}

static void test_alarm(void **state)
{
    wr(1, 0x05);
    wr(3, 0x48);
    wr(5, 0x01);
    wr(11, 0x22);
    fake_advance(&vm.clock, 84 * SECOND);
    assert_false(irq8.level);
    fake_advance(&vm.clock, SECOND); /* 01:48:05 */
    assert_true(irq8.level);
    assert_int_equal(rd(12) & 0xa0, 0xa0);
    fake_advance(&vm.clock, 86399 * SECOND);
    assert_int_equal(irq8.rises, 1);
    fake_advance(&vm.clock, SECOND);
    assert_int_equal(irq8.rises, 2);
}

static void test_alarm_wildcards(void **state)
{
    unsigned n = 0;

    wr(1, 0x30);
    wr(3, 0xff);
    wr(5, 0xc0);
    wr(11, 0x22);
    for (unsigned i = 0; i < 600; i++) {
        fake_advance(&vm.clock, SECOND);
        n += (rd(12) & 0xa0) == 0xa0;
    }
    assert_int_equal(n, 10); /* every minute */
    wr(1, 0x7f);             /* no second has this number: never */
    wr(11, 0x02);
    wr(11, 0x22);
    assert_null(vm.clock.armed);
}

static void test_periodic(void **state)
{
    unsigned n = 0;

    wr(10, 0x26);
    wr(11, 0x42);
    for (unsigned i = 0; i < 4096; i++) {
        fake_advance(&vm.clock, SECOND / 4096 + 1);
        if (irq8.level) {
            n++;
            assert_int_equal(rd(12) & 0xc0, 0xc0);
        }
    }
    assert_in_range(n, 1023, 1025);
    wr(10, 0x20); /* rate 0: none */
    rd(12);
    irq8.rises = 0;
    fake_advance(&vm.clock, SECOND);
    assert_int_equal(irq8.rises, 0);
    wr(10, 0x2f); /* 2 Hz */
    fake_advance(&vm.clock, SECOND / 2);
    assert_int_equal(irq8.rises, 1);
}

static void test_host_clock_steps(void **state)
{
    wr(11, 0x12);
    host_step = -3600;
    fake_advance(&vm.clock, SECOND);
    assert_int_equal(rd(4), 0x00);
    rd(12);
    fake_advance(&vm.clock, SECOND);
    assert_true(irq8.level);
    rd(12);
    host_step = 86400 * 365;
    fake_advance(&vm.clock, SECOND);
    assert_true(irq8.level);
    assert_int_equal(rd(9), 0x02);
}

static void test_cmos(void **state)
{
    for (uint8_t reg = 14; reg < 128; reg++)
        if (reg != 0x32)
            wr(reg, reg ^ 0x5a);
    for (uint8_t reg = 14; reg < 128; reg++)
        if (reg != 0x32)
            assert_int_equal(rd(reg), reg ^ 0x5a);
    wr(12, 0xff);
    wr(13, 0x00);
    assert_int_equal(rd(12), 0);
    assert_int_equal(rd(13), 0x80);
}

static void test_reset(void **state)
{
    wr(11, 0x72);
    fake_advance(&vm.clock, SECOND);
    assert_true(irq8.level);
    rtc_reset(rtc);
    assert_false(irq8.level);
    assert_int_equal(rd(11), 0x02);
    assert_null(vm.clock.armed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_host_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_formats, setup, teardown),
        cmocka_unit_test_setup_teardown(test_set, setup, teardown),
        cmocka_unit_test_setup_teardown(test_set_running, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nonsense_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_uip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_update_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_update_flag_without_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_alarm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_alarm_wildcards, setup, teardown),
        cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
        cmocka_unit_test_setup_teardown(test_host_clock_steps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cmos, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
