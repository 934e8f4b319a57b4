/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Host code for one guest instruction: soft TLB checks, copied instructions, stack, and transfers of control. */
#include <Zydis/Zydis.h>

#include "engine/soft/tlb.h"
#include "engine/soft/translate.h"

#define INDEX_MASK ((TLB_ENTRIES - 1) << 4)

/* ---- Flags ---------------------------------------------------------------- */

uint16_t flags_wanted(const struct translation *t)
{
    const struct insn *in = &t->in[t->cur];

    return in->fl_read | (t->live[t->cur] & (uint16_t)~in->fl_write);
}

void flags_keep(struct translation *t)
{
    if (t->flags != FLAGS_HOST)
        return;
    if (flags_wanted(t)) {
        emit_flags_save(&t->e);
        t->flags = FLAGS_MEM;
    } else {
        t->flags = FLAGS_DEAD;
    }
}

void flags_to_host(struct translation *t)
{
    if (t->flags == FLAGS_MEM)
        emit_flags_load(&t->e);
    t->flags = FLAGS_HOST;
}

/* Around the instruction proper: bring flags in if it reads or keeps some, note what it leaves. */
static void flags_before(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];

    if (t->flags == FLAGS_MEM && in->fl_write && flags_wanted(t))
        flags_to_host(t);
    else if (t->flags == FLAGS_MEM && in->fl_read)
        flags_to_host(t);
}

static void flags_after(struct translation *t)
{
    if (t->in[t->cur].fl_write)
        t->flags = FLAGS_HOST;
}

/* ---- Addresses and checks ---------------------------------------------------- */

struct ea ea_of(const struct translation *t, const struct insn *in)
{
    struct ea ea = {in->mem_base,  in->mem_index, in->mem_scale,
                    in->addr_size, in->mem_seg,   in->mem_disp};

    if (ea.base == INSN_RIP)
        ea.disp += t->off[t->cur] + in->len;
    return ea;
}

void emit_address(struct translation *t, const struct ea *ea)
{
    struct emit *e = &t->e;
    unsigned base = ea->base;

    if (base == T1 || ea->index == T1)
        emit_load(e, T1, GPR_OFF(T1));
    if (base == T0 || ea->index == T0)
        emit_load(e, T0, GPR_OFF(T0));
    if (base == INSN_RIP) {
        emit_load(e, T0, CPU_OFF(page_va));
        base = T0;
    }
    emit_rm(e, ea->addr_size == 8, 0x8d, T0, base, ea->index, ea->scale, (int32_t)ea->disp);
    if (ea->seg == X86_FS || ea->seg == X86_GS) /* add T0, gs:base */
        emit_gs(e, true, 0x03, T0,
                CPU_OFF(st.seg) + ea->seg * (int32_t)sizeof(struct x86_seg) +
                    (int32_t)offsetof(struct x86_seg, base));
}

struct stub *stub_add(struct translation *t, enum stub_kind kind, uint8_t *from, uint32_t arg)
{
    struct stub *s = &t->stubs[t->nstubs++];

    memset(s, 0, sizeof(*s));
    s->kind = kind;
    s->from = from;
    s->arg = arg;
    s->flags = t->flags;
    return s;
}

void emit_check(struct translation *t, const struct ea *ea, unsigned size, enum mem_access acc)
{
    struct emit *e = &t->e;
    int32_t table = acc == ACC_WRITE ? (int32_t)offsetof(struct tlb_set, wr)
                                     : (int32_t)offsetof(struct tlb_set, rd);
    const uint8_t *retry;
    struct stub *s;

    flags_keep(t);
    retry = emit_here(e);
    emit_address(t, ea);
    emit_mov(e, T1, T0);
    emit_8(e, 0x49); /* shr T1, 8 */
    emit_8(e, 0xc1);
    emit_8(e, 0xe8 | (T1 & 7));
    emit_8(e, 8);
    emit_8(e, 0x41); /* and T1d, mask */
    emit_8(e, 0x81);
    emit_8(e, 0xe0 | (T1 & 7));
    emit_32(e, INDEX_MASK);
    emit_gs(e, true, 0x03, T1, CPU_OFF(set));             /* add T1, gs:set */
    emit_rm(e, true, 0x33, T0, T1, INSN_NOREG, 1, table); /* xor T0, [T1 + table] */
    emit_8(e, 0x49);                                      /* cmp T0, 4096 - size */
    emit_8(e, 0x81);
    emit_8(e, 0xf8 | (T0 & 7));
    emit_32(e, (uint32_t)(PAGE_SIZE - size));
    s = stub_add(t, STUB_MISS, emit_jcc_fwd(e, 7), EXIT_INTERP << EXIT_KIND_SHIFT | t->off[t->cur]);
    s->retry = retry;
    s->ea = *ea;
    s->acc = acc;
    emit_rm(e, true, 0x8b, T1, T1, INSN_NOREG, 1, table + 8); /* mov T1, [T1 + table + 8] */
}

