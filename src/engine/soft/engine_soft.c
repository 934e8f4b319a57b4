/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/* The software engine as core sees it. */
#include "engine/soft/engine_soft.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/engine.h"
#include "engine/soft/perfmap.h"
#include "engine/soft/run.h"
#include "engine/soft/tlb.h"
#include "engine/soft/view.h"

/* Host features that translated code and the interpreter's thunks rely on. */
static int soft_probe(struct err *err)
{
    unsigned a, b, c, d;
    bool xsave = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE) && (c & bit_AVX);
    bool lahf = __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1);
    bool v3 = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2) && (b & bit_BMI2);

    if (!xsave || !lahf || !v3) {
        err_set(err, -ENOTSUP, "the software engine needs a processor with AVX2, BMI2 and XSAVE");
        return err_next(err, "Run on an x86-64-v3 host (Intel Haswell, AMD Excavator or later).");
    }
    return 0;
}

/* mem.moved: the soft TLB has addresses in mem.map only, where what is behind them has changed already. */
static void mem_moved(void *opaque, uint64_t offset, uint64_t len)
{
    struct soft_vm *svm = opaque;

    for (unsigned i = 0; i < svm->vm->cfg.cpus; i++)
        if (svm->cpus[i])
            view_drop_base(svm->cpus[i], offset, offset + len);
}

static int soft_vm_init(struct vm *vm, struct err *err)
{
    struct soft_vm *svm = calloc(1, sizeof(*svm));
    int r;

    if (!svm)
        return err_set(err, -ENOMEM, "no memory for the software engine");
    svm->vm = vm;
    vm->engine_data = svm;
    svm->view_writes = calloc(vm->mem.size >> PAGE_SHIFT, sizeof(*svm->view_writes));
    svm->view_bases = calloc((vm->mem.size >> VIEW_BASES_SHIFT) + 1, sizeof(*svm->view_bases));
    r = svm->view_writes && svm->view_bases
            ? signals_init(err)
            : err_set(err, -ENOMEM, "no memory for the software engine");
    if (!r)
        r = cache_init(svm, err);
    if (r) {
        free(svm->view_writes);
        free(svm->view_bases);
        free(svm);
        vm->engine_data = NULL;
        return r;
    }
    vm->mem.moved_opaque = svm;
    vm->mem.moved = mem_moved;
    return 0;
}

static void soft_vm_fini(struct vm *vm)
{
    struct soft_vm *svm = vm->engine_data;

    if (!svm)
        return;
    vm->mem.moved = NULL;
    cache_fini(svm);
    free((void *)svm->dirty);
    free(svm->view_writes);
    free(svm->view_bases);
    free(svm);
    vm->engine_data = NULL;
}

/* The leak checker does not look into what mmap gave by itself. */
#ifdef __has_feature
#define LEAKS_CHECKED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define LEAKS_CHECKED 1
#else
#define LEAKS_CHECKED 0
#endif
#if LEAKS_CHECKED
#include <sanitizer/lsan_interface.h>
#else
#define __lsan_register_root_region(p, len)   ((void)(p))
#define __lsan_unregister_root_region(p, len) ((void)(p))
#endif

/* The structure ends with a page, and behind it nothing can be accessed that view_table would have there. */
#define CPU_PAGES  ALIGN_UP(sizeof(struct soft_cpu), PAGE_SIZE)
#define CPU_FAULTS ((size_t)(VIEW_TABLE_WHOLE - VIEW_TABLE) * sizeof(uint64_t))

