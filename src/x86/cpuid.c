/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CPUID policy (SDM volume 2, CPUID).
 *
 * Guests see a GenuineIntel CPU of family 6, model 0x36: an in-order core
 * that speculates nothing across privileges. Kernels know that model to need
 * no page-table isolation, retpolines, return thunks or buffer clearing, and
 * so enable none (Linux: cpu_vuln_whitelist, NO_SPECULATION); under a software
 * engine those would cost much and protect nothing, since the guest has no
 * host address space of its own to speculate into. C libraries choose their
 * string functions by the AVX2 and ERMS bits for it, as for any Intel core.
 * IA32_ARCH_CAPABILITIES says the same bit by bit (msr.c). The vendor goes
 * with the behaviour: SYSCALL is undefined in compatibility mode, hypercalls
 * are VMCALL, topology is in leaf 0BH, the TSC rate in leaf 15H.
 *
 * What is run natively on the host (vector and bit-manipulation code) is shown
 * if the host has it; what every engine implements itself is always shown.
 */
#include "x86/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "core/vm.h"
#include "x86/lapic.h"
#include "x86/msr.h"

#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

#define MAX_BASIC     0x16u
#define LIMITED_BASIC 3u
#define MAX_EXTENDED  0x80000008u
#define HV_BASE       0x40000000u
#define HV_MAX        0x40000010u
#define HV_END        0x4fffffffu

/* ---- Features ----------------------------------------------------------- */

enum feature_word {
    F_1_ECX,
    F_1_EDX,
    F_7_EBX,
    F_7_ECX,
    F_7_EDX,
    F_D1_EAX,
    F_X1_ECX,
    F_X1_EDX,
    F_COUNT
};

#define F7_ECX_PKU BIT(3)

static const struct {
    uint32_t leaf, subleaf;
    unsigned reg;
    uint32_t ours;   /* implemented by every engine */
    uint32_t native; /* shown when the host has it */
    uint32_t max;    /* implemented, but shown only when everything is asked for: it costs speed */
} features[F_COUNT] = {
    [F_1_ECX] = {1, 0, ECX,
                 .ours = BIT(17) /* PCID */ | BIT(21) /* x2APIC */ | BIT(24) /* TSC deadline */ |
                         BIT(31) /* hypervisor */,
                 .native = BIT(0) /* SSE3 */ | BIT(1) /* PCLMULQDQ */ | BIT(9) /* SSSE3 */ |
                           BIT(12) /* FMA */ | BIT(13) /* CX16 */ | BIT(19) /* SSE4.1 */ |
                           BIT(20) /* SSE4.2 */ | BIT(22) /* MOVBE */ | BIT(23) /* POPCNT */ |
                           BIT(25) /* AES */ | BIT(26) /* XSAVE */ | BIT(28) /* AVX */ |
                           BIT(29) /* F16C */ | BIT(30) /* RDRAND */},
    [F_1_EDX] = {1, 0, EDX,
                 .ours = BIT(0) /* FPU */ | BIT(1) /* VME */ | BIT(2) /* DE */ | BIT(3) /* PSE */ |
                         BIT(4) /* TSC */ | BIT(5) /* MSR */ | BIT(6) /* PAE */ | BIT(7) /* MCE */ |
                         BIT(8) /* CX8 */ | BIT(9) /* APIC */ | BIT(11) /* SEP */ |
                         BIT(12) /* MTRR */ | BIT(13) /* PGE */ | BIT(14) /* MCA */ |
                         BIT(15) /* CMOV */ | BIT(16) /* PAT */ | BIT(17) /* PSE-36 */ |
                         BIT(19) /* CLFLUSH */ | BIT(23) /* MMX */ | BIT(24) /* FXSR */ |
                         BIT(25) /* SSE */ | BIT(26) /* SSE2 */},
    [F_7_EBX] = {7, 0, EBX,
                 .ours = BIT(0) /* FSGSBASE */ | BIT(1) /* TSC_ADJUST */ | BIT(7) /* SMEP */ |
                         BIT(10) /* INVPCID */ | BIT(20) /* SMAP */,
                 .native = BIT(3) /* BMI1 */ | BIT(5) /* AVX2 */ | BIT(8) /* BMI2 */ |
                           BIT(9) /* ERMS */ | BIT(18) /* RDSEED */ | BIT(19) /* ADX */ |
                           BIT(23) /* CLFLUSHOPT */ | BIT(29) /* SHA */},
    [F_7_ECX] = {7, 0, ECX, .ours = BIT(22) /* RDPID */,
                 .max = BIT(2) /* UMIP */ | F7_ECX_PKU | BIT(31) /* PKS */},
    [F_7_EDX] = {7, 0, EDX, .ours = BIT(29) /* IA32_ARCH_CAPABILITIES */,
                 .native = BIT(4) /* fast short REP MOVSB */},
    [F_D1_EAX] = {0xd, 1, EAX,
                  .native = BIT(0) /* XSAVEOPT */ | BIT(1) /* XSAVEC */ | BIT(2) /* XGETBV(1) */},
    [F_X1_ECX] = {0x80000001, 0, ECX, .ours = BIT(0) /* LAHF in 64-bit mode */,
                  .native = BIT(5) /* LZCNT */ | BIT(8) /* PREFETCHW */},
    [F_X1_EDX] = {0x80000001, 0, EDX,
                  .ours = BIT(11) /* SYSCALL */ | BIT(20) /* NX */ | BIT(26) /* 1 GiB pages */ |
                          BIT(27) /* RDTSCP */ | BIT(29) /* long mode */},
};

