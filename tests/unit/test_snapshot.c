/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: all */
/* What a VM is when it was saved it is when it was restored: a second save of it says the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sys/mman.h>

#include "core/generation.h"
#include "core/snapfile.h"
#include "core/snapshot.h"
#include "core/snapshot_fields.h"
#include "engine/engine.h"
#include "x86/msr.h"
#include "x86/platform.h"
#include "x86/state.h"

/* The software engine, but for a `set` that can refuse: the table of a VM whose devices run is not to be exchanged. */
static struct engine_ops picky;
#define SNAPSHOT_ENGINE (&picky)
#include "snapshot_guest.h"

#define EVENTS_AT 7 /* in the section of the ACPI registers */

struct fixture {
    struct snapshot_guest a, b;
    struct err err;
    int file; /* of a */
};

static int save(struct vm *vm, struct err *err)
{
    int fd = memfd_create("state", MFD_CLOEXEC);

    machine_pause(vm);
    assert_int_equal(vm_save(vm, fd, err), 0);
    machine_resume(vm);
    return fd;
}

static void cpus_use(struct vm *vm)
{
    struct x86_state *st = aligned_alloc(_Alignof(struct x86_state), sizeof(*st));

    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        vm->engine->get(&vm->vcpus[i], st);
        for (unsigned n = 0; n < 16; n++)
            st->gpr[n] = 0x1000 * (i + 1) + n;
        st->rip = 0x1234 + i;
        st->seg[X86_DS].base = 0x5000 + i;
        st->dr[3] = 0x77 + i;
        st->lstar = 0xffffffff81000000 + i;
        st->run = i ? X86_HALTED : X86_RUNNING;
        st->xsave[160] = (uint8_t)(0x99 + i);
        st->xsave[512] = 2;
        vm->engine->set(&vm->vcpus[i], st);
    }
    free(st);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    *state = f;
    if (!snapshot_guest_new(&f->a, 1, &f->err) || !snapshot_guest_new(&f->b, 2, &f->err))
        fail_msg("%s", f->err.what);
    snapshot_guest_use(f->a.vm);
    cpus_use(f->a.vm);
    f->file = save(f->a.vm, &f->err);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    snapshot_guest_free(&f->a);
    snapshot_guest_free(&f->b);
    close(f->file);
    free(f);
    return 0;
}

static int restore(struct fixture *f, int fd)
{
    struct vm_origin origin = {.state_fd = fd};

    f->b.vm->cfg.origin = &origin;
    f->err = (struct err){0};
    return vm_restore(f->b.vm, &f->err);
}

static void is_the_same_afterwards(void **state)
{
    struct fixture *f = *state;
    struct snapfile was, is;
    int again;

    if (restore(f, f->file))
        fail_msg("%s", f->err.what);
    again = save(f->b.vm, &f->err);
    assert_int_equal(snapfile_read(&was, f->file, &f->err), 0);
    assert_int_equal(snapfile_read(&is, again, &f->err), 0);
    assert_int_equal(was.count, is.count);
    for (unsigned i = 0; i < was.count; i++) {
        const struct snapfile_section *a = &was.section[i], *b = &is.section[i];

        assert_string_equal(a->name, b->name);
        assert_int_equal(a->index, b->index);
        assert_int_equal(a->len, b->len);
        if (!strcmp(a->name, "acpi-pm")) {
            /* But for the one event that tells of it. */
            assert_int_equal(b->data[EVENTS_AT], a->data[EVENTS_AT] | 1u << GPE_GENERATION);
            assert_memory_equal(a->data, b->data, EVENTS_AT);
        } else if (strcmp(a->name, "clock") && memcmp(a->data, b->data, a->len)) {
            size_t n = 0;

            while (a->data[n] == b->data[n])
                n++;
            fail_msg("section %s %u differs at %zu: 0x%02x was 0x%02x", a->name, a->index, n,
                     b->data[n], a->data[n]);
        }
    }
    snapfile_fini(&was);
    snapfile_fini(&is);
    close(again);
}

static _Atomic bool refuses;

static int picky_set(struct vcpu *vcpu, const struct x86_state *st)
{
    return atomic_load(&refuses) && vcpu->id ? -EINVAL : engine_soft.set(vcpu, st);
}

static void a_cpu_that_the_engine_refuses_is_named(void **state)
{
    struct fixture *f = *state;

    atomic_store(&refuses, true);
    assert_int_equal(restore(f, f->file), -EINVAL);
    atomic_store(&refuses, false);
    assert_non_null(strstr(f->err.what, "does not take the state of CPU 1"));
}

