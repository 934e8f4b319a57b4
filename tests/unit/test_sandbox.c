/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/sandbox/ src/base/err.c */
/* Each attempt is made by a child that confines itself as a guest's process does. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "sandbox/sandbox.h"
#include "sandbox/seccomp.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            dprintf(2, "line %d: " #condition " (errno %d)\n", __LINE__, errno);                   \
            _exit(99);                                                                             \
        }                                                                                          \
    } while (0)

#define REFUSED(call, error) MUST((errno = 0, (call) < 0 && errno == (error)))

static const struct sandbox_needs nothing;

struct place {
    char dir[40], own[64], other[64], listener[64];
    int fd;
};

static void make_file(const char *dir, const char *name)
{
    char path[128];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "text", 4), 4);
    close(fd);
}

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    strcpy(p->dir, "/tmp/lodge-sandbox.XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->own, sizeof(p->own), "%s/own", p->dir);
    snprintf(p->other, sizeof(p->other), "%s/other", p->dir);
    snprintf(p->listener, sizeof(p->listener), "%s/other/socket", p->dir);
    assert_int_equal(mkdir(p->own, 0700) | mkdir(p->other, 0700), 0);
    make_file(p->own, "file");
    make_file(p->other, "file");
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->listener);
    assert_int_equal(bind(p->fd, (struct sockaddr *)&addr, sizeof(addr)) | listen(p->fd, 4), 0);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    static const char *const left[] = {"own/file",   "own/new",      "own/sub", "own/link",
                                       "other/file", "other/socket", "own",     "other"};
    struct place *p = *state;
    char path[128];

    close(p->fd);
    for (unsigned i = 0; i < ARRAY_SIZE(left); i++) {
        snprintf(path, sizeof(path), "%s/%s", p->dir, left[i]);
        remove(path);
    }
    assert_int_equal(rmdir(p->dir), 0);
    free(p);
    return 0;
}

static void confine(const struct place *p, const struct sandbox_needs *needs)
{
    struct err err = {0};
    struct sandbox s;

    sandbox_init(&s, needs);
    MUST(!sandbox_allow(&s, p->own, SANDBOX_FILES | SANDBOX_MKDIR | SANDBOX_RMDIR, &err));
    MUST(!sandbox_enter(&s, &err));
    MUST(!sandbox_seal(&s, &err));
    MUST(s.layers & SANDBOX_NO_NEW_PRIVS);
    MUST(s.layers & SANDBOX_CAPABILITIES);
    sandbox_fini(&s);
}

/* How the child ended: its exit status, or 128 and the signal. */
static int in_child(void (*fn)(const struct place *p, unsigned arg), const struct place *p,
                    unsigned arg)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (!pid) {
        alarm(60);
        signal(SIGSYS, SIG_DFL); /* cmocka has a handler, to which ours would turn */
        fn(p, arg);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- System calls ----------------------------------------------------------------- */

static void need_seccomp(void)
{
    if (!sandbox_has_seccomp()) {
        print_message("Skip: this kernel has no seccomp filters\n");
        skip();
    }
}

static void try_call(const struct place *p, unsigned nr)
{
    long r;

    confine(p, &nothing);
    close(STDERR_FILENO); /* what is said there is looked at elsewhere */
    r = syscall(nr, 0, 0, 0, 0, 0, 0);
    _exit(r == -1 && errno == ENOSYS ? 1 : r == -1 && errno == EPERM ? 2 : 3);
}

static void other_calls_end_the_process(void **state)
{
    unsigned ended = 0;

    need_seccomp();
    for (unsigned nr = 0; nr < 512; nr++) {
        bool refused = nr == SYS_clone3 || nr == SYS_io_uring_setup ||
                       nr == SYS_io_uring_register || nr == SYS_openat2 || nr > 450;
        int how;

        /* The kernel's own for probes (Linux 6.11, 6.18), which it keeps from filters and from all callers but these. */
        if (seccomp_allows(nr) || nr == 335 || nr == 336)
            continue;
        how = in_child(try_call, *state, nr);
        ended += how == SECCOMP_STATUS;
        if (refused ? how != 1 && how != 2 : how != SECCOMP_STATUS)
            fail_msg("system call %u (%s): %d", nr, seccomp_name(nr), how);
    }
    assert_true(ended > 200);
}

static void try_numbers_of_x32(const struct place *p, unsigned arg)
{
    confine(p, &nothing);
    syscall(0x40000000u | SYS_getpid);
}

static void numbers_of_x32_end_it(void **state)
{
    need_seccomp();
    assert_int_equal(in_child(try_numbers_of_x32, *state, 0), 128 + SIGSYS);
}

static void try_arguments(const struct place *p, unsigned arg)
{
    struct sigaction sa = {.sa_handler = SIG_IGN};
    struct rlimit limit;
    char c = 'x';
    int fd = open("/dev/null", O_RDWR);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pid_t parent = getppid();

    confine(p, &nothing);
    MUST(page != MAP_FAILED);
    if (!SANDBOX_SANITIZED) {
        MUST(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
             MAP_FAILED);
        REFUSED(mprotect(page, 4096, PROT_READ | PROT_EXEC), EPERM);
        REFUSED(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), EPERM);
        REFUSED(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), EPERM);
        MUST(!getrlimit(RLIMIT_NOFILE, &limit));
        REFUSED(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
    }
    MUST(!mprotect(page, 4096, PROT_READ));
    REFUSED(kill(parent, 0), EPERM);
    REFUSED(kill(-1, 0), EPERM);
    MUST(!kill(getpid(), 0));
    REFUSED(syscall(SYS_tgkill, parent, parent, 0), EPERM);
    REFUSED(syscall(SYS_rt_sigaction, SIGSYS, &sa, NULL, 8), EPERM);
    REFUSED(ioctl(fd, TIOCSTI, &c), EPERM);
    REFUSED(ioctl(fd, KVM_GET_API_VERSION, 0), ENOTTY);
    MUST(!prctl(PR_SET_NAME, "name", 0, 0, 0));
}

