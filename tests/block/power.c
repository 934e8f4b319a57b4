/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loss of power: what an image writes is recorded; then for each moment the
 * file is put together as a disk may have it, that is, with everything that
 * was written before the last completed sync began, and any of the sectors
 * written after it.
 */
#include <pthread.h>
#include <string.h>

#include "qcow2test.h"

#define SECTORS  512
#define WRITERS  2
#define FILE_MAX MIB(4)
#define FILLER   1968640 /* bytes behind the sectors, so that the refcount table soon has to grow */

enum kind { WRITE, PUNCH, SYNC_BEGIN, SYNC_END };

struct event {
    enum kind kind;
    uint64_t off, len; /* SYNC_END: off is the index of its SYNC_BEGIN */
    uint8_t *data;
};

/* A flush: what it had made safe when the log was that long. */
struct flushed {
    size_t at;
    uint32_t safe[SECTORS];
};

struct memory {
    uint8_t *data;
    uint64_t size;
};

struct record {
    pthread_mutex_t lock;
    struct memory mem;
    struct event *event;
    size_t count, room;
    bool recording;
};

struct run {
    struct test *t;
    struct shape shape;
    struct record rec;
    struct sector sector[SECTORS];
    uint32_t *state[SECTORS]; /* all of them */
    struct flushed *flushed;
    size_t flushes;
    pthread_mutex_t lock; /* for flushed */
    _Atomic uint32_t next_state;
    struct qcow2 *q;
    bool wide; /* refcounts of 64 bits and much in use: the refcount table grows */
};

/* ---- A file in memory ------------------------------------------------------------------------- */

static void mem_put(struct memory *m, uint64_t off, const uint8_t *data, uint64_t len)
{
    if (off + len > FILE_MAX)
        bad("the file gets too large");
    if (data)
        memcpy(m->data + off, data, len);
    else
        memset(m->data + off, 0, len);
    if (m->size < off + len)
        m->size = off + len;
}

static size_t log_add(struct record *r, enum kind kind, uint64_t off, uint64_t len, uint8_t *data)
{
    if (!r->recording) {
        free(data);
        return 0;
    }
    if (r->count == r->room) {
        r->room = r->room ? r->room * 2 : 1024;
        r->event = realloc(r->event, r->room * sizeof(*r->event));
        if (!r->event)
            bad("no memory");
    }
    r->event[r->count] = (struct event){kind, off, len, data};
    return r->count++;
}

static ssize_t rec_preadv(struct qcow2_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct record *r = f->opaque;
    ssize_t got = 0;

    pthread_mutex_lock(&r->lock);
    for (; n && off < r->mem.size; n--, iov++) {
        size_t len = iov->iov_len < r->mem.size - off ? iov->iov_len : r->mem.size - off;

        memcpy(iov->iov_base, r->mem.data + off, len);
        off += len;
        got += (ssize_t)len;
        if (len < iov->iov_len)
            break;
    }
    pthread_mutex_unlock(&r->lock);
    return got;
}

static ssize_t rec_pwritev(struct qcow2_file *f, const struct iovec *iov, int n, uint64_t off)
{
    struct record *r = f->opaque;
    ssize_t got = 0;

    pthread_mutex_lock(&r->lock);
    for (; n; n--, iov++) {
        uint8_t *copy = malloc(iov->iov_len + 1);

        if (!copy)
            bad("no memory");
        memcpy(copy, iov->iov_base, iov->iov_len);
        mem_put(&r->mem, off, copy, iov->iov_len);
        log_add(r, WRITE, off, iov->iov_len, copy);
        off += iov->iov_len;
        got += (ssize_t)iov->iov_len;
    }
    pthread_mutex_unlock(&r->lock);
    return got;
}

static int rec_sync(struct qcow2_file *f)
{
    struct record *r = f->opaque;
    size_t begin;

    pthread_mutex_lock(&r->lock);
    begin = log_add(r, SYNC_BEGIN, 0, 0, NULL);
    pthread_mutex_unlock(&r->lock);
    sched_yield();
    pthread_mutex_lock(&r->lock);
    log_add(r, SYNC_END, begin, 0, NULL);
    pthread_mutex_unlock(&r->lock);
    return 0;
}

static int rec_size(struct qcow2_file *f, uint64_t *size)
{
    struct record *r = f->opaque;

    *size = r->mem.size;
    return 0;
}

static int rec_resize(struct qcow2_file *f, uint64_t size)
{
    struct record *r = f->opaque;

    if (r->recording)
        bad("the size of a file in use was changed");
    if (size > r->mem.size)
        mem_put(&r->mem, r->mem.size, NULL, size - r->mem.size);
    r->mem.size = size;
    return 0;
}

