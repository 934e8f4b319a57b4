/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Conversions between KVM's register structures and the canonical CPU state; they call nothing. */
#ifndef LODGE_ENGINE_KVM_CONVERT_H
#define LODGE_ENGINE_KVM_CONVERT_H

#include <linux/kvm.h>

#include "x86/state.h"

void kvm_regs_from_state(const struct x86_state *st, struct kvm_regs *r);
void kvm_regs_to_state(const struct kvm_regs *r, struct x86_state *st);

/* Leaves what the state does not hold alone: APIC base and CR8. */
void kvm_sregs_from_state(const struct x86_state *st, struct kvm_sregs *s);

/* After kvm_regs_to_state: needs RFLAGS. */
void kvm_sregs_to_state(const struct kvm_sregs *s, struct x86_state *st);

#endif
