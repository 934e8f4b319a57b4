/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Which address spaces have a view and when, and which blocks they run. */
#include <time.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/tlb.h"
#include "engine/soft/view_int.h"

/* In milliseconds of the vCPU thread's time, as counted by interrupts that find it in user code. */
#ifndef TIME_ON         /* tests have views come sooner and stay longer */
#define TIME_ON    20   /* that long, and an address space gets a view */
#define TIME_OWN   60   /* and that long, and it is calm: blocks of its own */
#define TIME_AGAIN -300 /* after a view was lost */
#define EVENTS_LIMIT                                                                               \
    800 /* four times the faults in a tick of 4 ms that cost more than a view gains */
#endif
#define TICK_MAX 10 /* what one interrupt may count for */

/*
 * Calm: it runs code that it has run before, and not more than the jump cache holds. Programs that go on looking for
 * blocks, as compilers do, have too much code to make it all anew.
 */
#define CALM_WINDOW 32 /* milliseconds that are looked back, about */
#define CALM_FINDS                                                                                 \
    400 /* blocks looked for in that time, at most; a compiler looks for over 1,000 */

/* Blocks of its own are given up if to make them takes more than 20 ms and a third of the time they have been used. */
#define INSNS_PER_MS 2500 /* translated, about */
#define OWN_GRACE    20

static struct view *view_of(struct views *vs, uint64_t pgd)
{
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        if (vs->v[i].pgd == pgd)
            return &vs->v[i];
    return NULL;
}

static bool may_have_view(const struct soft_cpu *c)
{
    return c->views->nowhere && !c->no_views && c->mode == INSN_64 && (c->st.cr0 & X86_CR0_PG) &&
           !(c->st.cr4 & X86_CR4_PKE);
}

/* Make it, with what the soft TLB shows to be in use. */
static void view_on(struct soft_cpu *c, struct view *v)
{
    const struct tlb_set *s = c->set;

    v->nregions = 0;
    v->active = true;
    view_codes_share(v);
    v->own_time = TIME_OWN;
    v->finds = 0;
    c->views->nactive++;
    c->counters.view_on++;
    if (!view_find_regions(c, v)) {
        view_off(c, v, TIME_AGAIN);
        return;
    }
    for (unsigned i = 0; i < TLB_ENTRIES; i++) {
        if (s->rd[i].tag < 1ull << 47 && view_host(v, s->rd[i].tag))
            view_map(c, v, s->rd[i].tag, false);
        if (s->wr[i].tag < 1ull << 47 && view_host(v, s->wr[i].tag))
            view_map(c, v, s->wr[i].tag, true);
    }
    v->set = s;
    v->flushes = s->flushes;
    v->events = v->recent = 0;
    v->faulted = 0;
}

static struct view *view_for_tick(struct views *vs, uint64_t pgd)
{
    struct view *v = view_of(vs, pgd);

    for (unsigned i = 0; !v && i < MAX_VIEWS; i++)
        if (!vs->v[i].active)
            v = &vs->v[i];
    for (unsigned i = 0; i < MAX_VIEWS && v && v->pgd != pgd; i++)
        if (!vs->v[i].active && vs->v[i].last_tick < v->last_tick)
            v = &vs->v[i];
    return v;
}

/* Shall it have blocks of its own? */
static void owning_review(struct soft_cpu *c, struct view *v)
{
    if (BLOCK_OWNER(v->code)) {
        double made = (double)(c->counters.block_insn - v->own_insns) / INSNS_PER_MS;

        if (made > OWN_GRACE + (v->time - v->own_time) / 3) {
            view_codes_share(v);
            v->own_time = 0;
        }
    } else if (v->time >= TIME_OWN && v->own_time && v->finds <= CALM_FINDS) {
        view_codes_own(c, v);
        v->own_time = v->time;
        v->own_insns = c->counters.block_insn;
    }
}

static double thread_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

