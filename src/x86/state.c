/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Power-up, RESET and INIT values: SDM volume 3, table 9-1 (section 9.1.1). */
#include "x86/state.h"

#include <string.h>

#include "x86/cpuid.h"

#define RFLAGS_FIXED    0x2u
#define DR6_RESET       0xffff0ff0u
#define DR7_RESET       0x400u
#define PAT_RESET       0x0007040600070406ull
#define FCW_RESET       0x037fu
#define MXCSR_RESET     0x1f80u
#define MXCSR_MASK      0xffffu
#define XSAVE_OFF_FCW   0
#define XSAVE_OFF_MXCSR 24
#define XSAVE_OFF_MASK  28

#define ATTR_CODE (X86_ATTR_P | X86_ATTR_S | 0xb) /* execute, read, accessed */
#define ATTR_DATA (X86_ATTR_P | X86_ATTR_S | 0x3) /* read, write, accessed */
#define ATTR_LDT  (X86_ATTR_P | 0x2)
#define ATTR_TSS  (X86_ATTR_P | 0xb) /* busy */

/* What RESET and INIT set alike. CR0 is the caller's. */
static void state_common(struct x86_state *st)
{
    memset(st->gpr, 0, sizeof(st->gpr));
    st->gpr[X86_RDX] = CPUID_SIGNATURE;
    st->rip = 0xfff0;
    st->rflags = RFLAGS_FIXED;
    st->cr2 = st->cr3 = st->cr4 = 0;
    st->efer = 0;
    for (unsigned i = 0; i < X86_NSREGS; i++)
        st->seg[i] = (struct x86_seg){.limit = 0xffff, .attr = ATTR_DATA};
    st->seg[X86_CS] =
        (struct x86_seg){.base = 0xffff0000, .limit = 0xffff, .attr = ATTR_CODE, .sel = 0xf000};
    st->ldtr = (struct x86_seg){.limit = 0xffff, .attr = ATTR_LDT};
    st->tr = (struct x86_seg){.limit = 0xffff, .attr = ATTR_TSS};
    st->gdtr = (struct x86_dtr){.limit = 0xffff};
    st->idtr = (struct x86_dtr){.limit = 0xffff};
    memset(st->dr, 0, sizeof(st->dr));
    st->dr[6] = DR6_RESET;
    st->dr[7] = DR7_RESET;
    st->intr_shadow = 0;
    st->nmi_blocked = 0;
    st->cpl = 0;
}

static void put_le(uint8_t *p, uint32_t val, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(val >> (8 * i));
}

void x86_state_reset(struct x86_state *st, bool bsp)
{
    memset(st, 0, sizeof(*st));
    state_common(st);
    st->cr0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET;
    st->xcr0 = 1;
    st->pat = PAT_RESET;
    put_le(st->xsave + XSAVE_OFF_FCW, FCW_RESET, 2);
    put_le(st->xsave + XSAVE_OFF_MXCSR, MXCSR_RESET, 4);
    put_le(st->xsave + XSAVE_OFF_MASK, MXCSR_MASK, 4);
    st->run = bsp ? X86_RUNNING : X86_WAIT_SIPI;
}

void x86_state_init(struct x86_state *st)
{
    state_common(st);
    st->cr0 = (st->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
    st->run = X86_WAIT_SIPI;
}
