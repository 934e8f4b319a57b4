/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For test_interp_int.c: a flat guest memory with as little engine around it
 * as handlers need, and the host CPU running single instructions in 64-, 32-
 * and 16-bit code segments.
 */
#ifndef LODGE_TESTS_INTERP_HOST_H
#define LODGE_TESTS_INTERP_HOST_H

#include <asm/ldt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/soft/decode.h"
#include "engine/soft/interp.h"

/* Low addresses, so that 32-bit address sizes and absolute displacements reach everything. */
#define CODE_ADDR   0x10000000ull
#define CTX_ADDR    0x10010000ull
#define ARENA       0x10100000ull /* read-only page, then three writable ones, guard pages around */
#define ARENA_RW    (ARENA + PAGE_SIZE)
#define ARENA_END   (ARENA + 4 * PAGE_SIZE)
#define BIG         0x10200000ull
#define BIG_SIZE    (16 * PAGE_SIZE)
#define SLOT_OFF    0x400
#define SLOT        (CODE_ADDR + SLOT_OFF)
#define LANDING_OFF 64
#define EXIT        (CODE_ADDR + 0x800)
#define EXIT_TAKEN  (CODE_ADDR + 0xa00)

/* Segments of the 16- and 32-bit modes: offset 0x1000 is ARENA, the last 512 bytes are beyond the limit. */
#define DATA_BASE  (ARENA - PAGE_SIZE)
#define DATA_LIMIT (5 * (uint32_t)PAGE_SIZE - 0x201)
#define CODE_LIMIT 0xffffu

enum ldt_entry { LDT_CODE16, LDT_CODE32, LDT_DATA16, LDT_DATA32 };
#define LDT_SEL(n) ((uint16_t)((n) << 3 | 7))
#define HOST_CS    0x33
#define HOST_SS    0x2b

/* ---- Flat guest memory and the rest of the engine, as small as can be --------------- */

static pthread_mutex_t bus = PTHREAD_MUTEX_INITIALIZER;
static bool deny_host; /* mem_host finds translated code everywhere */

void soft_raise_err(struct soft_cpu *c, unsigned vector, uint32_t error)
{
    c->exc_vector = (uint8_t)vector;
    c->exc_error = error;
    longjmp(c->exc_jmp, 1);
}

void soft_raise(struct soft_cpu *c, unsigned vector)
{
    soft_raise_err(c, vector, 0);
}

static void check(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc)
{
    gva_t first = acc == ACC_WRITE ? ARENA_RW : ARENA;

    if (va >= first && va + len <= ARENA_END)
        return;
    if (va >= BIG && va + len <= BIG + BIG_SIZE)
        return;
    soft_raise_err(c, X86_PF_EXC, acc);
}

uint64_t mem_ld(struct soft_cpu *c, gva_t va, unsigned size)
{
    uint64_t val = 0;

    check(c, va, size, ACC_READ);
    memcpy(&val, (void *)va, size);
    return val;
}

void mem_st(struct soft_cpu *c, gva_t va, unsigned size, uint64_t val)
{
    check(c, va, size, ACC_WRITE);
    memcpy((void *)va, &val, size);
}

void mem_probe(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc)
{
    check(c, va, len, acc);
}

void *mem_host(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc)
{
    check(c, va, 1, acc);
    if ((va & (PAGE_SIZE - 1)) + len > PAGE_SIZE || (deny_host && acc == ACC_WRITE))
        return NULL;
    return (void *)va;
}

void *mem_host_locked(struct soft_cpu *c, gva_t va, unsigned len)
{
    return mem_host(c, va, len, ACC_WRITE);
}

void soft_bus_lock(struct soft_cpu *c)
{
    assert_int_equal(pthread_mutex_lock(&bus), 0);
}

void soft_bus_unlock(struct soft_cpu *c)
{
    assert_int_equal(pthread_mutex_unlock(&bus), 0);
}

gva_t seg_linear(struct soft_cpu *c, enum x86_sreg seg, uint64_t off, unsigned size,
                 enum mem_access acc)
{
    const struct x86_seg *s = &c->st.seg[seg];

