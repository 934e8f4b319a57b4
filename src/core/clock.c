/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/clock.h"

#include <cpuid.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <x86intrin.h>

#include "base/log.h"
#include "base/thread.h"

#define NSEC_PER_SEC 1000000000ull
#define HV_BASE      0x40000000u
#define HV_TSC_LEAF  0x40000010u
#define TSC_KHZ_MIN  100000ull /* 100 MHz .. 100 GHz: anything else is a misreading */
#define TSC_KHZ_MAX  100000000ull
/*
 * Between the two readings that the TSC is measured by. A clock that is made of the TSC is read within some ten cycles of it:
 * 4 ppm in 2 ms. One that takes a system call may be 100 ns off: 5 ppm in 20 ms.
 */
#define TSC_NAP_NS        20000000
#define TSC_SHORT_NAP_NS  2000000
#define TSC_CLOSE_READING 200 /* cycles for a reading */

static uint64_t read_ns(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* ---- TSC frequency ------------------------------------------------------ */

/* A reading of a clock and the TSC belonging together: the closest of a few tries. How many cycles it took. */
static uint64_t read_pair(clockid_t id, uint64_t *ns, uint64_t *tsc)
{
    uint64_t best = UINT64_MAX;

    for (int i = 0; i < 8; i++) {
        uint64_t t0 = __rdtsc(), n = read_ns(id), t1 = __rdtsc();

        if (t1 - t0 < best) {
            best = t1 - t0;
            *ns = n;
            *tsc = t0 + (t1 - t0) / 2;
        }
    }
    return best;
}

static uint64_t tsc_khz_from_cpuid(void)
{
    uint32_t a, b, c, d;

    /* SDM volume 2, CPUID leaf 15H: TSC = crystal (ECX, Hz) * EBX / EAX. */
    if (__get_cpuid_count(0x15, 0, &a, &b, &c, &d) && a && b && c)
        return (uint64_t)c * b / a / 1000;
    __cpuid(1, a, b, c, d);
    if (!(c & (1u << 31)))
        return 0;
    __cpuid(HV_BASE, a, b, c, d);
    if (a < HV_TSC_LEAF || a > HV_BASE + 0xffff)
        return 0;
    __cpuid(HV_TSC_LEAF, a, b, c, d);
    return a;
}

static uint64_t tsc_khz_measure(void)
{
    uint64_t ns0 = 0, ns1 = 0, tsc0 = 0, tsc1 = 0;
    uint64_t took = read_pair(CLOCK_MONOTONIC_RAW, &ns0, &tsc0);
    struct timespec nap = {0, took < TSC_CLOSE_READING ? TSC_SHORT_NAP_NS : TSC_NAP_NS};

    nanosleep(&nap, NULL);
    read_pair(CLOCK_MONOTONIC_RAW, &ns1, &tsc1);
    if (ns1 <= ns0 || tsc1 <= tsc0)
        return 0;
    return (uint64_t)((unsigned __int128)(tsc1 - tsc0) * 1000000 / (ns1 - ns0));
}

static bool khz_sane(uint64_t khz)
{
    return khz >= TSC_KHZ_MIN && khz <= TSC_KHZ_MAX;
}

/* The host's TSC rate does not change: found once, the same for every clock of the process. */
static pthread_once_t host_tsc_once = PTHREAD_ONCE_INIT;
static uint64_t host_tsc_khz;

static _Atomic uint64_t told_tsc_khz;

void clock_tell_tsc_khz(uint64_t khz)
{
    told_tsc_khz = khz;
}

static void host_tsc_find(void)
{
    uint64_t khz = tsc_khz_from_cpuid();

    if (!khz_sane(khz))
        khz = told_tsc_khz;
    host_tsc_khz = khz_sane(khz) ? khz : tsc_khz_measure();
}

/* ---- Timer thread ------------------------------------------------------- */

static void timer_unlink_locked(struct clock *clock, struct vtimer *t)
{
    for (struct vtimer **p = &clock->armed; *p; p = &(*p)->next) {
        if (*p == t) {
            *p = t->next;
            break;
        }
    }
    t->armed = false;
    t->next = NULL;
}

static void timer_run_locked(struct clock *clock, struct vtimer *t)
{
    timer_unlink_locked(clock, t);
    clock->running = t;
    pthread_mutex_unlock(&clock->lock);
    t->fn(t->opaque);
    pthread_mutex_lock(&clock->lock);
    clock->running = NULL;
    pthread_cond_broadcast(&clock->wake); /* for vtimer_fini */
}

static void clock_wait_locked(struct clock *clock)
{
    uint64_t abs;
    struct timespec ts;

    if (!clock->armed || clock->stops) {
        clock->wait_ns = UINT64_MAX;
        pthread_cond_wait(&clock->wake, &clock->lock);
        return;
    }
    clock->wait_ns = clock->armed->deadline_ns;
    if (__builtin_add_overflow(clock->wait_ns, atomic_load(&clock->epoch_ns), &abs))
        abs = UINT64_MAX;
    ts.tv_sec = (time_t)(abs / NSEC_PER_SEC);
    ts.tv_nsec = (long)(abs % NSEC_PER_SEC);
    pthread_cond_timedwait(&clock->wake, &clock->lock, &ts);
}

static void *clock_thread(void *opaque)
{
    struct clock *clock = opaque;

    thread_name("clock");
    /* The default slack of 50 us would be added to every timer. */
    prctl(PR_SET_TIMERSLACK, 1);
    pthread_mutex_lock(&clock->lock);
    while (!clock->stop) {
        struct vtimer *t = clock->stops ? NULL : clock->armed;

        if (t && t->deadline_ns <= clock_now_ns(clock))
            timer_run_locked(clock, t);
        else
            clock_wait_locked(clock);
        clock->wait_ns = 0;
    }
    pthread_mutex_unlock(&clock->lock);
    return NULL;
}

/* When the host has no thread to give, timers stay armed and the next arm tries again. */
static void clock_start_locked(struct clock *clock)
{
    sigset_t all, old;
    int rc;

    if (clock->started)
        return;
    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&clock->thread, NULL, clock_thread, clock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        log_once(LOG_ERROR, "cannot start the timer thread: %s", strerror(rc));
        return;
    }
    clock->started = true;
}

