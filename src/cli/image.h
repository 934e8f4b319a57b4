/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge image: what its verbs share. */
#ifndef LODGE_CLI_IMAGE_H
#define LODGE_CLI_IMAGE_H

#include "base/types.h"
#include "cli/store.h"
#include "cli/verb.h"

extern const struct verb image_verbs[]; /* names begin with "image " */

struct image_create_opts {
    const char *format, *backing, *backing_format;
    uint64_t cluster_size;
    bool lazy, force;
};

struct image_resize_opts {
    const char *format;
    bool shrink;
};

struct image_info_opts {
    const char *format;
};

struct image_check_opts {
    const char *repair, *format;
};

struct image_convert_opts {
    const char *from, *to;
    uint64_t cluster_size;
    bool force, quiet;
};

/* --package, as often as it is given: names with ',' between them, which the verb frees; NULL: none. */
struct image_packages {
    char *list;
};

struct image_build_opts {
    const char *mirror, *tag;
    uint64_t size;
    struct image_packages packages;
    bool force, quiet;
};

struct image_ls_opts {
    const char *format;
};

struct image_rm_opts {
    bool force;
};

struct image_import_opts {
    const char *type, *kernel, *initrd, *append, *user, *seed;
    uint64_t size;
    bool force, quiet;
};

extern const struct opt_desc image_build_opts[];
extern const struct opt_desc image_ls_opts[];
extern const struct opt_desc image_rm_opts[];
extern const struct opt_desc image_import_opts[];
extern const struct opt_desc image_create_opts[];
extern const struct opt_desc image_info_opts[];
extern const struct opt_desc image_check_opts[];
extern const struct opt_desc image_resize_opts[];
extern const struct opt_desc image_convert_opts[];

int verb_image_build(const struct verb *verb, int argc, char **argv);
int verb_image_ls(const struct verb *verb, int argc, char **argv);
int verb_image_rm(const struct verb *verb, int argc, char **argv);
int verb_image_discard(const struct verb *verb, int argc, char **argv);
int verb_image_import(const struct verb *verb, int argc, char **argv);
int verb_image_create(const struct verb *verb, int argc, char **argv);
int verb_image_info(const struct verb *verb, int argc, char **argv);
int verb_image_check(const struct verb *verb, int argc, char **argv);
int verb_image_resize(const struct verb *verb, int argc, char **argv);
int verb_image_convert(const struct verb *verb, int argc, char **argv);

/* A format by the end of a file's name, NULL when that says nothing. */
const char *image_format_of_name(const char *path);

/* Does the file begin like a qcow2 image? A file that cannot be read does not. */
bool image_is_qcow2(const char *path);

/*
 * The format of an image that is to be used: `given`, or what the name says,
 * or raw. NULL with an error when the file looks like qcow2 and nobody says
 * so: what a raw disk holds is up to its guest, and a header could name any
 * file of the host. `option` is how to say it.
 */
const char *image_format_of(const char *path, const char *given, const char *option,
                            struct err *err);

/* An option of type opt_size in bytes that must be a power of two from 512 to 2 MiB, or 0. -EINVAL otherwise. */
int image_cluster_bits(uint64_t size, unsigned *bits, struct err *err);

/*
 * Compare the files of an image of the store with the sums in its manifest, and print the outcome. -ENOENT or -EINVAL when there
 * is no such image or what is there is none.
 */
int image_check_stored(const char *name, bool as_json, bool *right, struct err *err);

/*
 * May an image of this name be made? With `force` it may when there is one that
 * nobody stands on. -EEXIST, -EBUSY. The caller holds the store's lock.
 */
int image_check_free(const struct store *s, const char *name, bool force, struct err *err);

/*
 * Look on the disk of an image that is being made in `dir`, a qcow2 file, for the newest kernel in an ext file system, and
 * put it, its initrd and a command line into the image. An image without one stays as it is. -EIO and others.
 */
int image_find_kernel(const char *disk, const char *dir, struct store_image *im, struct err *err);

/* Copy a disk to a new file, as lodge image convert does. Stops, with -EINTR, when stop_asked. */
int image_convert(const char *source, const char *from, const char *target, const char *to,
                  bool quiet, struct err *err);

/* Print an error; returns CLI_FAILED. */
int image_failed(const struct err *err);

/* A line on a terminal (standard error) that tells how far something is, once it takes longer than two seconds. */
struct progress {
    const char *what;
    double start, shown;
    bool on;
};

void progress_begin(struct progress *p, const char *what);
void progress_show(struct progress *p, uint64_t done, uint64_t total);
void progress_end(struct progress *p);

#endif
