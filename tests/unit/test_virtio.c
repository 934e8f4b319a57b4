/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/dev/virtio/ src/dev/pci/ src/block/ src/core/mem.c src/core/bus.c src/net/flow.c src/net/limit.c
 *       src/base/bucket.c src/base/err.c src/base/log.c */
/* A disk behind the PCI transport, driven register by register, with its own threads. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/virtio/blk.h"
#include "dev/virtio/pci.h"

#define LOW    0xc0000000ull
#define SIZE   128
#define DESC   0x10000u
#define AVAIL  0x11000u
#define USED   0x12000u
#define HEADER 0x13000u
#define STATUS 0x13100u
#define DATA   0x20000u
#define DISK   MIB(1)
#define SLOT   4

#define NEXT  1
#define WRITE 2

struct fixture {
    struct mem mem;
    struct bus mmio;
    struct pci_bus bus;
    struct virtio_memory memory;
    struct block *block;
    struct virtio_blk blk;
    struct virtio_pci vp;
    char path[64];
    uint16_t avail;
    _Atomic unsigned messages[8]; /* by data */
    _Atomic bool level;
};

static void on_written(void *opaque, gpa_t gpa, uint64_t len)
{
    struct fixture *f = opaque;

    assert_non_null(mem_hva(&f->mem, gpa, len));
}

static void message(void *opaque, uint64_t addr, uint32_t data)
{
    struct fixture *f = opaque;

    f->messages[data & 7]++;
}

static void line_set(void *opaque, unsigned n, bool level)
{
    struct fixture *f = opaque;

    f->level = level;
}

static uint64_t in(struct fixture *f, unsigned off, unsigned size)
{
    return bus_read(&f->mmio, f->vp.pci.mapped[0].base + off, size);
}

static void out(struct fixture *f, unsigned off, unsigned size, uint64_t val)
{
    bus_write(&f->mmio, f->vp.pci.mapped[0].base + off, size, val);
}

static int setup_with(void **state, off_t size, uint64_t bps, enum block_cache cache)
{
    static const struct irq_line_ops line_ops = {line_set};
    struct fixture *f = calloc(1, sizeof(*f));
    struct pci_bus_config cfg = {
        .mmio = &f->mmio, .window = {{LOW, MIB(16)}}, .msi = message, .opaque = f};
    struct block_config image = {.path = f->path, .cache = cache, .limit[BLOCK_BPS] = bps};
    int fd, code;

    /* A thread sanitizer does not see what io_uring hands from the limits' thread to the device's. */
    image.aio = bps ? BLOCK_AIO_THREADS : BLOCK_AIO_AUTO;

    for (unsigned n = 0; n < PCI_LINKS; n++)
        cfg.link[n] = (struct irq_line){&line_ops, f, 0};
    strcpy(f->path, "/tmp/lodge-virtio.XXXXXX");
    fd = mkstemp(f->path);
    assert_true(fd >= 0 && !ftruncate(fd, size));
    close(fd);
    assert_int_equal(mem_init(&f->mem, MIB(2), NULL), 0);
    f->memory = (struct virtio_memory){&f->mem, on_written, f};
    assert_int_equal(pci_bus_init(&f->bus, &cfg, NULL), 0);
    code = block_open(&f->block, &image, NULL);
    if (code == -EINVAL && cache) /* not on this file system */
        image.cache = BLOCK_WRITEBACK, code = block_open(&f->block, &image, NULL);
    assert_int_equal(code, 0);
    assert_int_equal(virtio_blk_init(&f->blk, &f->memory, f->block, 2, "serial", NULL), 0);
    assert_int_equal(virtio_pci_init(&f->vp, &f->blk.dev, &f->bus, SLOT, NULL), 0);
    pci_bus_reset(&f->bus);
    pci_config_write(&f->bus, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, DISK, 0, BLOCK_WRITEBACK);
}

static int setup_direct(void **state)
{
    return setup_with(state, DISK, 0, BLOCK_NONE);
}

static int setup_slow(void **state)
{
    return setup_with(state, MIB(64), MIB(200), BLOCK_WRITEBACK);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    virtio_pci_fini(&f->vp);
    virtio_fini(&f->blk.dev);
    block_close(f->block);
    pci_bus_fini(&f->bus);
    mem_fini(&f->mem);
    unlink(f->path);
    free(f);
    return 0;
}

/* ---- The driver ----------------------------------------------------------------------- */

