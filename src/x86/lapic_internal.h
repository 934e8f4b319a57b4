/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC's parts share this; nobody else includes it. */
#ifndef LODGE_X86_LAPIC_INTERNAL_H
#define LODGE_X86_LAPIC_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "x86/lapic.h"

/* Register numbers: MMIO offset / 16, MSR - 0x800. */
enum lapic_reg {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR_HI = 0x31,
    REG_LVT_TIMER = 0x32,
    REG_LVT_THERMAL = 0x33,
    REG_LVT_PERF = 0x34,
    REG_LVT_LINT0 = 0x35,
    REG_LVT_LINT1 = 0x36,
    REG_LVT_ERROR = 0x37,
    REG_TMICT = 0x38,
    REG_TMCCT = 0x39,
    REG_TDCR = 0x3e,
    REG_SELF_IPI = 0x3f,
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

enum lapic_mode {
    MODE_FIXED,
    MODE_LOWEST,
    MODE_SMI,
    MODE_RESERVED,
    MODE_NMI,
    MODE_INIT,
    MODE_SIPI,
    MODE_EXTINT,
};

#define LVT_MODE(v)       (((v) >> 8) & 7u)
#define LVT_POLARITY      (1u << 13)
#define LVT_REMOTE_IRR    (1u << 14)
#define LVT_LEVEL         (1u << 15)
#define LVT_MASKED        (1u << 16)
#define LVT_TIMER_MODE(v) (((v) >> 17) & 3u)
#define TIMER_ONESHOT     0u
#define TIMER_PERIODIC    1u
#define TIMER_DEADLINE    2u

#define SVR_ENABLE       (1u << 8)
#define SVR_NO_BROADCAST (1u << 12)

#define ESR_SEND_VECTOR (1u << 5)
#define ESR_RECV_VECTOR (1u << 6)
#define ESR_REGISTER    (1u << 7)

#define BASE_BSP  (1ull << 8)
#define BASE_EXTD (1ull << 10)
#define BASE_EN   (1ull << 11)

/* lapic.hint: bits 0..7 say that irr[i] may be non-zero, then the two ways of ExtINT. */
#define HINT_IRR    0xffu
#define HINT_LINT0  (1u << 8) /* the level of LINT0 */
#define HINT_EXTINT (1u << 9) /* an ExtINT message came in */

struct lapic {
    /* Any thread sets bits; the vCPU's thread clears them. hint 0: nothing is deliverable. */
    _Atomic uint32_t hint;
    _Atomic uint32_t irr[8], tmr[8];
    _Atomic uint32_t esr_pending;

    /* Written by the vCPU's thread; senders of interrupts read them. */
    _Atomic uint64_t base;
    _Atomic uint32_t tpr, svr, ldr, dfr;
    _Atomic uint32_t lvt[LVT_COUNT];

    /* The vCPU's thread only. */
    uint32_t isr[8];
    int isr_top; /* highest bit in isr, or -1 */
    uint32_t esr, icr, icr_hi;

    struct vcpu *vcpu;
    struct pic *pic;
    void (*eoi_fn)(void *opaque, uint8_t vector);
    void *eoi_opaque;

    /* Timer: the vCPU's thread and the clock's. */
    pthread_mutex_t lock;
    struct vtimer timer;
    uint32_t tmict, tdcr;
    uint64_t deadline_ns;  /* of the running count; 0: not running */
    uint64_t deadline_tsc; /* TSC-deadline mode; 0: disarmed */
};

/* A message on its way to one or more APICs. */
struct lapic_message {
    uint8_t vector;
    uint8_t mode; /* enum lapic_mode */
    bool level;   /* trigger mode */
};

static inline bool lapic_is_enabled(const struct lapic *l)
{
    return l->base & BASE_EN;
}

static inline bool lapic_is_x2apic(const struct lapic *l)
{
    return (l->base & (BASE_EN | BASE_EXTD)) == (BASE_EN | BASE_EXTD);
}

/* lapic.c */
bool lapic_accept(struct lapic *l, struct lapic_message msg); /* any thread; false: not accepted */
void lapic_error(struct lapic *l, uint32_t bit);              /* any thread */
void lapic_lvt_raise(struct lapic *l, enum lapic_lvt which);  /* any thread */
uint8_t lapic_ppr(const struct lapic *l);
void lapic_eoi(struct lapic *l);
void lapic_recheck(
    struct lapic
        *l); /* after a register change: make the CPU look if something is deliverable now */
void lapic_registers_reset(struct lapic *l);

/* lapic_ipi.c */
void lapic_icr_send(struct lapic *l, uint32_t icr, uint32_t dest);

/* lapic_timer.c */
void lapic_timer_init(struct lapic *l);
void lapic_timer_fini(struct lapic *l);
void lapic_timer_reset(struct lapic *l);
void lapic_timer_set_lvt(struct lapic *l, uint32_t val); /* stores the LVT entry too */
void lapic_timer_set_initial(struct lapic *l, uint32_t count);
void lapic_timer_set_divide(struct lapic *l, uint32_t tdcr);
uint32_t lapic_timer_current(struct lapic *l);
uint64_t lapic_timer_get_deadline(struct lapic *l);
void lapic_timer_set_deadline(struct lapic *l, uint64_t tsc);
/* LVT, initial and current count, divisor and deadline at once. */
void lapic_timer_load(struct lapic *l, const struct lapic_state *s);

#endif
