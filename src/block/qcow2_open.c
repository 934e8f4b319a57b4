/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening an image and what it stands on, closing both. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/lock.h"
#include "block/qcow2_int.h"

#define CACHE_DEFAULT MIB(8)
#define CACHE_BACKING MIB(2)

/* The images above one in its chain, to notice a circle. */
struct above {
    dev_t dev;
    ino_t ino;
    const struct above *next;
    unsigned depth;
};

static int open_image(struct qcow2 **out, const struct qcow2_config *cfg, const struct above *above,
                      struct err *err);

/* ---- Files ---------------------------------------------------------------------------------- */

static int file_open(struct qcow2_file *f, const char *path, bool read_only, struct err *err)
{
    int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

    f->ops = &qcow2_file_fd;
    f->fd = open(path, flags);
    if (f->fd < 0) {
        int code = -errno;

        return err_set(err, code, "cannot open %s: %s", path, strerror(-code));
    }
    return 0;
}

static int circle_check(const struct qcow2_file *f, const char *path, struct above *self,
                        struct err *err)
{
    struct stat st;

    if (fstat(f->fd, &st) < 0)
        return err_set(err, -errno, "cannot look at %s: %s", path, strerror(errno));
    self->dev = st.st_dev;
    self->ino = st.st_ino;
    self->depth = self->next ? self->next->depth + 1 : 1;
    for (const struct above *a = self->next; a; a = a->next)
        if (a->dev == self->dev && a->ino == self->ino)
            return err_set(err, -ELOOP, "%s is its own backing file, if through others", path);
    if (self->depth > QCOW2_CHAIN_MAX)
        return err_set(err, -ELOOP, "more than %d images stand on each other at %s",
                       QCOW2_CHAIN_MAX, path);
    return 0;
}

/* ---- Backing files ----------------------------------------------------------------------------- */

/* A name with a colon before any slash names something else than a file to QEMU. */
static int backing_resolve(struct qcow2 *q, struct err *err)
{
    const char *name = q->backing_name, *slash;
    size_t colon;

    if (!strncmp(name, "file:", 5))
        name += 5;
    colon = strcspn(name, ":/");
    if (name[colon] == ':') {
        err_set(err, -ENOTSUP, "the backing file of %s is no file: %.200s", q->path, name);
        return err_next(err, "qemu-img convert makes a copy that needs no backing file.");
    }
    slash = strrchr(q->path, '/');
    if (*name == '/' || !slash)
        q->backing_path = strdup(name);
    else if (asprintf(&q->backing_path, "%.*s/%s", (int)(slash - q->path), q->path, name) < 0)
        q->backing_path = NULL;
    return q->backing_path ? 0 : err_set(err, -ENOMEM, "no memory to open %s", q->path);
}

static int raw_open(struct layer *l, const char *path, bool no_lock, bool probe,
                    const struct above *above, struct err *err)
{
    struct above self = {.next = above};
    uint8_t head[8] = {0};
    int r = file_open(&l->raw, path, true, err);

    if (r)
        return r;
    r = circle_check(&l->raw, path, &self, err);
    if (!r && !no_lock)
        r = block_lock(l->raw.fd, false, path, err);
    if (!r) {
        r = l->raw.ops->size(&l->raw, &l->size);
        if (r)
            err_set(err, r, "cannot find the size of %s: %s", path, strerror(-r));
    }
    if (!r && probe && !file_read(&l->raw, head, sizeof(head), 0) && qcow2_probe(head)) {
        r = err_set(err, -EINVAL,
                    "%s looks like a qcow2 image, but the image on it does not say that it is one",
                    path);
        err_next(err, "If it is: qemu-img rebase -u -F qcow2 -b %s IMAGE.", path);
    }
    if (r)
        close(l->raw.fd);
    return r;
}

static bool is_raw(const char *format)
{
    return !format || !strcmp(format, "raw") || !strcmp(format, "file") ||
           !strcmp(format, "host_device");
}

static int layer_open(struct qcow2 *q, const struct qcow2_config *cfg, const struct above *above,
                      struct err *err)
{
    struct qcow2_config below = {.path = q->backing_path,
                                 .read_only = true,
                                 .no_lock = cfg->no_lock,
                                 .cache = CACHE_BACKING};
    struct layer *l = calloc(1, sizeof(*l));
    int r;

    if (!l)
        return err_set(err, -ENOMEM, "no memory to open %s", q->backing_path);
    if (is_raw(q->backing_fmt)) {
        r = raw_open(l, q->backing_path, cfg->no_lock, !q->backing_fmt, above, err);
    } else if (strcmp(q->backing_fmt, "qcow2") != 0) {
        r = err_set(err, -ENOTSUP,
                    "the backing file of %s is of format '%.32s'; Lodge knows raw "
                    "and qcow2 ones",
                    q->path, q->backing_fmt);
    } else {
        r = open_image(&l->q, &below, above, err);
        l->size = r ? 0 : l->q->size;
    }
    if (r)
        free(l);
    else
        q->backing = l;
    return r;
}

