/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What nobody needs any more of a guest's layers. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/layers.h"
#include "cli/passing.h"
#include "cli/state.h"

static int note_used(void *used, const char *name, struct err *err)
{
    return state_names_add(used, name) ? 0 : -ENOMEM;
}

/* What is there for nothing unless a disk stands on it: layers, and what was to become disks.json. */
static bool is_passing(const char *name)
{
    return !strncmp(name, "layer-", 6) || !strcmp(name, "." LAYERS_FILE ".new") ||
           !strcmp(name, LAYERS_FILE ".old") || passing_is_abandoned(name);
}

void layers_sweep(const struct layers *l)
{
    struct state_names used = {0};
    struct dirent *e;
    DIR *d = NULL;
    int r = 0;

    for (unsigned i = 0; !r && i < l->count; i++)
        r = layers_each(l->dir, l->disk[i].top, "qcow2", note_used, &used, NULL);
    /* With one that cannot be read, nobody knows what it stands on. */
    if (!r)
        d = opendir(l->dir);
    while (d && (e = readdir(d))) {
        bool found = !is_passing(e->d_name);

        for (unsigned i = 0; !found && i < used.count; i++)
            found = !strcmp(used.name[i], e->d_name);
        if (!found)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
    state_names_free(&used);
}
