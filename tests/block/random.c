/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Random operations on an image and on its twin in memory. */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "qcow2test.h"

#define DISK_MAX MIB(64)
#define IOVS     7

struct twin {
    struct test *t;
    struct shape shape;
    struct qcow2 *q;
    struct qcow2_config cfg;
    uint8_t *twin, *buf;
    uint64_t size, max;
    char path[256], base[256], base2[256];
    uint64_t done;
    bool keep_size, whole_sectors;
};

static void fail_at(struct twin *w, const char *what, uint64_t off, uint64_t len)
{
    bad("operation %llu (seed %llu, %s): %s, offset %#llx, length %#llx, disk %#llx",
        (unsigned long long)w->done, (unsigned long long)w->t->seed, shape_text(&w->shape), what,
        (unsigned long long)off, (unsigned long long)len, (unsigned long long)w->size);
}

static void fill(struct test *t, uint8_t *buf, uint64_t len)
{
    uint64_t word = rnd(t) | 1, i = 0;

    for (; i + 8 <= len; i += 8, word = word * 6364136223846793005ull + 1)
        memcpy(buf + i, &word, 8);
    memset(buf + i, (int)word, len - i);
}

/* ---- Images ---------------------------------------------------------------------------------- */

static void raw_make(struct twin *w, const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)size))
        bad("cannot make %s", path);
    for (unsigned i = 0; i < 12; i++) {
        uint64_t off = below(w->t, size), len = 1 + below(w->t, size / 8);

        if (len > size - off)
            len = size - off;
        fill(w->t, w->buf, len);
        if (pwrite(fd, w->buf, len, (off_t)off) != (ssize_t)len)
            bad("cannot write %s", path);
        memcpy(w->twin + off, w->buf, len);
    }
    close(fd);
}

static void create(const char *path, const struct shape *s, uint64_t size, const char *backing,
                   const char *fmt)
{
    struct qcow2_create c = {.path = path,
                             .size = size,
                             .cluster_bits = s->cluster_bits,
                             .version = s->version,
                             .lazy_refcounts = s->lazy,
                             .backing = backing,
                             .backing_fmt = fmt,
                             .replace = true};
    struct err err = {0};

    if (qcow2_create(&c, &err))
        bad("cannot create %s: %s", path, err.what);
}

static void reopen(struct twin *w)
{
    struct err err = {0};

    if (qcow2_open(&w->q, &w->cfg, &err))
        bad("operation %llu: cannot open: %s", (unsigned long long)w->done, err.what);
}

static void close_clean(struct twin *w)
{
    if (qcow2_close(w->q))
        fail_at(w, "close failed", 0, 0);
    must_be_clean(&w->cfg, false, shape_text(&w->shape));
}

/* A middle layer, of another cluster size, with data of its own. */
static void middle_make(struct twin *w, uint64_t size)
{
    struct shape s = {.cluster_bits = 9 + (unsigned)below(w->t, 8), .version = 3};
    struct qcow2_config cfg = {.path = w->base};
    struct err err = {0};
    struct qcow2 *q;

    create(w->base, &s, size, "base2.raw", "raw");
    if (qcow2_open(&q, &cfg, &err))
        bad("cannot open %s: %s", w->base, err.what);
    for (unsigned i = 0; i < 12; i++) {
        uint64_t off = below(w->t, size), len = 1 + below(w->t, size / 8);
        struct iovec iov = {w->buf, 0};

        if (len > size - off)
            len = size - off;
        fill(w->t, w->buf, len);
        if (i % 3 == 0)
            memset(w->buf, 0, len);
        iov.iov_len = len;
        if (i % 3 ? qcow2_writev(q, &iov, 1, off, len) : qcow2_write_zeroes(q, off, len, i & 1))
            bad("cannot write %s", w->base);
        memcpy(w->twin + off, w->buf, len);
    }
    if (qcow2_close(q))
        bad("cannot close %s", w->base);
}

