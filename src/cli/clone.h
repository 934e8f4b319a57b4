/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest made from another one: what lodge clone and lodge fork have in common. */
#ifndef LODGE_CLI_CLONE_H
#define LODGE_CLI_CLONE_H

#include <jansson.h>

#include "base/err.h"
#include "cli/definition.h"
#include "cli/store.h"

/*
 * Of a copy called `name`: MAC addresses follow from its name, published ports are any that are free, and the paths of
 * sockets have the name behind them.
 */
int clone_definition(struct definition *def, const char *name, struct err *err);

/* Where the layers of a guest with that definition are. */
int clone_layers_dir(const struct definition *def, const char *name, char dir[STORE_PATH],
                     struct err *err);

/*
 * Keep a guest `to` with that definition and disks that stand on those of `from`: `disks` is what layers_live or
 * layers_still has said. The caller holds the name `to`. After a failure nothing is left of it.
 */
int clone_make(const char *from, const char *to, const struct definition *def, const json_t *disks,
               bool full, struct err *err);

#endif
