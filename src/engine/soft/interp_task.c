/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Task switches: SDM volume 3 chapter 7. Never in long mode. */
#include "engine/soft/interp_sys.h"

/* Offsets in the two TSS formats; the GPRs follow `gpr` in register order, segments follow `seg` likewise. */
struct tss_layout {
    uint8_t width; /* bytes of a register slot */
    uint8_t ip, flags, gpr, seg, nseg, ldt;
    uint8_t limit; /* the least a TSS may have */
};

static const struct tss_layout layout_16 = {2, 0x0e, 0x10, 0x12, 0x22, 4, 0x2a, 0x2b};
static const struct tss_layout layout_32 = {4, 0x20, 0x24, 0x28, 0x48, 6, 0x60, 0x67};
#define TSS32_CR3  0x1c
#define TSS32_TRAP 0x64

struct task {
    uint32_t ip, flags, cr3, gpr[8];
    uint16_t seg[X86_NSREGS], ldt;
    bool wide, trap;
};

static const struct tss_layout *layout_of(bool wide)
{
    return wide ? &layout_32 : &layout_16;
}

static bool type_wide(unsigned type)
{
    return type >= DESC_TSS32;
}

static void task_read(struct soft_cpu *c, uint32_t base, bool wide, struct task *t)
{
    const struct tss_layout *l = layout_of(wide);

    t->wide = wide;
    t->ip = (uint32_t)sys_ld(c, base + l->ip, l->width);
    t->flags = (uint32_t)sys_ld(c, base + l->flags, l->width);
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] = (uint32_t)sys_ld(c, base + l->gpr + i * l->width, l->width);
    for (unsigned i = 0; i < X86_NSREGS; i++)
        t->seg[i] = i < l->nseg ? (uint16_t)sys_ld(c, base + l->seg + i * l->width, 2) : 0;
    t->ldt = (uint16_t)sys_ld(c, base + l->ldt, 2);
    t->cr3 = wide ? (uint32_t)sys_ld(c, base + TSS32_CR3, 4) : 0;
    t->trap = wide && (sys_ld(c, base + TSS32_TRAP, 2) & 1);
}

/* The dynamic fields of the outgoing task. */
static void task_save(struct soft_cpu *c, uint64_t ip, uint64_t flags)
{
    const struct tss_layout *l = layout_of(type_wide(c->st.tr.attr & DESC_TYPE_MASK));
    uint32_t base = (uint32_t)c->st.tr.base;

    sys_st(c, base + l->ip, l->width, ip);
    sys_st(c, base + l->flags, l->width, flags);
    for (unsigned i = 0; i < 8; i++)
        sys_st(c, base + l->gpr + i * l->width, l->width, c->st.gpr[i]);
    for (unsigned i = 0; i < l->nseg; i++)
        sys_st(c, base + l->seg + i * l->width, 2, c->st.seg[i].sel);
}

static uint64_t tss_descriptor(struct soft_cpu *c, uint16_t sel, enum task_why why, uint32_t ext)
{
    unsigned bad = why == TASK_IRET ? X86_TS : X86_GP, type;
    uint64_t d;

    if (sel_null(sel) || (sel & 4))
        soft_raise_err(c, bad, sel_error(sel, ext));
    d = desc_read(c, sel, bad, ext);
    type = desc_type(d);
    if (why == TASK_IRET ? type != DESC_TSS16_BUSY && type != DESC_TSS32_BUSY
                         : type != DESC_TSS16 && type != DESC_TSS32)
        soft_raise_err(c, bad, sel_error(sel, ext));
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, sel_error(sel, ext));
    if (desc_limit(d) < layout_of(type_wide(type))->limit)
        soft_raise_err(c, X86_TS, sel_error(sel, ext));
    return d;
}

/* Change the busy bit of a TSS descriptor; the table was written before, so this can't fault. */
static void set_busy(struct soft_cpu *c, uint16_t sel, bool busy)
{
    uint64_t d;

    if (desc_try(c, sel, &d))
        desc_set_byte5(c, sel, busy ? d | DESC_BUSY : d & ~DESC_BUSY);
}

/* Write what is there: later writes won't fault. */
static void table_probe(struct soft_cpu *c, uint16_t sel)
{
    uint64_t d;

    if (desc_try(c, sel, &d))
        desc_set_byte5(c, sel, d);
}

/* Registers of the new task. Segments are selectors only and unusable until checked. */
static void task_load(struct soft_cpu *c, const struct task *t)
{
    struct x86_state *st = &c->st;

    if (t->wide && (st->cr0 & X86_CR0_PG)) {
        st->cr3 = t->cr3;
        tlb_flush_nonglobal(c);
    }
    st->rip = c->next_rip = t->ip;
    st->rflags = (t->flags & 0x3f7fd7u) | 2;
    for (unsigned i = 0; i < 8; i++)
        st->gpr[i] = t->wide ? t->gpr[i] : 0xffff0000u | t->gpr[i];
    for (unsigned i = 0; i < X86_NSREGS; i++) {
        if (st->rflags & X86_VM)
            seg_v86(&st->seg[i], t->seg[i]);
        else
            seg_null(&st->seg[i], t->seg[i], t->seg[X86_CS] & 3u);
    }
    seg_null(&st->ldtr, t->ldt, 0);
    st->dr[7] &= ~0x155ull; /* L0..L3 and LE */
    soft_mode_changed(c);
}

