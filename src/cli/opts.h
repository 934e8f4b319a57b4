/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Command-line options described by a table. The table is expanded into
 * parsing, defaults and help text, so that these cannot disagree.
 */
#ifndef LODGE_CLI_OPTS_H
#define LODGE_CLI_OPTS_H

#include <stdio.h>

#include "base/err.h"
#include "base/types.h"

struct opt_desc {
    const char *name; /* without the dashes; NULL ends the table */
    char letter;      /* short form, 0: none */
    const char *arg;  /* name of the value in help; NULL: a flag without one */
    /* Check `val` (NULL for a flag) and store it at `field`. 0, or -EINVAL with the reason. */
    int (*parse)(const struct opt_desc *opt, const char *val, void *field, struct err *err);
    size_t field;        /* offset in the caller's structure */
    const char *def;     /* default as the user would write it; NULL: none (the field stays zero) */
    const char *choices; /* opt_choice: "one|two|three" */
    uint64_t min, max;   /* opt_uint, opt_size; max 0: no limit */
    const char *why;     /* said when the value is out of range; NULL: nothing */
    const char *help;    /* one line, or several separated by \n */
    bool many;           /* may be repeated; otherwise the last counts */
    bool
        once; /* about one run of the command: not kept in a guest's definition (cli/definition.h) */
    /* The value as it is kept there, to be freed, such as with an absolute path; NULL: as it is. */
    char *(*keep)(const char *val);
    /* Of an option that may be repeated: does `b` take the place of `a` there? NULL: it comes behind. */
    bool (*same)(const char *a, const char *b);
};

/* Parsers, with the type of the field. */
int opt_switch(const struct opt_desc *opt, const char *val, void *field,
               struct err *err); /* bool: on or true, off or false */
int opt_flag(const struct opt_desc *opt, const char *val, void *field, struct err *err); /* bool */
int opt_string(const struct opt_desc *opt, const char *val, void *field,
               struct err *err); /* const char * */
int opt_file(const struct opt_desc *opt, const char *val, void *field,
             struct err *err); /* const char *, not empty */
int opt_choice(const struct opt_desc *opt, const char *val, void *field,
               struct err *err); /* const char * */
int opt_uint(const struct opt_desc *opt, const char *val, void *field,
             struct err *err); /* unsigned */
int opt_size(const struct opt_desc *opt, const char *val, void *field,
             struct err *err); /* uint64_t, bytes */
int opt_key(const struct opt_desc *opt, const char *val, void *field,
            struct err *err); /* int: control byte, -1 none */

enum opts_result { OPTS_OK, OPTS_HELP, OPTS_BAD };

/*
 * Clear the `size` bytes at `out`, fill in defaults, then read argv[0..argc).
 * Accepts --name VALUE, --name=VALUE, -n VALUE, -nVALUE, joined flags, `--`,
 * and -h/--help in every table. The last of repeated options counts.
 * Positional arguments are moved to the front, *nargs of them. Values are not
 * copied: they live as long as argv.
 */
enum opts_result opts_parse(const struct opt_desc *table, void *out, size_t size, int argc,
                            char **argv, int *nargs, struct err *err);

/* The same, and tell `seen` of each option that was given, in their order. A negative errno from it ends the parsing. */
enum opts_result opts_parse_seen(const struct opt_desc *table, void *out, size_t size, int argc,
                                 char **argv, int *nargs,
                                 int (*seen)(void *opaque, const struct opt_desc *opt,
                                             const char *val, struct err *err),
                                 void *opaque, struct err *err);

/* Clear `out` and fill in the defaults alone. */
int opts_defaults(const struct opt_desc *table, void *out, size_t size, struct err *err);

/* The option of that name, of `len` bytes; NULL: there is none. */
const struct opt_desc *opts_find(const struct opt_desc *table, const char *name, size_t len);

void opts_print_help(const struct opt_desc *table, FILE *out);

#endif
