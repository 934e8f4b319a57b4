/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge port: ports of the host that lead to a running guest. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/guests.h"
#include "cli/verb.h"
#include "net/publish.h"

struct port_opts {
    const char *format;
    bool quiet;
};

const struct opt_desc port_opts[] = {
    {.name = "format",
     .arg = "table|json",
     .parse = opt_choice,
     .choices = "table|json",
     .def = "table",
     .field = offsetof(struct port_opts, format),
     .help = "how to print the list"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .field = offsetof(struct port_opts, quiet),
     .help = "do not print what was added"},
    {NULL},
};

static int list(struct client_conn *conn, const struct port_opts *o, struct err *err)
{
    json_t *result = NULL, *ports, *p;
    size_t i;
    int r = client_ask(conn, "ports", NULL, &result, err);

    if (r)
        return r;
    ports = json_object_get(result, "ports");
    if (!strcmp(o->format, "json")) {
        json_dumpf(ports, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        printf("%-8s  %-20s %5s  %5s\n", "PROTOCOL", "ADDRESS", "HOST", "GUEST");
        json_array_foreach(ports, i, p)
        {
            const char *protocol = "", *address = "";
            int host = 0, guest = 0;

            json_unpack(p, "{s:s, s:s, s:i, s:i}", "protocol", &protocol, "address", &address,
                        "host", &host, "guest", &guest);
            printf("%-8s  %-20s %5d  %5d\n", protocol, address, host, guest);
        }
    }
    json_decref(result);
    return 0;
}

/* What the guest's process has answered, as it is written on a command line. */
static void print_added(const json_t *result)
{
    const char *protocol = "", *address = "";
    int host = 0, guest = 0;

    json_unpack((json_t *)result, "{s:{s:s, s:s, s:i, s:i}}", "port", "protocol", &protocol,
                "address", &address, "host", &host, "guest", &guest);
    printf(strchr(address, ':') ? "[%s]:%d:%d/%s\n" : "%s:%d:%d/%s\n", address, host, guest,
           protocol);
}

static int change(struct client_conn *conn, const struct port_opts *o, bool add, const char *text,
                  struct err *err)
{
    json_t *result = NULL;
    int r = client_ask(conn, add ? "publish" : "unpublish", json_pack("{s:s}", "port", text),
                       &result, err);

    if (!r && add && !o->quiet)
        print_added(result);
    json_decref(result);
    return r;
}

/* What was done before something failed stays. */
static int change_all(struct client_conn *conn, const struct port_opts *o, int nargs, char **argv)
{
    int status = CLI_OK;

    for (int i = 2; i < nargs; i++) {
        struct err err = {0};

        if (change(conn, o, !strcmp(argv[1], "add"), argv[i], &err) < 0) {
            err_report(&err);
            status = CLI_FAILED;
        }
    }
    return status;
}

static int check_args(int nargs, char **argv, struct err *err)
{
    if (!nargs)
        return err_set(err, -EINVAL, "lodge port needs the name of a guest");
    if (nargs == 1 || (nargs == 2 && !strcmp(argv[1], "list")))
        return 0;
    if (strcmp(argv[1], "add") && strcmp(argv[1], "remove")) {
        err_set(err, -EINVAL, "lodge port does not know '%.80s'", argv[1]);
        err_next(err, "It is list, add or remove.");
        return -EINVAL;
    }
    if (nargs > 2)
        return 0;
    err_set(err, -EINVAL, "lodge port %s %s needs a port", argv[0], argv[1]);
    err_next(err, "Like 2222:22.");
    return -EINVAL;
}

int verb_port(const struct verb *verb, int argc, char **argv)
{
    struct client_conn conn = {.fd = -1};
    struct port_opts o;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &o, sizeof(o), argc, argv, &nargs);

    if (r >= 0)
        return r;
    if (check_args(nargs, argv, &err) < 0)
        return verb_usage(verb, &err);
    r = guest_connect(&conn, argv[0], &err);
    if (!r && nargs > 2)
        r = change_all(&conn, &o, nargs, argv);
    else if (!r)
        r = list(&conn, &o, &err);
    client_fini(&conn);
    if (r < 0) {
        err_report(&err);
        return CLI_FAILED;
    }
    return r ? r : cli_flush();
}
