/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Interrupt and exception delivery and IRET: SDM volume 3 chapter 6 and volume 2, INT n and IRET. */
#include <Zydis/Mnemonic.h>

#include "engine/soft/host_mem.h"
#include "engine/soft/interp_sys.h"

/* Exceptions that are traps or aborts: their frames do not get RF set (SDM volume 3, 17.3.1.1). */
#define NOT_FAULTS                                                                                 \
    (1u << X86_DB | 1u << X86_NMI | 1u << X86_BP | 1u << X86_OF_EXC | 1u << X86_DF_EXC |           \
     1u << X86_MC)

static uint64_t pushed_flags(const struct soft_cpu *c, const struct event *ev)
{
    uint64_t fl = c->st.rflags;

    if (ev->kind == INT_EXC && ev->vector < 32 && !(NOT_FAULTS >> ev->vector & 1))
        fl |= X86_RF;
    return fl;
}

static void mask_flags(struct soft_cpu *c, bool interrupt_gate)
{
    c->st.rflags &= ~(uint64_t)(X86_TF | X86_NT | X86_RF | X86_VM | (interrupt_gate ? X86_IF : 0));
}

static void event_real(struct soft_cpu *c, const struct event *ev)
{
    struct frame f = frame_present(c, 0);
    uint64_t entry;

    if (ev->vector * 4 + 3 > c->st.idtr.limit)
        soft_raise_err(c, X86_GP, ev->vector * 8 + 2 + ev->ext);
    entry = sys_ld(c, (uint32_t)(c->st.idtr.base + ev->vector * 4), 4);
    frame_push(c, &f, 2, pushed_flags(c, ev) & 0xffff);
    frame_push(c, &f, 2, c->st.seg[X86_CS].sel);
    frame_push(c, &f, 2, ev->ret & 0xffff);

    frame_commit(c, &f);
    seg_real(&c->st.seg[X86_CS], (uint16_t)(entry >> 16));
    c->st.rflags &= ~(uint64_t)(X86_IF | X86_TF | X86_AC | X86_RF);
    c->next_rip = entry & 0xffff;
    soft_mode_changed(c);
}

/* An IDT gate's privilege and presence. */
static void gate_check(struct soft_cpu *c, const struct event *ev, uint64_t gate)
{
    uint32_t error = ev->vector * 8 + 2 + ev->ext;

    if (ev->kind == INT_SOFT && desc_dpl(gate) < c->st.cpl)
        soft_raise_err(c, X86_GP, error);
    if (unlikely(!desc_present(gate)))
        soft_raise_err(c, X86_NP, error);
}

/* The handler's code segment. */
static uint64_t gate_code(struct soft_cpu *c, const struct event *ev, uint16_t sel)
{
    uint64_t d;

    if (unlikely(sel_null(sel)))
        soft_raise_err(c, X86_GP, ev->ext);
    d = desc_read(c, sel, X86_GP, ev->ext);
    if (unlikely(!desc_is_code(d) || desc_dpl(d) > c->st.cpl))
        soft_raise_err(c, X86_GP, sel_error(sel, ev->ext));
    if (unlikely(cpu_long(c) && (d >> 53 & 3) != 1)) /* L without D */
        soft_raise_err(c, X86_GP, sel_error(sel, ev->ext));
    if (unlikely(!desc_present(d)))
        soft_raise_err(c, X86_NP, sel_error(sel, ev->ext));
    return desc_touch(c, sel, d);
}

/* ---- Long mode ---------------------------------------------------------- */

static uint64_t ist_stack(struct soft_cpu *c, unsigned ist, uint32_t ext)
{
    unsigned off = 0x24 + (ist - 1) * 8;

    if (off + 7 > c->st.tr.limit)
        soft_raise_err(c, X86_TS, sel_error(c->st.tr.sel, ext));
    return sys_ld(c, c->st.tr.base + off, 8);
}

