/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/balloon.h"

#include <string.h>

#define F_REPORTING (1ull << 5)

#define QUEUE_INFLATE 0
#define QUEUE_DEFLATE 1

/*
 * Queues 2 and 3 belong to features that are not offered. The standard leaves
 * their numbers unused (5.5.2), Linux numbers what there is without gaps: for
 * it reporting is queue 2. No other meaning is possible, so all do the same.
 */
#define QUEUES     5
#define QUEUE_SIZE 128
#define BUDGET     16
#define PFNS       256 /* looked at in one go */

struct balloon_config {
    uint32_t num_pages, actual;
};

static void give_back(struct virtio_balloon *b, gpa_t gpa, uint64_t len)
{
    const struct virtio_memory *m = &b->dev.memory;

    if (!len || mem_discard(m->mem, gpa, len) < 0)
        return;
    atomic_fetch_add(&b->given_back, len);
    m->written(m->opaque, gpa, len);
}

/* An array of page numbers. Addresses that are no memory are the driver's affair: it loses nothing. */
static enum virtio_served serve_inflate(struct virtio_device *dev, unsigned q,
                                        struct virtq_chain *c)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    uint32_t pfn[PFNS];
    size_t at = 0, got;

    while ((got = virtq_read(c->iov, c->out, at, pfn, sizeof(pfn))) >= sizeof(pfn[0])) {
        uint64_t first = 0, count = 0;

        at += got;
        /* Neighbours go together: the driver takes pages as it finds them, often in order. */
        for (size_t i = 0; i < got / sizeof(pfn[0]); i++) {
            if (count && pfn[i] == first + count) {
                count++;
                continue;
            }
            give_back(b, first << PAGE_SHIFT, count << PAGE_SHIFT);
            first = pfn[i];
            count = 1;
        }
        give_back(b, first << PAGE_SHIFT, count << PAGE_SHIFT);
    }
    virtio_push(dev, q, c->head, 0);
    return VIRTIO_SERVED;
}

/* Taking a page back needs nothing: it is there, and reads as zero. */
static enum virtio_served serve_deflate(struct virtio_device *dev, unsigned q,
                                        struct virtq_chain *c)
{
    virtio_push(dev, q, c->head, 0);
    return VIRTIO_SERVED;
}

/* The buffers themselves are free, until they are given back (5.5.6.8). */
static enum virtio_served serve_report(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    const struct mem *mem = dev->memory.mem;

    for (unsigned i = c->out; i < c->out + c->in; i++)
        give_back(b, mem_gpa_of_offset(mem, (uint64_t)((uint8_t *)c->iov[i].iov_base - mem->map)),
                  c->iov[i].iov_len);
    virtio_push(dev, q, c->head, 0);
    return VIRTIO_SERVED;
}

static bool process(struct virtio_device *dev, unsigned q)
{
    switch (q) {
    case QUEUE_INFLATE:
        return virtio_serve(dev, q, BUDGET, serve_inflate);
    case QUEUE_DEFLATE:
        return virtio_serve(dev, q, BUDGET, serve_deflate);
    default:
        return virtio_serve(dev, q, BUDGET, serve_report);
    }
}

static void reset(struct virtio_device *dev)
{
    container_of(dev, struct virtio_balloon, dev)->actual = 0;
}

static void config_read(struct virtio_device *dev, unsigned off, void *buf, unsigned len)
{
    const struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    const struct balloon_config cfg = {.actual = b->actual};

    if (off < sizeof(cfg))
        memcpy(buf, (const uint8_t *)&cfg + off, len < sizeof(cfg) - off ? len : sizeof(cfg) - off);
}

static void config_write(struct virtio_device *dev, unsigned off, const void *buf, unsigned len)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);

    if (off == offsetof(struct balloon_config, actual) && len == sizeof(b->actual))
        memcpy(&b->actual, buf, len);
}

static const struct virtio_device_ops balloon_ops = {
    .name = "virtio-balloon",
    .process = process,
    .reset = reset,
    .config_read = config_read,
    .config_write = config_write,
};

int virtio_balloon_init(struct virtio_balloon *b, const struct virtio_memory *memory,
                        struct err *err)
{
    const struct virtio_config cfg = {
        .ops = &balloon_ops,
        .type = VIRTIO_BALLOON,
        .memory = *memory,
        .features = F_REPORTING,
        .queues = QUEUES,
        .queue_size = QUEUE_SIZE,
    };

    memset(b, 0, sizeof(*b));
    return virtio_init(&b->dev, &cfg, err);
}
