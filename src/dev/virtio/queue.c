/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dev/virtio/queue.h"

#include <errno.h>
#include <string.h>

#define DESC_NEXT     1u
#define DESC_WRITE    2u
#define DESC_INDIRECT 4u

#define AVAIL_NO_INTERRUPT 1u
#define USED_NO_NOTIFY     1u

/* Little-endian, as the host is (2.7.5, 2.7.6, 2.7.8). */
struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

#define AVAIL_FLAGS   0
#define AVAIL_IDX     2
#define AVAIL_RING(i) (4 + 2 * (size_t)(i))
#define USED_FLAGS    0
#define USED_IDX      2
#define USED_RING(i)  (4 + 8 * (size_t)(i))

/* ---- Rings ------------------------------------------------------------------------- */

/* The driver's CPUs write these at any time; the alignment was checked when the queue was started. */
static uint16_t load16(hva_t p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static gpa_t gpa_of(const struct virtq *q, const void *p)
{
    const struct mem *mem = q->memory->mem;

    return mem_gpa_of_offset(mem, (uint64_t)((const uint8_t *)p - mem->map));
}

static void tell_written(const struct virtq *q, const void *p, size_t len)
{
    q->memory->written(q->memory->opaque, gpa_of(q, p), len);
}

static void store16(const struct virtq *q, hva_t p, uint16_t v)
{
    mem_own(q->memory->mem, p, sizeof(v));
    __atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
    tell_written(q, p, sizeof(v));
}

void virtq_init(struct virtq *q, const struct virtio_memory *memory)
{
    *q = (struct virtq){.memory = memory};
    pthread_mutex_init(&q->used_lock, NULL);
}

void virtq_fini(struct virtq *q)
{
    pthread_mutex_destroy(&q->used_lock);
}

int virtq_start(struct virtq *q, bool event_idx, bool indirect)
{
    const struct mem *mem = q->memory->mem;
    uint16_t n = q->size;

    q->ready = false;
    if (!n || n & (n - 1) || n > VIRTQ_SIZE_MAX || q->desc % 16 || q->driver % 2 || q->device % 4)
        return -EINVAL;
    q->desc_ring = mem_hva(mem, q->desc, sizeof(struct desc) * n);
    q->avail_ring = mem_hva(mem, q->driver, AVAIL_RING(n) + 2);
    q->used_ring = mem_hva(mem, q->device, USED_RING(n) + 2);
    if (!q->desc_ring || !q->avail_ring || !q->used_ring)
        return -EINVAL;
    q->event_idx = event_idx;
    q->indirect = indirect;
    q->next_avail = q->next_used = 0;
    q->malformed = NULL;
    q->ready = true;
    return 0;
}

void virtq_save(const struct virtq *q, struct virtq_state *s)
{
    *s = (struct virtq_state){.desc = q->desc,
                              .driver = q->driver,
                              .device = q->device,
                              .size = q->size,
                              .next_avail = q->ready ? q->next_avail : 0,
                              .next_used = q->ready ? q->next_used : 0,
                              .enabled = q->enabled,
                              .ready = q->ready};
}

int virtq_load(struct virtq *q, const struct virtq_state *s, bool event_idx, bool indirect)
{
    q->desc = s->desc;
    q->driver = s->driver;
    q->device = s->device;
    q->size = s->size;
    q->enabled = s->enabled;
    q->ready = false;
    if (!s->ready)
        return 0;
    if (!s->enabled || virtq_start(q, event_idx, indirect) < 0)
        return -EINVAL;
    q->next_avail = s->next_avail;
    q->next_used = s->next_used;
    return 0;
}

void virtq_stop(struct virtq *q)
{
    q->ready = q->enabled = false;
    q->size = 0;
    q->desc = q->driver = q->device = 0;
}

/* ---- Chains ------------------------------------------------------------------------- */

static int refuse(struct virtq *q, const char *why)
{
    q->malformed = why;
    return -EINVAL;
}

/* The only look at a descriptor: nothing below reads guest memory again. */
static struct desc desc_copy(const uint8_t *table, unsigned i)
{
    struct desc d;

    memcpy(&d, table + sizeof(d) * i, sizeof(d));
    __asm__ volatile("" ::: "memory");
    return d;
}

static int add_buffer(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
    bool in = d->flags & DESC_WRITE;
    hva_t p = mem_hva(q->memory->mem, d->addr, d->len);
    uint32_t *len = in ? &c->in_len : &c->out_len;

    if (!in && c->in)
        return refuse(q, "a buffer to read comes after one to write");
    if (!d->len)
        return 0;
    if (!p)
        return refuse(q, "a buffer is not in memory");
    if (c->out + c->in == VIRTQ_IOV_MAX)
        return refuse(q, "too many buffers");
    if (d->len > UINT32_MAX - c->out_len - c->in_len)
        return refuse(q, "buffers of more than 4 GiB");
    c->iov[c->out + c->in] = (struct iovec){p, d->len};
    *len += d->len;
    if (in)
        c->in++;
    else
        c->out++;
    /* Whoever writes it, and however: here it is known that somebody may. */
    if (in && !q->keeps)
        mem_own(q->memory->mem, p, d->len);
    return 0;
}

/* A table that an indirect descriptor names (2.7.5.3): chained like the ring, but with nothing indirect in it. */
static int walk_indirect(struct virtq *q, struct virtq_chain *c, const struct desc *d)
{
    unsigned count = d->len / sizeof(*d), i = 0;
    hva_t table = mem_hva(q->memory->mem, d->addr, d->len);

    if (!q->indirect)
        return refuse(q, "an indirect descriptor, which was not negotiated");
    if (d->flags & DESC_NEXT)
        return refuse(q, "an indirect descriptor that goes on");
    if (!count || d->len % sizeof(*d) || count > VIRTQ_IOV_MAX)
        return refuse(q, "an indirect table of an impossible length");
    if (!table)
        return refuse(q, "an indirect table that is not in memory");
    for (unsigned left = count; left; left--) {
        struct desc e = desc_copy(table, i);
        int code;

        if (e.flags & DESC_INDIRECT)
            return refuse(q, "an indirect descriptor in an indirect table");
        code = add_buffer(q, c, &e);
        if (code || !(e.flags & DESC_NEXT))
            return code;
        i = e.next;
        if (i >= count)
            return refuse(q, "a descriptor that is not in its table");
    }
    return refuse(q, "a chain that goes round in its table");
}

static int walk(struct virtq *q, struct virtq_chain *c)
{
    unsigned i = c->head;

    for (unsigned left = q->size; left; left--) {
        struct desc d;
        int code;

        if (i >= q->size)
            return refuse(q, "a descriptor that is not in the ring");
        d = desc_copy(q->desc_ring, i);
        if (d.flags & DESC_INDIRECT)
            return walk_indirect(q, c, &d);
        code = add_buffer(q, c, &d);
        if (code || !(d.flags & DESC_NEXT))
            return code;
        i = d.next;
    }
    return refuse(q, "a chain that goes round");
}

int virtq_pop(struct virtq *q, struct virtq_chain *chain)
{
    uint16_t idx = load16(q->avail_ring + AVAIL_IDX), ready = (uint16_t)(idx - q->next_avail);
    uint16_t with_device;
    int code;

    if (!ready)
        return 0;
    /* Those that are with the device count, too: otherwise a driver could have it hold any number of them. */
    with_device = (uint16_t)(q->next_avail - __atomic_load_n(&q->next_used, __ATOMIC_RELAXED));
    if (ready > q->size || with_device >= q->size)
        return refuse(q, "more chains than the ring can hold");
    chain->head = load16(q->avail_ring + AVAIL_RING(q->next_avail % q->size));
    chain->out = chain->in = 0;
    chain->out_len = chain->in_len = 0;
    code = walk(q, chain);
    if (code)
        return code;
    q->next_avail++;
    return 1;
}

void virtq_unpop(struct virtq *q, unsigned n)
{
    q->next_avail = (uint16_t)(q->next_avail - n);
}

/* ---- Telling each other (2.7.7, 2.7.10) ------------------------------------------------ */

bool virtq_push(struct virtq *q, const struct virtq_used *used, unsigned n)
{
    uint16_t old, now;
    bool wants;

    pthread_mutex_lock(&q->used_lock);
    old = q->next_used;
    now = (uint16_t)(old + n);
    for (unsigned i = 0; i < n; i++) {
        hva_t at = q->used_ring + USED_RING((uint16_t)(old + i) % q->size);

        mem_own(q->memory->mem, at, sizeof(used[i]));
        memcpy(at, &used[i], sizeof(used[i]));
        tell_written(q, at, sizeof(used[i]));
    }
    /* Before the driver can know of them, and so give new ones. */
    __atomic_store_n(&q->next_used, now, __ATOMIC_RELAXED);
    store16(q, q->used_ring + USED_IDX, now);
    /* The driver writes what it wants, then looks at the index; here it is the other way round. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (q->event_idx) {
        uint16_t event = load16(q->avail_ring + AVAIL_RING(q->size));

        wants = (uint16_t)(now - event - 1) < (uint16_t)(now - old);
    } else {
        wants = !(load16(q->avail_ring + AVAIL_FLAGS) & AVAIL_NO_INTERRUPT);
    }
    pthread_mutex_unlock(&q->used_lock);
    return wants;
}

bool virtq_all_taken(struct virtq *q)
{
    bool taken;

    pthread_mutex_lock(&q->used_lock);
    taken = q->event_idx && load16(q->avail_ring + AVAIL_RING(q->size)) == q->next_used;
    pthread_mutex_unlock(&q->used_lock);
    return taken;
}

bool virtq_want_notify(struct virtq *q)
{
    if (q->event_idx)
        store16(q, q->used_ring + USED_RING(q->size), q->next_avail);
    else
        store16(q, q->used_ring + USED_FLAGS, 0);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return load16(q->avail_ring + AVAIL_IDX) != q->next_avail;
}

/* With event indexes it is enough not to move avail_event on. */
void virtq_spare_notify(struct virtq *q)
{
    if (!q->event_idx)
        store16(q, q->used_ring + USED_FLAGS, USED_NO_NOTIFY);
}

/* ---- Buffers ---------------------------------------------------------------------------- */

unsigned virtq_slice(const struct iovec *iov, unsigned n, size_t skip, size_t len,
                     struct iovec *dst)
{
    unsigned count = 0;

    for (; n && len; n--, iov++) {
        size_t part;

        if (skip >= iov->iov_len) {
            skip -= iov->iov_len;
            continue;
        }
        part = iov->iov_len - skip;
        part = part < len ? part : len;
        dst[count++] = (struct iovec){(uint8_t *)iov->iov_base + skip, part};
        len -= part;
        skip = 0;
    }
    return count;
}

size_t virtq_read(const struct iovec *iov, unsigned n, size_t skip, void *buf, size_t len)
{
    size_t done = 0;

    for (; n && done < len; n--, iov++) {
        struct iovec part;

        if (!virtq_slice(iov, 1, skip, len - done, &part)) {
            skip -= iov->iov_len;
            continue;
        }
        memcpy((uint8_t *)buf + done, part.iov_base, part.iov_len);
        __asm__ volatile("" ::: "memory");
        done += part.iov_len;
        skip = 0;
    }
    return done;
}

size_t virtq_write(const struct virtq *q, const struct iovec *iov, unsigned n, size_t skip,
                   const void *buf, size_t len)
{
    size_t done = 0;

    for (; n && done < len; n--, iov++) {
        struct iovec part;

        if (!virtq_slice(iov, 1, skip, len - done, &part)) {
            skip -= iov->iov_len;
            continue;
        }
        mem_own(q->memory->mem, part.iov_base, part.iov_len);
        memcpy(part.iov_base, (const uint8_t *)buf + done, part.iov_len);
        tell_written(q, part.iov_base, part.iov_len);
        done += part.iov_len;
        skip = 0;
    }
    return done;
}

void virtq_written(const struct virtq *q, const struct iovec *iov, unsigned n, size_t len)
{
    for (; n && len; n--, iov++) {
        size_t part = iov->iov_len < len ? iov->iov_len : len;

        tell_written(q, iov->iov_base, part);
        len -= part;
    }
}
