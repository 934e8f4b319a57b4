/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "net/user.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "net/frame.h"

#define LARGE_MTU    65521      /* the most libslirp takes */
#define MTU          1500       /* of the guest */
#define WAITING_MOST (4u << 20) /* bytes that wait for room in the card; more are dropped */
#define BACKLOG      64         /* connections to a published port that nobody has accepted yet */
#define MAX_TIMERS   4

#define PREFIX6 64
/* An own prefix of those for private use (RFC 4193). */
static const uint8_t prefix6[16] = {0xfd, 0x6c, 0x6f, 0x64, 0x67, 0x65};

/*
 * libslirp keeps the time and the name server's address in variables of the
 * process, so one lock is for all of its instances. It also covers everything
 * in a struct user but what is marked otherwise.
 */
static pthread_mutex_t slirp_lock = PTHREAD_MUTEX_INITIALIZER;

struct timer {
    SlirpTimerCb fn;
    void *opaque;
    int64_t at; /* ms; -1: not set */
};

struct waiting {
    struct waiting *next;
    struct net_offload offload;
    size_t len;
    uint8_t frame[];
};

struct user {
    struct net net;
    struct net_user_config cfg;
    Slirp *slirp;
    struct timer timer[MAX_TIMERS];
    struct waiting *first, **last; /* frames that found no room in the card */
    size_t waiting;
    uint32_t fragment_id;
    uint8_t sent[NET_FRAME_MAX]; /* of the thread that sends */
    uint8_t piece[NET_FRAME_MAX];
    /* Segments of one connection, as one; it goes to the guest before the lock is let go. */
    uint8_t merged[NET_FRAME_MAX];
    struct frame_layout merged_layout;
    size_t mss; /* of each of them but the last; 0: there are none */
    /* The thread. */
    pthread_t thread;
    bool started, stop;
    int wake_fd;
    struct pollfd *fds; /* the first is wake_fd */
    unsigned nfds, room;
    bool asleep, stale; /* in poll; the sockets to wait for are no longer those in fds */
    int64_t wakes_at;   /* ms, while asleep */
    unsigned at;        /* in compare_fd */
    bool differs;
};

static struct user *user_of(struct net *net)
{
    return container_of(net, struct user, net);
}

static int64_t now_ns(void *opaque)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static int64_t now_ms(void)
{
    return now_ns(NULL) / 1000000;
}

/* ---- To the guest ------------------------------------------------------------------------ */

/* -1: the card has no room. */
static int hand_over(struct user *u, const struct net_offload *offload, const void *bytes,
                     size_t len)
{
    const struct iovec iov = {(void *)bytes, len};
    const struct net_frame frame = {.offload = *offload, .iov = &iov, .iovcnt = 1, .len = len};

    return u->net.card_ops->receive(u->net.card, &frame) ? 0 : -1;
}

static void put_off(struct user *u, const struct net_offload *offload, const void *bytes,
                    size_t len)
{
    struct waiting *w;

    if (u->waiting + len > WAITING_MOST)
        return;
    w = malloc(sizeof(*w) + len);
    if (!w)
        return;
    w->next = NULL;
    w->offload = *offload;
    w->len = len;
    memcpy(w->frame, bytes, len);
    *u->last = w;
    u->last = &w->next;
    u->waiting += len;
}

static void deliver(struct user *u, const struct net_offload *offload, const void *bytes,
                    size_t len)
{
    if (u->first || hand_over(u, offload, bytes, len) < 0)
        put_off(u, offload, bytes, len);
}

static void deliver_waiting(struct user *u)
{
    struct waiting *w;

    while ((w = u->first) && !hand_over(u, &w->offload, w->frame, w->len)) {
        u->first = w->next;
        u->waiting -= w->len;
        free(w);
    }
    if (!u->first)
        u->last = &u->first;
}

static void drop_waiting(struct user *u)
{
    struct waiting *w;

    while ((w = u->first)) {
        u->first = w->next;
        free(w);
    }
    u->last = &u->first;
    u->waiting = 0;
}

