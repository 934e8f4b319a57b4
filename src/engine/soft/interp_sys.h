/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the system half of the interpreter share. Runs with the guest's vector state live. */
#ifndef LODGE_SOFT_INTERP_SYS_H
#define LODGE_SOFT_INTERP_SYS_H

#include "engine/soft/interp.h"

/* Descriptor types: bits 44:40 of a descriptor, S included, or bits 4:0 of x86_seg.attr. */
enum desc_type {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK_GATE = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS32 = 9, /* in long mode the 64-bit TSS */
    DESC_TSS32_BUSY = 11,
    DESC_CALL32 = 12, /* in long mode the 64-bit call gate; likewise below */
    DESC_INT32 = 14,
    DESC_TRAP32 = 15,
};
#define DESC_TYPE_MASK 0x1fu
#define DESC_ACCESSED  (1ull << 40)
#define DESC_BUSY      (1ull << 41)

/* Bits of x86_seg.attr's type field, for code and data segments. */
#define SEG_A    1u
#define SEG_RW   2u /* data: writable; code: readable */
#define SEG_CE   4u /* data: expand-down; code: conforming */
#define SEG_CODE 8u

/* attr of the fixed flat segments SYSCALL and its kin load, and of virtual-8086 mode */
#define ATTR_CODE64 0xa09bu
#define ATTR_CODE32 0xc09bu
#define ATTR_DATA32 0xc093u
#define ATTR_DPL3   (3u << X86_ATTR_DPL_SHIFT)
#define ATTR_V86    0xf3u
#define ATTR_REAL   0x93u

static inline bool cpu_real(const struct soft_cpu *c)
{
    return !(c->st.cr0 & X86_CR0_PE);
}

static inline bool cpu_v86(const struct soft_cpu *c)
{
    return c->st.rflags & X86_VM;
}

static inline bool cpu_long(const struct soft_cpu *c)
{
    return c->st.efer & X86_EFER_LMA;
}

static inline unsigned cpu_iopl(const struct soft_cpu *c)
{
    return (c->st.rflags & X86_IOPL) >> 12;
}

static inline void require_cpl0(struct soft_cpu *c)
{
    if (unlikely(c->st.cpl != 0))
        soft_raise_err(c, X86_GP, 0);
}

/* Instructions that don't exist in real and virtual-8086 mode. */
static inline void require_protected(struct soft_cpu *c)
{
    if (cpu_real(c) || cpu_v86(c))
        soft_raise(c, X86_UD);
}

/* Linear address `off` bytes into the memory operand. */
static inline gva_t mem_operand(struct soft_cpu *c, const struct insn *in, unsigned off,
                                unsigned size, enum mem_access acc)
{
    uint64_t ea = (insn_ea(c, in) + off) & size_mask(in->addr_size);

    return seg_linear(c, (enum x86_sreg)in->mem_seg, ea, size, acc);
}

/* The 16-bit operand of LLDT, VERR, LMSW and the like. */
static inline uint16_t sel_operand(struct soft_cpu *c, const struct insn *in, unsigned n)
{
    if (in->opnd[n].kind == OPND_MEM)
        return (uint16_t)mem_ld(c, mem_operand(c, in, 0, 2, ACC_READ), 2);
    return (uint16_t)c->st.gpr[in->opnd[n].reg];
}

/* A far pointer in memory, offset part of `size` bytes first. */
struct far_ptr {
    uint64_t off;
    uint16_t sel;
};
struct far_ptr far_operand(struct soft_cpu *c, const struct insn *in, unsigned size);

/* ---- Descriptors (interp_seg.c) ---------------------------------------- */

static inline uint32_t desc_attr(uint64_t d)
{
    return (uint32_t)(d >> 40) & 0xf0ff;
}

static inline unsigned desc_type(uint64_t d)
{
    return (unsigned)(d >> 40) & DESC_TYPE_MASK;
}

static inline unsigned desc_dpl(uint64_t d)
{
    return (unsigned)(d >> 45) & 3;
}

static inline bool desc_present(uint64_t d)
{
    return d >> 47 & 1;
}

static inline bool desc_is_code(uint64_t d)
{
    return (desc_attr(d) & (X86_ATTR_S | SEG_CODE)) == (X86_ATTR_S | SEG_CODE);
}

static inline bool desc_conforming(uint64_t d)
{
    return desc_attr(d) & SEG_CE;
}

static inline bool desc_long(uint64_t d)
{
    return d >> 53 & 1;
}

static inline uint64_t desc_base(uint64_t d)
{
    return (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000);
}

static inline uint32_t desc_limit(uint64_t d)
{
    uint32_t l = (uint32_t)(d & 0xffff) | (uint32_t)(d >> 32 & 0xf0000);

    return d >> 55 & 1 ? l << 12 | 0xfff : l;
}

static inline bool sel_null(uint16_t sel)
{
    return !(sel & ~3u);
}

