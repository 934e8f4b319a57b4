/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/virtio/console_line.c src/base/err.c src/base/log.c */
/* Between a console's socket and the outside world's descriptors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dev/virtio/console_line.h"

struct fixture {
    struct console_line *line;
    int guest;         /* the device's end */
    int in[2], out[2]; /* pipes: typed, shown */
    size_t tapped;     /* read after the line is gone */
};

static void on_tap(void *opaque, const uint8_t *data, size_t len)
{
    ((struct fixture *)opaque)->tapped += len;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct serial_ends ends = {.tap = on_tap, .opaque = f};

    assert_int_equal(pipe(f->in) | pipe(f->out), 0);
    ends.in = f->in[0];
    ends.out = f->out[1];
    assert_int_equal(console_line_new(&f->line, &ends, &f->guest, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    int fds[] = {f->in[0], f->in[1], f->out[0], f->out[1]};

    if (f->guest >= 0)
        close(f->guest);
    console_line_free(f->line);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(f);
    return 0;
}

static void read_all(int fd, size_t len, uint8_t first)
{
    uint8_t buf[4096];

    for (size_t done = 0; done < len;) {
        size_t want = len - done < sizeof(buf) ? len - done : sizeof(buf);
        struct pollfd p = {fd, POLLIN, 0};
        ssize_t n;

        assert_int_equal(poll(&p, 1, 30000), 1);
        n = read(fd, buf, want);
        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i++)
            assert_int_equal(buf[i], (uint8_t)(first + done + (size_t)i));
        done += (size_t)n;
    }
}

static void write_all(int fd, size_t len)
{
    uint8_t buf[1000];

    for (size_t done = 0; done < len;) {
        size_t want = len - done < sizeof(buf) ? len - done : sizeof(buf);
        struct pollfd p = {fd, POLLOUT, 0};
        ssize_t n;

        for (size_t i = 0; i < want; i++)
            buf[i] = (uint8_t)(done + i);
        assert_int_equal(poll(&p, 1, 30000), 1);
        n = write(fd, buf, want);
        assert_true(n > 0 || (n < 0 && errno == EAGAIN));
        done += n > 0 ? (size_t)n : 0;
    }
}

static void carries_both_ways(void **state)
{
    struct fixture *f = *state;

    for (unsigned i = 0; i < 20; i++) {
        write_all(f->guest, 3000);
        write_all(f->in[1], 2500);
        read_all(f->out[0], 3000, 0);
        read_all(f->guest, 2500, 0);
    }
}

/* The end of what is typed is not the end of what is shown. */
static void input_ends(void **state)
{
    struct fixture *f = *state;

    write_all(f->in[1], 10);
    close(f->in[1]);
    f->in[1] = -1;
    read_all(f->guest, 10, 0);
    write_all(f->guest, 100);
    read_all(f->out[0], 100, 0);
}

/* Whoever reads nothing holds nobody up, and what fits is there all the same; afterwards it goes on. */
static void nobody_reads(void **state)
{
    struct fixture *f = *state;
    uint8_t buf[4096];

    write_all(f->guest, 1000000);
    read_all(f->out[0], 65536, 0);
    /* The rest of what was kept; then a pause, and what comes after it is not lost. */
    do {
        struct pollfd p = {f->out[0], POLLIN, 0};

        if (poll(&p, 1, 1000) <= 0)
            break;
    } while (read(f->out[0], buf, sizeof(buf)) > 0);
    write_all(f->guest, 100);
    read_all(f->out[0], 100, 0);
}

static void writes_what_is_left(void **state)
{
    struct fixture *f = *state;

    write_all(f->guest, 50000);
    close(f->guest);
    f->guest = -1;
    console_line_free(f->line);
    f->line = NULL;
    assert_int_equal(f->tapped, 50000);
    read_all(f->out[0], 50000, 0);
}

/* Nobody has taken anything for a while: it is given up, and so is a descriptor that is broken. */
static void gives_up(void **state)
{
    struct fixture *f = *state;

    write_all(f->guest, 200000);
    close(f->guest);
    f->guest = -1;
    console_line_free(f->line);
    f->line = NULL;
    assert_true(f->tapped < 200000);
}

static void broken_output(void **state)
{
    struct fixture *f = *state;

    close(f->out[0]);
    f->out[0] = -1;
    write_all(f->guest, 300000);
    write_all(f->in[1], 10);
    read_all(f->guest, 10, 0);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(carries_both_ways),   CASE(input_ends), CASE(nobody_reads),
        CASE(writes_what_is_left), CASE(gives_up),   CASE(broken_output),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