static void emit(void *opaque, const uint8_t *frame, size_t len)
{
    struct user *u = opaque;
    const struct net_offload o = {
        .flags = atomic_load(&u->net.card_takes) & NET_TAKES_CSUM ? NET_DATA_VALID : 0};

    deliver(u, &o, frame, len);
}

static void deliver_merged(struct user *u)
{
    struct net_offload o;

    if (!u->mss)
        return;
    if (u->merged_layout.end - u->merged_layout.tcp_data > u->mss) {
        frame_make_gso(u->merged, &u->merged_layout, (uint16_t)u->mss, &o);
        deliver(u, &o, u->merged, u->merged_layout.end);
    } else {
        emit(u, u->merged, u->merged_layout.end);
    }
    u->mss = 0;
}

static bool takes_merged(struct user *u, const struct frame_layout *l)
{
    return atomic_load(&u->net.card_takes) &
           (l->type == FRAME_IPV4 ? NET_TAKES_TSO4 : NET_TAKES_TSO6);
}

/* A segment with data is kept, since another may come that goes on where it ends. */
static void tcp_to_guest(struct user *u, const uint8_t *frame, const struct frame_layout *l)
{
    if (u->mss && frame_goes_on(u->merged, &u->merged_layout, frame, l, u->mss)) {
        frame_append(u->merged, &u->merged_layout, frame, l);
        return;
    }
    deliver_merged(u);
    if (l->end == l->tcp_data || !takes_merged(u, l)) {
        emit(u, frame, l->end);
        return;
    }
    memcpy(u->merged, frame, l->end);
    u->merged_layout = *l;
    u->mss = l->end - l->tcp_data;
}

static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
    struct user *u = opaque;
    struct frame_layout l;

    if (!u->net.card_ops || len > NET_FRAME_MAX)
        return (ssize_t)len;
    if (!frame_parse(buf, len, &l)) {
        emit(u, buf, len);
        return (ssize_t)len;
    }
    if (l.tcp_data) {
        tcp_to_guest(u, buf, &l);
        return (ssize_t)len;
    }
    if (l.end - l.l3 > MTU)
        frame_fragment(buf, &l, MTU, u->fragment_id++, u->piece, emit, u);
    else
        emit(u, buf, len);
    return (ssize_t)len;
}

/* ---- What libslirp asks for ---------------------------------------------------------------- */

static void guest_error(const char *msg, void *opaque)
{
    log_once(LOG_WARN, "a guest sends what makes no sense in its network: %.200s", msg);
}

static void *timer_new(SlirpTimerCb fn, void *fn_opaque, void *opaque)
{
    struct user *u = opaque;

    for (unsigned i = 0; i < MAX_TIMERS; i++)
        if (!u->timer[i].fn) {
            u->timer[i] = (struct timer){fn, fn_opaque, -1};
            return &u->timer[i];
        }
    return NULL;
}

static void timer_free(void *timer, void *opaque)
{
    struct timer *t = timer;

    if (t)
        t->fn = NULL;
}

