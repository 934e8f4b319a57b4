/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/verb.h"

#include <errno.h>
#include <string.h>

#include "cli/suggest.h"

static const struct opt_desc no_opts[] = {{NULL}};

const struct verb *verb_find(const char *name)
{
    for (const struct verb *v = verbs; v->name; v++)
        if (!strcmp(v->name, name))
            return v;
    return NULL;
}

int verb_unknown(const char *name, struct err *err)
{
    struct suggest s;

    err_set(err, -EINVAL, "there is no verb '%.80s'", name);
    suggest_init(&s, name);
    for (const struct verb *v = verbs; v->name; v++)
        suggest_try(&s, v->name);
    if (s.best)
        err_next(err, "Did you mean lodge %s?", s.best);
    return CLI_USAGE;
}

int verb_usage(const struct verb *verb, struct err *err)
{
    if (!err->next[0])
        err_next(err, "See lodge %s%s--help.", verb ? verb->name : "", verb ? " " : "");
    err_report(err);
    return CLI_USAGE;
}

int verb_parse(const struct verb *verb, void *out, size_t size, int argc, char **argv, int *nargs)
{
    return verb_parse_seen(verb, out, size, argc, argv, nargs, NULL, NULL);
}

int verb_parse_seen(const struct verb *verb, void *out, size_t size, int argc, char **argv,
                    int *nargs,
                    int (*seen)(void *opaque, const struct opt_desc *opt, const char *val,
                                struct err *err),
                    void *opaque)
{
    struct err err = {0};

    switch (opts_parse_seen(verb->opts ? verb->opts : no_opts, out, size, argc, argv, nargs, seen,
                            opaque, &err)) {
    case OPTS_HELP:
        verb_help(verb);
        return cli_flush();
    case OPTS_BAD:
        return verb_usage(verb, &err);
    case OPTS_OK:
        break;
    }
    if ((unsigned)*nargs > verb->max_args) {
        err_set(&err, -EINVAL, "lodge %s does not know what to do with '%.200s'", verb->name,
                argv[verb->max_args]);
        return verb_usage(verb, &err);
    }
    return -1;
}

int cli_flush(void)
{
    if (!fflush(stdout) && !ferror(stdout))
        return CLI_OK;
    fprintf(stderr, "lodge: cannot write to standard output: %s\n", strerror(errno));
    return CLI_FAILED;
}
