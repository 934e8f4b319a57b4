/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disk images as devices see them: a size, requests that complete through a
 * callback, and a format behind a table. A format that blocks supplies
 * `execute`, which worker threads of block.c call; what need not block it takes
 * with `try_now` and `start`.
 */
#ifndef LODGE_BLOCK_BLOCK_H
#define LODGE_BLOCK_BLOCK_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"
#include "block/config.h"

#define BLOCK_SECTOR                                                                               \
    512 /* offsets, lengths and sizes are multiples of it, whatever the image's own units */

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

/*
 * Filled by the caller, who keeps it and what it points to until `done` is
 * called. `done` comes exactly once, on any thread, possibly before
 * block_submit returns; from then on the request is the caller's again.
 */
struct block_req {
    enum block_op op;
    bool unmap;           /* WRITE_ZEROES: the space may be given back */
    uint64_t offset, len; /* bytes; READ, WRITE: len is the sum over iov; FLUSH: not looked at */
    const struct iovec *iov;
    unsigned iovcnt;
    /* 0, or a negative errno; then what was read or written in part is undefined. */
    void (*done)(struct block_req *req, int result);
    struct block_req *next; /* block.c's while the request is under way */
};

struct block_info {
    uint64_t size; /* bytes */
    uint32_t
        block_size; /* what is written in one piece without reading first; at least BLOCK_SECTOR */
    uint32_t discard_granularity; /* 0: discards do nothing */
    bool read_only;
    bool writethrough; /* every write is safe when it is done */
    unsigned iov_max;  /* elements of a request's iov, 0: any number */
};

struct block;
struct block_workers;
struct block_limiter;
struct uring;

struct block_ops {
    const char *name;   /* as in format=NAME */
    const char *suffix; /* of file names that mean this format without saying so; NULL: none */
    /* Do these first bytes of a file (at least 512, zeroes past its end) belong to this format? NULL: cannot be told. */
    bool (*probe)(const uint8_t *head);
    /* Open, lock (block/lock.h), fill b->info and b->priv. On failure nothing is held. */
    int (*open)(struct block *b, const struct block_config *cfg, struct err *err);
    /* Everything that was acknowledged is in the file, though not flushed. No request is under way. */
    void (*close)(struct block *b);
    /*
     * Carry a request out on the calling thread: 0 or a negative errno. Any
     * number of threads at once; checked by then: range, alignment to
     * BLOCK_SECTOR, read_only. A FLUSH covers every request that was done
     * before it was submitted. DISCARD and WRITE_ZEROES come with any
     * granularity; a format that does not discard returns 0.
     */
    int (*execute)(struct block *b, struct block_req *req);
    /*
     * NULL, or the same for what can be had without waiting, such as a read from the host's cache. -EAGAIN for
     * anything else, also what was done in part: execute is called then.
     */
    int (*try_now)(struct block *b, struct block_req *req);
    /*
     * NULL, or: begin a request, which a later `reap` completes; after `kick` at the latest it is on its way. False:
     * execute is called instead. Any thread, which must not end before its requests are over.
     */
    bool (*start)(struct block *b, struct uring *u, struct block_req *req);
    void (*kick)(struct block *b);
    /*
     * With `start`, on any thread: for requests that are over, `done`, or block_execute if they have to be carried out
     * once more. The number of calls of `done`. Does not wait.
     */
    unsigned (*reap)(struct block *b);
    /* `start` uses the ring that it is given, and block.c kicks and reaps it. Without (see cfg->aio) `start` is not called. */
    bool uring;
    /*
     * NULL, or: everything acknowledged is on stable storage, nothing will be written until `thaw`, and the file can be
     * opened by another image as its backing file. No request is under way. A negative errno: nothing has changed.
     */
    int (*freeze)(struct block *b);
    void (*thaw)(struct block *b);
};

