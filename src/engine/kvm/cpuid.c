/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CPUID under KVM: the host's processor as KVM can show it, less what this
 * machine does not offer, with the machine's own leaves (topology, timing,
 * APIC identity) from src/x86/cpuid.c. The processor's identity stays the
 * host's: guests choose their defences against speculation by it. A baseline
 * (vm_config.cpu) is the machine's CPUID alone, the same as under any engine.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "engine/kvm/kvm.h"
#include "x86/cpuid.h"

#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

#define LEAF_XSAVE   0xdu
#define MAX_BASIC    0x16u
#define MAX_EXTENDED 0x80000021u
#define HV_FEATURES  0x40000001u
#define MAX_ENTRIES  64

/* x87, SSE, AVX, AVX-512 */
#define XCR0_SHOWN 0xe7u

enum source {
    FROM_HOST,    /* what KVM supports */
    FROM_MACHINE, /* cpuid_get */
    FROM_INTEL,   /* cpuid_get, where the host is an Intel processor: others have no such leaf */
};

/* The leaves shown; performance counters, tracing, enclaves, AMX, nested virtualization and encryption are not. */
static const struct {
    uint32_t leaf;
    enum source source;
    unsigned subleaves; /* of cpuid_get's */
} shown[] = {
    {0x0, FROM_HOST},
    {0x1, FROM_HOST},
    {0x2, FROM_INTEL, 1},
    {0x4, FROM_INTEL, 5},
    {0x6, FROM_MACHINE, 1},
    {0x7, FROM_HOST},
    {0xb, FROM_MACHINE, 3},
    {LEAF_XSAVE, FROM_HOST},
    {0x15, FROM_INTEL, 1},
    {0x16, FROM_INTEL, 1},
    {0x40000000, FROM_MACHINE, 1},
    {HV_FEATURES, FROM_HOST},
    {0x40000010, FROM_MACHINE, 1},
    {0x80000000, FROM_HOST},
    {0x80000001, FROM_HOST},
    {0x80000002, FROM_HOST},
    {0x80000003, FROM_HOST},
    {0x80000004, FROM_HOST},
    {0x80000005, FROM_HOST},
    {0x80000006, FROM_HOST},
    {0x80000007, FROM_HOST},
    {0x80000008, FROM_HOST},
    {0x80000021, FROM_HOST},
};

/* Bits of those leaves that are not. */
static const struct {
    uint32_t leaf, subleaf;
    uint32_t hide[4];
} hidden[] = {
    {0x1,
     0,
     {[ECX] = BIT(2) /* DTES64 */ | BIT(3) /* MONITOR */ | BIT(4) /* DS-CPL */ | BIT(5) /* VMX */ |
              BIT(6) /* SMX */ | BIT(15) /* PDCM */ | BIT(18) /* DCA */}},
    {0x7,
     0,
     {[EBX] = BIT(2) /* SGX */ | BIT(14) /* MPX */ | BIT(25) /* PT */,
      [ECX] = BIT(3) /* PKU */ | BIT(5) /* WAITPKG */ | BIT(7) /* shadow stack */ |
              BIT(16) /* LA57 */ | BIT(30) /* SGX */,
      [EDX] = BIT(20) /* IBT */ | BIT(22) | BIT(24) | BIT(25) /* AMX */}},
    {LEAF_XSAVE, 1, {[EAX] = BIT(3) /* XSAVES */ | BIT(4) /* XFD */, [ECX] = ~0u, [EDX] = ~0u}},
    {0x80000001,
     0,
     {[ECX] = BIT(2) /* SVM */ | BIT(9) /* OSVW */ | BIT(10) /* IBS */ | BIT(12) /* SKINIT */ |
              BIT(13) /* watchdog */ | BIT(15) /* LWP */ | BIT(22) /* topology */ | BIT(23) |
              BIT(24) | BIT(28) /* counters */ | BIT(29) /* MWAITX */}},
    {0x80000007, 0, {[EAX] = ~0u, [EBX] = ~0u, [ECX] = ~0u, [EDX] = ~BIT(8) /* invariant TSC */}},
};

