/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The run loop of a vCPU: events, then translated code or the interpreter,
 * then what they ended with. Guest exceptions arrive here by longjmp.
 */
#include "engine/soft/run.h"

#include <Zydis/Mnemonic.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/fpu.h"
#include "engine/soft/tlb.h"
#include "engine/soft/view.h"

void soft_kick(struct soft_cpu *c)
{
    atomic_store(&c->exit_request, 1);
    atomic_store_explicit(&c->jc, c->jc_empty, memory_order_relaxed);
    atomic_store_explicit(&c->returns_now, c->returns_empty, memory_order_relaxed);
}

/* The instruction ends here: give back what it held. */
static _Noreturn void leave_instruction(struct soft_cpu *c)
{
    if (c->bus_locked)
        soft_bus_unlock(c);
    c->code_store = NULL;
    c->db_hits = 0;
    c->db_held = false;
    longjmp(c->exc_jmp, 1);
}

_Noreturn void soft_raise(struct soft_cpu *c, unsigned vector)
{
    c->exc_vector = (uint8_t)vector;
    c->exc_has_error = 0;
    c->exc_error = 0;
    leave_instruction(c);
}

_Noreturn void soft_raise_err(struct soft_cpu *c, unsigned vector, uint32_t error)
{
    c->exc_vector = (uint8_t)vector;
    c->exc_has_error = 1;
    c->exc_error = error;
    leave_instruction(c);
}

_Noreturn void soft_raise_pf(struct soft_cpu *c, gva_t va, uint32_t error)
{
    c->st.cr2 = va;
    soft_raise_err(c, X86_PF_EXC, error);
}

/* ---- Flags between the two worlds ----------------------------------------- */

void flags_to_lazy(struct soft_cpu *c)
{
    uint64_t f = c->st.rflags;

    c->lazy_flags = (uint16_t)((f & 0xd5) << 8 | (f >> 11 & 1));
}

void flags_from_lazy(struct soft_cpu *c)
{
    uint16_t l = (uint16_t)c->lazy_flags;

    c->st.rflags =
        (c->st.rflags & ~(uint64_t)X86_ARITH) | (l >> 8 & 0xd5) | (uint64_t)(l & 1) << 11;
}

/* ---- Exceptions ------------------------------------------------------------- */

static bool contributory(int v)
{
    return v == X86_DE || (v >= X86_TS && v <= X86_GP);
}

/* SDM volume 3, table 6-5: what a second exception during the delivery of a first becomes; -1: shutdown. */
static int escalate(int first, int second)
{
    if (first < 0)
        return second;
    if (first == X86_DF_EXC)
        return -1;
    if ((contributory(first) && contributory(second)) ||
        (first == X86_PF_EXC && (second == X86_PF_EXC || contributory(second))))
        return X86_DF_EXC;
    return second;
}

/* Deliver the exception soft_raise noted. May raise again, coming back through exc_jmp. */
static void deliver_exception(struct soft_cpu *c)
{
    int vector = escalate(c->delivering, c->exc_vector);
    bool has_error = c->exc_has_error;
    uint32_t error = c->exc_error;

    if (vector < 0) {
        c->st.run = X86_SHUTDOWN;
        c->delivering = -1;
        return;
    }
    if (vector == X86_DF_EXC) {
        has_error = true;
        error = 0;
    }
    c->counters.exception++;
    c->delivering = (int8_t)vector;
    c->st.intr_shadow = 0;
    c->st.run = X86_RUNNING; /* a single step ends HLT */
    if (!(c->st.cr0 & X86_CR0_PE))
        has_error = false;
    interp_deliver(c, (unsigned)vector, INT_EXC, has_error, error);
    c->delivering = -1;
}

/* ---- Events ------------------------------------------------------------------ */

static void take_init_sipi(struct soft_cpu *c, uint32_t ev)
{
    if (ev & VCPU_EV_INIT) {
        soft_fpu_park(c);
        x86_state_init(&c->st);
        vcpu_init_taken(c->vcpu);
        soft_fpu_changed(c);
        tlb_flush_all(c);
        soft_mode_changed(c);
    }
    if ((ev & VCPU_EV_SIPI) && c->st.run == X86_WAIT_SIPI)
        interp_sipi(c, atomic_load(&c->vcpu->sipi_vector));
}

