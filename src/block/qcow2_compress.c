/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Compressed clusters, which are only ever read. */
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2_int.h"

/* Raw deflate without a header; a stream may end before its input does, never before the cluster is full. */
static int inflate_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    z_stream z = {.next_in = (uint8_t *)in,
                  .avail_in = (unsigned)in_len,
                  .next_out = out,
                  .avail_out = (unsigned)out_len};
    int r = inflateInit2(&z, -15);

    if (r != Z_OK)
        return r == Z_MEM_ERROR ? -ENOMEM : -EIO;
    r = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    if (r == Z_MEM_ERROR)
        return -ENOMEM;
    return (r == Z_STREAM_END || r == Z_BUF_ERROR) && !z.avail_out ? 0 : -EIO;
}

static int zstd_cluster(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
    ZSTD_inBuffer src = {in, in_len, 0};
    ZSTD_outBuffer dst = {out, out_len, 0};
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    int r = ctx ? 0 : -ENOMEM;

    /* Frames of clusters are small; a header that asks for a larger window is wrong. */
    if (!r && ZSTD_isError(ZSTD_DCtx_setParameter(ctx, ZSTD_d_windowLogMax, 23)))
        r = -EIO;
    while (!r && dst.pos < dst.size) {
        size_t in_before = src.pos, out_before = dst.pos;

        if (ZSTD_isError(ZSTD_decompressStream(ctx, &dst, &src)) ||
            (src.pos == in_before && dst.pos == out_before))
            r = -EIO;
    }
    ZSTD_freeDCtx(ctx);
    return r;
}

static int decompress(struct qcow2 *q, uint64_t entry, uint8_t *out)
{
    uint64_t offset, len;
    uint8_t *in;
    int r;

    compressed_extent(q, entry, &offset, &len); /* at most two clusters and a sector */
    in = malloc(len);
    if (!in)
        return -ENOMEM;
    r = file_read(&q->file, in, len, offset);
    if (!r)
        r = (q->compression ? zstd_cluster : inflate_cluster)(in, len, out, cluster_size(q));
    free(in);
    return r;
}

static void copy_out(const uint8_t *from, const struct iovec *iov, int n)
{
    for (; n; n--, iov++) {
        memcpy(iov->iov_base, from, iov->iov_len);
        from += iov->iov_len;
    }
}

/*
 * The last few are kept. They stay right for as long as the image is open:
 * nothing compressed is ever written, so an entry means the same bytes always.
 */
int compressed_read(struct qcow2 *q, uint64_t entry, uint64_t in_cluster, const struct iovec *iov,
                    int n)
{
    struct compressed_slot *slot;
    uint8_t *data;
    int r;

    pthread_mutex_lock(&q->comp_lock);
    for (unsigned i = 0; i < ARRAY_SIZE(q->slots); i++) {
        if (q->slots[i].entry == entry) {
            copy_out(q->slots[i].data + in_cluster, iov, n);
            pthread_mutex_unlock(&q->comp_lock);
            return 0;
        }
    }
    pthread_mutex_unlock(&q->comp_lock);
    data = malloc(cluster_size(q));
    r = data ? decompress(q, entry, data) : -ENOMEM;
    if (r) {
        free(data);
        return r;
    }
    copy_out(data + in_cluster, iov, n);
    pthread_mutex_lock(&q->comp_lock);
    slot = &q->slots[q->next_slot++ % ARRAY_SIZE(q->slots)];
    free(slot->data);
    *slot = (struct compressed_slot){entry, data};
    pthread_mutex_unlock(&q->comp_lock);
    return 0;
}