struct build {
    struct vcpu *vcpu;
    const struct kvm_cpuid2 *host;
    struct kvm_cpuid2 *out;
    const struct x86_state *st; /* after RESET */
    bool intel, deadline;
};

static void regs_of(const struct kvm_cpuid_entry2 *e, uint32_t r[4])
{
    r[EAX] = e->eax;
    r[EBX] = e->ebx;
    r[ECX] = e->ecx;
    r[EDX] = e->edx;
}

static void add(struct build *b, uint32_t leaf, uint32_t subleaf, uint32_t flags,
                const uint32_t r[4])
{
    if (b->out->nent == MAX_ENTRIES)
        return;
    b->out->entries[b->out->nent++] = (struct kvm_cpuid_entry2){.function = leaf,
                                                                .index = subleaf,
                                                                .flags = flags,
                                                                .eax = r[EAX],
                                                                .ebx = r[EBX],
                                                                .ecx = r[ECX],
                                                                .edx = r[EDX]};
}

static uint32_t min32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Features of leaf 1 that belong to this vCPU or come with the kernel's APIC. */
static void adjust_features(const struct build *b, uint32_t r[4])
{
    uint32_t ours[4];

    cpuid_get(b->vcpu, b->st, 1, 0, ours);
    r[EBX] = ours[EBX];
    r[ECX] |= BIT(21) /* x2APIC */ | BIT(31) /* hypervisor */;
    if (b->deadline)
        r[ECX] |= BIT(24);
    r[EDX] = (r[EDX] & ~BIT(28)) | (ours[EDX] & BIT(28)); /* HTT */
}

/* AMD's way to say how many cores there are, for guests that do not look at leaf 0BH. */
static void adjust_cores(const struct build *b, uint32_t r[4])
{
    unsigned cpus = b->vcpu->vm->cfg.cpus, bits = 0;

    while ((1u << bits) < cpus)
        bits++;
    r[ECX] = b->intel ? 0 : bits << 12 | (cpus - 1);
}

/* False: this subleaf is not shown. */
static bool adjust(const struct build *b, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    for (unsigned i = 0; i < ARRAY_SIZE(hidden); i++)
        for (unsigned n = 0; n < 4; n++)
            if (hidden[i].leaf == leaf && hidden[i].subleaf == subleaf)
                r[n] &= ~hidden[i].hide[n];
    switch (leaf) {
    case 0:
        r[EAX] = min32(r[EAX], MAX_BASIC);
        break;
    case 1:
        adjust_features(b, r);
        break;
    case LEAF_XSAVE:
        if (subleaf == 0) {
            r[EAX] &= XCR0_SHOWN;
            r[EDX] = 0;
        }
        return subleaf < 2 || (subleaf < 32 && (XCR0_SHOWN & BIT(subleaf)));
    case 0x80000000:
        r[EAX] = min32(r[EAX], MAX_EXTENDED);
        break;
    case 0x80000008:
        adjust_cores(b, r);
        break;
    default:
        break;
    }
    return true;
}

static void add_host(struct build *b, uint32_t leaf)
{
    for (unsigned i = 0; i < b->host->nent; i++) {
        const struct kvm_cpuid_entry2 *e = &b->host->entries[i];
        uint32_t r[4];

        if (e->function != leaf)
            continue;
        regs_of(e, r);
        if (adjust(b, leaf, e->index, r))
            add(b, leaf, e->index, e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX, r);
    }
}

static void add_machine(struct build *b, uint32_t leaf, unsigned subleaves)
{
    for (unsigned n = 0; n < subleaves; n++) {
        uint32_t r[4];

        cpuid_get(b->vcpu, b->st, leaf, n, r);
        add(b, leaf, n, subleaves > 1 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0, r);
    }
}

static bool host_is_intel(const struct kvm_cpuid2 *host)
{
    for (unsigned i = 0; i < host->nent; i++)
        if (host->entries[i].function == 0)
            return !memcmp(&host->entries[i].ebx, "Genu", 4);
    return false;
}

static const struct kvm_cpuid_entry2 *host_entry(const struct build *b, uint32_t leaf)
{
    for (unsigned i = 0; i < b->host->nent; i++)
        if (b->host->entries[i].function == leaf && b->host->entries[i].index == 0)
            return &b->host->entries[i];
    return NULL;
}

