/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/limit.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define NANOSECONDS 1000000000ull
#define DAY         (86400 * NANOSECONDS)

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NANOSECONDS + (uint64_t)t.tv_nsec;
}

/* At `due`, or when it fires already if that is earlier. */
static void arm_locked(struct net_limit *l, uint64_t due)
{
    const struct itimerspec when = {
        .it_value = {(time_t)(due / NANOSECONDS), (long)(due % NANOSECONDS)}};

    if (l->due && l->due <= due)
        return;
    l->due = due;
    timerfd_settime(l->fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void set_locked(struct net_limit *l, const struct net_rates *rates)
{
    uint64_t now = now_ns();

    l->rates = *rates;
    for (unsigned way = 0; way < ARRAY_SIZE(l->bucket); way++) {
        uint64_t rate = rates->rate[way];

        bucket_init(&l->bucket[way], rate,
                    rates->burst ? rates->burst
                                 : (uint64_t)((unsigned __int128)rate * NET_BURST_MS / 1000),
                    now);
    }
    atomic_store(&l->on, rates->rate[NET_IN] || rates->rate[NET_OUT]);
}

int net_limit_init(struct net_limit *l, const struct net_rates *rates, struct err *err)
{
    l->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->fd < 0)
        return err_set(err, -errno, "cannot make a timer for a network card: %s", strerror(errno));
    l->due = 0;
    pthread_mutex_init(&l->lock, NULL);
    set_locked(l, rates);
    return 0;
}

void net_limit_fini(struct net_limit *l)
{
    close(l->fd);
    pthread_mutex_destroy(&l->lock);
}

void net_limit_set(struct net_limit *l, const struct net_rates *rates)
{
    pthread_mutex_lock(&l->lock);
    set_locked(l, rates);
    arm_locked(l, 1);
    pthread_mutex_unlock(&l->lock);
}

void net_limit_get(struct net_limit *l, struct net_rates *rates)
{
    pthread_mutex_lock(&l->lock);
    *rates = l->rates;
    pthread_mutex_unlock(&l->lock);
}

bool net_limit_passes(struct net_limit *l, enum net_way way)
{
    uint64_t now, wait;

    if (!atomic_load(&l->on))
        return true;
    now = now_ns();
    pthread_mutex_lock(&l->lock);
    wait = bucket_wait(&l->bucket[way], now);
    if (wait)
        arm_locked(l, now + (wait < DAY ? wait : DAY));
    pthread_mutex_unlock(&l->lock);
    return !wait;
}

void net_limit_count(struct net_limit *l, enum net_way way, uint64_t bytes)
{
    if (!atomic_load(&l->on))
        return;
    pthread_mutex_lock(&l->lock);
    bucket_take(&l->bucket[way], bytes);
    pthread_mutex_unlock(&l->lock);
}

void net_limit_look(struct net_limit *l)
{
    uint64_t count;
    ssize_t n;

    pthread_mutex_lock(&l->lock);
    n = read(l->fd, &count, sizeof(count));
    if (n > 0)
        l->due = 0;
    pthread_mutex_unlock(&l->lock);
}
