/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The KVM engine as core sees it: virtual machines and CPUs made of /dev/kvm's descriptors. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/host.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/probe.h"

static int kvm_fail(struct err *err, const char *what)
{
    int code = -errno;

    err_set(err, code, "KVM cannot %s: %s", what, strerror(-code));
    if (code == -ENOMEM)
        err_next(err, "Give the guest less memory or fewer CPUs.");
    return code;
}

/* ---- Virtual machine ---------------------------------------------------- */

static int kvm_check_cpus(int dev, unsigned cpus, struct err *err)
{
    int max = ioctl(dev, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

    if (max <= 0)
        max = ioctl(dev, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS);
    if (max <= 0 || cpus <= (unsigned)max)
        return 0;
    err_set(err, -E2BIG, "%u CPUs were asked for, but this kernel's KVM allows %d", cpus, max);
    return err_next(err, "Give --cpus %d or less.", max);
}

static int kvm_map_slots(struct vm *vm, uint32_t flags)
{
    for (unsigned i = 0; i < vm->mem.nslots; i++) {
        const struct mem_slot *s = &vm->mem.slots[i];
        struct kvm_userspace_memory_region region = {
            .slot = i,
            .flags = flags,
            .guest_phys_addr = s->base,
            .memory_size = s->size,
            .userspace_addr = (uintptr_t)(vm->mem.map + s->offset),
        };

        if (s->size && ioctl(kvm_of(vm)->fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
            return -errno;
    }
    return 0;
}

static int kvm_map_memory(struct vm *vm, struct err *err)
{
    return kvm_map_slots(vm, 0) < 0 ? kvm_fail(err, "take the guest's memory") : 0;
}

static int kvm_make_vm(struct vm *vm, struct err *err)
{
    struct kvm_vm *k = kvm_of(vm);
    struct kvm_enable_cap msrs = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
                                  .args = {KVM_MSR_EXIT_REASON_UNKNOWN}};
    uint64_t identity = KVM_IDENTITY_ADDR;
    int size, khz, r = kvm_check_cpus(k->dev, vm->cfg.cpus, err);

    if (r < 0)
        return r;
    size = ioctl(k->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run))
        return err_set(err, -ENOTSUP, "KVM shares %d bytes of a CPU's exits, too few", size);
    k->run_size = (size_t)size;
    k->supported = kvm_host_cpuid(k->dev);
    if (!k->supported)
        return kvm_fail(err, "say what CPUID it supports");
    k->fd = ioctl(k->dev, KVM_CREATE_VM, 0);
    if (k->fd < 0)
        return kvm_fail(err, "make a virtual machine");
    khz = ioctl(k->fd, KVM_GET_TSC_KHZ, 0); /* since Linux 5.18 */
    if (khz > 0)
        clock_tell_tsc_khz((uint64_t)khz);
    if (ioctl(k->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(k->fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR) < 0)
        return kvm_fail(err, "set aside pages of its own");
    if (ioctl(k->fd, KVM_ENABLE_CAP, &msrs) < 0)
        return kvm_fail(err, "leave MSRs to user space");
    r = kvm_map_memory(vm, err);
    return r ? r : kvm_irqchip_init(vm, err);
}

static void kvm_vm_fini(struct vm *vm)
{
    struct kvm_vm *k = kvm_of(vm);

    if (!k)
        return;
    if (k->fd >= 0)
        close(k->fd);
    if (k->dev >= 0)
        close(k->dev);
    free(k->supported);
    free(k->irqfd);
    free(k);
    vm->engine_data = NULL;
}

static int kvm_vm_init(struct vm *vm, struct err *err)
{
    struct kvm_vm *k = calloc(1, sizeof(*k));
    int r;

    if (!k)
        return err_set(err, -ENOMEM, "no memory for the KVM engine");
    vm->engine_data = k;
    k->fd = -1;
    k->dev = kvm_host_open(err);
    r = k->dev < 0 ? k->dev : kvm_make_vm(vm, err);
    if (r < 0)
        kvm_vm_fini(vm);
    return r;
}

/* ---- Virtual CPU -------------------------------------------------------- */

static void kvm_vcpu_fini(struct vcpu *vcpu)
{
    struct kvm_cpu *c = vcpu->engine;

    if (!c)
        return;
    if (c->run != MAP_FAILED)
        munmap(c->run, kvm_of(vcpu->vm)->run_size);
    if (c->fd >= 0)
        close(c->fd);
    free(c);
    vcpu->engine = NULL;
}

static int kvm_make_vcpu(struct kvm_cpu *c, struct err *err)
{
    struct kvm_vm *k = kvm_of(c->vcpu->vm);
    int r;

    c->fd = ioctl(k->fd, KVM_CREATE_VCPU, (unsigned long)c->vcpu->id);
    if (c->fd < 0)
        return kvm_fail(err, "make a virtual CPU");
    c->run = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (c->run == MAP_FAILED)
        return kvm_fail(err, "share a virtual CPU's exits");
    r = kvm_cpuid_set(c->vcpu, err);
    return r < 0 ? r : kvm_irqchip_vcpu_init(c->vcpu, err);
}

static int kvm_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    struct kvm_cpu *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return err_set(err, -ENOMEM, "no memory for a virtual CPU");
    c->vcpu = vcpu;
    c->fd = -1;
    c->run = MAP_FAILED;
    vcpu->engine = c;
    r = kvm_make_vcpu(c, err);
    if (r < 0)
        kvm_vcpu_fini(vcpu);
    return r;
}

/* ---- The rest ----------------------------------------------------------- */

/* KVM derives nothing from guest memory that it does not watch itself. */
static void kvm_mem_written(struct vm *vm, gpa_t gpa, uint64_t len)
{
}

static int kvm_dirty_log(struct vm *vm, bool on)
{
    return kvm_map_slots(vm, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

/* KVM's map of a slot begins with the slot, and so at a whole word of ours: slots do at multiples of 64 pages. */
static int kvm_dirty_take(struct vm *vm, uint64_t *bitmap)
{
    uint64_t *of_slot = malloc(ALIGN_UP(vm->mem.size / PAGE_SIZE, 64) / 8);
    int r = of_slot ? 0 : -ENOMEM;

    for (unsigned i = 0; !r && i < vm->mem.nslots; i++) {
        const struct mem_slot *s = &vm->mem.slots[i];
        struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = of_slot};

        if (!s->size)
            continue;
        if (ioctl(kvm_of(vm)->fd, KVM_GET_DIRTY_LOG, &log) < 0) {
            r = -errno;
            break;
        }
        for (uint64_t w = 0; w < ALIGN_UP(s->size / PAGE_SIZE, 64) / 64; w++)
            bitmap[s->offset / PAGE_SIZE / 64 + w] |= of_slot[w];
    }
    free(of_slot);
    return r;
}

static int kvm_ioevent(struct vm *vm, const struct ioevent *ev, bool on)
{
    struct kvm_ioeventfd e = {
        .datamatch = ev->data,
        .addr = ev->addr,
        .len = ev->size,
        .fd = ev->fd,
        .flags = (ev->pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (ev->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    if (!kvm_of(vm))
        return -ENODEV; /* a move failed */
    return ioctl(kvm_of(vm)->fd, KVM_IOEVENTFD, &e) < 0 ? -errno : 0;
}

static void kvm_print_stats(struct vm *vm, FILE *out)
{
    static const struct {
        const char *text;
        size_t off;
    } rows[] = {
#define X(name, text) {text, offsetof(struct kvm_counters, name)},
        KVM_EXIT_COUNTERS(X)
#undef X
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t sum = 0;

        for (unsigned n = 0; n < vm->cfg.cpus; n++) {
            struct kvm_cpu *c = vm->vcpus[n].engine;

            sum += *(uint64_t *)(void *)((char *)&c->counters + rows[i].off);
        }
        fprintf(out, "%16" PRIu64 "  %s\n", sum, rows[i].text);
    }
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .probe = kvm_probe,
    .check = kvm_check,
    .probe_stages = kvm_probe_stages,
    .vm_init = kvm_vm_init,
    .vm_fini = kvm_vm_fini,
    .vcpu_init = kvm_vcpu_init,
    .vcpu_fini = kvm_vcpu_fini,
    .run = kvm_run_vcpu,
    .kick = kvm_kick,
    .get = kvm_get,
    .set = kvm_set,
    .mem_written = kvm_mem_written,
    .dirty_log = kvm_dirty_log,
    .dirty_take = kvm_dirty_take,
    .dirty_live = true,
    .print_stats = kvm_print_stats,
    .ioevent = kvm_ioevent,
    .irqchip = &kvm_irqchip,
};
