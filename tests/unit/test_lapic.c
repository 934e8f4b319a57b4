/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/lapic.c src/x86/lapic_regs.c src/x86/lapic_timer.c src/x86/lapic_ipi.c src/x86/pic.c src/core/bus.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fake_pc.h"
#include "x86/lapic.h"
#include "x86/pic.h"
#include "x86/platform.h"

#define CPUS 4

#define ID      0x020
#define VERSION 0x030
#define TPR     0x080
#define PPR     0x0a0
#define EOI     0x0b0
#define LDR     0x0d0
#define DFR     0x0e0
#define SVR     0x0f0
#define ISR     0x100
#define TMR     0x180
#define IRR     0x200
#define ESR     0x280
#define ICR     0x300
#define ICR_HI  0x310
#define LVTT    0x320
#define LVT0    0x350
#define LVT1    0x360
#define LVTE    0x370
#define TMICT   0x380
#define TMCCT   0x390
#define TDCR    0x3e0

#define MSR_BASE     0x1b
#define MSR_DEADLINE 0x6e0

static struct vm vm;
static struct vcpu vcpus[CPUS];
static struct pic *pic;
static unsigned eois;
static uint8_t eoi_vector;

static void record_eoi(void *opaque, uint8_t vector)
{
    eois++;
    eoi_vector = vector;
}

static uint32_t rd(unsigned cpu, unsigned reg)
{
    return (uint32_t)lapic_mmio_read(vcpus[cpu].lapic, reg, 4);
}

static void wr(unsigned cpu, unsigned reg, uint32_t val)
{
    lapic_mmio_write(vcpus[cpu].lapic, reg, 4, val);
}

static int pending(unsigned cpu)
{
    return lapic_pending(vcpus[cpu].lapic);
}

static int ack(unsigned cpu)
{
    return lapic_ack(vcpus[cpu].lapic);
}

static void fixed(unsigned cpu, uint8_t vector)
{
    lapic_msi(&vm, 0xfee00000 | cpu << 12, vector);
}

static uint64_t rdmsr(unsigned cpu, uint32_t msr)
{
    uint64_t val = 0;

    assert_int_equal(lapic_msr_read(vcpus[cpu].lapic, msr, &val), 0);
    return val;
}

static int wrmsr(unsigned cpu, uint32_t msr, uint64_t val)
{
    return lapic_msr_write(vcpus[cpu].lapic, msr, val);
}

static void enter_x2apic(unsigned cpu)
{
    assert_int_equal(wrmsr(cpu, MSR_BASE, rdmsr(cpu, MSR_BASE) | 0x400), 0);
}

static int setup(void **state)
{
    fake_vm_init(&vm, vcpus, CPUS);
    eois = 0;
    assert_int_equal(pic_new(&pic, &vm, NULL), 0);
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(lapic_new(&vcpus[i].lapic, &vcpus[i], i ? NULL : pic, NULL), 0);
        lapic_set_eoi_handler(vcpus[i].lapic, record_eoi, NULL);
        wr(i, SVR, 0x1ff);
    }
    pic_connect(pic, lapic_lint0(vcpus[0].lapic));
    return 0;
}

static int teardown(void **state)
{
    for (unsigned i = 0; i < CPUS; i++)
        lapic_free(vcpus[i].lapic);
    pic_free(pic);
    return 0;
}

static void test_reset_state(void **state)
{
    lapic_reset(vcpus[0].lapic);
    lapic_reset(vcpus[1].lapic);
    assert_int_equal(rdmsr(0, MSR_BASE), 0xfee00900);
    assert_int_equal(rdmsr(1, MSR_BASE), 0xfee00800);
    assert_int_equal(rd(1, ID), 1 << 24);
    assert_int_equal(rd(1, VERSION), 0x01050014);
    assert_int_equal(rd(1, SVR), 0xff);
    assert_int_equal(rd(1, DFR), 0xffffffff);
    assert_int_equal(rd(1, LVT0), 0x10000);
    /* virtual wire on the boot CPU, as firmware leaves it */
    assert_int_equal(rd(0, SVR), 0x1ff);
    assert_int_equal(rd(0, LVT0), 0x700);
    assert_int_equal(rd(0, LVT1), 0x400);
    assert_int_equal(pending(0), -1);
}

