/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Host code for reaching guest memory: flags kept out of the way, addresses, soft TLB checks, windows. */
#include "engine/soft/tlb.h"
#include "engine/soft/translate.h"
#include "engine/soft/view.h"

#define INDEX_MASK ((TLB_ENTRIES - 1) << 4)

/* ---- Flags ---------------------------------------------------------------- */

uint16_t flags_wanted(const struct translation *t)
{
    const struct insn *in = &t->in[t->cur];

    return in->fl_read | (t->live[t->cur] & (uint16_t)~in->fl_write);
}

void flags_keep(struct translation *t)
{
    if (t->flags != FLAGS_HOST)
        return;
    if (flags_wanted(t)) {
        emit_flags_save(&t->e);
        t->flags = FLAGS_MEM;
    } else {
        t->flags = FLAGS_DEAD;
    }
}

void flags_to_host(struct translation *t)
{
    if (t->flags == FLAGS_MEM)
        emit_flags_load(&t->e);
    t->flags = FLAGS_HOST;
}

/* Around the instruction proper: bring flags in if it reads or keeps some, note what it leaves. */
void flags_before(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];

    if (t->flags == FLAGS_MEM && in->fl_write && flags_wanted(t))
        flags_to_host(t);
    else if (t->flags == FLAGS_MEM && in->fl_read)
        flags_to_host(t);
}

void flags_after(struct translation *t)
{
    if (t->in[t->cur].fl_write)
        t->flags = FLAGS_HOST;
}

/* ---- Addresses and checks ---------------------------------------------------- */

struct ea ea_of(const struct translation *t, const struct insn *in)
{
    struct ea ea = {in->mem_base,  in->mem_index, in->mem_scale,
                    in->addr_size, in->mem_seg,   in->mem_disp};

    if (ea.base == INSN_RIP)
        ea.disp += t->off[t->cur] + in->len;
    return ea;
}

void emit_const(struct translation *t, unsigned reg, uint64_t v)
{
    struct emit *e = &t->e;

    if (v <= UINT32_MAX) {
        emit_mov_imm32(e, reg, (uint32_t)v);
    } else { /* mov reg, imm64 */
        emit_8(e, 0x48 | (reg >= 8));
        emit_8(e, 0xb8 | (reg & 7));
        emit_64(e, v);
    }
}

void emit_address(struct translation *t, const struct ea *ea)
{
    struct emit *e = &t->e;
    unsigned base = ea->base;
    int32_t seg_base;

    if (base == T1 || ea->index == T1)
        emit_load(e, T1, GPR_OFF(T1));
    if (base == T0 || ea->index == T0)
        emit_load(e, T0, GPR_OFF(T0));
    if (base == INSN_RIP) {
        if (t->fixed)
            emit_const(t, T0, t->va);
        else
            emit_load(e, T0, CPU_OFF(page_va));
        base = T0;
    }
    emit_rm(e, ea->addr_size == 8, 0x8d, T0, base, ea->index, ea->scale, (int32_t)ea->disp);
    if (ea->seg != X86_FS && ea->seg != X86_GS)
        return;
    seg_base = CPU_OFF(st.seg) + ea->seg * (int32_t)sizeof(struct x86_seg) +
               (int32_t)offsetof(struct x86_seg, base);
    if (t->kind == BLOCK_DIRECT) {
        emit_load(e, T1, seg_base);
        emit_lea(e, T0, T0, T1, 1, 0);
    } else {
        emit_gs(e, true, 0x03, T0, seg_base); /* add T0, gs:base */
    }
}

struct stub *stub_add(struct translation *t, enum stub_kind kind, uint8_t *from, uint32_t arg)
{
    struct stub *s = &t->stubs[t->nstubs++];

    memset(s, 0, sizeof(*s));
    s->kind = kind;
    s->from = from;
    s->arg = arg;
    s->flags = t->flags;
    return s;
}

/* into = what leads from a guest address in the region of `addr` to its place in the view. EFLAGS are kept if wanted. */
static void emit_region(struct translation *t, unsigned into, unsigned addr)
{
    struct emit *e = &t->e;

    if (t->flags == FLAGS_HOST && flags_wanted(t)) {
        emit_rorx(e, into, addr, VIEW_REGION_SHIFT);
        emit_8(e, 0x45); /* movzx into, into's low byte */
        emit_8(e, 0x0f);
        emit_8(e, 0xb6);
        emit_8(e, 0xc0 | (into & 7) << 3 | (into & 7));
    } else {
        flags_keep(t);
        if (into != addr)
            emit_mov(e, into, addr);
        emit_8(e, 0x49); /* shr into, VIEW_REGION_SHIFT */
        emit_8(e, 0xc1);
        emit_8(e, 0xe8 | (into & 7));
        emit_8(e, VIEW_REGION_SHIFT);
    }
    emit_8(e, 0x65); /* mov into, gs:[view_table + into * 8] */
    emit_8(e, 0x4e);
    emit_8(e, 0x8b);
    emit_8(e, 0x04 | (into & 7) << 3);
    emit_8(e, 0xc5 | (into & 7) << 3);
    emit_32(e, (uint32_t)CPU_OFF(view_table));
    if (into == T1)
        t->t1_slot = -1;
}

