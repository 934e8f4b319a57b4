/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes to pages that are known beforehand, in every way there is. tests/guest/dirty.c looks at the log between the
 * rounds: each ends with a line that lists the pages and waits for a byte on the serial port.
 */
#include "payload.h"

#define PAGES 256

static uint8_t *area;

static void hand_over(const char *pages)
{
    print("DIRTY base=%lx pages=%s\n", (uint64_t)area, pages);
    while (!(inb(0x3fd) & 1))
        pause();
    inb(0x3f8);
}

static volatile uint8_t *page(unsigned n)
{
    return area + n * PAGE;
}

/* Reads and instruction fetches leave pages as they are. */
static void read_all(void)
{
    for (unsigned i = 0; i < PAGES; i++)
        (void)*page(i);
}

static void plain_writes(void)
{
    *page(3) = 1;
    *(volatile uint64_t *)(page(77) + 4088) = 2;
    *(volatile uint16_t *)(page(200) + 17) = 3;
}

static void other_writes(void)
{
    uint64_t to = (uint64_t)page(11) - 16, n = 32, val = 0;

    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(5) : "memory"); /* pages 10 and 11 */
    __asm__ volatile("lock incl %0" : "+m"(*(volatile uint32_t *)page(20)));
    __asm__ volatile("xchg %0, %1" : "+r"(val), "+m"(*(volatile uint64_t *)page(21)));
    *(volatile uint64_t *)(page(32) - 4) = ~0ul; /* 31 and 32 */
    __asm__ volatile("btsl $3, %0" : "+m"(*(volatile uint32_t *)page(40)) : : "cc");
    __asm__ volatile("mov %%rsp, %%rbx; mov %0, %%rsp; push %%rax; mov %%rbx, %%rsp"
                     :
                     : "r"(page(50))
                     : "rbx", "memory"); /* 49 */
}

/* The processor's own: accessed and dirty bits of a page table that lies in the area. */
static void table_writes(void)
{
    uint64_t *pde = pte_at(boot_pml4, TEST_VA, 2);

    *pde = (uint64_t)page(60) | PTE_P | PTE_W;
    *(volatile uint64_t *)page(60) = (uint64_t)page(61) | PTE_P | PTE_W;
    write_cr3(read_cr3());
    hand_over("60");
    (void)*(volatile uint8_t *)TEST_VA; /* A */
    hand_over("60");
    *(volatile uint8_t *)TEST_VA = 1; /* D */
    hand_over("60,61");
    *(volatile uint8_t *)TEST_VA = 2;
    hand_over("60?,61");
    *pde = 0;
    write_cr3(read_cr3());
}

static void dirty(void)
{
    area = page_alloc(PAGES);
    outb(0x3fc, 3); /* RTS: bytes may come */
    hand_over("");  /* the log starts here */
    read_all();
    hand_over("none");
    plain_writes();
    hand_over("3,77,200");
    read_all();
    hand_over("none");
    plain_writes(); /* the same again: their write rights were taken away */
    hand_over("3,77,200");
    for (unsigned i = 0; i < 2; i++) {
        other_writes();
        hand_over("10,11,20,21,31,32,40,49");
    }
    table_writes();
    for (unsigned i = 0; i < PAGES; i += 2)
        *page(i) = 1;
    hand_over("even");
    hand_over("none");
}

const struct test dirty_tests[] = {{"dirty", dirty, 0}, {NULL, NULL, 0}};
