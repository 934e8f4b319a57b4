/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Several CPUs: atomic operations, shoot-downs, code that another CPU changes. */
#include "payload.h"

#define RW       (PTE_P | PTE_W)
#define VEC_TEST 0x51

static struct barrier start;

#define LOAD(p)     __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)

/* ---- Atomic operations ---------------------------------------------------------- */

#define ROUNDS 20000u

static struct {
    uint32_t inc __attribute__((aligned(64)));
    uint64_t add, sub;
    uint16_t add16;
    uint8_t add8, pad[5];
    uint64_t xadd, cmpxchg, cmpxchg8b;
    unsigned __int128 wide;
    uint32_t lock, locked;
    uint64_t bits[MAX_CPUS], shared_bits;
    uint8_t line[128] __attribute__((aligned(64)));
    uint32_t taken[4];
} at __attribute__((aligned(4096)));

static uint8_t seen[MAX_CPUS * ROUNDS / 8];
static uint8_t two_pages[2 * PAGE] __attribute__((aligned(4096)));

static void add_wide(void)
{
    uint64_t lo = (uint64_t)at.wide, hi = (uint64_t)(at.wide >> 64);
    bool done;

    do { /* each half counts, the upper one down */
        __asm__ volatile("lock cmpxchg16b %0; setz %1"
                         : "+m"(at.wide), "=q"(done), "+a"(lo), "+d"(hi)
                         : "b"(lo + 1), "c"(hi - 1)
                         : "cc", "memory");
    } while (!done);
}

static void add_8b(void)
{
    uint64_t old = LOAD(&at.cmpxchg8b);
    bool done;
    uint32_t lo = (uint32_t)old, hi = (uint32_t)(old >> 32);

    do {
        __asm__ volatile("lock cmpxchg8b %0; setz %1"
                         : "+m"(at.cmpxchg8b), "=q"(done), "+a"(lo), "+d"(hi)
                         : "b"(lo + 1), "c"(hi - 1)
                         : "cc", "memory");
    } while (!done);
}

static void lock_inc(void)
{
    uint32_t busy;

    do {
        busy = 1;
        __asm__ volatile("xchg %0, %1" : "+r"(busy), "+m"(at.lock) : : "memory");
        if (busy)
            pause();
    } while (busy);
    at.locked++;
    __asm__ volatile("movl $0, %0" : "=m"(at.lock) : : "memory");
}

static void count_all(unsigned id)
{
    uint64_t *split = (uint64_t *)(at.line + 60), *split_page = (uint64_t *)(two_pages + PAGE - 3);

    barrier(&start, cpus);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t v = 1, old = LOAD(&at.cmpxchg);
        uint64_t bit = (uint64_t)id * ROUNDS + i;
        bool was = false;

        __asm__ volatile("lock incl %0" : "+m"(at.inc));
        __asm__ volatile("lock addq %1, %0" : "+m"(at.add) : "r"((uint64_t)id + 1));
        __asm__ volatile("lock subq $3, %0" : "+m"(at.sub));
        __asm__ volatile("lock addw $1, %0" : "+m"(at.add16));
        __asm__ volatile("lock addb $1, %0" : "+m"(at.add8));
        __asm__ volatile("lock xaddq %0, %1" : "+r"(v), "+m"(at.xadd) : : "memory");
        if (v >= (uint64_t)cpus * ROUNDS)
            fail("XADD gave %lu", v);
        else /* every number once */
            __asm__ volatile("lock btsq %2, %0; setc %1"
                             : "+m"(*(uint64_t *)seen), "=q"(was)
                             : "r"(v)
                             : "memory");
        EXPECT(!was, "XADD gave a number twice, or BTS took the wrong bit");
        while (!__atomic_compare_exchange_n(&at.cmpxchg, &old, old + 1, false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST))
            ;
        __asm__ volatile("lock btcq %1, %0" : "+m"(at.shared_bits) : "r"(bit & 15));
        if (i % 8 == 0) {
            add_wide();
            add_8b();
            lock_inc();
            __asm__ volatile("lock addq $1, %0" : "+m"(*split));
        }
        if (i % 64 == 0)
            __asm__ volatile("lock incq %0" : "+m"(*split_page));
    }
}

