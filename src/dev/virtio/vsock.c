/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device: its own thread takes the guest's packets, a second one waits for
 * sockets, and both fill the guest's buffers. Nothing that the guest or a
 * program here does makes more memory than the connections there may be: a
 * socket that is full stops its sender by credit, a guest without buffers stops
 * the reading of sockets, and resets that cannot be sent stop the guest's packets.
 */
#include "dev/virtio/vsock.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/thread.h"
#include "dev/virtio/vsock_int.h"

#define F_STREAM (1ull << 0)

#define QUEUE_RX    0
#define QUEUE_TX    1
#define QUEUE_EVENT 2
#define QUEUES      3
#define QUEUE_SIZE  256
#define BUDGET      32
#define PUMP        64 /* packets to the guest in one go */

#define RETRY_MS        20  /* servers that have no room */
#define ACCEPT_RETRY_MS 100 /* no descriptors */

#define EVENT_WAKE   UINT64_MAX
#define EVENT_LISTEN (UINT64_MAX - 1)
#define EVENTS       64

static struct virtio_vsock *vsock_of(struct virtio_device *dev)
{
    return container_of(dev, struct virtio_vsock, dev);
}

void vsock_wake(struct virtio_vsock *vs)
{
    const uint64_t one = 1;

    while (write(vs->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* ---- To the guest --------------------------------------------------------------------------- */

static bool has_work(const struct virtio_vsock *vs)
{
    return vs->resets || !TAILQ_EMPTY(&vs->ready);
}

/* Take a buffer: 1, or 0 when there is none, and then the driver will say when there is; -1: not now. */
static int take_locked(struct virtio_vsock *vs)
{
    struct virtq *q = &vs->dev.queue[QUEUE_RX];
    int got;

    if (!vs->open || !atomic_load(&vs->dev.running) || !q->ready)
        return -1;
    got = virtq_pop(q, vs->chain);
    if (!got && virtq_want_notify(q))
        got = virtq_pop(q, vs->chain);
    if (got < 0 || (got && (vs->chain->out || vs->chain->in_len <= sizeof(struct vsock_packet)))) {
        virtio_break(&vs->dev, got < 0 ? q->malformed : "a receive buffer cannot be right");
        return -1;
    }
    return got;
}

static void reset_take_locked(struct virtio_vsock *vs, struct vsock_packet *p)
{
    const struct vsock_reset *r = &vs->reset[vs->reset_first];

    *p = (struct vsock_packet){
        .src_cid = r->cid,
        .dst_cid = vs->cid,
        .src_port = r->port,
        .dst_port = r->guest_port,
        .type = r->type,
        .op = VSOCK_RST,
    };
    vs->reset_first = (vs->reset_first + 1) % VIRTIO_VSOCK_RESETS;
    vs->resets--;
    if (vs->tx_stalled)
        virtio_notify(&vs->dev);
    vs->tx_stalled = false;
}

/* The next packet, its data in the buffer already. Connections take turns. */
static bool next_locked(struct virtio_vsock *vs, struct vsock_packet *p)
{
    struct vsock_connection *c;
    enum vsock_op op = 0;

    if (vs->resets) {
        reset_take_locked(vs, p);
        return true;
    }
    while (!op && (c = TAILQ_FIRST(&vs->ready))) {
        op = vsock_next_locked(vs, c, vs->chain, p);
        if (op == VSOCK_RST)
            break;
        TAILQ_REMOVE(&vs->ready, c, link);
        c->queued = false;
        vsock_ready_locked(vs, c);
    }
    return op != 0;
}

/* Send what there is to send. True: there was more than can be done in one go. */
static bool pump_locked(struct virtio_vsock *vs)
{
    struct virtq *q = &vs->dev.queue[QUEUE_RX];
    const struct virtq_chain *c = vs->chain;
    unsigned n = 0;

    while (n < PUMP && has_work(vs) && take_locked(vs) > 0) {
        struct vsock_packet p;

        if (!next_locked(vs, &p)) {
            virtq_unpop(q, 1);
            break;
        }
        virtq_write(q, c->iov + c->out, c->in, 0, &p, sizeof(p));
        virtq_written(q, c->iov + c->out, c->in, sizeof(p) + p.len);
        vs->used[n++] = (struct virtq_used){c->head, (uint32_t)sizeof(p) + p.len};
    }
    if (n)
        virtio_push_all(&vs->dev, QUEUE_RX, vs->used, n);
    return n == PUMP && has_work(vs);
}

/* TRANSPORT_RESET (5.10.6.7): the guest ends all its connections. */
static void event_send_locked(struct virtio_vsock *vs)
{
    static const uint32_t transport_reset = 0;
    struct virtq *q = &vs->dev.queue[QUEUE_EVENT];
    const struct virtq_chain *c = vs->chain;
    int got = vs->event_due && q->ready ? virtq_pop(q, vs->chain) : 0;

    if (!got)
        return;
    if (got < 0 || c->out || c->in_len < sizeof(transport_reset)) {
        virtio_break(&vs->dev, got < 0 ? q->malformed : "an event buffer cannot be right");
        return;
    }
    vs->event_due = false;
    virtq_write(q, c->iov, c->in, 0, &transport_reset, sizeof(transport_reset));
    virtio_push(&vs->dev, QUEUE_EVENT, c->head, sizeof(transport_reset));
}

/* ---- From the guest ---------------------------------------------------------------------------- */

/* False: there are too many already. */
static bool refuse_locked(struct virtio_vsock *vs, const struct vsock_packet *p)
{
    unsigned at = (vs->reset_first + vs->resets) % VIRTIO_VSOCK_RESETS;

    if (p->op == VSOCK_RST)
        return true;
    if (vs->resets == VIRTIO_VSOCK_RESETS)
        return false;
    vs->reset[at] = (struct vsock_reset){p->dst_cid, p->dst_port, p->src_port, p->type};
    vs->resets++;
    return true;
}

/* False: not now. */
static bool packet_locked(struct virtio_vsock *vs, const struct vsock_packet *p,
                          const struct virtq_chain *chain)
{
    struct vsock_connection *c;

    if (p->src_cid != vs->cid)
        return true; /* 5.10.6.4.1: ignored */
    if (p->dst_cid != VSOCK_HOST || p->type != VSOCK_STREAM)
        return refuse_locked(vs, p);
    c = vsock_find_locked(vs, p->src_port, p->dst_port);
    if (c)
        vsock_receive_locked(vs, c, p, chain);
    else if (p->op != VSOCK_REQUEST || !vsock_request_locked(vs, p))
        return refuse_locked(vs, p);
    return true;
}

static enum virtio_served serve_tx(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct virtio_vsock *vs = vsock_of(dev);
    struct vsock_packet p;
    bool done;

    if (c->in || virtq_read(c->iov, c->out, 0, &p, sizeof(p)) < sizeof(p) ||
        (p.op == VSOCK_RW && p.len > c->out_len - sizeof(p)))
        return VIRTIO_MALFORMED;
    pthread_mutex_lock(&vs->lock);
    done = packet_locked(vs, &p, c);
    vs->tx_stalled = !done;
    pthread_mutex_unlock(&vs->lock);
    if (!done)
        return VIRTIO_LATER;
    virtio_push(dev, q, c->head, 0);
    return VIRTIO_SERVED;
}

static bool process(struct virtio_device *dev, unsigned q)
{
    struct virtio_vsock *vs = vsock_of(dev);
    bool more = q == QUEUE_TX && virtio_serve(dev, q, BUDGET, serve_tx);

    pthread_mutex_lock(&vs->lock);
    if (!vs->open)
        vsock_wake(vs); /* who waits to be accepted can be, now */
    vs->open = true;
    if (q == QUEUE_RX)
        virtq_spare_notify(&dev->queue[q]);
    if (vs->event_due)
        event_send_locked(vs);
    more |= pump_locked(vs);
    pthread_mutex_unlock(&vs->lock);
    return more;
}

/* ---- Sockets -------------------------------------------------------------------------------------- */

static void event_locked(struct virtio_vsock *vs, const struct epoll_event *ev)
{
    uint32_t n = (uint32_t)ev->data.u64;
    uint64_t count;

    if (ev->data.u64 == EVENT_WAKE) {
        while (read(vs->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
            ;
    } else if (ev->data.u64 == EVENT_LISTEN) {
        vs->accept_ready = true;
    } else if (vs->connection[n].generation == ev->data.u64 >> 32) {
        vsock_event_locked(vs, &vs->connection[n], ev->events);
    }
}

static int timeout_locked(const struct virtio_vsock *vs, int timeout)
{
    if (timeout < 0 && vs->waiting)
        return RETRY_MS;
    return timeout < 0 && vs->accept_failed ? ACCEPT_RETRY_MS : timeout;
}

void virtio_vsock_turn(struct virtio_vsock *vs, int timeout)
{
    struct epoll_event ev[EVENTS];
    bool more;
    int n;

    pthread_mutex_lock(&vs->lock);
    timeout = timeout_locked(vs, timeout);
    pthread_mutex_unlock(&vs->lock);
    n = epoll_wait(vs->epoll_fd, ev, EVENTS, timeout);
    pthread_mutex_lock(&vs->lock);
    for (int i = 0; i < n; i++)
        event_locked(vs, &ev[i]);
    vsock_retry_locked(vs);
    if (vs->open && atomic_load(&vs->dev.running))
        vsock_accept_locked(vs);
    more = pump_locked(vs);
    pthread_mutex_unlock(&vs->lock);
    if (more)
        vsock_wake(vs);
}

static void *socket_thread(void *opaque)
{
    struct virtio_vsock *vs = opaque;

    thread_name("vsock");
    while (!atomic_load(&vs->stop))
        virtio_vsock_turn(vs, -1);
    return NULL;
}

/* ---- The device ------------------------------------------------------------------------------------ */

static void drain(struct virtio_device *dev)
{
    struct virtio_vsock *vs = vsock_of(dev);

    pthread_mutex_lock(&vs->lock);
    vs->open = false;
    pthread_mutex_unlock(&vs->lock);
}

static void reset(struct virtio_device *dev)
{
    struct virtio_vsock *vs = vsock_of(dev);

    pthread_mutex_lock(&vs->lock);
    vsock_drop_all_locked(vs);
    vs->resets = 0;
    vs->event_due = false;
    vs->tx_stalled = false;
    pthread_mutex_unlock(&vs->lock);
}

static void save(struct virtio_device *dev, struct virtio_own *s)
{
    struct virtio_vsock *vs = vsock_of(dev);

    pthread_mutex_lock(&vs->lock);
    s->next_port = vs->next_port;
    pthread_mutex_unlock(&vs->lock);
}

/* The sockets are those of another process, or of another time (5.10.6.7). */
static int load(struct virtio_device *dev, const struct virtio_own *s)
{
    struct virtio_vsock *vs = vsock_of(dev);

    pthread_mutex_lock(&vs->lock);
    vs->next_port = s->next_port % VSOCK_FIRST_PORT;
    vs->event_due = dev->queue[QUEUE_EVENT].ready;
    pthread_mutex_unlock(&vs->lock);
    return 0;
}

static void config_read(struct virtio_device *dev, unsigned off, void *buf, unsigned len)
{
    const uint64_t cid = vsock_of(dev)->cid;

    if (off < sizeof(cid))
        memcpy(buf, (const uint8_t *)&cid + off, len < sizeof(cid) - off ? len : sizeof(cid) - off);
}

static const struct virtio_device_ops vsock_ops = {
    .name = "virtio-vsock",
    .process = process,
    .drain = drain,
    .reset = reset,
    .save = save,
    .load = load,
    .config_read = config_read,
};

/* ---- Making ------------------------------------------------------------------------------------------ */

/* Not all descriptors that this process may have: the guest decides how many of these are used. */
static unsigned connections_max(void)
{
    struct rlimit lim;

    if (getrlimit(RLIMIT_NOFILE, &lim) || lim.rlim_cur / 2 >= VIRTIO_VSOCK_CONNECTIONS)
        return VIRTIO_VSOCK_CONNECTIONS;
    return (unsigned)(lim.rlim_cur / 2) + 1;
}

static int watch(struct virtio_vsock *vs, int fd, uint32_t events, uint64_t what)
{
    struct epoll_event ev = {.events = events, .data.u64 = what};

    return epoll_ctl(vs->epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

static int parts_make(struct virtio_vsock *vs, const struct virtio_vsock_config *cfg,
                      struct err *err)
{
    vs->connections = connections_max();
    vs->connection = calloc(vs->connections, sizeof(*vs->connection));
    vs->path = strdup(cfg->path);
    vs->chain = malloc(sizeof(*vs->chain));
    vs->used = malloc(PUMP * sizeof(*vs->used));
    if (!vs->connection || !vs->path || !vs->chain || !vs->used)
        return err_set(err, -ENOMEM, "no memory for a virtio-vsock device");
    for (unsigned i = 0; i < vs->connections; i++)
        TAILQ_INSERT_TAIL(&vs->unused, &vs->connection[i], link);
    vs->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    vs->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (vs->epoll_fd < 0 || vs->wake_fd < 0 || watch(vs, vs->wake_fd, EPOLLIN, EVENT_WAKE) < 0 ||
        watch(vs, vs->listen_fd, EPOLLIN | EPOLLET, EVENT_LISTEN) < 0)
        return err_set(err, -errno, "cannot watch sockets for a virtio-vsock device: %s",
                       strerror(errno));
    return 0;
}

static int socket_thread_start(struct virtio_vsock *vs, struct err *err)
{
    sigset_t all, old;
    int rc;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&vs->thread, NULL, socket_thread, vs);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return err_set(err, -rc, "cannot start a thread for vsock: %s", strerror(rc));
    vs->thread_started = true;
    return 0;
}

int virtio_vsock_init(struct virtio_vsock *vs, const struct virtio_memory *memory,
                      const struct virtio_vsock_config *cfg, struct err *err)
{
    const struct virtio_config dev = {
        .ops = &vsock_ops,
        .type = VIRTIO_VSOCK,
        .memory = *memory,
        .features = F_STREAM,
        .queues = QUEUES,
        .queue_size = QUEUE_SIZE,
    };
    int code;

    memset(vs, 0, sizeof(*vs));
    vs->cid = cfg->cid;
    vs->listen_fd = cfg->listen_fd;
    vs->epoll_fd = vs->wake_fd = -1;
    pthread_mutex_init(&vs->lock, NULL);
    TAILQ_INIT(&vs->unused);
    TAILQ_INIT(&vs->ready);
    code = parts_make(vs, cfg, err);
    if (!code)
        code = virtio_init(&vs->dev, &dev, err);
    if (!code && !cfg->no_thread)
        code = socket_thread_start(vs, err);
    if (code < 0)
        virtio_vsock_fini(vs);
    return code;
}

void virtio_vsock_fini(struct virtio_vsock *vs)
{
    if (!vs->connections)
        return;
    atomic_store(&vs->stop, true);
    if (vs->thread_started) {
        vsock_wake(vs);
        pthread_join(vs->thread, NULL);
    }
    virtio_fini(&vs->dev);
    if (vs->connection)
        vsock_drop_all_locked(vs);
    free(vs->connection);
    free(vs->path);
    free(vs->chain);
    free(vs->used);
    if (vs->epoll_fd >= 0)
        close(vs->epoll_fd);
    if (vs->wake_fd >= 0)
        close(vs->wake_fd);
    pthread_mutex_destroy(&vs->lock);
    memset(vs, 0, sizeof(*vs));
}
