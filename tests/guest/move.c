/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * move KERNEL INITRD APPEND CPUS ENGINE ENGINE...: run a guest that changes
 * its engine at each line of its console that starts with LODGE-TEST, as long
 * as there are engines left. Passes its console on; status 0 when it went
 * through all of them and powered off. With MOVE_DISK=FILE it has a disk.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/move.h"
#include "engine/engine.h"

#define MARK "LODGE-TEST"

struct mover {
    struct vm *vm;
    FILE *console;
    char **names; /* engines still to come, NULL at the end */
    bool ok;
};

static const struct engine_ops *engine_named(const char *name)
{
    for (const struct engine_ops *const *e = engines; *e; e++)
        if (!strcmp((*e)->name, name))
            return *e;
    return NULL;
}

static void next_engine(struct mover *m)
{
    const struct engine_ops *to;

    if (!*m->names)
        return;
    to = engine_named(*m->names++);
    if (!to) {
        fprintf(stderr, "move: no engine %s\n", m->names[-1]);
        m->ok = false;
        return;
    }
    printf("MOVE to %s\n", to->name);
    fflush(stdout);
    vm_request_move(m->vm, to);
}

static void *watch(void *opaque)
{
    struct mover *m = opaque;
    char *line = NULL;
    size_t size = 0;

    while (getline(&line, &size, m->console) > 0) {
        fputs(line, stdout);
        fflush(stdout);
        if (!strncmp(line, MARK, strlen(MARK)))
            next_engine(m);
    }
    free(line);
    return NULL;
}

static int run(struct mover *m, struct vm_config *cfg, struct err *err)
{
    enum vm_end end = VM_END_FAILED;
    const char *last;
    pthread_t thread;
    int pipe_fd[2], r;

    if (pipe(pipe_fd) < 0)
        return -1;
    m->console = fdopen(pipe_fd[0], "r");
    cfg->serial_out = pipe_fd[1];
    r = vm_new(&m->vm, cfg, err);
    if (r)
        return r;
    pthread_create(&thread, NULL, watch, m);
    r = vm_run(m->vm, &end, err);
    last = m->vm->engine->name;
    vm_free(m->vm);
    close(pipe_fd[1]);
    pthread_join(thread, NULL);
    fclose(m->console);
    if (r)
        return r;
    m->ok = m->ok && end == VM_END_POWEROFF && !*m->names && !strcmp(last, m->names[-1]);
    printf("MOVE ended, %d, under %s\n", (int)end, last);
    return 0;
}

int main(int argc, char **argv)
{
    struct mover m = {.ok = true};
    struct vm_config cfg = {
        .name = "move", .cpu = CPU_V2, .memory = MIB(256), .serial_in = -1, .no_reboot = true};
    struct err err = {0};

    if (argc < 7) {
        fprintf(stderr, "usage: move KERNEL INITRD APPEND CPUS ENGINE ENGINE...\n");
        return 2;
    }
    cfg.kernel = argv[1];
    cfg.initrd = argv[2];
    cfg.cmdline = argv[3];
    cfg.cpus = (unsigned)atoi(argv[4]);
    cfg.engine = engine_named(argv[5]);
    cfg.rng = true;
    cfg.disk[0].image.path = getenv("MOVE_DISK");
    cfg.disks = cfg.disk[0].image.path != NULL;
    m.names = argv + 6;
    if (run(&m, &cfg, &err)) {
        err_report(&err);
        return 1;
    }
    return m.ok ? 0 : 1;
}
