/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The APIC timer (SDM volume 3, 10.5.4). Its bus runs at 1 GHz: one tick
 * before division is one nanosecond of guest time. A callback of the clock may
 * come late, after the vCPU disarmed or reprogrammed the timer, so it believes
 * only the deadlines it finds under the lock.
 */
#include "x86/chips.h"
#include "x86/lapic_internal.h"

/* A guest may ask for one tick a nanosecond; the host's timer thread must survive that. */
#define MIN_PERIOD_NS 50000u

static uint64_t divide(const struct lapic *l)
{
    unsigned shift = (l->tdcr & 3) | (l->tdcr >> 1 & 4);

    return shift == 7 ? 1 : 2ull << shift;
}

static unsigned timer_mode(const struct lapic *l)
{
    return LVT_TIMER_MODE(l->lvt[LVT_TIMER]);
}

static struct clock *timer_clock(const struct lapic *l)
{
    return &l->vcpu->vm->clock;
}

static void timer_stop_locked(struct lapic *l)
{
    l->deadline_ns = 0;
    l->deadline_tsc = 0;
    vtimer_disarm(&l->timer);
}

static void deadline_check_locked(struct lapic *l)
{
    struct clock *clock = timer_clock(l);
    uint64_t tsc = clock_tsc(clock), now = clock_now_ns(clock), at;

    if (tsc >= l->deadline_tsc) {
        l->deadline_tsc = 0;
        lapic_lvt_raise(l, LVT_TIMER);
        return;
    }
    at = clock_tsc_to_ns(clock, l->deadline_tsc);
    /* TSC and clock may disagree a little: never spin on a deadline the TSC has not seen yet. */
    vtimer_arm(&l->timer, at > now ? at : now + 1000);
}

static void count_check_locked(struct lapic *l)
{
    uint64_t now = clock_now_ns(timer_clock(l)), period = l->tmict * divide(l), next;

    if (now < l->deadline_ns) {
        vtimer_arm(&l->timer, l->deadline_ns);
        return;
    }
    if (timer_mode(l) == TIMER_PERIODIC) {
        /* Ticks that nobody could have seen apart are one tick. */
        next = now + (period < MIN_PERIOD_NS ? MIN_PERIOD_NS : 0);
        l->deadline_ns += ((next - l->deadline_ns) / period + 1) * period;
        vtimer_arm(&l->timer, l->deadline_ns);
    } else {
        l->deadline_ns = 0;
    }
    lapic_lvt_raise(l, LVT_TIMER);
}

static void timer_fire(void *opaque)
{
    struct lapic *l = opaque;

    pthread_mutex_lock(&l->lock);
    if (l->deadline_tsc)
        deadline_check_locked(l);
    else if (l->deadline_ns)
        count_check_locked(l);
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_init(struct lapic *l)
{
    pthread_mutex_init(&l->lock, NULL);
    vtimer_init(&l->timer, timer_clock(l), timer_fire, l);
}

void lapic_timer_fini(struct lapic *l)
{
    vtimer_fini(&l->timer);
    pthread_mutex_destroy(&l->lock);
}

void lapic_timer_reset(struct lapic *l)
{
    pthread_mutex_lock(&l->lock);
    timer_stop_locked(l);
    l->tmict = 0;
    l->tdcr = 0;
    l->lvt[LVT_TIMER] = LVT_MASKED;
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_set_lvt(struct lapic *l, uint32_t val)
{
    pthread_mutex_lock(&l->lock);
    /* A count that has run out did so in the old mode, though the timer's thread may be late. */
    if (l->deadline_ns && clock_now_ns(timer_clock(l)) >= l->deadline_ns)
        count_check_locked(l);
    /* Into or out of TSC-deadline mode disarms (SDM 10.5.4.1); so does the reserved mode. */
    if ((LVT_TIMER_MODE(val) ^ timer_mode(l)) & TIMER_DEADLINE)
        timer_stop_locked(l);
    l->lvt[LVT_TIMER] = val;
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_set_initial(struct lapic *l, uint32_t count)
{
    pthread_mutex_lock(&l->lock);
    if (!(timer_mode(l) & TIMER_DEADLINE)) {
        timer_stop_locked(l);
        l->tmict = count;
        if (count) {
            l->deadline_ns = clock_now_ns(timer_clock(l)) + count * divide(l);
            vtimer_arm(&l->timer, l->deadline_ns);
        }
    }
    pthread_mutex_unlock(&l->lock);
}

static uint32_t current_locked(const struct lapic *l)
{
    uint64_t now = clock_now_ns(timer_clock(l)), left, period;

    if (!l->deadline_ns)
        return 0;
    if (now < l->deadline_ns) {
        left = l->deadline_ns - now;
    } else if (timer_mode(l) == TIMER_PERIODIC) {
        period = l->tmict * divide(l);
        left = period - (now - l->deadline_ns) % period;
    } else {
        return 0;
    }
    /* The coalescing of short periods may have put the deadline several of them ahead. */
    left = (left + divide(l) - 1) / divide(l);
    return left > l->tmict ? (uint32_t)((left - 1) % l->tmict + 1) : (uint32_t)left;
}

uint32_t lapic_timer_current(struct lapic *l)
{
    uint32_t count;

    pthread_mutex_lock(&l->lock);
    count = current_locked(l);
    pthread_mutex_unlock(&l->lock);
    return count;
}

void lapic_timer_set_divide(struct lapic *l, uint32_t tdcr)
{
    pthread_mutex_lock(&l->lock);
    if (l->deadline_ns) {
        uint32_t left = current_locked(l);

        l->tdcr = tdcr & 0xb;
        l->deadline_ns = clock_now_ns(timer_clock(l)) + left * divide(l);
        vtimer_arm(&l->timer, l->deadline_ns);
    } else {
        l->tdcr = tdcr & 0xb;
    }
    pthread_mutex_unlock(&l->lock);
}

uint64_t lapic_timer_get_deadline(struct lapic *l)
{
    uint64_t tsc;

    pthread_mutex_lock(&l->lock);
    tsc = l->deadline_tsc;
    pthread_mutex_unlock(&l->lock);
    return tsc;
}

void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc)
{
    pthread_mutex_lock(&l->lock);
    if (timer_mode(l) == TIMER_DEADLINE) {
        l->deadline_tsc = tsc;
        if (!tsc)
            vtimer_disarm(&l->timer);
        else
            deadline_check_locked(l);
    }
    pthread_mutex_unlock(&l->lock);
}

void lapic_timer_load(struct lapic *l, const struct lapic_state *s)
{
    uint32_t left = s->reg[REG_TMCCT];

    pthread_mutex_lock(&l->lock);
    timer_stop_locked(l);
    l->lvt[LVT_TIMER] = s->reg[REG_LVT_TIMER];
    l->tmict = s->reg[REG_TMICT];
    l->tdcr = s->reg[REG_TDCR] & 0xb;
    if (timer_mode(l) == TIMER_DEADLINE) {
        l->deadline_tsc = s->tsc_deadline;
        if (l->deadline_tsc)
            deadline_check_locked(l);
    } else if (l->tmict && left) {
        l->deadline_ns = clock_now_ns(timer_clock(l)) + left * divide(l);
        vtimer_arm(&l->timer, l->deadline_ns);
    }
    pthread_mutex_unlock(&l->lock);
}
