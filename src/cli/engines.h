/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Engines by the names users give them, those this version lacks included. */
#ifndef LODGE_CLI_ENGINES_H
#define LODGE_CLI_ENGINES_H

#include "base/err.h"

struct engine_ops;

struct engine_name {
    const char *name;
    const char *title; /* as it is called in a sentence */
    const char *about; /* what it is, in a user's words */
};

/* What --engine takes beside auto, best first; ends with a NULL name. */
extern const struct engine_name engine_names[];
#define ENGINE_CHOICES "auto|soft|kvm"

/* Can the engine of that name be used here? *ops is set when it is built in, usable or not. */
int engine_try(const char *name, const struct engine_ops **ops, struct err *err);

/*
 * The engine for --engine `name`; "auto" is the first that its probe finds usable, where one named is only checked
 * for what takes no time. *passed says why "auto" did not take a better
 * one; its code is 0 when it took the best.
 */
int engine_choose(const char *name, const struct engine_ops **ops, struct err *passed,
                  struct err *err);

#endif
