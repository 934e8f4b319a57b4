/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver that mostly does the right thing with a disk, a source of random
 * numbers, a balloon, a network card and a port: it sets them up, makes requests of all kinds out of chains that are
 * right, and now and then writes anything anywhere in the rings, the registers
 * or configuration space. Nothing but guest memory may be written, the disk
 * must not be asked for what it has not, and a queue that was refused must
 * show as DEVICE_NEEDS_RESET.
 *
 * With FUZZ_DEVICE, an index into box.dev, everything is done to that device
 * alone; fuzz_virtio has them side by side.
 */
#ifndef LODGE_TESTS_FUZZ_VIRTIO_H
#define LODGE_TESTS_FUZZ_VIRTIO_H

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "dev/virtio/balloon.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/console.h"
#include "dev/virtio/net.h"
#include "dev/virtio/pci.h"
#include "dev/virtio/rng.h"
#include "fuzz_ops.h"

#define LOW       0xc0000000ull
#define RAM       MIB(1)
#define RINGS     0x10000u /* a page of everything for each queue */
#define RING_SPAN 0x4000u
#define AVAIL_AT  0x1000u
#define USED_AT   0x2000u
#define TABLE_AT  0x3000u
#define DATA      0x76000u
#define DATA_SPAN 0x20000u
#define SIZE      16
#define QUEUES    5
#define DISK      KIB(64)
#define DEVICES   5

#define NEXT     1
#define WRITE    2
#define INDIRECT 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct mem mem; /* made once: a mapping for each input would take most of the time */
static uint8_t disk[DISK];

struct box {
    struct bus pio, mmio;
    struct pci_bus bus;
    struct virtio_memory memory;
    struct block *block;
    struct virtio_blk blk;
    struct virtio_balloon balloon;
    struct virtio_device rng, *dev[DEVICES];
    struct net net;
    struct virtio_net vn;
    struct virtio_console con;
    int peer; /* the other end of the console's port */
    struct virtio_pci vp[DEVICES];
    uint16_t avail[DEVICES][QUEUES];
};

/* ---- A disk in memory, in place of the formats ------------------------------------------- */

static int disk_open(struct block *b, const struct block_config *cfg, struct err *err)
{
    b->info = (struct block_info){.size = DISK, .block_size = 4096, .discard_granularity = 4096};
    return 0;
}

static void disk_close(struct block *b)
{
}

static int disk_now(struct block *b, struct block_req *req)
{
    uint64_t at = req->offset;

    if (req->op != BLOCK_FLUSH) {
        fuzz_check(at % 512 == 0 && req->len % 512 == 0);
        fuzz_check(at <= DISK && req->len <= DISK - at);
    }
    for (unsigned i = 0; i < req->iovcnt; i++) {
        uint8_t *p = req->iov[i].iov_base;
        size_t n = req->iov[i].iov_len;

        fuzz_check(n && p >= mem.map && p < mem.map + RAM && n <= (size_t)(mem.map + RAM - p));
        if (req->op == BLOCK_READ)
            memcpy(p, disk + at, n);
        else
            memcpy(disk + at, p, n);
        at += n;
    }
    if (req->op == BLOCK_WRITE_ZEROES)
        memset(disk + at, 0, req->len);
    return req->op == BLOCK_FLUSH && disk[0] == 0x77 ? -5 : 0;
}

const struct block_ops block_raw = {.name = "raw",
                                    .open = disk_open,
                                    .close = disk_close,
                                    .execute = disk_now,
                                    .try_now = disk_now};
const struct block_ops *const block_formats[] = {&block_raw, NULL};

/* ---- A network that sends everything back -------------------------------------------------- */

static void echo_send(struct net *net, const struct net_frame *f)
{
    const struct net_offload *o = &f->offload;
    size_t sum = 0;

    for (unsigned i = 0; i < f->iovcnt; i++)
        sum += f->iov[i].iov_len;
    fuzz_check(sum == f->len && sum >= 14 && sum <= NET_FRAME_MAX);
    fuzz_check(!o->gso_type || (o->gso_size && o->flags & NET_NEEDS_CSUM));
    fuzz_check(!(o->flags & NET_NEEDS_CSUM) || o->csum_start + o->csum_offset + 2u <= sum);
    net->card_ops->receive(net->card, f);
}

static const struct net_ops echo_ops = {.name = "echo", .send = echo_send};

/* ---- The machine --------------------------------------------------------------------------- */