/* Zero bytes; NULL: no memory. */
static struct soft_cpu *cpu_alloc(void)
{
    uint8_t *p = mmap(NULL, CPU_PAGES + CPU_FAULTS, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    _Static_assert(offsetof(struct soft_cpu, view_table) + VIEW_TABLE * sizeof(uint64_t) ==
                       sizeof(struct soft_cpu),
                   "the table goes on behind it");
    if (p == MAP_FAILED)
        return NULL;
    if (mprotect(p, CPU_PAGES, PROT_READ | PROT_WRITE)) {
        munmap(p, CPU_PAGES + CPU_FAULTS);
        return NULL;
    }
    __lsan_register_root_region(p, CPU_PAGES);
    return (struct soft_cpu *)(void *)(p + CPU_PAGES - sizeof(struct soft_cpu));
}

static void cpu_free(struct soft_cpu *c)
{
    uint8_t *p;

    if (!c)
        return;
    p = (uint8_t *)(c + 1) - CPU_PAGES;
    __lsan_unregister_root_region(p, CPU_PAGES);
    munmap(p, CPU_PAGES + CPU_FAULTS);
}

static void soft_vcpu_fini(struct vcpu *vcpu)
{
    struct soft_cpu *c = vcpu->engine;

    if (!c)
        return;
    c->svm->cpus[vcpu->id] = NULL;
    views_fini(c);
    tlb_fini(c);
    signals_free(c);
    free(c->dcache);
    free((void *)c->jc_empty);
    cpu_free(c);
    vcpu->engine = NULL;
}

static int soft_vcpu_init(struct vcpu *vcpu, struct err *err)
{
    struct soft_vm *svm = vcpu->vm->engine_data;
    struct soft_cpu *c = cpu_alloc();
    struct jc_entry *empty = malloc(JC_TOTAL * sizeof(*empty));
    int r = -ENOMEM;

    if (!c || !empty) {
        cpu_free(c);
        free(empty);
        return err_set(err, r, "no memory for a virtual CPU");
    }
    jc_table_clear(empty);
    c->jc_empty = empty;
    for (unsigned i = 0; i < RETURNS; i++)
        c->returns_empty[i].code = svm->cache.glue.ret_none;
    c->vcpu = vcpu;
    c->svm = svm;
    c->self = (uint64_t)(uintptr_t)c;
    c->delivering = -1;
    vcpu->engine = c;
    svm->cpus[vcpu->id] = c;
    x86_state_reset(&c->st, vcpu->id == 0);
    c->dcache = calloc(DCACHE_ENTRIES + 1, sizeof(*c->dcache));
    if (!c->dcache)
        r = err_set(err, r, "no memory for a virtual CPU");
    else
        r = views_init(c, err);
    if (!r && c->views)
        r = tlb_init(c, err);
    if (r) {
        soft_vcpu_fini(vcpu);
        return r;
    }
    soft_mode_changed(c);
    return 0;
}

static void soft_get(struct vcpu *vcpu, struct x86_state *st)
{
    struct soft_cpu *c = vcpu->engine;

    *st = c->st;
}

static int soft_set(struct vcpu *vcpu, const struct x86_state *st)
{
    struct soft_cpu *c = vcpu->engine;

    c->st = *st;
    c->fpu_live = c->fpu_ok = 0;
    c->nmi_pending = 0;
    c->chain_site = NULL;
    c->delivering = -1;
    tlb_flush_all(c);
    soft_mode_changed(c);
    return 0;
}

/* "RIP ..., CS ..., bytes ..." for messages about a guest that cannot go on. */
static void describe(struct soft_cpu *c, char *buf, size_t len, const char *what)
{
    uint64_t lin = c->mode == INSN_64 ? c->st.rip : c->st.rip + c->st.seg[X86_CS].base;
    char bytes[64] = "unreadable";
    struct walk w;
    uint8_t raw[15];

    if (!mmu_walk(c, lin, ACC_FETCH, TLB_KERNEL_AC, &w)) {
        unsigned n = (unsigned)(PAGE_SIZE - (w.gpa & ~PAGE_MASK));

        n = n < sizeof(raw) ? n : sizeof(raw);
        if (!mem_read(&c->svm->vm->mem, w.gpa, raw, n))
            for (unsigned i = 0; i < n; i++)
                snprintf(bytes + 3 * i, sizeof(bytes) - 3 * i, "%02x ", raw[i]);
    }
    snprintf(buf, len,
             "vCPU %u: %s at RIP 0x%" PRIx64 ", CS 0x%x (%s, CPL %u), CR2 0x%" PRIx64
             ", last exception %u, instruction bytes %s",
             c->vcpu->id, what, c->st.rip, c->st.seg[X86_CS].sel,
             c->mode == INSN_64   ? "64-bit"
             : c->mode == INSN_32 ? "32-bit"
                                  : "16-bit",
             c->st.cpl, c->st.cr2, c->exc_vector, bytes);
}

static enum vcpu_exit_reason soft_run(struct vcpu *vcpu)
{
    struct soft_cpu *c = vcpu->engine;
    int r = signals_enter(c);