static void setup(struct twin *w)
{
    uint64_t cluster, base;

    shape_choose(w->t, &w->shape);
    cluster = 1ull << w->shape.cluster_bits;
    w->max = cluster * 4000 < DISK_MAX ? cluster * 4000 : DISK_MAX;
    w->size = w->max / 4 + below(w->t, w->max / 4);
    if (below(w->t, 2))
        w->size &= ~511ull;
    base = w->size / 2 + below(w->t, w->size);
    memset(w->twin, 0, DISK_MAX);
    if (w->shape.backing == BACKING_RAW) {
        raw_make(w, w->base, base);
    } else if (w->shape.backing == BACKING_QCOW2) {
        raw_make(w, w->base2, base / 2 + 1);
        middle_make(w, base);
    }
    memset(w->twin + w->size, 0, DISK_MAX - w->size);
    create(w->path, &w->shape, w->size, w->shape.backing ? "base" : NULL,
           !w->shape.backing                 ? NULL
           : w->shape.backing == BACKING_RAW ? "raw"
                                             : "qcow2");
    w->cfg.cache = below(w->t, 2) ? 1 : 0;
    if (w->t->verbose)
        printf("%s, %llu bytes\n", shape_text(&w->shape), (unsigned long long)w->size);
    reopen(w);
}

/* ---- Operations --------------------------------------------------------------------------------- */

/* Mostly around a cluster, with edges on clusters, sectors or bytes; now and then long. */
static void choose_range(struct twin *w, uint64_t *off, uint64_t *len)
{
    uint64_t cluster = 1ull << w->shape.cluster_bits, unit = 1;

    *off = below(w->t, w->size);
    *len = 1 + below(w->t, below(w->t, 16) ? cluster * 3 : cluster * 40);
    switch (below(w->t, 4)) {
    case 0:
        unit = cluster;
        break;
    case 1:
    case 2:
        unit = 512;
    }
    *off = *off / unit * unit;
    *len = (*len + unit - 1) / unit * unit;
    if (*len > w->size - *off)
        *len = w->size - *off;
    if (*len > MIB(8))
        *len = MIB(8);
}

static unsigned split(struct test *t, struct iovec *iov, uint8_t *buf, uint64_t len)
{
    unsigned n = 0;

    while (len && n < IOVS - 1) {
        uint64_t part = below(t, 3) ? below(t, len + 1) : len;

        iov[n++] = (struct iovec){buf, part};
        buf += part;
        len -= part;
    }
    if (len)
        iov[n++] = (struct iovec){buf, len};
    return n;
}

static void do_read(struct twin *w, uint64_t off, uint64_t len)
{
    struct iovec iov[IOVS];
    unsigned n = split(w->t, iov, w->buf, len);
    int r = qcow2_readv(w->q, iov, n, off, len);

    if (r)
        fail_at(w, "read failed", off, len);
    if (memcmp(w->buf, w->twin + off, len)) {
        uint64_t i = 0;

        while (w->buf[i] == w->twin[off + i])
            i++;
        fail_at(w, "read differs", off + i, len - i);
    }
}

static void do_write(struct twin *w, uint64_t off, uint64_t len)
{
    struct iovec iov[IOVS];
    unsigned n = split(w->t, iov, w->twin + off, len);

    fill(w->t, w->twin + off, len);
    if (qcow2_writev(w->q, iov, n, off, len))
        fail_at(w, "write failed", off, len);
}

static void do_discard(struct twin *w, uint64_t off, uint64_t len)
{
    uint64_t mask = (1ull << w->shape.cluster_bits) - 1, first = (off + mask) & ~mask;
    uint64_t end = off + len == w->size ? w->size : (off + len) & ~mask;

    if (qcow2_discard(w->q, off, len))
        fail_at(w, "discard failed", off, len);
    if (first < end && !(w->shape.version < 3 && w->shape.backing))
        memset(w->twin + first, 0, end - first);
}

