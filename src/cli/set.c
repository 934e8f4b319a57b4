/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge set: change what a guest may take of the host. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/run.h"
#include "cli/verb.h"

struct change {
    struct definition given; /* in terms of lodge run */
    const struct set_opts *opts;
};

/* A device that is not there is refused here, not at the next start. */
static int check_limits(const struct guest *g, const struct change *c, struct run_opts *opts,
                        struct err *err)
{
    opts->name = g->name;
    return c->opts->limits.count ? run_opts_check(opts, err) : 0;
}

static int note_given(void *opaque, const struct opt_desc *opt, const char *val, struct err *err)
{
    const struct opt_desc *o = run_opts;

    while (o->name && strcmp(o->name, opt->name) != 0)
        o++;
    return o->name ? definition_add(opaque, o, val, err) : 0;
}

/* Those that were given, over those that it has. */
static struct shares merged(struct shares old, const struct change *c)
{
    const struct shares *new = &c->opts->shares;

    if (definition_get(&c->given, "cpu-weight"))
        old.cpu_weight = new->cpu_weight;
    if (definition_get(&c->given, "cpu-cap"))
        old.cpu_cap = new->cpu_cap;
    if (definition_get(&c->given, "cpu-pin"))
        old.cpu_pin = new->cpu_pin;
    if (definition_get(&c->given, "memory-max"))
        old.memory_max = new->memory_max;
    if (definition_get(&c->given, "io-weight"))
        old.io_weight = new->io_weight;
    return old;
}

/* The definition as it will be, in g->def; nothing is written. */
static int change_kept(struct guest *g, const struct change *c, struct shares *now, struct err *err)
{
    struct run_opts opts = {0};
    int r = g->def_err.code;

    if (r) {
        *err = g->def_err;
        return r;
    }
    r = definition_merge(&g->def, &c->given, err);
    if (!r)
        r = definition_apply(&g->def, &opts, sizeof(opts), err);
    if (!r)
        r = check_limits(g, c, &opts, err);
    *now = opts.shares; /* what it points to is in g->def */
    run_opts_fini(&opts);
    return r;
}

/* Have its process hold the guest to the cap, or no longer. That it does not know how to, or is starting, is no failure. */
static void set_pace(const char *name, unsigned percent, bool quiet)
{
    json_t *args = json_pack("{s:i}", "percent", (int)percent);
    struct client_conn conn = {.fd = -1};
    struct err err = {0};
    int r = guest_connect(&conn, name, &err);

    if (r)
        json_decref(args);
    else
        r = client_ask(&conn, "cap", args, NULL, &err);
    client_fini(&conn);
    if (r && percent && !quiet)
        fprintf(stderr, "lodge: --cpu-cap: not before the next start of %s: %s\n", name, err.what);
}

/* Those that a running guest's devices have from now on. */
static int tell_limits(const char *name, const struct run_limits *limits, struct err *err)
{
    struct client_conn conn = {.fd = -1};
    int r = limits->count ? guest_connect(&conn, name, err) : 0;

    for (unsigned i = 0; !r && i < limits->count; i++) {
        json_t *args = limit_arguments(&limits->list[i]);

        r = args ? client_ask(&conn, "limit", args, NULL, err)
                 : err_set(err, -ENOMEM, "no memory for the limits of a guest's devices");
    }
    client_fini(&conn);
    return r;
}

static int set_one(const char *name, void *opaque, struct err *err)
{
    const struct change *c = opaque;
    struct shares now = merged((struct shares){0}, c);
    unsigned pace = 0;
    struct guest g;
    int r = guest_init(&g, name, err);

    if (!r && g.kept)
        r = change_kept(&g, c, &now, err);
    if (!r && g.held)
        r = tell_limits(name, &c->opts->limits, err);
    if (!r && g.held && g.pid)
        r = shares_apply(&now, name, g.pid, c->opts->quiet, &pace, err);
    if (!r && g.held && g.pid && (pace || definition_get(&c->given, "cpu-cap")))
        set_pace(name, pace, c->opts->quiet);
    if (!r && g.kept)
        r = state_write(name, &g.def, err);
    guest_fini(&g);
    return r;
}

int verb_set(const struct verb *verb, int argc, char **argv)
{
    struct set_opts opts;
    struct change c = {.opts = &opts};
    struct err err = {0};
    int nargs, r;

    definition_init(&c.given);
    r = verb_parse_seen(verb, &opts, sizeof(opts), argc, argv, &nargs, note_given, &c.given);
    if (r < 0 && !c.given.count) {
        err_set(&err, -EINVAL, "nothing to set: no option says what");
        err_next(&err, "--limit, --cpu-weight, --cpu-cap, --cpu-pin, --memory-max or --io-weight, "
                       "for example.");
        r = verb_usage(verb, &err);
    }
    if (r < 0)
        r = guests_each(verb, nargs, argv, opts.quiet, set_one, &c);
    definition_fini(&c.given);
    return r;
}
