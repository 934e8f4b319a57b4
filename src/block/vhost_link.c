/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/vhost_link.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    GET_FEATURES = 1,
    SET_FEATURES = 2,
    SET_OWNER = 3,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR = 9,
    SET_VRING_BASE = 10,
    SET_VRING_KICK = 12,
    SET_VRING_CALL = 13,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES = 16,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
};

#define FLAG_VERSION      1u
#define FLAG_VERSION_MASK 3u
#define FLAG_REPLY        4u
#define FLAG_NEED_REPLY   8u

#define F_PROTOCOL_FEATURES (1ull << 30)
#define P_REPLY_ACK         (1ull << 3)
#define P_CONFIG            (1ull << 9)

struct header {
    uint32_t request, flags, size;
};

struct vring_state {
    uint32_t index, num;
};

struct vring_addr {
    uint32_t index, flags;
    uint64_t desc, used, avail, log;
};

struct mem_region {
    uint64_t gpa, size, address, offset;
};

struct mem_table {
    uint32_t count, padding;
    struct mem_region region[LINK_REGIONS];
};

struct config_space {
    uint32_t offset, size, flags;
    uint8_t data[LINK_CONFIG_MAX];
};

#define CONFIG_HEAD offsetof(struct config_space, data)

_Static_assert(sizeof(struct header) == 12 && CONFIG_HEAD == 12, "as on the wire");

/* ---- Bytes -------------------------------------------------------------------------------- */

static int because(int error)
{
    if (error == EAGAIN || error == EWOULDBLOCK)
        return -ETIMEDOUT;
    return error == EPIPE ? -ECONNRESET : -error;
}

static int send_all(int fd, const void *buf, size_t len, const int *fds, unsigned nfds)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int) * LINK_REGIONS)];
    } control = {0};
    struct iovec iov = {(void *)buf, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (nfds) {
        struct cmsghdr *c = &control.align;

        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
    }
    while (iov.iov_len) {
        ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return because(errno);
        iov.iov_base = (char *)iov.iov_base + n;
        iov.iov_len -= (size_t)n;
        msg.msg_control = NULL;
        msg.msg_controllen = 0;
    }
    return 0;
}

