/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Differential testing of the software engine: the same instructions from the
 * same state on the host CPU, in the interpreter and in translated code.
 * Everything about a case follows from its seed.
 */
#ifndef LODGE_TESTS_DIFFTEST_H
#define LODGE_TESTS_DIFFTEST_H

#include "base/types.h"
#include "x86/state.h"

/*
 * What both worlds have mapped, at the same addresses below 2 GiB: two pages of
 * code, then nothing; and pages of data as dt_pages says.
 */
#define DT_CODE       0x20000000ull
#define DT_CODE_PAGES 2
#define DT_CODE_SIZE  (DT_CODE_PAGES * PAGE_SIZE)
#define DT_DATA       0x20010000ull

enum dt_page { DT_NONE, DT_RO, DT_RW };
#define DT_DATA_PAGES 8
extern const uint8_t dt_pages[DT_DATA_PAGES];
#define DT_RW_PAGES 3 /* how many DT_RW there are */
#define DT_RW_SIZE  (DT_RW_PAGES * PAGE_SIZE)

#define DT_MAX_INSNS  12
#define DT_INSN_BYTES 200 /* of one with what belongs to it */
#define DT_MAX_CODE   (DT_MAX_INSNS * DT_INSN_BYTES + 2)

#define DT_FILLER 0xcc /* code page bytes that belong to no sequence: INT3 */

/* Registers, in the form of the XSAVE area where they are vectors. */
struct dt_regs {
    uint64_t gpr[16], rip, rflags, fs_base, gs_base;
    uint16_t fcw, fsw;
    uint8_t ftw;
    uint32_t mxcsr;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t ymmh[16][16];
};

/* How a run ended: an exception vector, or one of these. */
#define DT_END_TIMEOUT 0x100 /* it took too long */
#define DT_END_SYSCALL 0x101 /* native: a system call was stopped */
#define DT_END_FAILED  0x102 /* guest: the engine gave up */

struct dt_result {
    struct dt_regs regs;
    uint32_t end, error;
    uint64_t cr2;
    uint8_t mem[DT_RW_SIZE];
};

struct dt_insn {
    uint8_t bytes[DT_INSN_BYTES];
    uint8_t len;
    uint8_t rel_off, rel_size; /* branch displacement, size 0: none */
    uint8_t target;            /* index of the instruction it goes to */
};

enum dt_kind {
    DT_INT,
    DT_VEC,
    DT_X87,
    DT_STRING,
    DT_BRANCH,
    DT_GATHER,
    DT_RAW,
    DT_SMC,
    DT_IMAGE,
    DT_KINDS
};

struct dt_case {
    uint64_t seed;
    enum dt_kind kind;
    bool mode32;
    bool smc;          /* code pages can be written */
    bool cold;         /* start with an empty soft TLB */
    unsigned code_off; /* in the code pages */
    unsigned n;
    struct dt_insn in[DT_MAX_INSNS];
    uint16_t off[DT_MAX_INSNS + 1]; /* of each instruction from the first; [n]: the closing UD2 */
    struct dt_regs init;
    uint8_t mem[DT_RW_SIZE];
};

/* gen.c. kind DT_KINDS: any. */
void dt_generate(struct dt_case *k, uint64_t seed, enum dt_kind kind, int mode32);
/* The same with the instructions given. */
void dt_generate_fixed(struct dt_case *k, uint64_t seed, const uint8_t *code, unsigned len,
                       bool mode32);
/* Bytes of the sequence with the closing UD2, branches resolved. Returns the length. */
unsigned dt_code(const struct dt_case *k, uint8_t out[DT_MAX_CODE]);

/* native.c: to be set up after the guest, whose signal handlers it stands in front of. */
int dt_native_init(void);
void dt_native_run(const struct dt_case *k, struct dt_result *res);
/* What the alarm does while a guest runs. */
void dt_native_on_alarm(void (*fn)(void));
/* What is asked first about a breakpoint in the engine; true: seen to. */
void dt_native_on_trap(bool (*fn)(void *context));

/* guest.c */
struct soft_counters;
enum dt_way {
    DT_WAY_INTERP,
    DT_WAY_TRANSLATED,
    DT_WAY_AGAIN,  /* linked by now */
    DT_WAY_VIEW,   /* translated code that reaches memory through a view */
    DT_WAY_PLACED, /* such blocks that know their address */
    DT_WAY_OWN,    /* the view's own blocks */
    DT_WAYS
};
int dt_guest_init(void);
void dt_guest_fini(void);
/* Have another thread make the vCPU leave translated code all the time, until dt_guest_fini. */
int dt_guest_stress(void);
/* Leave translated code at random instructions: leave.c. */
void dt_guest_leave(void);
/* What went on in views so far. */
const struct soft_counters *dt_guest_counters(void);

/* In the host addresses that views are in nothing is mapped but guards and guest memory; else it says what. */
bool dt_guest_views_alone(void);
void dt_guest_run(const struct dt_case *k, enum dt_way way, struct dt_result *res);
/* The registers and memory of the vCPU, which is not running. */
void dt_guest_state(struct dt_result *res);
/*
 * Interpret the case, calling `fn` before each instruction until it returns false or there is an exception. False: it
 * takes too long.
 */
bool dt_guest_steps(const struct dt_case *k, bool (*fn)(uint64_t rip));

/*
 * leave.c: translated code is left at random instructions, by breakpoints put where the recovery tables of blocks say
 * that an instruction begins, and goes on there. What the state was is then looked for among the interpreter's.
 */
struct soft_cpu;
/* `code`: where the guest's code pages are. */
void dt_leave_init(struct soft_cpu *c, const uint8_t *code);
/* A run begins. `code_new`: the blocks made so far are gone. */
void dt_leave_begin(const struct dt_case *k, bool translate, bool code_new);
/* The vCPU has stopped: was that for leaving? The run is to go on then. */
bool dt_leave_taken(void);
/* How often the case was left since it first began; *bad: how many states the interpreter never was in. */
unsigned dt_leave_check(const struct dt_case *k, unsigned *bad, bool print);

/* report.c */
/* Does the result of a way differ from the host's? Prints what differs when `print` is set. */
bool dt_differs(const struct dt_case *k, const struct dt_result *host, const struct dt_result *got,
                enum dt_way way, bool print);
/*
 * Did the host run what is undefined, where the engine stopped? AMD's processors take VPERMQ and VPERMPD with VEX.W
 * clear for what they are with W set (seen on family 1Ah); the Intel SDM, volume 2C, has #UD for it.
 */
bool dt_host_takes_more(const struct dt_case *k, const struct dt_result *host,
                        const struct dt_result *got);
/* Flags that the instruction leaves undefined, and those it defines. */
struct dt_flags {
    uint64_t undefined, defined;
};
struct dt_flags dt_flags_of(const uint8_t *bytes, unsigned len);
/* Is a state of the engine, looking at arithmetic flags in `live` only, another than `want`? */
bool dt_state_differs(const struct dt_result *want, const struct dt_result *got, uint64_t live,
                      bool print);
void dt_print_case(const struct dt_case *k);

/* shrink.c: make the case smaller while `fails` says that it still fails. */
void dt_shrink(struct dt_case *k, bool (*fails)(const struct dt_case *k));

#endif