/* Each restore makes another ID of it; a reset makes none. */
static void has_another_generation(void **state)
{
    struct fixture *f = *state;
    uint8_t id[3][16];

    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(restore(f, f->file), 0);
        assert_int_equal(mem_read(&f->b.vm->mem, ACPI_GENERATION, id[i], 16), 0);
        assert_memory_equal(f->b.vm->generation, id[i], 16);
        assert_memory_not_equal(f->a.vm->generation, id[i], 16);
    }
    assert_memory_not_equal(id[0], id[1], 16);
    memset(id[2], 0, 16);
    assert_int_equal(mem_write(&f->b.vm->mem, ACPI_GENERATION, id[2], 16), 0);
    machine_reset(f->b.vm);
    assert_int_equal(generation_place(f->b.vm), 0);
    assert_int_equal(mem_read(&f->b.vm->mem, ACPI_GENERATION, id[2], 16), 0);
    assert_memory_equal(id[1], id[2], 16);
}

/* Not what a reset leaves: the comparison would prove nothing. */
static void is_not_as_after_a_reset(void **state)
{
    static const char *const names[] = {"cpu",     "msrs",   "lapic", "chips",  "rtc",
                                        "acpi-pm", "serial", "pci",   "virtio", "test"};
    struct fixture *f = *state;
    struct snapfile used, fresh;
    int fd;

    machine_reset(f->b.vm);
    fd = save(f->b.vm, &f->err);
    assert_int_equal(snapfile_read(&used, f->file, &f->err), 0);
    assert_int_equal(snapfile_read(&fresh, fd, &f->err), 0);
    for (unsigned n = 0; n < ARRAY_SIZE(names); n++)
        for (unsigned i = 0; i < used.count; i++)
            if (!strcmp(used.section[i].name, names[n]) &&
                !memcmp(used.section[i].data, fresh.section[i].data, used.section[i].len))
                fail_msg("section %s %u is as after a reset", names[n], used.section[i].index);
    snapfile_fini(&used);
    snapfile_fini(&fresh);
    close(fd);
}

static void time_goes_on_from_there(void **state)
{
    struct fixture *f = *state;
    struct snap_clock was;
    struct snapfile file;

    assert_int_equal(snapfile_read(&file, f->file, &f->err), 0);
    assert_int_equal(snapfile_get(&file, "clock", 0, snap_clock_fields, &was, &f->err), 0);
    snapfile_fini(&file);
    usleep(50000);
    assert_int_equal(restore(f, f->file), 0);
    assert_in_range(clock_now_ns(&f->b.vm->clock), was.now_ns, was.now_ns + 3600000000000ull);
    assert_in_range(clock_tsc(&f->b.vm->clock), was.tsc, was.tsc + 3600 * 1000 * was.tsc_khz);
    assert_int_equal(f->b.vm->clock.tsc_khz, was.tsc_khz);
}

/* The file with one section's object changed, sealed again. */
static int with(struct fixture *f, const char *name, unsigned index, const struct field *table,
                void (*change)(void *object, uint64_t arg), uint64_t arg)
{
    int fd = memfd_create("changed", MFD_CLOEXEC);
    struct snapfile_out out;
    struct snapfile file;
    void *object = aligned_alloc(64, 1 << 20);
    bool found = false;

    memset(object, 0, 1 << 20);
    assert_int_equal(snapfile_read(&file, f->file, &f->err), 0);
    snapfile_begin(&out);
    for (unsigned i = 0; i < file.count; i++) {
        const struct snapfile_section *s = &file.section[i];

        if (s->index != index || strcmp(s->name, name)) {
            snapfile_add_bytes(&out, s->name, s->index, s->data, s->len);
            continue;
        }
        found = true;
        assert_int_equal(snapfile_get(&file, name, index, table, object, &f->err), 0);
        change(object, arg);
        snapfile_add(&out, name, index, table, object);
    }
    assert_true(found);
    assert_int_equal(snapfile_finish(&out, fd, &f->err), 0);
    snapfile_fini(&file);
    free(object);
    return fd;
}

static void refused(struct fixture *f, int fd, const char *why)
{
    assert_int_equal(restore(f, fd), -EINVAL);
    if (!strstr(f->err.what, why))
        fail_msg("'%s' instead of '%s'", f->err.what, why);
    close(fd);
}

