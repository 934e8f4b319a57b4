/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exits ROUNDS COMMAND [ARG]... [-- COMMAND [ARG]...]...: what starting a
 * virtual machine and leaving it cost. Each round runs each command once, so
 * that whatever else the host does meets all alike. An argument PAYLOAD stands
 * for a file with a guest of our own, a bzImage of 8 KiB that can be entered in
 * real mode and at its 64-bit entry. It writes a byte to the serial port with
 * its first instructions, reads a serial register PIO_COUNT times, writes a
 * byte, reads memory that nobody has MMIO_COUNT times, writes a byte and halts.
 * Prints, for each command, medians and least values of: time from exec to the
 * first entry into the guest, which the kernel's trace of KVM tells where it
 * is at /sys/kernel/tracing, and to the first byte, time of one port read and
 * of one memory read; and the median of resident memory beside the guest's.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PIO_COUNT  20000
#define MMIO_COUNT 20000
#define STR_(x)    #x
#define STR(x)     STR_(x)

#define MARK_START 0x91
#define MARK_PIO   0x92
#define MARK_MMIO  0x93

#define MAX_RUNS     101
#define MAX_COMMANDS 8
#define TIMEOUT_MS   60000
#define GUEST_MIN    (32u << 20) /* a mapping of this size or more is the guest's memory */

/* clang-format off */

/* The guest proper. */
#define BODY \
    "    mov $0x3f8, %dx\n" \
    "    mov $0x91, %al\n" \
    "    out %al, (%dx)\n" \
    "    mov $0x3fb, %dx\n" \
    "    mov $" STR(PIO_COUNT) ", %ecx\n" \
    "1:  in (%dx), %al\n" \
    "    sub $1, %ecx\n" \
    "    jnz 1b\n" \
    "    mov $0x3f8, %dx\n" \
    "    mov $0x92, %al\n" \
    "    out %al, (%dx)\n" \
    "    mov $0xd0000000, %ebx\n" \
    "    mov $" STR(MMIO_COUNT) ", %ecx\n"

#define TAIL \
    "    sub $1, %ecx\n" \
    "    jnz 2b\n" \
    "    mov $0x3f8, %dx\n" \
    "    mov $0x93, %al\n" \
    "    out %al, (%dx)\n" \
    "3:  cli\n" \
    "    hlt\n" \
    "    jmp 3b\n"

__asm__(
    ".pushsection .rodata\n"
    ".balign 16\n"
    "payload:\n"
    /* Documentation/arch/x86/boot.rst: the setup header, protocol 2.12 */
    ".org payload + 0x1f1\n"
    "    .byte 1\n"             /* setup sectors after this one */
    "    .word 0\n"
    "    .long 0x1c0\n"         /* protected part, in 16 bytes */
    "    .word 0, 0xffff, 0\n"
    "    .word 0xaa55\n"
    "    .byte 0xeb, 0x66\n"    /* jump over the header */
    "    .ascii \"HdrS\"\n"
    "    .word 0x020c\n"
    ".org payload + 0x211\n"
    "    .byte 1\n"             /* loaded high */
    ".org payload + 0x214\n"
    "    .long 0x100000\n"
    ".org payload + 0x22c\n"
    "    .long 0x7fffffff\n"
    "    .long 0x200000\n"      /* alignment */
    "    .byte 1, 21\n"         /* relocatable */
    "    .word 1\n"             /* has the 64-bit entry */
    "    .long 255\n"
    ".org payload + 0x258\n"
    "    .quad 0x1000000\n"
    "    .long 0x100000\n"
    ".org payload + 0x268\n"
    ".code16\n"
    "    cli\n"
    "    mov $0x3f8, %dx\n"     /* this early, as the 64-bit entry does */
    "    mov $0x91, %al\n"
    "    out %al, (%dx)\n"
    "    call 1f\n"            /* loaders enter it as 1000:0200 or as 1020:0000 */
    "1:  pop %si\n"
    "    movzwl %si, %esi\n"
    "    xor %eax, %eax\n"
    "    mov %cs, %ax\n"
    "    shl $4, %eax\n"
    "    lea payload - 1b(%eax, %esi), %esi\n" /* where this sector is */
    "    mov %esi, %eax\n"
    "    shr $4, %eax\n"
    "    mov %ax, %ds\n"
    "    lea 0x300(%esi), %eax\n"
    "    mov %eax, 0x322\n"
    "    lgdtl 0x320\n"
    "    lea 0x340(%esi), %eax\n"
    "    mov %eax, 0x330\n"
    "    mov %cr0, %eax\n"
    "    or $1, %al\n"
    "    mov %eax, %cr0\n"
    "    ljmpl *0x330\n"
    ".org payload + 0x300\n"
    "    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n"
    ".org payload + 0x320\n"
    "    .word 23\n"
    "    .long 0\n"
    ".org payload + 0x330\n"
    "    .long 0\n"
    "    .word 8\n"
    ".org payload + 0x340\n"
    ".code32\n"
    "    mov $16, %eax\n"
    "    mov %eax, %ds\n"
    "    mov %eax, %ss\n"
    "    mov %eax, %es\n"
    BODY
    "2:  mov (%ebx), %eax\n"
    TAIL
    /* On to the same 32-bit code, without paging: KVM walks page tables to decode an access to memory. */
    ".org payload + 0x400 + 0x200\n"
    ".code64\n"
    "    mov $0x3f8, %dx\n"
    "    mov $0x91, %al\n"
    "    out %al, (%dx)\n"
    "    lea 4f(%rip), %rax\n"
    "    push %rax\n"
    "    pushw %ax\n"           /* the limit comes before the base in memory */
    "    movw $23, (%rsp)\n"
    "    lgdt (%rsp)\n"
    "    push $8\n"
    "    lea 5f(%rip), %rax\n"
    "    push %rax\n"
    "    lretq\n"
    ".balign 8\n"
    "4:  .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff\n"
    ".code32\n"
    "5:  mov $16, %eax\n"
    "    mov %eax, %ds\n"
    "    mov %eax, %ss\n"
    "    mov %eax, %es\n"
    "    mov %cr0, %eax\n"
    "    and $0x7fffffff, %eax\n"
    "    mov %eax, %cr0\n"
    BODY
    "2:  mov (%ebx), %eax\n"
    TAIL
    ".org payload + 0x400 + 0x1c00\n" /* some loaders want 4 KiB and more */
    "payload_end:\n"
    ".code64\n"
    ".popsection\n"
);
/* clang-format on */

