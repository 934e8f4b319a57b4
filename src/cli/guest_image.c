/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/guest_image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/qcow2.h"
#include "cli/state.h"

#define USER_DATA_MAX MIB(1)

/* ---- guest.json ----------------------------------------------------------------------------- */

static int save(const struct guest_image *g, const char *id, struct err *err)
{
    char path[STORE_PATH + 16];
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", g->name, "image", g->image.name,
                             "image_id", g->image.id, "instance", id, "user", g->user);
    int r;

    snprintf(path, sizeof(path), "%s/guest.json", g->dir);
    r = json ? store_json_save(path, json, err)
             : err_set(err, -EINVAL, "cannot write %s: a name is not UTF-8", path);
    json_decref(json);
    return r;
}

/* An existing guest's disk must stand on the image that is there now. */
static int load(struct guest_image *g, struct err *err)
{
    char path[STORE_PATH + 16], image[STORE_NAME_MAX + 1], id[STORE_ID];
    json_t *json;
    int r = 0;

    snprintf(path, sizeof(path), "%s/guest.json", g->dir);
    json = store_json_load(path, err);
    if (!json)
        return err->code;
    if (store_json_text(json, "image", image, sizeof(image)) ||
        store_json_text(json, "image_id", id, sizeof(id)) ||
        store_json_text(json, "user", g->user, sizeof(g->user))) {
        r = err_set(err, -EINVAL, "%s does not say what belongs into it", path);
    } else if (strcmp(image, g->image.name) != 0) {
        r = err_set(err, -EEXIST, "the disk of guest %s stands on the image %s, not %s", g->name,
                    image, g->image.name);
        err_next(err, "Choose another --name, or throw the disk away: lodge image discard %s.",
                 g->name);
    } else if (strcmp(id, g->image.id) != 0) {
        r = err_set(err, -EEXIST, "the image %s was made anew after the disk of guest %s",
                    g->image.name, g->name);
        err_next(err, "The disk is of no use any more: lodge image discard %s.", g->name);
    }
    json_decref(json);
    return r;
}

/* ---- Making one ----------------------------------------------------------------------------- */

static int make_disk(const struct guest_image *g, struct err *err)
{
    char path[STORE_PATH + 16], backing[STORE_PATH];
    struct qcow2_create c = {.path = path,
                             .size = ALIGN_UP(g->image.size, (uint64_t)512),
                             .backing = backing,
                             .backing_fmt = g->image.format};
    char full[STORE_PATH];

    snprintf(path, sizeof(path), "%s/" GUEST_DISK, g->dir);
    store_image_path(&g->store, g->image.name, g->image.disk.name, full);
    /* Relative, so that the store as a whole can be moved. */
    snprintf(backing, sizeof(backing), "../..%s", full + strlen(g->store.root));
    return qcow2_create(&c, err);
}

static int make_seed(const struct guest_image *g, const struct guest_image_config *cfg,
                     const char *id, struct err *err)
{
    struct guest_seed seed = {.id = id, .name = g->name, .user = g->user};
    char path[STORE_PATH + 16], *keys = NULL, *data = NULL;
    int r = guest_public_keys(&g->store, cfg->ssh_key, &keys, err);

    if (!r && cfg->user_data)
        r = guest_read_file(cfg->user_data, USER_DATA_MAX, &data, &seed.user_data_len, err);
    seed.keys = keys;
    seed.user_data = data;
    snprintf(path, sizeof(path), "%s/seed.img", g->dir);
    if (!r)
        r = guest_seed_write(path, &seed, err);
    free(keys);
    free(data);
    return r;
}

static int make_files(struct guest_image *g, const struct guest_image_config *cfg, struct err *err)
{
    char id[STORE_ID];
    int r;

    store_new_id(id);
    snprintf(g->user, sizeof(g->user), "%s", cfg->user ? cfg->user : g->image.user);
    r = make_disk(g, err);
    if (!r && g->image.seed != STORE_SEED_NONE)
        r = make_seed(g, cfg, id, err);
    return r ? r : save(g, id, err);
}

/* The image may have gone while the files were made. */
static int image_same_locked(struct guest_image *g, struct err *err)
{
    struct store_image now;
    int r = store_find(&g->store, g->image.name, &now, err);

    if (!r && strcmp(now.id, g->image.id) != 0)
        r = err_set(err, -ENOENT, "the image %s was just replaced", g->image.name);
    return r;
}

static int make(struct guest_image *g, const struct guest_image_config *cfg, const char *path,
                struct err *err)
{
    int lock, r;

