/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Guest RAM: one memfd, mapped shared once, seen by the guest through a few
 * slots. [0, 640K), [768K, low) and [4G, 4G+high); the gap below 4G is for
 * memory-mapped I/O, the VGA window is not RAM.
 *
 * Memory may begin as the content of a file, its base (mem_init_base). Nothing of that is read before it is touched,
 * and nothing copied before it is written: clusters that were not written are mapped read-only from the base, and
 * mem_own copies one into the memfd and maps that instead, at the same place. And memory may be being copied while
 * the guest runs (core/memcopy.h), which mem_own gives the chance to save a page before it changes. So who writes to
 * guest memory calls mem_own first.
 */
#ifndef LODGE_CORE_MEM_H
#define LODGE_CORE_MEM_H

#include <pthread.h>
#include <stdatomic.h>
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

/* What memory begins as: the page at offset n of memory is at `offset` + n of the file. */
struct mem_base {
    int fd;          /* readable; a file or memfd, which nobody changes while it is in use */
    uint64_t offset; /* a multiple of 4096 */
};

/* Why a write has to be announced. */
#define MEM_GUARD_BASE 1u /* some clusters are the base's still */
#define MEM_GUARD_COPY 2u /* somebody copies memory as it is */

struct mem {
    int fd;
    hva_t
        map; /* whole memfd, MAP_SHARED, but for what is the base's; the pages are all-zero until touched */
    uint64_t size;
    struct mem_slot slots[MEM_MAX_SLOTS];
    unsigned nslots;
    _Atomic unsigned guard; /* MEM_GUARD_*; 0: writes need not be announced */
    /* With MEM_GUARD_COPY: save what is in [offset, offset+len) if that has not been done. Any thread. */
    void (*save)(void *opaque, uint64_t offset, uint64_t len);
    void *save_opaque;
    const _Atomic uint64_t *unsaved; /* bit per page: that has not been done */
    /*
     * Told by whoever promotes [offset, offset+len): it is in the memfd now, and the base must be shown nowhere any
     * more when this returns. For the engine; NULL: nobody. Any thread, with base.lock held.
     */
    void (*moved)(void *opaque, uint64_t offset, uint64_t len);
    void *moved_opaque;
    struct {
        int fd; /* -1: there is none */
        uint64_t offset;
        bool done; /* nothing is left of it */
        bool private; /* the kernel copies what is written: the whole map is private, the memfd not in use */
        unsigned shift;            /* of a cluster's size */
        _Atomic uint64_t *own;     /* bit per cluster: what is mapped is the memfd */
        _Atomic uint64_t *settled; /* and the base is shown nowhere any more */
        uint64_t *hole;            /* the base has nothing there: zeros */
        pthread_mutex_t lock;      /* who changes any of these */
    } base;
};

/* `size` in bytes, a multiple of 4096. On failure nothing is held. */
int mem_init(struct mem *mem, uint64_t size, struct err *err);
void mem_fini(struct mem *mem);

/*
 * mem_init, and memory begins as the content of `base`, whose descriptor is duplicated. With `private` the kernel
 * copies what is written, and no write needs to be announced: for an engine that does not announce the guest's. Then
 * the memfd is not in use until mem_make_whole. -EINVAL when the base is too short.
 */
int mem_init_base(struct mem *mem, uint64_t size, const struct mem_base *base, bool private,
                  struct err *err);

/*
 * Read all of the base, so that memory is the memfd and nothing else, and needs the base no more. Any thread; with a
 * private base nobody writes meanwhile. Nothing if there is no base. A failure has changed nothing that can be seen.
 */
int mem_make_whole(struct mem *mem, struct err *err);

/* Is the page at an offset the base's still? What is to be mapped from there is base.fd, else fd. Any thread. */
static inline bool mem_from_base(const struct mem *mem, uint64_t offset)
{
    uint64_t n = offset >> mem->base.shift;

    return (atomic_load_explicit(&mem->guard, memory_order_acquire) & MEM_GUARD_BASE) &&
           !(atomic_load(&mem->base.own[n / 64]) >> n % 64 & 1);
}

/* May the page at an offset be written without mem_own? Any thread; it stays so while the machine is not paused. */
static inline bool mem_is_own(const struct mem *mem, uint64_t offset)
{
    unsigned guard = atomic_load_explicit(&mem->guard, memory_order_acquire);
    uint64_t cluster = offset >> mem->base.shift, page = offset >> PAGE_SHIFT;

    return likely(!guard) || ((!(guard & MEM_GUARD_BASE) ||
                               atomic_load(&mem->base.settled[cluster / 64]) >> cluster % 64 & 1) &&
                              (!(guard & MEM_GUARD_COPY) ||
                               !(atomic_load(&mem->unsaved[page / 64]) >> page % 64 & 1)));
}

/* mem_own for when there is something to do. The page may be written when it returns. */
void mem_own_slow(struct mem *mem, const void *host, uint64_t len);

/*
 * [host, host+len) of the mapping, which is in memory (mem_hva), is about to be written: before every write, by
 * whomever. Once is enough for as long as the machine is not paused. When the host has no memory or mappings left the
 * process ends, as it would in any write. Any thread; may wait for other threads' mem_own.
 */
static inline void mem_own(struct mem *mem, const void *host, uint64_t len)
{
    if (unlikely(atomic_load_explicit(&mem->guard, memory_order_acquire)))
        mem_own_slow(mem, host, len);
}

/*
 * The first stretch at or behind `offset` that may hold anything but zeros, [result, *end); it begins at the memory's
 * end when there is none. What is no part of any does not get memory by being looked at. Any thread.
 */
uint64_t mem_find_data(struct mem *mem, uint64_t offset, uint64_t *end);

/* All of memory becomes zero, and the host gets it back. No vCPU runs, no device has anything under way. */
int mem_clear(struct mem *mem, struct err *err);

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
int mem_write(struct mem *mem, gpa_t gpa, const void *buf, uint64_t len); /* announces it */

/*
 * Give the whole pages of [gpa, gpa+len) back to the host; they read as zero from then on. -EFAULT when any byte is
 * not RAM, another negative errno when the host does not take them; nothing has changed then. Any thread.
 */
int mem_discard(struct mem *mem, gpa_t gpa, uint64_t len);

#endif
