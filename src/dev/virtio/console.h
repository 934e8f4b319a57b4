/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-console (virtio 1.2, 5.3) as a set of named ports: what is written to
 * one in the guest goes to whoever is connected to its socket here, and back.
 * Or as a console (hvc0 in Linux): one port, connected for good, with a size.
 */
#ifndef LODGE_DEV_VIRTIO_CONSOLE_H
#define LODGE_DEV_VIRTIO_CONSOLE_H

#include "dev/virtio/virtio.h"

#define VIRTIO_CONSOLE_PORTS 16
#define VIRTIO_CONSOLE_NAME  64

struct virtio_console_port {
    char name[VIRTIO_CONSOLE_NAME]; /* /dev/virtio-ports/NAME */
    int listen_fd;                  /* not blocking; the caller's */
    int fd;                         /* who is connected, -1: nobody */
    bool guest_open;                /* a program in the guest has it open */
    bool tx_blocked;                /* the other end takes nothing for now */
    bool rx_starved;                /* the guest has given no buffers */
    bool hung_up;                   /* the other end is gone; what it sent waits to be read */
    size_t tx_done;                 /* bytes of the first chain that have gone out already */
    unsigned pending;               /* control messages that the guest is to get */
};

struct virtio_console {
    struct virtio_device dev;
    unsigned count;
    bool console;          /* its one port is connected for good, and there are no control queues */
    _Atomic uint32_t size; /* of the console: columns, and rows << 16 */
    struct virtio_console_port port[VIRTIO_CONSOLE_PORTS];
    pthread_mutex_t lock;      /* ports, and every queue but the transmitting ones */
    bool open;                 /* queues may be touched */
    struct virtq_chain *chain; /* under lock */
    pthread_t thread;
    bool thread_started;
    _Atomic bool stop;
    int wake_fd;
};

struct virtio_console_config {
    bool console; /* what follows but fd, cols and rows is not looked at then */
    int fd;       /* a stream socket, not blocking; the device's, also when it cannot be made */
    uint16_t cols, rows; /* 0: not known */
    unsigned ports;      /* 1 to VIRTIO_CONSOLE_PORTS */
    struct {
        const char *name; /* shorter than VIRTIO_CONSOLE_NAME */
        int listen_fd;    /* a listening stream socket, not blocking; the caller's */
    } port[VIRTIO_CONSOLE_PORTS];
};

int virtio_console_init(struct virtio_console *con, const struct virtio_memory *memory,
                        const struct virtio_console_config *cfg, struct err *err);
/* A console's terminal has another size. Any thread. */
void virtio_console_resize(struct virtio_console *con, uint16_t cols, uint16_t rows);

void virtio_console_fini(struct virtio_console *con); /* idempotent on a zeroed structure */

#endif
