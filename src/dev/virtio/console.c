/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device's own thread sends what the guest writes; a second one waits for
 * connections and for what comes from them. A socket that is full leaves its
 * chain in the ring and is waited for.
 */
#include "dev/virtio/console.h"

#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define F_SIZE      (1ull << 0)
#define F_MULTIPORT (1ull << 1)

#define QUEUE_CONTROL_RX 2
#define QUEUE_CONTROL_TX 3
#define QUEUE_SIZE       128
#define BUDGET           32
#define CHUNK            MIB(1) /* sent in one go: a chain can have 4 GiB, and others wait */

/* Control events (5.3.6.2). */
enum {
    DEVICE_READY = 0,
    PORT_ADD = 1,
    PORT_READY = 3,
    PORT_OPEN = 6,
    PORT_NAME = 7,
};

#define PENDING(event) (1u << (event))

struct control {
    uint32_t id;
    uint16_t event, value;
};

struct console_config {
    uint16_t cols, rows;
    uint32_t max_nr_ports;
};

/* Port 0 has queues 0 and 1, the others follow behind the control queues (5.3.2). */
static unsigned rx_queue(unsigned port)
{
    return port ? 2 * port + 2 : 0;
}

static bool port_of(unsigned q, unsigned *port)
{
    *port = q < 2 ? 0 : q / 2 - 1;
    return q < 2 || q > QUEUE_CONTROL_TX;
}

static struct virtio_console *console_of(struct virtio_device *dev)
{
    return container_of(dev, struct virtio_console, dev);
}

