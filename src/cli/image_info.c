/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image info and check. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/qcow2.h"
#include "cli/image.h"
#include "cli/size.h"

#define FINDINGS_MAX 100 /* lines */

/* ---- info ------------------------------------------------------------------------------------ */

struct facts {
    const char *path;
    uint64_t size, on_disk;
    bool is_qcow2;
    struct qcow2 *q; /* open while is_qcow2 */
    struct qcow2_info info;
};

/* Looking at a header does no harm, so what it looks like is what it is. */
static int facts_find(struct facts *f, const char *path, struct err *err)
{
    struct stat st;
    int fd, r = 0;

    *f = (struct facts){.path = path, .is_qcow2 = image_is_qcow2(path)};
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st))
        r = err_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        r = err_set(err, -EINVAL, "%s is neither a file nor a block device", path);
    if (!r) {
        f->size = (uint64_t)lseek(fd, 0, SEEK_END);
        f->on_disk = S_ISREG(st.st_mode) ? (uint64_t)st.st_blocks * 512 : f->size;
    }
    if (fd >= 0)
        close(fd);
    if (r || !f->is_qcow2)
        return r;
    r = qcow2_open(
        &f->q,
        &(struct qcow2_config){
            .path = path, .read_only = true, .no_backing = true, .inspect = true, .no_lock = true},
        err);
    if (r)
        return r;
    qcow2_get_info(f->q, &f->info);
    f->size = f->info.size;
    return 0;
}

static void print_snapshots(const struct facts *f)
{
    char size[SIZE_TEXT], when[32];

    if (!f->info.snapshots)
        return;
    printf("\n%-8s%-24s%-12s%s\n", "ID", "SNAPSHOT", "SIZE", "TAKEN");
    for (unsigned i = 0; i < f->info.snapshots; i++) {
        struct qcow2_snapshot s;
        struct tm tm;
        time_t t;

        if (qcow2_get_snapshot(f->q, i, &s))
            break;
        t = s.seconds;
        if (!localtime_r(&t, &tm) || !strftime(when, sizeof(when), "%F %T", &tm))
            when[0] = '\0';
        printf("%-8s%-24s%-12s%s\n", s.id, s.name, size_format(s.size, size), when);
    }
}

static void print_table(const struct facts *f)
{
    const struct qcow2_info *i = &f->info;
    char size[SIZE_TEXT], disk[SIZE_TEXT], cluster[SIZE_TEXT];

    printf("%-16s%s\n", "file", f->path);
    printf("%-16s%s", "format", f->is_qcow2 ? "qcow2" : "raw");
    if (f->is_qcow2)
        printf(", version %u", i->version);
    printf("\n%-16s%s (%llu bytes)\n", "disk", size_format(f->size, size),
           (unsigned long long)f->size);
    printf("%-16s%s\n", "space in use", size_format(f->on_disk, disk));
    if (!f->is_qcow2)
        return;
    printf("%-16s%s\n", "clusters", size_format(i->cluster_size, cluster));
    printf("%-16s%u bits%s\n", "refcounts", i->refcount_bits, i->lazy_refcounts ? ", lazy" : "");
    printf("%-16s%s\n", "compression", i->compression);
    if (i->backing)
        printf("%-16s%s (%s)\n", "backing file", i->backing,
               i->backing_fmt ? i->backing_fmt : "format not recorded");
    if (i->backing_path && strcmp(i->backing_path, i->backing) != 0)
        printf("%-16s%s\n", "", i->backing_path);
    if (i->bitmaps)
        printf("%-16s%s\n", "bitmaps", "yes");
    printf("%-16s%s\n", "state",
           i->corrupt ? "marked as damaged"
           : i->dirty ? "not closed, its refcounts will be computed anew"
                      : "closed");
    print_snapshots(f);
}

