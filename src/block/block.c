/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "block/limiter.h"
#include "block/line.h"
#include "block/throttle.h"
#include "block/uring.h"

#define WORKERS_MAX 16
#define HEAD_SIZE   512
#define DRAIN_MS    2   /* between looks at what workers have done */
#define ROOM_MS     250 /* between looks whether there is room */
#define TOLD_S      60  /* and between two words about that */

/* Requests wait in one line; a thread is added when one comes and nobody is idle. */
struct block_workers {
    pthread_mutex_t lock;
    pthread_cond_t work, none; /* `none`: nothing is under way any more */
    struct block_line line;
    unsigned under_way; /* submitted and not done */
    unsigned threads, idle, waiting;
    bool stop;
    /* What found no room on the host waits here, and one thread with it. */
    struct block_line full;
    pthread_cond_t room;
    bool watched;      /* by that thread */
    unsigned draining; /* nothing may wait */
    time_t told;       /* when something was said about it; 0: never */
    pthread_t thread[WORKERS_MAX];
};

/* ---- Workers -------------------------------------------------------------------- */

static void requests_over(struct block_workers *w, unsigned n)
{
    pthread_mutex_lock(&w->lock);
    w->under_way -= n;
    if (!w->under_way)
        pthread_cond_broadcast(&w->none);
    pthread_mutex_unlock(&w->lock);
}

static void complete(struct block *b, struct block_req *req, int result)
{
    req->done(req, result);
    requests_over(b->workers, 1);
}

static struct block_req *take_locked(struct block_workers *w)
{
    w->waiting--;
    return line_take(&w->line);
}

static struct timespec now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t;
}

/* What waits for room is tried again, by this thread and whoever comes. */
static void try_again_locked(struct block_workers *w)
{
    for (struct block_req *req = w->full.first; req; req = req->next)
        w->waiting++;
    *w->line.last = w->full.first;
    w->line.last = w->full.last;
    line_init(&w->full);
}

/* The one thread that looks after them. */
static void watch_room_locked(struct block *b)
{
    struct block_workers *w = b->workers;
    struct timespec until = now();

    if (!w->told || until.tv_sec - w->told >= TOLD_S) {
        w->told = until.tv_sec;
        log_error("%s: no room is left on the host; what the guest writes waits until there is",
                  b->path);
    }
    until.tv_nsec += ROOM_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (!w->draining && pthread_cond_timedwait(&w->room, &w->lock, &until) != ETIMEDOUT)
        ;
    try_again_locked(w);
}

/* The guest is told of no error that is the host's: true, the request waits. */
static bool wait_for_room(struct block *b, struct block_req *req)
{
    struct block_workers *w = b->workers;
    bool wait;

    pthread_mutex_lock(&w->lock);
    wait = !w->draining;
    if (wait)
        line_add(&w->full, req);
    if (wait && !w->watched) {
        w->watched = true;
        watch_room_locked(b);
        w->watched = false;
    }
    pthread_mutex_unlock(&w->lock);
    return wait;
}

/* On a worker. */
static void carry_out(struct block *b, struct block_req *req)
{
    int code = b->ops->execute(b, req);

    if ((code != -ENOSPC && code != -EDQUOT) || !wait_for_room(b, req))
        complete(b, req, code);
}

static void *worker_thread(void *opaque)
{
    struct block *b = opaque;
    struct block_workers *w = b->workers;

    thread_name("block");
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct block_req *req;

        while (!w->line.first && !w->stop) {
            w->idle++;
            pthread_cond_wait(&w->work, &w->lock);
            w->idle--;
        }
        if (!w->line.first)
            break;
        req = take_locked(w);
        pthread_mutex_unlock(&w->lock);
        carry_out(b, req);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* False: there is none and none can be made. */
static bool worker_start_locked(struct block *b)
{
    struct block_workers *w = b->workers;
    sigset_t all, old;
    int rc;

    if (w->threads == WORKERS_MAX)
        return true;
    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&w->thread[w->threads], NULL, worker_thread, b);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return w->threads > 0;
    w->threads++;
    return true;
}

void block_execute(struct block *b, struct block_req *req)
{
    struct block_workers *w = b->workers;
    bool here;

    pthread_mutex_lock(&w->lock);
    here = w->idle <= w->waiting && !worker_start_locked(b);
    if (!here) {
        line_add(&w->line, req);
        w->waiting++;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
    if (here)
        complete(b, req, b->ops->execute(b, req));
}

static struct block_workers *workers_new(void)
{
    struct block_workers *w = calloc(1, sizeof(*w));
    pthread_condattr_t attr;

    if (!w)
        return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    pthread_cond_init(&w->none, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->room, &attr);
    pthread_condattr_destroy(&attr);
    line_init(&w->line);
    line_init(&w->full);
    return w;
}

static void workers_free(struct block_workers *w)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->threads; i++)
        pthread_join(w->thread[i], NULL);
    pthread_cond_destroy(&w->room);
    pthread_cond_destroy(&w->none);
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

/* ---- Requests ------------------------------------------------------------------- */

