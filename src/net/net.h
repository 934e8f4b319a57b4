/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between a network card and what it is plugged into. Frames go both ways with
 * a note of what is left to do to them, so that checksums and segments are
 * made as late as possible, or never.
 */
#ifndef LODGE_NET_NET_H
#define LODGE_NET_NET_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"

#define NET_MAC_LEN 6
#define NET_FRAME_MAX                                                                              \
    (65535 + 14 + 4) /* an IP packet of any length with its Ethernet header and a VLAN tag */

/* net_offload.flags */
#define NET_NEEDS_CSUM                                                                             \
    1u /* the sum from csum_start on is to be put at csum_offset behind it; the pseudo header's is there */
#define NET_DATA_VALID 2u /* the checksums are known to be right */

/* net_offload.gso_type */
#define NET_GSO_NONE  0
#define NET_GSO_TCPV4 1
#define NET_GSO_TCPV6 4
#define NET_GSO_ECN   0x80u /* with one of them */

/* Numbers are those of virtio 1.2, 5.1.6, which are also those of Linux's TAP devices. */
struct net_offload {
    uint8_t flags, gso_type;
    uint16_t hdr_len;  /* of Ethernet, IP and TCP headers: a hint */
    uint16_t gso_size; /* payload of each segment */
    uint16_t csum_start, csum_offset;
};

struct net_frame {
    struct net_offload offload;
    const struct iovec *iov; /* the frame from its Ethernet header on, without FCS */
    unsigned iovcnt;
    size_t len; /* at least 14, at most NET_FRAME_MAX */
};

/* What one side takes from the other, as bits. */
#define NET_TAKES_CSUM 1u /* NET_NEEDS_CSUM */
#define NET_TAKES_TSO4 2u /* NET_GSO_TCPV4; CSUM goes with it */
#define NET_TAKES_TSO6 4u

struct net;

struct net_ops {
    const char *name;
    /*
     * A frame from the guest, with no more offload than net->takes. It and its
     * buffers are the caller's again on return, so this neither keeps them nor
     * blocks: what cannot be sent at once is dropped. One thread at a time.
     */
    void (*send)(struct net *net, const struct net_frame *frame);
    /* No more frames for the moment. The thread of `send`; may be NULL. */
    void (*flush)(struct net *net);
    /* `receive` has returned false, and now the guest has room again. Any thread; never from inside receive. */
    void (*ready)(struct net *net);
    /* It is plugged in: from now on it may call receive, on threads of its own. May be NULL. */
    int (*start)(struct net *net, struct err *err);
    /* It calls receive no more, except inside send. Idempotent; may be NULL. */
    void (*stop)(struct net *net);
    void (*free)(struct net *net); /* unplugged */
};

/* The card's side, set when it is plugged in. */
struct net_card_ops {
    /*
     * A frame for the guest, with no more offload than net->card_takes. False:
     * there is no room; keep it until `ready`, or drop it. Any thread, one at
     * a time.
     */
    bool (*receive)(void *card, const struct net_frame *frame);
};

/* A backend embeds this. */
struct net {
    const struct net_ops *ops;
    unsigned takes; /* constant from before it is plugged in */
    const struct net_card_ops *card_ops;
    void *card;
    _Atomic unsigned card_takes; /* what the guest's driver has agreed to; 0 while there is none */
};

#endif
