/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/snapshot.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "block/block.h"
#include "core/devices.h"
#include "core/generation.h"
#include "core/ioevent.h"
#include "core/machine.h"
#include "core/snapfile.h"
#include "core/snapshot_fields.h"
#include "dev/serial.h"
#include "dev/testdev.h"
#include "dev/virtio/pci.h"
#include "engine/engine.h"
#include "x86/acpipm.h"
#include "x86/cpuid.h"
#include "x86/msr.h"
#include "x86/rtc.h"
#include "x86/state.h"

#define EVENTS_SAVED (VCPU_EV_NMI | VCPU_EV_INIT | VCPU_EV_SIPI) /* the APIC posts its own again */
#define NMIS_MAX     2u /* a CPU takes one and holds the next */

/* All that a file holds, decoded; too large for a stack. */
struct snap_state {
    struct snap_clock clock;
    struct snap_pci pci;
    struct machine_chips chips;
    struct rtc_state rtc;
    struct acpipm_state acpipm;
    struct serial_state serial;
    struct testdev_state test;
    struct msr_saved msrs[VM_MAX_CPUS];
    struct snap_events events[VM_MAX_CPUS];
    struct x86_state *cpus; /* aligned, which malloc does not */
    unsigned devices;
    struct virtio_pci_state *device;
};

static void state_free(struct snap_state *s)
{
    if (s) {
        free(s->cpus);
        free(s->device);
    }
    free(s);
}

static struct snap_state *state_new(struct vm *vm, struct err *err)
{
    struct snap_state *s = calloc(1, sizeof(*s));
    size_t size = vm->cfg.cpus * sizeof(struct x86_state);
    bool ok = false;

    if (s) {
        while (devices_virtio(machine_devices(vm).devices, s->devices))
            s->devices++;
        s->cpus = aligned_alloc(_Alignof(struct x86_state), size);
        s->device = calloc(s->devices + 1, sizeof(*s->device));
        ok = s->cpus && s->device;
    }
    if (ok) {
        memset(s->cpus, 0, size);
        return s;
    }
    state_free(s);
    err_set(err, -ENOMEM, "no memory for the guest's state");
    return NULL;
}

/* ---- What must be the same --------------------------------------------------------- */

/* Signature and features, without what tells one CPU of a host from another (SDM volume 2, CPUID). */
static uint64_t processor(void)
{
    static const struct {
        uint32_t leaf, mask[4];
    } leaves[] = {
        {0, {0, ~0u, ~0u, ~0u}}, {1, {~0u, 0, ~0u, ~0u}},        {7, {0, ~0u, ~0u, 0}},
        {0xd, {~0u, 0, 0, ~0u}}, {0x80000001, {0, 0, ~0u, ~0u}},
    };
    uint32_t sum = 0, signature = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        uint32_t r[4] = {0};

        __get_cpuid_count(leaves[i].leaf, 0, &r[0], &r[1], &r[2], &r[3]);
        if (leaves[i].leaf == 1)
            signature = r[0];
        for (unsigned n = 0; n < 4; n++)
            r[n] &= leaves[i].mask[n];
        sum = crc32c(sum, r, sizeof(r));
    }
    return (uint64_t)signature << 32 | sum;
}

static void shape_of(struct vm *vm, struct snap_shape *s)
{
    const struct vm_config *cfg = &vm->cfg;

    memset(s, 0, sizeof(*s));
    s->cpus = cfg->cpus;
    s->model = cfg->cpu;
    s->memory = vm->mem.size;
    s->processor = processor();
    snprintf(s->engine, sizeof(s->engine), "%s", vm->engine->name);
    s->disks = cfg->disks;
    s->nets = cfg->nets;
    s->ports = cfg->ports;
    s->rng = cfg->rng;
    s->balloon = cfg->balloon;
    s->vsock = cfg->vsock != NULL;
    s->test = cfg->test_devices;
    for (unsigned n = 0; n < cfg->disks; n++)
        s->disk_size[n] = devices_disk(machine_devices(vm).devices, n)->info.size;
    for (unsigned n = 0; n < cfg->ports; n++)
        snprintf(s->port_name[n], sizeof(s->port_name[n]), "%s", cfg->port[n].name);
}

static int differs(struct err *err, const char *what, uint64_t saved, uint64_t here)
{
    err_set(err, -EINVAL, "the saved state is of a guest with %llu %s, and this one has %llu",
            (unsigned long long)saved, what, (unsigned long long)here);
    return err_next(err, "Start it with the options that the guest had when it was saved.");
}

