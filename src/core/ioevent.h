/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eventfds in place of a device's handlers and lines. A doorbell (struct
 * ioevent) is a guest's write that signals an eventfd; an interrupt event is
 * an eventfd whose signal is an interrupt. An engine that can takes both upon
 * itself, so that neither costs an exit or a thread of ours; otherwise the
 * dispatch of writes and a thread per VM do the same. Devices see no
 * difference, nor does the guest.
 *
 * The descriptors are eventfds with EFD_NONBLOCK; they stay the caller's and
 * must outlive what is made of them.
 * All functions: any thread, no lock held that a handler of interrupts takes.
 */
#ifndef LODGE_CORE_IOEVENT_H
#define LODGE_CORE_IOEVENT_H

#include "base/err.h"
#include "base/types.h"

#define IOEVENT_MAX  512
#define IRQEVENT_MAX 1024

struct vm;
struct vcpu;

/*
 * What a vCPU that has rung may complete itself while it is halted, so that no other thread has to wake up for it. On the
 * vCPU's thread. begin: a descriptor that can be read when there is something to `look` at, or -1 when nothing is to come;
 * unless it was -1, `end` follows, and until then nobody else needs to look. Constant as long as the machine.
 */
struct idle_watch {
    int (*begin)(void *opaque);
    void (*look)(void *opaque);
    void (*end)(void *opaque);
    void *opaque;
};

/*
 * What a doorbell does before its eventfd is signalled, where the write comes by core: on the vCPU's thread, that which takes
 * no longer than a hand-over to another would. True: there is nothing left to signal. It may neither wait nor add or remove
 * doorbells. `serve` NULL: nothing. `watch`: NULL, or what `serve` may leave behind.
 */
struct doorbell_now {
    bool (*serve)(void *opaque, unsigned n);
    void *opaque;
    unsigned n;
    const struct idle_watch *watch;
};

/* A write of this kind signals `fd` and reaches no device. */
struct ioevent {
    bool pio;
    bool match;   /* only writes of `data` */
    uint8_t size; /* of the write: 1, 2, 4 or 8 bytes; 0: any */
    uint64_t addr, data;
    int fd;
    struct doorbell_now now;
};

/* -EEXIST when another would be signalled by the same write, -ENOSPC when there are IOEVENT_MAX. */
int ioevent_add(struct vm *vm, const struct ioevent *ev, struct err *err);
/* Afterwards no write signals it, but one that is under way may still: what is rung stays until no vCPU runs. `ev` as it was added. */
void ioevent_remove(struct vm *vm, const struct ioevent *ev);

/* What a signal does: a pulse on ISA line `irq`, which nobody else drives, or the message. */
struct irqevent {
    bool msi;
    unsigned irq;
    uint64_t addr;
    uint32_t data;
};

/*
 * *id names it from then on. A signal that `fd` already holds counts. -ENOSPC when there are IRQEVENT_MAX. Signals
 * that come faster than they are delivered become one interrupt.
 */
int irqevent_add(struct vm *vm, int fd, const struct irqevent *ev, unsigned *id, struct err *err);
/* Another message from now on; `ev->msi` stays what it was. A signal not yet delivered may go either way. */
void irqevent_change(struct vm *vm, unsigned id, const struct irqevent *ev);
/* Afterwards no signal is delivered; one that comes meanwhile stays in the descriptor. */
void irqevent_remove(struct vm *vm, unsigned id);

/* ---- For core ------------------------------------------------------------------------- */

struct ioevents;

int ioevents_new(struct vm *vm, struct err *err); /* sets vm->ioevents */
void ioevents_free(struct vm *vm);                /* idempotent; stops the thread */

/* A write that reached core, on the thread of `vcpu`; `io` may be NULL. True: it has signalled an eventfd, and that was all. */
bool ioevents_take(struct ioevents *io, struct vcpu *vcpu, bool pio, uint64_t addr, unsigned size,
                   uint64_t val);

/*
 * Between the two no interrupt is delivered, and the engine may be another afterwards. No vCPU runs. Where there is no
 * engine any more (`attach` false), writes and signals lead nowhere.
 */
void ioevents_pause(struct vm *vm);
void ioevents_resume(struct vm *vm, bool attach);

#endif
