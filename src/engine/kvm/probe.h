/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Does KVM run a stock kernel here? Capabilities do not tell, so a small guest tries what kernels do first. */
#ifndef LODGE_ENGINE_KVM_PROBE_H
#define LODGE_ENGINE_KVM_PROBE_H

#include "engine/engine.h"

int kvm_probe(struct err *err);                                       /* engine_ops.probe */
int kvm_check(struct err *err);                                       /* engine_ops.check */
unsigned kvm_probe_stages(struct engine_stage *stages, unsigned max); /* engine_ops.probe_stages */

/* ---- Between probe.c and probe_guest.c ---- */

/* What the guest checks, in this order. */
enum probe_check {
    PROBE_ENTRY,
    PROBE_CS,
    PROBE_IF,
    PROBE_INT3,
    PROBE_INTN,
    PROBE_CX16,
    PROBE_FPU,
    PROBE_SSE,
    PROBE_SYSRET,
    PROBE_SYSCALL,
    PROBE_LOOP,
    PROBE_CHECKS,
};

/* Why a run of the guest ended: PROBE_CHECKS passed, or what went wrong at the check numbered `passed`. */
struct probe_outcome {
    unsigned passed;
    bool timed_out;
    char why[200];
};

/* Make a VM and let the guest run in it for at most `limit_ms`. 0 when it ran, to whatever outcome. */
int probe_guest_run(int dev, unsigned limit_ms, struct probe_outcome *out, struct err *err);

#endif
