/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/memcopy.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "core/dirty.h"
#include "engine/engine.h"

#define GROUP      16   /* pages copied in one go, and under one lock */
#define LOCKS      64   /* group n is under lock n % LOCKS */
#define POOL       2048 /* pages that were saved and wait to be written */
#define LITTLE     1024 /* pages that can be copied while the guest stands still */
#define ROUNDS_MAX 30

struct memcopy {
    struct vm *vm;
    struct memcopy_config cfg;
    bool in_use; /* under vm->lock */
    size_t pages;
    /* Bit per page: it is still to be copied. Cleared under the group's lock, when the page is out of harm's way. */
    _Atomic uint64_t *todo;
    _Atomic uint64_t looked; /* at so many pages, by the thread */
    pthread_mutex_t group[LOCKS];
    _Atomic unsigned savers; /* threads in memcopy_save */
    bool again;              /* pages may be in the file already: zeros are written, too */
    bool logging;            /* vm_dirty_start */

    pthread_t thread;
    bool threaded; /* to be joined; for who starts and frees */
    _Atomic bool cancel, leave;

    pthread_mutex_t lock; /* the rest */
    pthread_cond_t change;
    enum memcopy_state state;
    struct err err;
    uint8_t *pool; /* POOL pages */
    unsigned nfree, nfull;
    uint16_t free[POOL], full[POOL];
    uint64_t full_page[POOL];
};

/* ---- State -------------------------------------------------------------------------------- */

static void state_set(struct memcopy *m, enum memcopy_state s)
{
    pthread_mutex_lock(&m->lock);
    m->state = s;
    pthread_cond_broadcast(&m->change);
    pthread_mutex_unlock(&m->lock);
}

static void fail(struct memcopy *m, int code)
{
    pthread_mutex_lock(&m->lock);
    if (!m->err.code) {
        err_set(&m->err, code, "cannot copy the guest's memory: %s", strerror(-code));
        if (code == -ENOSPC)
            err_next(&m->err, "Make room where it is to go, and try again.");
    }
    pthread_mutex_unlock(&m->lock);
    atomic_store(&m->cancel, true);
}

static int why(struct memcopy *m, struct err *err)
{
    int code;

    pthread_mutex_lock(&m->lock);
    code = m->err.code;
    if (code && err)
        *err = m->err;
    pthread_mutex_unlock(&m->lock);
    return code ? code : err_set(err, -ECANCELED, "the copy of the guest's memory was cancelled");
}

/* The log is ended by its owner, or by a change of engine. */
static void log_end(struct memcopy *m)
{
    bool was;

    pthread_mutex_lock(&m->lock);
    was = m->logging;
    m->logging = false;
    pthread_mutex_unlock(&m->lock);
    if (was)
        vm_dirty_stop(m->vm);
}

/* ---- Pages -------------------------------------------------------------------------------- */

static bool todo(const struct memcopy *m, uint64_t page)
{
    return atomic_load(&m->todo[page / 64]) >> page % 64 & 1;
}

static void todo_clear(struct memcopy *m, uint64_t page)
{
    atomic_fetch_and(&m->todo[page / 64], ~(1ull << page % 64));
}

static void todo_set_all(struct memcopy *m)
{
    for (size_t i = 0; i < m->pages / 64; i++)
        atomic_store(&m->todo[i], ~0ull);
    if (m->pages % 64)
        atomic_store(&m->todo[m->pages / 64], (1ull << m->pages % 64) - 1);
    atomic_store(&m->looked, 0);
}

static bool is_zero(const uint8_t *page)
{
    return !page[0] && !memcmp(page, page + 1, PAGE_SIZE - 1);
}

