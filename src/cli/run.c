/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One guest, from its options to its exit status. */
#include "cli/run.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/confine.h"
#include "cli/console.h"
#include "cli/detach.h"
#include "cli/engines.h"
#include "cli/fork.h"
#include "cli/guest_image.h"
#include "cli/host.h"
#include "cli/layers.h"
#include "cli/origin.h"
#include "cli/registry.h"
#include "cli/saved.h"
#include "cli/size.h"
#include "cli/state.h"
#include "cli/tidy.h"
#include "cli/tty.h"
#include "cli/verb.h"
#include "control/conlog.h"
#include "control/control.h"
#include "core/machine.h"
#include "core/pace.h"
#include "core/snapshot_take.h"
#include "core/vm.h"
#include "engine/engine.h"
#include "x86/boot.h"
#include "x86/cpuid.h"

#define LOG_LIMIT (1u << 20) /* bytes of a console's log, before it is begun anew */

/* One run. The console's thread calls session_leave while the main thread builds, runs and frees the VM. */
struct session {
    const struct run_opts *opts;
    struct detach *detach; /* NULL: in the foreground */
    const struct engine_ops *engine;
    struct err passed; /* why "auto" did not take a better engine */
    struct registry reg;
    struct console *console;
    bool console_tty; /* the guest writes to a terminal that was put in raw mode */
    pthread_mutex_t lock;
    struct vm *vm;       /* while there is one to be told */
    unsigned pace;       /* percent that it is held to by itself; 0: not */
    bool leaving;        /* somebody asked to end the run */
    int signal;          /* the signal that did; 0: the escape key */
    bool killed;         /* through the control socket */
    _Atomic bool saved;  /* its state was, and so it ended */
    struct err load_err; /* why it ended before it ran */
    struct conlog log;   /* of the guest's console */
    struct control *control;
    double start, wall; /* seconds the guest ran */
    int status;         /* what a test program ended with, else 0 */
    enum vm_end end;
    struct guest_image image; /* with --image */
    struct layers layers;     /* of its disks; dir empty: there is no place for any */
    bool map_failed;          /* --perf-map could not be written, and this was said */
    struct sandbox sandbox;   /* without --sandbox off */
    char confined[SANDBOX_TEXT];
};

static double seconds_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void session_leave(void *opaque, int signal)
{
    struct session *s = opaque;

    pthread_mutex_lock(&s->lock);
    if (s->leaving && signal) {
        /* Asked again: whatever holds the guest up, the process goes now. Its name is free once it is gone. */
        tty_restore();
        _exit(128 + signal);
    }
    if (!s->leaving) {
        s->leaving = true;
        s->signal = signal;
        if (s->vm)
            vm_request(s->vm, VM_REQ_STOP);
    }
    pthread_mutex_unlock(&s->lock);
}

static void session_quit(void *opaque)
{
    struct session *s = opaque;

    pthread_mutex_lock(&s->lock);
    s->killed = !s->leaving;
    pthread_mutex_unlock(&s->lock);
    if (s->killed)
        session_leave(s, 0);
}

/* From here on session_leave reaches `vm` (NULL: none any more). */
static void session_set_vm(struct session *s, struct vm *vm)
{
    pthread_mutex_lock(&s->lock);
    s->vm = vm;
    if (vm && s->leaving)
        vm_request(vm, VM_REQ_STOP);
    pthread_mutex_unlock(&s->lock);
}

/* The option table has seen to it that the name is one of these. */
static enum cpu_model cpu_model(const char *name)
{
    static const char *const names[] = {
        [CPU_HOST] = "host",    [CPU_V1] = "x86-64-v1", [CPU_V2] = "x86-64-v2",
        [CPU_V3] = "x86-64-v3", [CPU_MAX] = "max",
    };

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (!strcmp(name, names[i]))
            return (enum cpu_model)i;
    return CPU_HOST;
}

