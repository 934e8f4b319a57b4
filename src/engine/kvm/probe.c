/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/kvm/probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/kvm/host.h"

/*
 * A loaded host may take the processor away for longer than the first. The
 * last is for processors that are emulated themselves; only a guest that hangs
 * comes to cost that much.
 */
static const unsigned limits_ms[] = {20, 100, 1000};

static const char *const check_names[PROBE_CHECKS] = {
    [PROBE_ENTRY] = "guest: enters 64-bit mode",
    [PROBE_CS] = "guest: runs at privilege level 0",
    [PROBE_IF] = "guest: CLI and POPF change IF",
    [PROBE_INT3] = "guest: INT3 goes through the IDT",
    [PROBE_INTN] = "guest: INT n goes through the IDT",
    [PROBE_CX16] = "guest: CMPXCHG16B",
    [PROBE_FPU] = "guest: x87",
    [PROBE_SSE] = "guest: SSE2",
    [PROBE_SYSRET] = "guest: SYSRET to level 3",
    [PROBE_SYSCALL] = "guest: SYSCALL to level 0",
    [PROBE_LOOP] = "guest: a loop of 10000 turns",
};

/* Collects stages; with no room for them it stops at the first that fails. */
struct report {
    struct engine_stage *stages;
    unsigned max, count;
    struct err *err; /* the first failure */
    bool failed;
};

static bool report_done(const struct report *r)
{
    return r->failed && !r->stages;
}

static void report_add(struct report *r, const char *name, const struct err *why)
{
    if (r->stages && r->count < r->max) {
        struct engine_stage *s = &r->stages[r->count++];

        s->name = name;
        s->passed = !why;
        snprintf(s->why, sizeof(s->why), "%s", why ? why->what : "");
    }
    if (why && !r->failed) {
        r->failed = true;
        if (r->err)
            *r->err = *why;
    }
}

static void probe_guest(struct report *r, int dev)
{
    struct probe_outcome out = {0};
    struct err err = {0};
    int code = 0;

    for (unsigned i = 0; i < sizeof(limits_ms) / sizeof(limits_ms[0]); i++) {
        memset(&out, 0, sizeof(out));
        code = probe_guest_run(dev, limits_ms[i], &out, &err);
        if (code < 0 || !out.timed_out)
            break;
    }
    report_add(r, "a VM with one vCPU can be made", code < 0 ? &err : NULL);
    if (code < 0)
        return;
    for (unsigned i = 0; i < PROBE_CHECKS && i <= out.passed; i++) {
        if (i < out.passed) {
            report_add(r, check_names[i], NULL);
            continue;
        }
        err_set(&err, -ENOTSUP, "it does not run a stock kernel: %s (%s)", out.why,
                check_names[i] + strlen("guest: "));
        err_next(&err, "The software engine does: --engine soft.");
        report_add(r, check_names[i], &err);
    }
}

static void probe_run(struct report *r, bool guest)
{
    struct err err = {0};
    int dev = kvm_host_open(&err);

    report_add(r, "/dev/kvm opens", dev < 0 ? &err : NULL);
    if (dev >= 0 && !report_done(r)) {
        int code = kvm_host_check_caps(dev, &err);

        report_add(r, "KVM's interface has what is needed", code < 0 ? &err : NULL);
    }
    if (!report_done(r)) {
        int code = kvm_host_check_cpu(&err);

        report_add(r, "the processor shows VMX or SVM", code < 0 ? &err : NULL);
    }
    if (guest && dev >= 0 && !report_done(r))
        probe_guest(r, dev);
    if (dev >= 0)
        close(dev);
}

static int probe_first_failure(bool guest, struct err *err)
{
    struct err first = {0};
    struct report r = {.err = &first};

    probe_run(&r, guest);
    if (err)
        *err = first;
    return r.failed ? first.code : 0;
}

int kvm_probe(struct err *err)
{
    return probe_first_failure(true, err);
}

int kvm_check(struct err *err)
{
    return probe_first_failure(false, err);
}

unsigned kvm_probe_stages(struct engine_stage *stages, unsigned max)
{
    struct report r = {.stages = stages, .max = max};

    probe_run(&r, true);
    return r.count;
}