void emit_collapse(struct translation *t, unsigned into)
{
    emit_lea(&t->e, into, T1, T0, 1, 0);
}

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
    emit_copy(&t->e, in, INSN_NOREG, INSN_NOREG);
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

static enum mem_access mem_access_of(const struct insn *in)
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
    bool needs_flags;

    emit_check(t, &ea, in->mem_size, mem_access_of(in));
    needs_flags = t->flags == FLAGS_MEM && (in->fl_read || (in->fl_write && flags_wanted(t)));
    if (!ops && !needs_flags) {
        emit_copy(&t->e, in, T1, T0);
        flags_after(t);
        return;
    }
    unsigned base = ops & 1u << T0 ? T1 : T0, other = base == T0 ? T1 : T0;

    emit_collapse(t, base);
    if (needs_flags) { /* loading flags takes T0 */
        if (base == T0)
            emit_mov(&t->e, T1, T0);
        flags_to_host(t);
        if (base == T0)
            emit_mov(&t->e, T0, T1);
    }
    if (ops && (regs_in(in) & 1u << other))
        emit_load(&t->e, other, GPR_OFF(other));
    emit_copy(&t->e, in, base, INSN_NOREG);
    store_temps(t, in);
    flags_after(t);
}

static void emit_lea_rip(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct ea ea = ea_of(t, in);
    unsigned dst = in->opnd[0].reg;

    emit_load(&t->e, dst, CPU_OFF(page_va));
    emit_lea(&t->e, dst, dst, INSN_NOREG, 1, (int32_t)ea.disp);
    store_temps(t, in);
}

/* ---- Stack ------------------------------------------------------------------------- */

static struct ea stack_ea(unsigned base, int disp)
{
    return (struct ea){(uint8_t)base, INSN_NOREG, 1, 8, X86_SS, disp};
}

/* [T1 + T0] <- reg, where reg may be a temporary's guest register */
static void store_reg_at_temps(struct translation *t, unsigned reg)
{
    struct emit *e = &t->e;

    if (reg == T0 || reg == T1) {
        emit_collapse(t, T0);
        emit_load(e, T1, GPR_OFF(reg));
        emit_rm(e, true, 0x89, T1, T0, INSN_NOREG, 1, 0);
    } else {
        emit_rm(e, true, 0x89, reg, T1, T0, 1, 0);
    }
}

static void emit_push(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct emit *e = &t->e;
    struct ea ea;

    if (in->opnd[0].kind == OPND_MEM) {
        ea = ea_of(t, in);
        emit_check(t, &ea, 8, ACC_READ);
        emit_rm(e, true, 0x8b, T0, T1, T0, 1, 0);
        emit_store(e, CPU_OFF(tmp[0]), T0);
    }
    ea = stack_ea(X86_RSP, -8);
    emit_check(t, &ea, 8, ACC_WRITE);
    if (in->opnd[0].kind == OPND_MEM) {
        emit_collapse(t, T0);
        emit_load(e, T1, CPU_OFF(tmp[0]));
        emit_rm(e, true, 0x89, T1, T0, INSN_NOREG, 1, 0);
    } else if (in->opnd[0].kind == OPND_GPR) {
        store_reg_at_temps(t, in->opnd[0].reg);
    } else { /* mov qword [T1 + T0], imm32 */
        emit_rm(e, true, 0xc7, 0, T1, T0, 1, 0);
        emit_32(e, (uint32_t)in->imm);
    }
    emit_lea(e, X86_RSP, X86_RSP, INSN_NOREG, 1, -8);
}