/* All that can fail without a VM. */
static int check_all(struct session *s, struct err *err)
{
    const struct run_opts *o = s->opts;
    struct boot_config boot = {
        .kernel = o->kernel, .initrd = o->initrd, .cmdline = o->append, .cpus = o->cpus};
    int r = host_check_memory(o->memory, err);

    if (!r)
        r = engine_choose(o->engine, &s->engine, &s->passed, err);
    if (!r)
        r = cpuid_check_model(cpu_model(o->cpu), err);
    if (!r)
        r = boot_check(&boot, o->memory, err);
    if (!r && s->passed.code && !o->quiet && !s->detach)
        fprintf(stderr, "lodge: engine %s, since %s\n", s->engine->name, s->passed.what);
    if (!r && o->perf_map && !s->engine->perf_map && !o->quiet)
        fprintf(stderr, "lodge: --perf-map has no effect: engine %s does not translate code\n",
                s->engine->name);
    return r;
}

static void say_start(const struct session *s)
{
    const struct run_opts *o = s->opts;
    char size[SIZE_TEXT];

    if (o->quiet || s->detach)
        return;
    fprintf(stderr, "lodge: guest %s, engine %s, %u CPU%s, %s", o->name, s->engine->name, o->cpus,
            o->cpus == 1 ? "" : "s", size_format(o->memory, size));
    if (s->console_tty && o->escape >= 0)
        fprintf(stderr, "; ctrl-%c stops it", o->escape + '@');
    /* A terminal is raw by now. */
    fputs(s->console_tty ? "\r\n" : "\n", stderr);
}

static void say_ports(const struct session *s, struct vm *vm)
{
    struct net_publish list[NET_MAX_PUBLISH];
    char text[NET_PUBLISH_TEXT];

    for (unsigned n = 0; n < VM_MAX_NETS && !s->opts->quiet; n++) {
        struct net *net = machine_net(vm, n);
        unsigned count = net && net_is_user(net) ? net_user_published(net, list) : 0;

        for (unsigned i = 0; i < count; i++)
            fprintf(stderr, "lodge: published %s%s", net_publish_format(&list[i], text),
                    s->console_tty ? "\r\n" : "\n");
    }
}

/* With an image: note where its ssh is, and say so. */
static int say_reach(struct session *s, struct vm *vm, struct err *err)
{
    struct net *net = s->image.hold < 0 ? NULL : machine_net(vm, 0);
    struct net_publish list[NET_MAX_PUBLISH];
    unsigned count = net ? net_user_published(net, list) : 0;
    char addr[INET6_ADDRSTRLEN];
    int r;

    for (unsigned i = 0; i < count; i++) {
        if (list[i].udp || list[i].guest != 22)
            continue;
        inet_ntop(list[i].v6 ? AF_INET6 : AF_INET, &list[i].addr, addr, sizeof(addr));
        /* All of the host's addresses: one will do. */
        if (!strcmp(addr, "0.0.0.0"))
            strcpy(addr, "127.0.0.1");
        if (!strcmp(addr, "::"))
            strcpy(addr, "::1");
        r = guest_image_reachable(&s->image, addr, list[i].host, err);
        if (!r && !s->opts->quiet && s->image.seeded)
            fprintf(stderr, "lodge: log in with lodge shell %s, or ssh -p %u %s@%s%s",
                    s->opts->name, list[i].host, s->image.user, addr,
                    s->console_tty ? "\r\n" : "\n");
        return r;
    }
    return 0;
}

static void print_stats(const struct session *s, struct vm *vm, FILE *out)
{
    struct rusage ru;

    fprintf(out, "lodge: statistics of guest %s\n", s->opts->name);
    fprintf(out, "wall time        %.3f s\n", s->wall);
    if (!getrusage(RUSAGE_SELF, &ru)) {
        fprintf(out, "host CPU time    %.3f s user, %.3f s system\n",
                (double)ru.ru_utime.tv_sec + (double)ru.ru_utime.tv_usec / 1e6,
                (double)ru.ru_stime.tv_sec + (double)ru.ru_stime.tv_usec / 1e6);
        fprintf(out, "max RSS          %.1f MiB\n", (double)ru.ru_maxrss / 1024);
    }
    machine_print_stats(vm, out);
    s->engine->print_stats(vm, out);
}

