/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image ls, rm and import: the images of the store. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/lock.h"
#include "block/qcow2.h"
#include "cli/guest_image.h"
#include "cli/image.h"
#include "cli/registry.h"
#include "cli/size.h"
#include "cli/stop.h"

#define USERS_TEXT 256

/* ---- ls ----------------------------------------------------------------------------------------- */

static int print_json(const struct store *s, const struct store_image *list, size_t n)
{
    json_t *all = json_array();

    for (size_t i = 0; i < n; i++) {
        char users[USERS_TEXT], path[STORE_PATH];
        unsigned guests = store_users(s, list[i].name, users, sizeof(users));

        store_image_path(s, list[i].name, "", path);
        json_array_append_new(
            all, json_pack("{s:s, s:s, s:s, s:I, s:I, s:i, s:b, s:s}", "name", list[i].name, "id",
                           list[i].id, "created", list[i].created, "size", (json_int_t)list[i].size,
                           "space", (json_int_t)store_space(path), "guests", (int)guests, "kernel",
                           list[i].kernel.name[0] != '\0', "path", path));
    }
    json_dumpf(all, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    putchar('\n');
    json_decref(all);
    return cli_flush();
}

static int print_table(const struct store *s, const struct store_image *list, size_t n)
{
    int width = 5;

    for (size_t i = 0; i < n; i++)
        if ((int)strlen(list[i].name) > width)
            width = (int)strlen(list[i].name);
    printf("%-*s  %7s  %7s  %-16s  %s\n", width, "IMAGE", "SIZE", "SPACE", "CREATED", "GUESTS");
    for (size_t i = 0; i < n; i++) {
        char users[USERS_TEXT], path[STORE_PATH], size[SIZE_TEXT], space[SIZE_TEXT], when[17];

        store_image_path(s, list[i].name, "", path);
        store_users(s, list[i].name, users, sizeof(users));
        snprintf(when, sizeof(when), "%.10s %.5s", list[i].created,
                 strlen(list[i].created) > 11 ? list[i].created + 11 : "");
        printf("%-*s  %7s  %7s  %-16s  %s\n", width, list[i].name, size_format(list[i].size, size),
               size_format(ALIGN_UP(store_space(path), MIB(1)), space), when,
               users[0] ? users : "-");
    }
    return cli_flush();
}

int verb_image_ls(const struct verb *verb, int argc, char **argv)
{
    struct image_ls_opts opts;
    struct store_image *list = NULL;
    struct store store;
    struct err err = {0};
    size_t n = 0;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (store_open(&store, &err) || store_list(&store, &list, &n, &err))
        r = image_failed(&err);
    else if (!strcmp(opts.format, "json"))
        r = print_json(&store, list, n);
    else
        r = print_table(&store, list, n);
    free(list);
    return r;
}

/* ---- rm ----------------------------------------------------------------------------------------- */

/* -EBUSY when guests stand on the image, by what is known of them or because somebody has its disk open. */
static int check_unused(const struct store *s, const char *name, const char *disk, struct err *err)
{
    char users[USERS_TEXT], path[STORE_PATH];
    unsigned n = store_users(s, name, users, sizeof(users));
    int fd, r;

    if (n) {
        err_set(err, -EBUSY, "the disk%s of %u guest%s stand%s on the image %s: %s",
                n == 1 ? "" : "s", n, n == 1 ? "" : "s", n == 1 ? "s" : "", name, users);
        err_next(err, "lodge image discard throws a guest's disk away.");
        return -EBUSY;
    }
    store_image_path(s, name, disk, path);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return 0;
    r = block_lock(fd, true, path, err);
    close(fd);
    return r;
}

int image_check_free(const struct store *s, const char *name, bool force, struct err *err)
{
    char path[STORE_PATH];
    struct store_image image;
    struct stat st;

    store_image_path(s, name, "", path);
    if (lstat(path, &st))
        return 0;
    if (!force) {
        err_set(err, -EEXIST, "there is an image %s already", name);
        return err_next(
            err, "Remove it first (lodge image rm %s), say --force, or choose another name.", name);
    }
    /* What has no manifest that can be read is used by nobody. */
    if (store_find(s, name, &image, NULL) || strcmp(image.name, name) != 0)
        return 0;
    return check_unused(s, name, image.disk.name, err);
}

static int remove_image(const struct store *s, const char *text, bool force, struct err *err)
{
    char name[STORE_NAME_MAX + 1], path[STORE_PATH];
    struct store_image image;
    struct stat st;
    int lock, r = store_name(text, name, err);

    if (r)
        return r;
    lock = store_lock(s, err);
    if (lock < 0)
        return lock;
    r = store_find(s, name, &image, err);
    /* Only by its whole name: a short one could mean another image tomorrow. */
    if (!r && strcmp(image.name, name) != 0) {
        r = err_set(err, -ENOENT, "there is no image %s", name);
        err_next(err, "Did you mean %s?", image.name);
    }
    if (!r && !force)
        r = check_unused(s, name, image.disk.name, err);
    store_image_path(s, name, "", path);
    /* Something is there, but it is damaged: it can go. */
    if (r == -EINVAL && !lstat(path, &st))
        r = 0;
    if (!r)
        r = store_drop_locked(s->images, path, err);
    close(lock);
    return r;
}

int verb_image_rm(const struct verb *verb, int argc, char **argv)
{
    struct image_rm_opts opts;
    struct store store;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs), status = CLI_OK;

    if (r >= 0)
        return r;
    if (nargs < 1) {
        err_set(&err, -EINVAL, "no name of an image was given");
        return verb_usage(verb, &err);
    }
    if (store_open(&store, &err))
        return image_failed(&err);
    for (int i = 0; i < nargs; i++) {
        err = (struct err){0};
        if (remove_image(&store, argv[i], opts.force, &err))
            status = image_failed(&err);
    }
    return status;
}

