/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/x86/cpuid.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <cpuid.h>

#include "core/vm.h"
#include "x86/cpuid.h"
#include "x86/lapic.h"
#include "x86/msr.h"

#define BIT(n) (1u << (n))

enum { EAX, EBX, ECX, EDX };

struct rig {
    struct vm vm;
    struct vcpu vcpu;
    struct x86_state st;
    uint32_t r[4];
};

/* Of the chips whose state CPUID follows; the rig has none unless a test says so. */
static bool apic_on;
static uint64_t misc_enable;

bool lapic_is_on(const struct lapic *lapic)
{
    return apic_on;
}

uint64_t msr_misc_enable(const struct msr_state *ms)
{
    return misc_enable;
}

static void rig_init(struct rig *rig, unsigned cpus, unsigned id)
{
    memset(rig, 0, sizeof(*rig));
    rig->vm.cfg.cpus = cpus;
    rig->vm.clock.tsc_khz = 2596123;
    rig->vcpu.vm = &rig->vm;
    rig->vcpu.id = id;
    rig->st.xcr0 = 1;
}

static const uint32_t *ask(struct rig *rig, uint32_t leaf, uint32_t subleaf)
{
    memset(rig->r, 0xa5, sizeof(rig->r));
    cpuid_get(&rig->vcpu, &rig->st, leaf, subleaf, rig->r);
    return rig->r;
}

static void vendor_and_model(void **state)
{
    struct rig rig;
    const uint32_t *r;
    char vendor[13] = "", brand[49] = "";
    uint32_t sig;

    rig_init(&rig, 1, 0);
    r = ask(&rig, 0, 0);
    assert_int_equal(r[EAX], 0x16);
    memcpy(vendor, &r[EBX], 4);
    memcpy(vendor + 4, &r[EDX], 4);
    memcpy(vendor + 8, &r[ECX], 4);
    assert_string_equal(vendor, "GenuineIntel");
    sig = ask(&rig, 1, 0)[EAX];
    assert_int_equal(sig >> 8 & 0xf, 6);
    assert_int_equal((sig >> 12 & 0xf0) | (sig >> 4 & 0xf), 0x36);
    assert_int_equal(ask(&rig, 0x80000000, 0)[EAX], 0x80000008);
    for (unsigned i = 0; i < 3; i++)
        memcpy(brand + 16 * i, ask(&rig, 0x80000002 + i, 0), 16);
    assert_string_equal(brand, "Lodge virtual CPU");
}

/* What no guest may see: its engine does not do it, or the kernel would pay for it. */
static void never_shown(void **state)
{
    struct rig rig;
    const uint32_t *r;

    rig_init(&rig, 4, 0);
    rig.st.cr4 = X86_CR4_OSXSAVE;
    r = ask(&rig, 1, 0);
    assert_int_equal(r[ECX] & (BIT(3) /* MONITOR */ | BIT(5) /* VMX */ | BIT(6) /* SMX */), 0);
    r = ask(&rig, 7, 0);
    assert_int_equal(r[EBX] & (BIT(4) | BIT(11) /* TSX */ | BIT(2) /* SGX */), 0);
    assert_int_equal(r[EBX] & 0xdc230000u, 0); /* AVX-512: F DQ IFMA PF ER CD BW VL */
    assert_int_equal(r[ECX] & (BIT(2) /* UMIP */ | BIT(3) /* PKU */ | BIT(5) /* WAITPKG */ |
                               BIT(7) /* CET SS */ | BIT(16) /* LA57 */),
                     0);
    assert_int_equal(r[EDX] & (BIT(20) /* CET IBT */ | BIT(26) | BIT(27) | BIT(31)), 0);
    assert_int_equal(ask(&rig, 0xd, 1)[EAX] & BIT(3) /* XSAVES */, 0);
    assert_int_equal(ask(&rig, 0xd, 0)[EAX] & ~(uint32_t)CPUID_XCR0_MASK, 0);
    assert_int_equal(ask(&rig, 0x80000001, 0)[ECX] & BIT(2) /* SVM */, 0);
}

static void always_shown(void **state)
{
    struct rig rig;
    const uint32_t *r;

    rig_init(&rig, 1, 0);
    r = ask(&rig, 1, 0);
    assert_int_equal(~r[ECX] & (BIT(17) | BIT(21) | BIT(24) | BIT(31)), 0);
    assert_int_equal(~r[EDX] & 0x078bfbffu, 0);
    r = ask(&rig, 7, 0);
    assert_int_equal(~r[EBX] & (BIT(0) | BIT(7) | BIT(10) | BIT(20)), 0);
    assert_int_equal(~r[EDX] & BIT(29), 0);
    r = ask(&rig, 0x80000001, 0);
    assert_int_equal(~r[EDX] & (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29)), 0);
    assert_int_equal(ask(&rig, 0x80000007, 0)[EDX], BIT(8));
    assert_int_equal(ask(&rig, 0x80000008, 0)[EAX], 48 << 8 | 40);
    assert_int_equal(ask(&rig, 6, 0)[EAX], BIT(2));
}