/* Write the frame below `top`, lowest word first in w[]; on the present stack in one piece where possible. */
static void long_push(struct soft_cpu *c, uint64_t top, const uint64_t *w, unsigned n, bool sys,
                      uint32_t ext)
{
    uint64_t sp = top - 8 * n;
    uint8_t *host;

    if (unlikely(!canonical(sp) || !canonical(top - 1)))
        soft_raise_err(c, X86_SS_EXC, ext);
    if (sys) {
        for (unsigned i = n; i-- > 0;)
            sys_st(c, sp + 8 * i, 8, w[i]);
        return;
    }
    host = mem_host(c, sp, 8 * n, ACC_WRITE);
    for (unsigned i = n; i-- > 0;) {
        if (likely(host))
            host_store(host + 8 * i, 8, w[i]);
        else
            mem_st(c, sp + 8 * i, 8, w[i]);
    }
}

static void event_long(struct soft_cpu *c, const struct event *ev)
{
    struct x86_state *st = &c->st;
    gva_t at = st->idtr.base + ev->vector * 16;
    uint64_t lo, cs, target, rsp, w[6];
    unsigned type, ist, cpl, n = 0;
    uint16_t sel;

    if (unlikely(ev->vector * 16 + 15 > st->idtr.limit))
        soft_raise_err(c, X86_GP, ev->vector * 8 + 2 + ev->ext);
    lo = sys_ld(c, at, 8);
    type = desc_type(lo);
    if (unlikely(type != DESC_INT32 && type != DESC_TRAP32))
        soft_raise_err(c, X86_GP, ev->vector * 8 + 2 + ev->ext);
    gate_check(c, ev, lo);
    target = (lo & 0xffff) | (lo >> 32 & 0xffff0000) | sys_ld(c, at + 8, 8) << 32;
    sel = (uint16_t)(lo >> 16);
    cs = gate_code(c, ev, sel);
    cpl = desc_conforming(cs) ? st->cpl : desc_dpl(cs);
    ist = (unsigned)(lo >> 32) & 7;

    if (ist)
        rsp = ist_stack(c, ist, ev->ext);
    else if (cpl < st->cpl)
        rsp = tss_stack(c, cpl, ev->ext).off;
    else
        rsp = st->gpr[X86_RSP];
    if (unlikely(!canonical(target)))
        soft_raise_err(c, X86_GP, ev->ext);
    rsp &= ~15ull;
    if (ev->has_error)
        w[n++] = ev->error;
    w[n++] = ev->ret;
    w[n++] = st->seg[X86_CS].sel;
    w[n++] = pushed_flags(c, ev);
    w[n++] = st->gpr[X86_RSP];
    w[n++] = st->seg[X86_SS].sel;
    long_push(c, rsp, w, n, cpl < st->cpl, ev->ext);

    st->gpr[X86_RSP] = rsp - 8 * n;
    if (cpl < st->cpl)
        seg_null(&st->seg[X86_SS], (uint16_t)cpl, cpl);
    seg_fill(&st->seg[X86_CS], (uint16_t)((sel & ~3u) | cpl), cs);
    mask_flags(c, type == DESC_INT32);
    c->next_rip = target;
    soft_mode_changed(c);
}

/* ---- Protected mode, 16 and 32 bits ------------------------------------- */

/* From virtual-8086 mode: the data segments are saved and become null. */
static void push_v86(struct soft_cpu *c, struct frame *f, unsigned size)
{
    static const uint8_t order[] = {X86_GS, X86_FS, X86_DS, X86_ES};

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        frame_push(c, f, size, c->st.seg[order[i]].sel);
}

struct gate_target {
    uint64_t cs_desc, target;
    unsigned cpl, size;
    uint16_t cs;
    bool interrupt;
};

static void push_return(struct soft_cpu *c, struct frame *f, const struct event *ev, unsigned size)
{
    frame_push(c, f, size, pushed_flags(c, ev));
    frame_push(c, f, size, c->st.seg[X86_CS].sel);
    frame_push(c, f, size, ev->ret);
    if (ev->has_error)
        frame_push(c, f, size, ev->error);
}

