/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every reference in an image counted and compared with the refcounts; repairs. */
#include <stdarg.h>
#include <stdio.h>

#include "block/qcow2_int.h"

#define CHUNK_BITS 9
#define CHUNK      (1u << CHUNK_BITS)
#define COUNTS_MAX                                                                                 \
    GIB(2) /* bytes of counters; dense ones are enough for 32 TiB of 64-KiB clusters */

/* References found to CHUNK clusters in a row. */
struct chunk {
    uint64_t key; /* cluster >> CHUNK_BITS */
    uint32_t refs[CHUNK];
};

struct checking {
    struct qcow2 *q;
    struct qcow2_check *c;
    struct chunk **chunk; /* a hash with open addressing */
    size_t size, used;
    uint64_t file_clusters; /* begun ones count */
    uint64_t done, total;   /* of the progress: tables */
    uint8_t *table;         /* one cluster */
};

/* ---- Findings ---------------------------------------------------------------------------------- */

static void say(struct checking *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct checking *k, const char *fmt, ...)
{
    char text[256];
    va_list ap;

    if (!k->c->say)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    k->c->say(k->c->opaque, text);
}

static void corrupt(struct checking *k, const char *what, uint64_t value)
{
    k->c->corruptions++;
    say(k, "damaged: %s (%#llx)", what, (unsigned long long)value);
}

static void step(struct checking *k)
{
    k->done++;
    if (k->c->progress)
        k->c->progress(k->c->opaque, k->done, k->total > k->done ? k->total : k->done);
}

/* ---- Counters ---------------------------------------------------------------------------------- */

static size_t chunk_slot(const struct checking *k, uint64_t key)
{
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15ull >> 20) & (k->size - 1);

    while (k->chunk[i] && k->chunk[i]->key != key)
        i = (i + 1) & (k->size - 1);
    return i;
}

static int chunks_grow(struct checking *k)
{
    struct checking n = {.size = k->size ? k->size * 2 : 64};

    n.chunk = calloc(n.size, sizeof(*n.chunk));
    if (!n.chunk)
        return -ENOMEM;
    for (size_t i = 0; i < k->size; i++)
        if (k->chunk[i])
            n.chunk[chunk_slot(&n, k->chunk[i]->key)] = k->chunk[i];
    free(k->chunk);
    k->chunk = n.chunk;
    k->size = n.size;
    return 0;
}

static uint32_t refs_of(const struct checking *k, uint64_t cluster)
{
    const struct chunk *c = k->size ? k->chunk[chunk_slot(k, cluster >> CHUNK_BITS)] : NULL;

    return c ? c->refs[cluster & (CHUNK - 1)] : 0;
}

static int ref_cluster(struct checking *k, uint64_t cluster)
{
    uint64_t key = cluster >> CHUNK_BITS;
    size_t i;

    if (k->used >= k->size / 2 && chunks_grow(k))
        return -ENOMEM;
    i = chunk_slot(k, key);
    if (!k->chunk[i]) {
        if (k->used >= COUNTS_MAX / sizeof(**k->chunk))
            return -ENOMEM;
        k->chunk[i] = calloc(1, sizeof(**k->chunk));
        if (!k->chunk[i])
            return -ENOMEM;
        k->chunk[i]->key = key;
        k->used++;
    }
    if (k->chunk[i]->refs[cluster & (CHUNK - 1)] < UINT32_MAX)
        k->chunk[i]->refs[cluster & (CHUNK - 1)]++;
    if (k->c->end < cluster + 1)
        k->c->end = cluster + 1; /* clusters until the end */
    return 0;
}

/* One reference to each cluster of these bytes. What lies behind the end of the file is damage, and not counted. */
static int ref_bytes(struct checking *k, uint64_t off, uint64_t len, const char *what)
{
    uint64_t first = off >> k->q->cluster_bits, last = (off + len - 1) >> k->q->cluster_bits;
    int r = 0;

    if (!len)
        return 0;
    if (off + len < off || last >= k->file_clusters) {
        corrupt(k, what, off);
        return 0;
    }
    for (uint64_t i = first; i <= last && !r; i++)
        r = ref_cluster(k, i);
    return r;
}

/* ---- References ---------------------------------------------------------------------------------- */

