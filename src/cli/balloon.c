/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge balloon: how much memory a running guest keeps, and what it does with it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/guests.h"
#include "cli/size.h"
#include "cli/verb.h"

/* The driver is asked by the first request for statistics and answers soon: how often to look, and how long after. */
#define STATS_TRIES 40
#define STATS_US    25000
#define STATS_FRESH 1.5 /* s */

struct balloon_opts {
    bool json;
};

const struct opt_desc balloon_opts[] = {
    {.name = "json",
     .parse = opt_flag,
     .field = offsetof(struct balloon_opts, json),
     .help = "print everything that is known as JSON, in bytes"},
    {NULL},
};

static int ask_balloon(struct client_conn *conn, const char *size, json_t **result, struct err *err)
{
    json_t *args = NULL;
    uint64_t bytes;

    if (size) {
        if (size_parse(size, &bytes) || bytes > INT64_MAX) {
            err_set(err, -EINVAL, "'%.80s' is no size", size);
            return err_next(err, "Sizes are like 512M, 2GiB or 1.5G; a plain number is MiB.");
        }
        args = json_pack("{s:I}", "size", (json_int_t)bytes);
        if (!args)
            return err_set(err, -ENOMEM, "no memory for a request");
    }
    return client_ask(conn, "balloon", args, result, err);
}

/* What the guest says now or, if it does not within a second, has said; without members if that is nothing. */
static int ask_stats(struct client_conn *conn, json_t **result, struct err *err)
{
    int r = client_ask(conn, "stats", NULL, result, err);

    for (unsigned i = 0; !r && i < STATS_TRIES; i++) {
        const json_t *age = json_object_get(*result, "age");

        if (age && json_real_value(age) < STATS_FRESH)
            break;
        json_decref(*result);
        *result = NULL;
        usleep(STATS_US);
        r = client_ask(conn, "stats", NULL, result, err);
    }
    return r;
}

static void print_size(const json_t *from, const char *member, const char *what)
{
    const json_t *val = json_object_get(from, member);
    char text[SIZE_TEXT];

    if (val && json_integer_value(val) >= 0)
        printf("%-22s%s\n", what, size_format((uint64_t)json_integer_value(val), text));
}

static int print_all(const struct balloon_opts *opts, json_t *balloon, json_t *stats)
{
    if (opts->json) {
        json_t *all = json_pack("{s:O, s:O}", "balloon", balloon, "stats", stats);

        if (all)
            json_dumpf(all, stdout, JSON_INDENT(4) | JSON_PRESERVE_ORDER);
        json_decref(all);
        putchar('\n');
        return cli_flush();
    }
    print_size(balloon, "memory", "started with");
    print_size(balloon, "target", "is to keep");
    print_size(balloon, "actual", "keeps");
    print_size(stats, "total", "says it has");
    print_size(stats, "free", "unused in it");
    print_size(stats, "available", "available in it");
    print_size(stats, "caches", "caches in it");
    print_size(balloon, "given_back", "given back in all");
    return cli_flush();
}

int verb_balloon(const struct verb *verb, int argc, char **argv)
{
    json_t *balloon = NULL, *stats = NULL;
    struct client_conn conn = {.fd = -1};
    struct balloon_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (!nargs) {
        err_set(&err, -EINVAL, "lodge balloon needs the name of a guest");
        return verb_usage(verb, &err);
    }
    r = guest_connect(&conn, argv[0], &err);
    if (!r)
        r = ask_balloon(&conn, nargs > 1 ? argv[1] : NULL, &balloon, &err);
    if (!r && nargs == 1)
        r = ask_stats(&conn, &stats, &err);
    if (r) {
        err_report(&err);
        r = CLI_FAILED;
    } else if (nargs == 1) {
        r = print_all(&opts, balloon, stats);
    }
    json_decref(balloon);
    json_decref(stats);
    client_fini(&conn);
    return r;
}
