/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef LODGE_SOFT_DECODE_H
#define LODGE_SOFT_DECODE_H

#include "engine/soft/insn.h"

/*
 * Decode one instruction of `avail` (at least 1) bytes. Returns 0 with *out
 * complete; bytes that are no instruction give len 0 (#UD). Returns -1 when
 * the instruction continues past `avail`. The caller has parked the FPU.
 */
int decode_insn(const uint8_t *bytes, unsigned avail, enum insn_mode mode, struct insn *out);

#endif
