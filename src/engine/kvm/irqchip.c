/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The interrupt controllers and the timer chip inside the kernel, wired as the machine's own are (core/machine.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "engine/kvm/kvm.h"
#include "x86/platform.h"

#define ISA_IRQS       16
#define ISA_CASCADE    2
#define IOAPIC_PIT_PIN 2
#define PIC_PINS       8

static int chip_fail(struct err *err, const char *what)
{
    int code = -errno;

    return err_set(err, code, "KVM cannot %s: %s", what, strerror(-code));
}

/* ---- Routing ------------------------------------------------------------ */

static void route_add(struct kvm_irq_routing *r, unsigned gsi, unsigned chip, unsigned pin)
{
    r->entries[r->nr++] = (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

static int chips_route(struct vm *vm, struct err *err)
{
    size_t size = sizeof(struct kvm_irq_routing) +
                  (ISA_IRQS + IOAPIC_PINS) * sizeof(struct kvm_irq_routing_entry);
    struct kvm_irq_routing *r = calloc(1, size);
    int code = 0;

    if (!r)
        return err_set(err, -ENOMEM, "no memory for interrupt routes");
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        if (n == ISA_CASCADE)
            continue;
        if (n < ISA_IRQS)
            route_add(r, n, n < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                      n % PIC_PINS);
        route_add(r, n, KVM_IRQCHIP_IOAPIC, n == IRQ_PIT ? IOAPIC_PIT_PIN : n);
    }
    if (ioctl(kvm_of(vm)->fd, KVM_SET_GSI_ROUTING, r) < 0)
        code = chip_fail(err, "route interrupts");
    free(r);
    return code;
}

/* ---- Making ------------------------------------------------------------- */

int kvm_irqchip_init(struct vm *vm, struct err *err)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

    if (ioctl(k->fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return chip_fail(err, "make interrupt controllers");
    if (ioctl(k->fd, KVM_CREATE_PIT2, &pit) < 0)
        return chip_fail(err, "make a timer chip");
    for (unsigned i = 0; i < KVM_CHIPS; i++) {
        k->chip[i].chip_id = i;
        if (ioctl(k->fd, KVM_GET_IRQCHIP, &k->chip[i]) < 0)
            return chip_fail(err, "read its interrupt controllers");
    }
    if (ioctl(k->fd, KVM_GET_PIT2, &k->pit) < 0)
        return chip_fail(err, "read its timer chip");
    return chips_route(vm, err);
}

int kvm_irqchip_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    struct kvm_cpu *c = vcpu->engine;
    struct kvm_sregs s;

    if (ioctl(c->fd, KVM_GET_LAPIC, &c->lapic) < 0 || ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
        return chip_fail(err, "read a local APIC");
    c->apic_base = s.apic_base;
    return 0;
}

/* ---- irqchip_ops -------------------------------------------------------- */

static void chip_set_isa(struct vm *vm, unsigned irq, bool level)
{
    struct kvm_irq_level line = {.irq = irq, .level = level};

    if (ioctl(kvm_of(vm)->fd, KVM_IRQ_LINE, &line) < 0)
        log_once(LOG_ERROR, "KVM did not take an interrupt: %s", strerror(errno));
}

/* A message that no APIC accepts, or that is malformed, is lost, as on a bus. */
static void chip_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    struct kvm_msi msi = {
        .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32), .data = data};

    ioctl(kvm_of(vm)->fd, KVM_SIGNAL_MSI, &msi);
}

static bool vcpu_chip_reset(struct kvm_cpu *c)
{
    struct kvm_sregs s;

    if (ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
        return false;
    s.apic_base = c->apic_base;
    s.cr8 = 0;
    return ioctl(c->fd, KVM_SET_SREGS, &s) >= 0 && ioctl(c->fd, KVM_SET_LAPIC, &c->lapic) >= 0;
}

static void chip_reset(struct vm *vm)
{
    struct kvm_vm *k = kvm_of(vm);
    bool ok = true;

    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        ok &= vcpu_chip_reset(vm->vcpus[i].engine);
    for (unsigned i = 0; i < KVM_CHIPS; i++)
        ok &= ioctl(k->fd, KVM_SET_IRQCHIP, &k->chip[i]) >= 0;
    ok &= ioctl(k->fd, KVM_SET_PIT2, &k->pit) >= 0;
    if (!ok)
        log_error("KVM did not reset its interrupt controllers: %s", strerror(errno));
}

const struct irqchip_ops kvm_irqchip = {
    .set_isa = chip_set_isa, .msi = chip_msi, .reset = chip_reset};
