/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * micro NAME COUNT SERIAL: do one small thing COUNT times and print
 *
 *     LODGE-BENCH begin SERIAL
 *     LODGE-BENCH end SERIAL CHECKSUM
 *
 * around it. The times are taken by whoever reads these lines. The checksum
 * does not depend on COUNT: every repetition must come to the same one.
 * Linked statically, so that guest and host run the same instructions.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define RING 8

static const char *self;

static void die(const char *what)
{
    fprintf(stderr, "micro: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *map(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        die("mmap");
    return p;
}

/* ---- The kernel's work ------------------------------------------------- */

static uint64_t run_syscall(uint64_t count)
{
    uint64_t other = 0;
    pid_t parent = getppid();

    for (uint64_t i = 0; i < count; i++)
        other += syscall(SYS_getppid) != parent;
    return other;
}

static void byte_write(int fd)
{
    char c = 'x';

    if (write(fd, &c, 1) != 1)
        die("write");
}

static void byte_read(int fd)
{
    char c;

    if (read(fd, &c, 1) != 1)
        die("read");
}

static uint64_t reap(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid)
        die("waitpid");
    return (uint64_t)status;
}

static pid_t spawn(void)
{
    pid_t pid = fork();

    if (pid < 0)
        die("fork");
    return pid;
}

/* A byte to another process and back. */
static uint64_t run_pipe(uint64_t count)
{
    int there[2], back[2];
    pid_t pid;

    if (pipe(there) || pipe(back))
        die("pipe");
    pid = spawn();
    if (!pid) {
        for (uint64_t i = 0; i < count; i++) {
            byte_read(there[0]);
            byte_write(back[1]);
        }
        _exit(0);
    }
    for (uint64_t i = 0; i < count; i++) {
        byte_write(there[1]);
        byte_read(back[0]);
    }
    return reap(pid);
}

/* A byte around a ring of processes; counted are the switches. */
static uint64_t run_switch(uint64_t count)
{
    int fd[RING][2];
    pid_t pid[RING];
    uint64_t rounds = (count + RING - 1) / RING, sum = 0;

    for (int i = 0; i < RING; i++) {
        if (pipe(fd[i]))
            die("pipe");
    }
    for (int i = 1; i < RING; i++) {
        pid[i] = spawn();
        if (pid[i])
            continue;
        for (uint64_t n = 0; n < rounds; n++) {
            byte_read(fd[i][0]);
            byte_write(fd[(i + 1) % RING][1]);
        }
        _exit(0);
    }
    for (uint64_t n = 0; n < rounds; n++) {
        byte_write(fd[1][1]);
        byte_read(fd[0][0]);
    }
    for (int i = 1; i < RING; i++)
        sum += reap(pid[i]);
    return sum;
}

static uint64_t run_fork(uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++) {
        pid_t pid = spawn();
        if (!pid)
            _exit(3);
        sum |= reap(pid);
    }
    return sum;
}

static uint64_t run_exec(uint64_t count)
{
    char *const args[] = {(char *)self, (char *)"nothing", NULL};
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++) {
        pid_t pid = spawn();
        if (!pid) {
            execv(self, args);
            _exit(1);
        }
        sum |= reap(pid);
    }
    return sum;
}

/* First writes to anonymous pages, of 4 KiB. */
static uint64_t run_fault(uint64_t count)
{
    const uint64_t pages = 1024;
    unsigned char *p = map(pages * PAGE);
    uint64_t found = 0;

    madvise(p, pages * PAGE, MADV_NOHUGEPAGE);
    for (uint64_t done = 0; done < count;) {
        for (uint64_t i = 0; i < pages && done < count; i++, done++) {
            found |= p[i * PAGE];
            p[i * PAGE] = 1;
        }
        if (madvise(p, pages * PAGE, MADV_DONTNEED))
            die("madvise");
    }
    return found;
}

/* 64 KiB mapped, one page of it written, unmapped. */
static uint64_t run_mmap(uint64_t count)
{
    uint64_t found = 0;

    for (uint64_t i = 0; i < count; i++) {
        unsigned char *p = map(16 * PAGE);
        found |= p[PAGE];
        p[PAGE] = 1;
        munmap(p, 16 * PAGE);
    }
    return found;
}

