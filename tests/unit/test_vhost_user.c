/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/block/ src/base/bucket.c src/base/err.c src/base/log.c */
/* vhost-user disks with back ends that do as they should, and with others. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/log.h"
#include "block/block.h"
#include "vhost_backend.h"

#define MEMORY MIB(8)

struct fixture {
    struct block_memory memory;
    struct backend backend;
    struct block *b;
};

struct asked {
    struct block_req req;
    struct iovec iov[3];
    _Atomic unsigned done;
    int result;
};

static void on_done(struct block_req *req, int result)
{
    struct asked *a = container_of(req, struct asked, req);

    a->result = result;
    a->done++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->memory.fd = memfd_create("test", MFD_CLOEXEC);
    f->memory.size = MEMORY;
    assert_int_equal(ftruncate(f->memory.fd, MEMORY), 0);
    f->memory.base = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, f->memory.fd, 0);
    assert_true(f->memory.base != MAP_FAILED);
    log_set_level(LOG_ERROR);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    munmap(f->memory.base, MEMORY);
    close(f->memory.fd);
    free(f);
    return 0;
}

static int open_disk(struct fixture *f, struct err *err)
{
    const struct block_config cfg = {.path = f->backend.path,
                                     .format = BLOCK_VHOST_USER,
                                     .memory = &f->memory,
                                     .answer_ms = f->backend.fault == FAULT_IS_SILENT ? 200 : 0};

    return block_open(&f->b, &cfg, err);
}

static void begin(struct fixture *f, enum backend_fault fault, unsigned at)
{
    struct err err = {0};

    backend_init(&f->backend, fault, at);
    backend_start(&f->backend);
    assert_int_equal(open_disk(f, &err), 0);
}

static void end(struct fixture *f)
{
    block_close(f->b);
    backend_end(&f->backend);
}

/* Of `len` bytes in three pieces of the shared memory, one of them empty. */
static struct asked *ask(struct fixture *f, struct asked *a, enum block_op op, uint64_t at,
                         uint64_t in_memory, uint64_t len)
{
    char *buf = (char *)f->memory.base + in_memory;

    memset(a, 0, sizeof(*a));
    a->iov[0] = (struct iovec){buf, 100};
    a->iov[1] = (struct iovec){buf, 0};
    a->iov[2] = (struct iovec){buf + 100, len - 100};
    a->req = (struct block_req){
        .op = op, .offset = at, .len = len, .iov = a->iov, .iovcnt = 3, .done = on_done};
    block_submit(f->b, &a->req);
    return a;
}

static int result(struct fixture *f, struct asked *a)
{
    block_drain(f->b);
    assert_int_equal(a->done, 1);
    return a->result;
}

