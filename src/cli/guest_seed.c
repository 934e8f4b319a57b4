/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The seed disk: a FAT file system with the label CIDATA. cloud-init's NoCloud
 * source reads meta-data and user-data; /usr/lib/lodge/seed of our own images
 * (image_recipe.c) reads instance, name, user and authorized_keys.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/fat.h"
#include "cli/guest_image.h"

static json_t *key_list(const char *keys)
{
    json_t *list = json_array();

    while (*keys) {
        size_t len = strcspn(keys, "\n");

        if (len)
            json_array_append_new(list, json_stringn(keys, len));
        keys += len + !!keys[len];
    }
    return list;
}

/* JSON is YAML. */
static char *meta_data(const struct guest_seed *s)
{
    json_t *json = json_pack("{s:s, s:s, s:o}", "instance-id", s->id, "local-hostname", s->name,
                             "public-keys", key_list(s->keys));
    char *text = json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER);

    json_decref(json);
    return text;
}

static char *user_data(const struct guest_seed *s)
{
    json_t *json =
        json_pack("{s:[{s:s, s:s, s:s, s:s, s:b, s:o}]}", "users", "name", s->user, "groups",
                  "adm,sudo", "shell", "/bin/bash", "sudo", "ALL=(ALL) NOPASSWD:ALL", "lock_passwd",
                  1, "ssh_authorized_keys", key_list(s->keys));
    char *yaml = json_dumps(json, JSON_INDENT(1) | JSON_PRESERVE_ORDER), *text = NULL;

    json_decref(json);
    if (yaml && asprintf(&text, "#cloud-config\n%s\n", yaml) < 0)
        text = NULL;
    free(yaml);
    return text;
}

static int write_file(const char *path, const void *data, size_t len, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), r = 0;

    if (fd < 0)
        return err_set(err, -errno, "cannot create %s: %s", path, strerror(errno));
    errno = 0;
    if (write(fd, data, len) != (ssize_t)len)
        r = err_set(err, errno ? -errno : -EIO, "cannot write %s", path);
    close(fd);
    return r;
}

int guest_seed_write(const char *path, const struct guest_seed *s, struct err *err)
{
    char *meta = meta_data(s), *made = s->user_data ? NULL : user_data(s);
    const char *user = s->user_data ? s->user_data : made;
    uint8_t *image = NULL;
    size_t len;
    int r = -ENOMEM;

    if (!meta || !user) {
        err_set(err, r, "no memory for the seed disk, or a key is not UTF-8");
    } else {
        const struct fat_file files[] = {
            {"meta-data", meta, strlen(meta)},
            {"user-data", user, s->user_data ? s->user_data_len : strlen(user)},
            {"instance", s->id, strlen(s->id)},
            {"name", s->name, strlen(s->name)},
            {"user", s->user, strlen(s->user)},
            {"authorized_keys", s->keys, strlen(s->keys)},
        };

        r = fat_make("CIDATA", files, ARRAY_SIZE(files), &image, &len, err);
    }
    if (!r)
        r = write_file(path, image, len, err);
    free(image);
    free(meta);
    free(made);
    return r;
}
