/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/*
 * Which memory accesses of a block can share a soft TLB check, or the look-up of a region: those off base registers
 * whose values differ by known amounts (stack pushes and pops, fields of a structure, copies of a pointer).
 */
#include <Zydis/Zydis.h>

#include "engine/soft/translate.h"

#define M(x) ZYDIS_MNEMONIC_##x

#define WINDOW_MAX   512 /* bytes; more would often lie in two pages */
#define WINDOW_SLOTS ARRAY_SIZE(((struct soft_cpu *)NULL)->window)

/* A register's value: an unknown one, `line`, plus `off`. */
struct value {
    uint16_t line;
    int32_t off;
};

struct values {
    struct value reg[16];
    uint16_t lines; /* unknown values so far */
};

/* One instruction's access, its place relative to the line's value. */
struct access {
    bool usable;
    uint8_t base;
    enum mem_access acc;
    uint16_t line;
    int32_t reg_off; /* the register's own offset then */
    int32_t lo, hi;
};

static void clobber(struct values *v, unsigned reg)
{
    v->reg[reg] = (struct value){.line = v->lines++};
}

/* GPRs written without being explicit operands. */
static unsigned hidden_writes(const struct insn *in)
{
    switch (in->op) {
    case M(MUL):
    case M(IMUL):
    case M(DIV):
    case M(IDIV):
    case M(CWD):
    case M(CDQ):
    case M(CQO):
    case M(CBW):
    case M(CWDE):
    case M(CDQE):
    case M(CMPXCHG):
    case M(CMPXCHG8B):
    case M(CMPXCHG16B):
    case M(LAHF):
        return 1u << X86_RAX | 1u << X86_RDX;
    case M(PCMPESTRI):
    case M(PCMPISTRI):
    case M(VPCMPESTRI):
    case M(VPCMPISTRI):
        return 1u << X86_RCX;
    default:
        return 0;
    }
}

/* Is the instruction dst = src + constant? */
static bool known_step(const struct insn *in, unsigned *dst, unsigned *src, int64_t *by)
{
    if (!in->nopnd || in->opnd[0].kind != OPND_GPR || in->opnd[0].size != 8)
        return false;
    *dst = *src = in->opnd[0].reg;
    *by = 0;
    if (in->op == M(LEA) && in->mem_base < 16 && in->mem_index == INSN_NOREG &&
        in->addr_size == 8) {
        *src = in->mem_base;
        *by = in->mem_disp;
        return true;
    }
    if (in->op == M(MOV) && in->nopnd == 2 && in->opnd[1].kind == OPND_GPR) {
        *src = in->opnd[1].reg;
        return true;
    }
    if ((in->op == M(ADD) || in->op == M(SUB)) && in->nopnd == 2 && in->opnd[1].kind == OPND_IMM) {
        *by = in->op == M(ADD) ? (int64_t)in->imm : -(int64_t)in->imm;
        return true;
    }
    return false;
}

static void step(struct values *v, unsigned dst, unsigned src, int64_t by)
{
    int64_t off;

    if (by > 1 << 20 || by < -(1 << 20)) {
        clobber(v, dst);
        return;
    }
    off = v->reg[src].off + by;
    if (off > 1 << 20 || off < -(1 << 20))
        clobber(v, dst);
    else
        v->reg[dst] = (struct value){v->reg[src].line, (int32_t)off};
}

/* What the instruction does to the registers. */
static void follow(struct values *v, const struct insn *in, enum insn_class k)
{
    unsigned dst, src, written = in->gpr_write | hidden_writes(in);
    int64_t by;

    switch (k) {
    case CLASS_PUSH:
        step(v, X86_RSP, X86_RSP, -8);
        return;
    case CLASS_POP:
        step(v, X86_RSP, X86_RSP, 8);
        clobber(v, in->opnd[0].reg);
        return;
    case CLASS_LEAVE:
        step(v, X86_RSP, X86_RBP, 8);
        clobber(v, X86_RBP);
        return;
    case CLASS_INTERP:
        for (unsigned r = 0; r < 16; r++)
            clobber(v, r);
        return;
    default:
        break;
    }
    if (known_step(in, &dst, &src, &by)) {
        step(v, dst, src, by);
        return;
    }
    for (unsigned r = 0; r < 16; r++)
        if (written & 1u << r)
            clobber(v, r);
}

static void access_set(struct access *a, const struct values *v, unsigned base, int64_t disp,
                       unsigned size, enum mem_access acc)
{
    if (base >= 16 || base == T0 || base == T1 || disp > 1 << 20 || disp < -(1 << 20))
        return;
    a->usable = true;
    a->base = (uint8_t)base;
    a->acc = acc;
    a->line = v->reg[base].line;
    a->reg_off = v->reg[base].off;
    a->lo = a->reg_off + (int32_t)disp;
    a->hi = a->lo + (int32_t)size;
}

static void find_access(const struct translation *t, unsigned i, const struct values *v,
                        struct access *a)
{
    const struct insn *in = &t->in[i];

