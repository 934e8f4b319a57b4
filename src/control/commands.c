/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a guest can be asked through its control socket: docs/control.md has each. */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "control/control.h"
#include "core/machine.h"
#include "core/vm.h"
#include "engine/engine.h"

static const struct proto_arg console_args[] = {
    {"replay", PROTO_BOOL, false}, {"input", PROTO_BOOL, false}, {NULL}};

static int do_commands(struct control_call *call, struct err *err)
{
    json_t *names = json_array();

    for (const struct control_command *c = control_commands; c->name; c++)
        json_array_append_new(names, json_string(c->name));
    return json_object_set_new(call->result, "commands", names)
               ? err_set(err, -ENOMEM, "no memory for the answer")
               : 0;
}

static const char *state_name(const struct vm *vm)
{
    if (vm_is_paused(vm))
        return "paused";
    return atomic_load(&vm->pause) ? "pausing" : "running";
}

static int do_status(struct control_call *call, struct err *err)
{
    const struct vm *vm = call->cfg->vm;
    double uptime = (double)clock_now_ns(&vm->clock) / 1e9;
    struct timespec now;
    json_t *o;
    int r;

    clock_gettime(CLOCK_REALTIME, &now);
    o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:I, s:I, s:f}", "name", vm->cfg.name, "pid",
                  (int)getpid(), "version", LODGE_VERSION, "state", state_name(vm), "engine",
                  vm->engine->name, "cpus", (int)vm->cfg.cpus, "memory", (json_int_t)vm->cfg.memory,
                  "started",
                  (json_int_t)((double)now.tv_sec + (double)now.tv_nsec / 1e9 - uptime + 0.5),
                  "uptime", uptime);
    r = o ? json_object_update(call->result, o) : -1;
    json_decref(o);
    return r ? err_set(err, -ENOMEM, "no memory for the answer") : 0;
}

static int do_powerdown(struct control_call *call, struct err *err)
{
    if (atomic_load(&call->cfg->vm->pause)) {
        err_set(err, -EBUSY, "the guest is paused and would not notice its power button");
        return err_next(err, "Let it go on first: lodge resume.");
    }
    machine_power_button(call->cfg->vm);
    return 0;
}

static int do_quit(struct control_call *call, struct err *err)
{
    call->cfg->quit(call->cfg->opaque);
    return 0;
}

static int do_pause(struct control_call *call, struct err *err)
{
    vm_pause(call->cfg->vm, true);
    return 0;
}

static int do_resume(struct control_call *call, struct err *err)
{
    vm_pause(call->cfg->vm, false);
    return 0;
}

static int do_console(struct control_call *call, struct err *err)
{
    if (!call->cfg->console) {
        err_set(err, -ENOTTY, "the guest has no console: it was started with --console none");
        return -ENOTTY;
    }
    call->console = true;
    call->replay = proto_arg_bool(call->args, "replay", true);
    call->input = proto_arg_bool(call->args, "input", true);
    return 0;
}

const struct control_command control_commands[] = {
    {"commands", NULL, do_commands},
    {"status", NULL, do_status},
    {"powerdown", NULL, do_powerdown},
    {"quit", NULL, do_quit},
    {"pause", NULL, do_pause},
    {"resume", NULL, do_resume},
    {"console", console_args, do_console},
    {NULL},
};
