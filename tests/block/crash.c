/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A process that writes is killed at a random moment; then nothing it had
 * flushed may be missing. It writes to the image itself or as a guest's disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "block/block.h"
#include "qcow2test.h"

#define SECTORS 16384
#define WRITERS 3

/* In memory shared with the child, so that it tells what the child had come to. */
struct shared {
    struct sector sector[SECTORS];
    _Atomic uint32_t ready, next_state;
    _Atomic uint64_t flushes, writes;
    _Atomic uint64_t uring, direct; /* times a disk was open that way */
};

struct run {
    struct test *t;
    struct shape shape;
    struct qcow2_config cfg;
    bool as_disk, raw;
    bool direct; /* the file system can */
    enum block_cache cache;
    enum block_aio aio;
    char path[256], base[256];
    struct shared *m;
    uint32_t sectors; /* of the disk */
};

struct writer {
    pthread_t thread;
    struct run *run;
    struct test t;
    struct qcow2 *q;
    struct block *b; /* in place of q */
    unsigned n;
};

/* ---- Requests ---------------------------------------------------------------------------------- */

struct asked {
    struct block_req req;
    int result;
    _Atomic bool done;
};

static void on_done(struct block_req *req, int result)
{
    struct asked *a = container_of(req, struct asked, req);

    a->result = result;
    atomic_store(&a->done, true);
}

/* Whoever waits reaps for all. */
static int ask(struct block *b, struct block_req req)
{
    struct asked a = {.req = req};
    struct pollfd event = {.fd = b->event_fd, .events = POLLIN};

    a.req.done = on_done;
    block_submit(b, &a.req);
    while (!atomic_load(&a.done)) {
        poll(&event, 1, 1);
        block_reap(b);
    }
    return a.result;
}

static int ask_flush(struct writer *w)
{
    return w->b ? ask(w->b, (struct block_req){.op = BLOCK_FLUSH}) : qcow2_flush(w->q);
}

static int ask_write(struct writer *w, const struct iovec *iov, uint64_t off)
{
    if (!w->b)
        return qcow2_writev(w->q, iov, 1, off, iov->iov_len);
    return ask(w->b,
               (struct block_req){
                   .op = BLOCK_WRITE, .offset = off, .len = iov->iov_len, .iov = iov, .iovcnt = 1});
}

static int ask_zeroes(struct writer *w, uint64_t off, uint64_t len, bool unmap)
{
    if (!w->b)
        return qcow2_write_zeroes(w->q, off, len, unmap);
    return ask(w->b, (struct block_req){
                         .op = BLOCK_WRITE_ZEROES, .offset = off, .len = len, .unmap = unmap});
}

/* ---- The writers ------------------------------------------------------------------------------- */

/* Sectors in runs of eight belong to one writer after the other. */
static uint32_t own_sector(struct writer *w)
{
    return (uint32_t)(below(&w->t, w->run->sectors / 8 / WRITERS) * WRITERS + w->n) * 8;
}

static void state_add(struct sector *s, uint32_t state)
{
    uint32_t n = atomic_load(&s->submitted);

    s->state[n % STATES] = state;
    atomic_store(&s->submitted, n + 1);
}

/* All that was done before it began is safe when the flush is over. */
static void flush(struct writer *w, uint32_t *done)
{
    struct run *run = w->run;

    for (uint32_t i = 0; i < run->sectors; i++)
        done[i] = atomic_load(&run->m->sector[i].done);
    if (ask_flush(w))
        bad("flush failed");
    for (uint32_t i = 0; i < run->sectors; i++) {
        uint32_t safe = atomic_load(&run->m->sector[i].safe);

        while (safe < done[i] &&
               !atomic_compare_exchange_weak(&run->m->sector[i].safe, &safe, done[i]))
            ;
    }
    atomic_fetch_add(&run->m->flushes, 1);
}

static void write_some(struct writer *w, uint32_t first, uint32_t count)
{
    uint32_t state = atomic_fetch_add(&w->run->m->next_state, 1);
    struct sector *s = &w->run->m->sector[first];
    uint64_t what = below(&w->t, 20);
    _Alignas(4096) uint8_t buf[8 * 512];
    struct iovec iov = {buf, count * 512};
    int r;

    for (uint32_t i = 0; i < count; i++) {
        sector_fill(buf + i * 512, first + i, state);
        state_add(&s[i], what < 18 ? state : 0);
    }
    if (what < 18)
        r = ask_write(w, &iov, first * 512ull);
    else
        r = ask_zeroes(w, first * 512ull, count * 512, what & 1);
    if (r)
        bad("write failed: %s", strerror(-r));
    for (uint32_t i = 0; i < count; i++)
        atomic_store(&s[i].done, atomic_load(&s[i].submitted));
    atomic_fetch_add(&w->run->m->writes, 1);
}