static void wake(struct user *u)
{
    const uint64_t one = 1;

    while (write(u->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static void wake_stale(struct user *u)
{
    if (!u->asleep || u->stale)
        return;
    u->stale = true;
    wake(u);
}

static void timer_mod(void *timer, int64_t at, void *opaque)
{
    struct user *u = opaque;
    struct timer *t = timer;

    if (!t)
        return;
    t->at = at;
    if (u->asleep && at < u->wakes_at)
        wake_stale(u);
}

/* The sockets are compared after each turn. */
static void poll_fd(int fd, void *opaque)
{
}

static void notify(void *opaque)
{
}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = now_ns,
    .timer_new = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = poll_fd,
    .unregister_poll_fd = poll_fd,
    .notify = notify,
};

/* ---- The thread ------------------------------------------------------------------------------ */

static short to_poll(int events)
{
    return (short)((events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
                   (events & SLIRP_POLL_PRI ? POLLPRI : 0));
}

static int add_fd(int fd, int events, void *opaque)
{
    struct user *u = opaque;

    if (u->nfds == u->room) {
        unsigned room = u->room ? 2 * u->room : 64;
        struct pollfd *more = realloc(u->fds, room * sizeof(*more));

        if (!more)
            return -1;
        u->fds = more;
        u->room = room;
    }
    u->fds[u->nfds] = (struct pollfd){.fd = fd, .events = to_poll(events)};
    return (int)u->nfds++;
}

static int get_events(int i, void *opaque)
{
    const struct user *u = opaque;
    int r, events = 0;

    if (i < 0 || (unsigned)i >= u->nfds)
        return 0;
    r = u->fds[i].revents;
    events |= r & POLLIN ? SLIRP_POLL_IN : 0;
    events |= r & POLLOUT ? SLIRP_POLL_OUT : 0;
    events |= r & POLLPRI ? SLIRP_POLL_PRI : 0;
    events |= r & (POLLERR | POLLNVAL) ? SLIRP_POLL_ERR : 0;
    events |= r & POLLHUP ? SLIRP_POLL_HUP : 0;
    return events;
}

/* Milliseconds until something is to be done without a socket being ready. */
static uint32_t timers_next(struct user *u)
{
    uint32_t timeout = 60000;
    int64_t now = now_ms();

    for (unsigned i = 0; i < MAX_TIMERS; i++) {
        const struct timer *t = &u->timer[i];

        if (t->fn && t->at >= 0 && t->at - now < timeout)
            timeout = t->at > now ? (uint32_t)(t->at - now) : 0;
    }
    return timeout;
}

static void timers_run(struct user *u)
{
    int64_t now = now_ms();

    for (unsigned i = 0; i < MAX_TIMERS; i++) {
        struct timer *t = &u->timer[i];

        if (t->fn && t->at >= 0 && t->at <= now) {
            t->at = -1;
            t->fn(t->opaque);
        }
    }
}

/* Look up what to wait for; the time until which to. */
static uint32_t refill(struct user *u)
{
    uint32_t timeout = timers_next(u);

    u->nfds = 0;
    add_fd(u->wake_fd, SLIRP_POLL_IN, u);
    slirp_pollfds_fill(u->slirp, &timeout, add_fd, u);
    u->stale = false;
    return timeout;
}

static void turn(struct user *u)
{
    uint32_t timeout = refill(u);
    int rc;

    u->asleep = true;
    u->wakes_at = now_ms() + timeout;
    pthread_mutex_unlock(&slirp_lock);
    rc = poll(u->fds, u->nfds, (int)timeout);
    pthread_mutex_lock(&slirp_lock);
    u->asleep = false;
    if (rc > 0 && u->fds[0].revents) {
        uint64_t count;
        ssize_t n = read(u->wake_fd, &count, sizeof(count));

        (void)n; /* it may be 0 already */
    }
    if (u->stale) {
        refill(u);
        rc = poll(u->fds, u->nfds, 0);
    }
    timers_run(u);
    slirp_pollfds_poll(u->slirp, rc < 0, get_events, u);
    deliver_merged(u);
}

static void *user_thread(void *opaque)
{
    struct user *u = opaque;

    thread_name("net user");
    pthread_mutex_lock(&slirp_lock);
    while (!u->stop)
        turn(u);
    pthread_mutex_unlock(&slirp_lock);
    return NULL;
}

static int compare_fd(int fd, int events, void *opaque)
{
    struct user *u = opaque;

    if (u->at >= u->nfds || u->fds[u->at].fd != fd || u->fds[u->at].events != to_poll(events))
        u->differs = true;
    return (int)u->at++;
}

/*
 * After the guest has sent: does the thread still wait for the right sockets,
 * and not too long? It is woken only when it does not. As long as nothing
 * differs, libslirp's notes of the places in fds come out the same.
 */
static void settle(struct user *u)
{
    uint32_t timeout;

    if (!u->asleep || u->stale)
        return;
    timeout = timers_next(u);
    u->at = 1;
    u->differs = false;
    slirp_pollfds_fill(u->slirp, &timeout, compare_fd, u);
    if (u->differs || u->at != u->nfds || now_ms() + timeout < u->wakes_at)
        wake_stale(u);
}

/* ---- From the guest ---------------------------------------------------------------------------- */

/*
 * IP packets that are not whole are kept from libslirp: version 4.7 crashes when it puts some fragments together that
 * do not belong together.
 */
static bool is_wanted(const uint8_t *frame, size_t len)
{
    unsigned type = len < FRAME_ETHERNET ? 0 : (unsigned)(frame[12] << 8 | frame[13]);
    struct frame_layout l;

    if (type != FRAME_IPV4 && type != FRAME_IPV6)
        return true;
    return frame_parse(frame, len, &l) && !l.part;
}

static void user_send(struct net *net, const struct net_frame *f)
{
    struct user *u = user_of(net);
    size_t len = 0;

    /* One copy, before anything is looked at: the guest may still write to its buffers. */
    for (unsigned i = 0; i < f->iovcnt; i++) {
        if (f->iov[i].iov_len > sizeof(u->sent) - len)
            return;
        memcpy(u->sent + len, f->iov[i].iov_base, f->iov[i].iov_len);
        len += f->iov[i].iov_len;
    }
    if (!is_wanted(u->sent, len))
        return;
    if ((f->offload.flags & NET_NEEDS_CSUM) && !frame_finish_sum(u->sent, len, &f->offload))
        return;
    pthread_mutex_lock(&slirp_lock);
    slirp_input(u->slirp, u->sent, (int)len);
    deliver_merged(u);
    pthread_mutex_unlock(&slirp_lock);
}

static void user_flush(struct net *net)
{
    pthread_mutex_lock(&slirp_lock);
    settle(user_of(net));
    pthread_mutex_unlock(&slirp_lock);
}

static void user_ready(struct net *net)
{
    pthread_mutex_lock(&slirp_lock);
    deliver_waiting(user_of(net));
    pthread_mutex_unlock(&slirp_lock);
}

/* ---- Published ports ----------------------------------------------------------------------------- */

/* While a listening socket of libslirp is looked for among all those that it waits for. */
struct wanted {
    const struct net_publish *publish;
    bool found;
    int fd;
};

static int note_if_wanted(int fd, int events, void *opaque)
{
    struct wanted *w = opaque;
    struct sockaddr_storage is = {0}, want;
    socklen_t len = sizeof(is), want_len = net_publish_sockaddr(w->publish, &want);
    int listens = 0;
    socklen_t size = sizeof(listens);

    if (!w->found && !getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) && listens &&
        !getsockname(fd, (struct sockaddr *)&is, &len) && len == want_len &&
        !memcmp(&is, &want, len))
        *w = (struct wanted){w->publish, true, fd};
    return -1;
}

/* -1: it has none. The thread has to look up its sockets again afterwards: wake_stale. */
static int listening_socket(struct user *u, const struct net_publish *p)
{
    struct wanted w = {.publish = p, .fd = -1};
    uint32_t timeout = 0;

    if (!p->udp)
        slirp_pollfds_fill(u->slirp, &timeout, note_if_wanted, &w);
    return w.fd;
}

static int open_port(struct user *u, const struct net_publish *p)
{
    struct sockaddr_storage addr;
    socklen_t len = net_publish_sockaddr(p, &addr);
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(p->guest)};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(p->guest)};
    int flags = (p->udp ? SLIRP_HOSTFWD_UDP : 0) | (p->v6 ? SLIRP_HOSTFWD_V6ONLY : 0);
    int rc;

    errno = 0;
    if (p->v6)
        rc = slirp_add_hostxfwd(u->slirp, (struct sockaddr *)&addr, len, (struct sockaddr *)&in6,
                                sizeof(in6), flags);
    else
        rc = slirp_add_hostxfwd(u->slirp, (struct sockaddr *)&addr, len, (struct sockaddr *)&in,
                                sizeof(in), flags);
    return !rc ? 0 : errno ? -errno : -EIO;
}

