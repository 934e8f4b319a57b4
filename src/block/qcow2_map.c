/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From guest clusters to host clusters: L1 and L2 tables. */
#include "block/qcow2_int.h"

/* Where the L2 table of an L1 entry is, which the file must have; 0: there is none. */
static int l2_offset(struct qcow2 *q, uint64_t entry, uint64_t *off)
{
    *off = entry & ENTRY_OFFSET;
    if (entry & L1_RESERVED || *off & (cluster_size(q) - 1) || (!*off && entry) ||
        *off >> q->cluster_bits >= q->zero_from)
        return qcow2_damaged_locked(q, "wrong entry in the L1 table", entry);
    return 0;
}

uint64_t map_page_rest(const struct qcow2 *q, uint64_t g)
{
    uint64_t per = 1ull << (q->page_bits - 3);

    return per - (g & (per - 1));
}

void compressed_extent(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *len)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t sectors = (entry & ((1ull << 62) - 1)) >> x;

    *offset = entry & ((1ull << x) - 1);
    *len = (sectors + 1) * SECTOR - (*offset & (SECTOR - 1));
}

static int decode(const struct qcow2 *q, uint64_t entry, struct map *m)
{
    uint64_t offset, len;

    *m = (struct map){.entry = entry, .count = 1, .host = entry & ENTRY_OFFSET};
    if (entry & ENTRY_COMPRESSED) {
        m->type = MAP_COMPRESSED;
        compressed_extent(q, entry, &offset, &len);
        m->host = offset;
        return !offset || offset + len > QCOW2_OFFSET_MAX || entry & ENTRY_COPIED ? -EIO : 0;
    }
    if (entry & L2_RESERVED || m->host & (cluster_size(q) - 1) ||
        (!m->host && entry & ENTRY_COPIED) || (q->version < 3 && entry & ENTRY_ZERO))
        return -EIO;
    m->copied = entry & ENTRY_COPIED;
    if (entry & ENTRY_ZERO)
        m->type = m->host ? MAP_ZERO_SPACE : MAP_ZERO;
    else
        m->type = m->host ? MAP_DATA : MAP_NONE;
    return 0;
}

int map_decode_locked(struct qcow2 *q, uint64_t entry, struct map *m)
{
    int r = decode(q, entry, m);

    return r ? qcow2_damaged_locked(q, "wrong entry in an L2 table", entry) : 0;
}

/* Does `next` go on where `m` ends? */
static bool continues(const struct qcow2 *q, const struct map *m, const struct map *next)
{
    if (m->type != next->type || m->type == MAP_COMPRESSED || m->copied != next->copied)
        return false;
    return !m->host || next->host == m->host + (m->count << q->cluster_bits);
}

bool map_is_cached_locked(const struct qcow2 *q, uint64_t g)
{
    uint64_t index = g >> q->l2_bits, in_table = g & ((1ull << q->l2_bits) - 1);

    return index >= q->l1_size || !q->l1[index] ||
           meta_has_locked(q, (q->l1[index] & ENTRY_OFFSET) + in_table * 8);
}

int map_get_locked(struct qcow2 *q, uint64_t g, uint64_t max, struct map *m)
{
    uint64_t index = g >> q->l2_bits, in_table = g & ((1ull << q->l2_bits) - 1), table, at;
    struct page *p;
    int r;

    if (max > map_page_rest(q, g))
        max = map_page_rest(q, g);
    *m = (struct map){.type = MAP_NONE, .count = max};
    if (index >= q->l1_size || !q->l1[index])
        return 0;
    r = l2_offset(q, q->l1[index], &table);
    if (r)
        return r;
    at = table + in_table * 8;
    r = meta_get_locked(q, PAGE_L2, at, &p);
    if (!r)
        r = map_decode_locked(q, be64_at(p->data + (at - p->at)), m);
    for (struct map next; !r && m->count < max; m->count++) {
        at += 8;
        /* What is wrong with an entry is found by whoever wants that one. */
        if (decode(q, be64_at(p->data + (at - p->at)), &next) || !continues(q, m, &next))
            break;
    }
    return r;
}

