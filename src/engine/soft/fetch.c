/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fetching and decoding for the interpreter, and its dispatch. */
#include <Zydis/Zydis.h>

#include "engine/soft/decode.h"
#include "engine/soft/engine_soft.h"
#include "engine/soft/fpu.h"
#include "engine/soft/tlb.h"

static bool same_bytes(const uint8_t *a, const uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

/* Linear address of the byte at RIP + n, limit and canonical form checked. */
static gva_t fetch_linear(struct soft_cpu *c, unsigned n)
{
    uint64_t rip = c->st.rip + n;

    if (c->mode == INSN_64) {
        if ((uint64_t)((int64_t)(rip << 16) >> 16) != rip)
            soft_raise_err(c, X86_GP, 0);
        return rip;
    }
    if (rip > c->st.seg[X86_CS].limit)
        soft_raise_err(c, X86_GP, 0);
    return (c->st.seg[X86_CS].base + rip) & 0xffffffff;
}

static uint8_t fetch_byte(struct soft_cpu *c, unsigned n)
{
    gva_t va = fetch_linear(c, n);
    hva_t page = tlb_fetch_page(c, va);

    return page ? page[va & ~PAGE_MASK] : 0xff; /* nothing answers outside RAM */
}

/* An instruction in two pages, at a segment's end, or outside RAM: byte by byte, as far as the decoder asks. */
static const struct insn *fetch_slow(struct soft_cpu *c, struct insn *slot)
{
    uint8_t buf[15];

    for (unsigned n = 0; n < sizeof(buf); n++) {
        buf[n] = fetch_byte(c, n);
        soft_fpu_park(c);
        c->counters.decode++;
        if (decode_insn(buf, n + 1, (enum insn_mode)c->mode, slot) == 0)
            return slot;
    }
    soft_raise_err(c, X86_GP, 0); /* longer than 15 bytes */
}

/* Is the cached instruction still what memory holds? Its second page, if any, is fetched with all checks. */
static bool still_there(struct soft_cpu *c, const struct insn *slot, gva_t va, const uint8_t *at,
                        unsigned avail)
{
    hva_t next;

    if (!slot->len || slot->mode != c->mode)
        return false;
    if (slot->len <= avail)
        return same_bytes(slot->bytes, at, slot->len);
    if (!same_bytes(slot->bytes, at, avail))
        return false;
    next = tlb_fetch_page(c, va + avail);
    return next && same_bytes(slot->bytes + avail, next, slot->len - avail);
}

const struct insn *soft_fetch(struct soft_cpu *c)
{
    gva_t va = fetch_linear(c, 0);
    hva_t page = tlb_fetch_page(c, va);
    unsigned avail = (unsigned)(PAGE_SIZE - (va & ~PAGE_MASK));
    const uint8_t *at = page + (va & ~PAGE_MASK);
    struct insn *slot = &c->dcache[((uintptr_t)at ^ (uintptr_t)at >> 12) & (DCACHE_ENTRIES - 1)];

    if (!page || (c->mode != INSN_64 && c->st.seg[X86_CS].limit - (uint32_t)c->st.rip < 15))
        return fetch_slow(c, &c->dcache[DCACHE_ENTRIES]);
    if (still_there(c, slot, va, at, avail))
        return slot;
    soft_fpu_park(c);
    c->counters.decode++;
    if (decode_insn(at, avail, (enum insn_mode)c->mode, slot) == 0)
        return slot;
    slot->len = 0; /* stays so if the second page faults */
    return fetch_slow(c, slot);
}

void interp_insn(struct soft_cpu *c, const struct insn *in)
{
    insn_fn *fn;

    if (!in->len && (in->flags & INSN_TOO_LONG))
        soft_raise_err(c, X86_GP, 0);
    if (!in->len)
        soft_raise(c, X86_UD);
    c->next_rip = c->st.rip + in->len;
    if (in->mode != INSN_64)
        c->next_rip &= in->mode == INSN_16 ? 0xffff : 0xffffffff;
    fn = in->flags & INSN_SIMD
             ? NULL
             : interp_int_table[in->op]; /* MOVSD and CMPSD are two instructions each */
    if (!fn)
        fn = interp_sys_table[in->op];
    if (!fn)
        fn = interp_fpu_table[in->op];
    if (fn)
        fn(c, in);
    else if (in->flags & INSN_NATIVE)
        fpu_native(c, in);
    else
        soft_raise(c, X86_UD);
    if (unlikely(c->code_store != NULL))
        soft_code_stored(c);
    c->st.rip = c->next_rip;
}
