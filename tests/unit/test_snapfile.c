/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/snapfile.c src/base/ */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc32c.h"
#include "core/snapfile.h"

struct thing {
    uint8_t small;
    uint64_t large;
    bool flag;
    uint16_t list[3];
    struct {
        uint32_t a, b;
    } pair[2];
};

static const struct field thing_fields[] = {FIELD_MAX(struct thing, small, 100),
                                            FIELD(struct thing, large),
                                            FIELD_BOOL(struct thing, flag),
                                            FIELD_ARRAY(struct thing, list),
                                            FIELD_EACH(struct thing, pair, a),
                                            FIELD_EACH_MAX(struct thing, pair, b, 9),
                                            {.name = NULL}};

#define THING_SIZE (1 + 8 + 1 + 6 + 8 + 8)

static const struct thing thing = {.small = 100,
                                   .large = 0x1122334455667788,
                                   .flag = true,
                                   .list = {1, 2, 0xffff},
                                   .pair = {{10, 1}, {20, 9}}};

static void sums(void **state)
{
    uint8_t zeros[32] = {0};

    /* RFC 3720, appendix B.4 */
    assert_int_equal(crc32c(0, zeros, sizeof(zeros)), 0x8a9136aa);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
    assert_int_equal(crc32c(0, "", 0), 0);
}

static void numbers_have_their_places(void **state)
{
    uint8_t out[THING_SIZE];
    struct thing t = {0};

    assert_int_equal(fields_size(thing_fields), THING_SIZE);
    fields_put(thing_fields, &thing, out);
    assert_int_equal(out[0], 100);
    assert_int_equal(out[1], 0x88);
    assert_int_equal(out[8], 0x11);
    assert_int_equal(out[9], 1);
    assert_int_equal(out[14], 0xff);
    /* First one member of all, then the next. */
    assert_int_equal(out[16], 10);
    assert_int_equal(out[20], 20);
    assert_int_equal(out[24], 1);
    assert_null(fields_get(thing_fields, &t, out));
    assert_int_equal(t.large, thing.large);
    assert_memory_equal(t.list, thing.list, sizeof(t.list));
    assert_memory_equal(t.pair, thing.pair, sizeof(t.pair));
}

static void numbers_are_checked(void **state)
{
    uint8_t out[THING_SIZE];
    struct thing t;

    fields_put(thing_fields, &thing, out);
    out[0] = 101;
    assert_string_equal(fields_get(thing_fields, &t, out)->name, "small");
    out[0] = 0;
    out[9] = 2;
    assert_string_equal(fields_get(thing_fields, &t, out)->name, "flag");
    out[9] = 0;
    out[THING_SIZE - 1] = 1;
    assert_string_equal(fields_get(thing_fields, &t, out)->name, "pair[].b");
}

/* A file of three sections; its length. */
static size_t make(uint8_t *buf, size_t size)
{
    int fd = memfd_create("snapfile", MFD_CLOEXEC);
    struct snapfile_out out;
    ssize_t n;

    snapfile_begin(&out);
    snapfile_add(&out, "thing", 0, thing_fields, &thing);
    snapfile_add(&out, "thing", 7, thing_fields, &thing);
    snapfile_add_bytes(&out, "bytes", 0, "hello", 5);
    assert_int_equal(snapfile_finish(&out, fd, NULL), 0);
    n = pread(fd, buf, size, 0);
    assert_true(n > 0 && (size_t)n < size);
    close(fd);
    return (size_t)n;
}

