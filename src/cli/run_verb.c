/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge run: from the command line to the guest. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/definition.h"
#include "cli/detach.h"
#include "cli/run.h"
#include "cli/state.h"
#include "cli/verb.h"

/* With --file: what the file says, then what the command line says. */
static int run_file(struct run_opts *opts, struct definition *def, const struct definition *given,
                    struct err *err)
{
    struct run_opts own = *opts;
    int r = definition_read(def, opts->file, err);

    if (!r)
        r = definition_merge(def, given, err);
    if (r)
        return r;
    run_opts_fini(opts);
    r = definition_apply(def, opts, sizeof(*opts), err);
    run_opts_take_once(opts, &own);
    opts->name = def->name;
    return r;
}

static const struct opt_desc *image_option(void)
{
    const struct opt_desc *o = run_opts;

    while (strcmp(o->name, "image") != 0)
        o++;
    return o;
}

int run_parse(const struct verb *verb, struct run_opts *opts, struct definition *def, int argc,
              char **argv)
{
    struct definition given;
    struct err err = {0};
    int nargs, r, bad = 0;

    definition_init(def);
    definition_init(&given);
    r = verb_parse_seen(verb, opts, sizeof(*opts), argc, argv, &nargs, definition_add, &given);
    if (r >= 0)
        goto out;
    /* lodge run NAME is short for --image NAME. */
    if (nargs) {
        opts->image = argv[0];
        bad = definition_add(&given, image_option(), argv[0], &err);
    }
    if (bad)
        err_report(&err);
    else if (opts->file)
        bad = run_file(opts, def, &given, &err);
    else
        bad = definition_merge(def, &given, &err);
    if (bad && bad != -EINVAL) {
        err_report(&err);
        r = CLI_FAILED;
    } else if (bad || run_opts_check(opts, &err)) {
        r = verb_usage(verb, &err);
    }
out:
    definition_fini(&given);
    return r;
}

/* With absolute paths, since the new process leaves this folder. */
static int run_detached(struct run_opts *opts, const struct definition *def)
{
    struct run_opts own = *opts;
    struct err err = {0};
    int r = definition_apply(def, opts, sizeof(*opts), &err);

    run_opts_fini(&own);
    run_opts_take_once(opts, &own);
    opts->name = def->name;
    if (!r)
        r = run_opts_check(opts, &err);
    /* A process of the same number may have left a guest. */
    for (int n = 2; !r && !def->name && !opts->image && state_exists(opts->name); n++)
        snprintf(opts->name_buf, sizeof(opts->name_buf), "vm-%d-%d", (int)getpid(), n);
    if (!r)
        return detach_start(opts, def, opts->rm);
    err_report(&err);
    return CLI_FAILED;
}

int verb_run(const struct verb *verb, int argc, char **argv)
{
    struct run_opts opts;
    struct definition def;
    int r = run_parse(verb, &opts, &def, argc, argv);

    if (r < 0 && opts.detach) {
        r = run_detached(&opts, &def);
        if (r == CLI_OK && !opts.quiet) {
            printf("%s\n", opts.name);
            r = cli_flush();
        }
    } else if (r < 0) {
        r = run_guest(&opts, NULL);
    }
    run_opts_fini(&opts);
    definition_fini(&def);
    return r;
}
