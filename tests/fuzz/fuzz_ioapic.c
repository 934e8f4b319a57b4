/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/ioapic.c src/core/bus.c src/base/err.c */
#include "../unit/fake_pc.h"
#include "fuzz_ops.h"
#include "x86/ioapic.h"
#include "x86/lapic.h"
#include "x86/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Every message is well formed. */
void lapic_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
    fuzz_check((addr & ~0xff004ull) == 0xfee00000);
    fuzz_check((data & ~0xc7ffu) == 0);
    fuzz_check(!(data & 1u << 15) || (data & 1u << 14));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct vcpu vcpu;
    struct fuzz_op op;
    struct ioapic *io;
    struct vm vm;

    fake_vm_init(&vm, &vcpu, 1);
    if (ioapic_new(&io, &vm, NULL) < 0)
        return 0;
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        switch (op.what & 7) {
        case 0:
            bus_write(&vm.mmio, MMIO_IOAPIC + op.addr, fuzz_size(op.what), op.val);
            break;
        case 1:
            bus_read(&vm.mmio, MMIO_IOAPIC + op.addr, fuzz_size(op.what));
            break;
        case 2:
        case 3:
            bus_write(&vm.mmio, MMIO_IOAPIC, 4, op.addr);
            bus_write(&vm.mmio, MMIO_IOAPIC + 0x10, 4, op.val);
            break;
        case 4:
        case 5:
            irq_set(ioapic_pin(io, op.addr), op.val & 1);
            break;
        case 6:
            ioapic_eoi(io, op.addr);
            break;
        default:
            if (op.val % 16 == 0)
                ioapic_reset(io);
        }
    }
    ioapic_free(io);
    return 0;
}
