/* SPDX-License-Identifier: GPL-2.0-or-later */
/* MSRs that belong to the machine rather than to an engine, and the KVM paravirtual interface. */
#ifndef LODGE_X86_MSR_H
#define LODGE_X86_MSR_H

#include "core/vcpu.h"

struct msr_state; /* one a vCPU: MTRRs, misc enable, kvmclock, PV EOI, ... */

int msr_state_new(struct msr_state **ms, struct vcpu *vcpu, struct err *err);
void msr_state_free(struct msr_state *ms);
void msr_state_reset(struct msr_state *ms);
int msr_read(struct msr_state *ms, uint32_t msr, uint64_t *val); /* -1: #GP */
int msr_write(struct msr_state *ms, uint32_t msr, uint64_t val);

/* IA32_MISC_ENABLE's bits that CPUID follows (SDM volume 4, table 2-2). The vCPU's own thread. */
#define MISC_ENABLE_LIMIT_CPUID (1ull << 22)
#define MISC_ENABLE_NO_XD       (1ull << 34)
uint64_t msr_misc_enable(const struct msr_state *ms);

#define MSR_SAVED 33

/* What is stored, in an order of its own (msr.c), and the versions of kvmclock's structures in guest memory. */
struct msr_saved {
    uint64_t reg[MSR_SAVED];
    uint32_t clock_version, wall_version;
};

/*
 * The vCPU does not run. load writes nothing to guest memory, where the clock's structures are as they were saved;
 * -EINVAL when a value is not one that the guest could have written, and nothing has changed.
 */
void msr_save(const struct msr_state *ms, struct msr_saved *s);
int msr_load(struct msr_state *ms, const struct msr_saved *s);

#endif
