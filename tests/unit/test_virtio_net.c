/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/virtio/virtio.c src/dev/virtio/queue.c src/dev/virtio/net.c src/core/mem.c src/base/err.c
 *       src/base/log.c src/base/bucket.c src/net/flow.c src/net/limit.c */
/* A network card between a driver made of memory writes and a backend that counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "dev/virtio/net.h"

#define SIZE    16
#define RINGS   0x10000u /* of queue q at RINGS * (q + 1): descriptors, 4K on avail, 8K on used */
#define DATA    0x80000u
#define PAIRS   3
#define CONTROL (2 * PAIRS)

#define NEXT  1
#define WRITE 2

#define F_CSUM       (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_GUEST_TSO4 (1ull << 7)
#define F_HOST_TSO4  (1ull << 11)
#define F_MRG        (1ull << 15)
#define F_CTRL       (1ull << 17)
#define F_MQ         (1ull << 22)

struct fixture {
    struct mem mem;
    struct virtio_memory memory;
    struct net net;
    struct virtio_net vn;
    uint16_t avail[CONTROL + 1];
    _Atomic unsigned sent, readies;
    struct net_offload offload; /* of the last one sent */
    uint8_t frame[2048];
    size_t len;
    _Atomic unsigned interrupts[CONTROL + 1], config_interrupts;
};

static void on_written(void *opaque, gpa_t gpa, uint64_t len)
{
}

static void net_send(struct net *net, const struct net_frame *f)
{
    struct fixture *x = container_of(net, struct fixture, net);

    x->offload = f->offload;
    x->len = virtq_read(f->iov, f->iovcnt, 0, x->frame, sizeof(x->frame));
    assert_int_equal(x->len, f->len);
    x->sent++;
}

static void net_ready(struct net *net)
{
    container_of(net, struct fixture, net)->readies++;
}

static const struct net_ops net_ops = {.name = "test", .send = net_send, .ready = net_ready};

static void queue_interrupt(void *opaque, unsigned q)
{
    ((struct fixture *)opaque)->interrupts[q]++;
}

static void config_interrupt(void *opaque)
{
    ((struct fixture *)opaque)->config_interrupts++;
}

static const struct virtio_transport_ops transport = {queue_interrupt, config_interrupt};

static int setup_with(void **state, const struct net_rates *rates)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const struct virtio_net_config cfg = {
        .net = &f->net, .mac = {2, 3, 4, 5, 6, 7}, .mtu = 9000, .pairs = PAIRS, .rates = *rates};

    f->net.ops = &net_ops;
    f->net.takes = NET_TAKES_CSUM | NET_TAKES_TSO4;
    assert_int_equal(mem_init(&f->mem, MIB(2), NULL), 0);
    f->memory = (struct virtio_memory){&f->mem, on_written, f};
    assert_int_equal(virtio_net_init(&f->vn, &f->memory, &cfg, NULL), 0);
    f->vn.dev.transport = &transport;
    f->vn.dev.transport_opaque = f;
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, &(struct net_rates){0});
}

