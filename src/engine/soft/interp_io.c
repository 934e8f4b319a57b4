/* SPDX-License-Identifier: GPL-2.0-or-later */
/* IN, OUT, INS and OUTS: SDM volume 1 chapter 19 for the permission checks. */
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp_sys.h"

#define TSS_IOMAP 0x66

/* REP forms go back to the run loop after this many elements. */
#define IO_BURST 1024

static bool iomap_allows(struct soft_cpu *c, unsigned port, unsigned size)
{
    const struct x86_seg *tr = &c->st.tr;
    unsigned type = tr->attr & DESC_TYPE_MASK, at, bits;

    if ((tr->attr & X86_ATTR_UNUSABLE) || type < DESC_TSS32 || tr->limit < TSS_IOMAP + 1)
        return false;
    at = (unsigned)sys_ld(c, tr->base + TSS_IOMAP, 2) + port / 8;
    if (at + 1 > tr->limit)
        return false;
    bits = (unsigned)sys_ld(c, tr->base + at, 2) >> (port & 7);
    return !(bits & ((1u << size) - 1));
}

static void io_check(struct soft_cpu *c, unsigned port, unsigned size)
{
    if ((c->st.cpl > cpu_iopl(c) || cpu_v86(c)) && !cpu_real(c) && !iomap_allows(c, port, size))
        soft_raise_err(c, X86_GP, 0);
    if (unlikely(c->st.dr[7] & DR7_ENABLES))
        debug_note_io(c, port, size);
}

static uint64_t port_in(struct soft_cpu *c, unsigned port, unsigned size)
{
    soft_fpu_park(c);
    c->counters.pio++;
    return vcpu_pio_read(c->vcpu, (uint16_t)port, size);
}

static void port_out(struct soft_cpu *c, unsigned port, unsigned size, uint64_t val)
{
    soft_fpu_park(c);
    c->counters.pio++;
    vcpu_pio_write(c->vcpu, (uint16_t)port, size, val);
}

static unsigned port_operand(const struct soft_cpu *c, const struct insn *in, unsigned n)
{
    if (in->opnd[n].kind == OPND_IMM)
        return in->imm & 0xff;
    return c->st.gpr[X86_RDX] & 0xffff;
}

void op_in(struct soft_cpu *c, const struct insn *in)
{
    unsigned port = port_operand(c, in, 1), size = in->opnd[0].size;

    io_check(c, port, size);
    gpr_set(c, X86_RAX, size, port_in(c, port, size));
}

void op_out(struct soft_cpu *c, const struct insn *in)
{
    unsigned port = port_operand(c, in, 0), size = in->opnd[1].size;

    io_check(c, port, size);
    port_out(c, port, size, gpr_get(c, X86_RAX, size));
}

/* ---- Strings ------------------------------------------------------------ */

static unsigned string_size(unsigned op)
{
    switch (op) {
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_OUTSB:
        return 1;
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_OUTSW:
        return 2;
    default:
        return 4;
    }
}

static void ins_one(struct soft_cpu *c, const struct insn *in, unsigned size)
{
    unsigned port = c->st.gpr[X86_RDX] & 0xffff;
    uint64_t off = gpr_get(c, X86_RDI, in->addr_size);
    gva_t va = seg_linear(c, X86_ES, off, size, ACC_WRITE);

    /* reading a port may have effects: nothing may fault after it */
    mem_probe(c, va, size, ACC_WRITE);
    mem_st(c, va, size, port_in(c, port, size));
}

static void outs_one(struct soft_cpu *c, const struct insn *in, unsigned size)
{
    unsigned port = c->st.gpr[X86_RDX] & 0xffff;
    uint64_t off = gpr_get(c, X86_RSI, in->addr_size);
    gva_t va = seg_linear(c, (enum x86_sreg)in->mem_seg, off, size, ACC_READ);

    port_out(c, port, size, mem_ld(c, va, size));
}

/*
 * Each element is complete, registers included, before the next: a fault or
 * an event in between restarts the instruction for the rest.
 */
static void string_io(struct soft_cpu *c, const struct insn *in,
                      void (*one)(struct soft_cpu *, const struct insn *, unsigned), unsigned index)
{
    unsigned size = string_size(in->op), as = in->addr_size, burst = IO_BURST;
    int64_t step = c->st.rflags & X86_DF ? -(int64_t)size : (int64_t)size;
    bool rep = in->flags & (INSN_REP | INSN_REPNE);
    uint64_t count = rep ? gpr_get(c, X86_RCX, as) : 1;

    if (!count)
        return;
    io_check(c, c->st.gpr[X86_RDX] & 0xffff, size);
    for (;;) {
        one(c, in, size);
        gpr_set(c, index, as, gpr_get(c, index, as) + (uint64_t)step);
        if (!rep)
            return;
        gpr_set(c, X86_RCX, as, --count);
        if (!count)
            return;
        if (!--burst || (c->st.rflags & X86_TF) || c->db_hits ||
            atomic_load_explicit(&c->exit_request, memory_order_relaxed))
            break;
    }
    c->next_rip = c->st.rip;
}

void op_ins(struct soft_cpu *c, const struct insn *in)
{
    string_io(c, in, ins_one, X86_RDI);
}

void op_outs(struct soft_cpu *c, const struct insn *in)
{
    string_io(c, in, outs_one, X86_RSI);
}
