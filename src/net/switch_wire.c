/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/switch_wire.h"

#include <string.h>

#include "net/frame.h"

bool switch_offload_is_right(const struct net_offload *o, size_t len)
{
    uint8_t type = o->gso_type & (uint8_t)~NET_GSO_ECN;

    if (o->flags & ~(NET_NEEDS_CSUM | NET_DATA_VALID))
        return false;
    if ((o->flags & NET_NEEDS_CSUM) && (size_t)o->csum_start + o->csum_offset + 2 > len)
        return false;
    if (type == NET_GSO_NONE)
        return o->gso_type == NET_GSO_NONE;
    return (type == NET_GSO_TCPV4 || type == NET_GSO_TCPV6) && (o->flags & NET_NEEDS_CSUM) &&
           o->gso_size;
}

bool switch_read(const uint8_t *message, size_t len, struct switch_header *h)
{
    if (len < sizeof(*h))
        return false;
    memcpy(h, message, sizeof(*h));
    len -= sizeof(*h);
    if (h->magic != SWITCH_MAGIC || !h->sender)
        return false;
    switch (h->kind) {
    case SWITCH_HELLO:
    case SWITCH_BYE:
        return !len;
    case SWITCH_FRAME:
        return len >= FRAME_ETHERNET && len <= NET_FRAME_MAX &&
               switch_offload_is_right(&h->offload, len);
    default:
        return false;
    }
}

/* ---- Addresses ------------------------------------------------------------- */

static bool is_group(const uint8_t mac[NET_MAC_LEN])
{
    return mac[0] & 1;
}

static unsigned place(const uint8_t mac[NET_MAC_LEN])
{
    uint32_t h = 2166136261u; /* FNV-1a */

    for (unsigned i = 0; i < NET_MAC_LEN; i++)
        h = (h ^ mac[i]) * 16777619u;
    return (h ^ h >> 16) % SWITCH_TABLE;
}

void switch_learn(struct switch_table *t, const uint8_t mac[NET_MAC_LEN], uint64_t member)
{
    struct switch_entry *e = &t->entry[place(mac)];

    if (is_group(mac))
        return;
    memcpy(e->mac, mac, NET_MAC_LEN);
    e->member = member;
}

uint64_t switch_find(const struct switch_table *t, const uint8_t mac[NET_MAC_LEN])
{
    const struct switch_entry *e = &t->entry[place(mac)];

    return is_group(mac) || memcmp(e->mac, mac, NET_MAC_LEN) ? 0 : e->member;
}

void switch_forget(struct switch_table *t, uint64_t member)
{
    for (unsigned i = 0; i < SWITCH_TABLE; i++)
        if (t->entry[i].member == member)
            t->entry[i] = (struct switch_entry){0};
}

/* ---- Cards that take less ------------------------------------------------------ */

struct reduce {
    void (*emit)(void *opaque, const struct net_offload *offload, const uint8_t *frame, size_t len);
    void *opaque;
};

static void emit_plain(void *opaque, const uint8_t *frame, size_t len)
{
    const struct net_offload none = {0};
    struct reduce *r = opaque;

    r->emit(r->opaque, &none, frame, len);
}

void switch_reduce(uint8_t *frame, size_t len, struct net_offload *o, unsigned takes,
                   uint8_t *piece,
                   void (*emit)(void *opaque, const struct net_offload *offload,
                                const uint8_t *frame, size_t len),
                   void *opaque)
{
    struct reduce r = {emit, opaque};
    uint8_t type = o->gso_type & (uint8_t)~NET_GSO_ECN;
    unsigned needs = type == NET_GSO_TCPV4   ? NET_TAKES_TSO4
                     : type == NET_GSO_TCPV6 ? NET_TAKES_TSO6
                     : o->flags              ? NET_TAKES_CSUM
                                             : 0;
    struct frame_layout l;

    if ((takes & needs) == needs) {
        emit(opaque, o, frame, len);
    } else if (type) {
        /* A sender that says so of what is no TCP segment gets nothing through. */
        if (frame_parse(frame, len, &l) && l.tcp_data)
            frame_segment(frame, &l, o->gso_size, piece, emit_plain, &r);
    } else {
        if (o->flags & NET_NEEDS_CSUM)
            frame_finish_sum(frame, len, o);
        *o = (struct net_offload){0};
        emit_plain(&r, frame, len);
    }
}