    a->usable = false;
    switch (t->klass[i]) {
    case CLASS_PUSH:
    case CLASS_CALL:
    case CLASS_CALL_IND:
        access_set(a, v, X86_RSP, -8, 8, ACC_WRITE);
        break;
    case CLASS_POP:
    case CLASS_RET:
        access_set(a, v, X86_RSP, 0, 8, ACC_READ);
        break;
    case CLASS_LEAVE:
        access_set(a, v, X86_RBP, 0, 8, ACC_READ);
        break;
    case CLASS_MEM:
    case CLASS_STORE_HIGH:
        if (in->mem_index == INSN_NOREG && in->addr_size == 8 && in->mem_seg != X86_FS &&
            in->mem_seg != X86_GS)
            access_set(a, v, in->mem_base, in->mem_disp, in->mem_size, mem_access_of(in));
        break;
    default:
        break;
    }
}

static bool serves(const struct translation *t, const struct window *w, const struct access *opener,
                   const struct access *a)
{
    int32_t lo = opener->reg_off + w->lo, hi = opener->reg_off + w->hi;

    if (!a->usable || a->line != opener->line)
        return false;
    if (t->kind == BLOCK_DIRECT) /* a region and what surrounds it is larger than any distance */
        return true;
    return a->lo >= lo && a->hi <= hi && (a->acc == ACC_READ || w->acc == ACC_WRITE);
}

/*
 * The window that instruction i would open: its reach over the accesses to come, and how many it would serve. One
 * opened by a read ends at the first write, which then opens a better one.
 */
static unsigned plan(const struct translation *t, const struct access *acc, unsigned i,
                     struct window *w)
{
    const struct access *a = &acc[i];
    int32_t lo = a->lo, hi = a->hi;
    unsigned uses = 1;

    for (unsigned j = i + 1; j < t->ninsn && t->klass[j] != CLASS_INTERP; j++) {
        const struct access *b = &acc[j];
        int32_t l, h;

        if (!b->usable || b->line != a->line)
            continue;
        if (t->kind == BLOCK_DIRECT) {
            uses++;
            continue;
        }
        if (a->acc == ACC_READ && b->acc == ACC_WRITE)
            break;
        l = b->lo < lo ? b->lo : lo;
        h = b->hi > hi ? b->hi : hi;
        if (h - l > WINDOW_MAX)
            continue;
        lo = l;
        hi = h;
        uses++;
    }
    *w = (struct window){
        .base = a->base, .acc = a->acc, .lo = lo - a->reg_off, .hi = hi - a->reg_off, .first = i};
    return uses;
}

/* Follow T1, which holds what the last window gave: which windows are needed again when it does not any more? */
static void find_kept(struct translation *t)
{
    int holds = -1;

    for (unsigned i = 0; i < t->ninsn; i++) {
        const struct insn *in = &t->in[i];
        bool r10 = (in->gpr_read | in->gpr_write) & 1u << T1;
        int use = t->use[i];

        if (use >= 0 && t->windows[use].first != i && (r10 || holds != use))
            t->windows[use].kept = true;
        if (use >= 0)
            holds = use;
        else if (t->klass[i] == CLASS_MEM ||
                 (t->klass[i] >= CLASS_PUSH && t->klass[i] != CLASS_JCC))
            holds = -1;
        if (r10)
            holds = -1;
    }
}

void windows_find(struct translation *t)
{
    struct values v = {.lines = 16};
    struct access acc[BLOCK_MAX_INSNS];
    int8_t open[WINDOW_SLOTS];
    unsigned next = 0;

    t->nwindows = 0;
    for (unsigned r = 0; r < 16; r++)
        v.reg[r].line = (uint16_t)r;
    for (unsigned s = 0; s < WINDOW_SLOTS; s++)
        open[s] = -1;
    for (unsigned i = 0; i < t->ninsn; i++) {
        find_access(t, i, &v, &acc[i]);
        follow(&v, &t->in[i], t->klass[i]);
        t->use[i] = -1;
    }
    for (unsigned i = 0; i < t->ninsn && t->kind != BLOCK_CAREFUL; i++) {
        struct window *w = &t->windows[t->nwindows];

        if (t->klass[i] == CLASS_INTERP)
            for (unsigned s = 0; s < WINDOW_SLOTS; s++)
                open[s] = -1;
        if (!acc[i].usable)
            continue;
        for (unsigned s = 0; s < WINDOW_SLOTS && t->use[i] < 0; s++)
            if (open[s] >= 0 &&
                serves(t, &t->windows[open[s]], &acc[t->windows[open[s]].first], &acc[i]))
                t->use[i] = open[s];
        if (t->use[i] >= 0 || plan(t, acc, i, w) < 2)
            continue;
        w->slot = (uint8_t)(next++ % WINDOW_SLOTS);
        open[w->slot] = t->use[i] = (int8_t)t->nwindows++;
    }
    find_kept(t);
}
