/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/kvm/convert.h"

#include <string.h>

static void seg_to_kvm(const struct x86_seg *s, struct kvm_segment *k)
{
    bool usable = (s->attr & X86_ATTR_P) && !(s->attr & X86_ATTR_UNUSABLE);

    *k = (struct kvm_segment){
        .base = s->base,
        .limit = s->limit,
        .selector = s->sel,
        .type = s->attr & X86_ATTR_TYPE,
        .s = !!(s->attr & X86_ATTR_S),
        .dpl = s->attr >> X86_ATTR_DPL_SHIFT & 3,
        .present = usable,
        .avl = s->attr >> 12 & 1,
        .l = !!(s->attr & X86_ATTR_L),
        .db = !!(s->attr & X86_ATTR_DB),
        .g = !!(s->attr & X86_ATTR_G),
        .unusable = !usable,
    };
}

static void seg_from_kvm(const struct kvm_segment *k, struct x86_seg *s)
{
    *s = (struct x86_seg){
        .base = k->base,
        .limit = k->limit,
        .sel = k->selector,
        .attr = k->type | (k->s ? X86_ATTR_S : 0) | (uint32_t)k->dpl << X86_ATTR_DPL_SHIFT |
                (k->present ? X86_ATTR_P : 0) | (k->avl ? 1u << 12 : 0) | (k->l ? X86_ATTR_L : 0) |
                (k->db ? X86_ATTR_DB : 0) | (k->g ? X86_ATTR_G : 0) |
                (k->unusable || !k->present ? X86_ATTR_UNUSABLE : 0),
    };
}

/* KVM's order of x86_sreg. */
static struct kvm_segment *kvm_seg(struct kvm_sregs *s, unsigned n)
{
    struct kvm_segment *const segs[X86_NSREGS] = {
        [X86_ES] = &s->es, [X86_CS] = &s->cs, [X86_SS] = &s->ss,
        [X86_DS] = &s->ds, [X86_FS] = &s->fs, [X86_GS] = &s->gs,
    };

    return segs[n];
}

void kvm_regs_from_state(const struct x86_state *st, struct kvm_regs *r)
{
    const uint64_t *g = st->gpr;

    *r = (struct kvm_regs){
        .rax = g[X86_RAX],
        .rbx = g[X86_RBX],
        .rcx = g[X86_RCX],
        .rdx = g[X86_RDX],
        .rsi = g[X86_RSI],
        .rdi = g[X86_RDI],
        .rsp = g[X86_RSP],
        .rbp = g[X86_RBP],
        .r8 = g[X86_R8],
        .r9 = g[X86_R9],
        .r10 = g[X86_R10],
        .r11 = g[X86_R11],
        .r12 = g[X86_R12],
        .r13 = g[X86_R13],
        .r14 = g[X86_R14],
        .r15 = g[X86_R15],
        .rip = st->rip,
        .rflags = st->rflags,
    };
}

void kvm_regs_to_state(const struct kvm_regs *r, struct x86_state *st)
{
    const uint64_t g[16] = {
        [X86_RAX] = r->rax, [X86_RBX] = r->rbx, [X86_RCX] = r->rcx, [X86_RDX] = r->rdx,
        [X86_RSI] = r->rsi, [X86_RDI] = r->rdi, [X86_RSP] = r->rsp, [X86_RBP] = r->rbp,
        [X86_R8] = r->r8,   [X86_R9] = r->r9,   [X86_R10] = r->r10, [X86_R11] = r->r11,
        [X86_R12] = r->r12, [X86_R13] = r->r13, [X86_R14] = r->r14, [X86_R15] = r->r15,
    };

    memcpy(st->gpr, g, sizeof(g));
    st->rip = r->rip;
    st->rflags = r->rflags;
}

void kvm_sregs_from_state(const struct x86_state *st, struct kvm_sregs *s)
{
    for (unsigned i = 0; i < X86_NSREGS; i++)
        seg_to_kvm(&st->seg[i], kvm_seg(s, i));
    /* KVM takes the privilege level from SS. */
    s->ss.dpl = st->cpl;
    seg_to_kvm(&st->tr, &s->tr);
    seg_to_kvm(&st->ldtr, &s->ldt);
    s->gdt = (struct kvm_dtable){.base = st->gdtr.base, .limit = st->gdtr.limit};
    s->idt = (struct kvm_dtable){.base = st->idtr.base, .limit = st->idtr.limit};
    s->cr0 = st->cr0;
    s->cr2 = st->cr2;
    s->cr3 = st->cr3;
    s->cr4 = st->cr4;
    s->efer = st->efer;
    memset(s->interrupt_bitmap, 0, sizeof(s->interrupt_bitmap));
}

void kvm_sregs_to_state(const struct kvm_sregs *s, struct x86_state *st)
{
    struct kvm_sregs copy = *s;

    for (unsigned i = 0; i < X86_NSREGS; i++)
        seg_from_kvm(kvm_seg(&copy, i), &st->seg[i]);
    st->cpl = !(s->cr0 & X86_CR0_PE) ? 0 : st->rflags & X86_VM ? 3 : s->ss.dpl;
    seg_from_kvm(&s->tr, &st->tr);
    seg_from_kvm(&s->ldt, &st->ldtr);
    st->gdtr = (struct x86_dtr){.base = s->gdt.base, .limit = s->gdt.limit};
    st->idtr = (struct x86_dtr){.base = s->idt.base, .limit = s->idt.limit};
    st->cr0 = s->cr0;
    st->cr2 = s->cr2;
    st->cr3 = s->cr3;
    st->cr4 = s->cr4;
    st->efer = s->efer;
}
