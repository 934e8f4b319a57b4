/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/clock.c src/base/err.c src/base/log.c */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <errno.h>

#include "core/clock.h"

#define MS          1000000ull
#define PATIENCE_MS 5000

struct shot {
    struct vtimer timer;
    struct clock *clock;
    _Atomic unsigned fired;
    _Atomic uint64_t at_ns, order;
    _Atomic uint64_t *sequence;
    unsigned again; /* re-arm so many times */
    unsigned hold_ms;
    _Atomic int inside;
};

static void nap(uint64_t ns)
{
    struct timespec ts = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};

    nanosleep(&ts, NULL);
}

static void fire(void *opaque)
{
    struct shot *s = opaque;

    s->inside = 1;
    s->at_ns = clock_now_ns(s->clock);
    if (s->sequence)
        s->order = atomic_fetch_add(s->sequence, 1) + 1;
    if (s->hold_ms)
        nap(s->hold_ms * MS);
    if (s->again) {
        s->again--;
        vtimer_arm(&s->timer, s->at_ns);
    }
    s->inside = 0;
    s->fired++;
}

static void wait_fired(struct shot *s, unsigned n)
{
    for (unsigned i = 0; i < PATIENCE_MS && s->fired < n; i++)
        nap(MS);
    assert_true(s->fired >= n);
}

static void shot_init(struct shot *s, struct clock *clock)
{
    *s = (struct shot){.clock = clock};
    vtimer_init(&s->timer, clock, fire, s);
}

static void time_starts_at_zero_and_grows(void **state)
{
    struct clock clock;
    uint64_t a, b;

    assert_int_equal(clock_init(&clock, NULL), 0);
    a = clock_now_ns(&clock);
    assert_true(a < 1000 * MS);
    nap(2 * MS);
    b = clock_now_ns(&clock);
    assert_true(b >= a + 2 * MS);
    assert_true(clock.tsc_khz >= 100000);
    assert_false(clock.started); /* no timer, no thread */
    clock_fini(&clock);
    clock_fini(&clock);
}

static void tsc_and_time_agree(void **state)
{
    struct clock clock;
    uint64_t tsc, ns, at;

    assert_int_equal(clock_init(&clock, NULL), 0);
    nap(50 * MS);
    ns = clock_now_ns(&clock);
    tsc = clock_tsc(&clock);
    at = (uint64_t)((unsigned __int128)tsc * 1000000 / clock.tsc_khz);
    assert_in_range(at, ns - ns / 1000 - MS, ns + ns / 1000 + 20 * MS);

    /* 10 ms ahead, 10 ms back, and the ends of the range */
    at = clock_tsc_to_ns(&clock, clock_tsc(&clock) + 10 * clock.tsc_khz);
    ns = clock_now_ns(&clock);
    assert_in_range(at, ns, ns + 10 * MS + 1000);
    at = clock_tsc_to_ns(&clock, clock_tsc(&clock) - 10 * clock.tsc_khz);
    assert_true(at + 9 * MS < clock_now_ns(&clock));
    assert_true(clock_tsc_to_ns(&clock, 0) < 10 * MS);
    assert_true(clock_tsc_to_ns(&clock, UINT64_MAX) > 1000000000000ull);
    clock_fini(&clock);
}

static void fires_once_and_not_early(void **state)
{
    struct clock clock;
    struct shot s;
    uint64_t due;

    assert_int_equal(clock_init(&clock, NULL), 0);
    shot_init(&s, &clock);
    due = clock_now_ns(&clock) + 5 * MS;
    vtimer_arm(&s.timer, due);
    wait_fired(&s, 1);
    assert_true(s.at_ns >= due);
    nap(5 * MS);
    assert_int_equal(s.fired, 1);
    vtimer_arm(&s.timer, 0); /* long past */
    wait_fired(&s, 2);
    vtimer_fini(&s.timer);
    clock_fini(&clock);
}