static int walk_compressed(struct checking *k, uint64_t entry, bool active)
{
    uint64_t offset, len;

    compressed_extent(k->q, entry, &offset, &len);
    if (!offset || entry & ENTRY_COPIED || offset + len > QCOW2_OFFSET_MAX) {
        corrupt(k, "entry of an L2 table for a compressed cluster", entry);
        return 0;
    }
    if (active)
        k->c->compressed++;
    return ref_bytes(k, offset, len, "compressed cluster behind the end of the file");
}

static int walk_entry(struct checking *k, uint64_t entry, bool active)
{
    uint64_t offset = entry & ENTRY_OFFSET;

    if (!entry)
        return 0;
    if (entry & ENTRY_COMPRESSED)
        return walk_compressed(k, entry, active);
    if (entry & L2_RESERVED || offset & (cluster_size(k->q) - 1) ||
        (!offset && entry & ENTRY_COPIED) || (k->q->version < 3 && entry & ENTRY_ZERO)) {
        corrupt(k, "entry of an L2 table", entry);
        return 0;
    }
    if (!offset)
        return 0;
    if (active)
        k->c->data_clusters++;
    return ref_bytes(k, offset, cluster_size(k->q), "cluster behind the end of the file");
}

static int walk_l2(struct checking *k, uint64_t at, bool active)
{
    int r = file_read(&k->q->file, k->table, cluster_size(k->q), at);

    for (uint64_t i = 0; i < cluster_size(k->q) / 8 && !r; i++)
        r = walk_entry(k, be64_at(k->table + i * 8), active);
    return r;
}

/* The entries, in host order, of an active or a snapshot's L1 table. */
static int walk_l1(struct checking *k, const uint64_t *l1, uint64_t entries, bool active)
{
    struct cluster_set seen = {0};
    int r = 0;

    for (uint64_t i = 0; i < entries && !r; i++) {
        uint64_t at = l1[i] & ENTRY_OFFSET;

        if (active)
            step(k);
        if (!l1[i])
            continue;
        if (l1[i] & L1_RESERVED || at & (cluster_size(k->q) - 1) || !at ||
            at >> k->q->cluster_bits >= k->file_clusters) {
            corrupt(k, "entry of an L1 table", l1[i]);
            continue;
        }
        r = ref_bytes(k, at, cluster_size(k->q), "L2 table behind the end of the file");
        if (!r)
            r = set_add(&seen, at >> k->q->cluster_bits);
        if (r == -EEXIST) {
            corrupt(k, "L2 table that is in an L1 table twice", at);
            r = 0;
        } else if (!r) {
            r = walk_l2(k, at, active);
        }
    }
    set_fini(&seen);
    return r;
}

static int walk_snapshot(struct checking *k, const struct snapshot_head *s)
{
    uint64_t bytes = (uint64_t)s->l1_size * 8, *l1;
    int r;

    if (!s->l1_size)
        return 0;
    if (s->l1_offset & (cluster_size(k->q) - 1) || !s->l1_offset || bytes > QCOW2_L1_MAX ||
        s->l1_offset >= QCOW2_OFFSET_MAX ||
        (s->l1_offset + bytes - 1) >> k->q->cluster_bits >= k->file_clusters) {
        corrupt(k, "L1 table of a snapshot", s->l1_offset);
        return 0;
    }
    r = ref_bytes(k, s->l1_offset, bytes, "L1 table of a snapshot");
    l1 = malloc(bytes);
    if (!l1)
        return -ENOMEM;
    if (!r)
        r = file_read(&k->q->file, l1, bytes, s->l1_offset);
    for (uint64_t i = 0; i < s->l1_size; i++)
        l1[i] = be64toh(l1[i]);
    if (!r)
        r = walk_l1(k, l1, s->l1_size, false);
    free(l1);
    return r;
}

static int walk_snapshots(struct checking *k)
{
    uint64_t at = k->q->snapshots_offset;
    struct snapshot_head s;

    for (uint32_t i = 0; i < k->q->snapshots; i++) {
        int r = snapshot_at(k->q, at, &s);

        if (r == -EIO || (!r && s.next >> k->q->cluster_bits > k->file_clusters)) {
            corrupt(k, "snapshot table", at);
            break;
        }
        if (!r)
            r = walk_snapshot(k, &s);
        if (r)
            return r;
        at = s.next;
    }
    return ref_bytes(k, k->q->snapshots_offset, at - k->q->snapshots_offset, "snapshot table");
}

