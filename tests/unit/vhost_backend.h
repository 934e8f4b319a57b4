/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A vhost-user-blk back end in a thread of the test, on an array as its disk,
 * which at a chosen point does something it must not.
 */
#ifndef LODGE_TESTS_VHOST_BACKEND_H
#define LODGE_TESTS_VHOST_BACKEND_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/types.h"

#define BACKEND_SIZE     MIB(4)
#define BACKEND_MESSAGES 12 /* of a handshake */

enum backend_fault {
    FAULT_NONE,
    /* While settling, at message `at` or its answer. */
    FAULT_HANGS_UP,
    FAULT_ANSWERS_ELSE,
    FAULT_ANSWERS_MORE,
    FAULT_ANSWERS_NO_FLAG,
    FAULT_REFUSES,
    FAULT_HALF_AN_ANSWER,
    /* While serving, at request `at`. */
    FAULT_DIES,
    FAULT_IS_SILENT,
    FAULT_WRONG_ID,
    FAULT_SAME_TWICE,
    FAULT_WRONG_INDEX,
    FAULT_TALKS,
    FAULT_STATUS,
};

struct backend {
    char dir[40], path[64];
    enum backend_fault fault;
    unsigned at;
    uint64_t features, protocol;
    uint32_t seg_max, max_range;
    unsigned messages, requests;
    _Atomic unsigned flushes;
    int listen_fd, fd, kick_fd, call_fd;
    bool acks;
    struct {
        uint64_t base, size;
        uint8_t *map;
    } region[8];
    unsigned regions;
    uint64_t desc, used, avail; /* addresses there */
    unsigned ring_size;
    uint16_t next;
    pthread_t thread;
    pthread_mutex_t lock; /* for the disk: a thread sanitizer does not see what rings order */
    uint8_t *disk;
};

#define BACKEND_FEATURES                                                                           \
    (1ull << 2 | 1ull << 6 | 1ull << 9 | 1ull << 13 | 1ull << 14 | 1ull << 28 | 1ull << 30 |       \
     1ull << 32)
#define BACKEND_PROTOCOL (1ull << 3 | 1ull << 9)

struct backend_message {
    uint32_t request, flags, size;
    union {
        uint64_t word;
        struct {
            uint32_t index, num;
        } state;
        struct {
            uint32_t index, flags;
            uint64_t desc, used, avail, log;
        } addr;
        uint32_t words[80];
    } __attribute__((packed)) u;
};

struct backend_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

/* Where the front end's address is here. */
static inline void *backend_at(struct backend *b, uint64_t address)
{
    for (unsigned i = 0; i < b->regions; i++)
        if (address - b->region[i].base < b->region[i].size)
            return b->region[i].map + (address - b->region[i].base);
    abort();
}

static inline void backend_map(struct backend *b, const struct backend_message *m, const int *fds,
                               unsigned count)
{
    for (unsigned i = 0; i < count && i < m->u.words[0]; i++) {
        uint64_t region[4];

        memcpy(region, &m->u.words[2 + i * 8], sizeof(region));
        b->region[i].base = region[2];
        b->region[i].size = region[1];
        b->region[i].map =
            mmap(NULL, region[1], PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], (off_t)region[3]);
        if (b->region[i].map == MAP_FAILED)
            abort();
        b->regions = i + 1;
    }
}

static inline bool backend_get(struct backend *b, struct backend_message *m, int *fd)
{
    char control[256];
    struct iovec iov = {m, 12};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(b->fd, &msg, MSG_WAITALL);
    unsigned count = 0;
    int fds[8];

    *fd = -1;
    if (n != 12 || m->size > sizeof(m->u))
        return false;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    }
    if (m->size && recv(b->fd, &m->u, m->size, MSG_WAITALL) != (ssize_t)m->size)
        return false;
    if (m->request == 5)
        backend_map(b, m, fds, count);
    for (unsigned i = m->request != 5; i < count; i++)
        close(fds[i]);
    *fd = count && m->request != 5 ? fds[0] : -1;
    return true;
}

