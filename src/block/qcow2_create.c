/* SPDX-License-Identifier: GPL-2.0-or-later */
/* New images, and disks of another size. */
#include <fcntl.h>
#include <unistd.h>

#include "block/lock.h"
#include "block/qcow2_int.h"

#define V3_LENGTH 112 /* with the compression type, padded */

/* ---- Creating ---------------------------------------------------------------------------------- */

/* Clusters: header, refcount table, refcount blocks, L1 table, in this order. */
struct layout {
    unsigned bits;
    uint64_t l1_entries, table, blocks, l1, total; /* the last four: clusters */
};

static int layout_find(const struct qcow2_create *c, struct layout *l, struct err *err)
{
    struct qcow2 shape = {.cluster_bits = l->bits, .l2_bits = l->bits - 3};
    uint64_t per = 1ull << (l->bits - 1); /* refcounts of 16 bits in a block */

    l->l1_entries = c->size > INT64_MAX - MIB(4) ? UINT64_MAX : l1_entries_for(&shape, c->size);
    if (l->l1_entries > QCOW2_L1_MAX / 8) {
        err_set(err, -EFBIG,
                "a qcow2 image with clusters of %llu bytes cannot hold a disk of that size",
                1ull << l->bits);
        return err_next(err, "Larger clusters make larger disks possible.");
    }
    l->l1 = clusters_for(&shape, l->l1_entries ? l->l1_entries * 8 : 8);
    l->l1_entries = l->l1_entries ? l->l1_entries : 1;
    l->blocks = l->table = 1;
    do {
        l->total = 1 + l->table + l->blocks + l->l1;
        l->blocks = (l->total + per - 1) / per;
        l->table = clusters_for(&shape, l->blocks * 8);
    } while (l->total != 1 + l->table + l->blocks + l->l1);
    return 0;
}

static size_t put_header(uint8_t *h, const struct qcow2_create *c, const struct layout *l)
{
    unsigned version = c->version ? c->version : 3;
    size_t at = version < 3 ? HDR_V2_SIZE : V3_LENGTH;

    be32_put(h + HDR_MAGIC, QCOW2_MAGIC);
    be32_put(h + HDR_VERSION, version);
    be32_put(h + HDR_CLUSTER_BITS, l->bits);
    be64_put(h + HDR_SIZE, c->size);
    be32_put(h + HDR_L1_SIZE, (uint32_t)l->l1_entries);
    be64_put(h + HDR_L1_OFFSET, (1 + l->table + l->blocks) << l->bits);
    be64_put(h + HDR_REFTAB_OFFSET, 1ull << l->bits);
    be32_put(h + HDR_REFTAB_CLUSTERS, (uint32_t)l->table);
    if (version >= 3) {
        be64_put(h + HDR_COMPAT, c->lazy_refcounts ? COMPAT_LAZY : 0);
        be32_put(h + HDR_REFCOUNT_ORDER, 4);
        be32_put(h + HDR_LENGTH, V3_LENGTH);
    }
    if (c->backing_fmt) {
        be32_put(h + at, EXT_BACKING_FMT);
        be32_put(h + at + 4, (uint32_t)strlen(c->backing_fmt));
        memcpy(h + at + 8, c->backing_fmt, strlen(c->backing_fmt));
        at += 8 + ALIGN_UP(strlen(c->backing_fmt), 8);
    }
    at += 8; /* the end of the extensions, zeroes */
    if (c->backing) {
        be64_put(h + HDR_BACKING_OFFSET, at);
        be32_put(h + HDR_BACKING_SIZE, (uint32_t)strlen(c->backing));
        memcpy(h + at, c->backing, strlen(c->backing));
    }
    return at;
}

/* The header comes last: a file without one is nobody's image. */
static int image_write(struct qcow2_file *f, const struct qcow2_create *c, const struct layout *l)
{
    uint64_t size = 1ull << l->bits;
    uint8_t *buf = calloc(1, size);
    int r = buf ? f->ops->resize(f, 0) : -ENOMEM;

    if (!r)
        r = f->ops->resize(f, l->total << l->bits);
    for (uint64_t i = 0; i < l->blocks && !r; i++) {
        uint8_t entry[8];

        be64_put(entry, (1 + l->table + i) << l->bits);
        r = file_write(f, entry, 8, size + i * 8);
    }
    for (uint64_t b = 0; b < l->blocks && !r; b++) {
        memset(buf, 0, size);
        for (uint64_t i = 0; i < size / 2 && b * (size / 2) + i < l->total; i++)
            refcount_store(buf, 4, i, 1);
        r = file_write(f, buf, size, (1 + l->table + b) << l->bits);
    }
    if (!r) {
        memset(buf, 0, size);
        put_header(buf, c, l);
        r = file_write(f, buf, size, 0);
    }
    if (!r)
        r = f->ops->sync(f);
    free(buf);
    return r;
}