#define F1_ECX_XSAVE   BIT(26)
#define F1_ECX_OSXSAVE BIT(27)
#define F1_ECX_AVX     BIT(28)
#define F7_ECX_OSPKE   BIT(4)
#define F1_EDX_APIC    BIT(9)
#define F1_EDX_HTT     BIT(28)
#define X1_EDX_NX      BIT(20)

/* Each makes no sense without AVX, which needs XSAVE. */
#define F1_ECX_NEED_AVX (BIT(12) /* FMA */ | BIT(29) /* F16C */)
#define F7_EBX_NEED_AVX BIT(5)

#define XSAVE_LEGACY_SIZE 576u
#define XCR0_AVX          BIT(2)
#define PKRU_SIZE         8u

struct host {
    uint32_t features[F_COUNT]; /* as shown to guests */
    uint32_t xcr0;              /* components guests may enable */
    uint32_t avx_size, avx_offset;
};

static pthread_once_t host_once = PTHREAD_ONCE_INIT;
static struct host host; /* constant after host_query */

static uint32_t host_reg(uint32_t leaf, uint32_t subleaf, unsigned reg)
{
    uint32_t r[4] = {0};

    if (!__get_cpuid_count(leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]))
        return 0;
    return r[reg];
}

static void host_query(void)
{
    uint32_t *f = host.features;

    for (unsigned i = 0; i < F_COUNT; i++)
        f[i] =
            features[i].ours |
            (features[i].native & host_reg(features[i].leaf, features[i].subleaf, features[i].reg));
    /* The host's kernel, too, must have enabled what is to run natively. */
    host.xcr0 = 3;
    if ((f[F_1_ECX] & F1_ECX_AVX) && (f[F_1_ECX] & F1_ECX_XSAVE) &&
        (host_reg(1, 0, ECX) & F1_ECX_OSXSAVE) && __builtin_cpu_supports("avx")) {
        host.avx_size = host_reg(0xd, 2, EAX);
        host.avx_offset = host_reg(0xd, 2, EBX);
        host.xcr0 |= XCR0_AVX;
    } else {
        f[F_1_ECX] &= ~(F1_ECX_AVX | F1_ECX_NEED_AVX);
        f[F_7_EBX] &= ~F7_EBX_NEED_AVX;
    }
    if (!(f[F_1_ECX] & F1_ECX_XSAVE)) {
        f[F_D1_EAX] = 0;
        host.xcr0 = 0;
    }
    host.xcr0 &= CPUID_XCR0_MASK;
}

