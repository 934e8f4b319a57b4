/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Breakpoints, single steps and alignment checks: SDM volume 3, 17.2, 17.3 and
 * 6.15 (#AC). While the guest has any of them on, the run loop interprets, and
 * every access to memory that an operand or the stack makes comes through
 * seg_linear or frame_linear, which ask access_check.
 */
#include <Zydis/Mnemonic.h>

#include "engine/soft/interp_sys.h"

enum { BREAK_CODE, BREAK_WRITE, BREAK_IO, BREAK_ACCESS };

static bool enabled(const struct soft_cpu *c, unsigned i)
{
    return c->st.dr[7] >> (2 * i) & 3;
}

static unsigned kind(const struct soft_cpu *c, unsigned i)
{
    return c->st.dr[7] >> (16 + 4 * i) & 3;
}

/* Does breakpoint i cover any of the bytes? Its address is aligned to its length (17.2.5). */
static bool covers(const struct soft_cpu *c, unsigned i, uint64_t at, unsigned size)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    unsigned len = lengths[c->st.dr[7] >> (18 + 4 * i) & 3];
    uint64_t base = c->st.dr[i] & ~(uint64_t)(len - 1);

    if (!cpu_long(c))
        base = (uint32_t)base;
    return at - base < len || base - at < size;
}

_Noreturn void debug_raise(struct soft_cpu *c, uint64_t why)
{
    c->st.dr[6] = (c->st.dr[6] & ~(uint64_t)DR6_HITS) | why;
    soft_raise(c, X86_DB);
}

/* ---- Before an instruction ------------------------------------------------ */

void debug_fetch(struct soft_cpu *c)
{
    gva_t at = c->st.rip;
    uint64_t hits = 0;

    if (c->mode != INSN_64)
        at = (uint32_t)(c->st.seg[X86_CS].base + at);
    if ((c->st.rflags & X86_RF) || c->db_held)
        return;
    for (unsigned i = 0; i < 4; i++)
        if (enabled(c, i) && kind(c, i) == BREAK_CODE && covers(c, i, at, 1))
            hits |= 1u << i;
    if (hits)
        debug_raise(c, hits);
}

/* ---- Accesses ---------------------------------------------------------------- */

static void note_access(struct soft_cpu *c, gva_t va, unsigned size, enum mem_access acc)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned k = kind(c, i);

        if (enabled(c, i) && (k == BREAK_ACCESS || (k == BREAK_WRITE && acc == ACC_WRITE)) &&
            covers(c, i, va, size))
            c->db_hits |= (uint8_t)(1u << i);
    }
}

/* Only what is 2, 4 or 8 bytes long is checked, and the ten of the x87's longest like eight (table 6-7). */
static bool misaligned(gva_t va, unsigned size)
{
    if (size == 10)
        size = 8;
    return (size == 2 || size == 4 || size == 8) && (va & (size - 1));
}

void access_check(struct soft_cpu *c, gva_t va, unsigned size, enum mem_access acc)
{
    if (alignment_checked(c) && misaligned(va, size))
        soft_raise_err(c, X86_AC_EXC, 0);
    if (c->st.dr[7] & DR7_ENABLES)
        note_access(c, va, size, acc);
}

void debug_note_io(struct soft_cpu *c, unsigned port, unsigned size)
{
    if (!(c->st.cr4 & X86_CR4_DE))
        return;
    for (unsigned i = 0; i < 4; i++)
        if (enabled(c, i) && kind(c, i) == BREAK_IO && covers(c, i, port, size))
            c->db_hits |= (uint8_t)(1u << i);
}

/* ---- After an instruction -------------------------------------------------------- */

static bool is_iret(unsigned op)
{
    return op == ZYDIS_MNEMONIC_IRET || op == ZYDIS_MNEMONIC_IRETD || op == ZYDIS_MNEMONIC_IRETQ;
}

/*
 * RF lasts for one instruction, but IRET's is for the next (17.3.1.1). A
 * repetition that goes on has it: its breakpoint was there before the first
 * iteration.
 */
static void resume_flag(struct soft_cpu *c, const struct insn *in, uint64_t rip)
{
    bool goes_on = (in->flags & (INSN_REP | INSN_REPNE)) && c->st.rip == rip;

    if (goes_on && (c->st.dr[7] & DR7_ENABLES))
        c->st.rflags |= X86_RF;
    else if (!is_iret(in->op))
        c->st.rflags &= ~(uint64_t)X86_RF;
}

/* Has a handler been entered? That clears TF before the trap that would follow (17.3.1.4). */
static bool entered_handler(const struct soft_cpu *c, unsigned op)
{
    return !(c->st.rflags & X86_TF) && (op == ZYDIS_MNEMONIC_INT || op == ZYDIS_MNEMONIC_INT3 ||
                                        op == ZYDIS_MNEMONIC_INT1 || op == ZYDIS_MNEMONIC_INTO);
}

/* Loading SS holds back the trap behind it as well as interrupts; STI only these (6.8.3). */
static bool holds_back_trap(const struct soft_cpu *c, unsigned op)
{
    return c->st.intr_shadow && op != ZYDIS_MNEMONIC_STI;
}

void debug_done(struct soft_cpu *c, const struct insn *in, uint64_t flags, uint64_t rip)
{
    uint64_t why = c->db_hits;

    resume_flag(c, in, rip);
    c->db_held = holds_back_trap(c, in->op);
    if (c->db_held)
        return;
    if ((flags & X86_TF) && !entered_handler(c, in->op))
        why |= DR6_BS;
    if (why)
        debug_raise(c, why);
}