static inline bool backend_say(struct backend *b, struct backend_message *m, uint32_t size)
{
    bool here = b->messages == b->at;
    size_t len = 12 + size;

    m->flags = 1 | 4;
    m->size = size;
    if (here && b->fault == FAULT_ANSWERS_ELSE)
        m->request++;
    if (here && b->fault == FAULT_ANSWERS_MORE)
        m->size = UINT32_MAX;
    if (here && b->fault == FAULT_ANSWERS_NO_FLAG)
        m->flags = 1;
    if (here && b->fault == FAULT_HALF_AN_ANSWER)
        len -= 3;
    if (send(b->fd, m, len, MSG_NOSIGNAL) != (ssize_t)len)
        return false;
    return !here || b->fault != FAULT_HALF_AN_ANSWER;
}

static inline bool backend_answer(struct backend *b, struct backend_message *m, int fd)
{
    bool confirm = m->flags & 8;

    switch (m->request) {
    case 1:
    case 15:
        m->u.word = m->request == 1 ? b->features : b->protocol;
        return backend_say(b, m, 8);
    case 24:
        memset(&m->u.words[3], 0, 60);
        m->u.words[3] = BACKEND_SIZE / 512;
        m->u.words[6] = b->seg_max;
        m->u.words[8] = 512;
        m->u.words[12] = m->u.words[15] = b->max_range;
        return backend_say(b, m, 12 + 60);
    case 8:
        b->ring_size = m->u.state.num;
        break;
    case 9:
        b->desc = m->u.addr.desc;
        b->used = m->u.addr.used;
        b->avail = m->u.addr.avail;
        break;
    case 12:
        b->kick_fd = fd;
        fd = -1;
        break;
    case 13:
        b->call_fd = fd;
        fd = -1;
        break;
    }
    if (fd >= 0)
        close(fd);
    m->u.word = b->messages == b->at && b->fault == FAULT_REFUSES;
    return !confirm || backend_say(b, m, 8);
}

static inline uint8_t backend_data(struct backend *b, const struct backend_desc *table,
                                   uint32_t type, uint64_t at)
{
    unsigned i = table[0].next;

    for (; table[i].flags & 1; i = table[i].next) {
        uint8_t *buf = backend_at(b, table[i].addr);

        if (at + table[i].len > BACKEND_SIZE)
            return 1;
        if (type == 0)
            memcpy(buf, b->disk + at, table[i].len);
        else
            memcpy(b->disk + at, buf, table[i].len);
        at += table[i].len;
    }
    return 0;
}

static inline void backend_request(struct backend *b, const struct backend_desc *table)
{
    const uint32_t *header = backend_at(b, table[0].addr);
    unsigned last = 0;
    uint64_t at;
    uint8_t status = 0;

    memcpy(&at, header + 2, 8);
    at *= 512;
    while (table[last].flags & 1)
        last = table[last].next;
    if (header[0] <= 1) {
        status = backend_data(b, table, header[0], at);
    } else if (header[0] == 4) {
        b->flushes++;
    } else {
        const uint32_t *range = backend_at(b, table[table[0].next].addr);

        memcpy(&at, range, 8);
        if (range[2] > b->max_range || at * 512 + range[2] * 512ull > BACKEND_SIZE)
            status = 1;
        else
            memset(b->disk + at * 512, 0, range[2] * 512);
    }
    if (b->requests == b->at && b->fault == FAULT_STATUS)
        status = 1;
    *(uint8_t *)backend_at(b, table[last].addr) = status;
}

