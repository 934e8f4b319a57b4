/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Access rights, error codes, CR2, accessed and dirty bits: SDM volume 3, 4.6 to 4.8. */
#include "payload.h"

#define PF 14u

#define ERR_P    1u
#define ERR_W    2u
#define ERR_U    4u
#define ERR_RSVD 8u
#define ERR_I    16u

#define OFF_USER  0x20 /* on a page of code: int $VEC_USER_DONE */
#define OFF_WRITE 0x80 /* where write accesses go */

enum access { READ, WRITE, FETCH };
static const char *const access_names[] = {"read", "write", "fetch"};

static uint64_t do_read(uint64_t va)
{
    return *(volatile uint64_t *)va;
}

static uint64_t do_write(uint64_t va)
{
    *(volatile uint64_t *)va = va;
    return 0;
}

/* With EFLAGS.AC set, STAC and POPF being the two ways. */
static uint64_t do_read_ac(uint64_t va)
{
    uint64_t v;

    __asm__ volatile("stac; mov (%1), %0; clac" : "=r"(v) : "r"(va) : "memory");
    return v;
}

static uint64_t do_write_ac(uint64_t va)
{
    __asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; mov %0, (%0); pushf; "
                     "andl $~0x40000, (%%rsp); popf"
                     :
                     : "r"(va)
                     : "memory");
    return 0;
}

static uint64_t do_fetch(uint64_t va)
{
    __asm__ volatile("call *%0" : : "r"(va) : "memory", "rax");
    return 0;
}

struct result {
    unsigned vector; /* NO_TRAP: none */
    uint64_t error, cr2;
};

static struct result access(uint64_t va, enum access how, bool user, bool ac)
{
    call_fn *const fns[2][3] = {{do_read, do_write, do_fetch}, {do_read_ac, do_write_ac, do_fetch}};
    const uint64_t user_fns[3] = {USER_VA + (uint64_t)(user_read - user_page),
                                  USER_VA + (uint64_t)(user_write - user_page), va + OFF_USER};
    struct result r;

    if (how == WRITE)
        va += OFF_WRITE;
    r.vector = user ? try_user(user_fns[how], va) : try(fns[ac][how], va);
    if (r.vector == VEC_USER_DONE)
        r.vector = NO_TRAP;
    r.error = this_cpu()->error;
    r.cr2 = this_cpu()->cr2;
    return r;
}

static uint8_t *access_pages(unsigned n)
{
    uint8_t *p = page_alloc(n);

    for (unsigned i = 0; i < n; i++) {
        p[i * PAGE] = 0xc3;
        memcpy(p + i * PAGE + OFF_USER, (uint8_t[]){0xcd, VEC_USER_DONE}, 2);
    }
    return p;
}

static uint64_t pte_get(uint64_t *e)
{
    return *(volatile uint64_t *)e;
}

/* What decides over an access. */
struct setup {
    unsigned level; /* of the entry whose rights are varied, the leaf being at level 1 */
    bool big;       /* or a 2 MiB page, level 2 */
    bool wp, smep, smap, ac, user;
    uint64_t rights; /* PTE_P, PTE_W, PTE_U, PTE_NX */
    enum access how;
};

/* SDM volume 3, 4.6.1 and 4.7. */
static bool expected(const struct setup *s, uint64_t *error)
{
    bool for_user = s->rights & PTE_U, good;

    *error = (s->how == WRITE ? ERR_W : 0) | (s->user ? ERR_U : 0) | (s->how == FETCH ? ERR_I : 0);
    if (!(s->rights & PTE_P))
        return false;
    *error |= ERR_P;
    if (s->how == FETCH)
        good = !(s->rights & PTE_NX) && (s->user ? for_user : !(s->smep && for_user));
    else if (s->user)
        good = for_user && (s->how == READ || (s->rights & PTE_W));
    else
        good =
            !(for_user && s->smap && !s->ac) && (s->how == READ || (s->rights & PTE_W) || !s->wp);
    return good;
}

