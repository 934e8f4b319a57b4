/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When interrupts, NMIs and single-step traps come: SDM volume 3, 6.7, 6.8, 10.5.4, 17.3.1.4. */
#include "payload.h"

#define VEC_LOW   0x41
#define VEC_HIGH  0x61
#define VEC_TIMER 0x71

#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)

static volatile uint64_t count, rips[64], last_tsc;

static void note_frame(struct frame *f)
{
    if (count < ARRAY_SIZE(rips))
        rips[count] = f->rip;
    last_tsc = rdtsc();
    count++;
}

static void irq_note(struct frame *f)
{
    note_frame(f);
    *lapic(LAPIC_EOI) = 0;
}

/* An interrupt for ourselves that has arrived but waits for IF. */
static void irq_pend(unsigned vector)
{
    ipi(this_cpu()->id, vector);
    while (!(*lapic(0x200 + 0x10 * (vector / 32)) & 1u << vector % 32))
        pause();
}

static void begin(unsigned vector, trap_fn *fn)
{
    irq_off();
    count = 0;
    trap_set(vector, fn);
}

/* ---- STI's and MOV SS's shadows ------------------------------------------------------ */

#define AT(label)      ((uint64_t)(label))
#define RUN_CODE(text) __asm__ volatile(text : : : "memory", "rax", "rcx", "cc")

extern uint8_t sti_after[], sti_hlt_after[], sti_popf_after[], sti_twice_after[];

static void sti_shadow(void)
{
    begin(VEC_LOW, irq_note);
    for (unsigned i = 0; i < 200; i++) {
        count = 0;
        irq_pend(VEC_LOW);
        RUN_CODE("sti; nop; .globl sti_after; sti_after: nop; nop; cli");
        EXPECT(count == 1 && rips[0] == AT(sti_after), "STI: %lu times, rip %lx, not %lx", count,
               rips[0], AT(sti_after));
        irq_pend(VEC_LOW);
        RUN_CODE("sti; cli; nop; nop");
        EXPECT(count == 1, "STI, CLI let it in");
        RUN_CODE("sti; hlt; .globl sti_hlt_after; sti_hlt_after: cli");
        EXPECT(count == 2 && rips[1] == AT(sti_hlt_after), "STI, HLT: %lu times, rip %lx", count,
               rips[1]);
        irq_pend(VEC_LOW);
        RUN_CODE("pushf; orl $0x200, (%%rsp); popf; .globl sti_popf_after; sti_popf_after: "
                 "nop; nop; cli");
        EXPECT(count == 3 && rips[2] == AT(sti_popf_after), "POPF: %lu times, rip %lx", count,
               rips[2]);
        irq_pend(VEC_LOW);
        RUN_CODE("sti; sti; .globl sti_twice_after; sti_twice_after: nop; cli");
        EXPECT(count == 4 && rips[3] == AT(sti_twice_after), "STI twice: %lu times, rip %lx", count,
               rips[3]);
    }
    trap_set(VEC_LOW, NULL);
}

/* The same while another CPU interrupts all the time: never right behind STI or MOV SS. */
extern uint8_t race_sti[], race_ss[];
static volatile bool stop;

static void race_note(struct frame *f)
{
    EXPECT(f->rip != AT(race_sti), "between STI and the next");
    EXPECT(f->rip != AT(race_ss), "between MOV SS and the next");
    count++;
    *lapic(LAPIC_EOI) = 0;
}

static void race_sender(unsigned id)
{
    while (!stop) {
        uint64_t seen = count;

        ipi(0, VEC_LOW);
        for (uint64_t t = rdtsc(); count == seen && rdtsc() - t < tsc_per_ms;)
            pause();
    }
}

static void shadow_race(void)
{
    stop = false;
    begin(VEC_LOW, race_note);
    cpu_start(1, race_sender);
    for (uint64_t n = 1; more(n, 1000000); n++)
        __asm__ volatile("cli; xor %%ecx, %%ecx; sti; .globl race_sti; race_sti: nop; "
                         "mov %w0, %%ss; .globl race_ss; race_ss: nop; cli"
                         :
                         : "a"(SEL_DATA)
                         : "memory", "rcx", "cc");
    EXPECT(count > 0, "no interrupt came");
    note("%lu interrupts", count);
    stop = true;
    cpu_wait(1);
    RUN_CODE("sti; nop; nop; cli"); /* the last one */
    trap_set(VEC_LOW, NULL);
}

/* ---- Single steps ---------------------------------------------------------------------- */