    if (c->mode == INSN_64)
        return off + (seg >= X86_FS ? s->base : 0);
    if (off + size - 1 > s->limit)
        soft_raise_err(c, seg == X86_SS ? X86_SS_EXC : X86_GP, 0);
    return (uint32_t)(s->base + off);
}

unsigned stack_addr_size(const struct soft_cpu *c)
{
    return c->mode == INSN_64 ? 8 : c->st.seg[X86_SS].attr & X86_ATTR_DB ? 4 : 2;
}

void stack_push(struct soft_cpu *c, unsigned size, uint64_t val)
{
    unsigned asize = stack_addr_size(c);
    uint64_t sp = (c->st.gpr[X86_RSP] - size) & size_mask(asize);

    mem_st(c, seg_linear(c, X86_SS, sp, size, ACC_WRITE), size, val);
    gpr_set(c, X86_RSP, asize, sp);
}

uint64_t stack_pop(struct soft_cpu *c, unsigned size)
{
    uint64_t val = stack_peek(c, c->st.gpr[X86_RSP], size);

    gpr_set(c, X86_RSP, stack_addr_size(c), c->st.gpr[X86_RSP] + size);
    return val;
}

void seg_load(struct soft_cpu *c, enum x86_sreg seg, uint16_t sel)
{
    if (sel == 0xbad0)
        soft_raise_err(c, X86_GP, sel);
    c->st.seg[seg].sel = sel;
}

/* The system half's share of shared mnemonics: leave a mark. */
static insn_fn *last_system;

#define SYSTEM(name)                                                                               \
    void name(struct soft_cpu *c, const struct insn *in)                                           \
    {                                                                                              \
        last_system = name;                                                                        \
    }
SYSTEM(interp_far_jmp)
SYSTEM(interp_far_call)
SYSTEM(interp_far_ret)
SYSTEM(interp_mov_cr)
SYSTEM(interp_mov_dr)

/* One instruction as interp_insn dispatches it; returns the vector raised or -1. */
static int interpret(struct soft_cpu *c, const struct insn *in)
{
    c->next_rip = c->st.rip + in->len;
    if (setjmp(c->exc_jmp))
        return c->exc_vector;
    interp_int_table[in->op](c, in);
    c->st.rip = c->next_rip;
    return -1;
}

/* ---- The host CPU --------------------------------------------------------------------- */

struct ctx {
    uint64_t in[16], in_flags, out[16], out_flags, host_rsp;
    uint32_t taken, sig;
    uint32_t entry_off; /* far pointer to the instruction */
    uint16_t entry_sel, data_sel, stack_sel, null_sel, host_ss;
};

#define CTX           ((volatile struct ctx *)CTX_ADDR)
#define CTX_AT(field) ((uint32_t)(CTX_ADDR + offsetof(struct ctx, field)))

/* n bytes, then a 32-bit value. */
static uint8_t *emit(uint8_t *p, const void *bytes, unsigned n, uint32_t val)
{
    memcpy(p, bytes, n);
    memcpy(p + n, &val, 4);
    return p + n + 4;
}

static uint8_t *emit_jmp(uint8_t *p, uint64_t target)
{
    return emit(p, "\xe9", 1, (uint32_t)(target - (uint64_t)(p + 5)));
}

/* 64-bit mov between reg and [addr]: opcode 8b loads, 89 stores. */
static uint8_t *emit_mov(uint8_t *p, uint8_t opcode, unsigned reg, uint32_t addr)
{
    uint8_t b[4] = {(uint8_t)(reg >= 8 ? 0x4c : 0x48), opcode, (uint8_t)(4 | (reg & 7) << 3), 0x25};

    return emit(p, b, 4, addr);
}

static uint8_t *emit_load_sreg(uint8_t *p, enum x86_sreg seg, uint32_t addr)
{
    uint8_t b[3] = {0x8e, (uint8_t)(4 | seg << 3), 0x25};

    return emit(p, b, 3, addr);
}

