/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks that another process serves: a vhost-user-blk front end. The ring
 * (split, virtio 1.2, 2.7) and what goes with each request are in memory of
 * our own, which the back end is given together with the guest's; the guest
 * sees neither. So the back end gets no descriptor that was not checked,
 * whatever it makes of the ring does no harm here, and every request it owes
 * is known: when it is gone, silent for too long or writes nonsense, all of
 * them fail, and so does every later one.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "block/block.h"
#include "block/vhost_link.h"
#include "block/virtio_blk.h"

#define F_INDIRECT  (1ull << 28)
#define F_VERSION_1 (1ull << 32)

#define DESC_NEXT     1u
#define DESC_WRITE    2u
#define DESC_INDIRECT 4u

#define SLOTS     128 /* under way at once: the ring's size, an indirect descriptor each */
#define SEG_MAX   254
#define ANSWER_MS 60000
#define CHECK_MS  500

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

/* Shared with the back end, which may write anything anywhere at any time: `used` and status bytes are read once. */
struct shared {
    struct desc desc[SLOTS];
    struct {
        uint16_t flags, idx, ring[SLOTS], event;
    } avail;
    struct {
        _Alignas(4) uint16_t flags;
        uint16_t idx;
        struct {
            uint32_t id, len;
        } ring[SLOTS];
        uint16_t event;
    } used;
    struct {
        struct blk_header header;
        struct blk_range range;
        uint8_t status;
        _Alignas(16) struct desc table[SEG_MAX + 2];
    } slot[SLOTS];
};

struct vhost_user {
    struct block *block;
    char *path;
    struct vhost_link link;
    struct block_memory memory;
    struct shared *shared;
    int shared_fd, kick_fd, call_fd, timer_fd, event_fd; /* event_fd: epoll of the others */
    uint64_t features;
    uint32_t max_sectors[2]; /* of a discard, of zeroes */
    unsigned answer_ms;

    pthread_mutex_t lock; /* for what follows, and the driver's side of the ring */
    bool dead;
    bool to_kick, watching;
    struct block_req *first, **last; /* wait for a slot */
    struct block_req *req[SLOTS];    /* under way, NULL: free */
    uint64_t pos[SLOTS];             /* of discards and zeroes: bytes done or under way */
    unsigned busy;
    uint16_t next_avail, next_used;
    uint64_t silent_since; /* ms */
};

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- Into the ring ------------------------------------------------------------------------------ */

static bool is_range(const struct block_req *req)
{
    return req->op == BLOCK_DISCARD || req->op == BLOCK_WRITE_ZEROES;
}

static bool is_shared(const struct vhost_user *v, const struct iovec *iov)
{
    uint64_t at = (uintptr_t)iov->iov_base - (uintptr_t)v->memory.base;

    return at <= v->memory.size && iov->iov_len <= v->memory.size - at &&
           iov->iov_len <= UINT32_MAX;
}

/* 0: it goes into the ring. Else it is over with that, 1: well. */
static int request_check(const struct vhost_user *v, const struct block_req *req)
{
    unsigned n = 0;

    switch (req->op) {
    case BLOCK_FLUSH:
        return v->features & BLK_F_FLUSH ? 0 : 1;
    case BLOCK_DISCARD:
        return v->features & BLK_F_DISCARD ? 0 : 1;
    case BLOCK_WRITE_ZEROES:
        return v->features & BLK_F_WRITE_ZEROES ? 0 : -EOPNOTSUPP;
    default:
        break;
    }
    for (unsigned i = 0; i < req->iovcnt; i++) {
        n += req->iov[i].iov_len != 0;
        if (!is_shared(v, &req->iov[i]))
            return -EFAULT;
    }
    return n > v->block->info.iov_max ? -EINVAL : 0;
}

static void desc_add(struct desc *table, unsigned *n, void *at, size_t len, bool write)
{
    table[*n] = (struct desc){(uintptr_t)at, (uint32_t)len, write ? DESC_WRITE : 0, 0};
    if (*n) {
        table[*n - 1].flags |= DESC_NEXT;
        table[*n - 1].next = (uint16_t)*n;
    }
    ++*n;
}

