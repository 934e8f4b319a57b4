/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/snapshots.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/layers.h"
#include "cli/passing.h"
#include "cli/registry.h"
#include "control/commands_snapshot.h"
#include "core/snapfile.h"
#include "core/snapshot_take.h"

#define SNAPSHOT_LAYERS "layers.json"

static int check_tag(const char *tag, struct err *err)
{
    if (!registry_check_name(tag, NULL))
        return 0;
    err_set(err, -EINVAL, "'%.80s' is no tag for a snapshot", tag);
    return err_next(err, "Use letters, digits, '.', '_' and '-', like before-upgrade.");
}

int snapshot_path(char buf[STATE_PATH], const char *name, const char *tag, const char *file,
                  struct err *err)
{
    char in[200];
    int r = registry_check_name(name, err);

    if (!r)
        r = check_tag(tag, err);
    if (r)
        return r;
    snprintf(in, sizeof(in), SNAPSHOTS_DIR "/%s%s%s", tag, file ? "/" : "", file ? file : "");
    return state_path(buf, name, in, err);
}

int snapshots_make_dir(const char *name, struct err *err)
{
    char path[STATE_PATH];
    int r = state_path(path, name, SNAPSHOTS_DIR, err);

    if (!r && mkdir(path, 0700) && errno != EEXIST)
        r = err_set(err, -errno, "cannot make the folder %s: %s", path, strerror(errno));
    return r;
}

static int hidden_path(char buf[STATE_PATH], const char *name, const char *tag, struct err *err)
{
    char hidden[PASSING_NAME], in[PASSING_NAME + 16];

    passing_name(hidden, tag);
    snprintf(in, sizeof(in), SNAPSHOTS_DIR "/%s", hidden);
    return state_path(buf, name, in, err);
}

int snapshots_list(const char *name, struct state_names *tags, struct err *err)
{
    char path[STATE_PATH];
    struct dirent *e;
    DIR *d;
    int r = registry_check_name(name, err);

    *tags = (struct state_names){0};
    if (!r)
        r = state_path(path, name, SNAPSHOTS_DIR, err);
    if (!r && !state_exists(name)) {
        err_set(err, -ENOENT, "there is no guest named %s", name);
        r = err_next(err, "lodge ls shows those that there are.");
    }
    if (r)
        return r;
    d = opendir(path);
    if (!d)
        return errno == ENOENT ? 0
                               : err_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
    while (!r && (e = readdir(d)))
        if (!registry_check_name(e->d_name, NULL) && !state_names_add(tags, e->d_name))
            r = err_set(err, -ENOMEM, "no memory for the list of snapshots");
    closedir(d);
    if (r)
        state_names_free(tags);
    return r;
}

static uint64_t size_on_disk(const char *dir)
{
    char path[STATE_PATH + 300];
    uint64_t size = 0;
    struct dirent *e;
    struct stat st;
    DIR *d = opendir(dir);

    while (d && (e = readdir(d))) {
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (!lstat(path, &st) && S_ISREG(st.st_mode))
            size += (uint64_t)st.st_blocks * 512;
    }
    if (d)
        closedir(d);
    return size;
}

json_t *snapshot_facts(const char *name, const char *tag)
{
    char dir[STATE_PATH], path[STATE_PATH];
    json_t *meta;

    if (snapshot_path(dir, name, tag, NULL, NULL) ||
        snapshot_path(path, name, tag, CONTROL_META, NULL))
        return NULL;
    meta = json_load_file(path, 0, NULL);
    if (!json_is_object(meta)) {
        json_decref(meta);
        return NULL;
    }
    json_object_set_new(meta, "tag", json_string(tag));
    json_object_set_new(meta, "size", json_integer((json_int_t)size_on_disk(dir)));
    return meta;
}

int snapshot_check(const char *name, const char *tag, struct err *err)
{
    char dir[STATE_PATH];
    int r = snapshot_path(dir, name, tag, NULL, err);

    return r ? r : snapshot_check_folder(dir, err);
}

int snapshot_check_folder(const char *dir, struct err *err)
{
    static const char *const files[] = {SNAPSHOT_STATE, SNAPSHOT_MEMORY, SNAPSHOT_SUMS};
    const _Atomic bool cancel = false;
    struct snapfile state = {0};
    char path[STATE_PATH + 16];
    int fd[ARRAY_SIZE(files)] = {-1, -1, -1}, r = 0;

    for (size_t i = 0; !r && i < ARRAY_SIZE(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        fd[i] = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd[i] < 0)
            r = err_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    }
    if (!r)
        r = snapfile_read(&state, fd[0], err);
    if (!r)
        r = snapshot_verify(fd[1], fd[2], &cancel, err);
    snapfile_fini(&state);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        if (fd[i] >= 0)
            close(fd[i]);
    return r;
}

