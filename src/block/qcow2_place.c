/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that need nothing but their bytes moved: no allocation, no metadata to read, one piece of one file. */
#include "block/qcow2_int.h"

/* Down the chain to the file that has them. */
static int find(struct qcow2 *q, uint64_t off, uint64_t len, struct qcow2_place *place)
{
    for (;;) {
        uint64_t in = off & (cluster_size(q) - 1), g = off >> q->cluster_bits;
        const struct layer *below = q->backing;
        struct map m;
        int r = -EAGAIN;

        pthread_mutex_lock(&q->lock);
        if (map_is_cached_locked(q, g))
            r = map_get_locked(q, g, clusters_for(q, in + len), &m);
        pthread_mutex_unlock(&q->lock);
        if (r || m.type == MAP_COMPRESSED || (m.count << q->cluster_bits) - in < len)
            return -EAGAIN;
        place->file = m.type == MAP_DATA ? &q->file : NULL;
        place->at = m.host + in;
        if (m.type != MAP_NONE || !below || off >= below->size)
            return 0;
        if (len > below->size - off)
            return -EAGAIN;
        place->file = &below->raw;
        place->at = off;
        if (!below->q)
            return 0;
        q = below->q;
    }
}

static int find_for_write(struct qcow2 *q, uint64_t off, uint64_t len, struct qcow2_place *place)
{
    uint64_t part = 0;
    int r = 0;

    pthread_mutex_lock(&q->lock);
    if (map_is_cached_locked(q, off >> q->cluster_bits))
        r = in_place_locked(q, off, len, &place->at, &part);
    pthread_mutex_unlock(&q->lock);
    place->file = &q->file;
    return r || part != len ? -EAGAIN : 0;
}

int qcow2_enter(struct qcow2 *q, bool write, uint64_t off, uint64_t len, struct qcow2_place *place)
{
    bool entered;
    int r;

    if (!len || off > q->size || len > q->size - off || (write && q->read_only))
        return -EAGAIN;
    pthread_mutex_lock(&q->lock);
    entered = range_try_enter_locked(q, &place->range, off >> q->cluster_bits,
                                     (off + len - 1) >> q->cluster_bits, false);
    pthread_mutex_unlock(&q->lock);
    if (!entered)
        return -EAGAIN;
    r = write ? find_for_write(q, off, len, place) : find(q, off, len, place);
    if (r)
        qcow2_leave(q, place);
    return r;
}

void qcow2_leave(struct qcow2 *q, struct qcow2_place *place)
{
    pthread_mutex_lock(&q->lock);
    range_leave_locked(q, &place->range);
    pthread_mutex_unlock(&q->lock);
}
