/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small assembler for the code the translator adds around copied
 * instructions. Guest GPRs are in the host registers of the same number,
 * but r10 and r11, which are the translator's temporaries T1 and T0: their
 * guest values live in soft_cpu. GS points to soft_cpu. RSP is the guest's.
 * Every helper here leaves EFLAGS alone unless its name says otherwise.
 */
#ifndef LODGE_SOFT_EMIT_H
#define LODGE_SOFT_EMIT_H

#include <string.h>

#include "engine/soft/soft.h"

#define T0 11
#define T1 10

#define CPU_OFF(field) ((int32_t)offsetof(struct soft_cpu, field))
#define GPR_OFF(r)     (CPU_OFF(st.gpr) + 8 * (int32_t)(r))

struct emit {
    uint8_t *p; /* next byte, writable alias */
    uint8_t *end;
    ptrdiff_t to_rx; /* executable address = p + to_rx */
};

static inline const uint8_t *emit_here(const struct emit *e)
{
    return e->p + e->to_rx;
}

static inline void emit_8(struct emit *e, unsigned v)
{
    *e->p++ = (uint8_t)v;
}

static inline void emit_16(struct emit *e, uint16_t v)
{
    memcpy(e->p, &v, 2);
    e->p += 2;
}

static inline void emit_32(struct emit *e, uint32_t v)
{
    memcpy(e->p, &v, 4);
    e->p += 4;
}

static inline void emit_64(struct emit *e, uint64_t v)
{
    memcpy(e->p, &v, 8);
    e->p += 8;
}

/* [gs:] op reg, field; `w` REX.W. opcode of one byte, or 0x0fXX. */
static inline void emit_gs(struct emit *e, bool w, unsigned opcode, unsigned reg, int32_t off)
{
    emit_8(e, 0x65);
    if (w || reg >= 8)
        emit_8(e, 0x40 | (w ? 8 : 0) | (reg >= 8 ? 4 : 0));
    if (opcode > 0xff)
        emit_8(e, opcode >> 8);
    emit_8(e, opcode);
    emit_8(e, 0x04 | (reg & 7) << 3);
    emit_8(e, 0x25);
    emit_32(e, (uint32_t)off);
}

static inline void emit_load(struct emit *e, unsigned reg, int32_t off)
{
    emit_gs(e, true, 0x8b, reg, off);
}

static inline void emit_store(struct emit *e, int32_t off, unsigned reg)
{
    emit_gs(e, true, 0x89, reg, off);
}

static inline void emit_mov_imm32(struct emit *e, unsigned reg, uint32_t imm)
{
    if (reg >= 8)
        emit_8(e, 0x41);
    emit_8(e, 0xb8 | (reg & 7));
    emit_32(e, imm);
}

static inline void emit_store_imm32(struct emit *e, int32_t off, uint32_t imm)
{
    emit_gs(e, false, 0xc7, 0, off);
    emit_32(e, imm);
}

/* op rm, reg with both registers, 64-bit */
static inline void emit_rr(struct emit *e, unsigned opcode, unsigned rm, unsigned reg)
{
    emit_8(e, 0x48 | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0));
    emit_8(e, opcode);
    emit_8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

static inline void emit_mov(struct emit *e, unsigned dst, unsigned src)
{
    emit_rr(e, 0x89, dst, src);
}

/* ModRM, SIB and displacement for [base + index * scale + disp]; INSN_NOREG for none. The caller has emitted REX. */
static inline void emit_ea(struct emit *e, unsigned reg, unsigned base, unsigned index,
                           unsigned scale, int32_t disp)
{
    unsigned ss = scale == 8 ? 3 : scale == 4 ? 2 : scale == 2 ? 1 : 0;
    unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;

    if (base == INSN_NOREG) {
        emit_8(e, 0x04 | (reg & 7) << 3);
        emit_8(e, ss << 6 | (index == INSN_NOREG ? 4 : index & 7) << 3 | 5);
        emit_32(e, (uint32_t)disp);
        return;
    }
    if (index == INSN_NOREG && (base & 7) != 4) {
        emit_8(e, mod << 6 | (reg & 7) << 3 | (base & 7));
    } else {
        emit_8(e, mod << 6 | (reg & 7) << 3 | 4);
        emit_8(e, ss << 6 | (index == INSN_NOREG ? 4 : index & 7) << 3 | (base & 7));
    }
    if (mod == 1)
        emit_8(e, (uint8_t)disp);
    else if (mod == 2)
        emit_32(e, (uint32_t)disp);
}

