/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/*
 * The code every vCPU shares for getting into and out of translated code,
 * generated once per cache. In translated code all GPRs but r10 and r11 hold
 * the guest's, RSP included, so nothing may touch the stack there.
 */
#include "engine/soft/emit.h"
#include "engine/soft/engine_soft.h"
#include "engine/soft/fpu.h"
#include "engine/soft/run.h"
#include "engine/soft/tlb.h"

static const uint8_t callee_saved[] = {X86_RBX, X86_RBP, X86_R12, X86_R13, X86_R14, X86_R15};

/* Host registers that carry a guest register, RSP last. */
static const uint8_t carried[] = {X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RBP, X86_RSI, X86_RDI,
                                  X86_R8,  X86_R9,  X86_R12, X86_R13, X86_R14, X86_R15, X86_RSP};

static void emit_push(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        emit_8(e, 0x41);
    emit_8(e, 0x50 | (reg & 7));
}

static void emit_pop(struct emit *e, unsigned reg)
{
    if (reg >= 8)
        emit_8(e, 0x41);
    emit_8(e, 0x58 | (reg & 7));
}

/* void enter(struct soft_cpu *c, const uint8_t *code): C's side of the door. GS is already set. */
static void make_enter(struct emit *e)
{
    for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
        emit_push(e, callee_saved[i]);
    emit_store(e, CPU_OFF(host_rsp), X86_RSP);
    emit_mov(e, T0, X86_RSI);
    for (unsigned i = 0; i < ARRAY_SIZE(carried); i++)
        emit_load(e, carried[i], GPR_OFF(carried[i]));
    emit_8(e, 0x41); /* jmp r11 */
    emit_8(e, 0xff);
    emit_8(e, 0xe0 | (T0 & 7));
}

static void emit_save_all(struct emit *e)
{
    for (unsigned i = 0; i < ARRAY_SIZE(carried); i++)
        emit_store(e, GPR_OFF(carried[i]), carried[i]);
}

/* The guest's registers are in st already. */
static void make_leave(struct emit *e)
{
    emit_load(e, X86_RSP, CPU_OFF(host_rsp));
    emit_8(e, 0xfc); /* cld */
    for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
        emit_pop(e, callee_saved[i]);
    emit_8(e, 0xc3);
}

/* Switch to the host's stack, aligned, and call a C function with the CPU as first argument. */
static void emit_host_call(struct emit *e, uintptr_t fn)
{
    emit_load(e, X86_RSP, CPU_OFF(host_rsp));
    emit_lea(e, X86_RSP, X86_RSP, INSN_NOREG, 1, -128);
    emit_8(e, 0x48); /* and rsp, -16 */
    emit_8(e, 0x83);
    emit_8(e, 0xe4);
    emit_8(e, 0xf0);
    emit_load(e, X86_RDI, CPU_OFF(self));
    emit_8(e, 0x48); /* mov rax, imm64; call rax */
    emit_8(e, 0xb8);
    emit_64(e, fn);
    emit_8(e, 0xff);
    emit_8(e, 0xd0);
}

/* The interpreter for one instruction in the middle of a block: soft_interp_inline says where to go on. */
static const uint8_t *make_interp(struct emit *e, const uint8_t *leave)
{
    const uint8_t *start;
    uint8_t *out;

    emit_align(e, 16);
    start = emit_here(e);
    emit_save_all(e);
    emit_mov(e, X86_RSI, T0);
    emit_mov(e, X86_RDX, T1);
    emit_host_call(e, (uintptr_t)code_interp);
    emit_store(e, CPU_OFF(tmp[3]), X86_RAX);
    emit_rr(e, 0x85, X86_RAX, X86_RAX); /* test rax, rax */
    out = emit_jcc_fwd(e, 4);
    for (unsigned i = 0; i < ARRAY_SIZE(carried); i++)
        emit_load(e, carried[i], GPR_OFF(carried[i]));
    emit_gs(e, false, 0xff, 4, CPU_OFF(tmp[3])); /* jmp gs:tmp[3] */
    emit_patch(e, out);
    emit_jmp(e, leave);
    return start;
}

/* What a C function may destroy and translated code needs back. */
static const uint8_t clobbered[] = {X86_RAX, X86_RCX, X86_RDX, X86_RSI,
                                    X86_RDI, X86_R8,  X86_R9,  X86_RSP};

/*
 * A soft TLB miss: r11 holds the address, r10 the exit_record. Flags are lost (the caller saved them if they matter).
 * soft_miss says where to go on.
 */
