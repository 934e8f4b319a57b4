/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/dev/virtio/virtio.c src/dev/virtio/queue.c src/dev/virtio/vsock.c src/dev/virtio/vsock_conn.c
 *       src/core/mem.c src/base/err.c src/base/log.c src/base/listen.c */
/*
 * A driver that mostly sends what makes sense over a few ports, with real
 * sockets at the other end that connect, send, read, stop and go away, and now
 * and then a packet or a chain of any kind. What the device says must add up:
 * no more than the guest's credit, no more taken than its own, nothing after
 * the end; and no connection may be left when the guest is reset.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../unit/virtio_driver.h"
#include "base/listen.h"
#include "base/log.h"
#include "dev/virtio/vsock_int.h"
#include "fuzz_ops.h"

#define RAM    MIB(2)
#define SIZE   16
#define TX     0x20000u
#define RX(i)  (0x100000u + 0x8000u * (i))
#define PORTS  4 /* servers are at the first two */
#define PEERS  8
#define CREDIT 5000u

#define WRITE 2

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* What a driver knows of a connection, by its own port (0 to PORTS - 1) and the host's. */
struct half {
    uint32_t host_port;
    bool known, wild; /* wild: the fuzzer has not played by the rules with it */
    uint32_t sent, received, alloc, fwd;
    unsigned shut;
};

struct box {
    struct virtio_vsock vs;
    int server[2], peer[PEERS];
    uint16_t avail[2], used;
    struct half half[PORTS * PORTS];
    uint32_t given; /* receive buffers that the device has, as bits */
    bool
        spoiled; /* the rings were written to, or one buffer is there twice: what they say may be anything */
    bool forgot; /* what was said before; the device may still answer to it */
};

/* Made once: a mapping and sockets for each input would take most of the time. */
static struct mem mem;
static char dir[64], path[80];
static int listen_fd, server[2];

static void written(void *opaque, gpa_t gpa, uint64_t len)
{
    fuzz_check(mem_hva(&mem, gpa, len));
}

static void clean(void)
{
    char name[100];

    unlink(path);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s_%u", path, i);
        unlink(name);
    }
    rmdir(dir);
}

static void make_once(void)
{
    char name[100];

    if (mem.map)
        return;
    log_set_level(LOG_ERROR);
    fuzz_check(!mem_init(&mem, RAM, NULL));
    strcpy(dir, "/tmp/lodge-fuzz.XXXXXX");
    fuzz_check(mkdtemp(dir));
    atexit(clean);
    snprintf(path, sizeof(path), "%s/v", dir);
    listen_fd = listen_unix(path, NULL);
    fuzz_check(listen_fd >= 0);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s_%u", path, i);
        server[i] = listen_unix(name, NULL);
        fuzz_check(server[i] >= 0);
    }
}

static void put(gpa_t at, uint64_t val, unsigned size)
{
    fuzz_check(!mem_write(&mem, at, &val, size));
}

static void give(struct box *b, unsigned q, unsigned head)
{
    put(AVAIL(q) + 4 + 2 * (b->avail[q] % SIZE), head, 2);
    put(AVAIL(q) + 2, ++b->avail[q], 2);
}

static void give_rx(struct box *b, unsigned i, uint32_t len)
{
    b->spoiled |= (b->given >> i & 1) != 0;
    b->given |= 1u << i;
    put(RING(0) + 16 * i, RX(i), 8);
    put(RING(0) + 16 * i + 8, len, 4);
    put(RING(0) + 16 * i + 12, WRITE, 4);
    give(b, 0, i);
}

static void set_up(struct box *b)
{
    struct virtio_device *dev = &b->vs.dev;

    virtio_status_write(dev, 0);
    for (unsigned i = 0; i < b->vs.connections; i++)
        fuzz_check(b->vs.connection[i].state == CONN_UNUSED);
    fuzz_check(TAILQ_EMPTY(&b->vs.ready) && !b->vs.waiting);
    memset(mem.map + RING(0), 0, 0x8000);
    memset(b->avail, 0, sizeof(b->avail));
    memset(b->half, 0, sizeof(b->half));
    b->used = 0;
    b->spoiled = b->forgot = false;
    b->given = 0;
    driver_start(dev, 0, 2, SIZE);
    fuzz_check(atomic_load(&dev->running));
}

