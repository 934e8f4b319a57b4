/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of `lodge run` and what can be said about them before anything is built. */
#ifndef LODGE_CLI_RUN_H
#define LODGE_CLI_RUN_H

#include "base/err.h"
#include "base/types.h"
#include "cli/net_opts.h"
#include "core/vm.h"

/* --disk, as often as it is given; the strings are in `text`, which run_opts_fini frees. */
struct run_disks {
    unsigned count;
    struct vm_disk disk[VM_MAX_DISKS];
    char *text[VM_MAX_DISKS];
};

/* --port, likewise. */
struct run_ports {
    unsigned count;
    struct vm_port port[VM_MAX_PORTS];
    char *text[VM_MAX_PORTS];
};

struct run_opts {
    const char *name; /* NULL: not given */
    const char *engine, *cpu, *console;
    const char *kernel, *initrd, *append;
    unsigned cpus;
    uint64_t memory;
    int escape; /* control byte, -1: none */
    struct run_disks disks;
    struct run_ports ports;
    struct run_nets nets;
    struct run_publishes publishes;
    const char *rng, *balloon, *vsock;
    bool no_reboot, test_devices, stats, perf_map, quiet;
    char name_buf[32]; /* for a name that was not given */
};

/* Free what parsing has allocated. */
void run_opts_fini(struct run_opts *opts);

/* Fill in a name, round memory up to whole pages; -EINVAL for wrong usage. */
int run_opts_check(struct run_opts *opts, struct err *err);

#endif
