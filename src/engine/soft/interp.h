/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What interpreter handlers share: registers, operands, flags and the
 * read-modify-write protocol. A handler does everything that may fault first
 * and changes registers and flags last.
 */
#ifndef LODGE_SOFT_INTERP_H
#define LODGE_SOFT_INTERP_H

#include "engine/soft/soft.h"

static inline uint64_t size_mask(unsigned size)
{
    return ~0ull >> (64 - 8 * size);
}

static inline uint64_t sign_extend(uint64_t val, unsigned size)
{
    unsigned shift = 64 - 8 * size;

    return (uint64_t)((int64_t)(val << shift) >> shift);
}

/* ---- General registers -------------------------------------------------- */

static inline uint64_t gpr_get(const struct soft_cpu *c, unsigned reg, unsigned size)
{
    return c->st.gpr[reg] & size_mask(size);
}

/* 32-bit writes clear the upper half, 8- and 16-bit ones keep the rest (SDM volume 1, 3.4.1.1). */
static inline void gpr_set(struct soft_cpu *c, unsigned reg, unsigned size, uint64_t val)
{
    uint64_t mask = size_mask(size);
    uint64_t keep = size >= 4 ? 0 : c->st.gpr[reg] & ~mask;

    c->st.gpr[reg] = keep | (val & mask);
}

static inline uint64_t gprh_get(const struct soft_cpu *c, unsigned reg)
{
    return (c->st.gpr[reg] >> 8) & 0xff;
}

static inline void gprh_set(struct soft_cpu *c, unsigned reg, uint64_t val)
{
    c->st.gpr[reg] = (c->st.gpr[reg] & ~0xff00ull) | (val & 0xff) << 8;
}

/* ---- Arithmetic flags ---------------------------------------------------- */

/*
 * The form host instructions take and leave them in, that of soft_cpu.lazy_flags: LAHF's AH in
 * bits 8..15, OF in bit 0. An operation runs as the host instruction between FLAGS_IN and
 * FLAGS_OUT with that value in EAX, so that flags it leaves alone or undefined come out as the
 * hardware has them. Neither touches the stack.
 */
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_OUT "\n\tlahf\n\tseto %%al"

static inline uint32_t flags_get(const struct soft_cpu *c)
{
    return (uint32_t)((c->st.rflags & 0xff) << 8 | (c->st.rflags >> 11 & 1));
}

static inline void flags_set(struct soft_cpu *c, uint32_t fl)
{
    c->st.rflags = (c->st.rflags & ~(uint64_t)X86_ARITH) |
                   (fl >> 8 & (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF)) | (fl & 1) << 11;
}

/* ---- Operands ------------------------------------------------------------ */

/* Linear address of the explicit memory operand, checked for `size` bytes. */
static inline gva_t opnd_va(struct soft_cpu *c, const struct insn *in, unsigned size,
                            enum mem_access acc)
{
    return seg_linear(c, (enum x86_sreg)in->mem_seg, insn_ea(c, in), size, acc);
}

/* Value of operand i, zero-extended (an immediate: extended to 64 bits as decoded). May fault. */
static inline uint64_t opnd_load(struct soft_cpu *c, const struct insn *in, unsigned i)
{
    const struct opnd *o = &in->opnd[i];

    switch (o->kind) {
    case OPND_GPR:
        return gpr_get(c, o->reg, o->size);
    case OPND_GPRH:
        return gprh_get(c, o->reg);
    case OPND_MEM:
        return mem_ld(c, opnd_va(c, in, o->size, ACC_READ), o->size);
    case OPND_IMM2:
        return in->imm2;
    default:
        return in->imm;
    }
}

/* Store to operand i, a general register or memory. May fault, then nothing has changed. */
static inline void opnd_store(struct soft_cpu *c, const struct insn *in, unsigned i, uint64_t val)
{
    const struct opnd *o = &in->opnd[i];

    if (o->kind == OPND_GPR)
        gpr_set(c, o->reg, o->size, val);
    else if (o->kind == OPND_GPRH)
        gprh_set(c, o->reg, val);
    else
        mem_st(c, opnd_va(c, in, o->size, ACC_WRITE), o->size, val & size_mask(o->size));
}

/* Load of `size` bytes at stack offset sp (wrapped to the stack's address size) without popping. */
static inline uint64_t stack_peek(struct soft_cpu *c, uint64_t sp, unsigned size)
{
    sp &= size_mask(stack_addr_size(c));
    return mem_ld(c, seg_linear(c, X86_SS, sp, size, ACC_READ), size);
}

/* ---- Read-modify-write ---------------------------------------------------- */

/*
 * An operand being read, modified and written:
 *
 *     rmw_begin(c, in, &m);
 *     do
 *         val = f(m.old);
 *     while (!rmw_store(c, &m, val));
 *
 * rmw_begin raises every fault the write could; between the two nothing may
 * raise, for a bus lock may be held. With LOCK the store is a compare and
 * exchange; when another CPU was faster rmw_store renews m.old and returns
 * false.
 */
enum rmw_how { RMW_GPR, RMW_GPRH, RMW_HOST, RMW_HOST_ATOMIC, RMW_SLOW, RMW_SLOW_LOCKED };

struct rmw {
    uint64_t old;
    void *host;
    gva_t va;
    uint8_t how, reg, size;
};

