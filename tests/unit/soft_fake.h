/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One CPU of the software engine over 1 MiB of flat memory, for tests of the
 * interpreter: linear addresses are offsets into it, one page can be made to
 * fault, and what the interpreter asks of the rest is counted.
 */
#ifndef LODGE_TEST_SOFT_FAKE_H
#define LODGE_TEST_SOFT_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/soft/decode.h"
#include "engine/soft/soft.h"
#include "x86/cpuid.h"

#define FAKE_MEM MIB(1)
#define NO_FAULT -1

struct fake {
    struct soft_cpu c;
    struct vcpu vcpu;
    struct vm vm;
    uint8_t mem[FAKE_MEM];
    gva_t bad_page; /* any access there is a page fault; ~0: none */
    bool no_host;   /* mem_host finds nothing */
    unsigned switches, flush_all, flush_nonglobal, flush_pcid, flush_page, fpu_changed, parked;
    unsigned last_pcid, sys_in_user;
    gva_t last_page;
    uint64_t cr8, msr_written, pio_val;
    uint32_t msr;
    uint16_t port;
    unsigned pio_n;
    bool umip; /* offered in CPUID */
    bool no_nx;
    unsigned vme; /* offered in CPUID */
};

static struct fake *f; /* of the running test */

/* ---- Exceptions and memory ------------------------------------------------ */

_Noreturn void soft_raise_err(struct soft_cpu *c, unsigned vector, uint32_t error)
{
    c->exc_vector = (uint8_t)vector;
    c->exc_has_error = 1;
    c->exc_error = error;
    longjmp(c->exc_jmp, 1);
}

_Noreturn void soft_raise(struct soft_cpu *c, unsigned vector)
{
    c->exc_vector = (uint8_t)vector;
    c->exc_has_error = 0;
    c->exc_error = 0;
    longjmp(c->exc_jmp, 1);
}

_Noreturn void soft_raise_pf(struct soft_cpu *c, gva_t va, uint32_t error)
{
    c->st.cr2 = va;
    soft_raise_err(c, X86_PF_EXC, error);
}

static uint8_t *fake_at(struct soft_cpu *c, gva_t va, unsigned size, uint32_t error)
{
    if ((va & PAGE_MASK) == f->bad_page || ((va + size - 1) & PAGE_MASK) == f->bad_page)
        soft_raise_pf(c, va, error);
    if (va >= FAKE_MEM || va + size > FAKE_MEM)
        fail_msg("access to %#lx outside memory", (unsigned long)va);
    return f->mem + va;
}

uint64_t mem_ld(struct soft_cpu *c, gva_t va, unsigned size)
{
    uint64_t val = 0;

    memcpy(&val, fake_at(c, va, size, 0), size);
    return val;
}

void mem_st(struct soft_cpu *c, gva_t va, unsigned size, uint64_t val)
{
    memcpy(fake_at(c, va, size, 2), &val, size);
}

uint64_t sys_ld(struct soft_cpu *c, gva_t va, unsigned size)
{
    f->sys_in_user += c->st.cpl == 3;
    return mem_ld(c, va, size);
}

void sys_st(struct soft_cpu *c, gva_t va, unsigned size, uint64_t val)
{
    f->sys_in_user += c->st.cpl == 3;
    mem_st(c, va, size, val);
}

void mem_probe(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc)
{
    fake_at(c, va, len, acc == ACC_WRITE ? 2 : 0);
}

void *mem_host(struct soft_cpu *c, gva_t va, unsigned len, enum mem_access acc)
{
    uint8_t *p = fake_at(c, va, len, acc == ACC_WRITE ? 2 : 0);

    return f->no_host || (va ^ (va + len - 1)) & PAGE_MASK ? NULL : p;
}

void *mem_host_locked(struct soft_cpu *c, gva_t va, unsigned len)
{
    return mem_host(c, va, len, ACC_WRITE);
}

void soft_bus_lock(struct soft_cpu *c)
{
}

void soft_bus_unlock(struct soft_cpu *c)
{
}

