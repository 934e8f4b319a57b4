/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Local APIC, xAPIC and x2APIC (Intel SDM volume 3 chapter 10), one a vCPU,
 * with LVT timer in one-shot, periodic and TSC-deadline mode.
 */
#ifndef LODGE_X86_LAPIC_H
#define LODGE_X86_LAPIC_H

#include "core/irq.h"
#include "core/vcpu.h"
#include "core/vm.h"

struct lapic;
struct lapic_state;
struct pic;

/* IPIs and device messages reach the APICs of vm->vcpus[]; `pic` answers ExtINT on the boot CPU (may be NULL). */
int lapic_new(struct lapic **lapic, struct vcpu *vcpu, struct pic *pic, struct err *err);
void lapic_free(struct lapic *lapic);
void lapic_reset(struct lapic *lapic); /* RESET# */
void lapic_init(struct lapic *lapic);  /* INIT: keeps the APIC ID and base */

/* The whole state (x86/chips.h); the vCPU does not run. */
void lapic_save(struct lapic *lapic, struct lapic_state *s);
void lapic_load(struct lapic *lapic, const struct lapic_state *s);

/* See vcpu_intr_pending and vcpu_intr_ack. pending is lock-free and cheap: called before every entry to guest code. */
int lapic_pending(struct lapic *lapic);
int lapic_ack(struct lapic *lapic);
uint64_t lapic_get_cr8(struct lapic *lapic);
void lapic_set_cr8(struct lapic *lapic, uint64_t cr8);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE and 0x800..0x8ff. 0, or -1: #GP (also when not ours: see lapic_has_msr). */
bool lapic_has_msr(uint32_t msr);
int lapic_msr_read(struct lapic *lapic, uint32_t msr, uint64_t *val);
int lapic_msr_write(struct lapic *lapic, uint32_t msr, uint64_t val);

/* Has the guest left it on in IA32_APIC_BASE? CPUID shows no APIC otherwise (SDM 10.4.3). */
bool lapic_is_on(const struct lapic *lapic);

/* MMIO page. claims: is gpa in this APIC's enabled xAPIC page? */
bool lapic_claims(const struct lapic *lapic, gpa_t gpa);
uint64_t lapic_mmio_read(struct lapic *lapic, uint64_t off, unsigned size);
void lapic_mmio_write(struct lapic *lapic, uint64_t off, unsigned size, uint64_t val);

/* Deliver an interrupt message in MSI form (address 0xfeexxxxx; SDM 10.11) to the VM's APICs. Any thread. */
void lapic_msi(struct vm *vm, uint64_t addr, uint32_t data);

/* PV send-IPI hypercall (KVM_HC_SEND_IPI): bitmap of APIC IDs from `min`, ICR low word. Returns the number of targets. */
long lapic_pv_ipi(struct vm *vm, uint64_t lo, uint64_t hi, uint32_t min, uint32_t icr);

/* The 8259 pair's INT output, wired to LINT0 of the boot CPU. */
struct irq_line lapic_lint0(struct lapic *lapic);

/* EOI of a level-triggered vector is broadcast to this. */
void lapic_set_eoi_handler(struct lapic *lapic, void (*fn)(void *opaque, uint8_t vector),
                           void *opaque);

#endif
