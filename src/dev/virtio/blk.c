/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/virtio_blk.h"

#define QUEUE_SIZE 256
#define SEG_MAX    (QUEUE_SIZE - 2) /* header and status have descriptors of their own */
#define BUDGET     64
/* Served on the vCPU's thread: requests at one go, bytes and pieces of each. */
#define NOW_BUDGET 2
#define NOW_MOST   KIB(16)
#define NOW_PIECES 8

#define MAX_SECTORS (1u << 22) /* of a discard or write-zeroes */

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

static uint64_t moved_bytes(const struct block_req *io)
{
    return io->op == BLOCK_READ || io->op == BLOCK_WRITE ? io->len : 0;
}

/* The thread that finds too much under way says so before it looks again; here it is the other way round. */
static void settle_bytes(struct virtio_blk *blk, uint64_t len)
{
    if (atomic_fetch_sub(&blk->under_way, len) - len < VIRTIO_BLK_UNDER_WAY &&
        atomic_load(&blk->waits) && atomic_exchange(&blk->waits, false))
        virtio_notify(&blk->dev);
}

static bool is_too_much(struct virtio_blk *blk)
{
    if (atomic_load(&blk->under_way) < VIRTIO_BLK_UNDER_WAY)
        return false;
    atomic_store(&blk->waits, true);
    return atomic_load(&blk->under_way) >= VIRTIO_BLK_UNDER_WAY;
}

static void request_done(struct block_req *io, int result)
{
    struct blk_req *r = container_of(io, struct blk_req, io);
    struct virtio_blk *blk = r->blk;

    if (io->op == BLOCK_READ)
        virtq_written(&blk->dev.queue[r->queue], r->iov, r->niov, io->len);
    settle_bytes(blk, moved_bytes(io));
    answer(blk, r->queue, r->head, r->status, result ? BLK_S_IOERR : BLK_S_OK, r->in_len);
    free(r);
}

/* ---- Requests --------------------------------------------------------------------------- */

/* A chain taken apart: header | data to read | data to write | status. */
struct parts {
    struct virtio_blk *blk;
    unsigned q;
    const struct virtq_chain *c;
    struct blk_header h;
    uint32_t out_len, in_len; /* of the data */
    uint8_t *status;
};

/* NULL: no memory. Its bytes are under way from here on. */
static struct blk_req *request_new(const struct parts *p, struct block_req io)
{
    const struct virtq_chain *c = p->c;
    bool in = io.op == BLOCK_READ, out = io.op == BLOCK_WRITE;
    unsigned n = in ? c->in : out ? c->out : 0;
    struct blk_req *r = malloc(sizeof(*r) + n * sizeof(r->iov[0]));

    if (!r)
        return NULL;
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
    atomic_fetch_add(&p->blk->under_way, moved_bytes(&r->io));
    return r;
}

static void submit(const struct parts *p, struct block_req io)
{
    struct blk_req *r = request_new(p, io);

    if (r)
        block_submit(p->blk->block, &r->io);
    else
        answer(p->blk, p->q, p->c->head, p->status, BLK_S_IOERR, p->c->in_len);
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
    bool zeroes = p->h.type == BLK_T_WRITE_ZEROES;
    struct blk_range range;

    if (p->out_len != sizeof(range))
        return BLK_S_IOERR;
    virtq_read(p->c->iov, p->c->out, sizeof(p->h), &range, sizeof(range));
    if (range.flags & ~(zeroes ? BLK_RANGE_UNMAP : 0))
        return BLK_S_UNSUPP;
    if (range.sectors > MAX_SECTORS)
        return BLK_S_IOERR;
    submit(p, (struct block_req){.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD,
                                 .unmap = range.flags & BLK_RANGE_UNMAP,
                                 .offset = sector_offset(range.sector),
                                 .len = (uint64_t)range.sectors * BLOCK_SECTOR});
    return BLK_S_OK;
}

static uint8_t give_serial(const struct parts *p)
{
    virtq_write(&p->blk->dev.queue[p->q], p->c->iov + p->c->out, p->c->in, 0, p->blk->serial,
                p->in_len < VIRTIO_BLK_SERIAL ? p->in_len : VIRTIO_BLK_SERIAL);
    return BLK_S_OK;
}

/* True: somebody will answer. Else *status is the answer. */
static bool start(const struct parts *p, uint8_t *status)
{
    const struct blk_header *h = &p->h;

    *status = BLK_S_UNSUPP;
    switch (h->type) {
    case BLK_T_IN:
        submit(p, (struct block_req){
                      .op = BLOCK_READ, .offset = sector_offset(h->sector), .len = p->in_len});
        return true;
    case BLK_T_OUT:
        submit(p, (struct block_req){
                      .op = BLOCK_WRITE, .offset = sector_offset(h->sector), .len = p->out_len});
        return true;
    case BLK_T_FLUSH:
        submit(p, (struct block_req){.op = BLOCK_FLUSH});
        return true;
    case BLK_T_DISCARD:
    case BLK_T_WRITE_ZEROES:
        if (!virtio_has(&p->blk->dev,
                        h->type == BLK_T_DISCARD ? BLK_F_DISCARD : BLK_F_WRITE_ZEROES))
            return false;
        *status = submit_range(p);
        return *status == BLK_S_OK;
    case BLK_T_GET_ID:
        *status = give_serial(p);
        return false;
    default:
        return false;
    }
}

