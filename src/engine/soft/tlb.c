/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Choosing, filling and flushing the soft TLB sets. */
#include "engine/soft/tlb.h"

#include <errno.h>
#include <sys/mman.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/host_mem.h"
#include "engine/soft/view.h"

static void fill_ones(void *p, size_t bytes)
{
    size_t n = bytes / 8;

    __asm__ volatile("rep stosq" : "+D"(p), "+c"(n) : "a"(~0ull) : "memory");
}

static uint64_t entry_tag(const struct tlb_entry *e)
{
    return atomic_load_explicit(&e->tag, memory_order_relaxed);
}

static hva_t entry_page(const struct tlb_entry *e)
{
    return atomic_load_explicit(&e->page, memory_order_relaxed);
}

static void entry_set_tag(struct tlb_entry *e, uint64_t tag)
{
    atomic_store_explicit(&e->tag, tag, memory_order_relaxed);
}

static void entry_set_page(struct tlb_entry *e, hva_t page)
{
    atomic_store_explicit(&e->page, page, memory_order_relaxed);
}

/* ~0 never matches an address of that index but for the last, which 0 does the same for. */
static void table_clear(struct tlb_entry *t, size_t n)
{
    fill_ones(t, n * sizeof(*t));
    entry_set_tag(&t[n - 1], 0);
}

/* ~0 could only be looked for where ~0 itself is hashed to. */
static uint64_t jc_nothing(unsigned idx)
{
    return idx == JC_INDEX(~0ull) || idx == JC_INDEX2(~0ull) ? 0 : ~0ull;
}

void jc_table_clear(struct jc_entry *jc)
{
    fill_ones(jc, JC_TOTAL * sizeof(*jc));
    jc[JC_INDEX(~0ull)].va = 0;
    jc[JC_INDEX2(~0ull)].va = 0;
}

static void entry_clear(struct tlb_entry *t, unsigned idx)
{
    entry_set_tag(&t[idx], idx == TLB_ENTRIES - 1 ? 0 : ~0ull);
}

/* Address 0 with code that goes there by itself, so that no address is one that matches wrongly. */
void tlb_forget_returns(struct soft_cpu *c)
{
    for (unsigned i = 0; i < RETURNS; i++)
        c->returns[i] = c->returns_empty[i];
}

static void jc_clear(struct tlb_set *s)
{
    if (s->jc_used)
        jc_table_clear(s->jc);
    s->jc_used = false;
    for (unsigned i = 0; i < ARRAY_SIZE(s->evicted); i++)
        s->evicted[i] = 0;
}

/* Bit of a page in the filter `evicted`. */
static uint64_t *evicted_word(struct tlb_set *s, gva_t page, uint64_t *bit)
{
    uint32_t h = (uint32_t)(page >> PAGE_SHIFT) * 0x9e3779b1u >> 23;

    *bit = 1ull << (h & 63);
    return &s->evicted[h >> 6];
}

static void evicted_note(struct tlb_set *s, gva_t page)
{
    uint64_t bit, *w = evicted_word(s, page, &bit);

    *w |= bit;
}

static bool evicted_maybe(struct tlb_set *s, gva_t page)
{
    uint64_t bit;

    return (*evicted_word(s, page, &bit) & bit) != 0;
}

void tlb_set_flush_jc(struct soft_cpu *c, struct tlb_set *s)
{
    jc_clear(s);
    tlb_forget_returns(c);
}

static void jc_drop_page(struct tlb_set *s, gva_t page)
{
    for (unsigned i = 0; s->jc_used && i < JC_TOTAL; i++)
        if ((s->jc[i].va & PAGE_MASK) == page)
            s->jc[i].va = jc_nothing(i);
}

static void fetch_clear(struct tlb_set *s)
{
    table_clear(s->fetch, TLB_NFETCH);
    s->fetch_local = false;
    jc_clear(s);
}

static void set_clear(struct tlb_set *s)
{
    table_clear(s->rd, TLB_ENTRIES);
    table_clear(s->wr, TLB_ENTRIES);
    s->nlog = 0;
    s->flushes++;
    fetch_clear(s);
}

