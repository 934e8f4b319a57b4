/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Multiboot for ELF kernels: Multiboot Specification version 0.6.96, section
 * 3.1 for the header in the file, 3.2 for the state at the entry and 3.3 for
 * the information handed over.
 */
#include <errno.h>

#include "x86/boot_priv.h"

#define SEARCH       8192 /* the header lies in the file's first bytes, aligned to four */
#define HEADER_MAGIC 0x1badb002
#define ENTRY_MAGIC  0x2badb002

/* What a header can ask for; bits 0 to 15 must be served or the kernel refused. */
#define WANTS_ALIGNED_MODULES (1u << 0)
#define WANTS_MEMORY          (1u << 1)
#define WANTS_ALL             0xffffu
#define HAS_ADDRESSES         (1u << 16)

enum info {
    INFO_FLAGS = 0,
    INFO_MEM_LOWER = 4,
    INFO_MEM_UPPER = 8,
    INFO_CMDLINE = 16,
    INFO_MODS_COUNT = 20,
    INFO_MODS_ADDR = 24,
    INFO_MMAP_LENGTH = 44,
    INFO_MMAP_ADDR = 48,
    INFO_LOADER_NAME = 64,
    INFO_SIZE = 88, /* up to the VBE table */
};

#define HAS_MEMORY      (1u << 0)
#define HAS_CMDLINE     (1u << 2)
#define HAS_MODULES     (1u << 3)
#define HAS_MMAP        (1u << 6)
#define HAS_LOADER_NAME (1u << 9)

#define MODULE_SIZE     16
#define MMAP_ENTRY_SIZE 24 /* with the size field, which does not count itself */

static const char loader_name[] = "lodge";

/* Offset of a header with a right checksum (3.1.2), or `len`. */
static uint64_t header_at(const uint8_t *head, uint64_t len)
{
    for (uint64_t i = 0; i + 12 <= len; i += 4) {
        const uint8_t *h = head + i;

        if (boot_get32(h) == HEADER_MAGIC &&
            boot_get32(h) + boot_get32(h + 4) + boot_get32(h + 8) == 0)
            return i;
    }
    return len;
}

int boot_multiboot_find(const struct boot_image *img, bool *found, struct err *err)
{
    uint8_t head[SEARCH];
    const uint64_t len = img->kernel.size < SEARCH ? img->kernel.size : SEARCH;
    uint32_t flags;
    uint64_t at;
    int ret = boot_file_read(&img->kernel, 0, head, len, err);

    *found = false;
    if (ret < 0 || (at = header_at(head, len)) == len)
        return ret;
    flags = boot_get32(head + at + 4);
    if (flags & WANTS_ALL & ~(WANTS_ALIGNED_MODULES | WANTS_MEMORY)) {
        err_set(err, -ENOTSUP,
                "Multiboot kernel '%s' asks for a video mode or something else (flags %#x) that "
                "lodge does not have",
                img->kernel.path, (unsigned)flags);
        return err_next(err, "Use a kernel that can do without.");
    }
    if (flags & HAS_ADDRESSES) {
        err_set(err, -ENOTSUP,
                "Multiboot kernel '%s' is to be loaded by the addresses in its Multiboot header, "
                "not by its ELF headers",
                img->kernel.path);
        return err_next(err, "Build it without the address fields (bit 16 of the flags).");
    }
    *found = true;
    return 0;
}

/* The command line begins with the kernel's name, as from other boot loaders: programs count arguments from there. */
static int write_cmdline(const struct boot_image *img, struct mem *mem, struct err *err)
{
    const char *slash = strrchr(img->kernel.path, '/');
    const char *name = slash ? slash + 1 : img->kernel.path;
    const size_t len = strlen(name);
    int ret = boot_write(mem, BOOT_CMDLINE, name, len + 1, err);

    if (ret < 0 || !img->cmdline_len)
        return ret;
    ret = boot_write(mem, BOOT_CMDLINE + len, " ", 1, err);
    return ret ? ret
               : boot_write(mem, BOOT_CMDLINE + len + 1, img->cmdline, img->cmdline_len + 1, err);
}

static int write_info(const struct boot_image *img, struct mem *mem, struct err *err)
{
    const unsigned module = INFO_SIZE, name = module + MODULE_SIZE, mmap = name + 8;
    uint8_t mbi[INFO_SIZE + MODULE_SIZE + 8 + BOOT_MAX_RANGES * MMAP_ENTRY_SIZE] = {0};
    const bool initrd = img->initrd.size != 0;
    struct boot_range map[BOOT_MAX_RANGES];
    const unsigned n = boot_memmap(&img->ram, map);

    _Static_assert(sizeof(loader_name) <= 8, "the name has eight bytes");
    memcpy(mbi + name, loader_name, sizeof(loader_name));
    boot_put32(mbi + INFO_FLAGS,
               HAS_MEMORY | HAS_CMDLINE | HAS_MODULES | HAS_MMAP | HAS_LOADER_NAME);
    boot_put32(mbi + INFO_MEM_LOWER, BOOT_EBDA >> 10);
    boot_put32(mbi + INFO_MEM_UPPER, (img->ram.low_end - MIB(1)) >> 10);
    boot_put32(mbi + INFO_CMDLINE, BOOT_CMDLINE);
    boot_put32(mbi + INFO_MODS_COUNT, initrd);
    boot_put32(mbi + INFO_MODS_ADDR, BOOT_START_INFO + module);
    boot_put32(mbi + INFO_MMAP_LENGTH, n * MMAP_ENTRY_SIZE);
    boot_put32(mbi + INFO_MMAP_ADDR, BOOT_START_INFO + mmap);
    boot_put32(mbi + INFO_LOADER_NAME, BOOT_START_INFO + name);
    if (initrd) {
        boot_put32(mbi + module, img->initrd_gpa);
        boot_put32(mbi + module + 4, img->initrd_gpa + img->initrd.size);
    }
    for (unsigned i = 0; i < n; i++) {
        uint8_t *e = mbi + mmap + i * MMAP_ENTRY_SIZE;

        boot_put32(e, MMAP_ENTRY_SIZE - 4);
        boot_put64(e + 4, map[i].base);
        boot_put64(e + 12, map[i].size);
        boot_put32(e + 20, map[i].type);
    }
    return boot_write(mem, BOOT_START_INFO, mbi, sizeof(mbi), err);
}

int boot_multiboot_enter(const struct boot_image *img, struct mem *mem, struct x86_state *st,
                         struct err *err)
{
    int ret;

    if ((ret = write_cmdline(img, mem, err)) < 0 || (ret = write_info(img, mem, err)) < 0)
        return ret;
    st->gpr[X86_RAX] = ENTRY_MAGIC;
    st->gpr[X86_RBX] = BOOT_START_INFO;
    return 0;
}
