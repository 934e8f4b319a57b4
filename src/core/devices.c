/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/listen.h"
#include "block/block.h"
#include "core/machine.h"
#include "dev/virtio/balloon.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/console.h"
#include "dev/virtio/console_line.h"
#include "dev/virtio/net.h"
#include "dev/virtio/pci.h"
#include "dev/virtio/rng.h"
#include "dev/virtio/vsock.h"
#include "net/tap.h"

/* Fixed, so that a device keeps its address when others come and go. */
#define SLOT_RNG     2
#define SLOT_CONSOLE 3
#define SLOT_BALLOON 4
#define SLOT_VSOCK   5
#define SLOT_NETS    6
#define SLOT_DISKS   10
#define SLOT_HVC     26

#define MAX_DEVICES     (VM_MAX_DISKS + VM_MAX_NETS + 5)
#define MAX_DISK_QUEUES 8
#define VSOCK_BACKLOG   128

struct disk {
    struct block *block;
    struct virtio_blk blk;
};

struct card {
    struct net *net;
    struct virtio_net vn;
};

struct devices {
    struct virtio_memory memory;
    struct pci_bus *bus;
    struct virtio_device rng;
    struct virtio_balloon balloon;
    struct virtio_console console, hvc;
    struct console_line *line; /* of hvc */
    int port_fd[VM_MAX_PORTS]; /* listening */
    unsigned port_fds;
    struct virtio_vsock vsock;
    int vsock_fd; /* listening, -1: none */
    const struct vm_config *cfg;
    struct card card[VM_MAX_NETS];
    struct disk disk[VM_MAX_DISKS];
    struct virtio_pci transport[MAX_DEVICES];
    unsigned count; /* of transports */
};

static void memory_written(void *opaque, gpa_t gpa, uint64_t len)
{
    vm_mem_written(opaque, gpa, len);
}

static int plug(struct devices *d, struct virtio_device *dev, unsigned slot, struct err *err)
{
    int code = virtio_pci_init(&d->transport[d->count], dev, d->bus, slot, err);

    if (!code)
        d->count++;
    return code;
}

static int add_rng(struct devices *d, struct err *err)
{
    int code = virtio_rng_init(&d->rng, &d->memory, err);

    return code ? code : plug(d, &d->rng, SLOT_RNG, err);
}

static int add_balloon(struct devices *d, struct err *err)
{
    int code = virtio_balloon_init(&d->balloon, &d->memory, err);

    return code ? code : plug(d, &d->balloon.dev, SLOT_BALLOON, err);
}

static int add_console(struct devices *d, struct err *err)
{
    struct virtio_console_config cfg = {.ports = d->cfg->ports};
    int code = 0;

    for (unsigned n = 0; n < d->cfg->ports; n++) {
        int fd = listen_unix(d->cfg->port[n].path, err);

        if (fd < 0)
            return fd;
        d->port_fd[d->port_fds++] = fd;
        cfg.port[n].name = d->cfg->port[n].name;
        cfg.port[n].listen_fd = fd;
    }
    code = virtio_console_init(&d->console, &d->memory, &cfg, err);
    return code ? code : plug(d, &d->console.dev, SLOT_CONSOLE, err);
}

static int add_hvc(struct devices *d, struct err *err)
{
    const struct vm_config *vm = d->cfg;
    const struct serial_ends ends = {.in = vm->serial_in,
                                     .out = vm->serial_out,
                                     .tap = vm->serial_tap,
                                     .opaque = vm->serial_tap_opaque};
    struct virtio_console_config cfg = {
        .console = true, .cols = vm->console_cols, .rows = vm->console_rows};
    int code = console_line_new(&d->line, &ends, &cfg.fd, err);

    if (!code)
        code = virtio_console_init(&d->hvc, &d->memory, &cfg, err);
    return code ? code : plug(d, &d->hvc.dev, SLOT_HVC, err);
}

