/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is wanted of a disk image. */
#ifndef LODGE_BLOCK_CONFIG_H
#define LODGE_BLOCK_CONFIG_H

#include "base/types.h"

/* What is kept where, and when a write is safe. */
enum block_cache {
    BLOCK_WRITEBACK,    /* in the host's cache; safe with the next flush */
    BLOCK_NONE,         /* past the host's cache; safe with the next flush */
    BLOCK_WRITETHROUGH, /* in the host's cache; each write is safe when it is done */
    BLOCK_DIRECTSYNC,   /* past the host's cache; each write is safe when it is done */
    BLOCK_UNSAFE,       /* in the host's cache; flushes do nothing */
};

static inline bool block_cache_is_direct(enum block_cache cache)
{
    return cache == BLOCK_NONE || cache == BLOCK_DIRECTSYNC;
}

static inline bool block_cache_is_writethrough(enum block_cache cache)
{
    return cache == BLOCK_WRITETHROUGH || cache == BLOCK_DIRECTSYNC;
}

enum block_aio { BLOCK_AIO_AUTO, BLOCK_AIO_URING, BLOCK_AIO_THREADS };

/* Of both together, or of reads or of all that changes the disk; flushes are free. */
enum block_limit {
    BLOCK_IOPS, /* operations a second */
    BLOCK_IOPS_RD,
    BLOCK_IOPS_WR,
    BLOCK_BPS, /* bytes a second that are read or written */
    BLOCK_BPS_RD,
    BLOCK_BPS_WR,
    BLOCK_LIMITS
};

/* Memory that others can map, all of it at `base` here. */
struct block_memory {
    int fd;
    void *base;
    uint64_t size;
};

#define BLOCK_VHOST_USER                                                                           \
    "vhost-user" /* the format of what has a back end elsewhere; path: its socket */

struct block_config {
    const char *path;
    const char *format; /* name of a format; NULL: from the file's name (see block_open) */
    bool read_only;
    enum block_cache cache;
    enum block_aio aio;           /* AUTO: io_uring where there is one */
    uint64_t limit[BLOCK_LIMITS]; /* 0: none */
    /* For vhost-user, where the buffers of all requests are. */
    const struct block_memory *memory;
    int connection; /* a connected socket, closed with the image, of which path is only the name; 0: none */
    unsigned answer_ms; /* vhost-user: how long the back end may be silent, 0: a default */
};

#endif
