/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Which instructions the translator takes, and how; the rest are declined with a reason. */
#include <Zydis/Zydis.h>

#include "engine/soft/translate.h"

#define M(x) ZYDIS_MNEMONIC_##x

enum { TAKE_NO, TAKE_COPY, TAKE_NOP, TAKE_SPECIAL, TAKE_SYSTEM };

/* Integer instructions that behave in translated code as they do in the guest, memory operand or not. */
static const uint8_t take[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    [M(MOV)] = TAKE_COPY,        [M(MOVZX)] = TAKE_COPY,     [M(MOVSX)] = TAKE_COPY,
    [M(MOVSXD)] = TAKE_COPY,     [M(MOVBE)] = TAKE_COPY,     [M(XCHG)] = TAKE_COPY,
    [M(BSWAP)] = TAKE_COPY,      [M(CBW)] = TAKE_COPY,       [M(CWDE)] = TAKE_COPY,
    [M(CDQE)] = TAKE_COPY,       [M(CWD)] = TAKE_COPY,       [M(CDQ)] = TAKE_COPY,
    [M(CQO)] = TAKE_COPY,        [M(ADD)] = TAKE_COPY,       [M(ADC)] = TAKE_COPY,
    [M(SUB)] = TAKE_COPY,        [M(SBB)] = TAKE_COPY,       [M(AND)] = TAKE_COPY,
    [M(OR)] = TAKE_COPY,         [M(XOR)] = TAKE_COPY,       [M(CMP)] = TAKE_COPY,
    [M(TEST)] = TAKE_COPY,       [M(INC)] = TAKE_COPY,       [M(DEC)] = TAKE_COPY,
    [M(NEG)] = TAKE_COPY,        [M(NOT)] = TAKE_COPY,       [M(MUL)] = TAKE_COPY,
    [M(IMUL)] = TAKE_COPY,       [M(DIV)] = TAKE_COPY,       [M(IDIV)] = TAKE_COPY,
    [M(SHL)] = TAKE_COPY,        [M(SHR)] = TAKE_COPY,       [M(SAR)] = TAKE_COPY,
    [M(ROL)] = TAKE_COPY,        [M(ROR)] = TAKE_COPY,       [M(RCL)] = TAKE_COPY,
    [M(RCR)] = TAKE_COPY,        [M(SHLD)] = TAKE_COPY,      [M(SHRD)] = TAKE_COPY,
    [M(BT)] = TAKE_COPY,         [M(BTS)] = TAKE_COPY,       [M(BTR)] = TAKE_COPY,
    [M(BTC)] = TAKE_COPY,        [M(BSF)] = TAKE_COPY,       [M(BSR)] = TAKE_COPY,
    [M(TZCNT)] = TAKE_COPY,      [M(LZCNT)] = TAKE_COPY,     [M(POPCNT)] = TAKE_COPY,
    [M(XADD)] = TAKE_COPY,       [M(CMPXCHG)] = TAKE_COPY,   [M(CMPXCHG8B)] = TAKE_COPY,
    [M(CMPXCHG16B)] = TAKE_COPY, [M(ANDN)] = TAKE_COPY,      [M(BEXTR)] = TAKE_COPY,
    [M(BLSI)] = TAKE_COPY,       [M(BLSMSK)] = TAKE_COPY,    [M(BLSR)] = TAKE_COPY,
    [M(BZHI)] = TAKE_COPY,       [M(PDEP)] = TAKE_COPY,      [M(PEXT)] = TAKE_COPY,
    [M(MULX)] = TAKE_COPY,       [M(RORX)] = TAKE_COPY,      [M(SARX)] = TAKE_COPY,
    [M(SHLX)] = TAKE_COPY,       [M(SHRX)] = TAKE_COPY,      [M(ADCX)] = TAKE_COPY,
    [M(ADOX)] = TAKE_COPY,       [M(CRC32)] = TAKE_COPY,     [M(MOVNTI)] = TAKE_COPY,
    [M(LFENCE)] = TAKE_COPY,     [M(SFENCE)] = TAKE_COPY,    [M(MFENCE)] = TAKE_COPY,
    [M(PAUSE)] = TAKE_COPY,      [M(CLC)] = TAKE_COPY,       [M(STC)] = TAKE_COPY,
    [M(CMC)] = TAKE_COPY,        [M(LAHF)] = TAKE_COPY,      [M(SAHF)] = TAKE_COPY,
    [M(CMOVB)] = TAKE_COPY,      [M(CMOVBE)] = TAKE_COPY,    [M(CMOVL)] = TAKE_COPY,
    [M(CMOVLE)] = TAKE_COPY,     [M(CMOVNB)] = TAKE_COPY,    [M(CMOVNBE)] = TAKE_COPY,
    [M(CMOVNL)] = TAKE_COPY,     [M(CMOVNLE)] = TAKE_COPY,   [M(CMOVNO)] = TAKE_COPY,
    [M(CMOVNP)] = TAKE_COPY,     [M(CMOVNS)] = TAKE_COPY,    [M(CMOVNZ)] = TAKE_COPY,
    [M(CMOVO)] = TAKE_COPY,      [M(CMOVP)] = TAKE_COPY,     [M(CMOVS)] = TAKE_COPY,
    [M(CMOVZ)] = TAKE_COPY,      [M(SETB)] = TAKE_COPY,      [M(SETBE)] = TAKE_COPY,
    [M(SETL)] = TAKE_COPY,       [M(SETLE)] = TAKE_COPY,     [M(SETNB)] = TAKE_COPY,
    [M(SETNBE)] = TAKE_COPY,     [M(SETNL)] = TAKE_COPY,     [M(SETNLE)] = TAKE_COPY,
    [M(SETNO)] = TAKE_COPY,      [M(SETNP)] = TAKE_COPY,     [M(SETNS)] = TAKE_COPY,
    [M(SETNZ)] = TAKE_COPY,      [M(SETO)] = TAKE_COPY,      [M(SETP)] = TAKE_COPY,
    [M(SETS)] = TAKE_COPY,       [M(SETZ)] = TAKE_COPY,      [M(NOP)] = TAKE_NOP,
    [M(PREFETCHNTA)] = TAKE_NOP, [M(PREFETCHT0)] = TAKE_NOP, [M(PREFETCHT1)] = TAKE_NOP,
    [M(PREFETCHT2)] = TAKE_NOP,  [M(PREFETCHW)] = TAKE_NOP,  [M(LEA)] = TAKE_SPECIAL,
    [M(PUSH)] = TAKE_SPECIAL,    [M(POP)] = TAKE_SPECIAL,    [M(LEAVE)] = TAKE_SPECIAL,
    [M(JMP)] = TAKE_SPECIAL,     [M(CALL)] = TAKE_SPECIAL,   [M(RET)] = TAKE_SPECIAL,
    [M(JB)] = TAKE_SPECIAL,      [M(JBE)] = TAKE_SPECIAL,    [M(JL)] = TAKE_SPECIAL,
    [M(JLE)] = TAKE_SPECIAL,     [M(JNB)] = TAKE_SPECIAL,    [M(JNBE)] = TAKE_SPECIAL,
    [M(JNL)] = TAKE_SPECIAL,     [M(JNLE)] = TAKE_SPECIAL,   [M(JNO)] = TAKE_SPECIAL,
    [M(JNP)] = TAKE_SPECIAL,     [M(JNS)] = TAKE_SPECIAL,    [M(JNZ)] = TAKE_SPECIAL,
    [M(JO)] = TAKE_SPECIAL,      [M(JP)] = TAKE_SPECIAL,     [M(JS)] = TAKE_SPECIAL,
    [M(JZ)] = TAKE_SPECIAL,      [M(SWAPGS)] = TAKE_SYSTEM,  [M(CLI)] = TAKE_SYSTEM,
    [M(STI)] = TAKE_SYSTEM,
};