static void do_is_zero(struct twin *w, uint64_t off, uint64_t len)
{
    uint64_t got = 0;
    bool zero;

    if (qcow2_is_zero(w->q, off, len, &zero, &got) || !got || got > len)
        fail_at(w, "is_zero failed", off, len);
    for (uint64_t i = 0; zero && i < got; i++)
        if (w->twin[off + i])
            fail_at(w, "is_zero is wrong", off + i, got);
}

static void do_resize(struct twin *w)
{
    uint64_t size = below(w->t, 4) ? w->size + below(w->t, w->max / 16) : below(w->t, w->max) + 1;
    struct err err = {0};

    if (w->whole_sectors) /* QEMU sees no others */
        size = (size + 511) & ~511ull;
    if (size > w->max)
        size = w->max;
    if (qcow2_resize(w->q, size, true, &err))
        bad("resize failed: %s", err.what);
    if (size < w->size)
        memset(w->twin + size, 0, w->size - size);
    w->size = size;
}

static void step(struct twin *w)
{
    uint64_t off, len, what = below(w->t, 1000);

    choose_range(w, &off, &len);
    if (what < 430) {
        do_write(w, off, len);
    } else if (what < 780) {
        do_read(w, off, len);
    } else if (what < 850) {
        if (qcow2_write_zeroes(w->q, off, len, below(w->t, 2)))
            fail_at(w, "write_zeroes failed", off, len);
        memset(w->twin + off, 0, len);
    } else if (what < 920) {
        do_discard(w, off, len);
    } else if (what < 950) {
        do_is_zero(w, off, len);
    } else if (what < 990) {
        if (qcow2_flush(w->q))
            fail_at(w, "flush failed", 0, 0);
    } else if (what < 996) {
        if (!w->keep_size)
            do_resize(w);
    } else if (what < 998) {
        close_clean(w);
        reopen(w);
    }
}

static void compare_all(struct twin *w)
{
    for (uint64_t at = 0; at < w->size; at += MIB(4))
        do_read(w, at, w->size - at < MIB(4) ? w->size - at : MIB(4));
}

static void twin_init(struct twin *w, struct test *t)
{
    *w = (struct twin){.t = t, .twin = malloc(DISK_MAX), .buf = malloc(DISK_MAX)};
    snprintf(w->path, sizeof(w->path), "%s/image", t->dir);
    snprintf(w->base, sizeof(w->base), "%s/base", t->dir);
    snprintf(w->base2, sizeof(w->base2), "%s/base2.raw", t->dir);
    w->cfg.path = w->path;
    if (!w->twin || !w->buf)
        bad("no memory");
}

int test_random(struct test *t)
{
    struct twin w;

    twin_init(&w, t);
    while (w.done < t->count) {
        setup(&w);
        for (unsigned i = 0; i < 5000 && w.done < t->count; i++, w.done++) {
            step(&w);
            if (i % 1000 == 999)
                compare_all(&w);
        }
        close_clean(&w);
        reopen(&w);
        compare_all(&w);
        close_clean(&w);
    }
    printf("%llu operations, 0 differences\n", (unsigned long long)w.done);
    free(w.twin);
    free(w.buf);
    return 0;
}

/* ---- On an image of others ------------------------------------------------------------------- */

static void twin_dump(struct twin *w)
{
    FILE *f;

    snprintf(w->base, sizeof(w->base), "%s/twin.raw", w->t->dir);
    f = fopen(w->base, "w");
    if (!f || fwrite(w->twin, 1, w->size, f) != w->size || fclose(f))
        bad("cannot write %s", w->base);
}