int snapshot_definition(const char *name, const char *tag, struct definition *def, struct err *err)
{
    char path[STATE_PATH];
    int r = snapshot_path(path, name, tag, CONTROL_DEFINITION, err);

    definition_init(def);
    if (r)
        return r;
    if (!access(path, F_OK))
        return definition_read(def, path, err);
    err_set(err, -ENOENT, "the guest %s has no snapshot %s", name, tag);
    return err_next(err, "lodge snapshots %s shows those that it has.", name);
}

int snapshot_begin(char buf[STATE_PATH], const char *name, const char *tag, struct err *err)
{
    char path[STATE_PATH];
    int r = snapshot_path(path, name, tag, NULL, err);

    if (!r && !access(path, F_OK)) {
        err_set(err, -EEXIST, "the guest %s has a snapshot %s already", name, tag);
        err_next(err, "Choose another tag, or remove that one: lodge snapshot --rm %s %s.", name,
                 tag);
        return -EEXIST;
    }
    if (!r)
        r = snapshots_make_dir(name, err);
    if (r)
        return r;
    snapshots_sweep(name);
    r = hidden_path(buf, name, tag, err);
    if (!r)
        passing_delete(buf);
    return r;
}

static int sync_folder(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 || (fsync(fd) && errno != EINVAL) ? -errno : 0;

    if (fd >= 0)
        close(fd);
    return r;
}

/* On disk with what is in it. */
static int put_disks(const char *dir, const char *layers, json_t *result, struct err *err)
{
    char path[STATE_PATH + 32];
    json_t *disks = json_object_get(result, "disks"), *only;
    int fd, r;

    snprintf(path, sizeof(path), "%s/" STATE_DISKS, dir);
    r = layers_link(layers, result, path, err);
    if (!r)
        r = sync_folder(path);
    if (r)
        return err->code ? r : err_set(err, r, "cannot write %s: %s", path, strerror(-r));
    snprintf(path, sizeof(path), "%s/" SNAPSHOT_LAYERS, dir);
    only = json_pack("{s:O}", "disks", disks);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || !only || json_dumpfd(only, fd, JSON_INDENT(2)) || fsync(fd))
        r = err_set(err, errno ? -errno : -EIO, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    json_decref(only);
    return r;
}

int snapshot_complete(const char *name, const char *tag, const char *layers, json_t *result,
                      struct err *err)
{
    char hidden[STATE_PATH], path[STATE_PATH], parent[STATE_PATH];
    int r = hidden_path(hidden, name, tag, err);

    if (!r)
        r = snapshot_path(path, name, tag, NULL, err);
    if (!r)
        r = state_path(parent, name, SNAPSHOTS_DIR, err);
    if (!r && json_object_get(result, "disks"))
        r = put_disks(hidden, layers, result, err);
    if (!r) {
        r = sync_folder(hidden);
        if (!r && renameat2(AT_FDCWD, hidden, AT_FDCWD, path, RENAME_NOREPLACE))
            r = -errno;
        if (!r)
            r = sync_folder(parent);
        if (r)
            err_set(err, r, "cannot complete the snapshot %s: %s", path, strerror(-r));
    }
    if (r)
        passing_delete(hidden);
    return r;
}

int snapshot_disks(const char *name, const char *tag, char from[STATE_PATH], json_t **result,
                   struct err *err)
{
    char path[STATE_PATH], in[STATE_PATH + 256];
    json_t *o;
    size_t i;
    int r = snapshot_path(path, name, tag, SNAPSHOT_LAYERS, err);

    *result = NULL;
    if (!r)
        r = snapshot_path(from, name, tag, STATE_DISKS, err);
    if (r || access(path, F_OK))
        return r;
    *result = json_load_file(path, 0, NULL);
    if (!json_is_object(*result))
        return err_set(err, -EINVAL, "the snapshot %s of %s is damaged: %s is no list of disks",
                       tag, name, path);
    json_array_foreach(json_object_get(*result, "disks"), i, o)
    {
        const char *below = json_string_value(json_object_get(o, "below"));

        if (!below || strchr(below, '/'))
            continue;
        snprintf(in, sizeof(in), "%s/%s", from, below);
        json_object_set_new(o, "below", json_string(in));
    }
    return 0;
}

int snapshot_remove(const char *name, const char *tag, struct err *err)
{
    char path[STATE_PATH], hidden[STATE_PATH];
    int r = snapshot_path(path, name, tag, NULL, err);

    if (!r)
        r = hidden_path(hidden, name, tag, err);
    if (r)
        return r;
    if (rename(path, hidden)) {
        if (errno != ENOENT)
            return err_set(err, -errno, "cannot remove %s: %s", path, strerror(errno));
        err_set(err, -ENOENT, "the guest %s has no snapshot %s", name, tag);
        return err_next(err, "lodge snapshots %s shows those that it has.", name);
    }
    r = passing_delete(hidden);
    return r ? err_set(err, r, "cannot remove all of %s: %s", hidden, strerror(-r)) : 0;
}

void snapshots_sweep(const char *name)
{
    char dir[STATE_PATH];

    if (!state_path(dir, name, SNAPSHOTS_DIR, NULL))
        passing_sweep(dir, NULL);
}
