/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What members of a named network say to each other (net/switch.h), and what a
 * learning switch keeps in mind. Messages of others are checked here.
 */
#ifndef LODGE_NET_SWITCH_WIRE_H
#define LODGE_NET_SWITCH_WIRE_H

#include "net/net.h"

#define SWITCH_MAGIC 0x314c5357u /* "WSL1", little-endian: another format gets another number */

enum switch_kind {
    SWITCH_HELLO = 1, /* I am here; the sender is all there is in it */
    SWITCH_FRAME = 2, /* followed by the frame */
    SWITCH_BYE = 3,   /* I am going */
};

/* Begins every message; members are processes of one host, so numbers are as the host has them. */
struct switch_header {
    uint32_t magic;
    uint16_t kind;
    struct net_offload offload;
    uint64_t sender;
};

#define SWITCH_MESSAGE_MAX (sizeof(struct switch_header) + NET_FRAME_MAX)

/*
 * Copy a message's header and check all of it against its length. false: it is none of ours, or asks for a checksum or
 * segments that cannot be.
 */
bool switch_read(const uint8_t *message, size_t len, struct switch_header *header);

/* Are the offload's places inside a frame of this length, and is it one of those that net.h has? */
bool switch_offload_is_right(const struct net_offload *offload, size_t len);

/* ---- Addresses ------------------------------------------------------------- */

#define SWITCH_TABLE 1024

struct switch_entry {
    uint8_t mac[NET_MAC_LEN];
    uint64_t member; /* 0: an empty place */
};

struct switch_table {
    struct switch_entry entry[SWITCH_TABLE];
};

/* This member has sent from this address. One of a group is no sender's. */
void switch_learn(struct switch_table *table, const uint8_t mac[NET_MAC_LEN], uint64_t member);

/* Who has this address; 0: not known, or a group: everybody gets the frame. */
uint64_t switch_find(const struct switch_table *table, const uint8_t mac[NET_MAC_LEN]);

void switch_forget(struct switch_table *table, uint64_t member);

/* ---- Cards that take less than frames bring ------------------------------------ */

/*
 * Emit a frame with what is left to do to it done as far as `takes` (NET_TAKES_*) lacks it: the frame itself, or segments.
 * `frame` and *offload are changed such that it can be done again; `piece` is room for NET_FRAME_MAX bytes. *offload is right.
 */
void switch_reduce(uint8_t *frame, size_t len, struct net_offload *offload, unsigned takes,
                   uint8_t *piece,
                   void (*emit)(void *opaque, const struct net_offload *offload,
                                const uint8_t *frame, size_t len),
                   void *opaque);

#endif
