/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/virtio/virtio.c src/dev/virtio/queue.c src/dev/virtio/console.c src/core/mem.c src/base/err.c
 *       src/base/log.c */
/* A port, driven queue by queue; the device's thread stays out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/virtio/console.h"
#include "virtio_driver.h"

#define SIZE     8
#define BUFFER   MIB(2)
#define QUEUE_TX 1

struct fixture {
    struct mem mem;
    struct virtio_memory memory;
    struct virtio_console con;
    uint16_t avail;
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

static unsigned used(struct fixture *f)
{
    uint16_t val;

    assert_int_equal(mem_read(&f->mem, USED(QUEUE_TX) + 2, &val, 2), 0);
    return val;
}

static int setup(void **state)
{
    const struct virtio_console_config cfg = {.ports = 1, .port = {{"port", -1}}};
    struct fixture *f = calloc(1, sizeof(*f));
    struct virtio_device *dev = &f->con.dev;

    assert_int_equal(mem_init(&f->mem, MIB(8), NULL), 0);
    f->memory = (struct virtio_memory){&f->mem, on_written, f};
    assert_int_equal(virtio_console_init(&f->con, &f->memory, &cfg, NULL), 0);
    virtio_pause(dev);
    driver_start(dev, 0, 2, SIZE);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_console_fini(&f->con);
    mem_fini(&f->mem);
    free(f);
    return 0;
}

static void send_chain(struct fixture *f, uint32_t len)
{
    put(f, RING(QUEUE_TX), BUFFER, 8);
    put(f, RING(QUEUE_TX) + 8, len, 4);
    put(f, RING(QUEUE_TX) + 12, 0, 4);
    put(f, AVAIL(QUEUE_TX) + 4 + 2 * (f->avail % SIZE), 0, 2);
    put(f, AVAIL(QUEUE_TX) + 2, ++f->avail, 2);
}

static void turn(struct fixture *f)
{
    f->con.dev.ops->process(&f->con.dev, QUEUE_TX);
}

/* A large chain goes in parts, between which the thread can do something else, such as stop. */
static void sends_in_parts(void **state)
{
    struct fixture *f = *state;

    send_chain(f, MIB(3) + 1);
    for (unsigned i = 0; i < 3; i++) {
        turn(f);
        assert_int_equal(used(f), 0);
    }
    turn(f);
    assert_int_equal(used(f), 1);
    send_chain(f, 100);
    turn(f);
    assert_int_equal(used(f), 2);
}

/* The parts are all there, in order, although the other end takes less at a time. */
static void sends_all_of_it(void **state)
{
    struct fixture *f = *state;
    uint8_t *bytes = mem_hva(&f->mem, BUFFER, MIB(3)), buf[65536];
    size_t got = 0;
    int pair[2];

    for (size_t i = 0; i < MIB(3); i++)
        bytes[i] = (uint8_t)(i * 7 + (i >> 12));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    pthread_mutex_lock(&f->con.lock);
    f->con.port[0].fd = pair[0];
    pthread_mutex_unlock(&f->con.lock);
    send_chain(f, MIB(3));
    while (got < MIB(3)) {
        ssize_t n;

        turn(f);
        while ((n = read(pair[1], buf, sizeof(buf))) > 0) {
            assert_memory_equal(buf, bytes + got, (size_t)n);
            got += (size_t)n;
        }
    }
    turn(f);
    assert_int_equal(used(f), 1);
    close(pair[1]);
}

/* A console has a size, which changes, and no control queues; what comes and goes is a stream. */
static void is_a_console(void **state)
{
    struct fixture *f = *state;
    struct virtio_console_config cfg = {.console = true, .cols = 80, .rows = 25};
    struct virtio_device *dev = &f->con.dev;
    uint16_t size[2];
    uint32_t ports;
    uint8_t generation;
    int pair[2];

    virtio_console_fini(&f->con);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    cfg.fd = pair[0];
    assert_int_equal(virtio_console_init(&f->con, &f->memory, &cfg, NULL), 0);
    virtio_pause(dev);
    assert_int_equal(dev->nqueues, 2);
    assert_int_equal(dev->features & 3, 1);
    driver_start(dev, 1, 2, SIZE);
    generation = dev->generation;
    dev->ops->config_read(dev, 0, size, sizeof(size));
    dev->ops->config_read(dev, 4, &ports, sizeof(ports));
    assert_true(size[0] == 80 && size[1] == 25 && !ports);
    virtio_console_resize(&f->con, 132, 43);
    virtio_console_resize(&f->con, 132, 43);
    dev->ops->config_read(dev, 0, size, sizeof(size));
    assert_true(size[0] == 132 && size[1] == 43);
    assert_int_equal(dev->generation, (uint8_t)(generation + 1));
    /* The other end goes: there are no queues to say so in. */
    close(pair[1]);
    dev->ops->process(dev, 0);
    dev->ops->process(dev, 1);
    for (unsigned i = 0; i < 200; i++)
        usleep(1000);
    assert_false(dev->status & VIRTIO_NEEDS_RESET);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(sends_in_parts),
        CASE(sends_all_of_it),
        CASE(is_a_console),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
