/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of `lodge run` and what can be said about them before anything is built. */
#ifndef LODGE_CLI_RUN_H
#define LODGE_CLI_RUN_H

#include "base/err.h"
#include "base/types.h"

struct run_opts {
    const char *name; /* NULL: not given */
    const char *engine, *cpu, *console;
    const char *kernel, *initrd, *append;
    unsigned cpus;
    uint64_t memory;
    int escape; /* control byte, -1: none */
    bool no_reboot, test_devices, stats, quiet;
    char name_buf[32]; /* for a name that was not given */
};

/* Fill in a name, round memory up to whole pages; -EINVAL for wrong usage. */
int run_opts_check(struct run_opts *opts, struct err *err);

#endif
