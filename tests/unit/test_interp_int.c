/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/engine/soft/decode.c src/engine/soft/interp_alu.c src/engine/soft/interp_muldiv.c src/engine/soft/interp_shift.c src/engine/soft/interp_bit.c src/engine/soft/interp_move.c src/engine/soft/interp_stack.c src/engine/soft/interp_branch.c src/engine/soft/interp_string.c src/engine/soft/interp_table.c */
/*
 * The integer interpreter against the host CPU: random instructions run
 * natively and interpreted from the same registers, flags and memory, and
 * must leave the same; then what 64-bit user mode can't show.
 *
 * LODGE_TEST_SEED repeats a run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include <Zydis/Mnemonic.h>

#include "engine/soft/decode.h"
#include "engine/soft/interp.h"

#define CASES 500000

/* Low addresses, so that 32-bit address sizes and absolute displacements reach everything. */
#define CODE_ADDR   0x10000000ull
#define CTX_ADDR    0x10010000ull
#define ARENA       0x10100000ull /* read-only page, then three writable ones, guard pages around */
#define ARENA_RW    (ARENA + PAGE_SIZE)
#define ARENA_END   (ARENA + 4 * PAGE_SIZE)
#define BIG         0x10200000ull
#define BIG_SIZE    (16 * PAGE_SIZE)
#define SLOT        (CODE_ADDR + 0x400)
#define LANDING_OFF 64

#define COMPARED_FLAGS (X86_ARITH | X86_DF)

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
};

static uint64_t exit_addr; /* where a faulting instruction's state is saved */

#define CTX ((volatile struct ctx *)CTX_ADDR)

static uint8_t *emit(uint8_t *p, const void *bytes, unsigned n, uint32_t abs)
{
    memcpy(p, bytes, n);
    memcpy(p + n, &abs, 4);
    return p + n + 4;
}

static uint32_t ctx_at(size_t off)
{
    return (uint32_t)(CTX_ADDR + off);
}

/* op reg, [abs32]: opcode 8b loads, 89 stores. */
static uint8_t *emit_mov(uint8_t *p, uint8_t opcode, unsigned reg, size_t off)
{
    uint8_t b[4] = {(uint8_t)(reg >= 8 ? 0x4c : 0x48), opcode, (uint8_t)(4 | (reg & 7) << 3), 0x25};

    return emit(p, b, 4, ctx_at(off));
}

