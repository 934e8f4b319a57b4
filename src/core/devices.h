/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The virtio devices of a VM, as its configuration asks for them. */
#ifndef LODGE_CORE_DEVICES_H
#define LODGE_CORE_DEVICES_H

#include <stdio.h>

#include "core/vm.h"

struct devices;
struct net;
struct pci_bus;
struct traffic;
struct virtio_balloon;
struct block;
struct virtio_pci;

/* Open images, make the devices and put them on the bus. On failure nothing is held. */
int devices_new(struct devices **devices, struct vm *vm, struct pci_bus *bus, struct err *err);
void devices_free(struct devices *devices); /* waits for what is under way; NULL is fine */

/* What the n-th network card is plugged into; NULL: there is no such card. */
struct net *devices_net(struct devices *devices, unsigned n);

/* See machine.h. */
bool devices_disk_traffic(struct devices *devices, unsigned n, struct traffic *t);
bool devices_net_traffic(struct devices *devices, unsigned n, struct traffic *t);

/* What the n-th network card is limited by; NULL: there is no such card. */
struct net_limit;
struct net_limit *devices_net_limit(struct devices *devices, unsigned n);

/* The balloon; NULL: there is none. */
struct virtio_balloon *devices_balloon(struct devices *devices);

/* The virtio devices in the order in which they were made; NULL: there are no more. */
struct virtio_pci *devices_virtio(struct devices *devices, unsigned n);

/* What is in the n-th disk's place; NULL: there is none. */
struct block *devices_disk(struct devices *devices, unsigned n);

/* See machine_console_resize. */
void devices_console_resize(struct devices *devices, uint16_t cols, uint16_t rows);

/* No vCPU runs during these. */
void devices_reset(struct devices *devices);
void devices_pause(struct devices *devices); /* see machine_pause */
void devices_resume(struct devices *devices);

/* See vm_disk_overlay and vm_disk_sync. */
int devices_disk_overlay(struct devices *devices, unsigned n, const struct block_config *image,
                         struct err *err);
/* Tell the guest that disks that it only reads may be others than it knows. */
void devices_disks_changed(struct devices *devices);
int devices_disk_sync(struct devices *devices, unsigned n);

/* Counters in readable form, for --stats. Any thread. */
void devices_print_stats(struct devices *devices, FILE *out);

#endif
