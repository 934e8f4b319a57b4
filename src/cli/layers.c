/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/layers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "block/block.h"
#include "block/qcow2.h"
#include "cli/image.h"

#define VERSION 1

/* ---- disks.json --------------------------------------------------------------------------- */

static int no_memory(struct err *err)
{
    return err_set(err, -ENOMEM, "no memory for the layers of disks");
}

static int set_top(struct layers *l, struct layer *y, const char *top)
{
    char *path;

    if (asprintf(&path, "%s/%s", l->dir, top) < 0)
        return -ENOMEM;
    free(y->path);
    y->path = path;
    snprintf(y->top, sizeof(y->top), "%s", top);
    return 0;
}

static void layer_fini(struct layer *y)
{
    free(y->file);
    free(y->path);
    *y = (struct layer){0};
}

void layers_fini(struct layers *l)
{
    for (unsigned i = 0; i < l->count; i++)
        layer_fini(&l->disk[i]);
    l->count = 0;
}

/* Takes in one entry; false: it is none. */
static bool read_entry(struct layers *l, const json_t *o)
{
    char file[PATH_MAX], top[LAYERS_NAME];
    struct layer *y = &l->disk[l->count];

    if (l->count == VM_MAX_DISKS || store_json_text(o, "file", file, sizeof(file)) || !file[0] ||
        store_json_text(o, "top", top, sizeof(top)) || !top[0] || strchr(top, '/') || top[0] == '.')
        return false;
    l->count++;
    y->file = strdup(file);
    return y->file && !set_top(l, y, top);
}

int layers_load(struct layers *l, const char *dir, struct err *err)
{
    char path[STORE_PATH + 16];
    json_t *json, *o;
    size_t i;
    int r = 0;

    memset(l, 0, sizeof(*l));
    if ((size_t)snprintf(l->dir, sizeof(l->dir), "%s", dir) >= sizeof(l->dir))
        return err_set(err, -ENAMETOOLONG, "the path of a guest's directory is too long");
    snprintf(path, sizeof(path), "%s/" LAYERS_FILE, dir);
    if (access(path, F_OK))
        return 0;
    json = store_json_load(path, err);
    if (!json)
        return err && err->code ? err->code : -EIO;
    if (json_integer_value(json_object_get(json, "version")) != VERSION)
        r = -EINVAL;
    json_array_foreach(json_object_get(json, "disks"), i, o)
    {
        if (!r && !read_entry(l, o))
            r = -EINVAL;
    }
    json_decref(json);
    if (!r)
        return 0;
    layers_fini(l);
    err_set(err, r, "%s is not what this version of Lodge writes", path);
    err_next(err, "Without it the guest would start from what its disks were long ago.");
    return r;
}

static int sync_path(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC), r = 0;

    if (fd < 0 || (fsync(fd) && errno != EINVAL))
        r = err_set(err, -errno, "cannot write %s to disk: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return r;
}

/* As the file `temp`, not its name yet. */
static int save_as(const struct layers *l, const char *temp, struct err *err)
{
    json_t *disks = json_array(), *json;
    int r;

    for (unsigned i = 0; i < l->count; i++)
        json_array_append_new(
            disks, json_pack("{s:s, s:s}", "file", l->disk[i].file, "top", l->disk[i].top));
    json = json_pack("{s:i, s:o}", "version", VERSION, "disks", disks);
    if (!json || json_array_size(disks) != l->count)
        r = err_set(err, -EINVAL, "cannot write %s: a path is not UTF-8", temp);
    else
        r = store_json_save(temp, json, err);
    json_decref(json);
    return r;
}

static int save(const struct layers *l, struct err *err)
{
    char path[STORE_PATH + 16], temp[STORE_PATH + 32];
    int r;

    snprintf(path, sizeof(path), "%s/" LAYERS_FILE, l->dir);
    snprintf(temp, sizeof(temp), "%s/." LAYERS_FILE ".new", l->dir);
    r = save_as(l, temp, err);
    if (!r && rename(temp, path))
        r = err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    if (r)
        unlink(temp);
    return r ? r : sync_path(l->dir, err);
}

