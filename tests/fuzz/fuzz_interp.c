/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: all */
/*
 * Any bytes as guest code, in real, protected and long mode, privileged or
 * not, interpreted or translated: it may do what it likes to its machine, but
 * must neither end the process nor keep it from stopping the vCPU.
 * Byte 0: mode and flags; bytes 1..8: what registers are made from.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/machine.h"
#include "engine/engine.h"
#include "engine/soft/soft.h"

#define MEMORY   MIB(4)
#define PML4     0x1000
#define PDPT     0x2000
#define PD       0x3000
#define GDT      0x4000
#define IDT      0x5000
#define TSS      0x6000
#define HANDLER  0x7000
#define CODE     0x10000
#define DATA     0x20000
#define STACK    0x30000
#define CODE_MAX 512

#define SLICE_NS 500000 /* how long a guest runs */
#define GRACE_S  20     /* a vCPU that does not stop within this hangs */

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

enum mode { REAL, PROT32, LONG_KERNEL, LONG_USER };
#define FLAG_INTERPRET 4
#define FLAG_IF        8
#define FLAG_WATCH     16 /* breakpoints, and alignment checks for the user */
#define FLAG_KEYS      32 /* protection keys */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
    struct vm *vm;
    uint8_t *mem;
    _Atomic uint64_t deadline; /* 0: nothing runs */
} g;

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Ends each run, and the process when that does not help. */
static void *watch(void *arg)
{
    for (;;) {
        uint64_t deadline = atomic_load(&g.deadline), t = now();

        if (deadline && t > deadline) {
            atomic_fetch_or(&g.vm->vcpus[0].events, VCPU_EV_STOP);
            engine_soft.kick(&g.vm->vcpus[0]);
            if (t > deadline + GRACE_S * 1000000000ull)
                abort();
        }
        usleep(200);
    }
    return arg;
}

static void set_up(void)
{
    struct vm_config cfg = {.name = "fuzz",
                            .cpus = 1,
                            .memory = MEMORY,
                            .kernel = "none", /* never loaded: vm_run is not called */
                            .engine = &engine_soft,
                            .serial_in = -1,
                            .serial_out = -1};
    pthread_t thread;

    REQUIRE(vm_new(&g.vm, &cfg, NULL) == 0);
    g.mem = mem_hva(&g.vm->mem, 0, 1);
    REQUIRE(pthread_create(&thread, NULL, watch, NULL) == 0);
}

static void put(gpa_t at, uint64_t v, unsigned n)
{
    memcpy(g.mem + at, &v, n);
}

static void put_memory(void)
{
    REQUIRE(madvise(g.vm->mem.map, g.vm->mem.size, MADV_REMOVE) == 0);
    put(PML4, PDPT | 7, 8);
    put(PDPT, PD | 7, 8);
    for (unsigned i = 0; i < MEMORY >> 21; i++)
        put(PD + 8 * i, (uint64_t)i << 21 | 0x87, 8);
    for (unsigned i = 1; i < 7; i++) { /* 8, 10: 64-bit; 18, 20: 32-bit; 2b, 33: user */
        static const uint64_t d[] = {0,
                                     0x00af9b000000ffff,
                                     0x00cf93000000ffff,
                                     0x00cf9b000000ffff,
                                     0x00cf93000000ffff,
                                     0x00cff3000000ffff,
                                     0x00affb000000ffff};

        put(GDT + 8 * i, d[i], 8);
    }
    put(GDT + 0x38, 0x67 | TSS << 16 | 0x8bull << 40, 8);
    put(TSS + 4, STACK, 8);
    for (unsigned i = 0; i < 32; i++)
        put(IDT + 16 * i, (HANDLER & 0xffff) | 8 << 16 | 0x8eull << 40, 8);
    put(HANDLER, 0xf4, 1);
    for (unsigned i = 0; i < 256; i++)
        put(DATA + 8 * i, i * 0x0123456789abcdefull, 8);
}

static struct x86_seg segment(uint16_t sel, uint32_t attr)
{
    return (struct x86_seg){.limit = 0xffffffff, .sel = sel, .attr = attr};
}

