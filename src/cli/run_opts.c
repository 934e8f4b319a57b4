/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/engines.h"
#include "cli/registry.h"
#include "cli/run.h"
#include "cli/store.h"
#include "cli/verb.h"
#include "core/vm.h"
#include "dev/virtio/console.h"

/* A distribution kernel is placed at 16 MiB and unpacks itself there. */
#define MEMORY_MIN MIB(32)

#define SSH_PORT 22

#define FIELD(f) .field = offsetof(struct run_opts, f)

/* ---- Paths in definitions: a guest can be started from any folder ------------------------ */

/* `before` bytes of val, then the path that follows, made absolute. */
static char *keep_path_at(const char *val, size_t before)
{
    char *cwd = NULL, *text = NULL;

    if (val[before] == '/')
        return strdup(val);
    cwd = getcwd(NULL, 0);
    if (!cwd || asprintf(&text, "%.*s%s/%s", (int)before, val, cwd, val + before) < 0)
        text = NULL;
    free(cwd);
    return text;
}

static char *keep_file(const char *val)
{
    return keep_path_at(val, 0);
}

static char *keep_vsock(const char *val)
{
    return strcmp(val, "on") && strcmp(val, "off") ? keep_path_at(val, 0) : strdup(val);
}

static char *keep_port(const char *val)
{
    return keep_path_at(val, strcspn(val, "=") + 1);
}

/* ---- --port NAME=SOCKET --------------------------------------------------------------- */

static bool is_port_name(const char *name)
{
    size_t len = strlen(name);

    return len && len < VIRTIO_CONSOLE_NAME &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == len;
}

static int opt_port(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    struct run_ports *ports = field;
    struct vm_port *port = &ports->port[ports->count];
    char *text, *path;

    if (ports->count == VM_MAX_PORTS)
        return err_set(err, -EINVAL, "a guest has at most %d ports", VM_MAX_PORTS);
    text = ports->text[ports->count] = strdup(val);
    if (!text)
        return err_set(err, -EINVAL, "no memory for --port");
    ports->count++;
    path = strchr(text, '=');
    if (path)
        *path++ = '\0';
    if (!path || !*path || !is_port_name(text)) {
        err_set(err, -EINVAL, "--port takes a name and a path, like agent=agent.sock, not '%s'",
                val);
        err_next(err, "The name has letters, digits, '_', '.' and '-', at most %d.",
                 VIRTIO_CONSOLE_NAME - 1);
        return -EINVAL;
    }
    *port = (struct vm_port){.name = text, .path = path};
    return 0;
}

void run_opts_fini(struct run_opts *o)
{
    for (unsigned i = 0; i < o->ports.count; i++)
        free(o->ports.text[i]);
    o->ports.count = 0;
    run_disks_fini(&o->disks);
}

void run_opts_take_once(struct run_opts *o, const struct run_opts *from)
{
    o->name = from->name;
    o->file = from->file;
    o->detach = from->detach;
    o->restore = from->restore;
    o->rm = from->rm;
    o->stats = from->stats;
    o->perf_map = from->perf_map;
    o->quiet = from->quiet;
}

