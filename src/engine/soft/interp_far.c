/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Far CALL, JMP and RET, call gates, and the half of returns that IRET shares: SDM volume 2; volume 3, 5.8. */
#include "engine/soft/interp_sys.h"

void code_target_check(struct soft_cpu *c, uint64_t d, uint64_t off, uint32_t ext)
{
    bool ok = cpu_long(c) && desc_long(d) ? canonical(off) : off <= desc_limit(d);

    if (unlikely(!ok))
        soft_raise_err(c, X86_GP, ext);
}

/* ---- Returns ------------------------------------------------------------ */

void ret_check_code(struct soft_cpu *c, struct ret_target *t)
{
    uint64_t d;
    bool bad;

    t->cpl = t->cs & 3u;
    if (unlikely(sel_null(t->cs)))
        soft_raise_err(c, X86_GP, 0);
    d = desc_read(c, t->cs, X86_GP, 0);
    bad = !desc_is_code(d) || t->cpl < c->st.cpl ||
          (desc_conforming(d) ? desc_dpl(d) > t->cpl : desc_dpl(d) != t->cpl) ||
          (cpu_long(c) && (d >> 53 & 3) == 3);
    if (unlikely(bad))
        soft_raise_err(c, X86_GP, sel_error(t->cs, 0));
    if (unlikely(!desc_present(d)))
        soft_raise_err(c, X86_NP, sel_error(t->cs, 0));
    t->cs_desc = desc_touch(c, t->cs, d);
}

void ret_check_stack(struct soft_cpu *c, struct ret_target *t)
{
    t->ss_desc = 0;
    if (likely(!sel_null(t->ss))) {
        t->ss_desc = desc_read_stack(c, t->ss, t->cpl, X86_GP, 0);
        return;
    }
    if (!cpu_long(c) || !desc_long(t->cs_desc) || t->cpl == 3 || (t->ss & 3u) != t->cpl)
        soft_raise_err(c, X86_GP, 0);
}

static void drop_segments(struct soft_cpu *c, unsigned cpl)
{
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};

    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct x86_seg *s = &c->st.seg[data[i]];

        if (s->attr & X86_ATTR_UNUSABLE)
            continue;
        if ((s->attr & (SEG_CODE | SEG_CE)) != (SEG_CODE | SEG_CE) && attr_dpl(s->attr) < cpl) {
            s->sel = 0;
            s->attr |= X86_ATTR_UNUSABLE; /* FS and GS keep their base in 64-bit mode */
        }
    }
}

void ret_load(struct soft_cpu *c, const struct ret_target *t, bool stack)
{
    struct x86_state *st = &c->st;
    bool outer = t->cpl > st->cpl;

    seg_fill(&st->seg[X86_CS], t->cs, t->cs_desc);
    c->next_rip = t->rip;
    if (!stack)
        return;
    if (t->ss_desc)
        seg_fill(&st->seg[X86_SS], t->ss, t->ss_desc);
    else
        seg_null(&st->seg[X86_SS], t->ss, t->cpl);
    if (likely(cpu_long(c) && desc_long(t->cs_desc)))
        st->gpr[X86_RSP] = t->rsp;
    else
        gpr_set(c, X86_RSP, st->seg[X86_SS].attr & X86_ATTR_DB ? 4 : 2, t->rsp);
    if (outer)
        drop_segments(c, t->cpl);
}

static void ret_flat(struct soft_cpu *c, struct frame *f, uint64_t rip, uint16_t cs)
{
    bool v86 = cpu_v86(c);

    if (rip > (v86 ? 0xffffu : c->st.seg[X86_CS].limit))
        soft_raise_err(c, X86_GP, 0);
    frame_commit(c, f);
    if (v86)
        seg_v86(&c->st.seg[X86_CS], cs);
    else
        seg_real(&c->st.seg[X86_CS], cs);
    c->next_rip = rip;
}

static void add_sp(struct soft_cpu *c, unsigned bytes)
{
    struct frame f = frame_present(c, 0);

    f.sp = (f.sp + bytes) & f.mask;
    frame_commit(c, &f);
}

