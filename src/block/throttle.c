/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/throttle.h"

bool throttle_has_limits(const uint64_t limit[BLOCK_LIMITS])
{
    for (unsigned i = 0; i < BLOCK_LIMITS; i++)
        if (limit[i])
            return true;
    return false;
}

void throttle_init(struct throttle *t, const uint64_t limit[BLOCK_LIMITS], uint64_t now)
{
    for (unsigned i = 0; i < BLOCK_LIMITS; i++)
        bucket_init(&t->bucket[i], limit[i],
                    (uint64_t)((unsigned __int128)limit[i] * BLOCK_BURST_MS / 1000), now);
}

static bool concerns(enum block_limit limit, bool write)
{
    switch (limit) {
    case BLOCK_IOPS_RD:
    case BLOCK_BPS_RD:
        return !write;
    case BLOCK_IOPS_WR:
    case BLOCK_BPS_WR:
        return write;
    default:
        return true;
    }
}

static bool counts_bytes(enum block_limit limit)
{
    return limit == BLOCK_BPS || limit == BLOCK_BPS_RD || limit == BLOCK_BPS_WR;
}

uint64_t throttle_take(struct throttle *t, bool write, uint64_t bytes, uint64_t now)
{
    uint64_t wait = 0;

    for (unsigned i = 0; i < BLOCK_LIMITS; i++) {
        uint64_t w = concerns(i, write) ? bucket_wait(&t->bucket[i], now) : 0;

        wait = w > wait ? w : wait;
    }
    for (unsigned i = 0; !wait && i < BLOCK_LIMITS; i++)
        if (concerns(i, write))
            bucket_take(&t->bucket[i], counts_bytes(i) ? bytes : 1);
    return wait;
}
