/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Views: a guest address space laid out in the host's, so that user code reaches its memory through the host's MMU
 * instead of soft TLB checks.
 *
 * A guest's user half is 47 bits wide, as wide as all that a host process has. So it is taken in regions of 512 GiB,
 * of which a process uses two or three: each region in use gets a stretch of host addresses, and view_table says by
 * bits 39 to 46 of a guest address how to get from there to the host's. In other regions the sum is an address that
 * the host's processor refuses. Around each stretch lie guards wider than any displacement. In it, guest pages are
 * mapped one by one out of guest memory with the rights the guest's page tables give, when they are first touched:
 * what is not there faults on the host, and is then mapped, or left to the interpreter to fault properly.
 *
 * Blocks that use a view are at first shared with other address spaces that have the same code. If user code goes on
 * running, the view gets blocks of its own, which know where they are: they contain addresses, and are linked across
 * pages. They are all forgotten when something else is mapped where one of them came from. Code below 4 GiB has shared
 * blocks that know where they are (view_link.c).
 *
 * A view is a TLB, and is kept in step like one: INVLPG has the page looked up again, and a flush has all of them
 * compared with the page tables before user code runs next. Pages that hold translated code are not writable.
 *
 * To map a page costs as much as a thousand soft TLB checks, so only an address space that keeps running user code
 * gets a view, and loses it if it faults too often. Each vCPU has views of its own. Another vCPU's thread may take
 * away the right to write a page, which it does under the owner's lock; nothing else is shared.
 */
#ifndef LODGE_SOFT_VIEW_H
#define LODGE_SOFT_VIEW_H

#include "engine/soft/soft.h"

/* Nothing is reserved yet. */
int views_init(struct soft_cpu *c, struct err *err);
void views_fini(struct soft_cpu *c);

/* The soft TLB set for user code was chosen: make view_table fit, and the set's jump cache. The FPU may be live. */
void view_enter(struct soft_cpu *c);

/* An interrupt arrived in user code: counts towards getting or losing a view. The FPU is parked. */
void view_tick(struct soft_cpu *c);

/*
 * Translated code faulted at a host address (0: not known). Called by the signal handler; true: the access will now
 * succeed, or fault elsewhere.
 */
bool view_fault(struct soft_cpu *c, uintptr_t host, bool write);

/*
 * Blocks of the present view are to be made from a page of code: it is remembered, so that a change of what is mapped
 * there is seen. False: they are not to be. The FPU is parked.
 */
bool view_note_code(struct soft_cpu *c, gva_t va, const uint8_t *page);

/* The page of code at an address of the present view, noted in the same way; NULL: none, or not to be used. */
const uint8_t *view_code_page(struct soft_cpu *c, gva_t va);

/* Where a jump of a placed block leads. */
struct view_link {
    const uint8_t *_Atomic code;
};

/* There are no links. cache.lock is held. */
void view_links_clear(struct cache *k);

/* Link n was made, and leads to its stub. cache.lock is held. */
void view_link_made(struct soft_vm *svm, uint32_t n, const uint8_t *stub);

/*
 * In the present view link n leads to `code`, the block at RIP, whose page is at `page`; and so do those that are known
 * to lead to the same page, if it is the first. The FPU is parked.
 */
void view_link_enter(struct soft_cpu *c, uint32_t n, const uint8_t *page, const uint8_t *code);

/* The cache was flushed: all links are others. The FPU is parked. */
void view_links_lost(struct soft_cpu *c);

/* For tests: the present address space gets a view, and blocks of its own, now. */
void view_force(struct soft_cpu *c);

/* INVLPG, in whichever address space. */
void view_flush_page(struct soft_cpu *c, gva_t va);

/* The same for all pages; the vCPU does not run. */
void view_drop_all_writes(struct soft_cpu *c);

/* Memory [from, to) is the base's no more: have this CPU's views look again. Any thread, without views.lock. */
void view_drop_base(struct soft_cpu *c, uint64_t from, uint64_t to);

/* Take away the right to write a page from this CPU's views. Any thread; cache.lock is held. */
void view_drop_writes(struct soft_cpu *c, const uint8_t *page);

#endif
