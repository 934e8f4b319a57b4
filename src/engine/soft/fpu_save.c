/* SPDX-License-Identifier: GPL-2.0-or-later */
/* FXSAVE, FXRSTOR and the XSAVE family: images of vector state in guest memory. */
#include "engine/soft/fpu.h"

/* ---- FXSAVE, FXRSTOR (SDM volume 1, 10.5) ------------------------------------------- */

#define FXSAVE_64 416 /* bytes in use: with 16 XMM registers */
#define FXSAVE_32 288 /* with 8 */

static gva_t image_address(struct soft_cpu *c, const struct insn *in, unsigned size, unsigned align,
                           enum mem_access acc)
{
    gva_t va = seg_linear(c, in->mem_seg, insn_ea(c, in), size, acc);

    if (va & (align - 1))
        soft_raise_err(c, X86_GP, 0);
    mem_probe(c, va, size, acc);
    return va;
}

void fop_fxsave(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = c->mode == INSN_64 ? FXSAVE_64 : FXSAVE_32;
    gva_t va;

    if (c->st.cr0 & (X86_CR0_EM | X86_CR0_TS))
        soft_raise(c, X86_NM);
    va = image_address(c, in, 512, 16, ACC_WRITE);
    soft_fpu_park(c);
    fpu_area(c)->mxcsr_mask = MXCSR_VALID;
    mem_st_bytes(c, va, c->st.xsave, size);
}

void fop_fxrstor(struct soft_cpu *c, const struct insn *in)
{
    unsigned size = c->mode == INSN_64 ? FXSAVE_64 : FXSAVE_32;
    gva_t va;

    if (c->st.cr0 & (X86_CR0_EM | X86_CR0_TS))
        soft_raise(c, X86_NM);
    va = image_address(c, in, 512, 16, ACC_READ);
    if (mem_ld(c, va + 24, 4) & ~(uint64_t)MXCSR_VALID)
        soft_raise_err(c, X86_GP, 0);
    soft_fpu_park(c);
    mem_ld_bytes(c, va, c->st.xsave, size);
    fpu_area(c)->fip = fpu_area(c)->fdp = 0;
    fpu_area(c)->xstate_bv |= XS_X87 | XS_SSE;
    fpu_loaded(c);
}

/* ---- XSAVE family (SDM volume 1, chapter 13) ------------------------------------------ */

/* Pieces of the area by component; MXCSR goes with SSE and AVX. */
struct piece {
    uint16_t off, len;
    uint32_t components;
};

static const struct piece pieces[] = {
    {0, 24, XS_X87},          /* control, status, tag, instruction pointers */
    {24, 8, XS_SSE | XS_AVX}, /* MXCSR and its mask */
    {32, 128, XS_X87},        /* ST0-7 */
    {160, 256, XS_SSE},       /* XMM0-15 */
    {576, 256, XS_AVX},       /* upper halves of YMM0-15 */
};

/* Bytes of an area that holds these components. Compacted, what follows AVX moves down where AVX is not. */
static unsigned area_size(uint32_t components)
{
    if (components & XS_PKRU)
        return XSAVE_PKRU + 8;
    return components & XS_AVX ? XSAVE_PKRU : 576;
}

static unsigned compact_pkru(uint64_t components)
{
    return components & XS_AVX ? XSAVE_PKRU : 576;
}

/* XINUSE as the guest sees it. */
static uint64_t in_use(struct soft_cpu *c)
{
    return fpu_area(c)->xstate_bv | (c->st.pkru ? XS_PKRU : 0);
}

/* Outside 64-bit mode registers 8 to 15 are neither saved nor restored (SDM volume 1, 13.5.2 and 13.5.3). */
static unsigned piece_len(const struct soft_cpu *c, const struct piece *p)
{
    return p->len == 256 && c->mode != INSN_64 ? 128 : p->len;
}

static uint32_t requested(struct soft_cpu *c)
{
    uint64_t mask = (uint32_t)c->st.gpr[X86_RAX] | c->st.gpr[X86_RDX] << 32;

    return (uint32_t)(mask & c->st.xcr0);
}

static void require_xsave(struct soft_cpu *c)
{
    if (!(c->st.cr4 & X86_CR4_OSXSAVE))
        soft_raise(c, X86_UD);
    if (c->st.cr0 & X86_CR0_TS)
        soft_raise(c, X86_NM);
}

static void save_standard(struct soft_cpu *c, const struct insn *in, bool init_optimization)
{
    uint32_t rfbm, write;
    gva_t va;
    uint64_t bv;

    require_xsave(c);
    rfbm = requested(c);
    soft_fpu_park(c);
    write = init_optimization ? rfbm & (uint32_t)in_use(c) : rfbm;
    va = image_address(c, in, area_size(rfbm), 64, ACC_WRITE);
    fpu_area(c)->mxcsr_mask = MXCSR_VALID;
    bv = mem_ld(c, va + 512, 8);
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++)
        if (pieces[i].components & (pieces[i].off == 24 ? rfbm : write))
            mem_st_bytes(c, va + pieces[i].off, c->st.xsave + pieces[i].off,
                         piece_len(c, &pieces[i]));
    if (write & XS_PKRU)
        mem_st(c, va + XSAVE_PKRU, 8, c->st.pkru);
    mem_st(c, va + 512, 8, (bv & ~(uint64_t)rfbm) | (rfbm & in_use(c)));
}

void fop_xsave(struct soft_cpu *c, const struct insn *in)
{
    save_standard(c, in, false);
}

