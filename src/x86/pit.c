/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel 8254 data sheet. Nothing ticks: counter and output follow from the
 * time since the counter was loaded. Only channel 0 interrupts, with a timer
 * for its next rising edge.
 */
#include "x86/pit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "x86/chips.h"
#include "x86/platform.h"

#define PIT_HZ        1193182u
#define MIN_PERIOD_NS 50000u /* edges that come faster than this are coalesced */
#define REFRESH_NS    15085u /* half period of the memory refresh signal, port 0x61 bit 4 */

#define CHANNELS     3
#define CONTROL_PORT 3

#define STATUS_OUT  (1u << 7)
#define STATUS_NULL (1u << 6)

enum access { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };

struct channel {
    uint8_t control; /* access, mode and BCD as programmed: bits 5:0 of the status byte */
    uint8_t mode;    /* 0..5 */
    bool gate;
    bool running;      /* loaded and, where the mode needs one, triggered */
    bool null_count;   /* the count written last is not in the counter yet */
    bool half_written; /* two-byte access: low byte is in `written` */
    bool half_read;    /* two-byte access: the high byte is next */
    bool status_latched, count_latched;
    uint8_t status;
    uint16_t latch;
    uint8_t written;
    uint32_t count;      /* in the counter, 1..65536 */
    uint32_t next_count; /* periodic: after this period, 0: none; triggered: at the trigger */
    uint64_t start_ns;   /* when the counter was loaded */
    uint64_t paused;     /* ticks counted when the gate went low, in modes 0 and 4 */
};

struct pit {
    pthread_mutex_t lock;
    struct vm *vm;
    struct irq_line irq0;
    struct channel ch[CHANNELS];
    bool speaker;
    struct vtimer timer;
    uint64_t edge_ns; /* next rising edge of channel 0, 0: none */
};

static uint64_t ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)(((unsigned __int128)ticks * 1000000000u + PIT_HZ - 1) / PIT_HZ);
}

static uint64_t ns_to_ticks(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * PIT_HZ / 1000000000u);
}

