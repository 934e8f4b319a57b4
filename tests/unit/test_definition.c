/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/base/err.c src/cli/definition.c src/cli/definition_read.c src/cli/disk_opts.c src/cli/net_opts.c src/cli/limit_opts.c
 *       src/cli/opts.c src/cli/registry.c src/cli/run_opts.c src/cli/shares.c src/cli/cgroup.c src/cli/size.c src/cli/store.c
 *       src/cli/suggest.c src/net/publish.c src/net/user_config.c src/net/switch.c src/net/switch_wire.c src/net/frame.c src/cli/state.c src/cli/passing.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/definition.h"
#include "cli/run.h"
#include "cli/state.h"
#include "cli/verb.h"

#define HEAD "lodge: 1\nkernel: /k\n"

static char top[] = "/tmp/lodge-test-XXXXXX";

static int parse(struct definition *def, const char *text, struct err *err)
{
    return definition_parse(def, text, strlen(text), "file", err);
}

static void parsed(struct definition *def, const char *text)
{
    struct err err = {0};

    if (parse(def, text, &err))
        fail_msg("%s", err.what);
}

/* ---- YAML ------------------------------------------------------------------------ */

static void values(void **state)
{
    struct definition def;
    struct run_opts opts;

    parsed(&def, HEAD "memory: 1G\ncpus: '3'\nno-reboot: true\ntest-devices: false\nrng: off\n"
                      "append: >-\n  one\n  two\ndisk: [/a, \"/b,ro\"] # two of them\nname: web\n");
    assert_string_equal(def.name, "web");
    assert_int_equal(definition_apply(&def, &opts, sizeof(opts), NULL), 0);
    assert_int_equal(opts.memory, GIB(1));
    assert_int_equal(opts.cpus, 3);
    assert_true(opts.no_reboot && !opts.test_devices);
    assert_string_equal(opts.rng, "off");
    assert_string_equal(opts.append, "one two");
    assert_int_equal(opts.disks.count, 2);
    assert_string_equal(opts.disks.disk[0].image.path, "/a");
    assert_true(opts.disks.disk[1].image.read_only);
    run_opts_fini(&opts);
    definition_fini(&def);
    definition_fini(&def);
}

/* Every option that belongs in a definition is accepted there under its name, and no other. */
static void keys(void **state)
{
    for (const struct opt_desc *o = run_opts; o->name; o++) {
        char text[160];
        struct definition def;
        struct err err = {0};

        snprintf(text, sizeof(text), HEAD "%s: {}\n", o->name);
        assert_int_equal(parse(&def, text, &err), -EINVAL);
        if (!strcmp(o->name, "kernel") || !strcmp(o->name, "name"))
            continue;
        assert_true(!!strstr(err.what, "a definition has no") == o->once);
    }
}

static void round_trip(void **state)
{
    static const char *const odd[] = {"",
                                      " ",
                                      "a b",
                                      "- a",
                                      "a: b",
                                      "#x",
                                      "~",
                                      "null",
                                      "\"q\"",
                                      "\\",
                                      "tab\tnl\n",
                                      "\x01\x7f",
                                      "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
                                      "'",
                                      "{a: [b]}",
                                      "*x &y",
                                      "!tag",
                                      "%",
                                      "\xc2\x85\xe2\x80\xa8\xef\xbb\xbf"};

    for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
        const struct opt_desc *append = opts_find(run_opts, "append", 6);
        struct definition def, again;
        struct err err = {0};
        char *text;

        parsed(&def, HEAD "disk:\n- /x\n- /y\nno-reboot: true\n");
        assert_int_equal(definition_add(&def, append, odd[i], &err), 0);
        text = definition_text(&def, "a", &err);
        assert_non_null(text);
        parsed(&again, text);
        assert_string_equal(definition_get(&again, "append"), odd[i]);
        assert_int_equal(again.count, def.count);
        assert_string_equal(again.name, "a");
        definition_fini(&again);
        definition_fini(&def);
        free(text);
    }
}

static void not_utf8(void **state)
{
    const struct opt_desc *append = opts_find(run_opts, "append", 6);
    static const char *const bad[] = {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\x80",
                                      "\xf5\x80\x80\x80"};
    struct definition def;
    struct err err = {0};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        parsed(&def, HEAD);
        assert_int_equal(definition_add(&def, append, bad[i], &err), 0);
        assert_null(definition_text(&def, NULL, &err));
        assert_int_equal(err.code, -EILSEQ);
        definition_fini(&def);
    }
}