/* ---- Baselines ---------------------------------------------------------- */

/*
 * The levels of the x86-64 psABI and what kernels need to make use of them:
 * the same whatever the host and the engine, so that a guest can move. The
 * paging features that some processors of a level lack are left out.
 */
static const struct baseline {
    enum cpu_model model;
    const char *name;
    uint32_t shown[F_COUNT];
} baselines[] = {
#define B_1_EDX                                                                                    \
    (~BIT(1)) /* VME is no part of a level, and emulated processors below KVM have none */
#define B_1_ECX  (BIT(21) | BIT(24) | BIT(31))
#define B_X1_EDX (BIT(11) | BIT(20) | BIT(29))
    {CPU_V1,
     "x86-64-v1",
     {[F_1_ECX] = B_1_ECX, [F_1_EDX] = B_1_EDX, [F_7_EBX] = BIT(1), [F_X1_EDX] = B_X1_EDX}},
#define B2_1_ECX  (B_1_ECX | BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23))
#define B2_X1_EDX (B_X1_EDX | BIT(27))
    {CPU_V2,
     "x86-64-v2",
     {[F_1_ECX] = B2_1_ECX,
      [F_1_EDX] = B_1_EDX,
      [F_7_EBX] = BIT(1),
      [F_X1_ECX] = BIT(0),
      [F_X1_EDX] = B2_X1_EDX}},
    {CPU_V3,
     "x86-64-v3",
     {[F_1_ECX] = B2_1_ECX | BIT(12) | BIT(22) | BIT(26) | BIT(28) | BIT(29),
      [F_1_EDX] = B_1_EDX,
      [F_7_EBX] = BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(7) | BIT(8),
      [F_X1_ECX] = BIT(0) | BIT(5),
      [F_X1_EDX] = B2_X1_EDX | BIT(26)}},
};

static const struct baseline *baseline_of(enum cpu_model model)
{
    for (unsigned i = 0; i < ARRAY_SIZE(baselines); i++)
        if (baselines[i].model == model)
            return &baselines[i];
    return NULL;
}

int cpuid_check_model(enum cpu_model model, struct err *err)
{
    const struct baseline *b = baseline_of(model);

    pthread_once(&host_once, host_query);
    for (unsigned i = 0; b && i < F_COUNT; i++) {
        uint32_t missing =
            b->shown[i] & (features[i].ours | features[i].native) & ~host.features[i];

        if (!missing)
            continue;
        err_set(
            err, -ENOTSUP,
            "this host cannot give CPU model %s: its processor lacks bit %d of CPUID leaf 0x%x, %s",
            b->name, __builtin_ctz(missing), features[i].leaf,
            (const char *const[]){"EAX", "EBX", "ECX", "EDX"}[features[i].reg]);
        return err_next(err, "Choose a lower level with --cpu.");
    }
    return 0;
}

/* ---- Leaves ------------------------------------------------------------- */

struct query {
    const struct vcpu *vcpu;
    const struct x86_state *st;
    uint32_t leaf, subleaf;
};

static uint32_t feature(const struct query *q, enum feature_word word)
{
    enum cpu_model model = q->vcpu->vm->cfg.cpu;
    const struct baseline *b = baseline_of(model);

    if (model == CPU_MAX)
        return host.features[word] | features[word].max;
    return host.features[word] & (b ? b->shown[word] : ~0u);
}

/* XCR0 as guests may set it. */
static uint32_t shown_xcr0(const struct query *q)
{
    if (!(feature(q, F_1_ECX) & F1_ECX_XSAVE))
        return 0;
    return host.xcr0 | (feature(q, F_7_ECX) & F7_ECX_PKU ? XCR0_PKRU : 0);
}

