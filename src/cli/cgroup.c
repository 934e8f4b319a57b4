/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "lodge.slice" /* of root's guests; systemd's word for a group of groups */
#define PREFIX "lodge-"      /* of a user's guests, beside the group that the command is in */

static bool has_word(const char *list, const char *word, const char *separators)
{
    size_t len = strlen(word);

    for (const char *at = list; *at; at += strcspn(at, separators)) {
        at += strspn(at, separators);
        if (strcspn(at, separators) == len && !strncmp(at, word, len))
            return true;
    }
    return false;
}

static int read_text(const char *path, char *buf, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

    if (fd >= 0)
        close(fd);
    buf[n > 0 ? n : 0] = '\0';
    return n < 0 ? -errno : 0;
}

static int write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;
    size_t len = strlen(text);

    if (fd < 0)
        return -errno;
    if (write(fd, text, len) != (ssize_t)len)
        r = -errno;
    close(fd);
    return r;
}

/* Where the controller's hierarchy is mounted, and which version it is; 0: nowhere. */
static unsigned find_mount(const char *controller, char *buf)
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    const char *v1 = !strcmp(controller, "io") ? "blkio" : controller;
    struct mntent *m;
    unsigned version = 0;

    while (f && version != 1 && (m = getmntent(f))) {
        char path[CGROUP_PATH], list[1024];

        if (strlen(m->mnt_dir) > CGROUP_PATH / 2)
            continue;
        if (!strcmp(m->mnt_type, "cgroup") && has_word(m->mnt_opts, v1, ",")) {
            version = 1;
        } else if (!strcmp(m->mnt_type, "cgroup2")) {
            snprintf(path, sizeof(path), "%s/cgroup.controllers", m->mnt_dir);
            if (!read_text(path, list, sizeof(list)) && has_word(list, controller, " \n"))
                version = 2;
            else
                continue;
        } else {
            continue;
        }
        strcpy(buf, m->mnt_dir);
    }
    if (f)
        endmntent(f);
    return version;
}

/* The process's group below the mount, "" for the topmost. */
static int find_own(unsigned version, const char *controller, pid_t pid, char *buf)
{
    char path[64], line[1024];
    const char *v1 = !strcmp(controller, "io") ? "blkio" : controller;
    bool found = false;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
    f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof(line), f)) {
        char *list = strchr(line, ':'), *own = list ? strchr(list + 1, ':') : NULL;

        if (!own)
            continue;
        *own++ = '\0';
        own[strcspn(own, "\n")] = '\0';
        found = version == 2 ? !strncmp(line, "0:", 2) && !list[1] : has_word(list + 1, v1, ",");
        if (found && strlen(own) < CGROUP_PATH / 2)
            strcpy(buf, strcmp(own, "/") ? own : "");
    }
    if (f)
        fclose(f);
    return found ? 0 : -ENOENT;
}

/* Up to the group in which those of guests are, if the process is in one; false: it is not. */
static bool leave_guest(char *own, const char *mark)
{
    char *at = strstr(own, mark);

    if (at)
        *at = '\0';
    return at;
}

int cgroup_find(struct cgroup *g, const char *controller, const char *name, pid_t pid)
{
    char mount[CGROUP_PATH], own[CGROUP_PATH] = "";
    int r;

    g->version = find_mount(controller, mount);
    r = g->version ? find_own(g->version, controller, pid, own) : -ENOENT;
    if (r)
        return r;
    /* A version 1 group may have processes and groups. Of version 2 only root's topmost may, and there root's guests are. */
    if (g->version == 1 || !geteuid()) {
        leave_guest(own, "/" FOLDER);
        r = snprintf(g->dir, sizeof(g->dir), "%.200s%.200s/" FOLDER "/%.64s", mount,
                     g->version == 1 ? own : "", name);
    } else {
        char *slash = strrchr(own, '/');

        if (!leave_guest(own, "/" PREFIX) && slash)
            *slash = '\0';
        r = snprintf(g->dir, sizeof(g->dir), "%.200s%.200s/" PREFIX "%.64s", mount, own, name);
    }
    return (size_t)r < sizeof(g->dir) ? 0 : -ENAMETOOLONG;
}

/* Groups whose processes have ended; the kernel keeps the others. */
static void sweep(const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (e->d_type == DT_DIR && e->d_name[0] != '.' &&
            (strstr(folder, FOLDER) || !strncmp(e->d_name, PREFIX, strlen(PREFIX))))
            unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    if (d)
        closedir(d);
}

static int enable(const char *folder, const char *controller)
{
    char path[CGROUP_PATH + 32], word[32];

    snprintf(path, sizeof(path), "%s/cgroup.subtree_control", folder);
    snprintf(word, sizeof(word), "+%s", controller);
    return write_text(path, word);
}

static int make_group(const struct cgroup *g, const char *controller)
{
    char parent[CGROUP_PATH], above[CGROUP_PATH];
    bool shared;
    int r = 0;

    strcpy(parent, g->dir);
    *strrchr(parent, '/') = '\0';
    shared = strlen(parent) > strlen(FOLDER) &&
             !strcmp(parent + strlen(parent) - strlen(FOLDER), FOLDER);
    if (shared && mkdir(parent, 0755) && errno != EEXIST)
        return -errno;
    sweep(parent);
    if (g->version == 2 && shared) {
        strcpy(above, parent);
        *strrchr(above, '/') = '\0';
        r = enable(above, controller);
        if (!r)
            r = enable(parent, controller);
    }
    if (!r && mkdir(g->dir, 0755) && errno != EEXIST)
        r = -errno;
    return r;
}

int cgroup_join(const struct cgroup *g, const char *controller, pid_t pid)
{
    char text[24];
    int r = make_group(g, controller);

    snprintf(text, sizeof(text), "%d", (int)pid);
    return r ? r : cgroup_write(g, "cgroup.procs", text);
}

bool cgroup_has(const struct cgroup *g, pid_t pid)
{
    char path[CGROUP_PATH + 32];
    bool found = false;
    int n;
    FILE *f;

    snprintf(path, sizeof(path), "%s/cgroup.procs", g->dir);
    f = fopen(path, "re");
    while (f && !found && fscanf(f, "%d", &n) == 1)
        found = n == (int)pid;
    if (f)
        fclose(f);
    return found;
}

int cgroup_write(const struct cgroup *g, const char *file, const char *text)
{
    char path[CGROUP_PATH + 64];

    snprintf(path, sizeof(path), "%s/%.60s", g->dir, file);
    return write_text(path, text);
}

int cgroup_read(const struct cgroup *g, const char *file, char *buf, size_t size)
{
    char path[CGROUP_PATH + 64];
    int r;

    snprintf(path, sizeof(path), "%s/%.60s", g->dir, file);
    r = read_text(path, buf, size);
    buf[strcspn(buf, "\n")] = '\0';
    return r;
}
