/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/commands_usage.h"

#include <errno.h>
#include <sys/resource.h>

#include "core/machine.h"
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

int control_usage(struct control_call *call, struct err *err)
{
    static const char *const disk[4] = {"reads", "read_bytes", "writes", "written_bytes"};
    static const char *const net[4] = {"received", "received_bytes", "sent", "sent_bytes"};
    struct vm *vm = call->cfg->vm;
    struct rusage ru = {0};
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
    return r ? err_set(err, -ENOMEM, "no memory for the answer") : 0;
}
