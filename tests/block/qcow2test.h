/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Random tests of qcow2 images; see qcow2test.c. */
#ifndef LODGE_TESTS_BLOCK_QCOW2TEST_H
#define LODGE_TESTS_BLOCK_QCOW2TEST_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/qcow2.h"

struct test {
    uint64_t count, seed, random;
    const char *dir;   /* for files */
    const char *image; /* to work on, NULL: make one */
    const char *disk;  /* kill: only as a disk of this format, past the cache */
    int cluster_bits, version, backing, lazy; /* -1: at random */
    bool verbose;
};

/* How one image of a test is made. */
struct shape {
    unsigned cluster_bits, version;
    enum { BACKING_NONE, BACKING_RAW, BACKING_QCOW2 } backing;
    bool lazy;
};

uint64_t rnd(struct test *t);
/* 0 to n - 1 */
static inline uint64_t below(struct test *t, uint64_t n)
{
    return rnd(t) % n;
}
void shape_choose(struct test *t, struct shape *s);
const char *shape_text(const struct shape *s);

/* Say what is wrong and end. */
void bad(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* The image must have no damage, and no leaks unless these are allowed. `cfg` is how to open it. */
void must_be_clean(const struct qcow2_config *cfg, bool leaks_allowed, const char *when);

/* ---- Sectors that tell which write they are from -------------------------------------------- */

/*
 * Every sector has the list of what was written to it, oldest first: 0 for
 * zeroes, else a number that goes into each of its words. Between the last
 * state that a flush made safe and the last one submitted, any may be found
 * after a crash. The memory may be shared with a child that is killed.
 */
#define STATES 64

struct sector {
    uint32_t state[STATES];                 /* the latest ones, by number modulo STATES */
    _Atomic uint32_t submitted, done, safe; /* how many; the first is always there */
};

void sector_fill(uint8_t *buf, uint64_t sector, uint32_t state);
/* The state that these 512 bytes are in; UINT32_MAX: none that was ever written. */
uint32_t sector_state(const uint8_t *buf, uint64_t sector);

int test_random(struct test *t);
int test_kill(struct test *t);
int test_power(struct test *t);
int test_threads(struct test *t);
int test_on(struct test *t);
int test_hold(struct test *t);
int test_pattern(struct test *t);

#endif