/* ---- The rest of the engine and machine ------------------------------------ */

void tlb_switch(struct soft_cpu *c)
{
    f->switches++;
}

void tlb_flush_all(struct soft_cpu *c)
{
    f->flush_all++;
}

void tlb_flush_nonglobal(struct soft_cpu *c)
{
    f->flush_nonglobal++;
}

void tlb_flush_pcid(struct soft_cpu *c, unsigned pcid)
{
    f->flush_pcid++;
    f->last_pcid = pcid;
}

void tlb_flush_page(struct soft_cpu *c, gva_t va)
{
    f->flush_page++;
    f->last_page = va;
}

void soft_fpu_park(struct soft_cpu *c)
{
    f->parked++;
    c->fpu_live = 0;
}

void soft_fpu_changed(struct soft_cpu *c)
{
    f->fpu_changed++;
}

/* The machine may use vector registers: the guest's must be parked by then. */
static void machine_entered(void)
{
    assert_false(f->c.fpu_live);
}

void cpuid_get(const struct vcpu *vcpu, const struct x86_state *st, uint32_t leaf, uint32_t subleaf,
               uint32_t out[4])
{
    machine_entered();
    out[0] = leaf == 0xd ? 7 : leaf;
    out[1] = leaf == 7 ? 1u << 0 | 1u << 7 | 1u << 20 : 0xb;
    out[2] = leaf == 7 ? (f->umip ? 1u << 2 : 0) : 1u << 17 | 1u << 26;
    out[3] = leaf == 0x80000001 && !f->no_nx ? 1u << 20 : leaf == 1 ? f->vme << 1 : subleaf;
}

uint64_t vcpu_pio_read(struct vcpu *vcpu, uint16_t port, unsigned size)
{
    machine_entered();
    f->port = port;
    f->pio_n++;
    return 0xa0 + f->pio_n;
}

void vcpu_pio_write(struct vcpu *vcpu, uint16_t port, unsigned size, uint64_t val)
{
    machine_entered();
    f->port = port;
    f->pio_val = val;
    f->pio_n++;
}

int vcpu_msr_read(struct vcpu *vcpu, uint32_t msr, uint64_t *val)
{
    machine_entered();
    *val = 0x123456789ull;
    return msr == 0x6e0 || msr == 0x1b ? 0 : -1;
}

int vcpu_msr_write(struct vcpu *vcpu, uint32_t msr, uint64_t val)
{
    machine_entered();
    f->msr = msr;
    f->msr_written = val;
    return msr == 0x6e0 || msr == 0x80b ? 0 : -1;
}

uint64_t vcpu_get_cr8(struct vcpu *vcpu)
{
    machine_entered();
    return f->cr8;
}

void vcpu_set_cr8(struct vcpu *vcpu, uint64_t cr8)
{
    machine_entered();
    f->cr8 = cr8;
}

uint64_t vcpu_hypercall(struct vcpu *vcpu, uint64_t nr, const uint64_t args[4])
{
    machine_entered();
    return nr + args[0] + args[1] + args[2] + args[3];
}

/* ---- Running instructions --------------------------------------------------- */

/* Execute one instruction given as bytes, at st.rip. Returns the exception raised, or NO_FAULT. */
static int run_bytes(const uint8_t *bytes, unsigned n)
{
    struct soft_cpu *c = &f->c;
    struct insn in;
    insn_fn *fn;

    assert_int_equal(decode_insn(bytes, n, (enum insn_mode)c->mode, &in), 0);
    c->exc_error = 0;
    if (!in.len)
        return X86_UD;
    assert_int_equal(in.len, n);
    c->next_rip = c->st.rip + in.len;
    c->fpu_live = 1;
    fn = interp_int_table[in.op] ? interp_int_table[in.op] : interp_sys_table[in.op];
    if (!fn)
        return X86_UD;
    if (setjmp(c->exc_jmp))
        return c->exc_vector;
    fn(c, &in);
    c->st.rip = c->next_rip;
    return NO_FAULT;
}

