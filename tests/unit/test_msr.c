/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/msr.c src/core/mem.c src/core/clock.c src/base/err.c src/base/log.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/vm.h"
#include "x86/msr.h"

struct rig {
    struct vm vm;
    struct vcpu vcpu[2];
    struct msr_state *ms, *other;
};

/* The real one tells the engine; here it is written down. */
static gpa_t written_gpa;
static uint64_t written_len;

void vm_mem_written(struct vm *vm, gpa_t gpa, uint64_t len)
{
    written_gpa = gpa;
    written_len = len;
}

static int rig_setup(void **state)
{
    static struct rig rig;

    memset(&rig, 0, sizeof(rig));
    assert_int_equal(mem_init(&rig.vm.mem, MIB(2), NULL), 0);
    assert_int_equal(clock_init(&rig.vm.clock, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        rig.vcpu[i].vm = &rig.vm;
        rig.vcpu[i].id = i;
    }
    assert_int_equal(msr_state_new(&rig.ms, &rig.vcpu[0], NULL), 0);
    assert_int_equal(msr_state_new(&rig.other, &rig.vcpu[1], NULL), 0);
    written_gpa = written_len = 0;
    *state = &rig;
    return 0;
}

static int rig_teardown(void **state)
{
    struct rig *rig = *state;

    msr_state_free(rig->ms);
    msr_state_free(rig->other);
    clock_fini(&rig->vm.clock);
    mem_fini(&rig->vm.mem);
    return 0;
}

static uint64_t get(struct msr_state *ms, uint32_t msr)
{
    uint64_t val = 0xa5a5a5a5a5a5a5a5ull;

    assert_int_equal(msr_read(ms, msr, &val), 0);
    return val;
}

static void unknown_ones_fault(void **state)
{
    static const uint32_t none[] = {
        0x0,   0x48,  0x49,  0x10b,      0x17b,      0x210,      0x251,      0x25a,
        0x267, 0x270, 0x400, 0xc0000080, 0xc0010015, 0x4b564d02, 0x4b564d04, 0xffffffff};
    struct rig *rig = *state;
    uint64_t val;

    for (unsigned i = 0; i < ARRAY_SIZE(none); i++) {
        assert_int_equal(msr_read(rig->ms, none[i], &val), -1);
        assert_int_equal(msr_write(rig->ms, none[i], 0), -1);
    }
}

static void read_only_ones_refuse_writes(void **state)
{
    static const uint32_t fixed[] = {0x17, 0xce, 0xfe, 0x10a, 0x179};
    struct rig *rig = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++) {
        uint64_t val = get(rig->ms, fixed[i]);

        assert_int_equal(msr_write(rig->ms, fixed[i], val), -1);
        assert_true(get(rig->ms, fixed[i]) == val);
    }
    assert_int_equal(get(rig->ms, 0x179), 0);
    assert_int_equal(get(rig->ms, 0xfe), 0x508);
}

static void arch_capabilities_claim_no_more_than_immunity(void **state)
{
    struct rig *rig = *state;
    uint64_t caps = get(rig->ms, 0x10a);

    assert_int_equal(caps & 1, 1);
    /* IBRS_ALL, RSBA, TSX_CTRL, MISC_PACKAGE, ENERGY, DOITM, FB_CLEAR, FB_CTRL, RRSBA, XAPIC, RFDS_CLEAR */
    assert_int_equal(caps & (1 << 1 | 1 << 2 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 17 |
                             1 << 18 | 1 << 19 | 1 << 21 | 1 << 28),
                     0);
    assert_int_equal(~caps & (1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 14 | 1 << 15 |
                              1 << 20 | 1 << 26 | 1 << 27),
                     0);
}

static void microcode_revision_survives_writes(void **state)
{
    struct rig *rig = *state;
    uint64_t rev = get(rig->ms, 0x8b);

    assert_true(rev >> 32);
    assert_int_equal(msr_write(rig->ms, 0x8b, 0), 0);
    assert_true(get(rig->ms, 0x8b) == rev);
}

