/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/uring.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

#define OPS    256 /* under way at once; the completion queue holds twice that */
#define BATCH  64
#define TRIES  100
#define TRY_US 100

struct uring {
    struct io_uring ring;
    pthread_mutex_t submit_lock; /* submission queue, free list */
    pthread_mutex_t reap_lock;   /* completion queue */
    struct uring_op *free;
    unsigned used;                  /* ops that are not free */
    struct uring_op *first, **last; /* queued, and not yet given to the kernel */
    bool dead;                      /* the kernel takes nothing any more */
    struct uring_op op[OPS];
};

/*
 * What is here is all that the ring will ever do: operations in a ring pass by the filter of system calls that a guest's
 * process has. A kernel without (before 5.10) leaves it as it is.
 */
static void limit_ops(struct io_uring *ring)
{
    static const uint8_t ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC};
    struct io_uring_restriction res[ARRAY_SIZE(ops) + 1] = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++)
        res[i] =
            (struct io_uring_restriction){.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = ops[i]};
    /* No flag of an operation has to be set, and none but this may be. */
    res[ARRAY_SIZE(ops)].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
    if (!(ring->flags & IORING_SETUP_R_DISABLED))
        return;
    /* liburing 2.3 declares functions for these, but does not have them. */
    syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_RESTRICTIONS, res,
            ARRAY_SIZE(res));
    syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* What a container may refuse; later kernels need fewer interruptions (io_uring_setup(2)). */
static int ring_init(struct io_uring *ring, bool busy)
{
    static const unsigned flags[] = {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_R_DISABLED,
                                     IORING_SETUP_R_DISABLED, 0};
    int code = -EINVAL;

    for (unsigned i = busy; code == -EINVAL && i < ARRAY_SIZE(flags); i++)
        code = io_uring_queue_init(OPS, ring, flags[i]);
    if (code < 0)
        return code;
    limit_ops(ring);
    /* Without NODROP completions could be lost. */
    if (ring->features & IORING_FEAT_NODROP)
        return 0;
    io_uring_queue_exit(ring);
    return -ENOSYS;
}

int uring_new(struct uring **out, bool busy)
{
    struct uring *u = calloc(1, sizeof(*u));
    int code;

    *out = NULL;
    if (!u)
        return -ENOMEM;
    code = ring_init(&u->ring, busy);
    if (code < 0) {
        free(u);
        return code;
    }
    pthread_mutex_init(&u->submit_lock, NULL);
    pthread_mutex_init(&u->reap_lock, NULL);
    u->last = &u->first;
    for (unsigned i = 0; i < OPS; i++) {
        u->op[i].next = u->free;
        u->free = &u->op[i];
    }
    *out = u;
    return 0;
}

void uring_free(struct uring *u)
{
    if (!u)
        return;
    io_uring_queue_exit(&u->ring);
    pthread_mutex_destroy(&u->reap_lock);
    pthread_mutex_destroy(&u->submit_lock);
    free(u);
}

int uring_fd(const struct uring *u)
{
    return u->ring.ring_fd;
}

struct uring_op *uring_op_get(struct uring *u)
{
    struct uring_op *op;

    pthread_mutex_lock(&u->submit_lock);
    op = u->dead ? NULL : u->free;
    if (op) {
        u->free = op->next;
        u->used++;
    }
    pthread_mutex_unlock(&u->submit_lock);
    return op;
}

bool uring_is_used(struct uring *u)
{
    bool used;

    pthread_mutex_lock(&u->submit_lock);
    used = u->used;
    pthread_mutex_unlock(&u->submit_lock);
    return used;
}

void uring_op_put(struct uring *u, struct uring_op *op)
{
    pthread_mutex_lock(&u->submit_lock);
    op->next = u->free;
    u->free = op;
    u->used--;
    pthread_mutex_unlock(&u->submit_lock);
}

static void drop_queued_locked(struct uring *u, unsigned n)
{
    for (; n && u->first; n--)
        u->first = u->first->next;
    if (!u->first)
        u->last = &u->first;
}

/*
 * EBUSY: there are too many completions, and reaping goes on with this. Else
 * it is short of memory or does not want to; then what waits is given back.
 */
static struct uring_op *kick_locked(struct uring *u)
{
    struct uring_op *rest;
    int n = 0;

