/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages of L2 tables and refcount blocks in memory, and the commit that writes them in the right order. */
#include "base/log.h"
#include "block/qcow2_int.h"

#define PAGES_MIN 64

/* ---- Pages -------------------------------------------------------------------------- */

int meta_init(struct page_cache *c, size_t bytes, unsigned page_bits)
{
    size_t pages = bytes >> page_bits;

    c->max = pages < PAGES_MIN ? PAGES_MIN : pages > 1u << 20 ? 1u << 20 : (unsigned)pages;
    c->hash_size = PAGES_MIN;
    while (c->hash_size < c->max)
        c->hash_size *= 2;
    c->hash = calloc(c->hash_size, sizeof(*c->hash));
    return c->hash ? 0 : -ENOMEM;
}

static struct page **hash_slot(const struct qcow2 *q, uint64_t at)
{
    uint64_t h = (at >> q->page_bits) * 0x9e3779b97f4a7c15ull;

    return &q->cache.hash[(h >> 32) & (q->cache.hash_size - 1)];
}

static void unlink_used(struct page_cache *c, struct page *p)
{
    *(p->newer ? &p->newer->older : &c->newest) = p->older;
    *(p->older ? &p->older->newer : &c->oldest) = p->newer;
}

static void link_newest(struct page_cache *c, struct page *p)
{
    p->newer = NULL;
    p->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = p;
    c->newest = p;
}

static unsigned *dirty_counter(struct page_cache *c, const struct page *p)
{
    return p->kind == PAGE_L2 ? &c->dirty_l2 : &c->dirty_refcount;
}

/* Out of the hash and the list; the memory stays. */
static void page_detach(struct qcow2 *q, struct page *p)
{
    struct page **at = hash_slot(q, p->at);

    while (*at != p)
        at = &(*at)->hash_next;
    *at = p->hash_next;
    unlink_used(&q->cache, p);
    if (p->dirty)
        --*dirty_counter(&q->cache, p);
    p->dirty = 0;
    q->cache.count--;
}

static void page_free(struct page *p)
{
    if (p)
        free(p->data);
    free(p);
}

void meta_fini(struct page_cache *c)
{
    for (struct page *p = c->newest, *older; p; p = older) {
        older = p->older;
        page_free(p);
    }
    free(c->hash);
    *c = (struct page_cache){0};
}

static int page_write(struct qcow2 *q, struct page *p)
{
    unsigned sectors = (1u << q->page_bits) / SECTOR;
    int r;

    for (unsigned first = 0, end; first < sectors; first = end) {
        end = first + 1;
        if (!(p->dirty >> first & 1))
            continue;
        while (end < sectors && p->dirty >> end & 1)
            end++;
        r = file_write(&q->file, p->data + first * SECTOR, (end - first) * SECTOR,
                       p->at + first * SECTOR);
        if (r)
            return r;
    }
    p->dirty = 0;
    --*dirty_counter(&q->cache, p);
    return 0;
}

static int write_dirty(struct qcow2 *q, enum page_kind kind)
{
    struct page *p = q->cache.oldest;
    int r = 0;

    for (; p && !r && (kind == PAGE_L2 ? q->cache.dirty_l2 : q->cache.dirty_refcount); p = p->newer)
        if (p->dirty && p->kind == kind)
            r = page_write(q, p);
    return r;
}

static struct page *page_new(unsigned bits)
{
    struct page *p = calloc(1, sizeof(*p));

    if (p)
        p->data = malloc((size_t)1 << bits);
    if (p && p->data)
        return p;
    free(p);
    return NULL;
}

/*
 * Memory for a page: of the one not used for longest that may be written at
 * any time, that is, of anything but a changed L2 page. Those are few enough
 * (qcow2_reserve_locked), so that one is found almost always.
 */
static struct page *page_obtain(struct qcow2 *q)
{
    struct page *p = q->cache.oldest;

    if (q->cache.count < q->cache.max)
        return page_new(q->page_bits);
    for (unsigned i = 0; p && i + 8 < q->cache.count; i++, p = p->newer) {
        if (p->dirty && (p->kind == PAGE_L2 || q->broken || page_write(q, p)))
            continue;
        page_detach(q, p);
        return p;
    }
    return page_new(q->page_bits);
}

bool meta_has_locked(const struct qcow2 *q, uint64_t at)
{
    const struct page *p;

    at &= ~((1ull << q->page_bits) - 1);
    for (p = *hash_slot((struct qcow2 *)q, at); p && p->at != at; p = p->hash_next)
        ;
    return p;
}

int meta_get_locked(struct qcow2 *q, enum page_kind kind, uint64_t at, struct page **page)
{
    struct page_cache *c = &q->cache;
    struct page *p, **slot;
    int r;

    at &= ~((1ull << q->page_bits) - 1);
    for (p = *hash_slot(q, at); p && p->at != at; p = p->hash_next)
        ;
    if (p && p->kind != kind)
        return qcow2_damaged_locked(q, "an L2 table and a refcount block are in one place", at);
    if (p) {
        if (p != c->newest) {
            unlink_used(c, p);
            link_newest(c, p);
        }
        *page = p;
        return 0;
    }
    p = page_obtain(q);
    if (!p)
        return -ENOMEM;
    r = file_read(&q->file, p->data, (size_t)1 << q->page_bits, at);
    if (r) {
        page_free(p);
        return r;
    }
    slot = hash_slot(q, at);
    *p = (struct page){.at = at, .data = p->data, .kind = kind, .hash_next = *slot};
    *slot = p;
    link_newest(c, p);
    c->count++;
    *page = p;
    return 0;
}

