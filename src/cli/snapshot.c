/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge snapshot, snapshots and restore. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/clone.h"
#include "cli/detach.h"
#include "cli/guests.h"
#include "cli/layers.h"
#include "cli/life_opts.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/saved.h"
#include "cli/size.h"
#include "cli/snapshots.h"
#include "cli/verb.h"

#define PATIENCE_MS (24 * 3600 * 1000) /* a slow disk and much memory take their time */
#define PROGRESS_US 250000

/* ---- Progress ------------------------------------------------------------------------ */

/* How far it is, on a terminal, asked for through a connection of its own. */
struct progress {
    const char *name;
    pthread_t thread;
    bool started;
    _Atomic bool stop;
};

static void progress_show(const json_t *status)
{
    json_int_t done = 0, all = 0;

    if (!json_unpack((json_t *)status, "{s:{s:I, s:I}}", "copying", "done", &done, "all", &all) &&
        all > 0)
        fprintf(stderr, "\r%3d%% of the memory", (int)(100 * done / all));
}

static void *progress_main(void *opaque)
{
    struct progress *p = opaque;

    while (!atomic_load(&p->stop)) {
        json_t *status = NULL;

        if (!guest_ask(p->name, "status", &status, NULL))
            progress_show(status);
        json_decref(status);
        usleep(PROGRESS_US);
    }
    fprintf(stderr, "\r                     \r");
    return NULL;
}

