/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/*
 * Making a block: decode a straight line of guest code (conditional branches
 * leave it sideways), find where flags are live, emit, and close with the
 * stubs. Everything stays inside one guest page.
 */
#include <Zydis/Zydis.h>

#include "engine/soft/translate.h"

#include "engine/soft/decode.h"
#include "engine/soft/tlb.h"
#include "engine/soft/view.h"

/* How far a branch target is looked at for whether it reads flags. */
#define PEEK_INSNS 10

/* Flags that the code at a page offset may read before writing them; outside the page: all. */
static uint16_t peek_live(struct translation *t, int64_t off)
{
    uint16_t live = 0, killed = 0;
    const struct block *b;

    if (off >= 0 && off < (int64_t)PAGE_SIZE) {
        b = cache_find(&t->cpu->svm->cache, t->phys + (uint64_t)off, t->key);
        if (b && b->valid) { /* what it says depends on its bytes and those it looked at */
            t->peeked |= b->peeked | cache_granules((unsigned)off, b->len);
            return b->live_in;
        }
    }
    for (unsigned i = 0; i < PEEK_INSNS && off >= 0 && off < (int64_t)PAGE_SIZE; i++) {
        struct insn in;
        enum decline why;
        enum insn_class k;

        if (decode_insn(t->page + off, (unsigned)(PAGE_SIZE - (uint64_t)off), INSN_64, &in))
            break;
        t->peeked |= 1ull << (off >> CACHE_GRANULE_SHIFT) |
                     1ull << ((off + (in.len ? in.len - 1 : 0)) >> CACHE_GRANULE_SHIFT);
        k = classify(&in, (unsigned)off, &why);
        if (k == CLASS_DECLINED || class_is_system(k))
            break;
        live |= in.fl_read & (uint16_t)~killed;
        killed |= in.fl_write;
        if (killed == X86_ARITH)
            return live;
        off += in.len;
        if (k == CLASS_JMP || k == CLASS_CALL)
            off += (int64_t)in.imm;
        else if (k == CLASS_JCC || class_ends_block(k))
            break;
    }
    return live | (X86_ARITH & (uint16_t)~killed);
}

/* Flags live at the target of instruction i, a direct branch. */
static uint16_t target_live(struct translation *t, unsigned i)
{
    return peek_live(t, (int64_t)t->off[i] + t->in[i].len + (int64_t)t->in[i].imm);
}

/* A declined instruction: can the block go on behind it? */
static enum insn_class interp_class(const struct insn *in)
{
    if (!in->len || (in->flags & INSN_BRANCH))
        return CLASS_INTERP_END;
    switch (
        in->op) { /* the code behind may be mapped elsewhere afterwards, as after a write to CR3 */
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_WRMSR:
        return CLASS_INTERP_END;
    default:
        break;
    }
    for (unsigned i = 0; i < in->nopnd; i++)
        if (in->opnd[i].kind == OPND_CR)
            return CLASS_INTERP_END;
    return CLASS_INTERP;
}

/* What the interpreter sees of the flags is all of them. */
static void mark_interp(struct translation *t, enum insn_class k)
{
    t->klass[t->ninsn] = (uint8_t)k;
    t->in[t->ninsn].fl_read = X86_ARITH;
    t->ninsn++;
}

/* An instruction whose end is in the next page. */
static int decode_crossing(struct translation *t, unsigned off, struct insn *in)
{
    unsigned n = (unsigned)PAGE_SIZE - off;
    const uint8_t *next = t->owned ? view_code_page(t->cpu, t->va + PAGE_SIZE)
                                   : tlb_fetch_try(t->cpu, t->va + PAGE_SIZE);
    uint8_t bytes[2 * INSN_MAX_LEN];

    if (!next || n >= INSN_MAX_LEN)
        return -1;
    cache_hold_page(t->cpu, next);
    memcpy(bytes, t->page + off, n);
    memcpy(bytes + n, next, INSN_MAX_LEN);
    if (decode_insn(bytes, n + INSN_MAX_LEN, INSN_64, in))
        return -1;
    t->next_page = next;
    return 0;
}