static void atomics(void)
{
    uint64_t n = (uint64_t)cpus * ROUNDS, split, split_page;

    memset(&at, 0, sizeof(at));
    memset(seen, 0, sizeof(seen));
    memset(two_pages, 0, sizeof(two_pages));
    run_all(cpus, count_all);
    memcpy(&split, at.line + 60, 8);
    memcpy(&split_page, two_pages + PAGE - 3, 8);
    EXPECT(at.inc == n, "INC: %u", at.inc);
    EXPECT(at.add == (uint64_t)cpus * (cpus + 1) / 2 * ROUNDS, "ADD: %lu", at.add);
    EXPECT(at.sub == 0 - 3 * n, "SUB: %lx", at.sub);
    EXPECT(at.add16 == (uint16_t)n, "ADD of 16 bits: %u", at.add16);
    EXPECT(at.add8 == (uint8_t)n, "ADD of 8 bits: %u", at.add8);
    EXPECT(at.xadd == n, "XADD: %lu", at.xadd);
    EXPECT(at.cmpxchg == n, "CMPXCHG: %lu", at.cmpxchg);
    EXPECT((uint64_t)at.wide == n / 8 && (uint64_t)(at.wide >> 64) == 0 - n / 8,
           "CMPXCHG16B: %lu and %lx", (uint64_t)at.wide, (uint64_t)(at.wide >> 64));
    EXPECT((uint32_t)at.cmpxchg8b == n / 8 &&
               (uint32_t)(at.cmpxchg8b >> 32) == (uint32_t)(0 - n / 8),
           "CMPXCHG8B: %lx", at.cmpxchg8b);
    EXPECT(at.locked == n / 8, "XCHG lock: %u", at.locked);
    EXPECT(at.shared_bits == 0, "BTC: %lx", at.shared_bits);
    EXPECT(split == n / 8, "ADD over two lines: %lu", split);
    EXPECT(split_page == (ROUNDS + 63) / 64 * cpus, "INC over two pages: %lu", split_page);
    for (size_t i = 0; i < n / 8; i++)
        EXPECT(seen[i] == 0xff, "XADD and BTS: byte %lu is %x", i, seen[i]);
}

/* Plain 8-byte stores and loads are never torn, within a line at any alignment. */
static uint8_t plain[64] __attribute__((aligned(64)));
static volatile bool stop;

static void tear_write(unsigned id)
{
    for (uint64_t i = 0; !stop; i++)
        for (unsigned o = 0; o < 7; o++)
            __asm__ volatile("movq %1, (%0)"
                             :
                             : "r"(plain + 9 * o), "r"((i & 1) * ~0ul)
                             : "memory");
}

static void tearing(void)
{
    memset(plain, 0, sizeof(plain));
    stop = false;
    cpu_start(1, tear_write);
    for (unsigned i = 0; i < 1000000; i++) {
        uint64_t v;

        __asm__ volatile("movq (%1), %0" : "=r"(v) : "r"(plain + 9 * (i % 7)) : "memory");
        EXPECT(v == 0 || v == ~0ul, "offset %u: %lx", 9 * (i % 7), v);
    }
    stop = true;
    cpu_wait(1);
}

/* ---- TLB shoot-down --------------------------------------------------------------- */

static volatile uint64_t published, acked;
static volatile uint64_t *const shot = (uint64_t *)TEST_VA;

static void shoot_handler(struct frame *f)
{
    invlpg(TEST_VA);
    __atomic_fetch_add(&acked, 1, __ATOMIC_SEQ_CST);
    *lapic(LAPIC_EOI) = 0;
}

static void shoot(unsigned targets)
{
    uint64_t want = acked + targets;

    invlpg(TEST_VA);
    for (unsigned i = 1; i <= targets; i++)
        ipi(i, VEC_TEST);
    while (LOAD(&acked) < want)
        pause();
}

