/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Names for translated code in the form that perf(1) reads: /tmp/perf-PID.map, a line "START SIZE NAME" each, numbers
 * in hexadecimal (tools/perf/Documentation/jit-interface.txt in Linux).
 *
 *   glue             the common code at the start of the cache
 *   thunk            code that runs a single instruction for the interpreter
 *   KIND:0xADDR      a block: soft, careful, direct with the guest-physical address of its first byte; own (a block
 *                    of one view) with the guest-virtual one
 *   KIND:0xADDR.cold its part of the cold code
 */
#ifndef LODGE_SOFT_PERFMAP_H
#define LODGE_SOFT_PERFMAP_H

#include "core/mem.h"
#include "engine/soft/cache.h"

/*
 * Write the map of what the cache holds now, blocks that died included, as a new file in the place of any that is
 * there. What a flush has dropped is not in it. Takes the cache's lock, but not while it writes. Any thread but a
 * vCPU's. Negative errno with *err filled: then there is no such file, or one that is not ours to remove.
 */
int perfmap_write(struct cache *k, const struct mem *mem, struct err *err);

#endif