static void rec_punch(struct qcow2_file *f, uint64_t off, uint64_t len)
{
    struct record *r = f->opaque;

    pthread_mutex_lock(&r->lock);
    if (off < r->mem.size) {
        if (len > r->mem.size - off)
            len = r->mem.size - off;
        mem_put(&r->mem, off, NULL, len);
        log_add(r, PUNCH, off, len, NULL);
    }
    pthread_mutex_unlock(&r->lock);
}

static const struct qcow2_file_ops rec_ops = {
    .preadv = rec_preadv,
    .pwritev = rec_pwritev,
    .sync = rec_sync,
    .size = rec_size,
    .resize = rec_resize,
    .punch = rec_punch,
};

/* ---- The workload ------------------------------------------------------------------------------- */

struct writer {
    pthread_t thread;
    struct run *run;
    struct test t;
    unsigned n, count;
};

static void flush(struct run *run)
{
    struct flushed f;

    for (unsigned i = 0; i < SECTORS; i++)
        f.safe[i] = atomic_load(&run->sector[i].done);
    if (qcow2_flush(run->q))
        bad("flush failed");
    pthread_mutex_lock(&run->lock);
    pthread_mutex_lock(&run->rec.lock);
    f.at = run->rec.count;
    pthread_mutex_unlock(&run->rec.lock);
    run->flushed = realloc(run->flushed, (run->flushes + 1) * sizeof(*run->flushed));
    if (!run->flushed)
        bad("no memory");
    run->flushed[run->flushes++] = f;
    pthread_mutex_unlock(&run->lock);
}

static void state_add(struct run *run, uint32_t i, uint32_t state)
{
    struct sector *s = &run->sector[i];
    uint32_t n = s->submitted;

    run->state[i] = realloc(run->state[i], (n + 1) * sizeof(**run->state));
    if (!run->state[i])
        bad("no memory");
    run->state[i][n] = state;
    s->submitted = n + 1;
}

static void write_some(struct writer *w, uint32_t first, uint32_t count)
{
    uint32_t state = atomic_fetch_add(&w->run->next_state, 1);
    uint64_t what = below(&w->t, 10);
    uint8_t buf[32 * 512];
    struct iovec iov = {buf, count * 512};
    int r;

    for (uint32_t i = 0; i < count; i++) {
        sector_fill(buf + i * 512, first + i, state);
        state_add(w->run, first + i, what < 7 ? state : 0);
    }
    if (what < 7)
        r = qcow2_writev(w->run->q, &iov, 1, first * 512ull, count * 512);
    else
        r = qcow2_write_zeroes(w->run->q, first * 512ull, count * 512, what & 1);
    if (r)
        bad("write failed: %s", strerror(-r));
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&w->run->sector[first + i].done, w->run->sector[first + i].submitted);
}

/* Halves of the disk in stripes of 32 sectors belong to one writer each. */
static void *writer(void *opaque)
{
    struct writer *w = opaque;

    for (unsigned i = 0; i < w->count; i++) {
        uint32_t stripe = (uint32_t)below(&w->t, SECTORS / 32 / WRITERS) * WRITERS + w->n;
        uint32_t skip = (uint32_t)below(&w->t, 32);

        write_some(w, stripe * 32 + skip, 1 + (uint32_t)below(&w->t, 32 - skip));
        if (!below(&w->t, 12))
            flush(w->run);
    }
    return NULL;
}

/* Make the refcounts of a new image, which has one block of them, 64 bits wide. */
static void widen(struct memory *m)
{
    uint8_t *block = m->data + 1024;

    memset(block, 0, 512);
    for (uint64_t i = 0; i < m->size / 512; i++)
        block[i * 8 + 7] = 1;
    m->data[99] = 6;
}

/* The disk's end, where nobody else looks. */
static void fill_up(struct run *run)
{
    static uint8_t buf[FILLER];
    struct qcow2_config cfg = {.path = "image", .ops = &rec_ops, .opaque = &run->rec};
    struct iovec iov = {buf, sizeof(buf)};
    struct err err = {0};
    struct qcow2 *q;

    memset(buf, 1, sizeof(buf));
    if (qcow2_open(&q, &cfg, &err))
        bad("cannot open: %s", err.what);
    if (qcow2_writev(q, &iov, 1, SECTORS * 512, sizeof(buf)) || qcow2_close(q))
        bad("cannot fill up");
}

