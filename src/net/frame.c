/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/frame.h"

#include <string.h>

#define VLAN_TAG 0x8100
#define TAG_LEN  4

#define IPV4_HEADER   20
#define IPV4_LEN      2
#define IPV4_ID       4
#define IPV4_FRAG     6
#define IPV4_PROTO    9
#define IPV4_SUM      10
#define IPV4_ADDRS    12
#define IPV4_MORE     0x2000u
#define IPV4_DONT     0x4000u
#define IPV4_FRAG_OFF 0x1fffu

#define IPV6_HEADER   40
#define IPV6_LEN      4
#define IPV6_NEXT     6
#define IPV6_ADDRS    8
#define IPV6_FRAGMENT 44
#define IPV6_FRAG_LEN 8

#define TCP_HEADER   20
#define TCP_SEQ      4
#define TCP_ACK      8
#define TCP_OFF      12
#define TCP_FLAGS    13
#define TCP_WINDOW   14
#define TCP_SUM      16
#define TCP_FIN      0x01u
#define TCP_PSH      0x08u
#define TCP_FLAG_ACK 0x10u
#define TCP_CWR      0x80u

#define IP_MOST 65535

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

/* ---- Layout ---------------------------------------------------------------------------- */

static bool parse_ipv4(const uint8_t *frame, size_t len, struct frame_layout *l)
{
    const uint8_t *ip = frame + l->l3;
    size_t header, total;

    if (len - l->l3 < IPV4_HEADER || ip[0] >> 4 != 4)
        return false;
    header = (ip[0] & 15u) * 4;
    total = get16(ip + IPV4_LEN);
    if (header < IPV4_HEADER || total < header || total > len - l->l3)
        return false;
    l->proto = ip[IPV4_PROTO];
    l->part = get16(ip + IPV4_FRAG) & (IPV4_MORE | IPV4_FRAG_OFF);
    l->l4 = l->l3 + header;
    l->end = l->l3 + total;
    return true;
}

static bool parse_ipv6(const uint8_t *frame, size_t len, struct frame_layout *l)
{
    const uint8_t *ip = frame + l->l3;

    if (len - l->l3 < IPV6_HEADER || ip[0] >> 4 != 6 ||
        get16(ip + IPV6_LEN) > len - l->l3 - IPV6_HEADER)
        return false;
    l->proto = ip[IPV6_NEXT];
    l->part = l->proto == IPV6_FRAGMENT;
    l->l4 = l->l3 + IPV6_HEADER;
    l->end = l->l4 + get16(ip + IPV6_LEN);
    return true;
}

bool frame_parse(const uint8_t *frame, size_t len, struct frame_layout *l)
{
    *l = (struct frame_layout){.l3 = FRAME_ETHERNET};
    if (len < FRAME_ETHERNET)
        return false;
    l->type = get16(frame + FRAME_ETHERNET - 2);
    if (l->type == VLAN_TAG) {
        l->l3 += TAG_LEN;
        if (len < l->l3)
            return false;
        l->type = get16(frame + l->l3 - 2);
    }
    if (!(l->type == FRAME_IPV4   ? parse_ipv4(frame, len, l)
          : l->type == FRAME_IPV6 ? parse_ipv6(frame, len, l)
                                  : false))
        return false;
    if (l->proto == FRAME_TCP && !l->part && l->end - l->l4 >= TCP_HEADER) {
        size_t header = (frame[l->l4 + TCP_OFF] >> 4) * 4u;

        if (header >= TCP_HEADER && header <= l->end - l->l4)
            l->tcp_data = l->l4 + header;
    }
    return true;
}

/* ---- Sums -------------------------------------------------------------------------------- */

static uint16_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/*
 * The sum does not depend on how wide the words are that are added, nor on
 * the order of bytes, which comes out as it went in (RFC 1071, 2).
 */
uint16_t frame_sum(const void *bytes, size_t len, uint32_t before)
{
    const uint8_t *p = bytes;
    uint64_t sum = (uint16_t)__builtin_bswap16(fold(before)), carry = 0, w[4];

    for (; len >= sizeof(w); len -= sizeof(w), p += sizeof(w)) {
        memcpy(w, p, sizeof(w));
        for (unsigned i = 0; i < 4; i++)
            carry += __builtin_add_overflow(sum, w[i], &sum);
    }
    sum = (uint64_t)fold(sum) + fold(carry);
    for (; len >= 2; len -= 2, p += 2) {
        uint16_t half;

        memcpy(&half, p, sizeof(half));
        sum += half;
    }
    if (len)
        sum += *p;
    return __builtin_bswap16(fold(sum));
}

