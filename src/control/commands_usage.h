/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command about what a guest has used of the host. */
#ifndef LODGE_CONTROL_COMMANDS_USAGE_H
#define LODGE_CONTROL_COMMANDS_USAGE_H

#include "control/control.h"

extern const struct proto_arg control_cap_args[];

int control_usage(struct control_call *call, struct err *err);
int control_cap(struct control_call *call, struct err *err);

#endif
