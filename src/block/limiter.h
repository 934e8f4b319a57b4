/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that wait because of a disk's limits (block/throttle.h), with the thread that lets them go on. For block.c. */
#ifndef LODGE_BLOCK_LIMITER_H
#define LODGE_BLOCK_LIMITER_H

#include "block/block.h"

struct block_limiter;

/* `go` is called for each held request once its time has come, on a thread of the limiter's. -errno; *l is NULL then. */
int limiter_new(struct block_limiter **l, struct block *b, const uint64_t limit[BLOCK_LIMITS],
                void (*go)(struct block *b, struct block_req *req), struct err *err);
/* Nothing is held any more. NULL is fine. */
void limiter_free(struct block_limiter *l);

/* Other limits from now on, also for those that are held; all 0: none. Any thread. */
void limiter_set(struct block_limiter *l, const uint64_t limit[BLOCK_LIMITS]);
void limiter_get(struct block_limiter *l, uint64_t limit[BLOCK_LIMITS]);

/* Is there any limit? NULL: no. Any thread. */
bool limiter_is_on(struct block_limiter *l);

/* False: the request may go on now. True: it is held. Any thread. */
bool limiter_hold(struct block_limiter *l, struct block_req *req);

/* Between the two nothing is held, and what was goes on at once. Calls nest. */
void limiter_open(struct block_limiter *l);
void limiter_shut(struct block_limiter *l);

#endif
