/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/console.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cli/tty.h"

/* How often a console in the background looks whether it came to the foreground: shells don't always say so. */
#define BACKGROUND_POLL_MS 500

static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGUSR1, SIGWINCH};

/* A handler has no argument, so this is the process's: a bit for each signal that came. */
static _Atomic uint64_t came;

struct console {
    struct console_config cfg;
    bool tty, eof, started;
    bool
        made_raw; /* the terminal, before the thread began; it may have come to the foreground since */
    int wake;
    int pipe[2]; /* to the serial port; the write end does not block */
    pthread_t thread;
    bool catching;                /* what follows is valid: how things were before */
    sigset_t old_mask, open_mask; /* open: the watched signals are let in */
    struct sigaction old[ARRAY_SIZE(watched)];
    uint8_t pending[4096]; /* read, but not yet taken by the pipe */
    size_t npending;
};

static void on_signal(int sig)
{
    atomic_fetch_or(&came, 1ull << sig);
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

static void take_signal(struct console *c, int sig)
{
    switch (sig) {
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
        c->cfg.leave(c->cfg.opaque, sig);
    }
}

static void take_signals(struct console *c)
{
    uint64_t set = atomic_exchange(&came, 0);

    for (size_t i = 0; i < ARRAY_SIZE(watched); i++)
        if (set >> watched[i] & 1)
            take_signal(c, watched[i]);
}

/* Is there a point in reading input now? */
static bool input_wanted(struct console *c, bool foreground)
{
    if (c->cfg.in < 0 || c->eof)
        return false;
    return c->tty ? foreground : !c->npending;
}

/*
 * The signals are open in ppoll only, so none comes between looking and waiting. Not a signalfd: Linux wakes who
 * waits for one at every signal of the process, and a vCPU of the software engine may have 100,000 SIGSEGV a second.
 */
static void *console_thread(void *arg)
{
    struct console *c = arg;
    bool was_foreground = c->made_raw;

    for (;;) {
        bool foreground = c->tty && tty_foreground(c->cfg.in);
        struct timespec background = {.tv_nsec = BACKGROUND_POLL_MS * 1000000L};
        struct pollfd p[] = {
            {.fd = c->wake, .events = POLLIN},
            {.fd = input_wanted(c, foreground) ? c->cfg.in : -1, .events = POLLIN},
            {.fd = c->npending ? c->pipe[1] : -1, .events = POLLOUT},
        };
        int r;

        if (foreground && !was_foreground)
            tty_raw();
        was_foreground = foreground;
        r = ppoll(p, ARRAY_SIZE(p), c->tty && !foreground ? &background : NULL, &c->open_mask);
        if (r < 0 && errno != EINTR)
            return NULL;
        take_signals(c);
        if (r < 0)
            continue;
        if (p[0].revents)
            return NULL;
        if (p[1].revents)
            take_input(c);
        if (p[2].revents)
            drain(c);
    }
}

/* In every thread to come the watched signals are blocked; what is ignored stays so. */
static void catch_signals(struct console *c)
{
    struct sigaction sa = {.sa_handler = on_signal};
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_SIZE(watched); i++)
        sigaddset(&set, watched[i]);
    sa.sa_mask = set;
    pthread_sigmask(SIG_BLOCK, &set, &c->old_mask);
    c->open_mask = c->old_mask;
    for (size_t i = 0; i < ARRAY_SIZE(watched); i++) {
        sigdelset(&c->open_mask, watched[i]);
        sigaction(watched[i], NULL, &c->old[i]);
        if (c->old[i].sa_handler != SIG_IGN)
            sigaction(watched[i], &sa, NULL);
    }
    c->catching = true;
}

static void leave_signals(struct console *c)
{
    if (!c->catching)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(watched); i++)
        sigaction(watched[i], &c->old[i], NULL);
    pthread_sigmask(SIG_SETMASK, &c->old_mask, NULL);
    c->catching = false;
}

static int open_descriptors(struct console *c)
{
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
    c->wake = c->pipe[0] = c->pipe[1] = -1;
    catch_signals(c);
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
    int fds[3];

    if (!c)
        return;
    console_stop(c);
    memcpy(fds, (int[]){c->wake, c->pipe[0], c->pipe[1]}, sizeof(fds));
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    leave_signals(c);
    free(c);
}