/* Decode up to the end of the block. Returns the class of its last instruction, CLASS_NOP if the line goes on. */
static enum insn_class decode_line(struct translation *t, struct soft_vm *svm)
{
    unsigned off = t->start;

    while (t->ninsn < BLOCK_MAX_INSNS && off < PAGE_SIZE) {
        struct insn *in = &t->in[t->ninsn];
        enum decline why = DECLINE_NONE;
        enum insn_class k;

        t->off[t->ninsn] = (uint16_t)off;
        if (decode_insn(t->page + off, (unsigned)PAGE_SIZE - off, INSN_64, in) &&
            decode_crossing(t, off, in)) {
            svm->declines[DECLINE_CROSS_PAGE]++;
            t->end = PAGE_SIZE;
            t->cross_page = true;
            in->flags = 0;
            in->fl_write = 0;
            mark_interp(t, CLASS_INTERP_END);
            return CLASS_INTERP_END;
        }
        k = classify(in, off, &why);
        off += in->len ? in->len : 1;
        t->end = off;
        if (k == CLASS_DECLINED) {
            svm->declines[why]++;
            k = interp_class(in);
            mark_interp(t, k);
        } else {
            if (class_is_system(k))
                in->fl_read = X86_ARITH;
            t->klass[t->ninsn++] = (uint8_t)k;
        }
        if (class_ends_block(k))
            return k;
    }
    /* Behind STI nothing may be let in before the next instruction, so that one must be in the same block. */
    if (t->ninsn && (t->klass[t->ninsn - 1] == CLASS_INTERP || t->klass[t->ninsn - 1] == CLASS_STI))
        return (enum insn_class)(t->klass[t->ninsn - 1] = CLASS_INTERP_END);
    return CLASS_NOP;
}

/* Backwards over the line: which flags are needed after each instruction. */
static void find_liveness(struct translation *t, enum insn_class end)
{
    uint16_t live;

    if (end == CLASS_NOP)
        live = peek_live(t, t->end);
    else
        live = X86_ARITH; /* interpreter, or a target not known */
    for (unsigned i = t->ninsn; i-- > 0;) {
        const struct insn *in = &t->in[i];

        t->target_live[i] = X86_ARITH;
        if (t->klass[i] == CLASS_JMP || t->klass[i] == CLASS_CALL)
            live = t->target_live[i] = target_live(t, i);
        else if (t->klass[i] == CLASS_JCC)
            live |= t->target_live[i] = target_live(t, i);
        t->live[i] = live;
        live = (live & (uint16_t)~in->fl_write) | in->fl_read;
    }
    t->live_in = live;
}

/* The first instruction with vector state makes sure that the guest's is in the host registers. */
static void emit_fpu_check(struct translation *t)
{
    flags_keep(t);
    emit_gs(&t->e, false, 0x80, 7, CPU_OFF(fpu_ok)); /* cmp byte gs:fpu_ok, 0 */
    emit_8(&t->e, 0);
    stub_add(t, STUB_EXIT, emit_jcc_fwd(&t->e, 4),
             (uint32_t)EXIT_FPU << EXIT_KIND_SHIFT | t->off[t->cur]);
    t->simd_checked = true;
}

