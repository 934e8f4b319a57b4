/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The store: names, folders, locks. What is in an image's manifest is read in store_manifest.c. */
#include "cli/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAME_CHARS "abcdefghijklmnopqrstuvwxyz0123456789_.-"

static int make_dir(const char *path, mode_t mode, struct err *err)
{
    struct stat st;
    int code;

    if (!mkdir(path, mode))
        return 0;
    if (errno == EEXIST && !stat(path, &st) && S_ISDIR(st.st_mode))
        return 0;
    code = err_set(err, -errno, "cannot make the folder %s: %s", path, strerror(errno));
    err_next(err, "Images are kept there; LODGE_DATA can name another folder.");
    return code;
}

/* With all the folders above it. */
static int make_dirs(const char *path, struct err *err)
{
    char part[STORE_ROOT];
    int r = 0;

    for (const char *p = strchr(path + 1, '/'); p && !r; p = strchr(p + 1, '/')) {
        snprintf(part, sizeof(part), "%.*s", (int)(p - path), path);
        r = make_dir(part, 0755, err);
    }
    return r ? r : make_dir(path, 0755, err);
}

int store_open(struct store *s, struct err *err)
{
    const char *own = getenv("LODGE_DATA"), *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n, r;

    if (own && own[0] == '/')
        n = snprintf(s->root, sizeof(s->root), "%s", own);
    else if (own && own[0])
        return err_set(err, -EINVAL, "LODGE_DATA must be a path from the root, not '%s'", own);
    else if (geteuid() == 0)
        n = snprintf(s->root, sizeof(s->root), "/var/lib/lodge");
    else if (xdg && xdg[0] == '/')
        n = snprintf(s->root, sizeof(s->root), "%s/lodge", xdg);
    else if (home && home[0] == '/')
        n = snprintf(s->root, sizeof(s->root), "%s/.local/share/lodge", home);
    else
        return err_set(err, -EINVAL,
                       "neither LODGE_DATA, XDG_DATA_HOME nor HOME says where images are");
    /* Leaves room for what comes behind it in STORE_PATH. */
    if (n < 0 || (size_t)n >= sizeof(s->root))
        return err_set(err, -ENAMETOOLONG, "the path of the store is too long");
    snprintf(s->images, sizeof(s->images), "%s/images", s->root);
    snprintf(s->guests, sizeof(s->guests), "%s/disks", s->root);
    r = make_dirs(s->root, err);
    if (!r)
        r = make_dir(s->images, 0755, err);
    return r ? r : make_dir(s->guests, 0700, err);
}

/* ---- Names ---------------------------------------------------------------------------------- */

int store_name(const char *text, char name[STORE_NAME_MAX + 1], struct err *err)
{
    size_t len = strlen(text), parts = 1, at = 0;
    bool ok = len && len <= STORE_NAME_MAX;

    for (size_t i = 0; ok && i < len; i++) {
        bool cut = text[i] == '/' || text[i] == ':';

        /* A part begins with a letter or digit and is not empty. */
        ok = cut ? i > at : strchr(NAME_CHARS, text[i]) && (i > at || !strchr("_.-", text[i]));
        if (cut) {
            parts++;
            at = i + 1;
        }
        name[i] = cut ? '/' : text[i];
    }
    if (ok && at < len && parts <= 3) {
        name[len] = '\0';
        return 0;
    }
    err_set(err, -EINVAL, "'%.120s' can't be the name of an image", text);
    err_next(err, "A name is like debian/12: lower-case letters, digits and _ . -, in up to "
                  "three parts.");
    return -EINVAL;
}

int store_guest_name(const char *image, bool temporary, char *buf, size_t size, struct err *err)
{
    char name[STORE_NAME_MAX + 1], number[16] = "";
    int r = store_name(image, name, err);

    if (r)
        return r;
    for (char *p = name; *p; p++)
        if (*p == '/')
            *p = '-';
    if (temporary)
        snprintf(number, sizeof(number), "-%d", (int)getpid());
    /* One that is cut short is still a name. */
    snprintf(buf, size, "%.*s%s", (int)(size - 1 - strlen(number)), name, number);
    return 0;
}

void store_image_path(const struct store *s, const char *name, const char *file,
                      char path[STORE_PATH])
{
    size_t at = (size_t)snprintf(path, STORE_PATH, "%s/", s->images);

    for (; *name && at < STORE_PATH - 1; name++)
        path[at++] = *name == '/' ? '@' : *name;
    snprintf(path + at, STORE_PATH - at, "%s%s", *file ? "/" : "", file);
}

