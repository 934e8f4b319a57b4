/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Our own timers follow the clock. Those inside an engine do not, so its controllers and CPUs are given their state anew
 * when time goes on, which sets their timers by what was left of them.
 */
#include "core/still.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "core/ioevent.h"
#include "core/machine.h"
#include "engine/engine.h"

struct still {
    bool kept; /* what follows counts */
    struct machine_chips chips;
    struct x86_state *cpus;
};

static void still_free(struct still *s)
{
    if (s)
        free(s->cpus);
    free(s);
}

/* Lines are noted from here on. */
static int keep(struct vm *vm, struct still *s, struct err *err)
{
    int rc;

    s->cpus = aligned_alloc(_Alignof(struct x86_state), vm->cfg.cpus * sizeof(*s->cpus));
    if (!s->cpus)
        return err_set(err, -ENOMEM, "no memory for the guest's state");
    ioevents_pause(vm);
    machine_lines_hold(vm);
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        vm->engine->get(&vm->vcpus[i], &s->cpus[i]);
    rc = machine_chips_copy(vm, &s->chips, err);
    if (rc < 0) {
        machine_lines_release(vm, &s->chips);
        ioevents_resume(vm, true);
    }
    return rc;
}

struct still *still_begin(struct vm *vm)
{
    struct still *s = calloc(1, sizeof(*s));
    struct err err = {0};

    clock_stop(&vm->clock);
    if (s && vm->engine->irqchip)
        s->kept = !keep(vm, s, &err);
    if (s && s->kept == (vm->engine->irqchip != NULL))
        return s;
    clock_go(&vm->clock);
    still_free(s);
    log_once(LOG_WARN, "the guest's time runs on while it is paused: %s",
             err.code ? err.what : "no memory");
    return NULL;
}

void still_end(struct vm *vm, struct still *s)
{
    struct err err = {0};

    if (!s)
        return;
    clock_go(&vm->clock);
    if (s->kept) {
        for (unsigned i = 0; i < vm->cfg.cpus; i++)
            if (vm_set_cpu(vm, i, &s->cpus[i], &err) < 0)
                log_error("%s", err.what);
        if (machine_chips_give(vm, &s->chips, &err) < 0)
            log_error("%s", err.what);
        ioevents_resume(vm, true);
    }
    still_free(s);
}
