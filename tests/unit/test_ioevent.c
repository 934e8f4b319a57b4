/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/ioevent.c src/base/err.c src/base/log.c */
/* Doorbells and interrupt events with an engine that takes them and one that does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "core/ioevent.h"
#include "core/machine.h"
#include "engine/engine.h"

static struct {
    _Atomic unsigned pulses, messages;
    _Atomic uint64_t addr, data, irq;
    unsigned bells, irqfds, sets; /* of the engine */
    bool refuse;
} seen;

void machine_isa_pulse(struct vm *vm, unsigned irq)
{
    seen.irq = irq;
    seen.pulses++;
}

void machine_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    seen.addr = addr;
    seen.data = data;
    seen.messages++;
}

static int fake_ioevent(struct vm *vm, const struct ioevent *ev, bool on)
{
    if (seen.refuse)
        return -ENOSPC;
    seen.bells += on ? 1 : -1u;
    return 0;
}

static int fake_irqfd(struct vm *vm, unsigned slot, int fd, const struct irqevent *ev)
{
    static bool on[IRQEVENT_MAX];

    if (seen.refuse)
        return -ENOSPC;
    seen.irqfds += !!ev - on[slot];
    on[slot] = ev;
    seen.sets++;
    return 0;
}

static const struct irqchip_ops chip = {.irqfd = fake_irqfd};
static const struct engine_ops plain = {.name = "plain"};
static const struct engine_ops able = {.name = "able", .ioevent = fake_ioevent, .irqchip = &chip};

static struct vm vm;
static struct vcpu vcpu;

static int setup(void **state)
{
    memset(&seen, 0, sizeof(seen));
    vm = (struct vm){.engine = &plain};
    return ioevents_new(&vm, NULL);
}

static int teardown(void **state)
{
    ioevents_free(&vm);
    ioevents_free(&vm);
    return 0;
}

static int event_new(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    assert_true(fd >= 0);
    return fd;
}

