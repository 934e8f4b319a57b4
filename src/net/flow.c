/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/flow.h"

#include <string.h>

#define ETHERNET 14
#define VLAN     0x8100
#define IPV4     0x0800
#define IPV6     0x86dd
#define TCP      6
#define UDP      17

#define HEADERS                                                                                    \
    128 /* bytes that are looked at; an IPv4 header with all options and ports fits, behind a VLAN tag */

static size_t copy_headers(const struct net_frame *f, uint8_t to[HEADERS])
{
    size_t done = 0;

    for (unsigned i = 0; i < f->iovcnt && done < HEADERS; i++) {
        size_t len = f->iov[i].iov_len;

        len = len < HEADERS - done ? len : HEADERS - done;
        memcpy(to + done, f->iov[i].iov_base, len);
        done += len;
    }
    __asm__ volatile("" ::: "memory");
    return done;
}

static uint32_t get16(const uint8_t *p)
{
    return (uint32_t)(p[0] << 8 | p[1]);
}

static uint64_t mix(uint64_t h, uint64_t val)
{
    h = (h ^ val) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 32;
}

/* Either way round comes out the same. */
static uint64_t both(uint64_t h, uint64_t a, uint64_t b)
{
    return mix(mix(h, a ^ b), a + b);
}

static uint64_t words(const uint8_t *p, size_t len)
{
    uint64_t h = 0, word = 0;

    for (size_t i = 0; i < len; i += 4) {
        memcpy(&word, p + i, 4);
        h = mix(h, word);
    }
    return h;
}

static uint32_t hash(const uint8_t *src, const uint8_t *dst, size_t addr, const uint8_t *ports,
                     uint8_t proto)
{
    uint64_t h = both(proto, words(src, addr), words(dst, addr));

    if (ports)
        h = both(h, get16(ports), get16(ports + 2));
    return (uint32_t)h;
}

static bool has_ports(uint8_t proto)
{
    return proto == TCP || proto == UDP;
}

/* RFC 791. Every fragment of a packet comes out the same, the first included. */
static uint32_t flow4(const uint8_t *p, size_t len)
{
    size_t header = len < 20 ? 0 : (size_t)(p[0] & 15) * 4;
    const uint8_t *ports = NULL;

    if (len < 20)
        return 0;
    if (!(get16(p + 6) & 0x3fff) && has_ports(p[9]) && header >= 20 && len >= header + 4)
        ports = p + header;
    return hash(p + 12, p + 16, 4, ports, p[9]);
}

/* RFC 8200. Behind extension headers ports are not looked for. */
static uint32_t flow6(const uint8_t *p, size_t len)
{
    if (len < 40)
        return 0;
    return hash(p + 8, p + 24, 16, has_ports(p[6]) && len >= 44 ? p + 40 : NULL,
                has_ports(p[6]) ? p[6] : 0);
}

uint32_t net_flow(const struct net_frame *frame)
{
    uint8_t b[HEADERS];
    size_t len = copy_headers(frame, b), l3 = ETHERNET;
    uint32_t type;

    if (len < ETHERNET)
        return 0;
    type = get16(b + 12);
    if (type == VLAN && len >= ETHERNET + 4) {
        type = get16(b + 16);
        l3 += 4;
    }
    if (type == IPV4)
        return flow4(b + l3, len - l3);
    return type == IPV6 ? flow6(b + l3, len - l3) : 0;
}
