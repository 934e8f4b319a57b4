/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/dev/virtio/virtio.c src/dev/virtio/queue.c src/dev/virtio/pci.c src/dev/virtio/blk.c
 *       src/dev/virtio/rng.c src/dev/virtio/balloon.c src/dev/virtio/net.c
 *       src/dev/virtio/console.c src/dev/pci/pci.c src/dev/pci/msix.c
 *       src/block/block.c src/block/limiter.c src/block/throttle.c src/block/uring.c src/core/mem.c
 *       src/net/flow.c src/net/limit.c src/base/bucket.c src/core/bus.c src/base/err.c src/base/log.c */
#define FUZZ_DEVICE 2
#include "fuzz_virtio.h"
