/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The translation cache: one piece of memory mapped twice (writable and executable,
 * never both), shared by the VM's vCPUs. Blocks are keyed by guest-physical place,
 * so a change of address space keeps them. A block that dies stays in memory,
 * its entries patched to leave at once, until the whole cache is flushed.
 */
#ifndef LODGE_SOFT_CACHE_H
#define LODGE_SOFT_CACHE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/types.h"

struct soft_vm;
struct soft_cpu;
struct insn;

#ifndef CACHE_SIZE /* tests make it small, to see it flushed */
#define CACHE_SIZE MIB(160)
#endif
/*
 * What is rarely run (stubs, instructions for the interpreter) is kept apart, so that hot code lies close together. It
 * is a sixth of all, so a fifth is set apart for it.
 */
#define CACHE_COLD          (CACHE_SIZE / 5 * 4)
#define CACHE_HASH_BITS     18
#define CACHE_LINKS         (CACHE_SIZE / 640) /* beyond, the jump cache is looked in */
#define CACHE_GRANULE_SHIFT 6 /* writes to a code page are told apart at 64 bytes */

/*
 * Where in a block's host code a guest instruction begins: for faults taken by the host, and for leaving there. The
 * guest's flags are in EFLAGS or in lazy_flags.
 */
struct recover {
    uint32_t host_off;
    uint16_t guest_off : 12;   /* from the start of the page */
    uint16_t flags_host : 1;   /* in EFLAGS where the instruction can fault */
    uint16_t flags_begins : 1; /* in EFLAGS where it begins */
    uint16_t live;             /* the arithmetic flags that are right there; others may be stale */
};

/*
 * How a block reaches guest memory. The same guest code may be there in each form. Blocks are for every address space
 * and know only where in its page the code is, but for two sorts of the third kind, which know their guest address. Some
 * have an owner: they belong to one view. Others are placed: they are for all views that have their page at the same
 * address, as processes have that run a program which is not position independent.
 */
enum block_kind {
    BLOCK_SOFT,    /* by soft TLB checks, several accesses sharing one where they can */
    BLOCK_CAREFUL, /* the same, every access checked by itself */
    BLOCK_DIRECT,  /* user code through a view (view.h) */
};

/* A kind, and above it nothing, the owner, or, if it is placed, the page's number. */
typedef uint32_t block_key;
#define BLOCK_PLACED         4u
#define BLOCK_PLACES         (1ull << 32) /* guest addresses below may be in a key */
#define BLOCK_KIND(key)      ((enum block_kind)((key)&3))
#define BLOCK_OWNER(key)     ((key)&BLOCK_PLACED ? 0 : (key) >> 3)
#define BLOCK_KNOWS_VA(key)  ((key) >> 2 != 0)
#define BLOCK_OF_VIEW(owner) ((block_key)(owner) << 3 | BLOCK_DIRECT)
#define BLOCK_AT(va)         ((block_key)((va) >> PAGE_SHIFT) << 3 | BLOCK_PLACED | BLOCK_DIRECT)

struct block {
    struct block *_Atomic hash_next;
    struct block *page_next;
    uint64_t phys;             /* offset of the first byte in the guest's memfd */
    const uint8_t *entry_mem;  /* executable address; guest flags in lazy_flags */
    const uint8_t *entry_host; /* guest flags in EFLAGS */
    const uint8_t *code;
    const struct recover *recover;
    uint64_t peeked;                     /* 64-byte pieces looked at beyond its end, for flags */
    const uint8_t *stub_mem, *stub_host; /* what its entries are redirected to when it dies */
    const uint8_t *cold_end;             /* of its part of the cold code */
    uint32_t code_len;                   /* without its part of the cold code */
    uint16_t len;                        /* guest bytes, all in one page */
    uint16_t ninsn;
    uint16_t live_in; /* flags set before it that it, or what follows, may read */
    uint8_t valid;
    uint8_t before; /* blocks that one behind the other lead to it: cache_replace */
    block_key key;
    struct block *tail; /* stands for the bytes of the last instruction that are in the next page */
    struct block *of;   /* in such a one: the block proper */
    gva_t va;           /* BLOCK_KNOWS_VA: the guest address of its page */
};

/*
 * How a block is left at one place. Its stub only says which of these it is, which keeps stubs short; they outnumber
 * what is ever run of them. Written before anything leads to it, but who comes by a link that another CPU made has seen
 * no lock: hence atomic.
 */
struct exit_record {
    union {
        _Atomic uint64_t page_va; /* for soft_cpu.page_va; EXIT_SAME_PAGE: what is there already */
        const uint8_t *_Atomic twin; /* CAREFUL: where to go on in the careful twin, or NULL */
    };
    _Atomic uint32_t
        at; /* offset in the cache. CHAIN: what to link. KILLED: the block. A soft TLB miss: where to try again.
               LINK: number of the link */
    _Atomic uint32_t arg; /* for soft_cpu.exit_arg */
};
#define EXIT_SAME_PAGE (~0ull)
#define EXIT_NONE      (~0u) /* the number of none */

