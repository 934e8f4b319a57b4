/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For test_interp_int.c: random instructions of every kind the integer half
 * of the interpreter handles, with registers and memory that make them do
 * something.
 */
#ifndef LODGE_TESTS_INTERP_GEN_H
#define LODGE_TESTS_INTERP_GEN_H

#include <Zydis/Mnemonic.h>

#include "interp_host.h"

static uint64_t rng_state;

static uint64_t rnd(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state * 0x2545f4914f6cdd1dull;
}

static unsigned below(unsigned n)
{
    return (unsigned)((rnd() >> 32) % n);
}

static bool percent(unsigned n)
{
    return below(100) < n;
}

enum map { MAP_ONE, MAP_0F, MAP_0F38, MAP_VEX2, MAP_VEX3 };

static const struct {
    uint8_t map, first, last;
} opcodes[] = {
    {MAP_ONE, 0x00, 0x3d},  {MAP_ONE, 0x40, 0x62},  {MAP_ONE, 0x63, 0x63},  {MAP_ONE, 0x68, 0x6b},
    {MAP_ONE, 0x70, 0x7f},  {MAP_ONE, 0x80, 0x8f},  {MAP_ONE, 0x90, 0x99},  {MAP_ONE, 0x9e, 0xaf},
    {MAP_ONE, 0xb0, 0xbf},  {MAP_ONE, 0xc0, 0xc3},  {MAP_ONE, 0xc6, 0xc9},  {MAP_ONE, 0xd0, 0xd3},
    {MAP_ONE, 0xd0, 0xd3},  {MAP_ONE, 0xd4, 0xd7},  {MAP_ONE, 0xe0, 0xe3},  {MAP_ONE, 0xe8, 0xeb},
    {MAP_ONE, 0xf5, 0xf9},  {MAP_ONE, 0xf6, 0xf7},  {MAP_ONE, 0xfc, 0xff},  {MAP_ONE, 0xa4, 0xaf},
    {MAP_0F, 0x0b, 0x0d},   {MAP_0F, 0x18, 0x1f},   {MAP_0F, 0x40, 0x4f},   {MAP_0F, 0x80, 0x8f},
    {MAP_0F, 0x90, 0x9f},   {MAP_0F, 0xa0, 0xaf},   {MAP_0F, 0xa3, 0xa5},   {MAP_0F, 0xb0, 0xbf},
    {MAP_0F, 0xb8, 0xbd},   {MAP_0F, 0xb0, 0xb1},   {MAP_0F, 0xc0, 0xc3},   {MAP_0F, 0xc7, 0xcf},
    {MAP_0F, 0xc7, 0xc7},   {MAP_0F38, 0xf0, 0xf6}, {MAP_VEX2, 0xf2, 0xf7}, {MAP_VEX2, 0xf2, 0xf7},
    {MAP_VEX3, 0xf0, 0xf0}, {MAP_0F, 0xff, 0xff},
};

struct trial {
    enum insn_mode mode;
    struct insn in;
    uint64_t gpr[16], flags;
};

/* Offset in the data segments of a linear address; and where the instruction is in CS. */
static uint64_t data_off(const struct trial *t, uint64_t linear)
{
    return t->mode == INSN_64 ? linear : linear - DATA_BASE;
}

static uint64_t slot_off(const struct trial *t)
{
    return t->mode == INSN_64 ? SLOT : SLOT_OFF;
}

static unsigned gen_legacy(const struct trial *t, uint8_t *b, uint8_t map, uint8_t opcode)
{
    unsigned n = 0;

    if (percent(25))
        b[n++] = 0x66;
    if (percent(10))
        b[n++] = 0x67;
    if (percent(10))
        b[n++] = 0xf0;
    if (percent(30))
        b[n++] = percent(70) ? 0xf3 : 0xf2;
    if (t->mode == INSN_64 && percent(50))
        b[n++] = (uint8_t)(0x40 | below(16));
    if (map != MAP_ONE)
        b[n++] = 0x0f;
    if (map == MAP_0F38)
        b[n++] = 0x38;
    b[n++] = opcode;
    return n;
}

