/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/ioevent.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "core/machine.h"
#include "engine/engine.h"

#define STOP_ID   UINT64_MAX
#define MAX_READY 16

struct bell {
    struct ioevent ev;
    bool asked, in_engine; /* the engine was asked to take it, and has */
};

struct irq_slot {
    bool used, in_engine;
    int fd;
    struct irqevent ev;
};

struct ioevents {
    struct vm *vm;
    _Atomic unsigned count; /* of `bell`, for those who look without the lock */
    pthread_rwlock_t lock;  /* bell */
    struct bell *bell;      /* room for so many, up to IOEVENT_MAX: */
    unsigned bell_room;
    pthread_mutex_t irq_lock; /* slot, thread; held while an interrupt is delivered */
    struct irq_slot *slot;    /* room for so many, up to IRQEVENT_MAX: */
    unsigned slot_room;
    bool started;
    pthread_t thread;
    int epoll, stop;
};

/* ---- Doorbells --------------------------------------------------------------------------- */

static bool overlap(const struct ioevent *a, const struct ioevent *b)
{
    return a->pio == b->pio && a->addr == b->addr && (!a->size || !b->size || a->size == b->size) &&
           (!a->match || !b->match || a->data == b->data);
}

static bool same(const struct ioevent *a, const struct ioevent *b)
{
    return a->pio == b->pio && a->addr == b->addr && a->size == b->size && a->match == b->match &&
           (!a->match || a->data == b->data) && a->fd == b->fd;
}

static uint64_t size_mask(unsigned size)
{
    return size >= 8 || !size ? ~0ull : (1ull << 8 * size) - 1;
}

/*
 * The engine is asked when a bell is rung for the first time: most are never, and KVM waits for all its readers with
 * each that it takes, for a millisecond at times. One that it refuses stays with ioevents_take.
 */
static void bell_attach_locked(struct vm *vm, struct bell *b)
{
    if (b->asked)
        return;
    b->asked = true;
    b->in_engine = vm->engine->ioevent && !vm->engine->ioevent(vm, &b->ev, true);
}

static void bell_detach_locked(struct vm *vm, struct bell *b)
{
    if (b->in_engine)
        vm->engine->ioevent(vm, &b->ev, false);
    b->asked = b->in_engine = false;
}

/* Most machines have few: room for more is made when it is needed. The new part is zero. */
static void *grow(void *table, unsigned *room, unsigned max, size_t size)
{
    unsigned more = *room ? 2 * *room : 16;
    void *grown;

    more = more < max ? more : max;
    grown = realloc(table, more * size);
    if (!grown)
        return NULL;
    memset((char *)grown + *room * size, 0, (more - *room) * size);
    *room = more;
    return grown;
}

static int bell_make_room_locked(struct ioevents *io)
{
    void *grown;

    if (atomic_load(&io->count) < io->bell_room)
        return 0;
    if (io->bell_room == IOEVENT_MAX)
        return -ENOSPC;
    grown = grow(io->bell, &io->bell_room, IOEVENT_MAX, sizeof(*io->bell));
    io->bell = grown ? grown : io->bell;
    return grown ? 0 : -ENOMEM;
}

int ioevent_add(struct vm *vm, const struct ioevent *ev, struct err *err)
{
    struct ioevents *io = vm->ioevents;
    unsigned n;
    int rc = 0;

    pthread_rwlock_wrlock(&io->lock);
    n = atomic_load(&io->count);
    for (unsigned i = 0; i < n && !rc; i++)
        if (overlap(&io->bell[i].ev, ev))
            rc = -EEXIST;
    if (!rc)
        rc = bell_make_room_locked(io);
    if (!rc) {
        io->bell[n] = (struct bell){.ev = *ev};
        io->bell[n].ev.data &= size_mask(ev->size);
        atomic_store(&io->count, n + 1);
    }
    pthread_rwlock_unlock(&io->lock);
    return rc ? err_set(err, rc, "no doorbell can be put at 0x%llx: %s",
                        (unsigned long long)ev->addr, strerror(-rc))
              : 0;
}

void ioevent_remove(struct vm *vm, const struct ioevent *ev)
{
    struct ioevents *io = vm->ioevents;
    struct ioevent like = *ev;
    unsigned n;

    like.data &= size_mask(ev->size);
    pthread_rwlock_wrlock(&io->lock);
    n = atomic_load(&io->count);
    for (unsigned i = 0; i < n; i++) {
        if (!same(&io->bell[i].ev, &like))
            continue;
        bell_detach_locked(vm, &io->bell[i]);
        io->bell[i] = io->bell[n - 1];
        atomic_store(&io->count, n - 1);
        break;
    }
    pthread_rwlock_unlock(&io->lock);
}

