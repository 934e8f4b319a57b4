/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LODGE_SOFT_FPU_H
#define LODGE_SOFT_FPU_H

#include "engine/soft/engine_soft.h"
#include "engine/soft/soft.h"
#include "x86/cpuid.h"

/*
 * -mgeneral-regs-only keeps the compiler from vector registers, but not the functions it has called: the sanitizers'
 * (an atomic release store under TSan), and memcpy and its kin, which are inlined only when optimizing without ASan.
 * In such builds the guest's vector state is in the registers only while code of the translation cache runs; what
 * enters that, and what is called from it, moves the state. Elsewhere st.xsave has it even while fpu_live is set.
 * Functions that run with the guest's registers are FPU_BARE: not instrumented.
 */
#ifdef __has_feature
#define FPU_SANITIZED (__has_feature(thread_sanitizer) || __has_feature(address_sanitizer))
#elif defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define FPU_SANITIZED 1
#else
#define FPU_SANITIZED 0
#endif
#if FPU_SANITIZED || !defined(__OPTIMIZE__)
#define FPU_IN_CODE_ONLY 1
#define FPU_BARE         __attribute__((no_sanitize("thread"), no_sanitize("address")))
#else
#define FPU_IN_CODE_ONLY 0
#define FPU_BARE
#endif

/*
 * Run code of the translation cache until it leaves (in_code is set), and what that calls: soft_interp_inline and
 * soft_miss, with the guest's vector state moved around them where need be.
 */
#if FPU_IN_CODE_ONLY
void soft_enter(struct soft_cpu *c, const uint8_t *code);
const uint8_t *code_interp(struct soft_cpu *c, const struct insn *in, const uint8_t *next);
const uint8_t *code_miss(struct soft_cpu *c, uint64_t xored, enum mem_access acc, uint32_t record,
                         uint64_t entry);
#else
static inline void soft_enter(struct soft_cpu *c, const uint8_t *code)
{
    c->svm->cache.glue.enter(c, code);
}
#define code_interp soft_interp_inline
#define code_miss   soft_miss
#endif

/* Handlers for the instructions that save, restore and control vector state. */
extern insn_fn *const interp_fpu_table[];

/* #UD and #NM as SDM volume 3, 2.5 and volume 1, 13.5 ask for them. */
void fpu_require_enabled(struct soft_cpu *c, const struct insn *in);

/* The guest has put an image into st.xsave: have the processor set reserved bits and what follows from others. */
void fpu_loaded(struct soft_cpu *c);

/* fpu_save.c */
insn_fn fop_fxsave, fop_fxrstor, fop_xsave, fop_xsaveopt, fop_xsavec, fop_xrstor, fop_xgetbv;

/* fpu_masked.c: masked moves by element size, gathers by index (d 4, q 8) and element size. */
insn_fn fop_maskmov4, fop_maskmov8, fop_gather_d4, fop_gather_d8, fop_gather_q4, fop_gather_q8;

/* Components of the XSAVE area. */
#define XS_X87  1u
#define XS_SSE  2u
#define XS_AVX  4u
#define XS_PKRU XCR0_PKRU

#define MXCSR_MASKS 0x1f80u /* all exceptions masked: as after a reset */
#define MXCSR_VALID 0xffffu

/* Layout of st.xsave: the XSAVE area in standard format (SDM volume 1, 13.4). */
struct xsave_area {
    uint16_t fcw, fsw;
    uint8_t ftw, rsvd;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t unused[96];
    uint64_t xstate_bv, xcomp_bv, header_rsvd[6];
    uint8_t ymmh[16][16];
};

static inline struct xsave_area *fpu_area(struct soft_cpu *c)
{
    return (struct xsave_area *)c->st.xsave;
}

#endif
