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
/* Segments, system registers, flags, MSRs and port I/O of the interpreter. */
#include "soft_fake.h"

#define RAX   (f->c.st.gpr[X86_RAX])
#define RBX   (f->c.st.gpr[X86_RBX])
#define RCX   (f->c.st.gpr[X86_RCX])
#define RDX   (f->c.st.gpr[X86_RDX])
#define RSP   (f->c.st.gpr[X86_RSP])
#define FLAGS (f->c.st.rflags)

/* ---- Segments ----------------------------------------------------------- */

struct load_case {
    uint8_t cpl, seg;
    uint16_t sel;
    int vector;
    uint32_t error;
};

static void segment_loads(void **state)
{
    static const struct load_case cases[] = {
        {0, X86_DS, KDATA, NO_FAULT, 0},
        {0, X86_DS, KDATA | 3, X86_GP, KDATA}, /* RPL > DPL */
        {3, X86_DS, KDATA, X86_GP, KDATA},     /* CPL > DPL */
        {3, X86_DS, CONFORM | 3, NO_FAULT, 0}, /* conforming code is for all */
        {3, X86_ES, UDATA, NO_FAULT, 0},
        {0, X86_ES, XCODE, X86_GP, XCODE},
        {0, X86_ES, RODATA, NO_FAULT, 0},
        {0, X86_FS, ABSENT, X86_NP, ABSENT},
        {0, X86_GS, TSS_SEL, X86_GP, TSS_SEL},
        {0, X86_GS, 0x100, X86_GP, 0x100},
        {0, X86_GS, 0x14, X86_GP, 0x14}, /* no LDT */
        {0, X86_DS, 0, NO_FAULT, 0},
        {0, X86_SS, KDATA, NO_FAULT, 0},
        {0, X86_SS, 0, X86_GP, 0},
        {0, X86_SS, UDATA, X86_GP, UDATA & ~3u},
        {0, X86_SS, RODATA, X86_GP, RODATA},
        {0, X86_SS, KCODE, X86_GP, KCODE},
        {0, X86_SS, ABSENT, X86_SS_EXC, ABSENT},
        {3, X86_SS, UDATA, NO_FAULT, 0},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct load_case *t = &cases[i];

        fake_protected(t->cpl);
        f->c.st.intr_shadow = 0;
        f->c.exc_error = 0;
        if (load_segment((enum x86_sreg)t->seg, t->sel) != t->vector)
            fail_msg("case %u: wrong vector", i);
        if (f->c.exc_error != t->error)
            fail_msg("case %u: error code %#x", i, f->c.exc_error);
        if (t->vector == NO_FAULT)
            assert_int_equal(f->c.st.seg[t->seg].sel, t->sel);
        assert_int_equal(f->c.st.intr_shadow, t->vector == NO_FAULT && t->seg == X86_SS);
    }
}

static void segment_accessed_bit(void **state)
{
    fake_protected(0);
    put64(GDT + KDATA, descriptor(0x12345678, 0xfffff, 0xc092));
    assert_int_equal(load_segment(X86_DS, KDATA), NO_FAULT);
    assert_int_equal(get(GDT + KDATA + 5, 1), 0x93);
    assert_int_equal(f->c.st.seg[X86_DS].attr, 0xc093);
    assert_int_equal(f->c.st.seg[X86_DS].base, 0x12345678);
    f->bad_page = USTACK; /* far away: a descriptor marked already is not written */
    assert_int_equal(load_segment(X86_DS, KDATA), NO_FAULT);
}

