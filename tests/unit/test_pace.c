/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/pace.c */
/* A guest's share of CPU time, with threads that only burn it in place of vCPUs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/pace.h"
#include "core/vm.h"

#define CPUS 2

static struct vm vm;
static struct vcpu vcpus[CPUS];
static _Atomic unsigned posts, steps;

void vcpu_post(struct vcpu *vcpu, uint32_t events)
{
    assert_int_equal(events, VCPU_EV_STOP);
    assert_false(atomic_load(&vm.stopping));
    posts++;
    atomic_fetch_or(&vcpu->events, events);
}

static double seconds(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int setup(void **state)
{
    memset(&vm, 0, sizeof(vm));
    memset(vcpus, 0, sizeof(vcpus));
    vm.vcpus = vcpus;
    vm.cfg.cpus = CPUS;
    vm.stopping = true;
    pthread_mutex_init(&vm.lock, NULL);
    pthread_cond_init(&vm.wake, NULL);
    posts = steps = 0;
    return pace_new(&vm);
}

static int teardown(void **state)
{
    pace_free(&vm);
    pace_free(&vm);
    pthread_cond_destroy(&vm.wake);
    pthread_mutex_destroy(&vm.lock);
    return 0;
}

static void set_stopping(bool stopping)
{
    pthread_mutex_lock(&vm.lock);
    atomic_store(&vm.stopping, stopping);
    pthread_cond_broadcast(&vm.wake);
    pthread_mutex_unlock(&vm.lock);
}

/* As core/vm.c's threads: in the engine until an event, then out of it for a look. */
static void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;

    while (!atomic_load(&vm.stopping)) {
        pace_rest(&vm);
        steps++;
        while (!(atomic_load(&vcpu->events) & VCPU_EV_STOP) && !atomic_load(&vm.stopping))
            ;
        atomic_fetch_and(&vcpu->events, ~VCPU_EV_STOP);
    }
    return NULL;
}

static void start(pthread_t thread[CPUS])
{
    set_stopping(false);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, vcpu_thread, &vcpus[i]), 0);
}

static void stop(const pthread_t thread[CPUS])
{
    set_stopping(true);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(thread[i], NULL);
}

static uint64_t rested(void)
{
    struct pace_use use;

    pace_get(&vm, &use);
    return use.rested_ns;
}

static void wait_rested(uint64_t more)
{
    uint64_t was = rested();

    while (rested() < was + more)
        usleep(1000);
}

static void a_share_is_kept(void **state)
{
    pthread_t thread[CPUS];
    double wall, cpu;
    unsigned seen;

    assert_int_equal(pace_set(&vm, 20), 0);
    start(thread);
    wait_rested(1);
    wall = seconds(CLOCK_MONOTONIC);
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    seen = steps;
    /* What a slow host has let them use at once is rested for first. */
    while (seconds(CLOCK_MONOTONIC) < wall + 2 || steps == seen)
        usleep(10000);
    cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    wall = seconds(CLOCK_MONOTONIC) - wall;
    stop(thread);
    /* However busy the host is: what was too much is rested for. */
    if (cpu > wall * 0.35)
        fail_msg("%.2f of %.2f s", cpu, wall);
}

static void a_limit_can_be_lifted(void **state)
{
    pthread_t thread[CPUS];
    struct pace_use use;
    unsigned seen, now;

    assert_int_equal(pace_set(&vm, PACE_MAX + 1), -EINVAL);
    pace_rest(&vm);
    assert_int_equal(pace_set(&vm, 1), 0);
    start(thread);
    wait_rested(1);
    assert_int_equal(pace_set(&vm, 0), 0);
    pace_get(&vm, &use);
    assert_int_equal(use.percent, 0);
    /* Who rested goes on, without waiting for the time that it had to rest for. */
    seen = posts;
    stop(thread);
    now = steps;
    start(thread);
    while (steps < now + CPUS)
        usleep(100);
    usleep(20000);
    assert_true(posts <= seen + CPUS);
    stop(thread);
}

/* A thread that rests is there for a pause, a call and a stop at once, and rests again afterwards. */
static void sessions_do_not_wait(void **state)
{
    pthread_t thread[CPUS];

    assert_int_equal(pace_set(&vm, 1), 0);
    for (int i = 0; i < 200; i++) {
        start(thread);
        if (i % 50 == 0)
            wait_rested(1);
        /* Nobody is told of anything between sessions: vcpu_post asserts it. */
        stop(thread);
    }
}

/* A vCPU that sleeps is left alone. */
static void sleepers_sleep_on(void **state)
{
    pthread_t thread[CPUS];

    vcpus[1].sleeping = 1;
    assert_int_equal(pace_set(&vm, 5), 0);
    start(thread);
    wait_rested(100000000);
    while (!posts)
        usleep(1000);
    assert_false(vcpus[1].events & VCPU_EV_STOP);
    stop(thread);
}

int main(void)
{
#define PACE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        PACE_TEST(a_share_is_kept),
        PACE_TEST(a_limit_can_be_lifted),
        PACE_TEST(sessions_do_not_wait),
        PACE_TEST(sleepers_sleep_on),
    };

    alarm(100);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