static int request_check(const struct block *b, const struct block_req *req)
{
    uint64_t sum = 0;

    if (req->op == BLOCK_FLUSH)
        return 0;
    if (req->op != BLOCK_READ && b->info.read_only)
        return -EROFS;
    if (req->offset % BLOCK_SECTOR || req->len % BLOCK_SECTOR || req->offset > b->info.size ||
        req->len > b->info.size - req->offset)
        return -EINVAL;
    if (req->op != BLOCK_READ && req->op != BLOCK_WRITE)
        return 0;
    for (unsigned i = 0; i < req->iovcnt; i++)
        sum += req->iov[i].iov_len;
    return sum == req->len ? 0 : -EINVAL;
}

static void kick(struct block *b)
{
    if (b->uring)
        uring_kick(b->uring);
    else
        b->ops->kick(b);
}

/* A hand-over to another thread costs more than a read from the host's cache. */
static void begin(struct block *b, struct block_req *req)
{
    int code = b->ops->try_now ? b->ops->try_now(b, req) : -EAGAIN;

    if (code != -EAGAIN) {
        complete(b, req, code);
    } else if (b->event_fd >= 0 && b->ops->start(b, b->uring, req)) {
        if (!atomic_load(&b->plugged))
            kick(b);
    } else {
        block_execute(b, req);
    }
}

static void request_begins(struct block_workers *w)
{
    pthread_mutex_lock(&w->lock);
    w->under_way++;
    pthread_mutex_unlock(&w->lock);
}

static void request_count(struct block *b, const struct block_req *req)
{
    if (req->op > BLOCK_WRITE)
        return;
    atomic_fetch_add_explicit(&b->count[req->op], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&b->bytes[req->op], req->len, memory_order_relaxed);
}

int block_try(struct block *b, struct block_req *req)
{
    if (limiter_is_on(b->limiter) || !b->ops->try_now || request_check(b, req) || !req->len ||
        b->ops->try_now(b, req))
        return -EAGAIN;
    request_count(b, req);
    return 0;
}

int block_near(struct block *b, struct block_req *req)
{
    if (limiter_is_on(b->limiter) || !b->near || request_check(b, req) || !req->len)
        return -EAGAIN;
    request_begins(b->workers);
    if (!b->ops->start(b, b->near, req)) {
        requests_over(b->workers, 1);
        return -EAGAIN;
    }
    request_count(b, req);
    uring_kick(b->near);
    return 0;
}

void block_submit(struct block *b, struct block_req *req)
{
    struct block_limiter *limiter = b->limiter;
    int code = request_check(b, req);

    request_begins(b->workers);
    if (!code)
        request_count(b, req);
    if (code || (!req->len && req->op != BLOCK_FLUSH))
        complete(b, req, code);
    else if (!limiter || req->op == BLOCK_FLUSH || !limiter_hold(limiter, req))
        begin(b, req);
}

void block_plug(struct block *b)
{
    atomic_fetch_add(&b->plugged, 1);
}

void block_unplug(struct block *b)
{
    if (atomic_fetch_sub(&b->plugged, 1) == 1 && b->event_fd >= 0)
        kick(b);
}

void block_reap(struct block *b)
{
    unsigned n;

    if (b->event_fd < 0)
        return;
    n = b->uring ? uring_reap(b->uring) : b->ops->reap(b);
    n += b->near ? uring_reap(b->near) : 0;
    if (!n)
        return;
    if (b->settle)
        b->settle(b->settle_opaque);
    requests_over(b->workers, n);
}

/* The device's thread, which waits for event_fd, stays asleep meanwhile. Nothing is lost: descriptors are looked at again. */
static void near_tell(struct block *b, bool on)
{
    struct epoll_event event = {.events = on ? EPOLLIN : 0};

    epoll_ctl(b->event_fd, EPOLL_CTL_MOD, uring_fd(b->near), &event);
}

int block_watch(struct block *b)
{
    if (!b->near || !uring_is_used(b->near))
        return -1;
    pthread_mutex_lock(&b->workers->lock);
    if (!b->watchers++)
        near_tell(b, false);
    pthread_mutex_unlock(&b->workers->lock);
    return uring_fd(b->near);
}

void block_unwatch(struct block *b)
{
    pthread_mutex_lock(&b->workers->lock);
    if (!--b->watchers)
        near_tell(b, true);
    pthread_mutex_unlock(&b->workers->lock);
}

/* Who usually reaps may not: a turn of it, or a while for workers and for him. */
static void wait_a_while(struct block *b)
{
    struct pollfd event = {.fd = b->event_fd, .events = POLLIN};

    kick(b);
    poll(&event, 1, DRAIN_MS);
    block_reap(b);
}

