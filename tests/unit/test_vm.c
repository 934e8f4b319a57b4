/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/ src/base/ src/x86/state.c src/x86/state_check.c src/x86/msr.c src/x86/pic.c
 *       src/x86/ioapic.c src/x86/lapic.c src/x86/lapic_regs.c src/x86/lapic_ipi.c
 *       src/x86/lapic_timer.c src/x86/pit.c src/x86/rtc.c src/x86/acpipm.c src/dev/ src/block/ src/net/ */
/*
 * The life of a VM and the wiring of its machine, with the real devices, an
 * engine whose "guest code" is a C function, and a loader that loads nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "core/dirty.h"
#include "core/ioevent.h"
#include "core/machine.h"
#include "engine/engine.h"
#include "x86/boot.h"
#include "x86/platform.h"

#define MEMORY MIB(2)

/* What the fake engine was asked to do, and what its guests are to do. */
static struct {
    unsigned vm_inits, vm_finis, vcpu_inits, vcpu_finis;
    int fail_vm_init, fail_vcpu; /* -1: none */
    enum vcpu_exit_reason (*guest)(struct vcpu *vcpu);
    _Atomic unsigned loads;
    int load_result;
    _Atomic uint32_t run[VM_MAX_CPUS]; /* of the last set() */
    _Atomic uint64_t rip[VM_MAX_CPUS];
    _Atomic uint64_t written, tsc_offset;
    _Atomic unsigned kicks, step;
    bool logging;
    int log_result, take_result;
    uint64_t engine_dirty; /* first word */
} fake;

static const char mark[] = "left by the guest";

int boot_load(struct mem *mem, const struct boot_config *cfg, struct x86_state *bsp,
              struct err *err)
{
    char seen[sizeof(mark)] = "";

    fake.loads++;
    assert_string_equal(cfg->kernel, "kernel");
    /* Memory is empty, whatever the guest did before the reset. */
    assert_int_equal(mem_read(mem, MIB(1), seen, sizeof(seen)), 0);
    assert_string_equal(seen, "");
    bsp->rip = 0x1234;
    if (fake.load_result)
        return err_set(err, fake.load_result, "no such kernel");
    return 0;
}

static int fake_vm_init(struct vm *vm, struct err *err)
{
    if (fake.fail_vm_init)
        return err_set(err, -ENODEV, "engine refuses");
    fake.vm_inits++;
    vm->engine_data = &fake;
    return 0;
}

static void fake_vm_fini(struct vm *vm)
{
    if (vm->engine_data)
        fake.vm_finis++;
    vm->engine_data = NULL;
}

static int fake_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    if ((int)vcpu->id == fake.fail_vcpu)
        return err_set(err, -ENOMEM, "no more CPUs");
    fake.vcpu_inits++;
    vcpu->engine = &fake;
    return 0;
}

static void fake_vcpu_fini(struct vcpu *vcpu)
{
    if (vcpu->engine)
        fake.vcpu_finis++;
    vcpu->engine = NULL;
}

static enum vcpu_exit_reason fake_run(struct vcpu *vcpu)
{
    vcpu->exit.reason = fake.guest(vcpu);
    return vcpu->exit.reason;
}

static void fake_kick(struct vcpu *vcpu)
{
    assert_ptr_equal(vcpu->engine, &fake);
    fake.kicks++;
}

static int fake_set(struct vcpu *vcpu, const struct x86_state *st)
{
    fake.run[vcpu->id] = st->run;
    fake.rip[vcpu->id] = st->rip;
    return 0;
}

static void fake_mem_written(struct vm *vm, gpa_t gpa, uint64_t len)
{
    fake.written += len;
}

static int fake_dirty_log(struct vm *vm, bool on)
{
    if (on && fake.log_result)
        return fake.log_result;
    fake.logging = on;
    return 0;
}

static int fake_dirty_take(struct vm *vm, uint64_t *bitmap)
{
    assert_true(fake.logging);
    bitmap[0] |= fake.engine_dirty;
    fake.engine_dirty = 0;
    return fake.take_result;
}

