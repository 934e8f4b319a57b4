/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/boot.c src/x86/boot_bzimage.c src/x86/boot_elf.c src/x86/boot_multiboot.c src/x86/acpi.c src/core/mem.c src/base/err.c */
/* Synthetic kernels in temporary files; what boot_load left in memory is read back from the specifications. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "x86/boot.h"

#define SETUP_SECTS 3
#define PM_OFFSET   ((SETUP_SECTS + 1) * 512)
#define PM_SIZE     0x9000
#define LOAD        0x1000000ull
#define INIT_SIZE   0x800000ull
#define ELF_ENTRY   0x1000100ull

struct image {
    uint8_t *data;
    size_t size;
};

struct fixture {
    struct image img;
    struct mem mem;
    struct x86_state st;
    struct err err;
    char kernel[64], initrd[64];
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

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        p[i] = seed >> 24;
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    if (!f)
        return -1;
    f->kernel_fd = memfd_create("kernel", 0);
    f->initrd_fd = memfd_create("initrd", 0);
    snprintf(f->kernel, sizeof(f->kernel), "/proc/self/fd/%d", f->kernel_fd);
    snprintf(f->initrd, sizeof(f->initrd), "/proc/self/fd/%d", f->initrd_fd);
    f->mem.fd = -1;
    *state = f;
    return f->kernel_fd < 0 || f->initrd_fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    mem_fini(&f->mem);
    close(f->kernel_fd);
    close(f->initrd_fd);
    free(f->img.data);
    free(f);
    return 0;
}

static void file_put(int fd, const void *data, size_t size)
{
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, data, size, 0), size);
}

/* A bzImage that is right in every respect; tests then break it. */
static void bzimage_make(struct fixture *f)
{
    uint8_t *p;

    free(f->img.data);
    f->img.size = PM_OFFSET + PM_SIZE;
    f->img.data = p = malloc(f->img.size);
    assert_non_null(p);
    fill(p, f->img.size, 1);
    memset(p + 0x1f1, 0, 0x290 - 0x1f1);
    p[0x1f1] = SETUP_SECTS;
    put(p + 0x1f4, PM_SIZE / 16, 4);
    put(p + 0x1fe, 0xaa55, 2);
    put(p + 0x200, 0x6aeb, 2); /* jmp over the header: it ends at 0x26c */
    memcpy(p + 0x202, "HdrS", 4);
    put(p + 0x206, 0x020f, 2);
    p[0x211] = 0x81; /* LOADED_HIGH and, wrongly, CAN_USE_HEAP */
    put(p + 0x22c, 0x7fffffff, 4);
    put(p + 0x230, 0x200000, 4);
    p[0x234] = 1;
    put(p + 0x236, 0x3f, 2);
    put(p + 0x238, 2047, 4);
    put(p + 0x248, 0x300, 4);
    put(p + 0x24c, 0x8000, 4);
    put(p + 0x250, 0xdeadbeef, 8);
    put(p + 0x258, LOAD, 8);
    put(p + 0x260, INIT_SIZE, 4);
    put(p + 0x268, 0x11223344, 4); /* kernel_info_offset of protocol 2.15 */
}

/* An ELF kernel: headers, one note segment, text at LOAD and data with bss at 20 MiB. */
enum { ELF_NOTES = 0x400, ELF_TEXT = 0x1000, ELF_DATA = 0x3000, ELF_SIZE = 0x4000 };
enum { TEXT_SIZE = 0x2000, DATA_SIZE = 0x800, DATA_MEMSZ = 0x6000 };
#define DATA_GPA MIB(20)

static unsigned ph_at(bool is64, unsigned i)
{
    return (is64 ? 64 : 52) + i * (is64 ? 56 : 32);
}

static void put_phdr(uint8_t *img, bool is64, unsigned i, uint32_t type, const uint64_t v[4])
{
    static const uint8_t off64[] = {8, 24, 32, 40}, off32[] = {4, 12, 16, 20};
    uint8_t *p = img + ph_at(is64, i);

    put(p, type, 4);
    for (unsigned j = 0; j < 4; j++)
        put(p + (is64 ? off64[j] : off32[j]), v[j], is64 ? 8 : 4);
    put(p + (is64 ? 48 : 28), 4, is64 ? 8 : 4);
}

