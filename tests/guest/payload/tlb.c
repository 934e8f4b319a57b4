/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Invalidation: SDM volume 3, 4.10. What is invalidated must be gone; what is not may be. */
#include "payload.h"

#define RW      (PTE_P | PTE_W)
#define NOFLUSH (1ul << 63)

static uint8_t *numbered(unsigned n)
{
    uint8_t *p = page_alloc(n);

    for (unsigned i = 0; i < n; i++) { /* mov $i, %eax; ret */
        p[i * PAGE] = 0xb8;
        p[i * PAGE + 1] = (uint8_t)i;
        p[i * PAGE + 5] = 0xc3;
    }
    return p;
}

static unsigned read_number(uint64_t va)
{
    return *(volatile uint8_t *)(va + 1);
}

static unsigned run_number(uint64_t va)
{
    return ((unsigned (*)(void))va)();
}

/* Where each access to va leads, be it a read, a write or a fetch. */
static void expect_at(uint64_t va, uint8_t *pages, unsigned n, const char *when)
{
    volatile uint64_t *there = (uint64_t *)(pages + n * PAGE + 64);
    static uint64_t stamp;

    EXPECT(read_number(va) == n, "%s: reads page %u, not %u", when, read_number(va), n);
    EXPECT(run_number(va) == n, "%s: runs page %u, not %u", when, run_number(va), n);
    *(volatile uint64_t *)(va + 64) = ++stamp;
    EXPECT(*there == stamp, "%s: writes another page than %u", when, n);
}

static void set_pte(uint64_t *pml4, uint64_t va, const uint8_t *page, uint64_t flags)
{
    *(volatile uint64_t *)pte_at(pml4, va, 1) = (uint64_t)page | flags;
}

static void by_invlpg(void)
{
    uint8_t *p = numbered(8);

    for (unsigned i = 0; i < 3000; i++) {
        uint64_t va = TEST_VA + i % 3 * 4096 * PAGE; /* may share entries of a direct-mapped TLB */

        set_pte(boot_pml4, va, p + i % 8 * PAGE, RW | (i & 16 ? PTE_G : 0));
        invlpg(va + i % PAGE);
        expect_at(va, p, i % 8, "after INVLPG");
    }
}

/* A table above changes, not the entry itself; also a 2 MiB page that becomes small ones. */
static void upper_levels(void)
{
    uint8_t *p = numbered(8), *big = (uint8_t *)0x3000000;
    uint64_t *pde = pte_at(boot_pml4, TEST_VA, 2), *tables[2] = {page_alloc(1), page_alloc(1)};

    memcpy(big, p + 2 * PAGE, 64);
    tables[0][0] = (uint64_t)p | RW;
    tables[1][0] = (uint64_t)(p + PAGE) | RW;
    for (unsigned i = 0; i < 3000; i++) {
        if (i % 3 == 2)
            *(volatile uint64_t *)pde = (uint64_t)big | RW | PTE_PS;
        else
            *(volatile uint64_t *)pde = (uint64_t)tables[i % 3] | RW;
        if (i & 4)
            invlpg(TEST_VA);
        else
            write_cr3(read_cr3());
        EXPECT(read_number(TEST_VA) == i % 3 && run_number(TEST_VA) == i % 3, "round %u", i);
    }
}

static void by_cr3(void)
{
    uint8_t *p = numbered(8);

    for (unsigned i = 0; i < 3000; i++) {
        set_pte(boot_pml4, TEST_VA, p + i % 8 * PAGE, RW);
        write_cr3(read_cr3());
        expect_at(TEST_VA, p, i % 8, "after MOV to CR3");
    }
}

/* Toggling CR4.PGE, CR0.PG being out of reach, must lose global entries; MOV to CR3 need not. */
static void global_pages(void)
{
    uint8_t *p = numbered(8);

    write_cr4(read_cr4() | CR4_PGE);
    for (unsigned i = 0; i < 1000; i++) {
        unsigned seen, before = i ? (i - 1) % 8 : 0;

        set_pte(boot_pml4, TEST_VA, p + i % 8 * PAGE, RW | PTE_G);
        write_cr3(read_cr3());
        seen = read_number(TEST_VA);
        EXPECT(seen == i % 8 || seen == before, "after MOV to CR3: page %u", seen);
        if (i & 1) {
            write_cr4(read_cr4() & ~CR4_PGE);
            write_cr4(read_cr4() | CR4_PGE);
        } else {
            invlpg(TEST_VA);
        }
        expect_at(TEST_VA, p, i % 8, "after toggling PGE or INVLPG");
        set_pte(boot_pml4, TEST_VA + PAGE, p + i % 7 * PAGE, RW);
        write_cr3(read_cr3());
        expect_at(TEST_VA + PAGE, p, i % 7, "beside a global page");
    }
    write_cr4(read_cr4() & ~CR4_PGE);
}

/* Writes that were good stop being it: entries for writing must go too. */
static uint64_t store_to(uint64_t va)
{
    *(volatile uint64_t *)(va + 64) = va;
    return 0;
}

