/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define VGA_BASE KIB(640)
#define VGA_END  KIB(768)

/* Enough for the ACPI tables below 1 MiB; 40 address bits are what CPUID announces. */
#define MEM_SIZE_MIN MIB(1)
#define MEM_SIZE_MAX ((1ull << 40) - (MEM_HIGH_BASE - MEM_LOW_MAX))

/*
 * A process may have 65530 mappings if nobody changed that (vm.max_map_count), and views want most of them: so many
 * clusters at most, of 16 KiB at least.
 */
#define CLUSTERS_MAX  16384
#define CLUSTER_SHIFT 14
/* Holes of the base shorter than this are mapped with what is around them. */
#define HOLE_CLUSTERS 32

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

    *mem = (struct mem){.fd = -1, .base.fd = -1};
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
    pthread_mutex_init(&mem->base.lock, NULL);
    mem_layout(mem);
    return 0;
}

void mem_fini(struct mem *mem)
{
    if (!mem->map)
        return;
    munmap(mem->map, mem->size);
    close(mem->fd);
    if (mem->base.fd >= 0)
        close(mem->base.fd);
    free((void *)mem->base.own);
    free((void *)mem->base.settled);
    free(mem->base.hole);
    pthread_mutex_destroy(&mem->base.lock);
    *mem = (struct mem){.fd = -1, .base.fd = -1};
}

/* ---- The base ----------------------------------------------------------------------------- */

static bool bit_test(const _Atomic uint64_t *map, uint64_t n)
{
    return atomic_load(&map[n / 64]) >> n % 64 & 1;
}

static bool is_zero(const uint8_t *page)
{
    return !page[0] && !memcmp(page, page + 1, PAGE_SIZE - 1);
}

static uint64_t cluster_size(const struct mem *mem)
{
    return 1ull << mem->base.shift;
}

static uint64_t cluster_count(const struct mem *mem)
{
    return (mem->size + cluster_size(mem) - 1) >> mem->base.shift;
}

/* The bytes of memory in `n` clusters from `first` on; the last cluster of all may be shorter. */
static uint64_t cluster_bytes(const struct mem *mem, uint64_t first, uint64_t n)
{
    uint64_t end = (first + n) << mem->base.shift;

    return (end < mem->size ? end : mem->size) - (first << mem->base.shift);
}

/* Map clusters from the memfd or the base. 0 or a negative errno; nothing has changed then. */
static int clusters_map(struct mem *mem, uint64_t first, uint64_t n, bool base)
{
    uint64_t off = first << mem->base.shift, len = cluster_bytes(mem, first, n);
    int prot = base && !mem->base.private ? PROT_READ : PROT_READ | PROT_WRITE;
    int flags = MAP_FIXED | (base && mem->base.private ? MAP_PRIVATE : MAP_SHARED) | MAP_NORESERVE;

    /* Who reads there meanwhile sees the same before and after; to the thread sanitizer mmap is a write. */
    if (syscall(SYS_mmap, mem->map + off, len, prot, flags, base ? mem->base.fd : mem->fd,
                base ? mem->base.offset + off : off) == -1)
        return -errno;
    madvise(mem->map + off, len, MADV_DONTDUMP);
    return 0;
}

/* What can be read at an offset goes to the memfd, but for pages of zeros, which it has already. */
static int to_memfd(struct mem *mem, uint64_t off, uint64_t len)
{
    for (uint64_t end = off + len, n; off < end; off += n) {
        n = PAGE_SIZE;
        if (is_zero(mem->map + off))
            continue;
        while (off + n < end && !is_zero(mem->map + off + n))
            n += PAGE_SIZE;
        for (uint64_t done = 0; done < n;) {
            ssize_t r = pwrite(mem->fd, mem->map + off + done, n - done, (off_t)(off + done));

            if (r < 0 && errno != EINTR)
                return -errno;
            done += r < 0 ? 0 : (uint64_t)r;
        }
    }
    return 0;
}

static bool base_has(const struct mem *mem, uint64_t n)
{
    return !(mem->base.hole[n / 64] >> n % 64 & 1);
}

static bool base_in_use(const struct mem *mem)
{
    return mem->base.fd >= 0 && !mem->base.done;
}

