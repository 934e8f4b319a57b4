/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Re-encoding: an instruction as it is, but for the place of its memory operand. SDM volume 2, chapter 2. */
#include "engine/soft/emit.h"

/* Bytes of SIB and displacement behind the ModRM byte. */
static unsigned ea_tail(const struct insn *in)
{
    const uint8_t *m = in->bytes + in->modrm_off;
    unsigned mod = *m >> 6, rm = *m & 7;

    if (mod == 3)
        return 0;
    if (in->addr_size == 2)
        return mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0;
    unsigned sib = rm == 4, base = sib ? m[1] & 7 : rm;

    return sib + (mod == 1 ? 1 : mod == 2 || base == 5 ? 4 : 0);
}

static bool is_mandatory_prefix(uint8_t b)
{
    return b == 0x66 || b == 0xf2 || b == 0xf3 || b == 0xf0;
}

static void copy_prefixes_legacy(struct emit *e, const struct insn *in, unsigned base,
                                 unsigned index)
{
    unsigned rex = in->rex & 0x4c, end = in->op_off - (in->rex != 0);

    for (unsigned i = 0; i < end; i++)
        if (is_mandatory_prefix(in->bytes[i]))
            emit_8(e, in->bytes[i]);
    rex |= (base >= 8 ? 1 : 0) | (index != INSN_NOREG && index >= 8 ? 2 : 0);
    if (rex || in->rex)
        emit_8(e, rex | 0x40);
    for (unsigned i = in->op_off; i < in->modrm_off; i++)
        emit_8(e, in->bytes[i]);
}

/* Always the three-byte form, the only one that can say X and B. */
static void copy_prefixes_vex(struct emit *e, const struct insn *in, unsigned base, unsigned index)
{
    const uint8_t *v = in->bytes + in->op_off;
    bool two = v[0] == 0xc5;
    unsigned r = v[1] & 0x80, map = two ? 1 : v[1] & 0x1f;
    unsigned last = two ? v[1] & 0x7f : v[2];

    emit_8(e, 0xc4);
    emit_8(e, r | (index != INSN_NOREG && index >= 8 ? 0 : 0x40) | (base >= 8 ? 0 : 0x20) | map);
    emit_8(e, last);
    emit_8(e, in->bytes[in->modrm_off - 1]);
}

bool emit_copy(struct emit *e, const struct insn *in, unsigned base, unsigned index)
{
    unsigned reg;

    if (!(in->flags & INSN_HAS_MEM)) {
        for (unsigned i = 0; i < in->len; i++)
            emit_8(e, in->bytes[i]);
        return true;
    }
    if (!in->modrm_off)
        return false;
    if (in->enc == ENC_LEGACY)
        copy_prefixes_legacy(e, in, base, index);
    else if (in->enc == ENC_VEX)
        copy_prefixes_vex(e, in, base, index);
    else
        return false;
    reg = in->bytes[in->modrm_off] >> 3 & 7;
    emit_ea(e, reg, base, index, 1, 0);
    for (unsigned i = in->modrm_off + 1 + ea_tail(in); i < in->len; i++)
        emit_8(e, in->bytes[i]);
    return true;
}
