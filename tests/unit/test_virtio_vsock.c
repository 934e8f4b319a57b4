/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/virtio/virtio.c src/dev/virtio/queue.c src/dev/virtio/vsock.c src/dev/virtio/vsock_conn.c
 *       src/core/mem.c src/base/err.c src/base/log.c src/base/listen.c */
/* A vsock between a driver made of single packets and real sockets; nothing happens but when a case says so. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/listen.h"
#include "dev/virtio/vsock_int.h"
#include "virtio_driver.h"

#define SIZE    16
#define TX      0x100000u /* the packet that the guest sends */
#define RX(i)   (0x200000u + 0x11000u * (i))
#define RX_SIZE 0x11000u
#define CID     VIRTIO_VSOCK_CID
#define PORT    1234u /* of the server */
#define GUEST   777u

#define WRITE 2

struct fixture {
    struct mem mem;
    struct virtio_memory memory;
    struct virtio_vsock vs;
    char dir[64], path[80];
    int listen_fd, server;
    uint16_t avail[2], used[2];
    struct vsock_packet got;
    const uint8_t *data;     /* of it */
    uint32_t sent, received; /* as a good driver counts, for one connection */
};

static void on_written(void *opaque, gpa_t gpa, uint64_t len)
{
    struct fixture *f = opaque;

    assert_non_null(mem_hva(&f->mem, gpa, len));
}

static void put(struct fixture *f, gpa_t at, uint64_t val, unsigned size)
{
    assert_int_equal(mem_write(&f->mem, at, &val, size), 0);
}

static uint16_t get16(struct fixture *f, gpa_t at)
{
    uint16_t val;

    assert_int_equal(mem_read(&f->mem, at, &val, 2), 0);
    return val;
}

static void give(struct fixture *f, unsigned q, unsigned head)
{
    put(f, AVAIL(q) + 4 + 2 * (f->avail[q] % SIZE), head, 2);
    put(f, AVAIL(q) + 2, ++f->avail[q], 2);
}

static void give_rx(struct fixture *f, unsigned i)
{
    put(f, RING(0) + 16 * i, RX(i), 8);
    put(f, RING(0) + 16 * i + 8, RX_SIZE, 4);
    put(f, RING(0) + 16 * i + 12, WRITE, 4);
    give(f, 0, i);
}

/* All that there is to do, on both threads. */
static void turn(struct fixture *f)
{
    struct virtio_device *dev = &f->vs.dev;

    for (unsigned i = 0; i < 4; i++) {
        for (unsigned q = 0; q < 2; q++)
            while (atomic_load(&dev->running) && dev->ops->process(dev, q))
                ;
        virtio_vsock_turn(&f->vs, 0);
    }
}

/* Give a packet to the device, which need not take it. */
static void post(struct fixture *f, struct vsock_packet p, const void *data)
{
    assert_int_equal(mem_write(&f->mem, TX, &p, sizeof(p)), 0);
    if (data)
        assert_int_equal(mem_write(&f->mem, TX + sizeof(p), data, p.len), 0);
    put(f, RING(1), TX, 8);
    put(f, RING(1) + 8, sizeof(p) + p.len, 4);
    put(f, RING(1) + 12, 0, 4);
    give(f, 1, 0);
    turn(f);
}

static void send_packet(struct fixture *f, enum vsock_op op, uint32_t flags, const void *data,
                        uint32_t len)
{
    const struct vsock_packet p = {
        .src_cid = CID,
        .dst_cid = VSOCK_HOST,
        .src_port = GUEST,
        .dst_port = PORT,
        .len = len,
        .type = VSOCK_STREAM,
        .op = (uint16_t)op,
        .flags = flags,
        .buf_alloc = 100000,
        .fwd_cnt = f->received,
    };

    f->sent += len;
    post(f, p, data);
    assert_int_equal(get16(f, USED(1) + 2), f->avail[1]);
}

