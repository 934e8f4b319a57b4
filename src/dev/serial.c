/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * 16550A (National Semiconductor PC16550D data sheet). What the guest sends
 * goes to a ring that a thread writes out, so that a slow reader on the host
 * side slows the guest's transmitter (LSR.THRE) and not its vCPU. Time on the
 * wire is not modelled: the transmitter takes a byte at once, and a receive
 * FIFO below its trigger level is a timeout at once.
 */
#include "dev/serial.h"

#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define FIFO_SIZE   16
#define RING_SIZE   65536u
#define RING_SPARE  256u  /* the transmitter is "busy" with less room than this */
#define CHUNK       4096u /* PIPE_BUF: a poll that says writable promises a pipe this much */
#define FLUSH_BYTES 512u  /* this much, or a newline, is written at once; less after a moment */
#define FLUSH_NS    1000000
#define STALL_MS    2000 /* a descriptor that takes nothing for so long doesn't hold the guest up */
#define STUCK_MS    500  /* for a thread to end once it was told to */
#define RETRY_MS    1000 /* after an input error that may pass (a terminal's background job) */

enum reg { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX       0x01u
#define IER_TX       0x02u
#define IER_LINE     0x04u
#define IER_MODEM    0x08u
#define IIR_NONE     0x01u
#define IIR_MODEM    0x00u
#define IIR_TX       0x02u
#define IIR_RX       0x04u
#define IIR_LINE     0x06u
#define IIR_TIMEOUT  0x0cu
#define IIR_FIFO     0xc0u
#define FCR_ENABLE   0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_KEPT     (0xc0u | FCR_ENABLE)
#define LCR_BREAK    0x40u
#define LCR_DLAB     0x80u
#define MCR_DTR      0x01u
#define MCR_RTS      0x02u
#define MCR_OUT1     0x04u
#define MCR_OUT2     0x08u
#define MCR_LOOP     0x10u
#define LSR_DATA     0x01u
#define LSR_OVERRUN  0x02u
#define LSR_BREAK    0x10u
#define LSR_THRE     0x20u
#define LSR_TEMT     0x40u
#define LSR_ERRORS   (LSR_OVERRUN | LSR_BREAK)
#define MSR_CTS      0x10u
#define MSR_DSR      0x20u
#define MSR_RI       0x40u
#define MSR_DCD      0x80u

/*
 * A thread may be stuck in a read or write that poll had promised not to block: a terminal is stopped in between, or somebody
 * else takes what was there. It is left behind then, with a reference, and ends by itself once the call returns.
 */
struct serial {
    pthread_mutex_t lock;
    unsigned refs; /* the owner's and one of each thread; under the lock */
    bool gone;     /* the owner has left: nothing but this structure may be touched */
    bool tapping;  /* ends.tap is being called */
    struct irq_line irq;
    bool level;

    uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
    uint8_t errors;  /* latched LSR error bits */
    bool tx_pending; /* THRE interrupt, until IIR is read */

    uint8_t rx[FIFO_SIZE];
    unsigned rx_head, rx_count;

    struct serial_ends ends;

    /* Output. head and count under the lock; the thread writes from the ring without it. */
    uint8_t ring[RING_SIZE];
    unsigned ring_head, ring_count;
    bool out_started, out_dead; /* dead: nobody will ever read this descriptor again */
    bool out_stalled, out_stop, out_done;
    uint64_t out_taken; /* grows whenever the descriptor takes something, or dies */
    bool out_waiting;   /* somebody waits for room */
    pthread_cond_t out_data, out_room, ended;
    pthread_t out_thread;
    int give_up_fd; /* readable: stop trying */

