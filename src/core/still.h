/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The time of a guest that is paused stands still, too. */
#ifndef LODGE_CORE_STILL_H
#define LODGE_CORE_STILL_H

#include "core/vm.h"

struct still;

/*
 * Stop guest time, TSC and timers, an engine's own included, until still_end. No vCPU runs and the machine is paused
 * meanwhile, and nothing but still_end is done to the VM. NULL: it could not be done (a message has been logged), and
 * time runs on.
 */
struct still *still_begin(struct vm *vm);
void still_end(struct vm *vm, struct still *still); /* NULL: nothing */

#endif
