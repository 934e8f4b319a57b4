/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define F_CSUM       (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_MTU        (1ull << 3)
#define F_MAC        (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_GUEST_TSO6 (1ull << 8)
#define F_HOST_TSO4  (1ull << 11)
#define F_HOST_TSO6  (1ull << 12)
#define F_MRG_RXBUF  (1ull << 15)
#define F_STATUS     (1ull << 16)

#define QUEUE_RX   0
#define QUEUE_TX   1
#define QUEUE_SIZE 256
#define BUDGET     64
#define MAX_MERGED 64 /* buffers of a received frame; at 2 KiB and more they hold the largest */

#define STATUS_LINK_UP 1u

#define ETHERNET_HEADER 14

/* 5.1.6; num_buffers is always there with VERSION_1. */
struct header {
    struct net_offload offload;
    uint16_t num_buffers;
};

_Static_assert(sizeof(struct header) == 12, "virtio 1.2, 5.1.6");

struct net_config {
    uint8_t mac[NET_MAC_LEN];
    uint16_t status, max_pairs, mtu;
};

/* ---- From the guest ---------------------------------------------------------------------- */

/* Is this something the driver may ask for, and are its places inside the frame? */
static bool offload_is_right(const struct virtio_device *dev, const struct net_offload *o,
                             size_t len)
{
    uint64_t needs = o->flags & NET_NEEDS_CSUM ? F_CSUM : 0;

    switch (o->gso_type & ~NET_GSO_ECN) {
    case NET_GSO_NONE:
        break;
    case NET_GSO_TCPV4:
        needs |= F_HOST_TSO4;
        break;
    case NET_GSO_TCPV6:
        needs |= F_HOST_TSO6;
        break;
    default:
        return false;
    }
    if (o->gso_type && (!(o->flags & NET_NEEDS_CSUM) || !o->gso_size))
        return false;
    if ((dev->driver_features & needs) != needs)
        return false;
    return !(o->flags & NET_NEEDS_CSUM) || (size_t)o->csum_start + o->csum_offset + 2 <= len;
}

/* A frame that is none is dropped: the driver gets its buffer back, as after any other. */
static enum virtio_served serve_tx(struct virtio_device *dev, unsigned q, struct virtq_chain *c)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);
    size_t len = c->out_len - sizeof(struct header);
    struct iovec iov[VIRTQ_IOV_MAX];
    struct header h;

    if (c->out_len < sizeof(h) || c->in)
        return VIRTIO_MALFORMED;
    virtq_read(c->iov, c->out, 0, &h, sizeof(h));
    h.offload.flags &= NET_NEEDS_CSUM;
    if (len >= ETHERNET_HEADER && len <= NET_FRAME_MAX && offload_is_right(dev, &h.offload, len) &&
        atomic_load(&vn->link_up)) {
        const struct net_frame frame = {
            .offload = h.offload,
            .iov = iov,
            .iovcnt = virtq_slice(c->iov, c->out, sizeof(h), len, iov),
            .len = len,
        };

        vn->net->ops->send(vn->net, &frame);
    }
    virtio_push(dev, q, c->head, 0);
    return VIRTIO_SERVED;
}

/* ---- To the guest ------------------------------------------------------------------------- */

/* Put part of a frame, from `at` on, into a chain behind `skip` bytes; how much went in. */
static size_t fill(struct virtio_net *vn, const struct virtq_chain *c, size_t skip,
                   const struct net_frame *f, size_t at)
{
    const struct virtq *q = &vn->dev.queue[QUEUE_RX];
    size_t done = 0;

    for (unsigned i = 0; i < f->iovcnt; i++) {
        size_t len = f->iov[i].iov_len, put;

        if (at >= len) {
            at -= len;
            continue;
        }
        put = virtq_write(q, c->iov + c->out, c->in, skip + done,
                          (const uint8_t *)f->iov[i].iov_base + at, len - at);
        done += put;
        if (put < len - at)
            break;
        at = 0;
    }
    return done;
}

