/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the two halves of the views share: view.c, which maps, and view_policy.c, which says when to have a view. */
#ifndef LODGE_SOFT_VIEW_INT_H
#define LODGE_SOFT_VIEW_INT_H

#include <pthread.h>

#include "engine/soft/cache.h"
#include "engine/soft/view.h"

#define MAX_REGIONS 8
#define MAX_VIEWS   8
#define CHUNK_PAGES 512
#define CHUNK_SLOTS 2048
#define MAX_PENDING 64
#define CODE_SLOTS  16384

/*
 * To map a page in a hole of the host's address space costs a fifth less than in the middle of a reservation. So a
 * region lies in a slot, if one is free: reserved like elsewhere, but with the 2 MiB of a chunk unmapped when the chunk
 * is made. User code reaches all of a region, so nothing of the host's may ever come there:
 *
 * - To who asks for no address (mmap, mremap and shmat without one, so stacks of threads, libraries, heaps) Linux gives
 *   the highest gap that is long enough below where it began when the program started: close to the stack, or with
 *   "unlimited" stacks at a sixth of 2^47. If there is no such gap, and in the layout it calls legacy, it gives the
 *   lowest above a third of 2^47, which is above the slots. Slots are used only if `nowhere` was put above them, so it
 *   began above them, or comes there from below. Before it could come down to them all above would have to be full,
 *   and 2 TiB from SLOTS_END on never are of views: what they are given there they give back.
 * - The heap of brk grows up from the program, the stack down from the top, and neither beyond what is mapped, such as
 *   a guard.
 * - Who asks for an address gets it if all of it is free, and of a slot only chunks in use are. Nothing here asks
 *   but within what it has already; the C library's malloc, for what follows its heaps; mimalloc, which may be
 *   preloaded, from 2 to 30 TiB, which is below the slots.
 * - A slot is taken only if nothing is mapped in it, by whichever vCPU or machine of the process, and its guards are
 *   there until all of it is given back.
 *
 * Sanitizers keep things of theirs in such places: with them there are no slots.
 */
#define SLOTS_FROM  0x200000000000ull
#define SLOTS_END   0x280000000000ull
#define KERNEL_FROM 0x2a0000000000ull

/* 2 MiB of the address space in which something is mapped. */
struct chunk {
    gva_t va;
    uint64_t page[CHUNK_PAGES]; /* offset in guest memory and PAGE_* of view.c, or 0 */
};

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
    double finds;            /* of blocks to go on with, outside translated code, of late */
    unsigned events, recent; /* faults since the last tick, and before with less weight */
    uint64_t last_tick;
    const struct tlb_set *set; /* in step with this set as it was after so many flushes */
    uint32_t flushes;
    unsigned nregions, nchunks, nruns, npending;
    struct region regions[MAX_REGIONS];
    struct chunk *chunks[CHUNK_SLOTS];
    block_key code;          /* of its blocks */
    struct view_link *links; /* CACHE_LINKS of them; those that there are are valid */
    _Atomic bool linked;     /* is set: under cache.lock */
    bool links_stale;        /* they begin anew before it is used next */
    struct code_page codes[CODE_SLOTS];
    unsigned ncodes;
    gva_t pending[MAX_PENDING]; /* pages of INVLPG */
    gva_t faulted; /* a page whose fault the guest handles: to be mapped when it is back; or 0 */
    bool faulted_write;
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

/* ---- view_link.c ---- */

int view_links_init(struct views *vs);
void view_links_fini(struct views *vs);

/* Each link leads to its stub. Takes cache.lock, so views.lock may not be held. */
void view_links_begin(struct soft_cpu *c, struct view *v);

/* Links made from now on are not entered, and it may not be used before they begin anew. */
void view_links_end(struct view *v);

/* The same, and it will not be used soon. */
void view_links_give_back(struct view *v);

/* Called on the vCPU's own thread; those that change what is mapped with views.lock held, but for the last view_off. */

/* Have view_table lead to the view's regions, or nowhere. NULL: nothing is done. */
void view_table_set(struct soft_cpu *c, const struct view *v, bool on);

/* Reserve regions for what the top-level page table has come to hold. False: there is nothing new, or no room. */
bool view_find_regions(struct soft_cpu *c, struct view *v);

/* Where an address is in the view; NULL: in no region of it. */
uint8_t *view_host(const struct view *v, gva_t va);

/* Map a page, and those around it that continue it in guest memory and are in use. False: not to be mapped. */
bool view_map(struct soft_cpu *c, struct view *v, gva_t va, bool write);

/*
 * The soft TLB forgot things: compare all that is mapped with the page tables. False: the view is of no use any more,
 * since most has changed (another process has come to use the same top-level table) or the host refuses.
 */
bool view_check_all(struct soft_cpu *c, struct view *v);

/* The same for the pages of INVLPG. False: the host refuses. */
bool view_check_pending(struct soft_cpu *c, struct view *v);

/*
 * Are those pages that its blocks came from, or those of them that had an INVLPG, still mapped where they were? Without
 * views.lock, since page tables may be written.
 */
void view_check_codes(struct soft_cpu *c, struct view *v, bool all);

/* From now on it has blocks of its own, new ones; or none. */
void view_codes_own(struct soft_cpu *c, struct view *v);
void view_codes_share(struct view *v);

/* Unmap everything and give the regions back; view.time becomes `time`. Nothing if it is not active. */
void view_off(struct soft_cpu *c, struct view *v, int time);

#endif
