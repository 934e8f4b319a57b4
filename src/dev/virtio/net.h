/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-net (virtio 1.2, 5.1): one pair of queues, checksum and segmentation offloads, mergeable buffers. */
#ifndef LODGE_DEV_VIRTIO_NET_H
#define LODGE_DEV_VIRTIO_NET_H

#include "dev/virtio/virtio.h"
#include "net/net.h"

struct virtio_net {
    struct virtio_device dev;
    struct net *net;
    uint8_t mac[NET_MAC_LEN];
    uint16_t mtu;
    _Atomic bool link_up;
    pthread_mutex_t rx_lock; /* the receive queue, which the backend's thread fills */
    bool rx_open, rx_starved;
    struct virtq_chain *rx_chain;
};

struct virtio_net_config {
    struct net *net; /* stays the caller's; may call receive from now on until virtio_net_fini */
    uint8_t mac[NET_MAC_LEN];
    uint16_t mtu; /* 0: the driver is told none */
};

int virtio_net_init(struct virtio_net *vn, const struct virtio_memory *memory,
                    const struct virtio_net_config *cfg, struct err *err);
/* The backend no longer calls receive. Idempotent on a zeroed structure. */
void virtio_net_fini(struct virtio_net *vn);

/* Plug the cable in or out; frames are dropped both ways while it is out. Any thread. */
void virtio_net_set_link(struct virtio_net *vn, bool up);

#endif