int test_on(struct test *t)
{
    struct qcow2_info info;
    struct twin w;

    if (!t->image)
        bad("which --image?");
    twin_init(&w, t);
    w.cfg.path = t->image;
    reopen(&w);
    qcow2_get_info(w.q, &info);
    w.shape = (struct shape){.cluster_bits = (unsigned)__builtin_ctz(info.cluster_size),
                             .version = info.version,
                             .backing = info.backing ? BACKING_QCOW2 : BACKING_NONE,
                             .lazy = info.lazy_refcounts};
    w.size = info.size;
    w.max = info.size * 2 < DISK_MAX ? info.size * 2 : DISK_MAX;
    w.whole_sectors = true;
    w.keep_size = info.snapshots && info.version < 3;
    if (w.size > DISK_MAX || !w.size)
        bad("%s is too large", t->image);
    memset(w.twin, 0, DISK_MAX);
    if (qcow2_readv(w.q, &(struct iovec){w.twin, w.size}, 1, 0, w.size))
        bad("cannot read %s", t->image);
    for (; w.done < t->count; w.done++)
        step(&w);
    compare_all(&w);
    close_clean(&w);
    twin_dump(&w);
    free(w.twin);
    free(w.buf);
    return 0;
}

/* A writer for others to find: one that, unlike test_on, never opens the image anew. */
int test_hold(struct test *t)
{
    struct qcow2_config cfg = {.path = t->image};
    uint8_t sector[512] = {1};
    struct err err = {0};
    struct qcow2 *q;

    if (!t->image)
        bad("which --image?");
    if (qcow2_open(&q, &cfg, &err))
        bad("cannot open %s: %s", t->image, err.what);
    if (qcow2_writev(q, &(struct iovec){sector, sizeof(sector)}, 1, 0, sizeof(sector)))
        bad("cannot write to %s", t->image);
    puts("held");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return qcow2_close(q) ? 1 : 0;
}

/* ---- Several threads ------------------------------------------------------------------------------ */

#define THREADS 4
#define STRIPE  1536 /* bytes: three sectors, so that every cluster is shared */

struct worker {
    pthread_t thread;
    struct test t; /* a generator of its own */
    struct twin *w;
    unsigned n;
};

/* Every thread has every THREADS-th stripe to itself, in image and twin. */
static void *worker(void *opaque)
{
    struct worker *k = opaque;
    struct twin *w = k->w;
    uint64_t stripes = w->size / STRIPE / THREADS;
    uint8_t buf[STRIPE];

    for (uint64_t i = 0; i < k->t.count; i++) {
        uint64_t off = (below(&k->t, stripes) * THREADS + k->n) * STRIPE;
        uint64_t what = below(&k->t, 100), in = below(&k->t, STRIPE);
        uint64_t len = 1 + below(&k->t, STRIPE - in);
        struct iovec iov = {buf, len};

        off += in;
        if (what < 50) {
            fill(&k->t, buf, len);
            memcpy(w->twin + off, buf, len);
            if (qcow2_writev(w->q, &iov, 1, off, len))
                fail_at(w, "write failed", off, len);
        } else if (what < 85) {
            if (qcow2_readv(w->q, &iov, 1, off, len) || memcmp(buf, w->twin + off, len))
                fail_at(w, "read differs", off, len);
        } else if (what < 95) {
            if (qcow2_write_zeroes(w->q, off, len, what & 1))
                fail_at(w, "write_zeroes failed", off, len);
            memset(w->twin + off, 0, len);
        } else if (qcow2_flush(w->q)) {
            fail_at(w, "flush failed", 0, 0);
        }
    }
    return NULL;
}

int test_threads(struct test *t)
{
    struct worker k[THREADS];
    struct twin w;
    uint64_t part = t->count < 20000 ? t->count / THREADS : 5000;

    twin_init(&w, t);
    while (w.done < t->count) {
        setup(&w);
        for (unsigned i = 0; i < THREADS; i++) {
            k[i] = (struct worker){.t = *t, .w = &w, .n = i};
            k[i].t.count = part;
            k[i].t.random = rnd(t);
            if (pthread_create(&k[i].thread, NULL, worker, &k[i]))
                bad("no thread");
        }
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(k[i].thread, NULL);
        w.done += part * THREADS;
        compare_all(&w);
        close_clean(&w);
        reopen(&w);
        compare_all(&w);
        close_clean(&w);
    }
    printf("%llu operations by %d threads, 0 differences\n", (unsigned long long)w.done, THREADS);
    free(w.twin);
    free(w.buf);
    return 0;
}
