/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/tidy.h"

#include <string.h>

#include "cli/clone.h"
#include "cli/passing.h"
#include "cli/registry.h"
#include "cli/saved.h"
#include "cli/snapshots.h"
#include "cli/state.h"

/* Of who held the guest's name before: there is nobody any more that has it under way, whatever its PID is by now. */
static bool is_of_holder(const char *name)
{
    return !strcmp(name, STATE_LAST_NEW) || !strncmp(name, SAVED_ASIDE, strlen(SAVED_ASIDE));
}

void tidy_held(const char *name, const struct layers *layers)
{
    char dir[STATE_PATH];

    if (!state_path(dir, name, NULL, NULL))
        passing_sweep(dir, is_of_holder);
    snapshots_sweep(name);
    if (layers->dir[0])
        layers_sweep(layers);
}

static void tidy_one(const char *base, const char *name)
{
    struct registry reg = {.fd = -1};
    struct layers layers = {.count = 0};
    struct definition def;
    char dir[STORE_PATH];

    definition_init(&def);
    if (!registry_claim(&reg, base, name, NULL) && !state_read(name, &def, NULL) &&
        !clone_layers_dir(&def, name, dir, NULL) && !layers_load(&layers, dir, NULL))
        tidy_held(name, &layers);
    layers_fini(&layers);
    definition_fini(&def);
    registry_release(&reg);
}

void tidy_all(void)
{
    struct state_names names = {0};
    char base[256];

    if (registry_base(base, sizeof(base), NULL) || state_list(&names, false, NULL))
        return;
    for (unsigned i = 0; i < names.count; i++)
        if (!registry_is_held(base, names.name[i]))
            tidy_one(base, names.name[i]);
    state_names_free(&names);
}
