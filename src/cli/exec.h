/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge exec and lodge shell. */
#ifndef LODGE_CLI_EXEC_H
#define LODGE_CLI_EXEC_H

#include "cli/verb.h"

struct exec_opts {
    const char *user;
    bool tty;
    unsigned wait; /* seconds */
};

extern const struct opt_desc exec_opts[];

int verb_exec(const struct verb *verb, int argc, char **argv);
int verb_shell(const struct verb *verb, int argc, char **argv);

/* Words as one text that a POSIX shell takes apart into the same; malloc'd, NULL without memory. */
char *exec_quote(int argc, char **argv);

#endif
