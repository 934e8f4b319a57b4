/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/bucket.h"

#define SECOND 1000000000ull

void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now)
{
    *b = (struct bucket){.rate = rate, .burst = burst ? burst : 1, .at = now};
    b->level = (__int128)b->burst * (__int128)SECOND;
}

static void fill(struct bucket *b, uint64_t now)
{
    unsigned __int128 gain, room;

    if (now <= b->at)
        return;
    gain = (unsigned __int128)b->rate * (now - b->at);
    room = (unsigned __int128)((__int128)b->burst * (__int128)SECOND - b->level);
    b->level += (__int128)(gain < room ? gain : room);
    b->at = now;
}

uint64_t bucket_wait(struct bucket *b, uint64_t now)
{
    if (!b->rate)
        return 0;
    fill(b, now);
    return b->level >= 0 ? 0 : (uint64_t)((-b->level + (__int128)b->rate - 1) / (__int128)b->rate);
}

void bucket_take(struct bucket *b, uint64_t units)
{
    if (b->rate)
        b->level -= (__int128)units * (__int128)SECOND;
}
