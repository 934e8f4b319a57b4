/* SPDX-License-Identifier: GPL-2.0-or-later */
/* unit: src/block/fat.c src/base/err.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "block/fat.h"
#include "fat_read.h"

static void check(const struct fat_file *files, unsigned n)
{
    struct err err = {0};
    uint8_t *disk;
    size_t size;

    assert_int_equal(fat_make("CIDATA", files, n, &disk, &size, &err), 0);
    for (unsigned i = 0; i < n; i++) {
        size_t len = 0;
        uint8_t *got = fat_read(disk, size, files[i].name, &len);

        assert_non_null(got);
        assert_int_equal(len, files[i].len);
        assert_memory_equal(got, files[i].data, len);
        free(got);
    }
    free(disk);
}

/* Sizes around a cluster's, and as much as there can be. */
static void contents(void **state)
{
    static const size_t sizes[] = {0, 1, 511, 512, 2047, 2048, 2049, 100000, FAT_MAX_DATA};
    uint8_t *data = malloc(FAT_MAX_DATA);

    assert_non_null(data);
    for (size_t i = 0; i < FAT_MAX_DATA; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct fat_file one[] = {{"user-data", data, sizes[i]}};

        check(one, 1);
    }
    for (size_t i = 0; i + 1 < ARRAY_SIZE(sizes); i++) {
        const struct fat_file some[] = {{"meta-data", data, sizes[i]},
                                        {"a", data + 5, sizes[i] / 2},
                                        {"A long name of 26 letters!", data + 9, 77},
                                        {"user-data", data + 1, sizes[ARRAY_SIZE(sizes) - 2 - i]}};

        check(some, ARRAY_SIZE(some));
    }
    free(data);
}

static void refused(void **state)
{
    static const char *const names[] = {"",   "a/b", "a:b",       "a.",
                                        "a ", "a\n", "a\xc3\xa4", "123456789012345678901234567"};
    struct fat_file files[FAT_MAX_FILES + 1];
    struct err err;
    uint8_t *disk;
    size_t size;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        files[0] = (struct fat_file){names[i], "", 0};
        err = (struct err){0};
        assert_int_equal(fat_make("X", files, 1, &disk, &size, &err), -EINVAL);
        assert_true(err.what[0] != '\0');
    }
    files[0] = (struct fat_file){"same", "", 0};
    files[1] = (struct fat_file){"SAME", "", 0};
    assert_int_equal(fat_make("X", files, 2, &disk, &size, &err), -EINVAL);
    assert_int_equal(fat_make("", files, 1, &disk, &size, &err), -EINVAL);
    assert_int_equal(fat_make("lower", files, 1, &disk, &size, &err), -EINVAL);
    assert_int_equal(fat_make("TWELVELETTER", files, 1, &disk, &size, &err), -EINVAL);
    files[0].len = FAT_MAX_DATA + 1;
    assert_int_equal(fat_make("X", files, 1, &disk, &size, &err), -EFBIG);
    files[0].len = SIZE_MAX;
    assert_int_equal(fat_make("X", files, 1, &disk, &size, &err), -EFBIG);
}

/* What mtools read of random disks, where they are installed. */
static void read_by_mtools(void **state)
{
    char path[] = "/tmp/lodge-test-XXXXXX", command[200];
    static const char name[] = "a name with-some.letters";
    uint8_t data[20000], got[sizeof(data) + 1];
    int fd;

    if (system("mcopy --version >/dev/null 2>&1")) {
        print_message("mtools are not installed\n");
        skip();
    }
    srand(1);
    fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (unsigned i = 0; i < 20; i++) {
        struct fat_file files[] = {{"other", data, (size_t)rand() % 9000},
                                   {name, data, (size_t)rand() % sizeof(data)},
                                   {"third", data, (size_t)rand() % 3000}};
        uint8_t *disk;
        size_t size;
        FILE *f;

        for (size_t k = 0; k < sizeof(data); k++)
            data[k] = (uint8_t)rand();
        assert_int_equal(fat_make("CIDATA", files, 3, &disk, &size, NULL), 0);
        f = fopen(path, "w");
        assert_non_null(f);
        assert_int_equal(fwrite(disk, 1, size, f), size);
        assert_int_equal(fclose(f), 0);
        free(disk);
        snprintf(command, sizeof(command), "mcopy -n -i %s '::%s' -", path, name);
        f = popen(command, "r");
        assert_non_null(f);
        assert_int_equal(fread(got, 1, sizeof(got), f), files[1].len);
        assert_int_equal(pclose(f), 0);
        assert_memory_equal(got, data, files[1].len);
    }
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(contents), cmocka_unit_test(refused),
                                       cmocka_unit_test(read_by_mtools)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
