/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/machine.h"

#include <errno.h>
#include <stdlib.h>

#include "block/block.h"
#include "core/devices.h"
#include "core/ioevent.h"
#include "core/irq.h"
#include "dev/pci/pci.h"
#include "dev/serial.h"
#include "dev/testdev.h"
#include "engine/engine.h"
#include "x86/acpipm.h"
#include "x86/ioapic.h"
#include "x86/lapic.h"
#include "x86/msr.h"
#include "x86/pci_window.h"
#include "x86/pic.h"
#include "x86/pit.h"
#include "x86/platform.h"
#include "x86/rtc.h"

#define ISA_IRQS       16
#define ISA_CASCADE    2 /* the second 8259A sits there */
#define IOAPIC_PIT_PIN 2

struct machine {
    struct vm *vm;
    struct pic *pic;
    struct ioapic *ioapic;
    struct pit *pit;
    struct rtc *rtc;
    struct acpipm *acpipm;
    struct serial *com1;
    struct testdev *test; /* with cfg.test_devices */
    struct pci_bus pci;
    struct pci_device pci_host;
    struct devices *devices;
    unsigned built; /* parts[] made so far */
    pthread_mutex_t isa_lock;
    uint32_t isa_levels;  /* what the devices drive */
    uint32_t isa_missed;  /* rose while there was no controller */
    bool isa_unconnected; /* the controllers are on their way from one engine to another */
    struct {
        struct irq_line pic, ioapic;
    } isa[ISA_IRQS];
};

struct machine_part {
    const char *name;
    int (*init)(struct machine *m, struct err *err);
    void (*fini)(struct machine *m); /* also after a failed init */
    void (*reset)(struct machine *m);
    void (*pause)(struct machine *m), (*resume)(struct machine *m); /* see machine_pause */
    bool irqchip; /* not made where the engine has its own */
};

/* ---- ISA interrupts: every line reaches the 8259A pair and the I/O APIC --- */

static void isa_drive_locked(struct machine *m, unsigned n, bool level)
{
    const struct irqchip_ops *chip = m->vm->engine->irqchip;

    if (chip) {
        chip->set_isa(m->vm, n, level);
    } else {
        irq_set(m->isa[n].pic, level);
        irq_set(m->isa[n].ioapic, level);
    }
}

static void isa_set(void *opaque, unsigned n, bool level)
{
    struct machine *m = opaque;
    uint32_t bit = 1u << n;

    pthread_mutex_lock(&m->isa_lock);
    if (m->isa_unconnected)
        m->isa_missed |= level && !(m->isa_levels & bit) ? bit : 0;
    else
        isa_drive_locked(m, n, level);
    m->isa_levels = level ? m->isa_levels | bit : m->isa_levels & ~bit;
    pthread_mutex_unlock(&m->isa_lock);
}

static void isa_disconnect(struct machine *m)
{
    pthread_mutex_lock(&m->isa_lock);
    m->isa_unconnected = true;
    m->isa_missed = 0;
    pthread_mutex_unlock(&m->isa_lock);
}

/* The controllers know the levels as of isa_disconnect; what has changed since is driven now. */
static void isa_connect(struct machine *m, uint32_t known)
{
    pthread_mutex_lock(&m->isa_lock);
    m->isa_unconnected = false;
    for (unsigned n = 0; n < ISA_IRQS; n++) {
        uint32_t bit = 1u << n;

        if (m->isa_missed & bit) {
            isa_drive_locked(m, n, false);
            isa_drive_locked(m, n, true);
        }
        if ((m->isa_missed | known) & ~m->isa_levels & bit)
            isa_drive_locked(m, n, false);
    }
    pthread_mutex_unlock(&m->isa_lock);
}

static const struct irq_line_ops isa_ops = {.set = isa_set};

static struct irq_line isa_irq(struct machine *m, unsigned n)
{
    return (struct irq_line){&isa_ops, m, n};
}

