/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Self-modifying code on one CPU (SDM volume 3, 8.1.3). */
#include "payload.h"

#define RWX (PTE_P | PTE_W)

typedef uint64_t code_fn(uint64_t a, uint64_t b);

/* n pages of RAM at TEST_VA. */
static uint8_t *code_pages(unsigned n)
{
    uint8_t *p = page_alloc(n);

    for (unsigned i = 0; i < n; i++)
        map(TEST_VA + i * PAGE, p + i * PAGE, RWX);
    return (uint8_t *)TEST_VA;
}

static uint64_t run(const void *at, uint64_t a, uint64_t b)
{
    return ((code_fn *)at)(a, b);
}

/* mov $v, %eax; ret */
static void put_const(uint8_t *at, uint32_t v)
{
    uint8_t text[6] = {0xb8, 0, 0, 0, 0, 0xc3};

    memcpy(text + 1, &v, 4);
    memcpy(at, text, sizeof(text));
}

static void store32(void *at, uint32_t v)
{
    __asm__ volatile("movl %1, (%0)" : : "r"(at), "r"(v) : "memory");
}

static void same_page(void)
{
    uint8_t *p = code_pages(1);

    put_const(p, 0);
    for (uint32_t i = 1; i <= 20000; i++) {
        store32(p + 1, i);
        EXPECT(run(p, 0, 0) == i, "immediate %u is not seen", i);
    }
}

/* mov %edi, imm of the mov behind n NOPs; ret: nothing but a store tells the processor. */
static void ahead(void)
{
    uint8_t *p = code_pages(1);

    for (unsigned nops = 0; nops <= 64; nops++) {
        uint32_t disp = nops + 1;
        uint8_t *at = p + nops;

        memset(at, 0x90, 128);
        at[0] = 0x89;
        at[1] = 0x3d;
        memcpy(at + 2, &disp, 4);
        put_const(at + 6 + nops, 0);
        for (uint32_t i = 1; i <= 50; i++)
            EXPECT(run(at, i, 0) == i, "round %u behind %u NOPs", i, nops);
    }
}

/* movb %sil, 1+rel; xor %eax, %eax; inc or dec %eax; ret: an opcode byte, later in the block. */
static void ahead_opcode(void)
{
    static const uint8_t text[] = {0x31, 0xc0, 0x40, 0x88, 0x35, 2,   0,
                                   0,    0,    0x90, 0xff, 0xc0, 0xc3};
    uint8_t *p = code_pages(1);

    memcpy(p, text, sizeof(text));
    for (unsigned i = 0; i < 2000; i++) {
        bool dec = i % 3 == 0;

        EXPECT((uint32_t)run(p, 0, dec ? 0xc8 : 0xc0) == (dec ? ~0u : 1), "round %u", i);
    }
}

/* A loop that counts in the immediate of an add before the store: top: add $0, %eax; incl -x; ... */
static void loop_behind(void)
{
    /* xor eax,eax; mov edi,ecx; top: add $1,eax(imm32); incl imm(rip); dec ecx; jnz top; ret */
    static const uint8_t text[] = {0x31, 0xc0, 0x89, 0xf9, 0x05, 1,    0,    0,    0,    0xff,
                                   0x05, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf1, 0xc3};
    uint8_t *p = code_pages(1);

    memcpy(p, text, sizeof(text));
    for (uint32_t n = 1; n < 200; n++) {
        store32(p + 5, 1);
        EXPECT(run(p, n, 0) == n * (n + 1) / 2, "sum to %u", n);
    }
}