    /* Input. */
    int event_fd;
    bool in_started, in_stop, in_done;
    bool in_waiting; /* for room in the FIFO: wants event_fd written */
    pthread_t in_thread;
};

/* ---- Interrupts ----------------------------------------------------------------- */

static unsigned fifo_capacity(const struct serial *s)
{
    return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned fifo_trigger(const struct serial *s)
{
    static const uint8_t trigger[4] = {1, 4, 8, 14};

    return s->fcr & FCR_ENABLE ? trigger[s->fcr >> 6] : 1;
}

static bool tx_ready(const struct serial *s)
{
    return RING_SIZE - s->ring_count > RING_SPARE || s->out_dead;
}

/* The highest-priority interrupt, as IIR shows it. */
static uint8_t interrupt_id(const struct serial *s)
{
    if ((s->ier & IER_LINE) && s->errors)
        return IIR_LINE;
    if ((s->ier & IER_RX) && s->rx_count)
        return s->rx_count >= fifo_trigger(s) ? IIR_RX : IIR_TIMEOUT;
    if ((s->ier & IER_TX) && s->tx_pending)
        return IIR_TX;
    if ((s->ier & IER_MODEM) && (s->msr & 0x0f))
        return IIR_MODEM;
    return IIR_NONE;
}

/* OUT2, which gates the line on a PC's board, is not looked at: not every guest sets it. */
static void irq_update_locked(struct serial *s)
{
    bool level = interrupt_id(s) != IIR_NONE;

    if (level != s->level && !s->gone) {
        s->level = level;
        irq_set(s->irq, level);
    }
}

/* ---- Receiver ------------------------------------------------------------------- */

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

/*
 * Does the other end send? Its flow control is RTS, so that input which is
 * there from the start is not lost in a FIFO that the guest's driver clears
 * while it probes. A guest that leaves modem control alone is served when it
 * enables the interrupt. In loopback the outside world is disconnected.
 */
static bool is_listening(const struct serial *s)
{
    if (s->mcr & MCR_LOOP)
        return false;
    return s->mcr ? s->mcr & MCR_RTS : s->ier & IER_RX;
}

static unsigned rx_room(const struct serial *s)
{
    unsigned capacity = fifo_capacity(s);

    return is_listening(s) && s->rx_count < capacity ? capacity - s->rx_count : 0;
}

static void rx_push(struct serial *s, uint8_t byte)
{
    if (s->rx_count >= fifo_capacity(s)) {
        s->errors |= LSR_OVERRUN;
        if (s->fcr & FCR_ENABLE)
            return; /* the FIFO keeps what it has, a single register the last byte */
        s->rx_count = 0;
    }
    s->rx[(s->rx_head + s->rx_count) % FIFO_SIZE] = byte;
    s->rx_count++;
}

static void rx_room_changed_locked(struct serial *s)
{
    if (s->in_waiting && rx_room(s)) {
        s->in_waiting = false;
        event_signal(s->event_fd);
    }
}

static uint8_t rx_pop(struct serial *s)
{
    uint8_t byte;

    if (!s->rx_count)
        return 0;
    byte = s->rx[s->rx_head];
    s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
    s->rx_count--;
    rx_room_changed_locked(s);
    return byte;
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

/* A thread's end, or the owner's. */
static void put_locked(struct serial *s)
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

/* Put what fits into the FIFO; false: asked to stop. *room is what would fit beyond it. */
static bool input_deliver(struct serial *s, uint8_t *buf, unsigned *len, unsigned *room)
{
    unsigned n;
    bool go;

    pthread_mutex_lock(&s->lock);
    for (n = 0; n < *len && rx_room(s); n++)
        rx_push(s, buf[n]);
    if (n)
        irq_update_locked(s);
    *room = rx_room(s);
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
    put_locked(s);
    return NULL;
}

/* ---- Transmitter ---------------------------------------------------------------- */

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

static void tx_push_locked(struct serial *s, uint8_t byte)
{
    if (!s->out_started || (s->ring_count == RING_SIZE && !room_wait_locked(s)) || s->out_dead)
        return;
    s->ring[(s->ring_head + s->ring_count) % RING_SIZE] = byte;
    s->ring_count++;
    if (s->ring_count == 1 || flush_now(s, byte))
        pthread_cond_signal(&s->out_data);
}

static void tx_write_locked(struct serial *s, uint8_t byte)
{
    if (s->mcr & MCR_LOOP)
        rx_push(s, byte);
    else
        tx_push_locked(s, byte);
    /* The byte left the holding register at once, which is an interrupt of its own. */
    s->tx_pending = tx_ready(s);
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
    bool was_ready = tx_ready(s);

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
    if (!was_ready && tx_ready(s)) {
        s->tx_pending = true;
        irq_update_locked(s);
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
    put_locked(s);
    return NULL;
}

/* ---- Registers ------------------------------------------------------------------ */

static uint8_t modem_lines(const struct serial *s)
{
    if (!(s->mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
           (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void modem_update(struct serial *s)
{
    uint8_t now = modem_lines(s), changed = (now ^ s->msr) & 0xf0;

    /* The ring indicator's delta bit is its trailing edge. */
    if ((changed & MSR_RI) && (now & MSR_RI))
        changed &= (uint8_t)~MSR_RI;
    s->msr = now | (s->msr & 0x0f) | changed >> 4;
}

static uint8_t lsr_read(struct serial *s)
{
    uint8_t lsr = s->errors | (s->rx_count ? LSR_DATA : 0);

    if (tx_ready(s))
        lsr |= LSR_THRE | LSR_TEMT;
    s->errors = 0;
    return lsr;
}

static uint8_t iir_read(struct serial *s)
{
    uint8_t id = interrupt_id(s);

    if (id == IIR_TX)
        s->tx_pending = false;
    return id | (s->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t reg_read_locked(struct serial *s, unsigned reg)
{
    bool dlab = s->lcr & LCR_DLAB;
    uint8_t val;

    switch (reg) {
    case REG_DATA:
        return dlab ? s->dll : rx_pop(s);
    case REG_IER:
        return dlab ? s->dlm : s->ier;
    case REG_IIR:
        return iir_read(s);
    case REG_LCR:
        return s->lcr;
    case REG_MCR:
        return s->mcr;
    case REG_LSR:
        return lsr_read(s);
    case REG_MSR:
        val = s->msr;
        s->msr &= 0xf0;
        return val;
    default:
        return s->scr;
    }
}

static void fcr_write(struct serial *s, uint8_t val)
{
    bool enable = val & FCR_ENABLE;

    /* Switching the FIFOs on or off empties them; the other bits count only while on. */
    if ((enable && (val & FCR_CLEAR_RX)) || enable != (s->fcr & FCR_ENABLE))
        s->rx_count = 0;
    /* Clearing the transmit FIFO finds it empty: what was in it is on the wire. */
    s->fcr = enable ? val & FCR_KEPT : 0;
    rx_room_changed_locked(s);
}

static void lcr_write(struct serial *s, uint8_t val)
{
    /* A break looped back is received as a zero with an error. */
    if ((s->mcr & MCR_LOOP) && (val & ~s->lcr & LCR_BREAK)) {
        rx_push(s, 0);
        s->errors |= LSR_BREAK;
    }
    s->lcr = val;
}

static void reg_write_locked(struct serial *s, unsigned reg, uint8_t val)
{
    bool dlab = s->lcr & LCR_DLAB;

    switch (reg) {
    case REG_DATA:
        if (dlab)
            s->dll = val;
        else
            tx_write_locked(s, val);
        break;
    case REG_IER:
        if (dlab) {
            s->dlm = val;
            break;
        }
        /* Enabled with an empty holding register it is raised: drivers probe and start so. */
        if ((val & ~s->ier & IER_TX) && tx_ready(s))
            s->tx_pending = true;
        s->ier = val & 0x0f;
        rx_room_changed_locked(s);
        break;
    case REG_IIR:
        fcr_write(s, val);
        break;
    case REG_LCR:
        lcr_write(s, val);
        break;
    case REG_MCR:
        s->mcr = val & 0x1f;
        modem_update(s);
        rx_room_changed_locked(s);
        break;
    case REG_SCR:
        s->scr = val;
        break;
    default: /* LSR and MSR: factory test only */
        break;
    }
}

static int serial_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct serial *s = opaque;

    pthread_mutex_lock(&s->lock);
    *val = reg_read_locked(s, off & 7);
    irq_update_locked(s);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int serial_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct serial *s = opaque;

    pthread_mutex_lock(&s->lock);
    reg_write_locked(s, off & 7, (uint8_t)val);
    irq_update_locked(s);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static const struct region_ops serial_ops = {serial_read, serial_write, 1, 1};

/* ---- Life ----------------------------------------------------------------------- */

/* What the guest sent before the reset is on the wire and still gets out. */
void serial_reset(struct serial *s)
{
    pthread_mutex_lock(&s->lock);
    s->ier = s->fcr = s->lcr = s->mcr = s->scr = 0;
    s->dll = 12; /* 9600 baud */
    s->dlm = 0;
    s->errors = 0;
    s->tx_pending = false;
    s->rx_count = 0;
    s->msr = modem_lines(s);
    irq_update_locked(s);
    rx_room_changed_locked(s);
    pthread_mutex_unlock(&s->lock);
}

void serial_save(struct serial *s, struct serial_state *to)
{
    pthread_mutex_lock(&s->lock);
    *to = (struct serial_state){.ier = s->ier,
                                .fcr = s->fcr,
                                .lcr = s->lcr,
                                .mcr = s->mcr,
                                .msr = s->msr,
                                .scr = s->scr,
                                .dll = s->dll,
                                .dlm = s->dlm,
                                .errors = s->errors,
                                .tx_pending = s->tx_pending,
                                .rx_count = (uint8_t)s->rx_count};
    for (unsigned i = 0; i < s->rx_count; i++)
        to->rx[i] = s->rx[(s->rx_head + i) % FIFO_SIZE];
    pthread_mutex_unlock(&s->lock);
}

int serial_load(struct serial *s, const struct serial_state *from)
{
    bool fifo = from->fcr & FCR_ENABLE;

    if (from->rx_count > (fifo ? FIFO_SIZE : 1))
        return -EINVAL;
    pthread_mutex_lock(&s->lock);
    s->ier = from->ier & 0x0f;
    s->fcr = fifo ? from->fcr & FCR_KEPT : 0;
    s->lcr = from->lcr;
    s->mcr = from->mcr & 0x1f;
    s->msr = modem_lines(s) | (from->msr & 0x0f);
    s->scr = from->scr;
    s->dll = from->dll;
    s->dlm = from->dlm;
    s->errors = from->errors & LSR_ERRORS;
    s->tx_pending = from->tx_pending;
    s->rx_head = 0;
    s->rx_count = from->rx_count;
    memcpy(s->rx, from->rx, s->rx_count);
    irq_update_locked(s);
    rx_room_changed_locked(s);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

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

static int threads_start(struct serial *s, struct err *err)
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

static void conds_init(struct serial *s)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->out_data, &attr);
    pthread_cond_init(&s->out_room, &attr);
    pthread_cond_init(&s->ended, &attr);
    pthread_condattr_destroy(&attr);
}

int serial_new(struct serial **out, struct bus *pio, uint16_t base, struct irq_line irq,
               const struct serial_ends *ends, struct err *err)
{
    struct serial *s = calloc(1, sizeof(*s));
    int ret;

    if (!s)
        return err_set(err, -ENOMEM, "not enough memory for a serial port");
    s->irq = irq;
    s->refs = 1;
    s->ends = *ends;
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->give_up_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&s->lock, NULL);
    conds_init(s);
    serial_reset(s);
    if (s->event_fd < 0 || s->give_up_fd < 0)
        ret =
            err_set(err, -errno, "can't make an eventfd for the serial port: %s", strerror(errno));
    else
        ret = threads_start(s, err);
    if (!ret)
        ret = bus_map(pio, base, 8, &serial_ops, s, "serial", err);
    if (ret < 0) {
        serial_free(s);
        return ret;
    }
    *out = s;
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

void serial_free(struct serial *s)
{
    if (!s)
        return;
    input_stop(s);
    output_stop(s);
    pthread_mutex_lock(&s->lock);
    while (s->tapping)
        pthread_cond_wait(&s->ended, &s->lock);
    s->gone = true;
    put_locked(s);
}
