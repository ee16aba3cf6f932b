/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The cache of decoded blocks: keeping, retiring, the limit. The invariants are in code_cache.h.
 */
#include "engine/soft/code_cache.h"

#include "engine/soft/jump_cache.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- Life and death of the cache ---- */

void code_cache_init(struct code_cache *c) { pthread_mutex_init(&c->lock, NULL); }

static void blocks_free(struct block *blocks)
{
    for (struct block *b = blocks, *next; b; b = next) {
        next = b->page_next;
        free(b);
    }
}

void code_cache_fini(struct code_cache *c)
{
    for (struct code_page *p = c->pages.all, *next; p; p = next) {
        next = p->next;
        blocks_free(p->blocks);
        free(p);
    }
    for (unsigned r = 0; r < ARRAY_LEN(c->pages.of); r++)
        free(c->pages.of[r]);
    blocks_free(c->retired);
    pthread_mutex_destroy(&c->lock);
}

/* ---- Keeping and retiring ---- */

struct block *block_keep(struct code_cache *c, const struct block *b)
{
    struct block *kept = malloc(block_bytes(b->count));
    if (!kept)
        abort();
    memcpy(kept, b, block_bytes(b->count));
    atomic_store(&kept->stale, false);
    struct code_page *p = code_page_of(&c->pages, b->ram, b->page);
    kept->page_next = p->blocks;
    p->blocks = kept;
    if (b->ram2 != NO_RAM) {
        struct code_page *p2 = code_page_of(&c->pages, b->ram2, b->page2);
        kept->cross_next = p2->cross;
        p2->cross = kept;
    }
    struct block **bucket = &p->bucket[bucket_of(kept->place)];
    kept->bucket_next = *bucket;
    __atomic_store_n(bucket, kept, __ATOMIC_RELEASE);
    c->bytes += block_bytes(kept->count);
    if (c->bytes > c->limit)
        atomic_store(&c->want_flush, true);
    return kept;
}

static void unlink_from(struct block **list, struct block *b, size_t next_offset)
{
    while (*list && *list != b)
        list = (struct block **)((char *)*list + next_offset);
    if (*list)
        __atomic_store_n(list, *(struct block **)((char *)b + next_offset), __ATOMIC_RELEASE);
}

void block_retire(struct code_cache *c, struct block *b)
{
    struct code_page *p = code_page_of(&c->pages, b->ram, b->page);
    unlink_from(&p->bucket[bucket_of(b->place)], b, offsetof(struct block, bucket_next));
    unlink_from(&p->blocks, b, offsetof(struct block, page_next));
    if (b->ram2 != NO_RAM) {
        struct code_page *p2 = code_page_of(&c->pages, b->ram2, b->page2);
        unlink_from(&p2->cross, b, offsetof(struct block, cross_next));
    }
    atomic_store(&b->stale, true);
    if (c->jit_on)
        jit_retire(&c->jit, b);
    if (b->loops) { /* who is inside leaves at the next turn */
        struct soft_engine *e = CONTAINER_OF(c, struct soft_engine, code);
        for (unsigned n = 0; n < e->vcpu_count; n++)
            vcpu_request(e->vcpus[n], REQ_SAFE_POINT);
    }
    for (unsigned n = 0; n <= b->count; n++)
        __atomic_store_n(&b->insns[n].fn, op_stale, __ATOMIC_RELEASE);
    b->page_next = c->retired;
    c->retired = b;
    c->bytes -= block_bytes(b->count);
    c->retired_bytes += block_bytes(b->count);
    if (c->retired_bytes > c->limit / 4)
        atomic_store(&c->want_flush, true);
}

/* ---- Stores ---- */

static void page_written(struct code_cache *c, struct ram *ram, uint64_t offset, uint64_t len)
{
    struct code_page *p = code_page_find(&c->pages, ram, offset);
    bool hit = false;
    if (!p)
        return;
    for (struct block *b = p->blocks, *next; b; b = next) {
        next = b->page_next;
        if (ranges_overlap(block_offset(b), b->bytes, offset, len))
            block_retire(c, b), hit = true;
    }
    for (struct block *b = p->cross, *next; b; b = next) {
        next = b->cross_next;
        if (ranges_overlap(block_offset2(b), block_tail(b), offset, len))
            block_retire(c, b), hit = true;
    }
    code_page_stored(&c->pages, p, hit);
}