/* A function on one page changes the one it goes on to on the next, at every split of that. */
static void across_pages(void)
{
    uint8_t *p = code_pages(2);

    for (unsigned split = 0; split <= 6; split++) {
        uint8_t *second = p + PAGE - split, *first = second - 8;

        memset(p, 0x90, 2 * PAGE);
        put_const(second, 0);
        first[0] = 0x89; /* mov %edi, 1 + second */
        first[1] = 0x3d;
        memcpy(first + 2, &(uint32_t){3}, 4);
        for (uint32_t i = 1; i <= 300; i++) {
            EXPECT(run(first, i, 0) == i, "stored by the code, split %u round %u", split, i);
            store32(second + 1, ~i);
            EXPECT(run(second, 0, 0) == ~i, "stored from outside, split %u round %u", split, i);
        }
    }
}

/* Counters and a stack in the page of the code that uses them. */
static void mixed_page(void)
{
    /* incq 0x100-7(%rip); push %rdi; pop %rax; add 0x108(%rip), %rax; ret */
    static const uint8_t text[] = {0x48, 0xff, 0x05, 0xf9, 0, 0, 0, 0x57, 0x58,
                                   0x48, 0x03, 0x05, 0xf8, 0, 0, 0, 0xc3};
    uint8_t *p = code_pages(1);
    volatile uint64_t *data = (uint64_t *)(p + 0x100);

    memcpy(p, text, sizeof(text));
    for (uint64_t i = 1; i <= 20000; i++) {
        data[1] = i;
        EXPECT(call_on((uint64_t)p, i, (uint64_t)p + PAGE) == 2 * i, "sum in round %lu", i);
        EXPECT(data[0] == i, "counter is %lu, not %lu", data[0], i);
    }
}

/* The page is written through another address than it runs at. */
static void alias(void)
{
    uint8_t *page = page_alloc(1), *run_at = (uint8_t *)TEST_VA,
            *write_at = (uint8_t *)TEST_VA + 16 * PAGE;

    map(TEST_VA, page, PTE_P);
    map(TEST_VA + 16 * PAGE, page, RWX | PTE_NX);
    map(TEST_VA + 32 * PAGE, page, PTE_P);
    put_const(page, 0);
    for (uint32_t i = 1; i <= 5000; i++) {
        store32((i & 1 ? write_at : page) + 1, i);
        serialize();
        EXPECT(run(run_at, 0, 0) == i, "round %u at the first address", i);
        EXPECT(run(run_at + 32 * PAGE, 0, 0) == i, "round %u at the second address", i);
        EXPECT(run(page, 0, 0) == i, "round %u at the page's own address", i);
    }
}

static void by_string(void)
{
    uint8_t *p = code_pages(3), text[64];

    for (uint32_t i = 1; i <= 3000; i++) {
        uint8_t *at = p + PAGE - 32 + i % 64;
        const void *from = text;
        void *to = at;
        uint64_t n;

        memset(text, 0x90, sizeof(text));
        put_const(text + i % 40, i);
        switch (i % 4) {
        case 0:
            n = 64;
            __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
            break;
        case 1:
            n = 8;
            __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
            break;
        case 2: /* downwards */
            n = 16;
            to = at + 60;
            from = text + 60;
            __asm__ volatile("std; rep movsl; cld" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
            break;
        default:
            for (n = 0; n < 8; n++)
                __asm__ volatile("movsq" : "+D"(to), "+S"(from) : : "memory");
        }
        EXPECT(run(at, 0, 0) == i, "MOVS, round %u", i);
        n = 40;
        to = at;
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0x90) : "memory");
        put_const(at + 40, ~i);
        EXPECT(run(at, 0, 0) == ~i, "STOS, round %u", i);
    }
}

