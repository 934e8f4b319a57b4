/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between vsock.c, which moves packets, and vsock_conn.c, which knows connections. All under vs->lock. */
#ifndef LODGE_DEV_VIRTIO_VSOCK_INT_H
#define LODGE_DEV_VIRTIO_VSOCK_INT_H

#include "dev/virtio/vsock.h"

#define VSOCK_HOST       2           /* CID */
#define VSOCK_STREAM     1           /* type */
#define VSOCK_FIRST_PORT 0x40000000u /* of those given to connections from here */
#define VSOCK_HELLO_MAX  32

#define VSOCK_SHUT_RECEIVE 1u
#define VSOCK_SHUT_SEND    2u
#define VSOCK_SHUT_BOTH    3u

enum vsock_op {
    VSOCK_REQUEST = 1,
    VSOCK_RESPONSE = 2,
    VSOCK_RST = 3,
    VSOCK_SHUTDOWN = 4,
    VSOCK_RW = 5,
    VSOCK_CREDIT_UPDATE = 6,
    VSOCK_CREDIT_REQUEST = 7,
};

/* 5.10.6 */
struct vsock_packet {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

_Static_assert(sizeof(struct vsock_packet) == 44, "virtio 1.2, 5.10.6");

enum vsock_state {
    CONN_UNUSED,
    CONN_HELLO,   /* from here: its "CONNECT port" is being read; has no ports yet */
    CONN_ASKED,   /* from here: the guest has not answered */
    CONN_WAITING, /* from the guest: the server has no room for it at the moment */
    CONN_OPEN,
    CONN_CLOSED, /* no socket any more; the guest has been told, and has yet to agree */
    CONN_RESET,  /* RST is to be sent, and then it is over */
    CONN_LINGER, /* over for the guest; what it sent before is still going out; has no ports any more */
};

struct vsock_connection {
    TAILQ_ENTRY(vsock_connection) link; /* in `unused` or, when `queued`, in `ready` */
    struct vsock_connection *next;      /* in its bucket */
    enum vsock_state state;
    uint32_t generation; /* tells events of the last user of this place */
    uint32_t guest_port, port;
    int fd;
    bool queued;
    unsigned pending; /* bits 1 << enum vsock_op: to be sent to the guest */
    /* To the guest. */
    uint32_t sent, peer_alloc, peer_fwd;
    bool readable, eof, hung_up; /* as the socket said last */
    bool asked_credit;
    unsigned shut; /* what the guest was told: VSOCK_SHUT_* */
    /* From the guest: `buffered` bytes of `buffer` from `first` on; received - forwarded == buffered. */
    uint32_t received, forwarded, told; /* told: `forwarded` as the guest knows it */
    uint8_t *buffer;                    /* VIRTIO_VSOCK_BUFFER bytes; NULL while nothing is in it */
    uint32_t first, buffered;
    bool deaf; /* the socket takes nothing any more */
    unsigned peer_shut;
    uint64_t deadline; /* CONN_WAITING: CLOCK_MONOTONIC ns */
    char hello[VSOCK_HELLO_MAX];
    unsigned hello_len;
};

/* The one between these ports, or NULL. */
struct vsock_connection *vsock_find_locked(struct virtio_vsock *vs, uint32_t guest_port,
                                           uint32_t port);

/* A packet from the guest for it; data is in the chain's buffers behind the header. */
void vsock_receive_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                          const struct vsock_packet *p, const struct virtq_chain *chain);

/* The guest asks for a connection that there is not. False: it is to be refused. */
bool vsock_request_locked(struct virtio_vsock *vs, const struct vsock_packet *p);

/*
 * The next packet for the guest, with its data put behind `room` for the
 * header; 0: there is none, for now. After VSOCK_RST `c` is gone.
 */
enum vsock_op vsock_next_locked(struct virtio_vsock *vs, struct vsock_connection *c,
                                const struct virtq_chain *chain, struct vsock_packet *p);
bool vsock_has_more(const struct vsock_connection *c);

/* Put it into `ready` if it has something for the guest. */
void vsock_ready_locked(struct virtio_vsock *vs, struct vsock_connection *c);

/* What epoll says about its socket. */
void vsock_event_locked(struct virtio_vsock *vs, struct vsock_connection *c, uint32_t events);

/* Take who waits at the listening socket, as far as there is room. */
void vsock_accept_locked(struct virtio_vsock *vs);

/* Try again to connect those in CONN_WAITING. */
void vsock_retry_locked(struct virtio_vsock *vs);

/* Every connection is gone, without a word to the guest. */
void vsock_drop_all_locked(struct virtio_vsock *vs);

/* Have the socket thread look again. Any thread. */
void vsock_wake(struct virtio_vsock *vs);

#endif