/* What is 16 bits wide orders the rest, as on the device's side. */
static void put(struct fixture *f, gpa_t at, uint64_t val, unsigned size)
{
    if (size == 2) {
        __atomic_store_n((uint16_t *)(void *)mem_hva(&f->mem, at, 2), (uint16_t)val,
                         __ATOMIC_SEQ_CST);
        return;
    }
    assert_int_equal(mem_write(&f->mem, at, &val, size), 0);
}

static uint64_t get(struct fixture *f, gpa_t at, unsigned size)
{
    uint64_t val = 0;

    if (size == 2)
        return __atomic_load_n((uint16_t *)(void *)mem_hva(&f->mem, at, 2), __ATOMIC_SEQ_CST);
    assert_int_equal(mem_read(&f->mem, at, &val, size), 0);
    return val;
}

static void msix_on(struct fixture *f)
{
    uint64_t table = f->vp.pci.mapped[2].base;

    for (unsigned n = 0; n < 3; n++) {
        bus_write(&f->mmio, table + 16 * n, 8, 0xfee00000);
        bus_write(&f->mmio, table + 16 * n + 8, 8, n);
    }
    pci_config_write(&f->bus, SLOT, f->vp.pci.msix.cap + 2, 2, 0x8000);
    out(f, 16, 2, 2);
}

static void negotiate(struct fixture *f, uint32_t low)
{
    out(f, 20, 1, 0);
    out(f, 20, 1, 1);
    out(f, 20, 1, 3);
    out(f, 8, 4, 0);
    out(f, 12, 4, low);
    out(f, 8, 4, 1);
    out(f, 12, 4, 1);
    out(f, 20, 1, 11);
}

static void set_up(struct fixture *f)
{
    negotiate(f, 1u << 9 | 1u << 13 | 1u << 14);
    assert_int_equal(in(f, 20, 1), 11);
    out(f, 22, 2, 0);
    assert_int_equal(in(f, 24, 2), 256);
    out(f, 24, 2, SIZE);
    out(f, 26, 2, 0);
    out(f, 32, 8, DESC);
    out(f, 40, 8, AVAIL);
    out(f, 48, 8, USED);
    out(f, 28, 2, 1);
    f->avail = 0;
    put(f, AVAIL, 0, 4);
    put(f, USED, 0, 4);
    out(f, 20, 1, 15);
    assert_int_equal(in(f, 20, 1), 15);
}

static void desc(struct fixture *f, unsigned i, gpa_t addr, uint32_t len, unsigned flags)
{
    put(f, DESC + 16 * i, addr, 8);
    put(f, DESC + 16 * i + 8, len, 4);
    put(f, DESC + 16 * i + 12, flags, 2);
    put(f, DESC + 16 * i + 14, i + 1, 2);
}

static void give_head(struct fixture *f, unsigned head)
{
    put(f, AVAIL + 4 + 2 * (f->avail % SIZE), head, 2);
    put(f, AVAIL + 2, ++f->avail, 2);
    out(f, 0x3000, 2, 0);
}

static void give(struct fixture *f)
{
    give_head(f, 0);
}

/* Ten seconds at most. */
static bool wait_for(struct fixture *f, bool (*is_so)(struct fixture *f))
{
    const struct timespec ms = {0, 1000000};

    for (unsigned i = 0; i < 10000; i++) {
        if (is_so(f))
            return true;
        nanosleep(&ms, NULL);
    }
    return false;
}

static bool all_used(struct fixture *f)
{
    return (uint16_t)get(f, USED + 2, 2) == f->avail;
}

static bool three_messages(struct fixture *f)
{
    return f->messages[0] == 3;
}

static bool one_config_message(struct fixture *f)
{
    return f->messages[2] == 1;
}

static bool is_broken(struct fixture *f)
{
    return in(f, 20, 1) & VIRTIO_NEEDS_RESET;
}

/* A request with `len` bytes at DATA; its status. */
static unsigned ask(struct fixture *f, unsigned type, uint64_t sector, uint32_t len, bool write)
{
    put(f, HEADER, type, 8);
    put(f, HEADER + 8, sector, 8);
    put(f, STATUS, 0xee, 1);
    desc(f, 0, HEADER, 16, NEXT);
    desc(f, 1, DATA, len, NEXT | (write ? WRITE : 0));
    desc(f, 2, STATUS, 1, WRITE);
    give(f);
    assert_true(wait_for(f, all_used));
    return (unsigned)get(f, STATUS, 1);
}