static void describe(const struct setup *s, const char *what, const struct result *r)
{
    fail("%s: level %u%s rights %lx wp %u smep %u smap %u ac %u, %s %s: vector %u error %lx "
         "cr2 %lx",
         what, s->level, s->big ? " (2 MiB)" : "", s->rights, s->wp, s->smep, s->smap, s->ac,
         s->user ? "user" : "kernel", access_names[s->how], r->vector, r->error, r->cr2);
}

static void one_access(const struct setup *s, uint64_t *entry, uint64_t *leaf, uint64_t va)
{
    uint64_t error, before = pte_get(leaf) & ~(PTE_A | PTE_D), set, offset;
    bool good = expected(s, &error);

    *(volatile uint64_t *)leaf = before;
    *(volatile uint64_t *)entry &= ~PTE_A;
    invlpg(va);
    for (unsigned again = 0; again < 2; again++) {
        struct result r = access(va, s->how, s->user, s->ac);

        if (good != (r.vector == NO_TRAP) || (!good && r.vector != PF))
            describe(s, good ? "should have worked" : "should have failed", &r);
        offset = s->how == WRITE ? OFF_WRITE : s->how == FETCH && s->user ? OFF_USER : 0;
        if (!good && (r.error != error || r.cr2 != va + offset))
            describe(s, "reported wrongly", &r);
        set = pte_get(leaf) ^ before;
        if (set != (!good ? 0 : s->how == WRITE ? PTE_A | PTE_D : PTE_A))
            describe(s, set & PTE_D ? "dirty bit" : "accessed bit", &r);
        if (good && !(pte_get(entry) & PTE_A))
            describe(s, "accessed bit above", &r);
    }
}

static void all_accesses(struct setup *s, uint64_t *entry, uint64_t *leaf, uint64_t va)
{
    const uint64_t cr0 = read_cr0(), cr4 = read_cr4();

    for (unsigned mode = 0; mode < 8; mode++) {
        s->wp = mode & 1;
        s->smep = mode & 2;
        s->smap = mode & 4;
        if ((s->smep && !has_smep()) || (s->smap && !has_smap()))
            continue;
        write_cr0(s->wp ? cr0 | CR0_WP : cr0 & ~CR0_WP);
        write_cr4(cr4 | (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0));
        for (unsigned who = 0; who < 3; who++)
            for (s->how = READ; s->how <= FETCH; s->how++) {
                s->user = who == 1;
                s->ac = who == 2;
                if (!s->ac || has_smap())
                    one_access(s, entry, leaf, va);
            }
    }
    write_cr0(cr0);
    write_cr4(cr4);
}

/* Every combination of rights in every place they may be withheld. */
static void rights(void)
{
    uint8_t *big = (uint8_t *)0x3000000, *p;
    struct setup s = {0};

    memset(big, 0, PAGE);
    big[0] = 0xc3;
    memcpy(big + OFF_USER, (uint8_t[]){0xcd, VEC_USER_DONE}, 2);
    for (unsigned place = 0; place < 5; place++)
        for (unsigned bits = 0; bits < 16; bits++) {
            uint64_t *entry, *leaf, all = PTE_P | PTE_W | PTE_U;

            page_reset();
            p = access_pages(1);
            s.big = place == 4;
            s.level = s.big ? 2 : place + 1;
            s.rights = (bits & 7) | (bits & 8 ? PTE_NX : 0);
            leaf = pte_at(boot_pml4, TEST_VA, s.big ? 2 : 1);
            entry = pte_at(boot_pml4, TEST_VA, s.level);
            *leaf = s.big ? (uint64_t)big | PTE_PS | all : (uint64_t)p | all;
            *entry = (*entry & ~all) | s.rights;
            all_accesses(&s, entry, leaf, TEST_VA);
        }
    page_reset();
}

