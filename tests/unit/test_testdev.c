/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/testdev.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "core/ioevent.h"
#include "dev/testdev.h"

struct fixture {
    struct bus pio, mmio;
    struct testdev *dev;
    struct testdev_config cfg;
    uint32_t lines;
    unsigned exits, status;
};

/* What the device has made and not taken back. */
static struct {
    unsigned bells, events, changes;
    struct irqevent last;
    int fail_bell; /* the number of the one that fails, from 1 */
} made;

int ioevent_add(struct vm *vm, const struct ioevent *ev, struct err *err)
{
    if (made.fail_bell && (int)made.bells + 1 == made.fail_bell)
        return -ENOSPC;
    made.bells++;
    return 0;
}

void ioevent_remove(struct vm *vm, const struct ioevent *ev)
{
    made.bells--;
}

int irqevent_add(struct vm *vm, int fd, const struct irqevent *ev, unsigned *id, struct err *err)
{
    *id = made.events++;
    return 0;
}

void irqevent_change(struct vm *vm, unsigned id, const struct irqevent *ev)
{
    made.last = *ev;
    made.changes++;
}

void irqevent_remove(struct vm *vm, unsigned id)
{
    made.events--;
}

static void line_set(void *opaque, unsigned n, bool level)
{
    struct fixture *f = opaque;

    f->lines = level ? f->lines | 1u << n : f->lines & ~(1u << n);
}

static const struct irq_line_ops line_ops = {line_set};

static void on_exit_port(void *opaque, unsigned status)
{
    struct fixture *f = opaque;

    f->exits++;
    f->status = status;
}

static int setup(void **state)
{
    static struct fixture f;

    f = (struct fixture){0};
    memset(&made, 0, sizeof(made));
    f.cfg = (struct testdev_config){
        .pio = &f.pio, .mmio = &f.mmio, .exit = on_exit_port, .opaque = &f, .vm = (struct vm *)&f};
    for (unsigned n = 0; n < TESTDEV_IRQS; n++)
        f.cfg.irq[n] = (struct irq_line){&line_ops, &f, n};
    *state = &f;
    return testdev_new(&f.dev, &f.cfg, NULL);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    testdev_free(f->dev);
    return f->pio.count || f->mmio.count || made.bells || made.events ? -1 : 0;
}

static void test_exit(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, 0xf4, 4, 0);
    assert_int_equal(f->status, 1);
    bus_write(&f->pio, 0xf4, 1, 77);
    assert_int_equal(f->status, 155);
    bus_write(&f->pio, 0xf4, 4, 0xffffffff);
    assert_int_equal(f->status, 0xff);
    assert_int_equal(f->exits, 3);
    assert_int_equal(bus_read(&f->pio, 0xf4, 4), 0);
}

static void test_ports(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, 0xe0, 4, 0x44332211);
    assert_int_equal(bus_read(&f->pio, 0xe0, 4), 0x44332211);
    assert_int_equal(bus_read(&f->pio, 0xe1, 2), 0x3322);
    bus_write(&f->pio, 0xe3, 1, 0x55);
    assert_int_equal(bus_read(&f->pio, 0xe8, 4), 0x55332211);
    bus_write(&f->pio, 0xe4, 4, 0x1234);
    assert_int_equal(bus_read(&f->pio, 0xe0, 4), 0x55332211);
    testdev_reset(f->dev);
    assert_int_equal(bus_read(&f->pio, 0xe0, 4), 0);
}

static void test_lines(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->pio, 0x200f, 1, 1);
    bus_write(&f->pio, 0x2003, 1, 0x80);
    assert_int_equal(f->lines, 1u << 15 | 1u << 3);
    bus_write(&f->pio, 0x200f, 1, 0);
    assert_int_equal(f->lines, 1u << 3);
    bus_write(&f->pio, 0x2010, 1, 1);
    assert_int_equal(f->lines, 1u << 3);
    testdev_reset(f->dev);
    assert_int_equal(f->lines, 0);
}

static void test_memory(void **state)
{
    struct fixture *f = *state;

    bus_write(&f->mmio, 0xff000000, 8, 0x8877665544332211);
    assert_int_equal(bus_read(&f->mmio, 0xff000004, 4), 0x88776655);
    bus_write(&f->mmio, 0xff00ffff, 1, 0x99);
    assert_int_equal(bus_read(&f->mmio, 0xff00ffff, 1), 0x99);
    assert_int_equal(bus_read(&f->mmio, 0xff010004, 1), 0xff);
    testdev_reset(f->dev);
    assert_int_equal(bus_read(&f->mmio, 0xff000000, 8), 0);
}

/* When an address is taken, nothing stays mapped. */
static void test_conflict(void **state)
{
    struct fixture *f = *state;
    struct testdev *second = NULL;

    assert_int_equal(testdev_new(&second, &f->cfg, NULL), -EEXIST);
    assert_null(second);
    assert_int_equal(f->pio.count, 9);
    assert_int_equal(f->mmio.count, 2);
}

/* Writes that get here are those no doorbell took. */
static void test_bells(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(made.bells, 3);
    assert_int_equal(made.events, 2);
    bus_write(&f->pio, 0x2010, 2, 1);
    bus_write(&f->pio, 0x2014, 4, 1);
    bus_write(&f->mmio, 0xff010000, 1, 1);
    assert_int_equal(bus_read(&f->pio, 0x2020, 4), 3);
    bus_write(&f->pio, 0x2018, 4, 0x71);
    assert_int_equal(made.changes, 1);
    assert_true(made.last.msi);
    assert_int_equal(made.last.addr, 0xfee00000);
    assert_int_equal(made.last.data, 0x71);
    testdev_reset(f->dev);
    assert_int_equal(bus_read(&f->pio, 0x2020, 4), 0);
}

static void test_bells_that_fail(void **state)
{
    struct fixture *f = *state;

    testdev_free(f->dev);
    made.fail_bell = 2;
    assert_int_equal(testdev_new(&f->dev, &f->cfg, NULL), -ENOSPC);
    assert_int_equal(made.bells, 0);
    assert_int_equal(made.events, 0);
    assert_int_equal(f->pio.count, 0);
    made.fail_bell = 0;
    assert_int_equal(testdev_new(&f->dev, &f->cfg, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conflict, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bells, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bells_that_fail, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
