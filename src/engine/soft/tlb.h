/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The TLB, and whatever else a vCPU remembers of its page tables.
 *
 * Four caches, all of the vCPU's own thread: the tables that loads and stores look into (run->tlbs,
 * one for each address space seen lately and mode), the pages that were last found to run code
 * (run->itlb), the page tables that walks came to last (run->tables), and the last pages of user
 * code (v->last, cpu.h), which translated code fills.
 *
 * Invariants
 *  1. An entry with a read tag is of a whole page of RAM or ROM in one piece, which that mode may
 * read; accessed bits are set.
 *  2. A write tag is the read tag, or tlb_none, or tlb_code_tag, of the same page. It is the read
 * tag only while the mode may write, the guest's dirty bit is set, the page is plain RAM, it holds
 * no code, and it counts as dirty if the host logs that. It is tlb_code_tag if only code is
 * missing.
 *  3. Contexts without a CR3 (~0) may hold anything: their tables are cleared when they get one.
 * itlb and tables are told apart by asids, none of which is given out twice between two flushes.
 *  4. A fault, and each bit to be set, comes of a walk from CR3, never of what is remembered.
 *  5. Whatever takes something from a table, or has user code look into another one, empties the
 * last pages.
 *  6. With a watchpoint no entries are made, and while alignment is checked v->tlb is a table
 * without any: each access comes to mem.c.
 */
#ifndef ENGINE_SOFT_TLB_H
#define ENGINE_SOFT_TLB_H

#include "engine/soft/cpu.h"

struct place;

/* Where the bytes are if the entry's tag (read or write) matches; NULL otherwise. */
static inline uint8_t *tlb_hit(const struct tlb_entry *e, uint64_t tag, uint64_t va, unsigned size)
{
    uint64_t offset = va - tag;
    return likely(offset <= PAGE_SIZE - size) ? (uint8_t *)(uintptr_t)e->host + offset : NULL;
}
static inline struct tlb_entry *tlb_slot(const struct soft_vcpu *v, uint64_t va)
{
    return &v->tlb[va >> PAGE_SHIFT & (TLB_SIZE - 1)];
}

/* ---- What drops translations, and what chooses among them ---- */

void tlb_flush(struct soft_vcpu *v);             /* everything, windows and jump cache included */
void tlb_switch(struct soft_vcpu *v, bool keep); /* CR3 was written; keep: PCID's no-flush bit */
void tlb_flush_page(struct soft_vcpu *v, uint64_t va); /* INVLPG */
void tlb_drop_writes(struct soft_vcpu *v); /* write tags only: code marking, dirty log */
void tlb_drop_writes_of(struct soft_vcpu *v,
                        const _Atomic uint8_t *page_flags); /* of one page of ram */
void tlb_mode_changed(struct soft_vcpu *v); /* CPL, CR0, CR4, EFER or AC changed: choose v->tlb */
/* Around the CPU's own accesses (descriptor tables, TSS), which have a supervisor's rights whatever
 * the CPL. No guest code may run between. _end gets what _begin answered. */
unsigned tlb_system_begin(struct soft_vcpu *v);
void tlb_system_end(struct soft_vcpu *v, unsigned mode);

/* While alignment is checked every access takes the slow path. */
static inline bool alignment_is_checked(const struct soft_vcpu *v)
{
    return unlikely(v->align_check) && v->tlb_mode == TLB_USER;
}

/* ---- What asks them ---- */

/* Where va is, for a load or store: 0, or OP_FAULT with the fault raised. From then on there is an
 * entry of it, if there may be one. */
int tlb_translate(struct soft_vcpu *v, uint64_t va, enum access_kind access, struct place *p);
/* For a miss: makes an entry of what is at hand, as most only want back one that gave way. */
void tlb_refill(struct soft_vcpu *v, uint64_t va, enum access_kind access);
/* Is all of it in one page that loads (stores) may go straight to? Walks the page tables. */
bool tlb_can_open(struct soft_vcpu *v, uint64_t va, unsigned size, bool write);
/* Where instruction bytes at `va` are: ram, offset. OP_FAULT for #PF; *ram NULL: not RAM or ROM.
 * Sets accessed bits. */
int tlb_fetch(struct soft_vcpu *v, uint64_t va, struct ram **ram, uint64_t *offset, bool *global);

#endif