static bool is_periodic(const struct channel *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool is_triggered(const struct channel *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* Ticks since the counter was loaded; a low gate stops modes 0 and 4. */
static uint64_t elapsed(const struct channel *c, uint64_t now)
{
    if (!c->gate && !is_triggered(c))
        return c->paused;
    return c->paused + ns_to_ticks(now - c->start_ns);
}

/* Take over a count written in the middle of a period, once that has ended. */
static void channel_sync(struct channel *c, uint64_t now)
{
    if (!is_periodic(c) || !c->running || !c->gate || !c->next_count ||
        ns_to_ticks(now - c->start_ns) < c->count)
        return;
    c->start_ns += ticks_to_ns(c->count);
    c->count = c->next_count;
    c->next_count = 0;
    c->null_count = false;
}

static void channel_load(struct channel *c, uint32_t count, uint64_t now)
{
    c->count = count;
    c->next_count = 0;
    c->start_ns = now;
    c->paused = 0;
    c->running = true;
    c->null_count = false;
}

static bool channel_out(const struct channel *c, uint64_t now)
{
    uint64_t t;

    if (!c->running)
        return c->mode != 0;
    t = elapsed(c, now);
    switch (c->mode) {
    case 0:
    case 1:
        return t >= c->count;
    case 2:
        return !c->gate || t % c->count != c->count - 1;
    case 3:
        return !c->gate || t % c->count < (c->count + 1) / 2;
    default:
        return t != c->count;
    }
}

static uint16_t to_bcd(uint32_t n)
{
    return (uint16_t)(n / 1000 % 10 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10);
}

static uint16_t channel_count(const struct channel *c, uint64_t now)
{
    bool bcd = c->control & 1;
    uint32_t wrap = bcd ? 10000 : 65536, n;
    uint64_t t = c->running ? elapsed(c, now) : 0;

    if (c->mode == 3) /* counts by two, twice a period */
        n = c->count - (uint32_t)(2 * t % c->count);
    else if (c->mode == 2)
        n = c->count - (uint32_t)(t % c->count);
    else
        n = (uint32_t)((c->count + wrap - t % wrap) % wrap);
    return bcd ? to_bcd(n) : (uint16_t)n;
}

/* Guest time of channel 0's next rising edge after `now`, or 0. */
static uint64_t next_edge(const struct channel *c, uint64_t now)
{
    uint64_t edge;

    if (!c->running)
        return 0;
    if (!is_periodic(c)) {
        edge = c->start_ns + ticks_to_ns(c->mode == 4 ? c->count + 1 : c->count);
        return edge > now ? edge : 0;
    }
    edge = c->start_ns + ticks_to_ns((ns_to_ticks(now - c->start_ns) / c->count + 1) * c->count);
    if (edge <= now)
        edge += ticks_to_ns(c->count);
    return edge;
}

static void edge_arm_locked(struct pit *pit, uint64_t now)
{
    pit->edge_ns = next_edge(&pit->ch[0], now);
    if (pit->edge_ns)
        vtimer_arm(&pit->timer, pit->edge_ns);
    else
        vtimer_disarm(&pit->timer);
}

static void edge_fire(void *opaque)
{
    struct pit *pit = opaque;
    struct channel *c = &pit->ch[0];
    uint64_t now;

    pthread_mutex_lock(&pit->lock);
    now = clock_now_ns(&pit->vm->clock);
    /* A callback may come late, after the guest reprogrammed the channel. */
    if (pit->edge_ns && now >= pit->edge_ns) {
        channel_sync(c, now);
        irq_pulse(pit->irq0);
        edge_arm_locked(pit, ticks_to_ns(c->count) < MIN_PERIOD_NS ? now + MIN_PERIOD_NS : now);
    } else if (pit->edge_ns) {
        vtimer_arm(&pit->timer, pit->edge_ns);
    }
    pthread_mutex_unlock(&pit->lock);
}

static void count_write(struct channel *c, uint16_t raw, uint64_t now)
{
    uint32_t count = raw;

    if (c->control & 1) {
        count = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u + (raw & 15);
        count = count ? count : 10000;
    }
    count = count ? count : 65536;
    if (is_periodic(c) && count == 1)
        count = 2; /* not allowed by the data sheet; must not divide time by nothing */
    if (is_triggered(c) || (is_periodic(c) && c->running)) {
        c->next_count = count;
        c->null_count = true;
    } else {
        channel_load(c, count, now);
    }
}

static void channel_write(struct channel *c, uint8_t val, uint64_t now)
{
    channel_sync(c, now);
    switch (c->control >> 4 & 3) {
    case ACCESS_LOW:
        count_write(c, val, now);
        break;
    case ACCESS_HIGH:
        count_write(c, (uint16_t)(val << 8), now);
        break;
    default:
        if (!c->half_written) {
            c->written = val;
            /* In mode 0 the first byte stops the count and sets OUT low. */
            if (c->mode == 0)
                c->running = false;
        } else {
            count_write(c, (uint16_t)(val << 8 | c->written), now);
        }
        c->half_written = !c->half_written;
    }
}

static uint8_t channel_read(struct channel *c, uint64_t now)
{
    unsigned access = c->control >> 4 & 3;
    uint16_t count;
    bool high;

    channel_sync(c, now);
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    count = c->count_latched ? c->latch : channel_count(c, now);
    high = access == ACCESS_HIGH || (access == ACCESS_BOTH && c->half_read);
    if (access == ACCESS_BOTH)
        c->half_read = !c->half_read;
    if (access != ACCESS_BOTH || high)
        c->count_latched = false;
    return (uint8_t)(high ? count >> 8 : count);
}

static void latch_count(struct channel *c, uint64_t now)
{
    if (c->count_latched)
        return;
    channel_sync(c, now);
    c->latch = channel_count(c, now);
    c->count_latched = true;
}

static void latch_status(struct channel *c, uint64_t now)
{
    if (c->status_latched)
        return;
    channel_sync(c, now);
    c->status = (uint8_t)((channel_out(c, now) ? STATUS_OUT : 0) |
                          (c->null_count ? STATUS_NULL : 0) | c->control);
    c->status_latched = true;
}

static void read_back(struct pit *pit, uint8_t val, uint64_t now)
{
    for (unsigned i = 0; i < CHANNELS; i++) {
        if (!(val & 2u << i))
            continue;
        if (!(val & 0x20))
            latch_count(&pit->ch[i], now);
        if (!(val & 0x10))
            latch_status(&pit->ch[i], now);
    }
}

static void control_write(struct pit *pit, uint8_t val, uint64_t now)
{
    struct channel *c;

    if (val >> 6 == 3) {
        read_back(pit, val, now);
        return;
    }
    c = &pit->ch[val >> 6];
    if ((val >> 4 & 3) == ACCESS_LATCH) {
        latch_count(c, now);
        return;
    }
    *c = (struct channel){
        .control = val & 0x3f,
        .mode = (val >> 1 & 7) > 5 ? (val >> 1 & 3) : (val >> 1 & 7), /* 6 and 7 are 2 and 3 */
        .gate = c->gate,
        .null_count = true,
        .count = c->count,
    };
    if (c == &pit->ch[0])
        edge_arm_locked(pit, now);
}

static void gate_set(struct channel *c, bool gate, uint64_t now)
{
    bool rising = gate && !c->gate;

    if (gate == c->gate)
        return;
    channel_sync(c, now);
    if (!gate && c->running && !is_triggered(c))
        c->paused = elapsed(c, now);
    c->gate = gate;
    if (!rising)
        return;
    if (is_triggered(c) && (c->next_count || c->running)) {
        uint32_t count = c->next_count ? c->next_count : c->count;

        channel_load(c, count, now);
        c->next_count = count; /* stays for the next trigger */
    } else if (is_periodic(c) && c->running) {
        channel_load(c, c->next_count ? c->next_count : c->count, now);
    } else {
        c->start_ns = now;
    }
}

static int pit_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pit *pit = opaque;

    if (off >= CONTROL_PORT)
        return -1; /* write-only */
    pthread_mutex_lock(&pit->lock);
    *val = channel_read(&pit->ch[off], clock_now_ns(&pit->vm->clock));
    pthread_mutex_unlock(&pit->lock);
    return 0;
}

static int pit_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pit *pit = opaque;
    uint64_t now;

    pthread_mutex_lock(&pit->lock);
    now = clock_now_ns(&pit->vm->clock);
    if (off == CONTROL_PORT) {
        control_write(pit, (uint8_t)val, now);
    } else if (off < CHANNELS) {
        channel_write(&pit->ch[off], (uint8_t)val, now);
        if (off == 0)
            edge_arm_locked(pit, now);
    }
    pthread_mutex_unlock(&pit->lock);
    return 0;
}

