/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Control and debug registers, flags, descriptor-table registers and the other system instructions: SDM volume 2. */
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp_sys.h"

#include "x86/cpuid.h"

static _Noreturn void gp0(struct soft_cpu *c)
{
    soft_raise_err(c, X86_GP, 0);
}

/* ---- Control registers -------------------------------------------------- */

#define CR0_BITS                                                                                   \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |    \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR0_MMU (X86_CR0_PE | X86_CR0_WP | X86_CR0_PG)

#define CR4_BITS                                                                                   \
    (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE |            \
     X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |               \
     X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_PCIDE | X86_CR4_OSXSAVE | X86_CR4_SMEP |            \
     X86_CR4_SMAP | X86_CR4_PKE | X86_CR4_PKS)
#define CR4_MMU                                                                                    \
    (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP |       \
     X86_CR4_PKE | X86_CR4_PKS)

/* Entering and leaving long mode with paging: SDM volume 3, 4.1.2 and 9.8.5. */
static void cr0_paging_check(struct soft_cpu *c, uint64_t val)
{
    const struct x86_state *st = &c->st;

    if (val & X86_CR0_PG) {
        if (!(st->efer & X86_EFER_LME))
            return;
        if (!(st->cr4 & X86_CR4_PAE) || (st->seg[X86_CS].attr & X86_ATTR_L) ||
            (st->tr.attr & DESC_TYPE_MASK) == DESC_TSS16 ||
            (st->tr.attr & DESC_TYPE_MASK) == DESC_TSS16_BUSY)
            gp0(c);
    } else if (c->mode == INSN_64 || (st->cr4 & X86_CR4_PCIDE)) {
        gp0(c);
    }
}

static void cr0_write(struct soft_cpu *c, uint64_t val)
{
    struct x86_state *st = &c->st;
    uint64_t changed;

    if (val >> 32)
        gp0(c);
    val = (val & CR0_BITS) | X86_CR0_ET;
    if (((val & X86_CR0_PG) && !(val & X86_CR0_PE)) || ((val & X86_CR0_NW) && !(val & X86_CR0_CD)))
        gp0(c);
    changed = val ^ st->cr0;
    if (changed & X86_CR0_PG)
        cr0_paging_check(c, val);
    st->cr0 = val;
    if (changed & X86_CR0_PG) {
        st->efer &= ~(uint64_t)X86_EFER_LMA;
        if ((val & X86_CR0_PG) && (st->efer & X86_EFER_LME))
            st->efer |= X86_EFER_LMA;
    }
    if (changed & CR0_MMU) {
        tlb_flush_all(c);
        soft_mode_changed(c);
    }
    soft_fpu_changed(c);
}

/* CR3 has bits above MAXPHYADDR reserved in long mode; bit 63 asks to keep the TLB and is not stored. */
static void cr3_write(struct soft_cpu *c, uint64_t val)
{
    struct x86_state *st = &c->st;
    bool pcide = st->cr4 & X86_CR4_PCIDE, keep = pcide && val >> 63;

    if (pcide)
        val &= ~(1ull << 63);
    if (cpu_long(c) && unlikely(val >> X86_PHYS_BITS))
        gp0(c);
    st->cr3 = val;
    if (pcide && !keep)
        tlb_flush_pcid(c, val & 0xfff);
    else if (!pcide)
        tlb_flush_nonglobal(c);
    tlb_switch(c);
}

/* Bits that exist only with the feature; asked when one is set, so that toggling PGE stays quick. */
static void cr4_feature_check(struct soft_cpu *c, uint64_t set)
{
    static const struct {
        uint32_t cr4, leaf;
        uint8_t reg, bit;
    } need[] = {
        {X86_CR4_VME, 1, 3, 1},      {X86_CR4_PVI, 1, 3, 1},      {X86_CR4_PCIDE, 1, 2, 17},
        {X86_CR4_OSXSAVE, 1, 2, 26}, {X86_CR4_FSGSBASE, 7, 1, 0}, {X86_CR4_SMEP, 7, 1, 7},
        {X86_CR4_SMAP, 7, 1, 20},    {X86_CR4_UMIP, 7, 2, 2},     {X86_CR4_PKE, 7, 2, 3},
        {X86_CR4_PKS, 7, 2, 31},
    };
    uint32_t out[4];

    for (unsigned i = 0; i < ARRAY_SIZE(need); i++) {
        if (!(set & need[i].cr4))
            continue;
        soft_fpu_park(c);
        cpuid_get(c->vcpu, &c->st, need[i].leaf, 0, out);
        if (!(out[need[i].reg] >> need[i].bit & 1))
            gp0(c);
    }
}

