/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge start, stop, restart, kill, pause and resume. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/detach.h"
#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/saved.h"
#include "cli/verb.h"

#define POLL_MS 50
#define PRESS_MS                                                                                   \
    5000 /* a system that is still starting misses its power button: pressed again after this */
#define PAUSE_MS 30000

/* ---- start ---------------------------------------------------------------------- */

/* The name is taken for a moment only: who starts the guest at the same time goes on from what was saved, or finds it gone. */
static int drop_saved(const char *name, struct err *err)
{
    struct registry reg;
    char base[256];
    int r = registry_base(base, sizeof(base), err);

    if (!r)
        r = registry_claim(&reg, base, name, err);
    if (r)
        return r;
    r = saved_exists(name) ? saved_drop(name, err) : 0;
    registry_release(&reg);
    return r;
}

/* Errors of the new process are printed by it. `opaque`: the options, NULL: none. */
static int start_one(const char *name, void *opaque, struct err *err)
{
    const struct power_opts *how = opaque;
    struct run_opts opts = {0};
    char saved[STATE_PATH];
    struct definition def;
    int r = guest_is_held(name) ? -EALREADY : state_read(name, &def, err);

    if (r == -EALREADY) {
        err_set(err, r, "the guest %s is running already", name);
        return r;
    }
    if (!r)
        r = definition_apply(&def, &opts, sizeof(opts), err);
    if (!r && how && how->anew)
        r = drop_saved(name, err);
    if (!r && saved_exists(name)) {
        r = saved_check(name, saved, err);
        opts.restore = saved;
        opts.restore_once = true;
    }
    if (!r) {
        opts.name = name;
        opts.detach = true;
        r = run_opts_check(&opts, err);
    }
    if (!r && detach_start(&opts, NULL, false) != CLI_OK)
        r = -ECHILD; /* and err stays empty */
    run_opts_fini(&opts);
    definition_fini(&def);
    return r;
}

/* ---- stop ----------------------------------------------------------------------- */

struct stop {
    const char *name;
    bool failed, done;
    int64_t pressed; /* ms; 0: not yet */
};

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A paused guest notices nothing, so it is to go on first. */
static int press(struct stop *s, struct err *err)
{
    int r = guest_ask(s->name, "powerdown", NULL, err);

    if (r == -EBUSY) {
        r = guest_ask(s->name, "resume", NULL, err);
        if (!r)
            r = guest_ask(s->name, "powerdown", NULL, err);
    }
    s->pressed = now_ms();
    return r;
}

/* Press the button of each, or again. An end that comes meanwhile is what was wanted. */
static void stop_turn(struct stop *s, bool first)
{
    struct err err = {0};
    int r;

    if (s->failed || s->done)
        return;
    if (!first && !guest_is_held(s->name)) {
        s->done = true;
        return;
    }
    if (s->pressed && now_ms() - s->pressed < PRESS_MS)
        return;
    r = press(s, &err);
    /* Starting or ending: the next turn sees. */
    if (!r || r == -EPIPE || r == -EAGAIN)
        return;
    if (r == -ESRCH || (!first && r == -ENOENT)) {
        s->done = true; /* as it was before, too */
        return;
    }
    if (r == -ETIMEDOUT)
        return; /* it does not answer: left to the end */
    err_report(&err);
    s->failed = true;
}

static bool stop_pending(const struct stop *s, int count)
{
    for (int i = 0; i < count; i++)
        if (!s[i].done && !s[i].failed)
            return true;
    return false;
}

static void stop_by_force(struct stop *s, const struct power_opts *opts)
{
    struct err err = {0};

    if (s->done || s->failed || !guest_is_held(s->name))
        return;
    if (guest_check_protected(s->name, "killed, though it did not stop in time", &err)) {
        err_report(&err);
        s->failed = true;
        return;
    }
    if (opts->timeout)
        fprintf(stderr, "lodge: the guest %s did not stop within %u s and is killed\n", s->name,
                opts->timeout);
    if (guest_kill(s->name, &err) && guest_is_held(s->name)) {
        err_report(&err);
        s->failed = true;
    }
}

static bool is_saved_at_shutdown(const char *name)
{
    const char *val = NULL;
    struct definition def;

    definition_init(&def);
    if (state_exists(name) && !state_read(name, &def, NULL))
        val = definition_get(&def, "at-shutdown");
    val = val && !strcmp(val, "save") ? val : NULL;
    definition_fini(&def);
    return val;
}

