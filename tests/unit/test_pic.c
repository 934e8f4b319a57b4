/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/pic.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_pc.h"
#include "x86/pic.h"
#include "x86/platform.h"

static struct vm vm;
static struct vcpu vcpu;
static struct pic *pic;
static struct fake_line out;

static void outb(uint16_t port, uint8_t val)
{
    bus_write(&vm.pio, port, 1, val);
}

static uint8_t inb(uint16_t port)
{
    return (uint8_t)bus_read(&vm.pio, port, 1);
}

static void line(unsigned n, bool level)
{
    irq_set(pic_pin(pic, n), level);
}

static int setup(void **state)
{
    fake_vm_init(&vm, &vcpu, 1);
    memset(&out, 0, sizeof(out));
    assert_int_equal(pic_new(&pic, &vm, NULL), 0);
    pic_connect(pic, fake_irq(&out));
    return 0;
}

static int teardown(void **state)
{
    pic_free(pic);
    return 0;
}

/* As Linux's init_8259A does it: vectors 0x30 and 0x38. */
static void init(uint8_t icw4)
{
    outb(0x21, 0xff);
    outb(0x20, 0x11);
    outb(0x21, 0x30);
    outb(0x21, 0x04);
    outb(0x21, icw4);
    outb(0xa0, 0x11);
    outb(0xa1, 0x38);
    outb(0xa1, 0x02);
    outb(0xa1, 0x01);
    outb(0x21, 0x00);
    outb(0xa1, 0x00);
}

static void test_probe(void **state)
{
    /* Linux's probe_8259A: the mask register of the master must be readable. */
    outb(0xa1, 0xff);
    outb(0x21, 0xfb);
    assert_int_equal(inb(0x21), 0xfb);
    assert_int_equal(inb(0xa1), 0xff);
}

static void test_quiet_before_init(void **state)
{
    line(0, true);
    line(9, true);
    assert_false(out.level);
}

static void test_edge(void **state)
{
    init(1);
    line(4, true);
    assert_true(out.level);
    assert_int_equal(inb(0x20), 0x10);
    assert_int_equal(pic_ack(pic), 0x34);
    assert_false(out.level);
    outb(0x20, 0x0b); /* read ISR */
    assert_int_equal(inb(0x20), 0x10);
    outb(0x20, 0x20);
    assert_int_equal(inb(0x20), 0);
    assert_false(out.level); /* the line is still high: no new edge */
    line(4, false);
    line(4, true);
    assert_true(out.level);
}

static void test_pulse_is_latched(void **state)
{
    init(1);
    outb(0x21, 0x01);
    irq_pulse(pic_pin(pic, 0));
    assert_false(out.level);
    outb(0x21, 0x00);
    assert_true(out.level);
    assert_int_equal(pic_ack(pic), 0x30);
}

static void test_priority(void **state)
{
    init(1);
    line(5, true);
    assert_int_equal(pic_ack(pic), 0x35);
    line(6, true);
    assert_false(out.level); /* lower than the one in service */
    line(3, true);
    assert_true(out.level);
    assert_int_equal(pic_ack(pic), 0x33);
    outb(0x20, 0x20); /* ends 3, the highest */
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0x20);
    outb(0x20, 0x65); /* specific: 5 */
    assert_int_equal(pic_ack(pic), 0x36);
}

static void test_cascade(void **state)
{
    init(1);
    line(8, true);
    line(12, true);
    assert_int_equal(pic_ack(pic), 0x38);
    /* The slave's 12 waits for both EOIs, without a new edge at its input. */
    assert_false(out.level);
    outb(0xa0, 0x60);
    outb(0x20, 0x62);
    assert_true(out.level);
    assert_int_equal(pic_ack(pic), 0x3c);
    outb(0xa0, 0x64);
    outb(0x20, 0x62);
    assert_false(out.level);
}

static void test_nested_slave(void **state)
{
    init(0x11); /* special fully nested mode on the master */
    line(12, true);
    assert_int_equal(pic_ack(pic), 0x3c);
    line(9, true);
    assert_true(out.level);
    assert_int_equal(pic_ack(pic), 0x39);
}

