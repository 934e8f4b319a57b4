/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* Host code for transfers of control: linked branches, the jump cache, calls and returns. */
#include "engine/soft/translate.h"

#include "engine/soft/view.h"

/* ---- Transfers of control -------------------------------------------------------------- */

static uint32_t exit_arg(enum exit_kind kind, int64_t off)
{
    return (uint32_t)kind << EXIT_KIND_SHIFT | (uint32_t)(off & EXIT_OFFSET);
}

static uint32_t site_flags(const struct translation *t)
{
    static const uint32_t as[] = {
        [FLAGS_HOST] = 0, [FLAGS_MEM] = EXIT_SITE_MEM, [FLAGS_DEAD] = EXIT_SITE_DEAD};

    return as[t->flags];
}

/*
 * A jump (cc < 0) or conditional jump whose displacement starts out at a stub that links it. The displacement lies in
 * one aligned quadword, so that it changes as a whole.
 */
static void emit_chained(struct translation *t, int cc, int64_t target)
{
    struct emit *e = &t->e;
    unsigned at = ((uintptr_t)e->p + (cc < 0 ? 1 : 2)) & 7;
    uint8_t *site;

    for (; at > 4 && at < 8; at++)
        emit_8(
            e,
            0x2e); /* a prefix without meaning, where a NOP would keep a CMP in front from being fused with it */
    if (cc < 0) {
        emit_8(e, 0xe9);
        emit_32(e, 0);
        site = e->p - 4;
    } else {
        site = emit_jcc_fwd(e, (unsigned)cc);
    }
    stub_add(t, STUB_CHAIN, site, exit_arg(EXIT_CHAIN, target) | site_flags(t))->page =
        (int32_t)(target >> PAGE_SHIFT);
}

/*
 * A jump from a placed block to another page: by way of the present view's table of links, where each such jump has an
 * entry, which leads to a stub that finds out where it is to lead. EFLAGS and lazy_flags are kept. False: there is none
 * left.
 */
static bool emit_linked(struct translation *t, int64_t target)
{
    struct cache *k = &t->cpu->svm->cache;
    struct stub *s;

    if (k->nlinks == CACHE_LINKS)
        return false;
    emit_load(&t->e, T1, CPU_OFF(links));
    emit_rm(&t->e, false, 0xff, 4, T1, INSN_NOREG, 1,
            (int32_t)(k->nlinks * sizeof(struct view_link)));
    s = stub_add(t, STUB_LINK, NULL, exit_arg(EXIT_LINK, target) | site_flags(t));
    s->page = (int32_t)(target >> PAGE_SHIFT);
    s->link = k->nlinks++;
    return true;
}

/* The current instruction, a branch, leads elsewhere. */
static uint32_t rip_arg(const struct translation *t)
{
    return exit_arg(EXIT_RIP, t->off[t->cur]) | EXIT_BRANCH;
}

/* T0 holds the target's address; the flags are in lazy_flags or dead. */
static void emit_probe(struct translation *t)
{
    struct emit *e = &t->e;

    emit_jc_entry(e);
    emit_rm(e, true, 0x39, T0, T1, INSN_NOREG, 1, 0); /* cmp [T1], T0 */
    stub_add(t, STUB_PROBE, emit_jcc_fwd(e, 5),
             t->cur < t->ninsn ? rip_arg(t) : exit_arg(EXIT_RIP, 0));
    if (!t->owned)
        emit_page_of_target(e);
    emit_rm(e, false, 0xff, 4, T1, INSN_NOREG, 1, 8); /* jmp [T1 + 8] */
}

/* T0 = address of what is that far from the page's beginning. */
static void emit_code_address(struct translation *t, int64_t off)
{
    if (t->fixed) {
        emit_const(t, T0, t->va + (uint64_t)off);
    } else {
        emit_load(&t->e, T0, CPU_OFF(page_va));
        emit_lea(&t->e, T0, T0, INSN_NOREG, 1, (int32_t)off);
    }
}

/*
 * Can a jump lead straight to the target's block? In a view that is so wherever it is: what else would have to be
 * mapped there makes the view's blocks useless as a whole.
 */
