/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Protection keys of user and supervisor pages: SDM volume 3, 4.6.2; PKRU in the XSAVE area: volume 1, 13.5.7. */
#include "payload.h"

#define PF          14u
#define CR4_OSXSAVE (1ul << 18)
#define CR4_PKE     (1ul << 22)
#define CR4_PKS     (1ul << 24)
#define PKRS        0x6e1u
#define XF_PKRU     (1ul << 9)
#define ERR_P       1ul
#define ERR_W       2ul
#define ERR_U       4ul
#define ERR_PK      32ul
#define KEY         5u

static void wrpkru(uint32_t v)
{
    __asm__ volatile("wrpkru" : : "a"(v), "c"(0), "d"(0) : "memory");
}

static uint32_t rdpkru(void)
{
    uint32_t v, d;

    __asm__ volatile("rdpkru" : "=a"(v), "=d"(d) : "c"(0));
    return v;
}

static uint64_t do_read(uint64_t va)
{
    return *(volatile uint64_t *)va;
}

static uint64_t do_write(uint64_t va)
{
    *(volatile uint64_t *)va = va;
    return 0;
}

static unsigned access(uint64_t va, bool write, bool user)
{
    uint64_t fn = USER_VA + (uint64_t)((write ? user_write : user_read) - user_page);
    unsigned vector = user ? try_user(fn, va) : try(write ? do_write : do_read, va);

    return vector == VEC_USER_DONE ? NO_TRAP : vector;
}

static void set_rights(bool for_user, unsigned deny)
{
    if (for_user)
        wrpkru(deny << 2 * KEY);
    else
        wrmsr(PKRS, deny << 2 * KEY);
}

/* Every way to reach a page, with rights changing while the TLB knows it. */
static void one_page(bool for_user, bool wp, uint64_t va)
{
    static const uint8_t order[] = {0, 1, 0, 2, 3, 2, 1, 3, 0};

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        for (unsigned how = 0; how < 8; how++) {
            bool write = how & 1, user = how & 2, ad = order[i] & 1, wd = order[i] & 2;
            bool key = ad || (wd && write && (user || wp)), rights = user && !for_user;
            uint64_t error = ERR_P | (write ? ERR_W : 0) | (user ? ERR_U : 0) | (key ? ERR_PK : 0);
            unsigned vector;

            set_rights(for_user, order[i]);
            vector = access(va, write, user);
            EXPECT((vector == PF) == (key || rights) && (vector == PF || vector == NO_TRAP),
                   "%s page, WP %u, rights %u, %s %s: vector %u", for_user ? "user" : "system", wp,
                   order[i], user ? "user" : "kernel", write ? "write" : "read", vector);
            if (vector == PF)
                EXPECT(this_cpu()->error == error, "error %lx, not %lx", this_cpu()->error, error);
        }
    set_rights(for_user, 0);
}

static bool have(bool pks)
{
    struct cpuid r = cpuid(7, 0);

    if (r.c >> (pks ? 31 : 3) & 1)
        return true;
    skip("not offered");
    return false;
}

static void rights(bool for_user)
{
    const uint64_t cr0 = read_cr0(), cr4 = read_cr4(), bit = for_user ? CR4_PKE : CR4_PKS;
    uint8_t *p;

    if (!have(!for_user))
        return;
    p = page_alloc(1);
    map(TEST_VA, p, PTE_P | PTE_W | (for_user ? PTE_U : 0) | (uint64_t)KEY << 59);
    for (unsigned wp = 0; wp < 2; wp++) {
        write_cr4(cr4 | bit);
        write_cr0(wp ? cr0 | CR0_WP : cr0 & ~CR0_WP);
        one_page(for_user, wp, TEST_VA);
        set_rights(for_user, 3);
        EXPECT(access(TEST_VA, false, false) == PF, "the key has no effect");
        write_cr4(cr4);
        EXPECT(access(TEST_VA, true, false) == NO_TRAP, "the key counts though it is switched off");
    }
    write_cr4(cr4 | bit);
    set_rights(for_user, 0);
    write_cr4(cr4);
    write_cr0(cr0);
}

