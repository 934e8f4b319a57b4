/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/net.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "net/flow.h"

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
#define F_CTRL_VQ    (1ull << 17)
#define F_MQ         (1ull << 22)

#define QUEUE_RX(pair) (2 * (pair))
#define QUEUE_TX(pair) (2 * (pair) + 1)
#define PAIR(queue)    ((queue) / 2)

#define QUEUE_SIZE 256
#define BUDGET     64
#define MAX_MERGED 64 /* buffers of a received frame; at 2 KiB and more they hold the largest */

#define STATUS_LINK_UP 1u

#define FLOW_UNKNOWN 0xff

/* 5.1.6.5 */
#define CTRL_MQ       4
#define CTRL_MQ_PAIRS 0
#define CTRL_OK       0
#define CTRL_ERR      1

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

/* ---- Which queue --------------------------------------------------------------------------- */

/* A connection that has not sent yet is dealt out. */
static unsigned pair_of(const struct virtio_net *vn, uint32_t flow, unsigned active)
{
    unsigned pair = atomic_load(&vn->flow[flow % VIRTIO_NET_FLOWS]);

    return pair < active ? pair : flow / VIRTIO_NET_FLOWS % active;
}

/*
 * The guest sends by this pair (5.1.5.1). Frames that the driver has not taken from the old queue yet could be overtaken
 * by others in the new one, so as long as there may be any the flow stays where it is.
 */
static void flow_learn(struct virtio_net *vn, const struct net_frame *f, unsigned pair)
{
    unsigned active = atomic_load(&vn->active), old;
    _Atomic uint8_t *entry;
    uint32_t flow;

    if (active == 1 || pair >= active)
        return;
    flow = net_flow(f);
    entry = &vn->flow[flow % VIRTIO_NET_FLOWS];
    if (atomic_load(entry) == pair)
        return;
    pthread_mutex_lock(&vn->rx_lock);
    old = pair_of(vn, flow, active);
    if (old == pair || virtq_all_taken(&vn->dev.queue[QUEUE_RX(old)]))
        atomic_store(entry, (uint8_t)pair);
    pthread_mutex_unlock(&vn->rx_lock);
}

static void set_pairs(struct virtio_net *vn, unsigned pairs)
{
    pthread_mutex_lock(&vn->rx_lock);
    for (unsigned i = 0; i < VIRTIO_NET_FLOWS; i++)
        atomic_store(&vn->flow[i], FLOW_UNKNOWN);
    atomic_store(&vn->active, pairs);
    pthread_mutex_unlock(&vn->rx_lock);
}

/* The control queue comes last (5.1.2). */
static unsigned control_queue(const struct virtio_net *vn)
{
    if (!virtio_has(&vn->dev, F_CTRL_VQ))
        return UINT_MAX;
    return virtio_has(&vn->dev, F_MQ) ? 2 * vn->pairs : 2;
}

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

static void count_frame(struct virtio_net *vn, unsigned way, size_t len)
{
    atomic_fetch_add_explicit(&vn->count[way], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&vn->bytes[way], len, memory_order_relaxed);
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
    if (!net_limit_passes(&vn->limit, NET_OUT))
        return VIRTIO_LATER;
    vn->tx_passed++;
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

        flow_learn(vn, &frame, PAIR(q));
        net_limit_count(&vn->limit, NET_OUT, len);
        count_frame(vn, NET_OUT, len);
        vn->net->ops->send(vn->net, &frame);
    }
    virtio_push(dev, q, c->head, 0);
    return VIRTIO_SERVED;
}

/* With a limit the pairs take turns, or the first that has much to send would leave nothing for the others. */
static bool process_tx(struct virtio_net *vn, unsigned q)
{
    struct virtio_device *dev = &vn->dev;
    bool more = false;

    if (vn->pairs == 1 || !atomic_load(&vn->limit.on))
        return virtio_serve(dev, q, BUDGET, serve_tx);
    for (unsigned i = 0, first = vn->tx_turn; i < vn->pairs && atomic_load(&dev->running); i++) {
        unsigned pair = (first + i) % vn->pairs;
        uint64_t before = vn->tx_passed;

        if (!dev->queue[QUEUE_TX(pair)].ready || QUEUE_TX(pair) == control_queue(vn))
            continue;
        more |= virtio_serve(dev, QUEUE_TX(pair), 1, serve_tx);
        if (vn->tx_passed != before)
            vn->tx_turn = (pair + 1) % vn->pairs;
    }
    return more;
}

/* ---- To the guest ------------------------------------------------------------------------- */

