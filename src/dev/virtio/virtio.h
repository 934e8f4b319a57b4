/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every virtio device is (virtio 1.2, chapter 2): status, features,
 * queues, and a thread that serves them. A device supplies virtio_device_ops,
 * the bus it is on virtio_transport_ops; neither knows the other.
 */
#ifndef LODGE_DEV_VIRTIO_VIRTIO_H
#define LODGE_DEV_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "dev/virtio/queue.h"

enum virtio_type {
    VIRTIO_NET = 1,
    VIRTIO_BLK = 2,
    VIRTIO_CONSOLE = 3,
    VIRTIO_RNG = 4,
    VIRTIO_BALLOON = 5,
    VIRTIO_VSOCK = 19,
};

#define VIRTIO_ACKNOWLEDGE 0x01u
#define VIRTIO_DRIVER      0x02u
#define VIRTIO_DRIVER_OK   0x04u
#define VIRTIO_FEATURES_OK 0x08u
#define VIRTIO_NEEDS_RESET 0x40u
#define VIRTIO_FAILED      0x80u

#define VIRTIO_F_INDIRECT  (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

#define VIRTIO_MAX_QUEUES 64

struct virtio_device;

#define VIRTIO_SAVED_PORTS 16

/* What a kind of device has beyond what all have; each uses its own part. */
struct virtio_own {
    bool link_up; /* net */
    uint8_t pairs;
    struct {
        bool guest_open, connected;
        uint8_t pending;
    } port[VIRTIO_SAVED_PORTS]; /* console */
    uint32_t actual, target;    /* balloon, pages */
    bool stats_held;
    uint16_t stats_head;
    uint32_t next_port; /* vsock */
};

/* A device that is drained, without its transport. */
struct virtio_state {
    uint64_t driver_features;
    uint8_t status, generation;
    struct virtq_state queue[VIRTIO_MAX_QUEUES];
    struct virtio_own own;
};

/*
 * All but `name` and `process` may be NULL. While `drain`, `start` and `reset`
 * run no other but `event` does, and the device's thread is not in `process`.
 */
struct virtio_device_ops {
    const char *name; /* for messages and the thread */
    /* The driver is ready (DRIVER_OK): features and queues are settled. */
    void (*start)(struct virtio_device *dev);
    /*
     * Queue `q` may hold chains. On the device's thread. True: there is more,
     * call again; return in a short time, others may be waiting.
     */
    bool (*process)(struct virtio_device *dev, unsigned q);
    /*
     * The same on the thread of the vCPU that has notified the queue, for what takes no longer than waking the device's thread
     * would. `process` does not run meanwhile. True: no chain is left; else that thread is woken for the rest.
     */
    bool (*process_now)(struct virtio_device *dev, unsigned q);
    /* The configuration's event_fd can be read. On the device's thread, not within `process`, also while it is held. */
    void (*event)(struct virtio_device *dev);
    /* Return once nothing touches guest memory or pushes a chain any more. What comes next is `reset`, or `process`. */
    void (*drain)(struct virtio_device *dev);
    /* Back to the state after power-on. */
    void (*reset)(struct virtio_device *dev);
    /*
     * What it has beyond what virtio.c knows. load comes after `reset` and, if the driver is ready, `start`; the
     * device is held meanwhile. -EINVAL when it cannot be right.
     */
    void (*save)(struct virtio_device *dev, struct virtio_own *s);
    int (*load)(struct virtio_device *dev, const struct virtio_own *s);
    /* Device configuration; any vCPU, dev->lock held; bytes [off, off+len), which may lie beyond what the device has. */
    void (*config_read)(struct virtio_device *dev, unsigned off, void *buf, unsigned len);
    void (*config_write)(struct virtio_device *dev, unsigned off, const void *buf, unsigned len);
};

/* Any thread, no lock that `lock` below is taken under. */
struct virtio_transport_ops {
    void (*queue_interrupt)(void *opaque, unsigned q);
    void (*config_interrupt)(void *opaque);
};

