/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/memcopy.c src/core/mem.c src/core/dirty.c src/base/err.c */
/* Copies of memory that threads write as vCPUs and devices do, under an engine that announces writes and one that logs. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/dirty.h"
#include "core/memcopy.h"
#include "engine/engine.h"

#define SIZE  MIB(16)
#define PAGES (SIZE / PAGE_SIZE)

struct fixture {
    struct vm vm;
    struct engine_ops engine;
    int fd;
    uint8_t *reference;
    unsigned arms;
    int log_result;
    _Atomic uint64_t log[PAGES / 64];
    atomic_uint done;
    /* Threads that write. */
    pthread_mutex_t stop; /* held: they stand still */
    atomic_bool end;
    bool announce;
};

static struct fixture *of(struct vm *vm)
{
    return (struct fixture *)((char *)vm - offsetof(struct fixture, vm));
}

static void fake_arm(struct vm *vm)
{
    of(vm)->arms++;
}

static int fake_log(struct vm *vm, bool on)
{
    return on ? of(vm)->log_result : 0;
}

static int fake_take(struct vm *vm, uint64_t *bitmap)
{
    for (size_t i = 0; i < PAGES / 64; i++)
        bitmap[i] |= atomic_exchange(&of(vm)->log[i], 0);
    return 0;
}

static void on_done(void *opaque)
{
    struct fixture *f = opaque;

    atomic_fetch_add(&f->done, 1);
}

static int setup(void **state, bool announce)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->engine = (struct engine_ops){.name = "fake",
                                    .dirty_log = fake_log,
                                    .dirty_take = fake_take,
                                    .dirty_live = !announce,
                                    .arm = announce ? fake_arm : NULL};
    f->announce = announce;
    f->vm.engine = &f->engine;
    pthread_mutex_init(&f->vm.lock, NULL);
    pthread_mutex_init(&f->stop, NULL);
    assert_int_equal(mem_init(&f->vm.mem, SIZE, NULL), 0);
    f->fd = memfd_create("copy", MFD_CLOEXEC);
    assert_true(f->fd >= 0);
    f->reference = malloc(SIZE);
    assert_non_null(f->reference);
    *state = f;
    return 0;
}

static int setup_announcing(void **state)
{
    return setup(state, true);
}

static int setup_logging(void **state)
{
    return setup(state, false);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    memcopy_fini(&f->vm);
    mem_fini(&f->vm.mem);
    free((void *)f->vm.dirty);
    close(f->fd);
    free(f->reference);
    pthread_mutex_destroy(&f->stop);
    pthread_mutex_destroy(&f->vm.lock);
    free(f);
    return 0;
}

static struct memcopy *new_copy(struct fixture *f, uint64_t offset)
{
    struct memcopy_config cfg = {.fd = f->fd, .offset = offset, .done = on_done, .opaque = f};
    struct memcopy *copy;

    assert_int_equal(ftruncate(f->fd, 0), 0);
    assert_int_equal(memcopy_new(&copy, &f->vm, &cfg, NULL), 0);
    return copy;
}

/* A copy that is prepared reads what is being written: the sanitizer is not to look, as it does not with a guest. */
__attribute__((noinline, no_sanitize("thread"))) static void
write_logged(struct fixture *f, uint64_t page, hva_t at, uint64_t word)
{
    *(volatile uint64_t *)(void *)at = word;
    atomic_fetch_or(&f->log[page / 64], 1ull << page % 64);
}

static void write_word(struct fixture *f, uint64_t page, uint64_t word)
{
    hva_t at = f->vm.mem.map + page * PAGE_SIZE + word % 511 * 8;

    if (!f->announce) {
        write_logged(f, page, at, word);
        return;
    }
    mem_own(&f->vm.mem, at, 8);
    *(volatile uint64_t *)(void *)at = word;
}

static void fill(struct fixture *f)
{
    for (uint64_t page = 0; page < PAGES; page += 1 + page % 5)
        write_word(f, page, page + 1);
}

static void assert_copied(const struct fixture *f, uint64_t offset)
{
    uint8_t got[PAGE_SIZE];

    for (uint64_t page = 0; page < PAGES; page++) {
        assert_int_equal(pread(f->fd, got, sizeof(got), (off_t)(offset + page * PAGE_SIZE)),
                         PAGE_SIZE);
        assert_memory_equal(got, f->reference + page * PAGE_SIZE, PAGE_SIZE);
    }
}

