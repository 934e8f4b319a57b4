/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/opts.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/size.h"
#include "cli/suggest.h"

int opt_flag(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    *(bool *)field = true;
    return 0;
}

int opt_string(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    *(const char **)field = val;
    return 0;
}

int opt_file(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    if (!*val)
        return err_set(err, -EINVAL, "--%s takes the name of a file, not an empty one", opt->name);
    *(const char **)field = val;
    return 0;
}

int opt_choice(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    size_t len = strlen(val);

    for (const char *c = opt->choices; c; c = strchr(c, '|') ? strchr(c, '|') + 1 : NULL) {
        if (len && strcspn(c, "|") == len && !memcmp(c, val, len)) {
            *(const char **)field = val;
            return 0;
        }
    }
    return err_set(err, -EINVAL, "--%s takes one of %s, not '%s'", opt->name, opt->choices, val);
}

int opt_uint(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    unsigned long n = 0;
    char *end = NULL;

    errno = 0;
    if (isdigit((unsigned char)*val))
        n = strtoul(val, &end, 10);
    if (end && !*end && !errno && n >= opt->min && n <= opt->max) {
        *(unsigned *)field = (unsigned)n;
        return 0;
    }
    err_set(err, -EINVAL, "--%s takes a number from %llu to %llu, not '%s'", opt->name,
            (unsigned long long)opt->min, (unsigned long long)opt->max, val);
    if (opt->why)
        err_next(err, "%s", opt->why);
    return -EINVAL;
}

int opt_switch(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    bool on = !strcmp(val, "on") || !strcmp(val, "true");

    if (!on && strcmp(val, "off") && strcmp(val, "false")) {
        err_set(err, -EINVAL, "--%s takes on or off, not '%.80s'", opt->name, val);
        return -EINVAL;
    }
    *(bool *)field = on;
    return 0;
}

int opt_size(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    char limit[SIZE_TEXT];
    uint64_t n;

    if (size_parse(val, &n)) {
        err_set(err, -EINVAL, "--%s takes a size, not '%s'", opt->name, val);
        err_next(err, "Write it like 512M, 2GiB or 1.5G; a plain number is MiB.");
        return -EINVAL;
    }
    if (n >= opt->min && (!opt->max || n <= opt->max)) {
        *(uint64_t *)field = n;
        return 0;
    }
    err_set(err, -EINVAL, "--%s takes %s %s, not '%s'", opt->name,
            n < opt->min ? "at least" : "at most",
            size_format(n < opt->min ? opt->min : opt->max, limit), val);
    if (opt->why)
        err_next(err, "%s", opt->why);
    return -EINVAL;
}

int opt_key(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    const char *key = val[0] == '^' ? val + 1 : !strncasecmp(val, "ctrl-", 5) ? val + 5 : "";
    int c = toupper((unsigned char)key[0]);

    if (!strcmp(val, "none")) {
        *(int *)field = -1;
        return 0;
    }
    if (c >= '@' && c <= '_' && !key[1]) {
        *(int *)field = c & 0x1f;
        return 0;
    }
    err_set(err, -EINVAL, "--%s takes a control key or none, not '%s'", opt->name, val);
    err_next(err, "Write it like ^] or ctrl-a; one of @ A-Z [ \\ ] ^ _ goes with ctrl.");
    return -EINVAL;
}

const struct opt_desc *opts_find(const struct opt_desc *table, const char *name, size_t len)
{
    for (const struct opt_desc *o = table; o->name; o++)
        if (strlen(o->name) == len && !memcmp(o->name, name, len))
            return o;
    return NULL;
}

static const struct opt_desc *find_short(const struct opt_desc *table, char letter)
{
    for (const struct opt_desc *o = table; o->name; o++)
        if (o->letter && o->letter == letter)
            return o;
    return NULL;
}

struct parser {
    const struct opt_desc *table;
    char *out;
    int argc, at;
    char **argv;
    int (*seen)(void *opaque, const struct opt_desc *opt, const char *val, struct err *err);
    void *opaque;
    struct err *err;
};

static enum opts_result store(struct parser *p, const struct opt_desc *o, const char *val)
{
    if (o->parse(o, val, p->out + o->field, p->err))
        return OPTS_BAD;
    return p->seen && p->seen(p->opaque, o, val, p->err) ? OPTS_BAD : OPTS_OK;
}

static enum opts_result need_value(struct parser *p, const struct opt_desc *o)
{
    if (p->at < p->argc)
        return store(p, o, p->argv[p->at++]);
    err_set(p->err, -EINVAL, "--%s needs a value: %s", o->name, o->arg);
    return OPTS_BAD;
}

