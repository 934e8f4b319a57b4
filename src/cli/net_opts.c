/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/net_opts.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/registry.h"
#include "cli/size.h"
#include "dev/virtio/net.h"
#include "net/tap.h"

/* ---- --net KIND[,WORD]... ------------------------------------------------------------ */

static int parse_addr(const char *key, const char *val, struct in_addr *addr, struct err *err)
{
    if (inet_pton(AF_INET, val, addr) == 1)
        return 0;
    return err_set(err, -EINVAL, "%s= takes an IPv4 address, not '%s'", key, val);
}

static int parse_switch(const char *key, const char *val, bool *on, struct err *err)
{
    *on = !strcmp(val, "on");
    if (*on || !strcmp(val, "off"))
        return 0;
    return err_set(err, -EINVAL, "%s= is on or off, not '%s'", key, val);
}

static int parse_mac(const char *val, uint8_t mac[NET_MAC_LEN], struct err *err)
{
    unsigned b[NET_MAC_LEN];
    int used = 0;

    if (strlen(val) == 3 * NET_MAC_LEN - 1 &&
        strspn(val, "0123456789abcdefABCDEF:") == strlen(val) &&
        sscanf(val, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &used) ==
            NET_MAC_LEN &&
        !val[used]) {
        unsigned any = 0;

        for (unsigned i = 0; i < NET_MAC_LEN; i++)
            any |= mac[i] = (uint8_t)b[i];
        if (any && !(mac[0] & 1))
            return 0;
    }
    err_set(err, -EINVAL, "mac= takes the MAC address of one card, not '%s'", val);
    err_next(err, "Write it like 52:54:00:12:34:56; the first byte is even.");
    return -EINVAL;
}

static int parse_net(const char *val, struct net_user_config *user, struct err *err)
{
    struct in_addr net;
    char addr[INET_ADDRSTRLEN];
    const char *slash = strchr(val, '/');
    char *end = NULL;
    unsigned long prefix = slash ? strtoul(slash + 1, &end, 10) : 24;
    size_t len = slash ? (size_t)(slash - val) : strlen(val);

    if (len < sizeof(addr) && !(slash && (!slash[1] || *end || slash[1] == '-'))) {
        memcpy(addr, val, len);
        addr[len] = '\0';
        if (inet_pton(AF_INET, addr, &net) == 1 && prefix <= 32 &&
            !net_user_set_net(user, net, (unsigned)prefix))
            return 0;
    }
    err_set(err, -EINVAL, "net= takes an IPv4 network, not '%s'", val);
    err_next(err, "Write it like 10.0.2.0/24; the prefix is from 8 to 27.");
    return -EINVAL;
}

static int parse_name(const char *key, const char *val, char *to, size_t size, struct err *err)
{
    size_t len = strlen(val);

    if (len < size && strspn(val, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "-_.") == len) {
        memcpy(to, val, len + 1);
        return 0;
    }
    return err_set(err, -EINVAL,
                   "%s= takes a name of letters, digits, '-', '_' and '.', at most %zu, not '%s'",
                   key, size - 1, val);
}

static int parse_size(const char *key, const char *val, uint64_t *size, struct err *err)
{
    if (!size_parse_bytes(val, size))
        return 0;
    err_set(err, -EINVAL, "%s= takes a number of bytes%s, not '%s'", key,
            !strcmp(key, "burst") ? "" : " a second", val);
    return err_next(err, "Write it with its unit, like 500K or 20M.");
}

static int parse_queues(const char *val, unsigned *queues, struct err *err)
{
    char *end;
    unsigned long n = strtoul(val, &end, 10);

    if (*val >= '1' && *val <= '9' && !*end && n <= VIRTIO_NET_PAIRS) {
        *queues = (unsigned)n;
        return 0;
    }
    return err_set(err, -EINVAL, "queues= is from 1 to %d, not '%s'", VIRTIO_NET_PAIRS, val);
}

int net_rate_word(struct net_rates *rates, const char *key, const char *val, struct err *err)
{
    int r;

    if (!strcmp(key, "rate_in"))
        return parse_size(key, val, &rates->rate[NET_IN], err);
    if (!strcmp(key, "rate_out"))
        return parse_size(key, val, &rates->rate[NET_OUT], err);
    if (!strcmp(key, "burst"))
        return parse_size(key, val, &rates->burst, err);
    if (strcmp(key, "rate"))
        return 1;
    r = parse_size(key, val, &rates->rate[NET_IN], err);
    rates->rate[NET_OUT] = rates->rate[NET_IN];
    return r;
}

int net_rates_check(const struct net_rates *rates, struct err *err)
{
    if (!rates->burst || rates->rate[NET_IN] || rates->rate[NET_OUT])
        return 0;
    return err_set(err, -EINVAL, "burst= of a card goes with rate=, rate_in= or rate_out=");
}

