/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/fpu.h"
#include "engine/soft/tlb.h"
#include "engine/soft/view_int.h"

#define REGION_SIZE  (1ull << VIEW_REGION_SHIFT)
#define REGION_GUARD GIB(4) /* no displacement and no distance in a window reaches over it */
#define SLOT_SIZE    (REGION_SIZE + 2 * REGION_GUARD)
#define CHUNK_SHIFT  21
#define MAX_CHUNKS   (CHUNK_SLOTS / 2)
#define AROUND       16 /* pages looked at around one that is mapped */

/* A process may have 65530 mappings if nobody changed that (vm.max_map_count). Of all vCPUs' views together: */
#define MAX_RUNS 40000

#define PAGE_READ  1u /* of chunk.page */
#define PAGE_WRITE 2u
#define PAGE_BASE  4u /* shown is the base of memory (core/mem.h) */

/* ---- Regions ---------------------------------------------------------------------------- */

/* 0: wherever the kernel likes. */
static uint8_t *reserve_at(uintptr_t at)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED_NOREPLACE : 0);
    uint8_t *p = mmap((void *)at, SLOT_SIZE, PROT_NONE, flags, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    if (at ? (uintptr_t)p != at
           : (uintptr_t)p + SLOT_SIZE > SLOTS_FROM && (uintptr_t)p < KERNEL_FROM) {
        munmap(p, SLOT_SIZE);
        return NULL;
    }
    return p + REGION_GUARD;
}

static uint8_t *reserve(const struct views *vs)
{
    bool slots = (uintptr_t)vs->nowhere >= KERNEL_FROM && !FPU_SANITIZED;
    uint8_t *p = NULL;

    for (uintptr_t at = SLOTS_FROM; slots && !p && at + SLOT_SIZE <= SLOTS_END; at += SLOT_SIZE)
        p = reserve_at(at);
    return p ? p : reserve_at(0);
}

static bool in_slot(const uint8_t *host)
{
    return (uintptr_t)host - SLOTS_FROM < SLOTS_END - SLOTS_FROM;
}

static void release(uint8_t *host)
{
    if (host)
        munmap(host - REGION_GUARD, SLOT_SIZE);
}

static uint64_t leads_to(unsigned idx, const uint8_t *host)
{
    return (uint64_t)(uintptr_t)host - ((uint64_t)idx << VIEW_REGION_SHIFT);
}

void view_table_set(struct soft_cpu *c, const struct view *v, bool on)
{
    for (unsigned i = 0; v && i < v->nregions; i++) {
        const struct region *r = &v->regions[i];

        c->view_table[r->idx] = leads_to(r->idx, on ? r->host : c->views->nowhere);
    }
}

uint8_t *view_host(const struct view *v, gva_t va)
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

