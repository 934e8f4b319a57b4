/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the two halves of the generator share. */
#ifndef LODGE_TESTS_GEN_H
#define LODGE_TESTS_GEN_H

#include "difftest.h"

struct gen {
    uint64_t rng;
    struct dt_case *k;
    uint64_t va; /* of the instruction being made */
    /* Registers by what they hold: addresses, small integers, addresses of instructions. */
    uint16_t ptr, small, codeptr;
    bool saved, restored; /* by the XSAVE family */
    uint8_t favourite;    /* a base register that most operands use, or 16 */
};

uint64_t gen_rnd(struct gen *g);
unsigned gen_below(struct gen *g, unsigned n);
bool gen_percent(struct gen *g, unsigned n);
uint64_t gen_address(struct gen *g);
uint64_t gen_insn_va(const struct dt_case *k, unsigned i);

/* gen_smc.c: a sequence that writes over itself, once it has been laid out. */
void gen_smc_insn(struct gen *g, unsigned i);
void gen_smc_link(struct gen *g);

/* gen_image.c: one that saves or restores vector state, with what it needs around it. */
void gen_image(struct gen *g, struct dt_insn *in);

/* gen_insn.c: one instruction at g->va. */
void gen_insn(struct gen *g, struct dt_insn *in);

#endif
