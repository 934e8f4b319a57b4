/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections of a virtio-vsock device: each is a pair of ports in the guest's
 * terms and a UNIX socket here. The socket is watched edge by edge; `readable`
 * keeps what it said until a read finds nothing, so that a guest without room
 * costs no wake-ups.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "dev/virtio/vsock_int.h"

#define MAX_DATA   KIB(64)                   /* of a packet */
#define TELL_AFTER (VIRTIO_VSOCK_BUFFER / 4) /* bytes forwarded that the guest does not know of */
#define PATIENCE   5000000000ull /* ns with a server that has no room; a guest waits 2 s by itself */

#define BIT(op) (1u << (op))

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- Places ------------------------------------------------------------------------------ */

static struct vsock_connection **bucket(struct virtio_vsock *vs, uint32_t guest_port, uint32_t port)
{
    return &vs->bucket[(guest_port * 31 + port) % VIRTIO_VSOCK_BUCKETS];
}

struct vsock_connection *vsock_find_locked(struct virtio_vsock *vs, uint32_t guest_port,
                                           uint32_t port)
{
    struct vsock_connection *c = *bucket(vs, guest_port, port);

    while (c && (c->guest_port != guest_port || c->port != port))
        c = c->next;
    return c;
}

static bool has_ports(const struct vsock_connection *c)
{
    return c->state != CONN_UNUSED && c->state != CONN_HELLO && c->state != CONN_LINGER;
}

static void ports_give_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                              uint32_t guest_port, uint32_t port)
{
    struct vsock_connection **b = bucket(vs, guest_port, port);

    c->guest_port = guest_port;
    c->port = port;
    c->next = *b;
    *b = c;
}

static void ports_take_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    struct vsock_connection **p = bucket(vs, c->guest_port, c->port);

    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
}

static void state_set_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                             enum vsock_state state)
{
    vs->waiting -= c->state == CONN_WAITING;
    vs->waiting += state == CONN_WAITING;
    c->state = state;
}

/* Takes the socket over when there is a place. */
static struct vsock_connection *conn_new_locked(struct virtio_vsock *vs, int fd,
                                                enum vsock_state state)
{
    struct vsock_connection *c = TAILQ_FIRST(&vs->unused);

    if (!c)
        return NULL;
    TAILQ_REMOVE(&vs->unused, c, link);
    *c = (struct vsock_connection){.generation = c->generation + 1, .fd = fd};
    state_set_locked(vs, c, state);
    return c;
}

/* Only once it is connected: before that epoll calls a socket hung up. */
static bool watch_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    struct epoll_event ev = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
        .data.u64 = (uint64_t)c->generation << 32 | (uint64_t)(c - vs->connection),
    };

    return !epoll_ctl(vs->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev);
}

static void buffer_drop(struct vsock_connection *c)
{
    c->forwarded += c->buffered;
    c->buffered = c->first = 0;
    free(c->buffer);
    c->buffer = NULL;
}

static void socket_close(struct vsock_connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->readable = false;
    c->deaf = true;
    buffer_drop(c);
}

static void conn_free_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    socket_close(c);
    if (has_ports(c))
        ports_take_locked(vs, c);
    if (c->queued)
        TAILQ_REMOVE(&vs->ready, c, link);
    c->queued = false;
    c->generation++;
    c->pending = 0;
    state_set_locked(vs, c, CONN_UNUSED);
    TAILQ_INSERT_HEAD(&vs->unused, c, link);
    if (vs->accept_ready)
        vsock_wake(vs);
}

void vsock_drop_all_locked(struct virtio_vsock *vs)
{
    for (unsigned i = 0; i < vs->connections; i++)
        if (vs->connection[i].state != CONN_UNUSED)
            conn_free_locked(vs, &vs->connection[i]);
}

/* ---- What the guest is to be told ----------------------------------------------------------- */

/* What it may be sent beyond what it has been (5.10.6.3). A driver that contradicts itself gets nothing. */
static uint32_t credit(const struct vsock_connection *c)
{
    uint32_t under_way = c->sent - c->peer_fwd;

    return under_way < c->peer_alloc ? c->peer_alloc - under_way : 0;
}

