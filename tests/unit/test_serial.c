/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/serial.c src/dev/serial_wire.c src/core/bus.c src/base/err.c */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/serial.h"
#include "x86/platform.h"

#define PATIENCE_MS 10000

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };

static struct bus pio;
static struct serial *s;
static _Atomic bool level;
static _Atomic unsigned rises;
static int in_pipe[2], out_pipe[2];

static void irq_record(void *opaque, unsigned n, bool l)
{
    if (l && !level)
        rises++;
    level = l;
}

static const struct irq_line_ops irq_ops = {.set = irq_record};

static uint8_t rd(unsigned reg)
{
    return (uint8_t)bus_read(&pio, PIO_COM1 + reg, 1);
}

static void wr(unsigned reg, uint8_t val)
{
    bus_write(&pio, PIO_COM1 + reg, 1, val);
}

static bool becomes(bool (*fn)(void))
{
    for (unsigned i = 0; i < PATIENCE_MS; i++) {
        if (fn())
            return true;
        poll(NULL, 0, 1);
    }
    return false;
}

static bool has_data(void)
{
    return rd(LSR) & 1;
}

static bool irq_high(void)
{
    return level;
}

static bool is_clear_to_send(void)
{
    return rd(LSR) & 0x20;
}

static void open_port(int in, int out)
{
    memset(&pio, 0, sizeof(pio));
    level = false;
    rises = 0;
    assert_int_equal(serial_new(&s, &pio, PIO_COM1, (struct irq_line){.ops = &irq_ops},
                                &(struct serial_ends){.in = in, .out = out}, NULL),
                     0);
}

static int setup(void **state)
{
    assert_int_equal(pipe(in_pipe), 0);
    assert_int_equal(pipe(out_pipe), 0);
    open_port(in_pipe[0], out_pipe[1]);
    return 0;
}

static int teardown(void **state)
{
    serial_free(s);
    for (unsigned i = 0; i < 2; i++) {
        close(in_pipe[i]);
        close(out_pipe[i]);
    }
    return 0;
}

static void send_text(const char *text)
{
    while (*text)
        wr(DATA, (uint8_t)*text++);
}

static void expect_text(const char *text)
{
    char buf[256];
    size_t len = strlen(text), have = 0;

    while (have < len) {
        ssize_t n = read(out_pipe[0], buf + have, len - have);

        assert_true(n > 0);
        have += (size_t)n;
    }
    assert_memory_equal(buf, text, len);
}

/* What Linux's drivers/tty/serial/8250 autoconfig looks at, in its order. */
static void test_linux_autoconfig(void **state)
{
    wr(IER, 0);
    assert_int_equal(rd(IER) & 0x0f, 0);
    wr(IER, 0x0f);
    assert_int_equal(rd(IER) & 0x0f, 0x0f);
    wr(IER, 0);
    wr(MCR, 0x10 | 0x0a); /* loopback */
    assert_int_equal(rd(MSR) & 0xf0, 0x90);
    wr(MCR, 0);
    wr(LCR, 0xbf);
    wr(IIR, 0);
    wr(LCR, 0);
    wr(IIR, 1);
    assert_int_equal(rd(IIR) >> 6, 3); /* 16550A, no later one */
    wr(LCR, 0x80);
    assert_int_not_equal(rd(IIR), 0);
    wr(LCR, 0xbf);
    assert_int_not_equal(rd(IIR), 0);
    wr(LCR, 0);
    wr(IER, 0x40); /* XScale */
    assert_int_equal(rd(IER) & 0x40, 0);
    wr(IIR, 0x21); /* 64-byte FIFO */
    assert_int_equal(rd(IIR) & 0x20, 0);
    wr(SCR, 0x5a);
    assert_int_equal(rd(SCR), 0x5a);
    wr(IIR, 0);
    assert_int_equal(rd(IIR) >> 6, 0);
}

/* serial8250_THRE_test and the TXEN test of serial8250_do_startup */
static void test_linux_thre(void **state)
{
    wr(IER, 2);
    assert_int_equal(rd(IIR) & 0x0f, 2);
    wr(IER, 0);
    assert_int_equal(rd(IIR) & 1, 1);
    wr(IER, 2);
    assert_int_equal(rd(IIR) & 0x0f, 2);
    assert_int_equal(rd(LSR) & 0x60, 0x60);
    assert_int_equal(rd(IIR) & 1, 1); /* reading IIR took it */
    wr(IER, 0);
}