/* ---- Closing --------------------------------------------------------------------------------- */

/* All but what is below; returns that. */
static struct layer *image_free(struct qcow2 *q)
{
    struct layer *below = q->backing;

    if (q->file.direct)
        close(q->direct.direct_fd);
    if (q->file.fd >= 0 && q->file.ops == &qcow2_file_fd)
        close(q->file.fd);
    meta_fini(&q->cache);
    set_fini(&q->meta);
    for (unsigned i = 0; i < ARRAY_SIZE(q->slots); i++)
        free(q->slots[i].data);
    pthread_mutex_destroy(&q->comp_lock);
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q->freed);
    free(q->l1);
    free(q->l1_dirty);
    free(q->reftab);
    free(q->backing_name);
    free(q->backing_fmt);
    free(q->backing_path);
    free(q->path);
    free(q);
    return below;
}

/* A chain may be long, so this goes down it in a loop. */
void qcow2_abandon(struct qcow2 *q)
{
    struct layer *l = q ? image_free(q) : NULL;

    while (l) {
        struct layer *below = NULL;

        if (l->q)
            below = image_free(l->q);
        else
            close(l->raw.fd);
        free(l);
        l = below;
    }
}

int qcow2_close(struct qcow2 *q)
{
    int r = 0;

    if (!q)
        return 0;
    pthread_mutex_lock(&q->lock);
    if (!q->read_only && !q->inspect)
        r = qcow2_commit_all_locked(q);
    pthread_mutex_unlock(&q->lock);
    qcow2_abandon(q);
    return r;
}

int qcow2_freeze(struct qcow2 *q)
{
    int r;

    pthread_mutex_lock(&q->lock);
    r = q->read_only ? 0 : qcow2_commit_all_locked(q);
    pthread_mutex_unlock(&q->lock);
    if (r || q->read_only)
        return r;
    q->read_only = true;
    if (q->file.fd >= 0)
        block_lock_to_reader(q->file.fd);
    if (q->file.direct)
        block_lock_to_reader(q->file.direct->direct_fd);
    return 0;
}

void qcow2_thaw(struct qcow2 *q)
{
    q->read_only = false;
    if (q->file.fd >= 0)
        block_lock_to_writer(q->file.fd);
    if (q->file.direct)
        block_lock_to_writer(q->file.direct->direct_fd);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static struct qcow2 *image_new(const struct qcow2_config *cfg)
{
    struct qcow2 *q = calloc(1, sizeof(*q));

    if (!q)
        return NULL;
    q->file.fd = -1;
    q->read_only = cfg->read_only;
    q->inspect = cfg->inspect;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, NULL);
    pthread_mutex_init(&q->comp_lock, NULL);
    q->path = strdup(cfg->path);
    if (q->path)
        return q;
    qcow2_abandon(q);
    return NULL;
}

/* Refcounts may be anything after a crash with the dirty bit set; the mapping is right. */
static int dirty_repair(struct qcow2 *q, struct err *err)
{
    struct qcow2_check c = {0};
    int r;

    q->inspect = true;
    r = qcow2_check(q, QCOW2_REPAIR_ALL, &c, err);
    q->inspect = false;
    if (!r && c.corruptions) {
        r = err_set(err, -EINVAL, "%s was not closed and is damaged", q->path);
        err_next(err, "lodge image check tells more; it can still be opened read-only.");
    }
    return r;
}

/* What has to be done before anything is written. */
static int writer_prepare(struct qcow2 *q, struct err *err)
{
    int r = 0;

    if (q->incompat & INCOMPAT_CORRUPT) {
        err_set(err, -EINVAL, "%s is marked as damaged", q->path);
        return err_next(err, "lodge image check tells more; it can still be opened read-only.");
    }
    if (q->incompat & INCOMPAT_DIRTY)
        r = dirty_repair(q, err);
    if (!r)
        r = tables_load(q, err);
    if (!r && q->autoclear) {
        q->autoclear = 0;
        q->bitmaps_count = 0;
        r = header_write_features_locked(q);
        if (r)
            err_set(err, r, "cannot write to %s: %s", q->path, strerror(-r));
    }
    return r;
}

static int image_load(struct qcow2 *q, const struct qcow2_config *cfg, struct err *err)
{
    uint64_t file_size;
    bool inspect = q->inspect;
    int r = q->file.ops->size(&q->file, &file_size);

    if (r)
        return err_set(err, r, "cannot find the size of %s: %s", q->path, strerror(-r));
    r = header_load(q, err);
    if (r)
        return r;
    r = meta_init(&q->cache, cfg->cache ? cfg->cache : CACHE_DEFAULT, q->page_bits);
    if (r)
        return err_set(err, r, "no memory to open %s", q->path);
    q->zero_from = clusters_for(q, file_size);
    q->inspect = true; /* the tables alone at first */
    r = tables_load(q, err);
    q->inspect = inspect;
    if (!r && !q->read_only && !inspect)
        r = writer_prepare(q, err);
    return r;
}

