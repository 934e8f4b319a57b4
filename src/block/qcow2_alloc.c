/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes to clusters that get a new place: copying what is around them, linking them. */
#include "block/qcow2_int.h"

#define PARTS 60

struct writing {
    const struct iovec *iov;
    unsigned n;
    size_t skip;
    uint64_t off, len;        /* in the disk */
    uint64_t host;            /* of the first cluster */
    bool fresh;               /* the file is a hole there */
    bool head_zero, end_zero; /* the first and the last cluster read as zero now */
};

static bool reads_zero(const struct qcow2 *q, const struct map *m, uint64_t g)
{
    return m->type == MAP_ZERO || m->type == MAP_ZERO_SPACE ||
           (m->type == MAP_NONE && !backing_covers(q, g << q->cluster_bits));
}

static bool keeps_place(const struct map *m)
{
    return m->copied && (m->type == MAP_DATA || m->type == MAP_ZERO_SPACE);
}

/*
 * What was there of the disk at `off`; what lies beyond the disk's end is
 * zero, whatever a larger backing file has. NULL in *buf: zeroes that need
 * not be written.
 */
static int old_bytes(struct qcow2 *q, uint64_t off, uint64_t len, bool zero, bool fresh,
                     uint8_t **buf)
{
    uint64_t inside = off >= q->size ? 0 : len < q->size - off ? len : q->size - off;
    struct iovec iov = {NULL, inside};

    *buf = NULL;
    if (!len || (zero && fresh))
        return 0;
    iov.iov_base = *buf = calloc(1, len);
    if (!*buf)
        return -ENOMEM;
    return zero || !inside ? 0 : read_clusters(q, &iov, 1, 0, off, inside);
}

/* The data with `head` before and `tail` behind it, in one call if they are few pieces. */
static int write_around(struct qcow2 *q, const struct writing *w, uint8_t *head, size_t head_len,
                        uint8_t *tail, size_t tail_len)
{
    uint64_t host = w->host + (w->off & (cluster_size(q) - 1)), left = w->len;
    size_t skip = w->skip;
    int r = 0;

    while (left && !r) {
        struct iovec part[PARTS + 2];
        int first = 1, used;
        size_t got;

        used = 1 + iov_part(w->iov, w->n, skip, left, part + 1, PARTS, &got);
        if (head) {
            part[0] = (struct iovec){head, head_len};
            first = 0;
        }
        if (tail && got == left)
            part[used++] = (struct iovec){tail, tail_len};
        r = file_writev(&q->file, part + first, used - first, host - (head ? head_len : 0));
        head = NULL;
        host += got;
        skip += got;
        left -= got;
    }
    return r;
}

static int write_new(struct qcow2 *q, const struct writing *w)
{
    uint64_t head_len = w->off & (cluster_size(q) - 1), end = w->off + w->len;
    uint64_t tail_len = -end & (cluster_size(q) - 1);
    uint8_t *head = NULL, *tail = NULL;
    int r;

    r = old_bytes(q, w->off - head_len, head_len, w->head_zero, w->fresh, &head);
    if (!r)
        r = old_bytes(q, end, tail_len, w->end_zero, w->fresh, &tail);
    if (!r)
        r = write_around(q, w, head, head_len, tail, tail_len);
    free(head);
    free(tail);
    return r;
}

/* Clusters from `g` on, up to `max`, that all need a new place. The last one's mapping is left in m. */
static int count_new(struct qcow2 *q, uint64_t g, uint64_t max, struct map *m, uint64_t *count)
{
    struct map next = *m;
    int r = 0;

    *count = m->count;
    while (*count < max && !r) {
        r = map_get_locked(q, g + *count, max - *count, &next);
        if (r || keeps_place(&next))
            break;
        *m = next;
        *count += next.count;
    }
    return r;
}

/* Find or make a place for the clusters of the write; *alloc: they are new. May shorten the write. */
static int place_locked(struct qcow2 *q, struct writing *w, bool *alloc)
{
    uint64_t g = w->off >> q->cluster_bits, in = w->off & (cluster_size(q) - 1);
    uint64_t count = clusters_for(q, in + w->len), first, max;
    struct map m, last;
    int r = map_get_locked(q, g, count, &m);

    *alloc = false;
    if (r || (m.type == MAP_DATA && m.copied)) {
        w->len = 0;
        return r;
    }
    w->head_zero = reads_zero(q, &m, g);
    last = m;
    if (keeps_place(&m)) {
        w->host = m.host;
        for (count = 0; count < m.count; count++)
            if (set_has(&q->meta, (m.host >> q->cluster_bits) + count))
                return qcow2_damaged_locked(q, "data in a cluster of metadata", m.host);
    } else {
        r = count_new(q, g, count, &last, &max);
        if (!r)
            r = clusters_alloc_locked(q, 1, max, &first, &count, &w->fresh);
        if (r)
            return r;
        w->host = first << q->cluster_bits;
        *alloc = true;
        /* Fewer than wanted: the last one is another. */
        if (count < max)
            r = map_get_locked(q, g + count - 1, 1, &last);
        if (r) {
            clusters_release_locked(q, first, count);
            return r;
        }
    }
    if (w->len > (count << q->cluster_bits) - in)
        w->len = (count << q->cluster_bits) - in;
    w->end_zero = reads_zero(q, &last, g + count - 1);
    return 0;
}

struct new_place {
    uint64_t host;
    unsigned bits;
};

static uint64_t placed_entry(void *opaque, uint64_t i, uint64_t old)
{
    const struct new_place *p = opaque;

    return (p->host + (i << p->bits)) | ENTRY_COPIED;
}

static int link_locked(struct qcow2 *q, const struct writing *w)
{
    struct new_place p = {w->host, q->cluster_bits};
    uint64_t in = w->off & (cluster_size(q) - 1);
    int r = qcow2_link_begin_locked(q);

    if (r)
        return r;
    return map_update_locked(q, w->off >> q->cluster_bits, clusters_for(q, in + w->len),
                             placed_entry, &p);
}

int write_allocating(struct qcow2 *q, const struct iovec *iov, unsigned n, size_t skip,
                     uint64_t off, uint64_t len, uint64_t *done)
{
    struct writing w = {.iov = iov, .n = n, .skip = skip, .off = off, .len = len};
    struct qcow2_range range;
    bool alloc = false;
    int r;

    pthread_mutex_lock(&q->lock);
    range_enter_locked(q, &range, off >> q->cluster_bits, (off + len - 1) >> q->cluster_bits, true);
    r = qcow2_reserve_locked(q);
    if (!r)
        r = place_locked(q, &w, &alloc);
    if (!r && w.len) {
        pthread_mutex_unlock(&q->lock);
        r = write_new(q, &w);
        pthread_mutex_lock(&q->lock);
        if (!r)
            r = link_locked(q, &w);
    }
    if (r && alloc)
        clusters_release_locked(q, w.host >> q->cluster_bits,
                                clusters_for(q, (w.off & (cluster_size(q) - 1)) + w.len));
    *done = r ? 0 : w.len;
    range_leave_locked(q, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}
