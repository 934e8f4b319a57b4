/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bit tests, scans and counts, BMI1 and BMI2. */
#include "engine/soft/interp.h"

/* ---- BT, BTS, BTR, BTC ------------------------------------------------------- */

/* Linear address of the operand-sized unit holding the bit: a register's offset is signed and unlimited. */
static gva_t bit_va(struct soft_cpu *c, const struct insn *in, uint64_t bit, enum mem_access acc)
{
    unsigned size = in->opnd[0].size;
    uint64_t ea = insn_ea(c, in);

    if (in->opnd[1].kind != OPND_IMM) {
        int64_t unit = (int64_t)sign_extend(bit, size) >> (__builtin_ctz(size) + 3);

        ea = (ea + (uint64_t)unit * size) & size_mask(in->addr_size);
    }
    return seg_linear(c, (enum x86_sreg)in->mem_seg, ea, size, acc);
}

typedef uint64_t bit_fn(uint64_t a, uint64_t bit, unsigned size, uint32_t *fl);

#define BIT_CASE(insn, r)                                                                          \
    __asm__(FLAGS_IN insn " %" r "[b], %" r "[a]" FLAGS_OUT                                        \
            : [a] "+q"(a), "+&a"(*fl)                                                              \
            : [b] "q"(bit)                                                                         \
            : "cc")

