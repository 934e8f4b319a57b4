/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/bus.c src/base/err.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/bus.h"

/* A device of 64 bytes that records how it was touched. */
struct dev {
    uint8_t bytes[64];
    unsigned reads, writes, last_size;
    uint64_t last_off;
    int answer;
};

static int dev_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct dev *d = opaque;

    d->reads++;
    d->last_off = off;
    d->last_size = size;
    assert_true(off + size <= sizeof(d->bytes));
    *val = 0xdeadbeefdeadbeef; /* what lies above `size` must not show */
    memcpy(val, d->bytes + off, size);
    return d->answer;
}

static int dev_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct dev *d = opaque;

    d->writes++;
    d->last_off = off;
    d->last_size = size;
    assert_true(off + size <= sizeof(d->bytes));
    memcpy(d->bytes + off, &val, size);
    return d->answer;
}

static const struct region_ops any_ops = {dev_read, dev_write, 1, 8};
static const struct region_ops byte_ops = {dev_read, dev_write, 1, 1};
static const struct region_ops dword_ops = {dev_read, dev_write, 4, 4};
static const struct region_ops mute_ops = {NULL, NULL, 1, 8};

static struct dev *fill(struct dev *d)
{
    *d = (struct dev){0};
    for (unsigned i = 0; i < sizeof(d->bytes); i++)
        d->bytes[i] = (uint8_t)(0x10 + i);
    return d;
}

static void unclaimed_reads_ones(void **state)
{
    struct bus bus = {0};

    assert_int_equal(bus_read(&bus, 0, 1), 0xff);
    assert_int_equal(bus_read(&bus, 0x80, 2), 0xffff);
    assert_int_equal(bus_read(&bus, 0x80, 4), 0xffffffff);
    assert_true(bus_read(&bus, 0x80, 8) == UINT64_MAX);
    assert_true(bus_read(&bus, UINT64_MAX, 8) == UINT64_MAX);
    bus_write(&bus, UINT64_MAX - 2, 8, 1);
}

static void sorted_whatever_the_order(void **state)
{
    struct bus bus = {0};
    struct dev a, b, c;

    assert_int_equal(bus_map(&bus, 0x200, 8, &any_ops, fill(&b), "b", NULL), 0);
    assert_int_equal(bus_map(&bus, 0x300, 8, &any_ops, fill(&c), "c", NULL), 0);
    assert_int_equal(bus_map(&bus, 0x100, 8, &any_ops, fill(&a), "a", NULL), 0);
    bus_write(&bus, 0x101, 1, 0xa1);
    bus_write(&bus, 0x202, 1, 0xb2);
    bus_write(&bus, 0x303, 1, 0xc3);
    assert_int_equal(a.bytes[1], 0xa1);
    assert_int_equal(b.bytes[2], 0xb2);
    assert_int_equal(c.bytes[3], 0xc3);
    assert_int_equal(bus_read(&bus, 0x108, 1), 0xff);
    assert_int_equal(bus_read(&bus, 0xff, 1), 0xff);
}

static void overlap_is_refused(void **state)
{
    static const struct {
        uint64_t base, size;
    } bad[] = {{0x100, 8}, {0xf8, 9}, {0x107, 1}, {0xf0, 0x40}, {0x103, 2}, {0, UINT64_MAX}};
    struct bus bus = {0};
    struct err err = {0};
    struct dev d;

    assert_int_equal(bus_map(&bus, 0x100, 8, &any_ops, fill(&d), "first", NULL), 0);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(bus_map(&bus, bad[i].base, bad[i].size, &any_ops, &d, "second", &err),
                         -EEXIST);
        assert_non_null(strstr(err.what, "second"));
        assert_non_null(strstr(err.what, "first"));
        assert_int_equal(bus.count, 1);
    }
    assert_int_equal(bus_map(&bus, 0xf8, 8, &any_ops, &d, "below", NULL), 0);
    assert_int_equal(bus_map(&bus, 0x108, 1, &any_ops, &d, "above", NULL), 0);
    assert_int_equal(bus_map(&bus, UINT64_MAX, 1, &any_ops, &d, "last", NULL), 0);
}

static void nonsense_is_refused(void **state)
{
    static const struct region_ops none = {dev_read, dev_write, 0, 0};
    static const struct region_ops reversed = {dev_read, dev_write, 4, 2};
    static const struct region_ops huge = {dev_read, dev_write, 1, 16};
    struct bus bus = {0};
    struct err err;

    assert_int_equal(bus_map(&bus, 0, 0, &any_ops, NULL, "empty", &err), -EINVAL);
    assert_int_equal(bus_map(&bus, UINT64_MAX, 2, &any_ops, NULL, "wraps", &err), -EINVAL);
    assert_int_equal(bus_map(&bus, 0, 1, NULL, NULL, "no ops", &err), -EINVAL);
    assert_int_equal(bus_map(&bus, 0, 1, &none, NULL, "no width", &err), -EINVAL);
    assert_int_equal(bus_map(&bus, 0, 1, &reversed, NULL, "reversed", &err), -EINVAL);
    assert_int_equal(bus_map(&bus, 0, 1, &huge, NULL, "huge", &err), -EINVAL);
    assert_int_equal(bus.count, 0);
}

