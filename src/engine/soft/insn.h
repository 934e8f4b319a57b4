/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The compact form of one decoded guest instruction, shared by interpreter
 * and translator. Produced by decode.c from Zydis; `op` keeps Zydis's
 * mnemonic numbering (ZYDIS_MNEMONIC_*).
 */
#ifndef LODGE_SOFT_INSN_H
#define LODGE_SOFT_INSN_H

#include "base/types.h"
#include "x86/state.h"

enum insn_mode { INSN_16, INSN_32, INSN_64 };

enum insn_enc { ENC_LEGACY, ENC_VEX, ENC_EVEX, ENC_OTHER };

enum opnd_kind {
    OPND_NONE,
    OPND_GPR,  /* reg 0..15, size 1/2/4/8 */
    OPND_GPRH, /* AH CH DH BH: reg 0..3, size 1 */
    OPND_MEM,  /* the instruction's one explicit memory operand (insn.mem_*) */
    OPND_IMM,  /* insn.imm, already sign- or zero-extended to 64 bits as the instruction does */
    OPND_IMM2, /* insn.imm2 (ENTER, EXTRQ/INSERTQ) */
    OPND_REL,  /* branch displacement: insn.imm, relative to the next instruction */
    OPND_FAR,  /* far pointer: offset insn.imm, selector insn.imm2 */
    OPND_SEG,  /* segment register, reg = enum x86_sreg */
    OPND_CR,
    OPND_DR,
    OPND_VEC, /* x87, MMX, SSE, AVX, mask registers: only the native thunk looks at them */
};

struct opnd {
    uint8_t kind;
    uint8_t reg;
    uint8_t size;   /* bytes */
    uint8_t access; /* OPND_READ | OPND_WRITE | OPND_MMX */
};
#define OPND_READ  1
#define OPND_WRITE 2
#define OPND_MMX   4 /* of OPND_VEC: an MMX register */

#define INSN_NOREG 0xff
#define INSN_RIP   0xfe /* mem_base: RIP-relative, disp is relative to the next instruction */

#define INSN_LOCK     (1u << 0)
#define INSN_REP      (1u << 1) /* F3 (also REPE) */
#define INSN_REPNE    (1u << 2) /* F2 */
#define INSN_HAS_MEM  (1u << 3)
#define INSN_NATIVE   (1u << 4) /* x87/MMX/SSE/AVX/BMI/...: executed through the native thunk */
#define INSN_SIMD     (1u << 5) /* touches x87/MMX/SSE/AVX state */
#define INSN_PRIV     (1u << 6)
#define INSN_BRANCH   (1u << 7) /* ends a straight line: any transfer of control */
#define INSN_FAR      (1u << 8) /* far JMP, CALL, RET */
#define INSN_MAX_LEN  15
#define INSN_TOO_LONG (1u << 9) /* with len 0: more than 15 bytes, #GP instead of #UD */

struct insn {
    uint16_t op;       /* ZYDIS_MNEMONIC_* */
    uint8_t len;       /* bytes, 1..15; 0: the bytes don't decode (#UD) */
    uint8_t mode;      /* enum insn_mode */
    uint8_t op_size;   /* effective operand size in bytes: 1, 2, 4, 8 (Zydis operand_width / 8) */
    uint8_t addr_size; /* 2, 4, 8 */
    uint8_t nopnd;     /* explicit operands */
    uint8_t
        mem_seg; /* enum x86_sreg of the memory operand, overrides applied; of string source otherwise */
    uint32_t flags;                         /* INSN_* */
    uint8_t mem_base, mem_index, mem_scale; /* GPR numbers or INSN_NOREG; scale 1, 2, 4, 8 */
    uint8_t mem_vindex;                     /* vector register a gather indexes by, or INSN_NOREG */
    uint8_t mem_size;                       /* bytes accessed (0: none, as for LEA or INVLPG) */
    int64_t mem_disp;
    uint64_t imm, imm2;
    struct opnd opnd[4];
    /* X86_ARITH bits that the result depends on, and bits certainly overwritten (shifts by CL keep theirs: both say so) */
    uint16_t fl_read, fl_write;
    uint16_t gpr_read,
        gpr_write;     /* bit per GPR: explicit operands; address registers count as read */
    uint8_t bytes[16]; /* the instruction as fetched */
    /* for re-encoding: positions inside bytes[], 0 when absent */
    uint8_t modrm_off, imm_off, imm_len;
    uint8_t op_off; /* first byte after legacy prefixes and REX: escape, opcode, or VEX prefix */
    uint8_t rex;    /* REX byte or 0 */
    uint8_t enc;    /* enum insn_enc */
};

#endif
