/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/cli/console.c src/cli/tty.c src/base/err.c */
/*
 * The console thread on pipes and on a pseudo-terminal. Each case runs in a
 * process of its own: signal masks, handlers and the controlling terminal
 * belong to the process. A check that fails ends it with the line's number.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/tty.h"

#define PATIENCE_MS 10000

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "line %d: %s does not hold\n", __LINE__, #x);                          \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static _Atomic int left_with = -1; /* what `leave` was called with last */
static _Atomic int left_times;

static void leave(void *opaque, int sig)
{
    atomic_fetch_add(&left_times, 1); /* first: who waits looks at left_with */
    atomic_store(&left_with, sig);
}

static bool left(int sig)
{
    for (int i = 0; i < PATIENCE_MS && atomic_load(&left_with) != sig; i++)
        usleep(1000);
    return atomic_load(&left_with) == sig;
}

static struct console *start(int in, int escape)
{
    const struct console_config cfg = {.in = in, .escape = escape, .leave = leave};
    struct console *c;

    REQUIRE(!console_new(&c, &cfg, NULL));
    return c;
}

/* Does the serial side get exactly this? */
static bool gets(struct console *c, const char *want, size_t len)
{
    char buf[256];
    size_t n = 0;

    while (n < len) {
        struct pollfd p = {.fd = console_input(c), .events = POLLIN};
        ssize_t r;

        if (poll(&p, 1, PATIENCE_MS) != 1)
            return false;
        r = read(p.fd, buf + n, len - n);
        if (r <= 0)
            return false;
        n += (size_t)r;
    }
    return !memcmp(buf, want, len);
}

static bool gets_nothing(struct console *c)
{
    struct pollfd p = {.fd = console_input(c), .events = POLLIN};

    return poll(&p, 1, 100) == 0;
}

/* ---- Without a terminal -------------------------------------------------- */

static void do_end_of_file(void)
{
    int in[2];
    struct console *c;

    REQUIRE(!pipe(in));
    c = start(in[0], 0x1d);
    REQUIRE(!console_is_tty(c));
    /* The escape byte is data here. */
    REQUIRE(write(in[1], "a\x1d\x03z", 4) == 4);
    REQUIRE(gets(c, "a\x1d\x03z", 4));
    close(in[1]);
    REQUIRE(gets_nothing(c)); /* in particular, no end of file */
    REQUIRE(left_times == 0);
    console_free(c);
}

/* A guest that takes no input makes the writer wait, and nothing is lost. */
static void do_backpressure(void)
{
    enum { TOTAL = 300000 };
    int in[2];
    struct console *c;
    size_t got = 0;
    pid_t writer;

    REQUIRE(!pipe(in));
    writer = fork();
    if (!writer) {
        for (uint32_t i = 0; i < TOTAL / 4; i++)
            if (write(in[1], &i, 4) != 4)
                _exit(1);
        _exit(0);
    }
    close(in[1]);
    c = start(in[0], -1);
    usleep(100000);
    for (uint32_t i = 0; i < TOTAL / 4; i++, got += 4)
        REQUIRE(gets(c, (char *)&i, 4));
    REQUIRE(waitpid(writer, NULL, 0) == writer);
    console_free(c);
}

static void do_signals(void)
{
    static const int sent[] = {SIGTERM, SIGINT, SIGHUP};
    struct console *c = start(-1, 0x1d);
    sigset_t mask;

    REQUIRE(console_input(c) == -1);
    for (size_t i = 0; i < ARRAY_SIZE(sent); i++) {
        kill(getpid(), sent[i]);
        REQUIRE(left(sent[i]));
    }
    console_stop(c);
    console_stop(c);
    console_free(c);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    REQUIRE(!sigismember(&mask, SIGTERM));
}

static void do_ignored_signal(void)
{
    struct console *c;

    signal(SIGHUP, SIG_IGN);
    c = start(-1, -1);
    kill(getpid(), SIGHUP);
    kill(getpid(), SIGTERM);
    REQUIRE(left(SIGTERM));
    REQUIRE(left_times == 1);
    console_free(c);
}

/* ---- On a terminal ------------------------------------------------------- */

static int near, far; /* the two ends of the pseudo-terminal */
static struct termios cooked;

static bool is_raw(void)
{
    struct termios now;

    tcgetattr(far, &now);
    return !(now.c_lflag & (ICANON | ISIG | ECHO)) && !(now.c_oflag & OPOST);
}

static bool is_cooked(void)
{
    struct termios now;

    tcgetattr(far, &now);
    return now.c_lflag == cooked.c_lflag && now.c_oflag == cooked.c_oflag &&
           now.c_iflag == cooked.c_iflag && !memcmp(now.c_cc, cooked.c_cc, sizeof(now.c_cc));
}

static bool soon(bool (*what)(void))
{
    for (int i = 0; i < PATIENCE_MS && !what(); i++)
        usleep(1000);
    return what();
}

static void type(const char *text)
{
    REQUIRE(write(near, text, strlen(text)) == (ssize_t)strlen(text));
}

static void take_terminal(void)
{
    REQUIRE(setsid() >= 0);
    REQUIRE(!ioctl(far, TIOCSCTTY, 0));
}

static void do_escape(void)
{
    struct console *c;

    take_terminal();
    c = start(far, 0x1d);
    REQUIRE(console_is_tty(c) && is_raw());
    type("ab\x03\x1a\x1c\x04\r");
    REQUIRE(gets(c, "ab\x03\x1a\x1c\x04\r", 7));
    REQUIRE(left_times == 0);
    type("c\x1d"
         "d");
    REQUIRE(gets(c, "c", 1));
    REQUIRE(left(0));
    console_free(c);
    REQUIRE(is_cooked());
}

