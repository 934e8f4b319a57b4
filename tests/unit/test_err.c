/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/base/err.c src/base/log.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/log.h"

static void set_returns_the_code_and_formats(void **state)
{
    struct err e = {0};

    assert_int_equal(err_set(&e, -5, "disk %d: %s", 3, "gone"), -5);
    assert_int_equal(e.code, -5);
    assert_string_equal(e.what, "disk 3: gone");
    assert_string_equal(e.next, "");
}

static void null_is_allowed(void **state)
{
    assert_int_equal(err_set(NULL, -7, "unheard"), -7);
    assert_int_equal(err_next(NULL, "unheard"), 0);
}

static void next_keeps_what_and_a_later_set_clears_next(void **state)
{
    struct err e = {0};

    err_set(&e, -1, "first");
    assert_int_equal(err_next(&e, "do %s", "this"), -1);
    assert_string_equal(e.what, "first");
    assert_string_equal(e.next, "do this");
    err_set(&e, -2, "second");
    assert_int_equal(e.code, -2);
    assert_string_equal(e.what, "second");
    assert_string_equal(e.next, "");
}

static void long_text_is_cut(void **state)
{
    struct err e = {0};
    char text[2000];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    err_set(&e, -1, "%s", text);
    err_next(&e, "%s", text);
    assert_int_equal(strlen(e.what), sizeof(e.what) - 1);
    assert_int_equal(strlen(e.next), sizeof(e.next) - 1);
}

/* What fn writes to standard error. */
static void capture(void (*fn)(void *), void *arg, char *out, size_t size)
{
    int fds[2], saved = dup(2);
    ssize_t n;

    assert_int_equal(pipe(fds), 0);
    fflush(stderr);
    dup2(fds[1], 2);
    close(fds[1]);
    fn(arg);
    fflush(stderr);
    dup2(saved, 2);
    close(saved);
    n = read(fds[0], out, size - 1);
    close(fds[0]);
    out[n > 0 ? n : 0] = '\0';
}

static void do_report(void *arg)
{
    err_report(arg);
}

static void report_prints_both_lines(void **state)
{
    struct err e = {0};
    char out[256];

    err_set(&e, -1, "it broke");
    capture(do_report, &e, out, sizeof(out));
    assert_string_equal(out, "lodge: it broke\n");
    err_next(&e, "Mend it.");
    capture(do_report, &e, out, sizeof(out));
    assert_string_equal(out, "lodge: it broke\n  Mend it.\n");
}

static void do_log(void *arg)
{
    log_set_level(LOG_WARN);
    log_error("one %d", 1);
    log_info("never");
    log_set_level(LOG_DEBUG);
    log_debug("two");
    for (int i = 0; i < 3; i++)
        log_once(LOG_WARN, "three");
}

static void log_obeys_the_level_and_says_things_once(void **state)
{
    char out[256];

    capture(do_log, NULL, out, sizeof(out));
    assert_string_equal(out, "lodge: error: one 1\nlodge: debug: two\nlodge: warning: three\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_returns_the_code_and_formats),
        cmocka_unit_test(null_is_allowed),
        cmocka_unit_test(next_keeps_what_and_a_later_set_clears_next),
        cmocka_unit_test(long_text_is_cut),
        cmocka_unit_test(report_prints_both_lines),
        cmocka_unit_test(log_obeys_the_level_and_says_things_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
