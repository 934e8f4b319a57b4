/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where images and the disks of guests made from them are kept:
 *
 *   ROOT/images/NAME/   manifest.json, a disk, perhaps a kernel and an initrd;
 *                       '@' stands for each '/' of the image's name
 *   ROOT/disks/NAME/    of a guest: guest.json, disk.qcow2 on an image's disk, seed.img
 *   ROOT/key/           the ssh key that Lodge itself uses
 *
 * A folder comes to its name complete, by rename. What begins with '.' is being
 * made or taken away, is held by a lock as long as somebody does that, and is
 * removed by the next who changes something when nobody does.
 */
#ifndef LODGE_CLI_STORE_H
#define LODGE_CLI_STORE_H

#include "base/err.h"
#include "base/sha256.h"
#include "base/types.h"

#define STORE_PATH       1024 /* a path in the store */
#define STORE_ROOT       640
#define STORE_NAME_MAX   100
#define STORE_ID         33 /* 128 random bits in hexadecimal */
#define STORE_APPEND_MAX 1024

struct store {
    char root[STORE_ROOT], images[STORE_ROOT + 16], guests[STORE_ROOT + 16];
};

/* How a guest made from an image learns its name, user and keys. */
enum store_seed { STORE_SEED_NONE, STORE_SEED_LODGE, STORE_SEED_CLOUD_INIT };

struct store_file {
    char name[64]; /* in the image's folder; empty: there is none */
    char sha256[SHA256_HEX];
};

struct store_image {
    char name[STORE_NAME_MAX + 1];
    char id[STORE_ID];
    char created[24]; /* 2026-01-31T12:00:00Z */
    char format[8];   /* of the disk: raw or qcow2 */
    uint64_t size;    /* of the disks of guests, bytes */
    struct store_file disk, kernel, initrd;
    char append[STORE_APPEND_MAX]; /* kernel command line */
    char user[33];                 /* who logs in; empty: not known */
    enum store_seed seed;
};

/*
 * Find the store of this user and make its folders: $LODGE_DATA, else for root
 * /var/lib/lodge, else $XDG_DATA_HOME/lodge or ~/.local/share/lodge.
 */
int store_open(struct store *s, struct err *err);

/*
 * One process at a time changes which folders there are. A descriptor to close,
 * or a negative errno. Left-over folders are swept away meanwhile.
 */
int store_lock(const struct store *s, struct err *err);

/*
 * The form that a name of an image is kept in: lower-case letters, digits and
 * _ . -, in up to three parts with '/' between them; ':' counts as '/'. -EINVAL with the reason.
 */
int store_name(const char *text, char name[STORE_NAME_MAX + 1], struct err *err);

/* The name that a guest has when none is given: debian-12 for debian/12; with the process's number when temporary. */
int store_guest_name(const char *image, bool temporary, char *buf, size_t size, struct err *err);

/* PATH of a file in an image's folder; file "" for the folder itself. */
void store_image_path(const struct store *s, const char *name, const char *file,
                      char path[STORE_PATH]);

/*
 * Read an image's manifest. `name` as store_name gives it; when there is no
 * image of that name but exactly one in its group ("debian" for "debian/12"),
 * that one is meant. -ENOENT with what there is.
 */
int store_find(const struct store *s, const char *name, struct store_image *image, struct err *err);

/* All images by name; *list is to be freed. One whose manifest cannot be read is told of through log_warn. */
int store_list(const struct store *s, struct store_image **list, size_t *n, struct err *err);

/* Guests that stand on the image: names with ", " between them, cut short where the buffer ends. Returns how many. */
unsigned store_users(const struct store *s, const char *image, char *buf, size_t size);

/*
 * A new folder under `parent` (s->images, s->guests), held by the descriptor
 * that is returned. The lock of the store must not be held.
 */
int store_begin(const struct store *s, const char *parent, char path[STORE_PATH], struct err *err);

/*
 * Give the folder its name, with all it has on stable storage. `replace`: what
 * is there goes; otherwise -EEXIST. The caller holds the store's lock.
 */
int store_commit_locked(const struct store *s, const char *parent, const char *temp,
                        const char *path, bool replace, struct err *err);

/* Take a folder away with all in it: first its name, then its files. The caller holds the store's lock. */
int store_drop_locked(const char *parent, const char *path, struct err *err);

/* Remove a tree; what cannot be removed is left. Follows no links. */
void store_remove_tree(const char *path);

/* Write what a manifest says of `image` to `path`/manifest.json. */
int store_write_manifest(const char *path, const struct store_image *image, struct err *err);

/* The sum of a file's bytes. */
int store_sum(const char *path, char hex[SHA256_HEX], struct err *err);

void store_new_id(char id[STORE_ID]);
void store_now(char text[24]);

/* Space that the files of a folder take, bytes. */
uint64_t store_space(const char *path);

/* A JSON object from a file, of at most 1 MiB. NULL with the reason, which says -ENOENT when there is none. */
struct json_t *store_json_load(const char *path, struct err *err);
int store_json_save(const char *path, struct json_t *json, struct err *err);

/* The member `key` as text that fits; -EINVAL when it is there but is no such text. Missing: "". */
int store_json_text(const struct json_t *json, const char *key, char *buf, size_t size);

#endif
