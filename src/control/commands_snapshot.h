/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Taking a snapshot of the guest that listens. */
#ifndef LODGE_CONTROL_COMMANDS_SNAPSHOT_H
#define LODGE_CONTROL_COMMANDS_SNAPSHOT_H

#include "control/control.h"

#define CONTROL_META       "meta.json"
#define CONTROL_DEFINITION "guest.yaml"

extern const struct proto_arg control_snapshot_args[];

/* A job. */
int control_snapshot(struct control_call *call, struct err *err);

/* Add how far a copy of memory is to the answer of `status`; nothing when there is none under way. */
void control_copying(struct vm *vm, json_t *status);

#endif
