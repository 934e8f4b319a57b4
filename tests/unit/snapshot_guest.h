/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A VM with one device of each kind, none of them as after a reset, for tests of saved states. */
#ifndef LODGE_TESTS_SNAPSHOT_GUEST_H
#define LODGE_TESTS_SNAPSHOT_GUEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/bus.h"
#include "core/devices.h"
#include "core/machine.h"
#include "core/vm.h"
#include "dev/virtio/balloon.h"
#include "dev/virtio/pci.h"
#include "engine/engine.h"
#include "virtio_driver.h"
#include "x86/platform.h"

#define SNAPSHOT_CPUS 2
#ifndef SNAPSHOT_ENGINE
#define SNAPSHOT_ENGINE (&engine_soft)
#endif

struct snapshot_guest {
    char dir[64], disk[96], port[96], vsock[96];
    struct vm_config cfg;
    struct vm *vm;
};

/* `number` tells guests of one process apart. False: the host does not let us. */
static inline bool snapshot_guest_new(struct snapshot_guest *g, unsigned number, struct err *err)
{
    FILE *disk;

    memset(g, 0, sizeof(*g));
    snprintf(g->dir, sizeof(g->dir), "/tmp/lodge-snapshot-%d-%u-XXXXXX", (int)getpid(), number);
    if (!mkdtemp(g->dir))
        return false;
    snprintf(g->disk, sizeof(g->disk), "%s/disk", g->dir);
    snprintf(g->port, sizeof(g->port), "%s/port", g->dir);
    snprintf(g->vsock, sizeof(g->vsock), "%s/vsock", g->dir);
    disk = fopen(g->disk, "w");
    if (!disk || ftruncate(fileno(disk), 1 << 20) || fclose(disk))
        return false;
    g->cfg = (struct vm_config){.name = "snapshot",
                                .cpu = CPU_V1,
                                .cpus = SNAPSHOT_CPUS,
                                .memory = MIB(4),
                                .kernel = "/dev/null",
                                .engine = SNAPSHOT_ENGINE,
                                .serial_in = -1,
                                .serial_out = -1,
                                .rng = true,
                                .balloon = true,
                                .test_devices = true,
                                .disks = 1,
                                .ports = 1,
                                .nets = 1,
                                .vsock = g->vsock};
    g->cfg.disk[0].image = (struct block_config){.path = g->disk, .format = "raw"};
    g->cfg.port[0] = (struct vm_port){.name = "a", .path = g->port};
    g->cfg.net[0].kind = VM_NET_SWITCH;
    snprintf(g->cfg.net[0].base, sizeof(g->cfg.net[0].base), "%s", g->dir);
    snprintf(g->cfg.net[0].name, sizeof(g->cfg.net[0].name), "n");
    return vm_new(&g->vm, &g->cfg, err) == 0;
}

static inline void snapshot_guest_free(struct snapshot_guest *g)
{
    char command[128];

    vm_free(g->vm);
    g->vm = NULL;
    snprintf(command, sizeof(command), "rm -rf '%s'", g->dir);
    if (system(command))
        fprintf(stderr, "cannot remove %s\n", g->dir);
}

static inline void snapshot_out(struct vm *vm, uint16_t port, unsigned size, uint32_t val)
{
    bus_write(&vm->pio, port, size, val);
}

static inline void snapshot_guest_devices(struct vm *vm)
{
    struct devices *d = machine_devices(vm).devices;
    struct virtio_pci *vp;

    for (unsigned n = 0; (vp = devices_virtio(d, n)); n++) {
        unsigned queues = vp->dev->nqueues < 3 ? vp->dev->nqueues : 3;

        pci_config_write(vp->pci.bus, vp->pci.slot, PCI_COMMAND, 2,
                         PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
        driver_start(vp->dev, vp->dev->type == VIRTIO_NET ? 0x20u : 0, queues, 8);
        pci_bar_write(&vp->pci, 2, 0, 4, 0xfee00000);
        pci_bar_write(&vp->pci, 2, 8, 4, 0x40 + n);
        pci_bar_write(&vp->pci, 2, 12, 4, n & 1);
        pci_bar_write(&vp->pci, 0, 16, 2, 0); /* config_vector */
        pci_bar_write(&vp->pci, 0, 22, 2, 1); /* queue_select */
        pci_bar_write(&vp->pci, 0, 26, 2, 1); /* its vector */
        pci_bar_write(&vp->pci, 0, 0, 4, 1);  /* device_feature_select */
    }
    virtio_balloon_set_target(machine_balloon(vm), 77);
}

/* As a guest in its work would have left it. */
static inline void snapshot_guest_use(struct vm *vm)
{
    static const struct {
        uint16_t port;
        uint8_t size;
        uint32_t val;
    } writes[] = {
        {PIO_COM1 + 3, 1, 0x83},
        {PIO_COM1, 1, 1},
        {PIO_COM1 + 3, 1, 0x03},
        {PIO_COM1 + 2, 1, 0xc7},
        {PIO_COM1 + 1, 1, 0x0b},
        {PIO_COM1 + 4, 1, 0x1b},
        {PIO_COM1, 1, 'x'},
        {PIO_COM1, 1, 'y'},
        {PIO_COM1 + 7, 1, 0x5a},
        {PIO_RTC, 1, 0x0a},
        {PIO_RTC + 1, 1, 0x20},
        {PIO_RTC, 1, 0x0b},
        {PIO_RTC + 1, 1, 0xa2},
        {PIO_RTC, 1, 0x09},
        {PIO_RTC + 1, 1, 0x31},
        {PIO_RTC, 1, 0x40},
        {PIO_RTC + 1, 1, 0xaa},
        {PIO_PM1A_EVT + 2, 2, 0x120},
        {PIO_PM1A_CNT, 2, 0x1400},
        {0xcf8, 4, 0x80001004},
        {PIO_PIC_MASTER, 1, 0x11},
        {PIO_PIC_MASTER + 1, 1, 0x30},
        {PIO_PIC_MASTER + 1, 1, 4},
        {PIO_PIC_MASTER + 1, 1, 1},
        {PIO_PIC_MASTER + 1, 1, 0xfa},
        {PIO_PIT + 3, 1, 0xb6},
        {PIO_PIT + 2, 1, 0x34},
        {0xe0, 4, 0x12345678},
        {0x2000 + 5, 1, 1},
        {0x2018, 4, 0x55},
    };

    machine_reset(vm);
    for (unsigned i = 0; i < sizeof(writes) / sizeof(writes[0]); i++)
        snapshot_out(vm, writes[i].port, writes[i].size, writes[i].val);
    bus_write(&vm->mmio, 0xff000010, 8, 0x1122334455667788);
    bus_write(&vm->mmio, MMIO_IOAPIC, 4, 0x10 + 2 * 4);
    bus_write(&vm->mmio, MMIO_IOAPIC + 0x10, 4, 0x10034);
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        vcpu_msr_write(&vm->vcpus[i], 0x1b, 0xfee00000 | 0xc00 | (i ? 0 : 0x100));
        vcpu_msr_write(&vm->vcpus[i], 0x80f, 0x1ff);
        vcpu_msr_write(&vm->vcpus[i], 0x808, 0x20 + i);
        vcpu_msr_write(&vm->vcpus[i], 0x268, 0x0606060606060600ull + i);
        vcpu_msr_write(&vm->vcpus[i], 0x4b564d01, 0x3000 + 64 * i + 1);
    }
    machine_power_button(vm);
    snapshot_guest_devices(vm);
}

#endif
