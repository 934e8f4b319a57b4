/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/dev/serial.c src/dev/serial_wire.c src/core/bus.c src/base/err.c */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "dev/serial.h"
#include "fuzz_ops.h"
#include "x86/platform.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void irq_ignore(void *opaque, unsigned n, bool level)
{
}

static const struct irq_line_ops irq_ops = {.set = irq_ignore};

/* The first byte chooses what is connected: nothing, a drain, an endless source. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    int in = -1, out = -1;
    struct fuzz_op op;
    struct serial *s;
    struct bus pio;

    if (!len)
        return 0;
    if (*data & 1)
        out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (*data & 2)
        in = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    data++;
    len--;
    memset(&pio, 0, sizeof(pio));
    if (serial_new(&s, &pio, PIO_COM1, (struct irq_line){.ops = &irq_ops},
                   &(struct serial_ends){.in = in, .out = out}, NULL) < 0)
        goto out;
    for (unsigned i = 0; i < FUZZ_OPS_MAX && fuzz_next(&data, &len, &op); i++) {
        uint16_t port = PIO_COM1 + (op.addr & 7);

        if ((op.what & 15) == 15)
            serial_reset(s);
        else if (op.what & 1)
            bus_read(&pio, port, fuzz_size(op.what));
        else
            bus_write(&pio, port, fuzz_size(op.what), op.val);
    }
    serial_free(s);
out:
    if (in >= 0)
        close(in);
    if (out >= 0)
        close(out);
    return 0;
}
