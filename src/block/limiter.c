/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/limiter.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/thread.h"
#include "block/line.h"
#include "block/throttle.h"

#define NANOSECONDS 1000000000ull

struct block_limiter {
    struct block *block;
    void (*go)(struct block *b, struct block_req *req);
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct throttle throttle;
    uint64_t limit[BLOCK_LIMITS];
    _Atomic bool on;           /* there is one; written under the lock */
    struct block_line line[2]; /* reads; all else. One does not wait for the other */
    unsigned open;
    bool stop;
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NANOSECONDS + (uint64_t)t.tv_nsec;
}

static bool changes(const struct block_req *req)
{
    return req->op != BLOCK_READ;
}

static uint64_t take_locked(struct block_limiter *l, const struct block_req *req, uint64_t now)
{
    bool moves = req->op == BLOCK_READ || req->op == BLOCK_WRITE;

    return l->open ? 0 : throttle_take(&l->throttle, changes(req), moves ? req->len : 0, now);
}

/* One that may go on, or NULL and how long that takes; UINT64_MAX: nobody waits. */
static struct block_req *next_locked(struct block_limiter *l, uint64_t now, uint64_t *wait)
{
    *wait = UINT64_MAX;
    for (unsigned i = 0; i < ARRAY_SIZE(l->line); i++) {
        struct block_line *line = &l->line[i];
        uint64_t w = line->first ? take_locked(l, line->first, now) : UINT64_MAX;

        if (!w)
            return line_take(line);
        if (w < *wait)
            *wait = w;
    }
    return NULL;
}

static void sleep_locked(struct block_limiter *l, uint64_t now, uint64_t wait)
{
    uint64_t until = now + wait;
    struct timespec t = {(time_t)(until / NANOSECONDS), (long)(until % NANOSECONDS)};

    if (wait == UINT64_MAX)
        pthread_cond_wait(&l->changed, &l->lock);
    else
        pthread_cond_timedwait(&l->changed, &l->lock, &t);
}

static void *limiter_thread(void *opaque)
{
    struct block_limiter *l = opaque;

    thread_name("block limits");
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        uint64_t now = now_ns(), wait;
        struct block_req *req = next_locked(l, now, &wait);

        if (!req) {
            /* Lines move on their own for a day at most; then it looks again. */
            sleep_locked(l, now,
                         wait != UINT64_MAX && wait > 86400 * NANOSECONDS ? 86400 * NANOSECONDS
                                                                          : wait);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        l->go(l->block, req);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

bool limiter_hold(struct block_limiter *l, struct block_req *req)
{
    struct block_line *line = &l->line[changes(req)];
    bool hold;

    pthread_mutex_lock(&l->lock);
    hold = line->first || take_locked(l, req, now_ns());
    if (hold) {
        line_add(line, req);
        pthread_cond_signal(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return hold;
}

void limiter_open(struct block_limiter *l)
{
    pthread_mutex_lock(&l->lock);
    l->open++;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

void limiter_shut(struct block_limiter *l)
{
    pthread_mutex_lock(&l->lock);
    l->open--;
    pthread_mutex_unlock(&l->lock);
}

static void set_locked(struct block_limiter *l, const uint64_t limit[BLOCK_LIMITS])
{
    memcpy(l->limit, limit, sizeof(l->limit));
    throttle_init(&l->throttle, limit, now_ns());
    atomic_store(&l->on, throttle_has_limits(limit));
}

void limiter_set(struct block_limiter *l, const uint64_t limit[BLOCK_LIMITS])
{
    pthread_mutex_lock(&l->lock);
    set_locked(l, limit);
    pthread_cond_signal(&l->changed); /* who waits may have waited long enough by now */
    pthread_mutex_unlock(&l->lock);
}

void limiter_get(struct block_limiter *l, uint64_t limit[BLOCK_LIMITS])
{
    pthread_mutex_lock(&l->lock);
    memcpy(limit, l->limit, sizeof(l->limit));
    pthread_mutex_unlock(&l->lock);
}

bool limiter_is_on(struct block_limiter *l)
{
    return l && atomic_load(&l->on);
}

int limiter_new(struct block_limiter **out, struct block *b, const uint64_t limit[BLOCK_LIMITS],
                void (*go)(struct block *b, struct block_req *req), struct err *err)
{
    struct block_limiter *l = calloc(1, sizeof(*l));
    pthread_condattr_t attr;
    sigset_t all, old;
    int rc;

    *out = NULL;
    if (!l)
        return err_set(err, -ENOMEM, "no memory for the limits of a disk");
    l->block = b;
    l->go = go;
    for (unsigned i = 0; i < ARRAY_SIZE(l->line); i++)
        line_init(&l->line[i]);
    set_locked(l, limit); /* nobody else knows it yet */
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->changed, &attr);
    pthread_condattr_destroy(&attr);
    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&l->thread, NULL, limiter_thread, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!rc) {
        *out = l;
        return 0;
    }
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
    return err_set(err, -rc, "cannot start a thread for the limits of a disk: %s", strerror(rc));
}

void limiter_free(struct block_limiter *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
