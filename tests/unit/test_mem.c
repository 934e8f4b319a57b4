/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/mem.c src/base/err.c */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/mem.h"

static void sizes_are_checked(void **state)
{
    static const uint64_t bad[] = {0,          1,          4095,
                                   KIB(640),   KIB(768),   MIB(1) - 1,
                                   MIB(1) + 1, UINT64_MAX, UINT64_MAX & PAGE_MASK,
                                   GIB(1024),  KIB(1020)};
    struct mem mem;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        struct err err = {0};

        assert_int_equal(mem_init(&mem, bad[i], &err), -EINVAL);
        assert_int_equal(err.code, -EINVAL);
        assert_true(strlen(err.what) > 0 && strlen(err.next) > 0);
        assert_null(mem.map);
        mem_fini(&mem);
    }
}

static void low_memory_layout(void **state)
{
    struct mem mem;

    assert_int_equal(mem_init(&mem, MIB(64), NULL), 0);
    assert_int_equal(mem.nslots, 2);
    assert_ptr_equal(mem_hva(&mem, 0, 1), mem.map);
    assert_non_null(mem_hva(&mem, KIB(640) - 1, 1));
    assert_null(mem_hva(&mem, KIB(640) - 1, 2));
    assert_null(mem_hva(&mem, KIB(640), 1));
    assert_null(mem_hva(&mem, KIB(768) - 1, 1));
    assert_non_null(mem_hva(&mem, KIB(768), MIB(64) - KIB(768)));
    assert_null(mem_hva(&mem, KIB(768), MIB(64) - KIB(768) + 1));
    assert_null(mem_hva(&mem, MIB(64), 1));
    assert_null(mem_hva(&mem, MEM_HIGH_BASE, 1));
    mem_fini(&mem);
    mem_fini(&mem);
}

static void memory_above_4g(void **state)
{
    struct mem mem;
    hva_t p;

    assert_int_equal(mem_init(&mem, GIB(4), NULL), 0);
    assert_int_equal(mem.nslots, 3);
    assert_non_null(mem_hva(&mem, MEM_LOW_MAX - 1, 1));
    assert_null(mem_hva(&mem, MEM_LOW_MAX - 1, 2));
    assert_null(mem_hva(&mem, MEM_LOW_MAX, 1));
    assert_null(mem_hva(&mem, MEM_HIGH_BASE - 1, 1));
    p = mem_hva(&mem, MEM_HIGH_BASE, GIB(1));
    assert_ptr_equal(p, mem.map + MEM_LOW_MAX);
    assert_null(mem_hva(&mem, MEM_HIGH_BASE, GIB(1) + 1));
    for (unsigned i = 0; i < mem.nslots; i++) {
        assert_true(mem_gpa_of_offset(&mem, mem.slots[i].offset) == mem.slots[i].base);
        assert_true(mem_gpa_of_offset(&mem, mem.slots[i].offset + mem.slots[i].size - 1) ==
                    mem.slots[i].base + mem.slots[i].size - 1);
    }
    mem_fini(&mem);
}

static void lengths_that_wrap_are_refused(void **state)
{
    struct mem mem;
    char byte;

    assert_int_equal(mem_init(&mem, MIB(2), NULL), 0);
    assert_null(mem_hva(&mem, 0x1000, UINT64_MAX));
    assert_null(mem_hva(&mem, 0x1000, UINT64_MAX - 0xfff));
    assert_null(mem_hva(&mem, UINT64_MAX, 2));
    assert_int_equal(mem_read(&mem, UINT64_MAX, &byte, 1), -EFAULT);
    mem_fini(&mem);
}