static json_t *snapshots_json(const struct facts *f)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < f->info.snapshots; i++) {
        struct qcow2_snapshot s;

        if (qcow2_get_snapshot(f->q, i, &s))
            break;
        /* Names need not be text. */
        for (char *c = s.name; *c; c++)
            if ((unsigned char)*c < 32 || (unsigned char)*c > 126)
                *c = '?';
        for (char *c = s.id; *c; c++)
            if ((unsigned char)*c < 32 || (unsigned char)*c > 126)
                *c = '?';
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:I, s:I}", "id", s.id, "name", s.name,
                                        "disk_size", (json_int_t)s.size, "vm_state",
                                        (json_int_t)s.vm_state, "taken", (json_int_t)s.seconds));
    }
    return list;
}

static json_t *text_or_null(const char *text)
{
    json_t *j = text ? json_string(text) : NULL;

    return j ? j : json_null();
}

static int print_json(const struct facts *f)
{
    const struct qcow2_info *i = &f->info;
    json_t *root = json_pack("{s:o, s:s, s:I, s:I}", "file", text_or_null(f->path), "format",
                             f->is_qcow2 ? "qcow2" : "raw", "disk_size", (json_int_t)f->size,
                             "on_disk", (json_int_t)f->on_disk);
    int r;

    if (root && f->is_qcow2)
        json_object_update_new(
            root,
            json_pack("{s:I, s:I, s:I, s:b, s:s, s:o, s:o, s:o, s:b, s:b, s:b, s:o}", "version",
                      (json_int_t)i->version, "cluster_size", (json_int_t)i->cluster_size,
                      "refcount_bits", (json_int_t)i->refcount_bits, "lazy_refcounts",
                      i->lazy_refcounts, "compression", i->compression, "backing",
                      text_or_null(i->backing), "backing_format", text_or_null(i->backing_fmt),
                      "backing_path", text_or_null(i->backing_path), "bitmaps", i->bitmaps, "dirty",
                      i->dirty, "corrupt", i->corrupt, "snapshots", snapshots_json(f)));
    r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;
    putchar('\n');
    json_decref(root);
    return r;
}

int verb_image_info(const struct verb *verb, int argc, char **argv)
{
    struct image_info_opts opts;
    struct err err = {0};
    struct facts f;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (!nargs) {
        err_set(&err, -EINVAL, "no image was given");
        return verb_usage(verb, &err);
    }
    if (facts_find(&f, argv[0], &err))
        return image_failed(&err);
    if (strcmp(opts.format, "json") != 0)
        print_table(&f);
    else
        r = print_json(&f) ? CLI_FAILED : r;
    qcow2_abandon(f.q);
    return r == CLI_FAILED ? r : cli_flush();
}

/* ---- check ----------------------------------------------------------------------------------- */

struct findings {
    struct progress progress;
    unsigned lines;
    json_t *list; /* NULL: printed at once */
};

static void finding(void *opaque, const char *text)
{
    struct findings *f = opaque;

    if (f->lines++ >= FINDINGS_MAX)
        return;
    if (f->list) {
        json_array_append_new(f->list, json_string(text));
        return;
    }
    progress_end(&f->progress);
    printf("%s\n", text);
}

static void check_progress(void *opaque, uint64_t done, uint64_t total)
{
    struct findings *f = opaque;

    progress_show(&f->progress, done, total);
}

static void check_print(const struct qcow2_check *c, const struct findings *f, bool dirty)
{
    if (f->lines > FINDINGS_MAX)
        printf("and %u more\n", f->lines - FINDINGS_MAX);
    if (c->corruptions_fixed || c->leaks_fixed)
        printf("repaired: %llu damaged, %llu leaked\n", (unsigned long long)c->corruptions_fixed,
               (unsigned long long)c->leaks_fixed);
    if (c->corruptions || c->leaks)
        printf("%llu damaged, %llu leaked\n", (unsigned long long)c->corruptions,
               (unsigned long long)c->leaks);
    else
        printf("no errors\n");
    if (dirty)
        printf("It was not closed: whoever opens it for writing next puts its refcounts right.\n");
    printf("%llu of %llu clusters in use (%.1f%%), %llu compressed\n",
           (unsigned long long)(c->data_clusters + c->compressed),
           (unsigned long long)c->total_clusters,
           c->total_clusters
               ? (double)(c->data_clusters + c->compressed) / (double)c->total_clusters * 100
               : 0.0,
           (unsigned long long)c->compressed);
}

