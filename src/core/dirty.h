/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages of guest memory were written: by guest code, as its engine knows, and from outside (vm_mem_written). */
#ifndef LODGE_CORE_DIRTY_H
#define LODGE_CORE_DIRTY_H

#include "core/vm.h"

/* For all of these no vCPU runs and the machine is paused (vm_request_call). */

/* Note from now on. Negative errno: nothing is noted. */
int vm_dirty_start(struct vm *vm, struct err *err);
void vm_dirty_stop(struct vm *vm); /* idempotent */

/* 64-bit words of a bitmap of guest memory. */
size_t vm_dirty_words(const struct vm *vm);

/*
 * Between start and stop. Fills `bitmap` with the pages written since the start or the last take: bit n is the page at
 * offset n * 4096 of vm->mem. A page that was not written may be among them; none is left out. After a failure the log
 * is stopped, and all pages count as written. -EINVAL when it was.
 */
int vm_dirty_take(struct vm *vm, uint64_t *bitmap, struct err *err);

/* For core, around a change of engine. What the old one knew is kept. */
void vm_dirty_leave(struct vm *vm);
void vm_dirty_enter(struct vm *vm);

/* For core: [gpa, gpa+len) was written from outside. Any thread, as vm_mem_written. */
void vm_dirty_note(struct vm *vm, gpa_t gpa, uint64_t len);

#endif
