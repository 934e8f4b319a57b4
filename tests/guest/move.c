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
#include "outside.h"

#define MARK "LODGE-TEST"

struct mover {
    struct vm *vm;
    FILE *console;
    char **names; /* engines still to come, NULL at the end */
    bool ok;
};

static void next_engine(struct mover *m)
{
    const struct engine_ops *to;

    if (!*m->names)
        return;
    to = engine_named(*m->names++);
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
    struct vm_config cfg;
    struct err err = {0};

    if (argc < 7) {
        fprintf(stderr, "usage: move KERNEL INITRD APPEND CPUS ENGINE ENGINE...\n");
        return 2;
    }
    guest_config(&cfg, argv + 1, 256, argv[5], getenv("MOVE_DISK"));
    cfg.rng = true;
    m.names = argv + 6;
    if (run(&m, &cfg, &err)) {
        err_report(&err);
        return 1;
    }
    return m.ok ? 0 : 1;
}
