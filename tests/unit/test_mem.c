/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/core/mem.c src/base/err.c */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
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
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
