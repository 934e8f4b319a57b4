/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/pit.c src/core/bus.c src/base/err.c */
#include "../unit/fake_pc.h"
#include "fuzz_ops.h"
#include "x86/pit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fake_line irq0 = {0};
    struct vcpu vcpu;
    struct fuzz_op op;
    struct pit *pit;
    struct vm vm;

    fake_vm_init(&vm, &vcpu, 1);
    if (pit_new(&pit, &vm, fake_irq(&irq0), NULL) < 0)
        return 0;
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        uint16_t port = op.addr & 0x80 ? 0x61 : 0x40 + (op.addr & 3);
        uint64_t ns;

        switch (op.what & 3) {
        case 0:
        case 1:
            bus_write(&vm.pio, port, fuzz_size(op.what), op.val);
            break;
        case 2:
            bus_read(&vm.pio, port, fuzz_size(op.what));
            break;
        default:
            ns = op.addr & 0x40 ? op.val : op.val & 0xfffff;
            if (op.addr & 0x20) {
                vm.clock.epoch_ns += ns; /* the clock's thread is late */
                ns = 0;
            }
            /* However it is programmed, the host's timer is not driven faster than this. */
            fuzz_check(fake_advance_limited(&vm.clock, ns, 100000) <= ns / 25000 + 2);
        }
    }
    pit_reset(pit);
    fuzz_check(!vm.clock.armed);
    pit_free(pit);
    return 0;
}
