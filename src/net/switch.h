/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A named network: guests of one user on one host that have joined the same
 * name are on one Ethernet segment. There is nobody in its middle: each
 * member's process has a datagram socket in the network's folder, named by a
 * number that is never used again, and is a learning switch that sends each
 * frame to the member it is for, or to all. Who comes says so to all that are
 * there. Who was killed leaves a socket behind that refuses, which whoever
 * meets it removes. A member that does not read loses what is for it, after
 * some of it has waited here, and holds up nobody.
 */
#ifndef LODGE_NET_SWITCH_H
#define LODGE_NET_SWITCH_H

#include "net/net.h"

#define NET_SWITCH_NAME 31 /* characters */
#define NET_SWITCH_DIR  90 /* with the name; a socket's address has to fit behind it */

/* Letters and digits, and behind the first also - and _. -EINVAL with the reason. */
int net_switch_check_name(const char *name, struct err *err);

/* Join the network in folder base/name, which is made if need be and is for this user only. On failure nothing is held. */
int net_switch_new(struct net **net, const char *base, const char *name, struct err *err);

#endif
