/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Acceptance, priority and acknowledgement of interrupts (SDM volume 3, 10.5
 * and 10.8). Requests arrive in IRR from any thread without a lock: TMR, IRR,
 * hint and the event are written in this order, and the vCPU's thread, the
 * only one to clear bits, reads them in the opposite one.
 */
#include "x86/lapic_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "x86/chips.h"
#include "x86/pic.h"
#include "x86/platform.h"

static int bitmap_top(const uint32_t *map)
{
    for (int i = 7; i >= 0; i--)
        if (map[i])
            return i * 32 + 31 - __builtin_clz(map[i]);
    return -1;
}

static int irr_top(const struct lapic *l, uint32_t hint)
{
    for (hint &= HINT_IRR; hint;) {
        unsigned i = 31 - (unsigned)__builtin_clz(hint);
        uint32_t word = l->irr[i];

        if (word)
            return (int)(i * 32 + 31 - (unsigned)__builtin_clz(word));
        hint &= ~(1u << i);
    }
    return -1;
}

static void irr_set(struct lapic *l, uint8_t vector, bool level)
{
    unsigned i = vector / 32;
    uint32_t bit = 1u << (vector % 32);

    if (level)
        atomic_fetch_or(&l->tmr[i], bit);
    else if (l->tmr[i] & bit)
        atomic_fetch_and(&l->tmr[i], ~bit);
    atomic_fetch_or(&l->irr[i], bit);
    atomic_fetch_or(&l->hint, 1u << i);
    vcpu_post(l->vcpu, VCPU_EV_INTR);
}

static void irr_clear(struct lapic *l, uint8_t vector)
{
    unsigned i = vector / 32;
    uint32_t bit = 1u << (vector % 32);

    if (atomic_fetch_and(&l->irr[i], ~bit) != bit)
        return;
    atomic_fetch_and(&l->hint, ~(1u << i));
    /* A sender may have set both between the two lines above: its hint must not be lost. */
    if (l->irr[i])
        atomic_fetch_or(&l->hint, 1u << i);
}

uint8_t lapic_ppr(const struct lapic *l)
{
    uint8_t tpr = (uint8_t)l->tpr;
    uint8_t isr = l->isr_top < 0 ? 0 : (uint8_t)l->isr_top;

    return (tpr & 0xf0) >= (isr & 0xf0) ? tpr : isr & 0xf0;
}

/* Does the CPU take the 8259s' INT now? Task priority does not matter to ExtINT (SDM 10.8.3). */
static bool extint_accepted(const struct lapic *l, uint32_t hint)
{
    uint32_t lvt = l->lvt[LVT_LINT0];

    if (!l->pic)
        return false;
    if (hint & HINT_EXTINT)
        return true;
    if (!(hint & HINT_LINT0))
        return false;
    /* With the APIC off LINT0 is the CPU's INTR pin (SDM 10.4.3). */
    return !lapic_is_enabled(l) || (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == MODE_EXTINT);
}

static int vector_deliverable(const struct lapic *l, uint32_t hint)
{
    int vector = irr_top(l, hint);

    if (vector < 0 || !lapic_is_enabled(l))
        return -1;
    return (vector & 0xf0) > (lapic_ppr(l) & 0xf0) ? vector : -1;
}

int lapic_pending(struct lapic *l)
{
    uint32_t hint = atomic_load_explicit(&l->hint, memory_order_acquire);

    if (likely(!hint))
        return -1;
    if (unlikely(hint & ~HINT_IRR) && extint_accepted(l, hint))
        return 0;
    return vector_deliverable(l, hint);
}

int lapic_ack(struct lapic *l)
{
    uint32_t hint = l->hint;
    int vector;

    if (extint_accepted(l, hint)) {
        atomic_fetch_and(&l->hint, ~HINT_EXTINT);
        return pic_ack(l->pic);
    }
    vector = vector_deliverable(l, hint);
    if (vector < 0)
        return -1;
    irr_clear(l, (uint8_t)vector);
    l->isr[vector / 32] |= 1u << (vector % 32);
    l->isr_top = vector;
    return vector;
}

void lapic_recheck(struct lapic *l)
{
    if (lapic_pending(l) >= 0)
        vcpu_post(l->vcpu, VCPU_EV_INTR);
}

static bool lint0_is_level(const struct lapic *l, uint8_t vector)
{
    uint32_t lvt = l->lvt[LVT_LINT0];

    return (lvt & LVT_LEVEL) && LVT_MODE(lvt) == MODE_FIXED && (lvt & 0xff) == vector;
}

