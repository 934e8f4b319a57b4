/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/rtc.c src/core/bus.c src/base/err.c */
#include "../unit/fake_pc.h"
#include "fuzz_ops.h"
#include "x86/platform.h"
#include "x86/rtc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fake_line irq8 = {0};
    struct vcpu vcpu;
    struct fuzz_op op;
    struct rtc *rtc;
    struct vm vm;

    fake_vm_init(&vm, &vcpu, 1);
    if (rtc_new(&rtc, &vm, fake_irq(&irq8), NULL) < 0)
        return 0;
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        switch (op.what & 7) {
        case 0:
            bus_write(&vm.pio, PIO_RTC + (op.addr & 1), fuzz_size(op.what), op.val);
            break;
        case 1:
            bus_read(&vm.pio, PIO_RTC + (op.addr & 1), fuzz_size(op.what));
            break;
        case 2:
        case 3:
        case 4:
            bus_write(&vm.pio, PIO_RTC, 1, op.addr);
            bus_write(&vm.pio, PIO_RTC + 1, 1, op.val);
            break;
        case 5:
            bus_write(&vm.pio, PIO_RTC, 1, op.addr);
            bus_read(&vm.pio, PIO_RTC + 1, 1);
            break;
        case 6:
            /* The wall clock, a real one, hardly moves: timers are early and arm again. */
            fake_advance_limited(&vm.clock, op.val, 16);
            break;
        default:
            if (op.val % 16 == 0)
                rtc_reset(rtc);
        }
    }
    rtc_reset(rtc);
    fuzz_check(!irq8.level);
    fuzz_check(!vm.clock.armed);
    rtc_free(rtc);
    return 0;
}
