/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/boot.c src/x86/boot_bzimage.c src/x86/boot_elf.c src/x86/boot_multiboot.c src/x86/acpi.c
 *       src/core/mem.c src/base/err.c */
/* Multiboot kernels, read back from the Multiboot Specification 0.6.96. The ELF side is in test_boot.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "x86/boot.h"

#define LOAD      0x400000u
#define ENTRY     (LOAD + 0x40)
#define TEXT      0x1000 /* of the only segment, in the file */
#define TEXT_SIZE 0x2000
#define HEADER    (TEXT + 0x10)
#define FILE_SIZE (TEXT + TEXT_SIZE)

struct fixture {
    uint8_t img[FILE_SIZE];
    struct mem mem;
    struct x86_state st;
    struct err err;
    uint8_t port[256]; /* what was written to each last */
    char kernel[32], initrd[32];
    int kernel_fd, initrd_fd;
};

static void put(uint8_t *p, uint64_t v, unsigned n)
{
    for (; n--; v >>= 8)
        *p++ = v;
}

static uint64_t get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    while (n--)
        v = v << 8 | p[n];
    return v;
}

static void put_header(uint8_t *p, uint32_t flags)
{
    put(p, 0x1badb002, 4);
    put(p + 4, flags, 4);
    put(p + 8, -(0x1badb002 + flags), 4);
}

/* ELF32 with one segment and a Multiboot header in it. */
static void make(struct fixture *f, uint32_t flags)
{
    uint8_t *p = f->img, *ph = p + 52;

    memset(p, 0, sizeof(f->img));
    memset(p + TEXT, 0x90, TEXT_SIZE);
    memcpy(p, "\x7f\x45LF\1\1\1", 7);
    put(p + 16, 2, 2);
    put(p + 18, 3, 2);
    put(p + 24, ENTRY, 4);
    put(p + 28, 52, 4);
    put(p + 42, 32, 2);
    put(p + 44, 1, 2);
    put(ph, 1, 4);
    put(ph + 4, TEXT, 4);
    put(ph + 12, LOAD, 4);
    put(ph + 16, TEXT_SIZE, 4);
    put(ph + 20, TEXT_SIZE + 0x1000, 4);
    put_header(p + HEADER, flags);
}

static int load(struct fixture *f, const char *cmdline, bool initrd)
{
    struct boot_config cfg = {
        .kernel = f->kernel, .initrd = initrd ? f->initrd : NULL, .cmdline = cmdline, .cpus = 1};
    int checked, loaded;

    assert_int_equal(pwrite(f->kernel_fd, f->img, sizeof(f->img), 0), sizeof(f->img));
    memset(&f->err, 0, sizeof(f->err));
    memset(&f->st, 0x5a, sizeof(f->st));
    checked = boot_check(&cfg, f->mem.size, &f->err);
    loaded = boot_load(&f->mem, &cfg, &f->st, &f->err);
    assert_int_equal(checked, loaded);
    return loaded;
}

static int setup_of(void **state, uint64_t memory)
{
    static struct fixture f;

    memset(&f, 0, sizeof(f));
    f.kernel_fd = memfd_create("kernel", 0);
    f.initrd_fd = memfd_create("initrd", 0);
    snprintf(f.kernel, sizeof(f.kernel), "/proc/self/fd/%d", f.kernel_fd);
    snprintf(f.initrd, sizeof(f.initrd), "/proc/self/fd/%d", f.initrd_fd);
    *state = &f;
    return mem_init(&f.mem, memory, &f.err);
}

static int setup(void **state)
{
    return setup_of(state, MIB(48));
}

static int setup_large(void **state)
{
    return setup_of(state, GIB(5));
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    mem_fini(&f->mem);
    close(f->kernel_fd);
    close(f->initrd_fd);
    return 0;
}

static const uint8_t *guest(const struct fixture *f, gpa_t gpa, uint64_t len)
{
    const uint8_t *p = mem_hva(&f->mem, gpa, len);

    assert_non_null(p);
    return p;
}

static const char *guest_string(const struct fixture *f, gpa_t gpa)
{
    return (const char *)guest(f, gpa, 64);
}

