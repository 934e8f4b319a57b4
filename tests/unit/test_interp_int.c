/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/engine/soft/decode.c src/engine/soft/interp_alu.c src/engine/soft/interp_muldiv.c src/engine/soft/interp_shift.c src/engine/soft/interp_bit.c src/engine/soft/interp_move.c src/engine/soft/interp_stack.c src/engine/soft/interp_branch.c src/engine/soft/interp_string.c src/engine/soft/interp_table.c */
/*
 * The integer interpreter against the host CPU: random instructions run
 * natively and interpreted from the same registers, flags and memory, and
 * must leave the same; then what one instruction at a time can't show.
 *
 * LODGE_TEST_SEED repeats a run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <time.h>

#include "interp_gen.h"

#define COMPARED_FLAGS (X86_ARITH | X86_DF)

/* ---- Against the host ------------------------------------------------------------------ */

static void dump(const struct trial *t, const struct soft_cpu *c, int vector)
{
    print_message("mode %d %s:", t->mode, ZydisMnemonicGetString((ZydisMnemonic)t->in.op));
    for (unsigned i = 0; i < t->in.len; i++)
        print_message(" %02x", t->in.bytes[i]);
    print_message("\nsignal %u vector %d, taken %u rip %lx, ss %x\n", CTX->sig, vector, CTX->taken,
                  c->st.rip, c->st.seg[X86_SS].sel);
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

/* Outside 64-bit mode the upper halves are undefined, and with a 16-bit stack Linux spoils ESP's. */
static uint64_t compared_bits(const struct soft_cpu *c, unsigned reg)
{
    if (c->mode == INSN_64)
        return ~0ull;
    return reg >= X86_R8 ? 0 : size_mask(reg == X86_RSP ? stack_addr_size(c) : 4);
}

/* What 64-bit code can't execute has no host instruction to take its undefined flags from. */
static uint64_t undefined_flags(const struct insn *in)
{
    switch (in->op) {
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
        return X86_OF;
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
        return X86_OF | X86_SF | X86_ZF | X86_PF;
    case ZYDIS_MNEMONIC_AAM:
        return X86_OF | X86_AF | X86_CF;
    default:
        return 0;
    }
}

static bool pushes_many(const struct insn *in)
{
    insn_fn *fn = interp_int_table[in->op];

    return fn == iop_enter || fn == iop_pusha;
}

static bool same_state(const struct trial *t, const struct soft_cpu *c, int vector,
                       const void *native_mem)
{
    uint64_t rip = slot_off(t) + (vector >= 0 ? 0 : CTX->taken ? LANDING_OFF : t->in.len);

    if (!same_fault(CTX->sig, vector) || c->st.rip != rip)
        return false;
    for (unsigned i = 0; i < 16; i++)
        if ((CTX->out[i] ^ c->st.gpr[i]) & compared_bits(c, i))
            return false;
    /* A fault in REPE CMPS leaves the flags as before it by the SDM, as far as it got on others. */
    if (!(vector >= 0 && is_string(&t->in)) &&
        ((CTX->out_flags ^ c->st.rflags) & COMPARED_FLAGS & ~undefined_flags(&t->in)))
        return false;
    if (vector >= 0 && pushes_many(&t->in)) /* hardware may have got part of the way */
        return true;
    return !memcmp(native_mem, (void *)ARENA_RW, 3 * PAGE_SIZE);
}

/* Returns the vector the interpreter raised or -1. */
static int run_both(struct soft_cpu *c, const struct trial *t)
{
    static uint8_t before[3 * PAGE_SIZE], native[3 * PAGE_SIZE];
    int vector;

    cpu_set_mode(c, t->mode, percent(50));
    memcpy(before, (void *)ARENA_RW, sizeof(before));
    memcpy((void *)CTX->in, t->gpr, sizeof(t->gpr));
    CTX->in_flags = t->flags;
    run_native(c, &t->in);
    memcpy(native, (void *)ARENA_RW, sizeof(native));
    memcpy((void *)ARENA_RW, before, sizeof(before));

    memcpy(c->st.gpr, t->gpr, sizeof(t->gpr));
    c->st.rflags = t->flags;
    deny_host = percent(20);
    vector = interpret(c, &t->in);
    deny_host = false;
    if (!same_state(t, c, vector, native)) {
        dump(t, c, vector);
        fail_msg("interpreter and host differ");
    }
    return vector;
}

static void against_host(enum insn_mode mode, unsigned cases, unsigned mnemonics)
{
    static struct soft_cpu c;
    struct trial t = {.mode = mode};
    uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {0};
    const char *env = getenv("LODGE_TEST_SEED");
    uint64_t seed = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
    unsigned distinct = 0, faults = 0;

    print_message("seed %lu\n", seed);
    rng_state = seed * 0x9e3779b97f4a7c15ull | 1;
    for (unsigned i = 0; i < 3 * PAGE_SIZE; i++)
        ((uint8_t *)ARENA_RW)[i] = (uint8_t)rnd();
    catch_signals();
    for (unsigned n = 0; n < cases;) {
        if (!generate(&t))
            continue;
        n++;
        faults += run_both(&c, &t) >= 0;
        distinct += !seen[t.in.op];
        seen[t.in.op] = 1;
    }
    print_message("%u mnemonics, %u faults\n", distinct, faults);
    if (distinct < mnemonics)
        fail_msg("only %u mnemonics were tried", distinct);
    assert_true(faults > cases / 1000);
}

static void test_host_64(void **state)
{
    against_host(INSN_64, 250000, 168);
}

static void test_host_32(void **state)
{
    if (!set_ldts())
        skip();
    against_host(INSN_32, 100000, 165);
}

static void test_host_16(void **state)
{
    if (!set_ldts())
        skip();
    against_host(INSN_16, 100000, 165);
}

/* ---- By hand --------------------------------------------------------------------------- */

static struct insn decoded(enum insn_mode mode, const char *bytes, unsigned n)
{
    uint8_t b[16] = {0};
    struct insn in;

    memcpy(b, bytes, n);
    assert_int_equal(decode_insn(b, 15, mode, &in), 0);
    assert_int_equal(in.len, n);
    return in;
}

#define INSN(mode, bytes) decoded(mode, bytes, sizeof(bytes) - 1)

static struct soft_cpu *new_cpu(enum insn_mode mode)
{
    struct soft_cpu *c = calloc(1, sizeof(*c));

    assert_non_null(c);
    cpu_set_mode(c, mode, mode != INSN_16);
    c->st.rflags = 2;
    return c;
}

#define COUNTS 200000

struct counter {
    struct soft_cpu *cpu;
    pthread_barrier_t *start;
};

static void *count_up(void *arg)
{
    static const struct {
        const char *bytes;
        unsigned len;
    } step[] = {
        {"\xf0\x48\xff\x03", 4},         /* lock inc qword [rbx] */
        {"\xf0\x48\x0f\xc1\x0b", 5},     /* lock xadd [rbx], rcx */
        {"\xf0\x83\x43\x08\x01", 5},     /* lock add dword [rbx+8], 1 */
        {"\xf0\x66\x83\x6b\x10\xff", 6}, /* lock sub word [rbx+16], -1 */
    };
    struct counter *counter = arg;
    struct soft_cpu *c = counter->cpu;
    struct insn in[ARRAY_SIZE(step)];

    for (unsigned i = 0; i < ARRAY_SIZE(step); i++)
        in[i] = decoded(INSN_64, step[i].bytes, step[i].len);
    c->st.gpr[X86_RBX] = BIG;
    pthread_barrier_wait(counter->start);
    for (unsigned n = 0; n < COUNTS; n++)
        for (unsigned i = 0; i < ARRAY_SIZE(step); i++) {
            c->st.gpr[X86_RCX] = 1;
            if (interpret(c, &in[i]) >= 0)
                return NULL;
        }
    return counter;
}

static void count_with_two(void)
{
    pthread_barrier_t start;
    struct counter a = {new_cpu(INSN_64), &start}, b = {new_cpu(INSN_64), &start};
    pthread_t thread;
    void *ok;

    memset((void *)BIG, 0, 64);
    assert_int_equal(pthread_barrier_init(&start, NULL, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, count_up, &b), 0);
    assert_ptr_equal(count_up(&a), &a);
    assert_int_equal(pthread_join(thread, &ok), 0);
    assert_ptr_equal(ok, &b);
    assert_int_equal(*(uint64_t *)BIG, 4 * COUNTS);
    assert_int_equal(*(uint32_t *)(BIG + 8), 2 * COUNTS);
    assert_int_equal(*(uint16_t *)(BIG + 16), 2 * COUNTS & 0xffff);
    pthread_barrier_destroy(&start);
    free(a.cpu);
    free(b.cpu);
}

static void test_locked(void **state)
{
    count_with_two();
    deny_host = true; /* under the bus lock */
    count_with_two();
    deny_host = false;
}

static void test_rep_interrupted(void **state)
{
    struct soft_cpu *c = new_cpu(INSN_64);
    struct insn in = INSN(INSN_64, "\xf3\xaa"); /* rep stosb */
    unsigned rounds = 0;

    memset((void *)BIG, 0, BIG_SIZE);
    c->st.gpr[X86_RAX] = 0x5a;
    c->st.gpr[X86_RDI] = BIG + 3;
    c->st.gpr[X86_RCX] = BIG_SIZE - 6;
    atomic_store(&c->exit_request, 1);
    do {
        uint64_t left = c->st.gpr[X86_RCX];

        assert_int_equal(interpret(c, &in), -1);
        assert_true(c->st.gpr[X86_RCX] < left);
        assert_int_equal(c->st.gpr[X86_RDI], BIG + BIG_SIZE - 3 - c->st.gpr[X86_RCX]);
        rounds++;
    } while (c->st.rip == SLOT);
    assert_int_equal(c->st.rip, SLOT + 2);
    assert_int_equal(c->st.gpr[X86_RCX], 0);
    assert_in_range(rounds, 4, 16);
    for (uint64_t i = 0; i < BIG_SIZE; i++)
        assert_int_equal(((uint8_t *)BIG)[i], i < 3 || i >= BIG_SIZE - 3 ? 0 : 0x5a);
    free(c);
}

/* Under TF each iteration is a step, and conditions still end the repetition. */
static void test_rep_trapped(void **state)
{
    struct soft_cpu *c = new_cpu(INSN_64);
    struct insn in = INSN(INSN_64, "\xf2\xae"); /* repne scasb */

    memcpy((void *)BIG, "abcd", 4);
    c->st.gpr[X86_RAX] = 'c';
    c->st.gpr[X86_RDI] = BIG;
    c->st.gpr[X86_RCX] = 100;
    c->st.rflags |= X86_TF;
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(interpret(c, &in), -1);
        assert_int_equal(c->st.gpr[X86_RCX], 100 - i);
        assert_int_equal(c->st.rip, i < 3 ? SLOT : SLOT + 2);
    }
    assert_int_equal(c->st.gpr[X86_RDI], BIG + 3);
    assert_true(c->st.rflags & X86_ZF);
    free(c);
}

