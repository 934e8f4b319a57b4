/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Zydis's view of an instruction, reduced to struct insn. */
#include "engine/soft/decode.h"

#include <string.h>

#include <Zydis/Zydis.h>

static void decoder_setup(ZydisDecoder *d, enum insn_mode mode)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[] = {
        [INSN_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        [INSN_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [INSN_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
    };

    ZydisDecoderInit(d, modes[mode].machine, modes[mode].stack);
    /* Not offered in CPUID, so their encodings are the NOPs they were before. */
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
}

static bool gpr_operand(ZydisRegister r, struct opnd *o)
{
    if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_R15B) {
        static const uint8_t number[] = {0, 1, 2, 3, 0,  1,  2,  3,  4,  5,
                                         6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        unsigned i = r - ZYDIS_REGISTER_AL;

        o->kind = i >= 4 && i < 8 ? OPND_GPRH : OPND_GPR;
        o->reg = number[i];
        o->size = 1;
        return true;
    }
    static const struct {
        ZydisRegister first, last;
        uint8_t size;
    } banks[] = {
        {ZYDIS_REGISTER_AX, ZYDIS_REGISTER_R15W, 2},
        {ZYDIS_REGISTER_EAX, ZYDIS_REGISTER_R15D, 4},
        {ZYDIS_REGISTER_RAX, ZYDIS_REGISTER_R15, 8},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(banks); i++)
        if (r >= banks[i].first && r <= banks[i].last) {
            o->kind = OPND_GPR;
            o->reg = (uint8_t)(r - banks[i].first);
            o->size = banks[i].size;
            return true;
        }
    return false;
}

static void reg_operand(const ZydisDecodedOperand *z, struct opnd *o)
{
    ZydisRegister r = z->reg.value;

    if (gpr_operand(r, o))
        return;
    o->size = (uint8_t)(z->size / 8);
    if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS) {
        o->kind = OPND_SEG;
        o->reg = (uint8_t)(r - ZYDIS_REGISTER_ES);
        o->size = 2;
    } else if (r >= ZYDIS_REGISTER_CR0 && r <= ZYDIS_REGISTER_CR15) {
        o->kind = OPND_CR;
        o->reg = (uint8_t)(r - ZYDIS_REGISTER_CR0);
    } else if (r >= ZYDIS_REGISTER_DR0 && r <= ZYDIS_REGISTER_DR15) {
        o->kind = OPND_DR;
        o->reg = (uint8_t)(r - ZYDIS_REGISTER_DR0);
    } else {
        o->kind = OPND_VEC;
        o->reg = (uint8_t)ZydisRegisterGetId(r);
        if (r >= ZYDIS_REGISTER_MM0 && r <= ZYDIS_REGISTER_MM7)
            o->access |= OPND_MMX;
    }
}

/* Number of an address register; vector indexes (gathers) have none. */
static uint8_t addr_reg(ZydisRegister r)
{
    struct opnd o;

    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return INSN_RIP;
    return r != ZYDIS_REGISTER_NONE && gpr_operand(r, &o) ? o.reg : INSN_NOREG;
}

static uint8_t segment_of(ZydisRegister r)
{
    return r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS ? (uint8_t)(r - ZYDIS_REGISTER_ES)
                                                            : X86_DS;
}

static void mem_operand(const ZydisDecodedOperand *z, const ZydisDecodedInstruction *zi,
                        struct insn *in, struct opnd *o)
{
    bool agen = z->mem.type != ZYDIS_MEMOP_TYPE_MEM;

    o->kind = OPND_MEM;
    in->flags |= INSN_HAS_MEM;
    in->mem_seg = segment_of(z->mem.segment);
    in->mem_base = addr_reg(z->mem.base);
    in->mem_index = addr_reg(z->mem.index);
    if (z->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
        in->mem_vindex = (uint8_t)ZydisRegisterGetId(z->mem.index);
    in->mem_scale = z->mem.scale ? z->mem.scale : 1;
    in->mem_disp = z->mem.disp.has_displacement ? z->mem.disp.value : 0;
    /* Zydis gives RIP-relative operands the raw displacement: relative to the next instruction. */
    o->size = z->size / 8 > 255 ? 0 : (uint8_t)(z->size / 8);
    in->mem_size = agen ? 0 : o->size;
    /*
     * Zydis 4.0 takes SIB base 101 with mod 00 for r13d when a 67 prefix and REX.B meet; it is no base
     * (SDM volume 2, table 2-3).
     */
    if (zi->raw.modrm.mod == 0 && zi->raw.modrm.rm == 4 && zi->raw.sib.base == 5 &&
        in->addr_size != 2)
        in->mem_base = INSN_NOREG;
}

static void take_operand(const ZydisDecodedOperand *z, const ZydisDecodedInstruction *zi,
                         struct insn *in, unsigned *imms)
{
    struct opnd *o = &in->opnd[in->nopnd++];

    o->access = (z->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? OPND_READ : 0) |
                (z->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? OPND_WRITE : 0);
    switch (z->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        reg_operand(z, o);
        break;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        mem_operand(z, zi, in, o);
        break;
    case ZYDIS_OPERAND_TYPE_POINTER:
        o->kind = OPND_FAR;
        in->imm = z->ptr.offset;
        in->imm2 = z->ptr.segment;
        in->flags |= INSN_FAR;
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        o->size = (uint8_t)(z->size / 8);
        if ((*imms)++ == 0) {
            o->kind = z->imm.is_relative ? OPND_REL : OPND_IMM;
            in->imm = z->imm.is_signed ? (uint64_t)z->imm.value.s : z->imm.value.u;
        } else {
            o->kind = OPND_IMM2;
            in->imm2 = z->imm.value.u;
        }
        break;
    default:
        break;
    }
    if (o->kind == OPND_GPR || o->kind == OPND_GPRH) {
        in->gpr_read |= o->access & OPND_READ ? (uint16_t)(1u << o->reg) : 0;
        in->gpr_write |= o->access & OPND_WRITE ? (uint16_t)(1u << o->reg) : 0;
        /* A write of 8 or 16 bits keeps the rest; so may a conditional one. */
        if ((o->access & OPND_WRITE) &&
            (o->size < 4 || (z->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)))
            in->gpr_read |= (uint16_t)(1u << o->reg);
    }
}

static uint8_t default_segment(const ZydisDecodedInstruction *zi)
{
    static const struct {
        ZydisInstructionAttributes attr;
        uint8_t seg;
    } overrides[] = {
        {ZYDIS_ATTRIB_HAS_SEGMENT_CS, X86_CS}, {ZYDIS_ATTRIB_HAS_SEGMENT_SS, X86_SS},
        {ZYDIS_ATTRIB_HAS_SEGMENT_DS, X86_DS}, {ZYDIS_ATTRIB_HAS_SEGMENT_ES, X86_ES},
        {ZYDIS_ATTRIB_HAS_SEGMENT_FS, X86_FS}, {ZYDIS_ATTRIB_HAS_SEGMENT_GS, X86_GS},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(overrides); i++)
        if (zi->attributes & overrides[i].attr)
            return overrides[i].seg;
    return X86_DS;
}

/* Does the instruction run natively in thunks and translated code, and does it touch vector or x87 state? */
static uint32_t native_class(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
        return INSN_NATIVE;
    case ZYDIS_MNEMONIC_LDMXCSR: /* these have handlers of their own */
    case ZYDIS_MNEMONIC_STMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_VSTMXCSR:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        return 0;
    default:
        break;
    }
    if (zi->meta.isa_set == ZYDIS_ISA_SET_SSE_PREFETCH ||
        zi->meta.isa_set == ZYDIS_ISA_SET_PREFETCH_NOP)
        return 0;
    switch (zi->meta.isa_ext) {
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
        if (zi->mnemonic == ZYDIS_MNEMONIC_LFENCE || zi->mnemonic == ZYDIS_MNEMONIC_MFENCE ||
            zi->mnemonic == ZYDIS_MNEMONIC_SFENCE || zi->mnemonic == ZYDIS_MNEMONIC_MOVNTI)
            return 0;
        return INSN_NATIVE | INSN_SIMD;
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_FMA:
        if (zi->mnemonic == ZYDIS_MNEMONIC_POPCNT)
            return 0;
        return INSN_NATIVE | INSN_SIMD;
    default:
        return 0;
    }
}

/* Has the shift or rotation an immediate count that is not zero after masking? */
static bool counts_at_least_one(const struct insn *in)
{
    return in->nopnd && in->opnd[in->nopnd - 1].kind == OPND_IMM &&
           (in->imm & (in->op_size == 8 ? 63 : 31));
}

static void take_flags(const ZydisDecodedInstruction *zi, struct insn *in)
{
    const ZydisAccessedFlags *f = zi->cpu_flags;

    if (!f)
        return;
    in->fl_read = f->tested & X86_ARITH;
    in->fl_write = (f->modified | f->set_0 | f->set_1 | f->undefined) & X86_ARITH;
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD: /* a count of zero leaves the flags alone */
        if (counts_at_least_one(in))
            break;
        in->fl_read |= X86_ARITH;
        in->fl_write = 0;
        break;
    case ZYDIS_MNEMONIC_SAHF:
        in->fl_write = X86_ARITH & ~X86_OF;
        break;
    default:
        break;
    }
}

