/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/testdev.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/ioevent.h"

#define PORT_KEEP      0xe0
#define PORT_SWALLOW   0xe4
#define PORT_KEEP_BYTE 0xe8
#define PORT_EXIT      0xf4
#define PORT_IRQ       0x2000
#define MEMORY         0xff000000ull
#define MEMORY_SIZE    TESTDEV_MEMORY

#define PORT_BELL_LINE  0x2010
#define PORT_BELL_MATCH 0x2014
#define PORT_VECTOR     0x2018
#define PORT_MISSED     0x2020
#define MEMORY_BELL     0xff010000ull
#define BELL_DATA       0x1234
#define BELL_IRQ        5
#define MSI_ADDRESS     0xfee00000ull
#define BELLS           3

struct testdev {
    struct testdev_config cfg;
    int line_fd, msi_fd;
    struct ioevent bell[BELLS];
    unsigned bells; /* rung by the guest's writes */
    unsigned line_id, msi_id;
    bool line_on, msi_on;
    uint32_t missed, msi_data;
    uint16_t irqs; /* lines that are high */
    pthread_mutex_t lock;
    uint8_t port[4];
    uint8_t memory[MEMORY_SIZE];
};

/* The bus keeps off + size inside the region, and each region inside its array. */
static int bytes_read(struct testdev *t, const uint8_t *from, unsigned size, uint64_t *val)
{
    pthread_mutex_lock(&t->lock);
    *val = 0;
    for (unsigned i = 0; i < size; i++)
        *val |= (uint64_t)from[i] << 8 * i;
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static int bytes_write(struct testdev *t, uint8_t *to, unsigned size, uint64_t val)
{
    pthread_mutex_lock(&t->lock);
    for (unsigned i = 0; i < size; i++)
        to[i] = val >> 8 * i;
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static int keep_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct testdev *t = opaque;

    return bytes_read(t, t->port + off, size, val);
}

static int keep_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = opaque;

    return bytes_write(t, t->port + off, size, val);
}

static int memory_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct testdev *t = opaque;

    return bytes_read(t, t->memory + off, size, val);
}

static int memory_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = opaque;

    return bytes_write(t, t->memory + off, size, val);
}

static int zero_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    *val = 0;
    return 0;
}

static int swallow_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    return 0;
}

static void line_set_locked(struct testdev *t, unsigned n, bool level)
{
    t->irqs = (uint16_t)((t->irqs & ~(1u << n)) | (unsigned)level << n);
    irq_set(t->cfg.irq[n], level);
}

static int irq_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = opaque;

    pthread_mutex_lock(&t->lock);
    line_set_locked(t, (unsigned)off, val & 0xff);
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static int exit_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = opaque;

    t->cfg.exit(t->cfg.opaque, (val << 1 | 1) & 0xff);
    return 0;
}

/* A write here is one that no doorbell took. */
static int bell_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = opaque;

    pthread_mutex_lock(&t->lock);
    t->missed++;
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static int missed_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct testdev *t = opaque;

    pthread_mutex_lock(&t->lock);
    *val = t->missed;
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static void message_set(struct testdev *t, uint32_t data)
{
    t->msi_data = data;
    if (t->cfg.vm)
        irqevent_change(t->cfg.vm, t->msi_id,
                        &(struct irqevent){.msi = true, .addr = MSI_ADDRESS, .data = data});
}

static int vector_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    message_set(opaque, (uint32_t)val);
    return 0;
}

static const struct region_ops bell_ops = {zero_read, bell_write, 1, 4};
static const struct region_ops vector_ops = {zero_read, vector_write, 4, 4};
static const struct region_ops missed_ops = {missed_read, swallow_write, 4, 4};
static const struct region_ops keep_ops = {keep_read, keep_write, 1, 4};
static const struct region_ops keep_byte_ops = {keep_read, keep_write, 1, 1};
static const struct region_ops swallow_ops = {zero_read, swallow_write, 1, 4};
static const struct region_ops irq_ops = {zero_read, irq_write, 1, 1};
static const struct region_ops exit_ops = {zero_read, exit_write, 1, 4};
static const struct region_ops memory_ops = {memory_read, memory_write, 1, 8};