/* False: it has not the parts that every request has. */
static bool take_apart(struct parts *p)
{
    const struct virtq_chain *c = p->c;
    const struct iovec *last = &c->iov[c->out + c->in - 1];

    if (c->out_len < sizeof(p->h) || !c->in_len)
        return false;
    virtq_read(c->iov, c->out, 0, &p->h, sizeof(p->h));
    p->out_len = c->out_len - (uint32_t)sizeof(p->h);
    p->in_len = c->in_len - 1;
    p->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    return true;
}

static enum virtio_served serve(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct parts p = {.blk = container_of(dev, struct virtio_blk, dev), .q = q, .c = c};
    uint8_t status;

    if (!take_apart(&p))
        return VIRTIO_MALFORMED;
    if (is_too_much(p.blk))
        return VIRTIO_LATER;
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

/* A small read that the host's cache answers is over before another thread would be awake. */
static bool read_now(const struct parts *p, const struct block_req *io)
{
    const struct virtq_chain *c = p->c;
    struct iovec iov[NOW_PIECES];
    struct block_req req = *io;

    req.iov = iov;
    req.iovcnt = virtq_slice(c->iov + c->out, c->in, 0, p->in_len, iov);
    if (block_try(p->blk->block, &req))
        return false;
    virtq_written(&p->blk->dev.queue[p->q], iov, req.iovcnt, req.len);
    answer(p->blk, p->q, c->head, p->status, BLK_S_OK, c->in_len);
    return true;
}

/*
 * Who waits for a single read is halted soon: this vCPU begins it, and may see its end, too, without the device's thread.
 * When there are more, that thread begins the next ones while the guest goes on.
 */
static bool read_near(const struct parts *p, const struct block_req *io)
{
    struct blk_req *r;

    if (!p->blk->block->near || atomic_load(&p->blk->under_way))
        return false;
    r = request_new(p, *io);
    if (r && !block_near(p->blk->block, &r->io))
        return true;
    if (r)
        settle_bytes(p->blk, moved_bytes(&r->io));
    free(r);
    return false;
}

static enum virtio_served serve_now(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);
    struct parts p = {.blk = blk, .q = q, .c = c};
    struct block_req io = {.op = BLOCK_READ};

    blk->left = true;
    if (!take_apart(&p) || p.in_len > NOW_MOST || c->in > NOW_PIECES || p.h.type != BLK_T_IN)
        return VIRTIO_LATER;
    io.offset = sector_offset(p.h.sector);
    io.len = p.in_len;
    if (!read_now(&p, &io) && !read_near(&p, &io))
        return VIRTIO_LATER;
    blk->left = false;
    return VIRTIO_SERVED;
}

static bool process_now(struct virtio_device *dev, unsigned q)
{
    struct virtio_blk *blk = container_of(dev, struct virtio_blk, dev);

    blk->left = false;
    return !virtio_serve(dev, q, NOW_BUDGET, serve_now) && !blk->left;
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

static int watch_begin(void *opaque)
{
    return block_watch(((struct virtio_blk *)opaque)->block);
}

static void watch_look(void *opaque)
{
    block_reap(((struct virtio_blk *)opaque)->block);
}

static void watch_end(void *opaque)
{
    block_unwatch(((struct virtio_blk *)opaque)->block);
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
    const struct blk_layout cfg = {
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
    .process_now = process_now,
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
        .features = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_TOPOLOGY | BLK_F_MQ,
        .queues = queues,
        .queue_size = QUEUE_SIZE,
        .event_fd = block->event_fd,
        .watch = block->near ? &blk->watch : NULL,
    };

    if (info->read_only)
        cfg.features |= BLK_F_RO;
    else
        cfg.features |= BLK_F_WRITE_ZEROES | (info->discard_granularity ? BLK_F_DISCARD : 0);
    /* Without it the driver knows that nothing is ever left to flush (5.2.5). */
    if (!info->writethrough)
        cfg.features |= BLK_F_FLUSH;
    memset(blk, 0, sizeof(*blk));
    blk->block = block;
    blk->watch = (struct idle_watch){watch_begin, watch_look, watch_end, blk};
    block->settle = settle;
    block->settle_opaque = blk;
    if (serial)
        memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
    return virtio_init(&blk->dev, &cfg, err);
}
