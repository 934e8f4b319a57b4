/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * copy KERNEL INITRD APPEND CPUS MIB ENGINE [rebase|time [TIMES]]: run a guest whose memory is copied again and again
 * while it works, or so many times, and hold each copy against one that was made while it stood still. With "rebase"
 * (and no disk) the guest stands still until every third copy is complete, and goes on with new memory that has it as
 * its base. With "time" nothing is compared, and how long it stood still and a copy took is printed. Passes its console
 * on; status 0 when all copies were right and it powered off. With COPY_DISK=FILE it has a disk.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/memcopy.h"
#include "core/move.h"
#include "outside.h"

struct copier {
    struct vm *vm;
    bool rebase, timed;
    double asked, stood; /* when the stop was asked for, and how long it was until it could go on */
    uint8_t *reference;  /* memory at the stop, made there */
    struct memcopy *copy;
    int fd;
    double start_ms; /* of memcopy_start, the longest */
    unsigned times, copies, rebased, bad;
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool called, over;
};

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static void bad(struct copier *c, const struct err *err)
{
    if (err)
        err_report(err);
    c->bad++;
}

/* Without giving memory to what has none. */
static void make_reference(struct copier *c)
{
    struct mem *mem = &c->vm->mem;
    uint64_t end;

    madvise(c->reference, mem->size, MADV_DONTNEED);
    for (uint64_t at = mem_find_data(mem, 0, &end); at < mem->size;
         at = mem_find_data(mem, end, &end))
        memcpy(c->reference + at, mem->map + at, end - at);
}

/* The copy is complete: throw memory away and go on from there. Nothing but the engine knows where memory is. */
static void begin_anew(struct copier *c, struct err *err)
{
    struct mem_base base = {c->fd, 0};
    uint64_t size = c->vm->mem.size;
    double begin = now_ms();

    mem_fini(&c->vm->mem);
    if (mem_init_base(&c->vm->mem, size, &base, !c->vm->engine->arm, err) < 0) {
        err_report(err);
        abort();
    }
    printf("COPY base mapped in %.1f ms\n", now_ms() - begin);
    if (vm_move(c->vm, c->vm->engine, err) < 0)
        bad(c, err);
    c->rebased++;
}

static void called(struct copier *c)
{
    c->stood = now_ms() - c->asked;
    pthread_mutex_lock(&c->lock);
    c->called = true;
    pthread_cond_signal(&c->change);
    pthread_mutex_unlock(&c->lock);
}

/* With no vCPU running. */
static void prepare(struct vm *vm, void *opaque)
{
    struct copier *c = opaque;
    struct err err = {0};

    if (memcopy_prepare(c->copy, &err))
        bad(c, &err);
    called(c);
}

/* With no vCPU running: the moment. */
static void at_stop(struct vm *vm, void *opaque)
{
    struct copier *c = opaque;
    struct err err = {0};
    double begin;

    if (!c->timed)
        make_reference(c);
    begin = now_ms();
    if (memcopy_start(c->copy, &err))
        bad(c, &err);
    begin = now_ms() - begin;
    c->start_ms = begin > c->start_ms || c->timed ? begin : c->start_ms;
    if (c->rebase && c->copies % 3 == 2 && !memcopy_wait(c->copy, &err))
        begin_anew(c, &err);
    called(c);
}

/* Are they alike? */
static void compare(struct copier *c)
{
    static uint8_t got[16 * PAGE_SIZE];
    uint64_t pages = 0;

    for (uint64_t at = 0; at < c->vm->mem.size; at += sizeof(got)) {
        if (pread(c->fd, got, sizeof(got), (off_t)at) != sizeof(got)) {
            bad(c, NULL);
            return;
        }
        for (uint64_t n = 0; n < sizeof(got); n += PAGE_SIZE)
            if (memcmp(got + n, c->reference + at + n, PAGE_SIZE) && pages++ < 5)
                printf("COPY %u: page at %#" PRIx64 " differs\n", c->copies, at + n);
    }
    if (pages)
        printf("COPY %u: %" PRIu64 " pages differ\n", c->copies, pages);
    c->bad += pages != 0;
}