static void raises(struct soft_cpu *c, struct insn in, unsigned vector)
{
    struct x86_state before = c->st;

    assert_int_equal(interpret(c, &in), vector);
    assert_memory_equal(&before, &c->st, sizeof(before));
}

static void test_branch_limits(void **state)
{
    struct soft_cpu *c = new_cpu(INSN_64);

    memset((void *)BIG, 0, 64);
    *(uint64_t *)(BIG + 32) = 0x800000000000;
    c->st.gpr[X86_RAX] = 0x800000000000;
    c->st.gpr[X86_RBX] = BIG + 32;
    c->st.gpr[X86_RSP] = BIG + 32; /* with room to push: a fault there would come first */
    raises(c, INSN(INSN_64, "\xff\xe0"), X86_GP); /* jmp rax */
    raises(c, INSN(INSN_64, "\xff\xd0"), X86_GP); /* call rax */
    raises(c, INSN(INSN_64, "\xff\x23"), X86_GP); /* jmp [rbx] */
    raises(c, INSN(INSN_64, "\xc3"), X86_GP);     /* ret */
    raises(c, INSN(INSN_64, "\xc2\x10\x00"), X86_GP);
    c->st.rip = 0x7ffffffffff0;
    raises(c, INSN(INSN_64, "\xeb\x7f"), X86_GP);
    free(c);

    c = new_cpu(INSN_32);
    c->st.gpr[X86_RCX] = 5;
    c->st.gpr[X86_RAX] = CODE_LIMIT + 1;
    c->st.gpr[X86_RSP] = 0x2800;
    raises(c, INSN(INSN_32, "\xff\xe0"), X86_GP);
    raises(c, INSN(INSN_32, "\xe8\x00\x00\x01\x00"), X86_GP);
    c->st.rip = 0xfff8;
    raises(c, INSN(INSN_32, "\xe2\x7f"), X86_GP); /* loop */
    raises(c, INSN(INSN_32, "\x73\x7f"), X86_GP); /* jnc */
    free(c);
}

