/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/block/throttle.c src/base/bucket.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "block/throttle.h"

#define SECOND 1000000000ull
#define START  (5 * SECOND)

/* Requests one after the other, each as soon as it may, until `end`; how many that were. */
static uint64_t run(struct throttle *t, bool write, uint64_t bytes, uint64_t *now, uint64_t end)
{
    uint64_t count = 0;

    for (;;) {
        uint64_t wait = throttle_take(t, write, bytes, *now);

        if (*now + wait >= end)
            return count;
        count += !wait;
        *now += wait;
    }
}

static void about(uint64_t got, uint64_t want, uint64_t burst)
{
    assert_in_range(got, want, want + burst + 1);
}

static void without_limits_nothing_waits(void **state)
{
    const uint64_t limit[BLOCK_LIMITS] = {0};
    struct throttle t;

    assert_false(throttle_has_limits(limit));
    throttle_init(&t, limit, START);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(throttle_take(&t, i & 1, UINT64_MAX, START), 0);
}

static void operations_in_a_second(void **state)
{
    static const uint64_t rates[] = {1, 7, 100, 12345, 3000000};

    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        const uint64_t limit[BLOCK_LIMITS] = {[BLOCK_IOPS] = rates[i]};
        uint64_t now = START, burst = rates[i] * BLOCK_BURST_MS / 1000 + 1;
        struct throttle t;

        assert_true(throttle_has_limits(limit));
        throttle_init(&t, limit, START);
        about(run(&t, false, 1 << 20, &now, START + 3 * SECOND), 3 * rates[i], burst);
    }
}

static void bytes_in_a_second(void **state)
{
    const uint64_t limit[BLOCK_LIMITS] = {[BLOCK_BPS] = 10000000};
    uint64_t now = START;
    struct throttle t;

    throttle_init(&t, limit, START);
    about(run(&t, true, 4096, &now, START + 10 * SECOND), 100000000 / 4096, 1000000 / 4096 + 1);
}

/* Larger than a bucket: it passes, and those after it pay. */
static void one_request_may_be_more_than_a_second(void **state)
{
    const uint64_t limit[BLOCK_LIMITS] = {[BLOCK_BPS] = 1000};
    struct throttle t;
    uint64_t wait;

    throttle_init(&t, limit, START);
    assert_int_equal(throttle_take(&t, false, 10000, START), 0);
    wait = throttle_take(&t, false, 1, START);
    assert_int_equal(wait, 9900 * (SECOND / 1000));
    assert_int_equal(throttle_take(&t, false, 1, START + wait - 1), 1);
    assert_int_equal(throttle_take(&t, false, 1, START + wait), 0);
}

static void a_burst_after_a_pause_and_no_more(void **state)
{
    const uint64_t limit[BLOCK_LIMITS] = {[BLOCK_IOPS] = 1000};
    struct throttle t;
    uint64_t now = START, count = 0;

    throttle_init(&t, limit, START);
    run(&t, false, 1, &now, START + SECOND);
    now += 3600 * SECOND;
    while (!throttle_take(&t, false, 1, now))
        count++;
    /* What the bucket holds, and the one that gets it into debt. */
    assert_int_equal(count, 1000 * BLOCK_BURST_MS / 1000 + 1);
}

static void reads_and_writes_have_limits_of_their_own(void **state)
{
    const uint64_t limit[BLOCK_LIMITS] = {
        [BLOCK_IOPS_RD] = 10, [BLOCK_BPS_WR] = 40960, [BLOCK_IOPS] = 15};
    struct throttle t;
    uint64_t now = START;

    throttle_init(&t, limit, START);
    about(run(&t, false, 4096, &now, START + 10 * SECOND), 100, 2);
    throttle_init(&t, limit, START);
    now = START;
    about(run(&t, true, 4096, &now, START + 10 * SECOND), 100, 2);
    /* Both at once have to share the common one. */
    throttle_init(&t, limit, START);
    now = START;
    uint64_t count = 0;
    while (now < START + 10 * SECOND) {
        uint64_t a = throttle_take(&t, false, 4096, now), b = throttle_take(&t, true, 4096, now);

        count += !a + !b;
        now += a && b ? (a < b ? a : b) : 0;
    }
    about(count, 150, 4);
}

/* A request that waits is not charged, however often it asks. */
static void asking_costs_nothing(void **state)
{
    const uint64_t limit[BLOCK_LIMITS] = {[BLOCK_IOPS] = 1, [BLOCK_BPS] = 1000000};
    struct throttle t;

    throttle_init(&t, limit, START);
    assert_int_equal(throttle_take(&t, false, 1, START), 0);
    assert_int_equal(throttle_take(&t, false, 1, START), 0);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(throttle_take(&t, false, 1 << 30, START), SECOND);
    assert_int_equal(throttle_take(&t, false, 1, START + SECOND), 0);
}

static void the_largest_numbers_do_not_overflow(void **state)
{
    uint64_t limit[BLOCK_LIMITS];
    struct throttle t;

    for (unsigned i = 0; i < BLOCK_LIMITS; i++)
        limit[i] = UINT64_MAX;
    throttle_init(&t, limit, 0);
    assert_int_equal(throttle_take(&t, true, UINT64_MAX, UINT64_MAX), 0);
    assert_in_range(throttle_take(&t, true, UINT64_MAX, UINT64_MAX), 1, SECOND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_limits_nothing_waits),
        cmocka_unit_test(operations_in_a_second),
        cmocka_unit_test(bytes_in_a_second),
        cmocka_unit_test(one_request_may_be_more_than_a_second),
        cmocka_unit_test(a_burst_after_a_pause_and_no_more),
        cmocka_unit_test(reads_and_writes_have_limits_of_their_own),
        cmocka_unit_test(asking_costs_nothing),
        cmocka_unit_test(the_largest_numbers_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
