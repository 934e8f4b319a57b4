/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers that C and assembly share. */
#ifndef PAYLOAD_LAYOUT_H
#define PAYLOAD_LAYOUT_H

#define MAX_CPUS   4
#define STACK_SIZE 16384
#define AP_START   0x8000

#define SEL_CODE32    0x08
#define SEL_CODE      0x10
#define SEL_DATA      0x18
#define SEL_USER_DATA 0x2b
#define SEL_USER_CODE 0x33
#define SEL_TSS       0x38

#define VEC_WAKE      0x40 /* a halted CPU has work */
#define VEC_USER_DONE 0x80

#endif
