/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/block/ src/base/bucket.c src/base/err.c src/base/log.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "block/block.h"
#include "block/lock.h"
#include "qcow2_mem.h"

#define FILE_MAX MIB(8)
#define DISK     MIB(1)

static struct mem_file mem;

static int setup(void **state)
{
    log_set_level((enum log_level) - 1);
    mem = (struct mem_file){.data = calloc(1, FILE_MAX), .max = FILE_MAX, .fail = -1};
    return mem.data ? 0 : -1;
}

static int teardown(void **state)
{
    free(mem.data);
    return 0;
}

/* ---- Making and opening ---------------------------------------------------------------------- */

static void create(unsigned cluster_bits, unsigned version, bool lazy)
{
    struct qcow2_create c = {.path = "image",
                             .size = DISK,
                             .cluster_bits = cluster_bits,
                             .version = version,
                             .lazy_refcounts = lazy,
                             .ops = &mem_ops,
                             .opaque = &mem};

    mem.fail = -1;
    assert_int_equal(qcow2_create(&c, NULL), 0);
}

static int try_open(struct qcow2 **q, bool read_only, bool inspect, struct err *err)
{
    struct qcow2_config cfg = {.path = "image",
                               .read_only = read_only,
                               .inspect = inspect,
                               .no_backing = true,
                               .ops = &mem_ops,
                               .opaque = &mem};

    *err = (struct err){0};
    return qcow2_open(q, &cfg, err);
}

static struct qcow2 *must_open(bool read_only)
{
    struct qcow2 *q;
    struct err err;

    if (try_open(&q, read_only, false, &err))
        fail_msg("cannot open: %s", err.what);
    return q;
}

static int put(struct qcow2 *q, uint64_t off, uint64_t len, int byte)
{
    static uint8_t buf[MIB(1)];
    struct iovec iov = {buf, len};

    memset(buf, byte, len);
    return qcow2_writev(q, &iov, 1, off, len);
}

static int get(struct qcow2 *q, uint64_t off, int *byte)
{
    uint8_t b;
    struct iovec iov = {&b, 1};
    int r = qcow2_readv(q, &iov, 1, off, 1);

    *byte = b;
    return r;
}

static struct qcow2_check check(enum qcow2_repair repair)
{
    struct qcow2_check c = {0};
    struct qcow2 *q;
    struct err err;

    if (try_open(&q, repair == QCOW2_REPAIR_NONE, true, &err))
        fail_msg("cannot open to check: %s", err.what);
    if (qcow2_check(q, repair, &c, &err))
        fail_msg("cannot check: %s", err.what);
    qcow2_close(q);
    return c;
}

static uint64_t be(uint64_t at, unsigned len)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < len; i++)
        v = v << 8 | mem.data[at + i];
    return v;
}

static void patch(uint64_t at, unsigned len, uint64_t v)
{
    while (len) {
        mem.data[at + --len] = (uint8_t)v;
        v >>= 8;
    }
}

/* ---- Broken images ------------------------------------------------------------------------------ */