/* Native instructions with effects the copy would not have: faults by element, state the engine keeps an eye on. */
static enum decline native_declined(uint16_t op)
{
    switch (op) {
    case M(VMASKMOVPS):
    case M(VMASKMOVPD):
    case M(VPMASKMOVD):
    case M(VPMASKMOVQ):
        return DECLINE_MASKED;
    case M(FLDCW):
    case M(FLDENV):
    case M(FNSTENV):
    case M(FNSAVE):
    case M(FRSTOR):
    case M(FNINIT):
        return DECLINE_X87_CONTROL;
    default:
        return DECLINE_NONE;
    }
}

static bool plain_operands(const struct insn *in)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        switch (in->opnd[i].kind) {
        case OPND_SEG:
        case OPND_CR:
        case OPND_DR:
        case OPND_FAR:
            return false;
        default:
            break;
        }
    return true;
}

static bool has_kind(const struct insn *in, enum opnd_kind kind)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == kind)
            return true;
    return false;
}

/* Register operands (not address registers) among r10 and r11. */
static unsigned temps_used(const struct insn *in)
{
    unsigned n = 0;

    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == OPND_GPR && (in->opnd[i].reg == T0 || in->opnd[i].reg == T1))
            n |= 1u << (in->opnd[i].reg == T0);
    return n;
}