static void copies_are_all_or_nothing(void **state)
{
    uint8_t out[16], in[16];
    struct mem mem;

    assert_int_equal(mem_init(&mem, MIB(2), NULL), 0);
    memset(in, 0x5a, sizeof(in));
    assert_int_equal(mem_read(&mem, 0x1000, out, sizeof(out)), 0);
    for (unsigned i = 0; i < sizeof(out); i++)
        assert_int_equal(out[i], 0);
    assert_int_equal(mem_write(&mem, 0x1000, in, sizeof(in)), 0);
    assert_int_equal(mem_read(&mem, 0x1000, out, sizeof(out)), 0);
    assert_memory_equal(in, out, sizeof(in));

    assert_int_equal(mem_write(&mem, KIB(640) - 8, in, sizeof(in)), -EFAULT);
    assert_int_equal(*mem_hva(&mem, KIB(640) - 8, 1), 0);
    memset(out, 1, sizeof(out));
    assert_int_equal(mem_read(&mem, MIB(2) - 8, out, sizeof(out)), -EFAULT);
    assert_int_equal(out[0], 1);
    mem_fini(&mem);
}

static void the_file_is_shared_and_sealed(void **state)
{
    struct mem mem;
    uint8_t byte = 0x77, got = 0;

    assert_int_equal(mem_init(&mem, MIB(2), NULL), 0);
    assert_int_equal(mem_write(&mem, MIB(1), &byte, 1), 0);
    assert_int_equal(pread(mem.fd, &got, 1, MIB(1)), 1);
    assert_int_equal(got, byte);
    assert_int_equal(ftruncate(mem.fd, MIB(1)), -1);
    assert_int_equal(ftruncate(mem.fd, MIB(4)), -1);
    assert_true(fcntl(mem.fd, F_GETFD) & FD_CLOEXEC);
    /* A reset gives the pages back this way. */
    assert_int_equal(fallocate(mem.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIB(2)), 0);
    assert_int_equal(mem_read(&mem, MIB(1), &got, 1), 0);
    assert_int_equal(got, 0);
    mem_fini(&mem);
}

static void whole_pages_are_given_back(void **state)
{
    struct mem mem;

    assert_int_equal(mem_init(&mem, MIB(2), NULL), 0);
    memset(mem_hva(&mem, MIB(1), 0x4000), 0x5a, 0x4000);
    assert_int_equal(mem_discard(&mem, MIB(1) + 1, 0xfff), 0);
    assert_int_equal(mem_discard(&mem, MIB(1) + 1, 0), 0);
    assert_int_equal(mem_discard(&mem, MIB(1) + 0x800, 0x2fff), 0);
    assert_int_equal(*mem_hva(&mem, MIB(1) + 0xfff, 1), 0x5a);
    assert_int_equal(*mem_hva(&mem, MIB(1) + 0x1000, 1), 0);
    assert_int_equal(*mem_hva(&mem, MIB(1) + 0x2fff, 1), 0);
    assert_int_equal(*mem_hva(&mem, MIB(1) + 0x3000, 1), 0x5a);
    assert_int_equal(mem_discard(&mem, MIB(2) - 0x1000, 0x2000), -EFAULT);
    assert_int_equal(mem_discard(&mem, KIB(640), 0x1000), -EFAULT);
    assert_int_equal(mem_discard(&mem, -0x1000ull, 0x2000), -EFAULT);
    mem_fini(&mem);
}

/* ---- A base --------------------------------------------------------------------------------- */

#define BASE_SIZE MIB(8)
#define BASE_AT   PAGE_SIZE /* where the base begins in its file */

struct moves {
    unsigned n;
    uint64_t bytes;
};

static void on_moved(void *opaque, uint64_t offset, uint64_t len)
{
    struct moves *m = opaque;

    m->n++;
    m->bytes += len;
}

/* Page n begins with n + 1, but for those from 2 MiB to 6 MiB, which are a hole. */
static int base_file(void)
{
    int fd = memfd_create("base", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)(BASE_AT + BASE_SIZE)), 0);
    for (uint64_t off = 0; off < BASE_SIZE; off += PAGE_SIZE) {
        uint64_t word = off / PAGE_SIZE + 1;

        if (off < MIB(2) || off >= MIB(6))
            assert_int_equal(pwrite(fd, &word, sizeof(word), (off_t)(BASE_AT + off)), sizeof(word));
    }
    return fd;
}