static void elf_make(struct fixture *f, bool is64)
{
    static const uint8_t other_note[] = {4, 0, 0,   0,   3,   0, 0, 0, 5, 0,
                                         0, 0, 'X', 'e', 'n', 0, 1, 2, 3, 0};
    uint8_t *p;

    free(f->img.data);
    f->img.size = ELF_SIZE;
    f->img.data = p = calloc(1, ELF_SIZE);
    assert_non_null(p);
    memcpy(p,
           "\x7f"
           "ELF",
           4);
    p[4] = is64 ? 2 : 1;
    p[5] = p[6] = 1;
    put(p + 16, 2, 2);
    put(p + 18, is64 ? 62 : 3, 2);
    put(p + (is64 ? 32 : 28), ph_at(is64, 0), is64 ? 8 : 4);
    put(p + (is64 ? 54 : 42), is64 ? 56 : 32, 2);
    put(p + (is64 ? 56 : 44), 3, 2);
    put_phdr(p, is64, 0, 1, (uint64_t[]){ELF_TEXT, LOAD, TEXT_SIZE, TEXT_SIZE});
    put_phdr(p, is64, 1, 1, (uint64_t[]){ELF_DATA, DATA_GPA, DATA_SIZE, DATA_MEMSZ});
    put_phdr(p, is64, 2, 4, (uint64_t[]){ELF_NOTES, LOAD, 0x40, 0x40});
    memcpy(p + ELF_NOTES, other_note, sizeof(other_note));
    put(p + ELF_NOTES + 20, 4, 4);
    put(p + ELF_NOTES + 24, is64 ? 8 : 4, 4);
    put(p + ELF_NOTES + 28, 18, 4);
    memcpy(p + ELF_NOTES + 32, "Xen", 4);
    put(p + ELF_NOTES + 36, ELF_ENTRY, is64 ? 8 : 4);
    fill(p + ELF_TEXT, TEXT_SIZE, 2);
    fill(p + ELF_DATA, DATA_SIZE, 3);
}

static int load(struct fixture *f, uint64_t memory, const char *cmdline, bool initrd)
{
    struct boot_config cfg = {
        .kernel = f->kernel, .initrd = initrd ? f->initrd : NULL, .cmdline = cmdline, .cpus = 2};

    file_put(f->kernel_fd, f->img.data, f->img.size);
    memset(&f->err, 0, sizeof(f->err));
    memset(&f->st, 0x5a, sizeof(f->st)); /* nothing may depend on what was there */
    if (f->mem.size != memory) {
        mem_fini(&f->mem);
        assert_int_equal(mem_init(&f->mem, memory, &f->err), 0);
    }
    return boot_load(&f->mem, &cfg, &f->st, &f->err);
}

static const uint8_t *guest(const struct fixture *f, gpa_t gpa, uint64_t len)
{
    const uint8_t *p = mem_hva(&f->mem, gpa, len);

    assert_non_null(p);
    return p;
}

/* Memory map entries of `size` bytes: ascending, RAM is really RAM, and no RAM above 1 MiB is left out. */
static void check_memmap(const struct fixture *f, const uint8_t *e, unsigned n, unsigned size)
{
    uint64_t end = 0, ram = 0;

    assert_in_range(n, 4, 128);
    for (unsigned i = 0; i < n; i++, e += size) {
        uint64_t base = get(e, 8), len = get(e + 8, 8), type = get(e + 16, 4);

        assert_true(base >= end && len > 0);
        end = base + len;
        assert_true(type == 1 || type == 2);
        if (type == 1) {
            guest(f, base, len);
            assert_true(end <= 0x9fc00 || base >= MIB(1));
            ram += len;
        } else {
            assert_true(base >= 0x9fc00 && end <= MIB(1));
        }
    }
    assert_int_equal(ram, 0x9fc00 + f->mem.size - MIB(1));
}

/* Walk the page tables as the CPU does (SDM volume 3, section 4.5), 2 MiB leaves. */
static uint64_t walk(const struct fixture *f, uint64_t va)
{
    uint64_t table = f->st.cr3 & ~0xfffull;

    for (unsigned shift = 39;; shift -= 9) {
        uint64_t e = get(guest(f, table, 4096) + 8 * (va >> shift & 0x1ff), 8);

        assert_int_equal(e & 3, 3); /* present, writable */
        assert_int_equal(e & 0x20, 0x20);
        assert_int_equal(e >> 40, 0); /* address bits above 40 and NX */
        if (shift < 39 && e & 0x80) {
            assert_int_equal(shift, 21);
            assert_int_equal(e & 0x40, 0x40);
            assert_int_equal(e & 0x1ff000, 0);
            return (e & ~0x1fffffull) | (va & 0x1fffff);
        }
        assert_true(shift > 21);
        table = e & ~0xfffull;
    }
}

