/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Page walks: SDM volume 3 chapter 4. Entries' A and D bits are set by compare-exchange. */
#include "engine/soft/engine_soft.h"
#include "engine/soft/tlb.h"

#define PTE_P    (1ull << 0)
#define PTE_W    (1ull << 1)
#define PTE_U    (1ull << 2)
#define PTE_A    (1ull << 5)
#define PTE_D    (1ull << 6)
#define PTE_PS   (1ull << 7)
#define PTE_G    (1ull << 8)
#define PTE_NX   (1ull << 63)
#define PTE_ADDR (((1ull << X86_PHYS_BITS) - 1) & PAGE_MASK)
#define PTE_RSVD (((1ull << 52) - 1) & ~((1ull << X86_PHYS_BITS) - 1))

#define PF_P    1u
#define PF_W    2u
#define PF_U    4u
#define PF_RSVD 8u
#define PF_I    16u
#define PF_PK   32u

#define PTE_KEY(pte) ((pte) >> 59 & 15)
#define KEY_AD       1u /* no access */
#define KEY_WD       2u /* no writes */

/* One paging mode: entry width and the levels from the root down. */
struct paging {
    uint8_t entry; /* bytes */
    uint8_t levels;
    uint8_t bits; /* index bits of all levels but PAE's root */
    uint8_t big;  /* bit n: an entry at level n (1 = page table) may be a page */
};

static const struct paging paging_32 = {4, 2, 10, 1u << 2};
static const struct paging paging_pae = {8, 3, 9, 1u << 2};
static const struct paging paging_4l = {8, 4, 9, 1u << 2 | 1u << 3};

static const struct paging *paging_of(const struct x86_state *st)
{
    if (!(st->cr4 & X86_CR4_PAE))
        return &paging_32;
    return st->efer & X86_EFER_LMA ? &paging_4l : &paging_pae;
}

static uint64_t reserved_bits(const struct x86_state *st, const struct paging *pg, unsigned level,
                              uint64_t pte, bool leaf)
{
    uint64_t rsvd;

    if (pg->entry == 4) /* 4M pages: bits 21..13+(n-32) with PSE-36, here none above 4G */
        return leaf && level == 2 ? pte & 0x3fe000u : 0;
    rsvd = PTE_RSVD;
    if (!(st->efer & X86_EFER_NXE))
        rsvd |= PTE_NX;
    if (pg->levels == 3) {
        rsvd |= 0x7ff0000000000000ull;
        if (level == 3)
            rsvd |= PTE_NX | 0x1e6;
    }
    if (pg->levels == 4 && level == 4)
        rsvd |= PTE_PS;
    if (leaf && level > 1)
        rsvd |= ((1ull << (12 + 9 * (level - 1))) - 1) & ~0x1fffull;
    return pte & rsvd;
}

/* Is the access allowed by the rights gathered on the way? SDM volume 3, 4.6.1. */
static bool allowed(const struct x86_state *st, enum mem_access acc, enum tlb_mode mode,
                    uint64_t rights)
{
    bool user_page = rights & PTE_U;

    if (mode == TLB_USER && !user_page)
        return false;
    if (acc == ACC_FETCH) {
        if (rights & PTE_NX)
            return false;
        return !(mode != TLB_USER && user_page && (st->cr4 & X86_CR4_SMEP));
    }
    if (mode == TLB_KERNEL && user_page)
        return false; /* SMAP; TLB_KERNEL is used only while it applies */
    if (acc == ACC_WRITE && !(rights & PTE_W))
        return mode != TLB_USER && !(st->cr0 & X86_CR0_WP);
    return true;
}

/*
 * Does the page's protection key forbid a data access? SDM volume 3, 4.6.2.
 * Which keys have been looked at is kept: their rights are in the TLB now.
 */
