/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Host code for one guest instruction that goes on to the next: copied, stack, interpreted. */
#include "engine/soft/translate.h"

/* ---- Copied instructions ------------------------------------------------------- */

static unsigned operand_regs(const struct insn *in, unsigned access)
{
    unsigned regs = 0;

    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == OPND_GPR && (in->opnd[i].access & access))
            regs |= 1u << in->opnd[i].reg;
    return regs;
}

/* Operands in r10/r11 that must be loaded: read, or written only in part. */
static unsigned regs_in(const struct insn *in)
{
    unsigned ops = operand_regs(in, OPND_READ | OPND_WRITE);

    return ops & in->gpr_read & (1u << T0 | 1u << T1) & ops;
}

static void store_temps(struct translation *t, const struct insn *in)
{
    unsigned out = operand_regs(in, OPND_WRITE);

    if (out & 1u << T0)
        emit_store(&t->e, GPR_OFF(T0), T0);
    if (out & 1u << T1)
        emit_store(&t->e, GPR_OFF(T1), T1);
}

static void emit_copy_plain(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    unsigned need =
        regs_in(in) | (in->gpr_read & (1u << T0 | 1u << T1)); /* LEA's address registers too */

    flags_before(t);
    if (need & 1u << T0)
        emit_load(&t->e, T0, GPR_OFF(T0));
    if (need & 1u << T1)
        emit_load(&t->e, T1, GPR_OFF(T1));
    emit_copy(&t->e, in, INSN_NOREG, INSN_NOREG, 0);
    store_temps(t, in);
    flags_after(t);
}

/* LEA keeps its own encoding, which emit_copy would rewrite. */
static void emit_verbatim(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    unsigned need = in->gpr_read & (1u << T0 | 1u << T1);

    if (need & 1u << T0)
        emit_load(&t->e, T0, GPR_OFF(T0));
    if (need & 1u << T1)
        emit_load(&t->e, T1, GPR_OFF(T1));
    for (unsigned i = 0; i < in->len; i++)
        emit_8(&t->e, in->bytes[i]);
    store_temps(t, in);
}

enum mem_access mem_access_of(const struct insn *in)
{
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == OPND_MEM && (in->opnd[i].access & OPND_WRITE))
            return ACC_WRITE;
    return ACC_READ;
}

static void emit_copy_mem(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct ea ea = ea_of(t, in);
    unsigned ops = operand_regs(in, OPND_READ | OPND_WRITE) & (1u << T0 | 1u << T1);
    bool flags = in->fl_read || (in->fl_write && flags_wanted(t));
    struct loc at = emit_locate(t, &ea, in->mem_size, mem_access_of(in), ops, flags);

    if (regs_in(in) & 1u << T0)
        emit_load(&t->e, T0, GPR_OFF(T0));
    if (regs_in(in) & 1u << T1)
        emit_load(&t->e, T1, GPR_OFF(T1));
    emit_copy(&t->e, in, at.base, at.index, at.disp);
    store_temps(t, in);
    flags_after(t);
}

/* With a REX prefix there is no AH: its value is brought to T0. */
static void emit_store_high(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct ea ea = ea_of(t, in);
    struct loc at = emit_locate(t, &ea, 1, ACC_WRITE, 1u << T0, false);

    emit_rorx(&t->e, T0, in->opnd[1].reg, 8);
    emit_rm(&t->e, false, 0x88, T0, at.base, at.index, 1, at.disp);
}

static void emit_lea_rip(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct ea ea = ea_of(t, in);
    unsigned dst = in->opnd[0].reg;

    if (t->fixed) {
        emit_const(t, dst, t->va + (uint64_t)ea.disp);
    } else {
        emit_load(&t->e, dst, CPU_OFF(page_va));
        emit_lea(&t->e, dst, dst, INSN_NOREG, 1, (int32_t)ea.disp);
    }
    store_temps(t, in);
}

/* ---- Stack ------------------------------------------------------------------------- */

static struct ea stack_ea(unsigned base, int disp)
{
    return (struct ea){(uint8_t)base, INSN_NOREG, 1, 8, X86_SS, disp};
}

/* mov [at], reg or mov reg, [at] */
static void emit_mov_at(struct translation *t, unsigned opcode, unsigned reg, const struct loc *at)
{
    emit_rm(&t->e, true, opcode, reg, at->base, at->index, 1, at->disp);
}

struct loc emit_stack_slot(struct translation *t, unsigned base, int disp, enum mem_access acc,
                           unsigned keep)
{
    struct ea ea = stack_ea(base, disp);

    return emit_locate(t, &ea, 8, acc, keep, false);
}

static void emit_push(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct emit *e = &t->e;
    unsigned reg = in->opnd[0].reg;
    struct loc at;

    if (in->opnd[0].kind == OPND_MEM) {
        struct ea ea = ea_of(t, in);

        emit_check(t, &ea, 8, ACC_READ);
        emit_rm(e, true, 0x8b, T0, T1, T0, 1, 0);
        emit_store(e, CPU_OFF(tmp[0]), T0);
        at = emit_stack_slot(t, X86_RSP, -8, ACC_WRITE, 1u << T1);
        emit_load(e, T1, CPU_OFF(tmp[0]));
        t->t1_slot = -1;
        emit_mov_at(t, 0x89, T1, &at);
    } else if (in->opnd[0].kind == OPND_GPR) {
        bool temp = reg == T0 || reg == T1;

        at = emit_stack_slot(t, X86_RSP, -8, ACC_WRITE, temp ? 1u << reg : 0);
        if (temp)
            emit_load(e, reg, GPR_OFF(reg));
        emit_mov_at(t, 0x89, reg, &at);
    } else { /* mov qword [at], imm32 */
        at = emit_stack_slot(t, X86_RSP, -8, ACC_WRITE, 0);
        emit_mov_at(t, 0xc7, 0, &at);
        emit_32(e, (uint32_t)in->imm);
    }
    emit_rsp_add(e, -8, t->flags == FLAGS_HOST);
}

