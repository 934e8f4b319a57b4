/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Raw images: a regular file or a block device, byte for byte the disk. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/log.h"
#include "block/block.h"
#include "block/direct.h"
#include "block/lock.h"
#include "block/uring.h"

#define ZEROES  KIB(64)
#define NOW_MAX KIB(64) /* above it, several at once gain more than a hand-over costs */

struct raw {
    struct block *block;
    struct direct file;
    bool device; /* a block device, not a file */
    enum block_cache cache;
};

static const uint8_t zeroes[ZEROES];

/* ---- Requests ------------------------------------------------------------------- */

/* What the call moved, or a negative errno. At the start of an element all the rest goes in one call. */
static ssize_t raw_move(int fd, bool write, const struct iovec *iov, unsigned n, size_t skip,
                        off_t at)
{
    ssize_t got;

    do {
        if (skip)
            got = write ? pwrite(fd, (char *)iov->iov_base + skip, iov->iov_len - skip, at)
                        : pread(fd, (char *)iov->iov_base + skip, iov->iov_len - skip, at);
        else
            got = write ? pwritev(fd, iov, (int)(n < IOV_MAX ? n : IOV_MAX), at)
                        : preadv(fd, iov, (int)(n < IOV_MAX ? n : IOV_MAX), at);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

/* The file has become shorter than the disk: what is missing reads as zero. */
static void clear_rest(const struct iovec *iov, unsigned n, size_t skip)
{
    for (; n; n--, iov++, skip = 0)
        memset((char *)iov->iov_base + skip, 0, iov->iov_len - skip);
}

static int raw_read_write(const struct raw *r, const struct block_req *req)
{
    bool write = req->op == BLOCK_WRITE;
    const struct iovec *iov = req->iov;
    unsigned n = req->iovcnt;
    uint64_t at = req->offset;
    size_t skip = 0;
    int fd = direct_choose(&r->file, iov, n, at, req->len);

    while (at < req->offset + req->len) {
        ssize_t got = raw_move(fd, write, iov, n, skip, (off_t)at);

        /* A rest that is not aligned any more. */
        if (got == -EINVAL && fd != r->file.fd) {
            fd = r->file.fd;
            continue;
        }
        if (got < 0)
            return (int)got;
        if (!got) {
            if (!write)
                clear_rest(iov, n, skip);
            return write ? -EIO : 0;
        }
        at += (uint64_t)got;
        skip += (size_t)got;
        while (n && skip >= iov->iov_len) {
            skip -= iov->iov_len;
            iov++;
            n--;
        }
    }
    return 0;
}

static int raw_allocate(const struct raw *r, int mode, const struct block_req *req)
{
    while (fallocate(r->file.fd, mode, (off_t)req->offset, (off_t)req->len) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

static bool is_unsupported(int code)
{
    return code == -EOPNOTSUPP || code == -ENOSYS || code == -ENODEV || code == -EINVAL;
}

/* A hint: where nothing can be given back nothing is. */
static int raw_discard(const struct raw *r, const struct block_req *req)
{
    uint64_t range[2] = {req->offset, req->len};
    int code;

    if (r->device)
        code = ioctl(r->file.fd, BLKDISCARD, range) < 0 ? -errno : 0;
    else
        code = raw_allocate(r, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, req);
    return is_unsupported(code) ? 0 : code;
}

static int raw_write_zeroes_plainly(const struct raw *r, const struct block_req *req)
{
    uint64_t left = req->len, at = req->offset;

    while (left) {
        const struct iovec iov = {(void *)zeroes, left < ZEROES ? left : ZEROES};
        ssize_t got = raw_move(r->file.fd, true, &iov, 1, 0, (off_t)at);

        if (got <= 0)
            return got ? (int)got : -EIO;
        left -= (uint64_t)got;
        at += (uint64_t)got;
    }
    return 0;
}

static int raw_write_zeroes(const struct raw *r, const struct block_req *req)
{
    int code = -EOPNOTSUPP;

    if (req->unmap)
        code = raw_allocate(r, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, req);
    if (is_unsupported(code))
        code = raw_allocate(r, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, req);
    return is_unsupported(code) ? raw_write_zeroes_plainly(r, req) : code;
}

static int raw_range(const struct raw *r, const struct block_req *req)
{
    int code = req->op == BLOCK_DISCARD ? raw_discard(r, req) : raw_write_zeroes(r, req);

    /* O_DSYNC does not concern fallocate. */
    if (!code && r->block->info.writethrough)
        code = direct_sync(r->file.fd);
    return code;
}

static int raw_execute(struct block *b, struct block_req *req)
{
    const struct raw *r = b->priv;

    switch (req->op) {
    case BLOCK_READ:
    case BLOCK_WRITE:
        return raw_read_write(r, req);
    case BLOCK_FLUSH:
        return r->cache != BLOCK_UNSAFE ? direct_sync(r->file.fd) : 0;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES:
        return raw_range(r, req);
    }
    return -EINVAL;
}

/* Reads of what is in the page cache; never more than the copying takes. */
static int raw_try_now(struct block *b, struct block_req *req)
{
    const struct raw *r = b->priv;

    if (req->op == BLOCK_FLUSH && r->cache == BLOCK_UNSAFE)
        return 0;
    if (req->op != BLOCK_READ || req->len > NOW_MAX || req->iovcnt > IOV_MAX ||
        r->file.direct_fd >= 0)
        return -EAGAIN;
    if (preadv2(r->file.fd, req->iov, (int)req->iovcnt, (off_t)req->offset, RWF_NOWAIT) !=
        (ssize_t)req->len)
        return -EAGAIN;
    return 0;
}

/* What the kernel did in part, or not at all, or found no room for, a worker does again from the beginning. */
static bool raw_over(struct uring_op *op, int result)
{
    struct block_req *req = op->req;
    struct raw *r = op->opaque;

    if (req->op != BLOCK_FLUSH && result >= 0 && (uint64_t)result != req->len)
        result = -ECANCELED;
    if (result == -ECANCELED || result == -EAGAIN || result == -EINTR || result == -EINVAL ||
        (req->op != BLOCK_FLUSH && (result == -ENOSPC || result == -EDQUOT))) {
        block_execute(r->block, req);
        return false;
    }
    req->done(req, result < 0 ? result : 0);
    return true;
}

static bool raw_start(struct block *b, struct uring *u, struct block_req *req)
{
    struct raw *r = b->priv;
    struct uring_op *op;

    if (req->op == BLOCK_DISCARD || req->op == BLOCK_WRITE_ZEROES || req->iovcnt > IOV_MAX ||
        req->len > INT_MAX)
        return false;
    op = uring_op_get(u);
    if (!op)
        return false;
    op->req = req;
    op->over = raw_over;
    op->opaque = r;
    uring_queue(u, op,
                req->op == BLOCK_FLUSH
                    ? r->file.fd
                    : direct_choose(&r->file, req->iov, req->iovcnt, req->offset, req->len),
                req->offset);
    return true;
}

/* ---- Opening -------------------------------------------------------------------- */

static int size_of_device(struct block *b, const char *path, struct err *err)
{
    struct raw *r = b->priv;
    unsigned physical;
    int read_only;

    if (ioctl(r->file.fd, BLKGETSIZE64, &b->info.size) < 0) {
        int code = -errno;

        return err_set(err, code, "cannot find the size of %s: %s", path, strerror(-code));
    }
    if (!ioctl(r->file.fd, BLKPBSZGET, &physical) && physical >= BLOCK_SECTOR)
        b->info.block_size = physical;
    if (!b->info.read_only && !ioctl(r->file.fd, BLKROGET, &read_only) && read_only) {
        err_set(err, -EROFS, "%s is a read-only device", path);
        return err_next(err, "Add ,ro to the disk.");
    }
    return 0;
}

static int raw_describe(struct block *b, const char *path, struct err *err)
{
    struct raw *r = b->priv;
    struct stat st;
    int code = 0;

    if (fstat(r->file.fd, &st) < 0) {
        code = -errno;
        return err_set(err, code, "cannot look at %s: %s", path, strerror(-code));
    }
    b->info.block_size = 4096;
    b->info.discard_granularity = 4096;
    r->device = S_ISBLK(st.st_mode);
    if (r->device)
        code = size_of_device(b, path, err);
    else if (S_ISREG(st.st_mode))
        b->info.size = (uint64_t)st.st_size;
    else
        return err_set(err, -EINVAL, "%s is neither a file nor a block device", path);
    if (code < 0)
        return code;
    if (b->info.size % BLOCK_SECTOR)
        log_warn("%s does not end on a multiple of %d bytes: the guest does not see its last %u",
                 path, BLOCK_SECTOR, (unsigned)(b->info.size % BLOCK_SECTOR));
    b->info.size -= b->info.size % BLOCK_SECTOR;
    if (!b->info.size) {
        err_set(err, -EINVAL, "%s is empty: a disk needs a size", path);
        return err_next(err, "truncate -s 10G FILE gives it one.");
    }
    return 0;
}

static int open_failed(const char *path, bool read_only, int code, struct err *err)
{
    err_set(err, code, "cannot open the disk %s: %s", path, strerror(-code));
    if (!read_only && (code == -EACCES || code == -EROFS))
        return err_next(err, "Add ,ro to the disk if the guest is only to read it.");
    return code;
}

static void raw_close(struct block *b)
{
    struct raw *r = b->priv;

    direct_fini(&r->file);
    free(r);
    b->priv = NULL;
}

/* What the guest has flushed is not lost when what was flushed to the image above is not. */
static int raw_freeze(struct block *b)
{
    const struct raw *r = b->priv;

    if (!b->info.read_only && r->cache != BLOCK_UNSAFE && fdatasync(r->file.fd) < 0)
        return -errno;
    if (!b->info.read_only) {
        block_lock_to_reader(r->file.fd);
        block_lock_to_reader(r->file.direct_fd);
    }
    return 0;
}

static void raw_thaw(struct block *b)
{
    const struct raw *r = b->priv;

    block_lock_to_writer(r->file.fd);
    block_lock_to_writer(r->file.direct_fd);
}

static int raw_open(struct block *b, const struct block_config *cfg, struct err *err)
{
    int flags = (cfg->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    struct raw *r = calloc(1, sizeof(*r));
    int code;

    if (!r)
        return err_set(err, -ENOMEM, "no memory to open %s", cfg->path);
    r->block = b;
    r->cache = cfg->cache;
    b->info.writethrough = block_cache_is_writethrough(cfg->cache);
    code = direct_open(&r->file, cfg->path, flags | (b->info.writethrough ? O_DSYNC : 0));
    if (code < 0) {
        free(r);
        return open_failed(cfg->path, cfg->read_only, code, err);
    }
    b->priv = r;
    b->info.read_only = cfg->read_only;
    code = raw_describe(b, cfg->path, err);
    if (!code && !cfg->read_only)
        code = block_lock_check_frozen(r->file.fd, cfg->path, err);
    if (!code)
        code = block_lock(r->file.fd, !cfg->read_only, cfg->path, err);
    if (!code && block_cache_is_direct(cfg->cache))
        code = direct_enable(&r->file, cfg->path, err);
    if (!code)
        block_lock_also(r->file.direct_fd, !cfg->read_only);
    if (code < 0)
        raw_close(b);
    return code;
}

const struct block_ops block_raw = {
    .name = "raw",
    .open = raw_open,
    .close = raw_close,
    .execute = raw_execute,
    .try_now = raw_try_now,
    .start = raw_start,
    .uring = true,
    .freeze = raw_freeze,
    .thaw = raw_thaw,
};
