/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addition, subtraction, logic, compare-and-exchange; operands and their read-modify-write. */
#include "engine/soft/host_mem.h"
#include "engine/soft/interp.h"

uint64_t insn_ea(const struct soft_cpu *c, const struct insn *in)
{
    uint64_t ea = (uint64_t)in->mem_disp;

    if (in->mem_base == INSN_RIP)
        ea += c->st.rip + in->len;
    else if (in->mem_base != INSN_NOREG)
        ea += c->st.gpr[in->mem_base];
    if (in->mem_index != INSN_NOREG)
        ea += c->st.gpr[in->mem_index] * in->mem_scale;
    return ea & size_mask(in->addr_size);
}

/* ---- Read-modify-write of memory ------------------------------------------ */

/* Guest operands need no alignment, so this is the instruction itself rather than the builtin. */
static bool host_cas(void *p, unsigned size, uint64_t *old, uint64_t val)
{
    bool done;

#define CAS(suffix, reg)                                                                           \
    __asm__ volatile("lock cmpxchg" suffix " %" reg "[val], (%[p])"                                \
                     : "+a"(*old), "=@ccz"(done)                                                   \
                     : [p] "r"(p), [val] "q"(val)                                                  \
                     : "memory")
    switch (size) {
    case 1:
        CAS("b", "b");
        break;
    case 2:
        CAS("w", "w");
        break;
    case 4:
        CAS("l", "k");
        break;
    default:
        CAS("q", "q");
        break;
    }
#undef CAS
    *old &= size_mask(size);
    return done;
}

void rmw_begin_mem(struct soft_cpu *c, struct rmw *m, gva_t va, unsigned size, bool locked)
{
    m->va = va;
    m->size = (uint8_t)size;
    m->host = locked ? mem_host_locked(c, va, size) : mem_host(c, va, size, ACC_WRITE);
    if (m->host) {
        m->how = locked ? RMW_HOST_ATOMIC : RMW_HOST;
        m->old = host_load(m->host, size);
        return;
    }
    mem_probe(c, va, size, ACC_WRITE);
    if (locked)
        soft_bus_lock(c);
    m->how = locked ? RMW_SLOW_LOCKED : RMW_SLOW;
    m->old = mem_ld(c, va, size);
}

bool rmw_store_mem(struct soft_cpu *c, struct rmw *m, uint64_t val)
{
    switch (m->how) {
    case RMW_HOST:
        host_store(m->host, m->size, val);
        return true;
    case RMW_HOST_ATOMIC:
        return host_cas(m->host, m->size, &m->old, val);
    default:
        mem_st(c, m->va, m->size, val & size_mask(m->size));
        if (m->how == RMW_SLOW_LOCKED)
            soft_bus_unlock(c);
        return true;
    }
}

/* ---- The host's arithmetic -------------------------------------------------- */

typedef uint64_t alu_fn(uint64_t a, uint64_t b, unsigned size, uint32_t *fl);

#define ALU2_CASE(insn, r)                                                                         \
    __asm__(FLAGS_IN insn " %" r "[b], %" r "[a]" FLAGS_OUT                                        \
            : [a] "+q"(a), "+&a"(*fl)                                                              \
            : [b] "q"(b)                                                                           \
            : "cc")

