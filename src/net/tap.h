/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A TAP device of the host: what the guest sends, the host's kernel receives there, and the other way round. */
#ifndef LODGE_NET_TAP_H
#define LODGE_NET_TAP_H

#include "net/net.h"

#define NET_TAP_NAME 15 /* characters of an interface's name */

/*
 * The TAP device `ifname`, which is made if there is none; or, with `bridge`, a new one that is put into that bridge. It is
 * brought up. Needs CAP_NET_ADMIN, but for a device that was made for this user. On failure nothing is held.
 */
int net_tap_new(struct net **net, const char *ifname, const char *bridge, struct err *err);

#endif