static void step_note(struct frame *f)
{
    note_frame(f);
}

#define TF_ON  "pushf; orl $0x100, (%%rsp); popf; "
#define TF_OFF "pushf; andl $~0x100, (%%rsp); popf; "

static uint64_t read_dr6(void)
{
    uint64_t v;

    __asm__ volatile("mov %%dr6, %0" : "=r"(v));
    return v;
}

/* Traps come after each instruction behind the POPF that set TF, the last POPF included. */
static void expect_steps(const char *what, const uint8_t *from, const uint8_t *lengths, unsigned n)
{
    uint64_t rip = (uint64_t)from;

    EXPECT(count == n, "%s: %lu traps, not %u", what, count, n);
    for (unsigned i = 0; i < n && i < count; i++) {
        rip += lengths[i];
        EXPECT(rips[i] == rip, "%s: trap %u at +%lx, not +%lx", what, i, rips[i] - (uint64_t)from,
               rip - (uint64_t)from);
    }
    EXPECT(read_dr6() & 1u << 14, "%s: DR6 is %lx", what, read_dr6());
    __asm__ volatile("mov %0, %%dr6" : : "r"(0xffff0ff0ul));
}

extern uint8_t step_plain[], step_ss[], step_sti[], step_rep[], step_cpuid[];

static void single_step(void)
{
    uint64_t ss = SEL_DATA, cx = 3, di;
    uint8_t to[8];

    for (unsigned i = 0; i < 100; i++) {
        begin(1, step_note);
        RUN_CODE(TF_ON ".globl step_plain; step_plain: nop; xor %%eax, %%eax; jz 1f; nop; 1: "
                       "push %%rax; pop %%rcx; " TF_OFF "nop");
        expect_steps("plain", step_plain, (uint8_t[]){1, 2, 3, 1, 1, 1, 7, 1}, 8);
        count = 0; /* no trap after MOV SS, one after what follows it */
        __asm__ volatile(TF_ON ".globl step_ss; step_ss: mov %w0, %%ss; nop; nop; " TF_OFF "nop"
                         :
                         : "a"(ss)
                         : "memory", "cc");
        expect_steps("MOV SS", step_ss, (uint8_t[]){3, 1, 1, 7, 1}, 5);
        count = 0; /* STI holds back interrupts, not traps */
        RUN_CODE(TF_ON ".globl step_sti; step_sti: sti; cli; " TF_OFF "nop");
        expect_steps("STI", step_sti, (uint8_t[]){1, 1, 1, 7, 1}, 5);
        count = 0; /* REP: after each iteration */
        cx = 3;
        di = (uint64_t)to;
        __asm__ volatile(TF_ON ".globl step_rep; step_rep: rep stosb; " TF_OFF "nop"
                         : "+c"(cx), "+D"(di)
                         :
                         : "memory", "cc");
        expect_steps("REP STOSB", step_rep, (uint8_t[]){0, 0, 2, 1, 7, 1}, 6);
        count = 0;
        __asm__ volatile(TF_ON ".globl step_cpuid; step_cpuid: cpuid; " TF_OFF "nop"
                         :
                         : "a"(0), "c"(0)
                         : "memory", "cc", "rbx", "rdx");
        expect_steps("CPUID", step_cpuid, (uint8_t[]){2, 1, 7, 1}, 4);
    }
    trap_set(1, NULL);
}

/* ---- HLT ----------------------------------------------------------------------------------- */

extern uint8_t hlt_after[];

static void timer_start(uint32_t mode, uint32_t ticks)
{
    *lapic(LAPIC_DIVIDE) = 0xb; /* by 1 */
    *lapic(LAPIC_TIMER) = mode | VEC_TIMER;
    *lapic(LAPIC_INITIAL) = ticks;
}

static void timer_end(void)
{
    *lapic(LAPIC_INITIAL) = 0;
    *lapic(LAPIC_TIMER) = 1u << 16;
    irq_off();
    trap_set(VEC_TIMER, NULL);
}

static void hlt_wakes(void)
{
    begin(VEC_TIMER, irq_note);
    for (unsigned i = 1; i <= 50; i++) {
        timer_start(0, 200000);
        RUN_CODE("sti; hlt; .globl hlt_after; hlt_after: cli");
        EXPECT(count == i && rips[i - 1] == AT(hlt_after), "round %u: %lu interrupts, rip %lx", i,
               count, rips[i - 1]);
    }
    timer_end();
}

/* ---- NMI ------------------------------------------------------------------------------------- */

static volatile unsigned depth, deepest, nmis;

