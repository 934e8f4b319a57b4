/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An interrupt line is a value. A device holds a copy and drives it; it never
 * learns which controller or engine is behind it.
 */
#ifndef LODGE_CORE_IRQ_H
#define LODGE_CORE_IRQ_H

#include "base/types.h"

struct irq_line_ops {
    void (*set)(void *opaque, unsigned n, bool level);
};

struct irq_line {
    const struct irq_line_ops *ops; /* NULL: not connected */
    void *opaque;
    unsigned n;
};

/* Drive the line; any thread. Edge inputs see the transitions, level inputs the level. */
static inline void irq_set(struct irq_line line, bool level)
{
    if (line.ops)
        line.ops->set(line.opaque, line.n, level);
}

static inline void irq_pulse(struct irq_line line)
{
    irq_set(line, true);
    irq_set(line, false);
}

#endif