/* The descriptor in the GDT must load as what the segment cache says. */
static void check_segment(const struct fixture *f, const struct x86_seg *seg)
{
    const uint8_t *d = guest(f, f->st.gdtr.base + (seg->sel & ~7u), 8);
    uint32_t limit = get(d, 2) | (d[6] & 0xfu) << 16;
    uint32_t attr = d[5] | (d[6] & 0xf0u) << 8;

    assert_in_range((seg->sel & ~7u) + 7, 15, f->st.gdtr.limit);
    if (attr & X86_ATTR_G)
        limit = limit << 12 | 0xfff;
    assert_int_equal(seg->limit, limit);
    assert_int_equal(seg->attr, attr);
    assert_int_equal(seg->base, get(d + 2, 2) | (uint32_t)d[4] << 16 | (uint32_t)d[7] << 24);
    assert_true(attr & X86_ATTR_P);
    assert_false(seg->attr & X86_ATTR_UNUSABLE);
}

static void check_segments(const struct fixture *f, uint32_t code_bits)
{
    const struct x86_state *st = &f->st;

    assert_int_equal(st->seg[X86_CS].sel, 0x10);
    assert_int_equal(st->seg[X86_CS].attr & (X86_ATTR_L | X86_ATTR_DB), code_bits);
    assert_int_equal(st->seg[X86_CS].attr & 0x1f, 0x1b); /* code, readable, accessed */
    for (unsigned i = 0; i < X86_NSREGS; i++) {
        check_segment(f, &st->seg[i]);
        assert_int_equal(st->seg[i].base, 0);
        assert_int_equal(st->seg[i].limit, 0xffffffff);
        if (i != X86_CS) {
            assert_int_equal(st->seg[i].sel, 0x18);
            assert_int_equal(st->seg[i].attr & 0x1f, 0x13); /* data, writable, accessed */
        }
    }
    check_segment(f, &st->tr);
    assert_int_equal(st->tr.attr & 0x1f, 0xb); /* busy TSS */
    assert_true(st->tr.limit >= 0x67);
    assert_int_equal(st->ldtr.attr, X86_ATTR_P | 2);
    assert_int_equal(st->ldtr.sel, 0);
    assert_int_equal(st->cpl, 0);
    assert_int_equal(st->run, X86_RUNNING);
    assert_int_equal(st->rflags, 2);
}

static void check_initrd(const struct fixture *f, uint64_t gpa, const uint8_t *want, size_t size,
                         uint64_t top)
{
    assert_int_equal(gpa % 4096, 0);
    assert_true(gpa + size <= top && gpa + size + 4096 > top); /* as high as it goes */
    assert_memory_equal(guest(f, gpa, size), want, size);
}

static void test_bzimage(void **state)
{
    struct fixture *f = *state;
    const char *cmdline = "console=ttyS0 quiet";
    uint8_t initrd[12345];
    const uint8_t *zp;

    bzimage_make(f);
    fill(initrd, sizeof(initrd), 7);
    file_put(f->initrd_fd, initrd, sizeof(initrd));
    assert_int_equal(load(f, MIB(64), cmdline, true), 0);

    assert_int_equal(f->st.rip, LOAD + 0x200);
    assert_memory_equal(guest(f, LOAD, PM_SIZE), f->img.data + PM_OFFSET, PM_SIZE);
    zp = guest(f, f->st.gpr[X86_RSI], 4096);
    assert_int_equal(f->st.gpr[X86_RSI] % 16, 0);
    assert_int_equal(zp[0x1ef], 0); /* sentinel: the rest of the page is ours */
    assert_memory_equal(zp + 0x1fe, f->img.data + 0x1fe, 0x210 - 0x1fe);
    assert_int_equal(get(zp + 0x1fa, 2), 0xffff);
    assert_int_equal(zp[0x210], 0xff);
    assert_int_equal(zp[0x211], 0x01);
    assert_int_equal(get(zp + 0x250, 8),
                     0); /* a setup_data pointer from the file is not passed on */
    assert_int_equal(get(zp + 0x258, 8), LOAD);
    assert_int_equal(get(zp + 0x268, 4), 0x11223344);
    assert_int_equal(get(zp + 0x26c, 4), 0); /* beyond the header's end */
    assert_string_equal((const char *)guest(f, get(zp + 0x228, 4), 32), cmdline);
    assert_int_equal(get(zp + 0x21c, 4), sizeof(initrd));
    check_initrd(f, get(zp + 0x218, 4), initrd, sizeof(initrd), MIB(64));
    assert_memory_equal(guest(f, get(zp + 0x70, 8), 8), "RSD PTR ", 8);
    check_memmap(f, zp + 0x2d0, zp[0x1e8], 20);
}