/* Code of a view knows its address; soft_cpu.page_va is brought up to date only where it is left. */
uint32_t record_add(struct translation *t, uint32_t arg, const uint8_t *at, int32_t page)
{
    struct cache *k = &t->cpu->svm->cache;
    struct exit_record *x = &k->exits[k->nexits];

    if (exit_kind_of(arg) == EXIT_CAREFUL)
        atomic_store_explicit(&x->twin, NULL, memory_order_relaxed);
    else
        atomic_store_explicit(
            &x->page_va, t->fixed ? t->va + (uint64_t)(page * (int64_t)PAGE_SIZE) : EXIT_SAME_PAGE,
            memory_order_relaxed);
    atomic_store_explicit(&x->at, at ? (uint32_t)(at - k->rx) : 0, memory_order_relaxed);
    atomic_store_explicit(&x->arg, arg, memory_order_relaxed);
    return (uint32_t)k->nexits++;
}

static void emit_insn_data(struct translation *t, const struct stub *s)
{
    struct emit *e = &t->e;
    const uint8_t *at;

    emit_align(e, 8);
    at = emit_here(e);
    memcpy(e->p, &t->in[s->arg], sizeof(struct insn));
    e->p += sizeof(struct insn);
    memcpy(s->from, &at, 8);
}

/* Stubs that have what they do in common; their records follow each other. */
struct stub_group {
    uint8_t *out[STUBS_TOGETHER]; /* displacements */
    unsigned n;
    uint32_t first; /* record */
};

static void group_close(struct translation *t, struct stub_group *g)
{
    struct emit *e = &t->e;

    if (!g->n)
        return;
    e->p -= 2; /* the last one need not jump */
    for (unsigned i = 0; i + 1 < g->n; i++)
        emit_patch_short(e, g->out[i]);
    emit_store_imm32(e, CPU_OFF(exit_record), g->first);
    emit_jmp(e, t->cpu->svm->cache.glue.stub);
    g->n = 0;
}

/* A stub that does what a new record says. The other arguments are those of record_add. */
static const uint8_t *group_add(struct translation *t, struct stub_group *g, enum exit_way way,
                                uint32_t arg, const uint8_t *at, int32_t page)
{
    struct emit *e = &t->e;
    const uint8_t *start;
    uint32_t record = record_add(t, arg | (uint32_t)way << EXIT_WAY_SHIFT, at, page);

    if (g->n == STUBS_TOGETHER)
        group_close(t, g);
    if (!g->n)
        g->first = record;
    start = emit_here(e);
    emit_8(e, 0x41);
    if (way == WAY_READ || way == WAY_WRITE) {
        emit_8(e, 0x80); /* or T1b, number */
        emit_8(e, 0xc8 | (T1 & 7));
    } else {
        emit_8(e, 0xb0 | (T1 & 7)); /* mov T1b, number */
    }
    emit_8(e, g->n);
    emit_8(e, 0xeb); /* jmp, short */
    emit_8(e, 0);
    g->out[g->n++] = e->p - 1;
    return start;
}

static void emit_stub(struct translation *t, struct stub_group *g, const struct stub *s)
{
    enum exit_way way = s->flags == FLAGS_HOST ? WAY_HOST : WAY_MEM;
    const uint8_t *at = NULL, *start;

    switch (s->kind) {
    case STUB_LINK:
        start = group_add(t, g, way, s->arg, t->cpu->svm->cache.rx + s->link, s->page);
        view_link_made(t->cpu->svm, s->link, start);
        return;
    case STUB_MISS:
        way = s->acc == ACC_WRITE ? WAY_WRITE : WAY_READ;
        at = s->retry;
        break;
    default:
        at = s->from + t->e.to_rx;
        break;
    }
    start = group_add(t, g, way, s->arg, at, s->page);
    emit_patch_to(&t->e, s->from, start);
}

/* It is taken so often that it does not look for its way first, and its record is read only to leave. */
static void emit_stub_look(struct translation *t, const struct stub *s)
{
    const struct glue *g = &t->cpu->svm->cache.glue;
    struct emit *e = &t->e;
    uint32_t record = record_add(t, s->arg | (uint32_t)WAY_MEM << EXIT_WAY_SHIFT, NULL, s->page);

    emit_patch_to(e, s->from, emit_here(e));
    emit_store_imm32(e, CPU_OFF(exit_record), record);
    emit_jmp(e, s->kind == STUB_RETURN ? g->ret : g->probe);
}

