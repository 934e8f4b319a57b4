/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests that wait, in the order they came, linked by `next`. Locks are the owner's. */
#ifndef LODGE_BLOCK_LINE_H
#define LODGE_BLOCK_LINE_H

#include "block/block.h"

struct block_line {
    struct block_req *first, **last;
};

static inline void line_init(struct block_line *line)
{
    line->first = NULL;
    line->last = &line->first;
}

static inline void line_add(struct block_line *line, struct block_req *req)
{
    req->next = NULL;
    *line->last = req;
    line->last = &req->next;
}

/* The first one, which there is. */
static inline struct block_req *line_take(struct block_line *line)
{
    struct block_req *req = line->first;

    line->first = req->next;
    if (!line->first)
        line->last = &line->first;
    return req;
}

#endif