const struct opt_desc run_opts[] = {
    {.name = "name",
     .arg = "NAME",
     .parse = opt_string,
     .once = true,
     FIELD(name),
     .help = "name of the guest, unique among running ones\n(default vm-PID, or as the image is "
             "called)"},
    {.name = "file",
     .letter = 'f',
     .arg = "FILE",
     .parse = opt_file,
     .once = true,
     FIELD(file),
     .help =
         "a definition in YAML to start from, - for standard\ninput; other options go before it"},
    {.name = "detach",
     .letter = 'd',
     .parse = opt_flag,
     .once = true,
     FIELD(detach),
     .help = "go on in the background once the guest has started,\nand keep its definition"},
    {.name = "rm",
     .parse = opt_flag,
     .once = true,
     FIELD(rm),
     .help = "forget the guest and its disk on an image when it ends\n(without --detach a guest is "
             "forgotten anyway, the disk\nis not)"},
    {.name = "image",
     .arg = "NAME",
     .parse = opt_string,
     FIELD(image),
     .help = "run the system of an image (lodge image ls) on a disk\nof the guest's own; as "
             "lodge run NAME"},
    {.name = "user",
     .arg = "NAME",
     .parse = opt_string,
     FIELD(user),
     .help = "with an image: who logs in (default: what it says)"},
    {.name = "ssh-key",
     .arg = "FILE",
     .parse = opt_file,
     .keep = keep_file,
     FIELD(ssh_key),
     .help = "with an image: public keys that may log in (default\n~/.ssh/id_*.pub)"},
    {.name = "user-data",
     .arg = "FILE",
     .parse = opt_file,
     .keep = keep_file,
     FIELD(user_data),
     .help = "with an image: what cloud-init is to do in it"},
    {.name = "engine",
     .arg = ENGINE_CHOICES,
     .parse = opt_choice,
     .choices = ENGINE_CHOICES,
     .def = "auto",
     FIELD(engine),
     .help = "how guest code is executed; auto takes the best\nthat works here"},
    {.name = "cpu",
     .arg = "MODEL",
     .parse = opt_choice,
     .choices = "host|x86-64-v1|x86-64-v2|x86-64-v3|max",
     .def = "host",
     FIELD(cpu),
     .help = "processor shown to the guest: host, max, or a level that\nevery engine gives: "
             "x86-64-v1, -v2, -v3"},
    {.name = "cpus",
     .letter = 'c',
     .arg = "N",
     .parse = opt_uint,
     .min = 1,
     .max = VM_MAX_CPUS,
     FIELD(cpus),
     .help = "number of CPUs, 1 to 64 (default 1; with an image 2 if\nthe host has as many)"},
    {.name = "memory",
     .letter = 'm',
     .arg = "SIZE",
     .parse = opt_size,
     .min = MEMORY_MIN,
     .why = "A kernel is placed at 16 MiB and needs room to unpack itself there.",
     FIELD(memory),
     .help = "memory, at least 32M (default 512M, with an image 1G)"},
    {.name = "kernel",
     .arg = "FILE",
     .parse = opt_file,
     .keep = keep_file,
     FIELD(kernel),
     .help = "kernel to start: bzImage or ELF (required without an\nimage)"},
    {.name = "initrd",
     .arg = "FILE",
     .parse = opt_file,
     .keep = keep_file,
     FIELD(initrd),
     .help = "initial RAM disk handed to the kernel"},
    {.name = "append",
     .arg = "TEXT",
     .parse = opt_string,
     FIELD(append),
     .help = "kernel command line; with an image, more of it"},
    {.name = "disk",
     .arg = "FILE[,ro][,serial=TEXT][,format=raw|qcow2]",
     .parse = opt_disk,
     .many = true,
     .keep = keep_disk,
     FIELD(disks),
     .help = "a disk image or block device as a disk; may be repeated"},
    {.name = "port",
     .arg = "NAME=SOCKET",
     .parse = opt_port,
     .many = true,
     .keep = keep_port,
     FIELD(ports),
     .help = "/dev/virtio-ports/NAME of the guest as a UNIX socket;\nmay be repeated"},
    {.name = "net",
     .arg = "KIND[,KEY=VALUE]...|none",
     .parse = opt_net,
     .many = true,
     FIELD(nets),
     .help =
         "a network card on: user, the host's network through this\nprocess; switch=NAME, which "
         "other "
         "guests may join;\nfor root, tap=INTERFACE or bridge=BRIDGE; may be\nrepeated (default "
         "none)"},
    {.name = "publish",
     .letter = 'p',
     .arg = "[ADDR:]HOST:GUEST[/udp]",
     .parse = opt_publish,
     .many = true,
     FIELD(publishes),
     .help = "a port of the host that leads to one of the guest;\nADDR is 127.0.0.1 unless given; "
             "may be repeated"},
    LIMIT_OPTION(offsetof(struct run_opts, limits)),
    {.name = "vsock",
     .arg = "off|on|PATH",
     .parse = opt_string,
     .keep = keep_vsock,
     .def = "off",
     FIELD(vsock),
     .help =
         "sockets between guest and host (AF_VSOCK) as UNIX\nsockets at PATH; on: in a place of "
         "its own"},
    {.name = "rng",
     .arg = "on|off",
     .parse = opt_choice,
     .choices = "on|off",
     .def = "on",
     FIELD(rng),
     .help = "a source of random numbers for the guest"},
    {.name = "balloon",
     .arg = "on|off",
     .parse = opt_choice,
     .choices = "on|off",
     .def = "on",
     FIELD(balloon),
     .help = "the guest gives memory that it does not use back to\nthe host"},
    SHARES_OPTIONS(offsetof(struct run_opts, shares)),
    {.name = "protected",
     .arg = "on|off",
     .parse = opt_switch,
     FIELD(protected),
     .help = "refuse to remove, kill and edit the guest"},
    {.name = "autostart",
     .arg = "on|off",
     .parse = opt_switch,
     FIELD(autostart),
     .help = "start it with the host (lodge start --autostart)"},
    {.name = "at-shutdown",
     .arg = "stop|save",
     .parse = opt_choice,
     .choices = "stop|save",
     .def = "stop",
     FIELD(at_shutdown),
     .help = "what lodge stop --at-shutdown does"},
    {.name = "sandbox",
     .arg = "on|off",
     .parse = opt_choice,
     .choices = "on|off",
     .def = "on",
     FIELD(sandbox),
     .help = "the guest's process gives up what a guest does not\nneed"},
    {.name = "console",
     .arg = "stdio|virtio|none",
     .parse = opt_choice,
     .choices = "stdio|virtio|none",
     .def = "stdio",
     FIELD(console),
     .help = "where the guest's first serial port goes; virtio: the\nterminal is its hvc0"},
    {.name = "escape",
     .arg = "KEY",
     .parse = opt_key,
     .def = "^]",
     FIELD(escape),
     .help = "key that leaves the console and stops the guest,\nlike ^] or ctrl-a, or none"},
    {.name = "no-reboot",
     .parse = opt_flag,
     FIELD(no_reboot),
     .help = "end the run when the guest resets"},
    {.name = "test-devices",
     .parse = opt_flag,
     FIELD(test_devices),
     .help =
         "add the devices that bare test programs expect:\nexit port, scratch ports and memory, "
         "interrupt lines"},
    {.name = "stats",
     .parse = opt_flag,
     .once = true,
     FIELD(stats),
     .help = "print the engine's counters and times at the end"},
    {.name = "perf-map",
     .parse = opt_flag,
     .once = true,
     FIELD(perf_map),
     .help = "write where translated code is to /tmp/perf-PID.map,\nfor perf: on SIGUSR1 and at "
             "the end"},
    {.name = "quiet",
     .letter = 'q',
     .parse = opt_flag,
     .once = true,
     FIELD(quiet),
     .help = "print nothing but errors beside the guest's output"},
    {NULL},
};