void interp_far_ret(struct soft_cpu *c, const struct insn *in)
{
    unsigned release = in->nopnd && in->opnd[0].kind == OPND_IMM ? in->imm & 0xffff : 0;
    struct frame f = frame_present(c, 0);
    struct ret_target t = {0};
    bool outer;

    t.rip = frame_pop(c, &f, in->op_size);
    t.cs = (uint16_t)frame_pop(c, &f, in->op_size);
    f.sp = (f.sp + release) & f.mask;
    if (cpu_real(c) || cpu_v86(c)) {
        ret_flat(c, &f, t.rip, t.cs);
        return;
    }
    ret_check_code(c, &t);
    outer = t.cpl > c->st.cpl;
    if (outer) {
        t.rsp = frame_pop(c, &f, in->op_size);
        t.ss = (uint16_t)frame_pop(c, &f, in->op_size);
        ret_check_stack(c, &t);
    }
    code_target_check(c, t.cs_desc, t.rip, 0);
    if (!outer)
        frame_commit(c, &f);
    ret_load(c, &t, outer);
    soft_mode_changed(c);
    if (outer)
        add_sp(c, release);
}

/* ---- Calls and jumps ---------------------------------------------------- */

struct transfer {
    const struct insn *in;
    struct far_ptr to;
    bool call;
};

/* Push CS and the return address and store SP; nothing after it may fault. */
static void push_return(struct soft_cpu *c, unsigned size)
{
    struct frame f = frame_present(c, 0);

    frame_push(c, &f, size, c->st.seg[X86_CS].sel);
    frame_push(c, &f, size, c->next_rip);
    frame_commit(c, &f);
}

static void load_code(struct soft_cpu *c, uint16_t sel, uint64_t d, unsigned cpl, uint64_t rip)
{
    seg_fill(&c->st.seg[X86_CS], (uint16_t)((sel & ~3u) | cpl), d);
    c->next_rip = rip;
    soft_mode_changed(c);
}

static void far_code(struct soft_cpu *c, const struct transfer *t, uint64_t d)
{
    unsigned cpl = c->st.cpl, dpl = desc_dpl(d);
    uint16_t sel = t->to.sel;
    bool bad = desc_conforming(d) ? dpl > cpl : dpl != cpl || (sel & 3u) > cpl;

    if (bad || (cpu_long(c) && (d >> 53 & 3) == 3))
        soft_raise_err(c, X86_GP, sel_error(sel, 0));
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, sel_error(sel, 0));
    code_target_check(c, d, t->to.off, 0);
    d = desc_touch(c, sel, d);
    if (t->call)
        push_return(c, t->in->op_size);
    load_code(c, sel, d, cpl, t->to.off);
}

/* A call gate read: where it leads. */
struct gate {
    uint64_t off, cs_desc;
    unsigned size, params;
    uint16_t cs;
};

static struct gate gate_read(struct soft_cpu *c, const struct transfer *t, uint64_t d)
{
    uint32_t error = sel_error(t->to.sel, 0);
    struct gate g = {.cs = (uint16_t)(d >> 16), .off = d & 0xffff, .size = 2};

    if (desc_dpl(d) < c->st.cpl || desc_dpl(d) < (t->to.sel & 3u))
        soft_raise_err(c, X86_GP, error);
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, error);
    if (desc_type(d) == DESC_CALL32) {
        g.off |= d >> 32 & 0xffff0000;
        g.size = 4;
    }
    if (cpu_long(c)) {
        uint64_t high = desc_read_high(c, t->to.sel, X86_GP, 0);

        if (high >> 40 & DESC_TYPE_MASK)
            soft_raise_err(c, X86_GP, error);
        g.off |= high << 32;
        g.size = 8;
    } else {
        g.params = d >> 32 & 31;
    }
    if (sel_null(g.cs))
        soft_raise_err(c, X86_GP, 0);
    g.cs_desc = desc_read(c, g.cs, X86_GP, 0);
    if (!desc_is_code(g.cs_desc) || desc_dpl(g.cs_desc) > c->st.cpl ||
        (cpu_long(c) && (g.cs_desc >> 53 & 3) != 1))
        soft_raise_err(c, X86_GP, sel_error(g.cs, 0));
    if (!desc_present(g.cs_desc))
        soft_raise_err(c, X86_NP, sel_error(g.cs, 0));
    g.cs_desc = desc_touch(c, g.cs, g.cs_desc);
    return g;
}

static void copy_params(struct soft_cpu *c, struct frame *to, const struct gate *g)
{
    struct frame from = frame_present(c, 0);

    for (unsigned i = g->params; i-- > 0;) {
        uint64_t off = (from.sp + i * g->size) & from.mask;

        frame_push(c, to, g->size,
                   mem_ld(c, frame_linear(c, &from, off, g->size, ACC_READ), g->size));
    }
}