static const struct engine_ops fake_engine = {
    .name = "fake",
    .vm_init = fake_vm_init,
    .vm_fini = fake_vm_fini,
    .vcpu_init = fake_vcpu_init,
    .vcpu_fini = fake_vcpu_fini,
    .run = fake_run,
    .kick = fake_kick,
    .set = fake_set,
    .mem_written = fake_mem_written,
    .dirty_log = fake_dirty_log,
    .dirty_take = fake_dirty_take,
};

static const struct vm_config base_config = {
    .name = "test",
    .cpus = 2,
    .memory = MEMORY,
    .kernel = "kernel",
    .engine = &fake_engine,
    .serial_in = -1,
    .serial_out = -1,
};

static int setup(void **state)
{
    memset(&fake, 0, sizeof(fake));
    fake.fail_vcpu = -1;
    return 0;
}

static struct vm *make(const struct vm_config *cfg)
{
    struct err err = {0};
    struct vm *vm;

    if (vm_new(&vm, cfg, &err) < 0)
        fail_msg("%s", err.what);
    return vm;
}

static void nap_ms(unsigned ms)
{
    struct timespec ts = {0, (long)ms * 1000000};

    nanosleep(&ts, NULL);
}

/* Sleeps until told to stop, whatever else comes. */
static enum vcpu_exit_reason guest_idle(struct vcpu *vcpu)
{
    return atomic_exchange(&vcpu->events, 0) & VCPU_EV_STOP ? VCPU_EXIT_STOP : VCPU_EXIT_HALT;
}

/* ---- Making and failing -------------------------------------------------- */

static void bad_configurations_are_refused(void **state)
{
    struct vm_config cfg[6];
    struct err err;
    struct vm *vm;

    for (unsigned i = 0; i < ARRAY_SIZE(cfg); i++)
        cfg[i] = base_config;
    cfg[0].cpus = 0;
    cfg[1].cpus = VM_MAX_CPUS + 1;
    cfg[2].engine = NULL;
    cfg[3].kernel = NULL;
    cfg[4].memory = 0;
    cfg[5].memory = MIB(2) + 1;
    for (unsigned i = 0; i < ARRAY_SIZE(cfg); i++) {
        memset(&err, 0, sizeof(err));
        assert_int_equal(vm_new(&vm, &cfg[i], &err), -EINVAL);
        assert_int_equal(err.code, -EINVAL);
        assert_null(vm);
    }
    assert_int_equal(fake.vm_inits, 0);
    vm_free(NULL);
}

static void failures_on_the_way_hold_nothing(void **state)
{
    struct err err = {0};
    struct vm *vm;

    fake.fail_vm_init = 1;
    assert_int_equal(vm_new(&vm, &base_config, &err), -ENODEV);
    assert_string_equal(err.what, "engine refuses");
    fake.fail_vm_init = 0;
    fake.fail_vcpu = 1;
    assert_int_equal(vm_new(&vm, &base_config, &err), -ENOMEM);
    assert_null(vm);
    assert_int_equal(fake.vm_inits, 1);
    assert_int_equal(fake.vm_finis, 1);
    assert_int_equal(fake.vcpu_inits, 1);
    assert_int_equal(fake.vcpu_finis, 1);
}

static void strings_are_copied(void **state)
{
    struct vm_config cfg = base_config;
    enum vm_end end = VM_END_FAILED;
    char kernel[] = "kernel";
    struct vm *vm;

    cfg.kernel = kernel;
    vm = make(&cfg);
    memset(kernel, 'x', sizeof(kernel) - 1);
    fake.guest = guest_idle;
    vm_request(vm, VM_REQ_STOP);
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    vm_free(vm);
}

static void a_kernel_that_does_not_load_is_an_error(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_POWEROFF;
    struct err err = {0};

    fake.guest = guest_idle;
    fake.load_result = -ENOENT;
    assert_int_equal(vm_run(vm, &end, &err), -ENOENT);
    assert_int_equal(end, VM_END_FAILED);
    assert_string_equal(err.what, "no such kernel");
    vm_free(vm);
}