static void test_output(void **state)
{
    send_text("hello, world\n");
    expect_text("hello, world\n");
    send_text("no newline: ");
    expect_text("no newline: ");
}

static void test_output_interrupt(void **state)
{
    wr(IER, 2);
    assert_true(level);
    rd(IIR);
    assert_false(level);
    wr(DATA, 'x');
    assert_true(level); /* the holding register is empty again */
    assert_int_equal(rd(IIR) & 0x0f, 2);
    assert_false(level);
    rd(LSR);
    assert_int_equal(rises, 2);
}

static void test_free_flushes(void **state)
{
    char buf[64];

    send_text("last words");
    serial_free(s);
    s = NULL;
    assert_int_equal(read(out_pipe[0], buf, sizeof(buf)), 10);
    assert_memory_equal(buf, "last words", 10);
}

static void *slow_reader(void *opaque)
{
    size_t *total = opaque;
    uint8_t buf[3000];
    ssize_t n;

    while ((n = read(out_pipe[0], buf, sizeof(buf))) > 0) {
        for (ssize_t i = 0; i < n; i++)
            if (buf[i] != (uint8_t)((*total + (size_t)i) % 251))
                return "out of order";
        *total += (size_t)n;
        if (*total < 100000)
            poll(NULL, 0, 1);
    }
    return NULL;
}

/* A guest that doesn't look at THRE overtakes the reader, and still nothing is lost. */
static void test_output_backpressure(void **state)
{
    size_t total = 0, sent = 300000;
    pthread_t t;
    void *wrong;

    assert_int_equal(pthread_create(&t, NULL, slow_reader, &total), 0);
    for (size_t i = 0; i < sent; i++)
        wr(DATA, (uint8_t)(i % 251));
    serial_free(s);
    s = NULL;
    close(out_pipe[1]);
    out_pipe[1] = -1;
    pthread_join(t, &wrong);
    assert_null(wrong);
    assert_int_equal(total, sent);
}

/* A full descriptor shows in LSR, and room is announced by an interrupt. */
static void test_output_flow_control(void **state)
{
    uint8_t buf[4096];
    unsigned sent = 0;
    ssize_t n;

    wr(IER, 2);
    while (rd(LSR) & 0x20) {
        wr(DATA, 'x');
        assert_true(++sent < 1000000);
    }
    rd(IIR);
    assert_false(level);
    for (unsigned i = 0; i < 16; i++) /* a FIFO's worth still has room */
        wr(DATA, 'x');
    for (sent += 16; !is_clear_to_send(); sent -= (unsigned)n)
        assert_true((n = read(out_pipe[0], buf, sizeof(buf))) > 0);
    assert_true(becomes(irq_high));
    assert_int_equal(rd(IIR) & 0x0f, 2);
    for (; sent; sent -= (unsigned)n) {
        n = read(out_pipe[0], buf, sizeof(buf));
        assert_true(n > 0 && (unsigned)n <= sent);
    }
}

/* Nobody reads, ever: neither the guest nor the end may wait for good. */
static void test_output_stalled(void **state)
{
    time_t start = time(NULL);

    for (unsigned i = 0; i < 200000; i++)
        wr(DATA, 'x');
    serial_free(s);
    s = NULL;
    assert_true(time(NULL) - start < 20);
}

/* Ending a thread this way needs libgcc_s at run time. */
int pthread_cancel(pthread_t thread)
{
    fail_msg("a thread was cancelled");
    return 0;
}

/* A descriptor whose writes block although poll says otherwise, until stuck[1] is closed. */
static _Atomic int stuck_fd = -1;
static int stuck[2];

ssize_t write(int fd, const void *buf, size_t len)
{
    char byte;

    if (fd != stuck_fd)
        return syscall(SYS_write, fd, buf, len);
    while (syscall(SYS_read, stuck[0], &byte, 1) < 0 && errno == EINTR)
        ;
    return (ssize_t)len;
}

/* The end does not wait for good; what was left behind ends when it can, and touches nothing that is gone. */
static void test_output_stuck(void **state)
{
    time_t start = time(NULL);
    int fds[2];

    assert_int_equal(pipe(stuck), 0);
    assert_int_equal(pipe(fds), 0);
    stuck_fd = fds[1];
    open_port(-1, fds[1]);
    send_text("text\n");
    serial_free(s);
    s = NULL;
    assert_true(time(NULL) - start < 20);
    memset(&pio, 0, sizeof(pio));
    close(stuck[1]);
    poll(NULL, 0, 50);
    stuck_fd = -1;
    close(stuck[0]);
    close(fds[0]);
    close(fds[1]);
}

