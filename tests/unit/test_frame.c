/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/net/frame.c */
/* Frames taken apart and put together again, with sums reckoned another way than the code does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/frame.h"

#define FIN 0x01
#define PSH 0x08
#define ACK 0x10
#define CWR 0x80

struct packet {
    uint8_t bytes[NET_FRAME_MAX];
    size_t len;
    struct frame_layout l;
};

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static unsigned get16(const uint8_t *p)
{
    return p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) << 16 | get16(p + 2);
}

/* RFC 1071 word by word. */
static uint32_t plain_sum(const uint8_t *p, size_t len, uint32_t sum)
{
    for (size_t i = 0; i < len; i++)
        sum += i & 1 ? p[i] : p[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint32_t pseudo(const uint8_t *f, const struct frame_layout *l)
{
    uint32_t sum = (uint32_t)(l->end - l->l4) + l->proto;

    return l->type == FRAME_IPV4 ? plain_sum(f + l->l3 + 12, 8, sum)
                                 : plain_sum(f + l->l3 + 8, 32, sum);
}

/* Both sums of a packet that is no fragment. */
static void sums_are_right(const uint8_t *f, size_t len)
{
    struct frame_layout l;

    assert_true(frame_parse(f, len, &l));
    assert_int_equal(l.end, len);
    if (l.type == FRAME_IPV4)
        assert_int_equal(plain_sum(f + l.l3, l.l4 - l.l3, 0), 0xffff);
    if (!l.part)
        assert_int_equal(plain_sum(f + l.l4, len - l.l4, pseudo(f, &l)), 0xffff);
}

/* A packet with `data` bytes of payload behind `header` bytes of the protocol, its sum not filled in. */
static struct packet *make(bool v6, bool vlan, uint8_t proto, size_t header, size_t data)
{
    struct packet *p = calloc(1, sizeof(*p));
    size_t l3 = vlan ? 18 : 14, ip = v6 ? 40 : 20, len = header + data;
    uint8_t *at = p->bytes + l3;

    put16(p->bytes + 12, vlan ? 0x8100 : v6 ? 0x86dd : 0x0800);
    if (vlan)
        put16(p->bytes + 16, v6 ? 0x86dd : 0x0800);
    if (v6) {
        at[0] = 0x60;
        put16(at + 4, (unsigned)len);
        at[6] = proto;
        memset(at + 8, 0xfd, 32);
    } else {
        at[0] = 0x45;
        put16(at + 2, (unsigned)(ip + len));
        put16(at + 4, 0xfffe);
        at[9] = proto;
        memcpy(at + 12, "\x0a\0\2\2\x0a\0\2\x0f", 8);
        put16(at + 10, ~plain_sum(at, 20, 0) & 0xffff);
    }
    p->len = l3 + ip + len;
    for (size_t i = l3 + ip; i < p->len; i++)
        p->bytes[i] = (uint8_t)(i * 7 + (i >> 8));
    if (proto == FRAME_TCP)
        p->bytes[l3 + ip + 12] = (uint8_t)(header / 4 << 4);
    assert_true(frame_parse(p->bytes, p->len, &p->l));
    return p;
}

static void fill_sum(struct packet *p, size_t offset)
{
    put16(p->bytes + p->l.l4 + offset, 0);
    put16(p->bytes + p->l.l4 + offset,
          ~plain_sum(p->bytes + p->l.l4, p->len - p->l.l4, pseudo(p->bytes, &p->l)) & 0xffff);
}

static void sums(void **state)
{
    uint8_t bytes[300];

    srand(1);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)rand();
    memset(bytes + 200, 0xff, 90);
    for (size_t from = 0; from < 9; from++)
        for (size_t len = 0; from + len <= sizeof(bytes); len++) {
            uint32_t before = (uint32_t)rand() & 0x3ffff;

            assert_int_equal(frame_sum(bytes + from, len, before) % 0xffff,
                             plain_sum(bytes + from, len, before) % 0xffff);
        }
    assert_int_equal(frame_sum(bytes, 0, 0), 0);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(frame_sum(bytes, sizeof(bytes), 0), 0xffff);
}

static void layouts(void **state)
{
    static const uint8_t arp[60] = {[12] = 8, [13] = 6};
    struct frame_layout l;

    assert_false(frame_parse(arp, sizeof(arp), &l));
    for (unsigned kind = 0; kind < 4; kind++) {
        struct packet *p = make(kind & 1, kind & 2, FRAME_TCP, 24, 100);

        assert_int_equal(p->l.type, kind & 1 ? FRAME_IPV6 : FRAME_IPV4);
        assert_int_equal(p->l.l3, kind & 2 ? 18 : 14);
        assert_int_equal(p->l.l4, p->l.l3 + (kind & 1 ? 40 : 20));
        assert_int_equal(p->l.tcp_data, p->l.l4 + 24);
        assert_int_equal(p->l.end, p->len);
        /* Padding is fine, and no byte may be missing. */
        assert_true(frame_parse(p->bytes, p->len + 10, &l));
        assert_int_equal(l.end, p->len);
        for (size_t len = 0; len < p->len; len++)
            assert_false(frame_parse(p->bytes, len, &l));
        /* A TCP header that reaches beyond the packet, or is too short for one. */
        p->bytes[p->l.l4 + 12] = 0x40;
        assert_true(frame_parse(p->bytes, p->len, &l));
        assert_int_equal(l.tcp_data, 0);
        free(p);
        p = make(kind & 1, kind & 2, FRAME_TCP, 20, 20);
        p->bytes[p->l.l4 + 12] = 0xf0;
        assert_true(frame_parse(p->bytes, p->len, &l));
        assert_int_equal(l.tcp_data, 0);
        free(p);
    }
}

static void finishes_sums(void **state)
{
    for (unsigned kind = 0; kind < 2; kind++) {
        struct packet *p = make(kind, false, 17, 8, 1001);
        struct net_offload o = {
            .flags = NET_NEEDS_CSUM, .csum_start = (uint16_t)p->l.l4, .csum_offset = 6};

        put16(p->bytes + p->l.l4 + 6, pseudo(p->bytes, &p->l));
        assert_true(frame_finish_sum(p->bytes, p->len, &o));
        sums_are_right(p->bytes, p->len);
        o.csum_offset = (uint16_t)(p->len - p->l.l4 - 1);
        assert_false(frame_finish_sum(p->bytes, p->len, &o));
        free(p);
    }
}

/* The n-th of equal segments. */
static struct packet *segment(bool v6, unsigned n, size_t mss, size_t data, uint8_t flags)
{
    struct packet *p = make(v6, false, FRAME_TCP, 20, data);
    uint8_t *tcp = p->bytes + p->l.l4;
    uint32_t seq = 0xffffff00u + n * (uint32_t)mss;

    memcpy(tcp, "\0\x50\x10\0", 4);
    put16(tcp + 4, seq >> 16);
    put16(tcp + 6, seq & 0xffff);
    memset(tcp + 8, 7, 4);
    tcp[13] = flags;
    put16(tcp + 14, 1000);
    put16(tcp + 18, 0);
    if (!v6)
        put16(p->bytes + p->l.l3 + 4, n);
    fill_sum(p, 16);
    return p;
}

static void goes_on(void **state)
{
    for (unsigned v6 = 0; v6 < 2; v6++) {
        struct packet *whole = segment(v6, 0, 1000, 1000, ACK);
        struct net_offload o;

        for (unsigned n = 1; n < 5; n++) {
            struct packet *next = segment(v6, n, 1000, n < 4 ? 1000 : 99, n < 4 ? ACK : ACK | PSH);

            assert_true(frame_goes_on(whole->bytes, &whole->l, next->bytes, &next->l, 1000));
            frame_append(whole->bytes, &whole->l, next->bytes, &next->l);
            assert_memory_equal(whole->bytes + whole->l.end - 9, next->bytes + next->len - 9, 9);
            free(next);
        }
        whole->len = whole->l.end;
        assert_int_equal(whole->len, whole->l.tcp_data + 4099);
        assert_int_equal(whole->bytes[whole->l.l4 + 13], ACK | PSH);
        frame_make_gso(whole->bytes, &whole->l, 1000, &o);
        assert_true(frame_finish_sum(whole->bytes, whole->len, &o));
        sums_are_right(whole->bytes, whole->len);
        free(whole);
    }
}

static void does_not_go_on(void **state)
{
    for (unsigned v6 = 0; v6 < 2; v6++) {
        struct packet *a = segment(v6, 0, 1000, 1000, ACK), *b = segment(v6, 1, 1000, 1000, ACK);
        size_t l3 = a->l.l3, l4 = a->l.l4;
        /* One of these bytes differs: the address of a card, of a host, a port, service, time to live, ACK, window. */
        const size_t at[] = {0,      7,       l4 - 1,  l3 + (v6 ? 9 : 13),
                             l4,     l4 + 3,  l3 + 1,  l3 + (v6 ? 7 : 8),
                             l4 + 8, l4 + 11, l4 + 14, l4 + 15};

        assert_true(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 1000));
        for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
            b->bytes[at[i]] ^= 1;
            if (frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 1000))
                fail_msg("IPv%u: byte %zu does not count", v6 ? 6 : 4, at[i]);
            b->bytes[at[i]] ^= 1;
        }
        /* Not the next one, or one with another flag, or after the last one. */
        b->bytes[l4 + 7]++;
        assert_false(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 1000));
        b->bytes[l4 + 7]--;
        for (unsigned bit = 1; bit < 256; bit <<= 1) {
            b->bytes[l4 + 13] ^= bit;
            assert_int_equal(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 1000), bit == PSH);
            b->bytes[l4 + 13] ^= bit;
            a->bytes[l4 + 13] ^= bit;
            assert_false(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 1000));
            a->bytes[l4 + 13] ^= bit;
        }
        assert_false(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 999));
        assert_false(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 1001));
        free(b);
        b = segment(v6, 1, 1000, 0, ACK);
        assert_false(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 1000));
        free(b);
        /* Longer than IP can say. */
        free(a);
        a = segment(v6, 0, 32000, 64000, ACK);
        b = segment(v6, 2, 32000, 65535 - (v6 ? 60 : 40) - 64000, ACK);
        assert_true(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 32000));
        free(b);
        b = segment(v6, 2, 32000, 65536 - (v6 ? 60 : 40) - 64000, ACK);
        assert_false(frame_goes_on(a->bytes, &a->l, b->bytes, &b->l, 32000));
        free(a);
        free(b);
    }
}

