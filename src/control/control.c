/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/listen.h"
#include "base/thread.h"
#include "control/conlog.h"
#include "core/vm.h"

#define MAX_CLIENTS 32
#define FAREWELL_MS 500 /* for watchers to take the last of the console */
#define CHUNK       4096

struct client {
    int fd;
    uint64_t number;     /* nobody else's */
    bool waiting;        /* for the job */
    bool console, input; /* a byte stream; what it sends is typed */
    bool closing;        /* once `out` is gone */
    bool eof;            /* sends nothing any more */
    char *in;            /* PROTO_REQUEST_MAX bytes */
    size_t nin;
    char *out; /* an answer under way, from `done` on */
    size_t nout, done;
    uint64_t pos;  /* in the console's log */
    uint64_t used; /* larger: later */
};

/* The command that is carried out on a thread of its own. */
struct job {
    pthread_t thread;
    bool active;
    uint64_t client; /* who waits for it, if he is still there */
    struct proto_request req;
    struct control_call call;
    struct err err;
    int result;
    int done_fd;
};

struct control {
    struct control_config cfg;
    struct job job;
    uint64_t clients_ever;
    int listen, wake, dir;
    char path[128]; /* of the socket */
    bool started;
    pthread_t thread;
    uint64_t uses;
    unsigned count;
    struct client clients[MAX_CLIENTS];
};

/* ---- Clients ---------------------------------------------------------------- */

static void client_drop(struct control *c, struct client *cl)
{
    if (cl->console)
        conlog_watch(c->cfg.console, false);
    if (cl->waiting)
        atomic_store(&c->job.call.gone, true);
    close(cl->fd);
    free(cl->in);
    free(cl->out);
    *cl = c->clients[--c->count];
}

/* Takes `line`; NULL, for want of memory, ends the connection. */
static void client_say(struct client *cl, char *line)
{
    free(cl->out);
    cl->out = line;
    cl->nout = line ? strlen(line) : 0;
    cl->done = 0;
    cl->closing |= !line;
}

/* False: the client is gone. */
static bool client_send(struct client *cl)
{
    ssize_t n = send(cl->fd, cl->out + cl->done, cl->nout - cl->done, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    cl->done += (size_t)n;
    if (cl->done < cl->nout)
        return true;
    free(cl->out);
    cl->out = NULL;
    return !cl->closing;
}

static bool is_friend(int fd)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);

    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) &&
           (cred.uid == geteuid() || !cred.uid);
}

static struct client *longest_idle(struct control *c)
{
    struct client *oldest = &c->clients[c->clients[0].waiting];

    for (unsigned i = 0; i < c->count; i++)
        if (!c->clients[i].waiting && c->clients[i].used < oldest->used)
            oldest = &c->clients[i];
    return oldest;
}

