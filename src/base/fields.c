/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/fields.h"

#include <string.h>

size_t fields_size(const struct field *table)
{
    size_t size = 0;

    for (const struct field *f = table; f->name; f++)
        size += (size_t)f->size * f->count;
    return size;
}

/* The host is little-endian, as a number is outside. */
void fields_put(const struct field *table, const void *object, uint8_t *out)
{
    for (const struct field *f = table; f->name; f++) {
        const uint8_t *p = (const uint8_t *)object + f->at;

        for (uint32_t i = 0; i < f->count; i++, out += f->size)
            memcpy(out, p + (size_t)i * f->stride, f->size);
    }
}

const struct field *fields_get(const struct field *table, void *object, const uint8_t *in)
{
    for (const struct field *f = table; f->name; f++) {
        uint8_t *p = (uint8_t *)object + f->at;

        for (uint32_t i = 0; i < f->count; i++, in += f->size) {
            uint64_t val = 0;

            memcpy(&val, in, f->size);
            if (val > f->max)
                return f;
            memcpy(p + (size_t)i * f->stride, in, f->size);
        }
    }
    return NULL;
}
