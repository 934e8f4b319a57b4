/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define F_STATS          (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_REPORTING      (1ull << 5)

#define QUEUE_INFLATE 0
#define QUEUE_DEFLATE 1
#define QUEUE_STATS   2

/*
 * Behind those, queue 3 belongs to a feature that is not offered. The standard
 * leaves numbers of what is missing unused (5.5.2), Linux numbers what there is
 * without gaps: for it reporting is queue 3, or 2 when it takes no statistics.
 * No other meaning is possible, so each of these is that.
 */
#define QUEUES     5
#define QUEUE_SIZE 128
#define BUDGET     4
#define PFNS       256 /* looked at in one go */
#define PFNS_MAX   4096 /* of a chain: more than any driver gives, and what takes some milliseconds */

/* 5.5.6.3 */
struct stat {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

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

static int by_number(const void *a, const void *b)
{
    uint32_t x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

/* Neighbours go together, which is what costs least; Linux gives pages in falling order, as far as they are in any. */
static void give_back_pages(struct virtio_balloon *b, uint32_t *pfn, size_t n)
{
    uint64_t first = 0, count = 0;

    qsort(pfn, n, sizeof(*pfn), by_number);
    for (size_t i = 0; i < n; i++) {
        if (count && pfn[i] <= first + count) {
            count = pfn[i] - first + 1;
            continue;
        }
        give_back(b, first << PAGE_SHIFT, count << PAGE_SHIFT);
        first = pfn[i];
        count = 1;
    }
    give_back(b, first << PAGE_SHIFT, count << PAGE_SHIFT);
}

/*
 * An array of page numbers. Addresses that are no memory are the driver's affair: it loses nothing, nor by those beyond
 * PFNS_MAX, which the host merely does not get back.
 */
static enum virtio_served serve_inflate(struct virtio_device *dev, unsigned q,
                                        struct virtq_chain *c)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    uint32_t pfn[PFNS];
    size_t at = 0, got;

    while (at < PFNS_MAX * sizeof(pfn[0]) &&
           (got = virtq_read(c->iov, c->out, at, pfn, sizeof(pfn))) >= sizeof(pfn[0])) {
        at += got;
        give_back_pages(b, pfn, got / sizeof(pfn[0]));
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

/* Statistics, in a buffer that is kept until they are wanted again: giving it back is how to ask (5.5.6.3). */
static enum virtio_served serve_stats(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    struct virtio_balloon_stats stats = {0};
    struct timespec now;
    struct stat s;

    for (size_t at = 0; at < sizeof(s) * 2 * BALLOON_STATS; at += sizeof(s)) {
        if (virtq_read(c->iov, c->out, at, &s, sizeof(s)) < sizeof(s))
            break;
        if (s.tag >= BALLOON_STATS)
            continue;
        stats.value[s.tag] = s.value;
        stats.known |= 1u << s.tag;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    stats.time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    pthread_mutex_lock(&b->stats_lock);
    b->stats = stats;
    pthread_mutex_unlock(&b->stats_lock);
    if (b->stats_held)
        virtio_push(dev, q, b->stats_head, 0); /* there should be one only */
    b->stats_held = true;
    b->stats_head = c->head;
    return VIRTIO_SERVED;
}

static bool process_stats(struct virtio_device *dev)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    bool more = virtio_serve(dev, QUEUE_STATS, BUDGET, serve_stats);

    if (b->stats_held && atomic_load(&dev->running) && atomic_exchange(&b->stats_wanted, false)) {
        b->stats_held = false;
        virtio_push(dev, QUEUE_STATS, b->stats_head, 0);
    }
    return more;
}

void virtio_balloon_get_stats(struct virtio_balloon *b, struct virtio_balloon_stats *stats)
{
    pthread_mutex_lock(&b->stats_lock);
    *stats = b->stats;
    pthread_mutex_unlock(&b->stats_lock);
    atomic_store(&b->stats_wanted, true);
    virtio_notify(&b->dev);
}

void virtio_balloon_set_target(struct virtio_balloon *b, uint32_t pages)
{
    if (atomic_exchange(&b->target, pages) != pages)
        virtio_config_changed(&b->dev);
}

uint32_t virtio_balloon_actual(struct virtio_balloon *b)
{
    uint32_t actual;

    pthread_mutex_lock(&b->dev.lock);
    actual = b->actual;
    pthread_mutex_unlock(&b->dev.lock);
    return actual;
}

static bool process(struct virtio_device *dev, unsigned q)
{
    if (q == QUEUE_STATS && virtio_has(dev, F_STATS))
        return process_stats(dev);
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
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);

    b->actual = 0;
    b->stats_held = false;
    pthread_mutex_lock(&b->stats_lock);
    b->stats = (struct virtio_balloon_stats){0};
    pthread_mutex_unlock(&b->stats_lock);
}

static void save(struct virtio_device *dev, struct virtio_own *s)
{
    const struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);

    s->actual = b->actual;
    s->target = atomic_load(&b->target);
    s->stats_held = b->stats_held;
    s->stats_head = b->stats_head;
}

/* The buffer for statistics stays with the device: it was not given back. */
static int load(struct virtio_device *dev, const struct virtio_own *s)
{
    struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    const struct virtq *q = &dev->queue[QUEUE_STATS];

    if (s->stats_held && (!q->ready || s->stats_head >= q->size))
        return -EINVAL;
    b->actual = s->actual;
    atomic_store(&b->target, s->target);
    b->stats_held = s->stats_held;
    b->stats_head = s->stats_head;
    return 0;
}

static void config_read(struct virtio_device *dev, unsigned off, void *buf, unsigned len)
{
    const struct virtio_balloon *b = container_of(dev, struct virtio_balloon, dev);
    const struct balloon_config cfg = {.num_pages = atomic_load(&b->target), .actual = b->actual};

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
    .save = save,
    .load = load,
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
        .features = F_STATS | F_DEFLATE_ON_OOM | F_REPORTING,
        .queues = QUEUES,
        .queue_size = QUEUE_SIZE,
    };

    int code;

    memset(b, 0, sizeof(*b));
    pthread_mutex_init(&b->stats_lock, NULL);
    code = virtio_init(&b->dev, &cfg, err);
    if (code < 0)
        pthread_mutex_destroy(&b->stats_lock);
    for (unsigned q = 0; code >= 0 && q < QUEUES; q++)
        b->dev.queue[q].keeps = true;
    return code;
}

void virtio_balloon_fini(struct virtio_balloon *b)
{
    if (!b->dev.ops)
        return;
    virtio_fini(&b->dev);
    pthread_mutex_destroy(&b->stats_lock);
}
