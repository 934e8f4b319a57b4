/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/move.h"

#include <errno.h>
#include <stdlib.h>

#include "core/dirty.h"
#include "core/ioevent.h"
#include "core/machine.h"
#include "core/memcopy.h"
#include "engine/engine.h"

struct moved {
    struct machine_chips chips;
    struct x86_state *cpus;
};

static int move_out(struct vm *vm, struct moved *s, struct err *err)
{
    int rc;

    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        vm->engine->get(&vm->vcpus[i], &s->cpus[i]);
    rc = machine_chips_take(vm, &s->chips, err);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        vm->engine->vcpu_fini(&vm->vcpus[i]);
    vm->engine->vm_fini(vm);
    return 0;
}

static int move_in(struct vm *vm, struct moved *s, struct err *err)
{
    int rc = vm->engine->vm_init(vm, err);

    for (unsigned i = 0; !rc && i < vm->cfg.cpus; i++)
        rc = vm->engine->vcpu_init(&vm->vcpus[i], err);
    if (!rc)
        rc = machine_chips_make(vm, err);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; !rc && i < vm->cfg.cpus; i++)
        rc = vm_set_cpu(vm, i, &s->cpus[i], err);
    return rc ? rc : machine_chips_give(vm, &s->chips, err);
}

int vm_move(struct vm *vm, const struct engine_ops *to, struct err *err)
{
    struct moved *s = calloc(1, sizeof(*s));
    int rc = -ENOMEM;

    if (s)
        s->cpus = aligned_alloc(_Alignof(struct x86_state), vm->cfg.cpus * sizeof(*s->cpus));
    if (!s || !s->cpus) {
        err_set(err, rc, "no memory for the guest's state");
    } else {
        /* Devices tell the engine of what they write to memory. After a failure they stay as they are. */
        machine_pause(vm);
        ioevents_pause(vm);
        memcopy_finish(vm);
        vm_dirty_leave(vm);
        /* The next engine may not announce writes, or the last one has not. */
        if (vm->mem.base.private == !to->arm)
            rc = 0;
        else
            rc = mem_make_whole(&vm->mem, err);
        if (!rc)
            rc = move_out(vm, s, err);
        if (!rc) {
            vm->engine = to;
            rc = move_in(vm, s, err);
        }
        if (!rc)
            vm_dirty_enter(vm);
        ioevents_resume(vm, !rc);
        if (!rc)
            machine_resume(vm);
    }
    if (s)
        free(s->cpus);
    free(s);
    return rc;
}
