/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The software engine's per-vCPU state and what its parts promise each other.
 *
 * Host vector registers: while `fpu_live` is set the guest's x87/SSE/AVX state
 * sits in the host's registers. Everything under src/engine/soft that may run
 * then is compiled with -mgeneral-regs-only; before calling out (libc, Zydis,
 * devices, translation) the caller parks it with soft_fpu_park().
 */
#ifndef LODGE_SOFT_SOFT_H
#define LODGE_SOFT_SOFT_H

#include <setjmp.h>
#include <stdatomic.h>

#include "core/vcpu.h"
#include "core/vm.h"
#include "engine/soft/insn.h"
#include "x86/state.h"

/*
 * Soft TLB entry. tag is the guest page address; ~0 in an empty one, which no
 * address with that index has (entry 4095, whose index does match, uses 0).
 * Atomic, as another vCPU may take write entries away (tlb_drop_writes); what
 * order that needs is given by fences, so plain moves do (tlb.c).
 */
struct tlb_entry {
    _Atomic uint64_t tag;
    _Atomic(hva_t) page; /* host address of the page */
};

#define VIEW_REGION_SHIFT 39 /* view.h */
#define VIEW_TABLE        256
#define VIEW_TABLE_WHOLE  (1u << (64 - VIEW_REGION_SHIFT))

#define TLB_ENTRIES   4096
#define TLB_INDEX(va) (((va) >> PAGE_SHIFT) & (TLB_ENTRIES - 1))

/*
 * Jump cache: guest-virtual target to translated code. Two tables of JC_ENTRIES, one behind the other: the first is
 * indexed by a multiplicative hash, the second, for what the first had to give up, by address bits 4..15.
 */
struct jc_entry {
    uint64_t va;
    const uint8_t *code;
};
#define JC_ENTRIES     4096
#define JC_INDEX2(va)  (JC_ENTRIES + ((va) >> 4 & (JC_ENTRIES - 1)))
#define JC_TOTAL       (2 * JC_ENTRIES)
#define DCACHE_ENTRIES 4096
#define RECHECK_MAX    64
#define RETURNS        16 /* ret_top, one byte, wraps around by itself */
#define JC_HASH        0x9e3779b1u
#define JC_SHIFT       16 /* of the 32-bit product; entries are 16 bytes */
#define JC_INDEX(va)   (((uint32_t)(va)*JC_HASH >> JC_SHIFT >> 4) & (JC_ENTRIES - 1))

/*
 * Blocks that were found, by where they are in guest memory: to be found again in another address space without a look
 * at cache.hash and the block, which are seldom in the host's caches. `what` is found_what of run.c; code: NULL in an
 * entry never used.
 */
struct found_entry {
    uint64_t what;
    const uint8_t *code;
};
#define FOUND_BITS 16

/* How a set's accesses are checked: part of its key. */
enum tlb_mode { TLB_USER, TLB_KERNEL, TLB_KERNEL_AC /* SMAP off or EFLAGS.AC */, TLB_NMODES };

struct tlb_set; /* tlb.h */
struct views;   /* view_int.h */
struct soft_vm;

enum mem_access { ACC_READ = 0, ACC_WRITE = 1, ACC_FETCH = 2 };

