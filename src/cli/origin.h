/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The snapshot that a guest goes on from, as lodge run needs it. */
#ifndef LODGE_CLI_ORIGIN_H
#define LODGE_CLI_ORIGIN_H

#include <pthread.h>
#include <stdatomic.h>

#include "cli/layers.h"
#include "core/vm.h"

struct snapshot_take;

struct origin {
    bool used;
    struct vm_origin vm;
    struct mem_base base;
    int sums_fd;
    struct vm *of;
    pthread_t thread;
    bool started;
    _Atomic bool cancel;
    struct err err; /* of the thread */
};

/* Open the files in `dir` and put them into cfg; dir NULL: there is no snapshot. origin_close in any case. */
int origin_open(struct origin *o, const char *dir, struct vm_config *cfg, struct err *err);

/*
 * Read all of the memory's file in the background, which the guest does bit by bit. If it is not what was saved the
 * guest is stopped, and origin_close says why. Without the thread nothing is checked.
 */
void origin_watch(struct origin *o, struct vm *vm);

/* Take a snapshot of a guest that runs, on a job's thread; its disks go on in new layers. `result` as layers_live's. */
int origin_make(struct layers *l, struct vm *vm, struct snapshot_take *take, json_t *result,
                struct err *err);

/* 0, or the reason why the guest was stopped, in *err. Before the VM is freed. Idempotent. */
int origin_close(struct origin *o, struct err *err);

#endif