struct block {
    const struct block_ops *ops;
    struct block_info info; /* constant once open */
    void *priv;             /* the format's */
    char *path;             /* of the image that was opened, for messages */
    struct block_workers *workers;
    struct block_limiter *_Atomic limiter; /* NULL: there were never any limits */
    struct uring *uring;                   /* NULL: none */
    struct uring *near;                    /* NULL, or that of block_near */
    int event_fd; /* -1, or whoever submits calls block_reap when it can be read */
    /* NULL, or called by block_reap after some `done`, before these requests count as over; set before the first. */
    void (*settle)(void *opaque);
    void *settle_opaque;
    _Atomic unsigned plugged;
    unsigned watchers; /* between block_watch and block_unwatch; under the workers' lock */
    _Atomic uint64_t count[2],
        bytes[2]; /* reads and writes that were begun, and what they are to move */
};

/* Formats built in, NULL-terminated. */
extern const struct block_ops *const block_formats[];
extern const struct block_ops block_raw;
extern const struct block_ops block_qcow2;
extern const struct block_ops block_vhost_user;

/*
 * Open an image. Without cfg->format the suffix of its name decides, else it
 * is raw; but a file that looks like another format's is then refused, since
 * what a raw disk holds is up to its guest, and a header could name any file
 * of the host. -EBUSY when somebody else has it open for writing.
 */
int block_open(struct block **b, const struct block_config *cfg, struct err *err);

/* The name of the format that block_open would take it for; -EINVAL as there. */
int block_format(const struct block_config *cfg, const char **name, struct err *err);

/* Waits for requests under way. NULL is fine. */
void block_close(struct block *b);

/*
 * Start a request. What cannot be right (beyond the end, not in whole
 * sectors, an iov of another length) completes with -EINVAL, a write to a
 * read-only image with -EROFS. Any thread; may block for a moment. What finds no
 * room on the host waits until there is some, or for block_drain, which lets it
 * complete with -ENOSPC or -EDQUOT.
 */
void block_submit(struct block *b, struct block_req *req);

/*
 * What block_submit would have done without waiting and on this thread: 0. Else -EAGAIN: nothing has happened. `done` is not
 * called. The caller sees to it that block_drain is not called meanwhile.
 */
int block_try(struct block *b, struct block_req *req);

/*
 * Begin a request as block_submit does, where that is possible without waiting and without another thread: 0. Else -EAGAIN:
 * nothing has happened. The caller's thread may end before the request is over, which must be a READ, but it should not.
 */
int block_near(struct block *b, struct block_req *req);

/*
 * For a thread that has called block_near and has nothing else to do: a descriptor that can be read when block_reap has
 * something to do, or -1 when nothing is under way that began so. From then to block_unwatch, which follows unless it was
 * -1, event_fd need not tell of it. Any number of threads.
 */
int block_watch(struct block *b);
void block_unwatch(struct block *b);

/*
 * Between the two, on one thread, requests may be held back so that they start
 * together. Pairs nest.
 */
void block_plug(struct block *b);
void block_unplug(struct block *b);

/* Complete what is over and waits behind event_fd. Any thread; fine without an event_fd. */
void block_reap(struct block *b);

/* Wait until everything submitted so far is done, callbacks included. Not from a callback. */
void block_drain(struct block *b);

/*
 * Other limits from now on (see block_config), also for requests that wait because of the present ones. -ENOMEM or the like:
 * those that there were stay. Any thread, but one at a time.
 */
int block_set_limits(struct block *b, const uint64_t limit[BLOCK_LIMITS], struct err *err);
void block_get_limits(struct block *b, uint64_t limit[BLOCK_LIMITS]);

/*
 * Go on with the image that cfg names, a qcow2 image that stands on the present one and has no data of its own: what is read
 * stays the same, what is written goes there. The present one is written no more, and its lock lets others read it. Size
 * and properties, of which a guest may have been told, stay. The caller has drained and lets nobody submit; it takes the
 * time of a flush. -ENOTSUP when the present image has no file, others from the system; then all is as before. Without
 * effect for an image that is read-only.
 */
int block_overlay(struct block *b, const struct block_config *cfg, struct err *err);

/*
 * Have what was written on stable storage, on this thread. Not while block_overlay runs. A negative errno; -ENOSPC also when
 * requests wait for room, which a drain would end with errors.
 */
int block_sync(struct block *b);

/* For formats: carry out on a worker. */
void block_execute(struct block *b, struct block_req *req);

#endif
