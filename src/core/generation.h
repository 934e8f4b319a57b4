/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The VM generation ID (Microsoft, "Virtual Machine Generation ID"): 128 random bits in the guest's memory which are others
 * whenever the guest goes on as a copy of what it was before, so that it does not use the same random numbers twice. A reset
 * or a pause leaves them.
 */
#ifndef LODGE_CORE_GENERATION_H
#define LODGE_CORE_GENERATION_H

struct vm;

/* A first ID, for a new VM. A negative errno where the host gives no random numbers. */
int generation_init(struct vm *vm);

/* Put it where the ACPI tables say that it is: memory was cleared. The caller tells of it (vm_mem_written). No vCPU runs. */
int generation_place(struct vm *vm);

/* Another ID in that place, and the guest is told. No vCPU runs. After a failure the guest has not been told. */
int generation_change(struct vm *vm);

#endif
