/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Multiplication, division and decimal adjustment. */
#include "engine/soft/interp.h"

/* ---- MUL, IMUL ------------------------------------------------------------------- */

/* RAX:RDX by one operand. The result comes back in *lo and *hi (8 bits: AX in *lo). */
#define WIDE_CASE(insn, r)                                                                         \
    __asm__(FLAGS_IN "movq %[lo], %%rax\n\t" insn " %" r "[b]\n\tmovq %%rax, %[lo]" FLAGS_OUT      \
            : [lo] "+&r"(lo), "+&d"(hi), "+&a"(fl)                                                 \
            : [b] "r"(b)                                                                           \
            : "cc")

#define WIDE_SWITCH(insn)                                                                          \
    do {                                                                                           \
        switch (size) {                                                                            \
        case 1:                                                                                    \
            WIDE_CASE(insn "b", "b");                                                              \
            break;                                                                                 \
        case 2:                                                                                    \
            WIDE_CASE(insn "w", "w");                                                              \
            break;                                                                                 \
        case 4:                                                                                    \
            WIDE_CASE(insn "l", "k");                                                              \
            break;                                                                                 \
        default:                                                                                   \
            WIDE_CASE(insn "q", "q");                                                              \
            break;                                                                                 \
        }                                                                                          \
    } while (0)

static void wide_result(struct soft_cpu *c, unsigned size, uint64_t lo, uint64_t hi)
{
    if (size == 1) {
        gpr_set(c, X86_RAX, 2, lo);
    } else {
        gpr_set(c, X86_RAX, size, lo);
        gpr_set(c, X86_RDX, size, hi);
    }
}

void iop_mul(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    uint64_t b = opnd_load(c, in, 0), lo = c->st.gpr[X86_RAX], hi = c->st.gpr[X86_RDX];
    uint32_t fl = flags_get(c);

    WIDE_SWITCH("mul");
    wide_result(c, size, lo, hi);
    flags_set(c, fl);
}

#define IMUL2_CASE(insn, r)                                                                        \
    __asm__(FLAGS_IN insn " %" r "[b], %" r "[a]" FLAGS_OUT                                        \
            : [a] "+r"(a), "+&a"(fl)                                                               \
            : [b] "r"(b)                                                                           \
            : "cc")

void iop_imul(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    uint32_t fl = flags_get(c);

    if (in->nopnd == 1) {
        uint64_t b = opnd_load(c, in, 0), lo = c->st.gpr[X86_RAX], hi = c->st.gpr[X86_RDX];

        WIDE_SWITCH("imul");
        wide_result(c, size, lo, hi);
    } else {
        uint64_t b = opnd_load(c, in, in->nopnd - 1), a = opnd_load(c, in, in->nopnd - 2);

        if (size == 2)
            IMUL2_CASE("imulw", "w");
        else if (size == 4)
            IMUL2_CASE("imull", "k");
        else
            IMUL2_CASE("imulq", "q");
        opnd_store(c, in, 0, a);
    }
    flags_set(c, fl);
}

void iop_mulx(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    unsigned __int128 p = gpr_get(c, X86_RDX, size);

    p *= opnd_load(c, in, 2);
    opnd_store(c, in, 1, (uint64_t)p);
    opnd_store(c, in, 0, (uint64_t)(p >> (8 * size))); /* the high half wins in one register */
}

/* ---- DIV, IDIV ---------------------------------------------------------------------- */

void iop_div(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    uint64_t b = opnd_load(c, in, 0), lo = c->st.gpr[X86_RAX], hi = c->st.gpr[X86_RDX];
    uint64_t upper = size == 1 ? lo >> 8 & 0xff : hi & size_mask(size);
    uint32_t fl = flags_get(c);

    if (upper >= b) /* zero divisor or quotient too large */
        soft_raise(c, X86_DE);
    WIDE_SWITCH("div");
    wide_result(c, size, lo, hi);
    flags_set(c, fl);
}

