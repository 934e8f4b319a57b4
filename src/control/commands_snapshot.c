/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/commands_snapshot.h"

#include <errno.h>

#include "core/memcopy.h"
#include "core/snapshot_take.h"

const struct proto_arg control_snapshot_args[] = {{"directory", PROTO_STRING, true},
                                                  {"meta", PROTO_STRING, true},
                                                  {"definition", PROTO_STRING, true},
                                                  {"end", PROTO_STRING, false},
                                                  {NULL}};

static const char *text_of(const struct control_call *call, const char *name)
{
    return json_string_value(json_object_get(call->args, name));
}

static int answer(struct control_call *call, const struct snapshot_take *t, struct err *err)
{
    return json_object_set_new(call->result, "stopped", json_real((double)t->stopped_ns / 1e9))
               ? err_set(err, -ENOMEM, "no memory for the answer")
               : 0;
}

int control_snapshot(struct control_call *call, struct err *err)
{
    struct snapshot_take t = {
        .dir = text_of(call, "directory"),
        .files = 2,
        .file = {{CONTROL_META, text_of(call, "meta")},
                 {CONTROL_DEFINITION, text_of(call, "definition")}},
        .as = text_of(call, "end"),
        .cancel = &call->gone,
    };
    int r = 0;

    if (t.dir[0] != '/' || (t.as && t.as[0] != '/'))
        r = err_set(err, -EINVAL, "the snapshot's directory has to be an absolute path");
    if (!r)
        r = call->cfg->snapshot(call->cfg->opaque, &t, call->result, err);
    return r ? r : answer(call, &t, err);
}

void control_copying(struct vm *vm, json_t *status)
{
    struct memcopy *copy;
    uint64_t done, all;
    enum memcopy_state state;

    /* Once there is one it stays until the VM is freed. */
    pthread_mutex_lock(&vm->lock);
    copy = vm->memcopy;
    pthread_mutex_unlock(&vm->lock);
    if (!copy)
        return;
    state = memcopy_poll(copy, &done, &all);
    if (state == MEMCOPY_PREPARING || state == MEMCOPY_PREPARED || state == MEMCOPY_COPYING)
        json_object_set_new(
            status, "copying",
            json_pack("{s:I, s:I}", "done", (json_int_t)done, "all", (json_int_t)all));
}