static void test_deliver_ack_eoi(void **state)
{
    fixed(1, 0x45);
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_INTR);
    assert_int_equal(rd(1, IRR + 0x20), 1 << 5);
    assert_int_equal(pending(1), 0x45);
    assert_int_equal(pending(1), 0x45); /* no side effects */
    assert_int_equal(ack(1), 0x45);
    assert_int_equal(rd(1, IRR + 0x20), 0);
    assert_int_equal(rd(1, ISR + 0x20), 1 << 5);
    assert_int_equal(rd(1, PPR), 0x40);
    assert_int_equal(pending(1), -1);
    assert_int_equal(ack(1), -1);
    wr(1, EOI, 0);
    assert_int_equal(rd(1, ISR + 0x20), 0);
    assert_int_equal(rd(1, PPR), 0);
    assert_int_equal(eois, 0); /* edge: no broadcast */
    wr(1, EOI, 0);             /* with nothing in service */
}

static void test_priority(void **state)
{
    fixed(1, 0x45);
    assert_int_equal(ack(1), 0x45);
    fixed(1, 0x4f); /* the same class has to wait */
    assert_int_equal(pending(1), -1);
    fixed(1, 0x51);
    assert_int_equal(pending(1), 0x51);
    assert_int_equal(ack(1), 0x51);
    fake_take_events(&vcpus[1]);
    wr(1, EOI, 0);
    assert_int_equal(pending(1), -1);
    assert_int_equal(fake_take_events(&vcpus[1]), 0);
    wr(1, EOI, 0);
    assert_int_equal(pending(1), 0x4f);
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_INTR);
}

static void test_task_priority(void **state)
{
    fixed(1, 0x45);
    wr(1, TPR, 0x4f);
    assert_int_equal(rd(1, PPR), 0x4f);
    assert_int_equal(pending(1), -1);
    assert_int_equal(lapic_get_cr8(vcpus[1].lapic), 4);
    fake_take_events(&vcpus[1]);
    lapic_set_cr8(vcpus[1].lapic, 3);
    assert_int_equal(rd(1, TPR), 0x30);
    assert_int_equal(pending(1), 0x45);
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_INTR);
}

static void test_all_vectors(void **state)
{
    for (unsigned v = 16; v < 256; v++)
        fixed(2, (uint8_t)v);
    for (unsigned v = 255; v >= 16; v--) {
        assert_int_equal(ack(2), v);
        wr(2, EOI, 0);
    }
    assert_int_equal(pending(2), -1);
}

static void test_level_broadcasts_eoi(void **state)
{
    lapic_msi(&vm, 0xfee01000, 0x61 | 3 << 14);
    assert_int_equal(rd(1, TMR + 0x30), 2);
    assert_int_equal(ack(1), 0x61);
    wr(1, EOI, 0);
    assert_int_equal(eois, 1);
    assert_int_equal(eoi_vector, 0x61);
    /* suppressed by SVR bit 12 */
    wr(1, SVR, 0x11ff);
    lapic_msi(&vm, 0xfee01000, 0x61 | 3 << 14);
    assert_int_equal(ack(1), 0x61);
    wr(1, EOI, 0);
    assert_int_equal(eois, 1);
    /* an edge at the same vector clears TMR */
    fixed(1, 0x61);
    assert_int_equal(rd(1, TMR + 0x30), 0);
    /* a level de-assert message is nothing */
    ack(1);
    wr(1, EOI, 0);
    lapic_msi(&vm, 0xfee01000, 0x61 | 1 << 15);
    assert_int_equal(pending(1), -1);
}

static void test_software_disable(void **state)
{
    wr(1, LVTT, 0x000000ef);
    assert_int_equal(rd(1, LVTT), 0xef);
    wr(1, SVR, 0xff);
    assert_int_equal(rd(1, LVTT), 0x100ef);
    wr(1, LVTT, 0xef); /* stays masked */
    assert_int_equal(rd(1, LVTT), 0x100ef);
    fixed(1, 0x45);
    assert_int_equal(pending(1), -1);
    lapic_msi(&vm, 0xfee01000, 4 << 8); /* NMI gets through */
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_NMI);
}