void code_stored(struct soft_vcpu *v, struct code_page *p, unsigned at, unsigned len)
{
    struct soft_engine *e = soft_engine_of(v);
    if (!code_page_may_hold(p, at, len))
        return;
    LOCKED(&e->code.lock);
    page_written(&e->code, p->ram, p->offset + at, len);
}

void code_written(struct soft_engine *e, struct ram *ram, uint64_t offset, uint64_t len)
{
    LOCKED(&e->code.lock);
    while (len) {
        uint64_t part = PAGE_SIZE - (offset & (PAGE_SIZE - 1));
        if (part > len)
            part = len;
        if (atomic_load(&ram->page_flags[offset >> PAGE_SHIFT]) & RAM_PAGE_CODE)
            page_written(&e->code, ram, offset, part);
        offset += part;
        len -= part;
    }
}

/* ---- The limit; in a rendezvous ---- */

static void cache_free_retired(struct soft_engine *e)
{
    struct block *kept = NULL;
    for (struct block *b = e->code.retired, *next; b; b = next) {
        next = b->page_next;
        bool used = false; /* by a vCPU that waits inside a bus access */
        for (unsigned n = 0; n < e->vcpu_count; n++)
            used |= e->vcpus[n]->run->current == b;
        if (used) {
            b->page_next = kept;
            kept = b;
        } else {
            free(b);
        }
    }
    e->code.retired = kept;
    e->code.retired_bytes = 0;
}

/* All blocks, or those without a translation. */
static void cache_retire(struct code_cache *c, bool cold)
{
    for (struct code_page *p = c->pages.all; p; p = p->next)
        for (struct block *b = p->blocks, *next; b; b = next) {
            next = b->page_next;
            if (!cold || !b->code)
                block_retire(c, b);
        }
}

/*
 * The limit, and the translator's room with it, doubles when it was reached soon: a program that is
 * larger would be decoded and translated anew all the time. Soon is when that costs one part of
 * REFILL_SHARE of the time or more; a byte of the limit takes some REFILL_NS to fill. lock held.
 */
static bool limit_grow(struct code_cache *c)
{
    enum { REFILL_NS = 5, REFILL_SHARE = 20 };
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    const uint64_t before = c->full_at, soon = c->limit * REFILL_NS * REFILL_SHARE;
    c->full_at = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
    if (c->limit == c->limit_most || !before || c->full_at - before > soon)
        return false;
    c->limit = c->limit * 2 < c->limit_most ? c->limit * 2 : c->limit_most;
    if (c->jit_on)
        jit_room_set(&c->jit, c->limit / 2);
    return true;
}

/*
 * Room for what comes, when the cache is over its limit or the translator's. Large programs run
 * most of their code a few times: what was not worth a translation goes first. Answers whether that
 * was not enough and all has to go. lock held.
 */
static bool cache_is_full(struct code_cache *c)
{
    if ((c->bytes <= c->limit && !c->jit.full) || limit_grow(c))
        return false;
    if (c->bytes > c->limit) {
        cache_retire(c, true);
        c->cold_drops++;
    }
    return c->bytes > c->limit - c->limit / 4 || c->jit.full;
}

static void reclaim(void *arg)
{
    struct soft_engine *e = arg;
    struct code_cache *c = &e->code;
    LOCKED(&c->lock);
    const bool all = cache_is_full(c);
    bool inside = false; /* a vCPU that waits in a bus access comes back into translated code */
    if (all) {
        cache_retire(c, false);
        c->flushes++;
    }
    for (unsigned n = 0; n < e->vcpu_count; n++) {
        jump_cache_clear(e->vcpus[n]);
        inside |= e->vcpus[n]->run->in_jit;
    }
    cache_free_retired(e);
    if (all && c->jit_on && !inside)
        jit_reset(&c->jit);
    c->generation++;
    atomic_store(&c->want_flush, false);
}

void code_reclaim(struct soft_vcpu *v)
{
    soft_rendezvous(v->vcpu.engine, reclaim, soft_engine_of(v));
}
