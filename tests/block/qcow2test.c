/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random tests of qcow2 images:
 *
 *   random   operations compared with a raw twin (--count operations)
 *   threads  the same by several threads at once
 *   kill     a writing process is killed, nothing flushed may be lost (--count times; --disk qcow2|raw:
 *            always as a guest's disk with io_uring and past the host's cache, which --dir must allow)
 *   power    every crash between two writes, with any of the unflushed sectors lost
 *            (--count workloads)
 *   pattern  makes pattern.raw in the --dir, the disk of an --image for power
 *   on       operations on the --image that is there; what must be on the disk
 *            then is left in twin.raw of the --dir
 *   hold     writes to the --image, says so, and keeps it open until its standard input ends
 */
#include "qcow2test.h"

#include <getopt.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t rnd(struct test *t)
{
    uint64_t x = t->random += 0x9e3779b97f4a7c15ull;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static char own_dir[64]; /* empty: --dir was given */

void bad(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    if (own_dir[0])
        fprintf(stderr, "its files are left in %s\n", own_dir);
    exit(1);
}

void shape_choose(struct test *t, struct shape *s)
{
    static const uint8_t bits[] = {9, 9, 10, 12, 12, 14, 16, 16, 16, 21};

    s->cluster_bits = t->cluster_bits >= 0 ? (unsigned)t->cluster_bits : bits[below(t, 10)];
    s->version = t->version >= 0 ? (unsigned)t->version : below(t, 4) ? 3 : 2;
    s->backing = t->backing >= 0 ? (unsigned)t->backing : (unsigned)below(t, 3);
    s->lazy = s->version > 2 && (t->lazy >= 0 ? t->lazy : !below(t, 4));
}

const char *shape_text(const struct shape *s)
{
    static const char *const backing[] = {"none", "raw", "qcow2"};
    static char text[100];

    snprintf(text, sizeof(text), "clusters of %u, version %u, backing %s%s", 1u << s->cluster_bits,
             s->version, backing[s->backing], s->lazy ? ", lazy refcounts" : "");
    return text;
}

static void say(void *opaque, const char *text)
{
    fprintf(stderr, "  %s\n", text);
}

void must_be_clean(const struct qcow2_config *cfg, bool leaks_allowed, const char *when)
{
    struct qcow2_config inspect = *cfg;
    struct qcow2_check c = {.say = leaks_allowed ? NULL : say};
    struct err err = {0};
    struct qcow2 *q;

    inspect.inspect = inspect.read_only = inspect.no_backing = true;
    if (qcow2_open(&q, &inspect, &err))
        bad("%s: cannot be opened to be checked: %s", when, err.what);
    if (qcow2_check(q, QCOW2_REPAIR_NONE, &c, &err))
        bad("%s: cannot be checked: %s", when, err.what);
    if (c.corruptions || (c.leaks && !leaks_allowed)) {
        c.say = say;
        qcow2_check(q, QCOW2_REPAIR_NONE, &c, &err);
        bad("%s: %llu things damaged, %llu clusters leaked", when,
            (unsigned long long)c.corruptions, (unsigned long long)c.leaks);
    }
    qcow2_close(q);
}

/* ---- Sectors -------------------------------------------------------------------------------- */

static uint64_t word_of(uint64_t sector, uint32_t state, unsigned i)
{
    return ((uint64_t)state << 32 | (uint32_t)sector) * 0x9e3779b97f4a7c15ull + i;
}

void sector_fill(uint8_t *buf, uint64_t sector, uint32_t state)
{
    uint64_t head = (uint64_t)state << 32 | (uint32_t)sector;

    memset(buf, 0, 512);
    if (!state)
        return;
    memcpy(buf, &head, 8);
    for (unsigned i = 1; i < 64; i++) {
        uint64_t w = word_of(sector, state, i);

        memcpy(buf + i * 8, &w, 8);
    }
}

uint32_t sector_state(const uint8_t *buf, uint64_t sector)
{
    uint8_t want[512];
    uint64_t head;

    memcpy(&head, buf, 8);
    sector_fill(want, sector, (uint32_t)(head >> 32));
    return memcmp(buf, want, 512) ? UINT32_MAX : (uint32_t)(head >> 32);
}

/* ---- Arguments -------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*run)(struct test *t);
    uint64_t count;
} tests[] = {{"random", test_random, 20000}, {"threads", test_threads, 20000},
             {"kill", test_kill, 20},        {"power", test_power, 5},
             {"on", test_on, 2000},          {"pattern", test_pattern, 1},
             {"hold", test_hold, 1}};

static int usage(void)
{
    fprintf(stderr,
            "usage: qcow2test random|threads|kill|power|on|pattern|hold [--count N] [--seed N] "
            "[--dir DIR]\n"
            "    [--cluster-bits N] [--version N] [--backing 0|1|2] [--lazy 0|1] [--image FILE] "
            "[--disk qcow2|raw] [-v]\n");
    return 2;
}

static int parse(struct test *t, int argc, char **argv)
{
    static const struct option options[] = {{"count", 1, NULL, 'c'},
                                            {"seed", 1, NULL, 's'},
                                            {"dir", 1, NULL, 'd'},
                                            {"cluster-bits", 1, NULL, 'b'},
                                            {"version", 1, NULL, 'V'},
                                            {"backing", 1, NULL, 'B'},
                                            {"lazy", 1, NULL, 'l'},
                                            {"verbose", 0, NULL, 'v'},
                                            {"image", 1, NULL, 'i'},
                                            {"disk", 1, NULL, 'D'},
                                            {NULL}};
    int opt;

    while ((opt = getopt_long(argc, argv, "v", options, NULL)) >= 0) {
        switch (opt) {
        case 'c':
            t->count = strtoull(optarg, NULL, 0);
            break;
        case 's':
            t->seed = strtoull(optarg, NULL, 0);
            break;
        case 'd':
            t->dir = optarg;
            break;
        case 'b':
            t->cluster_bits = atoi(optarg);
            break;
        case 'V':
            t->version = atoi(optarg);
            break;
        case 'B':
            t->backing = atoi(optarg);
            break;
        case 'l':
            t->lazy = atoi(optarg);
            break;
        case 'i':
            t->image = optarg;
            break;
        case 'D':
            t->disk = optarg;
            break;
        case 'v':
            t->verbose = true;
            break;
        default:
            return usage();
        }
    }
    return optind == argc - 1 ? 0 : usage();
}

int main(int argc, char **argv)
{
    struct test t = {.seed = 1, .cluster_bits = -1, .version = -1, .backing = -1, .lazy = -1};
    char command[80];
    int r = parse(&t, argc, argv);

    if (r)
        return r;
    r = -1;
    if (!t.dir) {
        /* Memory where there is a file system for it: syncs are most of the time otherwise. */
        snprintf(own_dir, sizeof(own_dir), "%s/qcow2test-XXXXXX",
                 access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
        if (!mkdtemp(own_dir))
            bad("cannot make %s", own_dir);
        t.dir = own_dir;
    }
    t.random = t.seed * 0x2545f4914f6cdd1dull;
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        if (strcmp(tests[i].name, argv[optind]))
            continue;
        t.count = t.count ? t.count : tests[i].count;
        r = tests[i].run(&t);
    }
    if (own_dir[0]) {
        snprintf(command, sizeof(command), "rm -rf %s", own_dir);
        if (system(command))
            return 1;
    }
    return r < 0 ? usage() : r;
}
