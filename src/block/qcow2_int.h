/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the qcow2 format share. Nobody else includes this. */
#ifndef LODGE_BLOCK_QCOW2_INT_H
#define LODGE_BLOCK_QCOW2_INT_H

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "block/direct.h"
#include "block/qcow2.h"

#define QCOW2_MAGIC      0x514649fbu
#define QCOW2_L1_MAX     MIB(32) /* bytes of an L1 table */
#define QCOW2_REFTAB_MAX MIB(8)
#define QCOW2_OFFSET_MAX (1ull << 56) /* host offsets lie below it */
#define QCOW2_SNAPS_MAX  65536

#define SECTOR 512

/* Fields of the header. */
enum {
    HDR_MAGIC = 0,
    HDR_VERSION = 4,
    HDR_BACKING_OFFSET = 8,
    HDR_BACKING_SIZE = 16,
    HDR_CLUSTER_BITS = 20,
    HDR_SIZE = 24,
    HDR_CRYPT = 32,
    HDR_L1_SIZE = 36,
    HDR_L1_OFFSET = 40,
    HDR_REFTAB_OFFSET = 48,
    HDR_REFTAB_CLUSTERS = 56,
    HDR_SNAPSHOTS = 60,
    HDR_SNAPSHOTS_OFFSET = 64,
    HDR_V2_SIZE = 72,
    HDR_INCOMPAT = 72,
    HDR_COMPAT = 80,
    HDR_AUTOCLEAR = 88,
    HDR_REFCOUNT_ORDER = 96,
    HDR_LENGTH = 100,
    HDR_V3_SIZE = 104,
    HDR_COMPRESSION = 104,
};

#define INCOMPAT_DIRTY       (1ull << 0)
#define INCOMPAT_CORRUPT     (1ull << 1)
#define INCOMPAT_DATA_FILE   (1ull << 2)
#define INCOMPAT_COMPRESSION (1ull << 3)
#define INCOMPAT_EXTENDED_L2 (1ull << 4)
#define INCOMPAT_KNOWN       (INCOMPAT_DIRTY | INCOMPAT_CORRUPT | INCOMPAT_COMPRESSION)
#define COMPAT_LAZY          (1ull << 0)
#define AUTOCLEAR_BITMAPS    (1ull << 0)

#define EXT_END         0u
#define EXT_BACKING_FMT 0xe2792acau
#define EXT_FEATURES    0x6803f857u
#define EXT_BITMAPS     0x23852875u

/* Entries of L1 and L2 tables. */
#define ENTRY_COPIED     (1ull << 63)
#define ENTRY_COMPRESSED (1ull << 62)
#define ENTRY_ZERO       1ull
#define ENTRY_OFFSET     0x00fffffffffffe00ull
#define L1_RESERVED      0x7f000000000001ffull
#define L2_RESERVED      0x3f000000000001feull

static inline uint64_t be64_at(const void *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}

static inline uint32_t be32_at(const void *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}

static inline uint16_t be16_at(const void *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return be16toh(v);
}