/* Counted per vCPU, summed for --stats. Name and meaning, once. */
#define SOFT_COUNTERS(X)                                                                           \
    X(enter, "entries to translated code")                                                         \
    X(interp, "instructions interpreted")                                                          \
    X(decode, "instructions decoded for the interpreter")                                          \
    X(block, "blocks translated")                                                                  \
    X(block_insn, "guest instructions translated")                                                 \
    X(block_bytes, "bytes of guest code translated")                                               \
    X(code_bytes, "bytes of host code produced")                                                   \
    X(translate_ns, "nanoseconds translating")                                                     \
    X(find, "blocks looked for")                                                                   \
    X(jc_miss, "jump cache misses")                                                                \
    X(chain, "direct branches linked")                                                             \
    X(tlb_miss, "soft TLB misses")                                                                 \
    X(tlb_flush_all, "soft TLB flushes")                                                           \
    X(tlb_flush_pcid, "soft TLB flushes of one address space")                                     \
    X(tlb_flush_page, "INVLPG")                                                                    \
    X(smc, "writes that hit translated code")                                                      \
    X(smc_page, "writes to pages holding code")                                                    \
    X(cache_flush, "translation cache flushes")                                                    \
    X(mmio, "memory-mapped I/O accesses")                                                          \
    X(pio, "port I/O accesses")                                                                    \
    X(irq, "interrupts delivered")                                                                 \
    X(exception, "exceptions delivered")                                                           \
    X(fpu_load, "vector state loads")                                                              \
    X(halt, "halts")                                                                               \
    X(view_on, "address spaces given a view")                                                      \
    X(view_off, "views given up")                                                                  \
    X(view_fill, "mappings added to views")                                                        \
    X(view_slow, "faults in views left to the interpreter")                                        \
    X(view_check, "views compared with the page tables after a flush")                             \
    X(view_drop, "mappings changed or taken out of views")

struct soft_counters {
#define X(name, text) uint64_t name;
    SOFT_COUNTERS(X)
#undef X
};

/* A native instruction and the thunk that runs it (cache.h), if cache.gen is still gen. */
#define THUNK_BITS 6
struct thunk_entry {
    uint64_t bytes[2];
    const uint8_t *code;
    uint32_t gen;
};

struct soft_cpu {
    /* Read and written by translated code, GS-relative. */
    struct x86_state st;
    struct tlb_set *set; /* current TLB set: read, write, then the jump cache */
    const struct jc_entry
        *_Atomic jc; /* its jump cache, or the always-empty one while an exit is requested */
    const struct jc_entry
        *_Atomic returns_now; /* returns, or the always-empty ones while an exit is requested */
    struct jc_entry returns[RETURNS]; /* return addresses of the latest calls: emit_branch.c */
    uint8_t ret_top;                  /* where the latest is, in bytes from the first */
    uint64_t page_va;                 /* guest page being executed in translated code */
    uint64_t
        tmp[6]; /* scratch: 0 and 1 of translated code, the others of what it shares (glue.c) */
    const struct view_link *links; /* of the present view: view_link.c */
    uint64_t window[8];            /* host minus guest address of the block's windows */
    uint64_t self;                 /* the host address of this structure */
    const uint8_t *exit_site;      /* with EXIT_CHAIN and EXIT_LINK: what to link */
    uint32_t exit_arg;             /* why translated code was left: cache.h */
    uint32_t exit_record;          /* with EXIT_RECORD and EXIT_MISS: which */
    uint64_t host_rsp;
    uint32_t
        lazy_flags; /* AH of LAHF in bits 8 to 15, OF in bit 0; the upper half is of no meaning */
    _Atomic uint32_t exit_request; /* leave translated code at the next poll */
    uint8_t fpu_live;              /* guest vector state is in host registers */
    uint8_t fpu_ok;                /* fpu_live, and CR0/CR4/XCR0/MXCSR let SIMD code run natively */
    uint8_t mode;                  /* enum insn_mode of the current CS */
    _Atomic uint8_t in_code;       /* may be executing in the code cache */
    void *alt_stack;               /* for host signals: RSP is the guest's in translated code */
    uint8_t in_thunk;              /* running a thunk (for the signal handler) */
    int fault_signal;              /* host signal a thunk took, or 0 */

    struct vcpu *vcpu;
    struct soft_vm *svm;

    /* Exception under way: set by soft_raise. */
    jmp_buf exc_jmp; /* where soft_raise returns to: the run loop */
    uint8_t exc_vector, exc_has_error;
    uint32_t exc_error;
    uint8_t db_hits; /* breakpoints the instruction has met: DR6_HITS. A fault forgets them */
    bool db_held;    /* traps wait for the instruction after the present one, which loaded SS */