/* Global entries stay, unless there were too many others to remember. */
static void set_clear_nonglobal(struct tlb_set *s)
{
    if (s->nlog > TLB_LOG_MAX) {
        set_clear(s);
        return;
    }
    for (unsigned i = 0; i < s->nlog; i++)
        entry_clear(s->log[i] & TLB_LOG_WRITE ? s->wr : s->rd, s->log[i] & (TLB_ENTRIES - 1));
    s->nlog = 0;
    s->flushes++;
    if (s->fetch_local)
        fetch_clear(s);
}

int tlb_init(struct soft_cpu *c, struct err *err)
{
    size_t bytes = TLB_NSETS * sizeof(struct tlb_set);
    struct tlb_set *sets = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (sets == MAP_FAILED)
        return err_set(err, -ENOMEM, "no memory for the software TLB (%zu KiB)", bytes >> 10);
    c->sets = sets;
    bytes = (c->svm->vm->mem.size >> PAGE_SHIFT) * sizeof(*c->wfill);
    c->wfill = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->wfill == MAP_FAILED) {
        c->wfill = NULL;
        return err_set(err, -ENOMEM, "no memory for the software TLB (%zu KiB)", bytes >> 10);
    }
    bytes = sizeof(*c->found) << FOUND_BITS;
    c->found = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->found == MAP_FAILED) {
        c->found = NULL;
        return err_set(err, -ENOMEM, "no memory for the software TLB (%zu KiB)", bytes >> 10);
    }
    for (unsigned i = 0; i < TLB_NSETS; i++)
        sets[i].pcid = TLB_NO_PCID;
    tlb_flush_all(c);
    return 0;
}

void tlb_fini(struct soft_cpu *c)
{
    if (c->sets)
        munmap(c->sets, TLB_NSETS * sizeof(struct tlb_set));
    if (c->wfill)
        munmap(c->wfill, (c->svm->vm->mem.size >> PAGE_SHIFT) * sizeof(*c->wfill));
    if (c->found)
        munmap(c->found, sizeof(*c->found) << FOUND_BITS);
    c->wfill = NULL;
    c->found = NULL;
    c->sets = NULL;
}

static unsigned present_pcid(const struct soft_cpu *c)
{
    return c->st.cr4 & X86_CR4_PCIDE ? c->st.cr3 & 0xfff : 0;
}

static struct tlb_set *set_find(struct soft_cpu *c, unsigned pcid, enum tlb_mode mode)
{
    struct tlb_set *victim = NULL;

    for (unsigned i = 0; i < TLB_NSETS; i++) {
        struct tlb_set *s = &c->sets[i];

        if (s->pcid == pcid && s->mode == mode) {
            s->last_use = ++c->set_clock;
            return s;
        }
        if (s != c->set && (!victim || s->last_use < victim->last_use))
            victim = s;
    }
    for (unsigned m = 0; m < TLB_NMODES; m++) /* the one given up may be cached */
        if (c->pcid_sets[m] == victim)
            c->pcid_sets[m] = NULL;
    victim->jc_used = true;
    set_clear(victim);
    __atomic_store_n(&victim->pcid, (uint16_t)pcid, __ATOMIC_RELAXED);
    victim->mode = mode;
    victim->code = BLOCK_SOFT; /* until view_enter finds a view */
    victim->last_use = ++c->set_clock;
    return victim;
}

static struct tlb_set *set_for_mode(struct soft_cpu *c, enum tlb_mode mode)
{
    if (!c->pcid_sets[mode])
        c->pcid_sets[mode] = set_find(c, c->set_pcid, mode);
    return c->pcid_sets[mode];
}

enum tlb_mode tlb_present_mode(const struct soft_cpu *c)
{
    if (c->st.cpl == 3)
        return TLB_USER;
    return (c->st.cr4 & X86_CR4_SMAP) && !(c->st.rflags & X86_AC) ? TLB_KERNEL : TLB_KERNEL_AC;
}

