/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/stop.h"

#define TICK_MS 250

/* Between fork and exec: only what is safe there, but for setenv; this process has one thread when it spawns. */
static void child(const struct spawn *s, pid_t parent, int lines, int report)
{
    int high[SPAWN_FDS + 3], n = 0, code;

    /* A group of its own, since it may wait for its own children without passing a signal on to them. */
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(126);
    /* Above all the numbers that they are to have, so that none is overwritten before its turn. */
    high[n++] = fcntl(s->in > 0 ? s->in : open("/dev/null", O_RDONLY), F_DUPFD_CLOEXEC, 16);
    high[n++] = fcntl(s->out > 0   ? s->out
                      : s->out < 0 ? lines
                                   : open("/dev/null", O_WRONLY),
                      F_DUPFD_CLOEXEC, 16);
    high[n++] = fcntl(lines, F_DUPFD_CLOEXEC, 16);
    for (int i = 0; i < SPAWN_FDS && s->fds[i]; i++)
        high[n++] = fcntl(s->fds[i], F_DUPFD_CLOEXEC, 16);
    for (int i = 0; i < n; i++)
        dup2(high[i], i);
    for (const char *const *e = s->env; e && *e; e++)
        putenv((char *)*e);
    execvp(s->argv[0], (char *const *)s->argv);
    /* The programs for disks are where users do not look. */
    if (errno == ENOENT && !strchr(s->argv[0], '/') &&
        !setenv("PATH", "/usr/local/sbin:/usr/sbin:/sbin", 1))
        execvp(s->argv[0], (char *const *)s->argv);
    code = errno;
    if (write(report, &code, sizeof(code)) < 0)
        code = 0;
    _exit(127);
}

struct reader {
    char buf[1024];
    size_t have;
};

/* Hand out the whole lines there are; one that is too long comes in pieces. */
static void cut_lines(const struct spawn *s, struct reader *r, bool end)
{
    char *nl, *from = r->buf;

    r->buf[r->have] = '\0';
    while ((nl = strpbrk(from, "\r\n")) || (*from && (end || r->have == sizeof(r->buf) - 1))) {
        if (nl)
            *nl = '\0';
        if (*from && s->line)
            s->line(s->opaque, from);
        from = nl ? nl + 1 : from + strlen(from);
        r->have = (size_t)(r->buf + r->have - from);
        memmove(r->buf, from, r->have + 1);
        from = r->buf;
    }
}

/* Until the program has closed its standard error. */
static void follow(const struct spawn *s, pid_t pid, int lines)
{
    struct reader r = {.have = 0};
    struct pollfd p = {.fd = lines, .events = POLLIN};
    bool told = false;

    for (;;) {
        int ready = poll(&p, 1, TICK_MS);
        ssize_t got;

        if (stop_asked() && !told) {
            kill(-pid, SIGTERM);
            told = true;
        }
        if (s->tick)
            s->tick(s->opaque);
        if (ready <= 0)
            continue;
        got = read(lines, r.buf + r.have, sizeof(r.buf) - 1 - r.have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        /* A NUL would end the line for us, not for who wrote it. */
        for (ssize_t i = 0; i < got; i++)
            if (!r.buf[r.have + (size_t)i])
                r.buf[r.have + (size_t)i] = '?';
        r.have += (size_t)got;
        cut_lines(s, &r, false);
    }
    cut_lines(s, &r, true);
}

int spawn_run(const struct spawn *s, int *status, struct err *err)
{
    int lines[2] = {-1, -1}, report[2] = {-1, -1}, code = 0, raw = 0, r = 0;
    pid_t self = getpid(), pid = -1;

    if (!pipe2(lines, O_CLOEXEC) && !pipe2(report, O_CLOEXEC))
        pid = fork();
    if (!pid)
        child(s, self, lines[1], report[1]);
    if (pid < 0) {
        r = err_set(err, -errno, "cannot start %s: %s", s->argv[0], strerror(errno));
        goto out;
    }
    setpgid(pid, pid); /* whoever of the two comes first */
    close(lines[1]);
    close(report[1]);
    lines[1] = report[1] = -1;
    follow(s, pid, lines[0]);
    while (waitpid(pid, &raw, 0) < 0 && errno == EINTR)
        if (stop_asked())
            kill(-pid, SIGTERM);
    *status = WIFEXITED(raw) ? WEXITSTATUS(raw) : 128 + WTERMSIG(raw);
    if (read(report[0], &code, sizeof(code)) == sizeof(code))
        r = err_set(err, -code, "cannot start %s: %s", s->argv[0], strerror(code));
out:
    for (int i = 0; i < 2; i++) {
        if (lines[i] >= 0)
            close(lines[i]);
        if (report[i] >= 0)
            close(report[i]);
    }
    return r;
}
