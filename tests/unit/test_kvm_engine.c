/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/ src/engine/kvm/ src/base/ src/x86/state.c src/x86/state_check.c src/x86/msr.c src/x86/pic.c
 *       src/x86/ioapic.c src/x86/lapic.c src/x86/lapic_regs.c src/x86/lapic_ipi.c
 *       src/x86/lapic_timer.c src/x86/pit.c src/x86/rtc.c src/x86/acpipm.c src/x86/cpuid.c src/dev/ src/block/ src/net/ */
/*
 * The KVM engine on a /dev/kvm of our own: what it says when the kernel, the processor or the user's rights do not
 * give what it needs, and when KVM gives up on a guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/engine.h"
#include "engine/kvm/host.h"
#include "x86/boot.h"

#define MEMORY   MIB(2)
#define RUN_SIZE 12288
#define CODE_AT  0x1234u

static struct {
    int open_errno;
    int lacking; /* a KVM_CAP_ */
    int max_vcpus;
    uint32_t hide_1_ecx; /* of the CPUID supported */
    unsigned fail_ioctl, fail_errno;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    void (*exit)(struct kvm_run *run);
    struct kvm_run *run;
    _Atomic unsigned runs;
} kvm;

/* ---- The kernel --------------------------------------------------------------- */

int open(const char *path, int flags, ...)
{
    va_list ap;
    mode_t mode;

    va_start(ap, flags);
    mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (strcmp(path, "/dev/kvm"))
        return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    errno = kvm.open_errno;
    return kvm.open_errno ? -1 : memfd_create("kvm", MFD_CLOEXEC);
}

/* The device is its group's. */
int stat(const char *restrict path, struct stat *restrict st)
{
    if (strcmp(path, "/dev/kvm"))
        return (int)syscall(SYS_newfstatat, AT_FDCWD, path, st, 0);
    *st = (struct stat){.st_mode = S_IFCHR | 0660, .st_gid = 7777};
    return 0;
}

int getgrgid_r(gid_t gid, struct group *grp, char *buf, size_t len, struct group **found)
{
    static char name[] = "virtuals";

    grp->gr_name = name;
    *found = gid == 7777 ? grp : NULL;
    return 0;
}

static void add_leaf(struct kvm_cpuid2 *c, uint32_t leaf)
{
    struct kvm_cpuid_entry2 *e = &c->entries[c->nent++];

    *e = (struct kvm_cpuid_entry2){.function = leaf, .ebx = ~0u, .ecx = ~0u, .edx = ~0u};
    e->eax = leaf & 0xfffffff ? ~0u : leaf + 8;
    if (leaf == 1)
        e->ecx &= ~kvm.hide_1_ecx;
}

static int make_vcpu(void)
{
    int fd = memfd_create("vcpu", MFD_CLOEXEC);

    assert_int_equal(ftruncate(fd, RUN_SIZE), 0);
    if (kvm.run)
        munmap(kvm.run, RUN_SIZE);
    kvm.run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return fd;
}

static int run(void)
{
    kvm.runs++;
    if (!kvm.run->immediate_exit && kvm.exit) {
        kvm.exit(kvm.run);
        return 0;
    }
    errno = EINTR;
    return -1;
}

static int device(unsigned long req, void *arg)
{
    static const uint32_t leaves[] = {0, 1, 7, 0xd, 0x80000000, 0x80000001, 0x80000008};

    switch (req) {
    case KVM_GET_API_VERSION:
        return KVM_API_VERSION;
    case KVM_CHECK_EXTENSION:
        if ((int)(uintptr_t)arg == KVM_CAP_MAX_VCPUS)
            return kvm.max_vcpus;
        return (int)(uintptr_t)arg != kvm.lacking;
    case KVM_GET_VCPU_MMAP_SIZE:
        return RUN_SIZE;
    case KVM_GET_SUPPORTED_CPUID:
        ((struct kvm_cpuid2 *)arg)->nent = 0;
        for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++)
            add_leaf(arg, leaves[i]);
        return 0;
    case KVM_CREATE_VM:
        return memfd_create("vm", MFD_CLOEXEC);
    default:
        return -1;
    }
}

