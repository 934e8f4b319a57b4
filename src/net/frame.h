/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ethernet frames as bytes: where the headers are, checksums (RFC 1071),
 * TCP segments and IP fragments. Nothing that is in a frame is trusted.
 */
#ifndef LODGE_NET_FRAME_H
#define LODGE_NET_FRAME_H

#include "net/net.h"

#define FRAME_ETHERNET 14
#define FRAME_IPV4     0x0800
#define FRAME_IPV6     0x86dd
#define FRAME_TCP      6

/* An IPv4 packet, or an IPv6 one; offsets are from the frame's start. */
struct frame_layout {
    uint16_t type; /* FRAME_IPV4 or FRAME_IPV6 */
    uint8_t proto; /* what follows the IP header */
    bool part;     /* a fragment: what is at l4 may be no header */
    size_t l3, l4; /* IP header; what follows it */
    size_t end;    /* of the packet; the frame may be padded beyond */
    size_t
        tcp_data; /* where the payload begins, if it is TCP with a whole header and no fragment; else 0 */
};

/* false: neither, or its header is not whole, or the packet is longer than the frame. */
bool frame_parse(const uint8_t *frame, size_t len, struct frame_layout *layout);

/* One's complement sum of bytes, folded to 16 bits and not inverted, with the sum of others before it. */
uint16_t frame_sum(const void *bytes, size_t len, uint32_t before);

/* Do what NET_NEEDS_CSUM asks for; false: its places are not inside the frame, which is left alone. */
bool frame_finish_sum(uint8_t *frame, size_t len, const struct net_offload *offload);

/*
 * Does a TCP segment go on where another ends, so that both are one with the
 * first one's header? They are of one connection and differ in nothing but
 * what follows from the data; `mss` is the first's payload, of which the other has no more. Neither has options.
 */
bool frame_goes_on(const uint8_t *first, const struct frame_layout *first_layout,
                   const uint8_t *next, const struct frame_layout *next_layout, size_t mss);

/* Append the payload of a segment that goes on to the first one, which has room for it, and correct all but TCP's checksum. */
void frame_append(uint8_t *first, struct frame_layout *first_layout, const uint8_t *next,
                  const struct frame_layout *next_layout);

/* Make a TCP segment one to be cut into pieces of `mss` bytes: fills *offload and leaves the pseudo header's sum in it. */
void frame_make_gso(uint8_t *frame, const struct frame_layout *layout, uint16_t mss,
                    struct net_offload *offload);

typedef void frame_emit(void *opaque, const uint8_t *frame, size_t len);

/*
 * Cut a TCP segment into segments with at most `mss` bytes of payload, with
 * complete checksums, and emit each. `piece` is room for NET_FRAME_MAX bytes.
 */
void frame_segment(const uint8_t *frame, const struct frame_layout *layout, uint16_t mss,
                   uint8_t *piece, frame_emit *emit, void *opaque);

/* Cut an IP packet into fragments of at most `mtu` bytes (RFC 791, RFC 8200); `id` tells it from others. */
void frame_fragment(const uint8_t *frame, const struct frame_layout *layout, size_t mtu,
                    uint32_t id, uint8_t *piece, frame_emit *emit, void *opaque);

#endif
