/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages of RAM that code lies in: which bytes of them, and how every vCPU comes to know.
 *
 * Invariants
 *  1. A page's RAM_PAGE_CODE flag is set before its bytes are read for decoding, and stays while
 * any block lies in it.
 *  2. Once the flag is set, every vCPU other than the marker drops its write tags at its next safe
 * point and publishes the epoch (vcpu_run.acked). A block is put into the cache only if every vCPU
 * that is not parked has acknowledged the page's epoch, and its bytes are still the same then;
 * until then blocks of the page run once and are forgotten. So no store misses a kept block.
 *  3. A granule's bit in its page is set while any kept block lies in it. Setting one is like
 * marking the page, but for the tags, which stay: a new epoch, and blocks are kept only when all
 * vCPUs have acknowledged it, at a point where no store is between its look at the bits and its
 * bytes. So a store that finds the bits of its bytes clear need not look any further.
 */
#ifndef ENGINE_SOFT_CODE_PAGE_H
#define ENGINE_SOFT_CODE_PAGE_H

#include "engine/soft/code_block.h"

struct soft_engine;

/* Aligned, so that a TLB entry can name one in few bits (cpu.h, tlb_code_tag). */
enum {
    PAGE_BUCKETS = 32,
    CODE_PAGE_ALIGN = 64,
    GRANULE_BITS = 3,
    PAGE_GRANULES = PAGE_SIZE >> GRANULE_BITS
};
struct code_page {
    /* A bit for each 8 bytes: code may lie there. All ones at first. A page that is written often
     * goes by its blocks from then on, so that data beside code costs little: invariant 3. Lock for
     * writing; first, and one word more that stays 0: translated code reads 64 bits from any byte.
     */
    _Atomic uint64_t granules[PAGE_GRANULES / 64 + 1];
    struct block *bucket[PAGE_BUCKETS]; /* read without locks */
    struct block *blocks, *cross;
    struct code_page *next; /* code_pages.all; fixed at create, as are ram and offset */
    struct ram *ram;
    uint64_t offset;
    uint32_t epoch;   /* when it was marked, or granules were added */
    uint16_t stores;  /* to the page as a whole so far */
    uint16_t idle;    /* stores since it has no block */
    uint16_t spreads; /* how often other vCPUs had to be told of new granules */
    uint16_t whole;   /* stores since that was too often */
};

enum { CODE_RAMS = 16 }; /* as a machine has */
struct code_pages {
    struct code_page **of[CODE_RAMS]; /* [ram index][page]; lazily made, entries read without
                                         locks */
    struct code_page *all;            /* lock */
    _Atomic uint32_t epoch, drops; /* drops: the newest epoch that wants write tags dropped; lock */
    bool granules;                 /* pages that are written often go by them; fixed at create */
};

/* The page's blocks, or NULL if it never had any. */
static inline struct code_page *code_page_of(const struct code_pages *c, unsigned ram,
                                             uint64_t page)
{
    struct code_page **table = __atomic_load_n(&c->of[ram], __ATOMIC_ACQUIRE);
    return table ? __atomic_load_n(&table[page], __ATOMIC_ACQUIRE) : NULL;
}
static inline struct code_page *code_page_find(const struct code_pages *c, const struct ram *ram,
                                               uint64_t offset)
{
    return code_page_of(c, ram->index, offset >> PAGE_SHIFT);
}

/* May code lie in these bytes? Asked behind a store to them. */
bool code_page_may_hold(const struct code_page *p, unsigned at, unsigned len);

/* ---- Marking; the cache's lock is held ---- */

/* Makes it a code page, invariants 1 and 2. */
struct code_page *code_page_mark(struct soft_vcpu *v, struct ram *ram, uint64_t offset);
/* Code lies where `b` does, in marked pages: invariant 3. Answers whether it may be kept already:
 * whether everybody who might write without being noticed has let go of its pages. */
bool code_pages_take(struct soft_vcpu *v, const struct block *b);
/* It was stored to, and what overlaps is gone; hit: that was something. It may go by its granules
 * from now on, or be a code page no longer. */
void code_page_stored(const struct code_pages *c, struct code_page *p, bool hit);

/* Between two blocks: whatever was checked before is over. On the vCPU's own thread. */
void code_acknowledge(struct soft_vcpu *v);

#endif