static void segment_limits(void **state)
{
    struct x86_seg *ds;

    fake_protected(0);
    ds = &f->c.st.seg[X86_DS];
    ds->limit = 0x703;
    OK(0xa1, 0x00, 0x07, 0, 0); /* mov eax, [0x700] */
    FAULTS(X86_GP, 0, 0xa1, 0x01, 0x07, 0, 0);
    ds->attr = 0xc097; /* expand down: what is above the limit */
    FAULTS(X86_GP, 0, 0xa1, 0x00, 0x07, 0, 0);
    OK(0xa1, 0x04, 0x07, 0, 0);
    fake_segment(X86_DS, RODATA);
    FAULTS(X86_GP, 0, 0xa3, 0x00, 0x07, 0, 0);
    FAULTS(X86_GP, 0, 0x2e, 0xa3, 0x00, 0x07, 0, 0); /* write through CS */
    fake_segment(X86_DS, XCODE);
    FAULTS(X86_GP, 0, 0xa1, 0x00, 0x07, 0, 0);
    ds->attr = X86_ATTR_UNUSABLE;
    FAULTS(X86_GP, 0, 0xa1, 0x00, 0x07, 0, 0);
    fake_segment(X86_DS, KDATA);
    ds->base = 0xfffff800; /* wraps at 4 GiB */
    put32(0x100, 0x1234);
    OK(0xa1, 0x00, 0x09, 0, 0);
    assert_int_equal(RAX, 0x1234);

    fake_long(0);
    ds->base = 0x5000; /* ignored */
    put64(0x700, 0x1122334455667788ull);
    RBX = 0x700;
    OK(0x48, 0x8b, 0x03);
    assert_int_equal(RAX, 0x1122334455667788ull);
    f->c.st.seg[X86_GS].base = 0x600;
    RBX = 0x100;
    OK(0x65, 0x48, 0x8b, 0x03);
    assert_int_equal(RAX, 0x1122334455667788ull);
    RBX = 0x7ffffffffff9ull; /* last byte not canonical */
    FAULTS(X86_GP, 0, 0x48, 0x8b, 0x03);
    RSP = 0x800000000000ull;
    FAULTS(X86_SS_EXC, 0, 0x48, 0x8b, 0x04, 0x24);
}

static void unreal_mode(void **state)
{
    fake_real();
    f->c.st.seg[X86_DS].limit = 0xffffffff;
    assert_int_equal(load_segment(X86_DS, 0x1000), NO_FAULT);
    assert_int_equal(f->c.st.seg[X86_DS].base, 0x10000);
    assert_int_equal(f->c.st.seg[X86_DS].limit, 0xffffffff);
    put32(0x9000 + 0x10000, 77);
    RBX = 0x9000;
    OK(0x67, 0x66, 0x8b, 0x03); /* mov eax, [ebx] */
    assert_int_equal(RAX, 77);
}

static void far_pointers(void **state)
{
    fake_protected(0);
    put32(0x700, 0xabcd);
    put16(0x704, KDATA);
    OK(0x0f, 0xb2, 0x25, 0x00, 0x07, 0, 0); /* lss esp, [0x700] */
    assert_int_equal(RSP, 0xabcd);
    assert_int_equal(f->c.st.intr_shadow, 0);
    put16(0x704, 0);
    OK(0xc4, 0x0d, 0x00, 0x07, 0, 0); /* les ecx */
    assert_int_equal(RCX, 0xabcd);
    assert_true(f->c.st.seg[X86_ES].attr & X86_ATTR_UNUSABLE);
    put16(0x704, ABSENT);
    FAULTS(X86_NP, ABSENT, 0xc5, 0x0d, 0x00, 0x07, 0, 0); /* lds ecx */
}

static void describing(void **state)
{
    fake_protected(3);
    RBX = UDATA;
    OK(0x0f, 0x02, 0xc3); /* lar eax, ebx */
    assert_true(FLAGS & X86_ZF);
    assert_int_equal(RAX, 0xc0f300);
    OK(0x0f, 0x03, 0xc3); /* lsl */
    assert_int_equal(RAX, 0xffffffff);
    RBX = KDATA;
    RAX = 1;
    OK(0x0f, 0x02, 0xc3);
    assert_false(FLAGS & X86_ZF);
    assert_int_equal(RAX, 1);
    RBX = 0;
    FLAGS |= X86_ZF;
    OK(0x0f, 0x03, 0xc3);
    assert_false(FLAGS & X86_ZF);
    RBX = CONFORM;        /* visible from everywhere */
    OK(0x0f, 0x00, 0xe3); /* verr */
    assert_true(FLAGS & X86_ZF);
    OK(0x0f, 0x00, 0xeb); /* verw */
    assert_false(FLAGS & X86_ZF);
    RBX = UDATA;
    OK(0x0f, 0x00, 0xeb);
    assert_true(FLAGS & X86_ZF);
    RAX = 0x10;
    RBX = 0x3;
    OK(0x63, 0xd8); /* arpl ax, bx */
    assert_int_equal(RAX, 0x13);
    assert_true(FLAGS & X86_ZF);
    OK(0x63, 0xd8);
    assert_false(FLAGS & X86_ZF);

    fake_long(0);
    put64(GDT + TSS_SEL, descriptor(TSS, 0x8f, 0x81)); /* no 16-bit TSS here */
    RBX = TSS_SEL;
    OK(0x0f, 0x03, 0xc3);
    assert_false(FLAGS & X86_ZF);
    fake_real();
    FAULTS(X86_UD, 0, 0x0f, 0x00, 0xe3);
}