/* ---- Which disk is which -------------------------------------------------------------------- */

/* The name of a file in the directory, NULL: it is elsewhere. */
static const char *name_in(const char *dir, const char *path)
{
    size_t len = strlen(dir);

    return !strncmp(path, dir, len) && path[len] == '/' && !strchr(path + len + 1, '/')
               ? path + len + 1
               : NULL;
}

/* What a path is called in disks.json. To be freed; NULL without memory. */
static char *key_of(const struct layers *l, const char *path)
{
    const char *name = name_in(l->dir, path);
    char *real = name ? strdup(name) : realpath(path, NULL);

    return real || errno == ENOMEM ? real : strdup(path);
}

static struct layer *layer_of(const struct layers *l, const char *path)
{
    char *key = key_of(l, path);
    struct layer *found = NULL;

    for (unsigned i = 0; key && i < l->count && !found; i++)
        if (!strcmp(l->disk[i].file, key) || !strcmp(l->disk[i].top, key))
            found = (struct layer *)&l->disk[i];
    free(key);
    return found;
}

void layers_apply(const struct layers *l, struct vm_disk *disk, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct layer *y = layer_of(l, disk[i].image.path);

        if (!y)
            continue;
        disk[i].image.path = y->path;
        disk[i].image.format = block_qcow2.name;
    }
}

/* ---- New layers ------------------------------------------------------------------------------- */

/* Of the disk, as its guest sees it. The image may be open for writing. */
static int size_of(const char *path, const char *format, uint64_t *size, struct err *err)
{
    const struct qcow2_config cfg = {
        .path = path, .read_only = true, .no_backing = true, .inspect = true, .no_lock = true};
    struct qcow2_info info;
    struct qcow2 *q;
    off_t end;
    int fd, r;

    if (!strcmp(format, block_qcow2.name)) {
        r = qcow2_open(&q, &cfg, err);
        if (r)
            return r;
        qcow2_get_info(q, &info);
        *size = info.size - info.size % BLOCK_SECTOR;
        qcow2_close(q);
        return 0;
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    r = end < 0 ? err_set(err, -errno, "cannot find the size of %s: %s", path, strerror(errno)) : 0;
    if (fd >= 0)
        close(fd);
    *size = end < 0 ? 0 : (uint64_t)end - (uint64_t)end % BLOCK_SECTOR;
    return r;
}

/* A confined process has no chmod(2). `mask` of the file's bits and, of a regular file alone, no others. */
static int keep_mode(const char *path, mode_t mask)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    int r = fd < 0 || fstat(fd, &st) || (S_ISREG(st.st_mode) && fchmod(fd, st.st_mode & mask))
                ? -errno
                : 0;

    if (fd >= 0)
        close(fd);
    return r;
}

static void freeze(const char *path)
{
    int r = keep_mode(path, 07555);

    if (r)
        log_warn("%s may not be changed any more, but could not be made read-only: %s", path,
                 strerror(-r));
}

/* An empty layer `name` in `dir`, on stable storage but for its place in the directory. */
static int make_layer(const char *dir, const char *name, const char *below, const char *format,
                      struct err *err)
{
    const char *near = name_in(dir, below);
    char path[STORE_PATH + LAYERS_NAME], *real = near ? NULL : realpath(below, NULL);
    struct qcow2_create c = {.path = path, .backing = near ? near : real, .backing_fmt = format};
    int r;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (!near && !real)
        return err_set(err, -errno, "cannot find %s: %s", below, strerror(errno));
    r = size_of(below, format, &c.size, err);
    if (!r)
        r = qcow2_create(&c, err);
    if (!r && keep_mode(path, 07700))
        r = err_set(err, -EPERM, "cannot change the mode of %s", path);
    if (!r)
        r = sync_path(path, err);
    if (r)
        unlink(path);
    free(real);
    return r;
}

static void new_name(char name[LAYERS_NAME])
{
    char id[STORE_ID];

    store_new_id(id);
    snprintf(name, LAYERS_NAME, "layer-%.16s.qcow2", id);
}

