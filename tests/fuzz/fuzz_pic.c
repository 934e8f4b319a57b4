/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/x86/pic.c src/core/bus.c src/base/err.c */
#include "../unit/fake_pc.h"
#include "fuzz_ops.h"
#include "x86/pic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x1f, 0x22};
    struct fake_line out = {0};
    struct vcpu vcpu;
    struct fuzz_op op;
    struct pic *pic;
    struct vm vm;

    fake_vm_init(&vm, &vcpu, 1);
    if (pic_new(&pic, &vm, NULL) < 0)
        return 0;
    pic_connect(pic, fake_irq(&out));
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        uint16_t port = ports[op.addr % ARRAY_SIZE(ports)];
        int vector;

        switch (op.what & 7) {
        case 0:
        case 1:
        case 2:
            bus_write(&vm.pio, port, fuzz_size(op.what), op.val);
            break;
        case 3:
            bus_read(&vm.pio, port, fuzz_size(op.what));
            break;
        case 4:
        case 5:
            irq_set(pic_pin(pic, op.addr), op.val & 1);
            break;
        case 6:
            vector = pic_ack(pic);
            fuzz_check(vector >= 0 && vector <= 255);
            break;
        default:
            if (op.val % 16 == 0)
                pic_reset(pic);
        }
    }
    /* With everything masked the output is low. */
    pic_reset(pic);
    fuzz_check(!out.level);
    pic_free(pic);
    return 0;
}
