/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MOVS, STOS, LODS, CMPS, SCAS and their repetition. Each iteration commits
 * RSI, RDI and RCX before the next one starts, so that a fault or an
 * interrupt finds a state to continue from.
 */
#include "engine/soft/interp.h"

/* Iterations between two looks at exit_request. */
#define STRING_BATCH 4096

struct string_op {
    struct soft_cpu *c;
    const struct insn *in;
    unsigned size; /* of an element */
    uint32_t
        fl; /* CMPS, SCAS: written back at the end, for a fault in between leaves EFLAGS alone */
};

typedef void string_fn(struct string_op *s);

/* Do up to `count` iterations at once, leaving RCX alone. Returns how many; 0: none could be. */
typedef uint64_t chunk_fn(struct string_op *s, uint64_t count);

static uint64_t string_off(const struct string_op *s, unsigned reg)
{
    return gpr_get(s->c, reg, s->in->addr_size);
}

static void string_step(struct string_op *s, unsigned reg, uint64_t elements)
{
    uint64_t bytes = elements * s->size;

    if (s->c->st.rflags & X86_DF)
        bytes = -bytes;
    gpr_set(s->c, reg, s->in->addr_size, s->c->st.gpr[reg] + bytes);
}

static gva_t src_va(struct string_op *s)
{
    return seg_linear(s->c, (enum x86_sreg)s->in->mem_seg, string_off(s, X86_RSI), s->size,
                      ACC_READ);
}

static gva_t dst_va(struct string_op *s, enum mem_access acc)
{
    return seg_linear(s->c, X86_ES, string_off(s, X86_RDI), s->size, acc);
}

/* ---- One iteration ------------------------------------------------------------------- */

static void movs_one(struct string_op *s)
{
    uint64_t val = mem_ld(s->c, src_va(s), s->size);

    mem_st(s->c, dst_va(s, ACC_WRITE), s->size, val);
    string_step(s, X86_RSI, 1);
    string_step(s, X86_RDI, 1);
}

static void stos_one(struct string_op *s)
{
    mem_st(s->c, dst_va(s, ACC_WRITE), s->size, gpr_get(s->c, X86_RAX, s->size));
    string_step(s, X86_RDI, 1);
}

static void lods_one(struct string_op *s)
{
    gpr_set(s->c, X86_RAX, s->size, mem_ld(s->c, src_va(s), s->size));
    string_step(s, X86_RSI, 1);
}

static void compare(struct string_op *s, uint64_t a, uint64_t b)
{
#define COMPARE(insn, r)                                                                           \
    __asm__(FLAGS_IN insn " %" r "[b], %" r "[a]" FLAGS_OUT                                        \
            : "+&a"(s->fl)                                                                         \
            : [a] "q"(a), [b] "q"(b)                                                               \
            : "cc")
    switch (s->size) {
    case 1:
        COMPARE("cmpb", "b");
        break;
    case 2:
        COMPARE("cmpw", "w");
        break;
    case 4:
        COMPARE("cmpl", "k");
        break;
    default:
        COMPARE("cmpq", "q");
        break;
    }
#undef COMPARE
}

static void cmps_one(struct string_op *s)
{
    uint64_t a = mem_ld(s->c, src_va(s), s->size);
    uint64_t b = mem_ld(s->c, dst_va(s, ACC_READ), s->size);

    compare(s, a, b);
    string_step(s, X86_RSI, 1);
    string_step(s, X86_RDI, 1);
}

static void scas_one(struct string_op *s)
{
    uint64_t b = mem_ld(s->c, dst_va(s, ACC_READ), s->size);

    compare(s, gpr_get(s->c, X86_RAX, s->size), b);
    string_step(s, X86_RDI, 1);
}

/* ---- A page at a time ----------------------------------------------------------------- */

/*
 * How many of `count` elements from seg:off (linear address va, first element already checked)
 * lie in the same page, below the wrap of the offset and within the segment.
 */
static uint64_t chunk_room(struct string_op *s, unsigned seg, uint64_t off, gva_t va,
                           uint64_t count)
{
    const struct x86_seg *sg = &s->c->st.seg[seg];
    uint64_t bytes = PAGE_SIZE - (va & (PAGE_SIZE - 1));

    if (s->c->mode != INSN_64) {
        bool code = sg->attr & 8, expand_down = !code && (sg->attr & 4);
        uint64_t end = expand_down ? off : (uint64_t)sg->limit + 1; /* expand-down: one by one */

        if (end > size_mask(s->in->addr_size) + 1)
            end = size_mask(s->in->addr_size) + 1;
        if (end - off < bytes)
            bytes = end - off;
    } else if (s->in->addr_size == 4 && (1ull << 32) - off < bytes) {
        bytes = (1ull << 32) - off;
    }
    return bytes / s->size < count ? bytes / s->size : count;
}