/* File systems without a size have no blocks. */
static bool is_reserved(const struct memcopy *m, uint64_t len)
{
    struct statfs fs;

    return m->cfg.reserve && !fstatfs(m->cfg.fd, &fs) && fs.f_blocks &&
           (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize < m->cfg.reserve + len;
}

static void put(struct memcopy *m, const uint8_t *buf, uint64_t page, uint64_t n)
{
    uint64_t off = m->cfg.offset + page * PAGE_SIZE;

    if (is_reserved(m, n * PAGE_SIZE)) {
        fail(m, -ENOSPC);
        return;
    }
    for (uint64_t done = 0, len = n * PAGE_SIZE; done < len;) {
        ssize_t r = pwrite(m->cfg.fd, buf + done, len - done, (off_t)(off + done));

        if (r < 0 && errno != EINTR) {
            fail(m, -errno);
            return;
        }
        done += r < 0 ? 0 : (uint64_t)r;
    }
}

static pthread_mutex_t *group_lock(struct memcopy *m, uint64_t page)
{
    return &m->group[page / GROUP % LOCKS];
}

/* ---- Pages about to be written -------------------------------------------------------------- */

static int pool_get(struct memcopy *m)
{
    int slot = -1;

    pthread_mutex_lock(&m->lock);
    if (m->nfree)
        slot = m->free[--m->nfree];
    pthread_mutex_unlock(&m->lock);
    return slot;
}

static void pool_put(struct memcopy *m, int slot, bool full, uint64_t page)
{
    pthread_mutex_lock(&m->lock);
    if (full) {
        m->full[m->nfull++] = (uint16_t)slot;
        m->full_page[slot] = page;
    } else {
        m->free[m->nfree++] = (uint16_t)slot;
    }
    pthread_mutex_unlock(&m->lock);
}

/* Write out what waits. On the copy's thread, or when that has ended. */
static void pool_drain(struct memcopy *m)
{
    for (;;) {
        uint64_t page = 0;
        int slot = -1;

        pthread_mutex_lock(&m->lock);
        if (m->nfull) {
            slot = m->full[--m->nfull];
            page = m->full_page[slot];
        }
        pthread_mutex_unlock(&m->lock);
        if (slot < 0)
            return;
        if (!atomic_load(&m->cancel))
            put(m, m->pool + (size_t)slot * PAGE_SIZE, page, 1);
        pool_put(m, slot, false, 0);
    }
}

/* A file may be slow, and who waits here may be a vCPU: the page is written by the thread if there is a place for it. */
static void save_page(struct memcopy *m, uint64_t page)
{
    const uint8_t *data = m->vm->mem.map + page * PAGE_SIZE;
    uint8_t mine[PAGE_SIZE];
    int slot = pool_get(m);
    uint8_t *to = slot < 0 ? mine : m->pool + (size_t)slot * PAGE_SIZE;
    bool got = false;

    pthread_mutex_lock(group_lock(m, page));
    if (todo(m, page)) {
        got = !is_zero(data);
        if (got)
            memcpy(to, data, PAGE_SIZE);
        todo_clear(m, page);
    }
    pthread_mutex_unlock(group_lock(m, page));
    if (slot >= 0)
        pool_put(m, slot, got, page);
    else if (got)
        put(m, mine, page, 1);
}

/* mem.save. With `savers` the thread knows when all that has begun here is in the file or waits to be written. */
static void memcopy_save(void *opaque, uint64_t offset, uint64_t len)
{
    struct memcopy *m = opaque;

    atomic_fetch_add(&m->savers, 1);
    for (uint64_t page = offset / PAGE_SIZE; page <= (offset + len - 1) / PAGE_SIZE; page++)
        if (!atomic_load(&m->cancel) && todo(m, page))
            save_page(m, page);
    atomic_fetch_sub(&m->savers, 1);
}

/* ---- All the others ----------------------------------------------------------------------- */

/* Up to GROUP pages of one group. */
static void copy_group(struct memcopy *m, uint64_t first, uint64_t n, uint8_t *buf)
{
    const uint8_t *map = m->vm->mem.map;
    bool got[GROUP] = {0};

    pthread_mutex_lock(group_lock(m, first));
    for (uint64_t i = 0; i < n; i++) {
        const uint8_t *data = map + (first + i) * PAGE_SIZE;

        if (!todo(m, first + i))
            continue;
        got[i] = m->again || !is_zero(data);
        if (got[i])
            memcpy(buf + i * PAGE_SIZE, data, PAGE_SIZE);
        todo_clear(m, first + i); /* from here on it is written */
    }
    pthread_mutex_unlock(group_lock(m, first));
    for (uint64_t i = 0, k; i < n; i += k) {
        for (k = 1; i + k < n && got[i] == got[i + k]; k++)
            ;
        if (got[i])
            put(m, buf + i * PAGE_SIZE, first + i, k);
    }
}

/* There is nothing: it was zero at the start, too, or it would have been saved before it was given back. */
static void skip_pages(struct memcopy *m, uint64_t from, uint64_t to)
{
    while (from < to && from % 64) {
        todo_clear(m, from);
        from++;
    }
    for (; from + 64 <= to; from += 64)
        atomic_store(&m->todo[from / 64], 0);
    for (; from < to; from++)
        todo_clear(m, from);
}

/* Copy all that is to be copied, until told to leave. */
static void copy_all(struct memcopy *m, const _Atomic bool *leave, uint8_t *buf)
{
    uint64_t page = 0, end = 0;

    while (page < m->pages && !atomic_load(&m->cancel) && !atomic_load(leave)) {
        uint64_t n = GROUP - page % GROUP;

        if (page >= end && !m->again) {
            uint64_t last, start = mem_find_data(&m->vm->mem, page * PAGE_SIZE, &last) / PAGE_SIZE;

            skip_pages(m, page, start);
            end = last / PAGE_SIZE;
            page = start;
            n = GROUP - page % GROUP;
        } else if (m->again) {
            end = m->pages;
        }
        n = n < end - page ? n : end - page;
        if (n)
            copy_group(m, page, n, buf);
        page += n;
        atomic_store(&m->looked, page);
        pool_drain(m);
    }
}

/* ---- The thread --------------------------------------------------------------------------- */

static void finish(struct memcopy *m)
{
    struct memcopy_config cfg = m->cfg;

    atomic_fetch_and(&m->vm->mem.guard, ~MEM_GUARD_COPY);
    while (atomic_load(&m->savers))
        sched_yield();
    pool_drain(m);
    if (cfg.sync && !atomic_load(&m->cancel) && fdatasync(cfg.fd) < 0)
        fail(m, -errno);
    atomic_store(&m->looked, m->pages);
    state_set(m, atomic_load(&m->cancel) ? MEMCOPY_FAILED : MEMCOPY_DONE);
    if (cfg.done)
        cfg.done(cfg.opaque);
}

/* Everything was copied; now what was written meanwhile, as long as that becomes less. */
static void copy_rounds(struct memcopy *m, uint8_t *buf)
{
    uint64_t *written = calloc(vm_dirty_words(m->vm), sizeof(*written));

    m->again = true;
    for (unsigned round = 0; written && round < ROUNDS_MAX; round++) {
        uint64_t n = 0;

        memset(written, 0, vm_dirty_words(m->vm) * sizeof(*written));
        if (atomic_load(&m->leave) || atomic_load(&m->cancel) ||
            vm_dirty_take(m->vm, written, NULL) < 0)
            break;
        for (size_t i = 0; i < vm_dirty_words(m->vm); i++) {
            atomic_fetch_or(&m->todo[i], written[i]);
            n += (unsigned)__builtin_popcountll(written[i]);
        }
        if (n <= LITTLE)
            break;
        copy_all(m, &m->leave, buf);
    }
    free(written);
}

static void *prepare_thread(void *opaque)
{
    struct memcopy *m = opaque;
    uint8_t *buf = aligned_alloc(PAGE_SIZE, GROUP * PAGE_SIZE);

    thread_name("memcopy");
    if (!buf) {
        fail(m, -ENOMEM);
    } else {
        copy_all(m, &m->leave, buf);
        if (m->vm->engine->dirty_live)
            copy_rounds(m, buf);
        m->again = true;
    }
    free(buf);
    state_set(m, atomic_load(&m->cancel) ? MEMCOPY_FAILED : MEMCOPY_PREPARED);
    return NULL;
}

static void *copy_thread(void *opaque)
{
    static const _Atomic bool never;
    struct memcopy *m = opaque;
    uint8_t *buf = aligned_alloc(PAGE_SIZE, GROUP * PAGE_SIZE);

    thread_name("memcopy");
    if (buf)
        copy_all(m, &never, buf);
    else
        fail(m, -ENOMEM);
    free(buf);
    finish(m);
    return NULL;
}

static void *finish_thread(void *opaque)
{
    thread_name("memcopy");
    finish(opaque);
    return NULL;
}

static int start_thread(struct memcopy *m, void *(*fn)(void *), struct err *err)
{
    int rc = pthread_create(&m->thread, NULL, fn, m);

    if (rc)
        return err_set(err, -rc, "cannot start a thread to copy the guest's memory: %s",
                       strerror(rc));
    m->threaded = true;
    return 0;
}

static void thread_end(struct memcopy *m)
{
    if (m->threaded)
        pthread_join(m->thread, NULL);
    m->threaded = false;
}

/* ---- Making one --------------------------------------------------------------------------- */

static int file_check(const struct memcopy_config *cfg, uint64_t size, struct err *err)
{
    struct stat st;
    int rc = 0;

    if (cfg->offset % PAGE_SIZE || cfg->offset > INT64_MAX - size)
        return err_set(err, -EINVAL, "a copy of memory begins at a whole page of a file");
    if (fstat(cfg->fd, &st) < 0)
        rc = -errno;
    else if ((uint64_t)st.st_size < cfg->offset + size &&
             ftruncate(cfg->fd, (off_t)(cfg->offset + size)) < 0)
        rc = -errno;
    return rc ? err_set(err, rc, "cannot make the copy of the guest's memory: %s", strerror(-rc))
              : 0;
}

static struct memcopy *copy_alloc(struct vm *vm)
{
    struct memcopy *m = calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->vm = vm;
    m->pages = vm->mem.size / PAGE_SIZE;
    m->todo = calloc(ALIGN_UP(m->pages, 64) / 64, sizeof(*m->todo));
    m->pool = mmap(NULL, POOL * PAGE_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!m->todo || m->pool == MAP_FAILED) {
        if (m->pool != MAP_FAILED)
            munmap(m->pool, POOL * PAGE_SIZE);
        free((void *)m->todo);
        free(m);
        return NULL;
    }
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->change, NULL);
    for (unsigned i = 0; i < LOCKS; i++)
        pthread_mutex_init(&m->group[i], NULL);
    return m;
}

