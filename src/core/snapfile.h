/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The container of a saved state (docs/snapshot.md): named sections with checksums. Knows no device. */
#ifndef LODGE_CORE_SNAPFILE_H
#define LODGE_CORE_SNAPFILE_H

#include "base/err.h"
#include "base/fields.h"
#include "base/types.h"

#define SNAPFILE_NAME     24      /* bytes of a section's name, with at least one 0 */
#define SNAPFILE_MAX      MIB(16) /* of a file: no state comes near it */
#define SNAPFILE_SECTIONS 1024u   /* in a file */

/* ---- Writing: all in memory, then at once ---------------------------------------- */

struct snapfile_out {
    uint8_t *buf;
    size_t len, room;
    unsigned sections;
    bool failed; /* no memory */
};

void snapfile_begin(struct snapfile_out *out);
/* Add a section of the numbers in `object`, or of `len` bytes. What cannot be done is told by snapfile_finish. */
void snapfile_add(struct snapfile_out *out, const char *name, unsigned index,
                  const struct field *table, const void *object);
void snapfile_add_bytes(struct snapfile_out *out, const char *name, unsigned index,
                        const void *data, size_t len);
/* Complete it and write it to the start of `fd`. Frees what `out` holds in any case. */
int snapfile_finish(struct snapfile_out *out, int fd, struct err *err);

/* ---- Reading ---------------------------------------------------------------------- */

struct snapfile_section {
    char name[SNAPFILE_NAME];
    unsigned index;
    const uint8_t *data;
    size_t len;
    bool used;
};

struct snapfile {
    uint8_t *buf;
    size_t len;
    unsigned count;
    struct snapfile_section *section;
};

/*
 * Read the file that `fd` is, and check all but what is in the sections: -EINVAL when it is not one, is another
 * version's, is damaged or cut off. On failure nothing is held.
 */
int snapfile_read(struct snapfile *f, int fd, struct err *err);
/* The same for bytes in memory, which are copied. */
int snapfile_parse(struct snapfile *f, const void *data, size_t len, struct err *err);
void snapfile_fini(struct snapfile *f); /* idempotent on a zeroed structure */

/* Section `name` of `index`; NULL: there is none. Counts as used. */
const struct snapfile_section *snapfile_find(struct snapfile *f, const char *name, unsigned index);

/* Its numbers, all of which it has to have; -EINVAL with the reason when it is missing or one is wrong. */
int snapfile_get(struct snapfile *f, const char *name, unsigned index, const struct field *table,
                 void *object, struct err *err);

/* -EINVAL when there is a section that nobody has asked for. */
int snapfile_all_used(const struct snapfile *f, struct err *err);

#endif