static void places(void **state)
{
    static const struct {
        const char *text, *start;
    } bad[] = {
        {"", "file:1:1: "},
        {"lodge: 1\n", "file:1:1: the guest needs a kernel"},
        {"kernel: /k\n", "file:1:1: the definition does not say its version"},
        {"lodge: 9\n", "file:1:8: "},
        {"lodge: 1\nlodge: 1\n", "file:2:1: "},
        {HEAD "cpus: many\n", "file:3:7: cpus takes a number"},
        {HEAD "cpus: 1\ncpus: 2\n", "file:4:1: this option is given twice"},
        {HEAD "cpus: [1]\n", "file:3:7: this takes one value"},
        {HEAD "cpus:\n  a: 1\n", "file:4:3: a text is expected"},
        {HEAD "cpus:\n", "file:3:"},
        {HEAD "disk: [/a, [/b]]\n", "file:3:12: a text is expected"},
        {HEAD "quiet: true\n", "file:3:1: a definition has no 'quiet'"},
        {HEAD "name: Web\n", "file:3:7: "},
        {HEAD "no-reboot: yes\n", "file:3:12: this takes true or false"},
        {HEAD "---\n" HEAD, "file:3:1: nothing can follow"},
        {HEAD "name: w\xff\n", "file:3:8: this is not UTF-8"},
        {HEAD "name: \xc3\xa4\xed\xa0\x80\n", "file:3:8: this is not UTF-8"},
        {HEAD "name: \x01\n", "file:3:7: a control character"},
        {"%.AML 1.2\n---\n" HEAD "append: \xff\xff\n", "file:5:9: this is not UTF-8"},
        {HEAD "append: \"x\n", "file:"},
        {HEAD "\tcpus: 1\n", "file:"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct definition def;
        struct err err = {0};

        assert_int_equal(parse(&def, bad[i].text, &err), -EINVAL);
        if (strncmp(err.what, bad[i].start, strlen(bad[i].start)) != 0)
            fail_msg("'%s' says '%s'", bad[i].text, err.what);
        assert_int_equal(def.count, 0);
    }
}

static void deep(void **state)
{
    char *text = malloc(30002);
    struct definition def;
    struct err err = {0};

    memset(text, '[', 30000);
    strcpy(text + 30000, "\n");
    assert_int_equal(parse(&def, text, &err), -EINVAL);
    free(text);
}

static void paths_become_absolute(void **state)
{
    char cwd[512], want[600];
    struct definition def;

    assert_non_null(getcwd(cwd, sizeof(cwd)));
    parsed(&def, "lodge: 1\nkernel: k\ninitrd: /i\ndisk: ['a,,b,ro']\nport: [x=s]\n");
    snprintf(want, sizeof(want), "%s/k", cwd);
    assert_string_equal(definition_get(&def, "kernel"), want);
    assert_string_equal(definition_get(&def, "initrd"), "/i");
    snprintf(want, sizeof(want), "%s/a,,b,ro", cwd);
    assert_string_equal(definition_get(&def, "disk"), want);
    snprintf(want, sizeof(want), "x=%s/s", cwd);
    assert_string_equal(definition_get(&def, "port"), want);
    definition_fini(&def);
}

static void merging(void **state)
{
    struct definition def, more;
    char *text;

    parsed(&def, HEAD "cpus: 2\ndisk: [/a]\nname: x\n");
    parsed(&more, "lodge: 1\nkernel: /l\ndisk: [/b]\nmemory: 1G\n");
    assert_int_equal(definition_merge(&def, &more, NULL), 0);
    assert_int_equal(def.count, 5);
    assert_string_equal(definition_get(&def, "kernel"), "/l");
    assert_string_equal(def.name, "x");
    definition_fini(&def);
    definition_fini(&more);
    /* Limits take the place of those of the same device. */
    parsed(
        &def, HEAD
        "disk: [/a, /b]\nnet: [user]\nlimit: ['disk0,iops=1', 'disk1,iops=2', 'net0,rate=1M']\n");
    parsed(&more, "lodge: 1\nkernel: /l\ndisk: [/c, /d]\nlimit: ['disk1,none', 'disk0,bps=1M']\n");
    assert_int_equal(definition_merge(&def, &more, NULL), 0);
    text = definition_text(&def, NULL, NULL);
    assert_non_null(strstr(text, "limit:\n  - disk0,bps=1M\n  - disk1,none\n  - net0,rate=1M\n"));
    free(text);
    definition_fini(&def);
    definition_fini(&more);
}

/* ---- What is kept ----------------------------------------------------------------- */

static int make_top(void **state)
{
    return !mkdtemp(top) || setenv("LODGE_STATE_DIR", top, 1);
}

static int remove_top(void **state)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/guests", top);
    rmdir(path);
    snprintf(path, sizeof(path), "%s/trash", top);
    rmdir(path);
    return rmdir(top); /* fails when something is left */
}

