/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SHA-256 (FIPS 180-4). */
#ifndef LODGE_BASE_SHA256_H
#define LODGE_BASE_SHA256_H

#include "base/types.h"

#define SHA256_HEX 65 /* characters of a sum in hexadecimal, with the end */

struct sha256 {
    uint32_t h[8];
    uint64_t len; /* bytes so far */
    uint8_t part[64];
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t len);

/* The sum of all that was added, in lower-case hexadecimal. `s` is used up. */
void sha256_hex(struct sha256 *s, char hex[SHA256_HEX]);

#endif