/* The code in front of the kernel's, MOV, OUT and JMP alone, run as far as the jump. Returns where that goes. */
static uint32_t run_firmware(struct fixture *f)
{
    uint32_t at = (uint32_t)f->st.rip;

    for (;;) {
        const uint8_t *p = guest(f, at, 5);

        assert_in_range(at, 0x9fc00, 0x9ffff);
        if (p[0] == 0xe9)
            return at + 5 + (uint32_t)get(p + 1, 4);
        if (p[0] == 0xb8)
            f->st.gpr[X86_RAX] = get(p + 1, 4);
        else if (p[0] == 0xe6)
            f->port[p[1]] = (uint8_t)f->st.gpr[X86_RAX];
        else
            assert_int_equal(p[0], 0xb0);
        if (p[0] == 0xb0)
            f->st.gpr[X86_RAX] = p[1];
        at += p[0] == 0xb8 ? 5 : 2;
    }
}

/* Every vector leads to code in the reserved range; the timer's is open at the 8259s. */
static void test_interrupts(void **state)
{
    struct fixture *f = *state;

    make(f, 3);
    assert_int_equal(load(f, NULL, false), 0);
    run_firmware(f);
    assert_int_equal(f->port[0x21], 0xfa);
    assert_int_equal(f->port[0xa1], 0xff);
    for (unsigned i = 0; i < 256; i++) {
        uint32_t vec = (uint32_t)get(guest(f, 4 * i, 4), 4);
        uint32_t at = (vec >> 16 << 4) + (vec & 0xffff);
        bool irq = (i >= 8 && i < 16) || (i >= 0x70 && i < 0x78);
        const uint8_t *p = guest(f, at, 32), *iret = memchr(p, 0xcf, 32);

        assert_in_range(at, 0x9fc00, 0x9ffff);
        assert_non_null(iret);
        assert_int_equal(iret != p, irq);
    }
}

/* Section 3.2. */
static void test_state(void **state)
{
    struct fixture *f = *state;

    make(f, 3);
    assert_int_equal(load(f, NULL, false), 0);
    assert_int_equal(run_firmware(f), ENTRY);
    assert_int_equal(f->st.gpr[X86_RAX], 0x2badb002);
    assert_int_equal(f->st.cr0 & (X86_CR0_PE | X86_CR0_PG), X86_CR0_PE);
    assert_int_equal(f->st.efer, 0);
    assert_int_equal(f->st.rflags & (1 << 9 | 1 << 17), 0);
    for (unsigned i = 0; i < X86_NSREGS; i++) {
        assert_int_equal(f->st.seg[i].base, 0);
        assert_int_equal(f->st.seg[i].limit, 0xffffffff);
        assert_true(f->st.seg[i].attr & X86_ATTR_DB);
    }
    assert_memory_equal(guest(f, LOAD, TEXT_SIZE), f->img + TEXT, TEXT_SIZE);
    assert_int_equal(get(guest(f, LOAD + TEXT_SIZE, 8), 8), 0);
}

/* The RAM that a memory map has; entries ascend and are RAM or reserved. */
static uint64_t mmap_ram(const struct fixture *f, const uint8_t *mbi)
{
    const uint8_t *e = guest(f, get(mbi + 48, 4), get(mbi + 44, 4)), *end = e + get(mbi + 44, 4);
    uint64_t ram = 0, last = 0;

    while (e < end) {
        uint64_t base = get(e + 4, 8), len = get(e + 12, 8), type = get(e + 20, 4);

        assert_true(base >= last && (type == 1 || type == 2));
        last = base + len;
        if (type == 1) {
            guest(f, base, len);
            ram += len;
        }
        e += get(e, 4) + 4;
    }
    assert_ptr_equal(e, end);
    return ram;
}

