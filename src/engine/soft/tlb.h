/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Soft TLB sets. A set serves one (PCID, mode) pair; some are kept so that a
 * switch of address space or privilege flushes nothing. Translated code
 * reaches `rd` and `wr` at fixed offsets from soft_cpu.set.
 */
#ifndef LODGE_SOFT_TLB_H
#define LODGE_SOFT_TLB_H

#include "engine/soft/soft.h"

#define TLB_NSETS   24
#define TLB_NFETCH  2048
#define TLB_LOG_MAX 1024
#define TLB_NO_PCID 0xffff

#define TLB_LOG_WRITE 0x4000

struct tlb_set {
    struct tlb_entry rd[TLB_ENTRIES];
    struct tlb_entry wr[TLB_ENTRIES];
    struct jc_entry jc[JC_TOTAL];
    struct tlb_entry fetch[TLB_NFETCH]; /* executable pages */
    uint16_t log
        [TLB_LOG_MAX]; /* entries filled with non-global pages since the last flush: index, WRITE */
    unsigned nlog;     /* > TLB_LOG_MAX: overflowed */
    bool fetch_local;  /* `fetch`, and so the jump cache, knows non-global pages */
    uint64_t evicted[8]; /* filter: pages that left `fetch` but may have jump cache entries */
    bool jc_used;
    uint16_t pcid; /* TLB_NO_PCID: free */
    uint8_t mode;  /* enum tlb_mode */
    uint64_t last_use;
    uint32_t flushes; /* how often entries were forgotten */
    uint32_t code;    /* block_key of what `jc` leads to */
};

_Static_assert(sizeof(struct tlb_set) % sizeof(struct tlb_entry) == 0, "entries are aligned");

/* Result of a page walk. */
struct walk {
    gpa_t gpa; /* of the byte asked for */
    bool global;
    uint32_t error; /* #PF error code when the walk failed */
};

/* The page table, or large page, that covers the 2 MiB around an address. */
struct peek {
    const uint64_t *table; /* 512 entries, in guest memory, or NULL */
    uint64_t big;          /* or the entry of a large page, or 0 */
    uint64_t rights;       /* W and U gathered above, as in an entry */
};

/* Look without setting A or D. Four-level paging only. */
struct peek mmu_peek(struct soft_cpu *c, gva_t va);

/* What user code may do with one of the 512 pages without a change of A or D. *gpa: where it is. */
enum peek_rights { PEEK_NONE, PEEK_READ, PEEK_WRITE };
enum peek_rights mmu_peek_page(struct soft_cpu *c, const struct peek *p, unsigned i, gpa_t *gpa);

/* Translate with A/D updates as the access would make them. 0, or -1 with error set. */
int mmu_walk(struct soft_cpu *c, gva_t va, enum mem_access acc, enum tlb_mode mode, struct walk *w);

/*
 * For translated code: make the inline check succeed for `va`. false when it
 * never will (MMIO, code page, fault): the interpreter must do the access.
 */
bool tlb_fill_for_code(struct soft_cpu *c, gva_t va, enum mem_access acc);

/* Host address of the page of an instruction fetch, or NULL when it is not RAM; raises #PF. */
hva_t tlb_fetch_page(struct soft_cpu *c, gva_t va);

/* The same, but NULL also when the fetch would fault or is to be made again. */
hva_t tlb_fetch_try(struct soft_cpu *c, gva_t va);

/* Tell the cache of c->code_store. */
void soft_code_stored(struct soft_cpu *c);

/* Forget the write entries for one host page in this CPU's sets: it will hold code. Any thread. Were there any? */
bool tlb_drop_writes(struct soft_cpu *c, hva_t page);

/* Forget the set's translated-code addresses. */
void tlb_set_flush_jc(struct soft_cpu *c, struct tlb_set *s);

/* Forget all write entries, so that the next write of each page is seen; the vCPU does not run. */
void tlb_drop_all_writes(struct soft_cpu *c);

/* Forget all translated-code addresses, in the jump caches and in soft_cpu.found. */
void tlb_flush_jc(struct soft_cpu *c);

/* Make all entries match nothing (as in the TLB: ~0, and 0 where that could match). */
void jc_table_clear(struct jc_entry *jc);

int tlb_init(struct soft_cpu *c, struct err *err);
void tlb_fini(struct soft_cpu *c);

#endif
