/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ports of the host that lead to ports of a guest, as people write them: [ADDR:]HOST:GUEST[/tcp|/udp]. */
#ifndef LODGE_NET_PUBLISH_H
#define LODGE_NET_PUBLISH_H

#include <netinet/in.h>

#include "base/err.h"
#include "base/types.h"

#define NET_MAX_PUBLISH 64

struct net_publish {
    bool udp, v6;
    struct in6_addr addr; /* of the host; its first four bytes when it is IPv4 */
    uint16_t host, guest; /* ports; host 0: any that is free */
};

/*
 * ADDR is an IPv4 address, an IPv6 address in brackets, or *, which is 0.0.0.0;
 * without it 127.0.0.1. -EINVAL with the reason.
 */
int net_publish_parse(const char *text, struct net_publish *publish, struct err *err);

/* The same with HOST alone: [ADDR:]HOST[/tcp|/udp]; for what is to be removed. The guest's port is left 0. */
int net_publish_parse_host(const char *text, struct net_publish *publish, struct err *err);

#define NET_PUBLISH_TEXT (INET6_ADDRSTRLEN + 24)

/* ADDR:HOST:GUEST/PROTOCOL, which net_publish_parse reads again. Returns buf. */
const char *net_publish_format(const struct net_publish *publish, char buf[NET_PUBLISH_TEXT]);

/* The host's side is the same: address, port and protocol. */
bool net_publish_same(const struct net_publish *a, const struct net_publish *b);

/* The host's side as a socket address; its length. */
socklen_t net_publish_sockaddr(const struct net_publish *publish, struct sockaddr_storage *addr);

/* A port of the address that nobody has now; libslirp would choose one, too, but not say which. -errno when there is none. */
int net_publish_free_port(const struct net_publish *publish, uint16_t *port);

#endif