static inline uint32_t sel_error(uint16_t sel, uint32_t ext)
{
    return (sel & 0xfffcu) | ext;
}

static inline unsigned attr_dpl(uint32_t attr)
{
    return attr >> X86_ATTR_DPL_SHIFT & 3;
}

static inline void seg_fill(struct x86_seg *s, uint16_t sel, uint64_t d)
{
    s->base = desc_base(d);
    s->limit = desc_limit(d);
    s->attr = desc_attr(d);
    s->sel = sel;
}

static inline void seg_flat(struct x86_seg *s, uint16_t sel, uint32_t attr)
{
    s->base = 0;
    s->limit = 0xffffffff;
    s->attr = attr;
    s->sel = sel;
}

/* Null selector; dpl keeps SS.DPL equal to CPL. */
static inline void seg_null(struct x86_seg *s, uint16_t sel, unsigned dpl)
{
    s->base = 0;
    s->limit = 0;
    s->attr = X86_ATTR_UNUSABLE | dpl << X86_ATTR_DPL_SHIFT;
    s->sel = sel;
}

static inline void seg_v86(struct x86_seg *s, uint16_t sel)
{
    s->base = (uint64_t)sel << 4;
    s->limit = 0xffff;
    s->attr = ATTR_V86;
    s->sel = sel;
}

/* Load in real mode: limit and granularity stay what they were ("unreal" mode relies on it). */
void seg_real(struct x86_seg *s, uint16_t sel);

/* Linear address of the descriptor, or false when the table ends before it. */
bool desc_addr(const struct soft_cpu *c, uint16_t sel, gva_t *va);
bool desc_try(struct soft_cpu *c, uint16_t sel, uint64_t *d); /* false also for a null selector */
/* The same, raising `vector` with the selector and `ext` as error code. A null selector is refused by the caller. */
uint64_t desc_read(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext);
/* Upper half of a 16-byte system descriptor; it must fit the table too. */
uint64_t desc_read_high(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext);
void desc_set_byte5(struct soft_cpu *c, uint16_t sel, uint64_t d);

/* Set the accessed bit in the table unless it is set already; returns the descriptor with it. */
static inline uint64_t desc_touch(struct soft_cpu *c, uint16_t sel, uint64_t d)
{
    if (unlikely(!(d & DESC_ACCESSED)))
        desc_set_byte5(c, sel, d |= DESC_ACCESSED);
    return d;
}

/* Checks of a load of SS at privilege `cpl`; `vector` is #GP or #TS. The selector is not null. */
uint64_t desc_read_stack(struct soft_cpu *c, uint16_t sel, unsigned cpl, unsigned vector,
                         uint32_t ext);
/* Stack pointer (and SS outside long mode) for privilege `cpl` from the TSS. */
struct far_ptr tss_stack(struct soft_cpu *c, unsigned cpl, uint32_t ext);

/* As seg_load without the interrupt shadow (LSS). */
void seg_load_plain(struct soft_cpu *c, enum x86_sreg seg, uint16_t sel);

/* Is [off, off+size) inside the segment? Expand-down segments included. */
static inline bool seg_inside(const struct x86_seg *s, uint64_t off, unsigned size)
{
    uint64_t last = off + size - 1;

    if (likely((s->attr & (SEG_CODE | SEG_CE | X86_ATTR_S)) != (SEG_CE | X86_ATTR_S)))
        return last <= s->limit;
    return off > s->limit && last <= (s->attr & X86_ATTR_DB ? 0xffffffffull : 0xffffull);
}

/* ---- Stack frames ------------------------------------------------------- */

/*
 * A run of pushes or pops that becomes architectural in one step: the frame
 * moves its own stack pointer, frame_commit stores it. A fault on the way
 * leaves the registers alone.
 */
struct frame {
    const struct x86_seg *ss; /* NULL: 64-bit, checked for canonical form only */
    uint64_t sp, mask;
    uint32_t error; /* of #SS */
    bool sys;       /* a more privileged stack than the present CPL's */
};

static inline struct frame frame_present(struct soft_cpu *c, uint32_t ss_error)
{
    return (struct frame){
        .ss = c->mode == INSN_64 ? NULL : &c->st.seg[X86_SS],
        .sp = c->st.gpr[X86_RSP],
        .mask = size_mask(stack_addr_size(c)),
        .error = ss_error,
    };
}

gva_t frame_linear(struct soft_cpu *c, const struct frame *f, uint64_t off, unsigned size,
                   enum mem_access acc);
void frame_push(struct soft_cpu *c, struct frame *f, unsigned size, uint64_t val);
uint64_t frame_pop(struct soft_cpu *c, struct frame *f, unsigned size);

static inline void frame_commit(struct soft_cpu *c, const struct frame *f)
{
    uint64_t *rsp = &c->st.gpr[X86_RSP];

    if (f->mask == 0xffff)
        *rsp = (*rsp & ~0xffffull) | (f->sp & 0xffff);
    else
        *rsp = f->sp & f->mask;
}

