/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Multiboot for ELF kernels: Multiboot Specification version 0.6.96, section
 * 3.1 for the header in the file, 3.2 for the state at the entry and 3.3 for
 * the information handed over. Such kernels come from PCs with a BIOS, and some
 * go back to real mode: they find its interrupt table, and its timer ticking.
 */
#include <errno.h>

#include "x86/boot_priv.h"
#include "x86/platform.h"

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

/* ---- What a BIOS leaves behind ------------------------------------------ */

#define VECTORS      256
#define VECTOR_IRQ0  0x08
#define VECTOR_IRQ8  0x70
#define FIRMWARE     BOOT_EBDA /* reserved in the memory map, 1 KiB */
#define IRET_AT      0
#define TIMER_AT     0x10
#define MASTER_AT    0x30
#define SLAVE_AT     0x40
#define START_AT     0x50
#define FIRMWARE_LEN 0xa0

/* Real mode. The timer's handler counts at 0x46c, in the BIOS data area. */
static const uint8_t iret_code[] = {0xcf};
static const uint8_t timer_code[] = {0x1e, 0x50, 0x31, 0xc0,           0x8e,
                                     0xd8, /* push ds; push ax; xor ax, ax; mov ds, ax */
                                     0x66, 0xff, 0x06, 0x6c,           0x04, /* inc dword [0x46c] */
                                     0xb0, 0x20, 0xe6, PIO_PIC_MASTER, 0x58,
                                     0x1f, 0xcf}; /* mov al, 20h; out; pop ax; pop ds; iret */
static const uint8_t master_code[] = {0x50, 0xb0, 0x20, 0xe6, PIO_PIC_MASTER, 0x58, 0xcf};
static const uint8_t slave_code[] = {0x50, 0xb0,           0x20, 0xe6, PIO_PIC_SLAVE,
                                     0xe6, PIO_PIC_MASTER, 0x58, 0xcf};

/* The 8259 pair at its vectors, all but the timer masked; the timer at 18.2 Hz. */
static const struct {
    uint8_t port, val;
} set_up[] = {
    {PIO_PIC_MASTER, 0x11},
    {PIO_PIC_MASTER + 1, VECTOR_IRQ0},
    {PIO_PIC_MASTER + 1, 4},
    {PIO_PIC_MASTER + 1, 1},
    {PIO_PIC_SLAVE, 0x11},
    {PIO_PIC_SLAVE + 1, VECTOR_IRQ8},
    {PIO_PIC_SLAVE + 1, 2},
    {PIO_PIC_SLAVE + 1, 1},
    {PIO_PIC_MASTER + 1, 0xfa},
    {PIO_PIC_SLAVE + 1, 0xff},
    {PIO_PIT + 3, 0x36},
    {PIO_PIT, 0},
    {PIO_PIT, 0},
};

_Static_assert(START_AT + 4 * ARRAY_SIZE(set_up) + 10 <= FIRMWARE_LEN, "room for the code");
_Static_assert(FIRMWARE + FIRMWARE_LEN <= 0xa0000, "room in the reserved range");

static uint32_t handler_of(unsigned vector)
{
    unsigned at = IRET_AT;

    if (vector == VECTOR_IRQ0)
        at = TIMER_AT;
    else if (vector - VECTOR_IRQ0 < 8)
        at = MASTER_AT;
    else if (vector - VECTOR_IRQ8 < 8)
        at = SLAVE_AT;
    return (uint32_t)(FIRMWARE >> 4) << 16 | at;
}

/*
 * Handlers, interrupt table, and the code that runs first, in the state the
 * kernel is to be entered in: sets up the timer and goes to `entry`. It is
 * guest code because the chips may be inside an engine.
 */
static int write_firmware(struct mem *mem, uint32_t entry, struct err *err)
{
    uint8_t code[FIRMWARE_LEN] = {0}, ivt[4 * VECTORS], *p = code + START_AT;
    int ret;

    memcpy(code + IRET_AT, iret_code, sizeof(iret_code));
    memcpy(code + TIMER_AT, timer_code, sizeof(timer_code));
    memcpy(code + MASTER_AT, master_code, sizeof(master_code));
    memcpy(code + SLAVE_AT, slave_code, sizeof(slave_code));
    for (unsigned i = 0; i < ARRAY_SIZE(set_up); i++) {
        *p++ = 0xb0; /* mov al, val */
        *p++ = set_up[i].val;
        *p++ = 0xe6; /* out port, al */
        *p++ = set_up[i].port;
    }
    *p++ = 0xb8; /* mov eax, magic */
    boot_put32(p, ENTRY_MAGIC);
    p[4] = 0xe9; /* jmp entry */
    boot_put32(p + 5, entry - (uint32_t)(FIRMWARE + (uint64_t)(p + 9 - code)));
    for (unsigned i = 0; i < VECTORS; i++)
        boot_put32(ivt + 4 * i, handler_of(i));
    ret = boot_write(mem, FIRMWARE, code, sizeof(code), err);
    return ret ? ret : boot_write(mem, 0, ivt, sizeof(ivt), err);
}

int boot_multiboot_enter(const struct boot_image *img, struct mem *mem, struct x86_state *st,
                         struct err *err)
{
    int ret;

    if ((ret = write_cmdline(img, mem, err)) < 0 || (ret = write_info(img, mem, err)) < 0 ||
        (ret = write_firmware(mem, (uint32_t)img->elf.entry, err)) < 0)
        return ret;
    st->rip = FIRMWARE + START_AT;
    st->gpr[X86_RBX] = BOOT_START_INFO;
    return 0;
}
