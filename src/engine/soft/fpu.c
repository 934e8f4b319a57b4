/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Vector and x87 state: moving it between st.xsave and the host's registers,
 * and running native instructions.
 */
#include "engine/soft/fpu.h"

#include <signal.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/run.h"
#include "engine/soft/tlb.h"
#include "x86/cpuid.h"

#define FCW_MASKS 0x3fu
#define FCW_INIT  0x37fu
#define FSW_ES    0x80u

/* The guest's rounding and unmasked exceptions are not for the C code that runs while its state is parked. */
static void host_controls(struct soft_cpu *c)
{
    static const uint32_t mxcsr = MXCSR_MASKS;

    if (fpu_area(c)->mxcsr != MXCSR_MASKS)
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    if (fpu_area(c)->fcw != FCW_INIT || (fpu_area(c)->fsw & FSW_ES))
        __asm__ volatile("fninit");
}

FPU_BARE static void regs_save(struct soft_cpu *c)
{
    __asm__ volatile("xsave64 (%0)"
                     :
                     : "r"(c->st.xsave), "a"((uint32_t)CPUID_XCR0_MASK), "d"(0)
                     : "memory");
}

FPU_BARE static void regs_load(struct soft_cpu *c)
{
    __asm__ volatile("xrstor64 (%0)"
                     :
                     : "r"(c->st.xsave), "a"((uint32_t)CPUID_XCR0_MASK), "d"(0)
                     : "memory");
}

void soft_fpu_park(struct soft_cpu *c)
{
    if (!c->fpu_live)
        return;
    if (!FPU_IN_CODE_ONLY)
        regs_save(c);
    fpu_area(c)->fip = fpu_area(c)->fdp = 0; /* they are the host's */
    fpu_area(c)->fop = 0;
    c->fpu_live = c->fpu_ok = 0;
    host_controls(c);
}

/* Into the host's registers, whatever the guest's control bits say. */
static void fpu_bring(struct soft_cpu *c)
{
    if (c->fpu_live)
        return;
    fpu_area(c)->xcomp_bv = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(fpu_area(c)->header_rsvd); i++)
        fpu_area(c)->header_rsvd[i] = 0;
    fpu_area(c)->xstate_bv &= CPUID_XCR0_MASK;
    fpu_area(c)->mxcsr &= MXCSR_VALID;
    if (!FPU_IN_CODE_ONLY)
        regs_load(c);
    c->fpu_live = 1;
    c->counters.fpu_load++;
}

FPU_BARE static void regs_cycle(struct soft_cpu *c)
{
    regs_load(c);
    regs_save(c);
}

void fpu_loaded(struct soft_cpu *c)
{
    fpu_bring(c);
    if (FPU_IN_CODE_ONLY) {
        regs_cycle(c);
        host_controls(c);
    }
    soft_fpu_changed(c);
}

#if FPU_IN_CODE_ONLY
FPU_BARE static void code_begins(struct soft_cpu *c)
{
    if (c->fpu_live)
        regs_load(c);
}

FPU_BARE static void code_ends(struct soft_cpu *c)
{
    if (!c->fpu_live)
        return;
    regs_save(c);
    host_controls(c);
}

FPU_BARE void soft_enter(struct soft_cpu *c, const uint8_t *code)
{
    code_begins(c);
    c->svm->cache.glue.enter(c, code);
    code_ends(c);
}

FPU_BARE const uint8_t *code_interp(struct soft_cpu *c, const struct insn *in, const uint8_t *next)
{
    const uint8_t *to;

    code_ends(c);
    to = soft_interp_inline(c, in, next);
    code_begins(c);
    return to;
}

FPU_BARE const uint8_t *code_miss(struct soft_cpu *c, uint64_t xored, enum mem_access acc,
                                  uint32_t record, uint64_t entry)
{
    const uint8_t *to;

    code_ends(c);
    to = soft_miss(c, xored, acc, record, entry);
    code_begins(c);
    return to;
}
#endif

/* In the handler of a host's signal the registers are nobody's, which does no harm. */
void soft_own_slow(struct soft_cpu *c, const uint8_t *host, unsigned len)
{
    bool live = c->fpu_live && !FPU_IN_CODE_ONLY;

    if (live) {
        regs_save(c);
        host_controls(c);
    }
    mem_own_slow(&c->svm->vm->mem, host, len);
    if (live)
        regs_load(c);
}

