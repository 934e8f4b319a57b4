/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/console_line.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OUT_SIZE 65536u
#define IN_SIZE  1024u
#define CHUNK    4096u /* PIPE_BUF: a poll that says writable promises a pipe this much */
#define STALL_MS 2000  /* a descriptor that takes nothing for so long doesn't hold the guest up */
#define STUCK_MS 500   /* for what is left to be written once the device has gone */

/*
 * The thread may be stuck in a write that poll had promised not to block, when a terminal is stopped in between. It is left
 * behind then, with a reference, and ends by itself once the call returns.
 */
struct console_line {
    struct serial_ends ends;
    int sock, stop_fd;
    pthread_mutex_t lock; /* what follows, and calls of ends.tap */
    pthread_cond_t ended;
    unsigned refs;  /* the owner's and the thread's */
    bool gone;      /* the owner has left: the ends may not be touched */
    bool done;      /* the thread is about to end */
    uint64_t taken; /* grows when the descriptor takes something */
    /* The thread's own. */
    bool closed, in_eof, out_dead, stalled;
    unsigned in_len, out_at, out_len;
    uint8_t in[IN_SIZE], out[OUT_SIZE];
};

static void put_locked(struct console_line *l)
{
    bool last = !--l->refs;

    pthread_cond_broadcast(&l->ended);
    pthread_mutex_unlock(&l->lock);
    if (!last)
        return;
    close(l->sock);
    close(l->stop_fd);
    pthread_cond_destroy(&l->ended);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static bool passes(int error)
{
    return error == EAGAIN || error == EINTR || error == EIO;
}

/* ---- From the guest ------------------------------------------------------------------------ */

static bool has_room(const struct console_line *l)
{
    return l->out_len < OUT_SIZE || l->stalled;
}

static void take_output(struct console_line *l)
{
    ssize_t n;

    if (l->out_at) {
        memmove(l->out, l->out + l->out_at, l->out_len);
        l->out_at = 0;
    }
    if (l->out_len == OUT_SIZE) {
        uint8_t lost[CHUNK];

        n = recv(l->sock, lost, sizeof(lost), MSG_DONTWAIT);
    } else {
        n = recv(l->sock, l->out + l->out_len, OUT_SIZE - l->out_len, MSG_DONTWAIT);
        l->out_len += n > 0 ? (unsigned)n : 0;
    }
    l->closed = !n || (n < 0 && !passes(errno));
}

static void write_output(struct console_line *l)
{
    unsigned len = l->out_len < CHUNK ? l->out_len : CHUNK;
    ssize_t n = (ssize_t)len;

    if (l->ends.out >= 0 && !l->out_dead)
        n = write(l->ends.out, l->out + l->out_at, len);
    if (n < 0 && passes(errno)) {
        poll(NULL, 0, errno == EINTR ? 0 : 10); /* poll was wrong about it: don't spin */
        return;
    }
    l->out_dead |= n < 0;
    n = n < 0 ? (ssize_t)len : n;
    pthread_mutex_lock(&l->lock);
    if (l->ends.tap && !l->gone)
        l->ends.tap(l->ends.opaque, l->out + l->out_at, (size_t)n);
    l->taken++;
    pthread_mutex_unlock(&l->lock);
    l->stalled = false;
    l->out_at += (unsigned)n;
    l->out_len -= (unsigned)n;
}

/* ---- To the guest -------------------------------------------------------------------------- */

static void take_input(struct console_line *l)
{
    ssize_t n = read(l->ends.in, l->in, sizeof(l->in));

    l->in_eof = !n || (n < 0 && !passes(errno));
    l->in_len = n > 0 ? (unsigned)n : 0;
}

static void send_input(struct console_line *l)
{
    ssize_t n = send(l->sock, l->in, l->in_len, MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n <= 0)
        return;
    l->in_len -= (unsigned)n;
    memmove(l->in, l->in + n, l->in_len);
}

/* ---- The thread ------------------------------------------------------------------------------ */

static bool turn(struct console_line *l)
{
    bool blocks = l->ends.out >= 0 && !l->out_dead;
    struct pollfd p[] = {
        {.fd = l->stop_fd, .events = POLLIN},
        {.fd = l->closed || (!has_room(l) && !l->in_len) ? -1 : l->sock,
         .events = (short)((has_room(l) ? POLLIN : 0) | (l->in_len ? POLLOUT : 0))},
        {.fd = l->in_len || l->in_eof || l->closed ? -1 : l->ends.in, .events = POLLIN},
        {.fd = l->out_len && blocks ? l->ends.out : -1, .events = POLLOUT},
    };
    int rc;

    if (l->closed && !l->out_len)
        return false;
    rc = poll(p, ARRAY_SIZE(p), has_room(l) ? -1 : STALL_MS);
    if (rc < 0)
        return true;
    if (p[0].revents)
        return false;
    l->stalled |= !rc;
    if ((p[1].revents & POLLOUT) && l->in_len)
        send_input(l);
    if (p[1].revents & (POLLHUP | POLLERR)) {
        l->in_eof = true; /* there is nobody to send it to */
        l->in_len = 0;
    }
    if ((p[1].revents & ~POLLOUT) && has_room(l))
        take_output(l);
    if (p[2].revents)
        take_input(l);
    if (p[3].revents || (l->out_len && !blocks))
        write_output(l);
    return true;
}

static void *line_thread(void *opaque)
{
    struct console_line *l = opaque;

    while (turn(l))
        ;
    pthread_mutex_lock(&l->lock);
    l->done = true;
    put_locked(l);
    return NULL;
}

static int start_thread(struct console_line *l)
{
    sigset_t all, old;
    pthread_t thread;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    l->refs++;
    rc = pthread_create(&thread, NULL, line_thread, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        l->refs--;
        return -rc;
    }
    pthread_setname_np(thread, "console line");
    pthread_detach(thread);
    return 0;
}

int console_line_new(struct console_line **out, const struct serial_ends *ends, int *fd,
                     struct err *err)
{
    struct console_line *l = calloc(1, sizeof(*l));
    pthread_condattr_t attr;
    int pair[2], code;

    if (!l)
        return err_set(err, -ENOMEM, "no memory for a console");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
        code = -errno;
        free(l);
        return err_set(err, code, "cannot make sockets for a console: %s", strerror(-code));
    }
    l->ends = *ends;
    l->sock = pair[1];
    l->refs = 1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->ended, &attr);
    pthread_condattr_destroy(&attr);
    l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    code = l->stop_fd < 0 ? -errno : start_thread(l);
    if (code < 0) {
        close(pair[0]);
        pthread_mutex_lock(&l->lock);
        put_locked(l);
        return err_set(err, code, "cannot start a console: %s", strerror(-code));
    }
    *out = l;
    *fd = pair[0];
    return 0;
}

/* True: the thread has ended, or got something out; false: it has not for STUCK_MS. */
static bool progress_locked(struct console_line *l)
{
    uint64_t taken = l->taken;
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += STUCK_MS * 1000000l;
    until.tv_sec += until.tv_nsec / 1000000000l;
    until.tv_nsec %= 1000000000l;
    while (!l->done)
        if (pthread_cond_timedwait(&l->ended, &l->lock, &until) == ETIMEDOUT)
            return l->done || l->taken != taken;
    return true;
}

void console_line_free(struct console_line *l)
{
    const uint64_t one = 1;

    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    while (!l->done && progress_locked(l))
        ;
    while (!l->done && write(l->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    if (!l->done)
        progress_locked(l);
    l->gone = true;
    put_locked(l);
}
