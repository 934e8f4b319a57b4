/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/fat.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SECTOR         512u
#define CLUSTER        2048u
#define ROOT_ENTRIES   64u /* four sectors */
#define ROOT_SECTORS   (ROOT_ENTRIES * 32 / SECTOR)
#define CLUSTERS_LEAST 64u
#define LFN_CHARS      13u

/* 1980-01-01, the first day there is ("Date and Time Formats"): the same files make the same disk. */
#define DATE 0x21

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v & 0xffff);
    put16(p + 2, v >> 16);
}

struct fat {
    uint8_t *image;
    unsigned clusters, fat_sectors;
    unsigned next;  /* free cluster; the first is 2 */
    unsigned entry; /* free entry of the root directory */
};

static unsigned fat_start(const struct fat *f, unsigned copy)
{
    return 1 + copy * f->fat_sectors;
}

static uint8_t *root_entry(const struct fat *f, unsigned i)
{
    return f->image + fat_start(f, 2) * SECTOR + i * 32;
}

static uint8_t *cluster_data(const struct fat *f, unsigned cluster)
{
    return f->image + (fat_start(f, 2) + ROOT_SECTORS) * SECTOR + (size_t)(cluster - 2) * CLUSTER;
}

/* "FAT Data Structure": 12 bits each, packed, in both copies. */
static void set_next(struct fat *f, unsigned cluster, unsigned next)
{
    for (unsigned copy = 0; copy < 2; copy++) {
        uint8_t *p = f->image + fat_start(f, copy) * SECTOR + cluster + cluster / 2;

        if (cluster & 1) {
            p[0] = (uint8_t)((p[0] & 0x0f) | (next & 0x0f) << 4);
            p[1] = (uint8_t)(next >> 4);
        } else {
            p[0] = (uint8_t)next;
            p[1] = (uint8_t)((p[1] & 0xf0) | next >> 8);
        }
    }
}

/* "Boot Sector and BPB". */
static void put_boot(struct fat *f, const char label[11])
{
    uint8_t *b = f->image;
    unsigned sectors = fat_start(f, 2) + ROOT_SECTORS + f->clusters * (CLUSTER / SECTOR);

    memcpy(b,
           "\xeb\x3c\x90"
           "LODGE   ",
           11);
    put16(b + 11, SECTOR);
    b[13] = CLUSTER / SECTOR;
    put16(b + 14, 1); /* reserved sectors: this one */
    b[16] = 2;        /* copies of the table */
    put16(b + 17, ROOT_ENTRIES);
    put16(b + 19, sectors);
    b[21] = 0xf8; /* a fixed disk */
    put16(b + 22, f->fat_sectors);
    put16(b + 24, 32); /* sectors a track, and heads: nobody asks */
    put16(b + 26, 2);
    b[36] = 0x80;
    b[38] = 0x29;
    memcpy(b + 39, "GDOL", 4);
    memcpy(b + 43, label, 11);
    memcpy(b + 54, "FAT12   ", 8);
    b[510] = 0x55;
    b[511] = 0xaa;
}

/* A short name that no other file has: "Short Directory Entries", in the form that aliases of long names have. */
static void short_name(const char *name, unsigned i, char out[11])
{
    unsigned at = 0;

    memset(out, ' ', 11);
    for (; *name && at < 6; name++)
        if (isalnum((unsigned char)*name))
            out[at++] = (char)toupper((unsigned char)*name);
    out[at++] = '~';
    out[at] = (char)('1' + i);
}

/* "Long Directory Entries": the name's last part first, each with a sum over the short name. */
static void put_long(struct fat *f, const char *name, const char shrt[11])
{
    static const uint8_t places[LFN_CHARS] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
    size_t len = strlen(name);
    unsigned parts = (unsigned)((len + LFN_CHARS - 1) / LFN_CHARS);
    uint8_t sum = 0;

    for (unsigned i = 0; i < 11; i++)
        sum = (uint8_t)((sum >> 1 | sum << 7) + (uint8_t)shrt[i]);
    for (unsigned part = parts; part; part--) {
        uint8_t *e = root_entry(f, f->entry++);

        e[0] = (uint8_t)(part | (part == parts ? 0x40 : 0));
        e[11] = 0x0f;
        e[13] = sum;
        for (unsigned i = 0; i < LFN_CHARS; i++) {
            size_t at = (part - 1) * LFN_CHARS + i;

            put16(e + places[i], at < len ? (unsigned char)name[at] : at == len ? 0 : 0xffff);
        }
    }
}

