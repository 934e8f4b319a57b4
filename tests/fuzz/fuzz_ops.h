/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The input of a device fuzzer as a list of operations of six bytes: what to
 * do, an address byte, a 32-bit little-endian value. What is left over at the
 * end is ignored.
 */
#ifndef LODGE_TESTS_FUZZ_OPS_H
#define LODGE_TESTS_FUZZ_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define FUZZ_OPS_MAX 4096

struct fuzz_op {
    uint8_t what, addr;
    uint32_t val;
};

static inline bool fuzz_next(const uint8_t **data, size_t *len, struct fuzz_op *op)
{
    const uint8_t *d = *data;

    if (*len < 6)
        return false;
    op->what = d[0];
    op->addr = d[1];
    op->val = (uint32_t)d[2] | (uint32_t)d[3] << 8 | (uint32_t)d[4] << 16 | (uint32_t)d[5] << 24;
    *data += 6;
    *len -= 6;
    return true;
}

/* 1, 2, 4 or 8 */
static inline unsigned fuzz_size(uint8_t what)
{
    return 1u << (what >> 6);
}

/* Also in builds without assertions. */
#define fuzz_check(cond)                                                                           \
    do {                                                                                           \
        if (!(cond))                                                                               \
            abort();                                                                               \
    } while (0)

#endif
