/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making a failing case smaller, keeping every address as it is. */
#include <string.h>

#include "difftest.h"

/* Keep the change if the case still fails, else take it back. */
static bool keep(struct dt_case *k, const struct dt_case *before,
                 bool (*fails)(const struct dt_case *k))
{
    if (fails(k))
        return true;
    *k = *before;
    return false;
}

static bool shrink_insns(struct dt_case *k, bool (*fails)(const struct dt_case *k))
{
    static struct dt_case before;
    bool any = false;

    for (unsigned i = k->n; i-- > 0;) {
        uint8_t nops[DT_INSN_BYTES];

        memset(nops, 0x90, sizeof(nops));
        if (!memcmp(k->in[i].bytes, nops, k->in[i].len))
            continue;
        before = *k;
        memcpy(k->in[i].bytes, nops, k->in[i].len);
        k->in[i].rel_size = 0;
        any |= keep(k, &before, fails);
    }
    return any;
}

/* Zero what can be zero, from offset `at` in pieces of `size`. */
static void shrink_bytes(struct dt_case *k, bool (*fails)(const struct dt_case *k), void *at,
                         unsigned size, unsigned n)
{
    static struct dt_case before;
    static const uint8_t zero[4096];

    for (unsigned i = 0; i < n; i++) {
        uint8_t *p = (uint8_t *)at + i * size;

        if (!memcmp(p, zero, size))
            continue;
        before = *k;
        memset(p, 0, size);
        keep(k, &before, fails);
    }
}

void dt_shrink(struct dt_case *k, bool (*fails)(const struct dt_case *k))
{
    static struct dt_case before;
    struct dt_regs *r = &k->init;

    while (shrink_insns(k, fails))
        ;
    before = *k;
    k->cold = false;
    keep(k, &before, fails);
    before = *k;
    r->rflags = 0x202;
    keep(k, &before, fails);
    before = *k;
    r->fcw = 0x37f;
    r->fsw = 0;
    r->ftw = 0;
    keep(k, &before, fails);
    before = *k;
    r->mxcsr = 0x1f80;
    keep(k, &before, fails);
    shrink_bytes(k, fails, r->gpr, 8, 16);
    shrink_bytes(k, fails, r->st, 16, 8);
    shrink_bytes(k, fails, r->xmm, 16, 16);
    shrink_bytes(k, fails, r->ymmh, 16, 16);
    shrink_bytes(k, fails, k->mem, 4096, DT_RW_PAGES);
    shrink_insns(k, fails);
}