static bool wants_to_read(const struct vsock_connection *c)
{
    return c->state == CONN_OPEN && c->readable && !c->eof &&
           !(c->peer_shut & VSOCK_SHUT_RECEIVE) && !(c->pending & BIT(VSOCK_RESPONSE));
}

bool vsock_has_more(const struct vsock_connection *c)
{
    return c->pending || (wants_to_read(c) && credit(c));
}

void vsock_ready_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (wants_to_read(c) && !credit(c) && !c->asked_credit) {
        c->asked_credit = true;
        c->pending |= BIT(VSOCK_CREDIT_REQUEST);
    }
    if (c->queued || !vsock_has_more(c))
        return;
    c->queued = true;
    TAILQ_INSERT_TAIL(&vs->ready, c, link);
}

static void tell_locked(struct virtio_vsock *vs, struct vsock_connection *c, enum vsock_op op)
{
    c->pending |= BIT(op);
    vsock_ready_locked(vs, c);
}

/* It is over, whatever is still under way. */
static void conn_reset_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    socket_close(c);
    state_set_locked(vs, c, CONN_RESET);
    c->pending = 0;
    tell_locked(vs, c, VSOCK_RST);
}

static void conn_shut_locked(struct virtio_vsock *vs, struct vsock_connection *c, unsigned how)
{
    if ((c->shut | how) == c->shut)
        return;
    c->shut |= how;
    tell_locked(vs, c, VSOCK_SHUTDOWN);
}

/* The other end of the socket is closed, and what it sent has been read. */
static void conn_hung_up_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (c->peer_shut == VSOCK_SHUT_BOTH) {
        conn_reset_locked(vs, c);
        return;
    }
    socket_close(c);
    state_set_locked(vs, c, CONN_CLOSED);
    conn_shut_locked(vs, c, VSOCK_SHUT_BOTH);
}

static bool check_hung_up_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (c->state != CONN_OPEN || !c->hung_up || !(c->eof || c->peer_shut & VSOCK_SHUT_RECEIVE))
        return false;
    conn_hung_up_locked(vs, c);
    return true;
}

/* ---- From the guest to the socket -------------------------------------------------------------- */

/* Bytes that went out, 0: it is full. Somebody who has gone takes everything. */
static size_t socket_send_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                                 struct iovec *iov, unsigned n, size_t len)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    ssize_t sent;

    do
        sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return (size_t)sent;
    if (errno == EAGAIN)
        return 0;
    c->deaf = true;
    if (c->state == CONN_OPEN)
        conn_shut_locked(vs, c, VSOCK_SHUT_RECEIVE);
    return len;
}

/* All has gone out: what the guest wanted to happen then. */
static void conn_drained_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (c->state == CONN_LINGER)
        conn_free_locked(vs, c);
    else if (c->peer_shut == VSOCK_SHUT_BOTH)
        conn_reset_locked(vs, c);
    else if (c->peer_shut & VSOCK_SHUT_SEND && c->fd >= 0)
        shutdown(c->fd, SHUT_WR);
}

static void credit_tell_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (c->forwarded - c->told >= TELL_AFTER && has_ports(c))
        tell_locked(vs, c, VSOCK_CREDIT_UPDATE);
}

static void conn_flush_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (!c->buffered)
        return;
    while (c->buffered) {
        uint32_t end = VIRTIO_VSOCK_BUFFER - c->first;
        uint32_t part = c->buffered < end ? c->buffered : end;
        struct iovec iov[2] = {{c->buffer + c->first, part}, {c->buffer, c->buffered - part}};
        uint32_t sent = (uint32_t)socket_send_locked(vs, c, iov, 2, c->buffered);

        if (!sent)
            break;
        c->first = (c->first + sent) % VIRTIO_VSOCK_BUFFER;
        c->buffered -= sent;
        c->forwarded += sent;
    }
    credit_tell_locked(vs, c);
    if (c->buffered)
        return;
    buffer_drop(c);
    conn_drained_locked(vs, c);
}

