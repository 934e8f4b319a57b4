/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which clusters of the file are in use: refcounts, allocation, and the set of those with metadata. */
#include "block/qcow2_int.h"

/* ---- A set of cluster numbers (open addressing, no slot is 0) --------------------------- */

static size_t set_slot(const struct cluster_set *s, uint64_t key)
{
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15ull >> 20) & (s->size - 1);

    while (s->slot[i] && s->slot[i] != key)
        i = (i + 1) & (s->size - 1);
    return i;
}

bool set_has(const struct cluster_set *s, uint64_t cluster)
{
    return s->size && s->slot[set_slot(s, cluster + 1)];
}

static int set_grow(struct cluster_set *s)
{
    struct cluster_set n = {.size = s->size ? s->size * 2 : 64, .used = s->used};

    n.slot = calloc(n.size, sizeof(*n.slot));
    if (!n.slot)
        return -ENOMEM;
    for (size_t i = 0; i < s->size; i++)
        if (s->slot[i])
            n.slot[set_slot(&n, s->slot[i])] = s->slot[i];
    free(s->slot);
    *s = n;
    return 0;
}

int set_add(struct cluster_set *s, uint64_t cluster)
{
    size_t i;

    if (s->used >= s->size / 2 && set_grow(s))
        return -ENOMEM;
    i = set_slot(s, cluster + 1);
    if (s->slot[i])
        return -EEXIST;
    s->slot[i] = cluster + 1;
    s->used++;
    return 0;
}

int set_add_run(struct cluster_set *s, uint64_t cluster, uint64_t count)
{
    int r = 0;

    for (uint64_t i = 0; i < count && !r; i++)
        r = set_add(s, cluster + i);
    return r;
}

void set_remove(struct cluster_set *s, uint64_t cluster)
{
    size_t i;

    if (!set_has(s, cluster))
        return;
    i = set_slot(s, cluster + 1);
    s->slot[i] = 0;
    s->used--;
    /* Those behind it may have been put there only because it was in the way. */
    for (i = (i + 1) & (s->size - 1); s->slot[i]; i = (i + 1) & (s->size - 1)) {
        uint64_t key = s->slot[i];

        s->slot[i] = 0;
        s->slot[set_slot(s, key)] = key;
    }
}

void set_remove_run(struct cluster_set *s, uint64_t cluster, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        set_remove(s, cluster + i);
}

void set_fini(struct cluster_set *s)
{
    free(s->slot);
    *s = (struct cluster_set){0};
}

/* ---- Refcount blocks ------------------------------------------------------------------- */

/* Entries of less than a byte begin at its least significant bit. */
uint64_t refcount_load(const uint8_t *block, unsigned order, uint64_t i)
{
    switch (order) {
    case 0:
        return block[i / 8] >> i % 8 & 1;
    case 1:
        return block[i / 4] >> i % 4 * 2 & 3;
    case 2:
        return block[i / 2] >> i % 2 * 4 & 15;
    case 3:
        return block[i];
    case 4:
        return be16_at(block + i * 2);
    case 5:
        return be32_at(block + i * 4);
    default:
        return be64_at(block + i * 8);
    }
}

void refcount_store(uint8_t *block, unsigned order, uint64_t i, uint64_t count)
{
    unsigned bits = 1u << order, shift = order < 3 ? (unsigned)(i % (8 / bits)) * bits : 0;
    uint8_t *byte = order < 3 ? block + i / (8 / bits) : block + i * (bits / 8);

    if (order < 3) {
        *byte &= (uint8_t) ~(((1u << bits) - 1) << shift);
        *byte |= (uint8_t)(count << shift);
    } else {
        for (unsigned b = bits / 8; b; b--, count >>= 8)
            byte[b - 1] = (uint8_t)count;
    }
}

/* Clusters that one refcount block speaks of, as a power of two. */
static unsigned block_bits(const struct qcow2 *q)
{
    return q->cluster_bits + 3 - q->refcount_order;
}

/* Where the refcount of a cluster is: its page, and its index in the page. *page NULL: there is no block. */
static int refcount_page(struct qcow2 *q, uint64_t cluster, struct page **page, uint64_t *index)
{
    uint64_t n = cluster >> block_bits(q), block = n < q->reftab_size ? q->reftab[n] : 0;
    uint64_t bit = (cluster & ((1ull << block_bits(q)) - 1)) << q->refcount_order;
    uint64_t page_size = 1ull << q->page_bits;

    *page = NULL;
    *index = (bit & (page_size * 8 - 1)) >> q->refcount_order;
    if (!block)
        return 0;
    if (block & (cluster_size(q) - 1) || block >> q->cluster_bits >= q->zero_from)
        return qcow2_damaged_locked(q, "wrong entry in the refcount table", block);
    return meta_get_locked(q, PAGE_REFCOUNT, block + (bit / 8 & ~(page_size - 1)), page);
}