/* Section 3.3. */
static void test_information(void **state)
{
    struct fixture *f = *state;
    const uint8_t *mbi, *module;
    char want[64];

    make(f, 0);
    assert_int_equal(pwrite(f->initrd_fd, "A=1\nB=2\n", 8, 0), 8);
    assert_int_equal(load(f, "one two", true), 0);
    mbi = guest(f, f->st.gpr[X86_RBX], 88);
    assert_int_equal(get(mbi, 4), 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    assert_int_equal(get(mbi + 4, 4), 639);
    assert_int_equal(get(mbi + 8, 4), 47 * 1024);
    snprintf(want, sizeof(want), "%s one two", strrchr(f->kernel, '/') + 1);
    assert_string_equal(guest_string(f, get(mbi + 16, 4)), want);
    assert_int_equal(get(mbi + 20, 4), 1);
    module = guest(f, get(mbi + 24, 4), 16);
    assert_int_equal(get(module, 4) % 4096, 0);
    assert_int_equal(get(module + 4, 4) - get(module, 4), 8);
    assert_memory_equal(guest(f, get(module, 4), 8), "A=1\nB=2\n", 8);
    assert_int_equal(mmap_ram(f, mbi), 0x9fc00 + MIB(47));
    assert_string_equal(guest_string(f, get(mbi + 64, 4)), "lodge");

    assert_int_equal(load(f, NULL, false), 0);
    mbi = guest(f, f->st.gpr[X86_RBX], 88);
    assert_int_equal(get(mbi + 20, 4), 0);
    assert_string_equal(guest_string(f, get(mbi + 16, 4)), strrchr(f->kernel, '/') + 1);
}

static void test_large(void **state)
{
    struct fixture *f = *state;
    const uint8_t *mbi;

    make(f, 0);
    assert_int_equal(load(f, NULL, false), 0);
    mbi = guest(f, f->st.gpr[X86_RBX], 88);
    assert_int_equal(get(mbi + 8, 4), (GIB(3) - MIB(1)) >> 10);
    assert_int_equal(mmap_ram(f, mbi), 0x9fc00 + GIB(5) - MIB(1));
}

/* Where a header counts: aligned, with a right checksum, whole within the first 8 KiB (3.1). */
static void test_search(void **state)
{
    struct fixture *f = *state;

    make(f, 0);
    memset(f->img + HEADER, 0, 12);
    assert_int_equal(load(f, NULL, false), -ENOEXEC);
    assert_non_null(strstr(f->err.what, "no Multiboot header"));
    put_header(f->img + HEADER + 2, 0);
    assert_int_equal(load(f, NULL, false), -ENOEXEC);
    put_header(f->img + 8192 - 12, 0);
    assert_int_equal(load(f, NULL, false), 0);
    f->img[8192 - 1] ^= 1;
    assert_int_equal(load(f, NULL, false), -ENOEXEC);
    put_header(f->img + 8192 - 8, 0);
    assert_int_equal(load(f, NULL, false), -ENOEXEC);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;

    for (unsigned bit = 0; bit < 32; bit++) {
        make(f, 1u << bit);
        assert_int_equal(load(f, NULL, false), bit < 2 || bit > 16 ? 0 : -ENOTSUP);
        assert_true(!f->err.code || strstr(f->err.what, "Multiboot kernel"));
    }
    make(f, 0);
    put(f->img + 24, LOAD + TEXT_SIZE, 4);
    assert_int_equal(load(f, NULL, false), -ENOEXEC);
    assert_non_null(strstr(f->err.what, "its entry is not inside"));
}

/* Below 640 KiB a kernel may lie where nothing is that it is handed. */
static void test_low(void **state)
{
    static const struct {
        uint32_t gpa, size;
        bool free;
    } cases[] = {
        {0x8000, 0x3000, true},   {0x3000, 0x1d000, true},   {0x3000, 0x1d001, false},
        {0x2fff, 0x3000, false},  {0x1000, 0x2000, false},   {0x20000, 0x2000, false},
        {0x30000, 0x6fc00, true}, {0x30000, 0x6fc01, false}, {0x9f000, 0x70000, false},
        {0xe0000, 0x2000, false}, {0xff000, 0x2000, false},  {0x8000, 0xfffff000, false},
    };
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        make(f, 0);
        put(f->img + 24, cases[i].gpa, 4);
        put(f->img + 52 + 12, cases[i].gpa, 4);
        put(f->img + 52 + 20, cases[i].size, 4);
        assert_int_equal(load(f, "x", false), cases[i].free ? 0 : -ENOEXEC);
        if (cases[i].free)
            assert_memory_equal(guest(f, cases[i].gpa, TEXT_SIZE), f->img + TEXT, TEXT_SIZE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_information, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large, setup_large, teardown),
        cmocka_unit_test_setup_teardown(test_search, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_low, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
