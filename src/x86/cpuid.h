/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CPUID policy: what every engine shows its guests. */
#ifndef LODGE_X86_CPUID_H
#define LODGE_X86_CPUID_H

#include "core/vcpu.h"
#include "core/vm.h"
#include "x86/state.h"

#define CPUID_XCR0_MASK 0x7ull /* x87, SSE, AVX: what lives in the host's registers */
#define XCR0_PKRU       (1u << 9)
#define XSAVE_PKRU      832u /* where it is in an area in standard format */

/* CPUID.1:EAX and EDX after RESET: family 6, model 0x36, stepping 1 (cpuid.c says why). */
#define CPUID_SIGNATURE 0x00030661u

/* Can this host's processor give the model? */
int cpuid_check_model(enum cpu_model model, struct err *err);

/* Answer CPUID for this vCPU in its present state (OSXSAVE, XCR0 sizes). out: EAX EBX ECX EDX. */
void cpuid_get(const struct vcpu *vcpu, const struct x86_state *st, uint32_t leaf, uint32_t subleaf,
               uint32_t out[4]);

#endif
