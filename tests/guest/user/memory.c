/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a long-running process does to its address space, checked as it goes: mappings that come, go and change their
 * rights, copies on write after a fork, pages moved and shared, code written and run, threads that do this side by
 * side. Static, so that an initramfs can carry it; runs on any Linux.
 *
 * memory SECONDS [THREADS] [PROCESSES]; prints "memory: ROUNDS rounds, ERRORS errors".
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096u
#define PAGES 64u

/* Where the kernel puts nothing by itself, so that what is unmapped stays unmapped. */
#define AREAS 0x200000000000ul

static _Atomic unsigned long rounds, errors;
static _Atomic int stop;

static __thread sigjmp_buf on_segv;
static __thread volatile int segv_expected;

struct area {
    uint8_t *at;
    uint64_t want[PAGES]; /* first word of each page */
    int prot[PAGES];      /* PROT_*, or -1: unmapped */
};

static void fail(const char *what, unsigned page, uint64_t got, uint64_t want)
{
    if (atomic_fetch_add(&errors, 1) < 20)
        printf("memory: %s, page %u: %#llx instead of %#llx\n", what, page, (unsigned long long)got,
               (unsigned long long)want);
}

static void segv(int sig)
{
    if (!segv_expected) {
        static const char text[] = "memory: a fault nobody expected\n";

        (void)!write(1, text, sizeof(text) - 1);
        _exit(3);
    }
    siglongjmp(on_segv, sig);
}

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static volatile uint64_t *word(const struct area *a, unsigned page)
{
    return (volatile uint64_t *)(void *)(a->at + (size_t)page * PAGE);
}

/* Does a read or write of the page fault? */
static int faults(const struct area *a, unsigned page, int write)
{
    volatile uint64_t *p = word(a, page);
    int r = 1;

    segv_expected = 1;
    if (!sigsetjmp(on_segv, 1)) {
        if (write)
            *p = *p;
        else
            (void)*p;
        r = 0;
    }
    segv_expected = 0;
    return r;
}

static void check_page(const struct area *a, unsigned page)
{
    int prot = a->prot[page];

    if (prot > 0 && (prot & PROT_READ) && *word(a, page) != a->want[page])
        fail("contents", page, *word(a, page), a->want[page]);
}

static void check_all(const struct area *a)
{
    for (unsigned i = 0; i < PAGES; i++)
        check_page(a, i);
}

static void write_page(struct area *a, unsigned page, uint64_t v)
{
    if (a->prot[page] < 0 || !(a->prot[page] & PROT_WRITE))
        return;
    *word(a, page) = v;
    a->want[page] = v;
}

