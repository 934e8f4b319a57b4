/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 82093AA I/O APIC, 24 pins, version 0x20 with directed EOI. Delivers through lapic_msi. */
#ifndef LODGE_X86_IOAPIC_H
#define LODGE_X86_IOAPIC_H

#include "core/irq.h"
#include "core/vm.h"

struct ioapic;
struct ioapic_state;

int ioapic_new(struct ioapic **ioapic, struct vm *vm,
               struct err *err); /* maps itself at MMIO_IOAPIC */
void ioapic_free(struct ioapic *ioapic);
void ioapic_reset(struct ioapic *ioapic);
void ioapic_save(struct ioapic *ioapic, struct ioapic_state *s);
void ioapic_load(struct ioapic *ioapic,
                 const struct ioapic_state *s); /* level pins may be delivered at once */
struct irq_line ioapic_pin(struct ioapic *ioapic, unsigned pin);
void ioapic_eoi(void *ioapic, uint8_t vector); /* for lapic_set_eoi_handler */

#endif
