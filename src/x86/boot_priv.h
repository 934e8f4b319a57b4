/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What boot.c and the kernel formats (boot_bzimage.c, boot_elf.c, boot_multiboot.c) share. */
#ifndef LODGE_X86_BOOT_PRIV_H
#define LODGE_X86_BOOT_PRIV_H

#include <endian.h>
#include <string.h>

#include "x86/boot.h"

/*
 * Where things go below 640 KiB. Everything here is read by the kernel's entry
 * code and free for its use afterwards. docs/guest-interface.md shows the map.
 */
#define BOOT_GDT          0x1000
#define BOOT_TSS          0x1800
#define BOOT_START_INFO   0x2000
#define BOOT_ZERO_PAGE    0x7000
#define BOOT_STACK_TOP    0x8ff0
#define BOOT_PAGE_TABLES  0x9000 /* PML4, PDPT and four page directories */
#define BOOT_CMDLINE      0x20000
#define BOOT_CMDLINE_ROOM 0x10000 /* with the terminating zero */
#define BOOT_EBDA         0x9fc00

#define BOOT_KERNEL_MIN      MIB(1)
#define BOOT_CMDLINE_DEFAULT 2047 /* COMMAND_LINE_SIZE of x86 Linux less the zero */

#define BOOT_HEAD_SIZE 4096

enum boot_range_type { BOOT_RAM = 1, BOOT_RESERVED = 2 }; /* as in E820 and in PVH's memory map */

struct boot_range {
    gpa_t base;
    uint64_t size;
    enum boot_range_type type;
};

#define BOOT_MAX_RANGES 8

/* The guest's RAM above 1 MiB: [1 MiB, low_end) and [4 GiB, high_end), the second may be empty. */
struct boot_ram {
    gpa_t low_end, high_end;
};

struct boot_file {
    const char *role; /* "kernel" or "initrd" */
    const char *path;
    int fd;
    uint64_t size;
};

#define BOOT_ELF_MAX_SEGMENTS 64

struct boot_segment {
    gpa_t gpa;
    uint64_t offset, filesz, memsz;
};

struct boot_elf {
    gpa_t entry;
    struct boot_segment seg[BOOT_ELF_MAX_SEGMENTS];
    unsigned nseg;
    bool multiboot; /* entered that way; else through PVH */
};

struct boot_bzimage {
    gpa_t load;       /* of the protected-mode part */
    uint64_t offset;  /* of it in the file */
    uint64_t size;    /* of it in bytes */
    unsigned hdr_len; /* bytes of setup header from 0x1f1 on */
};

struct boot_format;

/* A boot that has been checked: what to read, and where everything goes. */
struct boot_image {
    struct boot_ram ram;
    uint64_t memory; /* bytes of guest RAM, for messages */
    struct boot_file kernel, initrd;
    const char *cmdline; /* never NULL */
    uint32_t cmdline_len;
    const struct boot_format *format;
    uint8_t head[BOOT_HEAD_SIZE]; /* first bytes of the kernel file, zero beyond its end */

    /* Filled by format->check. */
    uint32_t cmdline_max; /* without the terminating zero */
    gpa_t kernel_end;     /* below 4 GiB: nothing else may lie between 1 MiB and here */
    gpa_t initrd_limit;   /* the kernel finds no initrd that ends above this */
    union {
        struct boot_bzimage bz;
        struct boot_elf elf;
    };

    gpa_t initrd_gpa; /* valid when there is an initrd */
};

/* A kernel file format. A format is picked by its magic, so later complaints can be specific. */
struct boot_format {
    bool (*probe)(const uint8_t head[BOOT_HEAD_SIZE]);
    /* Parse and place the kernel; touches no guest memory. */
    int (*check)(struct boot_image *img, struct err *err);
    /* Copy the kernel in, write its parameters and point `st` at its entry. */
    int (*load)(const struct boot_image *img, struct mem *mem, gpa_t rsdp, struct x86_state *st,
                struct err *err);
};

extern const struct boot_format boot_bzimage;
extern const struct boot_format boot_elf;

/* Is there a Multiboot header in this ELF file? An error when it asks for what there isn't. */
int boot_multiboot_find(const struct boot_image *img, bool *found, struct err *err);

/*
 * Write the Multiboot information, the command line and what a BIOS leaves
 * behind, and point st at code that goes to the kernel's entry with what that
 * expects in its registers.
 */
int boot_multiboot_enter(const struct boot_image *img, struct mem *mem, struct x86_state *st,
                         struct err *err);

/* Read exactly `len` bytes at `off` into buf or guest memory; a short file is an error. */
int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len,
                   struct err *err);
int boot_file_load(const struct boot_file *f, uint64_t off, struct mem *mem, gpa_t gpa,
                   uint64_t len, struct err *err);

/* mem_write for the boot structures; failing is our bug or a VM without low memory. */
int boot_write(struct mem *mem, gpa_t gpa, const void *buf, uint64_t len, struct err *err);

/* "The kernel needs more memory": `end` is the first address it does not need. */
int boot_no_room(const struct boot_image *img, gpa_t end, struct err *err);

/* The physical memory map, ascending. Returns the number of ranges, at most BOOT_MAX_RANGES. */
unsigned boot_memmap(const struct boot_ram *ram, struct boot_range map[BOOT_MAX_RANGES]);

/*
 * Write the boot GDT and load every segment register from it: CS is 64-bit or
 * 32-bit code at selector 0x10, the others flat data at 0x18, TR a busy TSS.
 */
int boot_set_segments(struct mem *mem, struct x86_state *st, bool long_mode, struct err *err);

static inline uint16_t boot_get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return le16toh(v);
}

static inline uint32_t boot_get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

static inline uint64_t boot_get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return le64toh(v);
}

static inline void boot_put16(uint8_t *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, sizeof(v));
}

static inline void boot_put32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof(v));
}

static inline void boot_put64(uint8_t *p, uint64_t v)
{
    v = htole64(v);
    memcpy(p, &v, sizeof(v));
}

#endif