/* Put part of a frame, from `at` on, into a chain behind `skip` bytes; how much went in. */
static size_t fill(const struct virtq *q, const struct virtq_chain *c, size_t skip,
                   const struct net_frame *f, size_t at)
{
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

static enum rx_result take_buffers(struct virtio_net *vn, struct virtq *q,
                                   const struct net_frame *f, struct receiving *r)
{
    unsigned most = virtio_has(&vn->dev, F_MRG_RXBUF) ? MAX_MERGED : 1;
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
        got = fill(q, c, skip, f, at);
        at += got;
        r->used[r->count] = (struct virtq_used){c->head, (uint32_t)(skip + got)};
    }
    return at < f->len ? RX_DROP : RX_DONE;
}

static enum rx_result receive_locked(struct virtio_net *vn, unsigned pair,
                                     const struct net_frame *f)
{
    struct virtq *q = &vn->dev.queue[QUEUE_RX(pair)];
    struct header h = {.offload = f->offload};
    struct receiving r;
    enum rx_result result = take_buffers(vn, q, f, &r);
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
    virtio_push_all(&vn->dev, QUEUE_RX(pair), r.used, r.count);
    return RX_DONE;
}

static enum rx_result receive_by_locked(struct virtio_net *vn, unsigned pair,
                                        const struct net_frame *f)
{
    struct virtio_net_rx *rx = &vn->rx[pair];
    enum rx_result result = rx->open ? receive_locked(vn, pair, f) : RX_NO_ROOM;

    /* Chains that came before the driver could know that it should notify: once more. */
    if (rx->open && result == RX_NO_ROOM && virtq_want_notify(&vn->dev.queue[QUEUE_RX(pair)]))
        result = receive_locked(vn, pair, f);
    rx->starved = result == RX_NO_ROOM;
    if (result == RX_DONE)
        net_limit_count(&vn->limit, NET_IN, f->len);
    return result;
}

static bool net_receive(void *card, const struct net_frame *f)
{
    struct virtio_net *vn = card;
    struct virtio_device *dev = &vn->dev;
    enum rx_result result = RX_DROP;
    unsigned active, pair = 0;

    pthread_mutex_lock(&vn->rx_lock);
    if (atomic_load(&dev->running) && atomic_load(&vn->link_up)) {
        active = atomic_load(&vn->active);
        if (active > 1)
            pair = pair_of(vn, net_flow(f), active);
        vn->rx_held = !net_limit_passes(&vn->limit, NET_IN);
        result = vn->rx_held ? RX_NO_ROOM : receive_by_locked(vn, pair, f);
    }
    pthread_mutex_unlock(&vn->rx_lock);
    if (result == RX_DONE)
        count_frame(vn, NET_IN, f->len);
    if (result == RX_BROKEN)
        virtio_break(dev, dev->queue[QUEUE_RX(pair)].malformed
                              ? dev->queue[QUEUE_RX(pair)].malformed
                              : "a receive buffer cannot be right");
    return result != RX_NO_ROOM;
}

/* The driver has put buffers in, the device goes on after a pause, or the limit's time has come. */
static void process_rx(struct virtio_net *vn, unsigned pair)
{
    struct virtio_net_rx *rx = &vn->rx[pair];
    bool tell;

    pthread_mutex_lock(&vn->rx_lock);
    tell = rx->starved || !rx->open || vn->rx_held;
    rx->open = true;
    rx->starved = vn->rx_held = false;
    virtq_spare_notify(&vn->dev.queue[QUEUE_RX(pair)]);
    pthread_mutex_unlock(&vn->rx_lock);
    if (tell && vn->net->ops->ready)
        vn->net->ops->ready(vn->net);
}

/* ---- Control (5.1.6.5) ----------------------------------------------------------------------- */

static bool pairs_are_usable(const struct virtio_net *vn, unsigned pairs)
{
    if (!virtio_has(&vn->dev, F_MQ) || !pairs || pairs > vn->pairs)
        return false;
    for (unsigned pair = 0; pair < pairs; pair++)
        if (!vn->dev.queue[QUEUE_RX(pair)].ready || !vn->dev.queue[QUEUE_TX(pair)].ready)
            return false;
    return true;
}

static bool control(struct virtio_net *vn, const uint8_t *command, size_t len)
{
    unsigned pairs = len < 4 ? 0 : (unsigned)(command[2] | command[3] << 8);

    if (len < 2 || command[0] != CTRL_MQ || command[1] != CTRL_MQ_PAIRS ||
        !pairs_are_usable(vn, pairs))
        return false;
    set_pairs(vn, pairs);
    /* What waits for a queue may now go by another. */
    if (vn->net->ops->ready)
        vn->net->ops->ready(vn->net);
    return true;
}