int refcount_get_locked(struct qcow2 *q, uint64_t cluster, uint64_t *count)
{
    struct page *p;
    uint64_t i;
    int r = refcount_page(q, cluster, &p, &i);

    *count = !r && p ? refcount_load(p->data, q->refcount_order, i) : 0;
    return r;
}

/* A new refcount table with room for `entries`, and the blocks for itself, in clusters that no block covers yet. */
struct move {
    uint64_t first_block, blocks; /* table entries of the new blocks */
    uint64_t payload;             /* clusters behind them */
};

/* Blocks that cover themselves and `payload` clusters. */
static uint64_t blocks_for(const struct qcow2 *q, uint64_t payload)
{
    uint64_t per = 1ull << block_bits(q);

    return (payload + per - 2) / (per - 1);
}

static int write_blocks(struct qcow2 *q, const struct move *m)
{
    uint64_t base = m->first_block << block_bits(q), used = m->blocks + m->payload;
    uint8_t *block = calloc(1, cluster_size(q));
    int r = 0;

    if (!block)
        return -ENOMEM;
    for (uint64_t b = 0; b < m->blocks && !r; b++) {
        uint64_t done = b << block_bits(q), n = used - done;

        if (n > 1ull << block_bits(q))
            n = 1ull << block_bits(q);
        memset(block, 0, cluster_size(q));
        for (uint64_t i = 0; i < n; i++)
            refcount_store(block, q->refcount_order, i, 1);
        meta_drop_locked(q, (base + b) << q->cluster_bits, cluster_size(q));
        r = file_write(&q->file, block, cluster_size(q), (base + b) << q->cluster_bits);
    }
    free(block);
    return r;
}

/* The clusters of `m` hold metadata from now on, and nothing else does. */
static int claim_region(struct qcow2 *q, const struct move *m)
{
    uint64_t base = m->first_block << block_bits(q), n = m->blocks + m->payload;
    int r;

    if (base + n > QCOW2_OFFSET_MAX >> q->cluster_bits)
        return -EFBIG;
    for (uint64_t i = 0; i < n; i++)
        if (set_has(&q->meta, base + i))
            return qcow2_damaged_locked(q, "metadata in a cluster without a refcount",
                                        (base + i) << q->cluster_bits);
    r = set_add_run(&q->meta, base, n);
    if (r)
        set_remove_run(&q->meta, base, n);
    else if (q->zero_from < base + n)
        q->zero_from = base + n;
    return r;
}

static int reftab_write(struct qcow2 *q, uint64_t offset, uint64_t entries)
{
    uint8_t *raw = malloc(entries * 8);
    int r;

    if (!raw)
        return -ENOMEM;
    for (uint64_t i = 0; i < entries; i++)
        be64_put(raw + i * 8, q->reftab[i]);
    r = file_write(&q->file, raw, entries * 8, offset);
    free(raw);
    return r;
}

/* A table of at least `need` entries. The new one begins behind what the old one can speak of. */
static int reftab_grow(struct qcow2 *q, uint64_t need)
{
    uint64_t per = cluster_size(q) / 8, old_size = q->reftab_size, old = q->reftab_offset;
    struct move m = {.first_block = old_size};
    uint64_t size = old_size + old_size / 2, base, *table;
    int r;

    if (size < need)
        size = need;
    do {
        size = (size + per - 1) / per * per;
        m.payload = size / per;
        m.blocks = blocks_for(q, m.payload);
        if (size >= m.first_block + m.blocks)
            break;
        size = m.first_block + m.blocks;
    } while (size * 8 <= QCOW2_REFTAB_MAX);
    if (size * 8 > QCOW2_REFTAB_MAX)
        return -EFBIG;
    table = realloc(q->reftab, size * 8);
    if (!table)
        return -ENOMEM;
    q->reftab = table;
    memset(table + old_size, 0, (size - old_size) * 8);
    r = claim_region(q, &m);
    if (r)
        return r;
    base = m.first_block << block_bits(q);
    for (uint64_t b = 0; b < m.blocks; b++)
        table[m.first_block + b] = (base + b) << q->cluster_bits;
    r = write_blocks(q, &m);
    if (!r)
        r = reftab_write(q, (base + m.blocks) << q->cluster_bits, size);
    if (!r)
        r = q->file.ops->sync(&q->file);
    if (r) {
        set_remove_run(&q->meta, base, m.blocks + m.payload);
        return r;
    }
    r = header_write_reftab_locked(q, (base + m.blocks) << q->cluster_bits, (uint32_t)m.payload);
    if (r) {
        /* The header may or may not have changed: nothing that depends on it can be written. */
        q->broken = q->broken ? q->broken : r;
        return r;
    }
    q->reftab_size = size;
    q->reftab_offset = (base + m.blocks) << q->cluster_bits;
    clusters_release_locked(q, old >> q->cluster_bits, old_size / per);
    return 0;
}