/* What comes out of a cut, put together again. */
struct pieces {
    const struct packet *whole;
    unsigned count;
    size_t most, done;
};

static void on_segment(void *opaque, const uint8_t *f, size_t len)
{
    struct pieces *p = opaque;
    const struct packet *w = p->whole;
    struct frame_layout l;
    size_t part;
    uint8_t flags = w->bytes[w->l.l4 + 13];

    sums_are_right(f, len);
    assert_true(frame_parse(f, len, &l));
    assert_int_equal(l.tcp_data, w->l.tcp_data);
    part = len - l.tcp_data;
    assert_true(part <= p->most);
    assert_memory_equal(f + l.tcp_data, w->bytes + l.tcp_data + p->done, part);
    assert_int_equal(get32(f + l.l4 + 4), get32(w->bytes + l.l4 + 4) + (uint32_t)p->done);
    if (l.type == FRAME_IPV4)
        assert_int_equal(get16(f + l.l3 + 4), (get16(w->bytes + l.l3 + 4) + p->count) & 0xffff);
    if (p->done)
        flags &= ~CWR;
    if (p->done + part < w->len - l.tcp_data) {
        assert_int_equal(part, p->most);
        flags &= ~(FIN | PSH);
    }
    assert_int_equal(f[l.l4 + 13], flags);
    p->done += part;
    p->count++;
}

