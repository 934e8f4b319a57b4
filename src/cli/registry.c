/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* A release or sweep running at the same time can remove what we just made; each try meets at most one of them. */
#define CLAIM_TRIES   100
#define CLAIM_WAIT_US 2000

int registry_check_name(const char *name, struct err *err)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    static const char other[] = "abcdefghijklmnopqrstuvwxyz0123456789_.-";
    size_t len = strlen(name);

    if (len && len <= REGISTRY_NAME_MAX && strchr(first, name[0]) && strspn(name, other) == len)
        return 0;
    err_set(err, -EINVAL, "'%.80s' can't be the name of a guest", name);
    err_next(err,
             "A name is a lower-case letter or digit, then these and _ . -, at most %d in all.",
             REGISTRY_NAME_MAX);
    return -EINVAL;
}

int registry_base(char *buf, size_t size, struct err *err)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    int n;

    if (geteuid() == 0 && !access("/run", W_OK))
        n = snprintf(buf, size, "/run/lodge");
    else if (xdg && xdg[0] == '/')
        n = snprintf(buf, size, "%s/lodge", xdg);
    else
        n = snprintf(buf, size, "/tmp/lodge-%u", (unsigned)geteuid());
    if (n < 0 || (size_t)n >= size)
        return err_set(err, -ENAMETOOLONG, "the path in XDG_RUNTIME_DIR is too long");
    return 0;
}

/* A directory of ours that nobody else may write to; made when missing. */
static int own_dir(const char *path, struct err *err)
{
    struct stat st;

    if (mkdir(path, 0700) && errno != EEXIST)
        return err_set(err, -errno, "cannot make the directory %s: %s", path, strerror(errno));
    if (lstat(path, &st))
        return err_set(err, -errno, "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022)) {
        err_set(err, -EPERM, "%s is not a directory that only this user can write to", path);
        err_next(err, "Move it out of the way.");
        return -EPERM;
    }
    return 0;
}

/* The PID in a lock file, 0: none. */
static pid_t read_pid(int fd)
{
    char text[24];
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    return (pid_t)strtol(text, NULL, 10);
}

/*
 * Somebody holds the lock. A guest that runs, or one that has not come to
 * writing its PID, or a sweep, for a moment: worth another try (-EAGAIN).
 */
static int held_error(int fd, const char *name, struct err *err)
{
    pid_t pid = read_pid(fd);
    bool brief = pid <= 0 || (kill(pid, 0) && errno == ESRCH);

    if (pid > 0)
        err_set(err, -EBUSY, "a guest named %s is already running, as process %d", name, (int)pid);
    else
        err_set(err, -EBUSY, "a guest named %s is already being started", name);
    err_next(err, "Choose another --name, or end that guest.");
    if (brief)
        usleep(CLAIM_WAIT_US);
    return brief ? -EAGAIN : -EBUSY;
}

