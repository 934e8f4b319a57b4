/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/shares.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli/cgroup.h"

#define PERIOD_US 100000
#define NICE_MAX  19

/* ---- Options ------------------------------------------------------------------------ */

/* False: that is no list of CPUs. */
static bool parse_cpus(const char *val, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (const char *at = val;; at++) {
        char *end;
        unsigned long first, last;

        if (*at < '0' || *at > '9')
            return false;
        first = last = strtoul(at, &end, 10);
        if (*end == '-' && end[1] >= '0' && end[1] <= '9')
            last = strtoul(end + 1, &end, 10);
        if (last < first || last >= CPU_SETSIZE || (*end && *end != ','))
            return false;
        for (; first <= last; first++)
            CPU_SET(first, set);
        if (!*end)
            return true;
        at = end;
    }
}

int opt_cpus(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    cpu_set_t set;

    if (strcmp(val, "all") && !parse_cpus(val, &set)) {
        err_set(err, -EINVAL, "--%s takes numbers of CPUs, like 0,2-3, or all, not '%.80s'",
                opt->name, val);
        return -EINVAL;
    }
    *(const char **)field = val;
    return 0;
}

bool shares_given(const struct shares *s)
{
    return s->cpu_weight || s->io_weight || s->cpu_cap || s->cpu_pin || s->memory_max;
}

/* ---- Each of them ------------------------------------------------------------------- */

/* Call fn for each thread of the process; what it says last. */
static int each_thread(pid_t pid, int (*fn)(pid_t tid, const void *opaque), const void *opaque)
{
    char path[64];
    struct dirent *e;
    int r = -ESRCH;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    d = opendir(path);
    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.')
            r = fn((pid_t)strtol(e->d_name, NULL, 10), opaque);
    if (d)
        closedir(d);
    else if (pid == getpid())
        r = fn(0, opaque); /* no /proc here: there is one thread as yet */
    return r;
}

static int pin_thread(pid_t tid, const void *opaque)
{
    return sched_setaffinity(tid, sizeof(cpu_set_t), opaque) < 0 ? -errno : 0;
}

static int pin(const char *list, pid_t pid)
{
    cpu_set_t set;

    if (!strcmp(list, "all"))
        memset(&set, 0xff, sizeof(set));
    else if (!parse_cpus(list, &set))
        return -EINVAL;
    return each_thread(pid, pin_thread, &set);
}

static int nice_thread(pid_t tid, const void *opaque)
{
    return setpriority(PRIO_PROCESS, (id_t)tid, *(const int *)opaque) < 0 ? -errno : 0;
}

/* One step of nice is a factor of 1.25. Without privileges it goes one way only. */
static int weigh_by_nice(unsigned weight, pid_t pid)
{
    int nice = 0;

    for (double w = weight; w <= 100 / 1.25 * 1.12 && nice < NICE_MAX; w *= 1.25)
        nice++;
    for (double w = weight; w >= 100 * 1.25 / 1.12 && nice > -NICE_MAX; w /= 1.25)
        nice--;
    return each_thread(pid, nice_thread, &nice);
}

static int write_cpu_weight(const struct cgroup *g, const struct shares *s)
{
    unsigned weight = s->cpu_weight ? s->cpu_weight : 100;
    char text[32];

    if (g->version == 2) {
        snprintf(text, sizeof(text), "%u", weight);
        return cgroup_write(g, "cpu.weight", text);
    }
    weight = weight * 1024 / 100;
    snprintf(text, sizeof(text), "%u", weight < 2 ? 2 : weight);
    return cgroup_write(g, "cpu.shares", text);
}

static int write_cpu_cap(const struct cgroup *g, const struct shares *s)
{
    long quota = s->cpu_cap ? (long)s->cpu_cap * (PERIOD_US / 100) : -1;
    char text[64];

    if (g->version == 2) {
        if (quota < 0)
            snprintf(text, sizeof(text), "max %d", PERIOD_US);
        else
            snprintf(text, sizeof(text), "%ld %d", quota, PERIOD_US);
        return cgroup_write(g, "cpu.max", text);
    }
    snprintf(text, sizeof(text), "%ld", quota);
    return cgroup_write(g, "cpu.cfs_quota_us", text);
}

static int write_memory_max(const struct cgroup *g, const struct shares *s)
{
    char text[32];

    if (s->memory_max)
        snprintf(text, sizeof(text), "%llu", (unsigned long long)s->memory_max);
    else
        strcpy(text, g->version == 2 ? "max" : "-1");
    return cgroup_write(g, g->version == 2 ? "memory.max" : "memory.limit_in_bytes", text);
}

/* Who weighs depends on the disks' scheduler. Version 1 goes from 10 to 1000, and so does BFQ in both. */
static int write_io_weight(const struct cgroup *g, const struct shares *s)
{
    unsigned weight = s->io_weight ? s->io_weight : 100, narrow;
    char wide_text[32], text[32];
    int r = -ENOENT;

    narrow = weight < 10 ? 10 : weight > 1000 ? 1000 : weight;
    snprintf(text, sizeof(text), "%u", narrow);
    snprintf(wide_text, sizeof(wide_text), "default %u", weight);
    if (g->version == 2) {
        r = cgroup_write(g, "io.weight", wide_text);
        return r ? cgroup_write(g, "io.bfq.weight", text) : 0;
    }
    r = cgroup_write(g, "blkio.weight", text);
    return r ? cgroup_write(g, "blkio.bfq.weight", text) : 0;
}