/* Code the engine runs natively must exist on the host. */
static void native_features_are_the_hosts(void **state)
{
    static const struct {
        uint32_t leaf, reg, mask;
    } native[] = {
        {1, ECX, 0x76d83203u & ~(BIT(17) | BIT(21) | BIT(24))},
        {7, EBX, BIT(3) | BIT(5) | BIT(8) | BIT(18) | BIT(19) | BIT(23) | BIT(29)},
        {0x80000001, ECX, BIT(5)},
    };
    struct rig rig;

    rig_init(&rig, 1, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(native); i++) {
        uint32_t h[4] = {0};

        __get_cpuid_count(native[i].leaf, 0, &h[EAX], &h[EBX], &h[ECX], &h[EDX]);
        assert_int_equal(
            ask(&rig, native[i].leaf, 0)[native[i].reg] & native[i].mask & ~h[native[i].reg], 0);
    }
}

/* What costs speed is for those who ask for everything. */
static void all_there_is(void **state)
{
    struct rig rig;

    rig_init(&rig, 1, 0);
    rig.vm.cfg.cpu = CPU_MAX;
    assert_int_equal(~ask(&rig, 7, 0)[ECX] & (BIT(2) | BIT(3) | BIT(31)), 0);
    assert_int_equal(ask(&rig, 7, 0)[ECX] & BIT(4) /* OSPKE */, 0);
    rig.st.cr4 = X86_CR4_PKE;
    assert_int_equal(ask(&rig, 7, 0)[ECX] & BIT(4), BIT(4));
    if (!(ask(&rig, 1, 0)[ECX] & BIT(26)))
        skip();
    assert_int_equal(ask(&rig, 0xd, 0)[EAX] & XCR0_PKRU, XCR0_PKRU);
    assert_int_equal(ask(&rig, 0xd, 0)[ECX], XSAVE_PKRU + 8);
    assert_int_equal(ask(&rig, 0xd, 9)[EAX], 8);
    assert_int_equal(ask(&rig, 0xd, 9)[EBX], XSAVE_PKRU);
    assert_int_equal(ask(&rig, 0xd, 0)[EBX], 576);
    rig.st.xcr0 = 7 | XCR0_PKRU;
    assert_int_equal(ask(&rig, 0xd, 0)[EBX], XSAVE_PKRU + 8);
}

static void features_follow_the_chips(void **state)
{
    struct rig rig;

    rig_init(&rig, 1, 0);
    rig.vcpu.lapic = (void *)&rig;
    rig.vcpu.msrs = (void *)&rig;
    apic_on = true;
    assert_int_equal(ask(&rig, 1, 0)[EDX] & BIT(9), BIT(9));
    apic_on = false;
    assert_int_equal(ask(&rig, 1, 0)[EDX] & BIT(9), 0);
    misc_enable = MISC_ENABLE_LIMIT_CPUID;
    assert_int_equal(ask(&rig, 0, 0)[EAX], 3);
    assert_int_equal(ask(&rig, 7, 0)[EBX], 0);
    assert_int_equal(ask(&rig, 0x80000001, 0)[EDX] & BIT(20), BIT(20));
    misc_enable = MISC_ENABLE_NO_XD;
    assert_int_equal(ask(&rig, 0, 0)[EAX], 0x16);
    assert_int_equal(ask(&rig, 0x80000001, 0)[EDX] & BIT(20), 0);
}

static void osxsave_and_sizes_follow_the_state(void **state)
{
    struct rig rig;
    const uint32_t *r;

    rig_init(&rig, 1, 0);
    assert_int_equal(ask(&rig, 1, 0)[ECX] & BIT(27), 0);
    if (!(ask(&rig, 1, 0)[ECX] & BIT(26)))
        skip();
    rig.st.cr4 = X86_CR4_OSXSAVE;
    assert_int_equal(ask(&rig, 1, 0)[ECX] & BIT(27), BIT(27));
    r = ask(&rig, 0xd, 0);
    assert_int_equal(r[EBX], 576);
    if (!(r[EAX] & 4))
        skip();
    assert_int_equal(r[ECX], 832);
    rig.st.xcr0 = 7;
    assert_int_equal(ask(&rig, 0xd, 0)[EBX], 832);
    r = ask(&rig, 0xd, 2);
    assert_int_equal(r[EAX], 256);
    assert_int_equal(r[EBX], 576);
    r = ask(&rig, 0xd, 3);
    assert_int_equal(r[EAX] | r[EBX] | r[ECX] | r[EDX], 0);
}