static void by_locked(void)
{
    uint8_t *p = code_pages(1);
    uint32_t *imm = (uint32_t *)(p + 4), v;
    uint64_t lo, hi;

    for (uint32_t i = 1; i <= 2000; i++) {
        put_const(p + 3, i);
        v = i + 1;
        __asm__ volatile("xchg %0, %1" : "+r"(v), "+m"(*imm) : : "memory");
        EXPECT(v == i && run(p + 3, 0, 0) == i + 1, "XCHG, round %u", i);
        __asm__ volatile("lock xadd %0, %1" : "+r"(v), "+m"(*imm) : : "memory");
        EXPECT(v == i + 1 && run(p + 3, 0, 0) == 2 * i + 1, "XADD, round %u", i);
        __asm__ volatile("lock cmpxchg %2, %1"
                         : "+a"((uint32_t){2 * i + 1}), "+m"(*imm)
                         : "r"(7 * i)
                         : "memory");
        EXPECT(run(p + 3, 0, 0) == 7 * i, "CMPXCHG, round %u", i);
        __asm__ volatile("lock orb $0x80, 3(%0)" : : "r"(imm) : "memory");
        EXPECT((uint32_t)run(p + 3, 0, 0) == (7 * i | 1u << 31), "OR, round %u", i);
        __asm__ volatile("lock btrl $31, %0" : "+m"(*imm) : : "memory");
        EXPECT(run(p + 3, 0, 0) == 7 * i, "BTR, round %u", i);
        lo = *(uint64_t *)p;
        hi = *(uint64_t *)(p + 8);
        __asm__ volatile("lock cmpxchg16b (%2)"
                         : "+a"(lo), "+d"(hi)
                         : "r"(p), "b"((lo & 0xffffffff) | (uint64_t)~i << 32), "c"(hi)
                         : "memory");
        EXPECT((uint32_t)run(p + 3, 0, 0) == ~i, "CMPXCHG16B, round %u", i);
    }
}

/* The code's stack is in its own page, and what it pushes are its next instructions. */
static void by_push(void)
{
    uint8_t *p = code_pages(1);

    for (uint32_t i = 1; i <= 1000; i++) {
        /* pop %rcx; push %rdi (8 bytes from +0x38); ... at +0x38: mov $imm, %eax; push %rcx; ret */
        uint64_t insn = 0xb8 | (uint64_t)i << 8 | 0x51ul << 40 | 0xc3ul << 48 | 0x90ul << 56;

        memset(p, 0x90, 0x40);
        memcpy(p, (uint8_t[]){0x59, 0x57}, 2);
        EXPECT(call_on((uint64_t)p, insn, (uint64_t)p + 0x40) == i, "round %u", i);
    }
}

/* One store over the end of a page of data into a page of code, and over two instructions. */
static void crossing_store(void)
{
    uint8_t *p = code_pages(2);

    put_const(p + PAGE - 1 + 1, 0);
    put_const(p + 64, 0);
    memset(p + 60, 0x90, 4);
    for (uint32_t i = 1; i <= 2000; i++) {
        uint64_t v = 0xaaaaaa | 0xb8ul << 24 | (uint64_t)i << 32;

        __asm__ volatile("movq %1, (%0)" : : "r"(p + PAGE - 3), "r"(v) : "memory");
        EXPECT(run(p + PAGE, 0, 0) == i, "over the page's end, round %u", i);
        v = 0x909090 | 0xb8ul << 24 | (uint64_t)i << 32;
        __asm__ volatile("movq %1, (%0)" : : "r"(p + 61), "r"(v) : "memory");
        EXPECT(run(p + 60, 0, 0) == i, "over two instructions, round %u", i);
        p[65 + i % 4] ^= 0x5a;
        EXPECT(run(p + 60, 0, 0) == (i ^ 0x5au << 8 * (i % 4)), "one byte, round %u", i);
    }
}

/* f jumps to g, g is redirected to h and back: linked code must notice. */
static void redirected_jump(void)
{
    uint8_t *p = code_pages(2), *g = p + 0x100;
    uint8_t *h[2] = {p + 0x800, p + PAGE + 0x10};

    memcpy(p, (uint8_t[]){0xe9, 0xfb, 0, 0, 0}, 5); /* jmp g */
    put_const(h[0], 10);
    put_const(h[1], 11);
    for (unsigned i = 0; i < 3000; i++) {
        int32_t rel = (int32_t)(h[i & 1] - (g + 5));

        g[0] = 0xe9;
        store32(g + 1, (uint32_t)rel);
        EXPECT(run(p, 0, 0) == 10 + (i & 1), "round %u", i);
        if (i % 16 == 0) {
            put_const(g, i);
            EXPECT(run(p, 0, 0) == i, "replaced, round %u", i);
        }
    }
}