static int cannot_publish(const struct net_publish *p, int code, struct err *err)
{
    char text[NET_PUBLISH_TEXT];

    err_set(err, code, "cannot publish %s: %s", net_publish_format(p, text), strerror(-code));
    if (code == -EADDRINUSE)
        err_next(err, "Another program has that port of the host: choose another one, or 0 for "
                      "any that is free.");
    else if (code == -EACCES)
        err_next(err, "Ports below 1024 are for root: choose a higher one.");
    else if (code == -EADDRNOTAVAIL)
        err_next(err, "The address must be one of this host.");
    return code;
}

static int publish_locked(struct user *u, struct net_publish *p, struct err *err)
{
    struct net_publish want = *p;
    int code = -EADDRINUSE, fd;

    if (u->cfg.publishes == NET_MAX_PUBLISH)
        return err_set(err, -ENOSPC, "a guest has at most %d published ports", NET_MAX_PUBLISH);
    if (!(p->v6 ? u->cfg.ipv6 : u->cfg.ipv4))
        return err_set(err, -EINVAL, "a port of an %s address leads nowhere: the guest has no %s",
                       p->v6 ? "IPv6" : "IPv4", p->v6 ? "IPv6" : "IPv4");
    for (unsigned i = 0; i < u->cfg.publishes && p->host; i++)
        if (net_publish_same(&u->cfg.publish[i], p))
            return cannot_publish(p, -EADDRINUSE, err);
    /* Somebody may take the free port before it is opened. */
    for (unsigned tries = 0; code == -EADDRINUSE && tries < 16; tries++) {
        code = p->host ? 0 : net_publish_free_port(p, &want.host);
        if (!code)
            code = open_port(u, &want);
        if (p->host)
            break;
    }
    if (code < 0)
        return cannot_publish(p, code, err);
    /* libslirp lets one connection wait, which is few when many come at once. */
    fd = listening_socket(u, &want);
    if (fd >= 0)
        listen(fd, BACKLOG);
    u->cfg.publish[u->cfg.publishes++] = want;
    *p = want;
    wake_stale(u);
    return 0;
}