/* It stays until the VM is freed: a vCPU may be in mem_own, and just see that there is nothing to be done any more. */
static int copy_claim(struct vm *vm, struct memcopy **out, struct err *err)
{
    int rc = 0;

    pthread_mutex_lock(&vm->lock);
    if (!vm->memcopy)
        vm->memcopy = copy_alloc(vm);
    if (!vm->memcopy)
        rc = err_set(err, -ENOMEM, "no memory to copy the guest's memory");
    else if (vm->memcopy->in_use)
        rc = err_set(err, -EBUSY, "the guest's memory is being copied already");
    else
        vm->memcopy->in_use = true;
    *out = rc ? NULL : vm->memcopy;
    pthread_mutex_unlock(&vm->lock);
    return rc;
}

static void copy_unclaim(struct memcopy *m)
{
    pthread_mutex_lock(&m->vm->lock);
    m->in_use = false;
    pthread_mutex_unlock(&m->vm->lock);
}

int memcopy_new(struct memcopy **copy, struct vm *vm, const struct memcopy_config *cfg,
                struct err *err)
{
    struct memcopy *m;
    int rc;

    *copy = NULL;
    rc = copy_claim(vm, &m, err);
    if (rc)
        return rc;
    rc = file_check(cfg, vm->mem.size, err);
    if (rc) {
        copy_unclaim(m);
        return rc;
    }
    m->cfg = *cfg;
    m->state = MEMCOPY_NEW;
    m->err = (struct err){0};
    m->again = m->logging = false;
    atomic_store(&m->cancel, false);
    atomic_store(&m->leave, false);
    atomic_store(&m->looked, 0);
    m->nfull = 0;
    m->nfree = POOL;
    for (unsigned i = 0; i < POOL; i++)
        m->free[i] = (uint16_t)i;
    *copy = m;
    return 0;
}

