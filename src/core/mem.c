/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define VGA_BASE KIB(640)
#define VGA_END  KIB(768)

/* Enough for the ACPI tables below 1 MiB; 40 address bits are what CPUID announces. */
#define MEM_SIZE_MIN MIB(1)
#define MEM_SIZE_MAX ((1ull << 40) - (MEM_HIGH_BASE - MEM_LOW_MAX))

/*
 * Below 4 GiB an address is its own offset in the memfd (the VGA window's
 * part of it is never touched); what lies above follows on.
 */
static void mem_layout(struct mem *mem)
{
    uint64_t low = mem->size < MEM_LOW_MAX ? mem->size : MEM_LOW_MAX;

    mem->slots[0] = (struct mem_slot){0, VGA_BASE, 0};
    mem->slots[1] = (struct mem_slot){VGA_END, low - VGA_END, VGA_END};
    mem->nslots = 2;
    if (mem->size > low)
        mem->slots[mem->nslots++] = (struct mem_slot){MEM_HIGH_BASE, mem->size - low, low};
}

static int mem_check_size(uint64_t size, struct err *err)
{
    if (size % PAGE_SIZE) {
        err_set(err, -EINVAL, "guest memory of %" PRIu64 " bytes is not a multiple of 4096", size);
        return err_next(err, "Give a whole number of MiB.");
    }
    if (size < MEM_SIZE_MIN) {
        err_set(err, -EINVAL, "guest memory of %" PRIu64 " bytes is too small: 1 MiB is the least",
                size);
        return err_next(err, "A Linux guest wants 128 MiB or more.");
    }
    if (size > MEM_SIZE_MAX) {
        err_set(err, -EINVAL,
                "guest memory of %" PRIu64 " bytes does not fit 40 bits of physical address", size);
        return err_next(err, "Give at most 1023 GiB.");
    }
    return 0;
}

int mem_init(struct mem *mem, uint64_t size, struct err *err)
{
    void *map;
    int code, fd;

    *mem = (struct mem){.fd = -1};
    code = mem_check_size(size, err);
    if (code < 0)
        return code;

    fd = memfd_create("lodge-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        code = -errno;
        err_set(err, code, "cannot create guest memory: %s", strerror(-code));
        return code;
    }
    /* Sealed in size: nobody the descriptor is passed to can make the mapping fault. */
    if (ftruncate(fd, (off_t)size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        code = -errno;
        err_set(err, code, "cannot size guest memory to %" PRIu64 " MiB: %s", size >> 20,
                strerror(-code));
        close(fd);
        return code;
    }
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (map == MAP_FAILED) {
        code = -errno;
        err_set(err, code, "cannot map %" PRIu64 " MiB of guest memory: %s", size >> 20,
                strerror(-code));
        err_next(err, "Give the guest less memory, or raise the address space limit (ulimit -v).");
        close(fd);
        return code;
    }
    madvise(map, size, MADV_DONTDUMP);

    mem->fd = fd;
    mem->map = map;
    mem->size = size;
    mem_layout(mem);
    return 0;
}

void mem_fini(struct mem *mem)
{
    if (!mem->map)
        return;
    munmap(mem->map, mem->size);
    close(mem->fd);
    *mem = (struct mem){.fd = -1};
}

gpa_t mem_gpa_of_offset(const struct mem *mem, uint64_t offset)
{
    return offset < MEM_LOW_MAX ? offset : MEM_HIGH_BASE + (offset - MEM_LOW_MAX);
}

int mem_read(const struct mem *mem, gpa_t gpa, void *buf, uint64_t len)
{
    hva_t p = mem_hva(mem, gpa, len);

    if (!p)
        return -EFAULT;
    memcpy(buf, p, len);
    return 0;
}

int mem_write(struct mem *mem, gpa_t gpa, const void *buf, uint64_t len)
{
    hva_t p = mem_hva(mem, gpa, len);

    if (!p)
        return -EFAULT;
    memcpy(p, buf, len);
    return 0;
}

int mem_discard(const struct mem *mem, gpa_t gpa, uint64_t len)
{
    hva_t p = mem_hva(mem, gpa, len);
    uint64_t from, to;

    if (!p)
        return -EFAULT;
    from = ALIGN_UP((uint64_t)(p - mem->map), PAGE_SIZE);
    to = ((uint64_t)(p - mem->map) + len) & PAGE_MASK;
    if (from >= to)
        return 0;
    if (fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                  (off_t)(to - from)) < 0)
        return -errno;
    return 0;
}