/* Those that are to be. At shutdown one that cannot be saved is stopped like the others. */
static void save_all(struct stop *s, int count, const struct power_opts *opts)
{
    for (int i = 0; i < count; i++) {
        struct err err = {0};

        if (!opts->save && !(opts->at_shutdown && is_saved_at_shutdown(s[i].name)))
            continue;
        if (!saved_take(s[i].name, &err)) {
            s[i].done = true;
            continue;
        }
        if (err.code == -ESRCH && !opts->save)
            continue;
        err_report(&err);
        s[i].failed = opts->save;
    }
}

/* All at the same time. Returns the exit status; `s` tells of each. */
static int stop_all(struct stop *s, int count, const struct power_opts *opts)
{
    int64_t end = now_ms() + (int64_t)opts->timeout * 1000;
    int status = CLI_OK;

    for (int i = 0; i < count; i++)
        stop_turn(&s[i], true);
    while (stop_pending(s, count) && now_ms() < end) {
        usleep(POLL_MS * 1000);
        for (int i = 0; i < count; i++)
            stop_turn(&s[i], false);
    }
    for (int i = 0; i < count; i++) {
        stop_by_force(&s[i], opts);
        if (s[i].failed)
            status = CLI_FAILED;
    }
    return status;
}

/* Names in place of those that the command line has none of. *argv is to be freed with state_names_free. */
static int all_names(struct state_names *found, bool (*wanted)(const char *name), struct err *err)
{
    struct state_names all = {0};
    int r = guests_list(&all, err);

    for (unsigned i = 0; !r && i < all.count; i++)
        if (wanted(all.name[i]) && !state_names_add(found, all.name[i]))
            r = err_set(err, -ENOMEM, "no memory for the list of guests");
    state_names_free(&all);
    return r;
}

static bool is_autostart(const char *name)
{
    struct run_opts opts = {0};
    struct definition def;
    bool on;

    definition_init(&def);
    on = !guest_is_held(name) && state_exists(name) && !state_read(name, &def, NULL) &&
         !definition_apply(&def, &opts, sizeof(opts), NULL) && opts.autostart;
    run_opts_fini(&opts);
    definition_fini(&def);
    return on;
}

static struct stop *stops_new(int nargs, char **names)
{
    struct stop *s = calloc((size_t)nargs + 1, sizeof(*s));

    for (int i = 0; s && i < nargs; i++)
        s[i].name = names[i];
    return s;
}

static int need_names(const struct verb *verb, int nargs)
{
    struct err err = {0};

    if (nargs)
        return -1;
    err_set(&err, -EINVAL, "lodge %s needs the name of a guest", verb->name);
    return verb_usage(verb, &err);
}

struct begun {
    struct power_opts opts;
    struct state_names all; /* of --all */
    int nargs;
    char **names;
    struct stop *stops;
};

/* Options and names. The exit status when that is all, else -1; begun_fini in any case. */
static int begin(const struct verb *verb, struct begun *b, int argc, char **argv)
{
    struct err err = {0};
    int r;

    *b = (struct begun){.names = argv};
    r = verb_parse(verb, &b->opts, sizeof(b->opts), argc, argv, &b->nargs);
    if (r < 0 && b->opts.all && b->nargs) {
        err_set(&err, -EINVAL, "--all takes no names");
        r = verb_usage(verb, &err);
    } else if (r < 0 && b->opts.all) {
        if (all_names(&b->all, guest_is_held, &err)) {
            err_report(&err);
            r = CLI_FAILED;
        }
        b->nargs = (int)b->all.count;
        b->names = b->all.name;
    } else if (r < 0) {
        r = need_names(verb, b->nargs);
    }
    if (r >= 0)
        return r;
    b->stops = stops_new(b->nargs, b->names);
    if (b->stops)
        return -1;
    fputs("lodge: not enough memory\n", stderr);
    return CLI_FAILED;
}

static void begun_fini(struct begun *b)
{
    free(b->stops);
    state_names_free(&b->all);
}

int verb_stop(const struct verb *verb, int argc, char **argv)
{
    struct begun b;
    int r = begin(verb, &b, argc, argv);

    if (r < 0) {
        save_all(b.stops, b.nargs, &b.opts);
        r = stop_all(b.stops, b.nargs, &b.opts);
        for (int i = 0; !b.opts.quiet && i < b.nargs; i++)
            if (!b.stops[i].failed)
                printf("%s\n", b.stops[i].name);
        if (cli_flush() != CLI_OK)
            r = CLI_FAILED;
    }
    begun_fini(&b);
    return r;
}