static void task_register(void **state)
{
    fake_long(0);
    put64(GDT + TSS_SEL, descriptor(TSS, 0x67, 0x89));
    put64(GDT + TSS_SEL + 8, 0xffffffff);
    RAX = TSS_SEL;
    OK(0x0f, 0x00, 0xd8); /* ltr ax */
    assert_int_equal(f->c.st.tr.base, 0xffffffff00000000ull | TSS);
    assert_int_equal(f->c.st.tr.attr, 0x8b);
    assert_int_equal(get(GDT + TSS_SEL + 5, 1), 0x8b);
    FAULTS(X86_GP, TSS_SEL, 0x0f, 0x00, 0xd8); /* busy */
    put64(GDT + TSS_SEL, descriptor(TSS, 0x67, 0x89));
    put64(GDT + TSS_SEL + 8, 0x8000);
    FAULTS(X86_GP, TSS_SEL, 0x0f, 0x00, 0xd8); /* base not canonical */
    RAX = 0;
    FAULTS(X86_GP, 0, 0x0f, 0x00, 0xd8);
    OK(0x0f, 0x00, 0xd0); /* lldt 0 */
    assert_true(f->c.st.ldtr.attr & X86_ATTR_UNUSABLE);
    RAX = KDATA;
    FAULTS(X86_GP, KDATA, 0x0f, 0x00, 0xd0);
    RAX = LDT_SEL;
    put64(GDT + LDT_SEL + 8, 0);
    OK(0x0f, 0x00, 0xd0);
    assert_int_equal(f->c.st.ldtr.base, 0x4000);
    RAX = ~0ull;
    OK(0x0f, 0x00, 0xc0); /* sldt eax */
    assert_int_equal(RAX, LDT_SEL);
    put64(0x4008, descriptor(0, 0xfffff, 0xc093));
    assert_int_equal(load_segment(X86_ES, 0xc), NO_FAULT); /* through the LDT */
    assert_int_equal(load_segment(X86_ES, 0x24), X86_GP);

    fake_long(3);
    RAX = TSS_SEL;
    FAULTS(X86_GP, 0, 0x0f, 0x00, 0xd8);
    OK(0x0f, 0x00, 0xc8); /* str eax */
    f->c.st.cr4 |= X86_CR4_UMIP;
    FAULTS(X86_GP, 0, 0x0f, 0x00, 0xc8);
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0xe0); /* smsw */
    RAX = 0x700;
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0x00); /* sgdt */
}

static void table_registers(void **state)
{
    fake_long(0);
    RAX = 0x700;
    put16(0x700, 0x123);
    put64(0x702, 0xffffffff80001000ull);
    OK(0x0f, 0x01, 0x18); /* lidt */
    assert_int_equal(f->c.st.idtr.base, 0xffffffff80001000ull);
    assert_int_equal(f->c.st.idtr.limit, 0x123);
    RAX = 0x800;
    OK(0x0f, 0x01, 0x08); /* sidt */
    assert_memory_equal(f->mem + 0x700, f->mem + 0x800, 10);
    put64(0x802, 0x800000000000ull);
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0x10);
    RAX = 0x8ffc; /* the second part faults: the first is not written */
    f->bad_page = 0x9000;
    put16(0x8ffc, 0xeeee);
    FAULTS(X86_PF_EXC, 2, 0x0f, 0x01, 0x08);
    assert_int_equal(get(0x8ffc, 2), 0xeeee);
    fake_protected(0);
    put32(0x702, 0x99123456);
    OK(0x66, 0x0f, 0x01, 0x15, 0x00, 0x07, 0, 0); /* 16-bit operand: 24 bits of base */
    assert_int_equal(f->c.st.gdtr.base, 0x123456);
}

