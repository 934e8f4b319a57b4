/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A virtio device on a PCI bus (virtio 1.2, 4.1, without the legacy interface). */
#ifndef LODGE_DEV_VIRTIO_PCI_H
#define LODGE_DEV_VIRTIO_PCI_H

#include "dev/pci/pci.h"
#include "dev/virtio/virtio.h"

struct virtio_pci {
    struct pci_device pci;
    struct virtio_device *dev;
    unsigned access_cap;                            /* offset of the capability that reaches BARs */
    uint32_t feature_select, driver_feature_select; /* as queue_select under dev->lock */
    uint16_t queue_select;
    _Atomic uint16_t config_vector;
    _Atomic uint16_t vector[VIRTIO_MAX_QUEUES];
    pthread_mutex_t isr_lock;
    uint8_t isr;
    pthread_mutex_t master_lock; /* taken before all others */
    bool held;                   /* not a bus master, so the device stands still */
};

/*
 * Put `dev` into a slot. It must outlive the transport, which is taken off
 * first. On failure nothing is held.
 */
int virtio_pci_init(struct virtio_pci *vp, struct virtio_device *dev, struct pci_bus *bus,
                    unsigned slot, struct err *err);
void virtio_pci_fini(struct virtio_pci *vp); /* idempotent on a zeroed structure */

/* Power-on state of the device and its transport; after pci_bus_reset or before. No vCPU runs. */
void virtio_pci_reset(struct virtio_pci *vp);

/* Device, transport and PCI function. */
struct virtio_pci_state {
    uint32_t type, queues;
    uint32_t feature_select, driver_feature_select;
    uint16_t queue_select, config_vector, vector[VIRTIO_MAX_QUEUES];
    uint8_t isr;
    struct pci_state pci;
    struct virtio_state dev;
};

/* While the device is paused, and no vCPU runs; load is for one as after a reset. -EINVAL with the reason in *err. */
void virtio_pci_save(struct virtio_pci *vp, struct virtio_pci_state *s);
int virtio_pci_load(struct virtio_pci *vp, const struct virtio_pci_state *s, struct err *err);

#endif
