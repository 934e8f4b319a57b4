/* SPDX-License-Identifier: GPL-2.0-or-later */
/* MSI-X: PCI 3.0, 6.8.2. Table and pending bits share a BAR of one page. */
#include "dev/pci/pci.h"

#include <string.h>

#define PENDING_AT 0x800 /* behind PCI_MSIX_MAX entries of 16 bytes */

#define CONTROL        2 /* offset in the capability */
#define CONTROL_MASK   0x4000u
#define CONTROL_ENABLE 0x8000u
#define ENTRY_MASK     1u

static uint16_t control(const struct pci_device *dev)
{
    const uint8_t *p = dev->config + dev->msix.cap + CONTROL;

    return (uint16_t)(p[0] | p[1] << 8);
}

static uint16_t command(const struct pci_device *dev)
{
    return (uint16_t)(dev->config[PCI_COMMAND] | dev->config[PCI_COMMAND + 1] << 8);
}

bool pci_msix_enabled_locked(const struct pci_device *dev)
{
    return dev->msix.vectors && control(dev) & CONTROL_ENABLE;
}

/* A message is a write by the device, for which it must be a bus master. */
static bool may_send(const struct pci_device *dev)
{
    return (control(dev) & (CONTROL_ENABLE | CONTROL_MASK)) == CONTROL_ENABLE &&
           command(dev) & PCI_COMMAND_MASTER;
}

static void send_locked(struct pci_device *dev, unsigned n)
{
    const struct pci_bus_config *cfg = &dev->bus->cfg;
    const struct pci_msix_entry *e = &dev->msix.entry[n];

    cfg->msi(cfg->opaque, e->addr, e->data);
}

static void flush_locked(struct pci_device *dev, unsigned n)
{
    uint64_t *word = &dev->msix.pending[n / 64], bit = 1ull << n % 64;

    if (!(*word & bit) || !may_send(dev) || dev->msix.entry[n].control & ENTRY_MASK)
        return;
    *word &= ~bit;
    send_locked(dev, n);
}

void pci_msix_changed_locked(struct pci_device *dev)
{
    for (unsigned n = 0; n < dev->msix.vectors; n++)
        flush_locked(dev, n);
}

void pci_msix_reset_locked(struct pci_device *dev)
{
    for (unsigned n = 0; n < dev->msix.vectors; n++)
        dev->msix.entry[n] = (struct pci_msix_entry){.control = ENTRY_MASK};
    for (unsigned i = 0; i < ARRAY_SIZE(dev->msix.pending); i++)
        dev->msix.pending[i] = 0;
}

void pci_msix_save_locked(const struct pci_device *dev, struct pci_state *s)
{
    for (unsigned n = 0; n < dev->msix.vectors; n++)
        s->entry[n] = dev->msix.entry[n];
    memcpy(s->pending, dev->msix.pending, sizeof(s->pending));
}

void pci_msix_load_locked(struct pci_device *dev, const struct pci_state *s)
{
    for (unsigned n = 0; n < dev->msix.vectors; n++)
        dev->msix.entry[n] = (struct pci_msix_entry){.addr = s->entry[n].addr & ~3ull,
                                                     .data = s->entry[n].data,
                                                     .control = s->entry[n].control & ENTRY_MASK};
    for (unsigned i = 0; i < ARRAY_SIZE(dev->msix.pending); i++) {
        unsigned first = i * 64, left = dev->msix.vectors > first ? dev->msix.vectors - first : 0;

        dev->msix.pending[i] = s->pending[i] & (left < 64 ? (1ull << left) - 1 : UINT64_MAX);
    }
}

bool pci_msix_raise(struct pci_device *dev, unsigned n)
{
    bool on;

    pthread_mutex_lock(&dev->lock);
    on = pci_msix_enabled_locked(dev);
    if (on && n < dev->msix.vectors) {
        dev->msix.pending[n / 64] |= 1ull << n % 64;
        flush_locked(dev, n);
    }
    pthread_mutex_unlock(&dev->lock);
    return on;
}

/* ---- The BAR: doublewords only ---------------------------------------------------- */

static int table_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pci_device *dev = opaque;
    uint32_t v = 0;

    pthread_mutex_lock(&dev->lock);
    if (off < dev->msix.vectors * 16) {
        const struct pci_msix_entry *e = &dev->msix.entry[off / 16];
        const uint32_t words[4] = {(uint32_t)e->addr, (uint32_t)(e->addr >> 32), e->data,
                                   e->control};

        v = words[off / 4 % 4];
    } else if (off >= PENDING_AT && off < PENDING_AT + sizeof(dev->msix.pending)) {
        v = (uint32_t)(dev->msix.pending[(off - PENDING_AT) / 8] >> (off & 4 ? 32 : 0));
    }
    pthread_mutex_unlock(&dev->lock);
    *val = v;
    return 0;
}

static int table_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pci_device *dev = opaque;
    struct pci_msix_entry *e;

    pthread_mutex_lock(&dev->lock);
    if (off < dev->msix.vectors * 16) {
        e = &dev->msix.entry[off / 16];
        switch (off / 4 % 4) {
        case 0:
            e->addr = (e->addr & ~0xffffffffull) | ((uint32_t)val & ~3u);
            break;
        case 1:
            e->addr = (uint32_t)e->addr | val << 32;
            break;
        case 2:
            e->data = (uint32_t)val;
            break;
        default:
            e->control = (uint32_t)val & ENTRY_MASK;
            flush_locked(dev, (unsigned)off / 16);
        }
    }
    pthread_mutex_unlock(&dev->lock);
    return 0;
}

static const struct region_ops table_ops = {table_read, table_write, 4, 4};

void pci_msix_init(struct pci_device *dev, unsigned bar, unsigned vectors)
{
    const uint16_t size = (uint16_t)(vectors - 1);
    const uint8_t body[10] = {size & 0xff,    size >> 8, bar, 0, 0, 0, bar | (PENDING_AT & 0xff),
                              PENDING_AT >> 8};

    dev->msix.cap = pci_add_capability(dev, PCI_CAP_MSIX, body, sizeof(body));
    dev->writable[dev->msix.cap + CONTROL + 1] = (CONTROL_ENABLE | CONTROL_MASK) >> 8;
    dev->msix.vectors = vectors;
    pci_add_bar(dev, bar, PCI_MSIX_BAR_SIZE, false, &table_ops, dev);
}