static void reads_writes_flushes(void **state)
{
    struct fixture *f = *state;
    uint8_t *mem = f->memory.base;
    struct asked a;

    begin(f, FAULT_NONE, 0);
    assert_true(f->b->info.size == BACKEND_SIZE);
    assert_int_equal(f->b->info.iov_max, 126);
    for (unsigned i = 0; i < 8192; i++)
        mem[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(result(f, ask(f, &a, BLOCK_WRITE, 512, 0, 8192)), 0);
    pthread_mutex_lock(&f->backend.lock);
    assert_memory_equal(f->backend.disk + 512, mem, 8192);
    pthread_mutex_unlock(&f->backend.lock);
    assert_int_equal(result(f, ask(f, &a, BLOCK_FLUSH, 0, 0, 512)), 0);
    assert_int_equal(f->backend.flushes, 1);
    assert_int_equal(result(f, ask(f, &a, BLOCK_READ, 512, MIB(1), 8192)), 0);
    assert_memory_equal(mem + MIB(1), mem, 8192);
    end(f);
}

/* In pieces, since the back end takes 512 sectors at once. */
static void zeroes_and_discards(void **state)
{
    struct fixture *f = *state;
    struct asked a;

    begin(f, FAULT_NONE, 0);
    for (unsigned i = 0; i < 2; i++) {
        enum block_op op = i ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES;

        pthread_mutex_lock(&f->backend.lock);
        memset(f->backend.disk, 0x55, BACKEND_SIZE);
        pthread_mutex_unlock(&f->backend.lock);
        assert_int_equal(result(f, ask(f, &a, op, 512, 0, 1500 * 512)), 0);
        pthread_mutex_lock(&f->backend.lock);
        assert_int_equal(f->backend.disk[511], 0x55);
        for (unsigned k = 1; k <= 1500; k++)
            assert_int_equal(f->backend.disk[k * 512], 0);
        assert_int_equal(f->backend.disk[1501 * 512], 0x55);
        pthread_mutex_unlock(&f->backend.lock);
    }
    end(f);
}

static void more_at_once_than_it_takes(void **state)
{
    struct fixture *f = *state;
    enum { MANY = 600 };
    struct asked *a = calloc(MANY, sizeof(*a));

    begin(f, FAULT_NONE, 0);
    block_plug(f->b);
    for (unsigned i = 0; i < MANY; i++) {
        memset((char *)f->memory.base + i * 512, (int)i, 512);
        ask(f, &a[i], BLOCK_WRITE, i * 512, i * 512, 512);
    }
    block_unplug(f->b);
    block_drain(f->b);
    for (unsigned i = 0; i < MANY; i++)
        assert_true(a[i].done == 1 && !a[i].result);
    pthread_mutex_lock(&f->backend.lock);
    assert_memory_equal(f->backend.disk, f->memory.base, MANY * 512);
    pthread_mutex_unlock(&f->backend.lock);
    free(a);
    end(f);
}

static void only_from_shared_memory(void **state)
{
    struct fixture *f = *state;
    uint8_t elsewhere[512];
    struct asked a = {.iov[0] = {elsewhere, 512}};

    begin(f, FAULT_NONE, 0);
    a.req = (struct block_req){
        .op = BLOCK_READ, .len = 512, .iov = a.iov, .iovcnt = 1, .done = on_done};
    block_submit(f->b, &a.req);
    assert_int_equal(result(f, &a), -EFAULT);
    a.iov[0] = (struct iovec){(char *)f->memory.base + MEMORY - 511, 512};
    a.done = 0;
    block_submit(f->b, &a.req);
    assert_int_equal(result(f, &a), -EFAULT);
    assert_int_equal(result(f, ask(f, &a, BLOCK_READ, 0, MEMORY - 512, 512)), 0);
    end(f);
}

static void more_elements_than_it_takes(void **state)
{
    struct fixture *f = *state;
    struct iovec iov[127];
    struct asked a = {0};

    begin(f, FAULT_NONE, 0);
    for (unsigned i = 0; i < 127; i++)
        iov[i] = (struct iovec){(char *)f->memory.base + i * 512, 512};
    a.req = (struct block_req){
        .op = BLOCK_WRITE, .len = 126 * 512, .iov = iov, .iovcnt = 126, .done = on_done};
    block_submit(f->b, &a.req);
    assert_int_equal(result(f, &a), 0);
    a.done = 0;
    a.req.iovcnt = 127;
    a.req.len = 127 * 512;
    block_submit(f->b, &a.req);
    assert_int_equal(result(f, &a), -EINVAL);
    end(f);
}

/* Whenever it happens there is a message, and nothing is left. */
static void faults_while_settling(void **state)
{
    static const enum backend_fault faults[] = {FAULT_HANGS_UP,       FAULT_ANSWERS_ELSE,
                                                FAULT_ANSWERS_MORE,   FAULT_ANSWERS_NO_FLAG,
                                                FAULT_HALF_AN_ANSWER, FAULT_REFUSES};
    struct fixture *f = *state;
    unsigned refused = 0;

    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        for (unsigned at = 0; at < BACKEND_MESSAGES; at++) {
            struct err err = {0};
            int code;

            backend_init(&f->backend, faults[i], at);
            backend_start(&f->backend);
            code = open_disk(f, &err);
            if (code) {
                assert_null(f->b);
                assert_int_equal(err.code, code);
                assert_non_null(strstr(err.what, f->backend.path));
                refused++;
                backend_end(&f->backend);
            } else {
                end(f);
            }
        }
    }
    /* Three of the messages have no confirmation that could be wrong, two are asked anything but to refuse. */
    assert_in_range(refused, 5 * (BACKEND_MESSAGES - 3), 6 * BACKEND_MESSAGES);
}

