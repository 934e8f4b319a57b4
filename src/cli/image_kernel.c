/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lodge image import: the kernel of the system on a disk. Partitions are read by
 * sfdisk and ext file systems by debugfs, both without root and without mounting;
 * what they print of the disk is checked like anything that comes from a guest.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/image.h"
#include "cli/spawn.h"

#define PARTS_MAX  128
#define OUTPUT_MAX KIB(256)
#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+~-"

struct part {
    uint64_t offset, size; /* bytes */
    unsigned number;       /* 0: the disk as a whole */
};

struct disk_kernel {
    const char *raw, *dir;
    struct part part[PARTS_MAX];
    unsigned parts;
    const char *missing; /* a program that is not there; NULL: none */
    /* The newest so far. */
    char kernel[128], initrd[144];
    const char *folder; /* "/boot" or "" */
    unsigned in;        /* its partition, an index */
};

struct output {
    char text[OUTPUT_MAX];
    size_t len;
};

static void take_line(void *opaque, char *line)
{
    struct output *o = opaque;
    size_t len = strlen(line);

    if (len + 2 > sizeof(o->text) - o->len)
        return;
    memcpy(o->text + o->len, line, len);
    o->text[o->len + len] = '\n';
    o->len += len + 1;
    o->text[o->len] = '\0';
}

/* What a program prints, malloc'd; NULL when it cannot be had. */
static struct output *output_of(struct disk_kernel *k, const char *const *argv)
{
    static const char *const env[] = {"LC_ALL=C", "DEBUGFS_PAGER=cat", NULL};
    struct output *o = calloc(1, sizeof(*o));
    const struct spawn s = {.argv = argv, .out = -1, .env = env, .line = take_line, .opaque = o};
    int status = 0;

    int r = o ? spawn_run(&s, &status, NULL) : -ENOMEM;

    if (!r && !status)
        return o;
    if (r == -ENOENT)
        k->missing = argv[0];
    free(o);
    return NULL;
}

/* A disk without a table of partitions is a file system, or nothing we know. */
static void find_parts(struct disk_kernel *k)
{
    const char *const argv[] = {"sfdisk", "--json", k->raw, NULL};
    struct output *o = output_of(k, argv);
    json_t *json = o ? json_loads(o->text, 0, NULL) : NULL;
    json_t *table = json_object_get(json, "partitiontable"), *p;
    json_t *unit = json_object_get(table, "sectorsize");
    uint64_t sector = json_is_integer(unit) ? (uint64_t)json_integer_value(unit) : 512;
    size_t i;

    json_array_foreach(json_object_get(table, "partitions"), i, p)
    {
        const char *node = json_string_value(json_object_get(p, "node"));
        json_int_t start = json_integer_value(json_object_get(p, "start"));
        json_int_t size = json_integer_value(json_object_get(p, "size"));
        size_t name = strlen(k->raw);

        /* RAW1, or RAWp1 when RAW ends in a digit. */
        if (k->parts == PARTS_MAX || start <= 0 || size <= 0 ||
            (uint64_t)start > INT64_MAX / sector || (uint64_t)size > INT64_MAX / sector || !node ||
            strncmp(node, k->raw, name) != 0)
            continue;
        node += name;
        k->part[k->parts++] = (struct part){.offset = (uint64_t)start * sector,
                                            .size = (uint64_t)size * sector,
                                            .number = (unsigned)atoi(node + (*node == 'p'))};
    }
    if (!k->parts)
        k->part[k->parts++] = (struct part){.number = 0};
    json_decref(json);
    free(o);
}

/* One line of "ls -p": /INODE/MODE/UID/GID/NAME/SIZE/. The name if it is a file's that can be used, else NULL. */
static char *file_of(char *line)
{
    char *field[6] = {NULL};

    for (unsigned i = 0; i < ARRAY_SIZE(field); i++) {
        line = line ? strchr(line, '/') : NULL;
        if (!line)
            return NULL;
        *line++ = '\0';
        field[i] = line;
    }
    if (strncmp(field[1], "100", 3) != 0 || strlen(field[4]) >= 100 ||
        strspn(field[4], NAME_CHARS) != strlen(field[4]))
        return NULL;
    return field[4];
}

