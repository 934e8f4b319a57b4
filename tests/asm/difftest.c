/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * difftest [--seed S] [--count N] [--mode KIND] [--bits 32|64] [--failures N]
 *          [--case SEED] [--file FILE] [--stress] [--leave]
 *
 * Runs N cases (200,000) derived from S and exits 1 when the engine differed
 * from the host in one. A failing case prints its own seed: --case runs it
 * alone. With --file the instructions are those in a file, one line a case:
 * mode (32 or 64) and bytes in hexadecimal, each from 300 states.
 * --stress has another thread make the vCPU leave translated code all the time;
 * --leave leaves it at random instructions and compares the state there with
 * the interpreter's.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "difftest.h"
#include "engine/soft/soft.h"

static const char *const kind_names[DT_KINDS + 1] = {"int",    "vec", "x87", "string", "branch",
                                                     "gather", "raw", "smc", "image",  "all"};

struct options {
    uint64_t seed, count, one;
    bool single;
    int bits; /* 1: 32, 0: 64, -1: both */
    enum dt_kind kind;
    unsigned failures;
    const char *file;
    bool verbose, stress, leave;
};

#define STATES 300 /* for each line of a file */

static struct tally {
    uint64_t done, insns, skipped, timeouts, mismatches, left;
    uint64_t ends[32];
} tally;