/* A repeated store up to the segment's limit stops exactly there. */
static void test_rep_limit(void **state)
{
    struct soft_cpu *c = new_cpu(INSN_32);
    struct insn in = INSN(INSN_32, "\xf3\xab"); /* rep stosd */

    memset((void *)ARENA_RW, 0, 3 * PAGE_SIZE);
    c->st.gpr[X86_RAX] = 0x11111111;
    c->st.gpr[X86_RDI] = DATA_LIMIT + 1 - 4 * 100 - 2;
    c->st.gpr[X86_RCX] = 1000;
    assert_int_equal(interpret(c, &in), X86_GP);
    assert_int_equal(c->st.rip, SLOT_OFF);
    assert_int_equal(c->st.gpr[X86_RCX], 900);
    assert_int_equal(c->st.gpr[X86_RDI], DATA_LIMIT + 1 - 2);
    assert_int_equal(*(uint8_t *)(DATA_BASE + DATA_LIMIT - 2), 0x11);
    assert_int_equal(*(uint8_t *)(DATA_BASE + DATA_LIMIT - 1), 0);
    free(c);
}

/* 32-bit offsets wrap before the segment base is added, in the middle of a page if the base is odd. */
static void test_rep_wrap(void **state)
{
    struct soft_cpu *c = new_cpu(INSN_64);
    struct insn in = INSN(INSN_64, "\x65\x67\xf3\xa4"); /* rep movsb [edi], gs:[esi] */

    memset((void *)BIG, 7, 16);
    memset((void *)ARENA_RW, 0, 16);
    c->st.seg[X86_GS].base = BIG - 0xfffffffc;
    c->st.gpr[X86_RSI] = 0xfffffffc;
    c->st.gpr[X86_RDI] = ARENA_RW;
    c->st.gpr[X86_RCX] = 8;
    assert_int_equal(interpret(c, &in), X86_PF_EXC); /* at GS:0 */
    assert_int_equal(c->st.gpr[X86_RSI], 0);
    assert_int_equal(c->st.gpr[X86_RDI], ARENA_RW + 4);
    assert_int_equal(c->st.gpr[X86_RCX], 4);
    assert_int_equal(*(uint64_t *)ARENA_RW, 0x07070707);
    free(c);
}