static void look_into(struct disk_kernel *k, unsigned part, const char *folder)
{
    char name[STORE_PATH + 64], request[64], *rest = NULL;
    const char *const argv[] = {"debugfs", "-R", request, name, NULL};
    struct output *o;

    snprintf(name, sizeof(name), "%s?offset=%llu", k->raw,
             (unsigned long long)k->part[part].offset);
    snprintf(request, sizeof(request), "ls -p %s/", folder);
    o = output_of(k, argv);
    for (char *line = o ? strtok_r(o->text, "\n", &rest) : NULL; line;
         line = strtok_r(NULL, "\n", &rest)) {
        char *file = file_of(line);

        if (!file || strncmp(file, "vmlinuz-", 8) != 0 || strstr(file, "rescue") ||
            (k->kernel[0] && strverscmp(file, k->kernel) <= 0))
            continue;
        snprintf(k->kernel, sizeof(k->kernel), "%s", file);
        k->folder = folder;
        k->in = part;
    }
    free(o);
}

/* True when the file is there now and has something in it. */
static bool dump(struct disk_kernel *k, const char *file, const char *to)
{
    char name[STORE_PATH + 64], request[2 * STORE_PATH], path[STORE_PATH + 16];
    const char *const argv[] = {"debugfs", "-R", request, name, NULL};
    struct stat st;

    snprintf(path, sizeof(path), "%s/%s", k->dir, to);
    snprintf(name, sizeof(name), "%s?offset=%llu", k->raw,
             (unsigned long long)k->part[k->in].offset);
    snprintf(request, sizeof(request), "dump %s/%s \"%s\"", k->folder, file, path);
    free(output_of(k, argv));
    if (!stat(path, &st) && st.st_size > 0)
        return true;
    unlink(path);
    return false;
}

static unsigned root_part(const struct disk_kernel *k)
{
    unsigned largest = 0;

    if (k->folder[0])
        return k->part[k->in].number;
    /* The kernel has a partition to itself; what it starts is on the largest one. */
    for (unsigned i = 1; i < k->parts; i++)
        if (k->part[i].size > k->part[largest].size)
            largest = i;
    return k->part[largest].number;
}

static int take(struct disk_kernel *k, struct store_image *im, struct err *err)
{
    const char *version = k->kernel + strlen("vmlinuz-");
    char path[STORE_PATH + 16], number[16] = "";
    int r;

    if (!dump(k, k->kernel, "vmlinuz"))
        return err_set(err, -EIO, "%s/%s on the disk cannot be read", k->folder, k->kernel);
    strcpy(im->kernel.name, "vmlinuz");
    snprintf(path, sizeof(path), "%s/vmlinuz", k->dir);
    r = store_sum(path, im->kernel.sha256, err);
    snprintf(k->initrd, sizeof(k->initrd), "initrd.img-%s", version);
    if (!r && !dump(k, k->initrd, "initrd.img")) {
        snprintf(k->initrd, sizeof(k->initrd), "initramfs-%s.img", version);
        if (!dump(k, k->initrd, "initrd.img"))
            k->initrd[0] = '\0';
    }
    if (!r && k->initrd[0]) {
        strcpy(im->initrd.name, "initrd.img");
        snprintf(path, sizeof(path), "%s/initrd.img", k->dir);
        r = store_sum(path, im->initrd.sha256, err);
    }
    if (root_part(k))
        snprintf(number, sizeof(number), "%u", root_part(k));
    snprintf(im->append, sizeof(im->append), "console=ttyS0 root=/dev/vda%s rw", number);
    return r;
}

int image_find_kernel(const char *disk, const char *dir, struct store_image *im, struct err *err)
{
    char raw[STORE_PATH + 16];
    struct disk_kernel *k = calloc(1, sizeof(*k));
    int r;

    if (!k)
        return err_set(err, -ENOMEM, "no memory to look for a kernel");
    snprintf(raw, sizeof(raw), "%s/look.raw", dir);
    k->raw = raw;
    k->dir = dir;
    r = strchr(dir, '"') ? -EINVAL : image_convert(disk, "qcow2", raw, "raw", true, err);
    if (!r) {
        find_parts(k);
        for (unsigned i = 0; i < k->parts; i++) {
            look_into(k, i, "/boot");
            look_into(k, i, "");
        }
        if (k->kernel[0])
            r = take(k, im, err);
        else
            fprintf(stderr,
                    "lodge: no kernel was found on the disk%s%s%s, so lodge run needs --kernel\n",
                    k->missing ? " (" : "", k->missing ? k->missing : "",
                    k->missing ? " is not installed)" : "");
    }
    unlink(raw);
    free(k);
    return r;
}