static int add_vsock(struct devices *d, struct err *err)
{
    struct virtio_vsock_config cfg = {.cid = VIRTIO_VSOCK_CID, .path = d->cfg->vsock};
    int code;

    if (strlen(cfg.path) > VIRTIO_VSOCK_PATH) {
        err_set(err, -ENAMETOOLONG, "the path of a vsock has at most %d characters: '%.200s'",
                VIRTIO_VSOCK_PATH, cfg.path);
        return err_next(err, "Give a shorter one, such as one relative to the current folder.");
    }
    d->vsock_fd = cfg.listen_fd = listen_unix(cfg.path, err);
    if (cfg.listen_fd < 0)
        return cfg.listen_fd;
    if (listen(cfg.listen_fd, VSOCK_BACKLOG) < 0)
        return err_set(err, -errno, "cannot listen at %s: %s", cfg.path, strerror(errno));
    code = virtio_vsock_init(&d->vsock, &d->memory, &cfg, err);
    return code ? code : plug(d, &d->vsock.dev, SLOT_VSOCK, err);
}

static int add_disk(struct devices *d, const struct vm_config *cfg, unsigned n, struct err *err)
{
    const struct vm_disk *want = &cfg->disk[n];
    unsigned queues = cfg->cpus < MAX_DISK_QUEUES ? cfg->cpus : MAX_DISK_QUEUES;
    const struct mem *mem = d->memory.mem;
    const struct block_memory memory = {mem->fd, mem->map, mem->size};
    struct block_config image = want->image;
    struct disk *disk = &d->disk[n];
    int code;

    image.memory = &memory;
    code = block_open(&disk->block, &image, err);

    if (!code)
        code = virtio_blk_init(&disk->blk, &d->memory, disk->block, queues, want->serial, err);
    return code ? code : plug(d, &disk->blk.dev, SLOT_DISKS + n, err);
}

static int net_new(struct net **net, const struct vm_net *want, struct err *err)
{
    switch (want->kind) {
    case VM_NET_SWITCH:
        return net_switch_new(net, want->base, want->name, err);
    case VM_NET_TAP:
        return net_tap_new(net, want->name, NULL, err);
    case VM_NET_BRIDGE:
        return net_tap_new(net, NULL, want->name, err);
    case VM_NET_USER:
        break;
    }
    return net_user_new(net, &want->user, err);
}

static int add_card(struct devices *d, unsigned n, struct err *err)
{
    const struct vm_net *want = &d->cfg->net[n];
    struct card *card = &d->card[n];
    unsigned pairs = want->queues ? want->queues : d->cfg->cpus;
    struct virtio_net_config cfg = {.rates = want->rates};
    int code = net_new(&card->net, want, err);

    if (code < 0)
        return code;
    cfg.net = card->net;
    cfg.pairs = pairs < VIRTIO_NET_PAIRS ? pairs : VIRTIO_NET_PAIRS;
    memcpy(cfg.mac, want->mac, sizeof(cfg.mac));
    code = virtio_net_init(&card->vn, &d->memory, &cfg, err);
    if (!code)
        code = plug(d, &card->vn.dev, SLOT_NETS + n, err);
    return code || !card->net->ops->start ? code : card->net->ops->start(card->net, err);
}

static void remove_card(struct card *card)
{
    if (!card->net)
        return;
    if (card->net->ops->stop)
        card->net->ops->stop(card->net);
    virtio_net_fini(&card->vn);
    card->net->ops->free(card->net);
}

struct net *devices_net(struct devices *d, unsigned n)
{
    return n < VM_MAX_NETS ? d->card[n].net : NULL;
}

int devices_new(struct devices **out, struct vm *vm, struct pci_bus *bus, struct err *err)
{
    struct devices *d = calloc(1, sizeof(*d));
    int code = 0;

    if (!d)
        return err_set(err, -ENOMEM, "no memory for the guest's devices");
    d->memory = (struct virtio_memory){&vm->mem, memory_written, vm};
    d->bus = bus;
    d->cfg = &vm->cfg;
    d->vsock_fd = -1;
    if (vm->cfg.rng)
        code = add_rng(d, err);
    if (!code && vm->cfg.balloon)
        code = add_balloon(d, err);
    if (!code && vm->cfg.ports)
        code = add_console(d, err);
    if (!code && vm->cfg.hvc)
        code = add_hvc(d, err);
    for (unsigned n = 0; !code && n < vm->cfg.nets; n++)
        code = add_card(d, n, err);
    if (!code && vm->cfg.vsock)
        code = add_vsock(d, err);
    for (unsigned n = 0; !code && n < vm->cfg.disks; n++)
        code = add_disk(d, &vm->cfg, n, err);
    if (code < 0) {
        devices_free(d);
        return code;
    }
    *out = d;
    return 0;
}

