/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fuzz: src/engine/soft/decode.c src/engine/soft/classify.c src/engine/soft/emit_copy.c */
/*
 * Any bytes as an instruction: the compact form must be sane, the translator
 * must know what to do with it, and the copy it makes must be the same
 * instruction with another address. Byte 0: mode and place in the page.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/soft/decode.h"
#include "engine/soft/translate.h"

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x))                                                                                  \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_form(const struct insn *in, unsigned avail)
{
    REQUIRE(in->len <= 15 && in->len <= avail);
    REQUIRE(in->nopnd <= ARRAY_SIZE(in->opnd));
    REQUIRE(in->mem_base < 16 || in->mem_base == INSN_NOREG || in->mem_base == INSN_RIP);
    REQUIRE(in->mem_index < 16 || in->mem_index == INSN_NOREG);
    REQUIRE(in->mem_scale == 1 || in->mem_scale == 2 || in->mem_scale == 4 || in->mem_scale == 8);
    REQUIRE(in->addr_size == 2 || in->addr_size == 4 || in->addr_size == 8);
    REQUIRE(in->mem_seg < X86_NSREGS);
    REQUIRE(in->modrm_off < in->len && in->op_off < in->len);
    REQUIRE(in->imm_off + in->imm_len <= in->len);
    REQUIRE(!(in->fl_read & ~X86_ARITH) && !(in->fl_write & ~X86_ARITH));
    for (unsigned i = in->len; i < sizeof(in->bytes); i++)
        REQUIRE(in->bytes[i] == 0);
    for (unsigned i = 0; i < in->nopnd; i++) {
        const struct opnd *o = &in->opnd[i];

        if (o->kind == OPND_GPR)
            REQUIRE(o->reg < 16 && (o->size == 1 || o->size == 2 || o->size == 4 || o->size == 8));
        if (o->kind == OPND_GPRH)
            REQUIRE(o->reg < 4 && o->size == 1);
        if (o->kind == OPND_SEG)
            REQUIRE(o->reg < X86_NSREGS);
        if (o->kind == OPND_MEM)
            REQUIRE(in->flags & INSN_HAS_MEM);
    }
}

/* The copy at [base + index + disp] decodes to the same operation on that address. */
static void check_copy(const struct insn *in, unsigned base, unsigned index, int32_t disp)
{
    uint8_t buf[64];
    struct emit e = {.p = buf, .end = buf + sizeof(buf)};
    bool mem = in->flags & INSN_HAS_MEM;
    struct insn copy;
    unsigned len;

    memset(buf, 0xcc, sizeof(buf));
    if (!emit_copy(&e, in, base, index, disp))
        return;
    len = (unsigned)(e.p - buf);
    REQUIRE(len <= 24 && buf[len] == 0xcc);
    if (len > 15) /* one byte of displacement may have become more with other prefixes kept */
        return;
    REQUIRE(decode_insn(buf, len, INSN_64, &copy) == 0);
    REQUIRE(copy.len == len && copy.op == in->op && copy.nopnd == in->nopnd);
    if (!mem || !in->mem_size)
        return;
    REQUIRE(copy.mem_size == in->mem_size && copy.mem_disp == disp);
    REQUIRE(copy.mem_base == base && copy.mem_index == index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum decline why = DECLINE_NONE;
    enum insn_class klass;
    enum insn_mode mode;
    struct insn in;
    unsigned avail;
    uint8_t *bytes;

    if (size < 2)
        return 0;
    mode = (enum insn_mode)(data[0] % 3);
    avail = size - 1 < 16 ? (unsigned)size - 1 : 16;
    bytes = malloc(avail); /* its end is watched */
    REQUIRE(bytes);
    memcpy(bytes, data + 1, avail);
    if (decode_insn(bytes, avail, mode, &in)) {
        REQUIRE(avail < 15);
    } else if (in.len) {
        check_form(&in, avail);
        klass = classify(&in, PAGE_SIZE - 16 * (1 + data[0] / 3u), &why);
        REQUIRE(klass <= CLASS_DECLINED && why < DECLINE_COUNT);
        if (mode == INSN_64 && (klass == CLASS_COPY || klass == CLASS_MEM))
            check_copy(&in, in.flags & INSN_HAS_MEM ? T1 : INSN_NOREG,
                       in.flags & INSN_HAS_MEM ? T0 : INSN_NOREG, data[0] % 5 * 60);
    }
    free(bytes);
    return 0;
}
