/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket of a running guest (docs/control.md): a thread that serves any number of requests and consoles. It
 * waits for nobody: clients that do not read or write hold up themselves alone.
 */
#ifndef LODGE_CONTROL_CONTROL_H
#define LODGE_CONTROL_CONTROL_H

#include <jansson.h>

#include "base/err.h"
#include "base/types.h"
#include "control/proto.h"

struct conlog;
struct control;
struct snapshot_take;
struct vm;

struct control_config {
    const char *dir;        /* the guest's run directory, where the socket is to be */
    struct vm *vm;          /* outlives the control socket */
    struct conlog *console; /* NULL: the guest has none */
    int console_in;         /* what clients type goes there, without blocking; -1: nowhere */
    /* End the guest as if its power was cut. On the control thread. */
    void (*quit)(void *opaque);
    /* Have the disks go on in new layers, and describe those below in `result`. On a job's thread. NULL: cannot be. */
    int (*overlay)(void *opaque, json_t *result, struct err *err);
    /* The same, and leave the guest's state and memory in the folder `dir` (core/snapshot_take.h). */
    int (*fork)(void *opaque, const char *dir, const _Atomic bool *gone, json_t *result,
                struct err *err);
    /* Take a snapshot (core/snapshot_take.h), disks included, which `result` describes. On a job's thread. */
    int (*snapshot)(void *opaque, struct snapshot_take *take, json_t *result, struct err *err);
    void *opaque;
    const char *sandbox; /* what confines this process, in words */
};

#define CONTROL_SOCKET "control"

/* Listen and serve, until control_stop. cfg->vm, console and console_in must be there until then. */
int control_new(struct control **control, const struct control_config *cfg, struct err *err);

/* Remove the socket and serve nobody any more; the VM can be freed. Idempotent. */
void control_stop(struct control *control);

/* Stop, give watchers of the console (which must still be there) what is left, as far as they take it, and disconnect. */
void control_free(struct control *control);

/*
 * The socket's address below a run directory, in `buf`. One that is too long for a socket is made short through *fd, which is
 * to be open (-1: not needed) as long as the address is used.
 */
int control_address(const char *dir, char *buf, size_t size, int *fd, struct err *err);

/* ---- Commands --------------------------------------------------------------- */

/* A request being carried out. */
struct control_call {
    const struct control_config *cfg;
    const struct control_command *command;
    const json_t *args; /* as the command's table of arguments wants them */
    json_t *result;     /* an object for the command to fill in */
    bool console;       /* set: the connection becomes a console */
    bool replay, input;
    _Atomic bool
        gone; /* of a job: who asked for it went away, or the guest did; it is of no use any more */
};

struct control_command {
    const char *name;
    const struct proto_arg *args; /* NULL: none */
    /* On the control thread: may not wait. 0, or a negative errno with the reason. */
    int (*run)(struct control_call *call, struct err *err);
    /*
     * Instead of `run`, on a thread of its own, and the answer comes when it returns. One job at a time: others get
     * -EBUSY. It is to end soon once the call is `gone`, or vm_call_wait says that the run is over.
     */
    int (*job)(struct control_call *call, struct err *err);
};

extern const struct control_command control_commands[]; /* ends with name NULL */

#endif