static void rights_withdrawn(void)
{
    uint8_t *p = numbered(1);

    for (unsigned i = 0; i < 500; i++) {
        map(TEST_VA, p, RW);
        EXPECT(try(store_to, TEST_VA) == NO_TRAP, "a writable page");
        map(TEST_VA, p, PTE_P);
        EXPECT(try(store_to, TEST_VA) == 14 && this_cpu()->error == 3, "no longer writable");
        map(TEST_VA, p, RW | PTE_NX);
        EXPECT(try(store_to, TEST_VA) == NO_TRAP, "writable again");
        EXPECT(try((call_fn *)TEST_VA, 0) == 14 && this_cpu()->error == 17, "no longer code");
        map(TEST_VA, p, 0);
        EXPECT(try(store_to, TEST_VA) == 14 && this_cpu()->error == 2, "gone");
    }
}

/* A page that calls while another is put in its place is not what the call returns to. */
static uint8_t *return_pages;
static unsigned return_to, return_how;

static void moves_the_page(void)
{
    if (return_how == 0)
        return;
    set_pte(boot_pml4, TEST_VA, return_pages + return_to * PAGE, RW);
    if (return_how == 1)
        invlpg(TEST_VA);
    else
        write_cr3(read_cr3());
}

static void returned_elsewhere(void)
{
    /* sub $8, %rsp; call *%rdi; mov $n, %eax; add $8, %rsp; ret */
    static const uint8_t text[] = {0x48, 0x83, 0xec, 8,    0xff, 0xd7, 0xb8, 0,
                                   0,    0,    0,    0x48, 0x83, 0xc4, 8,    0xc3};
    unsigned now = 0;

    return_pages = page_alloc(4);
    for (unsigned i = 0; i < 4; i++) {
        memcpy(return_pages + i * PAGE, text, sizeof(text));
        return_pages[i * PAGE + 7] = (uint8_t)i;
    }
    set_pte(boot_pml4, TEST_VA, return_pages, RW);
    invlpg(TEST_VA);
    for (unsigned i = 0; i < 6000; i++) {
        uint64_t got;

        return_how = i % 3;
        return_to = (now + 1 + i / 3 % 3) % 4;
        got = ((call_fn *)TEST_VA)((uint64_t)moves_the_page);
        now = return_how ? return_to : now;
        EXPECT(got == now, "round %u: page %lu, not %u", i, got, now);
    }
}

/* Returns that no call was made for, to the address that means nothing in particular. */
static void returned_to_0(void)
{
    __asm__ volatile("movb $0xc3, (%0)" : : "r"(0ul) : "memory"); /* ret */
    for (unsigned i = 0; i < 500; i++) {
        uint64_t there = 0;

        invlpg(TEST_VA);
        __asm__ volatile("lea 1f(%%rip), %%rax; push %%rax; push $0; ret; ud2; 1: mov $1, %0"
                         : "+r"(there)
                         :
                         : "rax", "memory");
        EXPECT(there == 1, "round %u", i);
    }
}

/* ---- Process-context identifiers ------------------------------------------------ */

static void invpcid(uint64_t type, uint64_t pcid, uint64_t va)
{
    uint64_t desc[2] = {pcid, va};

    __asm__ volatile("invpcid (%0), %1" : : "r"(desc), "r"(type) : "memory");
}

#define SPACES 3u
static uint64_t *spaces[SPACES];

static void spaces_make(void)
{
    for (unsigned i = 0; i < SPACES; i++) {
        spaces[i] = page_alloc(1);
        memcpy(spaces[i], boot_pml4, PAGE);
        spaces[i][TEST_VA >> 39] = 0;
    }
}

static uint64_t space_cr3(unsigned i)
{
    return (uint64_t)spaces[i] | (i + 1);
}

static void pcid_begin(void)
{
    spaces_make();
    write_cr4(read_cr4() | CR4_PCIDE | CR4_PGE);
}

static void pcid_end(void)
{
    write_cr3((uint64_t)boot_pml4);
    write_cr4(read_cr4() & ~(CR4_PCIDE | CR4_PGE));
}

static void pcid_switch(void)
{
    uint8_t *p = numbered(8);

    if (!has_pcid()) {
        skip("no PCID");
        return;
    }
    pcid_begin();
    for (unsigned i = 0; i < SPACES; i++)
        set_pte(spaces[i], TEST_VA, p + i * PAGE, RW);
    for (unsigned i = 0; i < 4000; i++) {
        unsigned s = i * 7 / 3 % SPACES;

        write_cr3(space_cr3(s) | NOFLUSH);
        expect_at(TEST_VA, p, s, "switched without a flush");
    }
    for (unsigned i = 0; i < 2000; i++) { /* MOV to CR3 flushes the PCID it loads */
        unsigned s = i % SPACES, n = i % 5 + 3;

        set_pte(spaces[s], TEST_VA, p + n * PAGE, RW);
        write_cr3(space_cr3(s));
        expect_at(TEST_VA, p, n, "switched with a flush");
    }
    pcid_end();
}