/*
 * Blocks for the table entries that `m` says, in the first clusters they
 * cover, with the payload behind. *made stays false when the table had to
 * grow and now has something of its own there.
 */
static int region_make(struct qcow2 *q, const struct move *m, bool *made)
{
    uint64_t base = m->first_block << block_bits(q), b = 0;
    uint8_t entry[8];
    int r = 0;

    *made = false;
    if (m->first_block + m->blocks > q->reftab_size)
        r = reftab_grow(q, m->first_block + m->blocks);
    for (uint64_t i = 0; i < m->blocks && !r; i++)
        if (q->reftab[m->first_block + i])
            return 0;
    if (!r)
        r = claim_region(q, m);
    if (r)
        return r;
    r = write_blocks(q, m);
    if (!r)
        r = q->file.ops->sync(&q->file);
    for (; b < m->blocks && !r; b++) {
        be64_put(entry, (base + b) << q->cluster_bits);
        r = file_write(&q->file, entry, 8, q->reftab_offset + (m->first_block + b) * 8);
        if (!r)
            q->reftab[m->first_block + b] = (base + b) << q->cluster_bits;
    }
    /* Entries that were written hold the whole region; it is lost until somebody checks. */
    if (r && !q->reftab[m->first_block])
        set_remove_run(&q->meta, base, m->blocks + m->payload);
    *made = !r;
    return r;
}

static int block_ensure(struct qcow2 *q, uint64_t cluster)
{
    struct move m = {.first_block = cluster >> block_bits(q), .blocks = 1};

    bool made;

    if (m.first_block < q->reftab_size && q->reftab[m.first_block])
        return 0;
    return region_make(q, &m, &made);
}

int refcount_set_locked(struct qcow2 *q, uint64_t cluster, uint64_t count)
{
    struct page *p;
    uint64_t i;
    int r;

    if (count > refcount_max(q))
        return -ERANGE;
    r = block_ensure(q, cluster);
    if (!r)
        r = refcount_page(q, cluster, &p, &i);
    if (r)
        return r;
    refcount_store(p->data, q->refcount_order, i, count);
    meta_dirty_locked(q, p, p->at + (i << q->refcount_order) / 8,
                      q->refcount_order < 3 ? 1 : 1u << (q->refcount_order - 3));
    if (!count && cluster < q->hint)
        q->hint = cluster;
    return 0;
}

/* ---- Allocation ------------------------------------------------------------------------- */

/* Free clusters from `at` on, up to `max` and the end of the refcount block, which exists. */
static int free_run(struct qcow2 *q, uint64_t at, uint64_t max, uint64_t *n)
{
    uint64_t end = ((at >> block_bits(q)) + 1) << block_bits(q), count;

    for (*n = 0; *n < max && at + *n < end; ++*n) {
        int r = refcount_get_locked(q, at + *n, &count);

        if (r)
            return r;
        if (count)
            break;
    }
    return 0;
}

static int alloc_take(struct qcow2 *q, uint64_t first, uint64_t count, bool *fresh)
{
    for (uint64_t i = 0; i < count; i++)
        if (set_has(&q->meta, first + i))
            return qcow2_damaged_locked(q, "metadata in a cluster with a refcount of zero",
                                        (first + i) << q->cluster_bits);
    for (uint64_t i = 0; i < count; i++) {
        int r = refcount_set_locked(q, first + i, 1);

        if (r) {
            clusters_release_locked(q, first, i);
            return r;
        }
    }
    meta_drop_locked(q, first << q->cluster_bits, count << q->cluster_bits);
    *fresh = first >= q->zero_from;
    if (q->zero_from < first + count)
        q->zero_from = first + count;
    return 0;
}