/* The next packet for the guest; its buffer goes back. */
static bool take(struct fixture *f)
{
    uint32_t elem[2];

    turn(f);
    if (get16(f, USED(0) + 2) == f->used[0])
        return false;
    assert_int_equal(mem_read(&f->mem, USED(0) + 4 + 8 * (f->used[0]++ % SIZE), elem, 8), 0);
    f->data = mem_hva(&f->mem, RX(elem[0]) + sizeof(f->got), 1);
    assert_int_equal(mem_read(&f->mem, RX(elem[0]), &f->got, sizeof(f->got)), 0);
    assert_int_equal(elem[1], sizeof(f->got) + f->got.len);
    give_rx(f, elem[0]);
    return true;
}

static void expect(struct fixture *f, enum vsock_op op)
{
    assert_true(take(f));
    assert_int_equal(f->got.op, op);
    assert_int_equal(f->got.dst_cid, CID);
    f->received += f->got.len;
}

static void expect_nothing(struct fixture *f)
{
    assert_false(take(f));
}

static void start(struct fixture *f, unsigned buffers)
{
    struct virtio_device *dev = &f->vs.dev;

    virtio_status_write(dev, 0);
    memset(mem_hva(&f->mem, RING(0), 1), 0, 0x8000);
    memset(f->avail, 0, sizeof(f->avail));
    memset(f->used, 0, sizeof(f->used));
    f->sent = f->received = 0;
    driver_start(dev, 0, 2, SIZE);
    for (unsigned i = 0; i < buffers; i++)
        give_rx(f, i);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct virtio_vsock_config cfg = {.cid = CID, .path = f->path, .no_thread = true};

    strcpy(f->dir, "/tmp/lodge-vsock.XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof(f->path), "%s/v", f->dir);
    assert_int_equal(mem_init(&f->mem, MIB(8), NULL), 0);
    f->memory = (struct virtio_memory){&f->mem, on_written, f};
    f->listen_fd = cfg.listen_fd = listen_unix(f->path, NULL);
    assert_true(f->listen_fd >= 0);
    assert_int_equal(virtio_vsock_init(&f->vs, &f->memory, &cfg, NULL), 0);
    virtio_pause(&f->vs.dev);
    f->server = -1;
    start(f, SIZE);
    *state = f;
    return 0;
}

static void server_path(struct fixture *f, char *path, size_t size)
{
    snprintf(path, size, "%s_%u", f->path, PORT);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char path[100];

    virtio_vsock_fini(&f->vs);
    close(f->listen_fd);
    unlink(f->path);
    if (f->server >= 0)
        close(f->server);
    server_path(f, path, sizeof(path));
    unlink(path);
    rmdir(f->dir);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static void server_start(struct fixture *f)
{
    char path[100];

    server_path(f, path, sizeof(path));
    f->server = listen_unix(path, NULL);
    assert_true(f->server >= 0);
}

/* A connection of the guest to the server; the server's end. */
static int opened(struct fixture *f)
{
    int fd;

    if (f->server < 0)
        server_start(f);
    f->sent = f->received = 0;
    send_packet(f, VSOCK_REQUEST, 0, NULL, 0);
    expect(f, VSOCK_RESPONSE);
    assert_int_equal(f->got.buf_alloc, VIRTIO_VSOCK_BUFFER);
    fd = accept4(f->server, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fd >= 0);
    return fd;
}

static unsigned used_places(struct fixture *f)
{
    unsigned n = 0;

    for (unsigned i = 0; i < f->vs.connections; i++)
        n += f->vs.connection[i].state != CONN_UNUSED;
    return n;
}

/* Everything that is there to read; its length. */
static size_t read_all(int fd)
{
    static char buf[1 << 16];
    size_t total = 0;
    ssize_t n;

    while ((n = read(fd, buf, sizeof(buf))) > 0)
        total += (size_t)n;
    return total;
}

static void data_goes_both_ways(void **state)
{
    struct fixture *f = *state;
    int fd = opened(f);
    char buf[64];

    assert_int_equal(f->got.src_port, PORT);
    assert_int_equal(f->got.dst_port, GUEST);
    assert_int_equal(f->got.src_cid, VSOCK_HOST);
    send_packet(f, VSOCK_RW, 0, "hello", 5);
    assert_int_equal(read(fd, buf, sizeof(buf)), 5);
    assert_memory_equal(buf, "hello", 5);
    expect_nothing(f);
    assert_int_equal(write(fd, "answer", 6), 6);
    expect(f, VSOCK_RW);
    assert_int_equal(f->got.len, 6);
    assert_int_equal(f->got.fwd_cnt, 5);
    assert_memory_equal(f->data, "answer", 6);
    send_packet(f, VSOCK_CREDIT_REQUEST, 0, NULL, 0);
    expect(f, VSOCK_CREDIT_UPDATE);
    expect_nothing(f);
    close(fd);
}

static void refuses_what_there_is_not(void **state)
{
    struct fixture *f = *state;
    struct vsock_packet p = {.src_cid = CID,
                             .dst_cid = VSOCK_HOST,
                             .src_port = GUEST,
                             .dst_port = PORT,
                             .type = VSOCK_STREAM,
                             .op = VSOCK_REQUEST};

    post(f, p, NULL);
    expect(f, VSOCK_RST);
    assert_int_equal(f->got.src_port, PORT);
    p.op = VSOCK_RW;
    post(f, p, NULL);
    expect(f, VSOCK_RST);
    p.op = 99;
    post(f, p, NULL);
    expect(f, VSOCK_RST);
    p.op = VSOCK_RST;
    post(f, p, NULL);
    expect_nothing(f);
    server_start(f);
    p.op = VSOCK_REQUEST;
    p.src_cid = 9;
    post(f, p, NULL);
    expect_nothing(f);
    p.src_cid = CID;
    p.dst_cid = 1ull << 32 | VSOCK_HOST;
    post(f, p, NULL);
    expect(f, VSOCK_RST);
    assert_int_equal(f->got.src_cid, 1ull << 32 | VSOCK_HOST);
    p.dst_cid = VSOCK_HOST;
    p.type = 2;
    post(f, p, NULL);
    expect(f, VSOCK_RST);
    assert_int_equal(f->got.type, 2);
    assert_int_equal(used_places(f), 0);
}

static void resets_a_connection_that_makes_no_sense(void **state)
{
    static const unsigned ops[] = {VSOCK_REQUEST, VSOCK_RESPONSE, 0, 8, 77};
    struct fixture *f = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        int fd = opened(f);
        char byte;

        send_packet(f, ops[i], 0, NULL, 0);
        expect(f, VSOCK_RST);
        expect_nothing(f);
        assert_int_equal(read(fd, &byte, 1), 0);
        close(fd);
        assert_int_equal(used_places(f), 0);
    }
}

static void keeps_to_the_guests_credit(void **state)
{
    struct fixture *f = *state;
    int fd = opened(f);
    char *data = malloc(150000);

    memset(data, 'x', 150000);
    assert_true(send(fd, data, 150000, MSG_DONTWAIT) == 150000);
    expect(f, VSOCK_RW);
    assert_int_equal(f->got.len, 65536);
    expect(f, VSOCK_RW);
    assert_int_equal(f->got.len, 100000 - 65536);
    expect(f, VSOCK_CREDIT_REQUEST);
    expect_nothing(f);
    send_packet(f, VSOCK_CREDIT_UPDATE, 0, NULL, 0);
    expect(f, VSOCK_RW);
    assert_int_equal(f->got.len, 50000);
    expect_nothing(f);
    /* Forwarded more than it got: such a driver gets nothing. */
    f->received += 1;
    send_packet(f, VSOCK_CREDIT_UPDATE, 0, NULL, 0);
    assert_int_equal(write(fd, "y", 1), 1);
    expect(f, VSOCK_CREDIT_REQUEST);
    expect_nothing(f);
    free(data);
    close(fd);
}

static void holds_what_the_socket_does_not_take(void **state)
{
    struct fixture *f = *state;
    int fd = opened(f);
    char data[4096] = {0};
    size_t all;

    /* Until the socket is full, and then as much as there is credit. */
    while (!f->vs.connection[0].buffered)
        send_packet(f, VSOCK_RW, 0, data, sizeof(data));
    while (take(f))
        ;
    while (f->sent - f->got.fwd_cnt + sizeof(data) <= f->got.buf_alloc) {
        send_packet(f, VSOCK_RW, 0, data, sizeof(data));
        send_packet(f, VSOCK_CREDIT_REQUEST, 0, NULL, 0);
        expect(f, VSOCK_CREDIT_UPDATE);
    }
    all = f->sent;
    assert_true(f->vs.connection[0].buffered > VIRTIO_VSOCK_BUFFER - sizeof(data));
    /* The server reads, which frees credit without being asked. */
    for (size_t got = 0; got < all; turn(f))
        got += read_all(fd);
    expect(f, VSOCK_CREDIT_UPDATE);
    while (take(f))
        ;
    assert_int_equal(f->got.fwd_cnt, all);
    assert_null(f->vs.connection[0].buffer);
    close(fd);
}

static void resets_who_overdraws(void **state)
{
    struct fixture *f = *state;
    int fd = opened(f);
    char data[4096] = {0};

    while (used_places(f) && f->vs.connection[0].state == CONN_OPEN)
        send_packet(f, VSOCK_RW, 0, data, sizeof(data));
    do
        assert_true(take(f));
    while (f->got.op == VSOCK_CREDIT_UPDATE);
    assert_int_equal(f->got.op, VSOCK_RST);
    assert_int_equal(used_places(f), 0);
    close(fd);
}

static void the_guest_shuts_down(void **state)
{
    struct fixture *f = *state;
    int fd = opened(f);
    char buf[8];

    send_packet(f, VSOCK_RW, 0, "last", 4);
    send_packet(f, VSOCK_SHUTDOWN, VSOCK_SHUT_SEND, NULL, 0);
    expect_nothing(f);
    assert_int_equal(read(fd, buf, sizeof(buf)), 4);
    assert_int_equal(read(fd, buf, sizeof(buf)), 0);
    assert_int_equal(write(fd, "but", 3), 3);
    expect(f, VSOCK_RW);
    send_packet(f, VSOCK_SHUTDOWN, VSOCK_SHUT_RECEIVE, NULL, 0);
    expect(f, VSOCK_RST);
    assert_int_equal(used_places(f), 0);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    close(fd);

    fd = opened(f);
    send_packet(f, VSOCK_SHUTDOWN, VSOCK_SHUT_RECEIVE, NULL, 0);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
    send_packet(f, VSOCK_RW, 0, "still", 5);
    assert_int_equal(read(fd, buf, sizeof(buf)), 5);
    close(fd);
    expect(f, VSOCK_SHUTDOWN);
    assert_int_equal(f->got.flags, VSOCK_SHUT_BOTH);
    send_packet(f, VSOCK_RST, 0, NULL, 0);
    expect_nothing(f);
    assert_int_equal(used_places(f), 0);
}

static void what_was_sent_before_the_end_arrives(void **state)
{
    struct fixture *f = *state;
    int fd = opened(f);
    char data[4096] = {0};
    size_t got = 0;
    char byte;

    while (!f->vs.connection[0].buffered)
        send_packet(f, VSOCK_RW, 0, data, sizeof(data));
    send_packet(f, VSOCK_SHUTDOWN, VSOCK_SHUT_BOTH, NULL, 0);
    while (take(f))
        assert_int_equal(f->got.op, VSOCK_CREDIT_UPDATE);
    /* The guest has waited long enough, and takes the ports for something else. */
    send_packet(f, VSOCK_RST, 0, NULL, 0);
    assert_int_equal(used_places(f), 1);
    assert_null(vsock_find_locked(&f->vs, GUEST, PORT));
    for (unsigned i = 0; i < 1000 && used_places(f); i++, turn(f))
        got += read_all(fd);
    got += read_all(fd);
    assert_int_equal(got, f->sent);
    assert_int_equal(read(fd, &byte, 1), 0);
    assert_int_equal(used_places(f), 0);
    close(fd);
    expect_nothing(f);
}

static void the_server_goes(void **state)
{
    struct fixture *f = *state;
    int fd = opened(f);

    assert_int_equal(write(fd, "bye", 3), 3);
    shutdown(fd, SHUT_WR);
    expect(f, VSOCK_RW);
    expect(f, VSOCK_SHUTDOWN);
    assert_int_equal(f->got.flags, VSOCK_SHUT_SEND);
    expect_nothing(f);
    close(fd);
    expect(f, VSOCK_SHUTDOWN);
    assert_int_equal(f->got.flags, VSOCK_SHUT_BOTH);
    send_packet(f, VSOCK_RW, 0, "late", 4);
    expect_nothing(f);
    send_packet(f, VSOCK_SHUTDOWN, VSOCK_SHUT_BOTH, NULL, 0);
    expect(f, VSOCK_RST);
    assert_int_equal(used_places(f), 0);
    /* It wrote and went at once. */
    fd = opened(f);
    assert_int_equal(write(fd, "bye", 3), 3);
    close(fd);
    send_packet(f, VSOCK_RW, 0, "late", 4);
    do
        assert_true(take(f));
    while (f->got.op != VSOCK_RW);
    assert_memory_equal(f->data, "bye", 3);
    expect(f, VSOCK_SHUTDOWN);
    assert_int_equal(f->got.flags, VSOCK_SHUT_BOTH);
    send_packet(f, VSOCK_RST, 0, NULL, 0);
    assert_int_equal(used_places(f), 0);
}

static int client(struct fixture *f, const char *hello)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

    strcpy(addr.sun_path, f->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(write(fd, hello, strlen(hello)), strlen(hello));
    turn(f);
    return fd;
}

static void answer(struct fixture *f, enum vsock_op op)
{
    struct vsock_packet p = f->got;

    p.op = (uint16_t)op;
    p.src_cid = CID;
    p.dst_cid = VSOCK_HOST;
    p.src_port = f->got.dst_port;
    p.dst_port = f->got.src_port;
    p.len = 0;
    p.buf_alloc = 1000;
    post(f, p, NULL);
}

static void connections_from_here(void **state)
{
    struct fixture *f = *state;
    char buf[64] = {0}, want[64];
    int fd = client(f, "CONN"), other = client(f, "CONNECT 53\n");

    expect(f, VSOCK_REQUEST);
    assert_int_equal(f->got.dst_port, 53);
    answer(f, VSOCK_RST);
    assert_int_equal(read(other, buf, 1), 0);
    close(other);
    expect_nothing(f);
    assert_int_equal(write(fd, "ECT 52\nmore", 11), 11);
    expect(f, VSOCK_REQUEST);
    assert_int_equal(f->got.dst_port, 52);
    assert_true(f->got.src_port >= VSOCK_FIRST_PORT);
    expect_nothing(f);
    assert_int_equal(read(fd, buf, 1), -1);
    answer(f, VSOCK_RESPONSE);
    snprintf(want, sizeof(want), "OK %u\n", f->got.src_port);
    assert_int_equal(read(fd, buf, sizeof(buf)), strlen(want));
    assert_string_equal(buf, want);
    expect(f, VSOCK_RW);
    assert_memory_equal(f->data, "more", 4);
    close(fd);
    expect(f, VSOCK_SHUTDOWN);
    assert_int_equal(f->got.flags, VSOCK_SHUT_BOTH);
    answer(f, VSOCK_RST);
    assert_int_equal(used_places(f), 0);
}

/* A guest that does not answer, or does not even take packets, and clients that come and go meanwhile. */
static void clients_that_give_up(void **state)
{
    struct fixture *f = *state;
    int fd = client(f, "CONNECT 1\n");

    expect(f, VSOCK_REQUEST);
    close(fd);
    expect(f, VSOCK_RST);
    assert_int_equal(used_places(f), 0);
    start(f, 0);
    for (unsigned i = 0; i < 100; i++) {
        fd = client(f, i % 2 ? "CONNECT 1\n" : "CONN");
        close(fd);
    }
    turn(f);
    assert_int_equal(used_places(f), 0);
    for (unsigned i = 0; i < SIZE; i++)
        give_rx(f, i);
    expect_nothing(f);
}

static void hellos_that_make_no_sense(void **state)
{
    static const char *const bad[] = {"\n",
                                      "CONNECT\n",
                                      "CONNECT \n",
                                      "CONNECT x\n",
                                      "CONNECT 1x\n",
                                      "CONNECT -1\n",
                                      "CONNECT  1\n",
                                      "GET / 1\n",
                                      "CONNECT 4294967295\n",
                                      "CONNECT 4294967297\n",
                                      "CONNECT 0000000000000000000000000000000001\n"};
    struct fixture *f = *state;
    int fd;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        char byte;

        fd = client(f, bad[i]);
        assert_true(read(fd, &byte, 1) == 0 || errno == ECONNRESET);
        close(fd);
        expect_nothing(f);
    }
    fd = client(f, "CONNE");
    close(fd);
    expect_nothing(f);
    assert_int_equal(used_places(f), 0);
    fd = client(f, "connect 4294967294\n");
    expect(f, VSOCK_REQUEST);
    assert_int_equal(f->got.dst_port, 4294967294u);
    close(fd);
}