/* ---- Control and debug registers ---------------------------------------- */

static void control_registers(void **state)
{
    fake_long(0);
    f->fpu_changed = 0;
    RAX = f->c.st.cr0 | X86_CR0_TS;
    OK(0x0f, 0x22, 0xc0);
    assert_int_equal(f->fpu_changed, 1);
    assert_int_equal(f->flush_all, 0);
    OK(0x0f, 0x06); /* clts */
    assert_false(f->c.st.cr0 & X86_CR0_TS);
    assert_int_equal(f->fpu_changed, 2);
    RAX = f->c.st.cr0 | X86_CR0_WP;
    OK(0x0f, 0x22, 0xc0);
    assert_int_equal(f->flush_all, 1);
    RAX = f->c.st.cr0 | X86_CR0_NW;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xc0);
    RAX = 1ull << 32 | f->c.st.cr0;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xc0);
    RAX = 0xf;
    OK(0x0f, 0x01, 0xf0); /* lmsw */
    assert_int_equal(f->c.st.cr0 & 0xf, 0xf);
    RAX = 0;
    OK(0x0f, 0x01, 0xf0);
    assert_int_equal(f->c.st.cr0 & 0xf, X86_CR0_PE);
    OK(0x0f, 0x20, 0xc1);
    assert_int_equal(RCX, f->c.st.cr0);

    RAX = X86_CR4_PAE | X86_CR4_VME | X86_CR4_PVI;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xe0);
    f->vme = true;
    OK(0x0f, 0x22, 0xe0);
    RAX = X86_CR4_PAE | X86_CR4_UMIP;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xe0);
    f->umip = true;
    OK(0x0f, 0x22, 0xe0);
    FAULTS(X86_UD, 0, 0x0f, 0x22, 0xc8); /* CR1 */
    RAX = 1;
    OK(0x0f, 0x22, 0xd0);
    assert_int_equal(f->c.st.cr2, 1);
    RAX = 16;
    FAULTS(X86_GP, 0, 0x44, 0x0f, 0x22, 0xc0); /* cr8 */
    RAX = 9;
    f->c.exit_request = 0;
    OK(0x44, 0x0f, 0x22, 0xc0);
    assert_int_equal(f->cr8, 9);
    assert_true(f->c.exit_request);
    OK(0x44, 0x0f, 0x20, 0xc1);
    assert_int_equal(RCX, 9);
    fake_long(3);
    FAULTS(X86_GP, 0, 0x0f, 0x20, 0xc1);
    FAULTS(X86_GP, 0, 0x0f, 0x06);
    OK(0x0f, 0x01, 0xe0); /* smsw */
    assert_int_equal(RAX, f->c.st.cr0);
}

static void address_spaces(void **state)
{
    fake_long(0);
    RAX = 0x5000;
    OK(0x0f, 0x22, 0xd8);
    assert_int_equal(f->c.st.cr3, 0x5000);
    assert_int_equal(f->flush_nonglobal, 1);
    RAX = 1ull << 63;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xd8);
    RAX = 1ull << X86_PHYS_BITS;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xd8);
    f->c.st.cr3 = 0x5001;
    RAX = X86_CR4_PAE | X86_CR4_PCIDE;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xe0); /* PCID must be 0 */
    f->c.st.cr3 = 0x5000;
    OK(0x0f, 0x22, 0xe0);
    RAX = 0x6123;
    OK(0x0f, 0x22, 0xd8);
    assert_int_equal(f->flush_pcid, 1);
    assert_int_equal(f->last_pcid, 0x123);
    RAX = 0x7124 | 1ull << 63;
    f->switches = 0;
    OK(0x0f, 0x22, 0xd8);
    assert_int_equal(f->flush_pcid, 1);
    assert_int_equal(f->flush_nonglobal, 1);
    assert_int_equal(f->switches, 1);
    assert_int_equal(f->c.st.cr3, 0x7124);

    RBX = 0x700;
    OK(0x65, 0x0f, 0x01, 0x3b); /* invlpg gs:[rbx] */
    assert_int_equal(f->last_page, 0x700);
    RBX = 0x800000000000ull; /* not canonical: nothing happens, no fault */
    OK(0x0f, 0x01, 0x3b);
    RBX = 0x700;
    put64(0x700, 0x77);
    put64(0x708, 0x9000);
    RAX = 0;
    OK(0x66, 0x0f, 0x38, 0x82, 0x03); /* invpcid rax, [rbx] */
    assert_int_equal(f->last_page, 0x9000);
    RAX = 1;
    OK(0x66, 0x0f, 0x38, 0x82, 0x03);
    assert_int_equal(f->last_pcid, 0x77);
    f->flush_all = 0;
    RAX = 2;
    OK(0x66, 0x0f, 0x38, 0x82, 0x03);
    assert_int_equal(f->flush_all, 1);
    RAX = 4;
    FAULTS(X86_GP, 0, 0x66, 0x0f, 0x38, 0x82, 0x03);
    put64(0x700, 0x1000);
    RAX = 1;
    FAULTS(X86_GP, 0, 0x66, 0x0f, 0x38, 0x82, 0x03);
}

