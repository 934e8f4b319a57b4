/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest that is made from an image: ROOT/disks/NAME with a qcow2 overlay on
 * the image's disk, a seed disk with name, user and keys, and guest.json. It
 * stays for the next run of that name, unless it is temporary: then its folder
 * never comes to a name, so that whatever ends the run, it goes.
 */
#ifndef LODGE_CLI_GUEST_IMAGE_H
#define LODGE_CLI_GUEST_IMAGE_H

#include "cli/store.h"

#define GUEST_SEED_SERIAL "lodge-seed"
#define GUEST_DISK        "disk.qcow2" /* the first one, in the folder */

struct guest_image_config {
    const char *image; /* as the user wrote it */
    const char *name;  /* of the guest */
    bool temporary;
    bool has_kernel; /* the image need not have one */
    /* For a disk that is made new; NULL: not given. */
    const char *user, *ssh_key, *user_data;
};

struct guest_image {
    struct store store;
    struct store_image image;
    char name[64], user[33];
    char dir[STORE_PATH];
    int hold; /* keeps others from the folder; -1: nothing is open */
    bool temporary;
    bool fresh; /* the disk was made now */
    bool seeded;
    char kernel[STORE_PATH], initrd[STORE_PATH]; /* empty: none */
    char disk[STORE_PATH], seed[STORE_PATH];
};

/*
 * Find the image, and find or make the guest's disk on it. -ENOENT there is no
 * such image, -EBUSY the guest is running, -EEXIST the name's disk stands on
 * another image, others from the system. Nothing is held after a failure.
 */
int guest_image_open(struct guest_image *g, const struct guest_image_config *cfg, struct err *err);

/* Note for guest_ssh_find where this guest's ssh port is. */
int guest_image_reachable(struct guest_image *g, const char *addr, unsigned port, struct err *err);

/* Let go of it; a temporary one is removed, and one that was made for a run that failed to start. Idempotent. */
void guest_image_close(struct guest_image *g, bool failed);

/*
 * Make what guest `from`, whose name or folder somebody holds, has of an image for a new guest: a seed with a new ID, and
 * what `fill` puts into the folder (cli/layers.h). cfg: of the new guest,
 * whose name it has; guest_image_move takes it away again.
 */
int guest_image_clone(const char *from, const struct guest_image_config *cfg,
                      int (*fill)(void *opaque, const char *from, const char *dir, struct err *err),
                      void *opaque, struct err *err);

/* The folder of a guest that is made from an image. */
int guest_image_dir(const char *name, char dir[STORE_PATH], struct err *err);

/*
 * A guest gets another name, or goes to the trash or comes from it: guest_image_note before, guest_image_move afterwards.
 * Should the process be killed in between, the next who looks for a disk moves this one first. The caller holds the names.
 */
int guest_image_note(const char *name, bool trash, struct err *err);

/* The guest has another name now, or is gone for good (`to` NULL): so is its disk, if it has one. The caller holds the names. */
int guest_image_move(const char *from, const char *to, struct err *err);

/* Throw a guest's disk away. -ENOENT it has none, -EBUSY it is running. */
int guest_image_discard(const struct store *s, const char *name, struct err *err);

/* How to reach a running guest. */
struct guest_ssh {
    char dir[STORE_PATH], key[STORE_PATH];
    char user[33], addr[64];
    unsigned port;
};

/* -ENOENT: no guest of this name runs from an image; -ENOTCONN: it has no ssh port that is published. */
int guest_ssh_find(const struct store *s, const char *name, struct guest_ssh *ssh, struct err *err);

/* ---- guest_keys.c ------------------------------------------------------------------------- */

/* ROOT/key/id_ed25519, made when it is missing. */
int guest_key(const struct store *s, char path[STORE_PATH], struct err *err);

/*
 * Public keys, a line each, malloc'd: Lodge's own, and those in `file`, or
 * without one (NULL) those in ~/.ssh/id_*.pub. -EINVAL: `file` has no public key.
 */
int guest_public_keys(const struct store *s, const char *file, char **keys, struct err *err);

/* A file of at most `max` bytes as text with a NUL behind it, malloc'd. */
int guest_read_file(const char *path, size_t max, char **text, size_t *len, struct err *err);

/* ---- guest_seed.c ------------------------------------------------------------------------- */

struct guest_seed {
    const char *id, *name, *user;
    const char *keys;      /* lines */
    const char *user_data; /* NULL: made from the others */
    size_t user_data_len;
};

/* The seed disk, for our own images and for cloud-init's NoCloud, at `path`. */
int guest_seed_write(const char *path, const struct guest_seed *seed, struct err *err);

#endif
