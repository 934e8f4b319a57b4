/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/dirty.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

size_t vm_dirty_words(const struct vm *vm)
{
    return (size_t)(ALIGN_UP(vm->mem.size / PAGE_SIZE, 64) / 64);
}

/* The bitmap stays until the VM is freed: who notes a write has no lock. */
int vm_dirty_start(struct vm *vm, struct err *err)
{
    int rc;

    if (!vm->dirty)
        vm->dirty = calloc(vm_dirty_words(vm), sizeof(*vm->dirty));
    if (!vm->dirty)
        return err_set(err, -ENOMEM, "no memory to note which of the guest's pages are written");
    memset((void *)vm->dirty, 0, vm_dirty_words(vm) * sizeof(*vm->dirty));
    rc = vm->engine->dirty_log(vm, true);
    if (rc < 0)
        return err_set(err, rc, "the %s engine cannot note which pages are written: %s",
                       vm->engine->name, strerror(-rc));
    atomic_store(&vm->dirty_on, true);
    return 0;
}

void vm_dirty_stop(struct vm *vm)
{
    if (atomic_exchange(&vm->dirty_on, false))
        vm->engine->dirty_log(vm, false);
}

int vm_dirty_take(struct vm *vm, uint64_t *bitmap, struct err *err)
{
    int rc;

    if (!atomic_load(&vm->dirty_on))
        return err_set(err, -EINVAL, "nobody notes which pages are written");
    for (size_t i = 0; i < vm_dirty_words(vm); i++)
        bitmap[i] = atomic_exchange(&vm->dirty[i], 0);
    rc = vm->engine->dirty_take(vm, bitmap);
    if (!rc)
        return 0;
    vm_dirty_stop(vm);
    return err_set(err, rc, "the %s engine does not tell which pages were written: %s",
                   vm->engine->name, strerror(-rc));
}

void vm_dirty_leave(struct vm *vm)
{
    const size_t words = vm_dirty_words(vm);
    uint64_t *known;
    bool ok;

    if (!atomic_load(&vm->dirty_on))
        return;
    known = calloc(words, sizeof(*known));
    ok = known && !vm->engine->dirty_take(vm, known);
    for (size_t i = 0; i < words; i++)
        atomic_fetch_or(&vm->dirty[i], ok ? known[i] : ~0ull);
    free(known);
}

void vm_dirty_enter(struct vm *vm)
{
    if (atomic_load(&vm->dirty_on) && vm->engine->dirty_log(vm, true) < 0)
        atomic_store(&vm->dirty_on, false); /* the next take says so */
}

void vm_dirty_note(struct vm *vm, gpa_t gpa, uint64_t len)
{
    if (likely(!atomic_load(&vm->dirty_on)))
        return;
    while (len) {
        uint64_t n = PAGE_SIZE - (gpa & ~PAGE_MASK);
        hva_t host;

        n = n < len ? n : len;
        host = mem_hva(&vm->mem, gpa, n);
        if (host) {
            size_t page = (size_t)(host - vm->mem.map) >> PAGE_SHIFT;

            atomic_fetch_or(&vm->dirty[page / 64], 1ull << page % 64);
        }
        gpa += n;
        len -= n;
    }
}