/* Tight loops, the second kind being one block of straight code that never leaves by itself. */
static void shot_reader(unsigned id)
{
    irq_on();
    while (!stop) {
        uint64_t before = published, v = *shot, after;

        __asm__ volatile("" : : : "memory");
        after = published;
        EXPECT(v >= before && v <= after + 1, "read %lu between %lu and %lu", v, before, after);
        for (unsigned i = 0; i < 100; i++) {
            uint64_t again = *shot;

            EXPECT(again >= v, "read %lu after %lu", again, v);
            v = again;
        }
    }
    irq_off();
}

static void shootdown_read(void)
{
    uint8_t *p = page_alloc(2);
    unsigned targets = cpus - 1;

    stop = false;
    published = 0;
    trap_set(VEC_TEST, shoot_handler);
    map(TEST_VA, p, RW);
    for (unsigned i = 1; i <= targets; i++)
        cpu_start(i, shot_reader);
    for (uint64_t n = 1; more(n, 2000); n++) {
        uint8_t *next = p + n % 2 * PAGE;

        *(volatile uint64_t *)next = n;
        *(volatile uint64_t *)pte_at(boot_pml4, TEST_VA, 1) = (uint64_t)next | PTE_P;
        shoot(targets);
        published = n;
    }
    stop = true;
    for (unsigned i = 1; i <= targets; i++)
        cpu_wait(i);
    trap_set(VEC_TEST, NULL);
}

static void shot_writer(unsigned id)
{
    irq_on();
    while (!stop)
        shot[id]++;
    irq_off();
}

/* After the shoot-down nothing is written to the old page any more. */
static void shootdown_write(void)
{
    uint8_t *p = page_alloc(2), copy[64];
    unsigned targets = cpus - 1;

    stop = false;
    trap_set(VEC_TEST, shoot_handler);
    map(TEST_VA, p, RW);
    for (unsigned i = 1; i <= targets; i++)
        cpu_start(i, shot_writer);
    for (unsigned n = 1; more(n, 1000); n++) {
        uint8_t *old = p + (n - 1) % 2 * PAGE, *next = p + n % 2 * PAGE;

        *(volatile uint64_t *)pte_at(boot_pml4, TEST_VA, 1) = (uint64_t)next | RW;
        shoot(targets);
        memcpy(copy, old, 64);
        for (unsigned i = 0; i < 100; i++)
            pause();
        EXPECT(!memcmp(copy, old, 64), "written to after the shoot-down, round %u", n);
    }
    stop = true;
    for (unsigned i = 1; i <= targets; i++)
        cpu_wait(i);
    trap_set(VEC_TEST, NULL);
}

/* ---- Code changed by another CPU ---------------------------------------------------- */

static uint8_t *code; /* mov $imm, %eax; ret */
static volatile uint64_t wanted, answered, answer;

static void code_begin(void)
{
    code = page_alloc(2);
    memcpy(code, (uint8_t[]){0xb8, 0, 0, 0, 0, 0xc3}, 6);
    stop = false;
    wanted = answered = 0;
}

static uint32_t code_run(const void *at_code)
{
    return ((uint32_t(*)(void))at_code)();
}

static void code_caller(unsigned id)
{
    for (uint64_t n = 1; !stop; n++) {
        while (LOAD(&wanted) < n && !stop)
            pause();
        serialize();
        answer = code_run(code);
        STORE(&answered, n);
    }
}

/* The way of SDM volume 3, 8.1.3: change, tell, the other serializes, then runs it. */
static void cross_modified(void)
{
    code_begin();
    cpu_start(1, code_caller);
    for (uint32_t n = 1; more(n, 5000); n++) {
        memcpy(code + 1, &n, 4);
        STORE(&wanted, n);
        while (LOAD(&answered) < n)
            pause();
        EXPECT(answer == n, "ran the code of round %lu in round %u", answer, n);
    }
    stop = true;
    STORE(&wanted, ~0ul);
    cpu_wait(1);
}