static enum virtio_served serve_control(struct virtio_device *dev, unsigned q,
                                        struct virtq_chain *c)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);
    uint8_t command[4], ack;
    size_t len = virtq_read(c->iov, c->out, 0, command, sizeof(command));

    if (len < 2 || !c->in)
        return VIRTIO_MALFORMED;
    ack = control(vn, command, len) ? CTRL_OK : CTRL_ERR;
    virtq_write(&dev->queue[q], c->iov + c->out, c->in, 0, &ack, sizeof(ack));
    virtio_push(dev, q, c->head, sizeof(ack));
    return VIRTIO_SERVED;
}

/* ---- The device ----------------------------------------------------------------------------- */

static bool process(struct virtio_device *dev, unsigned q)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);
    bool more;

    if (q == control_queue(vn))
        return virtio_serve(dev, q, BUDGET, serve_control);
    if (PAIR(q) >= vn->pairs)
        return false; /* a control queue that was not agreed on */
    if (q == QUEUE_RX(PAIR(q))) {
        process_rx(vn, PAIR(q));
        return false;
    }
    more = process_tx(vn, q);
    if (vn->net->ops->flush)
        vn->net->ops->flush(vn->net);
    return more;
}

/* The limit's time has come. */
static void event(struct virtio_device *dev)
{
    net_limit_look(&container_of(dev, struct virtio_net, dev)->limit);
    virtio_notify(dev);
}

static void drain(struct virtio_device *dev)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);

    pthread_mutex_lock(&vn->rx_lock);
    for (unsigned pair = 0; pair < vn->pairs; pair++)
        vn->rx[pair].open = false;
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
    for (unsigned pair = 0; pair < vn->pairs; pair++)
        vn->rx[pair].starved = false;
    set_pairs(vn, 1);
}

static void save(struct virtio_device *dev, struct virtio_own *s)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);

    s->link_up = atomic_load(&vn->link_up);
    s->pairs = (uint8_t)atomic_load(&vn->active);
}

static int load(struct virtio_device *dev, const struct virtio_own *s)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);

    if (!pairs_are_usable(vn, s->pairs) && s->pairs != 1)
        return -EINVAL;
    set_pairs(vn, s->pairs);
    atomic_store(&vn->link_up, s->link_up);
    return 0;
}

static void config_read(struct virtio_device *dev, unsigned off, void *buf, unsigned len)
{
    struct virtio_net *vn = container_of(dev, struct virtio_net, dev);
    struct net_config cfg = {.status = atomic_load(&vn->link_up) ? STATUS_LINK_UP : 0,
                             .max_pairs = (uint16_t)vn->pairs,
                             .mtu = vn->mtu};

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
    .event = event,
    .drain = drain,
    .reset = reset,
    .save = save,
    .load = load,
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
        .queues = 2 * cfg->pairs,
        .queue_size = QUEUE_SIZE,
    };
    int code;

    memset(vn, 0, sizeof(*vn));
    if (cfg->mtu)
        dev.features |= F_MTU;
    if (cfg->pairs > 1) {
        dev.features |= F_CTRL_VQ | F_MQ;
        dev.queues++;
    }
    if (cfg->net->takes & NET_TAKES_CSUM)
        dev.features |= F_CSUM | (cfg->net->takes & NET_TAKES_TSO4 ? F_HOST_TSO4 : 0) |
                        (cfg->net->takes & NET_TAKES_TSO6 ? F_HOST_TSO6 : 0);
    vn->net = cfg->net;
    memcpy(vn->mac, cfg->mac, sizeof(vn->mac));
    vn->mtu = cfg->mtu;
    vn->link_up = true;
    vn->pairs = cfg->pairs;
    code = net_limit_init(&vn->limit, &cfg->rates, err);
    if (code < 0)
        return code;
    vn->rx_chain = malloc(sizeof(*vn->rx_chain));
    if (!vn->rx_chain) {
        net_limit_fini(&vn->limit);
        return err_set(err, -ENOMEM, "no memory for a virtio-net device");
    }
    pthread_mutex_init(&vn->rx_lock, NULL);
    set_pairs(vn, 1);
    dev.event_fd = vn->limit.fd;
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
    net_limit_fini(&vn->limit);
    pthread_mutex_destroy(&vn->rx_lock);
    free(vn->rx_chain);
    memset(vn, 0, sizeof(*vn));
}