/* ---- Interface ---------------------------------------------------------- */

int clock_init(struct clock *clock, struct err *err)
{
    pthread_condattr_t attr;
    uint64_t ns = 0, tsc = 0;

    memset(clock, 0, sizeof(*clock));
    pthread_once(&host_tsc_once, host_tsc_find);
    if (!khz_sane(host_tsc_khz)) {
        err_set(err, -ENODEV, "the host's time stamp counter does not run at a steady rate");
        return err_next(err, "Check that the host's clocksource is 'tsc' (dmesg | grep -i tsc).");
    }
    pthread_mutex_init(&clock->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&clock->wake, &attr);
    pthread_condattr_destroy(&attr);
    read_pair(CLOCK_MONOTONIC, &ns, &tsc);
    clock->epoch_ns = ns;
    clock->tsc_offset = -tsc;
    clock->tsc_khz = host_tsc_khz;
    return 0;
}

void clock_fini(struct clock *clock)
{
    bool started;

    if (!clock->tsc_khz)
        return;
    pthread_mutex_lock(&clock->lock);
    clock->stop = true;
    started = clock->started;
    pthread_cond_broadcast(&clock->wake);
    pthread_mutex_unlock(&clock->lock);
    if (started)
        pthread_join(clock->thread, NULL);
    while (clock->armed)
        timer_unlink_locked(clock, clock->armed);
    pthread_cond_destroy(&clock->wake);
    pthread_mutex_destroy(&clock->lock);
    *clock = (struct clock){0};
}

void clock_reset_tsc(struct clock *clock)
{
    atomic_store(&clock->tsc_offset, -__rdtsc());
}

/* Not 0, which says that the time is not a still one. */
static uint64_t still(uint64_t ns)
{
    return ns ? ns : 1;
}

void clock_stop(struct clock *clock)
{
    uint64_t ns = 0, tsc = 0;

    pthread_mutex_lock(&clock->lock);
    if (!clock->stops++) {
        while (clock->running)
            pthread_cond_wait(&clock->wake, &clock->lock);
        read_pair(CLOCK_MONOTONIC, &ns, &tsc);
        clock->still_tsc = tsc + clock->tsc_offset;
        atomic_store(&clock->still_ns, still(ns - clock->epoch_ns));
    }
    pthread_mutex_unlock(&clock->lock);
}

