/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * 16550A (National Semiconductor PC16550D data sheet). Time on the wire is not modelled: the transmitter takes a byte at once,
 * and a receive FIFO below its trigger level is a timeout at once.
 */
#include "dev/serial_int.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define RING_SPARE 256u /* the transmitter is "busy" with less room than this */

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

bool serial_tx_ready(const struct serial *s)
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
void serial_irq_update(struct serial *s)
{
    bool level = interrupt_id(s) != IIR_NONE;

    if (level != s->level && !s->gone) {
        s->level = level;
        irq_set(s->irq, level);
    }
}

/* ---- Receiver ------------------------------------------------------------------- */

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

unsigned serial_rx_room(const struct serial *s)
{
    unsigned capacity = fifo_capacity(s);

    return is_listening(s) && s->rx_count < capacity ? capacity - s->rx_count : 0;
}

void serial_rx_push(struct serial *s, uint8_t byte)
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

static uint8_t rx_pop(struct serial *s)
{
    uint8_t byte;

    if (!s->rx_count)
        return 0;
    byte = s->rx[s->rx_head];
    s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
    s->rx_count--;
    serial_wire_room(s);
    return byte;
}

/* ---- Transmitter ---------------------------------------------------------------- */

static void tx_write_locked(struct serial *s, uint8_t byte)
{
    if (s->mcr & MCR_LOOP)
        serial_rx_push(s, byte);
    else
        serial_wire_send(s, byte);
    /* The byte left the holding register at once, which is an interrupt of its own. */
    s->tx_pending = serial_tx_ready(s);
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

    if (serial_tx_ready(s))
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
    serial_wire_room(s);
}

static void lcr_write(struct serial *s, uint8_t val)
{
    /* A break looped back is received as a zero with an error. */
    if ((s->mcr & MCR_LOOP) && (val & ~s->lcr & LCR_BREAK)) {
        serial_rx_push(s, 0);
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
        if ((val & ~s->ier & IER_TX) && serial_tx_ready(s))
            s->tx_pending = true;
        s->ier = val & 0x0f;
        serial_wire_room(s);
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
        serial_wire_room(s);
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
    serial_irq_update(s);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int serial_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct serial *s = opaque;

    pthread_mutex_lock(&s->lock);
    reg_write_locked(s, off & 7, (uint8_t)val);
    serial_irq_update(s);
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
    serial_irq_update(s);
    serial_wire_room(s);
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
    serial_irq_update(s);
    serial_wire_room(s);
    pthread_mutex_unlock(&s->lock);
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
        ret = serial_wire_start(s, err);
    if (!ret)
        ret = bus_map(pio, base, 8, &serial_ops, s, "serial", err);
    if (ret < 0) {
        serial_free(s);
        return ret;
    }
    *out = s;
    return 0;
}

void serial_free(struct serial *s)
{
    if (!s)
        return;
    serial_wire_stop(s);
    pthread_mutex_lock(&s->lock);
    while (s->tapping)
        pthread_cond_wait(&s->ended, &s->lock);
    s->gone = true;
    serial_put(s);
}
