/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * 82093AA data sheet (register model) with the EOI register of version 0x20.
 * Lines are logical: asserted is true whatever the polarity bit says, which
 * is kept for the guest to read.
 */
#include "x86/ioapic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "x86/chips.h"
#include "x86/lapic.h"
#include "x86/platform.h"

#define IOREGSEL 0x00
#define IOWIN    0x10
#define IOEOI    0x40

#define REG_ID      0
#define REG_VERSION 1
#define REG_ARB     2
#define REG_REDIR   0x10

#define VERSION (0x20u | (IOAPIC_PINS - 1) << 16)

#define REDIR_MODE(r)    (((r) >> 8) & 7)
#define REDIR_LOGICAL    (1ull << 11)
#define REDIR_STATUS     (1ull << 12)
#define REDIR_REMOTE_IRR (1ull << 14)
#define REDIR_LEVEL      (1ull << 15)
#define REDIR_MASKED     (1ull << 16)
#define REDIR_WRITABLE   (0xff0000000001ffffull & ~(REDIR_STATUS | REDIR_REMOTE_IRR))

struct ioapic {
    pthread_mutex_t lock;
    struct vm *vm;
    uint32_t lines; /* levels of the pins */
    uint32_t id;
    uint8_t select;
    uint64_t redir[IOAPIC_PINS];
};

/* Only fixed and lowest priority delivery can be level-triggered, whatever bit 15 says. */
static bool redir_is_level(uint64_t r)
{
    return (r & REDIR_LEVEL) && REDIR_MODE(r) <= 1;
}

static void pin_send_locked(struct ioapic *io, unsigned pin)
{
    uint64_t r = io->redir[pin];
    uint64_t addr = 0xfee00000ull | (r >> 56) << 12 | (r & REDIR_LOGICAL ? 1u << 2 : 0);
    uint32_t data = (uint32_t)(r & 0x7ff);

    if (redir_is_level(r)) {
        io->redir[pin] |= REDIR_REMOTE_IRR;
        data |= 1u << 15 | 1u << 14;
    }
    lapic_msi(io->vm, addr, data);
}

/* A level pin that is high, unmasked and not being served is delivered. */
static void pin_level_locked(struct ioapic *io, unsigned pin)
{
    uint64_t r = io->redir[pin];

    if ((io->lines & 1u << pin) && redir_is_level(r) && !(r & (REDIR_MASKED | REDIR_REMOTE_IRR)))
        pin_send_locked(io, pin);
}

static void pin_set(void *opaque, unsigned pin, bool level)
{
    struct ioapic *io = opaque;
    uint32_t bit = 1u << pin;
    bool rising;

    pthread_mutex_lock(&io->lock);
    rising = level && !(io->lines & bit);
    io->lines = level ? io->lines | bit : io->lines & ~bit;
    if (redir_is_level(io->redir[pin]))
        pin_level_locked(io, pin);
    else if (rising && !(io->redir[pin] & REDIR_MASKED)) /* an edge at a masked pin is lost */
        pin_send_locked(io, pin);
    pthread_mutex_unlock(&io->lock);
}

struct irq_line ioapic_pin(struct ioapic *io, unsigned pin)
{
    static const struct irq_line_ops ops = {.set = pin_set};

    if (pin >= IOAPIC_PINS)
        return (struct irq_line){0};
    return (struct irq_line){.ops = &ops, .opaque = io, .n = pin};
}

void ioapic_eoi(void *opaque, uint8_t vector)
{
    struct ioapic *io = opaque;

    pthread_mutex_lock(&io->lock);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        if ((io->redir[pin] & 0xff) != vector || !(io->redir[pin] & REDIR_REMOTE_IRR))
            continue;
        io->redir[pin] &= ~REDIR_REMOTE_IRR;
        pin_level_locked(io, pin);
    }
    pthread_mutex_unlock(&io->lock);
}

static uint32_t reg_read_locked(const struct ioapic *io)
{
    unsigned i = io->select - REG_REDIR;

    switch (io->select) {
    case REG_ID:
    case REG_ARB:
        return io->id;
    case REG_VERSION:
        return VERSION;
    default:
        if (io->select < REG_REDIR || i >= 2 * IOAPIC_PINS)
            return 0;
        return (uint32_t)(io->redir[i / 2] >> (i & 1 ? 32 : 0));
    }
}