#define RUN(...) run_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define OK(...)  assert_int_equal(RUN(__VA_ARGS__), NO_FAULT)
/* Must raise `vector` with `error` and change no register. */
#define FAULTS(vector, error, ...)                                                                 \
    do {                                                                                           \
        struct x86_state before_ = f->c.st;                                                        \
        assert_int_equal(RUN(__VA_ARGS__), vector);                                                \
        assert_int_equal(f->c.exc_error, error);                                                   \
        before_.cr2 = f->c.st.cr2;                                                                 \
        assert_memory_equal(&before_, &f->c.st, offsetof(struct x86_state, xsave));                \
    } while (0)

static inline int deliver(unsigned vector, enum int_kind kind, bool has_error, uint32_t error)
{
    if (setjmp(f->c.exc_jmp))
        return f->c.exc_vector;
    interp_deliver(&f->c, vector, kind, has_error, error);
    return NO_FAULT;
}

static inline int load_segment(enum x86_sreg seg, uint16_t sel)
{
    if (setjmp(f->c.exc_jmp))
        return f->c.exc_vector;
    seg_load(&f->c, seg, sel);
    return NO_FAULT;
}

/* ---- Memory images ----------------------------------------------------------- */

#define PUT(size, at, val) fake_put(at, val, size)
static inline void fake_put(gva_t at, uint64_t val, unsigned size)
{
    assert_true(at + size <= FAKE_MEM);
    memcpy(f->mem + at, &val, size);
}

static inline uint64_t get(gva_t at, unsigned size)
{
    uint64_t val = 0;

    assert_true(at + size <= FAKE_MEM);
    memcpy(&val, f->mem + at, size);
    return val;
}

#define put16(at, val) fake_put(at, val, 2)
#define put32(at, val) fake_put(at, val, 4)
#define put64(at, val) fake_put(at, val, 8)

/* A descriptor from base, limit field and attr in the form of x86_seg.attr. */
static inline uint64_t descriptor(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (limit & 0xffffu) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)(attr & 0xff) << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(attr >> 12 & 0xf) << 52 |
           (uint64_t)(base >> 24) << 56;
}

static inline uint64_t gate(uint16_t sel, uint32_t off, unsigned type, unsigned dpl)
{
    return (off & 0xffffu) | (uint64_t)sel << 16 | (uint64_t)(0x80 | dpl << 5 | type) << 40 |
           (uint64_t)(off >> 16) << 48;
}

/* Where things are. */
#define GDT    0x1000
#define IDT    0x2000
#define TSS    0x3000
#define TSS2   0x3800
#define KSTACK 0x9000
#define USTACK 0xb000
#define IST1   0xd000

/* Selectors of the GDT fake_protected and fake_long set up. */
#define KCODE     0x08
#define KDATA     0x10
#define UCODE     0x1b
#define UDATA     0x23
#define KCODE64   0x28
#define UCODE64   0x33
#define TSS_SEL   0x40 /* 16 bytes in long mode */
#define CONFORM   0x50
#define ABSENT    0x58
#define RODATA    0x60
#define XCODE     0x68 /* execute-only */
#define TSS2_SEL  0x70
#define GATE_SEL  0x78 /* 16 bytes in long mode */
#define LDT_SEL   0x88
#define TSS16_SEL 0x98

static inline void fake_segment(enum x86_sreg seg, uint16_t sel)
{
    uint64_t d = get(GDT + (sel & ~7u), 8);
    struct x86_seg *s = &f->c.st.seg[seg];

    s->sel = sel;
    s->attr = (uint32_t)(d >> 40) & 0xf0ff;
    s->base = 0;
    s->limit = 0xffffffff;
}