/* False: it has had enough. */
static inline bool backend_serve(struct backend *b)
{
    uint16_t *avail = backend_at(b, b->avail), *used = backend_at(b, b->used);
    uint32_t *ring = (uint32_t *)(void *)(used + 2);
    const uint64_t one = 1;

    while (b->next != __atomic_load_n(&avail[1], __ATOMIC_ACQUIRE)) {
        uint16_t head = avail[2 + b->next++ % b->ring_size], idx = used[1];
        const struct backend_desc *d = backend_at(b, b->desc + 16u * head);
        bool here = b->requests == b->at;

        if (here && b->fault == FAULT_DIES)
            return false;
        if (here && b->fault == FAULT_IS_SILENT)
            continue;
        if (here && b->fault == FAULT_TALKS && send(b->fd, "what?", 5, MSG_NOSIGNAL) != 5)
            return false;
        pthread_mutex_lock(&b->lock);
        backend_request(b, backend_at(b, d->addr));
        pthread_mutex_unlock(&b->lock);
        ring[idx % b->ring_size * 2] = here && b->fault == FAULT_WRONG_ID ? UINT32_MAX : head;
        ring[idx % b->ring_size * 2 + 1] = 1;
        if (here && b->fault == FAULT_SAME_TWICE) {
            ring[(uint16_t)(idx + 1) % b->ring_size * 2] = head;
            idx++;
        }
        if (here && b->fault == FAULT_WRONG_INDEX)
            idx = (uint16_t)(idx + b->ring_size * 2);
        __atomic_store_n(&used[1], (uint16_t)(idx + 1), __ATOMIC_RELEASE);
        b->requests++;
        if (write(b->call_fd, &one, sizeof(one)) < 0)
            return false;
    }
    return true;
}

static inline void backend_converse(struct backend *b)
{
    struct backend_message m;
    uint64_t count;
    bool more = true;
    int fd;

    while (more) {
        struct pollfd fds[] = {{.fd = b->fd, .events = POLLIN},
                               {.fd = b->kick_fd, .events = POLLIN}};

        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[1].revents && read(b->kick_fd, &count, sizeof(count)) > 0)
            more = backend_serve(b);
        if (!more || !fds[0].revents)
            continue;
        if (b->fault == FAULT_HANGS_UP && b->messages == b->at)
            return;
        memset(&m, 0, sizeof(m));
        more = backend_get(b, &m, &fd) && backend_answer(b, &m, fd);
        b->messages++;
    }
}

static inline void *backend_thread(void *opaque)
{
    struct backend *b = opaque;

    b->fd = accept(b->listen_fd, NULL, NULL);
    if (b->fd < 0)
        return NULL;
    backend_converse(b);
    close(b->fd);
    if (b->kick_fd >= 0)
        close(b->kick_fd);
    if (b->call_fd >= 0)
        close(b->call_fd);
    for (unsigned i = 0; i < b->regions; i++)
        munmap(b->region[i].map, b->region[i].size);
    return NULL;
}

static inline void backend_init(struct backend *b, enum backend_fault fault, unsigned at)
{
    memset(b, 0, sizeof(*b));
    b->fault = fault;
    b->at = at;
    b->features = BACKEND_FEATURES;
    b->protocol = BACKEND_PROTOCOL;
    b->seg_max = 126;
    b->max_range = 512;
}

static inline void backend_start(struct backend *b)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    pthread_mutex_init(&b->lock, NULL);
    b->fd = b->kick_fd = b->call_fd = -1;
    b->disk = calloc(1, BACKEND_SIZE);
    strcpy(b->dir, "/tmp/lodge-vhost.XXXXXX");
    if (!b->disk || !mkdtemp(b->dir))
        abort();
    snprintf(b->path, sizeof(b->path), "%s/socket", b->dir);
    strcpy(addr.sun_path, b->path);
    b->listen_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (b->listen_fd < 0 || bind(b->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) ||
        listen(b->listen_fd, 1) || pthread_create(&b->thread, NULL, backend_thread, b))
        abort();
}

/* The front end has let go of it, or never came. */
static inline void backend_end(struct backend *b)
{
    shutdown(b->listen_fd, SHUT_RDWR);
    pthread_join(b->thread, NULL);
    close(b->listen_fd);
    unlink(b->path);
    rmdir(b->dir);
    pthread_mutex_destroy(&b->lock);
    free(b->disk);
}

#endif