/* The same for `size` bytes (1, 2, 4, 8) of memory at an address that passed seg_linear. */
void rmw_begin_mem(struct soft_cpu *c, struct rmw *m, gva_t va, unsigned size, bool locked);
bool rmw_store_mem(struct soft_cpu *c, struct rmw *m, uint64_t val);

/* Operand 0 of the instruction. */
static inline void rmw_begin(struct soft_cpu *c, const struct insn *in, struct rmw *m)
{
    const struct opnd *o = &in->opnd[0];

    m->reg = o->reg;
    m->size = o->size;
    if (o->kind == OPND_GPR) {
        m->how = RMW_GPR;
        m->old = gpr_get(c, o->reg, o->size);
    } else if (o->kind == OPND_GPRH) {
        m->how = RMW_GPRH;
        m->old = gprh_get(c, o->reg);
    } else {
        rmw_begin_mem(c, m, opnd_va(c, in, o->size, ACC_WRITE), o->size,
                      (in->flags & INSN_LOCK) != 0);
    }
}

static inline bool rmw_store(struct soft_cpu *c, struct rmw *m, uint64_t val)
{
    if (m->how == RMW_GPR) {
        gpr_set(c, m->reg, m->size, val);
        return true;
    }
    if (m->how == RMW_GPRH) {
        gprh_set(c, m->reg, val);
        return true;
    }
    return rmw_store_mem(c, m, val);
}

/* ---- Handlers of interp_int_table ----------------------------------------- */

/* interp_alu.c */
insn_fn iop_add, iop_adc, iop_sub, iop_sbb, iop_and, iop_or, iop_xor, iop_cmp, iop_test;
insn_fn iop_inc, iop_dec, iop_neg, iop_not, iop_adcx, iop_adox, iop_xadd;
insn_fn iop_cmpxchg, iop_cmpxchg8b, iop_cmpxchg16b;
/* interp_muldiv.c */
insn_fn iop_mul, iop_imul, iop_mulx, iop_div, iop_idiv;
insn_fn iop_daa, iop_das, iop_aaa, iop_aas, iop_aam, iop_aad;
/* interp_shift.c */
insn_fn iop_shl, iop_shr, iop_sar, iop_rol, iop_ror, iop_rcl, iop_rcr, iop_shld, iop_shrd;
insn_fn iop_rorx, iop_sarx, iop_shlx, iop_shrx;
/* interp_bit.c */
insn_fn iop_bt, iop_bts, iop_btr, iop_btc, iop_bsf, iop_bsr, iop_lzcnt, iop_tzcnt, iop_popcnt;
insn_fn iop_andn, iop_bextr, iop_blsi, iop_blsmsk, iop_blsr, iop_bzhi, iop_pdep, iop_pext;
/* interp_move.c */
insn_fn iop_mov, iop_movzx, iop_movsx, iop_movbe, iop_lea, iop_xchg, iop_xlat, iop_bswap;
insn_fn iop_cbw, iop_cwde, iop_cdqe, iop_cwd, iop_cdq, iop_cqo;
insn_fn iop_clc, iop_stc, iop_cmc, iop_cld, iop_std, iop_lahf, iop_sahf, iop_salc;
insn_fn iop_nop, iop_pause, iop_lfence, iop_sfence, iop_mfence, iop_clflush, iop_rdrand, iop_rdseed;
/* interp_stack.c */
insn_fn iop_push, iop_pop, iop_pusha, iop_popa, iop_enter, iop_leave;
/* interp_branch.c */
insn_fn iop_jmp, iop_call, iop_ret, iop_jcxz, iop_loop, iop_loope, iop_loopne, iop_bound, iop_ud;
/* interp_string.c */
insn_fn iop_movs, iop_stos, iop_lods, iop_cmps, iop_scas;

/* Condition codes in the order of their encoding (SDM volume 2, appendix B.1.4.7). */
/* clang-format off */
#define FOR_EACH_COND(X)                                                                           \
    X(O, 0) X(NO, 1) X(B, 2) X(NB, 3) X(Z, 4) X(NZ, 5) X(BE, 6) X(NBE, 7)                          \
    X(S, 8) X(NS, 9) X(P, 10) X(NP, 11) X(L, 12) X(NL, 13) X(LE, 14) X(NLE, 15)
/* clang-format on */

#define DECLARE_COND(name, cc) insn_fn iop_J##name, iop_CMOV##name, iop_SET##name;
FOR_EACH_COND(DECLARE_COND)
#undef DECLARE_COND

static inline bool cond_true(uint64_t rflags, unsigned cc)
{
    bool t, sf_ne_of = ((rflags >> 7 ^ rflags >> 11) & 1) != 0;

    switch (cc >> 1) {
    case 0:
        t = (rflags & X86_OF) != 0;
        break;
    case 1:
        t = (rflags & X86_CF) != 0;
        break;
    case 2:
        t = (rflags & X86_ZF) != 0;
        break;
    case 3:
        t = (rflags & (X86_CF | X86_ZF)) != 0;
        break;
    case 4:
        t = (rflags & X86_SF) != 0;
        break;
    case 5:
        t = (rflags & X86_PF) != 0;
        break;
    case 6:
        t = sf_ne_of;
        break;
    default:
        t = sf_ne_of || (rflags & X86_ZF);
        break;
    }
    return t != (cc & 1);
}

#endif
