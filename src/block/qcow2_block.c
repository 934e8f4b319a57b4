/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcow2 images as disks of a guest: block.h's workers call what blocks. */
#include "base/log.h"
#include "block/block.h"
#include "block/qcow2.h"

#include <errno.h>
#include <string.h>

static int qcow2_execute(struct block *b, struct block_req *req)
{
    struct qcow2 *q = b->priv;

    switch (req->op) {
    case BLOCK_READ:
        return qcow2_readv(q, req->iov, req->iovcnt, req->offset, req->len);
    case BLOCK_WRITE:
        return qcow2_writev(q, req->iov, req->iovcnt, req->offset, req->len);
    case BLOCK_FLUSH:
        return qcow2_flush(q);
    case BLOCK_DISCARD:
        return qcow2_discard(q, req->offset, req->len);
    case BLOCK_WRITE_ZEROES:
        return qcow2_write_zeroes(q, req->offset, req->len, req->unmap);
    }
    return -EINVAL;
}

static void qcow2_block_close(struct block *b)
{
    int r = qcow2_close(b->priv);

    if (r)
        log_error("a disk image could not be written to its end: %s", strerror(-r));
    b->priv = NULL;
}

static int qcow2_block_open(struct block *b, const struct block_config *cfg, struct err *err)
{
    struct qcow2_config qc = {.path = cfg->path, .read_only = cfg->read_only};
    struct qcow2_info info;
    struct qcow2 *q;
    int r = qcow2_open(&q, &qc, err);

    if (r)
        return r;
    qcow2_get_info(q, &info);
    b->info = (struct block_info){
        .size = info.size - info.size % BLOCK_SECTOR,
        .block_size = info.cluster_size < 4096 ? info.cluster_size : 4096,
        .discard_granularity = info.cluster_size,
        .read_only = cfg->read_only,
    };
    if (!b->info.size) {
        qcow2_close(q);
        err_set(err, -EINVAL, "%s is empty: a disk needs a size", cfg->path);
        return err_next(err, "lodge image resize %s 10G gives it one.", cfg->path);
    }
    b->priv = q;
    return 0;
}

const struct block_ops block_qcow2 = {
    .name = "qcow2",
    .suffix = ".qcow2",
    .probe = qcow2_probe,
    .open = qcow2_block_open,
    .close = qcow2_block_close,
    .execute = qcow2_execute,
};