static int isa_init(struct machine *m, struct err *err)
{
    for (unsigned n = 0; n < ISA_IRQS; n++) {
        if (n == ISA_CASCADE)
            continue;
        m->isa[n].pic = pic_pin(m->pic, n);
        m->isa[n].ioapic = ioapic_pin(m->ioapic, n == IRQ_PIT ? IOAPIC_PIT_PIN : n);
    }
    return 0;
}

static void isa_fini(struct machine *m)
{
    for (unsigned n = 0; n < ISA_IRQS; n++)
        m->isa[n].pic = m->isa[n].ioapic = (struct irq_line){0};
}

/* ---- Interrupt controllers ---------------------------------------------- */

static int part_pic_init(struct machine *m, struct err *err)
{
    return pic_new(&m->pic, m->vm, err);
}

static void part_pic_fini(struct machine *m)
{
    bus_unmap(&m->vm->pio, m->pic);
    if (m->pic)
        pic_free(m->pic);
    m->pic = NULL;
}

static void part_pic_reset(struct machine *m)
{
    pic_reset(m->pic);
}

static int part_ioapic_init(struct machine *m, struct err *err)
{
    return ioapic_new(&m->ioapic, m->vm, err);
}

static void part_ioapic_fini(struct machine *m)
{
    bus_unmap(&m->vm->mmio, m->ioapic);
    if (m->ioapic)
        ioapic_free(m->ioapic);
    m->ioapic = NULL;
}

static void part_ioapic_reset(struct machine *m)
{
    ioapic_reset(m->ioapic);
}

static int part_lapics_init(struct machine *m, struct err *err)
{
    struct vm *vm = m->vm;

    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        int rc = lapic_new(&vm->vcpus[i].lapic, &vm->vcpus[i], i == 0 ? m->pic : NULL, err);

        if (rc < 0)
            return rc;
        lapic_set_eoi_handler(vm->vcpus[i].lapic, ioapic_eoi, m->ioapic);
    }
    pic_connect(m->pic, lapic_lint0(vm->vcpus[0].lapic));
    return 0;
}

static void part_lapics_fini(struct machine *m)
{
    struct vm *vm = m->vm;

    pic_connect(m->pic, (struct irq_line){0});
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        if (vm->vcpus[i].lapic)
            lapic_free(vm->vcpus[i].lapic);
        vm->vcpus[i].lapic = NULL;
    }
}

static void part_lapics_reset(struct machine *m)
{
    for (unsigned i = 0; i < m->vm->cfg.cpus; i++)
        lapic_reset(m->vm->vcpus[i].lapic);
}

/* ---- Per-CPU machine MSRs ------------------------------------------------ */

static int part_msrs_init(struct machine *m, struct err *err)
{
    for (unsigned i = 0; i < m->vm->cfg.cpus; i++) {
        int rc = msr_state_new(&m->vm->vcpus[i].msrs, &m->vm->vcpus[i], err);

        if (rc < 0)
            return rc;
    }
    return 0;
}

static void part_msrs_fini(struct machine *m)
{
    for (unsigned i = 0; i < m->vm->cfg.cpus; i++) {
        if (m->vm->vcpus[i].msrs)
            msr_state_free(m->vm->vcpus[i].msrs);
        m->vm->vcpus[i].msrs = NULL;
    }
}

static void part_msrs_reset(struct machine *m)
{
    for (unsigned i = 0; i < m->vm->cfg.cpus; i++)
        msr_state_reset(m->vm->vcpus[i].msrs);
}

/* ---- Devices ------------------------------------------------------------- */

static int part_pit_init(struct machine *m, struct err *err)
{
    return pit_new(&m->pit, m->vm, isa_irq(m, IRQ_PIT), err);
}

static void part_pit_fini(struct machine *m)
{
    bus_unmap(&m->vm->pio, m->pit);
    if (m->pit)
        pit_free(m->pit);
    m->pit = NULL;
}

static void part_pit_reset(struct machine *m)
{
    pit_reset(m->pit);
}

static int part_rtc_init(struct machine *m, struct err *err)
{
    return rtc_new(&m->rtc, m->vm, isa_irq(m, IRQ_RTC), err);
}

static void part_rtc_fini(struct machine *m)
{
    if (m->rtc)
        rtc_free(m->rtc);
    m->rtc = NULL;
}