/* ---- Control transfer ---------------------------------------------------- */

/* An event being delivered; `ret` is the return address pushed. */
struct event {
    unsigned vector;
    enum int_kind kind;
    bool has_error;
    uint32_t error;
    uint64_t ret;
    uint32_t ext; /* EXT bit of error codes of faults on the way */
};

/* Deliver; the handler's address goes to c->next_rip. */
void event_deliver(struct soft_cpu *c, const struct event *ev);

enum task_why { TASK_JMP, TASK_CALL, TASK_INT, TASK_IRET };
/*
 * Switch to the TSS `sel` names, saving `ret` as the old task's EIP; `ev` is the event that caused it or NULL.
 * The caller checked privilege. Afterwards st.rip and next_rip are in the new task.
 */
void task_switch(struct soft_cpu *c, uint16_t sel, enum task_why why, uint64_t ret,
                 const struct event *ev);

/* Raise #GP(0) when `off` is no address a jump to a code segment with descriptor `d` may go to. */
void code_target_check(struct soft_cpu *c, uint64_t d, uint64_t off, uint32_t ext);

/* Where RET or IRET goes. ss_desc is 0 for a null SS. */
struct ret_target {
    uint64_t rip, rsp, cs_desc, ss_desc;
    uint16_t cs, ss;
    unsigned cpl;
};
/* Read and check the descriptors of t->cs and t->ss; raise as RET and IRET do. */
void ret_check_code(struct soft_cpu *c, struct ret_target *t);
void ret_check_stack(struct soft_cpu *c, struct ret_target *t);
/*
 * Load CS and RIP, and with `stack` SS:RSP; on the way to a less privileged
 * level data segments it may not use become null. soft_mode_changed is left
 * to the caller.
 */
void ret_load(struct soft_cpu *c, const struct ret_target *t, bool stack);

/* Raise #DB, DR6 saying why: DR6_HITS as given, the other bits added (SDM volume 3, 17.2.3). */
_Noreturn void debug_raise(struct soft_cpu *c, uint64_t why);

/* Note breakpoints on a port. */
void debug_note_io(struct soft_cpu *c, unsigned port, unsigned size);

/* Note breakpoints on the access; raise #AC if it is misaligned and that is checked. */
void access_check(struct soft_cpu *c, gva_t va, unsigned size, enum mem_access acc);

static inline bool access_watched(const struct soft_cpu *c)
{
    return (c->st.dr[7] & DR7_ENABLES) | (c->st.rflags & X86_AC);
}

/* CR4.VME in virtual-8086 mode with IOPL below 3: VIF stands for IF. */
bool vme_active(const struct soft_cpu *c);
/* Do CLI and STI change VIF instead of IF? As above, or CR4.PVI at level 3. */
bool vif_active(const struct soft_cpu *c);
/* While vme_active: FLAGS as PUSHF shows them; EFLAGS after POPF or IRET of an image, which may raise #GP. */
uint64_t vme_flags_out(const struct soft_cpu *c);
uint64_t vme_flags_in(struct soft_cpu *c, uint64_t image);
/* INT n in virtual-8086 mode: true if it went to the 8086 program's own handler. */
bool vme_int(struct soft_cpu *c, unsigned vector);

/* The rights of protection keys have changed in the bits `changed`; `known` are those of that kind in the TLB. */
void soft_keys_changed(struct soft_cpu *c, uint16_t *known, uint32_t changed);

/* If IF has been opened to an interrupt that it kept out, have the run loop look. */
static inline void flags_written(struct soft_cpu *c, uint64_t old)
{
    if (c->intr_waiting && (c->st.rflags & ~old & X86_IF))
        soft_look_up(c);
}

/* ---- Handlers ------------------------------------------------------------ */

/* interp_int.c */
insn_fn op_int, op_int1, op_int3, op_into, op_iret;
/* interp_sysret.c */
insn_fn op_syscall, op_sysret, op_sysenter, op_sysexit;
/* interp_seg.c */
insn_fn op_lds, op_lar, op_lsl, op_verr, op_verw, op_arpl, op_lldt, op_ltr, op_sldt, op_str;
/* interp_msr.c */
insn_fn op_rdmsr, op_wrmsr, op_rdtsc, op_rdtscp, op_rdpid, op_rdpmc, op_swapgs, op_rdfsbase,
    op_rdgsbase, op_wrfsbase, op_wrgsbase, op_xsetbv, op_cpuid;
/* interp_sys.c */
insn_fn op_cli, op_sti, op_pushf, op_popf, op_hlt, op_lgdt, op_lidt, op_sgdt, op_sidt, op_lmsw,
    op_smsw, op_clts, op_invd, op_invlpg, op_invpcid, op_stac, op_clac, op_vmcall, op_rdpkru,
    op_wrpkru;
/* interp_io.c */
insn_fn op_in, op_out, op_ins, op_outs;

#endif