static void test_bzimage_state(void **state)
{
    struct fixture *f = *state;

    bzimage_make(f);
    assert_int_equal(load(f, MIB(64), NULL, false), 0);
    check_segments(f, X86_ATTR_L);
    assert_int_equal(f->st.cr0, X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG);
    assert_int_equal(f->st.cr4, X86_CR4_PAE);
    assert_int_equal(f->st.efer, X86_EFER_LME | X86_EFER_LMA);
    for (unsigned i = 0; i < 16; i++) {
        if (i != X86_RSI && i != X86_RSP)
            assert_int_equal(f->st.gpr[i], 0);
    }
    for (uint64_t va = 0; va < GIB(4); va += MIB(2) - 4096)
        assert_int_equal(walk(f, va), va);
    assert_int_equal(walk(f, GIB(4) - 1), GIB(4) - 1);
    assert_string_equal((const char *)guest(f, get(guest(f, f->st.gpr[X86_RSI] + 0x228, 4), 4), 1),
                        "");
    assert_int_equal(get(guest(f, f->st.gpr[X86_RSI] + 0x218, 8), 8), 0); /* no initrd */
}

/* Nothing the guest left in memory before a reset shows up in what is written again. */
static void test_reload(void **state)
{
    struct fixture *f = *state;

    bzimage_make(f);
    assert_int_equal(load(f, MIB(64), "first and longer", false), 0);
    memset(mem_hva(&f->mem, 0, 0x90000), 0xee, 0x90000);
    assert_int_equal(load(f, MIB(64), "x", false), 0);
    assert_int_equal(*guest(f, f->st.gpr[X86_RSI] + 0x1ef, 1), 0);
    assert_string_equal((const char *)guest(f, get(guest(f, f->st.gpr[X86_RSI] + 0x228, 4), 4), 4),
                        "x");
    assert_int_equal(walk(f, LOAD), LOAD);
    check_segments(f, X86_ATTR_L);
}

static void test_high_memory(void **state)
{
    struct fixture *f = *state;
    uint8_t byte = 1;
    const uint8_t *zp;

    bzimage_make(f);
    put(f->img.data + 0x22c, 0xffffffff, 4);
    file_put(f->initrd_fd, &byte, 1);
    assert_int_equal(load(f, GIB(5), NULL, true), 0);
    zp = guest(f, f->st.gpr[X86_RSI], 4096);
    check_memmap(f, zp + 0x2d0, zp[0x1e8], 20);
    check_initrd(f, get(zp + 0x218, 4), &byte, 1, MEM_LOW_MAX - 4095);

    put(f->img.data + 0x22c, 0x37ffffff, 4);
    assert_int_equal(load(f, GIB(5), NULL, true), 0);
    check_initrd(f, get(guest(f, f->st.gpr[X86_RSI] + 0x218, 4), 4), &byte, 1, 0x38000000 - 4095);
}

static void test_placement(void **state)
{
    struct fixture *f = *state;

    bzimage_make(f);
    put(f->img.data + 0x258, 0, 8); /* anywhere above 1 MiB that is aligned */
    assert_int_equal(load(f, MIB(64), NULL, false), 0);
    assert_int_equal(f->st.rip, MIB(2) + 0x200);
    put(f->img.data + 0x258, LOAD + 0x1000, 8);
    assert_int_equal(load(f, MIB(64), NULL, false), 0);
    assert_int_equal(f->st.rip, LOAD + 0x200000 + 0x200);
    f->img.data[0x234] = 0; /* not relocatable: just there */
    assert_int_equal(load(f, MIB(64), NULL, false), 0);
    assert_int_equal(f->st.rip, LOAD + 0x1000 + 0x200);
    put(f->img.data + 0x258, 0x90000, 8);
    assert_int_equal(load(f, MIB(64), NULL, false), -ENOEXEC);
}

/* One broken field each. n: 0 cuts the file at `v` instead. */
struct breakage {
    unsigned at, n;
    uint64_t v;
    int code;
    const char *says;
};

