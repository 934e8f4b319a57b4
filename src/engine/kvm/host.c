/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/kvm/host.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/types.h"

#define DEV_KVM "/dev/kvm"

#define CPUID1_ECX_VMX  (1u << 5)
#define CPUID81_ECX_SVM (1u << 2)

/* Name the group that may use the device; root's does not count. */
static void next_for_access(struct err *err)
{
    struct stat st;
    struct group grp, *found = NULL;
    char buf[1024];

    if (stat(DEV_KVM, &st) < 0 || !st.st_gid || !(st.st_mode & S_IWGRP) ||
        getgrgid_r(st.st_gid, &grp, buf, sizeof(buf), &found) || !found) {
        err_next(err, "Have the administrator give a group access to " DEV_KVM
                      " (as root: chgrp kvm " DEV_KVM "; chmod 660 " DEV_KVM
                      ") and add you to that group.");
        return;
    }
    err_next(
        err,
        "Have yourself added to the group '%s' (as root: usermod -aG %s USER) and log in again.",
        found->gr_name, found->gr_name);
}

int kvm_host_open(struct err *err)
{
    int fd = open(DEV_KVM, O_RDWR | O_CLOEXEC);
    int code = -errno;

    if (fd >= 0)
        return fd;
    switch (code) {
    case -ENOENT:
    case -ENXIO:
    case -ENODEV:
        err_set(err, code, "there is no " DEV_KVM ": the kernel's KVM module is not loaded");
        err_next(err, "Load it (as root: modprobe kvm_intel, or kvm_amd); when that fails, switch "
                      "virtualization on in the firmware's set-up.");
        break;
    case -EACCES:
    case -EPERM:
        err_set(err, code, "you have no permission to use " DEV_KVM);
        next_for_access(err);
        break;
    default:
        err_set(err, code, "cannot open " DEV_KVM ": %s", strerror(-code));
        break;
    }
    return code;
}

int kvm_host_check_cpu(struct err *err)
{
    unsigned a, b, c, d;

    if ((__get_cpuid(1, &a, &b, &c, &d) && (c & CPUID1_ECX_VMX)) ||
        (__get_cpuid(0x80000001, &a, &b, &c, &d) && (c & CPUID81_ECX_SVM)))
        return 0;
    err_set(err, -ENOTSUP, "the processor shows neither VMX nor SVM");
    return err_next(err, "Switch virtualization on in the firmware's set-up; in a virtual machine, "
                         "have nested virtualization allowed for it.");
}

static const struct {
    int cap;
    const char *name;
} wanted[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},
    {KVM_CAP_IRQCHIP, "interrupt controllers"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_PIT2, "timer chip"},
    {KVM_CAP_PIT_STATE2, "timer chip state"},
    {KVM_CAP_EXT_CPUID, "CPUID"},
    {KVM_CAP_SET_TSS_ADDR, "TSS address"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "identity map address"},
    {KVM_CAP_MP_STATE, "state of CPUs"},
    {KVM_CAP_VCPU_EVENTS, "events of CPUs"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_XSAVE, "XSAVE state"},
    {KVM_CAP_XCRS, "XCR0"},
    {KVM_CAP_SIGNAL_MSI, "MSI"},
    {KVM_CAP_ADJUST_CLOCK, "clock"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
    {KVM_CAP_X86_USER_SPACE_MSR, "MSRs in user space"},
};

int kvm_host_check_caps(int dev, struct err *err)
{
    int version = ioctl(dev, KVM_GET_API_VERSION, 0);

    if (version != KVM_API_VERSION)
        return err_set(err, -ENOTSUP, DEV_KVM " speaks version %d of its interface, not %d",
                       version, KVM_API_VERSION);
    for (unsigned i = 0; i < ARRAY_SIZE(wanted); i++) {
        if (ioctl(dev, KVM_CHECK_EXTENSION, wanted[i].cap) > 0)
            continue;
        err_set(err, -ENOTSUP, "this kernel's KVM lacks an extension (%s, number %d)",
                wanted[i].name, wanted[i].cap);
        return err_next(err, "Use Linux 5.10 or later.");
    }
    return 0;
}

struct kvm_cpuid2 *kvm_host_cpuid(int dev)
{
    for (unsigned n = 128; n <= 1024; n *= 2) {
        struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + n * sizeof(c->entries[0]));

        if (!c)
            return NULL;
        c->nent = n;
        if (!ioctl(dev, KVM_GET_SUPPORTED_CPUID, c))
            return c;
        free(c);
        if (errno != E2BIG)
            return NULL;
    }
    return NULL;
}

/* ---- The signal --------------------------------------------------------- */

static pthread_once_t kick_once = PTHREAD_ONCE_INIT;

static void kick_ignore(int sig)
{
}

static void kick_install(void)
{
    /* KVM_RUN returns in any case; what a device waits in goes on. */
    struct sigaction sa = {.sa_handler = kick_ignore, .sa_flags = SA_RESTART};

    sigemptyset(&sa.sa_mask);
    sigaction(KVM_KICK_SIGNAL, &sa, NULL);
}

void kvm_kick_init(void)
{
    sigset_t set;

    pthread_once(&kick_once, kick_install);
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}