/* ---- Ends ---------------------------------------------------------------- */

static void stop_reaches_sleeping_cpus(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_FAILED;

    fake.guest = guest_idle;
    vm_request(vm, VM_REQ_STOP); /* even before the start */
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(end, VM_END_STOPPED);
    assert_int_equal(fake.loads, 1);
    assert_int_equal(fake.run[0], X86_RUNNING);
    assert_int_equal(fake.rip[0], 0x1234);
    assert_int_equal(fake.run[1], X86_WAIT_SIPI);
    assert_int_equal(fake.rip[1], 0xfff0);
    assert_int_equal(fake.written, MEMORY - KIB(128));
    vm_free(vm);
    assert_int_equal(fake.vcpu_finis, 2);
    assert_int_equal(fake.vm_finis, 1);
}

static struct {
    struct vm *vm;
    int fd;
    _Atomic unsigned begun, looked, ended;
} watched;

/* The first two times there is something to look at, then nothing comes but an event, then there is nothing to watch. */
static int watch_begin(void *opaque)
{
    assert_ptr_equal(opaque, &watched);
    if (++watched.begun <= 2)
        assert_int_equal(eventfd_write(watched.fd, 1), 0);
    return watched.begun <= 3 ? watched.fd : -1;
}

static void watch_look(void *opaque)
{
    eventfd_t count;

    assert_int_equal(eventfd_read(watched.fd, &count), 0);
    if (++watched.looked == 2)
        vcpu_post(&watched.vm->vcpus[0], VCPU_EV_INTR);
}

static void watch_end(void *opaque)
{
    watched.ended++;
}

static const struct idle_watch watch = {watch_begin, watch_look, watch_end, &watched};

static enum vcpu_exit_reason guest_watches(struct vcpu *vcpu)
{
    if (vcpu->id == 0 && !(atomic_load(&vcpu->events) & VCPU_EV_STOP)) {
        assert_int_equal(vcpu->sleeping, 0);
        fake.step++;
        if (fake.step == 1)
            vcpu->watch = &watch;
        if (fake.step == 2)
            assert_int_equal(watched.looked, 2);
    }
    return guest_idle(vcpu);
}

static void *disturb(void *opaque)
{
    while (watched.begun < 3)
        nap_ms(1);
    nap_ms(5);
    vcpu_post(&watched.vm->vcpus[0], VCPU_EV_INTR);
    while (watched.begun < 4)
        nap_ms(1);
    vm_request(watched.vm, VM_REQ_STOP);
    return NULL;
}

/* A halted vCPU goes back to sleep while what it looks at is not for it, and wakes for all that is. */
static void a_sleeping_cpu_looks_after_what_it_left_behind(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_FAILED;
    pthread_t thread;

    memset(&watched, 0, sizeof(watched));
    watched.vm = vm;
    watched.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    fake.guest = guest_watches;
    assert_int_equal(pthread_create(&thread, NULL, disturb, NULL), 0);
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(end, VM_END_STOPPED);
    assert_int_equal(watched.looked, 2);
    assert_int_equal(watched.ended, 3);
    assert_in_range(fake.step, 2, 3);
    assert_null(vm->vcpus[0].watch);
    close(watched.fd);
    vm_free(vm);
}

/* The boot CPU switches the machine off: SLP_EN with the S5 type. */
static enum vcpu_exit_reason guest_poweroff(struct vcpu *vcpu)
{
    if (vcpu->id == 0)
        vcpu_pio_write(vcpu, PIO_PM1A_CNT, 2, 1 << 13 | ACPI_S5_SLP_TYP << 10);
    return guest_idle(vcpu);
}

static void poweroff_through_acpi(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_FAILED;

    fake.guest = guest_poweroff;
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(end, VM_END_POWEROFF);
    /* It can be switched on again. */
    end = VM_END_FAILED;
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(end, VM_END_POWEROFF);
    assert_int_equal(fake.loads, 2);
    vm_free(vm);
}