static void user_keys(void)
{
    rights(true);
}

static void system_keys(void)
{
    rights(false);
}

/* The instructions where they do not exist, and with operands they do not take. */
static uint64_t do_wrpkru(uint64_t ecx)
{
    __asm__ volatile("wrpkru" : : "a"(0), "c"(ecx), "d"(0) : "memory");
    return 0;
}

static void instructions(void)
{
    const uint64_t cr4 = read_cr4();

    if (!have(false))
        return;
    EXPECT(!(cpuid(7, 0).c & 1u << 4), "OSPKE without CR4.PKE");
    EXPECT(try(do_wrpkru, 0) == 6, "WRPKRU without CR4.PKE: vector %lu", this_cpu()->vector);
    write_cr4(cr4 | CR4_PKE);
    EXPECT(cpuid(7, 0).c & 1u << 4, "no OSPKE with CR4.PKE");
    EXPECT(try(do_wrpkru, 1) == 13, "WRPKRU with ECX 1: vector %lu", this_cpu()->vector);
    wrpkru(0x12345678);
    EXPECT(rdpkru() == 0x12345678, "PKRU is %x", rdpkru());
    wrpkru(0);
    write_cr4(cr4);
}

static uint8_t area[1024] __attribute__((aligned(64)));

static void save(bool compact, uint64_t mask)
{
    memset(area, 0, sizeof(area));
    if (compact)
        __asm__ volatile("xsavec (%0)" : : "r"(area), "a"(mask), "d"(0) : "memory");
    else
        __asm__ volatile("xsave (%0)" : : "r"(area), "a"(mask), "d"(0) : "memory");
}

static void restore(uint64_t mask)
{
    __asm__ volatile("xrstor (%0)" : : "r"(area), "a"(mask), "d"(0) : "memory");
}

static void xsave(void)
{
    const uint64_t cr4 = read_cr4();
    unsigned at;

    if (!have(false))
        return;
    write_cr4(cr4 | CR4_PKE | CR4_OSXSAVE | 0x600);
    at = cpuid(0xd, 9).b;
    EXPECT(cpuid(0xd, 9).a == 8 && at + 8 <= sizeof(area), "%u bytes at %u", cpuid(0xd, 9).a, at);
    __asm__ volatile("xsetbv" : : "a"(XF_PKRU | 3), "c"(0), "d"(0));
    EXPECT(cpuid(0xd, 0).b == at + 8, "the area has %u bytes", cpuid(0xd, 0).b);
    for (unsigned compact = 0; compact < 2; compact++) {
        wrpkru(0x30);
        save(compact, XF_PKRU | 3);
        EXPECT(*(uint32_t *)(area + (compact ? 576 : at)) == 0x30, "not in the area");
        EXPECT(*(uint64_t *)(area + 512) & XF_PKRU, "not marked as used");
        wrpkru(0xc);
        restore(3);
        EXPECT(rdpkru() == 0xc, "restored though it was not asked for");
        restore(XF_PKRU | 3);
        EXPECT(rdpkru() == 0x30, "PKRU is %x", rdpkru());
        wrpkru(0);
        save(compact, XF_PKRU);
        EXPECT(!(*(uint64_t *)(area + 512) & XF_PKRU), "marked as used though it is 0");
        wrpkru(0x30);
        restore(XF_PKRU);
        EXPECT(rdpkru() == 0, "not initialized: %x", rdpkru());
    }
    __asm__ volatile("xsetbv" : : "a"(1), "c"(0), "d"(0));
    write_cr4(cr4);
}

const struct test keys_tests[] = {
    {"keys-user", user_keys},
    {"keys-system", system_keys},
    {"keys-instructions", instructions},
    {"keys-xsave", xsave},
    {NULL},
};