static void client_accept(struct control *c)
{
    int fd = accept4(c->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct client *cl;
    char *in;

    if (fd < 0) {
        /* Out of descriptors, the connection stays where it is, and poll would say so all the time. */
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            poll(NULL, 0, 10);
        return;
    }
    in = is_friend(fd) ? malloc(PROTO_REQUEST_MAX) : NULL;
    if (!in) {
        close(fd);
        return;
    }
    if (c->count == MAX_CLIENTS)
        client_drop(c, longest_idle(c));
    cl = &c->clients[c->count++];
    *cl = (struct client){.fd = fd, .in = in, .used = ++c->uses, .number = ++c->clients_ever};
    client_say(cl, proto_greeting(c->cfg.vm->cfg.name));
}

/* ---- Requests --------------------------------------------------------------- */

static const struct control_command *command_named(const char *name)
{
    for (const struct control_command *cmd = control_commands; cmd->name; cmd++)
        if (!strcmp(cmd->name, name))
            return cmd;
    return NULL;
}

static int carry_out(struct control_call *call, const char *name, struct err *err)
{
    const struct control_command *cmd = command_named(name);
    int r;

    if (!cmd) {
        err_set(err, -ENOSYS, "there is no command '%.80s'", name);
        return err_next(err, "The command 'commands' lists those that there are.");
    }
    call->command = cmd;
    r = proto_args_check(cmd->args, call->args, err);
    return r || !cmd->run ? r : cmd->run(call, err);
}

/* ---- The job ---------------------------------------------------------------- */

static void *job_main(void *opaque)
{
    struct job *job = opaque;
    uint64_t one = 1;

    thread_name("job");
    job->result = job->call.command->job(&job->call, &job->err);
    while (write(job->done_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    return NULL;
}

static int start_thread(pthread_t *thread, void *(*fn)(void *), void *opaque)
{
    sigset_t all, old;
    int r;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(thread, NULL, fn, opaque);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -r;
}

/* Takes over the request and its call. */
static int job_start(struct control *c, struct client *cl, struct proto_request *req,
                     struct control_call *call, struct err *err)
{
    struct job *job = &c->job;
    int r;

    if (job->active) {
        err_set(err, -EBUSY, "the guest is still busy with '%s'", job->call.command->name);
        err_next(err, "Try again in a moment.");
        return -EBUSY;
    }
    job->client = cl->number;
    job->req = *req;
    job->call = *call;
    job->err = (struct err){0};
    r = start_thread(&job->thread, job_main, job);
    if (r)
        return err_set(err, r, "cannot start a thread for '%s': %s", call->command->name,
                       strerror(-r));
    job->active = cl->waiting = true;
    *req = (struct proto_request){0};
    call->result = NULL;
    return 0;
}

/* It is over, or will be soon: tell who waits for it. */
static void job_end(struct control *c)
{
    struct job *job = &c->job;
    uint64_t count;

    if (!job->active)
        return;
    pthread_join(job->thread, NULL);
    while (read(job->done_fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    for (unsigned i = 0; i < c->count; i++) {
        struct client *cl = &c->clients[i];

        if (cl->number != job->client)
            continue;
        client_say(cl, proto_answer(job->req.id, job->call.result, job->result ? &job->err : NULL));
        cl->waiting = false;
    }
    proto_request_fini(&job->req);
    json_decref(job->call.result);
    job->active = false;
}

static void become_console(struct control *c, struct client *cl, const struct control_call *call)
{
    cl->console = true;
    cl->input = call->input;
    cl->pos = conlog_start(c->cfg.console, call->replay);
    conlog_watch(c->cfg.console, true);
}

static void answer_line(struct control *c, struct client *cl, size_t len)
{
    struct control_call call = {.cfg = &c->cfg, .result = json_object()};
    struct proto_request req = {0};
    struct err err = {0};
    int r = call.result ? 0 : err_set(&err, -ENOMEM, "no memory for an answer");

    if (!r)
        r = proto_request_parse(&req, cl->in, len, &err);
    call.args = req.args;
    if (!r)
        r = carry_out(&call, req.command, &err);
    if (!r && call.command->job) {
        r = job_start(c, cl, &req, &call, &err);
        if (!r)
            return;
    }
    client_say(cl, proto_answer(req.id, call.result, r ? &err : NULL));
    if (!r && call.console)
        become_console(c, cl, &call);
    proto_request_fini(&req);
    json_decref(call.result);
}

/* One request, if a whole one is there and the last answer is gone. */
static void client_serve(struct control *c, struct client *cl)
{
    const char *end = cl->nin ? memchr(cl->in, '\n', cl->nin) : NULL;
    struct err err = {0};
    size_t len;

    if (cl->out || cl->closing || cl->console || cl->waiting)
        return;
    if (end) {
        len = (size_t)(end - cl->in);
        cl->used = ++c->uses;
        answer_line(c, cl, len);
        cl->nin -= len + 1;
        memmove(cl->in, cl->in + len + 1, cl->nin);
    } else if (cl->nin == PROTO_REQUEST_MAX) {
        err_set(&err, -E2BIG, "a request has at most %u bytes", PROTO_REQUEST_MAX);
        client_say(cl, proto_answer(NULL, NULL, &err));
        cl->closing = true;
    }
}

/* ---- Consoles --------------------------------------------------------------- */

/* What was typed, as far as it is taken. */
static void console_type(struct control *c, struct client *cl)
{
    ssize_t n = (ssize_t)cl->nin;

    if (!cl->nin)
        return;
    if (cl->input && c->cfg.console_in >= 0)
        n = write(c->cfg.console_in, cl->in, cl->nin < CHUNK ? cl->nin : CHUNK);
    if (n <= 0)
        return;
    cl->used = ++c->uses;
    cl->nin -= (size_t)n;
    memmove(cl->in, cl->in + n, cl->nin);
}

/* False: the client is gone. */
static bool console_show(struct control *c, struct client *cl)
{
    uint8_t buf[CHUNK];
    uint64_t lost;
    size_t n = conlog_read(c->cfg.console, &cl->pos, buf, sizeof(buf), &lost);
    ssize_t sent;
    char *line;

    if (lost) {
        if (asprintf(&line, "\r\n[lodge: %llu bytes lost]\r\n", (unsigned long long)lost) < 0)
            return false;
        client_say(cl, line);
        return true;
    }
    if (!n)
        return true;
    sent = send(cl->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR;
    cl->pos += (uint64_t)sent;
    return true;
}

static bool console_behind(struct control *c, const struct client *cl)
{
    return cl->console && cl->pos != conlog_start(c->cfg.console, false);
}

/* ---- The loop --------------------------------------------------------------- */

static short client_events(struct control *c, const struct client *cl)
{
    bool room =
        cl->nin < PROTO_REQUEST_MAX && (cl->console || !cl->out) && !cl->closing && !cl->eof;

    return (short)((room ? POLLIN : 0) | (cl->out || console_behind(c, cl) ? POLLOUT : 0));
}

/* False: the client is gone. */
static bool client_read(struct client *cl)
{
    ssize_t n = recv(cl->fd, cl->in + cl->nin, PROTO_REQUEST_MAX - cl->nin, MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    cl->nin += (size_t)n;
    cl->eof = !n;
    return true;
}

static bool has_request(const struct client *cl)
{
    return cl->nin && memchr(cl->in, '\n', cl->nin);
}

/* False: the client is gone. */
static bool client_turn(struct control *c, struct client *cl, short revents)
{
    if ((revents & POLLIN) && cl->nin < PROTO_REQUEST_MAX && !client_read(cl))
        return false;
    if (!(revents & POLLIN) && (revents & (POLLERR | POLLHUP)))
        return false;
    if (cl->out && !client_send(cl))
        return false;
    client_serve(c, cl);
    if (!cl->console)
        return cl->out || cl->waiting || has_request(cl) || !cl->eof;
    console_type(c, cl);
    return cl->out || console_show(c, cl);
}

static bool typed_left(const struct control *c)
{
    for (unsigned i = 0; i < c->count; i++)
        if (c->clients[i].console && c->clients[i].nin)
            return true;
    return false;
}

/* A whole request may be there without anything more to come. */
static bool served_left(const struct control *c)
{
    for (unsigned i = 0; i < c->count; i++) {
        const struct client *cl = &c->clients[i];

        if (!cl->console && !cl->out && !cl->closing && !cl->waiting && has_request(cl))
            return true;
    }
    return false;
}

enum { P_WAKE, P_LISTEN, P_JOB, P_TYPED, P_CONSOLE, P_CLIENTS };

static void *control_main(void *opaque)
{
    struct control *c = opaque;
    struct pollfd p[P_CLIENTS + MAX_CLIENTS];
    unsigned n;

    thread_name("control");
    for (;;) {
        n = c->count;
        p[P_WAKE] = (struct pollfd){.fd = c->wake, .events = POLLIN};
        p[P_LISTEN] = (struct pollfd){.fd = c->listen, .events = POLLIN};
        p[P_JOB] = (struct pollfd){.fd = c->job.done_fd, .events = POLLIN};
        p[P_TYPED] =
            (struct pollfd){.fd = typed_left(c) ? c->cfg.console_in : -1, .events = POLLOUT};
        p[P_CONSOLE] = (struct pollfd){.fd = c->cfg.console ? conlog_wake_fd(c->cfg.console) : -1,
                                       .events = POLLIN};
        for (unsigned i = 0; i < n; i++)
            p[P_CLIENTS + i] =
                (struct pollfd){.fd = c->clients[i].fd, .events = client_events(c, &c->clients[i])};
        if (poll(p, P_CLIENTS + n, served_left(c) ? 0 : -1) < 0 && errno != EINTR)
            return NULL;
        if (p[P_WAKE].revents)
            return NULL;
        if (p[P_CONSOLE].revents)
            conlog_woken(c->cfg.console);
        if (p[P_JOB].revents)
            job_end(c);
        /* Downwards, since one that goes is replaced by the last. */
        for (unsigned i = n; i-- > 0;)
            if (!client_turn(c, &c->clients[i], p[P_CLIENTS + i].revents))
                client_drop(c, &c->clients[i]);
        if (p[P_LISTEN].revents)
            client_accept(c);
    }
}

/* ---- Life ------------------------------------------------------------------- */

int control_address(const char *dir, char *buf, size_t size, int *fd, struct err *err)
{
    struct sockaddr_un addr;

    *fd = -1;
    if ((size_t)snprintf(buf, size, "%s/" CONTROL_SOCKET, dir) < sizeof(addr.sun_path))
        return 0;
    *fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0)
        return err_set(err, -errno, "cannot open %s: %s", dir, strerror(errno));
    snprintf(buf, size, "/proc/self/fd/%d/" CONTROL_SOCKET, *fd);
    return 0;
}

int control_new(struct control **out, const struct control_config *cfg, struct err *err)
{
    struct control *c = calloc(1, sizeof(*c));
    int r;

    *out = NULL;
    if (!c)
        return err_set(err, -ENOMEM, "no memory for the control socket");
    c->cfg = *cfg;
    c->listen = c->dir = -1;
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->job.done_fd = eventfd(0, EFD_CLOEXEC);
    r = c->wake < 0 || c->job.done_fd < 0
            ? err_set(err, -errno, "cannot make an eventfd: %s", strerror(errno))
            : 0;
    if (!r)
        r = control_address(cfg->dir, c->path, sizeof(c->path), &c->dir, err);
    if (!r) {
        c->listen = listen_unix(c->path, err);
        r = c->listen < 0 ? c->listen : 0;
    }
    if (!r) {
        r = start_thread(&c->thread, control_main, c);
        c->started = !r;
        if (r)
            err_set(err, r, "cannot start the control socket's thread: %s", strerror(-r));
    }
    if (r) {
        control_free(c);
        return r;
    }
    *out = c;
    return 0;
}

/* The thread has ended: give a watcher the rest, as long as it takes it. */
static void farewell(struct control *c, struct client *cl)
{
    struct pollfd p = {.fd = cl->fd, .events = POLLOUT};

    while ((cl->out || console_behind(c, cl)) && poll(&p, 1, FAREWELL_MS) > 0 &&
           !(p.revents & (POLLERR | POLLHUP)))
        if (!(cl->out ? client_send(cl) : console_show(c, cl)))
            return;
}

void control_stop(struct control *c)
{
    uint64_t one = 1;

    if (c->started) {
        while (write(c->wake, &one, sizeof(one)) < 0 && errno == EINTR)
            ;
        pthread_join(c->thread, NULL);
        c->started = false;
    }
    atomic_store(&c->job.call.gone, true);
    job_end(c);
    if (c->listen >= 0) {
        unlink(c->path);
        close(c->listen);
        c->listen = -1;
    }
}

void control_free(struct control *c)
{
    if (!c)
        return;
    control_stop(c);
    while (c->count) {
        farewell(c, &c->clients[c->count - 1]);
        client_drop(c, &c->clients[c->count - 1]);
    }
    if (c->dir >= 0)
        close(c->dir);
    if (c->wake >= 0)
        close(c->wake);
    if (c->job.done_fd >= 0)
        close(c->job.done_fd);
    free(c);
}
