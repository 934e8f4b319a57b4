/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/virtio/queue.c src/core/mem.c src/base/err.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/virtio/queue.h"

#define SIZE  8
#define END   MIB(16)
#define DESC  0x10000u
#define AVAIL 0x11000u
#define USED  0x12000u
#define TABLE 0x13000u
#define DATA  0x20000u

#define NEXT     1
#define WRITE    2
#define INDIRECT 4

struct fixture {
    struct mem mem;
    struct virtio_memory memory;
    struct virtq q;
    struct virtq_chain c;
    uint16_t avail;
    uint64_t written; /* bytes */
};

static void on_written(void *opaque, gpa_t gpa, uint64_t len)
{
    struct fixture *f = opaque;

    assert_non_null(mem_hva(&f->mem, gpa, len));
    f->written += len;
}

static void put(struct fixture *f, gpa_t at, uint64_t val, unsigned size)
{
    assert_int_equal(mem_write(&f->mem, at, &val, size), 0);
}

static uint64_t get(struct fixture *f, gpa_t at, unsigned size)
{
    uint64_t val = 0;

    assert_int_equal(mem_read(&f->mem, at, &val, size), 0);
    return val;
}

static void desc(struct fixture *f, gpa_t table, unsigned i, gpa_t addr, uint32_t len,
                 unsigned flags, unsigned next)
{
    put(f, table + 16 * i, addr, 8);
    put(f, table + 16 * i + 8, len, 4);
    put(f, table + 16 * i + 12, flags, 2);
    put(f, table + 16 * i + 14, next, 2);
}

static void give(struct fixture *f, unsigned head)
{
    put(f, AVAIL + 4 + 2 * (f->avail % SIZE), head, 2);
    put(f, AVAIL + 2, ++f->avail, 2);
}