static void arguments_count(void **state)
{
    need_seccomp();
    assert_int_equal(in_child(try_arguments, *state, 0), 0);
}

static void try_exec(const struct place *p, unsigned fd)
{
    char *const argv[] = {"true", NULL};

    confine(p, &nothing);
    dup2((int)fd, STDERR_FILENO);
    execv("/bin/true", argv);
}

static void the_call_is_named(void **state)
{
    char text[200] = "";
    int ends[2];

    need_seccomp();
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(in_child(try_exec, *state, (unsigned)ends[1]), SECCOMP_STATUS);
    close(ends[1]);
    assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
    assert_non_null(strstr(text, "system call execve (59)"));
    close(ends[0]);
}

static _Atomic bool sealed;

static void *exec_in_thread(void *opaque)
{
    char *const argv[] = {"true", NULL};

    while (!sealed)
        sched_yield();
    close(STDERR_FILENO);
    execv("/bin/true", argv);
    return NULL;
}

/* A thread from before is as confined. */
static void try_in_thread(const struct place *p, unsigned arg)
{
    pthread_t thread;

    MUST(!pthread_create(&thread, NULL, exec_in_thread, NULL));
    confine(p, &nothing);
    sealed = true;
    pthread_join(thread, NULL);
}

static void all_threads_are_confined(void **state)
{
    need_seccomp();
    assert_int_equal(in_child(try_in_thread, *state, 0), SECCOMP_STATUS);
}

/* ---- Sockets ------------------------------------------------------------------------ */

static bool makes_socket(int domain, int type)
{
    int fd = socket(domain, type, 0);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void try_sockets(const struct place *p, unsigned kinds)
{
    const struct sandbox_needs needs = {
        .inet = kinds & 1, .unix_stream = kinds & 2, .unix_dgram = kinds & 4};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd;

    confine(p, &needs);
    MUST(makes_socket(AF_INET, SOCK_STREAM) == needs.inet);
    MUST(makes_socket(AF_INET, SOCK_DGRAM) == needs.inet);
    MUST(makes_socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC) == needs.unix_stream);
    MUST(makes_socket(AF_UNIX, SOCK_DGRAM) == needs.unix_dgram);
    MUST(!makes_socket(AF_UNIX, SOCK_SEQPACKET));
    MUST(!makes_socket(AF_NETLINK, SOCK_RAW));
    MUST(!makes_socket(AF_VSOCK, SOCK_STREAM));
    MUST(!makes_socket(AF_PACKET, SOCK_RAW));
    /* Another guest's control socket is a stream. */
    if (!needs.unix_dgram)
        return;
    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->listener);
    REFUSED(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), EPROTOTYPE);
}

static void sockets_are_those_needed(void **state)
{
    need_seccomp();
    for (unsigned kinds = 0; kinds < 8; kinds++)
        assert_int_equal(in_child(try_sockets, *state, kinds), 0);
}

/* ---- Files --------------------------------------------------------------------------- */

static void need_landlock(void)
{
    if (!sandbox_landlock_version()) {
        print_message("Skip: this kernel has no Landlock\n");
        skip();
    }
}

static int open_in(const char *dir, const char *name, int flags)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return open(path, flags, 0600);
}