/* ---- Cases ------------------------------------------------------------------------------- */

static void negotiates(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(in(f, 18, 2), 2);
    out(f, 0, 4, 1);
    assert_int_equal(in(f, 4, 4), 1);
    out(f, 0, 4, 2);
    assert_int_equal(in(f, 4, 4), 0);
    negotiate(f, 1u << 5); /* RO was not offered */
    assert_int_equal(in(f, 20, 1), 3);
    out(f, 20, 1, 15);
    assert_int_equal(in(f, 20, 1), 3);
    out(f, 20, 1, 0);
    out(f, 20, 1, 11); /* VERSION_1 is a must */
    assert_int_equal(in(f, 20, 1), 3);
    negotiate(f, 0);
    assert_int_equal(in(f, 20, 1), 11);
    out(f, 8, 4, 0);
    out(f, 12, 4, 1u << 9); /* too late */
    assert_int_equal(in(f, 12, 4), 0);
    assert_int_equal(in(f, 0x2000, 8), DISK / 512);
    assert_int_equal(in(f, 0x2000 + 34, 2), 2);
    assert_int_equal(in(f, 0x2000 + 200, 4), 0);
    out(f, 22, 2, 2); /* no such queue */
    assert_int_equal(in(f, 24, 2), 0);
    out(f, 24, 2, 4);
    out(f, 28, 2, 1);
}

static void moves_data(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[2048];

    msix_on(f);
    set_up(f);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 13);
    mem_write(&f->mem, DATA, bytes, sizeof(bytes));
    assert_int_equal(ask(f, 1, 3, sizeof(bytes), false), 0);
    assert_int_equal(ask(f, 4, 0, 0, false), 0);
    memset(mem_hva(&f->mem, DATA, 4096), 0, 4096);
    assert_int_equal(ask(f, 0, 3, sizeof(bytes), true), 0);
    assert_memory_equal(mem_hva(&f->mem, DATA, sizeof(bytes)), bytes, sizeof(bytes));
    assert_int_equal(get(f, USED + 4 + 8 * 2, 8), 2049ull << 32);
    assert_true(wait_for(f, three_messages));
    assert_int_equal(ask(f, 8, 0, 20, true), 0);
    assert_string_equal((char *)mem_hva(&f->mem, DATA, 20), "serial");
    /* Beyond the end, not whole sectors, unknown. */
    assert_int_equal(ask(f, 0, DISK / 512 - 1, 1024, true), 1);
    assert_int_equal(ask(f, 0, -1ull, 512, true), 1);
    assert_int_equal(ask(f, 1, 0, 100, false), 1);
    assert_int_equal(ask(f, 99, 0, 512, false), 2);
    assert_int_equal(ask(f, 14, 0, 16, false), 2);
    assert_false(is_broken(f));
}

static void writes_zeroes(void **state)
{
    struct fixture *f = *state;

    set_up(f);
    memset(mem_hva(&f->mem, DATA, 4096), 0x5a, 4096);
    assert_int_equal(ask(f, 1, 0, 4096, false), 0);
    put(f, DATA, 1, 8);
    put(f, DATA + 8, 2, 8);
    assert_int_equal(ask(f, 13, 0, 16, false), 0);
    assert_int_equal(ask(f, 13, 0, 32, false), 1); /* one range only */
    assert_int_equal(ask(f, 11, 0, 16, false), 0);
    put(f, DATA + 12, 2, 4);
    assert_int_equal(ask(f, 13, 0, 16, false), 2); /* an unknown flag */
    put(f, DATA + 12, 1, 4);
    assert_int_equal(ask(f, 11, 0, 16, false), 2); /* not for discards */
    put(f, DATA + 8, 1u << 23, 8);
    assert_int_equal(ask(f, 13, 0, 16, false), 1);
    assert_int_equal(ask(f, 0, 0, 4096, true), 0);
    assert_int_equal(get(f, DATA, 1), 0x5a);
    assert_int_equal(get(f, DATA + 512, 8), 0);
    assert_int_equal(get(f, DATA + 1536, 1), 0x5a);
}