/* Behind what is there already. There is room. */
static bool buffer_append(struct vsock_connection *c, const struct virtq_chain *chain, size_t skip,
                          uint32_t len)
{
    uint32_t at, part;

    if (!c->buffer)
        c->buffer = malloc(VIRTIO_VSOCK_BUFFER);
    if (!c->buffer)
        return false;
    at = (c->first + c->buffered) % VIRTIO_VSOCK_BUFFER;
    part = VIRTIO_VSOCK_BUFFER - at < len ? (uint32_t)VIRTIO_VSOCK_BUFFER - at : len;
    virtq_read(chain->iov, chain->out, skip, c->buffer + at, part);
    virtq_read(chain->iov, chain->out, skip + part, c->buffer, len - part);
    c->buffered += len;
    return true;
}

static void data_locked(struct virtio_vsock *vs, struct vsock_connection *c, uint32_t len,
                        const struct virtq_chain *chain)
{
    size_t skip = sizeof(struct vsock_packet);
    struct iovec iov[VIRTQ_IOV_MAX];
    uint32_t done = 0;

    if (len > VIRTIO_VSOCK_BUFFER - c->buffered || c->peer_shut & VSOCK_SHUT_SEND) {
        conn_reset_locked(vs, c);
        return;
    }
    c->received += len;
    while (!c->buffered && done < len) {
        unsigned n = virtq_slice(chain->iov, chain->out, skip + done, len - done, iov);
        uint32_t sent =
            c->deaf ? len - done : (uint32_t)socket_send_locked(vs, c, iov, n, len - done);

        if (!sent)
            break;
        done += sent;
        c->forwarded += sent;
    }
    if (done < len && !buffer_append(c, chain, skip + done, len - done))
        conn_reset_locked(vs, c);
    else
        credit_tell_locked(vs, c);
}

/* ---- From the socket to the guest ----------------------------------------------------------------- */

/* Straight into the guest's buffers; the bytes read. */
static uint32_t read_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                            const struct virtq_chain *chain)
{
    size_t skip = sizeof(struct vsock_packet), room = chain->in_len - skip;
    struct iovec iov[VIRTQ_IOV_MAX];
    struct msghdr msg = {.msg_iov = iov};
    ssize_t got;

    room = room < credit(c) ? room : credit(c);
    room = room < MAX_DATA ? room : MAX_DATA;
    msg.msg_iovlen = virtq_slice(chain->iov + chain->out, chain->in, skip, room, iov);
    do
        got = recvmsg(c->fd, &msg, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got > 0) {
        c->sent += (uint32_t)got;
        return (uint32_t)got;
    }
    c->readable = false;
    if (!got) {
        c->eof = true;
        conn_shut_locked(vs, c, VSOCK_SHUT_SEND);
        check_hung_up_locked(vs, c);
    } else if (errno != EAGAIN) {
        conn_reset_locked(vs, c);
    }
    return 0;
}

/* What has to come before data is first. */
static enum vsock_op pending_take(struct vsock_connection *c, unsigned among)
{
    static const enum vsock_op order[] = {
        VSOCK_RST,      VSOCK_REQUEST,        VSOCK_RESPONSE,
        VSOCK_SHUTDOWN, VSOCK_CREDIT_REQUEST, VSOCK_CREDIT_UPDATE};

    for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
        if (c->pending & among & BIT(order[i])) {
            c->pending &= ~BIT(order[i]);
            return order[i];
        }
    return 0;
}

enum vsock_op vsock_next_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                                const struct virtq_chain *chain, struct vsock_packet *p)
{
    enum vsock_op op = pending_take(c, ~BIT(VSOCK_CREDIT_UPDATE));
    uint32_t len = 0;

    if (!op && wants_to_read(c) && credit(c)) {
        len = read_locked(vs, c, chain);
        op = len ? VSOCK_RW : 0;
    }
    if (!op)
        op = pending_take(c, ~0u);
    if (!op)
        return 0;
    *p = (struct vsock_packet){
        .src_cid = VSOCK_HOST,
        .dst_cid = vs->cid,
        .src_port = c->port,
        .dst_port = c->guest_port,
        .len = len,
        .type = VSOCK_STREAM,
        .op = (uint16_t)op,
        .flags = op == VSOCK_SHUTDOWN ? c->shut : 0,
        .buf_alloc = VIRTIO_VSOCK_BUFFER,
        .fwd_cnt = c->forwarded,
    };
    c->told = c->forwarded;
    c->pending &= ~BIT(VSOCK_CREDIT_UPDATE);
    if (op == VSOCK_RST)
        conn_free_locked(vs, c);
    return op;
}

