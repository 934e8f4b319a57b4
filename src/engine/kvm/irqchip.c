/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The interrupt controllers and the timer chip inside the kernel, wired as the machine's own are (core/machine.c). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/log.h"
#include "engine/kvm/chips.h"
#include "engine/kvm/kvm.h"
#include "x86/platform.h"

#define ISA_IRQS       16
#define ISA_CASCADE    2
#define IOAPIC_PIT_PIN 2
#define PIC_PINS       8

#define MSR_TSC_DEADLINE 0x6e0

#define LAPIC_TPR   0x08
#define LAPIC_SVR   0x0f
#define LAPIC_LINT0 0x35
#define LAPIC_LINT1 0x36

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

static void route_add_msi(struct kvm_irq_routing *r, unsigned gsi, const struct kvm_msi_route *m)
{
    r->entries[r->nr++] =
        (struct kvm_irq_routing_entry){.gsi = gsi,
                                       .type = KVM_IRQ_ROUTING_MSI,
                                       .u.msi = {.address_lo = (uint32_t)m->addr,
                                                 .address_hi = (uint32_t)(m->addr >> 32),
                                                 .data = m->data}};
}

/* Pins and messages, all of them each time. Negative errno: the routes are as before. */
static int routes_set(struct kvm_vm *k)
{
    size_t size = sizeof(struct kvm_irq_routing) +
                  (ISA_IRQS + IOAPIC_PINS + k->msis) * sizeof(struct kvm_irq_routing_entry);
    struct kvm_irq_routing *r = calloc(1, size);
    int code = 0;

    if (!r)
        return -ENOMEM;
    for (unsigned n = 0; n < IOAPIC_PINS; n++) {
        if (n == ISA_CASCADE)
            continue;
        if (n < ISA_IRQS)
            route_add(r, n, n < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                      n % PIC_PINS);
        route_add(r, n, KVM_IRQCHIP_IOAPIC, n == IRQ_PIT ? IOAPIC_PIT_PIN : n);
    }
    for (unsigned i = 0; i < k->msis; i++)
        if (k->irqfd[i].msi.used)
            route_add_msi(r, KVM_MSI_GSI + i, &k->irqfd[i].msi);
    if (ioctl(k->fd, KVM_SET_GSI_ROUTING, r) < 0)
        code = -errno;
    free(r);
    return code;
}

static int msi_route_set(struct kvm_vm *k, unsigned slot, const struct kvm_msi_route *m)
{
    const struct kvm_msi_route was = k->irqfd[slot].msi;
    int code;

    k->irqfd[slot].msi = *m;
    if (slot >= k->msis)
        k->msis = slot + 1;
    code = routes_set(k);
    if (code < 0)
        k->irqfd[slot].msi = was;
    return code;
}

static int irqfd_set(struct kvm_vm *k, int fd, unsigned gsi, bool on)
{
    struct kvm_irqfd irqfd = {
        .fd = (uint32_t)fd, .gsi = gsi, .flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

    return ioctl(k->fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

/* The descriptor's GSI is that of its route, or that of its line. */
static int chip_irqfd(struct vm *vm, unsigned slot, int fd, const struct irqevent *ev)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_msi_route route = {0};
    struct kvm_irqfd_slot *s;
    bool had;
    int code;

    if (!k->irqfd)
        k->irqfd = calloc(IRQEVENT_MAX, sizeof(*k->irqfd));
    if (!k->irqfd)
        return -ENOMEM;
    s = &k->irqfd[slot];
    had = s->on;
    if (!ev) {
        irqfd_set(k, fd, s->gsi, false);
        s->on = false;
        return k->irqfd[slot].msi.used ? msi_route_set(k, slot, &route) : 0;
    }
    if (ev->msi) {
        route = (struct kvm_msi_route){true, ev->addr, ev->data};
        code = msi_route_set(k, slot, &route);
        if (code < 0 || had)
            return code;
    }
    s->gsi = ev->msi ? KVM_MSI_GSI + slot : ev->irq;
    code = irqfd_set(k, fd, s->gsi, true);
    s->on = !code;
    if (code < 0)
        k->irqfd[slot].msi.used = false; /* goes with the next change */
    return code;
}

/* ---- Making ------------------------------------------------------------- */

int kvm_irqchip_init(struct vm *vm, struct err *err)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    int r;

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
    r = routes_set(k);
    return r < 0 ? err_set(err, r, "KVM cannot route interrupts: %s", strerror(-r)) : 0;
}

/* Virtual wire mode on the boot CPU, as src/x86/lapic.c has it after RESET. */
static void lapic_as_firmware_leaves_it(struct kvm_lapic_state *k)
{
    struct lapic_state s = {0};

    kvm_lapic_to_state(k, &s);
    s.reg[LAPIC_SVR] = 0x1ff;
    s.reg[LAPIC_LINT0] = 0x700; /* ExtINT */
    s.reg[LAPIC_LINT1] = 0x400; /* NMI */
    kvm_lapic_from_state(&s, k);
}

int kvm_irqchip_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    struct kvm_cpu *c = vcpu->engine;
    struct kvm_sregs s;

    if (ioctl(c->fd, KVM_GET_LAPIC, &c->lapic) < 0 || ioctl(c->fd, KVM_GET_SREGS, &s) < 0)
        return chip_fail(err, "read a local APIC");
    c->apic_base = s.apic_base;
    if (vcpu->id == 0)
        lapic_as_firmware_leaves_it(&c->lapic);
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

/* ---- Canonical state ---------------------------------------------------- */

static uint64_t monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int chip_save(struct vm *vm, struct chips_state *s)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_irqchip chip[KVM_CHIPS] = {0};
    struct kvm_pit_state2 pit;

    for (unsigned i = 0; i < KVM_CHIPS; i++) {
        chip[i].chip_id = i;
        if (ioctl(k->fd, KVM_GET_IRQCHIP, &chip[i]) < 0)
            return -errno;
    }
    if (ioctl(k->fd, KVM_GET_PIT2, &pit) < 0)
        return -errno;
    kvm_pic_to_state(&chip[KVM_IRQCHIP_PIC_MASTER].chip.pic, &s->pic.chip[0]);
    kvm_pic_to_state(&chip[KVM_IRQCHIP_PIC_SLAVE].chip.pic, &s->pic.chip[1]);
    kvm_ioapic_to_state(&chip[KVM_IRQCHIP_IOAPIC].chip.ioapic, &s->ioapic);
    kvm_pit_to_state(&pit, monotonic_ns(), &s->pit);
    return 0;
}