static void emit_pop(struct translation *t)
{
    unsigned reg = t->in[t->cur].opnd[0].reg;
    struct ea ea = stack_ea(X86_RSP, 0);

    emit_check(t, &ea, 8, ACC_READ);
    emit_rm(&t->e, true, 0x8b, reg, T1, T0, 1, 0);
    if (reg == T0 || reg == T1)
        emit_store(&t->e, GPR_OFF(reg), reg);
    emit_lea(&t->e, X86_RSP, X86_RSP, INSN_NOREG, 1, 8);
}

static void emit_leave(struct translation *t)
{
    struct ea ea = stack_ea(X86_RBP, 0);

    emit_check(t, &ea, 8, ACC_READ);
    emit_rm(&t->e, true, 0x8b, T0, T1, T0, 1, 0);
    emit_lea(&t->e, X86_RSP, X86_RBP, INSN_NOREG, 1, 8);
    emit_mov(&t->e, X86_RBP, T0);
}

/* ---- Transfers of control -------------------------------------------------------------- */

static uint32_t exit_arg(enum exit_kind kind, int64_t off)
{
    return (uint32_t)kind << EXIT_KIND_SHIFT | (uint32_t)(off & EXIT_OFFSET);
}

/* A jump (cc < 0) or conditional jump whose displacement, aligned to 4, starts out at a stub that links it. */
static void emit_chained(struct translation *t, int cc, int64_t target)
{
    struct emit *e = &t->e;
    uint8_t *site;

    while (((uintptr_t)e->p + (cc < 0 ? 1 : 2)) & 3)
        emit_8(e, 0x90);
    if (cc < 0) {
        emit_8(e, 0xe9);
        emit_32(e, 0);
        site = e->p - 4;
    } else {
        site = emit_jcc_fwd(e, (unsigned)cc);
    }
    stub_add(t, STUB_CHAIN, site,
             exit_arg(EXIT_CHAIN, target) | (t->flags == FLAGS_HOST ? 0 : EXIT_SITE_MEM));
}

/* T0 holds the target's address; the flags are in lazy_flags or dead. */
static void emit_probe(struct translation *t)
{
    struct emit *e = &t->e;

    emit_8(e, 0x45); /* imul T1d, T0d, JC_HASH */
    emit_8(e, 0x69);
    emit_8(e, 0xc0 | (T1 & 7) << 3 | (T0 & 7));
    emit_32(e, JC_HASH);
    emit_8(e, 0x41); /* shr T1d, JC_SHIFT */
    emit_8(e, 0xc1);
    emit_8(e, 0xe8 | (T1 & 7));
    emit_8(e, JC_SHIFT);
    emit_8(e, 0x41); /* and T1d, mask */
    emit_8(e, 0x81);
    emit_8(e, 0xe0 | (T1 & 7));
    emit_32(e, (JC_ENTRIES - 1) << 4);
    emit_gs(e, true, 0x03, T1, CPU_OFF(jc));
    emit_store(e, CPU_OFF(st.rip), T0);
    emit_rm(e, true, 0x39, T0, T1, INSN_NOREG, 1, 0); /* cmp [T1], T0 */
    stub_add(t, STUB_PROBE, emit_jcc_fwd(e, 5),
             t->cur < t->ninsn ? exit_arg(EXIT_RIP, t->off[t->cur]) | EXIT_BRANCH
                               : exit_arg(EXIT_RIP, 0));
    emit_8(e, 0x49); /* and T0, -4096 */
    emit_8(e, 0x81);
    emit_8(e, 0xe0 | (T0 & 7));
    emit_32(e, (uint32_t)-4096);
    emit_store(e, CPU_OFF(page_va), T0);
    emit_8(e, 0x41); /* jmp [T1 + 8] */
    emit_8(e, 0xff);
    emit_8(e, 0x60 | (T1 & 7));
    emit_8(e, 8);
}

void emit_goto(struct translation *t, int64_t target, uint16_t live, bool backward)
{
    struct emit *e = &t->e;

    if (!live && t->flags != FLAGS_MEM)
        t->flags = FLAGS_DEAD;
    if (target < 0 || target >= (int64_t)PAGE_SIZE) {
        if (t->flags == FLAGS_HOST) {
            emit_flags_save(e);
            t->flags = FLAGS_MEM;
        }
        emit_load(e, T0, CPU_OFF(page_va));
        emit_lea(e, T0, T0, INSN_NOREG, 1, (int32_t)target);
        emit_probe(t);
        return;
    }
    if (backward) {
        if (t->flags == FLAGS_HOST) {
            emit_flags_save(e);
            t->flags = FLAGS_MEM;
        }
        emit_gs(e, false, 0x83, 7, CPU_OFF(exit_request)); /* cmp dword gs:exit_request, 0 */
        emit_8(e, 0);
        stub_add(t, STUB_EXIT, emit_jcc_fwd(e, 5), exit_arg(EXIT_NEXT, target));
    }
    emit_chained(t, -1, target);
}