/* Each is an error for everybody. */
static void broken_headers(void **state)
{
    static const struct {
        unsigned at, len;
        uint64_t value;
        const char *says;
    } table[] = {
        {0, 4, 0x514649fc, "not a qcow2 image"},
        {4, 4, 1, "version 1"},
        {4, 4, 4, "version 4"},
        {20, 4, 8, "cluster size"},
        {20, 4, 22, "cluster size"},
        {20, 4, 0xffffffff, "cluster size"},
        {24, 8, UINT64_MAX, "size"},
        {24, 8, 1ull << 62, "L1 table's size"},
        {24, 8, GIB(64), "L1 table's size"},
        {32, 4, 1, "encrypted"},
        {36, 4, 0, "L1 table's size"},
        {36, 4, 0xffffffff, "L1 table's size"},
        {36, 4, (32 << 20) / 8 + 1, "L1 table's size"},
        {40, 8, 0, "L1 table's place"},
        {40, 8, 4096 + 512, "L1 table's place"},
        {40, 8, 1ull << 56, "L1 table's place"},
        {40, 8, UINT64_MAX - 4095, "L1 table's place"},
        {48, 8, 0, "refcount table's place"},
        {48, 8, 8, "refcount table's place"},
        {48, 8, 1ull << 63, "refcount table's place"},
        {56, 4, 0, "refcount table's size"},
        {56, 4, 0xffffffff, "refcount table's size"},
        {60, 4, 0xffffffff, "number of snapshots"},
        {60, 4, 1, "snapshot table's place"},
        {72, 8, 4, "external data file"},
        {72, 8, 8, "compression type"},
        {72, 8, 16, "extended L2"},
        {72, 8, 1ull << 63, "number 63"},
        {96, 4, 7, "refcount width"},
        {100, 4, 96, "header's length"},
        {100, 4, 108, "header's length"},
        {100, 4, 8192, "header's length"},
        {100, 4, 0xfffffff8, "header's length"},
        {104, 1, 1, "compression type"},
        {8, 8, 16, "backing file name"},
        {8, 8, 4096, "backing file name"},
        {8, 8, UINT64_MAX, "backing file name"},
        {112, 8, 0x12345678ffffffff, "header extension"},
        {112, 8, 0x1234567800000f89, "header extension"},
        {112, 8, 0xe2792aca00000041, "backing format"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        for (int mode = 0; mode < 3; mode++) {
            struct qcow2 *q;
            struct err err;

            create(12, 3, false);
            patch(16, 4, 10);
            patch(table[i].at, table[i].len, table[i].value);
            if (!try_open(&q, mode > 0, mode > 1, &err) || q)
                fail_msg("field %u: %#llx was taken", table[i].at,
                         (unsigned long long)table[i].value);
            if (!strstr(err.what, table[i].says))
                fail_msg("field %u: '%s' does not say '%s'", table[i].at, err.what, table[i].says);
        }
    }
}

static void short_files(void **state)
{
    struct qcow2 *q;
    struct err err;

    for (uint64_t size = 0; size < 112; size++) {
        create(12, 3, false);
        memset(mem.data + size, 0, mem.size - size);
        mem.size = size;
        /* As far as it goes it may be an image without tables, which nothing can be done with. */
        if (try_open(&q, false, false, &err))
            continue;
        assert_true(size > 103);
        put(q, 0, 4096, 1);
        qcow2_close(q);
    }
}

static void feature_names(void **state)
{
    struct qcow2 *q;
    struct err err;

    create(12, 3, false);
    patch(72, 8, 1ull << 40);
    patch(112, 8, 0x6803f85700000030);
    mem.data[121] = 40;
    memcpy(mem.data + 122, "self-cleaning", 13);
    assert_int_equal(try_open(&q, true, false, &err), -ENOTSUP);
    assert_non_null(strstr(err.what, "self-cleaning"));
}

#define L1(i) (be(40, 8) + (i)*8)

/* Entries that are wrong: an error where they are met, the corrupt bit, and no writes any more. */
static void broken_entries(void **state)
{
    static const struct {
        bool l1;
        uint64_t value;
        bool check; /* a check counts it as damage */
    } table[] = {
        {true, 0x8000000000000200, true},  {true, 0x80ff000000000000, true},
        {true, 0x4000000000001000, true},  {true, 0x8000000000001001, true},
        {true, 0x8000000000000000, true},  {true, 0xffffffffffffffff, true},
        {false, 0x8000000000000200, true}, {false, 0x8100000000001000, true},
        {false, 0x8000000000000000, true}, {false, 0x8000000000000004, true},
        {false, 0xffffffffffffffff, true}, {false, 0xc000000000005000, true},
        {false, 0x4000000000000000, true}, {false, 0x4100000000005000, true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct qcow2 *q;
        struct err err;
        uint64_t at;
        int byte, r;

        create(12, 3, false);
        q = must_open(false);
        assert_int_equal(put(q, 0, 8192, 7), 0);
        assert_int_equal(qcow2_close(q), 0);
        at = table[i].l1 ? L1(0) : be(L1(0), 8) & 0xffffffffffff00;
        patch(at, 8, table[i].value);
        if (table[i].check && !check(QCOW2_REPAIR_NONE).corruptions)
            fail_msg("entry %#llx is no damage to the check", (unsigned long long)table[i].value);
        q = must_open(true);
        r = get(q, 0, &byte);
        if (r != -EIO)
            fail_msg("entry %#llx was read (%d)", (unsigned long long)table[i].value, r);
        qcow2_close(q);
        r = try_open(&q, false, false, &err);
        if (r)
            continue; /* seen at once */
        if (get(q, 0, &byte) != -EIO || put(q, 0, 512, 1) != -EIO ||
            put(q, 65536, 512, 1) != -EIO || qcow2_flush(q) != -EIO)
            fail_msg("entry %#llx was written to", (unsigned long long)table[i].value);
        qcow2_close(q);
        assert_int_equal(be(72, 8), 2);
        assert_int_equal(try_open(&q, false, false, &err), -EINVAL);
        assert_non_null(strstr(err.what, "marked as damaged"));
    }
}

/* Tables in one place: for readers alone. */
static void overlaps(void **state)
{
    struct qcow2 *q;
    struct err err;
    uint64_t l2, reftab;
    int byte;

    create(9, 3, false);
    q = must_open(false);
    for (uint64_t off = 0; off < 4; off++)
        assert_int_equal(put(q, off * 32768, 512, 7), 0);
    qcow2_close(q);
    l2 = be(L1(0), 8);
    reftab = be(48, 8);
    patch(L1(1), 8, l2);
    assert_int_equal(try_open(&q, false, false, &err), -EINVAL);
    q = must_open(true);
    assert_int_equal(get(q, 32768, &byte), 0);
    assert_int_equal(byte, 7);
    qcow2_close(q);
    assert_true(check(QCOW2_REPAIR_NONE).corruptions > 0);
    patch(L1(1), 8, be(reftab, 8) | 1ull << 63);
    assert_int_equal(try_open(&q, false, false, &err), -EINVAL);
    patch(L1(1), 8, 0);
    patch(reftab + 8, 8, be(reftab, 8));
    assert_int_equal(try_open(&q, false, false, &err), -EINVAL);
    assert_true(check(QCOW2_REPAIR_NONE).corruptions > 0);
}

/* An entry that would have the guest write to a table. */
static void data_in_metadata(void **state)
{
    for (unsigned i = 0; i < 4; i++) {
        struct qcow2 *q;
        uint64_t l2, to;

        create(12, 3, false);
        q = must_open(false);
        assert_int_equal(put(q, 0, 8192, 7), 0);
        qcow2_close(q);
        l2 = be(L1(0), 8) & 0xffffffffffff00;
        to = i == 0 ? be(40, 8) : i == 1 ? be(48, 8) : i == 2 ? be(be(48, 8), 8) : l2;
        patch(l2, 8, to | 1ull << 63);
        q = must_open(false);
        assert_int_equal(put(q, 0, 512, 0xff), -EIO);
        qcow2_close(q);
        assert_true(check(QCOW2_REPAIR_NONE).corruptions > 0);
    }
}

/* A refcount of zero for what is in use: it is not given to anybody else if it holds metadata. */
static void free_metadata(void **state)
{
    struct qcow2 *q;
    uint64_t block;
    int r = 0;

    create(12, 3, false);
    q = must_open(false);
    assert_int_equal(put(q, 0, 8192, 7), 0);
    qcow2_close(q);
    block = be(be(48, 8), 8);
    for (unsigned i = 0; i < 16; i++)
        patch(block + i * 2, 2, 0);
    assert_true(check(QCOW2_REPAIR_NONE).corruptions > 5);
    q = must_open(false);
    for (uint64_t off = 65536; off < DISK && !r; off += 65536)
        r = put(q, off, 4096, 1);
    assert_int_equal(r, -EIO);
    qcow2_close(q);
    assert_int_equal(check(QCOW2_REPAIR_ALL).corruptions, 0);
    assert_int_equal(check(QCOW2_REPAIR_NONE).leaks, 0);
    q = must_open(false);
    assert_int_equal(put(q, 65536, 4096, 1), 0);
    assert_int_equal(get(q, 0, &r), 0);
    assert_int_equal(r, 7);
    assert_int_equal(qcow2_close(q), 0);
}

/* ---- Errors of the file ------------------------------------------------------------------------- */

static int work(struct qcow2 *q)
{
    int r = 0;

    for (uint64_t i = 0; i < 30 && !r; i++) {
        uint64_t off = i * 7919 * 512 % (DISK - 40000);

        if (i % 5 == 3)
            r = qcow2_discard(q, off, 30000);
        else if (i % 5 == 4)
            r = i & 1 ? qcow2_flush(q) : qcow2_write_zeroes(q, off, 9000, true);
        else
            r = put(q, off, 1 + i * 1000, 3);
    }
    return r;
}

/* All writes from the n-th on fail, or only that one. False when n was too large for that. */
static bool fail_at(unsigned form, bool once, int n)
{
    struct qcow2 *q;
    bool failed;
    int byte;

    create(form ? 9 : 12, form == 2 ? 2 : 3, form == 3);
    q = must_open(false);
    assert_int_equal(put(q, 0, 5000, 9), 0);
    assert_int_equal(qcow2_flush(q), 0);
    mem.once = once;
    mem.fail = n;
    failed = work(q) != 0;
    if (failed)
        work(q);
    assert_int_equal(get(q, 4999, &byte), 0);
    if (qcow2_close(q))
        failed = true;
    mem.fail = -1;
    if (be(72, 8) & 1 && form == 3)
        qcow2_close(must_open(false));
    if (check(QCOW2_REPAIR_NONE).corruptions)
        fail_msg("form %u: damage after write %d failed%s", form, n, once ? " once" : "");
    assert_int_equal(check(QCOW2_REPAIR_LEAKS).leaks, 0);
    return failed;
}

/* Whenever writing fails, what is in the file is sound, and reading goes on. */
static void write_errors(void **state)
{
    for (unsigned form = 0; form < 4; form++)
        for (unsigned once = 0; once < 2; once++)
            for (int n = 0; fail_at(form, once, n);)
                n += 1 + n / 100;
}

/* What could not be synced may be lost whatever a second try says. */
static void sync_errors(void **state)
{
    struct qcow2 *q;

    create(12, 3, false);
    q = must_open(false);
    assert_int_equal(put(q, 0, 4096, 1), 0);
    assert_int_equal(qcow2_flush(q), 0);
    mem.fail = 0;
    assert_int_equal(qcow2_flush(q), -EIO);
    mem.fail = -1;
    assert_int_equal(qcow2_flush(q), -EIO);
    assert_int_equal(put(q, 0, 4096, 1), -EIO);
    assert_int_equal(qcow2_close(q), -EIO);
    assert_int_equal(check(QCOW2_REPAIR_NONE).corruptions, 0);
}

/* ---- Growing tables ------------------------------------------------------------------------------- */

/* With the smallest clusters a table of refcounts outgrows its cluster at 8 MiB. */
static void refcount_table_grows(void **state)
{
    struct qcow2_create c = {
        .path = "image", .size = MIB(24), .cluster_bits = 9, .ops = &mem_ops, .opaque = &mem};
    struct qcow2_check found;
    struct qcow2 *q;
    uint64_t old;
    int byte;

    free(mem.data);
    mem = (struct mem_file){.data = calloc(1, MIB(32)), .max = MIB(32), .fail = -1};
    assert_int_equal(qcow2_create(&c, NULL), 0);
    old = be(48, 8);
    q = must_open(false);
    for (uint64_t off = 0; off < MIB(24); off += MIB(1))
        assert_int_equal(put(q, off, MIB(1), (int)(off >> 20) + 1), 0);
    assert_int_equal(qcow2_close(q), 0);
    assert_true(be(48, 8) != old && be(56, 4) > 1);
    found = check(QCOW2_REPAIR_NONE);
    assert_int_equal(found.corruptions, 0);
    assert_int_equal(found.leaks, 0);
    q = must_open(true);
    for (uint64_t off = 0; off < MIB(24); off += MIB(1)) {
        assert_int_equal(get(q, off + 511, &byte), 0);
        assert_int_equal(byte, (int)(off >> 20) + 1);
    }
    qcow2_close(q);
}

/* From a table in one cluster to one of hundreds in a row, and what was there stays. */
static void l1_table_grows(void **state)
{
    struct qcow2_check found;
    struct qcow2 *q;
    struct err err;
    int byte;

    create(9, 3, false);
    q = must_open(false);
    assert_int_equal(put(q, DISK - 512, 512, 5), 0);
    assert_int_equal(qcow2_resize(q, GIB(2), false, &err), 0);
    assert_int_equal(put(q, GIB(2) - 512, 512, 6), 0);
    assert_int_equal(qcow2_resize(q, GIB(256), false, &err), -EFBIG);
    assert_int_equal(qcow2_close(q), 0);
    assert_true(be(36, 4) >= GIB(2) / 32768);
    found = check(QCOW2_REPAIR_NONE);
    assert_int_equal(found.corruptions, 0);
    assert_int_equal(found.leaks, 0);
    q = must_open(false);
    assert_int_equal(get(q, DISK - 1, &byte), 0);
    assert_int_equal(byte, 5);
    assert_int_equal(get(q, GIB(2) - 1, &byte), 0);
    assert_int_equal(byte, 6);
    assert_int_equal(qcow2_resize(q, DISK, false, &err), -EINVAL);
    assert_int_equal(qcow2_resize(q, DISK, true, &err), 0);
    assert_int_equal(qcow2_resize(q, GIB(2), false, &err), 0);
    assert_int_equal(get(q, GIB(2) - 1, &byte), 0);
    assert_int_equal(byte, 0);
    assert_int_equal(qcow2_close(q), 0);
    found = check(QCOW2_REPAIR_NONE);
    assert_int_equal(found.corruptions + found.leaks, 0);
}

/* ---- Lazy refcounts, autoclear bits, empty images ---------------------------------------------------- */

static void lazy(void **state)
{
    struct qcow2 *q;
    int byte;

    create(12, 3, true);
    q = must_open(false);
    assert_int_equal(be(72, 8), 0);
    assert_int_equal(put(q, 0, 100000, 4), 0);
    assert_int_equal(be(72, 8), 1);
    assert_int_equal(qcow2_flush(q), 0);
    qcow2_abandon(q);
    assert_true(check(QCOW2_REPAIR_NONE).corruptions > 0);
    q = must_open(true); /* mapping is right */
    assert_int_equal(get(q, 99999, &byte), 0);
    assert_int_equal(byte, 4);
    qcow2_close(q);
    assert_int_equal(be(72, 8), 1);
    q = must_open(false);
    assert_int_equal(be(72, 8), 0);
    assert_int_equal(be(80, 8), 1);
    assert_int_equal(put(q, 200000, 100000, 5), 0);
    assert_int_equal(be(72, 8), 1);
    assert_int_equal(qcow2_close(q), 0);
    assert_int_equal(be(72, 8), 0);
    assert_int_equal(check(QCOW2_REPAIR_NONE).corruptions, 0);
}

static void autoclear(void **state)
{
    struct qcow2 *q;

    create(12, 3, false);
    patch(88, 8, 0xf0);
    qcow2_close(must_open(true));
    assert_int_equal(be(88, 8), 0xf0);
    q = must_open(false);
    assert_int_equal(be(88, 8), 0);
    qcow2_close(q);
}

static void limits(void **state)
{
    struct qcow2 *q;
    int byte;

    create(16, 3, false);
    q = must_open(false);
    assert_int_equal(put(q, DISK, 1, 1), -EINVAL);
    assert_int_equal(put(q, DISK - 1, 2, 1), -EINVAL);
    assert_int_equal(put(q, UINT64_MAX, 2, 1), -EINVAL);
    assert_int_equal(qcow2_discard(q, 1, UINT64_MAX), -EINVAL);
    assert_int_equal(qcow2_write_zeroes(q, DISK + 1, 0, true), -EINVAL);
    assert_int_equal(get(q, DISK, &byte), -EINVAL);
    qcow2_close(q);
    q = must_open(true);
    assert_int_equal(put(q, 0, 1, 1), -EROFS);
    assert_int_equal(qcow2_discard(q, 0, DISK), -EROFS);
    assert_int_equal(qcow2_flush(q), 0);
    qcow2_close(q);
}

/* ---- Files: backing chains and locks -------------------------------------------------------------------- */

static char dir[] = "/tmp/lodge-test-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[4][64];
    static unsigned n;

    snprintf(path[++n % 4], sizeof(path[0]), "%s/%s", dir, name);
    return path[n % 4];
}

static int file_create(const char *name, const char *backing, const char *fmt)
{
    struct qcow2_create c = {.path = in_dir(name),
                             .size = DISK,
                             .cluster_bits = 12,
                             .backing = backing,
                             .backing_fmt = fmt,
                             .replace = true};

    return qcow2_create(&c, NULL);
}

static int file_open(const char *name, bool read_only, struct qcow2 **q, struct err *err)
{
    struct qcow2_config cfg = {.path = in_dir(name), .read_only = read_only};

    *err = (struct err){0};
    return qcow2_open(q, &cfg, err);
}

static void backing_names(void **state)
{
    static const struct {
        const char *backing, *fmt;
        int code;
        const char *says;
    } table[] = {
        {"base", "qcow2", 0, ""},
        {"file:base", "qcow2", 0, ""},
        {"base", "raw", 0, ""},
        {"base", NULL, -EINVAL, "looks like a qcow2 image"},
        {"base", "vmdk", -ENOTSUP, "'vmdk'"},
        {"nbd://host/x", "raw", -ENOTSUP, "no file"},
        {"json:{\"driver\":\"raw\"}", "raw", -ENOTSUP, "no file"},
        {"missing", "raw", -ENOENT, "missing"},
        {"top", "qcow2", -ELOOP, "its own backing file"},
        {".", "raw", -EINVAL, ""},
    };

    assert_int_equal(file_create("base", NULL, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct qcow2 *q;
        struct err err;
        int r;

        assert_int_equal(file_create("top", table[i].backing, table[i].fmt), 0);
        r = file_open("top", true, &q, &err);
        if (r != table[i].code || !strstr(err.what, table[i].says))
            fail_msg("%s: %d, '%s'", table[i].backing, r, err.what);
        qcow2_close(q);
    }
}

static void long_chain(void **state)
{
    struct qcow2 *q;
    struct err err;
    char name[16], below[16] = "c0";
    int byte;

    assert_int_equal(file_create("c0", NULL, NULL), 0);
    assert_int_equal(file_open("c0", false, &q, &err), 0);
    assert_int_equal(put(q, 4097, 1, 42), 0);
    qcow2_close(q);
    for (unsigned i = 1; i < 300; i++) {
        snprintf(name, sizeof(name), "c%u", i);
        assert_int_equal(file_create(name, below, "qcow2"), 0);
        memcpy(below, name, sizeof(below));
    }
    if (file_open(below, false, &q, &err))
        fail_msg("%s", err.what);
    assert_int_equal(get(q, 4097, &byte), 0);
    assert_int_equal(byte, 42);
    assert_int_equal(put(q, 4098, 1, 43), 0);
    assert_int_equal(get(q, 4097, &byte), 0);
    assert_int_equal(byte, 42);
    assert_int_equal(qcow2_close(q), 0);
}

static void locks(void **state)
{
    struct qcow2 *a, *b;
    struct err err;

    assert_int_equal(file_create("base", NULL, NULL), 0);
    assert_int_equal(file_create("top", "base", "qcow2"), 0);
    assert_int_equal(file_create("other", "base", "qcow2"), 0);
    assert_int_equal(file_open("top", false, &a, &err), 0);
    assert_int_equal(file_open("top", false, &b, &err), -EBUSY);
    assert_non_null(strstr(err.what, "in use"));
    assert_int_equal(file_open("top", true, &b, &err), -EBUSY);
    assert_int_equal(file_open("base", false, &b, &err), -EBUSY);
    assert_int_equal(file_open("other", false, &b, &err), 0);
    qcow2_close(b);
    qcow2_close(a);
    assert_int_equal(file_open("top", true, &a, &err), 0);
    assert_int_equal(file_open("top", true, &b, &err), 0);
    qcow2_close(b);
    assert_int_equal(file_open("top", false, &b, &err), -EBUSY);
    qcow2_close(a);
    assert_int_equal(file_open("top", false, &b, &err), 0);
    qcow2_close(b);
}

/* ---- Through block.h ----------------------------------------------------------------------------------- */

struct waiting {
    struct block_req req;
    int result;
};

static void done(struct block_req *req, int result)
{
    container_of(req, struct waiting, req)->result = result;
}

static int request(struct block *b, enum block_op op, uint64_t off, struct iovec *iov, uint64_t len)
{
    struct waiting w = {.req = {.op = op,
                                .offset = off,
                                .len = len,
                                .iov = iov,
                                .iovcnt = !!iov,
                                .unmap = true,
                                .done = done}};

    block_submit(b, &w.req);
    block_drain(b);
    return w.result;
}

static void as_block(void **state)
{
    static uint8_t buf[65536];
    struct iovec iov = {buf, sizeof(buf)};
    struct block_config cfg = {.path = in_dir("disk.qcow2")};
    struct err err = {0};
    struct block *b;

    assert_int_equal(file_create("disk.qcow2", NULL, NULL), 0);
    if (block_open(&b, &cfg, &err))
        fail_msg("%s", err.what);
    assert_int_equal(b->info.size, DISK);
    assert_int_equal(b->info.discard_granularity, 4096);
    memset(buf, 0x5a, sizeof(buf));
    assert_int_equal(request(b, BLOCK_WRITE, 512, &iov, sizeof(buf)), 0);
    memset(buf, 0, sizeof(buf));
    assert_int_equal(request(b, BLOCK_READ, 512, &iov, sizeof(buf)), 0);
    assert_int_equal(buf[0], 0x5a);
    assert_int_equal(buf[65535], 0x5a);
    assert_int_equal(request(b, BLOCK_DISCARD, 4096, NULL, 8192), 0);
    assert_int_equal(request(b, BLOCK_WRITE_ZEROES, 16384, NULL, 512), 0);
    assert_int_equal(request(b, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(request(b, BLOCK_READ, 512, &iov, sizeof(buf)), 0);
    assert_int_equal(buf[4096 - 512 - 1], 0x5a);
    assert_int_equal(buf[4096 - 512], 0);
    assert_int_equal(buf[16384 - 512], 0);
    assert_int_equal(buf[16384], 0x5a);
    block_close(b);
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? setup(state) : -1;
}

static int remove_dir(void **state)
{
    char command[64];

    snprintf(command, sizeof(command), "rm -rf %s", dir);
    teardown(state);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_headers), cmocka_unit_test(short_files),
        cmocka_unit_test(feature_names),  cmocka_unit_test(broken_entries),
        cmocka_unit_test(overlaps),       cmocka_unit_test(data_in_metadata),
        cmocka_unit_test(free_metadata),  cmocka_unit_test(write_errors),
        cmocka_unit_test(sync_errors),    cmocka_unit_test(refcount_table_grows),
        cmocka_unit_test(l1_table_grows), cmocka_unit_test(lazy),
        cmocka_unit_test(autoclear),      cmocka_unit_test(limits),
        cmocka_unit_test(backing_names),  cmocka_unit_test(long_chain),
        cmocka_unit_test(locks),          cmocka_unit_test(as_block),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