/* ---- Connections that the guest makes ---------------------------------------------------------------- */

/* 0, or -EAGAIN: the server has no room for another one now. */
static int server_connect(const struct virtio_vsock *vs, int fd, uint32_t port)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s_%u", vs->path, port);
    return connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ? -errno : 0;
}

static void peer_credit_set(struct vsock_connection *c, const struct vsock_packet *p)
{
    c->peer_alloc = p->buf_alloc;
    c->peer_fwd = p->fwd_cnt;
    if (credit(c))
        c->asked_credit = false;
}

/* In CONN_WAITING. */
static void connect_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    int code = server_connect(vs, c->fd, c->port);

    if (code == -EAGAIN && now_ns() < c->deadline)
        return;
    if (code || !watch_locked(vs, c)) {
        conn_reset_locked(vs, c);
        return;
    }
    state_set_locked(vs, c, CONN_OPEN);
    tell_locked(vs, c, VSOCK_RESPONSE);
}

bool vsock_request_locked(struct virtio_vsock *vs, const struct vsock_packet *p)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct vsock_connection *c = fd < 0 ? NULL : conn_new_locked(vs, fd, CONN_WAITING);

    if (!c) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    ports_give_locked(vs, c, p->src_port, p->dst_port);
    peer_credit_set(c, p);
    c->deadline = now_ns() + PATIENCE;
    connect_locked(vs, c);
    if (c->state == CONN_WAITING)
        vsock_wake(vs);
    return true;
}

void vsock_retry_locked(struct virtio_vsock *vs)
{
    for (unsigned i = 0; vs->waiting && i < vs->connections; i++)
        if (vs->connection[i].state == CONN_WAITING)
            connect_locked(vs, &vs->connection[i]);
}

/* ---- Connections from here ------------------------------------------------------------------------------ */

/* Does the hello make sense? "CONNECT 1024", the newline is gone. */
static bool hello_parse(struct vsock_connection *c, uint32_t *port)
{
    unsigned long long val;
    char *end;

    c->hello[c->hello_len] = '\0';
    if (strncasecmp(c->hello, "CONNECT ", 8) || c->hello[8] < '0' || c->hello[8] > '9')
        return false;
    val = strtoull(c->hello + 8, &end, 10);
    *port = (uint32_t)val;
    return !*end && val < UINT32_MAX;
}

static bool ports_choose_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                                uint32_t guest_port)
{
    for (unsigned i = 0; i <= vs->connections; i++) {
        uint32_t port = VSOCK_FIRST_PORT | vs->next_port;

        vs->next_port = (vs->next_port + 1) % VSOCK_FIRST_PORT;
        if (vsock_find_locked(vs, guest_port, port))
            continue;
        ports_give_locked(vs, c, guest_port, port);
        return true;
    }
    return false;
}

/* Who connected did not wait for the guest's answer, which may never come: the place is for others. */
static void given_up_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (c->pending & BIT(VSOCK_REQUEST))
        conn_free_locked(vs, c);
    else
        conn_reset_locked(vs, c);
}

/* Byte by byte, since what follows is not for us. */
static void hello_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    uint32_t port;
    ssize_t got;
    char byte;

    while ((got = recv(c->fd, &byte, 1, MSG_DONTWAIT)) == 1 && byte != '\n') {
        if (c->hello_len == VSOCK_HELLO_MAX - 1)
            break;
        c->hello[c->hello_len++] = byte;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got != 1 || byte != '\n' || !hello_parse(c, &port) || !ports_choose_locked(vs, c, port)) {
        conn_free_locked(vs, c);
        return;
    }
    c->readable = true;
    state_set_locked(vs, c, CONN_ASKED);
    tell_locked(vs, c, VSOCK_REQUEST);
    if (c->hung_up)
        given_up_locked(vs, c);
}

