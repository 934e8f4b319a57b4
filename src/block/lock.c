/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Each permission is a byte: 100 + n is locked (shared) by who has it, 200 + n
 * by who does not let others have it (QEMU, docs/system/qemu-block-drivers,
 * "Disk image file locking", and what its programs do under strace).
 */
#include "block/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"

#define BYTE_HAVE   100
#define BYTE_REFUSE 200
#define BYTES       200 /* from BYTE_HAVE on */

/* What a killed process had in io_uring holds its file, and so its lock, a little longer than the process lives. */
#define TRY_MS 25
#define TRIES  10

#define PERM_READ            0
#define PERM_WRITE           1
#define PERM_WRITE_UNCHANGED 2
#define PERM_RESIZE          3

static int lock_byte(int fd, off_t at)
{
    struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

    while (fcntl(fd, F_OFD_SETLK, &l) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* Does anybody else hold this byte? */
static bool byte_is_held(int fd, off_t at)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};

    return !fcntl(fd, F_OFD_GETLK, &l) && l.l_type != F_UNLCK;
}

static void unlock(int fd)
{
    struct flock l = {
        .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = BYTE_HAVE, .l_len = BYTES};

    fcntl(fd, F_OFD_SETLK, &l);
}

/* What a writer has and a reader has not. */
static const uint8_t writer_only[] = {PERM_WRITE, PERM_RESIZE};

void block_lock_to_reader(int fd)
{
    for (unsigned i = 0; i < ARRAY_SIZE(writer_only); i++) {
        struct flock l = {.l_type = F_UNLCK,
                          .l_whence = SEEK_SET,
                          .l_start = BYTE_HAVE + writer_only[i],
                          .l_len = 1};

        fcntl(fd, F_OFD_SETLK, &l);
    }
}

void block_lock_to_writer(int fd)
{
    for (unsigned i = 0; i < ARRAY_SIZE(writer_only); i++)
        lock_byte(fd, BYTE_HAVE + writer_only[i]);
}

int block_lock_check_frozen(int fd, const char *path, struct err *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (st.st_mode & (S_IWUSR | S_IWGRP | S_IWOTH)))
        return 0;
    err_set(err, -EROFS, "%s has no write permission: disks of guests stand on it", path);
    err_next(err, "Add ,ro to the disk, make an overlay (lodge image create), or, if nothing "
                  "stands on it any more: chmod u+w.");
    return -EROFS;
}

/* A writer has all of these, a reader the first. */
static const uint8_t all_has[] = {PERM_READ, PERM_WRITE, PERM_RESIZE};
static const uint8_t refused[] = {PERM_WRITE, PERM_RESIZE};

static unsigned count_has(bool writable)
{
    return writable ? ARRAY_SIZE(all_has) : 1;
}

static int lock_bytes(int fd, bool writable)
{
    int code = 0;

    for (unsigned i = 0; !code && i < count_has(writable); i++)
        code = lock_byte(fd, BYTE_HAVE + all_has[i]);
    for (unsigned i = 0; !code && i < ARRAY_SIZE(refused); i++)
        code = lock_byte(fd, BYTE_REFUSE + refused[i]);
    return code;
}

void block_lock_also(int fd, bool writable)
{
    lock_bytes(fd, writable);
}

/* 0, -EBUSY, or why there are no locks here. */
static int lock_once(int fd, bool writable)
{
    /* First lock, then look: of two that come at once at least one sees the other. */
    int code = lock_bytes(fd, writable);
    bool held = false;

    for (unsigned i = 0; !code && i < count_has(writable); i++)
        held |= byte_is_held(fd, BYTE_REFUSE + all_has[i]);
    for (unsigned i = 0; !code && i < ARRAY_SIZE(refused); i++)
        held |= byte_is_held(fd, BYTE_HAVE + refused[i]);
    return held || code == -EAGAIN ? -EBUSY : code;
}

int block_lock(int fd, bool writable, const char *path, struct err *err)
{
    const struct timespec wait = {.tv_nsec = TRY_MS * 1000000L};
    int code = lock_once(fd, writable);

    for (unsigned i = 0; code == -EBUSY && i < TRIES; i++) {
        unlock(fd);
        nanosleep(&wait, NULL);
        code = lock_once(fd, writable);
    }
    if (code == -EINVAL || code == -ENOLCK || code == -EOPNOTSUPP) {
        log_warn("%s is on a file system without locks: nothing keeps others from using it at the "
                 "same time",
                 path);
        return 0;
    }
    if (code != -EBUSY)
        return code < 0 ? err_set(err, code, "cannot lock %s: %s", path, strerror(-code)) : 0;
    err_set(err, -EBUSY, "%s is in use by another guest or program", path);
    if (writable)
        err_next(err, "End that one first, or open the image read-only in all of them.");
    else
        err_next(err, "It is open for writing there; end that first.");
    return -EBUSY;
}