/* Twice: leave something in memory and in a device, then reset. Then switch off. */
static enum vcpu_exit_reason guest_reset(struct vcpu *vcpu)
{
    uint64_t val = 0;

    if (vcpu->id != 0 || atomic_load(&vcpu->events))
        return guest_idle(vcpu);
    assert_int_equal(vcpu_msr_read(vcpu, 0x2ff, &val), 0);
    assert_int_equal(val, 0xc06);
    /* The TSC began at 0 with this reset. */
    assert_true(fake.loads == 1 || vcpu->vm->clock.tsc_offset < fake.tsc_offset);
    fake.tsc_offset = vcpu->vm->clock.tsc_offset;
    if (fake.loads == 3)
        return guest_poweroff(vcpu);
    assert_int_equal(vcpu_msr_write(vcpu, 0x2ff, 0), 0);
    assert_int_equal(mem_write(&vcpu->vm->mem, MIB(1), mark, sizeof(mark)), 0);
    vcpu_pio_write(vcpu, PIO_RESET, 1, RESET_VALUE);
    return VCPU_EXIT_HALT;
}

static void reset_starts_afresh(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_FAILED;

    fake.guest = guest_reset;
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(end, VM_END_POWEROFF);
    assert_int_equal(fake.loads, 3);
    assert_int_equal(fake.written, 3 * (MEMORY - KIB(128)));
    vm_free(vm);
}

static void reset_ends_a_guest_without_reboot(void **state)
{
    struct vm_config cfg = base_config;
    enum vm_end end = VM_END_FAILED;
    struct vm *vm;

    cfg.no_reboot = true;
    vm = make(&cfg);
    fake.guest = guest_reset;
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(end, VM_END_RESET);
    assert_int_equal(fake.loads, 1);
    vm_free(vm);
}

static enum vcpu_exit_reason guest_crash(struct vcpu *vcpu)
{
    if (vcpu->id == 0)
        return guest_idle(vcpu);
    snprintf(vcpu->exit.text, sizeof(vcpu->exit.text), "triple fault at 0xbad");
    return VCPU_EXIT_SHUTDOWN;
}

static void a_crash_is_told_with_its_text(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_POWEROFF;
    struct err err = {0};

    fake.guest = guest_crash;
    assert_int_equal(vm_run(vm, &end, &err), -EIO);
    assert_int_equal(end, VM_END_FAILED);
    assert_non_null(strstr(err.what, "triple fault at 0xbad"));
    assert_true(strlen(err.next) > 0);
    vm_free(vm);
}

/* ---- Waking -------------------------------------------------------------- */

#define ROUNDS 20000

/* Two CPUs wake each other in turn; one lost wake-up and both sleep for good. */
static enum vcpu_exit_reason guest_pingpong(struct vcpu *vcpu)
{
    uint32_t ev = atomic_exchange(&vcpu->events, 0);

    if (ev & VCPU_EV_STOP)
        return VCPU_EXIT_STOP;
    if (fake.step % 2 == vcpu->id) {
        if (++fake.step >= ROUNDS)
            vm_request(vcpu->vm, VM_REQ_STOP);
        vcpu_post(&vcpu->vm->vcpus[!vcpu->id], VCPU_EV_INTR);
    }
    return VCPU_EXIT_HALT;
}

static void no_wakeup_is_lost(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_FAILED;

    fake.guest = guest_pingpong;
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_true(fake.step >= ROUNDS);
    assert_true(fake.kicks >= ROUNDS);
    vm_free(vm);
}

static void *run_vm(void *opaque)
{
    enum vm_end end = VM_END_FAILED;

    assert_int_equal(vm_run(opaque, &end, NULL), 0);
    return (void *)(uintptr_t)end;
}

static void two_machines_in_one_process(void **state)
{
    struct vm *vm[2] = {make(&base_config), make(&base_config)};
    pthread_t thread[2];
    void *end;

    fake.guest = guest_idle;
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, run_vm, vm[i]), 0);
    vm_request(vm[1], VM_REQ_POWEROFF);
    pthread_join(thread[1], &end);
    assert_int_equal((uintptr_t)end, VM_END_POWEROFF);
    vm_free(vm[1]);
    vm_request(vm[0], VM_REQ_STOP);
    pthread_join(thread[0], &end);
    assert_int_equal((uintptr_t)end, VM_END_STOPPED);
    vm_free(vm[0]);
}