static void in_order_of_deadline(void **state)
{
    _Atomic uint64_t sequence = 0;
    struct clock clock;
    struct shot s[4];
    uint64_t now;

    assert_int_equal(clock_init(&clock, NULL), 0);
    now = clock_now_ns(&clock);
    for (unsigned i = 0; i < 4; i++) {
        shot_init(&s[i], &clock);
        s[i].sequence = &sequence;
    }
    vtimer_arm(&s[2].timer, now + 30 * MS);
    vtimer_arm(&s[0].timer, now + 10 * MS); /* earlier than what is waited for */
    vtimer_arm(&s[3].timer, now + 40 * MS);
    vtimer_arm(&s[1].timer, now + 20 * MS);
    wait_fired(&s[3], 1);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(s[i].order, i + 1);
        vtimer_fini(&s[i].timer);
    }
    clock_fini(&clock);
}

static void an_earlier_deadline_wakes_the_thread(void **state)
{
    struct clock clock;
    struct shot late, s;
    uint64_t due;

    assert_int_equal(clock_init(&clock, NULL), 0);
    shot_init(&late, &clock);
    shot_init(&s, &clock);
    vtimer_arm(&late.timer, UINT64_MAX);
    nap(5 * MS); /* the thread sleeps by now */
    due = clock_now_ns(&clock) + MS;
    vtimer_arm(&s.timer, due);
    wait_fired(&s, 1);
    vtimer_arm(&s.timer, UINT64_MAX - 1);
    vtimer_arm(&s.timer, 1); /* replaces it */
    wait_fired(&s, 2);
    assert_int_equal(late.fired, 0);
    vtimer_fini(&s.timer);
    vtimer_fini(&late.timer);
    clock_fini(&clock);
}

static void a_later_deadline_replaces_an_earlier_one(void **state)
{
    struct clock clock;
    struct shot s;
    uint64_t due;

    assert_int_equal(clock_init(&clock, NULL), 0);
    shot_init(&s, &clock);
    vtimer_arm(&s.timer, clock_now_ns(&clock) + 10 * MS);
    due = clock_now_ns(&clock) + 60 * MS;
    vtimer_arm(&s.timer, due);
    wait_fired(&s, 1);
    assert_true(s.at_ns >= due);
    nap(5 * MS);
    assert_int_equal(s.fired, 1);
    vtimer_fini(&s.timer);
    clock_fini(&clock);
}

static void disarmed_does_not_fire(void **state)
{
    struct clock clock;
    struct shot s;

    assert_int_equal(clock_init(&clock, NULL), 0);
    shot_init(&s, &clock);
    vtimer_disarm(&s.timer); /* never armed */
    vtimer_arm(&s.timer, clock_now_ns(&clock) + 10 * MS);
    vtimer_disarm(&s.timer);
    vtimer_disarm(&s.timer);
    nap(25 * MS);
    assert_int_equal(s.fired, 0);
    vtimer_arm(&s.timer, 0);
    wait_fired(&s, 1);
    vtimer_fini(&s.timer);
    vtimer_fini(&s.timer);
    clock_fini(&clock);
}

static void a_callback_may_arm_its_own_timer(void **state)
{
    struct clock clock;
    struct shot s;

    assert_int_equal(clock_init(&clock, NULL), 0);
    shot_init(&s, &clock);
    s.again = 5;
    vtimer_arm(&s.timer, 0);
    wait_fired(&s, 6);
    vtimer_fini(&s.timer);
    clock_fini(&clock);
}

static void fini_waits_for_the_callback(void **state)
{
    struct clock clock;
    struct shot s;

    assert_int_equal(clock_init(&clock, NULL), 0);
    shot_init(&s, &clock);
    s.hold_ms = 20;
    s.again = 1;
    vtimer_arm(&s.timer, 0);
    for (unsigned i = 0; i < PATIENCE_MS && !s.inside; i++)
        nap(MS / 10);
    assert_true(s.inside);
    vtimer_fini(&s.timer);
    assert_int_equal(s.inside, 0);
    assert_int_equal(s.fired, 1); /* what it armed meanwhile is gone */
    nap(5 * MS);
    assert_int_equal(s.fired, 1);
    clock_fini(&clock);
}