static void run_breakages(struct fixture *f, void (*make)(struct fixture *),
                          const struct breakage *b, size_t n)
{
    for (; n--; b++) {
        struct boot_config cfg = {.kernel = f->kernel, .cmdline = "quiet", .cpus = 1};
        struct err err = {0};

        make(f);
        if (b->n)
            put(f->img.data + b->at, b->v, b->n);
        else
            f->img.size = b->v;
        if (load(f, MIB(64), "quiet", false) != b->code || !strstr(f->err.what, b->says))
            fail_msg("%#x=%#llx: %d \"%s\", not %d \"%s\"", b->at, (unsigned long long)b->v,
                     f->err.code, f->err.what, b->code, b->says);
        assert_non_null(strstr(f->err.what, f->kernel));
        assert_true(f->err.next[0]);
        assert_int_equal(boot_check(&cfg, MIB(64), &err), b->code);
        assert_string_equal(err.what, f->err.what);
    }
}

static void test_bzimage_errors(void **state)
{
    static const struct breakage b[] = {
        {0x1fe, 2, 0, -ENOEXEC, "not a kernel"},
        {0x202, 1, 'h', -ENOEXEC, "not a kernel"},
        {0x206, 2, 0x020b, -ENOEXEC, "boot protocol 2.11"},
        {0x206, 2, 0, -ENOEXEC, "boot protocol 0.00"},
        {0x211, 1, 0, -ENOEXEC, "zImage"},
        {0x236, 2, 0x3e, -ENOEXEC, "no 64-bit entry"},
        {0x201, 1, 0x20, -ENOEXEC, "damaged"},
        {0x1f1, 1, 0xff, -ENOEXEC, "truncated"},
        {0x1f4, 4, 0, -ENOEXEC, "damaged"},
        {0x1f4, 4, 0x20, -ENOEXEC, "damaged"},
        {0x1f4, 4, PM_SIZE / 16 + 1, -ENOEXEC, "truncated"},
        {0x1f4, 4, 0xffffffff, -ENOEXEC, "truncated"},
        {0x24c, 4, PM_SIZE, -ENOEXEC, "damaged"},
        {0x248, 4, 0xffffffff, -ENOEXEC, "damaged"},
        {0x230, 4, 0, -ENOEXEC, "damaged"},
        {0x230, 4, 0x300000, -ENOEXEC, "damaged"},
        {0x230, 4, 0x80000000, -ENOMEM, "does not fit"},
        {0x258, 8, UINT64_MAX, -ENOEXEC, "more than a guest has"},
        {0x258, 8, MIB(64), -ENOMEM, "does not fit"},
        {0x260, 4, MIB(48) + 1, -ENOMEM, "needs the first 65 MiB"},
        {0x260, 4, 0xffffffff, -ENOEXEC, "more than a guest has"},
        {0x238, 4, 4, -E2BIG, "5 characters"},
        {0, 0, PM_OFFSET + PM_SIZE - 1, -ENOEXEC, "truncated"},
        {0, 0, PM_OFFSET, -ENOEXEC, "truncated"},
        {0, 0, 0x268, -ENOEXEC, "truncated"},
        {0, 0, 0x206, -ENOEXEC, "boot protocol"},
        {0, 0, 0x1ff, -ENOEXEC, "not a kernel"},
        {0, 0, 1, -ENOEXEC, "not a kernel"},
        {0, 0, 0, -ENOEXEC, "empty"},
    };

    run_breakages(*state, bzimage_make, b, ARRAY_SIZE(b));
}

static void test_cmdline_limit(void **state)
{
    struct fixture *f = *state;
    static char line[0x20001];

    bzimage_make(f);
    memset(line, 'a', 2047);
    assert_int_equal(load(f, MIB(64), line, false), 0);
    assert_string_equal(
        (const char *)guest(f, get(guest(f, f->st.gpr[X86_RSI] + 0x228, 4), 4), 2048), line);
    line[2047] = 'a';
    assert_int_equal(load(f, MIB(64), line, false), -E2BIG);
    assert_non_null(strstr(f->err.what, "2048 characters"));
    assert_non_null(strstr(f->err.what, "at most 2047"));
    /* A kernel that claims to take any length gets what there is room for. */
    put(f->img.data + 0x238, 0xffffffff, 4);
    memset(line, 'a', sizeof(line) - 1);
    assert_int_equal(load(f, MIB(64), line, false), -E2BIG);
    line[0xffff] = 0;
    assert_int_equal(load(f, MIB(64), line, false), 0);
}