static void segments(void **state)
{
    static const size_t sizes[] = {0, 1, 1459, 1460, 1461, 2920, 20001, 64000};
    static uint8_t room[NET_FRAME_MAX];

    for (unsigned kind = 0; kind < 4; kind++)
        for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
            struct packet *p = make(kind & 1, kind & 2, FRAME_TCP, 32, sizes[i]);
            struct pieces all = {.whole = p, .most = 1460};

            p->bytes[p->l.l4 + 13] = ACK | PSH | FIN | CWR;
            memset(p->bytes + p->l.l4 + 4, 0xff, 3); /* the sequence number wraps */
            frame_segment(p->bytes, &p->l, 1460, room, on_segment, &all);
            assert_int_equal(all.done, sizes[i]);
            assert_int_equal(all.count, sizes[i] ? (sizes[i] + 1459) / 1460 : 1);
            free(p);
        }
}

static void makes_gso(void **state)
{
    struct packet *p = make(true, false, FRAME_TCP, 20, 40000);
    struct net_offload o;

    frame_make_gso(p->bytes, &p->l, 1440, &o);
    assert_int_equal(o.gso_type, NET_GSO_TCPV6);
    assert_int_equal(o.gso_size, 1440);
    assert_int_equal(o.hdr_len, 74);
    assert_true(frame_finish_sum(p->bytes, p->len, &o));
    sums_are_right(p->bytes, p->len);
    free(p);
}

