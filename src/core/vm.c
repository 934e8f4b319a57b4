/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "core/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/thread.h"
#include "core/dirty.h"
#include "core/generation.h"
#include "core/ioevent.h"
#include "core/machine.h"
#include "core/memcopy.h"
#include "core/move.h"
#include "core/pace.h"
#include "core/snapshot.h"
#include "core/still.h"
#include "engine/engine.h"
#include "x86/boot.h"

/* Set by a vCPU that can't go on, beside enum vm_request. */
#define REQ_FAILED (1u << 31)

struct vcpu_start {
    struct vm_session *session;
    struct vcpu *vcpu;
};

/* One stretch from reset to the next reset or the end. */
struct vm_session {
    struct vm *vm;
    unsigned started;
    struct vcpu_start
        starts[VM_MAX_CPUS]; /* here, since a thread that frees memory gets a heap of its own */
    _Atomic(struct vcpu *) failed; /* the first one */
};

/* ---- Making and freeing ------------------------------------------------- */

static int vm_check_config(const struct vm_config *cfg, struct err *err)
{
    if (!cfg->engine)
        return err_set(err, -EINVAL, "the guest has no engine to run on");
    if (!cfg->kernel)
        return err_set(err, -EINVAL, "the guest has no kernel to boot");
    if (cfg->cpus < 1 || cfg->cpus > VM_MAX_CPUS) {
        err_set(err, -EINVAL, "%u CPUs were asked for", cfg->cpus);
        return err_next(err, "Give a number from 1 to %d.", VM_MAX_CPUS);
    }
    if (cfg->disks > VM_MAX_DISKS)
        return err_set(err, -EINVAL, "a guest has at most %d disks", VM_MAX_DISKS);
    if (cfg->nets > VM_MAX_NETS)
        return err_set(err, -EINVAL, "a guest has at most %d network cards", VM_MAX_NETS);
    if (cfg->ports > VM_MAX_PORTS)
        return err_set(err, -EINVAL, "a guest has at most %d ports", VM_MAX_PORTS);
    return 0;
}

/* The caller's strings need not outlive vm_new. */
static bool string_copy(const char **s)
{
    if (*s)
        *s = strdup(*s);
    else
        return true;
    return *s;
}

static int vm_copy_strings(struct vm_config *cfg)
{
    const char **strings[] = {&cfg->name, &cfg->kernel, &cfg->initrd, &cfg->cmdline};
    bool ok = true;

    /* All of them, whatever fails: what is left is freed with the rest. */
    for (unsigned i = 0; i < ARRAY_SIZE(strings); i++)
        ok = string_copy(strings[i]) && ok;
    for (unsigned i = 0; i < cfg->disks; i++) {
        ok = string_copy(&cfg->disk[i].image.path) && ok;
        ok = string_copy(&cfg->disk[i].image.format) && ok;
        ok = string_copy(&cfg->disk[i].serial) && ok;
    }
    for (unsigned i = 0; i < cfg->ports; i++) {
        ok = string_copy(&cfg->port[i].name) && ok;
        ok = string_copy(&cfg->port[i].path) && ok;
    }
    return ok ? 0 : -ENOMEM;
}

static void vm_free_strings(struct vm_config *cfg)
{
    free((char *)cfg->name);
    free((char *)cfg->kernel);
    free((char *)cfg->initrd);
    free((char *)cfg->cmdline);
    for (unsigned i = 0; i < cfg->disks; i++) {
        free((char *)cfg->disk[i].image.path);
        free((char *)cfg->disk[i].image.format);
        free((char *)cfg->disk[i].serial);
    }
    for (unsigned i = 0; i < cfg->ports; i++) {
        free((char *)cfg->port[i].name);
        free((char *)cfg->port[i].path);
    }
}

static int vm_new_vcpus(struct vm *vm, struct err *err)
{
    vm->vcpus = calloc(vm->cfg.cpus, sizeof(*vm->vcpus));
    if (!vm->vcpus)
        return err_set(err, -ENOMEM, "no memory for %u CPUs", vm->cfg.cpus);
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        vm->vcpus[i].vm = vm;
        vm->vcpus[i].id = i;
        vm->vcpus[i].wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    }
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        int rc = vm->engine->vcpu_init(&vm->vcpus[i], err);

        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The back end of such a disk reads the memfd, where what is the base's still is not. */
