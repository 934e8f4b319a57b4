/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The system calls of a guest's process. */
#ifndef LODGE_SANDBOX_SECCOMP_H
#define LODGE_SANDBOX_SECCOMP_H

#include "sandbox/sandbox.h"

#define SECCOMP_STATUS 159 /* of a process that made another call: 128 + SIGSYS */

/* Install the filter in all threads of the process, which have no_new_privs, and the handler that names a refused call. */
int seccomp_enter(const struct sandbox_needs *needs);

/* Is the call among those that are allowed, be it with some arguments only? (For tests.) */
bool seccomp_allows(unsigned nr);

const char *seccomp_name(unsigned nr);

#endif