void meta_dirty_locked(struct qcow2 *q, struct page *page, uint64_t at, size_t len)
{
    unsigned first = (unsigned)(at - page->at) / SECTOR;
    unsigned last = (unsigned)(at - page->at + len - 1) / SECTOR;

    if (!page->dirty)
        ++*dirty_counter(&q->cache, page);
    for (unsigned i = first; i <= last; i++)
        page->dirty |= (uint8_t)(1u << i);
}

void meta_drop_locked(struct qcow2 *q, uint64_t at, uint64_t len)
{
    uint64_t step = 1ull << q->page_bits;

    for (uint64_t end = at + len; at < end; at += step) {
        struct page *p = *hash_slot(q, at);

        while (p && p->at != at)
            p = p->hash_next;
        if (!p)
            continue;
        page_detach(q, p);
        page_free(p);
    }
}

/* ---- The L1 table --------------------------------------------------------------------- */

void l1_set_locked(struct qcow2 *q, uint64_t index, uint64_t value)
{
    uint64_t sector = index / (SECTOR / 8);

    q->l1[index] = value;
    q->l1_dirty[sector / 8] |= (uint8_t)(1u << sector % 8);
    q->l1_any_dirty = true;
}

static int l1_write_sector(struct qcow2 *q, uint64_t sector)
{
    uint64_t first = sector * (SECTOR / 8), n = SECTOR / 8;
    uint8_t buf[SECTOR];

    if (n > q->l1_size - first)
        n = q->l1_size - first;
    for (uint64_t i = 0; i < n; i++)
        be64_put(buf + i * 8, q->l1[first + i]);
    return file_write(&q->file, buf, n * 8, q->l1_offset + sector * SECTOR);
}

static int l1_write(struct qcow2 *q)
{
    uint64_t bytes = (q->l1_size + 511ull) / 512;

    if (!q->l1_any_dirty)
        return 0;
    for (uint64_t b = 0; b < bytes; b++) {
        for (unsigned i = 0; i < 8 && q->l1_dirty[b]; i++) {
            int r = q->l1_dirty[b] >> i & 1 ? l1_write_sector(q, b * 8 + i) : 0;

            if (r)
                return r;
            q->l1_dirty[b] &= (uint8_t) ~(1u << i);
        }
    }
    q->l1_any_dirty = false;
    return 0;
}

/* ---- Commits (docs/qcow2.md, "Order of writes") ----------------------------------------- */

/* What is repaired is written, lazy or not. */
static bool refcounts_lag(const struct qcow2 *q)
{
    return !q->inspect && (q->compat & COMPAT_LAZY) && (q->incompat & INCOMPAT_DIRTY);
}

/* What could not be made durable may be gone from the kernel's cache, so there is no second try. */
static int sync_unlocked(struct qcow2 *q)
{
    int r;

    pthread_mutex_unlock(&q->lock);
    r = q->file.ops->sync(&q->file);
    pthread_mutex_lock(&q->lock);
    if (r && !q->broken) {
        q->broken = r;
        log_error("%s: cannot make data durable: %s; nothing more is written", q->path,
                  strerror(-r));
    }
    return r;
}

static int commit_once_locked(struct qcow2 *q)
{
    bool changed = q->cache.dirty_l2 || q->l1_any_dirty || q->freed_count;
    size_t freed = q->freed_count;
    int r = q->broken;

    q->no_linking = true;
    if (!r && !refcounts_lag(q))
        r = write_dirty(q, PAGE_REFCOUNT);
    if (!r)
        r = sync_unlocked(q);
    if (!r && changed)
        r = write_dirty(q, PAGE_L2);
    if (!r && changed)
        r = l1_write(q);
    q->no_linking = false;
    pthread_cond_broadcast(&q->changed);
    if (!r && changed)
        r = sync_unlocked(q);
    if (!r && freed)
        freed_apply_locked(q, freed);
    return r;
}

int qcow2_commit_locked(struct qcow2 *q)
{
    uint64_t want = q->commits_begun + 1;

    while (q->commits_done < want) {
        int r;

        if (q->committing) {
            pthread_cond_wait(&q->changed, &q->lock);
            continue;
        }
        q->committing = true;
        q->commits_begun++;
        r = commit_once_locked(q);
        if (r) {
            q->commit_failed = q->commits_begun;
            q->commit_error = r;
        }
        q->commits_done = q->commits_begun;
        q->committing = false;
        pthread_cond_broadcast(&q->changed);
    }
    return q->commit_failed >= want ? q->commit_error : 0;
}

int qcow2_commit_all_locked(struct qcow2 *q)
{
    int r = qcow2_commit_locked(q);

    if (r || (!q->cache.dirty_refcount && !refcounts_lag(q)))
        return r;
    r = write_dirty(q, PAGE_REFCOUNT);
    if (!r)
        r = sync_unlocked(q);
    if (!r && refcounts_lag(q)) {
        q->incompat &= ~INCOMPAT_DIRTY;
        r = header_write_features_locked(q);
    }
    return r;
}

int qcow2_reserve_locked(struct qcow2 *q)
{
    int r = q->broken;

    while (!r && (q->cache.dirty_l2 > q->cache.max / 2 || q->freed_count > 4096 ||
                  q->freed_total > GIB(1) >> q->cluster_bits))
        r = qcow2_commit_locked(q);
    if (!r && (q->compat & COMPAT_LAZY) && !(q->incompat & INCOMPAT_DIRTY)) {
        q->incompat |= INCOMPAT_DIRTY;
        r = header_write_features_locked(q);
        if (r)
            q->incompat &= ~INCOMPAT_DIRTY;
    }
    return r;
}

int qcow2_link_begin_locked(struct qcow2 *q)
{
    while (q->no_linking)
        pthread_cond_wait(&q->changed, &q->lock);
    return q->broken;
}
