/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A reader of small FAT disks that shares nothing with block/fat.c, and trusts nothing. */
#ifndef LODGE_TESTS_FAT_READ_H
#define LODGE_TESTS_FAT_READ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static unsigned fr_le(const uint8_t *p, unsigned n)
{
    return n ? p[0] | fr_le(p + 1, n - 1) << 8 : 0;
}

/* The n-th entry of the first table. */
static unsigned fr_next(const uint8_t *d, unsigned c)
{
    unsigned v = fr_le(d + fr_le(d + 14, 2) * 512 + c * 3 / 2, 2);

    return c % 2 ? v >> 4 : v & 0xfff;
}

/* Contents of a file by its long name, malloc'd; NULL: it is not there, or the disk is not as it should be. */
static uint8_t *fat_read(const uint8_t *d, size_t size, const char *name, size_t *len)
{
    unsigned fat = fr_le(d + 14, 2), fats = d[16], per = fr_le(d + 22, 2);
    unsigned entries = fr_le(d + 17, 2), root = (fat + fats * per) * 512;
    unsigned data = root + entries * 32, cluster = d[13] * 512u;
    char long_name[256] = "";
    unsigned sum = 0, parts = 0;

    if (size != fr_le(d + 19, 2) * 512u || memcmp(d + fat * 512, d + (fat + per) * 512, per * 512))
        return NULL;
    for (unsigned i = 0; i < entries && d[root + i * 32]; i++) {
        const uint8_t *e = d + root + i * 32;
        unsigned own = 0, c = fr_le(e + 26, 2), left = fr_le(e + 28, 4);
        uint8_t *out;

        if (e[11] == 0x0f) {
            static const uint8_t at[] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};

            if (e[0] & 0x40)
                memset(long_name, 0, sizeof(long_name));
            else if ((e[0] & 0x3fu) != parts - 1)
                return NULL;
            parts = e[0] & 0x3f;
            sum = e[13];
            for (unsigned k = 0; k < 13 && parts && parts < 19; k++)
                if (fr_le(e + at[k], 2) != 0xffff)
                    long_name[(parts - 1) * 13 + k] = (char)fr_le(e + at[k], 2);
            continue;
        }
        for (unsigned k = 0; k < 11; k++)
            own = (((own & 1) << 7 | own >> 1) + e[k]) & 0xff;
        if ((e[11] & 8) || parts != 1 || own != sum || strcmp(long_name, name) != 0)
            continue;
        out = malloc(left + 1);
        *len = left;
        for (unsigned to = 0; left; c = fr_next(d, c)) {
            unsigned n = left < cluster ? left : cluster;

            if (c < 2 || data + (c - 2) * cluster + cluster > size) {
                free(out);
                return NULL;
            }
            memcpy(out + to, d + data + (c - 2) * cluster, n);
            to += n;
            left -= n;
        }
        if (*len ? c < 0xff8 : c != 0) {
            free(out);
            return NULL;
        }
        return out;
    }
    return NULL;
}

#endif
