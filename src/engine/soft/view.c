/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
#include "engine/soft/view.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/tlb.h"

#define REGION_SIZE  (1ull << VIEW_REGION_SHIFT)
#define REGION_GUARD GIB(4) /* no displacement and no distance in a window reaches over it */
#define MAX_REGIONS  8
#define MAX_VIEWS    8
#define CHUNK_SHIFT  21
#define CHUNK_PAGES  512
#define CHUNK_SLOTS  2048
#define MAX_CHUNKS   (CHUNK_SLOTS / 2)
#define MAX_PENDING  64
#define CODE_SLOTS   16384
#define AROUND       16 /* pages looked at around one that is mapped */

/* A process may have 65530 mappings if nobody changed that (vm.max_map_count). Of all vCPUs' views together: */
#define MAX_RUNS 40000

/* In milliseconds of the vCPU thread's time, as counted by interrupts that find it in user code. */
#ifndef TIME_ON         /* tests have views come sooner and stay longer */
#define TIME_ON    20   /* that long, and an address space gets a view */
#define TIME_OWN   200  /* and that long, and OWN_WORTH, blocks of its own */
#define TIME_AGAIN -300 /* after a view was lost */
#define EVENTS_LIMIT                                                                               \
    800 /* four times the faults in a tick of 4 ms that cost more than a view gains */
#endif
#define TICK_MAX 10 /* what one interrupt may count for */

/* They must have taken that many times as long as to make blocks of its own for what has been found would take. */
#define OWN_WORTH     15
#define BLOCKS_PER_MS 250

/* Blocks of its own are given up if to make them takes more than 20 ms and a third of the time they have been used. */
#define INSNS_PER_MS 2500 /* translated, about */
#define OWN_GRACE    20

/* 2 MiB of the address space in which something is mapped. */
struct chunk {
    gva_t va;
    uint64_t page[CHUNK_PAGES]; /* offset in guest memory and rights, or 0 */
};
#define PAGE_READ  1u
#define PAGE_WRITE 2u

/* Where blocks were made from. */
struct code_page {
    gva_t va; /* 0: free; nothing is linked to page 0 */
    const uint8_t *page;
};

struct region {
    unsigned idx; /* bits 39 to 46 of its guest addresses */
    uint8_t *host;
};

struct view {
    uint64_t pgd; /* the address space: CR3 without PCID */
    bool active;
    double time;             /* see TIME_ON */
    double own_time;         /* when it got blocks of its own, */
    uint64_t own_insns;      /* and how many instructions had been translated */
    uint64_t finds;          /* of blocks to go on with, outside translated code */
    unsigned events, recent; /* faults since the last tick, and before with less weight */
    uint64_t last_tick;
    const struct tlb_set *set; /* in step with this set as it was after so many flushes */
    uint32_t flushes;
    unsigned nregions, nchunks, nruns, npending;
    struct region regions[MAX_REGIONS];
    struct chunk *chunks[CHUNK_SLOTS];
    block_key code; /* of its blocks */
    struct code_page codes[CODE_SLOTS];
    unsigned ncodes;
    gva_t pending[MAX_PENDING]; /* pages of INVLPG */
};

struct views {
    pthread_mutex_t lock; /* what is mapped; taken by others only to take rights away */
    struct view v[MAX_VIEWS];
    struct view *now; /* whose regions are in view_table */
    unsigned nactive;
    uint8_t *nowhere; /* where the other regions lead; nothing is ever mapped there */
    uint64_t clock;
    double then;         /* thread_ms at the last interrupt in user code */
    uint64_t finds_then; /* finds, as in soft_cpu.counters */
};

/* ---- Regions ---------------------------------------------------------------------------- */