static unsigned gen_vex(const struct trial *t, uint8_t *b, uint8_t map, uint8_t opcode)
{
    uint8_t rxb = (uint8_t)(t->mode == INSN_64 ? below(8) << 5 : 0xe0);
    uint8_t w_vvvv_pp = (uint8_t)(rnd() & 0xfb);
    unsigned n = 0;

    if (t->mode != INSN_64)
        w_vvvv_pp = (w_vvvv_pp & 0x7b) | 0x40; /* W would be ignored, or refused */
    if (map == MAP_VEX3)
        w_vvvv_pp |= 0x7b;
    if (percent(10))
        b[n++] = 0x67;
    b[n++] = 0xc4;
    b[n++] = rxb | (map == MAP_VEX2 ? 2 : 3);
    b[n++] = w_vvvv_pp;
    b[n++] = opcode;
    return n;
}

/*
 * Encodings nobody uses that processors disagree about: a 66 prefix on a branch truncates RIP
 * on AMD's, F2 turns LOOPE into LOOPNE on some, 0F 0D is #UD with a register, and F3 90 with
 * REX.B is an exchange.
 */
static bool vendor_specific(const struct insn *in)
{
    bool size_prefix = false, rep_prefix = false;

    for (unsigned i = 0; i < in->op_off; i++) {
        size_prefix |= in->bytes[i] == 0x66;
        rep_prefix |= in->bytes[i] == 0xf2 || in->bytes[i] == 0xf3;
    }
    if (in->flags & INSN_BRANCH)
        return rep_prefix || (size_prefix && in->mode == INSN_64 && !(in->rex & 8));
    if (in->op == ZYDIS_MNEMONIC_PAUSE)
        return in->rex & 1;
    return in->op == ZYDIS_MNEMONIC_NOP && in->bytes[in->op_off] == 0x0f &&
           in->bytes[in->op_off + 1] == 0x0d;
}

/* Zydis 4.0 gives [index + disp32] a base of R13D when the address size is 32 and the B bit set. */
static bool misread(const struct insn *in)
{
    const uint8_t *modrm = in->bytes + in->modrm_off;

    return in->modrm_off && in->addr_size == 4 && (modrm[0] & 0xc7) == 4 && (modrm[1] & 7) == 5;
}

/* Decoded, ours, and deterministic? */
static bool acceptable(const struct insn *in)
{
    if (!in->len || in->op > ZYDIS_MNEMONIC_MAX_VALUE || !interp_int_table[in->op])
        return false;
    if ((in->flags & (INSN_FAR | INSN_NATIVE)) || vendor_specific(in) || misread(in))
        return false;
    if (in->mem_seg >= X86_FS || in->mem_seg == X86_CS) /* our own thread area, our own code */
        return false;
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind >= OPND_CR ||
            (in->opnd[i].kind == OPND_SEG && (in->opnd[i].access & OPND_WRITE)))
            return false;
    return in->op != ZYDIS_MNEMONIC_RDRAND && in->op != ZYDIS_MNEMONIC_RDSEED;
}

static uint64_t interesting(void)
{
    static const uint64_t vals[] = {
        0,      1,          2,          0x7f,       0x80,        0xff,      0x7fff,     0x8000,
        0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, INT64_MAX, 1ull << 63, ~0ull};

    switch (below(4)) {
    case 0:
        return vals[below(ARRAY_SIZE(vals))];
    case 1:
        return rnd() >> below(64);
    case 2:
        return vals[below(ARRAY_SIZE(vals))] ^ rnd() << below(64);
    default:
        return rnd();
    }
}

static uint64_t target_address(const struct insn *in)
{
    uint64_t mid = ARENA_RW + 0x800;

    if (in->op == ZYDIS_MNEMONIC_CMPXCHG16B && percent(80))
        return mid + below(64) * 16;
    switch (below(20)) {
    case 0:
        if (in->mode != INSN_64 && percent(50))
            return DATA_BASE + DATA_LIMIT - 8 + below(16);
        return ARENA + PAGE_SIZE * below(5) - 8 + below(16); /* read-only and guard pages' edges */
    case 1:
        return ARENA + below(PAGE_SIZE); /* read-only */
    case 2:
    case 3:
    case 4:
        return ARENA_RW + PAGE_SIZE * (1 + below(2)) - 16 + below(24); /* crossing */
    default:
        return mid + below(0x1000);
    }
}

