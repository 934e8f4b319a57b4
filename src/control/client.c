/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/control.h"
#include "control/proto.h"

#define ANSWER_MAX (1u << 20)
#define PATIENCE   30000 /* ms */

static int gone(struct err *err)
{
    return err_set(err, -EPIPE, "the guest's process has gone away");
}

static int wait_for(struct client_conn *conn, short events, struct err *err)
{
    struct pollfd p = {.fd = conn->fd, .events = events};
    int r;

    do {
        r = poll(&p, 1, conn->patience);
    } while (r < 0 && errno == EINTR);
    if (r > 0)
        return 0;
    err_set(err, -ETIMEDOUT, "the guest's process does not answer");
    return err_next(err, "It may be stopped, or its host overloaded.");
}

/* A line into *line (it ends where the line feed was; valid until the next call); what came behind stays in conn. */
static int read_line(struct client_conn *conn, char **line, size_t *len, struct err *err)
{
    char *end;
    ssize_t n;
    int r;

    while (!(end = conn->nin ? memchr(conn->in, '\n', conn->nin) : NULL)) {
        if (conn->nin == ANSWER_MAX)
            return err_set(err, -EPROTO, "the guest's process answers with too much");
        r = wait_for(conn, POLLIN, err);
        if (r)
            return r;
        n = recv(conn->fd, conn->in + conn->nin, ANSWER_MAX - conn->nin, MSG_DONTWAIT);
        if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
            return gone(err);
        conn->nin += n > 0 ? (size_t)n : 0;
    }
    *line = conn->in;
    *len = (size_t)(end - conn->in);
    return 0;
}

static int read_object(struct client_conn *conn, json_t **object, struct err *err)
{
    char *line = NULL;
    size_t len = 0;
    int r = read_line(conn, &line, &len, err);

    if (r)
        return r;
    *object = json_loadb(line, len, 0, NULL);
    conn->nin -= len + 1;
    memmove(conn->in, conn->in + len + 1, conn->nin);
    if (json_is_object(*object))
        return 0;
    json_decref(*object);
    *object = NULL;
    return err_set(err, -EPROTO, "the guest's process does not speak the control protocol");
}

static int greet(struct client_conn *conn, struct err *err)
{
    json_t *hello;
    int version = 0, r = read_object(conn, &hello, err);

    if (r)
        return r;
    json_unpack(hello, "{s:i}", "protocol", &version);
    json_decref(hello);
    if (version == PROTO_VERSION)
        return 0;
    err_set(err, -EPROTO, "the guest was started by another version of lodge: protocol %d, not %d",
            version, PROTO_VERSION);
    return err_next(err, "Use that version's lodge for it.");
}

int client_init(struct client_conn *conn, const char *dir, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char path[128];
    int dirfd, r;

    conn->nin = 0;
    conn->fd = -1;
    conn->patience = PATIENCE;
    conn->in = malloc(ANSWER_MAX);
    if (!conn->in)
        return err_set(err, -ENOMEM, "no memory for the control connection");
    r = control_address(dir, path, sizeof(path), &dirfd, err);
    if (r)
        return r;
    memcpy(addr.sun_path, path, strnlen(path, sizeof(addr.sun_path) - 1) + 1);
    conn->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (conn->fd < 0)
        r = err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    else if (connect(conn->fd, (struct sockaddr *)&addr, sizeof(addr)))
        r = err_set(err, -errno, "cannot connect to %s: %s", path, strerror(errno));
    if (dirfd >= 0)
        close(dirfd);
    return r ? r : greet(conn, err);
}

void client_fini(struct client_conn *conn)
{
    if (conn->fd >= 0)
        close(conn->fd);
    conn->fd = -1;
    free(conn->in);
    conn->in = NULL;
}

static int send_line(struct client_conn *conn, const char *line, struct err *err)
{
    size_t len = strlen(line);

    while (len) {
        ssize_t n;
        int r = wait_for(conn, POLLOUT, err);

        if (r)
            return r;
        n = send(conn->fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return gone(err);
        line += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* The guest's process and we are of one build or nearly so: codes are the same numbers. */
static int code_named(const char *name)
{
    for (int code = 1; code < 134; code++)
        if (strerrorname_np(code) && !strcmp(strerrorname_np(code), name))
            return -code;
    return -EIO;
}

static int take_answer(json_t *answer, json_t **result, struct err *err)
{
    const char *code = "EIO", *what = "the guest's process refused", *next = NULL;
    json_t *ok = json_object_get(answer, "ok");
    int r;

    if (json_is_true(ok)) {
        if (result)
            *result = json_incref(json_object_get(answer, "result"));
        return 0;
    }
    json_unpack(answer, "{s:{s?s, s?s, s?s}}", "error", "code", &code, "what", &what, "next",
                &next);
    r = err_set(err, code_named(code), "%s", what);
    if (next)
        err_next(err, "%s", next);
    return r;
}

int client_ask(struct client_conn *conn, const char *command, json_t *args, json_t **result,
               struct err *err)
{
    json_t *request = json_pack("{s:s, s:o*}", "command", command, "arguments", args), *answer;
    char *line = request ? proto_line(request) : NULL;
    int r;

    if (result)
        *result = NULL;
    json_decref(request);
    if (!line)
        return err_set(err, -ENOMEM, "no memory for a request");
    r = send_line(conn, line, err);
    free(line);
    if (!r)
        r = read_object(conn, &answer, err);
    if (r)
        return r;
    r = take_answer(answer, result, err);
    json_decref(answer);
    return r;
}

size_t client_rest(struct client_conn *conn, void *buf, size_t size)
{
    size_t n = conn->nin < size ? conn->nin : size;

    memcpy(buf, conn->in, n);
    conn->nin -= n;
    memmove(conn->in, conn->in + n, conn->nin);
    return n;
}