/* EAGAIN: its count is at its end, so it is signalled as it is. */
static void event_signal(int fd)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        log_once(LOG_ERROR, "an eventfd cannot be signalled: %s", strerror(errno));
}

static void ring(const struct ioevent *ev)
{
    if (!ev->now.serve || !ev->now.serve(ev->now.opaque, ev->now.n))
        event_signal(ev->fd);
}

/* The bells may have changed since it was rung. */
static void bell_rung(struct ioevents *io, const struct ioevent *seen)
{
    pthread_rwlock_wrlock(&io->lock);
    for (unsigned i = 0, n = atomic_load(&io->count); i < n; i++)
        if (overlap(&io->bell[i].ev, seen))
            bell_attach_locked(io->vm, &io->bell[i]);
    pthread_rwlock_unlock(&io->lock);
}

bool ioevents_take(struct ioevents *io, struct vcpu *vcpu, bool pio, uint64_t addr, unsigned size,
                   uint64_t val)
{
    const struct ioevent seen = {.pio = pio,
                                 .match = true,
                                 .size = (uint8_t)size,
                                 .addr = addr,
                                 .data = val & size_mask(size)};
    struct ioevent bell;
    bool hit = false, first = false;

    if (likely(!io || !atomic_load_explicit(&io->count, memory_order_relaxed)))
        return false;
    pthread_rwlock_rdlock(&io->lock);
    for (unsigned i = 0, n = atomic_load(&io->count); i < n && !hit; i++) {
        hit = overlap(&io->bell[i].ev, &seen);
        if (hit) {
            bell = io->bell[i].ev;
            first = !io->bell[i].asked;
        }
    }
    pthread_rwlock_unlock(&io->lock);
    /* Without the lock, which comes behind those of the device that is rung. That stays as long as the machine. */
    if (hit)
        ring(&bell);
    if (hit && bell.now.watch)
        vcpu->watch = bell.now.watch;
    if (first)
        bell_rung(io, &seen);
    return hit;
}

/* ---- Interrupts --------------------------------------------------------------------------- */

static bool engine_irqfd(struct vm *vm, unsigned id, const struct irq_slot *s, bool on)
{
    const struct irqchip_ops *chip = vm->engine->irqchip;

    return chip && chip->irqfd && !chip->irqfd(vm, id, s->fd, on ? &s->ev : NULL);
}

static void deliver_locked(struct ioevents *io, const struct irq_slot *s)
{
    uint64_t count;

    if (read(s->fd, &count, sizeof(count)) != sizeof(count))
        return;
    if (s->ev.msi)
        machine_msi(io->vm, s->ev.addr, s->ev.data);
    else
        machine_isa_pulse(io->vm, s->ev.irq);
}

static void *irq_thread(void *opaque)
{
    struct epoll_event ready[MAX_READY];
    struct ioevents *io = opaque;

    thread_name("irqevent");
    for (;;) {
        int n = epoll_wait(io->epoll, ready, MAX_READY, -1);

        for (int i = 0; i < n; i++) {
            const struct irq_slot *s;

            if (ready[i].data.u64 == STOP_ID)
                return NULL;
            pthread_mutex_lock(&io->irq_lock);
            s = &io->slot[ready[i].data.u64];
            if (s->used && !s->in_engine)
                deliver_locked(io, s);
            pthread_mutex_unlock(&io->irq_lock);
        }
    }
}

static int watch_locked(struct ioevents *io, unsigned id)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = id};

    return epoll_ctl(io->epoll, EPOLL_CTL_ADD, io->slot[id].fd, &e) < 0 ? -errno : 0;
}

static int thread_start_locked(struct ioevents *io)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = STOP_ID};
    sigset_t all, old;
    int rc;

    if (io->started)
        return 0;
    if (io->epoll < 0)
        io->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (io->stop < 0)
        io->stop = eventfd(0, EFD_CLOEXEC);
    if (io->epoll < 0 || io->stop < 0)
        return -errno;
    if (epoll_ctl(io->epoll, EPOLL_CTL_ADD, io->stop, &e) < 0 && errno != EEXIST)
        return -errno;
    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&io->thread, NULL, irq_thread, io);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return -rc;
    io->started = true;
    return 0;
}

/* To the engine, or to the thread. */
static int slot_attach_locked(struct ioevents *io, unsigned id)
{
    struct irq_slot *s = &io->slot[id];
    int rc;

    s->in_engine = engine_irqfd(io->vm, id, s, true);
    if (s->in_engine)
        return 0;
    rc = thread_start_locked(io);
    return rc ? rc : watch_locked(io, id);
}

