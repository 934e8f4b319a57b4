/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leaving translated code at random instructions. A breakpoint replaces the
 * first byte of a guest instruction's host code; its handler takes it away
 * again and leaves the block as a poll would, flags from where the recovery
 * table says they are. The state is kept, and the run goes on behind it.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include "difftest.h"
#include "engine/engine.h"
#include "engine/soft/engine_soft.h"

#define MAX_BLOCKS 64 /* of one case that are remembered */
#define MAX_LEFT   16 /* states kept of one case */
#define INT3       0xcc

/* A breakpoint, at the executable address `pc`; NULL: none. */
struct trap {
    const uint8_t *pc;
    const struct recover *rec;
    uint8_t was;
};

struct left {
    struct dt_result state;
    uint16_t live;
    bool again, found; /* the interpreter was there, too */
};

static struct {
    struct soft_cpu *c;
    const uint8_t *code;
    uint64_t rng;
    bool again; /* the present run is of code that exists */
    struct block *blocks[MAX_BLOCKS];
    struct trap traps[MAX_BLOCKS]; /* one in each */
    unsigned nblocks;
    uint32_t gen;                  /* of the cache that the blocks are in */
    const struct recover *pending; /* where it was left, the vCPU's stop being under way */
    struct left left[MAX_LEFT];
    unsigned nleft;
    struct dt_result step; /* of the interpreter */
    uint64_t undefined;    /* flags that the step's instructions so far have left undefined */
} l;

static unsigned below(unsigned n)
{
    uint64_t z = l.rng += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (unsigned)((z >> 32) * n >> 32);
}

static uint8_t *writable(const uint8_t *pc)
{
    const struct cache *k = &l.c->svm->cache;

    return k->rw + (pc - k->rx);
}

static void trap_remove(struct trap *t)
{
    if (t->pc)
        *(volatile uint8_t *)writable(t->pc) = t->was;
    t->pc = NULL;
}

/* In three of four blocks, at the beginning of any instruction. */
static void trap_plant(struct trap *t, const struct block *b)
{
    if (!b->ninsn || !below(4))
        return;
    t->rec = &b->recover[below(b->ninsn)];
    t->pc = b->code + t->rec->host_off;
    t->was = *writable(t->pc);
    *(volatile uint8_t *)writable(t->pc) = INT3;
}

static void on_block(void *arg, struct block *b)
{
    uint64_t first = (uint64_t)(l.code - l.c->svm->vm->mem.map);
    uint32_t gen = atomic_load(&l.c->svm->cache.gen);

    (void)arg;
    if (gen != l.gen)
        l.nblocks = 0;
    l.gen = gen;
    if (l.nblocks == MAX_BLOCKS || b->phys - first >= DT_CODE_SIZE)
        return; /* the latter: a handler of exceptions */
    l.blocks[l.nblocks] = b;
    l.traps[l.nblocks].pc = NULL;
    trap_plant(&l.traps[l.nblocks], b);
    l.nblocks++;
}

static bool on_trap(void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *pc = (const uint8_t *)regs[REG_RIP] - 1;
    const struct glue *glue = &l.c->svm->cache.glue;

    for (unsigned i = 0; i < l.nblocks; i++) {
        struct trap *t = &l.traps[i];

        if (t->pc != pc)
            continue;
        trap_remove(t);
        l.pending = t->rec;
        if (BLOCK_KNOWS_VA(l.blocks[i]->key))
            l.c->page_va = l.blocks[i]->va;
        l.c->exit_arg = (uint32_t)EXIT_NEXT << EXIT_KIND_SHIFT | t->rec->guest_off;
        regs[REG_RIP] = (greg_t)(t->rec->flags_begins ? glue->exit_host : glue->exit_mem);
        atomic_fetch_or(&l.c->vcpu->events, VCPU_EV_STOP);
        engine_soft.kick(l.c->vcpu);
        return true;
    }
    return false;
}

void dt_leave_init(struct soft_cpu *c, const uint8_t *code)
{
    l.c = c;
    l.code = code;
    l.gen = atomic_load(&c->svm->cache.gen);
    c->svm->cache.made = on_block;
    dt_native_on_trap(on_trap);
}

void dt_leave_begin(const struct dt_case *k, bool translate, bool code_new)
{
    uint32_t gen = atomic_load(&l.c->svm->cache.gen);

    if (!translate)
        l.nleft = 0;
    l.again = translate && l.nblocks && !code_new;
    l.rng = k->seed + translate + 2u * l.again;
    l.pending = NULL;
    if (gen == l.gen)
        for (unsigned i = 0; i < l.nblocks; i++)
            trap_remove(&l.traps[i]);
    if (code_new || gen != l.gen)
        l.nblocks = 0;
    l.gen = gen;
    for (unsigned i = 0; i < l.nblocks && translate; i++)
        if (l.blocks[i]->valid)
            trap_plant(&l.traps[i], l.blocks[i]);
}

bool dt_leave_taken(void)
{
    const struct recover *rec = l.pending;

    l.pending = NULL;
    if (!rec)
        return false;
    if (l.nleft < MAX_LEFT) {
        struct left *e = &l.left[l.nleft++];

        dt_guest_state(&e->state);
        e->live = rec->live;
        e->again = l.again;
        e->found = false;
    }
    return true;
}

/* The interpreter is about to execute the instruction at `rip`. */
static bool on_step(uint64_t rip)
{
    unsigned at = (unsigned)(rip - DT_CODE), len = (unsigned)DT_CODE_SIZE - at;
    bool there = false, more = false;
    struct dt_flags f;

    for (unsigned i = 0; i < l.nleft; i++) {
        struct left *e = &l.left[i];

        if (e->found)
            continue;
        more = true;
        if (e->state.regs.rip != rip)
            continue;
        if (!there)
            dt_guest_state(&l.step);
        there = true;
        e->found = !dt_state_differs(&l.step, &e->state, e->live & ~l.undefined, false);
    }
    if (at < DT_CODE_SIZE) {
        f = dt_flags_of(l.code + at, len < 15 ? len : 15);
        l.undefined = (l.undefined & ~f.defined) | f.undefined;
    }
    return more;
}

unsigned dt_leave_check(const struct dt_case *k, unsigned *bad, bool print)
{
    *bad = 0;
    for (unsigned i = 0; i < l.nleft; i++)
        l.left[i].found = false;
    l.undefined = 0;
    if (l.nleft && !dt_guest_steps(k, on_step))
        l.nleft = 0;
    for (unsigned i = 0; i < l.nleft; i++) {
        const struct left *e = &l.left[i];

        if (e->found)
            continue;
        ++*bad;
        if (!print)
            continue;
        printf("  left at %08llx%s; \"host\" is what the interpreter last was there:\n",
               (unsigned long long)e->state.regs.rip, e->again ? " (the same again)" : "");
        dt_state_differs(&l.step, &e->state, e->live & ~l.undefined, true);
    }
    return l.nleft;
}
