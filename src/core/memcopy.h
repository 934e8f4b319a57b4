/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A copy of guest memory as it is at one moment, made while the guest goes on.
 *
 *     memcopy_new        at any time
 *     memcopy_prepare    with the machine stopped; the guest goes on
 *     memcopy_prepared   until it says so
 *     memcopy_start      with the machine stopped: this is the moment; the guest goes on
 *     memcopy_wait       until all of it is in the file
 *     memcopy_free
 *
 * Stopped: no vCPU runs and the machine is paused (vm_request_call). Under an engine that announces the guest's writes
 * (engine_ops.arm) preparing does nothing and is done at once, so that both may be left out: from the start on, a
 * thread copies page after page, and who is about to write a page that was not copied yet has it saved first. Under
 * others preparing copies everything, and again what was written meanwhile, until little is left for the start.
 */
#ifndef LODGE_CORE_MEMCOPY_H
#define LODGE_CORE_MEMCOPY_H

#include "core/vm.h"

struct memcopy;

struct memcopy_config {
    /*
     * Of memory's size, or to be made so, and all holes. The page at offset n of memory (mem.map) goes to
     * `offset` + n; pages of zeros are left out. The caller's, open until memcopy_free; it may be read meanwhile.
     */
    int fd;
    uint64_t offset; /* a multiple of 4096 */
    bool sync;       /* the copy is complete when it is on the disk (fdatasync) */
    /* Bytes of the file's file system that are others': -ENOSPC before less than that is free. 0: none. */
    uint64_t reserve;
    /* Told once, on a thread of the copy, when memcopy_poll has come to say that it is over; NULL: nobody. */
    void (*done)(void *opaque);
    void *opaque;
};

enum memcopy_state {
    MEMCOPY_NEW,
    MEMCOPY_PREPARING,
    MEMCOPY_PREPARED, /* it is a good time to start */
    MEMCOPY_COPYING,
    MEMCOPY_DONE,
    MEMCOPY_FAILED, /* or was cancelled */
};

/* One at a time for a VM: -EBUSY. The file gets its size here; nothing else happens to it. */
int memcopy_new(struct memcopy **copy, struct vm *vm, const struct memcopy_config *cfg,
                struct err *err);

/* With the machine stopped. Idempotent. A failure leaves the copy of no use and the guest as it was. */
int memcopy_prepare(struct memcopy *copy, struct err *err);

/* Wait up to so many milliseconds until it is prepared. -ETIMEDOUT, or why it failed. */
int memcopy_prepared(struct memcopy *copy, unsigned ms, struct err *err);

/* With the machine stopped: memory as it is now is what will be in the file. Prepared or not. Failures as above. */
int memcopy_start(struct memcopy *copy, struct err *err);

/* How far it is: bytes of memory that were looked at, of all. Any thread. */
enum memcopy_state memcopy_poll(struct memcopy *copy, uint64_t *done, uint64_t *all);

/* Wait until it is done (0) or failed; -ECANCELED when it was cancelled. */
int memcopy_wait(struct memcopy *copy, struct err *err);

/* Have it fail soon, in whatever state. Any thread, idempotent; returns at once. */
void memcopy_cancel(struct memcopy *copy);

/* Cancels it if it is not over, and waits for that. May be called while the guest runs. NULL: nothing. */
void memcopy_free(struct memcopy *copy);

/* For core. All that is left is copied now, before the guest's writes can no longer be seen; the machine is stopped. */
void memcopy_finish(struct vm *vm);
/* What the VM keeps for copies; none is left. */
void memcopy_fini(struct vm *vm);

#endif