static void test_initrd_fit(void **state)
{
    struct fixture *f = *state;
    struct boot_config cfg = {.kernel = f->kernel, .initrd = f->initrd, .cpus = 1};
    const uint64_t room = MIB(64) - LOAD - INIT_SIZE;

    bzimage_make(f);
    assert_int_equal(ftruncate(f->initrd_fd, room), 0);
    assert_int_equal(load(f, MIB(64), NULL, true), 0);
    assert_int_equal(get(guest(f, f->st.gpr[X86_RSI] + 0x218, 4), 4), LOAD + INIT_SIZE);
    assert_int_equal(ftruncate(f->initrd_fd, room + 1), 0);
    assert_int_equal(load(f, MIB(64), NULL, true), -ENOMEM);
    assert_non_null(strstr(f->err.what, f->initrd));
    assert_non_null(strstr(f->err.next, "--memory"));
    /* Larger than any memory, or than the kernel can address: more memory would not help. */
    assert_int_equal(ftruncate(f->initrd_fd, GIB(100)), 0);
    assert_int_equal(boot_check(&cfg, GIB(200), &f->err), -EFBIG);
    put(f->img.data + 0x22c, MIB(32) - 1, 4);
    assert_int_equal(ftruncate(f->initrd_fd, MIB(8) + 1), 0);
    assert_int_equal(load(f, MIB(64), NULL, true), -EFBIG);
    assert_int_equal(ftruncate(f->initrd_fd, 0), 0);
    assert_int_equal(load(f, MIB(64), NULL, true), -ENOEXEC);
    assert_non_null(strstr(f->err.what, "empty"));
    assert_int_equal(boot_check(&cfg, MIB(64), &f->err), -ENOEXEC);
}

/* boot_check must say yes exactly where boot_load succeeds. */
static void test_check_agrees(void **state)
{
    struct fixture *f = *state;
    struct boot_config cfg = {.kernel = f->kernel, .initrd = f->initrd, .cpus = 2};
    unsigned good = 0;

    for (unsigned kind = 0; kind < 2; kind++) {
        if (kind)
            elf_make(f, true);
        else
            bzimage_make(f);
        assert_int_equal(ftruncate(f->initrd_fd, MIB(2) - 5), 0);
        for (uint64_t memory = MIB(1); memory < MIB(40); memory += MIB(1)) {
            int ret = load(f, memory, NULL, true);

            assert_int_equal(boot_check(&cfg, memory, &f->err), ret);
            assert_true(ret == 0 || ret == -ENOMEM);
            good += ret == 0;
        }
    }
    assert_in_range(good, 20, 60);
    assert_int_equal(boot_check(&cfg, 0, &f->err), -ENOMEM);
    assert_int_equal(boot_check(&cfg, 4096, &f->err), -ENOMEM);
}

static void test_elf(void **state)
{
    struct fixture *f = *state;
    uint8_t initrd[5000], zero[DATA_MEMSZ - DATA_SIZE] = {0};

    fill(initrd, sizeof(initrd), 9);
    file_put(f->initrd_fd, initrd, sizeof(initrd));
    for (unsigned is64 = 0; is64 < 2; is64++) {
        const uint8_t *si, *module;

        elf_make(f, is64);
        assert_int_equal(mem_init(&f->mem, MIB(48), &f->err), 0);
        memset(mem_hva(&f->mem, DATA_GPA, MIB(1)), 0xcc, MIB(1)); /* as after a guest reset */
        assert_int_equal(load(f, MIB(48), "root=/dev/vda", true), 0);
        assert_int_equal(f->st.rip, ELF_ENTRY);
        assert_memory_equal(guest(f, LOAD, TEXT_SIZE), f->img.data + ELF_TEXT, TEXT_SIZE);
        assert_memory_equal(guest(f, DATA_GPA, DATA_SIZE), f->img.data + ELF_DATA, DATA_SIZE);
        assert_memory_equal(guest(f, DATA_GPA + DATA_SIZE, sizeof(zero)), zero, sizeof(zero));
        assert_int_equal(*guest(f, DATA_GPA + DATA_MEMSZ, 1), 0xcc);
        si = guest(f, f->st.gpr[X86_RBX], 56);
        assert_int_equal(get(si, 4), 0x336ec578);
        assert_int_equal(get(si + 4, 4), 1);
        assert_int_equal(get(si + 12, 4), 1);
        module = guest(f, get(si + 16, 8), 32);
        assert_int_equal(get(module + 8, 8), sizeof(initrd));
        check_initrd(f, get(module, 8), initrd, sizeof(initrd), MIB(48));
        assert_string_equal((const char *)guest(f, get(si + 24, 8), 32), "root=/dev/vda");
        assert_memory_equal(guest(f, get(si + 32, 8), 8), "RSD PTR ", 8);
        check_memmap(f, guest(f, get(si + 40, 8), get(si + 48, 4) * 24), get(si + 48, 4), 24);
        assert_int_equal(f->st.cr0, X86_CR0_PE | X86_CR0_ET);
        assert_int_equal(f->st.cr4, 0);
        assert_int_equal(f->st.cr3, 0);
        assert_int_equal(f->st.efer, 0);
        check_segments(f, X86_ATTR_DB);
        mem_fini(&f->mem);
    }
    assert_int_equal(load(f, MIB(48), NULL, false), 0);
    assert_int_equal(get(guest(f, f->st.gpr[X86_RBX] + 12, 4), 4), 0);
}

