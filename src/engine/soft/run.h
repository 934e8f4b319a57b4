/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LODGE_SOFT_RUN_H
#define LODGE_SOFT_RUN_H

#include "engine/soft/soft.h"

/* Run until there is something for core to do. GS must already point to the CPU, signals be set up. */
enum vcpu_exit_reason soft_run_loop(struct soft_cpu *c);

/*
 * Called from translated code: interpret one instruction (NULL: fetch it) and
 * give the code to go on with: `next` when the straight line continues, the
 * target's when it is known, NULL to leave to the run loop.
 */
const uint8_t *soft_interp_inline(struct soft_cpu *c, const struct insn *in, const uint8_t *next);

/*
 * Called from translated code: a soft TLB miss. `xored`: the address with the tag in; `entry`: the address of the read
 * entry of the same number, but for its lowest four bits. Gives where to go on: the access again, the block's careful
 * twin, NULL to leave to the run loop.
 */
const uint8_t *soft_miss(struct soft_cpu *c, uint64_t xored, enum mem_access acc, uint32_t record,
                         uint64_t entry);

/* EFLAGS between st.rflags and the form translated code keeps them in. */
void flags_to_lazy(struct soft_cpu *c);
void flags_from_lazy(struct soft_cpu *c);

/* Host faults in translated code (signals.c): install the process's handlers once; NULL err: never fails. */
int signals_init(struct err *err);

/* Make the calling thread the CPU's: alternate signal stack, GS base, thread-local pointer. */
int signals_enter(struct soft_cpu *c);
void signals_leave(struct soft_cpu *c);
void signals_free(struct soft_cpu *c);

#endif
