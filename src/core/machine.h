/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The PC around the vCPUs: interrupt controllers, timers, clock, power management, serial port. */
#ifndef LODGE_CORE_MACHINE_H
#define LODGE_CORE_MACHINE_H

#include <stdio.h>

#include "core/vm.h"
#include "x86/chips.h"

/*
 * Build every part and wire it to vm's buses, clock and vCPUs; sets vm->machine and each vCPU's msrs and, unless the
 * engine has interrupt controllers of its own, lapic.
 * The engine must be able to take vcpu_post by then. On failure nothing is held.
 */
int machine_new(struct vm *vm, struct err *err);
void machine_free(struct vm *vm); /* idempotent */

/* Counters of devices in readable form, for --stats. Any thread. */
void machine_print_stats(struct vm *vm, FILE *out);

/* What the n-th network card is plugged into, until the machine is freed; NULL: there is no such card. */
struct net *machine_net(struct vm *vm, unsigned n);

/* What a disk or a card has moved since the VM was made, for the guest. Any thread. False: there is none of that number. */
struct traffic {
    uint64_t in_count, in_bytes; /* reads, or frames received */
    uint64_t out_count, out_bytes;
};

bool machine_disk_traffic(struct vm *vm, unsigned n, struct traffic *t);
bool machine_net_traffic(struct vm *vm, unsigned n, struct traffic *t);

/*
 * The limits of a disk and of a card, and others from now on. Any thread, but one at a time. -ENODEV: there is none of that
 * number; other errors leave what was there.
 */
int machine_disk_limits(struct vm *vm, unsigned n, uint64_t limit[BLOCK_LIMITS]);
int machine_disk_set_limits(struct vm *vm, unsigned n, const uint64_t limit[BLOCK_LIMITS],
                            struct err *err);
int machine_net_rates(struct vm *vm, unsigned n, struct net_rates *rates);
int machine_net_set_rates(struct vm *vm, unsigned n, const struct net_rates *rates,
                          struct err *err);

/* The balloon, until the machine is freed; NULL: there is none. */
struct virtio_balloon *machine_balloon(struct vm *vm);

/* See vm_disk_overlay and vm_disk_sync. */
int machine_disk_overlay(struct vm *vm, unsigned n, const struct block_config *image,
                         struct err *err);
int machine_disk_sync(struct vm *vm, unsigned n);

/* The terminal at the virtio console has another size; nothing without such a console. Any thread. */
void machine_console_resize(struct vm *vm, uint16_t cols, uint16_t rows);

/* Hardware reset of every part; no vCPU runs. */
void machine_reset(struct vm *vm);

/* Between the two, devices neither touch memory nor send messages; they may drive their lines. No vCPU runs. */
void machine_pause(struct vm *vm);
void machine_resume(struct vm *vm);

/*
 * Move the interrupt controllers and the timer chip from one engine to
 * another: taken from the old one, made under the new one, given once its
 * vCPUs have their state. Devices may go on driving their lines meanwhile. No
 * vCPU runs. After a failure the machine can only be freed.
 */
struct machine_chips {
    struct chips_state chips;
    struct lapic_state lapics[VM_MAX_CPUS];
    uint32_t isa_levels;
};

int machine_chips_take(struct vm *vm, struct machine_chips *s, struct err *err);
int machine_chips_make(struct vm *vm, struct err *err);
int machine_chips_give(struct vm *vm, struct machine_chips *s, struct err *err);

/*
 * A copy of that state without leaving the engine. Between hold and machine_chips_give, or release, what devices drive
 * is noted only; release wants the copy made since. No vCPU runs.
 */
int machine_chips_copy(struct vm *vm, struct machine_chips *s, struct err *err);
void machine_lines_hold(struct vm *vm);
void machine_lines_release(struct vm *vm, const struct machine_chips *s);

/*
 * Devices have been given a state since machine_lines_hold, and drive what follows from it; the state of controllers is
 * going to be given by machine_chips_give: their lines are those, and what changes from now on is news.
 */
void machine_lines_settle(struct vm *vm, struct machine_chips *s);

/* The devices by themselves, for who keeps their state; NULL: there is no such device. */
struct machine_devices {
    struct rtc *rtc;
    struct acpipm *acpipm;
    struct serial *com1;
    struct testdev *test;
    struct pci_bus *pci;
    struct devices *devices;
};
struct machine_devices machine_devices(struct vm *vm);

/* An edge on ISA line `irq`, which is low before and afterwards. Any thread. */
void machine_isa_pulse(struct vm *vm, unsigned irq);

/* Tell the guest that its generation ID (core/generation.h) has changed. Any thread. */
void machine_generation(struct vm *vm);

/* Press the power button, which an operating system may heed or not. Any thread. */
void machine_power_button(struct vm *vm);

/* Deliver a device's message-signalled interrupt to the VM's APICs, wherever they are. Any thread. */
void machine_msi(struct vm *vm, uint64_t addr, uint32_t data);

#endif
