/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/commands_net.h"

#include <arpa/inet.h>
#include <errno.h>

#include "core/machine.h"
#include "net/user.h"

const struct proto_arg control_publish_args[] = {{"port", PROTO_STRING, true}, {NULL}};

/* The first card on the user's network: ports lead there. */
static int user_net(struct control_call *call, struct net **net, struct err *err)
{
    for (unsigned n = 0; n < VM_MAX_NETS; n++) {
        *net = machine_net(call->cfg->vm, n);
        if (*net && net_is_user(*net))
            return 0;
    }
    *net = NULL;
    err_set(err, -ENODEV, "the guest has no card on the user's network");
    err_next(err, "Give it one with --net user when it is started.");
    return -ENODEV;
}

static json_t *port_object(const struct net_publish *p)
{
    char addr[INET6_ADDRSTRLEN] = "";

    inet_ntop(p->v6 ? AF_INET6 : AF_INET, &p->addr, addr, sizeof(addr));
    return json_pack("{s:s, s:s, s:i, s:i}", "protocol", p->udp ? "udp" : "tcp", "address", addr,
                     "host", p->host, "guest", p->guest);
}

static int no_memory(struct err *err)
{
    return err_set(err, -ENOMEM, "no memory for the answer");
}

int control_ports(struct control_call *call, struct err *err)
{
    struct net_publish list[NET_MAX_PUBLISH];
    json_t *ports = json_array();
    struct net *net;
    unsigned n;

    if (json_object_set_new(call->result, "ports", ports))
        return no_memory(err);
    if (user_net(call, &net, NULL) < 0)
        return 0;
    n = net_user_published(net, list);
    for (unsigned i = 0; i < n; i++)
        if (json_array_append_new(ports, port_object(&list[i])))
            return no_memory(err);
    return 0;
}

int control_publish(struct control_call *call, struct err *err)
{
    const char *text = json_string_value(json_object_get(call->args, "port"));
    struct net_publish p;
    struct net *net;
    int r = user_net(call, &net, err);

    if (!r)
        r = net_publish_parse(text, &p, err);
    if (!r)
        r = net_user_publish(net, &p, err);
    if (!r && json_object_set_new(call->result, "port", port_object(&p)))
        r = no_memory(err);
    return r;
}

int control_unpublish(struct control_call *call, struct err *err)
{
    const char *text = json_string_value(json_object_get(call->args, "port"));
    struct net_publish p;
    struct net *net;
    int r = user_net(call, &net, err);

    /* The guest's port may be left out. */
    if (!r && net_publish_parse(text, &p, err) < 0)
        r = net_publish_parse_host(text, &p, NULL) < 0 ? -EINVAL : 0;
    return r ? r : net_user_unpublish(net, &p, err);
}
