/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of `lodge run` and what can be said about them before anything is built. */
#ifndef LODGE_CLI_RUN_H
#define LODGE_CLI_RUN_H

#include "base/err.h"
#include "base/types.h"
#include "cli/disk_opts.h"
#include "cli/limit_opts.h"
#include "cli/net_opts.h"
#include "cli/shares.h"
#include "core/vm.h"

/* --port, as often as it is given; the strings are in `text`, which run_opts_fini frees. */
struct run_ports {
    unsigned count;
    struct vm_port port[VM_MAX_PORTS];
    char *text[VM_MAX_PORTS];
};

struct run_opts {
    const char *name; /* NULL: not given */
    const char *file; /* of a definition; NULL: none */
    bool detach, rm;
    const char *engine, *cpu, *console;
    const char *image; /* of a system; NULL: kernel says what is run */
    const char *user, *ssh_key, *user_data;
    const char *kernel, *initrd, *append;
    const char *restore; /* the folder of a snapshot to go on from; NULL: boot */
    bool restore_once;   /* it is what was saved (cli/saved.h) */
    unsigned cpus;       /* 0: not given */
    uint64_t memory;     /* 0: not given */
    int escape;          /* control byte, -1: none */
    struct run_disks disks;
    struct run_ports ports;
    struct run_nets nets;
    struct run_publishes publishes;
    struct run_limits limits;
    struct shares shares;
    bool protected, autostart;
    const char *at_shutdown;
    const char *rng, *balloon, *vsock, *sandbox;
    bool no_reboot, test_devices, stats, perf_map, quiet;
    char name_buf[64]; /* for a name that was not given */
};

struct detach;

/*
 * Run a guest until it ends: in the foreground, or (detach not NULL) as the background process that cli/detach.h has started.
 * The options are checked. Returns the exit status; errors have been printed.
 */
int run_guest(const struct run_opts *opts, struct detach *detach);

/* Free what parsing has allocated. */
void run_opts_fini(struct run_opts *opts);

/* Take over what is about one run of the command (opt_desc.once). */
void run_opts_take_once(struct run_opts *opts, const struct run_opts *from);

struct definition;
struct verb;

/*
 * The arguments of a verb that takes the options of run, with --file: both as options and as a definition, which are to be
 * freed in any case. Returns -1 to go on, or the exit status.
 */
int run_parse(const struct verb *verb, struct run_opts *opts, struct definition *def, int argc,
              char **argv);

/* Memory and CPUs where they were not given. */
void run_opts_fill(struct run_opts *opts);

/* Fill in a name, round memory up to whole pages; -EINVAL for wrong usage. */
int run_opts_check(struct run_opts *opts, struct err *err);

#endif