extern const char payload[], payload_end[];

struct sample {
    double entry_ms, start_ms, pio_us, mmio_us;
    double beside_mib;
};

static double now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* Resident memory of a process less that of mappings as large as a guest's memory. */
static double resident_beside(pid_t pid)
{
    char path[64], line[512];
    uint64_t from, to, kib, sum = 0;
    bool counts = true;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)pid);
    f = fopen(path, "re");
    if (!f)
        return -1;
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2)
            counts = to - from < GUEST_MIN;
        else if (counts && sscanf(line, "Rss: %" SCNu64 " kB", &kib) == 1)
            sum += kib;
    }
    fclose(f);
    return (double)sum / 1024;
}

/* When the byte came, or -1. Other output is skipped. */
static double wait_mark(int fd, unsigned char mark)
{
    double end = now_ms() + TIMEOUT_MS;
    unsigned char c;

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int left = (int)(end - now_ms());

        if (left <= 0 || poll(&p, 1, left) <= 0 || read(fd, &c, 1) != 1)
            return -1;
        if (c == mark)
            return now_ms();
    }
}

struct command {
    char **argv;
    struct sample s[MAX_RUNS];
    unsigned got;
    bool failed;
};

/* ---- The kernel's trace ------------------------------------------------------------------- */

#define TRACING   "/sys/kernel/tracing/"
#define KVM_ENTRY TRACING "events/kvm/kvm_entry/"

static bool put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return ok;
}

/* Record the next entry into a guest, and no other. */
static void trace_start(void)
{
    if (put(TRACING "trace_clock", "mono") && put(KVM_ENTRY "trigger", "traceoff:1"))
        put(KVM_ENTRY "enable", "1");
    put(TRACING "tracing_on", "1");
}

/* When it was, or -1. The trace is emptied for the next, by opening it for writing. */
static double trace_stop(void)
{
    char line[512], *at;
    double when = -1;
    FILE *f;

    put(KVM_ENTRY "enable", "0");
    put(KVM_ENTRY "trigger", "!traceoff:1");
    f = fopen(TRACING "trace", "re");
    while (f && when < 0 && fgets(line, sizeof(line), f)) {
        at = line[0] == '#' ? NULL : strstr(line, ": kvm_entry:");
        while (at && at > line && at[-1] != ' ')
            at--;
        if (at)
            when = atof(at) * 1e3;
    }
    if (f)
        fclose(f);
    f = fopen(TRACING "trace", "we");
    if (f)
        fclose(f);
    return when;
}

/* ---- Runs --------------------------------------------------------------------------------- */

