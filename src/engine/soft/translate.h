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

enum stub_kind { STUB_MISS, STUB_EXIT, STUB_PROBE, STUB_RETURN, STUB_CHAIN, STUB_LINK, STUB_INSN };

/*
 * What is put after the block: soft TLB misses, exits, unlinked branches, instructions for the interpreter. A stub puts
 * a small number into T1 and jumps to what several of them have in common, which says what the number counts from.
 */
struct stub {
    enum stub_kind kind;
    uint8_t *from;        /* displacement that jumps here (writable address); LINK: NULL */
    const uint8_t *retry; /* MISS */
    enum mem_access acc;  /* MISS */
    enum flags_at flags;
    int32_t page;  /* where its address is known: RIP is in the page that many pages on */
    uint32_t link; /* LINK: its number */
    uint32_t arg; /* exit_arg; INSN: index of the instruction, `from` the imm64 that points to it */
};

/*
 * Accesses in one block off the same, known-distance base register that are covered by one soft TLB check. The
 * difference between host and guest address stays in T1, or waits in soft_cpu.window[slot], for those after the first. A window is
 * good until the interpreter runs. When the range lies in two pages, or the check fails in another way, the block is
 * left for its careful twin, in which every access has its own check.
 */
struct window {
    uint8_t base, slot;
    enum mem_access acc;
    int32_t lo, hi; /* bytes covered, from the base register's value at `first` */
    unsigned first; /* the instruction that opens it */
    bool kept;      /* a later one will look in the slot */
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
    uint64_t peeked;                       /* see struct block */
    uint16_t live_in, taken_live;
    struct window windows[BLOCK_MAX_INSNS];
    unsigned nwindows;
    int8_t use[BLOCK_MAX_INSNS]; /* the window an instruction's access goes through, or -1 */
    enum block_kind kind;
    block_key key;
    uint64_t phys; /* the page's offset in guest memory */
    bool owned,
        fixed; /* the block has an owner; and, or it is placed: this is its page's guest address: */
    gva_t va;
    bool cross_page;          /* the last instruction is for the interpreter to fetch */
    const uint8_t *next_page; /* the last instruction ends in this page */
    bool simd_checked;
    int8_t t1_slot; /* the window whose difference T1 holds, or -1 */
    unsigned cur;   /* instruction being emitted */
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
    CLASS_STORE_HIGH, /* MOV of AH, BH, CH or DH to memory */
    CLASS_SWAPGS,     /* these three in the kernel; elsewhere by the interpreter */
    CLASS_CLI,
    CLASS_STI,
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

/* For the kernel: checked first, and the interpreter, which may get it, is to see all flags. */
static inline bool class_is_system(enum insn_class k)
{
    return k == CLASS_SWAPGS || k == CLASS_CLI || k == CLASS_STI;
}

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

/* An operand in host memory: [base + index + disp]. */
struct loc {
    uint8_t base, index;
    int32_t disp;
};

/*
 * Reach the current instruction's operand, by a check of its own or through its window. The temporaries in `keep`
 * are not part of the result. `flags`: the instruction reads EFLAGS or keeps some of them.
 */
struct loc emit_locate(struct translation *t, const struct ea *ea, unsigned size,
                       enum mem_access acc, unsigned keep, bool flags);
struct loc emit_stack_slot(struct translation *t, unsigned base, int disp, enum mem_access acc,
                           unsigned keep);

enum mem_access mem_access_of(const struct insn *in);

/* window.c: find the accesses of the block that can share a check. */
void windows_find(struct translation *t);

/* Flags needed by the current instruction or after it that it does not itself produce. */
uint16_t flags_wanted(const struct translation *t);
void flags_keep(struct translation *t);   /* before EFLAGS are destroyed: save them if wanted */
void flags_before(struct translation *t); /* before an instruction without memory operand */
void flags_after(struct translation *t);
void flags_to_host(struct translation *t); /* the coming code reads EFLAGS or keeps some */

/* reg = a constant. EFLAGS are kept. */
void emit_const(struct translation *t, unsigned reg, uint64_t v);

/* Register a stub reached from the displacement `from`. */
struct stub *stub_add(struct translation *t, enum stub_kind kind, uint8_t *from, uint32_t arg);

/* A new exit_record: its number. `at`: as there, or NULL; `page`: as in struct stub. */
uint32_t record_add(struct translation *t, uint32_t arg, const uint8_t *at, int32_t page);

/* The instruction crosses into next_page: leave to the interpreter if something else is mapped there. */
void emit_check_next_page(struct translation *t);

/* Emit one instruction that is neither declined nor the end of the block. */
void emit_insn(struct translation *t, enum insn_class k);

/* Have the interpreter execute the current instruction; `last`: the straight line ends with it. */
void emit_interp(struct translation *t, bool last);

/* Emit an instruction that ends the block. */
void emit_end(struct translation *t, enum insn_class k);

/* Emit a conditional branch; the block goes on behind it. */
void emit_branch(struct translation *t);

/* Go on at page offset `target` (which may lie outside the page). `live`: flags needed there. */
void emit_goto(struct translation *t, int64_t target, uint16_t live, bool backward);

#endif