static int make_dir(const char *dir, struct err *err)
{
    if (!mkdir(dir, 0700) || errno == EEXIST)
        return 0;
    return err_set(err, -errno, "cannot make the folder %s: %s", dir, strerror(errno));
}

static struct layer *layer_add(struct layers *l, const char *path)
{
    struct layer *y = &l->disk[l->count];

    y->file = key_of(l, path);
    if (!y->file)
        return NULL;
    l->count++;
    return y;
}

/* The disk's present file, and the overlay that is to stand on it. */
static int begin_step(struct layers *l, const struct vm_disk *disk, struct layers_step *s,
                      struct err *err)
{
    const char *format;
    char name[LAYERS_NAME];
    int r = block_format(&disk->image, &format, err);

    if (r)
        return r;
    if (!strcmp(format, BLOCK_VHOST_USER))
        return err_set(err, -ENOTSUP,
                       "the disk at %s is another program's, so what it holds cannot be kept",
                       disk->image.path);
    s->layer = layer_of(l, disk->image.path);
    s->below = strdup(disk->image.path);
    snprintf(s->format, sizeof(s->format), "%s", format);
    if (s->layer)
        strcpy(s->was, s->layer->top);
    else
        s->layer = layer_add(l, disk->image.path);
    if (!s->layer || !s->below)
        return no_memory(err);
    new_name(name);
    r = make_layer(l->dir, name, s->below, s->format, err);
    return r ? r : set_top(l, s->layer, name) ? no_memory(err) : 0;
}

/* Entries that are not needed come last: they were added. */
static int take_back(struct layers_change *c, struct err *err)
{
    char *unused[VM_MAX_DISKS];
    unsigned n = 0;
    int r = 0;

    for (unsigned i = c->count; i-- > 0;) {
        struct layers_step *s = &c->step[i];

        if (s->done || !s->layer)
            continue;
        if (s->layer->path && strcmp(s->layer->top, s->was) != 0)
            unused[n++] = strdup(s->layer->path);
        if (s->was[0]) {
            set_top(c->l, s->layer, s->was);
        } else {
            size_t at = (size_t)(s->layer - c->l->disk);

            layer_fini(s->layer);
            memmove(s->layer, s->layer + 1, (c->l->count - at - 1) * sizeof(*s->layer));
            c->l->disk[--c->l->count] = (struct layer){0};
        }
    }
    if (n)
        r = save(c->l, err);
    /* What disks.json may still name has to stay; it is empty, so it is right. */
    for (unsigned i = 0; i < n; i++) {
        if (!r && unused[i])
            unlink(unused[i]);
        free(unused[i]);
    }
    return r;
}

int layers_begin(struct layers *l, const struct vm_disk *disk, unsigned count,
                 struct layers_change *c, struct err *err)
{
    int r = make_dir(l->dir, err);

    *c = (struct layers_change){.l = l};
    for (unsigned i = 0; !r && i < count; i++) {
        if (disk[i].image.read_only)
            continue;
        c->step[c->count].disk = i;
        r = begin_step(l, &disk[i], &c->step[c->count++], err);
    }
    if (!r && c->count)
        r = save(l, err);
    if (!r)
        return 0;
    take_back(c, NULL);
    layers_change_fini(c);
    return r;
}

int layers_switch(struct layers_change *c, struct vm *vm, struct err *err)
{
    int r = 0;

    for (unsigned i = 0; !r && i < c->count; i++) {
        r = vm_disk_overlay(vm, c->step[i].disk, c->step[i].layer->path, err);
        c->step[i].done = !r;
    }
    return r;
}

int layers_end(struct layers_change *c, struct err *err)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->step[i].done)
            freeze(c->step[i].below);
    return take_back(c, err);
}

void layers_change_fini(struct layers_change *c)
{
    for (unsigned i = 0; i < c->count; i++)
        free(c->step[i].below);
    *c = (struct layers_change){0};
}

/* ---- Results ------------------------------------------------------------------------------------ */

static int describe(json_t *result, const char *file, const char *below, const char *format,
                    struct err *err)
{
    json_t *disks = json_object_get(result, "disks"), *o;