    g->hold = store_begin(&g->store, g->store.guests, g->dir, err);
    if (g->hold < 0)
        return g->hold;
    g->fresh = true;
    r = make_files(g, cfg, err);
    if (!r) {
        lock = store_lock(&g->store, err);
        r = lock < 0 ? lock : image_same_locked(g, err);
        if (!r && !cfg->temporary) {
            r = store_commit_locked(&g->store, g->store.guests, g->dir, path, false, err);
            if (!r)
                snprintf(g->dir, sizeof(g->dir), "%s", path);
        }
        if (lock >= 0)
            close(lock);
    }
    if (r)
        store_remove_tree(g->dir);
    return r;
}

static int hold_existing(struct guest_image *g, struct err *err)
{
    g->hold = open(g->dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (g->hold < 0)
        return err_set(err, -errno, "cannot open %s: %s", g->dir, strerror(errno));
    if (!flock(g->hold, LOCK_EX | LOCK_NB))
        return 0;
    err_set(err, -EBUSY, "the guest %s is running already", g->name);
    err_next(err, "Choose another --name for a guest of its own.");
    return -EBUSY;
}

static int check_config(const struct guest_image *g, const struct guest_image_config *cfg,
                        struct err *err)
{
    const char *user = cfg->user;

    if (!g->image.kernel.name[0] && !cfg->has_kernel) {
        err_set(err, -ENOTSUP, "the image %s has no kernel beside its disk", g->image.name);
        return err_next(
            err, "Lodge starts kernels itself: say --kernel and --initrd, here or at the import.");
    }
    if (user && (strlen(user) > 32 || !strchr("abcdefghijklmnopqrstuvwxyz_", user[0]) ||
                 strspn(user, "abcdefghijklmnopqrstuvwxyz0123456789_-") != strlen(user)))
        return err_set(err, -EINVAL, "'%.40s' can't be the name of a user", user);
    if (cfg->user_data && g->image.seed == STORE_SEED_NONE)
        return err_set(err, -EINVAL, "nothing in the image %s reads --user-data", g->image.name);
    return 0;
}

static void fill_paths(struct guest_image *g)
{
    const struct store_image *im = &g->image;

    store_image_path(&g->store, im->name, im->kernel.name, g->kernel);
    if (im->initrd.name[0])
        store_image_path(&g->store, im->name, im->initrd.name, g->initrd);
    snprintf(g->disk, sizeof(g->disk), "%.*s/" GUEST_DISK, STORE_PATH - 16, g->dir);
    snprintf(g->seed, sizeof(g->seed), "%.*s/seed.img", STORE_PATH - 16, g->dir);
    g->seeded = !access(g->seed, F_OK);
}

static int settle_one(void *opaque, const char *from, const char *to)
{
    const struct store *s = opaque;
    char old[STORE_PATH], new[STORE_PATH];

    snprintf(old, sizeof(old), "%s/%.100s", s->guests, from);
    snprintf(new, sizeof(new), "%s/%.100s", s->guests, to);
    /* Where there is one of the new name already, it is that; and not every guest has one. */
    if (!renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_NOREPLACE) || errno == EEXIST ||
        errno == ENOENT)
        return 0;
    return -errno;
}

/* Disks whose guests were renamed by processes that were killed then. */
static void settle_locked(const struct store *s)
{
    struct store copy = *s;

    state_each_renamed(settle_one, &copy);
}

static int settle(const struct store *s, struct err *err)
{
    int lock = store_lock(s, err);

    if (lock < 0)
        return lock;
    settle_locked(s);
    close(lock);
    return 0;
}

int guest_image_open(struct guest_image *g, const struct guest_image_config *cfg, struct err *err)
{
    char name[STORE_NAME_MAX + 1], path[STORE_PATH];
    struct stat st;
    bool there;
    int r;

    memset(g, 0, sizeof(*g));
    g->hold = -1;
    snprintf(g->name, sizeof(g->name), "%s", cfg->name);
    g->temporary = cfg->temporary;
    r = store_name(cfg->image, name, err);
    if (!r)
        r = store_open(&g->store, err);
    if (!r)
        r = settle(&g->store, err);
    if (!r)
        r = store_find(&g->store, name, &g->image, err);
    if (!r)
        r = check_config(g, cfg, err);
    if (r)
        return r;
    snprintf(path, sizeof(path), "%s/%s", g->store.guests, g->name);
    there = !lstat(path, &st);
    if (there && cfg->temporary) {
        err_set(err, -EEXIST, "the guest %s has a disk that is kept", g->name);
        return err_next(err, "Choose another --name, or leave --rm away.");
    }
    if (there) {
        snprintf(g->dir, sizeof(g->dir), "%s", path);
        r = hold_existing(g, err);
        if (!r)
            r = load(g, err);
    } else {
        r = make(g, cfg, path, err);
    }
    if (r) {
        if (g->hold >= 0)
            close(g->hold);
        g->hold = -1;
        return r;
    }
    fill_paths(g);
    return 0;
}

