/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The header: read, checked, and the few fields that change written back. */
#include <stdio.h>

#include "base/log.h"
#include "block/qcow2_int.h"

bool qcow2_probe(const uint8_t *head)
{
    return be32_at(head) == QCOW2_MAGIC && (be32_at(head + 4) == 2 || be32_at(head + 4) == 3);
}

int qcow2_damaged_locked(struct qcow2 *q, const char *what, uint64_t where)
{
    if (q->read_only || q->inspect || q->broken)
        return -EIO;
    log_error("%s is damaged: %s (%#llx); nothing more is written. lodge image check tells more",
              q->path, what, (unsigned long long)where);
    q->broken = -EIO;
    q->incompat |= INCOMPAT_CORRUPT;
    header_write_features_locked(q);
    return -EIO;
}

static int damaged(const struct qcow2 *q, struct err *err, const char *what, uint64_t value)
{
    return err_set(err, -EINVAL, "%s is damaged, or no qcow2 image at all: its %s is wrong (%llu)",
                   q->path, what, (unsigned long long)value);
}

/* ---- Extensions ----------------------------------------------------------------------------- */

static char *copy_string(const uint8_t *from, size_t len)
{
    char *s = malloc(len + 1);

    if (s) {
        memcpy(s, from, len);
        s[len] = '\0';
    }
    return s;
}

/* The name of incompatible feature `bit`, if the image has it. */
static void feature_name(const uint8_t *table, size_t len, unsigned bit, char name[48])
{
    snprintf(name, 48, "number %u", bit);
    for (; len >= 48; len -= 48, table += 48) {
        if (table[0] || table[1] != bit)
            continue;
        snprintf(name, 48, "%.46s", (const char *)table + 2);
        for (char *c = name; *c; c++)
            if ((unsigned char)*c < 32 || (unsigned char)*c > 126)
                *c = '?';
    }
}

static int unknown_feature(const struct qcow2 *q, uint64_t unknown, const uint8_t *table,
                           size_t len, struct err *err)
{
    unsigned bit = (unsigned)__builtin_ctzll(unknown);
    char name[48];

    feature_name(table, len, bit, name);
    if (unknown & INCOMPAT_DATA_FILE)
        snprintf(name, sizeof(name), "external data file");
    else if (unknown & INCOMPAT_EXTENDED_L2)
        snprintf(name, sizeof(name), "extended L2 entries");
    err_set(err, -ENOTSUP, "%s uses a feature of qcow2 that Lodge does not have: %s", q->path,
            name);
    return err_next(err, "qemu-img convert -O qcow2 makes a copy without it.");
}

static int bitmaps_note(struct qcow2 *q, const uint8_t *data, uint32_t len, struct err *err)
{
    if (!(q->autoclear & AUTOCLEAR_BITMAPS))
        return 0;
    if (len < 24)
        return damaged(q, err, "bitmaps extension", len);
    q->bitmaps_count = be32_at(data);
    q->bitmaps_size = be64_at(data + 8);
    q->bitmaps_offset = be64_at(data + 16);
    if (!q->bitmaps_count || q->bitmaps_count > 65535 || !q->bitmaps_offset ||
        q->bitmaps_offset & (cluster_size(q) - 1) || q->bitmaps_offset >= QCOW2_OFFSET_MAX ||
        q->bitmaps_size > MIB(64))
        return damaged(q, err, "bitmaps extension", q->bitmaps_offset);
    return 0;
}

static int extensions_load(struct qcow2 *q, const uint8_t *head, uint64_t at, uint64_t end,
                           struct err *err)
{
    const uint8_t *features = NULL;
    size_t features_len = 0;
    int r = 0;

    while (!r && at + 8 <= end) {
        uint32_t type = be32_at(head + at), len = be32_at(head + at + 4);
        const uint8_t *data = head + at + 8;

        if (type == EXT_END)
            break;
        if (len > end - at - 8)
            return damaged(q, err, "header extension", type);
        if (type == EXT_BACKING_FMT && !q->backing_fmt) {
            if (len > 64)
                return damaged(q, err, "backing format", len);
            q->backing_fmt = copy_string(data, len);
            r = q->backing_fmt ? 0 : err_set(err, -ENOMEM, "no memory to open %s", q->path);
        } else if (type == EXT_FEATURES) {
            features = data;
            features_len = len;
        } else if (type == EXT_BITMAPS) {
            r = bitmaps_note(q, data, len, err);
        }
        at += 8 + ALIGN_UP((uint64_t)len, 8);
    }
    if (!r && q->incompat & ~INCOMPAT_KNOWN)
        return unknown_feature(q, q->incompat & ~INCOMPAT_KNOWN, features, features_len, err);
    return r;
}

static int backing_load(struct qcow2 *q, const uint8_t *head, uint64_t header_len, struct err *err)
{
    uint64_t off = be64_at(head + HDR_BACKING_OFFSET);
    uint32_t len = be32_at(head + HDR_BACKING_SIZE);

    if (!off)
        return 0;
    if (!len || len > 1023 || off < header_len || off > cluster_size(q) - len)
        return damaged(q, err, "backing file name", off);
    if (memchr(head + off, 0, len))
        return damaged(q, err, "backing file name", 0);
    q->backing_name = copy_string(head + off, len);
    return q->backing_name ? 0 : err_set(err, -ENOMEM, "no memory to open %s", q->path);
}

