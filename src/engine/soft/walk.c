/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Page walks from CR3 down, and the page faults that they end in. */
#include "engine/soft/walk.h"

#include "engine/soft/place.h"
#include "machine/machine.h"

/* ---- Entries ---- */

static inline uint64_t entry_load(const uint8_t *hva, unsigned size)
{
    return size == 8 ? __atomic_load_n((const uint64_t *)hva, __ATOMIC_RELAXED)
                     : __atomic_load_n((const uint32_t *)hva, __ATOMIC_RELAXED);
}

static __attribute__((noinline)) uint64_t entry_look_up(struct soft_vcpu *v, uint64_t gpa,
                                                        unsigned size)
{
    struct place p;
    place_look_up(v, gpa, &p);
    return p.hva ? entry_load(p.hva, size) : bus_read(machine_of(v), SPACE_MEMORY, gpa, size);
}

/* In two, so that of a window's place only hva is ever made. */
static inline uint64_t entry_read(struct soft_vcpu *v, uint64_t gpa, unsigned size)
{
    struct place p;
    return place_find_quick(v, gpa, &p) ? entry_load(p.hva, size) : entry_look_up(v, gpa, size);
}

/* Sets bits, atomically; false if the entry changed under us (walk again). */
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

/* ---- One walk ---- */

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
static int walk_once(struct soft_vcpu *v, uint64_t va, enum access_kind access, unsigned mode,
                     bool set, struct walk *w, uint32_t *error)
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
    }
    w->by_table = pae && level == 1;
    w->table = table;
    w->table_rights = above;
    uint64_t base = e & frame;
    if (!pae && shift == 22)
        base |= (e >> 13 & 0xff) << 32; /* PSE-36 */
    walk_found(v, va, mode, e, base, 1ull << shift, rights, w);
    return WALK_OK;
}

/* Without paging every page is its own. */
static void walk_unpaged(uint64_t va, struct walk *w)
{
    *w = (struct walk){
        .gpa = va & 0xffffffff, .page_size = PAGE_SIZE, .writable = true, .dirty = true
    };
}

/* ---- What others ask for ---- */

static int page_fault(struct soft_vcpu *v, uint64_t va, enum access_kind access, uint32_t error)
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

int walk(struct soft_vcpu *v, uint64_t va, enum access_kind access, struct walk *w)
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

bool walk_quiet(struct soft_vcpu *v, uint64_t va, enum access_kind access, unsigned mode,
                struct walk *w)
{
    uint32_t error;
    if (v->cr0 & CR0_PG)
        return walk_once(v, va, access, mode, false, w, &error) == WALK_OK;
    walk_unpaged(va, w);
    return true;
}