static bool is_memory_shared(const struct vm_config *cfg)
{
    for (unsigned n = 0; n < cfg->disks; n++)
        if (cfg->disk[n].image.format && !strcmp(cfg->disk[n].image.format, BLOCK_VHOST_USER))
            return true;
    return false;
}

/* An engine that does not announce what the guest writes leaves it to the kernel to copy pages of the base. */
static int vm_make_memory(struct vm *vm, struct err *err)
{
    const struct mem_base *base = vm->cfg.base;
    int rc;

    if (!base)
        return mem_init(&vm->mem, vm->cfg.memory, err);
    vm->cfg.base = NULL;
    rc = mem_init_base(&vm->mem, vm->cfg.memory, base, !vm->engine->arm, err);
    return !rc && is_memory_shared(&vm->cfg) ? mem_make_whole(&vm->mem, err) : rc;
}

/*
 * The engine comes before the machine, since devices may post to a vCPU as soon as they exist; the clock comes after
 * the engine's VM, which may know the TSC's rate, and before its vCPUs, whose CPUID tells it.
 */
static int vm_build(struct vm *vm, struct err *err)
{
    int rc = vm_copy_strings(&vm->cfg);

    if (!rc)
        rc = pace_new(vm);
    if (rc < 0)
        return err_set(err, rc, "no memory for the guest's configuration");
    rc = generation_init(vm);
    if (rc < 0)
        return err_set(err, rc, "the host gives no random numbers: %s", strerror(-rc));
    rc = vm_make_memory(vm, err);
    if (rc < 0)
        return rc;
    rc = vm->cfg.engine->vm_init(vm, err);
    if (rc < 0)
        return rc;
    rc = clock_init(&vm->clock, err);
    if (rc < 0)
        return rc;
    rc = vm_new_vcpus(vm, err);
    if (rc < 0)
        return rc;
    rc = ioevents_new(vm, err);
    if (rc < 0)
        return rc;
    return machine_new(vm, err);
}

int vm_new(struct vm **out, const struct vm_config *cfg, struct err *err)
{
    struct vm *vm;
    int rc;

    *out = NULL;
    rc = vm_check_config(cfg, err);
    if (rc < 0)
        return rc;
    vm = calloc(1, sizeof(*vm));
    if (!vm)
        return err_set(err, -ENOMEM, "no memory for a virtual machine");
    vm->cfg = *cfg;
    clock_gettime(CLOCK_MONOTONIC, &vm->made);
    vm->engine = cfg->engine;
    vm->stopping = true;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->wake, NULL);
    rc = vm_build(vm, err);
    if (rc < 0) {
        vm_free(vm);
        return rc;
    }
    *out = vm;
    return 0;
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    pace_free(vm);
    memcopy_fini(vm);
    machine_free(vm);
    ioevents_free(vm);
    for (unsigned i = 0; vm->vcpus && i < vm->cfg.cpus; i++)
        vm->engine->vcpu_fini(&vm->vcpus[i]);
    vm->engine->vm_fini(vm);
    for (unsigned i = 0; vm->vcpus && i < vm->cfg.cpus; i++)
        if (vm->vcpus[i].wake_fd >= 0)
            close(vm->vcpus[i].wake_fd);
    free(vm->vcpus);
    clock_fini(&vm->clock);
    mem_fini(&vm->mem);
    free((void *)vm->dirty);
    pthread_cond_destroy(&vm->wake);
    pthread_mutex_destroy(&vm->lock);
    vm_free_strings(&vm->cfg);
    free(vm);
}

/* ---- Loading ------------------------------------------------------------ */

void vm_mem_written(struct vm *vm, gpa_t gpa, uint64_t len)
{
    vm->engine->mem_written(vm, gpa, len);
    vm_dirty_note(vm, gpa, len);
}

static void vm_all_mem_written(struct vm *vm)
{
    for (unsigned i = 0; i < vm->mem.nslots; i++)
        vm_mem_written(vm, vm->mem.slots[i].base, vm->mem.slots[i].size);
}