/* As XSAVE, but what is in its initial configuration is not written (SDM volume 1, 13.9). */
void fop_xsaveopt(struct soft_cpu *c, const struct insn *in)
{
    save_standard(c, in, true);
}

void fop_xsavec(struct soft_cpu *c, const struct insn *in)
{
    uint32_t rfbm, use;
    gva_t va;

    require_xsave(c);
    rfbm = requested(c);
    soft_fpu_park(c);
    use = rfbm & (uint32_t)in_use(c);
    if ((rfbm & XS_SSE) && fpu_area(c)->mxcsr != MXCSR_MASKS)
        use |= XS_SSE;
    va = image_address(c, in, area_size(rfbm), 64, ACC_WRITE);
    fpu_area(c)->mxcsr_mask = MXCSR_VALID;
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        uint32_t comps = pieces[i].components == (XS_SSE | XS_AVX) ? XS_SSE : pieces[i].components;

        if (comps & use)
            mem_st_bytes(c, va + pieces[i].off, c->st.xsave + pieces[i].off,
                         piece_len(c, &pieces[i]));
    }
    if (use & XS_PKRU)
        mem_st(c, va + compact_pkru(rfbm), 8, c->st.pkru);
    mem_st(c, va + 512, 8, use);
    mem_st(c, va + 520, 8, 1ull << 63 | rfbm);
}

static void init_piece(struct soft_cpu *c, const struct piece *p)
{
    uint8_t *to = c->st.xsave + p->off;

    for (unsigned i = 0; i < piece_len(c, p); i += 8)
        *(volatile uint64_t *)(to + i) = 0;
    if (p->off == 0)
        fpu_area(c)->fcw = 0x37f;
    if (p->off == 24)
        fpu_area(c)->mxcsr = MXCSR_MASKS;
}

/* SDM volume 1, 13.8.1 and 13.8.2: reserved bytes are 23:16 in the standard form, 63:16 in the compacted one. */
static void require_header(struct soft_cpu *c, gva_t va, uint64_t bv, uint64_t comp)
{
    bool compact = comp >> 63;

    if (compact ? (comp & ~(1ull << 63) & ~c->st.xcr0) || (bv & ~comp) : comp || (bv & ~c->st.xcr0))
        soft_raise_err(c, X86_GP, 0);
    for (unsigned i = 16; i < (compact ? 64 : 24); i += 8)
        if (mem_ld(c, va + 512 + i, 8))
            soft_raise_err(c, X86_GP, 0);
}

void fop_xrstor(struct soft_cpu *c, const struct insn *in)
{
    uint32_t rfbm, pkru = 0;
    uint64_t bv, comp, mx;
    gva_t va;

    require_xsave(c);
    rfbm = requested(c);
    va = image_address(c, in, area_size(0), 64, ACC_READ);
    bv = mem_ld(c, va + 512, 8);
    comp = mem_ld(c, va + 520, 8);
    require_header(c, va, bv, comp);
    mem_probe(c, va, area_size(comp >> 63 ? rfbm & (uint32_t)bv : rfbm), ACC_READ);
    mx = mem_ld(c, va + 24, 4);
    if ((mx & ~(uint64_t)MXCSR_VALID) &&
        (comp >> 63 ? rfbm & bv & XS_SSE : rfbm & (XS_SSE | XS_AVX)))
        soft_raise_err(c, X86_GP, 0);
    if (rfbm & bv & XS_PKRU)
        pkru = (uint32_t)mem_ld(c, va + (comp >> 63 ? compact_pkru(comp) : XSAVE_PKRU), 4);
    soft_fpu_park(c);
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++) {
        const struct piece *p = &pieces[i];
        bool mxcsr = p->off == 24;
        /* The compacted form takes MXCSR for a part of the SSE component. */
        uint32_t components = mxcsr && comp >> 63 ? XS_SSE : p->components;

        if (!(components & rfbm))
            continue;
        if (mxcsr && !(comp >> 63))
            mem_ld_bytes(c, va + 24, c->st.xsave + 24, 4);
        else if (components & bv)
            mem_ld_bytes(c, va + p->off, c->st.xsave + p->off, piece_len(c, p));
        else
            init_piece(c, p);
    }
    fpu_area(c)->fip = fpu_area(c)->fdp = 0;
    fpu_area(c)->xstate_bv =
        (fpu_area(c)->xstate_bv & ~(uint64_t)rfbm) | (bv & rfbm & CPUID_XCR0_MASK);
    if (c->mode != INSN_64) /* the upper registers stay */
        fpu_area(c)->xstate_bv |= rfbm & (XS_SSE | XS_AVX);
    fpu_loaded(c);
    /* Last: the area has been read with the old rights. */
    if (rfbm & XS_PKRU)
        soft_set_pkru(c, bv & XS_PKRU ? pkru : 0);
}

void fop_xgetbv(struct soft_cpu *c, const struct insn *in)
{
    uint64_t v = c->st.xcr0;

    if (!(c->st.cr4 & X86_CR4_OSXSAVE))
        soft_raise(c, X86_UD);
    switch ((uint32_t)c->st.gpr[X86_RCX]) {
    case 0:
        break;
    case 1:
        soft_fpu_park(c);
        v &= in_use(c);
        break;
    default:
        soft_raise_err(c, X86_GP, 0);
    }
    c->st.gpr[X86_RAX] = (uint32_t)v;
    c->st.gpr[X86_RDX] = v >> 32;
}