void run_opts_fill(struct run_opts *o)
{
    if (!o->memory)
        o->memory = o->image ? GIB(1) : MIB(512);
    if (!o->cpus)
        o->cpus = o->image && sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
}

/* An image has a kernel and wants a network, whose port 22 leads to ssh in it. */
static int check_image(struct run_opts *o, struct err *err)
{
    struct run_publishes *p = &o->publishes;
    char name[STORE_NAME_MAX + 1];

    if (store_name(o->image, name, err))
        return -EINVAL;
    if (!o->name) {
        if (store_guest_name(name, o->rm, o->name_buf, sizeof(o->name_buf), err))
            return -EINVAL;
        o->name = o->name_buf;
    }
    for (unsigned i = 0; i < p->count; i++)
        if (!p->list[i].udp && p->list[i].guest == SSH_PORT)
            return 0;
    if (!o->nets.none && p->count < NET_MAX_PUBLISH)
        return net_publish_parse("0:22", &p->list[p->count++], err);
    return 0;
}

static int check_kernel(struct run_opts *o, struct err *err)
{
    if (!o->kernel) {
        err_set(err, -EINVAL, "the guest needs a kernel (--kernel FILE) or an image");
        err_next(err, "On most systems there is a kernel at /boot/vmlinuz-VERSION; lodge image ls "
                      "lists images.");
        return -EINVAL;
    }
    if (o->user || o->ssh_key || o->user_data)
        return err_set(err, -EINVAL,
                       "--user, --ssh-key and --user-data are for guests made from an image");
    return 0;
}

int run_opts_check(struct run_opts *o, struct err *err)
{
    if (o->image ? check_image(o, err) : check_kernel(o, err))
        return -EINVAL;
    run_opts_fill(o);
    if (!o->name) {
        snprintf(o->name_buf, sizeof(o->name_buf), "vm-%d", (int)getpid());
        o->name = o->name_buf;
    }
    if (o->memory > UINT64_MAX - PAGE_SIZE)
        return err_set(err, -EINVAL, "--memory is more than any machine can have");
    o->memory = ALIGN_UP(o->memory, (uint64_t)PAGE_SIZE);
    if (registry_check_name(o->name, err) < 0)
        return -EINVAL;
    if (net_opts_settle(&o->nets, &o->publishes, o->name, err))
        return -EINVAL;
    /* Those of an image are its disk and, once, its seed. */
    return limits_check(&o->limits, o->disks.count + (o->image ? 2 : 0), o->nets.count, err);
}