static void nmi_nest(struct frame *f)
{
    depth++;
    deepest = depth > deepest ? depth : deepest;
    if (++nmis <= 3) /* these wait for IRET; two that wait are one */
        for (unsigned i = 0; i < 2; i++)
            ipi(0, ICR_NMI);
    for (unsigned i = 0; i < 50; i++)
        pause();
    depth--;
}

static void nmi_blocked(void)
{
    for (unsigned round = 0; round < 100; round++) {
        begin(2, nmi_nest);
        depth = deepest = nmis = 0;
        ipi(0, ICR_NMI);
        for (uint64_t t = rdtsc(); nmis < 4 && rdtsc() - t < 1000 * tsc_per_ms;)
            pause();
        EXPECT(nmis == 4 && deepest == 1, "%u NMIs, %u deep", nmis, deepest);
    }
    trap_set(2, NULL);
}

/* Two NMIs at once, from here and from another CPU: the second waits for the first, it is not lost. */
static volatile uint64_t pair_asked, pair_sent;
static volatile bool pair_stop;

static void nmi_count(struct frame *f)
{
    nmis++;
}

static void pair_sender(unsigned id)
{
    while (!pair_stop)
        if (pair_asked > pair_sent) {
            ipi(0, ICR_NMI);
            pair_sent++;
        }
}

static void nmi_pair(void)
{
    begin(2, nmi_count);
    pair_asked = pair_sent = 0;
    pair_stop = false;
    cpu_start(1, pair_sender);
    for (uint64_t n = 1; more(n, 100000); n++) {
        nmis = 0;
        pair_asked = n;
        ipi(0, ICR_NMI);
        for (uint64_t t = rdtsc(); nmis < 2 && rdtsc() - t < 5000 * tsc_per_ms;)
            pause();
        EXPECT(nmis == 2, "%u NMIs of 2 in round %lu", nmis, n);
        while (pair_sent != n)
            pause();
    }
    pair_stop = true;
    cpu_wait(1);
    trap_set(2, NULL);
}

/* An NMI and an interrupt at once: the interrupt follows when the NMI's handler returns, whatever else happens. */
static void both_sender(unsigned id)
{
    while (!pair_stop)
        if (pair_asked > pair_sent) {
            ipi(0, ICR_NMI);
            ipi(0, VEC_LOW);
            pair_sent++;
        }
}

static void nmi_and_irq(void)
{
    begin(VEC_LOW, irq_note);
    trap_set(2, nmi_count);
    pair_asked = pair_sent = 0;
    pair_stop = false;
    cpu_start(1, both_sender);
    irq_on();
    for (uint64_t n = 1; more(n, 20000); n++) {
        nmis = 0;
        count = 0;
        pair_asked = n;
        for (uint64_t t = rdtsc(); (nmis < 1 || count < 1) && rdtsc() - t < 5000 * tsc_per_ms;)
            pause();
        EXPECT(nmis == 1 && count == 1, "%u NMIs and %lu interrupts in round %lu", nmis, count, n);
        while (pair_sent != n)
            pause();
    }
    irq_off();
    pair_stop = true;
    cpu_wait(1);
    trap_set(2, NULL);
    trap_set(VEC_LOW, NULL);
}

/* An NMI wakes a CPU that halts with interrupts off. */
static volatile bool halted, awake;

static void nmi_note(struct frame *f)
{
    nmis++;
}

static void halt_off(unsigned id)
{
    halted = true;
    __asm__ volatile("cli; hlt" : : : "memory");
    awake = true;
}

static void nmi_wakes(void)
{
    if (cpus < 2) {
        skip("one CPU");
        return;
    }
    for (unsigned i = 0; i < 20; i++) {
        begin(2, nmi_note);
        nmis = 0;
        halted = awake = false;
        cpu_start(1, halt_off);
        while (!halted)
            pause();
        for (uint64_t t = rdtsc(); rdtsc() - t < tsc_per_ms;)
            pause();
        EXPECT(!awake, "it did not halt");
        ipi(1, ICR_NMI);
        cpu_wait(1);
        EXPECT(nmis == 1, "%u NMIs", nmis);
    }
    trap_set(2, NULL);
}

/* ---- Priorities ----------------------------------------------------------------------------------- */

static volatile unsigned order[8], in_order;