/* More clusters in a row than one refcount block surely has: behind everything that has a block. */
static int alloc_region(struct qcow2 *q, uint64_t count, uint64_t *first)
{
    struct move m = {.payload = count, .blocks = blocks_for(q, count)};
    bool made = false;

    while (!made) {
        int r;

        m.first_block = 0;
        for (uint64_t i = 0; i < q->reftab_size; i++)
            if (q->reftab[i])
                m.first_block = i + 1;
        r = region_make(q, &m, &made);
        if (r)
            return r;
    }
    *first = (m.first_block << block_bits(q)) + m.blocks;
    /* Whoever asked says what these are. */
    set_remove_run(&q->meta, *first, count);
    return 0;
}

int clusters_alloc_locked(struct qcow2 *q, uint64_t min, uint64_t max, uint64_t *first,
                          uint64_t *count, bool *fresh)
{
    uint64_t at = q->hint, limit = QCOW2_OFFSET_MAX >> q->cluster_bits;
    bool at_hint = true;
    int r;

    if (min > 1ull << (block_bits(q) - 1)) {
        *fresh = false;
        *count = min;
        return alloc_region(q, min, first);
    }
    for (; at < limit; at++) {
        r = block_ensure(q, at);
        if (!r)
            r = free_run(q, at, max, count);
        if (r)
            return r;
        if (*count >= min) {
            *first = at;
            r = alloc_take(q, at, *count, fresh);
            if (!r && at_hint)
                q->hint = at + *count;
            return r;
        }
        /* Clusters too few in a row stay for those who want fewer. */
        if (*count)
            at_hint = false;
        else if (at_hint)
            q->hint = at + 1;
        at += *count;
    }
    return -EFBIG;
}

void clusters_release_locked(struct qcow2 *q, uint64_t first, uint64_t count)
{
    uint64_t n;

    for (uint64_t i = 0; i < count; i++) {
        set_remove(&q->meta, first + i);
        if (!refcount_get_locked(q, first + i, &n) && n)
            refcount_set_locked(q, first + i, n - 1);
    }
}

void clusters_free_later_locked(struct qcow2 *q, uint64_t first, uint64_t count)
{
    struct freed *last = q->freed_count ? &q->freed[q->freed_count - 1] : NULL;

    if (q->freed_count == q->freed_room) {
        size_t room = q->freed_room ? q->freed_room * 2 : 64;
        struct freed *more = realloc(q->freed, room * sizeof(*more));

        if (!more)
            return;
        q->freed = more;
        q->freed_room = room;
        last = q->freed_count ? &q->freed[q->freed_count - 1] : NULL;
    }
    q->freed_total += count;
    /* While a commit is under way, what it frees must stay apart from what is freed later. */
    if (last && !q->committing && last->cluster + last->count == first)
        last->count += count;
    else
        q->freed[q->freed_count++] = (struct freed){first, count};
}

/* Nothing refers to a cluster any more whose count is one, so its space goes back before others can have it. */
static void freed_apply_one(struct qcow2 *q, uint64_t cluster, uint64_t *hole, uint64_t *hole_len)
{
    uint64_t n;

    if (refcount_get_locked(q, cluster, &n) || n != 1)
        return;
    if (*hole + *hole_len != cluster) {
        if (*hole_len)
            q->file.ops->punch(&q->file, *hole << q->cluster_bits, *hole_len << q->cluster_bits);
        *hole = cluster;
        *hole_len = 0;
    }
    ++*hole_len;
}

void freed_apply_locked(struct qcow2 *q, size_t n)
{
    uint64_t hole = 0, hole_len = 0;

    for (size_t i = 0; i < n; i++)
        for (uint64_t c = 0; c < q->freed[i].count; c++)
            freed_apply_one(q, q->freed[i].cluster + c, &hole, &hole_len);
    if (hole_len)
        q->file.ops->punch(&q->file, hole << q->cluster_bits, hole_len << q->cluster_bits);
    for (size_t i = 0; i < n; i++) {
        clusters_release_locked(q, q->freed[i].cluster, q->freed[i].count);
        q->freed_total -= q->freed[i].count;
    }
    q->freed_count -= n;
    memmove(q->freed, q->freed + n, q->freed_count * sizeof(*q->freed));
}