int net_user_publish(struct net *net, struct net_publish *publish, struct err *err)
{
    int code;

    pthread_mutex_lock(&slirp_lock);
    code = publish_locked(user_of(net), publish, err);
    pthread_mutex_unlock(&slirp_lock);
    return code;
}

static int close_port(struct user *u, unsigned i)
{
    const struct net_publish *p = &u->cfg.publish[i];
    struct sockaddr_storage addr;
    socklen_t len = net_publish_sockaddr(p, &addr);
    int fd = listening_socket(u, p), rc;

    /* As long as the thread is in poll, a socket that is closed still listens. */
    if (fd >= 0)
        shutdown(fd, SHUT_RDWR);
    rc = slirp_remove_hostxfwd(u->slirp, (struct sockaddr *)&addr, len,
                               p->udp ? SLIRP_HOSTFWD_UDP : 0);

    u->cfg.publish[i] = u->cfg.publish[--u->cfg.publishes];
    wake_stale(u);
    return rc;
}

int net_user_unpublish(struct net *net, const struct net_publish *publish, struct err *err)
{
    struct user *u = user_of(net);
    char text[NET_PUBLISH_TEXT];
    int code = -ENOENT;

    pthread_mutex_lock(&slirp_lock);
    for (unsigned i = 0; code && i < u->cfg.publishes; i++)
        if (net_publish_same(&u->cfg.publish[i], publish)) {
            close_port(u, i);
            code = 0;
        }
    pthread_mutex_unlock(&slirp_lock);
    return !code ? 0 : err_set(err, code, "%s is not published", net_publish_format(publish, text));
}

unsigned net_user_published(struct net *net, struct net_publish *list)
{
    struct user *u = user_of(net);
    unsigned n;

    pthread_mutex_lock(&slirp_lock);
    n = u->cfg.publishes;
    memcpy(list, u->cfg.publish, n * sizeof(*list));
    pthread_mutex_unlock(&slirp_lock);
    return n;
}