static volatile sig_atomic_t signals;

static void on_signal(int n)
{
    (void)n;
    signals++;
}

static uint64_t run_signal(uint64_t count)
{
    struct sigaction sa = {.sa_handler = on_signal};
    pid_t pid = getpid();
    uint64_t lost = 0;

    sigaction(SIGUSR1, &sa, NULL);
    for (uint64_t i = 0; i < count; i++) {
        signals = 0;
        kill(pid, SIGUSR1);
        lost += signals != 1;
    }
    return lost;
}

/* ---- Computing --------------------------------------------------------- */

static uint64_t hash(const void *data, size_t size)
{
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325;

    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3;
    return h;
}

static uint64_t copies(uint64_t count, size_t size)
{
    unsigned char *a = map(size), *b = map(size);

    for (size_t i = 0; i < size; i++)
        a[i] = (unsigned char)(i * 7 + (i >> 8));
    memset(b, 0, size);
    for (uint64_t i = 0; i < count; i++) {
        memcpy(b, a, size);
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory");
    }
    return hash(b, size);
}

static uint64_t run_memcpy_l1(uint64_t count)
{
    return copies(count, 8 << 10);
}

static uint64_t run_memcpy_mem(uint64_t count)
{
    return copies(count, 64 << 20);
}

#define N 192
static double ma[N][N], mb[N][N], mc[N][N];

static uint64_t run_matrix(uint64_t count)
{
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            ma[i][j] = i * 0.5 - j;
            mb[i][j] = 1.0 / (i + j + 1);
        }
    }
    for (uint64_t n = 0; n < count; n++) {
        memset(mc, 0, sizeof(mc));
        for (int i = 0; i < N; i++) {
            for (int k = 0; k < N; k++) {
                double x = ma[i][k];
                for (int j = 0; j < N; j++)
                    mc[i][j] += x * mb[k][j];
            }
        }
        __asm__ volatile("" : : "r"(mc) : "memory");
    }
    return hash(mc, sizeof(mc));
}

struct body {
    double x[3], v[3], mass;
};

static void bodies_step(struct body *b, int n, double dt)
{
    for (int i = 0; i < n; i++) {
        for (int j = i + 1; j < n; j++) {
            double d[3], d2 = 0, mag;
            for (int k = 0; k < 3; k++) {
                d[k] = b[i].x[k] - b[j].x[k];
                d2 += d[k] * d[k];
            }
            mag = dt / (d2 * sqrt(d2));
            for (int k = 0; k < 3; k++) {
                b[i].v[k] -= d[k] * b[j].mass * mag;
                b[j].v[k] += d[k] * b[i].mass * mag;
            }
        }
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 3; k++)
            b[i].x[k] += dt * b[i].v[k];
    }
}

static uint64_t run_nbody(uint64_t count)
{
    struct body b[5];

    for (uint64_t n = 0; n < count; n++) {
        for (int i = 0; i < 5; i++) {
            b[i] = (struct body){{i * 1.7 - 3, i * i * 0.31, 5 - i * 0.77},
                                 {0.1 * i, 0.2 - 0.05 * i, 0.03 * i * i},
                                 0.01 + 0.2 * (i == 2)};
        }
        for (int i = 0; i < 1000; i++)
            bodies_step(b, 5, 0.001);
    }
    return hash(b, sizeof(b));
}

/* A machine with a stack, running a program that counts primes. */
enum op { PUSH, LOAD, STORE, ADD, MUL, MOD, LESS, JZ, JMP, HALT };

static const struct {
    unsigned char op;
    short arg;
} program[] = {
    {PUSH, 2}, {STORE, 0},                                               /* n = 2 */
    {LOAD, 0}, {PUSH, 3000}, {LESS, 0}, {JZ, 33},                        /* while n < 3000 */
    {PUSH, 2}, {STORE, 1},                                               /*   d = 2 */
    {LOAD, 1}, {LOAD, 1},    {MUL, 0},  {LOAD, 0},  {PUSH, 1}, {ADD, 0}, /*   while */
    {LESS, 0}, {JZ, 25},                                                 /*     d*d < n+1 */
    {LOAD, 0}, {LOAD, 1},    {MOD, 0},  {JZ, 29},                        /*     n % d == 0? */
    {LOAD, 1}, {PUSH, 1},    {ADD, 0},  {STORE, 1}, {JMP, 8},            /*     d++ */
    {LOAD, 2}, {PUSH, 1},    {ADD, 0},  {STORE, 2},                      /*   primes++ */
    {LOAD, 0}, {PUSH, 1},    {ADD, 0},  {JMP, 34},                       /*   n++ */
    {HALT, 0}, {STORE, 0},   {JMP, 2},
};