void clock_go(struct clock *clock)
{
    uint64_t ns = 0, tsc = 0;

    pthread_mutex_lock(&clock->lock);
    if (!--clock->stops) {
        read_pair(CLOCK_MONOTONIC, &ns, &tsc);
        atomic_store(&clock->epoch_ns, ns - clock->still_ns);
        atomic_store(&clock->tsc_offset, clock->still_tsc - tsc);
        atomic_store(&clock->still_ns, 0);
        pthread_cond_broadcast(&clock->wake);
    }
    pthread_mutex_unlock(&clock->lock);
}

int clock_put(struct clock *clock, uint64_t now_ns, uint64_t tsc, uint64_t tsc_khz)
{
    uint64_t apart = tsc_khz > clock->tsc_khz ? tsc_khz - clock->tsc_khz : clock->tsc_khz - tsc_khz;

    if (apart > clock->tsc_khz / 1000 || now_ns > INT64_MAX)
        return -EINVAL;
    pthread_mutex_lock(&clock->lock);
    atomic_store(&clock->still_ns, still(now_ns));
    clock->still_tsc = tsc;
    clock->tsc_khz = tsc_khz;
    pthread_mutex_unlock(&clock->lock);
    return 0;
}

uint64_t clock_now_ns(const struct clock *clock)
{
    uint64_t ns = atomic_load(&clock->still_ns);

    return ns ? ns : read_ns(CLOCK_MONOTONIC) - atomic_load(&clock->epoch_ns);
}

uint64_t clock_tsc(const struct clock *clock)
{
    return atomic_load(&clock->still_ns) ? clock->still_tsc : __rdtsc() + clock->tsc_offset;
}

/*
 * Reckoned from now, so that the error of tsc_khz, and what NTP does to
 * CLOCK_MONOTONIC, grow with the distance only. Rounded up: a timer must not
 * fire before the TSC has the value.
 */
uint64_t clock_tsc_to_ns(const struct clock *clock, uint64_t guest_tsc)
{
    uint64_t now = clock_now_ns(clock);
    uint64_t tsc = clock_tsc(clock);
    unsigned __int128 ns;

    if (guest_tsc <= tsc) {
        ns = (unsigned __int128)(tsc - guest_tsc) * 1000000 / clock->tsc_khz;
        return ns < now ? now - (uint64_t)ns : 0;
    }
    ns = ((unsigned __int128)(guest_tsc - tsc) * 1000000 + clock->tsc_khz - 1) / clock->tsc_khz;
    ns += now;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

void vtimer_init(struct vtimer *t, struct clock *clock, void (*fn)(void *), void *opaque)
{
    *t = (struct vtimer){.clock = clock, .fn = fn, .opaque = opaque};
}

void vtimer_arm(struct vtimer *t, uint64_t deadline_ns)
{
    struct clock *clock = t->clock;
    struct vtimer **p = &clock->armed;

    pthread_mutex_lock(&clock->lock);
    if (!t->fn) { /* vtimer_fini waits for the callback that wants this */
        pthread_mutex_unlock(&clock->lock);
        return;
    }
    if (t->armed)
        timer_unlink_locked(clock, t);
    t->deadline_ns = deadline_ns;
    t->armed = true;
    while (*p && (*p)->deadline_ns <= deadline_ns)
        p = &(*p)->next;
    t->next = *p;
    *p = t;
    clock_start_locked(clock);
    /* A thread that wakes in time anyway is left alone: guests re-arm far more often than timers fire. */
    if (deadline_ns < clock->wait_ns)
        pthread_cond_broadcast(&clock->wake);
    pthread_mutex_unlock(&clock->lock);
}

void vtimer_disarm(struct vtimer *t)
{
    pthread_mutex_lock(&t->clock->lock);
    if (t->armed)
        timer_unlink_locked(t->clock, t);
    pthread_mutex_unlock(&t->clock->lock);
}

void vtimer_fini(struct vtimer *t)
{
    struct clock *clock = t->clock;

    if (!clock)
        return;
    pthread_mutex_lock(&clock->lock);
    if (t->armed)
        timer_unlink_locked(clock, t);
    t->fn = NULL;
    while (clock->running == t)
        pthread_cond_wait(&clock->wake, &clock->lock);
    pthread_mutex_unlock(&clock->lock);
    t->clock = NULL;
}
