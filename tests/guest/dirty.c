/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dirty PAYLOAD ENGINE...: run the payload's "dirty" test and hold the log of written pages against what the guest says
 * it has written. With several engines the guest changes to the next after each look, and pages beyond those may be
 * reported.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/dirty.h"
#include "outside.h"

#define AREA_PAGES 256

struct look {
    struct vm *vm;
    FILE *console;
    int to_guest;
    char **names, **name; /* of engines; the next */
    unsigned lines, bad;
    bool on;
    gpa_t base;
    char pages[256];
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool looked;
};

enum listed { NOT_LISTED, LISTED, OPTIONAL };

/* Is page n in the guest's list? "N?" is a page that may be reported: a processor's walk counts as a write to some. */
static enum listed listed(const char *pages, unsigned n)
{
    if (!strcmp(pages, "even"))
        return n % 2 == 0 ? LISTED : NOT_LISTED;
    for (const char *p = pages; *p >= '0' && *p <= '9';) {
        char *end;

        if (strtoul(p, &end, 10) == n)
            return *end == '?' ? OPTIONAL : LISTED;
        p = end + strspn(end, "?,");
    }
    return NOT_LISTED;
}

static void compare(struct look *l, const uint64_t *bitmap)
{
    size_t first =
        l->base / PAGE_SIZE; /* below 640 KiB or above 1 MiB: the offset is the address */

    for (unsigned n = 0; n < AREA_PAGES; n++) {
        bool found = bitmap[(first + n) / 64] >> (first + n) % 64 & 1;
        enum listed want = listed(l->pages, n);

        if (want == OPTIONAL || found == (want == LISTED))
            continue;
        if (found && l->names[1])
            continue; /* KVM counts the first read after a change as a write */
        printf("DIRTY under %s, round %u: page %u is %sreported (%s)\n", l->vm->engine->name,
               l->lines, n, found ? "" : "not ", l->pages);
        l->bad++;
    }
}

/* With no vCPU running. */
static void look(struct vm *vm, void *opaque)
{
    struct look *l = opaque;
    struct err err = {0};
    uint64_t *bitmap = calloc(vm_dirty_words(vm), sizeof(*bitmap));
    int r = 0;

    if (!l->on)
        r = vm_dirty_start(vm, &err);
    else if (bitmap)
        r = vm_dirty_take(vm, bitmap, &err);
    if (r < 0 || !bitmap) {
        err_report(&err);
        l->bad++;
    } else if (l->on) {
        compare(l, bitmap);
    }
    l->on = true;
    free(bitmap);
    pthread_mutex_lock(&l->lock);
    l->looked = true;
    pthread_cond_signal(&l->done);
    pthread_mutex_unlock(&l->lock);
}

static void next_engine(struct look *l)
{
    if (!l->names[1])
        return;
    l->name = l->name[1] ? l->name + 1 : l->names;
    vm_request_move(l->vm, engine_named(*l->name));
}

static void *watch(void *opaque)
{
    struct look *l = opaque;
    unsigned long long base;
    char line[512];

    while (fgets(line, sizeof(line), l->console)) {
        fputs(line, stdout);
        l->pages[0] = 0;
        if (sscanf(line, "DIRTY base=%llx pages=%255[0-9a-z,?]", &base, l->pages) < 1)
            continue;
        l->base = base;
        l->lines++;
        l->looked = false;
        vm_request_call(l->vm, look, l);
        pthread_mutex_lock(&l->lock);
        while (!l->looked)
            pthread_cond_wait(&l->done, &l->lock);
        pthread_mutex_unlock(&l->lock);
        next_engine(l);
        if (write(l->to_guest, "g", 1) != 1)
            l->bad++;
    }
    return NULL;
}

static int run(struct look *l, struct vm_config *cfg, struct err *err)
{
    enum vm_end end = VM_END_FAILED;
    int in[2], out[2], r;
    pthread_t thread;

    if (pipe(in) < 0 || pipe(out) < 0)
        return -1;
    l->console = fdopen(out[0], "r");
    l->to_guest = in[1];
    cfg->serial_in = in[0];
    cfg->serial_out = out[1];
    r = vm_new(&l->vm, cfg, err);
    if (r < 0)
        return r;
    pthread_create(&thread, NULL, watch, l);
    r = vm_run(l->vm, &end, err);
    vm_free(l->vm);
    close(out[1]);
    pthread_join(thread, NULL);
    fclose(l->console);
    if (!r && (end != VM_END_POWEROFF || l->lines < 10))
        l->bad++;
    return r;
}

int main(int argc, char **argv)
{
    struct vm_config cfg = {
        .name = "dirty", .cpu = CPU_V2, .cpus = 1, .memory = MIB(128), .no_reboot = true};
    struct look l = {.lock = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
    struct err err = {0};

    for (int i = 2; i < argc; i++)
        engine_named(argv[i]);
    if (argc < 3) {
        fprintf(stderr, "usage: dirty PAYLOAD ENGINE...\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    l.names = l.name = argv + 2;
    cfg.kernel = argv[1];
    cfg.cmdline = "cpus=1 tests=dirty";
    cfg.engine = engine_named(argv[2]);
    if (run(&l, &cfg, &err)) {
        err_report(&err);
        return 1;
    }
    printf("DIRTY looks=%u bad=%u\n", l.lines, l.bad);
    return l.bad != 0;
}