static void order_note(struct frame *f)
{
    if (in_order < ARRAY_SIZE(order))
        order[in_order++] = (unsigned)f->vector;
    if (f->vector == VEC_LOW) { /* the higher one gets in before our EOI, our own not */
        ipi(0, VEC_LOW);
        ipi(0, VEC_HIGH);
        irq_on();
        for (uint64_t t = rdtsc(); in_order < 2 && rdtsc() - t < 1000 * tsc_per_ms;)
            pause();
        irq_off();
        if (in_order < ARRAY_SIZE(order))
            order[in_order++] = 0;
        if (in_order > 4)
            trap_set(VEC_LOW, irq_note);
    }
    *lapic(LAPIC_EOI) = 0;
}

static void priorities(void)
{
    begin(VEC_LOW, order_note);
    trap_set(VEC_HIGH, order_note);
    in_order = 0;
    ipi(0, VEC_LOW);
    irq_on();
    for (uint64_t t = rdtsc(); in_order < 6 && rdtsc() - t < 1000 * tsc_per_ms;)
        pause();
    irq_off();
    /* low begins, high cuts in, low ends; then low again, which high cuts into */
    EXPECT(in_order >= 6 && order[0] == VEC_LOW && order[1] == VEC_HIGH && order[2] == 0 &&
               order[3] == VEC_LOW,
           "%u: %x %x %x %x %x %x", in_order, order[0], order[1], order[2], order[3], order[4],
           order[5]);
    begin(VEC_LOW, irq_note);
    begin(VEC_HIGH, irq_note);
    write_cr8(VEC_LOW >> 4); /* holds back its class and those below */
    EXPECT(*lapic(LAPIC_TPR) == (VEC_LOW & 0xf0), "TPR is %x", *lapic(LAPIC_TPR));
    irq_pend(VEC_LOW);
    RUN_CODE("sti; nop; nop; cli");
    EXPECT(count == 0, "TPR let it in");
    irq_pend(VEC_HIGH);
    RUN_CODE("sti; nop; nop; cli");
    EXPECT(count == 1, "TPR held back a higher one");
    irq_on();
    write_cr8(0);
    RUN_CODE("nop; nop; cli");
    EXPECT(count == 2, "lowering TPR let nothing in");
    trap_set(VEC_LOW, NULL);
    trap_set(VEC_HIGH, NULL);
}

/* ---- The APIC's timer --------------------------------------------------------------------------- */

/* Ticks of the undivided timer in a millisecond. */
static uint64_t timer_rate(void)
{
    uint64_t t, ticks;

    *lapic(LAPIC_TIMER) = 1u << 16 | VEC_TIMER;
    *lapic(LAPIC_DIVIDE) = 0xb;
    t = rdtsc();
    *lapic(LAPIC_INITIAL) = ~0u;
    while (rdtsc() - t < 20 * tsc_per_ms)
        pause();
    ticks = ~0u - *lapic(LAPIC_CURRENT);
    return ticks * tsc_per_ms / (rdtsc() - t);
}

/* Early never, late by what a busy host may take. */
#define LATE_MS 2000

static void expect_time(const char *what, uint64_t tsc, uint64_t want)
{
    EXPECT(tsc >= want - want / 200 - tsc_per_ms / 50, "%s: too early, %lu us for %lu us", what,
           tsc * 1000 / tsc_per_ms, want * 1000 / tsc_per_ms);
    EXPECT(tsc < want + LATE_MS * tsc_per_ms, "%s: too late, %lu us for %lu us", what,
           tsc * 1000 / tsc_per_ms, want * 1000 / tsc_per_ms);
}

static void wait_count(uint64_t n, uint64_t ms)
{
    irq_on();
    for (uint64_t t = rdtsc(); count < n && rdtsc() - t < ms * tsc_per_ms;)
        pause();
    irq_off();
}

static void timer_once(void)
{
    uint64_t rate = timer_rate(), t;
    struct cpuid hv = cpuid(0x40000010, 0);

    note("%lu kHz", rate);
    if (cpuid(0x40000000, 0).a >= 0x40000010 && hv.b)
        EXPECT(rate > hv.b - hv.b / 50 && rate < hv.b + hv.b / 50, "%lu kHz, CPUID says %u", rate,
               hv.b);
    begin(VEC_TIMER, irq_note);
    for (unsigned div = 0; div < 4; div++) { /* by 2, 4, 8, 16 */
        count = 0;
        timer_start(0, 0);
        *lapic(LAPIC_DIVIDE) = div;
        t = rdtsc();
        *lapic(LAPIC_INITIAL) = (uint32_t)(3 * rate >> (div + 1));
        wait_count(1, 5000);
        EXPECT(count == 1, "divided by %u: %lu interrupts", 2u << div, count);
        expect_time("one shot", last_tsc - t, 3 * tsc_per_ms);
        EXPECT(*lapic(LAPIC_CURRENT) == 0, "it goes on counting");
    }
    wait_count(2, 8);
    EXPECT(count == 1, "it came again");
    timer_end();
}

