/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/confine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/qcow2.h"
#include "cli/state.h"
#include "core/vm.h"

/* `path` as it is, or what it leads to without its last part. */
static int allow_folder_of(struct sandbox *s, const char *path, unsigned rights, struct err *err)
{
    char *copy = strdup(path), *slash;
    int r;

    if (!copy)
        return err_set(err, -ENOMEM, "no memory to confine the guest's process");
    slash = strrchr(copy, '/');
    if (slash)
        slash[slash == copy] = '\0';
    r = sandbox_allow(s, slash ? copy : ".", rights, err);
    free(copy);
    return r;
}

/* ---- Disks ------------------------------------------------------------------------- */

static bool is_format(const char *format, const char *name)
{
    return format && !strcmp(format, name);
}

/*
 * The images below a qcow2 image, by what the headers say. One that cannot be opened is not looked at further: opening it
 * for the guest says what is wrong.
 */
static int allow_below(struct sandbox *s, const char *image, struct err *err)
{
    char *path = strdup(image);
    int r = path ? 0 : err_set(err, -ENOMEM, "no memory to confine the guest's process");

    for (unsigned depth = 0; !r && path && depth < QCOW2_CHAIN_MAX; depth++) {
        struct qcow2_config cfg = {
            .path = path, .read_only = true, .no_backing = true, .inspect = true, .no_lock = true};
        struct qcow2_info info = {0};
        struct err ignored = {0};
        struct qcow2 *q = NULL;

        if (!qcow2_open(&q, &cfg, &ignored))
            qcow2_get_info(q, &info);
        free(path);
        path = info.backing_path ? strdup(info.backing_path) : NULL;
        if (path)
            r = sandbox_allow(s, path, SANDBOX_READ | SANDBOX_DEVICE, err);
        if (!info.backing_fmt || strcmp(info.backing_fmt, "qcow2") != 0)
            depth = QCOW2_CHAIN_MAX;
        qcow2_close(q);
    }
    free(path);
    return r;
}

static int allow_disk(struct sandbox *s, const struct block_config *image, struct err *err)
{
    unsigned rights = SANDBOX_READ | SANDBOX_DEVICE | (image->read_only ? 0 : SANDBOX_WRITE);
    int r;

    if (is_format(image->format, BLOCK_VHOST_USER))
        return 0; /* a socket */
    r = sandbox_allow(s, image->path, rights, err);
    return r || is_format(image->format, "raw") ? r : allow_below(s, image->path, err);
}

/* ---- All of it --------------------------------------------------------------------- */

static struct sandbox_needs needs_of(const struct run_opts *o)
{
    struct sandbox_needs n = {.debug = o->perf_map, .unix_stream = strcmp(o->vsock, "off") != 0};

    for (unsigned i = 0; i < o->nets.count; i++) {
        enum vm_net_kind kind = o->nets.net[i].kind;

        n.inet |= kind == VM_NET_USER;
        n.unix_dgram |= kind == VM_NET_SWITCH;
        n.net_admin |= kind == VM_NET_TAP || kind == VM_NET_BRIDGE;
    }
    for (unsigned i = 0; i < o->disks.count; i++)
        n.unix_stream |= is_format(o->disks.disk[i].image.format, BLOCK_VHOST_USER);
    return n;
}

/* The name server's address; where the file is a link, its neighbours are new versions of it. */
static int allow_resolver(struct sandbox *s, struct err *err)
{
    char *real = realpath("/etc/resolv.conf", NULL);
    int r = sandbox_allow(s, "/etc/resolv.conf", SANDBOX_READ, err);

    if (!r && real && strncmp(real, "/run/", 5) == 0)
        r = allow_folder_of(s, real, SANDBOX_READ, err);
    free(real);
    return r;
}