struct virtio_device {
    const struct virtio_device_ops *ops;
    enum virtio_type type;
    struct virtio_memory memory;
    const struct virtio_transport_ops *transport; /* NULL: nobody listens */
    void *transport_opaque;
    uint64_t features; /* offered */
    uint64_t driver_features;
    uint16_t queue_size; /* the largest, and that after reset */
    unsigned nqueues;
    struct virtq *queue;
    pthread_mutex_t lock; /* registers: status, features, settings of queues */
    _Atomic uint8_t status;
    _Atomic uint8_t generation; /* of the device's configuration */
    struct virtq_chain *chain;  /* of who holds io_lock and serves */
    pthread_t thread;
    bool thread_started;
    _Atomic bool stop;
    int kick_fd;  /* eventfd, not blocking: look at the queues */
    int event_fd; /* -1: none */
    const struct idle_watch *watch;
    pthread_mutex_t io_lock; /* held by the thread, or a vCPU's, while it serves */
    _Atomic unsigned held;   /* not 0: the thread is to stay out of `process` */
    _Atomic bool running;    /* from DRIVER_OK to reset or the first malformed chain */
};

struct virtio_config {
    const struct virtio_device_ops *ops;
    enum virtio_type type;
    struct virtio_memory memory;
    uint64_t features; /* the device's own; those of the ring are added */
    unsigned queues;
    uint16_t queue_size;
    int event_fd; /* with ops->event: what else the thread waits for, -1: nothing */
    const struct idle_watch
        *watch; /* NULL, or for vCPUs that have notified it; outlives the device */
};

/* Make it and start its thread. On failure nothing is held. */
int virtio_init(struct virtio_device *dev, const struct virtio_config *cfg, struct err *err);
/* Stops and drains it first; idempotent on a zeroed structure. */
void virtio_fini(struct virtio_device *dev);

/* ---- For transports --------------------------------------------------------------- */

/* Registers; any vCPU. Writing status 0 resets the device, and waits until its requests are over. */
uint32_t virtio_features_read(struct virtio_device *dev, uint32_t select);
uint32_t virtio_driver_features_read(struct virtio_device *dev, uint32_t select);
void virtio_driver_features_write(struct virtio_device *dev, uint32_t select, uint32_t val);
void virtio_status_write(struct virtio_device *dev, uint8_t val);
/* `queue_enable` written with 1: the settings are checked and count from now on; under dev->lock. */
void virtio_queue_enable_locked(struct virtio_device *dev, unsigned q);

/* The driver's notification. Any thread, no lock needed; the work is done elsewhere. */
void virtio_notify(struct virtio_device *dev);

/* Before virtio_notify, on the vCPU's thread: true when that is not necessary any more. Does not wait. */
bool virtio_serve_now(struct virtio_device *dev, unsigned q);

/* As the driver's reset, from outside; no vCPU runs. */
void virtio_reset(struct virtio_device *dev);

/* Between the two the device does nothing at all; it can be reset or taken apart instead of resumed. No vCPU runs. */
void virtio_pause(struct virtio_device *dev);
void virtio_resume(struct virtio_device *dev);

/*
 * Its state, while it is paused. load is for a device as after a reset; on failure (-EINVAL, the reason in *err) it is
 * as after a reset again.
 */
void virtio_save(struct virtio_device *dev, struct virtio_state *s);
int virtio_load(struct virtio_device *dev, const struct virtio_state *s, struct err *err);

/* ---- For devices ------------------------------------------------------------------- */

enum virtio_served {
    VIRTIO_SERVED, /* it was given back, or will be */
    VIRTIO_LATER,  /* not now: the chain stays where it was, until the queue is processed again */
    VIRTIO_MALFORMED, /* it makes no sense for the device */
};

/* Take up to `budget` chains from a queue and hand each to `serve`. In `process`; what it returns is what this returns. */
bool virtio_serve(struct virtio_device *dev, unsigned q, unsigned budget,
                  enum virtio_served (*serve)(struct virtio_device *dev, unsigned q,
                                              struct virtq_chain *chain));

/* Give a chain back and interrupt the driver if it wants that. Any thread, until drain returns. */
void virtio_push(struct virtio_device *dev, unsigned q, uint16_t head, uint32_t len);
void virtio_push_all(struct virtio_device *dev, unsigned q, const struct virtq_used *used,
                     unsigned n); /* at once */

/* The device can't go on: it stands still and says DEVICE_NEEDS_RESET until it gets one (2.1.2). Any thread. */
void virtio_break(struct virtio_device *dev, const char *why);

/* The device's configuration has changed. Any thread. */
void virtio_config_changed(struct virtio_device *dev);

static inline bool virtio_has(const struct virtio_device *dev, uint64_t feature)
{
    return dev->driver_features & feature;
}

#endif