/* Segments may lie above 4 GiB; the entry may not. */
static void test_elf_high(void **state)
{
    struct fixture *f = *state;

    elf_make(f, true);
    put(f->img.data + ph_at(true, 1) + 24, GIB(4) + MIB(1), 8);
    assert_int_equal(load(f, GIB(4), NULL, false), 0);
    assert_memory_equal(guest(f, GIB(4) + MIB(1), DATA_SIZE), f->img.data + ELF_DATA, DATA_SIZE);
    put(f->img.data + ELF_NOTES + 36, GIB(4) + MIB(1), 8);
    assert_int_equal(load(f, GIB(4), NULL, false), -ENOEXEC);
    assert_non_null(strstr(f->err.what, "PVH entry"));
}

static void make_elf64(struct fixture *f)
{
    elf_make(f, true);
}

static void make_elf32(struct fixture *f)
{
    elf_make(f, false);
}

static void test_elf_errors(void **state)
{
    enum { PH0 = 64, PH1 = 64 + 56, PH2 = 64 + 112 };
    static const struct breakage b64[] = {
        {4, 1, 3, -ENOEXEC, "little-endian"},
        {5, 1, 2, -ENOEXEC, "little-endian"},
        {16, 2, 1, -ENOEXEC, "not an executable"},
        {18, 2, 183, -ENOEXEC, "another kind of processor"},
        {32, 8, ELF_SIZE, -ENOEXEC, "truncated"},
        {32, 8, UINT64_MAX, -ENOEXEC, "truncated"},
        {54, 2, 55, -ENOEXEC, "program headers"},
        {56, 2, 0, -ENOEXEC, "program headers"},
        {56, 2, 0xffff, -ENOEXEC, "program headers"},
        {PH0 + 8, 8, ELF_SIZE - 1, -ENOEXEC, "truncated"},
        {PH0 + 8, 8, UINT64_MAX, -ENOEXEC, "truncated"},
        {PH0 + 24, 8, 0x9000, -ENOEXEC, "below 1 MiB"},
        {PH0 + 24, 8, UINT64_MAX - 5, -ENOEXEC, "more than a guest has"},
        {PH0 + 24, 8, MIB(64) - 1, -ENOMEM, "does not fit"},
        {PH0 + 24, 8, MIB(24), -ENOEXEC, "not inside a loaded segment"},
        {PH0 + 40, 8, 1, -ENOEXEC, "larger in the file"},
        {PH1 + 40, 8, UINT64_MAX, -ENOEXEC, "more than a guest has"},
        {PH1 + 40, 8, MIB(45), -ENOMEM, "needs the first 65 MiB"},
        {PH2, 4, 0, -ENOEXEC, "no PVH entry"},
        {PH2 + 8, 8, ELF_SIZE, -ENOEXEC, "truncated"},
        {PH2 + 32, 8, 19, -ENOEXEC, "no PVH entry"},
        {PH2 + 32, 8, 43, -ENOEXEC, "no PVH entry"}, /* the entry itself is cut off */
        {ELF_NOTES, 4, 0xffffffff, -ENOEXEC, "no PVH entry"},
        {ELF_NOTES + 4, 4, 0xffffffff, -ENOEXEC, "no PVH entry"},
        {ELF_NOTES + 24, 4, 9, -ENOEXEC, "no PVH entry"},
        {ELF_NOTES + 28, 4, 1, -ENOEXEC, "no PVH entry"},
        {ELF_NOTES + 32, 1, 'x', -ENOEXEC, "no PVH entry"},
        {ELF_NOTES + 36, 8, LOAD + TEXT_SIZE, -ENOEXEC, "not inside a loaded segment"},
        {0, 0, ELF_DATA, -ENOEXEC, "truncated"},
        {0, 0, PH1, -ENOEXEC, "truncated"},
        {0, 0, 63, -ENOEXEC, "truncated"},
        {0, 0, 4, -ENOEXEC, "truncated"},
    };
    static const struct breakage b32[] = {
        {28, 4, 0xffffffff, -ENOEXEC, "truncated"},
        {42, 2, 56, -ENOEXEC, "program headers"},
        {52 + 12, 4, 0xfffff000, -ENOEXEC, "more than a guest has"},
        {52 + 32 + 20, 4, 0xffffffff, -ENOEXEC, "more than a guest has"},
        {ELF_NOTES + 28, 4, 17, -ENOEXEC, "no PVH entry"},
    };

    run_breakages(*state, make_elf64, b64, ARRAY_SIZE(b64));
    run_breakages(*state, make_elf32, b32, ARRAY_SIZE(b32));
}