/* An aligned 4-byte immediate changes under a CPU that runs the code all the time. */
static void code_spinner(unsigned id)
{
    uint32_t last = 0;

    irq_on();
    while (!stop) {
        uint64_t before = published;
        uint32_t v = code_run(code + 3);

        EXPECT(v >= last, "went back from %u to %u", last, v);
        EXPECT(v >= before, "still %u after a synchronization at %lu", v, before);
        last = v;
    }
    irq_off();
}

static void sync_handler(struct frame *f)
{
    serialize();
    __atomic_fetch_add(&acked, 1, __ATOMIC_SEQ_CST);
    *lapic(LAPIC_EOI) = 0;
}

static void code_sync(unsigned targets)
{
    uint64_t want = acked + targets;

    for (unsigned i = 1; i <= targets; i++)
        ipi(i, VEC_TEST);
    while (LOAD(&acked) < want)
        pause();
}

static void cross_running(void)
{
    unsigned targets = cpus - 1;

    code_begin();
    memcpy(code + 3, (uint8_t[]){0xb8, 0, 0, 0, 0, 0xc3}, 6);
    published = 0;
    trap_set(VEC_TEST, sync_handler);
    for (unsigned i = 1; i <= targets; i++)
        cpu_start(i, code_spinner);
    for (uint32_t n = 1; more(n, 1500); n++) {
        *(volatile uint32_t *)(code + 4) = n;
        code_sync(targets);
        published = n;
    }
    stop = true;
    for (unsigned i = 1; i <= targets; i++)
        cpu_wait(i);
    trap_set(VEC_TEST, NULL);
}

/* A call site patched as kernels do it: INT3, the tail, the first byte, with IPIs between. */
static uint8_t *callee[2];

static void patch_int3(struct frame *f)
{
    EXPECT(f->rip == (uint64_t)code + 1, "INT3 from %lx", f->rip);
    f->rip = (uint64_t)callee[0];
}

static void patch_spinner(unsigned id)
{
    irq_on();
    while (!stop) {
        uint32_t v = code_run(code);

        EXPECT(v == 100 || v == 101, "the call site led to %u", v);
    }
    irq_off();
}

static void cross_int3(void)
{
    unsigned targets = cpus - 1;

    code_begin();
    for (unsigned i = 0; i < 2; i++) {
        callee[i] = code + PAGE + 64 * i;
        memcpy(callee[i], (uint8_t[]){0xb8, (uint8_t)(100 + i), 0, 0, 0, 0xc3}, 6);
    }
    trap_set(3, patch_int3);
    trap_set(VEC_TEST, sync_handler);
    for (unsigned n = 0; more(n + 1, 400); n++) {
        int32_t rel = (int32_t)(callee[n & 1] - (code + 5));

        *(volatile uint8_t *)code = 0xcc;
        code_sync(n ? targets : 0);
        memcpy(code + 1, &rel, 4);
        code_sync(n ? targets : 0);
        *(volatile uint8_t *)code = 0xe9;
        code_sync(n ? targets : 0);
        EXPECT(code_run(code) == 100 + (n & 1), "round %u", n);
        for (unsigned i = 1; !n && i <= targets; i++)
            cpu_start(i, patch_spinner);
    }
    stop = true;
    for (unsigned i = 1; i <= targets; i++)
        cpu_wait(i);
    trap_set(3, NULL);
    trap_set(VEC_TEST, NULL);
}

/* ---- Accessed and dirty bits against other CPUs ---------------------------------------- */

/* Software changes bits of an entry by locked operations; the walker must lose none of them. */
static void dirty_writer(unsigned id)
{
    while (!stop) {
        invlpg(TEST_VA);
        *(volatile uint8_t *)(TEST_VA + id) = 1;
    }
}

static void dirty_race(void)
{
    uint64_t *pte = pte_at(boot_pml4, TEST_VA, 1), avl = 0;

    map(TEST_VA, page_alloc(1), RW);
    stop = false;
    for (unsigned i = 1; i < cpus; i++)
        cpu_start(i, dirty_writer);
    for (uint64_t n = 1; more(n, 20000); n++)
        for (unsigned k = 0; k < 500; k++) {
            uint64_t old = __atomic_fetch_xor(pte, 1ul << 9, __ATOMIC_SEQ_CST);

            EXPECT((old & 1ul << 9) == avl, "the walker undid a change of the entry");
            avl = ~old & 1ul << 9;
            __atomic_fetch_and(pte, ~(PTE_A | PTE_D), __ATOMIC_SEQ_CST);
        }
    stop = true;
    for (unsigned i = 1; i < cpus; i++)
        cpu_wait(i);
}

