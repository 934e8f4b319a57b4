/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bucket that fills at a rate and holds a burst. What draws from it passes
 * while it is not in debt, and then takes all it needs: what is larger than
 * the bucket passes, too, and those after it pay. No clock and no lock: time
 * is what the caller says, in nanoseconds, and never goes back.
 */
#ifndef LODGE_BASE_BUCKET_H
#define LODGE_BASE_BUCKET_H

#include "base/types.h"

struct bucket {
    uint64_t rate;  /* units a second, 0: no limit */
    uint64_t burst; /* units it holds, at least 1 */
    uint64_t at;    /* when `level` was right */
    __int128 level; /* units * 1e9; negative: debt */
};

/* Full. burst 0 counts as 1, so that slow rates get anywhere. */
void bucket_init(struct bucket *b, uint64_t rate, uint64_t burst, uint64_t now);

/* How long until something may be taken, rounded up; 0: now. Earlier there is no use in asking again. */
uint64_t bucket_wait(struct bucket *b, uint64_t now);

/* Take from a bucket that bucket_wait just said 0 of. */
void bucket_take(struct bucket *b, uint64_t units);

#endif
