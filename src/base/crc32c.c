/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* 0x1edc6f41, its bits in reverse */

/* A byte at a time, for processors without the instruction. */
static uint32_t by_bits(uint32_t crc, const uint8_t *p, size_t len)
{
    while (len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    }
    return crc;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p,
                                                                 size_t len)
{
    uint64_t sum = crc, word;

    for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        sum = __builtin_ia32_crc32di(sum, word);
    }
    for (; len; p++, len--)
        sum = __builtin_ia32_crc32qi((uint32_t)sum, *p);
    return (uint32_t)sum;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    return ~(__builtin_cpu_supports("sse4.2") ? by_instruction(~crc, data, len)
                                              : by_bits(~crc, data, len));
}
