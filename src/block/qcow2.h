/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2 images, versions 2 and 3 (QEMU, docs/interop/qcow2; what of it there is
 * and the order of writes: docs/qcow2.md). Calls block until they are done and
 * may come from any number of threads at once, but for open, close, check and
 * resize, which have the image to themselves. Offsets and lengths are bytes,
 * of any alignment.
 */
#ifndef LODGE_BLOCK_QCOW2_H
#define LODGE_BLOCK_QCOW2_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"
#include "block/qcow2_file.h"

#define QCOW2_CHAIN_MAX        1000
#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
#define QCOW2_CLUSTER_BITS     16 /* unless told otherwise */

struct qcow2;

struct qcow2_config {
    const char *path;
    bool read_only;
    bool direct;     /* whole pages go past the host's cache; not those of backing files */
    bool no_backing; /* leave the backing files alone: what they hold reads as zero */
    bool
        inspect; /* to check and repair: damage and the dirty bit are let pass, nothing is changed */
    bool no_lock;                     /* for tests */
    size_t cache;                     /* bytes of metadata kept in memory; 0: a default */
    const struct qcow2_file_ops *ops; /* NULL: qcow2_file_fd */
    void *opaque;                     /* qcow2_file.opaque */
};

struct qcow2_snapshot {
    char id[32], name[128]; /* as far as they fit */
    uint64_t size, vm_state;
    uint32_t seconds;
};

struct qcow2_info {
    uint64_t size;      /* of the disk */
    uint64_t file_size; /* where the file ends */
    uint32_t cluster_size, snapshots;
    unsigned version, refcount_bits;
    const char *compression;           /* "zlib" or "zstd" */
    const char *backing, *backing_fmt; /* as recorded, NULL: none; live as long as the image */
    const char *backing_path;          /* what `backing` means from here, NULL: none */
    bool lazy_refcounts, dirty, corrupt, bitmaps;
};

/*
 * Open and lock an image with its backing files. With the dirty bit set and
 * for writing, refcounts are computed anew first. Errors: -EBUSY in use
 * elsewhere, -EINVAL no qcow2 image or a damaged one, -ENOTSUP a feature that
 * is not there, -ELOOP a backing chain that goes in circles or is too long,
 * others from the system. Nothing is held after a failure.
 */
int qcow2_open(struct qcow2 **q, const struct qcow2_config *cfg, struct err *err);

/* Write everything out, free the image. 0 or the negative errno of the last flush; NULL is fine. */
int qcow2_close(struct qcow2 *q);

/*
 * Write everything out, and neither write nor keep others from reading any more: the image can now be opened once more, as
 * what another stands on. 0 or a negative errno, then nothing has changed. No request is under way.
 */
int qcow2_freeze(struct qcow2 *q);
void qcow2_thaw(struct qcow2 *q); /* the opposite */

/* Drop the image as a killed process would: nothing is written any more. For tests. */
void qcow2_abandon(struct qcow2 *q);

void qcow2_get_info(struct qcow2 *q, struct qcow2_info *info);

/* Snapshot `i` of info.snapshots. 0, or a negative errno when the table cannot be read. */
int qcow2_get_snapshot(struct qcow2 *q, unsigned i, struct qcow2_snapshot *s);

/*
 * Move the `len` bytes that iov has. -EINVAL beyond the end of the disk, -EIO
 * for what is damaged, others from the system. After a failed write its range
 * holds old or new bytes.
 */
int qcow2_readv(struct qcow2 *q, const struct iovec *iov, unsigned n, uint64_t off, uint64_t len);
int qcow2_writev(struct qcow2 *q, const struct iovec *iov, unsigned n, uint64_t off, uint64_t len);

struct qcow2_range {
    uint64_t first, last; /* guest clusters */
    bool exclusive;
    struct qcow2_range *next; /* the one that came after it */
};