/* The header is written last, when the number of buffers is known; the first buffer is still at hand. */
struct receiving {
    struct virtq_used used[MAX_MERGED];
    unsigned count;
    struct iovec head[2];
    unsigned nhead;
};

enum rx_result { RX_DONE, RX_NO_ROOM, RX_DROP, RX_BROKEN };

static enum rx_result take_buffers(struct virtio_net *vn, const struct net_frame *f,
                                   struct receiving *r)
{
    unsigned most = virtio_has(&vn->dev, F_MRG_RXBUF) ? MAX_MERGED : 1;
    struct virtq *q = &vn->dev.queue[QUEUE_RX];
    struct virtq_chain *c = vn->rx_chain;
    size_t at = 0;

    for (r->count = 0; at < f->len && r->count < most; r->count++) {
        size_t skip = r->count ? 0 : sizeof(struct header), got;
        int rc = virtq_pop(q, c);

        if (rc <= 0)
            return rc ? RX_BROKEN : RX_NO_ROOM;
        if (c->out || c->in_len <= skip)
            return RX_BROKEN;
        if (!r->count)
            r->nhead =
                virtq_slice(c->iov, c->in < 2 ? c->in : 2, 0, sizeof(struct header), r->head);
        got = fill(vn, c, skip, f, at);
        at += got;
        r->used[r->count] = (struct virtq_used){c->head, (uint32_t)(skip + got)};
    }
    return at < f->len ? RX_DROP : RX_DONE;
}

static enum rx_result receive_locked(struct virtio_net *vn, const struct net_frame *f)
{
    struct virtq *q = &vn->dev.queue[QUEUE_RX];
    struct header h = {.offload = f->offload};
    struct receiving r;
    enum rx_result result = take_buffers(vn, f, &r);
    size_t room = 0;

    for (unsigned i = 0; result == RX_DONE && i < r.nhead; i++)
        room += r.head[i].iov_len;
    if (result == RX_DONE && room < sizeof(h))
        result = RX_BROKEN; /* its first twelve bytes in three pieces or more: no driver does */
    if (result != RX_DONE) {
        virtq_unpop(q, r.count);
        return result;
    }
    h.num_buffers = (uint16_t)r.count;
    virtq_write(q, r.head, r.nhead, 0, &h, sizeof(h));
    virtio_push_all(&vn->dev, QUEUE_RX, r.used, r.count);
    return RX_DONE;
}

static bool net_receive(void *card, const struct net_frame *f)
{
    struct virtio_net *vn = card;
    struct virtio_device *dev = &vn->dev;
    enum rx_result result = RX_DROP;

    pthread_mutex_lock(&vn->rx_lock);
    if (atomic_load(&dev->running) && atomic_load(&vn->link_up)) {
        result = vn->rx_open ? receive_locked(vn, f) : RX_NO_ROOM;
        /* Chains that came before the driver could know that it should notify: once more. */
        if (vn->rx_open && result == RX_NO_ROOM && virtq_want_notify(&dev->queue[QUEUE_RX]))
            result = receive_locked(vn, f);
        vn->rx_starved = result == RX_NO_ROOM;
    }
    pthread_mutex_unlock(&vn->rx_lock);
    if (result == RX_BROKEN)
        virtio_break(dev, dev->queue[QUEUE_RX].malformed ? dev->queue[QUEUE_RX].malformed
                                                         : "a receive buffer cannot be right");
    return result != RX_NO_ROOM;
}

/* The driver has put buffers in, or the device goes on after a pause. */
static void process_rx(struct virtio_net *vn)
{
    bool tell;

    pthread_mutex_lock(&vn->rx_lock);
    tell = vn->rx_starved || !vn->rx_open;
    vn->rx_open = true;
    vn->rx_starved = false;
    virtq_spare_notify(&vn->dev.queue[QUEUE_RX]);
    pthread_mutex_unlock(&vn->rx_lock);
    if (tell && vn->net->ops->ready)
        vn->net->ops->ready(vn->net);
}

/* ---- The device ----------------------------------------------------------------------------- */