static bool key_forbids(struct soft_cpu *c, enum mem_access acc, enum tlb_mode mode,
                        uint64_t rights, uint64_t pte)
{
    const struct x86_state *st = &c->st;
    bool user_page = rights & PTE_U;
    unsigned key = PTE_KEY(pte), deny;

    if (!(st->cr4 & (user_page ? X86_CR4_PKE : X86_CR4_PKS)) || acc == ACC_FETCH)
        return false;
    if (user_page)
        c->user_keys |= (uint16_t)(1u << key);
    else
        c->system_keys |= (uint16_t)(1u << key);
    deny = (user_page ? st->pkru : st->pkrs) >> (2 * key) & 3;
    if (deny & KEY_AD)
        return true;
    return (deny & KEY_WD) && acc == ACC_WRITE && (mode == TLB_USER || (st->cr0 & X86_CR0_WP));
}

static uint32_t fault_code(const struct x86_state *st, enum mem_access acc, enum tlb_mode mode)
{
    uint32_t e = 0;

    if (acc == ACC_WRITE)
        e |= PF_W;
    if (mode == TLB_USER)
        e |= PF_U;
    if (acc == ACC_FETCH &&
        ((st->cr4 & X86_CR4_SMEP) || ((st->cr4 & X86_CR4_PAE) && (st->efer & X86_EFER_NXE))))
        e |= PF_I;
    return e;
}

static uint64_t pte_load(const struct paging *pg, hva_t p)
{
    return pg->entry == 8 ? __atomic_load_n((uint64_t *)p, __ATOMIC_RELAXED)
                          : __atomic_load_n((uint32_t *)p, __ATOMIC_RELAXED);
}