/* A CPU holds one NMI behind the one it serves; those it is about to take and to hold make two. */
static void nmis_arrived(struct soft_cpu *c)
{
    uint32_t limit = c->st.nmi_blocked ? 1 : 2, n = atomic_exchange(&c->vcpu->nmis, 0);

    c->nmi_pending = (uint8_t)(n < limit - c->nmi_pending ? c->nmi_pending + n : limit);
}

/* Interrupts and NMIs, if the CPU takes them now. */
static void take_interrupt(struct soft_cpu *c)
{
    c->intr_waiting = 1;
    if (c->nmi_pending && !c->st.nmi_blocked && !c->st.intr_shadow && c->st.run <= X86_HALTED) {
        c->nmi_pending--;
        c->st.run = X86_RUNNING;
        c->st.nmi_blocked = 1;
        interp_deliver(c, X86_NMI, INT_EXT, false, 0);
        return;
    }
    if (!(c->st.rflags & X86_IF) || c->st.intr_shadow || c->st.run > X86_HALTED)
        return;
    soft_fpu_park(c);
    if (vcpu_intr_pending(c->vcpu) < 0) {
        c->intr_waiting = 0;
        return;
    }
    int vector = vcpu_intr_ack(c->vcpu);

    if (vector < 0)
        return;
    c->st.run = X86_RUNNING;
    c->counters.irq++;
    if (c->st.cpl == 3)
        view_tick(c);
    interp_deliver(c, (unsigned)vector, INT_EXT, false, 0);
}

/* Returns true when run() must return, reason set. */
static bool take_events(struct soft_cpu *c, enum vcpu_exit_reason *reason)
{
    uint32_t ev;

    c->chain_site = NULL; /* RIP may be elsewhere afterwards */
    c->careful = false;
    atomic_store(&c->exit_request, 0);
    ev = atomic_exchange(&c->vcpu->events, 0);
    if (c->nrecheck) {
        soft_fpu_park(c);
        cache_recheck(c);
    }
    if (ev & VCPU_EV_STOP) {
        atomic_fetch_or(&c->vcpu->events,
                        ev & ~VCPU_EV_STOP); /* for when it goes on, here or elsewhere */
        *reason = VCPU_EXIT_STOP;
        return true;
    }
    if (ev & (VCPU_EV_INIT | VCPU_EV_SIPI))
        take_init_sipi(c, ev);
    if (ev & VCPU_EV_NMI)
        nmis_arrived(c);
    take_interrupt(c);
    if (c->st.run == X86_RUNNING)
        return false;
    if (c->st.run == X86_SHUTDOWN) {
        *reason = VCPU_EXIT_SHUTDOWN;
        return true;
    }
    c->counters.halt++;
    *reason = VCPU_EXIT_HALT;
    return true;
}

/* ---- Interpreting ---------------------------------------------------------------- */

static void interp_one(struct soft_cpu *c)
{
    uint8_t shadow = c->st.intr_shadow;
    uint64_t flags = c->st.rflags, rip = c->st.rip;
    const struct insn *in;

    if (unlikely(c->st.dr[7] & DR7_ENABLES))
        debug_fetch(c);
    if (unlikely(vif_and_vip(c)))
        vif_pending(c);
    in = soft_fetch(c);
    c->chain_site = NULL;
    c->counters.interp++;
    interp_insn(c, in);
    if (shadow)
        c->st.intr_shadow = 0;
    if (c->nmi_pending || (c->intr_waiting && (shadow || (~flags & c->st.rflags & X86_IF))))
        soft_look_up(c);
    if (unlikely((flags & (X86_TF | X86_RF)) || (c->st.dr[7] & DR7_ENABLES) || c->db_hits))
        debug_done(c, in, flags, rip);
}

/* The instruction lies in the translation cache, which may be flushed as soon as in_code is off. */
static const struct insn *keep_insn(struct soft_cpu *c, const struct insn *in)
{
    typedef uint64_t __attribute__((may_alias)) quadword;
    const quadword *from = (const quadword *)in;
    quadword *to = (quadword *)&c->inline_insn;

    _Static_assert(sizeof(*in) % 8 == 0, "copied by quadwords");
    for (size_t i = 0; i < sizeof(*in) / 8; i++) {
        quadword v = from[i];

        __asm__ volatile("mov %1, %0"
                         : "=m"(to[i])
                         : "r"(v)); /* a call of memcpy is not allowed here */
    }
    return &c->inline_insn;
}

