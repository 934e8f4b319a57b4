/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of the verbs for guests in the background; their tables are in verb.h. */
#ifndef LODGE_CLI_LIFE_OPTS_H
#define LODGE_CLI_LIFE_OPTS_H

#include "base/types.h"
#include "cli/limit_opts.h"
#include "cli/shares.h"

/* clone */
struct clone_opts {
    bool full, quiet;
};

/* ls and info */
struct ls_opts {
    const char *format;
    bool quiet;
};

/* stats, top and events */
struct watch_opts {
    const char *format;
    unsigned interval, count;
};

/* start, stop, restart, kill, pause, resume */
struct power_opts {
    unsigned timeout;
    bool quiet;
    bool all;               /* start: those with autostart */
    bool anew;              /* start */
    bool save, at_shutdown; /* stop */
};

/* console and logs */
struct attach_opts {
    int escape;
    bool no_replay, quiet, follow;
};

/* rm, recover, prune, rename, edit, validate */
struct define_opts {
    bool force, quiet;
};

/* set */
struct set_opts {
    bool quiet, protected, autostart;
    const char *at_shutdown;
    struct shares shares;
    struct run_limits limits;
};

/* snapshot, snapshots, restore */
struct snapshot_opts {
    const char *format;
    bool quiet, rm;
};

#endif
