/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The TLB and its kin: choosing, dropping, filling, asking. Invariants in tlb.h. */
#include "engine/soft/tlb.h"

#include "engine/soft/jump_cache.h"
#include "engine/soft/place.h"
#include "engine/soft/run.h"
#include "engine/soft/walk.h"

#include <string.h>

enum { ASID_NONE = 0xfff }; /* never handed out */

/* ---- The page tables that walks came to last ---- */

static struct table_entry *last_table_slot(const struct soft_vcpu *v, uint64_t va)
{
    return &v->run->tables[va >> TABLE_SHIFT & (TABLES - 1)];
}
static uint64_t last_table_tag(const struct soft_vcpu *v, uint64_t va)
{
    return va >> TABLE_SHIFT << TABLE_SHIFT | v->asid;
}

static void last_tables_clear(struct soft_vcpu *v)
{
    for (unsigned n = 0; n < TABLES; n++)
        v->run->tables[n].tag = ASID_NONE;
}

static void last_table_keep(struct soft_vcpu *v, uint64_t va, const struct walk *w)
{
    struct place p;
    place_find(v, w->table, &p);
    if (p.hva && p.whole_page)
        *last_table_slot(v, va) =
            (struct table_entry){ last_table_tag(v, va), (const uint64_t *)p.hva, w->table_rights };
}

/* By the page table that a walk found here before; false: a walk from CR3 has to tell. Inline, as
 * most misses of the TLB end here. */
static inline __attribute__((always_inline)) bool walk_last_table(struct soft_vcpu *v, uint64_t va,
                                                                  enum access_kind access,
                                                                  struct walk *w)
{
    const struct table_entry *t = last_table_slot(v, va);
    if (t->tag != last_table_tag(v, va))
        return false;
    uint64_t e = __atomic_load_n(t->hva + (va >> PAGE_SHIFT & 511), __ATOMIC_RELAXED);
    uint64_t set = PTE_P | PTE_A | (access == ACCESS_WRITE ? PTE_D : 0);
    uint64_t rights = t->rights & e;
    if ((e & set) != set || e & entry_reserved(v) ||
        !walk_allows(v, access, v->tlb_mode, rights, (t->rights | e) & PTE_NX))
        return false;
    walk_found(v, va, v->tlb_mode, e, e & v->run->phys_mask, PAGE_SIZE, rights, w);
    return true;
}

static __attribute__((noinline)) int walk_and_keep(struct soft_vcpu *v, uint64_t va,
                                                   enum access_kind access, struct walk *w)
{
    int r = walk(v, va, access, w);
    if (!r && w->by_table)
        last_table_keep(v, va, w);
    return r;
}

static inline int page_find(struct soft_vcpu *v, uint64_t va, enum access_kind access,
                            struct walk *w)
{
    return walk_last_table(v, va, access, w) ? 0 : walk_and_keep(v, va, access, w);
}

/* ---- Which table is looked into ---- */

static void table_clear(struct tlb_entry *e)
{
    for (unsigned n = 0; n < TLB_SIZE; n++)
        e[n].read = e[n].write = tlb_none(n);
}

static struct tlb_entry empty[TLB_SIZE];
static pthread_once_t empty_once = PTHREAD_ONCE_INIT;
static void empty_clear(void) { table_clear(empty); }

/* What the TLB said may be true no longer, or user code is to see another table. */
static void last_pages_clear(struct soft_vcpu *v) { memset(v->last.room, 0, sizeof v->last.room); }

/* For the CPU's own accesses: table_select is to follow before guest code runs again. */
static void table_borrow(struct soft_vcpu *v, unsigned mode)
{
    v->tlb_mode = (uint8_t)mode;
    v->tlb = v->run->tlbs[v->run->context][mode];
}

static void table_select(struct soft_vcpu *v, unsigned mode)
{
    table_borrow(v, mode);
    if (mode != TLB_USER && v->cpl) /* they run the same code as CPL 3 */
        last_pages_clear(v);
    if (alignment_is_checked(v)) {
        last_pages_clear(v);
        pthread_once(&empty_once, empty_clear);
        v->tlb = empty;
    }
}