static void test_segments(void **state)
{
    struct soft_cpu *c = new_cpu(INSN_32);
    struct insn in;

    c->st.gpr[X86_RAX] = 0xbad0;
    raises(c, INSN(INSN_32, "\x8e\xd0"), X86_GP); /* mov ss, ax */
    c->st.gpr[X86_RAX] = 0x10;
    in = INSN(INSN_32, "\x8e\xd8"); /* mov ds, ax */
    assert_int_equal(interpret(c, &in), -1);
    assert_int_equal(c->st.seg[X86_DS].sel, 0x10);
    assert_int_equal(c->st.intr_shadow, 0);
    in = INSN(INSN_32, "\x8e\xd0");
    assert_int_equal(interpret(c, &in), -1);
    assert_int_equal(c->st.intr_shadow, 1);

    c->st.intr_shadow = 0;
    c->st.gpr[X86_RSP] = 0x2800;
    *(uint32_t *)(DATA_BASE + 0x2800) = 0xbad0;
    raises(c, INSN(INSN_32, "\x17"), X86_GP); /* pop ss */
    *(uint32_t *)(DATA_BASE + 0x2800) = 0x18;
    in = INSN(INSN_32, "\x17");
    assert_int_equal(interpret(c, &in), -1);
    assert_int_equal(c->st.seg[X86_SS].sel, 0x18);
    assert_int_equal(c->st.gpr[X86_RSP], 0x2804);
    assert_int_equal(c->st.intr_shadow, 1);
    free(c);
}

