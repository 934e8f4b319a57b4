/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/cli/registry.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/registry.h"

static char top[] = "/tmp/lodge-test-XXXXXX";
static char base[64];

static int make_top(void **state)
{
    if (!mkdtemp(top))
        return -1;
    snprintf(base, sizeof(base), "%s/run", top);
    return 0;
}

static int remove_top(void **state)
{
    return rmdir(top); /* fails when a test left something behind */
}

static bool exists(const char *rel)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", base, rel);
    return !access(path, F_OK);
}

static void names(void **state)
{
    static const char *const good[] = {"a", "0", "vm-1", "web.example_2", "a--"};
    static const char *const bad[] = {"",    ".",   "..",  "-a",       "_a",  "A",
                                      "a/b", "a b", "a\n", "\xc3\xa4", "a\\", "lock*"};
    char longest[REGISTRY_NAME_MAX + 2];
    struct err err = {0};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_int_equal(registry_check_name(good[i], &err), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(registry_check_name(bad[i], &err), -EINVAL);
    memset(longest, 'a', sizeof(longest));
    longest[REGISTRY_NAME_MAX + 1] = '\0';
    assert_int_equal(registry_check_name(longest, &err), -EINVAL);
    longest[REGISTRY_NAME_MAX] = '\0';
    assert_int_equal(registry_check_name(longest, &err), 0);
}

static void claim_and_release(void **state)
{
    struct registry reg;
    struct err err = {0};

    assert_int_equal(registry_claim(&reg, base, "one", &err), 0);
    assert_true(exists("one/lock"));
    registry_release(&reg);
    assert_false(exists(""));
    registry_release(&reg);
}

static void same_name_twice(void **state)
{
    struct registry a, b;
    struct err err = {0};
    char pid[24];

    assert_int_equal(registry_claim(&a, base, "same", &err), 0);
    assert_int_equal(registry_claim(&b, base, "same", &err), -EBUSY);
    snprintf(pid, sizeof(pid), "process %d", (int)getpid());
    assert_non_null(strstr(err.what, pid));
    assert_non_null(strstr(err.what, "same"));
    /* The refused one must take nothing away. */
    registry_release(&b);
    assert_true(exists("same/lock"));
    assert_int_equal(registry_claim(&b, base, "other", &err), 0);
    registry_release(&a);
    assert_true(exists("other/lock"));
    registry_release(&b);
}

/* Start a process that holds `name` and tells when it does. */
static pid_t start_holder(const char *name)
{
    int ready[2];
    pid_t pid;
    char c;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct registry reg;

        if (registry_claim(&reg, base, name, NULL) || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    close(ready[0]);
    return pid;
}

static void stale_is_taken_over(void **state)
{
    pid_t holder = start_holder("killed");
    struct registry reg;
    struct err err = {0};
    char pid[24];

    assert_int_equal(registry_claim(&reg, base, "killed", &err), -EBUSY);
    snprintf(pid, sizeof(pid), "process %d", (int)holder);
    assert_non_null(strstr(err.what, pid));
    kill(holder, SIGKILL);
    waitpid(holder, NULL, 0);
    assert_true(exists("killed/lock"));
    assert_int_equal(registry_claim(&reg, base, "killed", &err), 0);
    registry_release(&reg);
    assert_false(exists(""));
}

/* A killed guest's directory goes with the next claim of another name; a live one's stays. */
static void stale_is_swept(void **state)
{
    pid_t killed = start_holder("killed"), alive = start_holder("alive");
    struct registry reg;
    char dir[128];

    kill(killed, SIGKILL);
    waitpid(killed, NULL, 0);
    snprintf(dir, sizeof(dir), "%s/half-made", base);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(registry_claim(&reg, base, "new", NULL), 0);
    assert_false(exists("killed"));
    assert_false(exists("half-made"));
    assert_true(exists("alive/lock"));
    assert_true(exists("new/lock"));
    kill(alive, SIGKILL);
    waitpid(alive, NULL, 0);
    registry_release(&reg);
    assert_int_equal(registry_claim(&reg, base, "alive", NULL), 0);
    registry_release(&reg);
    assert_false(exists(""));
}

static void bad_base(void **state)
{
    struct registry reg;
    struct err err = {0};

    assert_int_equal(symlink("/tmp", base), 0);
    assert_int_equal(registry_claim(&reg, base, "x", &err), -EPERM);
    unlink(base);
    assert_int_equal(mkdir(base, 0700), 0);
    assert_int_equal(chmod(base, 0777), 0);
    assert_int_equal(registry_claim(&reg, base, "x", &err), -EPERM);
    rmdir(base);
    close(creat(base, 0600));
    assert_int_equal(registry_claim(&reg, base, "x", &err), -EPERM);
    unlink(base);
    assert_int_equal(registry_claim(&reg, "/nonexistent/lodge", "x", &err), -ENOENT);
    registry_release(&reg);
}

/* Processes that take and give back one name as fast as they can: never two owners at once. */
static void one_owner_at_a_time(void **state)
{
    enum { CHILDREN = 3, ROUNDS = 300 };
    char witness[96];
    pid_t pids[CHILDREN];

    snprintf(witness, sizeof(witness), "%s/witness", top);
    for (int i = 0; i < CHILDREN; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i])
            continue;
        for (int got = 0; got < ROUNDS;) {
            struct registry reg;
            int r = registry_claim(&reg, base, "hot", NULL);

            if (r == -EBUSY)
                continue;
            if (r || mkdir(witness, 0700) || rmdir(witness))
                _exit(1);
            registry_release(&reg);
            got++;
        }
        _exit(0);
    }
    for (int i = 0; i < CHILDREN; i++) {
        int status;

        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_false(exists(""));
}

static void base_of_user(void **state)
{
    char buf[256], small[4];
    struct err err = {0};

    setenv("XDG_RUNTIME_DIR", "/somewhere", 1);
    assert_int_equal(registry_base(buf, sizeof(buf), &err), 0);
    if (geteuid())
        assert_string_equal(buf, "/somewhere/lodge");
    else
        assert_null(strstr(buf, "somewhere"));
    unsetenv("XDG_RUNTIME_DIR");
    assert_int_equal(registry_base(buf, sizeof(buf), &err), 0);
    assert_non_null(strstr(buf, "/lodge"));
    assert_int_equal(registry_base(small, sizeof(small), &err), -ENAMETOOLONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(claim_and_release),
        cmocka_unit_test(same_name_twice),
        cmocka_unit_test(stale_is_taken_over),
        cmocka_unit_test(stale_is_swept),
        cmocka_unit_test(bad_base),
        cmocka_unit_test(one_owner_at_a_time),
        cmocka_unit_test(base_of_user),
    };

    return cmocka_run_group_tests(tests, make_top, remove_top);
}