/*
 * in_code is off meanwhile: the handler may wait for the cache's lock, whose
 * holder may be waiting for this CPU to leave.
 */
const uint8_t *soft_interp_inline(struct soft_cpu *c, const struct insn *in, const uint8_t *next)
{
    struct cache *k = &c->svm->cache;
    uint32_t kills = atomic_load_explicit(&k->kills, memory_order_relaxed);
    uint64_t flags, follow;
    bool shadow;
    const struct jc_entry *jc, *j;

    if (in)
        in = keep_insn(c, in);
    atomic_store_explicit(&c->in_code, 0, memory_order_release);
    c->st.rip = c->page_va + (c->exit_arg & EXIT_OFFSET);
    flags_from_lazy(c);
    flags = c->st.rflags;
    if (!in)
        in = soft_fetch(c);
    follow = c->st.rip + in->len;
    c->counters.interp++;
    interp_insn(c, in);
    c->exit_arg = EXIT_DONE << EXIT_KIND_SHIFT; /* if NULL is returned */
    flags_to_lazy(c);
    shadow = c->st.intr_shadow && (!next || c->intr_waiting || c->st.rip != follow);
    if ((~flags & c->st.rflags & X86_TF) || (c->intr_waiting && (~flags & c->st.rflags & X86_IF)) ||
        shadow || c->nmi_pending || c->mode != INSN_64 || c->st.run != X86_RUNNING ||
        soft_watched(c) || atomic_load_explicit(&k->kills, memory_order_relaxed) != kills) {
        soft_look_up(c);
        return NULL;
    }
    atomic_store(&c->in_code, 1);
    if (atomic_load(&c->exit_request) || atomic_load(&k->flushing) ||
        atomic_load(&k->gen) != c->cache_gen)
        return NULL;
    if (c->st.rip == follow && next) {
        c->st.intr_shadow = 0; /* nothing is let in before the instruction behind is done */
        return next;
    }
    jc = atomic_load_explicit(&c->jc, memory_order_relaxed);
    j = &jc[JC_INDEX(c->st.rip)];
    if (j->va != c->st.rip)
        j = &jc[JC_INDEX2(c->st.rip)];
    if (j->va != c->st.rip)
        return NULL;
    c->page_va = c->st.rip & PAGE_MASK;
    return j->code;
}

const uint8_t *soft_miss(struct soft_cpu *c, uint64_t xored, enum mem_access acc, uint32_t record,
                         uint64_t entry)
{
    const struct cache *k = &c->svm->cache;
    const struct exit_record *x = &k->exits[record];
    const struct tlb_set *s = c->set;
    uint64_t i = (entry - (uintptr_t)s) / sizeof(struct tlb_entry);
    gva_t va = xored ^ atomic_load_explicit(acc == ACC_WRITE ? &s->wr[i].tag : &s->rd[i].tag,
                                            memory_order_relaxed);
    const uint8_t *twin;

    if (TLB_INDEX(va) != i) /* another vCPU has just emptied the entry, so this was not its tag */
        return k->rx + x->at;
    if (tlb_fill_for_code(c, va, acc))
        return k->rx + x->at;
    if (exit_kind_of(x->arg) == EXIT_CAREFUL && (twin = atomic_load(&x->twin)))
        return twin;
    c->exit_record = record;
    c->exit_arg = (uint32_t)EXIT_RECORD << EXIT_KIND_SHIFT;
    return NULL;
}

/* ---- Translated code ----------------------------------------------------------------- */

/* Translated code was left by way of a record, which a flush of the cache may overwrite as soon as in_code is off. */
static void take_record(struct soft_cpu *c)
{
    const struct cache *k = &c->svm->cache;
    const struct exit_record *x = &k->exits[c->exit_record];

    c->exit_arg = x->arg;
    if (exit_kind_of(x->arg) == EXIT_CAREFUL) {
        c->careful_record = c->exit_record;
        return;
    }
    c->exit_site = k->rx + x->at;
    if (x->page_va != EXIT_SAME_PAGE)
        c->page_va = x->page_va;
}