static inline void be64_put(void *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

static inline void be32_put(void *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}

/* ---- The cache of metadata (qcow2_cache.c) ----------------------------------------- */

enum page_kind { PAGE_L2, PAGE_REFCOUNT };

/* A piece of an L2 table or a refcount block, at most one cluster. */
struct page {
    uint64_t at; /* where in the file */
    uint8_t *data;
    enum page_kind kind;
    uint8_t dirty; /* a bit for each sector */
    struct page *hash_next;
    struct page *newer, *older;
};

struct page_cache {
    struct page **hash;
    unsigned hash_size; /* a power of two */
    unsigned max, count;
    unsigned dirty_l2, dirty_refcount; /* pages */
    struct page *newest, *oldest;
};

/* ---- The image ---------------------------------------------------------------------- */

/* A set of clusters that hold metadata, by number + 1. */
struct cluster_set {
    uint64_t *slot;
    size_t size, used; /* size: a power of two or 0 */
};

struct freed {
    uint64_t cluster; /* number of the first */
    uint64_t count;
};

struct compressed_slot {
    uint64_t entry; /* the L2 entry, 0: empty */
    uint8_t *data;
};

struct layer {
    struct qcow2 *q; /* NULL: a raw file */
    struct qcow2_file raw;
    uint64_t size; /* bytes, of the disk */
};

struct qcow2 {
    struct qcow2_file file;
    struct direct direct; /* what file.direct points to, its fd is that of `file` */
    char *path;
    bool read_only, inspect;

    /* From the header, constant. */
    unsigned version, cluster_bits, refcount_order, l2_bits, page_bits;
    unsigned compression; /* 0 zlib, 1 zstd */
    uint64_t compat;
    char *backing_name, *backing_fmt, *backing_path;
    uint64_t bitmaps_offset, bitmaps_size; /* the directory; 0: none or not valid */
    uint32_t bitmaps_count;
    uint32_t snapshots;
    uint64_t snapshots_offset;
    struct layer *backing; /* NULL: none */

    pthread_mutex_t lock; /* for what follows, unless it says otherwise */
    pthread_cond_t changed;
    uint64_t size; /* changed by resize only */
    uint64_t incompat, autoclear;
    int broken; /* negative errno: nothing is written any more */

    uint64_t *l1;      /* host order */
    uint8_t *l1_dirty; /* a bit for each sector of the table */
    bool l1_any_dirty;
    uint32_t l1_size;
    uint64_t l1_offset;
    uint64_t *reftab; /* host order */
    uint64_t reftab_size, reftab_offset;
    struct page_cache cache;
    struct cluster_set meta;

    uint64_t hint;      /* cluster where the search for free ones begins */
    uint64_t zero_from; /* from this cluster on the file is a hole */
    struct freed *freed;
    size_t freed_count, freed_room, freed_total; /* total: clusters */

    bool committing, no_linking;
    uint64_t commits_begun, commits_done, commit_failed;
    int commit_error;

    struct qcow2_range *ranges; /* in the order they came */

    pthread_mutex_t comp_lock; /* for the slots */
    struct compressed_slot slots[4];
    unsigned next_slot;
};

static inline uint64_t cluster_size(const struct qcow2 *q)
{
    return 1ull << q->cluster_bits;
}

/* Bytes from `off` to the end of its cluster. */
static inline uint64_t cluster_rest(const struct qcow2 *q, uint64_t off)
{
    return cluster_size(q) - (off & (cluster_size(q) - 1));
}

static inline uint64_t clusters_for(const struct qcow2 *q, uint64_t bytes)
{
    return (bytes >> q->cluster_bits) + !!(bytes & (cluster_size(q) - 1));
}

/* L1 entries for a disk of `size` bytes. */
static inline uint64_t l1_entries_for(const struct qcow2 *q, uint64_t size)
{
    unsigned bits = q->cluster_bits + q->l2_bits;

    return (size >> bits) + !!(size & ((1ull << bits) - 1));
}

/*
 * The image is damaged: say so once, set its corrupt bit, and write nothing
 * any more. For a reader it is just an error. Returns -EIO.
 */
int qcow2_damaged_locked(struct qcow2 *q, const char *what, uint64_t where);

/* ---- qcow2_cache.c ------------------------------------------------------------------ */

int meta_init(struct page_cache *c, size_t bytes, unsigned page_bits);
void meta_fini(struct page_cache *c);

/*
 * The page with the metadata at `at`, which stays valid for at least the next
 * eight calls. -EIO when it cannot be read, -ENOMEM.
 */
int meta_get_locked(struct qcow2 *q, enum page_kind kind, uint64_t at, struct page **page);

/* Does meta_get_locked have it without reading? */
bool meta_has_locked(const struct qcow2 *q, uint64_t at);

/* `len` bytes at `at` in the page were changed. */
void meta_dirty_locked(struct qcow2 *q, struct page *page, uint64_t at, size_t len);

/* Forget what is cached of these bytes, written or not: they are something else now. */
void meta_drop_locked(struct qcow2 *q, uint64_t at, uint64_t len);

/*
 * Before an operation that changes an L2 page: commit when too much has
 * changed, set the dirty bit when refcounts are lazy. The lock is given up
 * meanwhile. A negative errno when nothing may be written.
 */
int qcow2_reserve_locked(struct qcow2 *q);

/* Wait until L2 entries may be changed; a negative errno when they may no longer be. */
int qcow2_link_begin_locked(struct qcow2 *q);

/* Make everything durable that was done before the call (docs/qcow2.md); gives up the lock meanwhile. */
int qcow2_commit_locked(struct qcow2 *q);

/* At the end: with lazy refcounts these are written, too, and the dirty bit is cleared. */
int qcow2_commit_all_locked(struct qcow2 *q);

void l1_set_locked(struct qcow2 *q, uint64_t index, uint64_t value);

/* ---- qcow2_header.c ----------------------------------------------------------------- */

/* Read and check the header and all that hangs on it, fill q. */
int header_load(struct qcow2 *q, struct err *err);
/* Read the L1 and the refcount table, note which clusters are metadata. */
int tables_load(struct qcow2 *q, struct err *err);
/* Write the feature words and fsync. */
int header_write_features_locked(struct qcow2 *q);
/* Write the size and the place of the L1 table and fsync. */
int header_write_l1_locked(struct qcow2 *q, uint64_t size, uint32_t l1_size, uint64_t l1_offset);
int header_write_reftab_locked(struct qcow2 *q, uint64_t offset, uint32_t clusters);

/* ---- qcow2_refcount.c --------------------------------------------------------------- */

bool set_has(const struct cluster_set *s, uint64_t cluster);
int set_add(struct cluster_set *s, uint64_t cluster); /* -EEXIST, -ENOMEM */
int set_add_run(struct cluster_set *s, uint64_t cluster, uint64_t count);
void set_remove(struct cluster_set *s, uint64_t cluster);
void set_remove_run(struct cluster_set *s, uint64_t cluster, uint64_t count);
void set_fini(struct cluster_set *s);

int refcount_get_locked(struct qcow2 *q, uint64_t cluster, uint64_t *count);
/* -ERANGE when the count does not fit. Makes the refcount block when there is none. */
int refcount_set_locked(struct qcow2 *q, uint64_t cluster, uint64_t count);
static inline uint64_t refcount_max(const struct qcow2 *q)
{
    return q->refcount_order == 6 ? UINT64_MAX : (1ull << (1u << q->refcount_order)) - 1;
}
/* One entry of a refcount block. */
uint64_t refcount_load(const uint8_t *block, unsigned order, uint64_t index);
void refcount_store(uint8_t *block, unsigned order, uint64_t index, uint64_t count);

/*
 * Up to `max` clusters in a row, at least `min`, with a refcount of one from
 * now on. *fresh: the file is a hole there. -EFBIG when the format ends.
 */
int clusters_alloc_locked(struct qcow2 *q, uint64_t min, uint64_t max, uint64_t *first,
                          uint64_t *count, bool *fresh);
/* Nothing on the disk points to these: free at once. */
void clusters_release_locked(struct qcow2 *q, uint64_t first, uint64_t count);
/* Something on the disk may point to these: free with the next commit. Without memory for that they leak. */
void clusters_free_later_locked(struct qcow2 *q, uint64_t first, uint64_t count);
/* Steps 5 of a commit, for the first `n` of q->freed. */
void freed_apply_locked(struct qcow2 *q, size_t n);

/* ---- qcow2_map.c -------------------------------------------------------------------- */

enum map_type { MAP_NONE, MAP_ZERO, MAP_ZERO_SPACE, MAP_DATA, MAP_COMPRESSED };

/* Guest clusters in a row that are of one kind and, with space, in a row in the file, too. */
struct map {
    enum map_type type;
    bool copied;    /* may be written in place */
    uint64_t entry; /* of the first */
    uint64_t host;  /* offset of the first cluster; 0: none */
    uint64_t count;
};

/* Guest cluster `g` and what follows, up to `max` and to the end of a page of the L2 table. */
int map_get_locked(struct qcow2 *q, uint64_t g, uint64_t max, struct map *m);
/* Does map_get_locked answer without reading from the file? */
bool map_is_cached_locked(const struct qcow2 *q, uint64_t g);
int map_decode_locked(struct qcow2 *q, uint64_t entry, struct map *m);
/* Guest clusters from `g` to the end of its page of the L2 table. */
uint64_t map_page_rest(const struct qcow2 *q, uint64_t g);
/*
 * Entries of guest clusters from `g` on, in one page, set by `entry_of` from
 * the old entry; what the old ones pointed to is freed later unless the new
 * one still does. Linking is allowed (qcow2_link_begin_locked).
 */
int map_update_locked(struct qcow2 *q, uint64_t g, uint64_t count,
                      uint64_t (*entry_of)(void *opaque, uint64_t i, uint64_t old), void *opaque);
/* Clusters that hold the compressed data of an entry. */
void compressed_extent(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *len);

/* ---- The other files ------------------------------------------------------------------ */

void range_enter_locked(struct qcow2 *q, struct qcow2_range *r, uint64_t first, uint64_t last,
                        bool exclusive);
/* False instead of waiting; `r` is not entered then. */
bool range_try_enter_locked(struct qcow2 *q, struct qcow2_range *r, uint64_t first, uint64_t last,
                            bool exclusive);
void range_leave_locked(struct qcow2 *q, struct qcow2_range *r);
/* Read without taking the range. */
int read_clusters(struct qcow2 *q, const struct iovec *iov, unsigned n, size_t skip, uint64_t off,
                  uint64_t len);
int layer_read(struct layer *l, const struct iovec *iov, unsigned n, size_t skip, uint64_t off,
               uint64_t len);
/* Does the backing file have anything in these bytes? */
static inline bool backing_covers(const struct qcow2 *q, uint64_t off)
{
    return q->backing && off < q->backing->size;
}
/* How much of a write can go where the clusters are, and where; *part 0: nothing can, or it must not. */
int in_place_locked(struct qcow2 *q, uint64_t off, uint64_t len, uint64_t *host, uint64_t *part);
/* Write to clusters that need a new place or a new entry. *done: bytes, at least one. */
int write_allocating(struct qcow2 *q, const struct iovec *iov, unsigned n, size_t skip,
                     uint64_t off, uint64_t len, uint64_t *done);
/* Unallocate guest clusters without leaving a zero flag; [first, last). */
int unmap_clusters(struct qcow2 *q, uint64_t first, uint64_t last);

/* Bytes of a compressed cluster. */
int compressed_read(struct qcow2 *q, uint64_t entry, uint64_t in_cluster, const struct iovec *iov,
                    int n);

/* An entry of the snapshot table, as far as it is of use here. */
struct snapshot_head {
    uint64_t l1_offset, size, vm_state, id_at, next; /* next: where the next entry begins */
    uint32_t l1_size, seconds;
    uint16_t id_len, name_len;
};

int snapshot_at(struct qcow2 *q, uint64_t at, struct snapshot_head *s);

#endif