static int walk_bitmap(struct checking *k, uint64_t table, uint32_t entries)
{
    uint64_t bytes = (uint64_t)entries * 8;
    uint8_t entry[8];
    int r;

    if (table & (cluster_size(k->q) - 1) || table >= QCOW2_OFFSET_MAX || bytes > MIB(64) ||
        (table + bytes) >> k->q->cluster_bits > k->file_clusters) {
        corrupt(k, "table of a bitmap", table);
        return 0;
    }
    r = ref_bytes(k, table, bytes, "table of a bitmap");
    for (uint32_t i = 0; i < entries && !r; i++) {
        r = file_read(&k->q->file, entry, 8, table + i * 8ull);
        if (!r && be64_at(entry) & ENTRY_OFFSET)
            r = ref_bytes(k, be64_at(entry) & ENTRY_OFFSET, cluster_size(k->q), "part of a bitmap");
    }
    return r;
}

/* Bitmaps are none of our business, but their clusters are in use. */
static int walk_bitmaps(struct checking *k)
{
    struct qcow2 *q = k->q;
    uint64_t at = q->bitmaps_offset, end = at + q->bitmaps_size;
    uint8_t head[24];
    int r;

    if (!q->bitmaps_count)
        return 0;
    r = ref_bytes(k, at, q->bitmaps_size, "directory of bitmaps");
    if (end >> q->cluster_bits > k->file_clusters)
        return r;
    for (uint32_t i = 0; i < q->bitmaps_count && !r && at + sizeof(head) <= end; i++) {
        r = file_read(&q->file, head, sizeof(head), at);
        if (!r)
            r = walk_bitmap(k, be64_at(head), be32_at(head + 8));
        at += ALIGN_UP(24 + be16_at(head + 18) + (uint64_t)be32_at(head + 20), 8);
    }
    return r;
}

static bool block_is_sane(const struct checking *k, uint64_t block)
{
    return !(block & (cluster_size(k->q) - 1)) && block >> k->q->cluster_bits < k->file_clusters;
}

static int walk_refcount_blocks(struct checking *k)
{
    struct qcow2 *q = k->q;
    int r = ref_bytes(k, q->reftab_offset, q->reftab_size * 8, "refcount table");

    for (uint64_t i = 0; i < q->reftab_size && !r; i++) {
        if (!q->reftab[i])
            continue;
        if (!block_is_sane(k, q->reftab[i])) {
            corrupt(k, "entry of the refcount table", q->reftab[i]);
            continue;
        }
        r = ref_bytes(k, q->reftab[i], cluster_size(q), "refcount block");
        if (!r && refs_of(k, q->reftab[i] >> q->cluster_bits) > 1)
            corrupt(k, "refcount block in a place where there is something else", q->reftab[i]);
    }
    return r;
}

static int walk_all(struct checking *k)
{
    struct qcow2 *q = k->q;
    int r = ref_bytes(k, 0, cluster_size(q), "header");

    if (!r)
        r = ref_bytes(k, q->l1_offset, q->l1_size * 8ull, "L1 table");
    if (!r)
        r = walk_l1(k, q->l1, q->l1_size, true);
    if (!r)
        r = walk_snapshots(k);
    if (!r)
        r = walk_bitmaps(k);
    if (!r)
        r = walk_refcount_blocks(k);
    return r;
}

/* ---- Comparing ------------------------------------------------------------------------------------- */

static unsigned block_bits(const struct qcow2 *q)
{
    return q->cluster_bits + 3 - q->refcount_order;
}

/* Blocks that are wrong themselves are not looked at. */
static bool block_is_usable(const struct checking *k, uint64_t i)
{
    const struct qcow2 *q = k->q;

    return i < q->reftab_size && q->reftab[i] && block_is_sane(k, q->reftab[i]) &&
           refs_of(k, q->reftab[i] >> q->cluster_bits) == 1;
}

static int compare_one(struct checking *k, uint64_t cluster, uint64_t count,
                       enum qcow2_repair repair)
{
    uint32_t refs = refs_of(k, cluster);
    bool leak = count > refs, fix = leak ? repair != QCOW2_REPAIR_NONE : repair == QCOW2_REPAIR_ALL;
    int r = 0;

