/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between KVM's structures and the canonical CPU state; the machine's MSRs go to and from vcpu->msrs. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "engine/kvm/convert.h"
#include "engine/kvm/kvm.h"
#include "x86/msr.h"

/* ---- MSRs --------------------------------------------------------------- */

static const struct {
    uint32_t index;
    size_t off; /* in x86_state */
} cpu_msrs[] = {
    {0xc0000081, offsetof(struct x86_state, star)},
    {0xc0000082, offsetof(struct x86_state, lstar)},
    {0xc0000083, offsetof(struct x86_state, cstar)},
    {0xc0000084, offsetof(struct x86_state, sfmask)},
    {0xc0000102, offsetof(struct x86_state, kernel_gs_base)},
    {0xc0000103, offsetof(struct x86_state, tsc_aux)},
    {0x174, offsetof(struct x86_state, sysenter_cs)},
    {0x175, offsetof(struct x86_state, sysenter_esp)},
    {0x176, offsetof(struct x86_state, sysenter_eip)},
    {0x277, offsetof(struct x86_state, pat)},
    {0x3b, offsetof(struct x86_state, tsc_adjust)},
};

/*
 * Those of the machine that KVM keeps while it runs: MTRRs, misc enable, and
 * kvmclock's, whose write makes KVM (or msr.c) publish the time anew.
 */
static const struct {
    uint32_t first, count;
} machine_msrs[] = {
    {0x1a0, 1}, {0x200, 16}, {0x250, 1}, {0x258, 2}, {0x268, 8}, {0x2ff, 1}, {0x4b564d01, 1},
};

static uint64_t *msr_field(const struct x86_state *st, unsigned i)
{
    return (uint64_t *)(void *)((char *)st + cpu_msrs[i].off);
}

/* struct kvm_msrs with room for one, as its flexible array can't be inside a structure. */
struct one_msr {
    uint32_t nmsrs, pad;
    struct kvm_msr_entry entry;
};

bool kvm_msr_put(struct kvm_cpu *c, uint32_t index, uint64_t val)
{
    struct one_msr m = {.nmsrs = 1, .entry = {.index = index, .data = val}};

    return ioctl(c->fd, KVM_SET_MSRS, &m) == 1;
}

bool kvm_msr_take(struct kvm_cpu *c, uint32_t index, uint64_t *val)
{
    struct one_msr m = {.nmsrs = 1, .entry.index = index};

    if (ioctl(c->fd, KVM_GET_MSRS, &m) != 1)
        return false;
    *val = m.entry.data;
    return true;
}

/* What msrs_set writes, in KVM's form: cpu_msrs first. */
#define MSRS_MAX 64

struct msr_list {
    uint32_t nmsrs, pad;
    struct kvm_msr_entry entry[MSRS_MAX];
};

static void msr_add(struct msr_list *l, uint32_t index, uint64_t val)
{
    if (l->nmsrs < MSRS_MAX)
        l->entry[l->nmsrs++] = (struct kvm_msr_entry){.index = index, .data = val};
}

/* KVM takes a list up to the first that it refuses and says how many that were. */
static void msrs_put(struct kvm_cpu *c, struct msr_list *l, unsigned must)
{
    for (unsigned at = 0; at < l->nmsrs;) {
        struct msr_list rest = {.nmsrs = l->nmsrs - at};
        int n;

        memcpy(rest.entry, &l->entry[at], rest.nmsrs * sizeof(rest.entry[0]));
        n = ioctl(c->fd, KVM_SET_MSRS, &rest);
        at += n > 0 ? (unsigned)n : 0;
        if (at < l->nmsrs) {
            if (at < must && l->entry[at].data)
                log_once(LOG_WARN, "KVM does not take MSR 0x%x", l->entry[at].index);
            at++;
        }
    }
}