static bool process(struct virtio_device *dev, unsigned q)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);
    bool more;

    if (q == QUEUE_RX) {
        process_rx(vn);
        return false;
    }
    more = virtio_serve(dev, q, BUDGET, serve_tx);
    if (vn->net->ops->flush)
        vn->net->ops->flush(vn->net);
    return more;
}

static void drain(struct virtio_device *dev)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);

    pthread_mutex_lock(&vn->rx_lock);
    vn->rx_open = false;
    pthread_mutex_unlock(&vn->rx_lock);
}

static void start(struct virtio_device *dev)
{
    unsigned takes = virtio_has(dev, F_GUEST_CSUM) ? NET_TAKES_CSUM : 0;

    if (takes && virtio_has(dev, F_GUEST_TSO4))
        takes |= NET_TAKES_TSO4;
    if (takes && virtio_has(dev, F_GUEST_TSO6))
        takes |= NET_TAKES_TSO6;
    atomic_store(&container_of(dev, struct virtio_net, dev)->net->card_takes, takes);
}

static void reset(struct virtio_device *dev)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);

    atomic_store(&vn->net->card_takes, 0);
    vn->rx_starved = false;
}

static void config_read(struct virtio_device *dev, unsigned off, void *buf, unsigned len)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);
    struct net_config cfg = {
        .status = atomic_load(&vn->link_up) ? STATUS_LINK_UP : 0, .max_pairs = 1, .mtu = vn->mtu};

    memcpy(cfg.mac, vn->mac, sizeof(cfg.mac));
    if (off < sizeof(cfg))
        memcpy(buf, (const uint8_t *)&cfg + off, len < sizeof(cfg) - off ? len : sizeof(cfg) - off);
}

void virtio_net_set_link(struct virtio_net *vn, bool up)
{
    if (atomic_exchange(&vn->link_up, up) != up)
        virtio_config_changed(&vn->dev);
}

static const struct virtio_device_ops virtio_net_ops = {
    .name = "virtio-net",
    .start = start,
    .process = process,
    .drain = drain,
    .reset = reset,
    .config_read = config_read,
};

static const struct net_card_ops card_ops = {.receive = net_receive};

int virtio_net_init(struct virtio_net *vn, const struct virtio_memory *memory,
                    const struct virtio_net_config *cfg, struct err *err)
{
    struct virtio_config dev = {
        .ops = &virtio_net_ops,
        .type = VIRTIO_NET,
        .memory = *memory,
        .features = F_MAC | F_STATUS | F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6,
        .queues = 2,
        .queue_size = QUEUE_SIZE,
    };
    int code;

    memset(vn, 0, sizeof(*vn));
    if (cfg->mtu)
        dev.features |= F_MTU;
    if (cfg->net->takes & NET_TAKES_CSUM)
        dev.features |= F_CSUM | (cfg->net->takes & NET_TAKES_TSO4 ? F_HOST_TSO4 : 0) |
                        (cfg->net->takes & NET_TAKES_TSO6 ? F_HOST_TSO6 : 0);
    vn->net = cfg->net;
    memcpy(vn->mac, cfg->mac, sizeof(vn->mac));
    vn->mtu = cfg->mtu;
    vn->link_up = true;
    vn->rx_chain = malloc(sizeof(*vn->rx_chain));
    if (!vn->rx_chain)
        return err_set(err, -ENOMEM, "no memory for a virtio-net device");
    pthread_mutex_init(&vn->rx_lock, NULL);
    code = virtio_init(&vn->dev, &dev, err);
    if (code < 0) {
        virtio_net_fini(vn);
        return code;
    }
    vn->net->card = vn;
    vn->net->card_ops = &card_ops;
    return 0;
}

void virtio_net_fini(struct virtio_net *vn)
{
    if (!vn->rx_chain)
        return;
    virtio_fini(&vn->dev);
    vn->net->card_ops = NULL;
    pthread_mutex_destroy(&vn->rx_lock);
    free(vn->rx_chain);
    memset(vn, 0, sizeof(*vn));
}
