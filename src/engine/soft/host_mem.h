/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guest operands in host memory: one access of the operand's size, aligned or not. */
#ifndef LODGE_SOFT_HOST_MEM_H
#define LODGE_SOFT_HOST_MEM_H

#include "base/types.h"

typedef uint16_t unaligned16 __attribute__((aligned(1)));
typedef uint32_t unaligned32 __attribute__((aligned(1)));
typedef uint64_t unaligned64 __attribute__((aligned(1)));

/* What guests race for is theirs to order, so the thread sanitizer is not to look. */
#define GUEST_MEMORY __attribute__((no_sanitize("thread")))

GUEST_MEMORY static inline uint64_t host_load(const void *p, unsigned size)
{
    switch (size) {
    case 1:
        return *(const volatile uint8_t *)p;
    case 2:
        return *(const volatile unaligned16 *)p;
    case 4:
        return *(const volatile unaligned32 *)p;
    default:
        return *(const volatile unaligned64 *)p;
    }
}

GUEST_MEMORY static inline void host_store(void *p, unsigned size, uint64_t val)
{
    switch (size) {
    case 1:
        *(volatile uint8_t *)p = (uint8_t)val;
        break;
    case 2:
        *(volatile unaligned16 *)p = (uint16_t)val;
        break;
    case 4:
        *(volatile unaligned32 *)p = (uint32_t)val;
        break;
    default:
        *(volatile unaligned64 *)p = val;
        break;
    }
}

#endif
