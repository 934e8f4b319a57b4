/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of memory where the kernel does not say: what every disk is content with. */
#define MEM_ALIGN_UNKNOWN 4096
#define MEM_ALIGN_DEVICE  512

void direct_init(struct direct *d, int fd)
{
    *d = (struct direct){.fd = fd, .direct_fd = -1, .granule = PAGE_SIZE, .mem_align = 1};
}

int direct_open(struct direct *d, const char *path, int flags)
{
    direct_init(d, open(path, flags));
    return d->fd < 0 ? -errno : 0;
}

void direct_fini(struct direct *d)
{
    if (d->direct_fd >= 0)
        close(d->direct_fd);
    if (d->fd >= 0)
        close(d->fd);
    d->fd = d->direct_fd = -1;
}

/* Linux 6.1 and later tell (statx(2), STATX_DIOALIGN). */
static void ask_alignment(struct direct *d)
{
    d->mem_align = MEM_ALIGN_UNKNOWN;
#ifdef STATX_DIOALIGN
    struct statx st;

    if (!statx(d->direct_fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) &&
        (st.stx_mask & STATX_DIOALIGN) && st.stx_dio_mem_align) {
        d->mem_align = st.stx_dio_mem_align;
        if (st.stx_dio_offset_align > d->granule)
            d->granule = st.stx_dio_offset_align;
    }
#else
    struct stat st;

    if (!fstat(d->direct_fd, &st) && S_ISBLK(st.st_mode))
        d->mem_align = MEM_ALIGN_DEVICE;
#endif
}

int direct_enable(struct direct *d, const char *path, struct err *err)
{
    char again[32];
    struct stat st, opened;
    int flags = fcntl(d->fd, F_GETFL), code;

    flags = (flags & (O_ACCMODE | O_DSYNC | O_NONBLOCK)) | O_CLOEXEC | O_NOCTTY | O_DIRECT;
    snprintf(again, sizeof(again), "/proc/self/fd/%d", d->fd);
    d->direct_fd = open(again, flags);
    if (d->direct_fd < 0 && errno == ENOENT)
        d->direct_fd = open(path, flags);
    code = d->direct_fd < 0 ? -errno : 0;
    if (!code && (fstat(d->fd, &st) < 0 || fstat(d->direct_fd, &opened) < 0 ||
                  st.st_dev != opened.st_dev || st.st_ino != opened.st_ino))
        code = -ESTALE;
    if (!code) {
        ask_alignment(d);
        return 0;
    }
    err_set(err, code, "cannot go past the host's cache with %s: %s", path,
            code == -EINVAL ? "its file system cannot do that" : strerror(-code));
    return err_next(err, "Use cache=writeback or cache=writethrough.");
}

int direct_choose(const struct direct *d, const struct iovec *iov, unsigned n, uint64_t at,
                  uint64_t len)
{
    if (d->direct_fd < 0 || (at | len) & (d->granule - 1))
        return d->fd;
    for (; n; n--, iov++)
        if (((uintptr_t)iov->iov_base | iov->iov_len) & (d->mem_align - 1))
            return d->fd;
    return d->direct_fd;
}

int direct_sync(int fd)
{
    if (!fdatasync(fd))
        return 0;
    return errno == ENOSPC || errno == EDQUOT ? -EIO : -errno;
}
