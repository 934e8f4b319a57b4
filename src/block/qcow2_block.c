/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 images as disks of a guest: what only moves bytes goes through
 * io_uring, all else to block.h's workers.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "block/block.h"
#include "block/qcow2.h"
#include "block/uring.h"

#define NOW_MAX KIB(64) /* as for raw images */

struct disk {
    struct block *block;
    struct qcow2 *q;
    enum block_cache cache;
};

/* ---- On workers ------------------------------------------------------------------------------- */

static int change(struct disk *d, const struct block_req *req)
{
    switch (req->op) {
    case BLOCK_WRITE:
        return qcow2_writev(d->q, req->iov, req->iovcnt, req->offset, req->len);
    case BLOCK_DISCARD:
        return qcow2_discard(d->q, req->offset, req->len);
    case BLOCK_WRITE_ZEROES:
        return qcow2_write_zeroes(d->q, req->offset, req->len, req->unmap);
    default:
        return -EINVAL;
    }
}

static int disk_execute(struct block *b, struct block_req *req)
{
    struct disk *d = b->priv;
    int r;

    if (req->op == BLOCK_READ)
        return qcow2_readv(d->q, req->iov, req->iovcnt, req->offset, req->len);
    if (req->op == BLOCK_FLUSH)
        return d->cache == BLOCK_UNSAFE ? 0 : qcow2_flush(d->q);
    r = change(d, req);
    if (!r && b->info.writethrough)
        r = qcow2_flush(d->q);
    return r;
}

/* ---- Without them -------------------------------------------------------------------------------- */

static int disk_try_now(struct block *b, struct block_req *req)
{
    struct disk *d = b->priv;
    struct qcow2_place place;
    int r = -EAGAIN;

    if (req->op != BLOCK_READ || req->len > NOW_MAX || req->iovcnt > IOV_MAX ||
        block_cache_is_direct(d->cache) || qcow2_enter(d->q, false, req->offset, req->len, &place))
        return -EAGAIN;
    if (!place.file) {
        for (unsigned i = 0; i < req->iovcnt; i++)
            memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
        r = 0;
    } else if (preadv2(place.file->fd, req->iov, (int)req->iovcnt, (off_t)place.at, RWF_NOWAIT) ==
               (ssize_t)req->len) {
        r = 0;
    }
    qcow2_leave(d->q, &place);
    return r;
}

_Static_assert(sizeof(struct qcow2_place) <= sizeof(((struct uring_op *)0)->own),
               "a place fits into an op");

/* What the kernel did in part, or not at all, a worker does again from the beginning. */
static bool disk_over(struct uring_op *op, int result)
{
    struct disk *d = op->opaque;
    struct block_req *req = op->req;

    qcow2_leave(d->q, (struct qcow2_place *)op->own);
    if (result >= 0 && (uint64_t)result == req->len) {
        req->done(req, 0);
        return true;
    }
    block_execute(d->block, req);
    return false;
}

static bool disk_start(struct block *b, struct uring *u, struct block_req *req)
{
    struct disk *d = b->priv;
    bool write = req->op == BLOCK_WRITE;
    struct qcow2_place *place;
    struct uring_op *op;

    if ((!write && req->op != BLOCK_READ) || (write && b->info.writethrough) ||
        req->iovcnt > IOV_MAX || req->len > INT_MAX)
        return false;
    op = uring_op_get(u);
    if (!op)
        return false;
    op->req = req;
    op->over = disk_over;
    op->opaque = d;
    place = (struct qcow2_place *)op->own;
    if (!qcow2_enter(d->q, write, req->offset, req->len, place)) {
        if (place->file) {
            uring_queue(u, op, file_fd(place->file, req->iov, req->iovcnt, place->at), place->at);
            return true;
        }
        qcow2_leave(d->q, place);
    }
    uring_op_put(u, op);
    return false;
}

/* ---- Opening ------------------------------------------------------------------------------------- */

static void disk_close(struct block *b)
{
    struct disk *d = b->priv;
    int r = qcow2_close(d->q);

    if (r)
        log_error("a disk image could not be written to its end: %s", strerror(-r));
    free(d);
    b->priv = NULL;
}

static int disk_freeze(struct block *b)
{
    return qcow2_freeze(((struct disk *)b->priv)->q);
}

static void disk_thaw(struct block *b)
{
    qcow2_thaw(((struct disk *)b->priv)->q);
}

static int disk_describe(struct block *b, const struct block_config *cfg, struct err *err)
{
    struct disk *d = b->priv;
    struct qcow2_info info;

    qcow2_get_info(d->q, &info);
    b->info = (struct block_info){
        .size = info.size - info.size % BLOCK_SECTOR,
        .block_size = info.cluster_size < 4096 ? info.cluster_size : 4096,
        .discard_granularity = info.cluster_size,
        .read_only = cfg->read_only,
        .writethrough = block_cache_is_writethrough(cfg->cache),
    };
    if (b->info.size)
        return 0;
    err_set(err, -EINVAL, "%s is empty: a disk needs a size", cfg->path);
    return err_next(err, "lodge image resize %s 10G gives it one.", cfg->path);
}

static int disk_open(struct block *b, const struct block_config *cfg, struct err *err)
{
    const struct qcow2_config qc = {.path = cfg->path,
                                    .read_only = cfg->read_only,
                                    .direct = block_cache_is_direct(cfg->cache)};
    struct disk *d = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return err_set(err, -ENOMEM, "no memory to open %s", cfg->path);
    *d = (struct disk){.block = b, .cache = cfg->cache};
    r = qcow2_open(&d->q, &qc, err);
    if (r) {
        free(d);
        return r;
    }
    b->priv = d;
    r = disk_describe(b, cfg, err);
    if (r)
        disk_close(b);
    return r;
}

const struct block_ops block_qcow2 = {
    .name = "qcow2",
    .suffix = ".qcow2",
    .probe = qcow2_probe,
    .open = disk_open,
    .close = disk_close,
    .execute = disk_execute,
    .try_now = disk_try_now,
    .start = disk_start,
    .uring = true,
    .freeze = disk_freeze,
    .thaw = disk_thaw,
};
