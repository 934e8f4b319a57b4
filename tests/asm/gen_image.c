/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saving and restoring vector state: FXSAVE, FNSAVE, FNSTENV and the XSAVE
 * family, each with code before it that sets its operand up, and code after
 * it that overwrites what is not to be compared: the addresses of the last x87
 * instruction, which the engine does not keep, and the mask of MXCSR, which
 * is the processor's. Only components that the guest has are asked for.
 */
#include <string.h>

#include "gen.h"

struct text {
    struct dt_insn *in;
    bool mode32;
    unsigned base; /* register with the image's address */
};

static void put(struct text *t, unsigned byte)
{
    t->in->bytes[t->in->len++] = (uint8_t)byte;
}

static void put_imm(struct text *t, uint32_t v, unsigned size)
{
    memcpy(t->in->bytes + t->in->len, &v, size);
    t->in->len = (uint8_t)(t->in->len + size);
}

/* opcode (0F in its second byte or not) with the memory operand [base + disp] */
static void put_op(struct text *t, bool wide, unsigned opcode, unsigned reg, int disp)
{
    unsigned rex = (wide && !t->mode32 ? 8 : 0) | (t->base >= 8 ? 1 : 0);

    if (rex)
        put(t, 0x40 | rex);
    if (opcode > 0xff)
        put(t, opcode >> 8);
    put(t, opcode & 0xff);
    put(t, (disp == (int8_t)disp ? 0x40 : 0x80) | reg << 3 | (t->base & 7));
    put_imm(t, (uint32_t)disp, disp == (int8_t)disp ? 1 : 4);
}

static void store32(struct text *t, int disp, uint32_t v)
{
    put_op(t, false, 0xc7, 0, disp);
    put_imm(t, v, 4);
}

static void store16(struct text *t, int disp, uint16_t v)
{
    put(t, 0x66);
    put_op(t, false, 0xc7, 0, disp);
    put_imm(t, v, 2);
}

/* Zero `n` times eight bytes. */
static void zero64(struct text *t, int disp, unsigned n)
{
    for (unsigned i = 0; i < n; i++, disp += 8) {
        put_op(t, true, 0xc7, 0, disp);
        put_imm(t, 0, 4);
        if (t->mode32)
            store32(t, disp + 4, 0);
    }
}

/* A register that holds a pointer, mostly one aligned as the images want it. */
static void put_address(struct gen *g, struct text *t)
{
    static const uint8_t regs[] = {3,  5,  6,  7,  8, 9,
                                   10, 11, 13, 14, 15}; /* no SIB, not RAX or RDX */

    t->base = regs[gen_below(g, t->mode32 ? 4 : ARRAY_SIZE(regs))];
    if ((g->ptr & 1u << t->base) && gen_percent(g, 20))
        return;
    if (t->base >= 8)
        put(t, 0x41);
    put(t, 0xb8 | (t->base & 7));
    put_imm(t, (uint32_t)gen_address(g) & (gen_percent(g, 75) ? ~63u : ~15u), 4);
    g->ptr |= (uint16_t)(1u << t->base);
}

/* EDX:EAX, some of the components that host and guest both have */
static void put_components(struct gen *g, struct text *t)
{
    put(t, 0xb8);
    put_imm(t, gen_percent(g, 40) ? 7 : gen_below(g, 8), 4);
    put(t, 0x31);
    put(t, 0xd2);
    g->ptr &= (uint16_t) ~(1u << X86_RAX | 1u << X86_RDX);
    g->small &= (uint16_t) ~(1u << X86_RAX | 1u << X86_RDX);
}

/* FOP, FIP, FDP, MXCSR_MASK */
static void scrub_fxsave(struct text *t)
{
    store16(t, 6, 0);
    zero64(t, 8, 2);
    store32(t, 28, 0);
}

static void gen_fxsave(struct gen *g, struct text *t)
{
    put_op(t, gen_percent(g, 30), 0x0fae, 0, 0);
    scrub_fxsave(t);
}

