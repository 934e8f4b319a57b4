/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The other end of the control socket: what the verbs talk to running guests through. */
#ifndef LODGE_CONTROL_CLIENT_H
#define LODGE_CONTROL_CLIENT_H

#include <jansson.h>

#include "base/err.h"
#include "base/types.h"

struct client_conn {
    int fd; /* -1: not connected */
    char *in;
    size_t nin;
    int patience; /* ms that an answer may take; -1: for ever */
};

/*
 * Connect to the guest whose run directory is `dir`, and see that it speaks our protocol. -ENOENT and -ECONNREFUSED: nobody
 * listens there. Waits for each answer for up to 30 seconds, unless conn->patience is changed then, and fails with -ETIMEDOUT. The caller frees with client_fini in any case.
 */
int client_init(struct client_conn *conn, const char *dir, struct err *err);
void client_fini(struct client_conn *conn); /* idempotent */

/*
 * Ask for `command` with `args` (taken; NULL: none). 0, with *result (NULL: of no interest) a new reference; a failure has the guest's own
 * error, or -EPIPE when it went away.
 */
int client_ask(struct client_conn *conn, const char *command, json_t *args, json_t **result,
               struct err *err);

/* What has come behind the last answer, once the connection is a console: up to `size` bytes of it. */
size_t client_rest(struct client_conn *conn, void *buf, size_t size);

#endif
