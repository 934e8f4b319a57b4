/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A guest without an operating system that tests the processor it runs on. */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE          4096ul

/* ---- Results ---------------------------------------------------------------- */

struct test {
    const char *name;
    void (*run)(void);
    unsigned cpus; /* it takes at least; 0: one */
};
extern const struct test smc_tests[], paging_tests[], tlb_tests[], irq_tests[], debug_tests[],
    keys_tests[], smp_tests[], litmus_tests[], ioevent_tests[], dirty_tests[];

extern unsigned cpus; /* running */

void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The present test has failed; the first reason is kept. Fit for any CPU. */
void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Something worth showing beside the result. */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Cannot be tried here. */
void skip(const char *why);
bool failed(void);
/* Shall round n be tried? Tests whose rounds wait for other CPUs stop after a while, "ms=". */
bool more(uint64_t n, uint64_t rounds);
#define EXPECT(cond, ...)                                                                          \
    do {                                                                                           \
        if (!(cond))                                                                               \
            fail(__VA_ARGS__);                                                                     \
    } while (0)

/* ---- Traps -------------------------------------------------------------------- */

struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};
typedef void trap_fn(struct frame *f);
typedef uint64_t call_fn(uint64_t arg);

struct tss {
    uint32_t pad0;
    uint64_t rsp[3], pad1, ist[7], pad2;
    uint16_t pad3, io;
} __attribute__((packed));

struct cpu {
    struct cpu *self;
    unsigned id;
    uint64_t recover; /* set: where a trap goes on */
    uint64_t result;  /* of what trapped: RAX */
    uint64_t vector, error, cr2, rip;
    void (*volatile work)(unsigned id);
    struct tss tss __attribute__((aligned(16)));
    uint8_t trap_stack[8192] __attribute__((aligned(16)));
} __attribute__((aligned(64)));
extern struct cpu cpu[MAX_CPUS];

static inline struct cpu *this_cpu(void)
{
    struct cpu *c;

    __asm__ volatile("mov %%gs:0, %0" : "=r"(c));
    return c;
}

#define NO_TRAP 256u
/* Call fn; the vector it trapped with or NO_TRAP. The rest is in this_cpu(). */
unsigned try(call_fn *fn, uint64_t arg);
/* The same from level 3, where code must lie on a page for it; VEC_USER_DONE is the good end. */
unsigned try_user(uint64_t fn, uint64_t arg);
/* Who gets a vector instead; NULL: nobody. */
void trap_set(unsigned vector, trap_fn *fn);
extern uint64_t user_flags; /* EFLAGS for level 3, besides IF */
uint64_t call_on(uint64_t fn, uint64_t arg, uint64_t stack);
extern uint8_t user_page[], user_read[], user_write[];

/* ---- Memory --------------------------------------------------------------------- */

#define PTE_P    (1ul << 0)
#define PTE_W    (1ul << 1)
#define PTE_U    (1ul << 2)
#define PTE_A    (1ul << 5)
#define PTE_D    (1ul << 6)
#define PTE_PS   (1ul << 7)
#define PTE_G    (1ul << 8)
#define PTE_NX   (1ul << 63)
#define PTE_ADDR 0x000ffffffffff000ul

#define TEST_VA 0x8000000000ul  /* free for tests; nothing else lies in this PML4 entry */
#define USER_VA 0x10000000000ul /* user_page, for level 3 */

extern uint64_t boot_pml4[];
/* Pages that are all zero, below 4 GiB, where address and physical address are the same. */
void *page_alloc(unsigned n);
void page_reset(void); /* forget all of page_alloc() and everything mapped at TEST_VA */
/* The entry for va at a level (1: page table) under a PML4, made if it is missing. */
uint64_t *pte_at(uint64_t *pml4, uint64_t va, unsigned level);
void map(uint64_t va, const void *page, uint64_t flags); /* and INVLPG */

/* ---- Processor ---------------------------------------------------------------------- */

#define CR0_WP    (1ul << 16)
#define CR4_PGE   (1ul << 7)
#define CR4_PCIDE (1ul << 17)
#define CR4_SMEP  (1ul << 20)
#define CR4_SMAP  (1ul << 21)

#define READ_WRITE_CR(n)                                                                           \
    static inline uint64_t read_cr##n(void)                                                        \
    {                                                                                              \
        uint64_t v;                                                                                \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(v) : : "memory");                             \
        return v;                                                                                  \
    }                                                                                              \
    static inline void write_cr##n(uint64_t v)                                                     \
    {                                                                                              \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(v) : "memory");                                 \
    }
READ_WRITE_CR(0)
READ_WRITE_CR(2)
READ_WRITE_CR(3)
READ_WRITE_CR(4)
READ_WRITE_CR(8)

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port));
}

static inline void outw(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

static inline void wrmsr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}

static inline uint64_t rdmsr(uint32_t msr)
{
    uint32_t lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
    return (uint64_t)hi << 32 | lo;
}

static inline uint64_t rdtsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return (uint64_t)hi << 32 | lo;
}

struct cpuid {
    uint32_t a, b, c, d;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t sub)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d)
                     : "a"(leaf), "c"(sub)
                     : "memory");
    return r;
}

static inline void serialize(void)
{
    cpuid(0, 0);
}

static inline void invlpg(uint64_t va)
{
    __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

static inline void irq_on(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void irq_off(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

extern uint64_t tsc_per_ms; /* measured against the ACPI timer */
bool has_pcid(void), has_invpcid(void), has_smep(void), has_smap(void), has_deadline(void);

/* ---- Local APIC ---------------------------------------------------------------------- */

#define LAPIC_TPR     0x80
#define LAPIC_EOI     0xb0
#define LAPIC_ICR     0x300
#define LAPIC_TIMER   0x320
#define LAPIC_INITIAL 0x380
#define LAPIC_CURRENT 0x390
#define LAPIC_DIVIDE  0x3e0
#define ICR_NMI       0x400u

static inline volatile uint32_t *lapic(unsigned reg)
{
    return (volatile uint32_t *)(0xfee00000ul + reg);
}
void ipi(unsigned to, uint32_t what); /* vector or ICR_NMI */

/* ---- Other CPUs ----------------------------------------------------------------------- */

void cpu_start(unsigned id, void (*fn)(unsigned id)); /* id is not 0; it must be idle */
void cpu_wait(unsigned id);
void run_all(unsigned n, void (*fn)(unsigned id)); /* on CPUs 0 to n-1; back when all are */

struct barrier {
    volatile unsigned in, turn;
};
void barrier(struct barrier *b, unsigned n);

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

#endif