/* Are the same pages executable by both? User and kernel differ, while the kernel's two modes do not. */
static bool same_code(const struct tlb_set *a, const struct tlb_set *b)
{
    return a->pcid == b->pcid && (a->mode == TLB_USER) == (b->mode == TLB_USER);
}

void tlb_switch(struct soft_cpu *c)
{
    const struct tlb_set *before = c->set;
    unsigned pcid = present_pcid(c);

    if (unlikely(pcid != c->set_pcid)) {
        c->set_pcid = (uint16_t)pcid;
        for (unsigned m = 0; m < TLB_NMODES; m++)
            c->pcid_sets[m] = NULL;
    }
    c->set = set_for_mode(c, tlb_present_mode(c));
    if (c->set != before && !(before && same_code(before, c->set)))
        tlb_forget_returns(c);
    if (c->set->mode == TLB_USER)
        view_enter(c);
    atomic_store_explicit(&c->jc, c->set->jc, memory_order_relaxed);
    atomic_store_explicit(&c->returns_now, c->returns, memory_order_relaxed);
}

/* The set of accesses the CPU makes as supervisor whatever the CPL: descriptor tables, TSS. */
static struct tlb_set *system_set(struct soft_cpu *c)
{
    return set_for_mode(c, c->st.cr4 & X86_CR4_SMAP ? TLB_KERNEL : TLB_KERNEL_AC);
}

void tlb_flush_all(struct soft_cpu *c)
{
    for (unsigned i = 0; i < TLB_NSETS; i++)
        if (c->sets[i].pcid != TLB_NO_PCID)
            set_clear(&c->sets[i]);
    tlb_forget_returns(c);
    c->set_pcid = TLB_NO_PCID;
    c->counters.tlb_flush_all++;
    tlb_switch(c);
}

void tlb_flush_nonglobal(struct soft_cpu *c)
{
    for (unsigned i = 0; i < TLB_NSETS; i++)
        if (c->sets[i].pcid != TLB_NO_PCID)
            set_clear_nonglobal(&c->sets[i]);
    tlb_forget_returns(c);
    c->counters.tlb_flush_all++;
}

void tlb_flush_pcid(struct soft_cpu *c, unsigned pcid)
{
    for (unsigned i = 0; i < TLB_NSETS; i++)
        if (c->sets[i].pcid == pcid)
            set_clear_nonglobal(&c->sets[i]);
    tlb_forget_returns(c);
    c->counters.tlb_flush_pcid++;
}

/* A global page may be in every set, so each loses its entry (SDM volume 3, 4.10.4.1). */
void tlb_flush_page(struct soft_cpu *c, gva_t va)
{
    unsigned idx = TLB_INDEX(va), fx = (va >> PAGE_SHIFT) & (TLB_NFETCH - 1);

    va &= PAGE_MASK;
    for (unsigned i = 0; i < TLB_NSETS; i++) {
        struct tlb_set *s = &c->sets[i];

        if (s->pcid == TLB_NO_PCID)
            continue;
        entry_clear(s->rd, idx);
        entry_clear(s->wr, idx);
        if (entry_tag(&s->fetch[fx]) == va) {
            entry_set_tag(&s->fetch[fx], fx == TLB_NFETCH - 1 ? 0 : ~0ull);
            jc_drop_page(s, va);
        } else if (s->jc_used && evicted_maybe(s, va)) {
            jc_drop_page(s, va);
        }
    }
    tlb_forget_returns(c);
    view_flush_page(c, va);
    c->counters.tlb_flush_page++;
}

void tlb_flush_jc(struct soft_cpu *c)
{
    for (unsigned i = 0; i < TLB_NSETS; i++)
        if (c->sets[i].pcid != TLB_NO_PCID)
            jc_clear(&c->sets[i]);
    fill_ones(c->found, sizeof(*c->found) << FOUND_BITS);
    tlb_forget_returns(c);
}