/* ---- Fields ----------------------------------------------------------------------------------- */

static bool is_table_offset(const struct qcow2 *q, uint64_t off)
{
    return off && !(off & (cluster_size(q) - 1)) && off < QCOW2_OFFSET_MAX;
}

static int geometry_load(struct qcow2 *q, const uint8_t *h, struct err *err)
{
    q->size = be64_at(h + HDR_SIZE);
    q->l1_size = be32_at(h + HDR_L1_SIZE);
    q->l1_offset = be64_at(h + HDR_L1_OFFSET);
    q->reftab_offset = be64_at(h + HDR_REFTAB_OFFSET);
    q->reftab_size = (uint64_t)be32_at(h + HDR_REFTAB_CLUSTERS) << (q->cluster_bits - 3);
    q->snapshots = be32_at(h + HDR_SNAPSHOTS);
    q->snapshots_offset = be64_at(h + HDR_SNAPSHOTS_OFFSET);
    if (q->size > (uint64_t)INT64_MAX - MIB(4))
        return damaged(q, err, "size", q->size);
    if (q->l1_size > QCOW2_L1_MAX / 8 || l1_entries_for(q, q->size) > q->l1_size)
        return damaged(q, err, "L1 table's size", q->l1_size);
    if (q->l1_size && !is_table_offset(q, q->l1_offset))
        return damaged(q, err, "L1 table's place", q->l1_offset);
    if (!q->reftab_size || q->reftab_size > QCOW2_REFTAB_MAX / 8)
        return damaged(q, err, "refcount table's size", q->reftab_size);
    if (!is_table_offset(q, q->reftab_offset))
        return damaged(q, err, "refcount table's place", q->reftab_offset);
    if (q->snapshots > QCOW2_SNAPS_MAX)
        return damaged(q, err, "number of snapshots", q->snapshots);
    if (q->snapshots && !is_table_offset(q, q->snapshots_offset))
        return damaged(q, err, "snapshot table's place", q->snapshots_offset);
    return 0;
}

/* Fields of version 3; what version 2 has instead. */
static int features_load(struct qcow2 *q, const uint8_t *h, uint64_t *len, struct err *err)
{
    *len = HDR_V2_SIZE;
    q->refcount_order = 4;
    if (q->version < 3)
        return 0;
    q->incompat = be64_at(h + HDR_INCOMPAT);
    q->compat = be64_at(h + HDR_COMPAT);
    q->autoclear = be64_at(h + HDR_AUTOCLEAR);
    q->refcount_order = be32_at(h + HDR_REFCOUNT_ORDER);
    *len = be32_at(h + HDR_LENGTH);
    if (q->refcount_order > 6)
        return damaged(q, err, "refcount width", q->refcount_order);
    if (*len < HDR_V3_SIZE || *len > cluster_size(q) || *len % 8)
        return damaged(q, err, "header's length", *len);
    if (*len > HDR_COMPRESSION)
        q->compression = h[HDR_COMPRESSION];
    if (!(q->incompat & INCOMPAT_COMPRESSION) != !q->compression)
        return damaged(q, err, "compression type", q->compression);
    if (q->compression > 1)
        return err_set(err, -ENOTSUP, "%s is compressed in a way that Lodge does not know (%u)",
                       q->path, q->compression);
    return 0;
}

static int fixed_load(struct qcow2 *q, const uint8_t *h, struct err *err)
{
    uint32_t version = be32_at(h + HDR_VERSION), bits = be32_at(h + HDR_CLUSTER_BITS);

    if (be32_at(h) != QCOW2_MAGIC) {
        err_set(err, -EINVAL, "%s is not a qcow2 image", q->path);
        return err_next(err, "If it is a raw one, say format=raw.");
    }
    if (version != 2 && version != 3)
        return err_set(err, -ENOTSUP, "%s is a qcow image of version %u; Lodge knows 2 and 3",
                       q->path, version);
    if (bits < QCOW2_CLUSTER_BITS_MIN || bits > QCOW2_CLUSTER_BITS_MAX)
        return damaged(q, err, "cluster size", bits);
    if (be32_at(h + HDR_CRYPT)) {
        err_set(err, -ENOTSUP, "%s is encrypted, which Lodge does not support", q->path);
        return err_next(err, "qemu-img convert makes a plain copy of it.");
    }
    q->version = version;
    q->cluster_bits = bits;
    q->l2_bits = bits - 3;
    q->page_bits = bits < PAGE_SHIFT ? bits : PAGE_SHIFT;
    return 0;
}

