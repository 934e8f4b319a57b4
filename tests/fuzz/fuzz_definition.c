/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/base/err.c src/cli/definition.c src/cli/definition_read.c src/cli/disk_opts.c src/cli/net_opts.c src/cli/limit_opts.c
 *       src/cli/opts.c src/cli/registry.c src/cli/run_opts.c src/cli/shares.c src/cli/cgroup.c src/cli/size.c src/cli/store.c
 *       src/cli/suggest.c src/net/publish.c src/net/user_config.c src/net/switch.c src/net/switch_wire.c src/net/frame.c */
/* A definition in YAML: what is accepted makes a guest, and is the same when it is written and read again. */
#include <errno.h>
#include <string.h>

#include "cli/definition.h"
#include "cli/run.h"
#include "fuzz_ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/*
 * libfyaml 0.7 forgets a buffer of its own when it puts together a long text in quotes. Our own leaks show in the unit test,
 * which runs under the same sanitizer.
 */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfyaml";
}

static bool same(const struct definition *a, const struct definition *b)
{
    if (a->count != b->count)
        return false;
    /* Written, values of one option stand together. */
    for (unsigned i = 0; i < a->count; i++) {
        unsigned found = 0;

        for (unsigned k = 0; k < b->count; k++)
            if (a->item[i].opt == b->item[k].opt &&
                (a->item[i].val ? b->item[k].val && !strcmp(a->item[i].val, b->item[k].val)
                                : !b->item[k].val))
                found++;
        if (!found)
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct definition def, again;
    struct err err = {0};
    struct run_opts opts;
    char *text;

    if (len > DEFINITION_MAX)
        return 0;
    if (definition_parse(&def, (const char *)data, len, "input", &err)) {
        fuzz_check(err.code && err.what[0]);
        return 0;
    }
    fuzz_check(!definition_apply(&def, &opts, sizeof(opts), &err));
    run_opts_fini(&opts);
    text = definition_text(&def, def.name, &err);
    if (text) {
        fuzz_check(!definition_parse(&again, text, strlen(text), "text", &err));
        fuzz_check(same(&def, &again));
        definition_fini(&again);
        free(text);
    } else {
        fuzz_check(err.code == -EILSEQ);
    }
    definition_fini(&def);
    return 0;
}