static void part_rtc_reset(struct machine *m)
{
    rtc_reset(m->rtc);
}

static int part_acpipm_init(struct machine *m, struct err *err)
{
    return acpipm_new(&m->acpipm, m->vm, isa_irq(m, IRQ_SCI), err);
}

static void part_acpipm_fini(struct machine *m)
{
    if (m->acpipm)
        acpipm_free(m->acpipm);
    m->acpipm = NULL;
}

static void part_acpipm_reset(struct machine *m)
{
    acpipm_reset(m->acpipm);
}

static int part_com1_init(struct machine *m, struct err *err)
{
    const struct vm_config *cfg = &m->vm->cfg;
    struct serial_ends ends = {.in = cfg->hvc ? -1 : cfg->serial_in,
                               .out = cfg->serial_out,
                               .tap = cfg->serial_tap,
                               .opaque = cfg->serial_tap_opaque};

    return serial_new(&m->com1, &m->vm->pio, PIO_COM1, isa_irq(m, IRQ_COM1), &ends, err);
}

static void part_com1_fini(struct machine *m)
{
    if (m->com1)
        serial_free(m->com1);
    m->com1 = NULL;
}

static void part_com1_reset(struct machine *m)
{
    serial_reset(m->com1);
}

/* ---- PCI ------------------------------------------------------------------- */

static void pci_msi(void *opaque, uint64_t addr, uint32_t data)
{
    machine_msi(opaque, addr, data);
}

/* Where there is no room for another, or the guest has put two in one place, the device's handler does it. */
static void pci_doorbell(void *opaque, uint64_t addr, int fd, const struct doorbell_now *now,
                         bool on)
{
    struct ioevent ev = {.addr = addr, .fd = fd, .now = *now};

    if (on)
        ioevent_add(opaque, &ev, NULL);
    else
        ioevent_remove(opaque, &ev);
}

/* The host bridge is function 0 of slot 0 and has nothing but its identity: an i440FX, without what is behind one. */
static int part_pci_host_init(struct machine *m, struct err *err)
{
    static const struct pci_ident i440fx = {
        .vendor = 0x8086, .device = 0x1237, .revision = 2, .class = 0x060000};

    return pci_device_init(&m->pci_host, &m->pci, 0, &i440fx, NULL, NULL, err);
}

static int part_pci_init(struct machine *m, struct err *err)
{
    struct vm *vm = m->vm;
    gpa_t high = pci_high_base(&vm->mem);
    struct pci_bus_config cfg = {
        .mmio = &vm->mmio,
        .window = {{PCI_LOW_BASE, PCI_LOW_SIZE}, {high, high ? PCI_HIGH_SIZE : 0}},
        .msi = pci_msi,
        .doorbell = pci_doorbell,
        .opaque = vm,
    };
    int rc;

    for (unsigned n = 0; n < PCI_LINKS; n++) {
        cfg.link_irq[n] = IRQ_PCI(n);
        cfg.link[n] = isa_irq(m, IRQ_PCI(n));
    }
    rc = pci_bus_init(&m->pci, &cfg, err);
    if (!rc)
        rc = bus_map(&vm->pio, PIO_PCI_DATA, 4, &pci_data_ops, &m->pci, "pci-config", err);
    if (!rc)
        rc = bus_map(&vm->mmio, MMIO_PCI_CONFIG, MMIO_PCI_CONFIG_SIZE, &pci_config_ops, &m->pci,
                     "pci-config", err);
    if (rc < 0)
        return rc;
    acpipm_set_pci(m->acpipm, &pci_address_ops, &m->pci);
    return part_pci_host_init(m, err);
}

static void part_pci_fini(struct machine *m)
{
    pci_device_fini(&m->pci_host);
    acpipm_set_pci(m->acpipm, NULL, NULL);
    bus_unmap(&m->vm->pio, &m->pci);
    pci_bus_fini(&m->pci);
}

static void part_pci_reset(struct machine *m)
{
    pci_bus_reset(&m->pci);
}

static int part_devices_init(struct machine *m, struct err *err)
{
    return devices_new(&m->devices, m->vm, &m->pci, err);
}

