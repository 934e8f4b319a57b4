/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/rng.h"

#include <sys/random.h>

#define CHUNK  256     /* getrandom gives that much in one piece */
#define MOST   KIB(16) /* a request gets no more: the driver asks again */
#define BUDGET 16

static enum virtio_served serve(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    uint8_t bytes[CHUNK];
    uint32_t done = 0;

    if (!c->in_len)
        return VIRTIO_MALFORMED;
    while (done < c->in_len && done < MOST) {
        uint32_t n = c->in_len - done < CHUNK ? c->in_len - done : CHUNK;

        if (getrandom(bytes, n, 0) != (ssize_t)n)
            break;
        virtq_write(&dev->queue[q], c->iov + c->out, c->in, done, bytes, n);
        done += n;
    }
    virtio_push(dev, q, c->head, done);
    return VIRTIO_SERVED;
}

static bool process(struct virtio_device *dev, unsigned q)
{
    return virtio_serve(dev, q, BUDGET, serve);
}

static const struct virtio_device_ops rng_ops = {.name = "virtio-rng", .process = process};

int virtio_rng_init(struct virtio_device *dev, const struct virtio_memory *memory, struct err *err)
{
    const struct virtio_config cfg = {
        .ops = &rng_ops, .type = VIRTIO_RNG, .memory = *memory, .queues = 1, .queue_size = 64};

    return virtio_init(dev, &cfg, err);
}
