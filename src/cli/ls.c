/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge ls and lodge info: what guests there are, and what each is. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/run.h"
#include "cli/size.h"
#include "cli/verb.h"

/* ---- Facts ---------------------------------------------------------------------- */

/* What ls and info tell, as one object. */
static json_t *facts(const struct guest *g)
{
    json_t *o =
        json_pack("{s:s, s:s, s:b}", "name", g->name, "state", guest_state(g), "kept", g->kept);
    static const char *const now[] = {"pid",    "engine",  "cpus",    "memory", "started",
                                      "uptime", "version", "sandbox", "resets", "limits"};
    static const char *const then[] = {"began", "ended", "how", "status", "why"};
    struct run_opts opts;

    if (!o)
        return NULL;
    if (g->kept && !g->def_err.code && !definition_apply(&g->def, &opts, sizeof(opts), NULL)) {
        run_opts_fill(&opts);
        json_object_set_new(o, "engine", json_string(opts.engine));
        json_object_set_new(o, "cpus", json_integer(opts.cpus));
        json_object_set_new(o, "memory", json_integer((json_int_t)opts.memory));
        run_opts_fini(&opts);
    }
    if (g->pid)
        json_object_set_new(o, "pid", json_integer(g->pid));
    for (size_t i = 0; i < ARRAY_SIZE(now); i++)
        if (json_object_get(g->status, now[i]))
            json_object_set(o, now[i], json_object_get(g->status, now[i]));
    for (size_t i = 0; !g->held && i < ARRAY_SIZE(then); i++)
        if (json_object_get(g->last, then[i]))
            json_object_set(o, then[i], json_object_get(g->last, then[i]));
    if (g->def_err.code)
        json_object_set_new(o, "broken", json_string(g->def_err.what));
    return o;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

/* "2d 3h", "3h 20m", "20m 5s", "5s" */
static const char *span(double seconds, char buf[32])
{
    uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;

    if (s >= 86400)
        snprintf(buf, 32, "%llud %lluh", (unsigned long long)s / 86400,
                 (unsigned long long)s / 3600 % 24);
    else if (s >= 3600)
        snprintf(buf, 32, "%lluh %llum", (unsigned long long)s / 3600,
                 (unsigned long long)s / 60 % 60);
    else if (s >= 60)
        snprintf(buf, 32, "%llum %llus", (unsigned long long)s / 60, (unsigned long long)s % 60);
    else
        snprintf(buf, 32, "%llus", (unsigned long long)s);
    return buf;
}

static const char *size_text(const json_t *o, const char *key, char buf[SIZE_TEXT])
{
    json_t *n = json_object_get(o, key);

    return n ? size_format((uint64_t)json_integer_value(n), buf) : "";
}

/* ---- ls ------------------------------------------------------------------------- */

static void table_row(const json_t *o)
{
    char cpus[16] = "", size[SIZE_TEXT], up[32], pid[16] = "";
    json_t *uptime = json_object_get(o, "uptime");

    if (json_object_get(o, "cpus"))
        snprintf(cpus, sizeof(cpus), "%d", (int)json_integer_value(json_object_get(o, "cpus")));
    if (json_object_get(o, "pid"))
        snprintf(pid, sizeof(pid), "%d", (int)json_integer_value(json_object_get(o, "pid")));
    printf("%-20s %-9s %-6s %4s %9s %8s  %s\n", text_of(o, "name"), text_of(o, "state"),
           text_of(o, "engine"), cpus, size_text(o, "memory", size), pid,
           uptime ? span(json_real_value(uptime), up) : "");
}

static int list_facts(const struct state_names *names, json_t *list)
{
    for (unsigned i = 0; i < names->count; i++) {
        struct guest g;

        /* One that went away meanwhile is none. */
        if (!guest_init(&g, names->name[i], NULL))
            json_array_append_new(list, facts(&g));
        guest_fini(&g);
    }
    return 0;
}

static int print_list(const struct ls_opts *opts, const struct state_names *names)
{
    json_t *list, *o;
    size_t i;

    if (opts->quiet) {
        for (i = 0; i < names->count; i++)
            printf("%s\n", names->name[i]);
        return cli_flush();
    }
    list = json_array();
    list_facts(names, list);
    if (!strcmp(opts->format, "json")) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        printf("%-20s %-9s %-6s %4s %9s %8s  %s\n", "NAME", "STATE", "ENGINE", "CPUS", "MEMORY",
               "PID", "UPTIME");
        json_array_foreach(list, i, o) table_row(o);
    }
    json_decref(list);
    return cli_flush();
}