static void part_devices_fini(struct machine *m)
{
    devices_free(m->devices);
    m->devices = NULL;
}

static void part_devices_reset(struct machine *m)
{
    devices_reset(m->devices);
}

static void part_devices_pause(struct machine *m)
{
    devices_pause(m->devices);
}

static void part_devices_resume(struct machine *m)
{
    devices_resume(m->devices);
}

/* ---- Test devices ---------------------------------------------------------- */

static void test_exit(void *opaque, unsigned status)
{
    struct vm *vm = opaque;

    atomic_store(&vm->exit_status, status);
    vm_request(vm, VM_REQ_POWEROFF);
}

static int part_test_init(struct machine *m, struct err *err)
{
    struct testdev_config cfg = {
        .pio = &m->vm->pio, .mmio = &m->vm->mmio, .exit = test_exit, .opaque = m->vm, .vm = m->vm};

    if (!m->vm->cfg.test_devices)
        return 0;
    for (unsigned n = 0; n < TESTDEV_IRQS; n++) {
        if (n != ISA_CASCADE)
            cfg.irq[n] = isa_irq(m, n);
    }
    return testdev_new(&m->test, &cfg, err);
}

static void part_test_fini(struct machine *m)
{
    if (m->test)
        testdev_free(m->test);
    m->test = NULL;
}

static void part_test_reset(struct machine *m)
{
    if (m->test)
        testdev_reset(m->test);
}

/* ---- Assembly ------------------------------------------------------------ */

/* Built and reset from top to bottom, taken apart in reverse: interrupt sinks outlive their sources. */
static const struct machine_part parts[] = {
    {"msrs", part_msrs_init, part_msrs_fini, part_msrs_reset},
    {"pic", part_pic_init, part_pic_fini, part_pic_reset, .irqchip = true},
    {"ioapic", part_ioapic_init, part_ioapic_fini, part_ioapic_reset, .irqchip = true},
    {"lapics", part_lapics_init, part_lapics_fini, part_lapics_reset, .irqchip = true},
    {"isa", isa_init, isa_fini, NULL, .irqchip = true},
    {"pit", part_pit_init, part_pit_fini, part_pit_reset, .irqchip = true},
    {"rtc", part_rtc_init, part_rtc_fini, part_rtc_reset},
    {"acpipm", part_acpipm_init, part_acpipm_fini, part_acpipm_reset},
    {"com1", part_com1_init, part_com1_fini, part_com1_reset},
    {"pci", part_pci_init, part_pci_fini, part_pci_reset},
    {"devices", part_devices_init, part_devices_fini, part_devices_reset, part_devices_pause,
     part_devices_resume},
    {"test", part_test_init, part_test_fini, part_test_reset},
};

static bool part_wanted(const struct machine *m, const struct machine_part *part)
{
    return !part->irqchip || !m->vm->engine->irqchip;
}

int machine_new(struct vm *vm, struct err *err)
{
    struct machine *m = calloc(1, sizeof(*m));

    if (!m)
        return err_set(err, -ENOMEM, "no memory for the machine model");
    m->vm = vm;
    pthread_mutex_init(&m->isa_lock, NULL);
    vm->machine = m;
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        int rc = part_wanted(m, &parts[i]) ? parts[i].init(m, err) : 0;

        m->built = i + 1;
        if (rc < 0) {
            machine_free(vm);
            return rc;
        }
    }
    return 0;
}

void machine_free(struct vm *vm)
{
    struct machine *m = vm->machine;

    if (!m)
        return;
    while (m->built > 0) {
        m->built--;
        if (part_wanted(m, &parts[m->built]))
            parts[m->built].fini(m);
    }
    pthread_mutex_destroy(&m->isa_lock);
    free(m);
    vm->machine = NULL;
}

void machine_pause(struct vm *vm)
{
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (parts[i].pause)
            parts[i].pause(vm->machine);
}

void machine_resume(struct vm *vm)
{
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
        if (parts[i].resume)
            parts[i].resume(vm->machine);
}