static void *writer(void *opaque)
{
    struct writer *w = opaque;
    uint32_t *done = malloc(SECTORS * sizeof(*done));

    if (!done)
        bad("no memory");
    for (;;) {
        uint32_t first = own_sector(w), skip = (uint32_t)below(&w->t, 8);
        uint32_t count = 1 + (uint32_t)below(&w->t, 8 - skip);
        bool full = false;

        for (uint32_t i = 0; i < 8; i++) {
            struct sector *s = &w->run->m->sector[first + i];

            full |= atomic_load(&s->submitted) - atomic_load(&s->safe) > STATES - 4;
        }
        if (full || !below(&w->t, 40))
            flush(w, done);
        write_some(w, first + skip, count);
    }
    return NULL;
}

static void child(struct run *run)
{
    struct writer w[WRITERS];
    const struct block_config disk = {.path = run->path,
                                      .format = run->raw ? "raw" : "qcow2",
                                      .cache = run->cache,
                                      .aio = run->aio};
    struct err err = {0};
    struct qcow2 *q = NULL;
    struct block *b = NULL;

    if (run->as_disk ? block_open(&b, &disk, &err) : qcow2_open(&q, &run->cfg, &err))
        bad("%s cannot be opened: %s", run->path, err.what);
    if (b) {
        atomic_fetch_add(&run->m->uring, b->uring != NULL);
        atomic_fetch_add(&run->m->direct, block_cache_is_direct(run->cache));
    }
    atomic_store(&run->m->ready, 1);
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.run = run, .t = *run->t, .q = q, .b = b, .n = i};
        w[i].t.random = rnd(run->t);
        if (pthread_create(&w[i].thread, NULL, writer, &w[i]))
            bad("no thread");
    }
    for (;;)
        pause();
}

/* ---- Afterwards ------------------------------------------------------------------------------- */

static const char *run_text(const struct run *run)
{
    return run->raw ? "raw" : shape_text(&run->shape);
}

static void verify_sector(struct run *run, const uint8_t *buf, uint32_t i)
{
    struct sector *s = &run->m->sector[i];
    uint32_t state = sector_state(buf, i), n = atomic_load(&s->submitted);
    uint32_t from = atomic_load(&s->safe) - 1;

    for (uint32_t k = from; k < n; k++) {
        if (s->state[k % STATES] != state)
            continue;
        /* What was found stays: it is on the disk now. */
        s->state[0] = state;
        atomic_store(&s->submitted, 1);
        atomic_store(&s->done, 1);
        atomic_store(&s->safe, 1);
        return;
    }
    bad("%s: sector %u is in state %#x, not one of the %u from %#x to %#x", run_text(run), i, state,
        n - from, s->state[from % STATES], s->state[(n - 1) % STATES]);
}

static void verify_raw(struct run *run)
{
    int fd = open(run->path, O_RDONLY | O_CLOEXEC);
    uint8_t buf[64 * 512];

    for (uint32_t i = 0; i < run->sectors; i += 64) {
        if (pread(fd, buf, sizeof(buf), i * 512ll) != sizeof(buf))
            bad("%s: cannot read sector %u", run->path, i);
        for (uint32_t k = 0; k < 64; k++)
            verify_sector(run, buf + k * 512, i + k);
    }
    close(fd);
}

static void verify(struct run *run)
{
    struct qcow2_config cfg = run->cfg;
    struct err err = {0};
    uint8_t buf[64 * 512];
    struct qcow2 *q;

    if (!run->shape.lazy)
        must_be_clean(&run->cfg, true, shape_text(&run->shape));
    /* With lazy refcounts it is the next one to write who puts them right. */
    cfg.read_only = !run->shape.lazy;
    if (qcow2_open(&q, &cfg, &err))
        bad("%s cannot be opened: %s", run->path, err.what);
    for (uint32_t i = 0; i < run->sectors; i += 64) {
        struct iovec iov = {buf, sizeof(buf)};

        if (qcow2_readv(q, &iov, 1, i * 512ull, sizeof(buf)))
            bad("%s: cannot read sector %u", run->path, i);
        for (uint32_t k = 0; k < 64; k++)
            verify_sector(run, buf + k * 512, i + k);
    }
    qcow2_close(q);
    if (run->shape.lazy)
        must_be_clean(&run->cfg, false, shape_text(&run->shape));
}

static void make_raw(struct run *run)
{
    int fd = open(run->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, run->sectors * 512ll))
        bad("cannot make %s", run->path);
    close(fd);
}

