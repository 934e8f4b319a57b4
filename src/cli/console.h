/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the outside world tells a foreground guest: typed input, the key that
 * leaves the console, and signals. One thread carries all three.
 */
#ifndef LODGE_CLI_CONSOLE_H
#define LODGE_CLI_CONSOLE_H

#include "base/err.h"
#include "base/types.h"

struct console;

struct console_config {
    int in;     /* descriptor input is read from; -1: none */
    bool typed; /* there is a console, even without input of its own */
    int escape; /* byte that leaves the console when `in` is a terminal; -1: none */
    /* On the console's thread. signal: its number, or 0 when the escape key was pressed. May come more than once. */
    void (*leave)(void *opaque, int signal);
    void (*report)(void *opaque); /* the same for SIGUSR1; NULL: nothing to report */
    void (*resize)(void *opaque); /* the terminal has another size; NULL: no matter */
    void *opaque;
};

/*
 * Block SIGINT, SIGTERM, SIGHUP and the job-control signals in the calling
 * thread (those the process ignores stay ignored), so call it before other
 * threads are started; they inherit that. A terminal is put in raw mode.
 */
int console_new(struct console **c, const struct console_config *cfg, struct err *err);

/* Read end of what was typed, for the guest's serial port; -1 without one. Never at end of file before console_free. */
int console_input(const struct console *c);

/* The other end: what is written there (it does not block) is typed, too; -1 without console. */
int console_typed(const struct console *c);

bool console_is_tty(const struct console *c);

/* End the thread and restore the terminal; `leave` is not called afterwards. Idempotent. */
void console_stop(struct console *c);

/* Stop, close the descriptors and unblock the signals. */
void console_free(struct console *c);

#endif
