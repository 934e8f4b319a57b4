/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/cli/size.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "base/types.h"
#include "cli/size.h"

static void good_sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } table[] = {
        {"0", 0},
        {"512", MIB(512)},
        {"512M", MIB(512)},
        {"512m", MIB(512)},
        {"512MiB", MIB(512)},
        {"512mib", MIB(512)},
        {"2GiB", GIB(2)},
        {"2G", GIB(2)},
        {"1.5G", MIB(1536)},
        {"0.5", KIB(512)},
        {"1.25KiB", 1280},
        {"4096B", 4096},
        {"1.9B", 1},
        {"1T", GIB(1024)},
        {"0.3B", 0},
        {"1.000000000000000000G", GIB(1)},
        {"18446744073709551615B", UINT64_MAX},
        {"16777215T", 16777215ull << 40},
        {"007M", MIB(7)},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t n = 1;

        if (size_parse(table[i].text, &n) || n != table[i].bytes)
            fail_msg("%s gives %llu", table[i].text, (unsigned long long)n);
    }
}

static void bad_sizes(void **state)
{
    static const char *const table[] = {
        "",
        " 1",
        "-1",
        "+1",
        "M",
        ".5G",
        "1.",
        "1.G",
        "1..5G",
        "1,5G",
        "512MB",
        "512kb",
        "1BiB",
        "1 G",
        "1G ",
        "1GiBx",
        "0x10",
        "1e3",
        "1P",
        "1Gi",
        "nan",
        "16777216T",
        "18446744073709551616B",
        "99999999999999999999999",
        "1.0000000000000000000G",
        "18446744073709551615.9T",
        "17592186044416",
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t n = 77;

        if (size_parse(table[i], &n) != -EINVAL || n != 77)
            fail_msg("'%s' was taken as %llu", table[i], (unsigned long long)n);
    }
}

static void formats(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } table[] = {
        {0, "0B"},
        {1, "1B"},
        {1024, "1K"},
        {MIB(512), "512M"},
        {GIB(2), "2G"},
        {MIB(1536), "1536M"},
        {GIB(1024), "1T"},
        {GIB(1) + 1, "1.00G"},
        {MIB(3967) + KIB(612), "3.87G"},
        {UINT64_MAX, "16777216.00T"},
    };
    char buf[SIZE_TEXT];

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        assert_string_equal(size_format(table[i].bytes, buf), table[i].text);
}

/* What is printed for a whole number of units can be typed back. */
static void round_trip(void **state)
{
    char buf[SIZE_TEXT];

    for (uint64_t n = 1; n < 5000; n += 7) {
        for (unsigned shift = 0; shift <= 40; shift += 10) {
            uint64_t back;

            assert_int_equal(size_parse(size_format(n << shift, buf), &back), 0);
            assert_int_equal(back, n << shift);
        }
    }
}

static void bytes_without_a_unit(void **state)
{
    static const char *const bad[] = {
        "", "0", "0K", "x", "-1", "18446744073709551616", "1                                K"};
    uint64_t n = 0;

    assert_int_equal(size_parse_bytes("5000", &n), 0);
    assert_int_equal(n, 5000);
    assert_int_equal(size_parse_bytes("18446744073709551615", &n), 0);
    assert_true(n == UINT64_MAX);
    assert_int_equal(size_parse_bytes("1.5K", &n), 0);
    assert_int_equal(n, 1536);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        n = 77;
        if (size_parse_bytes(bad[i], &n) != -EINVAL || n != 77)
            fail_msg("'%s' was taken", bad[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_sizes),
        cmocka_unit_test(bad_sizes),
        cmocka_unit_test(formats),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(bytes_without_a_unit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