static bool has_weight(const struct shares *s)
{
    return s->cpu_weight;
}

static bool has_cap(const struct shares *s)
{
    return s->cpu_cap;
}

static bool has_memory(const struct shares *s)
{
    return s->memory_max;
}

static bool has_io(const struct shares *s)
{
    return s->io_weight;
}

static const struct share {
    const char *controller, *option;
    bool (*given)(const struct shares *s);
    int (*write)(const struct cgroup *g, const struct shares *s);
    const char *instead; /* what becomes of it without a cgroup */
} table[] = {
    {"cpu", "cpu-weight", has_weight, write_cpu_weight, "nice values stand in for it"},
    {"cpu", "cpu-cap", has_cap, write_cpu_cap,
     "its process sees to it, by letting the guest's processors rest"},
    {"memory", "memory-max", has_memory, write_memory_max, "the guest is not limited"},
    {"io", "io-weight", has_io, write_io_weight, "the guest's disks have no weight"},
};

/* ---- All of them ---------------------------------------------------------------------- */

static void note(const struct share *t, int code, bool quiet)
{
    if (quiet)
        return;
    fprintf(stderr, "lodge: --%s: no cgroup for it here (%s), so %s\n", t->option,
            code == -ENOENT ? "the host does not offer that controller" : strerror(-code),
            t->instead);
}

/* Why there is no cgroup for it, or 0. */
static int apply_one(const struct share *t, const struct shares *s, const char *name, pid_t pid,
                     bool quiet)
{
    struct cgroup g;
    int r = cgroup_find(&g, t->controller, name, pid);
    bool there = !r && cgroup_has(&g, pid);

    /* Nothing to put back where nothing was. */
    if (!t->given(s) && !there)
        return 0;
    if (!r && t->given(s)) /* also if it is there: version 2 has one group for all controllers */
        r = cgroup_join(&g, t->controller, pid);
    if (!r)
        r = t->write(&g, s);
    if (r && t->given == has_weight && t->given(s)) {
        int n = weigh_by_nice(s->cpu_weight, pid);

        if (n && !quiet)
            fprintf(stderr, "lodge: --cpu-weight: neither a cgroup (%s) nor a nice value (%s)\n",
                    strerror(-r), strerror(-n));
        if (n)
            return r;
    }
    if (r && t->given(s))
        note(t, r, quiet);
    return r;
}

int shares_apply(const struct shares *s, const char *name, pid_t pid, bool quiet, unsigned *pace,
                 struct err *err)
{
    int r = s->cpu_pin ? pin(s->cpu_pin, pid) : 0;

    *pace = 0;
    if (r) {
        err_set(err, r, "cannot keep the guest on the CPUs %.80s: %s", s->cpu_pin,
                r == -EINVAL ? "the host has none of these for us" : strerror(-r));
        return err_next(err, "lodge doctor tells how many there are; they are counted from 0.");
    }
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        if (apply_one(&table[i], s, name, pid, quiet) && table[i].given == has_cap)
            *pace = s->cpu_cap;
    return 0;
}

/* cpu.max is "20000 100000" or "max 100000", cpu.cfs_quota_us "20000" or "-1"; we write no other period. */
unsigned shares_cap(const char *name, pid_t pid)
{
    struct cgroup g;
    char text[64];

    if (cgroup_find(&g, "cpu", name, pid) || !cgroup_has(&g, pid) ||
        cgroup_read(&g, g.version == 2 ? "cpu.max" : "cpu.cfs_quota_us", text, sizeof(text)) ||
        text[0] < '0' || text[0] > '9')
        return 0;
    return (unsigned)(strtoul(text, NULL, 10) / (PERIOD_US / 100));
}

void shares_describe(char *buf, size_t size)
{
    static const char *const controllers[] = {"cpu", "memory", "io"};
    struct cgroup g;
    size_t at = 0;

    snprintf(buf, size,
             "no cgroups: nice values stand in for --cpu-weight, guests' own "
             "processes for --cpu-cap");
    for (unsigned i = 0; i < ARRAY_SIZE(controllers); i++) {
        char parent[CGROUP_PATH];

        if (cgroup_find(&g, controllers[i], "x", getpid()))
            continue;
        strcpy(parent, g.dir);
        /* The nearest folder above that there is must be ours to write to. */
        do {
            *strrchr(parent, '/') = '\0';
        } while (*parent && access(parent, F_OK));
        if (*parent && !access(parent, W_OK) && at < size)
            at += (size_t)snprintf(buf + at, size - at, "%s%s (version %u)",
                                   at ? ", " : "cgroups: ", controllers[i], g.version);
    }
}