/* The host's own REP with the same element size gives overlapping operands their architectural result. */
static uint64_t movs_chunk(struct string_op *s, uint64_t count)
{
    unsigned seg = s->in->mem_seg;
    gva_t src, dst;
    void *hs, *hd;
    uint64_t n;

    if (s->c->st.rflags & X86_DF)
        return 0;
    src = src_va(s);
    dst = dst_va(s, ACC_WRITE);
    count = chunk_room(s, seg, string_off(s, X86_RSI), src, count);
    count = chunk_room(s, X86_ES, string_off(s, X86_RDI), dst, count);
    if (count == 0)
        return 0;
    hs = mem_host(s->c, src, (unsigned)(count * s->size), ACC_READ);
    hd = hs ? mem_host(s->c, dst, (unsigned)(count * s->size), ACC_WRITE) : NULL;
    if (!hd)
        return 0;
    n = count;
#define REP_MOVS(insn) __asm__ volatile("rep " insn : "+S"(hs), "+D"(hd), "+c"(n) : : "memory")
    switch (s->size) {
    case 1:
        REP_MOVS("movsb");
        break;
    case 2:
        REP_MOVS("movsw");
        break;
    case 4:
        REP_MOVS("movsl");
        break;
    default:
        REP_MOVS("movsq");
        break;
    }
#undef REP_MOVS
    string_step(s, X86_RSI, count);
    string_step(s, X86_RDI, count);
    return count;
}

static uint64_t stos_chunk(struct string_op *s, uint64_t count)
{
    gva_t dst;
    void *hd;
    uint64_t n;

    if (s->c->st.rflags & X86_DF)
        return 0;
    dst = dst_va(s, ACC_WRITE);
    count = chunk_room(s, X86_ES, string_off(s, X86_RDI), dst, count);
    hd = count ? mem_host(s->c, dst, (unsigned)(count * s->size), ACC_WRITE) : NULL;
    if (!hd)
        return 0;
    n = count;
#define REP_STOS(insn)                                                                             \
    __asm__ volatile("rep " insn : "+D"(hd), "+c"(n) : "a"(s->c->st.gpr[X86_RAX]) : "memory")
    switch (s->size) {
    case 1:
        REP_STOS("stosb");
        break;
    case 2:
        REP_STOS("stosw");
        break;
    case 4:
        REP_STOS("stosl");
        break;
    default:
        REP_STOS("stosq");
        break;
    }
#undef REP_STOS
    string_step(s, X86_RDI, count);
    return count;
}

/* ---- Repetition -------------------------------------------------------------------------- */

/* Does REPE or REPNE end here? */
static bool condition_ends(const struct string_op *s)
{
    bool zf = (s->fl & (X86_ZF << 8)) != 0;

    return s->in->flags & INSN_REPNE ? zf : !zf;
}

/*
 * `compares`: CMPS and SCAS, which end on ZF too; for the others either prefix is REP. With TF
 * or breakpoints set every iteration is an instruction of its own to the debugger.
 */
static inline __attribute__((always_inline)) void string_run(struct soft_cpu *c,
                                                             const struct insn *in, string_fn *one,
                                                             chunk_fn *chunk, bool compares)
{
    struct string_op s = {.c = c, .in = in, .size = in->op_size, .fl = flags_get(c)};
    bool trap = (c->st.rflags & X86_TF) || (c->st.dr[7] & DR7_ENABLES);
    uint64_t count, done, batch = 0;

    if (in->nopnd) /* the scalar double-precision instruction of the same name */
        soft_raise(c, X86_UD);
    if (!(in->flags & (INSN_REP | INSN_REPNE))) {
        one(&s);
        if (compares)
            flags_set(c, s.fl);
        return;
    }
    while ((count = gpr_get(c, X86_RCX, in->addr_size)) != 0) {
        done = chunk && !trap && count > 1 ? chunk(&s, count) : 0;
        if (!done) {
            one(&s);
            done = 1;
        }
        gpr_set(c, X86_RCX, in->addr_size, count - done);
        if (count == done || (compares && condition_ends(&s)))
            break;
        batch += done;
        if (trap || (batch >= STRING_BATCH &&
                     atomic_load_explicit(&c->exit_request, memory_order_relaxed))) {
            c->next_rip = c->st.rip;
            break;
        }
        if (batch >= STRING_BATCH)
            batch = 0;
    }
    if (compares)
        flags_set(c, s.fl);
}

void iop_movs(struct soft_cpu *c, const struct insn *in)
{
    string_run(c, in, movs_one, movs_chunk, false);
}

void iop_stos(struct soft_cpu *c, const struct insn *in)
{
    string_run(c, in, stos_one, stos_chunk, false);
}

void iop_lods(struct soft_cpu *c, const struct insn *in)
{
    string_run(c, in, lods_one, NULL, false);
}

void iop_cmps(struct soft_cpu *c, const struct insn *in)
{
    string_run(c, in, cmps_one, NULL, true);
}

void iop_scas(struct soft_cpu *c, const struct insn *in)
{
    string_run(c, in, scas_one, NULL, true);
}