    if (count == refs)
        return 0;
    if (fix && block_is_usable(k, cluster >> block_bits(k->q)) && refs <= refcount_max(k->q)) {
        r = refcount_set_locked(k->q, cluster, refs);
        if (r)
            return r;
        ++*(leak ? &k->c->leaks_fixed : &k->c->corruptions_fixed);
        return 0;
    }
    ++*(leak ? &k->c->leaks : &k->c->corruptions);
    say(k, "%s: cluster at %#llx has refcount %llu, but %u references", leak ? "leak" : "damaged",
        (unsigned long long)(cluster << k->q->cluster_bits), (unsigned long long)count, refs);
    return 0;
}

/* What is not zero in a block; most of it may be. */
static int compare_block(struct checking *k, uint64_t i, enum qcow2_repair repair)
{
    struct qcow2 *q = k->q;
    uint64_t per = 1ull << block_bits(q), first = i * per, in_word = 64 >> q->refcount_order;
    int r = file_read(&q->file, k->table, cluster_size(q), q->reftab[i]);

    for (uint64_t n = 0; n < per && !r; n++) {
        uint64_t count = refcount_load(k->table, q->refcount_order, n);

        if (count)
            r = compare_one(k, first + n, count, repair);
        else if (!(n & (in_word - 1)) && !be64_at(k->table + n / in_word * 8))
            n += in_word - 1;
    }
    return r;
}

/* Clusters in use that have a refcount of zero, or no usable block that speaks of them. */
static int compare_unknown(struct checking *k, enum qcow2_repair repair)
{
    uint64_t count;
    int r = 0;

    for (size_t i = 0; i < k->size; i++) {
        const struct chunk *c = k->chunk[i];

        for (uint64_t n = 0; c && n < CHUNK && !r; n++) {
            uint64_t cluster = (c->key << CHUNK_BITS) + n;

            count = 0;
            if (c->refs[n] && block_is_usable(k, cluster >> block_bits(k->q)))
                r = refcount_get_locked(k->q, cluster, &count);
            if (!r && c->refs[n] && !count)
                r = compare_one(k, cluster, 0, repair);
        }
    }
    return r;
}

static int compare_all(struct checking *k, enum qcow2_repair repair)
{
    int r = 0;

    for (uint64_t i = 0; i < k->q->reftab_size && !r; i++) {
        step(k);
        if (block_is_usable(k, i))
            r = compare_block(k, i, repair);
    }
    return r ? r : compare_unknown(k, repair);
}

/* A block of zeroes at the end of the file, for clusters in use that have none; the table must have room. */
static int block_add(struct checking *k, uint64_t i)
{
    struct qcow2 *q = k->q;
    uint64_t at = k->file_clusters << q->cluster_bits;
    uint8_t entry[8];
    int r = file_write_zeroes(&q->file, at, cluster_size(q));

    if (!r)
        r = q->file.ops->sync(&q->file);
    be64_put(entry, at);
    if (!r)
        r = file_write(&q->file, entry, 8, q->reftab_offset + i * 8);
    if (r)
        return r;
    q->reftab[i] = at;
    k->file_clusters++;
    q->zero_from = k->file_clusters;
    return ref_cluster(k, at >> q->cluster_bits);
}

/* A new block may itself be the first thing in a part of the file that has none. */
static int blocks_add(struct checking *k)
{
    bool added;
    int r = 0;

    do {
        added = false;
        for (size_t i = 0; i < k->size && !added && !r; i++) {
            const struct chunk *c = k->chunk[i];

            for (uint64_t n = 0; c && n < CHUNK && !added && !r; n++) {
                uint64_t block = ((c->key << CHUNK_BITS) + n) >> block_bits(k->q);

                if (!c->refs[n] || block >= k->q->reftab_size || k->q->reftab[block])
                    continue;
                r = block_add(k, block);
                added = true;
            }
        }
    } while (added && !r);
    return r;
}

/* ---- COPIED flags ------------------------------------------------------------------------------------ */

