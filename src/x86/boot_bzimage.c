/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Linux bzImage through the 64-bit entry: Documentation/arch/x86/boot.rst,
 * sections "The Real-Mode Kernel Header" and "64-bit Boot Protocol"; offsets
 * in the zero page are from Documentation/arch/x86/zero-page.rst.
 */
#include <errno.h>

#include "x86/boot_priv.h"

/* Setup header, at the same offsets in the file and in the zero page. */
enum hdr {
    HDR_START = 0x1f1,
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_VID_MODE = 0x1fa,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP_LEN = 0x201,
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_PAYLOAD_OFFSET = 0x248,
    HDR_PAYLOAD_LENGTH = 0x24c,
    HDR_SETUP_DATA = 0x250,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_2_12_END = 0x268, /* what protocol 2.12 has; later ones are longer */
    HDR_MAX_END = 0x290,  /* where the zero page's next field starts */
};

enum zero_page {
    ZP_ACPI_RSDP_ADDR = 0x70,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_E820_TABLE = 0x2d0,
    E820_ENTRY_SIZE = 20,
};

#define LOADED_HIGH     (1u << 0)
#define CAN_USE_HEAP    (1u << 7)
#define XLF_KERNEL_64   (1u << 0)
#define PROTOCOL_MIN    0x020c
#define ENTRY_64        0x200
#define VID_MODE_NORMAL 0xffff
#define SECTOR          512u

static bool bzimage_probe(const uint8_t head[BOOT_HEAD_SIZE])
{
    return boot_get16(head + HDR_BOOT_FLAG) == 0xaa55 && !memcmp(head + HDR_MAGIC, "HdrS", 4);
}

static int truncated(const struct boot_image *img, uint64_t want, struct err *err)
{
    err_set(err, -ENOEXEC,
            "kernel '%s' is truncated: its header speaks of %llu bytes and the file has %llu",
            img->kernel.path, (unsigned long long)want, (unsigned long long)img->kernel.size);
    return err_next(err, "Download or copy it again.");
}

static int corrupt(const struct boot_image *img, const char *what, struct err *err)
{
    err_set(err, -ENOEXEC, "kernel '%s' has a damaged setup header: %s", img->kernel.path, what);
    return err_next(err, "Download or copy it again.");
}

/* Is this a kernel we can enter at all? */
static int check_protocol(const struct boot_image *img, struct err *err)
{
    const uint8_t *h = img->head;
    const unsigned version = boot_get16(h + HDR_VERSION);

    if (version < PROTOCOL_MIN) {
        err_set(err, -ENOEXEC,
                "kernel '%s' speaks boot protocol %u.%02u; its 64-bit entry needs 2.12 or later",
                img->kernel.path, version >> 8, version & 0xff);
        return err_next(err, "Use a 64-bit kernel of version 3.8 or later.");
    }
    if (!(h[HDR_LOADFLAGS] & LOADED_HIGH)) {
        err_set(err, -ENOEXEC, "kernel '%s' is a zImage, loaded below 1 MiB", img->kernel.path);
        return err_next(err, "Use a bzImage.");
    }
    if (!(boot_get16(h + HDR_XLOADFLAGS) & XLF_KERNEL_64)) {
        err_set(err, -ENOEXEC, "kernel '%s' has no 64-bit entry: it was built for 32-bit machines",
                img->kernel.path);
        return err_next(err, "Use an x86-64 kernel (Debian: linux-image-amd64).");
    }
    return 0;
}

/* Find the protected-mode part in the file. */
static int check_size(struct boot_image *img, struct err *err)
{
    const uint8_t *h = img->head;
    struct boot_bzimage *bz = &img->bz;
    const unsigned hdr_end = HDR_MAGIC + h[HDR_JUMP_LEN];
    const unsigned sects = h[HDR_SETUP_SECTS] ? h[HDR_SETUP_SECTS] : 4;
    const uint64_t payload_end =
        (uint64_t)boot_get32(h + HDR_PAYLOAD_OFFSET) + boot_get32(h + HDR_PAYLOAD_LENGTH);

    if (hdr_end < HDR_2_12_END)
        return corrupt(img, "it is shorter than its protocol version says", err);
    bz->hdr_len = (hdr_end < HDR_MAX_END ? hdr_end : HDR_MAX_END) - HDR_START;
    bz->offset = (sects + 1) * SECTOR;
    bz->size = (uint64_t)boot_get32(h + HDR_SYSSIZE) * 16;
    if (bz->size <= ENTRY_64)
        return corrupt(img, "the kernel proper is smaller than its entry offset", err);
    if (bz->offset + bz->size > img->kernel.size)
        return truncated(img, bz->offset + bz->size, err);
    if (payload_end > bz->size)
        return corrupt(img, "the compressed payload ends outside the kernel proper", err);
    return 0;
}

/*
 * A relocatable kernel entered below its preferred address still moves itself
 * up to there before it unpacks, so loading lower never saves memory: the
 * preferred address is the place, or the guest is too small.
 */
