/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Model-specific registers, time stamp, CPUID and the registers that MSRs mirror: SDM volumes 2 and 4. */
#include "engine/soft/interp_sys.h"

#include "x86/cpuid.h"

enum {
    MSR_TSC = 0x10,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_PAT = 0x277,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_PKRS = 0x6e1,
    MSR_X2APIC_TPR = 0x808,
    MSR_X2APIC_EOI = 0x80b,
};
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_SFMASK         0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

static _Noreturn void msr_fault(struct soft_cpu *c)
{
    soft_raise_err(c, X86_GP, 0);
}

/* ---- Time --------------------------------------------------------------- */

static uint64_t tsc_now(const struct soft_cpu *c)
{
    return __builtin_ia32_rdtsc() + c->vcpu->vm->clock.tsc_offset + c->st.tsc_adjust;
}

static void put_pair(struct soft_cpu *c, uint64_t val)
{
    c->st.gpr[X86_RAX] = (uint32_t)val;
    c->st.gpr[X86_RDX] = val >> 32;
}

static void require_tsc(struct soft_cpu *c)
{
    if (unlikely((c->st.cr4 & X86_CR4_TSD) && c->st.cpl != 0))
        soft_raise_err(c, X86_GP, 0);
}

void op_rdtsc(struct soft_cpu *c, const struct insn *in)
{
    require_tsc(c);
    put_pair(c, tsc_now(c));
}

void op_rdtscp(struct soft_cpu *c, const struct insn *in)
{
    require_tsc(c);
    put_pair(c, tsc_now(c));
    c->st.gpr[X86_RCX] = (uint32_t)c->st.tsc_aux;
}

void op_rdpid(struct soft_cpu *c, const struct insn *in)
{
    c->st.gpr[in->opnd[0].reg] = (uint32_t)c->st.tsc_aux;
}

/* No performance counters. */
void op_rdpmc(struct soft_cpu *c, const struct insn *in)
{
    soft_raise_err(c, X86_GP, 0);
}

/* ---- MSRs --------------------------------------------------------------- */

static uint32_t cpuid_reg(struct soft_cpu *c, uint32_t leaf, unsigned reg)
{
    uint32_t out[4];

    soft_fpu_park(c);
    cpuid_get(c->vcpu, &c->st, leaf, 0, out);
    return out[reg];
}

static bool nx_offered(struct soft_cpu *c)
{
    return cpuid_reg(c, 0x80000001, 3) >> 20 & 1;
}

static bool pks_offered(struct soft_cpu *c)
{
    return cpuid_reg(c, 7, 2) >> 31;
}

/* Registers kept in x86_state that are read and written as they are; `canon`: must be canonical. */
static uint64_t *plain_msr(struct x86_state *st, uint32_t msr, bool *canon)
{
    *canon = true;
    switch (msr) {
    case MSR_FS_BASE:
        return &st->seg[X86_FS].base;
    case MSR_GS_BASE:
        return &st->seg[X86_GS].base;
    case MSR_KERNEL_GS_BASE:
        return &st->kernel_gs_base;
    case MSR_LSTAR:
        return &st->lstar;
    case MSR_CSTAR:
        return &st->cstar;
    case MSR_SYSENTER_ESP:
        return &st->sysenter_esp;
    case MSR_SYSENTER_EIP:
        return &st->sysenter_eip;
    default:
        break;
    }
    *canon = false;
    switch (msr) {
    case MSR_STAR:
        return &st->star;
    case MSR_SYSENTER_CS:
        return &st->sysenter_cs;
    case MSR_TSC_ADJUST:
        return &st->tsc_adjust;
    default:
        return NULL;
    }
}

static uint64_t machine_msr_read(struct soft_cpu *c, uint32_t msr)
{
    uint64_t val;

    if (msr == MSR_PKRS && pks_offered(c))
        return c->st.pkrs;
    soft_fpu_park(c);
    if (vcpu_msr_read(c->vcpu, msr, &val) != 0)
        msr_fault(c);
    if (msr == MSR_TSC_DEADLINE && val)
        val += c->st.tsc_adjust; /* the APIC counts in the VM's TSC */
    return val;
}

void op_rdmsr(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint32_t msr = (uint32_t)st->gpr[X86_RCX];
    const uint64_t *reg;
    bool canon;
    uint64_t val;

    require_cpl0(c);
    reg = plain_msr(st, msr, &canon);
    if (reg)
        val = *reg;
    else if (msr == MSR_EFER)
        val = st->efer;
    else if (msr == MSR_SFMASK)
        val = st->sfmask;
    else if (msr == MSR_TSC_AUX)
        val = st->tsc_aux;
    else if (msr == MSR_PAT)
        val = st->pat;
    else if (msr == MSR_TSC)
        val = tsc_now(c);
    else
        val = machine_msr_read(c, msr);
    put_pair(c, val);
}

static void efer_write(struct soft_cpu *c, uint64_t val)
{
    struct x86_state *st = &c->st;
    uint64_t old = st->efer;

    if (val & ~(uint64_t)(X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE))
        msr_fault(c);
    if ((val ^ old) & X86_EFER_LME && st->cr0 & X86_CR0_PG)
        msr_fault(c);
    if (val & ~old & X86_EFER_NXE && !nx_offered(c))
        msr_fault(c);
    st->efer = (val & ~(uint64_t)X86_EFER_LMA) | (old & X86_EFER_LMA);
    if ((val ^ old) & X86_EFER_NXE) {
        tlb_flush_all(c);
        tlb_switch(c);
    }
}