static inline void fake_tables(void)
{
    static const struct {
        uint16_t sel;
        uint32_t attr;
    } flat[] = {
        {KCODE, 0xc09b},   {KDATA, 0xc093},   {UCODE, 0xc0fb},  {UDATA, 0xc0f3},  {KCODE64, 0xa09b},
        {UCODE64, 0xa0fb}, {CONFORM, 0xc09f}, {ABSENT, 0xc013}, {RODATA, 0xc091}, {XCODE, 0xc099},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(flat); i++)
        put64(GDT + (flat[i].sel & ~7u), descriptor(0, 0xfffff, flat[i].attr));
    put64(GDT + TSS_SEL, descriptor(TSS, 0x8f, 0x8b));
    put64(GDT + TSS2_SEL, descriptor(TSS2, 0x67, 0x89));
    put64(GDT + LDT_SEL, descriptor(0x4000, 0x1f, 0x82));
    put64(GDT + TSS16_SEL, descriptor(TSS2, 0x2b, 0x81));
    f->c.st.gdtr = (struct x86_dtr){.base = GDT, .limit = 0xff};
    f->c.st.idtr = (struct x86_dtr){.base = IDT, .limit = 0xfff};
    f->c.st.tr = (struct x86_seg){.base = TSS, .limit = 0x8f, .attr = 0x8b, .sel = TSS_SEL};
    f->c.st.ldtr.attr = X86_ATTR_UNUSABLE;
}

static inline void fake_privilege(unsigned cpl, uint16_t cs)
{
    fake_segment(X86_CS, cs);
    fake_segment(X86_SS, cpl == 3 ? UDATA : KDATA);
    fake_segment(X86_DS, cpl == 3 ? UDATA : KDATA);
    fake_segment(X86_ES, cpl == 3 ? UDATA : KDATA);
    f->c.st.seg[X86_FS] = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
    f->c.st.seg[X86_GS] = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
    f->c.st.gpr[X86_RSP] = cpl == 3 ? USTACK : KSTACK - 0x100;
    f->c.st.rip = 0x5000;
    soft_mode_changed(&f->c);
    assert_int_equal(f->c.st.cpl, cpl);
}

/* 32-bit protected mode without paging. */
static inline void fake_protected(unsigned cpl)
{
    fake_tables();
    f->c.st.cr0 = X86_CR0_PE | X86_CR0_ET;
    put32(TSS + 4, KSTACK);
    put16(TSS + 8, KDATA);
    fake_privilege(cpl, cpl == 3 ? UCODE : KCODE);
}

static inline void fake_long(unsigned cpl)
{
    fake_tables();
    f->c.st.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG;
    f->c.st.cr4 = X86_CR4_PAE;
    f->c.st.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE;
    put64(GDT + TSS_SEL + 8, 0);
    put64(TSS + 4, KSTACK);
    put64(TSS + 0x24, IST1);
    fake_privilege(cpl, cpl == 3 ? UCODE64 : KCODE64);
    assert_int_equal(f->c.mode, INSN_64);
}

static inline void idt_long(unsigned vector, uint16_t cs, uint64_t off, unsigned type, unsigned dpl,
                            unsigned ist)
{
    put64(IDT + vector * 16, gate(cs, (uint32_t)off, type, dpl) | (uint64_t)ist << 32);
    put64(IDT + vector * 16 + 8, off >> 32);
}

static inline void idt_legacy(unsigned vector, uint16_t sel, uint32_t off, unsigned type,
                              unsigned dpl)
{
    put64(IDT + vector * 8, gate(sel, off, type, dpl));
}

/* Real mode, as after RESET but with CS at 0. */
static inline void fake_real(void)
{
    struct x86_state *st = &f->c.st;

    st->cr0 = X86_CR0_ET;
    for (unsigned i = 0; i < X86_NSREGS; i++)
        st->seg[i] = (struct x86_seg){.limit = 0xffff, .attr = 0x93};
    st->idtr.limit = 0xffff;
    st->gpr[X86_RSP] = 0x8000;
    st->rip = 0x5000;
    soft_mode_changed(&f->c);
}

static int fake_setup(void **state)
{
    f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));
    if (!f)
        return -1;
    memset(f, 0, sizeof(*f));
    f->bad_page = ~0ull;
    f->c.vcpu = &f->vcpu;
    f->vcpu.vm = &f->vm;
    f->c.st.rflags = 2;
    return 0;
}

static int fake_teardown(void **state)
{
    free(f);
    return 0;
}

#endif
