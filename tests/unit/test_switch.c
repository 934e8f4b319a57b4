/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/net/switch.c src/net/switch_wire.c src/net/frame.c src/base/err.c */
/* Members of named networks that come, talk, go and die, all in this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "net/frame.h"
#include "net/switch.h"
#include "net/switch_wire.h"

struct host {
    struct net *net;
    uint8_t mac[NET_MAC_LEN];
    pthread_mutex_t lock;
    unsigned frames, segments;
    size_t bytes;
    uint8_t last[128];
    struct net_offload offload;
    bool full;
};

struct fixture {
    char base[64];
    struct host host[4];
};

static bool receive(void *card, const struct net_frame *f)
{
    struct host *h = card;
    bool full;

    pthread_mutex_lock(&h->lock);
    full = h->full;
    if (!full) {
        h->frames++;
        h->bytes += f->len;
        memcpy(h->last, f->iov[0].iov_base, f->len < sizeof(h->last) ? f->len : sizeof(h->last));
        h->offload = f->offload;
    }
    pthread_mutex_unlock(&h->lock);
    return !full;
}

static const struct net_card_ops card_ops = {.receive = receive};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    strcpy(f->base, "/tmp/lodge-test-switch-XXXXXX");
    assert_non_null(mkdtemp(f->base));
    for (unsigned i = 0; i < ARRAY_SIZE(f->host); i++) {
        pthread_mutex_init(&f->host[i].lock, NULL);
        memcpy(f->host[i].mac, "\x02\0\0\0\0", 5);
        f->host[i].mac[5] = (uint8_t)(i + 1);
    }
    *state = f;
    return 0;
}

static void leave(struct host *h)
{
    if (h->net)
        h->net->ops->free(h->net);
    h->net = NULL;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(f->host); i++)
        leave(&f->host[i]);
    /* Nothing is left behind. */
    assert_int_equal(rmdir(f->base), 0);
    free(f);
    return 0;
}

/* Who has come last knows all at once; the others learn of it before they get its first frame. */
static void join(struct fixture *f, unsigned i, const char *name, unsigned takes)
{
    struct host *h = &f->host[i];
    struct err err = {0};

    if (net_switch_new(&h->net, f->base, name, &err) < 0)
        fail_msg("%s", err.what);
    h->net->card = h;
    h->net->card_ops = &card_ops;
    h->net->card_takes = takes;
    assert_int_equal(h->net->ops->start(h->net, NULL), 0);
}

static void send_frame(struct host *from, const uint8_t *to, size_t len,
                       const struct net_offload *o)
{
    static uint8_t bytes[NET_FRAME_MAX];
    const struct iovec iov[2] = {{bytes, 10}, {bytes + 10, len - 10}};
    struct net_frame f = {.iov = iov, .iovcnt = 2, .len = len};

    memcpy(bytes, to, NET_MAC_LEN);
    memcpy(bytes + NET_MAC_LEN, from->mac, NET_MAC_LEN);
    bytes[12] = 0x88;
    if (o)
        f.offload = *o;
    from->net->ops->send(from->net, &f);
}

static unsigned frames(struct host *h)
{
    unsigned n;

    pthread_mutex_lock(&h->lock);
    n = h->frames;
    pthread_mutex_unlock(&h->lock);
    return n;
}

