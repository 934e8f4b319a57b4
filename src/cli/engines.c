/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/engines.h"

#include <errno.h>
#include <string.h>

#include "engine/engine.h"

const struct engine_name engine_names[] = {
    {"kvm", "KVM", "the CPU's virtualization, through /dev/kvm"},
    {"soft", "software", "software alone: no privileges, no kernel module, no help from the CPU"},
    {NULL},
};

/* Set *ops to the engine of that name. */
static int engine_find(const char *name, const struct engine_ops **ops, struct err *err)
{
    *ops = NULL;
    for (const struct engine_ops *const *e = engines; *e; e++) {
        if (!strcmp((*e)->name, name)) {
            *ops = *e;
            return 0;
        }
    }
    for (const struct engine_name *n = engine_names; n->name; n++)
        if (!strcmp(n->name, name))
            return err_set(err, -ENOSYS, "this version has no %s engine", n->title);
    return err_set(err, -EINVAL, "there is no engine named %s", name);
}

int engine_try(const char *name, const struct engine_ops **ops, struct err *err)
{
    int r = engine_find(name, ops, err);

    return r < 0 ? r : (*ops)->probe(err);
}

static const char *engine_title(const char *name)
{
    for (const struct engine_name *n = engine_names; n->name; n++)
        if (!strcmp(n->name, name))
            return n->title;
    return name;
}

static int choose_auto(const struct engine_ops **ops, struct err *passed, struct err *err)
{
    for (const struct engine_ops *const *e = engines; *e; e++) {
        struct err why = {0};

        if (!(*e)->probe(&why)) {
            *ops = *e;
            return 0;
        }
        if (!passed->code)
            err_set(passed, -ENOTSUP, "%s cannot be used here: %.400s", engine_title((*e)->name),
                    why.what);
    }
    err_set(err, -ENOTSUP, "no engine can be used on this host; %.470s", passed->what);
    err_next(err, "lodge doctor says more.");
    return -ENOTSUP;
}

int engine_choose(const char *name, const struct engine_ops **ops, struct err *passed,
                  struct err *err)
{
    struct err why = {0};
    int r;

    *passed = (struct err){0};
    if (!strcmp(name, "auto"))
        return choose_auto(ops, passed, err);
    r = engine_find(name, ops, &why);
    if (!r)
        r = (*ops)->check ? (*ops)->check(&why) : (*ops)->probe(&why);
    if (!r)
        return 0;
    if (*ops)
        err_set(err, r, "%s cannot be used here: %.400s", engine_title(name), why.what);
    else
        *err = why;
    return err_next(err, "%s",
                    why.next[0]
                        ? why.next
                        : "Use --engine auto, or see lodge doctor for what this host can use.");
}