static void mode_tables_set(struct soft_vcpu *v)
{
    for (unsigned ac = 0; ac < 2; ac++) {
        v->ac[ac].mode = v->cr4 & CR4_SMAP && !ac ? TLB_KERNEL : TLB_KERNEL_AC;
        v->ac[ac].tlb = v->run->tlbs[v->run->context][v->ac[ac].mode];
    }
    if (v->user_tlb != v->run->tlbs[v->run->context][TLB_USER])
        last_pages_clear(v);
    v->user_tlb = v->run->tlbs[v->run->context][TLB_USER];
}

static void context_use(struct soft_vcpu *v, unsigned context)
{
    v->run->context = context;
    v->asid = v->run->contexts[context].asid;
    mode_tables_set(v);
    table_select(v, v->tlb_mode);
}

void tlb_mode_changed(struct soft_vcpu *v)
{
    v->align_check = v->cpl == 3 && v->cr0 & CR0_AM && v->flags & FL_AC;
    mode_tables_set(v);
    table_select(v, v->cpl == 3 ? TLB_USER : v->ac[(v->flags & FL_AC) != 0].mode);
}

unsigned tlb_system_begin(struct soft_vcpu *v)
{
    unsigned mode = v->tlb_mode;
    table_borrow(v, v->ac[0].mode);
    return mode;
}

void tlb_system_end(struct soft_vcpu *v, unsigned mode) { table_select(v, mode); }

/* ---- Large pages: their entries say so, that INVLPG may drop all of one ---- */

/* In tlb_entry.page_flags, which is an address of user space. */
#define TLB_2M (1ull << 63)
#define TLB_1G (1ull << 62)

static _Atomic uint8_t *entry_flags(const struct tlb_entry *e)
{
    return (_Atomic uint8_t *)(uintptr_t)(e->page_flags & ~(TLB_2M | TLB_1G));
}

static bool large_seen(const struct soft_vcpu *v, uint64_t va)
{
    uint64_t m2 = va >> 21, g1 = va >> 30;
    return v->run->large.m2[m2 / 64 % 64] >> m2 % 64 & 1 ||
           v->run->large.g1[g1 / 64 % 16] >> g1 % 64 & 1;
}

static void large_note(struct soft_vcpu *v, uint64_t va, uint64_t page_size)
{
    uint64_t m2 = va >> 21, g1 = va >> 30;
    if (page_size >= 1ull << 30) {
        v->run->large.g1[g1 / 64 % 16] |= 1ull << g1 % 64;
        return;
    }
    v->run->large.m2[m2 / 64 % 64] |= 1ull << m2 % 64;
    m2 ^= page_size == 4ull << 20; /* 32-bit paging: the other half of the 4 MiB page */
    v->run->large.m2[m2 / 64 % 64] |= 1ull << m2 % 64;
}

/* ---- Dropping ---- */

/* Runs what follows for each table that may hold entries. */
#define EACH_TABLE(v, table)                            \
    for (unsigned c_ = 0; c_ < TLB_CONTEXTS; c_++)      \
        if ((v)->run->contexts[c_].cr3 != ~0ull)        \
            for (unsigned m_ = 0; m_ < TLB_MODES; m_++) \
                for (struct tlb_entry *table = (v)->run->tlbs[c_][m_]; table; table = NULL)

void tlb_flush(struct soft_vcpu *v)
{
    struct vcpu_run *run = v->run;
    for (unsigned n = 0; n < ITLB_SIZE; n++)
        run->itlb[n].tag = ASID_NONE;
    last_tables_clear(v);
    for (unsigned n = 0; n < TLB_CONTEXTS; n++)
        run->contexts[n].cr3 = ~0ull;
    memset(run->window, 0, sizeof run->window);
    memset(&run->large, 0, sizeof run->large);
    run->contexts[0].cr3 = v->cr3;
    run->contexts[0].asid = 0;
    run->next_asid = 1;
    run->context_hand = 1;
    for (unsigned m = 0; m < TLB_MODES; m++)
        table_clear(run->tlbs[0][m]);
    context_use(v, 0);
    last_pages_clear(v);
    jump_cache_clear(v);
}