void store_new_id(char id[STORE_ID])
{
    uint8_t bytes[16];

    /* Cannot fail once the system has come up: 16 bytes are below the size that a signal may cut short. */
    if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
        abort();
    for (size_t i = 0; i < sizeof(bytes); i++)
        snprintf(id + 2 * i, 3, "%02x", bytes[i]);
}

void store_now(char text[24])
{
    time_t now = time(NULL);
    struct tm tm;

    if (!gmtime_r(&now, &tm) || !strftime(text, 24, "%Y-%m-%dT%H:%M:%SZ", &tm))
        text[0] = '\0';
}

/* ---- Folders -------------------------------------------------------------------------------- */

static void remove_at(int dir, const char *name, unsigned depth)
{
    int fd = depth < 64 ? openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;

    if (!d) {
        if (fd >= 0)
            close(fd);
        unlinkat(dir, name, 0);
        return;
    }
    while ((e = readdir(d)))
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_at(dirfd(d), e->d_name, depth + 1);
    closedir(d);
    unlinkat(dir, name, AT_REMOVEDIR);
}

void store_remove_tree(const char *path)
{
    remove_at(AT_FDCWD, path, 0);
}

uint64_t store_space(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;
    struct stat st;
    uint64_t sum = 0;

    if (!d)
        return 0;
    while ((e = readdir(d)))
        if (!fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_blocks * 512;
    closedir(d);
    return sum;
}

/* Folders that begin with '.' and that nobody holds. */
static void sweep(const char *parent)
{
    DIR *d = opendir(parent);
    struct dirent *e;
    int fd;

    if (!d)
        return;
    while ((e = readdir(d))) {
        if (e->d_name[0] != '.' || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (!flock(fd, LOCK_EX | LOCK_NB))
            remove_at(dirfd(d), e->d_name, 0);
        close(fd);
    }
    closedir(d);
}

int store_lock(const struct store *s, struct err *err)
{
    char path[STORE_PATH];
    int fd;

    snprintf(path, sizeof(path), "%s/images.lock", s->root);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    while (flock(fd, LOCK_EX)) {
        int code = -errno;

        if (code == -EINTR)
            continue;
        close(fd);
        return err_set(err, code, "cannot lock %s: %s", path, strerror(-code));
    }
    sweep(s->images);
    sweep(s->guests);
    return fd;
}

int store_begin(const struct store *s, const char *parent, char path[STORE_PATH], struct err *err)
{
    int lock = store_lock(s, err), fd = -1;

    if (lock < 0)
        return lock;
    snprintf(path, STORE_PATH, "%s/.new-XXXXXX", parent);
    if (mkdtemp(path))
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB)) {
        err_set(err, -errno, "cannot make a folder in %s: %s", parent, strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -EIO;
    }
    close(lock);
    return fd;
}

static int sync_path(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), r = 0;

    if (fd < 0 || fsync(fd))
        r = err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return r;
}

static int sync_folder(const char *path, struct err *err)
{
    char file[STORE_PATH + 256];
    DIR *d = opendir(path);
    struct dirent *e;
    int r = 0;

    if (!d)
        return err_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
    while (!r && (e = readdir(d))) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
        r = sync_path(file, err);
    }
    closedir(d);
    return r ? r : sync_path(path, err);
}

int store_drop_locked(const char *parent, const char *path, struct err *err)
{
    char away[STORE_PATH];
    int r = 0;

    snprintf(away, sizeof(away), "%s/.old-XXXXXX", parent);
    if (!mkdtemp(away))
        return err_set(err, -errno, "cannot make a folder in %s: %s", parent, strerror(errno));
    /* Over the empty folder, so that no name is left half removed. */
    if (rename(path, away)) {
        r = err_set(err, -errno, "cannot remove %s: %s", path, strerror(errno));
        rmdir(away);
        return r;
    }
    store_remove_tree(away);
    return 0;
}

int store_commit_locked(const struct store *s, const char *parent, const char *temp,
                        const char *path, bool replace, struct err *err)
{
    struct stat st;
    int r = sync_folder(temp, err);

    if (!r && !lstat(path, &st)) {
        if (!replace)
            return err_set(err, -EEXIST, "%s is there already", path);
        r = store_drop_locked(parent, path, err);
    }
    if (r)
        return r;
    if (chmod(temp, 0755) || rename(temp, path))
        return err_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    return sync_path(parent, err);
}
