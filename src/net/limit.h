/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Limits of a network card: bytes a second each way. What is over the limit waits where it is, in a ring or a socket. */
#ifndef LODGE_NET_LIMIT_H
#define LODGE_NET_LIMIT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/bucket.h"
#include "base/err.h"

enum net_way { NET_IN, NET_OUT }; /* to the guest, from it */

#define NET_BURST_MS 100

struct net_rates {
    uint64_t rate[2]; /* by enum net_way; bytes of frames a second, 0: no limit */
    uint64_t burst;   /* bytes that pass at once after a pause; 0: those of NET_BURST_MS */
};

struct net_limit {
    pthread_mutex_t lock;
    struct bucket bucket[2];
    struct net_rates rates;
    int fd;       /* timerfd, not blocking */
    uint64_t due; /* when it fires, 0: it is not set */
    _Atomic bool on;
};

int net_limit_init(struct net_limit *l, const struct net_rates *rates, struct err *err);
void net_limit_fini(struct net_limit *l); /* once, after net_limit_init succeeded */

/* Other rates from now on; l->fd can be read at once, for what waits. Any thread. */
void net_limit_set(struct net_limit *l, const struct net_rates *rates);

/* The present ones. Any thread. */
void net_limit_get(struct net_limit *l, struct net_rates *rates);

/* May a frame pass? If not, l->fd can be read as soon as it is worth another try. Any thread; one at a time for a way. */
bool net_limit_passes(struct net_limit *l, enum net_way way);

/* It did, with so many bytes. */
void net_limit_count(struct net_limit *l, enum net_way way, uint64_t bytes);

/* l->fd could be read: make it unreadable. */
void net_limit_look(struct net_limit *l);

#endif
