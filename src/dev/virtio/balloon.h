/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon (virtio 1.2, 5.5): memory that the guest does not need goes
 * back to the host, by free page reporting without anyone asking.
 */
#ifndef LODGE_DEV_VIRTIO_BALLOON_H
#define LODGE_DEV_VIRTIO_BALLOON_H

#include "dev/virtio/virtio.h"

struct virtio_balloon {
    struct virtio_device dev;
    uint32_t actual;             /* pages the driver says it has given; under dev.lock */
    _Atomic uint64_t given_back; /* bytes, inflated or reported, since power-on */
};

/* As virtio_init; virtio_fini(&balloon->dev) takes it apart. */
int virtio_balloon_init(struct virtio_balloon *balloon, const struct virtio_memory *memory,
                        struct err *err);

#endif
