/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's end of network tests.
 *   net swap ADDR PORT [BYTES]     standard input goes there by TCP, what comes back to standard output; with a
 *                                  receive buffer of this size
 *   net udp ADDR PORT COUNT SIZE   that many datagrams, each sent until it comes back; prints how many did
 *   net echo PORT                  give back what comes by TCP and UDP, until a datagram says bye
 */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buf[1 << 16], got[1 << 16];

static void must(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    exit(1);
}

static int dial(const char *addr, const char *port, int type, int room)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int v6 = strchr(addr, ':') != NULL;
    int fd = socket(v6 ? AF_INET6 : AF_INET, type, 0);

    if (room)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    must(inet_pton(v6 ? AF_INET6 : AF_INET, addr,
                   v6 ? (void *)&in6.sin6_addr : (void *)&in.sin_addr) == 1,
         addr);
    must(!connect(fd, v6 ? (struct sockaddr *)&in6 : (struct sockaddr *)&in,
                  v6 ? sizeof(in6) : sizeof(in)),
         "connect");
    return fd;
}

static void put(int fd, const char *p, ssize_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, p, n);

        must(done > 0, "write");
        p += done;
        n -= done;
    }
}

/* Both ways at once: neither end may wait for the other to take what it sends. */
static int swap(const char *addr, const char *port, int room)
{
    int fd = dial(addr, port, SOCK_STREAM, room);
    ssize_t have = 0, at = 0, n;
    int more = 1;

    for (;;) {
        struct pollfd p = {fd, POLLIN | (more ? POLLOUT : 0), 0};

        must(poll(&p, 1, -1) > 0, "poll");
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            n = recv(fd, got, sizeof(got), MSG_DONTWAIT);
            if (!n)
                return 0;
            if (n > 0)
                put(1, got, n);
        }
        if (!more || !(p.revents & POLLOUT))
            continue;
        if (at == have) {
            at = 0;
            have = read(0, buf, sizeof(buf));
            if (have <= 0) {
                more = 0;
                shutdown(fd, SHUT_WR);
                continue;
            }
        }
        n = send(fd, buf + at, have - at, MSG_DONTWAIT);
        at += n > 0 ? n : 0;
    }
}

static int udp(const char *addr, const char *port, int count, int size)
{
    int fd = dial(addr, port, SOCK_DGRAM, 0), back = 0;

    for (int i = 0; i < count; i++) {
        int done = 0;

        for (int k = 0; k < size; k++)
            buf[k] = (char)(i * 31 + k * 7 + (k >> 8));
        for (int tries = 0; !done && tries < 30; tries++) {
            struct pollfd p = {fd, POLLIN, 0};

            send(fd, buf, size, 0);
            while (!done && poll(&p, 1, 1000) > 0)
                done = recv(fd, got, sizeof(got), 0) == size && !memcmp(buf, got, size);
        }
        back += done;
    }
    printf("%d\n", back);
    return 0;
}

static int bound(int port, int type)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, type, 0), on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    must(!bind(fd, (struct sockaddr *)&in6, sizeof(in6)), "bind");
    must(type != SOCK_STREAM || !listen(fd, 64), "listen");
    return fd;
}

static int echo(int port)
{
    struct pollfd p[2] = {{bound(port, SOCK_STREAM), POLLIN, 0},
                          {bound(port, SOCK_DGRAM), POLLIN, 0}};

    signal(SIGCHLD, SIG_IGN);
    puts("LODGE-TEST net serving");
    fflush(stdout);
    for (;;) {
        must(poll(p, 2, -1) > 0, "poll");
        if (p[0].revents) {
            int fd = accept(p[0].fd, NULL, NULL);
            ssize_t n;

            if (fd >= 0 && !fork()) {
                while ((n = read(fd, buf, sizeof(buf))) > 0)
                    put(fd, buf, n);
                _exit(0);
            }
            close(fd);
        }
        if (p[1].revents) {
            struct sockaddr_in6 from;
            socklen_t len = sizeof(from);
            ssize_t n = recvfrom(p[1].fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

            if (n == 3 && !memcmp(buf, "bye", 3))
                return 0;
            if (n >= 0)
                sendto(p[1].fd, buf, n, 0, (struct sockaddr *)&from, len);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc >= 4 && !strcmp(argv[1], "swap"))
        return swap(argv[2], argv[3], argc > 4 ? atoi(argv[4]) : 0);
    if (argc == 6 && !strcmp(argv[1], "udp"))
        return udp(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
    if (argc == 3 && !strcmp(argv[1], "echo"))
        return echo(atoi(argv[2]));
    return 2;
}
