/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Near transfers of control; far ones go to the system half. */
#include "engine/soft/interp.h"

/* The target, checked: canonical in 64-bit mode, within CS otherwise. */
static uint64_t branch_check(struct soft_cpu *c, const struct insn *in, uint64_t target)
{
    target &= size_mask(in->op_size);
    if (c->mode == INSN_64) {
        if ((uint64_t)((int64_t)(target << 16) >> 16) != target)
            soft_raise_err(c, X86_GP, 0);
    } else if (target > c->st.seg[X86_CS].limit) {
        soft_raise_err(c, X86_GP, 0);
    }
    return target;
}

static uint64_t branch_rel(struct soft_cpu *c, const struct insn *in)
{
    return branch_check(c, in, c->next_rip + in->imm);
}

/* Target of JMP or CALL, direct or indirect. */
static uint64_t branch_target(struct soft_cpu *c, const struct insn *in)
{
    if (in->opnd[0].kind == OPND_REL)
        return branch_rel(c, in);
    return branch_check(c, in, opnd_load(c, in, 0));
}

void iop_jmp(struct soft_cpu *c, const struct insn *in)
{
    if (in->flags & INSN_FAR)
        interp_far_jmp(c, in);
    else
        c->next_rip = branch_target(c, in);
}

/* What pushing would raise: it comes before what the target does, as on AMD's processors. */
static void push_probe(struct soft_cpu *c, unsigned size)
{
    uint64_t sp = (c->st.gpr[X86_RSP] - size) & size_mask(stack_addr_size(c));

    mem_probe(c, seg_linear(c, X86_SS, sp, size, ACC_WRITE), size, ACC_WRITE);
}

void iop_call(struct soft_cpu *c, const struct insn *in)
{
    uint64_t target;

    if (in->flags & INSN_FAR) {
        interp_far_call(c, in);
        return;
    }
    target = in->opnd[0].kind == OPND_REL ? c->next_rip + in->imm : opnd_load(c, in, 0);
    push_probe(c, in->op_size);
    target = branch_check(c, in, target);
    stack_push(c, in->op_size, c->next_rip & size_mask(in->op_size));
    c->next_rip = target;
}

void iop_ret(struct soft_cpu *c, const struct insn *in)
{
    uint64_t target, sp = c->st.gpr[X86_RSP];

    if (in->flags & INSN_FAR) {
        interp_far_ret(c, in);
        return;
    }
    target = branch_check(c, in, stack_peek(c, sp, in->op_size));
    sp += in->op_size + (in->nopnd ? in->imm & 0xffff : 0);
    gpr_set(c, X86_RSP, stack_addr_size(c), sp);
    c->next_rip = target;
}

#define COND_JUMP(name, cc)                                                                        \
    void iop_J##name(struct soft_cpu *c, const struct insn *in)                                    \
    {                                                                                              \
        if (cond_true(c->st.rflags, cc))                                                           \
            c->next_rip = branch_rel(c, in);                                                       \
    }
FOR_EACH_COND(COND_JUMP)

/* JCXZ, JECXZ, JRCXZ: the address size chooses. */
void iop_jcxz(struct soft_cpu *c, const struct insn *in)
{
    if (gpr_get(c, X86_RCX, in->addr_size) == 0)
        c->next_rip = branch_rel(c, in);
}

static void loop_if(struct soft_cpu *c, const struct insn *in, bool cond)
{
    uint64_t count = (c->st.gpr[X86_RCX] - 1) & size_mask(in->addr_size);

    if (count && cond)
        c->next_rip = branch_rel(c, in);
    gpr_set(c, X86_RCX, in->addr_size, count);
}

void iop_loop(struct soft_cpu *c, const struct insn *in)
{
    loop_if(c, in, true);
}

void iop_loope(struct soft_cpu *c, const struct insn *in)
{
    loop_if(c, in, (c->st.rflags & X86_ZF) != 0);
}

void iop_loopne(struct soft_cpu *c, const struct insn *in)
{
    loop_if(c, in, !(c->st.rflags & X86_ZF));
}

void iop_bound(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->opnd[0].size;
    gva_t va = opnd_va(c, in, 2 * size, ACC_READ);
    int64_t index = (int64_t)sign_extend(opnd_load(c, in, 0), size);
    int64_t lower = (int64_t)sign_extend(mem_ld(c, va, size), size);
    int64_t upper = (int64_t)sign_extend(mem_ld(c, va + size, size), size);

    if (index < lower || index > upper)
        soft_raise(c, X86_BR);
}

void iop_ud(struct soft_cpu *c, const struct insn *in)
{
    soft_raise(c, X86_UD);
}