/* op reg, [base + index * scale + disp] */
static inline void emit_rm(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned base,
                           unsigned index, unsigned scale, int32_t disp)
{
    unsigned rex = (w ? 8 : 0) | (reg >= 8 ? 4 : 0) | (index != INSN_NOREG && index >= 8 ? 2 : 0) |
                   (base != INSN_NOREG && base >= 8 ? 1 : 0);

    if (rex)
        emit_8(e, 0x40 | rex);
    emit_8(e, opcode);
    emit_ea(e, reg, base, index, scale, disp);
}

static inline void emit_lea(struct emit *e, unsigned dst, unsigned base, unsigned index,
                            unsigned scale, int32_t disp)
{
    emit_rm(e, true, 0x8d, dst, base, index, scale, disp);
}

/* reg = an address in the code cache */
static inline void emit_lea_code(struct emit *e, unsigned reg, const uint8_t *to)
{
    emit_8(e, 0x48 | (reg >= 8 ? 4 : 0));
    emit_8(e, 0x8d);
    emit_8(e, 0x05 | (reg & 7) << 3);
    emit_32(e, (uint32_t)(to - (emit_here(e) + 4)));
}

static inline void emit_jmp(struct emit *e, const uint8_t *to)
{
    emit_8(e, 0xe9);
    emit_32(e, (uint32_t)(to - (emit_here(e) + 4)));
}

static inline void emit_jcc(struct emit *e, unsigned cc, const uint8_t *to)
{
    emit_8(e, 0x0f);
    emit_8(e, 0x80 | cc);
    emit_32(e, (uint32_t)(to - (emit_here(e) + 4)));
}

/* Jumps whose target is not known yet: return where the displacement goes. */
static inline uint8_t *emit_jcc_fwd(struct emit *e, unsigned cc)
{
    emit_8(e, 0x0f);
    emit_8(e, 0x80 | cc);
    emit_32(e, 0);
    return e->p - 4;
}

static inline void emit_patch_to(struct emit *e, uint8_t *disp, const uint8_t *to)
{
    uint32_t rel = (uint32_t)(to - (disp + 4 + e->to_rx));

    memcpy(disp, &rel, 4);
}

static inline void emit_patch(struct emit *e, uint8_t *disp)
{
    emit_patch_to(e, disp, emit_here(e));
}

/* One NOP of up to 8 bytes (SDM volume 2, NOP). */
static inline void emit_nops(struct emit *e, unsigned n)
{
    static const uint8_t nops[9][8] = {
        {0},
        {0x90},
        {0x66, 0x90},
        {0x0f, 0x1f, 0x00},
        {0x0f, 0x1f, 0x40, 0x00},
        {0x0f, 0x1f, 0x44, 0x00, 0x00},
        {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00},
        {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00},
        {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00},
    };

    memcpy(e->p, nops[n], n);
    e->p += n;
}

static inline void emit_align(struct emit *e, unsigned to)
{
    while ((uintptr_t)e->p & (to - 1))
        emit_8(e, 0x90);
}

#define ENTRY_LEN   5
#define IN_QUADWORD 3 /* where in an aligned quadword an entry may begin at most */

/* A NOP that lies in one aligned quadword: an entry that can be turned into a jump by one store. */
static inline const uint8_t *emit_entry(struct emit *e)
{
    const uint8_t *entry;
    unsigned at = (uintptr_t)e->p & 7;

    emit_nops(e, at > IN_QUADWORD ? 8 - at : 0);
    entry = emit_here(e);
    emit_nops(e, ENTRY_LEN);
    return entry;
}

/* Fill up, so that neither an entry here nor one behind it and `between` bytes more needs to be moved. */
static inline void emit_entries_align(struct emit *e, unsigned between)
{
    for (;; emit_8(e, 0x90)) {
        unsigned at = (uintptr_t)e->p & 7;

        if (at <= IN_QUADWORD && ((at + ENTRY_LEN + between) & 7) <= IN_QUADWORD)
            return;
    }
}

/* rorx reg, src, by */
static inline void emit_rorx(struct emit *e, unsigned reg, unsigned src, unsigned by)
{
    emit_8(e, 0xc4);
    emit_8(e, (reg >= 8 ? 0 : 0x80) | 0x40 | (src >= 8 ? 0 : 0x20) | 3);
    emit_8(e, 0xfb);
    emit_8(e, 0xf0);
    emit_8(e, 0xc0 | (reg & 7) << 3 | (src & 7));
    emit_8(e, by);
}

