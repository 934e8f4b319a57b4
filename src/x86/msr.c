/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MSRs of the machine (SDM volume 4; MTRRs: volume 3, 11.11) and the KVM
 * paravirtual clock (Linux Documentation/virt/kvm/x86/msr.rst). Everything not
 * in the table raises #GP.
 */
#include "x86/msr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/vm.h"
#include "x86/cpuid.h"
#include "x86/state.h"

#define BIT64(n) (1ull << (n))

#define MSR_KVM_WALL_CLOCK      0x11u
#define MSR_KVM_SYSTEM_TIME     0x12u
#define MSR_PLATFORM_ID         0x17u
#define MSR_BIOS_SIGN_ID        0x8bu
#define MSR_PLATFORM_INFO       0xceu
#define MSR_MTRRCAP             0xfeu
#define MSR_ARCH_CAPABILITIES   0x10au
#define MSR_MCG_CAP             0x179u
#define MSR_MCG_STATUS          0x17au
#define MSR_MISC_ENABLE         0x1a0u
#define MSR_DEBUGCTL            0x1d9u
#define MSR_MTRR_PHYSBASE0      0x200u
#define MSR_MTRR_FIX64K_00000   0x250u
#define MSR_MTRR_FIX16K_80000   0x258u
#define MSR_MTRR_FIX4K_C0000    0x268u
#define MSR_MTRR_DEF_TYPE       0x2ffu
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u

#define MTRR_VARIABLE 8
#define MTRR_FIX4K    8
#define MTRR_WB       6u
#define MTRR_CAP      (MTRR_VARIABLE | BIT64(8) /* fixed ranges */ | BIT64(10) /* WC */)
#define MTRR_DEF_MASK (0xffull | BIT64(10) | BIT64(11))
#define MTRR_VALID    BIT64(11)
#define PHYS_MASK     (BIT64(X86_PHYS_BITS) - 1)
#define FIXED_WB      0x0606060606060606ull
#define FIXED_UC      0ull

/* Nothing speculates in here (cpuid.c): every "not affected" bit there is. */
#define ARCH_CAPABILITIES                                                                          \
    (BIT64(0) /* RDCL_NO */ | BIT64(3) /* SKIP_L1DFL_VMENTRY */ | BIT64(4) /* SSB_NO */ |          \
     BIT64(5) /* MDS_NO */ | BIT64(6) /* IF_PSCHANGE_MC_NO */ | BIT64(8) /* TAA_NO */ |            \
     BIT64(13) /* SBDR_SSDP_NO */ | BIT64(14) /* FBSDP_NO */ | BIT64(15) /* PSDP_NO */ |           \
     BIT64(20) /* BHI_NO */ | BIT64(24) /* PBRSB_NO */ | BIT64(26) /* GDS_NO */ |                  \
     BIT64(27) /* RFDS_NO */ | BIT64(62) /* ITS_NO */)

#define MISC_ENABLE_RESET                                                                          \
    (BIT64(0) /* fast strings */ | BIT64(11) | BIT64(12) /* no BTS, no PEBS */)
#define MICROCODE_REVISION (0x1ull << 32)

/* What is stored, by index into msr_state.reg. */
enum {
    REG_WALL_CLOCK,
    REG_SYSTEM_TIME,
    REG_MCG_STATUS,
    REG_MISC_ENABLE,
    REG_DEBUGCTL,
    REG_MTRR_VAR, /* base and mask in turn */
    REG_MTRR_FIX64K = REG_MTRR_VAR + 2 * MTRR_VARIABLE,
    REG_MTRR_FIX16K,
    REG_MTRR_FIX4K = REG_MTRR_FIX16K + 2,
    REG_MTRR_DEF = REG_MTRR_FIX4K + MTRR_FIX4K,
    REG_COUNT,
    REG_NONE, /* computed or constant */
};

struct msr_state {
    struct vcpu *vcpu;
    uint32_t clock_version, wall_version;
    uint64_t reg[REG_COUNT];
};