static void test_bad_vector(void **state)
{
    wr(1, LVTE, 0xfe);
    wr(1, ICR_HI, 2 << 24);
    wr(1, ICR, 0x0f); /* sender's error */
    wr(1, ESR, 0);
    assert_int_equal(rd(1, ESR), 0x20);
    assert_int_equal(ack(1), 0xfe);
    wr(1, EOI, 0);
    wr(1, ESR, 0);
    assert_int_equal(rd(1, ESR), 0);
    fixed(1, 0x0f); /* receiver's error */
    wr(1, ESR, 0);
    assert_int_equal(rd(1, ESR), 0x40);
    wr(1, LVTE, 0x02); /* an error vector that is illegal itself */
    fixed(1, 0x0f);
    rd(1, 0x3f0);
    wr(1, ESR, 0);
    assert_int_equal(rd(1, ESR), 0xc0);
}

static void test_icr_physical(void **state)
{
    wr(0, ICR_HI, 2 << 24);
    wr(0, ICR, 0x000c0 | 1 << 14);
    assert_int_equal(pending(2), 0xc0);
    assert_int_equal(pending(0) + pending(1) + pending(3), -3);
    assert_int_equal(rd(0, ICR) & 1 << 12, 0); /* delivered at once */
    wr(0, ICR_HI, 0xffu << 24);
    wr(0, ICR, 0x000c1);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pending(i), 0xc1);
    wr(0, ICR_HI, 77u << 24); /* nobody */
    wr(0, ICR, 0x000f1);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pending(i), 0xc1);
}

static void test_icr_shorthands(void **state)
{
    wr(1, ICR, 1 << 18 | 0x80);
    assert_int_equal(pending(1), 0x80);
    assert_int_equal(pending(0), -1);
    wr(1, ICR, 2 << 18 | 0x90);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pending(i), 0x90);
    wr(1, ICR, 3 << 18 | 0xa0);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pending(i), i == 1 ? 0x90 : 0xa0);
}

static void test_logical_flat(void **state)
{
    for (unsigned i = 0; i < CPUS; i++) {
        wr(i, DFR, 0xffffffff);
        wr(i, LDR, 1u << (24 + i));
    }
    wr(0, ICR_HI, 0x0au << 24);
    wr(0, ICR, 1 << 11 | 0x70);
    assert_int_equal(pending(0), -1);
    assert_int_equal(pending(1), 0x70);
    assert_int_equal(pending(2), -1);
    assert_int_equal(pending(3), 0x70);
}

static void test_logical_cluster(void **state)
{
    static const uint8_t ldr[CPUS] = {0x01, 0x02, 0x11, 0x12};

    for (unsigned i = 0; i < CPUS; i++) {
        wr(i, DFR, 0x0fffffff);
        wr(i, LDR, (uint32_t)ldr[i] << 24);
    }
    lapic_msi(&vm, 0xfee00000 | 0x13 << 12 | 1 << 2, 0x70);
    assert_int_equal(pending(0), -1);
    assert_int_equal(pending(1), -1);
    assert_int_equal(pending(2), 0x70);
    assert_int_equal(pending(3), 0x70);
}

static void test_lowest_priority(void **state)
{
    unsigned got = 0;

    for (unsigned i = 0; i < CPUS; i++)
        wr(i, LDR, 1u << (24 + i));
    wr(0, TPR, 0x20);
    wr(1, TPR, 0x20);
    wr(2, SVR, 0xff); /* does not take part */
    lapic_msi(&vm, 0xfee00000 | 0x0f << 12 | 1 << 2, 1 << 8 | 0x71);
    for (unsigned i = 0; i < CPUS; i++)
        got += pending(i) == 0x71;
    assert_int_equal(got, 1);
    assert_int_equal(pending(3), 0x71);
    /* redirection hint in the address: the same for fixed mode */
    ack(3);
    wr(3, EOI, 0);
    lapic_msi(&vm, 0xfee00000 | 0x0f << 12 | 3 << 2, 0x72);
    assert_int_equal(pending(3), 0x72);
    assert_int_equal(pending(0), -1);
}