static uint64_t base_word(uint64_t off)
{
    return off < MIB(2) || off >= MIB(6) ? off / PAGE_SIZE + 1 : 0;
}

/* Where it has anything: a hole gets memory by being read. */
static void assert_like_base(const struct mem *mem, uint64_t from, uint64_t to)
{
    for (uint64_t off = from; off < to; off += PAGE_SIZE) {
        const uint64_t *words = (const uint64_t *)(const void *)(mem->map + off);

        if (!base_word(off))
            continue;
        assert_int_equal(words[0], base_word(off));
        assert_int_equal(words[511], 0);
    }
}

static uint64_t bytes_in(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void with_base(struct mem *mem, bool private, struct moves *moves)
{
    struct mem_base base = {base_file(), BASE_AT};

    assert_int_equal(mem_init_base(mem, BASE_SIZE, &base, private, NULL), 0);
    close(base.fd);
    mem->moved = on_moved;
    mem->moved_opaque = moves;
    *moves = (struct moves){0};
}

static void a_base_is_checked(void **state)
{
    struct mem_base base = {memfd_create("base", MFD_CLOEXEC), 0};
    struct err err = {0};
    struct mem mem;

    assert_int_equal(ftruncate(base.fd, (off_t)(MIB(2) - 1)), 0);
    assert_int_equal(mem_init_base(&mem, MIB(2), &base, false, &err), -EINVAL);
    assert_true(strlen(err.what) > 0);
    assert_null(mem.map);
    assert_int_equal(ftruncate(base.fd, (off_t)MIB(2)), 0);
    base.offset = PAGE_SIZE;
    assert_int_equal(mem_init_base(&mem, MIB(2), &base, false, &err), -EINVAL);
    base.offset = 1;
    assert_int_equal(mem_init_base(&mem, MIB(1), &base, false, &err), -EINVAL);
    base.offset = -PAGE_SIZE;
    assert_int_equal(mem_init_base(&mem, MIB(1), &base, false, &err), -EINVAL);
    close(base.fd);
    base = (struct mem_base){-1, 0};
    assert_int_equal(mem_init_base(&mem, MIB(2), &base, false, &err), -EBADF);
    mem_fini(&mem);
}

static void what_is_written_is_copied(void **state)
{
    uint64_t base_bytes, cluster, word = 7, got;
    struct moves moves;
    struct mem mem;

    with_base(&mem, false, &moves);
    base_bytes = bytes_in(mem.base.fd);
    cluster = 1ull << mem.base.shift;
    assert_like_base(&mem, 0, MIB(8));
    assert_int_equal(bytes_in(mem.fd), MIB(0));
    assert_true(mem_from_base(&mem, MIB(1)));
    assert_false(mem_from_base(&mem, MIB(4))); /* a long hole is memory like any */
    assert_int_equal(mem_write(&mem, MIB(1) + PAGE_SIZE, &word, sizeof(word)), 0);
    assert_int_equal(moves.n, 1);
    assert_int_equal(moves.bytes, cluster);
    assert_false(mem_from_base(&mem, MIB(1)));
    assert_false(mem_from_base(&mem, MIB(1) + cluster - 1));
    assert_true(mem_from_base(&mem, MIB(1) + cluster));
    assert_int_equal(bytes_in(mem.fd), cluster);
    assert_int_equal(mem_read(&mem, MIB(1) + PAGE_SIZE, &got, sizeof(got)), 0);
    assert_int_equal(got, 7);
    assert_like_base(&mem, 0, MIB(1) + PAGE_SIZE);
    assert_like_base(&mem, MIB(1) + 2 * PAGE_SIZE, MIB(8));
    /* Over two clusters, one of them owned, and twice. */
    mem_own(&mem, mem.map + MIB(1) + cluster - 1, 2);
    mem_own(&mem, mem.map + MIB(1) + cluster - 1, 2);
    assert_int_equal(moves.n, 2);
    assert_true(mem_is_own(&mem, MIB(1) + cluster));
    assert_false(mem_is_own(&mem, MIB(1) + 2 * cluster));
    assert_like_base(&mem, MIB(1) + 2 * PAGE_SIZE, MIB(8));
    assert_int_equal(bytes_in(mem.base.fd), base_bytes);
    mem_fini(&mem);
    mem_fini(&mem);
}

static void what_is_given_back_is_zero(void **state)
{
    struct moves moves;
    struct mem mem;

    with_base(&mem, false, &moves);
    assert_int_equal(mem_discard(&mem, MIB(1) + PAGE_SIZE, KIB(256)), 0);
    /* Nothing was copied but what shares a cluster with what stays. */
    assert_true(bytes_in(mem.fd) <= KIB(128));
    assert_like_base(&mem, 0, MIB(1) + PAGE_SIZE);
    for (uint64_t off = 0; off < KIB(256); off += PAGE_SIZE)
        assert_int_equal(mem.map[MIB(1) + PAGE_SIZE + off], 0);
    assert_like_base(&mem, MIB(1) + PAGE_SIZE + KIB(256), MIB(8));
    assert_int_equal(mem_discard(&mem, BASE_SIZE - KIB(64), KIB(64)), 0);
    assert_int_equal(mem.map[BASE_SIZE - PAGE_SIZE], 0);
    assert_int_equal(mem_clear(&mem, NULL), 0);
    for (uint64_t off = 0; off < BASE_SIZE; off += PAGE_SIZE)
        assert_int_equal(mem.map[off], 0);
    assert_int_equal(mem.guard, 0);
    memset(mem.map, 1, BASE_SIZE); /* all of it can be written now */
    assert_int_equal(mem_clear(&mem, NULL), 0);
    assert_int_equal(mem.map[MIB(1)], 0);
    mem_fini(&mem);
}

static void whole_it_needs_no_base(void **state)
{
    for (unsigned private = 0; private < 2; private ++) {
        struct moves moves;
        uint64_t word = 9;
        struct mem mem;

        with_base(&mem, private, &moves);
        assert_int_equal(mem_write(&mem, MIB(7), &word, sizeof(word)), 0);
        assert_int_equal(mem_make_whole(&mem, NULL), 0);
        assert_int_equal(mem_make_whole(&mem, NULL), 0);
        assert_int_equal(mem.guard, 0);
        assert_true(bytes_in(mem.fd) <= MIB(4));
        assert_int_equal(pread(mem.fd, &word, sizeof(word), (off_t)MIB(7)), sizeof(word));
        assert_int_equal(word, 9);
        assert_like_base(&mem, 0, MIB(7));
        assert_like_base(&mem, MIB(7) + PAGE_SIZE, MIB(8));
        memset(mem.map, 1, BASE_SIZE);
        mem_fini(&mem);
    }
}

static void a_private_base_is_the_kernels(void **state)
{
    struct moves moves;
    uint64_t word = 9;
    struct mem mem;

    with_base(&mem, true, &moves);
    assert_int_equal(mem.guard, 0);
    assert_like_base(&mem, 0, MIB(8));
    assert_int_equal(mem_write(&mem, MIB(1), &word, sizeof(word)), 0);
    assert_int_equal(mem.map[MIB(1)], 9);
    assert_int_equal(pread(mem.base.fd, &word, sizeof(word), (off_t)(BASE_AT + MIB(1))),
                     sizeof(word));
    assert_int_equal(word, base_word(MIB(1)));
    assert_int_equal(mem_discard(&mem, MIB(1), KIB(8)), 0);
    assert_int_equal(mem.map[MIB(1)], 0);
    assert_int_equal(mem.map[MIB(1) + PAGE_SIZE], 0);
    assert_like_base(&mem, MIB(1) + KIB(8), MIB(8));
    assert_int_equal(mem_clear(&mem, NULL), 0);
    assert_int_equal(mem.map[MIB(7)], 0);
    assert_int_equal(pread(mem.fd, &word, sizeof(word), (off_t)MIB(7)), sizeof(word));
    assert_int_equal(word, 0);
    mem_fini(&mem);
}

static void data_is_found_without_being_read(void **state)
{
    struct moves moves;
    uint64_t end, word = 1;
    struct mem mem;

    with_base(&mem, false, &moves);
    assert_int_equal(mem_find_data(&mem, 0, &end), 0);
    assert_int_equal(end, MIB(2));
    assert_int_equal(mem_find_data(&mem, MIB(2), &end), MIB(6));
    assert_int_equal(end, MIB(8));
    assert_int_equal(mem_find_data(&mem, MIB(8), &end), MIB(8));
    assert_int_equal(mem_write(&mem, MIB(3), &word, sizeof(word)), 0);
    assert_int_equal(mem_find_data(&mem, MIB(2), &end), MIB(3));
    assert_int_equal(end, MIB(3) + PAGE_SIZE);
    assert_int_equal(mem_clear(&mem, NULL), 0);
    assert_int_equal(mem_find_data(&mem, 0, &end), MIB(8));
    assert_int_equal(mem_write(&mem, MIB(5), &word, sizeof(word)), 0);
    assert_int_equal(mem_find_data(&mem, 0, &end), MIB(5));
    assert_int_equal(end, MIB(5) + PAGE_SIZE);
    mem_fini(&mem);
}

struct reader {
    const struct mem *mem;
    atomic_bool end;
    atomic_ulong bad, rounds;
};

/* Who reads sees the base's content all the time, whether a cluster has been promoted or not. */
static void *read_on(void *opaque)
{
    struct reader *r = opaque;

    while (!atomic_load(&r->end)) {
        for (uint64_t off = 0; off < BASE_SIZE; off += PAGE_SIZE)
            if (*(const volatile uint64_t *)(r->mem->map + off) != base_word(off))
                atomic_fetch_add(&r->bad, 1);
        atomic_fetch_add(&r->rounds, 1);
    }
    return NULL;
}

struct owner {
    struct mem *mem;
    uint64_t first;
};

static void *own_all(void *opaque)
{
    const struct owner *o = opaque;

    for (uint64_t i = 0; i < BASE_SIZE; i += PAGE_SIZE) {
        uint64_t off = (o->first + i * 37) % BASE_SIZE;

        mem_own(o->mem, o->mem->map + off, PAGE_SIZE);
        *(volatile uint64_t *)(o->mem->map + off + 8 + o->first / PAGE_SIZE * 8) = 1;
    }
    return NULL;
}

static void readers_see_no_change(void **state)
{
    pthread_t reading, owning[3];
    struct owner owner[3];
    struct reader r = {0};
    struct moves moves;
    struct mem mem;

    with_base(&mem, false, &moves);
    r.mem = &mem;
    assert_int_equal(pthread_create(&reading, NULL, read_on, &r), 0);
    for (unsigned i = 0; i < 3; i++) {
        owner[i] = (struct owner){&mem, i * PAGE_SIZE};
        assert_int_equal(pthread_create(&owning[i], NULL, own_all, &owner[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(owning[i], NULL);
    while (atomic_load(&r.rounds) < 2)
        sched_yield();
    atomic_store(&r.end, true);
    pthread_join(reading, NULL);
    assert_int_equal(r.bad, 0);
    assert_int_equal(moves.bytes, MIB(4));
    for (uint64_t off = 0; off < BASE_SIZE; off += PAGE_SIZE)
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(mem.map[off + 8 + i * 8], 1);
    mem_fini(&mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(low_memory_layout),
        cmocka_unit_test(memory_above_4g),
        cmocka_unit_test(lengths_that_wrap_are_refused),
        cmocka_unit_test(copies_are_all_or_nothing),
        cmocka_unit_test(the_file_is_shared_and_sealed),
        cmocka_unit_test(whole_pages_are_given_back),
        cmocka_unit_test(a_base_is_checked),
        cmocka_unit_test(what_is_written_is_copied),
        cmocka_unit_test(what_is_given_back_is_zero),
        cmocka_unit_test(whole_it_needs_no_base),
        cmocka_unit_test(a_private_base_is_the_kernels),
        cmocka_unit_test(data_is_found_without_being_read),
        cmocka_unit_test(readers_see_no_change),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
