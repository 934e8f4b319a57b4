/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/cli/passing.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/passing.h"

/* The name that a process which has ended gave. */
static void name_of_ended(char buf[PASSING_NAME], const char *what)
{
    int ends[2];
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (!pid) {
        passing_name(buf, what);
        _exit(write(ends[1], buf, PASSING_NAME) != PASSING_NAME);
    }
    assert_int_equal(read(ends[0], buf, PASSING_NAME), PASSING_NAME);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(ends[0]);
    close(ends[1]);
}

static void who_has_it_under_way(void **state)
{
    char own[PASSING_NAME], again[PASSING_NAME], ended[PASSING_NAME], name[PASSING_NAME];
    unsigned long long start;
    long pid;

    passing_name(own, "web");
    passing_name(again, "web");
    assert_string_equal(own, again);
    assert_int_equal(sscanf(own, ".%ld-%llu.web", &pid, &start), 2);
    assert_int_equal(pid, getpid());
    assert_true(start > 0);
    assert_false(passing_is_abandoned(own));
    name_of_ended(ended, "web");
    assert_true(passing_is_abandoned(ended));
    /* The PID lives, but another process has it. */
    snprintf(name, sizeof(name), ".%ld-%llu.web", pid, start + 1);
    assert_true(passing_is_abandoned(name));
    /* Who could not say when it was started has its PID only. */
    snprintf(name, sizeof(name), ".%ld-0.web", pid);
    assert_false(passing_is_abandoned(name));
}

static void other_names(void **state)
{
    static const char *const names[] = {"",          ".",
                                        "..",        ".web",
                                        "web",       ".2147483646",
                                        ".2-3",      ".-3.",
                                        ".0-1.web",  ".-2-1.web",
                                        ".2-.web",   "2147483646-1.web",
                                        ".2-x.we",   ".2-",
                                        ".2",        ".2147483646.web",
                                        ".2-+1.web", ".99999999999999999999-1.web"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_false(passing_is_abandoned(names[i]));
}

static void long_words_are_cut(void **state)
{
    char what[400], name[PASSING_NAME];

    memset(what, 'a', sizeof(what));
    what[sizeof(what) - 1] = '\0';
    passing_name(name, what);
    assert_int_equal(strlen(strrchr(name, '.') + 1), 100);
}

static void make(const char *dir, const char *name, bool folder)
{
    char path[512];
    int fd = -1;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (folder)
        assert_int_equal(mkdir(path, 0700), 0);
    else
        assert_true((fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600)) >= 0);
    if (fd >= 0)
        close(fd);
}

static bool there(const char *dir, const char *name)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return !access(path, F_OK);
}

static bool is_new(const char *name)
{
    return !strcmp(name, ".new") || !strcmp(name, "plain");
}

static void sweeping(void **state)
{
    char top[] = "/tmp/lodge-test-XXXXXX", gone[PASSING_NAME], own[PASSING_NAME], in[400];

    assert_non_null(mkdtemp(top));
    name_of_ended(gone, "folder");
    passing_name(own, "mine");
    make(top, gone, true);
    snprintf(in, sizeof(in), "%s/inner", gone);
    make(top, in, true);
    snprintf(in, sizeof(in), "%s/inner/file", gone);
    make(top, in, false);
    make(top, own, false);
    make(top, ".new", false);
    make(top, ".other", false);
    make(top, "plain", false);
    passing_sweep(top, NULL);
    assert_false(there(top, gone));
    assert_true(there(top, own) && there(top, ".new"));
    passing_sweep(top, is_new);
    assert_false(there(top, ".new"));
    /* Without a dot it is nobody's to sweep. */
    assert_true(there(top, own) && there(top, ".other") && there(top, "plain"));
    assert_int_equal(passing_delete(top), 0);
    assert_int_equal(access(top, F_OK), -1);
    assert_int_equal(passing_delete(top), 0);
    passing_sweep(top, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_has_it_under_way),
        cmocka_unit_test(other_names),
        cmocka_unit_test(long_words_are_cut),
        cmocka_unit_test(sweeping),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
