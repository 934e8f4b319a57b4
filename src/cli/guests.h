/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guests as the verbs see them: what is kept of each, and the process that runs it. */
#ifndef LODGE_CLI_GUESTS_H
#define LODGE_CLI_GUESTS_H

#include <jansson.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/types.h"
#include "cli/definition.h"
#include "cli/state.h"
#include "control/client.h"

#define GUESTS_MAX_ARGS 4096 /* names given to one command */

struct guest {
    char name[64];
    bool held;      /* a process has its name */
    bool kept;      /* it has a directory in the state folder */
    bool suspended; /* its process was stopped by a signal, and answers nobody */
    pid_t pid;      /* of that process; 0: not known */
    json_t *status; /* what it answers; NULL: it does not serve (yet) */
    json_t *last;   /* of its last detached run; NULL: none */
    struct definition def;
    struct err def_err; /* code 0: `def` could be read */
};

/* Look at a guest now. -ENOENT when there is none, *err says so; guest_fini in any case. */
int guest_init(struct guest *g, const char *name, struct err *err);
void guest_fini(struct guest *g);

/* "running", "paused", "pausing", "starting", "suspended", "created", "stopped", "failed", "crashed" or "broken". */
const char *guest_state(const struct guest *g);

/* All there are, running or kept; free with state_names_free. */
int guests_list(struct state_names *names, struct err *err);

/* Is a process running it, or about to? */
bool guest_is_held(const char *name);

/* Wait until no process has the name; false: it still has after so many milliseconds. */
bool guest_wait_free(const char *name, int ms);

/* Connect to a running guest; -ENOENT or -ESRCH with the reason when it does not exist or run. client_fini in any case. */
int guest_connect(struct client_conn *conn, const char *name, struct err *err);

/* Ask one thing of a running guest. *result may be NULL. */
int guest_ask(const char *name, const char *command, json_t **result, struct err *err);

/* -EPERM with the reason when its definition has protected: on; `done` is what is not to be done, like "removed". */
int guest_check_protected(const char *name, const char *done, struct err *err);

/* End its process: asked through its socket, and if it does not answer, by SIGKILL. */
int guest_kill(const char *name, struct err *err);

/*
 * Call fn for each name. Prints each error and, unless quiet, each name that it went well for. Returns the exit status; at
 * least one name must be there, else wrong usage is reported.
 */
struct verb;
int guests_each(const struct verb *verb, int nargs, char **names, bool quiet,
                int (*fn)(const char *name, void *opaque, struct err *err), void *opaque);

#endif
