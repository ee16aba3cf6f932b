/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Linear to physical: page walks in every paging mode, the software TLB behind the inlined fast
 * paths, accesses that need more than a tag compare, and segment-checked addressing. SDM vol. 3A,
 * chapters 4 and 5.
 */
#include "engine/soft/mem.h"

#include "engine/soft/run.h"
#include "engine/soft/sys.h"
#include "machine/machine.h"

#include <string.h>

enum access { ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH };

enum {
    PTE_P = 1,
    PTE_W = 2,
    PTE_U = 4,
    PTE_A = 32,
    PTE_D = 64,
    PTE_PS = 128,
    PTE_G = 256,
};
#define PTE_NX (1ull << 63)

struct walk {
    uint64_t gpa;
    uint64_t page_size;
    bool writable, dirty, global;
};

/* Where a byte of guest memory is: hva for RAM and ROM, NULL for anything behind the bus. */
struct place {
    uint8_t *hva;
    uint64_t gpa;
    struct ram *ram;
    uint64_t offset; /* in ram */
    bool writable_ram;
};

/* ---- Physical memory ---- */

static __attribute__((noinline)) bool ram_look_up(struct soft_vcpu *v, uint64_t gpa,
                                                  struct ram **ram, uint64_t *offset,
                                                  bool *writable)
{
    struct vcpu_run *run = v->run;
    struct section s;
    if (!map_lookup(machine_of(v), SPACE_MEMORY, gpa, &s) || s.kind == REGION_DEVICE)
        return false;
    *ram = s.ram;
    *offset = s.ram_offset + (gpa - s.start);
    *writable = s.kind == REGION_RAM;
    /* Only whole pages may be reached by windows and the TLB. */
    if (s.kind == REGION_RAM && s.size > 64 * PAGE_SIZE && !(s.start & (PAGE_SIZE - 1))) {
        unsigned n = run->window[0].size < run->window[1].size ? 0 : 1;
        uint64_t size = s.size & ~(PAGE_SIZE - 1);
        run->window[n] = (struct ram_window){ s.start, size, s.ram, s.ram_offset };
    }
    return true;
}

static inline const struct ram_window *window_find(const struct soft_vcpu *v, uint64_t gpa)
{
    const struct ram_window *w = v->run->window;
    for (unsigned n = 0; n < RAM_WINDOWS; n++)
        if (gpa - w[n].gpa < w[n].size)
            return &w[n];
    return NULL;
}

static inline bool ram_find(struct soft_vcpu *v, uint64_t gpa, struct ram **ram, uint64_t *offset,
                            bool *writable)
{
    const struct ram_window *w = window_find(v, gpa);
    if (!w)
        return ram_look_up(v, gpa, ram, offset, writable);
    *ram = w->ram;
    *offset = w->offset + (gpa - w->gpa);
    *writable = true;
    return true;
}

static inline void place_find(struct soft_vcpu *v, uint64_t gpa, struct place *p)
{
    p->gpa = gpa;
    p->hva = NULL;
    if (ram_find(v, gpa, &p->ram, &p->offset, &p->writable_ram))
        p->hva = p->ram->hva + p->offset;
}

/* Does the RAM or ROM that the place is in have all of its page, in one piece? */
static bool page_is_whole(struct soft_vcpu *v, const struct place *p)
{
    struct ram *ram;
    uint64_t page = p->gpa & ~(PAGE_SIZE - 1), first, last;
    bool writable;
    if (window_find(v, p->gpa))
        return true;
    return ram_find(v, page, &ram, &first, &writable) && ram == p->ram &&
           first + (p->gpa - page) == p->offset &&
           ram_find(v, page + PAGE_SIZE - 1, &ram, &last, &writable) && ram == p->ram &&
           last - first == PAGE_SIZE - 1;
}

/* ---- Page walks ---- */

static uint64_t entry_read(struct soft_vcpu *v, uint64_t gpa, unsigned size)
{
    struct ram *ram;
    uint64_t offset;
    bool writable;
    if (!ram_find(v, gpa, &ram, &offset, &writable))
        return bus_read(machine_of(v), SPACE_MEMORY, gpa, size);
    const uint8_t *hva = ram->hva + offset;
    return size == 8 ? __atomic_load_n((const uint64_t *)hva, __ATOMIC_RELAXED)
                     : __atomic_load_n((const uint32_t *)hva, __ATOMIC_RELAXED);
}

