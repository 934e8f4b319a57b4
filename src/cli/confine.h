/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which files a guest's process keeps: src/sandbox filled from the options of run. */
#ifndef LODGE_CLI_CONFINE_H
#define LODGE_CLI_CONFINE_H

#include "cli/guest_image.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "sandbox/sandbox.h"

struct confine_config {
    const struct run_opts *opts; /* as they count: with the image's disks */
    const struct registry *reg;
    const struct guest_image *image; /* hold -1: none */
    bool kept;                       /* the guest has a directory of its own (cli/state.h) */
    bool kvm;                        /* the engine needs /dev/kvm */
};

/*
 * Confine the thread and those it will start to the guest's files (sandbox_enter). To be called while there is one thread
 * and the guest's images are not open; everything that is opened later, be it in a reset, must be allowed here.
 */
int confine_enter(struct sandbox *s, const struct confine_config *cfg, struct err *err);

#endif
