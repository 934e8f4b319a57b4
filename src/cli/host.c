/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/host.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/shares.h"
#include "cli/size.h"
#include "sandbox/sandbox.h"

uint64_t host_memory_total(void)
{
    struct sysinfo si;

    if (sysinfo(&si))
        return 0;
    return ((uint64_t)si.totalram + si.totalswap) * si.mem_unit;
}

static void read_memory(struct host *host)
{
    FILE *f = fopen("/proc/meminfo", "re");
    char line[128];
    unsigned long long kib;

    if (!f)
        return;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "MemTotal: %llu", &kib) == 1)
            host->memory = kib << 10;
        else if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            host->memory_available = kib << 10;
        else if (sscanf(line, "SwapTotal: %llu", &kib) == 1)
            host->swap = kib << 10;
    }
    fclose(f);
}

static void read_cpu(struct host *host)
{
    unsigned brand[12], a, b, c, d;
    cpu_set_t *set = CPU_ALLOC(4096);
    size_t size = CPU_ALLOC_SIZE(4096), lead;

    if (__get_cpuid(0x80000002, &brand[0], &brand[1], &brand[2], &brand[3]) &&
        __get_cpuid(0x80000003, &brand[4], &brand[5], &brand[6], &brand[7]) &&
        __get_cpuid(0x80000004, &brand[8], &brand[9], &brand[10], &brand[11])) {
        memcpy(host->cpu, brand, sizeof(brand));
        lead = strspn(host->cpu, " ");
        memmove(host->cpu, host->cpu + lead, sizeof(brand) + 1 - lead);
        for (size_t n = strlen(host->cpu); n && host->cpu[n - 1] == ' '; n--)
            host->cpu[n - 1] = '\0';
    }
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        host->vmx = c & (1u << 5);
        host->hypervisor = c & (1u << 31);
    }
    if (__get_cpuid(0x80000001, &a, &b, &c, &d))
        host->svm = c & (1u << 2);
    host->cpus_online = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    if (set && !sched_getaffinity(0, size, set))
        host->cpus_usable = (unsigned)CPU_COUNT_S(size, set);
    CPU_FREE(set);
}

static void read_kvm(struct host *host)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int version;

    if (fd < 0) {
        if (errno == ENOENT)
            snprintf(host->kvm, sizeof(host->kvm), "absent");
        else
            snprintf(host->kvm, sizeof(host->kvm), "present, but it can't be opened: %s",
                     strerror(errno));
        return;
    }
    version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        snprintf(host->kvm, sizeof(host->kvm), "opens, but does not answer: %s", strerror(errno));
    else
        snprintf(host->kvm, sizeof(host->kvm), "opens, API version %d", version);
    close(fd);
}

void host_read(struct host *host)
{
    struct utsname u;

    memset(host, 0, sizeof(*host));
    read_cpu(host);
    read_memory(host);
    read_kvm(host);
    if (!uname(&u))
        snprintf(host->kernel, sizeof(host->kernel), "%s %s", u.release, u.machine);
    host->landlock = sandbox_landlock_version();
    host->seccomp = sandbox_has_seccomp();
    shares_describe(host->shares, sizeof(host->shares));
}

int host_check_memory(uint64_t memory, struct err *err)
{
    uint64_t have = host_memory_total();
    char a[SIZE_TEXT], b[SIZE_TEXT];

    if (!have || memory <= have)
        return 0;
    err_set(err, -ENOMEM, "the guest is to have %s of memory, but this host has %s with its swap",
            size_format(memory, a), size_format(have, b));
    err_next(err, "Choose a smaller --memory.");
    return -ENOMEM;
}
