/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One instruction: an opcode out of weighted ranges, random prefixes and a
 * ModRM that mostly points into the window; Zydis then says whether that is an
 * instruction, and whether it is one that can be compared.
 */
#include <string.h>

#include <Zydis/Zydis.h>

#include "gen.h"

enum map { MAP_1, MAP_0F, MAP_38, MAP_3A, MAP_V1, MAP_V2, MAP_V3 };

/* Opcodes first..last of a map; pp: prefixes that may come with it (bit 0 none, 1 66, 2 F3, 3 F2). */
struct range {
    uint8_t map, first, last, weight, pp;
};

static const struct range ranges_int[] = {
    {MAP_1, 0x00, 0x3f, 14, 3},  {MAP_1, 0x40, 0x4f, 1, 3},  {MAP_1, 0x50, 0x5f, 4, 3},
    {MAP_1, 0x60, 0x62, 1, 3},   {MAP_1, 0x63, 0x63, 2, 3},  {MAP_1, 0x68, 0x6b, 4, 3},
    {MAP_1, 0x70, 0x7f, 2, 1},   {MAP_1, 0x80, 0x8f, 14, 3}, {MAP_1, 0x90, 0x99, 3, 7},
    {MAP_1, 0x9c, 0xa9, 3, 3},   {MAP_1, 0xb0, 0xbf, 3, 3},  {MAP_1, 0xc0, 0xc1, 4, 3},
    {MAP_1, 0xc6, 0xc9, 3, 3},   {MAP_1, 0xcc, 0xce, 1, 3},  {MAP_1, 0xd0, 0xd3, 6, 3},
    {MAP_1, 0xd4, 0xd7, 1, 3},   {MAP_1, 0xf4, 0xf4, 1, 3},  {MAP_1, 0xf5, 0xf5, 1, 3},
    {MAP_1, 0xf6, 0xf7, 8, 3},   {MAP_1, 0xf8, 0xfd, 2, 3},  {MAP_1, 0xfe, 0xff, 6, 3},
    {MAP_0F, 0x0b, 0x0d, 1, 3},  {MAP_0F, 0x18, 0x1f, 1, 3}, {MAP_0F, 0x40, 0x4f, 6, 3},
    {MAP_0F, 0x80, 0x8f, 2, 1},  {MAP_0F, 0x90, 0x9f, 4, 3}, {MAP_0F, 0xa0, 0xaf, 6, 3},
    {MAP_0F, 0xa3, 0xa5, 3, 3},  {MAP_0F, 0xb0, 0xb1, 3, 3}, {MAP_0F, 0xb3, 0xbf, 8, 7},
    {MAP_0F, 0xc0, 0xc7, 4, 3},  {MAP_0F, 0xc8, 0xcf, 2, 3}, {MAP_0F, 0xff, 0xff, 1, 3},
    {MAP_38, 0xf0, 0xf1, 3, 11}, {MAP_38, 0xf6, 0xf6, 2, 6}, {MAP_V2, 0xf2, 0xf7, 8, 15},
    {MAP_V3, 0xf0, 0xf0, 1, 15}, {MAP_0F, 0xae, 0xae, 1, 7}, {MAP_0F, 0x01, 0x0f, 1, 3},
};