static void remap(struct area *a, unsigned first, unsigned n)
{
    if (mmap(a->at + (size_t)first * PAGE, (size_t)n * PAGE, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        fail("mmap", first, 0, 0);
    for (unsigned i = first; i < first + n; i++) {
        a->want[i] = 0;
        a->prot[i] = PROT_READ | PROT_WRITE;
    }
}

static void protect(struct area *a, unsigned first, unsigned n, int prot)
{
    for (unsigned i = first; i < first + n; i++)
        if (a->prot[i] < 0)
            return;
    if (mprotect(a->at + (size_t)first * PAGE, (size_t)n * PAGE, prot))
        fail("mprotect", first, 0, 0);
    for (unsigned i = first; i < first + n; i++)
        a->prot[i] = prot;
}

static void unmap(struct area *a, unsigned first, unsigned n)
{
    munmap(a->at + (size_t)first * PAGE, (size_t)n * PAGE);
    for (unsigned i = first; i < first + n; i++)
        a->prot[i] = -1;
}

/* The child changes everything and sees its own; the parent goes on writing meanwhile. */
static void fork_and_write(struct area *a, uint64_t *seed)
{
    pid_t pid = fork();
    int status;

    if (pid < 0)
        return;
    if (pid == 0) {
        for (unsigned i = 0; i < PAGES; i += 3)
            write_page(a, i, ~next(seed));
        check_all(a);
        _exit(atomic_load(&errors) != 0);
    }
    for (unsigned i = 0; i < PAGES; i += 2)
        write_page(a, i, next(seed));
    check_all(a);
    if (waitpid(pid, &status, 0) == pid && status)
        fail("in the child", 0, (uint64_t)status, 0);
}

/* A function written anew each time: mov eax, imm32; ret. */
static void write_code(uint64_t *seed)
{
    static __thread uint8_t *code;
    uint32_t v = (uint32_t)next(seed);
    int (*fn)(void);

    if (!code)
        code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
    code[0] = 0xb8;
    memcpy(code + 1, &v, 4);
    code[5] = 0xc3;
    memcpy(&fn, &code, sizeof(fn));
    if ((uint32_t)fn() != v)
        fail("generated code", 0, 0, v);
}

/* Two pages of code in a file: one calls the next, which is one of two that each return something else. */
#define CALLER  0x10000000ul /* where each process has it, a little further on in each thread */
#define CALLEES 2u
static int code_file = -1;

static void make_code_file(void)
{
    static const uint8_t caller[] = {0xe8, 0xfb, 0x0f, 0, 0, 0xc3}; /* call to the next page; ret */
    uint8_t callee[] = {0xb8, 0, 0, 0, 0, 0xc3};                    /* mov eax, number; ret */

    code_file = memfd_create("code", 0);
    if (pwrite(code_file, caller, sizeof(caller), 0) < 0)
        exit(2);
    for (unsigned i = 0; i < CALLEES; i++) {
        callee[1] = (uint8_t)i;
        if (pwrite(code_file, callee, sizeof(callee), (off_t)(i + 1) * PAGE) < 0)
            exit(2);
    }
    if (ftruncate(code_file, (CALLEES + 1) * PAGE))
        exit(2);
}

static void map_code(uint8_t *at, unsigned page)
{
    if (mmap(at, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, code_file,
             (off_t)page * PAGE) == MAP_FAILED)
        fail("mmap of code", page, 0, 0);
}

/* Code at the same address in all processes that calls what each has mapped for itself, and exchanges. */
static void exchange_code(uintptr_t thread, uint64_t *seed)
{
    uint8_t *at = (uint8_t *)CALLER + (thread << 20);
    unsigned callee = next(seed) % CALLEES;
    int (*volatile fn)(void);

    map_code(at, 0);
    memcpy((void *)&fn, &at, sizeof(at));
    for (unsigned i = 0; i < 6; i++) {
        map_code(at + PAGE, 1 + callee);
        for (unsigned k = 0; k < 100; k++)
            if ((unsigned)fn() != callee)
                fail("code exchanged", i, callee ^ 1, callee);
        callee = (callee + next(seed)) % CALLEES;
    }
    munmap(at + PAGE, PAGE);
    segv_expected = 1;
    if (!sigsetjmp(on_segv, 1)) {
        fn();
        fail("no fault where code has been unmapped", 0, 0, 0);
    }
    segv_expected = 0;
}

/* The same page at two addresses. */
static void share(uint64_t *seed)
{
    int fd = memfd_create("memory", 0);
    volatile uint64_t *p, *q;
    uint64_t v = next(seed);

    if (fd < 0 || ftruncate(fd, PAGE))
        return;
    p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    q = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    for (unsigned i = 0; i < 8; i++) {
        p[i] = v + i;
        if (q[i] != v + i)
            fail("shared page", i, q[i], v + i);
    }
    munmap((void *)p, PAGE);
    munmap((void *)q, PAGE);
    close(fd);
}

static void move(struct area *a, unsigned page)
{
    unsigned to = (page + PAGES / 2) % PAGES;

    if (a->prot[page] != (PROT_READ | PROT_WRITE))
        return;
    if (mremap(a->at + (size_t)page * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
               a->at + (size_t)to * PAGE) == MAP_FAILED)
        fail("mremap", page, 0, 0);
    a->want[to] = a->want[page];
    a->prot[to] = a->prot[page];
    a->prot[page] = -1;
}

/* Long enough without system calls to be taken for a process that computes. */
static void compute(struct area *a, uint64_t *seed, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        unsigned page = next(seed) % PAGES;

        if (i & 1)
            write_page(a, page, next(seed));
        else
            check_page(a, page);
    }
}

static void one_round(struct area *a, uintptr_t thread, uint64_t *seed)
{
    unsigned first = next(seed) % PAGES, n = 1 + next(seed) % 8;

    n = first + n > PAGES ? PAGES - first : n;
    switch (next(seed) % 12) {
    case 0:
        unmap(a, first, n);
        if (!faults(a, first, 0))
            fail("no fault where nothing is mapped", first, 0, 0);
        break;
    case 1:
        protect(a, first, n, PROT_READ);
        if (a->prot[first] == PROT_READ && !faults(a, first, 1))
            fail("no fault at a write to what is read-only", first, 0, 0);
        break;
    case 2:
        protect(a, first, n, PROT_NONE);
        if (a->prot[first] == PROT_NONE && !faults(a, first, 0))
            fail("no fault at what must not be read", first, 0, 0);
        break;
    case 3:
        protect(a, first, n, PROT_READ | PROT_WRITE);
        break;
    case 4:
        remap(a, first, n);
        break;
    case 5:
        if (next(seed) % 8 == 0)
            fork_and_write(a, seed);
        break;
    case 6:
        write_code(seed);
        break;
    case 7:
        share(seed);
        break;
    case 8:
        move(a, first);
        break;
    case 9:
        exchange_code(thread, seed);
        break;
    default:
        compute(a, seed, 2000);
    }
    check_all(a);
    atomic_fetch_add(&rounds, 1);
}

static void *work(void *arg)
{
    uint64_t seed = 0x9e3779b97f4a7c15ull * (1 + (uint64_t)(uintptr_t)arg) ^ (uint64_t)getpid()
                                                                                 << 32;
    struct area a = {.at = (uint8_t *)AREAS + ((uintptr_t)arg << 30)};

    remap(&a, 0, PAGES);
    compute(&a, &seed, 2000000);
    while (!atomic_load(&stop))
        one_round(&a, (uintptr_t)arg, &seed);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned seconds = argc > 1 ? (unsigned)atoi(argv[1]) : 3;
    unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 2;
    unsigned processes = argc > 3 ? (unsigned)atoi(argv[3]) : 1;
    struct sigaction sa = {.sa_handler = segv, .sa_flags = SA_NODEFER};
    pthread_t id[16];
    int status, bad = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    make_code_file();
    sigaction(SIGSEGV, &sa, NULL);
    for (unsigned i = 1; i < processes; i++)
        if (!fork()) {
            processes = 0;
            break;
        }
    for (unsigned i = 0; i < threads && i < 16; i++)
        pthread_create(&id[i], NULL, work, (void *)(uintptr_t)i);
    sleep(seconds);
    atomic_store(&stop, 1);
    for (unsigned i = 0; i < threads && i < 16; i++)
        pthread_join(id[i], NULL);
    while (processes && wait(&status) > 0)
        bad |= status;
    printf("memory: %lu rounds, %lu errors%s\n", rounds, errors, bad ? ", a process failed" : "");
    return errors || bad;
}
