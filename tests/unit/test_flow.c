/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/net/flow.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "net/flow.h"

#define ETHERNET 14

static uint32_t flow(const uint8_t *bytes, size_t len)
{
    /* In pieces that cut every field somewhere, and in one. */
    const struct iovec pieces[] = {{(void *)bytes, len / 3},
                                   {(void *)(bytes + len / 3), len - len / 3}};
    const struct iovec whole = {(void *)bytes, len};
    const struct net_frame cut = {.iov = pieces, .iovcnt = 2, .len = len};
    const struct net_frame frame = {.iov = &whole, .iovcnt = 1, .len = len};

    assert_int_equal(net_flow(&cut), net_flow(&frame));
    return net_flow(&frame);
}

static size_t make4(uint8_t *b, const uint8_t src[4], const uint8_t dst[4], uint8_t proto,
                    unsigned from, unsigned to, size_t options)
{
    uint8_t *l4 = b + ETHERNET + 20 + options;

    memset(b, 0, 256);
    b[12] = 0x08;
    b[14] = (uint8_t)(0x45 + options / 4);
    b[23] = proto;
    memcpy(b + 26, src, 4);
    memcpy(b + 30, dst, 4);
    l4[0] = (uint8_t)(from >> 8);
    l4[1] = (uint8_t)from;
    l4[2] = (uint8_t)(to >> 8);
    l4[3] = (uint8_t)to;
    return ETHERNET + 20 + options + 20;
}

static const uint8_t a4[4] = {10, 0, 2, 15}, b4[4] = {192, 168, 1, 9};

static uint32_t flow4(bool there, uint8_t proto, unsigned from, unsigned to, size_t options)
{
    uint8_t b[256];
    size_t len = there ? make4(b, a4, b4, proto, from, to, options)
                       : make4(b, b4, a4, proto, to, from, options);

    return flow(b, len);
}

static void both_ways_are_one(void **state)
{
    uint32_t f = flow4(true, 6, 40000, 443, 0);

    assert_int_equal(f, flow4(false, 6, 40000, 443, 0));
    assert_int_equal(f, flow4(false, 6, 40000, 443, 40));
    assert_int_not_equal(f, flow4(true, 6, 40001, 443, 0));
    assert_int_not_equal(f, flow4(true, 17, 40000, 443, 0));
    assert_int_equal(flow4(true, 17, 5, 6, 0), flow4(false, 17, 5, 6, 0));
    /* No ports: addresses are all there is. */
    assert_int_equal(flow4(true, 1, 1, 2, 0), flow4(false, 1, 3, 4, 0));
}

static void tags_change_nothing(void **state)
{
    uint8_t b[256], tagged[260];
    size_t len = make4(b, a4, b4, 6, 1, 2, 0);

    memcpy(tagged, b, 12);
    memcpy(tagged + 12, "\x81\0\0\x07", 4);
    memcpy(tagged + 16, b + 12, len - 12);
    assert_int_equal(flow(tagged, len + 4), flow(b, len));
}

static void fragments_stay_together(void **state)
{
    uint8_t first[256], later[256];
    size_t len = make4(first, a4, b4, 17, 1000, 2000, 0);

    make4(later, a4, b4, 17, 0x7777, 0x8888, 0);
    first[20] = 0x20; /* more follow */
    later[21] = 185;  /* from 1480 on */
    assert_int_equal(flow(first, len), flow(later, len));
    first[20] = 0x40; /* must not be cut: no fragment */
    assert_int_not_equal(flow(first, len), flow(later, len));
}

static void ipv6(void **state)
{
    uint8_t b[74] = {0}, back[74];

    b[12] = 0x86;
    b[13] = 0xdd;
    b[20] = 6;
    for (unsigned i = 0; i < 32; i++)
        b[22 + i] = (uint8_t)(i * 7);
    memcpy(b + 54, "\x12\x34\x56\x78", 4);
    memcpy(back, b, sizeof(b));
    memcpy(back + 22, b + 38, 16);
    memcpy(back + 38, b + 22, 16);
    memcpy(back + 54, "\x56\x78\x12\x34", 4);
    assert_int_equal(flow(b, sizeof(b)), flow(back, sizeof(back)));
    back[55]++;
    assert_int_not_equal(flow(b, sizeof(b)), flow(back, sizeof(back)));
    /* Ports behind an extension header count as none. */
    b[20] = back[20] = 44;
    assert_int_equal(flow(b, sizeof(b)), flow(back, sizeof(back)));
}

static void short_ones_are_none(void **state)
{
    uint8_t b[256];
    size_t len = make4(b, a4, b4, 6, 1, 2, 0);

    for (size_t n = ETHERNET; n < ETHERNET + 20; n++)
        assert_int_equal(flow(b, n), 0);
    assert_int_not_equal(flow(b, ETHERNET + 23), 0);
    assert_int_equal(flow(b, ETHERNET + 20), flow(b, ETHERNET + 23));
    b[14] = 0x41; /* a header that is shorter than any */
    assert_int_equal(flow(b, len), flow(b, ETHERNET + 20));
    b[13] = 6; /* ARP */
    assert_int_equal(flow(b, len), 0);
}

static void spreads(void **state)
{
    unsigned count[8] = {0};

    for (unsigned port = 0; port < 4000; port++)
        count[flow4(true, 6, 32768 + port, 443, 0) / 256 % 8]++;
    for (unsigned i = 0; i < 8; i++)
        assert_in_range(count[i], 400, 600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways_are_one),       cmocka_unit_test(tags_change_nothing),
        cmocka_unit_test(fragments_stay_together), cmocka_unit_test(ipv6),
        cmocka_unit_test(short_ones_are_none),     cmocka_unit_test(spreads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
