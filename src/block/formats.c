/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "block/block.h"

const struct block_ops *const block_formats[] = {&block_raw, &block_qcow2, &block_vhost_user, NULL};
