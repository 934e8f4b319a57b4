/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who gets an interrupt message: destinations, shorthands, devices (SDM vol. 3, 10.6, 10.11). */
#include "x86/lapic_internal.h"

#define BROADCAST 0xffffffffu

#define ICR_LOGICAL      (1u << 11)
#define ICR_ASSERT       (1u << 14)
#define ICR_LEVEL        (1u << 15)
#define ICR_SHORTHAND(v) (((v) >> 18) & 3u)

enum shorthand { SHORT_NONE, SHORT_SELF, SHORT_ALL, SHORT_OTHERS };

struct destination {
    uint32_t id; /* BROADCAST: everyone */
    bool logical;
};

static struct lapic *vm_lapic(struct vm *vm, unsigned i)
{
    return vm->vcpus[i].lapic;
}

/* SDM 10.6.2.2 and 10.12.10.2 */
static bool logical_match(const struct lapic *l, uint32_t mda)
{
    uint32_t ldr = l->ldr;

    if (mda == BROADCAST)
        return true;
    if (lapic_is_x2apic(l))
        return mda >> 16 == ldr >> 16 && (mda & ldr & 0xffff);
    ldr >>= 24;
    if (l->dfr >> 28 == 0xf)
        return mda & ldr & 0xff;
    return (mda & 0xf0) == (ldr & 0xf0) && (mda & ldr & 0xf);
}

static bool destination_match(const struct lapic *l, struct destination d)
{
    if (!l || !lapic_is_enabled(l))
        return false;
    if (d.logical)
        return logical_match(l, d.id);
    return d.id == BROADCAST || d.id == l->vcpu->id;
}

/*
 * Lowest priority: of the APICs that would accept, one with the lowest task
 * priority; among equals the vector decides, so that sources spread.
 */
static void deliver_lowest(struct vm *vm, struct destination d, struct lapic_message msg)
{
    struct lapic *best[VM_MAX_CPUS];
    uint32_t lowest = 0x100;
    unsigned n = 0;

    for (unsigned i = 0; i < vm->cfg.cpus && i < VM_MAX_CPUS; i++) {
        struct lapic *l = vm_lapic(vm, i);
        uint32_t prio;

        if (!destination_match(l, d) || !(l->svr & SVR_ENABLE))
            continue;
        prio = l->tpr >> 4;
        if (prio < lowest) {
            lowest = prio;
            n = 0;
        }
        if (prio == lowest)
            best[n++] = l;
    }
    if (n)
        lapic_accept(best[msg.vector % n], msg);
}

static void deliver(struct vm *vm, struct destination d, struct lapic_message msg)
{
    if (msg.mode == MODE_LOWEST) {
        deliver_lowest(vm, d, msg);
        return;
    }
    if (!d.logical && d.id != BROADCAST) {
        if (d.id < vm->cfg.cpus && destination_match(vm_lapic(vm, d.id), d))
            lapic_accept(vm_lapic(vm, d.id), msg);
        return;
    }
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        if (destination_match(vm_lapic(vm, i), d))
            lapic_accept(vm_lapic(vm, i), msg);
}

static void deliver_others(struct lapic *self, struct lapic_message msg)
{
    struct vm *vm = self->vcpu->vm;
    struct destination all = {.id = BROADCAST};

    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        if (vm_lapic(vm, i) != self && destination_match(vm_lapic(vm, i), all))
            lapic_accept(vm_lapic(vm, i), msg);
}

void lapic_icr_send(struct lapic *l, uint32_t icr, uint32_t dest)
{
    struct lapic_message msg = {.vector = (uint8_t)icr, .mode = (icr >> 8) & 7};
    struct destination d = {.id = dest, .logical = icr & ICR_LOGICAL};
    unsigned shorthand = ICR_SHORTHAND(icr);
    bool fixed = msg.mode == MODE_FIXED || msg.mode == MODE_LOWEST;

    if (msg.mode == MODE_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
        return; /* INIT level de-assert: nothing since the Pentium 4 */
    if (msg.mode == MODE_RESERVED || msg.mode == MODE_EXTINT)
        return;
    if (fixed && msg.vector < 16) {
        lapic_error(l, ESR_SEND_VECTOR);
        return;
    }
    if (!lapic_is_x2apic(l) && dest == 0xff)
        d.id = BROADCAST;
    switch (shorthand) {
    case SHORT_SELF: /* these two are for fixed delivery only (SDM table 10-3) */
        if (fixed)
            lapic_accept(l, msg);
        break;
    case SHORT_ALL:
        if (fixed)
            deliver(l->vcpu->vm, (struct destination){.id = BROADCAST}, msg);
        break;
    case SHORT_OTHERS:
        deliver_others(l, msg);
        break;
    default:
        deliver(l->vcpu->vm, d, msg);
    }
}

void lapic_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    struct lapic_message msg = {
        .vector = (uint8_t)data,
        .mode = (data >> 8) & 7,
        .level = data & ICR_LEVEL,
    };
    struct destination d = {.id = (addr >> 12) & 0xff, .logical = addr & (1u << 2)};

    if (addr >> 20 != 0xfee)
        return;
    if (msg.level && !(data & ICR_ASSERT))
        return;
    if (msg.mode == MODE_SIPI)
        return; /* reserved in messages */
    if (d.id == 0xff)
        d.id = BROADCAST;
    if ((addr & (1u << 3)) && d.logical && msg.mode == MODE_FIXED)
        msg.mode = MODE_LOWEST; /* redirection hint */
    deliver(vm, d, msg);
}

long lapic_pv_ipi(struct vm *vm, uint64_t lo, uint64_t hi, uint32_t min, uint32_t icr)
{
    struct lapic_message msg = {.vector = (uint8_t)icr, .mode = (icr >> 8) & 7};
    long count = 0;

    if (icr & ICR_LOGICAL || ICR_SHORTHAND(icr) != SHORT_NONE)
        return -22; /* KVM_EINVAL */
    if (msg.mode != MODE_FIXED && msg.mode != MODE_NMI)
        return -22;
    for (unsigned i = 0; i < 128; i++) {
        uint64_t id = (uint64_t)min + i;
        struct lapic *l;

        if (!((i < 64 ? lo >> i : hi >> (i - 64)) & 1) || id >= vm->cfg.cpus)
            continue;
        l = vm_lapic(vm, (unsigned)id);
        if (l && lapic_is_enabled(l) && lapic_accept(l, msg))
            count++;
    }
    return count;
}
