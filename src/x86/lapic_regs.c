/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The registers through their two doors: the MMIO page of xAPIC mode, where
 * what is not there reads as zero and is noted in ESR, and the MSRs of x2APIC
 * mode (SDM volume 3, 10.12), where it is #GP.
 */
#include "x86/lapic_internal.h"
#include "x86/state.h"

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC       0x800u

/* 6 LVT entries, EOI broadcast can be suppressed, version 0x14 */
#define VERSION (1u << 24 | (LVT_COUNT - 1) << 16 | 0x14)

#define SVR_BITS (0xffu | SVR_ENABLE | 1u << 9 | SVR_NO_BROADCAST)
#define ICR_BITS 0x000ccfffu

static const uint32_t lvt_bits[LVT_COUNT] = {
    [LVT_TIMER] = 0x000600ff | LVT_MASKED, [LVT_THERMAL] = 0x000007ff | LVT_MASKED,
    [LVT_PERF] = 0x000007ff | LVT_MASKED,  [LVT_LINT0] = 0x0000a7ff | LVT_MASKED,
    [LVT_LINT1] = 0x0000a7ff | LVT_MASKED, [LVT_ERROR] = 0x000000ff | LVT_MASKED,
};

static bool is_lvt(unsigned reg)
{
    return reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR;
}

/* Registers both modes have. False: there is no such readable register. */
static bool reg_read(struct lapic *l, unsigned reg, uint32_t *val)
{
    if (reg >= REG_ISR && reg < REG_TMR) {
        *val = l->isr[reg - REG_ISR];
    } else if (reg >= REG_TMR && reg < REG_IRR) {
        *val = l->tmr[reg - REG_TMR];
    } else if (reg >= REG_IRR && reg < REG_ESR) {
        *val = l->irr[reg - REG_IRR];
    } else if (is_lvt(reg)) {
        *val = l->lvt[reg - REG_LVT_TIMER];
    } else {
        switch (reg) {
        case REG_VERSION:
            *val = VERSION;
            break;
        case REG_TPR:
            *val = l->tpr;
            break;
        case REG_PPR:
            *val = lapic_ppr(l);
            break;
        case REG_LDR:
            *val = l->ldr;
            break;
        case REG_SVR:
            *val = l->svr;
            break;
        case REG_ESR:
            *val = l->esr;
            break;
        case REG_ICR:
            *val = l->icr;
            break;
        case REG_TMICT:
            *val = l->tmict;
            break;
        case REG_TMCCT:
            *val = lapic_timer_current(l);
            break;
        case REG_TDCR:
            *val = l->tdcr;
            break;
        default:
            return false;
        }
    }
    return true;
}

static void lvt_write(struct lapic *l, enum lapic_lvt which, uint32_t val)
{
    val &= lvt_bits[which];
    if (!(l->svr & SVR_ENABLE))
        val |= LVT_MASKED;
    if (which == LVT_TIMER)
        lapic_timer_set_lvt(l, val);
    else
        l->lvt[which] = val;
    if (which == LVT_LINT0)
        lapic_recheck(l);
}

static void svr_write(struct lapic *l, uint32_t val)
{
    l->svr = val & SVR_BITS;
    if (l->svr & SVR_ENABLE)
        return;
    /* Software disable masks every local source (SDM 10.4.7.2); what is pending stays. */
    for (unsigned i = 0; i < LVT_COUNT; i++)
        lvt_write(l, i, l->lvt[i]);
}

/* Registers both modes have. False: there is no such writable register. */
static bool reg_write(struct lapic *l, unsigned reg, uint32_t val)
{
    uint32_t old;

    if (is_lvt(reg)) {
        lvt_write(l, reg - REG_LVT_TIMER, val);
        return true;
    }
    switch (reg) {
    case REG_TPR:
        old = l->tpr;
        l->tpr = val & 0xff;
        if (l->tpr < old)
            lapic_recheck(l);
        return true;
    case REG_EOI:
        lapic_eoi(l);
        return true;
    case REG_SVR:
        svr_write(l, val);
        return true;
    case REG_ESR:
        l->esr = atomic_exchange(&l->esr_pending, 0);
        return true;
    case REG_TMICT:
        lapic_timer_set_initial(l, val);
        return true;
    case REG_TDCR:
        lapic_timer_set_divide(l, val);
        return true;
    default:
        return false;
    }
}

bool lapic_is_on(const struct lapic *l)
{
    return lapic_is_enabled(l);
}

bool lapic_claims(const struct lapic *l, gpa_t gpa)
{
    uint64_t base = l->base;

    return (base & (BASE_EN | BASE_EXTD)) == BASE_EN && (gpa & PAGE_MASK) == (base & PAGE_MASK);
}

static uint32_t xapic_read(struct lapic *l, unsigned reg)
{
    uint32_t val = 0;

    switch (reg) {
    case REG_ID:
        return l->vcpu->id << 24;
    case REG_APR: /* unsupported since the Pentium 4, but not an error */
    case REG_RRD:
    case REG_EOI:
        return 0;
    case REG_DFR:
        return l->dfr;
    case REG_ICR_HI:
        return l->icr_hi;
    default:
        if (!reg_read(l, reg, &val))
            lapic_error(l, ESR_REGISTER);
        return val;
    }
}