static uint32_t type_of(enum block_op op)
{
    static const uint32_t types[] = {[BLOCK_READ] = BLK_T_IN,
                                     [BLOCK_WRITE] = BLK_T_OUT,
                                     [BLOCK_FLUSH] = BLK_T_FLUSH,
                                     [BLOCK_DISCARD] = BLK_T_DISCARD,
                                     [BLOCK_WRITE_ZEROES] = BLK_T_WRITE_ZEROES};

    return types[op];
}

/* The next piece of a discard or zeroes, as much as the back end takes at once. */
static void range_fill(struct vhost_user *v, unsigned s)
{
    const struct block_req *req = v->req[s];
    uint64_t left = (req->len - v->pos[s]) / BLOCK_SECTOR;
    uint32_t max = v->max_sectors[req->op == BLOCK_WRITE_ZEROES];

    v->shared->slot[s].range.sector = (req->offset + v->pos[s]) / BLOCK_SECTOR;
    v->shared->slot[s].range.sectors = left < max ? (uint32_t)left : max;
    v->shared->slot[s].range.flags =
        req->op == BLOCK_WRITE_ZEROES && req->unmap ? BLK_RANGE_UNMAP : 0;
    v->pos[s] += (left < max ? left : max) * BLOCK_SECTOR;
}

static void slot_submit_locked(struct vhost_user *v, unsigned s)
{
    const struct block_req *req = v->req[s];
    struct shared *m = v->shared;
    struct desc *table = m->slot[s].table;
    bool data = req->op == BLOCK_READ || req->op == BLOCK_WRITE;
    unsigned n = 0;

    m->slot[s].header.type = type_of(req->op);
    m->slot[s].header.reserved = 0;
    m->slot[s].header.sector = data ? req->offset / BLOCK_SECTOR : 0;
    m->slot[s].status = 0xff;
    desc_add(table, &n, &m->slot[s].header, sizeof(m->slot[s].header), false);
    for (unsigned i = 0; data && i < req->iovcnt; i++)
        if (req->iov[i].iov_len)
            desc_add(table, &n, req->iov[i].iov_base, req->iov[i].iov_len, req->op == BLOCK_READ);
    if (is_range(req)) {
        range_fill(v, s);
        desc_add(table, &n, &m->slot[s].range, sizeof(m->slot[s].range), false);
    }
    desc_add(table, &n, &m->slot[s].status, 1, true);
    m->desc[s] = (struct desc){(uintptr_t)table, (uint32_t)(n * sizeof(*table)), DESC_INDIRECT, 0};
    m->avail.ring[v->next_avail++ % SLOTS] = (uint16_t)s;
    __atomic_store_n(&m->avail.idx, v->next_avail, __ATOMIC_RELEASE);
    v->to_kick = true;
}

/* Look now and then how long the back end has been silent. */
static void watch_time_locked(struct vhost_user *v, bool watch)
{
    struct itimerspec t = {{0}};

    if (watch == v->watching)
        return;
    t.it_value.tv_nsec = t.it_interval.tv_nsec = watch ? CHECK_MS * 1000000L : 0;
    timerfd_settime(v->timer_fd, 0, &t, NULL);
    v->watching = watch;
}

static void begin_locked(struct vhost_user *v, struct block_req *req)
{
    unsigned s = 0;

    while (v->req[s])
        s++;
    if (!v->busy++)
        v->silent_since = now_ms();
    watch_time_locked(v, true);
    v->req[s] = req;
    v->pos[s] = 0;
    slot_submit_locked(v, s);
}

