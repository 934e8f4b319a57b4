/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge stats and top: what running guests use of the host. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/shares.h"
#include "cli/size.h"
#include "cli/stop.h"
#include "cli/verb.h"

#define PATIENCE_MS 2000 /* a guest that takes longer to answer is left out for that time */

struct use {
    char name[64];
    pid_t pid;
    double at, cpu;   /* seconds */
    double percent;   /* of one CPU, since the look before; -1: not known */
    unsigned cap;     /* percent that it gets at most; 0: no limit */
    uint64_t memory;  /* that the process has of the host's, bytes */
    uint64_t disk[2]; /* bytes read and written */
    uint64_t net[2];  /* bytes received and sent */
};

struct uses {
    unsigned count;
    struct use *use;
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Resident pages: the second number of /proc/PID/statm (proc(5)). */
static uint64_t resident(pid_t pid)
{
    unsigned long long size, pages = 0;
    char path[64];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
    f = fopen(path, "re");
    if (f && fscanf(f, "%llu %llu", &size, &pages) != 2)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t sum_of(const json_t *list, const char *key)
{
    uint64_t sum = 0;
    size_t i;
    json_t *o;

    json_array_foreach(list, i, o) sum += (uint64_t)json_integer_value(json_object_get(o, key));
    return sum;
}

/* False: it does not run, or does not answer. */
static bool look(struct use *u, const char *name)
{
    struct client_conn conn = {.fd = -1};
    json_t *status = NULL, *o = NULL;
    struct err err = {0};
    int r = guest_connect(&conn, name, &err);

    if (!r) {
        conn.patience = PATIENCE_MS;
        r = client_ask(&conn, "status", NULL, &status, &err);
    }
    if (!r)
        r = client_ask(&conn, "usage", NULL, &o, &err);
    if (!r) {
        const json_t *disks = json_object_get(o, "disks"), *nets = json_object_get(o, "nets");

        *u = (struct use){.at = now(), .percent = -1};
        snprintf(u->name, sizeof(u->name), "%s", name);
        u->pid = (pid_t)json_integer_value(json_object_get(status, "pid"));
        u->cpu = json_real_value(json_object_get(o, "user")) +
                 json_real_value(json_object_get(o, "system"));
        u->cap = (unsigned)json_integer_value(json_object_get(o, "cap"));
        if (!u->cap)
            u->cap = shares_cap(name, u->pid);
        u->memory = resident(u->pid);
        u->disk[0] = sum_of(disks, "read_bytes");
        u->disk[1] = sum_of(disks, "written_bytes");
        u->net[0] = sum_of(nets, "received_bytes");
        u->net[1] = sum_of(nets, "sent_bytes");
    }
    json_decref(status);
    json_decref(o);
    client_fini(&conn);
    return !r;
}

static const struct use *use_named(const struct uses *all, const char *name, pid_t pid)
{
    for (unsigned i = 0; i < all->count; i++)
        if (all->use[i].pid == pid && !strcmp(all->use[i].name, name))
            return &all->use[i];
    return NULL;
}

/* Those that run, of `names` or, if there are none, of all. To be freed. */
static int look_all(struct uses *all, char **names, int count, const struct uses *before,
                    struct err *err)
{
    struct state_names found = {0};
    int r = count ? 0 : guests_list(&found, err);
    unsigned n = count ? (unsigned)count : found.count;

    *all = (struct uses){0};
    if (!r)
        all->use = calloc(n + 1, sizeof(*all->use));
    if (!r && !all->use)
        r = err_set(err, -ENOMEM, "no memory for the list of guests");
    for (unsigned i = 0; !r && i < n; i++) {
        const char *name = count ? names[i] : found.name[i];
        struct use *u = &all->use[all->count];
        const struct use *old;

        if (!guest_is_held(name) || !look(u, name))
            continue;
        old = use_named(before, u->name, u->pid);
        if (old && u->at > old->at)
            u->percent = 100 * (u->cpu - old->cpu) / (u->at - old->at);
        all->count++;
    }
    state_names_free(&found);
    return r;
}

static void uses_free(struct uses *all)
{
    free(all->use);
    *all = (struct uses){0};
}

/* ---- Printing --------------------------------------------------------------------------- */

static void print_head(void)
{
    printf("%-20s %8s %7s %6s %9s %9s %9s %9s %9s %9s\n", "NAME", "PID", "CPU%", "CAP%", "CPU TIME",
           "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT");
}

static void print_use(const struct use *u)
{
    char percent[16] = "-", cap[16] = "-", text[5][SIZE_TEXT];
    const uint64_t sizes[5] = {u->memory, u->disk[0], u->disk[1], u->net[0], u->net[1]};

    if (u->percent >= 0)
        snprintf(percent, sizeof(percent), "%.1f", u->percent);
    if (u->cap)
        snprintf(cap, sizeof(cap), "%u", u->cap);
    for (unsigned i = 0; i < 5; i++)
        size_format(sizes[i], text[i]);
    printf("%-20s %8d %7s %6s %8.1fs %9s %9s %9s %9s %9s\n", u->name, (int)u->pid, percent, cap,
           u->cpu, text[0], text[1], text[2], text[3], text[4]);
}

static json_t *use_json(const struct use *u)
{
    return json_pack("{s:s, s:i, s:f, s:i, s:f, s:I, s:I, s:I, s:I, s:I}", "name", u->name, "pid",
                     (int)u->pid, "cpu_percent", u->percent < 0 ? 0 : u->percent, "cpu_cap",
                     (int)u->cap, "cpu_seconds", u->cpu, "memory", (json_int_t)u->memory,
                     "read_bytes", (json_int_t)u->disk[0], "written_bytes", (json_int_t)u->disk[1],
                     "received_bytes", (json_int_t)u->net[0], "sent_bytes", (json_int_t)u->net[1]);
}

static int print_json(const struct uses *all)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < all->count; i++)
        json_array_append_new(list, use_json(&all->use[i]));
    json_dumpf(list, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(list);
    return cli_flush();
}

static int busiest_first(const void *a, const void *b)
{
    const struct use *x = a, *y = b;

    if (x->percent != y->percent)
        return x->percent < y->percent ? 1 : -1;
    return strcmp(x->name, y->name);
}

/* ---- The verbs ---------------------------------------------------------------------------- */

static int fail(const struct err *err)
{
    err_report(err);
    return CLI_FAILED;
}

/* A name that is none is a mistake; a guest that does not run just uses nothing. */
static int check_names(char **names, int count, struct err *err)
{
    for (int i = 0; i < count; i++) {
        struct guest g;
        int r = guest_init(&g, names[i], err);

        guest_fini(&g);
        if (r)
            return r;
    }
    return 0;
}

int verb_stats(const struct verb *verb, int argc, char **argv)
{
    struct uses first = {0}, all = {0};
    struct watch_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    r = check_names(argv, nargs, &err);
    if (!r)
        r = look_all(&first, argv, nargs, &all, &err);
    if (!r && first.count) {
        sleep(opts.interval);
        r = look_all(&all, argv, nargs, &first, &err);
    }
    if (r) {
        r = fail(&err);
    } else if (!strcmp(opts.format, "json")) {
        r = print_json(&all);
    } else {
        print_head();
        for (unsigned i = 0; i < all.count; i++)
            print_use(&all.use[i]);
        r = cli_flush();
    }
    uses_free(&first);
    uses_free(&all);
    return r;
}

/* As many lines as the terminal has, or all. */
static int print_top(struct uses *all, bool tty)
{
    struct winsize size;
    unsigned rows = all->count;

    if (tty && !ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) && size.ws_row > 2 &&
        rows > size.ws_row - 2u)
        rows = size.ws_row - 2u;
    qsort(all->use, all->count, sizeof(*all->use), busiest_first);
    if (tty)
        fputs("\033[H\033[J", stdout); /* home, and clear what is below */
    print_head();
    for (unsigned i = 0; i < rows; i++)
        print_use(&all->use[i]);
    return cli_flush();
}

int verb_top(const struct verb *verb, int argc, char **argv)
{
    bool tty = isatty(STDOUT_FILENO);
    struct uses before = {0}, all = {0};
    struct watch_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    stop_catch();
    r = check_names(argv, nargs, &err);
    if (!r)
        r = look_all(&before, argv, nargs, &all, &err);
    for (unsigned n = 0; !r && (!opts.count || n < opts.count); n++) {
        sleep(opts.interval);
        if (stop_asked())
            break;
        r = look_all(&all, argv, nargs, &before, &err);
        if (r)
            break;
        if (n && !tty)
            putchar('\n');
        if (print_top(&all, tty) != CLI_OK) {
            uses_free(&all);
            break;
        }
        uses_free(&before);
        before = all;
        all = (struct uses){0};
    }
    uses_free(&before);
    return r ? fail(&err) : CLI_OK;
}