static void turn(struct box *b)
{
    struct virtio_device *dev = &b->vs.dev;

    for (unsigned q = 0; q < 2; q++)
        for (unsigned i = 0; i < 4 && atomic_load(&dev->running); i++)
            if (!dev->ops->process(dev, q))
                break;
    virtio_vsock_turn(&b->vs, 0);
}

/* *first: nothing is known of it. */
static struct half *half_of(struct box *b, uint32_t guest_port, uint32_t host_port, bool *first)
{
    struct half *unknown = NULL;

    *first = false;
    if (guest_port >= PORTS)
        return NULL;
    for (unsigned i = 0; i < PORTS; i++) {
        struct half *h = &b->half[guest_port * PORTS + i];

        if (h->known && h->host_port == host_port)
            return h;
        if (!h->known)
            unknown = h;
    }
    *first = unknown && !b->forgot;
    if (unknown)
        *unknown = (struct half){.host_port = host_port, .known = true, .wild = true};
    return unknown;
}

/* The device's packet, against what was said before. */
static void check_packet(struct box *b, const struct vsock_packet *p, uint32_t len)
{
    struct half *h;
    bool first;

    fuzz_check(len == sizeof(*p) + p->len && p->dst_cid == VIRTIO_VSOCK_CID);
    fuzz_check(p->op >= VSOCK_REQUEST && p->op <= VSOCK_CREDIT_REQUEST);
    fuzz_check(p->op == VSOCK_RW ? p->len > 0 : !p->len);
    h = half_of(b, p->dst_port, p->src_port, &first);
    if (!h)
        return;
    if (p->op == VSOCK_REQUEST)
        *h = (struct half){.host_port = p->src_port, .known = true};
    h->alloc = p->buf_alloc;
    h->fwd = p->fwd_cnt;
    h->received += p->len;
    if (!h->wild) {
        fuzz_check(p->op == VSOCK_RST || h->sent - p->fwd_cnt <= p->buf_alloc);
        fuzz_check(!(p->op == VSOCK_RW && h->shut & VSOCK_SHUT_SEND));
        if (p->op == VSOCK_SHUTDOWN) {
            fuzz_check((p->flags & h->shut) == h->shut);
            h->shut = p->flags;
        }
    }
    if (p->op == VSOCK_RST)
        h->known = false;
}

static void take(struct box *b, unsigned n)
{
    uint16_t idx;

    turn(b);
    fuzz_check(!mem_read(&mem, USED(0) + 2, &idx, 2));
    for (; n && b->used != idx && (uint16_t)(idx - b->used) <= SIZE; n--) {
        struct vsock_packet p;
        uint32_t e[2];

        fuzz_check(!mem_read(&mem, USED(0) + 4 + 8 * (b->used++ % SIZE), e, 8));
        if (b->spoiled && e[0] >= SIZE)
            return;
        fuzz_check(e[0] < SIZE);
        b->given &= ~(1u << e[0]);
        fuzz_check(!mem_read(&mem, RX(e[0]), &p, sizeof(p)));
        if (!b->spoiled)
            check_packet(b, &p, e[1]);
        give_rx(b, e[0], 0x8000);
    }
}

static void send_packet(struct box *b, const struct fuzz_op *op, bool sane)
{
    struct vsock_packet p = {
        .src_cid = VIRTIO_VSOCK_CID,
        .dst_cid = VSOCK_HOST,
        .src_port = op->addr & (PORTS - 1),
        .dst_port = op->addr >> 2 & (PORTS - 1),
        .type = VSOCK_STREAM,
        .op = op->addr >> 4 & 7,
        .flags = op->val & 3,
        .buf_alloc = CREDIT,
    };
    unsigned pieces = 1 + (op->val >> 30);
    struct half *h;
    bool first;

    if (op->val & 4) /* one from the host, as far as there is one */
        p.dst_port = b->half[op->addr & (PORTS * PORTS - 1)].host_port;
    h = half_of(b, p.src_port, p.dst_port, &first);
    if (p.op == VSOCK_RW)
        p.len = op->val >> 8 & 0xfff;
    if (!sane) {
        uint8_t *byte = (uint8_t *)&p + (op->val >> 20) % sizeof(p);

        *byte ^= (uint8_t)(op->val >> 12);
        memset(b->half, 0, sizeof(b->half));
        b->forgot = true;
        h = NULL;
    } else if (h) {
        p.fwd_cnt = h->received;
        /* What the device has said about an earlier one may still be on its way. */
        if (p.op == VSOCK_RST || (p.op == VSOCK_REQUEST && !first))
            h->wild = true;
        else if (p.op == VSOCK_REQUEST)
            *h = (struct half){.host_port = p.dst_port, .known = true};
        if (p.len > h->alloc - (h->sent - h->fwd))
            p.len = h->alloc - (h->sent - h->fwd) > CREDIT ? 0 : h->alloc - (h->sent - h->fwd);
        h->sent += p.len;
    }
    fuzz_check(!mem_write(&mem, TX, &p, sizeof(p)));
    for (unsigned i = 0; i < pieces; i++) {
        uint32_t all = (uint32_t)sizeof(p) + (p.len & 0xffff), part = all / pieces;

        put(RING(1) + 16 * i, TX + part * i, 8);
        put(RING(1) + 16 * i + 8, i + 1 < pieces ? part : all - part * i, 4);
        put(RING(1) + 16 * i + 12, (i + 1 < pieces) | (i + 1) << 16, 4);
    }
    give(b, 1, 0);
    turn(b);
}

