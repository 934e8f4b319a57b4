/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening, checking and placing what a direct boot needs. boot_check and
 * boot_load share boot_prepare, which touches no guest memory: what it accepts
 * can only fail to load if the files change meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "x86/acpi.h"
#include "x86/boot_priv.h"

static const struct boot_format *const formats[] = {&boot_elf, &boot_bzimage};

static uint64_t mib_up(uint64_t n)
{
    return n / MIB(1) + (n % MIB(1) != 0);
}

static int file_stat(struct boot_file *f, struct err *err)
{
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return err_set(err, -errno, "cannot examine %s '%s': %s", f->role, f->path,
                       strerror(errno));
    if (!S_ISREG(st.st_mode)) {
        err_set(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "%s '%s' is %s", f->role, f->path,
                S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
        return err_next(err, "Give the file itself with --%s.", f->role);
    }
    if (!st.st_size) {
        err_set(err, -ENOEXEC, "%s '%s' is empty", f->role, f->path);
        return err_next(err, "Check that it was downloaded or copied completely.");
    }
    f->size = st.st_size;
    return 0;
}

static int file_open(struct boot_file *f, const char *role, const char *path, struct err *err)
{
    int code;

    f->role = role;
    f->path = path;
    /* O_NONBLOCK: a FIFO must be refused, not waited for. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd >= 0)
        return file_stat(f, err);
    code = -errno;
    err_set(err, code, "cannot open %s '%s': %s", role, path, strerror(-code));
    if (code == -EACCES || code == -EPERM)
        return err_next(err, "Make it readable for this user, or give another file with --%s.",
                        role);
    return err_next(err, "Check the path given with --%s.", role);
}

static void file_close(struct boot_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len,
                   struct err *err)
{
    for (uint64_t done = 0; done < len;) {
        ssize_t n = pread(f->fd, (uint8_t *)buf + done, len - done, (off_t)(off + done));

        if (n > 0) {
            done += n;
        } else if (n == 0) {
            return err_set(err, -EIO, "%s '%s' became shorter while it was read", f->role, f->path);
        } else if (errno != EINTR) {
            return err_set(err, -errno, "cannot read %s '%s': %s", f->role, f->path,
                           strerror(errno));
        }
    }
    return 0;
}

int boot_file_load(const struct boot_file *f, uint64_t off, struct mem *mem, gpa_t gpa,
                   uint64_t len, struct err *err)
{
    hva_t hva = mem_hva(mem, gpa, len);

    if (!hva)
        return err_set(err, -EFAULT,
                       "%s '%s' does not fit: no guest memory at %#" PRIx64 "+%#" PRIx64, f->role,
                       f->path, gpa, len);
    mem_own(mem, hva, len);
    return boot_file_read(f, off, hva, len, err);
}

int boot_write(struct mem *mem, gpa_t gpa, const void *buf, uint64_t len, struct err *err)
{
    if (mem_write(mem, gpa, buf, len) < 0)
        return err_set(err, -EFAULT, "the guest has no memory at %#" PRIx64 " for boot parameters",
                       gpa);
    return 0;
}

int boot_no_room(const struct boot_image *img, gpa_t end, struct err *err)
{
    if (end > MEM_LOW_MAX) {
        err_set(err, -ENOEXEC,
                "kernel '%s' asks for memory up to %#" PRIx64 ", more than a guest has below 4 GiB",
                img->kernel.path, end);
        return err_next(err, "The file is probably damaged; try another kernel.");
    }
    err_set(err, -ENOMEM,
            "kernel '%s' does not fit: it needs the first %" PRIu64
            " MiB of memory and the guest has %" PRIu64 " MiB",
            img->kernel.path, mib_up(end), img->memory >> 20);
    return err_next(err, "Give the guest more than %" PRIu64 " MiB with --memory.", mib_up(end));
}

unsigned boot_memmap(const struct boot_ram *ram, struct boot_range map[BOOT_MAX_RANGES])
{
    unsigned n = 0;

    map[n++] = (struct boot_range){0, BOOT_EBDA, BOOT_RAM};
    map[n++] = (struct boot_range){BOOT_EBDA, 0xa0000 - BOOT_EBDA, BOOT_RESERVED};
    map[n++] = (struct boot_range){0xa0000, MIB(1) - 0xa0000, BOOT_RESERVED};
    map[n++] = (struct boot_range){MIB(1), ram->low_end - MIB(1), BOOT_RAM};
    if (ram->high_end > MEM_HIGH_BASE)
        map[n++] = (struct boot_range){MEM_HIGH_BASE, ram->high_end - MEM_HIGH_BASE, BOOT_RAM};
    return n;
}

/* The descriptor that loads as `seg` (SDM volume 3, section 3.4.5). */
static uint64_t gdt_descriptor(const struct x86_seg *seg)
{
    uint64_t limit = seg->attr & X86_ATTR_G ? seg->limit >> 12 : seg->limit;

    return (limit & 0xffff) | (seg->base & 0xffffff) << 16 | (uint64_t)(seg->attr & 0xff) << 40 |
           (limit >> 16 & 0xf) << 48 | (uint64_t)(seg->attr >> 12 & 0xf) << 52 |
           (seg->base >> 24 & 0xff) << 56;
}

int boot_set_segments(struct mem *mem, struct x86_state *st, bool long_mode, struct err *err)
{
    static const uint8_t tss[104];
    const uint32_t flat = X86_ATTR_S | X86_ATTR_P | X86_ATTR_G;
    const struct x86_seg code = {
        .limit = 0xffffffff,
        .attr = flat | 0xb | (long_mode ? X86_ATTR_L : X86_ATTR_DB),
        .sel = 0x10,
    };
    const struct x86_seg data = {
        .limit = 0xffffffff, .attr = flat | 0x3 | X86_ATTR_DB, .sel = 0x18};
    uint8_t gdt[6 * 8] = {0};
    int ret;

    for (unsigned i = 0; i < X86_NSREGS; i++)
        st->seg[i] = i == X86_CS ? code : data;
    st->tr = (struct x86_seg){
        .base = BOOT_TSS, .limit = sizeof(tss) - 1, .attr = X86_ATTR_P | 0xb, .sel = 0x20};
    st->ldtr = (struct x86_seg){.limit = 0xffff, .attr = X86_ATTR_P | 0x2};
    st->gdtr = (struct x86_dtr){.base = BOOT_GDT, .limit = sizeof(gdt) - 1};
    st->idtr = (struct x86_dtr){0};

    boot_put64(gdt + 0x10, gdt_descriptor(&code));
    boot_put64(gdt + 0x18, gdt_descriptor(&data));
    boot_put64(gdt + 0x20, gdt_descriptor(&st->tr)); /* its upper half in long mode is zero */
    ret = boot_write(mem, BOOT_GDT, gdt, sizeof(gdt), err);
    return ret ? ret : boot_write(mem, BOOT_TSS, tss, sizeof(tss), err);
}

static struct boot_ram ram_of_size(uint64_t memory)
{
    struct boot_ram ram = {.low_end = memory, .high_end = MEM_HIGH_BASE};

    if (memory > MEM_LOW_MAX) {
        ram.low_end = MEM_LOW_MAX;
        ram.high_end += memory - MEM_LOW_MAX;
    }
    return ram;
}

static struct boot_ram ram_of_mem(const struct mem *mem)
{
    struct boot_ram ram = {.high_end = MEM_HIGH_BASE};

    for (unsigned i = 0; i < mem->nslots; i++) {
        const struct mem_slot *s = &mem->slots[i];

        if (s->base >= MEM_HIGH_BASE)
            ram.high_end = s->base + s->size;
        else if (s->base + s->size > ram.low_end)
            ram.low_end = s->base + s->size;
    }
    return ram;
}

static int pick_format(struct boot_image *img, struct err *err)
{
    const struct boot_file *f = &img->kernel;
    uint64_t n = f->size < BOOT_HEAD_SIZE ? f->size : BOOT_HEAD_SIZE;
    int ret = boot_file_read(f, 0, img->head, n, err);

    if (ret < 0)
        return ret;
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
        if (formats[i]->probe(img->head)) {
            img->format = formats[i];
            return 0;
        }
    }
    if (img->head[0] == 0x1f && img->head[1] == 0x8b)
        err_set(err, -ENOEXEC, "kernel '%s' is a gzip archive, not a bootable kernel", f->path);
    else
        err_set(err, -ENOEXEC, "'%s' is not a kernel: neither a Linux bzImage nor an ELF file",
                f->path);
    return err_next(err, "Give a Linux bzImage (such as /boot/vmlinuz-VERSION) or an ELF vmlinux "
                         "with --kernel.");
}

static int check_cmdline(struct boot_image *img, const char *cmdline, struct err *err)
{
    size_t len;

    img->cmdline = cmdline ? cmdline : "";
    len = strlen(img->cmdline);
    if (len > img->cmdline_max) {
        err_set(err, -E2BIG,
                "the kernel command line has %zu characters and kernel '%s' takes at most %" PRIu32,
                len, img->kernel.path, img->cmdline_max);
        return err_next(err, "Shorten --append.");
    }
    img->cmdline_len = len;
    return 0;
}

/* As high as the kernel and the memory permit: the kernel unpacks itself upwards from below. */
static int place_initrd(struct boot_image *img, struct err *err)
{
    const struct boot_file *f = &img->initrd;
    const gpa_t limit = img->initrd_limit < MEM_LOW_MAX ? img->initrd_limit : MEM_LOW_MAX;
    const gpa_t top = img->ram.low_end < limit ? img->ram.low_end : limit;
    gpa_t need;

    if (f->size <= top && ((top - f->size) & PAGE_MASK) >= img->kernel_end) {
        img->initrd_gpa = (top - f->size) & PAGE_MASK;
        return 0;
    }
    if (f->size > limit || img->kernel_end + ALIGN_UP(f->size, PAGE_SIZE) > limit) {
        err_set(err, -EFBIG,
                "initrd '%s' of %" PRIu64 " MiB is too large: the kernel takes at most %" PRIu64
                " MiB",
                f->path, mib_up(f->size),
                limit > img->kernel_end ? (limit - img->kernel_end) >> 20 : 0);
        return err_next(err, "Use a smaller initrd and put the rest on a disk.");
    }
    need = mib_up(img->kernel_end + ALIGN_UP(f->size, PAGE_SIZE));
    err_set(err, -ENOMEM,
            "initrd '%s' of %" PRIu64 " MiB does not fit: the guest has %" PRIu64
            " MiB and the kernel takes the first %" PRIu64,
            f->path, mib_up(f->size), img->memory >> 20, mib_up(img->kernel_end));
    return err_next(err, "Give the guest more than %" PRIu64 " MiB with --memory.", need);
}

/* Files open on success and failure alike: boot_finish closes them. */
static int boot_prepare(struct boot_image *img, const struct boot_config *cfg, struct boot_ram ram,
                        uint64_t memory, struct err *err)
{
    int ret;

    memset(img, 0, sizeof(*img));
    img->kernel.fd = img->initrd.fd = -1;
    img->ram = ram;
    img->memory = memory;
    img->kernel_end = BOOT_KERNEL_MIN;
    if (!cfg->kernel) {
        err_set(err, -EINVAL, "there is no kernel to boot");
        return err_next(err, "Name one with --kernel.");
    }
    if ((ret = file_open(&img->kernel, "kernel", cfg->kernel, err)) < 0 ||
        (ret = pick_format(img, err)) < 0 || (ret = img->format->check(img, err)) < 0 ||
        (ret = check_cmdline(img, cfg->cmdline, err)) < 0)
        return ret;
    if (!cfg->initrd)
        return 0;
    ret = file_open(&img->initrd, "initrd", cfg->initrd, err);
    return ret < 0 ? ret : place_initrd(img, err);
}

static void boot_finish(struct boot_image *img)
{
    file_close(&img->kernel);
    file_close(&img->initrd);
}

int boot_check(const struct boot_config *cfg, uint64_t memory, struct err *err)
{
    struct boot_image img;
    int ret = boot_prepare(&img, cfg, ram_of_size(memory), memory, err);

    boot_finish(&img);
    return ret;
}

int boot_load(struct mem *mem, const struct boot_config *cfg, struct x86_state *bsp,
              struct err *err)
{
    struct boot_image img;
    gpa_t rsdp;
    int ret;

    if ((ret = boot_prepare(&img, cfg, ram_of_mem(mem), mem->size, err)) < 0 ||
        (ret = acpi_build(mem, cfg->cpus, &rsdp, err)) < 0 ||
        (ret = boot_write(mem, BOOT_CMDLINE, img.cmdline, img.cmdline_len + 1, err)) < 0)
        goto out;
    if (img.initrd.fd >= 0 &&
        (ret = boot_file_load(&img.initrd, 0, mem, img.initrd_gpa, img.initrd.size, err)) < 0)
        goto out;
    bsp->cr2 = bsp->cr3 = bsp->cr4 = 0;
    bsp->efer = 0;
    bsp->rflags = 2;
    bsp->cpl = 0;
    bsp->run = X86_RUNNING;
    memset(bsp->gpr, 0, sizeof(bsp->gpr));
    ret = img.format->load(&img, mem, rsdp, bsp, err);
out:
    boot_finish(&img);
    return ret;
}