/* Linux's wakeup_secondary_cpu_via_init */
static void test_init_sipi(void **state)
{
    wr(0, ICR_HI, 1 << 24);
    wr(0, ICR, 0x0000c500); /* INIT, level, assert */
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_INIT);
    wr(0, ICR, 0x00008500); /* de-assert: ignored */
    assert_int_equal(fake_take_events(&vcpus[1]), 0);
    wr(0, ICR, 0x00000699);
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_SIPI);
    assert_int_equal(vcpus[1].sipi_vector, 0x99);
    wr(0, ICR, 0x00000400);
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_NMI);
    assert_int_equal(fake_take_events(&vcpus[2]), 0);
    wr(0, ICR, 3 << 18 | 4 << 8); /* NMI to the others */
    assert_int_equal(fake_take_events(&vcpus[0]), 0);
    assert_int_equal(fake_take_events(&vcpus[2]), VCPU_EV_NMI);
    assert_int_equal(fake_take_events(&vcpus[3]), VCPU_EV_NMI);
}

static void test_init_resets(void **state)
{
    enter_x2apic(1);
    fixed(1, 0x45);
    assert_int_equal(wrmsr(1, 0x838, 1000), 0);
    lapic_init(vcpus[1].lapic);
    assert_int_equal(pending(1), -1);
    assert_null(vm.clock.armed);
    assert_int_equal(rdmsr(1, MSR_BASE), 0xfee00c00); /* base and mode stay */
    assert_int_equal(rdmsr(1, 0x802), 1);
    assert_int_equal(rdmsr(1, 0x80d), 2);
    assert_int_equal(rdmsr(1, 0x80f), 0xff);
}

static void test_extint(void **state)
{
    static const uint8_t program[][2] = {{0x20, 0x11}, {0x21, 0x30}, {0x21, 4}, {0x21, 1},
                                         {0xa0, 0x11}, {0xa1, 0x38}, {0xa1, 2}, {0xa1, 1}};

    lapic_reset(vcpus[0].lapic);
    for (unsigned i = 0; i < ARRAY_SIZE(program); i++)
        bus_write(&vm.pio, program[i][0], 1, program[i][1]);
    irq_pulse(pic_pin(pic, 0));
    assert_int_equal(fake_take_events(&vcpus[0]), VCPU_EV_INTR);
    wr(0, TPR, 0xff); /* no matter to ExtINT */
    assert_true(pending(0) >= 0);
    assert_int_equal(ack(0), 0x30);
    assert_int_equal(pending(0), -1);
    bus_write(&vm.pio, 0x20, 1, 0x20);
    /* masked LINT0: not accepted, and seen when it is unmasked */
    wr(0, LVT0, 0x10700);
    irq_pulse(pic_pin(pic, 0));
    assert_int_equal(pending(0), -1);
    fake_take_events(&vcpus[0]);
    wr(0, LVT0, 0x700);
    assert_int_equal(fake_take_events(&vcpus[0]), VCPU_EV_INTR);
    assert_int_equal(ack(0), 0x30);
    bus_write(&vm.pio, 0x20, 1, 0x20);
    /* taken back by the mask of the 8259 */
    irq_pulse(pic_pin(pic, 0));
    assert_true(pending(0) >= 0);
    bus_write(&vm.pio, 0x21, 1, 0x01);
    assert_int_equal(pending(0), -1);
    bus_write(&vm.pio, 0x21, 1, 0x00);
    /* with the APIC off LINT0 is the INTR pin */
    assert_int_equal(wrmsr(0, MSR_BASE, 0xfee00100), 0);
    assert_int_equal(ack(0), 0x30);
}

