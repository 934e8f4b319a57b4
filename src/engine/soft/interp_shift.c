/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Shifts and rotates. The host masks counts and leaves flags as the guest's
 * CPU would, count zero and the undefined cases included.
 */
#include "engine/soft/interp.h"

typedef uint64_t shift_fn(uint64_t a, uint8_t count, unsigned size, uint32_t *fl);

#define SHIFT_CASE(insn, r)                                                                        \
    __asm__(FLAGS_IN insn " %%cl, %" r "[a]" FLAGS_OUT                                             \
            : [a] "+q"(a), "+&a"(*fl)                                                              \
            : "c"(count)                                                                           \
            : "cc")

#define SHIFT(name)                                                                                \
    static inline uint64_t shift_##name(uint64_t a, uint8_t count, unsigned size, uint32_t *fl)    \
    {                                                                                              \
        switch (size) {                                                                            \
        case 1:                                                                                    \
            SHIFT_CASE(#name "b", "b");                                                            \
            break;                                                                                 \
        case 2:                                                                                    \
            SHIFT_CASE(#name "w", "w");                                                            \
            break;                                                                                 \
        case 4:                                                                                    \
            SHIFT_CASE(#name "l", "k");                                                            \
            break;                                                                                 \
        default:                                                                                   \
            SHIFT_CASE(#name "q", "q");                                                            \
            break;                                                                                 \
        }                                                                                          \
        return a;                                                                                  \
    }                                                                                              \
    void iop_##name(struct soft_cpu *c, const struct insn *in)                                     \
    {                                                                                              \
        shift(c, in, shift_##name);                                                                \
    }

static inline __attribute__((always_inline)) void shift(struct soft_cpu *c, const struct insn *in,
                                                        shift_fn *fn)
{
    uint8_t count = (uint8_t)opnd_load(c, in, 1);
    uint32_t fl = flags_get(c);
    struct rmw m;
    uint64_t res;

    rmw_begin(c, in, &m);
    res = fn(m.old, count, m.size, &fl);
    rmw_store(c, &m, res);
    flags_set(c, fl);
}

SHIFT(shl)
SHIFT(shr)
SHIFT(sar)
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)

#define DOUBLE_CASE(insn, r)                                                                       \
    __asm__(FLAGS_IN insn " %%cl, %" r "[b], %" r "[a]" FLAGS_OUT                                  \
            : [a] "+q"(a), "+&a"(fl)                                                               \
            : [b] "q"(b), "c"(count)                                                               \
            : "cc")

#define DOUBLE_SHIFT(name)                                                                         \
    void iop_##name(struct soft_cpu *c, const struct insn *in)                                     \
    {                                                                                              \
        uint8_t count = (uint8_t)opnd_load(c, in, 2);                                              \
        uint64_t a, b = opnd_load(c, in, 1);                                                       \
        uint32_t fl = flags_get(c);                                                                \
        struct rmw m;                                                                              \
                                                                                                   \
        rmw_begin(c, in, &m);                                                                      \
        a = m.old;                                                                                 \
        switch (m.size) {                                                                          \
        case 2:                                                                                    \
            DOUBLE_CASE(#name "w", "w");                                                           \
            break;                                                                                 \
        case 4:                                                                                    \
            DOUBLE_CASE(#name "l", "k");                                                           \
            break;                                                                                 \
        default:                                                                                   \
            DOUBLE_CASE(#name "q", "q");                                                           \
            break;                                                                                 \
        }                                                                                          \
        rmw_store(c, &m, a);                                                                       \
        flags_set(c, fl);                                                                          \
    }

DOUBLE_SHIFT(shld)
DOUBLE_SHIFT(shrd)

/* ---- BMI2: no flags ------------------------------------------------------------ */

void iop_rorx(struct soft_cpu *c, const struct insn *in)
{
    unsigned bits = in->opnd[0].size * 8, n = in->imm & (bits - 1);
    uint64_t a = opnd_load(c, in, 1);

    opnd_store(c, in, 0, a >> n | a << ((bits - n) & (bits - 1)));
}

void iop_sarx(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size, n = opnd_load(c, in, 2) & (size * 8 - 1);

    opnd_store(c, in, 0, (uint64_t)((int64_t)sign_extend(opnd_load(c, in, 1), size) >> n));
}

void iop_shlx(struct soft_cpu *c, const struct insn *in)
{
    unsigned n = opnd_load(c, in, 2) & (in->opnd[0].size * 8 - 1);

    opnd_store(c, in, 0, opnd_load(c, in, 1) << n);
}

void iop_shrx(struct soft_cpu *c, const struct insn *in)
{
    unsigned n = opnd_load(c, in, 2) & (in->opnd[0].size * 8 - 1);

    opnd_store(c, in, 0, opnd_load(c, in, 1) >> n);
}
