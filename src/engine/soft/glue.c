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

/* A soft TLB miss: soft_miss says where to go on. */
static void make_miss(struct emit *e, enum mem_access acc, const uint8_t *exit_mem)
{
    uint8_t *fail;

    for (unsigned i = 0; i < ARRAY_SIZE(clobbered); i++)
        emit_store(e, GPR_OFF(clobbered[i]), clobbered[i]);
    emit_mov(e, X86_RSI, T0);
    emit_8(e, 0xba); /* mov edx, acc */
    emit_32(e, acc);
    emit_gs(e, false, 0x8b, X86_RCX, CPU_OFF(exit_record));
    emit_mov(e, X86_R8, T1);
    emit_host_call(e, (uintptr_t)code_miss);
    emit_store(e, CPU_OFF(tmp[3]), X86_RAX);
    emit_rr(e, 0x85, X86_RAX, X86_RAX); /* test rax, rax */
    for (unsigned i = 0; i < ARRAY_SIZE(clobbered); i++)
        emit_load(e, clobbered[i], GPR_OFF(clobbered[i]));
    fail = emit_jcc_fwd(e, 4);                   /* jz */
    emit_gs(e, false, 0xff, 4, CPU_OFF(tmp[3])); /* jmp gs:tmp[3] */
    emit_patch(e, fail);
    emit_jmp(e, exit_mem);
}

/* A target the first table does not have: the jump cache's second table. */
static void make_probe(struct emit *e, const uint8_t *exit_mem)
{
    const int32_t second = JC_ENTRIES * (int32_t)sizeof(struct jc_entry);
    uint8_t *miss;

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
    emit_store_imm32(e, CPU_OFF(exit_arg), (uint32_t)EXIT_MISS << EXIT_KIND_SHIFT);
    emit_jmp(e, exit_mem);
}

/* glue.ret and glue.probe. */
static void make_look(struct emit *e, struct glue *g)
{
    uint8_t *second;

    emit_align(e, 16);
    g->ret = emit_here(e);
    emit_ret_pop(e);
    emit_jc_entry(e);
    emit_rm(e, true, 0x39, T0, T1, INSN_NOREG, 1, 0); /* cmp [T1], T0 */
    second = emit_jcc_fwd(e, 5);
    emit_page_of_target(e);
    emit_rm(e, false, 0xff, 4, T1, INSN_NOREG, 1, 8); /* jmp [T1 + 8] */
    emit_patch(e, second);
    g->probe = emit_here(e);
    make_probe(e, g->exit_mem);
}

/* exit_record and the way it says, which becomes T0. EFLAGS and both temporaries are kept in tmp[2], tmp[4] and tmp[5]. */
static void emit_find_way(struct emit *e, const struct exit_record *exits)
{
    emit_store(e, CPU_OFF(tmp[4]), T0);
    emit_store(e, CPU_OFF(tmp[5]), T1);
    emit_mov(e, T0, X86_RAX);
    emit_flags_take(e);
    emit_store(e, CPU_OFF(tmp[2]), X86_RAX);
    emit_mov(e, X86_RAX, T0);
    emit_8(e, 0x41); /* and T1d, 15 */
    emit_8(e, 0x83);
    emit_8(e, 0xe0 | (T1 & 7));
    emit_8(e, STUBS_TOGETHER - 1);
    emit_gs(e, false, 0x03, T1, CPU_OFF(exit_record));
    emit_gs(e, false, 0x89, T1, CPU_OFF(exit_record));
    emit_8(e, 0x49); /* mov T0, imm64 */
    emit_8(e, 0xb8 | (T0 & 7));
    emit_64(e, (uintptr_t)&exits->arg + EXIT_WAY_SHIFT / 8);
    emit_lea(e, T1, T1, T1, 1, 0); /* twice the number */
    emit_8(e, 0x47);               /* movzx T0d, byte [T0 + T1 * 8] */
    emit_8(e, 0x0f);
    emit_8(e, 0xb6);
    emit_ea(e, T0, T0, T1, 8, 0);
    _Static_assert(sizeof(*exits) == 16, "twice eight");
}

static uint8_t *emit_way(struct emit *e, enum exit_way way)
{
    emit_8(e, 0x41); /* cmp T0d, way */
    emit_8(e, 0x83);
    emit_8(e, 0xf8 | (T0 & 7));
    emit_8(e, way);
    return emit_jcc_fwd(e, 4);
}

/* What all stubs of blocks lead to. */
static const uint8_t *make_stub(struct emit *e, const struct cache *k)
{
    uint8_t *read, *write, *mem;
    const uint8_t *start;

    emit_align(e, 16);
    start = emit_here(e);
    emit_find_way(e, k->exits);
    read = emit_way(e, WAY_READ);
    write = emit_way(e, WAY_WRITE);
    mem = emit_way(e, WAY_MEM);
    emit_load(e, T0, CPU_OFF(tmp[2]));
    emit_gs(e, false, 0x89, T0, CPU_OFF(lazy_flags));
    emit_patch(e, mem);
    emit_store_imm32(e, CPU_OFF(exit_arg), (uint32_t)EXIT_RECORD << EXIT_KIND_SHIFT);
    emit_jmp(e, k->glue.exit_mem);
    emit_patch(e, read);
    emit_load(e, T0, CPU_OFF(tmp[4]));
    emit_load(e, T1, CPU_OFF(tmp[5]));
    make_miss(e, ACC_READ, k->glue.exit_mem);
    emit_patch(e, write);
    emit_load(e, T0, CPU_OFF(tmp[4]));
    emit_load(e, T1, CPU_OFF(tmp[5]));
    make_miss(e, ACC_WRITE, k->glue.exit_mem);
    return start;
}

/* A return to address 0, which an empty entry of soft_cpu.returns was taken for. */
static const uint8_t *make_ret_none(struct emit *e, const uint8_t *exit_mem)
{
    const uint8_t *start;

    emit_align(e, 16);
    start = emit_here(e);
    emit_mov_imm32(e, T0, 0);
    emit_store(e, CPU_OFF(st.rip), T0);
    emit_store_imm32(e, CPU_OFF(exit_arg), (uint32_t)EXIT_RIP << EXIT_KIND_SHIFT);
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
    k->glue.stub = make_stub(&e, k);
    make_look(&e, &k->glue);
    k->glue.ret_none = make_ret_none(&e, k->glue.exit_mem);
    k->cold_used = CACHE_COLD;
    k->glue_end = k->used = ALIGN_UP((size_t)(e.p - k->rw), 64);
}