void guest_image_close(struct guest_image *g, bool failed)
{
    char path[STORE_PATH + 16];
    int lock;

    if (g->hold < 0)
        return;
    snprintf(path, sizeof(path), "%s/ssh.json", g->dir);
    unlink(path);
    if (g->temporary) {
        store_remove_tree(g->dir);
    } else if (g->fresh && failed) {
        lock = store_lock(&g->store, NULL);
        /* A confined process may not rename it: then where it is. */
        if (store_drop_locked(g->store.guests, g->dir, NULL))
            store_remove_tree(g->dir);
        if (lock >= 0)
            close(lock);
    }
    close(g->hold);
    g->hold = -1;
}

int guest_image_dir(const char *name, char dir[STORE_PATH], struct err *err)
{
    struct store s;
    int r = store_open(&s, err);

    if (!r)
        r = settle(&s, err);
    if (!r)
        snprintf(dir, STORE_PATH, "%s/%s", s.guests, name);
    return r;
}

/* By one sector more than the original's in `from`: by that a guest that runs already notices that it is another one now. */
static int grow_seed(const struct guest_image *g, const char *from, struct err *err)
{
    char path[STORE_PATH + 16];
    struct stat st;

    snprintf(path, sizeof(path), "%s/seed.img", from);
    if (stat(path, &st))
        return err_set(err, -errno, "cannot look at %s: %s", path, strerror(errno));
    snprintf(path, sizeof(path), "%s/seed.img", g->dir);
    if (truncate(path, st.st_size + 512))
        return err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    return 0;
}

/* With the new folder held. */
static int clone_files(struct guest_image *g, const struct guest_image_config *cfg,
                       const char *from, struct err *err)
{
    char id[STORE_ID];
    int r = 0;

    store_new_id(id);
    if (g->image.seed != STORE_SEED_NONE)
        r = make_seed(g, cfg, id, err);
    if (!r && g->image.seed != STORE_SEED_NONE)
        r = grow_seed(g, from, err);
    return r ? r : save(g, id, err);
}

int guest_image_clone(const char *from, const struct guest_image_config *cfg,
                      int (*fill)(void *opaque, const char *from, const char *dir, struct err *err),
                      void *opaque, struct err *err)
{
    struct guest_image g = {.hold = -1};
    char name[STORE_NAME_MAX + 1], path[STORE_PATH], old[STORE_PATH];
    int lock, r = store_name(cfg->image, name, err);

    if (!r)
        r = store_open(&g.store, err);
    if (!r)
        r = settle(&g.store, err);
    if (!r)
        r = store_find(&g.store, name, &g.image, err);
    if (r)
        return r;
    snprintf(g.name, sizeof(g.name), "%s", from);
    snprintf(g.dir, sizeof(g.dir), "%s/%s", g.store.guests, from);
    snprintf(old, sizeof(old), "%s", g.dir);
    r = load(&g, err);
    if (r)
        return r;
    snprintf(g.name, sizeof(g.name), "%s", cfg->name);
    snprintf(path, sizeof(path), "%s/%s", g.store.guests, cfg->name);
    g.hold = store_begin(&g.store, g.store.guests, g.dir, err);
    if (g.hold < 0)
        return g.hold;
    r = clone_files(&g, cfg, old, err);
    if (!r)
        r = fill(opaque, old, g.dir, err);
    if (!r) {
        lock = store_lock(&g.store, err);
        r = lock < 0 ? lock : image_same_locked(&g, err);
        if (!r)
            r = store_commit_locked(&g.store, g.store.guests, g.dir, path, false, err);
        if (r == -EEXIST)
            err_next(err, "It is the disk of a guest %s that is not kept: lodge image discard %s.",
                     cfg->name, cfg->name);
        if (lock >= 0)
            close(lock);
    }
    if (r)
        store_remove_tree(g.dir);
    close(g.hold);
    return r;
}

int guest_image_note(const char *name, bool trash, struct err *err)
{
    char dir[STORE_PATH];
    int r = guest_image_dir(name, dir, err);

    return r || access(dir, F_OK) ? r : state_note(name, trash, err);
}