/* Frames of 60 bytes pass one at a time, one in 60 ms. */
static int setup_slow(void **state)
{
    return setup_with(state, &(struct net_rates){.rate = {1000, 1000}, .burst = 1});
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_net_fini(&f->vn);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

/* ---- The driver ------------------------------------------------------------------------ */

static void put(struct fixture *f, gpa_t at, uint64_t val, unsigned size)
{
    if (size == 2)
        __atomic_store_n((uint16_t *)(void *)mem_hva(&f->mem, at, 2), (uint16_t)val,
                         __ATOMIC_SEQ_CST);
    else
        assert_int_equal(mem_write(&f->mem, at, &val, size), 0);
}

static uint64_t get(struct fixture *f, gpa_t at, unsigned size)
{
    uint64_t val = 0;

    if (size == 2)
        return __atomic_load_n((uint16_t *)(void *)mem_hva(&f->mem, at, 2), __ATOMIC_SEQ_CST);
    assert_int_equal(mem_read(&f->mem, at, &val, size), 0);
    return val;
}

static void set_up(struct fixture *f, uint64_t features)
{
    struct virtio_device *dev = &f->vn.dev;

    virtio_status_write(dev, 0);
    virtio_driver_features_write(dev, 0, (uint32_t)features);
    virtio_driver_features_write(dev, 1, 1);
    virtio_status_write(dev, 11);
    assert_int_equal(dev->status, 11);
    for (unsigned q = 0; q < (features & F_CTRL ? dev->nqueues : 2); q++) {
        gpa_t at = RINGS * (q + 1);

        f->avail[q] = 0;
        put(f, at + 0x1000, 0, 4);
        put(f, at + 0x2000, 0, 4);
        pthread_mutex_lock(&dev->lock);
        dev->queue[q].size = SIZE;
        dev->queue[q].desc = at;
        dev->queue[q].driver = at + 0x1000;
        dev->queue[q].device = at + 0x2000;
        virtio_queue_enable_locked(dev, q);
        pthread_mutex_unlock(&dev->lock);
    }
    virtio_status_write(dev, 15);
}

static void desc(struct fixture *f, unsigned q, unsigned i, gpa_t addr, uint32_t len,
                 unsigned flags)
{
    gpa_t at = RINGS * (q + 1) + 16 * i;

    put(f, at, addr, 8);
    put(f, at + 8, len, 4);
    put(f, at + 12, flags, 2);
    put(f, at + 14, i + 1, 2);
}

static void give(struct fixture *f, unsigned q, unsigned head)
{
    gpa_t at = RINGS * (q + 1) + 0x1000;

    put(f, at + 4 + 2 * (f->avail[q] % SIZE), head, 2);
    put(f, at + 2, ++f->avail[q], 2);
    virtio_notify(&f->vn.dev);
}

static unsigned used(struct fixture *f, unsigned q)
{
    return (unsigned)get(f, RINGS * (q + 1) + 0x2002, 2);
}

static void wait_used(struct fixture *f, unsigned q, unsigned count)
{
    const struct timespec ms = {0, 1000000};

    for (unsigned i = 0; used(f, q) != count && i < 10000; i++)
        nanosleep(&ms, NULL);
    assert_int_equal(used(f, q), count);
}

static void wait_ready(struct fixture *f, unsigned count)
{
    const struct timespec ms = {0, 1000000};

    for (unsigned i = 0; f->readies != count && i < 10000; i++)
        nanosleep(&ms, NULL);
    assert_int_equal(f->readies, count);
}

/* Header with these fields, then `len` bytes of frame. */
static void transmit(struct fixture *f, struct net_offload o, uint32_t len)
{
    unsigned want = used(f, 1) + 1;

    assert_int_equal(mem_write(&f->mem, DATA, &o, sizeof(o)), 0);
    for (unsigned i = 0; i < 64; i++)
        put(f, DATA + 12 + i, i, 1);
    desc(f, 1, 0, DATA, 7, NEXT); /* the header in two pieces */
    desc(f, 1, 1, DATA + 7, len + 5, 0);
    give(f, 1, 0);
    wait_used(f, 1, want);
}

static bool deliver(struct fixture *f, size_t len)
{
    static uint8_t bytes[NET_FRAME_MAX];
    struct iovec iov[2] = {{bytes, 10}, {bytes + 10, len - 10}};
    const struct net_frame frame = {
        .offload = {.flags = NET_DATA_VALID}, .iov = iov, .iovcnt = 2, .len = len};

    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    return f->net.card_ops->receive(f->net.card, &frame);
}

/* ---- Cases --------------------------------------------------------------------------------- */

static void shows_what_it_is(void **state)
{
    struct fixture *f = *state;
    uint8_t cfg[12] = {0};

    f->vn.dev.ops->config_read(&f->vn.dev, 0, cfg, 12);
    assert_memory_equal(cfg, f->vn.mac, 6);
    assert_int_equal(cfg[6], 1);
    assert_int_equal(cfg[8] | cfg[9] << 8, PAIRS);
    assert_int_equal(cfg[10] | cfg[11] << 8, 9000);
    assert_true(f->vn.dev.features & F_HOST_TSO4);
    assert_false(f->vn.dev.features & (1ull << 12)); /* HOST_TSO6: the backend does not take it */
    set_up(f, F_GUEST_CSUM | F_GUEST_TSO4);
    assert_int_equal(f->net.card_takes, NET_TAKES_CSUM | NET_TAKES_TSO4);
    set_up(f, F_GUEST_TSO4);
    assert_int_equal(f->net.card_takes, 0);
    virtio_net_set_link(&f->vn, false);
    virtio_net_set_link(&f->vn, false);
    assert_int_equal(f->config_interrupts, 1);
    f->vn.dev.ops->config_read(&f->vn.dev, 6, cfg, 1);
    assert_int_equal(cfg[0], 0);
}

static void sends(void **state)
{
    const struct net_offload plain = {0};
    const struct net_offload tso = {
        .flags = 1, .gso_type = 1, .gso_size = 1448, .csum_start = 34, .csum_offset = 16};
    struct fixture *f = *state;
    struct net_offload o;

    set_up(f, F_CSUM | F_HOST_TSO4);
    transmit(f, plain, 60);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->len, 60);
    for (unsigned i = 0; i < 60; i++)
        assert_int_equal(f->frame[i], i);
    transmit(f, tso, 60);
    assert_int_equal(f->sent, 2);
    assert_memory_equal(&f->offload, &tso, sizeof(tso));
    /* Dropped, and nothing worse: too short, sum outside the frame, kinds not agreed on or unknown, no sum. */
    transmit(f, plain, 13);
    o = tso;
    o.csum_start = 59;
    transmit(f, o, 60);
    o = tso;
    o.csum_offset = 0xffff;
    transmit(f, o, 60);
    o = tso;
    o.gso_type = 4;
    transmit(f, o, 60);
    o.gso_type = 3;
    transmit(f, o, 60);
    o = tso;
    o.gso_size = 0;
    transmit(f, o, 60);
    o = tso;
    o.flags = 0;
    transmit(f, o, 60);
    assert_int_equal(f->sent, 2);
    virtio_net_set_link(&f->vn, false);
    transmit(f, plain, 60);
    assert_int_equal(f->sent, 2);
    virtio_net_set_link(&f->vn, true);
    set_up(f, 0);
    transmit(f, tso, 60); /* agreed on nothing now */
    transmit(f, plain, 60);
    assert_int_equal(f->sent, 3);
    assert_false(f->vn.dev.status & VIRTIO_NEEDS_RESET);
}

