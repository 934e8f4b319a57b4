/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Other programs that Lodge lets do part of the work. */
#ifndef LODGE_CLI_SPAWN_H
#define LODGE_CLI_SPAWN_H

#include "base/err.h"
#include "base/types.h"

#define SPAWN_FDS 4

struct spawn {
    const char *const *argv; /* ends with NULL; argv[0] is looked for in PATH */
    int in, out;        /* standard input and output; 0: /dev/null; out -1: like standard error */
    int fds[SPAWN_FDS]; /* the program's descriptors 3, 4, ...; 0: none (any more) */
    const char *const *env; /* KEY=VALUE, added to the environment; ends with NULL; NULL: none */
    /* Called for each line of its standard error, and four times a second. NULL: not. */
    void (*line)(void *opaque, char *line);
    void (*tick)(void *opaque);
    void *opaque;
};

/*
 * Run a program to its end; it and what it has started get SIGTERM when
 * stop_asked, it alone when this process dies. *status is its exit status, or 128 plus the signal that ended
 * it. -ENOENT: there is no such program; others from the system.
 */
int spawn_run(const struct spawn *s, int *status, struct err *err);

#endif
