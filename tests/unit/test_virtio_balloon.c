/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/virtio/virtio.c src/dev/virtio/queue.c src/dev/virtio/balloon.c src/core/mem.c src/base/err.c
 *       src/base/log.c */
/* A balloon, driven queue by queue; its thread stays out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/virtio/balloon.h"
#include "virtio_driver.h"

#define SIZE   8
#define BUFFER 0x100000u
#define QUEUES 5

#define F_STATS (1u << 1)

#define WRITE 2

struct fixture {
    struct mem mem;
    struct virtio_memory memory;
    struct virtio_balloon b;
    uint16_t avail[QUEUES];
    unsigned config_interrupts, discards;
};

static void on_written(void *opaque, gpa_t gpa, uint64_t len)
{
    struct fixture *f = opaque;

    assert_non_null(mem_hva(&f->mem, gpa, len));
    f->discards += len >= PAGE_SIZE;
}

static void config_interrupt(void *opaque)
{
    ((struct fixture *)opaque)->config_interrupts++;
}

static void queue_interrupt(void *opaque, unsigned q)
{
}

static void put(struct fixture *f, gpa_t at, uint64_t val, unsigned size)
{
    assert_int_equal(mem_write(&f->mem, at, &val, size), 0);
}

static unsigned used(struct fixture *f, unsigned q)
{
    uint16_t val;

    assert_int_equal(mem_read(&f->mem, USED(q) + 2, &val, 2), 0);
    return val;
}

static void turn(struct fixture *f)
{
    for (unsigned q = 0; q < QUEUES; q++)
        if (f->b.dev.queue[q].ready)
            f->b.dev.ops->process(&f->b.dev, q);
}

static void give(struct fixture *f, unsigned q, gpa_t addr, uint32_t len, unsigned flags)
{
    put(f, RING(q), addr, 8);
    put(f, RING(q) + 8, len, 4);
    put(f, RING(q) + 12, flags, 4);
    put(f, AVAIL(q) + 4 + 2 * (f->avail[q] % SIZE), 0, 2);
    put(f, AVAIL(q) + 2, ++f->avail[q], 2);
    turn(f);
}

static void start(struct fixture *f, uint32_t features)
{
    struct virtio_device *dev = &f->b.dev;

    virtio_status_write(dev, 0);
    memset(mem_hva(&f->mem, RING(0), 1), 0, 0x4000 * QUEUES);
    memset(f->avail, 0, sizeof(f->avail));
    driver_start(dev, features, QUEUES, SIZE);
}

static int setup(void **state)
{
    static const struct virtio_transport_ops ops = {queue_interrupt, config_interrupt};
    struct fixture *f = calloc(1, sizeof(*f));

    assert_int_equal(mem_init(&f->mem, MIB(4), NULL), 0);
    f->memory = (struct virtio_memory){&f->mem, on_written, f};
    assert_int_equal(virtio_balloon_init(&f->b, &f->memory, NULL), 0);
    f->b.dev.transport = &ops;
    f->b.dev.transport_opaque = f;
    virtio_pause(&f->b.dev);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_balloon_fini(&f->b);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static uint32_t config(struct fixture *f, unsigned off)
{
    uint32_t val = 0;

    f->b.dev.ops->config_read(&f->b.dev, off, &val, 4);
    return val;
}

static void says_its_target(void **state)
{
    struct fixture *f = *state;
    uint8_t generation;
    uint32_t pages = 50;

    start(f, F_STATS);
    assert_int_equal(config(f, 0), 0);
    generation = atomic_load(&f->b.dev.generation);
    virtio_balloon_set_target(&f->b, 100);
    assert_int_equal(config(f, 0), 100);
    assert_int_equal(f->config_interrupts, 1);
    assert_int_not_equal(atomic_load(&f->b.dev.generation), generation);
    virtio_balloon_set_target(&f->b, 100);
    assert_int_equal(f->config_interrupts, 1);
    f->b.dev.ops->config_write(&f->b.dev, 4, &pages, 4);
    assert_int_equal(virtio_balloon_actual(&f->b), 50);
    assert_int_equal(config(f, 4), 50);
    f->b.dev.ops->config_write(&f->b.dev, 0, &pages, 4);
    assert_int_equal(config(f, 0), 100);
    /* A new driver finds the target, and has given nothing. */
    start(f, 0);
    assert_int_equal(config(f, 0), 100);
    assert_int_equal(virtio_balloon_actual(&f->b), 0);
}

static void put_stat(struct fixture *f, unsigned i, unsigned tag, uint64_t value)
{
    put(f, BUFFER + 10 * i, tag, 2);
    put(f, BUFFER + 10 * i + 2, value, 8);
}

