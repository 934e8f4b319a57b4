/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command that changes the limits of disks and network cards. */
#ifndef LODGE_CONTROL_COMMANDS_LIMIT_H
#define LODGE_CONTROL_COMMANDS_LIMIT_H

#include "control/control.h"

extern const struct proto_arg control_limit_args[];

int control_limit(struct control_call *call, struct err *err);

/* For `status`: the limits that there are, by device; a new reference. NULL without memory. */
json_t *control_limits(struct vm *vm);

#endif
