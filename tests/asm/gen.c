/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making cases: registers, memory, and how instructions are put together. */
#include <string.h>

#include "gen.h"

const uint8_t dt_pages[DT_DATA_PAGES] = {DT_NONE, DT_RW,   DT_RW, DT_RO,
                                         DT_NONE, DT_NONE, DT_RW, DT_NONE};

/* ---- Random numbers ---------------------------------------------------------------- */

uint64_t gen_rnd(struct gen *g)
{
    uint64_t z = g->rng += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

unsigned gen_below(struct gen *g, unsigned n)
{
    return (unsigned)((gen_rnd(g) >> 32) * n >> 32);
}

bool gen_percent(struct gen *g, unsigned n)
{
    return gen_below(g, 100) < n;
}

static uint64_t interesting(struct gen *g)
{
    static const uint64_t vals[] = {
        0,      1,          2,          0x7f,       0x80,        0xff,      0x7fff,     0x8000,
        0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, INT64_MAX, 1ull << 63, ~0ull};

    switch (gen_below(g, 4)) {
    case 0:
        return vals[gen_below(g, ARRAY_SIZE(vals))];
    case 1:
        return gen_rnd(g) >> gen_below(g, 64);
    case 2:
        return vals[gen_below(g, ARRAY_SIZE(vals))] ^ gen_rnd(g) << gen_below(g, 64);
    default:
        return gen_rnd(g);
    }
}

/* An address in the window, mostly one that works. */
uint64_t gen_address(struct gen *g)
{
    static const uint8_t rw[] = {1, 2, 6};
    uint64_t page = DT_DATA + rw[gen_below(g, 3)] * PAGE_SIZE;

    switch (gen_below(g, 32)) {
    case 0:
        return DT_DATA + 3 * PAGE_SIZE + gen_below(g, PAGE_SIZE); /* read-only */
    case 1:
        return DT_DATA + gen_below(g, DT_DATA_PAGES * PAGE_SIZE);
    case 2:
    case 3:
    case 4: /* into the next page, whatever that is */
        return page + PAGE_SIZE - gen_below(g, 40);
    case 5: /* from the page before */
        return page - gen_below(g, 16);
    case 6:
        return g->k->smc ? page : DT_CODE + gen_below(g, DT_CODE_SIZE);
    case 7:
    case 8:
    case 9:
    case 10:
        return page + gen_below(g, PAGE_SIZE - 64);
    case 11: /* between the two neighbouring pages */
        return DT_DATA + 2 * PAGE_SIZE - gen_below(g, 40);
    default:
        return page + 0x100 + gen_below(g, 0xe00 / 16) * 16;
    }
}

/* ---- Initial state ------------------------------------------------------------------- */

static uint64_t first_gpr(struct gen *g, unsigned r)
{
    unsigned pick = gen_below(g, 100);
    bool base = r == X86_RSI || r == X86_RDI || r == X86_RBX || r == X86_RBP;

    if (r == X86_RSP && pick < 95) {
        g->ptr |= 1u << r;
        if (pick < 80)
            return DT_DATA + PAGE_SIZE + 0x400 + gen_below(g, 0x180) * 16;
        return gen_address(g) & ~7ull;
    }
    if (r == X86_RCX && pick < 50)
        return gen_below(g, 24) | (gen_percent(g, 10) ? gen_rnd(g) << 32 : 0);
    if (pick < (base ? 70u : 40u)) {
        uint64_t a = gen_address(g);

        g->ptr |= 1u << r;
        return g->k->kind == DT_STRING && gen_percent(g, 10) ? a | gen_rnd(g) << 32 : a;
    }
    if (pick < 75 && gen_percent(g, 50)) {
        g->small |= 1u << r;
        return gen_percent(g, 80) ? gen_below(g, 64) : (uint64_t) - (int64_t)gen_below(g, 64);
    }
    if (pick >= 95 && !g->k->smc) {
        g->codeptr |= 1u << r; /* filled in when the instructions are known */
        return 0;
    }
    return interesting(g);
}

static uint64_t float_bits(struct gen *g, unsigned size)
{
    static const uint64_t f64[] = {0,
                                   0x3ff0000000000000,
                                   0xbff0000000000000,
                                   0x7ff0000000000000,
                                   0x7ff8000000000000,
                                   0x7ff0000000000001,
                                   1,
                                   0x000fffffffffffff,
                                   0x8000000000000000,
                                   0x7fefffffffffffff,
                                   0x43e0000000000000,
                                   0x41dfffffffc00000,
                                   0x3fdfffffffffffff,
                                   0x4008000000000000};
    static const uint32_t f32[] = {0,          0x3f800000, 0xbf800000, 0x7f800000, 0x7fc00000,
                                   0x7f800001, 1,          0x007fffff, 0x80000000, 0x7f7fffff,
                                   0x4f000000, 0x4effffff, 0x3f000000, 0x40490fdb};

    if (gen_percent(g, 40))
        return gen_rnd(g);
    return size == 8 ? f64[gen_below(g, ARRAY_SIZE(f64))] : f32[gen_below(g, ARRAY_SIZE(f32))];
}

/* 16 bytes for a vector register: noise, floating point numbers, small integers, masks. */
static void first_vector(struct gen *g, uint8_t *to)
{
    unsigned how = gen_below(g, 6), size = how & 1 ? 8 : 4;

    for (unsigned i = 0; i < 16; i += size) {
        uint64_t v;

        switch (how) {
        case 0:
        case 1:
            v = float_bits(g, size);
            break;
        case 2:
        case 3: /* offsets a gather can use; masks */
            v = gen_percent(g, 50) ? (uint64_t)gen_below(g, 256)
                                   : (uint64_t) - (int64_t)gen_below(g, 256);
            break;
        default:
            v = gen_rnd(g);
            break;
        }
        memcpy(to + i, &v, size);
    }
}

static void first_x87(struct gen *g, struct dt_regs *r)
{
    r->fcw = 0x37f;
    if (gen_percent(g, 20))
        r->fcw = (uint16_t)(0x40 | (gen_rnd(g) & 0xf3f));
    if ((r->fcw & 0x300) == 0x100) /* reserved precision */
        r->fcw |= 0x200;
    r->fsw = (uint16_t)(gen_rnd(g) & 0x7f00 & (gen_percent(g, 50) ? 0xffff : 0xc7ff));
    if (gen_percent(g, 20))
        r->fsw |= gen_rnd(g) & 0x7f;
    if (r->fsw & 0x3f & ~r->fcw)
        r->fsw = gen_percent(g, 10) ? r->fsw | 0x8080 : r->fsw & 0xffc0;
    r->ftw = gen_percent(g, 50) ? (uint8_t)gen_rnd(g) : gen_percent(g, 50) ? 0xff : 0;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t m = gen_rnd(g);
        uint16_t e = (uint16_t)gen_rnd(g);

        if (gen_percent(g, 70)) {
            static const uint16_t exps[] = {0, 1, 0x3ffe, 0x3fff, 0x4000, 0x403e, 0x7ffe, 0x7fff};

            e = (uint16_t)(exps[gen_below(g, ARRAY_SIZE(exps))] | (e & 0x8000));
            m = gen_percent(g, 90) ? m | 1ull << 63 : m;
            m = gen_percent(g, 30) ? 1ull << 63 : m;
        }
        if (gen_percent(g, 30)) { /* an MMX value */
            e = 0xffff;
        }
        memcpy(r->st[i], &m, 8);
        memcpy(r->st[i] + 8, &e, 2);
    }
}

