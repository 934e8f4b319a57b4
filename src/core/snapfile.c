/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/snapfile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crc32c.h"

#define MAGIC   "LODGESNP"
#define VERSION 2

struct header {
    char magic[8];
    uint32_t version, sections;
    uint64_t size; /* of the file */
    uint32_t zero;
    uint32_t sum; /* of the 28 bytes before */
};

struct section_header {
    char name[SNAPFILE_NAME];
    uint32_t index, zero;
    uint64_t len;      /* of the data that follow */
    uint32_t data_sum; /* of them */
    uint32_t sum;      /* of the 44 bytes before */
};

_Static_assert(sizeof(struct header) == 32, "docs/snapshot.md");
_Static_assert(sizeof(struct section_header) == 48, "docs/snapshot.md");

/* ---- Writing ----------------------------------------------------------------------- */

static void *out_room(struct snapfile_out *out, size_t len)
{
    size_t room = out->room ? out->room : KIB(64);
    uint8_t *buf;

    while (room - out->len < len)
        room *= 2;
    if (room != out->room) {
        buf = realloc(out->buf, room);
        if (!buf) {
            out->failed = true;
            return NULL;
        }
        out->buf = buf;
        out->room = room;
    }
    out->len += len;
    return out->buf + out->len - len;
}

void snapfile_begin(struct snapfile_out *out)
{
    *out = (struct snapfile_out){0};
    out_room(out, sizeof(struct header));
}

/* Where the section's data go; `seal` completes it. */
static uint8_t *section_room(struct snapfile_out *out, size_t len)
{
    uint8_t *p = out->failed ? NULL : out_room(out, sizeof(struct section_header) + len);

    return p ? p + sizeof(struct section_header) : NULL;
}

static void section_seal(struct snapfile_out *out, const char *name, unsigned index, uint8_t *data,
                         size_t len)
{
    struct section_header h = {.index = index, .len = len, .data_sum = crc32c(0, data, len)};

    memcpy(h.name, name, strnlen(name, sizeof(h.name) - 1));
    h.sum = crc32c(0, &h, offsetof(struct section_header, sum));
    memcpy(data - sizeof(h), &h, sizeof(h));
    out->sections++;
}

void snapfile_add(struct snapfile_out *out, const char *name, unsigned index,
                  const struct field *table, const void *object)
{
    size_t len = fields_size(table);
    uint8_t *data = section_room(out, len);

    if (!data)
        return;
    fields_put(table, object, data);
    section_seal(out, name, index, data, len);
}

void snapfile_add_bytes(struct snapfile_out *out, const char *name, unsigned index,
                        const void *bytes, size_t len)
{
    uint8_t *data = section_room(out, len);

    if (!data)
        return;
    memcpy(data, bytes, len);
    section_seal(out, name, index, data, len);
}

