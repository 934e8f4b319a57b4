/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/net/user.c src/net/user_config.c src/net/publish.c src/net/frame.c src/base/err.c src/base/log.c */
/* The user's network with a card that asks for an address, and ports that are published and no longer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/frame.h"
#include "net/user.h"

struct fixture {
    struct net_user_config cfg;
    struct net *net;
    _Atomic unsigned frames, offers;
    _Atomic bool full;
};

static bool receive(void *card, const struct net_frame *frame)
{
    struct fixture *f = card;
    const uint8_t *p = frame->iov[0].iov_base;

    if (f->full)
        return false;
    f->frames++;
    /* From the BOOTP server's port, with the guest's address in it (RFC 2131). */
    if (frame->len > 300 && p[23] == 17 && p[35] == 67 && !memcmp(p + 58, "\x0a\0\2\x0f", 4))
        f->offers++;
    return true;
}

static const struct net_card_ops card_ops = {.receive = receive};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    net_user_defaults(&f->cfg);
    assert_int_equal(net_user_check(&f->cfg, NULL), 0);
    assert_int_equal(net_user_new(&f->net, &f->cfg, NULL), 0);
    f->net->card = f;
    f->net->card_ops = &card_ops;
    f->net->card_takes = 7;
    assert_int_equal(f->net->ops->start(f->net, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    f->net->ops->stop(f->net);
    f->net->ops->free(f->net);
    free(f);
    return 0;
}

static void send_discover(struct fixture *f)
{
    uint8_t frame[14 + 20 + 8 + 300] = {0}, *ip = frame + 14, *bootp = frame + 42;
    const struct iovec iov = {frame, sizeof(frame)};
    const struct net_frame nf = {.iov = &iov, .iovcnt = 1, .len = sizeof(frame)};
    uint16_t sum;

    memset(frame, 0xff, 6);
    memcpy(frame + 6, "\2\0\0\0\0\1\x08", 7);
    memcpy(ip, "\x45\0\1\x48\0\0\0\0\x40\x11\0\0\0\0\0\0\xff\xff\xff\xff", 20);
    sum = (uint16_t)~frame_sum(ip, 20, 0);
    ip[10] = (uint8_t)(sum >> 8);
    ip[11] = (uint8_t)sum;
    memcpy(frame + 34, "\0\x44\0\x43\1\x34\0\0", 8);
    memcpy(bootp, "\1\1\6\0", 4);
    memcpy(bootp + 28, frame + 6, 6);
    memcpy(bootp + 236, "\x63\x82\x53\x63\x35\1\1\xff", 8);
    f->net->ops->send(f->net, &nf);
    f->net->ops->flush(f->net);
}

static void offers_an_address(void **state)
{
    struct fixture *f = *state;

    send_discover(f);
    assert_int_equal(f->offers, 1);
    /* What finds no room comes when there is some. */
    f->full = true;
    send_discover(f);
    assert_int_equal(f->offers, 1);
    f->full = false;
    f->net->ops->ready(f->net);
    assert_int_equal(f->offers, 2);
}

static int dial(const struct net_publish *p)
{
    struct sockaddr_storage addr;
    socklen_t len = net_publish_sockaddr(p, &addr);
    int fd = socket(addr.ss_family, SOCK_STREAM, 0), code;

    code = connect(fd, (struct sockaddr *)&addr, len) < 0 ? -errno : 0;
    close(fd);
    return code;
}

static void publishes(void **state)
{
    struct net_publish p, udp, list[NET_MAX_PUBLISH];
    struct fixture *f = *state;
    struct err err = {0};

    assert_int_equal(net_publish_parse("0:22", &p, NULL), 0);
    assert_int_equal(net_publish_parse("0:53/udp", &udp, NULL), 0);
    assert_int_equal(net_user_publish(f->net, &p, &err), 0);
    assert_int_equal(net_user_publish(f->net, &udp, &err), 0);
    assert_int_not_equal(p.host, 0);
    assert_int_not_equal(udp.host, 0);
    assert_int_equal(dial(&p), 0);
    assert_int_equal(net_user_published(f->net, list), 2);
    assert_memory_equal(&list[0], &p, sizeof(p));
    assert_int_equal(net_user_publish(f->net, &p, &err), -EADDRINUSE);
    assert_non_null(strstr(err.next, "0 for any"));
    assert_int_equal(net_user_unpublish(f->net, &p, &err), 0);
    assert_int_equal(dial(&p), -ECONNREFUSED);
    assert_int_equal(net_user_unpublish(f->net, &p, &err), -ENOENT);
    assert_int_equal(net_user_published(f->net, list), 1);
    assert_int_equal(net_user_publish(f->net, &p, &err), 0);
    assert_int_equal(dial(&p), 0);
}

/* A port that somebody else has, and an address that is not this host's; nothing is held afterwards. */
static void says_why_not(void **state)
{
    struct fixture *f = *state;
    struct net_publish p;
    struct err err = {0};
    struct net *net;

    assert_int_equal(net_publish_parse("0:22", &p, NULL), 0);
    assert_int_equal(net_user_publish(f->net, &p, &err), 0);
    f->cfg.publish[0] = p;
    f->cfg.publishes = 1;
    assert_int_equal(net_user_new(&net, &f->cfg, &err), -EADDRINUSE);
    assert_int_equal(net_publish_parse("192.0.2.1:0:22", &p, NULL), 0);
    assert_int_equal(net_user_publish(f->net, &p, &err), -EADDRNOTAVAIL);
    assert_non_null(strstr(err.what, "192.0.2.1"));
    f->cfg.publishes = 0;
    f->cfg.ipv6 = false;
    assert_int_equal(net_user_new(&net, &f->cfg, &err), 0);
    assert_int_equal(net_publish_parse("[::1]:0:22", &p, NULL), 0);
    assert_int_equal(net_user_publish(net, &p, &err), -EINVAL);
    net->ops->free(net);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(offers_an_address),
        CASE(publishes),
        CASE(says_why_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