/* SDM 10.4.1: 32 bits on 16-byte boundaries; other accesses are undefined, here they see zeros. */
uint64_t lapic_mmio_read(struct lapic *l, uint64_t off, unsigned size)
{
    unsigned byte = off & 15;
    uint64_t val;

    if (byte >= 4)
        return 0;
    val = xapic_read(l, (unsigned)(off >> 4) & 0xff) >> (8 * byte);
    return size >= 4 ? val : val & ((1ull << (8 * size)) - 1);
}

static void xapic_write(struct lapic *l, unsigned reg, uint32_t val)
{
    switch (reg) {
    case REG_ID: /* read-only here, as on recent processors */
    case REG_VERSION:
    case REG_APR:
    case REG_PPR:
    case REG_RRD:
    case REG_TMCCT:
        break;
    case REG_LDR:
        l->ldr = val & 0xff000000;
        break;
    case REG_DFR:
        l->dfr = val | 0x0fffffff;
        break;
    case REG_ICR_HI:
        l->icr_hi = val & 0xff000000;
        break;
    case REG_ICR:
        l->icr = val & ICR_BITS;
        lapic_icr_send(l, l->icr, l->icr_hi >> 24);
        break;
    default:
        if (!reg_write(l, reg, val) && !(reg >= REG_ISR && reg < REG_ESR))
            lapic_error(l, ESR_REGISTER);
    }
}

void lapic_mmio_write(struct lapic *l, uint64_t off, unsigned size, uint64_t val)
{
    if ((off & 15) || size < 4)
        return;
    xapic_write(l, (unsigned)(off >> 4) & 0xff, (uint32_t)val);
}

bool lapic_has_msr(uint32_t msr)
{
    return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr & ~0xffu) == MSR_X2APIC;
}

static int x2apic_read(struct lapic *l, unsigned reg, uint64_t *val)
{
    uint32_t low;

    switch (reg) {
    case REG_ID:
        *val = l->vcpu->id;
        return 0;
    case REG_ICR:
        *val = (uint64_t)l->icr_hi << 32 | l->icr;
        return 0;
    default:
        if (!reg_read(l, reg, &low))
            return -1;
        *val = low;
        return 0;
    }
}

/* Bits that may be set in a write, SDM table 10-6; 0 also for what can't be written. */
static uint64_t x2apic_bits(unsigned reg)
{
    if (is_lvt(
            reg)) /* delivery status and remote IRR are read-only, not reserved: Linux writes them back */
        return lvt_bits[reg - REG_LVT_TIMER] | 1u << 12 | 1u << 14;
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI:
        return 0xff;
    case REG_SVR:
        return SVR_BITS;
    case REG_ICR:
        return 0xffffffffull << 32 | ICR_BITS;
    case REG_TMICT:
        return 0xffffffff;
    case REG_TDCR:
        return 0xb;
    default:
        return 0;
    }
}

static int x2apic_write(struct lapic *l, unsigned reg, uint64_t val)
{
    if (val & ~x2apic_bits(reg))
        return -1;
    switch (reg) {
    case REG_ICR:
        l->icr = (uint32_t)val;
        l->icr_hi = (uint32_t)(val >> 32);
        lapic_icr_send(l, l->icr, l->icr_hi);
        return 0;
    case REG_SELF_IPI:
        /* A fixed, edge-triggered interrupt to oneself, without touching ICR (SDM 10.12.11). */
        lapic_icr_send(l, 1u << 18 | (uint32_t)val, 0);
        return 0;
    default:
        return reg_write(l, reg, (uint32_t)val) ? 0 : -1;
    }
}

/* Mode changes, SDM 10.12.5: x2APIC is entered from xAPIC only and left to disabled only. */
static int base_write(struct lapic *l, uint64_t val)
{
    uint64_t old = l->base;
    unsigned id = l->vcpu->id;
    bool was_on = old & BASE_EN, was_x2 = old & BASE_EXTD;
    bool on = val & BASE_EN, x2 = val & BASE_EXTD;

    if (val >> X86_PHYS_BITS || (val & (0xfffull & ~(BASE_BSP | BASE_EXTD | BASE_EN))))
        return -1;
    if ((x2 && !on) || (x2 && !was_on) || (was_x2 && on && !x2))
        return -1;
    l->base = (val & ~BASE_BSP) | (old & BASE_BSP);
    if (on != was_on)
        lapic_registers_reset(l); /* SDM 10.4.3: as after power-up */
    else if (x2 && !was_x2)
        l->ldr = (id >> 4) << 16 | 1u << (id & 15);
    lapic_recheck(l);
    return 0;
}

int lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *val)
{
    switch (msr) {
    case MSR_APIC_BASE:
        *val = l->base;
        return 0;
    case MSR_TSC_DEADLINE:
        *val = lapic_timer_get_deadline(l);
        return 0;
    default:
        if (!lapic_has_msr(msr) || !lapic_is_x2apic(l))
            return -1;
        return x2apic_read(l, msr - MSR_X2APIC, val);
    }
}

int lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t val)
{
    switch (msr) {
    case MSR_APIC_BASE:
        return base_write(l, val);
    case MSR_TSC_DEADLINE:
        lapic_timer_set_deadline(l, val);
        return 0;
    default:
        if (!lapic_has_msr(msr) || !lapic_is_x2apic(l))
            return -1;
        return x2apic_write(l, msr - MSR_X2APIC, val);
    }
}