#define FLAGS_SAVE_LEN 18
#define FLAGS_LOAD_LEN 17

/* EAX = EFLAGS in the form of lazy_flags. */
static inline void emit_flags_take(struct emit *e)
{
    emit_8(e, 0x9f); /* lahf */
    emit_8(e, 0x0f); /* seto al */
    emit_8(e, 0x90);
    emit_8(e, 0xc0);
}

/* Guest flags from EFLAGS to lazy_flags; T0 is lost. EFLAGS keep their value. */
static inline void emit_flags_save(struct emit *e)
{
    emit_mov(e, T0, X86_RAX);
    emit_flags_take(e);
    emit_gs(e, false, 0x89, X86_RAX, CPU_OFF(lazy_flags));
    emit_mov(e, X86_RAX, T0);
}

/* Guest flags from lazy_flags to EFLAGS; T0 is lost. */
static inline void emit_flags_load(struct emit *e)
{
    emit_mov(e, T0, X86_RAX);
    emit_gs(e, false, 0x8b, X86_RAX, CPU_OFF(lazy_flags));
    emit_8(e, 0x04); /* add al, 0x7f: OF from bit 0 */
    emit_8(e, 0x7f);
    emit_8(e, 0x9e); /* sahf */
    emit_mov(e, X86_RAX, T0);
}

/* A conditional jump of at most 127 bytes forward: where its displacement goes, for emit_patch_short. */
static inline uint8_t *emit_jcc_short(struct emit *e, unsigned cc)
{
    emit_8(e, 0x70 | cc);
    emit_8(e, 0);
    return e->p - 1;
}

static inline void emit_patch_short(struct emit *e, uint8_t *disp)
{
    *disp = (uint8_t)(e->p - (disp + 1));
}

/* RSP += by, EFLAGS kept or not. */
static inline void emit_rsp_add(struct emit *e, int32_t by, bool keep_flags)
{
    if (keep_flags) {
        emit_lea(e, X86_RSP, X86_RSP, INSN_NOREG, 1, by);
        return;
    }
    emit_8(e, 0x48);
    emit_8(e, by == (int8_t)by ? 0x83 : 0x81);
    emit_8(e, 0xc0 | X86_RSP);
    if (by == (int8_t)by)
        emit_8(e, (uint8_t)by);
    else
        emit_32(e, (uint32_t)by);
}

/* [gs:base + off] op reg, 64-bit */
static inline void emit_gs_at(struct emit *e, unsigned opcode, unsigned reg, unsigned base,
                              int32_t off)
{
    emit_8(e, 0x65);
    emit_rm(e, true, opcode, reg, base, INSN_NOREG, 1, off);
}

/* T1 = where the jump cache's first table has the address in T0. EFLAGS are lost. */
static inline void emit_jc_entry(struct emit *e)
{
    emit_8(e, 0x45); /* imul T1d, T0d, JC_HASH */
    emit_8(e, 0x69);
    emit_8(e, 0xc0 | (T1 & 7) << 3 | (T0 & 7));
    emit_32(e, JC_HASH);
    emit_8(e, 0x41); /* shr T1d, JC_SHIFT + 4 */
    emit_8(e, 0xc1);
    emit_8(e, 0xe8 | (T1 & 7));
    emit_8(e, JC_SHIFT + 4);
    emit_8(e, 0x41); /* shl T1d, 4 */
    emit_8(e, 0xc1);
    emit_8(e, 0xe0 | (T1 & 7));
    emit_8(e, 4);
    emit_gs(e, true, 0x03, T1, CPU_OFF(jc));
}

/* Take the latest call off soft_cpu.returns. EFLAGS are lost. */
static inline void emit_ret_pop(struct emit *e)
{
    emit_gs(e, false, 0x80, 5, CPU_OFF(ret_top)); /* sub byte gs:ret_top, 16 */
    emit_8(e, sizeof(struct jc_entry));
}

/* soft_cpu.page_va = the page of the address in T0, which is lost, as are EFLAGS. */
static inline void emit_page_of_target(struct emit *e)
{
    emit_8(e, 0x49); /* and T0, -4096 */
    emit_8(e, 0x81);
    emit_8(e, 0xe0 | (T0 & 7));
    emit_32(e, (uint32_t)-4096);
    emit_store(e, CPU_OFF(page_va), T0);
}

/* Copy an instruction, its memory operand (if any) replaced by [base + index + disp]. False: no such encoding. */
bool emit_copy(struct emit *e, const struct insn *in, unsigned base, unsigned index, int32_t disp);

#endif
