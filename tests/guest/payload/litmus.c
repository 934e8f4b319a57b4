/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory ordering, SDM volume 3, 8.2.2 and 8.2.3: outcomes that may never be
 * seen, however often they are tried. A batch has a location of its
 * own for each try, so CPUs meet only once a batch.
 */
#include "payload.h"

#define TRIES   4096u
#define BATCHES 20000u

/* Variables on lines of their own, so that they travel separately. */
struct place {
    volatile uint64_t x __attribute__((aligned(64)));
    volatile uint64_t y __attribute__((aligned(64)));
};

static struct place places[TRIES];
static uint64_t seen[MAX_CPUS][TRIES][2];
static struct barrier gate;
static volatile bool over;

struct litmus {
    unsigned cpus;
    void (*run[MAX_CPUS])(struct place *p, uint64_t r[2]);
    /* Is this outcome forbidden? r[cpu][n], x and y at the end. */
    bool (*forbidden)(uint64_t(*r[MAX_CPUS]), const struct place *p);
    bool only_count; /* allowed: show how often it is seen */
};
static const struct litmus *now;

static void batch_run(unsigned id)
{
    for (unsigned i = 0; i < TRIES; i++) {
        /* Each CPU on its own way through them, in steps that meet often. */
        unsigned k = i ^ (i & 256 ? id : 0);

        now->run[id](&places[k], seen[id][k]);
    }
}

static void other_cpu(unsigned id)
{
    for (;;) {
        barrier(&gate, now->cpus);
        if (over)
            return;
        batch_run(id);
        barrier(&gate, now->cpus);
    }
}

static void litmus(const struct litmus *l)
{
    uint64_t hits = 0, batches = 0;

    now = l;
    over = false;
    for (unsigned i = 1; i < l->cpus; i++)
        cpu_start(i, other_cpu);
    while (more(batches + 1, BATCHES)) {
        memset(places, 0, sizeof(places));
        barrier(&gate, l->cpus);
        batch_run(0);
        barrier(&gate, l->cpus);
        for (unsigned k = 0; k < TRIES; k++) {
            uint64_t *r[MAX_CPUS] = {seen[0][k], seen[1][k], seen[2][k], seen[3][k]};

            if (!l->forbidden(r, &places[k]))
                continue;
            hits++;
            EXPECT(l->only_count, "try %u of batch %lu: saw %lu %lu, %lu %lu, %lu %lu, %lu %lu", k,
                   batches, r[0][0], r[0][1], r[1][0], r[1][1], r[2][0], r[2][1], r[3][0], r[3][1]);
        }
        batches++;
    }
    over = true;
    barrier(&gate, l->cpus);
    for (unsigned i = 1; i < l->cpus; i++)
        cpu_wait(i);
    if (l->only_count)
        note("%lu tries, reordered %lu times", batches * TRIES, hits);
    else
        note("%lu tries", batches * TRIES);
}

#define ST(v, n)   __asm__ volatile("movq %1, %0" : "=m"(p->v) : "r"((uint64_t)(n)) : "memory")
#define LD(v, n)   __asm__ volatile("movq %1, %0" : "=r"(r[n]) : "m"(p->v) : "memory")
#define XCHG(v, n) __asm__ volatile("xchg %0, %1" : "+r"((uint64_t){n}), "+m"(p->v) : : "memory")
#define MFENCE()   __asm__ volatile("mfence" : : : "memory")

#define RUN(name, ...)                                                                             \
    static void name(struct place *p, uint64_t r[2])                                               \
    {                                                                                              \
        __VA_ARGS__;                                                                               \
    }
#define FORBID(name, cond)                                                                         \
    static bool name(uint64_t(*r[MAX_CPUS]), const struct place *p)                                \
    {                                                                                              \
        return cond;                                                                               \
    }

/* Message passing: who sees y sees x. */
RUN(mp_0, ST(x, 1); ST(y, 1))
RUN(mp_1, LD(y, 0); LD(x, 1))
FORBID(mp_bad, r[1][0] == 1 && r[1][1] == 0)

static void message_passing(void)
{
    litmus(&(const struct litmus){2, {mp_0, mp_1}, mp_bad});
}

/* The same where the writer is a string instruction's fast form, followed by a plain store. */
static void mp_rep(struct place *p, uint64_t r[2])
{
    volatile void *to = &p->x;
    uint64_t n = 1;

    __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(1ul) : "memory");
    ST(y, 1);
}

static void message_string(void)
{
    litmus(&(const struct litmus){2, {mp_rep, mp_1}, mp_bad});
}

/* Parts of different sizes, and the reader through read-modify-writes. */
static void mp_narrow_0(struct place *p, uint64_t r[2])
{
    __asm__ volatile("movb $1, %0" : "+m"(p->x));
    __asm__ volatile("movw $1, %0" : "+m"(p->y));
}

static void mp_narrow_1(struct place *p, uint64_t r[2])
{
    uint64_t v = 0;

    __asm__ volatile("lock xaddq %0, %1" : "+r"(v), "+m"(p->y) : : "memory");
    r[0] = v;
    __asm__ volatile("movzbl %1, %k0" : "=r"(r[1]) : "m"(p->x) : "memory");
}

static void message_narrow(void)
{
    litmus(&(const struct litmus){2, {mp_narrow_0, mp_narrow_1}, mp_bad});
}

