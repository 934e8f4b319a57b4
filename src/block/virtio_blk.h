/* SPDX-License-Identifier: GPL-2.0-or-later */
/* virtio-blk as it is on the wire (virtio 1.2, 5.2), for the device and for the front end of disks served elsewhere. */
#ifndef LODGE_BLOCK_VIRTIO_BLK_H
#define LODGE_BLOCK_VIRTIO_BLK_H

#include "base/types.h"

#define BLK_F_SEG_MAX      (1ull << 2)
#define BLK_F_RO           (1ull << 5)
#define BLK_F_BLK_SIZE     (1ull << 6)
#define BLK_F_FLUSH        (1ull << 9)
#define BLK_F_TOPOLOGY     (1ull << 10)
#define BLK_F_MQ           (1ull << 12)
#define BLK_F_DISCARD      (1ull << 13)
#define BLK_F_WRITE_ZEROES (1ull << 14)

enum blk_type {
    BLK_T_IN = 0,
    BLK_T_OUT = 1,
    BLK_T_FLUSH = 4,
    BLK_T_GET_ID = 8,
    BLK_T_DISCARD = 11,
    BLK_T_WRITE_ZEROES = 13,
};

enum blk_status { BLK_S_OK = 0, BLK_S_IOERR = 1, BLK_S_UNSUPP = 2 };

/* Begins every request. */
struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

/* The data of discard and write-zeroes (5.2.6). */
struct blk_range {
    uint64_t sector;
    uint32_t sectors, flags;
};

#define BLK_RANGE_UNMAP 1u

/* struct virtio_blk_config (5.2.4), as far as it goes. */
struct blk_layout {
    uint64_t capacity;
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_alignment;
    uint32_t max_zeroes_sectors, max_zeroes_seg;
    uint8_t zeroes_may_unmap, unused1[3];
} __attribute__((packed));

_Static_assert(sizeof(struct blk_layout) == 60, "virtio 1.2, 5.2.4");

#endif