static int allow_nets(struct sandbox *s, const struct run_opts *o, struct err *err)
{
    int r = 0;

    for (unsigned i = 0; !r && i < o->nets.count; i++) {
        const struct vm_net *net = &o->nets.net[i];

        if (net->kind == VM_NET_SWITCH) {
            /* Members come and go and take empty networks with them. */
            mkdir(net->base, 0700);
            r = sandbox_allow(s, net->base,
                              SANDBOX_LIST | SANDBOX_SOCKET | SANDBOX_REMOVE | SANDBOX_MKDIR |
                                  SANDBOX_RMDIR,
                              err);
        } else if (net->kind == VM_NET_USER) {
            r = allow_resolver(s, err);
        } else {
            r = sandbox_allow(s, "/dev/net/tun", SANDBOX_READ | SANDBOX_WRITE | SANDBOX_DEVICE,
                              err);
        }
    }
    return r;
}

/* Sockets that others connect to: made now, removed at the end. */
static int allow_sockets(struct sandbox *s, const struct run_opts *o, struct err *err)
{
    const unsigned rights = SANDBOX_SOCKET | SANDBOX_REMOVE;
    int r = 0;

    for (unsigned i = 0; !r && i < o->ports.count; i++)
        r = allow_folder_of(s, o->ports.port[i].path, rights, err);
    if (!r && strcmp(o->vsock, "off") && strcmp(o->vsock, "on"))
        r = allow_folder_of(s, o->vsock, rights, err);
    return r;
}

static int allow_own(struct sandbox *s, const struct confine_config *cfg, struct err *err)
{
    const unsigned all = SANDBOX_FILES | SANDBOX_SOCKET | SANDBOX_MKDIR | SANDBOX_RMDIR;
    const struct guest_image *g = cfg->image;
    char path[STATE_PATH];
    int r;

    r = sandbox_allow(s, cfg->reg->dir, SANDBOX_FILES | SANDBOX_SOCKET, err);
    if (!r) /* the directory itself, when it is empty */
        r = sandbox_allow(s, cfg->reg->base, SANDBOX_RMDIR, err);
    if (!r && cfg->kept) {
        r = state_path(path, cfg->opts->name, NULL, err);
        if (!r)
            r = sandbox_allow(s, path, all, err);
        if (!r)
            r = allow_folder_of(s, path, SANDBOX_RMDIR, err);
    }
    if (!r && g->hold >= 0)
        r = sandbox_allow(s, g->dir, all, err);
    if (!r && g->hold >= 0)
        r = sandbox_allow(s, g->store.guests, SANDBOX_RMDIR, err);
    return r;
}

static int allow_all(struct sandbox *s, const struct confine_config *cfg, struct err *err)
{
    const struct run_opts *o = cfg->opts;
    int r = allow_own(s, cfg, err);

    if (!r)
        r = sandbox_allow(s, "/dev/null", SANDBOX_READ | SANDBOX_WRITE, err);
    if (!r && cfg->kvm)
        r = sandbox_allow(s, "/dev/kvm", SANDBOX_READ | SANDBOX_WRITE | SANDBOX_DEVICE, err);
    if (!r)
        r = sandbox_allow(s, o->kernel, SANDBOX_READ, err);
    if (!r && o->initrd)
        r = sandbox_allow(s, o->initrd, SANDBOX_READ, err);
    for (unsigned i = 0; !r && i < o->disks.count; i++)
        r = allow_disk(s, &o->disks.disk[i].image, err);
    if (!r)
        r = allow_nets(s, o, err);
    if (!r)
        r = allow_sockets(s, o, err);
    if (!r && o->restore)
        r = sandbox_allow(s, o->restore, SANDBOX_READ | SANDBOX_LIST, err);
    if (!r && SANDBOX_SANITIZED)
        r = sandbox_allow(s, "/proc", SANDBOX_READ | SANDBOX_LIST, err);
    if (!r && o->perf_map)
        r = sandbox_allow(s, "/tmp", SANDBOX_WRITE | SANDBOX_MAKE | SANDBOX_REMOVE, err);
    return r;
}

int confine_enter(struct sandbox *s, const struct confine_config *cfg, struct err *err)
{
    const struct sandbox_needs needs = needs_of(cfg->opts);
    int r;

    sandbox_init(s, &needs);
    r = allow_all(s, cfg, err);
    if (!r)
        r = sandbox_enter(s, err);
    sandbox_fini(s);
    return r;
}
