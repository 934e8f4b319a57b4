/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/net/switch_wire.c src/net/frame.c */
/* A message of another member of a named network, for a card that takes more or less. */
#include <stdlib.h>
#include <string.h>

#include "fuzz_ops.h"
#include "net/switch_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void emit(void *opaque, const struct net_offload *o, const uint8_t *frame, size_t len)
{
    fuzz_check(len >= 14 && len <= NET_FRAME_MAX);
    fuzz_check(switch_offload_is_right(o, len));
    fuzz_check(*(unsigned *)opaque & NET_TAKES_CSUM || !(o->flags | o->gso_type));
}

/* The first byte is what the card takes. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct switch_table *table = calloc(1, sizeof(*table));
    uint8_t *piece = malloc(NET_FRAME_MAX), *frame;
    struct switch_header h;
    unsigned takes;

    fuzz_check(table && piece);
    if (len && len - 1 <= SWITCH_MESSAGE_MAX && switch_read(data + 1, len - 1, &h) &&
        h.kind == SWITCH_FRAME) {
        takes = data[0] & 1 ? data[0] & 7 : 0;
        len -= 1 + sizeof(h);
        frame = malloc(len);
        fuzz_check(frame);
        memcpy(frame, data + 1 + sizeof(h), len);
        switch_learn(table, frame + NET_MAC_LEN, h.sender);
        fuzz_check(switch_find(table, frame + NET_MAC_LEN) ==
                   (frame[NET_MAC_LEN] & 1 ? 0 : h.sender));
        switch_forget(table, h.sender);
        fuzz_check(!switch_find(table, frame + NET_MAC_LEN));
        if (!(takes & NET_TAKES_CSUM))
            h.offload.flags &= (uint8_t)~NET_DATA_VALID;
        /* Twice, as after a card had no room. */
        switch_reduce(frame, len, &h.offload, takes, piece, emit, &takes);
        switch_reduce(frame, len, &h.offload, takes, piece, emit, &takes);
        free(frame);
    }
    free(piece);
    free(table);
    return 0;
}