static void test_files(void **state)
{
    struct fixture *f = *state;
    char dir[] = "/tmp/lodge-boot-XXXXXX", path[64];
    struct boot_config cfg = {.kernel = path, .cpus = 1};

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/none", dir);
    assert_int_equal(boot_check(&cfg, MIB(64), &f->err), -ENOENT);
    assert_non_null(strstr(f->err.what, path));
    assert_non_null(strstr(f->err.next, "--kernel"));
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody will ever write to it */
    assert_int_equal(boot_check(&cfg, MIB(64), &f->err), -EINVAL);
    unlink(path);
    snprintf(path, sizeof(path), "%s", dir);
    assert_int_equal(boot_check(&cfg, MIB(64), &f->err), -EISDIR);
    rmdir(dir);

    bzimage_make(f);
    file_put(f->kernel_fd, f->img.data, f->img.size);
    cfg = (struct boot_config){.kernel = f->kernel, .initrd = "/nonexistent/initrd", .cpus = 1};
    assert_int_equal(boot_check(&cfg, MIB(64), &f->err), -ENOENT);
    assert_non_null(strstr(f->err.what, "initrd"));
    assert_non_null(strstr(f->err.next, "--initrd"));
    file_put(f->kernel_fd, "\x1f\x8b\x08", 3);
    assert_int_equal(boot_check(&cfg, MIB(64), &f->err), -ENOEXEC);
    assert_non_null(strstr(f->err.what, "gzip"));
    cfg.kernel = NULL;
    assert_int_equal(boot_check(&cfg, MIB(64), &f->err), -EINVAL);
}

static void test_unreadable(void **state)
{
    struct fixture *f = *state;
    char path[] = "/tmp/lodge-boot-XXXXXX";
    struct boot_config cfg = {.kernel = path, .cpus = 1};
    const uid_t euid = geteuid();
    int fd = mkstemp(path), ret;

    assert_true(fd >= 0);
    assert_int_equal(fchmod(fd, 0), 0);
    if (euid == 0)
        assert_int_equal(seteuid(65534), 0); /* root reads everything */
    ret = boot_check(&cfg, MIB(64), &f->err);
    if (euid == 0)
        assert_int_equal(seteuid(euid), 0);
    assert_int_equal(ret, -EACCES);
    assert_non_null(strstr(f->err.next, "readable"));
    close(fd);
    unlink(path);
}

/* No file stays open, whichever way it went. */
static void test_no_leak(void **state)
{
    struct fixture *f = *state;
    int before, after;

    bzimage_make(f);
    assert_int_equal(ftruncate(f->initrd_fd, 100), 0);
    assert_int_equal(load(f, MIB(64), NULL, true), 0);
    before = dup(f->kernel_fd);
    close(before);
    assert_int_equal(load(f, MIB(64), NULL, true), 0);
    assert_int_equal(ftruncate(f->initrd_fd, MIB(100)), 0);
    assert_int_equal(load(f, MIB(64), NULL, true), -ENOMEM);
    f->img.data[0x202] = 0;
    assert_int_equal(load(f, MIB(64), NULL, true), -ENOEXEC);
    after = dup(f->kernel_fd);
    close(after);
    assert_int_equal(after, before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bzimage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bzimage_state, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_high_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_placement, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bzimage_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cmdline_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_initrd_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check_agrees, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elf, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elf_high, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elf_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_leak, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
