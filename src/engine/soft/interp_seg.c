/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Segmentation: SDM volume 3 chapters 3 and 5. */
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp_sys.h"

/* ---- Addresses ---------------------------------------------------------- */

static _Noreturn void seg_fault(struct soft_cpu *c, enum x86_sreg seg)
{
    soft_raise_err(c, seg == X86_SS ? X86_SS_EXC : X86_GP, 0);
}

static bool seg_allows(const struct x86_seg *s, enum mem_access acc)
{
    if (s->attr & X86_ATTR_UNUSABLE)
        return false;
    if (acc == ACC_WRITE)
        return (s->attr & (SEG_CODE | SEG_RW)) == SEG_RW;
    return acc == ACC_FETCH || (s->attr & (SEG_CODE | SEG_RW)) != SEG_CODE;
}

gva_t seg_linear(struct soft_cpu *c, enum x86_sreg seg, uint64_t off, unsigned size,
                 enum mem_access acc)
{
    const struct x86_seg *s = &c->st.seg[seg];

    if (likely(c->mode == INSN_64)) {
        gva_t va = seg >= X86_FS ? s->base + off : off;

        if (unlikely(!canonical(va) || !canonical(va + size - 1)))
            seg_fault(c, seg);
        if (unlikely(access_watched(c)))
            access_check(c, va, size, acc);
        return va;
    }
    if (!cpu_real(c) && !cpu_v86(c) && !seg_allows(s, acc))
        seg_fault(c, seg);
    if (!seg_inside(s, off, size))
        seg_fault(c, seg);
    if (unlikely(access_watched(c)))
        access_check(c, (uint32_t)(s->base + off), size, acc);
    return (uint32_t)(s->base + off);
}

unsigned stack_addr_size(const struct soft_cpu *c)
{
    if (likely(c->mode == INSN_64))
        return 8;
    return c->st.seg[X86_SS].attr & X86_ATTR_DB ? 4 : 2;
}

void stack_push(struct soft_cpu *c, unsigned size, uint64_t val)
{
    struct frame f = frame_present(c, 0);

    frame_push(c, &f, size, val);
    frame_commit(c, &f);
}

uint64_t stack_pop(struct soft_cpu *c, unsigned size)
{
    struct frame f = frame_present(c, 0);
    uint64_t val = frame_pop(c, &f, size);

    frame_commit(c, &f);
    return val;
}

gva_t frame_linear(struct soft_cpu *c, const struct frame *f, uint64_t off, unsigned size,
                   enum mem_access acc)
{
    gva_t va = off;

    if (likely(!f->ss)) {
        if (unlikely(!canonical(off) || !canonical(off + size - 1)))
            soft_raise_err(c, X86_SS_EXC, f->error);
    } else {
        if (((f->ss->attr & X86_ATTR_UNUSABLE) && !cpu_real(c)) || !seg_inside(f->ss, off, size))
            soft_raise_err(c, X86_SS_EXC, f->error);
        va = (uint32_t)(f->ss->base + off);
    }
    if (unlikely(access_watched(c)) && !f->sys)
        access_check(c, va, size, acc);
    return va;
}

void frame_push(struct soft_cpu *c, struct frame *f, unsigned size, uint64_t val)
{
    uint64_t sp = (f->sp - size) & f->mask;
    gva_t va = frame_linear(c, f, sp, size, ACC_WRITE);

    if (f->sys)
        sys_st(c, va, size, val);
    else
        mem_st(c, va, size, val);
    f->sp = sp;
}

uint64_t frame_pop(struct soft_cpu *c, struct frame *f, unsigned size)
{
    uint64_t sp = f->sp & f->mask;
    uint64_t val = mem_ld(c, frame_linear(c, f, sp, size, ACC_READ), size);

    f->sp = (sp + size) & f->mask;
    return val;
}

void soft_mode_changed(struct soft_cpu *c)
{
    struct x86_state *st = &c->st;

    if (likely((st->efer & X86_EFER_LMA) && (st->seg[X86_CS].attr & X86_ATTR_L))) {
        st->cpl = (uint8_t)attr_dpl(st->seg[X86_SS].attr);
        c->mode = INSN_64;
    } else if (cpu_real(c)) {
        st->cpl = 0;
        c->mode = INSN_16;
    } else if (cpu_v86(c)) {
        st->cpl = 3;
        c->mode = INSN_16;
    } else {
        st->cpl = (uint8_t)attr_dpl(st->seg[X86_SS].attr);
        c->mode = st->seg[X86_CS].attr & X86_ATTR_DB ? INSN_32 : INSN_16;
    }
    tlb_switch(c);
}

/* ---- Descriptors -------------------------------------------------------- */

