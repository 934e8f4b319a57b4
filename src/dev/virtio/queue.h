/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Split virtqueues (virtio 1.2, 2.7) from the device's side: the one place
 * where descriptors are read. Each is copied once and everything about it is
 * checked before a device sees it.
 */
#ifndef LODGE_DEV_VIRTIO_QUEUE_H
#define LODGE_DEV_VIRTIO_QUEUE_H

#include <pthread.h>
#include <sys/uio.h>

#include "core/mem.h"

#define VIRTQ_SIZE_MAX 1024 /* entries of a queue */
#define VIRTQ_IOV_MAX  1024 /* buffers of a chain, however it is put together */

/* Guest memory as devices see it. */
struct virtio_memory {
    struct mem *mem;
    void (*written)(void *opaque, gpa_t gpa, uint64_t len); /* after each write to it; any thread */
    void *opaque;
};

struct virtq {
    const struct virtio_memory *memory;
    /* What the driver has set; not used any more once virtq_start has looked at it. */
    uint16_t size;
    gpa_t desc, driver, device;
    bool enabled;
    /* From virtq_start to virtq_stop. */
    bool ready;
    bool event_idx, indirect;
    bool keeps; /* the device's, for good: it writes to no buffer */
    hva_t desc_ring, avail_ring, used_ring;
    uint16_t next_avail;
    uint16_t next_used;        /* written under used_lock */
    pthread_mutex_t used_lock; /* used entries may come from several threads */
    const char *malformed;     /* why virtq_pop refused */
};

/* Buffers of one request, in guest memory: first `out` that the device reads, then `in` that it writes; none is empty. */
struct virtq_chain {
    uint16_t head;
    unsigned out, in;
    uint32_t out_len, in_len;
    struct iovec iov[VIRTQ_IOV_MAX];
};

void virtq_init(struct virtq *q, const struct virtio_memory *memory);
void virtq_fini(struct virtq *q);

/*
 * Take up a queue whose size and addresses are set. -EINVAL when they are not
 * as they must be (a power of two, aligned, in RAM); it is not ready then.
 */
int virtq_start(struct virtq *q, bool event_idx, bool indirect);

/* A queue of which no chain is with the device, but for those that the device names itself. */
struct virtq_state {
    uint64_t desc, driver, device;
    uint16_t size, next_avail, next_used;
    bool enabled, ready;
};

/* The device is drained. load: as virtq_start, if it was ready, and -EINVAL as there. */
void virtq_save(const struct virtq *q, struct virtq_state *s);
int virtq_load(struct virtq *q, const struct virtq_state *s, bool event_idx, bool indirect);

void virtq_stop(struct virtq *q); /* forget everything, the driver's settings included */

/*
 * Take the next chain: 1, or 0 when there is none. -EINVAL when it is
 * malformed, with q->malformed saying why; what is in `chain` is then useless,
 * and the queue is to be left alone until it is stopped. One thread at a time.
 */
int virtq_pop(struct virtq *q, struct virtq_chain *chain);

/* Put the last `n` chains back, as if they had not been taken. The thread of virtq_pop; none was given back since. */
void virtq_unpop(struct virtq *q, unsigned n);

struct virtq_used {
    uint32_t head, len; /* of the chain, and bytes written to it */
};

/* Give chains back, so that the driver sees all of them at once. True: it wants an interrupt. Any thread. */
bool virtq_push(struct virtq *q, const struct virtq_used *used, unsigned n);

/* Has the driver taken all that was given back, as far as it shows? It shows it with event indexes only. Any thread. */
bool virtq_all_taken(struct virtq *q);

/*
 * Ask the driver for notifications, or tell it to spare them. want is true when there may be chains that it gave
 * before it saw that, for which no notification will come. The thread of virtq_pop.
 */
bool virtq_want_notify(struct virtq *q);
void virtq_spare_notify(struct virtq *q);

/* Copy up to `len` bytes out of buffers, from `skip` on; the number copied. */
size_t virtq_read(const struct iovec *iov, unsigned n, size_t skip, void *buf, size_t len);

/* Copy into buffers and say that they were written. */
size_t virtq_write(const struct virtq *q, const struct iovec *iov, unsigned n, size_t skip,
                   const void *buf, size_t len);

/* Something else wrote the first `len` bytes of these buffers. */
void virtq_written(const struct virtq *q, const struct iovec *iov, unsigned n, size_t len);

/* dst gets the part [skip, skip+len) of iov, as far as there is one; the number of its elements, at most n. */
unsigned virtq_slice(const struct iovec *iov, unsigned n, size_t skip, size_t len,
                     struct iovec *dst);

#endif