/* Control and status of vector state that is live. */
static uint32_t live_mxcsr(struct soft_cpu *c)
{
    uint32_t v = fpu_area(c)->mxcsr;

    if (!FPU_IN_CODE_ONLY)
        __asm__ volatile("stmxcsr %0" : "=m"(v));
    return v;
}

static uint16_t live_fcw(struct soft_cpu *c)
{
    uint16_t v = fpu_area(c)->xstate_bv & XS_X87 ? fpu_area(c)->fcw : FCW_INIT;

    if (!FPU_IN_CODE_ONLY)
        __asm__ volatile("fnstcw %0" : "=m"(v));
    return v;
}

static uint16_t live_fsw(struct soft_cpu *c)
{
    uint16_t v = fpu_area(c)->xstate_bv & XS_X87 ? fpu_area(c)->fsw : 0;

    if (!FPU_IN_CODE_ONLY)
        __asm__ volatile("fnstsw %0" : "=m"(v));
    return v;
}

/* May vector code run natively without asking first? Exceptions must all be masked, every component be enabled. */
static bool fpu_unconditional(struct soft_cpu *c)
{
    if ((c->st.cr0 & (X86_CR0_TS | X86_CR0_EM)) ||
        (c->st.xcr0 & CPUID_XCR0_MASK) != CPUID_XCR0_MASK ||
        (c->st.cr4 & (X86_CR4_OSFXSR | X86_CR4_OSXSAVE)) != (X86_CR4_OSFXSR | X86_CR4_OSXSAVE))
        return false;
    return (live_mxcsr(c) & MXCSR_MASKS) == MXCSR_MASKS && (live_fcw(c) & FCW_MASKS) == FCW_MASKS &&
           !(live_fsw(c) & FSW_ES);
}

bool soft_fpu_load(struct soft_cpu *c)
{
    if (c->st.cr0 & (X86_CR0_TS | X86_CR0_EM))
        return false;
    fpu_bring(c);
    c->fpu_ok = fpu_unconditional(c);
    return c->fpu_ok;
}

void soft_fpu_changed(struct soft_cpu *c)
{
    c->fpu_ok = c->fpu_live && fpu_unconditional(c);
}

/* ---- Native instructions ------------------------------------------------------- */

static bool is_x87(const struct insn *in)
{
    return in->enc == ENC_LEGACY && in->bytes[in->op_off] >= 0xd8 && in->bytes[in->op_off] <= 0xdf;
}

static bool is_mmx(const struct insn *in)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == OPND_VEC && (in->opnd[i].access & OPND_MMX))
            return true;
    return in->op == ZYDIS_MNEMONIC_EMMS;
}

void fpu_require_enabled(struct soft_cpu *c, const struct insn *in)
{
    const struct x86_state *st = &c->st;

    if (is_x87(in) || in->op == ZYDIS_MNEMONIC_FWAIT) {
        if (st->cr0 & (in->op == ZYDIS_MNEMONIC_FWAIT ? 0 : X86_CR0_EM))
            soft_raise(c, X86_NM);
        if ((st->cr0 & X86_CR0_TS) && (in->op != ZYDIS_MNEMONIC_FWAIT || (st->cr0 & X86_CR0_MP)))
            soft_raise(c, X86_NM);
        return;
    }
    if (in->enc == ENC_VEX) {
        if (!(st->cr4 & X86_CR4_OSXSAVE) || (st->xcr0 & 6) != 6 || !(st->cr0 & X86_CR0_PE) ||
            (st->rflags & X86_VM))
            soft_raise(c, X86_UD);
    } else if (st->cr0 & X86_CR0_EM) {
        soft_raise(c, X86_UD);
    } else if (!is_mmx(in) && !(st->cr4 & X86_CR4_OSFXSR)) {
        soft_raise(c, X86_UD);
    }
    if (st->cr0 & X86_CR0_TS)
        soft_raise(c, X86_NM);
}

/* A host signal from a thunk, as the guest's exception. */
static _Noreturn void raise_signal(struct soft_cpu *c, const struct insn *in, int sig)
{
    switch (sig) {
    case SIGFPE:
        if (is_x87(in) || in->op == ZYDIS_MNEMONIC_FWAIT)
            soft_raise(c, X86_MF); /* MMX code: see raise_pending */
        soft_raise(c, c->st.cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD);
    case SIGILL:
        soft_raise(c, X86_UD);
    default: /* a misaligned operand */
        soft_raise_err(c, X86_GP, 0);
    }
}

/*
 * The thunk for an instruction, from the vCPU's own table if it can be: to ask
 * the cache, vector state must be parked first.
 */
