/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/base/listen.c src/base/err.c */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/listen.h"

struct place {
    char dir[32], path[64];
};

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));

    strcpy(p->dir, "/tmp/lodge-listen.XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->path, sizeof(p->path), "%s/socket", p->dir);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;

    unlink(p->path);
    assert_int_equal(rmdir(p->dir), 0);
    free(p);
    return 0;
}

static int dial(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strcpy(addr.sun_path, path);
    if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
        return fd;
    close(fd);
    return -1;
}

static void is_for_this_user(void **state)
{
    struct place *p = *state;
    int fd = listen_unix(p->path, NULL), other;
    struct stat st;

    assert_true(fd >= 0);
    assert_int_equal(stat(p->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    other = dial(p->path);
    assert_true(other >= 0);
    close(other);
    close(fd);
}

static void replaces_what_is_left_over(void **state)
{
    struct place *p = *state;
    struct err err;
    int fd = listen_unix(p->path, NULL), again;

    assert_int_equal(listen_unix(p->path, &err), -EADDRINUSE);
    assert_non_null(strstr(err.what, p->path));
    close(fd); /* as if its process was killed */
    assert_int_equal(dial(p->path), -1);
    again = listen_unix(p->path, &err);
    assert_true(again >= 0);
    fd = dial(p->path);
    assert_true(fd >= 0);
    close(fd);
    close(again);
}

static void leaves_files_alone(void **state)
{
    struct place *p = *state;
    struct err err;
    int fd = open(p->path, O_CREAT | O_WRONLY, 0600);

    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(listen_unix(p->path, &err), -EADDRINUSE);
    assert_int_equal(access(p->path, R_OK), 0);
}

static void says_why_not(void **state)
{
    char path[300];
    struct err err;

    memset(path, 'a', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(listen_unix(path, &err), -ENAMETOOLONG);
    assert_int_equal(listen_unix("", &err), -ENAMETOOLONG);
    assert_int_equal(listen_unix("/nonexistent/socket", &err), -ENOENT);
    assert_non_null(strstr(err.what, "/nonexistent/socket"));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(is_for_this_user),
        CASE(replaces_what_is_left_over),
        CASE(leaves_files_alone),
        cmocka_unit_test(says_why_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