/* CR3 was written. With PCID and the no-flush bit a context seen lately keeps its entries. */
void tlb_switch(struct soft_vcpu *v, bool keep)
{
    struct vcpu_run *run = v->run;
    uint64_t pcid = v->cr4 & CR4_PCIDE ? v->cr3 & 0xfff : 0;
    if (run->next_asid == ASID_NONE) {
        tlb_flush(v);
        return;
    }
    for (unsigned n = 0; n < TLB_CONTEXTS; n++) {
        uint64_t known = run->contexts[n].cr3;
        if (known == ~0ull)
            continue;
        if (keep && known == v->cr3) {
            context_use(v, n);
            return;
        }
        /* The same PCID now names another address space, or is to be flushed. */
        if (!(v->cr4 & CR4_PCIDE) || (known & 0xfff) == pcid)
            run->contexts[n].cr3 = ~0ull;
    }
    unsigned n = run->context_hand++ % TLB_CONTEXTS;
    run->contexts[n].cr3 = v->cr3;
    run->contexts[n].asid = run->next_asid++;
    for (unsigned m = 0; m < TLB_MODES; m++)
        table_clear(run->tlbs[n][m]);
    context_use(v, n);
    last_pages_clear(v);
}

static void large_drop(struct soft_vcpu *v, uint64_t va)
{
    EACH_TABLE(v, table)
    {
        for (unsigned n = 0; n < TLB_SIZE; n++) {
            struct tlb_entry *e = &table[n];
            uint64_t span = e->page_flags & TLB_1G ? 1ull << 30 : 4ull << 20;
            if (e->page_flags & (TLB_2M | TLB_1G) && (e->read ^ va) < span)
                e->read = e->write = tlb_none(n);
        }
    }
    for (unsigned n = 0; n < ITLB_SIZE; n++)
        v->run->itlb[n].tag = ASID_NONE;
    jump_cache_clear(v);
}

/* In every context: global pages are in all of them, and more than asked for is allowed. */
void tlb_flush_page(struct soft_vcpu *v, uint64_t va)
{
    unsigned slot = va >> PAGE_SHIFT & (TLB_SIZE - 1);
    EACH_TABLE(v, table)
    table[slot].read = table[slot].write = tlb_none(slot);
    last_pages_clear(v);
    last_tables_clear(v); /* of every address: SDM vol. 3A 4.10.4.1 */
    v->run->itlb[va >> PAGE_SHIFT & (ITLB_SIZE - 1)].tag = ASID_NONE;
    jump_cache_clear_page(v, va);
    jump_cache_clear_page(v, va - PAGE_SIZE); /* blocks that reach into this page */
    if (large_seen(v, va))
        large_drop(v, va);
}

void tlb_drop_writes(struct soft_vcpu *v)
{
    last_pages_clear(v);
    EACH_TABLE(v, table)
    for (unsigned n = 0; n < TLB_SIZE; n++)
        table[n].write = tlb_none(n);
}

void tlb_drop_writes_of(struct soft_vcpu *v, const _Atomic uint8_t *page_flags)
{
    last_pages_clear(v);
    EACH_TABLE(v, table)
    for (unsigned n = 0; n < TLB_SIZE; n++)
        if (entry_flags(&table[n]) == page_flags)
            table[n].write = tlb_none(n);
}

/* ---- Filling ---- */

