/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/pace.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/thread.h"
#include "core/vm.h"

#define MS 1000000ll

/* What an idle guest may use at once when it has something to do, as time without a limit; a control group's period. */
#define SAVED_NS (100 * MS)
/* No debt is longer than that: a guest whose clock stands still for longer takes itself for broken. */
#define REST_MAX_NS (2000 * MS)
/* The vCPUs run for so long at a time, less when they would have to rest for more than REST_NS afterwards. */
#define RUN_NS     (10 * MS)
#define RUN_MIN_NS (1 * MS)
#define REST_NS    (200 * MS)

struct pace {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool started, end; /* under lock */
    unsigned percent;  /* under lock */
    _Atomic uint64_t rested_ns;
    _Atomic bool rests; /* changes with vm->lock held */
};

/* What the thread knows, in ns. */
struct account {
    int64_t wall, cpu;
    int64_t left; /* CPU time that may be used now; less than 0: to be rested for */
};

static int64_t read_clock(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return ts.tv_sec * 1000 * MS + ts.tv_nsec;
}

/*
 * A vCPU looks at `rests` between one run of the engine and the next, and before a run that follows a sleep. So one that
 * sleeps needs no word; one that has just looked finds the event in the engine. Between sessions nobody is told, since the
 * engine may be another afterwards.
 */
static void set_rests(struct vm *vm, bool rests)
{
    if (atomic_load(&vm->pace->rests) == rests)
        return;
    pthread_mutex_lock(&vm->lock);
    atomic_store(&vm->pace->rests, rests);
    for (unsigned i = 0; rests && !atomic_load(&vm->stopping) && i < vm->cfg.cpus; i++)
        if (!atomic_load(&vm->vcpus[i].sleeping))
            vcpu_post(&vm->vcpus[i], VCPU_EV_STOP);
    if (!rests)
        pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
}

static void account_begin(struct account *a)
{
    a->wall = read_clock(CLOCK_MONOTONIC);
    a->cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    a->left = 0;
}

/* Returns the time since the last look. */
static int64_t account_update(struct account *a, unsigned percent)
{
    int64_t wall = read_clock(CLOCK_MONOTONIC), cpu = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    int64_t passed = wall - a->wall, most = SAVED_NS / 100 * percent,
            least = -(REST_MAX_NS / 100 * percent);

    /* Without the bound, hours of standing still times the percentage would be too much for the type. */
    a->left += (passed < REST_MAX_NS ? passed : REST_MAX_NS) / 100 * percent - (cpu - a->cpu);
    a->left = a->left > most ? most : a->left < least ? least : a->left;
    a->wall = wall;
    a->cpu = cpu;
    return passed;
}

/* How long until the next look: the debt is paid, or it may be used up. */
static int64_t account_wait(const struct account *a, unsigned percent, unsigned cpus)
{
    int64_t run = REST_NS / 100 * percent / cpus, left;

    if (a->left < 0)
        return -a->left / percent * 100 + 1;
    run = run > RUN_NS ? RUN_NS : run < RUN_MIN_NS ? RUN_MIN_NS : run;
    if (cpus * 100 <= percent)
        return SAVED_NS;
    left = a->left / (cpus * 100 - percent) * 100;
    return left > run ? left : run;
}

static void wait_changed(struct pace *p, int64_t until)
{
    const struct timespec ts = {until / (1000 * MS), until % (1000 * MS)};

    pthread_cond_timedwait(&p->changed, &p->lock, &ts);
}

static void *pace_thread(void *opaque)
{
    struct vm *vm = opaque;
    struct pace *p = vm->pace;
    struct account a;

    thread_name("pace");
    account_begin(&a);
    pthread_mutex_lock(&p->lock);
    while (!p->end) {
        int64_t passed;

        if (!p->percent) {
            set_rests(vm, false);
            pthread_cond_wait(&p->changed, &p->lock);
            account_begin(&a);
            continue;
        }
        passed = account_update(&a, p->percent);
        if (atomic_load(&p->rests))
            atomic_fetch_add(&p->rested_ns, (uint64_t)passed);
        set_rests(vm, a.left < 0);
        wait_changed(p, a.wall + account_wait(&a, p->percent, vm->cfg.cpus));
    }
    pthread_mutex_unlock(&p->lock);
    set_rests(vm, false);
    return NULL;
}

void pace_rest(struct vm *vm)
{
    if (likely(!atomic_load(&vm->pace->rests)))
        return;
    pthread_mutex_lock(&vm->lock);
    while (atomic_load(&vm->pace->rests) && !atomic_load(&vm->stopping))
        pthread_cond_wait(&vm->wake, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

static int start(struct vm *vm)
{
    sigset_t all, old;
    int rc;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&vm->pace->thread, NULL, pace_thread, vm);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -rc;
}

int pace_set(struct vm *vm, unsigned percent)
{
    struct pace *p = vm->pace;
    int rc = 0;

    if (percent > PACE_MAX)
        return -EINVAL;
    pthread_mutex_lock(&p->lock);
    if (percent && !p->started) {
        rc = start(vm);
        p->started = !rc;
    }
    if (!rc)
        p->percent = percent;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return rc;
}

void pace_get(struct vm *vm, struct pace_use *use)
{
    pthread_mutex_lock(&vm->pace->lock);
    use->percent = vm->pace->percent;
    use->rested_ns = atomic_load(&vm->pace->rested_ns);
    pthread_mutex_unlock(&vm->pace->lock);
}

int pace_new(struct vm *vm)
{
    pthread_condattr_t attr;

    vm->pace = calloc(1, sizeof(*vm->pace));
    if (!vm->pace)
        return -ENOMEM;
    pthread_mutex_init(&vm->pace->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&vm->pace->changed, &attr);
    pthread_condattr_destroy(&attr);
    return 0;
}

void pace_free(struct vm *vm)
{
    struct pace *p = vm->pace;

    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->end = true;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (p->started)
        pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
    vm->pace = NULL;
}