static void test_extint_message(void **state)
{
    bus_write(&vm.pio, 0x20, 1, 0x11);
    bus_write(&vm.pio, 0x21, 1, 0x30);
    bus_write(&vm.pio, 0x21, 1, 4);
    bus_write(&vm.pio, 0x21, 1, 1);
    wr(0, LVT0, 0x10000);
    irq_pulse(pic_pin(pic, 3));
    assert_int_equal(pending(0), -1);
    lapic_msi(&vm, 0xfee00000, 7 << 8);
    assert_true(pending(0) >= 0);
    assert_int_equal(ack(0), 0x33);
    assert_int_equal(pending(0), -1);
    lapic_msi(&vm, 0xfee01000, 7 << 8); /* no 8259 behind that one */
    assert_int_equal(pending(1), -1);
}

static void test_lint0_fixed(void **state)
{
    struct irq_line lint0 = lapic_lint0(vcpus[1].lapic);

    wr(1, LVT0, 0x8051); /* level, fixed */
    irq_set(lint0, true);
    assert_int_equal(ack(1), 0x51);
    wr(1, EOI, 0);
    assert_int_equal(ack(1), 0x51); /* still high */
    irq_set(lint0, false);
    wr(1, EOI, 0);
    assert_int_equal(pending(1), -1);
    wr(1, LVT0, 0x400);
    fake_take_events(&vcpus[1]);
    irq_set(lint0, true);
    assert_int_equal(fake_take_events(&vcpus[1]), VCPU_EV_NMI);
}

static void test_timer_oneshot(void **state)
{
    wr(1, TDCR, 0x3); /* by 16 */
    wr(1, LVTT, 0xec);
    wr(1, TMICT, 1000);
    fake_advance(&vm.clock, 8000);
    assert_int_equal(rd(1, TMCCT), 500);
    assert_int_equal(pending(1), -1);
    fake_advance(&vm.clock, 8000);
    assert_int_equal(rd(1, TMCCT), 0);
    assert_int_equal(ack(1), 0xec);
    wr(1, EOI, 0);
    fake_advance(&vm.clock, 1000000);
    assert_int_equal(pending(1), -1);
    assert_null(vm.clock.armed);
    wr(1, TMICT, 1000);
    wr(1, TMICT, 0); /* stops it */
    assert_null(vm.clock.armed);
    /* masked: counts, doesn't interrupt */
    wr(1, LVTT, 0x100ec);
    wr(1, TMICT, 1000);
    fake_advance(&vm.clock, 16000);
    assert_int_equal(pending(1), -1);
}

/* The count runs out in the mode it ran in, even if the timer's thread comes late. */
static void test_timer_late(void **state)
{
    wr(1, TDCR, 0xb);
    wr(1, LVTT, 0xec);
    wr(1, TMICT, 1000);
    assert_int_equal(fake_advance_limited(&vm.clock, 1000, 0), 0);
    assert_int_equal(rd(1, TMCCT), 0);
    wr(1, LVTT, 1 << 17 | 0xec);
    assert_int_equal(rd(1, TMCCT), 0);
    assert_int_equal(ack(1), 0xec);
    wr(1, EOI, 0);
    fake_advance(&vm.clock, 1000000);
    assert_int_equal(rd(1, TMCCT), 0);
    assert_int_equal(pending(1), -1);
}

static void test_timer_periodic(void **state)
{
    unsigned n = 0;

    wr(1, TDCR, 0xb); /* by 1 */
    wr(1, LVTT, 1 << 17 | 0xec);
    wr(1, TMICT, 1000000);
    for (unsigned i = 0; i < 10; i++) {
        fake_advance(&vm.clock, 1000000);
        n += ack(1) == 0xec;
        wr(1, EOI, 0);
    }
    assert_int_equal(n, 10);
    fake_advance(&vm.clock, 250000);
    assert_int_equal(rd(1, TMCCT), 750000);
    /* a period of one nanosecond must not occupy the host */
    wr(1, TMICT, 1);
    assert_in_range(fake_advance(&vm.clock, 100000000), 1, 2001);
    assert_int_equal(ack(1), 0xec);
    assert_in_range(rd(1, TMCCT), 0, 1);
}