int memcopy_prepare(struct memcopy *m, struct err *err)
{
    int rc;

    if (m->state != MEMCOPY_NEW)
        return 0;
    if (m->vm->engine->arm) {
        state_set(m, MEMCOPY_PREPARED);
        return 0;
    }
    if (atomic_load(&m->vm->dirty_on))
        return err_set(err, -EBUSY, "somebody else notes which pages are written");
    rc = vm_dirty_start(m->vm, err);
    if (rc)
        return rc;
    m->logging = true;
    todo_set_all(m);
    state_set(m, MEMCOPY_PREPARING);
    rc = start_thread(m, prepare_thread, err);
    if (rc)
        state_set(m, MEMCOPY_FAILED);
    return rc;
}

static void deadline_after(struct timespec *t, unsigned ms)
{
    clock_gettime(CLOCK_REALTIME, t);
    t->tv_sec += ms / 1000;
    t->tv_nsec += (long)(ms % 1000) * 1000000;
    if (t->tv_nsec >= 1000000000) {
        t->tv_nsec -= 1000000000;
        t->tv_sec++;
    }
}

int memcopy_prepared(struct memcopy *m, unsigned ms, struct err *err)
{
    enum memcopy_state s;
    struct timespec end;
    int rc = 0;

    deadline_after(&end, ms);
    pthread_mutex_lock(&m->lock);
    while (m->state == MEMCOPY_PREPARING && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&m->change, &m->lock, &end);
    s = m->state;
    pthread_mutex_unlock(&m->lock);
    if (s == MEMCOPY_FAILED)
        return why(m, err);
    return s == MEMCOPY_PREPARING
               ? err_set(err, -ETIMEDOUT, "the guest's memory could not be copied in time")
               : 0;
}