static int port61_read(void *opaque, uint64_t off, unsigned size, uint64_t *val)
{
    struct pit *pit = opaque;
    struct channel *c = &pit->ch[2];
    uint64_t now;

    pthread_mutex_lock(&pit->lock);
    now = clock_now_ns(&pit->vm->clock);
    channel_sync(c, now);
    *val = (c->gate ? 1u : 0) | (pit->speaker ? 2u : 0) | (now / REFRESH_NS & 1) << 4 |
           (channel_out(c, now) ? 1u << 5 : 0);
    pthread_mutex_unlock(&pit->lock);
    return 0;
}

static int port61_write(void *opaque, uint64_t off, unsigned size, uint64_t val)
{
    struct pit *pit = opaque;

    pthread_mutex_lock(&pit->lock);
    gate_set(&pit->ch[2], val & 1, clock_now_ns(&pit->vm->clock));
    pit->speaker = val & 2;
    pthread_mutex_unlock(&pit->lock);
    return 0;
}

static const struct region_ops pit_ops = {pit_read, pit_write, 1, 1};
static const struct region_ops port61_ops = {port61_read, port61_write, 1, 1};

void pit_reset(struct pit *pit)
{
    pthread_mutex_lock(&pit->lock);
    for (unsigned i = 0; i < CHANNELS; i++)
        pit->ch[i] = (struct channel){
            .control = ACCESS_BOTH << 4 | 3 << 1,
            .mode = 3,
            .gate = i != 2,
            .null_count = true,
            .count = 65536,
        };
    pit->speaker = false;
    edge_arm_locked(pit, 0);
    pthread_mutex_unlock(&pit->lock);
}