/* What cards on every network know. 1: it is none of that. */
static int card_word(struct run_nets *nets, const char *key, const char *val, struct err *err)
{
    struct vm_net *net = &nets->net[nets->count];

    if (!strcmp(key, "mac")) {
        nets->has_mac[nets->count] = true;
        return parse_mac(val, net->mac, err);
    }
    if (!strcmp(key, "queues"))
        return parse_queues(val, &net->queues, err);
    return net_rate_word(&net->rates, key, val, err);
}

/* One KEY=VALUE of --net user. The addresses that net= sets can be changed by what comes behind it. */
static int user_word(struct run_nets *nets, const char *key, const char *val, struct err *err)
{
    struct net_user_config *user = &nets->net[nets->count].user;
    bool on;
    int r;

    if (!strcmp(key, "net"))
        return parse_net(val, user, err);
    if (!strcmp(key, "host"))
        return parse_addr(key, val, &user->host, err);
    if (!strcmp(key, "dns"))
        return parse_addr(key, val, &user->dns, err);
    if (!strcmp(key, "dhcp"))
        return parse_addr(key, val, &user->dhcp, err);
    if (!strcmp(key, "hostname"))
        return parse_name(key, val, user->hostname, sizeof(user->hostname), err);
    if (!strcmp(key, "domain"))
        return parse_name(key, val, user->domain, sizeof(user->domain), err);
    if (!strcmp(key, "restrict"))
        return parse_switch(key, val, &user->restricted, err);
    if (!strcmp(key, "ipv4"))
        return parse_switch(key, val, &user->ipv4, err);
    if (!strcmp(key, "ipv6"))
        return parse_switch(key, val, &user->ipv6, err);
    if (!strcmp(key, "loopback")) {
        r = parse_switch(key, val, &on, err);
        user->no_loopback = !on;
        return r;
    }
    err_set(err, -EINVAL, "--net user does not know '%s'", key);
    err_next(err, "It knows mac, rate, rate_in, rate_out, burst, queues, net, host, dns, dhcp, "
                  "hostname, domain, restrict, loopback, ipv4 and ipv6, as in "
                  "user,mac=52:54:00:12:34:56.");
    return -EINVAL;
}

/* A card on anything but the user's network has no more than what all cards have. */
static int other_word(const char *key, struct err *err)
{
    err_set(err, -EINVAL, "only --net user knows '%s'", key);
    err_next(err, "This network knows mac, rate, rate_in, rate_out, burst and queues, as in "
                  "mac=52:54:00:12:34:56.");
    return -EINVAL;
}

static int parse_words(struct run_nets *nets, char *words, struct err *err)
{
    struct vm_net *net = &nets->net[nets->count];
    char *rest = NULL;
    int r = 0;

    for (char *word = strtok_r(words, ",", &rest); !r && word; word = strtok_r(NULL, ",", &rest)) {
        char *val = strchr(word, '=');

        if (val)
            *val++ = '\0';
        r = card_word(nets, word, val ? val : "", err);
        if (r > 0)
            r = net->kind == VM_NET_USER ? user_word(nets, word, val ? val : "", err)
                                         : other_word(word, err);
    }
    if (!r)
        r = net_rates_check(&net->rates, err);
    return r || net->kind != VM_NET_USER ? r : net_user_check(&net->user, err);
}

static int parse_interface(const char *name, struct err *err)
{
    size_t len = strlen(name);

    if (len && len <= NET_TAP_NAME && strcspn(name, "/: \t%") == len && strcmp(name, ".") &&
        strcmp(name, ".."))
        return 0;
    return err_set(err, -EINVAL, "'%.60s' is no name of a network interface", name);
}

/* What a card is plugged into: the word before the first comma. */
static int parse_kind(struct vm_net *net, const char *word, struct err *err)
{
    static const struct {
        const char *prefix;
        enum vm_net_kind kind;
    } table[] = {{"switch=", VM_NET_SWITCH}, {"tap=", VM_NET_TAP}, {"bridge=", VM_NET_BRIDGE}};
    int r;

    if (!strcmp(word, "user"))
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const char *name = word + strlen(table[i].prefix);

        if (strncmp(word, table[i].prefix, strlen(table[i].prefix)))
            continue;
        net->kind = table[i].kind;
        r = net->kind == VM_NET_SWITCH ? net_switch_check_name(name, err)
                                       : parse_interface(name, err);
        if (!r)
            snprintf(net->name, sizeof(net->name), "%s", name);
        return r;
    }
    err_set(err, -EINVAL, "--net does not know the network '%.60s'", word);
    err_next(err, "It is user, switch=NAME, tap=INTERFACE, bridge=BRIDGE or none.");
    return -EINVAL;
}

