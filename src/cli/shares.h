/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a guest may take of the host's processors, memory and disks: cgroups of either version, and what does without. */
#ifndef LODGE_CLI_SHARES_H
#define LODGE_CLI_SHARES_H

#include <sys/types.h>

#include "base/err.h"
#include "cli/opts.h"

/* 0 or NULL: not said, as if there were no such thing. */
struct shares {
    unsigned cpu_weight, io_weight; /* 100 is everybody's */
    unsigned cpu_cap;               /* percent of one CPU */
    const char *cpu_pin;            /* CPUs, such as 0,2-3 */
    uint64_t memory_max;            /* bytes */
};

#define SHARES_WEIGHT_MAX 10000
#define SHARES_CAP_MAX    100000

/* List of CPUs like 0,2-3, or all. */
int opt_cpus(const struct opt_desc *opt, const char *val, void *field, struct err *err);

/* The options for the members of struct shares that begins at `at` of the caller's structure. */
#define SHARES_OPTIONS(at)                                                                         \
    {.name = "cpu-weight",                                                                         \
     .arg = "N",                                                                                   \
     .parse = opt_uint,                                                                            \
     .max = SHARES_WEIGHT_MAX,                                                                     \
     .field = (at) + offsetof(struct shares, cpu_weight),                                          \
     .help = "share of CPU time when there is not enough, 1 to 10000\n(100 is everybody's)"},      \
        {.name = "cpu-cap",                                                                        \
         .arg = "PERCENT",                                                                         \
         .parse = opt_uint,                                                                        \
         .max = SHARES_CAP_MAX,                                                                    \
         .field = (at) + offsetof(struct shares, cpu_cap),                                         \
         .help = "most CPU time, in percent of one CPU; 0: no limit"},                             \
        {.name = "cpu-pin",                                                                        \
         .arg = "LIST",                                                                            \
         .parse = opt_cpus,                                                                        \
         .field = (at) + offsetof(struct shares, cpu_pin),                                         \
         .help = "the host's CPUs to run on, like 0,2-3, or all"},                                 \
        {.name = "memory-max",                                                                     \
         .arg = "SIZE",                                                                            \
         .parse = opt_size,                                                                        \
         .field = (at) + offsetof(struct shares, memory_max),                                      \
         .help = "most of the host's memory; 0: no limit"},                                        \
    {                                                                                              \
        .name = "io-weight", .arg = "N", .parse = opt_uint, .max = SHARES_WEIGHT_MAX,              \
        .field = (at) + offsetof(struct shares, io_weight),                                        \
        .help = "share of the disks' time when there is not enough, 1\nto 10000 (100 is "          \
                "everybody's)"                                                                     \
    }

bool shares_given(const struct shares *s);

/*
 * Have them count for the process `pid` of the guest `name`, now and for the threads that it will start; members that are
 * 0 are put back. What works only in part or not at all here is said on standard error, unless quiet, and is no failure.
 * *pace is the cap, in percent, that the guest's process is to hold itself to (core/pace.h), since no cgroup does; 0: none.
 */
int shares_apply(const struct shares *s, const char *name, pid_t pid, bool quiet, unsigned *pace,
                 struct err *err);

/* The cap that the guest's cgroup holds it to, in percent; 0: none. */
unsigned shares_cap(const char *name, pid_t pid);

/* How shares are enforced here, in words. */
void shares_describe(char *buf, size_t size);

#endif
