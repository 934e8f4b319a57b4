/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/commands_usage.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "core/machine.h"
#include "core/pace.h"
#include "core/vm.h"

/* All there are, in their order, by these names of the four numbers. */
static json_t *traffic_list(struct vm *vm,
                            bool (*get)(struct vm *vm, unsigned n, struct traffic *t),
                            const char *const name[4])
{
    json_t *list = json_array();
    struct traffic t;

    for (unsigned n = 0; list && get(vm, n, &t); n++)
        json_array_append_new(list,
                              json_pack("{s:I, s:I, s:I, s:I}", name[0], (json_int_t)t.in_count,
                                        name[1], (json_int_t)t.in_bytes, name[2],
                                        (json_int_t)t.out_count, name[3], (json_int_t)t.out_bytes));
    return list;
}

static int put_pace(json_t *result, const struct pace_use *pace)
{
    return json_object_set_new(result, "cap", json_integer(pace->percent)) |
           json_object_set_new(result, "rested", json_real((double)pace->rested_ns / 1e9));
}

int control_usage(struct control_call *call, struct err *err)
{
    static const char *const disk[4] = {"reads", "read_bytes", "writes", "written_bytes"};
    static const char *const net[4] = {"received", "received_bytes", "sent", "sent_bytes"};
    struct vm *vm = call->cfg->vm;
    struct rusage ru = {0};
    struct pace_use pace;
    double user, sys;
    json_t *o;
    int r;

    getrusage(RUSAGE_SELF, &ru);
    user = (double)ru.ru_utime.tv_sec + (double)ru.ru_utime.tv_usec / 1e6;
    sys = (double)ru.ru_stime.tv_sec + (double)ru.ru_stime.tv_usec / 1e6;
    o = json_pack("{s:f, s:f, s:f, s:o*, s:o*}", "uptime", (double)clock_now_ns(&vm->clock) / 1e9,
                  "user", user, "system", sys, "disks",
                  traffic_list(vm, machine_disk_traffic, disk), "nets",
                  traffic_list(vm, machine_net_traffic, net));
    r = o ? json_object_update(call->result, o) : -1;
    json_decref(o);
    pace_get(vm, &pace);
    if (!r && pace.percent)
        r = put_pace(call->result, &pace);
    return r ? err_set(err, -ENOMEM, "no memory for the answer") : 0;
}

const struct proto_arg control_cap_args[] = {{"percent", PROTO_INT, true}, {NULL}};

int control_cap(struct control_call *call, struct err *err)
{
    json_int_t percent = json_integer_value(json_object_get(call->args, "percent"));
    int r;

    if (percent < 0 || percent > PACE_MAX) {
        err_set(err, -ERANGE, "a guest can't be held to %" JSON_INTEGER_FORMAT " percent of a CPU",
                percent);
        return err_next(err, "It can be to 1 at least and %d at most; 0 is no limit.", PACE_MAX);
    }
    r = pace_set(call->cfg->vm, (unsigned)percent);
    return r ? err_set(err, r, "the guest's process cannot hold it to its share: %s", strerror(-r))
             : 0;
}
