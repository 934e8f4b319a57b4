/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a driver does to start a virtio device (virtio 1.2, 3.1.1), for tests that play the driver. */
#ifndef LODGE_TESTS_VIRTIO_DRIVER_H
#define LODGE_TESTS_VIRTIO_DRIVER_H

#include "dev/virtio/virtio.h"

/* Where the split queue q lies in guest memory. */
#define RING(q)  (0x10000u + 0x4000u * (q))
#define AVAIL(q) (RING(q) + 0x1000u)
#define USED(q)  (RING(q) + 0x2000u)

/*
 * The device was reset; it is told the rest: these of its first 32 features and version 1, the first
 * `queues` queues, DRIVER_OK.
 */
static inline void driver_start(struct virtio_device *dev, uint32_t features, unsigned queues,
                                uint16_t size)
{
    virtio_status_write(dev, 3);
    virtio_driver_features_write(dev, 0, features);
    virtio_driver_features_write(dev, 1, 1);
    virtio_status_write(dev, 11);
    for (unsigned q = 0; q < queues; q++) {
        dev->queue[q].size = size;
        dev->queue[q].desc = RING(q);
        dev->queue[q].driver = AVAIL(q);
        dev->queue[q].device = USED(q);
        pthread_mutex_lock(&dev->lock);
        virtio_queue_enable_locked(dev, q);
        pthread_mutex_unlock(&dev->lock);
    }
    virtio_status_write(dev, 15);
}

#endif