void emit_check(struct translation *t, const struct ea *ea, unsigned size, enum mem_access acc)
{
    struct emit *e = &t->e;
    int32_t table = acc == ACC_WRITE ? (int32_t)offsetof(struct tlb_set, wr)
                                     : (int32_t)offsetof(struct tlb_set, rd);
    const uint8_t *retry;
    struct stub *s;

    if (t->kind == BLOCK_DIRECT) {
        emit_address(t, ea);
        emit_region(t, T1, T0);
        return;
    }
    flags_keep(t);
    t->t1_slot = -1;
    retry = emit_here(e);
    emit_address(t, ea);
    emit_rorx(e, T1, T0, 8);
    emit_8(e, 0x41); /* and T1d, mask */
    emit_8(e, 0x81);
    emit_8(e, 0xe0 | (T1 & 7));
    emit_32(e, INDEX_MASK);
    emit_gs(e, true, 0x03, T1, CPU_OFF(set));             /* add T1, gs:set */
    emit_rm(e, true, 0x33, T0, T1, INSN_NOREG, 1, table); /* xor T0, [T1 + table] */
    emit_8(e, 0x49);                                      /* cmp T0, 4096 - size */
    emit_8(e, 0x81);
    emit_8(e, 0xf8 | (T0 & 7));
    emit_32(e, (uint32_t)(PAGE_SIZE - size));
    s = stub_add(t, STUB_MISS, emit_jcc_fwd(e, 7), EXIT_INTERP << EXIT_KIND_SHIFT | t->off[t->cur]);
    s->retry = retry;
    s->acc = acc;
    emit_rm(e, true, 0x8b, T1, T1, INSN_NOREG, 1, table + 8); /* mov T1, [T1 + table + 8] */
}

void emit_check_next_page(struct translation *t)
{
    struct emit *e = &t->e;
    uint32_t arg = EXIT_INTERP << EXIT_KIND_SHIFT | t->off[t->cur];
    int32_t entry = (int32_t)offsetof(struct tlb_set, fetch);

    flags_keep(t);
    t->t1_slot = -1;
    if (t->fixed) {
        emit_const(t, T0, t->va + PAGE_SIZE);
    } else {
        emit_load(e, T0, CPU_OFF(page_va));
        emit_lea(e, T0, T0, INSN_NOREG, 1, (int32_t)PAGE_SIZE);
    }
    emit_rorx(e, T1, T0, 8);
    emit_8(e, 0x41); /* and T1d, mask */
    emit_8(e, 0x81);
    emit_8(e, 0xe0 | (T1 & 7));
    emit_32(e, (TLB_NFETCH - 1) << 4);
    emit_gs(e, true, 0x03, T1, CPU_OFF(set));
    emit_rm(e, true, 0x39, T0, T1, INSN_NOREG, 1, entry); /* cmp [T1 + entry], T0 */
    stub_add(t, STUB_EXIT, emit_jcc_fwd(e, 5), arg);
    emit_const(t, T0, (uint64_t)(uintptr_t)t->next_page);
    emit_rm(e, true, 0x39, T0, T1, INSN_NOREG, 1, entry + 8);
    stub_add(t, STUB_EXIT, emit_jcc_fwd(e, 5), arg);
}

/* T = host address; the other temporary is free afterwards. */
static struct loc collapse_into(struct translation *t, unsigned into)
{
    emit_lea(&t->e, into, T1, T0, 1, 0);
    return (struct loc){(uint8_t)into, INSN_NOREG, 0};
}

/* Open the current instruction's window: one check for all its accesses, then T1 = host minus guest address. */
static void window_open(struct translation *t, const struct window *w)
{
    struct emit *e = &t->e;
    struct ea ea = {w->base, INSN_NOREG, 1, 8, X86_DS, w->lo};
    struct stub *s = &t->stubs[t->nstubs];

    emit_check(t, &ea, (unsigned)(w->hi - w->lo), w->acc);
    s->arg = (uint32_t)EXIT_CAREFUL << EXIT_KIND_SHIFT | t->off[t->cur];
    emit_lea(e, T1, T1, T0, 1, -w->lo);
    emit_rr(e, 0x29, T1, w->base); /* sub T1, base */
    if (w->kept)
        emit_store(e, CPU_OFF(window[w->slot]), T1);
}

