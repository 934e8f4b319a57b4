/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/engine/kvm/convert.c src/x86/state.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kvm/convert.h"

static uint64_t seed = 1;

static uint64_t rnd(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed >> 16 ^ seed << 40;
}

/* A segment as a processor can hold it: what is not present is unusable, to KVM too. */
static struct x86_seg random_seg(void)
{
    struct x86_seg s = {.base = rnd(), .limit = (uint32_t)rnd(), .sel = (uint16_t)rnd()};

    s.attr = (uint32_t)rnd() & 0xf0ff;
    if (!(s.attr & X86_ATTR_P))
        s.attr |= X86_ATTR_UNUSABLE;
    return s;
}

static void random_state(struct x86_state *st)
{
    memset(st, 0, sizeof(*st));
    for (unsigned i = 0; i < 16; i++)
        st->gpr[i] = rnd();
    st->rip = rnd();
    st->rflags = rnd() & ~(uint64_t)X86_VM;
    st->cr0 = rnd() | X86_CR0_PE;
    st->cr2 = rnd();
    st->cr3 = rnd();
    st->cr4 = rnd();
    st->efer = rnd();
    for (unsigned i = 0; i < X86_NSREGS; i++)
        st->seg[i] = random_seg();
    st->tr = random_seg();
    st->ldtr = random_seg();
    st->gdtr = (struct x86_dtr){.base = rnd(), .limit = (uint16_t)rnd()};
    st->idtr = (struct x86_dtr){.base = rnd(), .limit = (uint16_t)rnd()};
    st->cpl = st->seg[X86_SS].attr >> X86_ATTR_DPL_SHIFT & 3;
}

static void there_and_back(const struct x86_state *st, struct x86_state *back)
{
    struct kvm_regs r;
    struct kvm_sregs s;

    memset(&s, 0xa5, sizeof(s));
    s.apic_base = 0xfee00900;
    s.cr8 = 5;
    kvm_regs_from_state(st, &r);
    kvm_sregs_from_state(st, &s);
    assert_int_equal(s.apic_base, 0xfee00900);
    assert_int_equal(s.cr8, 5);
    for (unsigned i = 0; i < sizeof(s.interrupt_bitmap) / sizeof(s.interrupt_bitmap[0]); i++)
        assert_int_equal(s.interrupt_bitmap[i], 0);
    memset(back, 0, sizeof(*back));
    kvm_regs_to_state(&r, back);
    kvm_sregs_to_state(&s, back);
}

static void random_states_survive(void **state)
{
    struct x86_state st, back;

    for (unsigned i = 0; i < 1000; i++) {
        random_state(&st);
        there_and_back(&st, &back);
        assert_memory_equal(&st, &back, sizeof(st));
    }
}

static void reset_state_survives(void **state)
{
    struct x86_state st, back;

    x86_state_reset(&st, true);
    there_and_back(&st, &back);
    assert_memory_equal(st.gpr, back.gpr, sizeof(st.gpr));
    assert_memory_equal(st.seg, back.seg, sizeof(st.seg));
    assert_memory_equal(&st.tr, &back.tr, sizeof(st.tr));
    assert_int_equal(st.cr0, back.cr0);
    assert_int_equal(back.cpl, 0);
}

/* The software engine's null selector: unusable, nothing else. */
static void unusable_segments_are_not_present(void **state)
{
    struct x86_state st = {.cr0 = X86_CR0_PE};
    struct kvm_sregs s = {0};

    st.seg[X86_DS] = (struct x86_seg){.attr = X86_ATTR_UNUSABLE | X86_ATTR_P, .sel = 3};
    kvm_sregs_from_state(&st, &s);
    assert_int_equal(s.ds.unusable, 1);
    assert_int_equal(s.ds.present, 0);
    assert_int_equal(s.ds.selector, 3);
}

/* KVM takes the privilege level from SS; the two differ after SYSRET with a stale SS. */
static void privilege_goes_with_ss(void **state)
{
    struct x86_state st = {.cr0 = X86_CR0_PE, .cpl = 3}, back = {0};
    struct kvm_sregs s = {0};

    kvm_sregs_from_state(&st, &s);
    assert_int_equal(s.ss.dpl, 3);
    back.rflags = X86_VM;
    s.ss.dpl = 0;
    kvm_sregs_to_state(&s, &back);
    assert_int_equal(back.cpl, 3);
    back.rflags = 0;
    s.ss.dpl = 3;
    s.cr0 = 0;
    kvm_sregs_to_state(&s, &back);
    assert_int_equal(back.cpl, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_states_survive),
        cmocka_unit_test(reset_state_survives),
        cmocka_unit_test(unusable_segments_are_not_present),
        cmocka_unit_test(privilege_goes_with_ss),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