static void full_table_is_refused(void **state)
{
    struct bus bus = {0};
    struct dev d;

    fill(&d);
    for (unsigned i = 0; i < BUS_MAX_REGIONS; i++)
        assert_int_equal(bus_map(&bus, i * 2, 1, &any_ops, &d, "d", NULL), 0);
    assert_int_equal(bus_map(&bus, 0x1000, 1, &any_ops, &d, "one more", NULL), -ENOSPC);
    assert_int_equal(bus.count, BUS_MAX_REGIONS);
    assert_int_equal(bus_read(&bus, (BUS_MAX_REGIONS - 1) * 2, 1), 0x10);
    assert_int_equal(bus_read(&bus, BUS_MAX_REGIONS * 2 - 1, 1), 0xff);
}

static void large_accesses_are_split(void **state)
{
    struct bus bus = {0};
    struct dev d;

    bus_map(&bus, 0x100, 64, &byte_ops, fill(&d), "d", NULL);
    assert_int_equal(bus_read(&bus, 0x104, 4), 0x17161514);
    assert_int_equal(d.reads, 4);
    assert_true(bus_read(&bus, 0x100, 8) == 0x1716151413121110ull);
    bus_write(&bus, 0x108, 8, 0x8877665544332211ull);
    assert_int_equal(d.writes, 8);
    assert_int_equal(d.bytes[8], 0x11);
    assert_int_equal(d.bytes[15], 0x88);
}

static void small_reads_are_widened(void **state)
{
    struct bus bus = {0};
    struct dev d;

    bus_map(&bus, 0x100, 64, &dword_ops, fill(&d), "d", NULL);
    assert_int_equal(bus_read(&bus, 0x105, 1), 0x15);
    assert_int_equal(d.last_off, 4);
    assert_int_equal(d.last_size, 4);
    assert_int_equal(bus_read(&bus, 0x106, 2), 0x1716);
    assert_int_equal(d.reads, 2);
    /* across two registers */
    assert_int_equal(bus_read(&bus, 0x103, 2), 0x1413);
    assert_int_equal(d.reads, 4);
    /* a write cannot be widened */
    bus_write(&bus, 0x105, 1, 0xee);
    assert_int_equal(d.writes, 0);
    bus_write(&bus, 0x104, 8, 0x8877665544332211ull);
    assert_int_equal(d.writes, 2);
    assert_int_equal(d.bytes[11], 0x88);
}

static void accesses_across_regions_reach_both(void **state)
{
    struct bus bus = {0};
    struct dev a, b;

    bus_map(&bus, 0x100, 4, &any_ops, fill(&a), "a", NULL);
    bus_map(&bus, 0x104, 2, &any_ops, fill(&b), "b", NULL);
    assert_true(bus_read(&bus, 0x102, 8) == 0xffffffff11101312ull);
    assert_int_equal(bus_read(&bus, 0xfe, 4), 0x1110ffff);
    bus_write(&bus, 0x103, 4, 0x44332211);
    assert_int_equal(a.bytes[3], 0x11);
    assert_int_equal(b.bytes[0], 0x22);
    assert_int_equal(b.bytes[1], 0x33);
    assert_int_equal(b.bytes[2], 0x12);
}

static void silence_reads_ones(void **state)
{
    struct bus bus = {0};
    struct dev d;

    bus_map(&bus, 0x100, 8, &any_ops, fill(&d), "d", NULL);
    bus_map(&bus, 0x200, 8, &mute_ops, NULL, "mute", NULL);
    d.answer = -1;
    assert_int_equal(bus_read(&bus, 0x100, 2), 0xffff);
    assert_int_equal(d.reads, 1);
    assert_int_equal(bus_read(&bus, 0x200, 4), 0xffffffff);
    bus_write(&bus, 0x200, 4, 1);
}

static void values_are_cut_to_size(void **state)
{
    struct bus bus = {0};
    struct dev d;

    bus_map(&bus, 0x100, 8, &any_ops, fill(&d), "d", NULL);
    assert_int_equal(bus_read(&bus, 0x100, 1), 0x10);
    bus_write(&bus, 0x100, 1, 0x12345678);
    assert_int_equal(d.bytes[0], 0x78);
    assert_int_equal(d.bytes[1], 0x11);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unclaimed_reads_ones),
        cmocka_unit_test(sorted_whatever_the_order),
        cmocka_unit_test(overlap_is_refused),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(full_table_is_refused),
        cmocka_unit_test(large_accesses_are_split),
        cmocka_unit_test(small_reads_are_widened),
        cmocka_unit_test(accesses_across_regions_reach_both),
        cmocka_unit_test(silence_reads_ones),
        cmocka_unit_test(values_are_cut_to_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