static const uint8_t *find_thunk(struct soft_cpu *c, const struct insn *in, uint32_t gen)
{
    struct thunk_entry *t;
    uint64_t b[2];
    bool full;

    memcpy(b, in->bytes, sizeof(b));
    b[1] |= (uint64_t)in->mode << 56; /* the sixteenth byte is free */
    t = &c->thunks[((b[0] ^ b[1] * 31) * 0x9e3779b97f4a7c15ull) >> (64 - THUNK_BITS)];
    if (likely(t->code && t->gen == gen && t->bytes[0] == b[0] && t->bytes[1] == b[1]))
        return t->code;
    soft_fpu_park(c);
    while (!(t->code = cache_thunk(c, in, &full)) && full)
        cache_flush_all(c); /* run_thunk sees that the generation changed */
    t->gen = gen;
    t->bytes[0] = b[0];
    t->bytes[1] = b[1];
    return t->code;
}

static void run_thunk(struct soft_cpu *c, const struct insn *in, uint8_t *operand)
{
    struct cache *k = &c->svm->cache;
    uint64_t outer = c->host_rsp; /* translated code may have called us */
    const uint8_t *code;

    for (;;) {
        uint32_t gen = atomic_load(&k->gen);

        c->fault_signal = 0;
        code = find_thunk(c, in, gen);
        if (!code)
            soft_raise(c, X86_UD);
        if (in->flags & INSN_SIMD)
            fpu_bring(c);
        atomic_store(&c->in_code, 1);
        if (!atomic_load(&k->flushing) && atomic_load(&k->gen) == gen)
            break;
        atomic_store(&c->in_code, 0);
    }
    c->tmp[0] = (uint64_t)(uintptr_t)operand;
    flags_to_lazy(c);
    c->in_thunk = 1;
    soft_enter(c, code);
    c->in_thunk = 0;
    c->host_rsp = outer;
    atomic_store(&c->in_code, 0);
    if (c->fault_signal)
        raise_signal(c, in, c->fault_signal);
    flags_from_lazy(c);
}

static unsigned mem_direction(const struct insn *in)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == OPND_MEM)
            return in->opnd[i].access;
    return 0;
}

/* Is a misaligned operand a #GP? SDM volume 1, 10.4.1.1 and 14.9. */
static bool must_be_aligned(const struct insn *in)
{
    if (!(in->flags & INSN_SIMD) || in->mem_size < 16 || is_x87(in))
        return false;
    switch (in->op) {
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return true;
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
    case ZYDIS_MNEMONIC_SHA1MSG1: /* AMD's processors do not check these, so neither does translated code */
    case ZYDIS_MNEMONIC_SHA1MSG2:
    case ZYDIS_MNEMONIC_SHA1NEXTE:
    case ZYDIS_MNEMONIC_SHA1RNDS4:
    case ZYDIS_MNEMONIC_SHA256MSG1:
    case ZYDIS_MNEMONIC_SHA256MSG2:
    case ZYDIS_MNEMONIC_SHA256RNDS2:
        return false;
    default:
        return in->enc == ENC_LEGACY;
    }
}

/* x87 instructions that do not look at pending exceptions first. */
static bool is_nonwaiting(const struct insn *in)
{
    switch (in->op) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return true;
    default:
        return false;
    }
}

/* A pending x87 exception comes before anything a memory operand may raise. */
static void raise_pending(struct soft_cpu *c, const struct insn *in)
{
    uint16_t fsw = fpu_area(c)->fsw;

    if ((!is_x87(in) && !is_mmx(in)) || is_nonwaiting(in))
        return;
    if (c->fpu_live)
        fsw = live_fsw(c);
    else if (!(fpu_area(c)->xstate_bv & XS_X87))
        return;
    if (fsw & FSW_ES)
        soft_raise(c, X86_MF);
}

/* What x87 environment images say of where the last instruction was: the host's addresses, not the guest's. */
static void scrub_environment(const struct insn *in, uint8_t *image)
{
    if (in->op != ZYDIS_MNEMONIC_FNSTENV && in->op != ZYDIS_MNEMONIC_FNSAVE)
        return;
    bool wide = in->mem_size == 28 ||
                in->mem_size == 108; /* else the 16-bit format, SDM volume 1, figure 8-12 */

    for (unsigned i = wide ? 12 : 6; i < (wide ? 26 : 14); i++)
        image[i] = 0;
}