static void on_fragment(void *opaque, const uint8_t *f, size_t len)
{
    struct pieces *p = opaque;
    const struct packet *w = p->whole;
    bool v4 = w->l.type == FRAME_IPV4;
    const uint8_t *ip = f + w->l.l3;
    size_t header = w->l.l4 + (v4 ? 0 : 8), part = len - header;
    unsigned off = v4 ? get16(ip + 6) : get16(f + w->l.l4 + 2);
    bool more = p->done + part < w->len - w->l.l4;

    sums_are_right(f, len);
    assert_true(len - w->l.l3 <= p->most);
    assert_memory_equal(f + header, w->bytes + w->l.l4 + p->done, part);
    if (v4) {
        assert_int_equal((off & 0x1fff) * 8, p->done);
        assert_int_equal(!!(off & 0x2000), more);
        assert_int_equal(get16(ip + 4), 77);
    } else {
        assert_int_equal(ip[6], 44);
        assert_int_equal(f[w->l.l4], 17);
        assert_int_equal(off & ~7u, p->done);
        assert_int_equal(off & 1, more);
        assert_int_equal(get32(f + w->l.l4 + 4), 77);
    }
    p->done += part;
    p->count++;
}

static void fragments(void **state)
{
    static const size_t sizes[] = {1480, 1481, 5000, 60000};
    static uint8_t room[NET_FRAME_MAX];

    for (unsigned kind = 0; kind < 4; kind++)
        for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
            struct packet *p = make(kind & 1, kind & 2, 17, 8, sizes[i]);
            struct pieces all = {.whole = p, .most = 1500};

            frame_fragment(p->bytes, &p->l, 1500, 77, room, on_fragment, &all);
            assert_int_equal(all.done, sizes[i] + 8);
            assert_true(all.count >= 2);
            free(p);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums),           cmocka_unit_test(layouts),
        cmocka_unit_test(finishes_sums),  cmocka_unit_test(goes_on),
        cmocka_unit_test(does_not_go_on), cmocka_unit_test(segments),
        cmocka_unit_test(makes_gso),      cmocka_unit_test(fragments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