int header_load(struct qcow2 *q, struct err *err)
{
    uint8_t first[HDR_COMPRESSION + 8], *head = NULL;
    uint64_t len, ext_end;
    int r = file_read(&q->file, first, sizeof(first), 0);

    if (r)
        return err_set(err, r, "cannot read %s: %s", q->path, strerror(-r));
    r = fixed_load(q, first, err);
    if (!r)
        r = features_load(q, first, &len, err);
    if (r)
        return r;
    head = malloc(cluster_size(q));
    if (!head)
        return err_set(err, -ENOMEM, "no memory to open %s", q->path);
    r = file_read(&q->file, head, cluster_size(q), 0);
    if (r)
        err_set(err, r, "cannot read %s: %s", q->path, strerror(-r));
    if (!r)
        r = backing_load(q, head, len, err);
    ext_end = q->backing_name ? be64_at(head + HDR_BACKING_OFFSET) : cluster_size(q);
    if (!r)
        r = extensions_load(q, head, len, ext_end, err);
    if (!r)
        r = geometry_load(q, head, err);
    free(head);
    return r;
}

/* ---- Tables -------------------------------------------------------------------------------------- */

static int table_read(struct qcow2 *q, uint64_t **table, uint64_t entries, uint64_t offset,
                      struct err *err)
{
    int r;

    *table = malloc(entries ? entries * 8 : 8);
    if (!*table)
        return err_set(err, -ENOMEM, "no memory for the tables of %s", q->path);
    r = file_read(&q->file, *table, entries * 8, offset);
    if (r)
        return err_set(err, r, "cannot read the tables of %s: %s", q->path, strerror(-r));
    for (uint64_t i = 0; i < entries; i++)
        (*table)[i] = be64toh((*table)[i]);
    return 0;
}

/* Two things in one cluster are an error only for who wants to write. */
static int meta_note(struct qcow2 *q)
{
    int r = set_add(&q->meta, 0);

    if (!r)
        r = set_add_run(&q->meta, q->l1_offset >> q->cluster_bits,
                        clusters_for(q, (uint64_t)q->l1_size * 8));
    if (!r)
        r = set_add_run(&q->meta, q->reftab_offset >> q->cluster_bits,
                        q->reftab_size >> (q->cluster_bits - 3));
    for (uint64_t i = 0; i < q->l1_size && !r; i++)
        if (q->l1[i])
            r = q->l1[i] & (L1_RESERVED | (cluster_size(q) - 1)) ||
                        (q->l1[i] & ENTRY_OFFSET) >> q->cluster_bits >= q->zero_from
                    ? -EINVAL
                    : set_add(&q->meta, (q->l1[i] & ENTRY_OFFSET) >> q->cluster_bits);
    for (uint64_t i = 0; i < q->reftab_size && !r; i++)
        if (q->reftab[i])
            r = q->reftab[i] & (cluster_size(q) - 1) ||
                        q->reftab[i] >> q->cluster_bits >= q->zero_from
                    ? -EINVAL
                    : set_add(&q->meta, q->reftab[i] >> q->cluster_bits);
    return r;
}

int tables_load(struct qcow2 *q, struct err *err)
{
    int r;

    if (!q->l1) {
        r = table_read(q, &q->l1, q->l1_size, q->l1_offset, err);
        if (!r)
            r = table_read(q, &q->reftab, q->reftab_size, q->reftab_offset, err);
        if (r)
            return r;
        q->l1_dirty = calloc(q->l1_size / 512 + 1, 1);
        if (!q->l1_dirty)
            return err_set(err, -ENOMEM, "no memory for the tables of %s", q->path);
    }
    if (q->read_only || q->inspect)
        return 0;
    r = meta_note(q);
    if (r == -ENOMEM)
        return err_set(err, r, "no memory for the tables of %s", q->path);
    if (r) {
        err_set(err, -EINVAL, "%s is damaged: its tables overlap or lie in impossible places",
                q->path);
        return err_next(err, "lodge image check tells more; it can still be opened read-only.");
    }
    return 0;
}

/* ---- Changes ---------------------------------------------------------------------------------------- */

static int header_write(struct qcow2 *q, const uint8_t *buf, size_t len, uint64_t off)
{
    int r = file_write(&q->file, buf, len, off);

    return r ? r : q->file.ops->sync(&q->file);
}

int header_write_features_locked(struct qcow2 *q)
{
    uint8_t buf[24];

    if (q->version < 3)
        return 0;
    be64_put(buf, q->incompat);
    be64_put(buf + 8, q->compat);
    be64_put(buf + 16, q->autoclear);
    return header_write(q, buf, sizeof(buf), HDR_INCOMPAT);
}

int header_write_l1_locked(struct qcow2 *q, uint64_t size, uint32_t l1_size, uint64_t l1_offset)
{
    uint8_t buf[24] = {0};

    be64_put(buf, size);
    be32_put(buf + HDR_L1_SIZE - HDR_SIZE, l1_size);
    be64_put(buf + HDR_L1_OFFSET - HDR_SIZE, l1_offset);
    return header_write(q, buf, sizeof(buf), HDR_SIZE);
}

int header_write_reftab_locked(struct qcow2 *q, uint64_t offset, uint32_t clusters)
{
    uint8_t buf[12];

    be64_put(buf, offset);
    be32_put(buf + 8, clusters);
    return header_write(q, buf, sizeof(buf), HDR_REFTAB_OFFSET);
}
