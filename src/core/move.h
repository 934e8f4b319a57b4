/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest's change of engine. */
#ifndef LODGE_CORE_MOVE_H
#define LODGE_CORE_MOVE_H

#include "core/vm.h"

/*
 * Give the guest to engine `to`, memory, devices and clock staying where they
 * are. No vCPU runs; none may be waiting for an INIT or SIPI on its way. When
 * it fails the VM cannot go on and can only be freed. A guest that is to
 * survive it needs a CPU model that both engines give: vm_config.cpu.
 */
int vm_move(struct vm *vm, const struct engine_ops *to, struct err *err);

#endif