struct msr_desc {
    uint32_t first, count;
    unsigned reg;      /* of the first */
    uint64_t value;    /* after reset, or the constant */
    uint64_t writable; /* bits that may differ from `value`; others raise #GP */
    uint64_t (*get)(const struct msr_state *ms);
    /* `i` counts from `first`. -1: #GP, nothing is stored. NULL: every value is right. */
    int (*check)(const struct msr_state *ms, unsigned i, uint64_t val);
    void (*act)(struct msr_state *ms,
                uint64_t val); /* at a write, before it is stored; NULL: nothing */
    bool read_only;
};

/* ---- MTRRs: kept for the guest to read back; memory types change nothing here --- */

static bool mtrr_type_valid(uint8_t type)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static int mtrr_var_check(const struct msr_state *ms, unsigned i, uint64_t val)
{
    uint64_t defined = (PHYS_MASK & PAGE_MASK) | (i & 1 ? MTRR_VALID : 0xff);

    if (val & ~defined)
        return -1;
    return i & 1 || mtrr_type_valid((uint8_t)val) ? 0 : -1;
}

static int mtrr_fixed_check(const struct msr_state *ms, unsigned i, uint64_t val)
{
    for (unsigned byte = 0; byte < 8; byte++) {
        if (!mtrr_type_valid((uint8_t)(val >> (8 * byte))))
            return -1;
    }
    return 0;
}

static int mtrr_def_check(const struct msr_state *ms, unsigned i, uint64_t val)
{
    return (val & ~MTRR_DEF_MASK) || !mtrr_type_valid((uint8_t)val) ? -1 : 0;
}

/* As firmware leaves it: RAM write-back, the VGA window and the gap below 4 GiB uncached. */
static void mtrr_reset(struct msr_state *ms)
{
    ms->reg[REG_MTRR_VAR] = MEM_LOW_MAX;
    ms->reg[REG_MTRR_VAR + 1] = (PHYS_MASK & ~(MEM_HIGH_BASE - MEM_LOW_MAX - 1)) | MTRR_VALID;
    ms->reg[REG_MTRR_FIX64K] = FIXED_WB;
    ms->reg[REG_MTRR_FIX16K] = FIXED_WB;
    ms->reg[REG_MTRR_FIX16K + 1] = FIXED_UC;
    for (unsigned i = 0; i < MTRR_FIX4K; i++)
        ms->reg[REG_MTRR_FIX4K + i] = FIXED_WB;
}

/* ---- Paravirtual clock --------------------------------------------------- */

#define CLOCK_ENABLED    BIT64(0)
#define CLOCK_TSC_STABLE 1u
#define NSEC_PER_SEC     1000000000ull

/* Guest ABI: little-endian, as the host is. */
struct pv_system_time {
    uint32_t version; /* odd while being written */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time; /* ns at tsc_timestamp */
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};

struct pv_wall_clock {
    uint32_t version;
    uint32_t sec, nsec; /* UTC at system time 0 */
};

_Static_assert(sizeof(struct pv_system_time) == 32, "guest ABI");
_Static_assert(sizeof(struct pv_wall_clock) == 12, "guest ABI");

/* mul and shift with ns = (ticks << shift) * mul >> 32 and the top bit of mul set. */
static void pv_scale(uint64_t khz, uint32_t *mul, int8_t *shift)
{
    uint64_t num = 1000000, den = khz;

    *shift = 0;
    while (num >= den) {
        den <<= 1;
        ++*shift;
    }
    while (num * 2 < den) {
        num <<= 1;
        --*shift;
    }
    *mul = (uint32_t)((num << 32) / den);
}

/*
 * Publish a structure whose first member is its version: odd, then the body,
 * then even, so that a guest reading meanwhile on another CPU tries again.
 * Memory that is not RAM is left alone.
 */
static void pv_publish(struct msr_state *ms, gpa_t gpa, const void *body, size_t size,
                       uint32_t version)
{
    struct vm *vm = ms->vcpu->vm;
    hva_t p = mem_hva(&vm->mem, gpa, size);
    uint32_t *word = (uint32_t *)(void *)p;

    if (!p)
        return;
    mem_own(&vm->mem, p, size);
    __atomic_store_n(word, version - 1, __ATOMIC_SEQ_CST);
    memcpy(p + sizeof(version), (const uint8_t *)body + sizeof(version), size - sizeof(version));
    __atomic_store_n(word, version, __ATOMIC_SEQ_CST);
    vm_mem_written(vm, gpa, size);
}

