/* SPDX-License-Identifier: GPL-2.0-or-later */
/* lodge console and lodge logs: what a guest in the background has to say. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/guests.h"
#include "cli/life_opts.h"
#include "cli/tty.h"
#include "cli/verb.h"

#define FOLLOW_MS 200

/* False: it can't be written. */
static bool write_all(int fd, const char *buf, size_t len)
{
    while (len) {
        ssize_t n = write(fd, buf, len);

        if (n < 0 && errno != EINTR)
            return false;
        buf += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* ---- console -------------------------------------------------------------------- */

enum attach_end { ATTACH_ON, ATTACH_GUEST_ENDED, ATTACH_LEFT, ATTACH_BROKEN };

struct attach {
    int sock;
    bool tty, eof;
    int escape;
    char typed[1024]; /* not yet taken by the guest's process */
    size_t ntyped;
};

static enum attach_end take_typed(struct attach *a)
{
    ssize_t n = read(STDIN_FILENO, a->typed, sizeof(a->typed));
    const char *esc = NULL;

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return ATTACH_ON;
    a->eof = n <= 0;
    if (a->eof)
        return ATTACH_ON;
    if (a->tty && a->escape >= 0)
        esc = memchr(a->typed, a->escape, (size_t)n);
    a->ntyped = esc ? (size_t)(esc - a->typed) : (size_t)n;
    return esc ? ATTACH_LEFT : ATTACH_ON;
}

static enum attach_end send_typed(struct attach *a)
{
    ssize_t n = send(a->sock, a->typed, a->ntyped, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? ATTACH_ON : ATTACH_GUEST_ENDED;
    a->ntyped -= (size_t)n;
    memmove(a->typed, a->typed + n, a->ntyped);
    return ATTACH_ON;
}

static enum attach_end show(struct attach *a)
{
    char buf[4096];
    ssize_t n = recv(a->sock, buf, sizeof(buf), MSG_DONTWAIT);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? ATTACH_ON : ATTACH_GUEST_ENDED;
    if (!n)
        return ATTACH_GUEST_ENDED;
    return write_all(STDOUT_FILENO, buf, (size_t)n) ? ATTACH_ON : ATTACH_BROKEN;
}

/* While the guest takes nothing a terminal is still read, for the escape key; what is typed then is lost. */
static enum attach_end attach_turn(struct attach *a)
{
    struct pollfd p[] = {
        {.fd = a->sock, .events = (short)(POLLIN | (a->ntyped ? POLLOUT : 0))},
        {.fd = a->eof || (a->ntyped && !a->tty) ? -1 : STDIN_FILENO, .events = POLLIN},
    };
    enum attach_end end = ATTACH_ON;

    if (poll(p, ARRAY_SIZE(p), -1) < 0)
        return errno == EINTR ? ATTACH_ON : ATTACH_BROKEN;
    if (p[0].revents & (POLLIN | POLLHUP | POLLERR))
        end = show(a);
    if (end == ATTACH_ON && p[1].revents)
        end = take_typed(a);
    if (a->ntyped && end != ATTACH_GUEST_ENDED && send_typed(a) == ATTACH_GUEST_ENDED)
        end = ATTACH_GUEST_ENDED;
    return end;
}

static int attach_loop(struct client_conn *conn, const struct attach_opts *opts, const char *name,
                       struct err *err)
{
    struct attach a = {.sock = conn->fd, .escape = opts->escape, .tty = isatty(STDIN_FILENO)};
    enum attach_end end = ATTACH_ON;
    char rest[4096];
    size_t n;
    int r = a.tty ? tty_init(STDIN_FILENO, err) : 0;

    if (r)
        return r;
    if (a.tty) {
        tty_raw();
        if (!opts->quiet && a.escape >= 0)
            fprintf(stderr, "lodge: the console of %s; ctrl-%c leaves it\r\n", name,
                    a.escape + '@');
    }
    while (end == ATTACH_ON && (n = client_rest(conn, rest, sizeof(rest))))
        end = write_all(STDOUT_FILENO, rest, n) ? ATTACH_ON : ATTACH_BROKEN;
    while (end == ATTACH_ON)
        end = attach_turn(&a);
    if (a.tty)
        tty_fini();
    if (end == ATTACH_BROKEN)
        return err_set(err, -EIO, "cannot write to standard output: %s", strerror(errno));
    if (!opts->quiet)
        fprintf(stderr, "%slodge: %s\n", a.tty ? "\n" : "",
                end == ATTACH_LEFT ? "left the console; the guest goes on" : "the guest has ended");
    return 0;
}

static int one_name(const struct verb *verb, int nargs)
{
    struct err err = {0};

    if (nargs == 1)
        return -1;
    err_set(&err, -EINVAL, "lodge %s needs the name of a guest", verb->name);
    return verb_usage(verb, &err);
}

int verb_console(const struct verb *verb, int argc, char **argv)
{
    struct attach_opts opts;
    struct client_conn conn;
    struct err err = {0};
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r < 0)
        r = one_name(verb, nargs);
    if (r >= 0)
        return r;
    signal(SIGPIPE, SIG_IGN);
    r = guest_connect(&conn, argv[0], &err);
    if (!r)
        r = client_ask(&conn, "console", json_pack("{s:b}", "replay", !opts.no_replay), NULL, &err);
    if (!r)
        r = attach_loop(&conn, &opts, argv[0], &err);
    client_fini(&conn);
    if (!r)
        return CLI_OK;
    err_report(&err);
    return CLI_FAILED;
}

/* ---- logs ----------------------------------------------------------------------- */

/* The rest of an open file; false: it can't be printed. */
static bool print_rest(int fd)
{
    char buf[16384];
    ssize_t n;

    while ((n = read(fd, buf, sizeof(buf))) > 0)
        if (!write_all(STDOUT_FILENO, buf, (size_t)n))
            return false;
    return true;
}

static bool same_file(int fd, const char *path)
{
    struct stat a, b;

    return !fstat(fd, &a) && !stat(path, &b) && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static bool print_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd < 0 || print_rest(fd);

    if (fd >= 0)
        close(fd);
    return ok;
}

/* Also over the moment when the file is begun anew, and up to the guest's end. */
static bool follow(const char *name, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = true, held = true;

    while (ok && held) {
        held = guest_is_held(name);
        ok = fd < 0 || print_rest(fd);
        if (ok && (fd < 0 || !same_file(fd, path))) {
            if (fd >= 0)
                close(fd);
            fd = open(path, O_RDONLY | O_CLOEXEC);
            ok = fd < 0 || print_rest(fd);
        }
        if (ok && held)
            poll(NULL, 0, FOLLOW_MS);
    }
    if (fd >= 0)
        close(fd);
    return ok;
}

int verb_logs(const struct verb *verb, int argc, char **argv)
{
    char path[STATE_PATH], old[STATE_PATH];
    struct attach_opts opts;
    struct err err = {0};
    struct guest g;
    bool ok = true;
    int nargs, r = verb_parse(verb, &opts, sizeof(opts), argc, argv, &nargs);

    if (r < 0)
        r = one_name(verb, nargs);
    if (r >= 0)
        return r;
    r = guest_init(&g, argv[0], &err);
    if (!r && !g.kept) {
        r = err_set(&err, -ENOENT, "the guest %s runs in the foreground and keeps no log", argv[0]);
        err_next(&err, "lodge console %s shows the last of what it said.", argv[0]);
    }
    guest_fini(&g);
    if (!r)
        r = state_path(path, argv[0], STATE_CONSOLE, &err);
    if (!r)
        r = state_path(old, argv[0], STATE_CONSOLE ".old", &err);
    if (r) {
        err_report(&err);
        return CLI_FAILED;
    }
    ok = print_file(old) && (opts.follow ? follow(argv[0], path) : print_file(path));
    if (ok)
        return CLI_OK;
    fprintf(stderr, "lodge: cannot write to standard output: %s\n", strerror(errno));
    return CLI_FAILED;
}