    hva_t code_store; /* write into a page holding code, to be told to the cache, or NULL */
    uint8_t code_store_len;
    uint8_t bus_locked; /* holds the VM's bus lock; an exception releases it */

    uint64_t next_rip; /* RIP after the current instruction; interpreter handlers may change it */

    struct insn *dcache; /* decoded instructions by host address, DCACHE_ENTRIES of them */
    const struct jc_entry *jc_empty; /* matches nothing */
    struct jc_entry returns_empty[RETURNS];
    uint32_t cache_gen;         /* cache.gen that jump caches and code addresses belong to */
    const uint8_t *chain_site;  /* branch to link to the next block found, or NULL */
    const uint8_t *killed_code; /* block killed that the next one may replace, or NULL */
    bool careful;               /* the next block is to be the careful twin, */
    uint32_t careful_record;    /* and this exit_record to be linked to it */
    uint32_t chain_flags;       /* EXIT_SITE_* of it */
    bool chain_link;            /* it is a link of the view's: EXIT_LINK */
    uint8_t nmi_pending;        /* NMIs to take: up to two, one while another is served */
    uint8_t intr_waiting;       /* there may be an interrupt that IF or a shadow keeps out */
    bool no_translate;          /* interpret everything: for tests */
    bool no_views;              /* the same: no views, */
    bool no_own_blocks;         /* no blocks of their own, */
    bool no_placed;             /* and none that are placed */
    int8_t delivering;          /* vector whose delivery is under way, or -1 */
    struct found_entry *found;  /* 1 << FOUND_BITS of them */
    struct tlb_set *sets;       /* TLB_NSETS of them */
    struct tlb_set *pcid_sets[TLB_NMODES]; /* those of the present PCID, NULL until used */
    uint32_t *wfill;                       /* per guest page: where its write entry is (tlb.c) */
    uint64_t set_clock;                    /* for choosing the set to give up */
    uint16_t set_pcid;
    uint16_t user_keys, system_keys; /* protection keys of pages the TLB may know */
    struct soft_counters counters;
    struct thunk_entry thunks[1 << THUNK_BITS];
    struct insn inline_insn; /* the one being interpreted from inside a block */
    uint64_t
        recheck[RECHECK_MAX];  /* pages whose write entry another vCPU took away: cache_recheck */
    _Atomic unsigned nrecheck; /* filled under cache.lock */
    struct views *views;       /* view.c */
    uint8_t bounce[256] __attribute__((aligned(64)));
    /*
     * By bits 39 to 46 of a guest address: host minus guest address. The last member, since it goes on, as seen by
     * translated code, with entries for all other values of bits 39 to 63, which fault.
     */
    uint64_t view_table[VIEW_TABLE];
};

/* ---- Exceptions ------------------------------------------------------- */

/*
 * Raise a guest exception for the current instruction: st.rip must still be
 * its first byte and no register may have been changed. Does not return; the
 * run loop delivers it (contributory faults become #DF, then shutdown).
 * soft_raise_pf also sets CR2.
 */
_Noreturn void soft_raise(struct soft_cpu *c, unsigned vector);
_Noreturn void soft_raise_err(struct soft_cpu *c, unsigned vector, uint32_t error);
_Noreturn void soft_raise_pf(struct soft_cpu *c, gva_t va, uint32_t error);

/*
 * Does something look at each access and instruction: breakpoints, the
 * alignment check, virtual interrupts? Then nothing may run as translated code.
 */
static inline bool alignment_checked(const struct soft_cpu *c)
{
    return unlikely(c->st.rflags & X86_AC) && (c->st.cr0 & X86_CR0_AM) && c->st.cpl == 3;
}

static inline bool vif_and_vip(const struct soft_cpu *c)
{
    return (c->st.rflags & (X86_VIF | X86_VIP)) == (X86_VIF | X86_VIP);
}

static inline bool soft_watched(const struct soft_cpu *c)
{
    return (c->st.dr[7] & DR7_ENABLES) || alignment_checked(c) || unlikely(vif_and_vip(c));
}