static int write_all(int fd, const uint8_t *p, size_t len)
{
    off_t at = 0;

    while (len) {
        ssize_t n = pwrite(fd, p, len, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        p += n;
        len -= (size_t)n;
        at += n;
    }
    return 0;
}

int snapfile_finish(struct snapfile_out *out, int fd, struct err *err)
{
    struct header h = {.version = VERSION, .sections = out->sections, .size = out->len};
    int code = out->failed ? -ENOMEM : 0;

    if (!code) {
        memcpy(h.magic, MAGIC, sizeof(h.magic));
        h.sum = crc32c(0, &h, offsetof(struct header, sum));
        memcpy(out->buf, &h, sizeof(h));
        code = write_all(fd, out->buf, out->len);
    }
    free(out->buf);
    *out = (struct snapfile_out){0};
    return code ? err_set(err, code, "cannot write the guest's state: %s", strerror(-code)) : 0;
}

/* ---- Reading ------------------------------------------------------------------------ */

static int damaged(struct err *err, const char *why)
{
    err_set(err, -EINVAL, "the saved state is damaged: %s", why);
    return err_next(err, "It cannot be used. Restore another snapshot, or start the guest anew.");
}

static int header_check(const struct snapfile *f, unsigned *sections, struct err *err)
{
    struct header h;

    if (f->len < sizeof(h))
        return damaged(err, "the file is too short");
    memcpy(&h, f->buf, sizeof(h));
    if (memcmp(h.magic, MAGIC, sizeof(h.magic)))
        return err_set(err, -EINVAL, "this is no saved state of a guest");
    if (h.version != VERSION) {
        err_set(err, -EINVAL, "the saved state has version %u of its format; this program knows %d",
                h.version, VERSION);
        return err_next(err, "Restore it with the version of lodge that has saved it.");
    }
    if (h.sum != crc32c(0, &h, offsetof(struct header, sum)))
        return damaged(err, "its header was changed");
    if (h.size != f->len)
        return damaged(err,
                       h.size > f->len ? "its end is missing" : "there is something behind it");
    if (h.sections > SNAPFILE_SECTIONS)
        return damaged(err, "it has too many sections");
    *sections = h.sections;
    return 0;
}

/* It may be shown to somebody. */
static bool name_is_right(const char name[SNAPFILE_NAME])
{
    size_t len = strnlen(name, SNAPFILE_NAME);

    for (size_t i = len; i < SNAPFILE_NAME; i++)
        if (name[i])
            return false;
    return len && len < SNAPFILE_NAME &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

static int section_parse(struct snapfile *f, size_t *at, struct err *err)
{
    struct snapfile_section *s = &f->section[f->count];
    struct section_header h;

    if (f->len - *at < sizeof(h))
        return damaged(err, "a section is cut off");
    memcpy(&h, f->buf + *at, sizeof(h));
    if (h.sum != crc32c(0, &h, offsetof(struct section_header, sum)) || !name_is_right(h.name))
        return damaged(err, "the head of a section was changed");
    *at += sizeof(h);
    if (h.len > f->len - *at)
        return damaged(err, "a section is cut off");
    *s = (struct snapfile_section){.index = h.index, .data = f->buf + *at, .len = h.len};
    memcpy(s->name, h.name, sizeof(s->name));
    if (h.data_sum != crc32c(0, s->data, s->len)) {
        err_set(err, -EINVAL, "the saved state is damaged: section '%s' was changed", s->name);
        return err_next(err,
                        "It cannot be used. Restore another snapshot, or start the guest anew.");
    }
    for (unsigned i = 0; i < f->count; i++)
        if (f->section[i].index == s->index && !strcmp(f->section[i].name, s->name))
            return damaged(err, "a section is there twice");
    *at += s->len;
    f->count++;
    return 0;
}

static int sections_parse(struct snapfile *f, struct err *err)
{
    size_t at = sizeof(struct header);
    unsigned sections = 0;
    int code = header_check(f, &sections, err);

    if (code < 0)
        return code;
    f->section = calloc(sections + 1, sizeof(*f->section));
    if (!f->section)
        return err_set(err, -ENOMEM, "no memory for a saved state");
    while (!code && f->count < sections)
        code = section_parse(f, &at, err);
    if (!code && at != f->len)
        code = damaged(err, "there is something behind its last section");
    return code;
}

static int file_load(struct snapfile *f, int fd, struct err *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_set(err, -errno, "cannot read the saved state: %s", strerror(errno));
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > SNAPFILE_MAX)
        return err_set(err, -EINVAL, "this is no saved state of a guest");
    f->buf = malloc((size_t)st.st_size + 1);
    if (!f->buf)
        return err_set(err, -ENOMEM, "no memory for a saved state");
    while (f->len < (size_t)st.st_size) {
        ssize_t n = pread(fd, f->buf + f->len, (size_t)st.st_size - f->len, (off_t)f->len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, -errno, "cannot read the saved state: %s", strerror(errno));
        if (!n)
            break;
        f->len += (size_t)n;
    }
    return 0;
}

int snapfile_read(struct snapfile *f, int fd, struct err *err)
{
    int code;

    *f = (struct snapfile){0};
    code = file_load(f, fd, err);
    if (!code)
        code = sections_parse(f, err);
    if (code < 0)
        snapfile_fini(f);
    return code;
}

int snapfile_parse(struct snapfile *f, const void *data, size_t len, struct err *err)
{
    int code;

    *f = (struct snapfile){.buf = malloc(len + 1), .len = len};
    if (!f->buf)
        return err_set(err, -ENOMEM, "no memory for a saved state");
    memcpy(f->buf, data, len);
    code = sections_parse(f, err);
    if (code < 0)
        snapfile_fini(f);
    return code;
}

void snapfile_fini(struct snapfile *f)
{
    free(f->section);
    free(f->buf);
    *f = (struct snapfile){0};
}

const struct snapfile_section *snapfile_find(struct snapfile *f, const char *name, unsigned index)
{
    for (unsigned i = 0; i < f->count; i++) {
        struct snapfile_section *s = &f->section[i];

        if (s->index == index && !strcmp(s->name, name)) {
            s->used = true;
            return s;
        }
    }
    return NULL;
}

int snapfile_get(struct snapfile *f, const char *name, unsigned index, const struct field *table,
                 void *object, struct err *err)
{
    const struct snapfile_section *s = snapfile_find(f, name, index);
    const struct field *wrong;

    if (!s)
        return err_set(err, -EINVAL, "the saved state has no section '%s' %u", name, index);
    if (s->len != fields_size(table))
        return err_set(err, -EINVAL, "section '%s' of the saved state has %zu bytes instead of %zu",
                       name, s->len, fields_size(table));
    wrong = fields_get(table, object, s->data);
    return wrong ? err_set(err, -EINVAL, "section '%s' of the saved state: %s cannot be right",
                           name, wrong->name)
                 : 0;
}

int snapfile_all_used(const struct snapfile *f, struct err *err)
{
    for (unsigned i = 0; i < f->count; i++)
        if (!f->section[i].used) {
            err_set(err, -EINVAL, "the saved state is of a guest with more than this one has: '%s'",
                    f->section[i].name);
            return err_next(err,
                            "Give the guest what it had: the same disks, networks and options.");
        }
    return 0;
}