static bool desc_fits(const struct soft_cpu *c, uint16_t sel, unsigned size, gva_t *va)
{
    unsigned off = sel & 0xfff8u;
    uint64_t base = c->st.gdtr.base;
    uint32_t limit = c->st.gdtr.limit;

    if (unlikely(sel & 4)) {
        if (c->st.ldtr.attr & X86_ATTR_UNUSABLE)
            return false;
        base = c->st.ldtr.base;
        limit = c->st.ldtr.limit;
    }
    *va = cpu_long(c) ? base + off : (uint32_t)(base + off);
    return off + size - 1 <= limit;
}

bool desc_addr(const struct soft_cpu *c, uint16_t sel, gva_t *va)
{
    return desc_fits(c, sel, 8, va);
}

bool desc_try(struct soft_cpu *c, uint16_t sel, uint64_t *d)
{
    gva_t va;

    if (sel_null(sel) || !desc_addr(c, sel, &va))
        return false;
    *d = sys_ld(c, va, 8);
    return true;
}

uint64_t desc_read(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext)
{
    gva_t va;

    if (unlikely(!desc_addr(c, sel, &va)))
        soft_raise_err(c, vector, sel_error(sel, ext));
    return sys_ld(c, va, 8);
}

uint64_t desc_read_high(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext)
{
    gva_t va;

    if (!desc_fits(c, sel, 16, &va))
        soft_raise_err(c, vector, sel_error(sel, ext));
    return sys_ld(c, va + 8, 8);
}

void desc_set_byte5(struct soft_cpu *c, uint16_t sel, uint64_t d)
{
    gva_t va;

    if (desc_addr(c, sel, &va))
        sys_st(c, va + 5, 1, d >> 40 & 0xff);
}

uint64_t desc_read_stack(struct soft_cpu *c, uint16_t sel, unsigned cpl, unsigned vector,
                         uint32_t ext)
{
    uint64_t d = desc_read(c, sel, vector, ext);
    uint32_t attr = desc_attr(d);

    if ((sel & 3u) != cpl || desc_dpl(d) != cpl ||
        (attr & (X86_ATTR_S | SEG_CODE | SEG_RW)) != (X86_ATTR_S | SEG_RW))
        soft_raise_err(c, vector, sel_error(sel, ext));
    if (!desc_present(d))
        soft_raise_err(c, X86_SS_EXC, sel_error(sel, ext));
    return desc_touch(c, sel, d);
}

/* ---- Loads -------------------------------------------------------------- */

void seg_real(struct x86_seg *s, uint16_t sel)
{
    if (s->attr & X86_ATTR_UNUSABLE) {
        s->limit = 0xffff;
        s->attr = 0;
    }
    s->attr = (s->attr & (X86_ATTR_DB | X86_ATTR_G)) | ATTR_REAL;
    s->base = (uint64_t)sel << 4;
    s->sel = sel;
}

static uint64_t desc_read_data(struct soft_cpu *c, uint16_t sel)
{
    uint64_t d = desc_read(c, sel, X86_GP, 0);
    uint32_t attr = desc_attr(d);
    unsigned dpl = desc_dpl(d);

    if (!(attr & X86_ATTR_S) || (attr & (SEG_CODE | SEG_RW)) == SEG_CODE)
        soft_raise_err(c, X86_GP, sel_error(sel, 0));
    if ((attr & (SEG_CODE | SEG_CE)) != (SEG_CODE | SEG_CE) &&
        ((sel & 3u) > dpl || c->st.cpl > dpl))
        soft_raise_err(c, X86_GP, sel_error(sel, 0));
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, sel_error(sel, 0));
    return desc_touch(c, sel, d);
}

void seg_load_plain(struct soft_cpu *c, enum x86_sreg seg, uint16_t sel)
{
    struct x86_seg *s = &c->st.seg[seg];

    if (unlikely(cpu_real(c))) {
        seg_real(s, sel);
    } else if (unlikely(cpu_v86(c))) {
        seg_v86(s, sel);
    } else if (seg != X86_SS) {
        if (sel_null(sel))
            seg_null(s, sel, 0);
        else
            seg_fill(s, sel, desc_read_data(c, sel));
    } else if (sel_null(sel)) {
        if (c->mode != INSN_64 || c->st.cpl == 3 || (sel & 3u) != c->st.cpl)
            soft_raise_err(c, X86_GP, 0);
        seg_null(s, sel, c->st.cpl);
    } else {
        seg_fill(s, sel, desc_read_stack(c, sel, c->st.cpl, X86_GP, 0));
    }
}

void seg_load(struct soft_cpu *c, enum x86_sreg seg, uint16_t sel)
{
    seg_load_plain(c, seg, sel);
    if (seg == X86_SS)
        c->st.intr_shadow = 1;
}

struct far_ptr far_operand(struct soft_cpu *c, const struct insn *in, unsigned size)
{
    struct far_ptr p;

