/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cache of decoded blocks, shared by all vCPUs: keeping, retiring and freeing them.
 *
 * Invariants
 *  1. A store into a code page writes first and then takes the lock and retires what overlaps;
 * decoding reads the bytes and inserts under the same lock. So a block never outlives the bytes it
 * was made of.
 *  2. A retired block's handlers are all op_stale, so that a vCPU inside it leaves at the next
 * instruction boundary; its memory is freed only in a rendezvous after every jump cache was
 * cleared.
 */
#ifndef ENGINE_SOFT_CODE_CACHE_H
#define ENGINE_SOFT_CODE_CACHE_H

#include "engine/soft/code_page.h"
#include "engine/soft/jit.h"

#include <pthread.h>

/* Bases and limits of CS that blocks have been made for: base << 32 | limit, 0 for none. Set once.
 */
enum { CODE_NAMES = 1 << 12 };

struct code_cache {
    pthread_mutex_t lock;
    _Atomic uint64_t names[CODE_NAMES];
    struct code_pages pages;
    uint64_t bytes, retired_bytes; /* lock */
    struct block *retired;         /* lock */
    uint64_t limit,
        limit_most;   /* of bytes; lock. Grows up to limit_most, which is fixed at create */
    uint64_t full_at; /* lock; CPU time of the process when the limit was last reached, ns */
    struct jit jit;   /* lock */
    bool jit_on;      /* fixed at create */
    bool quick;       /* quick tables are used; fixed at create */
    unsigned translate_after; /* times a block is interpreted before; fixed at create */
    uint32_t generation; /* counts what has freed blocks or code; changes in a rendezvous only */
    uint64_t flushes, cold_drops; /* of all that, and of blocks without translation; lock */
    _Atomic bool want_flush; /* over the limit: the next block look-up flushes in a rendezvous */
};

void code_cache_init(struct code_cache *c);
void code_cache_fini(struct code_cache *c);

/* Where a page's blocks that begin at `place` in it are. */
static inline unsigned bucket_of(unsigned place)
{
    return (place ^ place >> 5) & (PAGE_BUCKETS - 1);
}

/* A copy of `b`, from now on found by all. Its pages are settled, the lock is held. */
struct block *block_keep(struct code_cache *c, const struct block *b);
/* Nobody finds it any more, and who is inside leaves: invariant 2. lock held. */
void block_retire(struct code_cache *c, struct block *b);

/* The vCPU has just stored to a page that may hold code. */
void code_stored(struct soft_vcpu *v, struct code_page *p, unsigned at, unsigned len);
/* Retires what overlaps. Any thread. */
void code_written(struct soft_engine *e, struct ram *ram, uint64_t offset, uint64_t len);

/* The cache wants a flush: frees what was retired, and more if it is full. A rendezvous: whatever
 * the vCPU had of blocks and code may be gone. */
void code_reclaim(struct soft_vcpu *v);

#endif
