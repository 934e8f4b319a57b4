/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-rng (virtio 1.2, 5.4): random bytes of the host's kernel. */
#ifndef LODGE_DEV_VIRTIO_RNG_H
#define LODGE_DEV_VIRTIO_RNG_H

#include "dev/virtio/virtio.h"

/* As virtio_init; virtio_fini takes it apart. */
int virtio_rng_init(struct virtio_device *dev, const struct virtio_memory *memory, struct err *err);

#endif