/* The socket is new, so there is room for the line; who has gone will be noticed like any other. */
static void answered_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    char line[VSOCK_HELLO_MAX];
    int len = snprintf(line, sizeof(line), "OK %u\n", c->port);

    if (send(c->fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EPIPE) {
        conn_reset_locked(vs, c);
        return;
    }
    state_set_locked(vs, c, CONN_OPEN);
}

void vsock_accept_locked(struct virtio_vsock *vs)
{
    vs->accept_failed = false;
    while (vs->accept_ready && !TAILQ_EMPTY(&vs->unused)) {
        int fd = accept4(vs->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct vsock_connection *c;

        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0) {
            vs->accept_ready = errno != EAGAIN;
            vs->accept_failed = vs->accept_ready;
            return;
        }
        c = conn_new_locked(vs, fd, CONN_HELLO);
        if (!watch_locked(vs, c))
            conn_free_locked(vs, c);
    }
}

/* ---- Events --------------------------------------------------------------------------------------------- */

void vsock_event_locked(struct virtio_vsock *vs, struct vsock_connection *c, uint32_t events)
{
    c->readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    c->hung_up |= (events & EPOLLHUP) != 0;
    if (c->state == CONN_HELLO)
        hello_locked(vs, c);
    else if (c->state == CONN_ASKED && c->hung_up)
        given_up_locked(vs, c);
    else if ((c->state == CONN_OPEN || c->state == CONN_LINGER) && events & EPOLLOUT)
        conn_flush_locked(vs, c);
    if (c->state == CONN_OPEN && !check_hung_up_locked(vs, c))
        vsock_ready_locked(vs, c);
}

/* ---- Packets ---------------------------------------------------------------------------------------------- */

static void shutdown_locked(struct virtio_vsock *vs, struct vsock_connection *c, uint32_t flags)
{
    c->peer_shut |= flags & VSOCK_SHUT_BOTH;
    if (c->fd >= 0 && flags & VSOCK_SHUT_RECEIVE)
        shutdown(c->fd, SHUT_RD);
    if (check_hung_up_locked(vs, c))
        return;
    if (!c->buffered)
        conn_drained_locked(vs, c);
}

/* What it sent before it shut down is still delivered. */
static void reset_by_peer_locked(struct virtio_vsock *vs, struct vsock_connection *c)
{
    if (c->state != CONN_OPEN || !c->buffered || !(c->peer_shut & VSOCK_SHUT_SEND)) {
        conn_free_locked(vs, c);
        return;
    }
    ports_take_locked(vs, c);
    if (c->queued)
        TAILQ_REMOVE(&vs->ready, c, link);
    c->queued = false;
    c->pending = 0;
    state_set_locked(vs, c, CONN_LINGER);
}

/* Which packets make sense when; others are answered with a reset. */
static bool op_fits(const struct vsock_connection *c, enum vsock_op op)
{
    bool open = c->state == CONN_OPEN || c->state == CONN_CLOSED;

    switch (op) {
    case VSOCK_RESPONSE:
        return c->state == CONN_ASKED;
    case VSOCK_SHUTDOWN:
    case VSOCK_RW:
        return open;
    case VSOCK_CREDIT_UPDATE:
    case VSOCK_CREDIT_REQUEST:
        return open || c->state == CONN_ASKED || c->state == CONN_WAITING;
    default:
        return false;
    }
}

void vsock_receive_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                          const struct vsock_packet *p, const struct virtq_chain *chain)
{
    if (p->op == VSOCK_RST) {
        reset_by_peer_locked(vs, c);
        return;
    }
    if (c->state == CONN_RESET)
        return;
    peer_credit_set(c, p);
    if (!op_fits(c, p->op)) {
        conn_reset_locked(vs, c);
        return;
    }
    switch (p->op) {
    case VSOCK_RESPONSE:
        answered_locked(vs, c);
        break;
    case VSOCK_SHUTDOWN:
        shutdown_locked(vs, c, p->flags);
        break;
    case VSOCK_RW:
        data_locked(vs, c, p->len, chain);
        break;
    case VSOCK_CREDIT_REQUEST:
        tell_locked(vs, c, VSOCK_CREDIT_UPDATE);
        break;
    }
    vsock_ready_locked(vs, c);
}