static void redir_write_locked(struct ioapic *io, unsigned pin, bool high, uint32_t val)
{
    uint64_t *r = &io->redir[pin];
    uint64_t mask = REDIR_WRITABLE & (high ? 0xffffffff00000000ull : 0xffffffffull);

    *r = (*r & ~mask) | (((uint64_t)val << (high ? 32 : 0)) & mask);
    /* Remote IRR means nothing for an edge; kernels go there and back to clear a stuck one. */
    if (!redir_is_level(*r))
        *r &= ~REDIR_REMOTE_IRR;
    pin_level_locked(io, pin);
}

static void reg_write_locked(struct ioapic *io, uint32_t val)
{
    unsigned i = io->select - REG_REDIR;

    if (io->select == REG_ID)
        io->id = val & 0x0f000000;
    else if (io->select >= REG_REDIR && i < 2 * IOAPIC_PINS)
        redir_write_locked(io, i / 2, i & 1, val);
}

static int ioapic_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct ioapic *io = opaque;
    uint32_t reg = 0;

    pthread_mutex_lock(&io->lock);
    if ((off & ~3ull) == IOREGSEL)
        reg = io->select;
    else if ((off & ~3ull) == IOWIN)
        reg = reg_read_locked(io);
    pthread_mutex_unlock(&io->lock);
    *val = reg >> (8 * (off & 3));
    if (size < 4)
        *val &= (1u << (8 * size)) - 1;
    return 0;
}

static int ioapic_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct ioapic *io = opaque;

    if (off == IOEOI) {
        ioapic_eoi(io, (uint8_t)val);
        return 0;
    }
    pthread_mutex_lock(&io->lock);
    if (off == IOREGSEL)
        io->select = (uint8_t)val;
    else if (off == IOWIN && size == 4) /* the window takes 32-bit accesses only */
        reg_write_locked(io, (uint32_t)val);
    pthread_mutex_unlock(&io->lock);
    return 0;
}

static const struct region_ops ioapic_ops = {
    .read = ioapic_read,
    .write = ioapic_write,
    .min = 1,
    .max = 4,
};

void ioapic_reset(struct ioapic *io)
{
    pthread_mutex_lock(&io->lock);
    io->id = 0;
    io->select = 0;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->redir[pin] = REDIR_MASKED;
    pthread_mutex_unlock(&io->lock);
}

void ioapic_save(struct ioapic *io, struct ioapic_state *s)
{
    pthread_mutex_lock(&io->lock);
    *s = (struct ioapic_state){.id = io->id, .select = io->select, .lines = io->lines};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        s->redir[pin] = io->redir[pin];
    pthread_mutex_unlock(&io->lock);
}

void ioapic_load(struct ioapic *io, const struct ioapic_state *s)
{
    const uint64_t mask = REDIR_WRITABLE | REDIR_REMOTE_IRR;

    pthread_mutex_lock(&io->lock);
    io->id = s->id & 0x0f000000;
    io->select = s->select;
    io->lines = s->lines & ((1u << IOAPIC_PINS) - 1);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->redir[pin] = s->redir[pin] & mask;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        pin_level_locked(io, pin);
    pthread_mutex_unlock(&io->lock);
}

int ioapic_new(struct ioapic **ioapic, struct vm *vm, struct err *err)
{
    struct ioapic *io = calloc(1, sizeof(*io));
    int ret;

    if (!io)
        return err_set(err, -ENOMEM, "not enough memory for the I/O APIC");
    io->vm = vm;
    pthread_mutex_init(&io->lock, NULL);
    ioapic_reset(io);
    ret = bus_map(&vm->mmio, MMIO_IOAPIC, 0x1000, &ioapic_ops, io, "ioapic", err);
    if (ret < 0) {
        ioapic_free(io);
        return ret;
    }
    *ioapic = io;
    return 0;
}

void ioapic_free(struct ioapic *io)
{
    if (!io)
        return;
    pthread_mutex_destroy(&io->lock);
    free(io);
}
