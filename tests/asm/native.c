/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host CPU's side. A sequence is entered by returning from a signal
 * handler into a made-up context and left through the signal that its end, an
 * exception, raises; the signal frame then holds the whole state, vectors
 * included. System calls are kept out by syscall user dispatch.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "difftest.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON           1
#endif
#define SYSCALLS_ALLOWED 0
#define SYSCALLS_BLOCKED 1

#define STACK_SIZE  65536
#define ALARM_US    2000
#define ALARM_TICKS 3
#define RUNS_MAX    4

#define HOST_CS64 0x33
#define HOST_CS32 0x23
#define HOST_DS   0x2b

/* The kernel's view of struct sigaction, for the restorer is our own. */
struct kernel_sigaction {
    void (*handler)(int, siginfo_t *, void *);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};
#define SA_RESTORER_FLAG 0x04000000

static const int caught[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGALRM};

static struct {
    const struct dt_case *k;
    struct dt_result *res;
    volatile sig_atomic_t running; /* the sequence is */
    unsigned ticks;
    greg_t host[NGREG];
    uint8_t *code_rw, *stack;
    uint8_t *rw[DT_RW_PAGES];
    unsigned code_off, code_len; /* what the code pages hold besides filler */
    struct sigaction engine[ARRAY_SIZE(caught)];
    void (*on_alarm)(void);
    bool (*on_trap)(void *context);
} nat;

uint64_t dt_host_fs;
volatile uint8_t dt_syscalls = SYSCALLS_ALLOWED;

/* asm below */
void dt_native_cross(void);
void dt_signal_entry(int sig, siginfo_t *info, void *uc);
void dt_restorer(void);
extern const uint8_t dt_native_trap[], dt_restorer_end[];
uint64_t dt_native_signal(int sig, siginfo_t *info, void *context, uint64_t fs);

__asm__(
    ".pushsection .text\n"
    /* Raises the signal whose handler enters the sequence; comes back behind it. */
    ".globl dt_native_cross, dt_native_trap\n"
    "dt_native_cross:\n"
    "dt_native_trap: ud2\n"
    "ret\n"
    /* FS and EFLAGS.AC are the sequence's: bring the host's back before any C code runs. */
    ".globl dt_signal_entry\n"
    "dt_signal_entry:\n"
    "pushq %rbx\n"
    "pushfq\n"
    "andl $~0x244000, (%rsp)\n" /* NT and ID too: the kernel lets a return from here keep them */
    "popfq\n"
    "rdfsbase %rcx\n"
    "movq dt_host_fs(%rip), %rax\n"
    "wrfsbase %rax\n"
    "call dt_native_signal\n"
    "wrfsbase %rax\n"
    "popq %rbx\n"
    "ret\n"
    ".globl dt_restorer, dt_restorer_end\n"
    "dt_restorer:\n"
    "movl $15, %eax\n" /* rt_sigreturn */
    "syscall\n"
    "dt_restorer_end: hlt\n"
    ".popsection\n");

#define FX_HEADER 512
#define FX_YMMH   576

static uint64_t *xstate_bv(uint8_t *fp)
{
    return (uint64_t *)(void *)(fp + FX_HEADER);
}

static void fp_set(uint8_t *fp, const struct dt_regs *r)
{
    memcpy(fp, &r->fcw, 2);
    memcpy(fp + 2, &r->fsw, 2);
    fp[4] = r->ftw;
    memset(fp + 5, 0, 19);
    memcpy(fp + 24, &r->mxcsr, 4);
    memcpy(fp + 32, r->st, sizeof(r->st));
    memcpy(fp + 160, r->xmm, sizeof(r->xmm));
    memcpy(fp + FX_YMMH, r->ymmh, sizeof(r->ymmh));
    *xstate_bv(fp) |= 7;
}

static void fp_get(uint8_t *fp, struct dt_regs *r)
{
    uint64_t bv = *xstate_bv(fp);

    memset(&r->fcw, 0, sizeof(*r) - offsetof(struct dt_regs, fcw));
    r->fcw = 0x37f;
    memcpy(&r->mxcsr, fp + 24, 4);
    if (bv & 1) {
        memcpy(&r->fcw, fp, 2);
        memcpy(&r->fsw, fp + 2, 2);
        r->ftw = fp[4];
        memcpy(r->st, fp + 32, sizeof(r->st));
    }
    if (bv & 2)
        memcpy(r->xmm, fp + 160, sizeof(r->xmm));
    if (bv & 4)
        memcpy(r->ymmh, fp + FX_YMMH, sizeof(r->ymmh));
}

static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};

static uint64_t rd_gs(void)
{
    uint64_t v;

    __asm__ volatile("rdgsbase %0" : "=r"(v));
    return v;
}