/* The engine announces what guest code writes, so everything can wait. */
static int start_armed(struct memcopy *m, struct err *err)
{
    struct mem *mem = &m->vm->mem;
    int rc;

    todo_set_all(m);
    mem->save = memcopy_save;
    mem->save_opaque = m;
    mem->unsaved = m->todo;
    atomic_fetch_or(&mem->guard, MEM_GUARD_COPY);
    m->vm->engine->arm(m->vm);
    state_set(m, MEMCOPY_COPYING);
    rc = start_thread(m, copy_thread, err);
    if (rc) {
        atomic_fetch_and(&mem->guard, ~MEM_GUARD_COPY);
        state_set(m, MEMCOPY_FAILED);
    }
    return rc;
}

/* All that was not copied, or was written since, is copied here and now. */
static int start_now(struct memcopy *m, struct err *err)
{
    static const _Atomic bool never;
    size_t words = vm_dirty_words(m->vm);
    uint64_t *written = calloc(words, sizeof(*written));
    uint8_t *buf = aligned_alloc(PAGE_SIZE, GROUP * PAGE_SIZE);
    int rc = written && buf ? 0 : -ENOMEM;

    if (rc) {
        fail(m, rc);
    } else if (!m->logging) {
        todo_set_all(m);
    } else {
        rc = vm_dirty_take(m->vm, written, err);
        for (size_t i = 0; i < words; i++)
            atomic_fetch_or(&m->todo[i], written[i]);
        if (rc)
            fail(m, rc);
    }
    if (!rc)
        copy_all(m, &never, buf);
    free(written);
    free(buf);
    log_end(m);
    state_set(m, MEMCOPY_COPYING);
    rc = atomic_load(&m->cancel) ? why(m, err) : start_thread(m, finish_thread, err);
    if (rc)
        state_set(m, MEMCOPY_FAILED);
    return rc;
}

int memcopy_start(struct memcopy *m, struct err *err)
{
    atomic_store(&m->leave, true);
    thread_end(m);
    if (m->state == MEMCOPY_FAILED || atomic_load(&m->cancel))
        return why(m, err);
    return m->vm->engine->arm && !m->logging ? start_armed(m, err) : start_now(m, err);
}

/* ---- Watching it -------------------------------------------------------------------------- */

enum memcopy_state memcopy_poll(struct memcopy *m, uint64_t *done, uint64_t *all)
{
    enum memcopy_state s;

    *done = atomic_load(&m->looked) * PAGE_SIZE;
    *all = m->pages * PAGE_SIZE;
    pthread_mutex_lock(&m->lock);
    s = m->state;
    pthread_mutex_unlock(&m->lock);
    return s;
}

int memcopy_wait(struct memcopy *m, struct err *err)
{
    enum memcopy_state s;

    pthread_mutex_lock(&m->lock);
    while (m->state == MEMCOPY_COPYING)
        pthread_cond_wait(&m->change, &m->lock);
    s = m->state;
    pthread_mutex_unlock(&m->lock);
    if (s == MEMCOPY_DONE)
        return 0;
    return s == MEMCOPY_FAILED ? why(m, err)
                               : err_set(err, -EINVAL, "no copy of memory was started");
}

void memcopy_cancel(struct memcopy *m)
{
    atomic_store(&m->cancel, true);
}

void memcopy_free(struct memcopy *m)
{
    if (!m)
        return;
    memcopy_cancel(m);
    thread_end(m);
    log_end(m);
    copy_unclaim(m);
}

/* ---- For core ------------------------------------------------------------------------------ */

void memcopy_finish(struct vm *vm)
{
    struct memcopy *m = vm->memcopy;

    if (!m)
        return;
    if (atomic_load(&vm->mem.guard) & MEM_GUARD_COPY)
        memcopy_save(m, 0, vm->mem.size);
    pthread_mutex_lock(&m->lock);
    if (m->logging) {
        err_set(&m->err, -ECANCELED, "the guest's engine was changed while its memory was copied");
        atomic_store(&m->cancel, true);
        while (m->state == MEMCOPY_PREPARING)
            pthread_cond_wait(&m->change, &m->lock);
        m->state = MEMCOPY_FAILED;
    }
    pthread_mutex_unlock(&m->lock);
    log_end(m);
}

void memcopy_fini(struct vm *vm)
{
    struct memcopy *m = vm->memcopy;

    if (!m)
        return;
    memcopy_cancel(m);
    thread_end(m);
    munmap(m->pool, POOL * PAGE_SIZE);
    for (unsigned i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&m->group[i]);
    pthread_cond_destroy(&m->change);
    pthread_mutex_destroy(&m->lock);
    free((void *)m->todo);
    free(m);
    vm->memcopy = NULL;
}
