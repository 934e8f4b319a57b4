/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define F_SEG_MAX      (1ull << 2)
#define F_RO           (1ull << 5)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH        (1ull << 9)
#define F_TOPOLOGY     (1ull << 10)
#define F_MQ           (1ull << 12)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

enum {
    T_IN = 0,
    T_OUT = 1,
    T_FLUSH = 4,
    T_GET_ID = 8,
    T_DISCARD = 11,
    T_WRITE_ZEROES = 13,
};

enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

#define QUEUE_SIZE  256
#define SEG_MAX     (QUEUE_SIZE - 2) /* header and status have descriptors of their own */
#define BUDGET      64
#define MAX_SECTORS (1u << 22) /* of a discard or write-zeroes */

#define RANGE_UNMAP 1u

struct header {
    uint32_t type, reserved;
    uint64_t sector;
};

/* Discard and write-zeroes (5.2.6). */
struct range {
    uint64_t sector;
    uint32_t sectors, flags;
};

struct blk_config {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_alignment;
    uint32_t max_zeroes_sectors, max_zeroes_seg;
    uint8_t zeroes_may_unmap, unused1[3];
} __attribute__((packed));

_Static_assert(sizeof(struct blk_config) == 60, "virtio 1.2, 5.2.4");

struct blk_req {
    struct block_req io;
    struct virtio_blk *blk;
    uint16_t queue, head;
    uint32_t in_len;
    uint8_t *status;
    unsigned niov;
    struct iovec iov[];
};

/* ---- Answers --------------------------------------------------------------------------- */

/* What the device's thread has to give back goes into the ring together. */
static void flush_batch(struct virtio_blk *blk)
{
    if (blk->batched)
        virtio_push_all(&blk->dev, blk->batch_queue, blk->batch, blk->batched);
    blk->batched = 0;
}

static void give_back(struct virtio_blk *blk, unsigned q, struct virtq_used used)
{
    if (!pthread_equal(pthread_self(), blk->dev.thread)) {
        virtio_push_all(&blk->dev, q, &used, 1);
        return;
    }
    if (blk->batched == ARRAY_SIZE(blk->batch) || q != blk->batch_queue)
        flush_batch(blk);
    blk->batch_queue = q;
    blk->batch[blk->batched++] = used;
}

static void answer(struct virtio_blk *blk, unsigned q, uint16_t head, uint8_t *at, uint8_t status,
                   uint32_t in_len)
{
    const struct iovec iov = {at, 1};

    virtq_write(&blk->dev.queue[q], &iov, 1, 0, &status, 1);
    give_back(blk, q, (struct virtq_used){head, in_len});
}

static void request_done(struct block_req *io, int result)
{
    struct blk_req *r = container_of(io, struct blk_req, io);
    struct virtio_blk *blk = r->blk;

    if (io->op == BLOCK_READ)
        virtq_written(&blk->dev.queue[r->queue], r->iov, r->niov, io->len);
    answer(blk, r->queue, r->head, r->status, result ? S_IOERR : S_OK, r->in_len);
    free(r);
}

/* ---- Requests --------------------------------------------------------------------------- */

/* A chain taken apart: header | data to read | data to write | status. */
struct parts {
    struct virtio_blk *blk;
    unsigned q;
    const struct virtq_chain *c;
    struct header h;
    uint32_t out_len, in_len; /* of the data */
    uint8_t *status;
};

static void submit(const struct parts *p, struct block_req io)
{
    const struct virtq_chain *c = p->c;
    bool in = io.op == BLOCK_READ, out = io.op == BLOCK_WRITE;
    unsigned n = in ? c->in : out ? c->out : 0;
    struct blk_req *r = malloc(sizeof(*r) + n * sizeof(r->iov[0]));

    if (!r) {
        answer(p->blk, p->q, c->head, p->status, S_IOERR, c->in_len);
        return;
    }
    r->io = io;
    r->io.done = request_done;
    r->blk = p->blk;
    r->queue = (uint16_t)p->q;
    r->head = c->head;
    r->in_len = c->in_len;
    r->status = p->status;
    r->niov = 0;
    if (in)
        r->niov = virtq_slice(c->iov + c->out, c->in, 0, p->in_len, r->iov);
    else if (out)
        r->niov = virtq_slice(c->iov, c->out, sizeof(p->h), p->out_len, r->iov);
    r->io.iov = r->iov;
    r->io.iovcnt = r->niov;
    block_submit(p->blk->block, &r->io);
}

/* Beyond what can be counted in bytes is beyond every disk. */
static uint64_t sector_offset(uint64_t sector)
{
    return sector > UINT64_MAX / BLOCK_SECTOR ? ALIGN_UP(UINT64_MAX - BLOCK_SECTOR, BLOCK_SECTOR)
                                              : sector * BLOCK_SECTOR;
}

/* One range a request: that is what the configuration says. */
static uint8_t submit_range(const struct parts *p)
{
    bool zeroes = p->h.type == T_WRITE_ZEROES;
    struct range range;

    if (p->out_len != sizeof(range))
        return S_IOERR;
    virtq_read(p->c->iov, p->c->out, sizeof(p->h), &range, sizeof(range));
    if (range.flags & ~(zeroes ? RANGE_UNMAP : 0))
        return S_UNSUPP;
    if (range.sectors > MAX_SECTORS)
        return S_IOERR;
    submit(p, (struct block_req){.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD,
                                 .unmap = range.flags & RANGE_UNMAP,
                                 .offset = sector_offset(range.sector),
                                 .len = (uint64_t)range.sectors * BLOCK_SECTOR});
    return S_OK;
}

