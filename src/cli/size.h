/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes of memory as people write them. */
#ifndef LODGE_CLI_SIZE_H
#define LODGE_CLI_SIZE_H

#include <stdint.h>

#define SIZE_TEXT 32

/*
 * A decimal number, whole or with a fraction, and a unit: B, K, M, G, T, each
 * of the last four also as KiB and so on, in either case; all are powers of
 * 1024. Without a unit it is MiB. A part of a byte is dropped. 0, or -EINVAL
 * for anything else and for what 64 bits don't hold.
 */
int size_parse(const char *text, uint64_t *bytes);

/* The same for a number of bytes a second or the like: not 0, and without a unit it is bytes. */
int size_parse_bytes(const char *text, uint64_t *bytes);

/* The shortest exact form ("512M"), or two decimals of the largest unit below it; returns buf. */
const char *size_format(uint64_t bytes, char buf[SIZE_TEXT]);

#endif