/* Resets for the guest are few, and then its packets wait. */
static void a_guest_that_takes_nothing(void **state)
{
    struct fixture *f = *state;
    const struct vsock_packet p = {
        .src_cid = CID, .dst_cid = VSOCK_HOST, .type = VSOCK_STREAM, .op = VSOCK_RW};
    unsigned resets = 0;

    start(f, 0);
    for (unsigned i = 0; i < VIRTIO_VSOCK_RESETS; i++)
        post(f, p, NULL);
    assert_int_equal(get16(f, USED(1) + 2), VIRTIO_VSOCK_RESETS);
    for (unsigned i = 0; i < 5; i++)
        post(f, p, NULL);
    assert_int_equal(get16(f, USED(1) + 2), VIRTIO_VSOCK_RESETS);
    for (unsigned i = 0; i < SIZE; i++)
        give_rx(f, i);
    while (take(f))
        resets += f->got.op == VSOCK_RST;
    assert_int_equal(resets, VIRTIO_VSOCK_RESETS + 5);
    assert_int_equal(get16(f, USED(1) + 2), VIRTIO_VSOCK_RESETS + 5);
}

static void as_many_as_there_may_be(void **state)
{
    struct fixture *f = *state;
    struct vsock_packet p = {.src_cid = CID,
                             .dst_cid = VSOCK_HOST,
                             .dst_port = PORT,
                             .type = VSOCK_STREAM,
                             .op = VSOCK_REQUEST};
    int fd, accepted[64];

    server_start(f);
    listen(f->server, 100);
    /* As if there were no more. */
    while (used_places(f) < f->vs.connections - 64) {
        struct vsock_connection *c = TAILQ_FIRST(&f->vs.unused);

        TAILQ_REMOVE(&f->vs.unused, c, link);
        c->state = CONN_LINGER;
        c->fd = -1;
    }
    for (unsigned i = 0; i < 64; i++) {
        p.src_port = i;
        post(f, p, NULL);
        expect(f, VSOCK_RESPONSE);
        accepted[i] = accept(f->server, NULL, NULL);
        assert_true(accepted[i] >= 0);
    }
    p.src_port = 64;
    post(f, p, NULL);
    expect(f, VSOCK_RST);
    /* Who connects from here waits until there is room. */
    fd = client(f, "CONNECT 1\n");
    expect_nothing(f);
    p.src_port = 0;
    p.op = VSOCK_RST;
    post(f, p, NULL);
    expect(f, VSOCK_REQUEST);
    close(fd);
    for (unsigned i = 0; i < 64; i++)
        close(accepted[i]);
    start(f, SIZE);
    assert_int_equal(used_places(f), 0);
}

