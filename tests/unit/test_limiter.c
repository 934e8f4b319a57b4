/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/block/ src/base/bucket.c src/base/err.c src/base/log.c */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"

#define PIECE 4096u
#define MANY  8u

static const uint64_t none[BLOCK_LIMITS];
/* After one piece, the next may go on an hour later. */
static const uint64_t crawl[BLOCK_LIMITS] = {[BLOCK_BPS] = 1};

struct one {
    struct block_req req;
    struct iovec iov;
    uint8_t buf[PIECE];
    _Atomic int result; /* 1: not yet */
};

struct image {
    char path[40];
    struct block *b;
    struct one one[MANY];
};

static void on_done(struct block_req *req, int result)
{
    container_of(req, struct one, req)->result = result;
}

static int setup_with(void **state, enum block_aio aio, const uint64_t limit[BLOCK_LIMITS])
{
    struct image *i = calloc(1, sizeof(*i));
    struct block_config cfg = {.path = i->path, .aio = aio};
    int fd;

    strcpy(i->path, "/tmp/lodge-limiter.XXXXXX");
    fd = mkstemp(i->path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, MANY * PIECE), 0);
    close(fd);
    memcpy(cfg.limit, limit, sizeof(cfg.limit));
    assert_int_equal(block_open(&i->b, &cfg, NULL), 0);
    *state = i;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, BLOCK_AIO_AUTO, none);
}

static int setup_threads(void **state)
{
    return setup_with(state, BLOCK_AIO_THREADS, none);
}

static int setup_limited(void **state)
{
    return setup_with(state, BLOCK_AIO_AUTO, crawl);
}

static int teardown(void **state)
{
    struct image *i = *state;

    block_close(i->b);
    unlink(i->path);
    free(i);
    return 0;
}

static struct block_req *prepare(struct image *i, unsigned n, enum block_op op)
{
    struct one *o = &i->one[n];

    o->iov = (struct iovec){o->buf, PIECE};
    o->result = 1;
    o->req = (struct block_req){
        .op = op, .offset = n * PIECE, .len = PIECE, .iov = &o->iov, .iovcnt = 1, .done = on_done};
    return &o->req;
}

static void submit_all(struct image *i, enum block_op op)
{
    for (unsigned n = 0; n < MANY; n++)
        block_submit(i->b, prepare(i, n, op));
}

/* Wait until `n` of them are done; false: they are not after a minute. */
static bool wait_done(struct image *i, unsigned n)
{
    for (unsigned ms = 0; ms < 60000; ms++) {
        unsigned done = 0;

        block_reap(i->b);
        for (unsigned k = 0; k < MANY; k++)
            done += i->one[k].result <= 0;
        if (done >= n)
            return done == n;
        poll(NULL, 0, 1);
    }
    return false;
}

/* What waits because of limits goes on when they are lifted, and nothing waits any more. */
static void what_waits_goes_on(void **state)
{
    struct image *i = *state;
    uint64_t now[BLOCK_LIMITS];

    assert_int_equal(block_set_limits(i->b, crawl, NULL), 0);
    block_get_limits(i->b, now);
    assert_memory_equal(now, crawl, sizeof(now));
    submit_all(i, BLOCK_WRITE);
    assert_true(wait_done(i, 1));
    /* Other limits begin with nothing owed, so one more goes on. */
    assert_int_equal(
        block_set_limits(i->b, (const uint64_t[BLOCK_LIMITS]){[BLOCK_BPS_WR] = 2}, NULL), 0);
    assert_true(wait_done(i, 2));
    assert_int_equal(block_set_limits(i->b, none, NULL), 0);
    assert_true(wait_done(i, MANY));
    for (unsigned n = 0; n < MANY; n++)
        assert_int_equal(i->one[n].result, 0);
    submit_all(i, BLOCK_READ);
    assert_true(wait_done(i, MANY));
    block_get_limits(i->b, now);
    assert_memory_equal(now, none, sizeof(now));
}

/* Limits of a disk that had none hold back what goes by the short ways, too. */
static void the_short_ways_have_limits(void **state)
{
    struct image *i = *state;

    assert_int_equal(block_set_limits(i->b, crawl, NULL), 0);
    for (unsigned n = 0; n < MANY; n++) {
        assert_int_equal(block_try(i->b, prepare(i, n, BLOCK_READ)), -EAGAIN);
        assert_int_equal(block_near(i->b, prepare(i, n, BLOCK_READ)), -EAGAIN);
    }
    submit_all(i, BLOCK_READ);
    assert_true(wait_done(i, 1));
    block_drain(i->b); /* does not wait for limits */
    block_reap(i->b);
    assert_true(wait_done(i, MANY));
}

/* Reads are counted whichever way they go. */
static void every_read_is_counted(void **state)
{
    struct image *i = *state;
    uint64_t tried = 0, begun = 0;

    submit_all(i, BLOCK_WRITE);
    block_drain(i->b);
    assert_int_equal(i->b->count[BLOCK_WRITE], MANY);
    for (unsigned n = 0; n < MANY; n++) {
        tried += !block_try(i->b, prepare(i, n, BLOCK_READ));
        assert_int_equal(i->b->count[BLOCK_READ], tried);
    }
    for (unsigned n = 0; n < MANY; n++) {
        begun += !block_near(i->b, prepare(i, n, BLOCK_READ));
        assert_int_equal(i->b->count[BLOCK_READ], tried + begun);
    }
    block_drain(i->b);
    submit_all(i, BLOCK_READ);
    block_drain(i->b);
    assert_int_equal(i->b->count[BLOCK_READ], tried + begun + MANY);
    assert_int_equal(i->b->bytes[BLOCK_READ], (tried + begun + MANY) * PIECE);
}

int main(void)
{
#define CASE(f, with) cmocka_unit_test_setup_teardown(f, with, teardown)
    const struct CMUnitTest tests[] = {
        CASE(what_waits_goes_on, setup),         CASE(what_waits_goes_on, setup_threads),
        CASE(what_waits_goes_on, setup_limited), CASE(the_short_ways_have_limits, setup),
        CASE(every_read_is_counted, setup),      CASE(every_read_is_counted, setup_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
