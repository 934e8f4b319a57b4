/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ACPI 6.4 section 4.8.3: the fixed registers. The machine is always in ACPI
 * mode (SCI_EN reads one, there is no SMI command port) and knows S0 and S5.
 */
#include "x86/acpipm.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "x86/chips.h"
#include "x86/platform.h"

#define PM_TIMER_HZ 3579545u

#define STS_TIMER (1u << 0)
#define STS_POWER (1u << 8)
#define EN_BITS   0x0721u
#define GPE_BITS  (1u << GPE_GENERATION)

#define CNT_SCI_EN     (1u << 0)
#define CNT_KEPT       0x1c02u /* SLP_TYP, BM_RLD */
#define CNT_SLP_TYP(v) (((v) >> 10) & 7u)
#define CNT_SLP_EN     (1u << 13)

#define RESET_OFFSET  1 /* in the four ports of which it is one */
#define RESET_CPU     (1u << 2)
#define RESET_KEPT    0x0au
#define KBD_CMD_RESET 0xfe

struct acpipm {
    pthread_mutex_t lock;
    struct vm *vm;
    struct irq_line sci;
    bool sci_level;
    uint16_t status, enable, control;
    uint8_t reset, gpe_status, gpe_enable;
    const struct region_ops *pci;
    void *pci_opaque;
    struct vtimer overflow;
    uint64_t
        half; /* of the timer's turns: PM_TMR bit 31 toggled this many times when last looked at */
};

static uint64_t timer_ticks(const struct acpipm *pm)
{
    return (uint64_t)((unsigned __int128)clock_now_ns(&pm->vm->clock) * PM_TIMER_HZ / 1000000000u);
}

/* TMR_STS: the timer's top bit changed (4.8.3.3). A host timer runs only if that interrupts. */
static void update_locked(struct acpipm *pm)
{
    uint64_t half = timer_ticks(pm) >> 31;
    bool level;

    if (half != pm->half) {
        pm->half = half;
        pm->status |= STS_TIMER;
    }
    level = pm->status & pm->enable || pm->gpe_status & pm->gpe_enable;
    if (pm->enable & STS_TIMER && !level) {
        unsigned __int128 next = (unsigned __int128)(half + 1) << 31;

        vtimer_arm(&pm->overflow, (uint64_t)(next * 1000000000u / PM_TIMER_HZ) + 1);
    } else {
        vtimer_disarm(&pm->overflow);
    }
    if (level != pm->sci_level) {
        pm->sci_level = level;
        irq_set(pm->sci, level);
    }
}

static void overflow_fire(void *opaque)
{
    struct acpipm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    update_locked(pm);
    pthread_mutex_unlock(&pm->lock);
}

static void reply(uint32_t reg, uint64_t off, unsigned size, uint64_t *val)
{
    *val = off < 4 ? reg >> (8 * off) : 0;
    if (size < 4)
        *val &= (1u << (8 * size)) - 1;
}

static int event_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct acpipm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    update_locked(pm);
    reply((uint32_t)pm->enable << 16 | pm->status, off, size, val);
    pthread_mutex_unlock(&pm->lock);
    return 0;
}

static int event_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct acpipm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    update_locked(pm);
    for (unsigned i = 0; i < size; i++, val >>= 8) {
        unsigned shift = (off + i) & 1 ? 8 : 0;
        uint16_t byte = (uint16_t)((val & 0xff) << shift);

        if (off + i < 2)
            pm->status &= (uint16_t)~byte;
        else
            pm->enable = (uint16_t)((pm->enable & ~(0xffu << shift)) | (byte & EN_BITS));
    }
    update_locked(pm);
    pthread_mutex_unlock(&pm->lock);
    return 0;
}

/* 4.8.4.1.1: status bits are cleared by writing ones. */
static int gpe_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct acpipm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    reply((uint32_t)pm->gpe_enable << 8 | pm->gpe_status, off, size, val);
    pthread_mutex_unlock(&pm->lock);
    return 0;
}

static int gpe_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct acpipm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    for (unsigned i = 0; i < size; i++, val >>= 8) {
        if (off + i)
            pm->gpe_enable = (uint8_t)val & GPE_BITS;
        else
            pm->gpe_status &= (uint8_t)~val;
    }
    update_locked(pm);
    pthread_mutex_unlock(&pm->lock);
    return 0;
}

static int control_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct acpipm *pm = opaque;

    pthread_mutex_lock(&pm->lock);
    reply(pm->control | CNT_SCI_EN, off, size, val);
    pthread_mutex_unlock(&pm->lock);
    return 0;
}

static int control_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct acpipm *pm = opaque;
    uint32_t mask = (size > 1 ? 0xffff : 0xff) << (8 * off),
             word = (uint32_t)val << (8 * off) & mask;
    bool off_now;

    pthread_mutex_lock(&pm->lock);
    pm->control = (uint16_t)(((pm->control & ~mask) | word) & CNT_KEPT);
    off_now = (word & CNT_SLP_EN) && CNT_SLP_TYP(pm->control) == ACPI_S5_SLP_TYP;
    pthread_mutex_unlock(&pm->lock);
    if (off_now)
        vm_request(pm->vm, VM_REQ_POWEROFF);
    return 0;
}

static int timer_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    reply((uint32_t)timer_ticks(opaque), off, size, val);
    return 0;
}

static int timer_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    return 0; /* read-only */
}