/* Limits, and a wait for room, are for a guest that runs; nobody else waits for them. */
void block_drain(struct block *b)
{
    struct block_limiter *limiter = b->limiter; /* may come meanwhile */
    struct block_workers *w = b->workers;

    if (limiter)
        limiter_open(limiter);
    pthread_mutex_lock(&w->lock);
    w->draining++;
    pthread_cond_broadcast(&w->room);
    while (w->under_way) {
        if (b->event_fd < 0) {
            pthread_cond_wait(&w->none, &w->lock);
            continue;
        }
        pthread_mutex_unlock(&w->lock);
        wait_a_while(b);
        pthread_mutex_lock(&w->lock);
    }
    w->draining--;
    pthread_mutex_unlock(&w->lock);
    if (limiter)
        limiter_shut(limiter);
}

/* ---- Limits --------------------------------------------------------------------- */

int block_set_limits(struct block *b, const uint64_t limit[BLOCK_LIMITS], struct err *err)
{
    struct block_limiter *l = b->limiter;
    int code;

    if (l) {
        limiter_set(l, limit);
        return 0;
    }
    if (!throttle_has_limits(limit))
        return 0;
    code = limiter_new(&l, b, limit, begin, err);
    b->limiter = l;
    return code;
}

void block_get_limits(struct block *b, uint64_t limit[BLOCK_LIMITS])
{
    memset(limit, 0, BLOCK_LIMITS * sizeof(*limit));
    if (b->limiter)
        limiter_get(b->limiter, limit);
}

/* ---- Opening -------------------------------------------------------------------- */

static const struct block_ops *format_named(const char *name, struct err *err)
{
    for (const struct block_ops *const *f = block_formats; *f; f++)
        if (!strcmp((*f)->name, name))
            return *f;
    err_set(err, -EINVAL, "there is no disk format '%s'", name);
    return NULL;
}

static bool has_suffix(const char *path, const char *suffix)
{
    size_t len = strlen(path), n = suffix ? strlen(suffix) : 0;

    return n && len > n && !strcmp(path + len - n, suffix);
}

/* A file that cannot be read looks like nothing: opening it gives the better message. */
static const struct block_ops *format_by_content(const char *path)
{
    uint8_t head[HEAD_SIZE] = {0};
    const struct block_ops *found = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0)
        return NULL;
    if (pread(fd, head, sizeof(head), 0) > 0) {
        for (const struct block_ops *const *f = block_formats; *f && !found; f++)
            if ((*f)->probe && (*f)->probe(head))
                found = *f;
    }
    close(fd);
    return found;
}

static const struct block_ops *format_choose(const struct block_config *cfg, struct err *err)
{
    const struct block_ops *looks;

    if (cfg->format)
        return format_named(cfg->format, err);
    for (const struct block_ops *const *f = block_formats; *f; f++)
        if (has_suffix(cfg->path, (*f)->suffix))
            return *f;
    looks = format_by_content(cfg->path);
    if (!looks)
        return &block_raw;
    err_set(err, -EINVAL, "%s looks like a %s image, but its name does not say so", cfg->path,
            looks->name);
    err_next(err, "Add format=%s if it is one, format=raw if a guest made it look so.",
             looks->name);
    return NULL;
}

int block_format(const struct block_config *cfg, const char **name, struct err *err)
{
    const struct block_ops *ops = format_choose(cfg, err);

    *name = ops ? ops->name : NULL;
    return ops ? 0 : -EINVAL;
}

/* Opens with workers there. */
static int open_format(struct block *b, const struct block_config *cfg, struct err *err)
{
    int code = b->ops->open(b, cfg, err);

    if (code < 0)
        return code;
    if (b->ops->uring)
        code = block_uring_open(b, cfg, err);
    if (!code)
        code = block_set_limits(b, cfg->limit, err);
    if (code < 0) {
        block_uring_close(b);
        b->ops->close(b);
    }
    return code;
}

int block_open(struct block **out, const struct block_config *cfg, struct err *err)
{
    const struct block_ops *ops = format_choose(cfg, err);
    struct block *b;
    int code;

    *out = NULL;
    if (!ops)
        return -EINVAL;
    b = calloc(1, sizeof(*b));
    if (!b)
        return err_set(err, -ENOMEM, "no memory to open %s", cfg->path);
    b->ops = ops;
    b->event_fd = -1;
    b->path = strdup(cfg->path);
    b->workers = b->path ? workers_new() : NULL;
    code = b->workers ? open_format(b, cfg, err)
                      : err_set(err, -ENOMEM, "no memory to open %s", cfg->path);
    if (code < 0) {
        if (b->workers)
            workers_free(b->workers);
        free(b->path);
        free(b);
        return code;
    }
    *out = b;
    return 0;
}

void block_close(struct block *b)
{
    if (!b)
        return;
    block_drain(b);
    limiter_free(b->limiter);
    block_uring_close(b);
    b->ops->close(b);
    workers_free(b->workers);
    free(b->path);
    free(b);
}

int block_sync(struct block *b)
{
    struct block_req flush = {.op = BLOCK_FLUSH};
    bool waits;

    pthread_mutex_lock(&b->workers->lock);
    waits = b->workers->watched;
    pthread_mutex_unlock(&b->workers->lock);
    return waits ? -ENOSPC : b->ops->execute(b, &flush);
}
