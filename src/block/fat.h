/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small FAT12 disk without partitions, made in memory from a few files: what
 * hands settings to a guest. Microsoft, FAT32 File System Specification 1.03,
 * whose sections fat.c cites.
 */
#ifndef LODGE_BLOCK_FAT_H
#define LODGE_BLOCK_FAT_H

#include "base/err.h"
#include "base/types.h"

#define FAT_MAX_FILES 9
#define FAT_MAX_NAME  26     /* characters of a name */
#define FAT_MAX_DATA  MIB(7) /* of all files, each rounded up to 2 KiB */

struct fat_file {
    const char *name; /* ASCII without / \ : * ? " < > | and control characters */
    const void *data;
    size_t len;
};

/*
 * The disk's bytes, to be freed, in *image, a whole number of sectors of 512.
 * `label`: up to 11 characters, upper case. -EINVAL for a name or label that
 * cannot be, -EFBIG for too much data, -ENOMEM.
 */
int fat_make(const char *label, const struct fat_file *files, unsigned n, uint8_t **image,
             size_t *len, struct err *err);

#endif
