/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's side: a VM whose vCPU runs the sequence at CPL 3, with an IDT
 * whose handlers halt. GDT selectors are those of a Linux host.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "difftest.h"
#include "engine/engine.h"
#include "engine/soft/engine_soft.h"
#include "engine/soft/fpu.h"
#include "engine/soft/run.h"
#include "engine/soft/soft.h"
#include "engine/soft/tlb.h"
#include "engine/soft/view_int.h"

#define KERNEL    0xffff800000000000ull /* supervisor: the first 2 MiB of guest memory */
#define PML4      0x1000
#define PDPT_LOW  0x2000
#define PDPT_HIGH 0x3000
#define PD_LOW    0x4000
#define PD_HIGH   0x5000
#define PT        0x6000
#define GDT       0x7000
#define IDT       0x8000
#define TSS       0x9000
#define HANDLERS  0xa000 /* 16 bytes each */
#define STACK_TOP 0x10000
#define CODE_GPA  0x400000
#define DATA_GPA  0x410000
#define MEMORY    MIB(8)

#define PTE_P  1ull
#define PTE_W  2ull
#define PTE_U  4ull
#define PTE_PS 0x80ull
#define PTE_NX (1ull << 63)

#define USER_CS32 0x23
#define USER_DS   0x2b
#define USER_CS64 0x33
#define TSS_SEL   0x40

static struct {
    struct vm *vm;
    struct soft_cpu *c;
    struct x86_state base;
    uint8_t *mem;                /* guest-physical 0 */
    unsigned code_off, code_len; /* what the code pages hold besides filler */
    unsigned ticks;
    bool leaving;
    bool dirty; /* the sequence may have written to the code pages */
    pthread_t stress;
    _Atomic bool stressing;
} g;

static void put64(gpa_t at, uint64_t v)
{
    memcpy(g.mem + at, &v, 8);
}

static uint64_t get64(gpa_t at)
{
    uint64_t v;

    memcpy(&v, g.mem + at, 8);
    return v;
}

static void build_tables(void)
{
    put64(PML4, PDPT_LOW | PTE_P | PTE_W | PTE_U);
    put64(PML4 + 8 * (KERNEL >> 39 & 511), PDPT_HIGH | PTE_P | PTE_W);
    put64(PDPT_HIGH, PD_HIGH | PTE_P | PTE_W);
    put64(PD_HIGH, PTE_PS | PTE_P | PTE_W);
    put64(PDPT_LOW + 8 * (DT_CODE >> 30), PD_LOW | PTE_P | PTE_W | PTE_U);
    put64(PD_LOW + 8 * (DT_CODE >> 21 & 511), PT | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < DT_CODE_PAGES; i++)
        put64(PT + 8 * ((DT_CODE >> 12 & 511) + i), (CODE_GPA + i * PAGE_SIZE) | PTE_P | PTE_U);
    for (unsigned i = 0; i < DT_DATA_PAGES; i++) {
        uint64_t pte = (DATA_GPA + i * PAGE_SIZE) | PTE_U | PTE_NX | PTE_P;

        if (dt_pages[i] != DT_NONE)
            put64(PT + 8 * ((DT_DATA >> 12 & 511) + i), pte | (dt_pages[i] == DT_RW ? PTE_W : 0));
    }
}

static void build_descriptors(void)
{
    uint64_t tss = KERNEL + TSS;

    put64(GDT + 0x10, 0x00af9b000000ffff);
    put64(GDT + 0x18, 0x00cf93000000ffff);
    put64(GDT + 0x20, 0x00cffb000000ffff);
    put64(GDT + 0x28, 0x00cff3000000ffff);
    put64(GDT + 0x30, 0x00affb000000ffff);
    put64(GDT + TSS_SEL, 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56);
    put64(GDT + TSS_SEL + 8, tss >> 32);
    put64(TSS + 4, KERNEL + STACK_TOP);
    put64(TSS + 0x60, 0x68ull << 48); /* no I/O permission bitmap */
    for (unsigned i = 0; i < 256; i++) {
        uint64_t at = KERNEL + HANDLERS + i * 16;
        uint64_t type = i == X86_BP || i == X86_OF_EXC ? 0xee : 0x8e;

        put64(IDT + i * 16, (at & 0xffff) | 0x10 << 16 | type << 40 | (at >> 16 & 0xffff) << 48);
        put64(IDT + i * 16 + 8, at >> 32);
        g.mem[HANDLERS + i * 16] = 0xf4; /* hlt */
    }
}

