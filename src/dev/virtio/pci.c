/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/pci.h"

#include <errno.h>
#include <string.h>

#define VENDOR      0x1af4
#define DEVICE_BASE 0x1040

/* BAR 0, a page for each structure, so that each can be mapped by itself. */
#define BAR_REGISTERS 0
#define BAR_MSIX      2
#define AT_COMMON     0x0000
#define AT_ISR        0x1000
#define AT_DEVICE     0x2000
#define AT_NOTIFY     0x3000
#define PART_SIZE     0x1000
#define BAR_SIZE      0x4000
#define NOTIFY_STEP   4

#define CFG_COMMON 1
#define CFG_NOTIFY 2
#define CFG_ISR    3
#define CFG_DEVICE 4
#define CFG_ACCESS 5

#define NO_VECTOR  0xffff
#define ISR_QUEUE  1u
#define ISR_CONFIG 2u

/* Common configuration structure (4.1.4.3). */
enum common {
    DEVICE_FEATURE_SELECT = 0,
    DEVICE_FEATURE = 4,
    DRIVER_FEATURE_SELECT = 8,
    DRIVER_FEATURE = 12,
    CONFIG_VECTOR = 16,
    NUM_QUEUES = 18,
    DEVICE_STATUS = 20,
    CONFIG_GENERATION = 21,
    QUEUE_SELECT = 22,
    QUEUE_SIZE = 24,
    QUEUE_VECTOR = 26,
    QUEUE_ENABLE = 28,
    QUEUE_NOTIFY_OFF = 30,
    QUEUE_DESC = 32,
    QUEUE_DRIVER = 40,
    QUEUE_DEVICE = 48,
    COMMON_SIZE = 56,
};

/* ---- Interrupts ----------------------------------------------------------------------- */

/* The bits and the pin change together, or a read of the register could take away a later interrupt's level. */
static void isr_raise(struct virtio_pci *vp, uint8_t bit)
{
    pthread_mutex_lock(&vp->isr_lock);
    vp->isr |= bit;
    pci_intx_set(&vp->pci, true);
    pthread_mutex_unlock(&vp->isr_lock);
}

static uint8_t isr_take(struct virtio_pci *vp)
{
    uint8_t isr;

    pthread_mutex_lock(&vp->isr_lock);
    isr = vp->isr;
    vp->isr = 0;
    pci_intx_set(&vp->pci, false);
    pthread_mutex_unlock(&vp->isr_lock);
    return isr;
}

/* NO_VECTOR is no vector of MSI-X, which then does nothing. */
static void queue_interrupt(void *opaque, unsigned q)
{
    struct virtio_pci *vp = opaque;

    if (!pci_msix_raise(&vp->pci, atomic_load(&vp->vector[q])))
        isr_raise(vp, ISR_QUEUE);
}

static void config_interrupt(void *opaque)
{
    struct virtio_pci *vp = opaque;

    if (!pci_msix_raise(&vp->pci, atomic_load(&vp->config_vector)))
        isr_raise(vp, ISR_CONFIG);
}

static const struct virtio_transport_ops transport_ops = {
    .queue_interrupt = queue_interrupt,
    .config_interrupt = config_interrupt,
};

/* ---- Common configuration: fields are accessed whole (4.1.3.1), 64-bit ones in halves --------- */

static uint32_t queue_read_locked(struct virtio_pci *vp, unsigned off)
{
    uint16_t n = vp->queue_select;
    const struct virtq *q;

    if (n >= vp->dev->nqueues)
        return 0;
    q = &vp->dev->queue[n];
    switch (off) {
    case QUEUE_SIZE:
        return q->size;
    case QUEUE_VECTOR:
        return atomic_load(&vp->vector[n]);
    case QUEUE_ENABLE:
        return q->enabled;
    case QUEUE_NOTIFY_OFF:
        return n;
    case QUEUE_DESC:
    case QUEUE_DESC + 4:
        return (uint32_t)(q->desc >> (off & 4 ? 32 : 0));
    case QUEUE_DRIVER:
    case QUEUE_DRIVER + 4:
        return (uint32_t)(q->driver >> (off & 4 ? 32 : 0));
    case QUEUE_DEVICE:
    case QUEUE_DEVICE + 4:
        return (uint32_t)(q->device >> (off & 4 ? 32 : 0));
    default:
        return 0;
    }
}