/* Features that KVM makes itself and does not list. */
#define KVM_MADE_1_ECX (BIT(21) /* x2APIC */ | BIT(24) /* TSC deadline */ | BIT(31))
#define KVM_MADE_1_EDX BIT(28) /* HTT */

/* Of a baseline nothing may be missing, or it would be another. */
static int check_baseline(const struct build *b, struct err *err)
{
    static const uint32_t leaves[] = {1, 7, 0x80000001};

    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        const struct kvm_cpuid_entry2 *e = host_entry(b, leaves[i]);
        uint32_t r[4], have[4] = {0};

        cpuid_get(b->vcpu, b->st, leaves[i], 0, r);
        if (e)
            regs_of(e, have);
        if (leaves[i] == 1) {
            have[ECX] |= KVM_MADE_1_ECX;
            have[EDX] |= KVM_MADE_1_EDX;
        }
        for (unsigned n = leaves[i] == 0x80000001 ? ECX : EBX; n <= EDX; n++) {
            if ((leaves[i] == 1 && n == EBX) || !(r[n] & ~have[n]))
                continue;
            err_set(err, -ENOTSUP,
                    "this host's KVM cannot give the CPU model asked for: of CPUID leaf 0x%x, "
                    "register %u, it lacks bits 0x%x",
                    leaves[i], n, r[n] & ~have[n]);
            return err_next(err, "Choose a lower level with --cpu, or --cpu host.");
        }
    }
    return 0;
}

/* The machine's CPUID and no other, as the software engine shows it. */
static int add_baseline(struct build *b, struct err *err)
{
    static const struct {
        uint32_t leaf;
        unsigned subleaves;
    } leaves[] = {
        {0x0, 1},        {0x1, 1},         {0x2, 1},        {0x4, 5},        {0x6, 1},
        {0x7, 1},        {0xb, 3},         {LEAF_XSAVE, 3}, {0x15, 1},       {0x16, 1},
        {0x40000000, 1}, {HV_FEATURES, 1}, {0x40000010, 1}, {0x80000000, 1}, {0x80000001, 1},
        {0x80000002, 1}, {0x80000003, 1},  {0x80000004, 1}, {0x80000006, 1}, {0x80000007, 1},
        {0x80000008, 1},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
        add_machine(b, leaves[i].leaf, leaves[i].subleaves);
    return check_baseline(b, err);
}

static void add_all(struct build *b)
{
    for (unsigned i = 0; i < ARRAY_SIZE(shown); i++) {
        if (shown[i].source == FROM_HOST)
            add_host(b, shown[i].leaf);
        else if (shown[i].source == FROM_MACHINE || b->intel)
            add_machine(b, shown[i].leaf, shown[i].subleaves);
    }
}

int kvm_cpuid_set(struct vcpu *vcpu, struct err *err)
{
    struct kvm_vm *k = kvm_of(vcpu->vm);
    struct kvm_cpu *c = vcpu->engine;
    struct x86_state *st = aligned_alloc(_Alignof(struct x86_state), sizeof(*st));
    struct build b = {.vcpu = vcpu, .host = k->supported, .st = st};
    int r = 0;

    b.out = calloc(1, sizeof(*b.out) + MAX_ENTRIES * sizeof(b.out->entries[0]));
    if (!st || !b.out) {
        r = err_set(err, -ENOMEM, "no memory for CPUID");
        goto out;
    }
    x86_state_reset(st, true);
    b.intel = host_is_intel(b.host);
    b.deadline = ioctl(k->dev, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    if (vcpu->vm->cfg.cpu == CPU_HOST || vcpu->vm->cfg.cpu == CPU_MAX)
        add_all(&b);
    else
        r = add_baseline(&b, err);
    if (!r && ioctl(c->fd, KVM_SET_CPUID2, b.out) < 0) {
        r = -errno;
        err_set(err, r, "KVM does not take the guest's CPUID: %s", strerror(-r));
    }
out:
    free(st);
    free(b.out);
    return r;
}