static const struct range ranges_vec[] = {
    {MAP_0F, 0x10, 0x17, 6, 15},  {MAP_0F, 0x28, 0x2f, 6, 15},  {MAP_0F, 0x50, 0x7f, 14, 15},
    {MAP_0F, 0xc2, 0xc6, 4, 15},  {MAP_0F, 0xd0, 0xff, 10, 15}, {MAP_38, 0x00, 0x41, 8, 3},
    {MAP_38, 0xc8, 0xcf, 3, 3},   {MAP_38, 0xdb, 0xdf, 3, 2},   {MAP_3A, 0x08, 0x17, 4, 3},
    {MAP_3A, 0x20, 0x22, 2, 2},   {MAP_3A, 0x40, 0x44, 2, 2},   {MAP_3A, 0x60, 0x63, 2, 2},
    {MAP_3A, 0xcc, 0xdf, 2, 3},   {MAP_V1, 0x10, 0x17, 5, 15},  {MAP_V1, 0x28, 0x2f, 4, 15},
    {MAP_V1, 0x50, 0x7f, 10, 15}, {MAP_V1, 0xc2, 0xc6, 3, 15},  {MAP_V1, 0xd0, 0xff, 8, 15},
    {MAP_V2, 0x00, 0x47, 10, 2},  {MAP_V2, 0x58, 0x5a, 2, 2},   {MAP_V2, 0x78, 0x79, 2, 2},
    {MAP_V2, 0x8c, 0x8e, 3, 2},   {MAP_V2, 0x96, 0xbf, 8, 2},   {MAP_V2, 0xdb, 0xdf, 2, 2},
    {MAP_V3, 0x00, 0x22, 6, 2},   {MAP_V3, 0x38, 0x4c, 4, 2},   {MAP_V3, 0x60, 0x63, 2, 2},
    {MAP_V3, 0xdf, 0xdf, 1, 2},   {MAP_0F, 0xae, 0xae, 1, 1},   {MAP_V1, 0xae, 0xae, 1, 1},
};

static const struct range ranges_x87[] = {
    {MAP_1, 0xd8, 0xdf, 60, 1},  {MAP_1, 0x9b, 0x9b, 2, 1},  {MAP_0F, 0x60, 0x7f, 12, 1},
    {MAP_0F, 0xd1, 0xff, 12, 1}, {MAP_38, 0x00, 0x1e, 4, 1}, {MAP_0F, 0x77, 0x77, 2, 1},
    {MAP_0F, 0x2a, 0x2d, 3, 3},
};

static const struct range ranges_string[] = {
    {MAP_1, 0xa4, 0xa7, 20, 15}, {MAP_1, 0xaa, 0xaf, 20, 15}, {MAP_1, 0xfc, 0xfd, 2, 1},
    {MAP_0F, 0xb0, 0xb1, 4, 3},  {MAP_0F, 0xc0, 0xc1, 4, 3},  {MAP_0F, 0xc7, 0xc7, 4, 1},
    {MAP_1, 0x86, 0x87, 4, 3},   {MAP_1, 0xd7, 0xd7, 3, 1},   {MAP_0F, 0xa3, 0xbb, 4, 3},
    {MAP_1, 0x00, 0x31, 8, 3},   {MAP_1, 0xf6, 0xf7, 2, 3},   {MAP_0F, 0xf7, 0xf7, 2, 3},
    {MAP_V1, 0xf7, 0xf7, 1, 2},  {MAP_1, 0xff, 0xff, 2, 3},
};

static const struct range ranges_branch[] = {
    {MAP_1, 0x70, 0x7f, 20, 1}, {MAP_1, 0xe0, 0xe3, 10, 1}, {MAP_1, 0xe8, 0xe9, 5, 1},
    {MAP_1, 0xeb, 0xeb, 3, 1},  {MAP_1, 0xc2, 0xc3, 4, 1},  {MAP_0F, 0x80, 0x8f, 10, 1},
    {MAP_1, 0xff, 0xff, 14, 1}, {MAP_1, 0x50, 0x5f, 6, 3},  {MAP_1, 0x00, 0x3f, 10, 3},
    {MAP_1, 0x84, 0x8b, 6, 3},  {MAP_1, 0xc8, 0xc9, 2, 3},  {MAP_0F, 0x40, 0x4f, 4, 1},
    {MAP_1, 0x9c, 0x9f, 4, 1},  {MAP_1, 0xfe, 0xff, 4, 1},  {MAP_1, 0x8d, 0x8d, 2, 1},
};