/* The flag that an entry of the active tables must have, if that can be said. */
static int copied_check(struct checking *k, uint64_t entry, uint64_t at, bool fix, uint64_t *fixed)
{
    uint64_t count, cluster = (entry & ENTRY_OFFSET) >> k->q->cluster_bits;
    uint8_t buf[8];
    int r;

    *fixed = entry;
    if (!cluster || entry & ENTRY_COMPRESSED || entry & 0x100 || cluster >= k->file_clusters ||
        !block_is_usable(k, cluster >> block_bits(k->q)))
        return 0;
    r = refcount_get_locked(k->q, cluster, &count);
    if (r || !count || (count == 1) == !!(entry & ENTRY_COPIED))
        return r;
    if (!fix) {
        corrupt(k, "COPIED flag of an entry", entry);
        return 0;
    }
    *fixed = entry ^ ENTRY_COPIED;
    be64_put(buf, *fixed);
    k->c->corruptions_fixed++;
    return file_write(&k->q->file, buf, 8, at);
}

static int copied_check_l2(struct checking *k, uint64_t at, bool fix)
{
    uint64_t fixed;
    int r = file_read(&k->q->file, k->table, cluster_size(k->q), at);

    for (uint64_t i = 0; i < cluster_size(k->q) / 8 && !r; i++)
        r = copied_check(k, be64_at(k->table + i * 8), at + i * 8, fix, &fixed);
    return r;
}

static int copied_check_all(struct checking *k, bool fix)
{
    struct cluster_set seen = {0};
    struct qcow2 *q = k->q;
    int r = 0;

    for (uint64_t i = 0; i < q->l1_size && !r; i++) {
        uint64_t at = q->l1[i] & ENTRY_OFFSET;

        step(k);
        if (!at || q->l1[i] & L1_RESERVED || at & (cluster_size(q) - 1) ||
            at >> q->cluster_bits >= k->file_clusters)
            continue;
        r = copied_check(k, q->l1[i], q->l1_offset + i * 8, fix, &q->l1[i]);
        if (!r)
            r = set_add(&seen, at >> q->cluster_bits);
        if (r == -EEXIST)
            r = 0;
        else if (!r)
            r = copied_check_l2(k, at, fix);
    }
    set_fini(&seen);
    return r;
}

/* ---- All of it ---------------------------------------------------------------------------------------- */

/* Refcounts first: a flag that says that a cluster may be overwritten comes after the count it rests on. */
static int check_locked(struct checking *k, enum qcow2_repair repair)
{
    struct qcow2 *q = k->q;
    bool all = repair == QCOW2_REPAIR_ALL;
    int r = walk_all(k);

    if (!r && all)
        r = blocks_add(k);
    if (!r)
        r = compare_all(k, repair);
    if (!r && repair != QCOW2_REPAIR_NONE)
        r = qcow2_commit_locked(q);
    if (!r)
        r = copied_check_all(k, all);
    if (!r && repair != QCOW2_REPAIR_NONE)
        r = q->file.ops->sync(&q->file);
    if (!r && all && !k->c->corruptions && q->incompat & (INCOMPAT_DIRTY | INCOMPAT_CORRUPT)) {
        q->incompat &= ~(INCOMPAT_DIRTY | INCOMPAT_CORRUPT);
        r = header_write_features_locked(q);
    }
    return r;
}

static void check_fini(struct checking *k)
{
    for (size_t i = 0; i < k->size; i++)
        free(k->chunk[i]);
    free(k->chunk);
    free(k->table);
}

int qcow2_check(struct qcow2 *q, enum qcow2_repair repair, struct qcow2_check *c, struct err *err)
{
    struct checking k = {.q = q, .c = c};
    uint64_t file_size;
    int r;

    *c = (struct qcow2_check){.say = c->say,
                              .progress = c->progress,
                              .opaque = c->opaque,
                              .total_clusters = clusters_for(q, q->size)};
    if (!q->inspect || (repair != QCOW2_REPAIR_NONE && q->read_only))
        return err_set(err, -EINVAL, "%s was not opened to be checked", q->path);
    r = q->file.ops->size(&q->file, &file_size);
    k.file_clusters = clusters_for(q, file_size);
    k.total = q->l1_size * 2ull + q->reftab_size;
    k.table = malloc(cluster_size(q));
    if (!r && !k.table)
        r = -ENOMEM;
    pthread_mutex_lock(&q->lock);
    if (!r)
        r = check_locked(&k, repair);
    pthread_mutex_unlock(&q->lock);
    c->end <<= q->cluster_bits;
    check_fini(&k);
    if (r == -ENOMEM)
        return err_set(err, r, "no memory to check %s", q->path);
    return r ? err_set(err, r, "cannot check %s: %s", q->path, strerror(-r)) : 0;
}