static int64_t branch_target(const struct translation *t)
{
    const struct insn *in = &t->in[t->cur];

    return (int64_t)t->off[t->cur] + in->len + (int64_t)in->imm;
}

static unsigned condition(const struct insn *in)
{
    uint8_t b = in->bytes[in->op_off];

    return b == 0x0f ? in->bytes[in->op_off + 1] & 15 : b & 15;
}

void emit_branch(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    int64_t target = branch_target(t);
    bool backward = target <= t->off[t->cur];
    enum flags_at after;
    uint8_t *skip;

    flags_to_host(t);
    if (!backward && target < (int64_t)PAGE_SIZE) {
        emit_chained(t, (int)condition(in), target);
        return;
    }
    skip = emit_jcc_fwd(&t->e, condition(in) ^ 1);
    after = t->flags;
    emit_goto(t, target, t->taken_live, backward);
    t->flags = after;
    emit_patch(&t->e, skip);
}

/* Push the return address; the target, if indirect, waits in tmp[1]. */
static void emit_push_return(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct ea ea = stack_ea(X86_RSP, -8);
    struct emit *e = &t->e;

    emit_check(t, &ea, 8, ACC_WRITE);
    emit_collapse(t, T0);
    emit_load(e, T1, CPU_OFF(page_va));
    emit_lea(e, T1, T1, INSN_NOREG, 1, t->off[t->cur] + in->len);
    emit_rm(e, true, 0x89, T1, T0, INSN_NOREG, 1, 0);
    emit_lea(e, X86_RSP, X86_RSP, INSN_NOREG, 1, -8);
}

/* Target operand of an indirect branch into T0. */
static void emit_branch_operand(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];

    if (in->opnd[0].kind == OPND_MEM) {
        struct ea ea = ea_of(t, in);

        emit_check(t, &ea, 8, ACC_READ);
        emit_rm(&t->e, true, 0x8b, T0, T1, T0, 1, 0);
    } else if (in->opnd[0].reg == T0 || in->opnd[0].reg == T1) {
        flags_keep(t);
        emit_load(&t->e, T0, GPR_OFF(in->opnd[0].reg));
    } else {
        flags_keep(t);
        emit_mov(&t->e, T0, in->opnd[0].reg);
    }
}

static void emit_ret(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct ea ea = stack_ea(X86_RSP, 0);

    emit_check(t, &ea, 8, ACC_READ);
    emit_rm(&t->e, true, 0x8b, T0, T1, T0, 1, 0);
    emit_lea(&t->e, X86_RSP, X86_RSP, INSN_NOREG, 1,
             8 + (int32_t)(in->nopnd ? in->imm & 0xffff : 0));
    emit_probe(t);
}

/* Call the interpreter for the current instruction; it comes back behind it, with all registers reloaded. */
static void emit_interp(struct translation *t, bool last)
{
    struct emit *e = &t->e;

    if (t->flags == FLAGS_HOST)
        emit_flags_save(e);
    t->flags = FLAGS_MEM;
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
    t->simd_checked = false; /* the interpreter may have parked the vector state */
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

void emit_end(struct translation *t, enum insn_class k)
{
    int64_t target = branch_target(t);
    bool backward = target <= t->off[t->cur];

    switch (k) {
    case CLASS_INTERP_END:
        emit_interp(t, true);
        break;
    case CLASS_JMP:
        emit_goto(t, target, t->taken_live, backward);
        break;
    case CLASS_JMP_IND:
        emit_branch_operand(t);
        emit_probe(t);
        break;
    case CLASS_CALL:
        emit_push_return(t);
        emit_goto(t, target, t->taken_live, backward);
        break;
    case CLASS_CALL_IND:
        emit_branch_operand(t);
        emit_store(&t->e, CPU_OFF(tmp[1]), T0);
        emit_push_return(t);
        emit_load(&t->e, T0, CPU_OFF(tmp[1]));
        emit_probe(t);
        break;
    case CLASS_RET:
        emit_ret(t);
        break;
    default:
        break;
    }
}
