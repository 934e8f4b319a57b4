/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * unit: src/engine/soft/decode.c src/engine/soft/interp_alu.c src/engine/soft/interp_muldiv.c
 * src/engine/soft/interp_shift.c src/engine/soft/interp_bit.c src/engine/soft/interp_move.c
 * src/engine/soft/interp_stack.c src/engine/soft/interp_branch.c src/engine/soft/interp_string.c
 * src/engine/soft/interp_table.c src/engine/soft/interp_seg.c src/engine/soft/interp_int.c
 * src/engine/soft/interp_far.c src/engine/soft/interp_task.c src/engine/soft/interp_sys.c
 * src/engine/soft/interp_msr.c src/engine/soft/interp_sysret.c src/engine/soft/interp_io.c
 * src/engine/soft/interp_sys_table.c src/engine/soft/interp_debug.c src/engine/soft/interp_vme.c
 */
/* Switches from task to task. */
#include "soft_fake.h"

#define RAX (f->c.st.gpr[X86_RAX])
#define RCX (f->c.st.gpr[X86_RCX])
#define RSP (f->c.st.gpr[X86_RSP])
#define CS  (f->c.st.seg[X86_CS])
#define SS  (f->c.st.seg[X86_SS])

static void tss_image(uint32_t ip, unsigned cpl)
{
    put32(TSS2 + 0x1c, 0x77000);
    put32(TSS2 + 0x20, ip);
    put32(TSS2 + 0x24, 2 | X86_CF);
    for (unsigned i = 0; i < 8; i++)
        put32(TSS2 + 0x28 + 4 * i, 0x100 + i);
    put32(TSS2 + 0x38, 0xe000); /* ESP */
    put16(TSS2 + 0x48, cpl == 3 ? UDATA : KDATA);
    put16(TSS2 + 0x4c, cpl == 3 ? UCODE : KCODE);
    put16(TSS2 + 0x50, cpl == 3 ? UDATA : KDATA);
    put16(TSS2 + 0x54, 0);
    put16(TSS2 + 0x58, 0);
    put16(TSS2 + 0x5c, 0);
    put16(TSS2 + 0x60, LDT_SEL);
}

static unsigned tss_type(uint16_t sel)
{
    return get(GDT + sel + 5, 1) & 0xf;
}

static void task_call_and_return(void **state)
{
    fake_protected(0);
    tss_image(0x6100, 3);
    RAX = 0xcafe;
    f->c.st.rflags = 2 | X86_ZF;
    OK(0x9a, 0, 0, 0, 0, TSS2_SEL, 0);
    assert_int_equal(f->c.st.rip, 0x6100);
    assert_int_equal(RAX, 0x100);
    assert_int_equal(RSP, 0xe000);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(CS.sel, UCODE);
    assert_int_equal(f->c.st.rflags, 2 | X86_CF | X86_NT);
    assert_int_equal(f->c.st.tr.sel, TSS2_SEL);
    assert_int_equal(f->c.st.ldtr.base, 0x4000);
    assert_true(f->c.st.cr0 & X86_CR0_TS);
    assert_int_equal(f->c.st.cr3, 0); /* no paging: not loaded */
    assert_int_equal(tss_type(TSS_SEL), 11);
    assert_int_equal(tss_type(TSS2_SEL), 11);
    assert_int_equal(get(TSS2, 2), TSS_SEL);
    assert_int_equal(get(TSS + 0x20, 4), 0x5007);
    assert_int_equal(get(TSS + 0x28, 4), 0xcafe);
    assert_int_equal(get(TSS + 0x4c, 2), KCODE);
    put16(TSS + 0x60, 0);
    OK(0xcf); /* NT */
    assert_int_equal(f->c.st.rip, 0x5007);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(RAX, 0xcafe);
    assert_int_equal(f->c.st.rflags, 2 | X86_ZF);
    assert_int_equal(tss_type(TSS2_SEL), 9);
    assert_false(get(TSS2 + 0x24, 4) & X86_NT);
    FAULTS(X86_GP, TSS_SEL, 0xea, 0, 0, 0, 0, TSS_SEL, 0); /* busy */
}

static void task_gate_with_error_code(void **state)
{
    fake_protected(3);
    tss_image(0x6200, 0);
    idt_legacy(8, TSS2_SEL, 0, 5, 0);
    assert_int_equal(deliver(8, INT_EXC, true, 0x55), NO_FAULT);
    assert_int_equal(f->c.st.rip, 0x6200);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(RSP, 0xdffc);
    assert_int_equal(get(RSP, 4), 0x55);
    assert_int_equal(get(TSS + 0x20, 4), 0x5000);
}

static void task_jump_faults(void **state)
{
    fake_protected(0);
    tss_image(0x6300, 0);
    put64(GDT + TSS2_SEL, descriptor(TSS2, 0x66, 0x89));
    FAULTS(X86_TS, TSS2_SEL, 0xea, 0, 0, 0, 0, TSS2_SEL, 0);
    put64(GDT + TSS2_SEL, descriptor(TSS2, 0x67, 0x09));
    FAULTS(X86_NP, TSS2_SEL, 0xea, 0, 0, 0, 0, TSS2_SEL, 0);
    put64(GDT + TSS2_SEL, descriptor(TSS2, 0x67, 0x89));
    put16(TSS2 + 0x54, XCODE); /* unreadable DS: found by the new task */
    assert_int_equal(RUN(0xea, 0, 0, 0, 0, TSS2_SEL, 0), X86_TS);
    assert_int_equal(f->c.exc_error, XCODE);
    assert_int_equal(f->c.st.rip, 0x6300);
    assert_int_equal(f->c.st.tr.sel, TSS2_SEL);
    assert_int_equal(tss_type(TSS_SEL), 9);
    assert_int_equal(f->c.st.cpl, 0);
}

static void task_16bit(void **state)
{
    fake_protected(0);
    put16(TSS2 + 0x0e, 0x4321);
    put16(TSS2 + 0x10, 2);
    put16(TSS2 + 0x12, 0x9999);
    put16(TSS2 + 0x1a, 0x8000);
    put16(TSS2 + 0x22, KDATA);
    put16(TSS2 + 0x24, KCODE);
    put16(TSS2 + 0x26, KDATA);
    put16(TSS2 + 0x28, KDATA);
    OK(0xea, 0, 0, 0, 0, TSS16_SEL, 0);
    assert_int_equal(f->c.st.rip, 0x4321);
    assert_int_equal(RAX & 0xffff, 0x9999);
    assert_int_equal(f->c.st.seg[X86_DS].sel, KDATA);
    assert_true(f->c.st.seg[X86_FS].attr & X86_ATTR_UNUSABLE);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(task_call_and_return),
        TEST(task_gate_with_error_code),
        TEST(task_jump_faults),
        TEST(task_16bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