static void check_ldt(struct soft_cpu *c, const struct task *t, uint32_t ext)
{
    uint64_t d;

    if (sel_null(t->ldt))
        return;
    if (t->ldt & 4)
        soft_raise_err(c, X86_TS, sel_error(t->ldt, ext));
    d = desc_read(c, t->ldt, X86_TS, ext);
    if (desc_type(d) != DESC_LDT || !desc_present(d))
        soft_raise_err(c, X86_TS, sel_error(t->ldt, ext));
    seg_fill(&c->st.ldtr, t->ldt, d);
}

static void check_code(struct soft_cpu *c, uint16_t sel, uint32_t ext)
{
    uint64_t d;
    unsigned rpl = sel & 3u;

    if (sel_null(sel))
        soft_raise_err(c, X86_TS, ext);
    d = desc_read(c, sel, X86_TS, ext);
    if (!desc_is_code(d) || (desc_conforming(d) ? desc_dpl(d) > rpl : desc_dpl(d) != rpl))
        soft_raise_err(c, X86_TS, sel_error(sel, ext));
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, sel_error(sel, ext));
    seg_fill(&c->st.seg[X86_CS], sel, desc_touch(c, sel, d));
}

static void check_data(struct soft_cpu *c, enum x86_sreg seg, uint16_t sel, uint32_t ext)
{
    uint64_t d;
    uint32_t attr;

    if (sel_null(sel))
        return;
    d = desc_read(c, sel, X86_TS, ext);
    attr = desc_attr(d);
    if (!(attr & X86_ATTR_S) || (attr & (SEG_CODE | SEG_RW)) == SEG_CODE)
        soft_raise_err(c, X86_TS, sel_error(sel, ext));
    if ((attr & (SEG_CODE | SEG_CE)) != (SEG_CODE | SEG_CE) &&
        (desc_dpl(d) < c->st.cpl || desc_dpl(d) < (sel & 3u)))
        soft_raise_err(c, X86_TS, sel_error(sel, ext));
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, sel_error(sel, ext));
    seg_fill(&c->st.seg[seg], sel, desc_touch(c, sel, d));
}

/* Descriptors of the new task; faults belong to it. */
static void task_check(struct soft_cpu *c, const struct task *t, uint32_t ext)
{
    static const uint8_t data[] = {X86_DS, X86_ES, X86_FS, X86_GS};
    uint16_t ss = t->seg[X86_SS];
    unsigned cpl = t->seg[X86_CS] & 3u;

    check_ldt(c, t, ext);
    if (!(c->st.rflags & X86_VM)) {
        check_code(c, t->seg[X86_CS], ext);
        if (sel_null(ss))
            soft_raise_err(c, X86_TS, ext);
        seg_fill(&c->st.seg[X86_SS], ss, desc_read_stack(c, ss, cpl, X86_TS, ext));
        soft_mode_changed(c);
        for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
            check_data(c, data[i], t->seg[data[i]], ext);
    }
    if (t->ip > c->st.seg[X86_CS].limit)
        soft_raise_err(c, X86_GP, ext);
}

void task_switch(struct soft_cpu *c, uint16_t sel, enum task_why why, uint64_t ret,
                 const struct event *ev)
{
    uint32_t ext = ev ? ev->ext : 0;
    uint64_t d = tss_descriptor(c, sel, why, ext), flags = c->st.rflags;
    uint16_t old = c->st.tr.sel;
    uint32_t base = (uint32_t)desc_base(d);
    bool nested = why == TASK_CALL || why == TASK_INT;
    struct task t;

    task_read(c, base, type_wide(desc_type(d)), &t);
    table_probe(c, old);
    table_probe(c, sel);
    if (why == TASK_IRET)
        flags &= ~(uint64_t)X86_NT;
    if (nested) {
        sys_st(c, base, 2, old);
        t.flags |= X86_NT;
    }
    task_save(c, ret, flags);

    if (!nested)
        set_busy(c, old, false);
    if (why != TASK_IRET)
        set_busy(c, sel, true);
    seg_fill(&c->st.tr, sel, d | DESC_BUSY);
    c->st.cr0 |= X86_CR0_TS;
    soft_fpu_changed(c);
    task_load(c, &t);

    task_check(c, &t, ext);
    if (ev && ev->has_error)
        stack_push(c, t.wide ? 4 : 2, ev->error);
    if (t.trap)
        debug_raise(c, DR6_BT);
}
