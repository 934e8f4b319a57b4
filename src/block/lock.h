/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Locks on image files, kept by the open file description. */
#ifndef LODGE_BLOCK_LOCK_H
#define LODGE_BLOCK_LOCK_H

#include "base/err.h"
#include "base/types.h"

/*
 * Take the image for one writer, or for any number of readers, until fd is
 * closed. The bytes locked are those of QEMU's programs, so that they respect
 * it and are respected. -EBUSY when somebody holds it in a way that does not
 * go with this, after a quarter of a second in which he might let go; a file system without locks is let pass with a warning.
 */
int block_lock(int fd, bool writable, const char *path, struct err *err);

#endif