/* Set A/D bits unless another CPU changed the entry meanwhile: then the walk starts over. */
static bool pte_mark(struct soft_cpu *c, const struct paging *pg, hva_t p, uint64_t old,
                     uint64_t bits)
{
    if ((old & bits) == bits)
        return true;
    soft_own(c, p, pg->entry);
    dirty_note(c->svm, p);
    if (pg->entry == 8)
        return __atomic_compare_exchange_n((uint64_t *)p, &old, old | bits, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_RELAXED);
    uint32_t old32 = (uint32_t)old;
    return __atomic_compare_exchange_n((uint32_t *)p, &old32, old32 | (uint32_t)bits, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

struct step {
    hva_t where;
    uint64_t pte;
};

enum walk_result { WALK_OK, WALK_FAULT, WALK_AGAIN };

static enum walk_result walk_once(struct soft_cpu *c, gva_t va, enum mem_access acc,
                                  enum tlb_mode mode, struct walk *w)
{
    const struct x86_state *st = &c->st;
    const struct paging *pg = paging_of(st);
    const struct mem *mem = &c->svm->vm->mem;
    gpa_t table = st->cr3 & (pg->levels == 3   ? 0xffffffe0ull
                             : pg->levels == 2 ? 0xfffff000ull
                                               : PTE_ADDR);
    uint64_t rights = PTE_W | PTE_U;
    struct step steps[4];
    unsigned level = pg->levels, shift = 0;

    w->error = fault_code(st, acc, mode);
    for (;; level--) {
        struct step *s = &steps[level - 1];
        unsigned idx;
        bool leaf;

        shift = PAGE_SHIFT + pg->bits * (level - 1);
        idx = (unsigned)(va >> shift) & ((1u << pg->bits) - 1);
        if (pg->levels == 3 && level == 3)
            idx &= 3;
        s->where = mem_hva(mem, table + idx * pg->entry, pg->entry);
        s->pte = s->where ? pte_load(pg, s->where) : 0;
        if (!(s->pte & PTE_P))
            return WALK_FAULT;
        leaf = level == 1 || ((s->pte & PTE_PS) && (pg->big & 1u << level) &&
                              (pg->entry == 8 || (st->cr4 & X86_CR4_PSE)));
        if (reserved_bits(st, pg, level, s->pte, leaf)) {
            w->error |= PF_P | PF_RSVD;
            return WALK_FAULT;
        }
        if (!(pg->levels == 3 && level == 3))
            rights = (rights & (s->pte | ~(PTE_W | PTE_U))) | (s->pte & PTE_NX);
        if (leaf)
            break;
        table = s->pte & (pg->entry == 4 ? 0xfffff000ull : PTE_ADDR);
    }
    if (unlikely(st->cr4 & (X86_CR4_PKE | X86_CR4_PKS)) && pg->levels == 4 &&
        key_forbids(c, acc, mode, rights, steps[level - 1].pte)) {
        w->error |= PF_P | PF_PK;
        return WALK_FAULT;
    }
    if (!allowed(st, acc, mode, rights)) {
        w->error |= PF_P;
        return WALK_FAULT;
    }
    for (unsigned l = pg->levels; l >= level; l--) {
        bool is_leaf = l == level;

        if (pg->levels == 3 && l == 3)
            continue;
        if (!pte_mark(c, pg, steps[l - 1].where, steps[l - 1].pte,
                      PTE_A | (is_leaf && acc == ACC_WRITE ? PTE_D : 0)))
            return WALK_AGAIN;
    }
    uint64_t mask = (1ull << shift) - 1,
             frame = steps[level - 1].pte & (pg->entry == 4 ? 0xfffff000ull : PTE_ADDR);

    w->gpa = (frame & ~mask) | (va & mask);
    w->global = (steps[level - 1].pte & PTE_G) && (st->cr4 & X86_CR4_PGE);
    return WALK_OK;
}

int mmu_walk(struct soft_cpu *c, gva_t va, enum mem_access acc, enum tlb_mode mode, struct walk *w)
{
    enum walk_result r;

    if (!(c->st.cr0 & X86_CR0_PG)) {
        w->gpa = va & 0xffffffff;
        w->global = false;
        return 0;
    }
    do
        r = walk_once(c, va, acc, mode, w);
    while (r == WALK_AGAIN);
    return r == WALK_OK ? 0 : -1;
}

struct peek mmu_peek(struct soft_cpu *c, gva_t va)
{
    const struct mem *mem = &c->svm->vm->mem;
    struct peek p = {.rights = PTE_W | PTE_U};
    gpa_t table = c->st.cr3 & PTE_ADDR;

    for (unsigned level = 4; level > 1; level--) {
        unsigned idx = (unsigned)(va >> (PAGE_SHIFT + 9 * (level - 1))) & 511;
        hva_t at = mem_hva(mem, table + idx * 8, 8);
        uint64_t pte = at ? pte_load(&paging_4l, at) : 0;
        bool leaf = level < 4 && (pte & PTE_PS);

        if (!(pte & PTE_P) || reserved_bits(&c->st, &paging_4l, level, pte, leaf))
            return p;
        p.rights &= pte;
        if (leaf) {
            if (level == 2)
                p.big = pte;
            return p;
        }
        table = pte & PTE_ADDR;
    }
    p.table = (const uint64_t *)mem_hva(mem, table, PAGE_SIZE);
    return p;
}

enum peek_rights mmu_peek_page(struct soft_cpu *c, const struct peek *p, unsigned i, gpa_t *gpa)
{
    uint64_t pte = p->table ? __atomic_load_n(&p->table[i], __ATOMIC_RELAXED) : p->big;

    if (!(pte & PTE_P) || !(pte & PTE_A) || !(pte & p->rights & PTE_U))
        return PEEK_NONE;
    if (p->table && reserved_bits(&c->st, &paging_4l, 1, pte, true))
        return PEEK_NONE;
    *gpa = pte & PTE_ADDR;
    if (!p->table)
        *gpa = (*gpa & ~0x1fffffull) | (gpa_t)i << PAGE_SHIFT;
    return (pte & p->rights & PTE_W) && (pte & PTE_D) ? PEEK_WRITE : PEEK_READ;
}
