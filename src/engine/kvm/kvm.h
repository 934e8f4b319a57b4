/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The KVM engine's own state. Nobody outside src/engine/kvm includes this. */
#ifndef LODGE_ENGINE_KVM_KVM_H
#define LODGE_ENGINE_KVM_KVM_H

#include <linux/kvm.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "engine/engine.h"

/* Three pages and one that KVM needs on older Intel processors, in the gap below 4 GiB where the machine has nothing. */
#define KVM_TSS_ADDR      0xfffbd000ull
#define KVM_IDENTITY_ADDR 0xfffbc000ull

#define KVM_MSI_GSI 64 /* above the pins of the I/O APIC */
#define KVM_CHIPS   3  /* KVM_IRQCHIP_PIC_MASTER, _SLAVE, _IOAPIC */

struct kvm_msi_route {
    bool used;
    uint64_t addr;
    uint32_t data;
};

struct kvm_irqfd_slot {
    bool on;
    unsigned gsi;
    struct kvm_msi_route msi; /* of GSI KVM_MSI_GSI and the slot's number */
};

struct kvm_vm {
    int dev, fd;
    size_t run_size;                    /* of a vCPU's shared page(s) */
    struct kvm_cpuid2 *supported;       /* what KVM_GET_SUPPORTED_CPUID says */
    struct kvm_irqchip chip[KVM_CHIPS]; /* as after RESET */
    struct kvm_pit_state2 pit;
    struct kvm_irqfd_slot *irqfd; /* IRQEVENT_MAX, once there is one */
    unsigned msis;                /* one more than the last slot with a message */
};

#define KVM_EXIT_COUNTERS(X)                                                                       \
    X(pio, "port I/O exits")                                                                       \
    X(mmio, "memory-mapped I/O exits")                                                             \
    X(msr, "MSR exits")                                                                            \
    X(kick, "exits asked for by other threads")                                                    \
    X(other, "other exits")

struct kvm_counters {
#define X(name, text) uint64_t name;
    KVM_EXIT_COUNTERS(X)
#undef X
};

struct kvm_cpu {
    struct vcpu *vcpu;
    int fd;
    struct kvm_run *run;
    _Atomic pid_t tid;            /* the thread inside run(), 0: none */
    struct kvm_lapic_state lapic; /* as after RESET */
    uint64_t apic_base;
    struct kvm_counters counters;
};

static inline struct kvm_vm *kvm_of(struct vm *vm)
{
    return vm->engine_data;
}

/* irqchip.c */
extern const struct irqchip_ops kvm_irqchip;
int kvm_irqchip_init(struct vm *vm, struct err *err); /* before the vCPUs are made */
int kvm_irqchip_vcpu_init(struct vcpu *vcpu,
                          struct err *err); /* remembers the local APIC's reset state */

/* cpuid.c: give the vCPU its CPUID. */
int kvm_cpuid_set(struct vcpu *vcpu, struct err *err);

/* state.c: engine_ops.get and .set */
void kvm_get(struct vcpu *vcpu, struct x86_state *st);
int kvm_set(struct vcpu *vcpu, const struct x86_state *st);
bool kvm_msr_put(struct kvm_cpu *c, uint32_t index, uint64_t val); /* false: KVM does not take it */
bool kvm_msr_take(struct kvm_cpu *c, uint32_t index, uint64_t *val);

/* run.c: engine_ops.run and .kick */
enum vcpu_exit_reason kvm_run_vcpu(struct vcpu *vcpu);
void kvm_kick(struct vcpu *vcpu);

#endif