static void signal_fd(int fd)
{
    const uint64_t one = 1;

    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* True: there was something. */
static bool empty(int fd)
{
    uint64_t count;
    ssize_t n;

    do
        n = read(fd, &count, sizeof(count));
    while (n < 0 && errno == EINTR);
    return n > 0;
}

/* ---- Out of it ---------------------------------------------------------------------------------- */

/* Requests that are over, kept until the lock is free. */
struct over {
    struct block_req *well, *failed;
};

static void over_add(struct over *o, struct block_req *req, bool well)
{
    struct block_req **list = well ? &o->well : &o->failed;

    req->next = *list;
    *list = req;
}

static void die_locked(struct vhost_user *v, struct over *o, const char *why)
{
    struct block_req *next;

    if (!v->dead)
        log_error("the back end of a disk, %s, %s: the disk gives errors from now on", v->path,
                  why);
    v->dead = true;
    shutdown(v->link.fd, SHUT_RDWR);
    /* Neither it nor the timer has anything more to tell. */
    epoll_ctl(v->event_fd, EPOLL_CTL_DEL, v->link.fd, NULL);
    epoll_ctl(v->event_fd, EPOLL_CTL_DEL, v->timer_fd, NULL);
    for (unsigned s = 0; s < SLOTS; s++) {
        if (v->req[s])
            over_add(o, v->req[s], false);
        v->req[s] = NULL;
    }
    v->busy = 0;
    for (struct block_req *req = v->first; req; req = next) {
        next = req->next;
        over_add(o, req, false);
    }
    v->first = NULL;
    v->last = &v->first;
}

static void finish_locked(struct vhost_user *v, struct over *o, unsigned s)
{
    uint8_t status = __atomic_load_n(&v->shared->slot[s].status, __ATOMIC_RELAXED);
    struct block_req *req = v->req[s];

    if (!status && is_range(req) && v->pos[s] < req->len) {
        slot_submit_locked(v, s);
        return;
    }
    v->req[s] = NULL;
    v->busy--;
    over_add(o, req, !status);
    if (v->first) {
        req = v->first;
        v->first = req->next;
        if (!v->first)
            v->last = &v->first;
        begin_locked(v, req);
    }
}

static void take_used_locked(struct vhost_user *v, struct over *o)
{
    uint16_t idx = __atomic_load_n(&v->shared->used.idx, __ATOMIC_ACQUIRE);

    if ((uint16_t)(idx - v->next_used) > v->busy) {
        die_locked(v, o, "gives back more than it was given");
        return;
    }
    while (v->next_used != idx) {
        uint32_t id =
            __atomic_load_n(&v->shared->used.ring[v->next_used++ % SLOTS].id, __ATOMIC_RELAXED);

        v->silent_since = now_ms();
        if (id >= SLOTS || !v->req[id]) {
            die_locked(v, o, "gives back what it was not given");
            return;
        }
        finish_locked(v, o, id);
    }
}

/* It has nothing to say any more but that it is gone. */
static bool is_gone(struct vhost_user *v)
{
    char byte;
    ssize_t n = recv(v->link.fd, &byte, 1, MSG_DONTWAIT);

    return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

static unsigned call_back(struct block_req *req, int result)
{
    struct block_req *next;
    unsigned count = 0;

    for (; req; req = next, count++) {
        next = req->next;
        req->done(req, result);
    }
    return count;
}

static unsigned vhost_reap(struct block *b)
{
    struct vhost_user *v = b->priv;
    struct over o = {0};
    bool kick, ticked;

    empty(v->call_fd);
    ticked = empty(v->timer_fd);
    pthread_mutex_lock(&v->lock);
    if (!v->dead)
        take_used_locked(v, &o);
    if (!v->dead && is_gone(v))
        die_locked(v, &o, "has ended the connection");
    if (!v->dead && v->busy && now_ms() - v->silent_since > v->answer_ms)
        die_locked(v, &o, "does not answer");
    /* A tick after the last request: at depth 1 the timer is not set anew each time. */
    if (!v->busy && ticked)
        watch_time_locked(v, false);
    kick = v->to_kick && !v->dead;
    v->to_kick = false;
    pthread_mutex_unlock(&v->lock);
    if (kick)
        signal_fd(v->kick_fd);
    return call_back(o.well, 0) + call_back(o.failed, -EIO);
}

/* ---- Requests ----------------------------------------------------------------------------------- */

static int vhost_try_now(struct block *b, struct block_req *req)
{
    struct vhost_user *v = b->priv;
    int r = request_check(v, req);
    bool dead;

    pthread_mutex_lock(&v->lock);
    dead = v->dead;
    pthread_mutex_unlock(&v->lock);
    if (dead)
        return -EIO;
    return r ? (r > 0 ? 0 : r) : -EAGAIN;
}

static bool vhost_start(struct block *b, struct uring *u, struct block_req *req)
{
    struct vhost_user *v = b->priv;
    bool taken;

    pthread_mutex_lock(&v->lock);
    taken = !v->dead;
    if (taken && v->busy < SLOTS) {
        begin_locked(v, req);
    } else if (taken) {
        req->next = NULL;
        *v->last = req;
        v->last = &req->next;
    }
    pthread_mutex_unlock(&v->lock);
    return taken;
}

/* What came just when the back end died. */
static int vhost_execute(struct block *b, struct block_req *req)
{
    return -EIO;
}

static void vhost_kick(struct block *b)
{
    struct vhost_user *v = b->priv;
    bool kick;

    pthread_mutex_lock(&v->lock);
    kick = v->to_kick && !v->dead;
    v->to_kick = false;
    pthread_mutex_unlock(&v->lock);
    if (kick)
        signal_fd(v->kick_fd);
}

/* ---- Opening ------------------------------------------------------------------------------------ */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void vhost_close(struct block *b)
{
    struct vhost_user *v = b->priv;

    close_fd(&v->event_fd);
    close_fd(&v->timer_fd);
    close_fd(&v->call_fd);
    close_fd(&v->kick_fd);
    close_fd(&v->link.fd);
    if (v->shared)
        munmap(v->shared, sizeof(*v->shared));
    close_fd(&v->shared_fd);
    pthread_mutex_destroy(&v->lock);
    free(v->path);
    free(v);
    b->priv = NULL;
    b->event_fd = -1;
}

static int watch(struct vhost_user *v, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP};

    return epoll_ctl(v->event_fd, EPOLL_CTL_ADD, fd, &event);
}

/* Page-aligned lengths, since back ends map what they are given. */
static int resources_make(struct vhost_user *v, struct err *err)
{
    size_t size = ALIGN_UP(sizeof(*v->shared), PAGE_SIZE);
    void *map = MAP_FAILED;
    int code;

    v->shared_fd = memfd_create("lodge-vhost", MFD_CLOEXEC);
    v->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    v->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    v->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    v->event_fd = epoll_create1(EPOLL_CLOEXEC);
    if (v->shared_fd >= 0 && !ftruncate(v->shared_fd, (off_t)size))
        map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, v->shared_fd, 0);
    if (map != MAP_FAILED)
        v->shared = map;
    if (v->shared && v->kick_fd >= 0 && v->call_fd >= 0 && v->timer_fd >= 0 && v->event_fd >= 0 &&
        !watch(v, v->call_fd) && !watch(v, v->timer_fd) && !watch(v, v->link.fd))
        return 0;
    code = -errno;
    return err_set(err, code, "cannot make what the disk at %s needs: %s", v->path,
                   strerror(-code));
}