bool frame_finish_sum(uint8_t *frame, size_t len, const struct net_offload *o)
{
    size_t at = (size_t)o->csum_start + o->csum_offset;
    uint16_t sum;

    if (at + 2 > len)
        return false;
    sum = (uint16_t)~frame_sum(frame + o->csum_start, len - o->csum_start, 0);
    /* For UDP, where 0 means that there is none; for others it is the same number. */
    put16(frame + at, sum ? sum : 0xffff);
    return true;
}

static uint16_t pseudo_sum(const uint8_t *frame, const struct frame_layout *l, size_t len)
{
    const uint8_t *ip = frame + l->l3;
    uint32_t rest = (uint32_t)(len >> 16) + (uint32_t)(len & 0xffff) + l->proto;

    return l->type == FRAME_IPV4 ? frame_sum(ip + IPV4_ADDRS, 8, rest)
                                 : frame_sum(ip + IPV6_ADDRS, 32, rest);
}

static void ipv4_finish(uint8_t *ip)
{
    put16(ip + IPV4_SUM, 0);
    put16(ip + IPV4_SUM, (uint16_t)~frame_sum(ip, (ip[0] & 15u) * 4, 0));
}

/* ---- TCP --------------------------------------------------------------------------------- */

bool frame_goes_on(const uint8_t *a, const struct frame_layout *la, const uint8_t *b,
                   const struct frame_layout *lb, size_t mss)
{
    const uint8_t *ta = a + la->l4, *tb = b + lb->l4;
    size_t part = lb->end - lb->tcp_data, addrs = la->l3 + (la->type == FRAME_IPV4 ? 12 : 8);

    /* Ethernet header and addresses; then the kind of service, as well as what an option would change. */
    if (la->l3 != lb->l3 || la->type != lb->type || la->tcp_data != lb->tcp_data ||
        la->tcp_data - la->l4 != TCP_HEADER || memcmp(a, b, la->l3 + 2) ||
        memcmp(a + addrs, b + addrs, la->l4 - addrs))
        return false;
    if (la->type == FRAME_IPV4 ? la->l4 - la->l3 != IPV4_HEADER || lb->l4 != la->l4 ||
                                     memcmp(a + la->l3 + IPV4_FRAG, b + la->l3 + IPV4_FRAG, 4)
                               : memcmp(a + la->l3, b + la->l3, IPV6_LEN) ||
                                     memcmp(a + la->l3 + IPV6_NEXT, b + la->l3 + IPV6_NEXT, 2))
        return false;
    /* Full pieces but for the last, no flag but ACK before it and PSH in it, the same acknowledgement and window. */
    return !memcmp(ta, tb, TCP_SEQ) && !memcmp(ta + TCP_ACK, tb + TCP_ACK, 5) &&
           !memcmp(ta + TCP_WINDOW, tb + TCP_WINDOW, 2) && ta[TCP_FLAGS] == TCP_FLAG_ACK &&
           (tb[TCP_FLAGS] & ~TCP_PSH) == TCP_FLAG_ACK && part && part <= mss &&
           (la->end - la->tcp_data) % mss == 0 && la->end - la->l3 + part <= IP_MOST &&
           get32(ta + TCP_SEQ) + (uint32_t)(la->end - la->tcp_data) == get32(tb + TCP_SEQ);
}

void frame_append(uint8_t *a, struct frame_layout *la, const uint8_t *b,
                  const struct frame_layout *lb)
{
    size_t part = lb->end - lb->tcp_data;

    memcpy(a + la->end, b + lb->tcp_data, part);
    la->end += part;
    a[la->l4 + TCP_FLAGS] |= b[lb->l4 + TCP_FLAGS];
    if (la->type == FRAME_IPV4) {
        put16(a + la->l3 + IPV4_LEN, (unsigned)(la->end - la->l3));
        ipv4_finish(a + la->l3);
    } else {
        put16(a + la->l3 + IPV6_LEN, (unsigned)(la->end - la->l4));
    }
}