    if (!disks) {
        disks = json_array();
        json_object_set_new(result, "disks", disks);
    }
    o = json_pack("{s:s, s:s, s:s}", "file", file, "below", below, "format", format);
    return o && !json_array_append_new(disks, o)
               ? 0
               : err_set(err, -EINVAL, "the path of a disk is not UTF-8: %s", below);
}

int layers_describe(const struct layers_change *c, json_t *result, struct err *err)
{
    int r = 0;

    for (unsigned i = 0; !r && i < c->count; i++)
        r = describe(result, c->step[i].layer->file, c->step[i].below, c->step[i].format, err);
    return r;
}

struct live {
    struct layers_change change;
    int result;
    struct err *err;
};

static void switch_now(struct vm *vm, void *opaque)
{
    struct live *x = opaque;

    x->result = layers_switch(&x->change, vm, x->err);
}

int layers_live(struct layers *l, struct vm *vm, json_t *result, struct err *err)
{
    struct live x = {.err = err};
    struct err more = {0};
    int r = layers_begin(l, vm->cfg.disk, vm->cfg.disks, &x.change, err);

    if (r)
        return r;
    /* Most of it while the guest runs, then what has come meanwhile: the last flush, when it stands still, is short. */
    for (unsigned i = 0; !r && i < 2 * x.change.count; i++)
        r = vm_disk_sync(vm, x.change.step[i % x.change.count].disk);
    if (r) {
        err_set(err, r, "cannot write a disk to its end: %s", strerror(-r));
    } else {
        r = vm_call_wait(vm, switch_now, &x);
        if (r)
            err_set(err, r, "the guest ended meanwhile");
        else
            r = x.result;
    }
    if (!r)
        r = layers_describe(&x.change, result, err);
    if (layers_end(&x.change, &more))
        log_warn("%s", more.what);
    layers_change_fini(&x.change);
    return r;
}

/* ---- A guest that does not run -------------------------------------------------------------------- */

/* The layer that a layer without data of its own stands on, as a path to be freed; NULL: it has data, or stands on none. */
static char *below_blank(const char *path, char format[8])
{
    const struct qcow2_config cfg = {.path = path, .read_only = true, .no_backing = true};
    struct qcow2_info info;
    char *below = NULL;
    struct qcow2 *q;

    if (qcow2_open(&q, &cfg, NULL))
        return NULL;
    qcow2_get_info(q, &info);
    if (qcow2_is_blank(q) && info.backing_path && info.backing_fmt &&
        strlen(info.backing_fmt) < 8) {
        below = strdup(info.backing_path);
        strcpy(format, info.backing_fmt);
    }
    qcow2_close(q);
    return below;
}

/* Disks whose layers are empty need no new ones: then `disk` is made read-only, so that layers_begin leaves it alone. */
static int use_blanks(const struct layers *l, struct vm_disk *disk, unsigned count, json_t *result,
                      struct err *err)
{
    int r = 0;

    for (unsigned i = 0; !r && i < count; i++) {
        const struct layer *y = disk[i].image.read_only ? NULL : layer_of(l, disk[i].image.path);
        char format[8], *below = y ? below_blank(y->path, format) : NULL;

        if (!below)
            continue;
        freeze(below);
        r = describe(result, y->file, below, format, err);
        disk[i].image.read_only = true;
        free(below);
    }
    return r;
}

/* Nobody uses it, and nobody begins to while the caller holds the guest's name. */
static int check_unused(const struct vm_disk *disk, unsigned count, struct err *err)
{
    int r = 0;

    for (unsigned i = 0; !r && i < count; i++) {
        struct block_config cfg = disk[i].image;
        struct block *b;

        if (cfg.read_only || (cfg.format && !strcmp(cfg.format, BLOCK_VHOST_USER)))
            continue;
        cfg.aio = BLOCK_AIO_THREADS;
        r = block_open(&b, &cfg, err);
        if (!r)
            block_close(b);
    }
    return r;
}

