/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The store: what is said of images and guests in JSON. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/store.h"

#define JSON_MAX MIB(1)

static const char *const seeds[] = {
    [STORE_SEED_NONE] = "none",
    [STORE_SEED_LODGE] = "lodge",
    [STORE_SEED_CLOUD_INIT] = "cloud-init",
};

/* ---- JSON ------------------------------------------------------------------------------------- */

json_t *store_json_load(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    json_error_t why;
    json_t *json = NULL;
    struct stat st;

    if (fd < 0 || fstat(fd, &st)) {
        err_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > JSON_MAX) {
        err_set(err, -EINVAL, "%s is not a file that Lodge has written", path);
    } else {
        json = json_loadfd(fd, JSON_REJECT_DUPLICATES, &why);
        if (!json_is_object(json)) {
            json_decref(json);
            json = NULL;
            err_set(err, -EINVAL, "%s is damaged: line %d: %s", path, why.line, why.text);
        }
    }
    if (fd >= 0)
        close(fd);
    return json;
}

int store_json_save(const char *path, json_t *json, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644), r = 0;

    if (fd < 0)
        return err_set(err, -errno, "cannot create %s: %s", path, strerror(errno));
    errno = 0;
    if (json_dumpfd(json, fd, JSON_INDENT(2) | JSON_PRESERVE_ORDER) || write(fd, "\n", 1) != 1 ||
        fsync(fd)) {
        r = errno ? -errno : -EIO;
        err_set(err, r, "cannot write %s: %s", path, strerror(-r));
    }
    close(fd);
    return r;
}

int store_json_text(const json_t *json, const char *key, char *buf, size_t size)
{
    const json_t *v = json_object_get(json, key);

    buf[0] = '\0';
    if (!v)
        return 0;
    /* A NUL inside would make it another text than the one that is there. */
    if (!json_is_string(v) || json_string_length(v) >= size ||
        strlen(json_string_value(v)) != json_string_length(v))
        return -EINVAL;
    strcpy(buf, json_string_value(v));
    return 0;
}

/* ---- Manifests ---------------------------------------------------------------------------------- */

/* The name of a file in the folder, and nowhere else. */
static int read_file(const json_t *json, const char *key, struct store_file *f)
{
    const json_t *o = json_object_get(json, key);

    memset(f, 0, sizeof(*f));
    if (!o)
        return 0;
    if (store_json_text(o, "file", f->name, sizeof(f->name)) ||
        store_json_text(o, "sha256", f->sha256, sizeof(f->sha256)) || !f->name[0] ||
        f->name[0] == '.' || strchr(f->name, '/'))
        return -EINVAL;
    return 0;
}

static int read_seed(const json_t *json, enum store_seed *seed)
{
    char text[16];

    if (store_json_text(json, "seed", text, sizeof(text)))
        return -EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(seeds); i++) {
        *seed = (enum store_seed)i;
        if (!strcmp(text, seeds[i]))
            return 0;
    }
    return -EINVAL;
}

static int read_manifest(const json_t *json, struct store_image *im)
{
    const json_t *disk = json_object_get(json, "disk"), *size = json_object_get(json, "size");

    if (store_json_text(json, "name", im->name, sizeof(im->name)) ||
        store_json_text(json, "id", im->id, sizeof(im->id)) ||
        store_json_text(json, "created", im->created, sizeof(im->created)) ||
        store_json_text(json, "append", im->append, sizeof(im->append)) ||
        store_json_text(json, "user", im->user, sizeof(im->user)) ||
        store_json_text(disk, "format", im->format, sizeof(im->format)) ||
        read_file(json, "disk", &im->disk) || read_file(json, "kernel", &im->kernel) ||
        read_file(json, "initrd", &im->initrd) || read_seed(json, &im->seed))
        return -EINVAL;
    if (!json_is_integer(size) || json_integer_value(size) <= 0 || !im->disk.name[0] ||
        (strcmp(im->format, "raw") != 0 && strcmp(im->format, "qcow2") != 0))
        return -EINVAL;
    im->size = (uint64_t)json_integer_value(size);
    return 0;
}

static int load(const struct store *s, const char *name, struct store_image *im, struct err *err)
{
    char path[STORE_PATH];
    json_t *json;
    int r;

    memset(im, 0, sizeof(*im));
    store_image_path(s, name, "manifest.json", path);
    json = store_json_load(path, err);
    if (!json)
        return err->code;
    r = read_manifest(json, im);
    if (!r && strcmp(im->name, name) != 0)
        r = -EINVAL;
    json_decref(json);
    if (!r)
        return 0;
    err_set(err, r, "%s does not say what belongs into it", path);
    err_next(err, "lodge image rm %s removes the image.", name);
    return r;
}

static json_t *file_json(const struct store_file *f)
{
    return json_pack("{s:s, s:s}", "file", f->name, "sha256", f->sha256);
}