static uint64_t event_take(int fd)
{
    uint64_t n = 0;

    return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void event_set(int fd)
{
    const uint64_t one = 1;

    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void wait_for(_Atomic unsigned *what, unsigned n)
{
    const struct timespec nap = {0, 1000000};

    for (unsigned i = 0; i < 5000 && *what < n; i++)
        nanosleep(&nap, NULL);
    assert_int_equal(*what, n);
}

static void writes_are_matched(void **state)
{
    const int a = event_new(), b = event_new();
    const struct ioevent any = {.pio = true, .addr = 0x100, .fd = a};
    const struct ioevent exact = {
        .match = true, .size = 2, .addr = 0x1000, .data = 0xabcd1234, .fd = b};

    assert_false(ioevents_take(NULL, &vcpu, true, 0x100, 1, 0));
    assert_false(ioevents_take(vm.ioevents, &vcpu, true, 0x100, 1, 0));
    assert_int_equal(ioevent_add(&vm, &any, NULL), 0);
    assert_int_equal(ioevent_add(&vm, &exact, NULL), 0);
    assert_true(ioevents_take(vm.ioevents, &vcpu, true, 0x100, 1, 7));
    assert_true(ioevents_take(vm.ioevents, &vcpu, true, 0x100, 4, 0));
    assert_int_equal(event_take(a), 2);
    assert_false(ioevents_take(vm.ioevents, &vcpu, false, 0x100, 4, 0));
    assert_false(ioevents_take(vm.ioevents, &vcpu, true, 0x101, 1, 0));
    /* Two bytes of the data count, of the write as of the event. */
    assert_true(ioevents_take(vm.ioevents, &vcpu, false, 0x1000, 2, 0x1234));
    assert_true(ioevents_take(vm.ioevents, &vcpu, false, 0x1000, 2, 0xffff1234));
    assert_int_equal(event_take(b), 2);
    assert_false(ioevents_take(vm.ioevents, &vcpu, false, 0x1000, 4, 0x1234));
    assert_false(ioevents_take(vm.ioevents, &vcpu, false, 0x1000, 2, 0x1235));
    assert_int_equal(event_take(b), 0);
    ioevent_remove(&vm, &exact);
    assert_false(ioevents_take(vm.ioevents, &vcpu, false, 0x1000, 2, 0x1234));
    assert_true(ioevents_take(vm.ioevents, &vcpu, true, 0x100, 1, 7));
    close(a);
    close(b);
}

static void what_would_be_ambiguous_is_refused(void **state)
{
    struct err err = {0};
    struct ioevent ev = {.match = true, .size = 4, .addr = 8, .data = 1, .fd = 1};

    assert_int_equal(ioevent_add(&vm, &ev, &err), 0);
    assert_int_equal(ioevent_add(&vm, &ev, &err), -EEXIST);
    assert_non_null(strstr(err.what, "0x8"));
    ev.data = 2;
    assert_int_equal(ioevent_add(&vm, &ev, &err), 0);
    ev.match = false;
    assert_int_equal(ioevent_add(&vm, &ev, &err), -EEXIST);
    ev.size = 2;
    assert_int_equal(ioevent_add(&vm, &ev, &err), 0);
    ev.size = 0;
    assert_int_equal(ioevent_add(&vm, &ev, &err), -EEXIST);
    for (unsigned i = 3; i < IOEVENT_MAX; i++) {
        ev.addr = 16 * i;
        assert_int_equal(ioevent_add(&vm, &ev, &err), 0);
    }
    ev.addr = 0;
    assert_int_equal(ioevent_add(&vm, &ev, &err), -ENOSPC);
    ev.addr = 48;
    ioevent_remove(&vm, &ev);
    ev.addr = 0;
    assert_int_equal(ioevent_add(&vm, &ev, &err), 0);
}

static void an_engine_takes_doorbells(void **state)
{
    const struct ioevent one = {.addr = 8, .size = 4, .fd = event_new()};
    const struct ioevent two = {.addr = 16, .size = 4, .fd = one.fd};

    vm.engine = &able;
    assert_int_equal(ioevent_add(&vm, &one, NULL), 0);
    /* Not before it is rung. */
    assert_int_equal(seen.bells, 0);
    assert_true(ioevents_take(vm.ioevents, &vcpu, false, 8, 4, 0));
    assert_int_equal(event_take(one.fd), 1);
    assert_int_equal(seen.bells, 1);
    seen.refuse = true; /* then they are core's */
    assert_int_equal(ioevent_add(&vm, &two, NULL), 0);
    assert_true(ioevents_take(vm.ioevents, &vcpu, false, 16, 4, 0));
    assert_int_equal(event_take(two.fd), 1);
    assert_int_equal(seen.bells, 1);
    seen.refuse = false;
    ioevents_pause(&vm);
    vm.engine = &plain;
    ioevents_resume(&vm, true);
    assert_int_equal(seen.bells, 0);
    assert_true(ioevents_take(vm.ioevents, &vcpu, false, 8, 4, 0));
    ioevents_pause(&vm);
    vm.engine = &able;
    ioevents_resume(&vm, true);
    assert_int_equal(seen.bells, 0);
    assert_true(ioevents_take(vm.ioevents, &vcpu, false, 8, 4, 0));
    assert_true(ioevents_take(vm.ioevents, &vcpu, false, 16, 4, 0));
    assert_int_equal(seen.bells, 2);
    ioevent_remove(&vm, &one);
    ioevent_remove(&vm, &two);
    assert_int_equal(seen.bells, 0);
    close(one.fd);
}

static void signals_are_interrupts(void **state)
{
    const int line = event_new(), msi = event_new();
    struct irqevent ev = {.irq = 5};
    unsigned line_id, msi_id;

    event_set(line); /* one that is there already counts */
    assert_int_equal(irqevent_add(&vm, line, &ev, &line_id, NULL), 0);
    wait_for(&seen.pulses, 1);
    assert_int_equal(seen.irq, 5);
    ev = (struct irqevent){.msi = true, .addr = 0xfee01000, .data = 0x41};
    assert_int_equal(irqevent_add(&vm, msi, &ev, &msi_id, NULL), 0);
    event_set(msi);
    wait_for(&seen.messages, 1);
    assert_int_equal(seen.addr, 0xfee01000);
    assert_int_equal(seen.data, 0x41);
    ev.data = 0x42;
    irqevent_change(&vm, msi_id, &ev);
    event_set(msi);
    wait_for(&seen.messages, 2);
    assert_int_equal(seen.data, 0x42);
    irqevent_remove(&vm, msi_id);
    event_set(msi);
    event_set(line);
    wait_for(&seen.pulses, 2);
    assert_int_equal(seen.messages, 2);
    assert_int_equal(event_take(msi), 1); /* it stays */
    /* Its number is free again. */
    assert_int_equal(irqevent_add(&vm, msi, &ev, &line_id, NULL), 0);
    assert_int_equal(line_id, msi_id);
    close(line);
    close(msi);
}

static void an_engine_takes_interrupts(void **state)
{
    const int fd = event_new();
    struct irqevent ev = {.msi = true, .addr = 0xfee00000, .data = 0x41};
    unsigned id;

    vm.engine = &able;
    assert_int_equal(irqevent_add(&vm, fd, &ev, &id, NULL), 0);
    assert_int_equal(seen.irqfds, 1);
    irqevent_change(&vm, id, &ev);
    assert_int_equal(seen.irqfds, 1);
    assert_int_equal(seen.sets, 2);
    event_set(fd); /* nobody here listens */
    ioevents_pause(&vm);
    assert_int_equal(seen.irqfds, 0);
    vm.engine = &plain;
    ioevents_resume(&vm, true);
    wait_for(&seen.messages, 1); /* what came meanwhile is not lost */
    ioevents_pause(&vm);
    event_set(fd);
    vm.engine = &able;
    ioevents_resume(&vm, true);
    assert_int_equal(seen.irqfds, 1);
    assert_int_equal(seen.messages, 1);
    irqevent_remove(&vm, id);
    assert_int_equal(seen.irqfds, 0);
    close(fd);
}

static void there_are_so_many_and_no_more(void **state)
{
    const struct irqevent ev = {.irq = 3};
    struct err err = {0};
    unsigned id;

    vm.engine = &able;
    for (unsigned i = 0; i < IRQEVENT_MAX; i++)
        assert_int_equal(irqevent_add(&vm, 0, &ev, &id, &err), 0);
    assert_int_equal(irqevent_add(&vm, 0, &ev, &id, &err), -ENOSPC);
    for (unsigned i = 0; i < IRQEVENT_MAX; i++)
        irqevent_remove(&vm, i);
    assert_int_equal(seen.irqfds, 0);
}

#define IO_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IO_TEST(writes_are_matched),         IO_TEST(what_would_be_ambiguous_is_refused),
        IO_TEST(an_engine_takes_doorbells),  IO_TEST(signals_are_interrupts),
        IO_TEST(an_engine_takes_interrupts), IO_TEST(there_are_so_many_and_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
