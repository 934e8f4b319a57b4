/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/conlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

static int file_open(struct conlog *log, int flags)
{
    struct stat st;

    log->fd = open(log->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (log->fd < 0)
        return -errno;
    log->size = fstat(log->fd, &st) ? 0 : (uint64_t)st.st_size;
    return 0;
}

/* Without room for a new file the old one goes on being written. */
static void file_turn(struct conlog *log)
{
    if (rename(log->path, log->old))
        return;
    close(log->fd);
    file_open(log, O_TRUNC);
}

static void file_append(struct conlog *log, const uint8_t *data, size_t len)
{
    while (len && log->fd >= 0) {
        ssize_t n = write(log->fd, data, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        data += n;
        len -= (size_t)n;
        log->size += (uint64_t)n;
    }
    if (log->fd >= 0 && log->size >= log->limit)
        file_turn(log);
}

int conlog_init(struct conlog *log, const char *path, uint64_t limit, struct err *err)
{
    int r;

    memset(log, 0, sizeof(*log));
    log->fd = -1;
    log->limit = limit;
    pthread_mutex_init(&log->lock, NULL);
    log->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    log->ring = malloc(CONLOG_RING);
    if (log->wake < 0 || !log->ring)
        return err_set(err, -ENOMEM, "cannot make the console's log: no memory or descriptors");
    if (!path)
        return 0;
    log->path = strdup(path);
    if (!log->path || asprintf(&log->old, "%s.old", path) < 0) {
        log->old = NULL;
        return err_set(err, -ENOMEM, "no memory for the name of the console's log");
    }
    r = file_open(log, 0);
    return r ? err_set(err, r, "cannot write the console's log %s: %s", path, strerror(-r)) : 0;
}

void conlog_fini(struct conlog *log)
{
    if (!log->ring && !log->path)
        return;
    if (log->fd >= 0)
        close(log->fd);
    if (log->wake >= 0)
        close(log->wake);
    free(log->ring);
    free(log->path);
    free(log->old);
    pthread_mutex_destroy(&log->lock);
    memset(log, 0, sizeof(*log));
    log->fd = log->wake = -1;
}

static void ring_put(struct conlog *log, const uint8_t *data, size_t len)
{
    if (len > CONLOG_RING) {
        log->end += len - CONLOG_RING;
        data += len - CONLOG_RING;
        len = CONLOG_RING;
    }
    for (size_t done = 0, n; done < len; done += n, log->end += n) {
        size_t at = log->end % CONLOG_RING;

        n = CONLOG_RING - at < len - done ? CONLOG_RING - at : len - done;
        memcpy(log->ring + at, data + done, n);
    }
}

void conlog_append(void *opaque, const uint8_t *data, size_t len)
{
    struct conlog *log = opaque;
    uint64_t one = 1;

    pthread_mutex_lock(&log->lock);
    ring_put(log, data, len);
    while (log->watchers && write(log->wake, &one, sizeof(one)) < 0 && errno == EINTR)
        ; /* EAGAIN: a full counter is readable, too */
    pthread_mutex_unlock(&log->lock);
    file_append(log, data, len);
}

int conlog_wake_fd(const struct conlog *log)
{
    return log->wake;
}

void conlog_woken(struct conlog *log)
{
    uint64_t count;

    if (read(log->wake, &count, sizeof(count)) < 0)
        return;
}

void conlog_watch(struct conlog *log, bool on)
{
    pthread_mutex_lock(&log->lock);
    log->watchers += on ? 1 : -1u;
    pthread_mutex_unlock(&log->lock);
}

uint64_t conlog_start(struct conlog *log, bool replay)
{
    uint64_t end;

    pthread_mutex_lock(&log->lock);
    end = log->end;
    pthread_mutex_unlock(&log->lock);
    if (!replay)
        return end;
    return end > CONLOG_REPLAY ? end - CONLOG_REPLAY : 0;
}

size_t conlog_read(struct conlog *log, uint64_t *pos, uint8_t *buf, size_t size, uint64_t *lost)
{
    size_t n, at;

    pthread_mutex_lock(&log->lock);
    *lost = log->end - *pos > CONLOG_RING ? log->end - *pos - CONLOG_RING : 0;
    *pos += *lost;
    n = log->end - *pos < size ? (size_t)(log->end - *pos) : size;
    at = *pos % CONLOG_RING;
    if (n > CONLOG_RING - at)
        n = CONLOG_RING - at;
    memcpy(buf, log->ring + at, n);
    pthread_mutex_unlock(&log->lock);
    return n;
}
