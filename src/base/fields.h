/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The numbers in a structure as a table, so that writing, reading and checking
 * them are one list. On the outside they are unsigned, little-endian, in the
 * table's order and without gaps.
 */
#ifndef LODGE_BASE_FIELDS_H
#define LODGE_BASE_FIELDS_H

#include "base/types.h"

struct field {
    const char *name;
    uint32_t at, stride, count; /* offset of the first, distance and number */
    uint8_t size;               /* of each: 1, 2, 4 or 8 bytes */
    uint64_t max;               /* the largest value that is right */
};

#define FIELD_SIZE(type, member) (sizeof(((type *)0)->member))

#define FIELD_MAX(type, member, most)                                                              \
    {                                                                                              \
        .name = #member, .at = offsetof(type, member), .count = 1,                                 \
        .size = FIELD_SIZE(type, member), .max = (most)                                            \
    }
#define FIELD(type, member)      FIELD_MAX(type, member, UINT64_MAX)
#define FIELD_BOOL(type, member) FIELD_MAX(type, member, 1)

/* An array of numbers. */
#define FIELD_ARRAY(type, member)                                                                  \
    {                                                                                              \
        .name = #member, .at = offsetof(type, member), .stride = FIELD_SIZE(type, member[0]),      \
        .count = FIELD_SIZE(type, member) / FIELD_SIZE(type, member[0]),                           \
        .size = FIELD_SIZE(type, member[0]), .max = UINT64_MAX                                     \
    }

/* `member` of each structure in the array `array`. */
#define FIELD_EACH_MAX(type, array, member, most)                                                  \
    {                                                                                              \
        .name = #array "[]." #member, .at = offsetof(type, array[0].member),                       \
        .stride = FIELD_SIZE(type, array[0]),                                                      \
        .count = FIELD_SIZE(type, array) / FIELD_SIZE(type, array[0]),                             \
        .size = FIELD_SIZE(type, array[0].member), .max = (most)                                   \
    }
#define FIELD_EACH(type, array, member)      FIELD_EACH_MAX(type, array, member, UINT64_MAX)
#define FIELD_EACH_BOOL(type, array, member) FIELD_EACH_MAX(type, array, member, 1)

/* A table ends with an entry that has no name. How many bytes its numbers take outside. */
size_t fields_size(const struct field *table);

/* Write those of `object` to `out`, which has room for fields_size of them. */
void fields_put(const struct field *table, const void *object, uint8_t *out);

/*
 * Read them into `object`, whose other bytes stay; `in` has fields_size bytes. NULL, or the first entry with a value
 * above its max: `object` is then changed in part and of no use.
 */
const struct field *fields_get(const struct field *table, void *object, const uint8_t *in);

#endif
