/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest in the background: a process of its own that leaves the caller's session and terminal. Until the guest has started
 * the caller waits, and what goes wrong is printed where the caller's errors go.
 */
#ifndef LODGE_CLI_DETACH_H
#define LODGE_CLI_DETACH_H

#include <pthread.h>
#include <stdint.h>

#include "base/err.h"
#include "base/types.h"

struct definition;
struct run_opts;

struct detach {
    const struct definition
        *create;   /* keep this under the guest's name first; NULL: it is kept already */
    bool created;  /* that was done */
    bool drop;     /* forget the guest at its end */
    int ready;     /* to tell the caller; -1: told */
    int64_t began; /* seconds since the epoch; 0: not ready yet */
    const char *name;
    pthread_t telling; /* while `tells` */
    bool tells;
};

/*
 * Start the guest in a process of its own. opts, with a name, are checked; their strings and `create` need not outlive the
 * call. Returns the exit status: 0 once it runs, or the reason why not has been printed. Call it while the process has one
 * thread.
 */
int detach_start(const struct run_opts *opts, const struct definition *create, bool drop);

/* In the new process: begin with what is kept of guest `name`, whose name is held. */
int detach_begin(struct detach *d, const char *name, struct err *err);

/*
 * The guest is about to run: leave the caller's terminal and let it go on, once it is on the disk that the guest runs. That
 * takes as long as the disk takes, and nobody waits for it before detach_end. `name` stays until then.
 */
void detach_ready(struct detach *d, const char *name);

/*
 * The guest has ended, or has not begun; its name is still held. how: "poweroff", "reset", "killed", "signal" or "failed"; why:
 * the message of a failure, else "".
 */
void detach_end(struct detach *d, const char *name, const char *how, int status, const char *why);

#endif