static void first_state(struct gen *g)
{
    struct dt_case *k = g->k;
    struct dt_regs *r = &k->init;

    for (unsigned i = 0; i < 16; i++)
        r->gpr[i] = first_gpr(g, i);
    if (k->mode32)
        for (unsigned i = 0; i < 16; i++)
            r->gpr[i] = i < 8 ? r->gpr[i] & 0xffffffff : 0;
    r->rflags = 0x202 | (gen_rnd(g) & X86_ARITH) | (gen_percent(g, 15) ? X86_DF : 0);
    r->fs_base = DT_DATA + PAGE_SIZE + gen_below(g, 0x100) * 16;
    r->gs_base = DT_DATA + 2 * PAGE_SIZE - gen_below(g, 0x100);
    r->mxcsr = 0x1f80;
    if (gen_percent(g, 20))
        r->mxcsr = gen_rnd(g) & 0xffff & (gen_percent(g, 70) ? 0xffffu : 0xffc0u);
    if (r->mxcsr != 0x1f80 && gen_percent(g, 60))
        r->mxcsr |= 0x1f80;
    first_x87(g, r);
    for (unsigned i = 0; i < 16; i++) {
        first_vector(g, r->xmm[i]);
        first_vector(g, r->ymmh[i]);
    }
}

static void first_memory(struct gen *g)
{
    for (unsigned i = 0; i < DT_RW_SIZE; i += 128) {
        uint64_t a = gen_rnd(g), b = a | 1;

        for (unsigned n = 0; n < 16; n++, a = a * 0xd1342543de82ef95ull + b)
            memcpy(g->k->mem + i + n * 8, &a, 8);
    }
    for (unsigned i = 0; i < 24; i++) {
        uint8_t v[16];

        first_vector(g, v);
        memcpy(g->k->mem + gen_below(g, DT_RW_SIZE / 16) * 16, v, 16);
    }
}

