/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/commands_limit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/machine.h"

#define DISK "disk"
#define NET  "net"

/* The limits of a disk in the order of enum block_limit, then those of a card. */
enum { RATE_IN = BLOCK_LIMITS, RATE_OUT, BURST, WORDS };

const struct proto_arg control_limit_args[] = {{"iops", PROTO_INT, false},
                                               {"iops_rd", PROTO_INT, false},
                                               {"iops_wr", PROTO_INT, false},
                                               {"bps", PROTO_INT, false},
                                               {"bps_rd", PROTO_INT, false},
                                               {"bps_wr", PROTO_INT, false},
                                               {"rate_in", PROTO_INT, false},
                                               {"rate_out", PROTO_INT, false},
                                               {"burst", PROTO_INT, false},
                                               {"device", PROTO_STRING, true},
                                               {.name = NULL}};

/* The number behind the kind; false: it is no device of that kind. */
static bool is_device(const char *device, const char *kind, unsigned *n)
{
    const char *digits = device + strlen(kind);

    if (strncmp(device, kind, strlen(kind)) || !*digits || strlen(digits) > 2 ||
        strspn(digits, "0123456789") != strlen(digits))
        return false;
    *n = (unsigned)strtoul(digits, NULL, 10);
    return true;
}

/* Numbers that were not given are 0. Only those from `first` to before `end` may be there. */
static int read_words(const json_t *args, unsigned first, unsigned end, uint64_t word[WORDS],
                      struct err *err)
{
    for (unsigned i = 0; i < WORDS; i++) {
        const char *name = control_limit_args[i].name;
        json_t *value = json_object_get(args, name);
        json_int_t number = json_integer_value(value);

        if (value && (i < first || i >= end))
            return err_set(err, -EINVAL, "a %s has no limit '%s'", first ? "network card" : "disk",
                           name);
        if (number < 0)
            return err_set(err, -ERANGE, "the limit '%s' is less than nothing", name);
        word[i] = (uint64_t)number;
    }
    return 0;
}

int control_limit(struct control_call *call, struct err *err)
{
    const char *device = json_string_value(json_object_get(call->args, "device"));
    struct vm *vm = call->cfg->vm;
    uint64_t word[WORDS];
    unsigned n;
    int r;

    if (is_device(device, DISK, &n)) {
        r = read_words(call->args, 0, BLOCK_LIMITS, word, err);
        return r ? r : machine_disk_set_limits(vm, n, word, err);
    }
    if (is_device(device, NET, &n)) {
        r = read_words(call->args, BLOCK_LIMITS, WORDS, word, err);
        return r ? r
                 : machine_net_set_rates(
                       vm, n,
                       &(struct net_rates){
                           .rate = {[NET_IN] = word[RATE_IN], [NET_OUT] = word[RATE_OUT]},
                           .burst = word[BURST]},
                       err);
    }
    err_set(err, -EINVAL, "there is no device '%.40s' that has limits", device);
    return err_next(err, "Disks are disk0, disk1 and so on, network cards net0 and so on.");
}

static int add(json_t *limits, const char *kind, unsigned n, const uint64_t word[WORDS])
{
    json_t *o = json_object();
    char device[16];
    int r = 0;

    snprintf(device, sizeof(device), "%s%u", kind, n);
    for (unsigned i = 0; i < WORDS; i++)
        if (word[i])
            r |= json_object_set_new(
                o, control_limit_args[i].name,
                json_integer(word[i] > INT64_MAX ? INT64_MAX : (json_int_t)word[i]));
    if (!json_object_size(o)) {
        json_decref(o);
        return r;
    }
    return r | json_object_set_new(limits, device, o);
}

json_t *control_limits(struct vm *vm)
{
    json_t *limits = json_object();
    struct net_rates rates;
    int r = limits ? 0 : -1;

    for (unsigned n = 0; n < VM_MAX_DISKS; n++) {
        uint64_t word[WORDS] = {0};

        if (!machine_disk_limits(vm, n, word))
            r |= add(limits, DISK, n, word);
    }
    for (unsigned n = 0; !machine_net_rates(vm, n, &rates); n++) {
        const uint64_t word[WORDS] = {[RATE_IN] = rates.rate[NET_IN],
                                      [RATE_OUT] = rates.rate[NET_OUT],
                                      [BURST] = rates.burst};

        r |= add(limits, NET, n, word);
    }
    if (!r)
        return limits;
    json_decref(limits);
    return NULL;
}