void devices_free(struct devices *d)
{
    if (!d)
        return;
    while (d->count)
        virtio_pci_fini(&d->transport[--d->count]);
    virtio_fini(&d->rng);
    virtio_balloon_fini(&d->balloon);
    virtio_console_fini(&d->console);
    virtio_console_fini(&d->hvc);
    console_line_free(d->line);
    virtio_vsock_fini(&d->vsock);
    if (d->vsock_fd >= 0) {
        unlink(d->cfg->vsock);
        close(d->vsock_fd);
    }
    for (unsigned n = 0; n < d->port_fds; n++) {
        unlink(d->cfg->port[n].path);
        close(d->port_fd[n]);
    }
    for (unsigned n = 0; n < VM_MAX_NETS; n++)
        remove_card(&d->card[n]);
    for (unsigned n = 0; n < VM_MAX_DISKS; n++) {
        virtio_fini(&d->disk[n].blk.dev);
        block_close(d->disk[n].block);
    }
    free(d);
}

void devices_reset(struct devices *d)
{
    for (unsigned n = 0; n < d->count; n++)
        virtio_pci_reset(&d->transport[n]);
}

void devices_pause(struct devices *d)
{
    for (unsigned n = 0; n < d->count; n++)
        virtio_pause(d->transport[n].dev);
}

void devices_resume(struct devices *d)
{
    for (unsigned n = 0; n < d->count; n++)
        virtio_resume(d->transport[n].dev);
}

int devices_disk_overlay(struct devices *d, unsigned n, const struct block_config *image,
                         struct err *err)
{
    struct virtio_blk *blk = &d->disk[n].blk;
    int code;

    virtio_pause(&blk->dev);
    code = block_overlay(d->disk[n].block, image, err);
    virtio_resume(&blk->dev);
    return code;
}

void devices_disks_changed(struct devices *d)
{
    for (unsigned n = 0; n < d->cfg->disks; n++)
        if (d->cfg->disk[n].image.read_only)
            virtio_config_changed(&d->disk[n].blk.dev);
}

int devices_disk_sync(struct devices *d, unsigned n)
{
    return block_sync(d->disk[n].block);
}

void devices_console_resize(struct devices *d, uint16_t cols, uint16_t rows)
{
    if (d->line)
        virtio_console_resize(&d->hvc, cols, rows);
}

void devices_print_stats(struct devices *d, FILE *out)
{
    if (d->balloon.dev.ops)
        fprintf(out, "memory given back %.1f MiB in all\n",
                (double)atomic_load(&d->balloon.given_back) / (1 << 20));
}

struct virtio_pci *devices_virtio(struct devices *d, unsigned n)
{
    return n < d->count ? &d->transport[n] : NULL;
}

struct block *devices_disk(struct devices *d, unsigned n)
{
    return n < VM_MAX_DISKS ? d->disk[n].block : NULL;
}

struct virtio_balloon *devices_balloon(struct devices *d)
{
    return d->balloon.dev.ops ? &d->balloon : NULL;
}

struct net_limit *devices_net_limit(struct devices *d, unsigned n)
{
    return n < VM_MAX_NETS && d->card[n].net ? &d->card[n].vn.limit : NULL;
}

bool devices_disk_traffic(struct devices *d, unsigned n, struct traffic *t)
{
    struct block *b = n < VM_MAX_DISKS ? d->disk[n].block : NULL;

    if (b)
        *t = (struct traffic){
            atomic_load(&b->count[BLOCK_READ]), atomic_load(&b->bytes[BLOCK_READ]),
            atomic_load(&b->count[BLOCK_WRITE]), atomic_load(&b->bytes[BLOCK_WRITE])};
    return b;
}

bool devices_net_traffic(struct devices *d, unsigned n, struct traffic *t)
{
    struct virtio_net *vn = n < VM_MAX_NETS && d->card[n].net ? &d->card[n].vn : NULL;

    if (vn)
        *t = (struct traffic){atomic_load(&vn->count[NET_IN]), atomic_load(&vn->bytes[NET_IN]),
                              atomic_load(&vn->count[NET_OUT]), atomic_load(&vn->bytes[NET_OUT])};
    return vn;
}
