/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/passing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* 0: that cannot be said. */
static unsigned long long started(long pid)
{
    char path[64], text[1024], *at;
    ssize_t n = -1;
    int fd;

    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        n = read(fd, text, sizeof(text) - 1);
        close(fd);
    }
    text[n > 0 ? n : 0] = '\0';
    /* The second field is a name in parentheses, with anything in it. */
    at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

void passing_name(char buf[PASSING_NAME], const char *what)
{
    long pid = getpid();

    snprintf(buf, PASSING_NAME, ".%ld-%llu.%.100s", pid, started(pid), what);
}

bool passing_is_abandoned(const char *name)
{
    unsigned long long since, now;
    char *end;
    long pid;

    if (name[0] != '.' || name[1] < '0' || name[1] > '9')
        return false;
    pid = strtol(name + 1, &end, 10);
    if (pid <= 0 || pid > INT_MAX || end[0] != '-' || end[1] < '0' || end[1] > '9')
        return false;
    since = strtoull(end + 1, &end, 10);
    if (*end != '.')
        return false;
    if (kill((pid_t)pid, 0) && errno == ESRCH)
        return true;
    now = started(pid);
    return since && now && since != now;
}

static int delete_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    /* Not remove(3), which tries the wrong one first and may not be told so. */
    return (type == FTW_DP ? rmdir(path) : unlink(path)) && errno != ENOENT;
}

int passing_delete(const char *path)
{
    return nftw(path, delete_entry, 16, FTW_DEPTH | FTW_PHYS) && errno != ENOENT ? -errno : 0;
}

void passing_sweep(const char *dir, bool (*also)(const char *name))
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        char path[PATH_MAX];

        if (e->d_name[0] != '.' || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        if ((passing_is_abandoned(e->d_name) || (also && also(e->d_name))) &&
            snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) < (int)sizeof(path))
            passing_delete(path);
    }
    if (d)
        closedir(d);
}
