/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Direct kernel boot: bzImage through the 64-bit entry (Linux Documentation/
 * arch/x86/boot.rst, protocol 2.12 or later), ELF through PVH
 * (xen/include/public/arch-x86/hvm/start_info.h) and ELF through Multiboot.
 */
#ifndef LODGE_X86_BOOT_H
#define LODGE_X86_BOOT_H

#include "core/mem.h"
#include "x86/state.h"

struct boot_config {
    const char *kernel, *initrd, *cmdline; /* initrd and cmdline may be NULL */
    unsigned cpus;
};

/*
 * Build ACPI tables, load kernel, initrd and command line, and set `bsp` (already reset) to the kernel's entry.
 * Every file is checked before it is believed. On failure guest memory may have been written.
 */
int boot_load(struct mem *mem, const struct boot_config *cfg, struct x86_state *bsp,
              struct err *err);

/* The same checks without a VM: files readable, a known kernel format, everything fits `memory` bytes. */
int boot_check(const struct boot_config *cfg, uint64_t memory, struct err *err);

#endif