static void make_images(struct run *run)
{
    struct qcow2_create c = {.path = run->path, .replace = true};
    struct err err = {0};
    uint8_t buf[512];

    shape_choose(run->t, &run->shape);
    run->as_disk = below(run->t, 2);
    run->cache = run->direct && below(run->t, 2) ? BLOCK_NONE : BLOCK_WRITEBACK;
    run->aio = below(run->t, 4) ? BLOCK_AIO_AUTO : BLOCK_AIO_THREADS;
    run->raw = !below(run->t, 4);
    if (run->t->disk) {
        run->raw = !strcmp(run->t->disk, "raw");
        run->as_disk = true;
        run->cache = BLOCK_NONE;
        run->aio = BLOCK_AIO_URING;
    }
    if (run->raw) {
        run->as_disk = true;
        run->shape.backing = BACKING_NONE;
    }
    if (run->shape.backing == BACKING_QCOW2)
        run->shape.backing = BACKING_RAW;
    run->sectors = run->shape.cluster_bits < 12 ? SECTORS / 8 : SECTORS;
    for (uint32_t i = 0; i < run->sectors; i++) {
        run->m->sector[i] = (struct sector){.submitted = 1, .done = 1, .safe = 1};
        run->m->sector[i].state[0] = run->shape.backing ? 1 : 0;
    }
    atomic_store(&run->m->next_state, 2);
    if (run->raw) {
        make_raw(run);
        return;
    }
    if (run->shape.backing) {
        FILE *f = fopen(run->base, "w");

        for (uint32_t i = 0; i < run->sectors; i++) {
            sector_fill(buf, i, 1);
            if (!f || !fwrite(buf, sizeof(buf), 1, f))
                bad("cannot write %s", run->base);
        }
        fclose(f);
        c.backing = "base";
        c.backing_fmt = "raw";
    }
    c.size = run->sectors * 512ull;
    c.cluster_bits = run->shape.cluster_bits;
    c.version = run->shape.version;
    c.lazy_refcounts = run->shape.lazy;
    if (qcow2_create(&c, &err))
        bad("cannot create %s: %s", run->path, err.what);
}

/* The kernel ends a dead process's io_uring on its own time. */
static void await_lock(struct run *run)
{
    const struct block_config cfg = {.path = run->path, .format = "raw", .read_only = true};
    const struct qcow2_config inspect = {.path = run->path, .inspect = true, .no_backing = true};
    struct block *b = NULL;
    struct qcow2 *q = NULL;
    struct err err;
    int r = -EBUSY;

    for (unsigned i = 0; r == -EBUSY && i < 200; i++)
        r = run->raw ? block_open(&b, &cfg, &err) : qcow2_open(&q, &inspect, &err);
    if (r)
        bad("%s cannot be opened after a kill: %s", run->path, err.what);
    if (q)
        qcow2_abandon(q);
    block_close(b);
}

static void kill_one(struct run *run)
{
    uint64_t us = 200 + below(run->t, 1ull << (10 + below(run->t, 9)));
    struct timespec wait = {0, (long)us * 1000};
    pid_t pid;

    atomic_store(&run->m->ready, 0);
    pid = fork();
    if (pid < 0)
        bad("cannot fork");
    if (!pid)
        child(run);
    while (!atomic_load(&run->m->ready))
        if (waitpid(pid, NULL, WNOHANG) == pid)
            bad("the writer has ended");
    nanosleep(&wait, NULL);
    if (kill(pid, SIGKILL) || waitpid(pid, NULL, 0) != pid)
        bad("cannot kill the writer");
    await_lock(run);
    rnd(run->t);
    if (run->raw)
        verify_raw(run);
    else
        verify(run);
}

static bool can_direct(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);

    if (fd >= 0)
        close(fd);
    unlink(path);
    return fd >= 0;
}

int test_kill(struct test *t)
{
    struct run run = {.t = t};

    run.m = mmap(NULL, sizeof(*run.m), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run.m == MAP_FAILED)
        bad("no memory");
    snprintf(run.path, sizeof(run.path), "%s/image", t->dir);
    snprintf(run.base, sizeof(run.base), "%s/base", t->dir);
    run.cfg.path = run.path;
    run.direct = can_direct(run.path);
    if (t->disk && !run.direct)
        bad("%s is on a file system that does not let its cache be passed by", t->dir);
    for (uint64_t i = 0; i < t->count; i++) {
        if (i % 10 == 0)
            make_images(&run);
        kill_one(&run);
        if (t->verbose)
            printf("%llu %s\n", (unsigned long long)i, run_text(&run));
    }
    printf("killed %llu times after %llu writes and %llu flushes, nothing flushed was lost; "
           "%llu times with io_uring, %llu past the host's cache\n",
           (unsigned long long)t->count, (unsigned long long)run.m->writes,
           (unsigned long long)run.m->flushes, (unsigned long long)run.m->uring,
           (unsigned long long)run.m->direct);
    munmap(run.m, sizeof(*run.m));
    return 0;
}