/* The file we locked may have been unlinked by its last owner before we got the lock. */
static bool still_there(int fd, const char *path)
{
    struct stat a, b;

    return !fstat(fd, &a) && !lstat(path, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static int write_pid(struct registry *reg, struct err *err)
{
    char pid[24];
    int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());

    if (ftruncate(reg->fd, 0) || pwrite(reg->fd, pid, (size_t)n, 0) != n)
        return err_set(err, -EIO, "cannot write %s: %s", reg->lock, strerror(errno));
    return 0;
}

/* One try. -ENOENT: something was removed in between; -EAGAIN: held for a moment. */
static int try_claim(struct registry *reg, const char *name, struct err *err)
{
    int r = own_dir(reg->base, err);

    if (!r)
        r = own_dir(reg->dir, err);
    if (r)
        return r;
    reg->fd = open(reg->lock, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (reg->fd < 0)
        return err_set(err, -errno, "cannot open %s: %s", reg->lock, strerror(errno));
    if (flock(reg->fd, LOCK_EX | LOCK_NB)) {
        if (errno == EWOULDBLOCK)
            r = held_error(reg->fd, name, err);
        else
            r = err_set(err, -errno, "cannot lock %s: %s", reg->lock, strerror(errno));
    } else if (!still_there(reg->fd, reg->lock)) {
        r = err_set(err, -ENOENT, "%s went away", reg->lock);
    } else {
        r = write_pid(reg, err);
        if (r)
            registry_release(reg);
    }
    if (r && reg->fd >= 0) {
        close(reg->fd);
        reg->fd = -1;
    }
    return r;
}

/* What is in a guest's directory beside the lock. */
static void remove_files(const char *dir)
{
    static const char *const files[] = {"control", REGISTRY_VSOCK};
    char path[400];

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        unlink(path);
    }
}

/* Remove what a process left that did not get to releasing its name: a directory whose lock is free. */
static void sweep_one(const char *base, const char *name)
{
    char dir[384], lock[400];
    int fd;

    snprintf(dir, sizeof(dir), "%s/%s", base, name);
    snprintf(lock, sizeof(lock), "%s/lock", dir);
    fd = open(lock, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB) && still_there(fd, lock)) {
        remove_files(dir);
        unlink(lock);
    }
    rmdir(dir); /* fails while there is a lock in it */
    if (fd >= 0)
        close(fd);
}

static void sweep(const char *base)
{
    DIR *d = opendir(base);
    struct dirent *e;

    if (!d)
        return;
    while ((e = readdir(d)))
        if (!registry_check_name(e->d_name, NULL))
            sweep_one(base, e->d_name);
    closedir(d);
}

int registry_claim(struct registry *reg, const char *base, const char *name, struct err *err)
{
    int r = -EAGAIN;

    reg->fd = -1;
    if ((size_t)snprintf(reg->base, sizeof(reg->base), "%s", base) >= sizeof(reg->base))
        return err_set(err, -ENAMETOOLONG, "the path %s is too long", base);
    snprintf(reg->dir, sizeof(reg->dir), "%s/%s", reg->base, name);
    snprintf(reg->lock, sizeof(reg->lock), "%s/lock", reg->dir);
    for (int i = 0; i < CLAIM_TRIES && (r == -ENOENT || r == -EAGAIN); i++)
        r = try_claim(reg, name, err);
    if (!r)
        sweep(reg->base);
    return r == -EAGAIN ? -EBUSY : r;
}

/* Removed while still locked: who opens the old file finds out in still_there. */
void registry_release(struct registry *reg)
{
    if (reg->fd < 0)
        return;
    remove_files(reg->dir);
    unlink(reg->lock);
    rmdir(reg->dir);
    rmdir(reg->base);
    close(reg->fd);
    reg->fd = -1;
}

int registry_dir(char *buf, size_t size, const char *base, const char *name, struct err *err)
{
    if ((size_t)snprintf(buf, size, "%s/%s", base, name) >= size)
        return err_set(err, -ENAMETOOLONG, "the path %s is too long", base);
    return 0;
}

/* Looked at through a shared lock, so that two who look do not see each other. A claim at this moment tries again. */
static pid_t holder(const char *base, const char *name, bool *held)
{
    char lock[400];
    pid_t pid = 0;
    int fd;

    *held = false;
    if ((size_t)snprintf(lock, sizeof(lock), "%s/%s/lock", base, name) >= sizeof(lock))
        return 0;
    fd = open(lock, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return 0;
    *held = flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
    if (*held)
        pid = read_pid(fd);
    close(fd);
    return pid;
}

bool registry_is_held(const char *base, const char *name)
{
    bool held;

    holder(base, name, &held);
    return held;
}

pid_t registry_holder(const char *base, const char *name)
{
    bool held;

    return holder(base, name, &held);
}

void registry_each(const char *base, void (*fn)(void *opaque, const char *name), void *opaque)
{
    DIR *d = opendir(base);
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (!registry_check_name(e->d_name, NULL) && registry_is_held(base, e->d_name))
            fn(opaque, e->d_name);
    if (d)
        closedir(d);
}
