/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The serial port's way to the host's descriptors: a thread for each direction. What the guest sends goes to a ring that a
 * thread writes out, so that a slow reader on the host's side slows the guest's transmitter (LSR.THRE) and not its vCPU.
 */
#include "dev/serial_int.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"

#define CHUNK       4096u /* PIPE_BUF: a poll that says writable promises a pipe this much */
#define FLUSH_BYTES 512u  /* this much, or a newline, is written at once; less after a moment */
#define FLUSH_NS    1000000
#define STALL_MS    2000 /* a descriptor that takes nothing for so long doesn't hold the guest up */
#define STUCK_MS    500  /* for a thread to end once it was told to */
#define RETRY_MS    1000 /* after an input error that may pass (a terminal's background job) */

static void event_signal(int fd)
{
    uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void event_drain(int fd)
{
    uint64_t count;

    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
}

/* A thread's end, or the owner's. */
void serial_put(struct serial *s)
{
    bool last = !--s->refs;

    pthread_cond_broadcast(&s->ended);
    pthread_mutex_unlock(&s->lock);
    if (!last)
        return;
    if (s->event_fd >= 0)
        close(s->event_fd);
    if (s->give_up_fd >= 0)
        close(s->give_up_fd);
    pthread_cond_destroy(&s->out_data);
    pthread_cond_destroy(&s->out_room);
    pthread_cond_destroy(&s->ended);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- Input ------------------------------------------------------------------------- */

void serial_wire_room(struct serial *s)
{
    if (s->in_waiting && serial_rx_room(s)) {
        s->in_waiting = false;
        event_signal(s->event_fd);
    }
}

/* Wait for the event descriptor, and for input too if `input`. True: read. */
static bool input_poll(struct serial *s, bool input, int timeout_ms)
{
    struct pollfd fds[2] = {
        {.fd = s->event_fd, .events = POLLIN},
        {.fd = input ? s->ends.in : -1, .events = POLLIN},
    };

    if (poll(fds, 2, timeout_ms) <= 0)
        return false;
    if (fds[0].revents)
        event_drain(s->event_fd);
    return fds[1].revents;
}

/* Put what fits into the FIFO; false: asked to stop. *room is what would fit beyond it. */
static bool input_deliver(struct serial *s, uint8_t *buf, unsigned *len, unsigned *room)
{
    unsigned n;
    bool go;

    pthread_mutex_lock(&s->lock);
    for (n = 0; n < *len && serial_rx_room(s); n++)
        serial_rx_push(s, buf[n]);
    if (n)
        serial_irq_update(s);
    *room = serial_rx_room(s);
    s->in_waiting = !*room;
    go = !s->in_stop;
    pthread_mutex_unlock(&s->lock);
    *len -= n;
    memmove(buf, buf + n, *len);
    return go;
}

static void *input_main(void *opaque)
{
    struct serial *s = opaque;
    uint8_t buf[FIFO_SIZE];
    unsigned len = 0, room;
    ssize_t n;

    while (input_deliver(s, buf, &len, &room)) {
        if (!input_poll(s, room && !len, -1) || !room || len)
            continue;
        n = read(s->ends.in, buf, room);
        if (n > 0)
            len = (unsigned)n;
        else if (n == 0)
            break; /* end of input */
        else if (errno == EIO)
            input_poll(s, false, RETRY_MS);
        else if (errno != EAGAIN && errno != EINTR)
            break;
    }
    pthread_mutex_lock(&s->lock);
    s->in_done = true;
    serial_put(s);
    return NULL;
}

/* ---- Output ------------------------------------------------------------------------ */

static void deadline_in(struct timespec *ts, long ms, long ns)
{
    clock_gettime(CLOCK_MONOTONIC, ts);
    ts->tv_sec += ms / 1000;
    ts->tv_nsec += ms % 1000 * 1000000 + ns;
    ts->tv_sec += ts->tv_nsec / 1000000000;
    ts->tv_nsec %= 1000000000;
}

static bool flush_now(const struct serial *s, uint8_t last)
{
    return last == '\n' || s->ring_count == FLUSH_BYTES;
}

/* Wait until the thread got something out or ended; false when that takes longer than STALL_MS. */
static bool output_progress_locked(struct serial *s)
{
    uint64_t taken = s->out_taken;
    struct timespec until;

    deadline_in(&until, STALL_MS, 0);
    while (s->out_taken == taken && !s->out_done) {
        s->out_waiting = true;
        if (pthread_cond_timedwait(&s->out_room, &s->lock, &until) == ETIMEDOUT)
            return s->out_taken != taken || s->out_done;
    }
    return true;
}

/*
 * A guest that sends although THRE is clear (consoles do after some patience)
 * waits here for room, and loses the byte only if the descriptor has taken
 * nothing for STALL_MS; from then until it takes something it does not wait.
 */
static bool room_wait_locked(struct serial *s)
{
    while (s->ring_count == RING_SIZE && !s->out_dead && !s->out_stalled)
        s->out_stalled = !output_progress_locked(s);
    return s->ring_count < RING_SIZE && !s->out_dead;
}

void serial_wire_send(struct serial *s, uint8_t byte)
{
    if (!s->out_started || (s->ring_count == RING_SIZE && !room_wait_locked(s)) || s->out_dead)
        return;
    s->ring[(s->ring_head + s->ring_count) % RING_SIZE] = byte;
    s->ring_count++;
    if (s->ring_count == 1 || flush_now(s, byte))
        pthread_cond_signal(&s->out_data);
}

/* Wait for something to write. False: nothing left, and asked to stop. */
static bool output_wait_locked(struct serial *s)
{
    struct timespec until;
    uint8_t last;

    while (!s->ring_count && !s->out_stop)
        pthread_cond_wait(&s->out_data, &s->lock);
    deadline_in(&until, 0, FLUSH_NS);
    while (!s->out_stop && s->ring_count < FLUSH_BYTES) {
        last = s->ring[(s->ring_head + s->ring_count - 1) % RING_SIZE];
        if (last == '\n' || pthread_cond_timedwait(&s->out_data, &s->lock, &until) == ETIMEDOUT)
            break;
    }
    return s->ring_count;
}

/* The descriptor is of no use any more; others may still listen. */
static ssize_t output_lost(struct serial *s, size_t len)
{
    if (!s->ends.tap)
        return -1;
    s->ends.out = -1;
    return (ssize_t)len;
}

/* Without the lock. The count of bytes taken, 0: none now, -1: dead, or time to give up. */
static ssize_t output_write(struct serial *s, const uint8_t *buf, size_t len)
{
    struct pollfd fds[2] = {
        {.fd = s->ends.out, .events = POLLOUT},
        {.fd = s->give_up_fd, .events = POLLIN},
    };
    ssize_t n;

    if (s->ends.out < 0)
        return (ssize_t)len;
    if (poll(fds, 2, -1) < 0)
        return errno == EINTR ? 0 : -1;
    if (fds[1].revents)
        return -1;
    n = write(s->ends.out, buf, len);
    if (n >= 0)
        return n;
    if (errno == EAGAIN)
        poll(NULL, 0, 1); /* poll was wrong about it: don't spin */
    else if (errno != EINTR)
        return output_lost(s, len);
    return 0;
}

static void output_taken_locked(struct serial *s, ssize_t n)
{
    bool was_ready = serial_tx_ready(s);

    if (n < 0) {
        s->out_dead = true;
        s->out_taken++;
        s->ring_count = 0;
    } else if (n > 0) {
        s->ring_head = (s->ring_head + (unsigned)n) % RING_SIZE;
        s->ring_count -= (unsigned)n;
        s->out_taken += (uint64_t)n;
        s->out_stalled = false;
    }
    if (!was_ready && serial_tx_ready(s)) {
        s->tx_pending = true;
        serial_irq_update(s);
    }
    if (s->out_waiting) {
        s->out_waiting = false;
        pthread_cond_broadcast(&s->out_room);
    }
}

/* Leaves the lock for the call, which the owner waits for. */
static void output_tap_locked(struct serial *s, const uint8_t *data, size_t len)
{
    if (s->gone)
        return;
    s->tapping = true;
    pthread_mutex_unlock(&s->lock);
    s->ends.tap(s->ends.opaque, data, len);
    pthread_mutex_lock(&s->lock);
    s->tapping = false;
    pthread_cond_broadcast(&s->ended);
}

static void *output_main(void *opaque)
{
    struct serial *s = opaque;
    unsigned len;
    ssize_t n;

    pthread_mutex_lock(&s->lock);
    while (!s->gone && output_wait_locked(s)) {
        const uint8_t *from = s->ring + s->ring_head;

        len = RING_SIZE - s->ring_head < s->ring_count ? RING_SIZE - s->ring_head : s->ring_count;
        pthread_mutex_unlock(&s->lock);
        /* Nobody else moves ring_head, and nobody overwrites what lies after it. */
        n = output_write(s, from, len < CHUNK ? len : CHUNK);
        pthread_mutex_lock(&s->lock);
        if (n > 0 && s->ends.tap)
            output_tap_locked(s, from, (size_t)n);
        output_taken_locked(s, n);
    }
    s->out_done = true;
    pthread_cond_broadcast(&s->out_room);
    serial_put(s);
    return NULL;
}

/* ---- Threads ------------------------------------------------------------------------ */

/* A device's threads take no signals: those belong to the engine and the main loop. */
static int thread_start(pthread_t *thread, void *(*fn)(void *), struct serial *s)
{
    sigset_t all, old;
    int ret;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_mutex_lock(&s->lock);
    ret = pthread_create(thread, NULL, fn, s);
    s->refs += !ret;
    pthread_mutex_unlock(&s->lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret;
}

int serial_wire_start(struct serial *s, struct err *err)
{
    int ret = 0;

    if (s->ends.out >= 0 || s->ends.tap) {
        ret = thread_start(&s->out_thread, output_main, s);
        s->out_started = !ret;
    }
    if (!ret && s->ends.in >= 0) {
        ret = thread_start(&s->in_thread, input_main, s);
        s->in_started = !ret;
    }
    if (ret)
        return err_set(err, -ret, "can't start a thread for the serial port: %s", strerror(ret));
    return 0;
}

/* Join a thread that was told to end; one that is stuck is left behind. */
static void thread_end(struct serial *s, pthread_t thread, const bool *done)
{
    struct timespec until;
    bool ended;
    int ret = 0;

    deadline_in(&until, STUCK_MS, 0);
    pthread_mutex_lock(&s->lock);
    while (!*done && !ret)
        ret = pthread_cond_timedwait(&s->ended, &s->lock, &until);
    ended = *done;
    pthread_mutex_unlock(&s->lock);
    if (ended)
        pthread_join(thread, NULL);
    else
        pthread_detach(thread);
}

static void input_stop(struct serial *s)
{
    if (!s->in_started)
        return;
    pthread_mutex_lock(&s->lock);
    s->in_stop = true;
    pthread_mutex_unlock(&s->lock);
    event_signal(s->event_fd);
    thread_end(s, s->in_thread, &s->in_done);
    s->in_started = false;
}

/* Everything goes out first, unless the descriptor takes nothing for STALL_MS. */
static void output_stop(struct serial *s)
{
    if (!s->out_started)
        return;
    pthread_mutex_lock(&s->lock);
    s->out_stop = true;
    pthread_cond_signal(&s->out_data);
    while (!s->out_done && output_progress_locked(s))
        ;
    if (!s->out_done)
        event_signal(s->give_up_fd);
    pthread_mutex_unlock(&s->lock);
    thread_end(s, s->out_thread, &s->out_done);
    s->out_started = false;
}

void serial_wire_stop(struct serial *s)
{
    input_stop(s);
    output_stop(s);
}