/* ---- Linear memory (mmu.c) -------------------------------------------- */
/*
 * Access at a linear address with the CPU's present privilege (`mem_*`) or as
 * supervisor for descriptor tables, TSS and the like (`sys_*`). size 1, 2, 4,
 * 8; page crossing, MMIO, code pages and dirty bits are handled. A fault
 * raises #PF and does not return; nothing has been written then (a crossing
 * write checks both pages first).
 */
uint64_t mem_ld(struct soft_cpu *c, gva_t va, unsigned size);
void mem_st(struct soft_cpu *c, gva_t va, unsigned size, uint64_t val);
uint64_t sys_ld(struct soft_cpu *c, gva_t va, unsigned size);
void sys_st(struct soft_cpu *c, gva_t va, unsigned size, uint64_t val);

/* Any length (vector operands, XSAVE images): both pages checked before the first byte moves. len <= 4096. */
void mem_ld_bytes(struct soft_cpu *c, gva_t va, void *buf, unsigned len);
void mem_st_bytes(struct soft_cpu *c, gva_t va, const void *buf, unsigned len);

/*
 * Host pointer for a direct access of `len` bytes inside one page, or NULL
 * when it is MMIO, crosses a page, or (ACC_WRITE) hits a page holding
 * translated code. Raises #PF like mem_ld/mem_st. The pointer is good until
 * the next call that may change the TLB. For locked operations and for
 * moving strings page by page.
 */
void *mem_host(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc);

/*
 * As mem_host for writing, but gives pages holding translated code too: the cache is told of the write when the
 * instruction is complete. For locked operations, which must be one host operation wherever the operand is.
 */
void *mem_host_locked(struct soft_cpu *c, gva_t va, unsigned len);

/* Check that a later access will not fault; raises #PF. */
void mem_probe(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc);

/* Taken around the read-modify-write of a locked instruction for which mem_host gave NULL. Recursive use is a bug. */
void soft_bus_lock(struct soft_cpu *c);
void soft_bus_unlock(struct soft_cpu *c);

/* TLB maintenance after a change of CR0, CR3, CR4, EFER, CPL or EFLAGS.AC. */
enum tlb_mode tlb_present_mode(const struct soft_cpu *c);
void tlb_switch(struct soft_cpu *c);         /* choose the set for the present CR3/PCID and mode */
void tlb_forget_returns(struct soft_cpu *c); /* another address space, or other pages in it */
void tlb_flush_all(struct soft_cpu *c);      /* everything, global entries included */
void tlb_flush_nonglobal(struct soft_cpu *c);
void tlb_flush_pcid(struct soft_cpu *c, unsigned pcid); /* non-global entries of one PCID */
void tlb_flush_page(struct soft_cpu *c, gva_t va);      /* INVLPG */

/* PKRU gets a new value: the TLB forgets what depended on the old one. */
void soft_set_pkru(struct soft_cpu *c, uint32_t val);

/* ---- Segmentation (interp_seg.c) -------------------------------------- */

/*
 * Linear address of an access of `size` bytes at seg:off; checks limit, type
 * and canonical form, raising #GP(0) or #SS(0). In 64-bit mode only FS and GS
 * have a base and only canonicality is checked.
 */
gva_t seg_linear(struct soft_cpu *c, enum x86_sreg seg, uint64_t off, unsigned size,
                 enum mem_access acc);

