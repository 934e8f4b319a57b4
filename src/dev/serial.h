/* SPDX-License-Identifier: GPL-2.0-or-later */
/* 16550A UART. Input comes from a file descriptor (a thread reads it), output goes to one. */
#ifndef LODGE_DEV_SERIAL_H
#define LODGE_DEV_SERIAL_H

#include "core/bus.h"
#include "core/irq.h"

struct serial;

/* fd_in or fd_out -1: nothing there. The descriptors stay the caller's. Maps 8 ports at base. */
int serial_new(struct serial **s, struct bus *pio, uint16_t base, struct irq_line irq, int fd_in,
               int fd_out, struct err *err);
void serial_free(struct serial *s); /* joins the input thread */
void serial_reset(struct serial *s);

#endif