struct tapped {
    size_t count;
    uint8_t last;
};

static void tap(void *opaque, const uint8_t *data, size_t len)
{
    struct tapped *t = opaque;

    t->count += len;
    t->last = data[len - 1];
}

/* Who listens hears all, and goes on when nobody reads the descriptor any more. */
static void test_tap(void **state)
{
    struct tapped t = {0};
    struct serial_ends ends = {.in = -1, .out = -1, .tap = tap, .opaque = &t};
    int fds[2];

    for (int with_fd = 0; with_fd < 2; with_fd++) {
        t = (struct tapped){0};
        assert_int_equal(pipe(fds), 0);
        close(fds[0]);
        ends.out = with_fd ? fds[1] : -1;
        memset(&pio, 0, sizeof(pio));
        assert_int_equal(
            serial_new(&s, &pio, PIO_COM1, (struct irq_line){.ops = &irq_ops}, &ends, NULL), 0);
        for (unsigned i = 0; i < 100000; i++)
            wr(DATA, (uint8_t)i);
        serial_free(s);
        s = NULL;
        close(fds[1]);
        assert_int_equal(t.count, 100000);
        assert_int_equal(t.last, (uint8_t)99999);
    }
}

static void test_output_closed(void **state)
{
    struct sigaction sa = {.sa_handler = SIG_DFL};

    sigaction(SIGPIPE, &sa, NULL); /* must not be raised */
    close(out_pipe[0]);
    out_pipe[0] = -1;
    send_text("nobody is there\n");
    for (unsigned i = 0; i < 200000; i++)
        wr(DATA, 'x');
    assert_true(becomes(is_clear_to_send));
}

static void test_output_nonblocking(void **state)
{
    size_t total = 0;
    pthread_t t;
    void *wrong;

    fcntl(out_pipe[1], F_SETFL, O_NONBLOCK);
    assert_int_equal(pthread_create(&t, NULL, slow_reader, &total), 0);
    for (size_t i = 0; i < 150000; i++)
        wr(DATA, (uint8_t)(i % 251));
    serial_free(s);
    s = NULL;
    close(out_pipe[1]);
    out_pipe[1] = -1;
    pthread_join(t, &wrong);
    assert_null(wrong);
    assert_int_equal(total, 150000);
}

static void test_input(void **state)
{
    wr(IIR, 0xc7); /* FIFO on, trigger at 14 */
    wr(MCR, 0x0b);
    wr(IER, 1);
    assert_int_equal(write(in_pipe[1], "abc", 3), 3);
    assert_true(becomes(irq_high));
    assert_true(becomes(has_data));
    assert_int_equal(rd(IIR), 0xcc); /* below the trigger: timeout */
    assert_int_equal(rd(DATA), 'a');
    assert_true(becomes(has_data));
    assert_int_equal(rd(DATA), 'b');
    assert_true(becomes(has_data));
    assert_int_equal(rd(DATA), 'c');
    assert_false(level);
    assert_int_equal(rd(IIR), 0xc1);
    assert_int_equal(rd(DATA), 0);
}

static bool fifo_at_trigger(void)
{
    return rd(IIR) == 0xc4;
}

/* More than fits waits outside; nothing is lost and nothing overruns. */
static void test_input_beyond_fifo(void **state)
{
    char text[200];

    for (unsigned i = 0; i < sizeof(text); i++)
        text[i] = (char)(i + 1);
    wr(IIR, 0xc1);
    wr(MCR, 0x0b);
    wr(IER, 1);
    assert_int_equal(write(in_pipe[1], text, sizeof(text)), sizeof(text));
    assert_true(becomes(fifo_at_trigger));
    for (unsigned i = 0; i < sizeof(text); i++) {
        assert_true(becomes(has_data));
        assert_int_equal(rd(DATA), (uint8_t)(i + 1));
        assert_int_equal(rd(LSR) & 2, 0);
    }
}

