/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PC around the vCPUs: interrupt controllers, timers, clock, power management, serial port. */
#ifndef LODGE_CORE_MACHINE_H
#define LODGE_CORE_MACHINE_H

#include "core/vm.h"

/*
 * Build every part and wire it to vm's buses, clock and vCPUs; sets vm->machine and each vCPU's msrs and, unless the
 * engine has interrupt controllers of its own, lapic.
 * The engine must be able to take vcpu_post by then. On failure nothing is held.
 */
int machine_new(struct vm *vm, struct err *err);
void machine_free(struct vm *vm); /* idempotent */

/* Hardware reset of every part; no vCPU runs. */
void machine_reset(struct vm *vm);

/* Deliver a device's message-signalled interrupt to the VM's APICs, wherever they are. Any thread. */
void machine_msi(struct vm *vm, uint64_t addr, uint32_t data);

#endif
