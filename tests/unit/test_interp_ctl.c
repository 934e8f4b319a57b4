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
/* Control transfers between privileges and modes: interrupts, IRET, gates, fast system calls. */
#include "soft_fake.h"

#define RAX (f->c.st.gpr[X86_RAX])
#define RCX (f->c.st.gpr[X86_RCX])
#define RSP (f->c.st.gpr[X86_RSP])
#define CS  (f->c.st.seg[X86_CS])
#define SS  (f->c.st.seg[X86_SS])

/* ---- Long mode ---------------------------------------------------------- */

static void long_interrupt_from_user(void **state)
{
    fake_long(3);
    idt_long(14, KCODE64, 0x6789, 14, 0, 0);
    f->c.st.rflags = 2 | X86_IF | X86_ZF | X86_TF | X86_NT;
    f->c.st.seg[X86_GS].base = 0x1234;
    assert_int_equal(deliver(14, INT_EXC, true, 7), NO_FAULT);

    assert_int_equal(f->c.st.rip, 0x6789);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(CS.sel, KCODE64);
    assert_int_equal(SS.sel, 0);
    assert_int_equal(f->c.st.rflags, 2 | X86_ZF);
    assert_int_equal(RSP, KSTACK - 48);
    assert_int_equal(get(RSP, 8), 7);
    assert_int_equal(get(RSP + 8, 8), 0x5000);
    assert_int_equal(get(RSP + 16, 8), UCODE64);
    assert_int_equal(get(RSP + 24, 8), 2 | X86_IF | X86_ZF | X86_TF | X86_NT | X86_RF);
    assert_int_equal(get(RSP + 32, 8), USTACK);
    assert_int_equal(get(RSP + 40, 8), UDATA);

    /* and back */
    put64(RSP + 24, 2 | X86_IF | X86_CF);
    RSP += 8;
    f->c.st.nmi_blocked = 1;
    f->c.intr_waiting = 1;
    f->c.st.seg[X86_DS].attr = 0xc093; /* DPL 0: not for the user */
    OK(0x48, 0xcf);
    assert_int_equal(f->c.st.rip, 0x5000);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(CS.sel, UCODE64);
    assert_int_equal(SS.sel, UDATA);
    assert_int_equal(RSP, USTACK);
    assert_int_equal(f->c.st.rflags, 2 | X86_IF | X86_CF);
    assert_int_equal(f->c.st.nmi_blocked, 0);
    assert_int_equal(f->c.st.seg[X86_DS].sel, 0);
    assert_true(f->c.st.seg[X86_DS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(f->c.st.seg[X86_ES].sel, UDATA);
    assert_int_equal(f->c.st.seg[X86_GS].base, 0x1234);
    assert_true(f->c.exit_request); /* IF opened to what waits */
}

static void long_interrupt_same_level(void **state)
{
    fake_long(0);
    idt_long(0x30, KCODE64, 0xffffffff81000000ull, 15, 0, 0);
    for (unsigned slow = 0; slow < 2; slow++) {
        f->no_host = slow;
        RSP = KSTACK - 0x103; /* gets aligned */
        f->c.st.rflags = 2 | X86_IF;
        f->c.st.rip = 0x5000;
        assert_int_equal(deliver(0x30, INT_EXT, false, 0), NO_FAULT);
        assert_int_equal(RSP, ((KSTACK - 0x103) & ~15) - 40);
        assert_int_equal(f->c.st.rip, 0xffffffff81000000ull);
        assert_int_equal(f->c.st.rflags, 2 | X86_IF); /* trap gate */
        assert_int_equal(get(RSP, 8), 0x5000);
        assert_int_equal(get(RSP + 16, 8), 2 | X86_IF); /* no RF: not a fault */
        assert_int_equal(get(RSP + 24, 8), KSTACK - 0x103);
        assert_int_equal(get(RSP + 32, 8), KDATA);
        OK(0x48, 0xcf);
        assert_int_equal(f->c.st.rip, 0x5000);
        assert_int_equal(RSP, KSTACK - 0x103);
        assert_int_equal(SS.sel, KDATA);
    }
}

static void long_ist(void **state)
{
    fake_long(0);
    idt_long(2, KCODE64, 0x7000, 14, 0, 1);
    assert_int_equal(deliver(2, INT_EXC, false, 0), NO_FAULT);
    assert_int_equal(RSP, IST1 - 40);
    assert_int_equal(SS.sel, KDATA);
    f->c.st.tr.limit = 0x2a; /* IST1 no longer inside */
    assert_int_equal(deliver(2, INT_EXC, false, 0), X86_TS);
    assert_int_equal(f->c.exc_error, TSS_SEL | 1);
}

static void long_delivery_faults(void **state)
{
    struct x86_state before;

    fake_long(3);
    idt_long(0x80, KCODE64, 0x6000, 14, 0, 0);
    FAULTS(X86_GP, 0x80 * 8 + 2, 0xcd, 0x80); /* DPL */
    idt_long(0x80, KCODE64, 0x6000, 14, 3, 0);
    put64(IDT + 0x80 * 16, get(IDT + 0x80 * 16, 8) & ~(1ull << 47));
    FAULTS(X86_NP, 0x80 * 8 + 2, 0xcd, 0x80);
    idt_long(0x80, KCODE64, 0x6000, 12, 3, 0); /* no such gate */
    FAULTS(X86_GP, 0x80 * 8 + 2, 0xcd, 0x80);
    idt_long(0x80, 0, 0x6000, 14, 3, 0);
    FAULTS(X86_GP, 0, 0xcd, 0x80);
    idt_long(0x80, KCODE, 0x6000, 14, 3, 0); /* 32-bit handler */
    FAULTS(X86_GP, KCODE, 0xcd, 0x80);
    idt_long(0x80, KCODE64, 0x800000000000ull, 14, 3, 0);
    FAULTS(X86_GP, 0, 0xcd, 0x80);
    f->c.st.idtr.limit = 0x80 * 16 + 14;
    FAULTS(X86_GP, 0x80 * 8 + 2, 0xcd, 0x80);
    f->c.st.idtr.limit = 0xfff;
    /* the same from outside carries EXT */
    assert_int_equal(deliver(0x80, INT_EXT, false, 0), X86_GP);
    assert_int_equal(f->c.exc_error, 1);

    idt_long(0x80, KCODE64, 0x6000, 14, 3, 0);
    f->bad_page = KSTACK - 0x1000; /* the new stack */
    FAULTS(X86_PF_EXC, 2, 0xcd, 0x80);
    f->bad_page = ~0ull;
    put64(TSS + 4, 0x800000000000ull + 64);
    FAULTS(X86_SS_EXC, 0, 0xcd, 0x80);
    put64(TSS + 4, KSTACK);
    before = f->c.st;
    OK(0xcd, 0x80);
    assert_int_equal(get(RSP, 8), before.rip + 2);
    assert_int_equal(f->c.st.cpl, 0);
}

static void iretq_frame(uint64_t rip, uint64_t cs, uint64_t fl, uint64_t rsp, uint64_t ss)
{
    RSP = KSTACK - 0x100;
    put64(RSP, rip);
    put64(RSP + 8, cs);
    put64(RSP + 16, fl);
    put64(RSP + 24, rsp);
    put64(RSP + 32, ss);
}

static void iretq_faults(void **state)
{
    fake_long(0);
    iretq_frame(0x800000000000ull, UCODE64, 2, USTACK, UDATA);
    FAULTS(X86_GP, 0, 0x48, 0xcf);
    iretq_frame(0x5000, 0, 2, USTACK, UDATA);
    FAULTS(X86_GP, 0, 0x48, 0xcf);
    iretq_frame(0x5000, UDATA, 2, USTACK, UDATA);
    FAULTS(X86_GP, UDATA & ~3, 0x48, 0xcf);
    iretq_frame(0x5000, KCODE64 | 3, 2, USTACK, UDATA);
    FAULTS(X86_GP, KCODE64, 0x48, 0xcf);
    iretq_frame(0x5000, UCODE64, 2, USTACK, KDATA);
    FAULTS(X86_GP, KDATA, 0x48, 0xcf);
    iretq_frame(0x5000, UCODE64, 2, USTACK, 3); /* null SS never at CPL 3 */
    FAULTS(X86_GP, 0, 0x48, 0xcf);
    iretq_frame(0x5000, 0x100 | 3, 2, USTACK, UDATA); /* past the GDT */
    FAULTS(X86_GP, 0x100, 0x48, 0xcf);
    iretq_frame(0x5000, UCODE64, 2, USTACK, UDATA);
    put64(GDT + (UCODE64 & ~7), get(GDT + (UCODE64 & ~7), 8) & ~(1ull << 47));
    FAULTS(X86_NP, UCODE64 & ~3, 0x48, 0xcf);
    f->c.st.rflags |= X86_NT;
    FAULTS(X86_GP, 0, 0x48, 0xcf);
    f->c.st.rflags &= ~(uint64_t)X86_NT;
    iretq_frame(0x5000, KCODE64, 2, 0x4444, 0); /* null SS is fine at CPL 0 */
    OK(0x48, 0xcf);
    assert_int_equal(RSP, 0x4444);
    assert_int_equal(f->c.st.cpl, 0);
    RSP = 0x7fffffffffd8ull + 16; /* the frame leaves canonical space */
    FAULTS(X86_SS_EXC, 0, 0x48, 0xcf);
}

static void iret_to_compat(void **state)
{
    fake_long(0);
    iretq_frame(0x5000, UCODE, 2 | X86_IF | X86_IOPL | X86_VM, 0xdead00001000ull, UDATA);
    OK(0x48, 0xcf);
    assert_int_equal(f->c.mode, INSN_32);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(RSP, 0x1000);
    assert_false(f->c.st.rflags & X86_VM);
    /* user code can't touch IOPL or IF with IRETD */
    f->c.st.rflags = 2 | X86_IF;
    RSP = USTACK;
    put32(RSP, 0x5100);
    put32(RSP + 4, UCODE);
    put32(RSP + 8, 2 | X86_IOPL | X86_CF | X86_AC);
    OK(0xcf);
    assert_int_equal(f->c.st.rflags, 2 | X86_IF | X86_CF | X86_AC);
    assert_int_equal(RSP, USTACK + 12); /* same level: no stack popped */
    /* an interrupt from there runs 64-bit code */
    idt_long(0x20, KCODE64, 0x6000, 14, 0, 0);
    assert_int_equal(deliver(0x20, INT_EXT, false, 0), NO_FAULT);
    assert_int_equal(f->c.mode, INSN_64);
    assert_int_equal(get(RSP + 8, 8), UCODE);
    OK(0x48, 0xcf);
    assert_int_equal(f->c.mode, INSN_32);
}

static void syscall_round_trip(void **state)
{
    fake_long(3);
    f->c.st.star = (uint64_t)KCODE64 << 32 | 0x20ull << 48;
    f->c.st.lstar = 0xffffffff80001000ull;
    f->c.st.sfmask = X86_IF | X86_TF | X86_AC;
    f->c.st.rflags = 2 | X86_IF | X86_AC | X86_OF | X86_RF;
    OK(0x0f, 0x05);
    assert_int_equal(f->c.st.rip, 0xffffffff80001000ull);
    assert_int_equal(RCX, 0x5002);
    assert_int_equal(f->c.st.gpr[X86_R11], 2 | X86_IF | X86_AC | X86_OF);
    assert_int_equal(f->c.st.rflags, 2 | X86_OF);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(CS.sel, KCODE64);
    assert_int_equal(SS.sel, KCODE64 + 8);
    assert_int_equal(RSP, USTACK);
    OK(0x48, 0x0f, 0x07);
    assert_int_equal(f->c.st.rip, 0x5002);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(CS.sel, 0x33);
    assert_int_equal(SS.sel, 0x2b);
    assert_int_equal(f->c.st.rflags, 2 | X86_IF | X86_AC | X86_OF);
    FAULTS(X86_GP, 0, 0x48, 0x0f, 0x07); /* not at CPL 3 */

    OK(0x0f, 0x05);
    RCX = 0x1122334455667788ull;
    FAULTS(X86_GP, 0, 0x48, 0x0f, 0x07);
    OK(0x0f, 0x07); /* to compatibility mode */
    assert_int_equal(f->c.st.rip, 0x55667788);
    assert_int_equal(CS.sel, 0x23);
    assert_int_equal(f->c.mode, INSN_32);
    f->c.st.cstar = 0x7777000;
    FAULTS(X86_UD, 0, 0x0f, 0x05); /* as Intel's: never to CSTAR */
    assert_int_equal(f->c.mode, INSN_32);
    fake_long(3);
    f->c.st.efer &= ~(uint64_t)X86_EFER_SCE;
    FAULTS(X86_UD, 0, 0x0f, 0x05);
}

static void sysenter_round_trip(void **state)
{
    fake_long(3);
    FAULTS(X86_GP, 0, 0x0f, 0x34); /* SYSENTER_CS is null */
    f->c.st.sysenter_cs = KCODE64 | 3;
    f->c.st.sysenter_eip = 0xffffffff80002000ull;
    f->c.st.sysenter_esp = KSTACK;
    f->c.st.rflags = 2 | X86_IF;
    OK(0x0f, 0x34);
    assert_int_equal(f->c.st.rip, 0xffffffff80002000ull);
    assert_int_equal(RSP, KSTACK);
    assert_int_equal(CS.sel, KCODE64);
    assert_int_equal(f->c.st.rflags, 2);
    assert_int_equal(f->c.st.cpl, 0);
    RCX = USTACK;
    f->c.st.gpr[X86_RDX] = 0xffff00005000ull;
    FAULTS(X86_GP, 0, 0x48, 0x0f, 0x35);
    OK(0x0f, 0x35);
    assert_int_equal(f->c.st.rip, 0x5000);
    assert_int_equal(CS.sel, KCODE64 + 16 + 3);
    assert_int_equal(f->c.mode, INSN_32);
    assert_int_equal(f->c.st.cpl, 3);
}

static void far_calls_long(void **state)
{
    fake_long(3);
    put64(GDT + GATE_SEL, gate(KCODE64, 0x6000, 12, 3));
    put64(GDT + GATE_SEL + 8, 0xffffffff);
    put32(0x700, 0x1111);
    put16(0x704, GATE_SEL | 3);
    OK(0xff, 0x1c, 0x25, 0x00, 0x07, 0, 0); /* call far [0x700] */
    assert_int_equal(f->c.st.rip, 0xffffffff00006000ull);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(RSP, KSTACK - 32);
    assert_int_equal(get(RSP, 8), 0x5007);
    assert_int_equal(get(RSP + 8, 8), UCODE64);
    assert_int_equal(get(RSP + 16, 8), USTACK);
    assert_int_equal(get(RSP + 24, 8), UDATA);
    assert_int_equal(SS.sel, 0);
    OK(0x48, 0xcb);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(f->c.st.rip, 0x5007);
    assert_int_equal(RSP, USTACK);
    put64(GDT + GATE_SEL + 8, 0xc0000000000ull); /* type bits in the upper half */
    FAULTS(X86_GP, GATE_SEL, 0xff, 0x1c, 0x25, 0x00, 0x07, 0, 0);
    put64(GDT + GATE_SEL + 8, 0x8000); /* not canonical */
    FAULTS(X86_GP, 0, 0xff, 0x1c, 0x25, 0x00, 0x07, 0, 0);
    put16(0x704, TSS_SEL | 3);
    FAULTS(X86_GP, TSS_SEL, 0xff, 0x1c, 0x25, 0x00, 0x07, 0, 0); /* no tasks in long mode */
}

static void far_ret_long(void **state)
{
    fake_long(0);
    put64(RSP, 0x5555);
    put64(RSP + 8, KCODE);
    OK(0x48, 0xcb);
    assert_int_equal(f->c.mode, INSN_32);
    assert_int_equal(f->c.st.rip, 0x5555);
    OK(0xea, 0x00, 0x60, 0, 0, KCODE64, 0); /* ljmp */
    assert_int_equal(f->c.mode, INSN_64);
    assert_int_equal(f->c.st.rip, 0x6000);
    FAULTS(X86_UD, 0, 0xce); /* into */
}

/* ---- Protected mode ----------------------------------------------------- */

static void protected_inner(void **state)
{
    fake_protected(3);
    idt_legacy(0x80, KCODE, 0x12345, 15, 3);
    f->c.st.rflags = 2 | X86_IF | X86_TF;
    OK(0xcd, 0x80);
    assert_int_equal(f->c.st.rip, 0x12345);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(SS.sel, KDATA);
    assert_int_equal(RSP, KSTACK - 20);
    assert_int_equal(get(RSP, 4), 0x5002);
    assert_int_equal(get(RSP + 4, 4), UCODE);
    assert_int_equal(get(RSP + 8, 4), 2 | X86_IF | X86_TF);
    assert_int_equal(get(RSP + 12, 4), USTACK);
    assert_int_equal(get(RSP + 16, 4), UDATA);
    assert_int_equal(f->c.st.rflags, 2 | X86_IF);
    assert_true(f->sys_in_user > 0);
    put32(RSP + 8, 2);
    f->c.st.seg[X86_DS].attr = 0xc093;
    OK(0xcf);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(RSP, USTACK);
    assert_int_equal(f->c.st.rflags, 2);
    assert_true(f->c.st.seg[X86_DS].attr & X86_ATTR_UNUSABLE);

    put16(TSS + 8, UDATA); /* wrong RPL for the inner stack */
    FAULTS(X86_TS, UDATA & ~3, 0xcd, 0x80);
    put16(TSS + 8, 0);
    FAULTS(X86_TS, 0, 0xcd, 0x80);
    put16(TSS + 8, ABSENT);
    FAULTS(X86_SS_EXC, ABSENT, 0xcd, 0x80);
    put16(TSS + 8, KDATA);
    idt_legacy(0x80, KCODE, 0x12345, 15, 2);
    FAULTS(X86_GP, 0x80 * 8 + 2, 0xcd, 0x80);
    /* hardware does not mind the DPL */
    assert_int_equal(deliver(0x80, INT_EXT, false, 0), NO_FAULT);
}

static void protected_16bit_gate(void **state)
{
    fake_protected(0);
    idt_legacy(3, KCODE, 0xffff4321, 6, 0);
    f->c.st.rflags = 2 | X86_IF;
    OK(0xcc);
    assert_int_equal(f->c.st.rip, 0x4321);
    assert_int_equal(RSP, KSTACK - 0x106);
    assert_int_equal(get(RSP, 2), 0x5001);
    assert_int_equal(f->c.st.rflags, 2);
    put16(RSP + 4, 2 | X86_IF | X86_IOPL); /* ring 0 may change IOPL */
    OK(0x66, 0xcf);
    assert_int_equal(f->c.st.rip, 0x5001);
    assert_int_equal(f->c.st.rflags, 2 | X86_IF | X86_IOPL);
    SS.limit = KSTACK - 0x200; /* no room */
    FAULTS(X86_SS_EXC, 0, 0xcc);
}

static void call_gate_with_parameters(void **state)
{
    fake_protected(3);
    put64(GDT + GATE_SEL, gate(KCODE, 0x6000, 12, 3) | 2ull << 32);
    put32(USTACK, 0xaaaa);
    put32(USTACK + 4, 0xbbbb);
    OK(0x9a, 0, 0, 0, 0, GATE_SEL | 3, 0);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(RSP, KSTACK - 24);
    assert_int_equal(get(RSP, 4), 0x5007);
    assert_int_equal(get(RSP + 4, 4), UCODE);
    assert_int_equal(get(RSP + 8, 4), 0xaaaa);
    assert_int_equal(get(RSP + 12, 4), 0xbbbb);
    assert_int_equal(get(RSP + 16, 4), USTACK);
    assert_int_equal(get(RSP + 20, 4), UDATA);
    put32(RSP + 20, KDATA);
    FAULTS(X86_GP, KDATA, 0xca, 8, 0); /* SS for ring 0 */
    put32(RSP + 20, UDATA);
    OK(0xca, 8, 0);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(SS.sel, UDATA);
    assert_int_equal(SS.attr, 0xc0f3);
    assert_int_equal(f->c.st.rip, 0x5007);
    assert_int_equal(RSP, USTACK + 8);

    FAULTS(X86_GP, KCODE, 0xea, 0, 0, 0, 0, GATE_SEL | 3, 0); /* JMP can't raise privilege */
    put64(GDT + GATE_SEL, gate(KCODE, 0x6000, 12, 2));
    FAULTS(X86_GP, GATE_SEL, 0x9a, 0, 0, 0, 0, GATE_SEL | 3, 0);
    FAULTS(X86_GP, KCODE, 0x9a, 0, 0, 0, 0, KCODE, 0);
    FAULTS(X86_GP, KDATA, 0x9a, 0, 0, 0, 0, KDATA, 0);
    fake_protected(0);
    FAULTS(X86_GP, KCODE, 0xea, 0, 0, 0, 0, KCODE | 1, 0); /* RPL > CPL */
    fake_protected(3);
    FAULTS(X86_GP, 0, 0x9a, 0, 0, 0, 0, 0, 0);
    OK(0x9a, 0, 0x60, 0, 0, CONFORM, 0); /* conforming: same privilege */
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(CS.sel, CONFORM | 3);
}

/* ---- Virtual-8086 and real mode ----------------------------------------- */

static void v86_round_trip(void **state)
{
    static const uint8_t order[] = {X86_ES, X86_DS, X86_FS, X86_GS};

    fake_protected(0);
    RSP = KSTACK - 0x100;
    put32(RSP, 0x100);
    put32(RSP + 4, 0x500);
    put32(RSP + 8, 2 | X86_VM | X86_IF);
    put32(RSP + 12, 0xfff0);
    put32(RSP + 16, 0x600);
    for (unsigned i = 0; i < 4; i++)
        put32(RSP + 20 + 4 * i, 0x700 + i);
    OK(0xcf);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(f->c.mode, INSN_16);
    assert_int_equal(CS.base, 0x5000);
    assert_int_equal(RSP, 0xfff0);
    assert_int_equal(SS.base, 0x6000);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(f->c.st.seg[order[i]].base, 0x7000 + 16 * i);

    FAULTS(X86_GP, 0, 0xcd, 0x21); /* IOPL < 3 */
    idt_legacy(3, CONFORM, 0x6000, 14, 3);
    FAULTS(X86_GP, CONFORM, 0xcc); /* only ring 0 handles events of virtual-8086 mode */
    FAULTS(X86_GP, 0, 0xfa);
    FAULTS(X86_GP, 0, 0x9c);
    FAULTS(X86_GP, 0, 0xcf);
    FAULTS(X86_UD, 0, 0x0f, 0x00, 0xc8); /* str ax */
    f->c.st.rflags |= X86_IOPL;
    idt_legacy(0x21, KCODE, 0x6000, 14, 3);
    OK(0xcd, 0x21);
    assert_int_equal(f->c.st.cpl, 0);
    assert_int_equal(f->c.mode, INSN_32);
    assert_int_equal(RSP, KSTACK - 36);
    assert_int_equal(get(RSP, 4), 0x102);
    assert_int_equal(get(RSP + 4, 4), 0x500);
    assert_true(get(RSP + 8, 4) & X86_VM);
    assert_int_equal(get(RSP + 12, 4), 0xfff0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(get(RSP + 20 + 4 * i, 4), 0x700 + i);
    assert_true(f->c.st.seg[X86_DS].attr & X86_ATTR_UNUSABLE);
    OK(0xcf);
    assert_int_equal(f->c.st.rip, 0x102);
    assert_int_equal(f->c.st.cpl, 3);
}

/* In virtual-8086 mode, at 0x500:0, with a stack at 0x600:0xff0. */
static void enter_v86(uint64_t flags)
{
    struct x86_state *st = &f->c.st;

    fake_protected(3);
    st->rflags = 2 | X86_VM | flags;
    for (unsigned i = 0; i < X86_NSREGS; i++)
        st->seg[i] = (struct x86_seg){.limit = 0xffff, .attr = 0xf3};
    CS.sel = 0x500;
    CS.base = 0x5000;
    SS.sel = 0x600;
    SS.base = 0x6000;
    st->rip = 0;
    RSP = 0xff0;
    st->cr4 = X86_CR4_VME;
    soft_mode_changed(&f->c);
    assert_int_equal(st->cpl, 3);
}

static int pending(void)
{
    if (setjmp(f->c.exc_jmp))
        return f->c.exc_vector;
    vif_pending(&f->c);
    return NO_FAULT;
}

/* SDM volume 3, 20.3.2: VIF stands for IF while IOPL is below 3. */
static void v86_virtual_interrupts(void **state)
{
    uint64_t *flags = &f->c.st.rflags;

    enter_v86(X86_IF);
    OK(0xfb);
    assert_int_equal(*flags & (X86_IF | X86_VIF), X86_IF | X86_VIF);
    OK(0x9c); /* pushf */
    assert_int_equal(get(0x6fee, 2), 2 | X86_IF | X86_IOPL);
    OK(0xfa);
    assert_int_equal(*flags & (X86_IF | X86_VIF), X86_IF);
    OK(0x9c);
    assert_int_equal(get(0x6fec, 2), 2 | X86_IOPL);
    FAULTS(X86_GP, 0, 0x66, 0x9c); /* pushfd */
    FAULTS(X86_GP, 0, 0x66, 0x9d);
    FAULTS(X86_GP, 0, 0x66, 0xcf);
    put16(0x6fec, 2 | X86_CF | X86_NT | X86_IF | X86_IOPL);
    OK(0x9d);
    assert_int_equal(*flags, 2 | X86_VM | X86_CF | X86_NT | X86_IF | X86_VIF);
    put16(0x6fee, 2 | X86_TF);
    FAULTS(X86_GP, 0, 0x9d);
    *flags |= X86_VIP;
    put16(0x6fee, 2 | X86_IF);
    FAULTS(X86_GP, 0, 0x9d);
    FAULTS(X86_GP, 0, 0xfb); /* an interrupt waits */
    put16(0x6fee, 2);
    OK(0x9d);
    assert_int_equal(*flags, 2 | X86_VM | X86_IF | X86_VIP);
    *flags |= X86_VIF; /* as a monitor's IRET may leave it: the next instruction faults */
    assert_true(soft_watched(&f->c));
    assert_int_equal(pending(), X86_GP);
    *flags |= X86_IOPL;
    assert_int_equal(pending(), NO_FAULT);
    *flags &= ~(uint64_t)(X86_VIP | X86_IOPL);
    RSP = 0xfe0;
    put16(0x6fe0, 0x10);
    put16(0x6fe2, 0x510);
    put16(0x6fe4, 2 | X86_IF | X86_ZF);
    OK(0xcf);
    assert_int_equal(*flags, 2 | X86_VM | X86_IF | X86_VIF | X86_ZF);
    assert_int_equal(CS.base, 0x5100);
    assert_int_equal(f->c.st.rip, 0x10);
    assert_int_equal(RSP, 0xfe6);
    f->c.st.cr4 = 0;
    FAULTS(X86_GP, 0, 0xfa);
}

/* Table 20-2. */
static void v86_redirected_interrupts(void **state)
{
    uint64_t *flags = &f->c.st.rflags;

    enter_v86(X86_IF | X86_VIF);
    put16(TSS + 0x66, 0x88); /* the map is at 0x68 */
    put32(0x21 * 4, 0x40001234);
    put32(TSS + 0x68 + 4, 1 << 2); /* 22h goes to the monitor */
    FAULTS(X86_GP, 0, 0xcd, 0x22);
    OK(0xcd, 0x21);
    assert_int_equal(CS.base, 0x40000);
    assert_int_equal(f->c.st.rip, 0x1234);
    assert_int_equal(f->c.st.cpl, 3);
    assert_int_equal(RSP, 0xfea);
    assert_int_equal(get(0x6fea, 2), 2);
    assert_int_equal(get(0x6fec, 2), 0x500);
    assert_int_equal(get(0x6fee, 2), 2 | X86_IF | X86_IOPL);
    assert_int_equal(*flags & (X86_IF | X86_VIF), X86_IF);

    enter_v86(X86_IF | X86_IOPL);
    OK(0xcd, 0x21);
    assert_int_equal(*flags & X86_IF, 0);
    assert_int_equal(get(0x6fee, 2), 2 | X86_IF | X86_IOPL);
    enter_v86(X86_IF | X86_IOPL);
    idt_legacy(0x22, KCODE, 0x6000, 14, 3);
    OK(0xcd, 0x22);
    assert_int_equal(f->c.st.cpl, 0);
    enter_v86(X86_IF);
    f->c.st.tr.limit = 0x67; /* ends before the map does */
    FAULTS(X86_GP, 0, 0xcd, 0x21);
}

/* 20.4 */
static void protected_virtual_interrupts(void **state)
{
    uint64_t *flags = &f->c.st.rflags;

    for (unsigned wide = 0; wide < 2; wide++) {
        if (wide)
            fake_long(3);
        else
            fake_protected(3);
        f->c.st.cr4 |= X86_CR4_PVI;
        *flags = 2 | X86_IF;
        OK(0xfb);
        assert_int_equal(*flags, 2 | X86_IF | X86_VIF);
        OK(0xfa);
        assert_int_equal(*flags, 2 | X86_IF);
        *flags |= X86_VIP;
        FAULTS(X86_GP, 0, 0xfb);
        *flags = 2 | X86_IF | X86_IOPL;
        OK(0xfa);
        assert_int_equal(*flags, 2 | X86_IOPL);
    }
}

static void real_mode(void **state)
{
    fake_real();
    put16(0x21 * 4, 0x1234);
    put16(0x21 * 4 + 2, 0x4000);
    f->c.st.rflags = 2 | X86_IF | X86_CF;
    f->c.st.gpr[X86_RSP] = 0xabcd8000; /* only SP moves */
    OK(0xcd, 0x21);
    assert_int_equal(CS.base, 0x40000);
    assert_int_equal(f->c.st.rip, 0x1234);
    assert_int_equal(RSP, 0xabcd7ffa);
    assert_int_equal(f->c.st.rflags, 2 | X86_CF);
    assert_int_equal(get(0x7ffa, 2), 0x5002);
    OK(0xcf);
    assert_int_equal(CS.base, 0);
    assert_int_equal(f->c.st.rip, 0x5002);
    assert_int_equal(f->c.st.rflags, 2 | X86_IF | X86_CF);
    OK(0x9a, 0x00, 0x02, 0x00, 0x30); /* call 3000:0200 */
    assert_int_equal(CS.base, 0x30000);
    assert_int_equal(f->c.st.rip, 0x200);
    OK(0xca, 2, 0); /* retf 2 */
    assert_int_equal(f->c.st.rip, 0x5007);
    assert_int_equal(RSP, 0xabcd8002);
    f->c.st.idtr.limit = 0x83;
    assert_int_equal(deliver(0x21, INT_EXT, false, 0), X86_GP);
    f->c.st.idtr.limit = 0x3ff;
    f->bad_page = 0x7000; /* the second push */
    FAULTS(X86_PF_EXC, 2, 0xcd, 0x21);
    f->bad_page = ~0ull;
    interp_sipi(&f->c, 0x9a);
    assert_int_equal(CS.sel, 0x9a00);
    assert_int_equal(CS.base, 0x9a000);
    assert_int_equal(f->c.st.rip, 0);
}

/* From reset to 64-bit code and back out of paging. */
static void mode_switches(void **state)
{
    fake_real();
    fake_tables();
    put16(0x600, 0xff);
    put32(0x602, GDT);
    f->c.st.gdtr = (struct x86_dtr){0};
    OK(0x66, 0x0f, 0x01, 0x16, 0x00, 0x06); /* o32 lgdt [0x600] */
    assert_int_equal(f->c.st.gdtr.base, GDT);
    assert_int_equal(f->c.st.gdtr.limit, 0xff);
    RAX = 1u << 31;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xc0); /* PG without PE */
    RAX = X86_CR0_PE;
    OK(0x0f, 0x22, 0xc0);
    assert_int_equal(f->c.mode, INSN_16);
    assert_int_equal(f->c.st.cpl, 0);
    OK(0x66, 0xea, 0x00, 0x50, 0, 0, KCODE, 0);
    assert_int_equal(f->c.mode, INSN_32);
    assert_int_equal(CS.limit, 0xffffffff);
    RAX = KDATA;
    OK(0x8e, 0xd0); /* mov ss, eax */
    OK(0x8e, 0xd8);
    assert_int_equal(f->c.st.intr_shadow, 1);

    RCX = 0xc0000080;
    RAX = X86_EFER_LME | X86_EFER_SCE;
    f->c.st.gpr[X86_RDX] = 0;
    OK(0x0f, 0x30);
    RAX = X86_CR0_PE | X86_CR0_PG;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xc0); /* LME without PAE */
    RAX = X86_CR4_PAE | X86_CR4_PGE;
    OK(0x0f, 0x22, 0xe0);
    RAX = X86_CR0_PE | X86_CR0_PG;
    OK(0x0f, 0x22, 0xc0);
    assert_true(f->c.st.efer & X86_EFER_LMA);
    assert_int_equal(f->c.mode, INSN_32); /* compatibility */
    RAX = X86_EFER_SCE;
    FAULTS(X86_GP, 0, 0x0f, 0x30); /* LME is fixed under paging */
    OK(0xea, 0, 0x60, 0, 0, KCODE64, 0);
    assert_int_equal(f->c.mode, INSN_64);

    RAX = X86_CR0_PE;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xc0); /* not from 64-bit code */
    RAX = 0;
    FAULTS(X86_GP, 0, 0x0f, 0x22, 0xe0); /* PAE */
    RSP = KSTACK - 0x100;
    put64(RSP, 0x5000);
    put64(RSP + 8, KCODE);
    OK(0x48, 0xcb);
    RAX = X86_CR0_PE;
    OK(0x0f, 0x22, 0xc0);
    assert_false(f->c.st.efer & X86_EFER_LMA);
    assert_true(f->c.st.efer & X86_EFER_LME);
    assert_int_equal(f->c.mode, INSN_32);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, fake_setup, fake_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(long_interrupt_from_user),
        TEST(long_interrupt_same_level),
        TEST(long_ist),
        TEST(long_delivery_faults),
        TEST(iretq_faults),
        TEST(iret_to_compat),
        TEST(syscall_round_trip),
        TEST(sysenter_round_trip),
        TEST(far_calls_long),
        TEST(far_ret_long),
        TEST(protected_inner),
        TEST(protected_16bit_gate),
        TEST(call_gate_with_parameters),
        TEST(v86_round_trip),
        TEST(v86_virtual_interrupts),
        TEST(v86_redirected_interrupts),
        TEST(protected_virtual_interrupts),
        TEST(real_mode),
        TEST(mode_switches),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
