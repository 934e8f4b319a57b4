/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The probe's guest: 64 KiB of memory, one vCPU that starts in 64-bit mode.
 * It writes the number of each check it has passed to PORT_PASSED and that of
 * one that failed to PORT_FAILED.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "engine/kvm/host.h"
#include "engine/kvm/probe.h"

#define PORT_PASSED 0xf0
#define PORT_FAILED 0xf1

/* Where things are in the guest's memory. */
#define AT_PML4      0x1000
#define AT_PDPT      0x2000
#define AT_PD        0x3000
#define AT_GDT       0x4000
#define AT_IDT       0x5000
#define AT_TSS       0x6000
#define AT_STACK_TOP 0x7ff0
#define AT_CODE      0x8000
#define MEM_SIZE     0x10000

#define SEL_CODE 0x08
#define SEL_DATA 0x10
#define SEL_USER 0x18 /* SYSRET takes SS from here and CS from the next entry */
#define SEL_TSS  0x28

#define MSR_STAR   0xc0000081u
#define MSR_LSTAR  0xc0000082u
#define MSR_SFMASK 0xc0000084u

#define TSS_ADDR      0xfffbd000ull
#define IDENTITY_ADDR 0xfffbc000ull

/* clang-format off */
__asm__(
    ".pushsection .rodata\n"
    ".balign 16\n"
    "kvm_probe_code:\n"
    /* PROBE_ENTRY */
    "    mov $0, %al\n"
    "    out %al, $0xf0\n"
    /* PROBE_CS */
    "    mov $1, %r15d\n"
    "    mov %cs, %eax\n"
    "    test $3, %al\n"
    "    jnz 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_IF: nothing interrupts here */
    "    inc %r15d\n"
    "    cli\n"
    "    pushfq\n"
    "    pop %rax\n"
    "    test $0x200, %eax\n"
    "    jnz 9f\n"
    "    push $0x202\n"
    "    popfq\n"
    "    pushfq\n"
    "    pop %rax\n"
    "    cli\n"
    "    test $0x200, %eax\n"
    "    jz 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_INT3: handlers leave their vector in EBX */
    "    inc %r15d\n"
    "    xor %ebx, %ebx\n"
    "    int3\n"
    "    cmp $3, %ebx\n"
    "    jne 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_INTN */
    "    inc %r15d\n"
    "    xor %ebx, %ebx\n"
    "    int $0x40\n"
    "    cmp $0x40, %ebx\n"
    "    jne 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_CX16: at RDI, 16 bytes of zero */
    "    inc %r15d\n"
    "    xor %eax, %eax\n"
    "    xor %edx, %edx\n"
    "    mov $0x11, %ebx\n"
    "    mov $0x22, %ecx\n"
    "    lock cmpxchg16b (%rdi)\n"
    "    jnz 9f\n"
    "    cmpq $0x11, (%rdi)\n"
    "    jne 9f\n"
    "    cmpq $0x22, 8(%rdi)\n"
    "    jne 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_FPU: 1 + 1 */
    "    inc %r15d\n"
    "    fninit\n"
    "    fld1\n"
    "    fld1\n"
    "    faddp\n"
    "    fistpl (%rdi)\n"
    "    cmpl $2, (%rdi)\n"
    "    jne 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_SSE: 2 * 2 + 2 */
    "    inc %r15d\n"
    "    cvtsi2sdl (%rdi), %xmm1\n"
    "    movapd %xmm1, %xmm2\n"
    "    mulsd %xmm1, %xmm2\n"
    "    addsd %xmm1, %xmm2\n"
    "    cvttsd2si %xmm2, %eax\n"
    "    cmp $6, %eax\n"
    "    jne 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_SYSRET; what level 3 finds goes to R14 */
    "    inc %r15d\n"
    "    xor %r14d, %r14d\n"
    "    lea 1f(%rip), %rcx\n"
    "    mov $0x2, %r11d\n"
    "    sysretq\n"
    "1:  mov %cs, %r14d\n"
    "    and $3, %r14d\n"
    "    syscall\n"
    "    jmp 9f\n"
    ".balign 16\n"
    "kvm_probe_syscall:\n"
    "    cmp $3, %r14d\n"
    "    jne 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_SYSCALL */
    "    inc %r15d\n"
    "    mov %cs, %eax\n"
    "    test $3, %al\n"
    "    jnz 9f\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    /* PROBE_LOOP */
    "    inc %r15d\n"
    "    mov $10000, %ecx\n"
    "2:  dec %ecx\n"
    "    jnz 2b\n"
    "    mov %r15d, %eax\n"
    "    out %al, $0xf0\n"
    "9:  mov %r15d, %eax\n"
    "    out %al, $0xf1\n"
    "    jmp 9b\n"
    ".balign 16\n"
    "kvm_probe_int3:\n"
    "    mov $3, %ebx\n"
    "    iretq\n"
    ".balign 16\n"
    "kvm_probe_int40:\n"
    "    mov $0x40, %ebx\n"
    "    iretq\n"
    ".balign 16\n"
    "kvm_probe_other:\n"
    "    jmp 9b\n"
    "kvm_probe_end:\n"
    ".popsection\n"
);
/* clang-format on */