/*
 * Every CPU gets the same pair (TSC 0, time 0): time is a function of the TSC
 * alone and never differs between CPUs, which is what TSC_STABLE promises.
 */
static void pv_system_time_set(struct msr_state *ms, uint64_t val)
{
    struct pv_system_time t = {.flags = CLOCK_TSC_STABLE};

    if (!(val & CLOCK_ENABLED))
        return;
    pv_scale(ms->vcpu->vm->clock.tsc_khz, &t.tsc_to_system_mul, &t.tsc_shift);
    ms->clock_version += 2;
    pv_publish(ms, val & ~CLOCK_ENABLED, &t, sizeof(t), ms->clock_version);
}

static int pv_system_time_check(const struct msr_state *ms, unsigned i, uint64_t val)
{
    return val & 2 ? -1 : 0;
}

static int pv_wall_clock_check(const struct msr_state *ms, unsigned i, uint64_t val)
{
    return val & 3 ? -1 : 0;
}

static void pv_wall_clock_set(struct msr_state *ms, uint64_t val)
{
    const struct clock *clock = &ms->vcpu->vm->clock;
    struct pv_wall_clock w = {0};
    struct timespec now;
    uint64_t system_ns, ns;

    clock_gettime(CLOCK_REALTIME, &now);
    system_ns = (uint64_t)((unsigned __int128)clock_tsc(clock) * 1000000 / clock->tsc_khz);
    ns = (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec;
    ns = ns > system_ns ? ns - system_ns : 0;
    w.sec = (uint32_t)(ns / NSEC_PER_SEC);
    w.nsec = (uint32_t)(ns % NSEC_PER_SEC);
    ms->wall_version += 2;
    pv_publish(ms, val, &w, sizeof(w), ms->wall_version);
}

/* ---- The rest ------------------------------------------------------------ */

/* Maximum non-turbo ratio, in 100 MHz. */
static uint64_t platform_info_get(const struct msr_state *ms)
{
    return (ms->vcpu->vm->clock.tsc_khz / 100000 & 0xff) << 8;
}

static const struct msr_desc table[] = {
    {MSR_KVM_WALL_CLOCK, 1, REG_WALL_CLOCK, .writable = ~0ull, .check = pv_wall_clock_check,
     .act = pv_wall_clock_set},
    {MSR_KVM_SYSTEM_TIME, 1, REG_SYSTEM_TIME, .writable = ~0ull, .check = pv_system_time_check,
     .act = pv_system_time_set},
    {MSR_KVM_WALL_CLOCK_NEW, 1, REG_WALL_CLOCK, .writable = ~0ull, .check = pv_wall_clock_check,
     .act = pv_wall_clock_set},
    {MSR_KVM_SYSTEM_TIME_NEW, 1, REG_SYSTEM_TIME, .writable = ~0ull, .check = pv_system_time_check,
     .act = pv_system_time_set},
    {MSR_PLATFORM_ID, 1, REG_NONE, .read_only = true},
    /* The revision cannot be changed; writing is how software asks for it to be read. */
    {MSR_BIOS_SIGN_ID, 1, REG_NONE, MICROCODE_REVISION, .writable = ~0ull},
    {MSR_PLATFORM_INFO, 1, REG_NONE, .get = platform_info_get, .read_only = true},
    {MSR_ARCH_CAPABILITIES, 1, REG_NONE, ARCH_CAPABILITIES, .read_only = true},
    {MSR_MCG_CAP, 1, REG_NONE, .read_only = true},
    {MSR_MCG_STATUS, 1, REG_MCG_STATUS, .writable = 7},
    {MSR_MISC_ENABLE, 1, REG_MISC_ENABLE, MISC_ENABLE_RESET,
     .writable = BIT64(0) | BIT64(3) /* thermal control */ | BIT64(16) /* SpeedStep */ |
                 BIT64(18) /* MONITOR, which is not there either way */ | MISC_ENABLE_LIMIT_CPUID |
                 BIT64(23) /* no task priority messages */ | MISC_ENABLE_NO_XD},
    {MSR_DEBUGCTL, 1, REG_DEBUGCTL, .writable = 3 /* LBR, BTF */},
    {MSR_MTRRCAP, 1, REG_NONE, MTRR_CAP, .read_only = true},
    {MSR_MTRR_PHYSBASE0, 2 * MTRR_VARIABLE, REG_MTRR_VAR, .writable = ~0ull,
     .check = mtrr_var_check},
    {MSR_MTRR_FIX64K_00000, 1, REG_MTRR_FIX64K, .writable = ~0ull, .check = mtrr_fixed_check},
    {MSR_MTRR_FIX16K_80000, 2, REG_MTRR_FIX16K, .writable = ~0ull, .check = mtrr_fixed_check},
    {MSR_MTRR_FIX4K_C0000, MTRR_FIX4K, REG_MTRR_FIX4K, .writable = ~0ull,
     .check = mtrr_fixed_check},
    {MSR_MTRR_DEF_TYPE, 1, REG_MTRR_DEF, 0xc00 | MTRR_WB, .writable = ~0ull,
     .check = mtrr_def_check},
};

static const struct msr_desc *msr_find(uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        if (msr - table[i].first < table[i].count)
            return &table[i];
    }
    return NULL;
}

