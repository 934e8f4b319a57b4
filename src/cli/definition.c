/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/definition.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/verb.h"

void definition_init(struct definition *def)
{
    memset(def, 0, sizeof(*def));
}

void definition_fini(struct definition *def)
{
    for (unsigned i = 0; i < def->count; i++)
        free(def->item[i].val);
    free(def->name);
    memset(def, 0, sizeof(*def));
}

/* Whose place a value takes; NULL: nobody's. */
static struct definition_item *item_of(struct definition *def, const struct opt_desc *opt,
                                       const char *val)
{
    for (unsigned i = 0; i < def->count; i++) {
        struct definition_item *item = &def->item[i];

        if (item->opt == opt && (!opt->many || (opt->same && opt->same(item->val, val))))
            return item;
    }
    return NULL;
}

static int put(struct definition *def, const struct opt_desc *opt, char *val, struct err *err)
{
    struct definition_item *old = item_of(def, opt, val);

    if (!old) {
        if (def->count == DEFINITION_MAX_ITEM) {
            free(val);
            return err_set(err, -E2BIG, "a definition has at most %d options", DEFINITION_MAX_ITEM);
        }
        old = &def->item[def->count++];
        *old = (struct definition_item){.opt = opt};
    }
    free(old->val);
    old->val = val;
    return 0;
}

int definition_add(void *opaque, const struct opt_desc *opt, const char *val, struct err *err)
{
    struct definition *def = opaque;
    char *copy = NULL;

    if (!strcmp(opt->name, "name")) {
        free(def->name);
        def->name = strdup(val);
        return def->name ? 0 : err_set(err, -ENOMEM, "no memory for the guest's definition");
    }
    if (opt->once)
        return 0;
    if (val) {
        copy = opt->keep ? opt->keep(val) : strdup(val);
        if (!copy)
            return err_set(err, -ENOMEM, "no memory for the guest's definition");
    }
    return put(def, opt, copy, err);
}

int definition_merge(struct definition *def, const struct definition *more, struct err *err)
{
    int r = 0;

    for (unsigned i = 0; !r && i < more->count; i++)
        r = definition_add(def, more->item[i].opt, more->item[i].val, err);
    if (!r && more->name) {
        free(def->name);
        def->name = strdup(more->name);
        r = def->name ? 0 : err_set(err, -ENOMEM, "no memory for the guest's definition");
    }
    return r;
}

int definition_apply(const struct definition *def, void *opts, size_t size, struct err *err)
{
    int r = opts_defaults(run_opts, opts, size, err);

    for (unsigned i = 0; !r && i < def->count; i++) {
        const struct definition_item *item = &def->item[i];

        r = item->opt->parse(item->opt, item->val, (char *)opts + item->opt->field, err);
    }
    return r;
}

const char *definition_get(const struct definition *def, const char *option)
{
    for (unsigned i = 0; i < def->count; i++)
        if (!strcmp(def->item[i].opt->name, option))
            return def->item[i].val ? def->item[i].val : "";
    return NULL;
}

/* ---- Writing ------------------------------------------------------------------- */

/* Length of the UTF-8 character at s that YAML can have (YAML 1.2, 5.1); 0: there is none. */
static unsigned char_length(const unsigned char *s)
{
    unsigned len = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    uint32_t c = len == 1 ? s[0] : s[0] & (0x7fu >> len);

    if (s[0] >= 0x80 && (s[0] < 0xc2 || s[0] > 0xf4))
        return 0;
    for (unsigned i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if ((len == 3 && c < 0x800) || (len == 4 && c < 0x10000) || c > 0x10ffff ||
        (c >= 0xd800 && c < 0xe000))
        return 0;
    return len;
}

/* What can stand in YAML without quotes and is nothing but text there. */
static bool is_plain(const char *s)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "_./+=,^-";

    return *s && strspn(s, safe) == strlen(s) && (isalnum((unsigned char)*s) || *s == '/');
}

static int write_value(FILE *f, const char *s, struct err *err)
{
    const unsigned char *c = (const unsigned char *)s;

    if (is_plain(s)) {
        fputs(s, f);
        return 0;
    }
    fputc('"', f);
    for (unsigned len; *c; c += len) {
        len = char_length(c);
        if (!len)
            return err_set(err, -EILSEQ, "'%.200s' is not UTF-8 and can't be kept in a definition",
                           s);
        if (len == 1 && (*c < 0x20 || *c == 0x7f))
            fprintf(f, "\\x%02x", *c);
        else if (len == 2 && c[0] == 0xc2 && c[1] < 0xa0) /* control characters, and a line end */
            fprintf(f, "\\x%02x", c[1]);
        else if (len == 3 && c[0] == 0xe2 && c[1] == 0x80 && (c[2] == 0xa8 || c[2] == 0xa9))
            fprintf(f, "\\u20%02x", c[2] == 0xa8 ? 0x28 : 0x29);
        else if (len == 3 && c[0] == 0xef && (c[1] == 0xbb || c[1] == 0xbf))
            fprintf(f, "\\u%04x", 0xf000u | (c[1] & 0x3fu) << 6 | (c[2] & 0x3fu));
        else
            fprintf(f, "%s%.*s", *c == '"' || *c == '\\' ? "\\" : "", (int)len, (const char *)c);
    }
    fputc('"', f);
    return 0;
}

static int write_item(FILE *f, const struct definition *def, unsigned i, struct err *err)
{
    const struct definition_item *item = &def->item[i];
    int r = 0;

    if (!item->val || !item->opt->many) {
        fprintf(f, "%s: ", item->opt->name);
        r = item->val ? write_value(f, item->val, err) : 0;
        fputs(item->val ? "\n" : "true\n", f);
        return r;
    }
    for (unsigned k = 0; k < i; k++)
        if (def->item[k].opt == item->opt)
            return 0; /* is in the list that begins with that one */
    fprintf(f, "%s:\n", item->opt->name);
    for (unsigned k = i; !r && k < def->count; k++) {
        if (def->item[k].opt != item->opt)
            continue;
        fputs("  - ", f);
        r = write_value(f, def->item[k].val, err);
        fputc('\n', f);
    }
    return r;
}

char *definition_text(const struct definition *def, const char *name, struct err *err)
{
    char *text = NULL;
    size_t size;
    FILE *f = open_memstream(&text, &size);
    int r = 0;

    if (!f) {
        err_set(err, -ENOMEM, "no memory for the guest's definition");
        return NULL;
    }
    fprintf(f, "lodge: %d\n", DEFINITION_VERSION);
    if (name)
        fprintf(f, "name: %s\n", name);
    for (unsigned i = 0; !r && i < def->count; i++)
        r = write_item(f, def, i, err);
    if (fclose(f) && !r)
        r = err_set(err, -ENOMEM, "no memory for the guest's definition");
    if (r) {
        free(text);
        return NULL;
    }
    return text;
}
