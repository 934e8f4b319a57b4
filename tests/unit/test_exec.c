/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/cli/exec.c src/cli/guest_image.c src/cli/guest_keys.c src/cli/guest_seed.c src/cli/store.c src/cli/store_manifest.c
 *       src/cli/spawn.c src/cli/stop.c src/cli/verb.c src/cli/help.c src/cli/opts.c src/cli/size.c src/cli/suggest.c src/cli/version.c
 *       src/cli/registry.c src/cli/state.c src/cli/passing.c src/cli/definition.c src/cli/definition_read.c
 *       src/cli/disk_opts.c src/cli/net_opts.c src/cli/limit_opts.c src/cli/run_opts.c src/cli/shares.c src/cli/cgroup.c src/net/publish.c src/net/user_config.c
 *       src/net/switch.c src/net/switch_wire.c src/net/frame.c src/block/ src/base/ */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/exec.h"

const struct verb verbs[] = {{NULL}};

/* The shell takes the text apart into what went in. */
static void quoting(void **state)
{
    static char *const words[][3] = {
        {"a", "b c", ""}, {"it's", "''", "\"$HOME\" `id`"}, {"\\", "a\nb", "*"}, {"'", "!", "#"}};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        char *text = exec_quote(3, (char **)words[i]), *command, got[200];
        size_t n, at = 0;
        FILE *f;

        assert_non_null(text);
        assert_true(asprintf(&command, "printf '%%s|' %s", text) > 0);
        f = popen(command, "r");
        assert_non_null(f);
        n = fread(got, 1, sizeof(got) - 1, f);
        got[n] = '\0';
        assert_int_equal(pclose(f), 0);
        for (unsigned k = 0; k < 3; k++) {
            size_t len = strlen(words[i][k]);

            assert_memory_equal(got + at, words[i][k], len);
            assert_int_equal(got[at + len], '|');
            at += len + 1;
        }
        assert_int_equal(at, n);
        free(command);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(quoting)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
