/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/tty.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/types.h"

/*
 * Signal handlers and atexit take no argument, so this can't hang off an
 * object. `saved` is written before `fd` and never while `fd` is set.
 */
static struct {
    struct termios saved;
    _Atomic int fd; /* -1: none */
    atomic_bool raw;
    atomic_bool hooked;
} tty = {.fd = -1};

/* What would end the process without its exit handlers. */
static const int fatal_signals[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGSEGV, SIGBUS,
                                    SIGILL,  SIGFPE,  SIGABRT, SIGSYS,  SIGTRAP, SIGXCPU,
                                    SIGXFSZ, SIGALRM, SIGUSR1, SIGUSR2};

bool tty_foreground(int fd)
{
    return tcgetpgrp(fd) == getpgrp();
}

/* With SIGTTOU blocked a change from the background neither stops us nor fails. */
static void set_modes(int fd, const struct termios *modes)
{
    sigset_t ttou, old;

    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &old);
    tcsetattr(fd, TCSANOW, modes);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

bool tty_raw(void)
{
    int fd = atomic_load(&tty.fd);
    struct termios modes;

    if (fd < 0 || !tty_foreground(fd))
        return false;
    modes = tty.saved;
    cfmakeraw(&modes);
    modes.c_cc[VMIN] = 1;
    modes.c_cc[VTIME] = 0;
    /* Marked first: a signal in between then restores once too often rather than not at all. */
    atomic_store(&tty.raw, true);
    set_modes(fd, &modes);
    return true;
}

void tty_restore(void)
{
    int fd = atomic_load(&tty.fd);

    if (fd < 0 || !atomic_exchange(&tty.raw, false))
        return;
    /* In the background the modes belong to whoever has the terminal. */
    if (!tty_foreground(fd))
        return;
    tcflush(fd, TCIFLUSH);
    set_modes(fd, &tty.saved);
}

/* SA_RESETHAND has put the default action back: the signal raised again ends the process with its own status. */
static void fatal(int sig)
{
    tty_restore();
    raise(sig);
}

static void hook_signals(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
        struct sigaction sa = {.sa_handler = fatal,
                               .sa_flags = SA_RESETHAND | SA_NODEFER | SA_ONSTACK};
        struct sigaction old;

        /* What is ignored (nohup) or handled by others does not end the process by itself. */
        if (!sigaction(fatal_signals[i], NULL, &old) && old.sa_handler == SIG_DFL)
            sigaction(fatal_signals[i], &sa, NULL);
    }
    atexit(tty_restore);
}

int tty_init(int fd, struct err *err)
{
    if (atomic_load(&tty.fd) >= 0)
        return err_set(err, -EBUSY, "the terminal is in use by another guest of this process");
    if (tcgetattr(fd, &tty.saved))
        return err_set(err, -errno, "cannot read the terminal's modes: %s", strerror(errno));
    atomic_store(&tty.fd, fd);
    if (!atomic_exchange(&tty.hooked, true))
        hook_signals();
    return 0;
}

void tty_fini(void)
{
    tty_restore();
    atomic_store(&tty.fd, -1);
}