static int create_open(const struct qcow2_create *c, struct qcow2_file *f, struct err *err)
{
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | (c->replace ? 0 : O_EXCL), r;

    if (c->ops) {
        *f = (struct qcow2_file){.ops = c->ops, .fd = -1, .opaque = c->opaque};
        return 0;
    }
    *f = (struct qcow2_file){.ops = &qcow2_file_fd, .fd = open(c->path, flags, 0666)};
    if (f->fd < 0) {
        r = -errno;
        err_set(err, r, "cannot create %s: %s", c->path, strerror(-r));
        return r == -EEXIST ? err_next(err, "Remove it first, or say --force.") : r;
    }
    r = block_lock(f->fd, true, c->path, err);
    if (r)
        close(f->fd);
    return r;
}

static int create_check(const struct qcow2_create *c, const struct layout *l, struct err *err)
{
    if (l->bits < QCOW2_CLUSTER_BITS_MIN || l->bits > QCOW2_CLUSTER_BITS_MAX)
        return err_set(err, -EINVAL, "clusters of qcow2 have 512 bytes to 2 MiB, a power of two");
    if (c->version && c->version != 2 && c->version != 3)
        return err_set(err, -EINVAL, "there is no version %u of qcow2, only 2 and 3", c->version);
    if (c->lazy_refcounts && c->version == 2)
        return err_set(err, -EINVAL, "lazy refcounts need version 3 of qcow2");
    if (c->backing && (!*c->backing || strlen(c->backing) > 1023))
        return err_set(err, -EINVAL, "the name of a backing file has 1 to 1023 bytes");
    if (c->backing_fmt && strlen(c->backing_fmt) > 64)
        return err_set(err, -EINVAL, "there is no format '%.80s'", c->backing_fmt);
    if (c->backing && strlen(c->backing) + 200 > 1ull << l->bits)
        return err_set(err, -EINVAL, "the name of the backing file does not fit into a cluster");
    return 0;
}

int qcow2_create(const struct qcow2_create *c, struct err *err)
{
    struct layout l = {.bits = c->cluster_bits ? c->cluster_bits : QCOW2_CLUSTER_BITS};
    struct qcow2_file f;
    int r = create_check(c, &l, err);

    if (!r)
        r = layout_find(c, &l, err);
    if (!r)
        r = create_open(c, &f, err);
    if (r)
        return r;
    r = image_write(&f, c, &l);
    if (r)
        err_set(err, r, "cannot write %s: %s", c->path, strerror(-r));
    if (!c->ops) {
        if (r)
            unlink(c->path);
        close(f.fd);
    }
    return r;
}

/* ---- Resizing -------------------------------------------------------------------------------------- */

static int l1_copy(struct qcow2 *q, uint64_t entries, uint64_t first, uint64_t count)
{
    uint64_t bytes = count << q->cluster_bits;
    uint8_t *raw = calloc(1, bytes);
    int r;

    if (!raw)
        return -ENOMEM;
    for (uint64_t i = 0; i < q->l1_size && i < entries; i++)
        be64_put(raw + i * 8, q->l1[i]);
    r = file_write(&q->file, raw, bytes, first << q->cluster_bits);
    free(raw);
    return r;
}

/* Memory for a table of that many entries; what is there stays. */
static int l1_room(struct qcow2 *q, uint64_t entries)
{
    uint64_t *l1 = realloc(q->l1, entries * 8);
    uint8_t *dirty;

    if (!l1)
        return -ENOMEM;
    q->l1 = l1;
    memset(l1 + q->l1_size, 0, (entries - q->l1_size) * 8);
    dirty = realloc(q->l1_dirty, entries / 512 + 1);
    if (!dirty)
        return -ENOMEM;
    memset(dirty, 0, entries / 512 + 1);
    q->l1_dirty = dirty;
    return 0;
}

