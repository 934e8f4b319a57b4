/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reading, overwriting, zeroes and discards. Data moves without the lock. */
#include <unistd.h>

#include "block/qcow2_int.h"

#define PARTS 64 /* elements of an iovec at a time */

static const uint8_t zeroes[KIB(64)];

/* ---- Requests on the same clusters --------------------------------------------------------- */

static bool conflict(const struct qcow2_range *a, const struct qcow2_range *b)
{
    return (a->exclusive || b->exclusive) && a->first <= b->last && b->first <= a->last;
}

/* Each waits for those that came before it and no others, so nobody waits for himself or for ever. */
void range_enter_locked(struct qcow2 *q, struct qcow2_range *r, uint64_t first, uint64_t last,
                        bool exclusive)
{
    struct qcow2_range **at = &q->ranges, *before;

    *r = (struct qcow2_range){.first = first, .last = last, .exclusive = exclusive};
    while (*at)
        at = &(*at)->next;
    *at = r;
    do {
        for (before = q->ranges; before != r && !conflict(before, r); before = before->next)
            ;
        if (before != r)
            pthread_cond_wait(&q->changed, &q->lock);
    } while (before != r);
}

bool range_try_enter_locked(struct qcow2 *q, struct qcow2_range *r, uint64_t first, uint64_t last,
                            bool exclusive)
{
    struct qcow2_range **at = &q->ranges;

    *r = (struct qcow2_range){.first = first, .last = last, .exclusive = exclusive};
    for (; *at; at = &(*at)->next)
        if (conflict(*at, r))
            return false;
    *at = r;
    return true;
}

void range_leave_locked(struct qcow2 *q, struct qcow2_range *r)
{
    struct qcow2_range **at = &q->ranges;

    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    if (q->ranges)
        pthread_cond_broadcast(&q->changed);
}

/* ---- Reading ------------------------------------------------------------------------------- */

static void clear(const struct iovec *iov, int n)
{
    for (; n; n--, iov++)
        memset(iov->iov_base, 0, iov->iov_len);
}

/*
 * Each layer of a chain calls the one below, a thousand at most; the arrays
 * are in functions of their own, so that they are not on the stack meanwhile.
 */
#define NOT_MEANWHILE __attribute__((noinline))

/* From a raw file; what lies behind its end, or has no file, is zero. */
NOT_MEANWHILE static int raw_read(struct layer *l, const struct iovec *iov, unsigned n, size_t skip,
                                  uint64_t off, uint64_t len)
{
    while (len) {
        struct iovec part[PARTS];
        uint64_t max = off >= l->size ? len : len < l->size - off ? len : l->size - off;
        size_t got;
        int used = iov_part(iov, n, skip, max, part, PARTS, &got), r = 0;

        if (off < l->size)
            r = file_readv(&l->raw, part, used, off);
        else
            clear(part, used);
        if (r)
            return r;
        skip += got;
        off += got;
        len -= got;
    }
    return 0;
}

int layer_read(struct layer *l, const struct iovec *iov, unsigned n, size_t skip, uint64_t off,
               uint64_t len)
{
    uint64_t inside = off >= l->size ? 0 : len < l->size - off ? len : l->size - off;
    int r;

    if (!l->q || !inside)
        return raw_read(l, iov, n, skip, off, len);
    r = read_clusters(l->q, iov, n, skip, off, inside);
    return r || inside == len ? r : raw_read(l, iov, n, skip + inside, off + inside, len - inside);
}

/* All of `len` lies in `m`, which is not the backing file's. */
NOT_MEANWHILE static int read_own(struct qcow2 *q, const struct map *m, const struct iovec *iov,
                                  unsigned n, size_t skip, uint64_t off, uint64_t len)
{
    uint64_t in = off & (cluster_size(q) - 1);

    while (len) {
        struct iovec part[PARTS];
        size_t got;
        int used = iov_part(iov, n, skip, len, part, PARTS, &got), r = 0;

        switch (m->type) {
        case MAP_DATA:
            r = file_readv(&q->file, part, used, m->host + in);
            break;
        case MAP_COMPRESSED:
            r = compressed_read(q, m->entry, in, part, used);
            break;
        default:
            clear(part, used);
        }
        if (r)
            return r;
        in += got;
        skip += got;
        len -= got;
    }
    return 0;
}

int read_clusters(struct qcow2 *q, const struct iovec *iov, unsigned n, size_t skip, uint64_t off,
                  uint64_t len)
{
    while (len) {
        uint64_t in = off & (cluster_size(q) - 1), part;
        struct map m;
        int r;

        pthread_mutex_lock(&q->lock);
        r = map_get_locked(q, off >> q->cluster_bits, clusters_for(q, in + len), &m);
        pthread_mutex_unlock(&q->lock);
        if (r)
            return r;
        part = (m.count << q->cluster_bits) - in;
        if (part > len)
            part = len;
        if (m.type == MAP_NONE && q->backing)
            r = layer_read(q->backing, iov, n, skip, off, part);
        else
            r = read_own(q, &m, iov, n, skip, off, part);
        if (r)
            return r;
        skip += part;
        off += part;
        len -= part;
    }
    return 0;
}