/* Many threads on few timers: the list stays whole and the last word counts. */
static void *hammer(void *opaque)
{
    struct shot *s = opaque;

    for (unsigned i = 0; i < 2000; i++) {
        vtimer_arm(&s[i % 3].timer, clock_now_ns(s->clock) + i % 7 * 1000);
        if (i % 5 == 0)
            vtimer_disarm(&s[(i + 1) % 3].timer);
    }
    return NULL;
}

static void threads_may_share_timers(void **state)
{
    struct clock clock;
    struct shot s[3];
    pthread_t threads[3];
    unsigned fired;

    assert_int_equal(clock_init(&clock, NULL), 0);
    for (unsigned i = 0; i < 3; i++)
        shot_init(&s[i], &clock);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, s), 0);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 3; i++) {
        fired = s[i].fired;
        vtimer_arm(&s[i].timer, 0);
        wait_fired(&s[i], fired + 1);
        vtimer_fini(&s[i].timer);
    }
    assert_null(clock.armed);
    clock_fini(&clock);
}

static void fini_with_an_armed_timer(void **state)
{
    struct clock clock;
    struct shot s;

    assert_int_equal(clock_init(&clock, NULL), 0);
    shot_init(&s, &clock);
    vtimer_arm(&s.timer, UINT64_MAX);
    clock_fini(&clock);
    assert_false(s.timer.armed);
    assert_int_equal(s.fired, 0);
}

static void nothing_happens_while_it_is_stopped(void **state)
{
    struct clock clock;
    struct shot s = {.clock = &clock};
    uint64_t ns, tsc;

    assert_int_equal(clock_init(&clock, NULL), 0);
    vtimer_init(&s.timer, &clock, fire, &s);
    vtimer_arm(&s.timer, clock_now_ns(&clock) + 20 * MS);
    clock_stop(&clock);
    clock_stop(&clock);
    ns = clock_now_ns(&clock);
    tsc = clock_tsc(&clock);
    nap(60 * MS);
    clock_go(&clock);
    assert_int_equal(clock_now_ns(&clock), ns);
    assert_int_equal(clock_tsc(&clock), tsc);
    assert_int_equal(s.fired, 0);
    clock_go(&clock);
    /* What was left of its time is left still. */
    wait_fired(&s, 1);
    assert_true(s.at_ns >= ns);
    assert_true(clock_tsc(&clock) > tsc);
    vtimer_fini(&s.timer);
    clock_fini(&clock);
}

static void a_clock_is_put(void **state)
{
    struct clock clock;
    uint64_t khz;

    assert_int_equal(clock_init(&clock, NULL), 0);
    khz = clock.tsc_khz;
    clock_stop(&clock);
    assert_int_equal(clock_put(&clock, 5000 * MS, 77, khz + khz / 500), -EINVAL);
    assert_int_equal(clock_put(&clock, 5000 * MS, 77, khz - khz / 500), -EINVAL);
    assert_int_equal(clock_put(&clock, UINT64_MAX, 77, khz), -EINVAL);
    assert_int_equal(clock.tsc_khz, khz);
    assert_int_equal(clock_put(&clock, 5000 * MS, 77, khz + 1), 0);
    assert_int_equal(clock_now_ns(&clock), 5000 * MS);
    assert_int_equal(clock_tsc(&clock), 77);
    assert_int_equal(clock.tsc_khz, khz + 1);
    clock_go(&clock);
    assert_in_range(clock_now_ns(&clock), 5000 * MS, 5000 * MS + 3600000 * MS);
    clock_fini(&clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_starts_at_zero_and_grows),
        cmocka_unit_test(tsc_and_time_agree),
        cmocka_unit_test(fires_once_and_not_early),
        cmocka_unit_test(in_order_of_deadline),
        cmocka_unit_test(an_earlier_deadline_wakes_the_thread),
        cmocka_unit_test(a_later_deadline_replaces_an_earlier_one),
        cmocka_unit_test(disarmed_does_not_fire),
        cmocka_unit_test(a_callback_may_arm_its_own_timer),
        cmocka_unit_test(fini_waits_for_the_callback),
        cmocka_unit_test(threads_may_share_timers),
        cmocka_unit_test(fini_with_an_armed_timer),
        cmocka_unit_test(nothing_happens_while_it_is_stopped),
        cmocka_unit_test(a_clock_is_put),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
