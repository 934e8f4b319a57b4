/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/generation.h"

#include <stdlib.h>
#include <sys/random.h>

#include "core/machine.h"
#include "core/vm.h"
#include "x86/platform.h"

void generation_init(struct vm *vm)
{
    /* Cannot fail once the system has come up: 16 bytes are below the size that a signal may cut short. */
    if (getrandom(vm->generation, sizeof(vm->generation), 0) != sizeof(vm->generation))
        abort();
}

int generation_place(struct vm *vm)
{
    return mem_write(&vm->mem, ACPI_GENERATION, vm->generation, sizeof(vm->generation));
}

int generation_change(struct vm *vm)
{
    int rc;

    generation_init(vm);
    rc = generation_place(vm);
    if (rc)
        return rc;
    vm_mem_written(vm, ACPI_GENERATION, sizeof(vm->generation));
    machine_generation(vm);
    return 0;
}
