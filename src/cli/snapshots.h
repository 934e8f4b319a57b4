/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The snapshots that are kept of a guest, a folder each in guests/NAME/snapshots: what core/snapshot_take.h writes, the
 * guest's definition at that time, and
 *
 *     meta.json    {"lodge": version, "taken": seconds since the epoch, "engine", "cpus", "memory"}
 *
 *
 *     layers.json  what its disks were, as layers_live (cli/layers.h) says it, with names in disks/ below
 *     disks/       links to the layers that hold them
 *
 * One whose name begins with a dot is on its way in or out (cli/passing.h).
 */
#ifndef LODGE_CLI_SNAPSHOTS_H
#define LODGE_CLI_SNAPSHOTS_H

#include "cli/definition.h"
#include "cli/guests.h"
#include "cli/state.h"

#define SNAPSHOTS_DIR "snapshots"

/* A tag is written like a guest's name. The path of that snapshot, or of `file` in it. */
int snapshot_path(char buf[STATE_PATH], const char *name, const char *tag, const char *file,
                  struct err *err);

/* The folder that they are in, made if it is not there. */
int snapshots_make_dir(const char *name, struct err *err);

/* Where a new one is made, with the folder that all are in: .PID-START.TAG. -EEXIST when there is one of that tag. */
int snapshot_begin(char buf[STATE_PATH], const char *name, const char *tag, struct err *err);

/*
 * The guest has written it there: add its disks, which `result` describes, out of the folder `layers`, and give it its
 * name. After a failure nothing is left of it.
 */
int snapshot_complete(const char *name, const char *tag, const char *layers, json_t *result,
                      struct err *err);

/* What its disks are: *result as layers_copy takes it, with `from` as the folder of the layers. */
int snapshot_disks(const char *name, const char *tag, char from[STATE_PATH], json_t **result,
                   struct err *err);

/* All tags of a guest, sorted; free with state_names_free. */
int snapshots_list(const char *name, struct state_names *tags, struct err *err);

/* What is known of one: its meta.json with "tag", and "size", the bytes that it takes on disk. NULL: it is damaged. */
json_t *snapshot_facts(const char *name, const char *tag);

/*
 * Are its state and all of its memory as they were saved? Reads them, which takes a second for some GiB: for before
 * something is given up for it. 0 or a negative errno.
 */
int snapshot_check(const char *name, const char *tag, struct err *err);
int snapshot_check_folder(const char *dir, struct err *err); /* one that is elsewhere */

/* What a guest is to be asked, through a connection to it, for a snapshot in `dir`: the arguments of its job. */
int snapshot_request(struct client_conn *conn, const char *dir, const struct definition *def,
                     json_t **args, struct err *err);

/* The definition that the guest had; -ENOENT when there is no such snapshot. definition_fini in any case. */
int snapshot_definition(const char *name, const char *tag, struct definition *def, struct err *err);

/*
 * Start guest `name`, which does not run, in a process of its own from what is in the folder `dir`. Errors of that process
 * are printed by it, and err stays empty; `quiet`: nothing else is.
 */
int snapshot_go_on(const char *name, const struct definition *def, const char *dir, bool quiet,
                   struct err *err);

/* Away in one step, then deleted. -ENOENT when there is none. */
int snapshot_remove(const char *name, const char *tag, struct err *err);

/* Delete what crashes left. */
void snapshots_sweep(const char *name);

#endif
