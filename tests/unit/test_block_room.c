/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/block/ src/base/bucket.c src/base/err.c src/base/log.c */
/* What a guest writes while the host has no room for it. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/block.h"

#define WRITES 40 /* more than there are workers */

struct fixture {
    char path[32];
    struct block *b;
    const struct block_ops *real;
    struct block_ops ops;
    pthread_mutex_t lock;
    pthread_cond_t change;
    unsigned done, failed; /* of the requests */
    uint8_t byte[512];
    struct iovec iov;
};

/* Requests come without a fixture. */
static _Atomic bool full;
static _Atomic unsigned tries;
static struct fixture *now;

static int execute(struct block *b, struct block_req *req)
{
    if (req->op == BLOCK_WRITE && full) {
        tries++;
        return -ENOSPC;
    }
    return now->real->execute(b, req);
}

static void on_done(struct block_req *req, int result)
{
    pthread_mutex_lock(&now->lock);
    now->done++;
    now->failed += result == -ENOSPC;
    pthread_cond_signal(&now->change);
    pthread_mutex_unlock(&now->lock);
    free(req);
}

static void submit(struct fixture *f, enum block_op op)
{
    struct block_req *req = calloc(1, sizeof(*req));

    assert_non_null(req);
    *req = (struct block_req){
        .op = op, .len = sizeof(f->byte), .iov = &f->iov, .iovcnt = 1, .done = on_done};
    block_submit(f->b, req);
}

static unsigned done(struct fixture *f)
{
    unsigned n;

    pthread_mutex_lock(&f->lock);
    n = f->done;
    pthread_mutex_unlock(&f->lock);
    return n;
}

static void wait_done(struct fixture *f, unsigned n)
{
    pthread_mutex_lock(&f->lock);
    while (f->done < n)
        pthread_cond_wait(&f->change, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct block_config cfg = {.aio = BLOCK_AIO_THREADS, .format = "raw"};
    int fd;

    log_set_level(LOG_ERROR);
    strcpy(f->path, "/tmp/lodge-room.XXXXXX");
    fd = mkstemp(f->path);
    assert_int_equal(ftruncate(fd, MIB(1)), 0);
    close(fd);
    cfg.path = f->path;
    assert_int_equal(block_open(&f->b, &cfg, NULL), 0);
    f->real = f->b->ops;
    f->ops = *f->real;
    f->ops.execute = execute;
    f->b->ops = &f->ops;
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->change, NULL);
    f->iov = (struct iovec){f->byte, sizeof(f->byte)};
    now = f;
    full = true;
    tries = 0;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    block_drain(f->b);
    f->b->ops = f->real;
    block_close(f->b);
    unlink(f->path);
    pthread_cond_destroy(&f->change);
    pthread_mutex_destroy(&f->lock);
    free(f);
    return 0;
}

static void submit_writes(struct fixture *f)
{
    for (unsigned n = 0; n < WRITES; n++)
        submit(f, BLOCK_WRITE);
    while (tries < 2 * WRITES)
        usleep(1000);
    assert_int_equal(done(f), 0);
}

static void writes_wait_until_there_is_room(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(block_sync(f->b), 0);
    submit_writes(f);
    while (block_sync(f->b) != -ENOSPC)
        usleep(1000);
    /* Others do not wait behind them. */
    submit(f, BLOCK_READ);
    wait_done(f, 1);
    submit(f, BLOCK_FLUSH);
    wait_done(f, 2);
    full = false;
    wait_done(f, WRITES + 2);
    assert_int_equal(f->failed, 0);
}

static void nobody_who_drains_waits_for_room(void **state)
{
    struct fixture *f = *state;

    submit_writes(f);
    block_drain(f->b);
    assert_int_equal(f->done, WRITES);
    assert_int_equal(f->failed, WRITES);
    /* Afterwards they wait as before. */
    tries = 0;
    submit(f, BLOCK_WRITE);
    while (tries < 2)
        usleep(1000);
    assert_int_equal(done(f), WRITES);
    full = false;
    wait_done(f, WRITES + 1);
    assert_int_equal(f->failed, WRITES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(writes_wait_until_there_is_room, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_who_drains_waits_for_room, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
