/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <arpa/inet.h>
#include <errno.h>

#include "net/user.h"

void net_user_defaults(struct net_user_config *cfg)
{
    *cfg = (struct net_user_config){.ipv4 = true, .ipv6 = true};
    net_user_set_net(cfg, (struct in_addr){htonl(0x0a000200)}, 24);
}

int net_user_set_net(struct net_user_config *cfg, struct in_addr net, unsigned prefix)
{
    uint32_t mask, base;

    if (prefix < 8 || prefix > 27)
        return -EINVAL;
    mask = ~0u << (32 - prefix);
    base = ntohl(net.s_addr) & mask;
    cfg->mask.s_addr = htonl(mask);
    cfg->net.s_addr = htonl(base);
    cfg->host.s_addr = htonl(base + 2);
    cfg->dns.s_addr = htonl(base + 3);
    cfg->dhcp.s_addr = htonl(base + 15);
    return 0;
}

int net_user_check(const struct net_user_config *cfg, struct err *err)
{
    const struct {
        const char *name;
        struct in_addr addr;
    } table[] = {{"host", cfg->host}, {"dns", cfg->dns}, {"dhcp", cfg->dhcp}};
    char text[INET_ADDRSTRLEN];

    if (!cfg->ipv4 && !cfg->ipv6)
        return err_set(err, -EINVAL, "a network needs IPv4 or IPv6");
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        uint32_t addr = ntohl(table[i].addr.s_addr), mask = ntohl(cfg->mask.s_addr);

        inet_ntop(AF_INET, &table[i].addr, text, sizeof(text));
        if ((addr & mask) != ntohl(cfg->net.s_addr) || !(addr & ~mask) || !(~addr & ~mask))
            return err_set(err, -EINVAL, "%s=%s is no host's address in the guest's network",
                           table[i].name, text);
        for (unsigned k = 0; k < i; k++)
            if (table[k].addr.s_addr == table[i].addr.s_addr)
                return err_set(err, -EINVAL, "%s= and %s= are the same address, %s", table[k].name,
                               table[i].name, text);
    }
    return 0;
}
