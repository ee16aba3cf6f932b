/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jump cache: linear address -> block, per vCPU, on its own thread. The types are in run.h.
 *
 * Entries of one page lie together, so that INVLPG can clear them; an address has two places, next
 * to each other. All are cleared at once by a new epoch, which the keys tell.
 *
 * Before it, for translated code alone, are the quick tables: one for each address space and mode,
 * so that an address is all that has to be compared. The kernel's has global pages only and is the
 * same for all address spaces.
 *
 * Invariants
 *  1. v->quick goes with the jump keys: its key is one of them, or none that an entry has. Only
 * entries of the jump cache with that key get into its table, and whatever takes an address out of
 * the jump cache takes it out of all tables.
 *  2. A block in an entry has its memory: it is freed only where the jump caches of all vCPUs were
 * cleared. It may be stale, which is asked each time; translated code ends by itself then.
 */
#ifndef ENGINE_SOFT_JUMP_CACHE_H
#define ENGINE_SOFT_JUMP_CACHE_H

#include "engine/soft/run.h"

/* A key: what decoding depends on (CODE_*), the epoch, and the address space. Global pages keep
 * their entries when that changes. */
enum { JUMP_GLOBAL = 1 << 16, EPOCH_SHIFT = 17, EPOCHS = 1 << 15 };

static inline unsigned jump_page(uint64_t va)
{
    return (unsigned)((va ^ va >> JUMP_MIX) >> PAGE_SHIFT) & (JUMP_PAGES - 1);
}

static inline unsigned jump_index(uint64_t va)
{
    return jump_page(va) << JUMP_PAGE_BITS | ((va ^ va >> JUMP_MIX) & ((1u << JUMP_PAGE_BITS) - 1));
}

static inline bool jump_hit(const struct jump_entry *j, uint64_t va, uint64_t key,
                            uint64_t key_global)
{
    return likely(j->va == va && j->block && (j->key == key || j->key == key_global) &&
                  !j->block->stale);
}

/* The block at this linear address, if it is there for the keys set last. */
static inline struct block *jump_find(struct soft_vcpu *v, uint64_t va)
{
    struct jump_entry *j = &v->run->jump[jump_index(va)];
    if (!jump_hit(j, va, v->jump_key, v->jump_key_global))
        j = &v->run->jump[jump_index(va) ^ 1];
    if (!jump_hit(j, va, v->jump_key, v->jump_key_global))
        return NULL;
    j->code = j->block->code;
    return j->block;
}

/* The keys are new: chooses the quick tables for them. */
void quick_select(struct soft_vcpu *v);
/* The block at `va` was found for the keys set last; global: its page is. */
void jump_enter(struct soft_vcpu *v, uint64_t va, struct block *b, bool global);
void jump_cache_clear(struct soft_vcpu *v);
void jump_cache_clear_page(struct soft_vcpu *v, uint64_t va);

#endif