int verb_ls(const struct verb *verb, int argc, char **argv)
{
    struct state_names names = {0};
    struct ls_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (guests_list(&names, &err)) {
        err_report(&err);
        r = CLI_FAILED;
    } else {
        r = print_list(&opts, &names);
    }
    state_names_free(&names);
    return r;
}

/* ---- info ----------------------------------------------------------------------- */

static void print_time(const char *label, const json_t *o, const char *key)
{
    json_t *n = json_object_get(o, key);
    time_t t = (time_t)json_integer_value(n);
    struct tm tm;
    char text[64];

    if (n && localtime_r(&t, &tm) && strftime(text, sizeof(text), "%F %T", &tm))
        printf("%-12s%s\n", label, text);
}

/* The limits of a running guest's devices, as --limit takes them. */
static void print_limits(const json_t *limits)
{
    const char *device, *word, *label = "limits";
    json_t *of_device, *number;

    json_object_foreach((json_t *)limits, device, of_device)
    {
        printf("%-12s%s", label, device);
        json_object_foreach(of_device, word, number)
            printf(",%s=%lld", word, (long long)json_integer_value(number));
        putchar('\n');
        label = "";
    }
}

static void print_text(const struct guest *g, const json_t *o)
{
    static const char *const shown[] = {"engine", "sandbox", "why", "broken"};
    char size[SIZE_TEXT], up[32];

    printf("%-12s%s\n", "name", g->name);
    printf("%-12s%s", "state", guest_state(g));
    if (!g->held && text_of(o, "how")[0])
        printf(" (%s, exit status %d)", text_of(o, "how"),
               (int)json_integer_value(json_object_get(o, "status")));
    putchar('\n');
    if (g->pid)
        printf("%-12s%d\n", "process", (int)g->pid);
    if (json_object_get(o, "cpus"))
        printf("%-12s%d\n", "CPUs", (int)json_integer_value(json_object_get(o, "cpus")));
    if (json_object_get(o, "memory"))
        printf("%-12s%s\n", "memory", size_text(o, "memory", size));
    for (size_t i = 0; i < ARRAY_SIZE(shown); i++)
        if (text_of(o, shown[i])[0])
            printf("%-12s%s\n", shown[i], text_of(o, shown[i]));
    print_time("started", o, "started");
    if (json_object_get(o, "uptime"))
        printf("%-12s%s\n", "uptime", span(json_real_value(json_object_get(o, "uptime")), up));
    print_limits(json_object_get(o, "limits"));
    print_time("began", o, "began");
    print_time("ended", o, "ended");
    for (unsigned i = 0; i < g->def.count; i++)
        printf("%s%s%s%s\n", i ? "            " : "options     ", g->def.item[i].opt->name,
               g->def.item[i].val ? " " : "", g->def.item[i].val ? g->def.item[i].val : "");
}

static json_t *definition_json(const struct definition *def)
{
    json_t *o = json_object();

    for (unsigned i = 0; o && i < def->count; i++) {
        const struct definition_item *item = &def->item[i];
        json_t *val = item->val ? json_string(item->val) : json_true();

        if (!item->opt->many) {
            json_object_set_new(o, item->opt->name, val);
            continue;
        }
        if (!json_object_get(o, item->opt->name))
            json_object_set_new(o, item->opt->name, json_array());
        json_array_append_new(json_object_get(o, item->opt->name), val);
    }
    return o;
}

static int print_yaml(const struct guest *g, struct err *err)
{
    char *text;

    if (!g->kept)
        return err_set(err, -ENOENT, "the guest %s has no definition: it runs in the foreground",
                       g->name);
    if (g->def_err.code) {
        *err = g->def_err;
        return err->code;
    }
    text = definition_text(&g->def, g->name, err);
    if (text)
        fputs(text, stdout);
    free(text);
    return text ? 0 : err->code;
}

static int show_one(const char *name, void *opaque, struct err *err)
{
    const struct ls_opts *opts = opaque;
    struct guest g;
    int r = guest_init(&g, name, err);
    json_t *o = r ? NULL : facts(&g);

    if (!r && !strcmp(opts->format, "yaml")) {
        r = print_yaml(&g, err);
    } else if (!r && !strcmp(opts->format, "json")) {
        if (g.kept && !g.def_err.code)
            json_object_set_new(o, "definition", definition_json(&g.def));
        json_dumpf(o, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (!r) {
        print_text(&g, o);
    }
    json_decref(o);
    guest_fini(&g);
    return r;
}

int verb_info(const struct verb *verb, int argc, char **argv)
{
    struct ls_opts opts;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    return r >= 0 ? r : guests_each(verb, nargs, argv, true, show_one, &opts);
}