static int range_check(const struct qcow2 *q, uint64_t off, uint64_t len)
{
    return off > q->size || len > q->size - off ? -EINVAL : 0;
}

int qcow2_readv(struct qcow2 *q, const struct iovec *iov, unsigned n, uint64_t off, uint64_t len)
{
    struct qcow2_range range;
    int r = range_check(q, off, len);

    if (r || !len)
        return r;
    if (q->read_only)
        return read_clusters(q, iov, n, 0, off, len);
    pthread_mutex_lock(&q->lock);
    range_enter_locked(q, &range, off >> q->cluster_bits, (off + len - 1) >> q->cluster_bits,
                       false);
    pthread_mutex_unlock(&q->lock);
    r = read_clusters(q, iov, n, 0, off, len);
    pthread_mutex_lock(&q->lock);
    range_leave_locked(q, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* ---- Writing ------------------------------------------------------------------------------- */

static int write_parts(struct qcow2 *q, const struct iovec *iov, unsigned n, size_t skip,
                       uint64_t host, uint64_t len)
{
    int r = 0;

    while (len && !r) {
        struct iovec part[PARTS];
        size_t got;
        int used = iov_part(iov, n, skip, len, part, PARTS, &got);

        r = file_writev(&q->file, part, used, host);
        host += got;
        skip += got;
        len -= got;
    }
    return r;
}

int in_place_locked(struct qcow2 *q, uint64_t off, uint64_t len, uint64_t *host, uint64_t *part)
{
    uint64_t in = off & (cluster_size(q) - 1);
    struct map m;
    int r = q->broken;

    *part = 0;
    if (!r)
        r = map_get_locked(q, off >> q->cluster_bits, clusters_for(q, in + len), &m);
    if (r || m.type != MAP_DATA || !m.copied)
        return r;
    for (uint64_t i = 0; i < m.count; i++)
        if (set_has(&q->meta, (m.host >> q->cluster_bits) + i))
            return qcow2_damaged_locked(q, "data in a cluster of metadata", m.host);
    *host = m.host + in;
    *part = (m.count << q->cluster_bits) - in;
    if (*part > len)
        *part = len;
    return 0;
}

static int write_in_place(struct qcow2 *q, const struct iovec *iov, unsigned n, size_t skip,
                          uint64_t off, uint64_t len, uint64_t *done)
{
    struct qcow2_range range;
    uint64_t host = 0;
    int r;

    pthread_mutex_lock(&q->lock);
    range_enter_locked(q, &range, off >> q->cluster_bits, (off + len - 1) >> q->cluster_bits,
                       false);
    r = in_place_locked(q, off, len, &host, done);
    if (!r && *done) {
        pthread_mutex_unlock(&q->lock);
        r = write_parts(q, iov, n, skip, host, *done);
        pthread_mutex_lock(&q->lock);
    }
    range_leave_locked(q, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* Bytes from `off` to the end of its page of the L2 table, at most len. */
static uint64_t page_part(const struct qcow2 *q, uint64_t off, uint64_t len)
{
    uint64_t in = off & (cluster_size(q) - 1);
    uint64_t rest = (map_page_rest(q, off >> q->cluster_bits) << q->cluster_bits) - in;

    return rest < len ? rest : len;
}

int qcow2_writev(struct qcow2 *q, const struct iovec *iov, unsigned n, uint64_t off, uint64_t len)
{
    int r = q->read_only ? -EROFS : range_check(q, off, len);
    size_t skip = 0;

    while (len && !r) {
        uint64_t part = page_part(q, off, len), done = 0;

        r = write_in_place(q, iov, n, skip, off, part, &done);
        if (!r && !done)
            r = write_allocating(q, iov, n, skip, off, part, &done);
        skip += done;
        off += done;
        len -= done;
    }
    return r;
}

int qcow2_flush(struct qcow2 *q)
{
    int r;

    if (q->read_only)
        return 0;
    pthread_mutex_lock(&q->lock);
    r = qcow2_commit_locked(q);
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* ---- Zeroes -------------------------------------------------------------------------------- */

struct zeroing {
    struct qcow2 *q;
    uint64_t first; /* guest cluster */
    bool unmap, hide_nothing;
};

static uint64_t zero_entry(void *opaque, uint64_t i, uint64_t old)
{
    const struct zeroing *z = opaque;
    const struct qcow2 *q = z->q;
    bool space = !(old & ENTRY_COMPRESSED) && old & ENTRY_OFFSET && old & ENTRY_COPIED;

    if (z->hide_nothing)
        return 0;
    if (q->version >= 3 && space && !z->unmap)
        return old | ENTRY_ZERO;
    if (backing_covers(q, (z->first + i) << q->cluster_bits) || old == ENTRY_ZERO)
        return ENTRY_ZERO;
    return 0;
}

/* Guest clusters in one page of an L2 table. */
static int zero_page(struct zeroing *z, uint64_t count)
{
    struct qcow2 *q = z->q;
    uint64_t index = z->first >> q->l2_bits;
    struct qcow2_range range;
    int r;

    pthread_mutex_lock(&q->lock);
    range_enter_locked(q, &range, z->first, z->first + count - 1, true);
    r = q->broken;
    if (index >= q->l1_size ||
        (!q->l1[index] && (z->hide_nothing || !backing_covers(q, z->first << q->cluster_bits))))
        goto out;
    r = qcow2_reserve_locked(q);
    if (!r)
        r = qcow2_link_begin_locked(q);
    if (!r)
        r = map_update_locked(q, z->first, count, zero_entry, z);
out:
    range_leave_locked(q, &range);
    pthread_mutex_unlock(&q->lock);
    return r;
}

static int zero_clusters(struct zeroing *z, uint64_t last)
{
    int r = 0;

    while (z->first < last && !r) {
        uint64_t n = map_page_rest(z->q, z->first);

        if (n > last - z->first)
            n = last - z->first;
        r = zero_page(z, n);
        z->first += n;
    }
    return r;
}

int unmap_clusters(struct qcow2 *q, uint64_t first, uint64_t last)
{
    struct zeroing z = {.q = q, .first = first, .unmap = true, .hide_nothing = true};

    return zero_clusters(&z, last);
}

/* Bytes of one cluster, plainly, unless they are zero already. */
static int zero_bytes(struct qcow2 *q, uint64_t off, uint64_t len)
{
    struct iovec iov[(1u << QCOW2_CLUSTER_BITS_MAX) / sizeof(zeroes)];
    unsigned n = 0;
    uint64_t known;
    bool zero;
    int r = qcow2_is_zero(q, off, len, &zero, &known);

    if (r || (zero && known == len))
        return r;
    for (uint64_t left = len; left; n++) {
        size_t part = left < sizeof(zeroes) ? (size_t)left : sizeof(zeroes);

        iov[n] = (struct iovec){(void *)zeroes, part};
        left -= part;
    }
    return qcow2_writev(q, iov, n, off, len);
}

int qcow2_write_zeroes(struct qcow2 *q, uint64_t off, uint64_t len, bool unmap)
{
    int r = q->read_only ? -EROFS : range_check(q, off, len);

    while (len && !r) {
        uint64_t g = off >> q->cluster_bits, part = cluster_rest(q, off);
        struct zeroing z = {.q = q, .first = g, .unmap = unmap};

        if (part > len)
            part = len;
        if (off & (cluster_size(q) - 1) || (part < cluster_size(q) && off + part < q->size) ||
            (q->version < 3 && backing_covers(q, off))) {
            r = zero_bytes(q, off, part);
        } else {
            /* Up to where it would have to be done cluster by cluster. */
            uint64_t end = off + len == q->size ? off + len : (off + len) & ~(cluster_size(q) - 1);

            r = zero_clusters(&z, clusters_for(q, end));
            part = end - off;
        }
        off += part;
        len -= part;
    }
    return r;
}

int qcow2_discard(struct qcow2 *q, uint64_t off, uint64_t len)
{
    struct zeroing z = {.q = q, .unmap = true};
    uint64_t end = off + len;
    int r = q->read_only ? -EROFS : range_check(q, off, len);

    if (r || (q->version < 3 && q->backing))
        return r;
    z.first = clusters_for(q, off);
    return zero_clusters(&z, end == q->size ? clusters_for(q, end) : end >> q->cluster_bits);
}

/* ---- What is known to be zero ---------------------------------------------------------------- */

static int layer_is_zero(struct layer *l, uint64_t off, uint64_t max, bool *zero, uint64_t *len)
{
    off_t at;

    *zero = true;
    *len = max;
    if (off >= l->size)
        return 0;
    if (*len > l->size - off)
        *len = l->size - off;
    if (l->q)
        return qcow2_is_zero(l->q, off, *len, zero, len);
    *zero = false;
    at = lseek(l->raw.fd, (off_t)off, SEEK_DATA);
    if (at < 0)
        *zero = errno == ENXIO;
    else if ((uint64_t)at > off)
        *zero = true;
    if (at < 0)
        return 0;
    if (!*zero)
        at = lseek(l->raw.fd, (off_t)off, SEEK_HOLE);
    if (at > 0 && (uint64_t)at > off && (uint64_t)at - off < *len)
        *len = (uint64_t)at - off;
    return 0;
}

int qcow2_is_zero(struct qcow2 *q, uint64_t off, uint64_t max, bool *zero, uint64_t *len)
{
    uint64_t in = off & (cluster_size(q) - 1);
    struct map m;
    int r = range_check(q, off, max);

    if (r)
        return r;
    pthread_mutex_lock(&q->lock);
    r = map_get_locked(q, off >> q->cluster_bits, clusters_for(q, in + max), &m);
    pthread_mutex_unlock(&q->lock);
    if (r)
        return r;
    *len = (m.count << q->cluster_bits) - in;
    if (*len > max)
        *len = max;
    if (m.type == MAP_NONE && q->backing)
        return layer_is_zero(q->backing, off, *len, zero, len);
    *zero = m.type == MAP_NONE || m.type == MAP_ZERO || m.type == MAP_ZERO_SPACE;
    return 0;
}