static void debug_registers(void **state)
{
    fake_long(0);
    RAX = 0xffffffff;
    OK(0x0f, 0x23, 0xf0); /* dr6 */
    assert_int_equal(f->c.st.dr[6], 0xffffefff);
    RAX = 0xffffdfff;
    OK(0x0f, 0x23, 0xf8); /* dr7 */
    assert_int_equal(f->c.st.dr[7], 0xffff07ff);
    OK(0x0f, 0x21, 0xe1); /* dr4 is dr6 */
    assert_int_equal(RCX, 0xffffefff);
    f->c.st.cr4 |= X86_CR4_DE;
    FAULTS(X86_UD, 0, 0x0f, 0x21, 0xe1);
    RAX = 1ull << 32;
    FAULTS(X86_GP, 0, 0x0f, 0x23, 0xf8);
    OK(0x0f, 0x23, 0xc0);
    assert_int_equal(f->c.st.dr[0], 1ull << 32);
    RAX = 0x2000;
    OK(0x0f, 0x23, 0xf8); /* GD */
    f->c.st.dr[6] = 0;
    assert_int_equal(RUN(0x0f, 0x21, 0xc1), X86_DB);
    assert_int_equal(f->c.st.dr[6], 0x2000);
    idt_long(1, KCODE64, 0x6000, 14, 0, 0);
    assert_int_equal(deliver(1, INT_EXC, false, 0), NO_FAULT);
    assert_int_equal(f->c.st.dr[7], 0x400);
}

/* ---- Flags -------------------------------------------------------------- */

static void interrupt_flag(void **state)
{
    fake_long(0);
    OK(0xfb);
    assert_true(FLAGS & X86_IF);
    assert_int_equal(f->c.st.intr_shadow, 1);
    f->c.st.intr_shadow = 0;
    OK(0xfb); /* set already: no shadow */
    assert_int_equal(f->c.st.intr_shadow, 0);
    OK(0xfa);
    assert_false(FLAGS & X86_IF);
    RSP = KSTACK - 8;
    put64(RSP, ~0ull);
    f->c.exit_request = 0;
    f->switches = 0;
    f->c.intr_waiting = 1;
    OK(0x9d);
    assert_int_equal(FLAGS, 2 | X86_ARITH | X86_TF | X86_DF | X86_NT | X86_IF | X86_IOPL | X86_AC |
                                X86_ID);
    assert_true(f->c.exit_request);
    assert_int_equal(f->switches, 1); /* AC changed */
    /* Nothing waits: nothing to look at. */
    FLAGS &= ~(uint64_t)X86_IF;
    RSP -= 8;
    f->c.exit_request = 0;
    f->c.intr_waiting = 0;
    OK(0x9d);
    assert_true(FLAGS & X86_IF);
    assert_false(f->c.exit_request);
    OK(0x9c);
    assert_int_equal(get(RSP, 8), FLAGS);
    fake_long(3);
    FLAGS = 2 | X86_IF;
    FAULTS(X86_GP, 0, 0xfa);
    FAULTS(X86_GP, 0, 0xf4);
    put64(RSP, X86_IOPL | X86_CF);
    OK(0x9d);
    assert_int_equal(FLAGS, 2 | X86_IF | X86_CF);
    put64(RSP, X86_ID | X86_ZF);
    OK(0x66, 0x9d); /* 16 bits */
    assert_int_equal(FLAGS, 2 | X86_IF | X86_ZF);
    FLAGS |= X86_IOPL;
    OK(0xfa);
    assert_int_equal(FLAGS, 2 | X86_IOPL | X86_ZF);
    f->bad_page = USTACK - 0x1000;
    RSP = USTACK;
    FAULTS(X86_PF_EXC, 2, 0x9c);
}

