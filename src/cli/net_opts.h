/* SPDX-License-Identifier: GPL-2.0-or-later */
/* --net and --publish of `lodge run`. */
#ifndef LODGE_CLI_NET_OPTS_H
#define LODGE_CLI_NET_OPTS_H

#include "cli/opts.h"
#include "core/vm.h"

struct run_nets {
    bool none; /* --net none */
    unsigned count;
    struct vm_net net[VM_MAX_NETS];
    bool has_mac[VM_MAX_NETS];
};

struct run_publishes {
    unsigned count;
    struct net_publish list[NET_MAX_PUBLISH];
};

int opt_net(const struct opt_desc *opt, const char *val, void *field, struct err *err);
int opt_publish(const struct opt_desc *opt, const char *val, void *field, struct err *err);

/*
 * Settle what the options leave open, for a guest of this name: a card for published ports, MAC
 * addresses, names told by DHCP. -EINVAL when they contradict each other.
 */
int net_opts_settle(struct run_nets *nets, const struct run_publishes *publishes, const char *name,
                    struct err *err);

/* The MAC address of a guest's n-th card on the host with this ID: always the same, and nobody else's. */
void net_opts_mac(const char *host, unsigned uid, const char *name, unsigned n,
                  uint8_t mac[NET_MAC_LEN]);

#endif