void lapic_eoi(struct lapic *l)
{
    int vector = l->isr_top;
    uint32_t bit;

    if (vector < 0)
        return;
    bit = 1u << (vector % 32);
    l->isr[vector / 32] &= ~bit;
    l->isr_top = bitmap_top(l->isr);
    if (l->tmr[vector / 32] & bit) {
        if (!(l->svr & SVR_NO_BROADCAST) && l->eoi_fn)
            l->eoi_fn(l->eoi_opaque, (uint8_t)vector);
        if ((l->hint & HINT_LINT0) && lint0_is_level(l, (uint8_t)vector))
            lapic_lvt_raise(l, LVT_LINT0);
    }
    lapic_recheck(l);
}

/* The error LVT's own vector may be illegal too: that does not raise it again (SDM 10.5.3). */
void lapic_error(struct lapic *l, uint32_t bit)
{
    uint32_t lvt = l->lvt[LVT_ERROR];

    atomic_fetch_or(&l->esr_pending, bit);
    if (lvt & LVT_MASKED)
        return;
    if ((lvt & 0xff) < 16)
        atomic_fetch_or(&l->esr_pending, ESR_RECV_VECTOR);
    else
        irr_set(l, (uint8_t)lvt, false);
}

bool lapic_accept(struct lapic *l, struct lapic_message msg)
{
    switch (msg.mode) {
    case MODE_FIXED:
    case MODE_LOWEST:
        if (!lapic_is_enabled(l) || !(l->svr & SVR_ENABLE))
            return false;
        if (msg.vector < 16)
            lapic_error(l, ESR_RECV_VECTOR);
        else
            irr_set(l, msg.vector, msg.level);
        return true;
    case MODE_NMI:
        vcpu_post_nmi(l->vcpu);
        return true;
    case MODE_INIT:
        vcpu_post(l->vcpu, VCPU_EV_INIT);
        return true;
    case MODE_SIPI:
        l->vcpu->sipi_vector = msg.vector;
        vcpu_post(l->vcpu, VCPU_EV_SIPI);
        return true;
    case MODE_EXTINT:
        if (!l->pic)
            return false;
        atomic_fetch_or(&l->hint, HINT_EXTINT);
        vcpu_post(l->vcpu, VCPU_EV_INTR);
        return true;
    default: /* SMI: there is no system management mode */
        return false;
    }
}

void lapic_lvt_raise(struct lapic *l, enum lapic_lvt which)
{
    uint32_t lvt = l->lvt[which];
    struct lapic_message msg = {
        .vector = (uint8_t)lvt,
        .mode = which == LVT_TIMER ? MODE_FIXED : LVT_MODE(lvt),
        /* Of the local sources only LINT0 can be level-triggered, and only with fixed delivery. */
        .level = which == LVT_LINT0 && (lvt & LVT_LEVEL),
    };

    if (!(lvt & LVT_MASKED))
        lapic_accept(l, msg);
}

static void lint0_set(void *opaque, unsigned n, bool level)
{
    struct lapic *l = opaque;

    if (!level) {
        atomic_fetch_and(&l->hint, ~HINT_LINT0);
        return;
    }
    if (atomic_fetch_or(&l->hint, HINT_LINT0) & HINT_LINT0)
        return;
    if (LVT_MODE(l->lvt[LVT_LINT0]) == MODE_EXTINT || !lapic_is_enabled(l))
        vcpu_post(l->vcpu, VCPU_EV_INTR);
    else
        lapic_lvt_raise(l, LVT_LINT0);
}

struct irq_line lapic_lint0(struct lapic *l)
{
    static const struct irq_line_ops ops = {.set = lint0_set};

    return (struct irq_line){.ops = &ops, .opaque = l};
}

void lapic_set_eoi_handler(struct lapic *l, void (*fn)(void *opaque, uint8_t vector), void *opaque)
{
    l->eoi_fn = fn;
    l->eoi_opaque = opaque;
}

/* State after power-up (SDM 10.4.7.1); the base register stays. */
void lapic_registers_reset(struct lapic *l)
{
    unsigned id = l->vcpu->id;

    for (unsigned i = 0; i < 8; i++) {
        l->irr[i] = 0;
        l->tmr[i] = 0;
        l->isr[i] = 0;
    }
    l->isr_top = -1;
    atomic_fetch_and(&l->hint, HINT_LINT0); /* a level, not ours to forget */
    l->esr_pending = 0;
    l->esr = l->icr = l->icr_hi = 0;
    l->tpr = 0;
    l->svr = 0xff;
    l->ldr = lapic_is_x2apic(l) ? (id >> 4) << 16 | 1u << (id & 15) : 0;
    l->dfr = 0xffffffff;
    lapic_timer_reset(l);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = LVT_MASKED;
}

