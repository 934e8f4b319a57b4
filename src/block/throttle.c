/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/throttle.h"

#define SECOND 1000000000ull

bool throttle_has_limits(const uint64_t limit[BLOCK_LIMITS])
{
    for (unsigned i = 0; i < BLOCK_LIMITS; i++)
        if (limit[i])
            return true;
    return false;
}

/* At least one unit, so that slow rates get anywhere. */
static __int128 capacity(const struct bucket *b)
{
    __int128 units = (__int128)b->rate * BLOCK_BURST_MS / 1000;

    return (units ? units : 1) * (__int128)SECOND;
}

void throttle_init(struct throttle *t, const uint64_t limit[BLOCK_LIMITS], uint64_t now)
{
    for (unsigned i = 0; i < BLOCK_LIMITS; i++) {
        struct bucket *b = &t->bucket[i];

        *b = (struct bucket){.rate = limit[i], .at = now};
        b->level = capacity(b);
    }
}

static void fill(struct bucket *b, uint64_t now)
{
    unsigned __int128 gain, room;

    if (!b->rate || now <= b->at)
        return;
    gain = (unsigned __int128)b->rate * (now - b->at);
    room = (unsigned __int128)(capacity(b) - b->level);
    b->level += (__int128)(gain < room ? gain : room);
    b->at = now;
}

/* Until it is out of debt, rounded up. */
static uint64_t debt_time(const struct bucket *b)
{
    return b->level >= 0 ? 0 : (uint64_t)((-b->level + (__int128)b->rate - 1) / (__int128)b->rate);
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
        struct bucket *b = &t->bucket[i];

        fill(b, now);
        if (b->rate && concerns(i, write) && debt_time(b) > wait)
            wait = debt_time(b);
    }
    if (wait)
        return wait;
    for (unsigned i = 0; i < BLOCK_LIMITS; i++) {
        struct bucket *b = &t->bucket[i];

        if (b->rate && concerns(i, write))
            b->level -= (__int128)(counts_bytes(i) ? bytes : 1) * (__int128)SECOND;
    }
    return 0;
}