/* Where the bytes of a request are, all of them in one piece of one file; they stay there until qcow2_leave. */
struct qcow2_place {
    const struct qcow2_file *file; /* NULL: they are zero */
    uint64_t at;
    struct qcow2_range range; /* linked from the image: the place must not be moved */
};

/*
 * The place to read from, or to write to directly, if that can be told
 * without waiting; only with qcow2_file_fd. -EAGAIN: qcow2_readv and
 * qcow2_writev do it.
 */
int qcow2_enter(struct qcow2 *q, bool write, uint64_t off, uint64_t len, struct qcow2_place *place);
void qcow2_leave(struct qcow2 *q, struct qcow2_place *place);

/* What was written before is on stable storage. */
int qcow2_flush(struct qcow2 *q);

/* The range reads as zero. With `unmap` its space is given back where that can be done. */
int qcow2_write_zeroes(struct qcow2 *q, uint64_t off, uint64_t len, bool unmap);

/*
 * Give back the clusters that lie in the range as a whole; they read as zero
 * then. Parts of clusters stay as they are, and so does everything in a
 * version 2 image with a backing file, where that cannot be expressed.
 */
int qcow2_discard(struct qcow2 *q, uint64_t off, uint64_t len);

/* Is it certain that the bytes from `off` on are zero? *len (up to `max`) is how many of them that is said of. */
int qcow2_is_zero(struct qcow2 *q, uint64_t off, uint64_t max, bool *zero, uint64_t *len);

/* Was nothing of the disk ever written to this image, so that all of it is what its backing file has? */
bool qcow2_is_blank(struct qcow2 *q);

/*
 * Change the size of the disk; new space reads as zero. Only with `shrink`
 * does it get smaller. -EBUSY for version 2 with snapshots, -EFBIG beyond what
 * the format can express at this cluster size. After a failure the size is
 * the old one, but what was to be cut off may be gone.
 */
int qcow2_resize(struct qcow2 *q, uint64_t size, bool shrink, struct err *err);

struct qcow2_create {
    const char *path;
    uint64_t size;                     /* bytes */
    unsigned cluster_bits;             /* 0: QCOW2_CLUSTER_BITS */
    unsigned version;                  /* 0: 3 */
    const char *backing, *backing_fmt; /* recorded as they are; NULL: none */
    bool lazy_refcounts;
    bool replace;                     /* an existing file is overwritten */
    const struct qcow2_file_ops *ops; /* NULL: qcow2_file_fd; otherwise path is only a name */
    void *opaque;
};

/* Make an image without any data. The backing file is not looked at. A file that could not be finished is removed. */
int qcow2_create(const struct qcow2_create *c, struct err *err);

enum qcow2_repair { QCOW2_REPAIR_NONE, QCOW2_REPAIR_LEAKS, QCOW2_REPAIR_ALL };

struct qcow2_check {
    uint64_t leaks, corruptions; /* clusters, and things that are wrong; left after the repair */
    uint64_t leaks_fixed, corruptions_fixed; /* by the repair */
    uint64_t data_clusters, compressed;      /* in the disk, not in its snapshots */
    uint64_t total_clusters;                 /* of the disk */
    uint64_t end;                            /* behind the last cluster in use */
    /* Called for each finding, NULL: not. */
    void (*say)(void *opaque, const char *text);
    void *opaque;
    /* Tables looked at so far and in all; NULL: not called. */
    void (*progress)(void *opaque, uint64_t done, uint64_t total);
};

/*
 * Compare every reference with every refcount. Repairs: leaks are freed; with
 * QCOW2_REPAIR_ALL refcounts that are too low are raised and wrong COPIED
 * flags set right, too. The image was opened with `inspect`, for a repair not
 * read_only. Fill `say` and `progress`, the rest is cleared. 0 when the check
 * came to its end, whatever it found.
 */
int qcow2_check(struct qcow2 *q, enum qcow2_repair repair, struct qcow2_check *c, struct err *err);

/* Do these first bytes of a file (at least 8) look like a qcow2 image? */
bool qcow2_probe(const uint8_t *head);

#endif
