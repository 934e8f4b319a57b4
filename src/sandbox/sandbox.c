/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sandbox/sandbox.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/landlock.h"
#include "sandbox/seccomp.h"

#define LAST_CAP 63

unsigned sandbox_landlock_version(void)
{
    return landlock_version();
}

bool sandbox_has_seccomp(void)
{
    uint32_t action = SECCOMP_RET_TRAP;

    return !syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
}

void sandbox_init(struct sandbox *s, const struct sandbox_needs *needs)
{
    *s = (struct sandbox){.ruleset = -1, .needs = *needs, .landlock = landlock_version()};
    if (s->landlock)
        s->ruleset = landlock_new(s->landlock, needs->inet);
}

void sandbox_fini(struct sandbox *s)
{
    if (s->ruleset >= 0)
        close(s->ruleset);
    s->ruleset = -1;
}

int sandbox_allow(struct sandbox *s, const char *path, unsigned rights, struct err *err)
{
    int r = s->ruleset < 0 ? 0 : landlock_allow(s->ruleset, s->landlock, path, rights);

    /* Who needs it will say what is wrong with it. */
    if (!r || r == -ENOENT || r == -EACCES || r == -ENOTDIR || r == -ELOOP || r == -ENAMETOOLONG)
        return 0;
    return err_set(err, r, "cannot confine the guest's process to %s: %s", path, strerror(-r));
}

/* ---- Capabilities ------------------------------------------------------------------ */

static uint64_t caps_needed(const struct sandbox_needs *needs)
{
    uint64_t caps = 1ull << CAP_DAC_OVERRIDE; /* root may be given images that are another user's */

    if (needs->inet)
        caps |= 1ull << CAP_NET_BIND_SERVICE | 1ull << CAP_NET_RAW;
    if (needs->net_admin)
        caps |= 1ull << CAP_NET_ADMIN;
    return caps;
}

/* Keep those of the caller's that are in `keep`. */
static int caps_limit(uint64_t keep)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    for (unsigned long cap = 0; cap <= LAST_CAP; cap++)
        if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) > 0)
            prctl(PR_CAPBSET_DROP, cap, 0, 0,
                  0); /* not without CAP_SETPCAP, but then no_new_privs does it */
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capget, &head, data) < 0)
        return -errno;
    for (unsigned i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(keep >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* ---- The two steps ------------------------------------------------------------------- */

static int fail(struct err *err, int code, const char *what)
{
    err_set(err, code, "cannot confine the guest's process: %s: %s", what, strerror(-code));
    return err_next(err,
                    "--sandbox off starts the guest without; lodge doctor tells what there is.");
}

/* A namespace for the network where the guest's cards need none of the host's. Root alone gets them without further ado. */
static bool leave_namespaces(const struct sandbox_needs *needs)
{
    int flags = CLONE_NEWIPC | CLONE_NEWUTS;

    if (!needs->inet && !needs->net_admin)
        flags |= CLONE_NEWNET;
    return !unshare(flags);
}

int sandbox_enter(struct sandbox *s, struct err *err)
{
    int r;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return fail(err, -errno, "no_new_privs");
    s->layers |= SANDBOX_NO_NEW_PRIVS;
    if (leave_namespaces(&s->needs))
        s->layers |= SANDBOX_NAMESPACES;
    r = caps_limit(caps_needed(&s->needs));
    if (r)
        return fail(err, r, "capabilities");
    s->layers |= SANDBOX_CAPABILITIES;
    if (!s->needs.debug && !SANDBOX_SANITIZED && !prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        s->layers |= SANDBOX_UNDUMPABLE;
    if (s->ruleset < 0)
        return 0;
    r = landlock_enter(s->ruleset);
    if (r)
        return fail(err, r, "Landlock");
    s->layers |= SANDBOX_LANDLOCK;
    sandbox_fini(s);
    return 0;
}

int sandbox_seal(struct sandbox *s, struct err *err)
{
    int r = seccomp_enter(&s->needs);

    if (r == -ENOSYS || r == -EINVAL)
        return 0; /* a kernel without */
    if (r)
        return fail(err, r, "seccomp");
    s->layers |= SANDBOX_SECCOMP;
    return 0;
}

const char *sandbox_text(const struct sandbox *s, char buf[SANDBOX_TEXT])
{
    static const struct {
        enum sandbox_layer layer;
        const char *name;
    } names[] = {
        {SANDBOX_SECCOMP, "seccomp"},           {SANDBOX_LANDLOCK, "landlock"},
        {SANDBOX_NAMESPACES, "namespaces"},     {SANDBOX_CAPABILITIES, "capabilities"},
        {SANDBOX_NO_NEW_PRIVS, "no_new_privs"}, {SANDBOX_UNDUMPABLE, "undumpable"},
    };
    size_t at = 0;

    snprintf(buf, SANDBOX_TEXT, "none");
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (s->layers & names[i].layer)
            at +=
                (size_t)snprintf(buf + at, SANDBOX_TEXT - at, "%s%s", at ? " " : "", names[i].name);
    return buf;
}