/*
 * Where the write entry of each guest page is, so that it can be dropped
 * without a search: set and index plus one, or that there may be several.
 */
#define WFILL_MANY 0xffffffffu

static uint32_t *wfill_of(struct soft_cpu *c, hva_t page)
{
    return &c->wfill[(size_t)(page - c->svm->vm->mem.map) >> PAGE_SHIFT];
}

static void wfill_note(struct soft_cpu *c, struct tlb_set *s, unsigned idx, hva_t page)
{
    uint32_t now = (uint32_t)((s - c->sets) * TLB_ENTRIES + idx + 1);
    uint32_t was = __atomic_load_n(wfill_of(c, page), __ATOMIC_RELAXED);

    if (was && was != now && was != WFILL_MANY &&
        entry_page(&c->sets[(was - 1) / TLB_ENTRIES].wr[(was - 1) % TLB_ENTRIES]) == page)
        now = WFILL_MANY;
    __atomic_store_n(wfill_of(c, page), was == WFILL_MANY ? WFILL_MANY : now, __ATOMIC_RELAXED);
}

/* Another vCPU's thread may be here for its own entry: invalidate it if it is for that page. */
static bool write_entry_drop(struct tlb_set *s, unsigned idx, hva_t page)
{
    const struct tlb_entry *e = &s->wr[idx];

    if (entry_page(e) != page || entry_tag(e) == (idx == TLB_ENTRIES - 1 ? 0 : ~0ull))
        return false;
    entry_clear(s->wr, idx);
    return true;
}

bool tlb_drop_writes(struct soft_cpu *c, hva_t page)
{
    uint32_t at = __atomic_exchange_n(wfill_of(c, page), 0, __ATOMIC_SEQ_CST);
    bool dropped = false;

    if (!at)
        return false;
    if (at != WFILL_MANY)
        return write_entry_drop(&c->sets[(at - 1) / TLB_ENTRIES], (at - 1) % TLB_ENTRIES, page);
    for (unsigned i = 0; i < TLB_NSETS; i++)
        if (__atomic_load_n(&c->sets[i].pcid, __ATOMIC_RELAXED) != TLB_NO_PCID)
            for (unsigned k = 0; k < TLB_ENTRIES; k++)
                dropped |= write_entry_drop(&c->sets[i], k, page);
    return dropped;
}

void tlb_drop_all_writes(struct soft_cpu *c)
{
    for (unsigned i = 0; i < TLB_NSETS; i++)
        if (c->sets[i].pcid != TLB_NO_PCID)
            table_clear(c->sets[i].wr, TLB_ENTRIES);
}

static void log_fill(struct tlb_set *s, unsigned what)
{
    if (s->nlog < TLB_LOG_MAX)
        s->log[s->nlog] = (uint16_t)what;
    if (s->nlog <= TLB_LOG_MAX)
        s->nlog++;
}

/*
 * Enter a translation. The order against code_page_protect(): that marks the
 * page and then drops entries, we enter the entry and then look at the mark,
 * so one of the two sees the other.
 */
static void set_fill(struct soft_cpu *c, struct tlb_set *s, gva_t va, hva_t page, bool write,
                     bool global)
{
    unsigned idx = TLB_INDEX(va);
    struct tlb_entry *e = write ? &s->wr[idx] : &s->rd[idx];

    if (!global)
        log_fill(s, idx | (write ? TLB_LOG_WRITE : 0));
    if (write) {
        soft_own(c, page, 1);
        wfill_note(c, s, idx, page);
        dirty_note(c->svm, page);
    }
    entry_set_page(e, page);
    entry_set_tag(e, va & PAGE_MASK);
    if (write) {
        atomic_thread_fence(memory_order_seq_cst);
        if (page_holds_code(c->svm, page))
            entry_clear(s->wr, idx);
    }
}

/*
 * Slow half of every access: walk, enter the TLB when the page is RAM, and
 * give its host address. NULL: MMIO, *gpa says where. Raises #PF.
 */