static void misc_enable(void **state)
{
    struct rig *rig = *state;
    uint64_t val = get(rig->ms, 0x1a0);

    assert_int_equal(val & 1, 1); /* fast strings: Linux drops ERMS without */
    assert_int_equal(val & (1 << 18 | 1 << 22), 0);
    assert_int_equal(msr_write(rig->ms, 0x1a0, val & ~1ull), 0);
    assert_int_equal(get(rig->ms, 0x1a0) & 1, 0);
    assert_int_equal(get(rig->other, 0x1a0) & 1, 1);
    assert_int_equal(msr_write(rig->ms, 0x1a0, 0x400c51809), 0); /* all that may be changed */
    assert_true(msr_misc_enable(rig->ms) == 0x400c51809);
    assert_int_equal(msr_write(rig->ms, 0x1a0, val | 1 << 17), -1);
    assert_int_equal(msr_write(rig->ms, 0x1a0, val | 1ull << 63), -1);
    msr_state_reset(rig->ms);
    assert_true(get(rig->ms, 0x1a0) == val);
}

static void mtrrs_as_firmware_leaves_them(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(get(rig->ms, 0x2ff), 0xc06);
    assert_true(get(rig->ms, 0x250) == 0x0606060606060606ull);
    assert_true(get(rig->ms, 0x258) == 0x0606060606060606ull);
    assert_int_equal(get(rig->ms, 0x259), 0);
    for (uint32_t m = 0x268; m <= 0x26f; m++)
        assert_true(get(rig->ms, m) == 0x0606060606060606ull);
    assert_true(get(rig->ms, 0x200) == 0xc0000000);
    assert_true(get(rig->ms, 0x201) == 0xffc0000800ull);
    for (uint32_t m = 0x202; m <= 0x20f; m++)
        assert_int_equal(get(rig->ms, m), 0);
}

static void mtrrs_check_what_is_written(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(msr_write(rig->ms, 0x20e, 0x80000001), 0);
    assert_int_equal(msr_write(rig->ms, 0x20f, 0xff80000800ull), 0);
    assert_true(get(rig->ms, 0x20e) == 0x80000001);
    assert_true(get(rig->ms, 0x20f) == 0xff80000800ull);
    assert_int_equal(msr_write(rig->ms, 0x20e, 0x80000002), -1);     /* no such type */
    assert_int_equal(msr_write(rig->ms, 0x20e, 0x80000107), -1);     /* reserved bit */
    assert_int_equal(msr_write(rig->ms, 0x20e, 1ull << 40 | 6), -1); /* beyond the address width */
    assert_int_equal(msr_write(rig->ms, 0x20f, 0x80000801), -1);
    assert_true(get(rig->ms, 0x20e) == 0x80000001);

    assert_int_equal(msr_write(rig->ms, 0x26f, 0x0506010400060606ull), 0);
    assert_true(get(rig->ms, 0x26f) == 0x0506010400060606ull);
    assert_true(get(rig->ms, 0x26e) == 0x0606060606060606ull);
    assert_int_equal(msr_write(rig->ms, 0x26f, 0x0306060606060606ull), -1);

    assert_int_equal(msr_write(rig->ms, 0x2ff, 0), 0);
    assert_int_equal(msr_write(rig->ms, 0x2ff, 0xc07), -1);
    assert_int_equal(msr_write(rig->ms, 0x2ff, 0x1c06), -1);
    assert_int_equal(get(rig->ms, 0x2ff), 0);
    msr_state_reset(rig->ms);
    assert_int_equal(get(rig->ms, 0x2ff), 0xc06);
    assert_int_equal(get(rig->ms, 0x20e), 0);
}

struct pv_time {
    uint32_t version, pad0;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad[2];
};

/* As a guest computes it (pvclock ABI). */
static uint64_t pv_ns(const struct pv_time *t, uint64_t tsc)
{
    uint64_t delta = tsc - t->tsc;

    delta = t->shift < 0 ? delta >> -t->shift : delta << t->shift;
    return t->ns + (uint64_t)((unsigned __int128)delta * t->mul >> 32);
}