static struct x86_seg segment(uint16_t sel, uint32_t attr)
{
    return (struct x86_seg){.limit = 0xffffffff, .sel = sel, .attr = attr};
}

static void build_state(void)
{
    struct x86_state *st = &g.base;

    engine_soft.get(&g.vm->vcpus[0], st);
    st->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
    st->cr3 = PML4;
    st->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_FSGSBASE |
              X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP;
    st->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    st->xcr0 = 7;
    st->gdtr = (struct x86_dtr){.base = KERNEL + GDT, .limit = 0x4f};
    st->idtr = (struct x86_dtr){.base = KERNEL + IDT, .limit = 0xfff};
    st->tr = (struct x86_seg){.base = KERNEL + TSS, .limit = 0x67, .attr = 0x8b, .sel = TSS_SEL};
    st->ldtr.attr = X86_ATTR_UNUSABLE;
    for (unsigned i = 0; i < X86_NSREGS; i++)
        st->seg[i] = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
    st->seg[X86_SS] = segment(USER_DS, 0xc0f3);
    st->run = X86_RUNNING;
    st->cpl = 3;
    st->intr_shadow = st->nmi_blocked = 0;
}

static void on_alarm(void)
{
    if (g.vm && ++g.ticks >= 4) {
        atomic_fetch_or(&g.vm->vcpus[0].events, VCPU_EV_STOP);
        engine_soft.kick(&g.vm->vcpus[0]);
    }
}

int dt_guest_init(void)
{
    struct vm_config cfg = {.name = "difftest",
                            .cpus = 1,
                            .memory = MEMORY,
                            .kernel = "none", /* never loaded: vm_run is not called */
                            .engine = &engine_soft,
                            .serial_in = -1,
                            .serial_out = -1};
    struct err err = {0};

    if (vm_new(&g.vm, &cfg, &err)) {
        fprintf(stderr, "difftest: %s\n", err.what);
        return -1;
    }
    g.c = g.vm->vcpus[0].engine;
    g.mem = mem_hva(&g.vm->mem, 0, 1);
    build_tables();
    build_descriptors();
    build_state();
    memset(mem_hva(&g.vm->mem, CODE_GPA, DT_CODE_SIZE), DT_FILLER, DT_CODE_SIZE);
    memset(mem_hva(&g.vm->mem, DATA_GPA, DT_DATA_PAGES * PAGE_SIZE), 0x5a,
           DT_DATA_PAGES * PAGE_SIZE);
    engine_soft.set(&g.vm->vcpus[0], &g.base);
    dt_native_on_alarm(on_alarm);
    return 0;
}

/* At irregular moments: make it leave, and find nothing in its jump cache. */
static void *stress_main(void *arg)
{
    uint32_t x = 1;

    while (atomic_load(&g.stressing)) {
        engine_soft.kick(&g.vm->vcpus[0]);
        x = x * 1664525 + 1013904223;
        for (uint32_t i = x >> 22; i; i--)
            __builtin_ia32_pause();
    }
    return arg;
}

int dt_guest_stress(void)
{
    sigset_t all, old;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    atomic_store(&g.stressing, true);
    r = pthread_create(&g.stress, NULL, stress_main, NULL);
    if (r)
        atomic_store(&g.stressing, false);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -r;
}

void dt_guest_leave(void)
{
    g.leaving = true;
    dt_leave_init(g.c, mem_hva(&g.vm->mem, CODE_GPA, DT_CODE_SIZE));
}

void dt_guest_fini(void)
{
    if (atomic_exchange(&g.stressing, false))
        pthread_join(g.stress, NULL);
    dt_native_on_alarm(NULL);
    vm_free(g.vm);
    g.vm = NULL;
}

static hva_t rw_page(unsigned n)
{
    for (unsigned i = 0; i < DT_DATA_PAGES; i++)
        if (dt_pages[i] == DT_RW && n-- == 0)
            return mem_hva(&g.vm->mem, DATA_GPA + i * PAGE_SIZE, PAGE_SIZE);
    return NULL;
}

/* Make the code pages writable or not; true when that changed, for the TLB. */
static bool put_rights(bool writable)
{
    gpa_t pte = PT + 8 * (DT_CODE >> 12 & 511);

    if (!(get64(pte) & PTE_W) == !writable)
        return false;
    for (unsigned i = 0; i < DT_CODE_PAGES; i++)
        put64(pte + 8 * i, get64(pte + 8 * i) ^ PTE_W);
    return true;
}