/* The statistics as text, to be freed; NULL when there is no memory for them. */
static char *collect_stats(const struct session *s, struct vm *vm)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out) {
        print_stats(s, vm, out);
        fclose(out);
    }
    return text;
}

/* With --perf-map. *err is filled when that fails for the first time: once is enough to say so. */
static void write_perf_map(struct session *s, struct vm *vm, struct err *err)
{
    if (!s->opts->perf_map || !s->engine->perf_map)
        return;
    if (!s->engine->perf_map(vm, err))
        return;
    if (s->map_failed)
        err->code = 0;
    s->map_failed = true;
}

static struct winsize terminal_size(const struct session *s)
{
    struct winsize size = {0};

    if (s->console_tty && ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
        size = (struct winsize){0};
    return size;
}

static void session_resize(void *opaque)
{
    struct session *s = opaque;
    struct winsize size = terminal_size(s);

    pthread_mutex_lock(&s->lock);
    if (s->vm)
        machine_console_resize(s->vm, size.ws_col, size.ws_row);
    pthread_mutex_unlock(&s->lock);
}

/* SIGUSR1: the statistics so far. The counters are read while the vCPUs run, so each is right but they are not of one moment. */
static void session_report(void *opaque)
{
    struct session *s = opaque;
    struct err err = {0};
    char *text = NULL;

    pthread_mutex_lock(&s->lock);
    if (s->vm) {
        s->wall = seconds_now() - s->start;
        /* Before the text, so that who has read that finds the file. */
        write_perf_map(s, s->vm, &err);
        text = collect_stats(s, s->vm);
    }
    pthread_mutex_unlock(&s->lock);
    if (err.code)
        err_report(&err);
    if (text)
        fputs(text, stderr);
    free(text);
}

static int end_status(const struct session *s, enum vm_end end)
{
    bool quiet = s->opts->quiet;

    switch (end) {
    case VM_END_POWEROFF:
        return s->status;
    case VM_END_RESET:
        if (!quiet)
            fprintf(stderr, "lodge: the guest reset; the run ends there (--no-reboot)\n");
        return CLI_OK;
    case VM_END_STOPPED:
        if (s->killed) {
            if (!quiet)
                fprintf(stderr, "lodge: the guest was killed\n");
            return CLI_FAILED;
        }
        if (s->signal) {
            if (!quiet)
                fprintf(stderr, "lodge: the guest was stopped by SIG%s\n", sigabbrev_np(s->signal));
            return 128 + s->signal;
        }
        if (atomic_load(&s->saved))
            return CLI_OK;
        if (!quiet)
            fprintf(stderr, "lodge: left the console; the guest was stopped\n");
        return CLI_OK;
    case VM_END_FAILED:
        break;
    }
    return CLI_FAILED;
}

/* For a job of the control socket: it is there until that has ended. */
static int session_vm(struct session *s, struct vm **vm, struct err *err)
{
    pthread_mutex_lock(&s->lock);
    *vm = s->vm;
    pthread_mutex_unlock(&s->lock);
    return *vm ? 0 : err_set(err, -EAGAIN, "the guest %s is starting or ending", s->opts->name);
}

static int session_overlay(void *opaque, json_t *result, struct err *err)
{
    struct session *s = opaque;
    struct vm *vm;
    int r = session_vm(s, &vm, err);

    return r ? r : layers_live(&s->layers, vm, result, err);
}

static int session_fork(void *opaque, const char *dir, const _Atomic bool *gone, json_t *result,
                        struct err *err)
{
    struct session *s = opaque;
    struct vm *vm;
    int r = session_vm(s, &vm, err);

    return r ? r : fork_take(&s->layers, vm, dir, gone, result, err);
}

static int session_snapshot(void *opaque, struct snapshot_take *take, json_t *result,
                            struct err *err)
{
    struct session *s = opaque;
    struct vm *vm;
    int r = session_vm(s, &vm, err);

