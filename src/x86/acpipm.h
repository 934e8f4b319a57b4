/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ACPI fixed hardware: PM1a event and control blocks, PM timer, eight general-purpose events, the reset
 * register 0xcf9 and the keyboard controller's reset command. Power-off and
 * reset become vm_request().
 */
#ifndef LODGE_X86_ACPIPM_H
#define LODGE_X86_ACPIPM_H

#include "core/irq.h"
#include "core/vm.h"

struct acpipm;
struct acpipm_state;

int acpipm_new(struct acpipm **pm, struct vm *vm, struct irq_line sci,
               struct err *err); /* maps its ports */
void acpipm_free(struct acpipm *pm);
void acpipm_reset(struct acpipm *pm);

/* The whole state (x86/chips.h); no vCPU runs. Guest time goes on from where it was saved, and the timer with it. */
void acpipm_save(struct acpipm *pm, struct acpipm_state *s);
void acpipm_load(struct acpipm *pm, const struct acpipm_state *s);

/*
 * Ports 0xcf8 to 0xcfb belong to PCI but for accesses of the one byte at
 * 0xcf9: hand the others to `ops`, offsets from 0xcf8. NULL: to nobody. While
 * no vCPU runs.
 */
void acpipm_set_pci(struct acpipm *pm, const struct region_ops *ops, void *opaque);

/* The VM generation ID is another one; the guest gets GPE_GENERATION when it wants it. Any thread. */
void acpipm_generation(struct acpipm *pm);

void acpipm_power_button(struct acpipm *pm); /* any thread */

#endif
