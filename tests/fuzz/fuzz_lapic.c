/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/lapic.c src/x86/lapic_regs.c src/x86/lapic_timer.c src/x86/lapic_ipi.c src/x86/pic.c src/core/bus.c src/base/err.c */
#include "../unit/fake_pc.h"
#include "fuzz_ops.h"
#include "x86/lapic.h"
#include "x86/pic.h"

#define CPUS 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const uint32_t msrs[] = {0x1b,  0x6e0, 0x802, 0x808, 0x80b, 0x80f, 0x828, 0x830,
                                0x832, 0x835, 0x837, 0x838, 0x839, 0x83e, 0x83f, 0x8ff};

static void registers(struct vm *vm, struct lapic *l, struct fuzz_op op)
{
    uint32_t msr = op.addr & 0x80 ? 0x800u + (op.addr & 0x7f) : msrs[op.addr & 15];
    uint64_t val = op.val, off = (uint64_t)op.addr << 4;

    switch (op.what >> 2 & 7) {
    case 0:
    case 1:
        lapic_mmio_write(l, off, 4, val);
        break;
    case 2:
        lapic_mmio_read(l, off, 4);
        break;
    case 3:
        lapic_mmio_write(l, off + (val & 15), fuzz_size(op.what), val);
        lapic_mmio_read(l, off + (val & 15), fuzz_size(op.what));
        break;
    case 4:
        if (msr == 0x830)
            val |= (val & 0xff) << 32;
        if (msr == 0x6e0)
            val = val ? clock_tsc(&vm->clock) + val : 0;
        lapic_msr_write(l, msr, val);
        break;
    case 5:
        lapic_msr_read(l, msr, &val);
        break;
    case 6:
        lapic_set_cr8(l, op.val);
        fuzz_check(lapic_get_cr8(l) == (op.val & 15));
        break;
    default:
        if (op.val % 16 == 0)
            lapic_reset(l);
        else if (op.val % 16 == 1)
            lapic_init(l);
        else
            irq_set(lapic_lint0(l), op.val & 4);
    }
}

/* What pending promises, ack keeps; then the interrupt is in service. */
static void take(struct lapic *l, bool eoi)
{
    int promised = lapic_pending(l), vector = lapic_ack(l);

    fuzz_check((promised >= 0) == (vector >= 0));
    fuzz_check(vector <= 255);
    if (eoi)
        lapic_mmio_write(l, 0xb0, 4, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct vcpu vcpus[CPUS];
    struct fuzz_op op;
    struct pic *pic;
    struct vm vm;

    fake_vm_init(&vm, vcpus, CPUS);
    if (pic_new(&pic, &vm, NULL) < 0)
        return 0;
    for (unsigned i = 0; i < CPUS; i++)
        if (lapic_new(&vcpus[i].lapic, &vcpus[i], i ? NULL : pic, NULL) < 0)
            abort();
    pic_connect(pic, lapic_lint0(vcpus[0].lapic));
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        struct lapic *l = vcpus[op.what % CPUS].lapic;

        switch (op.what >> 5) {
        case 0:
        case 1:
        case 2:
        case 3:
            registers(&vm, l, op);
            break;
        case 4:
            lapic_msi(&vm, 0xfee00000ull | (uint64_t)op.addr << 12 | (op.val >> 28), op.val);
            break;
        case 5:
            take(l, op.addr & 1);
            break;
        case 6:
            fuzz_check(fake_advance_limited(&vm.clock, op.val, 1000000) <=
                       CPUS * (op.val / 25000 + 8));
            break;
        default:
            fuzz_check(lapic_pv_ipi(&vm, op.val, ~0ull, op.addr, op.val) <= CPUS);
        }
    }
    for (unsigned i = 0; i < CPUS; i++)
        lapic_free(vcpus[i].lapic);
    fuzz_check(!vm.clock.armed);
    pic_free(pic);
    return 0;
}
