/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ELF kernels through PVH: docs/misc/pvh.pandoc of Xen describes the entry,
 * xen/include/public/arch-x86/hvm/start_info.h the start info, and
 * xen/include/public/elfnote.h the note that names the entry. Those without
 * that note may be Multiboot kernels (boot_multiboot.c).
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>

#include "x86/boot_priv.h"

#define NOTE_PHYS32_ENTRY 18
#define MAX_NOTES         1024

#define START_INFO_MAGIC   0x336ec578
#define START_INFO_SIZE    56
#define MODLIST_ENTRY_SIZE 32
#define MEMMAP_ENTRY_SIZE  24

/* A program header of either class. */
struct phdr {
    uint32_t type;
    uint64_t offset, paddr, filesz, memsz, align;
};

struct phdr_table {
    uint64_t off;
    unsigned num, entsize;
    uint64_t entry; /* of the ELF header */
    bool is64;
};

static bool elf_probe(const uint8_t head[BOOT_HEAD_SIZE])
{
    return !memcmp(head, ELFMAG, SELFMAG);
}

static int unusable(const struct boot_image *img, const char *what, struct err *err)
{
    err_set(err, -ENOEXEC, "ELF file '%s' cannot be booted: %s", img->kernel.path, what);
    return err_next(err, "Give a Linux bzImage or an x86 ELF kernel with a PVH entry.");
}

static int truncated(const struct boot_image *img, const char *what, struct err *err)
{
    err_set(err, -ENOEXEC, "kernel '%s' is truncated: its %s end beyond the file's %llu bytes",
            img->kernel.path, what, (unsigned long long)img->kernel.size);
    return err_next(err, "Download or copy it again.");
}

static bool inside(const struct boot_file *f, uint64_t off, uint64_t len)
{
    return off <= f->size && len <= f->size - off;
}

