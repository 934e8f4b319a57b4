/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lodge events. There is no daemon to tell, and a process that was killed tells nobody: so this looks at all guests again
 * and again and says what has changed. What comes and goes between two looks is seen by its traces: another process,
 * another last run, a higher number of resets.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/stop.h"
#include "cli/verb.h"

#define LOOK_MS 250

struct seen {
    char name[64], state[16], how[16];
    bool runs, kept, crashed;
    pid_t pid;
    int64_t resets, ended, status;
};

struct watch {
    struct watch_opts opts;
    char **names;
    int count;
    unsigned said;
    struct seen *seen;
    unsigned nseen;
};

/* ---- Saying --------------------------------------------------------------------------- */

/* `more` is taken; NULL: nothing. False: enough, or nobody reads. */
static bool say(struct watch *w, const char *name, const char *event, json_t *more)
{
    struct timespec ts;
    struct tm tm;
    char text[32] = "", *rest = NULL;

    clock_gettime(CLOCK_REALTIME, &ts);
    if (!strcmp(w->opts.format, "json")) {
        json_t *o =
            json_pack("{s:f, s:s, s:s}", "time", (double)ts.tv_sec + (double)ts.tv_nsec / 1e9,
                      "guest", name, "event", event);

        if (more)
            json_object_update(o, more);
        json_dumpf(o, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(14));
        putchar('\n');
        json_decref(o);
    } else {
        const char *key;
        json_t *val;

        if (localtime_r(&ts.tv_sec, &tm))
            strftime(text, sizeof(text), "%F %T", &tm);
        printf("%s %s %s", text, name, event);
        json_object_foreach(more, key, val)
        {
            rest = json_dumps(val, JSON_ENCODE_ANY | JSON_COMPACT);
            printf(" %s=%s", key, json_is_string(val) ? json_string_value(val) : rest ? rest : "");
            free(rest);
        }
        putchar('\n');
    }
    json_decref(more);
    w->said++;
    return cli_flush() == CLI_OK && (!w->opts.count || w->said < w->opts.count);
}

/* ---- Looking -------------------------------------------------------------------------- */

static void look(struct seen *s, const char *name)
{
    struct guest g;

    *s = (struct seen){0};
    snprintf(s->name, sizeof(s->name), "%s", name);
    if (!guest_init(&g, name, NULL)) {
        s->runs = g.held && g.pid;
        s->pid = g.pid;
        s->kept = g.kept;
        snprintf(s->state, sizeof(s->state), "%s", guest_state(&g));
        s->crashed = !strcmp(s->state, "crashed");
        s->resets = json_integer_value(json_object_get(g.status, "resets"));
        s->ended = json_integer_value(json_object_get(g.last, "ended"));
        s->status = json_integer_value(json_object_get(g.last, "status"));
        if (json_string_value(json_object_get(g.last, "how")))
            snprintf(s->how, sizeof(s->how), "%s",
                     json_string_value(json_object_get(g.last, "how")));
    }
    guest_fini(&g);
}

static bool wanted(const struct watch *w, const char *name)
{
    for (int i = 0; i < w->count; i++)
        if (!strcmp(w->names[i], name))
            return true;
    return !w->count;
}

static struct seen *seen_named(const struct watch *w, const char *name)
{
    for (unsigned i = 0; i < w->nseen; i++)
        if (!strcmp(w->seen[i].name, name))
            return &w->seen[i];
    return NULL;
}

/* ---- Comparing -------------------------------------------------------------------------- */

/* How the run that was seen before, or is known by what it left, has ended. */
static bool say_ended(struct watch *w, const struct seen *s)
{
    static const struct {
        const char *how, *event;
    } names[] = {{"poweroff", "powered-off"},
                 {"reset", "reset-ended"},
                 {"killed", "killed"},
                 {"signal", "stopped"},
                 {"failed", "failed"}};
    const char *event = "stopped";

    if (s->crashed)
        return say(w, s->name, "crashed", NULL);
    if (!s->kept || !s->how[0])
        return say(w, s->name, event,
                   NULL); /* in the foreground: how is its command's exit status */
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(names[i].how, s->how))
            event = names[i].event;
    return say(w, s->name, event, json_pack("{s:I}", "status", (json_int_t)s->status));
}

static bool say_change(struct watch *w, const struct seen *old, const struct seen *s)
{
    bool on = true, other = old->pid != s->pid;

    if (!old->kept && s->kept && !old->runs)
        on = say(w, s->name, "created", NULL);
    if (on && old->runs && (!s->runs || other))
        on = say_ended(w, s);
    else if (on && !old->runs && s->kept && old->kept && s->ended > old->ended)
        on = say_ended(w, s); /* began and ended in between */
    if (on && s->runs && (!old->runs || other)) {
        on = say(w, s->name, "started", json_pack("{s:i}", "pid", (int)s->pid));
        old = &(const struct seen){.state = "running"};
    }
    if (on && s->runs && s->resets > old->resets)
        on = say(w, s->name, "reset", NULL);
    if (on && s->runs && strcmp(old->state, s->state) != 0) {
        if (!strcmp(s->state, "paused"))
            on = say(w, s->name, "paused", NULL);
        else if (!strcmp(s->state, "suspended"))
            on = say(w, s->name, "suspended", NULL);
        else if (!strcmp(s->state, "running") &&
                 (!strcmp(old->state, "paused") || !strcmp(old->state, "suspended")))
            on = say(w, s->name, "resumed", NULL);
    }
    if (on && old->kept && !s->kept && !s->runs)
        on = say(w, s->name, "removed", NULL);
    return on;
}

/* One that is starting or pausing is neither the one nor the other yet. */
static bool is_between(const struct seen *s)
{
    return !strcmp(s->state, "starting") || !strcmp(s->state, "pausing");
}

/* One look at all. `first`: nothing has changed yet. False: enough. */
static bool turn(struct watch *w, bool first, struct err *err)
{
    struct state_names names = {0};
    struct seen *next;
    unsigned n = 0;
    bool on = true;

    if (guests_list(&names, err))
        return false;
    /* Also those that were there before. */
    for (unsigned i = 0; i < w->nseen; i++)
        on = state_names_add(&names, w->seen[i].name) && on;
    next = calloc(names.count + 1, sizeof(*next));
    if (!next || !on) {
        err_set(err, -ENOMEM, "no memory for the list of guests");
        on = false;
    }
    for (unsigned i = 0; on && i < names.count; i++) {
        const struct seen *old = seen_named(w, names.name[i]);
        const struct seen none = {0};

        if (!wanted(w, names.name[i]))
            continue;
        look(&next[n], names.name[i]);
        if (is_between(&next[n]) && old)
            next[n] = *old;
        else if (is_between(&next[n]))
            continue;
        else if (!first)
            on = say_change(w, old ? old : &none, &next[n]);
        n += next[n].kept || next[n].runs;
    }
    state_names_free(&names);
    free(w->seen);
    w->seen = next;
    w->nseen = n;
    return on;
}

int verb_events(const struct verb *verb, int argc, char **argv)
{
    struct watch w = {.names = argv};
    struct err err = {0};
    int r = verb_parse(verb, &w.opts, sizeof(w.opts), argc, argv, &w.count);
    bool on;

    if (r >= 0)
        return r;
    stop_catch();
    on = turn(&w, true, &err);
    while (on && !stop_asked()) {
        usleep(LOOK_MS * 1000);
        on = stop_asked() || turn(&w, false, &err);
    }
    free(w.seen);
    if (!err.code)
        return CLI_OK;
    err_report(&err);
    return CLI_FAILED;
}