static void written(void *opaque, gpa_t gpa, uint64_t len)
{
    fuzz_check(mem_hva(&mem, gpa, len));
}

static void message(void *opaque, uint64_t addr, uint32_t val)
{
}

/* A port that is connected to the fuzzer itself. */
static void console_init(struct box *b)
{
    const struct virtio_console_config cfg = {.ports = 1, .port = {{"port", -1}}};
    int pair[2];

    fuzz_check(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    fuzz_check(!virtio_console_init(&b->con, &b->memory, &cfg, NULL));
    pthread_mutex_lock(&b->con.lock);
    b->con.port[0].fd = pair[0];
    pthread_mutex_unlock(&b->con.lock);
    b->peer = pair[1];
}

static void box_init(struct box *b)
{
    struct pci_bus_config cfg = {
        .mmio = &b->mmio, .window = {{LOW, MIB(16)}}, .msi = message, .opaque = b};
    const struct virtio_net_config card = {.net = &b->net, .mtu = 1500, .pairs = 2};
    struct block_config image = {.path = "/dev/null", .format = "raw"};

    memset(b, 0, sizeof(*b));
    memset(disk, 0, sizeof(disk));
    if (!mem.map) {
        log_set_level(LOG_ERROR);
        fuzz_check(!mem_init(&mem, RAM, NULL));
    }
    memset(mem.map + RINGS, 0, DATA + DATA_SPAN - RINGS);
    b->memory = (struct virtio_memory){&mem, written, b};
    fuzz_check(!pci_bus_init(&b->bus, &cfg, NULL));
    fuzz_check(!bus_map(&b->pio, 0xcf8, 4, &pci_address_ops, &b->bus, "a", NULL));
    fuzz_check(!bus_map(&b->pio, 0xcfc, 4, &pci_data_ops, &b->bus, "d", NULL));
    fuzz_check(!block_open(&b->block, &image, NULL));
    fuzz_check(!virtio_blk_init(&b->blk, &b->memory, b->block, 2, "serial", NULL));
    fuzz_check(!virtio_rng_init(&b->rng, &b->memory, NULL));
    fuzz_check(!virtio_balloon_init(&b->balloon, &b->memory, NULL));
    b->net.ops = &echo_ops;
    b->net.takes = NET_TAKES_CSUM | NET_TAKES_TSO4 | NET_TAKES_TSO6;
    fuzz_check(!virtio_net_init(&b->vn, &b->memory, &card, NULL));
    console_init(b);
    b->dev[0] = &b->blk.dev;
    b->dev[1] = &b->rng;
    b->dev[2] = &b->balloon.dev;
    b->dev[3] = &b->vn.dev;
    b->dev[4] = &b->con.dev;
    for (unsigned d = 0; d < DEVICES; d++) {
        /* The devices' threads stay out: what they would do is done here, in a fixed order. */
        virtio_pause(b->dev[d]);
        fuzz_check(!virtio_pci_init(&b->vp[d], b->dev[d], &b->bus, d, NULL));
    }
    pci_bus_reset(&b->bus);
}

static void box_fini(struct box *b)
{
    for (unsigned d = 0; d < DEVICES; d++) {
        virtio_pci_fini(&b->vp[d]);
        if (d < 2)
            virtio_fini(b->dev[d]);
    }
    virtio_balloon_fini(&b->balloon);
    virtio_net_fini(&b->vn);
    virtio_console_fini(&b->con);
    close(b->peer);
    block_close(b->block);
    pci_bus_fini(&b->bus);
}

/* As the thread does. */
static void serve(struct virtio_device *dev)
{
    /* Of every other chain the vCPU's thread does what it can. */
    for (unsigned q = 0; q < dev->nqueues && dev->ops->process_now; q++)
        if (atomic_load(&dev->running) && dev->queue[q].ready && dev->queue[q].next_avail & 1)
            dev->ops->process_now(dev, q);
    for (unsigned q = 0; q < dev->nqueues; q++)
        for (unsigned i = 0; i < 4 && atomic_load(&dev->running) && dev->queue[q].ready; i++)
            if (!dev->ops->process(dev, q))
                break;
    for (unsigned q = 0; q < dev->nqueues; q++)
        if (dev->queue[q].ready && dev->queue[q].malformed)
            fuzz_check(atomic_load(&dev->status) & VIRTIO_NEEDS_RESET);
}

/* ---- The driver ----------------------------------------------------------------------------- */

static uint64_t bar(struct box *b, unsigned d)
{
    return b->vp[d].pci.mapped[0].base;
}

/* Wherever the BAR is now. */
static void reg(struct box *b, unsigned d, unsigned off, unsigned size, uint64_t val)
{
    pci_bar_write(&b->vp[d].pci, 0, off, size, val);
}

static gpa_t ring(unsigned d, unsigned q)
{
    return RINGS + RING_SPAN * (d * QUEUES + q);
}

static void put(gpa_t at, uint64_t val, unsigned size)
{
    fuzz_check(!mem_write(&mem, at, &val, size));
}

/* From reset to DRIVER_OK, with the features of `val` beside VERSION_1. */
static void set_up(struct box *b, unsigned d, uint32_t val)
{
    pci_config_write(&b->bus, d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    reg(b, d, 20, 1, 0);
    reg(b, d, 20, 1, 3);
    reg(b, d, 8, 4, 0);
    reg(b, d, 12, 4, val & (uint32_t)b->dev[d]->features);
    reg(b, d, 8, 4, 1);
    reg(b, d, 12, 4, 1);
    reg(b, d, 20, 1, 11);
    for (unsigned q = 0; q < b->dev[d]->nqueues; q++) {
        gpa_t r = ring(d, q);

        memset(mem.map + r, 0, RING_SPAN);
        b->avail[d][q] = 0;
        reg(b, d, 22, 2, q);
        reg(b, d, 24, 2, SIZE);
        reg(b, d, 26, 2, q);
        reg(b, d, 32, 8, r);
        reg(b, d, 40, 8, r + AVAIL_AT);
        reg(b, d, 48, 8, r + USED_AT);
        reg(b, d, 28, 2, 1);
    }
    reg(b, d, 20, 1, 15);
    fuzz_check(atomic_load(&b->dev[d]->running));
}

static void desc(gpa_t table, unsigned i, gpa_t addr, uint32_t len, unsigned flags)
{
    put(table + 16 * i, addr, 8);
    put(table + 16 * i + 8, len, 4);
    put(table + 16 * i + 12, flags, 2);
    put(table + 16 * i + 14, i + 1, 2);
}

/* Header | data | status, in the ring or in a table, the data in pieces. */
static void request(struct box *b, unsigned d, const struct fuzz_op *op)
{
    static const uint8_t types[8] = {0, 1, 0, 1, 4, 8, 11, 13};
    unsigned q = (op->addr >> 1 & 7) % b->dev[d]->nqueues, type = types[op->addr >> 2 & 7];
    unsigned pieces = 1 + (op->addr >> 5 & 3), n = 0;
    uint32_t len = type == 8 ? 20 : type >= 11 ? 16 : (op->val >> 8 & 15) * 512;
    bool indirect = op->addr & 0x80, in = type == 0 || type == 8;
    gpa_t r = ring(d, q), table = indirect ? r + TABLE_AT : r, at = DATA + 0x2000 * q;
    uint16_t slot = b->avail[d][q] % SIZE;

    put(at, type, 8);
    put(at + 8, op->val & 0xff, 8);
    if (type >= 11) {
        put(at + 0x100, op->val & 0x7f, 8);
        put(at + 0x108, op->val >> 8 & 0x3f, 4);
        put(at + 0x10c, op->val >> 16 & 1, 4);
    }
    desc(table, n++, at, 16, NEXT);
    for (unsigned i = 0; i < pieces; i++)
        desc(table, n++, at + 0x100 + len / pieces * i,
             i < pieces - 1 ? len / pieces : len - len / pieces * i, NEXT | (in ? WRITE : 0));
    desc(table, n, at + 16, 1, WRITE);
    if (indirect)
        desc(r, 0, table, 16 * (n + 1), INDIRECT);
    put(r + AVAIL_AT + 4 + 2 * slot, 0, 2);
    put(r + AVAIL_AT + 2, ++b->avail[d][q], 2);
    if (op->val & 1u << 31)
        put(r + AVAIL_AT + 4 + 2 * SIZE, b->avail[d][q] - 1, 2); /* used_event */
}

/* A buffer to receive into, or a frame or control message to send. */
static void stream_request(struct box *b, unsigned d, const struct fuzz_op *op)
{
    unsigned q = (op->addr >> 1 & 7) % b->dev[d]->nqueues, pieces = op->addr >> 2 & 3, n = 0;
    uint32_t len = op->val & (op->addr & 0x80 ? 0xfff : 0x7f);
    const struct net_offload o = {.flags = op->val >> 16 & 1,
                                  .gso_type = (uint8_t)(op->val >> 17 & 0x85),
                                  .gso_size = (uint16_t)(op->val >> 12 & 0xfff),
                                  .csum_start = (uint16_t)(op->val >> 20 & 0x7f),
                                  .csum_offset = (uint16_t)(op->val >> 27)};
    uint16_t slot = b->avail[d][q] % SIZE;
    gpa_t r = ring(d, q), at = DATA + 0x8000 + 0x4000 * q;

    if (d == 4)
        put(at, (op->val & 1) | (uint64_t)(op->val >> 1 & 7) << 32 | 1ull << 48, 8);
    else if (q & 1)
        fuzz_check(!mem_write(&mem, at, &o, sizeof(o)));
    for (; n < pieces; n++)
        desc(r, n, at + 6 * n, 6, NEXT | (q & 1 ? 0 : WRITE));
    desc(r, n, at + 6 * n, len + 12, q & 1 ? 0 : WRITE);
    put(r + AVAIL_AT + 4 + 2 * slot, 0, 2);
    put(r + AVAIL_AT + 2, ++b->avail[d][q], 2);
}

/* A command for the card's control queue, most of them to use one pair of queues or two. */
static void control_request(struct box *b, const struct fuzz_op *op)
{
    unsigned q = b->vn.dev.driver_features & 1ull << 22 ? 4 : 2;
    uint16_t slot = b->avail[3][q] % SIZE;
    gpa_t r = ring(3, q), at = DATA + 0x8000 + 0x4000 * q;

    put(at, op->val & 0x80 ? op->val : 4u | op->val << 16, 4);
    desc(r, 0, at, 2, NEXT);
    desc(r, 1, at + 2, op->addr >> 4 & 7, NEXT);
    desc(r, 2, at + 16, op->addr >> 7, WRITE);
    put(r + AVAIL_AT + 4 + 2 * slot, 0, 2);
    put(r + AVAIL_AT + 2, ++b->avail[3][q], 2);
}

static unsigned device_of(const struct fuzz_op *op)
{
#ifdef FUZZ_DEVICE
    return FUZZ_DEVICE;
#else
    return op->addr & 1 ? 1 + (op->what >> 4 & 3) : 0;
#endif
}

static void step(struct box *b, const struct fuzz_op *op)
{
    unsigned d = device_of(op), size = fuzz_size(op->what);
    uint8_t bytes[4096] = {0};

    switch (op->what & 15) {
    case 0:
    case 1:
        set_up(b, d, op->val);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
        if (d == 3 && (op->addr & 0x0e) == 0x0e)
            control_request(b, op);
        else if (d >= 3)
            stream_request(b, d, op);
        else
            request(b, d, op);
        serve(b->dev[d]);
        break;
    case 6: /* anything into rings and tables */
        put(ring(d, op->addr >> 1 & 1) + (op->val & 0x31ff),
            op->val >> 16 | (uint64_t)op->val << 32, size);
        break;
    case 7:
        put(ring(d, 0) + (op->addr & 0xfe) / 2, op->val, size);
        break;
    case 8:
        reg(b, d, op->addr >> 1, size, op->val);
        break;
    case 9:
        bus_read(&b->mmio, bar(b, d) + (op->val & 0x3fff), size);
        break;
    case 10:
        bus_write(&b->mmio, bar(b, d) + (op->val & 0x3fff), size, op->val >> 16);
        break;
    case 11: /* the capability that reaches BARs */
        pci_config_write(&b->bus, d, b->vp[d].access_cap + (op->addr >> 1) % 20,
                         size > 4 ? 4 : size, op->val);
        pci_config_read(&b->bus, d, b->vp[d].access_cap + 16, 4);
        break;
    case 12:
        bus_write(&b->pio, 0xcf8, 4, 0x80000000u | d << 11 | (op->addr & 0xfc));
        bus_write(&b->pio, 0xcfc, 4, op->val);
        break;
    case 13:
        virtio_config_changed(b->dev[d]);
        while (read(b->peer, bytes, sizeof(bytes)) > 0)
            ;
        fuzz_check(write(b->peer, bytes, op->addr) || true);
        break;
    case 14:
        pci_bus_reset(&b->bus);
        virtio_pci_reset(&b->vp[d]);
        break;
    default:
        serve(b->dev[d]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct box b;
    struct fuzz_op op;

    box_init(&b);
    for (unsigned i = 0; i < 256 && fuzz_next(&data, &len, &op); i++)
        step(&b, &op);
    box_fini(&b);
    return 0;
}

#endif
