/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/vcpu.h"

#include <linux/futex.h>
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
    atomic_fetch_or(&vcpu->events, events);
    if (atomic_load(&vcpu->sleeping) && atomic_exchange(&vcpu->sleeping, 0))
        futex_wake(&vcpu->sleeping);
    vcpu->vm->engine->kick(vcpu);
}

void vcpu_post_nmi(struct vcpu *vcpu)
{
    atomic_fetch_add(&vcpu->nmis, 1);
    vcpu_post(vcpu, VCPU_EV_NMI);
}

void vcpu_sleep(struct vcpu *vcpu)
{
    for (;;) {
        atomic_store(&vcpu->sleeping, 1);
        if (atomic_load(&vcpu->events))
            break;
        futex_wait(&vcpu->sleeping, 1);
    }
    atomic_store(&vcpu->sleeping, 0);
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
    if (!ioevents_take(vcpu->vm->ioevents, true, port, size, val))
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
    else if (!ioevents_take(vcpu->vm->ioevents, false, gpa, size, val))
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