static uint32_t common_read(struct virtio_pci *vp, unsigned off)
{
    struct virtio_device *dev = vp->dev;
    uint32_t val;

    switch (off) {
    case DEVICE_FEATURE:
        return virtio_features_read(dev, vp->feature_select);
    case DRIVER_FEATURE:
        return virtio_driver_features_read(dev, vp->driver_feature_select);
    case CONFIG_VECTOR:
        return atomic_load(&vp->config_vector);
    case NUM_QUEUES:
        return dev->nqueues;
    case DEVICE_STATUS:
        return atomic_load(&dev->status);
    case CONFIG_GENERATION:
        return atomic_load(&dev->generation);
    }
    pthread_mutex_lock(&dev->lock);
    switch (off) {
    case DEVICE_FEATURE_SELECT:
        val = vp->feature_select;
        break;
    case DRIVER_FEATURE_SELECT:
        val = vp->driver_feature_select;
        break;
    case QUEUE_SELECT:
        val = vp->queue_select;
        break;
    default:
        val = queue_read_locked(vp, off);
    }
    pthread_mutex_unlock(&dev->lock);
    return val;
}

static void set_half(gpa_t *addr, unsigned off, uint32_t val)
{
    unsigned shift = off & 4 ? 32 : 0;

    *addr = (*addr & ~(0xffffffffull << shift)) | (uint64_t)val << shift;
}

static uint16_t usable_vector(const struct virtio_pci *vp, uint32_t val)
{
    return val < vp->pci.msix.vectors ? (uint16_t)val : NO_VECTOR;
}

/* A queue that is enabled keeps its settings until the device is reset. */
static void queue_write_locked(struct virtio_pci *vp, unsigned off, uint32_t val)
{
    uint16_t n = vp->queue_select;
    struct virtq *q;

    if (n >= vp->dev->nqueues)
        return;
    q = &vp->dev->queue[n];
    if (off == QUEUE_VECTOR)
        atomic_store(&vp->vector[n], usable_vector(vp, val));
    if (q->enabled)
        return;
    switch (off) {
    case QUEUE_SIZE:
        q->size = (uint16_t)val <= vp->dev->queue_size ? (uint16_t)val : 0;
        break;
    case QUEUE_ENABLE:
        if (val == 1)
            virtio_queue_enable_locked(vp->dev, n);
        break;
    case QUEUE_DESC:
    case QUEUE_DESC + 4:
        set_half(&q->desc, off, val);
        break;
    case QUEUE_DRIVER:
    case QUEUE_DRIVER + 4:
        set_half(&q->driver, off - QUEUE_DRIVER, val);
        break;
    case QUEUE_DEVICE:
    case QUEUE_DEVICE + 4:
        set_half(&q->device, off - QUEUE_DEVICE, val);
        break;
    }
}

static void vectors_clear(struct virtio_pci *vp)
{
    atomic_store(&vp->config_vector, NO_VECTOR);
    for (unsigned q = 0; q < VIRTIO_MAX_QUEUES; q++)
        atomic_store(&vp->vector[q], NO_VECTOR);
}

static void status_write(struct virtio_pci *vp, uint8_t val)
{
    virtio_status_write(vp->dev, val);
    if (val)
        return;
    vectors_clear(vp);
    isr_take(vp);
}

