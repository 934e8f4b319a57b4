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

/* Does the prefix come again? The last one counts, and a REX or SIB added could make the instruction too long. */
static bool repeated(const uint8_t *prefix, unsigned left)
{
    return memchr(prefix + 1, *prefix, left - 1) != NULL;
}

static void copy_prefixes_legacy(struct emit *e, const struct insn *in, unsigned base,
                                 unsigned index)
{
    unsigned rex = in->rex & 0x4c, end = in->op_off - (in->rex != 0);

    for (unsigned i = 0; i < end; i++)
        if (is_mandatory_prefix(in->bytes[i]) && !repeated(in->bytes + i, end - i))
            emit_8(e, in->bytes[i]);
    rex |= (base >= 8 ? 1 : 0) | (index != INSN_NOREG && index >= 8 ? 2 : 0);
    if (rex || in->rex)
        emit_8(e, rex | 0x40);
    for (unsigned i = in->op_off; i < in->modrm_off; i++)
        emit_8(e, in->bytes[i]);
}

/* Instructions whose VEX.W is the size of a general register: outside 64-bit mode that is 32 bits. */
static bool vex_w_is_gpr_size(unsigned map, unsigned opcode)
{
    if (map == 1)
        return opcode == 0x2a || opcode == 0x2c || opcode == 0x2d || opcode == 0x6e ||
               opcode == 0x7e;
    return map == 3 && (opcode == 0x16 || opcode == 0x22 || opcode == 0x60 || opcode == 0x61);
}

static unsigned vex_opcode_off(const struct insn *in)
{
    return in->op_off + (in->bytes[in->op_off] == 0xc5 ? 2u : 3u);
}

/*
 * Always the three-byte form, the only one that can say X and B. Outside 64-bit
 * mode there are eight registers: B and the top bit of vvvv are ignored, R and
 * X are clear (SDM volume 2, 2.3.5).
 */
static void copy_prefixes_vex(struct emit *e, const struct insn *in, unsigned base, unsigned index)
{
    const uint8_t *v = in->bytes + in->op_off;
    bool two = v[0] == 0xc5;
    unsigned r = v[1] & 0x80, map = two ? 1 : v[1] & 0x1f;
    unsigned last = two ? v[1] & 0x7f : v[2], opcode = in->bytes[vex_opcode_off(in)];

    if (in->mode != INSN_64) {
        last |= 0x40;
        if (vex_w_is_gpr_size(map, opcode))
            last &= 0x7f;
    }
    emit_8(e, 0xc4);
    emit_8(e, r | (index != INSN_NOREG && index >= 8 ? 0 : 0x40) |
                  (base != INSN_NOREG && base >= 8 ? 0 : 0x20) | map);
    emit_8(e, last);
    emit_8(e, opcode);
}

/* The bytes behind the opcode or the addressing; bit 7 of a register in an immediate is ignored too. */
static void copy_tail(struct emit *e, const struct insn *in, unsigned from)
{
    unsigned opcode = in->enc == ENC_VEX ? in->bytes[vex_opcode_off(in)] : 0;
    bool is4 = in->enc == ENC_VEX && in->mode != INSN_64 && in->bytes[in->op_off] == 0xc4 &&
               (in->bytes[in->op_off + 1] & 0x1f) == 3 && opcode >= 0x4a && opcode <= 0x4c;

    for (unsigned i = from; i < in->len; i++)
        emit_8(e, is4 && i + 1u == in->len ? in->bytes[i] & 0x7fu : in->bytes[i]);
}

bool emit_copy(struct emit *e, const struct insn *in, unsigned base, unsigned index, int32_t disp)
{
    unsigned reg;

    if (!(in->flags & INSN_HAS_MEM)) {
        bool again = in->enc == ENC_VEX && in->mode != INSN_64;

        if (again)
            copy_prefixes_vex(e, in, INSN_NOREG, INSN_NOREG);
        copy_tail(e, in, again ? vex_opcode_off(in) + 1 : 0);
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
    emit_ea(e, reg, base, index, 1, disp);
    copy_tail(e, in, in->modrm_off + 1 + ea_tail(in));
    return true;
}