static void smap_flag(void **state)
{
    fake_long(0);
    f->c.st.cr4 |= X86_CR4_SMAP;
    f->switches = 0;
    OK(0x0f, 0x01, 0xcb);
    assert_true(FLAGS & X86_AC);
    OK(0x0f, 0x01, 0xca);
    assert_false(FLAGS & X86_AC);
    assert_int_equal(f->switches, 2);
    fake_long(3);
    FAULTS(X86_UD, 0, 0x0f, 0x01, 0xcb);
}

/* ---- MSRs and their relatives -------------------------------------------- */

static int wrmsr(uint32_t msr, uint64_t val)
{
    RCX = 0xffffffff00000000ull | msr;
    RAX = 0xffffffff00000000ull | (uint32_t)val;
    RDX = 0xffffffff00000000ull | val >> 32;
    return RUN(0x0f, 0x30);
}

static uint64_t rdmsr(uint32_t msr)
{
    RCX = msr;
    OK(0x0f, 0x32);
    assert_int_equal(RAX >> 32 | RDX >> 32, 0);
    return RAX | RDX << 32;
}

static void model_specific_registers(void **state)
{
    static const uint32_t canonical[] = {0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101,
                                         0xc0000102, 0x175,      0x176};
    uint64_t tsc;

    fake_long(0);
    for (unsigned i = 0; i < ARRAY_SIZE(canonical); i++) {
        assert_int_equal(wrmsr(canonical[i], 0xffff800012345678ull + i), NO_FAULT);
        assert_int_equal(wrmsr(canonical[i], 0x800000000000ull), X86_GP);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(canonical); i++)
        assert_int_equal(rdmsr(canonical[i]), 0xffff800012345678ull + i);
    assert_int_equal(f->c.st.seg[X86_FS].base, 0xffff80001234567aull);
    assert_int_equal(wrmsr(0x277, 0x0007040600070406ull), NO_FAULT);
    assert_int_equal(wrmsr(0x277, 0x0007040600070402ull), X86_GP);
    assert_int_equal(wrmsr(0x277, 0x0807040600070406ull), X86_GP);
    assert_int_equal(rdmsr(0x277), 0x0007040600070406ull);
    assert_int_equal(wrmsr(0xc0000103, 1ull << 32), X86_GP);
    assert_int_equal(wrmsr(0xc0000103, 5), NO_FAULT);
    OK(0xf3, 0x0f, 0xc7, 0xfb); /* rdpid rbx */
    assert_int_equal(RBX, 5);
    assert_int_equal(wrmsr(0xc0000080, X86_EFER_LME | 1u << 12), X86_GP);
    f->no_nx = true;
    assert_int_equal(wrmsr(0xc0000080, X86_EFER_LME | X86_EFER_NXE), X86_GP);
    f->no_nx = false;
    assert_int_equal(wrmsr(0xc0000080, X86_EFER_LME | X86_EFER_NXE), NO_FAULT);
    assert_int_equal(f->flush_all, 1);
    assert_int_equal(rdmsr(0xc0000080), X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE);
    assert_int_equal(wrmsr(0x12345, 0), X86_GP);
    RCX = 0x12345;
    FAULTS(X86_GP, 0, 0x0f, 0x32);
    f->c.exit_request = 0;
    assert_int_equal(wrmsr(0x80b, 0), NO_FAULT);
    assert_true(f->c.exit_request);

    assert_int_equal(wrmsr(0x10, 1000), NO_FAULT);
    tsc = rdmsr(0x10);
    assert_in_range(tsc, 1000, 1000000000);
    OK(0x0f, 0x01, 0xf9); /* rdtscp */
    assert_in_range(RAX | RDX << 32, tsc, tsc + 1000000000);
    assert_int_equal(RCX, 5);
    /* the deadline is in the guest's TSC, the APIC's in the VM's */
    f->c.st.tsc_adjust = 100;
    assert_int_equal(wrmsr(0x6e0, 5000), NO_FAULT);
    assert_int_equal(f->msr_written, 4900);
    assert_int_equal(wrmsr(0x6e0, 0), NO_FAULT);
    assert_int_equal(f->msr_written, 0);
    assert_int_equal(rdmsr(0x6e0), 0x123456789ull + 100);

    fake_long(3);
    FAULTS(X86_GP, 0, 0x0f, 0x30);
    FAULTS(X86_GP, 0, 0x0f, 0x32);
    OK(0x0f, 0x31);
    f->c.st.cr4 |= X86_CR4_TSD;
    FAULTS(X86_GP, 0, 0x0f, 0x31);
    FAULTS(X86_GP, 0, 0x0f, 0x33); /* rdpmc */
}

