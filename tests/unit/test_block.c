/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/block/ src/base/bucket.c src/base/err.c src/base/log.c */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/block.h"
#include "block/qcow2.h"

#define SIZE MIB(1)

/* All cases run in each of these. */
static const struct block_config modes[] = {
    {.aio = BLOCK_AIO_AUTO},       {.aio = BLOCK_AIO_THREADS},
    {.cache = BLOCK_NONE},         {.cache = BLOCK_NONE, .aio = BLOCK_AIO_THREADS},
    {.cache = BLOCK_WRITETHROUGH}, {.cache = BLOCK_DIRECTSYNC},
    {.cache = BLOCK_UNSAFE},
};
static struct block_config mode;

struct image {
    char dir[32], path[64];
    struct block *b;
};

struct waiter {
    struct block_req req;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    int result;
};

static void on_done(struct block_req *req, int result)
{
    struct waiter *w = container_of(req, struct waiter, req);

    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->result = result;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static int submit_and_wait(struct block *b, struct block_req req)
{
    struct waiter w = {
        .req = req, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

    w.req.done = on_done;
    block_submit(b, &w.req);
    block_drain(b);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    return w.result;
}

static int move(struct block *b, enum block_op op, uint64_t at, void *buf, size_t len)
{
    /* In pieces, one of them empty. */
    struct iovec iov[] = {{buf, 100}, {buf, 0}, {(char *)buf + 100, len - 100}};

    return submit_and_wait(
        b, (struct block_req){.op = op, .offset = at, .len = len, .iov = iov, .iovcnt = 3});
}

static int range(struct block *b, enum block_op op, uint64_t at, uint64_t len, bool unmap)
{
    return submit_and_wait(b,
                           (struct block_req){.op = op, .offset = at, .len = len, .unmap = unmap});
}

static int setup(void **state)
{
    struct image *i = calloc(1, sizeof(*i));
    int fd;

    strcpy(i->dir, "/tmp/lodge-block.XXXXXX");
    assert_non_null(mkdtemp(i->dir));
    snprintf(i->path, sizeof(i->path), "%s/disk", i->dir);
    fd = open(i->path, O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, SIZE), 0);
    close(fd);
    *state = i;
    return 0;
}

static int teardown(void **state)
{
    struct image *i = *state;

    block_close(i->b);
    unlink(i->path);
    rmdir(i->dir);
    free(i);
    return 0;
}

static void open_image(struct image *i)
{
    struct block_config cfg = mode;

    cfg.path = i->path;
    assert_int_equal(block_open(&i->b, &cfg, NULL), 0);
    assert_true(i->b->info.size == SIZE);
}

static bool is_filled(const uint8_t *buf, size_t len, uint8_t with)
{
    for (size_t i = 0; i < len; i++)
        if (buf[i] != with)
            return false;
    return true;
}

static void reads_what_was_written(void **state)
{
    struct image *i = *state;
    uint8_t out[8192], in[8192];

    open_image(i);
    for (size_t n = 0; n < sizeof(out); n++)
        out[n] = (uint8_t)(n * 7 + n / 256);
    assert_int_equal(move(i->b, BLOCK_WRITE, 512, out, sizeof(out)), 0);
    assert_int_equal(range(i->b, BLOCK_FLUSH, 0, 0, false), 0);
    memset(in, 0xee, sizeof(in));
    assert_int_equal(move(i->b, BLOCK_READ, 512, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_int_equal(move(i->b, BLOCK_READ, SIZE - 512, in, 512), 0);
    assert_true(is_filled(in, 512, 0));
}

static void zeroes_and_discards(void **state)
{
    struct image *i = *state;
    uint8_t buf[8192];

    open_image(i);
    for (unsigned unmap = 0; unmap < 2; unmap++) {
        memset(buf, 0x55, sizeof(buf));
        assert_int_equal(move(i->b, BLOCK_WRITE, 4096, buf, sizeof(buf)), 0);
        assert_int_equal(range(i->b, BLOCK_WRITE_ZEROES, 4608, 4096, unmap), 0);
        assert_int_equal(move(i->b, BLOCK_READ, 4096, buf, sizeof(buf)), 0);
        assert_true(is_filled(buf, 512, 0x55));
        assert_true(is_filled(buf + 512, 4096, 0));
        assert_true(is_filled(buf + 4608, sizeof(buf) - 4608, 0x55));
    }
    assert_int_equal(range(i->b, BLOCK_DISCARD, 0, SIZE, false), 0);
    assert_int_equal(move(i->b, BLOCK_READ, 4096, buf, sizeof(buf)), 0);
}

static void refuses_what_cannot_be_right(void **state)
{
    struct image *i = *state;
    uint8_t buf[1024];
    struct iovec iov = {buf, 512};

    open_image(i);
    assert_int_equal(move(i->b, BLOCK_READ, SIZE, buf, 512), -EINVAL);
    assert_int_equal(move(i->b, BLOCK_WRITE, SIZE - 512, buf, 1024), -EINVAL);
    assert_int_equal(move(i->b, BLOCK_READ, -512ull, buf, 1024), -EINVAL);
    assert_int_equal(move(i->b, BLOCK_READ, 1, buf, 512), -EINVAL);
    assert_int_equal(move(i->b, BLOCK_READ, 0, buf, 513), -EINVAL);
    assert_int_equal(range(i->b, BLOCK_DISCARD, 512, -512ull, false), -EINVAL);
    assert_int_equal(
        submit_and_wait(
            i->b, (struct block_req){.op = BLOCK_READ, .len = 1024, .iov = &iov, .iovcnt = 1}),
        -EINVAL);
    assert_int_equal(range(i->b, BLOCK_DISCARD, 512, 0, false), 0);
}

static void a_reader_does_not_write(void **state)
{
    struct image *i = *state;
    struct block_config cfg = mode;
    uint8_t buf[512] = {0};

    cfg.path = i->path;
    cfg.read_only = true;
    assert_int_equal(chmod(i->path, 0400), 0);
    assert_int_equal(block_open(&i->b, &cfg, NULL), 0);
    assert_int_equal(move(i->b, BLOCK_READ, 0, buf, 512), 0);
    assert_int_equal(move(i->b, BLOCK_WRITE, 0, buf, 512), -EROFS);
    assert_int_equal(range(i->b, BLOCK_WRITE_ZEROES, 0, 512, false), -EROFS);
    assert_int_equal(range(i->b, BLOCK_DISCARD, 0, 512, false), -EROFS);
    assert_int_equal(range(i->b, BLOCK_FLUSH, 0, 0, false), 0);
}

static void one_writer_or_many_readers(void **state)
{
    struct image *i = *state;
    struct block_config writer = {.path = i->path}, reader = {.path = i->path, .read_only = true};
    struct block *other, *third;
    struct err err;

    if (mode.cache || mode.aio)
        return; /* it takes a while and would be the same */
    open_image(i);
    assert_int_equal(block_open(&other, &writer, &err), -EBUSY);
    assert_non_null(strstr(err.what, "in use"));
    assert_int_equal(block_open(&other, &reader, &err), -EBUSY);
    block_close(i->b);
    assert_int_equal(block_open(&i->b, &reader, &err), 0);
    assert_int_equal(block_open(&other, &reader, &err), 0);
    assert_int_equal(block_open(&third, &writer, &err), -EBUSY);
    assert_null(third);
    block_close(other);
}

/*
 * What a killed process had under way past the cache holds no other descriptor than the one it goes through: that one has to
 * keep the image locked, too.
 */
static void both_descriptors_hold_the_lock(void **state)
{
    struct flock all = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    struct image *i = *state;
    struct block_config cfg = {.path = i->path, .format = "raw"};
    struct block *other;
    struct stat image, st;
    struct err err;

    if (mode.cache != BLOCK_NONE || mode.aio)
        return;
    for (unsigned format = 0; format < 2; format++) {
        unsigned unlocked = 0;

        cfg.cache = BLOCK_NONE;
        assert_int_equal(block_open(&i->b, &cfg, &err), 0);
        assert_int_equal(stat(i->path, &image), 0);
        for (int fd = 3; fd < 200; fd++)
            if (!fstat(fd, &st) && st.st_ino == image.st_ino && st.st_dev == image.st_dev &&
                !(fcntl(fd, F_GETFL) & O_DIRECT))
                unlocked += !fcntl(fd, F_OFD_SETLK, &all);
        assert_int_equal(unlocked, 1);
        cfg.cache = BLOCK_WRITEBACK;
        assert_int_equal(block_open(&other, &cfg, &err), -EBUSY);
        block_close(i->b);
        i->b = NULL;
        assert_int_equal(block_open(&other, &cfg, &err), 0);
        block_close(other);
        cfg.format = "qcow2";
        assert_int_equal(qcow2_create(&(struct qcow2_create){.path = i->path,
                                                             .size = SIZE,
                                                             .version = 3,
                                                             .cluster_bits = 16,
                                                             .replace = true},
                                      &err),
                         0);
    }
}

static void a_file_that_was_cut_reads_zero(void **state)
{
    struct image *i = *state;
    uint8_t buf[2048];

    open_image(i);
    memset(buf, 0x77, sizeof(buf));
    assert_int_equal(move(i->b, BLOCK_WRITE, 0, buf, sizeof(buf)), 0);
    assert_int_equal(truncate(i->path, 700), 0);
    assert_int_equal(move(i->b, BLOCK_READ, 0, buf, sizeof(buf)), 0);
    assert_true(is_filled(buf, 700, 0x77));
    assert_true(is_filled(buf + 700, sizeof(buf) - 700, 0));
}

static void says_why_it_does_not_open(void **state)
{
    struct image *i = *state;
    struct block_config cfg = {.path = i->path, .format = "vhs"};
    struct err err;

    assert_int_equal(block_open(&i->b, &cfg, &err), -EINVAL);
    assert_non_null(strstr(err.what, "vhs"));
    cfg = (struct block_config){.path = "/nonexistent/disk"};
    assert_int_equal(block_open(&i->b, &cfg, &err), -ENOENT);
    cfg.path = "/dev/null";
    assert_int_equal(block_open(&i->b, &cfg, &err), -EINVAL);
    cfg.path = i->dir;
    assert_true(block_open(&i->b, &cfg, &err) < 0);
    cfg.path = i->path;
    assert_int_equal(truncate(i->path, 511), 0);
    assert_int_equal(block_open(&i->b, &cfg, &err), -EINVAL);
    assert_non_null(strstr(err.what, "empty"));
    assert_null(i->b);
}

/* Many at once, and closing waits for them. */
static void closes_with_requests_under_way(void **state)
{
    struct image *i = *state;
    struct waiter w[64];
    static uint8_t buf[64][4096];
    struct iovec iov[64];

    open_image(i);
    for (unsigned n = 0; n < 64; n++) {
        memset(buf[n], (int)n, sizeof(buf[n]));
        iov[n] = (struct iovec){buf[n], sizeof(buf[n])};
        w[n] = (struct waiter){.lock = PTHREAD_MUTEX_INITIALIZER,
                               .cond = PTHREAD_COND_INITIALIZER,
                               .req = {.op = BLOCK_WRITE,
                                       .offset = n * sizeof(buf[n]),
                                       .len = sizeof(buf[n]),
                                       .iov = &iov[n],
                                       .iovcnt = 1,
                                       .done = on_done}};
        block_submit(i->b, &w[n].req);
    }
    block_close(i->b);
    open_image(i);
    for (unsigned n = 0; n < 64; n++) {
        uint8_t in[4096];

        assert_true(w[n].done);
        assert_int_equal(w[n].result, 0);
        assert_int_equal(move(i->b, BLOCK_READ, n * sizeof(in), in, sizeof(in)), 0);
        assert_true(is_filled(in, sizeof(in), (uint8_t)n));
    }
}

/* What is not in whole pages, or begins anywhere in memory, and pages beside it, again and again. */
static void parts_of_pages_stay_beside_whole_ones(void **state)
{
    struct image *i = *state;
    static uint8_t buf[SIZE], twin[SIZE];
    unsigned seed = 1;

    memset(twin, 0, sizeof(twin));

    open_image(i);
    for (unsigned n = 0; n < 400; n++) {
        uint32_t at, len, skip;

        seed = seed * 1103515245 + 12345;
        at = seed >> 8 & 31;
        skip = seed >> 20 & 1;
        len = 1 + (seed >> 13 & 15);
        if (seed >> 30) {
            at &= ~7u;
            len = ALIGN_UP(len, 8);
        }
        memset(buf, (int)n, SIZE);
        memset(twin + at * 512, (int)n, len * 512);
        assert_int_equal(move(i->b, BLOCK_WRITE, at * 512, buf + skip, len * 512), 0);
        if (n % 16 == 0)
            assert_int_equal(range(i->b, BLOCK_FLUSH, 0, 0, false), 0);
        if (n % 4 == 0) {
            assert_int_equal(move(i->b, BLOCK_READ, 0, buf, 32768), 0);
            assert_memory_equal(buf, twin, 32768);
        }
    }
}

struct counter {
    struct block_req req;
    _Atomic unsigned *settled;
    unsigned settled_before;
    int result;
};

static void on_counted(struct block_req *req, int result)
{
    struct counter *c = container_of(req, struct counter, req);

    c->settled_before = *c->settled;
    c->result = result;
}

static void on_settle(void *opaque)
{
    ++*(_Atomic unsigned *)opaque;
}

/* A plug holds nothing back for good, however many there are and whatever is full. */
static void many_at_once_behind_a_plug(void **state)
{
    struct image *i = *state;
    enum { MANY = 1500 };
    static struct counter c[MANY];
    static uint8_t buf[MANY][512];
    static struct iovec iov[MANY];
    _Atomic unsigned settled = 0;

    open_image(i);
    i->b->settle = on_settle;
    i->b->settle_opaque = &settled;
    block_plug(i->b);
    for (unsigned n = 0; n < MANY; n++) {
        memset(buf[n], (int)n, 512);
        iov[n] = (struct iovec){buf[n], 512};
        c[n] = (struct counter){.settled = &settled,
                                .result = 1,
                                .req = {.op = BLOCK_WRITE,
                                        .offset = n * 512,
                                        .len = 512,
                                        .iov = &iov[n],
                                        .iovcnt = 1,
                                        .done = on_counted}};
        block_submit(i->b, &c[n].req);
    }
    block_unplug(i->b);
    block_drain(i->b);
    assert_true(i->b->event_fd < 0 || settled > 0);
    for (unsigned n = 0; n < MANY; n++) {
        uint8_t in[512];

        assert_int_equal(c[n].result, 0);
        assert_int_equal(move(i->b, BLOCK_READ, n * 512, in, 512), 0);
        assert_true(is_filled(in, 512, (uint8_t)n));
    }
    i->b->settle = NULL;
}

static int begin_near(struct block *b, struct waiter *w, struct iovec *iov, uint64_t at)
{
    *w = (struct waiter){.lock = PTHREAD_MUTEX_INITIALIZER,
                         .cond = PTHREAD_COND_INITIALIZER,
                         .req = {.op = BLOCK_READ,
                                 .offset = at,
                                 .len = iov->iov_len,
                                 .iov = iov,
                                 .iovcnt = 1,
                                 .done = on_done}};
    return block_near(b, &w->req);
}

static bool is_readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, ms) == 1;
}

/* Either who has begun it or who waits for event_fd sees the end of a near read, and not both. */
static void who_begins_a_read_may_see_its_end(void **state)
{
    static uint8_t in[4096] __attribute__((aligned(4096)));
    struct iovec iov = {in, sizeof(in)};
    struct image *i = *state;
    struct waiter w;
    int fd;

    open_image(i);
    memset(in, 0x77, sizeof(in));
    assert_int_equal(move(i->b, BLOCK_WRITE, 8192, in, sizeof(in)), 0);
    assert_int_equal(block_watch(i->b), -1);
    if (!i->b->near) {
        assert_int_equal(begin_near(i->b, &w, &iov, 8192), -EAGAIN);
        return;
    }
    assert_int_equal(begin_near(i->b, &w, &iov, SIZE), -EAGAIN);
    for (unsigned way = 0; way < 2; way++) {
        memset(in, 0, sizeof(in));
        assert_int_equal(begin_near(i->b, &w, &iov, 8192), 0);
        fd = block_watch(i->b);
        assert_true(fd >= 0);
        assert_int_equal(block_watch(i->b), fd);
        assert_true(is_readable(fd, 60000));
        assert_false(is_readable(i->b->event_fd, 0));
        block_unwatch(i->b);
        assert_false(is_readable(i->b->event_fd, 0));
        if (way)
            block_reap(i->b);
        block_unwatch(i->b);
        if (!way) {
            assert_true(is_readable(i->b->event_fd, 60000));
            block_reap(i->b);
        }
        block_drain(i->b); /* a worker may have had to do it once more */
        assert_true(w.done);
        assert_int_equal(w.result, 0);
        assert_true(is_filled(in, sizeof(in), 0x77));
        assert_int_equal(block_watch(i->b), -1);
    }
}

#define NEAR 64

struct near_reads {
    struct block *b;
    struct waiter w[NEAR];
    struct iovec iov[NEAR];
    uint8_t in[NEAR][4096] __attribute__((aligned(4096)));
};

static void *begin_and_end(void *opaque)
{
    struct near_reads *r = opaque;

    for (unsigned n = 0; n < NEAR; n++) {
        r->iov[n] = (struct iovec){r->in[n], sizeof(r->in[n])};
        if (begin_near(r->b, &r->w[n], &r->iov[n], n * sizeof(r->in[n])))
            r->w[n].result = -EAGAIN;
    }
    return NULL;
}

/* As those of vCPUs do when a guest is paused. */
static void near_reads_survive_their_thread(void **state)
{
    static struct near_reads r;
    struct image *i = *state;
    pthread_t thread;

    open_image(i);
    r.b = i->b;
    for (unsigned n = 0; n < NEAR; n++) {
        memset(r.in[n], (int)n, sizeof(r.in[n]));
        assert_int_equal(move(i->b, BLOCK_WRITE, n * sizeof(r.in[n]), r.in[n], sizeof(r.in[n])), 0);
    }
    for (unsigned turn = 0; i->b->near && turn < 10; turn++) {
        memset(r.in, 0xff, sizeof(r.in));
        assert_int_equal(pthread_create(&thread, NULL, begin_and_end, &r), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        block_drain(i->b);
        for (unsigned n = 0; n < NEAR; n++) {
            assert_true(r.w[n].done);
            assert_int_equal(r.w[n].result, 0);
            assert_true(is_filled(r.in[n], sizeof(r.in[n]), (uint8_t)n));
        }
    }
}

/* As containers do: io_uring_setup gives EPERM in this process from now on. False: that cannot be arranged. */
static bool refuse_uring(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {ARRAY_SIZE(filter), filter};

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
           !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

/* What is wrong, as an exit status; 0: nothing. */
static int use_without_uring(const struct image *i)
{
    struct block_config cfg = {.path = i->path, .aio = BLOCK_AIO_URING};
    uint8_t out[4096], in[4096] = {0};
    struct block *b;
    struct err err;
    int code;

    if (!refuse_uring())
        return 0;
    if (block_open(&b, &cfg, &err) != -EPERM || !strstr(err.next, "aio=threads"))
        return 1;
    cfg.aio = BLOCK_AIO_AUTO;
    if (block_open(&b, &cfg, &err) || b->event_fd >= 0)
        return 2;
    memset(out, 0x31, sizeof(out));
    code = move(b, BLOCK_WRITE, 8192, out, sizeof(out)) ||
           move(b, BLOCK_READ, 8192, in, sizeof(in)) || range(b, BLOCK_FLUSH, 0, 0, false);
    block_close(b);
    return code || memcmp(in, out, sizeof(in)) ? 3 : 0;
}

static void threads_where_uring_is_refused(void **state)
{
    int status;
    pid_t pid;

    if (mode.cache || mode.aio)
        return;
    pid = fork();
    assert_true(pid >= 0);
    if (!pid)
        _exit(use_without_uring(*state));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- Overlays ------------------------------------------------------------------------- */

/* An overlay `name` beside the image, on the file `on`; the path in `path`. */
static void overlay_create(const struct image *i, const char *name, const char *on,
                           const char *format, uint64_t size, char path[64])
{
    struct qcow2_create c = {.path = path, .size = size, .backing = on, .backing_fmt = format};

    snprintf(path, 64, "%s/%s", i->dir, name);
    assert_int_equal(qcow2_create(&c, NULL), 0);
}

static int overlay(const struct image *i, const char *path, struct err *err)
{
    struct block_config cfg = mode;

    cfg.path = path;
    cfg.format = "qcow2";
    block_drain(i->b);
    return block_overlay(i->b, &cfg, err);
}

static void file_starts_with(const char *path, uint64_t at, uint8_t with)
{
    uint8_t buf[4096];
    int fd = open(path, O_RDONLY);

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, buf, sizeof(buf), (off_t)at), sizeof(buf));
    assert_true(is_filled(buf, sizeof(buf), with));
    close(fd);
}

static void disk_has(struct block *b, uint64_t at, uint8_t with)
{
    uint8_t buf[4096];

    memset(buf, ~with, sizeof(buf));
    assert_int_equal(move(b, BLOCK_READ, at, buf, sizeof(buf)), 0);
    assert_true(is_filled(buf, sizeof(buf), with));
}

static void disk_put(struct block *b, uint64_t at, uint8_t with)
{
    uint8_t buf[4096];

    memset(buf, with, sizeof(buf));
    assert_int_equal(move(b, BLOCK_WRITE, at, buf, sizeof(buf)), 0);
}

/* Raw, an overlay on it, one on that: what was there is read, what is written goes to the topmost alone. */
static void goes_on_in_overlays(void **state)
{
    struct image *i = *state;
    char one[64], two[64];
    struct block *again;
    struct block_config cfg = {.read_only = true};

    overlay_create(i, "one", "disk", "raw", SIZE, one);
    overlay_create(i, "two", "one", "qcow2", SIZE, two);
    open_image(i);
    disk_put(i->b, 0, 1);
    disk_put(i->b, 65536, 1);
    assert_int_equal(overlay(i, one, NULL), 0);
    disk_has(i->b, 0, 1);
    disk_put(i->b, 65536, 2);
    assert_int_equal(range(i->b, BLOCK_FLUSH, 0, 0, false), 0);
    assert_int_equal(overlay(i, two, NULL), 0);
    disk_put(i->b, 131072, 3);
    assert_int_equal(range(i->b, BLOCK_DISCARD, 0, 65536, false), 0);
    disk_has(i->b, 65536, 2);
    disk_has(i->b, 131072, 3);
    /* Those below can be read, and not be written. */
    cfg.path = one;
    cfg.format = "qcow2";
    assert_int_equal(block_open(&again, &cfg, NULL), 0);
    disk_has(again, 0, 1);
    disk_has(again, 65536, 2);
    disk_has(again, 131072, 0);
    block_close(again);
    cfg.read_only = false;
    assert_int_equal(block_open(&again, &cfg, NULL), -EBUSY);
    cfg.path = i->path;
    cfg.format = "raw";
    assert_int_equal(block_open(&again, &cfg, NULL), -EBUSY);
    file_starts_with(i->path, 0, 1);
    file_starts_with(i->path, 65536, 1);
    file_starts_with(i->path, 131072, 0);
    block_close(i->b);
    i->b = NULL;
    cfg = mode;
    cfg.path = two;
    cfg.format = "qcow2";
    assert_int_equal(block_open(&i->b, &cfg, NULL), 0);
    disk_has(i->b, 65536, 2);
    disk_has(i->b, 131072, 3);
    unlink(one);
    unlink(two);
}

/* What cannot be laid over the image leaves it as it was: written to, and kept from others. */
static void an_overlay_that_fails_changes_nothing(void **state)
{
    struct image *i = *state;
    struct block_config cfg = {.path = i->path, .format = "raw", .read_only = true};
    struct block *again;
    char small[64];

    overlay_create(i, "small", "disk", "raw", SIZE / 2, small);
    open_image(i);
    disk_put(i->b, 0, 1);
    assert_int_equal(overlay(i, small, NULL), -EINVAL);
    assert_int_equal(overlay(i, "/nonexistent/overlay", NULL), -ENOENT);
    disk_has(i->b, 0, 1);
    disk_put(i->b, 65536, 2);
    disk_has(i->b, 65536, 2);
    file_starts_with(i->path, 65536, 2);
    assert_int_equal(block_open(&again, &cfg, NULL), -EBUSY);
    unlink(small);
}

/* Root, too, which the kernel lets write to anything. */
static void nobody_writes_to_a_frozen_file(void **state)
{
    struct image *i = *state;
    struct block_config cfg = mode;
    char one[64];

    overlay_create(i, "one", "disk", "raw", SIZE, one);
    assert_int_equal(chmod(i->path, 0444), 0);
    assert_int_equal(chmod(one, 0400), 0);
    cfg.path = i->path;
    assert_true(block_open(&i->b, &cfg, NULL) < 0);
    cfg.path = one;
    cfg.format = "qcow2";
    assert_true(block_open(&i->b, &cfg, NULL) < 0);
    cfg.read_only = true;
    assert_int_equal(block_open(&i->b, &cfg, NULL), 0);
    disk_has(i->b, 0, 0);
    unlink(one);
}

static bool can_be_had(void)
{
    struct image *i;
    struct block_config cfg = mode;
    struct err err;
    bool can;

    setup((void **)&i);
    cfg.path = i->path;
    can = !block_open(&i->b, &cfg, &err);
    if (!can)
        printf("left out: %s\n", err.what);
    teardown((void **)&i);
    return can;
}

int main(void)
{
    int failed = 0;

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(reads_what_was_written),
        CASE(zeroes_and_discards),
        CASE(refuses_what_cannot_be_right),
        CASE(a_reader_does_not_write),
        CASE(one_writer_or_many_readers),
        CASE(both_descriptors_hold_the_lock),
        CASE(a_file_that_was_cut_reads_zero),
        CASE(says_why_it_does_not_open),
        CASE(closes_with_requests_under_way),
        CASE(parts_of_pages_stay_beside_whole_ones),
        CASE(many_at_once_behind_a_plug),
        CASE(who_begins_a_read_may_see_its_end),
        CASE(near_reads_survive_their_thread),
        CASE(threads_where_uring_is_refused),
        CASE(goes_on_in_overlays),
        CASE(an_overlay_that_fails_changes_nothing),
        CASE(nobody_writes_to_a_frozen_file),
    };

    for (size_t m = 0; m < ARRAY_SIZE(modes); m++) {
        mode = modes[m];
        printf("cache mode %d, aio %d\n", (int)mode.cache, (int)mode.aio);
        if (can_be_had())
            failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}
