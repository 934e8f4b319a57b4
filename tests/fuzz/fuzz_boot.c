/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/boot.c src/x86/boot_bzimage.c src/x86/boot_elf.c src/x86/boot_multiboot.c src/x86/acpi.c src/core/mem.c src/base/err.c */
/*
 * Any bytes as a kernel file. The first byte picks the guest's memory and the
 * initrd, the rest is the kernel; or, with bit 7 set, the rest is laid out as
 * fields: (offset 16 bits, value 32 bits) written over a valid bzImage.
 * Guest memory lies between guard regions; the VGA hole must stay untouched.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "x86/boot.h"

#define MEMORY_MAX MIB(64)
#define GUARD      MIB(64)

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Guest memory with guards on both sides, instead of wherever mem_init mapped it. */
static void guarded_mem_init(struct mem *mem, uint64_t size)
{
    uint8_t *p;

    REQUIRE(mem_init(mem, size, NULL) == 0);
    munmap(mem->map, size);
    p = mmap(NULL, GUARD + size + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
             0);
    REQUIRE(p != MAP_FAILED);
    mem->map = mmap(p + GUARD, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, mem->fd, 0);
    REQUIRE(mem->map == p + GUARD);
}

static void guarded_mem_fini(struct mem *mem)
{
    munmap(mem->map - GUARD, GUARD + mem->size + GUARD);
    close(mem->fd);
}

static void write_all(int fd, const uint8_t *data, size_t size)
{
    REQUIRE(pwrite(fd, data, size, 0) == (ssize_t)size);
}

static void put(uint8_t *p, uint64_t v, unsigned n)
{
    for (; n--; v >>= 8)
        *p++ = v;
}

static void write_patched_bzimage(int fd, const uint8_t *data, size_t size)
{
    static const uint8_t jump[] = {0xeb, 0x6a, 'H', 'd', 'r', 'S', 0x0f, 0x02};
    uint8_t img[0x1000] = {0};

    img[0x1f1] = 1;
    put(img + 0x1f4, 0xc00 / 16, 4);
    put(img + 0x1fe, 0xaa55, 2);
    memcpy(img + 0x200, jump, sizeof(jump));
    img[0x211] = 1;
    put(img + 0x22c, 0x7fffffff, 4);
    put(img + 0x230, 0x200000, 4);
    img[0x234] = 1;
    put(img + 0x236, 1, 2);
    put(img + 0x238, 2047, 4);
    put(img + 0x258, 0x1000000, 8);
    put(img + 0x260, 0x400000, 4);
    for (; size >= 6; data += 6, size -= 6)
        memcpy(img + (0x1f0 + (data[0] | data[1] << 8) % 0xa0), data + 2, 4);
    write_all(fd, img, sizeof(img));
}

static void check_loaded(const struct mem *mem, const struct x86_state *st)
{
    const uint8_t *hole = mem->map + KIB(640);

    REQUIRE(mem_hva(mem, st->rip, 1));
    /* A Multiboot kernel's start is prepared in the reserved range. */
    REQUIRE(st->rip >= MIB(1) || st->rip - 0x9fc00 < 0x400);
    REQUIRE(mem_hva(mem, st->gdtr.base, (uint64_t)st->gdtr.limit + 1));
    REQUIRE(!(st->cr0 & X86_CR0_PG) == !(st->efer & X86_EFER_LMA));
    for (uint64_t i = 0; i < KIB(128); i++)
        REQUIRE(!hole[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct x86_state st; /* too large for a fuzzer's stack under sanitizers */
    char kernel[32], initrd[32];
    struct boot_config cfg = {.kernel = kernel, .cmdline = "quiet", .cpus = 1};
    struct err err = {0};
    struct mem mem;
    uint64_t memory;
    int kfd, ifd, checked, loaded;

    if (!size)
        return 0;
    memory = MIB(1 + (data[0] & 0x3f));
    kfd = memfd_create("kernel", MFD_CLOEXEC);
    ifd = memfd_create("initrd", MFD_CLOEXEC);
    REQUIRE(kfd >= 0 && ifd >= 0);
    snprintf(kernel, sizeof(kernel), "/proc/self/fd/%d", kfd);
    snprintf(initrd, sizeof(initrd), "/proc/self/fd/%d", ifd);
    if (data[0] & 0x40) {
        REQUIRE(ftruncate(ifd, MIB(3) + 1) == 0);
        cfg.initrd = initrd;
    }
    if (data[0] & 0x80)
        write_patched_bzimage(kfd, data + 1, size - 1);
    else
        write_all(kfd, data + 1, size - 1);

    guarded_mem_init(&mem, memory);
    checked = boot_check(&cfg, memory, &err);
    REQUIRE(checked <= 0 && (!checked || err.what[0]));
    loaded = boot_load(&mem, &cfg, &st, &err);
    REQUIRE(loaded == checked);
    if (!loaded)
        check_loaded(&mem, &st);
    guarded_mem_fini(&mem);
    close(kfd);
    close(ifd);
    return 0;
}
