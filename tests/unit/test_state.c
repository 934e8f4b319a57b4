/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/state.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "x86/cpuid.h"
#include "x86/state.h"

static uint32_t le(const uint8_t *p, unsigned n)
{
    uint32_t v = 0;

    while (n--)
        v = v << 8 | p[n];
    return v;
}

/* What SDM volume 3 table 9-1 gives for RESET and INIT alike. */
static void check_common(const struct x86_state *st)
{
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(st->gpr[i], i == X86_RDX ? CPUID_SIGNATURE : 0);
    assert_int_equal(st->rip, 0xfff0);
    assert_int_equal(st->rflags, 2);
    assert_int_equal(st->cr2 | st->cr3 | st->cr4 | st->efer, 0);
    assert_int_equal(st->seg[X86_CS].sel, 0xf000);
    assert_int_equal(st->seg[X86_CS].base, 0xffff0000);
    assert_int_equal(st->seg[X86_CS].attr, 0x9b);
    for (unsigned i = 0; i < X86_NSREGS; i++) {
        assert_int_equal(st->seg[i].limit, 0xffff);
        if (i == X86_CS)
            continue;
        assert_int_equal(st->seg[i].sel, 0);
        assert_int_equal(st->seg[i].base, 0);
        assert_int_equal(st->seg[i].attr, 0x93);
    }
    assert_int_equal(st->ldtr.attr, 0x82);
    assert_int_equal(st->tr.attr, 0x8b);
    assert_int_equal(st->gdtr.limit, 0xffff);
    assert_int_equal(st->idtr.limit, 0xffff);
    assert_int_equal(st->gdtr.base | st->idtr.base, 0);
    assert_int_equal(st->dr[0] | st->dr[1] | st->dr[2] | st->dr[3], 0);
    assert_int_equal(st->dr[6], 0xffff0ff0);
    assert_int_equal(st->dr[7], 0x400);
    assert_int_equal(st->cpl | st->intr_shadow | st->nmi_blocked, 0);
}

static void reset_clears_everything(void **state)
{
    struct x86_state st;

    memset(&st, 0xa5, sizeof(st));
    x86_state_reset(&st, true);
    check_common(&st);
    assert_int_equal(st.cr0, 0x60000010);
    assert_int_equal(st.xcr0, 1);
    assert_true(st.pat == 0x0007040600070406ull);
    assert_int_equal(st.star | st.lstar | st.cstar | st.sfmask | st.kernel_gs_base | st.tsc_aux, 0);
    assert_int_equal(st.sysenter_cs | st.sysenter_esp | st.sysenter_eip | st.tsc_adjust, 0);
    assert_int_equal(le(st.xsave, 2), 0x37f);
    assert_int_equal(le(st.xsave + 2, 4), 0); /* status and (abridged) tag word: all empty */
    assert_int_equal(le(st.xsave + 24, 4), 0x1f80);
    for (unsigned i = 32; i < X86_XSAVE_SIZE; i++)
        assert_int_equal(st.xsave[i], 0);
    assert_int_equal(st.run, X86_RUNNING);
    x86_state_reset(&st, false);
    assert_int_equal(st.run, X86_WAIT_SIPI);
}

static void init_keeps_what_it_must(void **state)
{
    struct x86_state st, old;

    memset(&st, 0xa5, sizeof(st));
    st.cr0 = X86_CR0_PG | X86_CR0_PE | X86_CR0_NW | X86_CR0_WP;
    st.run = X86_HALTED;
    old = st;
    x86_state_init(&st);
    check_common(&st);
    assert_int_equal(st.cr0, X86_CR0_NW | X86_CR0_ET);
    assert_int_equal(st.run, X86_WAIT_SIPI);
    assert_memory_equal(st.xsave, old.xsave, sizeof(st.xsave));
    assert_true(st.xcr0 == old.xcr0 && st.pat == old.pat && st.star == old.star);
    assert_true(st.lstar == old.lstar && st.kernel_gs_base == old.kernel_gs_base);
    assert_true(st.tsc_aux == old.tsc_aux && st.tsc_adjust == old.tsc_adjust);
    assert_true(st.sysenter_eip == old.sysenter_eip);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset_clears_everything),
        cmocka_unit_test(init_keeps_what_it_must),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
