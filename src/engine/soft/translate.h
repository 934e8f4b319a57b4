/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The translator's working state for one block; private to translate*.c and emit*.c. */
#ifndef LODGE_SOFT_TRANSLATE_H
#define LODGE_SOFT_TRANSLATE_H

#include "engine/soft/emit.h"
#include "engine/soft/engine_soft.h"

#define BLOCK_MAX_INSNS 64
#define BLOCK_MAX_STUBS 256
#define BLOCK_MAX_CODE  32768 /* more than any block of that many instructions takes */

/* Where the guest's arithmetic flags are at this point of the host code. */
enum flags_at { FLAGS_HOST, FLAGS_MEM, FLAGS_DEAD };

/* An address to be computed: segment base + base + index * scale + disp. */
struct ea {
    uint8_t base, index, scale,
        addr_size; /* base may be INSN_RIP: disp is then from the page's start */
    uint8_t seg;
    int64_t disp;
};

enum stub_kind { STUB_MISS, STUB_EXIT, STUB_PROBE, STUB_CHAIN, STUB_INSN };

/* What is put after the block: soft TLB misses, exits, unlinked branches, instructions for the interpreter. */
struct stub {
    enum stub_kind kind;
    uint8_t *from;        /* displacement that jumps here (writable address) */
    const uint8_t *retry; /* MISS */
    struct ea ea;         /* MISS */
    enum mem_access acc;  /* MISS */
    enum flags_at flags;
    uint32_t arg; /* exit_arg; INSN: index of the instruction, `from` the imm64 that points to it */
};

struct translation {
    struct emit e;
    struct soft_cpu *cpu;
    const uint8_t *page; /* guest code page, host address */
    unsigned start, end; /* guest page offsets: first byte, end of what was decoded */
    unsigned ninsn;
    struct insn in[BLOCK_MAX_INSNS];
    uint16_t off[BLOCK_MAX_INSNS];
    uint16_t live[BLOCK_MAX_INSNS];        /* flags needed after the instruction */
    uint16_t target_live[BLOCK_MAX_INSNS]; /* flags needed at a direct branch's target */
    uint8_t klass[BLOCK_MAX_INSNS];        /* enum insn_class */
    uint16_t live_in, taken_live;
    bool
        cross_page; /* the last instruction continues on the next page: the interpreter fetches it */
    bool simd_checked;
    unsigned cur; /* instruction being emitted */
    enum flags_at flags;
    struct stub stubs[BLOCK_MAX_STUBS];
    unsigned nstubs;
};

/* How an instruction is translated. */
enum insn_class {
    CLASS_NOP,  /* no effect */
    CLASS_COPY, /* no memory operand: copied */
    CLASS_MEM,  /* copied with its memory operand replaced */
    CLASS_LEA_RIP,
    CLASS_PUSH,
    CLASS_POP,
    CLASS_LEAVE,
    CLASS_INTERP, /* by the interpreter, called from the block */
    CLASS_JCC,
    CLASS_INTERP_END, /* the same, and the line ends */
    CLASS_JMP,
    CLASS_JMP_IND,
    CLASS_CALL,
    CLASS_CALL_IND,
    CLASS_RET,
    CLASS_DECLINED,
};

enum insn_class classify(const struct insn *in, unsigned off, enum decline *why);

/* Does the class end a block? */
static inline bool class_ends_block(enum insn_class k)
{
    return k >= CLASS_INTERP_END;
}

struct ea ea_of(const struct translation *t, const struct insn *in);

/* Compute the address into T0. EFLAGS are lost when a segment base is added. */
void emit_address(struct translation *t, const struct ea *ea);

/*
 * Inline soft TLB check of an access: afterwards T0 is the offset in the page
 * and T1 the host page. The guest's flags are saved first if they are needed
 * later; EFLAGS are lost.
 */
void emit_check(struct translation *t, const struct ea *ea, unsigned size, enum mem_access acc);

/* T0 = host address; frees T1. */
void emit_collapse(struct translation *t, unsigned into);

/* Flags needed by the current instruction or after it that it does not itself produce. */
uint16_t flags_wanted(const struct translation *t);
void flags_keep(struct translation *t);    /* before EFLAGS are destroyed: save them if wanted */
void flags_to_host(struct translation *t); /* the coming code reads EFLAGS or keeps some */

/* Register a stub reached from the displacement `from`. */
struct stub *stub_add(struct translation *t, enum stub_kind kind, uint8_t *from, uint32_t arg);

/* Emit one instruction that is neither declined nor the end of the block. */
void emit_insn(struct translation *t, enum insn_class k);

/* Emit an instruction that ends the block. */
void emit_end(struct translation *t, enum insn_class k);

/* Emit a conditional branch; the block goes on behind it. */
void emit_branch(struct translation *t);

/* Go on at page offset `target` (which may lie outside the page). `live`: flags needed there. */
void emit_goto(struct translation *t, int64_t target, uint16_t live, bool backward);

#endif