static void cr4_write(struct soft_cpu *c, uint64_t val)
{
    struct x86_state *st = &c->st;
    uint64_t changed = val ^ st->cr4;

    if (val & ~(uint64_t)CR4_BITS)
        gp0(c);
    if (cpu_long(c) && !(val & X86_CR4_PAE))
        gp0(c);
    if (val & changed & X86_CR4_PCIDE && (!cpu_long(c) || (st->cr3 & 0xfff)))
        gp0(c);
    cr4_feature_check(c, val & changed);
    st->cr4 = val;
    if (changed & CR4_MMU) {
        tlb_flush_all(c);
        tlb_switch(c);
    }
    soft_fpu_changed(c);
}

static uint64_t cr_read(struct soft_cpu *c, unsigned cr)
{
    switch (cr) {
    case 0:
        return c->st.cr0;
    case 2:
        return c->st.cr2;
    case 3:
        return c->st.cr3;
    case 4:
        return c->st.cr4;
    case 8:
        soft_fpu_park(c);
        return vcpu_get_cr8(c->vcpu);
    default:
        soft_raise(c, X86_UD);
    }
}

static void cr8_write(struct soft_cpu *c, uint64_t val)
{
    if (val > 15)
        gp0(c);
    soft_fpu_park(c);
    vcpu_set_cr8(c->vcpu, val);
    soft_look_up(c);
}

static void cr_write(struct soft_cpu *c, unsigned cr, uint64_t val)
{
    switch (cr) {
    case 0:
        cr0_write(c, val);
        break;
    case 2:
        c->st.cr2 = val;
        break;
    case 3:
        cr3_write(c, val);
        break;
    case 4:
        cr4_write(c, val);
        break;
    case 8:
        cr8_write(c, val);
        break;
    default:
        soft_raise(c, X86_UD);
    }
}

/* CR and DR moves always have the mode's natural operand size. */
static unsigned natural_size(const struct soft_cpu *c)
{
    return c->mode == INSN_64 ? 8 : 4;
}

void interp_mov_cr(struct soft_cpu *c, const struct insn *in)
{
    const struct opnd *dst = &in->opnd[0], *src = &in->opnd[1];

    require_cpl0(c);
    if (dst->kind == OPND_CR)
        cr_write(c, dst->reg, gpr_get(c, src->reg, natural_size(c)));
    else
        gpr_set(c, dst->reg, natural_size(c), cr_read(c, src->reg));
}

void op_clts(struct soft_cpu *c, const struct insn *in)
{
    require_cpl0(c);
    c->st.cr0 &= ~(uint64_t)X86_CR0_TS;
    soft_fpu_changed(c);
}

/* Sets MP, EM and TS; sets PE but never clears it. */
void op_lmsw(struct soft_cpu *c, const struct insn *in)
{
    uint64_t val;

    require_cpl0(c);
    val = sel_operand(c, in, 0) & 0xf;
    cr0_write(c, (c->st.cr0 & ~0xeull) | val);
}

static void umip_check(struct soft_cpu *c)
{
    if (c->st.cpl != 0 && (c->st.cr4 & X86_CR4_UMIP))
        gp0(c);
}

void op_smsw(struct soft_cpu *c, const struct insn *in)
{
    umip_check(c);
    if (in->opnd[0].kind == OPND_MEM)
        mem_st(c, mem_operand(c, in, 0, 2, ACC_WRITE), 2, c->st.cr0 & 0xffff);
    else
        gpr_set(c, in->opnd[0].reg, in->opnd[0].size, c->st.cr0);
}

/* ---- Debug registers ---------------------------------------------------- */

static unsigned dr_number(struct soft_cpu *c, unsigned dr)
{
    if (dr > 7 || ((dr == 4 || dr == 5) && (c->st.cr4 & X86_CR4_DE)))
        soft_raise(c, X86_UD);
    require_cpl0(c);
    if (c->st.dr[7] & DR7_GD)
        debug_raise(c, DR6_BD);
    return dr == 4 || dr == 5 ? dr + 2 : dr;
}

void interp_mov_dr(struct soft_cpu *c, const struct insn *in)
{
    const struct opnd *dst = &in->opnd[0], *src = &in->opnd[1];
    uint64_t val;
    unsigned dr;

    if (dst->kind != OPND_DR) {
        dr = dr_number(c, src->reg);
        gpr_set(c, dst->reg, natural_size(c), c->st.dr[dr]);
        return;
    }
    dr = dr_number(c, dst->reg);
    val = gpr_get(c, src->reg, natural_size(c));
    if (dr >= 6 && val >> 32)
        gp0(c);
    if (dr == 6)
        val = (val & 0xe00fu) | 0xffff0ff0u;
    else if (dr == 7)
        val = (val & 0xffff23ffu) | 0x400u;
    c->st.dr[dr] = val;
}

/* ---- Flags -------------------------------------------------------------- */