static int check_print_json(const char *path, const struct qcow2_check *c, const struct findings *f,
                            bool dirty)
{
    json_t *root = json_pack(
        "{s:o, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:O}", "file", text_or_null(path),
        "damaged", (json_int_t)c->corruptions, "leaked", (json_int_t)c->leaks, "damaged_repaired",
        (json_int_t)c->corruptions_fixed, "leaked_repaired", (json_int_t)c->leaks_fixed, "dirty",
        dirty, "clusters_in_use", (json_int_t)(c->data_clusters + c->compressed), "compressed",
        (json_int_t)c->compressed, "clusters", (json_int_t)c->total_clusters, "end",
        (json_int_t)c->end, "findings", f->list);
    int r = root ? json_dumpf(root, stdout, JSON_INDENT(2)) : -1;

    putchar('\n');
    json_decref(root);
    return r;
}

static int check_image(const struct image_check_opts *o, const char *path, struct qcow2_check *c,
                       struct findings *f, bool *dirty, struct err *err)
{
    enum qcow2_repair repair = !o->repair                    ? QCOW2_REPAIR_NONE
                               : !strcmp(o->repair, "leaks") ? QCOW2_REPAIR_LEAKS
                                                             : QCOW2_REPAIR_ALL;
    struct qcow2_config cfg = {.path = path,
                               .read_only = repair == QCOW2_REPAIR_NONE,
                               .no_backing = true,
                               .inspect = true};
    struct qcow2_info info;
    struct qcow2 *q;
    int r;

    if (!image_is_qcow2(path) && !access(path, R_OK)) {
        err_set(err, -ENOTSUP, "%s is not a qcow2 image", path);
        return err_next(err, "Only qcow2 images have something to check.");
    }
    r = qcow2_open(&q, &cfg, err);
    if (r)
        return r;
    progress_begin(&f->progress, "checking");
    r = qcow2_check(q, repair, c, err);
    progress_end(&f->progress);
    qcow2_get_info(q, &info);
    *dirty = info.dirty;
    qcow2_close(q);
    return r;
}

int verb_image_check(const struct verb *verb, int argc, char **argv)
{
    struct findings f = {.lines = 0};
    struct qcow2_check c = {.say = finding, .progress = check_progress, .opaque = &f};
    struct image_check_opts opts;
    struct err err = {0};
    bool dirty = false;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (!nargs) {
        err_set(&err, -EINVAL, "no image was given");
        return verb_usage(verb, &err);
    }
    /* No file: perhaps an image of the store. If that is none either, it is the file that is missing. */
    if (access(argv[0], F_OK) && !opts.repair) {
        bool right = false;

        r = image_check_stored(argv[0], !strcmp(opts.format, "json"), &right, &err);
        if (!r)
            return cli_flush() || !right ? CLI_FAILED : CLI_OK;
        if (r != -ENOENT && r != -EINVAL)
            return image_failed(&err);
        err = (struct err){0};
    }
    f.list = strcmp(opts.format, "json") ? NULL : json_array();
    if (check_image(&opts, argv[0], &c, &f, &dirty, &err)) {
        json_decref(f.list);
        return image_failed(&err);
    }
    r = 0;
    if (f.list)
        r = check_print_json(argv[0], &c, &f, dirty);
    else
        check_print(&c, &f, dirty);
    json_decref(f.list);
    if (r || c.corruptions || c.leaks)
        r = CLI_FAILED;
    return cli_flush() ? CLI_FAILED : r;
}
