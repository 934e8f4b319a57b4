/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Devices for test programs that run without an operating system, at the
 * addresses that such programs know from QEMU's isa-debug-exit and pc-testdev:
 *
 *   port 0xf4, 4 bytes     a write of N ends the run with the status (N << 1 | 1) & 0xff
 *   port 0xe0, 4 bytes     keep what is written, byte by byte
 *   port 0xe4, 4 bytes     swallow writes: a program that asks for a page to be dropped finds it unchanged
 *   port 0xe8, 4 bytes     the same bytes as at 0xe0
 *   port 0x2000, 16 bytes  port 0x2000 + N drives ISA interrupt line N
 *   memory 0xff000000, 64 KiB  keeps what is written
 *
 * and, of our own, doorbells (core/ioevent.h) whose eventfds are interrupts:
 *
 *   port 0x2010            a write of one byte is an edge on ISA line 5
 *   port 0x2014            a write of the 4 bytes 0x1234 sends the message
 *   memory 0xff010000      a write of 4 bytes sends the message
 *   port 0x2018, 4 bytes   the data of the message to APIC 0: its vector
 *   port 0x2020, 4 bytes   a read gives the number of writes to the first three that were no doorbell's
 */
#ifndef LODGE_DEV_TESTDEV_H
#define LODGE_DEV_TESTDEV_H

#include "core/bus.h"
#include "core/irq.h"

#define TESTDEV_IRQS 16

struct testdev;

struct testdev_config {
    struct bus *pio, *mmio;
    struct irq_line irq[TESTDEV_IRQS];
    void (*exit)(void *opaque,
                 unsigned status); /* on a vCPU thread; the guest may run on for a moment */
    void *opaque;
    struct vm *vm; /* whose writes the doorbells see */
};

int testdev_new(struct testdev **t, const struct testdev_config *cfg, struct err *err);
void testdev_free(struct testdev *t);
void testdev_reset(struct testdev *t);

#define TESTDEV_MEMORY 0x10000

struct testdev_state {
    uint8_t port[4];
    uint16_t irqs;     /* lines that are high */
    uint32_t msi_data; /* of the message */
    uint32_t missed;
    uint8_t memory[TESTDEV_MEMORY];
};

/* No vCPU runs; load is for one as after a reset. */
void testdev_save(struct testdev *t, struct testdev_state *s);
void testdev_load(struct testdev *t, const struct testdev_state *s);

#endif