static uint8_t *reserve(void)
{
    uint8_t *p = mmap(NULL, REGION_SIZE + 2 * REGION_GUARD, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p + REGION_GUARD;
}

static void release(uint8_t *host)
{
    if (host)
        munmap(host - REGION_GUARD, REGION_SIZE + 2 * REGION_GUARD);
}

static uint64_t leads_to(unsigned idx, const uint8_t *host)
{
    return (uint64_t)(uintptr_t)host - ((uint64_t)idx << VIEW_REGION_SHIFT);
}

static void table_set(struct soft_cpu *c, const struct view *v, bool on)
{
    for (unsigned i = 0; v && i < v->nregions; i++) {
        const struct region *r = &v->regions[i];

        c->view_table[r->idx] = leads_to(r->idx, on ? r->host : c->views->nowhere);
    }
}

static uint8_t *host_of(const struct view *v, gva_t va)
{
    for (unsigned i = 0; i < v->nregions; i++)
        if (v->regions[i].idx == va >> VIEW_REGION_SHIFT)
            return v->regions[i].host + (va & (REGION_SIZE - 1));
    return NULL;
}

/* Guest address of a place in a view. */
static bool guest_of(const struct view *v, uintptr_t host, gva_t *va)
{
    for (unsigned i = 0; i < v->nregions; i++) {
        const struct region *r = &v->regions[i];

        if (host - (uintptr_t)r->host < REGION_SIZE) {
            *va = ((gva_t)r->idx << VIEW_REGION_SHIFT) + (host - (uintptr_t)r->host);
            return true;
        }
    }
    return false;
}

/* Reserve regions for what the top-level page table has come to hold. */
static bool regions_find(struct soft_cpu *c, struct view *v)
{
    const uint64_t *pml4 =
        (const uint64_t *)mem_hva(&c->svm->vm->mem, c->st.cr3 & X86_CR3_PGD, PAGE_SIZE);
    bool found = false;

    for (unsigned i = 0; pml4 && i < 256; i++) {
        struct region *r = &v->regions[v->nregions];

        if (!(__atomic_load_n(&pml4[i], __ATOMIC_RELAXED) & 1) ||
            host_of(v, (gva_t)i << VIEW_REGION_SHIFT))
            continue;
        if (v->nregions == MAX_REGIONS || !(r->host = reserve()))
            return found;
        r->idx = i;
        v->nregions++;
        found = true;
    }
    return found;
}

/* ---- What is mapped --------------------------------------------------------------------- */

static struct chunk **chunk_slot(struct view *v, gva_t va)
{
    uint32_t h = (uint32_t)(va >> CHUNK_SHIFT) * 0x9e3779b1u >> 21;

    while (v->chunks[h] && v->chunks[h]->va != va)
        h = (h + 1) & (CHUNK_SLOTS - 1);
    return &v->chunks[h];
}

/* By mmap, since it is called in a signal handler, too; zero bytes. */
static struct chunk *chunk_new(void)
{
    void *p = mmap(NULL, sizeof(struct chunk), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static void chunk_free(struct chunk *ch)
{
    if (ch)
        munmap(ch, sizeof(*ch));
}

static struct chunk *chunk_get(struct view *v, gva_t va, bool create)
{
    struct chunk **slot;

    va &= ~((1ull << CHUNK_SHIFT) - 1);
    slot = chunk_slot(v, va);
    if (!*slot && create && v->nchunks < MAX_CHUNKS) {
        *slot = chunk_new();
        if (*slot) {
            (*slot)->va = va;
            v->nchunks++;
        }
    }
    return *slot;
}

static uint8_t *chunk_host(const struct view *v, const struct chunk *ch, unsigned i)
{
    return host_of(v, ch->va) + ((uint64_t)i << PAGE_SHIFT);
}

/* What the guest's page tables allow for one page now: a value for chunk.page. */
static uint64_t wanted(struct soft_cpu *c, const struct peek *p, unsigned i)
{
    enum peek_rights rights;
    uint64_t off;
    gpa_t gpa;
    hva_t page;

    rights = mmu_peek_page(c, p, i, &gpa);
    page = rights == PEEK_NONE ? NULL : mem_hva(&c->svm->vm->mem, gpa, PAGE_SIZE);
    if (!page)
        return 0;
    off = (uint64_t)(page - c->svm->vm->mem.map);
    return off | PAGE_READ |
           (rights == PEEK_WRITE && !page_holds_code(c->svm, page) ? PAGE_WRITE : 0);
}

static _Atomic uint16_t *writes_of(struct soft_cpu *c, uint64_t entry)
{
    return &c->svm->view_writes[entry >> PAGE_SHIFT];
}

static void entry_set(struct soft_cpu *c, struct chunk *ch, unsigned i, uint64_t entry)
{
    uint64_t old = ch->page[i];

    if (entry & PAGE_WRITE)
        atomic_fetch_add(writes_of(c, entry), 1);
    if (old & PAGE_WRITE)
        atomic_fetch_sub(writes_of(c, old), 1);
    ch->page[i] = entry;
}

/*
 * Map n pages that lie one behind the other in guest memory as well. The order against the translator, which marks
 * a page as holding code and then takes rights away: here the right is given and then the mark looked at.
 */
static bool map_run(struct soft_cpu *c, struct view *v, struct chunk *ch, unsigned i, unsigned n,
                    uint64_t entry)
{
    int prot = entry & PAGE_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    uint8_t *host = chunk_host(v, ch, i);
    const uint8_t *map = c->svm->vm->mem.map;

    for (unsigned k = 0; k < n; k++)
        entry_set(c, ch, i + k, entry + ((uint64_t)k << PAGE_SHIFT));
    if (mmap(host, (size_t)n << PAGE_SHIFT, prot, MAP_SHARED | MAP_FIXED, c->svm->vm->mem.fd,
             (off_t)(entry & PAGE_MASK)) == MAP_FAILED)
        return false;
    v->nruns++;
    atomic_fetch_add(&c->svm->view_runs, 1);
    c->counters.view_fill++;
    for (unsigned k = 0; (entry & PAGE_WRITE) && k < n; k++)
        if (page_holds_code(c->svm, map + (ch->page[i + k] & PAGE_MASK))) {
            mprotect(host + ((uint64_t)k << PAGE_SHIFT), PAGE_SIZE, PROT_READ);
            entry_set(c, ch, i + k, ch->page[i + k] & ~(uint64_t)PAGE_WRITE);
        }
    return true;
}

static bool unmap_run(struct soft_cpu *c, struct view *v, struct chunk *ch, unsigned i, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        entry_set(c, ch, i + k, 0);
    return mmap(chunk_host(v, ch, i), (size_t)n << PAGE_SHIFT, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static bool readonly_run(struct soft_cpu *c, struct view *v, struct chunk *ch, unsigned i,
                         unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        entry_set(c, ch, i + k, ch->page[i + k] & ~(uint64_t)PAGE_WRITE);
    return !mprotect(chunk_host(v, ch, i), (size_t)n << PAGE_SHIFT, PROT_READ);
}

/* Map a page, and those around it that continue it in guest memory and are in use. False: not to be mapped. */
static bool fill(struct soft_cpu *c, struct view *v, gva_t va, bool write)
{
    struct chunk *ch = chunk_get(v, va, true);
    unsigned i = va >> PAGE_SHIFT & (CHUNK_PAGES - 1), first = i, last = i;
    unsigned lo = i & ~(AROUND - 1u), hi = lo + AROUND;
    struct peek p = mmu_peek(c, va);
    uint64_t entry;

    if (!ch || atomic_load(&c->svm->view_runs) > MAX_RUNS)
        return false;
    if (p.big) {
        lo = 0;
        hi = CHUNK_PAGES;
    }
    entry = wanted(c, &p, i);
    if (!entry || (write && !(entry & PAGE_WRITE)) || entry == ch->page[i])
        return false;
    while (first > lo && !ch->page[first - 1] &&
           wanted(c, &p, first - 1) + ((uint64_t)(i - first + 1) << PAGE_SHIFT) == entry)
        first--;
    while (last + 1 < hi && !ch->page[last + 1] &&
           wanted(c, &p, last + 1) == entry + ((uint64_t)(last + 1 - i) << PAGE_SHIFT))
        last++;
    return map_run(c, v, ch, first, last - first + 1,
                   entry - ((uint64_t)(i - first) << PAGE_SHIFT));
}

/* ---- In step with the page tables --------------------------------------------------------- */

/* How page i has to change: 0 not at all, else the run of pages that change alike is in *n. */
enum change { CHANGE_NONE, CHANGE_UNMAP, CHANGE_READONLY, CHANGE_REMAP };

static enum change change_of(struct soft_cpu *c, const struct chunk *ch, const struct peek *p,
                             unsigned i, uint64_t *want)
{
    uint64_t has = ch->page[i];

    if (!has)
        return CHANGE_NONE;
    *want = wanted(c, p, i);
    if (!*want)
        return CHANGE_UNMAP;
    if ((*want ^ has) & PAGE_MASK)
        return CHANGE_REMAP;
    return (has & PAGE_WRITE) && !(*want & PAGE_WRITE) ? CHANGE_READONLY : CHANGE_NONE;
}

/* Bring pages [i, end) of a chunk in step. Counts the changes; false when the host refuses. */
static bool chunk_check(struct soft_cpu *c, struct view *v, struct chunk *ch, unsigned i,
                        unsigned end, unsigned *changes)
{
    struct peek p = mmu_peek(c, ch->va);
    bool ok = true;

    while (ok && i < end) {
        uint64_t want = 0, next;
        enum change change = change_of(c, ch, &p, i, &want);
        unsigned n = 1;

        while (change != CHANGE_NONE && change != CHANGE_REMAP && i + n < end &&
               change_of(c, ch, &p, i + n, &next) == change)
            n++;
        if (change == CHANGE_UNMAP)
            ok = unmap_run(c, v, ch, i, n);
        else if (change == CHANGE_READONLY)
            ok = readonly_run(c, v, ch, i, n);
        else if (change == CHANGE_REMAP)
            ok = map_run(c, v, ch, i, 1, want);
        if (change != CHANGE_NONE) {
            *changes += n;
            c->counters.view_drop++;
        }
        i += n;
    }
    return ok;
}

/* ---- Where its blocks come from ------------------------------------------------------------ */

static struct code_page *code_slot(struct view *v, gva_t va)
{
    uint32_t h = (uint32_t)(va >> PAGE_SHIFT) * 0x9e3779b1u >> 18;

    while (v->codes[h].va && v->codes[h].va != va)
        h = (h + 1) & (CODE_SLOTS - 1);
    return &v->codes[h];
}

/* From now on it has blocks of its own, new ones. */
static void codes_forget(struct soft_cpu *c, struct view *v)
{
    memset(v->codes, 0, sizeof(v->codes));
    v->ncodes = 0;
    v->code = BLOCK_OF_VIEW(atomic_fetch_add(&c->svm->view_owners, 1) + 1);
}

/* Is the page still mapped there? Fetching is what it is for, so the page tables note that. */
static bool code_stays(struct soft_cpu *c, const struct code_page *p)
{
    struct walk w;

    return !mmu_walk(c, p->va, ACC_FETCH, TLB_USER, &w) &&
           mem_hva(&c->svm->vm->mem, w.gpa & PAGE_MASK, PAGE_SIZE) == p->page;
}

static void codes_check(struct soft_cpu *c, struct view *v)
{
    for (unsigned i = 0; v->ncodes && i < CODE_SLOTS; i++)
        if (v->codes[i].va && !code_stays(c, &v->codes[i]))
            codes_forget(c, v);
}

static void view_off(struct soft_cpu *c, struct view *v, int time)
{
    struct views *vs = c->views;

    if (!v->active)
        return;
    if (vs->now == v) {
        table_set(c, v, false);
        vs->now = NULL;
    }
    for (unsigned i = 0; i < v->nregions; i++)
        release(v->regions[i].host);
    for (unsigned i = 0; i < CHUNK_SLOTS; i++) {
        for (unsigned k = 0; v->chunks[i] && k < CHUNK_PAGES; k++)
            entry_set(c, v->chunks[i], k, 0);
        chunk_free(v->chunks[i]);
        v->chunks[i] = NULL;
    }
    atomic_fetch_sub(&c->svm->view_runs, v->nruns);
    v->nregions = v->nchunks = v->nruns = v->npending = 0;
    v->active = false;
    v->time = time;
    vs->nactive--;
    c->counters.view_off++;
}

/*
 * The soft TLB forgot things: compare all that is mapped with the page tables. If most has changed, another process
 * has come to use the same top-level table, and starts without a view.
 */
static void check_all(struct soft_cpu *c, struct view *v)
{
    unsigned changes = 0, pages = 0;
    bool ok = true;

    for (unsigned i = 0; ok && i < CHUNK_SLOTS; i++) {
        struct chunk *ch = v->chunks[i];

        if (!ch)
            continue;
        for (unsigned k = 0; k < CHUNK_PAGES; k++)
            pages += ch->page[k] != 0;
        ok = chunk_check(c, v, ch, 0, CHUNK_PAGES, &changes);
    }
    codes_check(c, v);
    c->counters.view_check++;
    v->events += changes;
    if (!ok || (changes > 64 && changes > pages / 2))
        view_off(c, v, 0);
}

static void check_pending(struct soft_cpu *c, struct view *v)
{
    unsigned changes = 0;
    bool ok = true;

    for (unsigned i = 0; i < v->npending; i++) {
        struct chunk *ch = chunk_get(v, v->pending[i], false);
        unsigned k = v->pending[i] >> PAGE_SHIFT & (CHUNK_PAGES - 1);

        const struct code_page *code = code_slot(v, v->pending[i]);

        if (ch)
            ok = ok && chunk_check(c, v, ch, k, k + 1, &changes);
        if (code->va && !code_stays(c, code))
            codes_forget(c, v);
    }
    v->events += changes;
    if (!ok)
        view_off(c, v, 0);
}

/* ---- Getting and losing ----------------------------------------------------------------------- */

static struct view *view_of(struct views *vs, uint64_t pgd)
{
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        if (vs->v[i].pgd == pgd)
            return &vs->v[i];
    return NULL;
}

static bool may_have_view(const struct soft_cpu *c)
{
    return c->views->nowhere && !c->no_views && c->mode == INSN_64 && (c->st.cr0 & X86_CR0_PG) &&
           !(c->st.cr4 & X86_CR4_PKE);
}

/* Make it, with what the soft TLB shows to be in use. */
static void view_on(struct soft_cpu *c, struct view *v)
{
    const struct tlb_set *s = c->set;

    v->nregions = 0;
    v->active = true;
    v->code = BLOCK_OF_VIEW(0);
    v->own_time = TIME_OWN;
    v->finds = 0;
    v->ncodes = 0;
    c->views->nactive++;
    c->counters.view_on++;
    if (!regions_find(c, v)) {
        view_off(c, v, TIME_AGAIN);
        return;
    }
    for (unsigned i = 0; i < TLB_ENTRIES; i++) {
        if (s->rd[i].tag < 1ull << 47 && host_of(v, s->rd[i].tag))
            fill(c, v, s->rd[i].tag, false);
        if (s->wr[i].tag < 1ull << 47 && host_of(v, s->wr[i].tag))
            fill(c, v, s->wr[i].tag, true);
    }
    v->set = s;
    v->flushes = s->flushes;
    v->events = v->recent = 0;
}

static struct view *view_for_tick(struct views *vs, uint64_t pgd)
{
    struct view *v = view_of(vs, pgd);

    for (unsigned i = 0; !v && i < MAX_VIEWS; i++)
        if (!vs->v[i].active)
            v = &vs->v[i];
    for (unsigned i = 0; i < MAX_VIEWS && v && v->pgd != pgd; i++)
        if (!vs->v[i].active && vs->v[i].last_tick < v->last_tick)
            v = &vs->v[i];
    return v;
}

/* Shall it have blocks of its own? */
static void owning_review(struct soft_cpu *c, struct view *v)
{
    if (BLOCK_OWNER(v->code)) {
        double made = (double)(c->counters.block_insn - v->own_insns) / INSNS_PER_MS;

        if (made > OWN_GRACE + (v->time - v->own_time) / 3) {
            codes_forget(c, v);
            v->code = BLOCK_OF_VIEW(0);
            v->own_time = 0;
        }
    } else if (v->time >= TIME_OWN && v->own_time &&
               v->time >= (double)v->finds / BLOCKS_PER_MS * OWN_WORTH) {
        codes_forget(c, v);
        v->own_time = v->time;
        v->own_insns = c->counters.block_insn;
    }
}

static double thread_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

void view_tick(struct soft_cpu *c)
{
    struct views *vs = c->views;
    uint64_t pgd = c->st.cr3 & X86_CR3_PGD;
    double now = thread_ms(), time = now - vs->then < TICK_MAX ? now - vs->then : TICK_MAX;
    struct view *v, *oldest;

    vs->then = now;
    if (!may_have_view(c))
        return;
    pthread_mutex_lock(&vs->lock);
    v = view_for_tick(vs, pgd);
    if (!v) {
        oldest = &vs->v[0];
        for (unsigned i = 1; i < MAX_VIEWS; i++)
            if (vs->v[i].last_tick < oldest->last_tick)
                oldest = &vs->v[i];
        view_off(c, oldest, 0);
        v = oldest;
    }
    if (v->pgd != pgd) {
        v->pgd = pgd;
        v->time = 0;
    }
    v->last_tick = ++vs->clock;
    v->time += time;
    v->finds += c->counters.find - vs->finds_then;
    vs->finds_then = c->counters.find;
    if (v->active) {
        v->recent = v->recent * 3 / 4 + v->events;
        v->events = 0;
        if (v->recent > EVENTS_LIMIT)
            view_off(c, v, TIME_AGAIN);
        else
            owning_review(c, v);
    } else if (v->time >= TIME_ON) {
        view_on(c, v);
    }
    pthread_mutex_unlock(&vs->lock);
    view_enter(c);
}

static struct view *enter_locked(struct soft_cpu *c, struct tlb_set *s)
{
    struct views *vs = c->views;
    struct view *v = may_have_view(c) ? view_of(vs, c->st.cr3 & X86_CR3_PGD) : NULL;

    if (v && v->active && (v->set != s || v->flushes != s->flushes))
        check_all(c, v);
    else if (v && v->active)
        check_pending(c, v);
    if (v && !v->active)
        v = NULL;
    if (v != vs->now) {
        table_set(c, vs->now, false);
        table_set(c, v, true);
        vs->now = v;
    }
    if (v) {
        v->set = s;
        v->flushes = s->flushes;
        v->npending = 0;
    }
    return v;
}

/* The blocks that user code is to be run with. */
static block_key code_of(const struct soft_cpu *c, const struct view *v)
{
    if (!v)
        return BLOCK_SOFT;
    return c->no_own_blocks ? BLOCK_OF_VIEW(0) : v->code;
}

void view_enter(struct soft_cpu *c)
{
    struct views *vs = c->views;
    struct tlb_set *s = c->set;
    const struct view *v = vs->now;

    if (!vs->nactive && !s->code)
        return;
    if (v && s->code == code_of(c, v) && v->pgd == (c->st.cr3 & X86_CR3_PGD) && v->set == s &&
        v->flushes == s->flushes && !v->npending)
        return;
    soft_fpu_park(c);
    pthread_mutex_lock(&vs->lock);
    v = enter_locked(c, s);
    pthread_mutex_unlock(&vs->lock);
    if (s->code != code_of(c, v)) {
        s->code = code_of(c, v);
        tlb_set_flush_jc(s);
    }
    c->chain_site = NULL;
}

bool view_fault(struct soft_cpu *c, uintptr_t host, bool write)
{
    struct views *vs = c->views;
    struct view *v = vs->now;
    enum mem_access acc = write ? ACC_WRITE : ACC_READ;
    struct walk w;
    bool ok = false;
    gva_t va;

    if (!v)
        return false;
    pthread_mutex_lock(&vs->lock);
    v->events++;
    if (guest_of(v, host, &va)) {
        ok = !mmu_walk(c, va, acc, TLB_USER, &w) && fill(c, v, va, write);
    } else if (regions_find(c, v)) {
        table_set(c, v, true);
    }
    pthread_mutex_unlock(&vs->lock);
    c->counters.view_slow += !ok;
    return ok;
}

bool view_note_code(struct soft_cpu *c, gva_t va, const uint8_t *page)
{
    struct view *v = c->views->now;
    struct code_page *p = code_slot(v, va);

    if (p->va)
        return p->page == page;
    if (!va)
        return false;
    if (v->ncodes == CODE_SLOTS / 2) { /* start over */
        codes_forget(c, v);
        c->set->code = v->code;
        tlb_set_flush_jc(c->set);
        return false;
    }
    *p = (struct code_page){va, page};
    v->ncodes++;
    return true;
}

const uint8_t *view_code_page(struct soft_cpu *c, gva_t va)
{
    const uint8_t *page;
    struct walk w;

    if (va >> 47 || mmu_walk(c, va, ACC_FETCH, TLB_USER, &w))
        return NULL;
    page = mem_hva(&c->svm->vm->mem, w.gpa & PAGE_MASK, PAGE_SIZE);
    return page && c->views->now->ncodes < CODE_SLOTS / 2 && view_note_code(c, va, page) ? page
                                                                                         : NULL;
}

void view_force(struct soft_cpu *c)
{
    struct view *v = &c->views->v[0];

    pthread_mutex_lock(&c->views->lock);
    if (!v->active) {
        v->pgd = c->st.cr3 & X86_CR3_PGD;
        view_on(c, v);
        codes_forget(c, v);
    }
    pthread_mutex_unlock(&c->views->lock);
    view_enter(c);
}

void view_flush_page(struct soft_cpu *c, gva_t va)
{
    struct views *vs = c->views;

    for (unsigned i = 0; vs->nactive && i < MAX_VIEWS; i++) {
        struct view *v = &vs->v[i];

        if (!v->active || va >> 47 ||
            !(chunk_get(v, va, false) || code_slot(v, va & PAGE_MASK)->va))
            continue;
        if (v->npending == MAX_PENDING)
            v->set = NULL; /* compare all */
        else
            v->pending[v->npending++] = va & PAGE_MASK;
    }
}

static void chunk_drop_writes(struct soft_cpu *c, struct view *v, struct chunk *ch, uint64_t entry)
{
    for (unsigned i = 0; i < CHUNK_PAGES; i++)
        if (ch->page[i] == entry)
            readonly_run(c, v, ch, i, 1);
}

void view_drop_writes(struct soft_cpu *c, const uint8_t *page)
{
    struct views *vs = c->views;
    uint64_t entry = (uint64_t)(page - c->svm->vm->mem.map) | PAGE_READ | PAGE_WRITE;

    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load(writes_of(c, entry)))
        return;
    pthread_mutex_lock(&vs->lock);
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        for (unsigned k = 0; vs->v[i].active && k < CHUNK_SLOTS; k++)
            if (vs->v[i].chunks[k])
                chunk_drop_writes(c, &vs->v[i], vs->v[i].chunks[k], entry);
    pthread_mutex_unlock(&vs->lock);
}

int views_init(struct soft_cpu *c, struct err *err)
{
    c->views = calloc(1, sizeof(*c->views));
    if (!c->views)
        return err_set(err, -ENOMEM, "no memory for a virtual CPU");
    pthread_mutex_init(&c->views->lock, NULL);
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        c->views->v[i].pgd = ~0ull;
    c->views->nowhere = reserve(); /* without it there are no views */
    for (unsigned i = 0; i < VIEW_TABLE; i++)
        c->view_table[i] = leads_to(i, c->views->nowhere);
    return 0;
}

void views_fini(struct soft_cpu *c)
{
    if (!c->views)
        return;
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        view_off(c, &c->views->v[i], 0);
    release(c->views->nowhere);
    pthread_mutex_destroy(&c->views->lock);
    free(c->views);
    c->views = NULL;
}