/* The disk that test_power expects on an --image. */
int test_pattern(struct test *t)
{
    char path[256];
    uint8_t buf[512];
    FILE *f;

    snprintf(path, sizeof(path), "%s/pattern.raw", t->dir);
    f = fopen(path, "w");
    for (uint32_t i = 0; i < SECTORS; i++) {
        sector_fill(buf, i, 1);
        if (!f || !fwrite(buf, sizeof(buf), 1, f))
            bad("cannot write %s", path);
    }
    return fclose(f) ? 1 : 0;
}

static void image_load(struct run *run)
{
    FILE *f = fopen(run->t->image, "r");

    if (!f)
        bad("cannot read %s", run->t->image);
    run->rec.mem.size = fread(run->rec.mem.data, 1, FILE_MAX, f);
    fclose(f);
    run->shape.version = run->rec.mem.data[7];
    run->shape.cluster_bits = run->rec.mem.data[23];
    run->shape.lazy = run->rec.mem.data[87] & 1;
}

static void image_create(struct run *run)
{
    struct qcow2_create c = {.path = "image",
                             .size = SECTORS * 512 + (run->wide ? FILLER : 0),
                             .cluster_bits = run->shape.cluster_bits,
                             .version = run->shape.version,
                             .lazy_refcounts = run->shape.lazy,
                             .ops = &rec_ops,
                             .opaque = &run->rec};
    struct err err = {0};

    if (qcow2_create(&c, &err))
        bad("cannot create: %s", err.what);
    if (run->wide) {
        widen(&run->rec.mem);
        fill_up(run);
    }
}

/* Cut the disk off in the middle of a cluster and make it larger than before. */
static void resize(struct run *run)
{
    uint32_t keep = (uint32_t)below(run->t, SECTORS);
    struct err err = {0};

    for (uint32_t i = keep; i < SECTORS; i++)
        state_add(run, i, 0);
    if (qcow2_resize(run->q, keep * 512ull, true, &err) ||
        qcow2_resize(run->q, MIB(16) + (below(run->t, 2) ? MIB(64) : 0), false, &err))
        bad("cannot resize: %s", err.what);
    for (uint32_t i = keep; i < SECTORS; i++)
        run->sector[i].done = run->sector[i].submitted;
}

static void write_all(struct run *run, unsigned count)
{
    struct writer w[WRITERS];

    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.run = run, .t = *run->t, .n = i, .count = count};
        w[i].t.random = rnd(run->t);
        if (pthread_create(&w[i].thread, NULL, writer, &w[i]))
            bad("no thread");
    }
    for (unsigned i = 0; i < WRITERS; i++)
        pthread_join(w[i].thread, NULL);
}

static void record(struct run *run, struct memory *begin)
{
    struct qcow2_config cfg = {.path = "image", .ops = &rec_ops, .opaque = &run->rec, .cache = 1};
    struct err err = {0};

    if (run->t->image)
        image_load(run);
    else
        image_create(run);
    begin->size = run->rec.mem.size;
    memcpy(begin->data, run->rec.mem.data, FILE_MAX);
    run->rec.recording = true;
    if (qcow2_open(&run->q, &cfg, &err))
        bad("cannot open: %s", err.what);
    write_all(run, 80);
    if (!run->wide && !run->t->image)
        resize(run);
    write_all(run, 80);
    flush(run);
    if (qcow2_close(run->q))
        bad("close failed");
    run->rec.recording = false;
    if (run->wide && run->rec.mem.data[59] < 2)
        bad("the refcount table has not grown");
}

/* ---- Crashes ------------------------------------------------------------------------------------- */

/* The last flush that was over when the log was that long. */
static void flushed_at(const struct run *run, size_t at, uint32_t safe[SECTORS])
{
    for (unsigned i = 0; i < SECTORS; i++)
        safe[i] = 1;
    for (size_t k = 0; k < run->flushes; k++)
        for (unsigned i = 0; run->flushed[k].at <= at && i < SECTORS; i++)
            if (safe[i] < run->flushed[k].safe[i])
                safe[i] = run->flushed[k].safe[i];
}