static void common_write(struct virtio_pci *vp, unsigned off, uint32_t val)
{
    struct virtio_device *dev = vp->dev;

    switch (off) {
    case DRIVER_FEATURE:
        virtio_driver_features_write(dev, vp->driver_feature_select, val);
        return;
    case DEVICE_STATUS:
        status_write(vp, (uint8_t)val);
        return;
    case CONFIG_VECTOR:
        atomic_store(&vp->config_vector, usable_vector(vp, val));
        return;
    }
    pthread_mutex_lock(&dev->lock);
    switch (off) {
    case DEVICE_FEATURE_SELECT:
        vp->feature_select = val;
        break;
    case DRIVER_FEATURE_SELECT:
        vp->driver_feature_select = val;
        break;
    case QUEUE_SELECT:
        vp->queue_select = (uint16_t)val;
        break;
    default:
        queue_write_locked(vp, off, val);
    }
    pthread_mutex_unlock(&dev->lock);
}

/* ---- Registers ------------------------------------------------------------------------- */

static uint32_t device_read(struct virtio_device *dev, unsigned off, unsigned size)
{
    uint32_t val = 0;

    if (!dev->ops->config_read)
        return 0;
    pthread_mutex_lock(&dev->lock);
    dev->ops->config_read(dev, off, &val, size);
    pthread_mutex_unlock(&dev->lock);
    return val;
}

static void device_write(struct virtio_device *dev, unsigned off, unsigned size, uint32_t val)
{
    if (!dev->ops->config_write)
        return;
    pthread_mutex_lock(&dev->lock);
    dev->ops->config_write(dev, off, &val, size);
    pthread_mutex_unlock(&dev->lock);
}

static int registers_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct virtio_pci *vp = opaque;
    unsigned at = (unsigned)(off % PART_SIZE);

    switch (off - at) {
    case AT_COMMON:
        *val = common_read(vp, at);
        break;
    case AT_ISR:
        *val = at ? 0 : isr_take(vp);
        break;
    case AT_DEVICE:
        *val = device_read(vp->dev, at, size);
        break;
    default:
        *val = 0;
    }
    return 0;
}

static int registers_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct virtio_pci *vp = opaque;
    unsigned at = (unsigned)(off % PART_SIZE);

    switch (off - at) {
    case AT_COMMON:
        common_write(vp, at, (uint32_t)val);
        break;
    case AT_DEVICE:
        device_write(vp->dev, at, size, (uint32_t)val);
        break;
    case AT_NOTIFY:
        if (at / NOTIFY_STEP < vp->dev->nqueues)
            virtio_notify(vp->dev);
        break;
    }
    return 0;
}

static const struct region_ops registers_ops = {registers_read, registers_write, 1, 4};

/* ---- Configuration access capability (4.1.4.9) --------------------------------------------- */

struct access {
    uint8_t bar;
    uint32_t off, len;
};

/* True when [off, off+size) starts the capability's data and the access it asks for can be made. */
static bool access_wanted(struct virtio_pci *vp, unsigned off, struct access *a)
{
    struct pci_device *pci = &vp->pci;

    if (off != vp->access_cap + 16)
        return false;
    a->bar = (uint8_t)pci_config_read(pci->bus, pci->slot, vp->access_cap + 4, 1);
    a->off = pci_config_read(pci->bus, pci->slot, vp->access_cap + 8, 4);
    a->len = pci_config_read(pci->bus, pci->slot, vp->access_cap + 12, 4);
    return a->bar < PCI_BARS && pci->bar[a->bar].size &&
           (a->len == 1 || a->len == 2 || a->len == 4) && a->off % a->len == 0;
}

static bool access_read(void *opaque, unsigned off, unsigned size, uint32_t *val)
{
    struct virtio_pci *vp = opaque;
    struct access a;

    if (!access_wanted(vp, off, &a))
        return false;
    *val = (uint32_t)pci_bar_read(&vp->pci, a.bar, a.off, a.len);
    return true;
}