extern const char kvm_probe_code[], kvm_probe_syscall[], kvm_probe_int3[], kvm_probe_int40[],
    kvm_probe_other[], kvm_probe_end[];

struct guest {
    int vm, vcpu;
    uint8_t *mem;
    struct kvm_run *run;
    size_t run_size;
};

static uint64_t code_at(const char *label)
{
    return AT_CODE + (uint64_t)(label - kvm_probe_code);
}

static void put64(uint8_t *mem, unsigned at, uint64_t val)
{
    memcpy(mem + at, &val, sizeof(val));
}

/* 64-bit interrupt gate, level 0 */
static void put_gate(uint8_t *mem, unsigned vector, uint64_t to)
{
    put64(mem, AT_IDT + vector * 16,
          (to & 0xffff) | SEL_CODE << 16 | 0x8eull << 40 | (to & 0xffff0000) << 32);
    put64(mem, AT_IDT + vector * 16 + 8, to >> 32);
}

static void guest_fill(uint8_t *mem)
{
    /* All of it open to level 3. */
    put64(mem, AT_PML4, AT_PDPT | 7);
    put64(mem, AT_PDPT, AT_PD | 7);
    put64(mem, AT_PD, 0x87); /* 2 MiB at 0 */
    put64(mem, AT_GDT + SEL_CODE, 0x00af9b000000ffffull);
    put64(mem, AT_GDT + SEL_DATA, 0x00cf93000000ffffull);
    put64(mem, AT_GDT + SEL_USER, 0x00cff3000000ffffull);
    put64(mem, AT_GDT + SEL_USER + 8, 0x00affb000000ffffull);
    put64(mem, AT_GDT + SEL_TSS, 0x0000890000000067ull | (uint64_t)AT_TSS << 16);
    put64(mem, AT_TSS + 4, AT_STACK_TOP);
    for (unsigned v = 0; v < 256; v++)
        put_gate(mem, v, code_at(kvm_probe_other));
    put_gate(mem, 3, code_at(kvm_probe_int3));
    put_gate(mem, 0x40, code_at(kvm_probe_int40));
    memcpy(mem + AT_CODE, kvm_probe_code, (size_t)(kvm_probe_end - kvm_probe_code));
}

/* ---- Making the VM ------------------------------------------------------ */

static int guest_failed(struct err *err, const char *what)
{
    int code = -errno;

    return err_set(err, code, "KVM cannot %s: %s", what, strerror(-code));
}

static int guest_set_cpuid(struct guest *g, int dev, struct err *err)
{
    struct kvm_cpuid2 *c = kvm_host_cpuid(dev);
    int r = 0;

    if (!c)
        return err_set(err, -ENOTSUP, "KVM does not say what CPUID it supports");
    if (ioctl(g->vcpu, KVM_SET_CPUID2, c) < 0)
        r = guest_failed(err, "set CPUID");
    free(c);
    return r;
}