static bool stub_looks(const struct stub *s)
{
    return s->kind == STUB_PROBE || s->kind == STUB_RETURN;
}

/* The block's part of the cold code. */
static void emit_stubs(struct translation *t, struct block *b)
{
    const uint32_t killed = (uint32_t)EXIT_KILLED << EXIT_KIND_SHIFT | t->start;
    struct stub_group g = {.n = 0};

    for (unsigned i = 0; i < t->nstubs; i++)
        if (t->stubs[i].kind == STUB_INSN)
            emit_insn_data(t, &t->stubs[i]);
        else if (stub_looks(&t->stubs[i]))
            emit_stub_look(t, &t->stubs[i]);
    for (unsigned i = 0; i < t->nstubs; i++)
        if (t->stubs[i].kind != STUB_INSN && !stub_looks(&t->stubs[i]))
            emit_stub(t, &g, &t->stubs[i]);
    b->stub_mem = group_add(t, &g, WAY_MEM, killed, b->code, 0);
    b->stub_host = group_add(t, &g, WAY_HOST, killed, b->code, 0);
    group_close(t, &g);
    b->cold_end = emit_here(&t->e);
}

/* Does an instruction of the block itself need flags that were there before it in EFLAGS? */
static bool reads_flags(const struct translation *t)
{
    uint16_t killed = 0;

    for (unsigned i = 0; i < t->ninsn && killed != X86_ARITH; i++) {
        bool interp = t->klass[i] == CLASS_INTERP || t->klass[i] == CLASS_INTERP_END;

        if (!interp && !class_is_system(t->klass[i]) && (t->in[i].fl_read & ~killed))
            return true;
        killed |= t->in[i].fl_write;
    }
    return false;
}

/*
 * A block is entered with the flags in lazy_flags or in EFLAGS, and begins in one of these ways. Two entries in any
 * case: where a block is killed, flags that are in EFLAGS must be saved on the way out.
 */
static void emit_entries(struct translation *t, struct block *b)
{
    struct emit *e = &t->e;

    if (t->live_in && !reads_flags(t)) {
        emit_entries_align(e, FLAGS_SAVE_LEN);
        b->entry_host = emit_entry(e);
        emit_flags_save(e);
        b->entry_mem = emit_entry(e);
        t->flags = FLAGS_MEM;
        return;
    }
    emit_entries_align(e, t->live_in ? FLAGS_LOAD_LEN : 0);
    b->entry_mem = emit_entry(e);
    t->flags = FLAGS_DEAD;
    if (t->live_in) {
        emit_flags_load(e);
        t->flags = FLAGS_HOST;
    }
    b->entry_host = emit_entry(e);
}

/* Entries, instructions, the way out. */
static void emit_body(struct translation *t, struct block *b, struct recover *rec,
                      enum insn_class end)
{
    struct emit *e = &t->e;

    t->t1_slot = -1;
    emit_entries(t, b);
    for (t->cur = 0; t->cur < t->ninsn; t->cur++) {
        enum insn_class k = t->klass[t->cur];
        enum flags_at before;

        t->taken_live = t->target_live[t->cur];
        rec[t->cur].host_off = (uint32_t)(emit_here(e) - b->code);
        rec[t->cur].guest_off = t->off[t->cur] & EXIT_OFFSET;
        rec[t->cur].flags_begins = t->flags == FLAGS_HOST;
        rec[t->cur].live =
            (t->live[t->cur] & (uint16_t)~t->in[t->cur].fl_write) | t->in[t->cur].fl_read;
        if ((t->in[t->cur].flags & INSN_SIMD) && !t->simd_checked && k != CLASS_INTERP &&
            k != CLASS_INTERP_END)
            emit_fpu_check(t);
        if (t->next_page && t->cur == t->ninsn - 1 && !t->owned)
            emit_check_next_page(t);
        before = t->flags;
        if (class_ends_block(k))
            emit_end(t, k);
        else
            emit_insn(t, k);
        if ((t->in[t->cur].gpr_read | t->in[t->cur].gpr_write) & 1u << T1)
            t->t1_slot = -1; /* its guest register was there */
        rec[t->cur].flags_host = t->kind == BLOCK_DIRECT
                                     ? before == FLAGS_HOST
                                     : t->flags == FLAGS_HOST && !t->in[t->cur].fl_write;
    }
    if (end == CLASS_NOP)
        emit_goto(t, t->end, t->ninsn ? t->live[t->ninsn - 1] : X86_ARITH, false);
}

