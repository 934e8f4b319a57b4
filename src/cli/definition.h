/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest's definition: the options of `lodge run` that make up the guest, as the user wrote them. In a file it is YAML:
 *
 *     lodge: 1
 *     memory: 1G
 *     disk:
 *       - /srv/root.qcow2
 *       - /srv/data.img,ro
 *
 * that is, a mapping with the options' names as keys. An option that may be repeated takes a list, a flag true or false.
 */
#ifndef LODGE_CLI_DEFINITION_H
#define LODGE_CLI_DEFINITION_H

#include <stdio.h>

#include "base/err.h"
#include "base/types.h"
#include "cli/opts.h"

#define DEFINITION_VERSION  1
#define DEFINITION_MAX      65536u /* bytes of a file */
#define DEFINITION_MAX_ITEM 256

struct definition_item {
    const struct opt_desc *opt; /* of run_opts */
    char *val;                  /* NULL: a flag */
    int line, column;           /* where it was, from 1; 0: not in a file */
};

struct definition {
    unsigned count;
    struct definition_item item[DEFINITION_MAX_ITEM];
    char *name; /* NULL: it has none */
};

void definition_init(struct definition *def);
void definition_fini(struct definition *def);

/* Take in an option, whose value was checked; it replaces an earlier one unless it may be repeated. For opts_parse_seen. */
int definition_add(void *def, const struct opt_desc *opt, const char *val, struct err *err);

/* Options of `more` replace those of `def`, or come behind them when they may be repeated. */
int definition_merge(struct definition *def, const struct definition *more, struct err *err);

/*
 * Read YAML. -EINVAL with a message that begins with WHERE:LINE:COLUMN when it is none, or no definition that `lodge run`
 * would take.
 */
int definition_parse(struct definition *def, const char *text, size_t len, const char *where,
                     struct err *err);

/* The same of a file; "-" is standard input. */
int definition_read(struct definition *def, const char *path, struct err *err);

/* Fill the options of run (a struct run_opts) from it. Their strings live as long as `def`. */
int definition_apply(const struct definition *def, void *opts, size_t size, struct err *err);

/* As text that definition_parse reads, to be freed; with the name if that is not NULL. */
char *definition_text(const struct definition *def, const char *name, struct err *err);

/* The value of an option, "" for a flag; NULL when it is not there. The first one of several. */
const char *definition_get(const struct definition *def, const char *option);

#endif
