/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/generation.h"

#include <errno.h>
#include <sys/random.h>

#include "core/machine.h"
#include "core/vm.h"
#include "x86/platform.h"

int generation_init(struct vm *vm)
{
    /* So few bytes are never cut short by a signal (getrandom(2)). */
    return getrandom(vm->generation, sizeof(vm->generation), 0) < 0 ? -errno : 0;
}

int generation_place(struct vm *vm)
{
    return mem_write(&vm->mem, ACPI_GENERATION, vm->generation, sizeof(vm->generation));
}

int generation_change(struct vm *vm)
{
    int rc = generation_init(vm);

    if (!rc)
        rc = generation_place(vm);
    if (rc)
        return rc;
    vm_mem_written(vm, ACPI_GENERATION, sizeof(vm->generation));
    machine_generation(vm);
    return 0;
}