static void legacy_inner(struct soft_cpu *c, const struct event *ev, const struct gate_target *g)
{
    struct x86_state *st = &c->st;
    struct far_ptr sp = tss_stack(c, g->cpl, ev->ext);
    struct x86_seg ss;
    struct frame f = {.ss = &ss, .sp = sp.off, .sys = true};
    bool v86 = cpu_v86(c);
    uint64_t d;

    if (sel_null(sp.sel))
        soft_raise_err(c, X86_TS, ev->ext);
    d = desc_read_stack(c, sp.sel, g->cpl, X86_TS, ev->ext);
    seg_fill(&ss, sp.sel, d);
    f.mask = size_mask(ss.attr & X86_ATTR_DB ? 4 : 2);
    f.error = sel_error(sp.sel, ev->ext);
    code_target_check(c, g->cs_desc, g->target, ev->ext);
    if (v86)
        push_v86(c, &f, g->size);
    frame_push(c, &f, g->size, st->seg[X86_SS].sel);
    frame_push(c, &f, g->size, st->gpr[X86_RSP]);
    push_return(c, &f, ev, g->size);

    if (v86)
        for (unsigned s = 0; s < X86_NSREGS; s++)
            if (s != X86_CS && s != X86_SS)
                seg_null(&st->seg[s], 0, 0);
    seg_fill(&st->seg[X86_SS], sp.sel, d);
    frame_commit(c, &f);
}

static void legacy_same(struct soft_cpu *c, const struct event *ev, const struct gate_target *g)
{
    struct frame f = frame_present(c, ev->ext);

    code_target_check(c, g->cs_desc, g->target, ev->ext);
    push_return(c, &f, ev, g->size);
    frame_commit(c, &f);
}

static void event_legacy(struct soft_cpu *c, const struct event *ev)
{
    uint32_t error = ev->vector * 8 + 2 + ev->ext;
    struct gate_target g;
    uint64_t gate;
    unsigned type;

    if (ev->vector * 8 + 7 > c->st.idtr.limit)
        soft_raise_err(c, X86_GP, error);
    gate = sys_ld(c, (uint32_t)(c->st.idtr.base + ev->vector * 8), 8);
    type = desc_type(gate);
    if (type != DESC_TASK_GATE && type != DESC_INT16 && type != DESC_TRAP16 && type != DESC_INT32 &&
        type != DESC_TRAP32)
        soft_raise_err(c, X86_GP, error);
    gate_check(c, ev, gate);
    g.cs = (uint16_t)(gate >> 16);
    if (type == DESC_TASK_GATE) {
        task_switch(c, g.cs, TASK_INT, ev->ret, ev);
        return;
    }
    g.size = type >= DESC_INT32 ? 4 : 2;
    g.target = gate & 0xffff;
    if (g.size == 4)
        g.target |= gate >> 32 & 0xffff0000;
    g.interrupt = type == DESC_INT16 || type == DESC_INT32;
    g.cs_desc = gate_code(c, ev, g.cs);
    g.cpl = desc_conforming(g.cs_desc) ? c->st.cpl : desc_dpl(g.cs_desc);
    if (cpu_v86(c) && g.cpl != 0)
        soft_raise_err(c, X86_GP, sel_error(g.cs, ev->ext));
    if (g.cpl < c->st.cpl)
        legacy_inner(c, ev, &g);
    else
        legacy_same(c, ev, &g);
    seg_fill(&c->st.seg[X86_CS], (uint16_t)((g.cs & ~3u) | g.cpl), g.cs_desc);
    mask_flags(c, g.interrupt);
    c->next_rip = g.target;
    soft_mode_changed(c);
}

void event_deliver(struct soft_cpu *c, const struct event *ev)
{
    if (likely(cpu_long(c)))
        event_long(c, ev);
    else if (cpu_real(c))
        event_real(c, ev);
    else
        event_legacy(c, ev);
    if (ev->kind == INT_EXC && ev->vector == X86_DB)
        c->st.dr[7] &= ~(uint64_t)DR7_GD; /* so that the handler can use the registers */
}

void interp_deliver(struct soft_cpu *c, unsigned vector, enum int_kind kind, bool has_error,
                    uint32_t error)
{
    struct event ev = {
        .vector = vector,
        .kind = kind,
        .has_error = has_error,
        .error = error,
        .ret = c->st.rip,
        .ext = kind != INT_SOFT,
    };

    event_deliver(c, &ev);
    c->st.rip = c->next_rip;
    c->db_hits = 0; /* no breakpoints on the frame */
}