static void segment_bases(void **state)
{
    fake_long(0);
    f->c.st.seg[X86_GS].base = 1;
    f->c.st.kernel_gs_base = 2;
    OK(0x0f, 0x01, 0xf8);
    assert_int_equal(f->c.st.seg[X86_GS].base, 2);
    assert_int_equal(f->c.st.kernel_gs_base, 1);
    FAULTS(X86_UD, 0, 0xf3, 0x48, 0x0f, 0xae, 0xd3);
    f->c.st.cr4 |= X86_CR4_FSGSBASE;
    RBX = 0xffff800000000123ull;
    OK(0xf3, 0x48, 0x0f, 0xae, 0xd3); /* wrfsbase rbx */
    assert_int_equal(f->c.st.seg[X86_FS].base, RBX);
    OK(0xf3, 0x0f, 0xae, 0xc0); /* rdfsbase eax */
    assert_int_equal(RAX, 0x123);
    OK(0xf3, 0x0f, 0xae, 0xdb); /* wrgsbase ebx */
    assert_int_equal(f->c.st.seg[X86_GS].base, 0x123);
    RBX = 0x800000000000ull;
    FAULTS(X86_GP, 0, 0xf3, 0x48, 0x0f, 0xae, 0xd3);
    fake_long(3);
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0xf8);
}

static void cpuid_and_xcr0(void **state)
{
    fake_long(0);
    RAX = 0xffffffff00000007ull;
    RCX = 3;
    OK(0x0f, 0xa2);
    assert_int_equal(RAX, 7);
    assert_int_equal(RDX, 3);
    RAX = 7;
    RCX = RDX = 0;
    FAULTS(X86_UD, 0, 0x0f, 0x01, 0xd1); /* no OSXSAVE */
    f->c.st.cr4 |= X86_CR4_OSXSAVE;
    OK(0x0f, 0x01, 0xd1);
    assert_int_equal(f->c.st.xcr0, 7);
    assert_int_equal(f->fpu_changed, 1);
    RAX = 5; /* AVX without SSE */
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0xd1);
    RAX = 2;
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0xd1);
    RAX = 15;
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0xd1);
    RAX = 3;
    RCX = 1;
    FAULTS(X86_GP, 0, 0x0f, 0x01, 0xd1);

    RAX = 1000;
    RBX = 200;
    RCX = 30;
    RDX = 4;
    f->c.st.gpr[X86_RSI] = 1ull << 40;
    OK(0x0f, 0x01, 0xc1); /* vmcall */
    assert_int_equal(RAX, 1234 + (1ull << 40));
    FAULTS(X86_UD, 0, 0x0f, 0x01, 0xd9); /* vmmcall, AMD's */
    fake_long(3);
    OK(0x0f, 0x01, 0xc1);
    assert_int_equal(RAX, (uint64_t)-1);
    FAULTS(X86_UD, 0, 0x0f, 0x01, 0xc8); /* monitor */
    FAULTS(X86_UD, 0, 0x0f, 0xaa);       /* rsm */
    /* What was popcnt, tzcnt and lzcnt with VEX on Knights Corner. */
    FAULTS(X86_UD, 0, 0xc5, 0xfa, 0xb8, 0xc5);
    FAULTS(X86_UD, 0, 0x2e, 0xc5, 0x7a, 0xbc, 0xc5);
    FAULTS(X86_UD, 0, 0xc5, 0xfa, 0xbd, 0xc5);
}

/* ---- Port I/O ------------------------------------------------------------ */