    if (r)
        return r;
    atomic_store(&s->saved, take->as != NULL);
    r = origin_make(&s->layers, vm, take, result, err);
    if (r)
        atomic_store(&s->saved, false);
    return r;
}

static int start_control(struct session *s, struct vm *vm, struct err *err)
{
    bool has = strcmp(s->opts->console, "none") != 0;
    struct control_config cfg = {
        .dir = s->reg.dir,
        .vm = vm,
        .console = has ? &s->log : NULL,
        .console_in = has ? console_typed(s->console) : -1,
        .quit = session_quit,
        .overlay = s->layers.dir[0] ? session_overlay : NULL,
        .fork = s->layers.dir[0] ? session_fork : NULL,
        .snapshot = session_snapshot,
        .opaque = s,
        .sandbox = s->confined,
    };

    return control_new(&s->control, &cfg, err);
}

/* The guest is in memory, and nothing is left to go wrong. */
static void session_loaded(struct vm *vm, void *opaque)
{
    struct session *s = opaque;

    /* From here on its disks change, and what was saved fits them no more. */
    if (s->opts->restore_once && saved_drop(s->opts->name, &s->load_err))
        vm_request(vm, VM_REQ_STOP);
    else
        detach_ready(s->detach, s->opts->name);
}

static bool is_confined(const struct session *s)
{
    return !strcmp(s->opts->sandbox, "on");
}

/* Before there is another thread. */
static int confine(struct session *s, struct err *err)
{
    const struct confine_config cfg = {.opts = s->opts,
                                       .reg = &s->reg,
                                       .image = &s->image,
                                       .kept = s->detach,
                                       .kvm = !strcmp(s->engine->name, "kvm")};

    if (is_confined(s))
        return confine_enter(&s->sandbox, &cfg, err);
    if (!s->opts->quiet)
        fprintf(stderr, "lodge: --sandbox off: whoever takes over the guest's process has all "
                        "rights of this user\n");
    return 0;
}

/* All that a running guest does not need has been done. */
static int seal(struct session *s, struct err *err)
{
    int r = is_confined(s) ? sandbox_seal(&s->sandbox, err) : 0;

    sandbox_text(&s->sandbox, s->confined);
    return r;
}

static int run_vm(struct session *s, struct err *err)
{
    const struct run_opts *o = s->opts;
    bool stdio = strcmp(o->console, "none") != 0;
    struct winsize size = terminal_size(s);
    struct vm_config cfg = {
        .name = o->name,
        .cpu = cpu_model(o->cpu),
        .cpus = o->cpus,
        .memory = o->memory,
        .kernel = o->kernel,
        .initrd = o->initrd,
        .cmdline = o->append,
        .engine = s->engine,
        .serial_in = console_input(s->console),
        .serial_out = stdio && !s->detach ? STDOUT_FILENO : -1,
        .serial_tap = stdio ? conlog_append : NULL,
        .serial_tap_opaque = &s->log,
        .hvc = !strcmp(o->console, "virtio"),
        .console_cols = size.ws_col,
        .console_rows = size.ws_row,
        .disks = o->disks.count,
        .ports = o->ports.count,
        .nets = o->nets.count,
        .rng = !strcmp(o->rng, "on"),
        .balloon = !strcmp(o->balloon, "on"),
        .no_reboot = o->no_reboot,
        .test_devices = o->test_devices,
        .stats = o->stats,
        .perf_map = o->perf_map,
    };
    struct err map_err = {0};
    enum vm_end end = VM_END_FAILED;
    struct origin origin;
    struct vm *vm = NULL;
    char *stats = NULL, vsock[sizeof(s->reg.dir) + sizeof(REGISTRY_VSOCK)];
    int r;

    memcpy(cfg.disk, o->disks.disk, sizeof(cfg.disk));
    layers_apply(&s->layers, cfg.disk, cfg.disks);
    memcpy(cfg.port, o->ports.port, sizeof(cfg.port));
    memcpy(cfg.net, o->nets.net, sizeof(cfg.net));
    if (!strcmp(o->vsock, "on")) {
        snprintf(vsock, sizeof(vsock), "%s/" REGISTRY_VSOCK, s->reg.dir);
        cfg.vsock = vsock;
    } else if (strcmp(o->vsock, "off")) {
        cfg.vsock = o->vsock;
    }
    r = origin_open(&origin, o->restore, &cfg, err);
    if (!r)
        r = vm_new(&vm, &cfg, err);
    if (!r && s->pace && pace_set(vm, s->pace))
        r = err_set(err, -EAGAIN, "cannot start a thread for --cpu-cap");
    if (!r)
        r = start_control(s, vm, err);
    if (!r)
        r = say_reach(s, vm, err);
    if (!r) {
        origin_watch(&origin, vm);
        r = seal(s, err);
    }
    if (r) {
        origin_close(&origin, err);
        control_free(s->control);
        vm_free(vm);
        return r;
    }
    say_start(s);
    say_ports(s, vm);
    if (s->detach)
        vm_request_call(vm, session_loaded, s);
    s->start = seconds_now();
    session_set_vm(s, vm);
    r = vm_run(vm, &end, err);
    s->status = (int)atomic_load(&vm->exit_status);
    session_set_vm(s, NULL);
    if (origin_close(&origin, err))
        r = err->code;
    if (s->load_err.code) {
        *err = s->load_err;
        r = err->code;
    }
    control_stop(s->control);
    s->wall = seconds_now() - s->start;
    if (o->stats)
        stats = collect_stats(s, vm);
    write_perf_map(s, vm, &map_err);
    /* Writes out what the guest has printed, so the terminal changes and our own words come after it. */
    vm_free(vm);
    console_stop(s->console);
    control_free(s->control);
    /* The guest may have been cut off in the middle of a line. */
    if (s->console_tty && (r || end == VM_END_STOPPED))
        fputc('\n', stderr);
    if (map_err.code)
        err_report(&map_err);
    if (stats)
        fputs(stats, stderr);
    free(stats);
    s->end = end;
    return r ? r : end_status(s, end);
}

/* Console and VM: taken in that order, given back in the other. */
static int run_with_console(struct session *s, struct err *err)
{
    const struct run_opts *o = s->opts;
    bool stdio = strcmp(o->console, "none") != 0;
    struct console_config console = {
        .in = stdio && !s->detach ? STDIN_FILENO : -1,
        .typed = stdio,
        .escape = o->escape,
        .leave = session_leave,
        .report = session_report,
        .resize = session_resize,
        .opaque = s,
    };
    char path[STATE_PATH];
    int r = s->detach ? state_path(path, o->name, STATE_CONSOLE, err) : 0;

    if (!r)
        r = confine(s, err);
    if (!r)
        r = conlog_init(&s->log, s->detach && stdio ? path : NULL, LOG_LIMIT, err);
    if (!r)
        r = console_new(&s->console, &console, err);
    if (!r) {
        s->console_tty = console_is_tty(s->console);
        r = run_vm(s, err);
        console_stop(s->console);
    }
    return r;
}

/* What the guest's disks are by now. */
static int load_layers(struct session *s, struct err *err)
{
    char dir[STATE_PATH];
    int r;

    if (s->image.hold >= 0)
        return layers_load(&s->layers, s->image.dir, err);
    if (!s->detach)
        return 0;
    r = state_path(dir, s->opts->name, STATE_DISKS, err);
    return r ? r : layers_load(&s->layers, dir, err);
}

/* With the guest's name held. */
static int run_named(struct session *s, struct err *err)
{
    const char *name = s->opts->name;
    int r;

    if (s->detach) {
        r = detach_begin(s->detach, name, err);
    } else if (state_exists(name)) {
        r = err_set(err, -EEXIST, "there is a guest named %s already", name);
        err_next(err, "lodge start %s starts it; or choose another --name.", name);
    } else {
        r = 0;
    }
    if (!r && shares_given(&s->opts->shares))
        r = shares_apply(&s->opts->shares, name, getpid(), s->opts->quiet, &s->pace, err);
    if (!r)
        r = load_layers(s, err);
    if (!r) {
        /* Where it goes on from a snapshot, its disks of before are put back if it does not start. */
        if (!s->opts->restore)
            tidy_held(name, &s->layers);
        r = run_with_console(s, err);
    }
    layers_fini(&s->layers);
    return r;
}

static const char *how_ended(const struct session *s, int r)
{
    static const char *const how[] = {[VM_END_POWEROFF] = "poweroff",
                                      [VM_END_RESET] = "reset",
                                      [VM_END_STOPPED] = "signal",
                                      [VM_END_FAILED] = "failed"};

    if (r >= 0 && s->end == VM_END_STOPPED && atomic_load(&s->saved))
        return "saved";
    return r < 0 ? "failed" : s->killed ? "killed" : how[s->end];
}

/* Negative: *err says why. */
static int run_session(struct session *s, struct err *err)
{
    const struct run_opts *o = s->opts;
    char base[256];
    int r = registry_base(base, sizeof(base), err);

    if (!r)
        r = registry_claim(&s->reg, base, o->name, err);
    if (r)
        return r;
    r = run_named(s, err);
    if (s->detach)
        detach_end(s->detach, o->name, how_ended(s, r), r < 0 ? CLI_FAILED : r,
                   r < 0 ? err->what : "");
    registry_release(&s->reg);
    console_free(s->console);
    conlog_fini(&s->log);
    return r;
}

/* What the image is for the guest, put into its options: kernel, disk and seed. */
static int take_image(struct guest_image *g, struct run_opts *o, char **append, struct err *err)
{
    struct run_disks *d = &o->disks;
    const struct guest_image_config cfg = {.image = o->image,
                                           .name = o->name,
                                           .temporary = o->rm,
                                           .has_kernel = o->kernel != NULL,
                                           .user = o->user,
                                           .ssh_key = o->ssh_key,
                                           .user_data = o->user_data};
    int r;

    if (d->count + 2 > VM_MAX_DISKS)
        return err_set(err, -EINVAL, "a guest made from an image has at most %d more disks",
                       VM_MAX_DISKS - 2);
    r = guest_image_open(g, &cfg, err);
    if (r)
        return r;
    if (!g->fresh && !o->quiet)
        fprintf(stderr, "lodge: going on with the disk of guest %s%s\n", o->name,
                o->user || o->ssh_key || o->user_data ? "; user and keys stay as they are" : "");
    if (asprintf(append, "%s%s%s", g->image.append, o->append ? " " : "",
                 o->append ? o->append : "") < 0) {
        *append = NULL;
        return err_set(err, -ENOMEM, "no memory for the kernel's command line");
    }
    o->append = *append;
    if (!o->initrd && !o->kernel && g->initrd[0])
        o->initrd = g->initrd;
    if (!o->kernel)
        o->kernel = g->kernel;
    memmove(d->disk + 1, d->disk, d->count * sizeof(*d->disk));
    d->disk[0] = (struct vm_disk){.image = {.path = g->disk, .format = "qcow2"}};
    d->count++;
    if (g->seeded)
        d->disk[d->count++] =
            (struct vm_disk){.image = {.path = g->seed, .format = "raw", .read_only = true},
                             .serial = GUEST_SEED_SERIAL};
    return 0;
}

static int run_checked(struct session *s, struct err *err)
{
    struct run_opts own = *s->opts; /* what it points to stays the caller's */
    char *append = NULL;
    int r = 0;

    if (own.image)
        r = take_image(&s->image, &own, &append, err);
    s->opts = &own;
    if (!r)
        r = limits_check(&own.limits, own.disks.count, own.nets.count, err);
    if (!r)
        limits_apply(&own.limits, own.disks.disk, own.nets.net);
    if (!r)
        r = check_all(s, err);
    if (!r)
        r = run_session(s, err);
    guest_image_close(&s->image, r < 0 && !s->start);
    free(append);
    return r;
}

int run_guest(const struct run_opts *opts, struct detach *detach)
{
    struct session s = {.opts = opts,
                        .detach = detach,
                        .reg.fd = -1,
                        .image.hold = -1,
                        .sandbox.ruleset = -1,
                        .lock = PTHREAD_MUTEX_INITIALIZER};
    struct err err = {0};
    int r;

    log_set_level(opts->quiet ? LOG_ERROR : LOG_WARN);
    /* A reader that went away ends the output, not the guest. */
    signal(SIGPIPE, SIG_IGN);
    r = run_checked(&s, &err);
    if (r >= 0)
        return r;
    err_report(&err);
    return CLI_FAILED;
}
