/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The messages between a vhost-user front end and its back end (QEMU,
 * docs/interop/vhost-user; little-endian as hosts are). Each call sends one
 * and, where one is due, waits for the answer, LINK_TIMEOUT_S at most. What
 * the back end says is checked before it is used. -EPROTO: it does not keep
 * to the protocol, -ECONNRESET: it is gone, -ETIMEDOUT: it does not answer.
 */
#ifndef LODGE_BLOCK_VHOST_LINK_H
#define LODGE_BLOCK_VHOST_LINK_H

#include "base/err.h"
#include "base/types.h"

#define LINK_TIMEOUT_S  10
#define LINK_REGIONS    2
#define LINK_CONFIG_MAX 256

struct vhost_link {
    int fd;
    bool acks; /* the back end confirms messages that have no answer */
};

struct vhost_region {
    int fd;
    void *base; /* here; the back end is given the same numbers */
    uint64_t size;
};

struct vhost_ring {
    unsigned index, size;
    void *desc, *avail, *used;
    int kick_fd, call_fd;
};

/* The descriptor of a connection; err says why there is none. */
int vhost_link_connect(const char *path, struct err *err);

/*
 * Settle features: `need` are those without which it does not go on (-ENOTSUP),
 * *features gets the ones of `need` and `want` that there are.
 */
int vhost_link_features(struct vhost_link *l, uint64_t need, uint64_t want, uint64_t *features);
/* The first `len` bytes of the device's configuration. */
int vhost_link_config(struct vhost_link *l, void *buf, uint32_t len);
int vhost_link_memory(struct vhost_link *l, const struct vhost_region region[LINK_REGIONS]);
/* From here on the back end serves the ring. */
int vhost_link_ring(struct vhost_link *l, const struct vhost_ring *ring);

#endif
