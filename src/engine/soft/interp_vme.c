/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Virtual interrupts of virtual-8086 mode (CR4.VME) and of level 3 (CR4.PVI): SDM volume 3, 20.3 and 20.4. */
#include "engine/soft/interp_sys.h"

#define TSS_IOMAP     0x66
#define REDIRECT_SIZE 32 /* bytes of the map in front of the I/O permission map */

bool vme_active(const struct soft_cpu *c)
{
    return cpu_v86(c) && (c->st.cr4 & X86_CR4_VME) && cpu_iopl(c) < 3;
}

bool vif_active(const struct soft_cpu *c)
{
    if (cpu_v86(c))
        return vme_active(c);
    return (c->st.cr4 & X86_CR4_PVI) && c->st.cpl == 3 && cpu_iopl(c) < 3;
}

void vif_pending(struct soft_cpu *c)
{
    if (vif_active(c))
        soft_raise_err(c, X86_GP, 0);
}

/* ---- Images of FLAGS ------------------------------------------------------ */

uint64_t vme_flags_out(const struct soft_cpu *c)
{
    uint64_t fl = c->st.rflags | X86_IOPL;

    return fl & X86_VIF ? fl | X86_IF : fl & ~(uint64_t)X86_IF;
}

uint64_t vme_flags_in(struct soft_cpu *c, uint64_t image)
{
    const uint64_t keep = ~0xffffull | X86_IF | X86_IOPL;
    uint64_t fl;

    if ((image & X86_TF) || ((image & X86_IF) && (c->st.rflags & X86_VIP)))
        soft_raise_err(c, X86_GP, 0);
    fl = (c->st.rflags & keep & ~(uint64_t)X86_VIF) | (image & ~keep & X86_FLAGS16);
    return fl | 2 | (image & X86_IF ? X86_VIF : 0);
}

/* ---- INT n -------------------------------------------------------------------- */

/* Does the map send it to the 8086 program? Not when the TSS has no such map. */
static bool redirected(struct soft_cpu *c, unsigned vector)
{
    const struct x86_seg *tr = &c->st.tr;
    unsigned base, at;

    if ((tr->attr & DESC_TYPE_MASK) < DESC_TSS32 || tr->limit < TSS_IOMAP + 1)
        return false;
    base = (unsigned)sys_ld(c, tr->base + TSS_IOMAP, 2);
    at = base - REDIRECT_SIZE + vector / 8;
    if (base < REDIRECT_SIZE || at > tr->limit)
        return false;
    return !(sys_ld(c, tr->base + at, 1) >> (vector & 7) & 1);
}

bool vme_int(struct soft_cpu *c, unsigned vector)
{
    struct frame f = frame_present(c, 0);
    bool virtual = vme_active(c);
    uint64_t entry;

    if (!cpu_v86(c) || !(c->st.cr4 & X86_CR4_VME) || !redirected(c, vector))
        return false;
    entry = mem_ld(c, 4 * vector, 4);
    frame_push(c, &f, 2, (virtual ? vme_flags_out(c) : c->st.rflags) & 0xffff);
    frame_push(c, &f, 2, c->st.seg[X86_CS].sel);
    frame_push(c, &f, 2, c->next_rip & 0xffff);

    frame_commit(c, &f);
    seg_v86(&c->st.seg[X86_CS], (uint16_t)(entry >> 16));
    c->next_rip = entry & 0xffff;
    c->st.rflags &= ~(uint64_t)(X86_TF | (virtual ? X86_VIF : X86_IF));
    return true;
}
