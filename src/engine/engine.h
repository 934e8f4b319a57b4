/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What core needs of a way to run guest code. Every table is const and complete. */
#ifndef LODGE_ENGINE_ENGINE_H
#define LODGE_ENGINE_ENGINE_H

#include <stdio.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "x86/state.h"

struct engine_ops {
    const char *name;
    /* Usable on this host? 0, or a negative errno with the reason in a user's words. Holds nothing afterwards. */
    int (*probe)(struct err *err);
    int (*vm_init)(struct vm *vm, struct err *err);
    void (*vm_fini)(struct vm *vm); /* idempotent */
    int (*vcpu_init)(struct vcpu *vcpu, struct err *err);
    void (*vcpu_fini)(struct vcpu *vcpu); /* idempotent */
    /*
     * Run guest code on the calling thread, the vCPU's own, until there is
     * something for core to do; fills vcpu->exit. I/O does not leave run():
     * engines call the vcpu_pio_ and vcpu_mmio_ functions.
     */
    enum vcpu_exit_reason (*run)(struct vcpu *vcpu);
    /* Make run() look at vcpu->events soon. Any thread, idempotent, async-signal-safe. */
    void (*kick)(struct vcpu *vcpu);
    /* Copy the whole CPU state out of or into the engine; only while the vCPU is not in run(). */
    void (*get)(struct vcpu *vcpu, struct x86_state *st);
    void (*set)(struct vcpu *vcpu, const struct x86_state *st);
    /* Guest memory [gpa, gpa+len) changed behind the engine's back (loaders, DMA): drop code derived from it. Any thread. */
    void (*mem_written)(struct vm *vm, gpa_t gpa, uint64_t len);
    /* Counters in readable form, for --stats. */
    void (*print_stats)(struct vm *vm, FILE *out);
};

extern const struct engine_ops engine_soft;

/* All engines built in, best first, NULL-terminated. */
extern const struct engine_ops *const engines[];

#endif