/* Only a base register that is where the guest has it, and a displacement? */
static bool is_simple(const struct ea *ea)
{
    return ea->base < 16 && ea->base != T0 && ea->base != T1 && ea->index == INSN_NOREG &&
           ea->addr_size == 8 && ea->seg != X86_FS && ea->seg != X86_GS;
}

/* An address known now, and one that fits where it is put? */
static bool is_constant(const struct translation *t, const struct ea *ea)
{
    if (!t->fixed || (!t->owned && t->va + (uint64_t)ea->disp > INT32_MAX))
        return false;
    return ea->base == INSN_RIP && ea->addr_size == 8 && ea->seg != X86_FS && ea->seg != X86_GS;
}

/* The window that the current instruction's operand is reached through, in the temporary `reg`, or NULL. */
static const struct window *window_of(const struct translation *t, unsigned reg)
{
    const struct window *w = t->use[t->cur] < 0 ? NULL : &t->windows[t->use[t->cur]];

    if (w && w->first != t->cur && !w->kept && (reg != T1 || t->t1_slot != w->slot))
        return NULL; /* it is not where it was planned to be */
    return w;
}

/* A guest address known now. Views have their regions at different places, so only what one owns may hold that. */
static struct loc locate_constant(struct translation *t, uint64_t at, unsigned reg)
{
    unsigned region = (uint8_t)(at >> VIEW_REGION_SHIFT);
    struct loc loc = {(uint8_t)reg, INSN_NOREG, 0};

    if (reg == T1)
        t->t1_slot = -1;
    if (t->owned) {
        emit_const(t, reg, at + t->cpu->view_table[region]);
        return loc;
    }
    emit_load(&t->e, reg, CPU_OFF(view_table) + (int32_t)(region * sizeof(uint64_t)));
    loc.disp = (int32_t)at;
    return loc;
}

/* emit_locate through the view. */
static struct loc locate_direct(struct translation *t, const struct ea *ea, unsigned size,
                                enum mem_access acc, unsigned keep, bool flags)
{
    unsigned reg = keep & 1u << T1 ? T0 : T1;
    const struct window *w = window_of(t, reg);

    if (flags && t->flags == FLAGS_MEM)
        flags_to_host(t); /* takes T0 */
    if (w && w->first == t->cur) {
        emit_region(t, reg, ea->base);
        if (w->kept)
            emit_store(&t->e, CPU_OFF(window[w->slot]), reg);
    } else if (w && (reg != T1 || t->t1_slot != w->slot)) {
        emit_load(&t->e, reg, CPU_OFF(window[w->slot]));
    } else if (!w && is_simple(ea)) {
        emit_region(t, reg, ea->base);
    } else if (!w && is_constant(t, ea)) {
        return locate_constant(t, t->va + (uint64_t)ea->disp, reg);
    } else if (!w) {
        emit_check(t, ea, size, acc);
        return keep ? collapse_into(t, keep & 1u << T0 ? T1 : T0) : (struct loc){T1, T0, 0};
    }
    if (w && reg == T1)
        t->t1_slot = (int8_t)w->slot;
    return (struct loc){ea->base, (uint8_t)reg, (int32_t)ea->disp};
}

struct loc emit_locate(struct translation *t, const struct ea *ea, unsigned size,
                       enum mem_access acc, unsigned keep, bool flags)
{
    unsigned reg = keep & 1u << T1 ? T0 : T1;
    const struct window *w = window_of(t, reg);
    bool opens = w && w->first == t->cur;

    if (t->kind == BLOCK_DIRECT)
        return locate_direct(t, ea, size, acc, keep, flags);
    if (!w) {
        struct loc at = {T1, T0, 0};

        emit_check(t, ea, size, acc);
        flags = flags && t->flags == FLAGS_MEM;
        if (keep || flags)
            at = collapse_into(t, flags ? T1 : keep & 1u << T0 ? T1 : T0);
        if (flags)
            flags_to_host(t); /* takes T0 */
        if (at.base == T1 && (keep & 1u << T1)) {
            emit_mov(&t->e, T0, T1);
            at.base = T0;
        }
        return at;
    }
    if (opens) {
        window_open(t, w);
        t->t1_slot = (int8_t)w->slot;
    }
    if (flags && t->flags == FLAGS_MEM)
        flags_to_host(t);
    if (reg == T1 && t->t1_slot != w->slot) {
        emit_load(&t->e, T1, CPU_OFF(window[w->slot]));
        t->t1_slot = (int8_t)w->slot;
    } else if (reg == T0 && opens) {
        emit_mov(&t->e, T0, T1);
    } else if (reg == T0) {
        emit_load(&t->e, T0, CPU_OFF(window[w->slot]));
    }
    return (struct loc){ea->base, (uint8_t)reg, (int32_t)ea->disp};
}