/* A chain that is malformed, or has no room for a status: a config interrupt, and it works again after a reset. */
/* A chain with `len` bytes at DATA in the ring, and nobody told. */
static void prepare(struct fixture *f, unsigned type, uint32_t len, bool write)
{
    put(f, HEADER, type, 8);
    put(f, HEADER + 8, 0, 8);
    put(f, STATUS, 0xee, 1);
    desc(f, 0, HEADER, 16, NEXT);
    desc(f, 1, DATA, len, NEXT | (write ? WRITE : 0));
    desc(f, 2, STATUS, 1, WRITE);
    put(f, AVAIL + 4 + 2 * (f->avail % SIZE), 0, 2);
    put(f, AVAIL + 2, ++f->avail, 2);
}

/* Can this host's file system say that a read would not wait? */
static bool reads_now(struct fixture *f)
{
    uint8_t bytes[4096];
    const struct iovec iov = {bytes, sizeof(bytes)};
    int fd = open(f->path, O_RDONLY);
    bool can = read(fd, bytes, sizeof(bytes)) == sizeof(bytes) &&
               preadv2(fd, &iov, 1, 0, RWF_NOWAIT) == sizeof(bytes);

    close(fd);
    return can;
}

/* Small reads of what is cached are over when the notification is; all else is left to the device's thread. */
static void serves_at_once(void **state)
{
    /* Writes, flushes, large reads, and what is not right. */
    static const struct {
        unsigned type;
        uint32_t len;
        bool write;
    } rest[] = {{1, 512, false}, {4, 512, false}, {0, 32768, true}, {0, 100, true}, {8, 20, true}};
    struct fixture *f = *state;
    struct virtio_device *dev = &f->blk.dev;
    uint8_t bytes[4096];

    set_up(f);
    memset(bytes, 0x5a, sizeof(bytes));
    mem_write(&f->mem, DATA, bytes, sizeof(bytes));
    assert_int_equal(ask(f, 1, 0, sizeof(bytes), false), 0);
    memset(mem_hva(&f->mem, DATA, 4096), 0, 4096);
    virtio_pause(dev);
    prepare(f, 0, sizeof(bytes), true);
    assert_false(virtio_serve_now(dev, 0));
    virtio_resume(dev);
    assert_true(wait_for(f, all_used));
    assert_memory_equal(mem_hva(&f->mem, DATA, 4096), bytes, sizeof(bytes));
    /* The device's thread may be on its way out of io_lock. */
    memset(mem_hva(&f->mem, DATA, 4096), 0, 4096);
    prepare(f, 0, sizeof(bytes), true);
    for (unsigned i = 0; i < 1000 && reads_now(f) && !virtio_serve_now(dev, 0); i++)
        usleep(1000);
    if (reads_now(f)) {
        assert_true(all_used(f));
        assert_int_equal(get(f, STATUS, 1), 0);
        assert_memory_equal(mem_hva(&f->mem, DATA, 4096), bytes, sizeof(bytes));
        assert_int_equal(f->blk.under_way, 0);
    }
    virtio_notify(dev);
    assert_true(wait_for(f, all_used));
    for (unsigned i = 0; i < ARRAY_SIZE(rest); i++) {
        prepare(f, rest[i].type, rest[i].len, rest[i].write);
        assert_false(virtio_serve_now(dev, 0));
        assert_int_equal(get(f, STATUS, 1), 0xee);
        virtio_notify(dev);
        assert_true(wait_for(f, all_used));
        assert_int_equal(get(f, STATUS, 1), rest[i].len == 100);
    }
}

/* What must be waited for is begun by the vCPU that asks; who completes it is open, and so is whether the guest is still there. */
static void begins_at_once(void **state)
{
    struct fixture *f = *state;
    struct virtio_device *dev = &f->blk.dev;
    unsigned begun = 0;
    uint8_t bytes[4096];

    set_up(f);
    memset(bytes, 0x5a, sizeof(bytes));
    mem_write(&f->mem, DATA, bytes, sizeof(bytes));
    assert_int_equal(ask(f, 1, 0, sizeof(bytes), false), 0);
    for (unsigned n = 0; n < 200; n++) {
        const struct idle_watch *w = dev->watch;
        int fd;

        memset(mem_hva(&f->mem, DATA, 4096), 0, 4096);
        prepare(f, 0, sizeof(bytes), true);
        if (virtio_serve_now(dev, 0))
            begun++;
        else
            virtio_notify(dev);
        if (n % 8 == 7) {
            out(f, 20, 1, 0);
            assert_int_equal(f->blk.under_way, 0);
            set_up(f);
            continue;
        }
        fd = w ? w->begin(w->opaque) : -1;
        if (fd >= 0) {
            struct pollfd p = {.fd = fd, .events = POLLIN};

            poll(&p, 1, 60000);
            w->look(w->opaque);
            w->end(w->opaque);
        }
        assert_true(wait_for(f, all_used));
        assert_int_equal(get(f, STATUS, 1), 0);
        assert_memory_equal(mem_hva(&f->mem, DATA, 4096), bytes, sizeof(bytes));
    }
    assert_true(begun > 0 || !f->block->near);
}

