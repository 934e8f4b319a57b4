/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file under an image. The table is there for tests, which record what is
 * written and let it fail; everybody else uses qcow2_file_fd.
 */
#ifndef LODGE_BLOCK_QCOW2_FILE_H
#define LODGE_BLOCK_QCOW2_FILE_H

#include <sys/uio.h>

#include "base/types.h"
#include "block/direct.h"

struct qcow2_file;

/* Like the system calls, but a negative errno instead of -1; all from any thread. */
struct qcow2_file_ops {
    ssize_t (*preadv)(struct qcow2_file *f, const struct iovec *iov, int n, uint64_t off);
    ssize_t (*pwritev)(struct qcow2_file *f, const struct iovec *iov, int n, uint64_t off);
    int (*sync)(struct qcow2_file *f);
    int (*size)(struct qcow2_file *f, uint64_t *size);
    int (*resize)(struct qcow2_file *f, uint64_t size);
    /* A hint: the bytes may be given back, and then read as zero. */
    void (*punch)(struct qcow2_file *f, uint64_t off, uint64_t len);
};

struct qcow2_file {
    const struct qcow2_file_ops *ops;
    int fd;
    const struct direct *direct; /* NULL: never past the host's cache */
    void *opaque;                /* the table's */
};

extern const struct qcow2_file_ops qcow2_file_fd;

/* The descriptor for a transfer between these buffers and the file at `off`; with qcow2_file_fd only. */
int file_fd(const struct qcow2_file *f, const struct iovec *iov, unsigned n, uint64_t off);

/*
 * All `len` bytes, or a negative errno. Behind the end of the file there are
 * zeroes. file_readv changes the elements of iov.
 */
int file_readv(struct qcow2_file *f, struct iovec *iov, int n, uint64_t off);
int file_read(struct qcow2_file *f, void *buf, size_t len, uint64_t off);

/* All bytes, or a negative errno (then any part was written). file_writev changes the elements of iov. */
int file_writev(struct qcow2_file *f, struct iovec *iov, int n, uint64_t off);
int file_write(struct qcow2_file *f, const void *buf, size_t len, uint64_t off);
int file_write_zeroes(struct qcow2_file *f, uint64_t off, uint64_t len);

/* The part of an iovec that begins `skip` bytes in and has up to `len`; elements used of out[max], bytes in *got. */
int iov_part(const struct iovec *iov, unsigned n, size_t skip, size_t len, struct iovec *out,
             int max, size_t *got);

#endif
