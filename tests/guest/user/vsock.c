/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Programs at the guest's end of a vsock. Static, so that an initramfs can carry it.
 *
 * vsock echo PORT: send back what every connection sends, until it stops; never ends
 * vsock once PORT: wait until somebody connects and sends something
 * vsock client PORT COUNT BYTES: COUNT connections at once to an echo of the host, BYTES through each, compared
 * vsock refused PORT: try to connect, print how it goes
 * vsock stall PORT: send until nothing moves for a second, print how much went; then wait for the end
 * vsock gone PORT: send until that fails, print how
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define CHUNK 20000

struct stream {
    uint64_t state;
};

/* The same bytes for the same seed, however they are cut into pieces of 8. */
static void fill(struct stream *s, uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i += 8) {
        s->state ^= s->state << 13;
        s->state ^= s->state >> 7;
        s->state ^= s->state << 17;
        memcpy(buf + i, &s->state, 8);
    }
}

static int vsock_connect(unsigned port, int flags)
{
    struct sockaddr_vm addr = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
    int fd = socket(AF_VSOCK, SOCK_STREAM | flags, 0);
    struct timeval patience = {.tv_sec = 60};

    if (fd < 0)
        return -1;
    setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof(patience));
    if (!connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
        return fd;
    close(fd);
    return -1;
}

/* ---- echo ------------------------------------------------------------------------------ */

static void *echo_one(void *arg)
{
    int fd = (int)(intptr_t)arg;
    uint8_t buf[CHUNK];
    ssize_t n;

    while ((n = recv(fd, buf, sizeof(buf), 0)) > 0)
        if (send(fd, buf, (size_t)n, MSG_NOSIGNAL) != n)
            break;
    close(fd);
    return NULL;
}

static int vsock_listen(unsigned port)
{
    struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);

    if (!bind(listener, (struct sockaddr *)&addr, sizeof(addr)) && !listen(listener, 200))
        return listener;
    printf("vsock: cannot listen at %u: %s\n", port, strerror(errno));
    exit(1);
}

static int once(unsigned port)
{
    int fd = accept(vsock_listen(port), NULL, NULL);
    char byte;

    return recv(fd, &byte, 1, 0) != 1;
}

static int echo(unsigned port)
{
    int listener = vsock_listen(port);

    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t t;

        if (fd < 0)
            continue;
        if (pthread_create(&t, NULL, echo_one, (void *)(intptr_t)fd))
            close(fd);
        else
            pthread_detach(t);
    }
}

/* ---- client ---------------------------------------------------------------------------- */

struct client {
    unsigned port, number;
    size_t bytes;
    const char *error;
    int code;
};

/* Sends on a thread of its own, so that neither direction has to wait for the other. */
struct sender {
    int fd;
    uint64_t seed;
    size_t bytes;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    struct stream stream = {s->seed};
    uint8_t buf[CHUNK];

    for (size_t done = 0; done < s->bytes;) {
        size_t len = s->bytes - done < CHUNK ? s->bytes - done : CHUNK;

        fill(&stream, buf, CHUNK);
        if (send(s->fd, buf, len, MSG_NOSIGNAL) != (ssize_t)len)
            break;
        done += len;
    }
    shutdown(s->fd, SHUT_WR);
    return NULL;
}

static const char *receive_all(int fd, uint64_t seed, size_t bytes)
{
    struct stream stream = {seed};
    uint8_t buf[CHUNK], want[CHUNK];
    size_t done = 0;
    ssize_t n;

    while (done < bytes) {
        size_t len = bytes - done < CHUNK ? bytes - done : CHUNK;

        fill(&stream, want, CHUNK);
        n = recv(fd, buf, len, MSG_WAITALL);
        if (n != (ssize_t)len)
            return n < 0 ? "recv" : "short";
        if (memcmp(buf, want, len))
            return "different";
        done += len;
    }
    n = recv(fd, buf, 1, 0);
    return n < 0 ? "end" : n ? "more" : NULL;
}

static void *client_one(void *arg)
{
    struct client *c = arg;
    int fd = vsock_connect(c->port, 0);
    struct sender s = {
        .fd = fd, .seed = 0x9e3779b97f4a7c15ull * (c->number + 1), .bytes = c->bytes};
    pthread_t t;

    if (fd < 0 || pthread_create(&t, NULL, send_all, &s)) {
        c->error = "connect";
        c->code = errno;
        return NULL;
    }
    c->error = receive_all(fd, s.seed, s.bytes);
    c->code = errno;
    if (c->error)
        shutdown(fd, SHUT_RDWR);
    pthread_join(t, NULL);
    close(fd);
    return NULL;
}

static int client(unsigned port, unsigned count, size_t bytes)
{
    struct client *c = calloc(count, sizeof(*c));
    pthread_t *t = calloc(count, sizeof(*t));
    unsigned good = 0;

    for (unsigned i = 0; i < count; i++) {
        c[i] = (struct client){.port = port, .number = i, .bytes = bytes};
        if (pthread_create(&t[i], NULL, client_one, &c[i]))
            abort();
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(t[i], NULL);
        good += !c[i].error;
        if (c[i].error)
            printf("%u: %s (%s); ", i, c[i].error, strerror(c[i].code));
    }
    printf("%u of %u good\n", good, count);
    return 0;
}

/* ---- others ------------------------------------------------------------------------------ */

static int refused(unsigned port)
{
    printf("%s\n", vsock_connect(port, 0) < 0 ? strerror(errno) : "connected");
    return 0;
}

static int stall(unsigned port)
{
    int fd = vsock_connect(port, 0);
    uint8_t buf[CHUNK];
    size_t sent = 0;
    ssize_t n;

    memset(buf, 'x', sizeof(buf));
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};

        n = send(fd, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        else if (errno != EAGAIN || !poll(&p, 1, 1000))
            break;
    }
    printf("LODGE-TEST vsock stalled %zu %s\n", sent, strerror(errno));
    fflush(stdout);
    shutdown(fd, SHUT_WR);
    n = recv(fd, buf, sizeof(buf), 0);
    printf("LODGE-TEST vsock arrived %.*s\n", n > 0 ? (int)n : 0, (char *)buf);
    return 0;
}

static int gone(unsigned port)
{
    int fd = vsock_connect(port, 0);
    uint8_t buf[CHUNK] = {0};

    while (send(fd, buf, sizeof(buf), MSG_NOSIGNAL) > 0)
        ;
    printf("%s\n", strerror(errno));
    return 0;
}

int main(int argc, char **argv)
{
    unsigned port = argc > 2 ? (unsigned)atoi(argv[2]) : 0;

    if (argc == 3 && !strcmp(argv[1], "echo"))
        return echo(port);
    if (argc == 3 && !strcmp(argv[1], "once"))
        return once(port);
    if (argc == 5 && !strcmp(argv[1], "client"))
        return client(port, (unsigned)atoi(argv[3]), (size_t)atol(argv[4]));
    if (argc == 3 && !strcmp(argv[1], "refused"))
        return refused(port);
    if (argc == 3 && !strcmp(argv[1], "stall"))
        return stall(port);
    if (argc == 3 && !strcmp(argv[1], "gone"))
        return gone(port);
    fprintf(stderr, "usage: vsock echo|once|client|refused|stall|gone PORT [COUNT BYTES]\n");
    return 2;
}
