/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/sha256.h"

#include <stdio.h>
#include <string.h>

/* FIPS 180-4, 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, unsigned n)
{
    return x >> n | x << (32 - n);
}

/* 6.2.2, for one block. */
static void compress(uint32_t h[8], const uint8_t *block)
{
    uint32_t w[64], v[8];

    for (unsigned i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (unsigned i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof(v));
    /* The variables change places instead of values: a is v[-i], e is v[4 - i], modulo 8. */
#pragma GCC unroll 8
    for (unsigned i = 0; i < 64; i++) {
        uint32_t a = v[(8 - i) % 8], b = v[(9 - i) % 8], c = v[(10 - i) % 8];
        uint32_t e = v[(12 - i) % 8], f = v[(13 - i) % 8], g = v[(14 - i) % 8];
        uint32_t t1 = v[(15 - i) % 8] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) +
                      ((e & f) ^ (~e & g)) + round_constants[i] + w[i];

        v[(11 - i) % 8] += t1;
        v[(15 - i) % 8] =
            t1 + (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    }
    for (unsigned i = 0; i < 8; i++)
        h[i] += v[i];
}

void sha256_init(struct sha256 *s)
{
    static const uint32_t start[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };

    memset(s, 0, sizeof(*s));
    memcpy(s->h, start, sizeof(start));
}

void sha256_add(struct sha256 *s, const void *data, size_t len)
{
    const uint8_t *from = data;
    size_t have = s->len % sizeof(s->part);

    s->len += len;
    if (have) {
        size_t n = sizeof(s->part) - have < len ? sizeof(s->part) - have : len;

        memcpy(s->part + have, from, n);
        from += n;
        len -= n;
        if (have + n < sizeof(s->part))
            return;
        compress(s->h, s->part);
    }
    for (; len >= sizeof(s->part); from += sizeof(s->part), len -= sizeof(s->part))
        compress(s->h, from);
    memcpy(s->part, from, len);
}

void sha256_hex(struct sha256 *s, char hex[SHA256_HEX])
{
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = s->len * 8;
    uint8_t end[8];

    for (unsigned i = 0; i < 8; i++)
        end[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(s, pad, (119 - s->len % 64) % 64 + 1);
    sha256_add(s, end, sizeof(end));
    for (unsigned i = 0; i < 8; i++)
        snprintf(hex + 8 * i, 9, "%08x", s->h[i]);
}