static void take_layout(const ZydisDecodedInstruction *zi, struct insn *in)
{
    in->modrm_off = zi->attributes & ZYDIS_ATTRIB_HAS_MODRM ? zi->raw.modrm.offset : 0;
    in->imm_off = zi->raw.imm[0].offset;
    in->imm_len = zi->raw.imm[0].size / 8;
    in->op_off = zi->raw.prefix_count;
    switch (zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        in->enc = ENC_LEGACY;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        in->enc = ENC_VEX;
        in->op_off = zi->raw.vex.offset;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        in->enc = ENC_EVEX;
        in->op_off = zi->raw.evex.offset;
        break;
    default:
        in->enc = ENC_OTHER;
        break;
    }
    if (zi->attributes & ZYDIS_ATTRIB_HAS_REX) {
        in->rex = in->bytes[zi->raw.rex.offset];
        in->op_off = zi->raw.rex.offset + 1;
    }
}

static bool is_branch(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.category) {
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT:
        return true;
    default:
        return false;
    }
}

static uint32_t insn_flags(const ZydisDecodedInstruction *zi)
{
    uint32_t fl = native_class(zi);

    if (zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        fl |= INSN_LOCK;
    if (zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
        fl |= INSN_REP;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_REPNE)
        fl |= INSN_REPNE;
    if (zi->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED)
        fl |= INSN_PRIV;
    if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        fl |= INSN_FAR;
    if (is_branch(zi))
        fl |= INSN_BRANCH;
    return fl;
}

/*
 * Others have handlers of the same names, which expect other registers, or which are for the legacy encoding alone (Knights
 * Corner had POPCNT and its like with VEX).
 */
static bool is_offered(const ZydisDecodedInstruction *zi)
{
    return (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
            zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) &&
           zi->meta.isa_set != ZYDIS_ISA_SET_KNCV;
}

int decode_insn(const uint8_t *bytes, unsigned avail, enum insn_mode mode, struct insn *out)
{
    ZydisDecoder d;
    ZydisDecoderContext ctx;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT_VISIBLE];
    ZyanStatus status;
    unsigned imms = 0, n = avail > 15 ? 15 : avail;

    memset(out, 0, sizeof(*out));
    memcpy(out->bytes, bytes, n); /* once: another vCPU may be writing there */
    out->mode = (uint8_t)mode;
    out->mem_base = out->mem_index = out->mem_vindex = INSN_NOREG;
    out->mem_scale = 1;
    decoder_setup(&d, mode);
    status = ZydisDecoderDecodeInstruction(&d, &ctx, out->bytes, n, &zi);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && avail < 15)
        return -1;
    if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        out->flags = INSN_TOO_LONG;
    if (!ZYAN_SUCCESS(status))
        return 0;
    if (!is_offered(&zi))
        return 0;
    out->op = (uint16_t)zi.mnemonic;
    out->len = zi.length;
    memset(out->bytes + zi.length, 0, sizeof(out->bytes) - zi.length);
    out->op_size = zi.operand_width / 8;
    out->addr_size = zi.address_width / 8;
    out->mem_seg = default_segment(&zi);
    out->flags = insn_flags(&zi);
    take_layout(&zi, out);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&d, &ctx, &zi, zo, zi.operand_count_visible))) {
        out->len = 0;
        return 0;
    }
    for (unsigned i = 0; i < zi.operand_count_visible && i < ARRAY_SIZE(out->opnd); i++)
        take_operand(&zo[i], &zi, out, &imms);
    take_flags(&zi, out);
    if (zi.mnemonic == ZYDIS_MNEMONIC_BSF || zi.mnemonic == ZYDIS_MNEMONIC_BSR)
        out->gpr_read |= out->gpr_write; /* of zero: the destination stays */
    if (out->flags & INSN_HAS_MEM) {
        if (out->mem_base < 16)
            out->gpr_read |= (uint16_t)(1u << out->mem_base);
        if (out->mem_index < 16)
            out->gpr_read |= (uint16_t)(1u << out->mem_index);
    }
    return 0;
}