/* ---- Wiring -------------------------------------------------------------- */

#define LAPIC_SVR   0xf0
#define LAPIC_EOI   0xb0
#define LAPIC_LVT0  0x350
#define UART_IER    (PIO_COM1 + 1)
#define UART_MCR    (PIO_COM1 + 4)
#define IOAPIC_MASK 0x10000u

static void lapic_put(struct vcpu *vcpu, unsigned reg, uint32_t val)
{
    vcpu_mmio_write(vcpu, MMIO_LAPIC + reg, 4, val);
}

static void ioapic_put(struct vcpu *vcpu, unsigned pin, uint32_t low)
{
    vcpu_mmio_write(vcpu, MMIO_IOAPIC, 4, 0x10 + 2 * pin);
    vcpu_mmio_write(vcpu, MMIO_IOAPIC + 0x10, 4, low);
    vcpu_mmio_write(vcpu, MMIO_IOAPIC, 4, 0x11 + 2 * pin);
    vcpu_mmio_write(vcpu, MMIO_IOAPIC + 0x10, 4, 0); /* to APIC 0 */
}

static int wait_vector(struct vcpu *vcpu)
{
    for (unsigned i = 0; i < 2000 && vcpu_intr_pending(vcpu) < 0; i++)
        nap_ms(1);
    return vcpu_intr_pending(vcpu);
}

static void isa_interrupts_reach_the_ioapic(void **state)
{
    struct vm *vm = make(&base_config);
    struct vcpu *bsp = &vm->vcpus[0];

    lapic_put(bsp, LAPIC_SVR, 0x1ff);
    assert_int_equal(vcpu_intr_pending(bsp), -1);

    ioapic_put(bsp, IRQ_COM1, 0x44);
    vcpu_pio_write(bsp, UART_MCR, 1, 8);
    vcpu_pio_write(bsp, UART_IER, 1, 2); /* transmitter empty */
    assert_int_equal(wait_vector(bsp), 0x44);
    assert_int_equal(vcpu_intr_ack(bsp), 0x44);
    assert_true(fake.kicks > 0);
    vcpu_pio_write(bsp, UART_IER, 1, 0);
    lapic_put(bsp, LAPIC_EOI, 0);
    ioapic_put(bsp, IRQ_COM1, IOAPIC_MASK);

    /* The timer's line is pin 2 there. */
    ioapic_put(bsp, 2, 0x42);
    ioapic_put(bsp, 0, 0x40);
    vcpu_pio_write(bsp, PIO_PIT + 3, 1, 0x30); /* channel 0, both bytes, mode 0 */
    vcpu_pio_write(bsp, PIO_PIT, 1, 10);
    vcpu_pio_write(bsp, PIO_PIT, 1, 0);
    assert_int_equal(wait_vector(bsp), 0x42);
    vm_free(vm);
}

static void isa_interrupts_reach_the_8259(void **state)
{
    static const struct {
        uint16_t port;
        uint8_t val;
    } init[] = {{0x20, 0x11}, {0x21, 0x30}, {0x21, 4}, {0x21, 1}, {0x21, 0xef}};
    struct vm *vm = make(&base_config);
    struct vcpu *bsp = &vm->vcpus[0];

    lapic_put(bsp, LAPIC_SVR, 0x1ff);
    lapic_put(bsp, LAPIC_LVT0, 0x700); /* ExtINT */
    for (unsigned i = 0; i < ARRAY_SIZE(init); i++)
        vcpu_pio_write(bsp, init[i].port, 1, init[i].val);
    assert_int_equal(vcpu_intr_pending(bsp), -1);
    vcpu_pio_write(bsp, UART_MCR, 1, 8);
    vcpu_pio_write(bsp, UART_IER, 1, 2);
    assert_true(wait_vector(bsp) >= 0);
    assert_int_equal(vcpu_intr_ack(bsp), 0x30 + IRQ_COM1);
    assert_int_equal(vcpu_intr_pending(&vm->vcpus[1]), -1);
    vm_free(vm);
}