static void asks_for_statistics(void **state)
{
    struct fixture *f = *state;
    struct virtio_balloon_stats s;

    start(f, F_STATS);
    virtio_balloon_get_stats(&f->b, &s);
    assert_int_equal(s.time, 0);
    turn(f);
    put_stat(f, 0, BALLOON_FREE, 12345);
    put_stat(f, 1, 77, 1);
    put_stat(f, 2, BALLOON_TOTAL, -1ull);
    put_stat(f, 3, BALLOON_CACHES, 3);
    give(f, 2, BUFFER, 35, 0);
    /* It was wanted before it came, so it has gone back already. */
    assert_int_equal(used(f, 2), 1);
    virtio_balloon_get_stats(&f->b, &s);
    assert_int_not_equal(s.time, 0);
    assert_int_equal(s.known, 1u << BALLOON_FREE | 1u << BALLOON_TOTAL);
    assert_int_equal(s.value[BALLOON_FREE], 12345);
    turn(f);
    assert_int_equal(used(f, 2), 1);
    put_stat(f, 0, BALLOON_FREE, 54321);
    give(f, 2, BUFFER, 35, 0);
    assert_int_equal(used(f, 2), 2);
    /* Kept until somebody asks. */
    give(f, 2, BUFFER, 35, 0);
    turn(f);
    assert_int_equal(used(f, 2), 2);
    virtio_balloon_get_stats(&f->b, &s);
    assert_int_equal(s.value[BALLOON_FREE], 54321);
    turn(f);
    assert_int_equal(used(f, 2), 3);
    /* A second buffer while the first is here, and an empty one. */
    give(f, 2, BUFFER, 10, 0);
    give(f, 2, BUFFER, 0, 0);
    assert_int_equal(used(f, 2), 4);
    virtio_balloon_get_stats(&f->b, &s);
    assert_int_equal(s.known, 0);
    /* A reset forgets them, and the buffer. */
    start(f, F_STATS);
    virtio_balloon_get_stats(&f->b, &s);
    assert_int_equal(s.time, 0);
    turn(f);
    assert_int_equal(used(f, 2), 0);
}

/* Which queue is for reports depends on what the driver takes. */
static void takes_reports(void **state)
{
    static const struct {
        uint32_t features;
        unsigned q;
    } t[] = {{0, 2}, {0, 3}, {0, 4}, {F_STATS, 3}, {F_STATS, 4}};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        start(f, t[i].features);
        put(f, MIB(2), 0x1234, 8);
        give(f, t[i].q, MIB(2), 8192, WRITE);
        assert_int_equal(used(f, t[i].q), 1);
        assert_int_equal(atomic_load(&f->b.given_back), 8192 * (i + 1));
        assert_int_equal(*(uint64_t *)(void *)mem_hva(&f->mem, MIB(2), 8), 0);
    }
}

static void inflates(void **state)
{
    struct fixture *f = *state;
    const uint32_t pfn[] = {512, 513, 514, 600, 0xffffffff, 599, 0xa0};

    start(f, F_STATS);
    put(f, MIB(2), 0x1234, 8);
    put(f, 601u << 12, 0x1234, 8);
    assert_int_equal(mem_write(&f->mem, BUFFER, pfn, sizeof(pfn)), 0);
    give(f, 0, BUFFER, sizeof(pfn) + 3, 0);
    assert_int_equal(used(f, 0), 1);
    assert_int_equal(atomic_load(&f->b.given_back), 5 * 4096);
    assert_int_equal(*(uint64_t *)(void *)mem_hva(&f->mem, MIB(2), 8), 0);
    assert_int_equal(*(uint64_t *)(void *)mem_hva(&f->mem, 601u << 12, 8), 0x1234);
    give(f, 1, BUFFER, sizeof(pfn), 0);
    assert_int_equal(used(f, 1), 1);
}

/* 4 GiB of page numbers would keep the thread busy for an hour; the same few pages over and over. */
static void has_enough_of_a_long_list(void **state)
{
    struct fixture *f = *state;

    start(f, F_STATS);
    for (unsigned i = 0; i < 8192; i++)
        put(f, BUFFER + 4 * i, 600 + 2 * (i % 4), 4);
    give(f, 0, BUFFER, 4 * 8192, 0);
    assert_int_equal(used(f, 0), 1);
    /* Of 256 at a time, each page once. */
    assert_int_equal(atomic_load(&f->b.given_back), 4096 / 256 * 4 * 4096);
}

/* In any order, one of them twice: they go in one piece. */
static void gives_neighbours_back_together(void **state)
{
    struct fixture *f = *state;

    start(f, F_STATS);
    for (unsigned i = 0; i < 200; i++)
        put(f, BUFFER + 4 * i, 600 + (i % 2 ? i : 198 - i), 4);
    put(f, BUFFER + 4 * 200, 700, 4);
    f->discards = 0;
    give(f, 0, BUFFER, 4 * 201, 0);
    assert_int_equal(used(f, 0), 1);
    assert_int_equal(atomic_load(&f->b.given_back), 200 * 4096);
    assert_int_equal(f->discards, 1);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(says_its_target),
        CASE(asks_for_statistics),
        CASE(takes_reports),
        CASE(inflates),
        CASE(has_enough_of_a_long_list),
        CASE(gives_neighbours_back_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