static void report(const struct copier *c)
{
    struct stat st = {0};

    fstat(c->fd, &st);
    printf("COPY stood %.1f ms, of that %.1f to start; %.0f ms for %" PRIu64 " MiB\n", c->stood,
           c->start_ms, now_ms() - c->asked, (uint64_t)st.st_blocks / 2048);
}

static bool stopped(struct copier *c)
{
    bool called;

    pthread_mutex_lock(&c->lock);
    while (!c->called && !c->over)
        pthread_cond_wait(&c->change, &c->lock);
    called = c->called;
    c->called = false;
    pthread_mutex_unlock(&c->lock);
    return called;
}

/* False: the guest has ended. */
static bool stop_for(struct copier *c, void (*fn)(struct vm *vm, void *opaque))
{
    c->asked = now_ms();
    vm_request_call(c->vm, fn, c);
    return stopped(c);
}

static bool copy_once(struct copier *c)
{
    struct memcopy_config cfg = {.fd = c->fd};
    struct err err = {0};
    bool goes_on;

    if (memcopy_new(&c->copy, c->vm, &cfg, &err)) {
        bad(c, &err);
        return false;
    }
    goes_on = stop_for(c, prepare);
    if (goes_on && memcopy_prepared(c->copy, 60000, &err))
        bad(c, &err);
    goes_on = goes_on && stop_for(c, at_stop);
    if (goes_on && memcopy_wait(c->copy, &err))
        bad(c, &err);
    if (goes_on && c->timed)
        report(c);
    else if (goes_on)
        compare(c);
    memcopy_free(c->copy);
    return goes_on;
}

static void *copy_on(void *opaque)
{
    struct copier *c = opaque;
    bool goes_on = true;

    for (; goes_on && c->copies < c->times; c->copies += goes_on) {
        usleep(c->timed ? 2000000 : 50000);
        c->fd = memfd_create("copy", MFD_CLOEXEC);
        goes_on = copy_once(c);
        close(c->fd);
    }
    return NULL;
}

static void *pass_console(void *opaque)
{
    FILE *console = opaque;
    char line[4096];

    while (fgets(line, sizeof(line), console)) {
        fputs(line, stdout);
        fflush(stdout);
    }
    fclose(console);
    return NULL;
}

static int run(struct copier *c, struct vm_config *cfg, struct err *err)
{
    enum vm_end end = VM_END_FAILED;
    pthread_t copying, console;
    int pipe_fd[2], r;

    if (pipe(pipe_fd) < 0)
        return -1;
    cfg->serial_out = pipe_fd[1];
    c->reference = mmap(NULL, cfg->memory, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    r = c->reference == MAP_FAILED ? -1 : vm_new(&c->vm, cfg, err);
    if (r)
        return r;
    pthread_create(&console, NULL, pass_console, fdopen(pipe_fd[0], "r"));
    pthread_create(&copying, NULL, copy_on, c);
    r = vm_run(c->vm, &end, err);
    pthread_mutex_lock(&c->lock);
    c->over = true;
    pthread_cond_signal(&c->change);
    pthread_mutex_unlock(&c->lock);
    pthread_join(copying, NULL);
    vm_free(c->vm);
    close(pipe_fd[1]);
    pthread_join(console, NULL);
    if (!r && (end != VM_END_POWEROFF || c->copies < 3 || (c->rebase && !c->rebased)))
        c->bad++;
    return r;
}

int main(int argc, char **argv)
{
    struct copier c = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};
    struct vm_config cfg;
    struct err err = {0};

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 7) {
        fprintf(stderr, "usage: copy KERNEL INITRD APPEND CPUS MIB ENGINE [rebase|time [TIMES]]\n");
        return 2;
    }
    c.rebase = argc > 7 && !strcmp(argv[7], "rebase");
    c.times = argc > 8 ? (unsigned)atoi(argv[8]) : ~0u;
    c.timed = argc > 7 && !strcmp(argv[7], "time");
    guest_config(&cfg, argv + 1, (unsigned)atoi(argv[5]), argv[6],
                 c.rebase ? NULL : getenv("COPY_DISK"));
    if (run(&c, &cfg, &err)) {
        err_report(&err);
        return 1;
    }
    printf("COPY copies=%u rebased=%u bad=%u start=%.1f\n", c.copies, c.rebased, c.bad, c.start_ms);
    return c.bad != 0;
}
