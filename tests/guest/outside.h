/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the programs beside this file have in common: a guest from their arguments. */
#ifndef LODGE_TESTS_GUEST_OUTSIDE_H
#define LODGE_TESTS_GUEST_OUTSIDE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm.h"
#include "engine/engine.h"

/* Ends the program when there is none of that name. */
static inline const struct engine_ops *engine_named(const char *name)
{
    for (const struct engine_ops *const *e = engines; *e; e++)
        if (!strcmp((*e)->name, name))
            return *e;
    fprintf(stderr, "no engine %s\n", name);
    exit(2);
}

/* args: KERNEL INITRD APPEND CPUS. Nothing is typed, a reset ends it; with `disk`, a path, it has that disk. */
static inline void guest_config(struct vm_config *cfg, char **args, unsigned mib,
                                const char *engine, const char *disk)
{
    *cfg = (struct vm_config){.name = "test",
                              .cpu = CPU_V2,
                              .kernel = args[0],
                              .initrd = args[1],
                              .cmdline = args[2],
                              .cpus = (unsigned)atoi(args[3]),
                              .memory = MIB(mib),
                              .engine = engine_named(engine),
                              .serial_in = -1,
                              .no_reboot = true};
    cfg->disk[0].image.path = disk;
    cfg->disks = disk != NULL;
}

#endif