/* ---- Interrupts between CPUs -------------------------------------------------------------- */

static volatile uint64_t pings, pongs;

static void ping_handler(struct frame *f)
{
    __atomic_fetch_add(this_cpu()->id ? &pings : &pongs, 1, __ATOMIC_SEQ_CST);
    *lapic(LAPIC_EOI) = 0;
    if (this_cpu()->id)
        ipi(0, VEC_TEST);
}

static void ping_target(unsigned id)
{
    while (!stop)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
}

static void latency(void)
{
    uint64_t begin = rdtsc(), worst = 0, rounds = 1000, done = 0;

    stop = false;
    pings = pongs = 0;
    trap_set(VEC_TEST, ping_handler);
    cpu_start(1, ping_target);
    irq_on();
    for (uint64_t i = 1; more(i, rounds); i++) {
        uint64_t sent = rdtsc(), took;

        ipi(1, VEC_TEST);
        while (LOAD(&pongs) < i)
            pause();
        took = rdtsc() - sent;
        worst = took > worst ? took : worst;
        done = i;
    }
    irq_off();
    begin = (rdtsc() - begin) / done;
    EXPECT(pings == done && pongs == done, "%lu and %lu arrived", pings, pongs);
    EXPECT(begin < 100 * tsc_per_ms, "there and back took %lu us", begin * 1000 / tsc_per_ms);
    note("there and back %lu us, worst %lu us", begin * 1000 / tsc_per_ms,
         worst * 1000 / tsc_per_ms);
    stop = true;
    ipi(1, VEC_WAKE);
    cpu_wait(1);
    trap_set(VEC_TEST, NULL);
}

/* An interrupt between STI and HLT would leave the CPU asleep: STI holds it back until HLT. */
static volatile uint64_t woken;

static void wake_handler(struct frame *f)
{
    STORE(&woken, woken + 1);
    *lapic(LAPIC_EOI) = 0;
}

/* So that the interrupt comes now before, now after, and sometimes in the middle. */
static void delay(uint64_t tsc)
{
    for (uint64_t begin = rdtsc(); rdtsc() - begin < tsc;)
        ;
}

static void sleeper(unsigned id)
{
    for (uint64_t n = 1; !stop; n++) {
        delay(n * 104729 % 15000);
        while (LOAD(&woken) < n)
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        STORE(&answered, n);
    }
}

static void hlt_race(void)
{
    stop = false;
    woken = answered = 0;
    trap_set(VEC_TEST, wake_handler);
    cpu_start(1, sleeper);
    for (uint64_t n = 1; more(n, 50000); n++) {
        uint64_t sent = rdtsc();

        delay(n * 7919 % 8000);
        ipi(1, VEC_TEST);
        while (LOAD(&answered) < n) {
            pause();
            if (rdtsc() - sent < 5000 * tsc_per_ms)
                continue;
            EXPECT(false, "sleeps in round %lu, wake-ups seen: %lu", n, woken);
            ipi(1, VEC_WAKE);
            sent = rdtsc();
        }
    }
    stop = true;
    ipi(1, VEC_TEST);
    cpu_wait(1);
    trap_set(VEC_TEST, NULL);
}

const struct test smp_tests[] = {
    {"smp-atomics", atomics, 2},
    {"smp-tearing", tearing, 2},
    {"smp-shootdown-read", shootdown_read, 2},
    {"smp-shootdown-write", shootdown_write, 2},
    {"smp-cross-modified", cross_modified, 2},
    {"smp-cross-running", cross_running, 2},
    {"smp-cross-int3", cross_int3, 2},
    {"smp-dirty-race", dirty_race, 2},
    {"smp-ipi-latency", latency, 2},
    {"smp-hlt-race", hlt_race, 2},
    {NULL},
};