static void timer_periodic(void)
{
    uint64_t rate = timer_rate(), t;

    begin(VEC_TIMER, irq_note);
    t = rdtsc();
    timer_start(PERIODIC, (uint32_t)(rate * 2));
    wait_count(20, 5000);
    /* One more is let in where the host stood still between the last of them and the look at the count. */
    EXPECT(count == 20 || count == 21, "%lu interrupts", count);
    expect_time("20 periods", last_tsc - t, 2 * count * tsc_per_ms);
    timer_start(1u << 16 | PERIODIC, (uint32_t)rate); /* masked */
    RUN_CODE("sti; nop; nop; cli");                   /* what had come before */
    count = 0;
    wait_count(1, 5);
    EXPECT(count == 0, "it comes though it is masked");
    timer_end();
}

static void timer_deadline(void)
{
    uint64_t at;

    if (!has_deadline()) {
        skip("no TSC deadline");
        return;
    }
    begin(VEC_TIMER, irq_note);
    *lapic(LAPIC_TIMER) = DEADLINE | VEC_TIMER;
    __asm__ volatile("mfence" : : : "memory");
    for (unsigned i = 0; i < 10; i++) {
        count = 0;
        at = rdtsc() + i * tsc_per_ms / 2;
        wrmsr(0x6e0, at);
        wait_count(1, 5000);
        EXPECT(count == 1 && last_tsc >= at, "round %u: %lu interrupts, %lu too early", i, count,
               at - last_tsc);
        EXPECT(last_tsc - at < LATE_MS * tsc_per_ms, "%lu us too late",
               (last_tsc - at) * 1000 / tsc_per_ms);
        EXPECT(rdmsr(0x6e0) == 0, "the deadline stays");
    }
    count = 0;
    at = rdtsc() + 20 * tsc_per_ms;
    wrmsr(0x6e0, at);
    wrmsr(0x6e0, 0);    /* disarms */
    if (rdtsc() < at) { /* else it may have come before */
        wait_count(1, 25);
        EXPECT(count == 0, "it comes though it was disarmed");
    }
    RUN_CODE("sti; nop; nop; cli");
    count = 0;
    wrmsr(0x6e0, 1); /* long past */
    wait_count(1, 5000);
    EXPECT(count == 1, "a deadline in the past: %lu interrupts", count);
    timer_end();
}

/* ---- SWAPGS ------------------------------------------------------------------------------ */

#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u

static void swapgs(void)
{
    uint64_t own = rdmsr(MSR_GS_BASE);

    for (uint64_t i = 0; i < 200; i++) {
        uint64_t other = i << 32 | 0x123, gs, kernel;
        uint8_t carry, overflow;

        wrmsr(MSR_KERNEL_GS_BASE, other);
        __asm__ volatile("swapgs" : : : "memory");
        gs = rdmsr(MSR_GS_BASE);
        kernel = rdmsr(MSR_KERNEL_GS_BASE);
        __asm__ volatile("mov $0x7f, %%al; add $1, %%al; stc; swapgs; cli; setc %0; seto %1"
                         : "=&r"(carry), "=&r"(overflow)
                         :
                         : "rax", "cc", "memory");
        EXPECT(gs == other && kernel == own, "GS %lx, the other %lx", gs, kernel);
        EXPECT(rdmsr(MSR_GS_BASE) == own && rdmsr(MSR_KERNEL_GS_BASE) == other, "not back");
        EXPECT(carry == 1 && overflow == 1, "flags");
    }
}

const struct test irq_tests[] = {
    {"irq-shadow", sti_shadow},
    {"irq-shadow-race", shadow_race, 2},
    {"irq-single-step", single_step},
    {"irq-hlt", hlt_wakes},
    {"irq-nmi-blocked", nmi_blocked},
    {"irq-nmi-pair", nmi_pair, 2},
    {"irq-nmi-and-irq", nmi_and_irq, 2},
    {"irq-nmi-wakes", nmi_wakes, 2},
    {"irq-priorities", priorities},
    {"irq-timer-once", timer_once},
    {"irq-timer-periodic", timer_periodic},
    {"irq-timer-deadline", timer_deadline},
    {"irq-swapgs", swapgs},
    {NULL},
};
