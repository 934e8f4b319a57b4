/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LODGE_SOFT_FPU_H
#define LODGE_SOFT_FPU_H

#include "engine/soft/soft.h"

/* Handlers for the instructions that save, restore and control vector state. */
extern insn_fn *const interp_fpu_table[];

/* #UD and #NM as SDM volume 3, 2.5 and volume 1, 13.5 ask for them. */
void fpu_require_enabled(struct soft_cpu *c, const struct insn *in);

/* fpu_masked.c: masked moves by element size, gathers by index (d 4, q 8) and element size. */
insn_fn fop_maskmov4, fop_maskmov8, fop_gather_d4, fop_gather_d8, fop_gather_q4, fop_gather_q8;

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