static void emit_pop(struct translation *t)
{
    unsigned reg = t->in[t->cur].opnd[0].reg;
    struct loc at = emit_stack_slot(t, X86_RSP, 0, ACC_READ, 0);

    emit_mov_at(t, 0x8b, reg, &at);
    if (reg == X86_RSP)
        return;
    if (reg == T0 || reg == T1)
        emit_store(&t->e, GPR_OFF(reg), reg);
    emit_rsp_add(&t->e, 8, t->flags == FLAGS_HOST);
}

static void emit_leave(struct translation *t)
{
    struct loc at = emit_stack_slot(t, X86_RBP, 0, ACC_READ, 0);

    emit_mov_at(t, 0x8b, T0, &at);
    emit_lea(&t->e, X86_RSP, X86_RBP, INSN_NOREG, 1, 8);
    emit_mov(&t->e, X86_RBP, T0);
}

/* Call the interpreter for the current instruction; it comes back behind it, with all registers reloaded. */
void emit_interp(struct translation *t, bool last)
{
    struct emit *e = &t->e;

    if (t->flags == FLAGS_HOST)
        emit_flags_save(e);
    t->flags = FLAGS_MEM;
    if (t->fixed) {
        emit_const(t, T0, t->va);
        emit_store(e, CPU_OFF(page_va), T0);
    }
    emit_store_imm32(e, CPU_OFF(exit_arg), t->off[t->cur]);
    emit_8(e, 0x49); /* mov T0, imm64 */
    emit_8(e, 0xb8 | (T0 & 7));
    emit_64(e, 0);
    if (!t->cross_page || t->cur != t->ninsn - 1)
        stub_add(t, STUB_INSN, e->p - 8, t->cur);
    if (last) {
        emit_8(e, 0x4d); /* xor T1, T1: no straight line behind */
        emit_8(e, 0x31);
        emit_8(e, 0xc0 | (T1 & 7) << 3 | (T1 & 7));
    } else {
        emit_lea_code(e, T1, emit_here(e) + 7 + 5);
    }
    emit_jmp(e, t->cpu->svm->cache.glue.interp);
    t->t1_slot = -1;
    t->simd_checked = false; /* the interpreter may have parked the vector state */
}

/* ---- The kernel's ---------------------------------------------------------------------- */

/* Leave to the interpreter unless the byte at `off` of soft_cpu is zero. */
static void emit_require_zero(struct translation *t, int32_t off)
{
    emit_gs(&t->e, false, 0x80, 7, off); /* cmp byte gs:off, 0 */
    emit_8(&t->e, 0);
    stub_add(t, STUB_EXIT, emit_jcc_fwd(&t->e, 5),
             (uint32_t)EXIT_INTERP << EXIT_KIND_SHIFT | t->off[t->cur]);
}

static void emit_swapgs(struct translation *t)
{
    const int32_t base = CPU_OFF(st.seg) + X86_GS * (int32_t)sizeof(struct x86_seg) +
                         (int32_t)offsetof(struct x86_seg, base);

    emit_load(&t->e, T0, base);
    emit_load(&t->e, T1, CPU_OFF(st.kernel_gs_base));
    emit_store(&t->e, base, T1);
    emit_store(&t->e, CPU_OFF(st.kernel_gs_base), T0);
    t->t1_slot = -1;
}

/*
 * STI with an interrupt that may be waiting is the interpreter's. Without one, an interrupt that comes is not seen
 * before the next branch or exit, so the instruction behind is done first.
 */
static void emit_system(struct translation *t, enum insn_class k)
{
    flags_keep(t);
    emit_require_zero(t, CPU_OFF(st.cpl));
    if (k == CLASS_SWAPGS) {
        emit_swapgs(t);
    } else if (k == CLASS_CLI) {
        emit_gs(&t->e, false, 0x81, 4, CPU_OFF(st.rflags)); /* and dword gs:rflags, ~IF */
        emit_32(&t->e, ~(uint32_t)X86_IF);
    } else {
        emit_require_zero(t, CPU_OFF(intr_waiting));
        emit_require_zero(t, CPU_OFF(exit_request));        /* 0 or 1 */
        emit_gs(&t->e, false, 0x81, 1, CPU_OFF(st.rflags)); /* or dword gs:rflags, IF */
        emit_32(&t->e, X86_IF);
    }
}

void emit_insn(struct translation *t, enum insn_class k)
{
    switch (k) {
    case CLASS_COPY:
        if (t->in[t->cur].flags & INSN_HAS_MEM)
            emit_verbatim(t);
        else
            emit_copy_plain(t);
        break;
    case CLASS_MEM:
        emit_copy_mem(t);
        break;
    case CLASS_LEA_RIP:
        emit_lea_rip(t);
        break;
    case CLASS_PUSH:
        emit_push(t);
        break;
    case CLASS_POP:
        emit_pop(t);
        break;
    case CLASS_LEAVE:
        emit_leave(t);
        break;
    case CLASS_STORE_HIGH:
        emit_store_high(t);
        break;
    case CLASS_SWAPGS:
    case CLASS_CLI:
    case CLASS_STI:
        emit_system(t, k);
        break;
    case CLASS_INTERP:
        emit_interp(t, false);
        break;
    case CLASS_JCC:
        emit_branch(t);
        break;
    default:
        break;
    }
}
