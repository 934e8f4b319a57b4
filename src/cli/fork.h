/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lodge fork: guests that go on from where another one is. What that one is at one moment is in a folder of its snapshots
 * whose name begins with a dot, until all of them have opened it (core/snapshot_take.h, transient). Their memory has that
 * file as its base, which nobody changes, and which takes memory once for all of them.
 */
#ifndef LODGE_CLI_FORK_H
#define LODGE_CLI_FORK_H

#include <stdatomic.h>

#include "cli/layers.h"

/*
 * In the process of the guest that is forked, on a thread that may wait: leave its state and memory in `dir` and have its
 * disks go on in new layers, all at one moment. `result` is as of layers_live, with "stopped", the seconds that the guest
 * stood still. After a failure there is no such folder.
 */
int fork_take(struct layers *l, struct vm *vm, const char *dir, const _Atomic bool *cancel,
              json_t *result, struct err *err);

#endif