static const struct range ranges_gather[] = {
    {MAP_V2, 0x90, 0x93, 30, 2}, {MAP_V2, 0x2c, 0x2f, 15, 2}, {MAP_V2, 0x8c, 0x8e, 15, 2},
    {MAP_V1, 0x6f, 0x6f, 4, 6},  {MAP_V1, 0xef, 0xef, 4, 2},  {MAP_V1, 0x74, 0x76, 6, 2},
};

static const struct {
    const struct range *r;
    unsigned n;
} tables[DT_KINDS] = {
    [DT_INT] = {ranges_int, ARRAY_SIZE(ranges_int)},
    [DT_VEC] = {ranges_vec, ARRAY_SIZE(ranges_vec)},
    [DT_X87] = {ranges_x87, ARRAY_SIZE(ranges_x87)},
    [DT_STRING] = {ranges_string, ARRAY_SIZE(ranges_string)},
    [DT_BRANCH] = {ranges_branch, ARRAY_SIZE(ranges_branch)},
    [DT_GATHER] = {ranges_gather, ARRAY_SIZE(ranges_gather)},
};

/* ---- What can be compared ----------------------------------------------------------- */

/* Instruction sets that the guest is offered. */
static bool offered(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.isa_ext) {
    case ZYDIS_ISA_EXT_BASE:
    case ZYDIS_ISA_EXT_LONGMODE:
    case ZYDIS_ISA_EXT_X87:
    case ZYDIS_ISA_EXT_MMX:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_BMI1:
    case ZYDIS_ISA_EXT_BMI2:
    case ZYDIS_ISA_EXT_LZCNT:
    case ZYDIS_ISA_EXT_MOVBE:
    case ZYDIS_ISA_EXT_ADOX_ADCX:
    case ZYDIS_ISA_EXT_CLFSH:
    case ZYDIS_ISA_EXT_RDWRFSGS:
    case ZYDIS_ISA_EXT_PAUSE:
        return zi->encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX;
    default:
        return false;
    }
}

/*
 * Different by design (the guest's CPUID, segments and XSAVE components are
 * not the host's; the engine keeps no x87 instruction pointers), or not to be
 * run on the host.
 */
static bool excluded(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSENTER:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_ARPL:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_STI: /* a kernel may emulate them */
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_INT1: /* a host that is itself a guest sees its RIP wrong */
        return true;
    default:
        return zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    }
}

/*
 * Processors disagree: prefixes 66, F2 and F3 on branches, 0F 0D with a
 * register, F3 90 with REX.B, VEX.W of VPEXTRD and VPINSRD in 32-bit code.
 */
static bool vendor_specific(const ZydisDecodedInstruction *zi, const uint8_t *b)
{
    bool branch =
        zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || zi->meta.category == ZYDIS_CATEGORY_RET;
    unsigned op = zi->raw.prefix_count;

    if (branch)
        for (unsigned i = 0; i < op; i++)
            if (b[i] == 0x66 || b[i] == 0xf2 || b[i] == 0xf3)
                return true;
    if (zi->machine_mode == ZYDIS_MACHINE_MODE_LEGACY_32 && zi->raw.vex.W &&
        (zi->mnemonic == ZYDIS_MNEMONIC_VPEXTRD || zi->mnemonic == ZYDIS_MNEMONIC_VPINSRD))
        return true;
    if (zi->mnemonic == ZYDIS_MNEMONIC_PAUSE)
        return (zi->attributes & ZYDIS_ATTRIB_HAS_REX) != 0;
    return zi->mnemonic == ZYDIS_MNEMONIC_NOP && b[op] == 0x0f && b[op + 1] == 0x0d;
}

/* Zydis 4.0 gives [index + disp32] a base of R13D when the address size is 32 and the B bit set. */
static bool misread(const ZydisDecodedInstruction *zi)
{
    return zi->address_width == 32 && (zi->attributes & ZYDIS_ATTRIB_HAS_SIB) &&
           zi->raw.modrm.mod == 0 && zi->raw.sib.base == 5;
}