static void receives_into_one_buffer(void **state)
{
    struct fixture *f = *state;

    assert_true(deliver(f, 100)); /* nobody there: dropped */
    set_up(f, 0);
    wait_ready(f, 1);
    assert_false(deliver(f, 100));
    desc(f, 0, 0, DATA, 12, NEXT | WRITE);
    desc(f, 0, 1, DATA + 0x100, 1514, WRITE);
    give(f, 0, 0);
    wait_ready(f, 2);
    assert_true(deliver(f, 1514));
    assert_int_equal(used(f, 0), 1);
    assert_int_equal(get(f, RINGS + 0x2004, 8), 1526ull << 32);
    assert_int_equal(get(f, DATA, 1), NET_DATA_VALID);
    assert_int_equal(get(f, DATA + 10, 2), 1);
    assert_int_equal(get(f, DATA + 0x100 + 1513, 1), (uint8_t)(1513 * 7 + 5));
    /* One that does not fit is dropped, and its buffer serves the next. */
    give(f, 0, 0);
    assert_true(deliver(f, 1515));
    assert_int_equal(used(f, 0), 1);
    assert_true(deliver(f, 60));
    assert_int_equal(used(f, 0), 2);
}

static void merges_buffers(void **state)
{
    struct fixture *f = *state;

    set_up(f, F_MRG);
    wait_ready(f, 1);
    for (unsigned i = 0; i < 3; i++) {
        desc(f, 0, i, DATA + 0x1000 * i, 1000, WRITE);
        give(f, 0, i);
    }
    assert_true(deliver(f, 2000));
    assert_int_equal(used(f, 0), 3);
    assert_int_equal(get(f, DATA + 10, 2), 3);
    assert_int_equal(get(f, RINGS + 0x2004 + 8 * 2, 8), 2 | 12ull << 32);
    assert_int_equal(get(f, DATA + 0x1000, 1), (uint8_t)(988 * 7 + 3));
    assert_int_equal(get(f, DATA + 0x2000 + 11, 1), (uint8_t)(1999 * 7 + 7));
    /* Two are too few: they stay, until a third comes. */
    give(f, 0, 0);
    give(f, 0, 1);
    assert_false(deliver(f, 2000));
    assert_int_equal(used(f, 0), 3);
    give(f, 0, 2);
    wait_ready(f, 2);
    assert_true(deliver(f, 2000));
    assert_int_equal(used(f, 0), 6);
}