static uint8_t *emit_entry(uint8_t *p)
{
    static const uint8_t save[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};

    memcpy(p, save, sizeof(save));
    p = emit_mov(p + sizeof(save), 0x89, X86_RSP, CTX_AT(host_rsp));
    p = emit_load_sreg(p, X86_DS, CTX_AT(data_sel));
    p = emit_load_sreg(p, X86_ES, CTX_AT(data_sel));
    p = emit_load_sreg(p, X86_SS, CTX_AT(stack_sel));
    p = emit(p, "\xff\x34\x25", 3, CTX_AT(in_flags)); /* push */
    *p++ = 0x9d;                                      /* popfq */
    for (unsigned i = 0; i < 16; i++)
        p = emit_mov(p, 0x8b, i, CTX_AT(in) + 8 * i);
    return emit(p, "\xff\x2c\x25", 3, CTX_AT(entry_off)); /* jmp far */
}

static uint8_t *emit_exit(uint8_t *p)
{
    static const uint8_t restore[] = {0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41,
                                      0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3};

    for (unsigned i = 0; i < 16; i++)
        p = emit_mov(p, 0x89, i, CTX_AT(out) + 8 * i);
    p = emit_mov(p, 0x8b, X86_RSP, CTX_AT(host_rsp));
    *p++ = 0x9c;                                       /* pushfq */
    p = emit(p, "\x8f\x04\x25", 3, CTX_AT(out_flags)); /* pop */
    p = emit_load_sreg(p, X86_SS, CTX_AT(host_ss));
    p = emit_load_sreg(p, X86_DS, CTX_AT(null_sel));
    p = emit_load_sreg(p, X86_ES, CTX_AT(null_sel));
    memcpy(p, restore, sizeof(restore));
    return p + sizeof(restore);
}

static void build_stubs(void)
{
    static const uint8_t one[4] = {1};
    uint8_t *p = emit_entry((uint8_t *)CODE_ADDR);

    assert_true((uint64_t)p <= SLOT);
    p = emit_exit((uint8_t *)EXIT);
    assert_true((uint64_t)p <= EXIT_TAKEN);
    p = emit((uint8_t *)EXIT_TAKEN, "\xc7\x04\x25", 3, CTX_AT(taken));
    memcpy(p, one, 4);
    emit_jmp(p + 4, EXIT);
}

static void on_signal(int sig, siginfo_t *info, void *uc)
{
    greg_t *regs = ((ucontext_t *)uc)->uc_mcontext.gregs;
    uint64_t off = (uint64_t)regs[REG_RIP] & 0xfffffff;

    if (off < SLOT_OFF || off >= SLOT_OFF + 16) {
        signal(sig, SIG_DFL); /* our own bug: die of it */
        return;
    }
    CTX->sig = (uint32_t)sig;
    regs[REG_RIP] = (greg_t)EXIT;
    regs[REG_CSGSFS] = (greg_t)((uint64_t)HOST_SS << 48 | HOST_CS);
}