static int reset_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct acpipm *pm = opaque;

    if (off != RESET_OFFSET || size != 1)
        return pm->pci ? pm->pci->read(pm->pci_opaque, off, size, val) : -1;
    pthread_mutex_lock(&pm->lock);
    *val = pm->reset;
    pthread_mutex_unlock(&pm->lock);
    return 0;
}

/*
 * The reset register is byte 1 of PCI's configuration address register, and
 * seen by accesses of one byte only: looking for PCI must not reset the machine.
 * Bit 2 starts a reset, bits 1 and 3 choose its kind: all kinds reset the machine.
 */
static int reset_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct acpipm *pm = opaque;

    if (off != RESET_OFFSET || size != 1)
        return pm->pci ? pm->pci->write(pm->pci_opaque, off, size, val) : 0;
    pthread_mutex_lock(&pm->lock);
    pm->reset = (uint8_t)val & RESET_KEPT;
    pthread_mutex_unlock(&pm->lock);
    if (val & RESET_CPU)
        vm_request(pm->vm, VM_REQ_RESET);
    return 0;
}

static int keyboard_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    *val = 0xff; /* nobody there: probes give up after a few bytes that never end */
    return 0;
}

static int keyboard_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct acpipm *pm = opaque;

    if ((val & 0xff) == KBD_CMD_RESET)
        vm_request(pm->vm, VM_REQ_RESET);
    return 0;
}

static const struct region_ops event_ops = {event_read, event_write, 1, 2};
static const struct region_ops control_ops = {control_read, control_write, 1, 2};
static const struct region_ops gpe_ops = {gpe_read, gpe_write, 1, 2};
static const struct region_ops timer_ops = {timer_read, timer_write, 1, 4};
static const struct region_ops reset_ops = {reset_read, reset_write, 1, 4};
static const struct region_ops keyboard_ops = {keyboard_read, keyboard_write, 1, 1};

static const struct {
    uint64_t base, size;
    const struct region_ops *ops;
    const char *name;
} regions[] = {
    {PIO_PM1A_EVT, 4, &event_ops, "pm1a-event"},
    {PIO_PM1A_CNT, 2, &control_ops, "pm1a-control"},
    {PIO_PM_TMR, 4, &timer_ops, "pm-timer"},
    {PIO_GPE0, 2, &gpe_ops, "gpe0"},
    {PIO_RESET - RESET_OFFSET, 4, &reset_ops, "reset"},
    {PIO_PS2_STATUS, 1, &keyboard_ops, "keyboard-reset"},
};

void acpipm_set_pci(struct acpipm *pm, const struct region_ops *ops, void *opaque)
{
    pm->pci = ops;
    pm->pci_opaque = opaque;
}

void acpipm_power_button(struct acpipm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->status |= STS_POWER;
    update_locked(pm);
    pthread_mutex_unlock(&pm->lock);
}

void acpipm_generation(struct acpipm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->gpe_status |= 1u << GPE_GENERATION;
    update_locked(pm);
    pthread_mutex_unlock(&pm->lock);
}

void acpipm_reset(struct acpipm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->half = timer_ticks(pm) >> 31;
    pm->status = pm->enable = pm->control = 0;
    pm->reset = pm->gpe_status = pm->gpe_enable = 0;
    update_locked(pm);
    pthread_mutex_unlock(&pm->lock);
}

void acpipm_save(struct acpipm *pm, struct acpipm_state *s)
{
    pthread_mutex_lock(&pm->lock);
    update_locked(pm);
    *s = (struct acpipm_state){pm->status, pm->enable,     pm->control,
                               pm->reset,  pm->gpe_status, pm->gpe_enable};
    pthread_mutex_unlock(&pm->lock);
}

void acpipm_load(struct acpipm *pm, const struct acpipm_state *s)
{
    pthread_mutex_lock(&pm->lock);
    pm->half = timer_ticks(pm) >> 31;
    pm->status = s->status;
    pm->enable = s->enable & EN_BITS;
    pm->control = s->control & CNT_KEPT;
    pm->reset = s->reset & RESET_KEPT;
    pm->gpe_status = s->gpe_status & GPE_BITS;
    pm->gpe_enable = s->gpe_enable & GPE_BITS;
    update_locked(pm);
    pthread_mutex_unlock(&pm->lock);
}

int acpipm_new(struct acpipm **out, struct vm *vm, struct irq_line sci, struct err *err)
{
    struct acpipm *pm = calloc(1, sizeof(*pm));
    int ret = 0;

    if (!pm)
        return err_set(err, -ENOMEM, "not enough memory for the ACPI registers");
    pm->vm = vm;
    pm->sci = sci;
    pthread_mutex_init(&pm->lock, NULL);
    vtimer_init(&pm->overflow, &vm->clock, overflow_fire, pm);
    acpipm_reset(pm);
    for (unsigned i = 0; i < ARRAY_SIZE(regions) && !ret; i++)
        ret = bus_map(&vm->pio, regions[i].base, regions[i].size, regions[i].ops, pm,
                      regions[i].name, err);
    if (ret < 0) {
        acpipm_free(pm);
        return ret;
    }
    *out = pm;
    return 0;
}

void acpipm_free(struct acpipm *pm)
{
    if (!pm)
        return;
    vtimer_fini(&pm->overflow);
    pthread_mutex_destroy(&pm->lock);
    free(pm);
}