static void test_timer_divide(void **state)
{
    static const uint8_t tdcr[] = {0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa, 0xb};
    static const uint8_t div[] = {2, 4, 8, 16, 32, 64, 128, 1};

    for (unsigned i = 0; i < ARRAY_SIZE(tdcr); i++) {
        wr(1, TDCR, tdcr[i]);
        assert_int_equal(rd(1, TDCR), tdcr[i]);
        wr(1, TMICT, 1000);
        fake_advance(&vm.clock, 100 * div[i]);
        assert_int_equal(rd(1, TMCCT), 900);
    }
    wr(1, TDCR, 0x0); /* while running: what is left now takes twice as long */
    fake_advance(&vm.clock, 200);
    assert_int_equal(rd(1, TMCCT), 800);
}

static void test_timer_deadline(void **state)
{
    uint64_t tsc = clock_tsc(&vm.clock);

    assert_int_equal(wrmsr(1, MSR_DEADLINE, tsc + 1000), 0); /* not in that mode: ignored */
    assert_int_equal(rdmsr(1, MSR_DEADLINE), 0);
    wr(1, LVTT, 2 << 17 | 0xec);
    wr(1, TMICT, 1000);
    assert_null(vm.clock.armed);
    assert_int_equal(wrmsr(1, MSR_DEADLINE, tsc + 1000), 0);
    assert_int_equal(rdmsr(1, MSR_DEADLINE), tsc + 1000);
    fake_advance(&vm.clock, 499);
    assert_int_equal(pending(1), -1);
    fake_advance(&vm.clock, 1);
    assert_int_equal(ack(1), 0xec);
    assert_int_equal(rdmsr(1, MSR_DEADLINE), 0);
    wr(1, EOI, 0);
    /* in the past: at once */
    assert_int_equal(wrmsr(1, MSR_DEADLINE, tsc), 0);
    assert_int_equal(ack(1), 0xec);
    wr(1, EOI, 0);
    /* zero and a change of mode disarm */
    assert_int_equal(wrmsr(1, MSR_DEADLINE, tsc + 5000), 0);
    assert_int_equal(wrmsr(1, MSR_DEADLINE, 0), 0);
    assert_null(vm.clock.armed);
    assert_int_equal(wrmsr(1, MSR_DEADLINE, tsc + 5000), 0);
    wr(1, LVTT, 0xec);
    assert_null(vm.clock.armed);
    assert_int_equal(rdmsr(1, MSR_DEADLINE), 0);
}

/* A timer that was taken off the clock's list may still be called once. */
static void test_timer_late_callback(void **state)
{
    struct vtimer *t;

    wr(1, LVTT, 0xec);
    wr(1, TMICT, 1000);
    t = vm.clock.armed;
    wr(1, TMICT, 0);
    t->fn(t->opaque);
    assert_int_equal(pending(1), -1);
    wr(1, TMICT, 100000);
    t->fn(t->opaque); /* early for the new deadline */
    assert_int_equal(pending(1), -1);
    assert_true(t->armed);
}

static void test_claims(void **state)
{
    struct lapic *l = vcpus[1].lapic;

    assert_true(lapic_claims(l, 0xfee00000));
    assert_true(lapic_claims(l, 0xfee00fff));
    assert_false(lapic_claims(l, 0xfee01000));
    assert_int_equal(wrmsr(1, MSR_BASE, 0xfed00800), 0);
    assert_true(lapic_claims(l, 0xfed00020));
    assert_false(lapic_claims(l, 0xfee00020));
    enter_x2apic(1);
    assert_false(lapic_claims(l, 0xfed00020));
}

static void test_base_transitions(void **state)
{
    assert_int_equal(wrmsr(1, MSR_BASE, 0xfee00400), -1); /* EXTD without EN */
    assert_int_equal(wrmsr(1, MSR_BASE, 0xfee00801), -1); /* reserved */
    assert_int_equal(wrmsr(1, MSR_BASE, 1ull << 60 | 0xfee00800), -1);
    assert_int_equal(wrmsr(1, MSR_BASE, 1ull << 40 | 0xfee00800), -1); /* beyond MAXPHYADDR */
    enter_x2apic(1);
    assert_int_equal(wrmsr(1, MSR_BASE, 0xfee00800), -1); /* back to xAPIC */
    fixed(1, 0x45);
    assert_int_equal(wrmsr(1, MSR_BASE, 0xfee00000), 0); /* off */
    assert_int_equal(pending(1), -1);
    fixed(1, 0x45);
    assert_int_equal(pending(1), -1);
    assert_int_equal(wrmsr(1, MSR_BASE, 0xfee00c00), -1); /* straight to x2APIC */
    assert_int_equal(wrmsr(1, MSR_BASE, 0xfee00900), 0);
    assert_int_equal(rdmsr(1, MSR_BASE), 0xfee00800); /* BSP can't be written */
    assert_int_equal(rd(1, SVR), 0xff);
}

