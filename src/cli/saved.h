/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest was when lodge stop --save ended it: guests/NAME/saved, with what docs/snapshot.md describes but layers of
 * disks, since nobody writes to them until the guest goes on. It is there once only: the guest's process takes it away before
 * the first instruction runs, so that it never fits disks that have gone on without it.
 */
#ifndef LODGE_CLI_SAVED_H
#define LODGE_CLI_SAVED_H

#include "cli/state.h"

#define SAVED_DIR   "saved"
#define SAVED_ASIDE ".saved." /* and the PID of who has put it there: on its way in or out */

bool saved_exists(const char *name);

/* Save guest `name`, which runs and is kept, and have it end. After a failure it goes on, and nothing is left. */
int saved_take(const char *name, struct err *err);

/* Its path, once everything in it was read and is as it was saved. */
int saved_check(const char *name, char path[STATE_PATH], struct err *err);

/* Take it away, by whoever holds the guest's name: at once, whatever ends the process. -ENOENT when there is none. */
int saved_drop(const char *name, struct err *err);

/* -EBUSY for what would make it useless: the guest's disks are to change. */
int saved_refuse(const char *name, struct err *err);

#endif
