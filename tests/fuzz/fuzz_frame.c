/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/net/frame.c */
/* A frame of any bytes, with what is done to frames of guests and for them. */
#include <stdlib.h>
#include <string.h>

#include "fuzz_ops.h"
#include "net/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct pieces {
    size_t count, bytes;
};

/* What comes out can be read again, and is right where it was made. */
static void on_piece(void *opaque, const uint8_t *frame, size_t len)
{
    struct pieces *p = opaque;
    struct frame_layout l;

    fuzz_check(len <= NET_FRAME_MAX && frame_parse(frame, len, &l) && l.end == len);
    if (l.type == FRAME_IPV4)
        fuzz_check(frame_sum(frame + l.l3, l.l4 - l.l3, 0) == 0xffff);
    p->count++;
    p->bytes += len;
}

static void cut(uint8_t *frame, size_t len, const struct frame_layout *l, uint16_t mss)
{
    uint8_t *piece = malloc(NET_FRAME_MAX), *copy = malloc(len);
    struct pieces p = {0};
    struct net_offload o;

    fuzz_check(piece && copy);
    memcpy(copy, frame, len);
    if (l->tcp_data) {
        frame_segment(frame, l, mss, piece, on_piece, &p);
        fuzz_check(p.count && p.bytes == l->end - l->tcp_data + p.count * l->tcp_data);
        frame_make_gso(copy, l, mss, &o);
        fuzz_check(frame_finish_sum(copy, l->end, &o));
    }
    p = (struct pieces){0};
    frame_fragment(frame, l, mss, 1, piece, on_piece, &p);
    free(piece);
    free(copy);
}

/* The second half, as a frame of its own, behind the first. */
static void go_on(const uint8_t *frame, size_t len, const struct frame_layout *l)
{
    struct frame_layout la = *l, lb;
    size_t rest = len - l->end;
    uint8_t *a;

    if (!l->tcp_data || l->end == l->tcp_data || !frame_parse(frame + l->end, rest, &lb) ||
        !lb.tcp_data || !frame_goes_on(frame, &la, frame + l->end, &lb, l->end - l->tcp_data))
        return;
    a = malloc(l->end + lb.end - lb.tcp_data);
    fuzz_check(a);
    memcpy(a, frame, l->end);
    frame_append(a, &la, frame + l->end, &lb);
    fuzz_check(frame_parse(a, la.end, &lb) && lb.end == la.end);
    free(a);
}

/* Ten bytes of what is asked for, then the frame, in memory of just its size. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct net_offload o = {0};
    struct frame_layout l;
    uint16_t mss;
    uint8_t *frame;

    if (len < 10 || len - 10 > NET_FRAME_MAX)
        return 0;
    memcpy(&o.csum_start, data, 2);
    memcpy(&o.csum_offset, data + 2, 2);
    memcpy(&mss, data + 4, 2);
    len -= 10;
    frame = malloc(len ? len : 1);
    fuzz_check(frame);
    memcpy(frame, data + 10, len);
    frame_finish_sum(frame, len, &o);
    if (frame_parse(frame, len, &l)) {
        fuzz_check(l.l3 < l.l4 && l.l4 <= l.end && l.end <= len && l.tcp_data <= l.end);
        go_on(frame, len, &l);
        cut(frame, len, &l, mss | 64);
    }
    free(frame);
    return 0;
}