/* More address spaces than any TLB keeps. */
static void pcid_many(void)
{
    uint8_t *p = numbered(100);
    uint64_t *root = page_alloc(100 * 1);

    if (!has_pcid()) {
        skip("no PCID");
        return;
    }
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned i = 0; i < 100; i++) {
        memcpy(root + i * 512, boot_pml4, PAGE);
        root[i * 512 + (TEST_VA >> 39)] = 0;
        set_pte(root + i * 512, TEST_VA, p + i * PAGE, RW);
        write_cr3((uint64_t)(root + i * 512) | (i + 7));
    }
    for (unsigned i = 0; i < 3000; i++) {
        unsigned s = i * 37 % 100;

        write_cr3((uint64_t)(root + s * 512) | (s + 7) | NOFLUSH);
        expect_at(TEST_VA, p, s, "one of a hundred spaces");
    }
    pcid_end();
}

static uint64_t use_invpcid(uint64_t type)
{
    invpcid(type & 15, type >> 4, type == 0xff0 ? 1ul << 62 : 0);
    return 0;
}

static uint64_t use_cr3(uint64_t v)
{
    write_cr3(v);
    return 0;
}

static uint64_t use_cr4(uint64_t v)
{
    write_cr4(v);
    return 0;
}

static void invpcid_types(void)
{
    uint8_t *p = numbered(8);
    unsigned n = 0;

    if (!has_pcid() || !has_invpcid()) {
        skip("no INVPCID");
        return;
    }
    pcid_begin();
    for (unsigned i = 0; i < SPACES; i++)
        set_pte(spaces[i], TEST_VA, p, RW);
    for (unsigned i = 0; i < 3000; i++) {
        unsigned type = i % 4, here = i / 4 % SPACES, there = i / 5 % SPACES;

        write_cr3(space_cr3(there) | NOFLUSH);
        read_number(TEST_VA);
        run_number(TEST_VA);
        write_cr3(space_cr3(here) | NOFLUSH);
        n = (n + 1) % 8;
        set_pte(spaces[there], TEST_VA, p + n * PAGE, RW);
        invpcid(type, type < 2 ? there + 1 : 0, type ? 0 : TEST_VA);
        write_cr3(space_cr3(there) | NOFLUSH);
        expect_at(TEST_VA, p, n,
                  type == 0   ? "INVPCID of an address"
                  : type == 1 ? "INVPCID of a PCID"
                  : type == 2 ? "INVPCID of all, global too"
                              : "INVPCID of all but global");
        set_pte(spaces[there], TEST_VA, p + n * PAGE, RW);
    }
    write_cr3(space_cr3(0));
    for (unsigned i = 0; i < 500; i++) { /* type 2 loses global entries */
        set_pte(spaces[0], TEST_VA, p + i % 8 * PAGE, RW | PTE_G);
        invpcid(2, 0, 0);
        expect_at(TEST_VA, p, i % 8, "INVPCID of all, a global page");
    }
    EXPECT(try(use_invpcid, 4) == 13, "INVPCID type 4");
    EXPECT(try(use_invpcid, 0x10001) == 13, "INVPCID of a PCID over 4095");
    EXPECT(try(use_invpcid, 0xff0) == 13, "INVPCID of an address that is not canonical");
    pcid_end();
}

static void pcid_faults(void)
{
    if (!has_pcid()) {
        skip("no PCID");
        return;
    }
    EXPECT(try(use_cr3, (uint64_t)boot_pml4 | NOFLUSH) == 13, "NOFLUSH without PCIDE");
    write_cr3((uint64_t)boot_pml4 | 0x18);
    EXPECT(try(use_cr4, read_cr4() | CR4_PCIDE) == 13, "PCIDE with bits of CR3 set");
    write_cr3((uint64_t)boot_pml4);
    EXPECT(try(use_cr4, read_cr4() | CR4_PCIDE) == NO_TRAP, "PCIDE");
    EXPECT(try(use_cr3, (uint64_t)boot_pml4 | NOFLUSH | 5) == NO_TRAP, "NOFLUSH with PCIDE");
    EXPECT(read_cr3() == ((uint64_t)boot_pml4 | 5), "CR3 keeps bit 63: %lx", read_cr3());
    pcid_end();
}

const struct test tlb_tests[] = {
    {"tlb-invlpg", by_invlpg},
    {"tlb-upper-levels", upper_levels},
    {"tlb-cr3", by_cr3},
    {"tlb-global", global_pages},
    {"tlb-rights-withdrawn", rights_withdrawn},
    {"tlb-return", returned_elsewhere},
    {"tlb-return-to-0", returned_to_0},
    {"tlb-pcid-switch", pcid_switch},
    {"tlb-pcid-many", pcid_many},
    {"tlb-invpcid", invpcid_types},
    {"tlb-pcid-faults", pcid_faults},
    {NULL},
};