static void put_mode(struct x86_state *st, enum mode mode)
{
    static const uint16_t cs[] = {0, 0x18, 0x08, 0x33}, ss[] = {0, 0x20, 0x10, 0x2b};
    static const uint32_t code[] = {0x9b, 0xc09b, 0xa09b, 0xa0fb};
    static const uint32_t data[] = {0x93, 0xc093, 0xc093, 0xc0f3};

    st->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_PAE;
    st->xcr0 = 7;
    st->cr0 = X86_CR0_ET | X86_CR0_NE | (mode == REAL ? 0 : X86_CR0_PE);
    st->gdtr = (struct x86_dtr){.base = GDT, .limit = 0x47};
    st->idtr = (struct x86_dtr){.base = IDT, .limit = 0x1ff};
    if (mode >= LONG_KERNEL) {
        st->cr0 |= X86_CR0_PG;
        st->cr3 = PML4;
        st->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_SCE;
    }
    for (unsigned i = 0; i < X86_NSREGS; i++)
        st->seg[i] = segment(ss[mode], data[mode]);
    st->seg[X86_CS] = segment(cs[mode], code[mode]);
    if (mode == REAL) {
        st->seg[X86_CS].base = CODE;
        for (unsigned i = 0; i < X86_NSREGS; i++)
            st->seg[i].limit = 0xffff;
    }
    st->tr = (struct x86_seg){.base = TSS, .limit = 0x67, .attr = 0x8b, .sel = 0x38};
    st->rip = mode == REAL ? 0 : CODE;
}

static void put_registers(struct x86_state *st, const uint8_t *seed)
{
    uint64_t z;

    memcpy(&z, seed, 8);
    for (unsigned i = 0; i < 16; i++) {
        z = z * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
        switch (z >> 61) {
        case 0:
            st->gpr[i] = z >> (z & 63);
            break;
        case 1:
            st->gpr[i] = (z >> 32) % 64;
            break;
        case 2:
            st->gpr[i] = CODE + (z >> 32) % 64;
            break;
        default:
            st->gpr[i] = DATA + (z >> 32) % 4096;
            break;
        }
    }
    st->gpr[X86_RSP] = STACK;
}

static void put_watch(struct x86_state *st, const uint8_t *seed)
{
    uint64_t z;

    memcpy(&z, seed, 8);
    z = z * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
    for (unsigned i = 0; i < 4; i++)
        st->dr[i] = (z >> (8 * i) & 1 ? CODE : DATA) + (z >> (8 * i + 1) & 63);
    st->dr[7] = (z >> 32 & 0xffff00ff) | 0x400;
    st->cr4 |= X86_CR4_DE;
    st->cr0 |= X86_CR0_AM;
    st->rflags |= X86_AC;
}

static void put_keys(struct x86_state *st, const uint8_t *seed)
{
    memcpy(&st->pkru, seed, 4);
    memcpy(&st->pkrs, seed + 4, 4);
    st->cr4 |= X86_CR4_PKE | X86_CR4_PKS;
    for (unsigned i = 0; i < MEMORY >> 21; i++)
        put(PD + 8 * i, (uint64_t)i << 21 | 0x87 | (uint64_t)(seed[i] & 15) << 59, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vcpu *vcpu;
    struct soft_cpu *c;
    struct x86_state st;
    enum vcpu_exit_reason reason;

    if (size < 10 || size > 9 + CODE_MAX)
        return 0;
    if (!g.vm)
        set_up();
    vcpu = &g.vm->vcpus[0];
    c = vcpu->engine;
    machine_reset(g.vm);
    x86_state_reset(&st, true);
    put_memory();
    memcpy(g.mem + CODE, data + 9, size - 9);
    vm_mem_written(g.vm, 0, MEMORY);
    put_mode(&st, (enum mode)(data[0] & 3));
    put_registers(&st, data + 1);
    st.rflags = data[0] & FLAG_IF ? 0x202 : 2;
    if (data[0] & FLAG_WATCH)
        put_watch(&st, data + 1);
    if (data[0] & FLAG_KEYS)
        put_keys(&st, data + 1);
    c->no_translate = data[0] & FLAG_INTERPRET;
    engine_soft.set(vcpu, &st);
    atomic_store(&g.deadline, now() + SLICE_NS);
    do
        reason = engine_soft.run(vcpu);
    while (reason == VCPU_EXIT_HALT && (c->st.rflags & X86_IF) && now() < atomic_load(&g.deadline));
    atomic_store(&g.deadline, 0);
    REQUIRE(reason != VCPU_EXIT_ERROR);
    engine_soft.get(vcpu, &st);
    atomic_store(&vcpu->events, 0);
    return 0;
}