/* A cluster smaller than a page may share one with metadata, which goes through the cache. */
static int go_direct(struct qcow2 *q, struct err *err)
{
    int r;

    direct_init(&q->direct, q->file.fd);
    r = direct_enable(&q->direct, q->path, err);
    if (!r)
        q->file.direct = &q->direct;
    return r;
}

static int open_image(struct qcow2 **out, const struct qcow2_config *cfg, const struct above *above,
                      struct err *err)
{
    struct above self = {.next = above};
    struct qcow2 *q = image_new(cfg);
    int r = 0;

    *out = NULL;
    if (!q)
        return err_set(err, -ENOMEM, "no memory to open %s", cfg->path);
    if (cfg->ops) {
        q->file = (struct qcow2_file){.ops = cfg->ops, .fd = -1, .opaque = cfg->opaque};
    } else {
        r = file_open(&q->file, cfg->path, cfg->read_only, err);
        if (!r)
            r = circle_check(&q->file, cfg->path, &self, err);
        if (!r && !cfg->read_only)
            r = block_lock_check_frozen(q->file.fd, cfg->path, err);
        if (!r && !cfg->no_lock)
            r = block_lock(q->file.fd, !cfg->read_only, cfg->path, err);
    }
    if (!r && cfg->direct && !above)
        r = go_direct(q, err);
    if (!r && q->file.direct && !cfg->no_lock)
        block_lock_also(q->file.direct->direct_fd, !cfg->read_only);
    if (!r)
        r = image_load(q, cfg, err);
    if (!r && q->backing_name)
        r = backing_resolve(q, err);
    if (r && cfg->no_backing && r == -ENOTSUP && q->backing_name && !q->backing_path)
        r = 0;
    if (!r && q->backing_path && !cfg->no_backing)
        r = layer_open(q, cfg, &self, err);
    if (r)
        qcow2_abandon(q);
    else
        *out = q;
    return r;
}

int qcow2_open(struct qcow2 **q, const struct qcow2_config *cfg, struct err *err)
{
    return open_image(q, cfg, NULL, err);
}

/* ---- Information --------------------------------------------------------------------------------- */

void qcow2_get_info(struct qcow2 *q, struct qcow2_info *info)
{
    *info = (struct qcow2_info){
        .size = q->size,
        .cluster_size = (uint32_t)cluster_size(q),
        .snapshots = q->snapshots,
        .version = q->version,
        .refcount_bits = 1u << q->refcount_order,
        .compression = q->compression ? "zstd" : "zlib",
        .backing = q->backing_name,
        .backing_fmt = q->backing_fmt,
        .backing_path = q->backing_path,
        .lazy_refcounts = q->compat & COMPAT_LAZY,
        .dirty = q->incompat & INCOMPAT_DIRTY,
        .corrupt = q->incompat & INCOMPAT_CORRUPT,
        .bitmaps = q->bitmaps_count,
    };
    q->file.ops->size(&q->file, &info->file_size);
}

static void snapshot_string(struct qcow2 *q, char *to, size_t room, uint64_t at, size_t len)
{
    if (len > room - 1)
        len = room - 1;
    if (file_read(&q->file, to, len, at))
        len = 0;
    to[len] = '\0';
}

int snapshot_at(struct qcow2 *q, uint64_t at, struct snapshot_head *s)
{
    uint8_t head[40], extra[16] = {0};
    uint32_t extra_len;
    int r = file_read(&q->file, head, sizeof(head), at);

    if (r)
        return r;
    extra_len = be32_at(head + 36);
    if (extra_len > 1024)
        return -EIO;
    r = file_read(&q->file, extra, extra_len < 16 ? extra_len : 16, at + 40);
    *s = (struct snapshot_head){.l1_offset = be64_at(head),
                                .l1_size = be32_at(head + 8),
                                .id_len = be16_at(head + 12),
                                .name_len = be16_at(head + 14),
                                .seconds = be32_at(head + 16),
                                .vm_state = be32_at(head + 32),
                                .size = q->size,
                                .id_at = at + 40 + extra_len};
    if (extra_len >= 8)
        s->vm_state = be64_at(extra);
    if (extra_len >= 16)
        s->size = be64_at(extra + 8);
    s->next = ALIGN_UP(s->id_at + s->id_len + s->name_len, 8);
    return r;
}

int qcow2_get_snapshot(struct qcow2 *q, unsigned i, struct qcow2_snapshot *s)
{
    uint64_t at = q->snapshots_offset;
    struct snapshot_head head;
    int r = i < q->snapshots ? 0 : -EINVAL;

    for (unsigned n = 0; n <= i && !r; n++) {
        r = snapshot_at(q, at, &head);
        at = r ? at : head.next;
    }
    if (r)
        return r;
    *s = (struct qcow2_snapshot){
        .size = head.size, .vm_state = head.vm_state, .seconds = head.seconds};
    snapshot_string(q, s->id, sizeof(s->id), head.id_at, head.id_len);
    snapshot_string(q, s->name, sizeof(s->name), head.id_at + head.id_len, head.name_len);
    return 0;
}