static int describe(struct vhost_user *v, const struct blk_layout *c, bool read_only,
                    struct err *err)
{
    struct block_info *info = &v->block->info;
    uint32_t segments = v->features & BLK_F_SEG_MAX ? c->seg_max : SEG_MAX;

    if (!c->capacity || c->capacity > UINT64_MAX / BLOCK_SECTOR || !segments)
        return err_set(err, -EPROTO, "the back end at %s has a disk of an impossible size",
                       v->path);
    if (!read_only && (v->features & BLK_F_RO)) {
        err_set(err, -EROFS, "the disk at %s is read-only", v->path);
        return err_next(err, "Add ,ro to the disk.");
    }
    *info = (struct block_info){
        .size = c->capacity * BLOCK_SECTOR,
        .block_size =
            v->features & BLK_F_BLK_SIZE && c->blk_size >= BLOCK_SECTOR ? c->blk_size : 4096,
        .discard_granularity = v->features & BLK_F_DISCARD ? 4096 : 0,
        .read_only = read_only,
        .writethrough = !(v->features & BLK_F_FLUSH),
        .iov_max = segments < SEG_MAX ? segments : SEG_MAX,
    };
    v->max_sectors[0] = c->max_discard_sectors;
    v->max_sectors[1] = c->max_zeroes_sectors;
    if (!v->max_sectors[0])
        v->features &= ~BLK_F_DISCARD;
    if (!v->max_sectors[1])
        v->features &= ~BLK_F_WRITE_ZEROES;
    return 0;
}

