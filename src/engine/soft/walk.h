/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Linear to physical by the guest's page tables, in every paging mode: SDM vol. 3A, chapters 4
 * and 5. For tlb.c, which remembers what a walk finds, and the debugger's view.
 *
 * Invariants
 *  1. A walk asks nothing but the tables in guest memory and the control registers: what was true
 * once is tlb.c's to keep and to drop.
 *  2. Bits in entries are set atomically, and only in the entry that was looked at; if one changed
 * meanwhile, the walk begins anew. All are set before the access happens.
 */
#ifndef ENGINE_SOFT_WALK_H
#define ENGINE_SOFT_WALK_H

#include "engine/soft/run.h"

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

/* What a walk says of an access that is allowed. */
struct walk {
    uint64_t gpa;
    uint64_t page_size; /* PAGE_SIZE without paging, too */
    bool writable, dirty, global;
    /* By which table, if it is one of 512 entries of pages of PAGE_SIZE, and W, U and NX of the
     * entries that lead there */
    bool by_table;
    uint64_t table, table_rights;
};

/* 0, or OP_FAULT with the fault raised. For the vCPU's present mode; accessed and dirty bits are
 * set. */
int walk(struct soft_vcpu *v, uint64_t va, enum access_kind access, struct walk *w);
/* Would the access be allowed in that mode (TLB_*)? Changes nothing. */
bool walk_quiet(struct soft_vcpu *v, uint64_t va, enum access_kind access, unsigned mode,
                struct walk *w);

/* ---- Of one entry: for walks, and for the tables that tlb.c remembers ---- */

/* Bits that have to be clear in entries of eight bytes. */
static inline uint64_t entry_reserved(const struct soft_vcpu *v)
{
    uint64_t allowed = v->run->phys_mask;
    if (v->efer & EFER_NXE)
        allowed |= PTE_NX;
    if (v->long_mode)
        allowed |= 0x7ffull << 52;
    return ~allowed;
}

/* May the page be accessed in that mode? rights: W and U that all entries on the way have; nx: one
 * has NX */
static inline bool walk_allows(const struct soft_vcpu *v, enum access_kind access, unsigned mode,
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

/* What the entry `e` of a page at `base` says of an access that is allowed: all but the table. */
static inline void walk_found(const struct soft_vcpu *v, uint64_t va, unsigned mode, uint64_t e,
                              uint64_t base, uint64_t page_size, uint64_t rights, struct walk *w)
{
    w->page_size = page_size;
    w->gpa = (base & ~(page_size - 1)) | (va & (page_size - 1));
    w->writable = rights & PTE_W || (mode != TLB_USER && !(v->cr0 & CR0_WP));
    w->dirty = e & PTE_D;
    w->global = e & PTE_G && v->cr4 & CR4_PGE;
}

#endif
