/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/qcow2_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint8_t zeroes[KIB(64)];

int file_fd(const struct qcow2_file *f, const struct iovec *iov, unsigned n, uint64_t off)
{
    uint64_t len = 0;

    if (!f->direct)
        return f->fd;
    for (unsigned i = 0; i < n; i++)
        len += iov[i].iov_len;
    return direct_choose(f->direct, iov, n, off, len);
}

static ssize_t fd_preadv(struct qcow2_file *f, const struct iovec *iov, int n, uint64_t off)
{
    ssize_t r =
        preadv(file_fd(f, iov, (unsigned)n, off), iov, n < IOV_MAX ? n : IOV_MAX, (off_t)off);

    return r < 0 ? -errno : r;
}

static ssize_t fd_pwritev(struct qcow2_file *f, const struct iovec *iov, int n, uint64_t off)
{
    ssize_t r =
        pwritev(file_fd(f, iov, (unsigned)n, off), iov, n < IOV_MAX ? n : IOV_MAX, (off_t)off);

    return r < 0 ? -errno : r;
}

static int fd_sync(struct qcow2_file *f)
{
    return direct_sync(f->fd);
}

static int fd_size(struct qcow2_file *f, uint64_t *size)
{
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return -errno;
    *size = (uint64_t)st.st_size;
    if (S_ISBLK(st.st_mode))
        return ioctl(f->fd, BLKGETSIZE64, size) < 0 ? -errno : 0;
    return S_ISREG(st.st_mode) ? 0 : -EINVAL;
}

static int fd_resize(struct qcow2_file *f, uint64_t size)
{
    return ftruncate(f->fd, (off_t)size) < 0 ? -errno : 0;
}

static void fd_punch(struct qcow2_file *f, uint64_t off, uint64_t len)
{
    fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
}

const struct qcow2_file_ops qcow2_file_fd = {
    .preadv = fd_preadv,
    .pwritev = fd_pwritev,
    .sync = fd_sync,
    .size = fd_size,
    .resize = fd_resize,
    .punch = fd_punch,
};

/* Drop the first `done` bytes of what is left of an iovec. */
static void iov_advance(struct iovec **iov, int *n, size_t done)
{
    while (*n && done >= (*iov)->iov_len) {
        done -= (*iov)->iov_len;
        (*iov)++;
        (*n)--;
    }
    if (*n) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + done;
        (*iov)->iov_len -= done;
    }
}

int file_readv(struct qcow2_file *f, struct iovec *iov, int n, uint64_t off)
{
    iov_advance(&iov, &n, 0);
    while (n) {
        ssize_t r = f->ops->preadv(f, iov, n, off);

        if (r == -EINTR)
            continue;
        if (r < 0)
            return (int)r;
        if (!r) {
            for (int i = 0; i < n; i++)
                memset(iov[i].iov_base, 0, iov[i].iov_len);
            return 0;
        }
        off += (uint64_t)r;
        iov_advance(&iov, &n, (size_t)r);
    }
    return 0;
}

int file_read(struct qcow2_file *f, void *buf, size_t len, uint64_t off)
{
    struct iovec iov = {buf, len};

    return file_readv(f, &iov, 1, off);
}

int file_writev(struct qcow2_file *f, struct iovec *iov, int n, uint64_t off)
{
    iov_advance(&iov, &n, 0);
    while (n) {
        ssize_t r = f->ops->pwritev(f, iov, n, off);

        if (r == -EINTR)
            continue;
        if (r <= 0)
            return r ? (int)r : -EIO;
        off += (uint64_t)r;
        iov_advance(&iov, &n, (size_t)r);
    }
    return 0;
}

int file_write(struct qcow2_file *f, const void *buf, size_t len, uint64_t off)
{
    struct iovec iov = {(void *)buf, len};

    return file_writev(f, &iov, 1, off);
}

int file_write_zeroes(struct qcow2_file *f, uint64_t off, uint64_t len)
{
    int r = 0;

    while (len && !r) {
        size_t part = len < sizeof(zeroes) ? (size_t)len : sizeof(zeroes);

        r = file_write(f, zeroes, part, off);
        off += part;
        len -= part;
    }
    return r;
}

int iov_part(const struct iovec *iov, unsigned n, size_t skip, size_t len, struct iovec *out,
             int max, size_t *got)
{
    int used = 0;

    *got = 0;
    for (; n && len && used < max; n--, iov++) {
        size_t part;

        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        part = iov->iov_len - skip < len ? iov->iov_len - skip : len;
        out[used++] = (struct iovec){(char *)iov->iov_base + skip, part};
        *got += part;
        len -= part;
        skip = 0;
    }
    return used;
}