/* Entry at CODE_ADDR loads everything and runs into SLOT; what follows there jumps to exit_addr. */
static void build_stubs(void)
{
    static const uint8_t save[] = {0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
    static const uint8_t restore[] = {0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41,
                                      0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3};
    uint8_t *p = (uint8_t *)CODE_ADDR;

    memcpy(p, save, sizeof(save));
    p = emit_mov(p + sizeof(save), 0x89, X86_RSP, offsetof(struct ctx, host_rsp));
    p = emit(p, "\xff\x34\x25", 3, ctx_at(offsetof(struct ctx, in_flags))); /* push */
    *p++ = 0x9d;                                                            /* popfq */
    for (unsigned i = 0; i < 16; i++)
        p = emit_mov(p, 0x8b, i, offsetof(struct ctx, in) + 8 * i);
    p = emit(p, "\xe9", 1, (uint32_t)(SLOT - (uint64_t)(p + 5)));

    exit_addr = CODE_ADDR + 0x800;
    p = (uint8_t *)exit_addr;
    for (unsigned i = 0; i < 16; i++)
        p = emit_mov(p, 0x89, i, offsetof(struct ctx, out) + 8 * i);
    p = emit_mov(p, 0x8b, X86_RSP, offsetof(struct ctx, host_rsp));
    *p++ = 0x9c;                                                             /* pushfq */
    p = emit(p, "\x8f\x04\x25", 3, ctx_at(offsetof(struct ctx, out_flags))); /* pop */
    memcpy(p, restore, sizeof(restore));
}

static void on_signal(int sig, siginfo_t *info, void *uc)
{
    ucontext_t *u = uc;
    uint64_t rip = (uint64_t)u->uc_mcontext.gregs[REG_RIP];

    if (rip < SLOT || rip >= SLOT + 16) {
        signal(sig, SIG_DFL); /* our own bug: die of it */
        return;
    }
    CTX->sig = (uint32_t)sig;
    u->uc_mcontext.gregs[REG_RIP] = (greg_t)exit_addr;
}

static void run_native(const struct insn *in)
{
    uint8_t *p = (uint8_t *)SLOT;
    static const uint8_t one[4] = {1, 0, 0, 0};

    memset(p, 0xcc, 128);
    memcpy(p, in->bytes, in->len);
    emit(p + in->len, "\xe9", 1, (uint32_t)(exit_addr - (SLOT + in->len + 5)));
    p = emit(p + LANDING_OFF, "\xc7\x04\x25", 3, ctx_at(offsetof(struct ctx, taken)));
    memcpy(p, one, 4);
    p = emit(p + 4, "\xe9", 1, (uint32_t)(exit_addr - (uint64_t)(p + 9)));
    CTX->taken = CTX->sig = 0;
    ((void (*)(void))CODE_ADDR)();
}

static void map_low(uint64_t addr, size_t len, int prot)
{
    void *p =
        mmap((void *)addr, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    assert_ptr_equal(p, (void *)addr);
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

/* ---- Random instructions ------------------------------------------------------------------ */

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
    {MAP_ONE, 0x00, 0x3d},  {MAP_ONE, 0x50, 0x5f},  {MAP_ONE, 0x63, 0x63},  {MAP_ONE, 0x68, 0x6b},
    {MAP_ONE, 0x70, 0x7f},  {MAP_ONE, 0x80, 0x8f},  {MAP_ONE, 0x90, 0x99},  {MAP_ONE, 0x9e, 0xaf},
    {MAP_ONE, 0xb0, 0xbf},  {MAP_ONE, 0xc0, 0xc3},  {MAP_ONE, 0xc6, 0xc9},  {MAP_ONE, 0xd0, 0xd3},
    {MAP_ONE, 0xd0, 0xd3},  {MAP_ONE, 0xd7, 0xd7},  {MAP_ONE, 0xe0, 0xe3},  {MAP_ONE, 0xe8, 0xeb},
    {MAP_ONE, 0xf5, 0xf9},  {MAP_ONE, 0xf6, 0xf7},  {MAP_ONE, 0xfc, 0xff},  {MAP_ONE, 0xa4, 0xaf},
    {MAP_0F, 0x0b, 0x0d},   {MAP_0F, 0x18, 0x1f},   {MAP_0F, 0x40, 0x4f},   {MAP_0F, 0x80, 0x8f},
    {MAP_0F, 0x90, 0x9f},   {MAP_0F, 0xa0, 0xaf},   {MAP_0F, 0xa3, 0xa5},   {MAP_0F, 0xb0, 0xbf},
    {MAP_0F, 0xb8, 0xbd},   {MAP_0F, 0xb0, 0xb1},   {MAP_0F, 0xc0, 0xc3},   {MAP_0F, 0xc7, 0xcf},
    {MAP_0F, 0xc7, 0xc7},   {MAP_0F38, 0xf0, 0xf6}, {MAP_VEX2, 0xf2, 0xf7}, {MAP_VEX2, 0xf2, 0xf7},
    {MAP_VEX3, 0xf0, 0xf0}, {MAP_0F, 0xff, 0xff},
};

struct trial {
    struct insn in;
    uint64_t gpr[16], flags;
};

static unsigned gen_legacy(uint8_t *b, uint8_t map, uint8_t opcode)
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
    if (percent(50))
        b[n++] = (uint8_t)(0x40 | below(16));
    if (map != MAP_ONE)
        b[n++] = 0x0f;
    if (map == MAP_0F38)
        b[n++] = 0x38;
    b[n++] = opcode;
    return n;
}

static unsigned gen_vex(uint8_t *b, uint8_t map, uint8_t opcode)
{
    unsigned n = 0;

    if (percent(10))
        b[n++] = 0x67;
    b[n++] = 0xc4;
    b[n++] = (uint8_t)(below(8) << 5 | (map == MAP_VEX2 ? 2 : 3));
    b[n++] = (uint8_t)((rnd() & 0xfb) | (map == MAP_VEX3 ? 0x7b : 0));
    if (map == MAP_VEX3)
        b[n - 1] = (uint8_t)(0x7b | (rnd() & 0x80));
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
        return rep_prefix || (size_prefix && !(in->rex & 8));
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
    if (in->mem_seg >= X86_FS) /* the test program's own thread area */
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
    unsigned disp_at = in->modrm_off + 1u + ((in->bytes[in->modrm_off] & 7) == 4);

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
        patch(in, in->op_off + 1u, in->addr_size, target);
    else if (in->mem_base == INSN_RIP)
        patch(in, disp_at, 4, target - (SLOT + in->len));
    else if (in->mem_base == INSN_NOREG)
        patch(in, disp_at, 4, target - index);
    else
        t->gpr[in->mem_base] = ((target - index - (uint64_t)in->mem_disp) & mask) | garbage;
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

    t->gpr[X86_RSP] = ARENA_RW + 0x1800 + below(64);
    if (in->op == ZYDIS_MNEMONIC_ENTER || in->op == ZYDIS_MNEMONIC_LEAVE)
        t->gpr[X86_RBP] = ARENA_RW + 0x1000 + below(0x1000);
    if (in->op == ZYDIS_MNEMONIC_XLAT)
        t->gpr[X86_RBX] = (ARENA_RW + below(0x1000)) | garbage;
    if (is_string(in)) {
        t->gpr[X86_RCX] = below(percent(10) ? 600 : 20) | garbage;
        t->gpr[X86_RSI] = target_address(in) | garbage;
        t->gpr[X86_RDI] =
            (percent(30) ? t->gpr[X86_RSI] + below(16) : target_address(in)) | garbage;
    }
    if (in->op >= ZYDIS_MNEMONIC_LOOP && in->op <= ZYDIS_MNEMONIC_LOOPNE && percent(50))
        t->gpr[X86_RCX] = below(3) | garbage;
    if (interp_int_table[in->op] == iop_jcxz && percent(50))
        t->gpr[X86_RCX] = garbage;
    if (in->op == ZYDIS_MNEMONIC_DIV || in->op == ZYDIS_MNEMONIC_IDIV) {
        if (percent(60))
            t->gpr[X86_RDX] = percent(50)                                       ? 0
                              : sign_extend(t->gpr[X86_RAX], in->op_size) >> 63 ? ~0ull
                                                                                : 0;
        if (in->op_size == 1 && percent(60))
            t->gpr[X86_RAX] = sign_extend(t->gpr[X86_RAX], 1);
    }
}

/* Branches go to the landing pad. */
static bool place_branch(struct trial *t, uint64_t target)
{
    struct insn *in = &t->in;
    uint64_t landing = SLOT + LANDING_OFF;

    if (in->op == ZYDIS_MNEMONIC_RET) {
        patch(in, in->op_off + 1u, in->nopnd ? 2 : 0, below(256));
        memcpy((void *)t->gpr[X86_RSP], &landing, 8);
    } else if (in->opnd[0].kind == OPND_REL) {
        patch(in, in->imm_off, in->imm_len, LANDING_OFF - in->len);
    } else if (in->op == ZYDIS_MNEMONIC_JMP || in->op == ZYDIS_MNEMONIC_CALL) {
        if (in->opnd[0].kind == OPND_GPR) {
            if (in->opnd[0].reg == X86_RSP)
                return false;
            t->gpr[in->opnd[0].reg] = landing;
        } else if (target >= ARENA_RW && target + 8 <= ARENA_END) {
            memcpy((void *)target, &landing, 8);
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

static bool generate(struct trial *t)
{
    uint8_t b[32];
    unsigned n, i = below(ARRAY_SIZE(opcodes));
    uint8_t opcode = (uint8_t)(opcodes[i].first + below(opcodes[i].last - opcodes[i].first + 1u));

    n = opcodes[i].map >= MAP_VEX2 ? gen_vex(b, opcodes[i].map, opcode)
                                   : gen_legacy(b, opcodes[i].map, opcode);
    for (; n < sizeof(b); n++)
        b[n] = (uint8_t)rnd();
    if (decode_insn(b, 15, INSN_64, &t->in) || !acceptable(&t->in))
        return false;
    if (!place_operands(t))
        return false;
    memcpy(b, t->in.bytes, 16);
    return !decode_insn(b, 15, INSN_64, &t->in) && acceptable(&t->in);
}

/* ---- Comparison ------------------------------------------------------------------------------ */

static void dump(const struct trial *t, const struct soft_cpu *c, int vector)
{
    print_message("%s:", ZydisMnemonicGetString((ZydisMnemonic)t->in.op));
    for (unsigned i = 0; i < t->in.len; i++)
        print_message(" %02x", t->in.bytes[i]);
    print_message("\nsignal %u vector %d, taken %u rip %lx (slot %llx)\n", CTX->sig, vector,
                  CTX->taken, c->st.rip, SLOT);
    for (unsigned i = 0; i < 16; i++)
        print_message("%2u in %016lx native %016lx interpreted %016lx%s\n", i, t->gpr[i],
                      CTX->out[i], c->st.gpr[i], CTX->out[i] != c->st.gpr[i] ? " <<<" : "");
    print_message("flags in %lx native %lx interpreted %lx\n", t->flags,
                  CTX->out_flags & COMPARED_FLAGS, c->st.rflags & COMPARED_FLAGS);
}

static bool same_fault(unsigned sig, int vector)
{
    switch (vector) {
    case -1:
        return sig == 0;
    case X86_DE:
        return sig == SIGFPE;
    case X86_UD:
        return sig == SIGILL;
    default:
        return sig == SIGSEGV || sig == SIGBUS;
    }
}

static bool same_state(const struct trial *t, const struct soft_cpu *c, int vector,
                       const void *native_mem)
{
    uint64_t rip = SLOT + (vector >= 0 ? 0 : CTX->taken ? LANDING_OFF : t->in.len);

    if (!same_fault(CTX->sig, vector) || c->st.rip != rip)
        return false;
    for (unsigned i = 0; i < 16; i++)
        if (CTX->out[i] != c->st.gpr[i])
            return false;
    /* A fault in REPE CMPS leaves the flags as before it by the SDM, as far as it got on others. */
    if (!(vector >= 0 && is_string(&t->in)) && ((CTX->out_flags ^ c->st.rflags) & COMPARED_FLAGS))
        return false;
    return !memcmp(native_mem, (void *)ARENA_RW, 3 * PAGE_SIZE);
}

static void read_selectors(struct soft_cpu *c)
{
    __asm__("mov %%es, %0" : "=r"(c->st.seg[X86_ES].sel));
    __asm__("mov %%cs, %0" : "=r"(c->st.seg[X86_CS].sel));
    __asm__("mov %%ss, %0" : "=r"(c->st.seg[X86_SS].sel));
    __asm__("mov %%ds, %0" : "=r"(c->st.seg[X86_DS].sel));
    __asm__("mov %%fs, %0" : "=r"(c->st.seg[X86_FS].sel));
    __asm__("mov %%gs, %0" : "=r"(c->st.seg[X86_GS].sel));
}

static void test_against_host(void **state)
{
    static uint8_t before[3 * PAGE_SIZE], native[3 * PAGE_SIZE];
    static struct soft_cpu c;
    static struct trial t;
    static uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
    const char *env = getenv("LODGE_TEST_SEED");
    uint64_t seed = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
    unsigned distinct = 0, faults = 0;
    int vector;

    print_message("seed %lu\n", seed);
    rng_state = seed * 0x9e3779b97f4a7c15ull | 1;
    for (unsigned i = 0; i < 3 * PAGE_SIZE; i++)
        ((uint8_t *)ARENA_RW)[i] = (uint8_t)rnd();
    catch_signals();
    read_selectors(&c);
    c.mode = INSN_64;
    for (unsigned n = 0; n < CASES;) {
        if (!generate(&t))
            continue;
        n++;
        memcpy(before, (void *)ARENA_RW, sizeof(before));
        memcpy((void *)CTX->in, t.gpr, sizeof(t.gpr));
        CTX->in_flags = t.flags;
        run_native(&t.in);
        memcpy(native, (void *)ARENA_RW, sizeof(native));
        memcpy((void *)ARENA_RW, before, sizeof(before));
        memcpy(c.st.gpr, t.gpr, sizeof(t.gpr));
        c.st.rflags = t.flags;
        c.st.rip = SLOT;
        deny_host = percent(20);
        vector = interpret(&c, &t.in);
        if (!same_state(&t, &c, vector, native)) {
            dump(&t, &c, vector);
            fail_msg("case %u of seed %lu differs", n, seed);
        }
        distinct += !seen[t.in.op];
        seen[t.in.op] = 1;
        faults += vector >= 0;
    }
    deny_host = false;
    print_message("%u mnemonics, %u faults\n", distinct, faults);
    if (distinct < 140) /* the generator reaches all but rare ones */
        fail_msg("only %u mnemonics were tried", distinct);
    assert_true(faults > CASES / 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_host),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