static bool acceptable(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *zo,
                       const uint8_t *b)
{
    if (!offered(zi) || excluded(zi) || vendor_specific(zi, b) || misread(zi))
        return false;
    if (zi->mnemonic == ZYDIS_MNEMONIC_INT && zo[0].imm.value.u == 0x80)
        return false;
    for (unsigned i = 0; i < zi->operand_count_visible; i++) {
        ZydisRegister r = zo[i].type == ZYDIS_OPERAND_TYPE_REGISTER ? zo[i].reg.value : 0;

        if (r >= ZYDIS_REGISTER_ES && r <= ZYDIS_REGISTER_GS &&
            (zo[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            return false;
    }
    return true;
}

/* ---- Bytes ----------------------------------------------------------------------------- */

/* Registers chosen for the ModRM byte before its REX or VEX bits are known. */
struct modrm {
    uint8_t mod, reg, base, index, scale;
    bool sib, rip, absolute;
    int32_t disp;
};

static unsigned any_of(struct gen *g, uint16_t set)
{
    unsigned n = (unsigned)__builtin_popcount(set), k = n ? gen_below(g, n) : 0;

    for (unsigned i = 0; i < 16; i++)
        if (set & 1u << i && !k--)
            return i;
    return gen_below(g, g->k->mode32 ? 8 : 16);
}

static void choose_disp(struct gen *g, struct modrm *m)
{
    m->mod = (uint8_t)gen_below(g, 3);
    if (m->mod == 0 && (m->base & 7) == 5)
        m->mod = 1;
    m->disp = (int32_t)gen_below(g, 8) * 16 - 64;
    if (gen_percent(g, 30))
        m->disp = (int32_t)gen_below(g, 256) - 128;
    if (m->mod == 2 && gen_percent(g, 50))
        m->disp = (int32_t)gen_below(g, 0x3000) - 0x1800;
    if (m->mod == 2 && gen_percent(g, 5))
        m->disp = (int32_t)gen_rnd(g);
}

static void choose_modrm(struct gen *g, struct modrm *m, bool vsib, bool segment)
{
    unsigned nregs = g->k->mode32 ? 8 : 16, pick = gen_below(g, 100);
    bool mem = vsib || gen_percent(g, g->k->kind == DT_GATHER || g->k->kind == DT_STRING ? 80 : 55);

    memset(m, 0, sizeof(*m));
    m->reg = (uint8_t)gen_below(g, nregs);
    m->index = 4;
    if (!mem) {
        m->mod = 3;
        m->base = (uint8_t)(g->codeptr && gen_percent(g, 15) ? any_of(g, g->codeptr)
                                                             : gen_below(g, nregs));
        return;
    }
    m->base = (uint8_t)any_of(g, segment ? g->small : g->ptr);
    if (pick >= 95)
        m->base = (uint8_t)gen_below(g, nregs);
    else if (g->favourite < 16 && !segment && gen_percent(g, 80))
        m->base = g->favourite;
    m->sib = vsib || (m->base & 7) == 4 || (pick >= 60 && pick < 80);
    if (vsib || (pick >= 60 && pick < 80)) {
        m->index = (uint8_t)(vsib ? gen_below(g, nregs) : any_of(g, g->small));
        m->scale = (uint8_t)gen_below(g, 4);
    }
    if (!vsib && pick >= 80 && pick < 90) { /* patched once the length is known */
        m->rip = !g->k->mode32;
        m->absolute = true;
        m->sib = !m->rip && !g->k->mode32;
        return;
    }
    choose_disp(g, m);
}

static unsigned put_modrm(const struct modrm *m, uint8_t *b)
{
    unsigned n = 0, size = m->mod == 1 ? 1 : m->mod == 2 || m->absolute ? 4 : 0;

    if (m->mod == 3) {
        b[n++] = (uint8_t)(0xc0 | (m->reg & 7) << 3 | (m->base & 7));
        return n;
    }
    if (m->absolute)
        b[n++] = (uint8_t)((m->reg & 7) << 3 | (m->sib ? 4 : 5));
    else
        b[n++] = (uint8_t)(m->mod << 6 | (m->reg & 7) << 3 | (m->sib ? 4 : m->base & 7));
    if (m->sib)
        b[n++] = (uint8_t)(m->scale << 6 | (m->absolute ? 4 : m->index & 7) << 3 |
                           (m->absolute ? 5 : m->base & 7));
    memcpy(b + n, &m->disp, size);
    return n + size;
}

static const struct range *choose_range(struct gen *g)
{
    enum dt_kind kind = g->k->kind;
    unsigned sum = 0, x;

    if (kind >= DT_RAW || gen_percent(g, 12)) /* something of another kind in between */
        kind = (enum dt_kind)gen_below(g, DT_RAW);
    for (unsigned i = 0; i < tables[kind].n; i++)
        sum += tables[kind].r[i].weight;
    x = gen_below(g, sum);
    for (unsigned i = 0;; i++) {
        if (x < tables[kind].r[i].weight)
            return &tables[kind].r[i];
        x -= tables[kind].r[i].weight;
    }
}

static unsigned choose_pp(struct gen *g, unsigned allowed)
{
    unsigned pp;

    if (gen_percent(g, 2))
        return gen_below(g, 4);
    do
        pp = gen_below(g, 4);
    while (!(allowed & 1u << pp));
    return pp;
}

static unsigned put_legacy(struct gen *g, const struct range *r, uint8_t *b)
{
    static const uint8_t pps[] = {0, 0x66, 0xf3, 0xf2};
    unsigned n = 0, pp = choose_pp(g, r->pp), rex;
    bool segment = gen_percent(g, 6);
    struct modrm m;

    if (segment)
        b[n++] =
            (uint8_t)(gen_percent(g, 90) ? 0x64 + gen_below(g, 2) : 0x26 | gen_below(g, 4) << 3);
    choose_modrm(g, &m, false, segment);
    if (gen_percent(g, 5))
        b[n++] = 0x67;
    if (m.mod != 3 && gen_percent(g, g->k->kind == DT_STRING ? 30 : 8))
        b[n++] = 0xf0;
    if (r->map > MAP_1 && r->pp == 15 && pp > 1 && gen_percent(g, 10))
        b[n++] = 0x66;
    if (pp)
        b[n++] = pps[pp];
    if (!g->k->mode32) {
        rex = (m.reg >= 8 ? 4 : 0) | (m.sib && m.index >= 8 ? 2 : 0) |
              (m.base >= 8 && !m.absolute ? 1 : 0) | (gen_percent(g, 45) ? 8 : 0);
        if (rex || gen_percent(g, 10))
            b[n++] = (uint8_t)(0x40 | rex);
    }
    if (r->map >= MAP_0F)
        b[n++] = 0x0f;
    if (r->map == MAP_38)
        b[n++] = 0x38;
    if (r->map == MAP_3A)
        b[n++] = 0x3a;
    b[n++] = (uint8_t)(r->first + gen_below(g, r->last - r->first + 1u));
    return n + put_modrm(&m, b + n);
}

static unsigned put_vex(struct gen *g, const struct range *r, uint8_t *b)
{
    unsigned n = 0, pp = choose_pp(g, r->pp), map = r->map - MAP_V1 + 1u, inv;
    uint8_t opcode = (uint8_t)(r->first + gen_below(g, r->last - r->first + 1u));
    unsigned vvvv = gen_percent(g, 30) ? 15 : gen_below(g, 16), w = gen_below(g, 2);
    bool segment = gen_percent(g, 5);
    struct modrm m;

    if (g->k->mode32)
        vvvv |= 8;
    if (segment)
        b[n++] = (uint8_t)(0x64 + gen_below(g, 2));
    choose_modrm(g, &m, map == 2 && opcode >= 0x90 && opcode <= 0x93, segment);
    if (gen_percent(g, 3))
        b[n++] = 0x67;
    inv = (m.reg >= 8 ? 0 : 0x80) | (m.sib && m.index >= 8 ? 0 : 0x40) |
          (m.base >= 8 && !m.absolute ? 0 : 0x20);
    if (map == 1 && !w && (inv & 0x60) == 0x60 && gen_percent(g, 60)) {
        b[n++] = 0xc5;
        b[n++] = (uint8_t)((inv & 0x80) | vvvv << 3 | gen_below(g, 2) << 2 | pp);
    } else {
        b[n++] = 0xc4;
        b[n++] = (uint8_t)(inv | map);
        b[n++] = (uint8_t)(w << 7 | vvvv << 3 | gen_below(g, 2) << 2 | pp);
    }
    b[n++] = opcode;
    return n + put_modrm(&m, b + n);
}

static void put_tail(struct gen *g, uint8_t *b, unsigned n)
{
    uint64_t v = gen_rnd(g);

    if (gen_percent(g, 40))
        v = gen_percent(g, 50) ? gen_below(g, 80) : (uint64_t) - (int64_t)gen_below(g, 80);
    memcpy(b + n, &v, 8);
}

/* ---- After decoding ----------------------------------------------------------------------- */

struct decoded {
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
};

static bool decode(const struct gen *g, const uint8_t *b, struct decoded *d)
{
    static ZydisDecoder dec[2];
    ZydisDecoder *z = &dec[g->k->mode32];
    ZydisDecoderContext ctx;

    if (!z->stack_width) {
        if (g->k->mode32)
            ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        else
            ZydisDecoderInit(z, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    }
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(z, &ctx, b, 15, &d->zi)) &&
           ZYAN_SUCCESS(ZydisDecoderDecodeOperands(z, &ctx, &d->zi, d->zo, d->zi.operand_count));
}

static uint16_t gprs_written(const struct decoded *d)
{
    uint16_t set = 0;

    for (unsigned i = 0; i < d->zi.operand_count; i++) {
        ZydisRegister r;

        if (d->zo[i].type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(d->zo[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, d->zo[i].reg.value);
        if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
            set |= (uint16_t)(1u << (r - ZYDIS_REGISTER_RAX));
    }
    return set;
}

/* Operands without a register get an address in the window. */
static void place_absolute(struct gen *g, const struct decoded *d, uint8_t *b)
{
    for (unsigned i = 0; i < d->zi.operand_count_visible; i++) {
        const ZydisDecodedOperandMem *m = &d->zo[i].mem;
        uint64_t to = gen_address(g);

        if (d->zo[i].type != ZYDIS_OPERAND_TYPE_MEMORY || !d->zi.raw.disp.size ||
            m->index != ZYDIS_REGISTER_NONE)
            continue;
        if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP)
            to -= g->va + d->zi.length;
        else if (m->base != ZYDIS_REGISTER_NONE)
            continue;
        else if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS)
            to = gen_below(g, 512);
        memcpy(b + d->zi.raw.disp.offset, &to, d->zi.raw.disp.size / 8);
    }
}

static void keep_branch(const struct decoded *d, struct dt_insn *in)
{
    in->rel_size = 0;
    for (unsigned i = 0; i < 2; i++)
        if (d->zi.raw.imm[i].is_relative) {
            in->rel_off = d->zi.raw.imm[i].offset;
            in->rel_size = d->zi.raw.imm[i].size / 8;
        }
}

/* Would too few pointers be left? String operations and the stack only move theirs. */
static bool spoils(struct gen *g, const struct decoded *d, uint16_t *written)
{
    *written = gprs_written(d);
    if (d->zi.meta.category == ZYDIS_CATEGORY_STRINGOP ||
        d->zi.meta.category == ZYDIS_CATEGORY_PUSH || d->zi.meta.category == ZYDIS_CATEGORY_POP ||
        d->zi.meta.category == ZYDIS_CATEGORY_CALL || d->zi.meta.category == ZYDIS_CATEGORY_RET)
        *written &= (uint16_t) ~(1u << X86_RSP | 1u << X86_RSI | 1u << X86_RDI);
    return __builtin_popcount(g->ptr & ~*written) < 3 && (g->ptr & *written) && gen_percent(g, 85);
}

/*
 * Instructions after which some flags are undefined and, on the host, what they
 * were before: the translator may have dropped that. Keep a defined flag in
 * memory's place, AL, and define all of them.
 */
static unsigned define_flags(const struct decoded *d, uint8_t *b, unsigned n)
{
    unsigned cc;

    switch (d->zi.mnemonic) {
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
        cc = 2; /* C */
        break;
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_TZCNT:
        cc = 6; /* C or Z */
        break;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD:
        cc = 4; /* Z */
        break;
    default:
        return n;
    }
    if (n > 10)
        return 0;
    if (d->zi.mnemonic != ZYDIS_MNEMONIC_DIV && d->zi.mnemonic != ZYDIS_MNEMONIC_IDIV) {
        b[n++] = 0x0f; /* setcc al */
        b[n++] = (uint8_t)(0x90 | cc);
        b[n++] = 0xc0;
    }
    b[n++] = 0x38; /* cmp al, al */
    b[n++] = 0xc0;
    return n;
}

/*
 * Bytes that Zydis does not know, and are not where a newer processor or a
 * hypervisor may have put something: a one-byte opcode, or 0F 38/3A of
 * the columns long filled.
 */
static bool undefined_everywhere(const uint8_t *b)
{
    unsigned i = 0;

    while (i < 4 && (b[i] == 0x66 || b[i] == 0xf2 || b[i] == 0xf3 || b[i] == 0x2e || b[i] == 0x36 ||
                     b[i] == 0x3e || (b[i] & 0xfe) == 0x26 || (b[i] & 0xfe) == 0x64))
        i++;
    if ((b[i] & 0xf0) == 0x40)
        i++;
    if (b[i] == 0x0f)
        return (b[i + 1] == 0x38 || b[i + 1] == 0x3a) && b[i + 2] < 0x80;
    if (b[i] == 0x62 || b[i] == 0x8f || b[i] == 0xd5 || b[i] == 0xc4 || b[i] == 0xc5)
        return false;
    return true;
}

void gen_insn(struct gen *g, struct dt_insn *in)
{
    struct decoded d;
    uint16_t written;
    uint8_t b[40];
    unsigned len;

    for (;;) {
        unsigned n = 0;

        if (g->k->kind == DT_RAW && gen_percent(g, 70)) {
            for (unsigned i = 0; i < 16; i += 8) {
                uint64_t v = gen_rnd(g);

                memcpy(b + i, &v, 8);
            }
        } else {
            const struct range *r = choose_range(g);

            n = r->map >= MAP_V1 ? put_vex(g, r, b) : put_legacy(g, r, b);
            put_tail(g, b, n);
        }
        if (!decode(g, b, &d)) {
            if (g->k->kind != DT_RAW || !gen_percent(g, 20) || !undefined_everywhere(b))
                continue;
            memset(in, 0, sizeof(*in));
            memcpy(in->bytes, b, 15);
            in->len = 15;
            return;
        }
        if (!acceptable(&d.zi, d.zo, b) || spoils(g, &d, &written))
            continue;
        place_absolute(g, &d, b);
        len = define_flags(&d, b, d.zi.length);
        if (len)
            break;
    }
    g->ptr &= (uint16_t)~written;
    g->small &= (uint16_t)~written;
    memcpy(in->bytes, b, len);
    in->len = (uint8_t)len;
    keep_branch(&d, in);
}