/* An operand relative to RIP whose distance from the page's beginning does not fit into a displacement. */
static bool far_from_page(const struct insn *in, unsigned off)
{
    int64_t disp = in->mem_disp + off + in->len;

    return in->mem_base == INSN_RIP && (int32_t)disp != disp;
}

static enum insn_class classify_copy(const struct insn *in, unsigned off, enum decline *why)
{
    bool bit_string =
        (in->op == M(BT) || in->op == M(BTS) || in->op == M(BTR) || in->op == M(BTC)) &&
        in->nopnd == 2 && in->opnd[1].kind == OPND_GPR;

    *why = DECLINE_FORM;
    if (!plain_operands(in))
        return CLASS_DECLINED;
    if (!(in->flags & INSN_HAS_MEM))
        return CLASS_COPY;
    if (!in->mem_size || bit_string || !in->modrm_off || in->enc > ENC_VEX)
        return CLASS_DECLINED;
    *why = DECLINE_HIGH_BYTE;
    if (has_kind(in, OPND_GPRH))
        return in->op == M(MOV) && in->opnd[0].kind == OPND_MEM && !far_from_page(in, off)
                   ? CLASS_STORE_HIGH
                   : CLASS_DECLINED;
    *why = DECLINE_R10_R11;
    if (temps_used(in) == 3)
        return CLASS_DECLINED;
    *why = DECLINE_FORM;
    if (far_from_page(in, off))
        return CLASS_DECLINED;
    return CLASS_MEM;
}

static enum insn_class classify_special(const struct insn *in, unsigned off, enum decline *why)
{
    *why = DECLINE_FORM;
    if (in->flags & INSN_FAR)
        return CLASS_DECLINED;
    if (in->op != M(LEA) && (!plain_operands(in) || in->op_size != 8))
        return CLASS_DECLINED;
    if ((in->flags & INSN_HAS_MEM) && far_from_page(in, off))
        return CLASS_DECLINED;
    switch (in->op) {
    case M(LEA):
        if (in->mem_base != INSN_RIP)
            return CLASS_COPY;
        return in->op_size == 8 && in->addr_size == 8 ? CLASS_LEA_RIP : CLASS_DECLINED;
    case M(PUSH):
        return CLASS_PUSH;
    case M(POP):
        return in->opnd[0].kind == OPND_GPR ? CLASS_POP : CLASS_DECLINED;
    case M(LEAVE):
        return CLASS_LEAVE;
    case M(JMP):
        return in->opnd[0].kind == OPND_REL ? CLASS_JMP : CLASS_JMP_IND;
    case M(CALL):
        return in->opnd[0].kind == OPND_REL ? CLASS_CALL : CLASS_CALL_IND;
    case M(RET):
        return CLASS_RET;
    default:
        return CLASS_JCC;
    }
}

enum insn_class classify(const struct insn *in, unsigned off, enum decline *why)
{
    *why = DECLINE_UNDEFINED;
    if (!in->len)
        return CLASS_DECLINED;
    if (in->flags & INSN_NATIVE) {
        *why = native_declined(in->op);
        return *why ? CLASS_DECLINED : classify_copy(in, off, why);
    }
    switch (take[in->op]) {
    case TAKE_NOP:
        return CLASS_NOP;
    case TAKE_COPY:
        return classify_copy(in, off, why);
    case TAKE_SPECIAL:
        return classify_special(in, off, why);
    case TAKE_SYSTEM:
        return in->op == M(SWAPGS) ? CLASS_SWAPGS : in->op == M(CLI) ? CLASS_CLI : CLASS_STI;
    default:
        *why = in->flags & (INSN_REP | INSN_REPNE) ? DECLINE_STRING : DECLINE_SYSTEM;
        return CLASS_DECLINED;
    }
}