static void try_files(const struct place *p, unsigned arg)
{
    char own[128], other[128], leads[128], fresh[128];

    snprintf(own, sizeof(own), "%s/file", p->own);
    snprintf(other, sizeof(other), "%s/file", p->other);
    snprintf(leads, sizeof(leads), "%s/link", p->own);
    snprintf(fresh, sizeof(fresh), "%s/fresh", p->own);
    MUST(!symlink(other, leads));
    confine(p, &nothing);
    MUST(open_in(p->own, "file", O_RDWR) >= 0);
    MUST(open_in(p->own, "new", O_RDWR | O_CREAT | O_EXCL) >= 0);
    MUST(open_in(p->own, ".", O_RDONLY | O_DIRECTORY) >= 0);
    REFUSED(open_in(p->other, "file", O_RDONLY), EACCES);
    REFUSED(open_in(p->other, "file", O_WRONLY), EACCES);
    REFUSED(open_in(p->other, "new", O_WRONLY | O_CREAT), EACCES);
    REFUSED(open_in(p->own, "link", O_RDONLY), EACCES);
    REFUSED(open_in(p->own, "../other/file", O_RDONLY), EACCES);
    REFUSED(open_in(p->dir, ".", O_RDONLY | O_DIRECTORY), EACCES);
    REFUSED(open("/etc/passwd", O_RDONLY), EACCES);
    REFUSED(open("/proc/self/mem", O_RDWR), EACCES);
    REFUSED(open("/proc/self/environ", O_RDONLY), EACCES);
    REFUSED(unlink(other), EACCES);
    MUST(rename(own, other) < 0 && (errno == EXDEV || errno == EACCES));
    MUST(rename(other, own) < 0 && (errno == EXDEV || errno == EACCES));
    MUST(link(other, fresh) < 0 && (errno == EXDEV || errno == EACCES));
}

static void files_are_the_guests(void **state)
{
    need_landlock();
    assert_int_equal(in_child(try_files, *state, 0), 0);
}

/* Sockets in the abstract namespace have no folder. */
static void try_abstract(const struct place *p, unsigned arg)
{
    const struct sandbox_needs needs = {.unix_stream = true};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 20);
    int fd;

    snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "%018u", arg);
    confine(p, &needs);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(connect(fd, (struct sockaddr *)&addr, len) < 0 &&
         (errno == EPERM || errno == ECONNREFUSED));
}

static void abstract_sockets_are_out_of_reach(void **state)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 20);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (sandbox_landlock_version() < 6) {
        close(fd);
        print_message("Skip: this kernel's Landlock has no scopes\n");
        skip();
    }
    snprintf(addr.sun_path + 1, sizeof(addr.sun_path) - 1, "%018u", (unsigned)getpid());
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, len) | listen(fd, 1), 0);
    assert_int_equal(in_child(try_abstract, *state, (unsigned)getpid()), 0);
    close(fd);
}

/* ---- Privileges ------------------------------------------------------------------------ */

static void try_privileges(const struct place *p, unsigned arg)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    struct err err = {0};
    struct sandbox s;

    sandbox_init(&s, &nothing);
    MUST(!sandbox_enter(&s, &err));
    sandbox_fini(&s);
    MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    MUST(SANDBOX_SANITIZED || !prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    MUST(!syscall(SYS_capget, &head, data));
    MUST(!(data[0].permitted & ~(1u << CAP_DAC_OVERRIDE)) && !data[1].permitted);
    MUST(!data[0].inheritable && !data[1].inheritable);
    for (unsigned cap = 0; !geteuid() && cap <= CAP_LAST_CAP; cap++)
        MUST(prctl(PR_CAPBSET_READ, cap, 0, 0, 0) <= 0);
}

static void privileges_are_gone(void **state)
{
    assert_int_equal(in_child(try_privileges, *state, 0), 0);
}

static void layers_are_told(void **state)
{
    struct sandbox s = {0};
    char text[SANDBOX_TEXT];

    assert_string_equal(sandbox_text(&s, text), "none");
    s.layers = ~0u;
    assert_string_equal(sandbox_text(&s, text),
                        "seccomp landlock namespaces capabilities no_new_privs undumpable");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(other_calls_end_the_process, setup, teardown),
        cmocka_unit_test_setup_teardown(numbers_of_x32_end_it, setup, teardown),
        cmocka_unit_test_setup_teardown(arguments_count, setup, teardown),
        cmocka_unit_test_setup_teardown(the_call_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(all_threads_are_confined, setup, teardown),
        cmocka_unit_test_setup_teardown(sockets_are_those_needed, setup, teardown),
        cmocka_unit_test_setup_teardown(files_are_the_guests, setup, teardown),
        cmocka_unit_test_setup_teardown(abstract_sockets_are_out_of_reach, setup, teardown),
        cmocka_unit_test_setup_teardown(privileges_are_gone, setup, teardown),
        cmocka_unit_test(layers_are_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
