/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What can be said about the host without asking for anything. */
#ifndef LODGE_CLI_HOST_H
#define LODGE_CLI_HOST_H

#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct host {
    char cpu[80];                            /* model name */
    char kernel[160];                        /* release and machine */
    unsigned cpus_online, cpus_usable;       /* usable: this process may run on them */
    uint64_t memory, memory_available, swap; /* bytes */
    bool vmx, svm;                           /* the CPU shows hardware virtualization */
    bool hypervisor;                         /* the host is itself a guest */
    char kvm[160];                           /* /dev/kvm in words */
    unsigned landlock;                       /* version of its interface, 0: none */
    bool seccomp;
    char shares[160]; /* how they are enforced (cli/shares.h), in words */
};

/* What can't be found out stays empty or zero. */
void host_read(struct host *host);

/* RAM and swap in bytes; 0 when the host does not tell. */
uint64_t host_memory_total(void);

/* Can a guest have so much memory here? -ENOMEM with the reason. */
int host_check_memory(uint64_t memory, struct err *err);

#endif