static bool is_linkable(const struct translation *t, int64_t target)
{
    if (t->owned)
        return (t->va + (uint64_t)target) >> 47 == 0;
    return target >= 0 && target < (int64_t)PAGE_SIZE;
}

/* Or by way of the view's links, to another placed block? */
static bool has_link(const struct translation *t, int64_t target)
{
    return t->fixed && !t->owned && t->va + (uint64_t)target < BLOCK_PLACES;
}

/* EFLAGS are about to be lost: only `live` ones are needed from here on. */
static void leave_flags(struct translation *t, uint16_t live)
{
    if (t->flags == FLAGS_HOST && live) {
        emit_flags_save(&t->e);
        t->flags = FLAGS_MEM;
    } else if (t->flags == FLAGS_HOST) {
        t->flags = FLAGS_DEAD;
    }
}

void emit_goto(struct translation *t, int64_t target, uint16_t live, bool backward)
{
    struct emit *e = &t->e;
    bool linked = !is_linkable(t, target);

    if (linked && !has_link(t, target)) {
        leave_flags(t, live);
        emit_code_address(t, target);
        emit_probe(t);
        return;
    }
    if (!live && t->flags != FLAGS_MEM)
        t->flags = FLAGS_DEAD;
    if (backward) {
        leave_flags(t, live);
        emit_gs(e, false, 0x83, 7, CPU_OFF(exit_request)); /* cmp dword gs:exit_request, 0 */
        emit_8(e, 0);
        stub_add(t, STUB_EXIT, emit_jcc_fwd(e, 5), exit_arg(EXIT_NEXT, target))->page =
            (int32_t)(target >> PAGE_SHIFT);
    }
    if (!linked) {
        emit_chained(t, -1, target);
    } else if (!emit_linked(t, target)) {
        leave_flags(t, live);
        emit_code_address(t, target);
        emit_probe(t);
    }
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
    int8_t slot;
    uint8_t *skip; /* what is skipped is shorter than 127 bytes in every case */

    flags_to_host(t);
    if (!backward && is_linkable(t, target)) {
        emit_chained(t, (int)condition(in), target);
        return;
    }
    skip = emit_jcc_short(&t->e, condition(in) ^ 1);
    after = t->flags;
    slot = t->t1_slot;
    emit_goto(t, target, t->taken_live, backward);
    t->flags = after;
    t->t1_slot = slot; /* the other way has not been gone */
    emit_patch_short(&t->e, skip);
}

/* Push the return address, which T0 holds then; the target, if indirect, waits in tmp[1]. */
static void emit_push_return(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct emit *e = &t->e;
    struct loc at = emit_stack_slot(t, X86_RSP, -8, ACC_WRITE, 1u << T0);

    emit_code_address(t, t->off[t->cur] + in->len);
    emit_rm(e, true, 0x89, T0, at.base, at.index, 1, at.disp);
    emit_rsp_add(e, -8, t->flags == FLAGS_HOST);
}

/*
 * Returns mostly lead back to the latest call, so calls leave there in soft_cpu.returns where to go on: an address, and
 * code that is linked to its block when it is first come by. An entry is right for as long as the same pages are
 * executable, so they are all dropped whenever the jump cache would lose something. What is not in the same page has
 * nothing to be linked to; the entry that is there stays then, and is still right. A view's own blocks do without: there
 * the jump cache seldom misses.
 *
 * Who needs page_va sets it there in views, where placed blocks, which do not, are among those that return.
 *
 * T0 holds the return address and is lost. Gives the displacement to patch to where that code is, or NULL.
 */
static uint8_t *emit_call_note(struct translation *t, int64_t back)
{
    struct emit *e = &t->e;
    uint8_t *code = NULL;

    if (t->owned)
        return NULL;
    emit_gs(e, false, 0x0fb6, T1, CPU_OFF(ret_top)); /* movzx T1d, byte */
    emit_lea(e, T1, T1, INSN_NOREG, 1, sizeof(struct jc_entry));
    emit_gs(e, false, 0x88, T1, CPU_OFF(ret_top));
    if (is_linkable(t, back)) {
        emit_8(e, 0x45); /* movzx T1d, T1b */
        emit_8(e, 0x0f);
        emit_8(e, 0xb6);
        emit_8(e, 0xc0 | (T1 & 7) << 3 | (T1 & 7));
        emit_gs_at(e, 0x89, T0, T1, CPU_OFF(returns[0].va));
        emit_lea_code(e, T0, emit_here(e));
        code = e->p - 4;
        emit_gs_at(e, 0x89, T0, T1, CPU_OFF(returns[0].code));
    }
    return code;
}