void frame_make_gso(uint8_t *frame, const struct frame_layout *l, uint16_t mss,
                    struct net_offload *o)
{
    *o = (struct net_offload){
        .flags = NET_NEEDS_CSUM,
        .gso_type = l->type == FRAME_IPV4 ? NET_GSO_TCPV4 : NET_GSO_TCPV6,
        .hdr_len = (uint16_t)l->tcp_data,
        .gso_size = mss,
        .csum_start = (uint16_t)l->l4,
        .csum_offset = TCP_SUM,
    };
    put16(frame + l->l4 + TCP_SUM, pseudo_sum(frame, l, l->end - l->l4));
}

void frame_segment(const uint8_t *frame, const struct frame_layout *l, uint16_t mss, uint8_t *piece,
                   frame_emit *emit, void *opaque)
{
    size_t header = l->tcp_data, data = l->end - header, done = 0;
    uint8_t *ip = piece + l->l3, *tcp = piece + l->l4;
    uint16_t id = 0;

    memcpy(piece, frame, header);
    if (l->type == FRAME_IPV4)
        id = get16(ip + IPV4_ID);
    do {
        size_t part = data - done < mss ? data - done : mss, len = header + part;
        uint8_t flags = frame[l->l4 + TCP_FLAGS];

        if (done + part < data)
            flags &= (uint8_t) ~(TCP_FIN | TCP_PSH);
        if (done)
            flags &= (uint8_t)~TCP_CWR;
        memcpy(piece + header, frame + header + done, part);
        tcp[TCP_FLAGS] = flags;
        put32(tcp + TCP_SEQ, get32(frame + l->l4 + TCP_SEQ) + (uint32_t)done);
        if (l->type == FRAME_IPV4) {
            put16(ip + IPV4_LEN, (unsigned)(len - l->l3));
            put16(ip + IPV4_ID, id++);
            ipv4_finish(ip);
        } else {
            put16(ip + IPV6_LEN, (unsigned)(len - l->l4));
        }
        put16(tcp + TCP_SUM, 0);
        put16(tcp + TCP_SUM,
              (uint16_t)~frame_sum(tcp, len - l->l4, pseudo_sum(piece, l, len - l->l4)));
        emit(opaque, piece, len);
        done += part;
    } while (done < data);
}

/* ---- Fragments ------------------------------------------------------------------------------ */

void frame_fragment(const uint8_t *frame, const struct frame_layout *l, size_t mtu, uint32_t id,
                    uint8_t *piece, frame_emit *emit, void *opaque)
{
    bool v4 = l->type == FRAME_IPV4;
    size_t header = v4 ? l->l4 : l->l4 + IPV6_FRAG_LEN;
    size_t data = l->end - l->l4, done = 0, most;
    unsigned old = v4 ? get16(frame + l->l3 + IPV4_FRAG) : 0;

    if (header - l->l3 + 8 > mtu)
        return;
    most = (mtu - (header - l->l3)) & ~(size_t)7;
    memcpy(piece, frame, l->l4);
    while (done < data) {
        size_t part = data - done < most ? data - done : most;
        bool more = done + part < data;
        uint8_t *ip = piece + l->l3;

        if (v4) {
            unsigned off = (old & IPV4_FRAG_OFF) + (unsigned)(done / 8);

            put16(ip + IPV4_LEN, (unsigned)(header + part - l->l3));
            put16(ip + IPV4_FRAG, (off & IPV4_FRAG_OFF) | (more ? IPV4_MORE : old & IPV4_MORE));
            if (!(old & (IPV4_MORE | IPV4_FRAG_OFF)))
                put16(ip + IPV4_ID, id & 0xffff);
            ipv4_finish(ip);
        } else {
            uint8_t *ext = piece + l->l4;

            put16(ip + IPV6_LEN, (unsigned)(IPV6_FRAG_LEN + part));
            ip[IPV6_NEXT] = IPV6_FRAGMENT;
            ext[0] = l->proto;
            ext[1] = 0;
            put16(ext + 2, (unsigned)done | more);
            put32(ext + 4, id);
        }
        memcpy(piece + header, frame + l->l4 + done, part);
        emit(opaque, piece, header + part);
        done += part;
    }
}
