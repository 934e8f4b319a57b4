/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/origin.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "cli/state.h"
#include "core/snapshot_take.h"

#define LOW_PRIORITY 15

static int open_file(int *fd, const char *dir, const char *file, struct err *err)
{
    char path[STATE_PATH + 32];

    snprintf(path, sizeof(path), "%s/%s", dir, file);
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return *fd < 0 ? err_set(err, -errno, "cannot open %s: %s", path, strerror(errno)) : 0;
}

/* What a fork leaves: nobody had the time to change it, and it is gone as soon as it is open. */
static bool is_transient(const char *dir)
{
    const char *name = strrchr(dir, '/');

    return name && name[1] == '.';
}

int origin_open(struct origin *o, const char *dir, struct vm_config *cfg, struct err *err)
{
    int r;

    *o = (struct origin){.vm.state_fd = -1, .base.fd = -1, .sums_fd = -1, .used = dir != NULL};
    if (!dir)
        return 0;
    r = open_file(&o->vm.state_fd, dir, SNAPSHOT_STATE, err);
    if (!r)
        r = open_file(&o->base.fd, dir, SNAPSHOT_MEMORY, err);
    o->vm.fork = is_transient(dir);
    if (!r && !o->vm.fork)
        r = open_file(&o->sums_fd, dir, SNAPSHOT_SUMS, err);
    cfg->origin = &o->vm;
    cfg->base = &o->base;
    return r;
}

/* The guest's own reading goes first. */
static void *watch_main(void *opaque)
{
    struct origin *o = opaque;

    thread_name("verify");
    setpriority(PRIO_PROCESS, 0, LOW_PRIORITY); /* this thread; no other may be named */
    if (!snapshot_verify(o->base.fd, o->sums_fd, &o->cancel, &o->err) ||
        o->err.code == -ECANCELED) {
        o->err.code = 0;
        return NULL;
    }
    err_next(&o->err, "The guest was stopped. Restore another snapshot, or start it anew.");
    vm_request(o->of, VM_REQ_STOP);
    return NULL;
}

void origin_watch(struct origin *o, struct vm *vm)
{
    sigset_t all, old;

    if (!o->used || o->sums_fd < 0)
        return;
    o->of = vm;
    thread_signals(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    o->started = !pthread_create(&o->thread, NULL, watch_main, o);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void close_file(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

int origin_close(struct origin *o, struct err *err)
{
    if (!o->used)
        return 0;
    if (o->started) {
        atomic_store(&o->cancel, true);
        pthread_join(o->thread, NULL);
        o->started = false;
    }
    close_file(&o->vm.state_fd);
    close_file(&o->base.fd);
    close_file(&o->sums_fd);
    if (o->err.code)
        *err = o->err;
    return o->err.code;
}

static int switch_disks(void *opaque, struct vm *vm, struct err *err)
{
    return layers_switch(opaque, vm, err);
}

int origin_make(struct layers *l, struct vm *vm, struct snapshot_take *take, json_t *result,
                struct err *err)
{
    struct layers_change change;
    struct err more = {0};
    int r;

    if (!l->dir[0] || take->as)
        return snapshot_take(vm, take, err);
    r = layers_begin(l, vm->cfg.disk, vm->cfg.disks, &change, err);
    if (r)
        return r;
    take->disks = switch_disks;
    take->opaque = &change;
    r = snapshot_take(vm, take, err);
    if (!r)
        r = layers_describe(&change, result, err);
    if (layers_end(&change, &more))
        log_warn("%s", more.what);
    layers_change_fini(&change);
    return r;
}