/*
 * KVM also keeps what each source drives a line to, which no structure
 * carries: level-triggered lines that are high are driven once more. For an
 * edge that would be one too many, and its fall changes nothing.
 */
static int chip_load(struct vm *vm, const struct chips_state *s)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_irqchip chip[KVM_CHIPS] = {0};
    struct kvm_pit_state2 pit;

    kvm_pic_from_state(&s->pic.chip[0], false, &chip[KVM_IRQCHIP_PIC_MASTER].chip.pic);
    kvm_pic_from_state(&s->pic.chip[1], true, &chip[KVM_IRQCHIP_PIC_SLAVE].chip.pic);
    kvm_ioapic_from_state(&s->ioapic, &chip[KVM_IRQCHIP_IOAPIC].chip.ioapic);
    kvm_pit_from_state(&s->pit, monotonic_ns(), &pit);
    if (ioctl(k->fd, KVM_SET_PIT2, &pit) < 0)
        return -errno;
    for (unsigned i = 0; i < KVM_CHIPS; i++) {
        chip[i].chip_id = i;
        if (ioctl(k->fd, KVM_SET_IRQCHIP, &chip[i]) < 0)
            return -errno;
    }
    for (unsigned n = 0; n < ISA_IRQS; n++)
        if (n != IRQ_PIT && n != ISA_CASCADE &&
            (chip[KVM_IRQCHIP_IOAPIC].chip.ioapic.irr & 1u << n))
            chip_set_isa(vm, n, true);
    return 0;
}

static int lapic_save_kvm(struct vcpu *vcpu, struct lapic_state *s)
{
    struct kvm_cpu *c = vcpu->engine;
    struct kvm_lapic_state k;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events ev;

    memset(s, 0, sizeof(*s));
    if (ioctl(c->fd, KVM_GET_SREGS, &sregs) < 0 || ioctl(c->fd, KVM_GET_LAPIC, &k) < 0 ||
        ioctl(c->fd, KVM_GET_VCPU_EVENTS, &ev) < 0)
        return -errno;
    kvm_lapic_to_state(&k, s);
    s->base = sregs.apic_base;
    if (!kvm_msr_take(c, MSR_TSC_DEADLINE, &s->tsc_deadline))
        s->tsc_deadline = 0;
    if (ev.interrupt.injected && !ev.interrupt.soft)
        kvm_lapic_unack(s, ev.interrupt.nr);
    return 0;
}

static int lapic_load_kvm(struct vcpu *vcpu, const struct lapic_state *s)
{
    struct kvm_cpu *c = vcpu->engine;
    struct kvm_lapic_state k;
    struct kvm_sregs sregs;

    kvm_lapic_from_state(s, &k);
    if (ioctl(c->fd, KVM_GET_SREGS, &sregs) < 0)
        return -errno;
    sregs.apic_base = s->base;
    sregs.cr8 = s->reg[LAPIC_TPR] >> 4 & 0xf;
    if (ioctl(c->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(c->fd, KVM_SET_LAPIC, &k) < 0)
        return -errno;
    if (s->tsc_deadline && !kvm_msr_put(c, MSR_TSC_DEADLINE, s->tsc_deadline))
        return -EINVAL;
    return 0;
}

const struct irqchip_ops kvm_irqchip = {
    .set_isa = chip_set_isa,
    .msi = chip_msi,
    .reset = chip_reset,
    .save = chip_save,
    .load = chip_load,
    .save_lapic = lapic_save_kvm,
    .load_lapic = lapic_load_kvm,
    .irqfd = chip_irqfd,
};
