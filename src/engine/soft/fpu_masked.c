/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Vector instructions whose memory elements fault one by one: masked moves and
 * gathers (SDM volume 2). They work on the parked state.
 */
#include "engine/soft/fpu.h"

#include <string.h>

#include <Zydis/Zydis.h>

#define XS_VECTORS 6u /* SSE and AVX */

static uint8_t *element(struct soft_cpu *c, unsigned reg, unsigned off)
{
    struct xsave_area *a = fpu_area(c);

    return off < 16 ? &a->xmm[reg][off] : &a->ymmh[reg][off - 16];
}

static uint64_t element_get(struct soft_cpu *c, unsigned reg, unsigned i, unsigned size)
{
    const uint8_t *p = element(c, reg, i * size);
    uint64_t v = 0;

    for (unsigned k = 0; k < size; k++)
        v |= (uint64_t)p[k] << (8 * k);
    return v;
}

static void element_set(struct soft_cpu *c, unsigned reg, unsigned i, unsigned size, uint64_t v)
{
    uint8_t *p = element(c, reg, i * size);

    for (unsigned k = 0; k < size; k++)
        p[k] = (uint8_t)(v >> (8 * k));
    fpu_area(c)->xstate_bv |= XS_VECTORS;
}

static bool element_sign(struct soft_cpu *c, unsigned reg, unsigned i, unsigned size)
{
    return *element(c, reg, i * size + size - 1) & 0x80;
}

/* Clear a register from byte `from` on. */
static void clear_from(struct soft_cpu *c, unsigned reg, unsigned from)
{
    for (; from < 32; from++)
        element_set(c, reg, from, 1, 0);
}

static uint64_t address_mask(const struct insn *in)
{
    return in->addr_size == 8 ? ~0ull : 0xffffffff;
}

/* Linear address of an element; those of a masked move do not wrap at the address size. */
static gva_t element_va(struct soft_cpu *c, const struct insn *in, uint64_t off, unsigned size,
                        enum mem_access acc)
{
    return seg_linear(c, (enum x86_sreg)in->mem_seg, off, size, acc);
}

/* ---- Masked moves: the elements whose mask has its top bit set ----------------------- */

static void masked_load(struct soft_cpu *c, const struct insn *in, unsigned size)
{
    unsigned dst = in->opnd[0].reg, mask = in->opnd[1].reg, n = in->opnd[0].size / size;
    uint64_t val[8], off = insn_ea(c, in);

    for (unsigned i = 0; i < n; i++) {
        val[i] = 0;
        if (element_sign(c, mask, i, size))
            val[i] = mem_ld(c, element_va(c, in, off + i * size, size, ACC_READ), size);
    }
    for (unsigned i = 0; i < n; i++)
        element_set(c, dst, i, size, val[i]);
    clear_from(c, dst, n * size);
}

static void masked_store(struct soft_cpu *c, const struct insn *in, unsigned size)
{
    unsigned mask = in->opnd[1].reg, src = in->opnd[2].reg, n = in->opnd[2].size / size;
    uint64_t off = insn_ea(c, in);

    for (unsigned i = 0; i < n; i++)
        if (element_sign(c, mask, i, size))
            mem_probe(c, element_va(c, in, off + i * size, size, ACC_WRITE), size, ACC_WRITE);
    for (unsigned i = 0; i < n; i++)
        if (element_sign(c, mask, i, size))
            mem_st(c, element_va(c, in, off + i * size, size, ACC_WRITE), size,
                   element_get(c, src, i, size));
}

static void masked_move(struct soft_cpu *c, const struct insn *in, unsigned size)
{
    fpu_require_enabled(c, in);
    soft_fpu_park(c);
    if (in->opnd[0].kind == OPND_MEM)
        masked_store(c, in, size);
    else
        masked_load(c, in, size);
}

void fop_maskmov4(struct soft_cpu *c, const struct insn *in)
{
    masked_move(c, in, 4);
}

void fop_maskmov8(struct soft_cpu *c, const struct insn *in)
{
    masked_move(c, in, 8);
}

/* ---- Gathers --------------------------------------------------------------------------- */

/*
 * Elements come in order and each that is done with loses its mask, so that
 * after a fault the instruction can start again where it was. The rest of the
 * mask stays as it was, as on AMD's processors; the manual's pseudocode has
 * spread the top bits over the elements by then.
 */
static void gather(struct soft_cpu *c, const struct insn *in, unsigned isize, unsigned size)
{
    unsigned dst = in->opnd[0].reg, mask = in->opnd[2].reg, index = in->mem_vindex;
    unsigned bytes = in->bytes[in->op_off + 2] & 4 ? 32 : 16; /* VEX.L */
    unsigned n = bytes / (isize > size ? isize : size);
    uint64_t base = insn_ea(c, in);

    if (index == INSN_NOREG || dst == mask || dst == index || mask == index)
        soft_raise(c, X86_UD);
    fpu_require_enabled(c, in);
    soft_fpu_park(c);
    for (unsigned i = 0; i < n; i++) {
        if (element_sign(c, mask, i, size)) {
            uint64_t off = element_get(c, index, i, isize);

            if (isize == 4)
                off = (uint64_t)(int64_t)(int32_t)off;
            off = (base + off * in->mem_scale) & address_mask(in);
            element_set(c, dst, i, size, mem_ld(c, element_va(c, in, off, size, ACC_READ), size));
        }
        element_set(c, mask, i, size, 0);
    }
    clear_from(c, mask, 0);
    clear_from(c, dst, n * size);
}

void fop_gather_d4(struct soft_cpu *c, const struct insn *in)
{
    gather(c, in, 4, 4);
}

void fop_gather_d8(struct soft_cpu *c, const struct insn *in)
{
    gather(c, in, 4, 8);
}

void fop_gather_q4(struct soft_cpu *c, const struct insn *in)
{
    gather(c, in, 8, 4);
}

void fop_gather_q8(struct soft_cpu *c, const struct insn *in)
{
    gather(c, in, 8, 8);
}