/* Nothing that a device still has under way may interrupt the guest that comes. */
void machine_reset(struct vm *vm)
{
    machine_pause(vm);
    if (vm->engine->irqchip)
        vm->engine->irqchip->reset(vm);
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        if (parts[i].reset && part_wanted(vm->machine, &parts[i]))
            parts[i].reset(vm->machine);
    }
    machine_resume(vm);
}

void machine_isa_pulse(struct vm *vm, unsigned irq)
{
    irq_pulse(isa_irq(vm->machine, irq));
}

void machine_power_button(struct vm *vm)
{
    acpipm_power_button(vm->machine->acpipm);
}

void machine_generation(struct vm *vm)
{
    acpipm_generation(vm->machine->acpipm);
}

void machine_print_stats(struct vm *vm, FILE *out)
{
    devices_print_stats(vm->machine->devices, out);
}

struct net *machine_net(struct vm *vm, unsigned n)
{
    return devices_net(vm->machine->devices, n);
}

bool machine_disk_traffic(struct vm *vm, unsigned n, struct traffic *t)
{
    return devices_disk_traffic(vm->machine->devices, n, t);
}

bool machine_net_traffic(struct vm *vm, unsigned n, struct traffic *t)
{
    return devices_net_traffic(vm->machine->devices, n, t);
}

int machine_disk_limits(struct vm *vm, unsigned n, uint64_t limit[BLOCK_LIMITS])
{
    struct block *b = devices_disk(vm->machine->devices, n);

    if (b)
        block_get_limits(b, limit);
    return b ? 0 : -ENODEV;
}

int machine_disk_set_limits(struct vm *vm, unsigned n, const uint64_t limit[BLOCK_LIMITS],
                            struct err *err)
{
    struct block *b = devices_disk(vm->machine->devices, n);

    if (b)
        return block_set_limits(b, limit, err);
    err_set(err, -ENODEV, "the guest has no disk of the number %u", n);
    return err_next(err, "Disks are counted from 0, in the order of their options.");
}

int machine_net_rates(struct vm *vm, unsigned n, struct net_rates *rates)
{
    struct net_limit *l = devices_net_limit(vm->machine->devices, n);

    if (l)
        net_limit_get(l, rates);
    return l ? 0 : -ENODEV;
}

int machine_net_set_rates(struct vm *vm, unsigned n, const struct net_rates *rates, struct err *err)
{
    struct net_limit *l = devices_net_limit(vm->machine->devices, n);

    if (l) {
        net_limit_set(l, rates);
        return 0;
    }
    err_set(err, -ENODEV, "the guest has no network card of the number %u", n);
    return err_next(err, "Cards are counted from 0, in the order of their options.");
}

struct virtio_balloon *machine_balloon(struct vm *vm)
{
    return devices_balloon(vm->machine->devices);
}

void machine_console_resize(struct vm *vm, uint16_t cols, uint16_t rows)
{
    devices_console_resize(vm->machine->devices, cols, rows);
}

int machine_disk_overlay(struct vm *vm, unsigned n, const struct block_config *image,
                         struct err *err)
{
    return devices_disk_overlay(vm->machine->devices, n, image, err);
}

int machine_disk_sync(struct vm *vm, unsigned n)
{
    return devices_disk_sync(vm->machine->devices, n);
}

void machine_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    if (vm->engine->irqchip)
        vm->engine->irqchip->msi(vm, addr, data);
    else
        lapic_msi(vm, addr, data);
}

/* ---- Moving the interrupt controllers and the timer chip between engines --- */

static int chips_save(struct machine *m, struct machine_chips *s)
{
    struct vm *vm = m->vm;
    const struct irqchip_ops *ops = vm->engine->irqchip;
    int rc = 0;

    if (ops)
        rc = ops->save(vm, &s->chips);
    for (unsigned i = 0; !rc && i < vm->cfg.cpus; i++) {
        if (ops)
            rc = ops->save_lapic(&vm->vcpus[i], &s->lapics[i]);
        else
            lapic_save(vm->vcpus[i].lapic, &s->lapics[i]);
    }
    if (ops)
        return rc;
    ioapic_save(m->ioapic, &s->chips.ioapic);
    pic_save(m->pic, &s->chips.pic);
    pit_save(m->pit, &s->chips.pit);
    return 0;
}

