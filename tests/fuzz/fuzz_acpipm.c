/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/acpipm.c src/core/bus.c src/base/err.c */
#include "../unit/fake_pc.h"
#include "fuzz_ops.h"
#include "x86/acpipm.h"
#include "x86/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fake_line sci = {0};
    struct vcpu vcpu;
    struct fuzz_op op;
    struct acpipm *pm;
    struct vm vm;

    fake_vm_init(&vm, &vcpu, 1);
    if (acpipm_new(&pm, &vm, fake_irq(&sci), NULL) < 0)
        return 0;
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        uint16_t port = PIO_PM1A_EVT + op.addr % 14;

        if (op.addr >= 0xf0)
            port = op.addr & 1 ? PIO_RESET : PIO_PS2_STATUS;
        switch (op.what & 3) {
        case 0:
            bus_write(&vm.pio, port, fuzz_size(op.what), op.val);
            break;
        case 1:
            bus_read(&vm.pio, port, fuzz_size(op.what));
            break;
        case 2:
            fake_advance(&vm.clock, (uint64_t)op.val << (op.addr & 7));
            break;
        default:
            if (op.val % 16 == 0)
                acpipm_reset(pm);
            else if (op.val % 16 == 1)
                acpipm_generation(pm);
            else
                acpipm_power_button(pm);
        }
        fuzz_check(bus_read(&vm.pio, PIO_PM1A_CNT, 2) & 1);
        fuzz_check(!(vm.requests & ~(uint32_t)(VM_REQ_POWEROFF | VM_REQ_RESET)));
    }
    acpipm_reset(pm);
    fuzz_check(!sci.level);
    acpipm_free(pm);
    return 0;
}
