/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files and folders on their way in or out of what is kept: .PID-START.WHAT, with the process that has it under way and when
 * that was started, in clock ticks since the host was (proc_pid_stat(5), field 22), since a PID is soon another process's.
 */
#ifndef LODGE_CLI_PASSING_H
#define LODGE_CLI_PASSING_H

#include "base/types.h"

#define PASSING_NAME 160 /* WHAT is cut to its first 100 bytes */

/* The same each time for a process. START is 0 where it may not look at /proc: its PID alone counts then. */
void passing_name(char buf[PASSING_NAME], const char *what);

/* Is it such a name, of a process that is gone? */
bool passing_is_abandoned(const char *name);

/* Delete a file, or a folder with all in it. 0, also when it is not there, or a negative errno. */
int passing_delete(const char *path);

/*
 * Delete what is abandoned in `dir`, and what `also` (NULL: nothing) says of other names that begin with a dot. Failures
 * leave it for the next.
 */
void passing_sweep(const char *dir, bool (*also)(const char *name));

#endif