/* ---- INT n and relatives ------------------------------------------------ */

static void soft_interrupt(struct soft_cpu *c, unsigned vector)
{
    struct event ev = {.vector = vector, .kind = INT_SOFT, .ret = c->next_rip};

    event_deliver(c, &ev);
}

void op_int(struct soft_cpu *c, const struct insn *in)
{
    if (vme_int(c, in->imm & 0xff))
        return;
    if (cpu_v86(c) && cpu_iopl(c) < 3)
        soft_raise_err(c, X86_GP, 0);
    soft_interrupt(c, in->imm & 0xff);
}

void op_int3(struct soft_cpu *c, const struct insn *in)
{
    soft_interrupt(c, X86_BP);
}

void op_into(struct soft_cpu *c, const struct insn *in)
{
    if (c->st.rflags & X86_OF)
        soft_interrupt(c, X86_OF_EXC);
}

/* Like a debug exception from hardware: the gate's DPL does not matter, and traps that waited come with it. */
void op_int1(struct soft_cpu *c, const struct insn *in)
{
    struct event ev = {.vector = X86_DB, .kind = INT_EXC, .ret = c->next_rip, .ext = 1};
    uint8_t hits = c->db_hits;

    event_deliver(c, &ev);
    c->st.dr[6] = (c->st.dr[6] & ~(uint64_t)DR6_HITS) | hits;
    c->db_hits = 0;
}

/* ---- IRET --------------------------------------------------------------- */

#define IRET_FLAGS (X86_ARITH | X86_TF | X86_DF | X86_NT)

/* EFLAGS as IRET at the present CPL changes them; VM only where the caller allows. */
static uint64_t iret_flags(const struct soft_cpu *c, uint64_t fl, unsigned size)
{
    uint64_t mask = IRET_FLAGS;

    if (size > 2)
        mask |= X86_RF | X86_AC | X86_ID;
    if (cpu_v86(c)) {
        mask |= X86_IF;
    } else {
        if (c->st.cpl <= cpu_iopl(c))
            mask |= X86_IF;
        if (c->st.cpl == 0)
            mask |= X86_IOPL | (size > 2 ? X86_VIF | X86_VIP : 0);
    }
    return (c->st.rflags & ~mask) | (fl & mask) | 2;
}

struct iret_image {
    uint64_t rip, cs, flags, rsp, ss;
};

static void iret_real(struct soft_cpu *c, struct frame *f, const struct iret_image *im,
                      unsigned size)
{
    bool v86 = cpu_v86(c);
    uint64_t fl = vme_active(c) ? vme_flags_in(c, im->flags) : iret_flags(c, im->flags, size);

    if (im->rip > (v86 ? 0xffffu : c->st.seg[X86_CS].limit))
        soft_raise_err(c, X86_GP, 0);
    frame_commit(c, f);
    if (v86)
        seg_v86(&c->st.seg[X86_CS], (uint16_t)im->cs);
    else
        seg_real(&c->st.seg[X86_CS], (uint16_t)im->cs);
    c->st.rflags = fl;
    c->next_rip = im->rip;
}