static inline bool canonical(gva_t va)
{
    return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

/* Load a segment register as MOV/POP does, descriptor checks included; CS is refused by decode. */
void seg_load(struct soft_cpu *c, enum x86_sreg seg, uint16_t sel);

/* Stack access with the present SS and stack-address size; SP changes only when the access did not fault. */
void stack_push(struct soft_cpu *c, unsigned size, uint64_t val);
uint64_t stack_pop(struct soft_cpu *c, unsigned size);
unsigned stack_addr_size(const struct soft_cpu *c); /* 2, 4 or 8 */

/* Set CPL, recompute c->mode from CS, EFER.LMA and CR0.PE, and choose the TLB set. */
void soft_mode_changed(struct soft_cpu *c);

/* ---- Operands (interp.h gives the inline part) ------------------------ */

/* Offset part of the memory operand, truncated to the address size; no segment base. */
uint64_t insn_ea(const struct soft_cpu *c, const struct insn *in);

/* ---- Interpreter ------------------------------------------------------- */

/*
 * Execute one instruction already decoded. On return st.rip is past it (or at
 * its target); a fault leaves through soft_raise with st.rip unchanged.
 */
void interp_insn(struct soft_cpu *c, const struct insn *in);

typedef void insn_fn(struct soft_cpu *c, const struct insn *in);

/*
 * Handlers by mnemonic. Three tables, consulted in this order; an instruction in
 * none of them and without INSN_NATIVE is #UD. A handler finds c->next_rip
 * set to the following instruction and changes it to branch; it must not
 * write st.rip.
 */
extern insn_fn *const interp_int_table
    []; /* interp_alu.c, interp_move.c, interp_string.c, ... through interp_table.c */
extern insn_fn *const interp_sys_table[]; /* interp_sys*.c */

/* System forms of mnemonics in the first table: CALL, JMP and RET with INSN_FAR; MOV with OPND_CR or OPND_DR. */
insn_fn interp_far_call, interp_far_jmp, interp_far_ret, interp_mov_cr, interp_mov_dr;

/*
 * Deliver interrupt or exception `vector` through the IDT (or the real-mode
 * table) with the return address st.rip, exactly as SDM volume 3 chapter 6
 * says: gates, privilege change, IST, TSS stacks, error code, 16-, 32- and
 * 64-bit forms. May itself raise.
 */
enum int_kind { INT_EXT, INT_EXC, INT_SOFT /* INT n, INT3, INTO: gate DPL is checked */ };
void interp_deliver(struct soft_cpu *c, unsigned vector, enum int_kind kind, bool has_error,
                    uint32_t error);

/* ---- Debugging (interp_debug.c) ----------------------------------------- */

/* Before the instruction at RIP is fetched, if DR7 enables anything: raises #DB for a breakpoint on it. */
void debug_fetch(struct soft_cpu *c);

/*
 * After an instruction that began with `flags` at `rip`: RF, and #DB for a
 * single step and for db_hits. Needed if any of these, RF, TF in `flags` and
 * DR7's enables, is set.
 */
void debug_done(struct soft_cpu *c, const struct insn *in, uint64_t flags, uint64_t rip);

/* Before an instruction, with VIF and VIP set: raises #GP where they count (interp_vme.c). */
void vif_pending(struct soft_cpu *c);

/* INIT and SIPI as seen by the CPU. */
void interp_sipi(struct soft_cpu *c, unsigned start_page);

/* ---- FPU (fpu.c) -------------------------------------------------------- */

void soft_fpu_park(struct soft_cpu *c);    /* guest state from host registers into st.xsave */
void soft_fpu_changed(struct soft_cpu *c); /* CR0, CR4 or XCR0 changed: recompute fpu_ok */

/* Run an INSN_NATIVE instruction through a thunk on the host CPU, memory operand in the bounce buffer. */
void fpu_native(struct soft_cpu *c, const struct insn *in);

/* Put the guest's vector state into the host registers; false when the instruction must be interpreted (#NM, #UD). */
bool soft_fpu_load(struct soft_cpu *c);

/* Zydis, cached by host address and bytes; fetches at st.rip; raises #PF, #GP. Valid until the next call. */
const struct insn *soft_fetch(struct soft_cpu *c);

/* Ask the run loop to look at events before the next block (interrupt window opened, ...). */
/* Any thread, async-signal-safe: leave translated code and look at the events. */
void soft_kick(struct soft_cpu *c);

static inline void soft_look_up(struct soft_cpu *c)
{
    atomic_store_explicit(&c->exit_request, 1, memory_order_relaxed);
}

#endif
