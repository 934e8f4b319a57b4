/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest RAM: one memfd, mapped shared once, seen by the guest through a few
 * slots. [0, 640K), [768K, low) and [4G, 4G+high); the gap below 4G is for
 * memory-mapped I/O, the VGA window is not RAM.
 */
#ifndef LODGE_CORE_MEM_H
#define LODGE_CORE_MEM_H

#include <sys/uio.h>

#include "base/err.h"
#include "base/types.h"

#define MEM_LOW_MAX   0xc0000000ull /* RAM never reaches higher below 4 GiB */
#define MEM_HIGH_BASE 0x100000000ull
#define MEM_MAX_SLOTS 4

struct mem_slot {
    gpa_t base;
    uint64_t size;
    uint64_t offset; /* in the memfd and in the mapping */
};

struct mem {
    int fd;
    hva_t map; /* whole memfd, MAP_SHARED; the pages are all-zero until touched */
    uint64_t size;
    struct mem_slot slots[MEM_MAX_SLOTS];
    unsigned nslots;
};

/* `size` in bytes, a multiple of 4096. On failure nothing is held. */
int mem_init(struct mem *mem, uint64_t size, struct err *err);
void mem_fini(struct mem *mem);

/*
 * Host address of [gpa, gpa+len) if it is RAM in one slot, else NULL. Any thread; valid until mem_fini. Inline: the software engine calls it where
 * vector registers are the guest's.
 */
static inline hva_t mem_hva(const struct mem *mem, gpa_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < mem->nslots; i++) {
        const struct mem_slot *s = &mem->slots[i];
        uint64_t off = gpa - s->base;

        if (off < s->size)
            return len <= s->size - off ? mem->map + s->offset + off : NULL;
    }
    return NULL;
}

/* Inverse for an address inside the mapping: its offset in the memfd is (hva - mem->map). */
gpa_t mem_gpa_of_offset(const struct mem *mem, uint64_t offset);

/* Copy; -EFAULT when any byte is not RAM (nothing is copied then). */
int mem_read(const struct mem *mem, gpa_t gpa, void *buf, uint64_t len);
int mem_write(struct mem *mem, gpa_t gpa, const void *buf, uint64_t len);

/*
 * Give the whole pages of [gpa, gpa+len) back to the host; they read as zero from then on. -EFAULT when any byte is
 * not RAM, another negative errno when the host does not take them; nothing has changed then. Any thread.
 */
int mem_discard(const struct mem *mem, gpa_t gpa, uint64_t len);

#endif