static void shape_cpus(void *o, uint64_t n)
{
    ((struct snap_shape *)o)->cpus = (uint32_t)n;
}

static void shape_memory(void *o, uint64_t n)
{
    ((struct snap_shape *)o)->memory = n;
}

static void shape_model(void *o, uint64_t n)
{
    ((struct snap_shape *)o)->model = (uint32_t)n;
}

static void shape_disk(void *o, uint64_t n)
{
    ((struct snap_shape *)o)->disk_size[0] = n;
}

static void a_different_guest_is_named(void **state)
{
    struct fixture *f = *state;
    const struct field *t = snap_shape_fields;

    refused(f, with(f, "machine", 0, t, shape_cpus, 1), "with 1 CPUs, and this one has 2");
    refused(f, with(f, "machine", 0, t, shape_cpus, 65), "cpus cannot be right");
    refused(f, with(f, "machine", 0, t, shape_memory, MIB(8)), "bytes of memory");
    refused(f, with(f, "machine", 0, t, shape_model, CPU_V2), "another model of CPU");
    refused(f, with(f, "machine", 0, t, shape_disk, 512), "bytes in one of its disks");
}

static void cpu_cr0(void *o, uint64_t n)
{
    ((struct x86_state *)o)->cr0 = n;
}

static void cpu_rflags(void *o, uint64_t n)
{
    ((struct x86_state *)o)->rflags = n;
}

static void cpu_base(void *o, uint64_t n)
{
    ((struct x86_state *)o)->seg[X86_GS].base = n;
}

static void cpu_mxcsr(void *o, uint64_t n)
{
    memcpy(((struct x86_state *)o)->xsave + 24, &n, 4);
}

static void cpu_components(void *o, uint64_t n)
{
    memcpy(((struct x86_state *)o)->xsave + 512, &n, 8);
}

static void virtio_size(void *o, uint64_t n)
{
    ((struct virtio_pci_state *)o)->dev.queue[0].size = (uint16_t)n;
}

static void virtio_ring(void *o, uint64_t n)
{
    ((struct virtio_pci_state *)o)->dev.queue[0].desc = n;
}

static void virtio_features(void *o, uint64_t n)
{
    ((struct virtio_pci_state *)o)->dev.driver_features |= n;
}

static void clock_khz(void *o, uint64_t n)
{
    ((struct snap_clock *)o)->tsc_khz = n;
}

static void msr_mtrr(void *o, uint64_t n)
{
    ((struct msr_saved *)o)->reg[6] = n; /* the second variable range */
}

static void impossible_values_are_refused(void **state)
{
    struct fixture *f = *state;
    const struct field *cpu = snap_cpu_fields, *virtio = snap_virtio_fields;

    refused(f, with(f, "cpu", 1, cpu, cpu_cr0, 0x80000010), "CPU 1 cannot be right: CR0");
    refused(f, with(f, "cpu", 0, cpu, cpu_rflags, 0), "CPU 0 cannot be right: RFLAGS");
    refused(f, with(f, "cpu", 0, cpu, cpu_base, 1ull << 60), "a segment");
    refused(f, with(f, "cpu", 0, cpu, cpu_mxcsr, 0xffff0000), "MXCSR");
    refused(f, with(f, "cpu", 0, cpu, cpu_components, ~0ull), "header of the vector state");
    refused(f, with(f, "virtio", 10, virtio, virtio_size, 5), "a queue's size or addresses");
    refused(f, with(f, "virtio", 10, virtio, virtio_size, 1024), "larger than the device's");
    refused(f, with(f, "virtio", 10, virtio, virtio_ring, MIB(4)), "a queue's size or addresses");
    refused(f, with(f, "virtio", 10, virtio, virtio_features, 1ull << 60), "has them not here");
    refused(f, with(f, "clock", 0, snap_clock_fields, clock_khz, 1000), "time stamp counter");
    refused(f, with(f, "msrs", 0, snap_msrs_fields, msr_mtrr, 3), "MSRs");
    /* And then it is as good as before. */
    assert_int_equal(restore(f, f->file), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(is_the_same_afterwards),
        CASE(has_another_generation),
        CASE(a_cpu_that_the_engine_refuses_is_named),
        CASE(is_not_as_after_a_reset),
        CASE(time_goes_on_from_there),
        CASE(a_different_guest_is_named),
        CASE(impossible_values_are_refused),
    };

    picky = engine_soft;
    picky.set = picky_set;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