static int64_t bytecode(void)
{
    int64_t stack[16], var[3] = {0}, *sp = stack;

    for (unsigned pc = 0;;) {
        int arg = program[pc].arg;
        switch (program[pc++].op) {
        case PUSH:
            *sp++ = arg;
            break;
        case LOAD:
            *sp++ = var[arg];
            break;
        case STORE:
            var[arg] = *--sp;
            break;
        case ADD:
            sp--;
            sp[-1] += *sp;
            break;
        case MUL:
            sp--;
            sp[-1] *= *sp;
            break;
        case MOD:
            sp--;
            sp[-1] %= *sp;
            break;
        case LESS:
            sp--;
            sp[-1] = sp[-1] < *sp;
            break;
        case JZ:
            if (!*--sp)
                pc = (unsigned)arg;
            break;
        case JMP:
            pc = (unsigned)arg;
            break;
        default:
            return var[2];
        }
    }
}

static uint64_t run_bytecode(uint64_t count)
{
    uint64_t found = 0;

    for (uint64_t i = 0; i < count; i++)
        found |= (uint64_t)bytecode();
    return found;
}

/* Not inlined into itself: it is the calls that are to be measured. */
__attribute__((noinline, noclone,
               optimize("no-optimize-sibling-calls", "no-inline"))) static uint64_t
fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t run_calls(uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum |= fib(20);
    return sum;
}

/* Two threads, each with the whole of the work. */
static void *thread_calls(void *arg)
{
    uint64_t *work = arg;

    *work = run_calls(*work);
    return NULL;
}

static uint64_t run_calls_twice(uint64_t count)
{
    uint64_t work[2] = {count, count};
    pthread_t thread;

    if (pthread_create(&thread, NULL, thread_calls, &work[1]))
        die("pthread_create");
    thread_calls(&work[0]);
    pthread_join(thread, NULL);
    return work[0] == work[1] ? work[0] : 0;
}

/* Two threads adding to one counter with locked instructions. */
static _Atomic uint64_t counter;

static void *thread_count(void *arg)
{
    for (uint64_t n = *(uint64_t *)arg; n; n--)
        counter++;
    return NULL;
}

static uint64_t run_locked_twice(uint64_t count)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, thread_count, &count))
        die("pthread_create");
    thread_count(&count);
    pthread_join(thread, NULL);
    return counter == 2 * count;
}

static uint64_t run_nothing(uint64_t count)
{
    return 0 * count;
}

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t count);
} rows[] = {
    {"syscall", run_syscall},
    {"pipe", run_pipe},
    {"switch", run_switch},
    {"fork", run_fork},
    {"exec", run_exec},
    {"fault", run_fault},
    {"mmap", run_mmap},
    {"signal", run_signal},
    {"memcpy-l1", run_memcpy_l1},
    {"memcpy-mem", run_memcpy_mem},
    {"matrix", run_matrix},
    {"nbody", run_nbody},
    {"bytecode", run_bytecode},
    {"calls", run_calls},
    {"calls-twice", run_calls_twice},
    {"locked-twice", run_locked_twice},
    {"nothing", run_nothing},
};

int main(int argc, char **argv)
{
    self = argv[0];
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 0;
    for (size_t i = 0; argc == 4 && i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t sum;
        if (strcmp(argv[1], rows[i].name))
            continue;
        dprintf(1, "LODGE-BENCH begin %s\n", argv[3]);
        sum = rows[i].run(strtoull(argv[2], NULL, 0));
        dprintf(1, "LODGE-BENCH end %s %016lx\n", argv[3], (unsigned long)sum);
        return 0;
    }
    fprintf(stderr, "usage: micro ROW COUNT SERIAL, ROW one of");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        fprintf(stderr, " %s", rows[i].name);
    fprintf(stderr, "\n");
    return 2;
}