static bool access_write(void *opaque, unsigned off, unsigned size, uint32_t val)
{
    struct virtio_pci *vp = opaque;
    struct access a;

    if (!access_wanted(vp, off, &a))
        return false;
    pci_bar_write(&vp->pci, a.bar, a.off, a.len, val);
    return true;
}

static bool notified(void *opaque, unsigned q)
{
    return virtio_serve_now(opaque, q);
}

/* A notification needs nothing of this process but the eventfd that it ends in. */
static void bar_moved(void *opaque, unsigned n, bool on, uint64_t base)
{
    struct virtio_pci *vp = opaque;
    const struct pci_bus_config *cfg = &vp->pci.bus->cfg;

    for (unsigned q = 0; n == BAR_REGISTERS && cfg->doorbell && q < vp->dev->nqueues; q++) {
        const struct doorbell_now now = {
            .serve = vp->dev->ops->process_now ? notified : NULL,
            .opaque = vp->dev,
            .n = q,
            .watch = vp->dev->watch,
        };

        cfg->doorbell(cfg->opaque, base + AT_NOTIFY + NOTIFY_STEP * q, vp->dev->kick_fd, &now, on);
    }
}

/* Who may not master the bus can't reach rings or buffers (PCI 3.0, 6.2.2): it does nothing until it may again. */
static void master_update(void *opaque)
{
    struct virtio_pci *vp = opaque;
    bool hold;

    pthread_mutex_lock(&vp->master_lock);
    hold = !pci_is_master(&vp->pci);
    if (hold && !vp->held)
        virtio_pause(vp->dev);
    else if (!hold && vp->held)
        virtio_resume(vp->dev);
    vp->held = hold;
    pthread_mutex_unlock(&vp->master_lock);
}

static const struct pci_device_ops pci_ops = {
    .config_read = access_read,
    .config_write = access_write,
    .bar_moved = bar_moved,
    .command_written = master_update,
};

/* ---- Making ------------------------------------------------------------------------------ */

static unsigned add_cap(struct virtio_pci *vp, uint8_t type, uint32_t off, uint32_t len,
                        const uint32_t *extra)
{
    struct __attribute__((packed)) {
        uint8_t len, type, bar, id, pad[2];
        uint32_t off, size, extra;
    } body = {.len = extra ? 20 : 16, .type = type, .bar = BAR_REGISTERS, .off = off, .size = len};

    if (extra)
        body.extra = *extra;
    return pci_add_capability(&vp->pci, PCI_CAP_VENDOR, &body, body.len - 2u);
}

static void add_caps(struct virtio_pci *vp)
{
    static const uint32_t step = NOTIFY_STEP, data = 0;
    uint8_t *writable = vp->pci.writable;
    unsigned cap;

    add_cap(vp, CFG_COMMON, AT_COMMON, COMMON_SIZE, NULL);
    add_cap(vp, CFG_NOTIFY, AT_NOTIFY, vp->dev->nqueues * NOTIFY_STEP, &step);
    add_cap(vp, CFG_ISR, AT_ISR, 1, NULL);
    add_cap(vp, CFG_DEVICE, AT_DEVICE, PART_SIZE, NULL);
    cap = add_cap(vp, CFG_ACCESS, 0, 0, &data);
    writable[cap + 4] = 0xff;
    memset(writable + cap + 8, 0xff, 8);
    vp->access_cap = cap;
}

static uint32_t class_of(enum virtio_type type)
{
    switch (type) {
    case VIRTIO_NET:
        return 0x020000;
    case VIRTIO_BLK:
        return 0x010000;
    case VIRTIO_CONSOLE:
        return 0x078000;
    default:
        return 0x00ff00;
    }
}