int store_write_manifest(const char *path, const struct store_image *im, struct err *err)
{
    char file[STORE_PATH];
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:s, s:o}", "name", im->name, "id", im->id,
                  "created", im->created, "size", (json_int_t)im->size, "append", im->append,
                  "user", im->user, "seed", seeds[im->seed], "disk", file_json(&im->disk));
    int r = -ENOMEM;

    snprintf(file, sizeof(file), "%s/manifest.json", path);
    if (!json ||
        json_object_set_new(json_object_get(json, "disk"), "format", json_string(im->format)) ||
        (im->kernel.name[0] && json_object_set_new(json, "kernel", file_json(&im->kernel))) ||
        (im->initrd.name[0] && json_object_set_new(json, "initrd", file_json(&im->initrd))))
        err_set(err, r, "cannot write %s: its text is not UTF-8 or there is no memory", file);
    else
        r = store_json_save(file, json, err);
    json_decref(json);
    return r;
}

/* ---- Lists -------------------------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct store_image *)a)->name, ((const struct store_image *)b)->name);
}

/* Folder names to names of images. */
static bool image_of_folder(const char *folder, char name[STORE_NAME_MAX + 1])
{
    char text[STORE_NAME_MAX + 1];
    size_t len = strlen(folder);

    if (folder[0] == '.' || len > STORE_NAME_MAX || strchr(folder, ':'))
        return false;
    for (size_t i = 0; i <= len; i++)
        text[i] = folder[i] == '@' ? '/' : folder[i];
    return !store_name(text, name, NULL);
}

int store_list(const struct store *s, struct store_image **list, size_t *n, struct err *err)
{
    DIR *d = opendir(s->images);
    char name[STORE_NAME_MAX + 1];
    struct dirent *e;
    struct err why;

    *list = NULL;
    *n = 0;
    if (!d)
        return err_set(err, -errno, "cannot read %s: %s", s->images, strerror(errno));
    while ((e = readdir(d))) {
        struct store_image *more;

        if (!image_of_folder(e->d_name, name))
            continue;
        more = reallocarray(*list, *n + 1, sizeof(**list));
        if (!more) {
            closedir(d);
            return err_set(err, -ENOMEM, "no memory for the list of images");
        }
        *list = more;
        why = (struct err){0};
        if (!load(s, name, &more[*n], &why))
            ++*n;
        else if (why.code != -ENOENT)
            log_warn("%s", why.what);
    }
    closedir(d);
    if (*n)
        qsort(*list, *n, sizeof(**list), by_name);
    return 0;
}

/* There is no image `name`: is there just one in its group? */
static int find_in_group(const struct store *s, const char *name, struct store_image *im,
                         struct err *err)
{
    struct store_image *list;
    size_t n, len = strlen(name), found = 0, at = 0;
    char have[160] = "";
    int r = store_list(s, &list, &n, err);

    for (size_t i = 0; !r && i < n; i++) {
        size_t end = strlen(have);

        snprintf(have + end, sizeof(have) - end, "%s%s", end ? ", " : "", list[i].name);
        if (!strncmp(list[i].name, name, len) && list[i].name[len] == '/') {
            found++;
            at = i;
        }
    }
    if (!r && found == 1)
        *im = list[at];
    if (!r && found != 1) {
        r = err_set(err, -ENOENT, found ? "there are several images %s" : "there is no image %s",
                    name);
        if (n)
            err_next(err, "There are: %s.", have);
        else
            err_next(err, "lodge image build debian/12 makes one.");
    }
    free(list);
    return r;
}

int store_find(const struct store *s, const char *name, struct store_image *image, struct err *err)
{
    struct err why = {0};
    int r = load(s, name, image, &why);

    if (r == -ENOENT)
        return find_in_group(s, name, image, err);
    if (r && err)
        *err = why;
    return r;
}

unsigned store_users(const struct store *s, const char *image, char *buf, size_t size)
{
    char path[STORE_PATH], name[STORE_NAME_MAX + 1], guest[81];
    DIR *d = opendir(s->guests);
    unsigned n = 0;
    struct dirent *e;

    buf[0] = '\0';
    while (d && (e = readdir(d))) {
        json_t *json;

        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(path, sizeof(path), "%s/%.255s/guest.json", s->guests, e->d_name);
        json = store_json_load(path, NULL);
        /* One without a name of its own is temporary, and says what it is called. */
        snprintf(guest, sizeof(guest), "%.80s", e->d_name);
        if (e->d_name[0] == '.')
            store_json_text(json, "name", guest, sizeof(guest));
        if (json && !store_json_text(json, "image", name, sizeof(name)) && !strcmp(name, image)) {
            size_t end = strlen(buf);

            snprintf(buf + end, size - end, "%s%s", n ? ", " : "", guest);
            n++;
        }
        json_decref(json);
    }
    if (d)
        closedir(d);
    return n;
}

int store_sum(const char *path, char hex[SHA256_HEX], struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *buf = malloc(MIB(1));
    struct sha256 sum;
    ssize_t got = -1;
    int r = 0;

    sha256_init(&sum);
    if (!buf)
        errno = ENOMEM;
    while (fd >= 0 && buf && (got = read(fd, buf, MIB(1))) > 0)
        sha256_add(&sum, buf, (size_t)got);
    if (got < 0)
        r = err_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
    sha256_hex(&sum, hex);
    free(buf);
    if (fd >= 0)
        close(fd);
    return r;
}