/* Signals stay with the thread that waits. */
static void progress_begin(struct progress *p, const char *name, bool quiet)
{
    sigset_t all, old;

    *p = (struct progress){.name = name};
    if (quiet || !isatty(STDERR_FILENO))
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    p->started = !pthread_create(&p->thread, NULL, progress_main, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void progress_end(struct progress *p)
{
    atomic_store(&p->stop, true);
    if (p->started)
        pthread_join(p->thread, NULL);
}

/* ---- snapshot -------------------------------------------------------------------------- */

static json_t *meta_of(const json_t *status)
{
    const char *engine = "", *version = "";
    json_int_t cpus = 0, memory = 0;

    json_unpack((json_t *)status, "{s:s, s:s, s:I, s:I}", "engine", &engine, "version", &version,
                "cpus", &cpus, "memory", &memory);
    return json_pack("{s:s, s:I, s:s, s:I, s:I}", "lodge", version, "taken", (json_int_t)time(NULL),
                     "engine", engine, "cpus", cpus, "memory", memory);
}

/* The arguments of the guest's job. */
static json_t *request_of(const char *dir, const struct definition *def, const json_t *status,
                          struct err *err)
{
    json_t *object = meta_of(status), *args = NULL;
    char *meta = object ? json_dumps(object, JSON_INDENT(2)) : NULL;
    char *text = definition_text(def, NULL, err);

    if (meta && text)
        args = json_pack("{s:s, s:s, s:s}", "directory", dir, "meta", meta, "definition", text);
    if (!args && !err->code)
        err_set(err, -ENOMEM, "no memory for a request");
    free(meta);
    free(text);
    json_decref(object);
    return args;
}

int snapshot_request(struct client_conn *conn, const char *dir, const struct definition *def,
                     json_t **args, struct err *err)
{
    json_t *status = NULL;
    int r = client_ask(conn, "status", NULL, &status, err);

    *args = r ? NULL : request_of(dir, def, status, err);
    json_decref(status);
    return r ? r : *args ? 0 : err->code;
}

/* Asked for, and waited for. */
static int take_in(struct client_conn *conn, const char *name, const char *dir,
                   const struct definition *def, const struct snapshot_opts *opts, json_t **result,
                   struct err *err)
{
    struct progress progress;
    json_t *args;
    int r = snapshot_request(conn, dir, def, &args, err);

    if (!r) {
        conn->patience = PATIENCE_MS;
        progress_begin(&progress, name, opts->quiet);
        r = client_ask(conn, "snapshot", args, result, err);
        progress_end(&progress);
    }
    return r;
}

static int take(const char *name, const char *tag, const struct snapshot_opts *opts,
                json_t **result, struct err *err)
{
    char dir[STATE_PATH], layers[STORE_PATH];
    struct client_conn conn;
    struct definition def;
    int r = guest_connect(&conn, name, err);

    definition_init(&def);
    if (!r && !state_exists(name)) {
        err_set(err, -ENOENT, "the guest %s is not kept, and so are no snapshots of it", name);
        r = err_next(err, "Guests made with lodge create or lodge run --detach are.");
    }
    if (!r)
        r = state_read(name, &def, err);
    if (!r)
        r = clone_layers_dir(&def, name, layers, err);
    if (!r)
        r = snapshot_begin(dir, name, tag, err);
    if (!r)
        r = take_in(&conn, name, dir, &def, opts, result, err);
    if (!r)
        r = snapshot_complete(name, tag, layers, *result, err);
    definition_fini(&def);
    client_fini(&conn);
    return r;
}

static int print_taken(const char *name, const char *tag, const struct snapshot_opts *opts,
                       const json_t *result)
{
    double stopped = json_real_value(json_object_get(result, "stopped"));
    json_t *facts = snapshot_facts(name, tag);

    if (!strcmp(opts->format, "json") && facts) {
        json_object_set_new(facts, "stopped", json_real(stopped));
        json_dumpf(facts, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (!opts->quiet) {
        char size[SIZE_TEXT];

        printf("%s: %s, the guest stood still for %.0f ms\n", tag,
               size_format((uint64_t)json_integer_value(json_object_get(facts, "size")), size),
               stopped * 1e3);
    }
    json_decref(facts);
    return cli_flush();
}

/* Name and tag, both of which must be there. */
static int begin(const struct verb *verb, struct snapshot_opts *opts, int argc, char **argv)
{
    struct err err = {0};
    int nargs, r = verb_parse(verb, opts, sizeof(*opts), argc, argv, &nargs);

    if (r >= 0 || nargs == 2)
        return r;
    err_set(&err, -EINVAL, "lodge %s needs the name of a guest and a tag", verb->name);
    return verb_usage(verb, &err);
}

int verb_snapshot(const struct verb *verb, int argc, char **argv)
{
    struct snapshot_opts opts;
    struct err err = {0};
    json_t *result = NULL;
    int r = begin(verb, &opts, argc, argv);

    if (r >= 0)
        return r;
    r = opts.rm ? snapshot_remove(argv[0], argv[1], &err)
                : take(argv[0], argv[1], &opts, &result, &err);
    if (r) {
        err_report(&err);
        return CLI_FAILED;
    }
    r = opts.rm ? CLI_OK : print_taken(argv[0], argv[1], &opts, result);
    json_decref(result);
    return r;
}

/* ---- snapshots -------------------------------------------------------------------------- */

static void print_row(const char *tag, const json_t *facts)
{
    time_t taken = (time_t)json_integer_value(json_object_get(facts, "taken"));
    const char *engine = json_string_value(json_object_get(facts, "engine"));
    char when[32] = "", memory[SIZE_TEXT], size[SIZE_TEXT];
    struct tm tm;

    if (!facts) {
        printf("%-20s damaged\n", tag);
        return;
    }
    if (localtime_r(&taken, &tm))
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
    printf("%-20s %-19s %-6s %9s %9s\n", tag, when, engine ? engine : "",
           size_format((uint64_t)json_integer_value(json_object_get(facts, "memory")), memory),
           size_format((uint64_t)json_integer_value(json_object_get(facts, "size")), size));
}

static int print_tags(const char *name, const struct snapshot_opts *opts,
                      const struct state_names *tags)
{
    bool json = !strcmp(opts->format, "json");
    json_t *list = json_array();

    if (!json && !opts->quiet)
        printf("%-20s %-19s %-6s %9s %9s\n", "TAG", "TAKEN", "ENGINE", "MEMORY", "ON DISK");
    for (unsigned i = 0; i < tags->count; i++) {
        json_t *facts = opts->quiet ? NULL : snapshot_facts(name, tags->name[i]);

        if (opts->quiet)
            printf("%s\n", tags->name[i]);
        else if (!json)
            print_row(tags->name[i], facts);
        else
            json_array_append(list, facts);
        json_decref(facts);
    }
    if (json && !opts->quiet) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(list);
    return cli_flush();
}

int verb_snapshots(const struct verb *verb, int argc, char **argv)
{
    struct state_names tags = {0};
    struct snapshot_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (!nargs) {
        err_set(&err, -EINVAL, "lodge snapshots needs the name of a guest");
        return verb_usage(verb, &err);
    }
    if (snapshots_list(argv[0], &tags, &err)) {
        err_report(&err);
        return CLI_FAILED;
    }
    r = print_tags(argv[0], &opts, &tags);
    state_names_free(&tags);
    return r;
}

/* ---- restore ------------------------------------------------------------------------------ */

int snapshot_go_on(const char *name, const struct definition *def, const char *dir, bool quiet,
                   struct err *err)
{
    struct run_opts opts = {0};
    int r = definition_apply(def, &opts, sizeof(opts), err);

    if (!r) {
        opts.name = name;
        opts.detach = true;
        opts.restore = dir;
        opts.quiet = opts.quiet || quiet;
        r = run_opts_check(&opts, err);
    }
    if (!r && detach_start(&opts, NULL, false) != CLI_OK)
        r = -ECHILD;
    run_opts_fini(&opts);
    return r;
}

/* What the disks are to be, beside what they are. */
static int disks_stage(const char *name, const char *tag, const char *layers,
                       struct layers_staged *staged, struct err *err)
{
    char from[STATE_PATH];
    json_t *disks;
    int r = snapshot_disks(name, tag, from, &disks, err);

    if (!r && disks)
        r = layers_stage(staged, from, disks, layers, err);
    json_decref(disks);
    return r;
}

/* With the guest's name held. */
static int disks_adopt(const char *name, struct layers_staged *staged, struct err *err)
{
    char base[256];
    struct registry reg = {.fd = -1};
    int r = registry_base(base, sizeof(base), err);

    if (!r)
        r = registry_claim(&reg, base, name, err);
    if (!r)
        r = layers_adopt(staged, err);
    registry_release(&reg);
    return r;
}

static int go_on_from(const char *name, const char *tag, const struct definition *def,
                      struct layers_staged *staged, bool quiet, struct err *err)
{
    struct err back = {0};
    char dir[STATE_PATH];
    int r = snapshot_path(dir, name, tag, NULL, err);

    if (!r && staged->file[0])
        r = disks_adopt(name, staged, err);
    if (!r)
        r = snapshot_go_on(name, def, dir, quiet, err);
    if (r && !guest_is_held(name) && layers_return(staged, &back))
        err_report(&back);
    return r;
}

/* All that can fail for want of room is done before a guest that runs is given up. */
static int restore(const char *name, const char *tag, bool quiet, struct err *err)
{
    struct layers_staged staged = {.file = ""};
    char layers[STORE_PATH];
    struct definition def;
    int r = snapshot_definition(name, tag, &def, err);

    if (!r)
        r = clone_layers_dir(&def, name, layers, err);
    if (!r)
        r = saved_refuse(name, err);
    /* Nor for what is no good. */
    if (!r && guest_is_held(name))
        r = snapshot_check(name, tag, err);
    if (!r)
        r = disks_stage(name, tag, layers, &staged, err);
    if (!r && guest_is_held(name))
        r = guest_kill(name, err);
    if (!r)
        r = go_on_from(name, tag, &def, &staged, quiet, err);
    layers_staged_fini(&staged);
    definition_fini(&def);
    return r;
}

int verb_restore(const struct verb *verb, int argc, char **argv)
{
    struct snapshot_opts opts;
    struct err err = {0};
    int r = begin(verb, &opts, argc, argv);

    if (r >= 0)
        return r;
    if (restore(argv[0], argv[1], opts.quiet, &err)) {
        if (err.code)
            err_report(&err);
        return CLI_FAILED;
    }
    if (!opts.quiet)
        printf("%s\n", argv[0]);
    return cli_flush();
}
