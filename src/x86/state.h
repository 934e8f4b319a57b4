/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The canonical, engine-neutral state of one x86 CPU. The software engine
 * lives in it; the KVM engine converts to and from it. Encodings follow the
 * Intel SDM volume 3 (segment attributes: section 24.4.1, the VMX
 * access-rights format).
 */
#ifndef LODGE_X86_STATE_H
#define LODGE_X86_STATE_H

#include "base/types.h"

enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
};

enum x86_sreg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_NSREGS };

/* attr: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, DB 14, G 15, unusable 16 */
#define X86_ATTR_TYPE      0xfu
#define X86_ATTR_S         (1u << 4)
#define X86_ATTR_DPL_SHIFT 5
#define X86_ATTR_P         (1u << 7)
#define X86_ATTR_L         (1u << 13)
#define X86_ATTR_DB        (1u << 14)
#define X86_ATTR_G         (1u << 15)
#define X86_ATTR_UNUSABLE  (1u << 16)

struct x86_seg {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint32_t attr;
    uint16_t sel;
    uint16_t pad[3];
};

struct x86_dtr {
    uint64_t base;
    uint16_t limit;
    uint16_t pad[3];
};

#define X86_CF   (1u << 0)
#define X86_PF   (1u << 2)
#define X86_AF   (1u << 4)
#define X86_ZF   (1u << 6)
#define X86_SF   (1u << 7)
#define X86_TF   (1u << 8)
#define X86_IF   (1u << 9)
#define X86_DF   (1u << 10)
#define X86_OF   (1u << 11)
#define X86_IOPL (3u << 12)
#define X86_NT   (1u << 14)
#define X86_RF   (1u << 16)
#define X86_VM   (1u << 17)
#define X86_AC   (1u << 18)
#define X86_VIF  (1u << 19)
#define X86_VIP  (1u << 20)
#define X86_ID   (1u << 21)
/* What the image of FLAGS, 16 bits wide, can change */
#define X86_FLAGS16 (X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT)
#define X86_ARITH   (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF)

#define X86_CR0_PE (1u << 0)
#define X86_CR0_MP (1u << 1)
#define X86_CR0_EM (1u << 2)
#define X86_CR0_TS (1u << 3)
#define X86_CR0_ET (1u << 4)
#define X86_CR0_NE (1u << 5)
#define X86_CR0_WP (1u << 16)
#define X86_CR0_AM (1u << 18)
#define X86_CR0_NW (1u << 29)
#define X86_CR0_CD (1u << 30)
#define X86_CR0_PG (1u << 31)

#define X86_CR4_VME        (1u << 0)
#define X86_CR4_PVI        (1u << 1)
#define X86_CR4_TSD        (1u << 2)
#define X86_CR4_DE         (1u << 3)
#define X86_CR4_PSE        (1u << 4)
#define X86_CR4_PAE        (1u << 5)
#define X86_CR4_MCE        (1u << 6)
#define X86_CR4_PGE        (1u << 7)
#define X86_CR4_PCE        (1u << 8)
#define X86_CR4_OSFXSR     (1u << 9)
#define X86_CR4_OSXMMEXCPT (1u << 10)
#define X86_CR4_UMIP       (1u << 11)
#define X86_CR4_FSGSBASE   (1u << 16)
#define X86_CR4_PCIDE      (1u << 17)
#define X86_CR4_PKE        (1u << 22)
#define X86_CR3_PGD        0x000ffffffffff000ull /* the top-level page table's address */
#define X86_CR4_OSXSAVE    (1u << 18)
#define X86_CR4_SMEP       (1u << 20)
#define X86_CR4_SMAP       (1u << 21)
#define X86_CR4_PKE        (1u << 22)
#define X86_CR4_PKS        (1u << 24)

#define X86_EFER_SCE (1u << 0)
#define X86_EFER_LME (1u << 8)
#define X86_EFER_LMA (1u << 10)
#define X86_EFER_NXE (1u << 11)

#define DR6_HITS    0xfu /* B0 to B3 */
#define DR6_BD      (1u << 13)
#define DR6_BS      (1u << 14)
#define DR6_BT      (1u << 15)
#define DR7_ENABLES 0xffu /* L0, G0 to L3, G3 */
#define DR7_GD      (1u << 13)

enum x86_vector {
    X86_DE = 0,
    X86_DB = 1,
    X86_NMI = 2,
    X86_BP = 3,
    X86_OF_EXC = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_DF_EXC = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_SS_EXC = 12,
    X86_GP = 13,
    X86_PF_EXC = 14,
    X86_MF = 16,
    X86_AC_EXC = 17,
    X86_MC = 18,
    X86_XM = 19,
};

/* What the CPU is doing between instructions. */
enum x86_run { X86_RUNNING, X86_HALTED, X86_WAIT_SIPI, X86_SHUTDOWN };

#define X86_PHYS_BITS 40 /* MAXPHYADDR of every guest */

#define X86_XSAVE_SIZE 4096

struct x86_state {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    uint64_t cr0, cr2, cr3, cr4, xcr0, efer;
    struct x86_seg seg[X86_NSREGS], ldtr, tr;
    struct x86_dtr gdtr, idtr;
    uint64_t dr[8];
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_adjust;
    uint32_t pkru, pkrs; /* rights of protection keys */
    uint32_t run;        /* enum x86_run */
    uint8_t intr_shadow; /* after STI or a load of SS: no interrupt before the next instruction */
    uint8_t nmi_blocked; /* until IRET */
    uint8_t cpl;         /* 0..3; real mode 0, virtual-8086 mode 3 */
    uint8_t pad;
    uint8_t xsave[X86_XSAVE_SIZE]
        __attribute__((aligned(64))); /* standard (non-compacted) format */
};

/* State after RESET# (SDM volume 3, table 9-1). `bsp`: the others wait for SIPI. Clears everything else. */
void x86_state_reset(struct x86_state *st, bool bsp);

/* State after INIT: as RESET, but x87/SSE state, CR0.CD/NW and most MSRs keep their values. Ends in WAIT_SIPI. */
void x86_state_init(struct x86_state *st);

/*
 * Is this a state that a processor can be in, with no more extended state than `xcr0` has? NULL, or what is wrong: the
 * part's name. For states that come from outside (x86/state_check.c).
 */
const char *x86_state_check(const struct x86_state *st, uint64_t xcr0);

#endif
