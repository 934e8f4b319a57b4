/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/kvm/chips.h"

#include <string.h>

#define LAPIC_ISR 0x10
#define LAPIC_IRR 0x20

#define REDIR_LEVEL (1ull << 15)

/* ---- Local APIC --------------------------------------------------------- */

void kvm_lapic_from_state(const struct lapic_state *s, struct kvm_lapic_state *k)
{
    memset(k, 0, sizeof(*k));
    for (unsigned i = 0; i < ARRAY_SIZE(s->reg); i++)
        memcpy(&k->regs[i * 16], &s->reg[i], sizeof(s->reg[i]));
}

void kvm_lapic_to_state(const struct kvm_lapic_state *k, struct lapic_state *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(s->reg); i++)
        memcpy(&s->reg[i], &k->regs[i * 16], sizeof(s->reg[i]));
}

void kvm_lapic_unack(struct lapic_state *s, uint8_t vector)
{
    uint32_t bit = 1u << vector % 32;

    /* Not from the 8259A pair, that is. */
    if (s->reg[LAPIC_ISR + vector / 32] & bit) {
        s->reg[LAPIC_ISR + vector / 32] &= ~bit;
        s->reg[LAPIC_IRR + vector / 32] |= bit;
    }
}

/* ---- I/O APIC ----------------------------------------------------------- */

void kvm_ioapic_from_state(const struct ioapic_state *s, struct kvm_ioapic_state *k)
{
    memset(k, 0, sizeof(*k));
    k->base_address = MMIO_IOAPIC;
    k->ioregsel = s->select;
    k->id = s->id >> 24 & 0xf;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        k->redirtbl[pin].bits = s->redir[pin];
        /* KVM's IRR is the level of a level-triggered pin; an edge has been delivered or is lost. */
        if ((s->redir[pin] & REDIR_LEVEL) && (s->lines & 1u << pin))
            k->irr |= 1u << pin;
    }
}

void kvm_ioapic_to_state(const struct kvm_ioapic_state *k, struct ioapic_state *s)
{
    *s = (struct ioapic_state){.select = (uint8_t)k->ioregsel, .id = (k->id & 0xf) << 24};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        s->redir[pin] = k->redirtbl[pin].bits;
        if ((s->redir[pin] & REDIR_LEVEL) && (k->irr & 1u << pin))
            s->lines |= 1u << pin;
    }
}

/* ---- 8259A -------------------------------------------------------------- */

void kvm_pic_from_state(const struct pic_chip_state *s, bool slave, struct kvm_pic_state *k)
{
    *k = (struct kvm_pic_state){
        .last_irr = s->lines,
        .irr = (uint8_t)((s->latched & ~s->elcr) | (s->lines & s->elcr)),
        .imr = s->imr,
        .isr = s->isr,
        .priority_add = (s->lowest + 1) & 7,
        .irq_base = s->base,
        .read_reg_select = s->read_isr,
        .poll = s->poll,
        .special_mask = s->special_mask,
        .init_state = s->step,
        .auto_eoi = s->auto_eoi,
        .rotate_on_auto_eoi = s->rotate_auto,
        .special_fully_nested_mode = s->nested,
        .init4 = s->need_icw4,
        .elcr = s->elcr,
        .elcr_mask = slave ? 0xde : 0xf8,
    };
}

void kvm_pic_to_state(const struct kvm_pic_state *k, struct pic_chip_state *s)
{
    *s = (struct pic_chip_state){
        .lines = k->last_irr,
        .latched = (uint8_t)(k->irr & ~k->elcr),
        .imr = k->imr,
        .isr = k->isr,
        .lowest = (k->priority_add + 7) & 7,
        .base = k->irq_base,
        .read_isr = k->read_reg_select,
        .poll = k->poll,
        .special_mask = k->special_mask,
        .step = k->init_state,
        .auto_eoi = k->auto_eoi,
        .rotate_auto = k->rotate_on_auto_eoi,
        .nested = k->special_fully_nested_mode,
        .need_icw4 = k->init4,
        .elcr = k->elcr,
    };
    /* KVM keeps the level of level-triggered inputs in IRR. */
    s->lines |= k->irr & k->elcr;
}

/* ---- 8254 --------------------------------------------------------------- */

/* KVM's read and write states (arch/x86/kvm/i8254.h: RW_STATE). */
enum { RW_LSB = 1, RW_MSB, RW_WORD0, RW_WORD1 };

static uint8_t rw_state(unsigned access, bool half)
{
    if (access == 1)
        return RW_LSB;
    if (access == 2)
        return RW_MSB;
    return half ? RW_WORD1 : RW_WORD0;
}

static void channel_from_state(const struct pit_channel_state *s, uint64_t now_ns,
                               struct kvm_pit_channel_state *k)
{
    unsigned access = s->control >> 4 & 3, mode = s->control >> 1 & 7;

    *k = (struct kvm_pit_channel_state){
        .count = s->next_count && !s->running ? s->next_count : s->count,
        .latched_count = s->latch,
        .count_latched = s->count_latched ? rw_state(access, s->half_read) : 0,
        .status_latched = s->status_latched,
        .status = s->status,
        .read_state = rw_state(access, s->half_read),
        .write_state = rw_state(access, s->half_written),
        .write_latch = s->written,
        .rw_mode = (uint8_t)access,
        /* 0xff is KVM's mode after RESET, in which nothing counts. */
        .mode = !s->running ? 0xff : (uint8_t)(mode > 5 ? mode & 3 : mode),
        .bcd = s->control & 1,
        .gate = s->gate,
        .count_load_time = (int64_t)(now_ns - s->elapsed_ns),
    };
}

static void channel_to_state(const struct kvm_pit_channel_state *k, uint64_t now_ns,
                             struct pit_channel_state *s)
{
    bool running = k->mode <= 5;
    unsigned mode = running ? k->mode : 3;
    int64_t elapsed = (int64_t)now_ns - k->count_load_time;

    *s = (struct pit_channel_state){
        .control = (uint8_t)((k->rw_mode & 3) << 4 | mode << 1 | (k->bcd & 1)),
        .gate = k->gate,
        .running = running,
        .null_count = !running,
        .half_written = k->write_state == RW_WORD1,
        .half_read = (k->count_latched ? k->count_latched : k->read_state) == RW_WORD1,
        .status_latched = k->status_latched,
        .count_latched = k->count_latched != 0,
        .status = k->status,
        .written = k->write_latch,
        .latch = k->latched_count,
        .count = k->count ? k->count : 65536,
        .elapsed_ns = running && elapsed > 0 ? (uint64_t)elapsed : 0,
    };
    if (!(k->rw_mode & 3))
        s->control |= 3 << 4;
}

void kvm_pit_from_state(const struct pit_state *s, uint64_t now_ns, struct kvm_pit_state2 *k)
{
    memset(k, 0, sizeof(*k));
    for (unsigned i = 0; i < ARRAY_SIZE(s->ch); i++)
        channel_from_state(&s->ch[i], now_ns, &k->channels[i]);
    if (s->speaker)
        k->flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
}

void kvm_pit_to_state(const struct kvm_pit_state2 *k, uint64_t now_ns, struct pit_state *s)
{
    for (unsigned i = 0; i < ARRAY_SIZE(s->ch); i++)
        channel_to_state(&k->channels[i], now_ns, &s->ch[i]);
    s->speaker = k->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
}