static void wait_frames(struct host *h, unsigned n)
{
    for (unsigned ms = 0; frames(h) < n; ms++) {
        if (ms == 30000)
            fail_msg("%u frames have come, not %u", frames(h), n);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(frames(h), n);
}

static const uint8_t all[NET_MAC_LEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static void learns(void **state)
{
    struct fixture *f = *state;
    struct host *h = f->host;

    join(f, 2, "blue", 7);
    join(f, 1, "blue", 7);
    join(f, 0, "blue", 7);
    join(f, 3, "red", 7);
    send_frame(&h[0], all, 60, NULL);
    wait_frames(&h[1], 1);
    wait_frames(&h[2], 1);
    assert_memory_equal(h[1].last, all, NET_MAC_LEN);
    assert_memory_equal(h[1].last + NET_MAC_LEN, h[0].mac, NET_MAC_LEN);
    /* Both know where 0 is, and 0 does not know yet where 2 is. */
    send_frame(&h[1], h[0].mac, 1500, NULL);
    wait_frames(&h[0], 1);
    send_frame(&h[0], h[2].mac, 1500, NULL);
    wait_frames(&h[1], 2);
    wait_frames(&h[2], 2);
    send_frame(&h[2], h[0].mac, 60, NULL);
    wait_frames(&h[0], 2);
    send_frame(&h[0], h[2].mac, 60, NULL);
    wait_frames(&h[2], 3);
    assert_int_equal(frames(&h[1]), 2);
    assert_int_equal(frames(&h[3]), 0);
}

/* Who leaves is forgotten, and comes again as another; who was killed leaves a socket behind. */
static void comes_and_goes(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un dead = {.sun_family = AF_UNIX};
    struct host *h = f->host;
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    join(f, 0, "blue", 7);
    snprintf(dead.sun_path, sizeof(dead.sun_path), "%s/blue/00000000deadbeef", f->base);
    assert_int_equal(bind(fd, (struct sockaddr *)&dead, sizeof(dead)), 0);
    join(f, 1, "blue", 7);
    close(fd);
    send_frame(&h[1], all, 60, NULL);
    wait_frames(&h[0], 1);
    assert_int_equal(access(dead.sun_path, F_OK), -1);
    leave(&h[0]);
    send_frame(&h[1], h[0].mac, 60, NULL);
    join(f, 0, "blue", 7);
    h[0].frames = 0;
    send_frame(&h[0], all, 60, NULL);
    wait_frames(&h[1], 1);
    send_frame(&h[1], h[0].mac, 60, NULL);
    wait_frames(&h[0], 1);
}

/* One that takes nothing keeps what there is room for, and holds up nobody. */
static void waits_for_room(void **state)
{
    struct fixture *f = *state;
    struct host *h = f->host;

    join(f, 2, "blue", 7);
    join(f, 1, "blue", 7);
    join(f, 0, "blue", 7);
    h[1].full = true;
    for (unsigned i = 0; i < 300; i++) {
        send_frame(&h[0], all, 1500, NULL);
        wait_frames(&h[2], i + 1);
    }
    assert_int_equal(frames(&h[1]), 0);
    pthread_mutex_lock(&h[1].lock);
    h[1].full = false;
    pthread_mutex_unlock(&h[1].lock);
    h[1].net->ops->ready(h[1].net);
    wait_frames(&h[1], 300);
    /* More than waits is lost, and what comes later arrives. */
    h[1].full = true;
    for (unsigned i = 0; i < 100; i++)
        send_frame(&h[0], all, 60000, NULL);
    pthread_mutex_lock(&h[1].lock);
    h[1].full = false;
    pthread_mutex_unlock(&h[1].lock);
    h[1].net->ops->ready(h[1].net);
    for (unsigned ms = 0; ms < 30000 && frames(&h[1]) < 310; ms++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_in_range(frames(&h[1]), 310, 399);
}

/* Sums and segments are made for a card that does not take them undone. */
static void reduces(void **state)
{
    struct fixture *f = *state;
    struct host *h = f->host;
    uint8_t frame[4000] = {0};
    const struct iovec iov = {frame, 14 + 20 + 20 + 3000};
    struct net_frame nf = {.offload = {.flags = NET_NEEDS_CSUM,
                                       .gso_type = NET_GSO_TCPV4,
                                       .gso_size = 1000,
                                       .csum_start = 34,
                                       .csum_offset = 16},
                           .iov = &iov,
                           .iovcnt = 1,
                           .len = iov.iov_len};

    memcpy(frame, all, 6);
    memcpy(frame + 6, h[0].mac, 6);
    frame[12] = 8;
    frame[14] = 0x45;
    frame[16] = 3040 >> 8;
    frame[17] = 3040 & 255;
    frame[23] = 6;
    frame[46] = 0x50;
    join(f, 2, "blue", 0);
    join(f, 1, "blue", 7);
    join(f, 0, "blue", 7);
    h[0].net->ops->send(h[0].net, &nf);
    wait_frames(&h[1], 1);
    wait_frames(&h[2], 3);
    assert_int_equal(h[1].offload.gso_size, 1000);
    assert_int_equal(h[1].bytes, iov.iov_len);
    assert_int_equal(h[2].offload.gso_type | h[2].offload.flags, 0);
    assert_int_equal(h[2].bytes, 3 * 54 + 3000);
    assert_int_equal(frame_sum(h[2].last + 14, 20, 0), 0xffff);
}

static void messages(void **state)
{
    uint8_t m[200] = {0};
    struct switch_header h = {.magic = SWITCH_MAGIC, .kind = SWITCH_FRAME, .sender = 5}, got;
    const size_t n = sizeof(h);

#define READ(len) (memcpy(m, &h, n), switch_read(m, len, &got))
    assert_true(READ(n + 14));
    assert_false(READ(n + 13));
    assert_false(READ(n - 1));
    assert_false(READ(0));
    h.kind = SWITCH_HELLO;
    assert_true(READ(n));
    assert_false(READ(n + 14));
    h.kind = 9;
    assert_false(READ(n + 14));
    h.kind = SWITCH_FRAME;
    h.sender = 0;
    assert_false(READ(n + 14));
    h.sender = 5;
    h.magic++;
    assert_false(READ(n + 14));
    h.magic--;
    h.offload.flags = NET_NEEDS_CSUM;
    h.offload.csum_start = 100;
    h.offload.csum_offset = 16;
    assert_false(READ(n + 117));
    assert_true(READ(n + 118));
    h.offload.gso_type = NET_GSO_TCPV6;
    assert_false(READ(n + 118));
    h.offload.gso_size = 1;
    assert_true(READ(n + 118));
    h.offload.gso_type = 3;
    assert_false(READ(n + 118));
    h.offload.gso_type = NET_GSO_TCPV4;
    h.offload.flags = 0;
    assert_false(READ(n + 118));
    h.offload = (struct net_offload){.flags = 4};
    assert_false(READ(n + 118));
}

static void refuses(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct net *net;
    char longer[200];

    memset(longer, 'a', sizeof(longer));
    longer[0] = '/';
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(net_switch_new(&net, longer, "blue", &err), -ENAMETOOLONG);
    assert_int_equal(net_switch_new(&net, "/nonexistent/lodge", "blue", &err), -ENOENT);
    assert_int_equal(chmod(f->base, 0770), 0);
    assert_int_equal(net_switch_new(&net, f->base, "blue", &err), -EPERM);
    assert_non_null(strstr(err.what, f->base));
    assert_int_equal(chmod(f->base, 0700), 0);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(learns),  CASE(comes_and_goes),       CASE(waits_for_room),
        CASE(reduces), cmocka_unit_test(messages), CASE(refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
