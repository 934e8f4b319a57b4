/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is kept of a guest on disk: one directory each,
 *
 *     guests/NAME/guest.yaml     its definition (cli/definition.h)
 *     guests/NAME/called         while it is renamed: state_note
 *     guests/NAME/last.json      how its last run began and ended
 *     guests/NAME/console.log    what its console said, the last MiB; before that, console.log.old
 *     guests/NAME/messages       what Lodge had to say during detached runs
 *     guests/NAME/disks/         layers of its disks (cli/layers.h)
 *     trash/NAME~N/              the same of a guest that was removed
 *
 * Files are replaced and guests made, removed and renamed by one rename each, with everything on disk before: after a
 * crash a guest is there as before or as afterwards. What has a name with a dot before it is on its way in or out: of a
 * process that may have the guest's name or not (cli/passing.h), or of who has it (STATE_LAST_NEW, SAVED_ASIDE), so that
 * it was left by a killed process if somebody else has the name now.
 *
 * Who changes a guest's directory as such (removes it, renames it) holds its name (registry_claim), so that it does not run.
 */
#ifndef LODGE_CLI_STATE_H
#define LODGE_CLI_STATE_H

#include <jansson.h>

#include "base/err.h"
#include "base/types.h"

struct definition;

#define STATE_DEFINITION "guest.yaml"
#define STATE_LAST       "last.json"
#define STATE_LAST_NEW   ".last.json.new" /* before it is on disk */
#define STATE_CONSOLE    "console.log"
#define STATE_MESSAGES   "messages"
#define STATE_DISKS      "disks"
#define STATE_NOTE       "called"
#define STATE_PATH       512

/* Where all this is: $LODGE_STATE_DIR, else /var/lib/lodge for root, else $XDG_STATE_HOME/lodge or ~/.local/state/lodge. */
int state_base(char *buf, size_t size, struct err *err);

/* The path of a guest's directory, or of `file` in it. -ENAMETOOLONG. */
int state_path(char buf[STATE_PATH], const char *name, const char *file, struct err *err);

bool state_exists(const char *name);

/* Keep a new guest. -EEXIST when there is one of that name. */
int state_create(const char *name, const struct definition *def, struct err *err);

/* The same, with what `fill` (NULL: nothing) puts into the directory, which comes to its name afterwards. */
int state_create_filled(const char *name, const struct definition *def,
                        int (*fill)(void *opaque, const char *dir, struct err *err), void *opaque,
                        struct err *err);

/* Replace or read a guest's definition; -ENOENT when there is no such guest. */
int state_write(const char *name, const struct definition *def, struct err *err);
int state_read(const char *name, struct definition *def, struct err *err);

/*
 * How the last run went: an object, or NULL when the guest has not run. Who writes holds the name. Errors in writing are the
 * caller's to ignore.
 */
int state_write_last(const char *name, const json_t *last, struct err *err);
json_t *state_read_last(const char *name);

/* To the trash; *as (may be NULL) is what it is called there. state_drop does not keep it. The caller holds the name. */
int state_remove(const char *name, char as[STATE_PATH], struct err *err);
int state_drop(const char *name, struct err *err);

/* -EEXIST when `to` is there. The caller holds both names. */
int state_rename(const char *from, const char *to, struct err *err);

/* Take the newest NAME~N, or the one given in full, from the trash to `name`, whose name the caller holds. */
int state_restore(const char *trashed, const char *name, struct err *err);

/*
 * What else goes by a guest's name, elsewhere (cli/guest_image.h), is renamed after the guest's directory. A note in that
 * says what it is called, so that whoever comes by can do what a killed process has left undone.
 *
 * state_note: the guest, or NAME~N in the trash, is about to be renamed. state_each_renamed: fn for each that was renamed
 * and still has its note, which is deleted when fn returns 0.
 */
int state_note(const char *name, bool trash, struct err *err);
void state_each_renamed(int (*fn)(void *opaque, const char *from, const char *to), void *opaque);

/* Names of all guests, or in the trash, sorted; to be freed with state_names_free. */
struct state_names {
    unsigned count;
    char **name;
};
int state_list(struct state_names *names, bool trash, struct err *err);
void state_names_free(struct state_names *names);
bool state_names_add(struct state_names *names,
                     const char *name); /* unless it is there; false: no memory */

/* Delete one from the trash, and what crashes left on its way in or out. */
int state_prune(const char *trashed, struct err *err);
void state_sweep(void);

#endif