static int map_all(struct testdev *t, struct err *err)
{
    const struct {
        struct bus *bus;
        uint64_t base, size;
        const struct region_ops *ops;
        const char *name;
    } map[] = {
        {t->cfg.pio, PORT_KEEP, 4, &keep_ops, "test-port"},
        {t->cfg.pio, PORT_SWALLOW, 4, &swallow_ops, "test-flush"},
        {t->cfg.pio, PORT_KEEP_BYTE, 4, &keep_byte_ops, "test-port-byte"},
        {t->cfg.pio, PORT_EXIT, 4, &exit_ops, "test-exit"},
        {t->cfg.pio, PORT_IRQ, TESTDEV_IRQS, &irq_ops, "test-irq"},
        {t->cfg.pio, PORT_BELL_LINE, 4, &bell_ops, "test-bell-line"},
        {t->cfg.pio, PORT_BELL_MATCH, 4, &bell_ops, "test-bell-match"},
        {t->cfg.pio, PORT_VECTOR, 4, &vector_ops, "test-vector"},
        {t->cfg.pio, PORT_MISSED, 4, &missed_ops, "test-missed"},
        {t->cfg.mmio, MEMORY, MEMORY_SIZE, &memory_ops, "test-memory"},
        {t->cfg.mmio, MEMORY_BELL, 4, &bell_ops, "test-bell"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(map); i++) {
        int ret = bus_map(map[i].bus, map[i].base, map[i].size, map[i].ops, t, map[i].name, err);

        if (ret < 0)
            return ret;
    }
    return 0;
}

/* From a write to the eventfd, from there to an interrupt. */
static int bells_make(struct testdev *t, struct err *err)
{
    struct vm *vm = t->cfg.vm;
    const struct irqevent line = {.irq = BELL_IRQ};
    const struct irqevent msi = {.msi = true, .addr = MSI_ADDRESS};
    int r;

    t->line_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    t->msi_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->line_fd < 0 || t->msi_fd < 0)
        return err_set(err, -errno, "no eventfds for the test devices: %s", strerror(errno));
    r = irqevent_add(vm, t->line_fd, &line, &t->line_id, err);
    t->line_on = !r;
    if (!r)
        r = irqevent_add(vm, t->msi_fd, &msi, &t->msi_id, err);
    t->msi_on = t->line_on && !r;
    t->bell[0] = (struct ioevent){.pio = true, .size = 1, .addr = PORT_BELL_LINE, .fd = t->line_fd};
    t->bell[1] = (struct ioevent){.pio = true,
                                  .match = true,
                                  .size = 4,
                                  .addr = PORT_BELL_MATCH,
                                  .data = BELL_DATA,
                                  .fd = t->msi_fd};
    t->bell[2] = (struct ioevent){.size = 4, .addr = MEMORY_BELL, .fd = t->msi_fd};
    while (!r && t->bells < BELLS) {
        r = ioevent_add(vm, &t->bell[t->bells], err);
        t->bells += !r;
    }
    return r;
}

static void bells_drop(struct testdev *t)
{
    while (t->bells)
        ioevent_remove(t->cfg.vm, &t->bell[--t->bells]);
    if (t->line_on)
        irqevent_remove(t->cfg.vm, t->line_id);
    if (t->msi_on)
        irqevent_remove(t->cfg.vm, t->msi_id);
    if (t->line_fd >= 0)
        close(t->line_fd);
    if (t->msi_fd >= 0)
        close(t->msi_fd);
}

int testdev_new(struct testdev **out, const struct testdev_config *cfg, struct err *err)
{
    struct testdev *t = calloc(1, sizeof(*t));
    int ret;

    if (!t)
        return err_set(err, -ENOMEM, "no memory for the test devices");
    t->cfg = *cfg;
    pthread_mutex_init(&t->lock, NULL);
    t->line_fd = t->msi_fd = -1;
    ret = map_all(t, err);
    if (!ret && t->cfg.vm)
        ret = bells_make(t, err);
    if (ret < 0) {
        testdev_free(t);
        return ret;
    }
    *out = t;
    return 0;
}

void testdev_free(struct testdev *t)
{
    bells_drop(t);
    bus_unmap(t->cfg.pio, t);
    bus_unmap(t->cfg.mmio, t);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void testdev_reset(struct testdev *t)
{
    for (unsigned i = 0; i < TESTDEV_IRQS; i++)
        line_set_locked(t, i, false);
    memset(t->port, 0, sizeof(t->port));
    memset(t->memory, 0, sizeof(t->memory));
    t->missed = 0;
}

void testdev_save(struct testdev *t, struct testdev_state *s)
{
    pthread_mutex_lock(&t->lock);
    memcpy(s->port, t->port, sizeof(s->port));
    memcpy(s->memory, t->memory, sizeof(s->memory));
    s->irqs = t->irqs;
    s->msi_data = t->msi_data;
    s->missed = t->missed;
    pthread_mutex_unlock(&t->lock);
}

void testdev_load(struct testdev *t, const struct testdev_state *s)
{
    pthread_mutex_lock(&t->lock);
    memcpy(t->port, s->port, sizeof(s->port));
    memcpy(t->memory, s->memory, sizeof(s->memory));
    /* Those that are low may be another device's. */
    for (unsigned i = 0; i < TESTDEV_IRQS; i++)
        if (s->irqs & 1u << i)
            line_set_locked(t, i, true);
    t->missed = s->missed;
    pthread_mutex_unlock(&t->lock);
    message_set(t, s->msi_data);
}
