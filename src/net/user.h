/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A network made of nothing but this process's own sockets (libslirp): a
 * router at `host` that gives out addresses, forwards DNS queries, and opens a
 * socket for each connection of the guest. Needs no privilege.
 *
 * Segments go both ways as large as the card takes them: the guest's own are
 * handed to libslirp whole, and those that libslirp makes at one go are put
 * together again before the guest gets them.
 */
#ifndef LODGE_NET_USER_H
#define LODGE_NET_USER_H

#include <netinet/in.h>

#include "net/net.h"
#include "net/publish.h"

#define NET_USER_HOSTNAME 32 /* characters of the name that DHCP tells */
#define NET_USER_DOMAIN   100

struct net_user_config {
    bool ipv4, ipv6;
    bool restricted;  /* nothing but published ports */
    bool no_loopback; /* the host's own loopback addresses can't be reached through the router */
    struct in_addr net, mask, host, dns, dhcp; /* dhcp: what the guest gets */
    char hostname[NET_USER_HOSTNAME + 1];      /* empty: none */
    char domain[NET_USER_DOMAIN + 1];          /* empty: none */
    struct net_publish publish[NET_MAX_PUBLISH];
    unsigned publishes;
};

/* 10.0.2.0/24 with the router at .2, DNS at .3, the guest at .15, and IPv6. */
void net_user_defaults(struct net_user_config *cfg);

/* Another IPv4 network, with the three addresses in the same places. -EINVAL: it has no room for them. */
int net_user_set_net(struct net_user_config *cfg, struct in_addr net, unsigned prefix);

/* Are the addresses different ones of the network? -EINVAL with the reason. */
int net_user_check(const struct net_user_config *cfg, struct err *err);

/* Open the published ports. On failure nothing is held. */
int net_user_new(struct net **net, const struct net_user_config *cfg, struct err *err);

bool net_is_user(const struct net *net);

/*
 * Publish a port, or no longer, while the guest runs; connections that there
 * are stay. Any thread. Adding puts the port that was chosen for port 0 in
 * *publish. -EADDRINUSE and others of bind; -ENOENT: it was not published.
 */
int net_user_publish(struct net *net, struct net_publish *publish, struct err *err);
int net_user_unpublish(struct net *net, const struct net_publish *publish, struct err *err);

/* Copy what is published to list[0..NET_MAX_PUBLISH); how many. Any thread. */
unsigned net_user_published(struct net *net, struct net_publish *list);

#endif