static int parse_header(const struct boot_image *img, struct phdr_table *pt, struct err *err)
{
    const uint8_t *h = img->head;
    uint16_t type, machine;

    pt->is64 = h[EI_CLASS] == ELFCLASS64;
    if (!inside(&img->kernel, 0, pt->is64 ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr)))
        return truncated(img, "headers", err);
    if ((!pt->is64 && h[EI_CLASS] != ELFCLASS32) || h[EI_DATA] != ELFDATA2LSB)
        return unusable(img, "it is not a little-endian 32- or 64-bit file", err);
    machine = boot_get16(h + offsetof(Elf64_Ehdr, e_machine));
    if (machine != EM_X86_64 && machine != EM_386)
        return unusable(img, "it was built for another kind of processor", err);
    type = boot_get16(h + offsetof(Elf64_Ehdr, e_type));
    if (type != ET_EXEC && type != ET_DYN)
        return unusable(img, "it is not an executable (a module or an object file?)", err);
    if (pt->is64) {
        pt->entry = boot_get64(h + offsetof(Elf64_Ehdr, e_entry));
        pt->off = boot_get64(h + offsetof(Elf64_Ehdr, e_phoff));
        pt->entsize = boot_get16(h + offsetof(Elf64_Ehdr, e_phentsize));
        pt->num = boot_get16(h + offsetof(Elf64_Ehdr, e_phnum));
    } else {
        pt->entry = boot_get32(h + offsetof(Elf32_Ehdr, e_entry));
        pt->off = boot_get32(h + offsetof(Elf32_Ehdr, e_phoff));
        pt->entsize = boot_get16(h + offsetof(Elf32_Ehdr, e_phentsize));
        pt->num = boot_get16(h + offsetof(Elf32_Ehdr, e_phnum));
    }
    if (!pt->num || pt->entsize != (pt->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
        return unusable(img, "it has no usable program headers", err);
    if (pt->num > BOOT_ELF_MAX_SEGMENTS)
        return unusable(img, "it has more than 64 program headers", err);
    if (!inside(&img->kernel, pt->off, pt->num * pt->entsize))
        return truncated(img, "program headers", err);
    return 0;
}

static int read_phdr(const struct boot_image *img, const struct phdr_table *pt, unsigned i,
                     struct phdr *ph, struct err *err)
{
    uint8_t raw[sizeof(Elf64_Phdr)];
    int ret = boot_file_read(&img->kernel, pt->off + i * pt->entsize, raw, pt->entsize, err);

    if (ret < 0)
        return ret;
    ph->type = boot_get32(raw);
    if (pt->is64) {
        ph->offset = boot_get64(raw + offsetof(Elf64_Phdr, p_offset));
        ph->paddr = boot_get64(raw + offsetof(Elf64_Phdr, p_paddr));
        ph->filesz = boot_get64(raw + offsetof(Elf64_Phdr, p_filesz));
        ph->memsz = boot_get64(raw + offsetof(Elf64_Phdr, p_memsz));
        ph->align = boot_get64(raw + offsetof(Elf64_Phdr, p_align));
    } else {
        ph->offset = boot_get32(raw + offsetof(Elf32_Phdr, p_offset));
        ph->paddr = boot_get32(raw + offsetof(Elf32_Phdr, p_paddr));
        ph->filesz = boot_get32(raw + offsetof(Elf32_Phdr, p_filesz));
        ph->memsz = boot_get32(raw + offsetof(Elf32_Phdr, p_memsz));
        ph->align = boot_get32(raw + offsetof(Elf32_Phdr, p_align));
    }
    return 0;
}

static bool in_ram(const struct boot_ram *ram, gpa_t gpa, uint64_t len)
{
    gpa_t end;

    if (__builtin_add_overflow(gpa, len, &end))
        return false;
    return (gpa >= BOOT_KERNEL_MIN && end <= ram->low_end) ||
           (gpa >= MEM_HIGH_BASE && end <= ram->high_end);
}

/* Multiboot kernels may lie below 640 KiB, where none of what they are handed is. */
static bool in_low_ram(gpa_t gpa, uint64_t len)
{
    gpa_t end;

    if (__builtin_add_overflow(gpa, len, &end))
        return false;
    return (gpa >= BOOT_START_INFO + PAGE_SIZE && end <= BOOT_CMDLINE) ||
           (gpa >= BOOT_CMDLINE + BOOT_CMDLINE_ROOM && end <= BOOT_EBDA);
}

static int check_load(struct boot_image *img, const struct phdr *ph, struct err *err)
{
    struct boot_elf *elf = &img->elf;
    gpa_t end;

    if (!ph->memsz)
        return 0;
    if (ph->filesz > ph->memsz)
        return unusable(img, "a segment is larger in the file than in memory", err);
    if (!inside(&img->kernel, ph->offset, ph->filesz))
        return truncated(img, "segments", err);
    if (ph->paddr < BOOT_KERNEL_MIN && !elf->multiboot)
        return unusable(img, "a segment wants to be loaded below 1 MiB", err);
    if (ph->paddr < BOOT_KERNEL_MIN && !in_low_ram(ph->paddr, ph->memsz))
        return unusable(img, "a segment wants low memory that is not free", err);
    if (ph->paddr >= BOOT_KERNEL_MIN && !in_ram(&img->ram, ph->paddr, ph->memsz)) {
        if (__builtin_add_overflow(ph->paddr, ph->memsz, &end))
            end = UINT64_MAX;
        return boot_no_room(img, end, err);
    }
    end = ph->paddr + ph->memsz;
    if (end <= MEM_LOW_MAX && end > img->kernel_end)
        img->kernel_end = end;
    elf->seg[elf->nseg++] = (struct boot_segment){ph->paddr, ph->offset, ph->filesz, ph->memsz};
    return 0;
}

/* Look for the PVH entry in one note segment (ELF gABI, "Note Section"). *found says whether it is there. */
static int scan_notes(struct boot_image *img, const struct phdr *ph, bool *found, struct err *err)
{
    const uint64_t align = ph->align == 8 ? 8 : 4;
    uint64_t pos = 0;

    if (!inside(&img->kernel, ph->offset, ph->filesz))
        return truncated(img, "notes", err);
    for (unsigned i = 0; i < MAX_NOTES && ph->filesz - pos >= 12; i++) {
        uint8_t note[12 + 4 + 8] = {0};
        const uint64_t left = ph->filesz - pos;
        uint64_t namesz, descsz, desc, next;
        int ret = boot_file_read(&img->kernel, ph->offset + pos, note,
                                 left < sizeof(note) ? left : sizeof(note), err);

        if (ret < 0)
            return ret;
        namesz = boot_get32(note);
        descsz = boot_get32(note + 4);
        desc = ALIGN_UP(12 + namesz, align);
        next = desc + ALIGN_UP(descsz, align);
        if (boot_get32(note + 8) == NOTE_PHYS32_ENTRY && namesz == 4 &&
            !memcmp(note + 12, "Xen", 4) && (descsz == 4 || descsz == 8) && desc + descsz <= left) {
            img->elf.entry = descsz == 8 ? boot_get64(note + 16) : boot_get32(note + 16);
            *found = true;
            return 0;
        }
        if (next > left)
            return 0;
        pos += next;
    }
    return 0;
}

static bool entry_loaded(const struct boot_elf *elf)
{
    for (unsigned i = 0; i < elf->nseg; i++) {
        const struct boot_segment *s = &elf->seg[i];

        if (elf->entry >= s->gpa && elf->entry - s->gpa < s->filesz)
            return elf->entry < MEM_HIGH_BASE;
    }
    return false;
}

/* One pass over the program headers: the notes (which set *pvh), or what is to be loaded. */
static int scan_phdrs(struct boot_image *img, const struct phdr_table *pt, uint32_t type, bool *pvh,
                      struct err *err)
{
    int ret = 0;

    for (unsigned i = 0; i < pt->num && !ret; i++) {
        struct phdr ph;

        ret = read_phdr(img, pt, i, &ph, err);
        if (ret || ph.type != type)
            continue;
        if (type == PT_LOAD)
            ret = check_load(img, &ph, err);
        else if (!*pvh)
            ret = scan_notes(img, &ph, pvh, err);
    }
    return ret;
}

/* How is it entered, and where? */
static int find_entry(struct boot_image *img, const struct phdr_table *pt, struct err *err)
{
    bool pvh = false;
    int ret = scan_phdrs(img, pt, PT_NOTE, &pvh, err);

    if (ret < 0 || pvh)
        return ret;
    ret = boot_multiboot_find(img, &img->elf.multiboot, err);
    if (ret < 0)
        return ret;
    if (!img->elf.multiboot) {
        err_set(err, -ENOEXEC,
                "ELF file '%s' has no PVH entry (Xen note PHYS32_ENTRY) and no Multiboot header: "
                "it cannot be booted",
                img->kernel.path);
        return err_next(err, "Use the bzImage of this kernel, or build it with CONFIG_PVH=y.");
    }
    img->elf.entry = pt->entry;
    return 0;
}

static int elf_check(struct boot_image *img, struct err *err)
{
    struct phdr_table pt = {0};
    int ret;

    /* The entry first: of a program that is no kernel at all, the missing one is the thing to say. */
    if ((ret = parse_header(img, &pt, err)) < 0 || (ret = find_entry(img, &pt, err)) < 0 ||
        (ret = scan_phdrs(img, &pt, PT_LOAD, NULL, err)) < 0)
        return ret;
    if (!entry_loaded(&img->elf))
        return unusable(img,
                        img->elf.multiboot ? "its entry is not inside a loaded segment"
                                           : "its PVH entry is not inside a loaded segment",
                        err);
    img->cmdline_max = BOOT_CMDLINE_DEFAULT;
    img->initrd_limit = MEM_LOW_MAX;
    return 0;
}

/*
 * After a guest reset old contents are still there. Whole pages go back to
 * being holes of the memfd: cheap, and untouched memory stays unallocated.
 */
static void clear_guest(struct mem *mem, gpa_t gpa, uint64_t len)
{
    hva_t start = mem_hva(mem, gpa, len), end, first, last;

    if (!start)
        return;
    end = start + len;
    first = mem->map + ALIGN_UP((uint64_t)(start - mem->map), PAGE_SIZE);
    last = mem->map + ((uint64_t)(end - mem->map) & PAGE_MASK);
    if (first >= last || mem_discard(mem, gpa, len) < 0) {
        mem_own(mem, start, len);
        memset(start, 0, len);
        return;
    }
    mem_own(mem, start, (uint64_t)(first - start));
    memset(start, 0, first - start);
    mem_own(mem, last, (uint64_t)(end - last));
    memset(last, 0, end - last);
}

static int load_segments(const struct boot_image *img, struct mem *mem, struct err *err)
{
    for (unsigned i = 0; i < img->elf.nseg; i++) {
        const struct boot_segment *s = &img->elf.seg[i];
        int ret = 0;

        if (s->filesz)
            ret = boot_file_load(&img->kernel, s->offset, mem, s->gpa, s->filesz, err);
        if (ret < 0)
            return ret;
        if (s->memsz > s->filesz)
            clear_guest(mem, s->gpa + s->filesz, s->memsz - s->filesz);
    }
    return 0;
}

/* hvm_start_info version 1, then the module list (the initrd) and the memory map. */
static int write_start_info(const struct boot_image *img, struct mem *mem, gpa_t rsdp,
                            struct err *err)
{
    const unsigned modlist = START_INFO_SIZE, memmap = modlist + MODLIST_ENTRY_SIZE;
    uint8_t si[START_INFO_SIZE + MODLIST_ENTRY_SIZE + BOOT_MAX_RANGES * MEMMAP_ENTRY_SIZE] = {0};
    struct boot_range map[BOOT_MAX_RANGES];
    const unsigned n = boot_memmap(&img->ram, map);

    boot_put32(si, START_INFO_MAGIC);
    boot_put32(si + 4, 1);                          /* version */
    boot_put32(si + 12, img->initrd.size ? 1 : 0);  /* nr_modules */
    boot_put64(si + 16, BOOT_START_INFO + modlist); /* modlist_paddr */
    boot_put64(si + 24, BOOT_CMDLINE);              /* cmdline_paddr */
    boot_put64(si + 32, rsdp);                      /* rsdp_paddr */
    boot_put64(si + 40, BOOT_START_INFO + memmap);  /* memmap_paddr */
    boot_put32(si + 48, n);                         /* memmap_entries */
    boot_put64(si + modlist, img->initrd_gpa);      /* paddr, */
    boot_put64(si + modlist + 8, img->initrd.size); /* size */
    for (unsigned i = 0; i < n; i++) {
        uint8_t *e = si + memmap + i * MEMMAP_ENTRY_SIZE;

        boot_put64(e, map[i].base);
        boot_put64(e + 8, map[i].size);
        boot_put32(e + 16, map[i].type);
    }
    return boot_write(mem, BOOT_START_INFO, si, sizeof(si), err);
}

static int elf_load(const struct boot_image *img, struct mem *mem, gpa_t rsdp, struct x86_state *st,
                    struct err *err)
{
    int ret;

    if ((ret = load_segments(img, mem, err)) < 0 ||
        (ret = boot_set_segments(mem, st, false, err)) < 0)
        return ret;
    st->cr0 = X86_CR0_PE | X86_CR0_ET;
    st->rip = img->elf.entry;
    if (img->elf.multiboot)
        return boot_multiboot_enter(img, mem, st, err);
    st->gpr[X86_RBX] = BOOT_START_INFO;
    return write_start_info(img, mem, rsdp, err);
}

const struct boot_format boot_elf = {
    .probe = elf_probe,
    .check = elf_check,
    .load = elf_load,
};