static uint64_t mix(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + i * 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static struct dt_result host, got[DT_WAYS];
static unsigned left, left_bad; /* see leave.c */
static const char *const way_names[DT_WAYS] = {"interpreter",    "translated code",
                                               "the same again", "translated code with a view",
                                               "placed blocks",  "a view's own blocks"};

/* All runs. False: not comparable. */
static bool run_all(const struct dt_case *k)
{
    dt_native_run(k, &host);
    if (host.end >= 32 || host.end == X86_AC_EXC)
        return false;
    if (host.regs.mxcsr >> 16) /* AMD's MXCSR.MM, which guests are not offered */
        return false;
    for (unsigned w = 0; w < DT_WAYS; w++)
        dt_guest_run(k, (enum dt_way)w, &got[w]);
    for (unsigned w = 0; w < DT_WAYS; w++)
        if (got[w].end == DT_END_TIMEOUT)
            return false;
    if (dt_host_takes_more(k, &host, &got[0]))
        return false;
    left = dt_leave_check(k, &left_bad, false);
    return true;
}

/*
 * The generator has flags defined again behind instructions that leave some undefined. But a branch may lead into the
 * middle of an instruction, where what is read as another one has nothing behind it.
 */
static const struct dt_case *stray_case;
static bool stray_undefined;

static bool stray_step(uint64_t rip)
{
    const struct dt_case *k = stray_case;
    uint8_t code[DT_MAX_CODE + 16] = {0};
    uint64_t off = rip - k->init.rip;

    for (unsigned i = 0; i <= k->n; i++)
        if (off == k->off[i])
            return true;
    if (off >= k->off[k->n])
        return true; /* not in the case's code */
    dt_code(k, code);
    stray_undefined = dt_flags_of(code + off, 15).undefined != 0;
    return !stray_undefined;
}

static bool strays_to_undefined_flags(const struct dt_case *k)
{
    stray_case = k;
    stray_undefined = false;
    return !k->mode32 && !k->smc && dt_guest_steps(k, stray_step) && stray_undefined;
}

static bool any_differs(const struct dt_case *k)
{
    bool differ = left_bad != 0;

    for (unsigned w = 0; w < DT_WAYS && !differ; w++)
        differ = dt_differs(k, &host, &got[w], (enum dt_way)w, false);
    return differ && !strays_to_undefined_flags(k);
}

static bool fails(const struct dt_case *k)
{
    return run_all(k) && any_differs(k);
}

static void print_differences(const struct dt_case *k)
{
    printf("  host ends with vector %u, error %x\n", host.end, host.error);
    for (unsigned w = 0; w < DT_WAYS; w++) {
        printf("  %s:\n", way_names[w]);
        if (!dt_differs(k, &host, &got[w], (enum dt_way)w, true))
            printf("    agrees\n");
    }
    if (left_bad)
        dt_leave_check(k, &left_bad, true);
}

static void report(const struct options *o, struct dt_case *k)
{
    static struct dt_result first_host, first_got[DT_WAYS];
    bool first_left_bad = left_bad;

    printf("mismatch: difftest --case %#" PRIx64, k->seed);
    if (o->kind != DT_KINDS)
        printf(" --mode %s", kind_names[o->kind]);
    if (o->bits >= 0)
        printf(" --bits %d", o->bits ? 32 : 64);
    printf("\n");
    first_host = host;
    memcpy(first_got, got, sizeof(got));
    if (fails(k)) {
        dt_shrink(k, fails);
        fails(k);
    } else {
        printf("  NOT WHEN REPEATED. The first time%s:\n",
               first_left_bad ? ", when it was left where the interpreter was not" : "");
        host = first_host;
        memcpy(got, first_got, sizeof(got));
    }
    dt_print_case(k);
    print_differences(k);
    fflush(stdout);
}

/* Returns false when enough failed. */
static bool one(const struct options *o, struct dt_case *k)
{
    if (o->verbose)
        dt_print_case(k);
    tally.done++;
    tally.insns += k->n;
    if (!run_all(k)) {
        tally.skipped++;
        tally.timeouts += host.end != DT_END_SYSCALL && host.end != X86_AC_EXC &&
                          !dt_host_takes_more(k, &host, &got[0]);
        return true;
    }
    tally.ends[host.end]++;
    tally.left += left;
    if (!any_differs(k))
        return true;
    tally.mismatches++;
    if (o->verbose)
        print_differences(k);
    report(o, k);
    return tally.mismatches < o->failures;
}

static struct dt_case the_case;

static bool one_random(const struct options *o, uint64_t seed)
{
    dt_generate(&the_case, seed, o->kind, o->bits);
    return one(o, &the_case);
}

/* One line of a file; false when it is no case. */
static bool run_line(const struct options *o, char *line)
{
    uint8_t code[DT_MAX_CODE];
    unsigned len = 0, bits = 0, at = 0;

    line[strcspn(line, "#\n")] = 0;
    if (!line[strspn(line, " \t")])
        return true;
    if (sscanf(line, "%u %n", &bits, (int *)&at) != 1 || (bits != 32 && bits != 64))
        return false;
    while (len < DT_MAX_INSNS * 15 && sscanf(line + at, "%2hhx", &code[len]) == 1) {
        len++;
        at += 2;
    }
    for (unsigned i = 0; i < STATES; i++) {
        dt_generate_fixed(&the_case, mix(o->seed, i), code, len, bits == 32);
        if (!one(o, &the_case)) {
            printf("  in line: %s\n", line);
            return true;
        }
    }
    return len != 0;
}

static int run_file(const struct options *o)
{
    FILE *f = fopen(o->file, "r");
    char line[512];

    if (!f) {
        perror(o->file);
        return -1;
    }
    while (fgets(line, sizeof(line), f))
        if (!run_line(o, line)) {
            fprintf(stderr, "difftest: not a case: %s\n", line);
            fclose(f);
            return -1;
        }
    fclose(f);
    return 0;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: difftest [--seed S] [--count N] [--mode int|vec|x87|string|branch|"
            "gather|raw|smc|image|all]\n                [--bits 32|64] [--failures N] "
            "[--case SEED] [--file FILE] [--stress] [--leave]\n                [--verbose]\n");
    return 2;
}

static bool parse(int argc, char **argv, struct options *o)
{
    static const struct option longopts[] = {{"seed", required_argument, NULL, 's'},
                                             {"count", required_argument, NULL, 'n'},
                                             {"mode", required_argument, NULL, 'm'},
                                             {"bits", required_argument, NULL, 'b'},
                                             {"failures", required_argument, NULL, 'f'},
                                             {"case", required_argument, NULL, 'c'},
                                             {"file", required_argument, NULL, 'i'},
                                             {"stress", no_argument, NULL, 'x'},
                                             {"leave", no_argument, NULL, 'l'},
                                             {"verbose", no_argument, NULL, 'v'},
                                             {0}};
    int opt;

    while ((opt = getopt_long(argc, argv, "", longopts, NULL)) >= 0) {
        uint64_t v = optarg ? strtoull(optarg, NULL, 0) : 0;

        switch (opt) {
        case 's':
            o->seed = v;
            break;
        case 'n':
            o->count = v;
            break;
        case 'c':
            o->one = v;
            o->single = true;
            break;
        case 'f':
            o->failures = (unsigned)v;
            break;
        case 'b':
            o->bits = v == 32;
            break;
        case 'i':
            o->file = optarg;
            break;
        case 'x':
            o->stress = true;
            break;
        case 'l':
            o->leave = true;
            break;
        case 'v':
            o->verbose = true;
            break;
        case 'm':
            for (o->kind = 0; o->kind < DT_KINDS && strcmp(kind_names[o->kind], optarg);)
                o->kind++;
            if (o->kind == DT_KINDS && strcmp(optarg, "all"))
                return false;
            break;
        default:
            return false;
        }
    }
    return optind == argc;
}

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void print_tally(const struct options *o, double seconds)
{
    printf("seed %#" PRIx64 ": %" PRIu64 " sequences, %" PRIu64 " instructions, %" PRIu64
           " not comparable (%" PRIu64 " too long), %" PRIu64 " mismatches; %.0f sequences/s\n",
           o->seed, tally.done, tally.insns, tally.skipped, tally.timeouts, tally.mismatches,
           (double)tally.done / seconds);
    if (o->leave)
        printf("left at %" PRIu64 " instructions\n", tally.left);
    printf("ended with");
    for (unsigned i = 0; i < 32; i++)
        if (tally.ends[i])
            printf(" #%u: %" PRIu64, i, tally.ends[i]);
    printf("; in views %" PRIu64 " mappings, %" PRIu64 " other faults\n",
           dt_guest_counters()->view_fill, dt_guest_counters()->view_slow);
}

int main(int argc, char **argv)
{
    struct options o = {.seed = 1, .count = 200000, .bits = -1, .kind = DT_KINDS, .failures = 10};
    double start;
    bool alone;

    if (!parse(argc, argv, &o))
        return usage();
    if (dt_guest_init() || dt_native_init() || (o.stress && dt_guest_stress()))
        return 2;
    if (o.leave)
        dt_guest_leave();
    start = now();
    if (o.single)
        one_random(&o, o.one);
    else if (o.file && run_file(&o))
        return 2;
    else
        for (uint64_t i = 0; !o.file && i < o.count && one_random(&o, mix(o.seed, i)); i++)
            ;
    print_tally(&o, now() - start);
    alone = dt_guest_views_alone();
    dt_guest_fini();
    return tally.mismatches || !alone ? 1 : 0;
}