static bool same_bytes(const uint8_t *a, const uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

/* Fetch the memory operand into the bounce buffer, having raised what it raises. Returns its address. */
static gva_t operand_in(struct soft_cpu *c, const struct insn *in, unsigned dir, uint8_t **operand)
{
    unsigned size = in->mem_size;
    uint64_t off = insn_ea(c, in), base = c->st.seg[in->mem_seg].base;
    gva_t va;

    if (c->mode == INSN_64 && in->mem_seg < X86_FS)
        base = 0;
    if (must_be_aligned(in) && ((base + off) & (size - 1)))
        soft_raise_err(c, X86_GP, 0);
    va = seg_linear(c, in->mem_seg, off, size, dir & OPND_WRITE ? ACC_WRITE : ACC_READ);
    *operand += va & 63; /* the operand's alignment must be what the guest's is */
    if (dir & OPND_WRITE)
        mem_probe(c, va, size, ACC_WRITE);
    if ((dir & OPND_READ) || is_x87(in))
        mem_ld_bytes(c, va, *operand, size);
    return va;
}

void fpu_native(struct soft_cpu *c, const struct insn *in)
{
    unsigned dir = mem_direction(in), size = in->mem_size;
    uint8_t *operand = c->bounce;
    uint8_t before[16];
    bool may_not_store = is_x87(in) && dir == OPND_WRITE && size <= sizeof(before);
    gva_t va = 0;

    if (in->flags & INSN_SIMD) {
        fpu_require_enabled(c, in);
        raise_pending(c, in);
    }
    if (in->flags & INSN_HAS_MEM)
        va = operand_in(c, in, dir, &operand);
    if (may_not_store)
        memcpy(before, operand, sizeof(before));
    run_thunk(c, in, operand);
    if (dir & OPND_WRITE) {
        scrub_environment(in, operand);
        /* An x87 store that raises an unmasked exception leaves memory alone. */
        if (!may_not_store || !same_bytes(before, operand, size))
            mem_st_bytes(c, va, operand, size);
    }
    if (in->flags & INSN_SIMD)
        soft_fpu_changed(c);
}

/* ---- MXCSR ------------------------------------------------------------------------ */

static void op_ldmxcsr(struct soft_cpu *c, const struct insn *in)
{
    gva_t va;
    uint32_t v;

    fpu_require_enabled(c, in);
    va = seg_linear(c, in->mem_seg, insn_ea(c, in), 4, ACC_READ);
    v = (uint32_t)mem_ld(c, va, 4);
    if (v & ~MXCSR_VALID)
        soft_raise_err(c, X86_GP, 0);
    fpu_bring(c);
    if (FPU_IN_CODE_ONLY)
        fpu_area(c)->mxcsr = v;
    else
        __asm__ volatile("ldmxcsr %0" : : "m"(v));
    soft_fpu_changed(c);
}

static void op_stmxcsr(struct soft_cpu *c, const struct insn *in)
{
    gva_t va;

    fpu_require_enabled(c, in);
    va = seg_linear(c, in->mem_seg, insn_ea(c, in), 4, ACC_WRITE);
    fpu_bring(c);
    mem_st(c, va, 4, live_mxcsr(c));
}

/* ---- MASKMOVDQU and kin: bytes of a register stored where the mask's top bits say -------- */

static const uint8_t *vec_bytes(struct soft_cpu *c, const struct opnd *o)
{
    struct xsave_area *a = fpu_area(c);

    if (o->access & OPND_MMX) /* MMn is the physical register, the image is in stack order */
        return a->st[(o->reg - (a->fsw >> 11 & 7)) & 7];
    return a->xmm[o->reg & 15];
}

/* What every MMX instruction does to x87 state (SDM volume 1, 9.5.1): TOP 0, no register empty. */
static void enter_mmx(struct xsave_area *a)
{
    unsigned top = a->fsw >> 11 & 7;
    uint64_t old[8][2];

    memcpy(old, a->st, sizeof(old));
    for (unsigned i = 0; i < 8; i++)
        memcpy(a->st[i], old[(i - top) & 7], 16);
    a->fsw &= (uint16_t)~0x3800;
    a->ftw = 0xff;
    a->xstate_bv |= XS_X87;
}

static void op_maskmov(struct soft_cpu *c, const struct insn *in)
{
    const uint8_t *src, *mask;
    uint64_t off = c->st.gpr[X86_RDI];
    unsigned n = 0;
    gva_t va;

    fpu_require_enabled(c, in);
    raise_pending(c, in);
    soft_fpu_park(c);
    if (is_mmx(in))
        enter_mmx(fpu_area(c));
    for (unsigned i = 0; i < in->nopnd; i++)
        n = in->opnd[i].kind == OPND_VEC ? in->opnd[i].size : n;
    src = vec_bytes(c, &in->opnd[in->nopnd - 2]);
    mask = vec_bytes(c, &in->opnd[in->nopnd - 1]);
    if (in->addr_size < 8)
        off &= in->addr_size == 4 ? 0xffffffff : 0xffff;
    va = seg_linear(c, in->mem_seg, off, n, ACC_WRITE);
    for (unsigned i = 0; i < n; i++)
        if (mask[i] & 0x80)
            mem_probe(c, va + i, 1, ACC_WRITE);
    for (unsigned i = 0; i < n; i++)
        if (mask[i] & 0x80)
            mem_st(c, va + i, 1, src[i]);
}

/* Outside 64-bit mode only the eight registers there are (SDM volume 2). */
static void op_vzero(struct soft_cpu *c, const struct insn *in)
{
    struct xsave_area *a = fpu_area(c);

    if (c->mode == INSN_64) {
        fpu_native(c, in);
        return;
    }
    fpu_require_enabled(c, in);
    soft_fpu_park(c);
    for (unsigned i = 0; i < 8; i++) {
        memset(a->ymmh[i], 0, 16);
        if (in->op == ZYDIS_MNEMONIC_VZEROALL)
            memset(a->xmm[i], 0, 16);
    }
}

insn_fn *const interp_fpu_table[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    [ZYDIS_MNEMONIC_LDMXCSR] = op_ldmxcsr,       [ZYDIS_MNEMONIC_VLDMXCSR] = op_ldmxcsr,
    [ZYDIS_MNEMONIC_STMXCSR] = op_stmxcsr,       [ZYDIS_MNEMONIC_VSTMXCSR] = op_stmxcsr,
    [ZYDIS_MNEMONIC_FXSAVE] = fop_fxsave,        [ZYDIS_MNEMONIC_FXSAVE64] = fop_fxsave,
    [ZYDIS_MNEMONIC_FXRSTOR] = fop_fxrstor,      [ZYDIS_MNEMONIC_FXRSTOR64] = fop_fxrstor,
    [ZYDIS_MNEMONIC_XSAVE] = fop_xsave,          [ZYDIS_MNEMONIC_XSAVE64] = fop_xsave,
    [ZYDIS_MNEMONIC_XSAVEOPT] = fop_xsaveopt,    [ZYDIS_MNEMONIC_XSAVEOPT64] = fop_xsaveopt,
    [ZYDIS_MNEMONIC_XSAVEC] = fop_xsavec,        [ZYDIS_MNEMONIC_XSAVEC64] = fop_xsavec,
    [ZYDIS_MNEMONIC_XRSTOR] = fop_xrstor,        [ZYDIS_MNEMONIC_XRSTOR64] = fop_xrstor,
    [ZYDIS_MNEMONIC_XGETBV] = fop_xgetbv,        [ZYDIS_MNEMONIC_MASKMOVQ] = op_maskmov,
    [ZYDIS_MNEMONIC_MASKMOVDQU] = op_maskmov,    [ZYDIS_MNEMONIC_VMASKMOVDQU] = op_maskmov,
    [ZYDIS_MNEMONIC_VZEROALL] = op_vzero,        [ZYDIS_MNEMONIC_VZEROUPPER] = op_vzero,
    [ZYDIS_MNEMONIC_VMASKMOVPS] = fop_maskmov4,  [ZYDIS_MNEMONIC_VPMASKMOVD] = fop_maskmov4,
    [ZYDIS_MNEMONIC_VMASKMOVPD] = fop_maskmov8,  [ZYDIS_MNEMONIC_VPMASKMOVQ] = fop_maskmov8,
    [ZYDIS_MNEMONIC_VGATHERDPS] = fop_gather_d4, [ZYDIS_MNEMONIC_VPGATHERDD] = fop_gather_d4,
    [ZYDIS_MNEMONIC_VGATHERDPD] = fop_gather_d8, [ZYDIS_MNEMONIC_VPGATHERDQ] = fop_gather_d8,
    [ZYDIS_MNEMONIC_VGATHERQPS] = fop_gather_q4, [ZYDIS_MNEMONIC_VPGATHERQD] = fop_gather_q4,
    [ZYDIS_MNEMONIC_VGATHERQPD] = fop_gather_q8, [ZYDIS_MNEMONIC_VPGATHERQQ] = fop_gather_q8,
};