int vm_set_cpu(struct vm *vm, unsigned n, const struct x86_state *st, struct err *err)
{
    int rc = vm->engine->set(&vm->vcpus[n], st);

    return rc < 0 ? err_set(err, rc, "the %s engine does not take the state of CPU %u: %s",
                            vm->engine->name, n, strerror(-rc))
                  : 0;
}

/* Power-on or reset: machine, memory, kernel, vCPU states. No vCPU runs. */
static int vm_load(struct vm *vm, struct err *err)
{
    struct boot_config boot = {
        .kernel = vm->cfg.kernel,
        .initrd = vm->cfg.initrd,
        .cmdline = vm->cfg.cmdline,
        .cpus = vm->cfg.cpus,
    };
    struct x86_state *st = aligned_alloc(_Alignof(struct x86_state), sizeof(*st));
    int rc;

    if (!st)
        return err_set(err, -ENOMEM, "no memory for the CPU state");
    /* First the devices: what they still have under way would go into the new guest's memory. */
    machine_reset(vm);
    rc = mem_clear(&vm->mem, err);
    if (rc < 0)
        goto out;
    clock_reset_tsc(&vm->clock);
    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        x86_state_reset(st, i == 0);
        if (i == 0) {
            rc = boot_load(&vm->mem, &boot, st, err);
            if (rc < 0)
                goto out;
        }
        rc = vm_set_cpu(vm, i, st, err);
        if (rc < 0)
            goto out;
        atomic_store(&vm->vcpus[i].events, 0);
        atomic_store(&vm->vcpus[i].nmis, 0);
    }
    rc = generation_place(vm);
    if (rc < 0)
        err_set(err, rc, "the guest has no memory for its generation ID");
    vm_all_mem_written(vm);
out:
    free(st);
    return rc;
}

/* ---- vCPU threads ------------------------------------------------------- */

static void vcpu_failed(struct vm_session *s, struct vcpu *vcpu)
{
    struct vcpu *none = NULL;
    struct vm *vm = s->vm;

    atomic_compare_exchange_strong(&s->failed, &none, vcpu);
    atomic_fetch_or(&vm->requests, REQ_FAILED);
    pthread_mutex_lock(&vm->lock);
    pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
}

static void *vcpu_thread(void *opaque)
{
    const struct vcpu_start *start = opaque;
    struct vcpu *vcpu = start->vcpu;
    char name[16];

    snprintf(name, sizeof(name), "vcpu%u", vcpu->id);
    thread_name(name);
    while (!atomic_load(&vcpu->vm->stopping)) {
        pace_rest(vcpu->vm);
        switch (vcpu->vm->engine->run(vcpu)) {
        case VCPU_EXIT_HALT:
            vcpu_sleep(vcpu);
            break;
        case VCPU_EXIT_STOP:
            /* Before the next look at `stopping`: session_stop sets that first, and then the event again. */
            atomic_fetch_and(&vcpu->events, ~VCPU_EV_STOP);
            break;
        case VCPU_EXIT_SHUTDOWN:
        case VCPU_EXIT_ERROR:
            vcpu_failed(start->session, vcpu);
            return NULL;
        }
    }
    return NULL;
}

/*
 * Signals meant for the process stay with its main thread. Those an
 * instruction causes stay open: the engine may rely on them.
 */
static void vcpu_block_signals(sigset_t *old)
{
    static const int caused[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t set;

    sigfillset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(caused); i++)
        sigdelset(&set, caused[i]);
    pthread_sigmask(SIG_SETMASK, &set, old);
}

static int vcpu_start(struct vm_session *s, struct vcpu *vcpu, struct err *err)
{
    struct vcpu_start *start = &s->starts[vcpu->id];
    int rc;

    *start = (struct vcpu_start){s, vcpu};
    rc = pthread_create(&vcpu->thread, NULL, vcpu_thread, start);
    if (rc) {
        err_set(err, -rc, "cannot start a thread for vCPU %u: %s", vcpu->id, strerror(rc));
        return err_next(err, "Give the guest fewer CPUs, or raise the limit on processes "
                             "(ulimit -u, or TasksMax of the service).");
    }
    return 0;
}

static void session_set_stopping(struct vm *vm, bool stopping)
{
    pthread_mutex_lock(&vm->lock);
    atomic_store(&vm->stopping, stopping);
    pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
}

