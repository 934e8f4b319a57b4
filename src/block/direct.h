/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file with, on demand, a second descriptor that goes past the host's cache.
 * That one is for whole pages only: what touches a part of a page takes the
 * way through the cache, where the kernel writes pages as a whole, and a part
 * written directly at the same time could be lost. The kernel keeps the two
 * ways coherent as long as nobody writes to one page by both at once.
 */
#ifndef LODGE_BLOCK_DIRECT_H
#define LODGE_BLOCK_DIRECT_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"

struct direct {
    int fd;
    int direct_fd;      /* -1: none */
    unsigned granule;   /* of offsets and lengths */
    unsigned mem_align; /* of buffers */
};

int direct_open(struct direct *d, const char *path, int flags); /* -errno */
/* For a file that is open. */
void direct_init(struct direct *d, int fd);
void direct_fini(struct direct *d);

/* Go past the cache from now on. `path` is for the message. */
int direct_enable(struct direct *d, const char *path, struct err *err);

/* The descriptor for a transfer between these buffers and the file at `at`. */
int direct_choose(const struct direct *d, const struct iovec *iov, unsigned n, uint64_t at,
                  uint64_t len);

/* fdatasync. For want of room the kernel has lost what was written, and trying again would not bring it back: -EIO then, too. */
int direct_sync(int fd);

#endif
