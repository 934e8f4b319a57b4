/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/guests.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/registry.h"
#include "cli/saved.h"
#include "cli/verb.h"

#define POLL_MS 20
#define QUIT_MS 10000 /* for a process that was asked to end to do so */
#define KILL_MS 60000 /* for one that was killed, on a busy host, with much memory to give back */

static int run_dir(char *buf, size_t size, const char *name, struct err *err)
{
    char base[256];
    int r = registry_base(base, sizeof(base), err);

    return r ? r : registry_dir(buf, size, base, name, err);
}

static pid_t holder(const char *name, bool *held)
{
    char base[256];

    *held = !registry_base(base, sizeof(base), NULL) && registry_is_held(base, name);
    return *held ? registry_holder(base, name) : 0;
}

/* Stopped by SIGSTOP and its kin, as /proc/PID/stat tells; what follows the name in it is the state (proc_pid_stat(5)). */
static bool is_suspended(pid_t pid)
{
    char path[64], buf[256];
    const char *state;
    FILE *f;
    size_t n;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return false;
    n = fread(buf, 1, sizeof(buf) - 1, f);
    fclose(f);
    buf[n] = 0;
    state = strrchr(buf, ')');
    return state && (!strncmp(state, ") T", 3) || !strncmp(state, ") t", 3));
}

bool guest_is_held(const char *name)
{
    bool held;

    holder(name, &held);
    return held;
}

bool guest_wait_free(const char *name, int ms)
{
    struct timespec now;
    int64_t end;

    clock_gettime(CLOCK_MONOTONIC, &now);
    end = now.tv_sec * 1000 + now.tv_nsec / 1000000 + ms;
    while (guest_is_held(name)) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec * 1000 + now.tv_nsec / 1000000 >= end)
            return false;
        usleep(POLL_MS * 1000);
    }
    return true;
}

static int no_guest(const char *name, struct err *err)
{
    err_set(err, -ENOENT, "there is no guest named %s", name);
    err_next(err, "lodge ls shows those that there are.");
    return -ENOENT;
}

int guest_init(struct guest *g, const char *name, struct err *err)
{
    struct client_conn conn;
    char dir[400];
    int r;

    memset(g, 0, sizeof(*g));
    r = registry_check_name(name, err);
    if (!r)
        r = run_dir(dir, sizeof(dir), name, err);
    if (r)
        return r;
    snprintf(g->name, sizeof(g->name), "%s", name);
    g->pid = holder(name, &g->held);
    g->kept = state_exists(name);
    if (g->kept) {
        state_read(name, &g->def, &g->def_err);
        g->last = state_read_last(name);
    }
    g->suspended = g->held && g->pid && is_suspended(g->pid);
    if (g->held && !g->suspended) {
        if (!client_init(&conn, dir, NULL))
            client_ask(&conn, "status", NULL, &g->status, NULL);
        client_fini(&conn);
    }
    return g->held || g->kept ? 0 : no_guest(name, err);
}

void guest_fini(struct guest *g)
{
    json_decref(g->status);
    json_decref(g->last);
    definition_fini(&g->def);
    memset(g, 0, sizeof(*g));
}

const char *guest_state(const struct guest *g)
{
    const char *state = json_string_value(json_object_get(g->status, "state"));
    const char *last = json_string_value(json_object_get(g->last, "state"));
    const char *how = json_string_value(json_object_get(g->last, "how"));

    if (g->suspended)
        return "suspended";
    if (g->held)
        return state ? state : "starting";
    if (g->def_err.code)
        return "broken";
    if (!last)
        return "created";
    if (!strcmp(last, "running"))
        return "crashed";
    if (saved_exists(g->name))
        return "saved";
    return how && !strcmp(how, "failed") ? "failed" : "stopped";
}

static void add_name(void *names, const char *name)
{
    state_names_add(names, name);
}

int guests_list(struct state_names *names, struct err *err)
{
    char base[256];
    int r = state_list(names, false, err);

    if (!r)
        r = registry_base(base, sizeof(base), err);
    if (!r)
        registry_each(base, add_name, names);
    return r;
}

int guest_connect(struct client_conn *conn, const char *name, struct err *err)
{
    char dir[400];
    int r = registry_check_name(name, err);

    *conn = (struct client_conn){.fd = -1};
    if (!r)
        r = run_dir(dir, sizeof(dir), name, err);
    if (!r)
        r = client_init(conn, dir, err);
    if (r != -ENOENT && r != -ECONNREFUSED)
        return r;
    if (guest_is_held(name)) {
        err_set(err, -EAGAIN, "the guest %s is just being started or ended", name);
        err_next(err, "Try again in a moment.");
        return -EAGAIN;
    }
    if (!state_exists(name))
        return no_guest(name, err);
    err_set(err, -ESRCH, "the guest %s is not running", name);
    err_next(err, "Start it with lodge start %s.", name);
    return -ESRCH;
}

int guest_ask(const char *name, const char *command, json_t **result, struct err *err)
{
    struct client_conn conn;
    int r = guest_connect(&conn, name, err);

    if (!r)
        r = client_ask(&conn, command, NULL, result, err);
    client_fini(&conn);
    return r;
}

int guest_kill(const char *name, struct err *err)
{
    int r = guest_ask(name, "quit", NULL, err);
    bool held;
    pid_t pid;

    if (r == -ENOENT || r == -ESRCH || r == -EINVAL)
        return r;
    if ((!r || r == -EPIPE) && guest_wait_free(name, QUIT_MS))
        return 0;
    /* The name's lock tells that the process of this number is still the guest's. */
    pid = holder(name, &held);
    if (held && pid > 0 && kill(pid, SIGKILL))
        return err_set(err, -errno, "cannot kill process %d of the guest %s: %s", (int)pid, name,
                       strerror(errno));
    if (guest_wait_free(name, KILL_MS))
        return 0;
    return err_set(err, -ETIMEDOUT, "process %d of the guest %s does not end", (int)pid, name);
}

int guest_check_protected(const char *name, const char *done, struct err *err)
{
    struct definition def;
    const char *val = NULL;
    int r = 0;

    definition_init(&def);
    /* What cannot be read protects nothing; who goes on says what is wrong with it. */
    if (state_exists(name) && !state_read(name, &def, NULL))
        val = definition_get(&def, "protected");
    if (val && (!strcmp(val, "on") || !strcmp(val, "true"))) {
        r = err_set(err, -EPERM, "the guest %s is protected and is not %s", name, done);
        err_next(err, "If it is to be: lodge set %s --protected off.", name);
    }
    definition_fini(&def);
    return r;
}

int guests_each(const struct verb *verb, int nargs, char **names, bool quiet,
                int (*fn)(const char *name, void *opaque, struct err *err), void *opaque)
{
    int status = CLI_OK;
    struct err err = {0};

    if (!nargs) {
        err_set(&err, -EINVAL, "lodge %s needs the name of a guest", verb->name);
        return verb_usage(verb, &err);
    }
    for (int i = 0; i < nargs; i++) {
        err = (struct err){0};
        if (fn(names[i], opaque, &err)) {
            if (err.code)
                err_report(&err);
            status = CLI_FAILED;
        } else if (!quiet) {
            printf("%s\n", names[i]);
            fflush(stdout);
        }
    }
    if (cli_flush() != CLI_OK)
        return CLI_FAILED;
    return status;
}