static void it_is_memory_at_the_start(void **state)
{
    struct fixture *f = *state;
    struct memcopy *copy, *second;
    struct memcopy_config cfg = {.fd = f->fd};
    uint64_t done, all;
    struct stat st;

    fill(f);
    memcpy(f->reference, f->vm.mem.map, SIZE);
    copy = new_copy(f, PAGE_SIZE);
    assert_int_equal(memcopy_poll(copy, &done, &all), MEMCOPY_NEW);
    assert_int_equal(all, SIZE);
    assert_int_equal(memcopy_new(&second, &f->vm, &cfg, NULL), -EBUSY);
    assert_null(second);
    assert_int_equal(memcopy_prepare(copy, NULL), 0);
    assert_int_equal(memcopy_prepare(copy, NULL), 0);
    assert_int_equal(memcopy_prepared(copy, 60000, NULL), 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    for (uint64_t page = 0; page < PAGES; page += 3)
        write_word(f, page, page + 7);
    assert_int_equal(memcopy_wait(copy, NULL), 0);
    assert_int_equal(memcopy_poll(copy, &done, &all), MEMCOPY_DONE);
    assert_int_equal(done, all);
    assert_int_equal(f->vm.mem.guard, 0);
    assert_int_equal(f->arms, f->announce ? 1 : 0);
    memcopy_free(copy);
    assert_int_equal(f->done, 1);
    assert_false(f->vm.dirty_on);
    assert_copied(f, PAGE_SIZE);
    assert_int_equal(fstat(f->fd, &st), 0);
    assert_int_equal(st.st_size, SIZE + PAGE_SIZE);
}

static void zeros_take_no_place(void **state)
{
    struct fixture *f = *state;
    struct memcopy *copy;
    struct stat st;

    write_word(f, 5, 1);
    memset(f->vm.mem.map + MIB(1), 0, MIB(1)); /* in memory, and zero */
    memcpy(f->reference, f->vm.mem.map, SIZE);
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    for (uint64_t page = 0; page < PAGES; page++)
        write_word(f, page, page + 7);
    assert_int_equal(memcopy_wait(copy, NULL), 0);
    memcopy_free(copy);
    assert_int_equal(fstat(f->fd, &st), 0);
    assert_int_equal(st.st_blocks * 512, PAGE_SIZE);
    assert_copied(f, 0);
}

struct writer {
    struct fixture *f;
    unsigned seed;
};

static void *write_on(void *opaque)
{
    struct writer *w = opaque;
    uint64_t x = w->seed;

    while (!atomic_load(&w->f->end)) {
        pthread_mutex_lock(&w->f->stop);
        for (unsigned i = 0; i < 200; i++) {
            x = x * 6364136223846793005ull + 1442695040888963407ull;
            write_word(w->f, (x >> 33) % PAGES, x);
        }
        /* What is given back is part of the copy as it was. */
        if (w->f->announce && x % 16 == 0)
            assert_int_equal(
                mem_discard(&w->f->vm.mem, MIB(1) + (x >> 40) % 64 * PAGE_SIZE, 16 * PAGE_SIZE), 0);
        pthread_mutex_unlock(&w->f->stop);
        sched_yield();
    }
    return NULL;
}

/* One thread at a time writes: what they would race for is not the copy's affair. */
static void under_load(void **state)
{
    struct fixture *f = *state;
    struct writer w[2] = {{f, 1}, {f, 2}};
    pthread_t thread[2];

    fill(f);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, write_on, &w[i]), 0);
    for (unsigned round = 0; round < 8; round++) {
        struct memcopy *copy = new_copy(f, 0);

        pthread_mutex_lock(&f->stop);
        assert_int_equal(memcopy_prepare(copy, NULL), 0);
        pthread_mutex_unlock(&f->stop);
        if (round % 2)
            assert_int_equal(memcopy_prepared(copy, 60000, NULL), 0);
        pthread_mutex_lock(&f->stop);
        memcpy(f->reference, f->vm.mem.map, SIZE);
        assert_int_equal(memcopy_start(copy, NULL), 0);
        pthread_mutex_unlock(&f->stop);
        assert_int_equal(memcopy_wait(copy, NULL), 0);
        memcopy_free(copy);
        assert_copied(f, 0);
    }
    atomic_store(&f->end, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}

/* A file that may not grow so far: the guest does not notice. */
static void a_full_disk_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct memcopy *copy;
    struct err err = {0};
    struct rlimit old, small;
    uint64_t all;

    fill(f);
    copy = new_copy(f, 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = MIB(4);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    if (!memcopy_start(copy, &err))
        memcopy_wait(copy, &err);
    for (uint64_t page = 0; page < PAGES; page++)
        write_word(f, page, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(err.code, -EFBIG);
    assert_true(strlen(err.what) > 0);
    assert_int_equal(memcopy_poll(copy, &all, &all), MEMCOPY_FAILED);
    assert_int_equal(f->vm.mem.guard, 0);
    memcopy_free(copy);
    /* And the next one is right. */
    memcpy(f->reference, f->vm.mem.map, SIZE);
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    assert_int_equal(memcopy_wait(copy, NULL), 0);
    memcopy_free(copy);
    assert_copied(f, 0);
}

static void it_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    struct memcopy *copy;
    struct err err = {0};
    int rc;

    fill(f);
    memcopy_free(NULL);
    memcopy_free(new_copy(f, 0));
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_prepare(copy, NULL), 0);
    memcopy_free(copy);
    assert_false(f->vm.dirty_on);
    copy = new_copy(f, 0);
    memcopy_cancel(copy);
    assert_int_equal(memcopy_start(copy, &err), -ECANCELED);
    memcopy_free(copy);
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    memcopy_cancel(copy);
    memcopy_cancel(copy);
    rc = memcopy_wait(copy, &err);
    assert_true(!rc || rc == -ECANCELED);
    assert_int_equal(f->vm.mem.guard, 0);
    memcopy_free(copy);
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    memcopy_free(copy);
    write_word(f, 1, 1);
}