    p.off = mem_ld(c, mem_operand(c, in, 0, size, ACC_READ), size);
    p.sel = (uint16_t)mem_ld(c, mem_operand(c, in, size, 2, ACC_READ), 2);
    return p;
}

static enum x86_sreg lds_sreg(unsigned op)
{
    switch (op) {
    case ZYDIS_MNEMONIC_LDS:
        return X86_DS;
    case ZYDIS_MNEMONIC_LES:
        return X86_ES;
    case ZYDIS_MNEMONIC_LFS:
        return X86_FS;
    case ZYDIS_MNEMONIC_LGS:
        return X86_GS;
    default:
        return X86_SS;
    }
}

void op_lds(struct soft_cpu *c, const struct insn *in)
{
    enum x86_sreg seg = lds_sreg(in->op);
    unsigned size = in->opnd[0].size;
    struct far_ptr p = far_operand(c, in, size);

    seg_load_plain(c, seg, p.sel);
    gpr_set(c, in->opnd[0].reg, size, p.off);
}

/* ---- Instructions that look at descriptors ------------------------------ */

static void set_zf(struct soft_cpu *c, bool zf)
{
    c->st.rflags = (c->st.rflags & ~(uint64_t)X86_ZF) | (zf ? X86_ZF : 0);
}

/* Can the segment be seen at CPL and the selector's RPL? Conforming code always. */
static bool desc_visible(const struct soft_cpu *c, uint16_t sel, uint64_t d)
{
    if (desc_is_code(d) && desc_conforming(d))
        return true;
    return desc_dpl(d) >= c->st.cpl && desc_dpl(d) >= (sel & 3u);
}

/* Descriptor of the operand when LAR or LSL may describe it; system types by bit in `system`. */
static bool describe(struct soft_cpu *c, const struct insn *in, uint32_t system, uint64_t *d)
{
    uint16_t sel;

    require_protected(c);
    sel = sel_operand(c, in, 1);
    if (!desc_try(c, sel, d))
        return false;
    if (!(desc_attr(*d) & X86_ATTR_S) && !(system >> desc_type(*d) & 1))
        return false;
    return desc_visible(c, sel, *d);
}

#define TYPE_BIT(t) (1u << (t))
#define TYPES_TSS   (TYPE_BIT(DESC_TSS32) | TYPE_BIT(DESC_TSS32_BUSY))
#define TYPES_TSS16 (TYPE_BIT(DESC_TSS16) | TYPE_BIT(DESC_TSS16_BUSY))
#define TYPES_LAR   (TYPE_BIT(DESC_LDT) | TYPES_TSS | TYPE_BIT(DESC_CALL32))
#define TYPES_LAR_LEGACY                                                                           \
    (TYPES_LAR | TYPES_TSS16 | TYPE_BIT(DESC_CALL16) | TYPE_BIT(DESC_TASK_GATE))
#define TYPES_LSL        (TYPE_BIT(DESC_LDT) | TYPES_TSS)
#define TYPES_LSL_LEGACY (TYPES_LSL | TYPES_TSS16)

void op_lar(struct soft_cpu *c, const struct insn *in)
{
    uint64_t d;
    bool ok = describe(c, in, cpu_long(c) ? TYPES_LAR : TYPES_LAR_LEGACY, &d);

    if (ok)
        gpr_set(c, in->opnd[0].reg, in->opnd[0].size, d >> 32 & 0xf0ff00);
    set_zf(c, ok);
}

void op_lsl(struct soft_cpu *c, const struct insn *in)
{
    uint64_t d;
    bool ok = describe(c, in, cpu_long(c) ? TYPES_LSL : TYPES_LSL_LEGACY, &d);

    if (ok)
        gpr_set(c, in->opnd[0].reg, in->opnd[0].size, desc_limit(d));
    set_zf(c, ok);
}

static bool verify(struct soft_cpu *c, const struct insn *in, bool write)
{
    uint64_t d;
    uint32_t attr;
    uint16_t sel;

    require_protected(c);
    sel = sel_operand(c, in, 0);
    if (!desc_try(c, sel, &d))
        return false;
    attr = desc_attr(d);
    if (!(attr & X86_ATTR_S) || !desc_visible(c, sel, d))
        return false;
    if (write)
        return (attr & (SEG_CODE | SEG_RW)) == SEG_RW;
    return (attr & (SEG_CODE | SEG_RW)) != SEG_CODE;
}

void op_verr(struct soft_cpu *c, const struct insn *in)
{
    set_zf(c, verify(c, in, false));
}

void op_verw(struct soft_cpu *c, const struct insn *in)
{
    set_zf(c, verify(c, in, true));
}

