/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/vcpu.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/ioevent.h"
#include "core/vm.h"
#include "engine/engine.h"
#include "x86/lapic.h"
#include "x86/msr.h"

/* Linux Documentation/virt/kvm/x86/hypercalls.rst */
#define KVM_HC_VAPIC_POLL_IRQ 1
#define KVM_HC_SEND_IPI       10
#define KVM_ENOSYS            1000

/* vcpu->sleeping */
#define ON_FUTEX 1
#define IN_POLL  2

/* ---- Events ------------------------------------------------------------- */

static void futex_wait(_Atomic uint32_t *word, uint32_t val)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, val, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/*
 * No wake-up is lost: the poster sets the event and then looks at `sleeping`,
 * the sleeper sets `sleeping` and then looks at the events, both in one total
 * order; at least one sees the other. Whoever clears `sleeping` also wakes.
 */
void vcpu_post(struct vcpu *vcpu, uint32_t events)
{
    uint32_t how;

    atomic_fetch_or(&vcpu->events, events);
    how = atomic_load(&vcpu->sleeping) ? atomic_exchange(&vcpu->sleeping, 0) : 0;
    if (how == ON_FUTEX)
        futex_wake(&vcpu->sleeping);
    else if (how == IN_POLL)
        eventfd_write(vcpu->wake_fd, 1);
    vcpu->vm->engine->kick(vcpu);
}

void vcpu_post_nmi(struct vcpu *vcpu)
{
    atomic_fetch_add(&vcpu->nmis, 1);
    vcpu_post(vcpu, VCPU_EV_NMI);
}

/* A signal of before ends a later sleep too early, which does no harm. */
static void sleep_watching(struct vcpu *vcpu, int fd)
{
    const struct idle_watch *watch = vcpu->watch;
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = vcpu->wake_fd, .events = POLLIN}};
    eventfd_t count;

    atomic_store(&vcpu->sleeping, IN_POLL);
    while (!atomic_load(&vcpu->events) && poll(fds, ARRAY_SIZE(fds), -1) < 0)
        ;
    /* Who posts from here on has nobody to wake. */
    atomic_store(&vcpu->sleeping, 0);
    if (fds[1].revents)
        eventfd_read(vcpu->wake_fd, &count);
    if (fds[0].revents)
        watch->look(watch->opaque);
    watch->end(watch->opaque);
}

static void sleep_plainly(struct vcpu *vcpu)
{
    atomic_store(&vcpu->sleeping, ON_FUTEX);
    if (!atomic_load(&vcpu->events))
        futex_wait(&vcpu->sleeping, ON_FUTEX);
    atomic_store(&vcpu->sleeping, 0);
}

void vcpu_sleep(struct vcpu *vcpu)
{
    while (!atomic_load(&vcpu->events)) {
        int fd = vcpu->watch && vcpu->wake_fd >= 0 ? vcpu->watch->begin(vcpu->watch->opaque) : -1;

        if (fd >= 0) {
            sleep_watching(vcpu, fd);
        } else {
            vcpu->watch = NULL;
            sleep_plainly(vcpu);
        }
    }
}

/* ---- Interrupts --------------------------------------------------------- */

int vcpu_intr_pending(struct vcpu *vcpu)
{
    return lapic_pending(vcpu->lapic);
}

int vcpu_intr_ack(struct vcpu *vcpu)
{
    return lapic_ack(vcpu->lapic);
}

uint64_t vcpu_get_cr8(struct vcpu *vcpu)
{
    return lapic_get_cr8(vcpu->lapic);
}

void vcpu_set_cr8(struct vcpu *vcpu, uint64_t cr8)
{
    lapic_set_cr8(vcpu->lapic, cr8);
}

/* ---- I/O ---------------------------------------------------------------- */

uint64_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    return bus_read(&vcpu->vm->pio, port, size);
}

void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t val)
{
    if (!ioevents_take(vcpu->vm->ioevents, vcpu, true, port, size, val))
        bus_write(&vcpu->vm->pio, port, size, val);
}

uint64_t vcpu_mmio_read(struct vcpu *vcpu, gpa_t gpa, unsigned size)
{
    if (vcpu->lapic && lapic_claims(vcpu->lapic, gpa))
        return lapic_mmio_read(vcpu->lapic, gpa & ~PAGE_MASK, size);
    return bus_read(&vcpu->vm->mmio, gpa, size);
}

void vcpu_mmio_write(struct vcpu *vcpu, gpa_t gpa, unsigned size, uint64_t val)
{
    if (vcpu->lapic && lapic_claims(vcpu->lapic, gpa))
        lapic_mmio_write(vcpu->lapic, gpa & ~PAGE_MASK, size, val);
    else if (!ioevents_take(vcpu->vm->ioevents, vcpu, false, gpa, size, val))
        bus_write(&vcpu->vm->mmio, gpa, size, val);
}

void vcpu_init_taken(struct vcpu *vcpu)
{
    if (vcpu->lapic)
        lapic_init(vcpu->lapic);
}

/* ---- MSRs and hypercalls ------------------------------------------------ */

int vcpu_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *val)
{
    if (vcpu->lapic && lapic_has_msr(msr))
        return lapic_msr_read(vcpu->lapic, msr, val);
    return msr_read(vcpu->msrs, msr, val);
}

int vcpu_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t val)
{
    if (vcpu->lapic && lapic_has_msr(msr))
        return lapic_msr_write(vcpu->lapic, msr, val);
    return msr_write(vcpu->msrs, msr, val);
}

uint64_t vcpu_hypercall(struct vcpu *vcpu, uint64_t nr, const uint64_t args[4])
{
    switch (nr) {
    case KVM_HC_VAPIC_POLL_IRQ: /* any exit will do */
        return 0;
    case KVM_HC_SEND_IPI:
        return (uint64_t)lapic_pv_ipi(vcpu->vm, args[0], args[1], (uint32_t)args[2],
                                      (uint32_t)args[3]);
    default:
        return (uint64_t)-KVM_ENOSYS;
    }
}