int virtio_pci_init(struct virtio_pci *vp, struct virtio_device *dev, struct pci_bus *bus,
                    unsigned slot, struct err *err)
{
    const struct pci_ident ident = {
        .vendor = VENDOR,
        .device = (uint16_t)(DEVICE_BASE + dev->type),
        .subsystem_vendor = VENDOR,
        .subsystem = (uint16_t)(DEVICE_BASE + dev->type),
        .revision = 1,
        .class = class_of(dev->type),
        .intx = true,
    };
    int code;

    memset(vp, 0, sizeof(*vp));
    code = pci_device_init(&vp->pci, bus, slot, &ident, &pci_ops, vp, err);
    if (code < 0)
        return code;
    vp->dev = dev;
    pthread_mutex_init(&vp->isr_lock, NULL);
    pthread_mutex_init(&vp->master_lock, NULL);
    vectors_clear(vp);
    add_caps(vp);
    pci_add_bar(&vp->pci, BAR_REGISTERS, BAR_SIZE, true, &registers_ops, vp);
    pci_msix_init(&vp->pci, BAR_MSIX, dev->nqueues + 1);
    dev->transport_opaque = vp;
    dev->transport = &transport_ops;
    master_update(vp);
    return 0;
}

void virtio_pci_fini(struct virtio_pci *vp)
{
    if (!vp->dev)
        return;
    virtio_reset(vp->dev);
    vp->dev->transport = NULL;
    pci_device_fini(&vp->pci);
    pthread_mutex_destroy(&vp->isr_lock);
    pthread_mutex_destroy(&vp->master_lock);
    vp->dev = NULL;
}

void virtio_pci_reset(struct virtio_pci *vp)
{
    master_update(vp);
    virtio_reset(vp->dev);
    vp->feature_select = vp->driver_feature_select = 0;
    vp->queue_select = 0;
    vectors_clear(vp);
    isr_take(vp);
}

void virtio_pci_save(struct virtio_pci *vp, struct virtio_pci_state *s)
{
    struct virtio_device *dev = vp->dev;

    memset(s, 0, sizeof(*s));
    s->type = dev->type;
    s->queues = dev->nqueues;
    pthread_mutex_lock(&dev->lock);
    s->feature_select = vp->feature_select;
    s->driver_feature_select = vp->driver_feature_select;
    s->queue_select = vp->queue_select;
    pthread_mutex_unlock(&dev->lock);
    s->config_vector = atomic_load(&vp->config_vector);
    for (unsigned q = 0; q < dev->nqueues; q++)
        s->vector[q] = atomic_load(&vp->vector[q]);
    pthread_mutex_lock(&vp->isr_lock);
    s->isr = vp->isr;
    pthread_mutex_unlock(&vp->isr_lock);
    pci_device_save(&vp->pci, &s->pci);
    virtio_save(dev, &s->dev);
}

int virtio_pci_load(struct virtio_pci *vp, const struct virtio_pci_state *s, struct err *err)
{
    struct virtio_device *dev = vp->dev;
    int code;

    if (s->type != dev->type || s->queues != dev->nqueues)
        return err_set(err, -EINVAL, "a %s device with %u queues is in the place of another",
                       dev->ops->name, dev->nqueues);
    code = virtio_load(dev, &s->dev, err);
    if (code < 0)
        return code;
    pthread_mutex_lock(&dev->lock);
    vp->feature_select = s->feature_select;
    vp->driver_feature_select = s->driver_feature_select;
    vp->queue_select = s->queue_select;
    pthread_mutex_unlock(&dev->lock);
    atomic_store(&vp->config_vector, usable_vector(vp, s->config_vector));
    for (unsigned q = 0; q < dev->nqueues; q++)
        atomic_store(&vp->vector[q], usable_vector(vp, s->vector[q]));
    pthread_mutex_lock(&vp->isr_lock);
    vp->isr = s->isr & (ISR_QUEUE | ISR_CONFIG);
    pci_intx_set(&vp->pci, vp->isr);
    pthread_mutex_unlock(&vp->isr_lock);
    pci_device_load(&vp->pci, &s->pci);
    return 0;
}