/* CALL through a gate to a more privileged level: a new stack from the TSS. */
static void gate_inner(struct soft_cpu *c, const struct gate *g)
{
    unsigned cpl = desc_dpl(g->cs_desc);
    struct far_ptr sp = tss_stack(c, cpl, 0);
    struct frame f = {.sp = sp.off, .mask = ~0ull, .sys = true};
    struct x86_seg ss = {0};

    if (cpu_long(c)) {
        seg_null(&ss, (uint16_t)cpl, cpl);
    } else {
        if (sel_null(sp.sel))
            soft_raise_err(c, X86_TS, 0);
        seg_fill(&ss, sp.sel, desc_read_stack(c, sp.sel, cpl, X86_TS, 0));
        f.ss = &ss;
        f.mask = size_mask(ss.attr & X86_ATTR_DB ? 4 : 2);
        f.error = sel_error(sp.sel, 0);
    }
    code_target_check(c, g->cs_desc, g->off, 0);
    frame_push(c, &f, g->size, c->st.seg[X86_SS].sel);
    frame_push(c, &f, g->size, c->st.gpr[X86_RSP]);
    copy_params(c, &f, g);
    frame_push(c, &f, g->size, c->st.seg[X86_CS].sel);
    frame_push(c, &f, g->size, c->next_rip);

    c->st.seg[X86_SS] = ss;
    frame_commit(c, &f);
    load_code(c, g->cs, g->cs_desc, cpl, g->off);
}

static void far_gate(struct soft_cpu *c, const struct transfer *t, uint64_t d)
{
    struct gate g = gate_read(c, t, d);
    bool inner = !desc_conforming(g.cs_desc) && desc_dpl(g.cs_desc) < c->st.cpl;

    if (inner && !t->call)
        soft_raise_err(c, X86_GP, sel_error(g.cs, 0));
    if (inner) {
        gate_inner(c, &g);
        return;
    }
    code_target_check(c, g.cs_desc, g.off, 0);
    if (t->call)
        push_return(c, g.size);
    load_code(c, g.cs, g.cs_desc, c->st.cpl, g.off);
}

static void far_task(struct soft_cpu *c, const struct transfer *t, uint64_t d)
{
    uint32_t error = sel_error(t->to.sel, 0);
    uint16_t tss = t->to.sel;

    if (desc_dpl(d) < c->st.cpl || desc_dpl(d) < (t->to.sel & 3u))
        soft_raise_err(c, X86_GP, error);
    if (desc_type(d) == DESC_TASK_GATE) {
        if (!desc_present(d))
            soft_raise_err(c, X86_NP, error);
        tss = (uint16_t)(d >> 16);
    }
    task_switch(c, tss, t->call ? TASK_CALL : TASK_JMP, c->next_rip, NULL);
}

static void far_flat(struct soft_cpu *c, const struct transfer *t)
{
    struct x86_seg *cs = &c->st.seg[X86_CS];

    if (t->to.off > (cpu_v86(c) ? 0xffffu : cs->limit))
        soft_raise_err(c, X86_GP, 0);
    if (t->call)
        push_return(c, t->in->op_size);
    if (cpu_v86(c))
        seg_v86(cs, t->to.sel);
    else
        seg_real(cs, t->to.sel);
    c->next_rip = t->to.off;
}

static void far_transfer(struct soft_cpu *c, const struct insn *in, bool call)
{
    struct transfer t = {.in = in, .call = call};
    uint64_t d;

    if (in->opnd[0].kind == OPND_FAR) {
        t.to.off = in->op_size == 2 ? in->imm & 0xffff : (uint32_t)in->imm;
        t.to.sel = (uint16_t)in->imm2;
    } else {
        t.to = far_operand(c, in, in->op_size);
    }
    if (cpu_real(c) || cpu_v86(c)) {
        far_flat(c, &t);
        return;
    }
    if (sel_null(t.to.sel))
        soft_raise_err(c, X86_GP, 0);
    d = desc_read(c, t.to.sel, X86_GP, 0);
    if (desc_is_code(d))
        far_code(c, &t, d);
    else if (desc_type(d) == DESC_CALL32 || (desc_type(d) == DESC_CALL16 && !cpu_long(c)))
        far_gate(c, &t, d);
    else if (!cpu_long(c) && (desc_type(d) == DESC_TASK_GATE || desc_type(d) == DESC_TSS16 ||
                              desc_type(d) == DESC_TSS32))
        far_task(c, &t, d);
    else
        soft_raise_err(c, X86_GP, sel_error(t.to.sel, 0));
}

void interp_far_call(struct soft_cpu *c, const struct insn *in)
{
    far_transfer(c, in, true);
}

void interp_far_jmp(struct soft_cpu *c, const struct insn *in)
{
    far_transfer(c, in, false);
}