static enum opts_result unknown_long(struct parser *p, const char *name, size_t len)
{
    char word[64];
    struct suggest s;

    snprintf(word, sizeof(word), "%.*s", (int)(len < sizeof(word) ? len : sizeof(word) - 1), name);
    err_set(p->err, -EINVAL, "unknown option --%s", word);
    suggest_init(&s, word);
    for (const struct opt_desc *o = p->table; o->name; o++)
        suggest_try(&s, o->name);
    suggest_try(&s, "help");
    if (s.best)
        err_next(p->err, "Did you mean --%s?", s.best);
    return OPTS_BAD;
}

static enum opts_result parse_long(struct parser *p, const char *arg)
{
    size_t len = strcspn(arg, "=");
    const struct opt_desc *o = opts_find(p->table, arg, len);

    if (!strcmp(arg, "help"))
        return OPTS_HELP;
    if (!o)
        return unknown_long(p, arg, len);
    if (!o->arg && arg[len]) {
        err_set(p->err, -EINVAL, "--%s takes no value", o->name);
        return OPTS_BAD;
    }
    if (!o->arg)
        return store(p, o, NULL);
    return arg[len] ? store(p, o, arg + len + 1) : need_value(p, o);
}

static enum opts_result parse_short(struct parser *p, const char *arg)
{
    for (; *arg; arg++) {
        const struct opt_desc *o = find_short(p->table, *arg);
        enum opts_result r;

        if (*arg == 'h')
            return OPTS_HELP;
        if (!o) {
            err_set(p->err, -EINVAL, "unknown option -%c", *arg);
            return OPTS_BAD;
        }
        if (o->arg)
            return arg[1] ? store(p, o, arg + 1 + (arg[1] == '=')) : need_value(p, o);
        r = store(p, o, NULL);
        if (r != OPTS_OK)
            return r;
    }
    return OPTS_OK;
}

int opts_defaults(const struct opt_desc *table, void *out, size_t size, struct err *err)
{
    if (size)
        memset(out, 0, size);
    for (const struct opt_desc *o = table; o->name; o++)
        if (o->def && o->parse(o, o->def, (char *)out + o->field, err))
            return -EINVAL;
    return 0;
}

enum opts_result opts_parse(const struct opt_desc *table, void *out, size_t size, int argc,
                            char **argv, int *nargs, struct err *err)
{
    return opts_parse_seen(table, out, size, argc, argv, nargs, NULL, NULL, err);
}

enum opts_result opts_parse_seen(const struct opt_desc *table, void *out, size_t size, int argc,
                                 char **argv, int *nargs,
                                 int (*seen)(void *opaque, const struct opt_desc *opt,
                                             const char *val, struct err *err),
                                 void *opaque, struct err *err)
{
    struct parser p = {.table = table,
                       .out = out,
                       .argc = argc,
                       .argv = argv,
                       .seen = seen,
                       .opaque = opaque,
                       .err = err};
    bool only_args = false;
    enum opts_result r;

    *nargs = 0;
    r = opts_defaults(table, out, size, err) ? OPTS_BAD : OPTS_OK;
    while (r == OPTS_OK && p.at < argc) {
        char *arg = argv[p.at++];

        if (only_args || arg[0] != '-' || !arg[1])
            argv[(*nargs)++] = arg;
        else if (!strcmp(arg, "--"))
            only_args = true;
        else if (arg[1] == '-')
            r = parse_long(&p, arg + 2);
        else
            r = parse_short(&p, arg + 1);
    }
    return r;
}

#define HELP_COLUMN 24

static void print_option(const char *name, char letter, const char *arg, const char *help,
                         const char *def, FILE *out)
{
    char left[80];
    int n;

    if (letter)
        n = snprintf(left, sizeof(left), "  -%c, --%s%s%s", letter, name, arg ? " " : "",
                     arg ? arg : "");
    else
        n = snprintf(left, sizeof(left), "      --%s%s%s", name, arg ? " " : "", arg ? arg : "");
    fputs(left, out);
    if (n >= HELP_COLUMN - 1) {
        fputc('\n', out);
        n = 0;
    }
    for (const char *line = help; *line;) {
        size_t len = strcspn(line, "\n");

        fprintf(out, "%*s%.*s", HELP_COLUMN - n, "", (int)len, line);
        line += len;
        if (!*line && def)
            fprintf(out, " (default %s)", def);
        fputc('\n', out);
        line += *line == '\n';
        n = 0;
    }
}

void opts_print_help(const struct opt_desc *table, FILE *out)
{
    for (const struct opt_desc *o = table; o->name; o++)
        print_option(o->name, o->letter, o->arg, o->help, o->def, out);
    print_option("help", 'h', NULL, "print this and exit", NULL, out);
}
