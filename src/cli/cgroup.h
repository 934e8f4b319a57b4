/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Control groups (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/): one of a guest's own for each controller. */
#ifndef LODGE_CLI_CGROUP_H
#define LODGE_CLI_CGROUP_H

#include <sys/types.h>

#include "base/types.h"

#define CGROUP_PATH 512

struct cgroup {
    unsigned version;      /* 1 or 2 */
    char dir[CGROUP_PATH]; /* the guest's */
};

/*
 * The group of the guest `name`, whose process is `pid`, for a controller ("cpu", "memory", "io"; blkio in version 1): where
 * it is, or is to be. -ENOENT: the host has no such controller for us.
 */
int cgroup_find(struct cgroup *g, const char *controller, const char *name, pid_t pid);

/* Make it and move the process there. A negative errno; groups that others left empty are removed on this occasion. */
int cgroup_join(const struct cgroup *g, const char *controller, pid_t pid);

/* Is the process in it? */
bool cgroup_has(const struct cgroup *g, pid_t pid);

/* What a file of it says, as far as it fits, without its last line feed. */
int cgroup_read(const struct cgroup *g, const char *file, char *buf, size_t size);
int cgroup_write(const struct cgroup *g, const char *file, const char *text);

#endif