/* Its descriptor stays: somebody may be about to map from it what is then dropped (mem.moved). */
static void base_dropped(struct mem *mem)
{
    mem->base.done = true;
    atomic_fetch_and(&mem->guard, ~MEM_GUARD_BASE);
}

/* Clusters are in the memfd and mapped: have the base shown nowhere any more. */
static void clusters_settle(struct mem *mem, uint64_t first, uint64_t n)
{
    for (uint64_t k = first; k < first + n; k++)
        atomic_fetch_or(&mem->base.own[k / 64], 1ull << k % 64);
    if (mem->moved)
        mem->moved(mem->moved_opaque, first << mem->base.shift, cluster_bytes(mem, first, n));
    for (uint64_t k = first; k < first + n; k++)
        atomic_fetch_or(&mem->base.settled[k / 64], 1ull << k % 64);
}

static int make_whole_locked(struct mem *mem)
{
    int code = 0;

    if (!base_in_use(mem))
        return 0;
    if (mem->base.private)
        code = to_memfd(mem, 0, mem->size);
    for (uint64_t k = 0; !mem->base.private && k < cluster_count(mem) && !code; k++)
        if (!bit_test(mem->base.own, k) && base_has(mem, k))
            code = to_memfd(mem, k << mem->base.shift, cluster_bytes(mem, k, 1));
    if (!code)
        code = clusters_map(mem, 0, cluster_count(mem), false);
    if (code)
        return code;
    clusters_settle(mem, 0, cluster_count(mem));
    base_dropped(mem);
    return 0;
}

int mem_make_whole(struct mem *mem, struct err *err)
{
    int code;

    if (mem->base.fd < 0)
        return 0;
    pthread_mutex_lock(&mem->base.lock);
    code = make_whole_locked(mem);
    pthread_mutex_unlock(&mem->base.lock);
    if (!code)
        return 0;
    err_set(err, code, "cannot read all of the guest's memory: %s", strerror(-code));
    return err_next(err, "Make room in memory: the guest has %" PRIu64 " MiB.", mem->size >> 20);
}

/* The host has nothing left for a write that is under way: it ends as it does when a page cannot be allocated. */
static void no_memory_left(const struct mem *mem, int code)
{
    struct err err = {0};

    err_set(&err, code, "no room for a page that the guest writes: %s", strerror(-code));
    err_next(&err, "Make room in memory, or raise vm.max_map_count: the guest has %" PRIu64 " MiB.",
             mem->size >> 20);
    err_report(&err);
    abort();
}

/* If there are too many mappings, one for all of memory is what is certain to help. */
static void cluster_promote(struct mem *mem, uint64_t n)
{
    int code = 0;

    pthread_mutex_lock(&mem->base.lock);
    if (!bit_test(mem->base.own, n)) {
        if (base_has(mem, n))
            code = to_memfd(mem, n << mem->base.shift, cluster_bytes(mem, n, 1));
        if (!code)
            code = clusters_map(mem, n, 1, false);
        if (!code)
            clusters_settle(mem, n, 1);
        else
            code = make_whole_locked(mem);
    }
    pthread_mutex_unlock(&mem->base.lock);
    if (code)
        no_memory_left(mem, code);
}

void mem_own_slow(struct mem *mem, const void *host, uint64_t len)
{
    uint64_t off = (uint64_t)((const uint8_t *)host - mem->map);
    unsigned guard = atomic_load(&mem->guard);

    if (!len || off >= mem->size || len > mem->size - off)
        return;
    if (guard & MEM_GUARD_BASE) {
        uint64_t last = (off + len - 1) >> mem->base.shift;

        for (uint64_t n = off >> mem->base.shift; n <= last; n++)
            if (!bit_test(mem->base.settled, n))
                cluster_promote(mem, n);
    }
    if (guard & MEM_GUARD_COPY)
        mem->save(mem->save_opaque, off, len);
}

/* Clusters that lie in [from, to) altogether are not the base's any more, and zero; nothing was copied. */
static int clusters_forget(struct mem *mem, uint64_t from, uint64_t to)
{
    uint64_t k = (from + cluster_size(mem) - 1) >> mem->base.shift;
    uint64_t end = to == mem->size ? cluster_count(mem) : to >> mem->base.shift;
    int code = 0;

    pthread_mutex_lock(&mem->base.lock);
    while (k < end && !code) {
        uint64_t n = 1;

        if (bit_test(mem->base.own, k)) {
            k++;
            continue;
        }
        while (k + n < end && !bit_test(mem->base.own, k + n))
            n++;
        code = clusters_map(mem, k, n, false);
        if (!code)
            clusters_settle(mem, k, n);
        k += n;
    }
    pthread_mutex_unlock(&mem->base.lock);
    return code;
}

