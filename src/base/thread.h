/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every thread but the main one does at its birth. */
#ifndef LODGE_BASE_THREAD_H
#define LODGE_BASE_THREAD_H

#include <pthread.h>
#include <signal.h>

/*
 * The signals that helper threads block: all but SIGSYS, which a refused system call causes and whose handler says which
 * one it was (sandbox/seccomp.c).
 */
static inline void thread_signals(sigset_t *set)
{
    sigfillset(set);
    sigdelset(set, SIGSYS);
}

/* Name the calling thread. The name of another is a file in /proc, out of a confined process's reach. */
static inline void thread_name(const char *name)
{
    pthread_setname_np(pthread_self(), name);
}

#endif