int layers_still(struct layers *l, const struct vm_disk *disks, unsigned count, json_t *result,
                 struct err *err)
{
    struct vm_disk disk[VM_MAX_DISKS];
    struct layers_change c;
    int r;

    memcpy(disk, disks, count * sizeof(*disk));
    layers_apply(l, disk, count);
    r = check_unused(disk, count, err);
    if (!r)
        r = use_blanks(l, disk, count, result, err);
    if (!r)
        r = layers_begin(l, disk, count, &c, err);
    if (r)
        return r;
    for (unsigned i = 0; i < c.count; i++)
        c.step[i].done = true;
    r = layers_describe(&c, result, err);
    layers_end(&c, NULL);
    layers_change_fini(&c);
    return r;
}

/* ---- Copies ----------------------------------------------------------------------------------------- */

static int link_one(const char *from, const char *dir, const char *name, struct err *err)
{
    char a[STORE_PATH + LAYERS_NAME + 256], b[STORE_PATH + LAYERS_NAME + 256];

    snprintf(a, sizeof(a), "%s/%s", from, name);
    snprintf(b, sizeof(b), "%s/%s", dir, name);
    if (!link(a, b) || errno == EEXIST)
        return 0;
    return err_set(err, -errno, "cannot link %s to %s: %s", b, a, strerror(errno));
}

int layers_each(const char *dir, const char *name, const char *format,
                int (*fn)(void *opaque, const char *name, struct err *err), void *opaque,
                struct err *err)
{
    char at[256];
    int r = 0;

    snprintf(at, sizeof(at), "%s", name);
    for (unsigned n = 0; !r && at[0] && n < QCOW2_CHAIN_MAX; n++) {
        char path[STORE_PATH + 256];
        struct qcow2_config cfg = {
            .path = path, .read_only = true, .no_backing = true, .inspect = true, .no_lock = true};
        struct qcow2_info info;
        struct qcow2 *q;

        r = fn(opaque, at, err);
        if (r || strcmp(format, block_qcow2.name) != 0)
            break;
        snprintf(path, sizeof(path), "%s/%s", dir, at);
        r = qcow2_open(&q, &cfg, err);
        if (r)
            break;
        qcow2_get_info(q, &info);
        at[0] = '\0';
        if (info.backing && !strchr(info.backing, '/') && strlen(info.backing) < sizeof(at))
            strcpy(at, info.backing);
        format = info.backing_fmt && !strcmp(info.backing_fmt, block_qcow2.name) ? block_qcow2.name
                                                                                 : "raw";
        qcow2_close(q);
    }
    return r;
}

struct linking {
    const char *from, *dir;
};

static int link_layer(void *opaque, const char *name, struct err *err)
{
    const struct linking *l = opaque;

    return link_one(l->from, l->dir, name, err);
}

/* The layer `name` in `from` and all below it that are there. */
static int link_chain(const char *from, const char *name, const char *format, const char *dir,
                      struct err *err)
{
    struct linking l = {from, dir};

    return layers_each(from, name, format, link_layer, &l, err);
}

static int copy_one(struct layers *to, const char *from, const json_t *o, bool full,
                    struct err *err)
{
    const char *file = json_string_value(json_object_get(o, "file"));
    const char *below = json_string_value(json_object_get(o, "below"));
    const char *format = json_string_value(json_object_get(o, "format"));
    const char *near = below ? name_in(from, below) : NULL;
    char path[STORE_PATH + 256], name[LAYERS_NAME];
    struct layer *y = &to->disk[to->count];
    int r = 0;

    if (!file || !below || !format || to->count == VM_MAX_DISKS)
        return err_set(err, -EPROTO, "what the guest says of its disks makes no sense");
    new_name(name);
    y->file = strdup(file);
    if (!y->file || set_top(to, y, name))
        r = no_memory(err);
    to->count++;
    if (r)
        return r;
    if (full) {
        r = image_convert(below, format, y->path, block_qcow2.name, true, err);
        if (!r && keep_mode(y->path, 07700))
            r = err_set(err, -EPERM, "cannot change the mode of %s", y->path);
        return r;
    }
    if (near) {
        snprintf(path, sizeof(path), "%s/%s", to->dir, near);
        r = link_chain(from, near, format, to->dir, err);
    } else {
        snprintf(path, sizeof(path), "%s", below);
    }
    return r ? r : make_layer(to->dir, name, path, format, err);
}

