/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge help, and the text every verb's --help shares. */
#include <stdio.h>
#include <string.h>

#include "cli/verb.h"

static const struct opt_desc no_opts[] = {{NULL}};

void verb_help(const struct verb *verb)
{
    printf("Usage: lodge %s%s%s\n\n%s.\n", verb->name, verb->args[0] ? " " : "", verb->args,
           verb->summary);
    if (verb->about)
        printf("\n%s", verb->about);
    if (verb->sub) {
        printf("\nVerbs:\n");
        for (const struct verb *v = verb->sub; v->name; v++)
            printf("  %-10s%s\n", v->name + strlen(verb->name) + 1, v->summary);
        printf("\n`lodge %s VERB --help` tells more about one.\n", verb->name);
        return;
    }
    printf("\nOptions:\n");
    opts_print_help(verb->opts ? verb->opts : no_opts, stdout);
}

void verb_list(void)
{
    printf("Usage: lodge VERB [ARGUMENT]...\n\n"
           "Run guest operating systems in virtual machines.\n\nVerbs:\n");
    for (const struct verb *v = verbs; v->name; v++)
        printf("  %-10s%s\n", v->name, v->summary);
    printf("\n`lodge VERB --help` tells more about one; so does the manual, lodge(1).\n");
}

int verb_help_main(const struct verb *verb, int argc, char **argv)
{
    const struct verb *about;
    struct err err = {0};
    int nargs, r = verb_parse(verb, NULL, 0, argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (!nargs) {
        verb_list();
        return cli_flush();
    }
    about = verb_find(argv[0]);
    if (!about) {
        verb_unknown(argv[0], &err);
        return verb_usage(NULL, &err);
    }
    verb_help(about);
    return cli_flush();
}
