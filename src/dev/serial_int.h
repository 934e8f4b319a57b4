/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the serial port's registers (serial.c) and its way to the host's descriptors (serial_wire.c) have in common. All
 * functions but serial_wire_start and serial_wire_stop are called with the port's lock held.
 */
#ifndef LODGE_DEV_SERIAL_INT_H
#define LODGE_DEV_SERIAL_INT_H

#include <pthread.h>

#include "dev/serial.h"

#define FIFO_SIZE 16
#define RING_SIZE 65536u

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

/* ---- serial.c ---------------------------------------------------------------------- */

/* How many bytes the receiver takes now; 0 as long as the guest does not listen. */
unsigned serial_rx_room(const struct serial *s);

/* One more byte for the receiver, and no interrupt yet: serial_irq_update. */
void serial_rx_push(struct serial *s, uint8_t byte);

/* The interrupt line follows the registers. */
void serial_irq_update(struct serial *s);

/* Does the transmitter take bytes (LSR.THRE)? */
bool serial_tx_ready(const struct serial *s);

/* ---- serial_wire.c ------------------------------------------------------------------- */

/* Start the threads that the ends need; without the lock. After a failure serial_wire_stop ends those that are there. */
int serial_wire_start(struct serial *s, struct err *err);

/*
 * End the threads; without the lock. Everything goes out first, unless the descriptor takes nothing for two seconds. A thread
 * that is stuck is left behind.
 */
void serial_wire_stop(struct serial *s);

/* A byte to the wire. May leave the lock to wait for room. */
void serial_wire_send(struct serial *s, uint8_t byte);

/* The receiver may have room again. */
void serial_wire_room(struct serial *s);

/* Give back a reference, and the lock. */
void serial_put(struct serial *s);

#endif
