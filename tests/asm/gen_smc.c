/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sequences that change themselves: immediates of additions are overwritten
 * by stores before or after them, in loops too. Only immediates change, so
 * that nothing else than what was generated runs on the host.
 */
#include <string.h>

#include "gen.h"

/* add r8, imm8 (REX, so that it is SIL as well); the immediate is the last byte. */
static const uint8_t victim[4] = {0x40, 0x80, 0xc0, 0x00};
#define VICTIM_IMM 3

/* mov byte or dword [rip + disp], imm */
#define STORE_DISP 2

static bool is_victim(const struct dt_insn *in)
{
    return in->len == sizeof(victim) && in->bytes[1] == 0x80 && (in->bytes[2] & 0xf8) == 0xc0;
}

static bool is_store(const struct dt_insn *in)
{
    return in->len == 7 && in->bytes[0] == 0xc6 && in->bytes[1] == 0x05;
}

static void put(struct dt_insn *in, const uint8_t *b, unsigned len)
{
    memset(in, 0, sizeof(*in));
    memcpy(in->bytes, b, len);
    in->len = (uint8_t)len;
}

void gen_smc_insn(struct gen *g, unsigned i)
{
    struct dt_insn *in = &g->k->in[i];
    uint8_t b[7] = {0xc6, 0x05};
    unsigned pick = i ? gen_below(g, 100) : 0;

    if (pick < 35) {
        memcpy(b, victim, sizeof(victim));
        b[2] |= "\0\2\3\5"[gen_below(g, 4)]; /* not RCX, RSI, RDI */
        b[VICTIM_IMM] = (uint8_t)gen_rnd(g);
        put(in, b, sizeof(victim));
    } else if (pick < 70) {
        b[6] = (uint8_t)gen_rnd(g);
        put(in, b, sizeof(b));
    } else if (pick < 80) {
        b[0] = 0xe2; /* loop */
        put(in, b, 2);
        in->rel_off = in->rel_size = 1;
    } else {
        gen_insn(g, in);
    }
}

void gen_smc_link(struct gen *g)
{
    struct dt_case *k = g->k;
    uint8_t victims[DT_MAX_INSNS];
    unsigned n = 0;

    k->init.gpr[X86_RCX] = 1 + gen_below(g, 20);
    for (unsigned i = 0; i < k->n; i++)
        if (is_victim(&k->in[i]))
            victims[n++] = (uint8_t)i;
    for (unsigned i = 0; i < k->n; i++) {
        struct dt_insn *in = &k->in[i];
        int32_t disp;

        if (!is_store(in))
            continue;
        if (!n) { /* into data then */
            disp = (int32_t)(gen_address(g) - (gen_insn_va(k, i) + in->len));
        } else {
            unsigned to = victims[gen_below(g, n)];

            disp = (int32_t)(k->off[to] + VICTIM_IMM) - (int32_t)(k->off[i] + in->len);
        }
        memcpy(in->bytes + STORE_DISP, &disp, 4);
    }
}
