/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state of a guest without its memory, as a file, and a guest that begins from one: docs/snapshot.md. */
#ifndef LODGE_CORE_SNAPSHOT_H
#define LODGE_CORE_SNAPSHOT_H

#include "core/vm.h"

/*
 * Write CPUs, interrupt controllers, clock and devices to the start of `fd`, an empty file. No vCPU runs, and the
 * machine is paused: what vm_request_call calls may do it. Nothing of the guest changes. Guest memory is as it belongs
 * to this state until the guest goes on. -EINVAL when a state cannot be saved, with the reason; after a failure what
 * is in `fd` is of no use.
 */
int vm_save(struct vm *vm, int fd, struct err *err);

/*
 * Make a VM that is new (vm_new), with the memory that belongs to it, what the saved state in cfg.origin says, in place
 * of loading a kernel; vm_run does it. Every value is checked before anything counts; a mismatch between the saved
 * guest's configuration and this one's is told by name. After a failure the VM can only be freed.
 */
int vm_restore(struct vm *vm, struct err *err);

#endif