/* The table moves to where there is room for more; nothing of it has changed since the last commit. */
static int l1_grow(struct qcow2 *q, uint64_t entries)
{
    uint64_t want = clusters_for(q, entries * 8), first, count;
    uint64_t old = q->l1_offset >> q->cluster_bits, old_count = clusters_for(q, q->l1_size * 8ull);
    bool fresh;
    int r = l1_room(q, entries);

    if (!r)
        r = clusters_alloc_locked(q, want, want, &first, &count, &fresh);
    if (r)
        return r;
    r = l1_copy(q, entries, first, count);
    if (!r)
        r = set_add_run(&q->meta, first, count);
    if (!r)
        r = qcow2_commit_locked(q);
    if (r) {
        clusters_release_locked(q, first, count);
        return r;
    }
    r = header_write_l1_locked(q, q->size, (uint32_t)entries, first << q->cluster_bits);
    if (r) {
        q->broken = q->broken ? q->broken : r; /* which table is in use cannot be said */
        return r;
    }
    q->l1_size = (uint32_t)entries;
    q->l1_offset = first << q->cluster_bits;
    clusters_release_locked(q, old, old_count);
    return 0;
}

/* Nothing that was ever written, or that a larger backing file has, shows in the new space. */
static int grow(struct qcow2 *q, uint64_t size)
{
    uint64_t old = q->size, edge = old + cluster_rest(q, old);
    uint64_t shows = q->backing && q->backing->size > old ? q->backing->size : old;
    int r;

    if (!(old & (cluster_size(q) - 1)))
        edge = old;
    if (edge > size)
        edge = size;
    if (shows > size)
        shows = size;
    q->size = size;
    r = unmap_clusters(q, clusters_for(q, old), clusters_for(q, size));
    if (!r && edge > old)
        r = qcow2_write_zeroes(q, old, edge - old, true);
    if (!r && shows > edge)
        r = qcow2_write_zeroes(q, edge, shows - edge, true);
    if (r)
        q->size = old;
    return r;
}

static void l1_cut(struct qcow2 *q, uint64_t entries)
{
    for (uint64_t i = entries; i < q->l1_size; i++) {
        if (!q->l1[i])
            continue;
        clusters_free_later_locked(q, (q->l1[i] & ENTRY_OFFSET) >> q->cluster_bits, 1);
        l1_set_locked(q, i, 0);
    }
}

static int resize(struct qcow2 *q, uint64_t size)
{
    uint64_t entries = l1_entries_for(q, size), old = q->size;
    int r;

    pthread_mutex_lock(&q->lock);
    r = qcow2_reserve_locked(q);
    if (!r)
        r = qcow2_commit_locked(q);
    if (!r && entries > q->l1_size)
        r = l1_grow(q, entries);
    pthread_mutex_unlock(&q->lock);
    if (!r && size > old)
        r = grow(q, size);
    else if (!r)
        r = unmap_clusters(q, clusters_for(q, size), (uint64_t)q->l1_size << q->l2_bits);
    if (r)
        return r;
    pthread_mutex_lock(&q->lock);
    if (size < old)
        l1_cut(q, entries);
    r = qcow2_commit_locked(q);
    if (!r)
        r = header_write_l1_locked(q, size, q->l1_size, q->l1_offset);
    q->size = r ? old : size;
    pthread_mutex_unlock(&q->lock);
    return r;
}

int qcow2_resize(struct qcow2 *q, uint64_t size, bool shrink, struct err *err)
{
    int r;

    if (size == q->size)
        return 0;
    if (size < q->size && !shrink) {
        err_set(err, -EINVAL, "%s has more than that, and what lies behind would be lost", q->path);
        return err_next(err, "Say --shrink if that is meant.");
    }
    if (q->snapshots && q->version < 3)
        return err_set(err, -EBUSY, "%s is of version 2 and has snapshots; its size cannot change",
                       q->path);
    if (q->backing_name && !q->backing)
        return err_set(err, -EINVAL, "%s cannot be resized without its backing file", q->path);
    if (size > (uint64_t)INT64_MAX - MIB(4) || l1_entries_for(q, size) > QCOW2_L1_MAX / 8)
        return err_set(err, -EFBIG, "%s cannot hold that much with clusters of %llu bytes", q->path,
                       (unsigned long long)cluster_size(q));
    r = resize(q, size);
    return r ? err_set(err, r, "cannot resize %s: %s", q->path, strerror(-r)) : 0;
}