/* Would IDIV's quotient fit? The dividend is hi:lo of 2 * size bytes. Decided on magnitudes. */
static bool idiv_fits(uint64_t hi, uint64_t lo, uint64_t divisor, unsigned size)
{
    uint64_t mask = size_mask(size), top = 1ull << (8 * size - 1), quotient;
    bool negative = ((hi ^ divisor) & top) != 0;

    if (hi & top) {
        hi = (~hi + (lo == 0)) & mask;
        lo = -lo & mask;
    }
    if (divisor & top)
        divisor = -divisor & mask;
    if (hi >= divisor)
        return false;
    if (size == 8)
        __asm__("divq %[d]" : "=a"(quotient), "+d"(hi) : [d] "r"(divisor), "a"(lo) : "cc");
    else
        quotient = (hi << (8 * size) | lo) / divisor;
    return quotient < top + negative;
}

void iop_idiv(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    uint64_t b = opnd_load(c, in, 0), lo = c->st.gpr[X86_RAX], hi = c->st.gpr[X86_RDX];
    uint64_t upper = size == 1 ? lo >> 8 & 0xff : hi & size_mask(size);
    uint32_t fl = flags_get(c);

    if (!idiv_fits(upper, lo & size_mask(size), b, size))
        soft_raise(c, X86_DE);
    WIDE_SWITCH("idiv");
    wide_result(c, size, lo, hi);
    flags_set(c, fl);
}

/* ---- Decimal and ASCII adjustment (SDM volume 2) ------------------------------------- */

/* SF, ZF and PF of AL; the rest as given. */
static void adjust_flags(struct soft_cpu *c, uint64_t cf_af)
{
    uint8_t al = (uint8_t)c->st.gpr[X86_RAX];
    uint64_t fl = cf_af;

    if (al == 0)
        fl |= X86_ZF;
    if (al & 0x80)
        fl |= X86_SF;
    if (!__builtin_parity(al))
        fl |= X86_PF;
    c->st.rflags = (c->st.rflags & ~(uint64_t)X86_ARITH) | fl;
}

static void decimal_adjust(struct soft_cpu *c, bool subtract)
{
    unsigned al = (unsigned)gpr_get(c, X86_RAX, 1), old = al;
    uint64_t fl = 0, was = c->st.rflags;

    if ((al & 15) > 9 || (was & X86_AF)) {
        if (subtract && al < 6) /* the borrow of AL - 6 counts as well */
            fl |= X86_CF;
        al = subtract ? al - 6 : al + 6;
        fl |= X86_AF;
    }
    if (old > 0x99 || (was & X86_CF)) {
        al = subtract ? al - 0x60 : al + 0x60;
        fl |= X86_CF;
    }
    gpr_set(c, X86_RAX, 1, al);
    adjust_flags(c, fl);
}

void iop_daa(struct soft_cpu *c, const struct insn *in)
{
    decimal_adjust(c, false);
}

void iop_das(struct soft_cpu *c, const struct insn *in)
{
    decimal_adjust(c, true);
}

static void ascii_adjust(struct soft_cpu *c, bool subtract)
{
    uint64_t fl = 0, ax = gpr_get(c, X86_RAX, 2);

    if ((ax & 15) > 9 || (c->st.rflags & X86_AF)) {
        ax = subtract ? ax - 0x106 : ax + 0x106;
        fl = X86_AF | X86_CF;
    }
    gpr_set(c, X86_RAX, 2, ax & 0xff0f);
    adjust_flags(c, fl);
}

void iop_aaa(struct soft_cpu *c, const struct insn *in)
{
    ascii_adjust(c, false);
}

void iop_aas(struct soft_cpu *c, const struct insn *in)
{
    ascii_adjust(c, true);
}

void iop_aam(struct soft_cpu *c, const struct insn *in)
{
    unsigned al = (unsigned)gpr_get(c, X86_RAX, 1), base = in->imm & 0xff;

    if (base == 0)
        soft_raise(c, X86_DE);
    gpr_set(c, X86_RAX, 2, (al / base) << 8 | al % base);
    adjust_flags(c, 0);
}

/* The flags are those of the last step, an 8-bit addition. */
void iop_aad(struct soft_cpu *c, const struct insn *in)
{
    uint64_t al = gpr_get(c, X86_RAX, 1), tens = gprh_get(c, X86_RAX) * in->imm;
    uint32_t fl = flags_get(c);

    __asm__(FLAGS_IN "addb %b[b], %b[a]" FLAGS_OUT
            : [a] "+q"(al), "+&a"(fl)
            : [b] "q"(tens)
            : "cc");
    gpr_set(c, X86_RAX, 2, al & 0xff);
    flags_set(c, fl);
}