static void back_ends_without_what_is_needed(void **state)
{
    static const struct {
        uint64_t features, protocol;
        uint32_t seg_max;
        int code;
    } table[] = {
        {BACKEND_FEATURES & ~(1ull << 32), BACKEND_PROTOCOL, 126, -ENOTSUP},
        {BACKEND_FEATURES & ~(1ull << 28), BACKEND_PROTOCOL, 126, -ENOTSUP},
        {BACKEND_FEATURES & ~(1ull << 30), BACKEND_PROTOCOL, 126, -ENOTSUP},
        {BACKEND_FEATURES, 0, 126, -ENOTSUP},
        {BACKEND_FEATURES, BACKEND_PROTOCOL, 0, -EPROTO},
        {BACKEND_FEATURES | 1ull << 5, BACKEND_PROTOCOL, 126, -EROFS},
    };
    struct fixture *f = *state;
    struct err err = {0};

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        backend_init(&f->backend, FAULT_NONE, 0);
        f->backend.features = table[i].features;
        f->backend.protocol = table[i].protocol;
        f->backend.seg_max = table[i].seg_max;
        backend_start(&f->backend);
        assert_int_equal(open_disk(f, &err), table[i].code);
        backend_end(&f->backend);
    }
    /* Without confirmations and all that is optional it works. */
    backend_init(&f->backend, FAULT_NONE, 0);
    f->backend.features = 1ull << 28 | 1ull << 30 | 1ull << 32;
    f->backend.protocol = 1ull << 9;
    backend_start(&f->backend);
    assert_int_equal(open_disk(f, &err), 0);
    assert_true(f->b->info.writethrough);
    assert_int_equal(f->b->info.discard_granularity, 0);
    struct asked a;
    assert_int_equal(result(f, ask(f, &a, BLOCK_FLUSH, 0, 0, 512)), 0);
    assert_int_equal(result(f, ask(f, &a, BLOCK_DISCARD, 0, 0, 512)), 0);
    assert_int_equal(result(f, ask(f, &a, BLOCK_WRITE_ZEROES, 0, 0, 512)), -EOPNOTSUPP);
    assert_int_equal(result(f, ask(f, &a, BLOCK_WRITE, 0, 0, 512)), 0);
    end(f);
}

/* Every request gets an answer, an error from the fault on, and nothing hangs. */
static void faults_while_serving(void **state)
{
    static const enum backend_fault faults[] = {FAULT_DIES,       FAULT_IS_SILENT,   FAULT_WRONG_ID,
                                                FAULT_SAME_TWICE, FAULT_WRONG_INDEX, FAULT_TALKS};
    enum { MANY = 300 };
    struct fixture *f = *state;
    struct asked *a = calloc(MANY, sizeof(*a)), last;

    for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
        for (unsigned at = 0; at < 200; at += 90) {
            unsigned failed = 0;

            begin(f, faults[i], at);
            for (unsigned n = 0; n < MANY; n++)
                ask(f, &a[n], n % 3 ? BLOCK_WRITE : BLOCK_READ, n * 512, n * 512, 512);
            block_drain(f->b);
            for (unsigned n = 0; n < MANY; n++) {
                assert_int_equal(a[n].done, 1);
                assert_true(!a[n].result || a[n].result == -EIO);
                failed += a[n].result != 0;
            }
            /* One that went on may have finished all before it was noticed. */
            assert_true(failed || faults[i] == FAULT_TALKS);
            assert_int_equal(result(f, ask(f, &last, BLOCK_READ, 0, 0, 512)), -EIO);
            assert_int_equal(result(f, ask(f, &last, BLOCK_FLUSH, 0, 0, 512)), -EIO);
            end(f);
        }
    }
    free(a);
}

static void an_error_is_that_of_one_request(void **state)
{
    struct fixture *f = *state;
    struct asked a;

    begin(f, FAULT_STATUS, 1);
    assert_int_equal(result(f, ask(f, &a, BLOCK_WRITE, 0, 0, 512)), 0);
    assert_int_equal(result(f, ask(f, &a, BLOCK_WRITE, 0, 0, 512)), -EIO);
    assert_int_equal(result(f, ask(f, &a, BLOCK_WRITE, 0, 0, 512)), 0);
    end(f);
}

static void nobody_there(void **state)
{
    struct fixture *f = *state;
    struct block_config cfg = {
        .path = "/nonexistent/socket", .format = BLOCK_VHOST_USER, .memory = &f->memory};
    char name[300];
    struct err err;

    assert_int_equal(block_open(&f->b, &cfg, &err), -ENOENT);
    assert_non_null(strstr(err.next, "qemu-storage-daemon"));
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    cfg.path = name;
    assert_int_equal(block_open(&f->b, &cfg, &err), -ENAMETOOLONG);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(reads_writes_flushes),
        CASE(zeroes_and_discards),
        CASE(more_at_once_than_it_takes),
        CASE(only_from_shared_memory),
        CASE(more_elements_than_it_takes),
        CASE(faults_while_settling),
        CASE(back_ends_without_what_is_needed),
        CASE(faults_while_serving),
        CASE(an_error_is_that_of_one_request),
        CASE(nobody_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
