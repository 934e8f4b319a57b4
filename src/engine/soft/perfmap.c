/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
#include "engine/soft/perfmap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What of a block is in the map. */
struct piece {
    const uint8_t *code, *cold_end;
    uint64_t at; /* offset in the guest's memfd; of one with an owner the guest-virtual address */
    uint32_t code_len;
    block_key key;
};

struct snapshot {
    struct piece *pieces; /* in order of their code, which is that of their cold parts, too */
    size_t n;
    const uint8_t *rx, *hot, *hot_end; /* hot: behind the glue */
};

static struct piece piece_of(const struct block *b)
{
    return (struct piece){
        .code = b->code,
        .code_len = b->code_len,
        .cold_end = b->cold_end,
        .at = BLOCK_KNOWS_VA(b->key) ? b->va | (b->phys & ~PAGE_MASK) : b->phys,
        .key = b->key,
    };
}

static int snapshot_take(struct snapshot *s, struct cache *k)
{
    int r = 0;

    memset(s, 0, sizeof(*s));
    pthread_mutex_lock(&k->lock);
    s->rx = k->rx;
    s->hot = k->rx + k->glue_end;
    s->hot_end = k->rx + k->used;
    s->pieces = malloc((k->nblocks + 1) * sizeof(*s->pieces));
    if (!s->pieces)
        r = -ENOMEM;
    for (size_t i = 0; !r && i < k->nblocks; i++)
        if (!k->blocks[i].of) /* others have no code */
            s->pieces[s->n++] = piece_of(&k->blocks[i]);
    pthread_mutex_unlock(&k->lock);
    return r;
}

static void put_range(FILE *f, const uint8_t *from, const uint8_t *to)
{
    fprintf(f, "%" PRIxPTR " %tx ", (uintptr_t)from, to - from);
}

static void put_piece(FILE *f, const struct piece *p, const struct mem *mem, const char *suffix)
{
    static const char *const kinds[] = {
        [BLOCK_SOFT] = "soft", [BLOCK_CAREFUL] = "careful", [BLOCK_DIRECT] = "direct"};
    const char *kind = BLOCK_OWNER(p->key)       ? "own"
                       : (p->key & BLOCK_PLACED) ? "placed"
                                                 : kinds[BLOCK_KIND(p->key)];

    fprintf(f, "%s:0x%" PRIx64 "%s\n", kind,
            BLOCK_KNOWS_VA(p->key) ? p->at : mem_gpa_of_offset(mem, p->at), suffix);
}

/* What is between blocks in the hot code was made by cache_thunk. */
static void put_thunks(FILE *f, const uint8_t *from, const uint8_t *to)
{
    if (from == to)
        return;
    put_range(f, from, to);
    fputs("thunk\n", f);
}

static void put_all(FILE *f, const struct snapshot *s, const struct mem *mem)
{
    const uint8_t *hot = s->hot, *cold = s->rx + CACHE_COLD;

    put_range(f, s->rx, hot);
    fputs("glue\n", f);
    for (size_t i = 0; i < s->n; i++) {
        const struct piece *p = &s->pieces[i];

        put_thunks(f, hot, p->code);
        put_range(f, p->code, p->code + p->code_len);
        put_piece(f, p, mem, "");
        put_range(f, cold, p->cold_end);
        put_piece(f, p, mem, ".cold");
        hot = p->code + p->code_len;
        cold = p->cold_end;
    }
    put_thunks(f, hot, s->hot_end);
}

/* A new file: never one that somebody else has put there for us to write to. */
static FILE *file_create(const char *path)
{
    FILE *f;
    int fd;

    if (unlink(path) && errno != ENOENT)
        return NULL;
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return NULL;
    f = fdopen(fd, "w");
    if (!f) {
        unlink(path);
        close(fd);
        errno = ENOMEM;
    }
    return f;
}

static int file_write(const char *path, const struct snapshot *s, const struct mem *mem)
{
    FILE *f = file_create(path);
    int r = 0;

    if (!f)
        return -errno;
    errno = 0;
    put_all(f, s, mem);
    if (ferror(f))
        r = errno ? -errno : -EIO;
    if (fclose(f) && !r)
        r = -errno;
    if (r)
        unlink(path); /* half a map would pass for a whole one */
    return r;
}

int perfmap_write(struct cache *k, const struct mem *mem, struct err *err)
{
    struct snapshot s;
    char path[32];
    int r = snapshot_take(&s, k);

    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    if (!r)
        r = file_write(path, &s, mem);
    free(s.pieces);
    if (r) {
        err_set(err, r, "cannot write %s: %s", path, strerror(-r));
        err_next(err, "perf looks for it there only. The guest goes on without it.");
    }
    return r;
}