static void patch(struct insn *in, unsigned off, unsigned len, uint64_t val)
{
    memcpy(in->bytes + off, &val, len);
}

static bool uses_stack(const struct insn *in)
{
    return in->op == ZYDIS_MNEMONIC_PUSH || in->op == ZYDIS_MNEMONIC_POP ||
           in->op == ZYDIS_MNEMONIC_CALL;
}

/* Registers, or failing that the displacement, so that the memory operand is at `target`. */
static bool place_mem(struct trial *t, uint64_t target)
{
    struct insn *in = &t->in;
    uint64_t mask = size_mask(in->addr_size), garbage = rnd() & ~mask, index = 0;
    bool sib = in->addr_size != 2 && (in->bytes[in->modrm_off] & 7) == 4;
    uint64_t off = data_off(t, target);
    unsigned disp_at = in->modrm_off + 1u + sib;

    if (in->mem_base == in->mem_index && in->mem_base != INSN_NOREG)
        return false;
    if (uses_stack(in) && (in->mem_index == X86_RSP || in->mem_base == X86_RSP) &&
        (in->mem_disp > 128 || in->mem_disp < -128))
        return false;
    if (in->mem_index != INSN_NOREG) {
        index = (uint64_t)(int64_t)((int)below(64) - 32);
        t->gpr[in->mem_index] = (index & mask) | garbage;
        index *= in->mem_scale;
    }
    if (!in->modrm_off) /* moffs */
        patch(in, in->op_off + 1u, in->addr_size, off);
    else if (in->mem_base == INSN_RIP)
        patch(in, disp_at, 4, off - (SLOT + in->len));
    else if (in->mem_base == INSN_NOREG)
        patch(in, disp_at, in->addr_size == 2 ? 2 : 4, off - index);
    else
        t->gpr[in->mem_base] = ((off - index - (uint64_t)in->mem_disp) & mask) | garbage;
    return true;
}

static bool is_bit_op(const struct insn *in)
{
    return in->op == ZYDIS_MNEMONIC_BT || in->op == ZYDIS_MNEMONIC_BTS ||
           in->op == ZYDIS_MNEMONIC_BTR || in->op == ZYDIS_MNEMONIC_BTC;
}

static bool is_string(const struct insn *in)
{
    insn_fn *fn = interp_int_table[in->op];

    return fn == iop_movs || fn == iop_stos || fn == iop_lods || fn == iop_cmps || fn == iop_scas;
}

/* Registers used without being named. */
static void place_implicit(struct trial *t)
{
    const struct insn *in = &t->in;
    uint64_t garbage = rnd() & ~size_mask(in->addr_size);

    t->gpr[X86_RSP] = data_off(t, ARENA_RW + 0x1800 + below(64));
    if (percent(5)) /* on the writable part's edge */
        t->gpr[X86_RSP] = data_off(t, ARENA_RW + below(0x200));
    if (in->op == ZYDIS_MNEMONIC_ENTER || in->op == ZYDIS_MNEMONIC_LEAVE)
        t->gpr[X86_RBP] = data_off(t, ARENA_RW + 0x1000 + below(0x1000));
    if (in->op == ZYDIS_MNEMONIC_XLAT)
        t->gpr[X86_RBX] = data_off(t, ARENA_RW + below(0x1000)) | garbage;
    if (is_string(in)) {
        t->gpr[X86_RCX] = below(percent(10) ? 600 : 20) | garbage;
        t->gpr[X86_RSI] = data_off(t, target_address(in)) | garbage;
        t->gpr[X86_RDI] = data_off(t, target_address(in)) | garbage;
        if (percent(30))
            t->gpr[X86_RDI] = t->gpr[X86_RSI] + below(16);
    }
    if (in->op >= ZYDIS_MNEMONIC_LOOP && in->op <= ZYDIS_MNEMONIC_LOOPNE && percent(50))
        t->gpr[X86_RCX] = below(3) | garbage;
    if (interp_int_table[in->op] == iop_jcxz && percent(50))
        t->gpr[X86_RCX] = garbage;
    if (in->op == ZYDIS_MNEMONIC_DIV || in->op == ZYDIS_MNEMONIC_IDIV) {
        if (percent(60))
            t->gpr[X86_RDX] = percent(50) ? 0 : -(sign_extend(t->gpr[X86_RAX], in->op_size) >> 63);
        if (in->op_size == 1 && percent(60))
            t->gpr[X86_RAX] = sign_extend(t->gpr[X86_RAX], 1);
    }
}

