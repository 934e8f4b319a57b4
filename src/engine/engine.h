/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What core needs of a way to run guest code. Every table is const and complete. */
#ifndef LODGE_ENGINE_ENGINE_H
#define LODGE_ENGINE_ENGINE_H

#include <stdio.h>

#include "core/ioevent.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "x86/chips.h"
#include "x86/state.h"

/* One step of finding out whether an engine works here. */
struct engine_stage {
    const char *name; /* constant */
    bool passed;
    char why[512]; /* when it did not */
};

#define ENGINE_MAX_STAGES 24

/* Interrupt controllers inside an engine; the machine then makes neither APICs nor the 8259A pair nor the 8254. */
struct irqchip_ops {
    /* Drive ISA interrupt `irq` (0..15), on all its controllers. Any thread. */
    void (*set_isa)(struct vm *vm, unsigned irq, bool level);
    /* A message in MSI form. Any thread. */
    void (*msi)(struct vm *vm, uint64_t addr, uint32_t data);
    /* Hardware reset of all of them. For this and the following no vCPU runs. */
    void (*reset)(struct vm *vm);
    /* Their state; load comes after engine_ops.set. Negative errno when the engine refuses. */
    int (*save)(struct vm *vm, struct chips_state *s);
    int (*load)(struct vm *vm, const struct chips_state *s);
    int (*save_lapic)(struct vcpu *vcpu, struct lapic_state *s);
    int (*load_lapic)(struct vcpu *vcpu, const struct lapic_state *s);
    /*
     * Make the signals of eventfd `fd` the interrupt `ev`, or another than before; NULL: none any more. `slot`, less
     * than IRQEVENT_MAX, stands for the descriptor. Any thread, one at a time. Negative errno when the engine cannot
     * (nothing has changed then); NULL: it never can.
     */
    int (*irqfd)(struct vm *vm, unsigned slot, int fd, const struct irqevent *ev);
};

struct engine_ops {
    const char *name;
    /* Usable on this host? 0, or a negative errno with the reason in a user's words. Holds nothing afterwards. */
    int (*probe)(struct err *err);
    /* What of it takes no time: for a user who has chosen this engine. NULL: probe takes none. */
    int (*check)(struct err *err);
    /* The same step by step, going on after a failure where that tells more; their number. NULL: there are no steps. */
    unsigned (*probe_stages)(struct engine_stage *stages, unsigned max);
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
    int (*set)(struct vcpu *vcpu,
               const struct x86_state *st); /* 0, or a negative errno: it cannot hold that */
    /* Guest memory [gpa, gpa+len) changed behind the engine's back (loaders, DMA): drop code derived from it. Any thread. */
    void (*mem_written)(struct vm *vm, gpa_t gpa, uint64_t len);
    /*
     * Note from now on, or no more, which pages guest code writes, and set the bits of those written since the last
     * take: bit n is the page at offset n * 4096 of vm->mem. A page may be reported that only could have been
     * written; none is left out. No vCPU runs. Negative errno: nothing has changed.
     */
    int (*dirty_log)(struct vm *vm, bool on);
    int (*dirty_take)(struct vm *vm, uint64_t *bitmap);
    bool
        dirty_live; /* a take is possible while vCPUs run, too, and then leaves out what is written after it */
    /*
     * Take back what lets guest code write pages, so that mem_own is called for each page before it is written next. No
     * vCPU runs. NULL: it is not called for what guest code writes.
     */
    void (*arm)(struct vm *vm);
    /* Counters in readable form, for --stats. */
    void (*print_stats)(struct vm *vm, FILE *out);
    /*
     * Write where in this process translated guest code is now, for perf, to /tmp/perf-PID.map. The VM was made with
     * cfg.perf_map. Any thread but a vCPU's, one at a time. On failure *err is filled and there is no such file of
     * ours; the guest is not concerned. NULL: there is no such code.
     */
    int (*perf_map)(struct vm *vm, struct err *err);
    /*
     * Signal ev->fd at such writes, or no more, without telling core. Negative errno when the engine cannot: core
     * then sees them. Any thread, one at a time. NULL: it never can.
     */
    int (*ioevent)(struct vm *vm, const struct ioevent *ev, bool on);
    const struct irqchip_ops *irqchip; /* NULL: src/x86 emulates it */
};

extern const struct engine_ops engine_kvm;
extern const struct engine_ops engine_soft;

/* All engines built in, best first, NULL-terminated. */
extern const struct engine_ops *const engines[];

#endif