static void if_check(struct soft_cpu *c)
{
    if (cpu_v86(c) ? cpu_iopl(c) < 3 : c->st.cpl > cpu_iopl(c))
        gp0(c);
}

void op_cli(struct soft_cpu *c, const struct insn *in)
{
    if (vif_active(c)) {
        c->st.rflags &= ~(uint64_t)X86_VIF;
        return;
    }
    if_check(c);
    c->st.rflags &= ~(uint64_t)X86_IF;
}

void op_sti(struct soft_cpu *c, const struct insn *in)
{
    if (vif_active(c)) {
        if (c->st.rflags & X86_VIP)
            gp0(c);
        c->st.rflags |= X86_VIF;
        return;
    }
    if_check(c);
    if (c->st.rflags & X86_IF)
        return;
    c->st.rflags |= X86_IF;
    c->st.intr_shadow = 1;
}

static unsigned flags_size(unsigned op)
{
    switch (op) {
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_POPFQ:
        return 8;
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_POPFD:
        return 4;
    default:
        return 2;
    }
}

void op_pushf(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = flags_size(in->op);

    if (vme_active(c) && size == 2) {
        stack_push(c, 2, vme_flags_out(c) & 0xffff);
        return;
    }
    if (cpu_v86(c) && cpu_iopl(c) < 3)
        gp0(c);
    stack_push(c, size, c->st.rflags & ~(uint64_t)(X86_VM | X86_RF));
}

/* POPF while VIF stands for IF. */
static void popf_vme(struct soft_cpu *c)
{
    struct frame f = frame_present(c, 0);

    c->st.rflags = vme_flags_in(c, frame_pop(c, &f, 2));
    frame_commit(c, &f);
}

void op_popf(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = flags_size(in->op);
    uint64_t old = c->st.rflags, val, mask = X86_ARITH | X86_TF | X86_DF | X86_NT;

    if (vme_active(c) && size == 2) {
        popf_vme(c);
        return;
    }
    if (cpu_v86(c) && cpu_iopl(c) < 3)
        gp0(c);
    val = stack_pop(c, size);
    if (cpu_v86(c) || c->st.cpl <= cpu_iopl(c))
        mask |= X86_IF;
    if (c->st.cpl == 0)
        mask |= X86_IOPL;
    if (size > 2) {
        mask |= X86_AC | X86_ID | X86_RF; /* RF reads as 0 from the image below */
        if (c->st.cpl == 0)
            mask |= X86_VIF | X86_VIP;
        val &= ~(uint64_t)(X86_RF | X86_VIF | X86_VIP);
    }
    c->st.rflags = (old & ~mask) | (val & mask) | 2;
    if ((old ^ c->st.rflags) & X86_AC)
        tlb_switch(c);
    flags_written(c, old);
}

static void ac_write(struct soft_cpu *c, bool ac)
{
    if (c->st.cpl != 0)
        soft_raise(c, X86_UD);
    c->st.rflags = (c->st.rflags & ~(uint64_t)X86_AC) | (ac ? X86_AC : 0);
    if (c->st.cr4 & X86_CR4_SMAP)
        tlb_switch(c);
}

void op_stac(struct soft_cpu *c, const struct insn *in)
{
    ac_write(c, true);
}

void op_clac(struct soft_cpu *c, const struct insn *in)
{
    ac_write(c, false);
}

/* ---- Descriptor-table registers ----------------------------------------- */

/* Limit, then a base of 8 bytes in 64-bit mode, else of 4 (3 of them used with 16-bit operands). */
static void load_dtr(struct soft_cpu *c, const struct insn *in, struct x86_dtr *dtr)
{
    unsigned size = natural_size(c);
    uint16_t limit;
    uint64_t base;

    require_cpl0(c);
    limit = (uint16_t)mem_ld(c, mem_operand(c, in, 0, 2, ACC_READ), 2);
    base = mem_ld(c, mem_operand(c, in, 2, size, ACC_READ), size);
    if (size == 4 && in->op_size == 2)
        base &= 0xffffff;
    if (!canonical(base))
        gp0(c);
    dtr->limit = limit;
    dtr->base = base;
}

static void store_dtr(struct soft_cpu *c, const struct insn *in, const struct x86_dtr *dtr)
{
    unsigned size = natural_size(c);
    gva_t lo, hi;

    umip_check(c);
    lo = mem_operand(c, in, 0, 2, ACC_WRITE);
    hi = mem_operand(c, in, 2, size, ACC_WRITE);
    mem_probe(c, lo, 2, ACC_WRITE);
    mem_probe(c, hi, size, ACC_WRITE);
    mem_st(c, lo, 2, dtr->limit);
    mem_st(c, hi, size, dtr->base);
}

void op_lgdt(struct soft_cpu *c, const struct insn *in)
{
    load_dtr(c, in, &c->st.gdtr);
}

