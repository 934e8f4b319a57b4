/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/limit_opts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DISK "disk"
#define NET  "net"

/* False: a device is disk0, disk1, net0 and so on. */
static bool parse_device(const char *val, struct run_limit *l)
{
    const char *digits = val + strcspn(val, "0123456789,");
    size_t kind = (size_t)(digits - val), len = strspn(digits, "0123456789");

    l->net = kind == strlen(NET) && !strncmp(val, NET, kind);
    if (!l->net && (kind != strlen(DISK) || strncmp(val, DISK, kind)))
        return false;
    if (!len || len > 2 || (digits[0] == '0' && len > 1) || (digits[len] && digits[len] != ','))
        return false;
    l->n = (unsigned)strtoul(digits, NULL, 10);
    return l->n < (l->net ? VM_MAX_NETS : VM_MAX_DISKS);
}

static int parse_word(struct run_limit *l, char *word, struct err *err)
{
    char *value = strchr(word, '=');
    int r;

    if (value)
        *value++ = '\0';
    r = !value   ? 1
        : l->net ? net_rate_word(&l->rates, word, value, err)
                 : disk_limit_word(l->limit, word, value, err);
    if (r <= 0)
        return r;
    err_set(err, -EINVAL, "a %s has no limit '%s'", l->net ? "network card" : "disk", word);
    return err_next(err, l->net ? "It has rate, rate_in, rate_out and burst, as in net0,rate=20M."
                                : "It has iops, iops_rd, iops_wr, bps, bps_rd and bps_wr, as in "
                                  "disk0,iops=500,bps=20M.");
}

static int parse_words(struct run_limit *l, char *words, struct err *err)
{
    char *rest = NULL;
    int r = 0;

    if (!strcmp(words, "none"))
        return 0;
    for (char *word = strtok_r(words, ",", &rest); !r && word; word = strtok_r(NULL, ",", &rest))
        r = parse_word(l, word, err);
    return r ? r : net_rates_check(&l->rates, err);
}

static struct run_limit *place_of(struct run_limits *limits, const struct run_limit *l)
{
    for (unsigned i = 0; i < limits->count; i++)
        if (limits->list[i].net == l->net && limits->list[i].n == l->n)
            return &limits->list[i];
    return &limits->list[limits->count++];
}

int opt_limit(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    const char *comma = strchr(val, ',');
    struct run_limit l = {0};
    char *words;
    int r;

    if (!parse_device(val, &l) || !comma || !comma[1]) {
        err_set(err, -EINVAL, "--limit takes a device and its limits, not '%.80s'", val);
        return err_next(err, "Write it like disk0,iops=500,bps=20M or net0,rate=20M or disk0,none; "
                             "devices are counted from 0.");
    }
    words = strdup(comma + 1);
    if (!words)
        return err_set(err, -EINVAL, "no memory for --limit");
    r = parse_words(&l, words, err);
    free(words);
    if (!r)
        *place_of(field, &l) = l;
    return r;
}

bool same_limit(const char *a, const char *b)
{
    size_t len = strcspn(a, ",");

    return len == strcspn(b, ",") && !strncmp(a, b, len);
}

int limits_check(const struct run_limits *limits, unsigned disks, unsigned nets, struct err *err)
{
    for (unsigned i = 0; i < limits->count; i++) {
        const struct run_limit *l = &limits->list[i];
        unsigned there = l->net ? nets : disks;

        if (l->n < there)
            continue;
        err_set(err, -EINVAL, "--limit %s%u: the guest has %u %s", l->net ? NET : DISK, l->n, there,
                l->net ? "network cards" : "disks");
        return err_next(err, "Devices are counted from 0, in the order of their options.");
    }
    return 0;
}

void limits_apply(const struct run_limits *limits, struct vm_disk *disk, struct vm_net *net)
{
    for (unsigned i = 0; i < limits->count; i++) {
        const struct run_limit *l = &limits->list[i];

        if (l->net)
            net[l->n].rates = l->rates;
        else
            memcpy(disk[l->n].image.limit, l->limit, sizeof(l->limit));
    }
}

json_t *limit_arguments(const struct run_limit *l)
{
    json_t *args = json_pack("{s:o}", "device", json_sprintf("%s%u", l->net ? NET : DISK, l->n));
    int r = args ? 0 : -1;

    for (unsigned i = 0; !l->net && i < BLOCK_LIMITS; i++)
        if (l->limit[i])
            r |= json_object_set_new(args, disk_limit_name(i),
                                     json_integer((json_int_t)l->limit[i]));
    if (l->net)
        r |= json_object_set_new(args, "rate_in", json_integer((json_int_t)l->rates.rate[NET_IN])) |
             json_object_set_new(args, "rate_out",
                                 json_integer((json_int_t)l->rates.rate[NET_OUT])) |
             json_object_set_new(args, "burst", json_integer((json_int_t)l->rates.burst));
    if (!r)
        return args;
    json_decref(args);
    return NULL;
}
