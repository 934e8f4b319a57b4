/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/disk_opts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/size.h"
#include "dev/virtio/blk.h"

#define SOCKET "vhost-user="

/* Cut the word at the front off *rest, up to a comma; two commas stand for one in it. NULL: there is none left. */
static char *next_word(char **rest)
{
    char *word = *rest, *to = word, *from;

    if (!word)
        return NULL;
    for (from = word; *from && !(from[0] == ',' && from[1] != ','); from++) {
        *to++ = *from;
        from += *from == ',';
    }
    *rest = *from ? from + 1 : NULL;
    *to = '\0';
    return word;
}

/* ---- Words -------------------------------------------------------------------------------- */

/* In the order of enum block_cache and enum block_aio. */
static const char *const caches[] = {"writeback",  "none",   "writethrough",
                                     "directsync", "unsafe", NULL};
static const char *const aios[] = {"auto", "io_uring", "threads", NULL};

static int choose(const char *word, const char *const *names, const char *value, struct err *err)
{
    char text[80] = "";

    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], value))
            return i;
    for (; *names; names++) {
        strcat(text, text[0] ? "|" : "");
        strcat(text, *names);
    }
    return err_set(err, -EINVAL, "a disk's %s is %s, not '%s'", word, text, value);
}

static int set_format(struct vm_disk *disk, const char *word, const char *value, struct err *err)
{
    disk->image.format = value;
    return 0;
}

static int set_serial(struct vm_disk *disk, const char *word, const char *value, struct err *err)
{
    disk->serial = value;
    if (strlen(value) <= VIRTIO_BLK_SERIAL)
        return 0;
    return err_set(err, -EINVAL, "the serial number of a disk has at most %d characters: '%s'",
                   VIRTIO_BLK_SERIAL, value);
}

static int set_cache(struct vm_disk *disk, const char *word, const char *value, struct err *err)
{
    int found = choose(word, caches, value, err);

    if (found >= 0)
        disk->image.cache = (enum block_cache)found;
    return found < 0 ? found : 0;
}

static int set_aio(struct vm_disk *disk, const char *word, const char *value, struct err *err)
{
    int found = choose(word, aios, value, err);

    if (found >= 0)
        disk->image.aio = (enum block_aio)found;
    return found < 0 ? found : 0;
}

/* In the order of enum block_limit. */
static const char *const limits[] = {"iops", "iops_rd", "iops_wr", "bps", "bps_rd", "bps_wr"};

_Static_assert(ARRAY_SIZE(limits) == BLOCK_LIMITS, "one word a limit");

static bool parse_rate(const char *value, bool bytes, uint64_t *rate)
{
    char *end;

    if (bytes)
        return !size_parse_bytes(value, rate);
    if (!*value || strspn(value, "0123456789") != strlen(value))
        return false;
    errno = 0;
    *rate = strtoull(value, &end, 10);
    return !errno && *rate;
}

const char *disk_limit_name(enum block_limit limit)
{
    return limits[limit];
}

int disk_limit_word(uint64_t limit[BLOCK_LIMITS], const char *word, const char *value,
                    struct err *err)
{
    unsigned i = 0;

    while (i < BLOCK_LIMITS && strcmp(limits[i], word))
        i++;
    if (i == BLOCK_LIMITS)
        return 1;
    if (parse_rate(value, i >= BLOCK_BPS, &limit[i]))
        return 0;
    return err_set(err, -EINVAL, "%s is a number of %s a second, not '%s'", word,
                   i >= BLOCK_BPS ? "bytes, like 20M," : "operations", value);
}

static int set_limit(struct vm_disk *disk, const char *word, const char *value, struct err *err)
{
    return disk_limit_word(disk->image.limit, word, value, err);
}

static const struct {
    const char *name;
    int (*set)(struct vm_disk *disk, const char *word, const char *value, struct err *err);
} words[] = {
    {"format", set_format}, {"serial", set_serial}, {"cache", set_cache},   {"aio", set_aio},
    {"iops", set_limit},    {"iops_rd", set_limit}, {"iops_wr", set_limit}, {"bps", set_limit},
    {"bps_rd", set_limit},  {"bps_wr", set_limit},
};

static int disk_word(struct vm_disk *disk, char *word, struct err *err)
{
    char *value = strchr(word, '=');

    if (!strcmp(word, "ro")) {
        disk->image.read_only = true;
        return 0;
    }
    if (value)
        *value++ = '\0';
    for (size_t i = 0; value && i < ARRAY_SIZE(words); i++)
        if (!strcmp(words[i].name, word))
            return words[i].set(disk, word, value, err);
    err_set(err, -EINVAL, "--disk does not know '%s'", word);
    err_next(err, "After the file: ro, serial=TEXT, format=raw|qcow2, cache=MODE, aio=HOW, limits "
                  "(iops=N, bps=SIZE). A comma in a file's name is written twice.");
    return -EINVAL;
}

/* ---- The option --------------------------------------------------------------------------- */

/* What concerns files does not concern a back end elsewhere. */
static int backend_check(const struct vm_disk *disk, struct err *err)
{
    if (!disk->image.format && !disk->image.cache && !disk->image.aio)
        return 0;
    err_set(err, -EINVAL, "format, cache and aio of a vhost-user disk are its back end's affair");
    return err_next(err, "Leave them out here; limits, ro and serial work.");
}

int opt_disk(const struct opt_desc *opt, const char *val, void *field, struct err *err)
{
    struct run_disks *disks = field;
    struct vm_disk *disk = &disks->disk[disks->count];
    bool backend = !strncmp(val, SOCKET, strlen(SOCKET));
    char *rest, *word;
    int r = 0;

    if (disks->count == VM_MAX_DISKS)
        return err_set(err, -EINVAL, "a guest has at most %d disks", VM_MAX_DISKS);
    rest = disks->text[disks->count] = strdup(backend ? val + strlen(SOCKET) : val);
    if (!rest)
        return err_set(err, -EINVAL, "no memory for --disk");
    disks->count++;
    disk->image.path = next_word(&rest);
    if (!disk->image.path[0])
        return err_set(err, -EINVAL, "--disk needs the name of a %s", backend ? "socket" : "file");
    while (!r && (word = next_word(&rest)))
        r = disk_word(disk, word, err);
    if (!r && backend)
        r = backend_check(disk, err);
    if (!r && backend)
        disk->image.format = BLOCK_VHOST_USER;
    return r;
}

/* A comma in the folder's name is written twice, as in the file's. */
char *keep_disk(const char *val)
{
    size_t before = strncmp(val, SOCKET, strlen(SOCKET)) ? 0 : strlen(SOCKET);
    char *cwd, *text, *to;

    if (val[before] == '/')
        return strdup(val);
    cwd = getcwd(NULL, 0);
    text = cwd ? malloc(2 * strlen(cwd) + strlen(val) + 2) : NULL;
    if (text) {
        to = stpcpy(text, before ? SOCKET : "");
        for (const char *from = cwd; *from; from++) {
            *to++ = *from;
            if (*from == ',')
                *to++ = ',';
        }
        *to++ = '/';
        strcpy(to, val + before);
    }
    free(cwd);
    return text;
}

void run_disks_fini(struct run_disks *disks)
{
    for (unsigned i = 0; i < disks->count; i++)
        free(disks->text[i]);
    disks->count = 0;
}
