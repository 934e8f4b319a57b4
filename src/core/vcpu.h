/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One virtual CPU as the machine sees it: a thread, the interrupts posted to
 * it, and the engine that runs it. Engines reach the machine only through the
 * functions here and in vm.h.
 */
#ifndef LODGE_CORE_VCPU_H
#define LODGE_CORE_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/types.h"

struct vm;
struct lapic;
struct msr_state;
struct idle_watch;

/* Posted to a vCPU by other threads, consumed by the engine between instructions. */
#define VCPU_EV_INTR (1u << 0) /* the local APIC may have a vector; ask vcpu_intr_pending */
#define VCPU_EV_NMI  (1u << 1) /* how many: vcpu->nmis */
#define VCPU_EV_INIT (1u << 2)
#define VCPU_EV_SIPI (1u << 3) /* start page in vcpu->sipi_vector */
#define VCPU_EV_STOP                                                                               \
    (1u << 4) /* leave run() with VCPU_EXIT_STOP; who is asked to without a reason comes back */

enum vcpu_exit_reason {
    VCPU_EXIT_HALT, /* HLT with nothing deliverable, or waiting for SIPI: sleep until an event is posted */
    VCPU_EXIT_STOP,     /* asked to leave */
    VCPU_EXIT_SHUTDOWN, /* triple fault; message in exit.text */
    VCPU_EXIT_ERROR,    /* the engine can't go on; message in exit.text */
};

struct vcpu_exit {
    enum vcpu_exit_reason reason;
    char text[512]; /* for SHUTDOWN and ERROR: what happened, with RIP, CS and instruction bytes */
};

struct vcpu {
    struct vm *vm;
    unsigned id; /* also the APIC ID */
    pthread_t thread;
    struct lapic *lapic; /* NULL: inside the engine */
    struct msr_state *msrs;
    void *engine;            /* the engine's own */
    _Atomic uint32_t events; /* VCPU_EV_* */
    _Atomic uint32_t nmis;   /* posted since the engine last took them */
    _Atomic uint32_t sipi_vector;
    _Atomic uint32_t sleeping; /* futex word: how the thread sleeps in vcpu_sleep, or 0 */
    int wake_fd;               /* eventfd that ends a sleep with `watch`, -1: none */
    /* Its own thread's: NULL, or what it looks after while it sleeps (core/ioevent.h). */
    const struct idle_watch *watch;
    struct vcpu_exit exit;
};

/* Post events and make the vCPU notice soon. Any thread, idempotent. */
void vcpu_post(struct vcpu *vcpu, uint32_t events);

/* The same for an NMI. Two that come together must not become one: a CPU takes one and holds the next. */
void vcpu_post_nmi(struct vcpu *vcpu);

/* Sleep until any event is posted. Only the vCPU's own thread. */
void vcpu_sleep(struct vcpu *vcpu);

/*
 * The local APIC as the CPU sees it (src/x86/lapic.c). vcpu_intr_pending:
 * highest vector deliverable at the present task priority, or -1, without
 * side effects. vcpu_intr_ack: takes it (interrupt acknowledge cycle, the
 * 8259s included when LINT0 is ExtINT), or -1 when it went away.
 */
int vcpu_intr_pending(struct vcpu *vcpu);
int vcpu_intr_ack(struct vcpu *vcpu);
uint64_t vcpu_get_cr8(struct vcpu *vcpu);
void vcpu_set_cr8(struct vcpu *vcpu, uint64_t cr8);

/* Port and memory-mapped I/O from this vCPU; size 1, 2, 4 or 8. MMIO includes the vCPU's own APIC page. */
uint64_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned size);
void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t val);
uint64_t vcpu_mmio_read(struct vcpu *vcpu, gpa_t gpa, unsigned size);
void vcpu_mmio_write(struct vcpu *vcpu, gpa_t gpa, unsigned size, uint64_t val);

/* MSRs the machine owns (APIC, MTRR, PAT-independent platform and KVM paravirtual ones). -1: raise #GP. */
int vcpu_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *val);
int vcpu_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t val);

/* The CPU took an INIT: its local APIC is reset too (SDM volume 3, 10.4.7.3). Before the SIPI is acted on. */
void vcpu_init_taken(struct vcpu *vcpu);

/* A hypercall in the KVM convention (nr in RAX, arguments RBX RCX RDX RSI); the return value goes to RAX. */
uint64_t vcpu_hypercall(struct vcpu *vcpu, uint64_t nr, const uint64_t args[4]);

#endif