void view_tick(struct soft_cpu *c)
{
    struct views *vs = c->views;
    uint64_t pgd = c->st.cr3 & X86_CR3_PGD;
    double now = thread_ms(), time = now - vs->then < TICK_MAX ? now - vs->then : TICK_MAX;
    struct view *v, *oldest;

    vs->then = now;
    if (!may_have_view(c))
        return;
    pthread_mutex_lock(&vs->lock);
    v = view_for_tick(vs, pgd);
    if (!v) {
        oldest = &vs->v[0];
        for (unsigned i = 1; i < MAX_VIEWS; i++)
            if (vs->v[i].last_tick < oldest->last_tick)
                oldest = &vs->v[i];
        view_off(c, oldest, 0);
        v = oldest;
    }
    if (v->pgd != pgd) {
        v->pgd = pgd;
        v->time = 0;
    }
    v->last_tick = ++vs->clock;
    v->time += time;
    v->finds += (double)(c->counters.find - vs->finds_then) - v->finds * time / CALM_WINDOW;
    vs->finds_then = c->counters.find;
    if (v->active) {
        v->recent = v->recent * 3 / 4 + v->events;
        v->events = 0;
        if (v->recent > EVENTS_LIMIT)
            view_off(c, v, TIME_AGAIN);
        else
            owning_review(c, v);
    } else if (v->time >= TIME_ON) {
        view_on(c, v);
    }
    pthread_mutex_unlock(&vs->lock);
    view_enter(c);
}

/* The view that the address space has. */
static struct view *present_view(struct soft_cpu *c)
{
    struct view *v = may_have_view(c) ? view_of(c->views, c->st.cr3 & X86_CR3_PGD) : NULL;

    return v && v->active ? v : NULL;
}

static struct view *enter_locked(struct soft_cpu *c, struct tlb_set *s)
{
    struct views *vs = c->views;
    struct view *v = present_view(c);

    if (v && !(v->set != s || v->flushes != s->flushes ? view_check_all(c, v)
                                                       : view_check_pending(c, v))) {
        view_off(c, v, 0);
        v = NULL;
    }
    if (v != vs->now) {
        view_table_set(c, vs->now, false);
        view_table_set(c, v, true);
        vs->now = v;
        c->links = v ? v->links : NULL;
    }
    if (v) {
        v->set = s;
        v->flushes = s->flushes;
        v->npending = 0;
        if (v->faulted)
            view_map(c, v, v->faulted, v->faulted_write);
        v->faulted = 0;
    }
    return v;
}

/* The blocks that user code is to be run with. */
static block_key code_of(const struct soft_cpu *c, const struct view *v)
{
    if (!v)
        return BLOCK_SOFT;
    return c->no_own_blocks ? BLOCK_OF_VIEW(0) : v->code;
}

void view_enter(struct soft_cpu *c)
{
    struct views *vs = c->views;
    struct tlb_set *s = c->set;
    struct view *v = vs->now;

    if (!vs->nactive && !s->code)
        return;
    if (v && s->code == code_of(c, v) && v->pgd == (c->st.cr3 & X86_CR3_PGD) && v->set == s &&
        v->flushes == s->flushes && !v->npending && !v->faulted && !v->links_stale)
        return;
    soft_fpu_park(c);
    v = present_view(c);
    if (v)
        view_check_codes(c, v, v->set != s || v->flushes != s->flushes);
    if (v && v->links_stale)
        view_links_begin(c, v);
    pthread_mutex_lock(&vs->lock);
    v = enter_locked(c, s);
    pthread_mutex_unlock(&vs->lock);
    if (s->code != code_of(c, v)) {
        s->code = code_of(c, v);
        tlb_set_flush_jc(c, s);
    }
    c->chain_site = NULL;
}

void view_force(struct soft_cpu *c)
{
    struct view *v = &c->views->v[0];

    pthread_mutex_lock(&c->views->lock);
    if (!v->active) {
        v->pgd = c->st.cr3 & X86_CR3_PGD;
        view_on(c, v);
        view_codes_own(c, v);
    }
    pthread_mutex_unlock(&c->views->lock);
    view_enter(c);
}