static void what_was_written_is_read(void **state)
{
    const struct snapfile_section *s;
    struct thing t = {0};
    uint8_t buf[4096];
    struct snapfile f;
    struct err err = {0};

    assert_int_equal(snapfile_parse(&f, buf, make(buf, sizeof(buf)), &err), 0);
    assert_int_equal(f.count, 3);
    assert_int_equal(snapfile_get(&f, "thing", 7, thing_fields, &t, &err), 0);
    assert_int_equal(t.large, thing.large);
    assert_int_equal(snapfile_get(&f, "thing", 1, thing_fields, &t, &err), -EINVAL);
    assert_int_equal(snapfile_get(&f, "bytes", 0, thing_fields, &t, &err), -EINVAL);
    s = snapfile_find(&f, "bytes", 0);
    assert_int_equal(s->len, 5);
    assert_memory_equal(s->data, "hello", 5);
    /* Nobody has asked for thing 0. */
    assert_int_equal(snapfile_all_used(&f, &err), -EINVAL);
    snapfile_find(&f, "thing", 0);
    assert_int_equal(snapfile_all_used(&f, &err), 0);
    snapfile_fini(&f);
    snapfile_fini(&f);
}

static void no_byte_can_change(void **state)
{
    uint8_t buf[4096];
    size_t len = make(buf, sizeof(buf));
    struct err err = {0};

    for (size_t i = 0; i < len; i++) {
        struct snapfile f;

        for (unsigned bit = 0; bit < 8; bit++) {
            buf[i] ^= (uint8_t)(1u << bit);
            assert_int_equal(snapfile_parse(&f, buf, len, &err), -EINVAL);
            buf[i] ^= (uint8_t)(1u << bit);
        }
    }
}

static void nothing_can_be_missing(void **state)
{
    uint8_t buf[4096] = {0};
    size_t len = make(buf, sizeof(buf));
    struct err err = {0};
    struct snapfile f;

    for (size_t n = 0; n < len; n++)
        assert_int_equal(snapfile_parse(&f, buf, n, &err), -EINVAL);
    assert_int_equal(snapfile_parse(&f, buf, len + 1, &err), -EINVAL);
    assert_int_equal(snapfile_parse(&f, buf, len, &err), 0);
    snapfile_fini(&f);
}

/* With sums that are right: somebody has made it so. */
static void seal(uint8_t *buf, size_t len)
{
    size_t at = 32;
    uint32_t sum;

    while (at + 48 <= len) {
        uint64_t n;

        memcpy(&n, buf + at + 32, 8);
        if (n > len - at - 48)
            n = len - at - 48;
        sum = crc32c(0, buf + at + 48, n);
        memcpy(buf + at + 40, &sum, 4);
        sum = crc32c(0, buf + at, 44);
        memcpy(buf + at + 44, &sum, 4);
        at += 48 + n;
    }
    sum = crc32c(0, buf, 28);
    memcpy(buf + 28, &sum, 4);
}

static void hostile_files_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint8_t val;
        const char *why;
    } table[] = {
        {0, 'X', "this is no saved state"},
        {8, 3, "version 3"},
        {12, 4, "cut off"},           /* sections */
        {12, 2, "behind its last"},   /* fewer than there are */
        {13, 0xff, "too many"},       /* many more */
        {16, 0xff, "end is missing"}, /* the file's size */
        {32, 0, "head of a section"}, /* a name that is empty */
        {32, 0x1b, "head of a section"},
        {32 + 4, 'A', "head of a section"},
        {32 + 23, 'x', "head of a section"}, /* without an end */
        {32 + 39, 0x80, "cut off"},          /* its length */
        {32 + 48 + THING_SIZE + 24, 0, "twice"},
    };
    uint8_t buf[4096];
    size_t len = make(buf, sizeof(buf));

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint8_t was = buf[table[i].at];
        struct err err = {0};
        struct snapfile f;

        buf[table[i].at] = table[i].val;
        seal(buf, len);
        assert_int_equal(snapfile_parse(&f, buf, len, &err), -EINVAL);
        if (!strstr(err.what, table[i].why))
            fail_msg("%zu: %s instead of %s", i, err.what, table[i].why);
        make(buf, sizeof(buf));
        assert_int_equal(buf[table[i].at], was);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums),
        cmocka_unit_test(numbers_have_their_places),
        cmocka_unit_test(numbers_are_checked),
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(no_byte_can_change),
        cmocka_unit_test(nothing_can_be_missing),
        cmocka_unit_test(hostile_files_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