void op_lidt(struct soft_cpu *c, const struct insn *in)
{
    load_dtr(c, in, &c->st.idtr);
}

void op_sgdt(struct soft_cpu *c, const struct insn *in)
{
    store_dtr(c, in, &c->st.gdtr);
}

void op_sidt(struct soft_cpu *c, const struct insn *in)
{
    store_dtr(c, in, &c->st.idtr);
}

/* ---- TLB and caches ----------------------------------------------------- */

/* No segment or canonical fault: such an address has no translation to drop. */
void op_invlpg(struct soft_cpu *c, const struct insn *in)
{
    uint64_t ea = insn_ea(c, in);

    require_cpl0(c);
    if (c->mode != INSN_64)
        tlb_flush_page(c, (uint32_t)(c->st.seg[in->mem_seg].base + ea));
    else if (in->mem_seg >= X86_FS)
        tlb_flush_page(c, c->st.seg[in->mem_seg].base + ea);
    else
        tlb_flush_page(c, ea);
}

void op_invpcid(struct soft_cpu *c, const struct insn *in)
{
    uint64_t type = gpr_get(c, in->opnd[0].reg, natural_size(c)), pcid, va;
    gva_t desc;

    if (cpu_v86(c))
        gp0(c);
    require_cpl0(c);
    desc = mem_operand(c, in, 0, 16, ACC_READ);
    pcid = mem_ld(c, desc, 8);
    va = mem_ld(c, desc + 8, 8);
    if (type > 3 || pcid >> 12 || (type < 2 && pcid && !(c->st.cr4 & X86_CR4_PCIDE)) ||
        (type == 0 && !canonical(va)))
        gp0(c);
    if (type == 0)
        tlb_flush_page(c, va);
    else if (type == 1)
        tlb_flush_pcid(c, (unsigned)pcid);
    else if (type == 2)
        tlb_flush_all(c);
    else
        tlb_flush_nonglobal(c);
}

/* ---- Protection keys ---------------------------------------------------- */

void soft_set_pkru(struct soft_cpu *c, uint32_t val)
{
    uint32_t changed = c->st.pkru ^ val;

    c->st.pkru = val;
    soft_keys_changed(c, &c->user_keys, changed);
}

void soft_keys_changed(struct soft_cpu *c, uint16_t *known, uint32_t changed)
{
    for (unsigned key = 0; key < 16; key++) {
        if ((changed >> (2 * key) & 3) && (*known >> key & 1)) {
            c->user_keys = c->system_keys = 0;
            tlb_flush_all(c);
            return;
        }
    }
}

void op_rdpkru(struct soft_cpu *c, const struct insn *in)
{
    if (!(c->st.cr4 & X86_CR4_PKE))
        soft_raise(c, X86_UD);
    if ((uint32_t)c->st.gpr[X86_RCX])
        gp0(c);
    c->st.gpr[X86_RAX] = c->st.pkru;
    c->st.gpr[X86_RDX] = 0;
}

void op_wrpkru(struct soft_cpu *c, const struct insn *in)
{
    if (!(c->st.cr4 & X86_CR4_PKE))
        soft_raise(c, X86_UD);
    if ((uint32_t)c->st.gpr[X86_RCX] || (uint32_t)c->st.gpr[X86_RDX])
        gp0(c);
    soft_set_pkru(c, (uint32_t)c->st.gpr[X86_RAX]);
}

/* INVD and WBINVD: guest memory is always coherent. */
void op_invd(struct soft_cpu *c, const struct insn *in)
{
    require_cpl0(c);
}

/* ---- The rest ----------------------------------------------------------- */

void op_hlt(struct soft_cpu *c, const struct insn *in)
{
    require_cpl0(c);
    c->st.run = X86_HALTED;
    soft_look_up(c);
}

void op_vmcall(struct soft_cpu *c, const struct insn *in)
{
    uint64_t *gpr = c->st.gpr, mask = size_mask(natural_size(c)), ret;
    uint64_t args[4] = {gpr[X86_RBX] & mask, gpr[X86_RCX] & mask, gpr[X86_RDX] & mask,
                        gpr[X86_RSI] & mask};

    if (c->st.cpl != 0) {
        ret = (uint64_t)-1; /* -KVM_EPERM */
    } else {
        soft_fpu_park(c);
        ret = vcpu_hypercall(c->vcpu, gpr[X86_RAX] & mask, args);
    }
    gpr[X86_RAX] = ret & mask;
}

void interp_sipi(struct soft_cpu *c, unsigned start_page)
{
    struct x86_seg *cs = &c->st.seg[X86_CS];

    cs->sel = (uint16_t)((start_page & 0xff) << 8);
    cs->base = (uint64_t)cs->sel << 4;
    c->st.rip = c->next_rip = 0;
    c->st.run = X86_RUNNING;
    soft_mode_changed(c);
}