/* Store buffering: both may miss the other's store, unless something orders them. */
RUN(sb_0, ST(x, 1); LD(y, 0))
RUN(sb_1, ST(y, 1); LD(x, 0))
RUN(sb_fence_0, ST(x, 1); MFENCE(); LD(y, 0))
RUN(sb_fence_1, ST(y, 1); MFENCE(); LD(x, 0))
RUN(sb_xchg_0, XCHG(x, 1); LD(y, 0))
RUN(sb_xchg_1, XCHG(y, 1); LD(x, 0))
FORBID(sb_both, r[0][0] == 0 && r[1][0] == 0)

static void sb_lock_0(struct place *p, uint64_t r[2])
{
    ST(x, 1);
    __asm__ volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
    LD(y, 0);
}

static void sb_cpuid_1(struct place *p, uint64_t r[2])
{
    ST(y, 1);
    serialize();
    LD(x, 0);
}

static void store_buffering(void)
{
    litmus(&(const struct litmus){2, {sb_0, sb_1}, sb_both, true});
}

static void store_mfence(void)
{
    litmus(&(const struct litmus){2, {sb_fence_0, sb_fence_1}, sb_both});
}

static void store_xchg(void)
{
    litmus(&(const struct litmus){2, {sb_xchg_0, sb_xchg_1}, sb_both});
}

static void store_locked(void)
{
    litmus(&(const struct litmus){2, {sb_lock_0, sb_fence_1}, sb_both});
}

static void store_cpuid(void)
{
    litmus(&(const struct litmus){2, {sb_fence_0, sb_cpuid_1}, sb_both});
}

/* Load buffering: stores do not come before older loads. */
RUN(lb_0, LD(x, 0); ST(y, 1))
RUN(lb_1, LD(y, 0); ST(x, 1))
FORBID(lb_bad, r[0][0] == 1 && r[1][0] == 1)

static void load_buffering(void)
{
    litmus(&(const struct litmus){2, {lb_0, lb_1}, lb_bad});
}

/* Reads of one place do not go back. */
RUN(corr_0, ST(x, 1); ST(x, 2))
RUN(corr_1, LD(x, 0); LD(x, 1))
FORBID(corr_bad, r[1][0] > r[1][1])

static void coherence(void)
{
    litmus(&(const struct litmus){2, {corr_0, corr_1}, corr_bad});
}

/* Two stores each, in opposite order: not both first ones may win. */
RUN(ww_0, ST(x, 1); ST(y, 2))
RUN(ww_1, ST(y, 1); ST(x, 2))
FORBID(ww_bad, p->x == 1 && p->y == 1)

static void two_writes(void)
{
    litmus(&(const struct litmus){2, {ww_0, ww_1}, ww_bad});
}

/* A CPU sees its own store first, yet stores have one order: R and S of the literature. */
RUN(r_0, ST(x, 1); ST(y, 1))
RUN(r_1, ST(y, 2); MFENCE(); LD(x, 0))
FORBID(r_bad, p->y == 2 && r[1][0] == 0)
RUN(s_0, ST(x, 2); ST(y, 1))
RUN(s_1, LD(y, 0); ST(x, 1))
FORBID(s_bad, r[1][0] == 1 && p->x == 2)

static void write_then_read(void)
{
    litmus(&(const struct litmus){2, {r_0, r_1}, r_bad});
}

static void read_then_write(void)
{
    litmus(&(const struct litmus){2, {s_0, s_1}, s_bad});
}

/* Causality over three CPUs; one order of independent stores for two readers. */
RUN(wrc_0, ST(x, 1))
RUN(wrc_1, LD(x, 0); ST(y, 1))
RUN(wrc_2, LD(y, 0); LD(x, 1))
FORBID(wrc_bad, r[1][0] == 1 && r[2][0] == 1 && r[2][1] == 0)

static void causality(void)
{
    litmus(&(const struct litmus){3, {wrc_0, wrc_1, wrc_2}, wrc_bad});
}

RUN(iriw_0, ST(x, 1))
RUN(iriw_1, ST(y, 1))
RUN(iriw_2, LD(x, 0); LD(y, 1))
RUN(iriw_3, LD(y, 0); LD(x, 1))
FORBID(iriw_bad, r[2][0] == 1 && r[2][1] == 0 && r[3][0] == 1 && r[3][1] == 0)

static void independent_reads(void)
{
    litmus(&(const struct litmus){4, {iriw_0, iriw_1, iriw_2, iriw_3}, iriw_bad});
}

const struct test litmus_tests[] = {
    {"litmus-mp", message_passing, 2},       {"litmus-mp-string", message_string, 2},
    {"litmus-mp-narrow", message_narrow, 2}, {"litmus-sb", store_buffering, 2},
    {"litmus-sb-mfence", store_mfence, 2},   {"litmus-sb-xchg", store_xchg, 2},
    {"litmus-sb-locked", store_locked, 2},   {"litmus-sb-cpuid", store_cpuid, 2},
    {"litmus-lb", load_buffering, 2},        {"litmus-corr", coherence, 2},
    {"litmus-2+2w", two_writes, 2},          {"litmus-r", write_then_read, 2},
    {"litmus-s", read_then_write, 2},        {"litmus-wrc", causality, 3},
    {"litmus-iriw", independent_reads, 4},   {NULL},
};