/* Branches go to the landing pad. */
static bool place_branch(struct trial *t, uint64_t target)
{
    struct insn *in = &t->in;
    uint64_t landing = slot_off(t) + LANDING_OFF;

    if (in->op == ZYDIS_MNEMONIC_RET) {
        patch(in, in->op_off + 1u, in->nopnd ? 2 : 0, below(256));
        memcpy((void *)(t->gpr[X86_RSP] + (t->mode == INSN_64 ? 0 : DATA_BASE)), &landing,
               in->op_size);
    } else if (in->opnd[0].kind == OPND_REL) {
        patch(in, in->imm_off, in->imm_len, LANDING_OFF - in->len);
    } else if (in->op == ZYDIS_MNEMONIC_JMP || in->op == ZYDIS_MNEMONIC_CALL) {
        if (in->opnd[0].kind == OPND_GPR) {
            if (in->opnd[0].reg == X86_RSP)
                return false;
            t->gpr[in->opnd[0].reg] = landing;
        } else if (target >= ARENA_RW && target + 8 <= ARENA_END) {
            memcpy((void *)target, &landing, in->op_size);
        } else if (target + 8 > ARENA && target < ARENA_END) {
            return false;
        }
    }
    return true;
}

static bool place_operands(struct trial *t)
{
    struct insn *in = &t->in;
    uint64_t target = target_address(in);
    const struct opnd *bit = &in->opnd[1];

    for (unsigned i = 0; i < 16; i++)
        t->gpr[i] = interesting();
    t->flags = 0x202 | (rnd() & X86_ARITH) | (percent(30) ? X86_DF : 0);
    place_implicit(t);
    if (is_bit_op(in) && in->opnd[0].kind == OPND_MEM && bit->kind == OPND_GPR) {
        if (bit->reg == in->mem_base || bit->reg == in->mem_index)
            return false;
        t->gpr[bit->reg] = (uint64_t)(int64_t)((int)below(0x8000) - 0x4000);
        target = ARENA_RW + 0x1000 + below(0x1000);
    }
    if ((in->flags & INSN_HAS_MEM) && in->mem_size && !place_mem(t, target))
        return false;
    if (in->op == ZYDIS_MNEMONIC_ENTER)
        patch(in, in->op_off + 1u, 2, below(0x200));
    if (interp_int_table[in->op] == iop_cmpxchg && percent(50)) {
        if (in->opnd[0].kind == OPND_GPR && in->mem_base != X86_RAX)
            t->gpr[X86_RAX] = t->gpr[in->opnd[0].reg];
        else if (in->mem_base != X86_RAX && in->mem_index != X86_RAX && target + 8 <= ARENA_END)
            memcpy(&t->gpr[X86_RAX], (void *)(target < ARENA ? ARENA : target), 8);
    }
    return place_branch(t, target);
}

/* A random instruction for t->mode; false: nothing came of it, try again. */
static bool generate(struct trial *t)
{
    uint8_t b[32];
    unsigned n, i = below(ARRAY_SIZE(opcodes));
    uint8_t opcode = (uint8_t)(opcodes[i].first + below(opcodes[i].last - opcodes[i].first + 1u));

    n = opcodes[i].map >= MAP_VEX2 ? gen_vex(t, b, opcodes[i].map, opcode)
                                   : gen_legacy(t, b, opcodes[i].map, opcode);
    for (; n < sizeof(b); n++)
        b[n] = (uint8_t)rnd();
    if (decode_insn(b, 15, t->mode, &t->in) || !acceptable(&t->in))
        return false;
    if (!place_operands(t))
        return false;
    memcpy(b, t->in.bytes, 16);
    return !decode_insn(b, 15, t->mode, &t->in) && acceptable(&t->in);
}

#endif
