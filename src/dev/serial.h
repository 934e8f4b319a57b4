/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 16550A UART. Input comes from a file descriptor (a thread reads it), output goes to one. */
#ifndef LODGE_DEV_SERIAL_H
#define LODGE_DEV_SERIAL_H

#include "core/bus.h"
#include "core/irq.h"

struct serial;

/* What is at the other end of the line. */
struct serial_ends {
    int in, out; /* descriptors, which stay the caller's; -1: nothing there */
    /* Told what was sent, once `out` has it, on the port's output thread. It may not wait for long. NULL: nobody. */
    void (*tap)(void *opaque, const uint8_t *data, size_t len);
    void *opaque;
};

/* Maps 8 ports at base. */
int serial_new(struct serial **s, struct bus *pio, uint16_t base, struct irq_line irq,
               const struct serial_ends *ends, struct err *err);
void serial_free(struct serial *s); /* joins the input thread */
void serial_reset(struct serial *s);

/* What the guest sees; bytes on their way out are not part of it. */
struct serial_state {
    uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
    uint8_t errors; /* LSR's error bits */
    bool tx_pending;
    uint8_t rx_count, rx[16];
};

/* No vCPU runs. load: -EINVAL when it cannot be right, and nothing has changed. */
void serial_save(struct serial *s, struct serial_state *to);
int serial_load(struct serial *s, const struct serial_state *from);

#endif
