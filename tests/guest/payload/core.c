/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Start of the machine, traps, memory, other CPUs, results. */
#include "payload.h"

#include <stdarg.h>

#define POOL_BASE 0x1000000ul
#define POOL_END  0x3000000ul
#define PM_TIMER  0x608
#define PM_HZ     3579545ul

unsigned cpus = 1;
uint64_t tsc_per_ms, user_flags;
struct cpu cpu[MAX_CPUS];
extern uint64_t gdt[], start_info;
extern uint8_t trap_entries[], trap_iret[], try_recover[], ap_start[], ap_end[];
uint64_t try_call(call_fn *fn, uint64_t arg, uint64_t *recover);
uint64_t user_enter(uint64_t what);
void cpu_main(unsigned id) __attribute__((noreturn));
void trap(struct frame *f);

static struct {
    uint64_t lo, hi;
} idt[256];
static trap_fn *trap_fns[256];
static uint64_t pool = POOL_BASE, pool_tables;
static volatile unsigned cpus_up;
static uint64_t patience = 200; /* ms; see more() */

static struct {
    const char *name;
    volatile unsigned failed;
    const char *skipped;
    uint64_t begin;
    char text[200], why[200];
} now;

/* ---- Memory and strings --------------------------------------------------- */

void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;

    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return start;
}

void *memset(void *to, int c, size_t n)
{
    void *start = to;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;

    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

void *page_alloc(unsigned n)
{
    uint64_t p = __atomic_fetch_add(&pool, n * PAGE, __ATOMIC_SEQ_CST);

    if (p + n * PAGE > POOL_END) {
        fail("out of pages");
        p = POOL_BASE;
    }
    return memset((void *)p, 0, n * PAGE);
}

void page_reset(void)
{
    pool = pool_tables;
    boot_pml4[TEST_VA >> 39] = 0;
    write_cr3(read_cr3());
}

uint64_t *pte_at(uint64_t *pml4, uint64_t va, unsigned level)
{
    uint64_t *table = pml4;

    for (unsigned l = 4;; l--) {
        uint64_t *e = &table[va >> (12 + 9 * (l - 1)) & 511];

        if (l == level)
            return e;
        if (!(*e & PTE_P))
            *e = (uint64_t)page_alloc(1) | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*e & PTE_ADDR);
    }
}

void map(uint64_t va, const void *page, uint64_t flags)
{
    *(volatile uint64_t *)pte_at(boot_pml4, va, 1) = (uint64_t)page | flags;
    invlpg(va);
}

/* ---- Results ---------------------------------------------------------------- */

static void put_char(char c)
{
    while (!(inb(0x3fd) & 0x20))
        pause();
    outb(0x3f8, (uint8_t)c);
}

static void put_text(const char *s)
{
    for (; *s; s++) {
        if (*s == '\n')
            put_char('\r');
        put_char(*s);
    }
}

static char *put_number(char *p, uint64_t v, unsigned base)
{
    char digits[24];
    unsigned n = 0;

    do
        digits[n++] = "0123456789abcdef"[v % base];
    while (v /= base);
    while (n)
        *p++ = digits[--n];
    return p;
}

/* %s, %u, %x, %lu, %lx. */
static void format(char *p, size_t size, const char *fmt, va_list ap)
{
    char *end = p + size - 32;

    for (; *fmt && p < end; fmt++) {
        bool wide = false;

        if (*fmt != '%') {
            *p++ = *fmt;
            continue;
        }
        if (*++fmt == 'l') {
            wide = true;
            fmt++;
        }
        if (*fmt == 's') {
            for (const char *s = va_arg(ap, const char *); *s && p < end; s++)
                *p++ = *s;
        } else {
            uint64_t v = wide ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);

            p = put_number(p, v, *fmt == 'x' ? 16 : 10);
        }
    }
    *p = 0;
}

void print(const char *fmt, ...)
{
    char text[300];
    va_list ap;

    va_start(ap, fmt);
    format(text, sizeof(text), fmt, ap);
    va_end(ap);
    put_text(text);
}

void fail(const char *fmt, ...)
{
    va_list ap;

    if (__atomic_fetch_add(&now.failed, 1, __ATOMIC_SEQ_CST))
        return;
    va_start(ap, fmt);
    format(now.why, sizeof(now.why), fmt, ap);
    va_end(ap);
}

void note(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    format(now.text, sizeof(now.text), fmt, ap);
    va_end(ap);
}

void skip(const char *why)
{
    now.skipped = why;
}

bool failed(void)
{
    return now.failed;
}

bool more(uint64_t n, uint64_t rounds)
{
    if (n <= rounds && !now.failed && (n <= 4 || rdtsc() - now.begin < patience * tsc_per_ms))
        return true;
    note("%lu rounds", n - 1);
    return false;
}

static __attribute__((noreturn)) void machine_end(bool good)
{
    if (good) {
        outw(0x604, 5 << 10 | 1 << 13);
        outw(0x604, 1 << 13); /* QEMU's PIIX4 numbers its states otherwise */
    }
    outb(0xcf9, 6);
    for (;;)
        __asm__ volatile("cli; hlt");
}