int msr_state_new(struct msr_state **ms, struct vcpu *vcpu, struct err *err)
{
    *ms = calloc(1, sizeof(**ms));
    if (!*ms)
        return err_set(err, -ENOMEM, "no memory for the MSRs of vCPU %u", vcpu->id);
    (*ms)->vcpu = vcpu;
    msr_state_reset(*ms);
    return 0;
}

void msr_state_free(struct msr_state *ms)
{
    free(ms);
}

void msr_state_reset(struct msr_state *ms)
{
    ms->clock_version = ms->wall_version = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        for (unsigned n = 0; table[i].reg != REG_NONE && n < table[i].count; n++)
            ms->reg[table[i].reg + n] = table[i].value;
    }
    mtrr_reset(ms);
}

uint64_t msr_misc_enable(const struct msr_state *ms)
{
    return ms->reg[REG_MISC_ENABLE];
}

void msr_save(const struct msr_state *ms, struct msr_saved *s)
{
    _Static_assert(ARRAY_SIZE(s->reg) == REG_COUNT, "as many as there are");
    memcpy(s->reg, ms->reg, sizeof(s->reg));
    s->clock_version = ms->clock_version;
    s->wall_version = ms->wall_version;
}

static bool is_right(struct msr_state *ms, const struct msr_desc *d, unsigned i, uint64_t val)
{
    return !((val ^ d->value) & ~d->writable) && (!d->check || d->check(ms, i, val) == 0);
}

/* MTRRs start out with values of their own, which pass the same checks. */
int msr_load(struct msr_state *ms, const struct msr_saved *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        for (unsigned n = 0; table[i].reg != REG_NONE && n < table[i].count; n++)
            if (!is_right(ms, &table[i], n, s->reg[table[i].reg + n]))
                return -EINVAL;
    memcpy(ms->reg, s->reg, sizeof(ms->reg));
    ms->clock_version = s->clock_version & ~1u;
    ms->wall_version = s->wall_version & ~1u;
    return 0;
}

int msr_read(struct msr_state *ms, uint32_t msr, uint64_t *val)
{
    const struct msr_desc *d = msr_find(msr);

    if (!d)
        return -1;
    if (d->get)
        *val = d->get(ms);
    else
        *val = d->reg == REG_NONE ? d->value : ms->reg[d->reg + (msr - d->first)];
    return 0;
}

int msr_write(struct msr_state *ms, uint32_t msr, uint64_t val)
{
    const struct msr_desc *d = msr_find(msr);

    if (!d || d->read_only || ((val ^ d->value) & ~d->writable))
        return -1;
    if (d->check && d->check(ms, msr - d->first, val) < 0)
        return -1;
    if (d->act)
        d->act(ms, val);
    if (d->reg != REG_NONE)
        ms->reg[d->reg + (msr - d->first)] = val;
    return 0;
}