/* The processor that the guest has seen is one of the host's, or one that only another engine shows. */
static int shape_check_cpu(const struct snap_shape *saved, const struct snap_shape *here,
                           struct err *err)
{
    bool anywhere = saved->model != CPU_HOST && saved->model != CPU_MAX;

    if (saved->model != here->model) {
        err_set(err, -EINVAL, "the saved state is of a guest with another model of CPU");
        return err_next(err, "Start it with the --cpu that the guest had when it was saved.");
    }
    if (anywhere || (saved->processor == here->processor &&
                     !memcmp(saved->engine, here->engine, sizeof(here->engine))))
        return 0;
    if (saved->processor != here->processor)
        err_set(err, -EINVAL, "the saved guest's CPU is that of another host");
    else
        err_set(err, -EINVAL, "the saved guest's CPU is one that the %.15s engine shows, not %s",
                saved->engine, here->engine);
    return err_next(err,
                    "Guests started with --cpu x86-64-v2 go on under every engine and on every "
                    "host that has that level.");
}

static int shape_check(const struct vm_config *cfg, const struct snap_shape *saved,
                       const struct snap_shape *here, struct err *err)
{
    const struct {
        const char *what;
        uint64_t saved, here;
    } numbers[] = {
        {"CPUs", saved->cpus, here->cpus},
        {"bytes of memory", saved->memory, here->memory},
        {"disks", saved->disks, here->disks},
        {"network cards", saved->nets, here->nets},
        {"ports", saved->ports, here->ports},
        {"entropy devices", saved->rng, here->rng},
        {"balloons", saved->balloon, here->balloon},
        {"vsocks", saved->vsock, here->vsock},
        {"test devices", saved->test, here->test},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        if (numbers[i].saved != numbers[i].here)
            return differs(err, numbers[i].what, numbers[i].saved, numbers[i].here);
    for (unsigned n = 0; n < here->disks; n++)
        if (saved->disk_size[n] != here->disk_size[n] &&
            !(cfg->origin->fork && cfg->disk[n].image.read_only))
            return differs(err, "bytes in one of its disks", saved->disk_size[n],
                           here->disk_size[n]);
    if (memcmp(saved->port_name, here->port_name, sizeof(here->port_name)))
        return err_set(err, -EINVAL, "the saved state is of a guest whose ports have other names");
    return shape_check_cpu(saved, here, err);
}

/* Which parts of the extended state the engine can hold: what lives in registers, or all that the host has. */
static uint64_t xcr0_max(const struct vm *vm)
{
    uint32_t a = 0, b, c, d = 0;

    if (!vm->engine->irqchip)
        return CPUID_XCR0_MASK | XCR0_PKRU;
    __get_cpuid_count(0xd, 0, &a, &b, &c, &d);
    return (uint64_t)d << 32 | a;
}

/* ---- Saving -------------------------------------------------------------------------- */

/* No more than what a CPU can have: others are lost on a real one, too. */
static void events_of(struct vcpu *vcpu, struct snap_events *e)
{
    uint32_t nmis = atomic_load(&vcpu->nmis);

    *e = (struct snap_events){.events = atomic_load(&vcpu->events) & EVENTS_SAVED,
                              .nmis = nmis < NMIS_MAX ? nmis : NMIS_MAX,
                              .sipi_vector = atomic_load(&vcpu->sipi_vector) & UINT8_MAX};
}

static int take_cpus(struct vm *vm, struct snap_state *s, struct err *err)
{
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        struct vcpu *vcpu = &vm->vcpus[i];
        const char *wrong;

        vm->engine->get(vcpu, &s->cpus[i]);
        msr_save(vcpu->msrs, &s->msrs[i]);
        events_of(vcpu, &s->events[i]);
        wrong = x86_state_check(&s->cpus[i], xcr0_max(vm));
        if (wrong)
            return err_set(err, -ENOTSUP, "CPU %u is in a state that cannot be saved: %s", i,
                           wrong);
    }
    return 0;
}

/*
 * Devices before controllers: an interrupt that comes in between is one too many then, and not one that is lost. And
 * before interrupts are kept back: devices' locks come before that of doorbells.
 */
static void take_devices(struct vm *vm, struct snap_state *s)
{
    struct machine_devices d = machine_devices(vm);

    s->clock =
        (struct snap_clock){clock_now_ns(&vm->clock), clock_tsc(&vm->clock), vm->clock.tsc_khz};
    rtc_save(d.rtc, &s->rtc);
    acpipm_save(d.acpipm, &s->acpipm);
    serial_save(d.com1, &s->serial);
    if (d.test)
        testdev_save(d.test, &s->test);
    s->pci.address = pci_bus_save(d.pci);
    for (unsigned n = 0; n < s->devices; n++)
        virtio_pci_save(devices_virtio(d.devices, n), &s->device[n]);
}

