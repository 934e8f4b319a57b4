/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/virtio.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"

/* ---- The thread --------------------------------------------------------------------- */

void virtio_notify(struct virtio_device *dev)
{
    const uint64_t one = 1;

    while (write(dev->kick_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

bool virtio_serve_now(struct virtio_device *dev, unsigned q)
{
    bool done;

    /* Somebody serves already, or keeps all others out: it is for the thread, then. */
    if (!dev->ops->process_now || pthread_mutex_trylock(&dev->io_lock))
        return false;
    done = !atomic_load(&dev->held) && atomic_load(&dev->running) && dev->queue[q].ready &&
           dev->ops->process_now(dev, q);
    pthread_mutex_unlock(&dev->io_lock);
    return done;
}

/* One turn over all queues; true: again. */
static bool serve_all(struct virtio_device *dev)
{
    bool more = false;

    for (unsigned q = 0; q < dev->nqueues && atomic_load(&dev->running); q++)
        if (dev->queue[q].ready)
            more |= dev->ops->process(dev, q);
    return more && atomic_load(&dev->running);
}

static void look_at_event(struct virtio_device *dev)
{
    if (dev->event_fd >= 0)
        dev->ops->event(dev);
}

static void *device_thread(void *opaque)
{
    struct virtio_device *dev = opaque;
    struct pollfd fds[] = {{.fd = dev->kick_fd, .events = POLLIN},
                           {.fd = dev->event_fd, .events = POLLIN}};
    uint64_t count;
    bool more;

    thread_name(dev->ops->name);
    while (!atomic_load(&dev->stop)) {
        if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
            continue;
        if (fds[1].revents)
            look_at_event(dev);
        if (!fds[0].revents || read(dev->kick_fd, &count, sizeof(count)) < 0)
            continue;
        /* Who holds the device kicks it again when it lets go. */
        do {
            pthread_mutex_lock(&dev->io_lock);
            more = !atomic_load(&dev->held) && serve_all(dev);
            pthread_mutex_unlock(&dev->io_lock);
            if (more)
                look_at_event(dev);
        } while (more);
    }
    return NULL;
}

/*
 * Keep the thread out until io_release: it looks at `held` under io_lock, so
 * after this it is not in `process` and will not be. Holds nest.
 */
static void io_hold(struct virtio_device *dev)
{
    atomic_fetch_add(&dev->held, 1);
    pthread_mutex_lock(&dev->io_lock);
    pthread_mutex_unlock(&dev->io_lock);
}

static void io_release(struct virtio_device *dev)
{
    atomic_fetch_sub(&dev->held, 1);
    virtio_notify(dev);
}

static void drain(struct virtio_device *dev)
{
    if (dev->ops->drain)
        dev->ops->drain(dev);
}

void virtio_pause(struct virtio_device *dev)
{
    io_hold(dev);
    drain(dev);
}

void virtio_resume(struct virtio_device *dev)
{
    io_release(dev);
}

/* ---- Status and features ---------------------------------------------------------------- */

static void reset_locked(struct virtio_device *dev)
{
    io_hold(dev);
    atomic_store(&dev->running, false);
    drain(dev);
    for (unsigned q = 0; q < dev->nqueues; q++) {
        virtq_stop(&dev->queue[q]);
        dev->queue[q].size = dev->queue_size;
    }
    dev->driver_features = 0;
    if (dev->ops->reset)
        dev->ops->reset(dev);
    atomic_store(&dev->status, 0);
    io_release(dev);
}

void virtio_reset(struct virtio_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    reset_locked(dev);
    pthread_mutex_unlock(&dev->lock);
}

static uint32_t half(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> 32 * select) : 0;
}

uint32_t virtio_features_read(struct virtio_device *dev, uint32_t select)
{
    return half(dev->features, select);
}

uint32_t virtio_driver_features_read(struct virtio_device *dev, uint32_t select)
{
    uint32_t val;

    pthread_mutex_lock(&dev->lock);
    val = half(dev->driver_features, select);
    pthread_mutex_unlock(&dev->lock);
    return val;
}

/* Once they were accepted they stay. */
void virtio_driver_features_write(struct virtio_device *dev, uint32_t select, uint32_t val)
{
    pthread_mutex_lock(&dev->lock);
    if (select < 2 && !(atomic_load(&dev->status) & VIRTIO_FEATURES_OK)) {
        dev->driver_features &= ~(0xffffffffull << 32 * select);
        dev->driver_features |= (uint64_t)val << 32 * select;
    }
    pthread_mutex_unlock(&dev->lock);
}

static bool features_acceptable(const struct virtio_device *dev)
{
    return !(dev->driver_features & ~dev->features) && virtio_has(dev, VIRTIO_F_VERSION_1);
}

static void start_locked(struct virtio_device *dev)
{
    io_hold(dev);
    if (dev->ops->start)
        dev->ops->start(dev);
    atomic_store(&dev->running, !(atomic_load(&dev->status) & VIRTIO_NEEDS_RESET));
    io_release(dev);
}

/* The driver sets bits one after the other (3.1.1); it clears none but all. */
void virtio_status_write(struct virtio_device *dev, uint8_t val)
{
    uint8_t old, set;

    pthread_mutex_lock(&dev->lock);
    if (!val) {
        reset_locked(dev);
        pthread_mutex_unlock(&dev->lock);
        return;
    }
    old = atomic_load(&dev->status);
    set = val & ~old & ~VIRTIO_NEEDS_RESET;
    if ((set & VIRTIO_FEATURES_OK) && !features_acceptable(dev))
        set &= ~VIRTIO_FEATURES_OK;
    if ((set & VIRTIO_DRIVER_OK) && !((old | set) & VIRTIO_FEATURES_OK))
        set &= ~VIRTIO_DRIVER_OK;
    atomic_fetch_or(&dev->status, set);
    if (set & VIRTIO_DRIVER_OK)
        start_locked(dev);
    pthread_mutex_unlock(&dev->lock);
}

void virtio_queue_enable_locked(struct virtio_device *dev, unsigned n)
{
    struct virtq *q = &dev->queue[n];

    if (q->enabled)
        return;
    q->enabled = true;
    io_hold(dev);
    if (virtq_start(q, virtio_has(dev, VIRTIO_F_EVENT_IDX), virtio_has(dev, VIRTIO_F_INDIRECT)) < 0)
        virtio_break(dev, "a queue's size or addresses cannot be right");
    io_release(dev);
}

/* ---- State ------------------------------------------------------------------------------ */

#define STATUS_KNOWN                                                                               \
    (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK |                  \
     VIRTIO_NEEDS_RESET | VIRTIO_FAILED)

void virtio_save(struct virtio_device *dev, struct virtio_state *s)
{
    memset(s, 0, sizeof(*s));
    pthread_mutex_lock(&dev->lock);
    s->driver_features = dev->driver_features;
    s->status = atomic_load(&dev->status);
    s->generation = atomic_load(&dev->generation);
    for (unsigned q = 0; q < dev->nqueues; q++)
        virtq_save(&dev->queue[q], &s->queue[q]);
    if (dev->ops->save)
        dev->ops->save(dev, &s->own);
    pthread_mutex_unlock(&dev->lock);
}

static int state_refuse(const struct virtio_device *dev, const char *why, struct err *err)
{
    return err_set(err, -EINVAL, "the saved state of a %s device cannot be right: %s",
                   dev->ops->name, why);
}

static int state_check_locked(const struct virtio_device *dev, const struct virtio_state *s,
                              struct err *err)
{
    if ((s->status & VIRTIO_DRIVER_OK) && !(s->status & VIRTIO_FEATURES_OK))
        return state_refuse(dev, "its driver is ready without having settled features", err);
    if (s->status & ~STATUS_KNOWN)
        return state_refuse(dev, "its status has bits that there are not", err);
    if ((s->status & VIRTIO_FEATURES_OK) && (s->driver_features & ~dev->features)) {
        err_set(err, -EINVAL,
                "the guest's driver uses features 0x%llx of a %s device, which has them not here",
                (unsigned long long)(s->driver_features & ~dev->features), dev->ops->name);
        return err_next(err, "Give the guest what it had: the same disks, networks and options.");
    }
    return 0;
}

static int queues_load_locked(struct virtio_device *dev, const struct virtio_state *s,
                              struct err *err)
{
    for (unsigned q = 0; q < dev->nqueues; q++) {
        if (s->queue[q].size > dev->queue_size)
            return state_refuse(dev, "a queue is larger than the device's", err);
        if (virtq_load(&dev->queue[q], &s->queue[q], virtio_has(dev, VIRTIO_F_EVENT_IDX),
                       virtio_has(dev, VIRTIO_F_INDIRECT)) < 0)
            return state_refuse(dev, "a queue's size or addresses", err);
    }
    return 0;
}

int virtio_load(struct virtio_device *dev, const struct virtio_state *s, struct err *err)
{
    bool ready = s->status & VIRTIO_DRIVER_OK;
    int code;

    pthread_mutex_lock(&dev->lock);
    io_hold(dev);
    code = state_check_locked(dev, s, err);
    if (!code) {
        dev->driver_features = s->driver_features;
        code = queues_load_locked(dev, s, err);
    }
    if (!code && ready && dev->ops->start)
        dev->ops->start(dev);
    if (!code && dev->ops->load && dev->ops->load(dev, &s->own) < 0)
        code = state_refuse(dev, "what is its own", err);
    if (!code) {
        atomic_store(&dev->status, s->status);
        atomic_store(&dev->generation, s->generation);
        atomic_store(&dev->running, ready && !(s->status & VIRTIO_NEEDS_RESET));
    } else {
        reset_locked(dev);
    }
    io_release(dev);
    pthread_mutex_unlock(&dev->lock);
    return code;
}

/* ---- What devices use ----------------------------------------------------------------- */

void virtio_break(struct virtio_device *dev, const char *why)
{
    uint8_t old = atomic_fetch_or(&dev->status, VIRTIO_NEEDS_RESET);

    atomic_store(&dev->running, false);
    if (old & VIRTIO_NEEDS_RESET)
        return;
    log_once(LOG_WARN, "a guest's driver broke its %s device, which waits for a reset: %s",
             dev->ops->name, why);
    if ((old & VIRTIO_DRIVER_OK) && dev->transport)
        dev->transport->config_interrupt(dev->transport_opaque);
}

void virtio_config_changed(struct virtio_device *dev)
{
    atomic_fetch_add(&dev->generation, 1);
    if ((atomic_load(&dev->status) & VIRTIO_DRIVER_OK) && dev->transport)
        dev->transport->config_interrupt(dev->transport_opaque);
}

void virtio_push(struct virtio_device *dev, unsigned q, uint16_t head, uint32_t len)
{
    const struct virtq_used used = {head, len};

    virtio_push_all(dev, q, &used, 1);
}

void virtio_push_all(struct virtio_device *dev, unsigned q, const struct virtq_used *used,
                     unsigned n)
{
    if (virtq_push(&dev->queue[q], used, n) && dev->transport)
        dev->transport->queue_interrupt(dev->transport_opaque, q);
}

bool virtio_serve(struct virtio_device *dev, unsigned n, unsigned budget,
                  enum virtio_served (*serve)(struct virtio_device *dev, unsigned q,
                                              struct virtq_chain *chain))
{
    struct virtq *q = &dev->queue[n];

    virtq_spare_notify(q);
    while (budget) {
        int got = virtq_pop(q, dev->chain);

        if (got < 0) {
            virtio_break(dev, q->malformed);
            return false;
        }
        if (!got) {
            if (!virtq_want_notify(q))
                return false;
            virtq_spare_notify(q);
            budget--;
            continue;
        }
        budget--;
        switch (serve(dev, n, dev->chain)) {
        case VIRTIO_SERVED:
            break;
        case VIRTIO_LATER:
            virtq_unpop(q, 1);
            return false;
        case VIRTIO_MALFORMED:
            virtio_break(dev, "a request has not the parts it must have");
            return false;
        }
    }
    return true;
}

/* ---- Making --------------------------------------------------------------------------- */

static int thread_start(struct virtio_device *dev, struct err *err)
{
    sigset_t all, old;
    int rc;

    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&dev->thread, NULL, device_thread, dev);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return err_set(err, -rc, "cannot start a thread for a %s device: %s", dev->ops->name,
                       strerror(rc));
    dev->thread_started = true;
    return 0;
}

int virtio_init(struct virtio_device *dev, const struct virtio_config *cfg, struct err *err)
{
    int code;

    memset(dev, 0, sizeof(*dev));
    dev->ops = cfg->ops;
    dev->type = cfg->type;
    dev->memory = cfg->memory;
    dev->features = cfg->features | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT;
    dev->queue_size = cfg->queue_size;
    dev->event_fd = cfg->ops->event ? cfg->event_fd : -1;
    dev->watch = cfg->watch;
    pthread_mutex_init(&dev->lock, NULL);
    pthread_mutex_init(&dev->io_lock, NULL);
    dev->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dev->queue = calloc(cfg->queues, sizeof(*dev->queue));
    dev->chain = malloc(sizeof(*dev->chain));
    if (dev->kick_fd < 0)
        code = err_set(err, -errno, "cannot make an eventfd for a %s device: %s", cfg->ops->name,
                       strerror(errno));
    else if (!dev->queue || !dev->chain)
        code = err_set(err, -ENOMEM, "no memory for a %s device", cfg->ops->name);
    else
        code = 0;
    for (unsigned q = 0; !code && q < cfg->queues; q++) {
        virtq_init(&dev->queue[q], &dev->memory);
        dev->queue[q].size = cfg->queue_size;
        dev->nqueues = q + 1;
    }
    if (!code)
        code = thread_start(dev, err);
    if (code < 0)
        virtio_fini(dev);
    return code;
}

void virtio_fini(struct virtio_device *dev)
{
    if (!dev->ops)
        return;
    atomic_store(&dev->running, false);
    if (dev->thread_started) {
        /* The thread ends last: what it has under way may need it. */
        virtio_pause(dev);
        atomic_store(&dev->stop, true);
        virtio_notify(dev);
        pthread_join(dev->thread, NULL);
    }
    for (unsigned q = 0; q < dev->nqueues; q++)
        virtq_fini(&dev->queue[q]);
    free(dev->queue);
    free(dev->chain);
    if (dev->kick_fd >= 0)
        close(dev->kick_fd);
    pthread_mutex_destroy(&dev->io_lock);
    pthread_mutex_destroy(&dev->lock);
    memset(dev, 0, sizeof(*dev));
}