/* Writes of 14 MiB each from the same memory: what is too much at once waits in the ring, and goes on by itself. */
static void takes_so_much_at_once(void **state)
{
    const struct timespec ms = {0, 1000000};
    struct fixture *f = *state;
    uint64_t most = 0;

    set_up(f);
    put(f, HEADER, 1, 8);
    put(f, HEADER + 8, 0, 8);
    for (unsigned n = 0; n < 7; n++) {
        desc(f, 16 * n, HEADER, 16, NEXT);
        for (unsigned i = 1; i < 15; i++)
            desc(f, 16 * n + i, MIB(1), MIB(1), NEXT);
        desc(f, 16 * n + 15, STATUS + n, 1, WRITE);
        give_head(f, 16 * n);
    }
    for (unsigned i = 0; i < 60000 && !all_used(f); i++) {
        uint64_t now = atomic_load(&f->blk.under_way);

        most = now > most ? now : most;
        nanosleep(&ms, NULL);
    }
    assert_true(all_used(f));
    assert_int_equal(get(f, STATUS, 1), 0);
    assert_in_range(most, 0, MIB(70));
    /* Those in the ring are forgotten by a reset, which waits for none of them. */
    for (unsigned n = 0; n < 7; n++)
        give_head(f, 16 * n);
    out(f, 20, 1, 0);
    assert_int_equal(f->blk.under_way, 0);
    set_up(f);
    assert_int_equal(ask(f, 0, 0, 512, true), 0);
}

static void breaks_and_recovers(void **state)
{
    struct fixture *f = *state;

    msix_on(f);
    for (unsigned way = 0; way < 2; way++) {
        set_up(f);
        out(f, 16, 2, 2);
        desc(f, 0, way ? HEADER : 0xa0000, 16, 0);
        f->messages[2] = 0;
        give(f);
        assert_true(wait_for(f, is_broken));
        assert_true(wait_for(f, one_config_message));
        assert_int_equal(get(f, USED + 2, 2), 0);
        out(f, 20, 1, 15); /* only a reset helps */
        assert_true(is_broken(f));
        out(f, 20, 1, 0);
        assert_int_equal(in(f, 20, 1), 0);
        assert_int_equal(in(f, 26, 2), 0xffff);
        set_up(f);
        assert_int_equal(ask(f, 4, 0, 0, false), 0);
    }
}

static void queues_must_be_in_memory(void **state)
{
    struct fixture *f = *state;

    negotiate(f, 0);
    out(f, 22, 2, 0);
    out(f, 32, 8, GIB(1));
    out(f, 40, 8, AVAIL);
    out(f, 48, 8, USED);
    out(f, 28, 2, 1);
    out(f, 20, 1, 15);
    assert_true(is_broken(f));
    out(f, 0x3000, 2, 0);
    set_up(f);
    /* What is enabled stays as it is. */
    out(f, 32, 8, GIB(1));
    assert_int_equal(in(f, 32, 8), DESC);
    assert_int_equal(ask(f, 4, 0, 0, false), 0);
}

static bool is_raised(struct fixture *f)
{
    return f->level;
}

static void interrupts_by_pin(void **state)
{
    struct fixture *f = *state;

    set_up(f);
    assert_int_equal(ask(f, 4, 0, 0, false), 0);
    assert_true(wait_for(f, is_raised));
    assert_int_equal(in(f, 0x1000, 1), 1);
    assert_false(f->level);
    assert_int_equal(in(f, 0x1000, 1), 0);
    virtio_config_changed(&f->blk.dev);
    assert_int_equal(in(f, 21, 1), 1);
    assert_true(f->level);
    assert_int_equal(in(f, 0x1000, 1), 2);
}

