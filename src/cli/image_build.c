/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image build: a distribution's packages, by mmdebstrap, into an image of the store. */
#include "cli/image_build.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/image.h"
#include "cli/size.h"
#include "cli/spawn.h"
#include "cli/stop.h"
#include "cli/store.h"

#define KEPT 12 /* lines of what the program said last, for when it fails */

struct build {
    const struct image_build_opts *opts;
    const struct recipe *recipe;
    struct store store;
    struct store_image image;
    struct apt_sources sources;
    char *packages;
    char dir[STORE_PATH]; /* being made; empty: not yet */
    int hold;
    int tar, disk, kernel, initrd;
    /* What is shown. */
    bool tty;
    const char *step;
    unsigned number;
    double start;
    char kept[KEPT][256];
    unsigned lines;
};

/* What mmdebstrap (I:) and our own script (L:) say when they begin with something, and what that is. */
static const char *const steps[][2] = {
    {"I: running apt-get update", "fetching the lists of packages"},
    {"I: downloading packages", "fetching the base system"},
    {"I: extracting archives", "unpacking the base system"},
    {"I: installing essential", "installing the base system"},
    {"I: installing remaining", "fetching and installing the other packages"},
    {"I: running --customize-hook", "setting up the system"},
    {"I: cleaning package lists", "packing the system"},
    {"L: unpacking", "unpacking the system"},
    {"L: making the file system", "making the file system"},
    {"L: sums", "computing checksums"},
};

static double seconds_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- What is shown -------------------------------------------------------------------------- */

static void show_tick(void *opaque)
{
    struct build *b = opaque;

    if (!b->tty || !b->step || b->opts->quiet)
        return;
    fprintf(stderr, "\r\033[K%s: %u/%zu %s (%.0f s)", b->image.name, b->number, ARRAY_SIZE(steps),
            b->step, seconds_now() - b->start);
}

static void show_step(struct build *b, size_t step)
{
    if (b->number > step)
        return;
    b->number = (unsigned)step + 1;
    b->step = steps[step][1];
    if (!b->tty && !b->opts->quiet)
        fprintf(stderr, "%s: %s\n", b->image.name, b->step);
    show_tick(b);
}

static void show_end(struct build *b)
{
    if (b->tty && b->step && !b->opts->quiet)
        fprintf(stderr, "\r\033[K");
    b->step = NULL;
}

static void on_line(void *opaque, char *line)
{
    struct build *b = opaque;

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
        if (!strncmp(line, steps[i][0], strlen(steps[i][0])))
            show_step(b, i);
    snprintf(b->kept[b->lines++ % KEPT], sizeof(b->kept[0]), "%s", line);
}

static void show_kept(struct build *b)
{
    show_end(b);
    for (unsigned i = b->lines > KEPT ? b->lines - KEPT : 0; i < b->lines; i++)
        fprintf(stderr, "  %s\n", b->kept[i % KEPT]);
    b->lines = 0;
}

/* ---- The programs --------------------------------------------------------------------------- */

static int run(struct build *b, struct spawn *s, const char *what, struct err *err)
{
    int status = 0, r;

    s->line = on_line;
    s->tick = show_tick;
    s->opaque = b;
    b->lines = 0;
    r = spawn_run(s, &status, err);
    if (r == -ENOENT) {
        err_set(err, r, "images are built by %s, which is not installed", s->argv[0]);
        return err_next(err, "On Debian it comes with: apt-get install %s", s->argv[0]);
    }
    if (stop_asked())
        return err_set(err, -EINTR, "stopped; no image was made");
    if (r || !status)
        return r;
    show_kept(b);
    err_set(err, -EIO, "%s (exit status %d); its last lines are above", what, status);
    if (geteuid() != 0 && access("/usr/bin/newuidmap", X_OK))
        err_next(err,
                 "Without root it needs: apt-get install uidmap, and the user in /etc/subuid.");
    return -EIO;
}

