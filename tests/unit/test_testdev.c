/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/testdev.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "dev/testdev.h"

struct fixture {
    struct bus pio, mmio;
    struct testdev *dev;
    struct testdev_config cfg;
    uint32_t lines;
    unsigned exits, status;
};

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
    f.cfg =
        (struct testdev_config){.pio = &f.pio, .mmio = &f.mmio, .exit = on_exit_port, .opaque = &f};
    for (unsigned n = 0; n < TESTDEV_IRQS; n++)
        f.cfg.irq[n] = (struct irq_line){&line_ops, &f, n};
    *state = &f;
    return testdev_new(&f.dev, &f.cfg, NULL);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    testdev_free(f->dev);
    return f->pio.count || f->mmio.count ? -1 : 0;
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
    assert_int_equal(bus_read(&f->mmio, 0xff010000, 1), 0xff);
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
    assert_int_equal(f->pio.count, 5);
    assert_int_equal(f->mmio.count, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_exit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ports, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_conflict, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