static void system_time_is_exact_and_equal_on_all_cpus(void **state)
{
    static const uint64_t rates[] = {100000, 800000, 999999, 1000000, 1000001, 2596123, 6000000};
    struct rig *rig = *state;
    struct pv_time a, b;

    for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
        rig->vm.clock.tsc_khz = rates[i];
        assert_int_equal(msr_write(rig->ms, 0x4b564d01, 0x1000 | 1), 0);
        assert_int_equal(written_gpa, 0x1000);
        assert_int_equal(written_len, 32);
        assert_int_equal(msr_write(rig->other, 0x4b564d01, 0x1040 | 1), 0);
        assert_int_equal(mem_read(&rig->vm.mem, 0x1000, &a, sizeof(a)), 0);
        assert_int_equal(mem_read(&rig->vm.mem, 0x1040, &b, sizeof(b)), 0);
        assert_memory_equal(&a, &b, sizeof(a));
        assert_int_equal(a.version, 2 * (i + 1));
        assert_int_equal(a.flags, 1);
        assert_true(a.mul >> 31);
        /* an hour of ticks is an hour, to a microsecond */
        assert_in_range(pv_ns(&a, rates[i] * 3600000), 3600000000000ull - 1000, 3600000000000ull);
        assert_int_equal(pv_ns(&a, 0), 0);
    }
    assert_int_equal(get(rig->ms, 0x4b564d01), 0x1001);
    assert_int_equal(get(rig->ms, 0x12), 0x1001);
}

static void system_time_misuse(void **state)
{
    struct rig *rig = *state;
    uint8_t page[4096], zero[4096] = {0};

    assert_int_equal(msr_write(rig->ms, 0x4b564d01, 0x1002 | 1), -1); /* misaligned */
    assert_int_equal(msr_write(rig->ms, 0x4b564d01, 0x1000), 0);      /* disabled */
    assert_int_equal(mem_read(&rig->vm.mem, 0x1000, page, sizeof(page)), 0);
    assert_memory_equal(page, zero, sizeof(page));
    /* not RAM, or not all of it, or nonsense */
    assert_int_equal(msr_write(rig->ms, 0x4b564d01, 0xa0000 | 1), 0);
    assert_int_equal(msr_write(rig->ms, 0x4b564d01, (0xa0000 - 16) | 1), 0);
    assert_int_equal(msr_write(rig->ms, 0x4b564d01, ~2ull), 0);
    assert_int_equal(mem_read(&rig->vm.mem, 0xa0000 - 16, page, 16), 0);
    assert_memory_equal(page, zero, 16);
    assert_int_equal(written_len, 0);
}

static void wall_clock_is_the_time_of_boot(void **state)
{
    struct rig *rig = *state;
    struct {
        uint32_t version, sec, nsec;
    } w;
    uint64_t now = (uint64_t)time(NULL);

    assert_int_equal(msr_write(rig->ms, 0x4b564d00, 0x2004), 0);
    assert_int_equal(mem_read(&rig->vm.mem, 0x2004, &w, sizeof(w)), 0);
    assert_int_equal(w.version, 2);
    assert_in_range(w.sec, now - 60, now + 1);
    assert_in_range(w.nsec, 0, 999999999);
    assert_int_equal(msr_write(rig->ms, 0x11, 0x2004), 0);
    assert_int_equal(mem_read(&rig->vm.mem, 0x2004, &w, sizeof(w)), 0);
    assert_int_equal(w.version, 4);
    assert_int_equal(msr_write(rig->ms, 0x4b564d00, 0x2001), -1);
    assert_int_equal(msr_write(rig->ms, 0x4b564d00, 0xfffffffffffffffcull), 0);
}

int main(void)
{
#define RIG_TEST(f) cmocka_unit_test_setup_teardown(f, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        RIG_TEST(unknown_ones_fault),
        RIG_TEST(read_only_ones_refuse_writes),
        RIG_TEST(arch_capabilities_claim_no_more_than_immunity),
        RIG_TEST(microcode_revision_survives_writes),
        RIG_TEST(misc_enable),
        RIG_TEST(mtrrs_as_firmware_leaves_them),
        RIG_TEST(mtrrs_check_what_is_written),
        RIG_TEST(system_time_is_exact_and_equal_on_all_cpus),
        RIG_TEST(system_time_misuse),
        RIG_TEST(wall_clock_is_the_time_of_boot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
