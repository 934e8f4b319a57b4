/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ACPI tables in guest memory (ACPI 6.4): RSDP, XSDT, FADT, FACS, MADT, DSDT. */
#ifndef LODGE_X86_ACPI_H
#define LODGE_X86_ACPI_H

#include "core/mem.h"

/* Write the tables below 1 MiB (RSDP at 0xe0000 upwards); *rsdp gets its address. Needs RAM at 768K..1M. */
int acpi_build(struct mem *mem, unsigned cpus, gpa_t *rsdp, struct err *err);

#endif