int verb_image_discard(const struct verb *verb, int argc, char **argv)
{
    struct store store;
    struct err err = {0};
    int nargs, r = verb_parse(verb, NULL, 0, argc, argv, &nargs), status = CLI_OK;

    if (r >= 0)
        return r;
    if (nargs < 1) {
        err_set(&err, -EINVAL, "no name of a guest was given");
        return verb_usage(verb, &err);
    }
    if (store_open(&store, &err))
        return image_failed(&err);
    for (int i = 0; i < nargs; i++) {
        err = (struct err){0};
        if (registry_check_name(argv[i], &err) || guest_image_discard(&store, argv[i], &err))
            status = image_failed(&err);
    }
    return status;
}

/* ---- check ------------------------------------------------------------------------------------- */

/* Compare a file with what the manifest says of it. */
static int check_file(const struct store *s, const struct store_image *image,
                      const struct store_file *f, json_t *list, bool *right, struct err *err)
{
    char path[STORE_PATH], sum[SHA256_HEX];
    bool same;
    int r;

    if (!f->name[0])
        return 0;
    store_image_path(s, image->name, f->name, path);
    r = store_sum(path, sum, err);
    if (r)
        return r;
    same = !strcmp(sum, f->sha256);
    *right &= same;
    if (list)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:b}", "file", f->name, "sha256",
                                              sum, "expected", f->sha256, "right", same));
    else
        printf("%s: %s\n", f->name, same ? "as it was made" : "NOT what was made");
    return 0;
}

