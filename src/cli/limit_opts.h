/* SPDX-License-Identifier: GPL-2.0-or-later */
/* --limit of `lodge run` and `lodge set`: what disks and network cards may do in a second. */
#ifndef LODGE_CLI_LIMIT_OPTS_H
#define LODGE_CLI_LIMIT_OPTS_H

#include <jansson.h>

#include "cli/disk_opts.h"
#include "cli/net_opts.h"

/* All limits of a device: what is not named has none. */
struct run_limit {
    bool net; /* else a disk */
    unsigned n;
    uint64_t limit[BLOCK_LIMITS]; /* of a disk */
    struct net_rates rates;       /* of a card */
};

struct run_limits {
    unsigned count; /* one a device */
    struct run_limit list[VM_MAX_DISKS + VM_MAX_NETS];
};

/* opt_desc.parse: DEVICE,WORD=VALUE[,WORD=VALUE]... or DEVICE,none; field is a struct run_limits. */
int opt_limit(const struct opt_desc *opt, const char *val, void *field, struct err *err);

/* opt_desc.same: are both about one device? */
bool same_limit(const char *a, const char *b);

/* The option for a struct run_limits at `at` of the caller's structure. */
/* clang-format off */
#define LIMIT_OPTION(at)                                                                           \
    {.name = "limit",                                                                              \
     .arg = "DEVICE,WORD=VALUE...|DEVICE,none",                                                    \
     .parse = opt_limit,                                                                           \
     .many = true,                                                                                 \
     .same = same_limit,                                                                           \
     .field = (at),                                                                                \
     .help = "what a disk (disk0...) or network card (net0...) may do\nin a second, like " \
             "disk0,iops=500,bps=20M or\nnet0,rate=20M; may be repeated"}
/* clang-format on */

/* -EINVAL when one is about a device beyond so many disks and cards. */
int limits_check(const struct run_limits *limits, unsigned disks, unsigned nets, struct err *err);

/* In place of those in the options of the devices, all of which are there. */
void limits_apply(const struct run_limits *limits, struct vm_disk *disk, struct vm_net *net);

/* The arguments of the control socket's command `limit`; NULL without memory. */
json_t *limit_arguments(const struct run_limit *limit);

#endif
