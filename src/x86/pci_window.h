/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where PCI devices' memory may lie: between RAM and the configuration space, and above all RAM. */
#ifndef LODGE_X86_PCI_WINDOW_H
#define LODGE_X86_PCI_WINDOW_H

#include "core/mem.h"
#include "x86/platform.h"

#define PCI_LOW_BASE  MEM_LOW_MAX
#define PCI_LOW_SIZE  (MMIO_PCI_CONFIG - PCI_LOW_BASE)
#define PCI_HIGH_SIZE GIB(32)
#define PCI_HIGH_MAX  (1ull << 40) /* the address bits that CPUID announces */

/* Base of the window above RAM, PCI_HIGH_SIZE long; 0 when there is no room for it. */
static inline gpa_t pci_high_base(const struct mem *mem)
{
    gpa_t end = MEM_HIGH_BASE;

    for (unsigned i = 0; i < mem->nslots; i++)
        if (mem->slots[i].base + mem->slots[i].size > end)
            end = mem->slots[i].base + mem->slots[i].size;
    end = ALIGN_UP(end, GIB(4));
    return end <= PCI_HIGH_MAX - PCI_HIGH_SIZE ? end : 0;
}

#endif