static void accesses_go_where_they_belong(void **state)
{
    struct vm *vm = make(&base_config);
    struct vcpu *vcpu = &vm->vcpus[1];
    uint64_t val = 0;

    assert_int_equal(vcpu_mmio_read(vcpu, MMIO_LAPIC + 0x20, 4) >> 24, 1); /* own APIC ID */
    assert_int_equal(vcpu_msr_read(vcpu, 0x1b, &val), 0);
    assert_int_equal(val, MMIO_LAPIC | 1 << 11);
    assert_int_equal(vcpu_msr_read(&vm->vcpus[0], 0x1b, &val), 0);
    assert_int_equal(val, MMIO_LAPIC | 1 << 11 | 1 << 8);
    assert_int_equal(vcpu_msr_read(vcpu, 0xfe, &val), 0);
    assert_int_equal(vcpu_msr_read(vcpu, 0x12345678, &val), -1);
    assert_int_equal(vcpu_msr_write(vcpu, 0x12345678, 0), -1);
    assert_int_equal(vcpu_pio_read(vcpu, 0x80, 2), 0xffff);
    assert_int_equal(vcpu_mmio_read(vcpu, 0xd0000000, 4), 0xffffffff);
    vcpu_mmio_write(vcpu, 0xd0000000, 8, 1);
    vcpu_set_cr8(vcpu, 5);
    assert_int_equal(vcpu_get_cr8(vcpu), 5);
    assert_int_equal(vcpu_get_cr8(&vm->vcpus[0]), 0);
    vm_free(vm);
}

static void hypercalls(void **state)
{
    static const uint64_t nobody[4] = {0}, both[4] = {3, 0, 0, 0x51};
    struct vm *vm = make(&base_config);

    for (unsigned i = 0; i < 2; i++)
        lapic_put(&vm->vcpus[i], LAPIC_SVR, 0x1ff);
    assert_true(vcpu_hypercall(&vm->vcpus[0], 0, nobody) == (uint64_t)-1000);
    assert_true(vcpu_hypercall(&vm->vcpus[0], UINT64_MAX, nobody) == (uint64_t)-1000);
    assert_int_equal(vcpu_hypercall(&vm->vcpus[0], 1, nobody), 0);
    assert_int_equal(vcpu_hypercall(&vm->vcpus[0], 10, both), 2);
    assert_int_equal(vcpu_intr_pending(&vm->vcpus[0]), 0x51);
    assert_int_equal(vcpu_intr_pending(&vm->vcpus[1]), 0x51);
    vm_free(vm);
}

/* ---- Written pages -------------------------------------------------------- */

static void writes_from_outside_and_inside_are_one_log(void **state)
{
    struct vm *vm = make(&base_config);
    uint64_t bits[8];
    struct err err = {0};

    assert_int_equal(vm_dirty_words(vm), 8);
    assert_int_equal(vm_dirty_take(vm, bits, &err), -EINVAL);
    vm_mem_written(vm, 0x3000, 1);
    fake.log_result = -ENOSPC;
    assert_int_equal(vm_dirty_start(vm, &err), -ENOSPC);
    fake.log_result = 0;
    assert_int_equal(vm_dirty_start(vm, &err), 0);
    vm_mem_written(vm, 0x1fff, 2);
    vm_mem_written(vm, MIB(2) - 1, 1);
    vm_mem_written(vm, MIB(2), 4096);   /* beyond the end, and */
    vm_mem_written(vm, 0x9ffff, 0x300); /* into a hole: what is memory of it counts */
    fake.engine_dirty = 1u << 7;
    assert_int_equal(vm_dirty_take(vm, bits, &err), 0);
    assert_int_equal(bits[0], 1u << 1 | 1u << 2 | 1u << 7);
    assert_int_equal(bits[7], 1ull << 63);
    assert_int_equal(bits[2], 1ull << (0x9f - 128));
    assert_int_equal(vm_dirty_take(vm, bits, &err), 0);
    assert_int_equal(bits[0] | bits[2] | bits[7], 0);
    /* A change of engine loses nothing. */
    fake.engine_dirty = 1u << 9;
    vm_dirty_leave(vm);
    vm_dirty_enter(vm);
    assert_int_equal(vm_dirty_take(vm, bits, &err), 0);
    assert_int_equal(bits[0], 1u << 9);
    fake.take_result = -EIO;
    assert_int_equal(vm_dirty_take(vm, bits, &err), -EIO);
    assert_false(fake.logging);
    vm_dirty_stop(vm);
    vm_free(vm);
}