static void put_file(struct fat *f, const struct fat_file *file, unsigned i)
{
    unsigned n = (unsigned)((file->len + CLUSTER - 1) / CLUSTER), first = n ? f->next : 0;
    char shrt[11];
    uint8_t *e;

    short_name(file->name, i, shrt);
    put_long(f, file->name, shrt);
    e = root_entry(f, f->entry++);
    memcpy(e, shrt, 11);
    e[11] = 0x20;
    put16(e + 16, DATE);
    put16(e + 18, DATE);
    put16(e + 24, DATE);
    put16(e + 26, first);
    put32(e + 28, (uint32_t)file->len);
    if (n)
        memcpy(cluster_data(f, first), file->data, file->len);
    for (unsigned c = 0; c < n; c++)
        set_next(f, first + c, c + 1 < n ? first + c + 1 : 0xfff);
    f->next += n;
}

static int check_names(const char *label, const struct fat_file *files, unsigned n, struct err *err)
{
    bool ok = strlen(label) && strlen(label) <= 11;

    for (const char *p = label; ok && *p; p++)
        ok = isupper((unsigned char)*p) || isdigit((unsigned char)*p) || strchr("-_ ", *p);
    if (!ok)
        return err_set(err, -EINVAL, "'%.40s' can't be the label of a FAT disk", label);
    for (unsigned i = 0; i < n; i++) {
        const char *name = files[i].name;
        size_t len = strlen(name);

        /* A name does not end with a dot or space, for some systems would drop it. */
        ok = len && len <= FAT_MAX_NAME && !strchr(". ", name[len - 1]);
        for (const char *p = name; ok && *p; p++)
            ok = *p >= ' ' && *p < 0x7f && !strchr("/\\:*?\"<>|", *p);
        for (unsigned j = 0; ok && j < i; j++)
            ok = strcasecmp(name, files[j].name) != 0;
        if (!ok)
            return err_set(err, -EINVAL, "'%.40s' can't be the name of a file on a FAT disk", name);
    }
    return n <= FAT_MAX_FILES ? 0 : err_set(err, -EINVAL, "too many files for a FAT disk");
}

int fat_make(const char *label, const struct fat_file *files, unsigned n, uint8_t **image,
             size_t *len, struct err *err)
{
    char padded[12];
    struct fat f = {.next = 2};
    uint64_t clusters = 0;
    int r = check_names(label, files, n, err);

    if (r)
        return r;
    for (unsigned i = 0; i < n; i++) {
        if (files[i].len > FAT_MAX_DATA)
            clusters = FAT_MAX_DATA;
        else
            clusters += (files[i].len + CLUSTER - 1) / CLUSTER;
    }
    if (clusters * CLUSTER > FAT_MAX_DATA)
        return err_set(err, -EFBIG, "the files do not fit on a FAT disk of %llu MiB",
                       (unsigned long long)(FAT_MAX_DATA >> 20));
    f.clusters = clusters < CLUSTERS_LEAST ? CLUSTERS_LEAST : (unsigned)clusters;
    f.fat_sectors = ((f.clusters + 2) * 3 / 2 + 1 + SECTOR - 1) / SECTOR;
    *len = (size_t)(fat_start(&f, 2) + ROOT_SECTORS) * SECTOR + (size_t)f.clusters * CLUSTER;
    f.image = *image = calloc(1, *len);
    if (!f.image)
        return err_set(err, -ENOMEM, "no memory for a FAT disk");
    snprintf(padded, sizeof(padded), "%-11s", label);
    put_boot(&f, padded);
    set_next(&f, 0, 0xff8);
    set_next(&f, 1, 0xfff);
    memcpy(root_entry(&f, 0), padded, 11);
    root_entry(&f, 0)[11] = 0x08;
    put16(root_entry(&f, 0) + 24, DATE);
    f.entry = 1;
    for (unsigned i = 0; i < n; i++)
        put_file(&f, &files[i], i);
    return 0;
}
