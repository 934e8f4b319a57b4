/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names of running guests: one directory each below a base directory, with a
 * file `lock` that the guest's process keeps locked (flock) and that holds its
 * PID. The kernel drops the lock when the process ends, however it ends, so a
 * directory left by a killed process can be taken over, and is removed by the
 * next claim of any name.
 */
#ifndef LODGE_CLI_REGISTRY_H
#define LODGE_CLI_REGISTRY_H

#include <sys/types.h>

#include "base/err.h"
#include "base/types.h"

#define REGISTRY_NAME_MAX 63
#define REGISTRY_VSOCK    "vsock.sock" /* --vsock on: in the guest's directory */

struct registry {
    char base[256], dir[384], lock[400];
    int fd; /* of the lock file; -1: nothing claimed */
};

/* A lower-case letter or digit, then these and _ . - ; at most REGISTRY_NAME_MAX. -EINVAL with the reason. */
int registry_check_name(const char *name, struct err *err);

/*
 * Where guests of this user are registered: /run/lodge for root (where /run
 * can be written to), else $XDG_RUNTIME_DIR/lodge, else /tmp/lodge-UID.
 */
int registry_base(char *buf, size_t size, struct err *err);

/*
 * Take `name` below `base` (made when missing; refused when others may write
 * to it). -EBUSY when a running process has it: the message names its PID.
 * `name` must have passed registry_check_name.
 */
int registry_claim(struct registry *reg, const char *base, const char *name, struct err *err);

/* Does a process hold `name`? It may run, or be starting or ending a guest, or be changing what is kept of one. */
bool registry_is_held(const char *base, const char *name);

/* The PID of the process that holds it, as far as that can be said; 0: nobody does. */
pid_t registry_holder(const char *base, const char *name);

/* A guest's run directory. -ENAMETOOLONG. */
int registry_dir(char *buf, size_t size, const char *base, const char *name, struct err *err);

/* Call fn for each name below `base` that a process holds. */
void registry_each(const char *base, void (*fn)(void *opaque, const char *name), void *opaque);

/* Give the name back and remove its directory, and the base when that was the last. Idempotent. */
void registry_release(struct registry *reg);

#endif