/* Where RW page content of a window address is, or NULL. */
static uint8_t *in_memory(struct dt_case *k, uint64_t va, unsigned len)
{
    uint64_t page = (va - DT_DATA) >> PAGE_SHIFT;
    unsigned rw = 0;

    if (va < DT_DATA || page >= DT_DATA_PAGES || dt_pages[page] != DT_RW ||
        (va & ~PAGE_MASK) + len > PAGE_SIZE)
        return NULL;
    for (unsigned i = 0; i < page; i++)
        rw += dt_pages[i] == DT_RW;
    return k->mem + rw * PAGE_SIZE + (va & ~PAGE_MASK);
}

/* ---- Branches and code addresses --------------------------------------------------------- */

uint64_t gen_insn_va(const struct dt_case *k, unsigned i)
{
    return DT_CODE + k->code_off + k->off[i];
}

/* Registers and memory that hold code addresses: only now are those known. */
static void place_code_addresses(struct gen *g)
{
    struct dt_case *k = g->k;
    unsigned size = k->mode32 ? 4 : 8;

    for (unsigned i = 0; i < (k->mode32 ? 8u : 16u); i++)
        if (g->codeptr & 1u << i)
            k->init.gpr[i] = gen_insn_va(k, gen_below(g, k->n + 1));
    if (!gen_percent(g, 60))
        return;
    for (unsigned i = 0; i < 4; i++) {
        uint64_t va = gen_insn_va(k, gen_percent(g, 70) ? k->n : gen_below(g, k->n + 1));
        uint8_t *p = in_memory(k, k->init.gpr[X86_RSP] + i * size, size);

        if (p)
            memcpy(p, &va, size);
    }
    for (unsigned i = 0; i < 16; i++) { /* [register], for indirect jumps */
        uint64_t va = gen_insn_va(k, k->n);
        uint8_t *p;

        if (i == X86_RSP || !gen_percent(g, 20))
            continue;
        p = in_memory(k, k->init.gpr[i], size);
        if (p)
            memcpy(p, &va, size);
    }
}

static void choose_target(struct gen *g, unsigned i)
{
    struct dt_case *k = g->k;
    struct dt_insn *in = &k->in[i];
    bool loop = in->rel_off == 1 && in->bytes[0] >= 0xe0 && in->bytes[0] <= 0xe2;

    in->target = (uint8_t)(i + 1 + gen_below(g, k->n - i));
    if (gen_percent(g, loop ? 30 : 1))
        in->target = (uint8_t)gen_below(g, i + 1);
    for (;;) {
        int64_t rel = (int64_t)k->off[in->target] - (int64_t)(k->off[i] + in->len);

        if (in->rel_size > 1 || rel == (int8_t)rel)
            break;
        in->target = (uint8_t)(in->target > i ? in->target - 1 : in->target + 1);
    }
}

unsigned dt_code(const struct dt_case *k, uint8_t out[DT_MAX_CODE])
{
    for (unsigned i = 0; i < k->n; i++) {
        const struct dt_insn *in = &k->in[i];
        int32_t rel = (int32_t)k->off[in->target] - (int32_t)(k->off[i] + in->len);

        memcpy(out + k->off[i], in->bytes, in->len);
        if (in->rel_size)
            memcpy(out + k->off[i] + in->rel_off, &rel, in->rel_size);
    }
    out[k->off[k->n]] = 0x0f; /* ud2 */
    out[k->off[k->n] + 1] = 0x0b;
    return k->off[k->n] + 2u;
}

/* ---- A case --------------------------------------------------------------------------------- */