/* Mnemonics shared with the system half reach it. */
static void test_system_half(void **state)
{
    static const struct {
        const char *bytes;
        unsigned len;
        insn_fn *fn;
    } table[] = {
        {"\xea\x00\x00\x00\x00\x08\x00", 7, interp_far_jmp},
        {"\x9a\x00\x00\x00\x00\x08\x00", 7, interp_far_call},
        {"\xff\x28", 2, interp_far_jmp},
        {"\xff\x18", 2, interp_far_call},
        {"\xcb", 1, interp_far_ret},
        {"\xca\x04\x00", 3, interp_far_ret},
        {"\x0f\x20\xc0", 3, interp_mov_cr},
        {"\x0f\x22\xd8", 3, interp_mov_cr},
        {"\x0f\x21\xf8", 3, interp_mov_dr},
        {"\x0f\x23\xf8", 3, interp_mov_dr},
    };
    struct soft_cpu *c = new_cpu(INSN_32);

    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        struct insn in = decoded(INSN_32, table[i].bytes, table[i].len);

        last_system = NULL;
        assert_int_equal(interpret(c, &in), -1);
        assert_ptr_equal(last_system, table[i].fn);
    }
    free(c);
}

static void test_random(void **state)
{
    struct soft_cpu *c = new_cpu(INSN_64);
    struct insn in = INSN(INSN_64, "\x48\x0f\xc7\xf0"); /* rdrand rax */
    bool offered = false;
    uint64_t all = 0;

    for (unsigned i = 0; i < 100; i++) {
        int vector = interpret(c, &in);

        if (vector >= 0) {
            assert_int_equal(vector, X86_UD);
            break;
        }
        offered = true;
        assert_true(!(c->st.rflags & (X86_ARITH & ~X86_CF)));
        if (c->st.rflags & X86_CF)
            all |= c->st.gpr[X86_RAX];
    }
    if (offered)
        assert_true(all == ~0ull);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_64),         cmocka_unit_test(test_host_32),
        cmocka_unit_test(test_host_16),         cmocka_unit_test(test_locked),
        cmocka_unit_test(test_rep_interrupted), cmocka_unit_test(test_rep_trapped),
        cmocka_unit_test(test_branch_limits),   cmocka_unit_test(test_rep_limit),
        cmocka_unit_test(test_rep_wrap),        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_system_half),     cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
