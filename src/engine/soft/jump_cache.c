/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The jump cache and the quick tables: what changes them. The invariants are in jump_cache.h.
 */
#include "engine/soft/jump_cache.h"

#include <string.h>

/* ---- Quick tables ---- */

static unsigned quick_index(uint64_t va)
{
    return (unsigned)(va ^ va >> QUICK_MIX) & (QUICK_SIZE - 1);
}

static void quick_entry_clear(struct quick_entry *entries, unsigned n)
{
    entries[n] = (struct quick_entry){ .va = n ? 0 : 1 };
}

static void quick_table_clear(struct quick_table *t, uint64_t key)
{
    memset(t, 0, sizeof *t);
    quick_entry_clear(t->entries, 0);
    t->key = key;
}

static struct quick_jumps quick_claim(struct quick_table *t, uint64_t key)
{
    if (t->key != key)
        quick_table_clear(t, key);
    return (struct quick_jumps){ t->entries, key };
}

/* For code whose key changes with CS, at each far call: clearing a table would cost more than it
 * saves. Nothing is entered here. */
static struct quick_table quick_none = { .key = ~0ull, .entries[0].va = 1 };

/* The tables for the keys just set. In 64-bit code for both levels, as a system call only goes from
 * one to the other. */
void quick_select(struct soft_vcpu *v)
{
    if (v->seg_key & CODE_BY_IP) {
        v->quick = (struct quick_jumps){ quick_none.entries, ~0ull };
        return;
    }
    const uint64_t kernel = (uint64_t)CODE_CPL0 << JUMP_KEY_SHIFT;
    struct quick_table *tables = v->run->quick;
    if (!v->cpl || v->mode == MODE_64)
        v->quick_levels[0] = quick_claim(&tables[0], v->jump_key_global | kernel);
    if (v->cpl || v->mode == MODE_64)
        v->quick_levels[1] = quick_claim(&tables[1 + v->run->context], v->jump_key & ~kernel);
    v->quick = v->quick_levels[v->cpl != 0];
}

static void quick_drop(struct quick_entry *entries, uint64_t va)
{
    unsigned n = quick_index(va);
    if (entries[n].va == va)
        quick_entry_clear(entries, n);
}
static void quick_drop_all(struct soft_vcpu *v, uint64_t va)
{
    for (unsigned n = 0; n < ARRAY_LEN(v->run->quick); n++)
        quick_drop(v->run->quick[n].entries, va);
}

/* ---- Jump cache ---- */

static uint32_t jump_epoch(uint64_t key) { return key >> EPOCH_SHIFT & (EPOCHS - 1); }

/* Most pages that are flushed hold data: answers whether this one can have entries. */
static bool jump_seen(struct soft_vcpu *v, uint64_t va, bool now)
{
    uint64_t bit = (va >> PAGE_SHIFT ^ va >> (PAGE_SHIFT + 12)) & (JUMP_SEEN - 1);
    uint64_t *word = &v->run->jump_seen[bit / 64];
    *word |= (uint64_t)now << bit % 64;
    return *word >> bit % 64 & 1;
}

void jump_enter(struct soft_vcpu *v, uint64_t va, struct block *b, bool global)
{
    struct jump_entry *j = &v->run->jump[jump_index(va)],
                      *other = &v->run->jump[jump_index(va) ^ 1];
    quick_drop(v->quick.entries, va); /* it may be the code of a block that was retired */
    if (j->va != va && jump_epoch(j->key) == v->run->jump_epoch) {
        quick_drop_all(v, other->va);
        *other = *j;
    } else if (j->va != va) {
        quick_drop_all(v, j->va);
    }
    jump_seen(v, va, true);
    *j = (struct jump_entry){
        .va = va, .key = global ? v->jump_key_global : v->jump_key, .block = b, .code = b->code
    };
}

void jump_cache_clear(struct soft_vcpu *v)
{
    if (++v->run->jump_epoch == EPOCHS) {
        memset(v->run->jump, 0, sizeof v->run->jump);
        for (unsigned n = 0; n < ARRAY_LEN(v->run->quick); n++)
            v->run->quick[n].key = ~0ull;
        v->run->jump_epoch = 1;
    }
    memset(v->run->jump_seen, 0, sizeof v->run->jump_seen);
    v->jump_key = v->jump_key_global = ~0ull; /* until the next block is looked up */
    for (unsigned n = 0; n < ARRAY_LEN(v->quick_levels); n++) {
        struct quick_jumps *q = &v->quick_levels[n];
        quick_table_clear(CONTAINER_OF(q->entries, struct quick_table, entries[0]), ~0ull);
        q->key = ~0ull;
    }
    v->quick.key = ~0ull;
}

void jump_cache_clear_page(struct soft_vcpu *v, uint64_t va)
{
    struct jump_entry *e = &v->run->jump[jump_page(va) << JUMP_PAGE_BITS];
    if (!jump_seen(v, va, false))
        return;
    for (unsigned n = 0; n < 1u << JUMP_PAGE_BITS; n++)
        if (!((e[n].va ^ va) >> PAGE_SHIFT)) {
            quick_drop_all(v, e[n].va);
            e[n] = (struct jump_entry){ 0 };
        }
}
