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

struct block_config {
    const char *path;
    const char *format; /* name of a format; NULL: from the file's name (see block_open) */
    bool read_only;
    enum block_cache cache;
    enum block_aio aio; /* AUTO: io_uring where there is one */
};

#endif
