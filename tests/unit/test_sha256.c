/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/base/sha256.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/sha256.h"

static void sum(const void *data, size_t len, char hex[SHA256_HEX])
{
    struct sha256 s;

    sha256_init(&s);
    sha256_add(&s, data, len);
    sha256_hex(&s, hex);
}

/* NIST, examples for SHA-256. */
static void examples(void **state)
{
    static const struct {
        const char *text, *sum;
    } table[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[SHA256_HEX], *million = malloc(1000000);

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        sum(table[i].text, strlen(table[i].text), hex);
        assert_string_equal(hex, table[i].sum);
    }
    assert_non_null(million);
    memset(million, 'a', 1000000);
    sum(million, 1000000, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

/* However the bytes are cut, the sum is that of all of them; every length around the ends of blocks. */
static void pieces(void **state)
{
    uint8_t data[300];
    char whole[SHA256_HEX], cut[SHA256_HEX];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 37 + 11);
    for (size_t len = 0; len <= sizeof(data); len++) {
        sum(data, len, whole);
        for (size_t step = 1; step < 130; step += 7) {
            struct sha256 s;

            sha256_init(&s);
            for (size_t at = 0; at < len; at += step)
                sha256_add(&s, data + at, step < len - at ? step : len - at);
            sha256_hex(&s, cut);
            assert_string_equal(whole, cut);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(examples), cmocka_unit_test(pieces)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
