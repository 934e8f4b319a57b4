/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Comparing results, and showing cases and differences. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "difftest.h"

static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

/* ---- Comparing ------------------------------------------------------------------- */

struct diff {
    bool print, found;
};

static void differ(struct diff *d, const char *what, uint64_t host, uint64_t got)
{
    if (host == got)
        return;
    d->found = true;
    if (d->print)
        printf("    %-10s host %016" PRIx64 "  engine %016" PRIx64 "\n", what, host, got);
}

static void differ_bytes(struct diff *d, const char *what, unsigned i, const uint8_t *host,
                         const uint8_t *got, unsigned n)
{
    if (!memcmp(host, got, n))
        return;
    d->found = true;
    if (!d->print)
        return;
    printf("    %s%u:\n      host   ", what, i);
    for (unsigned k = n; k--;)
        printf("%02x", host[k]);
    printf("\n      engine ");
    for (unsigned k = n; k--;)
        printf("%02x", got[k]);
    printf("\n");
}

static void differ_vectors(struct diff *d, const struct dt_regs *h, const struct dt_regs *e)
{
    differ(d, "fcw", h->fcw, e->fcw);
    differ(d, "fsw", h->fsw, e->fsw);
    differ(d, "ftw", h->ftw, e->ftw);
    differ(d, "mxcsr", h->mxcsr, e->mxcsr);
    for (unsigned i = 0; i < 8; i++)
        differ_bytes(d, "st", i, h->st[i], e->st[i], 10);
    for (unsigned i = 0; i < 16; i++) {
        differ_bytes(d, "xmm", i, h->xmm[i], e->xmm[i], 16);
        differ_bytes(d, "ymmh", i, h->ymmh[i], e->ymmh[i], 16);
    }
}

static void differ_memory(struct diff *d, const uint8_t *h, const uint8_t *e)
{
    unsigned shown = 0, rw = 0;

    if (!memcmp(h, e, DT_RW_SIZE))
        return;
    d->found = true;
    for (unsigned p = 0; p < DT_DATA_PAGES && d->print; p++) {
        if (dt_pages[p] != DT_RW)
            continue;
        for (unsigned i = 0; i < PAGE_SIZE; i++) {
            unsigned at = rw * PAGE_SIZE + i;

            if (h[at] != e[at] && shown++ < 16)
                printf("    [%08" PRIx64 "] host %02x  engine %02x\n",
                       (uint64_t)(DT_DATA + p * PAGE_SIZE + i), h[at], e[at]);
        }
        rw++;
    }
}

/* Faults: the saved RIP is the instruction's own. Traps (#BP, #OF, some #DB) come behind it. */
static bool is_fault(uint32_t end)
{
    return end < 32 && end != X86_BP && end != X86_OF_EXC && end != X86_DB;
}

/*
 * In the frame of a fault taken in translated code, arithmetic flags that the
 * translator has seen to be overwritten before anything reads them are stale.
 */
static uint64_t flags_compared(const struct dt_case *k, const struct dt_result *host,
                               enum dt_way way)
{
    uint64_t mask = 0xffffffff;

    if (way != DT_WAY_INTERP && is_fault(host->end) && host->regs.rip != k->init.rip + k->off[k->n])
        mask &= ~(uint64_t)X86_ARITH;
    return mask;
}

/* Linux leaves out the last page of the user half (TASK_SIZE_MAX). */
#define HOST_USER_END ((1ull << 47) - 4096)

/* A kernel hides whether addresses beyond a user's are mapped: it reports them as protected. */
static uint32_t error_of(const struct dt_result *r)
{
    return r->end == X86_PF_EXC && r->cr2 >= HOST_USER_END ? r->error | 1 : r->error;
}

/*
 * Processors differ, and the manuals let them, in what a faulting instruction
 * has done by then and in how its fault shows.
 */
struct leeway {
    bool memory; /* stores of several items, some of which may have been made */
    bool flags;  /* of a comparison interrupted half-way */
    bool vector; /* which of two bad operands is found first */
    bool cr2;    /* only the page counts */
    bool order;  /* which of two bad pages is found first */
    bool any;    /* whether it faults at all is up to the processor */
};

static bool decode_at(const struct dt_case *k, uint64_t off, ZydisDecodedInstruction *zi)
{
    uint8_t code[DT_MAX_CODE + 16] = {0};
    ZydisDecoder dec;

    dt_code(k, code);
    if (k->mode32)
        ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&dec, NULL, code + off, 15, zi));
}

static struct leeway leeway_of(const struct dt_case *k, const struct dt_result *host)
{
    uint64_t off = host->regs.rip - (DT_CODE + k->code_off);
    ZydisDecodedInstruction zi;
    struct leeway l = {0};