int image_check_stored(const char *text, bool as_json, bool *right, struct err *err)
{
    struct store s;
    struct store_image image;
    char name[STORE_NAME_MAX + 1];
    json_t *list = NULL;
    int r = store_name(text, name, err);

    if (!r)
        r = store_open(&s, err);
    if (!r)
        r = store_find(&s, name, &image, err);
    if (r)
        return r;
    list = as_json ? json_array() : NULL;
    *right = true;
    r = check_file(&s, &image, &image.disk, list, right, err);
    if (!r)
        r = check_file(&s, &image, &image.kernel, list, right, err);
    if (!r)
        r = check_file(&s, &image, &image.initrd, list, right, err);
    if (!r && list) {
        json_t *root =
            json_pack("{s:s, s:b, s:O}", "image", image.name, "right", *right, "files", list);

        json_dumpf(root, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(root);
    }
    json_decref(list);
    return r;
}

/* ---- import --------------------------------------------------------------------------------------- */

struct import {
    const struct image_import_opts *opts;
    struct store store;
    struct store_image image;
    char dir[STORE_PATH]; /* being made; empty: not (any more) */
    int hold;
};

static int copy_raw(const char *from, const char *to, struct err *err)
{
    int in = open(from, O_RDONLY | O_CLOEXEC | O_NOCTTY), out = -1, r = 0;
    uint8_t *buf = malloc(MIB(1));
    ssize_t n = -1;

    if (in < 0)
        r = err_set(err, -errno, "cannot open %s: %s", from, strerror(errno));
    if (!r && !buf)
        r = err_set(err, -ENOMEM, "no memory to copy with");
    out = r ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (!r && out < 0)
        r = err_set(err, -errno, "cannot create %s: %s", to, strerror(errno));
    while (!r && (n = read(in, buf, MIB(1))) > 0)
        if (write(out, buf, (size_t)n) != n)
            r = err_set(err, errno ? -errno : -EIO, "cannot write %s", to);
    if (!r && n < 0)
        r = err_set(err, -errno, "cannot read %s: %s", from, strerror(errno));
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    free(buf);
    return r;
}

/* NULL: there is none. */
static int take_file(struct import *im, const char *from, const char *name, struct store_file *f,
                     struct err *err)
{
    char path[STORE_PATH + 16];
    int r;

    if (!from)
        return 0;
    snprintf(path, sizeof(path), "%s/%s", im->dir, name);
    snprintf(f->name, sizeof(f->name), "%s", name);
    r = copy_raw(from, path, err);
    return r ? r : store_sum(path, f->sha256, err);
}

static int take_disk(struct import *im, const char *file, struct err *err)
{
    const char *format = image_format_of(file, im->opts->type, "--type", err);
    struct qcow2_info info;
    char path[STORE_PATH + 16];
    struct qcow2 *q;
    int r;

    if (!format)
        return -EINVAL;
    snprintf(path, sizeof(path), "%s/disk.qcow2", im->dir);
    strcpy(im->image.disk.name, "disk.qcow2");
    strcpy(im->image.format, "qcow2");
    r = image_convert(file, format, path, "qcow2", im->opts->quiet, err);
    if (!r)
        r = qcow2_open(&q, &(struct qcow2_config){.path = path, .read_only = true}, err);
    if (r)
        return r;
    qcow2_get_info(q, &info);
    qcow2_close(q);
    im->image.size = im->opts->size ? ALIGN_UP(im->opts->size, (uint64_t)512) : info.size;
    if (im->image.size < info.size)
        return err_set(err, -EINVAL, "--size is less than what the disk in %s has", file);
    return store_sum(path, im->image.disk.sha256, err);
}

static int import_files(struct import *im, const char *file, struct err *err)
{
    const struct image_import_opts *o = im->opts;
    char path[STORE_PATH];
    int lock, r;

    r = take_disk(im, file, err);
    if (!r)
        r = take_file(im, o->kernel, "vmlinuz", &im->image.kernel, err);
    if (!r)
        r = take_file(im, o->initrd, "initrd.img", &im->image.initrd, err);
    if (!r && !o->kernel) {
        snprintf(path, sizeof(path), "%.*s/%s", STORE_PATH - 80, im->dir, im->image.disk.name);
        r = image_find_kernel(path, im->dir, &im->image, err);
    }
    if (!r && o->append)
        strcpy(im->image.append, o->append);
    if (!r && stop_asked())
        r = err_set(err, -EINTR, "stopped; nothing was made");
    if (!r)
        r = store_write_manifest(im->dir, &im->image, err);
    if (r)
        return r;
    lock = store_lock(&im->store, err);
    if (lock < 0)
        return lock;
    store_image_path(&im->store, im->image.name, "", path);
    r = image_check_free(&im->store, im->image.name, o->force, err);
    if (!r)
        r = store_commit_locked(&im->store, im->store.images, im->dir, path, o->force, err);
    if (!r)
        im->dir[0] = '\0';
    close(lock);
    return r;
}

static int import_image(struct import *im, const char *file, const char *name, struct err *err)
{
    const struct image_import_opts *o = im->opts;
    int lock, r = store_name(name, im->image.name, err);

    if (!r && ((o->append && strlen(o->append) >= sizeof(im->image.append)) ||
               strlen(o->user) >= sizeof(im->image.user)))
        r = err_set(err, -E2BIG, "--append or --user is too long");
    if (!r)
        r = store_open(&im->store, err);
    if (r)
        return r;
    lock = store_lock(&im->store, err);
    if (lock < 0)
        return lock;
    r = image_check_free(&im->store, im->image.name, o->force, err);
    close(lock);
    if (r)
        return r;
    strcpy(im->image.append, "console=ttyS0 root=/dev/vda1 rw");
    strcpy(im->image.user, o->user);
    im->image.seed = strcmp(o->seed, "none") ? STORE_SEED_CLOUD_INIT : STORE_SEED_NONE;
    store_new_id(im->image.id);
    store_now(im->image.created);
    im->hold = store_begin(&im->store, im->store.images, im->dir, err);
    if (im->hold < 0) {
        im->dir[0] = '\0';
        return im->hold;
    }
    return import_files(im, file, err);
}

int verb_image_import(const struct verb *verb, int argc, char **argv)
{
    struct image_import_opts opts;
    struct import im = {.opts = &opts, .hold = -1};
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (nargs < 2) {
        err_set(&err, -EINVAL, "a file and a name are needed");
        return verb_usage(verb, &err);
    }
    stop_catch();
    r = import_image(&im, argv[0], argv[1], &err);
    if (im.dir[0])
        store_remove_tree(im.dir);
    if (im.hold >= 0)
        close(im.hold);
    if (!r)
        return CLI_OK;
    image_failed(&err);
    return stop_asked() ? 128 + stop_asked() : CLI_FAILED;
}