static int handshake(struct vhost_user *v, struct blk_layout *c)
{
    const struct vhost_region regions[LINK_REGIONS] = {
        {v->memory.fd, v->memory.base, v->memory.size},
        {v->shared_fd, v->shared, ALIGN_UP(sizeof(*v->shared), PAGE_SIZE)},
    };
    const struct vhost_ring ring = {.size = SLOTS,
                                    .desc = v->shared->desc,
                                    .avail = &v->shared->avail,
                                    .used = &v->shared->used,
                                    .kick_fd = v->kick_fd,
                                    .call_fd = v->call_fd};
    uint64_t want = BLK_F_SEG_MAX | BLK_F_RO | BLK_F_BLK_SIZE | BLK_F_FLUSH | BLK_F_DISCARD |
                    BLK_F_WRITE_ZEROES;
    int r = vhost_link_features(&v->link, F_VERSION_1 | F_INDIRECT, want, &v->features);

    if (!r)
        r = vhost_link_config(&v->link, c, sizeof(*c));
    if (!r)
        r = vhost_link_memory(&v->link, regions);
    return r ? r : vhost_link_ring(&v->link, &ring);
}

static int handshake_failed(const struct vhost_user *v, int code, struct err *err)
{
    const char *why = code == -ENOTSUP      ? "lacks a feature that is needed"
                      : code == -EPROTO     ? "does not keep to the protocol"
                      : code == -EREMOTEIO  ? "refuses what it is asked for"
                      : code == -ETIMEDOUT  ? "does not answer"
                      : code == -ECONNRESET ? "has ended the connection"
                                            : strerror(-code);

    err_set(err, code, "the back end of a disk, %s, cannot be used: it %s", v->path, why);
    return err_next(err, "It must be a vhost-user-blk back end that serves one guest at a time.");
}

static int vhost_open(struct block *b, const struct block_config *cfg, struct err *err)
{
    struct vhost_user *v;
    struct blk_layout config = {0};
    int code;

    if (!cfg->memory)
        return err_set(err, -EINVAL, "%s: a vhost-user disk can only be a guest's", cfg->path);
    v = calloc(1, sizeof(*v));
    if (!v)
        return err_set(err, -ENOMEM, "no memory for the disk at %s", cfg->path);
    v->block = b;
    v->memory = *cfg->memory;
    v->answer_ms = cfg->answer_ms ? cfg->answer_ms : ANSWER_MS;
    v->last = &v->first;
    v->shared_fd = v->kick_fd = v->call_fd = v->timer_fd = v->event_fd = v->link.fd = -1;
    pthread_mutex_init(&v->lock, NULL);
    b->priv = v;
    v->path = strdup(cfg->path);
    code = v->path ? 0 : err_set(err, -ENOMEM, "no memory for the disk at %s", cfg->path);
    if (!code) {
        v->link.fd = cfg->connection ? cfg->connection : vhost_link_connect(cfg->path, err);
        code = v->link.fd < 0 ? v->link.fd : resources_make(v, err);
    }
    if (!code) {
        code = handshake(v, &config);
        code = code ? handshake_failed(v, code, err) : describe(v, &config, cfg->read_only, err);
    }
    if (code < 0)
        vhost_close(b);
    else
        b->event_fd = v->event_fd;
    return code;
}

const struct block_ops block_vhost_user = {
    .name = BLOCK_VHOST_USER,
    .open = vhost_open,
    .close = vhost_close,
    .execute = vhost_execute,
    .try_now = vhost_try_now,
    .start = vhost_start,
    .kick = vhost_kick,
    .reap = vhost_reap,
};
