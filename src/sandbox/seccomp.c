/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The filter (seccomp(2)) is generated here: calls that depend on their arguments first, since the kernel remembers the
 * others by number (Linux 5.11) and comes here for these alone. Threads have one filter: they share their memory, so
 * who has taken over one has the others, too.
 */
#include "sandbox/seccomp.h"

#include <asm/unistd.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define X32_BIT 0x40000000u
#define LAST_CALL                                                                                  \
    450u /* what is newer is unknown here, as if to an older kernel: libraries know how to do without */
#define MAX_INSNS 1024

/* Whatever their arguments. */
static const uint16_t plain[] = {
    /* memory */
    __NR_munmap,
    __NR_mremap,
    __NR_madvise,
    __NR_brk,
    __NR_msync,
    __NR_mincore,
    __NR_membarrier,
    __NR_memfd_create,
    /* files, which Landlock limits */
    __NR_read,
    __NR_write,
    __NR_readv,
    __NR_writev,
    __NR_pread64,
    __NR_pwrite64,
    __NR_preadv,
    __NR_pwritev,
    __NR_preadv2,
    __NR_pwritev2,
    __NR_open,
    __NR_openat,
    __NR_close,
    __NR_close_range,
    __NR_dup,
    __NR_dup2,
    __NR_dup3,
    __NR_fcntl,
    __NR_flock,
    __NR_fsync,
    __NR_fdatasync,
    __NR_sync_file_range,
    __NR_syncfs,
    __NR_lseek,
    __NR_ftruncate,
    __NR_fallocate,
    __NR_fadvise64,
    __NR_copy_file_range,
    __NR_sendfile,
    __NR_fstat,
    __NR_stat,
    __NR_lstat,
    __NR_newfstatat,
    __NR_statx,
    __NR_statfs,
    __NR_fstatfs,
    __NR_access,
    __NR_faccessat,
    __NR_faccessat2,
    __NR_readlink,
    __NR_readlinkat,
    __NR_getcwd,
    __NR_getdents64,
    __NR_mkdir,
    __NR_mkdirat,
    __NR_rmdir,
    __NR_rename,
    __NR_renameat,
    __NR_renameat2,
    __NR_link,
    __NR_linkat,
    __NR_unlink,
    __NR_unlinkat,
    __NR_fchmod,
    __NR_umask,
    /* waiting */
    __NR_poll,
    __NR_ppoll,
    __NR_select,
    __NR_pselect6,
    __NR_epoll_create1,
    __NR_epoll_ctl,
    __NR_epoll_wait,
    __NR_epoll_pwait,
    __NR_eventfd2,
    __NR_timerfd_create,
    __NR_timerfd_settime,
    __NR_pipe2,
    __NR_nanosleep,
    __NR_clock_nanosleep,
    __NR_restart_syscall,
    /* threads and signals of this process */
    __NR_futex,
    __NR_futex_waitv,
    __NR_exit,
    __NR_exit_group,
    __NR_set_robust_list,
    __NR_set_tid_address,
    __NR_rseq,
    __NR_sched_yield,
    __NR_sched_getaffinity,
    __NR_rt_sigprocmask,
    __NR_rt_sigreturn,
    __NR_rt_sigpending,
    __NR_rt_sigsuspend,
    __NR_rt_sigtimedwait,
    __NR_sigaltstack,
    __NR_arch_prctl,
    __NR_timer_create,
    __NR_timer_settime,
    __NR_timer_delete,
    /* what can be known */
    __NR_clock_gettime,
    __NR_clock_getres,
    __NR_gettimeofday,
    __NR_time,
    __NR_getpid,
    __NR_gettid,
    __NR_getuid,
    __NR_geteuid,
    __NR_getgid,
    __NR_getegid,
    __NR_getpgrp,
    __NR_getrusage,
    __NR_times,
    __NR_getrandom,
    __NR_uname,
    __NR_sysinfo,
    __NR_getcpu,
    /* sockets that there are; socket(2) is below */
    __NR_bind,
    __NR_listen,
    __NR_accept,
    __NR_accept4,
    __NR_connect,
    __NR_getsockname,
    __NR_getpeername,
    __NR_getsockopt,
    __NR_setsockopt,
    __NR_shutdown,
    __NR_sendto,
    __NR_recvfrom,
    __NR_sendmsg,
    __NR_recvmsg,
    __NR_sendmmsg,
    __NR_recvmmsg,
    /* rings that there are, whose operations block/uring.c limits */
    __NR_io_uring_enter,
#if SANDBOX_SANITIZED
    /* The leak checker's thread of its own, and reports. */
    __NR_clone,
    __NR_wait4,
    __NR_ptrace,
    __NR_process_vm_readv,
    __NR_getdents,
    __NR_tkill,
    __NR_pipe,
    __NR_prctl,
    __NR_prlimit64,
    __NR_getppid,
    __NR_mmap,
    __NR_mprotect,
#endif
};

