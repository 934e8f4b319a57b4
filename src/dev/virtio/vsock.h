/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * virtio-vsock (virtio 1.2, 5.10): stream sockets between programs in the
 * guest and programs here, which see UNIX sockets. A connection of the guest
 * to port N of the host (CID 2) becomes one to the socket PATH_N. Who connects
 * to PATH sends "CONNECT N\n" to get to port N of the guest, and is answered
 * "OK M\n" with the port that the guest sees.
 */
#ifndef LODGE_DEV_VIRTIO_VSOCK_H
#define LODGE_DEV_VIRTIO_VSOCK_H

#include <sys/queue.h>

#include "dev/virtio/virtio.h"

#define VIRTIO_VSOCK_CID 3 /* what a guest is by itself; only it sees the number */

#define VIRTIO_VSOCK_CONNECTIONS 1024
#define VIRTIO_VSOCK_BUFFER      KIB(128) /* of what the guest sends, for each connection */
#define VIRTIO_VSOCK_RESETS      128
#define VIRTIO_VSOCK_BUCKETS     256

struct vsock_connection; /* vsock_int.h */

TAILQ_HEAD(vsock_list, vsock_connection);

/* A reset to be sent to a connection that there is not. */
struct vsock_reset {
    uint64_t cid; /* whom the guest thinks it comes from */
    uint32_t port, guest_port;
    uint16_t type;
};

struct virtio_vsock {
    struct virtio_device dev;
    uint64_t cid;
    char *path;
    int listen_fd;        /* the caller's */
    pthread_mutex_t lock; /* all below, and queues 0 and 2 */
    bool open;            /* queues may be touched */
    struct vsock_connection *connection, *bucket[VIRTIO_VSOCK_BUCKETS];
    unsigned connections; /* how many there may be */
    struct vsock_list unused, ready;
    unsigned waiting; /* connections in CONN_WAITING */
    uint32_t next_port;
    struct vsock_reset reset[VIRTIO_VSOCK_RESETS]; /* a ring */
    unsigned reset_first, resets;
    bool event_due;  /* the guest is to hear that all connections are gone */
    bool tx_stalled; /* the guest's packets wait for room in it */
    bool accept_ready,
        accept_failed;         /* somebody may be waiting at listen_fd; there was no descriptor */
    struct virtq_chain *chain; /* of queue 0 */
    struct virtq_used *used;
    int epoll_fd, wake_fd;
    pthread_t thread;
    bool thread_started;
    _Atomic bool stop;
};

struct virtio_vsock_config {
    uint64_t cid;
    const char *path; /* at most VIRTIO_VSOCK_PATH characters; copied */
    int listen_fd;    /* listening at `path`, not blocking; the caller's */
    bool
        no_thread; /* who makes it calls virtio_vsock_turn instead: tests that want a fixed order */
};

#define VIRTIO_VSOCK_PATH 96 /* with _4294967295 it is still a socket's */

int virtio_vsock_init(struct virtio_vsock *vs, const struct virtio_memory *memory,
                      const struct virtio_vsock_config *cfg, struct err *err);
void virtio_vsock_fini(struct virtio_vsock *vs); /* idempotent on a zeroed structure */

/* Wait at most `timeout` ms (-1: for ever) for what sockets have to say, and act on it. */
void virtio_vsock_turn(struct virtio_vsock *vs, int timeout);

#endif