/* The system as a tar in b->tar. */
static int run_mmdebstrap(struct build *b, struct err *err)
{
    const char *argv[32 + RECIPE_SOURCES] = {"mmdebstrap", "--variant=minbase", "--format=tar"};
    const char *env[4] = {0};
    char include[8 + 4096], hook[8192], opt[2][128];
    unsigned n = 3, e = 0;
    struct spawn s = {.argv = argv, .out = b->tar, .env = env};

    if (snprintf(include, sizeof(include), "--include=%s", b->packages) >= (int)sizeof(include))
        return err_set(err, -E2BIG, "too many packages are to be added");
    if (snprintf(hook, sizeof(hook), "--customize-hook=%s", recipe_setup) >= (int)sizeof(hook))
        return err_set(err, -E2BIG, "the set-up script does not fit");
    argv[n++] = include;
    argv[n++] = hook;
    /* For root that leaves users alone, but mounts and processes are its own, and gone with it. */
    argv[n++] = "--mode=unshare";
    for (unsigned i = 0; i < ARRAY_SIZE(opt); i++) {
        if (!b->sources.option[i][0])
            continue;
        snprintf(opt[i], sizeof(opt[i]), "--aptopt=%s", b->sources.option[i]);
        argv[n++] = opt[i];
    }
    for (unsigned i = 0; i < ARRAY_SIZE(b->sources.proxy); i++) {
        char key[16];

        snprintf(key, sizeof(key), "%.*s", (int)strcspn(b->sources.proxy[i], "="),
                 b->sources.proxy[i]);
        if (key[0] && !getenv(key))
            env[e++] = b->sources.proxy[i];
    }
    argv[n++] = b->recipe->codename;
    argv[n++] = "-";
    for (unsigned i = 0; i < b->sources.count; i++)
        argv[n++] = b->sources.line[i];
    return run(b, &s, "mmdebstrap could not put the system together", err);
}