/* ---- Changes ---------------------------------------------------------------------------- */

/*
 * The new table is in the file before anything can point to it, so a commit
 * may write the L1 entry and changed pages of the table in any order.
 */
static int l2_make(struct qcow2 *q, uint64_t index, uint64_t old, uint64_t *table)
{
    uint64_t cluster, count;
    uint8_t *copy = NULL;
    bool fresh;
    int r;

    r = clusters_alloc_locked(q, 1, 1, &cluster, &count, &fresh);
    if (r)
        return r;
    *table = cluster << q->cluster_bits;
    if (old) {
        copy = malloc(cluster_size(q));
        r = copy ? file_read(&q->file, copy, cluster_size(q), old) : -ENOMEM;
        if (!r)
            r = file_write(&q->file, copy, cluster_size(q), *table);
        free(copy);
    } else {
        r = file_write_zeroes(&q->file, *table, cluster_size(q));
    }
    if (!r)
        r = set_add(&q->meta, cluster);
    if (r) {
        clusters_release_locked(q, cluster, 1);
        return r;
    }
    l1_set_locked(q, index, *table | ENTRY_COPIED);
    if (old)
        clusters_free_later_locked(q, old >> q->cluster_bits, 1);
    return 0;
}

/* A table for guest cluster `g` that belongs to nobody else. */
static int l2_own(struct qcow2 *q, uint64_t g, uint64_t *table)
{
    uint64_t index = g >> q->l2_bits;
    int r;

    if (index >= q->l1_size)
        return -EINVAL;
    r = l2_offset(q, q->l1[index], table);
    if (r || (*table && q->l1[index] & ENTRY_COPIED))
        return r;
    return l2_make(q, index, *table, table);
}

static void free_old(struct qcow2 *q, uint64_t old, uint64_t new)
{
    uint64_t offset = old & ENTRY_OFFSET, len = 1, first;

    if (old & ENTRY_COMPRESSED) {
        compressed_extent(q, old, &offset, &len);
    } else if (!offset || (!(new &ENTRY_COMPRESSED) && (new &ENTRY_OFFSET) == offset)) {
        return;
    }
    first = offset >> q->cluster_bits;
    clusters_free_later_locked(q, first, ((offset + len - 1) >> q->cluster_bits) - first + 1);
}

int map_update_locked(struct qcow2 *q, uint64_t g, uint64_t count,
                      uint64_t (*entry_of)(void *opaque, uint64_t i, uint64_t old), void *opaque)
{
    uint64_t table, at;
    struct page *p;
    struct map m;
    int r = l2_own(q, g, &table);

    if (r)
        return r;
    at = table + (g & ((1ull << q->l2_bits) - 1)) * 8;
    r = meta_get_locked(q, PAGE_L2, at, &p);
    for (uint64_t i = 0; i < count && !r; i++)
        r = map_decode_locked(q, be64_at(p->data + (at - p->at) + i * 8), &m);
    if (r)
        return r;
    for (uint64_t i = 0; i < count; i++) {
        uint8_t *entry = p->data + (at - p->at) + i * 8;
        uint64_t old = be64_at(entry), new = entry_of(opaque, i, old);

        if (old == new)
            continue;
        be64_put(entry, new);
        meta_dirty_locked(q, p, at + i * 8, 8);
        free_old(q, old, new);
    }
    return 0;
}

bool qcow2_is_blank(struct qcow2 *q)
{
    bool blank = true;

    pthread_mutex_lock(&q->lock);
    for (uint32_t i = 0; blank && i < q->l1_size; i++)
        blank = !q->l1[i];
    pthread_mutex_unlock(&q->lock);
    return blank;
}
