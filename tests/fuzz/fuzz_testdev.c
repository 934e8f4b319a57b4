/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/dev/testdev.c src/core/bus.c src/base/err.c */
/*
 * The test devices: reads and writes of any size at their ports and their
 * memory. Every byte of an operation's value has a meaning: the low half of
 * `what` chooses the region, the address byte the place in it.
 */
#include <string.h>

#include "core/ioevent.h"
#include "dev/testdev.h"
#include "fuzz_ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Without a VM there are no doorbells; the device may only ask for a change of its message. */
int ioevent_add(struct vm *vm, const struct ioevent *ev, struct err *err)
{
    return -1;
}

void ioevent_remove(struct vm *vm, const struct ioevent *ev)
{
}

int irqevent_add(struct vm *vm, int fd, const struct irqevent *ev, unsigned *id, struct err *err)
{
    return -1;
}

void irqevent_change(struct vm *vm, unsigned id, const struct irqevent *ev)
{
}

void irqevent_remove(struct vm *vm, unsigned id)
{
}

static void line_set(void *opaque, unsigned n, bool level)
{
    fuzz_check(n < TESTDEV_IRQS);
}

static void on_exit_port(void *opaque, unsigned status)
{
    fuzz_check(status & 1 && status < 256);
}

static const struct irq_line_ops line_ops = {.set = line_set};

static const struct {
    bool mmio;
    uint64_t base;
} places[] = {{false, 0xe0},      {false, 0xe4},      {false, 0xe8},     {false, 0xf4},
              {false, 0x2000},    {false, 0x2010},    {false, 0x2018},   {false, 0x2020},
              {true, 0xff000000}, {true, 0xff00ff80}, {true, 0xff010000}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct testdev_config cfg = {.exit = on_exit_port};
    struct bus pio, mmio;
    struct testdev *dev;
    struct fuzz_op op;

    memset(&pio, 0, sizeof(pio));
    memset(&mmio, 0, sizeof(mmio));
    cfg.pio = &pio;
    cfg.mmio = &mmio;
    for (unsigned i = 0; i < TESTDEV_IRQS; i++)
        cfg.irq[i] = (struct irq_line){.ops = &line_ops, .n = i};
    if (testdev_new(&dev, &cfg, NULL) < 0)
        return 0;
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        unsigned p = (op.what & 31) >> 1;
        bool write = op.what & 1;
        struct bus *bus;
        uint64_t addr;

        if (p >= sizeof(places) / sizeof(places[0])) {
            testdev_reset(dev);
            continue;
        }
        bus = places[p].mmio ? &mmio : &pio;
        addr = places[p].base + op.addr;
        if (write)
            bus_write(bus, addr, fuzz_size(op.what), op.val);
        else
            bus_read(bus, addr, fuzz_size(op.what));
        /* What was kept is there, byte by byte, at both addresses. */
        if (write && places[p].base == 0xe0 && op.addr == 0 && fuzz_size(op.what) == 4)
            for (unsigned k = 0; k < 4; k++)
                fuzz_check(bus_read(&pio, 0xe8 + k, 1) == (op.val >> 8 * k & 0xff));
    }
    testdev_free(dev);
    return 0;
}
