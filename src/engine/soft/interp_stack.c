/* SPDX-License-Identifier: GPL-2.0-or-later */
/* PUSH, POP, PUSHA, POPA, ENTER, LEAVE (SDM volume 2; volume 1 chapter 6). */
#include "engine/soft/interp.h"

#define PUSHA_REGS 8

static void sp_set(struct soft_cpu *c, uint64_t sp)
{
    gpr_set(c, X86_RSP, stack_addr_size(c), sp);
}

/* Linear address of a stack slot, and a check that writing it will not fault. */
static gva_t slot_probe(struct soft_cpu *c, uint64_t sp, unsigned size)
{
    gva_t va;

    sp &= size_mask(stack_addr_size(c));
    va = seg_linear(c, X86_SS, sp, size, ACC_WRITE);
    mem_probe(c, va, size, ACC_WRITE);
    return va;
}

void iop_push(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->op_size;
    uint64_t val;

    if (in->opnd[0].kind == OPND_SEG)
        val = c->st.seg[in->opnd[0].reg].sel;
    else
        val = opnd_load(c, in, 0);
    stack_push(c, size, val & size_mask(size));
}

static void pop_sreg(struct soft_cpu *c, const struct insn *in)
{
    enum x86_sreg seg = (enum x86_sreg)in->opnd[0].reg;
    unsigned sp_size = stack_addr_size(c); /* loading SS may change it */
    uint64_t sp = c->st.gpr[X86_RSP];

    seg_load(c, seg, (uint16_t)stack_peek(c, sp, in->op_size));
    gpr_set(c, X86_RSP, sp_size, sp + in->op_size);
    if (seg == X86_SS)
        c->st.intr_shadow = 1;
}

/* The destination's address is computed with the stack pointer already advanced. */
static void pop_mem(struct soft_cpu *c, const struct insn *in)
{
    uint64_t sp = c->st.gpr[X86_RSP], val = stack_peek(c, sp, in->op_size), ea;

    sp_set(c, sp + in->op_size);
    ea = insn_ea(c, in);
    c->st.gpr[X86_RSP] = sp; /* until the store went through */
    mem_st(c, seg_linear(c, (enum x86_sreg)in->mem_seg, ea, in->op_size, ACC_WRITE), in->op_size,
           val);
    sp_set(c, sp + in->op_size);
}

void iop_pop(struct soft_cpu *c, const struct insn *in)
{
    const struct opnd *o = &in->opnd[0];

    if (o->kind == OPND_SEG)
        pop_sreg(c, in);
    else if (o->kind == OPND_MEM)
        pop_mem(c, in);
    else
        gpr_set(c, o->reg, in->op_size, stack_pop(c, in->op_size));
}

void iop_pusha(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->op_size;
    uint64_t sp = c->st.gpr[X86_RSP];
    gva_t va[PUSHA_REGS];

    for (unsigned i = 0; i < PUSHA_REGS; i++)
        va[i] = slot_probe(c, sp - (i + 1) * size, size);
    for (unsigned i = 0; i < PUSHA_REGS; i++)
        mem_st(c, va[i], size, gpr_get(c, i, size));
    sp_set(c, sp - PUSHA_REGS * size);
}

void iop_popa(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->op_size;
    uint64_t sp = c->st.gpr[X86_RSP], val[PUSHA_REGS];

    for (unsigned i = 0; i < PUSHA_REGS; i++)
        val[i] = stack_peek(c, sp + i * size, size);
    for (unsigned i = 0; i < PUSHA_REGS; i++) {
        unsigned reg = PUSHA_REGS - 1 - i;

        if (reg != X86_RSP)
            gpr_set(c, reg, size, val[i]);
    }
    sp_set(c, sp + PUSHA_REGS * size);
}

/*
 * Nesting level n copies n - 1 frame pointers from the enclosing frame. Every slot is probed
 * before the first is written, and so is the place the stack pointer ends at.
 */
void iop_enter(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->op_size, level = in->imm2 & 31;
    uint64_t alloc = in->imm & 0xffff, sp = c->st.gpr[X86_RSP], bp = c->st.gpr[X86_RBP];
    uint64_t frame = sp - size;

    for (unsigned i = 0; i <= level; i++)
        slot_probe(c, sp - (i + 1) * size, size);
    for (unsigned i = 1; i < level; i++)
        stack_peek(c, bp - i * size, size);
    slot_probe(c, sp - (level + 1) * size - alloc, 1);

    mem_st(c, slot_probe(c, frame, size), size, bp & size_mask(size));
    for (unsigned i = 1; i < level; i++)
        mem_st(c, slot_probe(c, frame - i * size, size), size, stack_peek(c, bp - i * size, size));
    if (level)
        mem_st(c, slot_probe(c, frame - level * size, size), size, frame & size_mask(size));
    gpr_set(c, X86_RBP, size, frame);
    sp_set(c, frame - level * size - alloc);
}

void iop_leave(struct soft_cpu *c, const struct insn *in)
{
    uint64_t bp = c->st.gpr[X86_RBP], val = stack_peek(c, bp, in->op_size);

    sp_set(c, bp + in->op_size);
    gpr_set(c, X86_RBP, in->op_size, val);
}
