/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest time. One clock a VM: nanoseconds of CLOCK_MONOTONIC since the VM was
 * made, less those for which it was stopped, and timers on it, served by one
 * thread. The guest TSC is the host's plus an offset, runs at tsc_khz, and
 * starts at 0 with each reset.
 */
#ifndef LODGE_CORE_CLOCK_H
#define LODGE_CORE_CLOCK_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/types.h"

struct clock {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stop;
    struct vtimer *armed;        /* sorted by deadline */
    struct vtimer *running;      /* callback under way */
    uint64_t wait_ns;            /* when the thread wakes by itself; 0: it is not asleep */
    _Atomic uint64_t epoch_ns;   /* CLOCK_MONOTONIC at guest time 0 */
    unsigned stops;              /* clock_stop without clock_go */
    _Atomic uint64_t still_ns;   /* guest time while it stands still; 0: it runs */
    uint64_t still_tsc;          /* the guest's TSC then */
    uint64_t tsc_khz;            /* of host and guest TSC alike */
    _Atomic uint64_t tsc_offset; /* guest TSC = host TSC + tsc_offset */
};

struct vtimer {
    struct clock *clock;
    void (*fn)(void *opaque);
    void *opaque;
    uint64_t deadline_ns;
    bool armed;
    struct vtimer *next;
};

/* Somebody knows the rate of the host's TSC: clock_init need not measure it. Before the first of them. */
void clock_tell_tsc_khz(uint64_t khz);

/* The guest's TSC starts at 0. Measures the host TSC when CPUID does not tell. */
int clock_init(struct clock *clock, struct err *err);
void clock_fini(struct clock *clock);

/* A reset: the guest's TSC starts at 0 again; guest time goes on. No vCPU runs, and engines are told afterwards. */
void clock_reset_tsc(struct clock *clock);

/*
 * Between the two guest time and TSC stand still and no timer fires, not even one that was about to. No vCPU runs. They
 * nest. After clock_go the TSC's offset is another, which engines have to be told.
 */
void clock_stop(struct clock *clock);
void clock_go(struct clock *clock);

/*
 * Make it another time, and another rate of the TSC, while the clock is stopped and no timer is armed. -EINVAL, and
 * nothing has changed, when the host's TSC does not run at that rate, give or take a thousandth.
 */
int clock_put(struct clock *clock, uint64_t now_ns, uint64_t tsc, uint64_t tsc_khz);

uint64_t clock_now_ns(const struct clock *clock); /* guest time */
uint64_t clock_tsc(const struct clock *clock);    /* guest TSC now */
uint64_t clock_tsc_to_ns(const struct clock *clock,
                         uint64_t guest_tsc); /* guest time at which the TSC has that value */

/* `fn` runs on the clock's thread without its lock; it may arm or disarm any timer, itself included. */
void vtimer_init(struct vtimer *t, struct clock *clock, void (*fn)(void *), void *opaque);
/* Fire once at `deadline_ns` (guest time), at once when past. Replaces an earlier deadline. Any thread. */
void vtimer_arm(struct vtimer *t, uint64_t deadline_ns);
/* Afterwards fn is not pending; it may still be finishing on the clock's thread. */
void vtimer_disarm(struct vtimer *t);
/* Disarm and wait for a callback under way (not from the callback itself). */
void vtimer_fini(struct vtimer *t);

#endif