    if (r) {
        snprintf(vcpu->exit.text, sizeof(vcpu->exit.text), "cannot set up the vCPU's thread: %s",
                 strerror(-r));
        vcpu->exit.reason = VCPU_EXIT_ERROR;
        return vcpu->exit.reason;
    }
    vcpu->exit.reason = soft_run_loop(c);
    soft_fpu_park(c);
    signals_leave(c);
    if (vcpu->exit.reason == VCPU_EXIT_SHUTDOWN)
        describe(c, vcpu->exit.text, sizeof(vcpu->exit.text), "triple fault");
    return vcpu->exit.reason;
}

static void soft_engine_kick(struct vcpu *vcpu)
{
    if (vcpu->engine)
        soft_kick(vcpu->engine);
}

static void soft_mem_written(struct vm *vm, gpa_t gpa, uint64_t len)
{
    struct soft_vm *svm = vm->engine_data;

    atomic_thread_fence(memory_order_seq_cst); /* as in code_written */
    while (len) {
        uint64_t n = PAGE_SIZE - (gpa & ~PAGE_MASK);
        hva_t host;

        n = n < len ? n : len;
        host = mem_hva(&vm->mem, gpa, n);
        if (host && page_holds_code(svm, (const uint8_t *)((uintptr_t)host & PAGE_MASK)))
            code_written(svm, host, (unsigned)n);
        gpa += n;
        len -= n;
    }
}

bool code_written(struct soft_vm *svm, const uint8_t *host, unsigned len)
{
    uint64_t at = (uint64_t)(host - svm->vm->mem.map);
    unsigned off = at & ~PAGE_MASK;
    uint64_t map;
    unsigned first = off >> CACHE_GRANULE_SHIFT, last = (off + len - 1) >> CACHE_GRANULE_SHIFT;

    atomic_thread_fence(
        memory_order_seq_cst); /* the write must be seen by a translator whose mark we don't see */
    map = atomic_load(&svm->cache.granules[at >> PAGE_SHIFT]);
    if (!(map & (~0ull >> (63 - last)) & (~0ull << first)))
        return false;
    cache_invalidate(svm, at >> PAGE_SHIFT, off, len);
    return true;
}

/* ---- Dirty log -------------------------------------------------------------------- */

static size_t dirty_words(const struct vm *vm)
{
    return (vm->mem.size / PAGE_SIZE + 63) / 64;
}

/* Pages that can be written without a miss: those of the soft TLBs have been noted, and of the views are now. */
static void dirty_arm(struct soft_vm *svm, uint64_t *bitmap)
{
    for (unsigned i = 0; i < svm->vm->cfg.cpus; i++)
        if (svm->cpus[i])
            tlb_drop_all_writes(svm->cpus[i]);
    for (size_t n = 0; n < svm->vm->mem.size / PAGE_SIZE; n++) {
        if (!atomic_load(&svm->view_writes[n]))
            continue;
        if (bitmap)
            bitmap[n / 64] |= 1ull << n % 64;
        pthread_mutex_lock(&svm->cache.lock);
        for (unsigned i = 0; i < svm->vm->cfg.cpus; i++)
            if (svm->cpus[i])
                view_drop_writes(svm->cpus[i], svm->vm->mem.map + n * PAGE_SIZE);
        pthread_mutex_unlock(&svm->cache.lock);
    }
}

static int soft_dirty_log(struct vm *vm, bool on)
{
    struct soft_vm *svm = vm->engine_data;
    _Atomic uint64_t *now = atomic_load(&svm->dirty);

    if (!on) {
        atomic_store(&svm->dirty, NULL);
        free((void *)now);
        return 0;
    }
    if (!now)
        now = calloc(dirty_words(vm), sizeof(*now));
    if (!now)
        return -ENOMEM;
    memset((void *)now, 0, dirty_words(vm) * sizeof(*now));
    atomic_store(&svm->dirty, now);
    dirty_arm(svm, NULL);
    return 0;
}

static int soft_dirty_take(struct vm *vm, uint64_t *bitmap)
{
    struct soft_vm *svm = vm->engine_data;
    _Atomic uint64_t *dirty = atomic_load(&svm->dirty);

    for (size_t i = 0; i < dirty_words(vm); i++)
        bitmap[i] |= atomic_exchange(&dirty[i], 0);
    dirty_arm(svm, bitmap);
    return 0;
}

static void soft_arm(struct vm *vm)
{
    struct soft_vm *svm = vm->engine_data;

    for (unsigned i = 0; i < vm->cfg.cpus; i++) {
        if (!svm->cpus[i])
            continue;
        tlb_drop_all_writes(svm->cpus[i]);
        view_drop_all_writes(svm->cpus[i]);
    }
}

static void soft_print_stats(struct vm *vm, FILE *out)
{
    static const struct {
        const char *name, *text;
        size_t off;
    } rows[] = {
#define X(name, text) {#name, text, offsetof(struct soft_counters, name)},
        SOFT_COUNTERS(X)
#undef X
    };
    static const char *const declines[] = {"none",
#define X(name, text) text,
                                           DECLINES(X)
#undef X
    };
    struct soft_vm *svm = vm->engine_data;

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t sum = 0;

        for (unsigned k = 0; k < vm->cfg.cpus; k++)
            if (svm->cpus[k])
                sum += *(uint64_t *)((char *)&svm->cpus[k]->counters + rows[i].off);
        fprintf(out, "%16" PRIu64 "  %s\n", sum, rows[i].text);
    }
    for (unsigned i = 1; i < DECLINE_COUNT; i++)
        fprintf(out, "%16" PRIu64 "  instructions declined: %s\n", svm->declines[i], declines[i]);
}

static int soft_perf_map(struct vm *vm, struct err *err)
{
    struct soft_vm *svm = vm->engine_data;

    return perfmap_write(&svm->cache, &vm->mem, err);
}

const struct engine_ops engine_soft = {
    .name = "soft",
    .probe = soft_probe,
    .vm_init = soft_vm_init,
    .vm_fini = soft_vm_fini,
    .vcpu_init = soft_vcpu_init,
    .vcpu_fini = soft_vcpu_fini,
    .run = soft_run,
    .kick = soft_engine_kick,
    .get = soft_get,
    .set = soft_set,
    .mem_written = soft_mem_written,
    .dirty_log = soft_dirty_log,
    .dirty_take = soft_dirty_take,
    .arm = soft_arm,
    .print_stats = soft_print_stats,
    .perf_map = soft_perf_map,
};
