/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/block/ src/base/bucket.c src/base/err.c src/base/log.c */
/*
 * The first byte is the number of operations, each of six bytes (fuzz_ops.h);
 * the image follows. It is checked, read, written to as it allows, and
 * repaired. What a repair calls right must be right when it is checked again.
 */
#include "../unit/qcow2_mem.h"
#include "base/log.h"
#include "fuzz_ops.h"

#define FILE_MAX MIB(4)
#define PART     8192
#define OPS_MAX  32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct qcow2 *image_open(struct mem_file *m, bool read_only, bool inspect)
{
    struct qcow2_config cfg = {.path = "image",
                               .read_only = read_only,
                               .inspect = inspect,
                               .no_backing = true,
                               .cache = 1,
                               .ops = &mem_ops,
                               .opaque = m};
    struct err err = {0};
    struct qcow2 *q;

    if (!qcow2_open(&q, &cfg, &err))
        return q;
    fuzz_check(err.what[0]);
    return NULL;
}

/* True when nothing is wrong (any more). */
static bool check(struct mem_file *m, enum qcow2_repair repair)
{
    struct qcow2 *q = image_open(m, repair == QCOW2_REPAIR_NONE, true);
    struct qcow2_check c = {0};
    struct err err = {0};
    bool clean;

    if (!q)
        return false;
    clean = !qcow2_check(q, repair, &c, &err) && !c.corruptions && !c.leaks;
    qcow2_abandon(q);
    return clean;
}

static void snapshots(struct qcow2 *q)
{
    struct qcow2_snapshot s;
    struct qcow2_info info;

    qcow2_get_info(q, &info);
    for (unsigned i = 0; i < info.snapshots && i < 4; i++)
        qcow2_get_snapshot(q, i, &s);
}

static void operate(struct qcow2 *q, const uint8_t *data, size_t len)
{
    static uint8_t buf[PART];
    struct fuzz_op op;
    struct qcow2_info info;
    struct err err;

    snapshots(q);
    while (fuzz_next(&data, &len, &op)) {
        uint64_t off, n = 1 + (op.val >> 19), got;
        struct iovec iov[2] = {{buf, n / 3}, {buf + n / 3, n - n / 3}};
        bool zero;

        qcow2_get_info(q, &info);
        if (!info.size)
            return;
        /* Near the beginning, or anywhere. */
        off = op.what & 8 ? (uint64_t)(op.val & 0x7ffff) * ((info.size >> 19) + 1)
                          : (op.val & 0x7ffff);
        off %= info.size;
        n = n < info.size - off ? n : info.size - off;
        iov[0].iov_len = n / 3;
        iov[1] = (struct iovec){buf + n / 3, n - n / 3};
        switch (op.what & 7) {
        case 0:
        case 1:
            memset(buf, op.addr, n);
            qcow2_writev(q, iov, 2, off, n);
            break;
        case 2:
            qcow2_discard(q, off, n * op.addr < info.size - off ? n * op.addr : n);
            break;
        case 3:
            qcow2_write_zeroes(q, off, n, op.addr & 1);
            break;
        case 4:
            qcow2_flush(q);
            break;
        case 5:
            if (op.addr < 16)
                qcow2_resize(q, info.size / 2 + op.val, true, &err);
            break;
        default:
            if (!qcow2_is_zero(q, off, n, &zero, &got))
                fuzz_check(got && got <= n);
            qcow2_readv(q, iov, 2, off, n);
        }
    }
}

static void run(struct mem_file *m, const uint8_t *ops, size_t ops_len)
{
    bool clean = check(m, QCOW2_REPAIR_NONE);
    struct qcow2 *q = image_open(m, true, false);

    if (q)
        operate(q, ops, ops_len);
    qcow2_close(q);
    q = image_open(m, false, false);
    if (q)
        operate(q, ops, ops_len);
    qcow2_close(q);
    /* What was in order stays so; leaks may come where the file could not grow. */
    if (clean && m->size < FILE_MAX - MIB(2))
        fuzz_check(check(m, QCOW2_REPAIR_LEAKS));
    if (check(m, QCOW2_REPAIR_ALL))
        fuzz_check(check(m, QCOW2_REPAIR_NONE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct mem_file m;
    size_t ops_len;

    if (!m.data)
        m = (struct mem_file){.data = calloc(1, FILE_MAX), .max = FILE_MAX, .fail = -1};
    log_set_level((enum log_level) - 1);
    if (len < 1)
        return 0;
    ops_len = (data[0] < OPS_MAX ? data[0] : OPS_MAX) * 6u;
    if (ops_len > len - 1)
        ops_len = len - 1;
    memset(m.data, 0, m.size);
    m.size = len - 1 - ops_len;
    if (m.size > m.max)
        return 0;
    memcpy(m.data, data + 1 + ops_len, m.size);
    run(&m, data + 1, ops_len);
    return 0;
}
