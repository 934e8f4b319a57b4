/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Holds a guest to a share of the host's CPU time where no control group does: a thread looks at the time that the whole
 * process has used, and while that is more than the share, the vCPUs rest. They are out of the engine then and wait for the
 * VM's condition variable, so that a pause, a call, a stop and a reset take no longer than otherwise. Guest time goes on, as
 * for a processor that the host gives to others. What devices' threads do is counted, and not held up.
 */
#ifndef LODGE_CORE_PACE_H
#define LODGE_CORE_PACE_H

#include "base/types.h"

struct vm;

#define PACE_MAX 100000 /* percent */

struct pace_use {
    unsigned percent;   /* of one CPU, 0: no limit */
    uint64_t rested_ns; /* for how long vCPUs have rested in all */
};

/* vm->pace, with no limit and no thread. -ENOMEM. vm_new and vm_free call these; nobody else uses the VM any more then. */
int pace_new(struct vm *vm);
void pace_free(struct vm *vm);

/*
 * From now on at most so much CPU time, in percent of one CPU; 0: as much as there is. Any thread but a vCPU's, before
 * vm_run and during it; returns at once. A negative errno when there can be no thread for it: the limit is as before then.
 */
int pace_set(struct vm *vm, unsigned percent);
void pace_get(struct vm *vm, struct pace_use *use);

/* For a vCPU's thread that is out of the engine: rest, if it is time, until that is over or the session stops. */
void pace_rest(struct vm *vm);

#endif