int opt_net(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    struct run_nets *nets = field;
    char *words, *rest;
    int r;

    if (!strcmp(val, "none")) {
        nets->none = true;
        return 0;
    }
    if (nets->count == VM_MAX_NETS)
        return err_set(err, -EINVAL, "a guest has at most %d network cards", VM_MAX_NETS);
    words = strdup(val);
    if (!words)
        return err_set(err, -EINVAL, "no memory for --net");
    memset(&nets->net[nets->count], 0, sizeof(nets->net[0]));
    net_user_defaults(&nets->net[nets->count].user);
    rest = words + strcspn(words, ",");
    if (*rest)
        *rest++ = '\0';
    r = parse_kind(&nets->net[nets->count], words, err);
    if (!r)
        r = parse_words(nets, rest, err);
    free(words);
    if (!r)
        nets->count++;
    return r;
}

int opt_publish(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    struct run_publishes *p = field;

    if (p->count == NET_MAX_PUBLISH)
        return err_set(err, -EINVAL, "a guest has at most %d published ports", NET_MAX_PUBLISH);
    return net_publish_parse(val, &p->list[p->count++], err);
}

/* ---- What is left open ----------------------------------------------------------------- */

static uint64_t hash(uint64_t h, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;

    while (len--)
        h = (h ^ *p++) * 1099511628211ull; /* FNV-1a */
    return h;
}

void net_opts_mac(const char *host, unsigned uid, const char *name, unsigned n,
                  uint8_t mac[NET_MAC_LEN])
{
    uint64_t h = 14695981039346656037ull;

    h = hash(h, host, strlen(host) + 1);
    h = hash(h, &uid, sizeof(uid));
    h = hash(h, name, strlen(name) + 1);
    h = hash(h, &n, sizeof(n));
    h ^= h >> 48;
    for (unsigned i = 0; i < NET_MAC_LEN; i++)
        mac[i] = (uint8_t)(h >> 8 * i);
    mac[0] = (uint8_t)((mac[0] & 0xfc) | 2); /* locally administered, of one card */
}

/* A text that tells this host from others; empty when it has none. */
static void host_id(char *buf, int size)
{
    FILE *file = fopen("/etc/machine-id", "re");

    buf[0] = '\0';
    if (!file)
        return;
    if (!fgets(buf, size, file))
        buf[0] = '\0';
    fclose(file);
}

static int switch_base(struct vm_net *net, struct err *err)
{
    char base[256];
    int r = registry_base(base, sizeof(base), err), n;

    if (r)
        return r;
    n = snprintf(net->base, sizeof(net->base), "%s-net", base);
    if (n > 0 && (size_t)n < sizeof(net->base) - NET_SWITCH_NAME - 1)
        return 0;
    err_set(err, -ENAMETOOLONG, "%s has too long a name for a network's sockets below it", base);
    err_next(err, "Set XDG_RUNTIME_DIR to a shorter one.");
    return -ENAMETOOLONG;
}

static int settle_one(struct vm_net *net, bool has_mac, const char *name, unsigned n,
                      struct err *err)
{
    char host[64];

    host_id(host, sizeof(host));
    if (!has_mac)
        net_opts_mac(host, geteuid(), name, n, net->mac);
    if (!net->user.hostname[0])
        snprintf(net->user.hostname, sizeof(net->user.hostname), "%.*s", NET_USER_HOSTNAME, name);
    return net->kind == VM_NET_SWITCH ? switch_base(net, err) : 0;
}

int net_opts_settle(struct run_nets *nets, const struct run_publishes *publishes, const char *name,
                    struct err *err)
{
    unsigned user;
    int r = 0;

    if (nets->none && nets->count)
        return err_set(err, -EINVAL, "--net none contradicts the other --net");
    if (nets->none && publishes->count) {
        err_set(err, -EINVAL, "--publish needs a network, and --net none says that there is none");
        err_next(err, "Leave --net none away; --publish then gives the guest --net user.");
        return -EINVAL;
    }
    if (publishes->count && !nets->count)
        net_user_defaults(&nets->net[nets->count++].user);
    for (unsigned n = 0; !r && n < nets->count; n++)
        r = settle_one(&nets->net[n], nets->has_mac[n], name, n, err);
    for (user = 0; user < nets->count && nets->net[user].kind != VM_NET_USER;)
        user++;
    if (r || !publishes->count)
        return r;
    if (user == nets->count) {
        err_set(err, -EINVAL, "--publish needs a card on the user's network");
        err_next(err, "Add --net user.");
        return -EINVAL;
    }
    nets->net[user].user.publishes = publishes->count;
    memcpy(nets->net[user].user.publish, publishes->list, sizeof(publishes->list));
    return 0;
}