/* Reserved bits, wherever there are any; NX is one while EFER.NXE is off. */
static void reserved(void)
{
    static const struct {
        unsigned level;
        uint64_t bits;
    } cases[] = {
        {1, 1ul << 51},
        {2, 1ul << 51},
        {3, 1ul << 51},
        {4, 1ul << 51},
        {4, PTE_PS},
        {1, 1ul << 48},
        {2, PTE_PS | 1ul << 13},
        {2, PTE_PS | 1ul << 20},
        {1, PTE_NX},
        {2, PTE_NX},
        {3, PTE_NX},
        {4, PTE_NX},
    };
    const uint64_t efer = rdmsr(0xc0000080);

    if ((cpuid(0x80000008, 0).a & 0xff) > 48) {
        skip("addresses are too wide");
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        for (enum access how = READ; how <= FETCH; how++)
            for (unsigned user = 0; user < 2; user++) {
                bool nx = cases[i].bits == PTE_NX;
                uint64_t error = ERR_P | ERR_RSVD | (how == WRITE ? ERR_W : 0) |
                                 (user ? ERR_U : 0) | (how == FETCH && !nx ? ERR_I : 0);
                struct result r;

                page_reset();
                map(TEST_VA, access_pages(1), PTE_P | PTE_W | PTE_U);
                *pte_at(boot_pml4, TEST_VA, cases[i].level) |= cases[i].bits;
                write_cr3(read_cr3());
                if (nx)
                    wrmsr(0xc0000080, efer & ~0x800ul);
                r = access(TEST_VA, how, user, false);
                wrmsr(0xc0000080, efer);
                EXPECT(r.vector == PF && r.error == error,
                       "level %u bits %lx %s: vector %u error %lx, not %lx", cases[i].level,
                       cases[i].bits, access_names[how], r.vector, r.error, error);
            }
    page_reset();
}

/* The processor's own accesses to tables are supervisor ones for which EFLAGS.AC does not count. */
static uint64_t load_from_ldt(uint64_t ac)
{
    if (ac)
        __asm__ volatile("stac; mov %0, %%ds; clac" : : "r"(4) : "memory");
    else
        __asm__ volatile("mov %0, %%ds" : : "r"(4) : "memory");
    return 0;
}

static void implicit(void)
{
    extern uint64_t gdt[];
    const unsigned slot = SEL_TSS / 8 + 2 * (MAX_CPUS - 1); /* of a TSS that is loaded already */
    uint64_t *ldt = page_alloc(1), kept[2] = {gdt[slot], gdt[slot + 1]};
    const uint64_t cr4 = read_cr4();

    if (!has_smap()) {
        skip("no SMAP");
        return;
    }
    gdt[slot] = 7 | (TEST_VA & 0xffffff) << 16 | 0x82ul << 40 | (TEST_VA >> 24 & 0xff) << 56;
    gdt[slot + 1] = TEST_VA >> 32;
    __asm__ volatile("lldt %w0" : : "r"(slot * 8) : "memory");
    for (unsigned i = 0; i < 16; i++) {
        bool user = i & 1, smap = i & 2, ac = i & 4, accessed = i & 8;
        unsigned vector, want = user && smap ? PF : NO_TRAP;

        ldt[0] = 0x00cf92000000ffff | (accessed ? 1ul << 40 : 0);
        map(TEST_VA, ldt, PTE_P | PTE_W | (user ? PTE_U : 0));
        write_cr4(smap ? cr4 | CR4_SMAP : cr4);
        vector = try(load_from_ldt, ac);
        write_cr4(cr4);
        EXPECT(vector == want && (vector == NO_TRAP || this_cpu()->error == ERR_P),
               "user %u smap %u ac %u: vector %u error %lx", user, smap, ac, vector,
               this_cpu()->error);
        EXPECT((ldt[0] >> 40 & 1) == (accessed || want == NO_TRAP),
               "the descriptor's accessed bit");
        __asm__ volatile("mov %0, %%ds" : : "r"(0) : "memory");
    }
    __asm__ volatile("lldt %w0" : : "r"(0) : "memory");
    gdt[slot] = kept[0];
    gdt[slot + 1] = kept[1];
}

/* ---- Operands over the end of a page ----------------------------------------- */

static uint8_t *crossing_code;

static uint64_t call_code(uint64_t va)
{
    uint64_t rax = va, rsi = TEST_VA + 16 * PAGE, rdi = va, rcx = 2;

    __asm__ volatile("call *%4"
                     : "+a"(rax), "+S"(rsi), "+D"(rdi), "+c"(rcx)
                     : "r"(crossing_code)
                     : "memory", "rdx", "rbx", "cc");
    return rcx;
}

struct operand {
    const char *name;
    uint8_t text[8];
    uint8_t len, size;
    bool write;
};

static const struct operand operands[] = {
    {"mov r64, m", {0x48, 0x8b, 0x07}, 3, 8, false},
    {"mov m, r64", {0x48, 0x89, 0x07}, 3, 8, true},
    {"mov m, r32", {0x89, 0x07}, 2, 4, true},
    {"mov m, r16", {0x66, 0x89, 0x07}, 3, 2, true},
    {"mov m, imm32", {0xc7, 0x07, 1, 2, 3, 4}, 6, 4, true},
    {"add m, r64", {0x48, 0x01, 0x07}, 3, 8, true},
    {"add r64, m", {0x48, 0x03, 0x07}, 3, 8, false},
    {"cmp m, r64", {0x48, 0x39, 0x07}, 3, 8, false},
    {"inc m32", {0xff, 0x07}, 2, 4, true},
    {"not m64", {0x48, 0xf7, 0x17}, 3, 8, true},
    {"shl m64", {0x48, 0xd1, 0x27}, 3, 8, true},
    {"xchg m, r64", {0x48, 0x87, 0x07}, 3, 8, true},
    {"lock xadd m, r64", {0xf0, 0x48, 0x0f, 0xc1, 0x07}, 5, 8, true},
    {"cmpxchg m, r64", {0x48, 0x0f, 0xb1, 0x0f}, 4, 8, true},
    {"lock cmpxchg8b m", {0xf0, 0x0f, 0xc7, 0x0f}, 4, 8, true},
    {"bts m64, 3", {0x48, 0x0f, 0xba, 0x2f, 3}, 5, 8, true},
    {"stosq", {0x48, 0xab}, 2, 8, true},
    {"movsq", {0x48, 0xa5}, 2, 8, true},
    {"movups xmm0, m", {0x0f, 0x10, 0x07}, 3, 16, false},
    {"movups m, xmm0", {0x0f, 0x11, 0x07}, 3, 16, true},
    {"sgdt m", {0x0f, 0x01, 0x07}, 3, 10, true},
};

/* The first or the second of the two pages fails; nothing must have been written. */
static void crossing_one(const struct operand *o, uint8_t *p, unsigned before, bool second,
                         bool read_only)
{
    uint64_t va = TEST_VA + PAGE - before, flags = read_only ? PTE_P : 0;
    uint64_t error = (o->write ? ERR_W : 0) | (read_only ? ERR_P : 0);
    uint64_t cr2 = second ? TEST_VA + PAGE : va;
    unsigned vector;

    map(TEST_VA, p, second ? PTE_P | PTE_W : flags);
    map(TEST_VA + PAGE, p + PAGE, second ? flags : PTE_P | PTE_W);
    memset(p + PAGE - 32, 0x77, 64);
    memcpy(crossing_code, o->text, o->len);
    crossing_code[o->len] = 0xc3;
    vector = try(call_code, va);
    EXPECT(vector == PF, "%s: no fault", o->name);
    EXPECT(this_cpu()->cr2 == cr2, "%s: cr2 is %lx, not %lx", o->name, this_cpu()->cr2, cr2);
    EXPECT(this_cpu()->error == error, "%s: error %lx", o->name, this_cpu()->error);
    EXPECT(this_cpu()->rip == (uint64_t)crossing_code, "%s: rip", o->name);
    for (int i = -32; i < 32; i++)
        EXPECT(p[(int)PAGE + i] == 0x77, "%s: wrote before it failed", o->name);
    EXPECT(!(*pte_at(boot_pml4, TEST_VA + (second ? PAGE : 0), 1) & (PTE_A | PTE_D)),
           "%s: accessed or dirty though it failed", o->name);
}

static void crossing(void)
{
    uint8_t *p = page_alloc(2);

    crossing_code = page_alloc(1);
    write_cr4(read_cr4() | 0x600); /* OSFXSR, OSXMMEXCPT */
    map(TEST_VA + 16 * PAGE, page_alloc(1), PTE_P);
    for (unsigned i = 0; i < ARRAY_SIZE(operands); i++)
        for (unsigned before = 1; before < operands[i].size; before++)
            for (unsigned how = 0; how < 4; how++)
                if (operands[i].write || !(how & 2))
                    crossing_one(&operands[i], p, before, how & 1, how & 2);
}

/* An instruction that begins on one page and ends on one that is not there. */
static void crossing_fetch(void)
{
    static const uint8_t insn[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3}; /* mov $imm64 */
    uint8_t *p = page_alloc(2);

    for (unsigned before = 1; before < 10; before++) {
        uint64_t va = TEST_VA + PAGE - before;
        unsigned vector;

        memcpy(p + PAGE - before, insn, sizeof(insn));
        map(TEST_VA, p, PTE_P);
        for (unsigned nx = 0; nx < 2; nx++) {
            map(TEST_VA + PAGE, p + PAGE, nx ? PTE_P | PTE_NX : 0);
            vector = try(do_fetch, va);
            EXPECT(vector == PF && this_cpu()->cr2 == TEST_VA + PAGE && this_cpu()->rip == va &&
                       this_cpu()->error == (ERR_I | nx),
                   "%u bytes before: vector %u cr2 %lx rip %lx error %lx", before, vector,
                   this_cpu()->cr2, this_cpu()->rip, this_cpu()->error);
        }
        map(TEST_VA + PAGE, p + PAGE, PTE_P);
        EXPECT(try(do_fetch, va) == NO_TRAP, "%u bytes before, mapped: it traps", before);
    }
}

/* ---- Accessed and dirty bits ---------------------------------------------------- */

static uint64_t leaf_bits(uint64_t va)
{
    return pte_get(pte_at(boot_pml4, va, 1)) & (PTE_A | PTE_D);
}

static void dirty_after_read(void)
{
    uint8_t *p = page_alloc(1);

    for (unsigned i = 0; i < 500; i++) {
        map(TEST_VA, p, PTE_P | PTE_W);
        do_read(TEST_VA);
        do_read(TEST_VA);
        EXPECT(leaf_bits(TEST_VA) == PTE_A, "after reads: %lx", leaf_bits(TEST_VA));
        do_write(TEST_VA);
        EXPECT(leaf_bits(TEST_VA) == (PTE_A | PTE_D), "after a write: %lx", leaf_bits(TEST_VA));
        *pte_at(boot_pml4, TEST_VA, 1) &= ~PTE_D;
        invlpg(TEST_VA);
        do_read(TEST_VA);
        EXPECT(leaf_bits(TEST_VA) == PTE_A, "cleaned and read: %lx", leaf_bits(TEST_VA));
        do_write(TEST_VA);
        EXPECT(leaf_bits(TEST_VA) == (PTE_A | PTE_D), "cleaned and written: %lx",
               leaf_bits(TEST_VA));
    }
}

/* Instructions that read, that write though nothing changes, and that do neither. */
static void dirty_kinds(void)
{
    static const struct {
        const char *name;
        uint8_t text[8], len;
        uint64_t bits;
    } kinds[] = {
        {"test", {0x48, 0x85, 0x07}, 3, PTE_A},
        {"cmp", {0x48, 0x39, 0x07}, 3, PTE_A},
        {"bt", {0x48, 0x0f, 0xba, 0x27, 1}, 5, PTE_A},
        {"lea", {0x48, 0x8d, 0x07}, 3, 0},
        {"cmov not taken", {0x31, 0xd2, 0x48, 0x0f, 0x45, 0x17}, 6, PTE_A},
        {"or with 0", {0x48, 0x83, 0x0f, 0}, 4, PTE_A | PTE_D},
        {"cmpxchg, unequal", {0xf0, 0x48, 0x0f, 0xb1, 0x0f}, 5, PTE_A | PTE_D},
        {"push", {0xff, 0x37}, 2, PTE_A},
        {"shl by 0", {0x48, 0xc1, 0x27, 0}, 4, PTE_A | PTE_D},
        {"rep stosb, none", {0x31, 0xc9, 0xf3, 0xaa}, 4, 0},
        {"jump over a store", {0xeb, 3, 0x48, 0x89, 0x07}, 5, 0},
        {"jz over a store", {0x31, 0xd2, 0x74, 3, 0x48, 0x89, 0x07}, 7, 0},
        {"long nop", {0x0f, 0x1f, 0x07}, 3, 0},
    };
    uint8_t *p = page_alloc(1);

    crossing_code = page_alloc(1);
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        bool shl0 = kinds[i].text[1] == 0xc1, push = kinds[i].text[0] == 0xff;
        uint8_t *end = crossing_code + kinds[i].len;
        uint64_t bits;

        map(TEST_VA, p, PTE_P | PTE_W);
        memcpy(crossing_code, kinds[i].text, kinds[i].len);
        if (push)
            *end++ = 0x58; /* pop %rax */
        *end = 0xc3;
        call_code(TEST_VA);
        bits = leaf_bits(TEST_VA);
        /* Whether a shift by 0 writes is not said. */
        EXPECT(bits == kinds[i].bits || (shl0 && bits == PTE_A), "%s: %lx", kinds[i].name, bits);
    }
}