    for (unsigned tries = 0; u->first && tries < TRIES; tries++) {
        n = io_uring_submit(&u->ring);
        if (n == -EBUSY)
            return NULL;
        if (n > 0)
            drop_queued_locked(u, (unsigned)n);
        else if (n != -EINTR && n != -EAGAIN)
            break;
        else if (n == -EAGAIN)
            usleep(TRY_US);
    }
    if (!u->first || u->dead)
        return NULL;
    u->dead = true;
    rest = u->first;
    drop_queued_locked(u, OPS);
    return rest;
}

void uring_queue(struct uring *u, struct uring_op *op, int fd, uint64_t at)
{
    const struct block_req *req = op->req;
    struct io_uring_sqe *sqe;

    pthread_mutex_lock(&u->submit_lock);
    /* There are as many ops as entries, and a queued op has one of each. */
    sqe = io_uring_get_sqe(&u->ring);
    if (req->op == BLOCK_FLUSH)
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    else if (req->op == BLOCK_WRITE)
        io_uring_prep_writev(sqe, fd, req->iov, req->iovcnt, at);
    else
        io_uring_prep_readv(sqe, fd, req->iov, req->iovcnt, at);
    io_uring_sqe_set_data(sqe, op);
    op->next = NULL;
    *u->last = op;
    u->last = &op->next;
    pthread_mutex_unlock(&u->submit_lock);
}

void uring_kick(struct uring *u)
{
    struct uring_op *rest, *next;

    pthread_mutex_lock(&u->submit_lock);
    rest = kick_locked(u);
    pthread_mutex_unlock(&u->submit_lock);
    for (; rest; rest = next) {
        next = rest->next;
        rest->over(rest, -ECANCELED);
        uring_op_put(u, rest);
    }
}

struct finished {
    struct uring_op *op;
    int result;
};

static unsigned take_finished(struct uring *u, struct finished *f)
{
    struct io_uring_cqe *cqe[BATCH];
    unsigned n;

    pthread_mutex_lock(&u->reap_lock);
    n = io_uring_peek_batch_cqe(&u->ring, cqe, BATCH);
    for (unsigned i = 0; i < n; i++)
        f[i] = (struct finished){io_uring_cqe_get_data(cqe[i]), cqe[i]->res};
    io_uring_cq_advance(&u->ring, n);
    pthread_mutex_unlock(&u->reap_lock);
    /* The kernel hands on what the submitting thread wrote, but C knows of locks only. */
    if (n) {
        pthread_mutex_lock(&u->submit_lock);
        pthread_mutex_unlock(&u->submit_lock);
    }
    return n;
}

unsigned uring_reap(struct uring *u)
{
    struct finished f[BATCH];
    unsigned n, done = 0;

    /* A turn, not all there ever comes: who waits for these is told of them first. */
    n = take_finished(u, f);
    for (unsigned i = 0; i < n; i++) {
        done += f[i].op->over(f[i].op, f[i].result);
        uring_op_put(u, f[i].op);
    }
    if (n)
        uring_kick(u);
    return done;
}

/* Of the two rings; without this there is the first alone. */
static int near_open(struct block *b)
{
    struct epoll_event ring = {.events = EPOLLIN}, near = {.events = EPOLLIN};
    int code = uring_new(&b->near, true);

    if (code < 0)
        return code;
    b->event_fd = epoll_create1(EPOLL_CLOEXEC);
    if (b->event_fd < 0 || epoll_ctl(b->event_fd, EPOLL_CTL_ADD, uring_fd(b->uring), &ring) < 0 ||
        epoll_ctl(b->event_fd, EPOLL_CTL_ADD, uring_fd(b->near), &near) < 0)
        return -errno;
    return 0;
}

static void near_close(struct block *b)
{
    if (!b->near)
        return;
    if (b->event_fd >= 0)
        close(b->event_fd);
    uring_free(b->near);
    b->near = NULL;
}

int block_uring_open(struct block *b, const struct block_config *cfg, struct err *err)
{
    int code;

    if (cfg->aio == BLOCK_AIO_THREADS)
        return 0;
    code = uring_new(&b->uring, false);
    if (!code) {
        if (near_open(b) < 0) {
            near_close(b);
            b->event_fd = uring_fd(b->uring);
        }
        return 0;
    }
    if (cfg->aio == BLOCK_AIO_AUTO) {
        log_info("%s: no io_uring here (%s), threads do its work", cfg->path, strerror(-code));
        return 0;
    }
    err_set(err, code, "cannot use io_uring for %s: %s", cfg->path, strerror(-code));
    return err_next(err, "Containers and sysctl kernel.io_uring_disabled may forbid it; "
                         "aio=threads does without.");
}

void block_uring_close(struct block *b)
{
    near_close(b);
    uring_free(b->uring);
    b->uring = NULL;
}
