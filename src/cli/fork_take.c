/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/log.h"
#include "cli/fork.h"
#include "core/snapshot_take.h"

static int switch_disks(void *opaque, struct vm *vm, struct err *err)
{
    return layers_switch(opaque, vm, err);
}

int fork_take(struct layers *l, struct vm *vm, const char *dir, const _Atomic bool *cancel,
              json_t *result, struct err *err)
{
    struct layers_change change = {0};
    struct snapshot_take take = {
        .dir = dir, .disks = switch_disks, .opaque = &change, .transient = true, .cancel = cancel};
    struct err more = {0};
    int r = layers_begin(l, vm->cfg.disk, vm->cfg.disks, &change, err);

    if (r)
        return r;
    r = snapshot_take(vm, &take, err);
    if (!r)
        r = layers_describe(&change, result, err);
    if (!r)
        json_object_set_new(result, "stopped", json_real((double)take.stopped_ns / 1e9));
    if (layers_end(&change, &more))
        log_warn("%s", more.what);
    layers_change_fini(&change);
    return r;
}