/* An MSR that KVM lacks reads and stays zero: TSC_AUX without RDTSCP, TSC_ADJUST on old kernels. */
static void msrs_set(struct kvm_cpu *c, const struct x86_state *st)
{
    struct msr_list l = {0};

    for (unsigned i = 0; i < ARRAY_SIZE(cpu_msrs); i++)
        msr_add(&l, cpu_msrs[i].index, *msr_field(st, i));
    for (unsigned i = 0; c->vcpu->msrs && i < ARRAY_SIZE(machine_msrs); i++) {
        for (unsigned n = 0; n < machine_msrs[i].count; n++) {
            uint32_t index = machine_msrs[i].first + n;
            uint64_t val;

            if (!msr_read(c->vcpu->msrs, index, &val))
                msr_add(&l, index, val);
        }
    }
    msrs_put(c, &l, ARRAY_SIZE(cpu_msrs));
}

static void msrs_get(struct kvm_cpu *c, struct x86_state *st)
{
    for (unsigned i = 0; i < ARRAY_SIZE(cpu_msrs); i++)
        if (!kvm_msr_take(c, cpu_msrs[i].index, msr_field(st, i)))
            *msr_field(st, i) = 0;
    for (unsigned i = 0; c->vcpu->msrs && i < ARRAY_SIZE(machine_msrs); i++) {
        for (unsigned n = 0; n < machine_msrs[i].count; n++) {
            uint32_t index = machine_msrs[i].first + n;
            uint64_t val;

            if (kvm_msr_take(c, index, &val))
                msr_write(c->vcpu->msrs, index, val);
        }
    }
}

/* ---- TSC ---------------------------------------------------------------- */

/*
 * Guest TSC = host TSC + offset. Kernels before 5.16 cannot be told the
 * offset, but take a value of now, which KVM makes the same on all vCPUs when
 * they come shortly after each other.
 */
static void tsc_set(struct kvm_cpu *c, uint64_t adjust)
{
    const struct clock *clock = &c->vcpu->vm->clock;
    uint64_t offset = clock->tsc_offset + adjust;
    struct kvm_device_attr attr = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};

    if (ioctl(c->fd, KVM_SET_DEVICE_ATTR, &attr) < 0 &&
        !kvm_msr_put(c, 0x10, clock_tsc(clock) + adjust))
        log_once(LOG_WARN, "KVM does not let the guest's TSC be set");
}

/* kvmclock shows the time since the TSC was 0, as x86/msr.c has it. All CPUs have the same. */
static void kvmclock_set(struct kvm_cpu *c)
{
    const struct clock *clock = &c->vcpu->vm->clock;
    struct kvm_clock_data data = {
        .clock = (uint64_t)((unsigned __int128)clock_tsc(clock) * 1000000 / clock->tsc_khz)};

    if (c->vcpu->id == 0 && ioctl(kvm_of(c->vcpu->vm)->fd, KVM_SET_CLOCK, &data) < 0)
        log_once(LOG_WARN, "KVM does not let its clock be set: %s", strerror(errno));
}

/* ---- Run state ---------------------------------------------------------- */

static uint32_t mp_state_of(uint32_t run)
{
    switch (run) {
    case X86_HALTED:
        return KVM_MP_STATE_HALTED;
    case X86_WAIT_SIPI:
        return KVM_MP_STATE_UNINITIALIZED;
    default:
        return KVM_MP_STATE_RUNNABLE;
    }
}

/* INIT_RECEIVED and SIPI_RECEIVED are past before KVM_RUN returns; what is left of them waits for SIPI. */
static uint32_t run_of(uint32_t mp)
{
    switch (mp) {
    case KVM_MP_STATE_RUNNABLE:
        return X86_RUNNING;
    case KVM_MP_STATE_HALTED:
        return X86_HALTED;
    default:
        return X86_WAIT_SIPI;
    }
}

static bool run_state_set(struct kvm_cpu *c, const struct x86_state *st)
{
    struct kvm_mp_state mp = {mp_state_of(st->run)};
    struct kvm_vcpu_events ev = {
        .interrupt.shadow = st->intr_shadow ? KVM_X86_SHADOW_INT_STI : 0,
        .nmi.masked = st->nmi_blocked,
        .flags = KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_NMI_PENDING,
    };

    return ioctl(c->fd, KVM_SET_MP_STATE, &mp) >= 0 && ioctl(c->fd, KVM_SET_VCPU_EVENTS, &ev) >= 0;
}