/* Enter translated code; false when something came up first. */
static bool enter_code(struct soft_cpu *c, const uint8_t *code)
{
    enum exit_kind kind;

    c->page_va = c->st.rip & PAGE_MASK;
    flags_to_lazy(c);
    atomic_store_explicit(&c->jc, c->set->jc, memory_order_relaxed);
    atomic_store_explicit(&c->returns_now, c->returns, memory_order_relaxed);
    atomic_store(&c->in_code, 1);
    if (atomic_load(&c->exit_request) || atomic_load(&c->svm->cache.flushing) ||
        atomic_load(&c->svm->cache.gen) != c->cache_gen) {
        atomic_store(&c->in_code, 0);
        return false;
    }
    c->counters.enter++;
    soft_enter(c, code);
    kind = exit_kind_of(c->exit_arg);
    if (kind == EXIT_RECORD || (kind == EXIT_MISS && unlikely(!canonical(c->st.rip))))
        take_record(c);
    atomic_store_explicit(&c->in_code, 0, memory_order_release);
    flags_from_lazy(c);
    return true;
}

/*
 * A branch to a non-canonical address faults itself, and has changed nothing:
 * take back what translated code did to RSP.
 */
static _Noreturn void branch_fault(struct soft_cpu *c, unsigned off)
{
    const struct insn *in;

    c->st.rip = c->page_va + off;
    in = soft_fetch(c);
    if (in->op == ZYDIS_MNEMONIC_CALL)
        c->st.gpr[X86_RSP] += 8;
    else if (in->op == ZYDIS_MNEMONIC_RET)
        c->st.gpr[X86_RSP] -= 8 + (in->nopnd ? in->imm & 0xffff : 0);
    soft_raise_err(c, X86_GP, 0);
}

/* Act on the way translated code was left. */
static void after_code(struct soft_cpu *c)
{
    uint32_t arg = c->exit_arg;
    enum exit_kind kind = exit_kind_of(arg);

    if (kind != EXIT_RIP && kind != EXIT_MISS && kind != EXIT_DONE)
        c->st.rip = c->page_va + (arg & EXIT_OFFSET);
    switch (kind) {
    case EXIT_INTERP:
        interp_one(c);
        break;
    case EXIT_FPU:
        if (!soft_fpu_load(c))
            interp_one(c);
        break;
    case EXIT_CAREFUL:
        c->careful = true;
        break;
    case EXIT_CHAIN:
    case EXIT_LINK:
        c->chain_site = c->exit_site;
        c->chain_link = kind == EXIT_LINK;
        c->chain_flags = arg & (EXIT_SITE_MEM | EXIT_SITE_DEAD);
        break;
    case EXIT_KILLED:
        c->killed_code = c->exit_site;
        break;
    case EXIT_MISS:
    case EXIT_RIP:
        c->counters.jc_miss++;
        if (unlikely(!canonical(c->st.rip)) && (arg & EXIT_BRANCH))
            branch_fault(c, arg & EXIT_OFFSET);
        break;
    default:
        break;
    }
}

#define FOUND_NEVER (~0ull)

/* A place in guest memory and a key in one number, if they fit. */
static uint64_t found_what(uint64_t phys, block_key key)
{
    return phys >> 40 || key >> 23 ? FOUND_NEVER : phys | (uint64_t)key << 40;
}

static struct found_entry *found_entry(struct soft_cpu *c, uint64_t what)
{
    return &c->found[what * 0x9e3779b97f4a7c15ull >> (64 - FOUND_BITS)];
}

/*
 * Code of the block at RIP as it was found before; NULL: look for it. If it has been killed since, its entry leads back,
 * as from the jump cache.
 */
static const uint8_t *found_before(struct soft_cpu *c, uint64_t phys, block_key key)
{
    uint64_t what = found_what(phys, key);
    const struct found_entry *f = found_entry(c, what);

    return f->what == what && what != FOUND_NEVER ? f->code : NULL;
}

static void found_note(struct soft_cpu *c, uint64_t phys, block_key key, const uint8_t *code)
{
    uint64_t what = found_what(phys, key);

    *found_entry(c, what) = (struct found_entry){what, code};
}

/* The block at RIP, which is at `phys` in the page at `page`; NULL: interpret. */
static struct block *find_block(struct soft_cpu *c, const uint8_t *page, uint64_t phys,
                                block_key key)
{
    struct block *b = cache_find(&c->svm->cache, phys, key);

    if (b)
        return b;
    soft_fpu_park(c);
    if (BLOCK_OWNER(key) && !view_note_code(c, c->st.rip & PAGE_MASK, page))
        return NULL;
    return cache_make(c, page, c->st.rip & ~PAGE_MASK, key);
}