static enum dt_kind pick_kind(struct gen *g)
{
    static const uint8_t weights[DT_KINDS] = {
        [DT_INT] = 31,   [DT_VEC] = 26, [DT_X87] = 8, [DT_STRING] = 8, [DT_BRANCH] = 8,
        [DT_GATHER] = 4, [DT_RAW] = 10, [DT_SMC] = 2, [DT_IMAGE] = 3};
    unsigned x = gen_below(g, 100);

    for (unsigned i = 0; i < DT_KINDS; i++) {
        if (x < weights[i])
            return (enum dt_kind)i;
        x -= weights[i];
    }
    return DT_INT;
}

/* A register that points into the window, or 16. */
static uint8_t gen_pointer(struct gen *g)
{
    for (unsigned tries = 0; tries < 16; tries++) {
        unsigned r = gen_below(g, g->k->mode32 ? 8 : 16);

        if (g->ptr & 1u << r)
            return (uint8_t)r;
    }
    return 16;
}

static void choose_place(struct gen *g)
{
    struct dt_case *k = g->k;

    switch (gen_below(g, 20)) {
    case 0: /* ends with the last page */
        k->code_off = DT_CODE_SIZE - 16 - gen_below(g, 48);
        break;
    case 1:
    case 2: /* over the page boundary */
        k->code_off = (unsigned)PAGE_SIZE - gen_below(g, 64);
        break;
    default:
        k->code_off = gen_below(g, (unsigned)(DT_CODE_SIZE - DT_MAX_CODE));
        break;
    }
}

void dt_generate(struct dt_case *k, uint64_t seed, enum dt_kind kind, int mode32)
{
    struct gen g = {.rng = seed, .k = k};

    memset(k, 0, offsetof(struct dt_case, init));
    k->seed = seed;
    gen_rnd(&g);
    k->kind = kind == DT_KINDS ? pick_kind(&g) : kind;
    k->mode32 = mode32 < 0 ? gen_percent(&g, 10) : mode32;
    k->cold = gen_percent(&g, 6);
    k->smc = k->kind == DT_SMC;
    choose_place(&g);
    first_state(&g);
    first_memory(&g);
    g.favourite = gen_percent(&g, 40) ? gen_pointer(&g) : 16;
    k->n = 1 + (gen_percent(&g, 25) ? 0 : gen_below(&g, DT_MAX_INSNS));
    for (unsigned i = 0; i < k->n; i++) {
        g.va = gen_insn_va(k, i);
        if (k->smc)
            gen_smc_insn(&g, i);
        else if (k->kind == DT_IMAGE && gen_percent(&g, 40))
            gen_image(&g, &k->in[i]);
        else
            gen_insn(&g, &k->in[i]);
        k->off[i + 1] = (uint16_t)(k->off[i] + k->in[i].len);
        if (k->code_off + k->off[i + 1] + 2u > DT_CODE_SIZE) {
            k->n = i; /* the page's end: the last one, or the UD2, is not there */
            k->code_off = (unsigned)(DT_CODE_SIZE - k->off[i] - 2);
            if (!i)
                k->off[0] = 0;
        }
    }
    for (unsigned i = 0; i < k->n; i++)
        if (k->in[i].rel_size)
            choose_target(&g, i);
    if (k->smc)
        gen_smc_link(&g);
    k->init.rip = gen_insn_va(k, 0);
    place_code_addresses(&g);
}

void dt_generate_fixed(struct dt_case *k, uint64_t seed, const uint8_t *code, unsigned len,
                       bool mode32)
{
    struct gen g = {.rng = seed, .k = k};

    memset(k, 0, offsetof(struct dt_case, init));
    k->seed = seed;
    gen_rnd(&g);
    k->kind = pick_kind(&g);
    k->mode32 = mode32;
    k->cold = gen_percent(&g, 6);
    k->code_off = gen_below(&g, (unsigned)(DT_CODE_SIZE - DT_MAX_CODE));
    first_state(&g);
    first_memory(&g);
    while (len && k->n < DT_MAX_INSNS) {
        struct dt_insn *in = &k->in[k->n];

        in->len = (uint8_t)(len < 15 ? len : 15);
        memcpy(in->bytes, code, in->len);
        code += in->len;
        len -= in->len;
        k->off[k->n + 1] = (uint16_t)(k->off[k->n] + in->len);
        k->n++;
    }
    k->init.rip = gen_insn_va(k, 0);
    place_code_addresses(&g);
}
