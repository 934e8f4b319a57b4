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
};

int testdev_new(struct testdev **t, const struct testdev_config *cfg, struct err *err);
void testdev_free(struct testdev *t);
void testdev_reset(struct testdev *t);

#endif
