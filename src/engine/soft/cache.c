/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
#include "engine/soft/cache.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine/soft/emit.h"
#include "engine/soft/engine_soft.h"
#include "engine/soft/host_mem.h"
#include "engine/soft/tlb.h"
#include "engine/soft/view.h"

#define THUNK_MAX_CODE 1024
#define MAX_BLOCKS     (CACHE_SIZE / 160)
#define MAX_RECOVER    (CACHE_SIZE / 16)
#define MAX_EXITS      (CACHE_SIZE / 32)

static void *lazy_alloc(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void lazy_free(void *p, size_t bytes)
{
    if (p)
        munmap(p, bytes);
}

/*
 * perf takes names for a mapping from /tmp/perf-PID.map only where no file stands behind it, so with vm_config.perf_map
 * the memory is anonymous: mremap(2) makes a second mapping of what is shared when the old size is 0. The executable
 * one comes first, since only that call is recorded by perf, and policies forbid making memory executable later.
 */
static void map_anonymous(struct cache *k)
{
    k->rx = mmap(NULL, CACHE_SIZE, PROT_READ | PROT_EXEC,
                 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (k->rx == MAP_FAILED)
        return;
    k->rw = mremap(k->rx, 0, CACHE_SIZE, MREMAP_MAYMOVE);
    if (k->rw != MAP_FAILED && mprotect(k->rw, CACHE_SIZE, PROT_READ | PROT_WRITE)) {
        munmap(k->rw, CACHE_SIZE);
        k->rw = MAP_FAILED;
    }
}

static int map_code(struct cache *k, bool anonymous, struct err *err)
{
    if (anonymous) {
        map_anonymous(k);
    } else {
        k->fd = memfd_create("lodge-code", MFD_CLOEXEC);
        if (k->fd < 0 || ftruncate(k->fd, CACHE_SIZE))
            return err_set(err, -errno, "cannot make the translation cache: %s", strerror(errno));
        k->rw = mmap(NULL, CACHE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
        k->rx = mmap(NULL, CACHE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, k->fd, 0);
    }
    if (k->rw == MAP_FAILED || k->rx == MAP_FAILED) {
        int e = errno;

        err_set(err, -e, "cannot map the translation cache executable: %s", strerror(e));
        return err_next(
            err, "A security policy may forbid it (noexec, SELinux execmem); allow it for lodge.");
    }
    return 0;
}

int cache_init(struct soft_vm *svm, struct err *err)
{
    struct cache *k = &svm->cache;
    int r;

    memset(k, 0, sizeof(*k));
    k->fd = -1;
    k->rw = k->rx = MAP_FAILED;
    pthread_mutex_init(&k->lock, NULL);
    r = map_code(k, svm->vm->cfg.perf_map, err);
    if (r) {
        cache_fini(svm);
        return r;
    }
    k->npages = svm->vm->mem.size >> PAGE_SHIFT;
    k->max_blocks = MAX_BLOCKS;
    k->max_recover = MAX_RECOVER;
    k->max_exits = MAX_EXITS;
    k->hash = lazy_alloc(sizeof(*k->hash) << CACHE_HASH_BITS);
    k->granules = lazy_alloc(k->npages * sizeof(*k->granules));
    k->page_blocks = lazy_alloc(k->npages * sizeof(*k->page_blocks));
    k->blocks = lazy_alloc(MAX_BLOCKS * sizeof(*k->blocks));
    k->recover = lazy_alloc(MAX_RECOVER * sizeof(*k->recover));
    k->exits = lazy_alloc(MAX_EXITS * sizeof(*k->exits));
    k->links = lazy_alloc(CACHE_LINKS * sizeof(*k->links));
    k->thunks = lazy_alloc(CACHE_NTHUNKS * sizeof(*k->thunks));
    if (!k->hash || !k->granules || !k->page_blocks || !k->blocks || !k->recover || !k->exits ||
        !k->links || !k->thunks) {
        cache_fini(svm);
        return err_set(err, -ENOMEM, "no memory for the translation cache's tables");
    }
    glue_make(svm);
    view_links_clear(k);
    return 0;
}

void cache_fini(struct soft_vm *svm)
{
    struct cache *k = &svm->cache;

    lazy_free(k->hash, sizeof(*k->hash) << CACHE_HASH_BITS);
    lazy_free(k->granules, k->npages * sizeof(*k->granules));
    lazy_free(k->page_blocks, k->npages * sizeof(*k->page_blocks));
    lazy_free(k->blocks, MAX_BLOCKS * sizeof(*k->blocks));
    lazy_free(k->recover, MAX_RECOVER * sizeof(*k->recover));
    lazy_free(k->exits, MAX_EXITS * sizeof(*k->exits));
    lazy_free(k->links, CACHE_LINKS * sizeof(*k->links));
    lazy_free(k->thunks, CACHE_NTHUNKS * sizeof(*k->thunks));
    if (k->rw && k->rw != MAP_FAILED)
        munmap(k->rw, CACHE_SIZE);
    if (k->rx && k->rx != MAP_FAILED)
        munmap(k->rx, CACHE_SIZE);
    if (k->fd >= 0 && k->rw)
        close(k->fd);
    memset(k, 0, sizeof(*k));
    k->fd = -1;
}

/* ---- Look-up ------------------------------------------------------------ */

/*
 * The page is about to hold code: no vCPU may keep a write entry for it. The others' tables are changed under their
 * feet, which is safe since an entry is made invalid by one store. What such a vCPU has already let through (a store
 * past its check, a window, a string operation) may land after the translator has read the bytes, so it is asked to
 * have the page's blocks dropped once more when it next leaves translated code. Under the lock.
 */
static void page_protect(struct soft_cpu *c, uint64_t page)
{
    struct soft_vm *svm = c->svm;

    for (unsigned i = 0; i < svm->vm->cfg.cpus; i++) {
        struct soft_cpu *o = svm->cpus[i];
        unsigned n;

        if (o)
            view_drop_writes(o, svm->vm->mem.map + (page << PAGE_SHIFT));
        if (!o || !tlb_drop_writes(o, svm->vm->mem.map + (page << PAGE_SHIFT)) || o == c)
            continue;
        n = atomic_load(&o->nrecheck);
        if (n < RECHECK_MAX)
            o->recheck[n] = page;
        atomic_store(&o->nrecheck, n < RECHECK_MAX ? n + 1 : RECHECK_MAX + 1);
        soft_kick(o);
    }
}

void cache_hold_page(struct soft_cpu *c, const uint8_t *page)
{
    uint64_t pn = (uint64_t)(page - c->svm->vm->mem.map) >> PAGE_SHIFT;

    if (!atomic_fetch_or(&c->svm->cache.granules[pn], 1))
        page_protect(c, pn);
}

void cache_recheck(struct soft_cpu *c)
{
    struct cache *k = &c->svm->cache;
    uint64_t pages[RECHECK_MAX];
    unsigned n;

    pthread_mutex_lock(&k->lock);
    n = atomic_load(&c->nrecheck);
    memcpy(pages, c->recheck, sizeof(pages));
    atomic_store(&c->nrecheck, 0);
    pthread_mutex_unlock(&k->lock);
    if (n > RECHECK_MAX) {
        cache_flush_all(c);
        return;
    }
    for (unsigned i = 0; i < n; i++)
        cache_invalidate(c->svm, pages[i], 0, PAGE_SIZE);
}

static void page_add(struct cache *k, struct block *b)
{
    uint64_t page = b->phys >> PAGE_SHIFT;

    b->page_next = k->page_blocks[page];
    k->page_blocks[page] = b;
}

static void block_publish(struct cache *k, struct block *b)
{
    size_t h = cache_hash(b->phys, b->key);

    page_add(k, b);
    if (b->tail)
        page_add(k, b->tail);
    atomic_store_explicit(&b->hash_next, atomic_load_explicit(&k->hash[h], memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&k->hash[h], b, memory_order_release);
}

static void count_block(struct soft_cpu *c, const struct block *b)
{
    c->counters.block++;
    c->counters.block_insn += b->ninsn;
    c->counters.block_bytes += b->len;
}

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct block *cache_make(struct soft_cpu *c, const uint8_t *page, unsigned off, block_key key)
{
    struct soft_vm *svm = c->svm;
    struct cache *k = &svm->cache;
    uint64_t phys = (uint64_t)(page - svm->vm->mem.map) + off, pn = phys >> PAGE_SHIFT, start;
    struct block *b = NULL;
    bool full = false;

    start = now_ns();
    for (int tries = 0; tries < 2; tries++) {
        pthread_mutex_lock(&k->lock);
        b = cache_find(k, phys, key);
        if (!b) {
            /*
             * Mark the whole page first: a write entry made from here on is refused, one made before is dropped, and
             * a write by other means waits for the lock, so what the translator reads cannot change unnoticed.
             */
            uint64_t before = atomic_exchange(&k->granules[pn], ~0ull);
            size_t in_use = k->used + k->cold_used;

            if (!before)
                page_protect(c, pn);
            b = translate_block(c, page, off, key, &full);
            if (b) {
                if (unlikely(k->made))
                    k->made(k->made_arg, b);
                block_publish(k, b);
                count_block(c, b);
                c->counters.code_bytes += k->used + k->cold_used - in_use;
                before |= cache_granules(off, b->len) | b->peeked;
            }
            atomic_store(&k->granules[pn], before);
        }
        pthread_mutex_unlock(&k->lock);
        if (b || !full)
            break;
        cache_flush_all(c);
    }
    c->counters.translate_ns += now_ns() - start;
    return b;
}

/*
 * May what is at `from` be linked to a block? Blocks without an owner are linked inside their page only: if the page
 * tables are being changed by another vCPU, the block may have been found where something else is mapped already.
 */
static bool may_link(const struct cache *k, const uint8_t *from, const struct block *to)
{
    const struct recover *rec;
    const struct block *b = cache_block_at(k, from, &rec);

    return b && to->valid &&
           (BLOCK_OWNER(b->key) ? b->key == to->key
                                : b->phys >> PAGE_SHIFT == to->phys >> PAGE_SHIFT);
}

void cache_chain(struct soft_vm *svm, const uint8_t *site, uint32_t site_flags, struct block *to,
                 uint32_t gen)
{
    struct cache *k = &svm->cache;

    pthread_mutex_lock(&k->lock);
    if (atomic_load(&k->gen) == gen && may_link(k, site, to)) {
        const uint8_t *entry = block_entry(to, site_flags);

        /* Sites lie in one aligned quadword, so other vCPUs see the old or the new displacement. */
        host_store(k->rw + (site - k->rx), 4, (uint32_t)(entry - (site + 4)));
    }
    pthread_mutex_unlock(&k->lock);
}

void cache_link_twin(struct soft_vm *svm, uint32_t record, struct block *to, uint32_t gen)
{
    struct cache *k = &svm->cache;

    pthread_mutex_lock(&k->lock);
    if (record != EXIT_NONE && atomic_load(&k->gen) == gen &&
        may_link(k, k->rx + k->exits[record].at, to))
        atomic_store(&k->exits[record].twin, to->entry_mem);
    pthread_mutex_unlock(&k->lock);
}

/* The last block whose code does not begin behind pc. */
static const struct block *block_up_to(const struct cache *k, const uint8_t *pc)
{
    size_t lo = 0, hi = atomic_load_explicit(&k->nblocks, memory_order_acquire);

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (k->blocks[mid].code <= pc)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo ? &k->blocks[lo - 1] : NULL;
}

/* ---- Invalidation ---------------------------------------------------------- */

static void entry_redirect(struct cache *k, const uint8_t *entry, const uint8_t *to)
{
    size_t at = (size_t)(entry - k->rx);
    uint64_t *w = (uint64_t *)(k->rw + (at & ~7ull)), v = __atomic_load_n(w, __ATOMIC_RELAXED);
    uint64_t jmp = 0xe9 | (uint64_t)(uint32_t)(to - (entry + 5)) << 8;
    unsigned shift = 8 * (at & 7);

    __atomic_store_n(w, (v & ~(0xffffffffffull << shift)) | jmp << shift, __ATOMIC_RELEASE);
}

#define REPLACE_MAX 8

void cache_replace(struct soft_vm *svm, const uint8_t *code, struct block *to, uint32_t gen)
{
    struct cache *k = &svm->cache;
    const struct block *b;

    pthread_mutex_lock(&k->lock);
    b = atomic_load(&k->gen) == gen ? block_up_to(k, code) : NULL;
    if (b && b->code == code && !b->valid && to->valid && b->phys == to->phys &&
        b->key == to->key && b->before < REPLACE_MAX) {
        if (to->before <= b->before)
            to->before = (uint8_t)(b->before + 1);
        entry_redirect(k, b->entry_mem, to->entry_mem);
        if (b->entry_host != b->entry_mem)
            entry_redirect(k, b->entry_host, to->entry_host);
    }
    pthread_mutex_unlock(&k->lock);
}

static void block_kill(struct cache *k, struct block *b)
{
    struct block *_Atomic *link;

    b = b->of ? b->of : b;
    link = &k->hash[cache_hash(b->phys, b->key)];
    for (struct block *at = atomic_load(link); at; link = &at->hash_next, at = atomic_load(link))
        if (at == b) {
            atomic_store_explicit(link, atomic_load(&b->hash_next), memory_order_release);
            break;
        }
    b->valid = 0;
    atomic_fetch_add(&k->kills, 1);
    entry_redirect(k, b->entry_mem, b->stub_mem);
    if (b->entry_host != b->entry_mem)
        entry_redirect(k, b->entry_host, b->stub_host);
}

void cache_invalidate(struct soft_vm *svm, uint64_t page, unsigned off, unsigned len)
{
    struct cache *k = &svm->cache;
    struct block **link;
    uint64_t map = 0, hit = cache_granules(off, len);

    pthread_mutex_lock(&k->lock);
    link = &k->page_blocks[page];
    while (*link) {
        struct block *b = *link;
        unsigned at = b->phys & ~PAGE_MASK;

        if ((at < off + len && off < at + b->len) || (hit & b->peeked)) {
            *link = b->page_next;
            block_kill(k, b);
            continue;
        }
        map |= cache_granules(at, b->len) | b->peeked;
        link = &b->page_next;
    }
    atomic_store(&k->granules[page], map);
    pthread_mutex_unlock(&k->lock);
}

void cache_flush_all(struct soft_cpu *c)
{
    struct soft_vm *svm = c->svm;
    struct cache *k = &svm->cache;

    pthread_mutex_lock(&k->lock);
    atomic_store(&k->flushing, 1);
    for (unsigned i = 0; i < svm->vm->cfg.cpus; i++) {
        struct soft_cpu *o = svm->cpus[i];

        if (!o || o == c)
            continue;
        soft_kick(o);
        while (atomic_load(&o->in_code)) {
            soft_kick(o);
            sched_yield();
        }
    }
    for (size_t i = 0; i < k->nblocks; i++) {
        uint64_t page = k->blocks[i].phys >> PAGE_SHIFT;

        k->page_blocks[page] = NULL;
        atomic_store_explicit(&k->granules[page], 0, memory_order_relaxed);
    }
    memset(k->hash, 0, sizeof(*k->hash) << CACHE_HASH_BITS);
    memset(k->thunks, 0, CACHE_NTHUNKS * sizeof(*k->thunks));
    k->nblocks = k->nrecover = k->nexits = 0;
    view_links_clear(k);
    k->used = k->glue_end;
    k->cold_used = CACHE_COLD;
    atomic_fetch_add(&k->gen, 1);
    atomic_store(&k->flushing, 0);
    c->counters.cache_flush++;
    pthread_mutex_unlock(&k->lock);
}

const struct block *cache_block_at(const struct cache *k, const uint8_t *pc,
                                   const struct recover **rec)
{
    const struct block *b = block_up_to(k, pc);
    uint32_t off = b ? (uint32_t)(pc - b->code) : 0;

    if (!b || off >= b->code_len)
        return NULL;
    *rec = NULL;
    for (unsigned i = 0; i < b->ninsn && b->recover[i].host_off <= off; i++)
        *rec = &b->recover[i];
    return *rec ? b : NULL;
}

/* ---- Thunks -------------------------------------------------------------- */

/*
 * A thunk runs one native instruction with its memory operand at tmp[0] (in
 * T0) and its operands in r10/r11 brought in and out, and leaves with
 * EXIT_THUNK.
 */
static const uint8_t *thunk_make(struct cache *k, const struct insn *in)
{
    struct emit e = {.p = k->rw + k->used, .end = k->rw + CACHE_SIZE, .to_rx = k->rx - k->rw};
    const uint8_t *start = emit_here(&e);
    uint16_t regs = in->gpr_read | in->gpr_write, addr = 0;
    unsigned base = T0;

    for (unsigned i = 0; i < in->nopnd; i++) /* explicit register operands only */
        if (in->opnd[i].kind == OPND_GPR)
            addr |= (uint16_t)(1u << in->opnd[i].reg);
    regs &= addr;
    if (regs & 1u << T0)
        base = T1;
    if ((in->flags & INSN_HAS_MEM) && (regs & 1u << base))
        return NULL;
    emit_flags_load(&e);
    if (regs & 1u << T0)
        emit_load(&e, T0, GPR_OFF(T0));
    if (regs & 1u << T1)
        emit_load(&e, T1, GPR_OFF(T1));
    if (in->flags & INSN_HAS_MEM)
        emit_load(&e, base, CPU_OFF(tmp[0]));
    if (!emit_copy(&e, in, base, INSN_NOREG, 0))
        return NULL;
    if (in->gpr_write & regs & 1u << T0)
        emit_store(&e, GPR_OFF(T0), T0);
    if (in->gpr_write & regs & 1u << T1)
        emit_store(&e, GPR_OFF(T1), T1);
    emit_store_imm32(&e, CPU_OFF(exit_arg), EXIT_THUNK << EXIT_KIND_SHIFT);
    emit_jmp(&e, k->glue.exit_host);
    k->used = ALIGN_UP((size_t)(e.p - k->rw), 16);
    return start;
}

const uint8_t *cache_thunk(struct soft_cpu *c, const struct insn *in, bool *full)
{
    struct cache *k = &c->svm->cache;
    uint64_t lo, hi;
    struct thunk *t;
    const uint8_t *code;

    memcpy(&lo, in->bytes, 8);
    memcpy(&hi, in->bytes + 8, 8);
    hi |= (uint64_t)in->mode << 56; /* the sixteenth byte is free */
    t = &k->thunks[((lo ^ hi * 31) * 0x9e3779b97f4a7c15ull) >> 54];
    *full = false;
    pthread_mutex_lock(&k->lock);
    if (t->code && t->lo == lo && t->hi == hi) {
        code = t->code;
    } else {
        *full = k->used + THUNK_MAX_CODE > CACHE_COLD;
        code = *full ? NULL : thunk_make(k, in);
        if (code) {
            t->lo = lo;
            t->hi = hi;
            t->code = code;
        }
    }
    pthread_mutex_unlock(&k->lock);
    return code;
}
