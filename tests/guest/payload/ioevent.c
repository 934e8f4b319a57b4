/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The test device's doorbells: writes that become interrupts without any handler in between. */
#include "payload.h"

#define PORT_LINE    0x2010
#define PORT_MATCH   0x2014
#define PORT_VECTOR  0x2018
#define PORT_MISSED  0x2020
#define MEMORY_BELL  0xff010000ul
#define BELL_DATA    0x1234u
#define BELL_PIN     5
#define IOAPIC       0xfec00000ul
#define VEC_LINE     0x51
#define VEC_MESSAGE  0x52
#define VEC_MESSAGE2 0x53
#define ROUNDS       50

static volatile uint64_t lines, messages, others;

static void on_line(struct frame *f)
{
    lines++;
    *lapic(LAPIC_EOI) = 0;
}

static void on_message(struct frame *f)
{
    messages++;
    *lapic(LAPIC_EOI) = 0;
}

static void on_other(struct frame *f)
{
    others++;
    *lapic(LAPIC_EOI) = 0;
}

static void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port));
}

static void ioapic_write(unsigned reg, uint32_t v)
{
    *(volatile uint32_t *)IOAPIC = reg;
    *(volatile uint32_t *)(IOAPIC + 0x10) = v;
}

/* Interrupts come when the host's kernel or thread has got round to them. */
static bool wait_for(volatile uint64_t *what, uint64_t n)
{
    uint64_t end = rdtsc() + 5000 * tsc_per_ms;

    irq_on();
    while (*what < n && rdtsc() < end)
        pause();
    irq_off();
    return *what == n;
}

/* What must not come has had this long to do so. */
static void wait_a_while(void)
{
    uint64_t end = rdtsc() + 20 * tsc_per_ms;

    irq_on();
    while (rdtsc() < end)
        pause();
    irq_off();
}

static void begin(void)
{
    lines = messages = others = 0;
    trap_set(VEC_LINE, on_line);
    trap_set(VEC_MESSAGE, on_message);
    trap_set(VEC_MESSAGE2, on_other);
    outl(PORT_VECTOR, VEC_MESSAGE);
    ioapic_write(0x11 + 2 * BELL_PIN, this_cpu()->id << 24);
    ioapic_write(0x10 + 2 * BELL_PIN, VEC_LINE); /* edge, high, fixed */
}

static void end(uint32_t missed)
{
    ioapic_write(0x10 + 2 * BELL_PIN, 1u << 16);
    trap_set(VEC_LINE, NULL);
    trap_set(VEC_MESSAGE, NULL);
    trap_set(VEC_MESSAGE2, NULL);
    EXPECT(inl(PORT_MISSED) == missed, "%u writes reached the device, not %u", inl(PORT_MISSED),
           missed);
}

static void line_bell(void)
{
    uint32_t missed = inl(PORT_MISSED);

    begin();
    for (unsigned i = 1; i <= ROUNDS && !failed(); i++) {
        outb(PORT_LINE, (uint8_t)i);
        EXPECT(wait_for(&lines, i), "%lu interrupts of the line after %u writes", lines, i);
    }
    outw(PORT_LINE, 1); /* of another size */
    wait_a_while();
    EXPECT(lines == ROUNDS && !messages, "%lu of the line, %lu messages", lines, messages);
    end(missed + 1);
}

static void matching_bell(void)
{
    uint32_t missed = inl(PORT_MISSED);

    begin();
    for (unsigned i = 1; i <= ROUNDS && !failed(); i++) {
        outl(PORT_MATCH, BELL_DATA);
        EXPECT(wait_for(&messages, i), "%lu messages after %u writes", messages, i);
        outl(PORT_MATCH, BELL_DATA ^ 1u << i % 32); /* reaches the device */
    }
    wait_a_while();
    EXPECT(messages == ROUNDS && !lines, "%lu messages, %lu of the line", messages, lines);
    end(missed + ROUNDS);
}

static void memory_bell(void)
{
    uint32_t missed = inl(PORT_MISSED);

    begin();
    for (unsigned i = 1; i <= ROUNDS && !failed(); i++) {
        *(volatile uint32_t *)MEMORY_BELL = i;
        EXPECT(wait_for(&messages, i), "%lu messages after %u writes", messages, i);
    }
    outl(PORT_VECTOR, VEC_MESSAGE2);
    *(volatile uint32_t *)MEMORY_BELL = 0;
    EXPECT(wait_for(&others, 1), "a changed message did not come");
    *(volatile uint16_t *)MEMORY_BELL = 0;
    wait_a_while();
    EXPECT(messages == ROUNDS && others == 1, "%lu messages and %lu others", messages, others);
    end(missed + 1);
}

/* Written faster than delivered: at least one comes after the last write, and no more than there were. */
static void burst(void)
{
    uint32_t missed = inl(PORT_MISSED);

    begin();
    irq_on();
    for (unsigned i = 0; i < 1000; i++)
        *(volatile uint32_t *)MEMORY_BELL = i;
    irq_off();
    wait_a_while();
    EXPECT(messages >= 1 && messages <= 1000, "%lu messages for 1000 writes", messages);
    end(missed);
}

const struct test ioevent_tests[] = {{"ioevent-line", line_bell, 0},
                                     {"ioevent-match", matching_bell, 0},
                                     {"ioevent-memory", memory_bell, 0},
                                     {"ioevent-burst", burst, 0},
                                     {NULL, NULL, 0}};