static void test_x2apic_registers(void **state)
{
    uint64_t val;

    assert_int_equal(lapic_msr_read(vcpus[3].lapic, 0x802, &val), -1); /* xAPIC mode */
    enter_x2apic(3);
    assert_int_equal(rdmsr(3, 0x802), 3);
    assert_int_equal(rdmsr(3, 0x803), 0x01050014);
    assert_int_equal(rdmsr(3, 0x80d), 8);
    assert_int_equal(wrmsr(3, 0x808, 0x100), -1);
    assert_int_equal(wrmsr(3, 0x808, 0x20), 0);
    assert_int_equal(rdmsr(3, 0x808), 0x20);
    assert_int_equal(wrmsr(3, 0x808, 0), 0);
    assert_int_equal(wrmsr(3, 0x802, 3), -1);
    assert_int_equal(wrmsr(3, 0x80b, 1), -1);
    assert_int_equal(wrmsr(3, 0x80b, 0), 0);
    assert_int_equal(wrmsr(3, 0x828, 1), -1);
    assert_int_equal(wrmsr(3, 0x828, 0), 0);
    assert_int_equal(wrmsr(3, 0x830, 1 << 20), -1);
    assert_int_equal(wrmsr(3, 0x832, 1 << 15), -1);
    assert_int_equal(wrmsr(3, 0x835, 0x15700), 0); /* read-only bits, as Linux writes them back */
    assert_int_equal(rdmsr(3, 0x835), 0x10700);
    assert_int_equal(wrmsr(3, 0x838, 1ull << 32), -1);
    assert_int_equal(wrmsr(3, 0x839, 0), -1);
    assert_int_equal(lapic_msr_read(vcpus[3].lapic, 0x80b, &val), -1);
    assert_int_equal(lapic_msr_read(vcpus[3].lapic, 0x80e, &val), -1);
    assert_int_equal(lapic_msr_read(vcpus[3].lapic, 0x831, &val), -1);
    assert_int_equal(lapic_msr_read(vcpus[3].lapic, 0x83f, &val), -1);
    assert_int_equal(lapic_msr_read(vcpus[3].lapic, 0x8ff, &val), -1);
    assert_int_equal(lapic_msr_read(vcpus[3].lapic, 0x900, &val), -1);
    assert_true(lapic_has_msr(0x8ff));
    assert_false(lapic_has_msr(0x900));
    assert_true(lapic_has_msr(MSR_BASE));
    assert_true(lapic_has_msr(MSR_DEADLINE));
}

static void test_x2apic_ipi(void **state)
{
    for (unsigned i = 0; i < CPUS; i++)
        enter_x2apic(i);
    assert_int_equal(wrmsr(0, 0x830, 2ull << 32 | 0xc0), 0);
    assert_int_equal(pending(2), 0xc0);
    assert_int_equal(rdmsr(0, 0x830), 2ull << 32 | 0xc0);
    assert_int_equal(wrmsr(0, 0x830, 0xaull << 32 | 1 << 11 | 0xd0), 0); /* logical: 1 and 3 */
    assert_int_equal(pending(1), 0xd0);
    assert_int_equal(pending(2), 0xc0);
    assert_int_equal(pending(3), 0xd0);
    assert_int_equal(wrmsr(0, 0x830, 1ull << 48 | 0xfull << 32 | 1 << 11 | 0xe0),
                     0); /* cluster 1 */
    assert_int_equal(pending(1), 0xd0);
    assert_int_equal(wrmsr(0, 0x830, 0xffull << 32 | 0xe0), 0); /* 255 is one APIC here */
    assert_int_equal(pending(1), 0xd0);
    assert_int_equal(wrmsr(0, 0x830, 0xffffffffull << 32 | 0xe1), 0);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pending(i), 0xe1);
    assert_int_equal(wrmsr(0, 0x83f, 0xf0), 0);
    assert_int_equal(pending(0), 0xf0);
    assert_int_equal(rdmsr(0, 0x830), 0xffffffffull << 32 | 0xe1);
    /* devices address by 8 bits */
    fixed(3, 0xf1);
    assert_int_equal(pending(3), 0xf1);
    fixed(0xff, 0xf2);
    assert_int_equal(pending(0), 0xf2);
    assert_int_equal(pending(3), 0xf2);
}

