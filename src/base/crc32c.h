/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CRC-32C (RFC 3720, appendix B.4): finds what went wrong with a file by accident, not on purpose. */
#ifndef LODGE_BASE_CRC32C_H
#define LODGE_BASE_CRC32C_H

#include "base/types.h"

/* The sum of what came before (`crc`, 0: nothing) and `data`. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