/* Not for all of the program: cmocka has handlers of its own. */
static void catch_signals(void)
{
    static uint8_t alt[65536];
    static const int sigs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    stack_t ss = {.ss_sp = alt, .ss_size = sizeof(alt)};
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};

    assert_int_equal(sigaltstack(&ss, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
        assert_int_equal(sigaction(sigs[i], &sa, NULL), 0);
}

/* A jump out of the instruction's mode to 64-bit code. */
static void emit_leave(uint8_t *p, enum insn_mode mode, uint64_t target)
{
    static const uint8_t host_cs[2] = {HOST_CS};

    if (mode == INSN_64) {
        emit_jmp(p, target);
        return;
    }
    if (mode == INSN_16)
        *p++ = 0x66;
    p = emit(p, "\xea", 1, (uint32_t)target);
    memcpy(p, host_cs, 2);
}

/* In the state of CTX->in; selectors as c has them. What comes of it is in CTX. */
static void run_native(const struct soft_cpu *c, const struct insn *in)
{
    uint8_t *p = (uint8_t *)SLOT;
    bool flat = c->mode == INSN_64;

    memset(p, 0xcc, 128);
    memcpy(p, in->bytes, in->len);
    emit_leave(p + in->len, c->mode, EXIT);
    emit_leave(p + LANDING_OFF, c->mode, EXIT_TAKEN);
    CTX->taken = CTX->sig = 0;
    CTX->entry_off = flat ? SLOT : SLOT_OFF;
    CTX->entry_sel = c->st.seg[X86_CS].sel;
    CTX->data_sel = c->st.seg[X86_DS].sel;
    CTX->stack_sel = c->st.seg[X86_SS].sel;
    CTX->host_ss = HOST_SS;
    ((void (*)(void))CODE_ADDR)();
}

static void map_low(uint64_t addr, size_t len, int prot)
{
    void *p =
        mmap((void *)addr, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    assert_ptr_equal(p, (void *)addr);
}

static bool set_ldt(unsigned entry, uint64_t base, uint32_t limit, bool code, bool big)
{
    struct user_desc d = {.entry_number = entry,
                          .base_addr = (unsigned)base,
                          .limit = limit,
                          .contents = code ? 2 : 0,
                          .seg_32bit = big};

    return syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) == 0;
}

/* False where the kernel was built without: then 16- and 32-bit code can't be run natively. */
static bool set_ldts(void)
{
    return set_ldt(LDT_CODE16, CODE_ADDR, CODE_LIMIT, true, false) &&
           set_ldt(LDT_CODE32, CODE_ADDR, CODE_LIMIT, true, true) &&
           set_ldt(LDT_DATA16, DATA_BASE, DATA_LIMIT, false, false) &&
           set_ldt(LDT_DATA32, DATA_BASE, DATA_LIMIT, false, true);
}

static int set_up(void **state)
{
    map_low(CODE_ADDR, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
    map_low(CTX_ADDR, PAGE_SIZE, PROT_READ | PROT_WRITE);
    map_low(ARENA - PAGE_SIZE, PAGE_SIZE, PROT_NONE);
    map_low(ARENA, 4 * PAGE_SIZE, PROT_READ | PROT_WRITE);
    map_low(ARENA_END, PAGE_SIZE, PROT_NONE);
    map_low(BIG, BIG_SIZE, PROT_READ | PROT_WRITE);
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        ((uint8_t *)ARENA)[i] = (uint8_t)(i * 37 + (i >> 8));
    assert_int_equal(mprotect((void *)ARENA, PAGE_SIZE, PROT_READ), 0);
    build_stubs();
    return 0;
}

/* ---- Modes ---------------------------------------------------------------------------- */

static struct x86_seg data_segment(bool big)
{
    return (struct x86_seg){.base = DATA_BASE,
                            .limit = DATA_LIMIT,
                            .attr = 3 | X86_ATTR_S | 3 << X86_ATTR_DPL_SHIFT | X86_ATTR_P |
                                    (big ? X86_ATTR_DB : 0),
                            .sel = LDT_SEL(big ? LDT_DATA32 : LDT_DATA16)};
}

/* Segments and mode of `c` as run_native has them; big_stack: SS with B set. */
static void cpu_set_mode(struct soft_cpu *c, enum insn_mode mode, bool big_stack)
{
    struct x86_seg *seg = c->st.seg;

    c->mode = (uint8_t)mode;
    __asm__("mov %%fs, %0" : "=r"(seg[X86_FS].sel));
    __asm__("mov %%gs, %0" : "=r"(seg[X86_GS].sel));
    if (mode == INSN_64) {
        seg[X86_DS].sel = seg[X86_ES].sel = 0;
        seg[X86_CS].sel = HOST_CS;
        seg[X86_SS].sel = HOST_SS;
        c->st.rip = SLOT;
        return;
    }
    seg[X86_DS] = seg[X86_ES] = data_segment(true);
    seg[X86_SS] = data_segment(big_stack);
    seg[X86_CS] = (struct x86_seg){.base = CODE_ADDR,
                                   .limit = CODE_LIMIT,
                                   .attr = 0xb | X86_ATTR_S | 3 << X86_ATTR_DPL_SHIFT | X86_ATTR_P |
                                           (mode == INSN_32 ? X86_ATTR_DB : 0),
                                   .sel = LDT_SEL(mode == INSN_32 ? LDT_CODE32 : LDT_CODE16)};
    c->st.rip = SLOT_OFF;
}

#endif