static hva_t set_miss(struct soft_cpu *c, struct tlb_set *s, gva_t va, enum mem_access acc,
                      gpa_t *gpa)
{
    struct walk w;
    hva_t page;

    c->counters.tlb_miss++;
    if (mmu_walk(c, va, acc, s->mode, &w))
        soft_raise_pf(c, va, w.error);
    *gpa = w.gpa;
    page = mem_hva(&c->svm->vm->mem, w.gpa & PAGE_MASK, PAGE_SIZE);
    if (!page)
        return NULL;
    if (acc == ACC_WRITE)
        set_fill(c, s, va, page, true, w.global);
    else
        set_fill(c, s, va, page, false, w.global);
    return page;
}

bool tlb_fill_for_code(struct soft_cpu *c, gva_t va, enum mem_access acc)
{
    const struct tlb_entry *e =
        acc == ACC_WRITE ? &c->set->wr[TLB_INDEX(va)] : &c->set->rd[TLB_INDEX(va)];
    struct walk w;
    hva_t page;

    if (entry_tag(e) == (va & PAGE_MASK))
        return false; /* it was not a miss: the access crosses into the next page */
    if (!canonical(va) || mmu_walk(c, va, acc, c->set->mode, &w))
        return false;
    page = mem_hva(&c->svm->vm->mem, w.gpa & PAGE_MASK, PAGE_SIZE);
    if (!page || (acc == ACC_WRITE && page_holds_code(c->svm, page)))
        return false;
    c->counters.tlb_miss++;
    set_fill(c, c->set, va, page, acc == ACC_WRITE, w.global);
    return true;
}

static void require_canonical(struct soft_cpu *c, gva_t va)
{
    if (unlikely(!canonical(va)) && c->mode == INSN_64)
        soft_raise_err(c, X86_GP, 0);
}

static struct tlb_entry *fetch_entry(struct soft_cpu *c, gva_t va)
{
    return &c->set->fetch[(va >> PAGE_SHIFT) & (TLB_NFETCH - 1)];
}

static hva_t fetch_fill(struct soft_cpu *c, struct tlb_entry *e, gva_t va, const struct walk *w)
{
    hva_t page;

    page = mem_hva(&c->svm->vm->mem, w->gpa & PAGE_MASK, PAGE_SIZE);
    if (!page)
        return NULL;
    if (entry_tag(e) != (e == &c->set->fetch[TLB_NFETCH - 1] ? 0 : ~0ull))
        evicted_note(c->set, entry_tag(e)); /* INVLPG of this page could not tell otherwise */
    entry_set_tag(e, va & PAGE_MASK);
    entry_set_page(e, page);
    c->set->fetch_local |= !w->global;
    return page;
}

hva_t tlb_fetch_page(struct soft_cpu *c, gva_t va)
{
    struct tlb_entry *e = fetch_entry(c, va);
    struct walk w;

    if (entry_tag(e) == (va & PAGE_MASK))
        return entry_page(e);
    require_canonical(c, va);
    if (mmu_walk(c, va, ACC_FETCH, c->set->mode, &w))
        soft_raise_pf(c, va, w.error);
    return fetch_fill(c, e, va, &w);
}

hva_t tlb_fetch_try(struct soft_cpu *c, gva_t va)
{
    struct tlb_entry *e = fetch_entry(c, va);
    struct walk w;

    if (entry_tag(e) == (va & PAGE_MASK))
        return entry_page(e);
    if (!canonical(va) || mmu_walk(c, va, ACC_FETCH, c->set->mode, &w))
        return NULL;
    return fetch_fill(c, e, va, &w);
}

/* ---- Accesses ---------------------------------------------------------- */