static int receive_all(int fd, void *buf, size_t len)
{
    while (len) {
        ssize_t n = recv(fd, buf, len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return because(errno);
        if (!n)
            return -ECONNRESET;
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    return 0;
}

/* ---- Messages ----------------------------------------------------------------------------- */

struct message {
    struct header h;
    union {
        uint64_t word;
        struct vring_state state;
        struct vring_addr addr;
        struct mem_table mem;
        struct config_space config;
    } u;
};

_Static_assert(offsetof(struct message, u) == 16,
               "header and payload are sent one after the other");

static int message_send(struct vhost_link *l, struct message *m, const int *fds, unsigned nfds)
{
    uint8_t wire[sizeof(*m)];

    m->h.flags |= FLAG_VERSION;
    memcpy(wire, &m->h, sizeof(m->h));
    memcpy(wire + sizeof(m->h), &m->u, m->h.size);
    return send_all(l->fd, wire, sizeof(m->h) + m->h.size, fds, nfds);
}

/* An answer to `request` of exactly `size` bytes: nothing longer is read, so it always fits. */
static int answer_receive(struct vhost_link *l, uint32_t request, uint32_t size, struct message *m)
{
    int r = receive_all(l->fd, &m->h, sizeof(m->h));

    if (r)
        return r;
    if (m->h.request != request || m->h.size != size ||
        (m->h.flags & FLAG_VERSION_MASK) != FLAG_VERSION || !(m->h.flags & FLAG_REPLY))
        return -EPROTO;
    return receive_all(l->fd, &m->u, size);
}

static int ask(struct vhost_link *l, uint32_t request, uint64_t *word)
{
    struct message m = {.h = {.request = request}};
    int r = message_send(l, &m, NULL, 0);

    if (!r)
        r = answer_receive(l, request, sizeof(m.u.word), &m);
    *word = r ? 0 : m.u.word;
    return r;
}

/* Something that has no answer, but may be confirmed; another number than 0 is a refusal. */
static int tell(struct vhost_link *l, struct message *m, const int *fds, unsigned nfds)
{
    uint32_t request = m->h.request;
    int r;

    m->h.flags = l->acks ? FLAG_NEED_REPLY : 0;
    r = message_send(l, m, fds, nfds);
    if (r || !l->acks)
        return r;
    r = answer_receive(l, request, sizeof(m->u.word), m);
    return r ? r : m->u.word ? -EREMOTEIO : 0;
}

static int tell_word(struct vhost_link *l, uint32_t request, uint64_t word, const int *fd)
{
    struct message m = {.h = {.request = request, .size = sizeof(word)}, .u.word = word};

    return tell(l, &m, fd, fd ? 1 : 0);
}

static int tell_state(struct vhost_link *l, uint32_t request, uint32_t index, uint32_t num)
{
    struct message m = {.h = {.request = request, .size = sizeof(m.u.state)},
                        .u.state = {index, num}};

    return tell(l, &m, NULL, 0);
}

/* ---- What a front end says ------------------------------------------------------------------ */

int vhost_link_features(struct vhost_link *l, uint64_t need, uint64_t want, uint64_t *features)
{
    struct message owner = {.h = {.request = SET_OWNER}};
    uint64_t offered, protocol;
    int r = ask(l, GET_FEATURES, &offered);

    need |= F_PROTOCOL_FEATURES;
    if (!r && (offered & need) != need)
        return -ENOTSUP;
    if (!r)
        r = ask(l, GET_PROTOCOL_FEATURES, &protocol);
    if (!r && !(protocol & P_CONFIG))
        return -ENOTSUP;
    if (!r)
        r = tell_word(l, SET_PROTOCOL_FEATURES, protocol & (P_CONFIG | P_REPLY_ACK), NULL);
    if (!r)
        l->acks = protocol & P_REPLY_ACK;
    if (!r)
        r = tell(l, &owner, NULL, 0);
    *features = r ? 0 : offered & (need | want);
    return r ? r : tell_word(l, SET_FEATURES, *features, NULL);
}

int vhost_link_config(struct vhost_link *l, void *buf, uint32_t len)
{
    struct message m = {.h = {.request = GET_CONFIG, .size = (uint32_t)CONFIG_HEAD + len},
                        .u.config = {.size = len}};
    int r = len > LINK_CONFIG_MAX ? -EINVAL : message_send(l, &m, NULL, 0);

    if (!r)
        r = answer_receive(l, GET_CONFIG, (uint32_t)CONFIG_HEAD + len, &m);
    if (!r && (m.u.config.offset || m.u.config.size != len))
        r = -EPROTO;
    if (!r)
        memcpy(buf, m.u.config.data, len);
    return r;
}

int vhost_link_memory(struct vhost_link *l, const struct vhost_region region[LINK_REGIONS])
{
    struct message m = {.h = {.request = SET_MEM_TABLE, .size = sizeof(m.u.mem)},
                        .u.mem = {.count = LINK_REGIONS}};
    int fds[LINK_REGIONS];

    for (unsigned i = 0; i < LINK_REGIONS; i++) {
        uint64_t at = (uintptr_t)region[i].base;

        m.u.mem.region[i] = (struct mem_region){at, region[i].size, at, 0};
        fds[i] = region[i].fd;
    }
    return tell(l, &m, fds, LINK_REGIONS);
}

int vhost_link_ring(struct vhost_link *l, const struct vhost_ring *ring)
{
    struct message m = {.h = {.request = SET_VRING_ADDR, .size = sizeof(m.u.addr)},
                        .u.addr = {.index = ring->index,
                                   .desc = (uintptr_t)ring->desc,
                                   .used = (uintptr_t)ring->used,
                                   .avail = (uintptr_t)ring->avail}};
    int r = tell_state(l, SET_VRING_NUM, ring->index, ring->size);

    if (!r)
        r = tell_state(l, SET_VRING_BASE, ring->index, 0);
    if (!r)
        r = tell(l, &m, NULL, 0);
    if (!r)
        r = tell_word(l, SET_VRING_CALL, ring->index, &ring->call_fd);
    if (!r)
        r = tell_word(l, SET_VRING_KICK, ring->index, &ring->kick_fd);
    return r ? r : tell_state(l, SET_VRING_ENABLE, ring->index, 1);
}

int vhost_link_connect(const char *path, struct err *err)
{
    const struct timeval limit = {.tv_sec = LINK_TIMEOUT_S};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd, code = 0;

    if (strlen(path) >= sizeof(addr.sun_path))
        return err_set(err, -ENAMETOOLONG, "the name of the socket %s is too long", path);
    memcpy(addr.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        code = -errno;
    if (!code)
        return fd;
    if (fd >= 0)
        close(fd);
    err_set(err, code, "cannot connect to the back end of a disk at %s: %s", path, strerror(-code));
    return err_next(err, "A vhost-user-blk back end has to listen there, like "
                         "qemu-storage-daemon --export vhost-user-blk.");
}
