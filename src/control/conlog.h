/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest's console has said: the last of it in memory, for those who watch or come later, and as much as is to be
 * kept in a file. Every byte has a position, counted from the first one.
 */
#ifndef LODGE_CONTROL_CONLOG_H
#define LODGE_CONTROL_CONLOG_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/types.h"

#define CONLOG_RING   (256u << 10)
#define CONLOG_REPLAY (64u << 10)

struct conlog {
    pthread_mutex_t lock;
    uint8_t *ring;
    uint64_t end;      /* position of the next byte */
    char *path, *old;  /* of the file, and of what it becomes when it is full; NULL: no file */
    int fd;            /* of the file, -1: none */
    uint64_t size;     /* of the file */
    uint64_t limit;    /* when it is full */
    int wake;          /* an eventfd */
    unsigned watchers; /* somebody wants `wake` signalled */
};

/*
 * path: the file to append to (made with mode 0600 when missing), NULL for none. When it has `limit` bytes it is renamed to
 * `path`.old, which replaces an older one, and begun anew.
 */
int conlog_init(struct conlog *log, const char *path, uint64_t limit, struct err *err);
void conlog_fini(struct conlog *log); /* idempotent; also after a failed init */

/* Any thread. A file that can't be written to, as on a full disk, loses what doesn't fit; nobody waits for readers. */
void conlog_append(void *log, const uint8_t *data, size_t len);

/* Descriptor to poll for reading: there may be something new for watchers. conlog_woken makes it unreadable again. */
int conlog_wake_fd(const struct conlog *log);
void conlog_woken(struct conlog *log);
void conlog_watch(struct conlog *log, bool on); /* one watcher more or less */

/* Where to start reading: at the end, or with what is to be repeated to those who come later. */
uint64_t conlog_start(struct conlog *log, bool replay);

/*
 * Copy up to `size` bytes from position *pos on. Returns how many; 0: there are no more. *lost: so many bytes from *pos on
 * are no longer there; *pos is then moved behind them. The caller adds to *pos what it has used.
 */
size_t conlog_read(struct conlog *log, uint64_t *pos, uint8_t *buf, size_t size, uint64_t *lost);

#endif
