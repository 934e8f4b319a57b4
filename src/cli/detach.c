/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "cli/definition.h"
#include "cli/run.h"
#include "cli/state.h"
#include "cli/verb.h"

/* ---- The caller's side ------------------------------------------------------------ */

/* Descriptors that the caller happens to have would be kept open, and locked, for as long as the guest runs. */
static int leave_descriptors(int ready)
{
    if (ready != 3 && dup2(ready, 3) < 0)
        return -1;
    close_range(4, ~0u, 0);
    fcntl(3, F_SETFD, FD_CLOEXEC);
    return 3;
}

static void guest_process(const struct run_opts *opts, struct detach *d)
{
    int status = CLI_FAILED;

    d->ready = leave_descriptors(d->ready);
    if (d->ready >= 0 && setsid() >= 0 && !chdir("/"))
        status = run_guest(opts, d);
    fflush(NULL);
    _exit(status);
}

/* A byte comes once the guest runs; none does when the process ends before. */
static int wait_ready(int fd, pid_t pid)
{
    char byte;
    ssize_t n;
    int status;

    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n == 1)
        return CLI_OK;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return CLI_FAILED;
    if (WIFEXITED(status) && WEXITSTATUS(status))
        return WEXITSTATUS(status);
    fprintf(stderr, "lodge: the guest's process ended before the guest had started\n");
    return CLI_FAILED;
}

int detach_start(const struct run_opts *opts, const struct definition *create, bool drop)
{
    struct detach d = {.create = create, .drop = drop};
    int ends[2], status;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC)) {
        perror("lodge: cannot make a pipe");
        return CLI_FAILED;
    }
    d.ready = ends[1];
    fflush(NULL);
    pid = fork();
    if (!pid)
        guest_process(opts, &d);
    close(ends[1]);
    if (pid < 0) {
        perror("lodge: cannot start a process for the guest");
        status = CLI_FAILED;
    } else {
        status = wait_ready(ends[0], pid);
    }
    close(ends[0]);
    return status;
}

/* ---- The guest's side --------------------------------------------------------------- */

int detach_begin(struct detach *d, const char *name, struct err *err)
{
    if (d->create) {
        int r = state_create(name, d->create, err);

        d->created = !r;
        return r;
    }
    if (state_exists(name))
        return 0;
    return err_set(err, -ENOENT, "the guest %s was removed in this moment", name);
}

static void redirect(int to, const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);

    if (fd < 0)
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        dup2(fd, to);
        close(fd);
    }
}

static void write_last(const struct detach *d, const char *name, const char *state, json_t *more)
{
    json_t *last = json_pack("{s:s, s:i, s:I}", "state", state, "pid", (int)getpid(), "began",
                             (json_int_t)d->began);
    struct err err = {0};

    if (last && more)
        json_object_update(last, more);
    if (last && state_write_last(name, last, &err))
        err_report(&err);
    json_decref(last);
    json_decref(more);
}

static void tell_ready(struct detach *d)
{
    char messages[STATE_PATH];

    write_last(d, d->name, "running", NULL);
    fflush(NULL);
    redirect(STDIN_FILENO, "/dev/null", O_RDWR);
    redirect(STDOUT_FILENO, "/dev/null", O_RDWR);
    if (!state_path(messages, d->name, STATE_MESSAGES, NULL))
        redirect(STDERR_FILENO, messages, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW);
    /* A caller that is gone does not mind. */
    while (write(d->ready, "r", 1) < 0 && errno == EINTR)
        ;
    close(d->ready);
    d->ready = -1;
}

static void *tell_thread(void *opaque)
{
    thread_name("ready");
    tell_ready(opaque);
    return NULL;
}

void detach_ready(struct detach *d, const char *name)
{
    sigset_t all, old;

    if (d->began)
        return;
    d->began = time(NULL);
    d->name = name;
    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    d->tells = !pthread_create(&d->telling, NULL, tell_thread, d);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!d->tells)
        tell_ready(d);
}

void detach_end(struct detach *d, const char *name, const char *how, int status, const char *why)
{
    struct err err = {0};

    if (d->tells)
        pthread_join(d->telling, NULL);
    d->tells = false;
    if (d->began && !d->drop)
        write_last(d, name, "ended",
                   json_pack("{s:I, s:s, s:i, s:s}", "ended", (json_int_t)time(NULL), "how", how,
                             "status", status, "why", why));
    /* One that did not start leaves nothing that was not there before. */
    if (d->began ? d->drop : d->created)
        if (state_drop(name, &err))
            err_report(&err);
}