static const uint8_t *make_miss(struct emit *e, enum mem_access acc, const uint8_t *exit_mem)
{
    const uint8_t *start;
    uint8_t *fail;

    emit_align(e, 16);
    start = emit_here(e);
    for (unsigned i = 0; i < ARRAY_SIZE(clobbered); i++)
        emit_store(e, GPR_OFF(clobbered[i]), clobbered[i]);
    emit_mov(e, X86_RSI, T0);
    emit_8(e, 0xba); /* mov edx, acc */
    emit_32(e, acc);
    emit_mov(e, X86_RCX, T1);
    emit_host_call(e, (uintptr_t)code_miss);
    emit_store(e, CPU_OFF(tmp[3]), X86_RAX);
    emit_rr(e, 0x85, X86_RAX, X86_RAX); /* test rax, rax */
    for (unsigned i = 0; i < ARRAY_SIZE(clobbered); i++)
        emit_load(e, clobbered[i], GPR_OFF(clobbered[i]));
    fail = emit_jcc_fwd(e, 4);                   /* jz */
    emit_gs(e, false, 0xff, 4, CPU_OFF(tmp[3])); /* jmp gs:tmp[3] */
    emit_patch(e, fail);
    emit_jmp(e, exit_mem);
    return start;
}

/* Leave as the record in r11 says. */
static const uint8_t *make_record(struct emit *e, const uint8_t *exit)
{
    const uint8_t *start;

    emit_align(e, 16);
    start = emit_here(e);
    emit_gs(e, false, 0x89, T0, CPU_OFF(exit_record));
    emit_store_imm32(e, CPU_OFF(exit_arg), (uint32_t)EXIT_RECORD << EXIT_KIND_SHIFT);
    emit_jmp(e, exit);
    return start;
}

/* A target the first table does not have: the jump cache's second table, then out as the record in r10 says. */
static const uint8_t *make_probe(struct emit *e, const uint8_t *exit_mem)
{
    const int32_t second = JC_ENTRIES * (int32_t)sizeof(struct jc_entry);
    const uint8_t *start;
    uint8_t *miss;

    emit_align(e, 16);
    start = emit_here(e);
    emit_gs(e, false, 0x89, T1, CPU_OFF(exit_record));
    emit_8(e, 0x45); /* mov T1d, T0d */
    emit_8(e, 0x89);
    emit_8(e, 0xc0 | (T0 & 7) << 3 | (T1 & 7));
    emit_8(e, 0x41); /* and T1d, mask */
    emit_8(e, 0x81);
    emit_8(e, 0xe0 | (T1 & 7));
    emit_32(e, (JC_ENTRIES - 1) << 4);
    emit_gs(e, true, 0x03, T1, CPU_OFF(jc));
    emit_rm(e, true, 0x39, T0, T1, INSN_NOREG, 1, second);
    miss = emit_jcc_fwd(e, 5);
    emit_page_of_target(e);
    emit_rm(e, false, 0xff, 4, T1, INSN_NOREG, 1, second + 8); /* jmp [T1 + second + 8] */
    emit_patch(e, miss);
    emit_store(e, CPU_OFF(st.rip), T0);
    emit_store_imm32(e, CPU_OFF(exit_arg), (uint32_t)EXIT_RECORD << EXIT_KIND_SHIFT);
    emit_jmp(e, exit_mem);
    return start;
}

void glue_make(struct soft_vm *svm)
{
    struct cache *k = &svm->cache;
    const uint8_t *leave;
    struct emit e = {.p = k->rw, .end = k->rw + 4096, .to_rx = k->rx - k->rw};

    k->glue.enter = (void (*)(struct soft_cpu *, const uint8_t *))(uintptr_t)emit_here(&e);
    make_enter(&e);
    emit_align(&e, 16);
    k->glue.exit_host = emit_here(&e);
    emit_flags_save(&e);
    k->glue.exit_mem = emit_here(&e);
    emit_save_all(&e);
    leave = emit_here(&e);
    make_leave(&e);
    k->glue.interp = make_interp(&e, leave);
    k->glue.record_host = make_record(&e, k->glue.exit_host);
    k->glue.record_mem = make_record(&e, k->glue.exit_mem);
    k->glue.probe = make_probe(&e, k->glue.exit_mem);
    k->glue.miss_read = make_miss(&e, ACC_READ, k->glue.exit_mem);
    k->glue.miss_write = make_miss(&e, ACC_WRITE, k->glue.exit_mem);
    k->cold_used = CACHE_COLD;
    k->glue_end = k->used = ALIGN_UP((size_t)(e.p - k->rw), 64);
}
