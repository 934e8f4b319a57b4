/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What device models need around them, for tests and fuzzers that link one
 * model and no machine: a clock that stands still until it is told to move,
 * and records of what was posted, requested and signalled. Include it in one
 * file of a program only.
 */
#ifndef LODGE_TESTS_FAKE_PC_H
#define LODGE_TESTS_FAKE_PC_H

#include <stdatomic.h>
#include <string.h>

#include "core/irq.h"
#include "core/vm.h"

#define FAKE_TSC_PER_NS 2

/* The present guest time is in clock->epoch_ns. */
uint64_t clock_now_ns(const struct clock *clock)
{
    return clock->epoch_ns;
}

uint64_t clock_tsc(const struct clock *clock)
{
    return clock->epoch_ns * FAKE_TSC_PER_NS;
}

uint64_t clock_tsc_to_ns(const struct clock *clock, uint64_t guest_tsc)
{
    return guest_tsc / FAKE_TSC_PER_NS + guest_tsc % FAKE_TSC_PER_NS;
}

void vtimer_init(struct vtimer *t, struct clock *clock, void (*fn)(void *), void *opaque)
{
    *t = (struct vtimer){.clock = clock, .fn = fn, .opaque = opaque};
}

void vtimer_disarm(struct vtimer *t)
{
    struct vtimer **p = &t->clock->armed;

    while (*p && *p != t)
        p = &(*p)->next;
    if (*p)
        *p = t->next;
    t->armed = false;
}

void vtimer_arm(struct vtimer *t, uint64_t deadline_ns)
{
    struct vtimer **p = &t->clock->armed;

    vtimer_disarm(t);
    while (*p && (*p)->deadline_ns <= deadline_ns)
        p = &(*p)->next;
    t->deadline_ns = deadline_ns;
    t->armed = true;
    t->next = *p;
    *p = t;
}

void vtimer_fini(struct vtimer *t)
{
    vtimer_disarm(t);
}

/* Let `ns` pass; at most `limit` timers fire. Returns how many did. */
static inline unsigned fake_advance_limited(struct clock *clock, uint64_t ns, unsigned limit)
{
    uint64_t end = clock->epoch_ns + ns;
    unsigned fired = 0;

    while (clock->armed && clock->armed->deadline_ns <= end && fired < limit) {
        struct vtimer *t = clock->armed;

        if (t->deadline_ns > clock->epoch_ns)
            clock->epoch_ns = t->deadline_ns;
        vtimer_disarm(t);
        t->fn(t->opaque);
        fired++;
    }
    clock->epoch_ns = end;
    return fired;
}

static inline unsigned fake_advance(struct clock *clock, uint64_t ns)
{
    return fake_advance_limited(clock, ns, UINT32_MAX);
}

void vcpu_post(struct vcpu *vcpu, uint32_t events)
{
    atomic_fetch_or(&vcpu->events, events);
}

void vcpu_post_nmi(struct vcpu *vcpu)
{
    vcpu->nmis++;
    vcpu_post(vcpu, VCPU_EV_NMI);
}

void vm_request(struct vm *vm, enum vm_request req)
{
    atomic_fetch_or(&vm->requests, req);
}

/* What was posted since the last time. */
static inline uint32_t fake_take_events(struct vcpu *vcpu)
{
    return atomic_exchange(&vcpu->events, 0);
}

struct fake_line {
    bool level;
    unsigned rises;
};

static inline void fake_line_set(void *opaque, unsigned n, bool level)
{
    struct fake_line *line = opaque;

    if (level && !line->level)
        line->rises++;
    line->level = level;
}

static inline struct irq_line fake_irq(struct fake_line *line)
{
    static const struct irq_line_ops ops = {.set = fake_line_set};

    return (struct irq_line){.ops = &ops, .opaque = line};
}

/* A VM of `cpus` vCPUs without APICs, at 1 second of guest time. */
static inline void fake_vm_init(struct vm *vm, struct vcpu *vcpus, unsigned cpus)
{
    memset(vm, 0, sizeof(*vm));
    memset(vcpus, 0, cpus * sizeof(*vcpus));
    vm->cfg.cpus = cpus;
    vm->vcpus = vcpus;
    vm->clock.epoch_ns = 1000000000;
    vm->clock.tsc_khz = 1000000 * FAKE_TSC_PER_NS;
    for (unsigned i = 0; i < cpus; i++) {
        vcpus[i].vm = vm;
        vcpus[i].id = i;
    }
}

#endif
