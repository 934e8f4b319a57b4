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

/*
 * The same for another descriptor of a file that the caller has: what is under way through it may outlive the first one, in
 * io_uring, when the process is killed. -1: there is none.
 */
void block_lock_also(int fd, bool writable);

/*
 * The writer of an image becomes a reader of it, with no moment between in which somebody else could become its writer;
 * and back, which asks nobody: who read it meanwhile is not protected any more. fd -1: nothing to do.
 */
void block_lock_to_reader(int fd);
void block_lock_to_writer(int fd);

/*
 * Nobody may write to a file without a single write permission, root neither: it is a layer that something stands on
 * (cli/layers.h). -EROFS, with what can be done, when fd is such a file.
 */
int block_lock_check_frozen(int fd, const char *path, struct err *err);

#endif