static bool run_state_get(struct kvm_cpu *c, struct x86_state *st)
{
    struct kvm_mp_state mp;
    struct kvm_vcpu_events ev;

    if (ioctl(c->fd, KVM_GET_MP_STATE, &mp) < 0 || ioctl(c->fd, KVM_GET_VCPU_EVENTS, &ev) < 0)
        return false;
    st->run = run_of(mp.mp_state);
    st->intr_shadow = !!ev.interrupt.shadow;
    st->nmi_blocked = ev.nmi.masked;
    return true;
}

/* ---- Vector state, XCR0, debug registers -------------------------------- */

static bool extended_set(struct kvm_cpu *c, const struct x86_state *st)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0].value = st->xcr0};
    struct kvm_debugregs dr = {.dr6 = st->dr[6], .dr7 = st->dr[7]};
    struct kvm_xsave xsave;

    _Static_assert(sizeof(xsave.region) == X86_XSAVE_SIZE, "one page of XSAVE state");
    memset(&xsave, 0, sizeof(xsave));
    memcpy(xsave.region, st->xsave, sizeof(st->xsave));
    memcpy(dr.db, st->dr, sizeof(dr.db));
    /* A processor without XSAVE has no XCR0. */
    if (ioctl(c->fd, KVM_SET_XCRS, &xcrs) < 0 && st->xcr0 > 1)
        return false;
    return ioctl(c->fd, KVM_SET_XSAVE, &xsave) >= 0 && ioctl(c->fd, KVM_SET_DEBUGREGS, &dr) >= 0;
}

static bool extended_get(struct kvm_cpu *c, struct x86_state *st)
{
    struct kvm_xcrs xcrs = {0};
    struct kvm_debugregs dr;
    struct kvm_xsave xsave;

    if (ioctl(c->fd, KVM_GET_XSAVE, &xsave) < 0 || ioctl(c->fd, KVM_GET_DEBUGREGS, &dr) < 0)
        return false;
    memcpy(st->xsave, xsave.region, sizeof(st->xsave));
    memcpy(st->dr, dr.db, sizeof(dr.db));
    st->dr[6] = dr.dr6;
    st->dr[7] = dr.dr7;
    st->xcr0 = 1;
    if (ioctl(c->fd, KVM_GET_XCRS, &xcrs) >= 0)
        for (unsigned i = 0; i < xcrs.nr_xcrs; i++)
            if (xcrs.xcrs[i].xcr == 0)
                st->xcr0 = xcrs.xcrs[i].value;
    return true;
}

/* ---- engine_ops --------------------------------------------------------- */

int kvm_set(struct vcpu *vcpu, const struct x86_state *st)
{
    struct kvm_cpu *c = vcpu->engine;
    struct kvm_regs r;
    struct kvm_sregs s;
    bool ok;
    int code;

    errno = 0;
    ok = ioctl(c->fd, KVM_GET_SREGS, &s) >= 0; /* the APIC's base and CR8 stay */
    kvm_regs_from_state(st, &r);
    kvm_sregs_from_state(st, &s);
    ok = ok && ioctl(c->fd, KVM_SET_SREGS, &s) >= 0 && ioctl(c->fd, KVM_SET_REGS, &r) >= 0;
    ok = ok && extended_set(c, st);
    code = ok ? 0 : errno ? -errno : -EIO;
    tsc_set(c, st->tsc_adjust);
    kvmclock_set(c);
    msrs_set(c, st);
    errno = 0;
    return code ? code : run_state_set(c, st) ? 0 : errno ? -errno : -EIO;
}

void kvm_get(struct vcpu *vcpu, struct x86_state *st)
{
    struct kvm_cpu *c = vcpu->engine;
    struct kvm_regs r;
    struct kvm_sregs s;

    memset(st, 0, sizeof(*st));
    if (ioctl(c->fd, KVM_GET_REGS, &r) < 0 || ioctl(c->fd, KVM_GET_SREGS, &s) < 0 ||
        !extended_get(c, st) || !run_state_get(c, st)) {
        log_error("KVM does not give the state of vCPU %u: %s", vcpu->id, strerror(errno));
        return;
    }
    kvm_regs_to_state(&r, st);
    kvm_sregs_to_state(&s, st);
    msrs_get(c, st);
}