void op_arpl(struct soft_cpu *c, const struct insn *in)
{
    uint16_t dst, rpl = c->st.gpr[in->opnd[1].reg] & 3;
    bool mem = in->opnd[0].kind == OPND_MEM;
    gva_t va = 0;

    require_protected(c);
    if (mem) {
        va = mem_operand(c, in, 0, 2, ACC_WRITE);
        dst = (uint16_t)mem_ld(c, va, 2);
    } else {
        dst = (uint16_t)c->st.gpr[in->opnd[0].reg];
    }
    if ((dst & 3) >= rpl) {
        set_zf(c, false);
        return;
    }
    dst = (uint16_t)((dst & ~3u) | rpl);
    if (mem)
        mem_st(c, va, 2, dst);
    else
        gpr_set(c, in->opnd[0].reg, 2, dst);
    set_zf(c, true);
}

/* ---- LDTR and TR -------------------------------------------------------- */

/* Fill LDTR or TR; in long mode the descriptor has 16 bytes. */
static struct x86_seg system_segment(struct soft_cpu *c, uint16_t sel, uint64_t d)
{
    struct x86_seg s = {0};

    seg_fill(&s, sel, d);
    if (cpu_long(c)) {
        uint64_t high = desc_read_high(c, sel, X86_GP, 0);

        s.base |= high << 32;
        if (high >> 40 & DESC_TYPE_MASK || !canonical(s.base))
            soft_raise_err(c, X86_GP, sel_error(sel, 0));
    }
    return s;
}

static uint16_t system_operand(struct soft_cpu *c, const struct insn *in)
{
    uint16_t sel;

    require_protected(c);
    require_cpl0(c);
    sel = sel_operand(c, in, 0);
    if (sel & 4)
        soft_raise_err(c, X86_GP, sel_error(sel, 0));
    return sel;
}

void op_lldt(struct soft_cpu *c, const struct insn *in)
{
    uint16_t sel = system_operand(c, in);
    uint64_t d;

    if (sel_null(sel)) {
        seg_null(&c->st.ldtr, sel, 0);
        return;
    }
    d = desc_read(c, sel, X86_GP, 0);
    if (desc_type(d) != DESC_LDT)
        soft_raise_err(c, X86_GP, sel_error(sel, 0));
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, sel_error(sel, 0));
    c->st.ldtr = system_segment(c, sel, d);
}

void op_ltr(struct soft_cpu *c, const struct insn *in)
{
    uint16_t sel = system_operand(c, in);
    struct x86_seg tr;
    uint64_t d;

    if (sel_null(sel))
        soft_raise_err(c, X86_GP, 0);
    d = desc_read(c, sel, X86_GP, 0);
    if (desc_type(d) != DESC_TSS32 && (cpu_long(c) || desc_type(d) != DESC_TSS16))
        soft_raise_err(c, X86_GP, sel_error(sel, 0));
    if (!desc_present(d))
        soft_raise_err(c, X86_NP, sel_error(sel, 0));
    tr = system_segment(c, sel, d | DESC_BUSY);
    desc_set_byte5(c, sel, d | DESC_BUSY);
    c->st.tr = tr;
}

static void store_selector(struct soft_cpu *c, const struct insn *in, uint16_t sel)
{
    require_protected(c);
    if (c->st.cpl != 0 && (c->st.cr4 & X86_CR4_UMIP))
        soft_raise_err(c, X86_GP, 0);
    if (in->opnd[0].kind == OPND_MEM)
        mem_st(c, mem_operand(c, in, 0, 2, ACC_WRITE), 2, sel);
    else
        gpr_set(c, in->opnd[0].reg, in->opnd[0].size, sel);
}

void op_sldt(struct soft_cpu *c, const struct insn *in)
{
    store_selector(c, in, c->st.ldtr.sel);
}

void op_str(struct soft_cpu *c, const struct insn *in)
{
    store_selector(c, in, c->st.tr.sel);
}

struct far_ptr tss_stack(struct soft_cpu *c, unsigned cpl, uint32_t ext)
{
    const struct x86_seg *tr = &c->st.tr;
    bool wide = (tr->attr & DESC_TYPE_MASK) >= DESC_TSS32;
    unsigned spsize = wide ? 4 : 2, off = spsize + cpl * spsize * 2, size = spsize + 2;
    struct far_ptr p = {0, 0};

    if (cpu_long(c)) {
        off = 4 + 8 * cpl;
        size = spsize = 8;
    }
    if (unlikely((tr->attr & X86_ATTR_UNUSABLE) || off + size - 1 > tr->limit))
        soft_raise_err(c, X86_TS, sel_error(tr->sel, ext));
    p.off = sys_ld(c, tr->base + off, spsize);
    if (!cpu_long(c))
        p.sel = (uint16_t)sys_ld(c, tr->base + off + spsize, 2);
    return p;
}