int ioctl(int fd, unsigned long req, ...)
{
    va_list ap;
    void *arg;
    int r;

    va_start(ap, req);
    arg = va_arg(ap, void *);
    va_end(ap);
    if (kvm.fail_ioctl == req) {
        errno = kvm.fail_errno;
        return -1;
    }
    r = device(req, arg);
    if (r >= 0)
        return r;
    switch (req) {
    case KVM_CREATE_VCPU:
        return make_vcpu();
    case KVM_GET_TSC_KHZ:
        return 2000000;
    case KVM_SET_MSRS:
    case KVM_GET_MSRS:
        return (int)((struct kvm_msrs *)arg)->nmsrs;
    case KVM_GET_REGS:
        *(struct kvm_regs *)arg = kvm.regs;
        return 0;
    case KVM_GET_SREGS:
        *(struct kvm_sregs *)arg = kvm.sregs;
        return 0;
    case KVM_TRANSLATE:
        ((struct kvm_translation *)arg)->physical_address =
            ((struct kvm_translation *)arg)->linear_address & 0xfffff;
        ((struct kvm_translation *)arg)->valid = 1;
        return 0;
    case KVM_RUN:
        return run();
    default:
        return 0;
    }
}

/* ---- The guest ------------------------------------------------------------------- */

int boot_load(struct mem *mem, const struct boot_config *cfg, struct x86_state *bsp,
              struct err *err)
{
    static const uint8_t code[] = {0x0f, 0x0b, 0x66, 0x0f, 0x3a, 0xcc};

    return mem_write(mem, CODE_AT, code, sizeof(code));
}

static struct vm_config config(void)
{
    return (struct vm_config){.name = "test",
                              .cpus = 1,
                              .memory = MEMORY,
                              .kernel = "kernel",
                              .engine = &engine_kvm,
                              .serial_in = -1,
                              .serial_out = -1};
}

static int setup(void **state)
{
    memset(&kvm, 0, sizeof(kvm));
    kvm.lacking = -1;
    kvm.max_vcpus = 1024;
    kvm.regs.rip = CODE_AT;
    kvm.sregs.cs = (struct kvm_segment){.selector = 0x10, .l = 1};
    kvm.sregs.efer = X86_EFER_LME | X86_EFER_LMA;
    kvm.sregs.cr0 = X86_CR0_PE | X86_CR0_PG;
    return 0;
}

/* Building fails with this code; the message has both texts, in `what` and in `next`. */
static void refused(const struct vm_config *cfg, int code, const char *what, const char *next)
{
    struct err err = {0};
    struct vm *vm;

    assert_int_equal(vm_new(&vm, cfg, &err), code);
    assert_null(vm);
    if (!strstr(err.what, what) || !strstr(err.next, next))
        fail_msg("\"%s\", \"%s\"", err.what, err.next);
}

static void no_permission_names_the_group(void **state)
{
    const struct vm_config cfg = config();
    struct err err = {0};

    kvm.open_errno = EACCES;
    refused(&cfg, -EACCES, "no permission to use /dev/kvm", "group 'virtuals'");
    assert_int_equal(engine_kvm.check(&err), -EACCES);
    assert_non_null(strstr(err.next, "group 'virtuals'"));
}

static void an_absent_module_is_told(void **state)
{
    const struct vm_config cfg = config();

    kvm.open_errno = ENOENT;
    refused(&cfg, -ENOENT, "KVM module is not loaded", "modprobe");
    kvm.open_errno = ENODEV;
    refused(&cfg, -ENODEV, "KVM module is not loaded", "modprobe");
}

static void a_lacking_extension_is_told(void **state)
{
    struct err err = {0};

    kvm.lacking = KVM_CAP_X86_USER_SPACE_MSR;
    assert_int_equal(engine_kvm.check(&err), -ENOTSUP);
    assert_non_null(strstr(err.what, "MSRs in user space"));
    assert_non_null(strstr(err.next, "Linux 5.10"));
}

static void too_many_cpus_are_refused(void **state)
{
    struct vm_config cfg = config();
    struct err err = {0};
    struct vm *vm;

    kvm.max_vcpus = 2;
    cfg.cpus = 3;
    refused(&cfg, -E2BIG, "3 CPUs were asked for, but this kernel's KVM allows 2", "--cpus 2");
    cfg.cpus = 2;
    assert_int_equal(vm_new(&vm, &cfg, &err), 0);
    vm_free(vm);
}

static void a_model_that_kvm_lacks_is_refused(void **state)
{
    struct vm_config cfg = config();
    struct err err = {0};
    struct vm *vm;

    cfg.cpu = CPU_V2;
    kvm.hide_1_ecx = 1u << 23; /* POPCNT */
    refused(&cfg, -ENOTSUP, "cannot give the CPU model", "--cpu");
    cfg.cpu = CPU_V1; /* has none */
    assert_int_equal(vm_new(&vm, &cfg, &err), 0);
    vm_free(vm);
    cfg.cpu = CPU_HOST;
    assert_int_equal(vm_new(&vm, &cfg, &err), 0);
    vm_free(vm);
}