static void copy_bytes(void *to, const void *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static uint64_t mmio_ld(struct soft_cpu *c, gpa_t gpa, unsigned size)
{
    soft_fpu_park(c);
    c->counters.mmio++;
    return vcpu_mmio_read(c->vcpu, gpa, size);
}

/* The guest wrote where code was translated from. */
static void soft_code_written(struct soft_cpu *c, hva_t host, unsigned len)
{
    soft_fpu_park(c);
    c->counters.smc_page++;
    c->counters.smc += code_written(c->svm, host, len);
}

void soft_code_stored(struct soft_cpu *c)
{
    hva_t host = c->code_store;

    c->code_store = NULL;
    soft_code_written(c, host, c->code_store_len);
}

static void mmio_st(struct soft_cpu *c, gpa_t gpa, unsigned size, uint64_t val)
{
    soft_fpu_park(c);
    c->counters.mmio++;
    vcpu_mmio_write(c->vcpu, gpa, size, val);
    soft_look_up(c); /* an EOI may have made room for the next interrupt */
}

static bool crosses(gva_t va, unsigned size)
{
    return (va & ~PAGE_MASK) + size > PAGE_SIZE;
}

/* Where one page's part of an access lives. */
struct place {
    hva_t host; /* NULL: MMIO at gpa */
    gpa_t gpa;
    bool code; /* a write must be told to the translation cache */
};

static struct place place_of(struct soft_cpu *c, struct tlb_set *s, gva_t va, enum mem_access acc)
{
    struct tlb_entry *e = acc == ACC_WRITE ? &s->wr[TLB_INDEX(va)] : &s->rd[TLB_INDEX(va)];
    struct place p = {0};
    hva_t page;

    if (entry_tag(e) == (va & PAGE_MASK)) {
        p.host = entry_page(e) + (va & ~PAGE_MASK);
        return p;
    }
    require_canonical(c, va);
    page = set_miss(c, s, va, acc, &p.gpa);
    if (!page)
        return p;
    p.host = page + (va & ~PAGE_MASK);
    p.code = acc == ACC_WRITE && page_holds_code(c->svm, page);
    return p;
}

static uint64_t place_ld(struct soft_cpu *c, const struct place *p, unsigned size)
{
    return p->host ? host_load(p->host, size) : mmio_ld(c, p->gpa, size);
}

/* After a store: has its page come to hold code since place_of looked? */
static bool code_came(struct soft_cpu *c, hva_t host)
{
    atomic_thread_fence(memory_order_seq_cst);
    return page_holds_code(c->svm, (const uint8_t *)((uintptr_t)host & PAGE_MASK));
}

static void place_st(struct soft_cpu *c, const struct place *p, unsigned size, uint64_t val)
{
    if (!p->host) {
        mmio_st(c, p->gpa, size, val);
        return;
    }
    host_store(p->host, size, val);
    if (p->code || code_came(c, p->host))
        soft_code_written(c, p->host, size);
}

static uint64_t set_ld(struct soft_cpu *c, struct tlb_set *s, gva_t va, unsigned size)
{
    struct tlb_entry *e = &s->rd[TLB_INDEX(va)];

    if (likely(entry_tag(e) == (va & PAGE_MASK) && !crosses(va, size)))
        return host_load(entry_page(e) + (va & ~PAGE_MASK), size);
    if (crosses(va, size)) {
        unsigned first = (unsigned)(PAGE_SIZE - (va & ~PAGE_MASK));
        struct place a = place_of(c, s, va, ACC_READ), b = place_of(c, s, va + first, ACC_READ);
        uint64_t val = 0;

        for (unsigned i = 0; i < size; i++) {
            struct place p = i < first ? a : b;
            unsigned k = i < first ? i : i - first;

            p.host = p.host ? p.host + k : NULL;
            p.gpa += k;
            val |= place_ld(c, &p, 1) << (8 * i);
        }
        return val;
    }
    struct place p = place_of(c, s, va, ACC_READ);
    return place_ld(c, &p, size);
}

static void set_st(struct soft_cpu *c, struct tlb_set *s, gva_t va, unsigned size, uint64_t val)
{
    struct tlb_entry *e = &s->wr[TLB_INDEX(va)];

    if (likely(entry_tag(e) == (va & PAGE_MASK) && !crosses(va, size))) {
        host_store(entry_page(e) + (va & ~PAGE_MASK), size, val);
        return;
    }
    if (crosses(va, size)) {
        unsigned first = (unsigned)(PAGE_SIZE - (va & ~PAGE_MASK));
        struct place a = place_of(c, s, va, ACC_WRITE), b = place_of(c, s, va + first, ACC_WRITE);

        for (unsigned i = 0; i < size; i++) {
            struct place p = i < first ? a : b;
            unsigned k = i < first ? i : i - first;

            p.host = p.host ? p.host + k : NULL;
            p.gpa += k;
            place_st(c, &p, 1, val >> (8 * i) & 0xff);
        }
        return;
    }
    struct place p = place_of(c, s, va, ACC_WRITE);
    place_st(c, &p, size, val);
}

uint64_t mem_ld(struct soft_cpu *c, gva_t va, unsigned size)
{
    return set_ld(c, c->set, va, size);
}

void mem_st(struct soft_cpu *c, gva_t va, unsigned size, uint64_t val)
{
    set_st(c, c->set, va, size, val);
}

uint64_t sys_ld(struct soft_cpu *c, gva_t va, unsigned size)
{
    return set_ld(c, system_set(c), va, size);
}

void sys_st(struct soft_cpu *c, gva_t va, unsigned size, uint64_t val)
{
    set_st(c, system_set(c), va, size, val);
}

void mem_probe(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc)
{
    place_of(c, c->set, va, acc);
    if (crosses(va, len))
        place_of(c, c->set, (va + len - 1) & PAGE_MASK, acc);
}

void mem_ld_bytes(struct soft_cpu *c, gva_t va, void *buf, unsigned len)
{
    uint8_t *out = buf;

    mem_probe(c, va, len, ACC_READ);
    while (len) {
        unsigned n = (unsigned)(PAGE_SIZE - (va & ~PAGE_MASK));
        struct place p = place_of(c, c->set, va, ACC_READ);

        n = n > len ? len : n;
        if (p.host)
            copy_bytes(out, p.host, n);
        else
            for (unsigned i = 0; i < n; i++)
                out[i] = (uint8_t)mmio_ld(c, p.gpa + i, 1);
        va += n;
        out += n;
        len -= n;
    }
}

void mem_st_bytes(struct soft_cpu *c, gva_t va, const void *buf, unsigned len)
{
    const uint8_t *in = buf;

    mem_probe(c, va, len, ACC_WRITE);
    while (len) {
        unsigned n = (unsigned)(PAGE_SIZE - (va & ~PAGE_MASK));
        struct place p = place_of(c, c->set, va, ACC_WRITE);

        n = n > len ? len : n;
        if (p.host) {
            copy_bytes(p.host, in, n);
            if (p.code || code_came(c, p.host))
                soft_code_written(c, p.host, n);
        } else {
            for (unsigned i = 0; i < n; i++)
                mmio_st(c, p.gpa + i, 1, in[i]);
        }
        va += n;
        in += n;
        len -= n;
    }
}

void *mem_host(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc)
{
    struct place p;

    if (crosses(va, len)) {
        mem_probe(c, va, len, acc);
        return NULL;
    }
    p = place_of(c, c->set, va, acc);
    return p.code ? NULL : p.host;
}

void *mem_host_locked(struct soft_cpu *c, gva_t va, unsigned len)
{
    struct place p;

    if (crosses(va, len)) {
        mem_probe(c, va, len, ACC_WRITE);
        return NULL;
    }
    p = place_of(c, c->set, va, ACC_WRITE);
    if (p.code) {
        c->code_store = p.host;
        c->code_store_len = (uint8_t)len;
    }
    return p.host;
}

void soft_bus_lock(struct soft_cpu *c)
{
    while (atomic_exchange_explicit(&c->svm->bus_lock, 1, memory_order_acquire))
        __builtin_ia32_pause();
    c->bus_locked = 1;
}

void soft_bus_unlock(struct soft_cpu *c)
{
    c->bus_locked = 0;
    atomic_store_explicit(&c->svm->bus_lock, 0, memory_order_release);
}
