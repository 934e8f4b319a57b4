/* SPDX-License-Identifier: GPL-2.0-or-later */
/* KVM_RUN and what it returns for. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/kvm/host.h"
#include "engine/kvm/kvm.h"

/* ---- Reports ------------------------------------------------------------ */

static const char *mode_name(const struct kvm_sregs *s, const struct kvm_regs *r)
{
    if (!(s->cr0 & X86_CR0_PE))
        return "real mode";
    if (r->rflags & X86_VM)
        return "virtual-8086 mode";
    if (s->efer & X86_EFER_LMA)
        return s->cs.l ? "64-bit" : "compatibility mode";
    return s->cs.db ? "32-bit" : "16-bit";
}

/* The bytes at RIP as text, through KVM's walk of the guest's page tables. */
static void describe_bytes(struct kvm_cpu *c, uint64_t lin, char *buf, size_t len)
{
    struct kvm_translation tr = {.linear_address = lin};
    uint8_t raw[15];
    unsigned n = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));

    n = n < sizeof(raw) ? n : sizeof(raw);
    snprintf(buf, len, " unreadable");
    if (ioctl(c->fd, KVM_TRANSLATE, &tr) < 0 || !tr.valid ||
        mem_read(&c->vcpu->vm->mem, tr.physical_address, raw, n) < 0)
        return;
    for (unsigned i = 0; i < n && 3 * i + 4 < len; i++)
        snprintf(buf + 3 * i, len - 3 * i, " %02x", raw[i]);
}

static enum vcpu_exit_reason report(struct kvm_cpu *c, enum vcpu_exit_reason reason,
                                    const char *what)
{
    struct vcpu_exit *e = &c->vcpu->exit;
    struct kvm_regs r = {0};
    struct kvm_sregs s = {0};
    char bytes[64];

    e->reason = reason;
    if (ioctl(c->fd, KVM_GET_REGS, &r) < 0 || ioctl(c->fd, KVM_GET_SREGS, &s) < 0) {
        snprintf(e->text, sizeof(e->text), "%s; its registers cannot be read: %s", what,
                 strerror(errno));
        return reason;
    }
    describe_bytes(c, s.cs.l ? r.rip : s.cs.base + r.rip, bytes, sizeof(bytes));
    snprintf(e->text, sizeof(e->text),
             "vCPU %u: %s at RIP 0x%" PRIx64 ", CS 0x%x (%s, CPL %u), CR0 0x%" PRIx64
             ", CR2 0x%" PRIx64 ", CR3 0x%" PRIx64 ", instruction bytes%s",
             c->vcpu->id, what, (uint64_t)r.rip, s.cs.selector, mode_name(&s, &r), s.ss.dpl,
             (uint64_t)s.cr0, (uint64_t)s.cr2, (uint64_t)s.cr3, bytes);
    return reason;
}

static enum vcpu_exit_reason report_internal(struct kvm_cpu *c)
{
    static const char *const causes[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "it cannot emulate the instruction",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "exceptions within exceptions",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "an event could not be delivered",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "an exit it does not know",
    };
    uint32_t sub = c->run->internal.suberror;
    char text[120];

    snprintf(text, sizeof(text), "KVM internal error %u (%s)", sub,
             sub < ARRAY_SIZE(causes) && causes[sub] ? causes[sub] : "unknown");
    return report(c, VCPU_EXIT_ERROR, text);
}

static enum vcpu_exit_reason report_entry(struct kvm_cpu *c)
{
    char text[96];

    snprintf(text, sizeof(text), "the processor refused to enter the guest (reason 0x%" PRIx64 ")",
             (uint64_t)c->run->fail_entry.hardware_entry_failure_reason);
    return report(c, VCPU_EXIT_ERROR, text);
}

/* ---- Exits -------------------------------------------------------------- */

static void exit_pio(struct kvm_cpu *c)
{
    struct kvm_run *run = c->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    unsigned size = run->io.size;

    c->counters.pio++;
    for (unsigned i = 0; i < run->io.count; i++, data += size) {
        uint64_t val = 0;

        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&val, data, size);
            vcpu_pio_write(c->vcpu, run->io.port, size, val);
        } else {
            val = vcpu_pio_read(c->vcpu, run->io.port, size);
            memcpy(data, &val, size);
        }
    }
}

/* KVM may split an access at a page, which leaves any length from 1 to 8: the largest naturally sized pieces. */
static void exit_mmio(struct kvm_cpu *c)
{
    struct kvm_run *run = c->run;
    unsigned len = run->mmio.len <= 8 ? run->mmio.len : 8;

    c->counters.mmio++;
    for (unsigned at = 0; at < len;) {
        unsigned size = 8;
        uint64_t val = 0;

        while (size > len - at)
            size /= 2;
        if (run->mmio.is_write) {
            memcpy(&val, run->mmio.data + at, size);
            vcpu_mmio_write(c->vcpu, run->mmio.phys_addr + at, size, val);
        } else {
            val = vcpu_mmio_read(c->vcpu, run->mmio.phys_addr + at, size);
            memcpy(run->mmio.data + at, &val, size);
        }
        at += size;
    }
}