static void wr_gs(uint64_t v)
{
    __asm__ volatile("wrgsbase %0" : : "r"(v));
}

/* Make the context that of the sequence's start; returns its FS base. */
static uint64_t enter(ucontext_t *uc)
{
    const struct dt_regs *r = &nat.k->init;
    greg_t *g = uc->uc_mcontext.gregs;

    memcpy(nat.host, g, sizeof(nat.host));
    for (unsigned i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)r->gpr[i];
    g[REG_RIP] = (greg_t)r->rip;
    g[REG_EFL] = (greg_t)r->rflags;
    g[REG_CSGSFS] = (greg_t)((uint64_t)HOST_DS << 48 | (nat.k->mode32 ? HOST_CS32 : HOST_CS64));
    fp_set((uint8_t *)uc->uc_mcontext.fpregs, r);
    wr_gs(r->gs_base);
    nat.ticks = 0;
    nat.running = 1;
    dt_syscalls = SYSCALLS_BLOCKED;
    return r->fs_base;
}

/* Take the state out and make the context the host's again. */
static void leave(ucontext_t *uc, int sig, uint64_t fs)
{
    static const struct dt_regs clean = {.fcw = 0x37f, .mxcsr = 0x1f80};
    struct dt_result *res = nat.res;
    greg_t *g = uc->uc_mcontext.gregs;

    nat.running = 0;
    for (unsigned i = 0; i < 16; i++)
        res->regs.gpr[i] = (uint64_t)g[greg_of[i]];
    res->regs.rip = (uint64_t)g[REG_RIP];
    res->regs.rflags = (uint64_t)g[REG_EFL];
    res->regs.fs_base = fs;
    res->regs.gs_base = rd_gs();
    fp_get((uint8_t *)uc->uc_mcontext.fpregs, &res->regs);
    res->end = sig == SIGALRM  ? DT_END_TIMEOUT
               : sig == SIGSYS ? DT_END_SYSCALL
                               : (uint32_t)g[REG_TRAPNO];
    res->error = (uint32_t)g[REG_ERR];
    res->cr2 = (uint64_t)g[REG_CR2];
    memcpy(g, nat.host, sizeof(nat.host));
    g[REG_RIP] += 2;
    fp_set((uint8_t *)uc->uc_mcontext.fpregs, &clean);
}

static void die(int sig)
{
    char text[128];
    int n =
        snprintf(text, sizeof(text), "difftest: signal %d in the engine or the test itself\n", sig);

    if (write(2, text, (size_t)n) != n)
        _exit(3);
    if (nat.k)
        dt_print_case(nat.k);
    fflush(stdout);
    _exit(3);
}

/* The engine gives a signal that is not its own back to who had it before: nobody. */
static void to_engine(int sig, siginfo_t *info, ucontext_t *uc)
{
    struct sigaction now;

    for (unsigned i = 0; i < ARRAY_SIZE(caught); i++)
        if (caught[i] == sig && nat.engine[i].sa_sigaction && (nat.engine[i].sa_flags & SA_SIGINFO))
            nat.engine[i].sa_sigaction(sig, info, uc);
    sigaction(sig, NULL, &now);
    if (now.sa_handler == SIG_DFL)
        die(sig);
}

/* Every signal, with the host's FS base; returns what FS base to go back with. */
uint64_t dt_native_signal(int sig, siginfo_t *info, void *context, uint64_t fs)
{
    ucontext_t *uc = context;

    dt_syscalls = SYSCALLS_ALLOWED;
    if (nat.running) {
        if (sig == SIGALRM && ++nat.ticks < ALARM_TICKS) {
            dt_syscalls = SYSCALLS_BLOCKED;
            return fs;
        }
        leave(uc, sig, fs);
        return dt_host_fs;
    }
    if (sig == SIGILL && uc->uc_mcontext.gregs[REG_RIP] == (greg_t)dt_native_trap)
        return enter(uc);
    if (sig == SIGALRM) {
        if (nat.on_alarm)
            nat.on_alarm();
        return fs;
    }
    if (sig != SIGTRAP || !nat.on_trap || !nat.on_trap(uc))
        to_engine(sig, info, uc);
    return fs;
}

/* ---- Set-up --------------------------------------------------------------------- */