/* Bits of the APIC ID that number the CPUs. */
static unsigned core_bits(const struct vcpu *vcpu)
{
    unsigned bits = 0;

    while ((1u << bits) < vcpu->vm->cfg.cpus)
        bits++;
    return bits;
}

static void put_text(uint32_t *out, const char *text, size_t size)
{
    memcpy(out, text, size);
}

static uint64_t misc_enable(const struct vcpu *vcpu)
{
    return vcpu->msrs ? msr_misc_enable(vcpu->msrs) : 0;
}

/* Boot loaders of old systems ask for the limit, which these need. */
static uint32_t max_basic(const struct vcpu *vcpu)
{
    return misc_enable(vcpu) & MISC_ENABLE_LIMIT_CPUID ? LIMITED_BASIC : MAX_BASIC;
}

static void leaf_vendor(const struct query *q, uint32_t out[4])
{
    out[EAX] = max_basic(q->vcpu);
    put_text(&out[EBX], "Genu", 4);
    put_text(&out[EDX], "ineI", 4);
    put_text(&out[ECX], "ntel", 4);
}

static void leaf_features(const struct query *q, uint32_t out[4])
{
    out[EAX] = CPUID_SIGNATURE;
    out[EBX] = q->vcpu->id << 24 | 1u << (16 + core_bits(q->vcpu)) | (64 / 8) << 8;
    out[ECX] = feature(q, F_1_ECX);
    out[EDX] = feature(q, F_1_EDX);
    if ((out[ECX] & F1_ECX_XSAVE) && (q->st->cr4 & X86_CR4_OSXSAVE))
        out[ECX] |= F1_ECX_OSXSAVE;
    if (q->vcpu->vm->cfg.cpus > 1)
        out[EDX] |= F1_EDX_HTT;
    if (q->vcpu->lapic && !lapic_is_on(q->vcpu->lapic))
        out[EDX] &= ~F1_EDX_APIC;
}

/* One descriptor: "see leaf 4". */
static void leaf_cache_descriptors(const struct query *q, uint32_t out[4])
{
    out[EAX] = 0xff01;
}

static void leaf_caches(const struct query *q, uint32_t out[4])
{
    static const struct {
        uint32_t type, level, ways, sets;
        bool shared;
    } caches[] = {
        {1, 1, 8, 64, false},    /* data, 32 KiB */
        {2, 1, 8, 64, false},    /* instructions, 32 KiB */
        {3, 2, 16, 1024, false}, /* unified, 1 MiB */
        {3, 3, 16, 16384, true}, /* unified, 16 MiB for the package */
    };
    uint32_t ids = (1u << core_bits(q->vcpu)) - 1;

    if (q->subleaf >= ARRAY_SIZE(caches))
        return;
    out[EAX] = caches[q->subleaf].type | caches[q->subleaf].level << 5 |
               BIT(8) /* self-initializing */ | (caches[q->subleaf].shared ? ids : 0) << 14 |
               (ids < 63 ? ids : 63) << 26;
    out[EBX] = (caches[q->subleaf].ways - 1) << 22 | (64 - 1);
    out[ECX] = caches[q->subleaf].sets - 1;
}

/* The APIC timer never stops. */
static void leaf_power(const struct query *q, uint32_t out[4])
{
    out[EAX] = BIT(2);
}

static void leaf_features7(const struct query *q, uint32_t out[4])
{
    if (q->subleaf)
        return;
    out[EBX] = feature(q, F_7_EBX);
    out[ECX] = feature(q, F_7_ECX);
    if (q->st->cr4 & X86_CR4_PKE)
        out[ECX] |= F7_ECX_OSPKE;
    out[EDX] = feature(q, F_7_EDX);
}

/* Every vCPU is a core of its own in one package. */
static void leaf_topology(const struct query *q, uint32_t out[4])
{
    out[ECX] = q->subleaf & 0xff;
    out[EDX] = q->vcpu->id;
    if (q->subleaf == 0) {
        out[EBX] = 1;
        out[ECX] |= 1 << 8; /* threads of a core */
    } else if (q->subleaf == 1) {
        out[EAX] = core_bits(q->vcpu);
        out[EBX] = q->vcpu->vm->cfg.cpus;
        out[ECX] |= 2 << 8; /* cores of a package */
    }
}