static void put_mxcsr(struct gen *g, struct text *t)
{
    if (gen_percent(g, 90))
        store32(t, 24, (uint32_t)gen_rnd(g) & 0xffff & (gen_percent(g, 70) ? 0x7f80u : 0xffffu));
}

static void gen_fxrstor(struct gen *g, struct text *t)
{
    put_mxcsr(g, t);
    put_op(t, gen_percent(g, 30), 0x0fae, 1, 0);
}

/*
 * Whether a component that holds its initial values is in use is a matter of the processor, and of how often the state
 * was moved since: have none such, by VPCMPEQD YMM5 and FLD1.
 */
static void put_use(struct text *t)
{
    put(t, 0xc5);
    put(t, 0xd5);
    put(t, 0x76);
    put(t, 0xed);
    put(t, 0xd9);
    put(t, 0xe8);
}

static void put_xsave(struct gen *g, struct text *t, bool optimized)
{
    static const struct {
        uint16_t opcode;
        uint8_t reg;
    } forms[] = {{0x0fae, 4}, {0x0fc7, 4}, {0x0fae, 6}}; /* XSAVE, XSAVEC, XSAVEOPT */
    unsigned form = gen_below(g, optimized ? 3 : 2);

    put_use(t);
    put_components(g, t);
    put_op(t, gen_percent(g, 30), forms[form].opcode, forms[form].reg, 0);
    scrub_fxsave(t);
}

/* XSAVEOPT may leave out what XRSTOR read from the same place. */
static void gen_xsave(struct gen *g, struct text *t)
{
    put_xsave(g, t, !g->restored);
    g->saved = true;
}

static void gen_xrstor(struct gen *g, struct text *t)
{
    bool compact = gen_percent(g, 40);
    unsigned bv = gen_percent(g, 50) ? 7 : gen_below(g, 8);

    if (g->saved) /* it might come back in a loop */
        return;
    g->restored = true;
    put_mxcsr(g, t);
    store32(t, 512, bv | (gen_percent(g, 5) ? 8 : 0));
    store32(t, 516, 0);
    store32(t, 520, !compact ? gen_percent(g, 5) : gen_percent(g, 80) ? 7 : gen_below(g, 8));
    store32(t, 524, compact ? 1u << 31 : 0);
    if (gen_percent(g, 95))
        zero64(t, 528, compact && gen_percent(g, 90) ? 6 : 1 + gen_below(g, 2));
    put_components(g, t);
    put_op(t, gen_percent(g, 30), 0x0fae, 5, 0);
    if (!t->mode32 && gen_percent(g, 40))
        put_xsave(g, t, false);
}

/* FNSTENV, FNSAVE */
static void gen_x87(struct gen *g, struct text *t)
{
    bool small = gen_percent(g, 30);

    if (small)
        put(t, 0x66);
    put_op(t, !small && gen_percent(g, 10), gen_percent(g, 50) ? 0xd9 : 0xdd, 6, 0);
    for (int i = 0; small && i < 4; i++)
        store16(t, 6 + 2 * i, 0);
    for (int i = 0; !small && i < 3; i++)
        store32(t, 12 + 4 * i, 0);
    if (!small)
        store16(t, 24, 0);
}

void gen_image(struct gen *g, struct dt_insn *in)
{
    struct text t = {.in = in, .mode32 = g->k->mode32};

    memset(in, 0, sizeof(*in));
    put_address(g, &t);
    switch (gen_below(g, 8)) {
    case 0:
        gen_fxrstor(g, &t);
        break;
    case 1:
    case 2:
        gen_fxsave(g, &t);
        break;
    case 3:
        gen_xrstor(g, &t);
        break;
    case 4:
    case 5:
        gen_xsave(g, &t);
        break;
    default:
        gen_x87(g, &t);
        break;
    }
}
