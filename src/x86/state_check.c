/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which states a processor can be in: SDM volume 3, sections 2.5, 3.1, 4.1 and 26.3.1, volume 1, 13.4. */
#include "x86/state.h"

#include <string.h>

#define RFLAGS_KNOWN 0x3f7fd7ull
#define RFLAGS_ONE   0x2ull
#define CR0_KNOWN                                                                                  \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP |    \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR4_KNOWN                                                                                  \
    (0xfffull | X86_CR4_FSGSBASE | X86_CR4_PCIDE | X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP | \
     X86_CR4_PKE | X86_CR4_PKS)
#define EFER_KNOWN  (X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE)
#define ATTR_KNOWN  0x1f0ffu
#define XSTATE_BV   512
#define XSTATE_REST (XSTATE_BV + 8)
#define XSTATE_END  576
#define XSAVE_MXCSR 24
#define MXCSR_KNOWN 0xffffu
#define PHYS_MAX    52

static bool is_canonical(uint64_t va)
{
    return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

static const char *check_control(const struct x86_state *st)
{
    bool pg = st->cr0 & X86_CR0_PG, lma = st->efer & X86_EFER_LMA;

    if ((st->cr0 & ~(uint64_t)CR0_KNOWN) || (pg && !(st->cr0 & X86_CR0_PE)) ||
        ((st->cr0 & X86_CR0_NW) && !(st->cr0 & X86_CR0_CD)))
        return "CR0";
    if (st->cr4 & ~CR4_KNOWN)
        return "CR4";
    if ((st->efer & ~(uint64_t)EFER_KNOWN) || lma != (pg && (st->efer & X86_EFER_LME)))
        return "EFER";
    if ((lma && !(st->cr4 & X86_CR4_PAE)) || ((st->cr4 & X86_CR4_PCIDE) && !lma))
        return "CR4";
    if (st->cr3 >> PHYS_MAX)
        return "CR3";
    if ((st->rflags & ~RFLAGS_KNOWN) || !(st->rflags & RFLAGS_ONE) ||
        ((st->rflags & X86_VM) && (lma || !(st->cr0 & X86_CR0_PE))))
        return "RFLAGS";
    return NULL;
}

static const char *check_segments(const struct x86_state *st)
{
    const struct x86_seg *cs = &st->seg[X86_CS];
    bool lma = st->efer & X86_EFER_LMA;

    for (unsigned i = 0; i < X86_NSREGS; i++)
        if (st->seg[i].attr & ~ATTR_KNOWN || !is_canonical(st->seg[i].base))
            return "a segment";
    if ((st->ldtr.attr | st->tr.attr) & ~ATTR_KNOWN || !is_canonical(st->ldtr.base) ||
        !is_canonical(st->tr.base) || !is_canonical(st->gdtr.base) || !is_canonical(st->idtr.base))
        return "a descriptor table";
    if (lma && (cs->attr & X86_ATTR_L) && (cs->attr & X86_ATTR_DB))
        return "CS";
    if (lma && (cs->attr & X86_ATTR_L) ? !is_canonical(st->rip) : st->rip >> 32)
        return "RIP";
    return st->cpl > 3 ? "the privilege level" : NULL;
}

static const char *check_msrs(const struct x86_state *st)
{
    if (!is_canonical(st->lstar) || !is_canonical(st->cstar) || !is_canonical(st->kernel_gs_base) ||
        !is_canonical(st->sysenter_esp) || !is_canonical(st->sysenter_eip))
        return "an MSR with an address";
    for (unsigned i = 0; i < 8; i++) {
        unsigned type = st->pat >> 8 * i & 0xff;

        if (type > 7 || type == 2 || type == 3)
            return "IA32_PAT";
    }
    if (st->tsc_aux >> 32)
        return "TSC_AUX";
    return (st->dr[6] | st->dr[7]) >> 32 ? "a debug register" : NULL;
}

/* What XRSTOR would not take would be taken for a fault of ours. */
static const char *check_xsave(const struct x86_state *st, uint64_t xcr0)
{
    static const uint8_t zero[XSTATE_END - XSTATE_REST];
    uint64_t bv;
    uint32_t mxcsr;

    memcpy(&bv, st->xsave + XSTATE_BV, sizeof(bv));
    memcpy(&mxcsr, st->xsave + XSAVE_MXCSR, sizeof(mxcsr));
    if ((st->xcr0 & ~xcr0) || !(st->xcr0 & 1) || (st->xcr0 & 6) == 4)
        return "XCR0";
    if ((bv & ~xcr0) || memcmp(st->xsave + XSTATE_REST, zero, sizeof(zero)))
        return "the header of the vector state";
    return mxcsr & ~MXCSR_KNOWN ? "MXCSR" : NULL;
}

const char *x86_state_check(const struct x86_state *st, uint64_t xcr0)
{
    const char *wrong = check_control(st);

    if (!wrong)
        wrong = check_segments(st);
    if (!wrong)
        wrong = check_msrs(st);
    if (!wrong)
        wrong = check_xsave(st, xcr0);
    if (!wrong && (st->run > X86_SHUTDOWN || st->intr_shadow > 1 || st->nmi_blocked > 1))
        wrong = "what the processor is doing";
    return wrong;
}