static int take_processors(struct vm *vm, struct snap_state *s, struct err *err)
{
    int code;

    ioevents_pause(vm);
    code = take_cpus(vm, s, err);
    if (!code)
        code = machine_chips_copy(vm, &s->chips, err);
    ioevents_resume(vm, true);
    return code;
}

static int state_write(struct vm *vm, const struct snap_state *s, int fd, struct err *err)
{
    struct snapfile_out out;
    struct snap_shape shape;

    shape_of(vm, &shape);
    snapfile_begin(&out);
    snapfile_add(&out, "machine", 0, snap_shape_fields, &shape);
    snapfile_add(&out, "clock", 0, snap_clock_fields, &s->clock);
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        snapfile_add(&out, "cpu", i, snap_cpu_fields, &s->cpus[i]);
        snapfile_add(&out, "msrs", i, snap_msrs_fields, &s->msrs[i]);
        snapfile_add(&out, "events", i, snap_events_fields, &s->events[i]);
        snapfile_add(&out, "lapic", i, snap_lapic_fields, &s->chips.lapics[i]);
    }
    snapfile_add(&out, "chips", 0, snap_chips_fields, &s->chips);
    snapfile_add(&out, "rtc", 0, snap_rtc_fields, &s->rtc);
    snapfile_add(&out, "acpi-pm", 0, snap_acpipm_fields, &s->acpipm);
    snapfile_add(&out, "serial", 0, snap_serial_fields, &s->serial);
    snapfile_add(&out, "pci", 0, snap_pci_fields, &s->pci);
    if (vm->cfg.test_devices)
        snapfile_add(&out, "test", 0, snap_testdev_fields, &s->test);
    for (unsigned n = 0; n < s->devices; n++)
        snapfile_add(&out, "virtio", devices_virtio(machine_devices(vm).devices, n)->pci.slot,
                     snap_virtio_fields, &s->device[n]);
    return snapfile_finish(&out, fd, err);
}

int vm_save(struct vm *vm, int fd, struct err *err)
{
    struct snap_state *s = state_new(vm, err);
    int code;

    if (!s)
        return -ENOMEM;
    clock_stop(&vm->clock);
    take_devices(vm, s);
    code = take_processors(vm, s, err);
    clock_go(&vm->clock);
    if (!code)
        code = state_write(vm, s, fd, err);
    state_free(s);
    return code;
}

/* ---- Restoring ------------------------------------------------------------------------ */

static int read_cpus(struct vm *vm, struct snap_state *s, struct snapfile *f, struct err *err)
{
    int code = 0;

    for (unsigned i = 0; !code && i < vm->cfg.cpus; i++) {
        const char *wrong;

        code = snapfile_get(f, "cpu", i, snap_cpu_fields, &s->cpus[i], err);
        if (!code)
            code = snapfile_get(f, "msrs", i, snap_msrs_fields, &s->msrs[i], err);
        if (!code)
            code = snapfile_get(f, "events", i, snap_events_fields, &s->events[i], err);
        if (!code)
            code = snapfile_get(f, "lapic", i, snap_lapic_fields, &s->chips.lapics[i], err);
        if (code)
            break;
        wrong = x86_state_check(&s->cpus[i], xcr0_max(vm));
        if (wrong)
            code = err_set(err, -EINVAL, "the saved state of CPU %u cannot be right: %s", i, wrong);
    }
    return code;
}

static int read_devices(struct vm *vm, struct snap_state *s, struct snapfile *f, struct err *err)
{
    struct machine_devices d = machine_devices(vm);
    const struct {
        const char *name;
        const struct field *fields;
        void *to;
    } sections[] = {
        {"clock", snap_clock_fields, &s->clock},    {"chips", snap_chips_fields, &s->chips},
        {"rtc", snap_rtc_fields, &s->rtc},          {"acpi-pm", snap_acpipm_fields, &s->acpipm},
        {"serial", snap_serial_fields, &s->serial}, {"pci", snap_pci_fields, &s->pci},
    };
    int code = 0;

    for (unsigned i = 0; !code && i < ARRAY_SIZE(sections); i++)
        code = snapfile_get(f, sections[i].name, 0, sections[i].fields, sections[i].to, err);
    if (!code && d.test)
        code = snapfile_get(f, "test", 0, snap_testdev_fields, &s->test, err);
    for (unsigned n = 0; !code && n < s->devices; n++)
        code = snapfile_get(f, "virtio", devices_virtio(d.devices, n)->pci.slot, snap_virtio_fields,
                            &s->device[n], err);
    return code;
}