static void channel_save(const struct channel *c, struct pit_channel_state *s, uint64_t now)
{
    *s = (struct pit_channel_state){
        .control = c->control,
        .gate = c->gate,
        .running = c->running,
        .null_count = c->null_count,
        .half_written = c->half_written,
        .half_read = c->half_read,
        .status_latched = c->status_latched,
        .count_latched = c->count_latched,
        .status = c->status,
        .written = c->written,
        .latch = c->latch,
        .count = c->count,
        .next_count = c->next_count,
        .elapsed_ns = c->running ? ticks_to_ns(elapsed(c, now)) : 0,
    };
}

static uint32_t count_bound(uint32_t count, uint32_t least)
{
    return count < least ? least : count > 65536 ? 65536 : count;
}

static void channel_load_state(struct channel *c, const struct pit_channel_state *s, uint64_t now)
{
    unsigned mode = s->control >> 1 & 7;

    *c = (struct channel){
        .control = s->control & 0x3f,
        .mode = (uint8_t)(mode > 5 ? mode & 3 : mode),
        .gate = s->gate,
        .running = s->running,
        .null_count = s->null_count,
        .half_written = s->half_written,
        .half_read = s->half_read,
        .status_latched = s->status_latched,
        .count_latched = s->count_latched,
        .status = s->status,
        .written = s->written,
        .latch = s->latch,
        .next_count = s->next_count ? count_bound(s->next_count, 2) : 0,
        .start_ns = now,
        .paused = ns_to_ticks(s->elapsed_ns),
    };
    c->count = count_bound(s->count, is_periodic(c) ? 2 : 1);
    /* While the gate lets it count, time since start_ns is what counts. */
    if (c->gate || is_triggered(c)) {
        c->start_ns = s->elapsed_ns < now ? now - s->elapsed_ns : 0;
        c->paused = 0;
    }
}

void pit_save(struct pit *pit, struct pit_state *s)
{
    uint64_t now;

    pthread_mutex_lock(&pit->lock);
    now = clock_now_ns(&pit->vm->clock);
    for (unsigned i = 0; i < CHANNELS; i++) {
        channel_sync(&pit->ch[i], now);
        channel_save(&pit->ch[i], &s->ch[i], now);
    }
    s->speaker = pit->speaker;
    pthread_mutex_unlock(&pit->lock);
}

void pit_load(struct pit *pit, const struct pit_state *s)
{
    uint64_t now;

    pthread_mutex_lock(&pit->lock);
    now = clock_now_ns(&pit->vm->clock);
    for (unsigned i = 0; i < CHANNELS; i++)
        channel_load_state(&pit->ch[i], &s->ch[i], now);
    pit->speaker = s->speaker;
    edge_arm_locked(pit, now);
    pthread_mutex_unlock(&pit->lock);
}

int pit_new(struct pit **out, struct vm *vm, struct irq_line irq0, struct err *err)
{
    struct pit *pit = calloc(1, sizeof(*pit));
    int ret;

    if (!pit)
        return err_set(err, -ENOMEM, "not enough memory for the interval timer");
    pit->vm = vm;
    pit->irq0 = irq0;
    pthread_mutex_init(&pit->lock, NULL);
    vtimer_init(&pit->timer, &vm->clock, edge_fire, pit);
    pit_reset(pit);
    ret = bus_map(&vm->pio, PIO_PIT, 4, &pit_ops, pit, "pit", err);
    if (!ret)
        ret = bus_map(&vm->pio, PIO_PORT61, 1, &port61_ops, pit, "port61", err);
    if (ret < 0) {
        pit_free(pit);
        return ret;
    }
    *out = pit;
    return 0;
}

void pit_free(struct pit *pit)
{
    if (!pit)
        return;
    vtimer_fini(&pit->timer);
    pthread_mutex_destroy(&pit->lock);
    free(pit);
}
