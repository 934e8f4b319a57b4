/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest's process gives up (docs/threat-model.md), in two steps: sandbox_enter before there is a second thread and
 * before anything is opened for the guest, sandbox_seal once everything is set up. Neither can be undone. What this kernel
 * does not know or does not allow is left out, and sandbox_text says what there is.
 */
#ifndef LODGE_SANDBOX_SANDBOX_H
#define LODGE_SANDBOX_SANDBOX_H

#include "base/err.h"
#include "base/types.h"

/* In a build with a sanitizer, whose run-time library looks at its own process, the sandbox lets it. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANDBOX_SANITIZED 1
#else
#define SANDBOX_SANITIZED 0
#endif

/* What may be done with a file, or with all in a folder. */
enum sandbox_right {
    SANDBOX_READ = 1,
    SANDBOX_WRITE = 2,
    SANDBOX_DEVICE = 4,  /* ioctl, of a device */
    SANDBOX_LIST = 8,    /* read folders */
    SANDBOX_MAKE = 16,   /* files */
    SANDBOX_REMOVE = 32, /* files; with MAKE also rename them */
    SANDBOX_SOCKET = 64, /* bind to a path */
    SANDBOX_MKDIR = 128, /* folders, and move files between them */
    SANDBOX_RMDIR = 256, /* empty folders */
    SANDBOX_FILES = SANDBOX_READ | SANDBOX_WRITE | SANDBOX_LIST | SANDBOX_MAKE | SANDBOX_REMOVE,
};

/* What the guest's devices need beside files. */
struct sandbox_needs {
    bool inet;        /* sockets of the host's network */
    bool unix_stream; /* to connect to paths */
    bool unix_dgram;
    bool net_admin; /* to set up TAP devices */
    bool debug;     /* may be looked at by debuggers and perf of the same user */
};

enum sandbox_layer {
    SANDBOX_NO_NEW_PRIVS = 1,
    SANDBOX_CAPABILITIES = 2,
    SANDBOX_UNDUMPABLE = 4,
    SANDBOX_NAMESPACES = 8,
    SANDBOX_LANDLOCK = 16,
    SANDBOX_SECCOMP = 32,
};

struct sandbox {
    int ruleset;       /* -1: no Landlock here */
    unsigned landlock; /* version of its interface */
    unsigned layers;   /* in force */
    struct sandbox_needs needs;
};

#define SANDBOX_TEXT 160

void sandbox_init(struct sandbox *s, const struct sandbox_needs *needs);
void sandbox_fini(struct sandbox *s); /* what is in force stays so */

/* Before sandbox_enter: allow something with what is at `path` now, and below it. Nothing there: nothing is allowed. */
int sandbox_allow(struct sandbox *s, const char *path, unsigned rights, struct err *err);

/*
 * From here on the thread and those it starts see the files that were allowed, have the capabilities that are needed, and
 * can get no others. Fails when something works only in part; a kernel without Landlock is no failure.
 */
int sandbox_enter(struct sandbox *s, struct err *err);

/*
 * From here on all threads have the system calls that a running guest needs (seccomp.c has the list): no new program, no
 * executable memory, no sockets of other kinds. Another call ends the process with a message that names it.
 */
int sandbox_seal(struct sandbox *s, struct err *err);

/* The layers in force, in words; "none". */
const char *sandbox_text(const struct sandbox *s, char buf[SANDBOX_TEXT]);

/* What this kernel has: the version of Landlock (0: none), and seccomp filters. */
unsigned sandbox_landlock_version(void);
bool sandbox_has_seccomp(void);

#endif