#define BIT(name)                                                                                  \
    static inline uint64_t bit_##name(uint64_t a, uint64_t bit, unsigned size, uint32_t *fl)       \
    {                                                                                              \
        switch (size) {                                                                            \
        case 2:                                                                                    \
            BIT_CASE(#name "w", "w");                                                              \
            break;                                                                                 \
        case 4:                                                                                    \
            BIT_CASE(#name "l", "k");                                                              \
            break;                                                                                 \
        default:                                                                                   \
            BIT_CASE(#name "q", "q");                                                              \
            break;                                                                                 \
        }                                                                                          \
        return a;                                                                                  \
    }

BIT(bt)
BIT(bts)
BIT(btr)
BIT(btc)

static inline __attribute__((always_inline)) void bit_rmw(struct soft_cpu *c, const struct insn *in,
                                                          bit_fn *fn)
{
    uint64_t res, bit = opnd_load(c, in, 1);
    struct rmw m;
    uint32_t fl;

    if (in->opnd[0].kind == OPND_MEM)
        rmw_begin_mem(c, &m, bit_va(c, in, bit, ACC_WRITE), in->opnd[0].size,
                      (in->flags & INSN_LOCK) != 0);
    else
        rmw_begin(c, in, &m);
    do {
        fl = flags_get(c);
        res = fn(m.old, bit, m.size, &fl);
    } while (!rmw_store(c, &m, res));
    flags_set(c, fl);
}

void iop_bt(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    uint64_t a, bit = opnd_load(c, in, 1);
    uint32_t fl = flags_get(c);

    if (in->opnd[0].kind == OPND_MEM)
        a = mem_ld(c, bit_va(c, in, bit, ACC_READ), size);
    else
        a = opnd_load(c, in, 0);
    bit_bt(a, bit, size, &fl);
    flags_set(c, fl);
}

void iop_bts(struct soft_cpu *c, const struct insn *in)
{
    bit_rmw(c, in, bit_bts);
}

void iop_btr(struct soft_cpu *c, const struct insn *in)
{
    bit_rmw(c, in, bit_btr);
}

void iop_btc(struct soft_cpu *c, const struct insn *in)
{
    bit_rmw(c, in, bit_btc);
}

/* ---- Scans and counts ---------------------------------------------------------- */

/*
 * On the whole destination register, so that what a scan of zero keeps of it is the hardware's
 * business. A host without LZCNT and TZCNT runs these encodings as BSR and BSF, as the guest
 * that was offered neither expects.
 */
#define SCAN_CASE(insn, r)                                                                         \
    __asm__(FLAGS_IN insn " %" r "[b], %" r "[a]" FLAGS_OUT                                        \
            : [a] "+&r"(a), "+&a"(fl)                                                              \
            : [b] "r"(b)                                                                           \
            : "cc")

#define SCAN_BODY(name)                                                                            \
    uint64_t a = c->st.gpr[in->opnd[0].reg], b = opnd_load(c, in, 1);                              \
    uint32_t fl = flags_get(c);                                                                    \
                                                                                                   \
    switch (in->opnd[0].size) {                                                                    \
    case 2:                                                                                        \
        SCAN_CASE(#name "w", "w");                                                                 \
        break;                                                                                     \
    case 4:                                                                                        \
        SCAN_CASE(#name "l", "k");                                                                 \
        break;                                                                                     \
    default:                                                                                       \
        SCAN_CASE(#name "q", "q");                                                                 \
        break;                                                                                     \
    }                                                                                              \
    c->st.gpr[in->opnd[0].reg] = a;                                                                \
    flags_set(c, fl);

void iop_bsf(struct soft_cpu *c, const struct insn *in)
{
    SCAN_BODY(bsf)
}

void iop_bsr(struct soft_cpu *c, const struct insn *in)
{
    SCAN_BODY(bsr)
}

void iop_lzcnt(struct soft_cpu *c, const struct insn *in)
{
    SCAN_BODY(lzcnt)
}

void iop_tzcnt(struct soft_cpu *c, const struct insn *in)
{
    SCAN_BODY(tzcnt)
}

void iop_popcnt(struct soft_cpu *c, const struct insn *in)
{
    if (!__builtin_cpu_supports("popcnt"))
        soft_raise(c, X86_UD);
    SCAN_BODY(popcnt)
}

/* ---- BMI ------------------------------------------------------------------------- */

/* Destination first, then two sources in Intel's order. */
#define BMI3(name)                                                                                 \
    void iop_##name(struct soft_cpu *c, const struct insn *in)                                     \
    {                                                                                              \
        uint64_t res, a, b;                                                                        \
        uint32_t fl = flags_get(c);                                                                \
                                                                                                   \
        bmi_check(c);                                                                              \
        a = opnd_load(c, in, 1);                                                                   \
        b = opnd_load(c, in, 2);                                                                   \
        if (in->opnd[0].size == 4)                                                                 \
            __asm__(FLAGS_IN #name " %k[b], %k[a], %k[res]" FLAGS_OUT                              \
                    : [res] "=&r"(res), "+&a"(fl)                                                  \
                    : [a] "r"(a), [b] "r"(b)                                                       \
                    : "cc");                                                                       \
        else                                                                                       \
            __asm__(FLAGS_IN #name " %q[b], %q[a], %q[res]" FLAGS_OUT                              \
                    : [res] "=&r"(res), "+&a"(fl)                                                  \
                    : [a] "r"(a), [b] "r"(b)                                                       \
                    : "cc");                                                                       \
        opnd_store(c, in, 0, res);                                                                 \
        flags_set(c, fl);                                                                          \
    }

#define BMI2(name)                                                                                 \
    void iop_##name(struct soft_cpu *c, const struct insn *in)                                     \
    {                                                                                              \
        uint64_t res, a;                                                                           \
        uint32_t fl = flags_get(c);                                                                \
                                                                                                   \
        bmi_check(c);                                                                              \
        a = opnd_load(c, in, 1);                                                                   \
        if (in->opnd[0].size == 4)                                                                 \
            __asm__(FLAGS_IN #name " %k[a], %k[res]" FLAGS_OUT                                     \
                    : [res] "=&r"(res), "+&a"(fl)                                                  \
                    : [a] "r"(a)                                                                   \
                    : "cc");                                                                       \
        else                                                                                       \
            __asm__(FLAGS_IN #name " %q[a], %q[res]" FLAGS_OUT                                     \
                    : [res] "=&r"(res), "+&a"(fl)                                                  \
                    : [a] "r"(a)                                                                   \
                    : "cc");                                                                       \
        opnd_store(c, in, 0, res);                                                                 \
        flags_set(c, fl);                                                                          \
    }

/* These run as themselves for their undefined flags, so the host must have them, as the guest is told. */
static void bmi_check(struct soft_cpu *c)
{
    if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2"))
        soft_raise(c, X86_UD);
}

BMI3(andn)
BMI3(bextr)
BMI3(bzhi)
BMI2(blsi)
BMI2(blsmsk)
BMI2(blsr)

void iop_pdep(struct soft_cpu *c, const struct insn *in)
{
    uint64_t mask = opnd_load(c, in, 2), src = opnd_load(c, in, 1), res = 0;

    for (; mask; mask &= mask - 1, src >>= 1)
        if (src & 1)
            res |= mask & -mask;
    opnd_store(c, in, 0, res);
}

void iop_pext(struct soft_cpu *c, const struct insn *in)
{
    uint64_t mask = opnd_load(c, in, 2), src = opnd_load(c, in, 1), res = 0;

    for (uint64_t bit = 1; mask; mask &= mask - 1, bit <<= 1)
        if (src & mask & -mask)
            res |= bit;
    opnd_store(c, in, 0, res);
}