static void guests(void **state)
{
    struct definition def, back;
    struct state_names names;
    char as[STATE_PATH];
    struct err err = {0};
    json_t *last;

    parsed(&def, HEAD);
    assert_int_equal(state_list(&names, false, &err), 0);
    assert_int_equal(names.count, 0);
    assert_int_equal(state_create("a", &def, &err), 0);
    assert_int_equal(state_create("a", &def, &err), -EEXIST);
    assert_int_equal(state_create("b", &def, &err), 0);
    assert_int_equal(state_read("a", &back, &err), 0);
    assert_string_equal(definition_get(&back, "kernel"), "/k");
    definition_fini(&back);
    assert_int_equal(state_read("c", &back, &err), -ENOENT);
    assert_int_equal(state_write("c", &def, &err), -ENOENT);
    assert_null(state_read_last("a"));
    last = json_pack("{s:s}", "state", "running");
    assert_int_equal(state_write_last("a", last, &err), 0);
    json_decref(last);
    last = state_read_last("a");
    assert_non_null(last);
    json_decref(last);
    assert_int_equal(state_rename("a", "b", &err), -EEXIST);
    assert_int_equal(state_rename("a", "c", &err), 0);
    assert_int_equal(state_rename("a", "d", &err), -ENOENT);
    assert_int_equal(state_list(&names, false, &err), 0);
    assert_int_equal(names.count, 2);
    assert_string_equal(names.name[0], "b");
    state_names_free(&names);
    assert_int_equal(state_remove("c", as, &err), 0);
    assert_string_equal(as, "c~1");
    assert_int_equal(state_remove("c", as, &err), -ENOENT);
    assert_int_equal(state_create("c", &def, &err), 0);
    assert_int_equal(state_restore("c~1", "c", &err), -EEXIST);
    assert_int_equal(state_remove("c", as, &err), 0);
    assert_string_equal(as, "c~2");
    assert_int_equal(state_restore("c~1", "c", &err), 0);
    assert_int_equal(state_prune("c~2", &err), 0);
    assert_int_equal(state_prune("c~2", &err), -ENOENT);
    assert_int_equal(state_drop("c", &err), 0);
    assert_int_equal(state_drop("b", &err), 0);
    definition_fini(&def);
}

/* What a process that is gone had on its way in is no guest, and is swept away; a living one's stays. */
static void leftovers(void **state)
{
    struct state_names names;
    char dead[128], mine[128];
    pid_t pid = fork();

    if (!pid)
        _exit(0);
    waitpid(pid, NULL, 0);
    snprintf(dead, sizeof(dead), "%s/guests/.%d-1.a", top, (int)pid);
    snprintf(mine, sizeof(mine), "%s/guests/.%d-0.a", top, (int)getpid());
    assert_int_equal(mkdir(dead, 0700) | mkdir(mine, 0700), 0);
    assert_int_equal(state_list(&names, false, NULL), 0);
    assert_int_equal(names.count, 0);
    state_names_free(&names);
    state_sweep();
    assert_int_equal(access(dead, F_OK), -1);
    assert_int_equal(rmdir(mine), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values),
        cmocka_unit_test(keys),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(not_utf8),
        cmocka_unit_test(places),
        cmocka_unit_test(deep),
        cmocka_unit_test(paths_become_absolute),
        cmocka_unit_test(merging),
        cmocka_unit_test(guests),
        cmocka_unit_test(leftovers),
    };

    return cmocka_run_group_tests(tests, make_top, remove_top);
}
