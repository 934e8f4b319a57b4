/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the software engine keeps per VM: the translation cache and who runs from it. */
#ifndef LODGE_SOFT_ENGINE_SOFT_H
#define LODGE_SOFT_ENGINE_SOFT_H

#include "engine/soft/cache.h"
#include "engine/soft/soft.h"

/* Why the translator leaves an instruction to the interpreter. */
#define DECLINES(X)                                                                                \
    X(SYSTEM, "system or privileged instruction")                                                  \
    X(STRING, "string instruction")                                                                \
    X(FORM, "rare form or operand size")                                                           \
    X(HIGH_BYTE, "AH, BH, CH or DH with a memory operand")                                         \
    X(R10_R11, "r10 and r11 both beside a memory operand")                                         \
    X(CROSS_PAGE, "instruction crosses a page")                                                    \
    X(UNDEFINED, "undefined opcode")                                                               \
    X(MASKED, "masked or gathering memory access")                                                 \
    X(X87_CONTROL, "x87 environment or control word")

enum decline {
    DECLINE_NONE,
#define X(name, text) DECLINE_##name,
    DECLINES(X)
#undef X
        DECLINE_COUNT,
};

struct soft_vm {
    struct vm *vm;
    struct soft_cpu *cpus[VM_MAX_CPUS];
    _Atomic uint32_t bus_lock;
    struct cache cache;
    _Atomic uint16_t *view_writes; /* per guest page: how many views can write it */
    _Atomic uint32_t
        *view_bases; /* per VIEW_BASES_SHIFT of memory: pages of the base that views show */
    _Atomic(_Atomic uint64_t *)
        dirty; /* bit per guest page: written since the last look; NULL: not noted */
    _Atomic unsigned view_runs;       /* mappings in views */
    _Atomic uint32_t view_owners;     /* given out for block_key */
    uint64_t declines[DECLINE_COUNT]; /* instructions left to the interpreter; under cache.lock */
};

/* Does the guest page at this host address (page aligned) hold translated code? Lock-free. */
static inline bool page_holds_code(const struct soft_vm *svm, const uint8_t *page)
{
    return atomic_load_explicit(
               &svm->cache.granules[(size_t)(page - svm->vm->mem.map) >> PAGE_SHIFT],
               memory_order_seq_cst) != 0;
}

/*
 * The guest page that `host` lies in is being written, or can be without our being told again. Before the write, or
 * after it on the vCPU's own thread: whoever takes the log stops the vCPUs first.
 */
static inline void dirty_note(struct soft_vm *svm, const uint8_t *host)
{
    _Atomic uint64_t *dirty = atomic_load_explicit(&svm->dirty, memory_order_relaxed);
    size_t n = (size_t)(host - svm->vm->mem.map) >> PAGE_SHIFT;

    if (unlikely(dirty != NULL))
        atomic_fetch_or_explicit(&dirty[n / 64], 1ull << n % 64, memory_order_relaxed);
}

#define VIEW_BASES_SHIFT 14

/* mem_own with the guest's vector state saved, if it is in the host's registers (fpu.c). */
void soft_own_slow(struct soft_cpu *c, const uint8_t *host, unsigned len);

/*
 * [host, host+len), inside one page, is about to be written, or may be without our being told again. Not with
 * views.lock held.
 */
static inline void soft_own(struct soft_cpu *c, const uint8_t *host, unsigned len)
{
    const struct mem *mem = &c->svm->vm->mem;

    if (unlikely(!mem_is_own(mem, (uint64_t)(host - mem->map))))
        soft_own_slow(c, host, len);
}

/*
 * [host, host+len), inside one page that holds code, was written: drop translations made from it. Returns whether
 * there were any. Takes the cache's lock.
 */
bool code_written(struct soft_vm *svm, const uint8_t *host, unsigned len);

#endif
