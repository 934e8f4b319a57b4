/* SPDX-License-Identifier: GPL-2.0-or-later */
/* --disk of `lodge run`. */
#ifndef LODGE_CLI_DISK_OPTS_H
#define LODGE_CLI_DISK_OPTS_H

#include "cli/opts.h"
#include "core/vm.h"

/* As often as it is given; the strings are in `text`, which run_disks_fini frees. */
struct run_disks {
    unsigned count;
    struct vm_disk disk[VM_MAX_DISKS];
    char *text[VM_MAX_DISKS];
};

/* opt_desc.parse: FILE[,WORD]...; field is a struct run_disks. */
int opt_disk(const struct opt_desc *opt, const char *val, void *field, struct err *err);

/* One limit, such as iops=100. 1: there is no such limit; -EINVAL: it is wrong. */
int disk_limit_word(uint64_t limit[BLOCK_LIMITS], const char *word, const char *value,
                    struct err *err);
const char *disk_limit_name(enum block_limit limit);

/* opt_desc.keep: the same with an absolute path; NULL without memory. */
char *keep_disk(const char *val);

/* Idempotent. */
void run_disks_fini(struct run_disks *disks);

#endif
