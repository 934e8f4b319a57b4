/* SPDX-License-Identifier: GPL-2.0-or-later */
/* /dev/kvm: opening it, what it must be able to do, and the signal that takes a thread out of guest code. */
#ifndef LODGE_ENGINE_KVM_HOST_H
#define LODGE_ENGINE_KVM_HOST_H

#include "base/err.h"

struct kvm_cpuid2;

/* Descriptor of /dev/kvm, or a negative errno with the reason in a user's words. */
int kvm_host_open(struct err *err);

/* Does the processor show VMX or SVM? Without, KVM is not hardware at work. */
int kvm_host_check_cpu(struct err *err);

/* API version and the extensions the engine cannot do without. */
int kvm_host_check_caps(int dev, struct err *err);

/* What KVM supports, to be freed; NULL when it does not tell. */
struct kvm_cpuid2 *kvm_host_cpuid(int dev);

/* The signal of kvm_kick_init. */
#define KVM_KICK_SIGNAL SIGRTMIN

/*
 * Install a handler that does nothing for KVM_KICK_SIGNAL (once a process) and let the signal reach the
 * calling thread, so that it ends KVM_RUN there.
 */
void kvm_kick_init(void);

#endif