static void topology_holds_together(void **state)
{
    static const unsigned counts[] = {1, 2, 3, 4, 5, 8, 63, 64};

    for (unsigned c = 0; c < ARRAY_SIZE(counts); c++) {
        unsigned cpus = counts[c], bits = 0;
        struct rig rig;
        const uint32_t *r;

        while (1u << bits < cpus)
            bits++;
        rig_init(&rig, cpus, cpus - 1);
        r = ask(&rig, 1, 0);
        assert_int_equal(r[EBX] >> 24, cpus - 1);
        assert_int_equal(r[EBX] >> 16 & 0xff, 1u << bits);
        assert_int_equal(!!(r[EDX] & BIT(28)), cpus > 1);
        r = ask(&rig, 0xb, 0);
        assert_int_equal(r[EAX], 0);
        assert_int_equal(r[EBX], 1);
        assert_int_equal(r[ECX], 0x100);
        assert_int_equal(r[EDX], cpus - 1);
        r = ask(&rig, 0xb, 1);
        assert_int_equal(r[EAX], bits);
        assert_int_equal(r[EBX], cpus);
        assert_int_equal(r[ECX], 0x201);
        assert_int_equal(r[EDX], cpus - 1);
        r = ask(&rig, 0xb, 2);
        assert_int_equal(r[EAX] | r[EBX], 0);
        assert_int_equal(r[ECX], 2);
        /* Leaf 4 counts the same cores; the last level is shared by all. */
        assert_int_equal(ask(&rig, 4, 0)[EAX] >> 26, (1u << bits) - 1);
        assert_int_equal(ask(&rig, 4, 0)[EAX] >> 14 & 0xfff, 0);
        assert_int_equal(ask(&rig, 4, 3)[EAX] >> 14 & 0xfff, (1u << bits) - 1);
        assert_int_equal(ask(&rig, 4, 4)[EAX], 0);
    }
}

static void tsc_rate_is_told_consistently(void **state)
{
    static const uint64_t rates[] = {100000,  999999,  1000000, 1000001, 1896000, 2100000,
                                     2499999, 2500001, 2596123, 3333333, 4001234, 5700000};

    for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
        struct rig rig;
        const uint32_t *r;
        uint64_t khz, off;

        rig_init(&rig, 1, 0);
        rig.vm.clock.tsc_khz = rates[i];
        assert_int_equal(ask(&rig, 0x40000010, 0)[EAX], rates[i]);
        r = ask(&rig, 0x15, 0);
        assert_true(r[EAX] && r[EBX] && r[ECX]);
        khz = (uint64_t)r[ECX] / 1000 * r[EBX] / r[EAX];
        off = khz > rates[i] ? khz - rates[i] : rates[i] - khz;
        assert_in_range(off, 0, rates[i] / 5000);
        /* Linux multiplies in 32 bits. */
        assert_true((uint64_t)r[ECX] / 1000 * r[EBX] <= UINT32_MAX);
        assert_int_equal(ask(&rig, 0x16, 0)[EAX], (rates[i] + 500) / 1000);
    }
}

static void hypervisor_leaves(void **state)
{
    struct rig rig;
    const uint32_t *r;

    rig_init(&rig, 1, 0);
    r = ask(&rig, 0x40000000, 0);
    assert_int_equal(r[EAX], 0x40000010);
    assert_memory_equal(&r[EBX], "KVMKVMKVM\0\0\0", 12);
    r = ask(&rig, 0x40000001, 0);
    assert_int_equal(r[EAX], BIT(0) | BIT(1) | BIT(3) | BIT(11) | BIT(24));
    r = ask(&rig, 0x40000011, 0);
    assert_int_equal(r[EAX] | r[EBX] | r[ECX] | r[EDX], 0);
    r = ask(&rig, 0x4fffffff, 0);
    assert_int_equal(r[EAX] | r[EBX] | r[ECX] | r[EDX], 0);
}

static void beyond_the_range_answers_the_highest_basic_leaf(void **state)
{
    static const uint32_t beyond[] = {0x17, 0x1f, 0x3fffffff, 0x80000009, 0x8fffffff, 0xffffffff};
    struct rig rig;
    uint32_t want[4];

    rig_init(&rig, 1, 0);
    memcpy(want, ask(&rig, 0x16, 0), sizeof(want));
    for (unsigned i = 0; i < ARRAY_SIZE(beyond); i++)
        assert_memory_equal(ask(&rig, beyond[i], 0), want, sizeof(want));
    assert_int_equal(ask(&rig, 5, 0)[EAX], 0);
    assert_int_equal(ask(&rig, 7, 1)[EAX], 0);
    assert_int_equal(ask(&rig, 7, 0xffffffff)[EBX], 0);
    assert_int_equal(ask(&rig, 4, 0xffffffff)[EAX], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vendor_and_model),
        cmocka_unit_test(never_shown),
        cmocka_unit_test(always_shown),
        cmocka_unit_test(native_features_are_the_hosts),
        cmocka_unit_test(all_there_is),
        cmocka_unit_test(features_follow_the_chips),
        cmocka_unit_test(osxsave_and_sizes_follow_the_state),
        cmocka_unit_test(topology_holds_together),
        cmocka_unit_test(tsc_rate_is_told_consistently),
        cmocka_unit_test(hypervisor_leaves),
        cmocka_unit_test(beyond_the_range_answers_the_highest_basic_leaf),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