/* Which clusters are holes of the base. A file system that does not say has none. */
static void find_holes(struct mem *mem)
{
    const off_t start = (off_t)mem->base.offset, end = start + (off_t)mem->size;
    off_t at = start;

    while (at < end) {
        off_t data = lseek(mem->base.fd, at, SEEK_DATA);
        uint64_t n = (uint64_t)(at - start) >> mem->base.shift;

        if (data < 0 && errno != ENXIO)
            return;
        if (data < 0 || data > end)
            data = end;
        for (; cluster_bytes(mem, n, 1) &&
               (n << mem->base.shift) + cluster_bytes(mem, n, 1) <= (uint64_t)(data - start);
             n++)
            mem->base.hole[n / 64] |= 1ull << n % 64;
        if (data == end)
            return;
        at = lseek(mem->base.fd, data, SEEK_HOLE);
        if (at < 0)
            return;
        /* The cluster in which a hole begins has data. */
        at = start + (off_t)ALIGN_UP((uint64_t)(at - start), cluster_size(mem));
    }
}

/* Map what the base has. Long holes of it are holes of the memfd. */
static int base_map(struct mem *mem)
{
    const uint64_t count = cluster_count(mem);
    int code = 0;

    for (uint64_t k = 0, n; k < count && !code; k += n) {
        bool has = base_has(mem, k);

        for (n = 1; k + n < count && base_has(mem, k + n) == has; n++)
            ;
        if (!has && n >= HOLE_CLUSTERS && !mem->base.private)
            clusters_settle(mem, k, n);
    }
    for (uint64_t k = 0, n; k < count && !code; k += n) {
        n = 1;
        if (bit_test(mem->base.own, k))
            continue;
        while (k + n < count && !bit_test(mem->base.own, k + n))
            n++;
        code = clusters_map(mem, k, n, true);
    }
    return code;
}

static int base_check(const struct mem *mem, const struct mem_base *base, struct err *err)
{
    struct stat st;

    if (fstat(base->fd, &st) < 0)
        return err_set(err, -errno, "cannot look at the guest's saved memory: %s", strerror(errno));
    if (base->offset % PAGE_SIZE || base->offset > INT64_MAX || st.st_size < 0 ||
        (uint64_t)st.st_size < base->offset || (uint64_t)st.st_size - base->offset < mem->size)
        return err_set(err, -EINVAL,
                       "the guest's saved memory is too short: the guest has %" PRIu64 " MiB",
                       mem->size >> 20);
    return 0;
}

static int base_init(struct mem *mem, const struct mem_base *base, bool private, struct err *err)
{
    int code = base_check(mem, base, err);
    size_t words;

    if (code)
        return code;
    mem->base.shift = CLUSTER_SHIFT;
    while (cluster_count(mem) > CLUSTERS_MAX)
        mem->base.shift++;
    words = (size_t)ALIGN_UP(cluster_count(mem), 64) / 64;
    mem->base.own = calloc(words, sizeof(*mem->base.own));
    mem->base.settled = calloc(words, sizeof(*mem->base.settled));
    mem->base.hole = calloc(words, sizeof(*mem->base.hole));
    mem->base.fd = fcntl(base->fd, F_DUPFD_CLOEXEC, 3);
    if (!mem->base.own || !mem->base.settled || !mem->base.hole || mem->base.fd < 0)
        return err_set(err, -ENOMEM, "no memory to map the guest's saved memory");
    mem->base.offset = base->offset;
    mem->base.private = private;
    find_holes(mem);
    code = base_map(mem);
    if (code)
        return err_set(err, code, "cannot map the guest's saved memory: %s", strerror(-code));
    if (!private)
        atomic_store(&mem->guard, MEM_GUARD_BASE);
    return 0;
}

int mem_init_base(struct mem *mem, uint64_t size, const struct mem_base *base, bool private,
                  struct err *err)
{
    int code = mem_init(mem, size, err);