/* Returns whether that was a change. */
static bool put_code(const struct dt_case *k)
{
    uint8_t code[DT_MAX_CODE];
    unsigned len = dt_code(k, code);
    hva_t at = mem_hva(&g.vm->mem, CODE_GPA, DT_CODE_SIZE);

    if (g.dirty) {
        memset(at, DT_FILLER, DT_CODE_SIZE);
        vm_mem_written(g.vm, CODE_GPA, DT_CODE_SIZE);
    }
    g.dirty = k->smc;
    if (g.code_off == k->code_off && g.code_len == len && !memcmp(at + k->code_off, code, len))
        return false;
    if (g.code_len) {
        memset(at + g.code_off, DT_FILLER, g.code_len);
        vm_mem_written(g.vm, CODE_GPA + g.code_off, g.code_len);
    }
    memcpy(at + k->code_off, code, len);
    vm_mem_written(g.vm, CODE_GPA + k->code_off, len);
    g.code_off = k->code_off;
    g.code_len = len;
    return true;
}

/* Which components are in use is the processor's to say: have it load and save them as the host's kernel does. */
static void as_processor(struct xsave_area *a)
{
    static const struct xsave_area clean
        __attribute__((aligned(64))) = {.fcw = 0x37f, .mxcsr = 0x1f80, .xstate_bv = 3};

    __asm__ volatile("xrstor64 (%0)\n\t"
                     "xsave64 (%0)\n\t"
                     "xrstor64 (%1)"
                     :
                     : "r"(a), "r"(&clean), "a"(7), "d"(0)
                     : "memory");
}

static void put_regs(struct x86_state *st, const struct dt_case *k)
{
    const struct dt_regs *r = &k->init;
    struct xsave_area *a = (struct xsave_area *)st->xsave;

    memcpy(st->gpr, r->gpr, sizeof(st->gpr));
    st->rip = r->rip;
    st->rflags = r->rflags;
    st->seg[X86_CS] = segment(k->mode32 ? USER_CS32 : USER_CS64, k->mode32 ? 0xc0fb : 0xa0fb);
    if (k->mode32)
        st->seg[X86_DS] = st->seg[X86_ES] = segment(USER_DS, 0xc0f3);
    st->seg[X86_FS].base = r->fs_base;
    st->seg[X86_GS].base = r->gs_base;
    memset(st->xsave, 0, sizeof(*a));
    a->fcw = r->fcw;
    a->fsw = r->fsw;
    a->ftw = r->ftw;
    a->mxcsr = r->mxcsr;
    memcpy(a->st, r->st, sizeof(a->st));
    memcpy(a->xmm, r->xmm, sizeof(a->xmm));
    memcpy(a->ymmh, r->ymmh, sizeof(a->ymmh));
    a->xstate_bv = 7;
    as_processor(a);
}

static void get_regs(const struct x86_state *st, struct dt_regs *r)
{
    const struct xsave_area *a = (const struct xsave_area *)st->xsave;

    memcpy(r->gpr, st->gpr, sizeof(r->gpr));
    r->fs_base = st->seg[X86_FS].base;
    r->gs_base = st->seg[X86_GS].base;
    memset(&r->fcw, 0, sizeof(*r) - offsetof(struct dt_regs, fcw));
    r->fcw = 0x37f;
    r->mxcsr = a->mxcsr;
    if (a->xstate_bv & 1) {
        r->fcw = a->fcw;
        r->fsw = a->fsw;
        r->ftw = a->ftw;
        memcpy(r->st, a->st, sizeof(r->st));
    }
    if (a->xstate_bv & 2)
        memcpy(r->xmm, a->xmm, sizeof(r->xmm));
    if (a->xstate_bv & 4)
        memcpy(r->ymmh, a->ymmh, sizeof(r->ymmh));
}

static bool has_error_code(unsigned vector)
{
    return vector == X86_DF_EXC || (vector >= X86_TS && vector <= X86_PF_EXC) ||
           vector == X86_AC_EXC;
}

/* The exception frame that the halted handler stands on. */
static void get_frame(const struct x86_state *st, struct dt_result *res)
{
    unsigned vector = (unsigned)(st->rip - (KERNEL + HANDLERS)) / 16;

    res->end = vector;
    res->error = has_error_code(vector) ? (uint32_t)get64(STACK_TOP - 48) : 0;
    res->regs.rip = get64(STACK_TOP - 40);
    res->regs.rflags = get64(STACK_TOP - 24);
    res->regs.gpr[X86_RSP] = get64(STACK_TOP - 16);
    res->cr2 = st->cr2;
}

