/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sandbox/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/landlock.h, of which the headers of older distributions know the first version only. */
#define CREATE_RULESET 444
#define ADD_RULE       445
#define RESTRICT_SELF  446
#define CREATE_VERSION 1u
#define RULE_PATH      1
#define FS_EXECUTE     (1ull << 0)
#define FS_WRITE_FILE  (1ull << 1)
#define FS_READ_FILE   (1ull << 2)
#define FS_READ_DIR    (1ull << 3)
#define FS_REMOVE_DIR  (1ull << 4)
#define FS_REMOVE_FILE (1ull << 5)
#define FS_MAKE_DIR    (1ull << 7)
#define FS_MAKE_REG    (1ull << 8)
#define FS_MAKE_SOCK   (1ull << 9)
#define FS_VERSION_1   ((1ull << 13) - 1)
#define FS_REFER       (1ull << 13) /* version 2 */
#define FS_TRUNCATE    (1ull << 14) /* version 3 */
#define FS_IOCTL_DEV   (1ull << 15) /* version 5 */
#define NET_TCP        3ull         /* bind and connect, version 4 */
#define SCOPE_ALL      3ull         /* abstract UNIX sockets and signals, version 6 */
#define FS_OF_ONE_FILE (FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)

struct ruleset_attr {
    uint64_t fs, net, scoped;
};

struct path_attr {
    uint64_t allowed;
    int32_t parent;
} __attribute__((packed));

static const struct {
    enum sandbox_right right;
    uint64_t fs;
} rights_table[] = {
    {SANDBOX_READ, FS_READ_FILE},   {SANDBOX_WRITE, FS_WRITE_FILE | FS_TRUNCATE},
    {SANDBOX_DEVICE, FS_IOCTL_DEV}, {SANDBOX_LIST, FS_READ_DIR},
    {SANDBOX_MAKE, FS_MAKE_REG},    {SANDBOX_REMOVE, FS_REMOVE_FILE},
    {SANDBOX_SOCKET, FS_MAKE_SOCK}, {SANDBOX_MKDIR, FS_MAKE_DIR | FS_REFER},
    {SANDBOX_RMDIR, FS_REMOVE_DIR},
};

unsigned landlock_version(void)
{
    long version = syscall(CREATE_RULESET, NULL, 0, CREATE_VERSION);

    return version > 0 ? (unsigned)version : 0;
}

/* The rights that a version can take away. */
static uint64_t handled_fs(unsigned version)
{
    return FS_VERSION_1 | (version >= 2 ? FS_REFER : 0) | (version >= 3 ? FS_TRUNCATE : 0) |
           (version >= 5 ? FS_IOCTL_DEV : 0);
}

int landlock_new(unsigned version, bool inet)
{
    const struct ruleset_attr attr = {
        .fs = handled_fs(version),
        .net = version >= 4 && !inet ? NET_TCP : 0,
        .scoped = version >= 6 ? SCOPE_ALL : 0,
    };
    /* A kernel takes a shorter structure, not one with members that it does not know. */
    size_t size = version >= 6 ? sizeof(attr) : version >= 4 ? 16 : 8;
    long fd = syscall(CREATE_RULESET, &attr, size, 0);

    return fd < 0 ? -errno : (int)fd;
}

int landlock_allow(int ruleset, unsigned version, const char *path, unsigned rights)
{
    struct path_attr attr = {0};
    struct stat st;
    int code = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(rights_table); i++)
        if (rights & rights_table[i].right)
            attr.allowed |= rights_table[i].fs;
    attr.allowed &= handled_fs(version);
    attr.parent = open(path, O_PATH | O_CLOEXEC);
    if (attr.parent < 0)
        return -errno;
    if (fstat(attr.parent, &st) < 0)
        code = -errno;
    else if (!S_ISDIR(st.st_mode))
        attr.allowed &= FS_OF_ONE_FILE;
    if (!code && attr.allowed && syscall(ADD_RULE, ruleset, RULE_PATH, &attr, 0) < 0)
        code = -errno;
    close(attr.parent);
    /* What has no place in the file system, such as a pipe, is not looked at either. */
    return code == -EBADFD ? 0 : code;
}

int landlock_enter(int ruleset)
{
    return syscall(RESTRICT_SELF, ruleset, 0) < 0 ? -errno : 0;
}