/* File system, kernel and initrd out of the tar. Files of all users can be made by root, or in a user namespace. */
static int run_pack(struct build *b, struct err *err)
{
    const char *argv[8];
    char temp[STORE_PATH + 8];
    const char *const env[] = {temp, NULL};
    unsigned n = 0;
    struct spawn s = {
        .argv = argv, .in = b->tar, .out = -1, .fds = {b->disk, b->kernel, b->initrd}, .env = env};

    if (geteuid() != 0) {
        argv[n++] = "mmdebstrap";
        argv[n++] = "--unshare-helper";
    }
    argv[n++] = "sh";
    argv[n++] = "-c";
    argv[n++] = recipe_pack;
    argv[n] = NULL;
    /* The folder is private; who is root only in there cannot enter it. */
    if (geteuid() == 0)
        snprintf(temp, sizeof(temp), "TMPDIR=%s", b->dir);
    else
        snprintf(temp, sizeof(temp), "TMPDIR=%s", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (lseek(b->tar, 0, SEEK_SET) < 0)
        return err_set(err, -errno, "cannot read the packed system: %s", strerror(errno));
    show_step(b, 7);
    return run(b, &s, "the file system could not be made", err);
}

/* ---- The image ------------------------------------------------------------------------------ */

static int open_file(struct build *b, const char *name, mode_t mode, int *fd, struct err *err)
{
    char path[STORE_PATH + 16];

    snprintf(path, sizeof(path), "%s/%s", b->dir, name);
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (*fd < 0 || fchmod(*fd, mode))
        return err_set(err, -errno, "cannot create %s: %s", path, strerror(errno));
    return 0;
}

static int open_files(struct build *b, struct err *err)
{
    int r = open_file(b, "system.tar", 0600, &b->tar, err);

    /* mke2fs opens it anew, without the rights of this user; nobody else gets into the folder. */
    if (!r)
        r = open_file(b, "disk.raw", 0666, &b->disk, err);
    if (!r)
        r = open_file(b, "vmlinuz", 0644, &b->kernel, err);
    return r ? r : open_file(b, "initrd.img", 0644, &b->initrd, err);
}

static int sum_file(struct build *b, struct store_file *f, const char *name, struct err *err)
{
    char path[STORE_PATH + 16];
    struct stat st;

    snprintf(path, sizeof(path), "%s/%s", b->dir, name);
    snprintf(f->name, sizeof(f->name), "%s", name);
    if (stat(path, &st) || !st.st_size)
        return err_set(err, -EIO, "the system that was put together has no %s", name);
    return store_sum(path, f->sha256, err);
}

static int finish(struct build *b, struct err *err)
{
    char path[STORE_PATH], tar[STORE_PATH + 16];
    int lock, r;

    snprintf(tar, sizeof(tar), "%s/system.tar", b->dir);
    unlink(tar);
    fchmod(b->disk, 0644);
    show_step(b, 9);
    r = sum_file(b, &b->image.disk, "disk.raw", err);
    if (!r)
        r = sum_file(b, &b->image.kernel, "vmlinuz", err);
    if (!r)
        r = sum_file(b, &b->image.initrd, "initrd.img", err);
    if (!r && lseek(b->disk, 0, SEEK_END) > (off_t)b->image.size)
        r = err_set(err, -ENOSPC, "the system needs more than --size");
    if (!r)
        r = store_write_manifest(b->dir, &b->image, err);
    if (r)
        return r;
    lock = store_lock(&b->store, err);
    if (lock < 0)
        return lock;
    store_image_path(&b->store, b->image.name, "", path);
    r = image_check_free(&b->store, b->image.name, b->opts->force, err);
    if (!r)
        r = store_commit_locked(&b->store, b->store.images, b->dir, path, b->opts->force, err);
    if (!r)
        b->dir[0] = '\0';
    close(lock);
    return r;
}

static int prepare(struct build *b, const char *what, struct err *err)
{
    const struct image_build_opts *o = b->opts;
    char name[STORE_NAME_MAX + 1];
    int lock, r = store_name(what, name, err);

    if (r)
        return r;
    b->recipe = recipe_find(name);
    if (!b->recipe) {
        err_set(err, -EINVAL, "Lodge does not know how to build %s", name);
        return err_next(err, "It can build %s; lodge image import takes what there is.",
                        recipe_names);
    }
    snprintf(b->image.name, sizeof(b->image.name), "debian/%s", b->recipe->version);
    r = o->tag ? store_name(o->tag, b->image.name, err) : 0;
    if (!r)
        r = store_open(&b->store, err);
    if (r)
        return r;
    /* Now rather than after all the work; it is looked at again then. */
    lock = store_lock(&b->store, err);
    if (lock < 0)
        return lock;
    r = image_check_free(&b->store, b->image.name, o->force, err);
    close(lock);
    if (!r)
        r = apt_sources_find(b->recipe, o->mirror, &b->sources, err);
    if (r)
        return r;
    if (b->sources.fallback && !o->quiet)
        fprintf(stderr,
                "lodge: this host's apt knows no mirror of Debian; taking deb.debian.org\n");
    b->packages = recipe_packages(b->recipe, o->packages.list);
    return b->packages ? 0 : err_set(err, -ENOMEM, "no memory for the list of packages");
}

static int build_image(struct build *b, const char *what, struct err *err)
{
    int r = prepare(b, what, err);

    if (r)
        return r;
    b->hold = store_begin(&b->store, b->store.images, b->dir, err);
    if (b->hold < 0) {
        b->dir[0] = '\0';
        return b->hold;
    }
    store_new_id(b->image.id);
    store_now(b->image.created);
    strcpy(b->image.format, "raw");
    strcpy(b->image.user, "debian");
    strcpy(b->image.append, "console=ttyS0 root=/dev/vda rw quiet");
    b->image.size = b->opts->size;
    b->image.seed = STORE_SEED_LODGE;
    r = open_files(b, err);
    if (!r)
        r = run_mmdebstrap(b, err);
    if (!r)
        r = run_pack(b, err);
    return r ? r : finish(b, err);
}

static void build_fini(struct build *b)
{
    show_end(b);
    /* While it is still held, so that nobody else does the same. */
    if (b->dir[0])
        store_remove_tree(b->dir);
    for (size_t i = 0; i < 5; i++) {
        int fd = (int[]){b->hold, b->tar, b->disk, b->kernel, b->initrd}[i];

        if (fd >= 0)
            close(fd);
    }
    free(b->packages);
}

int verb_image_build(const struct verb *verb, int argc, char **argv)
{
    struct image_build_opts opts;
    struct build b = {.opts = &opts,
                      .hold = -1,
                      .tar = -1,
                      .disk = -1,
                      .kernel = -1,
                      .initrd = -1,
                      .tty = isatty(STDERR_FILENO),
                      .start = seconds_now()};
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);
    char size[SIZE_TEXT];

    if (r >= 0)
        goto out;
    if (nargs < 1) {
        err_set(&err, -EINVAL, "what to build was not given");
        err_next(&err, "Lodge can build %s.", recipe_names);
        r = verb_usage(verb, &err);
        goto out;
    }
    stop_catch();
    r = build_image(&b, argv[0], &err);
    build_fini(&b);
    if (r) {
        image_failed(&err);
        r = stop_asked() ? 128 + stop_asked() : CLI_FAILED;
        goto out;
    }
    store_image_path(&b.store, b.image.name, "", b.dir);
    if (!opts.quiet)
        fprintf(stderr, "%s: built in %.0f s, takes %s; lodge run %s starts it\n", b.image.name,
                seconds_now() - b.start, size_format(ALIGN_UP(store_space(b.dir), MIB(1)), size),
                b.image.name);
out:
    free(opts.packages.list);
    return r;
}
