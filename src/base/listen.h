/* SPDX-License-Identifier: GPL-2.0-or-later */
/* UNIX sockets that others connect to. */
#ifndef LODGE_BASE_LISTEN_H
#define LODGE_BASE_LISTEN_H

#include "base/err.h"

/*
 * A listening stream socket at `path`, for this user only, not blocking; what
 * a process that is gone has left there is replaced. The descriptor, or a
 * negative errno. The caller closes it and unlinks the path.
 */
int listen_unix(const char *path, struct err *err);

#endif