/* Refused like something that this kernel lacks. */
static const struct {
    uint16_t nr;
    int error;
} refused[] = {
    {__NR_clone3, ENOSYS}, /* its flags are in memory; libraries go on with clone(2) */
    {__NR_io_uring_setup, EPERM},
    {__NR_io_uring_register, EPERM},
    {__NR_openat2, ENOSYS},
};

static const uint32_t ioctls[] = {
    TCGETS,   TCFLSH,   TCSETS,     TCSETSW,    TCSETSF,      TIOCGWINSZ, TIOCGPGRP,
    FIONREAD, FIONBIO,  BLKDISCARD, BLKZEROOUT, BLKGETSIZE64, BLKSSZGET,  BLKPBSZGET,
    BLKROGET, BLKIOMIN, BLKIOOPT,   FICLONE,    FICLONERANGE,
};

struct program {
    struct sock_filter insn[MAX_INSNS];
    unsigned n;
};

#define ARG_LOW(i)  (offsetof(struct seccomp_data, args) + 8 * (i))
#define ARG_HIGH(i) (ARG_LOW(i) + 4)

static void emit(struct program *p, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf)
{
    /* The lists above are far from filling it; a program that was cut off is refused by the kernel. */
    if (p->n < MAX_INSNS)
        p->insn[p->n++] = (struct sock_filter){code, jt, jf, k};
}

static void load(struct program *p, size_t offset)
{
    emit(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void ret(struct program *p, uint32_t what)
{
    emit(p, BPF_RET | BPF_K, what, 0, 0);
}

/* If what was loaded is `k`, return `what`. */
static void ret_if(struct program *p, uint32_t k, uint32_t what)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, k, 0, 1);
    ret(p, what);
}

/* If any of these bits is set, return `what`. */
static void ret_if_set(struct program *p, uint32_t bits, uint32_t what)
{
    emit(p, BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
    ret(p, what);
}

/* The instructions until end_of are for call `nr`; each of them ends with a return. The number is what is loaded. */
static unsigned begin_of(struct program *p, uint32_t nr)
{
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 0);
    return p->n;
}

static void end_of(struct program *p, unsigned begin)
{
    p->insn[begin - 1].jf = (uint8_t)(p->n - begin);
}

static const uint32_t ALLOW = SECCOMP_RET_ALLOW, DENY = SECCOMP_RET_ERRNO | EPERM;

static void ioctl_calls(struct program *p)
{
    unsigned at = begin_of(p, __NR_ioctl);

    load(p, ARG_LOW(1));
    for (unsigned i = 0; i < ARRAY_SIZE(ioctls); i++)
        ret_if(p, ioctls[i], ALLOW);
    emit(p, BPF_ALU | BPF_AND | BPF_K, 0xff00, 0, 0);
    ret_if(p, KVMIO << 8, ALLOW);
    ret(p, DENY);
    end_of(p, at);
}

/* No memory becomes executable that was not when the guest began. */
static void memory_calls(struct program *p)
{
    static const uint32_t calls[] = {__NR_mmap, __NR_mprotect};

    for (unsigned i = 0; i < ARRAY_SIZE(calls) && !SANDBOX_SANITIZED; i++) {
        unsigned at = begin_of(p, calls[i]);

        load(p, ARG_LOW(2));
        ret_if_set(p, PROT_EXEC, DENY);
        ret(p, ALLOW);
        end_of(p, at);
    }
}

static void socket_calls(struct program *p, const struct sandbox_needs *needs)
{
    unsigned at = begin_of(p, __NR_socket);

    load(p, ARG_LOW(0));
    if (needs->inet) {
        ret_if(p, AF_INET, ALLOW);
        ret_if(p, AF_INET6, ALLOW);
    }
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0);
    ret(p, DENY);
    load(p, ARG_LOW(1));
    emit(p, BPF_ALU | BPF_AND | BPF_K, 0xf, 0, 0);
    if (needs->unix_stream)
        ret_if(p, SOCK_STREAM, ALLOW);
    if (needs->unix_dgram)
        ret_if(p, SOCK_DGRAM, ALLOW);
    ret(p, DENY);
    end_of(p, at);
}