/* ---- Traps -------------------------------------------------------------------- */

static __attribute__((noreturn)) void die(const struct frame *f)
{
    print("not ok %s: CPU %u, unexpected vector %lu error %lx rip %lx cs %lx rsp %lx cr2 %lx\n",
          now.name ? now.name : "start", this_cpu()->id, f->vector, f->error, f->rip, f->cs, f->rsp,
          read_cr2());
    machine_end(false);
}

void trap(struct frame *f)
{
    struct cpu *c = this_cpu();

    if (trap_fns[f->vector]) {
        trap_fns[f->vector](f);
        return;
    }
    if (f->vector == VEC_WAKE) {
        *lapic(LAPIC_EOI) = 0;
        return;
    }
    if (f->vector == 0xff)
        return; /* spurious */
    if (!c->recover || (f->vector >= 32 && f->vector != VEC_USER_DONE))
        die(f);
    c->vector = f->vector;
    c->error = f->error;
    c->rip = f->rip;
    c->cr2 = read_cr2();
    c->result = f->rax;
    f->rip = (uint64_t)try_recover;
    f->rsp = c->recover;
    f->cs = SEL_CODE;
    f->ss = SEL_DATA;
    f->rflags = 2; /* calls that may trap are made with interrupts off */
}

unsigned try(call_fn *fn, uint64_t arg)
{
    struct cpu *c = this_cpu();
    uint64_t rax;

    c->vector = NO_TRAP;
    rax = try_call(fn, arg, &c->recover);
    if (c->vector == NO_TRAP)
        c->result = rax;
    return (unsigned)c->vector;
}

unsigned try_user(uint64_t fn, uint64_t arg)
{
    uint64_t what[4] = {fn, arg, USER_VA + PAGE, user_flags | 0x202};

    return try(user_enter, (uint64_t)what);
}

void trap_set(unsigned vector, trap_fn *fn)
{
    trap_fns[vector] = fn;
}

static void idt_fill(void)
{
    for (unsigned i = 0; i < 256; i++) {
        uint64_t at = (uint64_t)trap_entries + 16 * i;
        unsigned ist = i == 8 ? 1 : 0, dpl = i == VEC_USER_DONE || i == 3 ? 3 : 0;

        idt[i].lo = (at & 0xffff) | SEL_CODE << 16 | (uint64_t)ist << 32 |
                    (uint64_t)(0x8e | dpl << 5) << 40 | (at >> 16 & 0xffff) << 48;
        idt[i].hi = at >> 32;
    }
}

static void cpu_setup(unsigned id)
{
    struct cpu *c = &cpu[id];
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) idtr = {sizeof(idt) - 1, (uint64_t)idt};
    uint64_t tss = (uint64_t)&c->tss, *d = &gdt[SEL_TSS / 8 + 2 * id];

    c->self = c;
    c->id = id;
    c->tss.rsp[0] = (uint64_t)c->trap_stack + 4096;
    c->tss.ist[0] = (uint64_t)c->trap_stack + 8192;
    c->tss.io = sizeof(struct tss);
    d[0] = (sizeof(struct tss) - 1) | (tss & 0xffffff) << 16 | 0x89ul << 40 | (tss >> 24) << 56;
    d[1] = tss >> 32;
    wrmsr(0xc0000101, (uint64_t)c); /* GS */
    __asm__ volatile("lidt %0; ltr %1"
                     :
                     : "m"(idtr), "r"((uint16_t)(SEL_TSS + 16 * id))
                     : "memory");
    *lapic(0xf0) = 0x1ff; /* on, spurious vector 0xff */
    *lapic(LAPIC_TPR) = 0;
}

/* ---- Processor ------------------------------------------------------------------ */

bool has_pcid(void)
{
    return cpuid(1, 0).c >> 17 & 1;
}

bool has_invpcid(void)
{
    return cpuid(7, 0).b >> 10 & 1;
}

bool has_smep(void)
{
    return cpuid(7, 0).b >> 7 & 1;
}

bool has_smap(void)
{
    return cpuid(7, 0).b >> 20 & 1;
}

bool has_deadline(void)
{
    return cpuid(1, 0).c >> 24 & 1;
}

static void tsc_measure(void)
{
    uint32_t start = inl(PM_TIMER), passed;
    uint64_t tsc = rdtsc();

    do
        passed = (inl(PM_TIMER) - start) & 0xffffff;
    while (passed < PM_HZ / 50);
    tsc_per_ms = (rdtsc() - tsc) * PM_HZ / passed / 1000;
}

void ipi(unsigned to, uint32_t what)
{
    *lapic(LAPIC_ICR + 0x10) = to << 24;
    *lapic(LAPIC_ICR) = what | 0x4000;
    while (*lapic(LAPIC_ICR) & 0x1000)
        pause();
}

/* ---- Other CPUs ------------------------------------------------------------------ */

