/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/net/publish.c src/base/err.c */
/* Published ports as people write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>

#include "net/publish.h"

static void reads_and_writes(void **state)
{
    static const struct {
        const char *in, *out;
    } table[] = {
        {"2222:22", "127.0.0.1:2222:22/tcp"},         {"0:22", "127.0.0.1:0:22/tcp"},
        {"8080:80/tcp", "127.0.0.1:8080:80/tcp"},     {"53:5353/udp", "127.0.0.1:53:5353/udp"},
        {"*:65535:65535", "0.0.0.0:65535:65535/tcp"}, {"192.168.1.9:1:2", "192.168.1.9:1:2/tcp"},
        {"[::1]:80:8080", "[::1]:80:8080/tcp"},       {"[::]:1:2/udp", "[::]:1:2/udp"},
        {"[fe80::1:2]:1:2", "[fe80::1:2]:1:2/tcp"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct net_publish p, again;
        char text[NET_PUBLISH_TEXT];
        struct err err = {0};

        if (net_publish_parse(table[i].in, &p, &err))
            fail_msg("%s: %s", table[i].in, err.what);
        assert_string_equal(net_publish_format(&p, text), table[i].out);
        assert_int_equal(net_publish_parse(text, &again, &err), 0);
        assert_memory_equal(&p, &again, sizeof(p));
        assert_true(net_publish_same(&p, &again));
    }
}

static void refuses(void **state)
{
    static const char *const table[] = {
        "",           ":",          "22",         "2222:",         ":22",
        "a:22",       "22:a",       "2222:0",     "65536:22",      "22:65536",
        "-1:22",      "+1:22",      " 1:22",      "1:22 ",         "1:22/sctp",
        "1:22/",      "1:22/udp/",  "1.2.3:1:2",  "1.2.3.4.5:1:2", "::1:80:80",
        "[::1:80:80", "::1]:80:80", "[::1]80:80", "[]:80:80",      "[1.2.3.4]:80:80",
        "host:80:80", ":80:80",     "000022:22",
    };
    char longer[300];
    struct net_publish p;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct err err = {0};

        if (net_publish_parse(table[i], &p, &err) != -EINVAL)
            fail_msg("'%s' was taken", table[i]);
        assert_non_null(strstr(err.what, table[i]));
        assert_non_null(strstr(err.next, "2222:22"));
    }
    memset(longer, '1', sizeof(longer));
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(net_publish_parse(longer, &p, NULL), -EINVAL);
}

static void host_side_alone(void **state)
{
    struct net_publish a, b;

    assert_int_equal(net_publish_parse("0.0.0.0:53:5353/udp", &a, NULL), 0);
    assert_int_equal(net_publish_parse_host("*:53/udp", &b, NULL), 0);
    assert_true(net_publish_same(&a, &b));
    assert_int_equal(net_publish_parse_host("*:53", &b, NULL), 0);
    assert_false(net_publish_same(&a, &b));
    assert_int_equal(net_publish_parse_host("53/udp", &b, NULL), 0);
    assert_false(net_publish_same(&a, &b));
    assert_int_equal(net_publish_parse_host("[::1]:53", &b, NULL), 0);
    assert_int_equal(net_publish_parse_host("0", &b, NULL), -EINVAL);
    assert_int_equal(net_publish_parse_host("", &b, NULL), -EINVAL);
}

static void socket_addresses(void **state)
{
    struct sockaddr_storage addr;
    struct net_publish p;

    assert_int_equal(net_publish_parse("10.1.2.3:258:22", &p, NULL), 0);
    assert_int_equal(net_publish_sockaddr(&p, &addr), sizeof(struct sockaddr_in));
    assert_int_equal(((struct sockaddr_in *)&addr)->sin_addr.s_addr, htonl(0x0a010203));
    assert_int_equal(((struct sockaddr_in *)&addr)->sin_port, htons(258));
    assert_int_equal(net_publish_parse("[::1]:258:22", &p, NULL), 0);
    assert_int_equal(net_publish_sockaddr(&p, &addr), sizeof(struct sockaddr_in6));
    assert_memory_equal(&((struct sockaddr_in6 *)&addr)->sin6_addr, &in6addr_loopback, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_writes),
        cmocka_unit_test(refuses),
        cmocka_unit_test(host_side_alone),
        cmocka_unit_test(socket_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
