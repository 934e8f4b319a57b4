/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"
#include "net/switch_wire.h"

#define BATCH 64

_Static_assert(sizeof(struct net_offload) == 10, "Linux's struct virtio_net_hdr");

struct tap {
    struct net net;
    int fd, wake_fd;
    pthread_t thread;
    bool started, refused;
    _Atomic bool stop, full; /* the card had no room for the frame in `bytes` */
    size_t len;
    struct net_offload offload;
    uint8_t bytes[NET_FRAME_MAX], piece[NET_FRAME_MAX];
};

static struct tap *tap_of(struct net *net)
{
    return container_of(net, struct tap, net);
}

static void wake(struct tap *t)
{
    const uint64_t one = 1;

    while (write(t->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* ---- To the guest ---------------------------------------------------------------------- */

static void to_card(void *opaque, const struct net_offload *o, const uint8_t *bytes, size_t len)
{
    struct tap *t = opaque;
    const struct iovec iov = {(void *)bytes, len};
    const struct net_frame frame = {.offload = *o, .iov = &iov, .iovcnt = 1, .len = len};

    t->refused |= !t->net.card_ops->receive(t->net.card, &frame);
}

static bool hand_over(struct tap *t)
{
    unsigned takes = atomic_load(&t->net.card_takes);

    t->offload.flags &= NET_NEEDS_CSUM | (takes & NET_TAKES_CSUM ? NET_DATA_VALID : 0);
    t->refused = false;
    switch_reduce(t->bytes, t->len, &t->offload, takes, t->piece, to_card, t);
    return !t->refused;
}

static void receive_some(struct tap *t)
{
    for (unsigned i = 0; i < BATCH; i++) {
        const struct iovec iov[2] = {{&t->offload, sizeof(t->offload)},
                                     {t->bytes, sizeof(t->bytes)}};
        ssize_t n = readv(t->fd, iov, 2);

        if (n < 0)
            return;
        if ((size_t)n < sizeof(t->offload) + 14)
            continue;
        t->len = (size_t)n - sizeof(t->offload);
        if (!switch_offload_is_right(&t->offload, t->len))
            continue;
        atomic_store(&t->full, true);
        if (!hand_over(t))
            return;
        atomic_store(&t->full, false);
    }
}

static void *tap_thread(void *opaque)
{
    struct tap *t = opaque;
    uint64_t count;

    thread_name("net tap");
    while (!atomic_load(&t->stop)) {
        struct pollfd fds[2] = {{.fd = t->wake_fd, .events = POLLIN},
                                {.fd = atomic_load(&t->full) ? -1 : t->fd, .events = POLLIN}};

        poll(fds, 2, -1);
        /* The device is gone: there is nothing to wait for but the end. */
        if (fds[1].revents & (POLLERR | POLLNVAL)) {
            fds[1].fd = -1;
            while (!atomic_load(&t->stop))
                poll(fds, 1, -1);
            break;
        }
        if (read(t->wake_fd, &count, sizeof(count)) > 0 && atomic_load(&t->full) && hand_over(t))
            atomic_store(&t->full, false);
        if (!atomic_load(&t->full))
            receive_some(t);
    }
    return NULL;
}

/* ---- The card's side --------------------------------------------------------------------- */

static void tap_send(struct net *net, const struct net_frame *f)
{
    struct tap *t = tap_of(net);
    struct net_offload o = f->offload;
    struct iovec iov[UIO_MAXIOV];
    ssize_t n;

    if (f->iovcnt >= UIO_MAXIOV)
        return;
    iov[0] = (struct iovec){&o, sizeof(o)};
    memcpy(iov + 1, f->iov, f->iovcnt * sizeof(*iov));
    /* A device that takes no more loses it, as a cable would. */
    n = writev(t->fd, iov, (int)f->iovcnt + 1);
    (void)n;
}

static void tap_ready(struct net *net)
{
    if (atomic_load(&tap_of(net)->full))
        wake(tap_of(net));
}

static int tap_start(struct net *net, struct err *err)
{
    struct tap *t = tap_of(net);
    sigset_t all, old;
    int rc;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&t->thread, NULL, tap_thread, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return err_set(err, -rc, "cannot start a thread for a network: %s", strerror(rc));
    t->started = true;
    return 0;
}

static void tap_stop(struct net *net)
{
    struct tap *t = tap_of(net);

    if (!t->started)
        return;
    atomic_store(&t->stop, true);
    wake(t);
    pthread_join(t->thread, NULL);
    t->started = false;
}

static void tap_free(struct net *net)
{
    struct tap *t = tap_of(net);

    tap_stop(net);
    if (t->fd >= 0)
        close(t->fd);
    if (t->wake_fd >= 0)
        close(t->wake_fd);
    free(t);
}

static const struct net_ops tap_ops = {
    .name = "tap",
    .send = tap_send,
    .ready = tap_ready,
    .start = tap_start,
    .stop = tap_stop,
    .free = tap_free,
};

/* ---- Making ------------------------------------------------------------------------------- */

static int cannot(const char *what, const char *name, struct err *err)
{
    int code = -errno;

    err_set(err, code, "cannot %s %s: %s", what, name, strerror(-code));
    if (code == -EPERM || code == -EACCES)
        err_next(err, "That is for root; --net user and --net switch=NAME are for everybody.");
    if (code == -EBUSY)
        err_next(err, "Another program has that device.");
    return code;
}

static int attach(struct tap *t, const char *ifname, struct ifreq *ifr, struct err *err)
{
    int size = sizeof(struct net_offload);

    t->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (t->fd < 0)
        return cannot("open", "/dev/net/tun", err);
    memset(ifr, 0, sizeof(*ifr));
    snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "%s", ifname);
    ifr->ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(t->fd, TUNSETIFF, ifr) < 0)
        return cannot("use the TAP device", ifname, err);
    if (ioctl(t->fd, TUNSETVNETHDRSZ, &size) < 0 ||
        ioctl(t->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0)
        return cannot("set up the TAP device", ifr->ifr_name, err);
    return 0;
}

/* Into the bridge, if there is one to be, and up. A device that somebody has set up may be up without our having the right. */
static int bring_up(const char *name, const char *bridge, struct err *err)
{
    struct ifreq ifr = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), code = 0;

    if (fd < 0)
        return cannot("make a socket for", name, err);
    if (bridge) {
        snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", bridge);
        ifr.ifr_ifindex = (int)if_nametoindex(name);
        if (ioctl(fd, SIOCBRADDIF, &ifr) < 0)
            code = cannot("put a TAP device into the bridge", bridge, err);
    }
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    if (!code && ioctl(fd, SIOCGIFFLAGS, &ifr) < 0)
        code = cannot("look at", name, err);
    if (!code && !(ifr.ifr_flags & IFF_UP)) {
        ifr.ifr_flags |= IFF_UP;
        if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
            code = cannot("bring up", name, err);
    }
    close(fd);
    return code;
}

int net_tap_new(struct net **net, const char *ifname, const char *bridge, struct err *err)
{
    struct tap *t = calloc(1, sizeof(*t));
    struct ifreq ifr;
    int code = 0;

    if (!t)
        return err_set(err, -ENOMEM, "no memory for a network");
    t->net =
        (struct net){.ops = &tap_ops, .takes = NET_TAKES_CSUM | NET_TAKES_TSO4 | NET_TAKES_TSO6};
    t->fd = -1;
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->wake_fd < 0)
        code = err_set(err, -errno, "cannot make an eventfd for a network: %s", strerror(errno));
    if (!code)
        code = attach(t, bridge ? "lodge%d" : ifname, &ifr, err);
    if (!code)
        code = bring_up(ifr.ifr_name, bridge, err);
    if (code < 0) {
        tap_free(&t->net);
        return code;
    }
    *net = &t->net;
    return 0;
}
