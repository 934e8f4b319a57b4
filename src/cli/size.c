/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char units[] = "BKMGT";

static int unit_shift(const char *unit, unsigned *shift)
{
    const char *u;

    if (!*unit) {
        *shift = 20;
        return 0;
    }
    u = strchr(units, toupper((unsigned char)*unit));
    if (!u || (unit[1] && (u == units || strcasecmp(unit + 1, "ib"))))
        return -EINVAL;
    *shift = 10 * (unsigned)(u - units);
    return 0;
}

int size_parse(const char *text, uint64_t *bytes)
{
    uint64_t whole = 0, part = 0, scale = 1, out;
    unsigned shift;

    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    for (; isdigit((unsigned char)*text); text++)
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*text - '0'), &whole))
            return -EINVAL;
    if (*text == '.') {
        if (!isdigit((unsigned char)*++text))
            return -EINVAL;
        for (; isdigit((unsigned char)*text); text++) {
            if (scale >= 1000000000000000000u)
                return -EINVAL;
            part = part * 10 + (uint64_t)(*text - '0');
            scale *= 10;
        }
    }
    if (unit_shift(text, &shift) || __builtin_mul_overflow(whole, 1ull << shift, &out) ||
        __builtin_add_overflow(out, (uint64_t)(((unsigned __int128)part << shift) / scale), &out))
        return -EINVAL;
    *bytes = out;
    return 0;
}

int size_parse_bytes(const char *text, uint64_t *bytes)
{
    bool digits = *text && strspn(text, "0123456789") == strlen(text);
    char with_unit[SIZE_TEXT];
    uint64_t n;

    if (snprintf(with_unit, sizeof(with_unit), "%s%s", text, digits ? "B" : "") >= SIZE_TEXT ||
        size_parse(with_unit, &n) || !n)
        return -EINVAL;
    *bytes = n;
    return 0;
}

const char *size_format(uint64_t bytes, char buf[SIZE_TEXT])
{
    unsigned i = 0, exact = 0;

    while (i + 2 < sizeof(units) && bytes >> (10 * (i + 1)))
        i++;
    while (exact < i && !(bytes & ((1ull << (10 * (exact + 1))) - 1)))
        exact++;
    if (exact == i || bytes >> (10 * exact) < 10000)
        snprintf(buf, SIZE_TEXT, "%llu%c", (unsigned long long)(bytes >> (10 * exact)),
                 units[exact]);
    else
        snprintf(buf, SIZE_TEXT, "%.2f%c", (double)bytes / (double)(1ull << (10 * i)), units[i]);
    return buf;
}