    l.flags = host->end == X86_DB; /* some may be undefined here, and be defined further on */
    l.memory =
        host->end == X86_DB && k->kind == DT_IMAGE; /* an image with all that the processor saves */
    if (host->end == X86_DB && off < k->off[k->n] && decode_at(k, off, &zi))
        l.any = zi.meta.isa_ext == ZYDIS_ISA_EXT_AVX2GATHER; /* single-stepped in its middle */
    if (host->end < X86_SS_EXC || host->end > X86_PF_EXC || off >= k->off[k->n] ||
        !decode_at(k, off, &zi))
        return l;
    switch (zi.mnemonic) {
    case ZYDIS_MNEMONIC_ENTER: /* which of its slots faults first, */
    case ZYDIS_MNEMONIC_POPA:  /* and what it has done by then */
    case ZYDIS_MNEMONIC_POPAD:
        l.any = true;
        break;
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        l.memory = true;
        break;
    case ZYDIS_MNEMONIC_CALL: /* to a non-canonical address */
        l.memory = host->end == X86_GP;
        break;
    case ZYDIS_MNEMONIC_IRET: /* which of the values on the stack is read first */
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        l.order = true;
        break;
    case ZYDIS_MNEMONIC_RET: /* AMD's read the outer stack before they refuse a selector whose RPL is not the CPL */
        l.order = l.vector = zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
        break;
    case ZYDIS_MNEMONIC_FXSAVE: /* which end of the image is looked at first, how much has been written */
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
        l.order = l.vector = l.memory = true;
        break;
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_BOUND: /* across the end of a segment */
        l.cr2 = l.vector = true;
        break;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: /* a mask of zeros */
        l.any = true;
        break;
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD: /* no permission, but a count of zero */
        l.any = true;
        break;
    default:
        l.flags = zi.meta.category == ZYDIS_CATEGORY_STRINGOP;
        l.vector = l.flags || (k->mode32 && zi.meta.isa_ext == ZYDIS_ISA_EXT_X87);
        break;
    }
    return l;
}

/* The exception and what comes with it. */
static void differ_end(struct diff *d, const struct dt_result *host, const struct dt_result *got,
                       const struct leeway *l)
{
    if (l->vector && got->end >= X86_SS_EXC && got->end <= X86_PF_EXC && got->end != host->end)
        return;
    differ(d, "vector", host->end, got->end);
    if (host->end != got->end)
        return;
    if (l->order)
        return;
    differ(d, "error", error_of(host), error_of(got));
    if (host->end == X86_PF_EXC)
        differ(d, "cr2", l->cr2 ? host->cr2 & PAGE_MASK : host->cr2,
               l->cr2 ? got->cr2 & PAGE_MASK : got->cr2);
}

/* INT1 is a trap, but a host that is itself a guest may see the RIP before it. */
static uint64_t host_rip(const struct dt_case *k, const struct dt_result *host,
                         const struct dt_result *got)
{
    uint8_t code[DT_MAX_CODE + 16] = {0};
    uint64_t rip = host->regs.rip, off = rip - (DT_CODE + k->code_off);

    if (host->end != X86_DB || got->end != X86_DB || off >= k->off[k->n])
        return rip;
    dt_code(k, code);
    return code[off] == 0xf1 && got->regs.rip == rip + 1 ? rip + 1 : rip;
}

bool dt_host_takes_more(const struct dt_case *k, const struct dt_result *host,
                        const struct dt_result *got)
{
    uint8_t code[DT_MAX_CODE + 16] = {0};
    uint64_t off = got->regs.rip - (DT_CODE + k->code_off);
    const uint8_t *p;

    if (got->end != X86_UD || host->regs.rip == got->regs.rip || off >= k->off[k->n])
        return false;
    dt_code(k, code);
    for (p = code + off; p < code + off + 8 && *p != 0xc4; p++)
        ;
    return p[0] == 0xc4 && (p[1] & 0x1f) == 3 && (p[2] & 0x87) == 5 && p[3] <= 1;
}

bool dt_differs(const struct dt_case *k, const struct dt_result *host, const struct dt_result *got,
                enum dt_way way, bool print)
{
    struct diff d = {.print = print};
    uint64_t mask = k->mode32 ? 0xffffffff : ~0ull, flags = flags_compared(k, host, way);
    struct leeway leeway = leeway_of(k, host);