static void *map_at(uint64_t va, uint64_t size, int prot, int fd, off_t off)
{
    void *p = mmap((void *)va, size, prot,
                   (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_POPULATE |
                       (va ? MAP_FIXED_NOREPLACE : 0),
                   fd, off);

    if (p == MAP_FAILED || (va && p != (void *)va)) {
        perror("difftest: cannot map the test's window");
        return NULL;
    }
    return p;
}

static int map_window(void)
{
    int fd = memfd_create("difftest", MFD_CLOEXEC);
    unsigned rw = 0;

    if (fd < 0 || ftruncate(fd, DT_CODE_SIZE))
        return -1;
    nat.code_rw = map_at(0, DT_CODE_SIZE, PROT_READ | PROT_WRITE, fd, 0);
    if (!nat.code_rw)
        return -1;
    memset(nat.code_rw, DT_FILLER, DT_CODE_SIZE);
    if (!map_at(DT_CODE, DT_CODE_SIZE, PROT_READ | PROT_EXEC, fd, 0))
        return -1;
    close(fd);
    for (unsigned i = 0; i < DT_DATA_PAGES; i++) {
        uint8_t *p = map_at(DT_DATA + i * PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE, -1, 0);

        if (!p)
            return -1;
        memset(p, 0x5a, PAGE_SIZE);
        if (dt_pages[i] == DT_RW)
            nat.rw[rw++] = p;
        else if (mprotect(p, PAGE_SIZE, dt_pages[i] == DT_RO ? PROT_READ : PROT_NONE))
            return -1;
    }
    return 0;
}

static int install(void)
{
    struct kernel_sigaction sa = {.handler = dt_signal_entry,
                                  .flags = SA_SIGINFO | SA_ONSTACK | SA_RESTORER_FLAG,
                                  .restorer = dt_restorer};
    struct itimerval it = {{0, ALARM_US}, {0, ALARM_US}};

    sa.mask = 1ull << (SIGALRM - 1);
    for (unsigned i = 0; i < ARRAY_SIZE(caught); i++) {
        sigaction(caught[i], NULL, &nat.engine[i]);
        if (syscall(SYS_rt_sigaction, caught[i], &sa, NULL, 8))
            return -1;
    }
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, dt_restorer,
              (unsigned long)(dt_restorer_end - (const uint8_t *)(uintptr_t)dt_restorer) + 1,
              &dt_syscalls)) {
        perror("difftest: the kernel has no syscall user dispatch");
        return -1;
    }
    return setitimer(ITIMER_REAL, &it, NULL);
}

int dt_native_init(void)
{
    __asm__ volatile("rdfsbase %0" : "=r"(dt_host_fs));
    nat.stack = map_at(0, STACK_SIZE, PROT_READ | PROT_WRITE, -1, 0);
    if (!nat.stack || map_window())
        return -1;
    return install();
}

void dt_native_on_alarm(void (*fn)(void))
{
    nat.on_alarm = fn;
}

void dt_native_on_trap(bool (*fn)(void *context))
{
    nat.on_trap = fn;
}

static void run_once(const struct dt_case *k, struct dt_result *res)
{
    stack_t ss = {.ss_sp = nat.stack, .ss_size = STACK_SIZE};
    uint8_t code[DT_MAX_CODE];
    unsigned len = dt_code(k, code);
    uint64_t gs = rd_gs();

    memset(nat.code_rw + nat.code_off, DT_FILLER, nat.code_len);
    memcpy(nat.code_rw + k->code_off, code, len);
    nat.code_off = k->code_off;
    nat.code_len = len;
    for (unsigned i = 0; i < DT_RW_PAGES; i++)
        memcpy(nat.rw[i], k->mem + i * PAGE_SIZE, PAGE_SIZE);
    nat.k = k;
    nat.res = res;
    if (k->smc && mprotect((void *)DT_CODE, DT_CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC))
        perror("difftest: mprotect");
    sigaltstack(&ss, NULL);
    __asm__ volatile("movl %0, %%ds\n\tmovl %0, %%es" : : "r"(k->mode32 ? HOST_DS : 0));
    dt_native_cross();
    __asm__ volatile("movl %0, %%ds\n\tmovl %0, %%es" : : "r"(0));
    wr_gs(gs);
    if (k->smc) {
        mprotect((void *)DT_CODE, DT_CODE_SIZE, PROT_READ | PROT_EXEC);
        memset(nat.code_rw, DT_FILLER, DT_CODE_SIZE);
    }
    for (unsigned i = 0; i < DT_RW_PAGES; i++)
        memcpy(res->mem + i * PAGE_SIZE, nat.rw[i], PAGE_SIZE);
}

/*
 * Linux does not bring NT and ID back when a handler returns (FIX_EFLAGS), so what the alarm came into, about one sequence in
 * ten million being long enough behind a POPF, is run again.
 */
void dt_native_run(const struct dt_case *k, struct dt_result *res)
{
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        run_once(k, res);
        if (!nat.ticks || res->end == DT_END_TIMEOUT)
            break;
    }
}
