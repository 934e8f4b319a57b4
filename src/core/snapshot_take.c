/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/snapshot_take.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "base/log.h"
#include "core/memcopy.h"
#include "core/snapfile.h"
#include "core/snapshot.h"

#define CHUNK   MIB(1)
#define WAIT_MS 20
/* What a snapshot leaves of a file system: the guest's own writes go on there meanwhile, and must not fail for it. */
#define RESERVE MIB(16)
#define SUMS    "memory"

/* ---- Sums of memory ------------------------------------------------------------------ */

struct sums {
    uint32_t *sum; /* of each chunk */
    uint64_t size; /* of the memory */
    size_t count;
};

struct summing {
    int fd;
    uint8_t *buf;
    uint64_t size;
    uint32_t zero; /* the sum of a chunk of zeros */
    uint64_t data; /* nothing but a hole before */
};

static uint64_t next_data(int fd, uint64_t at, uint64_t size)
{
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);

    if (data >= 0)
        return (uint64_t)data;
    return errno == ENXIO ? size : at;
}

static int chunk_sum(struct summing *s, size_t n, uint32_t *sum)
{
    uint64_t at = n * CHUNK, len = s->size - at < CHUNK ? s->size - at : CHUNK, got = 0;

    if (s->data < at)
        s->data = next_data(s->fd, at, s->size);
    if (len == CHUNK && s->data >= at + CHUNK) {
        *sum = s->zero;
        return 0;
    }
    while (got < len) {
        ssize_t r = pread(s->fd, s->buf + got, len - got, (off_t)(at + got));

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return r ? -errno : -EIO;
        got += (uint64_t)r;
    }
    *sum = crc32c(0, s->buf, len);
    return 0;
}

static int summing_begin(struct summing *s, int fd, struct err *err)
{
    struct stat st;

    *s = (struct summing){.fd = fd, .buf = calloc(1, CHUNK)};
    if (!s->buf)
        return err_set(err, -ENOMEM, "no memory for sums of the guest's memory");
    if (fstat(fd, &st) < 0)
        return err_set(err, -errno, "cannot read the guest's memory: %s", strerror(errno));
    s->size = (uint64_t)st.st_size;
    s->zero = crc32c(0, s->buf, CHUNK);
    return 0;
}

static bool is_cancelled(const _Atomic bool *cancel)
{
    return cancel && atomic_load(cancel);
}

/* The sums of all chunks, and how many there are, to be freed. */
static int sums_make(struct sums *s, int fd, const _Atomic bool *cancel, struct err *err)
{
    struct summing summing;
    int code = summing_begin(&summing, fd, err);

    *s = (struct sums){.size = summing.size, .count = (summing.size + CHUNK - 1) / CHUNK};
    s->sum = calloc(s->count + 1, sizeof(*s->sum));
    if (!code && !s->sum)
        code = err_set(err, -ENOMEM, "no memory for sums of the guest's memory");
    for (size_t n = 0; !code && n < s->count; n++) {
        code = is_cancelled(cancel) ? -ECANCELED : chunk_sum(&summing, n, &s->sum[n]);
        if (code)
            err_set(err, code, "cannot read the guest's memory: %s", strerror(-code));
    }
    free(summing.buf);
    return code;
}

int snapshot_verify(int memory_fd, int sums_fd, const _Atomic bool *cancel, struct err *err)
{
    const struct snapfile_section *section;
    struct snapfile f;
    struct sums s = {0};
    int code = snapfile_read(&f, sums_fd, err);

    if (code < 0)
        return code;
    section = snapfile_find(&f, SUMS, 0);
    code = section ? sums_make(&s, memory_fd, cancel, err)
                   : err_set(err, -EINVAL, "the snapshot has no sums of its memory");
    if (!code && section->len != s.count * sizeof(*s.sum))
        code = err_set(err, -EINVAL, "the snapshot's memory has %llu bytes, and sums for %zu MiB",
                       (unsigned long long)s.size, section->len / sizeof(*s.sum));
    for (size_t n = 0; !code && n < s.count; n++)
        if (memcmp(section->data + n * sizeof(*s.sum), &s.sum[n], sizeof(*s.sum)) != 0)
            code = err_set(err, -EINVAL,
                           "the snapshot's memory was changed or is damaged, at %zu MiB", n);
    free(s.sum);
    snapfile_fini(&f);
    return code;
}

