/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/block/fat.c src/base/err.c */
/* Lines are names of files, each with a size in its first two bytes; what is made of them must be read again. */
#include <stdio.h>

#include "../unit/fat_read.h"
#include "block/fat.h"
#include "fuzz_ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fat_file files[FAT_MAX_FILES];
    char names[FAT_MAX_FILES][40];
    static uint8_t contents[0x10100];
    struct err err = {0};
    uint8_t *disk;
    unsigned n = 0;
    size_t size;

    for (size_t i = 0; i < sizeof(contents); i++)
        contents[i] = (uint8_t)(i * 7 + (i >> 8));
    while (len >= 3 && n < FAT_MAX_FILES) {
        const uint8_t *end = memchr(data + 2, '\n', len - 2);
        size_t name = end ? (size_t)(end - data) - 2 : len - 2;

        snprintf(names[n], sizeof(names[n]), "%.*s", (int)(name < 39 ? name : 39),
                 (const char *)data + 2);
        files[n] = (struct fat_file){names[n], contents + n, data[0] | (size_t)data[1] << 8};
        n++;
        data += 2 + name;
        len -= 2 + name;
        data += len > 0;
        len -= len > 0;
    }
    if (fat_make("CIDATA", files, n, &disk, &size, &err)) {
        fuzz_check(err.what[0]);
        return 0;
    }
    fuzz_check(size % 512 == 0);
    for (unsigned i = 0; i < n; i++) {
        size_t got = 0;
        uint8_t *text = fat_read(disk, size, files[i].name, &got);

        fuzz_check(text && got == files[i].len && !memcmp(text, files[i].data, got));
        free(text);
    }
    free(disk);
    return 0;
}
