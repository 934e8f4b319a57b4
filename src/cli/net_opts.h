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

/* One limit of a card, such as rate=20M. 1: there is no such limit; -EINVAL: it is wrong. */
int net_rate_word(struct net_rates *rates, const char *word, const char *val, struct err *err);

/* Do they go together? -EINVAL with the reason when not. */
int net_rates_check(const struct net_rates *rates, struct err *err);

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
