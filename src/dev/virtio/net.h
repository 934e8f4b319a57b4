/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-net (virtio 1.2, 5.1): checksum and segmentation offloads, mergeable
 * buffers, a pair of queues for each of the guest's CPUs. One thread serves
 * all that the guest sends, so that nothing overtakes within a queue; what
 * comes for a connection goes to the queue of the pair that it sends with,
 * which changes only while nothing of it waits in the old one.
 */
#ifndef LODGE_DEV_VIRTIO_NET_H
#define LODGE_DEV_VIRTIO_NET_H

#include "dev/virtio/virtio.h"
#include "net/limit.h"
#include "net/net.h"

#define VIRTIO_NET_PAIRS 8
#define VIRTIO_NET_FLOWS 256

struct virtio_net_rx {
    bool open, starved; /* under rx_lock */
};

struct virtio_net {
    struct virtio_device dev;
    struct net *net;
    uint8_t mac[NET_MAC_LEN];
    uint16_t mtu;
    _Atomic bool link_up;
    unsigned pairs;          /* offered */
    _Atomic unsigned active; /* pairs in use; written under rx_lock */
    pthread_mutex_t rx_lock; /* the receive queues, which the backend's thread fills */
    struct virtio_net_rx rx[VIRTIO_NET_PAIRS];
    struct virtq_chain *rx_chain;
    _Atomic uint8_t flow[VIRTIO_NET_FLOWS]; /* pairs that flows go by; written under rx_lock */
    struct net_limit limit;
    bool rx_held;       /* a frame is to wait because of the limit; under rx_lock */
    unsigned tx_turn;   /* with a limit: the pair that may send first */
    uint64_t tx_passed; /* frames that could be sent */
    _Atomic uint64_t count[2], bytes[2]; /* of frames, by direction (enum net_way) */
};

struct virtio_net_config {
    struct net *net; /* stays the caller's; may call receive from now on until virtio_net_fini */
    uint8_t mac[NET_MAC_LEN];
    uint16_t mtu;   /* 0: the driver is told none */
    unsigned pairs; /* 1 to VIRTIO_NET_PAIRS */
    struct net_rates rates;
};

int virtio_net_init(struct virtio_net *vn, const struct virtio_memory *memory,
                    const struct virtio_net_config *cfg, struct err *err);
/* The backend no longer calls receive. Idempotent on a zeroed structure. */
void virtio_net_fini(struct virtio_net *vn);

/* Plug the cable in or out; frames are dropped both ways while it is out. Any thread. */
void virtio_net_set_link(struct virtio_net *vn, bool up);

#endif
