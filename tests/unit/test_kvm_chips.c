/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/engine/kvm/chips.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kvm/chips.h"

static uint64_t seed = 7;

static uint64_t rnd(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return seed >> 16 ^ seed << 40;
}

static void lapic_survives(void **state)
{
    struct lapic_state s = {.base = 1, .tsc_deadline = 2}, back = {.base = 1, .tsc_deadline = 2};
    struct kvm_lapic_state k;
    uint32_t word;

    for (unsigned i = 0; i < 64; i++)
        s.reg[i] = (uint32_t)rnd();
    kvm_lapic_from_state(&s, &k);
    memcpy(&word, &k.regs[0x320], sizeof(word)); /* SDM table 10-1: LVT timer */
    assert_int_equal(word, s.reg[0x32]);
    kvm_lapic_to_state(&k, &back);
    assert_memory_equal(&s, &back, sizeof(s));
}

/* An interrupt on its way into the CPU is asked for again; one of the 8259A pair is not in ISR. */
static void undelivered_interrupt_goes_back(void **state)
{
    struct lapic_state s = {0};

    s.reg[0x10 + 0x41 / 32] = 1u << (0x41 % 32) | 1u << 5;
    kvm_lapic_unack(&s, 0x41);
    assert_int_equal(s.reg[0x12], 1u << 5);
    assert_int_equal(s.reg[0x22], 1u << 1);
    kvm_lapic_unack(&s, 0x30);
    assert_int_equal(s.reg[0x21], 0);
}

static void ioapic_survives(void **state)
{
    struct ioapic_state s = {.id = 5u << 24, .select = 0x17}, back;
    struct kvm_ioapic_state k;

    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        s.redir[pin] = rnd();
    s.redir[4] &= ~(1ull << 15);
    s.redir[9] |= 1ull << 15;
    s.lines = 1u << 4 | 1u << 9;
    kvm_ioapic_from_state(&s, &k);
    assert_int_equal(k.base_address, MMIO_IOAPIC);
    assert_int_equal(k.irr, 1u << 9); /* an edge that was delivered must not come again */
    kvm_ioapic_to_state(&k, &back);
    assert_int_equal(back.id, s.id);
    assert_int_equal(back.select, s.select);
    assert_int_equal(back.lines, 1u << 9);
    assert_memory_equal(back.redir, s.redir, sizeof(s.redir));
}

static void pic_survives(void **state)
{
    for (unsigned i = 0; i < 1000; i++) {
        struct pic_chip_state s = {0}, back;
        struct kvm_pic_state k;
        uint64_t r = rnd();

        s.elcr = (uint8_t)rnd();
        s.lines = (uint8_t)rnd();
        s.latched = (uint8_t)rnd() & (uint8_t)~s.elcr;
        s.isr = (uint8_t)rnd();
        s.imr = (uint8_t)rnd();
        s.base = (uint8_t)rnd() & 0xf8;
        s.lowest = r & 7;
        s.step = r >> 3 & 3;
        s.auto_eoi = r >> 5 & 1;
        s.rotate_auto = r >> 6 & 1;
        s.special_mask = r >> 7 & 1;
        s.nested = r >> 8 & 1;
        s.read_isr = r >> 9 & 1;
        s.poll = r >> 10 & 1;
        s.need_icw4 = r >> 11 & 1;
        kvm_pic_from_state(&s, i & 1, &k);
        assert_int_equal(k.elcr_mask, i & 1 ? 0xde : 0xf8);
        kvm_pic_to_state(&k, &back);
        assert_memory_equal(&s, &back, sizeof(s));
    }
}

/* By field: between them there is padding. */
static void assert_channel_equal(const struct pit_channel_state *a,
                                 const struct pit_channel_state *b)
{
    assert_int_equal(a->control, b->control);
    assert_int_equal(a->gate, b->gate);
    assert_int_equal(a->running, b->running);
    assert_int_equal(a->null_count, b->null_count);
    assert_int_equal(a->half_written, b->half_written);
    assert_int_equal(a->half_read, b->half_read);
    assert_int_equal(a->status_latched, b->status_latched);
    assert_int_equal(a->count_latched, b->count_latched);
    assert_int_equal(a->status, b->status);
    assert_int_equal(a->written, b->written);
    assert_int_equal(a->latch, b->latch);
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->next_count, b->next_count);
    assert_int_equal(a->elapsed_ns, b->elapsed_ns);
}

static void pit_survives(void **state)
{
    const uint64_t now = 1000000000;
    struct pit_state s = {.speaker = true}, back;
    struct kvm_pit_state2 k;

    s.ch[0] = (struct pit_channel_state){
        .control = 0x34, .gate = true, .running = true, .count = 65536, .elapsed_ns = 12345};
    s.ch[1] = (struct pit_channel_state){
        .control = 0x12, .gate = true, .running = true, .count = 18, .elapsed_ns = 99};
    s.ch[2] = (struct pit_channel_state){.control = 0x30,
                                         .running = true,
                                         .count = 0x1234,
                                         .half_written = true,
                                         .written = 0x56,
                                         .status_latched = true,
                                         .status = 0xb0,
                                         .count_latched = true,
                                         .latch = 0x789a};
    kvm_pit_from_state(&s, now, &k);
    assert_int_equal(k.channels[0].mode, 2);
    assert_int_equal(k.channels[0].count, 65536);
    assert_int_equal(k.channels[0].count_load_time, now - 12345);
    assert_int_equal(k.channels[2].write_state, 4);
    kvm_pit_to_state(&k, now, &back);
    for (unsigned i = 0; i < ARRAY_SIZE(s.ch); i++)
        assert_channel_equal(&s.ch[i], &back.ch[i]);
    assert_int_equal(s.speaker, back.speaker);
}

/* A channel that does not count must not start to. */
static void idle_pit_stays_idle(void **state)
{
    struct pit_state s = {0}, back;
    struct kvm_pit_state2 k;

    for (unsigned i = 0; i < 3; i++)
        s.ch[i] = (struct pit_channel_state){.control = 0x36, .count = 65536, .null_count = true};
    kvm_pit_from_state(&s, 5, &k);
    assert_int_equal(k.channels[0].mode, 0xff);
    kvm_pit_to_state(&k, 6, &back);
    assert_false(back.ch[0].running);
    assert_int_equal(back.ch[0].elapsed_ns, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lapic_survives),  cmocka_unit_test(undelivered_interrupt_goes_back),
        cmocka_unit_test(ioapic_survives), cmocka_unit_test(pic_survives),
        cmocka_unit_test(pit_survives),    cmocka_unit_test(idle_pit_stays_idle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
