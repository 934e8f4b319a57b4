/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Landlock (Documentation/userspace-api/landlock.rst): files by the folder they are in, TCP ports, and scopes. */
#ifndef LODGE_SANDBOX_LANDLOCK_H
#define LODGE_SANDBOX_LANDLOCK_H

#include "sandbox/sandbox.h"

/* The version of the kernel's interface, 0: there is none. */
unsigned landlock_version(void);

/* An empty set of rules for what `version` knows: its descriptor, or a negative errno. With inet TCP is left alone. */
int landlock_new(unsigned version, bool inet);

int landlock_allow(int ruleset, unsigned version, const char *path, unsigned rights);

/* The calling thread and its children, for good. */
int landlock_enter(int ruleset);

#endif
