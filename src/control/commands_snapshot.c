/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/commands_snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/memcopy.h"
#include "core/snapshot_take.h"

const struct proto_arg control_snapshot_args[] = {{"directory", PROTO_STRING, true},
                                                  {"overlays", PROTO_STRING, false},
                                                  {"meta", PROTO_STRING, true},
                                                  {"definition", PROTO_STRING, true},
                                                  {NULL}};

static const char *text_of(const struct control_call *call, const char *name)
{
    return json_string_value(json_object_get(call->args, name));
}

/* A line a disk, empty for one that is not to change. The text is cut into its lines. */
static int overlays_take(struct snapshot_take *t, char *text, struct err *err)
{
    unsigned n = 0;

    for (char *line = text; line; n++) {
        char *end = strchr(line, '\n');

        if (end)
            *end++ = '\0';
        if (*line && n >= VM_MAX_DISKS)
            return err_set(err, -EINVAL, "a guest has at most %d disks", VM_MAX_DISKS);
        if (*line)
            t->overlay[n] = line;
        line = end;
    }
    return 0;
}

static int answer(struct control_call *call, const struct snapshot_take *t, struct err *err)
{
    return json_object_set_new(call->result, "stopped", json_real((double)t->stopped_ns / 1e9))
               ? err_set(err, -ENOMEM, "no memory for the answer")
               : 0;
}

int control_snapshot(struct control_call *call, struct err *err)
{
    const char *overlays = text_of(call, "overlays");
    struct snapshot_take t = {
        .dir = text_of(call, "directory"),
        .files = 2,
        .file = {{CONTROL_META, text_of(call, "meta")},
                 {CONTROL_DEFINITION, text_of(call, "definition")}},
        .cancel = &call->gone,
    };
    char *copy = strdup(overlays ? overlays : "");
    int r = copy ? 0 : err_set(err, -ENOMEM, "no memory for a snapshot");

    if (!r && t.dir[0] != '/')
        r = err_set(err, -EINVAL, "the snapshot's directory has to be an absolute path");
    if (!r)
        r = overlays_take(&t, copy, err);
    if (!r)
        r = snapshot_take(call->cfg->vm, &t, err);
    if (!r)
        r = answer(call, &t, err);
    free(copy);
    return r;
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