static void a_clear_and_a_move_lose_nothing(void **state)
{
    struct fixture *f = *state;
    struct memcopy *copy;

    fill(f);
    memcpy(f->reference, f->vm.mem.map, SIZE);
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    assert_int_equal(mem_clear(&f->vm.mem, NULL), 0);
    assert_int_equal(memcopy_wait(copy, NULL), 0);
    memcopy_free(copy);
    assert_copied(f, 0);

    fill(f);
    memcpy(f->reference, f->vm.mem.map, SIZE);
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    memcopy_finish(&f->vm);
    memset(f->vm.mem.map, 1, SIZE); /* nobody announces it any more */
    assert_int_equal(memcopy_wait(copy, NULL), 0);
    memcopy_free(copy);
    assert_copied(f, 0);
}

/* The last bytes of a file system are the guest's, whose disks may be there. */
static void what_is_reserved_stays_free(void **state)
{
    struct fixture *f = *state;
    FILE *file = tmpfile();
    struct memcopy_config cfg = {.reserve = UINT64_MAX / 2};
    struct memcopy *copy;
    struct err err = {0};
    struct stat st;

    assert_non_null(file);
    cfg.fd = fileno(file);
    fill(f);
    assert_int_equal(memcopy_new(&copy, &f->vm, &cfg, NULL), 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    assert_int_equal(memcopy_wait(copy, &err), -ENOSPC);
    memcopy_free(copy);
    assert_int_equal(fstat(cfg.fd, &st), 0);
    assert_int_equal(st.st_blocks, 0);
    cfg.reserve = 1;
    assert_int_equal(memcopy_new(&copy, &f->vm, &cfg, NULL), 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    assert_int_equal(memcopy_wait(copy, NULL), 0);
    memcopy_free(copy);
    fclose(file);
}

static void a_log_that_fails_is_told(void **state)
{
    struct fixture *f = *state;
    struct memcopy *copy = new_copy(f, 0);
    struct err err = {0};

    f->log_result = -ENOSPC;
    assert_int_equal(memcopy_prepare(copy, &err), -ENOSPC);
    f->log_result = 0;
    memcopy_free(copy);
    /* A change of engine ends what was prepared under the old one. */
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_prepare(copy, NULL), 0);
    memcopy_finish(&f->vm);
    assert_false(f->vm.dirty_on);
    assert_int_equal(memcopy_prepared(copy, 60000, &err), -ECANCELED);
    assert_int_equal(memcopy_start(copy, &err), -ECANCELED);
    memcopy_free(copy);
}

static void a_copy_reads_through_the_base(void **state)
{
    struct fixture *f = *state;
    struct mem_base base = {memfd_create("base", MFD_CLOEXEC), 0};
    struct memcopy *copy;

    fill(f);
    memcpy(f->reference, f->vm.mem.map, SIZE);
    assert_int_equal(pwrite(base.fd, f->reference, SIZE, 0), SIZE);
    mem_fini(&f->vm.mem);
    assert_int_equal(mem_init_base(&f->vm.mem, SIZE, &base, !f->announce, NULL), 0);
    close(base.fd);
    write_word(f, 77, 5);
    memcpy(f->reference + 77 * PAGE_SIZE, f->vm.mem.map + 77 * PAGE_SIZE, PAGE_SIZE);
    copy = new_copy(f, 0);
    assert_int_equal(memcopy_start(copy, NULL), 0);
    for (uint64_t page = 0; page < PAGES; page += 3)
        write_word(f, page, page + 7);
    assert_int_equal(memcopy_wait(copy, NULL), 0);
    memcopy_free(copy);
    assert_copied(f, 0);
}

#define BOTH(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, setup_announcing, teardown),                             \
        cmocka_unit_test_setup_teardown(name, setup_logging, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(it_is_memory_at_the_start),
        BOTH(zeros_take_no_place),
        BOTH(under_load),
        BOTH(a_full_disk_is_an_error),
        BOTH(it_can_be_cancelled),
        BOTH(a_clear_and_a_move_lose_nothing),
        BOTH(a_copy_reads_through_the_base),
        cmocka_unit_test_setup_teardown(what_is_reserved_stays_free, setup_announcing, teardown),
        cmocka_unit_test_setup_teardown(a_log_that_fails_is_told, setup_logging, teardown),
    };

    alarm(110);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
