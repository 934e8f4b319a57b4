/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/tty.h"

/* How often a console in the background looks whether it came to the foreground: shells don't always say so. */
#define BACKGROUND_POLL_MS 500

struct console {
    struct console_config cfg;
    bool tty, eof, started;
    bool
        made_raw; /* the terminal, before the thread began; it may have come to the foreground since */
    int sigfd, wake;
    int pipe[2]; /* to the serial port; the write end does not block */
    pthread_t thread;
    sigset_t old_mask;
    uint8_t pending[4096]; /* read, but not yet taken by the pipe */
    size_t npending;
};

static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGUSR1, SIGWINCH};

static bool ignored(int sig)
{
    struct sigaction sa;

    return !sigaction(sig, NULL, &sa) && sa.sa_handler == SIG_IGN;
}

/* Move pending bytes on; what the pipe does not take stays. */
static void drain(struct console *c)
{
    ssize_t n = write(c->pipe[1], c->pending, c->npending);

    if (n > 0) {
        c->npending -= (size_t)n;
        memmove(c->pending, c->pending + n, c->npending);
    }
}

/*
 * A terminal is always read, so that the escape key works even when the guest
 * takes no input; what does not fit is lost then. A file or pipe waits.
 */
static void take_input(struct console *c)
{
    uint8_t buf[1024];
    size_t room = sizeof(c->pending) - c->npending;
    ssize_t n = read(c->cfg.in, buf, sizeof(buf));
    const uint8_t *esc = NULL;

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        c->eof = true;
        return;
    }
    if (c->tty && c->cfg.escape >= 0)
        esc = memchr(buf, c->cfg.escape, (size_t)n);
    if (esc)
        n = esc - buf;
    if ((size_t)n > room)
        n = (ssize_t)room;
    memcpy(c->pending + c->npending, buf, (size_t)n);
    c->npending += (size_t)n;
    drain(c);
    if (esc)
        c->cfg.leave(c->cfg.opaque, 0);
}

static void take_signal(struct console *c)
{
    struct signalfd_siginfo si;

    if (read(c->sigfd, &si, sizeof(si)) != sizeof(si))
        return;
    switch (si.ssi_signo) {
    case SIGTSTP:
        tty_restore();
        kill(getpid(), SIGSTOP);
        break;
    case SIGCONT:
        if (c->tty)
            tty_raw();
        break;
    case SIGUSR1:
        if (c->cfg.report)
            c->cfg.report(c->cfg.opaque);
        break;
    case SIGWINCH:
        if (c->cfg.resize)
            c->cfg.resize(c->cfg.opaque);
        break;
    default:
        c->cfg.leave(c->cfg.opaque, (int)si.ssi_signo);
    }
}

/* Is there a point in reading input now? */
static bool input_wanted(struct console *c, bool foreground)
{
    if (c->cfg.in < 0 || c->eof)
        return false;
    return c->tty ? foreground : !c->npending;
}

static void *console_thread(void *arg)
{
    struct console *c = arg;
    bool was_foreground = c->made_raw;

    for (;;) {
        bool foreground = c->tty && tty_foreground(c->cfg.in);
        struct pollfd p[] = {
            {.fd = c->wake, .events = POLLIN},
            {.fd = c->sigfd, .events = POLLIN},
            {.fd = input_wanted(c, foreground) ? c->cfg.in : -1, .events = POLLIN},
            {.fd = c->npending ? c->pipe[1] : -1, .events = POLLOUT},
        };

        if (foreground && !was_foreground)
            tty_raw();
        was_foreground = foreground;
        if (poll(p, ARRAY_SIZE(p), c->tty && !foreground ? BACKGROUND_POLL_MS : -1) < 0) {
            if (errno == EINTR)
                continue;
            return NULL;
        }
        if (p[0].revents)
            return NULL;
        if (p[1].revents)
            take_signal(c);
        else if (p[2].revents)
            take_input(c);
        if (p[3].revents)
            drain(c);
    }
}

static int open_signals(struct console *c)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_SIZE(watched); i++)
        if (!ignored(watched[i]))
            sigaddset(&set, watched[i]);
    pthread_sigmask(SIG_BLOCK, &set, &c->old_mask);
    c->sigfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return c->sigfd < 0 ? -errno : 0;
}

static int open_descriptors(struct console *c)
{
    int r = open_signals(c);

    if (r)
        return r;
    c->wake = eventfd(0, EFD_CLOEXEC);
    if (c->wake < 0)
        return -errno;
    if (c->cfg.in < 0 && !c->cfg.typed)
        return 0;
    if (pipe2(c->pipe, O_CLOEXEC))
        return -errno;
    return fcntl(c->pipe[1], F_SETFL, O_NONBLOCK) ? -errno : 0;
}

int console_new(struct console **out, const struct console_config *cfg, struct err *err)
{
    struct console *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return err_set(err, -ENOMEM, "not enough memory for the console");
    c->cfg = *cfg;
    c->sigfd = c->wake = c->pipe[0] = c->pipe[1] = -1;
    r = open_descriptors(c);
    if (r) {
        err_set(err, r, "cannot set up the console: %s", strerror(-r));
        goto fail;
    }
    if (cfg->in >= 0 && isatty(cfg->in)) {
        r = tty_init(cfg->in, err);
        if (r)
            goto fail;
        c->tty = true;
        c->made_raw = tty_raw();
    }
    r = -pthread_create(&c->thread, NULL, console_thread, c);
    if (r) {
        err_set(err, r, "cannot start the console's thread: %s", strerror(-r));
        goto fail;
    }
    c->started = true;
    *out = c;
    return 0;
fail:
    console_free(c);
    return r;
}

int console_input(const struct console *c)
{
    return c->pipe[0];
}

int console_typed(const struct console *c)
{
    return c->pipe[1];
}

bool console_is_tty(const struct console *c)
{
    return c->tty;
}

void console_stop(struct console *c)
{
    uint64_t one = 1;

    if (c->started) {
        while (write(c->wake, &one, sizeof(one)) < 0 && errno == EINTR)
            ;
        pthread_join(c->thread, NULL);
        c->started = false;
    }
    if (c->tty) {
        tty_fini();
        c->tty = false;
    }
}

void console_free(struct console *c)
{
    int fds[4];

    if (!c)
        return;
    console_stop(c);
    memcpy(fds, (int[]){c->sigfd, c->wake, c->pipe[0], c->pipe[1]}, sizeof(fds));
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    pthread_sigmask(SIG_SETMASK, &c->old_mask, NULL);
    free(c);
}