static void emit_call_back(struct translation *t, uint8_t *code, int64_t back)
{
    if (!code)
        return;
    emit_patch(&t->e, code);
    if (t->kind == BLOCK_DIRECT && !t->fixed)
        emit_page_of_target(&t->e); /* T0 is the address returned to */
    t->flags = FLAGS_MEM;
    emit_chained(t, -1, back);
}

static void emit_call(struct translation *t, int64_t target, bool backward)
{
    int64_t back = (int64_t)t->off[t->cur] + t->in[t->cur].len;
    uint8_t *code;

    if (!is_linkable(t, target) && !has_link(t, target))
        leave_flags(t, t->taken_live);
    emit_push_return(t);
    code = emit_call_note(t, back);
    emit_goto(t, target, t->taken_live, backward);
    emit_call_back(t, code, back);
}

/* T0 holds the return address; the flags are in lazy_flags or dead. */
static void emit_return(struct translation *t)
{
    struct emit *e = &t->e;

    _Static_assert(RETURNS * sizeof(struct jc_entry) == 256, "ret_top wraps around");
    emit_gs(e, false, 0x0fb6, T1, CPU_OFF(ret_top)); /* movzx T1d, byte */
    emit_gs(e, true, 0x03, T1, CPU_OFF(returns_now));
    emit_rm(e, true, 0x39, T0, T1, INSN_NOREG, 1, 0); /* cmp [T1], T0 */
    stub_add(t, STUB_RETURN, emit_jcc_fwd(e, 5), rip_arg(t));
    emit_ret_pop(e);
    if (t->kind != BLOCK_DIRECT)
        emit_page_of_target(e);
    emit_rm(e, false, 0xff, 4, T1, INSN_NOREG, 1, 8); /* jmp [T1 + 8] */
}

/* Target operand of an indirect branch into T0. */
static void emit_branch_operand(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];

    flags_keep(t);
    if (in->opnd[0].kind == OPND_MEM) {
        struct ea ea = ea_of(t, in);

        emit_check(t, &ea, 8, ACC_READ);
        emit_rm(&t->e, true, 0x8b, T0, T1, T0, 1, 0);
    } else if (in->opnd[0].reg == T0 || in->opnd[0].reg == T1) {
        emit_load(&t->e, T0, GPR_OFF(in->opnd[0].reg));
    } else {
        emit_mov(&t->e, T0, in->opnd[0].reg);
    }
}

static void emit_ret(struct translation *t)
{
    const struct insn *in = &t->in[t->cur];
    struct loc at = emit_stack_slot(t, X86_RSP, 0, ACC_READ, 0);

    flags_keep(t);
    emit_rm(&t->e, true, 0x8b, T0, at.base, at.index, 1, at.disp);
    emit_rsp_add(&t->e, 8 + (int32_t)(in->nopnd ? in->imm & 0xffff : 0), false);
    if (t->owned)
        emit_probe(t);
    else
        emit_return(t);
}

void emit_end(struct translation *t, enum insn_class k)
{
    int64_t target = branch_target(t), back = t->off[t->cur] + t->in[t->cur].len;
    bool backward = target <= t->off[t->cur];
    uint8_t *code;

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
        emit_call(t, target, backward);
        break;
    case CLASS_CALL_IND:
        emit_branch_operand(t);
        emit_store(&t->e, CPU_OFF(tmp[1]), T0);
        emit_push_return(t);
        code = emit_call_note(t, back);
        emit_load(&t->e, T0, CPU_OFF(tmp[1]));
        emit_probe(t);
        emit_call_back(t, code, back);
        break;
    case CLASS_RET:
        emit_ret(t);
        break;
    default:
        break;
    }
}