static uint32_t xsave_size(uint64_t xcr0)
{
    if (xcr0 & XCR0_PKRU)
        return XSAVE_PKRU + PKRU_SIZE;
    return xcr0 & XCR0_AVX ? host.avx_offset + host.avx_size : XSAVE_LEGACY_SIZE;
}

static void leaf_xsave(const struct query *q, uint32_t out[4])
{
    if (!(feature(q, F_1_ECX) & F1_ECX_XSAVE))
        return;
    if (q->subleaf == 0) {
        out[EAX] = shown_xcr0(q);
        out[EBX] = xsave_size(q->st->xcr0);
        out[ECX] = xsave_size(shown_xcr0(q));
    } else if (q->subleaf == 1) {
        out[EAX] = feature(q, F_D1_EAX);
        if (out[EAX] & BIT(1)) /* compacted, AVX follows the header at once */
            out[EBX] = XSAVE_LEGACY_SIZE + (q->st->xcr0 & XCR0_AVX ? host.avx_size : 0) +
                       (q->st->xcr0 & XCR0_PKRU ? PKRU_SIZE : 0);
    } else if (q->subleaf == 2 && (shown_xcr0(q) & XCR0_AVX)) {
        out[EAX] = host.avx_size;
        out[EBX] = host.avx_offset;
    } else if (q->subleaf == 9 && (shown_xcr0(q) & XCR0_PKRU)) {
        out[EAX] = PKRU_SIZE;
        out[EBX] = XSAVE_PKRU;
    }
}

/*
 * TSC = crystal * EBX / EAX. The crystal is the APIC timer's clock, 1 GHz.
 * Linux computes crystal_khz * EBX in 32 bits, which bounds EBX: take the best
 * fraction below that, a convergent of the continued fraction or the last
 * step towards the next one. That is mostly exact to a few parts in a million
 * and never worse than 200; the paravirtual clock has the rate itself.
 */
#define CRYSTAL_KHZ 1000000ull

static void leaf_tsc(const struct query *q, uint32_t out[4])
{
    const uint64_t limit = UINT32_MAX / CRYSTAL_KHZ;
    uint64_t a = q->vcpu->vm->clock.tsc_khz, b = CRYSTAL_KHZ;
    uint64_t num = 1, den = 0, num_before = 0, den_before = 1;

    while (b) {
        uint64_t whole = a / b, rest = a % b;
        uint64_t n = whole * num + num_before, d = whole * den + den_before;

        if (n > limit || d > limit) {
            uint64_t part = (limit - num_before) / num;

            if (den && part > (limit - den_before) / den)
                part = (limit - den_before) / den;
            if (2 * part > whole) {
                num = part * num + num_before;
                den = part * den + den_before;
            }
            break;
        }
        num_before = num;
        den_before = den;
        num = n;
        den = d;
        a = b;
        b = rest;
    }
    if (!num || !den)
        return;
    out[EAX] = (uint32_t)den;
    out[EBX] = (uint32_t)num;
    out[ECX] = (uint32_t)(CRYSTAL_KHZ * 1000);
}

static void leaf_frequency(const struct query *q, uint32_t out[4])
{
    out[EAX] = out[EBX] = (uint32_t)((q->vcpu->vm->clock.tsc_khz + 500) / 1000) & 0xffff;
    out[ECX] = 100;
}

/* ---- Hypervisor leaves: Linux Documentation/virt/kvm/x86/cpuid.rst ------- */

static void leaf_hv_vendor(const struct query *q, uint32_t out[4])
{
    out[EAX] = HV_MAX;
    put_text(&out[EBX], "KVMKVMKVM\0\0\0", 12);
}

