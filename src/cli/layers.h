/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The layers of a guest's disks. So that what a disk holds at one moment can be kept, for a snapshot, a clone or a fork, the
 * guest goes on in a qcow2 overlay and the image so far is written no more. A guest has a directory for that:
 *
 *     guests/NAME/disks   of its state (cli/state.h), or of one made from an image, disks/NAME of the store (cli/store.h)
 *     .../disks.json      which file each disk is now; without an entry it is the one that the definition names
 *     .../layer-ID.qcow2  layers; ID is random, so a layer has the same name wherever it is
 *
 * A layer names the one below it without a directory when both are in the same one. Where another guest stands on a layer
 * it has a hard link to it, and to all below, in its own directory: so each directory is complete, can be renamed, moved to
 * the trash and deleted, and a layer's space is free once nobody has it any more, without anybody counting.
 *
 * A frozen layer is never written again. While it is open beneath an overlay the lock of a reader says so (block/lock.h);
 * when it is not, its mode: it has no write permission, and Lodge takes that for a no even as root. That is also done to
 * files of the user's that are frozen. (A block device has only the lock.)
 *
 * Whoever changes the directory is the guest's process or holds the guest's name. An overlay comes into disks.json before the
 * guest writes to it, and while it is empty it and what it stands on are the same disk: so a process killed at any moment
 * leaves a guest with all its data.
 */
#ifndef LODGE_CLI_LAYERS_H
#define LODGE_CLI_LAYERS_H

#include <jansson.h>

#include "cli/passing.h"
#include "cli/store.h"
#include "core/vm.h"

#define LAYERS_FILE "disks.json"
#define LAYERS_NAME 48 /* of a layer's file */

struct layer {
    char *file; /* what the definition names: an absolute path, or a name in the directory */
    char top[LAYERS_NAME];
    char *path; /* of top */
};

struct layers {
    char dir[STORE_PATH];
    unsigned count;
    struct layer disk[VM_MAX_DISKS];
};

/* Read what is in `dir`; nothing when it, or its disks.json, is not there. -EINVAL for a file that is none of ours. */
int layers_load(struct layers *l, const char *dir, struct err *err);
void layers_fini(struct layers *l); /* idempotent on a zeroed structure */

/* What the definition names becomes what it is now. The strings are those of `l`. */
void layers_apply(const struct layers *l, struct vm_disk *disk, unsigned count);

/*
 * Call `fn` for the layer `name` in `dir`, of that format, and for each below it that is there, until it does not return 0; what
 * it returned, or the error of a layer that cannot be read. They may be in use.
 */
int layers_each(const char *dir, const char *name, const char *format,
                int (*fn)(void *opaque, const char *name, struct err *err), void *opaque,
                struct err *err);

/* Delete the layers in `dir` that no disk of disks.json stands on: a restore leaves them, and what was killed. With the name held. */
void layers_sweep(const struct layers *l);

/* ---- Going on in new layers ------------------------------------------------------------ */

struct layers_step {
    unsigned disk;         /* number, as given */
    char *below;           /* path of what is frozen */
    char format[8];        /* of it */
    char was[LAYERS_NAME]; /* the top before; empty: what the definition names */
    struct layer *layer;   /* of which `path` is new */
    bool done;             /* the disk has gone on there */
};

struct layers_change {
    struct layers *l;
    unsigned count;
    struct layers_step step[VM_MAX_DISKS];
};

/*
 * Make an empty overlay for each of the disks that is written to, and say in disks.json that they are used. `disk` is as it is
 * now. The guest may run. -ENOTSUP for one that has no file; after a failure all is as before.
 */
int layers_begin(struct layers *l, const struct vm_disk *disk, unsigned count,
                 struct layers_change *c, struct err *err);

/* Have the VM go on there (vm_disk_overlay, whose conditions hold). What has failed is told by layers_end. */
int layers_switch(struct layers_change *c, struct vm *vm, struct err *err);

/*
 * Freeze the files of the steps that are done; take back the others. 0, or the reason why disks.json could not be put
 * right, which harms nothing. c->step stays readable until layers_change_fini.
 */
int layers_end(struct layers_change *c, struct err *err);
void layers_change_fini(struct layers_change *c);

/* What layers_live says of them. */
int layers_describe(const struct layers_change *c, json_t *result, struct err *err);

/*
 * All of it for a guest that runs, on a thread that may wait. In `result`, with the rights of the caller: "disks", an
 * array of objects with file, below and format, as in struct layer and layers_step.
 */
int layers_live(struct layers *l, struct vm *vm, json_t *result, struct err *err);

/* ---- Standing on the layers of another guest -------------------------------------------- */

/*
 * The same without a VM, for a guest that does not run, whose name the caller holds: what its disks are now is frozen, and
 * it has new layers unless its present ones are empty. `disk` is what the definition names.
 */
int layers_still(struct layers *l, const struct vm_disk *disk, unsigned count, json_t *result,
                 struct err *err);

/*
 * Fill `dir`, a new guest's directory, with overlays on what such a result says, links to the layers below them from
 * `from`, and disks.json. `full`: with images that stand on nothing.
 */
int layers_copy(const char *from, const json_t *result, const char *dir, bool full,
                struct err *err);

/*
 * The same in steps, for a guest that is to go on with other disks: with all that takes room on the disk done before
 * anything is given up. layers_stage leaves what disks.json is to be in a file beside it, and may be called while the guest
 * runs. layers_adopt, with the name held, has it count; layers_return puts back what counted before, and needs no room.
 * layers_staged_fini, in any case, deletes what never counted; what counted before is swept with the next start.
 */
struct layers_staged {
    struct layers to;
    char file[STORE_PATH + PASSING_NAME];
    bool adopted, replaced; /* it counts; there was another before */
};
int layers_stage(struct layers_staged *s, const char *from, const json_t *result, const char *dir,
                 struct err *err);
int layers_adopt(struct layers_staged *s, struct err *err);
int layers_return(struct layers_staged *s, struct err *err);
void layers_staged_fini(struct layers_staged *s);

/*
 * Links in `dir`, which is made, to the layers in `from` that `result` says and to those below them; from then on it
 * calls them by their names alone.
 */
int layers_link(const char *from, json_t *result, const char *dir, struct err *err);

#endif