/* Without its BAR mapped: through the capability in configuration space. */
static void reached_through_configuration_space(void **state)
{
    struct fixture *f = *state;
    unsigned cap = f->vp.access_cap;

    pci_config_write(&f->bus, SLOT, PCI_COMMAND, 2, 0);
    assert_int_equal(in(f, 18, 2), 0xffff);
    pci_config_write(&f->bus, SLOT, cap + 4, 1, 0);
    pci_config_write(&f->bus, SLOT, cap + 8, 4, 18);
    pci_config_write(&f->bus, SLOT, cap + 12, 4, 2);
    assert_int_equal(pci_config_read(&f->bus, SLOT, cap + 16, 2), 2);
    pci_config_write(&f->bus, SLOT, cap + 8, 4, 20);
    pci_config_write(&f->bus, SLOT, cap + 12, 4, 1);
    pci_config_write(&f->bus, SLOT, cap + 16, 1, 3);
    assert_int_equal(pci_config_read(&f->bus, SLOT, cap + 16, 1), 3);
    /* Nothing there; a length that is none. */
    pci_config_write(&f->bus, SLOT, cap + 8, 4, 0xfffffffc);
    pci_config_write(&f->bus, SLOT, cap + 12, 4, 4);
    assert_int_equal(pci_config_read(&f->bus, SLOT, cap + 16, 4), 0xffffffff);
    pci_config_write(&f->bus, SLOT, cap + 12, 4, 3);
    assert_int_equal(pci_config_read(&f->bus, SLOT, cap + 16, 4), 0);
    pci_config_write(&f->bus, SLOT, cap + 4, 1, 5);
    assert_int_equal(pci_config_read(&f->bus, SLOT, cap + 16, 4), 0);
}

/* Requests given while it stands still are served when it goes on. */
static void stands_still(void **state)
{
    struct fixture *f = *state;

    set_up(f);
    virtio_pause(&f->blk.dev);
    put(f, HEADER, 4, 8);
    desc(f, 0, HEADER, 16, NEXT);
    desc(f, 1, STATUS, 1, WRITE);
    give(f);
    usleep(20000);
    assert_int_equal(get(f, USED + 2, 2), 0);
    virtio_resume(&f->blk.dev);
    assert_true(wait_for(f, all_used));
    virtio_pause(&f->blk.dev);
    virtio_pci_reset(&f->vp);
    virtio_resume(&f->blk.dev);
    assert_int_equal(in(f, 20, 1), 0);
}

/* While it is not, a request stays where it is, and nothing is written. */
static void only_a_bus_master_reaches_memory(void **state)
{
    struct fixture *f = *state;

    msix_on(f);
    set_up(f);
    assert_int_equal(ask(f, 0, 0, 512, true), 0);
    pci_config_write(&f->bus, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    put(f, HEADER, 0, 8);
    put(f, HEADER + 8, 0, 8);
    put(f, STATUS, 0xee, 1);
    desc(f, 0, HEADER, 16, NEXT);
    desc(f, 1, DATA, 512, NEXT | WRITE);
    desc(f, 2, STATUS, 1, WRITE);
    give(f);
    usleep(50000);
    assert_int_equal(get(f, USED + 2, 2), 1);
    assert_int_equal(get(f, STATUS, 1), 0xee);
    /* Writes that say the same, and one byte of it, change nothing. */
    pci_config_write(&f->bus, SLOT, PCI_COMMAND, 1, PCI_COMMAND_MEMORY);
    pci_config_write(&f->bus, SLOT, PCI_COMMAND + 1, 1, 4);
    assert_int_equal(get(f, USED + 2, 2), 1);
    pci_config_write(&f->bus, SLOT, PCI_COMMAND, 4, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_true(wait_for(f, all_used));
    assert_int_equal(get(f, STATUS, 1), 0);
    /* A reset in between, and power-on. */
    pci_config_write(&f->bus, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    set_up(f);
    give(f);
    usleep(20000);
    assert_int_equal(get(f, USED + 2, 2), 0);
    pci_config_write(&f->bus, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_true(wait_for(f, all_used));
    pci_bus_reset(&f->bus);
    virtio_pci_reset(&f->vp);
    set_up(f);
    give(f);
    usleep(20000);
    assert_int_equal(get(f, USED + 2, 2), 0);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(negotiates),
        CASE(moves_data),
        CASE(serves_at_once),
        cmocka_unit_test_setup_teardown(begins_at_once, setup_direct, teardown),
        CASE(writes_zeroes),
        CASE(breaks_and_recovers),
        CASE(queues_must_be_in_memory),
        CASE(interrupts_by_pin),
        CASE(reached_through_configuration_space),
        CASE(stands_still),
        CASE(only_a_bus_master_reaches_memory),
        cmocka_unit_test_setup_teardown(takes_so_much_at_once, setup_slow, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