static void slot_detach_locked(struct ioevents *io, unsigned id)
{
    struct irq_slot *s = &io->slot[id];

    if (s->in_engine)
        engine_irqfd(io->vm, id, s, false);
    else if (io->epoll >= 0)
        epoll_ctl(io->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    s->in_engine = false;
}

/* A free number, or a negative errno. */
static int slot_find_locked(struct ioevents *io)
{
    unsigned n = 0;
    void *grown;

    while (n < io->slot_room && io->slot[n].used)
        n++;
    if (n < io->slot_room)
        return (int)n;
    if (n == IRQEVENT_MAX)
        return -ENOSPC;
    grown = grow(io->slot, &io->slot_room, IRQEVENT_MAX, sizeof(*io->slot));
    if (!grown)
        return -ENOMEM;
    io->slot = grown;
    return (int)n;
}

int irqevent_add(struct vm *vm, int fd, const struct irqevent *ev, unsigned *id, struct err *err)
{
    struct ioevents *io = vm->ioevents;
    int rc;

    pthread_mutex_lock(&io->irq_lock);
    rc = slot_find_locked(io);
    if (rc >= 0) {
        *id = (unsigned)rc;
        io->slot[*id] = (struct irq_slot){.used = true, .fd = fd, .ev = *ev};
        rc = slot_attach_locked(io, *id);
        io->slot[*id].used = !rc;
    }
    pthread_mutex_unlock(&io->irq_lock);
    return rc < 0 ? err_set(err, rc, "an eventfd cannot be made an interrupt: %s", strerror(-rc))
                  : 0;
}

void irqevent_change(struct vm *vm, unsigned id, const struct irqevent *ev)
{
    struct ioevents *io = vm->ioevents;
    struct irq_slot *s;

    pthread_mutex_lock(&io->irq_lock);
    s = &io->slot[id];
    s->ev = *ev;
    if (s->in_engine && !engine_irqfd(vm, id, s, true))
        log_once(LOG_ERROR, "the %s engine does not take an interrupt's new message",
                 vm->engine->name);
    pthread_mutex_unlock(&io->irq_lock);
}

void irqevent_remove(struct vm *vm, unsigned id)
{
    struct ioevents *io = vm->ioevents;

    pthread_mutex_lock(&io->irq_lock);
    slot_detach_locked(io, id);
    io->slot[id].used = false;
    pthread_mutex_unlock(&io->irq_lock);
}

/* ---- Life ----------------------------------------------------------------------------------- */

int ioevents_new(struct vm *vm, struct err *err)
{
    struct ioevents *io = calloc(1, sizeof(*io));

    if (!io)
        return err_set(err, -ENOMEM, "no memory for the machine's eventfds");
    io->vm = vm;
    io->epoll = io->stop = -1;
    pthread_rwlock_init(&io->lock, NULL);
    pthread_mutex_init(&io->irq_lock, NULL);
    vm->ioevents = io;
    return 0;
}

void ioevents_free(struct vm *vm)
{
    struct ioevents *io = vm->ioevents;

    if (!io)
        return;
    if (io->started) {
        event_signal(io->stop);
        pthread_join(io->thread, NULL);
    }
    if (io->epoll >= 0)
        close(io->epoll);
    if (io->stop >= 0)
        close(io->stop);
    pthread_rwlock_destroy(&io->lock);
    pthread_mutex_destroy(&io->irq_lock);
    free(io->bell);
    free(io->slot);
    free(io);
    vm->ioevents = NULL;
}

void ioevents_pause(struct vm *vm)
{
    struct ioevents *io = vm->ioevents;

    pthread_mutex_lock(&io->irq_lock);
    for (unsigned i = 0; i < io->slot_room; i++)
        if (io->slot[i].used)
            slot_detach_locked(io, i);
    pthread_rwlock_wrlock(&io->lock);
    for (unsigned i = 0, n = atomic_load(&io->count); i < n; i++)
        bell_detach_locked(vm, &io->bell[i]);
}

void ioevents_resume(struct vm *vm, bool attach)
{
    struct ioevents *io = vm->ioevents;

    pthread_rwlock_unlock(&io->lock);
    for (unsigned i = 0; attach && i < io->slot_room; i++) {
        int rc = io->slot[i].used ? slot_attach_locked(io, i) : 0;

        if (rc)
            log_error("an eventfd is no interrupt any more: %s", strerror(-rc));
    }
    pthread_mutex_unlock(&io->irq_lock);
}