/* ---- restart -------------------------------------------------------------------- */

/* One that can't be started again is not stopped; one that does not run is started. */
static int restartable(const char *name, struct err *err)
{
    struct definition def;
    int r = state_read(name, &def, err);

    if (r == -ENOENT && guest_is_held(name)) {
        err_set(err, r, "the guest %s runs in the foreground and cannot be restarted", name);
        err_next(err, "Stop it with lodge stop %s, and run it again.", name);
    }
    definition_fini(&def);
    return r;
}

static int restart_all(const struct verb *verb, struct begun *b)
{
    struct stop *s = b->stops;
    int kept = 0, status = CLI_OK;

    for (int i = 0; i < b->nargs; i++) {
        char *name = b->names[i];
        struct err err = {0};

        if (restartable(name, &err)) {
            err_report(&err);
            status = CLI_FAILED;
            continue;
        }
        s[kept++] = (struct stop){.name = name, .done = !guest_is_held(name)};
    }
    if (stop_all(s, kept, &b->opts) != CLI_OK)
        status = CLI_FAILED;
    for (int i = 0; i < kept; i++) {
        char *name = (char *)s[i].name;

        if (s[i].failed)
            continue;
        if (guests_each(verb, 1, &name, b->opts.quiet, start_one, NULL) != CLI_OK)
            status = CLI_FAILED;
    }
    return status;
}

int verb_restart(const struct verb *verb, int argc, char **argv)
{
    struct begun b;
    int r = begin(verb, &b, argc, argv);

    if (r < 0)
        r = restart_all(verb, &b);
    begun_fini(&b);
    return r;
}

/* ---- kill, pause, resume ---------------------------------------------------------- */

static int kill_one(const char *name, void *opaque, struct err *err)
{
    int r = guest_check_protected(name, "killed", err);

    return r ? r : guest_kill(name, err);
}

/* Asked for, and then waited for. */
static int pause_one(const char *name, void *opaque, struct err *err)
{
    const char *command = opaque, *want = strcmp(command, "pause") ? "running" : "paused";
    struct client_conn conn;
    int r = guest_connect(&conn, name, err);
    int64_t end = now_ms() + PAUSE_MS;
    bool is = false;

    if (!r)
        r = client_ask(&conn, command, NULL, NULL, err);
    while (!r && !is && now_ms() < end) {
        const char *state;
        json_t *status;

        r = client_ask(&conn, "status", NULL, &status, err);
        if (r)
            break;
        state = json_string_value(json_object_get(status, "state"));
        is = state && !strcmp(state, want);
        json_decref(status);
        if (!is)
            usleep(5000);
    }
    client_fini(&conn);
    if (!r && !is)
        r = err_set(err, -ETIMEDOUT, "the guest %s takes too long to stand still", name);
    return r;
}

static int each(const struct verb *verb, int argc, char **argv,
                int (*fn)(const char *name, void *opaque, struct err *err), void *opaque)
{
    struct power_opts opts;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    return r >= 0 ? r : guests_each(verb, nargs, argv, opts.quiet, fn, opaque);
}

int verb_start(const struct verb *verb, int argc, char **argv)
{
    struct state_names found = {0};
    struct power_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r < 0 && opts.all && nargs) {
        err_set(&err, -EINVAL, "--autostart takes no names");
        return verb_usage(verb, &err);
    }
    if (r < 0 && opts.all) {
        if (all_names(&found, is_autostart, &err)) {
            err_report(&err);
            r = CLI_FAILED;
        } else {
            nargs = (int)found.count;
            argv = found.name;
            r = nargs ? -1 : CLI_OK;
        }
    }
    if (r < 0)
        r = guests_each(verb, nargs, argv, opts.quiet, start_one, &opts);
    state_names_free(&found);
    return r;
}

int verb_kill(const struct verb *verb, int argc, char **argv)
{
    return each(verb, argc, argv, kill_one, NULL);
}

int verb_pause(const struct verb *verb, int argc, char **argv)
{
    return each(verb, argc, argv, pause_one, "pause");
}

int verb_resume(const struct verb *verb, int argc, char **argv)
{
    return each(verb, argc, argv, pause_one, "resume");
}
