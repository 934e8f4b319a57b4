/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Debug registers, RF and the alignment check: SDM volume 3, 17.2, 17.3 and 6.15 (#AC). */
#include "payload.h"

#define DB 1u
#define AC 17u

#define CR0_AM    (1ul << 18)
#define CR4_DE    (1ul << 3)
#define RF        (1ul << 16)
#define DR6_INIT  0xffff0ff0ul
#define DR6_BD    (1ul << 13)
#define DR6_BS    (1ul << 14)
#define DR7_INIT  0x400ul
#define DR7_GD    (1ul << 13)
#define ON_EXEC   0u
#define ON_WRITE  1u
#define ON_IO     2u
#define ON_ACCESS 3u
#define LEN_1     0u
#define LEN_2     1u
#define LEN_8     2u
#define LEN_4     3u
#define MAX_TRAPS 16u
#define AT(label) ((uint64_t)(label))

#define DEBUG_REG(n)                                                                               \
    static inline uint64_t get_dr##n(void)                                                         \
    {                                                                                              \
        uint64_t v;                                                                                \
        __asm__ volatile("mov %%dr" #n ", %0" : "=r"(v));                                          \
        return v;                                                                                  \
    }                                                                                              \
    static inline void set_dr##n(uint64_t v)                                                       \
    {                                                                                              \
        __asm__ volatile("mov %0, %%dr" #n : : "r"(v) : "memory");                                 \
    }
DEBUG_REG(0)
DEBUG_REG(1)
DEBUG_REG(2)
DEBUG_REG(3)
DEBUG_REG(6)
DEBUG_REG(7)

static volatile unsigned traps;
static struct {
    uint64_t rip, dr6, rflags, rcx;
} seen[MAX_TRAPS];
static bool resume; /* set RF in the frame: a breakpoint on code would come again */

static void db_note(struct frame *f)
{
    if (traps < MAX_TRAPS) {
        seen[traps].rip = f->rip;
        seen[traps].dr6 = get_dr6();
        seen[traps].rflags = f->rflags;
        seen[traps].rcx = f->rcx;
    }
    traps++;
    set_dr6(DR6_INIT);
    if (resume)
        f->rflags |= RF;
}

static uint64_t dr7_bits(unsigned n, unsigned kind, unsigned len)
{
    return 1ul << (2 * n) | (uint64_t)(kind | len << 2) << (16 + 4 * n);
}

static void begin(void)
{
    traps = 0;
    resume = true;
    trap_set(DB, db_note);
    set_dr6(DR6_INIT);
}

static void end(void)
{
    set_dr7(DR7_INIT);
    write_cr4(read_cr4() & ~CR4_DE);
    trap_set(DB, NULL);
}

static void expect(const char *what, unsigned i, uint64_t rip, uint64_t dr6)
{
    EXPECT(i < traps, "%s: only %u traps", what, traps);
    if (i < traps)
        EXPECT(seen[i].rip == rip && seen[i].dr6 == (DR6_INIT | dr6),
               "%s: trap %u at %lx, DR6 %lx, not %lx, %lx", what, i, seen[i].rip, seen[i].dr6, rip,
               DR6_INIT | dr6);
}

/* ---- Breakpoints on code ------------------------------------------------------ */

extern uint8_t bp_loop[], bp_next[];

static __attribute__((noinline, noclone)) unsigned loop_run(unsigned n)
{
    unsigned done = 0;

    __asm__ volatile(".globl bp_loop, bp_next; bp_loop: inc %0; bp_next: dec %1; jnz bp_loop"
                     : "+r"(done), "+r"(n)
                     :
                     : "cc");
    return done;
}

static void code(void)
{
    begin();
    for (unsigned round = 0; round < 20; round++) {
        loop_run(5000); /* translated by now */
        set_dr2(AT(bp_next));
        set_dr3(AT(bp_loop));
        set_dr7(DR7_INIT | dr7_bits(2, ON_EXEC, LEN_1) | dr7_bits(3, ON_EXEC, LEN_1));
        traps = 0;
        EXPECT(loop_run(3) == 3, "the loop went wrong");
        set_dr7(DR7_INIT);
        EXPECT(traps == 6, "%u traps, not 6", traps);
        for (unsigned i = 0; i < 6; i++) {
            expect("code", i, i & 1 ? AT(bp_next) : AT(bp_loop), i & 1 ? 4 : 8);
            EXPECT(!(seen[i].rflags & RF), "RF is set in frame %u", i);
        }
        traps = 0;
        EXPECT(loop_run(1000) == 1000 && !traps, "traps with nothing enabled");
    }
    end();
}

/* Not behind MOV SS, whose shadow covers breakpoints on the next instruction too; behind STI it does not. */
extern uint8_t bp_shadow_ss[], bp_shadow_sti[];

static void code_in_shadow(void)
{
    begin();
    set_dr0(AT(bp_shadow_ss));
    set_dr1(AT(bp_shadow_sti));
    set_dr7(DR7_INIT | dr7_bits(0, ON_EXEC, LEN_1) | dr7_bits(1, ON_EXEC, LEN_1));
    __asm__ volatile("mov %w0, %%ss; .globl bp_shadow_ss; bp_shadow_ss: nop" : : "r"(SEL_DATA));
    EXPECT(!traps, "a breakpoint behind MOV SS");
    __asm__ volatile("sti; .globl bp_shadow_sti; bp_shadow_sti: cli" : : : "memory");
    expect("behind STI", 0, AT(bp_shadow_sti), 2);
    end();
}

/* ---- Breakpoints on data ------------------------------------------------------- */

static uint8_t data[64] __attribute__((aligned(64)));
extern uint8_t wr_1[], rd_1[], rmw_1[];

static void data_write(unsigned at, unsigned size)
{
    uint64_t v = 0x1122334455667788ul;

    if (size == 1)
        __asm__ volatile("movb %b1, (%0)" : : "r"(data + at), "q"(v) : "memory");
    else if (size == 2)
        __asm__ volatile("movw %w1, (%0)" : : "r"(data + at), "r"(v) : "memory");
    else if (size == 4)
        __asm__ volatile("movl %k1, (%0)" : : "r"(data + at), "r"(v) : "memory");
    else
        __asm__ volatile("movq %1, (%0)" : : "r"(data + at), "r"(v) : "memory");
}

/* Which accesses touch which bytes watched. */
static void data_reach(void)
{
    static const uint8_t lens[] = {LEN_1, LEN_2, LEN_4, LEN_8};

    begin();
    for (unsigned l = 0; l < 4; l++)
        for (unsigned size = 1; size <= 8; size *= 2)
            for (unsigned at = 0; at < 40; at++) {
                unsigned len = 1u << l, from = 16;
                bool hit = at < from + len && from < at + size;

                traps = 0;
                set_dr1(AT(data) + from + len - 1); /* the low bits do not matter */
                set_dr7(DR7_INIT | dr7_bits(1, ON_WRITE, lens[l]));
                data_write(at, size);
                set_dr7(DR7_INIT);
                EXPECT(traps == hit, "%u bytes at +%u, %u watched at +%u: %u traps", size, at, len,
                       from, traps);
                if (traps)
                    EXPECT(seen[0].dr6 == (DR6_INIT | 2), "DR6 %lx", seen[0].dr6);
            }
    end();
}

static void data_kinds(void)
{
    uint64_t v = 0;

    begin();
    set_dr0(AT(data));
    set_dr3(AT(data));
    for (unsigned i = 0; i < 50; i++) {
        set_dr7(DR7_INIT | dr7_bits(0, ON_WRITE, LEN_4) | dr7_bits(3, ON_ACCESS, LEN_8));
        traps = 0;
        __asm__ volatile("mov %0, (%1); .globl wr_1; wr_1: nop" : : "r"(v), "r"(data) : "memory");
        __asm__ volatile("mov (%1), %0; .globl rd_1; rd_1: nop" : "=r"(v) : "r"(data) : "memory");
        __asm__ volatile("lock incl (%0); .globl rmw_1; rmw_1: nop" : : "r"(data) : "memory", "cc");
        set_dr7(DR7_INIT);
        EXPECT(traps == 3, "%u traps, not 3", traps);
        expect("write", 0, AT(wr_1), 9);
        expect("read", 1, AT(rd_1), 8);
        expect("locked", 2, AT(rmw_1), 9);
    }
    end();
}

extern uint8_t push_1[], call_1[], rep_1[], rep_2[], ss_1[], ss_2[];

static void data_stack(void)
{
    uint64_t slot = 0;

    begin();
    set_dr0(AT(data) + 24);
    set_dr7(DR7_INIT | dr7_bits(0, ON_WRITE, LEN_8));
    __asm__ volatile("mov %%rsp, %0; lea 32(%1), %%rsp; push %1; .globl push_1; push_1: nop; "
                     "pop %1; call call_1; .globl call_1; call_1: mov %0, %%rsp"
                     : "=&r"(slot)
                     : "r"(data)
                     : "memory");
    EXPECT(traps >= 2, "%u traps", traps);
    expect("PUSH", 0, AT(push_1), 1);
    expect("CALL", 1, AT(call_1), 1);
    end();
}

/* The trap comes after the iteration, and a breakpoint on the instruction itself came before the first. */
static void data_string(void)
{
    uint64_t cx = 8, di = AT(data);

    begin();
    set_dr0(AT(data) + 2);
    set_dr1(AT(data) + 7);
    set_dr2(AT(rep_1));
    set_dr7(DR7_INIT | dr7_bits(0, ON_WRITE, LEN_1) | dr7_bits(1, ON_ACCESS, LEN_1) |
            dr7_bits(2, ON_EXEC, LEN_1));
    __asm__ volatile(".globl rep_1, rep_2; rep_1: rep stosb; rep_2: nop"
                     : "+c"(cx), "+D"(di)
                     : "a"(0)
                     : "memory");
    EXPECT(traps == 3, "%u traps, not 3", traps);
    expect("REP: itself", 0, AT(rep_1), 4);
    expect("REP: third byte", 1, AT(rep_1), 1);
    EXPECT(seen[1].rcx == 5 && (seen[1].rflags & RF), "RCX %lx, flags %lx", seen[1].rcx,
           seen[1].rflags);
    expect("REP: last byte", 2, AT(rep_2), 2);
    end();
}

/* What MOV SS met is told behind the next instruction; an INT1 there brings it along. */
static void data_mov_ss(void)
{
    begin();
    *(volatile uint16_t *)data = SEL_DATA;
    set_dr0(AT(data));
    set_dr7(DR7_INIT | dr7_bits(0, ON_ACCESS, LEN_2));
    __asm__ volatile("mov (%0), %%ss; nop; .globl ss_1; ss_1: nop" : : "r"(data));
    EXPECT(traps == 1, "%u traps, not 1", traps);
    expect("MOV SS", 0, AT(ss_1), 1);
    traps = 0;
    __asm__ volatile("mov (%0), %%ss; .byte 0xf1; .globl ss_2; ss_2: nop" : : "r"(data));
    EXPECT(traps == 1, "INT1: %u traps, not 1", traps);
    expect("MOV SS, INT1", 0, AT(ss_2), 1);
    end();
}

extern uint8_t io_1[];

static void io(void)
{
    begin();
    set_dr0(0x80);
    set_dr7(DR7_INIT | dr7_bits(0, ON_IO, LEN_1));
    outb(0x80, 0);
    EXPECT(!traps, "a breakpoint on a port without CR4.DE");
    write_cr4(read_cr4() | CR4_DE);
    __asm__ volatile("outb %b0, $0x80; .globl io_1; io_1: nop" : : "a"(0));
    expect("OUT", 0, AT(io_1), 1);
    outb(0x81, 0);
    inb(0x3fd);
    EXPECT(traps == 1, "%u traps, not 1", traps);
    end();
}

/* ---- The registers themselves --------------------------------------------------- */

extern uint8_t gd_1[], hlt_1[];

static void general_detect(void)
{
    begin();
    resume = false;
    set_dr7(DR7_INIT | DR7_GD);
    __asm__ volatile(".globl gd_1; gd_1: mov %%dr0, %%rax" : : : "rax");
    EXPECT(traps == 1, "%u traps, not 1", traps);
    expect("GD", 0, AT(gd_1), DR6_BD);
    EXPECT(get_dr7() == DR7_INIT, "DR7 is %lx", get_dr7());
    end();
}

/* A single step ends HLT. */
static void step_hlt(void)
{
    begin();
    resume = false;
    irq_off();
    __asm__ volatile("pushf; orl $0x100, (%%rsp); popf; hlt; .globl hlt_1; hlt_1: pushf; "
                     "andl $~0x100, (%%rsp); popf"
                     :
                     :
                     : "memory", "cc");
    expect("HLT", 0, AT(hlt_1), DR6_BS);
    end();
}

/* ---- Alignment ------------------------------------------------------------------------ */

static unsigned user_access(bool write, uint64_t va, bool ac)
{
    uint64_t fn = USER_VA + (uint64_t)((write ? user_write : user_read) - user_page);

    user_flags = ac ? 1ul << 18 : 0;
    return try_user(fn, va);
}

static void alignment(void)
{
    uint8_t *page = page_alloc(2);
    uint64_t va = TEST_VA;

    map(va, page, PTE_P | PTE_W | PTE_U);
    map(va + PAGE, page + PAGE, PTE_P | PTE_W | PTE_U);
    for (unsigned round = 0; round < 40; round++)
        for (unsigned am = 0; am < 2; am++)
            for (unsigned ac = 0; ac < 2; ac++)
                for (unsigned off = 0; off < 16; off++) {
                    bool write = round & 1, wrong = am && ac && off % 8;
                    unsigned vector;

                    write_cr0(am ? read_cr0() | CR0_AM : read_cr0() & ~CR0_AM);
                    vector = user_access(write, va + 0x100 + off, ac);
                    EXPECT(vector == (wrong ? AC : VEC_USER_DONE), "AM %u, AC %u, +%u: vector %u",
                           am, ac, off, vector);
                    if (vector == AC)
                        EXPECT(!this_cpu()->error, "error code %lx", this_cpu()->error);
                }
    user_flags = 0;
    write_cr0(read_cr0() & ~CR0_AM);
}

const struct test debug_tests[] = {
    {"debug-code", code},
    {"debug-code-shadow", code_in_shadow},
    {"debug-data-reach", data_reach},
    {"debug-data-kinds", data_kinds},
    {"debug-data-stack", data_stack},
    {"debug-data-string", data_string},
    {"debug-data-mov-ss", data_mov_ss},
    {"debug-io", io},
    {"debug-general-detect", general_detect},
    {"debug-step-hlt", step_hlt},
    {"debug-alignment", alignment},
    {NULL},
};