static void set_state(const struct dt_case *k)
{
    struct x86_state *st = &g.c->st;

    if (put_rights(k->smc) || k->cold) {
        static struct x86_state whole;

        whole = g.base;
        put_regs(&whole, k);
        engine_soft.set(&g.vm->vcpus[0], &whole);
        return;
    }
    *st = g.base;
    put_regs(st, k);
    g.c->fpu_live = g.c->fpu_ok = 0;
    g.c->chain_site = NULL;
    g.c->delivering = -1;
    soft_mode_changed(g.c);
}

/* The guest's only address space gets a view as a long-running process would; after that it is only switched on. */
static void use_view(enum dt_way way, bool on)
{
    on = on && (way == DT_WAY_VIEW || way == DT_WAY_PLACED || way == DT_WAY_OWN);
    g.c->no_views = !on;
    g.c->no_own_blocks = way != DT_WAY_OWN;
    if (g.c->no_placed != (way != DT_WAY_PLACED))
        tlb_set_flush_jc(g.c, g.c->set);
    g.c->no_placed = way != DT_WAY_PLACED;
    if (on)
        view_force(g.c);
    else
        view_enter(g.c);
}

const struct soft_counters *dt_guest_counters(void)
{
    return &g.c->counters;
}

bool dt_guest_views_alone(void)
{
    FILE *f = fopen("/proc/self/maps", "re");
    bool alone = f, slots = (uintptr_t)g.c->views->nowhere >= KERNEL_FROM && !FPU_SANITIZED;
    char line[512];

    while (f && slots && fgets(line, sizeof(line), f)) {
        unsigned long from, to;
        char prot[5];

        if (sscanf(line, "%lx-%lx %4s", &from, &to, prot) != 3 || to <= SLOTS_FROM ||
            from >= SLOTS_END || !strcmp(prot, "---p") || strstr(line, "/memfd:lodge-ram"))
            continue;
        fprintf(stderr, "among views: %s", line);
        alone = false;
    }
    if (f)
        fclose(f);
    return alone;
}

/* Returns whether the code changed. */
static bool put_case(const struct dt_case *k, enum dt_way way)
{
    bool code_new = put_code(k);

    for (unsigned i = 0; i < DT_RW_PAGES; i++)
        memcpy(rw_page(i), k->mem + i * PAGE_SIZE, PAGE_SIZE);
    set_state(k);
    use_view(way, !k->mode32);
    g.c->no_translate = way == DT_WAY_INTERP;
    g.ticks = 0;
    return code_new;
}

void dt_guest_state(struct dt_result *res)
{
    get_regs(&g.c->st, &res->regs);
    res->regs.rip = g.c->st.rip;
    res->regs.rflags = g.c->st.rflags;
    for (unsigned i = 0; i < DT_RW_PAGES; i++)
        memcpy(res->mem + i * PAGE_SIZE, rw_page(i), PAGE_SIZE);
}

void dt_guest_run(const struct dt_case *k, enum dt_way way, struct dt_result *res)
{
    struct vcpu *vcpu = &g.vm->vcpus[0];
    enum vcpu_exit_reason reason;
    bool code_new = put_case(k, way), translate = way != DT_WAY_INTERP;

    if (g.leaving && !translate) { /* the first of a case: every block is to be made anew */
        vm_mem_written(g.vm, CODE_GPA, DT_CODE_SIZE);
        code_new = true;
    }
    if (g.leaving)
        dt_leave_begin(k, translate, code_new);
    do
        reason = engine_soft.run(vcpu);
    while (g.leaving && reason == VCPU_EXIT_STOP && dt_leave_taken());
    atomic_store(&vcpu->events, 0);
    dt_guest_state(res);
    if (reason == VCPU_EXIT_HALT)
        get_frame(&g.c->st, res);
    else
        res->end = reason == VCPU_EXIT_STOP ? DT_END_TIMEOUT : DT_END_FAILED;
}

/* More than any case takes whose native run is not too long. */
#define MAX_STEPS 3000000

bool dt_guest_steps(const struct dt_case *k, bool (*fn)(uint64_t rip))
{
    struct soft_cpu *c = g.c;
    volatile unsigned n = 0;

    put_case(k, false);
    if (signals_enter(c))
        return false;
    if (!_setjmp(c->exc_jmp))
        for (; n < MAX_STEPS && !(c->st.rflags & X86_TF) && fn(c->st.rip); n++) {
            interp_insn(c, soft_fetch(c));
            soft_fpu_park(c);
        }
    soft_fpu_park(c);
    signals_leave(c);
    atomic_store(&c->vcpu->events, 0); /* the alarm's */
    return n < MAX_STEPS;
}