/* Blocks are in order of their code, the tail before the block proper, which is returned. */
static struct block *tail_make(struct block *tail, const struct translation *t)
{
    memset(tail, 0, sizeof(*tail));
    tail->phys = (uint64_t)(t->next_page - t->cpu->svm->vm->mem.map);
    tail->code = emit_here(&t->e);
    tail->len = (uint16_t)(t->end - PAGE_SIZE);
    tail->of = tail + 1;
    return tail + 1;
}

struct block *translate_block(struct soft_cpu *c, const uint8_t *page, unsigned off, block_key key,
                              bool *full)
{
    struct cache *k = &c->svm->cache;
    struct translation t;
    struct block *b;
    struct recover *rec = k->recover + k->nrecover;
    enum insn_class end;

    *full = k->used + BLOCK_MAX_CODE > CACHE_COLD || k->cold_used + BLOCK_MAX_CODE > CACHE_SIZE ||
            k->nblocks + 2 > k->max_blocks || k->nrecover + BLOCK_MAX_INSNS > k->max_recover ||
            k->nexits + 2 * BLOCK_MAX_STUBS > k->max_exits;
    if (*full)
        return NULL;
    t.e = (struct emit){.p = k->rw + k->used, .end = k->rw + CACHE_SIZE, .to_rx = k->rx - k->rw};
    t.cpu = c;
    t.page = page;
    t.key = key;
    t.phys = (uint64_t)(page - c->svm->vm->mem.map);
    t.kind = BLOCK_KIND(key);
    t.owned = BLOCK_OWNER(key) != 0;
    t.fixed = BLOCK_KNOWS_VA(key);
    t.va = c->st.rip & PAGE_MASK;
    t.start = t.end = off;
    t.ninsn = t.nstubs = 0;
    t.simd_checked = false;
    t.cross_page = false;
    t.next_page = NULL;
    t.peeked = 0;
    end = decode_line(&t, c->svm);
    find_liveness(&t, end);
    windows_find(&t);

    b = &k->blocks[k->nblocks];
    if (t.next_page)
        b = tail_make(b, &t);
    memset(b, 0, sizeof(*b));
    b->phys = (uint64_t)(page - c->svm->vm->mem.map) + off;
    b->code = emit_here(&t.e);
    b->recover = rec;
    b->ninsn = (uint16_t)t.ninsn;
    b->tail = t.next_page ? b - 1 : NULL;
    b->len = (uint16_t)((t.end < PAGE_SIZE ? t.end : PAGE_SIZE) - off);
    b->live_in = t.live_in;
    b->valid = 1;
    b->key = key;
    b->va = t.va;
    b->peeked = t.peeked;
    emit_body(&t, b, rec, end);
    b->code_len = (uint32_t)(emit_here(&t.e) - b->code);
    k->used += b->code_len;
    t.e.p = k->rw + k->cold_used;
    emit_stubs(&t, b);
    k->cold_used = (size_t)(t.e.p - k->rw);
    k->nrecover += t.ninsn;
    atomic_store_explicit(&k->nblocks, (size_t)(b - k->blocks) + 1, memory_order_release);
    return b;
}