/* Memory types 0, 1, 4, 5, 6 and 7 exist: SDM volume 3, table 11-10. */
static bool pat_valid(uint64_t pat)
{
    for (unsigned i = 0; i < 64; i += 8)
        if (!((pat >> i & 0xff) < 8 && 0xf3u >> (pat >> i & 7) & 1))
            return false;
    return true;
}

static void pkrs_write(struct soft_cpu *c, uint64_t val)
{
    uint32_t changed = c->st.pkrs ^ (uint32_t)val;

    if (val >> 32)
        msr_fault(c);
    c->st.pkrs = (uint32_t)val;
    soft_keys_changed(c, &c->system_keys, changed);
}

static void machine_msr_write(struct soft_cpu *c, uint32_t msr, uint64_t val)
{
    if (msr == MSR_PKRS && pks_offered(c)) {
        pkrs_write(c, val);
        return;
    }
    if (msr == MSR_TSC_DEADLINE && val) {
        val -= c->st.tsc_adjust;
        if (!val)
            val = 1; /* 0 would disarm it */
    }
    soft_fpu_park(c);
    if (vcpu_msr_write(c->vcpu, msr, val) != 0)
        msr_fault(c);
    if (msr == MSR_X2APIC_EOI || msr == MSR_X2APIC_TPR)
        soft_look_up(c);
}

void op_wrmsr(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint32_t msr = (uint32_t)st->gpr[X86_RCX];
    uint64_t val = (uint32_t)st->gpr[X86_RAX] | st->gpr[X86_RDX] << 32;
    uint64_t *reg;
    bool canon;

    require_cpl0(c);
    reg = plain_msr(st, msr, &canon);
    if (reg) {
        if (canon && !canonical(val))
            msr_fault(c);
        *reg = val;
    } else if (msr == MSR_EFER) {
        efer_write(c, val);
    } else if (msr == MSR_SFMASK) {
        st->sfmask = (uint32_t)val;
    } else if (msr == MSR_TSC_AUX) {
        if (val >> 32)
            msr_fault(c);
        st->tsc_aux = val;
    } else if (msr == MSR_PAT) {
        if (!pat_valid(val))
            msr_fault(c);
        st->pat = val;
    } else if (msr == MSR_TSC) {
        st->tsc_adjust += val - tsc_now(c);
    } else {
        machine_msr_write(c, msr, val);
    }
}

/* ---- FS and GS bases ---------------------------------------------------- */

void op_swapgs(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint64_t base = st->seg[X86_GS].base;

    if (unlikely(c->mode != INSN_64))
        soft_raise(c, X86_UD);
    require_cpl0(c);
    st->seg[X86_GS].base = st->kernel_gs_base;
    st->kernel_gs_base = base;
}

static void require_fsgsbase(struct soft_cpu *c)
{
    if (unlikely(c->mode != INSN_64 || !(c->st.cr4 & X86_CR4_FSGSBASE)))
        soft_raise(c, X86_UD);
}

static void read_base(struct soft_cpu *c, const struct insn *in, enum x86_sreg seg)
{
    require_fsgsbase(c);
    gpr_set(c, in->opnd[0].reg, in->opnd[0].size, c->st.seg[seg].base);
}

static void write_base(struct soft_cpu *c, const struct insn *in, enum x86_sreg seg)
{
    uint64_t val = gpr_get(c, in->opnd[0].reg, in->opnd[0].size);

    require_fsgsbase(c);
    if (unlikely(!canonical(val)))
        soft_raise_err(c, X86_GP, 0);
    c->st.seg[seg].base = val;
}

void op_rdfsbase(struct soft_cpu *c, const struct insn *in)
{
    read_base(c, in, X86_FS);
}

void op_rdgsbase(struct soft_cpu *c, const struct insn *in)
{
    read_base(c, in, X86_GS);
}

void op_wrfsbase(struct soft_cpu *c, const struct insn *in)
{
    write_base(c, in, X86_FS);
}

void op_wrgsbase(struct soft_cpu *c, const struct insn *in)
{
    write_base(c, in, X86_GS);
}

/* ---- CPUID and XCR0 ----------------------------------------------------- */

void op_cpuid(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint32_t out[4];

    soft_fpu_park(c);
    cpuid_get(c->vcpu, st, (uint32_t)st->gpr[X86_RAX], (uint32_t)st->gpr[X86_RCX], out);
    st->gpr[X86_RAX] = out[0];
    st->gpr[X86_RBX] = out[1];
    st->gpr[X86_RCX] = out[2];
    st->gpr[X86_RDX] = out[3];
}

void op_xsetbv(struct soft_cpu *c, const struct insn *in)
{
    struct x86_state *st = &c->st;
    uint64_t val = (uint32_t)st->gpr[X86_RAX] | st->gpr[X86_RDX] << 32;

    if (!(st->cr4 & X86_CR4_OSXSAVE))
        soft_raise(c, X86_UD);
    require_cpl0(c);
    /* x87 always; AVX only with SSE */
    if ((uint32_t)st->gpr[X86_RCX] != 0 || val & ~(uint64_t)cpuid_reg(c, 0xd, 0) || !(val & 1) ||
        (val & 6) == 4)
        soft_raise_err(c, X86_GP, 0);
    soft_fpu_park(c);
    st->xcr0 = val;
    soft_fpu_changed(c);
}