static void test_pv_ipi(void **state)
{
    assert_int_equal(lapic_pv_ipi(&vm, 0x5, 0, 1, 0xc0), 2); /* 1 and 3 */
    assert_int_equal(pending(0), -1);
    assert_int_equal(pending(1), 0xc0);
    assert_int_equal(pending(2), -1);
    assert_int_equal(pending(3), 0xc0);
    assert_int_equal(lapic_pv_ipi(&vm, UINT64_MAX, UINT64_MAX, 0, 4 << 8), CPUS);
    assert_int_equal(lapic_pv_ipi(&vm, UINT64_MAX, UINT64_MAX, 0xfffffff0, 0xc0), 0);
    assert_true(lapic_pv_ipi(&vm, 1, 0, 0, 1 << 11 | 0xc0) < 0);
    assert_true(lapic_pv_ipi(&vm, 1, 0, 0, 6 << 8 | 0xc0) < 0);
}

static void test_odd_accesses(void **state)
{
    struct lapic *l = vcpus[1].lapic;

    assert_int_equal(lapic_mmio_read(l, ID + 3, 1), 1);
    assert_int_equal(lapic_mmio_read(l, ID + 2, 2), 0x100);
    assert_int_equal(lapic_mmio_read(l, ID + 4, 4), 0);
    assert_int_equal(lapic_mmio_read(l, VERSION, 8), 0x01050014);
    lapic_mmio_write(l, TPR, 1, 0x40);
    lapic_mmio_write(l, TPR + 4, 4, 0x40);
    assert_int_equal(rd(1, TPR), 0);
    lapic_mmio_write(l, TPR, 8, 0x40);
    assert_int_equal(rd(1, TPR), 0x40);
}

static void *storm(void *opaque)
{
    for (unsigned i = 0; i < 100000; i++)
        fixed(1, (uint8_t)(0x30 + i % 8 * 16));
    return NULL;
}

/* Whatever is sent by another thread is seen in the end: no hint is lost. */
static void test_threads(void **state)
{
    pthread_t t;
    int vector;

    assert_int_equal(pthread_create(&t, NULL, storm, NULL), 0);
    for (unsigned i = 0; i < 100000; i++) {
        vector = ack(1);
        if (vector >= 0)
            wr(1, EOI, 0);
    }
    pthread_join(t, NULL);
    while (ack(1) >= 0)
        wr(1, EOI, 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(rd(1, IRR + 16 * i), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        T(test_reset_state),      T(test_deliver_ack_eoi),  T(test_priority),
        T(test_task_priority),    T(test_all_vectors),      T(test_level_broadcasts_eoi),
        T(test_software_disable), T(test_bad_vector),       T(test_icr_physical),
        T(test_icr_shorthands),   T(test_logical_flat),     T(test_logical_cluster),
        T(test_lowest_priority),  T(test_init_sipi),        T(test_init_resets),
        T(test_extint),           T(test_extint_message),   T(test_lint0_fixed),
        T(test_timer_oneshot),    T(test_timer_periodic),   T(test_timer_late),
        T(test_timer_divide),     T(test_timer_deadline),   T(test_timer_late_callback),
        T(test_claims),           T(test_base_transitions), T(test_x2apic_registers),
        T(test_x2apic_ipi),       T(test_pv_ipi),           T(test_odd_accesses),
        T(test_threads),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
