/* SPDX-License-Identifier: GPL-2.0-or-later */
/* build: simd-ok */
/*
 * Links between placed blocks in different pages. What is mapped at the other page is each address space's own matter,
 * so a link leads by way of a table that every view has. An entry begins as the link's stub, which leaves translated
 * code; the run loop looks the page up and then enters the block there. The page is remembered as with a view's own
 * blocks, and all links of the view begin anew when something else is mapped in one of them.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/soft/engine_soft.h"
#include "engine/soft/view_int.h"

#define TABLE_SIZE (CACHE_LINKS * sizeof(struct view_link))

int view_links_init(struct views *vs)
{
    struct view_link *p = mmap(NULL, MAX_VIEWS * TABLE_SIZE, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return -ENOMEM;
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        vs->v[i].links = p + i * CACHE_LINKS;
    return 0;
}

void view_links_fini(struct views *vs)
{
    if (vs->v[0].links)
        munmap(vs->v[0].links, MAX_VIEWS * TABLE_SIZE);
    for (unsigned i = 0; i < MAX_VIEWS; i++)
        vs->v[i].links = NULL;
}

static void set(struct view_link *l, const uint8_t *code)
{
    atomic_store_explicit(&l->code, code, memory_order_relaxed);
}

void view_links_clear(struct cache *k)
{
    k->nlinks = 0;
    memset(k->link_heads, 0xff, sizeof(k->link_heads));
}

void view_link_made(struct soft_vm *svm, uint32_t n, const uint8_t *stub)
{
    svm->cache.links[n] = (struct link){.stub = stub, .next = LINK_NONE};
    for (unsigned i = 0; i < svm->vm->cfg.cpus; i++) {
        struct views *vs = svm->cpus[i] ? svm->cpus[i]->views : NULL;

        for (unsigned k = 0; vs && k < MAX_VIEWS; k++)
            if (atomic_load(&vs->v[k].linked))
                set(&vs->v[k].links[n], stub);
    }
}

void view_links_begin(struct soft_cpu *c, struct view *v)
{
    struct cache *k = &c->svm->cache;

    pthread_mutex_lock(&k->lock);
    for (uint32_t i = 0; i < k->nlinks; i++)
        set(&v->links[i], k->links[i].stub);
    atomic_store(&v->linked, true);
    pthread_mutex_unlock(&k->lock);
    v->links_stale = false;
}

void view_links_end(struct view *v)
{
    atomic_store(&v->linked, false);
    v->links_stale = true;
}

void view_links_give_back(struct view *v)
{
    view_links_end(v);
    if (v->links)
        madvise(v->links, TABLE_SIZE, MADV_DONTNEED);
}

void view_links_lost(struct soft_cpu *c)
{
    struct views *vs = c->views;

    for (unsigned i = 0; i < MAX_VIEWS; i++)
        view_links_end(&vs->v[i]);
    if (vs->now)
        view_links_begin(c, vs->now);
}

static uint32_t *head_of(struct cache *k, uint32_t va_page)
{
    return &k->link_heads[va_page * 0x9e3779b1u >> (32 - LINK_HASH_BITS)];
}

/* What link n leads to here, others who have the same pages there may take over. */
static void note(struct cache *k, uint32_t n, uint32_t va_page, uint32_t page, const uint8_t *code)
{
    uint32_t *head = head_of(k, va_page);
    struct link *l = &k->links[n];

    if (l->code) { /* its page has come to lie elsewhere, or the block has been made anew */
        l->page = page;
        l->code = code;
        return;
    }
    *l = (struct link){l->stub, code, va_page, page, *head};
    *head = n;
}

static void take_over(const struct cache *k, struct view *v, uint32_t first, uint32_t va_page,
                      uint32_t page)
{
    for (uint32_t i = first; i != LINK_NONE; i = k->links[i].next)
        if (k->links[i].va_page == va_page && k->links[i].page == page)
            set(&v->links[i], k->links[i].code);
}

void view_link_enter(struct soft_cpu *c, uint32_t n, const uint8_t *page, const uint8_t *code)
{
    struct cache *k = &c->svm->cache;
    struct view *v = c->views->now;
    uint32_t va_page = (uint32_t)(c->st.rip >> PAGE_SHIFT),
             in_memory = (uint32_t)((size_t)(page - c->svm->vm->mem.map) >> PAGE_SHIFT);
    unsigned had = v ? v->ncodes : 0;

    if (!v || !view_note_code(c, c->st.rip & PAGE_MASK, page))
        return;
    pthread_mutex_lock(&k->lock);
    if (atomic_load(&k->gen) == c->cache_gen) {
        note(k, n, va_page, in_memory, code);
        if (v->ncodes != had)
            take_over(k, v, *head_of(k, va_page), va_page, in_memory);
        set(&v->links[n], code);
    }
    pthread_mutex_unlock(&k->lock);
}