/* From ring 0 into a virtual-8086 task. */
static void iret_to_v86(struct soft_cpu *c, struct frame *f, const struct iret_image *im)
{
    static const uint8_t order[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    struct x86_state *st = &c->st;
    uint64_t rsp = frame_pop(c, f, 4), ss = frame_pop(c, f, 4);
    uint16_t data[ARRAY_SIZE(order)];

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        data[i] = (uint16_t)frame_pop(c, f, 4);
    if (im->rip > 0xffff)
        soft_raise_err(c, X86_GP, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        seg_v86(&st->seg[order[i]], data[i]);
    seg_v86(&st->seg[X86_CS], (uint16_t)im->cs);
    seg_v86(&st->seg[X86_SS], (uint16_t)ss);
    st->gpr[X86_RSP] = rsp;
    st->rflags = iret_flags(c, im->flags, 4) | X86_VM;
    c->next_rip = im->rip;
}

static void iret_protected(struct soft_cpu *c, struct frame *f, const struct iret_image *im,
                           unsigned size)
{
    struct ret_target t = {.rip = im->rip, .cs = (uint16_t)im->cs};
    bool pops_stack;
    uint64_t fl;

    ret_check_code(c, &t);
    pops_stack = t.cpl > c->st.cpl || c->mode == INSN_64;
    if (pops_stack) {
        t.rsp = im->rsp;
        t.ss = (uint16_t)im->ss;
        if (c->mode != INSN_64) {
            t.rsp = frame_pop(c, f, size);
            t.ss = (uint16_t)frame_pop(c, f, size);
        }
        ret_check_stack(c, &t);
    }
    code_target_check(c, t.cs_desc, t.rip, 0);
    fl = iret_flags(c, im->flags, size);
    if (!pops_stack)
        frame_commit(c, f);
    c->st.rflags = fl;
    ret_load(c, &t, pops_stack);
}

/* The five words of a 64-bit frame, with one look-up of the page when they share one. */
static void iret_read64(struct soft_cpu *c, struct iret_image *im)
{
    uint64_t sp = c->st.gpr[X86_RSP];
    const uint8_t *w;

    if (unlikely(!canonical(sp) || !canonical(sp + 39)))
        soft_raise_err(c, X86_SS_EXC, 0);
    w = mem_host(c, sp, 40, ACC_READ);
    if (likely(w)) {
        *im = (struct iret_image){host_load(w, 8), host_load(w + 8, 8), host_load(w + 16, 8),
                                  host_load(w + 24, 8), host_load(w + 32, 8)};
        return;
    }
    im->rip = mem_ld(c, sp, 8);
    im->cs = mem_ld(c, sp + 8, 8);
    im->flags = mem_ld(c, sp + 16, 8);
    im->rsp = mem_ld(c, sp + 24, 8);
    im->ss = mem_ld(c, sp + 32, 8);
}

static void iret_read(struct soft_cpu *c, struct frame *f, struct iret_image *im, unsigned size)
{
    im->rip = frame_pop(c, f, size);
    im->cs = frame_pop(c, f, size);
    im->flags = frame_pop(c, f, size);
    if (c->mode == INSN_64) {
        im->rsp = frame_pop(c, f, size);
        im->ss = frame_pop(c, f, size);
    }
}

static void iret_task(struct soft_cpu *c)
{
    uint16_t link = (uint16_t)sys_ld(c, c->st.tr.base, 2);

    task_switch(c, link, TASK_IRET, c->next_rip, NULL);
}

void op_iret(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = in->op == ZYDIS_MNEMONIC_IRETQ ? 8 : in->op == ZYDIS_MNEMONIC_IRETD ? 4 : 2;
    struct frame f = frame_present(c, 0);
    uint64_t old = c->st.rflags;
    struct iret_image im;

    if (likely(size == 8 && !(old & X86_NT))) {
        iret_read64(c, &im);
        iret_protected(c, &f, &im, size);
    } else if (cpu_real(c) || cpu_v86(c)) {
        if (cpu_v86(c) && cpu_iopl(c) < 3 && (size > 2 || !vme_active(c)))
            soft_raise_err(c, X86_GP, 0);
        iret_read(c, &f, &im, size);
        iret_real(c, &f, &im, size);
    } else if (old & X86_NT) {
        if (cpu_long(c))
            soft_raise_err(c, X86_GP, 0);
        iret_task(c);
    } else {
        iret_read(c, &f, &im, size);
        if (size == 4 && (im.flags & X86_VM) && c->st.cpl == 0 && !cpu_long(c))
            iret_to_v86(c, &f, &im);
        else
            iret_protected(c, &f, &im, size);
    }
    c->st.nmi_blocked = 0;
    soft_mode_changed(c);
    /* Translated code does not clear RF behind the next instruction; with no breakpoint set it need not be there. */
    if (c->mode == INSN_64 && !(c->st.dr[7] & DR7_ENABLES))
        c->st.rflags &= ~(uint64_t)X86_RF;
    flags_written(c, old);
}