/* The same address comes to mean another page. */
static void remapped(bool by_cr3)
{
    uint8_t *p = page_alloc(8);

    for (unsigned i = 0; i < 8; i++)
        put_const(p + i * PAGE + 0x20, 100 + i);
    for (unsigned i = 0; i < 4000; i++) {
        unsigned k = i * 5 % 8;

        *(volatile uint64_t *)pte_at(boot_pml4, TEST_VA, 1) = (uint64_t)(p + k * PAGE) | RWX;
        if (by_cr3)
            write_cr3(read_cr3());
        else
            invlpg(TEST_VA);
        EXPECT(run((void *)(TEST_VA + 0x20), 0, 0) == 100 + k, "round %u", i);
        if (i % 7 == 0) {
            store32((void *)(TEST_VA + 0x21), 100 + k);
            EXPECT(run((void *)(TEST_VA + 0x20), 0, 0) == 100 + k, "stored to, round %u", i);
        }
    }
}

static void remapped_invlpg(void)
{
    remapped(false);
}

static void remapped_cr3(void)
{
    remapped(true);
}

/* A jump over a page's end: the second page changes under the first's linked code. */
static void remapped_behind(void)
{
    uint8_t *p = page_alloc(3);

    map(TEST_VA, p, RWX);
    memset(p + PAGE - 16, 0x90, 16);
    p[PAGE - 2] = 0xb8; /* mov $imm, %eax, three bytes of it on the next page */
    p[PAGE - 1] = 0x11;
    for (unsigned k = 1; k <= 2; k++)
        memcpy(p + k * PAGE, (uint8_t[]){(uint8_t)k, 0, 0, 0xc3}, 4);
    for (unsigned i = 0; i < 4000; i++) {
        unsigned k = 1 + (i >> 1 & 1);

        map(TEST_VA + PAGE, p + k * PAGE, RWX);
        EXPECT(run((void *)(TEST_VA + PAGE - 10), 0, 0) == (k << 8 | 0x11), "round %u", i);
    }
}

static uint8_t *return_text;

static void changes_the_return(void)
{
    store32(return_text + 7, *(const volatile uint32_t *)(return_text + 64));
}

/* What a call returns to is changed before it does. */
static void changed_return(void)
{
    /* sub $8, %rsp; call *%rdi; mov $n, %eax; add $8, %rsp; ret */
    static const uint8_t text[] = {0x48, 0x83, 0xec, 8,    0xff, 0xd7, 0xb8, 0,
                                   0,    0,    0,    0x48, 0x83, 0xc4, 8,    0xc3};

    return_text = code_pages(1);
    memcpy(return_text, text, sizeof(text));
    for (uint32_t i = 1; i <= 5000; i++) {
        store32(return_text + 64, i / 4);
        EXPECT(run(return_text, (uint64_t)changes_the_return, 0) == i / 4, "round %u", i);
    }
}

const struct test smc_tests[] = {
    {"smc-same-page", same_page},
    {"smc-ahead", ahead},
    {"smc-ahead-opcode", ahead_opcode},
    {"smc-loop-behind", loop_behind},
    {"smc-across-pages", across_pages},
    {"smc-mixed-page", mixed_page},
    {"smc-alias", alias},
    {"smc-string", by_string},
    {"smc-locked", by_locked},
    {"smc-push", by_push},
    {"smc-crossing-store", crossing_store},
    {"smc-redirected-jump", redirected_jump},
    {"smc-return", changed_return},
    {"smc-remap-invlpg", remapped_invlpg},
    {"smc-remap-cr3", remapped_cr3},
    {"smc-remap-second-page", remapped_behind},
    {NULL},
};