static bool run_once(char **argv, struct sample *s)
{
    double began, start, pio, mmio, entry;
    int fd[2], in;
    pid_t pid;

    if (pipe(fd) < 0)
        return false;
    in = open("/dev/null", O_RDONLY);
    trace_start();
    began = now_ms();
    pid = vfork();
    if (pid == 0) {
        dup2(in, 0);
        dup2(fd[1], 1);
        close(fd[0]);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(fd[1]);
    close(in);
    start = wait_mark(fd[0], MARK_START);
    entry = trace_stop();
    pio = start < 0 ? -1 : wait_mark(fd[0], MARK_PIO);
    mmio = pio < 0 ? -1 : wait_mark(fd[0], MARK_MMIO);
    *s = (struct sample){entry - began, start - began, (pio - start) * 1e3 / PIO_COUNT,
                         (mmio - pio) * 1e3 / MMIO_COUNT, resident_beside(pid)};
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(fd[0]);
    return mmio >= 0;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The median of a member of the samples; *least is the smallest. */
static double median(const struct command *c, size_t off, double *least)
{
    double v[MAX_RUNS];

    for (unsigned i = 0; i < c->got; i++)
        memcpy(&v[i], (const char *)&c->s[i] + off, sizeof(v[i]));
    qsort(v, c->got, sizeof(v[0]), compare);
    *least = v[0];
    return v[c->got / 2];
}

static void print_command(const struct command *c)
{
    double least[4], beside, mid;

    printf("%-28s", c->argv[0]);
    mid = median(c, offsetof(struct sample, entry_ms), &least[3]);
    if (least[3] > 0)
        printf(" entry %8.2f ms (least %8.2f) ", mid, least[3]);
    mid = median(c, offsetof(struct sample, start_ms), &least[0]);
    printf(" first byte %8.2f ms (least %8.2f)", mid, least[0]);
    mid = median(c, offsetof(struct sample, pio_us), &least[1]);
    printf("  port read %7.2f us (%7.2f)", mid, least[1]);
    mid = median(c, offsetof(struct sample, mmio_us), &least[2]);
    printf("  memory read %7.2f us (%7.2f)", mid, least[2]);
    mid = median(c, offsetof(struct sample, beside_mib), &beside);
    printf("  beside guest memory %6.2f MiB\n", mid);
}

static bool write_payload(const char *path)
{
    size_t size = (size_t)(payload_end - payload);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, payload, size) == (ssize_t)size;

    if (fd >= 0)
        close(fd);
    return ok;
}

/* The commands in argv, which is cut into pieces; their number, 0 when there are too many. */
static unsigned split(char **argv, const char *path, struct command *c)
{
    unsigned n = 0;

    c[n++].argv = argv;
    for (char **arg = argv; *arg; arg++) {
        if (!strcmp(*arg, "PAYLOAD"))
            *arg = (char *)path;
        if (strcmp(*arg, "--") || !arg[1])
            continue;
        if (n == MAX_COMMANDS)
            return 0;
        *arg = NULL;
        c[n++].argv = ++arg;
    }
    return n;
}

/* A command that failed once is left out of the other rounds: it would take TIMEOUT_MS in each. */
static void run_rounds(struct command *c, unsigned n, unsigned rounds)
{
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < n; i++) {
            if (c[i].failed)
                continue;
            if (run_once(c[i].argv, &c[i].s[c[i].got]))
                c[i].got++;
            else
                c[i].failed = true;
        }
    }
}

int main(int argc, char **argv)
{
    static struct command commands[MAX_COMMANDS];
    char path[] = "/tmp/exits-payload-XXXXXX";
    unsigned rounds = argc > 2 ? (unsigned)atoi(argv[1]) : 0, n;
    bool ok = true;
    int fd;

    fd = rounds && rounds <= MAX_RUNS ? mkstemp(path) : -1;
    if (fd < 0 || !write_payload(path)) {
        fprintf(stderr,
                "usage: exits ROUNDS COMMAND [ARG]... [-- COMMAND [ARG]...]...\n"
                "At most %d rounds; %s must be writable.\n",
                MAX_RUNS, "/tmp");
        return 2;
    }
    close(fd);
    n = split(argv + 2, path, commands);
    run_rounds(commands, n, rounds);
    unlink(path);
    for (unsigned i = 0; i < n; i++) {
        if (commands[i].failed)
            fprintf(stderr, "exits: %s: run %u did not come to its end\n", commands[i].argv[0],
                    commands[i].got + 1);
        else
            print_command(&commands[i]);
        ok = ok && !commands[i].failed;
    }
    return n && ok ? 0 : 1;
}