/* A driver that probes and clears the FIFO before it raises RTS loses no input. */
static void test_input_waits_for_rts(void **state)
{
    assert_int_equal(write(in_pipe[1], "early", 5), 5);
    wr(MCR, 0x09);
    wr(IIR, 1);
    poll(NULL, 0, 20);
    wr(IIR, 7);
    wr(IIR, 0);
    assert_int_equal(rd(LSR) & 1, 0);
    wr(IIR, 1);
    wr(MCR, 0x0b);
    for (const char *c = "early"; *c; c++) {
        assert_true(becomes(has_data));
        assert_int_equal(rd(DATA), *c);
    }
}

static void test_input_end(void **state)
{
    wr(MCR, 0x0b);
    assert_int_equal(write(in_pipe[1], "z", 1), 1);
    close(in_pipe[1]);
    in_pipe[1] = -1;
    assert_true(becomes(has_data));
    assert_int_equal(rd(DATA), 'z');
    poll(NULL, 0, 5);
    assert_int_equal(rd(LSR) & 1, 0);
}

static void test_loopback(void **state)
{
    struct pollfd p = {.fd = out_pipe[0], .events = POLLIN};

    wr(IIR, 0x81); /* FIFO, trigger at 8 */
    wr(IER, 1);
    wr(MCR, 0x1f);
    assert_int_equal(rd(MSR) & 0xf0, 0xf0);
    for (unsigned i = 0; i < 16; i++)
        wr(DATA, (uint8_t)i);
    assert_int_equal(rd(IIR), 0xc4);
    assert_int_equal(rd(LSR) & 2, 0);
    wr(DATA, 16);
    wr(IER, 5);
    assert_int_equal(rd(IIR), 0xc6); /* overrun goes first */
    assert_int_equal(rd(LSR) & 2, 2);
    assert_int_equal(rd(LSR) & 2, 0);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(rd(IIR), 16 - i >= 8 ? 0xc4 : 0xcc);
        assert_int_equal(rd(DATA), i);
    }
    wr(LCR, 0x40);
    assert_int_equal(rd(LSR) & 0x11, 0x11);
    assert_int_equal(poll(&p, 1, 10), 0); /* nothing got out */
}

static void test_modem_status(void **state)
{
    assert_int_equal(rd(MSR), 0xb0);
    wr(IER, 8);
    wr(MCR, 0x10); /* all lines drop */
    assert_int_equal(rd(IIR) & 0x0f, 0);
    assert_true(level);
    assert_int_equal(rd(MSR), 0x0b);
    assert_int_equal(rd(MSR), 0x00);
    assert_false(level);
    wr(MCR, 0x14); /* RI: its delta is the trailing edge */
    assert_int_equal(rd(MSR), 0x40);
    wr(MCR, 0x10);
    assert_int_equal(rd(MSR), 0x04);
}

static void test_divisor(void **state)
{
    wr(LCR, 0x83);
    wr(DATA, 0x01);
    wr(IER, 0x02);
    assert_int_equal(rd(DATA), 0x01);
    assert_int_equal(rd(IER), 0x02);
    wr(LCR, 0x03);
    assert_int_equal(rd(IER), 0);
    assert_int_equal(rd(LCR), 0x03);
}

static void test_reset(void **state)
{
    wr(IER, 0x0f);
    assert_true(level);
    serial_reset(s);
    assert_false(level);
    assert_int_equal(rd(IER), 0);
    assert_int_equal(rd(IIR), 1);
    assert_int_equal(rd(LSR), 0x60);
}

static void test_no_descriptors(void **state)
{
    open_port(-1, -1);
    for (unsigned i = 0; i < 100000; i++)
        wr(DATA, 'x');
    assert_int_equal(rd(LSR), 0x60);
    serial_free(s);
}

static void test_port_taken(void **state)
{
    struct serial *second;

    open_port(-1, -1);
    assert_int_equal(serial_new(&second, &pio, PIO_COM1, (struct irq_line){0},
                                &(struct serial_ends){.in = -1, .out = -1}, NULL),
                     -EEXIST);
    serial_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_linux_autoconfig, setup, teardown),
        cmocka_unit_test_setup_teardown(test_linux_thre, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_flushes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output_backpressure, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output_flow_control, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output_stalled, setup, teardown),
        cmocka_unit_test(test_output_stuck),
        cmocka_unit_test(test_tap),
        cmocka_unit_test_setup_teardown(test_output_closed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output_nonblocking, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_beyond_fifo, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_waits_for_rts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loopback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_modem_status, setup, teardown),
        cmocka_unit_test_setup_teardown(test_divisor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
        cmocka_unit_test(test_no_descriptors),
        cmocka_unit_test(test_port_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