static int guest_set_registers(struct guest *g, struct err *err)
{
    struct kvm_segment code = {
        .limit = ~0u, .selector = SEL_CODE, .type = 0xb, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {
        .limit = ~0u, .selector = SEL_DATA, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    struct kvm_segment tss = {
        .base = AT_TSS, .limit = 0x67, .selector = SEL_TSS, .type = 0xb, .present = 1};
    struct kvm_segment none = {.unusable = 1};
    struct kvm_regs regs = {.rip = AT_CODE,
                            .rsp = AT_STACK_TOP,
                            .rflags = 2,
                            .rdi = AT_STACK_TOP - 0x800 - AT_STACK_TOP % 16};
    struct {
        uint32_t nmsrs, pad; /* struct kvm_msrs, which ends in a flexible array */
        struct kvm_msr_entry entry[3];
    } msrs = {.nmsrs = 3,
              .entry = {{.index = MSR_STAR,
                         .data = (uint64_t)(SEL_USER - 8) << 48 | (uint64_t)SEL_CODE << 32},
                        {.index = MSR_LSTAR, .data = code_at(kvm_probe_syscall)},
                        {.index = MSR_SFMASK, .data = 0x200}}};
    struct kvm_sregs s;

    if (ioctl(g->vcpu, KVM_GET_SREGS, &s) < 0)
        return guest_failed(err, "read registers");
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.tr = tss;
    s.ldt = none;
    s.gdt = (struct kvm_dtable){.base = AT_GDT, .limit = SEL_TSS + 15};
    s.idt = (struct kvm_dtable){.base = AT_IDT, .limit = 256 * 16 - 1};
    s.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
    s.cr3 = AT_PML4;
    s.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    s.efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA;
    if (ioctl(g->vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(g->vcpu, KVM_SET_REGS, &regs) < 0)
        return guest_failed(err, "set registers");
    if (ioctl(g->vcpu, KVM_SET_MSRS, &msrs) != 3)
        return guest_failed(err, "set the MSRs of SYSCALL");
    return 0;
}

static int guest_make(struct guest *g, int dev, struct err *err)
{
    struct kvm_userspace_memory_region slot = {.memory_size = MEM_SIZE};
    uint64_t identity = IDENTITY_ADDR;
    int size;

    g->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->mem == MAP_FAILED)
        return guest_failed(err, "have memory for a test guest");
    guest_fill(g->mem);
    g->vm = ioctl(dev, KVM_CREATE_VM, 0);
    if (g->vm < 0)
        return guest_failed(err, "make a virtual machine");
    slot.userspace_addr = (uintptr_t)g->mem;
    if (ioctl(g->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(g->vm, KVM_SET_TSS_ADDR, TSS_ADDR) < 0 ||
        ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
        return guest_failed(err, "lay out a guest's memory");
    g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, 0);
    if (g->vcpu < 0)
        return guest_failed(err, "make a virtual CPU");
    size = ioctl(dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run))
        return guest_failed(err, "share a virtual CPU's exits");
    g->run_size = (size_t)size;
    g->run = mmap(NULL, g->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    if (g->run == MAP_FAILED)
        return guest_failed(err, "share a virtual CPU's exits");
    size = ioctl(g->vcpu, KVM_GET_TSC_KHZ, 0);
    if (size > 0)
        clock_tell_tsc_khz((uint64_t)size); /* saves measuring it */
    size = guest_set_cpuid(g, dev, err);
    return size < 0 ? size : guest_set_registers(g, err);
}

static void guest_close(struct guest *g)
{
    if (g->run != MAP_FAILED)
        munmap(g->run, g->run_size);
    if (g->vcpu >= 0)
        close(g->vcpu);
    if (g->vm >= 0)
        close(g->vm);
    if (g->mem != MAP_FAILED)
        munmap(g->mem, MEM_SIZE);
}

static void *drop_thread(void *opaque)
{
    guest_close(opaque);
    free(opaque);
    return NULL;
}

/* The kernel takes tens of milliseconds to end a VM, for which nobody need wait. */
static void guest_drop(const struct guest *g)
{
    struct guest *copy = malloc(sizeof(*copy));
    pthread_t thread;
    sigset_t all, old;
    int rc = ENOMEM;

    if (copy) {
        *copy = *g;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        rc = pthread_create(&thread, NULL, drop_thread, copy);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    if (!rc) {
        pthread_detach(thread);
        return;
    }
    free(copy);
    guest_close(&(struct guest){g->vm, g->vcpu, g->mem, g->run, g->run_size});
}

/* ---- Running it --------------------------------------------------------- */

static void say(const struct guest *g, struct probe_outcome *out, const char *what)
{
    struct kvm_regs regs;
    char bytes[40] = "";
    uint64_t rip = 0;

    if (!ioctl(g->vcpu, KVM_GET_REGS, &regs))
        rip = regs.rip;
    for (unsigned i = 0; i < 8 && rip + i < MEM_SIZE; i++)
        snprintf(bytes + 3 * i, sizeof(bytes) - 3 * i, " %02x", g->mem[rip + i]);
    snprintf(out->why, sizeof(out->why), "%s at RIP 0x%" PRIx64 ", instruction bytes%s", what, rip,
             bytes[0] ? bytes : " unreadable");
}

/* After a return of KVM_RUN: true when the guest is to go on. */
static bool guest_exit(struct guest *g, struct probe_outcome *out)
{
    const struct kvm_run *run = g->run;
    char text[64];
    uint8_t n;

    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        n = *((const uint8_t *)run + run->io.data_offset);
        if (run->io.port == PORT_PASSED && run->io.direction == KVM_EXIT_IO_OUT &&
            n == out->passed) {
            out->passed++;
            return out->passed < PROBE_CHECKS;
        }
        say(g, out, "it came out differently than on a processor");
        return false;
    case KVM_EXIT_INTERNAL_ERROR:
        snprintf(text, sizeof(text), "KVM gave up (internal error %u)", run->internal.suberror);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(text, sizeof(text), "the processor refused to enter the guest (0x%llx)",
                 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        break;
    case KVM_EXIT_SHUTDOWN:
        snprintf(text, sizeof(text), "triple fault");
        break;
    default:
        snprintf(text, sizeof(text), "unexpected exit %u", run->exit_reason);
        break;
    }
    say(g, out, text);
    return false;
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/*
 * The timer signals this thread at the limit and again every 5 ms, so that it
 * does not matter if the first comes just before KVM_RUN.
 */
static int timer_start(timer_t *timer, unsigned limit_ms)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
    struct itimerspec when = {.it_value.tv_nsec = (long)limit_ms * 1000000,
                              .it_interval.tv_nsec = 5000000};

    ev._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    kvm_kick_init();
    if (timer_create(CLOCK_MONOTONIC, &ev, timer) < 0)
        return -errno;
    timer_settime(*timer, 0, &when, NULL);
    return 0;
}

static int guest_run(struct guest *g, unsigned limit_ms, struct probe_outcome *out, struct err *err)
{
    uint64_t end = now_ms() + limit_ms;
    timer_t timer;
    int code = timer_start(&timer, limit_ms);

    if (code < 0)
        return err_set(err, code, "cannot make a timer: %s", strerror(-code));
    for (;;) {
        if (!ioctl(g->vcpu, KVM_RUN, 0)) {
            if (!guest_exit(g, out))
                break;
        } else if (errno != EINTR && errno != EAGAIN) {
            char text[80];

            snprintf(text, sizeof(text), "KVM_RUN failed (%s)", strerror(errno));
            say(g, out, text);
            break;
        }
        if (now_ms() >= end) {
            char text[48];

            snprintf(text, sizeof(text), "it took more than %u ms", limit_ms);
            say(g, out, text);
            out->timed_out = true;
            break;
        }
    }
    timer_delete(timer);
    return 0;
}

int probe_guest_run(int dev, unsigned limit_ms, struct probe_outcome *out, struct err *err)
{
    struct guest g = {.vm = -1, .vcpu = -1, .mem = MAP_FAILED, .run = MAP_FAILED};
    int code = guest_make(&g, dev, err);

    if (!code)
        code = guest_run(&g, limit_ms, out, err);
    guest_drop(&g);
    return code;
}
