/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which conversation a frame is part of, for cards with several queues. */
#ifndef LODGE_NET_FLOW_H
#define LODGE_NET_FLOW_H

#include "net/net.h"

/*
 * A number that is the same for all frames of a TCP or UDP connection, in both directions, and spreads connections well.
 * What has no ports (fragments, other protocols) goes by its addresses; what is no IP packet is 0. Reads each byte once,
 * since a guest may write to them meanwhile.
 */
uint32_t net_flow(const struct net_frame *frame);

#endif