/* A server whose backlog is full is asked again. */
static void a_busy_server(void **state)
{
    struct fixture *f = *state;
    struct vsock_packet p = {.src_cid = CID,
                             .dst_cid = VSOCK_HOST,
                             .dst_port = PORT,
                             .type = VSOCK_STREAM,
                             .op = VSOCK_REQUEST};
    unsigned responses = 0, accepted = 0;
    int fd[32];

    server_start(f);
    for (unsigned i = 0; i < 32; i++) {
        p.src_port = i;
        post(f, p, NULL);
    }
    assert_true(f->vs.waiting > 0);
    for (unsigned i = 0; i < 1000 && responses < 32; i++) {
        int got = accept4(f->server, NULL, NULL, SOCK_NONBLOCK);

        if (got >= 0)
            fd[accepted++] = got;
        while (take(f)) {
            assert_int_equal(f->got.op, VSOCK_RESPONSE);
            responses++;
        }
    }
    assert_int_equal(responses, 32);
    assert_int_equal(f->vs.waiting, 0);
    while (accepted)
        close(fd[--accepted]);
}

static void breaks_on_malformed_packets(void **state)
{
    struct fixture *f = *state;
    struct vsock_packet p = {.src_cid = CID, .type = VSOCK_STREAM, .op = VSOCK_RW, .len = 1};

    post(f, p, "x");
    assert_int_equal(atomic_load(&f->vs.dev.status) & VIRTIO_NEEDS_RESET, 0);
    assert_int_equal(mem_write(&f->mem, TX, &p, sizeof(p)), 0);
    put(f, RING(1) + 8, sizeof(p), 4);
    give(f, 1, 0);
    turn(f);
    assert_int_not_equal(atomic_load(&f->vs.dev.status) & VIRTIO_NEEDS_RESET, 0);
    start(f, SIZE);
    put(f, RING(1) + 8, 43, 4);
    put(f, RING(1), TX, 8);
    give(f, 1, 0);
    turn(f);
    assert_int_not_equal(atomic_load(&f->vs.dev.status) & VIRTIO_NEEDS_RESET, 0);
    /* A buffer that no packet fits in. */
    start(f, 1);
    put(f, RING(0) + 8, 44, 4);
    p.op = VSOCK_REQUEST;
    p.len = 0;
    p.dst_cid = 99;
    post(f, p, NULL);
    assert_int_not_equal(atomic_load(&f->vs.dev.status) & VIRTIO_NEEDS_RESET, 0);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(data_goes_both_ways),
        CASE(refuses_what_there_is_not),
        CASE(resets_a_connection_that_makes_no_sense),
        CASE(keeps_to_the_guests_credit),
        CASE(holds_what_the_socket_does_not_take),
        CASE(resets_who_overdraws),
        CASE(the_guest_shuts_down),
        CASE(what_was_sent_before_the_end_arrives),
        CASE(the_server_goes),
        CASE(connections_from_here),
        CASE(clients_that_give_up),
        CASE(hellos_that_make_no_sense),
        CASE(a_guest_that_takes_nothing),
        CASE(as_many_as_there_may_be),
        CASE(a_busy_server),
        CASE(breaks_on_malformed_packets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