static void breaks(void **state)
{
    struct fixture *f = *state;

    set_up(f, 0);
    wait_ready(f, 1);
    desc(f, 0, 0, DATA, 12, WRITE); /* room for the header only */
    give(f, 0, 0);
    deliver(f, 60);
    assert_true(f->vn.dev.status & VIRTIO_NEEDS_RESET);
    assert_int_equal(f->config_interrupts, 1);
    assert_true(deliver(f, 60));
    set_up(f, 0);
    wait_ready(f, 2);
    assert_false(deliver(f, 60));
}

/* ---- Several queues ------------------------------------------------------------------------ */

static uint8_t command(struct fixture *f, unsigned class, unsigned cmd, unsigned pairs)
{
    unsigned want = used(f, CONTROL) + 1;

    put(f, DATA, class | cmd << 8 | pairs << 16, 4);
    put(f, DATA + 8, 0x77, 1);
    desc(f, CONTROL, 0, DATA, 2, NEXT);
    desc(f, CONTROL, 1, DATA + 2, 2, NEXT);
    desc(f, CONTROL, 2, DATA + 8, 1, WRITE);
    give(f, CONTROL, 0);
    wait_used(f, CONTROL, want);
    return (uint8_t)get(f, DATA + 8, 1);
}

/* UDP over IPv4 between ports of 10.0.0.1 and 10.0.0.2. */
static void udp_frame(uint8_t b[60], bool out, unsigned port)
{
    static const uint8_t ip[] = {0x45, 0, 0,  46, 0, 0, 0,  0, 64, 17,
                                 0,    0, 10, 0,  0, 1, 10, 0, 0,  2};

    memset(b, 0, 60);
    b[12] = 8;
    memcpy(b + 14, ip, sizeof(ip));
    b[34] = (uint8_t)(port >> 8);
    b[35] = (uint8_t)port;
    b[37] = 53;
    if (!out) {
        b[29] = 2;
        b[33] = 1;
        b[34] = 0;
        b[35] = 53;
        b[36] = (uint8_t)(port >> 8);
        b[37] = (uint8_t)port;
    }
}

static void transmit_udp(struct fixture *f, unsigned pair, unsigned port)
{
    unsigned q = 2 * pair + 1, want = used(f, q) + 1;
    uint8_t bytes[72] = {0};

    udp_frame(bytes + 12, true, port);
    assert_int_equal(mem_write(&f->mem, DATA, bytes, sizeof(bytes)), 0);
    desc(f, q, 0, DATA, sizeof(bytes), 0);
    give(f, q, 0);
    wait_used(f, q, want);
}

/* The answer comes by this pair. */
static unsigned answer(struct fixture *f, unsigned port)
{
    unsigned before[PAIRS], pair = PAIRS;
    uint8_t bytes[60];
    const struct iovec iov = {bytes, sizeof(bytes)};
    const struct net_frame frame = {.iov = &iov, .iovcnt = 1, .len = sizeof(bytes)};

    udp_frame(bytes, false, port);
    for (unsigned i = 0; i < PAIRS; i++)
        before[i] = used(f, 2 * i);
    assert_true(f->net.card_ops->receive(f->net.card, &frame));
    for (unsigned i = 0; i < PAIRS; i++)
        if (used(f, 2 * i) != before[i]) {
            assert_int_equal(pair, PAIRS);
            pair = i;
        }
    assert_true(pair < PAIRS);
    return pair;
}