#define ALU2(name)                                                                                 \
    static inline uint64_t alu_##name(uint64_t a, uint64_t b, unsigned size, uint32_t *fl)         \
    {                                                                                              \
        switch (size) {                                                                            \
        case 1:                                                                                    \
            ALU2_CASE(#name "b", "b");                                                             \
            break;                                                                                 \
        case 2:                                                                                    \
            ALU2_CASE(#name "w", "w");                                                             \
            break;                                                                                 \
        case 4:                                                                                    \
            ALU2_CASE(#name "l", "k");                                                             \
            break;                                                                                 \
        default:                                                                                   \
            ALU2_CASE(#name "q", "q");                                                             \
            break;                                                                                 \
        }                                                                                          \
        return a;                                                                                  \
    }

#define ALU1_CASE(insn, r)                                                                         \
    __asm__(FLAGS_IN insn " %" r "[a]" FLAGS_OUT : [a] "+q"(a), "+&a"(*fl) : : "cc")

#define ALU1(name)                                                                                 \
    static inline uint64_t alu_##name(uint64_t a, uint64_t b, unsigned size, uint32_t *fl)         \
    {                                                                                              \
        switch (size) {                                                                            \
        case 1:                                                                                    \
            ALU1_CASE(#name "b", "b");                                                             \
            break;                                                                                 \
        case 2:                                                                                    \
            ALU1_CASE(#name "w", "w");                                                             \
            break;                                                                                 \
        case 4:                                                                                    \
            ALU1_CASE(#name "l", "k");                                                             \
            break;                                                                                 \
        default:                                                                                   \
            ALU1_CASE(#name "q", "q");                                                             \
            break;                                                                                 \
        }                                                                                          \
        return a;                                                                                  \
    }

ALU2(add)
ALU2(adc)
ALU2(sub)
ALU2(sbb)
ALU2(and)
ALU2(or)
ALU2(xor)
ALU2(cmp)
ALU2(test)
ALU1(inc)
ALU1(dec)
ALU1(neg)
ALU1(not )

/* ---- Handlers ---------------------------------------------------------------- */

static inline __attribute__((always_inline)) void alu_rmw(struct soft_cpu *c, const struct insn *in,
                                                          alu_fn *fn)
{
    uint64_t res, src = in->nopnd > 1 ? opnd_load(c, in, 1) : 0;
    struct rmw m;
    uint32_t fl;

    rmw_begin(c, in, &m);
    do {
        fl = flags_get(c);
        res = fn(m.old, src, m.size, &fl);
    } while (!rmw_store(c, &m, res));
    flags_set(c, fl);
}

#define ALU_RMW(name)                                                                              \
    void iop_##name(struct soft_cpu *c, const struct insn *in)                                     \
    {                                                                                              \
        alu_rmw(c, in, alu_##name);                                                                \
    }

ALU_RMW(add)
ALU_RMW(adc)
ALU_RMW(sub)
ALU_RMW(sbb)
ALU_RMW(and)
ALU_RMW(or)
ALU_RMW(xor)
ALU_RMW(inc)
ALU_RMW(dec)
ALU_RMW(neg)
ALU_RMW(not )

void iop_cmp(struct soft_cpu *c, const struct insn *in)
{
    uint64_t a = opnd_load(c, in, 0), b = opnd_load(c, in, 1);
    uint32_t fl = flags_get(c);

    alu_cmp(a, b, in->opnd[0].size, &fl);
    flags_set(c, fl);
}

void iop_test(struct soft_cpu *c, const struct insn *in)
{
    uint64_t a = opnd_load(c, in, 0), b = opnd_load(c, in, 1);
    uint32_t fl = flags_get(c);

    alu_test(a, b, in->opnd[0].size, &fl);
    flags_set(c, fl);
}

/* ADCX and ADOX: an addition whose carry goes through the one flag and leaves the others alone. */
static void add_through(struct soft_cpu *c, const struct insn *in, uint64_t flag)
{
    uint64_t b = opnd_load(c, in, 1), a = opnd_load(c, in, 0);
    unsigned size = in->opnd[0].size;
    unsigned __int128 sum = (unsigned __int128)a + b + ((c->st.rflags & flag) != 0);

    opnd_store(c, in, 0, (uint64_t)sum);
    c->st.rflags &= ~flag;
    if ((uint64_t)(sum >> (8 * size)) & 1)
        c->st.rflags |= flag;
}

void iop_adcx(struct soft_cpu *c, const struct insn *in)
{
    add_through(c, in, X86_CF);
}

void iop_adox(struct soft_cpu *c, const struct insn *in)
{
    add_through(c, in, X86_OF);
}

void iop_xadd(struct soft_cpu *c, const struct insn *in)
{
    const struct opnd *o = &in->opnd[1];
    uint64_t res, old, src = opnd_load(c, in, 1);
    struct rmw m;
    uint32_t fl;

    rmw_begin(c, in, &m);
    if (m.how == RMW_GPR || m.how == RMW_GPRH) { /* the sum wins when both are one register */
        fl = flags_get(c);
        res = alu_add(m.old, src, m.size, &fl);
        opnd_store(c, in, 1, m.old);
        rmw_store(c, &m, res);
    } else {
        do {
            old = m.old;
            fl = flags_get(c);
            res = alu_add(old, src, m.size, &fl);
        } while (!rmw_store(c, &m, res));
        if (o->kind == OPND_GPRH)
            gprh_set(c, o->reg, old);
        else
            gpr_set(c, o->reg, o->size, old);
    }
    flags_set(c, fl);
}

/*
 * Between 32-bit registers the upper halves are the question: neither the accumulator of a
 * successful exchange nor the destination of a failed one is written as one might think, so
 * the host does it on whole registers.
 */
static void cmpxchg_reg32(struct soft_cpu *c, const struct insn *in)
{
    uint64_t *dst = &c->st.gpr[in->opnd[0].reg], src = opnd_load(c, in, 1);
    uint64_t acc = c->st.gpr[X86_RAX], d = *dst;
    uint32_t fl = flags_get(c);

    if (in->opnd[0].reg == X86_RAX) {
        __asm__(FLAGS_IN
                "movq %[acc], %%rax\n\tcmpxchgl %k[src], %%eax\n\tmovq %%rax, %[acc]" FLAGS_OUT
                : [acc] "+&r"(acc), "+&a"(fl)
                : [src] "r"(src)
                : "cc");
    } else {
        __asm__(FLAGS_IN
                "movq %[acc], %%rax\n\tcmpxchgl %k[src], %k[d]\n\tmovq %%rax, %[acc]" FLAGS_OUT
                : [acc] "+&r"(acc), [d] "+&r"(d), "+&a"(fl)
                : [src] "r"(src)
                : "cc");
        *dst = d;
    }
    c->st.gpr[X86_RAX] = acc;
    flags_set(c, fl);
}

void iop_cmpxchg(struct soft_cpu *c, const struct insn *in)
{
    uint64_t src = opnd_load(c, in, 1), acc, old;
    struct rmw m;
    uint32_t fl;

    if (in->opnd[0].kind == OPND_GPR && in->opnd[0].size == 4) {
        cmpxchg_reg32(c, in);
        return;
    }
    rmw_begin(c, in, &m);
    acc = gpr_get(c, X86_RAX, m.size);
    do {
        old = m.old;
        fl = flags_get(c);
        alu_cmp(acc, old, m.size, &fl);
    } while (!rmw_store(c, &m, old == acc ? src : old));
    if (old != acc)
        gpr_set(c, X86_RAX, m.size, old);
    flags_set(c, fl);
}

static void set_zf(struct soft_cpu *c, bool zf)
{
    c->st.rflags = (c->st.rflags & ~(uint64_t)X86_ZF) | (zf ? X86_ZF : 0);
}

void iop_cmpxchg8b(struct soft_cpu *c, const struct insn *in)
{
    uint64_t acc = gpr_get(c, X86_RDX, 4) << 32 | gpr_get(c, X86_RAX, 4);
    uint64_t src = gpr_get(c, X86_RCX, 4) << 32 | gpr_get(c, X86_RBX, 4), old;
    struct rmw m;

    rmw_begin_mem(c, &m, opnd_va(c, in, 8, ACC_WRITE), 8, (in->flags & INSN_LOCK) != 0);
    do
        old = m.old;
    while (!rmw_store(c, &m, old == acc ? src : old));
    if (old != acc) {
        gpr_set(c, X86_RAX, 4, old);
        gpr_set(c, X86_RDX, 4, old >> 32);
    }
    set_zf(c, old == acc);
}

/* Sixteen bytes out of reach of the host's instruction: device memory or a page with translated code. */
static bool cmpxchg16b_slow(struct soft_cpu *c, gva_t va, bool locked, uint64_t *lo, uint64_t *hi)
{
    uint64_t old_lo, old_hi;
    bool equal;

    mem_probe(c, va, 16, ACC_WRITE);
    if (locked)
        soft_bus_lock(c);
    old_lo = mem_ld(c, va, 8);
    old_hi = mem_ld(c, va + 8, 8);
    equal = old_lo == *lo && old_hi == *hi;
    mem_st(c, va, 8, equal ? c->st.gpr[X86_RBX] : old_lo);
    mem_st(c, va + 8, 8, equal ? c->st.gpr[X86_RCX] : old_hi);
    if (locked)
        soft_bus_unlock(c);
    *lo = old_lo;
    *hi = old_hi;
    return equal;
}

void iop_cmpxchg16b(struct soft_cpu *c, const struct insn *in)
{
    uint64_t lo = c->st.gpr[X86_RAX], hi = c->st.gpr[X86_RDX];
    uint64_t base = in->mem_seg >= X86_FS ? c->st.seg[in->mem_seg].base : 0;
    void *host;
    bool equal;
    gva_t va;

    if ((base + insn_ea(c, in)) & 15) /* before #SS, if it is both */
        soft_raise_err(c, X86_GP, 0);
    va = opnd_va(c, in, 16, ACC_WRITE);
    host = mem_host_locked(c, va, 16);
    if (host)
        __asm__ volatile("lock cmpxchg16b (%[p])"
                         : "+a"(lo), "+d"(hi), "=@ccz"(equal)
                         : [p] "r"(host), "b"(c->st.gpr[X86_RBX]), "c"(c->st.gpr[X86_RCX])
                         : "memory");
    else
        equal = cmpxchg16b_slow(c, va, (in->flags & INSN_LOCK) != 0, &lo, &hi);
    if (!equal) {
        c->st.gpr[X86_RAX] = lo;
        c->st.gpr[X86_RDX] = hi;
    }
    set_zf(c, equal);
}
