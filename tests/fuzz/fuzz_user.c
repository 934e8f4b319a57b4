/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/net/user.c src/net/user_config.c src/net/publish.c src/net/frame.c src/base/err.c src/base/log.c */
/* Frames of a guest on the user's network, from which nothing leaves this process, with checksums that are right. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_ops.h"
#include "net/frame.h"
#include "net/user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static bool receive(void *card, const struct net_frame *frame)
{
    fuzz_check(frame->len <= NET_FRAME_MAX);
    return true;
}

static const struct net_card_ops card_ops = {.receive = receive};

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* Otherwise hardly a frame would get past libslirp's first look. */
static void correct_sums(uint8_t *frame, size_t len)
{
    static const uint8_t offset[256] = {[1] = 2, [6] = 16, [17] = 6, [58] = 2};
    struct frame_layout l;
    size_t n, at;
    uint16_t pseudo = 0;

    if (!frame_parse(frame, len, &l))
        return;
    if (l.type == FRAME_IPV4) {
        put16(frame + l.l3 + 10, 0);
        put16(frame + l.l3 + 10, (uint16_t)~frame_sum(frame + l.l3, l.l4 - l.l3, 0));
    }
    n = l.end - l.l4;
    at = offset[l.proto];
    if (!at || n < at + 2)
        return;
    if (l.type == FRAME_IPV6)
        pseudo = frame_sum(frame + l.l3 + 8, 32, (uint32_t)n + l.proto);
    else if (l.proto != 1)
        pseudo = frame_sum(frame + l.l3 + 12, 8, (uint32_t)n + l.proto);
    put16(frame + l.l4 + at, 0);
    put16(frame + l.l4 + at, (uint16_t)~frame_sum(frame + l.l4, n, pseudo));
}

static void send_frame(struct net *net, const uint8_t *data, size_t len)
{
    static uint8_t frame[0x800];
    const struct iovec iov = {frame, len};
    const struct net_frame f = {.iov = &iov, .iovcnt = 1, .len = len};

    memcpy(frame, data, len);
    correct_sums(frame, len);
    net->ops->send(net, &f);
}

/* Frames of up to 2047 bytes, each behind its length in two bytes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct net_user_config cfg;
    struct net *net;

    net_user_defaults(&cfg);
    cfg.restricted = true;
    fuzz_check(!net_user_new(&net, &cfg, NULL));
    net->card_ops = &card_ops;
    atomic_store(&net->card_takes, NET_TAKES_CSUM | NET_TAKES_TSO4 | NET_TAKES_TSO6);
    while (len >= 2) {
        size_t n = (data[0] | data[1] << 8) & 0x7ff;

        data += 2;
        len -= 2;
        n = n < len ? n : len;
        if (n >= FRAME_ETHERNET)
            send_frame(net, data, n);
        data += n;
        len -= n;
    }
    net->ops->flush(net);
    net->ops->free(net);
    return 0;
}
