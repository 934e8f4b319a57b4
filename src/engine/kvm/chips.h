/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Conversions between KVM's interrupt controller structures and the canonical ones (x86/chips.h); they call nothing. */
#ifndef LODGE_ENGINE_KVM_CHIPS_H
#define LODGE_ENGINE_KVM_CHIPS_H

#include <linux/kvm.h>

#include "x86/chips.h"

/* Registers only: base and deadline are MSRs to KVM. */
void kvm_lapic_from_state(const struct lapic_state *s, struct kvm_lapic_state *k);
void kvm_lapic_to_state(const struct kvm_lapic_state *k, struct lapic_state *s);

/* An interrupt taken from the APIC but not delivered yet is requested again. */
void kvm_lapic_unack(struct lapic_state *s, uint8_t vector);

void kvm_ioapic_from_state(const struct ioapic_state *s, struct kvm_ioapic_state *k);
void kvm_ioapic_to_state(const struct kvm_ioapic_state *k, struct ioapic_state *s);

void kvm_pic_from_state(const struct pic_chip_state *s, bool slave, struct kvm_pic_state *k);
void kvm_pic_to_state(const struct kvm_pic_state *k, struct pic_chip_state *s);

/* `now_ns` is the host's CLOCK_MONOTONIC, which KVM keeps the time of loading in. */
void kvm_pit_from_state(const struct pit_state *s, uint64_t now_ns, struct kvm_pit_state2 *k);
void kvm_pit_to_state(const struct kvm_pit_state2 *k, uint64_t now_ns, struct pit_state *s);

#endif
