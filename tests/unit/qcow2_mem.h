/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A file in memory under a qcow2 image, for one thread. */
#ifndef LODGE_TESTS_QCOW2_MEM_H
#define LODGE_TESTS_QCOW2_MEM_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/qcow2.h"

struct mem_file {
    uint8_t *data; /* `max` bytes, zeroes behind `size` */
    uint64_t size, max;
    int fail;  /* writes and syncs that still go well; -1: all */
    bool once; /* only one fails then */
};

static inline int mem_fails(struct mem_file *m)
{
    if (m->fail < 0)
        return 0;
    if (m->fail--)
        return 0;
    m->fail = m->once ? -1 : 0;
    return -EIO;
}

static inline ssize_t mem_preadv(struct qcow2_file *f, const struct iovec *iov, int n, uint64_t off)
{
    const struct mem_file *m = f->opaque;
    ssize_t got = 0;

    for (; n && off < m->size; n--, iov++) {
        uint64_t len = iov->iov_len < m->size - off ? iov->iov_len : m->size - off;

        memcpy(iov->iov_base, m->data + off, len);
        off += len;
        got += (ssize_t)len;
    }
    return got;
}

static inline ssize_t mem_pwritev(struct qcow2_file *f, const struct iovec *iov, int n,
                                  uint64_t off)
{
    struct mem_file *m = f->opaque;
    ssize_t got = 0;
    int r = mem_fails(m);

    if (r)
        return r;
    for (; n; n--, iov++) {
        if (off > m->max || iov->iov_len > m->max - off)
            return -ENOSPC;
        memcpy(m->data + off, iov->iov_base, iov->iov_len);
        off += iov->iov_len;
        got += (ssize_t)iov->iov_len;
        if (m->size < off)
            m->size = off;
    }
    return got;
}

static inline int mem_sync(struct qcow2_file *f)
{
    return mem_fails(f->opaque);
}

static inline int mem_size(struct qcow2_file *f, uint64_t *size)
{
    *size = ((struct mem_file *)f->opaque)->size;
    return 0;
}

static inline int mem_resize(struct qcow2_file *f, uint64_t size)
{
    struct mem_file *m = f->opaque;

    if (size > m->max)
        return -ENOSPC;
    if (size < m->size)
        memset(m->data + size, 0, m->size - size);
    m->size = size;
    return 0;
}

static inline void mem_punch(struct qcow2_file *f, uint64_t off, uint64_t len)
{
    struct mem_file *m = f->opaque;

    if (off < m->size)
        memset(m->data + off, 0, len < m->size - off ? len : m->size - off);
}

static const struct qcow2_file_ops mem_ops = {
    .preadv = mem_preadv,
    .pwritev = mem_pwritev,
    .sync = mem_sync,
    .size = mem_size,
    .resize = mem_resize,
    .punch = mem_punch,
};

#endif