void lapic_reset(struct lapic *l)
{
    bool bsp = l->vcpu->id == 0;

    l->base = MMIO_LAPIC | BASE_EN | (bsp ? BASE_BSP : 0);
    lapic_registers_reset(l);
    if (bsp) {
        /* Virtual wire mode, as firmware leaves it: kernels entered without firmware expect it. */
        l->svr = SVR_ENABLE | 0xff;
        l->lvt[LVT_LINT0] = (uint32_t)MODE_EXTINT << 8;
        l->lvt[LVT_LINT1] = (uint32_t)MODE_NMI << 8;
    }
}

void lapic_init(struct lapic *l)
{
    lapic_registers_reset(l);
}

uint64_t lapic_get_cr8(struct lapic *l)
{
    return l->tpr >> 4;
}

void lapic_set_cr8(struct lapic *l, uint64_t cr8)
{
    uint32_t old = l->tpr;

    l->tpr = (uint32_t)(cr8 & 0xf) << 4;
    if (l->tpr < old)
        lapic_recheck(l);
}

/* Registers that are simply kept. */
static _Atomic uint32_t *lapic_field(struct lapic *l, unsigned reg)
{
    switch (reg) {
    case REG_TPR:
        return &l->tpr;
    case REG_LDR:
        return &l->ldr;
    case REG_DFR:
        return &l->dfr;
    case REG_SVR:
        return &l->svr;
    case REG_LVT_TIMER ... REG_LVT_ERROR:
        return &l->lvt[reg - REG_LVT_TIMER];
    case REG_IRR ... REG_IRR + 7:
        return &l->irr[reg - REG_IRR];
    case REG_TMR ... REG_TMR + 7:
        return &l->tmr[reg - REG_TMR];
    default:
        return NULL;
    }
}

void lapic_save(struct lapic *l, struct lapic_state *s)
{
    *s = (struct lapic_state){.base = l->base, .tsc_deadline = lapic_timer_get_deadline(l)};
    for (unsigned reg = 0; reg < ARRAY_SIZE(s->reg); reg++) {
        _Atomic uint32_t *field = lapic_field(l, reg);

        if (field)
            s->reg[reg] = *field;
    }
    memcpy(&s->reg[REG_ISR], l->isr, sizeof(l->isr));
    s->reg[REG_ID] = l->vcpu->id << 24;
    s->reg[REG_ESR] = l->esr;
    s->reg[REG_ICR] = l->icr;
    s->reg[REG_ICR_HI] = l->icr_hi;
    s->reg[REG_TMICT] = l->tmict;
    s->reg[REG_TDCR] = l->tdcr;
    s->reg[REG_TMCCT] = lapic_timer_current(l);
}

void lapic_load(struct lapic *l, const struct lapic_state *s)
{
    lapic_timer_reset(l);
    l->base = s->base;
    for (unsigned reg = 0; reg < ARRAY_SIZE(s->reg); reg++) {
        _Atomic uint32_t *field = lapic_field(l, reg);

        if (field && reg != REG_LVT_TIMER)
            *field = s->reg[reg];
    }
    memcpy(l->isr, &s->reg[REG_ISR], sizeof(l->isr));
    l->isr_top = bitmap_top(l->isr);
    l->esr = s->reg[REG_ESR];
    l->icr = s->reg[REG_ICR];
    l->icr_hi = s->reg[REG_ICR_HI];
    for (unsigned i = 0; i < 8; i++)
        if (l->irr[i])
            atomic_fetch_or(&l->hint, 1u << i);
    lapic_timer_load(l, s);
    vcpu_post(l->vcpu, VCPU_EV_INTR);
}

int lapic_new(struct lapic **lapic, struct vcpu *vcpu, struct pic *pic, struct err *err)
{
    struct lapic *l = calloc(1, sizeof(*l));

    if (!l)
        return err_set(err, -ENOMEM, "not enough memory for a local APIC");
    l->vcpu = vcpu;
    l->pic = pic;
    lapic_timer_init(l);
    lapic_reset(l);
    *lapic = l;
    return 0;
}

void lapic_free(struct lapic *l)
{
    if (!l)
        return;
    lapic_timer_fini(l);
    free(l);
}
