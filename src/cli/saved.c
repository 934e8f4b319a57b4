/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/saved.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/guests.h"
#include "cli/passing.h"
#include "cli/snapshots.h"
#include "core/snapshot_take.h"

#define SAVE_MS (600 * 1000) /* a slow disk and much memory take their time */
#define END_MS  60000

bool saved_exists(const char *name)
{
    char path[STATE_PATH];

    return !state_path(path, name, SAVED_DIR, NULL) && !access(path, F_OK);
}

static int aside_path(char buf[STATE_PATH], const char *name, struct err *err)
{
    char in[64];

    snprintf(in, sizeof(in), SAVED_ASIDE "%d", (int)getpid());
    return state_path(buf, name, in, err);
}

static int save_in(struct client_conn *conn, const char *name, struct err *err)
{
    char dir[STATE_PATH], as[STATE_PATH];
    struct definition def;
    json_t *args = NULL;
    int r = state_read(name, &def, err);

    if (!r)
        r = aside_path(dir, name, err);
    if (!r)
        r = state_path(as, name, SAVED_DIR, err);
    if (!r)
        r = snapshot_request(conn, dir, &def, &args, err);
    if (!r) {
        json_object_set_new(args, "end", json_string(as));
        conn->patience = SAVE_MS;
        r = client_ask(conn, "snapshot", args, NULL, err);
    } else {
        json_decref(args);
    }
    definition_fini(&def);
    return r;
}

int saved_take(const char *name, struct err *err)
{
    struct client_conn conn;
    int r = guest_connect(&conn, name, err);

    if (!r && !state_exists(name)) {
        r = -ENOENT;
        err_set(err, r, "the guest %s is not kept, and so is nothing that it was", name);
        err_next(err, "Guests made with lodge create or lodge run --detach are.");
    }
    if (!r)
        r = save_in(&conn, name, err);
    client_fini(&conn);
    /* It may have ended before the answer was on its way. */
    if (r && r != -EPIPE && r != -ECONNRESET)
        return r;
    if (!guest_wait_free(name, END_MS))
        return err_set(err, -ETIMEDOUT, "the guest %s was saved and does not end", name);
    if (saved_exists(name)) {
        *err = (struct err){0};
        return 0;
    }
    return r ? r : err_set(err, -EIO, "the guest %s ended before it was saved", name);
}

int saved_check(const char *name, char path[STATE_PATH], struct err *err)
{
    int r = state_path(path, name, SAVED_DIR, err);

    if (!r)
        r = snapshot_check_folder(path, err);
    if (r)
        err_next(err, "It is kept. Begin without it: lodge start --anew %s.", name);
    return r;
}

int saved_drop(const char *name, struct err *err)
{
    char path[STATE_PATH], aside[STATE_PATH], parent[STATE_PATH];
    int r = state_path(path, name, SAVED_DIR, err), fd;

    if (!r)
        r = aside_path(aside, name, err);
    if (!r)
        r = state_path(parent, name, NULL, err);
    if (r)
        return r;
    fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || rename(path, aside) || (fsync(fd) && errno != EINVAL))
        r = err_set(err, -errno, "cannot take away %s: %s", path, strerror(errno));
    else
        passing_delete(aside); /* what is left is swept */
    if (fd >= 0)
        close(fd);
    return r;
}

int saved_refuse(const char *name, struct err *err)
{
    if (!saved_exists(name))
        return 0;
    err_set(err, -EBUSY, "the guest %s was saved as it ran, which would be lost", name);
    err_next(err, "lodge start %s goes on from there, with --anew without it.", name);
    return -EBUSY;
}
