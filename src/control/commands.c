/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a guest can be asked through its control socket: docs/control.md has each. */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "control/commands_limit.h"
#include "control/commands_net.h"
#include "control/commands_snapshot.h"
#include "control/commands_usage.h"
#include "control/control.h"
#include "core/machine.h"
#include "core/vm.h"
#include "dev/virtio/balloon.h"
#include "engine/engine.h"

static const struct proto_arg console_args[] = {
    {"replay", PROTO_BOOL, false}, {"input", PROTO_BOOL, false}, {NULL}};

static const struct proto_arg balloon_args[] = {{"size", PROTO_INT, false}, {NULL}};

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
    struct vm *vm = call->cfg->vm;
    struct timespec now, mono;
    double uptime;
    json_t *o;
    int r;

    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    uptime =
        (double)(mono.tv_sec - vm->made.tv_sec) + (double)(mono.tv_nsec - vm->made.tv_nsec) / 1e9;
    o = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:I, s:I, s:f, s:I, s:s?, s:o}", "name",
                  vm->cfg.name, "pid", (int)getpid(), "version", LODGE_VERSION, "state",
                  state_name(vm), "engine", vm->engine->name, "cpus", (int)vm->cfg.cpus, "memory",
                  (json_int_t)vm->cfg.memory, "started",
                  (json_int_t)((double)now.tv_sec + (double)now.tv_nsec / 1e9 - uptime + 0.5),
                  "uptime", uptime, "resets", (json_int_t)atomic_load(&vm->resets), "sandbox",
                  call->cfg->sandbox, "limits", control_limits(vm));
    r = o ? json_object_update(call->result, o) : -1;
    json_decref(o);
    control_copying(call->cfg->vm, call->result);
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

static int not_kept(struct err *err)
{
    err_set(err, -ENOTSUP, "nothing is kept of the guest, so there is no place for its disks");
    return err_next(err, "lodge run --detach and lodge create make guests that are kept.");
}

static int do_overlay(struct control_call *call, struct err *err)
{
    return call->cfg->overlay ? call->cfg->overlay(call->cfg->opaque, call->result, err)
                              : not_kept(err);
}

static const struct proto_arg fork_args[] = {{"directory", PROTO_STRING, true}, {NULL}};

static int do_fork(struct control_call *call, struct err *err)
{
    const char *dir = json_string_value(json_object_get(call->args, "directory"));

    if (dir[0] != '/')
        return err_set(err, -EINVAL, "the fork's directory has to be an absolute path");
    return call->cfg->fork ? call->cfg->fork(call->cfg->opaque, dir, &call->gone, call->result, err)
                           : not_kept(err);
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

/* ---- The balloon -------------------------------------------------------------- */

/* A guest that is left less than that does nothing but look for memory. */
#define BALLOON_LEAST MIB(32)

static int balloon_find(struct control_call *call, struct virtio_balloon **b, struct err *err)
{
    *b = machine_balloon(call->cfg->vm);
    return *b ? 0
              : err_set(err, -ENODEV,
                        "the guest has no balloon: it was started with --balloon off");
}

static int balloon_set(const struct vm *vm, struct virtio_balloon *b, json_int_t size,
                       struct err *err)
{
    if (size < (json_int_t)BALLOON_LEAST || (uint64_t)size > vm->cfg.memory) {
        err_set(err, -ERANGE, "the guest can't have %" JSON_INTEGER_FORMAT " bytes of memory",
                size);
        return err_next(err,
                        "It can have 32 MiB at least, and %llu MiB, as it was started, at most.",
                        (unsigned long long)(vm->cfg.memory >> 20));
    }
    virtio_balloon_set_target(b, (uint32_t)((vm->cfg.memory - (uint64_t)size) / PAGE_SIZE));
    return 0;
}

static int do_balloon(struct control_call *call, struct err *err)
{
    const json_t *size = json_object_get(call->args, "size");
    const struct vm *vm = call->cfg->vm;
    struct virtio_balloon *b;
    int r = balloon_find(call, &b, err);
    uint64_t target, actual;

    if (!r && size)
        r = balloon_set(vm, b, json_integer_value(size), err);
    if (r)
        return r;
    target = (uint64_t)atomic_load(&b->target) * PAGE_SIZE;
    actual = (uint64_t)virtio_balloon_actual(b) * PAGE_SIZE;
    /* The driver may say anything. */
    actual = actual < vm->cfg.memory ? actual : vm->cfg.memory;
    r = json_object_set_new(call->result, "memory", json_integer((json_int_t)vm->cfg.memory)) |
        json_object_set_new(call->result, "target",
                            json_integer((json_int_t)(vm->cfg.memory - target))) |
        json_object_set_new(call->result, "actual",
                            json_integer((json_int_t)(vm->cfg.memory - actual))) |
        json_object_set_new(call->result, "given_back",
                            json_integer((json_int_t)atomic_load(&b->given_back)));
    return r ? err_set(err, -ENOMEM, "no memory for the answer") : 0;
}

static int do_stats(struct control_call *call, struct err *err)
{
    static const char *const names[BALLOON_STATS] = {
        [BALLOON_SWAP_IN] = "swap_in",
        [BALLOON_SWAP_OUT] = "swap_out",
        [BALLOON_MAJOR_FAULTS] = "major_faults",
        [BALLOON_MINOR_FAULTS] = "minor_faults",
        [BALLOON_FREE] = "free",
        [BALLOON_TOTAL] = "total",
        [BALLOON_AVAILABLE] = "available",
        [BALLOON_CACHES] = "caches",
        [BALLOON_HUGETLB_ALLOCATIONS] = "hugetlb_allocations",
        [BALLOON_HUGETLB_FAILURES] = "hugetlb_failures",
    };
    struct virtio_balloon_stats stats;
    struct virtio_balloon *b;
    struct timespec now;
    int r = balloon_find(call, &b, err);

    if (r)
        return r;
    virtio_balloon_get_stats(b, &stats);
    if (!stats.time)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    r = json_object_set_new(
        call->result, "age",
        json_real((double)now.tv_sec + (double)now.tv_nsec / 1e9 - (double)stats.time / 1e9));
    /* Numbers beyond what JSON's integers hold are a driver's nonsense. */
    for (unsigned i = 0; !r && i < BALLOON_STATS; i++)
        if (stats.known & 1u << i && stats.value[i] <= INT64_MAX)
            r = json_object_set_new(call->result, names[i],
                                    json_integer((json_int_t)stats.value[i]));
    return r ? err_set(err, -ENOMEM, "no memory for the answer") : 0;
}

const struct control_command control_commands[] = {
    {"commands", NULL, do_commands},
    {"status", NULL, do_status},
    {"powerdown", NULL, do_powerdown},
    {"quit", NULL, do_quit},
    {"pause", NULL, do_pause},
    {"resume", NULL, do_resume},
    {"console", console_args, do_console},
    {"balloon", balloon_args, do_balloon},
    {"stats", NULL, do_stats},
    {"overlay", NULL, .job = do_overlay},
    {"fork", fork_args, .job = do_fork},
    {"usage", NULL, control_usage},
    {"cap", control_cap_args, control_cap},
    {"limit", control_limit_args, control_limit},
    {"ports", NULL, control_ports},
    {"publish", control_publish_args, control_publish},
    {"unpublish", control_publish_args, control_unpublish},
    {"snapshot", control_snapshot_args, .job = control_snapshot},
    {NULL},
};