static int session_start(struct vm_session *s, struct err *err)
{
    sigset_t old;
    int rc = 0;

    session_set_stopping(s->vm, false);
    vcpu_block_signals(&old);
    while (s->started < s->vm->cfg.cpus) {
        rc = vcpu_start(s, &s->vm->vcpus[s->started], err);
        if (rc < 0)
            break;
        s->started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

static void session_stop(struct vm_session *s)
{
    session_set_stopping(s->vm, true);
    for (unsigned i = 0; i < s->started; i++)
        vcpu_post(&s->vm->vcpus[i], VCPU_EV_STOP);
    for (unsigned i = 0; i < s->started; i++)
        pthread_join(s->vm->vcpus[i].thread, NULL);
    for (unsigned i = 0; i < s->started; i++)
        atomic_fetch_and(&s->vm->vcpus[i].events, ~VCPU_EV_STOP);
    s->started = 0;
}

/* ---- Running ------------------------------------------------------------ */

void vm_request(struct vm *vm, enum vm_request req)
{
    atomic_fetch_or(&vm->requests, req);
    pthread_mutex_lock(&vm->lock);
    pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
}

void vm_request_move(struct vm *vm, const struct engine_ops *to)
{
    atomic_store(&vm->move_to, to);
    vm_request(vm, VM_REQ_MOVE);
}

void vm_request_call(struct vm *vm, void (*fn)(struct vm *vm, void *opaque), void *opaque)
{
    pthread_mutex_lock(&vm->lock);
    vm->call = fn;
    vm->call_opaque = opaque;
    pthread_mutex_unlock(&vm->lock);
    vm_request(vm, VM_REQ_CALL);
}

struct call_waiter {
    void (*fn)(struct vm *vm, void *opaque);
    void *opaque;
    bool done; /* under vm->lock */
};

static void call_for_waiter(struct vm *vm, void *opaque)
{
    struct call_waiter *w = opaque;

    w->fn(vm, w->opaque);
    pthread_mutex_lock(&vm->lock);
    w->done = true;
    pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
}

int vm_call_wait(struct vm *vm, void (*fn)(struct vm *vm, void *opaque), void *opaque)
{
    struct call_waiter w = {.fn = fn, .opaque = opaque};

    pthread_mutex_lock(&vm->lock);
    while (vm->call && !vm->over)
        pthread_cond_wait(&vm->wake, &vm->lock);
    if (!vm->over) {
        vm->call = call_for_waiter;
        vm->call_opaque = &w;
        atomic_fetch_or(&vm->requests, VM_REQ_CALL);
        pthread_cond_broadcast(&vm->wake);
    }
    while (!w.done && !vm->over)
        pthread_cond_wait(&vm->wake, &vm->lock);
    if (vm->call_opaque == &w)
        vm->call = NULL;
    pthread_mutex_unlock(&vm->lock);
    return w.done ? 0 : -ESHUTDOWN;
}

void vm_pause(struct vm *vm, bool pause)
{
    atomic_store(&vm->pause, pause);
    pthread_mutex_lock(&vm->lock);
    pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
}

int vm_disk_overlay(struct vm *vm, unsigned n, const char *path, struct err *err)
{
    struct block_config *image = &vm->cfg.disk[n].image, over = *image;
    int rc;

    if (image->read_only)
        return 0;
    over.path = strdup(path);
    over.format = strdup("qcow2");
    rc = over.path && over.format ? machine_disk_overlay(vm, n, &over, err)
                                  : err_set(err, -ENOMEM, "no memory for an overlay");
    if (!rc) {
        free((char *)image->path);
        free((char *)image->format);
        *image = over;
        return 0;
    }
    free((char *)over.path);
    free((char *)over.format);
    return rc;
}

int vm_disk_sync(struct vm *vm, unsigned n)
{
    return machine_disk_sync(vm, n);
}

bool vm_is_paused(const struct vm *vm)
{
    return atomic_load(&vm->paused);
}

/* Until something is requested, or the guest is to be paused, or no longer. */
static uint32_t vm_wait(struct vm *vm, bool paused)
{
    uint32_t req;

    pthread_mutex_lock(&vm->lock);
    while (!(req = atomic_load(&vm->requests)) && atomic_load(&vm->pause) == paused)
        pthread_cond_wait(&vm->wake, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
    return req;
}

/* vm_wait with nothing of the machine running. */
static uint32_t vm_wait_paused(struct vm *vm)
{
    struct still *still;
    uint32_t req;

    machine_pause(vm);
    still = still_begin(vm);
    atomic_store(&vm->paused, true);
    req = vm_wait(vm, true);
    atomic_store(&vm->paused, false);
    still_end(vm, still);
    machine_resume(vm);
    return req;
}

static int vm_fail(const struct vm_session *s, struct err *err)
{
    const struct vcpu *vcpu = atomic_load(&s->failed);
    struct err why = {0};

    err_set(err, -EIO, "the guest cannot go on: %s", vcpu->exit.text);
    if (vcpu->exit.reason == VCPU_EXIT_SHUTDOWN)
        return err_next(err, "The guest system crashed before it could say why; its last console "
                             "output may tell ('earlyprintk=serial' shows more).");
    /* An engine that was named is not probed before. */
    if (s->vm->engine->check && s->vm->engine->probe(&why) < 0)
        return err_next(err, "The %s engine cannot be used here: %.160s. Use --engine auto.",
                        s->vm->engine->name, why.what);
    return err_next(err, "This is a fault of the %s engine: please report it with this text.",
                    s->vm->engine->name);
}

static void vm_call(struct vm *vm)
{
    void (*fn)(struct vm * vm, void *opaque);
    void *opaque;

    pthread_mutex_lock(&vm->lock);
    fn = vm->call;
    opaque = vm->call_opaque;
    vm->call = NULL;
    vm->call_opaque = NULL;
    pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
    if (!fn)
        return;
    machine_pause(vm);
    fn(vm, opaque);
    machine_resume(vm);
}

#define SERVED_HERE (VM_REQ_MOVE | VM_REQ_CALL)

/* Run until something else is asked for than what is served here. */
static int session_run(struct vm_session *s, uint32_t *req, struct err *err)
{
    int rc;

    do {
        rc = 0;
        *req = atomic_load(&s->vm->requests);
        if (*req) {
            /* Not even for a moment: who asked may have counted on it that nothing has run. */
        } else if (atomic_load(&s->vm->pause)) {
            *req = vm_wait_paused(s->vm);
        } else {
            rc = session_start(s, err);
            *req = rc < 0 ? 0 : vm_wait(s->vm, false);
            session_stop(s);
        }
        if (rc < 0 || (*req & ~SERVED_HERE))
            return rc;
        atomic_fetch_and(&s->vm->requests, ~*req);
        if (*req & VM_REQ_CALL)
            vm_call(s->vm);
        if (*req & VM_REQ_MOVE)
            rc = vm_move(s->vm, atomic_load(&s->vm->move_to), err);
    } while (!rc);
    return rc;
}

/* One session. *again: the guest wants a reset and gets it. */
static int vm_run_session(struct vm *vm, enum vm_end *end, bool *again, struct err *err)
{
    struct vm_session s = {.vm = vm};
    uint32_t req;
    int rc;

    *again = false;
    rc = vm->cfg.origin ? vm_restore(vm, err) : vm_load(vm, err);
    vm->cfg.origin = NULL;
    if (rc < 0)
        return rc;
    rc = session_run(&s, &req, err);
    if (rc < 0)
        return rc;

    if (req & VM_REQ_STOP) {
        *end = VM_END_STOPPED;
    } else if (req & VM_REQ_POWEROFF) {
        *end = VM_END_POWEROFF;
    } else if (req & REQ_FAILED) {
        rc = vm_fail(&s, err);
    } else {
        *end = VM_END_RESET;
        *again = !vm->cfg.no_reboot;
        if (*again)
            atomic_fetch_add(&vm->resets, 1);
    }
    /* A stop that came meanwhile still counts. */
    atomic_fetch_and(&vm->requests, *again ? VM_REQ_STOP : 0);
    return rc;
}

int vm_run(struct vm *vm, enum vm_end *end, struct err *err)
{
    bool again;
    int rc;

    do {
        *end = VM_END_FAILED;
        rc = vm_run_session(vm, end, &again, err);
    } while (again);
    pthread_mutex_lock(&vm->lock);
    vm->over = true;
    pthread_cond_broadcast(&vm->wake);
    pthread_mutex_unlock(&vm->lock);
    return rc;
}
