/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The canonical state of the interrupt controllers and the timer chip. The
 * software devices of this folder and an engine's own both convert to and from
 * it, so that a guest can go from one to the other. Times are relative to the
 * moment the state is taken or loaded.
 */
#ifndef LODGE_X86_CHIPS_H
#define LODGE_X86_CHIPS_H

#include "base/types.h"
#include "x86/platform.h"

/* By register number (MMIO offset / 16). The ID is in bits 31:24, as in xAPIC mode, in x2APIC mode too. */
struct lapic_state {
    uint64_t base;         /* IA32_APIC_BASE */
    uint64_t tsc_deadline; /* IA32_TSC_DEADLINE */
    uint32_t reg[64];      /* the current count is what is left */
};

struct ioapic_state {
    uint32_t id; /* register 0 */
    uint8_t select;
    uint32_t lines; /* levels of the pins */
    uint64_t redir[IOAPIC_PINS];
};

struct pic_chip_state {
    uint8_t lines, latched, isr, imr, elcr;
    uint8_t base;   /* vector of IR0 */
    uint8_t lowest; /* input with the lowest priority */
    uint8_t step;   /* 0: initialized; 1 to 3: ICW2 to ICW4 is next */
    bool auto_eoi, rotate_auto, special_mask, nested, read_isr, poll, need_icw4, single;
};

struct pic_state {
    struct pic_chip_state chip[2]; /* master, slave */
};

struct pit_channel_state {
    uint8_t control; /* bits 5:0 of the status byte */
    bool gate, running, null_count;
    bool half_written, half_read, status_latched, count_latched;
    uint8_t status, written;
    uint16_t latch;
    uint32_t count, next_count; /* 1..65536; next: 0 is none */
    uint64_t elapsed_ns;        /* counted since the counter was loaded */
};

struct pit_state {
    struct pit_channel_state ch[3];
    bool speaker;
};

struct chips_state {
    struct ioapic_state ioapic;
    struct pic_state pic;
    struct pit_state pit;
};

/* The battery's clock goes on while nobody runs the guest. */
struct rtc_state {
    uint8_t cmos[128]; /* the time registers are valid only while SET stops the clock */
    uint8_t index;
    int64_t offset_ns; /* guest's idea of UTC minus the host's */
};

struct acpipm_state {
    uint16_t status, enable, control;
    uint8_t reset, gpe_status, gpe_enable;
};

#endif