static int state_read(struct vm *vm, struct snap_state *s, int fd, struct err *err)
{
    struct snap_shape saved, here;
    struct snapfile f;
    int code = snapfile_read(&f, fd, err);

    if (code < 0)
        return code;
    shape_of(vm, &here);
    code = snapfile_get(&f, "machine", 0, snap_shape_fields, &saved, err);
    if (!code)
        code = shape_check(&vm->cfg, &saved, &here, err);
    if (!code)
        code = read_devices(vm, s, &f, err);
    if (!code)
        code = read_cpus(vm, s, &f, err);
    if (!code)
        code = snapfile_all_used(&f, err);
    snapfile_fini(&f);
    return code;
}

static int refuse(struct err *err, const char *part)
{
    return err_set(err, -EINVAL, "the saved state of the %s cannot be right", part);
}

static int give_devices(struct vm *vm, const struct snap_state *s, struct err *err)
{
    struct machine_devices d = machine_devices(vm);
    int code = 0;

    if (rtc_load(d.rtc, &s->rtc) < 0)
        return refuse(err, "clock on the battery");
    acpipm_load(d.acpipm, &s->acpipm);
    if (serial_load(d.com1, &s->serial) < 0)
        return refuse(err, "serial port");
    if (d.test)
        testdev_load(d.test, &s->test);
    pci_bus_load(d.pci, s->pci.address);
    for (unsigned i = 0; i < vm->cfg.cpus; i++)
        if (msr_load(vm->vcpus[i].msrs, &s->msrs[i]) < 0)
            return refuse(err, "CPUs' MSRs");
    for (unsigned n = 0; !code && n < s->devices; n++)
        code = virtio_pci_load(devices_virtio(d.devices, n), &s->device[n], err);
    return code;
}

static int give_clock(struct vm *vm, const struct snap_clock *c, struct err *err)
{
    if (!clock_put(&vm->clock, c->now_ns, c->tsc, c->tsc_khz))
        return 0;
    err_set(err, -EINVAL,
            "the saved guest's time stamp counter runs at %llu kHz, that of this host at %llu",
            (unsigned long long)c->tsc_khz, (unsigned long long)vm->clock.tsc_khz);
    return err_next(err, "It goes on only on a host whose counter runs like that of the first.");
}

static int give_cpus(struct vm *vm, const struct snap_state *s, struct err *err)
{
    int code = 0;

    for (unsigned i = 0; !code && i < vm->cfg.cpus; i++) {
        struct vcpu *vcpu = &vm->vcpus[i];

        code = vm_set_cpu(vm, i, &s->cpus[i], err);
        atomic_store(&vcpu->nmis, s->events[i].nmis);
        atomic_store(&vcpu->sipi_vector, s->events[i].sipi_vector);
        atomic_store(&vcpu->events, s->events[i].events);
    }
    return code;
}

/*
 * Devices first, while their lines are only noted and no timer fires; then time runs again, which the CPUs' TSC and with
 * it the controllers' deadlines depend on.
 */
static int state_give(struct vm *vm, struct snap_state *s, struct err *err)
{
    int code;

    clock_stop(&vm->clock);
    machine_lines_hold(vm);
    code = give_clock(vm, &s->clock, err);
    if (!code)
        code = give_devices(vm, s, err);
    machine_lines_settle(vm, &s->chips);
    clock_go(&vm->clock);
    if (code)
        return code;
    code = give_cpus(vm, s, err);
    return code ? code : machine_chips_give(vm, &s->chips, err);
}

int vm_restore(struct vm *vm, struct err *err)
{
    struct snap_state *s = state_new(vm, err);
    int code;

    if (!s)
        return -ENOMEM;
    code = state_read(vm, s, vm->cfg.origin->state_fd, err);
    if (!code) {
        machine_reset(vm);
        machine_pause(vm);
        code = state_give(vm, s, err);
        machine_resume(vm);
    }
    if (!code && vm->cfg.origin->fork)
        devices_disks_changed(machine_devices(vm).devices);
    if (!code && (code = generation_change(vm)) < 0)
        err_set(err, code, "cannot give the guest a generation ID: %s", strerror(-code));
    state_free(s);
    return code;
}