static void leaf_hv_features(const struct query *q, uint32_t out[4])
{
    out[EAX] = BIT(0) /* clocksource, old MSRs */ | BIT(1) /* no I/O delays */ |
               BIT(3) /* clocksource */ | BIT(24) /* clocksource agrees between CPUs */;
    /* Hypercalls differ between vendors, so a guest that may move gets none. */
    if (!baseline_of(q->vcpu->vm->cfg.cpu))
        out[EAX] |= BIT(11); /* send IPI */
}

static void leaf_hv_timing(const struct query *q, uint32_t out[4])
{
    out[EAX] = (uint32_t)q->vcpu->vm->clock.tsc_khz;
    out[EBX] = (uint32_t)CRYSTAL_KHZ; /* APIC timer */
}

/* ---- Extended leaves ----------------------------------------------------- */

static void leaf_ext_max(const struct query *q, uint32_t out[4])
{
    out[EAX] = MAX_EXTENDED;
}

static void leaf_ext_features(const struct query *q, uint32_t out[4])
{
    out[ECX] = feature(q, F_X1_ECX);
    out[EDX] = feature(q, F_X1_EDX);
    if (misc_enable(q->vcpu) & MISC_ENABLE_NO_XD)
        out[EDX] &= ~X1_EDX_NX;
}

static void leaf_brand(const struct query *q, uint32_t out[4])
{
    static const char brand[48] = "Lodge virtual CPU";

    put_text(out, brand + (q->leaf - 0x80000002) * 16, 16);
}

static void leaf_ext_l2(const struct query *q, uint32_t out[4])
{
    out[ECX] = 1024 << 16 | 8 /* 16 ways */ << 12 | 64;
}

static void leaf_ext_power(const struct query *q, uint32_t out[4])
{
    out[EDX] = BIT(8); /* invariant TSC */
}

static void leaf_ext_address(const struct query *q, uint32_t out[4])
{
    out[EAX] = 48 << 8 | X86_PHYS_BITS;
}

/* Leaves not listed read as zero. */
static const struct {
    uint32_t leaf;
    void (*fill)(const struct query *q, uint32_t out[4]);
} leaves[] = {
    {0x0, leaf_vendor},
    {0x1, leaf_features},
    {0x2, leaf_cache_descriptors},
    {0x4, leaf_caches},
    {0x6, leaf_power},
    {0x7, leaf_features7},
    {0xb, leaf_topology},
    {0xd, leaf_xsave},
    {0x15, leaf_tsc},
    {0x16, leaf_frequency},
    {HV_BASE, leaf_hv_vendor},
    {HV_BASE + 1, leaf_hv_features},
    {HV_MAX, leaf_hv_timing},
    {0x80000000, leaf_ext_max},
    {0x80000001, leaf_ext_features},
    {0x80000002, leaf_brand},
    {0x80000003, leaf_brand},
    {0x80000004, leaf_brand},
    {0x80000006, leaf_ext_l2},
    {0x80000007, leaf_ext_power},
    {0x80000008, leaf_ext_address},
};

/* Beyond the highest leaf of its range a query answers as the highest basic leaf does (SDM). */
static uint32_t leaf_in_range(const struct vcpu *vcpu, uint32_t leaf)
{
    uint32_t max = max_basic(vcpu);

    if (leaf >= HV_BASE && leaf <= HV_END)
        return leaf;
    if (leaf & BIT(31))
        return leaf <= MAX_EXTENDED ? leaf : max;
    return leaf <= max ? leaf : max;
}

void cpuid_get(const struct vcpu *vcpu, const struct x86_state *st, uint32_t leaf, uint32_t subleaf,
               uint32_t out[4])
{
    struct query q = {vcpu, st, leaf_in_range(vcpu, leaf), subleaf};

    pthread_once(&host_once, host_query);
    memset(out, 0, 4 * sizeof(out[0]));
    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        if (leaves[i].leaf == q.leaf) {
            leaves[i].fill(&q, out);
            return;
        }
    }
}