static void test_level(void **state)
{
    init(1);
    outb(0x4d1, 0xff);
    assert_int_equal(inb(0x4d1), 0xde);
    outb(0x4d0, 0xff);
    assert_int_equal(inb(0x4d0), 0xf8);
    line(9, true);
    assert_int_equal(pic_ack(pic), 0x39);
    outb(0xa0, 0x61);
    outb(0x20, 0x62);
    assert_true(out.level); /* not served: again */
    line(9, false);
    assert_false(out.level);
}

static void test_spurious(void **state)
{
    init(1);
    assert_int_equal(pic_ack(pic), 0x37);
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0);
    /* A level of the slave that goes away between the two INTA cycles is its IR7. */
    outb(0x4d1, 0x02);
    line(9, true);
    outb(0x20, 0x0a);
    assert_int_equal(inb(0x20), 0x04);
    line(9, false);
    assert_int_equal(pic_ack(pic), 0x37);
}

static void test_auto_eoi(void **state)
{
    init(3);
    line(1, true);
    assert_int_equal(pic_ack(pic), 0x31);
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0);
    outb(0x20, 0x80); /* rotate in automatic EOI mode */
    line(1, false);
    line(1, true);
    assert_int_equal(pic_ack(pic), 0x31);
    line(0, true);
    line(3, true);
    assert_int_equal(pic_ack(pic), 0x33); /* 1 has the lowest priority, 2 the highest */
    assert_int_equal(pic_ack(pic), 0x30);
}

static void test_rotation(void **state)
{
    init(1);
    line(2 + 1, true);
    assert_int_equal(pic_ack(pic), 0x33);
    outb(0x20, 0xa0); /* rotate on non-specific EOI */
    line(0, true);
    line(4, true);
    assert_int_equal(pic_ack(pic), 0x34);
    outb(0x20, 0xe4); /* rotate on specific EOI */
    assert_int_equal(pic_ack(pic), 0x30);
    outb(0x20, 0x60);
    outb(0x20, 0xc0); /* set priority: 0 lowest, 1 highest */
    line(0, false);
    line(0, true);
    line(1, true);
    assert_int_equal(pic_ack(pic), 0x31);
}

static void test_special_mask(void **state)
{
    init(1);
    line(3, true);
    assert_int_equal(pic_ack(pic), 0x33);
    line(5, true);
    assert_false(out.level);
    outb(0x21, 0x08);
    assert_false(out.level);
    outb(0x20, 0x68); /* masked inputs in service don't hold back lower ones */
    assert_true(out.level);
    assert_int_equal(pic_ack(pic), 0x35);
    outb(0x20, 0x20); /* non-specific EOI passes over the masked one */
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0x08);
    outb(0x20, 0x48);
}

static void test_poll(void **state)
{
    init(1);
    outb(0x20, 0x0c);
    assert_int_equal(inb(0x20), 0);
    line(6, true);
    outb(0x20, 0x0c);
    assert_int_equal(inb(0x20), 0x86);
    assert_false(out.level);
    outb(0x20, 0x0b);
    assert_int_equal(inb(0x20), 0x40);
}

static void test_reset(void **state)
{
    init(1);
    line(4, true);
    assert_true(out.level);
    pic_reset(pic);
    assert_false(out.level);
    assert_int_equal(inb(0x21), 0xff);
}

static void test_pins(void **state)
{
    assert_null(pic_pin(pic, 2).ops);
    assert_null(pic_pin(pic, 16).ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_quiet_before_init, setup, teardown),
        cmocka_unit_test_setup_teardown(test_edge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pulse_is_latched, setup, teardown),
        cmocka_unit_test_setup_teardown(test_priority, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cascade, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nested_slave, setup, teardown),
        cmocka_unit_test_setup_teardown(test_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_spurious, setup, teardown),
        cmocka_unit_test_setup_teardown(test_auto_eoi, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rotation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_special_mask, setup, teardown),
        cmocka_unit_test_setup_teardown(test_poll, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pins, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