static int place_kernel(struct boot_image *img, struct err *err)
{
    const uint8_t *h = img->head;
    struct boot_bzimage *bz = &img->bz;
    const uint64_t align = boot_get32(h + HDR_KERNEL_ALIGNMENT);
    const uint64_t init_size = boot_get32(h + HDR_INIT_SIZE);
    const uint64_t need = init_size > bz->size ? init_size : bz->size;

    bz->load = boot_get64(h + HDR_PREF_ADDRESS);
    if (bz->load > MEM_LOW_MAX)
        return boot_no_room(img, bz->load, err);
    if (h[HDR_RELOCATABLE]) {
        if (!align || align & (align - 1))
            return corrupt(img, "the alignment is not a power of two", err);
        if (bz->load < BOOT_KERNEL_MIN)
            bz->load = BOOT_KERNEL_MIN;
        bz->load = ALIGN_UP(bz->load, align);
    } else if (bz->load < BOOT_KERNEL_MIN) {
        return corrupt(img, "it wants to be loaded below 1 MiB", err);
    }
    img->kernel_end = bz->load + need;
    if (img->kernel_end > img->ram.low_end)
        return boot_no_room(img, img->kernel_end, err);
    return 0;
}

static int bzimage_check(struct boot_image *img, struct err *err)
{
    const uint32_t cmdline_size = boot_get32(img->head + HDR_CMDLINE_SIZE);
    int ret;

    if ((ret = check_protocol(img, err)) < 0 || (ret = check_size(img, err)) < 0 ||
        (ret = place_kernel(img, err)) < 0)
        return ret;
    img->cmdline_max = cmdline_size < BOOT_CMDLINE_ROOM ? cmdline_size : BOOT_CMDLINE_ROOM - 1;
    img->initrd_limit = (gpa_t)boot_get32(img->head + HDR_INITRD_ADDR_MAX) + 1;
    return 0;
}

static int write_zero_page(const struct boot_image *img, struct mem *mem, gpa_t rsdp,
                           struct err *err)
{
    uint8_t zp[PAGE_SIZE] = {0};
    struct boot_range map[BOOT_MAX_RANGES];
    const unsigned n = boot_memmap(&img->ram, map);

    memcpy(zp + HDR_START, img->head + HDR_START, img->bz.hdr_len);
    boot_put16(zp + HDR_VID_MODE, VID_MODE_NORMAL);
    zp[HDR_TYPE_OF_LOADER] = 0xff;
    zp[HDR_LOADFLAGS] &= ~CAN_USE_HEAP; /* the heap belongs to the real-mode part */
    boot_put32(zp + HDR_CODE32_START, img->bz.load);
    boot_put32(zp + HDR_CMD_LINE_PTR, BOOT_CMDLINE);
    boot_put64(zp + HDR_SETUP_DATA, 0);
    boot_put32(zp + HDR_RAMDISK_IMAGE, img->initrd.size ? img->initrd_gpa : 0);
    boot_put32(zp + HDR_RAMDISK_SIZE, img->initrd.size);
    boot_put64(zp + ZP_ACPI_RSDP_ADDR, rsdp);
    zp[ZP_E820_ENTRIES] = n;
    for (unsigned i = 0; i < n; i++) {
        uint8_t *e = zp + ZP_E820_TABLE + i * E820_ENTRY_SIZE;

        boot_put64(e, map[i].base);
        boot_put64(e + 8, map[i].size);
        boot_put32(e + 16, map[i].type);
    }
    return boot_write(mem, BOOT_ZERO_PAGE, zp, sizeof(zp), err);
}

#define PTE_TABLE 0x23ull /* present, writable, accessed */
#define PTE_2M    0xe3ull /* and dirty, page size */

/* Identity map of the low 4 GiB in 2 MiB pages. Returns CR3's value in *root. */
static int write_page_tables(struct mem *mem, gpa_t *root, struct err *err)
{
    const gpa_t pml4 = BOOT_PAGE_TABLES, pdpt = pml4 + PAGE_SIZE, pd = pdpt + PAGE_SIZE;
    uint8_t page[PAGE_SIZE] = {0};
    int ret;

    boot_put64(page, pdpt | PTE_TABLE);
    ret = boot_write(mem, pml4, page, sizeof(page), err);
    for (unsigned i = 0; i < 4; i++)
        boot_put64(page + i * 8, (pd + i * PAGE_SIZE) | PTE_TABLE);
    if (!ret)
        ret = boot_write(mem, pdpt, page, sizeof(page), err);
    for (unsigned i = 0; i < 4 && !ret; i++) {
        for (uint64_t j = 0; j < 512; j++)
            boot_put64(page + j * 8, (i * GIB(1) + j * MIB(2)) | PTE_2M);
        ret = boot_write(mem, pd + i * PAGE_SIZE, page, sizeof(page), err);
    }
    *root = pml4;
    return ret;
}

static int bzimage_load(const struct boot_image *img, struct mem *mem, gpa_t rsdp,
                        struct x86_state *st, struct err *err)
{
    const struct boot_bzimage *bz = &img->bz;
    int ret;

    if ((ret = boot_file_load(&img->kernel, bz->offset, mem, bz->load, bz->size, err)) < 0 ||
        (ret = write_zero_page(img, mem, rsdp, err)) < 0 ||
        (ret = write_page_tables(mem, &st->cr3, err)) < 0 ||
        (ret = boot_set_segments(mem, st, true, err)) < 0)
        return ret;
    st->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG;
    st->cr4 = X86_CR4_PAE;
    st->efer = X86_EFER_LME | X86_EFER_LMA;
    st->gpr[X86_RSI] = BOOT_ZERO_PAGE;
    st->gpr[X86_RSP] = BOOT_STACK_TOP;
    st->rip = bz->load + ENTRY_64;
    return 0;
}

const struct boot_format boot_bzimage = {
    .probe = bzimage_probe,
    .check = bzimage_check,
    .load = bzimage_load,
};
