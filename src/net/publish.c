/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/publish.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST 100 /* characters of a text that can be right */

static int refuse(const char *text, const char *why, struct err *err)
{
    err_set(err, -EINVAL, "'%.120s' publishes no port: %s", text, why);
    err_next(err, "Write [ADDRESS:]HOST:GUEST[/udp], like 2222:22, 0.0.0.0:8080:80, "
                  "[::1]:5353:53/udp.");
    return -EINVAL;
}

static bool parse_port(const char *text, unsigned min, uint16_t *port)
{
    size_t len = strlen(text);
    unsigned long n;

    if (!len || len > 5 || strspn(text, "0123456789") != len)
        return false;
    n = strtoul(text, NULL, 10);
    if (n < min || n > 65535)
        return false;
    *port = (uint16_t)n;
    return true;
}

static bool parse_addr(char *text, struct net_publish *p)
{
    size_t len = strlen(text);

    if (text[0] == '[') {
        p->v6 = true;
        if (text[len - 1] != ']')
            return false;
        text[len - 1] = '\0';
        return inet_pton(AF_INET6, text + 1, &p->addr) == 1;
    }
    return !strcmp(text, "*") || inet_pton(AF_INET, text, &p->addr) == 1;
}

/* Cut `text` at its last colon outside brackets; what is behind it, or NULL when there is none. */
static char *cut_last(char *text)
{
    char *colon = strrchr(text, ':'), *bracket = strrchr(text, ']');

    if (!colon || (bracket && colon < bracket))
        return NULL;
    *colon = '\0';
    return colon + 1;
}

static int parse(const char *text, bool guest, struct net_publish *p, struct err *err)
{
    static const uint8_t loopback[4] = {127, 0, 0, 1};
    char copy[MOST + 1], *proto, *port, *host;

    memset(p, 0, sizeof(*p));
    if (strlen(text) > MOST)
        return refuse(text, "it is too long", err);
    strcpy(copy, text);
    proto = strchr(copy, '/');
    if (proto)
        *proto++ = '\0';
    if (proto && strcmp(proto, "udp") && strcmp(proto, "tcp"))
        return refuse(text, "the protocol is neither tcp nor udp", err);
    p->udp = proto && proto[0] == 'u';
    if (guest) {
        port = cut_last(copy);
        if (!port)
            return refuse(text, "the guest's port is missing", err);
        if (!parse_port(port, 1, &p->guest))
            return refuse(text, "the guest's port is no number from 1 to 65535", err);
    }
    host = cut_last(copy);
    if (!parse_port(host ? host : copy, guest ? 0 : 1, &p->host))
        return refuse(text,
                      guest ? "the host's port is no number up to 65535"
                            : "the host's port is no number from 1 to 65535",
                      err);
    if (!host)
        memcpy(&p->addr, loopback, sizeof(loopback));
    else if (!parse_addr(copy, p))
        return refuse(text, "the address is not like 127.0.0.1, [::1] or *", err);
    return 0;
}

int net_publish_parse(const char *text, struct net_publish *publish, struct err *err)
{
    return parse(text, true, publish, err);
}

int net_publish_parse_host(const char *text, struct net_publish *publish, struct err *err)
{
    return parse(text, false, publish, err);
}

const char *net_publish_format(const struct net_publish *p, char buf[NET_PUBLISH_TEXT])
{
    char addr[INET6_ADDRSTRLEN] = "?";

    inet_ntop(p->v6 ? AF_INET6 : AF_INET, &p->addr, addr, sizeof(addr));
    snprintf(buf, NET_PUBLISH_TEXT, p->v6 ? "[%s]:%u:%u/%s" : "%s:%u:%u/%s", addr, p->host,
             p->guest, p->udp ? "udp" : "tcp");
    return buf;
}

bool net_publish_same(const struct net_publish *a, const struct net_publish *b)
{
    return a->udp == b->udp && a->v6 == b->v6 && a->host == b->host &&
           !memcmp(&a->addr, &b->addr, a->v6 ? 16 : 4);
}

socklen_t net_publish_sockaddr(const struct net_publish *p, struct sockaddr_storage *addr)
{
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)addr;
    struct sockaddr_in *in = (struct sockaddr_in *)addr;

    memset(addr, 0, sizeof(*addr));
    if (p->v6) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(p->host);
        in6->sin6_addr = p->addr;
        return sizeof(*in6);
    }
    in->sin_family = AF_INET;
    in->sin_port = htons(p->host);
    memcpy(&in->sin_addr, &p->addr, sizeof(in->sin_addr));
    return sizeof(*in);
}

int net_publish_free_port(const struct net_publish *p, uint16_t *port)
{
    struct sockaddr_storage addr;
    socklen_t len = net_publish_sockaddr(p, &addr);
    int fd = socket(addr.ss_family, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    int code = 0;

    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&addr, len) < 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &len) < 0)
        code = -errno;
    close(fd);
    *port = ntohs(p->v6 ? ((struct sockaddr_in6 *)&addr)->sin6_port
                        : ((struct sockaddr_in *)&addr)->sin_port);
    return code;
}