    if (!code)
        code = base_init(mem, base, private, err);
    if (code)
        mem_fini(mem);
    return code;
}

/* What lies in clusters of the memfd from `off` on, up to `limit`. */
static uint64_t memfd_data(const struct mem *mem, uint64_t off, uint64_t limit, uint64_t *end)
{
    off_t data = lseek(mem->fd, (off_t)off, SEEK_DATA), hole;

    if (data < 0 && errno != ENXIO)
        data = (off_t)off;
    if (data < 0 || (uint64_t)data >= limit) {
        *end = limit;
        return limit;
    }
    hole = lseek(mem->fd, data, SEEK_HOLE);
    *end = hole < 0 || (uint64_t)hole > limit ? limit : (uint64_t)hole;
    return (uint64_t)data;
}

uint64_t mem_find_data(struct mem *mem, uint64_t offset, uint64_t *end)
{
    if (mem->base.private && base_in_use(mem)) {
        *end = mem->size;
        return offset;
    }
    if (!(atomic_load(&mem->guard) & MEM_GUARD_BASE))
        return memfd_data(mem, offset, mem->size, end);
    while (offset < mem->size) {
        uint64_t first = offset >> mem->base.shift, n = 1, limit;
        bool base = mem_from_base(mem, offset);

        while (first + n < cluster_count(mem) &&
               mem_from_base(mem, (first + n) << mem->base.shift) == base &&
               (!base || base_has(mem, first + n) == base_has(mem, first)))
            n++;
        limit = (first << mem->base.shift) + cluster_bytes(mem, first, n);
        if (base && base_has(mem, first)) {
            *end = limit;
            return offset;
        }
        if (!base)
            offset = memfd_data(mem, offset, limit, end);
        if (!base && offset < limit)
            return offset;
        offset = limit;
    }
    *end = mem->size;
    return mem->size;
}

/* ---- Using it ----------------------------------------------------------------------------- */

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
    mem_own(mem, p, len);
    memcpy(p, buf, len);
    return 0;
}

/* A private mapping is not the memfd's: other pages in its place are zero. */
static int punch(struct mem *mem, uint64_t from, uint64_t to)
{
    if (mem->base.private && base_in_use(mem))
        return mmap(mem->map + from, to - from, PROT_READ | PROT_WRITE,
                    MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED
                   ? -errno
                   : 0;
    return fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                     (off_t)(to - from)) < 0
               ? -errno
               : 0;
}

/* Pages [from, to) of the mapping: those of clusters in part are copied out of the base first. */
static int discard(struct mem *mem, uint64_t from, uint64_t to)
{
    unsigned guard = atomic_load(&mem->guard);
    int code = 0;

    if (guard & MEM_GUARD_COPY)
        mem->save(mem->save_opaque, from, to - from);
    if (guard & MEM_GUARD_BASE) {
        code = clusters_forget(mem, from, to);
        mem_own_slow(mem, mem->map + from, 1);
        mem_own_slow(mem, mem->map + to - 1, 1);
    }
    return code ? code : punch(mem, from, to);
}

int mem_discard(struct mem *mem, gpa_t gpa, uint64_t len)
{
    hva_t p = mem_hva(mem, gpa, len);
    uint64_t from, to;

    if (!p)
        return -EFAULT;
    from = ALIGN_UP((uint64_t)(p - mem->map), PAGE_SIZE);
    to = ((uint64_t)(p - mem->map) + len) & PAGE_MASK;
    if (from >= to)
        return 0;
    return discard(mem, from, to);
}

int mem_clear(struct mem *mem, struct err *err)
{
    int code = 0;

    if (atomic_load(&mem->guard) & MEM_GUARD_COPY)
        mem->save(mem->save_opaque, 0, mem->size);
    if (base_in_use(mem)) {
        pthread_mutex_lock(&mem->base.lock);
        code = clusters_map(mem, 0, cluster_count(mem), false);
        if (!code) {
            clusters_settle(mem, 0, cluster_count(mem));
            base_dropped(mem);
        }
        pthread_mutex_unlock(&mem->base.lock);
    }
    if (!code)
        code = punch(mem, 0, mem->size);
    if (code)
        return err_set(err, code, "cannot clear guest memory: %s", strerror(-code));
    return 0;
}
