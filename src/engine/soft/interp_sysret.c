/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SYSCALL, SYSRET, SYSENTER and SYSEXIT: SDM volume 2, and AMD's manual volume 3 for the compatibility forms. */
#include "engine/soft/interp_sys.h"

/* Flags SYSRET takes from R11: all but RF, VM and the reserved ones. */
#define SYSRET_FLAGS 0x3c7fd7u

void op_syscall(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint64_t old = st->rflags;
    uint16_t cs = (uint16_t)(st->star >> 32) & 0xfffc;

    /* Intel: only in 64-bit mode, so 32-bit code never reaches CSTAR, which kernels leave unset. */
    if (unlikely(!(st->efer & X86_EFER_SCE) || c->mode != INSN_64))
        soft_raise(c, X86_UD);
    st->gpr[X86_RCX] = c->next_rip;
    st->gpr[X86_R11] = old & ~(uint64_t)X86_RF;
    c->next_rip = st->lstar;
    st->rflags = (old & ~(st->sfmask | X86_RF)) | 2;
    seg_flat(&st->seg[X86_CS], cs, ATTR_CODE64);
    seg_flat(&st->seg[X86_SS], (uint16_t)(cs + 8), ATTR_DATA32);
    soft_mode_changed(c);
}

void op_sysret(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint64_t old = st->rflags;
    uint16_t base = (uint16_t)(st->star >> 48);
    bool wide = in->op_size == 8;

    if (unlikely(!(st->efer & X86_EFER_SCE) || c->mode != INSN_64))
        soft_raise(c, X86_UD);
    require_cpl0(c);
    if (unlikely(wide && !canonical(st->gpr[X86_RCX])))
        soft_raise_err(c, X86_GP, 0);
    c->next_rip = wide ? st->gpr[X86_RCX] : (uint32_t)st->gpr[X86_RCX];
    st->rflags = (st->gpr[X86_R11] & SYSRET_FLAGS) | 2;
    seg_flat(&st->seg[X86_CS], (uint16_t)((base + (wide ? 16 : 0)) | 3),
             (wide ? ATTR_CODE64 : ATTR_CODE32) | ATTR_DPL3);
    seg_flat(&st->seg[X86_SS], (uint16_t)((base + 8) | 3), ATTR_DATA32 | ATTR_DPL3);
    soft_mode_changed(c);
    flags_written(c, old);
}

void op_sysenter(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint16_t cs = st->sysenter_cs & 0xfffc;
    bool wide = cpu_long(c);

    if (cpu_real(c) || !cs)
        soft_raise_err(c, X86_GP, 0);
    st->rflags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
    c->next_rip = wide ? st->sysenter_eip : (uint32_t)st->sysenter_eip;
    st->gpr[X86_RSP] = wide ? st->sysenter_esp : (uint32_t)st->sysenter_esp;
    seg_flat(&st->seg[X86_CS], cs, wide ? ATTR_CODE64 : ATTR_CODE32);
    seg_flat(&st->seg[X86_SS], (uint16_t)(cs + 8), ATTR_DATA32);
    soft_mode_changed(c);
}

void op_sysexit(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint16_t cs = st->sysenter_cs & 0xfffc;
    bool wide = in->op_size == 8;
    uint64_t rip = st->gpr[X86_RDX], rsp = st->gpr[X86_RCX];

    if (cpu_real(c) || !cs || st->cpl != 0)
        soft_raise_err(c, X86_GP, 0);
    if (wide && (!canonical(rip) || !canonical(rsp)))
        soft_raise_err(c, X86_GP, 0);
    cs = (uint16_t)(cs + (wide ? 32 : 16));
    c->next_rip = wide ? rip : (uint32_t)rip;
    st->gpr[X86_RSP] = wide ? rsp : (uint32_t)rsp;
    seg_flat(&st->seg[X86_CS], cs | 3, (wide ? ATTR_CODE64 : ATTR_CODE32) | ATTR_DPL3);
    seg_flat(&st->seg[X86_SS], (uint16_t)((cs + 8) | 3), ATTR_DATA32 | ATTR_DPL3);
    soft_mode_changed(c);
}