int machine_chips_copy(struct vm *vm, struct machine_chips *s, struct err *err)
{
    struct machine *m = vm->machine;
    int rc = chips_save(m, s);

    pthread_mutex_lock(&m->isa_lock);
    s->isa_levels = m->isa_levels;
    pthread_mutex_unlock(&m->isa_lock);
    if (rc < 0)
        err_set(err, rc, "the %s engine does not give its interrupt controllers' state",
                vm->engine->name);
    return rc;
}

void machine_lines_hold(struct vm *vm)
{
    isa_disconnect(vm->machine);
}

void machine_lines_release(struct vm *vm, const struct machine_chips *s)
{
    isa_connect(vm->machine, s->isa_levels);
}

void machine_lines_settle(struct vm *vm, struct machine_chips *s)
{
    struct machine *m = vm->machine;

    pthread_mutex_lock(&m->isa_lock);
    /* The timer chip's is part of the controllers. */
    m->isa_levels = (m->isa_levels & ~(1u << IRQ_PIT)) | (s->isa_levels & 1u << IRQ_PIT);
    m->isa_missed = 0;
    s->isa_levels = m->isa_levels;
    pthread_mutex_unlock(&m->isa_lock);
}

struct machine_devices machine_devices(struct vm *vm)
{
    struct machine *m = vm->machine;

    return (struct machine_devices){m->rtc, m->acpipm, m->com1, m->test, &m->pci, m->devices};
}

int machine_chips_take(struct vm *vm, struct machine_chips *s, struct err *err)
{
    struct machine *m = vm->machine;
    int rc;

    isa_disconnect(m);
    s->isa_levels = m->isa_levels;
    rc = chips_save(m, s);
    if (rc < 0)
        return err_set(err, rc, "the %s engine does not give its interrupt controllers' state",
                       vm->engine->name);
    for (unsigned i = ARRAY_SIZE(parts); i-- > 0;) {
        if (parts[i].irqchip && part_wanted(m, &parts[i]))
            parts[i].fini(m);
    }
    return 0;
}

/* Lines that the source did not keep: the pins follow from what the devices drive. */
static void ioapic_lines(struct machine_chips *s)
{
    for (unsigned n = 0; n < ISA_IRQS; n++) {
        unsigned pin = n == IRQ_PIT ? IOAPIC_PIT_PIN : n;

        if (n == ISA_CASCADE)
            continue;
        if (s->isa_levels & 1u << n)
            s->chips.ioapic.lines |= 1u << pin;
        else
            s->chips.ioapic.lines &= ~(1u << pin);
    }
}

static int chips_load(struct machine *m, const struct machine_chips *s)
{
    struct vm *vm = m->vm;
    const struct irqchip_ops *ops = vm->engine->irqchip;
    int rc = 0;

    for (unsigned i = 0; !rc && i < vm->cfg.cpus; i++) {
        if (ops)
            rc = ops->load_lapic(&vm->vcpus[i], &s->lapics[i]);
        else
            lapic_load(vm->vcpus[i].lapic, &s->lapics[i]);
    }
    if (ops)
        return rc ? rc : ops->load(vm, &s->chips);
    pic_load(m->pic, &s->chips.pic);
    ioapic_load(m->ioapic, &s->chips.ioapic);
    pit_load(m->pit, &s->chips.pit);
    return 0;
}

int machine_chips_make(struct vm *vm, struct err *err)
{
    struct machine *m = vm->machine;

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        int rc = parts[i].irqchip && part_wanted(m, &parts[i]) ? parts[i].init(m, err) : 0;

        if (rc < 0)
            return rc;
    }
    return 0;
}

int machine_chips_give(struct vm *vm, struct machine_chips *s, struct err *err)
{
    int rc;

    ioapic_lines(s);
    rc = chips_load(vm->machine, s);
    if (rc < 0)
        return err_set(err, rc, "the %s engine does not take the interrupt controllers' state",
                       vm->engine->name);
    isa_connect(vm->machine, s->isa_levels);
    return 0;
}
