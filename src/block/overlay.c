/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Going on in an overlay; apart from block.c, which knows no format. */
#include <errno.h>
#include <string.h>

#include "block/block.h"

int block_overlay(struct block *b, const struct block_config *cfg, struct err *err)
{
    struct block below = {.ops = b->ops, .priv = b->priv, .info = b->info, .event_fd = -1};
    int code;

    if (b->info.read_only)
        return 0;
    if (!b->ops->freeze)
        return err_set(err, -ENOTSUP,
                       "the disk under %s is no file of this host, so nothing can be laid over it",
                       cfg->path);
    code = b->ops->freeze(b);
    if (code < 0)
        return err_set(err, code, "cannot write a disk to its end: %s", strerror(-code));
    b->ops = &block_qcow2;
    code = b->ops->open(b, cfg, err);
    if (!code && b->info.size != below.info.size) {
        code = err_set(err, -EINVAL, "%s is not as large as the disk it is for", cfg->path);
        b->ops->close(b);
    }
    b->info = below.info;
    if (code < 0) {
        b->ops = below.ops;
        b->priv = below.priv;
        b->ops->thaw(b);
        return code;
    }
    below.ops->close(&below);
    return 0;
}