static void start(struct fixture *f, bool event_idx, bool indirect)
{
    f->q.size = SIZE;
    f->q.desc = DESC;
    f->q.driver = AVAIL;
    f->q.device = USED;
    assert_int_equal(virtq_start(&f->q, event_idx, indirect), 0);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_int_equal(mem_init(&f->mem, END, NULL), 0);
    f->memory = (struct virtio_memory){&f->mem, on_written, f};
    virtq_init(&f->q, &f->memory);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtq_fini(&f->q);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static void takes_queues_as_they_must_be(void **state)
{
    struct fixture *f = *state;
    const struct {
        uint16_t size;
        gpa_t desc, driver, device;
        int want;
    } t[] = {
        {8, DESC, AVAIL, USED, 0},
        {1, DESC, AVAIL, USED, 0},
        {1024, DESC, 0x20000, 0x30000, 0},
        {0, DESC, AVAIL, USED, -EINVAL},
        {6, DESC, AVAIL, USED, -EINVAL},
        {2048, DESC, AVAIL, USED, -EINVAL},
        {0x8000, DESC, AVAIL, USED, -EINVAL},
        {8, DESC + 8, AVAIL, USED, -EINVAL},
        {8, DESC, AVAIL + 1, USED, -EINVAL},
        {8, DESC, AVAIL, USED + 2, -EINVAL},
        {8, END - 64, AVAIL, USED, -EINVAL},
        {8, DESC, 0xa0000, USED, -EINVAL},
        {8, DESC, AVAIL, 0x9fffc, -EINVAL},
        {8, -16ull, AVAIL, USED, -EINVAL},
        {8, DESC, -2ull, USED, -EINVAL},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        f->q.size = t[i].size;
        f->q.desc = t[i].desc;
        f->q.driver = t[i].driver;
        f->q.device = t[i].device;
        assert_int_equal(virtq_start(&f->q, true, true), t[i].want);
        assert_int_equal(f->q.ready, !t[i].want);
    }
}

static void walks_a_chain(void **state)
{
    struct fixture *f = *state;

    start(f, false, false);
    assert_int_equal(virtq_pop(&f->q, &f->c), 0);
    desc(f, DESC, 5, DATA, 16, NEXT, 2);
    desc(f, DESC, 2, DATA + 100, 0, NEXT, 7); /* empty: not there */
    desc(f, DESC, 7, DATA + 200, 30, NEXT | WRITE, 0);
    desc(f, DESC, 0, MIB(1), 4096, WRITE, 9); /* next does not count */
    give(f, 5);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    assert_int_equal(f->c.head, 5);
    assert_int_equal(f->c.out, 1);
    assert_int_equal(f->c.in, 2);
    assert_int_equal(f->c.out_len, 16);
    assert_int_equal(f->c.in_len, 4126);
    assert_ptr_equal(f->c.iov[0].iov_base, mem_hva(&f->mem, DATA, 16));
    assert_ptr_equal(f->c.iov[2].iov_base, mem_hva(&f->mem, MIB(1), 1));
    assert_int_equal(f->c.iov[2].iov_len, 4096);
    assert_int_equal(virtq_pop(&f->q, &f->c), 0);
}

static void walks_indirect_tables(void **state)
{
    struct fixture *f = *state;

    start(f, false, true);
    desc(f, DESC, 0, DATA, 8, NEXT, 1);
    desc(f, DESC, 1, TABLE, 32 * 16, INDIRECT | WRITE, 0); /* WRITE is ignored */
    for (unsigned i = 0; i < 32; i++)                      /* longer than the ring, and backwards */
        desc(f, TABLE, (32 - i) % 32, DATA + 8 * i, 8, (i < 31 ? NEXT : 0) | (i > 15 ? WRITE : 0),
             (31 - i) % 32);
    give(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    assert_int_equal(f->c.out, 17);
    assert_int_equal(f->c.in, 16);
    assert_ptr_equal(f->c.iov[1].iov_base, mem_hva(&f->mem, DATA, 8));
    assert_ptr_equal(f->c.iov[32].iov_base, mem_hva(&f->mem, DATA + 8 * 31, 8));
}

static void expect_refusal(struct fixture *f, const char *why)
{
    give(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->c), -EINVAL);
    assert_string_equal(f->q.malformed, why);
    /* Still there: nobody was given it. */
    assert_int_equal(virtq_pop(&f->q, &f->c), -EINVAL);
    f->avail = 0;
    put(f, AVAIL + 2, 0, 2);
    start(f, false, true);
}

static void refuses_malformed_chains(void **state)
{
    struct fixture *f = *state;

    start(f, false, true);
    desc(f, DESC, 0, DATA, 8, NEXT, SIZE);
    expect_refusal(f, "a descriptor that is not in the ring");
    desc(f, DESC, 0, DATA, 8, NEXT, 0);
    expect_refusal(f, "a chain that goes round");
    desc(f, DESC, 0, DATA, 8, NEXT | WRITE, 1);
    desc(f, DESC, 1, DATA, 8, 0, 0);
    expect_refusal(f, "a buffer to read comes after one to write");
    desc(f, DESC, 0, END - 4, 8, 0, 0);
    expect_refusal(f, "a buffer is not in memory");
    desc(f, DESC, 0, 0x9ff00, 0x200, 0, 0);
    expect_refusal(f, "a buffer is not in memory");
    desc(f, DESC, 0, -4ull, 8, 0, 0);
    expect_refusal(f, "a buffer is not in memory");
    desc(f, DESC, 0, DATA, 0xffffffff, WRITE, 0);
    expect_refusal(f, "a buffer is not in memory");
    desc(f, DESC, 0, TABLE, 16, INDIRECT | NEXT, 0);
    expect_refusal(f, "an indirect descriptor that goes on");
    for (unsigned len = 0; len < 40; len += 24) {
        desc(f, DESC, 0, TABLE, len, INDIRECT, 0);
        expect_refusal(f, "an indirect table of an impossible length");
    }
    desc(f, DESC, 0, TABLE, 1025 * 16, INDIRECT, 0);
    expect_refusal(f, "an indirect table of an impossible length");
    desc(f, DESC, 0, END - 16, 32, INDIRECT, 0);
    expect_refusal(f, "an indirect table that is not in memory");
    desc(f, DESC, 0, TABLE, 32, INDIRECT, 0);
    desc(f, TABLE, 0, TABLE, 16, INDIRECT, 0);
    expect_refusal(f, "an indirect descriptor in an indirect table");
    desc(f, TABLE, 0, DATA, 16, NEXT, 2);
    expect_refusal(f, "a descriptor that is not in its table");
    desc(f, TABLE, 0, DATA, 16, NEXT, 1);
    desc(f, TABLE, 1, DATA, 16, NEXT, 0);
    expect_refusal(f, "a chain that goes round in its table");
    /* The ring in front and a table of 1024: one too many. */
    desc(f, DESC, 0, DATA, 1, NEXT, 1);
    desc(f, DESC, 1, 0x30000, 1024 * 16, INDIRECT, 0);
    for (unsigned i = 0; i < 1024; i++)
        desc(f, 0x30000, i, DATA, 1, i < 1023 ? NEXT : 0, i + 1);
    expect_refusal(f, "too many buffers");
    desc(f, DESC, 0, DATA, 0, NEXT, 1);
    give(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    assert_int_equal(f->c.out, 1024);
    f->avail = 0;
    put(f, AVAIL + 2, 0, 2);
    for (unsigned i = 0; i < 512; i++)
        desc(f, 0x30000, i, MIB(4), MIB(8), i < 511 ? NEXT : 0, i + 1);
    desc(f, DESC, 1, 0x30000, 512 * 16, INDIRECT, 0);
    start(f, false, true);
    expect_refusal(f, "buffers of more than 4 GiB");
}

static void refuses_a_wild_index_and_indirect_unasked(void **state)
{
    struct fixture *f = *state;

    start(f, false, false);
    put(f, AVAIL + 2, SIZE + 1, 2);
    assert_int_equal(virtq_pop(&f->q, &f->c), -EINVAL);
    assert_string_equal(f->q.malformed, "more chains than the ring can hold");
    put(f, AVAIL + 2, 0, 2);
    desc(f, DESC, 0, TABLE, 16, INDIRECT, 0);
    give(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->c), -EINVAL);
    assert_string_equal(f->q.malformed, "an indirect descriptor, which was not negotiated");
    f->avail = 0;
    put(f, AVAIL + 2, 0, 2);
    start(f, false, false);
    give(f, SIZE);
    assert_int_equal(virtq_pop(&f->q, &f->c), -EINVAL);
}

static void gives_back_and_interrupts(void **state)
{
    struct fixture *f = *state;

    start(f, false, false);
    assert_true(virtq_push(&f->q, &(struct virtq_used){3, 77}, 1));
    assert_int_equal(get(f, USED + 2, 2), 1);
    assert_int_equal(get(f, USED + 4, 8), 3 | 77ull << 32);
    assert_int_equal(f->written, 10);
    put(f, AVAIL, 1, 2);
    assert_false(virtq_push(&f->q, &(struct virtq_used){4, 0}, 1));
    assert_int_equal(get(f, USED + 12, 4), 4);
    virtq_spare_notify(&f->q);
    assert_int_equal(get(f, USED, 2), 1);
    assert_false(virtq_want_notify(&f->q));
    assert_int_equal(get(f, USED, 2), 0);
    give(f, 0);
    assert_true(virtq_want_notify(&f->q));
    /* The index wraps at 16 bits, the ring at its size. */
    f->q.next_used = 0xffff;
    virtq_push(&f->q, &(struct virtq_used){6, 0}, 1);
    assert_int_equal(get(f, USED + 2, 2), 0);
    assert_int_equal(get(f, USED + 4 + 8 * 7, 4), 6);
}

static void event_indexes(void **state)
{
    struct fixture *f = *state;

    start(f, true, false);
    put(f, AVAIL + 4 + 2 * SIZE, 1, 2); /* used_event: after the second */
    put(f, AVAIL, 1, 2);                /* flags do not count */
    assert_false(virtq_push(&f->q, &(struct virtq_used){0, 0}, 1));
    assert_true(virtq_push(&f->q, &(struct virtq_used){0, 0}, 1));
    assert_false(virtq_push(&f->q, &(struct virtq_used){0, 0}, 1));
    put(f, AVAIL + 4 + 2 * SIZE, 3, 2);
    assert_true(virtq_push(&f->q, &(struct virtq_used){0, 0}, 1));
    f->q.next_used = 0xffff;
    put(f, AVAIL + 4 + 2 * SIZE, 0xffff, 2);
    assert_true(virtq_push(&f->q, &(struct virtq_used){0, 0}, 1));
    desc(f, DESC, 0, DATA, 8, 0, 0);
    give(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    assert_false(virtq_want_notify(&f->q));
    assert_int_equal(get(f, USED + 4 + 8 * SIZE, 2), 1); /* avail_event */
    give(f, 0);
    virtq_spare_notify(&f->q);
    assert_int_equal(get(f, USED, 2), 0);
    assert_true(virtq_want_notify(&f->q));
}

static void many_at_once_and_put_back(void **state)
{
    const struct virtq_used used[] = {{3, 30}, {4, 40}, {5, 50}};
    struct fixture *f = *state;

    start(f, true, false);
    f->q.next_used = 0xfffe;
    put(f, AVAIL + 4 + 2 * SIZE, 0xffff, 2); /* in the middle of them */
    assert_true(virtq_push(&f->q, used, 3));
    assert_int_equal(get(f, USED + 2, 2), 1);
    assert_int_equal(get(f, USED + 4 + 8 * 6, 8), 3 | 30ull << 32);
    assert_int_equal(get(f, USED + 4, 8), 5 | 50ull << 32);
    f->q.next_used = 0; /* those were never taken */
    desc(f, DESC, 0, DATA, 8, 0, 0);
    desc(f, DESC, 1, DATA, 8, 0, 0);
    give(f, 0);
    give(f, 1);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    virtq_unpop(&f->q, 2);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    assert_int_equal(f->c.head, 0);
}

/* A driver that gives chains again which it has not got back: no device has to hold more than a ring of them. */
static void holds_a_ring_of_chains_at_most(void **state)
{
    struct fixture *f = *state;

    start(f, false, false);
    desc(f, DESC, 0, DATA, 8, 0, 0);
    f->q.next_used = f->q.next_avail = f->avail = 0xfffa;
    put(f, AVAIL + 2, f->avail, 2);
    for (unsigned i = 0; i < SIZE; i++) {
        give(f, 0);
        assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    }
    assert_int_equal(virtq_pop(&f->q, &f->c), 0);
    give(f, 0);
    assert_int_equal(virtq_pop(&f->q, &f->c), -EINVAL);
    assert_string_equal(f->q.malformed, "more chains than the ring can hold");
    virtq_push(&f->q, &(struct virtq_used){0, 0}, 1);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
    virtq_unpop(&f->q, 1);
    assert_int_equal(virtq_pop(&f->q, &f->c), 1);
}

static void copies_buffers(void **state)
{
    struct fixture *f = *state;
    struct iovec iov[3], part[3];
    char text[32] = {0};

    start(f, false, false);
    iov[0] = (struct iovec){mem_hva(&f->mem, DATA, 4), 4};
    iov[1] = (struct iovec){mem_hva(&f->mem, DATA + 100, 3), 3};
    iov[2] = (struct iovec){mem_hva(&f->mem, DATA + 200, 5), 5};
    assert_int_equal(virtq_write(&f->q, iov, 3, 2, "abcdefghijkl", 12), 10);
    assert_int_equal(f->written, 10);
    assert_int_equal(virtq_read(iov, 3, 3, text, 7), 7);
    assert_string_equal(text, "bcdefgh");
    assert_int_equal(virtq_read(iov, 3, 12, text, 7), 0);
    assert_int_equal(virtq_slice(iov, 3, 4, 4, part), 2);
    assert_ptr_equal(part[0].iov_base, iov[1].iov_base);
    assert_int_equal(part[0].iov_len, 3);
    assert_int_equal(part[1].iov_len, 1);
    assert_int_equal(virtq_slice(iov, 3, 5, 100, part), 2);
    assert_int_equal(part[0].iov_len, 2);
    f->written = 0;
    virtq_written(&f->q, iov, 3, 6);
    assert_int_equal(f->written, 6);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(takes_queues_as_they_must_be),
        CASE(walks_a_chain),
        CASE(walks_indirect_tables),
        CASE(refuses_malformed_chains),
        CASE(refuses_a_wild_index_and_indirect_unasked),
        CASE(gives_back_and_interrupts),
        CASE(event_indexes),
        CASE(many_at_once_and_put_back),
        CASE(holds_a_ring_of_chains_at_most),
        CASE(copies_buffers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