/* Sets bits in a paging-structure entry, atomically; false if it changed under us (walk again). */
static bool entry_set(struct soft_vcpu *v, uint64_t gpa, unsigned size, uint64_t old, uint64_t bits)
{
    struct place p;
    if ((old & bits) == bits)
        return true;
    place_find(v, gpa, &p);
    if (!p.hva || !p.writable_ram)
        return true;
    bool done;
    if (size == 8) {
        uint64_t expected = old;
        done = __atomic_compare_exchange_n((uint64_t *)p.hva, &expected, old | bits, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else {
        uint32_t expected = (uint32_t)old;
        done = __atomic_compare_exchange_n((uint32_t *)p.hva, &expected, (uint32_t)(old | bits),
                                           false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (done)
        ram_written(machine_of(v), p.ram, p.offset, size);
    return done;
}

/* Bits that have to be clear in entries of eight bytes. */
static uint64_t entry_reserved(const struct soft_vcpu *v)
{
    uint64_t allowed = v->run->phys_mask;
    if (v->efer & EFER_NXE)
        allowed |= PTE_NX;
    if (v->long_mode)
        allowed |= 0x7ffull << 52;
    return ~allowed;
}

/* Is `e` the entry of a page, not of a table? Adds to *reserved what has to be clear in it. */
static inline bool entry_is_page(const struct soft_vcpu *v, uint64_t e, unsigned level,
                                 unsigned shift, uint64_t *reserved)
{
    if (level == 1)
        return true;
    if (!(e & PTE_PS))
        return false;
    if (!(v->cr4 & CR4_PAE)) {
        if (!(v->cr4 & CR4_PSE))
            return false;
        *reserved |= 1 << 21;
        return true;
    }
    if (level == 4) {
        *reserved |= PTE_PS;
        return false;
    }
    *reserved |= ((1ull << shift) - 1) & ~0x1fffull; /* bits 13..shift-1 */
    return true;
}

/* May the page be accessed in that mode (TLB_*)? rights: W and U that all entries on the way have;
 * nx: one has NX */
static inline bool walk_allows(const struct soft_vcpu *v, enum access access, unsigned mode,
                               uint64_t rights, bool nx)
{
    bool user = mode == TLB_USER, user_page = rights & PTE_U;
    if (user && !user_page)
        return false;
    if (access == ACCESS_WRITE && !(rights & PTE_W) && (user || v->cr0 & CR0_WP))
        return false;
    if (access == ACCESS_FETCH)
        return !nx && (user || !user_page || !(v->cr4 & CR4_SMEP));
    return user || !user_page || mode != TLB_KERNEL; /* SMAP */
}

/* What the entry `e` of a page at `base` says of an access that is allowed. */
static inline void walk_found(const struct soft_vcpu *v, uint64_t va, unsigned mode, uint64_t e,
                              uint64_t base, uint64_t page_size, uint64_t rights, struct walk *w)
{
    w->page_size = page_size;
    w->gpa = (base & ~(page_size - 1)) | (va & (page_size - 1));
    w->writable = rights & PTE_W || (mode != TLB_USER && !(v->cr0 & CR0_WP));
    w->dirty = e & PTE_D;
    w->global = e & PTE_G && v->cr4 & CR4_PGE;
}

static struct table_entry *table_slot(const struct soft_vcpu *v, uint64_t va)
{
    return &v->run->tables[va >> TABLE_SHIFT & (TABLES - 1)];
}
static uint64_t table_tag(const struct soft_vcpu *v, uint64_t va)
{
    return va >> TABLE_SHIFT << TABLE_SHIFT | v->asid;
}

static void table_keep(struct soft_vcpu *v, uint64_t va, uint64_t gpa, uint64_t rights)
{
    struct place p;
    place_find(v, gpa, &p);
    if (p.hva && page_is_whole(v, &p))
        *table_slot(v, va) =
            (struct table_entry){ table_tag(v, va), (const uint64_t *)p.hva, rights };
}

/* By the page table that a walk found here before; false: a whole walk has to tell. So it is where
 * bits are to be set, and for every fault: none may come of what was true once. */
static inline bool walk_last_table(struct soft_vcpu *v, uint64_t va, enum access access,
                                   struct walk *w)
{
    const struct table_entry *t = table_slot(v, va);
    if (t->tag != table_tag(v, va))
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

enum { WALK_OK, WALK_FAULT, WALK_NONCANONICAL, WALK_RETRY };

/* Where a walk begins: the topmost table and its level. */
static inline int walk_root(const struct soft_vcpu *v, uint64_t va, uint64_t *table,
                            unsigned *level)
{
    const uint64_t phys = v->run->phys_mask & ~(PAGE_SIZE - 1);
    *level = 2;
    if (v->long_mode) {
        *table = v->cr3 & phys;
        *level = 4;
        return is_canonical(va) ? WALK_OK : WALK_NONCANONICAL;
    }
    if (v->cr4 & CR4_PAE) {
        uint64_t e = v->pdptr[va >> 30 & 3];
        *table = e & phys;
        return e & PTE_P ? WALK_OK : WALK_FAULT;
    }
    *table = v->cr3 & 0xfffff000;
    return WALK_OK;
}

/* The entries that a walk came by, from the root to the page's. */
struct trail {
    unsigned depth;
    uint64_t gpa[4], entry[4];
};

/* Sets the accessed bits, and for a store the dirty bit; false: something changed (walk again). */
static inline bool trail_mark(struct soft_vcpu *v, const struct trail *t, unsigned size, bool write)
{
    for (unsigned n = 0; n < t->depth; n++) {
        uint64_t bits = PTE_A | (n == t->depth - 1 && write ? PTE_D : 0);
        if (!entry_set(v, t->gpa[n], size, t->entry[n], bits))
            return false;
    }
    return true;
}

/* One walk with paging on. `set`: update accessed and dirty bits. On WALK_FAULT *error holds P and
 * RSVD. */
static int walk_once(struct soft_vcpu *v, uint64_t va, enum access access, unsigned mode, bool set,
                     struct walk *w, uint32_t *error)
{
    bool pae = v->cr4 & CR4_PAE;
    unsigned size = pae ? 8 : 4;
    uint64_t frame = pae ? v->run->phys_mask & ~(PAGE_SIZE - 1) : 0xfffff000; /* in an entry */
    uint64_t nx_bit = pae && v->efer & EFER_NXE ? PTE_NX : 0;
    uint64_t reserved_always = pae ? entry_reserved(v) : 0;
    uint64_t table, e, above, rights = PTE_W | PTE_U;
    struct trail trail;
    unsigned level, shift;

    *error = 0;
    trail.depth = 0;
    int r = walk_root(v, va, &table, &level);
    if (r != WALK_OK)
        return r;
    for (;; level--) {
        shift = pae ? 12 + 9 * (level - 1) : 12 + 10 * (level - 1);
        uint64_t index = va >> shift & (pae ? 511 : 1023);
        uint64_t gpa = trail.gpa[trail.depth] = table + index * size;
        e = trail.entry[trail.depth++] = entry_read(v, gpa, size);
        if (!(e & PTE_P))
            return WALK_FAULT;
        uint64_t reserved = reserved_always;
        bool leaf = entry_is_page(v, e, level, shift, &reserved);
        if (e & reserved) {
            *error = PF_P | PF_RSVD;
            return WALK_FAULT;
        }
        above = rights;
        rights = (rights & e & (PTE_W | PTE_U)) | ((rights | e) & nx_bit);
        if (leaf)
            break;
        table = e & frame;
    }

    if (!walk_allows(v, access, mode, rights, rights & PTE_NX)) {
        *error = PF_P;
        return WALK_FAULT;
    }

    if (set) {
        if (!trail_mark(v, &trail, size, access == ACCESS_WRITE))
            return WALK_RETRY;
        if (access == ACCESS_WRITE)
            e |= PTE_D;
        if (pae && level == 1)
            table_keep(v, va, table, above);
    }
    uint64_t base = e & frame;
    if (!pae && shift == 22)
        base |= (e >> 13 & 0xff) << 32; /* PSE-36 */
    walk_found(v, va, mode, e, base, 1ull << shift, rights, w);
    return WALK_OK;
}

static int raise_noncanonical(struct soft_vcpu *v)
{
    raise_gp(v, 0);
    v->exc.noncanonical = true;
    return OP_FAULT;
}

static int page_fault(struct soft_vcpu *v, uint64_t va, enum access access, uint32_t error)
{
    if (access == ACCESS_WRITE)
        error |= PF_W;
    if (v->tlb_mode == TLB_USER)
        error |= PF_U;
    if (access == ACCESS_FETCH && (v->efer & EFER_NXE || v->cr4 & CR4_SMEP))
        error |= PF_I;
    v->cr2 = va;
    return raise_error(v, EXC_PF, error);
}

/* Without paging every page is its own. */
static void walk_unpaged(uint64_t va, struct walk *w)
{
    *w = (struct walk){
        .gpa = va & 0xffffffff, .page_size = PAGE_SIZE, .writable = true, .dirty = true
    };
}

static __attribute__((noinline)) int walk_whole(struct soft_vcpu *v, uint64_t va,
                                                enum access access, struct walk *w)
{
    if (!(v->cr0 & CR0_PG)) {
        walk_unpaged(va, w);
        return 0;
    }
    counter_add_one(&v->run->walks);
    for (;;) {
        uint32_t error;
        switch (walk_once(v, va, access, v->tlb_mode, true, w, &error)) {
        case WALK_OK: return 0;
        case WALK_FAULT: return page_fault(v, va, access, error);
        case WALK_NONCANONICAL: return raise_noncanonical(v);
        }
    }
}

/* Would an access be allowed? Changes nothing. */
static bool walk_quiet(struct soft_vcpu *v, uint64_t va, enum access access, unsigned mode,
                       struct walk *w)
{
    uint32_t error;
    if (v->cr0 & CR0_PG)
        return walk_once(v, va, access, mode, false, w, &error) == WALK_OK;
    walk_unpaged(va, w);
    return true;
}

static inline int walk(struct soft_vcpu *v, uint64_t va, enum access access, struct walk *w)
{
    return walk_last_table(v, va, access, w) ? 0 : walk_whole(v, va, access, w);
}

/* ---- The TLB ---- */

enum { ASID_NONE = 0xfff }; /* never handed out */

static void table_clear(struct tlb_entry *e)
{
    for (unsigned n = 0; n < TLB_SIZE; n++)
        e[n].read = e[n].write = tlb_none(n);
}

static struct tlb_entry empty[TLB_SIZE];
static pthread_once_t empty_once = PTHREAD_ONCE_INIT;
static void empty_clear(void) { table_clear(empty); }

/* While alignment is checked every access takes the slow path: nothing is found in the table that
 * is looked into. */
static bool alignment_is_checked(const struct soft_vcpu *v)
{
    return unlikely(v->align_check) && v->tlb_mode == TLB_USER;
}

/* What the TLB said may be true no longer, or user code is to see another table. */
static void last_pages_clear(struct soft_vcpu *v) { memset(v->last.room, 0, sizeof v->last.room); }

static void tables_clear(struct soft_vcpu *v)
{
    for (unsigned n = 0; n < TABLES; n++)
        v->run->tables[n].tag = ASID_NONE;
}

/* For accesses of the CPU itself; before guest code runs again table_select gives back its own. */
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

/* Calls `fn` for each table that may hold entries. */
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
    tables_clear(v);
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

/* Entries of a large page carry its size, so that INVLPG drops all of it. */
#define TLB_2M (1ull << 63)
#define TLB_1G (1ull << 62)
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
#define TLB_FLAGS_PTR(e) ((_Atomic uint8_t *)(uintptr_t)((e)->page_flags & ~(TLB_2M | TLB_1G)))

static void drop_large(struct soft_vcpu *v, uint64_t va)
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
    tables_clear(v); /* of every address: SDM vol. 3A 4.10.4.1 */
    v->run->itlb[va >> PAGE_SHIFT & (ITLB_SIZE - 1)].tag = ASID_NONE;
    jump_cache_clear_page(v, va);
    jump_cache_clear_page(v, va - PAGE_SIZE); /* blocks that reach into this page */
    if (large_seen(v, va))
        drop_large(v, va);
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
        if (TLB_FLAGS_PTR(&table[n]) == page_flags)
            table[n].write = tlb_none(n);
}

void tlb_mode_changed(struct soft_vcpu *v)
{
    v->align_check = v->cpl == 3 && v->cr0 & CR0_AM && v->flags & FL_AC;
    mode_tables_set(v);
    table_select(v, v->cpl == 3 ? TLB_USER : v->ac[(v->flags & FL_AC) != 0].mode);
}

/* For a page that may have an entry. */
static inline void tlb_set(struct soft_vcpu *v, uint64_t va, const struct walk *w,
                           const struct place *p, bool write)
{
    struct tlb_entry *e = tlb_slot(v, va);
    uint64_t va_page = va & ~(PAGE_SIZE - 1);
    _Atomic uint8_t *flags = &p->ram->page_flags[p->offset >> PAGE_SHIFT];
    if (e->read != va_page)
        e->write = tlb_none(va_page >> PAGE_SHIFT & (TLB_SIZE - 1));
    e->read = va_page;
    e->host = (uint64_t)(uintptr_t)(p->hva - (va & (PAGE_SIZE - 1)));
    e->page_flags = (uint64_t)(uintptr_t)flags;
    if (w->page_size > PAGE_SIZE) {
        e->page_flags |= w->page_size == 1ull << 30 ? TLB_1G : TLB_2M;
        large_note(v, va, w->page_size);
    }
    if (!w->writable || !p->writable_ram || !(write || w->dirty))
        return;
    if (atomic_load(&p->ram->dirty_log)) {
        if (!write && !(atomic_load(flags) & RAM_PAGE_DIRTY))
            return;
        if (!(atomic_load(flags) & RAM_PAGE_DIRTY))
            atomic_fetch_or(flags, RAM_PAGE_DIRTY);
    }
    if (!(atomic_load(flags) & RAM_PAGE_CODE))
        e->write = va_page;
    else
        e->write = tlb_code_tag(va_page >> PAGE_SHIFT & (TLB_SIZE - 1),
                                code_page_find(soft_engine_of(v), p->ram, p->offset));
}

/* Not while each access has to be looked at: watchpoints, alignment checks. */
static bool tlb_is_filled(const struct soft_vcpu *v)
{
    return likely(!v->run->watch) && !alignment_is_checked(v);
}

/* Tries to make an entry of what is at hand, as most misses only want back one that gave way. */
static inline void tlb_refill(struct soft_vcpu *v, uint64_t va, enum access access)
{
    struct walk w;
    if (tlb_slot(v, va)->read == (va & ~(PAGE_SIZE - 1)) || !tlb_is_filled(v) ||
        !walk_last_table(v, va, access, &w))
        return;
    const struct ram_window *r = window_find(v, w.gpa);
    if (!r)
        return;
    uint64_t offset = r->offset + (w.gpa - r->gpa);
    const struct place p = { r->ram->hva + offset, w.gpa, r->ram, offset, true };
    tlb_set(v, va, &w, &p, access == ACCESS_WRITE);
}

static int translate(struct soft_vcpu *v, uint64_t va, enum access access, struct place *p)
{
    struct walk w;
    int r = walk(v, va, access, &w);
    if (r)
        return r;
    place_find(v, w.gpa, p);
    if (access != ACCESS_FETCH && p->hva && tlb_is_filled(v) && page_is_whole(v, p))
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
        if (translate(v, va, ACCESS_READ, &p)) {
            v->exc = exc;
            v->cr2 = cr2;
            return false;
        }
    }
    return tlb_hit(e, write ? e->write : e->read, va, size);
}

/* Outside long mode linear addresses have 32 bits. */
static uint64_t linear(const struct soft_vcpu *v, uint64_t va)
{
    return v->long_mode ? va : va & 0xffffffff;
}

int mem_translate_quiet(struct soft_vcpu *v, uint64_t va, uint64_t *gpa)
{
    struct walk w;
    if (!walk_quiet(v, va, ACCESS_READ, TLB_KERNEL_AC, &w))
        return -EFAULT;
    *gpa = w.gpa;
    return 0;
}

int mem_fetch_translate(struct soft_vcpu *v, uint64_t va, struct ram **ram, uint64_t *offset,
                        bool *global)
{
    struct vcpu_run *run = v->run;
    va = linear(v, va);
    struct itlb_entry *t = &run->itlb[va >> PAGE_SHIFT & (ITLB_SIZE - 1)];
    /* User and kernel differ in what they may fetch. */
    uint64_t tag = (va & ~(PAGE_SIZE - 1)) | v->asid;
    uint64_t user = v->cpl == 3 ? 1ull << 63 : 0;
    uint64_t key = (tag & ~(1ull << 63)) | user;
    if (t->tag == key) {
        *ram = t->ram;
        *offset = t->offset + (va & (PAGE_SIZE - 1));
        *global = t->global;
        return 0;
    }
    struct walk w;
    int r = walk(v, va, ACCESS_FETCH, &w);
    if (r)
        return r;
    struct place p;
    place_find(v, w.gpa, &p);
    *ram = p.hva ? p.ram : NULL;
    *offset = p.offset;
    *global = w.global;
    if (p.hva && p.writable_ram) {
        t->tag = key;
        t->ram = p.ram;
        t->offset = p.offset & ~(PAGE_SIZE - 1);
        t->global = w.global;
        if (w.page_size > PAGE_SIZE)
            large_note(v, va, w.page_size);
    }
    return 0;
}

/* ---- Watchpoints: the guest's debug registers and the host's debugger ---- */

static void watch_check(struct soft_vcpu *v, uint64_t va, unsigned size, bool write)
{
    for (unsigned n = 0; n < 4; n++) {
        unsigned kind = v->dr7 >> (16 + n * 4) & 3, code = v->dr7 >> (18 + n * 4) & 3;
        unsigned len = code == 2 ? 8 : code + 1;
        if (!(v->dr7 >> (n * 2) & 3) || kind == DEBUG_EXEC || (kind == DEBUG_WRITE && !write))
            continue;
        if (ranges_overlap(va, size, v->dr[n] & ~(uint64_t)(len - 1), len))
            v->run->dr6_trap |= 1u << n;
    }
    for (unsigned n = 0; n < v->run->point_count; n++) {
        const struct debug_point *p = &v->run->points[n];
        if (p->kind != DEBUG_EXEC && (write || p->kind == DEBUG_ACCESS) &&
            ranges_overlap(va, size, p->gva, p->len))
            v->run->host_hit = (int)n;
    }
}

/* ---- Accesses that missed the fast path ---- */

/* Each vCPU finds its own local APIC where APIC_BASE says, whatever the address map has there. */
static bool apic_load(struct soft_vcpu *v, uint64_t gpa, void *out, unsigned size)
{
    if (!lapic_is_at(&v->lapic, gpa))
        return false;
    uint32_t value = lapic_mmio_read(&v->lapic, (uint32_t)(gpa & (PAGE_SIZE - 1)), size,
                                     guest_now_ns(machine_of(v)));
    memset(out, 0, size);
    memcpy(out, &value, size < 4 ? size : 4);
    return true;
}

static bool apic_store(struct soft_vcpu *v, uint64_t gpa, const void *data, unsigned size)
{
    if (!lapic_is_at(&v->lapic, gpa))
        return false;
    uint32_t value = 0;
    memcpy(&value, data, size < 4 ? size : 4);
    lapic_mmio_write(&v->lapic, (uint32_t)(gpa & (PAGE_SIZE - 1)), size, value,
                     guest_now_ns(machine_of(v)));
    vcpu_lapic_changed(v);
    return true;
}

/* The bus is asked in the largest natural pieces. */
static unsigned bus_piece(unsigned size)
{
    return size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
}

static void bytes_load(void *out, const uint8_t *from, unsigned size)
{
    switch (size) {
    case 1: *(uint8_t *)out = *(const volatile uint8_t *)from; break;
    case 2: *(uint16_t *)out = *(const volatile uint16_t *)from; break;
    case 4: *(uint32_t *)out = *(const volatile uint32_t *)from; break;
    case 8: *(uint64_t *)out = *(const volatile uint64_t *)from; break;
    default: memcpy(out, from, size);
    }
}

static void place_load(struct soft_vcpu *v, const struct place *p, void *out, unsigned size)
{
    if (!p->hva) {
        counter_add_one(&v->run->mmio);
        if (apic_load(v, p->gpa, out, size))
            return;
        uint8_t *to = out;
        uint64_t gpa = p->gpa;
        while (size) {
            unsigned n = bus_piece(size);
            uint64_t value = bus_read(machine_of(v), SPACE_MEMORY, gpa, n);
            memcpy(to, &value, n);
            to += n;
            gpa += n;
            size -= n;
        }
        return;
    }
    bytes_load(out, p->hva, size);
}

/* RAM is about to be written: its page is a dirty one if somebody asks. */
static void place_dirty(const struct place *p)
{
    if (atomic_load(&p->ram->dirty_log))
        atomic_fetch_or(&p->ram->page_flags[p->offset >> PAGE_SHIFT], RAM_PAGE_DIRTY);
}

static bool place_has_code(const struct place *p)
{
    return atomic_load(&p->ram->page_flags[p->offset >> PAGE_SHIFT]) & RAM_PAGE_CODE;
}

static void bytes_store(uint8_t *to, const void *data, unsigned size)
{
    switch (size) {
    case 1: *(volatile uint8_t *)to = *(const uint8_t *)data; break;
    case 2: *(volatile uint16_t *)to = *(const uint16_t *)data; break;
    case 4: *(volatile uint32_t *)to = *(const uint32_t *)data; break;
    case 8: *(volatile uint64_t *)to = *(const uint64_t *)data; break;
    default: memcpy(to, data, size);
    }
}

static void place_store(struct soft_vcpu *v, const struct place *p, const void *data, unsigned size)
{
    if (!p->hva || !p->writable_ram) {
        counter_add_one(&v->run->mmio);
        if (apic_store(v, p->gpa, data, size))
            return;
        const uint8_t *from = data;
        uint64_t gpa = p->gpa;
        while (size) {
            unsigned n = bus_piece(size);
            uint64_t value = 0;
            memcpy(&value, from, n);
            bus_write(machine_of(v), SPACE_MEMORY, gpa, n, value);
            from += n;
            gpa += n;
            size -= n;
        }
        /* The write may have changed the address map (a flash chip that now gives its status): the
         * next instruction of this block shall see that already. */
        if (atomic_load(&v->request) & REQ_FLUSH)
            tlb_flush(v);
        return;
    }
    place_dirty(p);
    bytes_store(p->hva, data, size);
    if (place_has_code(p))
        code_written(soft_engine_of(v), p->ram, p->offset, size);
}

/* How much of [va, va + size) lies in va's page. */
static unsigned head_size(uint64_t va, unsigned size)
{
    uint64_t left = PAGE_SIZE - (va & (PAGE_SIZE - 1));
    return left < size ? (unsigned)left : size;
}

/* SDM vol. 3A 6.15, table 6-7. Ten bytes count as eight, 32 as 16; areas of several fields are not
 * checked, as on AMD's CPUs. */
static bool misaligned(uint64_t va, unsigned size)
{
    unsigned align = size == 10 ? 8 : size == 32 ? 16 : size;
    return align <= 16 && !(align & (align - 1)) && va & (align - 1) && is_canonical(va);
}

/* Where [va, va + size) is: `head` bytes in its first page, the others, if any, in the second. */
struct span {
    struct place first, second;
    unsigned head;
};

/* Raises whatever an access to all of it would. That its end is no address comes before a fault of
 * the first page. */
static int span_find(struct soft_vcpu *v, uint64_t va, unsigned size, enum access access,
                     struct span *s)
{
    if (alignment_is_checked(v) && misaligned(va, size))
        return raise_error(v, EXC_AC, 0);
    s->head = head_size(va, size);
    if (s->head < size && v->long_mode && !is_canonical(va + size - 1))
        return raise_noncanonical(v);
    int r = translate(v, va, access, &s->first);
    return r || s->head == size ? r : translate(v, linear(v, va + s->head), access, &s->second);
}

int gva_load(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    va = linear(v, va);
    const uint8_t *hit = tlb_hit(tlb_slot(v, va), tlb_slot(v, va)->read, va, size);
    if (hit) { /* descriptors, above all */
        bytes_load(out, hit, size);
        return 0;
    }
    struct span s;
    int r = span_find(v, va, size, ACCESS_READ, &s);
    if (r)
        return r;
    if (unlikely(v->run->watch))
        watch_check(v, va, size, false);
    place_load(v, &s.first, out, s.head);
    if (s.head < size)
        place_load(v, &s.second, (uint8_t *)out + s.head, size - s.head);
    return 0;
}

/* A store to a page that has a store tag, or that only its code keeps from having one. */
static bool store_by_tag(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    const struct tlb_entry *e = tlb_slot(v, va);
    uint8_t *to = tlb_hit(e, e->write, va, size);
    if (to) {
        bytes_store(to, data, size);
        return true;
    }
    to = tlb_hit(e, e->read, va, size);
    struct code_page *p = e->write == e->read ? NULL : tlb_code_page(e->write);
    if (!to || !p)
        return false;
    bytes_store(to, data, size);
    code_stored(v, p, va & (PAGE_SIZE - 1), size);
    return true;
}

int gva_store(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    va = linear(v, va);
    if (store_by_tag(v, va, data, size))
        return 0;
    struct span s;
    int r = span_find(v, va, size, ACCESS_WRITE, &s);
    if (r)
        return r;
    if (unlikely(v->run->watch))
        watch_check(v, va, size, true);
    place_store(v, &s.first, data, s.head);
    if (s.head < size)
        place_store(v, &s.second, (const uint8_t *)data + s.head, size - s.head);
    return 0;
}

int gva_probe_write(struct soft_vcpu *v, uint64_t va, unsigned size)
{
    struct span s;
    return span_find(v, linear(v, va), size, ACCESS_WRITE, &s);
}

int gva_load_slow(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    va = linear(v, va);
    tlb_refill(v, va, ACCESS_READ);
    return gva_load(v, va, out, size);
}
int gva_store_slow(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    va = linear(v, va);
    tlb_refill(v, va, ACCESS_WRITE);
    return gva_store(v, va, data, size);
}

int gva_load_system(struct soft_vcpu *v, uint64_t va, void *out, unsigned size)
{
    unsigned mode = v->tlb_mode;
    table_borrow(v, v->ac[0].mode);
    int r = gva_load(v, va, out, size);
    table_select(v, mode);
    return r;
}

int gva_store_system(struct soft_vcpu *v, uint64_t va, const void *data, unsigned size)
{
    unsigned mode = v->tlb_mode;
    table_borrow(v, v->ac[0].mode);
    int r = gva_store(v, va, data, size);
    table_select(v, mode);
    return r;
}

int rmw_begin_slow(struct soft_vcpu *v, uint64_t va, unsigned size, struct rmw *r)
{
    va = linear(v, va);
    struct span s;
    int fault = span_find(v, va, size, ACCESS_WRITE, &s);
    if (fault)
        return fault;
    r->va = va;
    r->size = size;
    r->code = NULL;
    if (unlikely(v->run->watch))
        watch_check(v, va, size, true);
    const struct place *p = &s.first;
    if (p->hva && p->writable_ram && s.head == size) {
        place_dirty(p);
        r->p = p->hva;
        r->direct = true;
        if (place_has_code(p)) {
            r->code = p->ram;
            r->offset = p->offset;
        }
        return 0;
    }
    r->p = r->copy;
    r->direct = false;
    return gva_load(v, va, r->copy, size);
}

void rmw_end_slow(struct soft_vcpu *v, struct rmw *r)
{
    if (r->direct)
        code_written(soft_engine_of(v), r->code, r->offset, r->size);
    else /* translated just now: only another vCPU can have unmapped it */
        gva_store(v, r->va, r->copy, r->size);
}

/* ---- Effective addresses outside plain 64-bit addressing ---- */

uint64_t ea_indexed(const struct soft_vcpu *v, const struct insn *i, uint64_t index)
{
    uint64_t offset = v->gpr[i->base] + (index << i->scale) + (uint64_t)insn_disp(i);
    return offset & size_mask(i->asize);
}

/* Segment limit and type checks, SDM vol. 3A 5.3 and 5.4; `limit` violations of SS raise #SS. */
int segment_check(struct soft_vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
    if (likely(offset + size <= v->seg_room[write][seg]))
        return 0;
    const struct x86_segment *s = &v->seg[seg];
    unsigned vector = seg == S_SS ? EXC_SS : EXC_GP;
    if (s->attr & SEG_UNUSABLE || !(s->attr & SEG_P))
        return raise_gp(v, 0);
    if (v->cr0 & CR0_PE && !v8086_mode(v)) {
        bool code = s->attr & 8;
        if (write ? code || !(s->attr & 2) : code && !(s->attr & 2))
            return raise_gp(v, 0);
    }
    bool expand_down = (s->attr & 0xc) == 4;
    uint64_t last = offset + size - 1;
    if (expand_down) {
        uint64_t top = s->attr & SEG_DB ? 0xffffffff : 0xffff;
        if (offset <= s->limit || last > top)
            return raise_error(v, (uint8_t)vector, 0);
    } else if (last > s->limit) {
        return raise_error(v, (uint8_t)vector, 0);
    }
    return 0;
}

int segment_linear(struct soft_vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write,
                   uint64_t *va)
{
    if (v->mode == MODE_64) {
        *va = offset + v->seg_base[seg];
        return 0;
    }
    if (size == 0)
        size = 1;
    int r = segment_check(v, seg, offset, size, write);
    if (r)
        return r;
    *va = (offset + v->seg_base[seg]) & 0xffffffff;
    return 0;
}

int ea_slow(struct soft_vcpu *v, const struct insn *i, unsigned size, bool write, uint64_t *va)
{
    return segment_linear(v, i->seg, ea_offset(v, i), size, write, va);
}

/* ---- Stack ---- */

int push(struct soft_vcpu *v, unsigned size, uint64_t value)
{
    uint64_t mask = size_mask(v->stack_size);
    uint64_t sp = (v->gpr[R_SP] - size) & mask;
    uint64_t va = sp;
    int r = 0;
    if (v->mode != MODE_64)
        r = segment_linear(v, S_SS, sp, size, true, &va);
    if (!r)
        r = size == 8   ? store64(v, va, value)
            : size == 4 ? store32(v, va, (uint32_t)value)
                        : store16(v, va, (uint16_t)value);
    if (r)
        return v->exc.vector == EXC_GP && v->mode == MODE_64 ? raise_error(v, EXC_SS, 0) : r;
    v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | sp;
    return 0;
}

int pop(struct soft_vcpu *v, unsigned size, uint64_t *value)
{
    uint64_t mask = size_mask(v->stack_size);
    uint64_t sp = v->gpr[R_SP] & mask;
    uint64_t va = sp, got = 0;
    int r = 0;
    if (v->mode != MODE_64)
        r = segment_linear(v, S_SS, sp, size, false, &va);
    if (!r) {
        uint32_t d = 0;
        uint16_t w = 0;
        if (size == 8)
            r = load64(v, va, &got);
        else if (size == 4)
            r = load32(v, va, &d), got = d;
        else
            r = load16(v, va, &w), got = w;
    }
    if (r)
        return v->exc.vector == EXC_GP && v->mode == MODE_64 ? raise_error(v, EXC_SS, 0) : r;
    *value = got;
    v->gpr[R_SP] = (v->gpr[R_SP] & ~mask) | ((sp + size) & mask);
    return 0;
}
