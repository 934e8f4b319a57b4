/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Moves, conversions, conditional moves, flag instructions, fences and hints. */
#include "engine/soft/interp.h"

/* ---- MOV and its relatives --------------------------------------------------------- */

static void mov_to_sreg(struct soft_cpu *c, const struct insn *in)
{
    enum x86_sreg seg = (enum x86_sreg)in->opnd[0].reg;

    seg_load(c, seg, (uint16_t)opnd_load(c, in, 1));
    if (seg == X86_SS)
        c->st.intr_shadow = 1;
}

void iop_mov(struct soft_cpu *c, const struct insn *in)
{
    const struct opnd *dst = &in->opnd[0], *src = &in->opnd[1];

    if (dst->kind == OPND_SEG)
        mov_to_sreg(c, in);
    else if (src->kind == OPND_SEG)
        opnd_store(c, in, 0, c->st.seg[src->reg].sel);
    else if (dst->kind == OPND_CR || src->kind == OPND_CR)
        interp_mov_cr(c, in);
    else if (dst->kind == OPND_DR || src->kind == OPND_DR)
        interp_mov_dr(c, in);
    else
        opnd_store(c, in, 0, opnd_load(c, in, 1));
}

void iop_movzx(struct soft_cpu *c, const struct insn *in)
{
    opnd_store(c, in, 0, opnd_load(c, in, 1));
}

void iop_movsx(struct soft_cpu *c, const struct insn *in)
{
    opnd_store(c, in, 0, sign_extend(opnd_load(c, in, 1), in->opnd[1].size));
}

void iop_movbe(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;

    opnd_store(c, in, 0, __builtin_bswap64(opnd_load(c, in, 1)) >> (64 - 8 * size));
}

void iop_bswap(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;

    /* With 16 bits undefined; processors clear the register. */
    opnd_store(c, in, 0, size == 2 ? 0 : __builtin_bswap64(opnd_load(c, in, 0)) >> (64 - 8 * size));
}

void iop_lea(struct soft_cpu *c, const struct insn *in)
{
    opnd_store(c, in, 0, insn_ea(c, in));
}

void iop_xchg(struct soft_cpu *c, const struct insn *in)
{
    unsigned r = in->opnd[0].kind == OPND_MEM ? 1 : 0; /* the one that is surely a register */
    const struct opnd *reg = &in->opnd[r], *other = &in->opnd[!r];
    uint64_t val = opnd_load(c, in, r), old;
    struct rmw m;

    if (other->kind == OPND_MEM) { /* locked, prefix or not */
        rmw_begin_mem(c, &m, opnd_va(c, in, other->size, ACC_WRITE), other->size, true);
        do
            old = m.old;
        while (!rmw_store(c, &m, val));
    } else {
        old = opnd_load(c, in, !r);
        opnd_store(c, in, !r, val);
    }
    if (reg->kind == OPND_GPRH)
        gprh_set(c, reg->reg, old);
    else
        gpr_set(c, reg->reg, reg->size, old);
}

void iop_xlat(struct soft_cpu *c, const struct insn *in)
{
    uint64_t ea = c->st.gpr[X86_RBX] + gpr_get(c, X86_RAX, 1);
    gva_t va =
        seg_linear(c, (enum x86_sreg)in->mem_seg, ea & size_mask(in->addr_size), 1, ACC_READ);

    gpr_set(c, X86_RAX, 1, mem_ld(c, va, 1));
}

#define COND_MOVE(name, cc)                                                                        \
    void iop_CMOV##name(struct soft_cpu *c, const struct insn *in)                                 \
    {                                                                                              \
        uint64_t src = opnd_load(c, in, 1); /* may fault whatever the condition */                 \
                                                                                                   \
        opnd_store(c, in, 0, cond_true(c->st.rflags, cc) ? src : opnd_load(c, in, 0));             \
    }                                                                                              \
    void iop_SET##name(struct soft_cpu *c, const struct insn *in)                                  \
    {                                                                                              \
        opnd_store(c, in, 0, cond_true(c->st.rflags, cc));                                         \
    }
FOR_EACH_COND(COND_MOVE)

/* ---- Sign extension of the accumulator ----------------------------------------------- */

void iop_cbw(struct soft_cpu *c, const struct insn *in)
{
    gpr_set(c, X86_RAX, 2, sign_extend(c->st.gpr[X86_RAX], 1));
}

void iop_cwde(struct soft_cpu *c, const struct insn *in)
{
    gpr_set(c, X86_RAX, 4, sign_extend(c->st.gpr[X86_RAX], 2));
}

void iop_cdqe(struct soft_cpu *c, const struct insn *in)
{
    gpr_set(c, X86_RAX, 8, sign_extend(c->st.gpr[X86_RAX], 4));
}