int guest_image_move(const char *from, const char *to, struct err *err)
{
    char old[STORE_PATH], new[STORE_PATH];
    struct store s;
    struct stat st;
    int r = store_open(&s, err), lock;

    if (r)
        return r;
    lock = store_lock(&s, err);
    if (lock < 0)
        return lock;
    settle_locked(&s);
    snprintf(old, sizeof(old), "%s/%s", s.guests, from);
    snprintf(new, sizeof(new), "%s/%.300s", s.guests, to ? to : "");
    if (lstat(old, &st))
        r = 0; /* not every guest has one, and it may have been moved just now */
    else if (!to)
        r = store_drop_locked(s.guests, old, err);
    else if (!lstat(new, &st))
        r = err_set(err, -EEXIST, "there is a disk of a guest %s already", to);
    else if (rename(old, new))
        r = err_set(err, -errno, "cannot rename %s: %s", old, strerror(errno));
    close(lock);
    return r;
}

int guest_image_discard(const struct store *s, const char *name, struct err *err)
{
    struct guest_image g = {.hold = -1};
    struct stat st;
    int lock = store_lock(s, err), r;

    if (lock < 0)
        return lock;
    settle_locked(s);
    snprintf(g.name, sizeof(g.name), "%s", name);
    snprintf(g.dir, sizeof(g.dir), "%s/%s", s->guests, g.name);
    if (lstat(g.dir, &st)) {
        r = err_set(err, -ENOENT, "there is no guest %s with a disk on an image", g.name);
    } else {
        r = hold_existing(&g, err);
        if (r == -EBUSY)
            err_next(err, "Stop it first.");
        if (!r)
            r = store_drop_locked(s->guests, g.dir, err);
    }
    if (g.hold >= 0)
        close(g.hold);
    close(lock);
    return r;
}

/* ---- Reaching one --------------------------------------------------------------------------- */

int guest_image_reachable(struct guest_image *g, const char *addr, unsigned port, struct err *err)
{
    char path[STORE_PATH + 16], temp[STORE_PATH + 24];
    json_t *json = json_pack("{s:s, s:i}", "address", addr, "port", (int)port);
    int r;

    snprintf(path, sizeof(path), "%s/ssh.json", g->dir);
    snprintf(temp, sizeof(temp), "%s.new", path);
    r = json ? store_json_save(temp, json, err) : err_set(err, -ENOMEM, "no memory");
    json_decref(json);
    if (!r && rename(temp, path))
        r = err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    return r;
}

/* Is the folder that of a running guest of this name? */
static bool runs(const char *dir, const char *folder, const char *name, struct guest_ssh *ssh)
{
    char path[STORE_PATH + 300], own[64] = "";
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    json_t *json;
    bool held;

    if (fd < 0)
        return false;
    held = flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
    close(fd);
    snprintf(path, sizeof(path), "%s/guest.json", dir);
    json = held ? store_json_load(path, NULL) : NULL;
    if (!json)
        return false;
    if (store_json_text(json, "name", own, sizeof(own)) ||
        store_json_text(json, "user", ssh->user, sizeof(ssh->user)))
        own[0] = '\0';
    json_decref(json);
    /* Only a temporary one's name is not its folder's, and only that cannot have been renamed. */
    return !strcmp(folder[0] == '.' ? own : folder, name);
}

static int read_port(struct guest_ssh *ssh, const char *name, struct err *err)
{
    char path[STORE_PATH + 16];
    json_t *json, *port;
    int r = -ENOTCONN;

    snprintf(path, sizeof(path), "%s/ssh.json", ssh->dir);
    json = store_json_load(path, NULL);
    port = json_object_get(json, "port");
    if (json_is_integer(port) && json_integer_value(port) > 0 && json_integer_value(port) < 65536 &&
        !store_json_text(json, "address", ssh->addr, sizeof(ssh->addr))) {
        ssh->port = (unsigned)json_integer_value(port);
        r = 0;
    } else {
        err_set(err, r, "no port of the host leads to ssh in the guest %s", name);
        err_next(err, "It was started with --net none, or is just starting.");
    }
    json_decref(json);
    return r;
}

int guest_ssh_find(const struct store *s, const char *name, struct guest_ssh *ssh, struct err *err)
{
    DIR *d = opendir(s->guests);
    struct dirent *e;
    bool found = false;

    memset(ssh, 0, sizeof(*ssh));
    while (d && !found && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || strlen(e->d_name) > 100)
            continue;
        snprintf(ssh->dir, sizeof(ssh->dir), "%s/%.100s", s->guests, e->d_name);
        found = runs(ssh->dir, e->d_name, name, ssh);
    }
    if (d)
        closedir(d);
    if (!found) {
        err_set(err, -ENOENT, "no guest named %s that was made from an image is running", name);
        err_next(err, "lodge run IMAGE --name %s starts one.", name);
        return -ENOENT;
    }
    snprintf(ssh->key, sizeof(ssh->key), "%s/key/id_ed25519", s->root);
    return read_port(ssh, name, err);
}