static uint8_t give_serial(const struct parts *p)
{
    virtq_write(&p->blk->dev.queue[p->q], p->c->iov + p->c->out, p->c->in, 0, p->blk->serial,
                p->in_len < VIRTIO_BLK_SERIAL ? p->in_len : VIRTIO_BLK_SERIAL);
    return S_OK;
}

/* True: somebody will answer. Else *status is the answer. */
static bool start(const struct parts *p, uint8_t *status)
{
    const struct header *h = &p->h;

    *status = S_UNSUPP;
    switch (h->type) {
    case T_IN:
        submit(p, (struct block_req){
                      .op = BLOCK_READ, .offset = sector_offset(h->sector), .len = p->in_len});
        return true;
    case T_OUT:
        submit(p, (struct block_req){
                      .op = BLOCK_WRITE, .offset = sector_offset(h->sector), .len = p->out_len});
        return true;
    case T_FLUSH:
        submit(p, (struct block_req){.op = BLOCK_FLUSH});
        return true;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        if (!virtio_has(&p->blk->dev, h->type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES))
            return false;
        *status = submit_range(p);
        return *status == S_OK;
    case T_GET_ID:
        *status = give_serial(p);
        return false;
    default:
        return false;
    }
}

static enum virtio_served serve(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct parts p = {.blk = container_of(dev, struct virtio_blk, dev), .q = q, .c = c};
    const struct iovec *last = &c->iov[c->out + c->in - 1];
    uint8_t status;

    if (c->out_len < sizeof(p.h) || !c->in_len)
        return VIRTIO_MALFORMED;
    virtq_read(c->iov, c->out, 0, &p.h, sizeof(p.h));
    p.out_len = c->out_len - (uint32_t)sizeof(p.h);
    p.in_len = c->in_len - 1;
    p.status = (uint8_t *)last->iov_base + last->iov_len - 1;
    if (!start(&p, &status))
        answer(p.blk, q, c->head, p.status, status, c->in_len);
    return VIRTIO_SERVED;
}

static bool process(struct virtio_device *dev, unsigned q)
{
    struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);
    bool more;

    block_plug(blk->block);
    more = virtio_serve(dev, q, BUDGET, serve);
    block_unplug(blk->block);
    flush_batch(blk);
    return more;
}

static void event(struct virtio_device *dev)
{
    block_reap(container_of(dev, struct virtio_blk, dev)->block);
}

/* On whatever thread reaps; the batch is that of the device's. */
static void settle(void *opaque)
{
    struct virtio_blk *blk = opaque;

    if (pthread_equal(pthread_self(), blk->dev.thread))
        flush_batch(blk);
}

static void drain(struct virtio_device *dev)
{
    block_drain(container_of(dev, struct virtio_blk, dev)->block);
}

/* ---- Configuration ----------------------------------------------------------------------- */

static uint8_t physical_exp(uint32_t block_size)
{
    uint8_t exp = 0;

    while (exp < 8 && (uint32_t)BLOCK_SECTOR << (exp + 1) <= block_size)
        exp++;
    return exp;
}

static void config_read(struct virtio_device *dev, unsigned off, void *buf, unsigned len)
{
    const struct block_info *info = &container_of(dev, struct virtio_blk, dev)->block->info;
    const struct blk_config cfg = {
        .capacity = info->size / BLOCK_SECTOR,
        .seg_max = info->iov_max && info->iov_max < SEG_MAX ? info->iov_max : SEG_MAX,
        .blk_size = BLOCK_SECTOR,
        .physical_exp = physical_exp(info->block_size),
        .min_io_size = (uint16_t)(1u << physical_exp(info->block_size)),
        .writeback = !info->writethrough,
        .num_queues = (uint16_t)dev->nqueues,
        .max_discard_sectors = MAX_SECTORS,
        .max_discard_seg = 1,
        .discard_alignment = info->discard_granularity / BLOCK_SECTOR,
        .max_zeroes_sectors = MAX_SECTORS,
        .max_zeroes_seg = 1,
        .zeroes_may_unmap = info->discard_granularity != 0,
    };

    if (off < sizeof(cfg))
        memcpy(buf, (const uint8_t *)&cfg + off, len < sizeof(cfg) - off ? len : sizeof(cfg) - off);
}

static const struct virtio_device_ops blk_ops = {
    .name = "virtio-blk",
    .process = process,
    .event = event,
    .drain = drain,
    .config_read = config_read,
};

int virtio_blk_init(struct virtio_blk *blk, const struct virtio_memory *memory, struct block *block,
                    unsigned queues, const char *serial, struct err *err)
{
    const struct block_info *info = &block->info;
    struct virtio_config cfg = {
        .ops = &blk_ops,
        .type = VIRTIO_BLK,
        .memory = *memory,
        .features = F_SEG_MAX | F_BLK_SIZE | F_TOPOLOGY | F_MQ,
        .queues = queues,
        .queue_size = QUEUE_SIZE,
        .event_fd = block->event_fd,
    };

    if (info->read_only)
        cfg.features |= F_RO;
    else
        cfg.features |= F_WRITE_ZEROES | (info->discard_granularity ? F_DISCARD : 0);
    /* Without it the driver knows that nothing is ever left to flush (5.2.5). */
    if (!info->writethrough)
        cfg.features |= F_FLUSH;
    memset(blk, 0, sizeof(*blk));
    blk->block = block;
    block->settle = settle;
    block->settle_opaque = blk;
    if (serial)
        memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
    return virtio_init(&blk->dev, &cfg, err);
}