static int copy_all(struct layers *to, const char *from, const json_t *result, const char *dir,
                    bool full, struct err *err)
{
    const json_t *o;
    size_t i;
    int r = make_dir(dir, err);

    snprintf(to->dir, sizeof(to->dir), "%s", dir);
    json_array_foreach(json_object_get(result, "disks"), i, o)
    {
        if (!r)
            r = copy_one(to, from, o, full, err);
    }
    return r;
}

int layers_copy(const char *from, const json_t *result, const char *dir, bool full, struct err *err)
{
    struct layers to = {0};
    int r = copy_all(&to, from, result, dir, full, err);

    if (!r)
        r = save(&to, err);
    layers_fini(&to);
    return r;
}

int layers_stage(struct layers_staged *s, const char *from, const json_t *result, const char *dir,
                 struct err *err)
{
    char name[PASSING_NAME];
    int r;

    memset(s, 0, sizeof(*s));
    passing_name(name, LAYERS_FILE);
    snprintf(s->file, sizeof(s->file), "%s/%s", dir, name);
    r = copy_all(&s->to, from, result, dir, false, err);
    return r ? r : save_as(&s->to, s->file, err);
}

int layers_adopt(struct layers_staged *s, struct err *err)
{
    char path[STORE_PATH + 16], old[STORE_PATH + 24];

    snprintf(path, sizeof(path), "%s/" LAYERS_FILE, s->to.dir);
    snprintf(old, sizeof(old), "%s/" LAYERS_FILE ".old", s->to.dir);
    /* Who started the guest meanwhile has swept them away. */
    for (unsigned i = 0; i < s->to.count; i++)
        if (access(s->to.disk[i].path, F_OK))
            return err_set(err, -EAGAIN, "%s: %s", s->to.disk[i].path, strerror(errno));
    unlink(old);
    if (link(path, old) && errno != ENOENT)
        return err_set(err, -errno, "cannot link %s to %s: %s", old, path, strerror(errno));
    s->replaced = !access(old, F_OK);
    if (rename(s->file, path))
        return err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    s->adopted = true;
    return sync_path(s->to.dir, err);
}

int layers_return(struct layers_staged *s, struct err *err)
{
    char path[STORE_PATH + 16], old[STORE_PATH + 24];

    if (!s->adopted)
        return 0;
    snprintf(path, sizeof(path), "%s/" LAYERS_FILE, s->to.dir);
    snprintf(old, sizeof(old), "%s/" LAYERS_FILE ".old", s->to.dir);
    if (s->replaced ? rename(old, path) : unlink(path))
        return err_set(err, -errno, "cannot put back %s: %s", path, strerror(errno));
    s->adopted = false;
    return sync_path(s->to.dir, err);
}

void layers_staged_fini(struct layers_staged *s)
{
    for (unsigned i = 0; !s->adopted && i < s->to.count; i++)
        if (s->to.disk[i].path)
            unlink(s->to.disk[i].path);
    if (s->file[0] && !s->adopted)
        unlink(s->file);
    layers_fini(&s->to);
    s->adopted = false;
    s->file[0] = '\0';
}

int layers_link(const char *from, json_t *result, const char *dir, struct err *err)
{
    json_t *o;
    size_t i;
    int r = make_dir(dir, err);

    json_array_foreach(json_object_get(result, "disks"), i, o)
    {
        const char *below = json_string_value(json_object_get(o, "below"));
        const char *format = json_string_value(json_object_get(o, "format"));
        const char *near = below ? name_in(from, below) : NULL;
        char name[LAYERS_NAME + 32];

        if (r || !near || !format)
            continue;
        snprintf(name, sizeof(name), "%s", near);
        r = link_chain(from, name, format, dir, err);
        if (!r && json_object_set_new(o, "below", json_string(name)))
            r = no_memory(err);
    }
    return r;
}
