/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/engine/soft/perfmap.c src/core/mem.c src/base/err.c */
/* The map of translated code for perf: its text, and that it is written to a file of our own or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/soft/perfmap.h"

#define RX ((const uint8_t *)0x7f0000000000) /* only computed with */

static struct cache cache;
static struct block blocks[8192];
static const struct mem mem;
static char path[64];

static struct block *add(size_t hot, uint32_t len, size_t cold_end)
{
    struct block *b = &blocks[cache.nblocks++];

    memset(b, 0, sizeof(*b));
    b->code = RX + hot;
    b->code_len = len;
    b->cold_end = RX + CACHE_COLD + cold_end;
    cache.used = hot + len;
    return b;
}

static int set_up(void **state)
{
    memset(&cache, 0, sizeof(cache));
    pthread_mutex_init(&cache.lock, NULL);
    cache.rx = (uint8_t *)(uintptr_t)RX;
    cache.blocks = blocks;
    cache.used = cache.glue_end = 0x4c0;
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    return 0;
}

static int tear_down(void **state)
{
    unlink(path);
    rmdir(path);
    pthread_mutex_destroy(&cache.lock);
    return 0;
}

static void assert_text(const char *want)
{
    char text[4096];
    FILE *f = fopen(path, "r");
    size_t n;

    assert_non_null(f);
    n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    assert_string_equal(text, want);
}

static void lines(void **state)
{
    struct block *b;

    b = add(0x4c0, 0x21, 0x123);
    b->phys = 0x1234abc;
    b->key = BLOCK_SOFT;
    b = add(0x4e1, 0x1f, 0x150);    /* behind the first without a gap */
    b->phys = MEM_LOW_MAX + 0x5123; /* from here on above 4 GiB */
    b->key = BLOCK_CAREFUL;
    b = add(0x540, 0, 0); /* stands for bytes in the next page: no code */
    b->of = b + 1;
    b = add(0x540, 0x8, 0x200); /* 0x500 to 0x540: thunks */
    b->phys = 0x7008;
    b->key = BLOCK_DIRECT;
    b = add(0x548, 0x28, 0x21f); /* dead, but its code is still there */
    b->phys = 0x9fed;
    b->key = BLOCK_OF_VIEW(3);
    b->va = 0x7f5512345000;
    b->valid = 0;
    cache.used = 0x5a0; /* more thunks */
    assert_int_equal(perfmap_write(&cache, &mem, NULL), 0);
    assert_text("7f0000000000 4c0 glue\n"
                "7f00000004c0 21 soft:0x1234abc\n"
                "7f0008000000 123 soft:0x1234abc.cold\n"
                "7f00000004e1 1f careful:0x100005123\n"
                "7f0008000123 2d careful:0x100005123.cold\n"
                "7f0000000500 40 thunk\n"
                "7f0000000540 8 direct:0x7008\n"
                "7f0008000150 b0 direct:0x7008.cold\n"
                "7f0000000548 28 own:0x7f5512345fed\n"
                "7f0008000200 1f own:0x7f5512345fed.cold\n"
                "7f0000000570 30 thunk\n");
}

static void empty_cache(void **state)
{
    assert_int_equal(perfmap_write(&cache, &mem, NULL), 0);
    assert_text("7f0000000000 4c0 glue\n");
}

/* Anyone can put things into /tmp under a name that is known beforehand. */
static void link_is_not_followed(void **state)
{
    char victim[] = "/tmp/lodge-perfmap.XXXXXX";
    int fd = mkstemp(victim);
    struct stat st;
    mode_t mask = umask(0);

    assert_true(fd >= 0);
    assert_int_equal(symlink(victim, path), 0);
    assert_int_equal(perfmap_write(&cache, &mem, NULL), 0);
    umask(mask);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0);
    close(fd);
    unlink(victim);
}

/* A file that somebody has open, or a second name of it, is not written to either. */
static void file_is_replaced(void **state)
{
    struct stat before, after;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0666);

    assert_true(fd >= 0);
    assert_int_equal(perfmap_write(&cache, &mem, NULL), 0);
    assert_int_equal(fstat(fd, &before), 0);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(before.st_size, 0);
    assert_true(before.st_ino != after.st_ino);
    assert_true(after.st_size > 0);
    close(fd);
}

static void says_why_not(void **state)
{
    struct err err = {0};

    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(perfmap_write(&cache, &mem, &err), -EISDIR);
    assert_int_equal(err.code, -EISDIR);
    assert_non_null(strstr(err.what, path));
    assert_non_null(strstr(err.what, strerror(EISDIR)));
    assert_true(strlen(err.next) > 0);
}

/* No room: half a map is not left behind. */
static void whole_or_not_at_all(void **state)
{
    struct rlimit old, small;
    struct err err = {0};
    int r;

    for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
        add(0x4c0 + i * 16, 16, (i + 1) * 16);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = KIB(100);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    r = perfmap_write(&cache, &mem, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(r, -EFBIG);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(perfmap_write(&cache, &mem, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines, set_up, tear_down),
        cmocka_unit_test_setup_teardown(empty_cache, set_up, tear_down),
        cmocka_unit_test_setup_teardown(link_is_not_followed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(file_is_replaced, set_up, tear_down),
        cmocka_unit_test_setup_teardown(says_why_not, set_up, tear_down),
        cmocka_unit_test_setup_teardown(whole_or_not_at_all, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