static void wake(struct virtio_console *con)
{
    const uint64_t one = 1;

    while (write(con->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

static bool may_touch_locked(const struct virtio_console *con, unsigned q)
{
    return con->open && atomic_load(&con->dev.running) && con->dev.queue[q].ready;
}

/*
 * Take a chain to write to: 1, or 0 when there is none, and then the driver
 * will say when there is; -1: the device is broken, or not in use.
 */
static int take_locked(struct virtio_console *con, unsigned q, uint32_t room)
{
    struct virtq *vq = &con->dev.queue[q];
    int got;

    if (!may_touch_locked(con, q))
        return -1;
    got = virtq_pop(vq, con->chain);
    if (!got && virtq_want_notify(vq))
        got = virtq_pop(vq, con->chain);
    if (got < 0 || (got && (con->chain->out || con->chain->in_len < room))) {
        virtio_break(&con->dev, got < 0 ? vq->malformed : "a receive buffer cannot be right");
        return -1;
    }
    return got;
}

/* ---- Control --------------------------------------------------------------------------- */

static bool send_control_locked(struct virtio_console *con, unsigned id, unsigned event)
{
    const struct virtio_console_port *port = &con->port[id];
    struct control msg = {.id = id, .event = (uint16_t)event, .value = 1};
    const struct virtq *q = &con->dev.queue[QUEUE_CONTROL_RX];
    const struct virtq_chain *c = con->chain;
    size_t len = sizeof(msg);

    if (take_locked(con, QUEUE_CONTROL_RX, sizeof(msg)) <= 0)
        return false;
    if (event == PORT_OPEN)
        msg.value = port->fd >= 0;
    virtq_write(q, c->iov, c->in, 0, &msg, sizeof(msg));
    if (event == PORT_NAME)
        len += virtq_write(q, c->iov, c->in, len, port->name, strlen(port->name));
    virtio_push(&con->dev, QUEUE_CONTROL_RX, c->head, (uint32_t)len);
    return true;
}

static void flush_control_locked(struct virtio_console *con)
{
    static const uint8_t order[] = {PORT_ADD, PORT_NAME, PORT_OPEN};

    for (unsigned id = 0; id < con->count && !con->console; id++)
        for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
            unsigned bit = PENDING(order[i]);

            if (!(con->port[id].pending & bit))
                continue;
            if (!send_control_locked(con, id, order[i]))
                return;
            con->port[id].pending &= ~bit;
        }
}

static void control_locked(struct virtio_console *con, const struct control *msg)
{
    struct virtio_console_port *port = msg->id < con->count ? &con->port[msg->id] : NULL;

    switch (msg->event) {
    case DEVICE_READY:
        for (unsigned id = 0; msg->value == 1 && id < con->count; id++)
            con->port[id].pending |= PENDING(PORT_ADD);
        break;
    case PORT_READY:
        if (port && msg->value == 1)
            port->pending |= PENDING(PORT_NAME) | (port->fd >= 0 ? PENDING(PORT_OPEN) : 0);
        break;
    case PORT_OPEN:
        if (port)
            port->guest_open = msg->value;
        break;
    }
}

static enum virtio_served serve_control(struct virtio_device *dev, unsigned q,
                                        struct virtq_chain *c)
{
    struct virtio_console *con = console_of(dev);
    struct control msg;

    if (virtq_read(c->iov, c->out, 0, &msg, sizeof(msg)) < sizeof(msg))
        return VIRTIO_MALFORMED;
    pthread_mutex_lock(&con->lock);
    control_locked(con, &msg);
    pthread_mutex_unlock(&con->lock);
    virtio_push(dev, q, c->head, 0);
    return VIRTIO_SERVED;
}

/* ---- Connections -------------------------------------------------------------------------- */

static void port_accept_locked(struct virtio_console *con, struct virtio_console_port *port)
{
    port->fd = accept4(port->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (port->fd < 0)
        return;
    port->pending |= PENDING(PORT_OPEN);
    flush_control_locked(con);
}

/* What the guest was sending is dropped, as from then on; a chain half sent is taken from its start for the next. */
static void port_hang_up_locked(struct virtio_console *con, struct virtio_console_port *port)
{
    close(port->fd);
    port->fd = -1;
    port->hung_up = false;
    port->tx_done = 0;
    if (port->tx_blocked)
        virtio_notify(&con->dev);
    port->tx_blocked = false;
    port->pending |= PENDING(PORT_OPEN);
    flush_control_locked(con);
}

/* Straight into the guest's buffer. */
static void port_read_locked(struct virtio_console *con, unsigned id)
{
    struct virtio_console_port *port = &con->port[id];
    struct virtq *q = &con->dev.queue[rx_queue(id)];
    const struct virtq_chain *c = con->chain;
    int got = take_locked(con, rx_queue(id), 1);
    struct msghdr msg = {.msg_iov = con->chain->iov, .msg_iovlen = con->chain->in};
    ssize_t n;

    port->rx_starved = got <= 0;
    if (got <= 0)
        return;
    n = recvmsg(port->fd, &msg, 0);
    if (n > 0) {
        virtq_written(q, c->iov, c->in, (size_t)n);
        virtio_push(&con->dev, rx_queue(id), c->head, (uint32_t)n);
        return;
    }
    virtq_unpop(q, 1);
    if (!n || (errno != EAGAIN && errno != EINTR))
        port_hang_up_locked(con, port);
}

static void poll_describe_locked(struct virtio_console *con, struct pollfd *p)
{
    for (unsigned id = 0; id < con->count; id++) {
        const struct virtio_console_port *port = &con->port[id];
        bool reads =
            port->guest_open && !port->rx_starved && con->open && atomic_load(&con->dev.running);

        if (port->hung_up && !reads)
            p[id] = (struct pollfd){.fd = -1}; /* poll would say so again and again */
        else
            p[id] = port->fd < 0
                        ? (struct pollfd){.fd = port->listen_fd, .events = POLLIN}
                        : (struct pollfd){.fd = port->fd,
                                          .events = (short)((reads ? POLLIN : 0) |
                                                            (port->tx_blocked ? POLLOUT : 0))};
    }
}

static void poll_serve_locked(struct virtio_console *con, unsigned id, const struct pollfd *p)
{
    struct virtio_console_port *port = &con->port[id];

    if (!p->revents)
        return;
    if (port->fd < 0) {
        port_accept_locked(con, port);
        return;
    }
    if (p->revents & POLLOUT) {
        port->tx_blocked = false;
        virtio_notify(&con->dev);
    }
    if (p->revents & POLLIN)
        port_read_locked(con, id);
    else if (p->revents & (POLLHUP | POLLERR))
        port->hung_up = true;
}

static void *socket_thread(void *opaque)
{
    struct virtio_console *con = opaque;
    struct pollfd p[VIRTIO_CONSOLE_PORTS + 1];
    uint64_t count;

    thread_name("ports");
    while (!atomic_load(&con->stop)) {
        pthread_mutex_lock(&con->lock);
        poll_describe_locked(con, p);
        pthread_mutex_unlock(&con->lock);
        p[con->count] = (struct pollfd){.fd = con->wake_fd, .events = POLLIN};
        if (poll(p, con->count + 1, -1) < 0)
            continue;
        while (read(con->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
            ;
        pthread_mutex_lock(&con->lock);
        for (unsigned id = 0; id < con->count; id++)
            poll_serve_locked(con, id, &p[id]);
        pthread_mutex_unlock(&con->lock);
    }
    return NULL;
}

/* ---- From the guest -------------------------------------------------------------------------- */

/* Bytes that went out, or -EAGAIN. Nobody there, or somebody who has gone: as if they had. */
static ssize_t port_send_locked(const struct virtio_console_port *port, struct iovec *iov,
                                unsigned n, size_t len)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    ssize_t sent;

    if (port->fd < 0)
        return (ssize_t)len;
    do
        sent = sendmsg(port->fd, &msg, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return errno == EAGAIN ? -EAGAIN : (ssize_t)len;
    return sent;
}

static enum virtio_served send_locked(struct virtio_console *con, struct virtio_console_port *port,
                                      const struct virtq_chain *c)
{
    struct iovec iov[VIRTQ_IOV_MAX];
    size_t end = c->out_len - port->tx_done > CHUNK ? port->tx_done + CHUNK : c->out_len;

    while (port->tx_done < end) {
        unsigned n = virtq_slice(c->iov, c->out, port->tx_done, end - port->tx_done, iov);
        ssize_t sent = port_send_locked(port, iov, n, end - port->tx_done);

        if (sent < 0) {
            port->tx_blocked = true;
            return VIRTIO_LATER;
        }
        port->tx_done += (size_t)sent;
    }
    if (end < c->out_len) {
        virtio_notify(&con->dev);
        return VIRTIO_LATER;
    }
    port->tx_done = 0;
    return VIRTIO_SERVED;
}

static enum virtio_served serve_tx(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct virtio_console *con = console_of(dev);
    enum virtio_served served;
    unsigned id;

    if (!port_of(q, &id) || c->in)
        return VIRTIO_MALFORMED;
    pthread_mutex_lock(&con->lock);
    served = send_locked(con, &con->port[id], c);
    pthread_mutex_unlock(&con->lock);
    if (served == VIRTIO_SERVED)
        virtio_push(dev, q, c->head, 0);
    else
        wake(con);
    return served;
}

/* ---- The device ------------------------------------------------------------------------------- */

/* New buffers, or the device goes on after a pause. */
static void process_rx(struct virtio_console *con, unsigned q)
{
    unsigned id;

    pthread_mutex_lock(&con->lock);
    con->open = true;
    if (con->dev.queue[q].ready)
        virtq_spare_notify(&con->dev.queue[q]);
    if (port_of(q, &id))
        con->port[id].rx_starved = false;
    flush_control_locked(con);
    pthread_mutex_unlock(&con->lock);
    wake(con);
}

static bool process(struct virtio_device *dev, unsigned q)
{
    struct virtio_console *con = console_of(dev);
    bool more;

    if (q == QUEUE_CONTROL_TX) {
        more = virtio_serve(dev, q, BUDGET, serve_control);
        process_rx(con, QUEUE_CONTROL_RX);
        return more;
    }
    if (q % 2)
        return virtio_serve(dev, q, BUDGET, serve_tx);
    process_rx(con, q);
    return false;
}

static void drain(struct virtio_device *dev)
{
    struct virtio_console *con = console_of(dev);

    pthread_mutex_lock(&con->lock);
    con->open = false;
    pthread_mutex_unlock(&con->lock);
}

/* Without MULTIPORT there is port 0 alone, and nobody says that it is open. */
static void start(struct virtio_device *dev)
{
    struct virtio_console *con = console_of(dev);

    pthread_mutex_lock(&con->lock);
    con->port[0].guest_open = !virtio_has(dev, F_MULTIPORT);
    pthread_mutex_unlock(&con->lock);
}

static void reset(struct virtio_device *dev)
{
    struct virtio_console *con = console_of(dev);

    pthread_mutex_lock(&con->lock);
    for (unsigned id = 0; id < con->count; id++) {
        struct virtio_console_port *port = &con->port[id];

        port->guest_open = port->tx_blocked = port->rx_starved = false;
        port->tx_done = 0;
        port->pending = 0;
    }
    pthread_mutex_unlock(&con->lock);
}

static void save(struct virtio_device *dev, struct virtio_own *s)
{
    struct virtio_console *con = console_of(dev);

    _Static_assert(VIRTIO_CONSOLE_PORTS <= VIRTIO_SAVED_PORTS, "all are saved");
    pthread_mutex_lock(&con->lock);
    for (unsigned id = 0; id < con->count; id++) {
        s->port[id].guest_open = con->port[id].guest_open;
        s->port[id].connected = con->port[id].fd >= 0;
        s->port[id].pending = (uint8_t)con->port[id].pending;
    }
    pthread_mutex_unlock(&con->lock);
}

/* Who was connected is not any more: the guest is told. What it had sent in part it sends again, to somebody else. */
static int load(struct virtio_device *dev, const struct virtio_own *s)
{
    const unsigned known = PENDING(PORT_ADD) | PENDING(PORT_NAME) | PENDING(PORT_OPEN);
    struct virtio_console *con = console_of(dev);

    pthread_mutex_lock(&con->lock);
    for (unsigned id = 0; id < con->count; id++) {
        struct virtio_console_port *port = &con->port[id];

        port->guest_open = s->port[id].guest_open;
        port->pending = s->port[id].pending & known;
        if (s->port[id].connected != (port->fd >= 0))
            port->pending |= PENDING(PORT_OPEN);
    }
    pthread_mutex_unlock(&con->lock);
    return 0;
}

static void config_read(struct virtio_device *dev, unsigned off, void *buf, unsigned len)
{
    const struct virtio_console *con = console_of(dev);
    uint32_t size = atomic_load(&con->size);
    const struct console_config cfg = {.cols = (uint16_t)size,
                                       .rows = (uint16_t)(size >> 16),
                                       .max_nr_ports = con->console ? 0 : con->count};

    if (off < sizeof(cfg))
        memcpy(buf, (const uint8_t *)&cfg + off, len < sizeof(cfg) - off ? len : sizeof(cfg) - off);
}

void virtio_console_resize(struct virtio_console *con, uint16_t cols, uint16_t rows)
{
    uint32_t size = cols | (uint32_t)rows << 16;

    if (atomic_exchange(&con->size, size) != size)
        virtio_config_changed(&con->dev);
}

static const struct virtio_device_ops console_ops = {
    .name = "virtio-console",
    .start = start,
    .process = process,
    .drain = drain,
    .reset = reset,
    .save = save,
    .load = load,
    .config_read = config_read,
};

static int socket_thread_start(struct virtio_console *con, struct err *err)
{
    sigset_t all, old;
    int rc;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&con->thread, NULL, socket_thread, con);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return err_set(err, -rc, "cannot start a thread for ports: %s", strerror(rc));
    con->thread_started = true;
    return 0;
}

int virtio_console_init(struct virtio_console *con, const struct virtio_memory *memory,
                        const struct virtio_console_config *cfg, struct err *err)
{
    const struct virtio_config dev = {
        .ops = &console_ops,
        .type = VIRTIO_CONSOLE,
        .memory = *memory,
        .features = cfg->console ? F_SIZE : F_MULTIPORT,
        .queues = cfg->console ? 2 : rx_queue(cfg->ports),
        .queue_size = QUEUE_SIZE,
    };
    int code;

    memset(con, 0, sizeof(*con));
    con->console = cfg->console;
    con->size = cfg->cols | (uint32_t)cfg->rows << 16;
    con->count = cfg->console ? 1 : cfg->ports;
    if (cfg->console)
        con->port[0] = (struct virtio_console_port){.listen_fd = -1, .fd = cfg->fd};
    for (unsigned id = 0; !cfg->console && id < cfg->ports; id++) {
        con->port[id] =
            (struct virtio_console_port){.listen_fd = cfg->port[id].listen_fd, .fd = -1};
        strncpy(con->port[id].name, cfg->port[id].name, VIRTIO_CONSOLE_NAME - 1);
    }
    pthread_mutex_init(&con->lock, NULL);
    con->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    con->chain = malloc(sizeof(*con->chain));
    if (con->wake_fd < 0 || !con->chain)
        code = err_set(err, -ENOMEM, "no memory for a virtio-console device");
    else
        code = virtio_init(&con->dev, &dev, err);
    if (!code)
        code = socket_thread_start(con, err);
    if (code < 0)
        virtio_console_fini(con);
    return code;
}

void virtio_console_fini(struct virtio_console *con)
{
    if (!con->count)
        return;
    atomic_store(&con->stop, true);
    if (con->thread_started) {
        wake(con);
        pthread_join(con->thread, NULL);
    }
    virtio_fini(&con->dev);
    for (unsigned id = 0; id < con->count; id++)
        if (con->port[id].fd >= 0)
            close(con->port[id].fd);
    free(con->chain);
    if (con->wake_fd >= 0)
        close(con->wake_fd);
    pthread_mutex_destroy(&con->lock);
    memset(con, 0, sizeof(*con));
}
