/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-blk (virtio 1.2, 5.2) on a disk image. */
#ifndef LODGE_DEV_VIRTIO_BLK_H
#define LODGE_DEV_VIRTIO_BLK_H

#include "block/block.h"
#include "core/ioevent.h"
#include "dev/virtio/virtio.h"

/*
 * Bytes of requests that are under way at once; what is more stays in the ring, and is not waited for when the guest
 * resets the device. One larger than that goes alone.
 */
#define VIRTIO_BLK_UNDER_WAY MIB(64)

#define VIRTIO_BLK_SERIAL 20 /* longest serial number; shorter ones are padded with zeroes */

struct virtio_blk {
    struct virtio_device dev;
    struct block *block;
    struct idle_watch watch;
    char serial[VIRTIO_BLK_SERIAL];
    _Atomic uint64_t under_way; /* bytes of requests */
    bool left;                  /* process_now left a chain in the ring; under dev.io_lock */
    _Atomic bool waits;         /* chains stay in the ring until there are fewer */
    /* The device's thread alone: what it has not given back yet. */
    struct virtq_used batch[64];
    unsigned batched, batch_queue;
};

/* `block` stays the caller's, used by nobody else and open until virtio_fini(&blk->dev). serial may be NULL. */
int virtio_blk_init(struct virtio_blk *blk, const struct virtio_memory *memory, struct block *block,
                    unsigned queues, const char *serial, struct err *err);

#endif