/* For a page that may have an entry. */
static inline void tlb_set(struct soft_vcpu *v, uint64_t va, const struct walk *w,
                           const struct place *p, bool write)
{
    struct tlb_entry *e = tlb_slot(v, va);
    uint64_t va_page = va & ~(PAGE_SIZE - 1);
    if (e->read != va_page)
        e->write = tlb_none(va_page >> PAGE_SHIFT & (TLB_SIZE - 1));
    e->read = va_page;
    e->host = (uint64_t)(uintptr_t)(p->hva - (va & (PAGE_SIZE - 1)));
    e->page_flags = (uint64_t)(uintptr_t)&p->ram->page_flags[p->offset >> PAGE_SHIFT];
    if (w->page_size > PAGE_SIZE) {
        e->page_flags |= w->page_size == 1ull << 30 ? TLB_1G : TLB_2M;
        large_note(v, va, w->page_size);
    }
    if (!w->writable || !p->writable_ram || !(write || w->dirty))
        return;
    if (!write && place_is_clean(p))
        return; /* the first store has to come here */
    place_mark_dirty(p);
    if (!place_has_code(p))
        e->write = va_page;
    else
        e->write = tlb_code_tag(va_page >> PAGE_SHIFT & (TLB_SIZE - 1),
                                code_page_find(&soft_engine_of(v)->code.pages, p->ram, p->offset));
}

/* Not while each access has to be looked at: watchpoints, alignment checks. */
static bool tlb_is_filled(const struct soft_vcpu *v)
{
    return likely(!v->run->watch) && !alignment_is_checked(v);
}

void tlb_refill(struct soft_vcpu *v, uint64_t va, enum access_kind access)
{
    struct walk w;
    struct place p;
    if (tlb_slot(v, va)->read == (va & ~(PAGE_SIZE - 1)) || !tlb_is_filled(v) ||
        !walk_last_table(v, va, access, &w))
        return;
    if (place_find_quick(v, w.gpa, &p))
        tlb_set(v, va, &w, &p, access == ACCESS_WRITE);
}

int tlb_translate(struct soft_vcpu *v, uint64_t va, enum access_kind access, struct place *p)
{
    struct walk w;
    int r = page_find(v, va, access, &w);
    if (r)
        return r;
    place_find(v, w.gpa, p);
    if (p->hva && p->whole_page && tlb_is_filled(v))
        tlb_set(v, va, &w, p, access == ACCESS_WRITE);
    return 0;
}

bool tlb_can_open(struct soft_vcpu *v, uint64_t va, unsigned size, bool write)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    struct place p;
    struct walk w;
    if ((va & (PAGE_SIZE - 1)) + size > PAGE_SIZE)
        return false;
    if (!tlb_hit(e, e->read, va, size)) { /* a look ahead: what it finds has not happened */
        /* A store that faults does not make its page an accessed one. */
        if (write && !walk_quiet(v, va, ACCESS_WRITE, v->tlb_mode, &w))
            return false;
        struct exception exc = v->exc;
        uint64_t cr2 = v->cr2;
        if (tlb_translate(v, va, ACCESS_READ, &p)) {
            v->exc = exc;
            v->cr2 = cr2;
            return false;
        }
    }
    return tlb_hit(e, write ? e->write : e->read, va, size);
}

/* ---- Code ---- */

int tlb_fetch(struct soft_vcpu *v, uint64_t va, struct ram **ram, uint64_t *offset, bool *global)
{
    va = linear(v, va);
    struct itlb_entry *t = &v->run->itlb[va >> PAGE_SHIFT & (ITLB_SIZE - 1)];
    /* User and kernel differ in what they may fetch; bit 63 is what bit 62 is. */
    const uint64_t user = 1ull << 63, page = va & ~(PAGE_SIZE - 1) & ~user;
    const uint64_t key = page | v->asid | (v->cpl == 3 ? user : 0);
    if (t->tag == key) {
        *ram = t->ram;
        *offset = t->offset + (va & (PAGE_SIZE - 1));
        *global = t->global;
        return 0;
    }
    struct walk w;
    int r = page_find(v, va, ACCESS_FETCH, &w);
    if (r)
        return r;
    struct place p;
    place_find(v, w.gpa, &p);
    *ram = p.hva ? p.ram : NULL;
    *offset = p.hva ? p.offset : 0;
    *global = w.global;
    if (!p.hva || !p.writable_ram || !p.whole_page)
        return 0;
    *t = (struct itlb_entry){ key, p.ram, p.offset & ~(PAGE_SIZE - 1), w.global };
    if (w.page_size > PAGE_SIZE)
        large_note(v, va, w.page_size);
    return 0;
}
