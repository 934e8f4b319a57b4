/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A snapshot of a guest that runs, as a directory: docs/snapshot.md. */
#ifndef LODGE_CORE_SNAPSHOT_TAKE_H
#define LODGE_CORE_SNAPSHOT_TAKE_H

#include <stdatomic.h>

#include "core/vm.h"

#define SNAPSHOT_STATE  "state"
#define SNAPSHOT_MEMORY "memory"
#define SNAPSHOT_SUMS   "sums"

struct snapshot_take {
    const char *dir; /* that is to be; its parent is there */
    /* Files to be put there with the others, as they are. */
    unsigned files;
    struct {
        const char *name, *text;
    } file[4];
    /* Have the disks that can be written go on elsewhere (vm_disk_overlay), while the guest stands. NULL: there are none. */
    int (*disks)(void *opaque, struct vm *vm, struct err *err);
    void *opaque;
    /* For guests that go on from it now: it need not outlive the host, and is not summed. */
    bool transient;
    /*
     * The guest is to end there: it stands still from the moment on, the disks stay where they are and are written to their end,
     * and once `dir` has this name, in the same folder, the VM is asked to stop. NULL: it goes on.
     */
    const char *as;
    const _Atomic bool *cancel; /* set: give up soon */
    uint64_t stopped_ns;        /* for how long the guest stood still, at most */
};

/*
 * Take it. Returns when all of it is on disk. On a thread of its own, for vm_run serves it. After a failure (-ECANCELED
 * when it was cancelled, -EEXIST when there is such a directory) nothing is left of it but disks that go on elsewhere.
 */
int snapshot_take(struct vm *vm, struct snapshot_take *t, struct err *err);

/*
 * Is this the memory that the sums were made of? Reads all of it. 0; -EINVAL: it was changed; -ECANCELED. Any thread.
 */
int snapshot_verify(int memory_fd, int sums_fd, const _Atomic bool *cancel, struct err *err);

#endif
