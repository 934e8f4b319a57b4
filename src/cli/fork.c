/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge fork. */
#include "cli/fork.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/clone.h"
#include "cli/detach.h"
#include "cli/guest_image.h"
#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/passing.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/snapshots.h"
#include "cli/verb.h"
#include "core/snapshot_take.h"

#define PATIENCE_MS 600000

struct forking {
    const char *from;
    char **names;
    unsigned count, made;
    bool quiet;
    struct registry *held; /* of each */
    char dir[STATE_PATH];
    json_t *disks;
};

/* ---- Before anything is done ---------------------------------------------------------------- */

static int check_names(const struct forking *f, struct err *err)
{
    for (unsigned i = 0; i < f->count; i++) {
        int r = registry_check_name(f->names[i], err);

        if (r)
            return r;
        for (unsigned k = 0; k < i; k++)
            if (!strcmp(f->names[i], f->names[k]))
                return err_set(err, -EINVAL, "the name %s is given twice", f->names[i]);
        if (!state_exists(f->names[i]))
            continue;
        err_set(err, -EEXIST, "there is a guest named %s already", f->names[i]);
        return err_next(err, "Choose another name, or remove that one: lodge rm %s.", f->names[i]);
    }
    return 0;
}

static int check_original(const struct forking *f, struct err *err)
{
    int r = registry_check_name(f->from, err);

    if (r)
        return r;
    if (!guest_is_held(f->from)) {
        err_set(err, -ESRCH, "the guest %s does not run, so there is nothing to go on from",
                f->from);
        return err_next(err, "Start it first: lodge start %s; or copy its disks: lodge clone.",
                        f->from);
    }
    if (state_exists(f->from))
        return 0;
    err_set(err, -ENOENT, "nothing is kept of the guest %s, so it cannot be forked", f->from);
    return err_next(err, "lodge run --detach and lodge create make guests that are kept.");
}

static int claim_all(struct forking *f, struct err *err)
{
    char base[256];
    int r = registry_base(base, sizeof(base), err);

    for (unsigned i = 0; !r && i < f->count; i++)
        r = registry_claim(&f->held[i], base, f->names[i], err);
    return r;
}

/* ---- The moment ------------------------------------------------------------------------------- */

static int take(struct forking *f, struct err *err)
{
    struct client_conn conn;
    char hidden[PASSING_NAME], in[PASSING_NAME + 16];
    int r = guest_connect(&conn, f->from, err);
    json_t *args;

    passing_name(hidden, "fork");
    snprintf(in, sizeof(in), SNAPSHOTS_DIR "/%s", hidden);
    if (!r)
        r = snapshots_make_dir(f->from, err);
    if (!r)
        r = state_path(f->dir, f->from, in, err);
    if (!r) {
        args = json_pack("{s:s}", "directory", f->dir);
        conn.patience = PATIENCE_MS;
        r = args ? client_ask(&conn, "fork", args, &f->disks, err)
                 : err_set(err, -ENOMEM, "no memory for a request");
    }
    client_fini(&conn);
    return r;
}

/* Who has opened the files goes on reading them. */
static void drop_dir(const struct forking *f)
{
    int fd = f->dir[0] ? open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;

    if (fd < 0)
        return;
    unlinkat(fd, SNAPSHOT_STATE, 0);
    unlinkat(fd, SNAPSHOT_MEMORY, 0);
    close(fd);
    rmdir(f->dir);
}

/* ---- The new guests ----------------------------------------------------------------------------- */

static int definition_of(const struct forking *f, unsigned n, struct definition *def,
                         struct err *err)
{
    int r = state_read(f->from, def, err);

    return r ? r : clone_definition(def, f->names[n], err);
}

static int make_all(struct forking *f, struct err *err)
{
    int r = 0;

    while (!r && f->made < f->count) {
        struct definition def;

        r = definition_of(f, f->made, &def, err);
        if (!r)
            r = clone_make(f->from, f->names[f->made], &def, f->disks, false, err);
        definition_fini(&def);
        f->made += !r;
    }
    return r;
}

/* In a process of its own, since each waits until its guest runs. */
static int start_one(const struct forking *f, unsigned n)
{
    struct definition def;
    struct err err = {0};
    int r = definition_of(f, n, &def, &err);

    if (!r)
        r = snapshot_go_on(f->names[n], &def, f->dir, f->quiet, &err);
    definition_fini(&def);
    if (r && err.code)
        err_report(&err);
    fflush(NULL);
    return r ? CLI_FAILED : CLI_OK;
}

static int wait_all(const pid_t *pids, unsigned count)
{
    int r = 0;

    for (unsigned i = 0; i < count; i++) {
        int status = 1;

        while (pids[i] > 0 && waitpid(pids[i], &status, 0) < 0 && errno == EINTR)
            ;
        if (status)
            r = -ECHILD;
    }
    return r;
}

static int start_all(struct forking *f, struct err *err)
{
    pid_t *pids = calloc(f->count, sizeof(*pids));
    int r = pids ? 0 : err_set(err, -ENOMEM, "no memory for %u guests", f->count), failed = 0;
    unsigned n = 0;

    fflush(NULL);
    for (; !r && n < f->count; n++) {
        /* The guest's process takes the name; nobody else has a guest to start by it. */
        registry_release(&f->held[n]);
        pids[n] = fork();
        if (!pids[n])
            _exit(start_one(f, n));
        if (pids[n] < 0)
            r = err_set(err, -errno, "cannot start a process for %s: %s", f->names[n],
                        strerror(errno));
    }
    if (pids)
        failed = wait_all(pids, n);
    free(pids);
    return r ? r : failed;
}

/* All or none. */
static void undo(struct forking *f)
{
    for (unsigned i = 0; i < f->made; i++)
        if (f->held[i].fd < 0 && guest_is_held(f->names[i]))
            guest_kill(f->names[i], NULL);
    for (unsigned i = 0; i < f->made; i++) {
        guest_image_move(f->names[i], NULL, NULL);
        state_drop(f->names[i], NULL);
    }
}

static int fork_guest(struct forking *f, struct err *err)
{
    int r = check_original(f, err);

    if (!r)
        r = check_names(f, err);
    if (!r)
        r = claim_all(f, err);
    if (!r)
        r = take(f, err);
    if (!r)
        r = make_all(f, err);
    if (!r)
        r = start_all(f, err);
    if (r)
        undo(f);
    drop_dir(f);
    for (unsigned i = 0; i < f->count; i++)
        registry_release(&f->held[i]);
    return r;
}

int verb_fork(const struct verb *verb, int argc, char **argv)
{
    struct power_opts opts;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);
    struct forking f = {0};

    if (r >= 0)
        return r;
    if (nargs < 2) {
        err_set(&err, -EINVAL, "lodge fork needs the name of a guest and those of new ones");
        return verb_usage(verb, &err);
    }
    f = (struct forking){
        .from = argv[0], .names = argv + 1, .count = (unsigned)nargs - 1, .quiet = opts.quiet};
    f.held = calloc(f.count, sizeof(*f.held));
    if (!f.held) {
        perror("lodge: no memory");
        return CLI_FAILED;
    }
    for (unsigned i = 0; i < f.count; i++)
        f.held[i].fd = -1;
    r = fork_guest(&f, &err);
    json_decref(f.disks);
    free(f.held);
    if (r) {
        if (err.code) /* else the guest's process has said it */
            err_report(&err);
        return CLI_FAILED;
    }
    for (unsigned i = 0; !opts.quiet && i < f.count; i++)
        printf("%s\n", f.names[i]);
    return cli_flush();
}
