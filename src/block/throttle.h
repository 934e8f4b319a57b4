/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Limits of a disk: operations and bytes in a second. Every limit is a bucket
 * (base/bucket.h) that holds what comes in BLOCK_BURST_MS; a request passes
 * while no bucket it draws from is in debt. No clock and no lock: time is what
 * the caller says, in nanoseconds.
 */
#ifndef LODGE_BLOCK_THROTTLE_H
#define LODGE_BLOCK_THROTTLE_H

#include "base/bucket.h"
#include "block/config.h"

#define BLOCK_BURST_MS 100

struct throttle {
    /* Indexed by enum block_limit; full at the beginning. */
    struct bucket bucket[BLOCK_LIMITS];
};

void throttle_init(struct throttle *t, const uint64_t limit[BLOCK_LIMITS], uint64_t now);
bool throttle_has_limits(const uint64_t limit[BLOCK_LIMITS]);

/*
 * May a request go on its way? 0: it has been charged. Else how long it has to
 * wait, at least 1; nothing was charged, and earlier there is no use in asking
 * again. `now` never goes back.
 */
uint64_t throttle_take(struct throttle *t, bool write, uint64_t bytes, uint64_t now);

#endif