    if (leeway.any)
        return false;
    differ_end(&d, host, got, &leeway);
    differ(&d, "rip", host_rip(k, host, got), got->regs.rip);
    if (leeway.flags)
        flags &= ~(uint64_t)X86_ARITH;
    differ(&d, "rflags", host->regs.rflags & flags, got->regs.rflags & flags);
    for (unsigned i = 0; i < (k->mode32 ? 8u : 16u); i++)
        differ(&d, names[i], host->regs.gpr[i] & mask, got->regs.gpr[i] & mask);
    differ(&d, "fs base", host->regs.fs_base, got->regs.fs_base);
    differ(&d, "gs base", host->regs.gs_base, got->regs.gs_base);
    differ_vectors(&d, &host->regs, &got->regs);
    if (!leeway.memory)
        differ_memory(&d, host->mem, got->mem);
    return d.found;
}

struct dt_flags dt_flags_of(const uint8_t *bytes, unsigned len)
{
    ZydisDecodedInstruction zi;
    struct dt_flags f = {0};
    ZydisDecoder dec;

    ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&dec, NULL, bytes, len, &zi)) || !zi.cpu_flags)
        return f;
    f.undefined = zi.cpu_flags->undefined & X86_ARITH;
    f.defined = (zi.cpu_flags->modified | zi.cpu_flags->set_0 | zi.cpu_flags->set_1) & X86_ARITH;
    return f;
}

bool dt_state_differs(const struct dt_result *want, const struct dt_result *got, uint64_t live,
                      bool print)
{
    struct diff d = {.print = print};
    uint64_t flags = ~(uint64_t)X86_ARITH | live;

    differ(&d, "rip", want->regs.rip, got->regs.rip);
    differ(&d, "rflags", want->regs.rflags & flags, got->regs.rflags & flags);
    for (unsigned i = 0; i < 16; i++)
        differ(&d, names[i], want->regs.gpr[i], got->regs.gpr[i]);
    differ(&d, "fs base", want->regs.fs_base, got->regs.fs_base);
    differ(&d, "gs base", want->regs.gs_base, got->regs.gs_base);
    differ_vectors(&d, &want->regs, &got->regs);
    differ_memory(&d, want->mem, got->mem);
    return d.found;
}

/* ---- Showing ------------------------------------------------------------------------- */

static bool all_zero(const uint8_t *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static void print_bytes(const char *what, unsigned i, const uint8_t *p, unsigned n)
{
    if (all_zero(p, n))
        return;
    printf("  %s%u ", what, i);
    while (n--)
        printf("%02x", p[n]);
    printf("\n");
}

static void print_code(const struct dt_case *k)
{
    uint8_t code[DT_MAX_CODE];
    unsigned len = dt_code(k, code), at = 0;
    ZydisDecoder dec;
    ZydisFormatter fmt;

    if (k->mode32)
        ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    else
        ZydisDecoderInit(&dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
    while (at < len) {
        ZydisDecodedInstruction zi;
        ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
        uint64_t va = DT_CODE + k->code_off + at;
        char text[128] = "?";
        unsigned n = 1;

        if (code[at] == 0x90) { /* what shrinking leaves */
            at++;
            continue;
        }
        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&dec, code + at, len - at, &zi, zo))) {
            n = zi.length;
            ZydisFormatterFormatInstruction(&fmt, &zi, zo, zi.operand_count_visible, text,
                                            sizeof(text), va, NULL);
        }
        printf("  %08" PRIx64 "  ", va);
        for (unsigned i = 0; i < 15; i++)
            printf(i < n ? "%02x" : "  ", code[at + (i < n ? i : 0)]);
        printf("  %s\n", text);
        at += n;
    }
}

void dt_print_case(const struct dt_case *k)
{
    const struct dt_regs *r = &k->init;

    printf("  seed %#" PRIx64 ", %s%s\n", k->seed, k->mode32 ? "32-bit" : "64-bit",
           k->cold ? ", cold TLB" : "");
    print_code(k);
    printf("  rip %" PRIx64 " rflags %" PRIx64 " fs %" PRIx64 " gs %" PRIx64
           " fcw %x fsw %x ftw %x mxcsr %x\n",
           r->rip, r->rflags, r->fs_base, r->gs_base, r->fcw, r->fsw, r->ftw, r->mxcsr);
    for (unsigned i = 0; i < 16; i++)
        if (r->gpr[i])
            printf("  %s %" PRIx64 "\n", names[i], r->gpr[i]);
    for (unsigned i = 0; i < 8; i++)
        print_bytes("st", i, r->st[i], 10);
    for (unsigned i = 0; i < 16; i++)
        print_bytes("xmm", i, r->xmm[i], 16);
    for (unsigned i = 0; i < 16; i++)
        print_bytes("ymmh", i, r->ymmh[i], 16);
    printf("  memory: %s\n", all_zero(k->mem, DT_RW_SIZE) ? "zero" : "as the seed makes it");
}