static void do_other_escape(void)
{
    struct console *c;

    take_terminal();
    c = start(far, 1);
    type("\x1dx\x01");
    REQUIRE(gets(c, "\x1dx", 2));
    REQUIRE(left(0));
    console_free(c);
    left_times = 0;
    c = start(far, -1);
    type("\x1dx\x01");
    REQUIRE(gets(c, "\x1dx\x01", 3));
    REQUIRE(left_times == 0);
    console_free(c);
    REQUIRE(is_cooked());
}

/* The key works although nobody takes the input that came before it. */
static void do_escape_when_full(void)
{
    char junk[2048];
    struct console *c;

    take_terminal();
    c = start(far, 0x1d);
    memset(junk, 'x', sizeof(junk));
    for (int i = 0; i < 64; i++) {
        REQUIRE(write(near, junk, sizeof(junk)) == sizeof(junk));
        usleep(2000);
    }
    type("\x1d");
    REQUIRE(left(0));
    console_free(c);
}

static void do_exit(void)
{
    take_terminal();
    start(far, 0x1d);
    exit(0);
}

static void do_raise(int sig)
{
    take_terminal();
    start(far, 0x1d);
    REQUIRE(is_raw());
    raise(sig);
    for (;;)
        pause();
}

static void do_crash(void)
{
    do_raise(SIGSEGV);
}

static void do_abort(void)
{
    take_terminal();
    start(far, 0x1d);
    abort();
}

static void do_quit(void)
{
    do_raise(SIGQUIT);
}

static void do_wait(void)
{
    take_terminal();
    start(far, 0x1d);
    for (;;)
        pause();
}

/* A background job leaves the terminal alone, and takes it when it comes to the foreground. */
static void do_background(void)
{
    int status;
    pid_t job;

    take_terminal();
    job = fork();
    if (!job) {
        struct console *c;

        setpgid(0, 0);
        REQUIRE(!tty_foreground(far));
        c = start(far, 0x1d);
        REQUIRE(is_cooked());
        REQUIRE(write(near, "early\n", 6) == 6);
        REQUIRE(gets_nothing(c) && is_cooked());
        /* As a shell's `fg` does. */
        signal(SIGTTOU, SIG_IGN);
        REQUIRE(!tcsetpgrp(far, getpid()));
        REQUIRE(soon(is_raw));
        type("\x1d");
        REQUIRE(left(0));
        console_free(c);
        _exit(0);
    }
    REQUIRE(waitpid(job, &status, WUNTRACED) == job);
    REQUIRE(status == 0);
    REQUIRE(is_cooked());
}

/* ---- Cases --------------------------------------------------------------- */

static int open_terminal(void **state)
{
    if (openpty(&near, &far, NULL, NULL, NULL))
        return -1;
    return tcgetattr(far, &cooked);
}

static int close_terminal(void **state)
{
    close(near);
    close(far);
    return 0;
}

static pid_t run(void (*what)(void))
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (!pid) {
        /* The test library and sanitizers catch some; here the default is what is tested. */
        for (int sig = 1; sig < 32; sig++)
            signal(sig, SIG_DFL);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        alarm(60);
        what();
        _exit(0);
    }
    return pid;
}

static void passes(void (*what)(void))
{
    pid_t pid = run(what);
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void without_terminal(void **state)
{
    passes(do_end_of_file);
    passes(do_backpressure);
    passes(do_signals);
    passes(do_ignored_signal);
}

static void escape_key(void **state)
{
    passes(do_escape);
}

static void other_escape_keys(void **state)
{
    passes(do_other_escape);
}

static void escape_when_full(void **state)
{
    passes(do_escape_when_full);
}

static void background_job(void **state)
{
    passes(do_background);
}

static void restored_at_exit(void **state)
{
    passes(do_exit);
    assert_true(is_cooked());
}

static void dies_restored(void (*what)(void), int sig)
{
    pid_t pid = run(what);
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), sig);
    assert_true(is_cooked());
}

static void restored_by_crash(void **state)
{
    dies_restored(do_crash, SIGSEGV);
}

static void restored_by_abort(void **state)
{
    dies_restored(do_abort, SIGABRT);
}

static void restored_by_quit(void **state)
{
    dies_restored(do_quit, SIGQUIT);
}

/* SIGTSTP gives the terminal back for as long as the process is stopped. */
static void suspended(void **state)
{
    pid_t pid = run(do_wait);
    int status;

    assert_true(soon(is_raw));
    kill(pid, SIGTSTP);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    assert_true(is_cooked());
    kill(pid, SIGCONT);
    assert_true(soon(is_raw));
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

int main(void)
{
#define ON_TERMINAL(f) cmocka_unit_test_setup_teardown(f, open_terminal, close_terminal)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_terminal), ON_TERMINAL(escape_key),
        ON_TERMINAL(other_escape_keys),     ON_TERMINAL(escape_when_full),
        ON_TERMINAL(background_job),        ON_TERMINAL(restored_at_exit),
        ON_TERMINAL(restored_by_crash),     ON_TERMINAL(restored_by_abort),
        ON_TERMINAL(restored_by_quit),      ON_TERMINAL(suspended),
    };

    if (openpty(&near, &far, NULL, NULL, NULL)) {
        fprintf(stderr, "no pseudo-terminal to be had here: %s\n", strerror(errno));
        return 77; /* skipped */
    }
    close(near);
    close(far);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