/* Bits of soft_cpu.exit_arg: guest page offset and why translated code was left. */
#define EXIT_OFFSET     0xfffu
#define EXIT_KIND_SHIFT 12
enum exit_kind {
    EXIT_INTERP, /* interpret the instruction at the offset, then go on */
    EXIT_NEXT,   /* go on at the offset (poll hit, block invalidated) */
    EXIT_CHAIN,  /* go on at the offset, and link exit_site to what is found there */
    EXIT_LINK, /* the same with a link of the view's: exit_site is its number, as an offset in the cache */
    EXIT_RIP,     /* go on at st.rip (jump cache miss) */
    EXIT_MISS,    /* the same; soft_cpu.exit_record has the branch, should it fault */
    EXIT_CAREFUL, /* go on at the offset in the careful twin of the block there */
    EXIT_FPU,     /* the instruction at the offset needs vector state */
    EXIT_THUNK,   /* a thunk finished */
    EXIT_DONE,    /* the interpreter ran inside the block and st is complete */
    EXIT_FAULT,   /* a thunk took a host signal (soft_cpu.fault_signal) */
    EXIT_KILLED,  /* go on at the offset: exit_site is the code of a block that has been killed */
    EXIT_RECORD,  /* as cache.exits[soft_cpu.exit_record] says */
};
#define EXIT_SITE_MEM  (1u << 20) /* with CHAIN and LINK: the site leaves flags in lazy_flags; */
#define EXIT_SITE_DEAD (1u << 22) /* they are not needed where it leads */
#define EXIT_BRANCH    (1u << 21) /* with RIP: the offset is that of the branch */

/* In exit_record.arg, what is to be done there: leave with the flags in EFLAGS or in lazy_flags, or see first. */
#define EXIT_WAY_SHIFT 24
enum exit_way {
    WAY_HOST,
    WAY_MEM,
    WAY_READ, /* soft TLB misses: r11 is the address with the tag XORed in, r10 the entry, but for its */
    WAY_WRITE, /* lowest four bits, less the table's offset. Flags are in lazy_flags or dead */
};

static inline enum exit_kind exit_kind_of(uint32_t arg)
{
    return (enum exit_kind)(arg >> EXIT_KIND_SHIFT & 0xff);
}

#define STUBS_TOGETHER                                                                             \
    16 /* four bits of r10: at a miss the others are the soft TLB entry's address */

/* Common code, generated once at the start of the cache. */
struct glue {
    void (*enter)(struct soft_cpu *c, const uint8_t *code);
    const uint8_t *exit_mem, *exit_host; /* jump here with exit_arg set */
    /* The same as a record says: the one that is soft_cpu.exit_record and the lowest four bits of r10 on. */
    const uint8_t *stub;
    /*
     * r11 is a target that the jump cache's first table does not have, or that the latest call does not return to: look on.
     * Flags are in lazy_flags or dead. exit_record says how to leave.
     */
    const uint8_t *probe, *ret;
    /* Code of the empty entries of soft_cpu.returns, whose address is 0. */
    const uint8_t *ret_none;
    /* One instruction. r11: struct insn or NULL, r10: where to go on, exit_arg: offset. Flags in lazy_flags. */
    const uint8_t *interp;
};

/* A jump from a placed block to another page. What is known of it besides the stub is what it was to somebody. */
struct link {
    const uint8_t *stub;
    const uint8_t *code;    /* where it led, or NULL */
    uint32_t va_page, page; /* page numbers of that: guest-virtual, in guest memory */
    uint32_t next;          /* number of another one that leads to such a page, or LINK_NONE */
};
#define LINK_NONE      (~0u)
#define LINK_HASH_BITS 14

struct thunk {
    uint64_t lo, hi; /* the instruction's bytes, its mode on top */
    const uint8_t *code;
};
#define CACHE_NTHUNKS 1024

struct cache {
    int fd; /* of both mappings; -1 with vm_config.perf_map */
    uint8_t *rw;
    uint8_t *rx;
    size_t used, glue_end;
    size_t cold_used;     /* from CACHE_COLD up */
    pthread_mutex_t lock; /* everything below but hash and granules reads */
    struct block *_Atomic *hash;
    _Atomic uint64_t *granules; /* per guest page: 64-byte pieces that were translated */
    struct block **page_blocks; /* per guest page */
    struct block *blocks;       /* in order of code address */
    _Atomic size_t
        nblocks; /* grows when the last is complete: cache_block_at looks without the lock */
    size_t max_blocks;
    struct recover *recover;
    size_t nrecover, max_recover;
    struct exit_record *exits;
    size_t nexits, max_exits;
    struct link *links; /* of placed blocks: view_link.c */
    uint32_t nlinks;
    uint32_t
        link_heads[1 << LINK_HASH_BITS]; /* numbers of the first ones by the page they lead to */
    _Atomic uint32_t kills;              /* blocks invalidated so far */
    _Atomic uint32_t gen;                /* flushes so far */
    _Atomic uint32_t flushing;           /* vCPUs must stay out of translated code */
    uint64_t npages;
    struct glue glue;
    struct thunk *thunks;
    void (*made)(void *arg, struct block *b); /* tests: told of each new block, under the lock */
    void *made_arg;
};