/* ---- Taking ---------------------------------------------------------------------------- */

struct taking {
    struct vm *vm;
    struct snapshot_take *t;
    int dir, state, memory;
    struct memcopy *copy;
    int code; /* of what was called with the guest stopped */
    struct err *err;
};

static int failed(struct err *err, const char *what, const char *path)
{
    int code = -errno;

    err_set(err, code, "cannot %s %s: %s", what, path, strerror(-code));
    if (code == -ENOSPC || code == -EDQUOT)
        err_next(err, "Make room on that disk. The guest goes on, and nothing was changed.");
    return code;
}

static int make_file(struct taking *k, const char *name, int *fd)
{
    *fd = openat(k->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return *fd < 0 ? failed(k->err, "make the file", name) : 0;
}

static int put_text(struct taking *k, const char *name, const char *text)
{
    size_t len = strlen(text);
    int fd, code = make_file(k, name, &fd);

    if (code)
        return code;
    if (write(fd, text, len) != (ssize_t)len || (!k->t->transient && fsync(fd) < 0))
        code = failed(k->err, "write the file", name);
    close(fd);
    return code;
}

static int open_directory(struct taking *k)
{
    const char *dir = k->t->dir;
    int code = 0;

    if (mkdir(dir, 0700) < 0)
        return failed(k->err, "make the folder", dir);
    k->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (k->dir < 0)
        return failed(k->err, "open the folder", dir);
    code = make_file(k, SNAPSHOT_STATE, &k->state);
    if (!code)
        code = make_file(k, SNAPSHOT_MEMORY, &k->memory);
    for (unsigned n = 0; !code && n < k->t->files; n++)
        code = put_text(k, k->t->file[n].name, k->t->file[n].text);
    return code;
}

static void drop_directory(struct taking *k)
{
    if (k->dir < 0)
        return;
    unlinkat(k->dir, SNAPSHOT_STATE, 0);
    unlinkat(k->dir, SNAPSHOT_MEMORY, 0);
    unlinkat(k->dir, SNAPSHOT_SUMS, 0);
    for (unsigned n = 0; n < k->t->files; n++)
        unlinkat(k->dir, k->t->file[n].name, 0);
    rmdir(k->t->dir);
}

/* Whoever stops the guest ends what waits for room. Other errors are left for the guest's own flushes to show. */
static int check_room(struct taking *k, unsigned n)
{
    if (vm_disk_sync(k->vm, n) != -ENOSPC)
        return 0;
    err_set(k->err, -ENOSPC, "what the guest writes to the disk %s waits for room on the host",
            k->vm->cfg.disk[n].image.path);
    return err_next(k->err, "Make room there. The guest goes on, and nothing was changed.");
}

static int check_disks(struct taking *k)
{
    const struct vm_config *cfg = &k->vm->cfg;
    int code = 0;

    for (unsigned n = 0; !code && n < cfg->disks; n++) {
        if (cfg->disk[n].image.read_only)
            continue;
        if (!k->t->disks && !k->t->as)
            return err_set(k->err, -EOPNOTSUPP,
                           "there is no place for what the guest writes to the disk %s afterwards",
                           cfg->disk[n].image.path);
        code = check_room(k, n);
    }
    return code;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void prepare(struct vm *vm, void *opaque)
{
    struct taking *k = opaque;

    k->code = memcopy_prepare(k->copy, k->err);
}

static int call(struct taking *k, void (*fn)(struct vm *vm, void *opaque))
{
    uint64_t began = now_ns();

    k->code = 0;
    if (vm_call_wait(k->vm, fn, k) < 0)
        return err_set(k->err, -ESHUTDOWN, "the guest ended before its snapshot was complete");
    began = now_ns() - began;
    k->t->stopped_ns = began > k->t->stopped_ns ? began : k->t->stopped_ns;
    return k->code;
}

static int cancelled(struct taking *k)
{
    return err_set(k->err, -ECANCELED, "the snapshot was cancelled");
}

/* Before the guest stops: all that can be done then need not be done while it stands. */
static int get_ready(struct taking *k)
{
    const struct memcopy_config cfg = {
        .fd = k->memory, .sync = !k->t->transient, .reserve = RESERVE};
    int code = memcopy_new(&k->copy, k->vm, &cfg, k->err);

    if (!code)
        code = call(k, prepare);
    while (!code) {
        code = memcopy_prepared(k->copy, WAIT_MS, k->err);
        if (code != -ETIMEDOUT)
            break;
        code = is_cancelled(k->t->cancel) ? cancelled(k) : 0;
    }
    for (unsigned n = 0; !code && n < k->vm->cfg.disks; n++)
        if (!k->vm->cfg.disk[n].image.read_only)
            vm_disk_sync(k->vm, n);
    return code;
}

static int copy_all(struct taking *k)
{
    enum memcopy_state state;
    uint64_t done, all;

    do {
        state = memcopy_poll(k->copy, &done, &all);
        if (is_cancelled(k->t->cancel))
            return cancelled(k);
        if (state == MEMCOPY_COPYING)
            usleep(WAIT_MS * 1000);
    } while (state == MEMCOPY_COPYING);
    return memcopy_wait(k->copy, k->err);
}

static int put_sums(struct taking *k)
{
    struct snapfile_out out;
    struct sums s = {0};
    int fd = -1, code = sums_make(&s, k->memory, k->t->cancel, k->err);

    if (!code)
        code = make_file(k, SNAPSHOT_SUMS, &fd);
    if (!code) {
        snapfile_begin(&out);
        snapfile_add_bytes(&out, SUMS, 0, s.sum, s.count * sizeof(*s.sum));
        code = snapfile_finish(&out, fd, k->err);
    }
    if (!code && fsync(fd) < 0)
        code = failed(k->err, "write the file", SNAPSHOT_SUMS);
    if (fd >= 0)
        close(fd);
    free(s.sum);
    return code;
}

static int complete(struct taking *k)
{
    return !k->t->transient && (fsync(k->state) < 0 || (fsync(k->dir) && errno != EINVAL))
               ? failed(k->err, "write", k->t->dir)
               : 0;
}

static int finish(struct taking *k)
{
    int code = copy_all(k);

    if (!code && !k->t->transient)
        code = put_sums(k);
    if (!code)
        code = complete(k);
    /* Who wanted it has gone, and would not give it its name. */
    return !code && !k->t->as && is_cancelled(k->t->cancel) ? cancelled(k) : code;
}

/* Its disks have all that the guest was told they had, and the folder gets its name. */
static int finish_last(struct taking *k)
{
    const char *slash = strrchr(k->t->as, '/');
    char parent[PATH_MAX];
    int fd, code = finish(k);

    for (unsigned n = 0; !code && n < k->vm->cfg.disks; n++)
        if (!k->vm->cfg.disk[n].image.read_only)
            code = vm_disk_sync(k->vm, n);
    if (code)
        return k->err->code
                   ? code
                   : err_set(k->err, code, "cannot write a disk to its end: %s", strerror(-code));
    snprintf(parent, sizeof(parent), "%.*s", (int)(slash - k->t->as), k->t->as);
    fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || rename(k->t->dir, k->t->as))
        code = failed(k->err, "make", k->t->as);
    else if (fsync(fd) && errno != EINVAL)
        log_warn("%s may be lost if the host fails: %s", k->t->as, strerror(errno));
    if (fd >= 0)
        close(fd);
    return code;
}

/* The moment. Disks last: what fails before has changed nothing. */
static void moment(struct vm *vm, void *opaque)
{
    struct taking *k = opaque;

    k->code = vm_save(vm, k->state, k->err);
    if (!k->code)
        k->code = memcopy_start(k->copy, k->err);
    if (!k->code && k->t->disks)
        k->code = k->t->disks(k->t->opaque, vm, k->err);
    if (k->code || !k->t->as)
        return;
    k->code = finish_last(k);
    if (!k->code)
        vm_request(vm, VM_REQ_STOP);
}

int snapshot_take(struct vm *vm, struct snapshot_take *t, struct err *err)
{
    struct taking k = {.vm = vm, .t = t, .dir = -1, .state = -1, .memory = -1, .err = err};
    int code = check_disks(&k);

    if (!code)
        code = open_directory(&k);
    if (!code)
        code = get_ready(&k);
    if (!code)
        code = call(&k, moment);
    if (!code && !t->as)
        code = finish(&k);
    memcopy_free(k.copy);
    if (code)
        drop_directory(&k);
    if (k.state >= 0)
        close(k.state);
    if (k.memory >= 0)
        close(k.memory);
    if (k.dir >= 0)
        close(k.dir);
    return code;
}