bool view_find_regions(struct soft_cpu *c, struct view *v)
{
    const uint64_t *pml4 =
        (const uint64_t *)mem_hva(&c->svm->vm->mem, c->st.cr3 & X86_CR3_PGD, PAGE_SIZE);
    bool found = false;

    for (unsigned i = 0; pml4 && i < 256; i++) {
        struct region *r = &v->regions[v->nregions];

        if (!(__atomic_load_n(&pml4[i], __ATOMIC_RELAXED) & 1) ||
            view_host(v, (gva_t)i << VIEW_REGION_SHIFT))
            continue;
        if (v->nregions == MAX_REGIONS || !(r->host = reserve(c->views)))
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

/* By mmap, since it is called in a signal handler, too; zero bytes. In a slot its place is opened. */
static struct chunk *chunk_new(uint8_t *host)
{
    void *p = mmap(NULL, sizeof(struct chunk), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    if (in_slot(host) && munmap(host, 1ull << CHUNK_SHIFT)) {
        munmap(p, sizeof(struct chunk));
        return NULL;
    }
    return p;
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
        *slot = chunk_new(view_host(v, va));
        if (*slot) {
            (*slot)->va = va;
            v->nchunks++;
        }
    }
    return *slot;
}

static uint8_t *chunk_host(const struct view *v, const struct chunk *ch, unsigned i)
{
    return view_host(v, ch->va) + ((uint64_t)i << PAGE_SHIFT);
}

/* What the guest's page tables allow for one page now: a value for chunk.page. */
static uint64_t wanted(struct soft_cpu *c, const struct peek *p, unsigned i)
{
    const struct mem *mem = &c->svm->vm->mem;
    enum peek_rights rights;
    uint64_t off;
    gpa_t gpa;
    hva_t page;

    rights = mmu_peek_page(c, p, i, &gpa);
    page = rights == PEEK_NONE ? NULL : mem_hva(mem, gpa, PAGE_SIZE);
    if (!page)
        return 0;
    off = (uint64_t)(page - mem->map);
    if (mem_from_base(mem, off))
        return off | PAGE_READ | PAGE_BASE;
    return off | PAGE_READ |
           (rights == PEEK_WRITE && !page_holds_code(c->svm, page) && mem_is_own(mem, off)
                ? PAGE_WRITE
                : 0);
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
    if (entry & PAGE_BASE)
        atomic_fetch_add(&c->svm->view_bases[entry >> VIEW_BASES_SHIFT], 1);
    if (old & PAGE_BASE)
        atomic_fetch_sub(&c->svm->view_bases[old >> VIEW_BASES_SHIFT], 1);
    ch->page[i] = entry;
}

static bool unmap_run(struct soft_cpu *c, struct view *v, struct chunk *ch, unsigned i, unsigned n)
{
    uint8_t *host = chunk_host(v, ch, i);
    size_t len = (size_t)n << PAGE_SHIFT;

    for (unsigned k = 0; k < n; k++)
        entry_set(c, ch, i + k, 0);
    if (in_slot(host))
        return !munmap(host, len);
    return mmap(host, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
                0) != MAP_FAILED;
}

/*
 * Map n pages that lie one behind the other in guest memory as well. The order against the translator, which marks
 * a page as holding code and then takes rights away: here the right is given and then the mark looked at. It is the
 * same with pages of the base, which are promoted and then taken out of views.
 */
static bool map_run(struct soft_cpu *c, struct view *v, struct chunk *ch, unsigned i, unsigned n,
                    uint64_t entry)
{
    int prot = entry & PAGE_WRITE ? PROT_READ | PROT_WRITE : PROT_READ;
    uint8_t *host = chunk_host(v, ch, i);
    int flags = MAP_SHARED | MAP_FIXED | (n <= AROUND ? MAP_POPULATE : 0);
    const struct mem *mem = &c->svm->vm->mem;
    const uint8_t *map = mem->map;
    uint64_t off = entry & PAGE_MASK;

    for (unsigned k = 0; k < n; k++)
        entry_set(c, ch, i + k, entry + ((uint64_t)k << PAGE_SHIFT));
    if (mmap(host, (size_t)n << PAGE_SHIFT, prot, flags, entry & PAGE_BASE ? mem->base.fd : mem->fd,
             (off_t)(entry & PAGE_BASE ? mem->base.offset + off : off)) == MAP_FAILED)
        return false;
    v->nruns++;
    atomic_fetch_add(&c->svm->view_runs, 1);
    c->counters.view_fill++;
    for (unsigned k = 0; (entry & PAGE_WRITE) && k < n; k++)
        if (page_holds_code(c->svm, map + (ch->page[i + k] & PAGE_MASK))) {
            mprotect(host + ((uint64_t)k << PAGE_SHIFT), PAGE_SIZE, PROT_READ);
            entry_set(c, ch, i + k, ch->page[i + k] & ~(uint64_t)PAGE_WRITE);
        }
    for (unsigned k = 0; (entry & PAGE_BASE) && k < n; k++)
        if (!mem_from_base(mem, off + ((uint64_t)k << PAGE_SHIFT)) &&
            !unmap_run(c, v, ch, i + k, 1))
            return false;
    return true;
}

static bool readonly_run(struct soft_cpu *c, struct view *v, struct chunk *ch, unsigned i,
                         unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        entry_set(c, ch, i + k, ch->page[i + k] & ~(uint64_t)PAGE_WRITE);
    return !mprotect(chunk_host(v, ch, i), (size_t)n << PAGE_SHIFT, PROT_READ);
}

/* A neighbour of a page that is mapped: one that is not, or that has lost the right to be written. */
static bool may_join(const struct chunk *ch, unsigned i, bool write)
{
    return !ch->page[i] || (write && !(ch->page[i] & PAGE_WRITE));
}

bool view_map(struct soft_cpu *c, struct view *v, gva_t va, bool write)
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
    while (first > lo && may_join(ch, first - 1, write) &&
           wanted(c, &p, first - 1) + ((uint64_t)(i - first + 1) << PAGE_SHIFT) == entry)
        first--;
    while (last + 1 < hi && may_join(ch, last + 1, write) &&
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
    if ((*want ^ has) & (PAGE_MASK | PAGE_BASE))
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

static void codes_clear(struct view *v)
{
    memset(v->codes, 0, sizeof(v->codes));
    v->ncodes = 0;
    view_links_end(v);
}

void view_codes_share(struct view *v)
{
    codes_clear(v);
    v->code = BLOCK_OF_VIEW(0);
}

void view_codes_own(struct soft_cpu *c, struct view *v)
{
    codes_clear(v);
    v->code = BLOCK_OF_VIEW(atomic_fetch_add(&c->svm->view_owners, 1) + 1);
}

/* Something else is mapped where its blocks came from, or could not be seen to be. */
static void codes_changed(struct soft_cpu *c, struct view *v)
{
    if (BLOCK_OWNER(v->code))
        view_codes_own(c, v);
    else
        codes_clear(v);
}

/* Is the page still mapped there? Fetching is what it is for, so the page tables note that. */
static bool code_stays(struct soft_cpu *c, const struct code_page *p)
{
    struct walk w;

    return !mmu_walk(c, p->va, ACC_FETCH, TLB_USER, &w) &&
           mem_hva(&c->svm->vm->mem, w.gpa & PAGE_MASK, PAGE_SIZE) == p->page;
}

void view_check_codes(struct soft_cpu *c, struct view *v, bool all)
{
    for (unsigned i = 0; all && v->ncodes && i < CODE_SLOTS; i++)
        if (v->codes[i].va && !code_stays(c, &v->codes[i]))
            codes_changed(c, v);
    for (unsigned i = 0; !all && i < v->npending; i++) {
        const struct code_page *code = code_slot(v, v->pending[i]);

        if (code->va && !code_stays(c, code))
            codes_changed(c, v);
    }
}

void view_off(struct soft_cpu *c, struct view *v, int time)
{
    struct views *vs = c->views;

    if (!v->active)
        return;
    if (vs->now == v) {
        view_table_set(c, v, false);
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
    view_links_give_back(v);
    v->active = false;
    v->time = time;
    vs->nactive--;
    c->counters.view_off++;
}

bool view_check_all(struct soft_cpu *c, struct view *v)
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
    c->counters.view_check++;
    v->events += changes;
    return ok && (changes <= 64 || changes <= pages / 2);
}

bool view_check_pending(struct soft_cpu *c, struct view *v)
{
    unsigned changes = 0;
    bool ok = true;

    for (unsigned i = 0; i < v->npending; i++) {
        struct chunk *ch = chunk_get(v, v->pending[i], false);
        unsigned k = v->pending[i] >> PAGE_SHIFT & (CHUNK_PAGES - 1);

        if (ch)
            ok = ok && chunk_check(c, v, ch, k, k + 1, &changes);
    }
    v->events += changes;
    return ok;
}

/* ---- Asked for by others ------------------------------------------------------------------ */

/*
 * User code is about to write a page. While memory is copied those around it, which will be mapped with it, are saved
 * together with it. Pages of the base are copied when they are written.
 */
static void own_around(struct soft_cpu *c, gva_t va, gpa_t gpa)
{
    const struct mem *mem = &c->svm->vm->mem;
    hva_t page = mem_hva(mem, gpa & PAGE_MASK, PAGE_SIZE);
    unsigned lo = (va >> PAGE_SHIFT & (CHUNK_PAGES - 1)) & ~(AROUND - 1u);
    struct peek p;

    if (!page)
        return;
    soft_own(c, page, 1);
    if (!(atomic_load(&mem->guard) & MEM_GUARD_COPY))
        return;
    p = mmu_peek(c, va);
    for (unsigned i = lo; i < lo + AROUND; i++) {
        if (mmu_peek_page(c, &p, i, &gpa) != PEEK_WRITE)
            continue;
        page = mem_hva(mem, gpa, PAGE_SIZE);
        if (page && !mem_from_base(mem, (uint64_t)(page - mem->map)))
            soft_own(c, page, 1);
    }
}

bool view_fault(struct soft_cpu *c, uintptr_t host, bool write)
{
    struct views *vs = c->views;
    struct view *v = vs->now;
    enum mem_access acc = write ? ACC_WRITE : ACC_READ;
    struct walk w;
    bool ok = false, in, walked;
    gva_t va;

    if (!v)
        return false;
    in = guest_of(v, host, &va);
    walked = in && !mmu_walk(c, va, acc, TLB_USER, &w);
    if (walked && write)
        own_around(c, va, w.gpa);
    pthread_mutex_lock(&vs->lock);
    v->events++;
    if (walked) {
        ok = view_map(c, v, va, write);
    } else if (in) {
        v->faulted = va & PAGE_MASK;
        v->faulted_write = write;
    } else if (view_find_regions(c, v)) {
        view_table_set(c, v, true);
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
        codes_changed(c, v);
        if (!BLOCK_OWNER(v->code)) {
            view_links_begin(c, v);
            return false;
        }
        c->set->code = v->code;
        tlb_set_flush_jc(c, c->set);
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

static void chunk_drop_all_writes(struct soft_cpu *c, struct view *v, struct chunk *ch)
{
    for (unsigned i = 0, n; i < CHUNK_PAGES; i += n) {
        for (n = 1; i + n < CHUNK_PAGES && !((ch->page[i + n] ^ ch->page[i]) & PAGE_WRITE); n++)
            ;
        if (ch->page[i] & PAGE_WRITE)
            readonly_run(c, v, ch, i, n);
    }
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

void view_drop_all_writes(struct soft_cpu *c)
{
    struct views *vs = c->views;

    pthread_mutex_lock(&vs->lock);
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        for (unsigned k = 0; vs->v[i].active && k < CHUNK_SLOTS; k++)
            if (vs->v[i].chunks[k])
                chunk_drop_all_writes(c, &vs->v[i], vs->v[i].chunks[k]);
    pthread_mutex_unlock(&vs->lock);
}

/* Pages of the base in [from, to) of memory. */
static void chunk_drop_base(struct soft_cpu *c, struct view *v, struct chunk *ch, uint64_t from,
                            uint64_t to)
{
    for (unsigned i = 0; i < CHUNK_PAGES; i++)
        if ((ch->page[i] & PAGE_BASE) && (ch->page[i] & PAGE_MASK) >= from && ch->page[i] < to)
            unmap_run(c, v, ch, i, 1);
}

void view_drop_base(struct soft_cpu *c, uint64_t from, uint64_t to)
{
    struct views *vs = c->views;
    uint64_t shown = 0;

    atomic_thread_fence(memory_order_seq_cst);
    for (uint64_t n = from >> VIEW_BASES_SHIFT; !shown && n <= (to - 1) >> VIEW_BASES_SHIFT; n++)
        shown = atomic_load(&c->svm->view_bases[n]);
    if (!shown)
        return;
    pthread_mutex_lock(&vs->lock);
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        for (unsigned k = 0; vs->v[i].active && k < CHUNK_SLOTS; k++)
            if (vs->v[i].chunks[k])
                chunk_drop_base(c, &vs->v[i], vs->v[i].chunks[k], from, to);
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
    if (view_links_init(c->views))
        return err_set(err, -ENOMEM, "no memory for a virtual CPU");
    c->views->nowhere = reserve_at(0); /* without it there are no views */
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
    view_links_fini(c->views);
    pthread_mutex_destroy(&c->views->lock);
    free(c->views);
    c->views = NULL;
}