/* Enter a target into the jump cache; the one it displaces moves to the second table. */
static void jc_enter(struct tlb_set *s, uint64_t va, const uint8_t *code)
{
    struct jc_entry *j = &s->jc[JC_INDEX(va)];

    if (j->va != va && j->va != ~0ull && j->va != 0)
        s->jc[JC_INDEX2(j->va)] = *j;
    j->va = va;
    j->code = code;
    s->jc_used = true;
}

/* What left translated code wants done with the block that comes next. */
struct wishes {
    const uint8_t *site;   /* to be linked to it, or NULL */
    const uint8_t *killed; /* to lead to it from now on, or NULL */
};

/* The code at RIP, made if need be, and linked as wished; NULL: interpret. */
static const uint8_t *code_at(struct soft_cpu *c, const uint8_t *page, uint64_t phys, block_key key,
                              const struct wishes *w)
{
    struct block *b = find_block(c, page, phys, key);

    if (!b)
        return NULL;
    if (w->site) {
        soft_fpu_park(c);
        if (c->chain_link)
            view_link_enter(c, (uint32_t)(w->site - c->svm->cache.rx), page,
                            block_entry(b, c->chain_flags));
        else
            cache_chain(c->svm, w->site, c->chain_flags, b, c->cache_gen);
        c->counters.chain++;
    }
    if (!b->ninsn)
        return NULL;
    if (w->killed) {
        soft_fpu_park(c);
        cache_replace(c->svm, w->killed, b, c->cache_gen);
    }
    if (key == BLOCK_CAREFUL) {
        soft_fpu_park(c); /* the lock below is libc's */
        cache_link_twin(c->svm, c->careful_record, b, c->cache_gen);
    } else {
        found_note(c, phys, key, b->entry_mem);
    }
    return b->entry_mem;
}

/* What blocks at RIP are to be looked for. */
static block_key present_key(const struct soft_cpu *c)
{
    block_key key = c->set->code;

    return key == BLOCK_OF_VIEW(0) && c->st.rip < BLOCK_PLACES && !c->no_placed
               ? BLOCK_AT(c->st.rip)
               : key;
}

/* One step of a CPU in 64-bit mode: the block at RIP, made if need be. */
static void step_code(struct soft_cpu *c)
{
    struct wishes w = {c->chain_site, c->killed_code};
    block_key key = c->careful ? BLOCK_CAREFUL : present_key(c);
    const uint8_t *page, *code = NULL;

    c->chain_site = c->killed_code = NULL;
    c->careful = false;
    if (unlikely(atomic_load(&c->svm->cache.gen) != c->cache_gen)) {
        tlb_flush_jc(c);
        c->cache_gen = atomic_load(&c->svm->cache.gen);
        soft_fpu_park(c);
        view_links_lost(c);
        w.site = NULL;
        c->careful_record = EXIT_NONE;
    }
    page = tlb_fetch_page(c, c->st.rip);
    c->counters.find++;
    if (page) {
        uint64_t phys = (uint64_t)(page - c->svm->vm->mem.map) + (c->st.rip & ~PAGE_MASK);

        if (!w.site && !w.killed)
            code = found_before(c, phys, key);
        if (!code)
            code = code_at(c, page, phys, key, &w);
    }
    if (!code) {
        interp_one(c);
        return;
    }
    if (key != BLOCK_CAREFUL)
        jc_enter(c->set, c->st.rip, code);
    if (enter_code(c, code))
        after_code(c);
}

enum vcpu_exit_reason soft_run_loop(struct soft_cpu *c)
{
    enum vcpu_exit_reason reason = VCPU_EXIT_ERROR;

    if (_setjmp(c->exc_jmp)) {
        c->chain_site = NULL;
        deliver_exception(c);
        if (c->intr_waiting || c->nmi_pending)
            soft_look_up(c);
    } else {
        soft_look_up(c);
    }
    for (;;) {
        if (atomic_load_explicit(&c->exit_request, memory_order_acquire) ||
            c->st.run != X86_RUNNING) {
            if (take_events(c, &reason))
                return reason;
        }
        if (unlikely(c->mode != INSN_64 || (c->st.rflags & X86_TF) || c->st.intr_shadow ||
                     c->no_translate || soft_watched(c)))
            interp_one(c);
        else
            step_code(c);
    }
}