static void call_back(struct vm *vm, void *opaque)
{
    unsigned *calls = opaque;

    if (++*calls < 3)
        vm_request_call(vm, call_back, opaque);
    else
        vm_request(vm, VM_REQ_STOP);
}

static void calls_come_between_stretches(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_FAILED;
    unsigned calls = 0;

    fake.guest = guest_idle;
    vm_request_call(vm, call_back, &calls);
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(end, VM_END_STOPPED);
    assert_int_equal(calls, 3);
    assert_int_equal(fake.loads, 1);
    vm_free(vm);
}

static enum vcpu_exit_reason guest_busy(struct vcpu *vcpu)
{
    while (!(atomic_load(&vcpu->events) & VCPU_EV_STOP)) {
        fake.step++;
        usleep(50);
    }
    return VCPU_EXIT_STOP;
}

static void *pause_and_stop(void *opaque)
{
    struct vm *vm = opaque;
    unsigned long runs;

    for (int i = 0; i < 3; i++) {
        vm_pause(vm, true);
        while (!vm_is_paused(vm))
            usleep(100);
        runs = fake.step;
        usleep(2000);
        if (fake.step != runs)
            return "ran while it was paused";
        vm_pause(vm, false);
        while (fake.step == runs)
            usleep(100);
    }
    /* One that stands still can be ended. */
    vm_pause(vm, true);
    while (!vm_is_paused(vm))
        usleep(100);
    vm_request(vm, VM_REQ_STOP);
    return NULL;
}

static void pauses(void **state)
{
    struct vm *vm = make(&base_config);
    enum vm_end end = VM_END_FAILED;
    pthread_t thread;
    void *wrong;

    fake.guest = guest_busy;
    assert_int_equal(pthread_create(&thread, NULL, pause_and_stop, vm), 0);
    assert_int_equal(vm_run(vm, &end, NULL), 0);
    assert_int_equal(end, VM_END_STOPPED);
    pthread_join(thread, &wrong);
    if (wrong)
        fail_msg("%s", (char *)wrong);
    vm_free(vm);
}

int main(void)
{
#define VM_TEST(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {
        VM_TEST(bad_configurations_are_refused),
        VM_TEST(failures_on_the_way_hold_nothing),
        VM_TEST(strings_are_copied),
        VM_TEST(a_kernel_that_does_not_load_is_an_error),
        VM_TEST(stop_reaches_sleeping_cpus),
        VM_TEST(a_sleeping_cpu_looks_after_what_it_left_behind),
        VM_TEST(poweroff_through_acpi),
        VM_TEST(reset_starts_afresh),
        VM_TEST(reset_ends_a_guest_without_reboot),
        VM_TEST(a_crash_is_told_with_its_text),
        VM_TEST(no_wakeup_is_lost),
        VM_TEST(two_machines_in_one_process),
        VM_TEST(isa_interrupts_reach_the_ioapic),
        VM_TEST(isa_interrupts_reach_the_8259),
        VM_TEST(accesses_go_where_they_belong),
        VM_TEST(hypercalls),
        VM_TEST(writes_from_outside_and_inside_are_one_log),
        VM_TEST(calls_come_between_stretches),
        VM_TEST(pauses),
    };

    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
