/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/tidy.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/clone.h"
#include "cli/registry.h"
#include "cli/saved.h"
#include "cli/snapshots.h"
#include "cli/state.h"

/* .FILE.PID (cli/state.c) of a process that is gone. */
static bool is_abandoned(const char *name)
{
    const char *dot = strrchr(name, '.');
    long pid = name[0] == '.' && dot > name ? strtol(dot + 1, NULL, 10) : 0;

    return pid > 0 && kill((pid_t)pid, 0) && errno == ESRCH;
}

static void tidy_files(const char *name)
{
    char dir[STATE_PATH];
    struct dirent *e;
    DIR *d;

    if (state_path(dir, name, NULL, NULL))
        return;
    d = opendir(dir);
    while (d && (e = readdir(d)))
        if (is_abandoned(e->d_name))
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

void tidy_held(const char *name, const struct layers *layers)
{
    tidy_files(name);
    snapshots_sweep(name);
    saved_sweep(name);
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
