/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Joins a console port with the outside world: what the guest says goes to a
 * descriptor, what comes from another to the guest. A descriptor that takes
 * nothing for a while does not hold the guest up, whose console driver waits
 * with its CPU: from then on what it says is lost, until something is taken.
 */
#ifndef LODGE_DEV_VIRTIO_CONSOLE_LINE_H
#define LODGE_DEV_VIRTIO_CONSOLE_LINE_H

#include "base/err.h"
#include "dev/serial.h"

struct console_line;

/* *fd is the device's end, a stream socket that does not block, from now on the caller's. On failure nothing is held. */
int console_line_new(struct console_line **line, const struct serial_ends *ends, int *fd,
                     struct err *err);

/*
 * The device's end has been closed: what came through it is written out, for as long as the descriptor takes anything.
 * The ends are not touched any more afterwards. NULL is fine.
 */
void console_line_free(struct console_line *line);

#endif
