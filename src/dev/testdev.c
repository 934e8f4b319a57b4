/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/testdev.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PORT_KEEP      0xe0
#define PORT_SWALLOW   0xe4
#define PORT_KEEP_BYTE 0xe8
#define PORT_EXIT      0xf4
#define PORT_IRQ       0x2000
#define MEMORY         0xff000000ull
#define MEMORY_SIZE    0x10000

struct testdev {
    struct testdev_config cfg;
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

static int irq_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = opaque;

    irq_set(t->cfg.irq[off], val & 0xff);
    return 0;
}

static int exit_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct testdev *t = opaque;

    t->cfg.exit(t->cfg.opaque, (val << 1 | 1) & 0xff);
    return 0;
}

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
        {t->cfg.mmio, MEMORY, MEMORY_SIZE, &memory_ops, "test-memory"},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(map); i++) {
        int ret = bus_map(map[i].bus, map[i].base, map[i].size, map[i].ops, t, map[i].name, err);

        if (ret < 0)
            return ret;
    }
    return 0;
}

int testdev_new(struct testdev **out, const struct testdev_config *cfg, struct err *err)
{
    struct testdev *t = calloc(1, sizeof(*t));
    int ret;

    if (!t)
        return err_set(err, -ENOMEM, "no memory for the test devices");
    t->cfg = *cfg;
    pthread_mutex_init(&t->lock, NULL);
    ret = map_all(t, err);
    if (ret < 0) {
        testdev_free(t);
        return ret;
    }
    *out = t;
    return 0;
}

void testdev_free(struct testdev *t)
{
    bus_unmap(t->cfg.pio, t);
    bus_unmap(t->cfg.mmio, t);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void testdev_reset(struct testdev *t)
{
    for (unsigned i = 0; i < TESTDEV_IRQS; i++)
        irq_set(t->cfg.irq[i], false);
    memset(t->port, 0, sizeof(t->port));
    memset(t->memory, 0, sizeof(t->memory));
}