static void port_permissions(void **state)
{
    fake_long(3);
    RDX = 0x3f9;
    f->c.st.tr.limit = 0x68 + 0x7f + 1;
    put16(TSS + 0x66, 0x68);
    memset(f->mem + TSS + 0x68, 0xff, 0x81);
    FAULTS(X86_GP, 0, 0xec);
    f->mem[TSS + 0x68 + 0x3f9 / 8] = 0xfd; /* just 0x3f9 */
    OK(0xec);
    assert_int_equal(f->port, 0x3f9);
    FAULTS(X86_GP, 0, 0xed);
    f->mem[TSS + 0x68 + 0x3f9 / 8] = 0xe1;
    OK(0xed);
    assert_int_equal(RAX, 0xa2);
    RDX = 0x3ff; /* both bytes of the map count */
    f->mem[TSS + 0x68 + 0x7f] = 0;
    FAULTS(X86_GP, 0, 0x66, 0xed);
    f->mem[TSS + 0x68 + 0x80] = 0;
    OK(0x66, 0xed);
    RDX = 0x400;
    FAULTS(X86_GP, 0, 0xec); /* past the limit */
    FLAGS |= X86_IOPL;
    RAX = 0x1122334455667788ull;
    OK(0xe7, 0x80);
    assert_int_equal(f->port, 0x80);
    assert_int_equal(f->pio_val, 0x55667788);
    FLAGS = 2;
    put16(TSS + 0x66, 0xffff); /* no map */
    RDX = 0x3f9;
    FAULTS(X86_GP, 0, 0xec);
}

static void string_ports(void **state)
{
    fake_long(0);
    RDX = 0x1f0;
    RCX = 4;
    f->c.st.gpr[X86_RDI] = 0x8ff8;
    f->bad_page = 0x9000;
    /* two elements fit; the third faults before its port is read */
    assert_int_equal(RUN(0xf3, 0x6d), X86_PF_EXC);
    assert_int_equal(f->pio_n, 2);
    assert_int_equal(RCX, 2);
    assert_int_equal(f->c.st.gpr[X86_RDI], 0x9000);
    assert_int_equal(f->c.st.rip, 0x5000);
    f->bad_page = ~0ull;
    OK(0xf3, 0x6d);
    assert_int_equal(f->c.st.rip, 0x5002);
    assert_int_equal(RCX, 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(get(0x8ff8 + 4 * i, 4), 0xa1 + i);
    /* an event lets go after one element, and the rest is restarted */
    RCX = 3;
    f->c.st.gpr[X86_RSI] = 0x8ff8;
    f->c.exit_request = 1;
    f->c.st.rip = 0x5000;
    OK(0xf3, 0x6e);
    assert_int_equal(f->c.st.rip, 0x5000);
    assert_int_equal(RCX, 2);
    assert_int_equal(f->pio_val, 0xa1);
    f->c.exit_request = 0;
    FLAGS |= X86_DF;
    OK(0xf3, 0x66, 0x6f);
    assert_int_equal(f->c.st.rip, 0x5003);
    assert_int_equal(f->c.st.gpr[X86_RSI], 0x8ff5);
    RCX = 0;
    f->pio_n = 0;
    OK(0xf3, 0x6c);
    assert_int_equal(f->pio_n, 0);
    OK(0x6c);
    assert_int_equal(f->pio_n, 1);
}

static void halt(void **state)
{
    fake_long(0);
    OK(0xf4);
    assert_int_equal(f->c.st.run, X86_HALTED);
    assert_true(f->c.exit_request);
    OK(0x0f, 0x09); /* wbinvd */
    fake_long(3);
    FAULTS(X86_GP, 0, 0x0f, 0x09);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(segment_loads),
        TEST(segment_accessed_bit),
        TEST(segment_limits),
        TEST(unreal_mode),
        TEST(far_pointers),
        TEST(describing),
        TEST(task_register),
        TEST(table_registers),
        TEST(control_registers),
        TEST(address_spaces),
        TEST(debug_registers),
        TEST(interrupt_flag),
        TEST(smap_flag),
        TEST(model_specific_registers),
        TEST(segment_bases),
        TEST(cpuid_and_xcr0),
        TEST(port_permissions),
        TEST(string_ports),
        TEST(halt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