static void no_memory_for_kvm_is_an_error(void **state)
{
    const struct vm_config cfg = config();

    kvm.fail_ioctl = KVM_CREATE_VCPU;
    kvm.fail_errno = ENOMEM;
    refused(&cfg, -ENOMEM, "KVM cannot make a virtual CPU", "less memory");
    kvm.fail_ioctl = KVM_CREATE_VM;
    kvm.fail_errno = EBUSY;
    refused(&cfg, -EBUSY, "KVM cannot make a virtual machine", "");
}

/* ---- KVM gives up ------------------------------------------------------------------ */

static void exit_internal(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
}

static void exit_entry(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_FAIL_ENTRY;
    run->fail_entry.hardware_entry_failure_reason = 0x80000021;
}

static void exit_shutdown(struct kvm_run *run)
{
    run->exit_reason = KVM_EXIT_SHUTDOWN;
}

static void exit_unknown(struct kvm_run *run)
{
    run->exit_reason = 99;
}

/* The guest ends with a message that has all of these. */
static void fails(void (*exit)(struct kvm_run *run), const char *const *texts)
{
    const struct vm_config cfg = config();
    enum vm_end end = VM_END_POWEROFF;
    struct err err = {0};
    struct vm *vm;

    kvm.exit = exit;
    assert_int_equal(vm_new(&vm, &cfg, &err), 0);
    assert_int_equal(vm_run(vm, &end, &err), -EIO);
    assert_int_equal(end, VM_END_FAILED);
    for (; *texts; texts++)
        if (!strstr(err.what, *texts))
            fail_msg("no \"%s\" in \"%s\"", *texts, err.what);
    assert_true(err.next[0]);
    vm_free(vm);
}

static void internal_errors_show_the_instruction(void **state)
{
    static const char *const in_64[] = {
        "vCPU 0: KVM internal error 1", "cannot emulate the instruction", "RIP 0x1234",
        "CS 0x10 (64-bit, CPL 0)",      "bytes 0f 0b 66 0f 3a cc",        NULL};
    static const char *const in_real[] = {"RIP 0x34", "CS 0x120 (real mode",
                                          "bytes 0f 0b 66 0f 3a cc", NULL};

    fails(exit_internal, in_64);
    kvm.sregs.cr0 = 0;
    kvm.sregs.efer = 0;
    kvm.sregs.cs = (struct kvm_segment){.selector = 0x120, .base = 0x1200};
    kvm.regs.rip = 0x34;
    fails(exit_internal, in_real);
}

static void entries_that_fail_show_the_instruction(void **state)
{
    static const char *const texts[] = {"refused to enter the guest (reason 0x80000021)",
                                        "RIP 0x1234",
                                        "32-bit",
                                        "CPL 3",
                                        "bytes 0f 0b 66",
                                        NULL};

    kvm.sregs.efer = 0;
    kvm.sregs.cs = (struct kvm_segment){.selector = 0x23, .db = 1, .dpl = 3};
    kvm.sregs.ss.dpl = 3;
    fails(exit_entry, texts);
}

static void other_ends_show_it_too(void **state)
{
    static const char *const fault[] = {"triple fault", "RIP 0x1234", "bytes 0f 0b", NULL};
    static const char *const unknown[] = {"unexpected KVM exit 99", "RIP 0x1234", NULL};
    static const char *const failed[] = {"KVM_RUN failed: Bad address", "RIP 0x1234", NULL};

    fails(exit_shutdown, fault);
    fails(exit_unknown, unknown);
    kvm.fail_ioctl = KVM_RUN;
    kvm.fail_errno = EFAULT;
    fails(NULL, failed);
}

int main(void)
{
#define KVM_TEST(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {
        KVM_TEST(no_permission_names_the_group),
        KVM_TEST(an_absent_module_is_told),
        KVM_TEST(a_lacking_extension_is_told),
        KVM_TEST(too_many_cpus_are_refused),
        KVM_TEST(a_model_that_kvm_lacks_is_refused),
        KVM_TEST(no_memory_for_kvm_is_an_error),
        KVM_TEST(internal_errors_show_the_instruction),
        KVM_TEST(entries_that_fail_show_the_instruction),
        KVM_TEST(other_ends_show_it_too),
    };

    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