static __attribute__((noreturn)) void cpu_idle(struct cpu *c)
{
    for (;;) {
        irq_off();
        while (!c->work)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        c->work(c->id);
        __atomic_store_n(&c->work, NULL, __ATOMIC_SEQ_CST);
    }
}

void cpu_start(unsigned id, void (*fn)(unsigned id))
{
    __atomic_store_n(&cpu[id].work, fn, __ATOMIC_SEQ_CST);
    ipi(id, VEC_WAKE);
}

void cpu_wait(unsigned id)
{
    while (__atomic_load_n(&cpu[id].work, __ATOMIC_SEQ_CST))
        pause();
}

void run_all(unsigned n, void (*fn)(unsigned id))
{
    for (unsigned i = 1; i < n; i++)
        cpu_start(i, fn);
    fn(0);
    for (unsigned i = 1; i < n; i++)
        cpu_wait(i);
}

void barrier(struct barrier *b, unsigned n)
{
    unsigned turn = __atomic_load_n(&b->turn, __ATOMIC_SEQ_CST);

    if (__atomic_add_fetch(&b->in, 1, __ATOMIC_SEQ_CST) == n) {
        b->in = 0;
        __atomic_store_n(&b->turn, turn + 1, __ATOMIC_SEQ_CST);
        return;
    }
    while (__atomic_load_n(&b->turn, __ATOMIC_SEQ_CST) == turn)
        pause();
}

static void cpus_start(unsigned n)
{
    memcpy((void *)AP_START, ap_start, (size_t)(ap_end - ap_start));
    for (unsigned i = 1; i < n; i++) {
        uint64_t begin = rdtsc();

        ipi(i, 0x500); /* INIT */
        ipi(i, 0x600 | AP_START >> 12);
        while (cpus_up < i) {
            if (rdtsc() - begin > 10000 * tsc_per_ms) {
                print("not ok start: CPU %u does not come\n", i);
                machine_end(false);
            }
            pause();
        }
    }
    cpus = n;
}

/* ---- What to run --------------------------------------------------------------------- */

static const char *argument(const char *line, const char *name)
{
    size_t n = 0;

    while (name[n])
        n++;
    for (; *line; line++)
        if (!memcmp(line, name, n))
            return line + n;
    return NULL;
}

/* Is the test's name on a list like "smc,atomic", each word the beginning of names? */
static bool wanted(const char *list, const char *name)
{
    while (list && *list && *list != ' ') {
        size_t n = 0;

        while (list[n] && list[n] != ',' && list[n] != ' ')
            n++;
        if (!memcmp(list, name, n))
            return true;
        list += n + (list[n] == ',');
    }
    return !list;
}

static void test_run(const struct test *t)
{
    memset(&now, 0, sizeof(now));
    now.name = t->name;
    now.begin = rdtsc();
    page_reset();
    irq_off();
    t->run();
    if (now.failed)
        print("not ok %s: %s (%u times)\n", t->name, now.why, now.failed);
    else if (now.skipped)
        print("skip %s: %s\n", t->name, now.skipped);
    else
        print("ok %s%s%s (%lu ms)\n", t->name, now.text[0] ? ": " : "", now.text,
              (rdtsc() - now.begin) / tsc_per_ms);
}

static void boot_main(void)
{
    static const struct test *const groups[] = {smc_tests,     paging_tests, tlb_tests,
                                                irq_tests,     debug_tests,  keys_tests,
                                                ioevent_tests, smp_tests,    litmus_tests};
    const char *line = (const char *)(uintptr_t) * (uint64_t *)(start_info + 24);
    const char *n = argument(line, "cpus="), *list = argument(line, "tests=");
    const char *ms = argument(line, "ms=");
    unsigned ran = 0;

    for (uint64_t v = 0; ms && *ms >= '0' && *ms <= '9'; patience = v)
        v = 10 * v + (uint64_t)(*ms++ - '0');
    outb(0x21, 0xff); /* no interrupts from the 8259 pair */
    outb(0xa1, 0xff);
    map(USER_VA, user_page, PTE_P | PTE_U);
    pool_tables = pool;
    tsc_measure();
    cpus_start(n ? (unsigned)(*n - '0') : 1);
    if (list && wanted(list, dirty_tests[0].name)) { /* it waits for somebody */
        test_run(dirty_tests);
        ran++;
    }
    for (unsigned g = 0; g < ARRAY_SIZE(groups); g++)
        for (const struct test *t = groups[g]; t->name; t++)
            if (t->cpus <= cpus && wanted(list, t->name)) {
                test_run(t);
                ran++;
            }
    print("done: %u tests, %u CPUs\n", ran, cpus);
    machine_end(true);
}

void cpu_main(unsigned id)
{
    if (!id)
        idt_fill();
    cpu_setup(id);
    if (!id)
        boot_main();
    __atomic_fetch_add(&cpus_up, 1, __ATOMIC_SEQ_CST);
    cpu_idle(&cpu[id]);
}
