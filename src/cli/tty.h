/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The terminal in raw mode, put back whatever happens short of SIGKILL. A
 * process has one controlling terminal, so this is the process's state, not a
 * guest's.
 */
#ifndef LODGE_CLI_TTY_H
#define LODGE_CLI_TTY_H

#include <stdbool.h>

#include "base/err.h"

/*
 * Remember the modes of terminal `fd` and see to it that exit() and signals
 * that would end the process restore them. One terminal at a time; -EBUSY
 * when there is one already. tty_fini restores and forgets; idempotent.
 */
int tty_init(int fd, struct err *err);
void tty_fini(void);

/* Raw mode on, when the process is in the terminal's foreground; true if it is on now. Any thread. */
bool tty_raw(void);

/* Raw mode off, input not yet read dropped: it was meant for the guest. Any thread, async-signal-safe. */
void tty_restore(void);

bool tty_foreground(int fd);

#endif