/* Threads, signals and names of this process; limits are read only. */
static void process_calls(struct program *p)
{
    unsigned at;

    at = begin_of(p, __NR_clone);
    load(p, ARG_LOW(0));
    ret_if_set(p, CLONE_THREAD, ALLOW);
    ret(p, DENY);
    end_of(p, at);

    for (unsigned i = 0; i < 2; i++) {
        at = begin_of(p, i ? __NR_kill : __NR_tgkill);
        load(p, ARG_LOW(0));
        ret_if(p, (uint32_t)getpid(), ALLOW);
        ret(p, DENY);
        end_of(p, at);
    }

    at = begin_of(p, __NR_setpriority);
    load(p, ARG_LOW(0));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, PRIO_PROCESS, 1, 0);
    ret(p, DENY);
    load(p, ARG_LOW(1));
    ret_if(p, 0, ALLOW); /* the calling thread */
    ret(p, DENY);
    end_of(p, at);

    at = begin_of(p, __NR_prctl);
    load(p, ARG_LOW(0));
    ret_if(p, PR_SET_NAME, ALLOW);
    ret(p, DENY);
    end_of(p, at);

    at = begin_of(p, __NR_prlimit64);
    load(p, ARG_LOW(2));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
    ret(p, DENY);
    load(p, ARG_HIGH(2));
    ret_if(p, 0, ALLOW);
    ret(p, DENY);
    end_of(p, at);

    /* The handler that names a refused call stays. */
    at = begin_of(p, __NR_rt_sigaction);
    load(p, ARG_LOW(0));
    ret_if(p, SIGSYS, DENY);
    ret(p, ALLOW);
    end_of(p, at);
}

static void build(struct program *p, const struct sandbox_needs *needs)
{
    p->n = 0;
    load(p, offsetof(struct seccomp_data, arch));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
    ret(p, SECCOMP_RET_KILL_PROCESS);
    load(p, offsetof(struct seccomp_data, nr));
    emit(p, BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1);
    ret(p, SECCOMP_RET_KILL_PROCESS);
    if (SANDBOX_SANITIZED)
        for (unsigned i = 0; i < ARRAY_SIZE(plain); i++)
            ret_if(p, plain[i], ALLOW);
    ioctl_calls(p);
    memory_calls(p);
    socket_calls(p, needs);
    process_calls(p);
    for (unsigned i = 0; i < ARRAY_SIZE(plain) && !SANDBOX_SANITIZED; i++)
        ret_if(p, plain[i], ALLOW);
    for (unsigned i = 0; i < ARRAY_SIZE(refused); i++)
        ret_if(p, refused[i].nr, SECCOMP_RET_ERRNO | (uint32_t)refused[i].error);
    emit(p, BPF_JMP | BPF_JGT | BPF_K, LAST_CALL, 0, 1);
    ret(p, SECCOMP_RET_ERRNO | ENOSYS);
    ret(p, SECCOMP_RET_TRAP);
}

/* What a signal handler has to go on: who had the signal before, such as the one that restores the terminal. */
static void (*refused_before)(int);

static void on_refused(int sig, siginfo_t *info, void *context)
{
    char text[160];
    int n;

    n = snprintf(text, sizeof(text),
                 "lodge: the system call %s (%d) is none that a guest's process makes: ending it\n",
                 seccomp_name((unsigned)info->si_syscall), info->si_syscall);
    if (refused_before)
        refused_before(sig); /* raises it again, which does not come through here */
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0)
        n = 0; /* it ends all the same */
    /* Not _exit, before which address sanitizers look into /proc. */
    for (;;)
        syscall(__NR_exit_group, SECCOMP_STATUS);
}

int seccomp_enter(const struct sandbox_needs *needs)
{
    struct sigaction sa = {.sa_sigaction = on_refused, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    struct sigaction old;
    struct program p;
    struct sock_fprog prog = {.filter = p.insn};
    sigset_t set;
    long r;

    sigaction(SIGSYS, &sa, &old);
    if (!(old.sa_flags & SA_SIGINFO) && old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN)
        refused_before = old.sa_handler;
    /* Where it is blocked the kernel ends the process without a word. */
    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    build(&p, needs);
    prog.len = (unsigned short)p.n;
    r = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &prog);
    if (r > 0)
        return -EBUSY; /* a thread with a filter of its own */
    return r < 0 ? -errno : 0;
}

bool seccomp_allows(unsigned nr)
{
    static const uint16_t others[] = {
        __NR_ioctl,  __NR_mmap,  __NR_mprotect,  __NR_socket,      __NR_clone,       __NR_kill,
        __NR_tgkill, __NR_prctl, __NR_prlimit64, __NR_setpriority, __NR_rt_sigaction};

    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++)
        if (plain[i] == nr)
            return true;
    for (unsigned i = 0; i < ARRAY_SIZE(others); i++)
        if (others[i] == nr)
            return true;
    return false;
}
