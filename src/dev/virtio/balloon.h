/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-balloon (virtio 1.2, 5.5): memory that the guest does not need goes
 * back to the host, by free page reporting without anyone asking.
 */
#ifndef LODGE_DEV_VIRTIO_BALLOON_H
#define LODGE_DEV_VIRTIO_BALLOON_H

#include "dev/virtio/virtio.h"

/* 5.5.6.4; what each means is for the driver to know. */
enum virtio_balloon_stat {
    BALLOON_SWAP_IN,
    BALLOON_SWAP_OUT,
    BALLOON_MAJOR_FAULTS,
    BALLOON_MINOR_FAULTS,
    BALLOON_FREE,
    BALLOON_TOTAL,
    BALLOON_AVAILABLE,
    BALLOON_CACHES,
    BALLOON_HUGETLB_ALLOCATIONS,
    BALLOON_HUGETLB_FAILURES,
    BALLOON_STATS
};

/* What the driver said last. */
struct virtio_balloon_stats {
    uint64_t time;  /* when, CLOCK_MONOTONIC ns; 0: never */
    uint32_t known; /* bits 1 << enum virtio_balloon_stat */
    uint64_t value[BALLOON_STATS];
};

struct virtio_balloon {
    struct virtio_device dev;
    uint32_t actual;             /* pages the driver says it has given; under dev.lock */
    _Atomic uint32_t target;     /* pages it is to give */
    _Atomic uint64_t given_back; /* bytes, inflated or reported, since power-on */
    bool
        stats_held; /* the driver's buffer for statistics is here: the device's thread, and reset */
    uint16_t stats_head;
    _Atomic bool stats_wanted;
    pthread_mutex_t stats_lock;
    struct virtio_balloon_stats stats; /* under it */
};

int virtio_balloon_init(struct virtio_balloon *balloon, const struct virtio_memory *memory,
                        struct err *err);
void virtio_balloon_fini(struct virtio_balloon *balloon); /* idempotent on a zeroed structure */

/* How many pages the guest is to give, from now on; its driver comes to it when it can. Any thread. */
void virtio_balloon_set_target(struct virtio_balloon *balloon, uint32_t pages);

/* Pages that the driver says it has given. Any thread. */
uint32_t virtio_balloon_actual(struct virtio_balloon *balloon);

/* What is known of the guest's memory, and ask the driver to say it anew: later calls get that. Any thread; waits for nobody. */
void virtio_balloon_get_stats(struct virtio_balloon *balloon, struct virtio_balloon_stats *stats);

#endif