static void verify(struct run *run, size_t at, const char *how)
{
    struct qcow2_config cfg = {.path = how, .ops = &rec_ops, .opaque = &run->rec};
    uint32_t safe[SECTORS];
    static uint8_t buf[SECTORS * 512];
    struct qcow2_info info;
    struct iovec iov = {buf, sizeof(buf)};
    struct err err = {0};
    struct qcow2 *q;

    flushed_at(run, at, safe);
    if (!run->shape.lazy)
        must_be_clean(&cfg, true, how);
    cfg.read_only = !run->shape.lazy;
    if (qcow2_open(&q, &cfg, &err))
        bad("%s, event %zu: cannot open: %s", how, at, err.what);
    qcow2_get_info(q, &info);
    memset(buf, 0, sizeof(buf)); /* what has been cut off counts as zero */
    if (info.size < sizeof(buf))
        iov.iov_len = info.size;
    if (qcow2_readv(q, &iov, 1, 0, iov.iov_len))
        bad("%s, event %zu: cannot read", how, at);
    qcow2_close(q);
    if (run->shape.lazy)
        must_be_clean(&cfg, false, how);
    for (uint32_t i = 0; i < SECTORS; i++) {
        uint32_t state = sector_state(buf + i * 512, i), k = safe[i] - 1;

        while (k < run->sector[i].submitted && run->state[i][k] != state)
            k++;
        if (k == run->sector[i].submitted)
            bad("%s, %s, event %zu of %zu: sector %u is in state %#x, flushed was %#x", how,
                shape_text(&run->shape), at, run->rec.count, i, state, run->state[i][safe[i] - 1]);
    }
}

/* Sectors of an event, all of them or some at random. */
static void apply(struct run *run, struct memory *m, const struct event *e, unsigned percent)
{
    uint64_t end = e->off + e->len;

    if (e->kind != WRITE && e->kind != PUNCH)
        return;
    for (uint64_t at = e->off, next; at < end; at = next) {
        next = (at | 511) + 1 < end ? (at | 511) + 1 : end;
        if (below(run->t, 100) < percent)
            mem_put(m, at, e->data ? e->data + (at - e->off) : NULL, next - at);
    }
}

static void crash(struct run *run, const struct memory *durable, size_t from, size_t at)
{
    static const struct {
        const char *how;
        unsigned percent;
    } kinds[] = {
        {"all written", 100}, {"half written", 50}, {"most written", 90}, {"few written", 10}};

    for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
        struct memory *m = &run->rec.mem;
        uint64_t longest = m->size > durable->size ? m->size : durable->size;

        memcpy(m->data, durable->data, longest);
        m->size = durable->size;
        for (size_t i = from; i < at; i++)
            apply(run, m, &run->rec.event[i], kinds[k].percent);
        verify(run, at, kinds[k].how);
    }
}

static void crash_everywhere(struct run *run, struct memory *durable)
{
    size_t from = 0; /* first event that is not in `durable` */

    for (size_t at = 0; at <= run->rec.count; at++) {
        if (at && run->rec.event[at - 1].kind == SYNC_END) {
            size_t begin = run->rec.event[at - 1].off;

            for (; from < begin; from++)
                apply(run, durable, &run->rec.event[from], 100);
        }
        crash(run, durable, from, at);
    }
}

static void run_fini(struct run *run)
{
    for (size_t i = 0; i < run->rec.count; i++)
        free(run->rec.event[i].data);
    for (unsigned i = 0; i < SECTORS; i++)
        free(run->state[i]);
    free(run->rec.event);
    free(run->rec.mem.data);
    free(run->flushed);
    free(run);
}

int test_power(struct test *t)
{
    uint64_t crashes = 0;

    for (uint64_t n = 0; n < t->count; n++) {
        struct run *run = calloc(1, sizeof(*run));
        struct memory durable = {calloc(1, FILE_MAX), 0};

        if (!run || !durable.data)
            bad("no memory");
        run->t = t;
        pthread_mutex_init(&run->rec.lock, NULL);
        pthread_mutex_init(&run->lock, NULL);
        run->rec.mem.data = calloc(1, FILE_MAX);
        shape_choose(t, &run->shape);
        run->shape.backing = BACKING_NONE;
        if (run->shape.cluster_bits > 14)
            run->shape.cluster_bits = 13;
        run->wide =
            !t->image && run->shape.cluster_bits == 9 && run->shape.version > 2 && below(t, 2);
        run->next_state = 2;
        for (uint32_t i = 0; i < SECTORS; i++) {
            state_add(run, i, t->image ? 1 : 0);
            run->sector[i].done = 1;
        }
        record(run, &durable);
        if (t->verbose)
            printf("%s%s, %zu events, %zu flushes\n", shape_text(&run->shape),
                   run->wide ? ", refcounts of 64 bits" : "", run->rec.count, run->flushes);
        crashes += (run->rec.count + 1) * 4;
        crash_everywhere(run, &durable);
        free(durable.data);
        run_fini(run);
    }
    printf("%llu crashes of %llu workloads, nothing flushed was lost\n",
           (unsigned long long)crashes, (unsigned long long)t->count);
    return 0;
}
