/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * snap KERNEL INITRD APPEND CPUS ENGINE ENGINE...: run a guest that is saved,
 * ended, and gone on with by a new VM under the next engine, at each line of
 * its console that starts with LODGE-TEST, as long as there are engines left.
 * With SNAP_EVERY=MS also whenever so much time has passed. Passes the console
 * on and says how many engines are left; status 0 when it powered off. With
 * SNAP_DISK=FILE it has a disk, which nobody else changes meanwhile.
 */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/memcopy.h"
#include "core/snapshot.h"
#include "outside.h"

#define MARK "LODGE-TEST"

struct snapper {
    pthread_mutex_t lock;
    struct vm *vm; /* NULL: there is none at the moment */
    unsigned wanted;
    bool saving, saved, ok;
    int console;
    int state_fd, memory_fd;
    char **names; /* engines still to come, NULL at the end */
};

static bool copy_memory(struct vm *vm, int fd, struct err *err)
{
    const struct memcopy_config cfg = {.fd = fd};
    struct memcopy *copy;
    bool ok;

    if (memcopy_new(&copy, vm, &cfg, err) < 0)
        return false;
    ok = !memcopy_start(copy, err) && !memcopy_wait(copy, err);
    memcopy_free(copy);
    return ok;
}

/* With no vCPU running. */
static void save(struct vm *vm, void *opaque)
{
    struct snapper *s = opaque;
    struct err err = {0};
    bool ok;

    s->state_fd = memfd_create("state", MFD_CLOEXEC);
    s->memory_fd = memfd_create("memory", MFD_CLOEXEC);
    ok = !vm_save(vm, s->state_fd, &err) && copy_memory(vm, s->memory_fd, &err);
    if (err.code)
        err_report(&err);
    pthread_mutex_lock(&s->lock);
    s->saved = ok;
    s->ok = s->ok && ok;
    pthread_mutex_unlock(&s->lock);
    vm_request(vm, VM_REQ_STOP);
}

static void save_wanted_locked(struct snapper *s)
{
    if (!s->wanted || !s->vm || s->saving || !*s->names)
        return;
    s->wanted--;
    s->saving = true;
    vm_request_call(s->vm, save, s);
}

/* A mark that comes while another is served is for the next VM. */
static void save_now(struct snapper *s, bool mark)
{
    pthread_mutex_lock(&s->lock);
    if (mark || !s->wanted)
        s->wanted++;
    save_wanted_locked(s);
    pthread_mutex_unlock(&s->lock);
}

/* The console's reader. */
static void *watch(void *opaque)
{
    const char *every = getenv("SNAP_EVERY");
    int timeout = every ? atoi(every) : -1;
    struct snapper *s = opaque;
    struct pollfd p = {.fd = s->console, .events = POLLIN};
    char line[4096];
    size_t len = 0;

    for (;;) {
        int n = poll(&p, 1, timeout);
        char c;

        if (!n)
            save_now(s, false);
        if (n <= 0)
            continue;
        if (read(s->console, &c, 1) <= 0)
            return NULL;
        putchar(c);
        if (len < sizeof(line) - 1)
            line[len++] = c;
        if (c != '\n')
            continue;
        fflush(stdout);
        line[len] = 0;
        len = 0;
        if (timeout < 0 && !strncmp(line, MARK, strlen(MARK)))
            save_now(s, true);
    }
}

static void set_vm(struct snapper *s, struct vm *vm)
{
    pthread_mutex_lock(&s->lock);
    s->vm = vm;
    s->saving = s->saved = false;
    save_wanted_locked(s);
    pthread_mutex_unlock(&s->lock);
}

/* One VM, until it ends or was saved. */
static int run_one(struct snapper *s, const struct vm_config *cfg, enum vm_end *end,
                   struct err *err)
{
    struct vm *vm;
    int r = vm_new(&vm, cfg, err);

    if (r)
        return r;
    set_vm(s, vm);
    r = vm_run(vm, end, err);
    pthread_mutex_lock(&s->lock);
    s->vm = NULL;
    pthread_mutex_unlock(&s->lock);
    vm_free(vm);
    return r;
}

static int run_all(struct snapper *s, struct vm_config *cfg, enum vm_end *end, struct err *err)
{
    struct mem_base base = {.offset = 0};
    struct vm_origin origin;
    int r = run_one(s, cfg, end, err);

    while (!r && s->saved && *end == VM_END_STOPPED) {
        cfg->engine = engine_named(*s->names++);
        printf("SNAP to %s\n", cfg->engine->name);
        fflush(stdout);
        origin.state_fd = s->state_fd;
        base.fd = s->memory_fd;
        cfg->origin = &origin;
        cfg->base = &base;
        r = run_one(s, cfg, end, err);
        close(origin.state_fd);
        close(base.fd);
    }
    return r;
}

int main(int argc, char **argv)
{
    struct snapper s = {.ok = true};
    struct vm_config cfg;
    enum vm_end end = VM_END_FAILED;
    struct err err = {0};
    pthread_t thread;
    int pipe_fd[2], r;

    if (argc < 7 || pipe(pipe_fd) < 0) {
        fprintf(stderr, "usage: snap KERNEL INITRD APPEND CPUS ENGINE ENGINE...\n");
        return 2;
    }
    guest_config(&cfg, argv + 1, 256, argv[5], getenv("SNAP_DISK"));
    cfg.rng = cfg.balloon = true;
    cfg.test_devices = !!getenv("SNAP_PAYLOAD");
    cfg.serial_out = pipe_fd[1];
    s.names = argv + 6;
    s.console = pipe_fd[0];
    pthread_mutex_init(&s.lock, NULL);
    pthread_create(&thread, NULL, watch, &s);
    r = run_all(&s, &cfg, &end, &err);
    close(pipe_fd[1]);
    pthread_join(thread, NULL);
    if (r)
        err_report(&err);
    printf("SNAP ended, %d, under %s, %d engines left\n", (int)end, cfg.engine->name,
           (int)(argv + argc - s.names));
    return r || !s.ok || end != VM_END_POWEROFF ? 1 : 0;
}