/* ---- Making -------------------------------------------------------------------------------------- */

static int user_start(struct net *net, struct err *err)
{
    struct user *u = user_of(net);
    sigset_t all, old;
    int rc;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&u->thread, NULL, user_thread, u);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return err_set(err, -rc, "cannot start a thread for a network: %s", strerror(rc));
    u->started = true;
    return 0;
}

static void user_stop(struct net *net)
{
    struct user *u = user_of(net);

    if (!u->started)
        return;
    pthread_mutex_lock(&slirp_lock);
    u->stop = true;
    pthread_mutex_unlock(&slirp_lock);
    wake(u);
    pthread_join(u->thread, NULL);
    u->started = false;
}

static void user_free(struct net *net)
{
    struct user *u = user_of(net);

    user_stop(net);
    pthread_mutex_lock(&slirp_lock);
    while (u->slirp && u->cfg.publishes)
        close_port(u, 0);
    if (u->slirp)
        slirp_cleanup(u->slirp);
    pthread_mutex_unlock(&slirp_lock);
    drop_waiting(u);
    if (u->wake_fd >= 0)
        close(u->wake_fd);
    free(u->fds);
    free(u);
}

static const struct net_ops user_ops = {
    .name = "user",
    .send = user_send,
    .flush = user_flush,
    .ready = user_ready,
    .start = user_start,
    .stop = user_stop,
    .free = user_free,
};

bool net_is_user(const struct net *net)
{
    return net->ops == &user_ops;
}

static void slirp_make(struct user *u)
{
    SlirpConfig c = {
        .version = 4,
        .restricted = u->cfg.restricted,
        .in_enabled = u->cfg.ipv4,
        .vnetwork = u->cfg.net,
        .vnetmask = u->cfg.mask,
        .vhost = u->cfg.host,
        .in6_enabled = u->cfg.ipv6,
        .vprefix_len = PREFIX6,
        .vhostname = u->cfg.hostname[0] ? u->cfg.hostname : NULL,
        .vdhcp_start = u->cfg.dhcp,
        .vnameserver = u->cfg.dns,
        .vdomainname = u->cfg.domain[0] ? u->cfg.domain : NULL,
        .if_mtu = LARGE_MTU,
        .if_mru = LARGE_MTU,
        .disable_host_loopback = u->cfg.no_loopback,
    };

    memcpy(&c.vprefix_addr6, prefix6, sizeof(prefix6));
    memcpy(&c.vhost6, prefix6, sizeof(prefix6));
    memcpy(&c.vnameserver6, prefix6, sizeof(prefix6));
    c.vhost6.s6_addr[15] = 2;
    c.vnameserver6.s6_addr[15] = 3;
    u->slirp = slirp_new(&c, &callbacks, u);
}

int net_user_new(struct net **net, const struct net_user_config *cfg, struct err *err)
{
    struct user *u = calloc(1, sizeof(*u));
    int code = 0;

    if (!u)
        return err_set(err, -ENOMEM, "no memory for a network");
    u->net =
        (struct net){.ops = &user_ops, .takes = NET_TAKES_CSUM | NET_TAKES_TSO4 | NET_TAKES_TSO6};
    u->last = &u->first;
    u->cfg = *cfg;
    u->cfg.publishes = 0;
    u->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->wake_fd < 0)
        code = err_set(err, -errno, "cannot make an eventfd for a network: %s", strerror(errno));
    pthread_mutex_lock(&slirp_lock);
    if (!code)
        slirp_make(u);
    if (!code && !u->slirp)
        code = err_set(err, -EINVAL, "libslirp refuses the network's configuration");
    for (unsigned i = 0; !code && i < cfg->publishes; i++) {
        struct net_publish p = cfg->publish[i];

        code = publish_locked(u, &p, err);
    }
    pthread_mutex_unlock(&slirp_lock);
    if (code < 0) {
        user_free(&u->net);
        return code;
    }
    *net = &u->net;
    return 0;
}