/* As a driver does that has taken all there is in the receive queue. */
static void take_all(struct fixture *f, unsigned pair)
{
    put(f, RINGS * (2 * pair + 1) + 0x1004 + 2 * SIZE, used(f, 2 * pair), 2);
}

static void set_up_pairs(struct fixture *f, unsigned pairs)
{
    set_up(f, F_MQ | F_CTRL | VIRTIO_F_EVENT_IDX);
    for (unsigned pair = 0; pair < PAIRS; pair++)
        for (unsigned i = 0; i < SIZE; i++) {
            desc(f, 2 * pair, i, DATA + 0x10000 + 0x1000 * i, 1600, WRITE);
            give(f, 2 * pair, i);
        }
    assert_int_equal(command(f, 4, 0, pairs), 0);
}

static void sets_pairs(void **state)
{
    struct fixture *f = *state;

    set_up_pairs(f, 1);
    for (unsigned port = 0; port < 8; port++)
        assert_int_equal(answer(f, port), 0);
    assert_int_equal(command(f, 4, 0, 0), 1);
    assert_int_equal(command(f, 4, 0, PAIRS + 1), 1);
    assert_int_equal(command(f, 4, 1, 2), 1);
    assert_int_equal(command(f, 1, 0, 2), 1);
    assert_int_equal(f->vn.active, 1);
    assert_int_equal(command(f, 4, 0, PAIRS), 0);
    assert_int_equal(f->vn.active, PAIRS);
    /* Nothing to write the answer to. */
    desc(f, CONTROL, 0, DATA, 4, 0);
    give(f, CONTROL, 0);
    for (unsigned i = 0; i < 10000 && !(f->vn.dev.status & VIRTIO_NEEDS_RESET); i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_true(f->vn.dev.status & VIRTIO_NEEDS_RESET);
    /* Pairs whose queues the driver has not set up. */
    set_up(f, F_CTRL);
    assert_int_equal(f->vn.active, 1);
    assert_false(f->vn.dev.status & VIRTIO_NEEDS_RESET);
}

/* Without MQ the control queue is the third, and knows nothing. */
static void control_without_pairs(void **state)
{
    struct fixture *f = *state;

    set_up(f, F_CTRL);
    put(f, DATA, 4 | 2 << 16, 4);
    desc(f, 2, 0, DATA, 4, NEXT);
    desc(f, 2, 1, DATA + 8, 1, WRITE);
    give(f, 2, 0);
    wait_used(f, 2, 1);
    assert_int_equal(get(f, DATA + 8, 1), 1);
    assert_int_equal(f->vn.active, 1);
}

static void answers_come_by_their_pair(void **state)
{
    unsigned count[PAIRS] = {0};
    struct fixture *f = *state;

    set_up_pairs(f, PAIRS);
    for (unsigned port = 1000; port < 1003; port++) {
        for (unsigned pair = 0; pair < PAIRS; pair++)
            take_all(f, pair);
        transmit_udp(f, port % PAIRS, port);
        assert_int_equal(answer(f, port), port % PAIRS);
    }
    /* Its last answer may still be in the old queue: then it stays there. */
    assert_int_equal(answer(f, 1000), 1000 % PAIRS);
    transmit_udp(f, 0, 1000);
    assert_int_equal(answer(f, 1000), 1000 % PAIRS);
    take_all(f, 1000 % PAIRS);
    transmit_udp(f, 0, 1000);
    assert_int_equal(answer(f, 1000), 0);
    /* Who has not sent is dealt out, and always the same way. */
    for (unsigned port = 2000; port < 2012; port++)
        count[answer(f, port)]++;
    for (unsigned i = 0; i < PAIRS; i++)
        assert_true(count[i] > 0);
    assert_int_equal(command(f, 4, 0, 1), 0);
    assert_int_equal(answer(f, 1001), 0);
}

/* Saved and loaded it uses as many pairs; no other number than the queues allow is taken. */
static void keeps_its_pairs(void **state)
{
    struct virtio_state *saved = calloc(1, sizeof(*saved));
    struct fixture *f = *state;

    set_up_pairs(f, 2);
    virtio_pause(&f->vn.dev);
    virtio_save(&f->vn.dev, saved);
    virtio_reset(&f->vn.dev);
    assert_int_equal(f->vn.active, 1);
    assert_int_equal(virtio_load(&f->vn.dev, saved, NULL), 0);
    assert_int_equal(f->vn.active, 2);
    virtio_reset(&f->vn.dev);
    saved->own.pairs = PAIRS + 1;
    assert_true(virtio_load(&f->vn.dev, saved, NULL) < 0);
    saved->own.pairs = 0;
    assert_true(virtio_load(&f->vn.dev, saved, NULL) < 0);
    virtio_resume(&f->vn.dev);
    free(saved);
}

/* ---- Limits ---------------------------------------------------------------------------------- */

static uint64_t ms_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void keeps_to_its_rate(void **state)
{
    const struct net_offload plain = {0};
    struct fixture *f = *state;
    uint64_t began = ms_now();

    set_up(f, 0);
    for (unsigned i = 0; i < 6; i++)
        transmit(f, plain, 60);
    assert_int_equal(f->sent, 6);
    assert_true(ms_now() - began >= 5 * 59);
    wait_ready(f, 1);
    for (unsigned i = 0; i < SIZE; i++) {
        desc(f, 0, i, DATA + 0x1000 * i, 1600, WRITE);
        give(f, 0, i);
    }
    began = ms_now();
    for (unsigned got = 0; got < 4;) {
        unsigned readies = f->readies;

        if (deliver(f, 60)) {
            got++;
            continue;
        }
        /* It says so when there is room again. */
        for (unsigned i = 0; i < 10000 && f->readies == readies; i++)
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        assert_true(f->readies > readies);
    }
    assert_true(ms_now() - began >= 3 * 59);
    /* No limit any more: what waits goes on at once. */
    deliver(f, 1514);
    assert_false(deliver(f, 60));
    f->readies = 0;
    net_limit_set(&f->vn.limit, &(struct net_rates){0});
    wait_ready(f, 1);
    for (unsigned i = 0; i < 8; i++)
        assert_true(deliver(f, 1000));
}

/* A pair with much to send leaves the others their turn. */
static void pairs_take_turns(void **state)
{
    struct fixture *f = *state;

    set_up_pairs(f, PAIRS);
    for (unsigned i = 0; i < 10; i++) {
        desc(f, 1, i, DATA + 0x1000, 72, 0);
        give(f, 1, i);
    }
    transmit_udp(f, 2, 1);
    transmit_udp(f, 1, 1);
    assert_true(used(f, 1) < 10);
}

/* Paused it takes nothing and loses nothing. */
static void stands_still(void **state)
{
    struct fixture *f = *state;

    set_up(f, 0);
    wait_ready(f, 1);
    desc(f, 0, 0, DATA, 2000, WRITE);
    give(f, 0, 0);
    virtio_pause(&f->vn.dev);
    assert_false(deliver(f, 60));
    assert_int_equal(used(f, 0), 0);
    f->readies = 0;
    virtio_resume(&f->vn.dev);
    wait_ready(f, 1);
    assert_true(deliver(f, 60));
    assert_int_equal(used(f, 0), 1);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define SLOW(f) cmocka_unit_test_setup_teardown(f, setup_slow, teardown)
    const struct CMUnitTest tests[] = {
        CASE(shows_what_it_is),
        CASE(sends),
        CASE(receives_into_one_buffer),
        CASE(merges_buffers),
        CASE(breaks),
        CASE(stands_still),
        CASE(sets_pairs),
        CASE(control_without_pairs),
        CASE(answers_come_by_their_pair),
        CASE(keeps_its_pairs),
        SLOW(keeps_to_its_rate),
        SLOW(pairs_take_turns),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
