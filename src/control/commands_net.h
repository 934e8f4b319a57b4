/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands about a guest's network cards. */
#ifndef LODGE_CONTROL_COMMANDS_NET_H
#define LODGE_CONTROL_COMMANDS_NET_H

#include "control/control.h"

extern const struct proto_arg control_publish_args[];

int control_ports(struct control_call *call, struct err *err);
int control_publish(struct control_call *call, struct err *err);
int control_unpublish(struct control_call *call, struct err *err);

#endif