int cache_init(struct soft_vm *svm, struct err *err);
void cache_fini(struct soft_vm *svm);

/* The 64-byte pieces of a page that [off, off + len) is in. */
static inline uint64_t cache_granules(unsigned off, unsigned len)
{
    unsigned first = off >> CACHE_GRANULE_SHIFT, last = (off + len - 1) >> CACHE_GRANULE_SHIFT;

    return (~0ull >> (63 - last)) & (~0ull << first);
}

/* With the key, since processes that run the same program have blocks of their own for the same place. */
static inline size_t cache_hash(uint64_t phys, block_key key)
{
    return ((phys ^ (uint64_t)key << 40) * 0x9e3779b97f4a7c15ull) >> (64 - CACHE_HASH_BITS);
}

/*
 * The block that starts at `phys` (memfd offset), or NULL. Lock-free; check cache.gen after entering in_code.
 * Inline: called while vector registers may be the guest's.
 */
static inline struct block *cache_find(struct cache *k, uint64_t phys, block_key key)
{
    struct block *b = atomic_load_explicit(&k->hash[cache_hash(phys, key)], memory_order_acquire);

    while (b && (b->phys != phys || b->key != key))
        b = atomic_load_explicit(&b->hash_next, memory_order_acquire);
    return b;
}

/*
 * Translate the block at the CPU's present RIP, whose page is at `page`, unless another vCPU just did. The FPU is
 * parked. Takes the lock; NULL: interpret.
 */
struct block *cache_make(struct soft_cpu *c, const uint8_t *page, unsigned off, block_key key);

/* Where a branch enters a block that leaves the guest's flags as `site_flags` says: EXIT_SITE_*, or 0. */
static inline const uint8_t *block_entry(const struct block *b, uint32_t site_flags)
{
    if (site_flags & EXIT_SITE_DEAD) /* what is shorter */
        return b->entry_mem > b->entry_host ? b->entry_mem : b->entry_host;
    return site_flags & EXIT_SITE_MEM ? b->entry_mem : b->entry_host;
}

/* Link the branch displacement at `site` (executable address) to `to`, if the cache is still of generation `gen`. */
void cache_chain(struct soft_vm *svm, const uint8_t *site, uint32_t site_flags, struct block *to,
                 uint32_t gen);

/* The same for a careful twin: an exit_record with EXIT_CAREFUL leads there from now on. */
void cache_link_twin(struct soft_vm *svm, uint32_t record, struct block *to, uint32_t gen);

/*
 * The killed block whose code is at `code` has been made anew: from now on its entries lead to `to`. Not any more where
 * that has happened a few times already, since the way through all of them would become longer each time.
 */
void cache_replace(struct soft_vm *svm, const uint8_t *code, struct block *to, uint32_t gen);

/* For the translator, before it reads the first bytes of a further page: they will be part of a block. */
void cache_hold_page(struct soft_cpu *c, const uint8_t *page);

/* Forget the blocks overlapping [off, off+len) of guest page `page`. */
void cache_invalidate(struct soft_vm *svm, uint64_t page, unsigned off, unsigned len);

/* Drop the blocks of the pages in c->recheck: the CPU has no store to them under way any more. */
void cache_recheck(struct soft_cpu *c);

/* Drop everything. The calling vCPU must be outside translated code; waits for the others to leave it. */
void cache_flush_all(struct soft_cpu *c);

/* Block and instruction containing executable address `pc`, or NULL. Async-signal-safe; in_code protects from a flush. */
const struct block *cache_block_at(const struct cache *cache, const uint8_t *pc,
                                   const struct recover **rec);

/* The thunk for a native instruction, made on first use. NULL: cannot be re-encoded, or *full. Takes the lock. */
const uint8_t *cache_thunk(struct soft_cpu *c, const struct insn *in, bool *full);

/* Generate the glue into a fresh cache (glue.c). */
void glue_make(struct soft_vm *svm);

/* Translate a block (translate.c); the lock is held. NULL with *full set when the cache has no room. */
struct block *translate_block(struct soft_cpu *c, const uint8_t *page, unsigned off, block_key key,
                              bool *full);

#endif