static void exit_msr(struct kvm_cpu *c, bool write)
{
    struct kvm_run *run = c->run;
    uint64_t val = run->msr.data;

    c->counters.msr++;
    if (write) {
        run->msr.error = vcpu_msr_write(c->vcpu, run->msr.index, val) < 0;
    } else {
        val = 0;
        run->msr.error = vcpu_msr_read(c->vcpu, run->msr.index, &val) < 0;
        run->msr.data = val;
    }
}

/* True when run() must return, *reason set. */
static bool handle_exit(struct kvm_cpu *c, enum vcpu_exit_reason *reason)
{
    char text[48];

    switch (c->run->exit_reason) {
    case KVM_EXIT_IO:
        exit_pio(c);
        return false;
    case KVM_EXIT_MMIO:
        exit_mmio(c);
        return false;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        exit_msr(c, c->run->exit_reason == KVM_EXIT_X86_WRMSR);
        return false;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        c->counters.other++;
        return false;
    case KVM_EXIT_SHUTDOWN:
        *reason = report(c, VCPU_EXIT_SHUTDOWN, "triple fault");
        return true;
    case KVM_EXIT_INTERNAL_ERROR:
        *reason = report_internal(c);
        return true;
    case KVM_EXIT_FAIL_ENTRY:
        *reason = report_entry(c);
        return true;
    default:
        snprintf(text, sizeof(text), "unexpected KVM exit %u", c->run->exit_reason);
        *reason = report(c, VCPU_EXIT_ERROR, text);
        return true;
    }
}

/* ---- The loop ----------------------------------------------------------- */

static void set_immediate_exit(struct kvm_cpu *c, uint8_t val)
{
    __atomic_store_n(&c->run->immediate_exit, val, __ATOMIC_SEQ_CST);
}

/*
 * The kicker posts an event, sets immediate_exit and then signals the thread
 * in run(); run() clears immediate_exit where it is set and then looks at the
 * events. Either the event is seen, or immediate_exit stays set and KVM_RUN
 * returns at once.
 */
void kvm_kick(struct vcpu *vcpu)
{
    struct kvm_cpu *c = vcpu->engine;
    pid_t tid;

    if (!c)
        return;
    set_immediate_exit(c, 1);
    tid = atomic_load(&c->tid);
    if (tid)
        syscall(SYS_tgkill, getpid(), tid, KVM_KICK_SIGNAL);
}

/* 0: an exit to handle; 1: interrupted; negative: *reason set. */
static int enter(struct kvm_cpu *c, enum vcpu_exit_reason *reason)
{
    char text[96];

    if (!ioctl(c->fd, KVM_RUN, 0))
        return 0;
    if (errno == EINTR || errno == EAGAIN)
        return 1;
    /* Comes with EFAULT: memory behind the guest's cannot be had. */
    snprintf(text, sizeof(text), "KVM_RUN failed: %s", strerror(errno));
    *reason = report(c, VCPU_EXIT_ERROR, text);
    return -1;
}

/* An instruction whose I/O was just done is only finished by the next KVM_RUN; its state is not whole before. */
static bool finish_instruction(struct kvm_cpu *c, enum vcpu_exit_reason *reason)
{
    for (;;) {
        int r;

        set_immediate_exit(c, 1);
        r = enter(c, reason);
        if (r)
            return r > 0;
        if (handle_exit(c, reason))
            return false;
    }
}

/* INIT, SIPI and interrupts go from APIC to APIC inside the kernel; the machine itself posts only these. */
static bool take_events(struct kvm_cpu *c, enum vcpu_exit_reason *reason)
{
    uint32_t ev;

    if (unlikely(__atomic_load_n(&c->run->immediate_exit, __ATOMIC_ACQUIRE)))
        set_immediate_exit(c, 0);
    if (likely(!atomic_load(&c->vcpu->events)))
        return false;
    ev = atomic_exchange(&c->vcpu->events, 0);
    if (ev & VCPU_EV_NMI)
        ioctl(c->fd, KVM_NMI);
    if (!(ev & VCPU_EV_STOP))
        return false;
    if (finish_instruction(c, reason))
        *reason = VCPU_EXIT_STOP;
    return true;
}

enum vcpu_exit_reason kvm_run_vcpu(struct vcpu *vcpu)
{
    struct kvm_cpu *c = vcpu->engine;
    enum vcpu_exit_reason reason = VCPU_EXIT_ERROR;

    kvm_kick_init();
    atomic_store(&c->tid, (pid_t)syscall(SYS_gettid));
    while (!take_events(c, &reason)) {
        int r = enter(c, &reason);

        if (r < 0)
            break;
        if (r > 0)
            c->counters.kick++;
        else if (handle_exit(c, &reason))
            break;
    }
    atomic_store(&c->tid, 0);
    vcpu->exit.reason = reason;
    return reason;
}
