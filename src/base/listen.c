/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/listen.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Nobody listens there any more: connecting is refused, which a file of another kind does, too. */
static bool is_left_over(const struct sockaddr_un *addr)
{
    struct stat st;
    bool refused;
    int fd;

    if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    refused =
        connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

static int bind_to(int fd, const struct sockaddr_un *addr)
{
    const struct sockaddr *a = (const struct sockaddr *)addr;

    /* The socket's mode becomes the file's. */
    if (fchmod(fd, 0600) < 0)
        return -errno;
    if (!bind(fd, a, sizeof(*addr)))
        return 0;
    if (errno != EADDRINUSE || !is_left_over(addr))
        return -errno;
    unlink(addr->sun_path);
    return bind(fd, a, sizeof(*addr)) < 0 ? -errno : 0;
}

int listen_unix(const char *path, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd, code;

    if (!path[0] || strlen(path) >= sizeof(addr.sun_path)) {
        err_set(err, -ENAMETOOLONG, "a socket's path has 1 to %zu characters: '%.200s'",
                sizeof(addr.sun_path) - 1, path);
        return err_next(err, "Give a shorter one, such as one relative to the current folder.");
    }
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(err, -errno, "cannot make a socket: %s", strerror(errno));
    code = bind_to(fd, &addr);
    if (!code && listen(fd, 4) < 0)
        code = -errno;
    if (!code)
        return fd;
    close(fd);
    err_set(err, code, "cannot listen at %s: %s", path, strerror(-code));
    if (code == -EADDRINUSE)
        return err_next(err,
                        "Another program listens there, or it is a file: choose another path.");
    return code;
}