/* A fault between a read and a write close to it: the write did not happen. */
static void dirty_not_reached(void)
{
    /* mov (%rdi), %rax; <2 bytes>; mov %rax, 8(%rdi); ret */
    static const uint8_t faults[][2] = {{0x0f, 0x0b}, {0xf7, 0xf1}, {0xcd, 0xf1}, {0xeb, 4}};
    uint8_t *p = page_alloc(1);

    crossing_code = page_alloc(1);
    for (unsigned i = 0; i < ARRAY_SIZE(faults); i++) {
        uint8_t text[] = {0x31,         0xc9, 0x48, 0x8b, 7, faults[i][0],
                          faults[i][1], 0x48, 0x89, 0x47, 8, 0xc3};

        map(TEST_VA, p, PTE_P | PTE_W);
        memcpy(crossing_code, text, sizeof(text));
        if (i == 2)
            crossing_code[6] = VEC_USER_DONE;
        try(call_code, TEST_VA);
        EXPECT(leaf_bits(TEST_VA) == PTE_A, "kind %u: %lx", i, leaf_bits(TEST_VA));
        EXPECT(*(uint64_t *)(p + 8) == 0, "kind %u: written", i);
    }
}

const struct test paging_tests[] = {
    {"paging-rights", rights},
    {"paging-reserved", reserved},
    {"paging-implicit", implicit},
    {"paging-crossing", crossing},
    {"paging-crossing-fetch", crossing_fetch},
    {"paging-dirty-after-read", dirty_after_read},
    {"paging-dirty-kinds", dirty_kinds},
    {"paging-dirty-not-reached", dirty_not_reached},
    {NULL},
};