static void sign_to_rdx(struct soft_cpu *c, unsigned size)
{
    gpr_set(c, X86_RDX, size, (uint64_t)((int64_t)sign_extend(c->st.gpr[X86_RAX], size) >> 63));
}

void iop_cwd(struct soft_cpu *c, const struct insn *in)
{
    sign_to_rdx(c, 2);
}

void iop_cdq(struct soft_cpu *c, const struct insn *in)
{
    sign_to_rdx(c, 4);
}

void iop_cqo(struct soft_cpu *c, const struct insn *in)
{
    sign_to_rdx(c, 8);
}

/* ---- Flags ------------------------------------------------------------------------------ */

void iop_clc(struct soft_cpu *c, const struct insn *in)
{
    c->st.rflags &= ~(uint64_t)X86_CF;
}

void iop_stc(struct soft_cpu *c, const struct insn *in)
{
    c->st.rflags |= X86_CF;
}

void iop_cmc(struct soft_cpu *c, const struct insn *in)
{
    c->st.rflags ^= X86_CF;
}

void iop_cld(struct soft_cpu *c, const struct insn *in)
{
    c->st.rflags &= ~(uint64_t)X86_DF;
}

void iop_std(struct soft_cpu *c, const struct insn *in)
{
    c->st.rflags |= X86_DF;
}

void iop_lahf(struct soft_cpu *c, const struct insn *in)
{
    gprh_set(c, X86_RAX, (c->st.rflags & 0xd5) | 2);
}

void iop_sahf(struct soft_cpu *c, const struct insn *in)
{
    c->st.rflags = (c->st.rflags & ~0xd5ull) | (gprh_get(c, X86_RAX) & 0xd5);
}

void iop_salc(struct soft_cpu *c, const struct insn *in)
{
    gpr_set(c, X86_RAX, 1, c->st.rflags & X86_CF ? 0xff : 0);
}

/* ---- Fences, hints, random numbers -------------------------------------------------------- */

void iop_nop(struct soft_cpu *c, const struct insn *in)
{
}

void iop_pause(struct soft_cpu *c, const struct insn *in)
{
    __asm__ volatile("pause");
}

void iop_lfence(struct soft_cpu *c, const struct insn *in)
{
    __asm__ volatile("lfence" ::: "memory");
}

void iop_sfence(struct soft_cpu *c, const struct insn *in)
{
    __asm__ volatile("sfence" ::: "memory");
}

void iop_mfence(struct soft_cpu *c, const struct insn *in)
{
    __asm__ volatile("mfence" ::: "memory");
}

/* Guest memory is coherent: only the faults and the ordering are left of a cache line flush. */
void iop_clflush(struct soft_cpu *c, const struct insn *in)
{
    mem_probe(c, opnd_va(c, in, 1, ACC_READ), 1, ACC_READ);
    __asm__ volatile("mfence" ::: "memory");
}

static uint32_t host_cpuid(uint32_t leaf, unsigned reg)
{
    uint32_t r[4] = {leaf, 0, 0, 0};

    __asm__ volatile("cpuid" : "+a"(r[0]), "=b"(r[1]), "+c"(r[2]), "=d"(r[3]));
    return r[reg];
}

/* On the whole destination register; CF says whether there was a number, the other flags are cleared. */
#define RANDOM(insn)                                                                               \
    do {                                                                                           \
        uint64_t val = c->st.gpr[in->opnd[0].reg];                                                 \
        bool ok;                                                                                   \
                                                                                                   \
        if (in->opnd[0].size == 2)                                                                 \
            __asm__ volatile(insn " %w0" : "+r"(val), "=@ccc"(ok));                                \
        else if (in->opnd[0].size == 4)                                                            \
            __asm__ volatile(insn " %k0" : "+r"(val), "=@ccc"(ok));                                \
        else                                                                                       \
            __asm__ volatile(insn " %q0" : "+r"(val), "=@ccc"(ok));                                \
        c->st.gpr[in->opnd[0].reg] = val;                                                          \
        c->st.rflags = (c->st.rflags & ~(uint64_t)X86_ARITH) | (ok ? X86_CF : 0);                  \
    } while (0)

void iop_rdrand(struct soft_cpu *c, const struct insn *in)
{
    if (!(host_cpuid(1, 2) >> 30 & 1))
        soft_raise(c, X86_UD);
    RANDOM("rdrand");
}

void iop_rdseed(struct soft_cpu *c, const struct insn *in)
{
    if (host_cpuid(0, 0) < 7 || !(host_cpuid(7, 1) >> 18 & 1))
        soft_raise(c, X86_UD);
    RANDOM("rdseed");
}