/* A peer's own doings. */
static void peer_step(struct box *b, const struct fuzz_op *op)
{
    static uint8_t junk[1 << 16];
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int *peer = &b->peer[op->addr & (PEERS - 1)];
    char hello[40] = {0};

    if (*peer < 0) {
        *peer = accept4(b->server[op->addr >> 3 & 1], NULL, NULL, SOCK_NONBLOCK);
        if (*peer >= 0)
            return;
        *peer = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        strcpy(addr.sun_path, path);
        if (connect(*peer, (struct sockaddr *)&addr, sizeof(addr)) < 0)
            return;
        snprintf(hello, sizeof(hello), "CONNECT %u\n", op->val & (PORTS - 1));
        if (op->addr & 0x80)
            hello[op->val >> 8 & 15] = (char)(op->val >> 16);
        send(*peer, hello, strlen(hello), MSG_NOSIGNAL);
        return;
    }
    switch (op->addr >> 4 & 7) {
    case 0:
        close(*peer);
        *peer = -1;
        break;
    case 1:
        shutdown(*peer, op->val % 3);
        break;
    case 2:
    case 3:
    case 4:
        send(*peer, junk, op->val & 0xffff, MSG_NOSIGNAL);
        break;
    default:
        (void)!read(*peer, junk, op->val & 0xffff);
    }
}

static void step(struct box *b, const struct fuzz_op *op)
{
    switch (op->what & 15) {
    case 0:
        set_up(b);
        break;
    case 1:
        give_rx(b, op->addr & (SIZE - 1), op->val & 1 ? 0x8000 : op->val & 0xff);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
        send_packet(b, op, true);
        break;
    case 7:
        send_packet(b, op, false);
        break;
    case 8: /* anything into the rings */
        put(RING(op->addr & 1) + (op->val & 0x31ff), op->val >> 16, fuzz_size(op->what));
        b->spoiled = true;
        break;
    case 9:
        virtio_pause(&b->vs.dev);
        virtio_vsock_turn(&b->vs, 0);
        virtio_resume(&b->vs.dev);
        break;
    case 10:
    case 11:
    case 12:
        peer_step(b, op);
        turn(b);
        break;
    default:
        take(b, op->addr);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct box b;
    struct virtio_memory memory = {&mem, written, NULL};
    struct virtio_vsock_config cfg = {.cid = VIRTIO_VSOCK_CID, .path = path, .no_thread = true};
    struct fuzz_op op;
    int fd;

    make_once();
    memset(&b, 0, sizeof(b));
    memcpy(b.server, server, sizeof(server));
    memset(b.peer, -1, sizeof(b.peer));
    cfg.listen_fd = listen_fd;
    fuzz_check(!virtio_vsock_init(&b.vs, &memory, &cfg, NULL));
    virtio_pause(&b.vs.dev); /* its thread stays out */
    set_up(&b);
    for (unsigned i = 0; i < SIZE; i++)
        give_rx(&b, i, 0x8000);
    for (unsigned i = 0; i < 512 && fuzz_next(&data, &len, &op); i++)
        step(&b, &op);
    virtio_vsock_fini(&b.vs);
    for (unsigned i = 0; i < PEERS; i++)
        if (b.peer[i] >= 0)
            close(b.peer[i]);
    /* Nobody is left over for the next input. */
    while ((fd = accept(listen_fd, NULL, NULL)) >= 0)
        close(fd);
    for (unsigned i = 0; i < 2; i++)
        while ((fd = accept(server[i], NULL, NULL)) >= 0)
            close(fd);
    return 0;
}
