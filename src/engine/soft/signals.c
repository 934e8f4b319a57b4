/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/*
 * Host faults in translated code: a divide error, a misaligned vector operand,
 * an FP exception. The handler turns them into an exit that makes the
 * interpreter execute the instruction, which then raises what the guest must
 * see. Faults elsewhere are not ours and take their default course.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/run.h"
#include "engine/soft/view.h"

#define ALT_STACK_SIZE 65536
#define PF_WRITE       2 /* of the page fault error code */

static _Thread_local struct soft_cpu *current;

static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static struct sigaction previous[NSIG];

/* Give the signal back to who had it before; it is taken again on return, with the state as it was. */
static void not_ours(int sig)
{
    sigaction(sig, &previous[sig], NULL);
}

/* 0 when the processor did not say: a non-canonical address, a misaligned operand. */
static uintptr_t fault_address(const siginfo_t *info)
{
    bool known = info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR;

    return known ? (uintptr_t)info->si_addr : 0;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    struct soft_cpu *c = current;
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *pc = (const uint8_t *)regs[REG_RIP];
    const struct recover *rec;
    const struct block *b;
    const struct cache *k;

    if (!c || !atomic_load(&c->in_code) || info->si_code <= 0) {
        not_ours(sig);
        return;
    }
    k = &c->svm->cache;
    if (pc < k->rx || pc >= k->rx + CACHE_SIZE) {
        not_ours(sig);
        return;
    }
    if (c->in_thunk) {
        c->fault_signal = sig;
        c->exit_arg = (uint32_t)EXIT_FAULT << EXIT_KIND_SHIFT;
        regs[REG_RIP] = (greg_t)k->glue.exit_mem;
        return;
    }
    b = cache_block_at(k, pc, &rec);
    if (!b) {
        not_ours(sig);
        return;
    }
    if (BLOCK_KIND(b->key) == BLOCK_DIRECT) {
        if (sig == SIGSEGV && view_fault(c, fault_address(info), regs[REG_ERR] & PF_WRITE))
            return;
        if (BLOCK_KNOWS_VA(b->key))
            c->page_va = b->va;
    }
    c->exit_arg = (uint32_t)EXIT_INTERP << EXIT_KIND_SHIFT | (rec->guest_off & EXIT_OFFSET);
    regs[REG_RIP] = (greg_t)(rec->flags_host ? k->glue.exit_host : k->glue.exit_mem);
}

static int install_error;

static void install(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    sigemptyset(&sa.sa_mask);
    for (unsigned i = 0; i < ARRAY_SIZE(caught); i++)
        if (sigaction(caught[i], &sa, &previous[caught[i]]))
            install_error = errno;
}

int signals_init(struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, install);
    if (install_error)
        return err_set(err, -install_error, "cannot catch processor exceptions: %s",
                       strerror(install_error));
    return 0;
}

int signals_enter(struct soft_cpu *c)
{
    stack_t ss = {.ss_size = ALT_STACK_SIZE};

    if (!c->alt_stack) {
        c->alt_stack =
            mmap(NULL, ALT_STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (c->alt_stack == MAP_FAILED) {
            c->alt_stack = NULL;
            return -ENOMEM;
        }
    }
    ss.ss_sp = c->alt_stack;
    if (sigaltstack(&ss, NULL) || syscall(SYS_arch_prctl, ARCH_SET_GS, c))
        return -errno;
    current = c;
    return 0;
}

void signals_leave(struct soft_cpu *c)
{
    stack_t ss = {.ss_flags = SS_DISABLE};

    (void)c;
    current = NULL;
    sigaltstack(&ss, NULL);
}

void signals_free(struct soft_cpu *c)
{
    if (c->alt_stack)
        munmap(c->alt_stack, ALT_STACK_SIZE);
    c->alt_stack = NULL;
}
