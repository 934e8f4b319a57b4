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
#include "cli/run.h"
#include "cli/verb.h"

#define POLL_MS 50
#define PRESS_MS                                                                                   \
    5000 /* a system that is still starting misses its power button: pressed again after this */
#define PAUSE_MS 30000

/* ---- start ---------------------------------------------------------------------- */

/* Errors of the new process are printed by it. */
static int start_one(const char *name, void *opaque, struct err *err)
{
    struct run_opts opts = {0};
    struct definition def;
    int r = guest_is_held(name) ? -EALREADY : state_read(name, &def, err);

    if (r == -EALREADY) {
        err_set(err, r, "the guest %s is running already", name);
        return r;
    }
    if (!r)
        r = definition_apply(&def, &opts, sizeof(opts), err);
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
    if (opts->timeout)
        fprintf(stderr, "lodge: the guest %s did not stop within %u s and is killed\n", s->name,
                opts->timeout);
    if (guest_kill(s->name, &err) && guest_is_held(s->name)) {
        err_report(&err);
        s->failed = true;
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

/* Options and names, in argv from its start. The exit status when that is all, else -1 with *stops to be freed. */
static int begin(const struct verb *verb, struct power_opts *opts, int argc, char **argv,
                 struct stop **stops, int *nargs)
{
    int r = verb_parse(verb, opts, sizeof(*opts), argc, argv, nargs);

    if (r < 0)
        r = need_names(verb, *nargs);
    if (r >= 0)
        return r;
    *stops = stops_new(*nargs, argv);
    if (*stops)
        return -1;
    fputs("lodge: not enough memory\n", stderr);
    return CLI_FAILED;
}

int verb_stop(const struct verb *verb, int argc, char **argv)
{
    struct power_opts opts;
    struct stop *s;
    int nargs, r = begin(verb, &opts, argc, argv, &s, &nargs);

    if (r >= 0)
        return r;
    r = stop_all(s, nargs, &opts);
    for (int i = 0; !opts.quiet && i < nargs; i++)
        if (!s[i].failed)
            printf("%s\n", s[i].name);
    free(s);
    return cli_flush() == CLI_OK ? r : CLI_FAILED;
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

int verb_restart(const struct verb *verb, int argc, char **argv)
{
    struct power_opts opts;
    struct stop *s;
    int nargs, kept = 0, status = CLI_OK, r = begin(verb, &opts, argc, argv, &s, &nargs);

    if (r >= 0)
        return r;
    for (int i = 0; i < nargs; i++) {
        struct err err = {0};

        if (restartable(argv[i], &err)) {
            err_report(&err);
            status = CLI_FAILED;
            continue;
        }
        s[kept] = (struct stop){.name = argv[i], .done = !guest_is_held(argv[i])};
        kept++;
    }
    if (stop_all(s, kept, &opts) != CLI_OK)
        status = CLI_FAILED;
    r = 0;
    for (int i = 0; i < kept; i++)
        if (!s[i].failed)
            argv[r++] = (char *)s[i].name;
    free(s);
    if (r && guests_each(verb, r, argv, opts.quiet, start_one, NULL) != CLI_OK)
        status = CLI_FAILED;
    return status;
}

/* ---- kill, pause, resume ---------------------------------------------------------- */

static int kill_one(const char *name, void *opaque, struct err *err)
{
    return guest_kill(name, err);
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
    return each(verb, argc, argv, start_one, NULL);
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
