/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests to files through io_uring. Whoever waits polls uring_fd and calls
 * uring_reap; there is no thread. Any thread may call any of these functions,
 * but one that called uring_queue or uring_kick should not end before what it
 * began is over: the kernel may take that back with the thread, and what it
 * takes back ends with an error.
 */
#ifndef LODGE_BLOCK_URING_H
#define LODGE_BLOCK_URING_H

#include "base/err.h"
#include "block/block.h"

struct uring;

/* Something under way. What `over` needs besides the request goes into `own`. */
struct uring_op {
    struct block_req *req;
    /*
     * What the kernel said: bytes moved, 0 for a flush, a negative errno;
     * -ECANCELED: nothing was done. The op is free again afterwards. True:
     * req->done was called; not after -ECANCELED.
     */
    bool (*over)(struct uring_op *op, int result);
    void *opaque;
    uint64_t own[6];
    struct uring_op *next; /* the ring's */
};

/*
 * -errno (ENOSYS, EPERM) where there is none, or none that is good enough; *u is NULL then. `busy`: threads that seldom
 * enter the kernel by themselves will submit, and are interrupted for what is over.
 */
int uring_new(struct uring **u, bool busy);
void uring_free(struct uring *u); /* nothing is under way; NULL is fine */

/* Can be read when uring_reap has something to do. */
int uring_fd(const struct uring *u);

/* An op to fill in and queue, or NULL: as many are under way as can be. */
struct uring_op *uring_op_get(struct uring *u);
void uring_op_put(struct uring *u, struct uring_op *op); /* one that was not queued */

/*
 * The request's bytes from or to `fd` at `at`, or fdatasync for a FLUSH; at
 * most IOV_MAX elements. It starts with the next uring_kick.
 */
void uring_queue(struct uring *u, struct uring_op *op, int fd, uint64_t at);
void uring_kick(struct uring *u);

/* Is anything under way, or not reaped yet? */
bool uring_is_used(struct uring *u);

/* Call `over` for what is; the number of those that returned true. Does not wait. */
unsigned uring_reap(struct uring *u);

/*
 * For block.c: b->uring, b->near and b->event_fd, as cfg->aio says. Without them b->uring is NULL and workers do it all.
 * close is idempotent.
 */
int block_uring_open(struct block *b, const struct block_config *cfg, struct err *err);
void block_uring_close(struct block *b);

#endif
